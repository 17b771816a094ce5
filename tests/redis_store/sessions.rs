//! Sessions in the same Redis.

use std::collections::HashMap;
use std::time::Duration;

use axum_signout::store::{RedisSessionStore, RedisTokenStore};
use tower_sessions::SessionStore;
use tower_sessions::cookie::time::OffsetDateTime;
use tower_sessions::session::{Id, Record};

use crate::support::redis::RedisServer;

fn record(text: &str, lives: Duration) -> Record {
    Record {
        id: Id::default(),
        data: HashMap::from([("text".to_owned(), text.into())]),
        expiry_date: OffsetDateTime::now_utc() + lives,
    }
}

const HOUR: Duration = Duration::from_secs(3600);

async fn start() -> (RedisServer, RedisSessionStore) {
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    (server, store.sessions())
}

#[tokio::test]
async fn a_session_is_kept_and_its_id_is_not_in_redis() {
    let (server, sessions) = start().await;
    let mut one = record("one", HOUR);
    sessions.create(&mut one).await.unwrap();
    assert_eq!(sessions.load(&one.id).await.unwrap(), Some(one.clone()));
    one.data.insert("text".into(), "two".into());
    for _ in 0..2 {
        sessions.save(&one).await.unwrap();
        assert_eq!(sessions.load(&one.id).await.unwrap(), Some(one.clone()));
    }
    assert_eq!(sessions.load(&Id::default()).await.unwrap(), None);
    let keys = server.keys();
    assert_eq!(keys.len(), 1);
    assert!(!keys[0].contains(&one.id.to_string()), "{keys:?}");
    let left: u64 = server.cli(&["PTTL", &keys[0]]).parse().unwrap();
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_save_never_brings_a_deleted_session_back_r43_a2() {
    let (server, sessions) = start().await;
    let mut one = record("one", HOUR);
    sessions.create(&mut one).await.unwrap();
    for _ in 0..2 {
        sessions.delete(&one.id).await.unwrap();
        sessions.save(&one).await.unwrap();
        assert_eq!(sessions.load(&one.id).await.unwrap(), None);
    }
    assert!(server.keys().is_empty());
}

#[tokio::test]
async fn a_new_session_never_takes_the_id_of_another() {
    let (_server, sessions) = start().await;
    let mut one = record("one", HOUR);
    sessions.create(&mut one).await.unwrap();
    let mut two = Record {
        id: one.id,
        ..record("two", HOUR)
    };
    sessions.create(&mut two).await.unwrap();
    assert_ne!(one.id, two.id);
    for record in [one, two] {
        assert_eq!(sessions.load(&record.id).await.unwrap(), Some(record));
    }
}

#[tokio::test]
async fn a_session_ends() {
    let (server, sessions) = start().await;
    let mut short = record("short", Duration::from_millis(200));
    sessions.create(&mut short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(sessions.load(&short.id).await.unwrap(), None);
    sessions.save(&short).await.unwrap();
    assert!(server.keys().is_empty());
}
