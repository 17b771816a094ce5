//! What is in Redis, and that it does not stay.

use std::time::Duration;

use axum_signout::store::{
    Generation, Lifetimes, RedisTokenStore, RetainedTokens, Target, TokenStore,
};
use axum_signout::testing::store_contract::account;
use axum_signout::{Cause, ClaimName, OperationId, SessionKey};

use super::world::{MARK_FOR, derived, entry, is_live, removal, selector, sign_in};
use crate::support::redis::RedisServer;

const HOLD: Duration = Duration::from_secs(30);

/// Everything that a store can be asked for, so that every kind of key is there afterwards.
async fn everything(store: &RedisTokenStore) {
    let ann = sign_in(store, &account(1), entry("ann")).await;
    let bob = sign_in(store, &account(2), entry("bob")).await;
    let old = sign_in(store, &account(3), entry("old")).await;
    for (locator, name) in [(&ann, "ann"), (&bob, "bob")] {
        let put = store.put_downstream(&locator.address, derived(name)).await;
        assert!(put.unwrap());
    }
    let operation = OperationId::random();
    let replaced = entry("ann").into();
    let replace = store.replace_if(&ann.address, Generation::FIRST, replaced, operation);
    replace.await.unwrap();
    let new_key = SessionKeyOf(&bob).hash();
    store.rekey(&bob, &new_key).await.unwrap();
    store.touch(&ann.address).await.unwrap();
    store.list(&account(1)).await.unwrap();
    let holder = OperationId::random();
    for name in [ClaimName::of("a", &[b"1"]), ClaimName::of("a", &[b"2"])] {
        store.claim(&name, holder, HOLD).await.unwrap();
        store.lease(&name, holder, HOLD).await.unwrap();
    }
    let settled = ClaimName::of("a", &[b"2"]);
    assert!(store.settle(&settled, holder, HOLD).await.unwrap());
    let retained = RetainedTokens::of(&entry("carl"));
    let carl = account(4);
    let put = store.outbox_put(OperationId::random(), &carl, retained);
    put.await.unwrap();
    let members = store.close(&selector(), &removal(Cause::BackChannel)).await;
    assert_eq!(members.unwrap().len(), 3);
    let target = Target::SignIn(old.address);
    let removed = store.remove(&target, &removal(Cause::BackChannel)).await;
    assert_eq!(removed.unwrap().len(), 1);
    let target = Target::Account(account(9));
    store
        .remove(&target, &removal(Cause::Operator))
        .await
        .unwrap();
    let taken = store.outbox_take(holder, HOLD).await.unwrap();
    assert_eq!(taken.len(), 2);
    store.outbox_retry(&taken[0], HOLD).await.unwrap();
}

/// Any other key.
struct SessionKeyOf<'a>(&'a axum_signout::Locator);

impl SessionKeyOf<'_> {
    fn hash(&self) -> axum_signout::KeyHash {
        let key: &SessionKey = &self.0.key;
        let mut bytes = *key.hash().as_bytes();
        bytes[0] ^= 1;
        axum_signout::KeyHash::from_bytes(bytes)
    }
}

/// Has every key end as if so much time had passed. What has no time to live stays.
pub fn pass(server: &RedisServer, time: Duration) {
    let script = "for _, key in ipairs(redis.call('KEYS', '*')) do
        local left = redis.call('PTTL', key)
        if left >= 0 then
            redis.call('PEXPIRE', key, left - tonumber(ARGV[1]))
        end
    end";
    server.cli(&["EVAL", script, "0", &time.as_millis().to_string()]);
}

fn millis_left(server: &RedisServer, key: &str) -> i64 {
    server.cli(&["PTTL", key]).parse().unwrap()
}

