//! What the runbook says of sizes and of numbers of commands.

use axum_signout::store::{Entry, RedisTokenStore, TokenStore as _};
use axum_signout::testing::store_contract::account;
use axum_signout::testing::{TestBrowser, TestProvider};
use axum_signout::{AccessToken, Cause, IdToken, KeyRing, Selector, TokenSet};
use serde_json::json;
use tower_sessions::cookie::time::{Duration, OffsetDateTime};
use tower_sessions::session::{Id, Record};
use tower_sessions::{SessionManagerLayer, SessionStore as _};

use super::world::{entry, is_live, removal, sign_in};
use crate::support::app::Setup;
use crate::support::redis::RedisServer;

/// Signed tokens with a handful of claims, as many providers issue them.
const ACCESS: usize = 1_500;
const REFRESH: usize = 1_000;
const ID: usize = 1_200;

const SIGN_INS: u64 = 500;

fn of_length(length: usize, number: u64) -> String {
    format!("{number:0length$}")
}

fn typical(number: u64) -> Entry {
    let sid = format!("session {number}");
    Entry {
        tokens: TokenSet::new()
            .with_access_token(AccessToken::bearer(of_length(ACCESS, number)))
            .with_refresh_token(of_length(REFRESH, number))
            .with_id_token(IdToken::new(of_length(ID, number))),
        selectors: [Selector::sid("https://login.example.com", "app", &sid)].into(),
        ..entry("ann")
    }
}

/// Without the buffers of connections, which come and go with what they carried last.
fn used(server: &RedisServer) -> u64 {
    let info = server.cli(&["INFO", "memory"]);
    let named = |name: &str| -> u64 {
        let found = info.lines().find_map(|line| line.strip_prefix(name));
        let number = found.unwrap_or_else(|| panic!("no {name}"));
        number.trim().parse().expect("a number")
    };
    named("used_memory:") - named("mem_clients_normal:")
}

/// Bytes of one sign-in with its session, tokens included.
async fn bytes(encrypted: bool) -> u64 {
    let server = RedisServer::start().await;
    let mut builder = RedisTokenStore::builder(server.url());
    if encrypted {
        builder = builder.encryption(KeyRing::parse(&"A".repeat(43)).unwrap());
    }
    let store = builder.build().unwrap();
    // Scripts are loaded, buffers are there.
    sign_in(&store, &account(0), typical(0)).await;
    let before = used(&server);
    for number in 1..=SIGN_INS {
        sign_in(&store, &account(number), typical(number)).await;
        let mut record = Record {
            id: Id::default(),
            data: [("axum-signout".to_owned(), json!("x".repeat(120)))].into(),
            expiry_date: OffsetDateTime::now_utc() + Duration::hours(2),
        };
        store.sessions().create(&mut record).await.unwrap();
    }
    (used(&server) - before) / SIGN_INS
}

#[tokio::test]
async fn a_sign_in_takes_what_the_runbook_says() {
    for encrypted in [false, true] {
        let bytes = bytes(encrypted).await;
        let tokens = (ACCESS + REFRESH + ID) as u64;
        let besides = bytes - tokens;
        println!("encrypted: {encrypted}; {bytes} bytes, {besides} besides the tokens");
        assert!(
            (3_000..5_000).contains(&besides),
            "{besides} bytes besides the tokens"
        );
    }
}

/// Under `noeviction` the store says that it is full: `outages` shows it.
#[tokio::test]
async fn under_another_policy_than_noeviction_redis_forgets_sign_ins_and_says_nothing() {
    let policy = ["--maxmemory-policy", "allkeys-random", "--maxmemory", "6mb"];
    let server = RedisServer::start_with(&policy).await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let mut all = Vec::new();
    for number in 0..2 * SIGN_INS {
        all.push(sign_in(&store, &account(number), typical(number)).await);
    }
    let mut left = 0;
    for locator in &all {
        left += u64::from(is_live(&store, locator).await);
    }
    assert!(left < 2 * SIGN_INS, "it forgot none");
    let removal = removal(Cause::Idle);
    assert_eq!(
        store.due(&removal).await.unwrap().len(),
        0,
        "nobody hears of them"
    );
}

/// How often each command came, those that go round all buckets left out: they are the background's.
fn counted(commands: &[String]) -> Vec<(String, usize)> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for command in commands {
        let name = command.split('"').nth(1).unwrap_or_default();
        if matches!(
            name,
            "ZCOUNT" | "ZRANGE" | "ZRANGEBYSCORE" | "HEXISTS" | "TIME" | "PUBLISH"
        ) {
            continue;
        }
        match counted.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => counted.push((name.to_owned(), 1)),
        }
    }
    counted.sort();
    counted
}

#[tokio::test]
async fn a_request_a_sign_in_and_a_sign_out_are_the_commands_that_the_runbook_says() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let sessions = SessionManagerLayer::new(store.sessions()).with_secure(false);
    let provider = TestProvider::start().await;
    let app = Setup::new()
        .sessions(sessions)
        .auth(|auth| auth.store(store))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    // Scripts are loaded.
    app.sign_in(&mut browser, "bob").await;
    app.leave(&browser, json!({ "local_only": true })).await;
    let mut browser = TestBrowser::new();

    let sign_in = server
        .commands_of(async { app.sign_in(&mut browser, "alice").await })
        .await;
    let sign_in = counted(&sign_in);
    // Scripts that the server had not seen are sent whole, once.
    let scripts = |all: &[(String, usize)]| -> usize {
        let scripts = all.iter().filter(|(name, _)| name == "EVALSHA");
        scripts.map(|(_, count)| count).sum()
    };
    assert!(scripts(&sign_in) <= 8, "{sign_in:?}");
    let plain: usize = sign_in.iter().map(|(_, count)| count).sum();
    assert!(plain <= 16, "{sign_in:?}");

    let request = server
        .commands_of(async {
            app.get(&mut browser, "/whoami").await;
        })
        .await;
    assert_eq!(counted(&request), named([("GET", 1), ("HGET", 1)]));

    let sign_out = server
        .commands_of(async {
            app.leave(&browser, json!({ "local_only": true })).await;
        })
        .await;
    let sign_out = counted(&sign_out);
    let reads = ["DEL", "GET", "HGET"].map(|name| (name.to_owned(), 1));
    assert!(
        reads.iter().all(|one| sign_out.contains(one)),
        "{sign_out:?}"
    );
    // The removal, its selector, and what the background does about the tokens.
    assert!((2..=6).contains(&scripts(&sign_out)), "{sign_out:?}");
}

fn named<const N: usize>(all: [(&str, usize); N]) -> Vec<(String, usize)> {
    all.map(|(name, count)| (name.to_owned(), count)).into()
}
