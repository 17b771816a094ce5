//! What was acknowledged, and lost by a restart from an old snapshot or a failover, is done again.

use std::time::{Duration, Instant};

use axum_signout::store::{
    Created, Generation, Lookup, RedisTokenStore, Registered, Removal, Replaced, RevokeRule,
    Started, Target, TokenStore,
};
use axum_signout::testing::store_contract::{account, locator};
use axum_signout::{AccountHash, Cause, Locator, OperationId, Selector};

use super::world::{entry, is_live, removal, selector, sign_in};
use crate::support::redis::{RedisCluster, RedisServer, Replicated, Snapshots};

fn node(server: &RedisServer) -> RedisTokenStore {
    RedisTokenStore::builder(server.url()).build().unwrap()
}

async fn now(store: &RedisTokenStore) -> Started {
    Started {
        at: Some(store.now().await.unwrap()),
        id_token_iat: None,
    }
}

/// Whether a sign-in that started then still comes in.
async fn comes_in(store: &RedisTokenStore, account: &AccountHash, started: &Started) -> bool {
    let mut late = entry("late");
    late.selectors = [].into();
    let removal = removal(Cause::Capacity);
    let created = store
        .create(&locator(account), late.into(), started, &removal)
        .await;
    matches!(created.unwrap(), Created::Done { .. })
}

async fn evict(store: &RedisTokenStore, target: Target, removal: &Removal) -> usize {
    store.remove(&target, removal).await.unwrap().len()
}

pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_sign_out_that_an_old_snapshot_undid_is_done_again_before_anything_else_a2() {
    let mut redis = Snapshots::start().await;
    let here = node(redis.server());
    let ann = sign_in(&here, &account(1), entry("ann")).await;
    let other = sign_in(&here, &account(1), entry("other")).await;
    let stays = sign_in(&here, &account(2), entry("stays")).await;
    redis.save();
    let target = Target::SignIn(ann.address);
    assert_eq!(evict(&here, target, &removal(Cause::UserSignOut)).await, 1);
    let target = Target::Account(account(1));
    let everywhere = removal(Cause::SignOutEverywhere);
    assert_eq!(evict(&here, target, &everywhere).await, 1);
    redis.restart().await;
    let there = node(redis.server());
    assert!(is_live(&there, &ann).await, "the snapshot has it");

    // Whatever this node is asked for.
    here.now().await.unwrap();
    for store in [&here, &there] {
        assert!(!is_live(store, &ann).await && !is_live(store, &other).await);
        assert!(is_live(store, &stays).await);
        assert_eq!(store.list(&account(1)).await.unwrap(), []);
        assert_eq!(store.members(&selector()).await.unwrap(), [stays.address]);
    }
    let gone = here.get(&ann.address).await.unwrap();
    assert!(matches!(gone, Lookup::Gone(Some(Cause::UserSignOut))));
    // Their tokens wait to be revoked again, and whoever repeats the call is told what it was told.
    assert_eq!(here.stats().await.unwrap().outbox, 2);
    let again = evict(&there, Target::SignIn(ann.address), &everywhere).await;
    assert_eq!(again, 0, "hooks are not told twice");
}

#[tokio::test]
async fn who_signed_in_after_a_sign_out_everywhere_stays_when_it_is_replayed_a2() {
    let mut redis = Snapshots::start().await;
    let here = node(redis.server());
    let ann = sign_in(&here, &account(1), entry("ann")).await;
    let kept = sign_in(&here, &account(3), entry("kept")).await;
    let left = sign_in(&here, &account(3), entry("left")).await;
    let before = now(&here).await;
    redis.save();
    evict(
        &here,
        Target::Account(account(1)),
        &removal(Cause::Operator),
    )
    .await;
    let others = Target::AccountExcept(account(3), kept.address.id);
    evict(&here, others, &removal(Cause::SignOutOthers)).await;
    let after = now(&here).await;
    redis.restart().await;
    // Another node is served first.
    let there = node(redis.server());
    let new = sign_in(&there, &account(1), entry("new")).await;
    let beside = sign_in(&there, &account(3), entry("beside")).await;

    here.now().await.unwrap();
    assert!(!is_live(&there, &ann).await && !is_live(&there, &left).await);
    for stays in [&new, &kept, &beside] {
        assert!(is_live(&there, stays).await);
    }
    for number in [1, 3] {
        assert!(!comes_in(&there, &account(number), &before).await);
        assert!(comes_in(&there, &account(number), &after).await);
    }
}

