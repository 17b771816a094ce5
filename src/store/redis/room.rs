//! How much more there may be.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Result;

/// With less room than this every addition is preceded by a count.
const NEAR: u64 = 1024;

/// Which part of the room a node uses before it counts again: so many nodes at once do not exceed it.
const SHARE: u64 = 16;

/// What a removal may put into the outbox when counting fails: it must not fail by that.
const UNCOUNTED: u64 = 1024;

/// A limit on what all nodes keep together. Counting it asks every bucket; so far from the limit it is done now and then,
/// and close to it each time. There it holds but for what is added between a count and the addition.
#[derive(Debug)]
pub(super) struct Room {
    most: u64,
    /// What this node may add before it counts again.
    left: AtomicU64,
}

impl Room {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most as u64,
            left: AtomicU64::new(0),
        }
    }

    pub(super) fn most(&self) -> u64 {
        self.most
    }

    /// For how many there is room, as far as the next call needs to know.
    pub(super) async fn get(&self, count: impl Future<Output = Result<u64>>) -> Result<u64> {
        match self.left.load(Ordering::Relaxed) {
            0 => Ok(self.counted(count.await?)),
            left => Ok(left),
        }
    }

    /// As [`get`](Self::get), for what must go on where nobody can count.
    pub(super) async fn get_or_some(&self, count: impl Future<Output = Result<u64>>) -> u64 {
        self.get(count).await.unwrap_or(UNCOUNTED)
    }

    /// There are so many. Returns for how many more there is room.
    pub(super) fn counted(&self, count: u64) -> u64 {
        let room = self.most.saturating_sub(count);
        let left = if room < NEAR { 0 } else { room / SHARE };
        self.left.store(left, Ordering::Relaxed);
        room
    }

    pub(super) fn used(&self, count: u64) {
        let less = |left: u64| Some(left.saturating_sub(count));
        let _ = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether it has to be counted.
    pub(super) fn is_unknown(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoreError, StoreErrorKind};

    #[tokio::test]
    async fn it_is_counted_seldom_when_there_is_much_and_each_time_when_there_is_little() {
        let room = Room::new(100_000);
        let count = |count| async move { Ok(count) };
        let none = || async { Err(StoreError::new(StoreErrorKind::Unavailable, "away")) };
        assert_eq!(room.get(count(20_000)).await.unwrap(), 80_000);
        for _ in 0..5_000 {
            assert!(room.get(none()).await.is_ok());
            room.used(1);
        }
        assert!(room.get(none()).await.is_err(), "a sixteenth is used");
        for left in [1000, 10, 0] {
            assert_eq!(room.get(count(100_000 - left)).await.unwrap(), left);
            room.used(1);
        }
        assert_eq!(room.get(count(200_000)).await.unwrap(), 0);
        assert_eq!(room.get_or_some(none()).await, UNCOUNTED);
    }
}
