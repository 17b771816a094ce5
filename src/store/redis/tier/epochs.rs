//! Numbers that are raised by whatever makes copies stale.
//!
//! Accounts share them by their hash: a sign-out makes a handful of other sign-ins be looked up again, and takes neither a list
//! of what an account has here, nor of the loads under way.

use std::sync::atomic::{AtomicU64, Ordering};

use super::super::keys::BUCKETS;
use crate::id::AccountHash;

/// The number of an account's stripe at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch(u64);

pub(super) struct Epochs {
    numbers: Box<[AtomicU64]>,
    in_a_bucket: usize,
}

/// 32 KiB to 2 MiB.
const FEWEST: usize = 16;
const MOST: usize = 1024;

impl Epochs {
    /// For so many sign-ins: about two of them share a number.
    pub(super) fn new(sign_ins: usize) -> Self {
        let in_a_bucket = (sign_ins / 2 / BUCKETS).clamp(FEWEST, MOST);
        let numbers = (0..BUCKETS * in_a_bucket).map(|_| AtomicU64::new(0));
        Self {
            numbers: numbers.collect(),
            in_a_bucket,
        }
    }

    fn bucket(&self, bucket: u8) -> &[AtomicU64] {
        let first = usize::from(bucket) * self.in_a_bucket;
        &self.numbers[first..first + self.in_a_bucket]
    }

    fn number(&self, account: &AccountHash) -> &AtomicU64 {
        let [bucket, high, low, ..] = *account.as_bytes();
        let stripe = usize::from(u16::from_be_bytes([high, low])) % self.in_a_bucket;
        &self.bucket(bucket)[stripe]
    }

    pub(super) fn of(&self, account: &AccountHash) -> Epoch {
        Epoch(self.number(account).load(Ordering::SeqCst))
    }

    pub(super) fn raise(&self, account: &AccountHash) {
        self.number(account).fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn raise_all(&self, bucket: u8) {
        for number in self.bucket(bucket) {
            number.fetch_add(1, Ordering::SeqCst);
        }
    }
}
