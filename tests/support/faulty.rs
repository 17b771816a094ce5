//! Stores that fail on demand: a token store and a session store, operation by operation.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum_signout::clock::{Clock, Timestamp};
use axum_signout::store::{
    Claim, Created, Downstream, Entry, Generation, Lease, Lookup, MemoryTokenStore,
    MemoryTokenStoreBuilder, OutboxItem, Registered, Removal, Removed, Replaced, Result,
    RetainedTokens, SignInInfo, Started, StoreError, StoreErrorKind, StoreStats, Target,
    TokenStore,
};
use axum_signout::testing::Gate;
use axum_signout::{
    AccessToken, AccountHash, Address, ClaimName, DownstreamName, KeyHash, Locator, OperationId,
    Selector,
};
use std::time::Duration;
use tower_sessions::session::{Id, Record};
use tower_sessions::{MemoryStore, SessionStore, session_store};

/// How an operation fails.
#[derive(Clone, Debug)]
pub enum Fail {
    /// It is not done.
    Unavailable,
    /// It is done, but the answer does not arrive.
    Unknown,
    /// A limit is reached.
    Full,
    /// It waits at a gate, and is done then.
    Hold(Gate),
    /// What is there cannot be read (sessions only).
    Garbage,
}

/// What goes wrong, by the operation's name.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<HashMap<&'static str, Fail>>>);

impl Faults {
    pub fn set(&self, operations: &[&'static str], fail: Fail) {
        let mut faults = self.0.lock().unwrap();
        for operation in operations {
            faults.insert(operation, fail.clone());
        }
    }

    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    pub fn of(&self, operation: &'static str) -> Option<Fail> {
        self.0.lock().unwrap().get(operation).cloned()
    }
}

/// All operations of a [`TokenStore`] that a request can need.
pub const ALL: &[&str] = &[
    "now",
    "register",
    "unregister",
    "create",
    "load",
    "get",
    "touch",
    "replace_if",
    "rekey",
    "remove",
    "close",
    "members",
    "list",
    "claim",
    "settle",
    "release",
    "lease",
    "end_lease",
    "due",
    "outbox_put",
    "outbox_take",
    "outbox_done",
    "outbox_retry",
];

#[derive(Clone, Debug)]
pub struct FaultyStore {
    pub inner: Arc<MemoryTokenStore>,
    pub faults: Faults,
    shared: bool,
}

impl FaultyStore {
    pub fn new() -> Self {
        Self::with(|builder| builder)
    }

    pub fn with(f: impl FnOnce(MemoryTokenStoreBuilder) -> MemoryTokenStoreBuilder) -> Self {
        Self {
            inner: Arc::new(f(MemoryTokenStore::builder()).build().unwrap()),
            faults: Faults::default(),
            shared: false,
        }
    }

    /// As one that other nodes work on as well.
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }

    /// What another node has of it, with faults of its own.
    pub fn elsewhere(&self) -> Self {
        Self {
            faults: Faults::default(),
            ..self.clone()
        }
    }

    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::with(|builder| builder.clock(clock))
    }
}

fn error(kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, "a fault of a test")
}

macro_rules! faulty {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl TokenStore for FaultyStore {
            fn is_shared(&self) -> bool {
                self.shared
            }
            $(async fn $name(&self, $($arg: $type),*) -> Result<$answer> {
                match self.faults.of(stringify!($name)) {
                    None => {}
                    Some(Fail::Unavailable | Fail::Garbage) => return Err(error(StoreErrorKind::Unavailable)),
                    Some(Fail::Full) => return Err(error(StoreErrorKind::Full)),
                    Some(Fail::Unknown) => {
                        self.inner.$name($($arg),*).await?;
                        return Err(error(StoreErrorKind::Unknown));
                    }
                    Some(Fail::Hold(gate)) => gate.pass().await,
                }
                self.inner.$name($($arg),*).await
            })*
        }
    };
}

faulty! {
    now() -> Timestamp;
    register(selector: &Selector, address: &Address, started: &Started) -> Registered;
    unregister(selector: &Selector, address: &Address) -> ();
    create(locator: &Locator, entry: Arc<Entry>, started: &Started, removal: &Removal) -> Created;
    load(locators: &[Locator]) -> Vec<Lookup>;
    get(address: &Address) -> Lookup;
    touch(address: &Address) -> bool;
    replace_if(address: &Address, generation: Generation, entry: Arc<Entry>, operation: OperationId) -> Replaced;
    rekey(locator: &Locator, new_key: &KeyHash) -> bool;
    remove(target: &Target, removal: &Removal) -> Vec<Removed>;
    close(selector: &Selector, removal: &Removal) -> Vec<Address>;
    members(selector: &Selector) -> Vec<Address>;
    list(account: &AccountHash) -> Vec<SignInInfo>;
    claim(name: &ClaimName, holder: OperationId, hold: Duration) -> Claim;
    settle(name: &ClaimName, holder: OperationId, keep: Duration) -> bool;
    release(name: &ClaimName, holder: OperationId) -> ();
    lease(name: &ClaimName, holder: OperationId, hold: Duration) -> Lease;
    end_lease(name: &ClaimName, holder: OperationId) -> ();
    put_downstream(address: &Address, downstream: Downstream) -> bool;
    get_downstream(address: &Address, name: &DownstreamName) -> Option<AccessToken>;
    due(removal: &Removal) -> Vec<Removed>;
    outbox_put(id: OperationId, account: &AccountHash, retained: RetainedTokens) -> ();
    outbox_take(holder: OperationId, hold: Duration) -> Vec<OutboxItem>;
    outbox_done(item: &OutboxItem) -> ();
    outbox_retry(item: &OutboxItem, after: Duration) -> ();
    stats() -> StoreStats;
}

/// A session store that fails on demand: `create`, `save`, `load`, `delete`.
#[derive(Clone, Debug, Default)]
pub struct FaultySessions {
    pub inner: MemoryStore,
    pub faults: Faults,
}

impl FaultySessions {
    async fn meet(&self, operation: &'static str) -> session_store::Result<()> {
        match self.faults.of(operation) {
            None => Ok(()),
            Some(Fail::Hold(gate)) => {
                gate.pass().await;
                Ok(())
            }
            Some(Fail::Garbage) => Err(session_store::Error::Decode("a fault of a test".into())),
            Some(_) => Err(session_store::Error::Backend("a fault of a test".into())),
        }
    }

    /// The record that a session's cookie names.
    pub async fn record(&self, cookie: &str) -> Option<Record> {
        self.inner.load(&cookie.parse().unwrap()).await.unwrap()
    }
}

#[async_trait]
impl SessionStore for FaultySessions {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.meet("create").await?;
        self.inner.create(record).await
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.meet("save").await?;
        self.inner.save(record).await
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        self.meet("load").await?;
        self.inner.load(id).await
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.meet("delete").await?;
        self.inner.delete(id).await
    }
}
