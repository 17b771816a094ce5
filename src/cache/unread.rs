//! Sessions that a sign-out could not read, because their store was away: which sign-ins they name is not known, so these are
//! evicted when the store is back. First the session is read, then its sign-ins are evicted, and then its record is deleted.
//!
//! A request of such a session has that tried at once, and is not served before it is done: whoever has a copy of the cookie is
//! signed out on this node.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::evict::Order;
use super::inner::Cache;
use super::pending::FIRST_PAUSE;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::events::{self, Named, Retried};
use crate::id::Address;
use crate::session::{SessionData, SessionId};
use crate::store::{AnySessionStore, StoreError, StoreErrorKind};

/// Most sessions that are remembered at the same time: while the store is away, strangers can ask for the sign-out of any.
/// [`SessionOutcome::Unread`](crate::SessionOutcome::Unread) tells users.
const MAX_UNREAD: usize = 10_000;

/// Most sign-outs of one session that are remembered; of more, the last takes the place of the one before.
const MAX_SIGN_OUTS: usize = 8;

/// How long each step waits for the session store.
const SESSION_STORE_WAIT: Duration = Duration::from_secs(5);

/// A sign-out whose session could not be read.
pub(crate) struct LateSignOut {
    pub(crate) cause: Cause,
    pub(crate) correlation_id: String,
    /// What is to be evicted, by what the session turns out to name.
    pub(crate) orders: OrdersFor,
}

type OrdersFor = Box<dyn Fn(&[Address]) -> Vec<Order> + Send + Sync>;

struct Unread {
    id: SessionId,
    cause: Cause,
    correlation_id: Box<str>,
    /// By then what it named has ended by itself.
    until: Timestamp,
    sign_outs: Mutex<Vec<LateSignOut>>,
    /// Held while it is tried, so that hooks hear of it once.
    step: tokio::sync::Mutex<Step>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Read,
    Delete,
    Done,
}

impl Unread {
    fn sign_outs(&self) -> MutexGuard<'_, Vec<LateSignOut>> {
        self.sign_outs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct UnreadSessions {
    count: AtomicUsize,
    all: Mutex<HashMap<SessionId, Arc<Unread>>>,
}

impl UnreadSessions {
    fn all(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Unread>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn get(&self, id: &SessionId) -> Option<Arc<Unread>> {
        if self.count() == 0 {
            return None;
        }
        self.all().get(id).cloned()
    }

    /// It is done; `false` if another sign-out of it has come since.
    fn finish(&self, unread: &Unread) -> bool {
        let mut all = self.all();
        if !unread.sign_outs().is_empty() {
            return false;
        }
        all.remove(&unread.id);
        self.count.store(all.len(), Ordering::SeqCst);
        true
    }

    fn add(&self, id: SessionId, until: Timestamp, new: LateSignOut) -> Added {
        let mut all = self.all();
        if let Some(known) = all.get(&id) {
            let mut sign_outs = known.sign_outs();
            sign_outs.truncate(MAX_SIGN_OUTS - 1);
            sign_outs.push(new);
            return Added::Joined;
        }
        if all.len() >= MAX_UNREAD {
            return Added::Full;
        }
        let unread = Arc::new(Unread {
            id,
            cause: new.cause,
            correlation_id: new.correlation_id.as_str().into(),
            until,
            sign_outs: Mutex::new(vec![new]),
            step: tokio::sync::Mutex::new(Step::Read),
        });
        all.insert(id, unread.clone());
        self.count.store(all.len(), Ordering::SeqCst);
        Added::New(unread)
    }
}

/// What became of one more.
enum Added {
    New(Arc<Unread>),
    Joined,
    Full,
}

async fn bounded<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let done = tokio::time::timeout(SESSION_STORE_WAIT, work).await;
    let late = "the session store did not answer in time";
    done.unwrap_or_else(|_| Err(StoreError::new(StoreErrorKind::Unavailable, late)))
}

impl Cache {
    fn sessions(&self) -> Option<AnySessionStore> {
        let named = self.0.sessions.clone();
        named.or_else(|| self.0.store.session_store())
    }

    /// Remembers a session that is signed out and could not be read, and tries until it is done. To be called before its record is
    /// deleted. Whether it is tried; `None` where the session store is not known.
    pub(crate) fn sign_out_later(&self, id: SessionId, sign_out: LateSignOut) -> Option<bool> {
        let sessions = self.sessions()?;
        let (cause, correlation_id) = (sign_out.cause, sign_out.correlation_id.clone());
        let retried = self.remember(&sessions, id, sign_out);
        let error = "the session could not be read";
        events::eviction_pending(Named::Session, cause, &correlation_id, &error, retried);
        Some(retried != Retried::No)
    }

