//! What nodes tell each other over Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_signout::clock::ManualClock;
use axum_signout::store::{
    Generation, RedisTokenStore, RedisTokenStoreBuilder, Removal, RevokeRule, Started, Target,
    TokenStore,
};
use axum_signout::testing::store_contract::{account, locator};
use axum_signout::{AccountHash, Address, Cause, Locator, OperationId, SessionKey};

use super::ear::{Ear, Told};
use super::world::{derived, entry, is_live, removal, sign_in};
use crate::support::redis::{RedisCluster, RedisServer, free_port};

const HOUR: Duration = Duration::from_secs(3600);

/// Sign-ins of an account.
const MOST: usize = 4;

/// One node changes things, another one hears of them.
struct Nodes {
    acts: RedisTokenStore,
    ear: Ear,
    clock: Arc<ManualClock>,
    /// Holds the subscription.
    _hears: RedisTokenStore,
}

impl Nodes {
    async fn new(builder: impl Fn() -> RedisTokenStoreBuilder, masters: usize) -> Self {
        let clock = Arc::new(ManualClock::new());
        let build = || builder().clock(clock.clone()).build().unwrap();
        let (acts, hears) = (build(), build());
        let ear = Ear::of(&hears, masters).await;
        Self {
            acts,
            ear,
            clock,
            _hears: hears,
        }
    }

    async fn remove(&self, target: Target, cause: Cause) {
        self.acts.remove(&target, &removal(cause)).await.unwrap();
    }

    async fn sign_in(&self, account: &AccountHash) -> Locator {
        sign_in(&self.acts, account, entry("ann")).await
    }

    /// Everything that was told up to now of one account.
    async fn told(&mut self, account: &AccountHash) -> Vec<Told> {
        let last = self.sign_in(account).await.address;
        self.remove(Target::SignIn(last), Cause::Operator).await;
        let last = Told::Ended(last, Cause::Operator);
        let mut told = self.ear.until(last).await;
        told.pop();
        told
    }
}

async fn new_key(store: &RedisTokenStore, locator: &Locator) {
    let mut bytes = *SessionKey::hash(&locator.key).as_bytes();
    bytes[0] ^= 1;
    let key = axum_signout::KeyHash::from_bytes(bytes);
    assert!(store.rekey(locator, &key).await.unwrap());
}

fn ended(locators: &[&Locator], cause: Cause) -> Vec<Told> {
    let of = |locator: &&Locator| Told::Ended(locator.address, cause);
    locators.iter().map(of).collect()
}

