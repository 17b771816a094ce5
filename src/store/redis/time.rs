//! The store's clock, as far as a node knows it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[cfg(any(test, feature = "testing"))]
use std::sync::Arc;

use super::keys::BUCKETS;
use super::news::Moment;
use crate::clock::{Clock, SystemClock, Timestamp};

/// For how long what Redis said about its time is good for the next reads.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Doubles, in which Lua counts, hold integers up to 2^53.
pub(super) const MOST: u64 = 1 << 53;

/// No lifetime is longer: a hundred years. Added to any moment of ours it stays below 2^53 microseconds.
const LONGEST: u64 = 100 * 365 * 24 * 3600 * 1_000_000;

/// How much longer keys live where a test moves the clock: nothing may end by the real one.
const SLACK: &str = "86400000";

#[derive(Clone, Copy, Debug)]
struct Anchor {
    store: Timestamp,
    at: Instant,
    /// Notices a machine that slept, which [`Instant`] does not.
    steady: Timestamp,
}

/// A moment of this node's.
pub(super) enum Stamp {
    Real(Moment),
    /// By the clock that a test gave.
    Given(Timestamp),
}

/// Every answer of a script tells the time of the server that ran it. Until a second later the next reads count from
/// there, always a little too early: what was heard is older than its arrival. So nothing that has ended is taken for
/// live for longer than an answer takes, and nothing that is live for ended.
#[derive(Debug)]
pub(super) struct Time {
    anchors: Box<[Mutex<Option<Anchor>>]>,
    clock: SystemClock,
    last: AtomicU64,
    #[cfg(any(test, feature = "testing"))]
    given: Option<Arc<dyn Clock>>,
}

impl Time {
    /// In a cluster each bucket may be on a server, and so have a clock, of its own.
    pub(super) fn new(is_cluster: bool) -> Self {
        let servers = if is_cluster { BUCKETS } else { 1 };
        Self {
            anchors: (0..servers).map(|_| Mutex::default()).collect(),
            clock: SystemClock::new(),
            last: AtomicU64::new(0),
            #[cfg(any(test, feature = "testing"))]
            given: None,
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn given(mut self, clock: Option<Arc<dyn Clock>>) -> Self {
        self.given = clock;
        self
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn test_clock(&self) -> Option<&dyn Clock> {
        self.given.as_deref()
    }

    #[cfg(not(any(test, feature = "testing")))]
    pub(super) fn test_clock(&self) -> Option<&dyn Clock> {
        None
    }

    /// The present moment of this node, to count from.
    pub(super) fn stamp(&self) -> Stamp {
        match self.test_clock() {
            Some(clock) => Stamp::Given(clock.steady()),
            None => Stamp::Real(Moment::now()),
        }
    }

    pub(super) fn since(&self, stamp: &Stamp) -> Duration {
        match stamp {
            Stamp::Real(moment) => moment.elapsed(),
            Stamp::Given(then) => self
                .test_clock()
                .map_or(Duration::MAX, |clock| clock.steady().since(*then)),
        }
    }

    /// The first two arguments of every script.
    pub(super) fn arguments(&self) -> [String; 2] {
        match self.test_clock() {
            Some(clock) => {
                let now = self.later(clock.steady());
                [now.as_micros().to_string(), SLACK.to_owned()]
            }
            None => [String::new(), "0".to_owned()],
        }
    }

    /// Later than at any call before.
    pub(super) fn later(&self, now: Timestamp) -> Timestamp {
        let now = now.as_micros();
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        let (Ok(last) | Err(last)) =
            self.last
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        Timestamp::from_micros(now.max(last.saturating_add(1)))
    }

    fn anchor(&self, bucket: u8) -> std::sync::MutexGuard<'_, Option<Anchor>> {
        let at = usize::from(bucket) % self.anchors.len();
        self.anchors[at]
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What the server of a bucket has just said.
    pub(super) fn note(&self, bucket: u8, store: Timestamp) {
        if self.test_clock().is_some() {
            return;
        }
        let (at, steady) = (Instant::now(), self.clock.steady());
        *self.anchor(bucket) = Some(Anchor { store, at, steady });
    }

    /// The time at the server of a bucket, a little early; `None` if it has to be asked.
    pub(super) fn read(&self, bucket: u8) -> Option<Timestamp> {
        if let Some(clock) = self.test_clock() {
            let last = Timestamp::from_micros(self.last.load(Ordering::Acquire));
            return Some(clock.steady().max(last));
        }
        let anchor = (*self.anchor(bucket))?;
        // One reading for both: this is done for every request.
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(anchor.at);
        let is_good = elapsed.max(self.clock.steady_at(now).since(anchor.steady)) < GOOD_FOR;
        is_good.then(|| anchor.store.plus(elapsed))
    }
}

/// A moment as scripts take it.
pub(super) fn moment(time: Timestamp) -> String {
    time.as_micros().min(MOST).to_string()
}

/// A lifetime as scripts take it.
pub(super) fn lifetime(duration: Duration) -> String {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    micros.min(LONGEST).to_string()
}

/// Seconds of the provider's clock, or nothing.
pub(super) fn seconds(iat: Option<i64>) -> String {
    const MOST: i64 = 1 << 53;
    iat.map(|iat| iat.clamp(-MOST, MOST).to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_said_is_good_for_a_second_and_for_its_own_bucket() {
        let time = Time::new(true);
        assert_eq!(time.read(7), None);
        let said = Timestamp::from_secs(1000);
        time.note(7, said);
        let read = time.read(7).unwrap();
        assert!(read >= said && read.since(said) < GOOD_FOR);
        assert_eq!(time.read(8), None);
        if let Some(anchor) = &mut *time.anchor(7) {
            anchor.steady = anchor.steady.minus(GOOD_FOR);
        }
        assert_eq!(time.read(7), None, "the machine slept");
    }

    #[test]
    fn what_scripts_are_told_stays_exact_in_a_double() {
        let now = moment(Timestamp::from_micros(u64::MAX));
        assert_eq!(now, (1_u64 << 53).to_string());
        let today = SystemClock::new().wall().as_micros();
        let longest: u64 = lifetime(Duration::MAX).parse().unwrap();
        assert!(today + longest < MOST);
        assert_eq!(seconds(Some(i64::MAX)), (1_i64 << 53).to_string());
    }
}
