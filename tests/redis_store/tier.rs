//! Copies in memory before Redis: when they are served, and when not.

use std::io::BufRead as _;
use std::process::Command;
use std::time::{Duration, Instant};

use axum_signout::store::{
    Generation, Lookup, MemoryTier, RedisTokenStore, RedisTokenStoreBuilder, Removal, RevokeRule,
    StoreErrorKind, Stored, Target, TierStats, TokenStore,
};
use axum_signout::testing::store_contract::{account, locator};
use axum_signout::{AccountHash, Address, Cause, Locator, OperationId, SessionKey, SignInId};

use super::ear::{Ear, Told};
use super::held::{Hold, Way};
use super::world::{entry, is_live, removal, sign_in};
use crate::support::process::TiedProcess;
use crate::support::redis::{RedisCluster, RedisServer};

/// So long that nothing in a test happens because of it.
const LONG: Duration = Duration::from_secs(60);

/// For how long nothing need be heard before copies are no longer served.
const SILENCE: Duration = Duration::from_secs(3);

fn with_tier(builder: RedisTokenStoreBuilder) -> RedisTokenStore {
    let tier = MemoryTier::new().good_for(LONG);
    builder.memory_tier(tier).build().unwrap()
}

fn stats(store: &RedisTokenStore) -> TierStats {
    store.tier_stats().expect("it has a tier")
}

async fn look(store: &RedisTokenStore, locator: &Locator) -> Lookup {
    let mut found = store.load(std::slice::from_ref(locator)).await.unwrap();
    found.remove(0)
}

/// Makes sure that the next look-up is answered by a copy.
async fn copied(store: &RedisTokenStore, locator: &Locator) -> Stored {
    let begun = Instant::now();
    loop {
        let before = stats(store).hits;
        let found = look(store, locator).await.live().expect("it is there");
        if stats(store).hits > before {
            return found;
        }
        assert!(begun.elapsed() < LONG / 2, "no copy is kept");
    }
}

/// One node that acts, and one with a tier that hears of it, and copies of which the test knows when they are told.
struct Nodes {
    acts: RedisTokenStore,
    holds: RedisTokenStore,
    ear: Ear,
}

impl Nodes {
    async fn new(builder: impl Fn() -> RedisTokenStoreBuilder, masters: usize) -> Self {
        let acts = builder().build().unwrap();
        let holds = with_tier(builder());
        // Told after the tier is, which has listened for longer.
        let ear = Ear::of(&holds, masters).await;
        Self { acts, holds, ear }
    }

    async fn of(server: &RedisServer) -> Self {
        Self::new(|| RedisTokenStore::builder(server.url()), 1).await
    }

    /// Somebody is signed in, and the node has a copy of it.
    async fn signed_in(&self, number: u64) -> Locator {
        let locator = sign_in(&self.acts, &account(number), entry("ann")).await;
        copied(&self.holds, &locator).await;
        locator
    }

    async fn remove(&self, target: Target) {
        let removal = removal(Cause::BackChannel);
        self.acts.remove(&target, &removal).await.unwrap();
    }

    /// Takes a sign-in out, and returns once the other node has heard.
    async fn removed(&mut self, locator: &Locator) {
        self.remove(Target::SignIn(locator.address)).await;
        let told = Told::Ended(locator.address, Cause::BackChannel);
        self.ear.until(told).await;
    }
}

fn count(commands: &[String], name: &str) -> usize {
    let name = format!("\"{name}\"");
    let is_one = |command: &&String| command.starts_with(&name);
    commands.iter().filter(is_one).count()
}

#[tokio::test]
async fn a_second_look_up_takes_no_round_trip_and_decisions_do() {
    let server = RedisServer::start().await;
    let nodes = Nodes::of(&server).await;
    let all = [nodes.signed_in(1).await, nodes.signed_in(2).await];
    let before = stats(&nodes.holds);
    let commands = server
        .commands_of(async {
            for _ in 0..100 {
                let found = nodes.holds.load(&all).await.unwrap();
                assert!(found.into_iter().all(|found| found.live().is_some()));
            }
        })
        .await;
    assert_eq!(count(&commands, "HGET"), 0, "{commands:?}");
    assert_eq!(count(&commands, "TIME"), 0, "{commands:?}");
    let after = stats(&nodes.holds);
    assert_eq!(
        (after.hits - before.hits, after.misses),
        (200, before.misses)
    );
    assert_eq!((after.sign_ins, after.bypassed), (2, 0));

    let commands = server
        .commands_of(async {
            for _ in 0..5 {
                let found = nodes.holds.get(&all[0].address).await.unwrap();
                assert!(found.live().is_some());
            }
        })
        .await;
    assert_eq!(count(&commands, "HGET"), 5, "{commands:?}");
    // One that is not there, or opens with another key, is asked for each time.
    let mut wrong = locator(&account(1));
    wrong.address = all[0].address;
    let commands = server
        .commands_of(async {
            for _ in 0..3 {
                assert!(matches!(look(&nodes.holds, &wrong).await, Lookup::Moved));
                let nobody = look(&nodes.holds, &locator(&account(3))).await;
                assert!(matches!(nobody, Lookup::Gone(None)));
            }
        })
        .await;
    assert_eq!(count(&commands, "HGET"), 6, "{commands:?}");
}