/// Every script that makes a copy of a sign-in stale, and those that do not.
async fn every_change_is_told(nodes: &mut Nodes, whose: &AccountHash) {
    // Nothing that is new, used, looked at or derived.
    let one = nodes.sign_in(whose).await;
    nodes.acts.touch(&one.address).await.unwrap();
    assert!(is_live(&nodes.acts, &one).await);
    nodes
        .acts
        .put_downstream(&one.address, derived("ann"))
        .await
        .unwrap();
    nodes.acts.list(whose).await.unwrap();
    assert_eq!(nodes.told(whose).await, []);

    let replaced = Arc::new(entry("ann"));
    let operation = OperationId::random();
    let replace = nodes
        .acts
        .replace_if(&one.address, Generation::FIRST, replaced, operation);
    replace.await.unwrap();
    assert_eq!(nodes.told(whose).await, [Told::Changed(one.address)]);
    new_key(&nodes.acts, &one).await;
    assert_eq!(nodes.told(whose).await, [Told::Changed(one.address)]);

    let at = Target::SignInAt(one.address, Generation::FIRST);
    nodes.remove(at, Cause::RefreshRejected).await;
    assert_eq!(nodes.told(whose).await, [], "it has another generation");
    let at = Target::SignInAt(one.address, Generation::FIRST.next());
    nodes.remove(at, Cause::RefreshRejected).await;
    assert_eq!(
        nodes.told(whose).await,
        ended(&[&one], Cause::RefreshRejected)
    );
    // The call again, and another one: who was told hears it once.
    nodes.remove(at, Cause::RefreshRejected).await;
    nodes
        .remove(Target::SignIn(one.address), Cause::UserSignOut)
        .await;
    assert_eq!(nodes.told(whose).await, []);

    let (one, two) = (nodes.sign_in(whose).await, nodes.sign_in(whose).await);
    let but = Target::AccountExcept(*whose, two.address.id);
    nodes.remove(but, Cause::SignOutOthers).await;
    assert_eq!(
        nodes.told(whose).await,
        ended(&[&one], Cause::SignOutOthers)
    );
    let three = nodes.sign_in(whose).await;
    nodes
        .remove(Target::Account(*whose), Cause::SignOutEverywhere)
        .await;
    let all = ended(&[&two, &three], Cause::SignOutEverywhere);
    assert_eq!(nodes.told(whose).await, all);

    // One too many for the account.
    let mut held = Vec::new();
    for _ in 0..=MOST {
        nodes.clock.advance(Duration::from_secs(1));
        held.push(nodes.sign_in(whose).await);
    }
    let told = nodes.ear.next().await;
    assert_eq!(told, Told::Ended(held[0].address, Cause::Capacity));
    nodes.remove(Target::Account(*whose), Cause::Operator).await;
    let stayed: Vec<&Locator> = held[1..].iter().collect();
    assert_eq!(nodes.told(whose).await, ended(&stayed, Cause::Operator));

    let idle = nodes.sign_in(whose).await;
    nodes.clock.advance(2 * HOUR);
    assert_eq!(
        nodes
            .acts
            .due(&removal(Cause::Operator))
            .await
            .unwrap()
            .len(),
        1
    );
    assert_eq!(nodes.told(whose).await, ended(&[&idle], Cause::Idle));
}

#[tokio::test]
async fn every_change_of_a_sign_in_is_told_to_every_node_by_one_server() {
    let server = RedisServer::start().await;
    let builder = || RedisTokenStore::builder(server.url()).max_sign_ins_per_account(MOST);
    let mut nodes = Nodes::new(builder, 1).await;
    for n in 0..2 {
        every_change_is_told(&mut nodes, &account(n)).await;
    }
}

#[tokio::test]
async fn every_change_of_a_sign_in_is_told_to_every_node_by_the_masters_of_a_cluster() {
    let cluster = RedisCluster::start().await;
    let builder = || RedisTokenStore::cluster(cluster.urls()).max_sign_ins_per_account(MOST);
    let mut nodes = Nodes::new(builder, 3).await;
    for n in 0..6 {
        every_change_is_told(&mut nodes, &account(n)).await;
    }
}

/// By a number that all nodes share.
#[tokio::test]
async fn who_has_to_leave_for_others_is_told_of_to_every_node() {
    let server = RedisServer::start().await;
    let builder = || RedisTokenStore::builder(server.url()).max_sign_ins(1);
    let mut nodes = Nodes::new(builder, 1).await;
    let first = nodes.sign_in(&account(1)).await;
    nodes.sign_in(&account(2)).await;
    let told = nodes.ear.next().await;
    assert_eq!(told, Told::Ended(first.address, Cause::Capacity));
}

fn listeners(server: &RedisServer) -> usize {
    let clients = server.cli(&["CLIENT", "LIST"]);
    let subscribed = |line: &&str| !line.contains(" sub=0 ") || !line.contains(" ssub=0 ");
    clients.lines().filter(subscribed).count()
}

async fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn there_is_no_connection_without_a_listener_and_none_after_the_store() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    sign_in(&store, &account(1), entry("ann")).await;
    assert_eq!(listeners(&server), 0);
    let ear = Ear::of(&store, 1).await;
    let other = Ear::of(&store, 1).await;
    assert_eq!(listeners(&server), 1);
    drop((ear, other));
    wait_for("the connection is closed", || listeners(&server) == 0).await;
    let mut ear = Ear::of(&store, 1).await;
    is_heard(&mut ear, &store, 1).await;
    assert_eq!(listeners(&server), 1);
    drop(store);
    wait_for("the connection is closed", || listeners(&server) == 0).await;
}

