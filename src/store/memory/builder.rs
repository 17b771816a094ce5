//! The limits of a memory store.

use std::sync::Arc;

use super::MemoryTokenStore;
use crate::clock::{Clock, SystemClock};
use crate::error::ConfigError;
use crate::store::limits::check_limits;

/// Sets up a [`MemoryTokenStore`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryTokenStoreBuilder {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) max_sign_ins: usize,
    pub(super) max_sign_ins_per_account: usize,
    pub(super) max_selectors: Option<usize>,
    pub(super) max_claims: usize,
    pub(super) max_outbox: usize,
}

impl MemoryTokenStoreBuilder {
    pub(super) fn new() -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            max_sign_ins: 250_000,
            max_sign_ins_per_account: 100,
            max_selectors: None,
            max_claims: 1_000_000,
            max_outbox: 100_000,
        }
    }

    /// Where the store reads the time, by default the operating system. Lifetimes count in its
    /// [steady](Clock::steady) reading.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Most sign-ins at a time, by default 250,000: with tokens of 4 KiB for each a little over 1 GiB, which a process
    /// of an ordinary size survives. One more and about the least recently used leaves, with cause
    /// [`Cause::Capacity`](crate::Cause::Capacity): the best of some that are looked at, all of them in a small store.
    pub fn max_sign_ins(mut self, max: usize) -> Self {
        self.max_sign_ins = max;
        self
    }

    /// Most sign-ins of one account, by default 100: more browsers than a person has, few enough that nobody crowds
    /// out the others. One more and the least recently used of the account leaves.
    pub fn max_sign_ins_per_account(mut self, max: usize) -> Self {
        self.max_sign_ins_per_account = max;
        self
    }

    /// Most members of selectors, by default four for each sign-in that there may be: a sign-in has one or two, and one
    /// that was begun and abandoned keeps its own for an hour. At the limit sign-ins are refused.
    pub fn max_selectors(mut self, max: usize) -> Self {
        self.max_selectors = Some(max);
        self
    }

    /// Most claims, and most leases, by default 1,000,000, some 150 MiB: logout tokens of ten minutes at more than a
    /// thousand a second. At the limit whoever claims is refused.
    pub fn max_claims(mut self, max: usize) -> Self {
        self.max_claims = max;
        self
    }

    /// Most tokens that wait to be revoked, by default 100,000: sign-outs of some hours while the provider is away. At
    /// the limit a removal goes on, and says of its tokens that they are not to be revoked.
    pub fn max_outbox(mut self, max: usize) -> Self {
        self.max_outbox = max;
        self
    }

    /// Checks the limits and makes the store.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] for a limit of zero, or above 2^31.
    pub fn build(self) -> Result<MemoryTokenStore, ConfigError> {
        let limits = [
            ("max_sign_ins", self.max_sign_ins),
            ("max_sign_ins_per_account", self.max_sign_ins_per_account),
            ("max_selectors", self.max_selectors.unwrap_or(1)),
            ("max_claims", self.max_claims),
            ("max_outbox", self.max_outbox),
        ];
        check_limits(&limits)?;
        Ok(MemoryTokenStore::with(self))
    }
}
