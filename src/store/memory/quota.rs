//! Limits that hold over all buckets.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many of something there are, and may be.
#[derive(Debug)]
pub(super) struct Quota {
    used: AtomicUsize,
    max: usize,
}

impl Quota {
    pub(super) fn new(max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            max,
        }
    }

    /// Counts one more, unless the limit is reached.
    pub(super) fn try_take(&self) -> bool {
        let more = |used| (used < self.max).then_some(used + 1);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .is_ok()
    }

    /// Counts one more, over the limit too.
    pub(super) fn take(&self) {
        self.used.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn give_back(&self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn is_exceeded(&self) -> bool {
        self.used() > self.max
    }
}
