//! What this node carried out of late: memory of it is what a master that lost it is told again.

use std::collections::{HashSet, VecDeque};
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

/// How many bytes of them: 64 MiB altogether, for accounts that had many sign-ins.
const MOST_EVICTED: usize = 256 * 1024;

/// How many deleted sessions each bucket remembers. They leave no eviction out: whoever makes up cookies has sessions
/// deleted that never were.
const MOST_SESSIONS: usize = 400;

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
    fn has_taken_out(&self, done: &Done) -> bool {
        let Done::Write(Written { address, .. }) = done else {
            return false;
        };
        self.account == address.account && self.left.iter().any(|left| left.id == address.id)
    }

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

impl Drop for Written {
    fn drop(&mut self) {
        self.call.zeroize();
    }
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

    /// About how many bytes it takes to keep.
    fn size(&self) -> usize {
        let more = match self {
            Self::Removal(gone) => {
                let selectors = gone.left.iter().map(|left| left.selectors.len());
                gone.left.len() * size_of::<Left>()
                    + selectors.sum::<usize>() * size_of::<Selector>()
            }
            Self::Write(written) => written.call.size(),
            Self::Closing(_) | Self::Session(_) => 0,
        };
        size_of::<Self>() + more
    }
}

/// The latest of them, bounded in number, in bytes and in age.
#[derive(Debug, Default)]
struct Kept {
    all: VecDeque<(Instant, Arc<Done>)>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, at: Instant, done: Arc<Done>) {
        self.bytes += done.size();
        self.all.push_back((at, done));
    }

    /// The latest stays, however large it is.
    fn forget(&mut self, now: Instant, age: Duration, most: usize, bytes: usize) {
        while let Some((at, done)) = self.all.front() {
            let is_too_much = self.all.len() > most || (self.bytes > bytes && self.all.len() > 1);
            if !is_too_much && now.duration_since(*at) <= age {
                break;
            }
            self.bytes -= done.size();
            self.all.pop_front();
        }
    }

    fn retain(&mut self, keep: impl Fn(&Done) -> bool) {
        self.all.retain(|(_, done)| keep(done));
        self.bytes = self.all.iter().map(|(_, done)| done.size()).sum();
    }
}

#[derive(Debug, Default)]
struct Bucket {
    evictions: Kept,
    sessions: Kept,
    writes: Kept,
}

impl Bucket {
    fn push(&mut self, done: Arc<Done>) {
        let now = Instant::now();
        match &*done {
            // It does not drive out all others.
            Done::Write(_) if done.size() > MOST_WRITTEN => {}
            Done::Write(_) => self.writes.push(now, done),
            Done::Session(_) => self.sessions.push(now, done),
            Done::Closing(_) => self.evictions.push(now, done),
            Done::Removal(gone) => {
                // Tokens of sign-ins that are gone are written no more.
                self.writes.retain(|done| !gone.has_taken_out(done));
                self.evictions.push(now, done);
            }
        }
        self.forget(now);
    }

    /// What is too old, or too much.
    fn forget(&mut self, now: Instant) {
        self.evictions.forget(now, KEPT_FOR, MOST, MOST_EVICTED);
        self.sessions
            .forget(now, KEPT_FOR, MOST_SESSIONS, usize::MAX);
        self.writes
            .forget(now, WRITES_KEPT_FOR, usize::MAX, MOST_WRITTEN);
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Done>> {
        let kept = [&self.writes, &self.evictions, &self.sessions];
        let all = kept.into_iter().flat_map(|kept| &kept.all);
        all.map(|(_, done)| done)
    }

    fn len(&self) -> usize {
        let kept = [&self.writes, &self.evictions, &self.sessions];
        kept.map(|kept| kept.all.len()).iter().sum()
    }
}

/// Bounded in number, in bytes and in age. Each process remembers what it did itself.
#[derive(Debug)]
pub(super) struct Recent {
    buckets: Box<[Mutex<Bucket>]>,
    count: AtomicUsize,
    /// Sessions that are read once more before they are deleted. Bounded by who asks for it.
    held: Mutex<HashSet<[u8; 32]>>,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| Mutex::default()).collect(),
            count: AtomicUsize::new(0),
            held: Mutex::default(),
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

    /// What is too old, of all buckets.
    pub(super) fn forget(&self) {
        if self.is_empty() {
            return;
        }
        let now = Instant::now();
        for bucket in 0..=u8::MAX {
            self.change(bucket, |bucket| bucket.forget(now));
        }
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
        self.bucket(bucket).all().cloned().collect()
    }

