//! 256 locks.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One value with its own lock for each first byte of a name. No caller holds two of them.
pub(super) struct Stripes<T>(Box<[Mutex<T>]>);

/// How many there are: one for each value of a byte, so that there is one for every name.
pub(super) const STRIPES: usize = 256;

impl<T> Stripes<T> {
    pub(super) fn new(make: impl Fn() -> T) -> Self {
        Self((0..STRIPES).map(|_| Mutex::new(make())).collect())
    }

    pub(super) fn lock(&self, stripe: u8) -> MutexGuard<'_, T> {
        lock(&self.0[usize::from(stripe)])
    }

    /// One after the other, not all at once.
    pub(super) fn each(&self) -> impl Iterator<Item = MutexGuard<'_, T>> {
        self.0.iter().map(lock)
    }
}

/// Nothing that runs under these locks calls foreign code, so a panic there, which would be a bug, leaves values that
/// are whole: going on serves better than failing every later sign-out.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> fmt::Debug for Stripes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stripes")
    }
}
