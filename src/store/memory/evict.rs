//! Which sign-in leaves when there are too many.

use std::sync::atomic::{AtomicU64, Ordering};

use super::MemoryTokenStore;
use super::stripes::STRIPES;
use crate::clock::Timestamp;
use crate::id::Address;
use crate::store::{Removal, Removed};

/// Up to so many sign-ins, all are looked at: the exact answer costs no more than sampling.
const EXACT: usize = 1024;

/// Above that, so many buckets, and so many slots in each. Of 64 random ones the least recently used belongs to the
/// oldest twentieth of all in 96 of 100 cases.
const BUCKETS: usize = 16;
const PICKS: usize = 4;

/// How often another is looked for when the one found was used, or removed, in the meantime.
const TRIES: usize = 8;

/// Numbers that spread well (SplitMix64). Nothing secret depends on them.
#[derive(Debug, Default)]
pub(super) struct Spread(AtomicU64);

impl Spread {
    pub(super) fn next(&self) -> u64 {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut z = self.0.fetch_add(step, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl MemoryTokenStore {
    /// Takes out about the least recently used, but not that at `keep`.
    pub(super) fn evict_one(&self, keep: &Address, removal: &Removal) -> Option<Removed> {
        for _ in 0..TRIES {
            let found = if self.sign_ins.used() > EXACT {
                self.sampled_oldest(keep).or_else(|| self.oldest(keep))
            } else {
                self.oldest(keep)
            }?;
            let bucket = found.1.account.bucket();
            let removed = self.in_bucket(bucket, |bucket, context| {
                bucket.evict(found, removal, context)
            });
            if removed.is_some() {
                return removed;
            }
        }
        None
    }

    fn oldest(&self, keep: &Address) -> Option<(Timestamp, Address)> {
        let buckets = self.buckets.each();
        buckets
            .filter_map(|bucket| bucket.oldest(keep, None))
            .min_by_key(|(used, _)| *used)
    }

    fn sampled_oldest(&self, keep: &Address) -> Option<(Timestamp, Address)> {
        let mut random = || self.spread.next();
        (0..BUCKETS)
            .filter_map(|_| {
                let stripe = (random() % STRIPES as u64) as u8;
                let bucket = self.buckets.lock(stripe);
                bucket.oldest(keep, Some((PICKS, &mut random)))
            })
            .min_by_key(|(used, _)| *used)
    }
}
