//! Sign-ins in the memory of this process.
//!
//! * 256 buckets, each behind its own lock, and as many stripes of selectors and of claims. No call holds two locks at
//!   once, waits for anything under one, or drops tokens under one: wiping them takes longer than the look-up.
//! * What must happen in one step happens in one bucket. What lies elsewhere, the selectors, follows in an order that
//!   every interruption survives: members come before the entry and go after it.
//! * A call clears away a little of what has ended; [`due`](super::TokenStore::due) clears away the rest. Nothing runs in
//!   the background.

mod answers;
mod bucket;
mod builder;
mod evict;
mod expiring;
mod index;
mod marks;
mod names;
mod outbox;
mod quota;
mod selectors;
mod slab;
mod store;
mod stripes;
mod timers;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use self::bucket::{Bucket, Context, Refusal};
pub use self::builder::MemoryTokenStoreBuilder;
use self::evict::Spread;
use self::expiring::Expiring;
use self::names::{Names, Rooms};
use self::quota::Quota;
use self::selectors::Selectors;
use self::stripes::{STRIPES, Stripes, lock};
use super::{
    Created, Entry, Registered, Removal, Removed, Result, Started, StoreError, StoreErrorKind,
};
use crate::clock::{Clock, Timestamp};
use crate::id::{AccountHash, Address, ClaimName, OperationId, Selector};

/// Fewest marks and causes that a bucket, or a stripe of selectors, remembers.
const MIN_MARKS: usize = 1024;

/// How many ended claims, leases and members a call clears away.
const PURGE_STEP: usize = 4;

/// Whose and which items a holder was handed.
type Items = Box<[(AccountHash, OperationId)]>;

/// Keeps sign-ins in this process: gone when it ends, unknown to others.
///
/// # Limits
///
/// The number of everything is limited, see [`MemoryTokenStoreBuilder`]; a sign-in takes at most 512 bytes besides its
/// tokens. What was answered is remembered for [`REPEAT_WINDOW`](super::REPEAT_WINDOW), so the tokens of a sign-in stay
/// in memory for that long after its removal, out of reach of every look-up; so do those that wait in the outbox. At most
/// 262,144 removed sign-ins are kept for that reason, and up to 64 batches that
/// [`due`](super::TokenStore::due) handed out.
///
/// Marks and causes are limited too, to the number of sign-ins or 262,144, whichever is more. When there are more, the
/// ones that would end first are forgotten, and in their place sign-ins that started before them are refused in the
/// whole bucket: some users begin again, nothing comes back.
///
/// # Example
///
/// ```
/// use axum_signout::store::{MemoryTokenStore, TokenStore};
///
/// # fn main() -> Result<(), axum_signout::ConfigError> {
/// let store = MemoryTokenStore::builder().max_sign_ins(10_000).build()?;
/// assert!(!store.is_shared());
/// # Ok(()) }
/// ```
pub struct MemoryTokenStore {
    clock: Arc<dyn Clock>,
    /// The last stamp that was given out.
    last: AtomicU64,
    buckets: Stripes<Bucket>,
    selectors: Stripes<Selectors>,
    names: Stripes<Names>,
    batches: Mutex<Expiring<OperationId, Vec<Removed>>>,
    holders: Mutex<Expiring<OperationId, Items>>,
    sign_ins: Quota,
    members: Quota,
    claims: Rooms,
    outbox: Quota,
    max_per_account: usize,
    spread: Spread,
}