#[tokio::test]
async fn a_closing_that_was_undone_refuses_again_who_started_before_it_a2() {
    let mut redis = Snapshots::start().await;
    let here = node(redis.server());
    let before = now(&here).await;
    redis.save();
    let closing = Removal {
        logout_iat: Some(1000),
        ..removal(Cause::BackChannel)
    };
    here.close(&selector(), &closing).await.unwrap();
    let after = now(&here).await;
    redis.restart().await;
    here.now().await.unwrap();
    let there = node(redis.server());
    let address = locator(&account(1)).address;
    for (started, iat, expected) in [
        (before, None, Registered::Refused),
        (before, Some(1000), Registered::Refused),
        (before, Some(1001), Registered::Done),
        (after, None, Registered::Done),
    ] {
        let started = Started {
            id_token_iat: iat,
            ..started
        };
        let registered = there.register(&selector(), &address, &started).await;
        assert_eq!(registered.unwrap(), expected, "{started:?}");
    }
}

#[tokio::test]
async fn a_repeated_sign_out_is_replayed_with_the_time_of_the_first() {
    let mut redis = Snapshots::start().await;
    let here = node(redis.server());
    let ann = sign_in(&here, &account(1), entry("ann")).await;
    let everywhere = removal(Cause::SignOutEverywhere);
    evict(&here, Target::Account(account(1)), &everywhere).await;
    let new = sign_in(&here, &account(1), entry("new")).await;
    redis.save();
    // Another node, which had no answer, repeats what this one began.
    let there = node(redis.server());
    assert_eq!(
        evict(&there, Target::Account(account(1)), &everywhere).await,
        1
    );
    redis.server().cli(&["FLUSHALL"]);
    redis.restart().await;
    there.now().await.unwrap();
    assert!(is_live(&there, &new).await);
    assert!(!is_live(&there, &ann).await);
}

#[tokio::test]
async fn tokens_that_were_refreshed_are_not_set_back_to_those_that_are_spent_r28() {
    let mut redis = Snapshots::start().await;
    let here = node(redis.server());
    let ann = sign_in(&here, &account(1), entry("one")).await;
    let bob = sign_in(&here, &account(1), entry("one")).await;
    redis.save();
    let refresh = async |of: &Locator, generation: u64, name: &str| {
        let operation = OperationId::random();
        let new = entry(name).into();
        let done = here.replace_if(&of.address, Generation(generation), new, operation);
        assert_eq!(
            done.await.unwrap(),
            Replaced::Done(Generation(generation + 1))
        );
    };
    refresh(&ann, 1, "two").await;
    refresh(&ann, 2, "three").await;
    refresh(&bob, 1, "two").await;
    evict(
        &here,
        Target::SignIn(bob.address),
        &removal(Cause::UserSignOut),
    )
    .await;
    redis.restart().await;
    here.now().await.unwrap();
    let there = node(redis.server());
    let stored = there.get(&ann.address).await.unwrap().live().unwrap();
    assert_eq!(stored.generation, Generation(3));
    let token = stored.entry.tokens.refresh_token().unwrap();
    assert_eq!(token.secret(), "refresh three");
    assert!(!is_live(&there, &bob).await);
}

#[tokio::test]
async fn a_node_that_nobody_asks_replays_all_the_same_a6() {
    let mut redis = Snapshots::start().await;
    let here = node(redis.server());
    let ann = sign_in(&here, &account(1), entry("ann")).await;
    redis.save();
    evict(
        &here,
        Target::SignIn(ann.address),
        &removal(Cause::UserSignOut),
    )
    .await;
    redis.restart().await;
    let there = node(redis.server());
    assert!(is_live(&there, &ann).await);
    until("nobody replayed", async || !is_live(&there, &ann).await).await;
}

/// The connection of the store's scripts.
fn cut_off(server: &RedisServer) {
    let clients = server.cli(&["CLIENT", "LIST"]);
    let ours = clients.lines().find(|client| client.contains("cmd=eval"));
    let ours = ours.and_then(|client| {
        client
            .split(' ')
            .find_map(|field| field.strip_prefix("id="))
    });
    server.cli(&["CLIENT", "KILL", "ID", ours.expect("the store's")]);
}

/// A sign-out everywhere whose mark ends at once.
fn soon_forgotten() -> Removal {
    Removal {
        mark_for: Duration::from_millis(1),
        ..removal(Cause::SignOutEverywhere)
    }
}

