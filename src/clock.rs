//! Two readings of time: the wall clock, for what is compared with other parties' clocks, and a reading that never
//! goes back, for lifetimes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A moment, in microseconds since 1970-01-01 UTC.
///
/// Arithmetic saturates: a lifetime that a provider states as `2^63` seconds ends late, and does not overflow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// Of a count of microseconds since 1970.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Of a count of seconds since 1970; what is before that becomes 1970.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        if seconds < 0 {
            Self(0)
        } else {
            Self((seconds as u64).saturating_mul(1_000_000))
        }
    }

    /// Microseconds since 1970.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        (self.0 / 1_000_000) as i64
    }

    /// This moment and a while later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// This moment and a while earlier.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(micros(duration)))
    }

    /// The time from `earlier` to this moment; zero if it lies after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Where the crate reads the time, so that tests can set it.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The wall clock: compared with times that the provider states (`iat`, `exp`, a token's end).
    fn wall(&self) -> Timestamp;

    /// A reading that never goes back and follows the wall clock forward: idle and absolute lifetimes count in it, so
    /// a wall clock that is set back prolongs nothing, and a machine that slept has aged its sign-ins.
    fn steady(&self) -> Timestamp;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
    /// Microseconds to add to the monotonic reading: the largest lead of the wall clock that was ever seen.
    lead: AtomicU64,
}

impl SystemClock {
    /// A clock that starts now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            lead: AtomicU64::new(0),
        }
    }

    /// The steady reading of a moment that is the present one.
    pub(crate) fn steady_at(&self, now: Instant) -> Timestamp {
        let elapsed = micros(now.saturating_duration_since(self.origin));
        let lead = self.wall().0.saturating_sub(elapsed);
        let known = self.lead.load(Ordering::Relaxed);
        let lead = if lead > known {
            self.lead.fetch_max(lead, Ordering::Relaxed).max(lead)
        } else {
            known
        };
        Timestamp(elapsed.saturating_add(lead))
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(micros(since_epoch))
    }

    fn steady(&self) -> Timestamp {
        self.steady_at(Instant::now())
    }
}

/// A clock that stands still until it is told to move.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug)]
pub struct ManualClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

#[cfg(any(test, feature = "testing"))]
impl ManualClock {
    /// A clock that shows the operating system's time and stands still.
    #[must_use]
    pub fn new() -> Self {
        Self::at(SystemClock::new().wall())
    }

    /// A clock that shows the given time and stands still.
    #[must_use]
    pub fn at(time: Timestamp) -> Self {
        Self {
            wall: AtomicU64::new(time.0),
            steady: AtomicU64::new(time.0),
        }
    }

    /// Moves both readings forward.
    pub fn advance(&self, by: Duration) {
        self.wall.fetch_add(micros(by), Ordering::SeqCst);
        self.steady.fetch_add(micros(by), Ordering::SeqCst);
    }

    /// Sets the wall clock, as an operator or NTP would: the steady reading follows it forward only.
    pub fn set_wall(&self, time: Timestamp) {
        let before = self.wall.swap(time.0, Ordering::SeqCst);
        self.steady
            .fetch_add(time.0.saturating_sub(before), Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "testing"))]
impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(any(test, feature = "testing"))]
impl Clock for ManualClock {
    fn wall(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::SeqCst))
    }

    fn steady(&self) -> Timestamp {
        Timestamp(self.steady.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steady_reading_starts_at_the_wall_clock_and_never_goes_back() {
        let clock = SystemClock::new();
        let wall = clock.wall();
        let mut last = clock.steady();
        assert!(last >= wall && last.since(wall) < Duration::from_secs(5));
        for _ in 0..1000 {
            let next = clock.steady();
            assert!(next >= last);
            last = next;
        }
    }

    #[test]
    fn setting_the_wall_clock_back_leaves_the_steady_reading() {
        let clock = ManualClock::at(Timestamp::from_secs(1000));
        clock.set_wall(Timestamp::from_secs(10));
        assert_eq!(clock.steady(), Timestamp::from_secs(1000));
        clock.set_wall(Timestamp::from_secs(20));
        assert_eq!(clock.steady(), Timestamp::from_secs(1010));
    }

    #[test]
    fn arithmetic_saturates() {
        let late = Timestamp::from_secs(i64::MAX).plus(Duration::MAX);
        assert_eq!(late.as_micros(), u64::MAX);
        assert_eq!(Timestamp::from_secs(-5), Timestamp::default());
    }
}
