//! Four nodes, many users, and a Redis that dies again and again: afterwards the books are balanced. So in several [set-ups](setups), one
//! after the other.
//!
//! `CHAOS_SECONDS` (60), `CHAOS_USERS` (500) and `CHAOS_SEED` (random; printed) set other numbers. The seed is that of the users' ways and
//! of Redis' ends; what overlaps with what is the machine's choice.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod books;
mod losses;
mod node;
mod redis;
mod setups;
mod town;
mod user;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use books::Books;
use node::{CLIENT, Node, SECRET, TOKEN_LIFETIME, Told};
use redis::Mortals;
use setups::{ALONE, CLUSTER, OLDER_SNAPSHOT, Setup, TIER};
use support::certified::{Certified, Client, Options};
use town::Town;

const NODES: usize = 4;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    }
}

async fn told(town: &Town, node: usize) -> Option<Told> {
    let answer = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .build()
        .expect("no TLS set-up to fail")
        .get(format!("{}/told", town.nodes[node]))
        .send()
        .await
        .expect("nodes answer");
    answer.json().await.ok()
}

/// All that was put off is done. What is done puts tokens into the outbox, and what is handed out of it comes back if it fails: so
/// nothing is found to be left twice.
async fn settle(town: &Town) -> Vec<Told> {
    let deadline = Instant::now() + Duration::from_secs(180);
    let mut is_done = false;
    loop {
        let all = join_all((0..NODES).map(|node| told(town, node))).await;
        let all: Option<Vec<Told>> = all.into_iter().collect();
        let was_done = std::mem::take(&mut is_done);
        match all {
            Some(all) if all.iter().all(|told| told.pending == 0 && told.outbox == 0) => {
                if was_done {
                    return all;
                }
                is_done = true;
            }
            _ => assert!(Instant::now() < deadline, "something still waits: {all:?}"),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// The nodes, of which the first gives the app its address.
async fn start_nodes(setup: Setup, issuer: &str, redis: Vec<String>) -> Vec<Node> {
    let issuer = issuer.to_owned();
    let start = move || {
        let start = |number, base_url| Node::start(setup, number, &issuer, &redis, base_url);
        let first = start(0, None);
        let others = (1..NODES).map(|number| start(number, Some(&*first.url)));
        let mut all: Vec<Node> = others.collect();
        all.insert(0, first);
        all
    };
    let started = tokio::task::spawn_blocking(start).await;
    started.expect("the nodes start")
}

/// The machine is for one of them at a time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

async fn play(setup: Setup) {
    let _turn = TURN.lock().await;
    let seconds = setting("CHAOS_SECONDS", 60);
    let users = setting("CHAOS_USERS", 500);
    let seed = setting("CHAOS_SEED", rand::random::<u32>().into());
    let name = setup.name;
    println!("{name}: CHAOS_SEED={seed} CHAOS_USERS={users} CHAOS_SECONDS={seconds}");
    let mut chance = StdRng::seed_from_u64(seed);

    let options = Options::new().lifetime("AccessToken", TOKEN_LIFETIME);
    let provider = Certified::start(options).await;
    let redis = Mortals::start(setup, chance.random()).await;
    let nodes = start_nodes(setup, provider.issuer(), redis.urls()).await;
    let client = Client::new(CLIENT)
        .secret(SECRET)
        .redirect_uri(&format!("{}/signin/callback", nodes[0].url));
    provider.add_client(client).await;

    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let urls = nodes.iter().map(|node| node.url.clone()).collect();
    let town = Town::new(urls, until);
    let reigning = tokio::spawn(redis.reign(until));
    let mut living = JoinSet::new();
    for user in 0..users {
        let (town, seed) = (town.clone(), chance.random());
        living.spawn(async move { town.live(format!("user-{user}"), seed).await });
    }
    for _ in 0..2 {
        let (town, seed) = (town.clone(), chance.random());
        living.spawn(async move { town.steal(seed).await });
    }
    living.join_all().await;
    let redis = reigning.await.expect("Redis reigns");
    println!("{} s", begun.elapsed().as_secs());
    assert!(
        redis.outages.len() as u64 >= seconds / 12,
        "it was killed now and then"
    );

    let told = settle(&town).await;
    let books = Books::of(setup, redis.outages.clone(), &town, &provider, told).await;
    books.print();
    books.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_outlives_its_sign_out_while_redis_comes_and_goes_r23_r29_a2_a6() {
    play(ALONE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_copies_in_memory_a_sign_out_holds_on_every_node_within_three_seconds_r23_r29_a2_a6() {
    play(TIER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_outlives_its_sign_out_while_masters_of_a_cluster_come_and_go_r23_r29_a2_a6() {
    play(CLUSTER).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_signed_out_stays_out_once_the_node_is_back_at_a_redis_that_forgot_r23_r29_a2_a6() {
    play(OLDER_SNAPSHOT).await;
}