#[tokio::test]
async fn an_interruption_costs_reads_only() {
    let server = RedisServer::start().await;
    let here = node(&server);
    for n in 0..3 {
        let ann = sign_in(&here, &account(n), entry("ann")).await;
        evict(
            &here,
            Target::SignIn(ann.address),
            &removal(Cause::UserSignOut),
        )
        .await;
    }
    // Of one nothing is left, another has come again, and of the third one stays.
    for n in 3..6 {
        let kept = sign_in(&here, &account(n), entry("ann")).await;
        let target = match n {
            5 => Target::AccountExcept(account(n), kept.address.id),
            _ => Target::Account(account(n)),
        };
        sign_in(&here, &account(n), entry("other")).await;
        evict(&here, target, &soon_forgotten()).await;
    }
    sign_in(&here, &account(4), entry("new")).await;
    cut_off(&server);
    let commands = server.commands_of(async { drop(here.now().await) }).await;
    let writes = commands.iter().filter(|command| command.contains("EVAL"));
    assert_eq!(writes.count(), 0, "{commands:?}");
    let reads = commands.iter().filter(|command| command.contains("HMGET"));
    assert_eq!(reads.count(), 6 + 2, "{commands:?}");
}

#[tokio::test]
async fn a_sign_out_everywhere_whose_mark_has_ended_is_done_again_where_it_was_lost_a2() {
    let mut redis = Snapshots::start().await;
    let here = node(redis.server());
    let ann = sign_in(&here, &account(1), entry("ann")).await;
    let kept = sign_in(&here, &account(2), entry("kept")).await;
    let left = sign_in(&here, &account(2), entry("left")).await;
    redis.save();
    evict(&here, Target::Account(account(1)), &soon_forgotten()).await;
    let others = Target::AccountExcept(account(2), kept.address.id);
    evict(&here, others, &soon_forgotten()).await;
    redis.restart().await;
    let there = node(redis.server());
    assert!(is_live(&there, &ann).await && is_live(&there, &left).await);
    here.now().await.unwrap();
    assert!(!is_live(&there, &ann).await && !is_live(&there, &left).await);
    assert!(is_live(&there, &kept).await);
}

#[tokio::test]
async fn a_sign_out_that_a_failover_lost_is_done_again_before_the_node_serves_a2() {
    let mut redis = Replicated::start().await;
    let node = || {
        let node = RedisTokenStore::sentinel([redis.sentinel.url()], "main");
        node.build().unwrap()
    };
    let (here, there) = (node(), node());
    let ann = sign_in(&here, &account(1), entry("ann")).await;
    let before = now(&here).await;
    assert_eq!(redis.master().cli(&["WAIT", "1", "10000"]), "1");
    redis.master().stop_replicating();
    let target = Target::Account(account(1));
    assert_eq!(evict(&here, target, &removal(Cause::Operator)).await, 1);
    redis.fail_over().await;
    assert_eq!(
        redis.replica.cli(&["EXISTS", &account_key(&ann)]),
        "1",
        "the replica did not hear of it"
    );
    // A connection that could not be made is not tried again at once.
    until("it reconnects", async || here.now().await.is_ok()).await;
    assert!(!is_live(&here, &ann).await);
    assert!(!is_live(&there, &ann).await);
    assert!(!comes_in(&there, &account(1), &before).await);
}

fn account_key(locator: &Locator) -> String {
    let account = locator.address.account;
    format!(
        "axum-signout:{{{:02x}}}:account:{account}",
        account.bucket()
    )
}

