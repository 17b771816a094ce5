//! Four nodes, many users, and a Redis that dies again and again: afterwards the books are balanced.
//!
//! `CHAOS_SECONDS` (60), `CHAOS_USERS` (500) and `CHAOS_SEED` (random; printed) set other numbers. The seed is that of the users' ways and
//! of Redis' ends; what overlaps with what is the machine's choice.

#[path = "../support/mod.rs"]
mod support;

mod books;
mod node;
mod redis;
mod user;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use books::Books;
use node::{CLIENT, Node, SECRET, TOKEN_LIFETIME, Told};
use redis::Mortal;
use support::certified::{Certified, Client, Options};
use user::Town;

const NODES: usize = 4;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => default,
    }
}

/// Kills Redis and starts it again until `until`.
async fn reign(mut redis: Mortal, mut chance: StdRng, until: Instant) -> Mortal {
    loop {
        let peace = Duration::from_millis(chance.random_range(500..4_000));
        tokio::time::sleep(peace).await;
        if Instant::now() >= until {
            return redis;
        }
        redis.kill().await;
        let away = Duration::from_millis(chance.random_range(0..1_500));
        tokio::time::sleep(away).await;
        redis.rise().await;
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

const LONGEST_PAUSE: Duration = Duration::from_secs(7);

/// All that was put off is done.
async fn settle(town: &Town) -> Vec<Told> {
    let deadline = Instant::now() + Duration::from_secs(180);
    // What is pending is tried again after pauses no longer than Redis was away.
    let (mut sign_ins, mut since) = (usize::MAX, Instant::now());
    loop {
        let all = join_all((0..NODES).map(|node| told(town, node))).await;
        let all: Option<Vec<Told>> = all.into_iter().collect();
        if let Some(first) = all.as_ref().and_then(|all| all.first())
            && first.sign_ins != sign_ins
        {
            (sign_ins, since) = (first.sign_ins, Instant::now());
        }
        match all {
            Some(all)
                if all.iter().all(|told| told.outbox == 0) && since.elapsed() > LONGEST_PAUSE =>
            {
                return all;
            }
            _ => assert!(
                Instant::now() < deadline,
                "tokens still wait to be revoked: {all:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_outlives_its_sign_out_while_redis_comes_and_goes_r23_r29_a2_a6() {
    let seconds = setting("CHAOS_SECONDS", 60);
    let users = setting("CHAOS_USERS", 500);
    let seed = setting("CHAOS_SEED", rand::random::<u32>().into());
    println!("CHAOS_SEED={seed} CHAOS_USERS={users} CHAOS_SECONDS={seconds}");
    let mut chance = StdRng::seed_from_u64(seed);

    let options = Options::new().lifetime("AccessToken", TOKEN_LIFETIME);
    let provider = Certified::start(options).await;
    let redis = Mortal::start(&mut chance).await;
    let (issuer, url) = (provider.issuer().to_owned(), redis.url());
    let nodes = tokio::task::spawn_blocking(move || {
        let first = Node::start(0, &issuer, &url, None);
        let others = (1..NODES).map(|number| Node::start(number, &issuer, &url, Some(&first.url)));
        let mut all: Vec<Node> = others.collect();
        all.insert(0, first);
        all
    });
    let nodes = nodes.await.expect("the nodes start");
    let client = Client::new(CLIENT)
        .secret(SECRET)
        .redirect_uri(&format!("{}/signin/callback", nodes[0].url));
    provider.add_client(client).await;

    let begun = Instant::now();
    let until = begun + Duration::from_secs(seconds);
    let urls = nodes.iter().map(|node| node.url.clone()).collect();
    let town = Town::new(urls, until);
    let reigning = tokio::spawn(reign(redis, StdRng::seed_from_u64(chance.random()), until));
    let living: Vec<_> = (0..users)
        .map(|user| {
            let (town, seed) = (town.clone(), chance.random());
            tokio::spawn(async move { town.live(format!("user-{user}"), seed).await })
        })
        .collect();
    for life in living {
        life.await.expect("a user lives on");
    }
    let redis = reigning.await.expect("Redis reigns");
    println!(
        "{} s, Redis was killed {} times",
        begun.elapsed().as_secs(),
        redis.kills
    );
    assert!(
        redis.kills as u64 >= seconds / 10,
        "it was killed now and then"
    );

    let told = settle(&town).await;
    let books = Books::of(&town, &provider).await;
    books.print(&told);
    books.check(&told);
}
