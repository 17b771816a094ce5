//! The session stores that there are, for both versions of tower-sessions.

use axum::Router;
use tower_sessions_moka_store::MokaStore;
use tower_sessions_redis_store::RedisStore;
use tower_sessions_redis_store::fred::prelude::{ClientLike as _, Config, Pool};
use tower_sessions_sqlx_store::SqliteStore;
use tower_sessions_sqlx_store::sqlx::sqlite::SqlitePoolOptions;

use crate::app::{v014, v015};
use crate::running::{Nodes, World, nothing_comes_back};
use crate::support::faulty::Faults;
use crate::support::redis::RedisServer;

fn one_node(app: impl FnOnce(&Faults) -> Router, refuses_deleted: bool) -> Nodes {
    let faults = Faults::default();
    let router = app(&faults);
    Nodes {
        racing: router.clone(),
        other: router,
        faults,
        refuses_deleted,
    }
}

fn two_nodes(app: impl Fn(&Faults) -> Router) -> Nodes {
    let faults = Faults::default();
    Nodes {
        racing: app(&faults),
        other: app(&Faults::default()),
        faults,
        refuses_deleted: false,
    }
}

#[tokio::test]
async fn no_running_request_brings_a_session_back_from_memory_r43_a2() {
    let world = World::new().await;
    let store = tower_sessions::MemoryStore::default();
    let nodes = one_node(|faults| v015::app(&world.auth, store, faults), false);
    nothing_comes_back(&world, &nodes).await;
}

#[tokio::test]
async fn no_running_request_brings_a_session_back_from_memory_of_0_14_r43_a2() {
    let world = World::new().await;
    let store = tower_sessions_014::MemoryStore::default();
    let nodes = one_node(|faults| v014::app(&world.auth, store, faults), false);
    nothing_comes_back(&world, &nodes).await;
}

/// Each node has a memory of its own before the store that they share, and goes on serving from it what was deleted by another.
#[tokio::test]
async fn no_running_request_brings_a_session_back_from_a_nodes_own_memory_r43_a2() {
    use tower_sessions::{CachingSessionStore, MemoryStore};
    let world = World::new().await;
    let shared = MemoryStore::default();
    let nodes = two_nodes(|faults| {
        let store = CachingSessionStore::new(MemoryStore::default(), shared.clone());
        v015::app(&world.auth, store, faults)
    });
    nothing_comes_back(&world, &nodes).await;
}

#[tokio::test]
async fn no_running_request_brings_a_session_back_from_a_nodes_own_memory_of_0_14_r43_a2() {
    use tower_sessions_014::{CachingSessionStore, MemoryStore};
    let world = World::new().await;
    let shared = MemoryStore::default();
    let nodes = two_nodes(|faults| {
        let store = CachingSessionStore::new(MokaStore::new(None), shared.clone());
        v014::app(&world.auth, store, faults)
    });
    nothing_comes_back(&world, &nodes).await;
}

#[tokio::test]
async fn no_running_request_brings_a_session_back_from_moka_r43_a2() {
    let world = World::new().await;
    let store = MokaStore::new(Some(10_000));
    let nodes = one_node(|faults| v014::app(&world.auth, store, faults), false);
    nothing_comes_back(&world, &nodes).await;
}

#[tokio::test]
async fn no_running_request_brings_a_session_back_from_sqlite_r43_a2() {
    let world = World::new().await;
    // One connection: each would have a database of its own in memory.
    let options = SqlitePoolOptions::new().max_connections(1);
    let pool = options.connect("sqlite::memory:").await.unwrap();
    let store = SqliteStore::new(pool);
    store.migrate().await.unwrap();
    let nodes = one_node(|faults| v014::app(&world.auth, store, faults), false);
    nothing_comes_back(&world, &nodes).await;
}

/// This one refuses to save a session that was deleted, which tower-sessions answers with 500: without a session, and without a
/// cookie.
#[tokio::test]
async fn no_running_request_brings_a_session_back_from_redis_r43_a2() {
    let server = RedisServer::start().await;
    let pool = Pool::new(Config::from_url(server.url()).unwrap(), None, None, None, 2).unwrap();
    let _connection = pool.init().await.unwrap();
    let world = World::new().await;
    let store = RedisStore::new(pool);
    let nodes = one_node(|faults| v014::app(&world.auth, store, faults), true);
    nothing_comes_back(&world, &nodes).await;
}