#[tokio::test]
async fn a_store_without_a_tier_has_none() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    let commands = server
        .commands_of(async {
            assert!(is_live(&store, &ann).await && is_live(&store, &ann).await);
        })
        .await;
    assert_eq!(count(&commands, "HGET"), 2);
    assert!(store.tier_stats().is_none());
}

/// A new key for a sign-in, and what it opens with.
async fn new_key(store: &RedisTokenStore, old: &Locator) -> Locator {
    let new = Locator {
        key: locator(&old.address.account).key,
        ..old.clone()
    };
    let key = SessionKey::hash(&new.key);
    assert!(store.rekey(old, &key).await.unwrap());
    new
}

async fn other_nodes_stop_serving_what_they_heard_has_changed(nodes: &mut Nodes, number: u64) {
    let one = nodes.signed_in(number).await;
    nodes.removed(&one).await;
    let found = look(&nodes.holds, &one).await;
    assert!(matches!(found, Lookup::Gone(Some(Cause::BackChannel))));

    let (one, two) = (nodes.signed_in(number).await, nodes.signed_in(number).await);
    nodes.remove(Target::Account(account(number))).await;
    for locator in [&one, &two] {
        let told = Told::Ended(locator.address, Cause::BackChannel);
        nodes.ear.until(told).await;
        assert!(!is_live(&nodes.holds, locator).await);
    }

    let one = nodes.signed_in(number).await;
    let (operation, new) = (OperationId::random(), entry("two").into());
    let replace = nodes
        .acts
        .replace_if(&one.address, Generation::FIRST, new, operation);
    replace.await.unwrap();
    nodes.ear.until(Told::Changed(one.address)).await;
    let found = look(&nodes.holds, &one).await.live().unwrap();
    assert_eq!(found.generation, Generation::FIRST.next());
    let token = found.entry.tokens.refresh_token().unwrap();
    assert_eq!(token.secret(), "refresh two");

    copied(&nodes.holds, &one).await;
    let new = new_key(&nodes.acts, &one).await;
    // Heard of or not: what the copy does not open, Redis is asked for.
    assert!(is_live(&nodes.holds, &new).await);
    nodes.ear.until(Told::Changed(one.address)).await;
    assert!(matches!(look(&nodes.holds, &one).await, Lookup::Moved));
    assert!(is_live(&nodes.holds, &new).await);
}

#[tokio::test]
async fn a_copy_is_not_served_once_its_change_elsewhere_is_heard_of_a6() {
    let server = RedisServer::start().await;
    let mut nodes = Nodes::of(&server).await;
    other_nodes_stop_serving_what_they_heard_has_changed(&mut nodes, 1).await;
}

#[tokio::test]
async fn a_copy_is_not_served_once_its_change_in_a_cluster_is_heard_of_a6() {
    let cluster = RedisCluster::start().await;
    let builder = || RedisTokenStore::cluster(cluster.urls());
    let mut nodes = Nodes::new(builder, 3).await;
    for number in 0..6 {
        other_nodes_stop_serving_what_they_heard_has_changed(&mut nodes, number).await;
    }
}

