//! Redis away, and slow instead of away.

use std::time::{Duration, Instant};

use axum_signout::store::{
    Measurement, RedisTokenStore, Removal, RevokeRule, StoreErrorKind, Target, TokenStore,
};
use axum_signout::testing::store_contract::account;
use axum_signout::{Cause, Locator};

use super::replay::until;
use super::world::{entry, is_live, removal, selector, sign_in};
use crate::support::redis::{RedisCluster, RedisServer};

#[tokio::test]
async fn a_store_whose_server_comes_later_works_from_then_on() {
    let port = {
        let server = RedisServer::start().await;
        server.port()
    };
    let url = format!("redis://127.0.0.1:{port}");
    let store = RedisTokenStore::builder(url).build().unwrap();
    let error = store.now().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let server = RedisServer::start_at(port).await;
    // It is not tried again at once.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    assert!(is_live(&store, &ann).await);

    // Restarted, and empty: the scripts are unknown, the sign-in is gone, and the first call does not fail.
    drop(server);
    let _server = RedisServer::start_at(port).await;
    assert!(!is_live(&store, &ann).await);
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    assert!(is_live(&store, &ann).await);
}

#[tokio::test]
async fn a_server_that_is_gone_is_unavailable() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    drop(server);
    for _ in 0..3 {
        let target = Target::SignIn(ann.address);
        let remove = store.remove(&target, &removal(Cause::UserSignOut)).await;
        let kind = remove.unwrap_err().kind();
        assert!(matches!(
            kind,
            StoreErrorKind::Unavailable | StoreErrorKind::Unknown
        ));
    }
    let load = store.load(&[ann]).await;
    assert_eq!(load.unwrap_err().kind(), StoreErrorKind::Unavailable);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_unknown_within_the_time_that_was_set() {
    let server = RedisServer::start().await;
    let timeout = Duration::from_millis(300);
    let store = RedisTokenStore::builder(server.url())
        .timeout(timeout)
        .build()
        .unwrap();
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    let bob = sign_in(&store, &account(1), entry("bob")).await;
    // Without counting the outbox first, which would be a second step.
    let remove = async |locator: &Locator| {
        let removal = Removal {
            revoke: RevokeRule::Nothing,
            ..removal(Cause::UserSignOut)
        };
        let target = Target::SignIn(locator.address);
        store.remove(&target, &removal).await
    };
    // The server knows the script from now on.
    remove(&bob).await.unwrap();
    {
        let _paused = server.pause();
        let begun = Instant::now();
        let error = remove(&ann).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unknown);
        assert!(begun.elapsed() < timeout * 4, "{:?}", begun.elapsed());
    }
    // It goes on, and does what it was sent.
    assert!(!is_live(&store, &ann).await);
}

#[tokio::test]
async fn a_server_that_is_full_says_so_and_signs_out_all_the_same() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    server.cli(&[
        "CONFIG",
        "SET",
        "maxmemory-policy",
        "noeviction",
        "maxmemory",
        "1mb",
    ]);
    let locator = axum_signout::testing::store_contract::locator(&account(2));
    let mut entry = entry("bob");
    entry.selectors = [].into();
    let started = axum_signout::store::Started::default();
    let removal = removal(Cause::Capacity);
    let create = store.create(&locator, entry.into(), &started, &removal);
    assert_eq!(create.await.unwrap_err().kind(), StoreErrorKind::Full);
    // What is there is served.
    assert!(is_live(&store, &ann).await);
}

#[tokio::test]
async fn at_maxmemory_sign_ins_are_taken_out_and_selectors_closed() {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    let mut all = Vec::new();
    for n in [1, 2, 2, 3, 3] {
        all.push(sign_in(&store, &account(n), entry("ann")).await);
    }
    let limit = |limit: &str| server.cli(&["CONFIG", "SET", "maxmemory", limit]);
    limit("1mb");
    for (target, count) in [
        (Target::SignIn(all[0].address), 1),
        // At which nothing is any more.
        (Target::SignIn(all[0].address), 0),
        (Target::Account(account(2)), 2),
        (Target::AccountExcept(account(3), all[3].address.id), 1),
    ] {
        let removed = store.remove(&target, &removal(Cause::UserSignOut)).await;
        assert_eq!(removed.unwrap().len(), count, "{target:?}");
    }
    let closed = store.close(&selector(), &removal(Cause::BackChannel)).await;
    assert_eq!(closed.unwrap(), [all[3].address]);
    for gone in [&all[0], &all[1], &all[2], &all[4]] {
        assert!(!is_live(&store, gone).await);
    }
    assert!(is_live(&store, &all[3]).await);
    // They are to be revoked once there is room to note who does.
    limit("0");
    assert_eq!(store.stats().await.unwrap().outbox, 4);
}

/// The client of a cluster can come to a halt with all of its servers there; here they stand still, which to callers looks the same.
#[tokio::test]
async fn a_client_of_a_cluster_that_has_no_answer_of_any_master_is_made_anew() {
    let cluster = RedisCluster::start().await;
    let store = RedisTokenStore::cluster(cluster.urls());
    let store = store.timeout(Duration::from_millis(200)).build().unwrap();
    let ann = sign_in(&store, &account(1), entry("ann")).await;
    let is_connected = async || {
        let connected = Measurement::Gauge("axum_signout_redis_connected", 1.0);
        store.measure().await.contains(&connected)
    };
    assert!(is_connected().await);
    let paused: Vec<_> = cluster.masters().iter().map(RedisServer::pause).collect();
    assert!(store.now().await.is_err());
    until("it is kept", async || !is_connected().await).await;
    drop(paused);
    until("it is not made anew", async || store.now().await.is_ok()).await;
    assert!(is_live(&store, &ann).await);
}
