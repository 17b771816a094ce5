//! Copies of sign-ins in this process' memory, in front of Redis.
//!
//! # Rules
//!
//! * A copy is what a look-up found: head and entry of a live sign-in. What is not there, has ended, or opens with another
//!   key is never answered from here: Redis is asked.
//! * Accounts share [stripes](epochs), each with a number. A load notes its account's number before it is sent, and its copy is served for
//!   as long as the number is the same. Whatever makes a copy stale raises it: so a load that overlaps an invalidation leaves
//!   nothing behind that is served, in whatever order its answer and the news come in.
//! * Both numbers and clocks are looked at when a copy is served. No timer has to run in time for that, which a process that
//!   stood still could not promise.
//! * A copy's age counts from before its load was sent; the age of what was heard, from before the heartbeat was sent that was
//!   answered last.
//! * A call of this node's raises the number before it is sent and once it has ended, however it ends: answered, failed, or
//!   dropped.
//! * moka only says which copies leave when there are too many, and when they are old. It frees them when it finds the time; so
//!   each is in a [`Slot`](copies) that is emptied as soon as it leaves.

mod copies;
mod epochs;
mod settings;
mod standing;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::copies::{Copies, Known};
use self::epochs::{Epoch, Epochs};
pub use self::settings::{MemoryTier, TierStats};
use self::standing::Standing;
use super::head::Live;
use super::news::{Buckets, Listener, Moment, News};
use super::time::{Stamp, Time};
use crate::clock::Timestamp;
use crate::id::{AccountHash, Address, KeyHash};
use crate::store::Stored;

/// A sign-in that takes more bytes in Redis is not copied: that is what bounds the memory that so many sign-ins take.
const LARGEST: usize = 64 * 1024;

pub(super) struct Tier {
    copies: Copies,
    epochs: Epochs,
    standing: Standing,
    good_for: Duration,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Tier {
    pub(super) fn new(settings: &MemoryTier) -> Self {
        Self {
            copies: Copies::new(settings.max_sign_ins, settings.good_for),
            epochs: Epochs::new(settings.max_sign_ins),
            standing: Standing::default(),
            good_for: settings.good_for,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What is at an address, if the key opens it and this node knows that without asking.
    pub(super) fn find(&self, address: &Address, key: &KeyHash, time: &Time) -> Option<Stored> {
        let found = self.copies.get(address, |known| {
            let account = &address.account;
            let age = time.since(&known.sent);
            // After the copy was taken hold of, so that what is raised or lost by now counts.
            let is_current = age < self.good_for
                && self.standing.is_fresh(account.bucket())
                && self.epochs.of(account) == known.epoch;
            is_current.then(|| known.answer(key, age)).flatten()
        });
        let count = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// To be called before a load is sent. `None`: what it brings is not to be kept.
    pub(super) fn load<'a>(&'a self, address: &'a Address, time: &Time) -> Option<Load<'a>> {
        // First, so that it is raised by whatever stands again from here on.
        let epoch = self.epochs.of(&address.account);
        let stands = self.standing.stands(address.account.bucket());
        stands.then(|| Load {
            tier: self,
            address,
            epoch,
            sent: time.stamp(),
        })
    }

    /// From now on, and once more when what comes back is dropped, no copy of the account's sign-ins is served that was loaded
    /// before. `one` is wiped.
    pub(super) fn change<'a>(
        &'a self,
        account: &'a AccountHash,
        one: Option<&'a Address>,
    ) -> Change<'a> {
        let change = Change {
            tier: self,
            account,
            one,
        };
        change.make();
        change
    }

    /// Wipes the copy, and does not serve any of a load under way.
    pub(super) fn forget(&self, address: &Address) {
        self.epochs.raise(&address.account);
        self.copies.wipe(address);
    }

    pub(super) fn stats(&self) -> TierStats {
        TierStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            sign_ins: self.copies.count(),
            bypassed: self.standing.bypassed(),
        }
    }
}

/// The subscription tells what to forget, and whether it would.
impl Listener for Tier {
    fn heard(&self, news: &News) {
        self.forget(news.address());
    }

    fn lost(&self, buckets: &Buckets) {
        self.standing.lost(buckets);
    }

    fn stands(&self, buckets: &Buckets) {
        // First, so that nothing of before is served, nor what a load brings that was sent before.
        let raise = |bucket| self.epochs.raise_all(bucket);
        buckets.iter().for_each(raise);
        self.standing.stands_again(buckets);
    }

    fn beat(&self, buckets: &Buckets, sent: Moment) {
        self.standing.beat(buckets, sent);
    }
}

/// A load under way.
pub(super) struct Load<'a> {
    tier: &'a Tier,
    address: &'a Address,
    epoch: Epoch,
    sent: Stamp,
}

impl Load<'_> {
    /// Keeps what it has brought, which was so many bytes, at that time of the store's.
    pub(super) fn keep(self, head: &Live<'_>, stored: &Stored, size: usize, now: Timestamp) {
        let Some(key) = head.key_hash().filter(|_| size <= LARGEST) else {
            return;
        };
        if self.tier.epochs.of(&self.address.account) != self.epoch {
            return;
        }
        let known = Known {
            stored: stored.clone(),
            key,
            touch_at: stored.last_used.plus(head.lifetimes.touch_interval()),
            epoch: self.epoch,
            sent: self.sent,
            now,
        };
        self.tier.copies.keep(*self.address, known);
    }
}

/// A call that makes copies of an account's sign-ins stale.
pub(super) struct Change<'a> {
    tier: &'a Tier,
    account: &'a AccountHash,
    one: Option<&'a Address>,
}

impl Change<'_> {
    fn make(&self) {
        self.tier.epochs.raise(self.account);
        if let Some(address) = self.one {
            self.tier.copies.wipe(address);
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.make();
    }
}