/// What carries the news ends with the runtime on which it was started.
#[test]
fn after_a_runtime_that_ended_the_next_one_hears() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let second = runtime();
    let server = second.block_on(RedisServer::start());
    let build = || RedisTokenStore::builder(server.url()).build().unwrap();
    let hears = build();
    let first = runtime();
    let mut ear = first.block_on(Ear::of(&hears, 1));
    drop(first);
    second.block_on(async {
        assert_eq!(ear.next().await, Told::Missed, "it is lost");
        // A request.
        let nobody = locator(&account(1));
        assert!(!is_live(&hears, &nobody).await);
        assert_eq!(ear.next().await, Told::Missed, "it stands");
        is_heard(&mut ear, &build(), 1).await;
    });
}

/// As some clouds have it, or a proxy in front of a cluster.
#[tokio::test]
async fn a_single_server_that_insists_on_slots_serves_and_announces() {
    let server = RedisServer::start_alone_in_a_cluster().await;
    let builder = || RedisTokenStore::builder(server.url()).max_sign_ins_per_account(MOST);
    let mut nodes = Nodes::new(builder, 1).await;
    for n in 0..2 {
        every_change_is_told(&mut nodes, &account(n)).await;
    }
}

/// Somebody else, over another node, signs in and out; whether that is heard.
async fn is_heard(ear: &mut Ear, acts: &RedisTokenStore, number: u64) {
    let one = sign_in(acts, &account(number), entry("ann")).await;
    let target = Target::SignIn(one.address);
    acts.remove(&target, &removal(Cause::UserSignOut))
        .await
        .unwrap();
    let told = Told::Ended(one.address, Cause::UserSignOut);
    assert_eq!(ear.until(told).await, [told]);
}

#[tokio::test]
async fn a_connection_that_is_lost_is_said_to_be_before_it_is_there_again() {
    let server = RedisServer::start().await;
    let port = server.port();
    let build = || RedisTokenStore::builder(server.url()).build().unwrap();
    let (acts, hears) = (build(), build());
    let mut ear = Ear::of(&hears, 1).await;
    is_heard(&mut ear, &acts, 1).await;
    assert_eq!(server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]), "1");
    assert_eq!([ear.next().await, ear.next().await], [Told::Missed; 2]);
    is_heard(&mut ear, &acts, 1).await;
    drop(server);
    assert_eq!(ear.next().await, Told::Missed);
    let server = RedisServer::start_at(port).await;
    assert_eq!(ear.next().await, Told::Missed);
    is_heard(&mut ear, &acts, 1).await;
    // It says nothing, and keeps the connection.
    let paused = server.pause();
    let begun = Instant::now();
    assert_eq!(ear.next().await, Told::Missed);
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    drop(paused);
    assert_eq!(ear.next().await, Told::Missed);
    is_heard(&mut ear, &acts, 1).await;
}

#[tokio::test]
async fn a_server_that_comes_later_is_heard_from_then_on() {
    let port = RedisServer::start().await.port();
    let url = format!("redis://127.0.0.1:{port}");
    let build = || RedisTokenStore::builder(&*url).build().unwrap();
    let (acts, hears) = (build(), build());
    let mut ear = Ear::early(&hears);
    let _server = RedisServer::start_at(port).await;
    assert_eq!(ear.next().await, Told::Missed);
    is_heard(&mut ear, &acts, 1).await;
}