    fn find<T>(&self, bucket: u8, find: impl Fn(&Done) -> Option<T>) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        let bucket = self.bucket(bucket);
        let mut all = bucket.evictions.all.iter();
        all.find_map(|(_, done)| find(done))
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
        if self.is_empty() {
            return false;
        }
        let bucket = self.bucket(session[0]);
        let mut all = bucket.sessions.all.iter();
        all.any(|(_, done)| matches!(&**done, Done::Session(name) if name == session))
    }

    fn held(&self) -> MutexGuard<'_, HashSet<[u8; 32]>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on requests do not find this session, nor delete it.
    #[cfg_attr(
        not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
        allow(dead_code, reason = "there are no sessions")
    )]
    pub(super) fn hold(&self, session: [u8; 32]) {
        self.held().insert(session);
    }

    #[cfg_attr(
        not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
        allow(dead_code, reason = "there are no sessions")
    )]
    pub(super) fn holds(&self, session: &[u8; 32]) -> bool {
        self.held().contains(session)
    }

    #[cfg_attr(
        not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
        allow(dead_code, reason = "there are no sessions")
    )]
    pub(super) fn let_go(&self, session: &[u8; 32]) {
        self.held().remove(session);
    }

    fn refused(mark: &Marked, started: &Started, now: Timestamp) -> Option<()> {
        (!mark.has_ended(now) && mark.refuses(started)).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::script;
    use super::*;
    use crate::id::OperationId;

    fn removal(target: Option<&Target>, account: &AccountHash) -> Arc<Done> {
        let removal = Removal {
            operation: OperationId::random(),
            cause: Cause::Operator,
            revoke: RevokeRule::Nothing,
            mark_for: Duration::from_secs(60),
            logout_iat: None,
        };
        let at = Timestamp::from_secs(1);
        let done = Done::removal(account, target, &removal, at, &[]);
        Arc::new(done.expect("it means something"))
    }

    fn written(address: Address, bytes: usize) -> Arc<Done> {
        let call = Call::new(&script::REPLACE, [], [String::new(), String::new()]);
        Arc::new(Done::Write(Written {
            address,
            generation: Generation(2),
            call: call.arg(vec![7; bytes]),
        }))
    }

    fn address() -> Address {
        Address {
            account: AccountHash::of(&[b"test"]),
            id: SignInId::random(),
        }
    }

    fn count(recent: &Recent) -> usize {
        recent.count.load(Ordering::SeqCst)
    }

    #[test]
    fn a_write_that_does_not_fit_drives_out_none() {
        let (recent, address) = (Recent::default(), address());
        recent.add(written(address, 1000));
        recent.add(written(address, MOST_WRITTEN));
        let kept = recent.of(address.account.bucket());
        assert!(matches!(&kept[..], [one] if one.size() < 2000));
        for _ in 0..100 {
            recent.add(written(address, 1000));
        }
        let kept = recent.of(address.account.bucket());
        assert!(kept.iter().map(|one| one.size()).sum::<usize>() <= MOST_WRITTEN);
        assert_eq!(kept.len(), count(&recent));
        assert!((40..100).contains(&kept.len()), "{}", kept.len());
    }

    #[test]
    fn tokens_are_forgotten_with_their_sign_in() {
        let (recent, address) = (Recent::default(), address());
        let other = Address {
            id: SignInId::random(),
            ..address
        };
        recent.add(written(address, 10));
        recent.add(written(other, 10));
        recent.add(removal(Some(&Target::SignIn(address)), &address.account));
        let kept = recent.of(address.account.bucket());
        let [write, gone] = &kept[..] else {
            panic!("{kept:?}");
        };
        assert!(matches!(&**write, Done::Write(write) if write.address == other));
        assert!(matches!(&**gone, Done::Removal(_)));
        assert_eq!(count(&recent), 2);
    }

    #[test]
    fn sessions_that_are_deleted_drive_out_no_eviction() {
        let (recent, address) = (Recent::default(), address());
        recent.add(removal(Some(&Target::SignIn(address)), &address.account));
        let mut last = [0; 32];
        for n in 0..10_000_u32 {
            last = [address.account.bucket(); 32];
            last[1..5].copy_from_slice(&n.to_be_bytes());
            recent.add(Arc::new(Done::Session(last)));
        }
        assert_eq!(count(&recent), 1 + MOST_SESSIONS);
        let cause = recent.cause(&address, Timestamp::from_secs(1));
        assert_eq!(cause, Some(Cause::Operator));
        assert!(recent.deleted(&last));
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let (mut bucket, address) = (Bucket::default(), address());
        bucket.push(written(address, 10));
        bucket.push(removal(
            Some(&Target::Account(address.account)),
            &address.account,
        ));
        let now = Instant::now();
        bucket.forget(now + WRITES_KEPT_FOR + Duration::from_secs(1));
        assert_eq!(bucket.len(), 1);
        bucket.forget(now + KEPT_FOR + Duration::from_secs(1));
        assert_eq!(
            (bucket.len(), bucket.evictions.bytes, bucket.writes.bytes),
            (0, 0, 0)
        );
    }
}