#[tokio::test]
async fn every_key_has_a_time_to_live_a_prefix_and_a_bucket_a7_a12() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url())
        .prefix("shop")
        .build()
        .unwrap();
    everything(&store).await;
    let keys = server.keys();
    let kinds = [
        "account",
        "ending",
        "due",
        "derived",
        "outbox",
        "outbox:ready",
        "outbox:age",
        "selector",
        "selector:mark",
        "selector:answer",
        "selectors",
        "claim",
        "claims",
        "lease",
        "leases",
    ];
    for kind in kinds {
        let of_kind = |key: &&String| {
            let rest = key.split_once("}:").map_or("", |(_, rest)| rest);
            rest == kind
                || rest
                    .strip_prefix(kind)
                    .is_some_and(|rest| rest.starts_with(':'))
        };
        assert!(keys.iter().any(|key| of_kind(&key)), "no key of {kind}");
    }
    let longest = Duration::from_secs(36_000 + 24 * 3600 + 60).as_millis() as i64;
    for key in &keys {
        let left = millis_left(&server, key);
        assert!((1..=longest).contains(&left), "{key} lives for {left} ms");
        let bucket = key.strip_prefix("shop:{").and_then(|rest| rest.get(..4));
        let bucket = bucket.unwrap_or_else(|| panic!("{key}"));
        assert!(bucket.ends_with("}:") && u8::from_str_radix(&bucket[..2], 16).is_ok());
        for text in ["ann", "login", "session 1", "refresh"] {
            assert!(!key.contains(text), "{key}");
        }
    }
}

/// A7: sign in, acquire, sign out, and let the marks, claims and answers run out.
#[tokio::test]
async fn nothing_is_left_of_many_sign_ins_once_marks_and_claims_have_ended_a7() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let before = server.keys().len();
    for n in 0..1000 {
        let someone = account(n % 50);
        let ann = sign_in(&store, &someone, entry("ann")).await;
        assert!(is_live(&store, &ann).await);
        let (lease, holder) = (
            ClaimName::of("refresh", &[&n.to_be_bytes()]),
            OperationId::random(),
        );
        store.lease(&lease, holder, HOLD).await.unwrap();
        assert!(
            store
                .put_downstream(&ann.address, derived("ann"))
                .await
                .unwrap()
        );
        let target = match n % 3 {
            0 => Target::SignIn(ann.address),
            _ => Target::Account(someone),
        };
        let removed = store
            .remove(&target, &removal(Cause::UserSignOut))
            .await
            .unwrap();
        assert_eq!(removed.len(), 1);
        if n % 2 == 0 {
            store.end_lease(&lease, holder).await.unwrap();
        }
        if n % 100 == 99 {
            let holder = OperationId::random();
            loop {
                let items = store.outbox_take(holder, HOLD).await.unwrap();
                if items.is_empty() {
                    break;
                }
                for item in items {
                    store.outbox_done(&item).await.unwrap();
                }
            }
        }
    }
    pass(&server, MARK_FOR);
    assert_eq!(server.keys().len(), before, "{:?}", server.keys());
}

/// By Redis' own clock.
#[tokio::test]
async fn a_sign_in_ends_by_the_clock_of_the_server_and_is_collected_r42() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let idle = Duration::from_millis(500);
    let mut short = entry("ann");
    short.lifetimes = Lifetimes {
        idle,
        absolute: idle * 100,
    };
    let begun = std::time::Instant::now();
    let ann = sign_in(&store, &account(1), short).await;
    assert!(is_live(&store, &ann).await || begun.elapsed() >= idle);
    assert!(
        store
            .due(&removal(Cause::Operator))
            .await
            .unwrap()
            .is_empty()
            || begun.elapsed() >= idle
    );
    tokio::time::sleep(idle).await;
    assert!(!is_live(&store, &ann).await);
    let due = store.due(&removal(Cause::Operator)).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].cause, Cause::Idle);
}

#[tokio::test]
async fn what_is_not_readable_is_not_there_and_does_not_stop_a_sign_out() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    let bob = sign_in(&store, &account(1), entry("bob")).await;
    let key = format!(
        "axum-signout:{{{:02x}}}:account:{}",
        account(1).bucket(),
        account(1)
    );
    let field = format!("h{}", ann.address.id);
    let whole = server.cli(&["HGET", &key, &field]);
    let head: String = whole.split_inclusive(':').take(8).collect();
    server.cli(&["HSET", &key, &field, "nonsense"]);
    assert!(!is_live(&store, &ann).await, "no head");
    assert_eq!(store.unreadable(), 1);
    server.cli(&["HSET", &key, &field, &format!("{head}nonsense")]);
    assert!(!is_live(&store, &ann).await, "no entry");
    assert_eq!(store.unreadable(), 2);
    assert!(is_live(&store, &bob).await);
    let target = Target::Account(account(1));
    let removed = store
        .remove(&target, &removal(Cause::UserSignOut))
        .await
        .unwrap();
    assert_eq!(removed.len(), 1, "the other is told of");
    assert_eq!(store.stats().await.unwrap().sign_ins, 0, "both are gone");
}
