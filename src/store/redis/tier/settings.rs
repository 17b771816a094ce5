//! What an app sets, and what it is told.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::error::ConfigError;
use crate::store::limits::check_limits;

/// Copies of sign-ins in the memory of each node: a request whose sign-in was looked up a moment ago does not ask Redis.
///
/// # What is guaranteed
///
/// *Without the tier* every request asks Redis: one that begins after a sign-out has returned, on whichever node, does not get
/// its tokens. One that began before it has them for a second at most.
///
/// *With the tier* the same holds on the node that signed out. On the others it holds from when they hear of it: each removal,
/// each new token set and each new session key is announced by the very script that makes the change, and the node that hears of it
/// forgets its copy, together with whatever a look-up under way brings. On a network that works that is a few milliseconds after the
/// script ran. If it is not heard, no look-up is answered by a copy later than
///
/// * 3 s after the sign-out returned, if the connection that the announcements come by was cut or has fallen silent, or this process stood
///   still (`SIGSTOP`, a machine that slept): a heartbeat goes through that connection every second, and a copy is served only if one was
///   answered that was sent within the last 3 s. That is checked when the copy is served, so a process that wakes up does not serve
///   what it had. A virtual machine that was stopped together with its clocks cannot tell, and may do so for 3 s of its time;
/// * [`good_for`](Self::good_for) after the copy was read, whatever happens: a failover that lost what was announced, keys that
///   somebody deleted by hand.
///
/// A request that began within that time has the tokens for another second at most, as without the tier. When announcements are heard
/// again, all copies from before are forgotten. In the meantime, and while Redis is away, every request asks Redis, as without the tier:
/// no outage is hidden.
///
/// Only what a request begins with comes from a copy. Whether a refresh is due, a handler that runs for longer than a second, lists of
/// sign-ins, and everything that changes something ask Redis, as do sign-ins that were not found. When a sign-in ends unless it is used
/// again may be told too early by as much as a copy is old, where another node has prolonged it; nobody is signed out for that.
///
/// # Memory
///
/// A copy takes what its tokens take, and about a kilobyte: with 4 KiB of tokens each, the default of 10,000 sign-ins takes 50 MiB. Those that
/// take more than 64 KiB in Redis are not copied; a copy of one that takes less, in thousands of short tokens, may be a few times that in memory.
/// A copy is wiped when it leaves, at the latest after twice [`good_for`](Self::good_for). Copies are not
/// encrypted: what can read this process' memory can read the tokens, as it can read those of the requests that it serves.
///
/// # Example
///
/// ```no_run
/// use std::time::Duration;
///
/// use axum_signout::store::{MemoryTier, RedisTokenStore};
///
/// # fn main() -> Result<(), axum_signout::ConfigError> {
/// let store = RedisTokenStore::builder("redis://127.0.0.1:6379")
///     .memory_tier(MemoryTier::new().max_sign_ins(50_000).good_for(Duration::from_secs(5)))
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryTier {
    pub(super) max_sign_ins: usize,
    pub(super) good_for: Duration,
}

const GOOD_FOR: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

impl MemoryTier {
    /// With the defaults.
    pub fn new() -> Self {
        Self {
            max_sign_ins: 10_000,
            good_for: Duration::from_secs(10),
        }
    }

    /// Most copies, by default 10,000: those who use the app at the same time, on one node. Which of more than that stay is up to how
    /// often they are looked up. For a moment there may be some hundreds more.
    pub fn max_sign_ins(mut self, max: usize) -> Self {
        self.max_sign_ins = max;
        self
    }

    /// How old a copy gets, counted from before it was read, by default 10 s, 100 ms to 1 min: long enough for the requests that a page
    /// makes, and the last bound on what a node does not hear of.
    pub fn good_for(mut self, good_for: Duration) -> Self {
        self.good_for = good_for;
        self
    }

    pub(in super::super) fn check(&self) -> Result<(), ConfigError> {
        check_limits(&[("memory_tier.max_sign_ins", self.max_sign_ins)])?;
        if !GOOD_FOR.contains(&self.good_for) {
            return Err(ConfigError::OutOfRange {
                what: "memory_tier.good_for",
                value: format!("{:?}", self.good_for),
                allowed: "100 ms to 1 min",
            });
        }
        Ok(())
    }
}

impl Default for MemoryTier {
    fn default() -> Self {
        Self::new()
    }
}

/// How a [`MemoryTier`] does, on this node, since the store was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierStats {
    /// Look-ups that a copy answered.
    pub hits: u64,
    /// Look-ups that Redis was asked for.
    pub misses: u64,
    /// Copies that there are.
    pub sign_ins: u64,
    /// For how many of the 256 buckets announcements are not heard at the moment, so that Redis is asked each time: 0 when all is
    /// well, 256 until the first subscription stands.
    pub bypassed: usize,
}
