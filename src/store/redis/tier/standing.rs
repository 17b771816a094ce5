//! Whether announcements are heard, bucket by bucket.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::keys::BUCKETS;
use super::super::news::{BEAT_LIMIT, Buckets, Moment};

/// Whatever was announced up to that moment was heard; `None` while a bucket is lost.
type Heard = Option<Moment>;

pub(super) struct Standing(Box<[Mutex<Heard>]>);

impl Default for Standing {
    /// Nothing is heard yet.
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| Mutex::new(None)).collect())
    }
}

impl Standing {
    fn lock(&self, bucket: u8) -> MutexGuard<'_, Heard> {
        let heard = self.0[usize::from(bucket)].lock();
        heard.unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stands(&self, bucket: u8) -> bool {
        self.lock(bucket).is_some()
    }

    /// Whether all was heard that was announced until a moment ago.
    pub(super) fn is_fresh(&self, bucket: u8) -> bool {
        let heard = *self.lock(bucket);
        heard.is_some_and(|heard| heard.elapsed() < BEAT_LIMIT)
    }

    pub(super) fn lost(&self, buckets: &Buckets) {
        for bucket in buckets.iter() {
            *self.lock(bucket) = None;
        }
    }

    /// What is loaded from now on was not announced to be stale before, so it is as if all had been heard until now.
    pub(super) fn stands_again(&self, buckets: &Buckets) {
        let now = Moment::now();
        for bucket in buckets.iter() {
            *self.lock(bucket) = Some(now);
        }
    }

    pub(super) fn beat(&self, buckets: &Buckets, sent: Moment) {
        for bucket in buckets.iter() {
            let mut heard = self.lock(bucket);
            // One that was sent before a loss says nothing of what came after; nor is what is known taken back.
            if heard.is_some_and(|heard| sent.elapsed() < heard.elapsed()) {
                *heard = Some(sent);
            }
        }
    }

    /// That all was heard up to a moment, and nothing since.
    #[cfg(test)]
    pub(super) fn pretend(&self, heard: Moment) {
        for bucket in 0..=u8::MAX {
            *self.lock(bucket) = Some(heard);
        }
    }

    /// How many buckets are bypassed.
    pub(super) fn bypassed(&self) -> usize {
        let fresh = (0..=u8::MAX).filter(|bucket| self.is_fresh(*bucket));
        BUCKETS - fresh.count()
    }
}
