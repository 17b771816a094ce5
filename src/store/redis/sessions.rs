//! Sessions beside the sign-ins.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use serde::{Deserialize, Serialize};

use super::codec::{Codec, Place, Wiped};
use super::keys::Keys;
use super::link::Link;
use super::recent::Done;
use super::reply::maybe_bytes;
use crate::clock::{Clock, SystemClock};
use crate::id::{hash_parts, random};
use crate::store::{Records, Result};

/// Keeps the sessions of tower-sessions in the same Redis as the sign-ins, over the same connection. Made by
/// [`RedisTokenStore::sessions`](super::RedisTokenStore::sessions).
///
/// A session that was deleted stays deleted: a request that still ran when its user signed out saves nothing, and is
/// answered as if it had. One that was to be deleted while Redis was away is deleted as soon as it is back, before this node
/// reads anything; or, where a sign-out had yet to read it, after what it names was evicted. Session ids open sessions, so Redis sees their hashes only.
///
/// ```no_run
/// use axum_signout::store::RedisTokenStore;
/// use tower_sessions::SessionManagerLayer;
///
/// # fn main() -> Result<(), axum_signout::ConfigError> {
/// let store = RedisTokenStore::builder("redis://10.0.0.1:6379").build()?;
/// let sessions = SessionManagerLayer::new(store.sessions());
/// // and `Auth::builder(…).store(store)`
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RedisSessionStore {
    keys: Arc<Keys>,
    codec: Arc<Codec>,
    link: Arc<Link>,
}

/// Whether a session must be new, or must be there.
#[derive(Clone, Copy)]
enum Only {
    New,
    There,
}

/// How often an id that is taken is replaced by another. With 128 random bits the first is as good as sure.
const TRIES: usize = 8;

impl RedisSessionStore {
    pub(super) fn new(keys: Arc<Keys>, codec: Arc<Codec>, link: Arc<Link>) -> Self {
        Self { keys, codec, link }
    }

    fn name(id: i128) -> [u8; 32] {
        hash_parts("session", &[&id.to_be_bytes()])
    }

    /// `end` in nanoseconds since 1970. Returns whether it was written.
    async fn write(&self, id: i128, end: i128, only: Only, sealed: &[u8]) -> Result<bool> {
        let name = Self::name(id);
        let key = self.keys.session(&name);
        let now = i128::from(SystemClock::new().wall().as_micros()) * 1000;
        let left = u64::try_from(end.saturating_sub(now)).unwrap_or(0);
        let millis = Duration::from_nanos(left).as_millis().max(1) as u64;
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(sealed).arg("PX").arg(millis);
        set.arg(match only {
            Only::New => "NX",
            Only::There => "XX",
        });
        if !matches!(self.link.send(&set).await?, Value::Nil) {
            return Ok(true);
        }
        // What was sent again, because the first answer was lost, finds what it wrote itself.
        match only {
            Only::New => Ok(self.read(&key).await?.as_deref() == Some(sealed)),
            Only::There => Ok(false),
        }
    }

    async fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let mut get = redis::cmd("GET");
        get.arg(key);
        maybe_bytes(self.link.send(&get).await?)
    }

    /// The nonce tells two creations apart, of which either could be a repetition of the other.
    fn seal(&self, id: i128, record: &impl Serialize) -> Result<Vec<u8>> {
        let nonce: [u8; 16] = random();
        self.codec.seal(Place::Session(&Self::name(id)), |plain| {
            rmp_serde::encode::write(plain, &(nonce, record)).ok()
        })
    }

    async fn load<T: for<'de> Deserialize<'de>>(&self, id: i128) -> Result<Option<T>> {
        let loaded = self.load_held(id).await?;
        let held = self.link.replay().recent.holds(&Self::name(id));
        Ok(loaded.filter(|_| !held))
    }

    /// Also where it is held back from requests.
    async fn load_held<T: for<'de> Deserialize<'de>>(&self, id: i128) -> Result<Option<T>> {
        let name = Self::name(id);
        let sealed = self.read(&self.keys.session(&name)).await?;
        // A cluster may have lost that, and another Redis may have refused it.
        if self.link.replay().recent.deleted(&name) {
            return Ok(None);
        }
        Ok(sealed.and_then(|sealed| {
            self.codec
                .open(Place::Session(&name), &Wiped(sealed), |plain| {
                    let (_, record): ([u8; 16], T) = rmp_serde::from_slice(plain).ok()?;
                    Some(record)
                })
        }))
    }

    async fn delete(&self, id: i128) -> Result<()> {
        if self.link.replay().recent.holds(&Self::name(id)) {
            return Ok(());
        }
        self.delete_held(id).await
    }

    async fn delete_held(&self, id: i128) -> Result<()> {
        let name = Self::name(id);
        let mut delete: Cmd = redis::cmd("DEL");
        delete.arg(self.keys.session(&name));
        // Remembered first: if Redis is away, it is deleted before this node is served again.
        self.link.replay().recent.add(Arc::new(Done::Session(name)));
        self.link.send(&delete).await.map(drop)
    }
}

