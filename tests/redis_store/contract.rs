//! The store keeps the contract, on one server and on a cluster.

use std::sync::Arc;

use axum_signout::KeyRing;
use axum_signout::clock::ManualClock;
use axum_signout::store::{MemoryTier, RedisTokenStore, RedisTokenStoreBuilder};
use axum_signout::testing::store_contract::{Limits, StoreUnderTest};
use tokio::sync::OnceCell;

use super::ear::Ear;
use crate::support::redis::RedisServer;

/// Races meet in many places of the network anyway, and each round takes a thousand times longer than in memory.
const ROUNDS: usize = 4;

fn build(builder: RedisTokenStoreBuilder, limits: Limits) -> (RedisTokenStore, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let store = builder
        .prefix(axum_signout::OperationId::random().to_string())
        .clock(clock.clone())
        .max_sign_ins(limits.max_sign_ins)
        .max_sign_ins_per_account(limits.max_sign_ins_per_account)
        .max_selectors(limits.max_selectors)
        .max_claims(limits.max_claims)
        .max_outbox(limits.max_outbox)
        .timeout(std::time::Duration::from_secs(30))
        .build()
        .expect("the limits are in range");
    (store, clock)
}

fn on_test((store, clock): (RedisTokenStore, Arc<ManualClock>)) -> StoreUnderTest {
    let advance = move |by| {
        clock.advance(by);
        async {}
    };
    StoreUnderTest::new(store, advance).rounds(ROUNDS)
}

fn under_test(builder: RedisTokenStoreBuilder, limits: Limits) -> StoreUnderTest {
    on_test(build(builder, limits))
}

/// With copies in memory, which are served from the beginning.
async fn with_a_tier(
    builder: RedisTokenStoreBuilder,
    limits: Limits,
    masters: usize,
) -> StoreUnderTest {
    let built = build(builder.memory_tier(MemoryTier::new()), limits);
    Ear::of(&built.0, masters).await;
    let tier = built.0.tier_stats().expect("it was just set");
    assert_eq!(tier.bypassed, 0);
    on_test(built)
}

mod one_server {
    use super::*;

    async fn redis(limits: Limits) -> StoreUnderTest {
        static SERVER: OnceCell<RedisServer> = OnceCell::const_new();
        let server = SERVER.get_or_init(RedisServer::start).await;
        under_test(RedisTokenStore::builder(server.url()), limits)
    }

    axum_signout::store_contract_tests!(redis);
}

mod one_server_encrypted {
    use super::*;

    async fn redis(limits: Limits) -> StoreUnderTest {
        static SERVER: OnceCell<RedisServer> = OnceCell::const_new();
        let server = SERVER.get_or_init(RedisServer::start).await;
        let builder = RedisTokenStore::builder(server.url());
        under_test(builder.encryption(KeyRing::new([7; 32])), limits)
    }

    axum_signout::store_contract_tests!(redis);
}

mod one_server_with_a_tier {
    use super::*;

    async fn redis(limits: Limits) -> StoreUnderTest {
        static SERVER: OnceCell<RedisServer> = OnceCell::const_new();
        let server = SERVER.get_or_init(RedisServer::start).await;
        with_a_tier(RedisTokenStore::builder(server.url()), limits, 1).await
    }

    axum_signout::store_contract_tests!(redis);
}

mod a_cluster {
    use super::*;
    use crate::support::redis::RedisCluster;

    async fn redis(limits: Limits) -> StoreUnderTest {
        static CLUSTER: OnceCell<RedisCluster> = OnceCell::const_new();
        let cluster = CLUSTER.get_or_init(RedisCluster::start).await;
        under_test(RedisTokenStore::cluster(cluster.urls()), limits)
    }

    axum_signout::store_contract_tests!(redis);
}

mod a_cluster_with_a_tier {
    use super::*;
    use crate::support::redis::RedisCluster;

    async fn redis(limits: Limits) -> StoreUnderTest {
        static CLUSTER: OnceCell<RedisCluster> = OnceCell::const_new();
        let cluster = CLUSTER.get_or_init(RedisCluster::start).await;
        with_a_tier(RedisTokenStore::cluster(cluster.urls()), limits, 3).await
    }

    axum_signout::store_contract_tests!(redis);
}
