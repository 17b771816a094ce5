//! How long a sign-in goes on, and prolonging it.

use std::time::Duration;

use super::inner::Cache;
use super::opened::{SignIn, ended};
use crate::clock::Timestamp;
use crate::error::Error;
use crate::store::{Lookup, Stored};

/// What is left of a sign-in's lifetimes, by the store's clock. Use is noted at most once every
/// [touch interval](crate::store::Lifetimes::touch_interval), so right after a request the idle time can be short of the
/// configured one by that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimeLeft {
    /// Until it ends if it is not used again.
    pub idle: Duration,
    /// Until it ends in any case.
    pub absolute: Duration,
}

impl TimeLeft {
    pub(crate) fn of(stored: &Stored, now: Timestamp) -> Self {
        let lifetimes = &stored.entry.lifetimes;
        Self {
            idle: stored.last_used.plus(lifetimes.idle).since(now),
            absolute: stored.created.plus(lifetimes.absolute).since(now),
        }
    }

    /// Until the first of the two ends it.
    #[must_use]
    pub fn until_end(&self) -> Duration {
        self.idle.min(self.absolute)
    }
}

impl SignIn {
    /// As the store has it now.
    pub(crate) async fn time_left(&self) -> Result<TimeLeft, Error> {
        self.left_in(self.cache()).await
    }

    /// Notes use. What is left afterwards.
    pub(crate) async fn prolong(&self) -> Result<TimeLeft, Error> {
        let cache = self.cache();
        if self.has_ended() || !cache.store().touch(&self.address()).await? {
            return Err(ended());
        }
        self.left_in(cache).await
    }

    async fn left_in(&self, cache: &Cache) -> Result<TimeLeft, Error> {
        let sent = cache.clock().steady();
        let stored = match cache.store().get(&self.address()).await? {
            Lookup::Live(stored) if !self.has_ended() => stored,
            _ => return Err(ended()),
        };
        self.keep(stored.clone(), sent);
        // After the look-up: what a slow store takes is not told as left.
        let now = cache.store().now().await?;
        Ok(TimeLeft::of(&stored, now))
    }
}