#[tokio::test]
async fn what_this_node_changes_it_serves_anew_at_once_a6() {
    let server = RedisServer::start().await;
    let store = with_tier(RedisTokenStore::builder(server.url()));
    let signed_in = async || {
        let locator = sign_in(&store, &account(1), entry("ann")).await;
        copied(&store, &locator).await;
        locator
    };
    let (one, two, three) = (signed_in().await, signed_in().await, signed_in().await);
    let remove = async |target: Target| {
        let removal = removal(Cause::UserSignOut);
        store.remove(&target, &removal).await.unwrap();
    };
    remove(Target::SignIn(one.address)).await;
    assert!(!is_live(&store, &one).await);
    remove(Target::AccountExcept(account(1), three.address.id)).await;
    assert!(!is_live(&store, &two).await && is_live(&store, &three).await);
    copied(&store, &three).await;
    let new = new_key(&store, &three).await;
    assert!(matches!(look(&store, &three).await, Lookup::Moved));
    copied(&store, &new).await;
    let operation = OperationId::random();
    let address = &new.address;
    let replace = store.replace_if(address, Generation::FIRST, entry("x").into(), operation);
    replace.await.unwrap();
    let found = look(&store, &new).await.live().unwrap();
    assert_eq!(found.generation, Generation::FIRST.next());
    copied(&store, &new).await;
    remove(Target::Account(account(1))).await;
    assert!(!is_live(&store, &new).await);
}

#[tokio::test]
async fn a_load_whose_answer_arrives_after_the_news_is_not_kept_a6() {
    let server = RedisServer::start().await;
    let way = Way::to(&server).await;
    let acts = RedisTokenStore::builder(server.url()).build().unwrap();
    let holds = with_tier(RedisTokenStore::builder(way.url()).timeout(LONG));
    let mut ear = Ear::of(&holds, 1).await;
    let ann = sign_in(&acts, &account(1), entry("ann")).await;

    let mut held = way.hold(Hold::Answer, "HGET");
    let load = {
        let ann = ann.clone();
        async { (look(&holds, &ann).await, ann) }
    };
    let meanwhile = async {
        held.caught().await;
        let target = Target::SignIn(ann.address);
        let removal = removal(Cause::BackChannel);
        acts.remove(&target, &removal).await.unwrap();
        let told = Told::Ended(ann.address, Cause::BackChannel);
        ear.until(told).await;
        held.release();
    };
    let ((found, ann), ()) = tokio::join!(load, meanwhile);
    assert!(found.live().is_some(), "it was read before");
    assert!(!is_live(&holds, &ann).await);
    assert_eq!(stats(&holds).hits, 0);
}

/// It was sent, nobody knows what became of it, and then it is done.
#[tokio::test]
async fn a_removal_that_is_done_after_it_timed_out_leaves_no_copy_a6() {
    let server = RedisServer::start().await;
    let way = Way::to(&server).await;
    let timeout = Duration::from_millis(500);
    let store = with_tier(RedisTokenStore::builder(way.url()).timeout(timeout));
    let mut ear = Ear::of(&store, 1).await;
    let removal = Removal {
        // Without counting the outbox first, which would be a second step.
        revoke: RevokeRule::Nothing,
        ..removal(Cause::UserSignOut)
    };
    let known = sign_in(&store, &account(2), entry("bob")).await;
    let target = Target::SignIn(known.address);
    store.remove(&target, &removal).await.unwrap();
    ear.until(Told::Ended(known.address, Cause::UserSignOut))
        .await;
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    copied(&store, &ann).await;

    let held = way.hold(Hold::Command, "EVALSHA");
    let target = Target::SignIn(ann.address);
    let error = store.remove(&target, &removal).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown);
    let hits = stats(&store).hits;
    assert!(is_live(&store, &ann).await, "it is not done yet");
    assert_eq!(stats(&store).hits, hits, "by Redis' word");
    copied(&store, &ann).await;
    held.release();
    ear.until(Told::Ended(ann.address, Cause::UserSignOut))
        .await;
    assert!(!is_live(&store, &ann).await);
}

#[tokio::test]
async fn while_nothing_is_heard_redis_is_asked_and_afterwards_nothing_old_is_served_a6() {
    let server = RedisServer::start().await;
    let mut nodes = Nodes::of(&server).await;
    let (ann, bob) = (nodes.signed_in(1).await, nodes.signed_in(2).await);
    // Nor can it be heard again for now.
    server.cli(&["ACL", "SETUSER", "default", "resetchannels"]);
    server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(nodes.ear.next().await, Told::Missed, "it is lost");
    nodes.remove(Target::SignIn(ann.address)).await;
    assert!(!is_live(&nodes.holds, &ann).await);
    let hits = stats(&nodes.holds).hits;
    assert!(is_live(&nodes.holds, &bob).await && is_live(&nodes.holds, &bob).await);
    server.cli(&["ACL", "SETUSER", "default", "allchannels"]);
    assert_eq!(nodes.ear.next().await, Told::Missed, "it stands");
    assert!(!is_live(&nodes.holds, &ann).await);
    assert!(is_live(&nodes.holds, &bob).await);
    assert_eq!(stats(&nodes.holds).hits, hits, "no copy from before");
    copied(&nodes.holds, &bob).await;
}