impl MemoryTokenStore {
    /// A store with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Self::builder())
    }

    /// Sets limits.
    pub fn builder() -> MemoryTokenStoreBuilder {
        MemoryTokenStoreBuilder::new()
    }

    fn with(builder: MemoryTokenStoreBuilder) -> Self {
        let max_marks = (builder.max_sign_ins / STRIPES).max(MIN_MARKS);
        let max_selectors = builder
            .max_selectors
            .unwrap_or(builder.max_sign_ins.saturating_mul(4));
        Self {
            clock: builder.clock,
            last: AtomicU64::new(0),
            buckets: Stripes::new(|| Bucket::new(max_marks)),
            selectors: Stripes::new(|| Selectors::new(max_marks)),
            names: Stripes::new(Names::default),
            batches: Mutex::default(),
            holders: Mutex::default(),
            sign_ins: Quota::new(builder.max_sign_ins),
            members: Quota::new(max_selectors),
            claims: Rooms::new(builder.max_claims),
            outbox: Quota::new(builder.max_outbox),
            max_per_account: builder.max_sign_ins_per_account,
            spread: Spread::default(),
        }
    }

    /// The time, later at each call.
    fn stamp(&self) -> Timestamp {
        let now = self.clock.steady().as_micros();
        let later = |last: u64| Some(now.max(last.saturating_add(1)));
        let (Ok(last) | Err(last)) =
            self.last
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
        Timestamp::from_micros(now.max(last.saturating_add(1)))
    }

    /// The time for look-ups, which leave the counter alone: it would be the one thing that all of them fight for.
    fn read_clock(&self) -> Timestamp {
        let last = Timestamp::from_micros(self.last.load(Ordering::Acquire));
        self.clock.steady().max(last)
    }

    /// Changes a bucket. The time is read under the lock, so that it grows from call to call within a bucket.
    fn in_bucket<R>(&self, bucket: u8, work: impl FnOnce(&mut Bucket, Context<'_>) -> R) -> R {
        let mut guard = self.buckets.lock(bucket);
        let context = Context {
            now: self.stamp(),
            sign_ins: &self.sign_ins,
            outbox: &self.outbox,
            max_per_account: self.max_per_account,
        };
        let result = work(&mut guard, context);
        guard.purge_some(context);
        let trash = guard.take_trash();
        drop(guard);
        drop(trash);
        result
    }

    fn in_selectors<R>(
        &self,
        selector: &Selector,
        work: impl FnOnce(&mut Selectors, Timestamp) -> R,
    ) -> R {
        let mut guard = self.selectors.lock(selector.as_bytes()[0]);
        let now = self.stamp();
        guard.purge(PURGE_STEP, now, &self.members);
        work(&mut guard, now)
    }

    fn in_names<R>(&self, name: &ClaimName, work: impl FnOnce(&mut Names, Timestamp) -> R) -> R {
        let mut guard = self.names.lock(name.as_bytes()[0]);
        let now = self.read_clock();
        guard.purge(PURGE_STEP, now, &self.claims);
        work(&mut guard, now)
    }

    /// Tries again after everything that has ended was cleared away.
    fn unless_full<R>(&self, what: &str, work: impl Fn() -> Option<R>) -> Result<R> {
        if let Some(done) = work() {
            return Ok(done);
        }
        self.purge();
        work().ok_or_else(|| StoreError::new(StoreErrorKind::Full, format!("too many {what}")))
    }

    fn purge(&self) {
        let now = self.read_clock();
        for stripe in 0..=u8::MAX {
            self.in_bucket(stripe, |bucket, context| bucket.purge(usize::MAX, context));
        }
        for mut selectors in self.selectors.each() {
            selectors.purge(usize::MAX, now, &self.members);
        }
        for mut names in self.names.each() {
            names.purge(usize::MAX, now, &self.claims);
        }
        // Each is dropped after its lock is left.
        while let Some(ended) = { lock(&self.batches).pop_ended(now) } {
            drop(ended);
        }
        while lock(&self.holders).pop_ended(now).is_some() {}
    }

    fn register_at(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
    ) -> Result<Registered> {
        self.unless_full("selectors", || {
            self.in_selectors(selector, |selectors, now| {
                selectors.register(selector, address, started, now, &self.members)
            })
        })
    }

    /// Members of what is gone. They are left after the bucket: a closing in between returns an address at which there
    /// is nothing, which its caller's removal finds out.
    fn leave<'a>(&self, selectors: impl IntoIterator<Item = &'a Selector>, address: &Address) {
        for selector in selectors {
            // Nothing is added that would have to be cleared away, so no time is read.
            let mut selectors = self.selectors.lock(selector.as_bytes()[0]);
            selectors.unregister(selector, address, &self.members);
        }
    }

    fn leave_all(&self, removed: &[Removed]) {
        for removed in removed {
            self.leave(&removed.entry.selectors, &removed.address);
        }
    }

    /// Registers where that was not done, or so long ago that it was undone, and keeps the members for as long as the
    /// entry is there.
    fn bind(&self, entry: &Entry, address: &Address, started: &Started) -> Result<bool> {
        for selector in &entry.selectors {
            if self.register_at(selector, address, started)? == Registered::Refused {
                return Ok(false);
            }
            self.in_selectors(selector, |selectors, _| {
                selectors.confirm(selector, address)
            });
        }
        Ok(true)
    }

    /// What was registered for a sign-in that came too late goes; where another is at the address, it is that one's.
    fn refuse(&self, refusal: Refusal, entry: &Entry, address: &Address) -> Created {
        if refusal == Refusal::Late {
            self.leave(&entry.selectors, address);
        }
        Created::Refused
    }

    fn evict_over_limit(&self, keep: &Address, removal: &Removal, evicted: &mut Vec<Removed>) {
        while self.sign_ins.is_exceeded() {
            let Some(removed) = self.evict_one(keep, removal) else {
                break;
            };
            evicted.push(removed);
        }
    }
}

impl Default for MemoryTokenStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryTokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTokenStore")
            .field("sign_ins", &self.sign_ins)
            .field("members", &self.members)
            .field("claims", &self.claims)
            .field("outbox", &self.outbox)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
