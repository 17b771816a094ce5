//! What this node carried out of late: memory of it is what a master that lost it is told again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::keys::BUCKETS;
use super::script::Call;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{AccountHash, Address, Selector, SignInId};
use crate::store::{Generation, Removal, Removed, RevokeRule, Started, Target};

/// For how long an eviction is remembered: the hour that lies between two snapshots of a Redis that few write to
/// (`save 3600 1`, its default), and an hour of being away.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(2 * 60 * 60);

/// How many evictions each bucket remembers; some 100,000 altogether, of about 300 bytes.
const MOST: usize = 400;

/// For how long refreshed tokens are remembered: what a failover loses is younger by far.
const WRITES_KEPT_FOR: Duration = Duration::from_secs(60);

/// How many bytes of refreshed tokens each bucket remembers: 16 MiB altogether.
const MOST_WRITTEN: usize = 64 * 1024;

/// A sign-in that was taken out.
#[derive(Debug, PartialEq)]
pub(super) struct Left {
    pub(super) id: SignInId,
    pub(super) cause: Cause,
    pub(super) to_revoke: bool,
    pub(super) selectors: Box<[Selector]>,
}

impl Left {
    fn of(removed: &Removed) -> Self {
        Self {
            id: removed.address.id,
            cause: removed.cause,
            to_revoke: removed.to_revoke,
            selectors: removed.entry.selectors.clone(),
        }
    }
}

/// Which sign-ins a removal meant besides those that it took out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Meant {
    NoOther,
    /// All that had been created by then.
    Account,
    /// The same, but for one.
    AccountExcept(SignInId),
}

/// A removal.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) account: AccountHash,
    pub(super) meant: Meant,
    pub(super) left: Box<[Left]>,
    pub(super) cause: Cause,
    pub(super) revoke: RevokeRule,
    pub(super) mark: Marked,
}

impl Gone {
    pub(super) fn means(&self, id: &SignInId, created: Timestamp) -> Option<Cause> {
        if let Some(left) = self.left.iter().find(|left| left.id == *id) {
            return Some(left.cause);
        }
        let meant = match &self.meant {
            Meant::NoOther => false,
            Meant::Account => true,
            Meant::AccountExcept(keep) => keep != id,
        };
        (meant && created <= self.mark.at).then_some(self.cause)
    }
}

/// When it was done, by the store's clock, and what was left behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marked {
    pub(super) at: Timestamp,
    pub(super) mark_for: Duration,
    pub(super) logout_iat: Option<i64>,
}

impl Marked {
    pub(super) fn new(at: Timestamp, removal: &Removal) -> Self {
        Self {
            at,
            mark_for: removal.mark_for,
            logout_iat: removal.logout_iat,
        }
    }

    pub(super) fn has_ended(&self, now: Timestamp) -> bool {
        self.at.plus(self.mark_for) <= now
    }

    /// As `mark_refuses` of `prelude.lua` has it.
    fn refuses(&self, started: &Started) -> bool {
        let too_early = started.at.map(|start| self.at >= start);
        match (self.logout_iat, started.id_token_iat) {
            (None, _) => too_early == Some(true),
            (Some(logout), Some(iat)) if iat > logout => false,
            (Some(_), iat) => too_early.unwrap_or(iat.is_some()),
        }
    }
}

/// A selector that was closed.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) selector: Selector,
    pub(super) mark: Marked,
}

/// Tokens that were written in place of others that are spent.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) address: Address,
    pub(super) generation: Generation,
    pub(super) call: Call,
}

#[derive(Debug)]
pub(super) enum Done {
    Removal(Gone),
    Closing(Closed),
    Write(Written),
    /// A session was deleted, or was to be. By the hash of its id.
    #[cfg_attr(
        not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
        allow(dead_code, reason = "there are no sessions")
    )]
    Session([u8; 32]),
}

impl Done {
    /// What a removal did; `None` if it meant nothing that could come back.
    pub(super) fn removal(
        account: &AccountHash,
        target: Option<&Target>,
        removal: &Removal,
        at: Timestamp,
        removed: &[Removed],
    ) -> Option<Self> {
        let mut left: Vec<Left> = removed.iter().map(Left::of).collect();
        let meant = match target {
            Some(Target::Account(_)) => Meant::Account,
            Some(Target::AccountExcept(_, keep)) => Meant::AccountExcept(*keep),
            Some(Target::SignIn(address)) => {
                // One at which nothing was is remembered too: its creation may be under way.
                if left.iter().all(|left| left.id != address.id) {
                    left.push(Left {
                        id: address.id,
                        cause: removal.cause,
                        to_revoke: false,
                        selectors: [].into(),
                    });
                }
                Meant::NoOther
            }
            Some(Target::SignInAt(..)) | None => Meant::NoOther,
        };
        if left.is_empty() && meant == Meant::NoOther {
            return None;
        }
        Some(Self::Removal(Gone {
            account: *account,
            meant,
            left: left.into(),
            cause: removal.cause,
            revoke: removal.revoke,
            mark: Marked::new(at, removal),
        }))
    }