#[cfg(feature = "tower-sessions-015")]
use tower_sessions::session::Record as AnyRecord;
#[cfg(all(feature = "tower-sessions-014", not(feature = "tower-sessions-015")))]
use tower_sessions_014::session::Record as AnyRecord;

/// Both versions write the same.
#[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
#[async_trait::async_trait]
impl Records for RedisSessionStore {
    async fn read(&self, id: i128, key: &str) -> Result<Option<serde_json::Value>> {
        let record: Option<AnyRecord> = self.load_held(id).await?;
        Ok(record.map(|mut record| record.data.remove(key).unwrap_or_default()))
    }

    async fn delete(&self, id: i128) -> Result<()> {
        self.delete_held(id).await
    }

    fn hold(&self, id: i128) {
        self.link.replay().recent.hold(Self::name(id));
    }

    fn let_go(&self, id: i128) {
        self.link.replay().recent.let_go(&Self::name(id));
    }
}

impl fmt::Debug for RedisSessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSessionStore")
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

macro_rules! version {
    ($feature:literal, $crate_name:ident) => {
        #[cfg(feature = $feature)]
        #[async_trait::async_trait]
        impl $crate_name::SessionStore for RedisSessionStore {
            async fn create(
                &self,
                record: &mut $crate_name::session::Record,
            ) -> $crate_name::session_store::Result<()> {
                let failed = |error: crate::store::StoreError| {
                    $crate_name::session_store::Error::Backend(error.to_string())
                };
                for _ in 0..TRIES {
                    let sealed = self.seal(record.id.0, record).map_err(failed)?;
                    let end = record.expiry_date.unix_timestamp_nanos();
                    let written = self.write(record.id.0, end, Only::New, &sealed).await;
                    if written.map_err(failed)? {
                        return Ok(());
                    }
                    record.id = $crate_name::session::Id::default();
                }
                let text = "no free session id was found".to_owned();
                Err($crate_name::session_store::Error::Backend(text))
            }

            async fn save(
                &self,
                record: &$crate_name::session::Record,
            ) -> $crate_name::session_store::Result<()> {
                let failed = |error: crate::store::StoreError| {
                    $crate_name::session_store::Error::Backend(error.to_string())
                };
                let sealed = self.seal(record.id.0, record).map_err(failed)?;
                let end = record.expiry_date.unix_timestamp_nanos();
                let written = self.write(record.id.0, end, Only::There, &sealed).await;
                if !written.map_err(failed)? {
                    tracing::debug!("a session that was deleted is not saved");
                }
                Ok(())
            }

            async fn load(
                &self,
                id: &$crate_name::session::Id,
            ) -> $crate_name::session_store::Result<Option<$crate_name::session::Record>> {
                let loaded = RedisSessionStore::load(self, id.0).await;
                loaded
                    .map_err(|error| $crate_name::session_store::Error::Backend(error.to_string()))
            }

            async fn delete(
                &self,
                id: &$crate_name::session::Id,
            ) -> $crate_name::session_store::Result<()> {
                let deleted = RedisSessionStore::delete(self, id.0).await;
                deleted
                    .map_err(|error| $crate_name::session_store::Error::Backend(error.to_string()))
            }
        }
    };
}

version!("tower-sessions-015", tower_sessions);
version!("tower-sessions-014", tower_sessions_014);