#[tokio::test]
async fn in_a_cluster_a_node_honours_what_it_evicted_at_once_and_the_others_soon_after_a2_a6() {
    let cluster = RedisCluster::start().await;
    let node = || RedisTokenStore::cluster(cluster.urls()).build().unwrap();
    let (here, there) = (node(), node());
    let master = &cluster.masters()[0];
    let replica = cluster.replica_of(master).await;
    let mut ann = Vec::new();
    for n in 0..30 {
        ann.push(sign_in(&here, &account(n), entry("ann")).await);
    }
    let before = now(&here).await;
    assert_eq!(master.cli(&["WAIT", "1", "10000"]), "1");
    master.stop_replicating();
    for n in 0..30 {
        let target = Target::Account(account(n));
        assert_eq!(evict(&here, target, &removal(Cause::Operator)).await, 1);
    }
    let mut closed = Vec::new();
    for n in 0..30 {
        let sid = Selector::sid("https://login.example.com", "app", &n.to_string());
        here.close(&sid, &removal(Cause::BackChannel))
            .await
            .unwrap();
        let mark = format!(":selector:mark:{sid}");
        if master.keys().iter().any(|key| key.ends_with(&mark)) {
            closed.push(sid);
        }
    }
    assert!(closed.len() > 3, "{closed:?}");
    let keys = master.keys();
    let lost: Vec<&Locator> = ann
        .iter()
        .filter(|one| keys.contains(&account_key(one)))
        .collect();
    assert!(lost.len() > 3, "{keys:?}");
    assert_eq!(replica.cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    until("nobody replayed", async || {
        let mut gone = true;
        for one in &lost {
            let account = one.address.account;
            assert!(!is_live(&here, one).await, "this node knows better");
            assert!(here.list(&account).await.unwrap().is_empty());
            assert!(!comes_in(&here, &account, &before).await);
            gone &= !is_live(&there, one).await;
        }
        for sid in &closed {
            let address = locator(&account(99)).address;
            let registered = here.register(sid, &address, &before).await;
            assert_eq!(registered.unwrap(), Registered::Refused);
        }
        gone && master.cli(&["INFO", "replication"]).contains("role:slave")
    })
    .await;
    for one in &lost {
        assert!(!comes_in(&there, &one.address.account, &before).await);
    }
    for sid in &closed {
        let registered = there.register(sid, &ann[0].address, &before).await;
        assert_eq!(registered.unwrap(), Registered::Refused);
    }
}

/// The same account as it is now, under another name, and back again: as a restart from an old snapshot would have it.
fn aside(server: &RedisServer, locator: &Locator) -> [String; 2] {
    let key = account_key(locator);
    let kept = format!("{key}:aside");
    assert_eq!(server.cli(&["COPY", &key, &kept]), "1");
    [kept, key]
}

fn put_back(server: &RedisServer, [kept, key]: &[String; 2]) {
    assert_eq!(server.cli(&["COPY", kept, key, "REPLACE"]), "1");
}

#[tokio::test]
async fn what_redis_refuses_to_do_again_holds_here_and_is_done_when_it_does_not_a2() {
    let server = RedisServer::start().await;
    let (here, there) = (node(&server), node(&server));
    let ann = sign_in(&here, &account(1), entry("ann")).await;
    let before = now(&here).await;
    let old = aside(&server, &ann);
    let target = Target::Account(account(1));
    assert_eq!(evict(&here, target, &removal(Cause::Operator)).await, 1);
    put_back(&server, &old);
    cut_off(&server);
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    here.now().await.unwrap();
    assert!(is_live(&there, &ann).await, "it is refused");
    assert!(!is_live(&here, &ann).await);
    assert_eq!(here.list(&account(1)).await.unwrap(), []);
    assert!(!comes_in(&here, &account(1), &before).await);
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    until("nobody replayed", async || !is_live(&there, &ann).await).await;
}

/// Those of the accounts that lie on this master, and the others.
fn by_master(master: &RedisServer, all: Vec<Locator>) -> (Vec<Locator>, Vec<Locator>) {
    let keys = master.keys();
    all.into_iter()
        .partition(|one| keys.contains(&account_key(one)))
}

#[tokio::test]
async fn a_master_that_stands_still_keeps_no_account_of_another_from_being_served() {
    let cluster = RedisCluster::start().await;
    for master in cluster.masters() {
        master.cli(&["CONFIG", "SET", "cluster-require-full-coverage", "no"]);
    }
    let store = RedisTokenStore::cluster(cluster.urls());
    let store = store.timeout(Duration::from_millis(500)).build().unwrap();
    let mut all = Vec::new();
    for n in 0..24 {
        let mut entry = entry("ann");
        entry.selectors = [].into();
        all.push(sign_in(&store, &account(n), entry).await);
        let gone = Target::SignIn(locator(&account(n)).address);
        evict(&store, gone, &removal(Cause::UserSignOut)).await;
    }
    let silent = &cluster.masters()[0];
    let (away, others) = by_master(silent, all);
    assert!(!away.is_empty() && !others.is_empty());
    let _paused = silent.pause();
    for (one, other) in away.iter().cycle().zip(&others) {
        assert!(store.load(std::slice::from_ref(one)).await.is_err());
        assert!(is_live(&store, other).await);
        let removal = Removal {
            revoke: RevokeRule::Nothing,
            ..removal(Cause::UserSignOut)
        };
        let target = Target::Account(other.address.account);
        assert_eq!(evict(&store, target, &removal).await, 1);
        assert!(!is_live(&store, other).await);
    }
}