    pub(super) fn closing(selector: &Selector, removal: &Removal, at: Timestamp) -> Self {
        Self::Closing(Closed {
            selector: *selector,
            mark: Marked::new(at, removal),
        })
    }

    fn bucket(&self) -> u8 {
        match self {
            Self::Removal(gone) => gone.account.bucket(),
            Self::Closing(closed) => closed.selector.as_bytes()[0],
            Self::Write(written) => written.address.account.bucket(),
            Self::Session(name) => name[0],
        }
    }
}

type Kept = VecDeque<(Instant, Arc<Done>)>;

#[derive(Debug, Default)]
struct Bucket {
    evictions: Kept,
    writes: Kept,
    written: usize,
}

impl Bucket {
    fn push(&mut self, done: Arc<Done>) {
        let now = Instant::now();
        match &*done {
            Done::Write(written) => {
                self.written += written.call.size();
                self.writes.push_back((now, done));
            }
            Done::Removal(_) | Done::Closing(_) | Done::Session(_) => {
                self.evictions.push_back((now, done))
            }
        }
        self.forget(now);
    }

    /// What is too old, or too much.
    fn forget(&mut self, now: Instant) {
        let is_old = |(at, _): &(Instant, Arc<Done>), limit| now.duration_since(*at) > limit;
        while let Some(first) = self.evictions.front() {
            if self.evictions.len() <= MOST && !is_old(first, KEPT_FOR) {
                break;
            }
            self.evictions.pop_front();
        }
        while let Some(first) = self.writes.front() {
            if self.written <= MOST_WRITTEN && !is_old(first, WRITES_KEPT_FOR) {
                break;
            }
            if let Some((_, done)) = self.writes.pop_front()
                && let Done::Write(written) = &*done
            {
                self.written -= written.call.size();
            }
        }
    }

    fn len(&self) -> usize {
        self.evictions.len() + self.writes.len()
    }
}

/// Bounded in number and in age. Each process remembers what it did itself.
#[derive(Debug)]
pub(super) struct Recent {
    buckets: Box<[Mutex<Bucket>]>,
    count: AtomicUsize,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
        }
    }
}

impl Recent {
    fn bucket(&self, bucket: u8) -> MutexGuard<'_, Bucket> {
        let bucket = &self.buckets[usize::from(bucket)];
        bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, bucket: u8, change: impl FnOnce(&mut Bucket)) {
        let mut bucket = self.bucket(bucket);
        let before = bucket.len();
        change(&mut bucket);
        // Wraps where there are fewer than before.
        let more = bucket.len().wrapping_sub(before);
        self.count.fetch_add(more, Ordering::SeqCst);
    }

    pub(super) fn add(&self, done: Arc<Done>) {
        self.change(done.bucket(), |bucket| bucket.push(done));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// What is remembered of a bucket, in its order, tokens first: a removal is the last that happens to a sign-in.
    pub(super) fn of(&self, bucket: u8) -> Vec<Arc<Done>> {
        if self.is_empty() {
            return Vec::new();
        }
        self.change(bucket, |bucket| bucket.forget(Instant::now()));
        let bucket = self.bucket(bucket);
        let all = bucket.writes.iter().chain(&bucket.evictions);
        all.map(|(_, done)| done.clone()).collect()
    }

    fn find<T>(&self, bucket: u8, find: impl Fn(&Done) -> Option<T>) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let bucket = self.bucket(bucket);
        bucket.evictions.iter().find_map(|(_, done)| find(done))
    }

    /// Why this node took a sign-in out, if it did.
    pub(super) fn cause(&self, address: &Address, created: Timestamp) -> Option<Cause> {
        self.find(address.account.bucket(), |done| match done {
            Done::Removal(gone) if gone.account == address.account => {
                gone.means(&address.id, created)
            }
            _ => None,
        })
    }

    /// Whether a removal of this node's refuses a sign-in of that account.
    pub(super) fn refuses(&self, account: &AccountHash, started: &Started, now: Timestamp) -> bool {
        let refused = self.find(account.bucket(), |done| match done {
            Done::Removal(gone) if gone.account == *account && gone.meant != Meant::NoOther => {
                Self::refused(&gone.mark, started, now)
            }
            _ => None,
        });
        refused.is_some()
    }

    /// The same of a selector.
    pub(super) fn closes(&self, selector: &Selector, started: &Started, now: Timestamp) -> bool {
        let refused = self.find(selector.as_bytes()[0], |done| match done {
            Done::Closing(closed) if closed.selector == *selector => {
                Self::refused(&closed.mark, started, now)
            }
            _ => None,
        });
        refused.is_some()
    }

    /// Whether this node has deleted a session.
    #[cfg_attr(
        not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
        allow(dead_code, reason = "there are no sessions")
    )]
    pub(super) fn deleted(&self, session: &[u8; 32]) -> bool {
        let deleted = self.find(session[0], |done| match done {
            Done::Session(name) if name == session => Some(()),
            _ => None,
        });
        deleted.is_some()
    }

    fn refused(mark: &Marked, started: &Started, now: Timestamp) -> Option<()> {
        (!mark.has_ended(now) && mark.refuses(started)).then_some(())
    }
}
