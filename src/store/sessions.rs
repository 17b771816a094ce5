//! Where the app keeps its sessions, for what must be done there when no request is at hand.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::Result;
#[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
use super::{StoreError, StoreErrorKind};

/// A session store of tower-sessions, 0.15 or 0.14: the one that the app's session layer has. A request's session does not give
/// it away, so [`AuthBuilder::session_store`](crate::AuthBuilder::session_store) takes it.
///
/// ```
/// # #[cfg(feature = "tower-sessions-015")] {
/// use axum_signout::store::AnySessionStore;
/// use tower_sessions::{MemoryStore, SessionManagerLayer};
///
/// let store = MemoryStore::default();
/// let layer = SessionManagerLayer::new(store.clone());
/// let store = AnySessionStore::v015(store); // for `Auth::builder(…).session_store(store)`
/// # }
/// ```
#[derive(Clone)]
pub struct AnySessionStore(Arc<dyn Records>);

/// What is asked of it.
#[async_trait]
pub(crate) trait Records: Send + Sync + 'static {
    /// What a session's data holds under a key; `None` if there is no such session, and `Null` if it holds nothing there.
    async fn read(&self, id: i128, key: &str) -> Result<Option<Value>>;

    async fn delete(&self, id: i128) -> Result<()>;

    /// From now on, where the store can do that, requests do not find this session, and those that delete it do not: that is
    /// left to [`delete`](Self::delete) of this trait, so that it can be read before.
    fn hold(&self, _id: i128) {}

    /// It is not read any more.
    fn let_go(&self, _id: i128) {}
}

impl AnySessionStore {
    #[cfg_attr(
        not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
        allow(dead_code, reason = "there are no sessions")
    )]
    pub(crate) fn of(records: impl Records) -> Self {
        Self(Arc::new(records))
    }

    pub(crate) fn records(&self) -> &dyn Records {
        &*self.0
    }
}

impl fmt::Debug for AnySessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnySessionStore")
    }
}

macro_rules! version {
    ($feature:literal, $sessions:ident, $new:ident, $adapter:ident, $doc:literal) => {
        #[cfg(feature = $feature)]
        struct $adapter<S>(S);

        #[cfg(feature = $feature)]
        impl AnySessionStore {
            #[doc = $doc]
            pub fn $new(store: impl $sessions::SessionStore) -> Self {
                Self::of($adapter(store))
            }
        }

        #[cfg(feature = $feature)]
        #[async_trait]
        impl<S: $sessions::SessionStore> Records for $adapter<S> {
            async fn read(&self, id: i128, key: &str) -> Result<Option<Value>> {
                use $sessions::session_store::Error;
                match self.0.load(&$sessions::session::Id(id)).await {
                    Ok(None) => Ok(None),
                    Ok(Some(mut record)) => Ok(Some(record.data.remove(key).unwrap_or_default())),
                    // No second try will read it.
                    Err(Error::Decode(_)) => Ok(Some(Value::Null)),
                    // Its text may quote ids.
                    Err(Error::Backend(_) | Error::Encode(_)) => Err(failed()),
                }
            }

            async fn delete(&self, id: i128) -> Result<()> {
                let deleted = self.0.delete(&$sessions::session::Id(id)).await;
                deleted.map_err(|_| failed())
            }
        }
    };
}

version!(
    "tower-sessions-015",
    tower_sessions,
    v015,
    Of015,
    "A store of tower-sessions 0.15."
);
version!(
    "tower-sessions-014",
    tower_sessions_014,
    v014,
    Of014,
    "A store of tower-sessions 0.14."
);

#[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
fn failed() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "the session store failed")
}
