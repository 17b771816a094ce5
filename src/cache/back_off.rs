//! Pauses between attempts to refresh a sign-in whose last one failed (R30).
//!
//! They outlive the requests that made the attempts, so they are kept here and not with what requests hold; only for sign-ins
//! that failed lately, and each node has its own. An outage that hits many is the provider's [`Circuit`](crate::provider::Circuit)
//! to notice, which also keeps the number of entries small.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::id::SignInId;
use crate::provider::REFRESH_PAUSE;

/// Beyond this no pause of a sign-in is remembered.
const MOST: usize = 10_000;

/// So long after its end a pause still says that there was trouble, and the next failure makes a longer one.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

#[derive(Debug, Default)]
pub(super) struct BackOff(Mutex<HashMap<SignInId, Paused>>);

#[derive(Clone, Copy, Debug)]
struct Paused {
    until: Timestamp,
    failures: u32,
    outage: bool,
}

/// A refresh failed lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// Until the next attempt may be made; nothing if it may be made now.
    pub(super) left: Duration,
    /// Whether the provider is away. Else it refused, or a store failed: that keeps those from asking who have a token,
    /// and nobody else.
    pub(super) outage: bool,
}

impl BackOff {
    fn lock(&self) -> MutexGuard<'_, HashMap<SignInId, Paused>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn trouble(&self, id: &SignInId, now: Timestamp) -> Option<Trouble> {
        let paused = *self.lock().get(id)?;
        paused.is_remembered(now).then(|| Trouble {
            left: paused.until.since(now),
            outage: paused.outage,
        })
    }

    /// The provider is away; how long the pause is. `at_least` is what the provider or a lease asks for.
    pub(super) fn outage(&self, id: SignInId, now: Timestamp, at_least: Duration) -> Duration {
        self.note(id, now, true, |failures| {
            let pause = REFRESH_PAUSE.after(failures);
            jittered(pause, &id, failures).max(at_least)
        })
    }

    /// An earlier attempt may still arrive: the next one has to wait for so long.
    pub(super) fn hold(&self, id: SignInId, now: Timestamp, left: Duration) {
        if self
            .trouble(&id, now)
            .is_none_or(|trouble| trouble.left < left)
        {
            self.outage(id, now, left);
        }
    }

    /// Something else went wrong.
    pub(super) fn refused(&self, id: SignInId, now: Timestamp) {
        self.note(id, now, false, |failures| REFRESH_PAUSE.after(failures));
    }

    fn note(
        &self,
        id: SignInId,
        now: Timestamp,
        outage: bool,
        pause: impl FnOnce(u32) -> Duration,
    ) -> Duration {
        let mut all = self.lock();
        if all.len() >= MOST {
            all.retain(|_, paused| paused.is_remembered(now));
        }
        let room = all.len() < MOST;
        let known = match all.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) if room => place.insert(Paused::none()),
            Entry::Vacant(_) => return pause(0),
        };
        if !known.is_remembered(now) {
            *known = Paused::none();
        }
        let running = now < known.until;
        let pause = pause(known.failures);
        // Whichever of two pauses is longer; that of an outage is for everybody until it ends.
        known.outage = outage || (running && known.outage);
        known.until = known.until.max(now.plus(pause));
        known.failures = known.failures.saturating_add(1);
        pause
    }

    pub(super) fn answered(&self, id: &SignInId) {
        self.lock().remove(id);
    }
}

impl Paused {
    fn none() -> Self {
        Self {
            until: Timestamp::default(),
            failures: 0,
            outage: false,
        }
    }

    fn is_remembered(&self, now: Timestamp) -> bool {
        now < self.until.plus(REMEMBERED)
    }
}

/// Where a sign-in stands among all, from 0 to 1: by its name, which is random, so that what is spread by it needs no memory.
pub(super) fn spread(id: &SignInId) -> f64 {
    let [.., a, b, c, d] = *id.as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, d])) / 2_f64.powi(32)
}

/// From half of the pause to all of it, and each time elsewhere in between.
fn jittered(pause: Duration, id: &SignInId, failures: u32) -> Duration {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    let place = (spread(id) + f64::from(failures) * GOLDEN).fract();
    pause.mul_f64((1.0 + place) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_000_000 + seconds as i64)
    }

    #[test]
    fn pauses_grow_to_a_minute_and_are_forgotten_r30() {
        let (back_off, id) = (BackOff::default(), SignInId::random());
        let mut now = at(0);
        for full in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = back_off.outage(id, now, Duration::ZERO);
            let full = Duration::from_secs(full);
            assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
            let trouble = back_off.trouble(&id, now).unwrap();
            assert!(trouble.left <= pause && trouble.outage);
            now = now.plus(pause);
            assert_eq!(back_off.trouble(&id, now).unwrap().left, Duration::ZERO);
        }
        now = now.plus(REMEMBERED);
        assert_eq!(back_off.trouble(&id, now), None);
        assert!(back_off.outage(id, now, Duration::ZERO) <= Duration::from_secs(1));
        back_off.answered(&id);
        assert_eq!(back_off.trouble(&id, now), None);
    }

    #[test]
    fn a_refusal_does_not_shorten_the_pause_of_an_outage_r30() {
        let (back_off, id) = (BackOff::default(), SignInId::random());
        back_off.outage(id, at(0), Duration::from_secs(30));
        back_off.refused(id, at(1));
        let trouble = back_off.trouble(&id, at(1)).unwrap();
        assert_eq!((trouble.left.as_secs(), trouble.outage), (29, true));
        back_off.refused(id, at(31));
        assert!(!back_off.trouble(&id, at(31)).unwrap().outage);
    }

    #[test]
    fn what_is_remembered_is_bounded_r30() {
        let back_off = BackOff::default();
        for _ in 0..MOST + 10 {
            back_off.outage(SignInId::random(), at(0), Duration::ZERO);
        }
        assert_eq!(back_off.lock().len(), MOST);
        let id = SignInId::random();
        assert_eq!(back_off.trouble(&id, at(0)), None);
        let later = at(2).plus(REMEMBERED);
        back_off.outage(id, later, Duration::ZERO);
        assert_eq!(back_off.lock().len(), 1);
    }

    #[test]
    fn names_spread_evenly() {
        let mut tenths = [0; 10];
        for _ in 0..10_000 {
            tenths[(spread(&SignInId::random()) * 10.0) as usize] += 1;
        }
        assert!(tenths.iter().all(|n| (800..1200).contains(n)), "{tenths:?}");
    }
}