#[tokio::test]
async fn a_server_that_has_fallen_silent_is_not_stood_in_for_by_copies() {
    let server = RedisServer::start().await;
    let timeout = Duration::from_millis(200);
    let builder = || RedisTokenStore::builder(server.url()).timeout(timeout);
    let nodes = Nodes::new(builder, 1).await;
    let ann = nodes.signed_in(1).await;
    let paused = server.pause();
    let begun = Instant::now();
    let kind = loop {
        let asked = Instant::now();
        match nodes.holds.load(std::slice::from_ref(&ann)).await {
            Ok(found) => {
                assert!(matches!(found[0], Lookup::Live(_)));
                let served = asked.duration_since(begun);
                assert!(served < SILENCE, "{served:?}");
            }
            Err(error) => break error.kind(),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(matches!(
        kind,
        StoreErrorKind::Unknown | StoreErrorKind::Unavailable
    ));
    assert_eq!(stats(&nodes.holds).bypassed, 256);
    let again = nodes.holds.load(std::slice::from_ref(&ann)).await;
    assert!(again.is_err());
    drop(paused);
    // A connection that could not be made is not tried again at once.
    tokio::time::sleep(timeout).await;
    copied(&nodes.holds, &ann).await;
}

#[tokio::test]
async fn a_server_that_comes_back_empty_leaves_no_copy_of_what_it_had() {
    let server = RedisServer::start().await;
    let port = server.port();
    let mut nodes = Nodes::of(&server).await;
    let ann = nodes.signed_in(1).await;
    drop(server);
    assert_eq!(nodes.ear.next().await, Told::Missed);
    let away = nodes.holds.load(std::slice::from_ref(&ann)).await;
    assert!(away.is_err(), "no outage is hidden");
    let _server = RedisServer::start_at(port).await;
    assert_eq!(nodes.ear.next().await, Told::Missed);
    // A connection that could not be made is not tried again at once.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!is_live(&nodes.holds, &ann).await);
}

const NODE: &str = "tier::a_node_in_a_process_of_its_own";

/// Its Redis. Set for that process only.
const URL: &str = "TIER_TEST_REDIS";

/// Has a copy of a sign-in, and looks it up once it is told to, before anything else in this process can run: nothing that arrived
/// meanwhile was read.
#[tokio::test]
#[ignore = "a process that another test starts and stops"]
async fn a_node_in_a_process_of_its_own() {
    let store = with_tier(RedisTokenStore::builder(std::env::var(URL).unwrap()));
    let _ear = Ear::of(&store, 1).await;
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    copied(&store, &ann).await;
    println!("held {} {}", ann.address.account, ann.address.id);
    // On the one thread of the runtime, which stands still with it.
    let line = std::io::stdin().lock().lines().next();
    if line.is_none_or(|line| line.is_err()) {
        return;
    }
    let hits = stats(&store).hits;
    let is_live = is_live(&store, &ann).await;
    println!("live {is_live} copied {}", stats(&store).hits > hits);
    // Until the test has read that.
    let _ = std::io::stdin().lock().lines().next();
}

fn signal(process: &TiedProcess, signal: &str) {
    let kill = Command::new("kill")
        .args([signal, &process.id().to_string()])
        .status();
    assert!(kill.is_ok_and(|status| status.success()), "kill {signal}");
}

#[tokio::test]
async fn a_process_that_stood_still_serves_nothing_that_ended_meanwhile_a6() {
    let server = RedisServer::start().await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([NODE, "--exact", "--ignored", "--nocapture"])
        .env(URL, server.url());
    let mut node = TiedProcess::spawn(command, "It is this program.");
    let address = node.wait_for_line("the node", |line| {
        let (account, id) = line.split_once("held ")?.1.split_once(' ')?;
        Some(Address {
            account: AccountHash::parse(account)?,
            id: SignInId::parse(id)?,
        })
    });
    signal(&node, "-STOP");
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let removal = removal(Cause::UserSignOut);
    let removed = store.remove(&Target::SignIn(address), &removal).await;
    assert_eq!(removed.unwrap().len(), 1);
    // For longer than anything may go unheard. Copies would be good for much longer.
    tokio::time::sleep(SILENCE).await;
    node.write_line("look");
    signal(&node, "-CONT");
    let said = node.wait_for_line("the node", |line| {
        line.split_once("live ").map(|(_, rest)| rest.to_owned())
    });
    assert_eq!(said, "false copied false");
}