#[tokio::test]
async fn what_others_publish_is_passed_over_and_counted() {
    let server = RedisServer::start().await;
    let build = || RedisTokenStore::builder(server.url()).build().unwrap();
    let (acts, hears) = (build(), build());
    let mut ear = Ear::of(&hears, 1).await;
    let whose = account(1);
    let Address { account, id } = locator(&whose).address;
    let long = format!("C:{account}:{id}:{}", "x".repeat(100_000));
    let bad = [
        "nonsense",
        "E",
        "C::",
        "\u{1f600}",
        &format!("E:{id}:{account}:Idle"),
    ];
    // A newer version's: it may mean that a copy is stale.
    let newer = [
        &*format!("E:{account}:{id}:Nobody"),
        &format!("N:{account}:{id}"),
        &long,
    ];
    for text in bad.into_iter().chain(newer) {
        assert_eq!(server.cli(&["PUBLISH", "axum-signout:news:0", text]), "1");
    }
    for _ in newer {
        assert_eq!(ear.next().await, Told::Changed(Address { account, id }));
    }
    is_heard(&mut ear, &acts, 2).await;
    let unreadable = (bad.len() + newer.len()) as u64;
    assert_eq!(hears.unreadable_announcements(), unreadable);
    // Another database is another app.
    let other = format!("{}/1", server.url());
    let other = RedisTokenStore::builder(other).build().unwrap();
    let elsewhere = sign_in(&other, &whose, entry("ann")).await;
    let target = Target::SignIn(elsewhere.address);
    other
        .remove(&target, &removal(Cause::UserSignOut))
        .await
        .unwrap();
    is_heard(&mut ear, &acts, 2).await;
}

/// The number of an account whose sign-ins are there.
fn number_on(master: &RedisServer) -> u64 {
    let myself = master.cli(&["CLUSTER", "NODES"]);
    let myself = myself.lines().find(|line| line.contains("myself")).unwrap();
    let slots = myself.split(' ').nth(8).unwrap();
    let (first, last) = slots.split_once('-').unwrap();
    let range = first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap();
    let is_there = |number: &u64| {
        let slot = master.cli(&["CLUSTER", "KEYSLOT", &channel(*number)]);
        range.contains(&slot.parse().unwrap())
    };
    (0..).find(is_there).unwrap()
}

fn channel(number: u64) -> String {
    format!("axum-signout:{{{:02x}}}:news", account(number).bucket())
}

#[tokio::test]
async fn of_a_cluster_each_master_is_judged_alone() {
    let cluster = RedisCluster::start().await;
    let timeout = Duration::from_secs(10);
    let build = || {
        RedisTokenStore::cluster(cluster.urls())
            .timeout(timeout)
            .build()
            .unwrap()
    };
    let (acts, hears) = (build(), build());
    let mut ear = Ear::of(&hears, 3).await;
    let numbers: Vec<u64> = cluster.masters().iter().map(number_on).collect();
    // Without selectors, which lie on whatever master.
    let plain = async |number: u64| {
        let (one, mut entry) = (locator(&account(number)), entry("ann"));
        entry.selectors = [].into();
        let removal = removal(Cause::UserSignOut);
        let started = Started::default();
        acts.create(&one, entry.into(), &started, &removal)
            .await
            .unwrap();
        one
    };
    let mut held = Vec::new();
    for number in &numbers {
        held.push(plain(*number).await);
    }
    let paused = cluster.masters()[0].pause();
    assert_eq!(ear.next().await, Told::Missed);
    let one = held[1].address;
    let gone = removal_without_outbox();
    acts.remove(&Target::SignIn(one), &gone).await.unwrap();
    let told = Told::Ended(one, Cause::UserSignOut);
    assert_eq!(ear.until(told).await, [told]);
    drop(paused);
    assert_eq!(ear.next().await, Told::Missed, "it stands again");
    acts.remove(&Target::SignIn(held[0].address), &gone)
        .await
        .unwrap();
    let told = Told::Ended(held[0].address, Cause::UserSignOut);
    assert_eq!(ear.until(told).await, [told]);
}

/// Counting the outbox would ask the one that is away.
fn removal_without_outbox() -> Removal {
    Removal {
        revoke: RevokeRule::Nothing,
        ..removal(Cause::UserSignOut)
    }
}