    fn remember(&self, sessions: &AnySessionStore, id: SessionId, new: LateSignOut) -> Retried {
        let lifetimes = self.0.config.lifetimes.absolute + self.0.config.pending_sign_in;
        let until = self.0.clock.steady().plus(lifetimes);
        let added = match self.0.unread.add(id, until, new) {
            Added::New(added) => added,
            Added::Joined => return Retried::Joined,
            Added::Full => return Retried::No,
        };
        sessions.records().hold(id.number());
        let (cache, sessions) = (self.clone(), sessions.clone());
        let tasks = &self.0.tasks;
        tasks.spawn(async move { cache.retry_unread(&sessions, &added).await });
        Retried::New
    }

    /// Whether a session is signed out although it could not be read.
    pub(crate) fn is_unread(&self, id: &SessionId) -> bool {
        self.0.unread.get(id).is_some()
    }

    /// Has done with a session that a sign-out could not read; nothing where there is none. What it named is evicted then, and
    /// whoever reads it finds nothing, or what has ended.
    pub(crate) async fn catch_up(&self, id: SessionId) -> Result<(), Error> {
        let (Some(unread), Some(sessions)) = (self.0.unread.get(&id), self.sessions()) else {
            return Ok(());
        };
        // A client that goes away must not stop an eviction halfway.
        let cache = self.clone();
        let tasks = &self.0.tasks;
        let done = tasks.spawn(async move { cache.settle_unread(&sessions, &unread).await });
        let unavailable = || Error::new(ErrorKind::StoreUnavailable, "the session store failed");
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err((Step::Read, error))) => Err(unavailable().with_source(error)),
            // What it names has ended.
            Ok(Err(_)) => Ok(()),
            Err(_) => Err(unavailable()),
        }
    }

    async fn retry_unread(&self, sessions: &AnySessionStore, unread: &Unread) {
        let mut pause = FIRST_PAUSE;
        loop {
            let last = self.rest(&mut pause).await;
            let Err((_, error)) = self.settle_unread(sessions, unread).await else {
                return;
            };
            // Still pending, and in the report of the shutdown.
            if last {
                return;
            }
            let correlation_id = &*unread.correlation_id;
            if self.give_up_unread(sessions, unread).await {
                tracing::error!(%error, correlation_id, "a session that could not be read is given up");
                return;
            }
            tracing::warn!(%error, correlation_id, "a session is still to be read after its sign-out");
        }
    }

    /// Whether its time is up.
    async fn give_up_unread(&self, sessions: &AnySessionStore, unread: &Unread) -> bool {
        let mut step = unread.step.lock().await;
        if *step == Step::Done || self.0.clock.steady() <= unread.until {
            return *step == Step::Done;
        }
        unread.sign_outs().clear();
        let given_up = self.0.unread.finish(unread);
        if given_up {
            *step = Step::Done;
            let id = unread.id.number();
            sessions.records().let_go(id);
            // The store may remember that it is to be deleted.
            let _ = bounded(sessions.records().delete(id)).await;
            let correlation_id = &unread.correlation_id;
            events::eviction_settled(Named::Session, unread.cause, correlation_id, true);
        }
        given_up
    }

    /// Tries it once, unless it is done. The error says which step failed.
    async fn settle_unread(
        &self,
        sessions: &AnySessionStore,
        unread: &Unread,
    ) -> Result<(), (Step, StoreError)> {
        let mut step = unread.step.lock().await;
        let (records, id) = (sessions.records(), unread.id.number());
        while *step != Step::Done {
            if !unread.sign_outs().is_empty() {
                *step = Step::Read;
                let read = bounded(records.read(id, SessionData::KEY)).await;
                let held = read.map_err(|error| (Step::Read, error))?;
                self.evict_late(unread, held).await;
                *step = Step::Delete;
            }
            let deleted = bounded(records.delete(id)).await;
            deleted.map_err(|error| (Step::Delete, error))?;
            if self.0.unread.finish(unread) {
                *step = Step::Done;
                records.let_go(id);
                let correlation_id = &unread.correlation_id;
                events::eviction_settled(Named::Session, unread.cause, correlation_id, false);
            }
        }
        Ok(())
    }

    /// From here on they are the pending evictions' business, where the token store is away.
    async fn evict_late(&self, unread: &Unread, held: Option<Value>) {
        if held.is_none() {
            let correlation_id = &*unread.correlation_id;
            tracing::warn!(
                correlation_id,
                "the session of a sign-out was gone when its store was back: what it held is not known"
            );
        }
        let held = held.and_then(|held| SessionData::decode(&held));
        let held = held.unwrap_or_default().into_sign_ins();
        let addresses: Vec<Address> = held.iter().map(|one| one.address).collect();
        let sign_outs = std::mem::take(&mut *unread.sign_outs());
        for sign_out in sign_outs {
            let orders = (sign_out.orders)(&addresses);
            let evicted = self.evict(&orders, &sign_out.correlation_id).await;
            self.conclude_later(sign_out.cause, &sign_out.correlation_id, evicted);
        }
    }
}
