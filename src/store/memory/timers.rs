//! When slots are to be looked at: no task and no wheel turn for each, one heap item.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Timestamp;

/// One timer of one slot. The stamp is never used twice: a timer whose stamp is not the slot's is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Timer {
    at: Timestamp,
    pub(super) slot: u32,
    pub(super) stamp: u32,
}

/// Lazy timers: use of a sign-in does not move its timer. When it comes up too early it is set again.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Timer>>,
    last_stamp: u32,
}

impl Timers {
    /// Sets a timer; the stamp is what makes it valid. Never zero.
    pub(super) fn set(&mut self, at: Timestamp, slot: u32) -> u32 {
        self.last_stamp = self.last_stamp.wrapping_add(1).max(1);
        let stamp = self.last_stamp;
        self.heap.push(Reverse(Timer { at, slot, stamp }));
        stamp
    }

    /// Sets one that came up too early again.
    pub(super) fn set_again(&mut self, timer: Timer, at: Timestamp) {
        self.heap.push(Reverse(Timer { at, ..timer }));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When the first comes up.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(timer)| timer.at)
    }

    /// A timer whose time has come.
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(timer)| timer)
    }

    /// Drops void timers once they are a quarter of all: sign-ins that come and go within their lifetime would fill the
    /// heap otherwise.
    pub(super) fn tidy(&mut self, valid: usize, is_valid: impl Fn(&Timer) -> bool) {
        if self.heap.len() > valid + valid / 4 + 64 {
            self.heap.retain(|Reverse(timer)| is_valid(timer));
        }
    }
}