#[tokio::test]
async fn a_slot_that_moves_is_heard_at_its_new_master() {
    let cluster = RedisCluster::start().await;
    let build = || RedisTokenStore::cluster(cluster.urls()).build().unwrap();
    let (acts, hears) = (build(), build());
    let mut ear = Ear::of(&hears, 3).await;
    let [from, to, _] = cluster.masters() else {
        unreachable!()
    };
    let number = number_on(from);
    let slot = from.cli(&["CLUSTER", "KEYSLOT", &channel(number)]);
    let new = to.cli(&["CLUSTER", "MYID"]);
    let begun = Instant::now();
    for master in [to, from] {
        let said = master.cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &new]);
        assert_eq!(said, "OK");
    }
    assert_eq!(ear.next().await, Told::Missed);
    // The server says so; looking would take longer.
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    // That of the old master, and as its buckets are others now, that of the new one.
    for _ in 0..3 {
        assert_eq!(ear.next().await, Told::Missed);
    }
    // The client of the one that acts gives up while they do not agree.
    let knows = |master: &RedisServer| {
        let nodes = master.cli(&["CLUSTER", "NODES"]);
        let of_new = nodes.lines().find(|line| line.starts_with(&new));
        of_new.is_some_and(|line| line.split(' ').any(|own| own == slot))
    };
    wait_for("all know of it", || cluster.masters().iter().all(knows)).await;
    is_heard(&mut ear, &acts, number).await;
    is_heard(&mut ear, &acts, number_on(&cluster.masters()[2])).await;
}

/// The old master goes on as a replica: its connections stay.
#[tokio::test]
async fn after_a_failover_in_a_cluster_the_new_master_is_heard() {
    let cluster = RedisCluster::start().await;
    let replica = cluster.replica_of_the_first().await;
    let build = || RedisTokenStore::cluster(cluster.urls()).build().unwrap();
    let (acts, hears) = (build(), build());
    let mut ear = Ear::of(&hears, 3).await;
    let number = number_on(&cluster.masters()[0]);
    assert_eq!(replica.cli(&["CLUSTER", "FAILOVER"]), "OK");
    assert_eq!([ear.next().await, ear.next().await], [Told::Missed; 2]);
    let role = replica.cli(&["INFO", "replication"]);
    assert!(role.contains("role:master"), "{role}");
    is_heard(&mut ear, &acts, number).await;
}

/// It was the only one that the app was told of.
#[tokio::test]
async fn a_cluster_whose_first_node_is_gone_is_heard_by_way_of_the_others() {
    let cluster = RedisCluster::start().await;
    let replica = cluster.replica_of_the_first().await;
    let seed = &cluster.masters()[0];
    let hears = RedisTokenStore::cluster([seed.url()]).build().unwrap();
    let mut ear = Ear::of(&hears, 3).await;
    let number = number_on(seed);
    let _paused = seed.pause();
    assert_eq!(ear.next().await, Told::Missed);
    assert_eq!(replica.cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    assert_eq!(ear.next().await, Told::Missed, "the new master is heard");
    let acts = RedisTokenStore::cluster([replica.url()]).build().unwrap();
    let one = locator(&account(number));
    let mut entry = entry("ann");
    entry.selectors = [].into();
    let removal = removal_without_outbox();
    let started = Started::default();
    acts.create(&one, entry.into(), &started, &removal)
        .await
        .unwrap();
    let target = Target::SignIn(one.address);
    acts.remove(&target, &removal).await.unwrap();
    let told = Told::Ended(one.address, Cause::UserSignOut);
    assert_eq!(ear.until(told).await, [told]);
}

/// It answers reads as before, and its connections stay.
#[tokio::test]
async fn a_server_that_is_no_longer_the_master_is_read_from_no_more() {
    let server = RedisServer::start().await;
    let build = || RedisTokenStore::builder(server.url()).build().unwrap();
    let (acts, hears) = (build(), build());
    let mut ear = Ear::of(&hears, 1).await;
    assert!(!is_live(&hears, &locator(&account(1))).await);
    let reads = || server.cli(&["CLIENT", "LIST"]).contains(" cmd=hget ");
    assert!(reads());
    let nowhere = free_port().to_string();
    server.cli(&["REPLICAOF", "127.0.0.1", &nowhere]);
    assert_eq!(ear.next().await, Told::Missed);
    wait_for("the connection is given up", || !reads()).await;
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    assert_eq!(ear.next().await, Told::Missed);
    is_heard(&mut ear, &acts, 1).await;
}
