//! When a provider is in trouble for everybody, not everybody needs to find out (R30): a circuit breaker for refreshes.
//!
//! Open, it lets nobody pass for a while; then one, the probe, whose answer closes it and whose failure keeps it open for longer.
//! It opens when the requests of several sign-ins in a row failed, so that one whose refresh always fails does
//! not stop the others. Any answer of the provider about a grant, a refusal too, says that it is in order.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use super::fetched::Pause;
use crate::clock::Timestamp;
use crate::id::SignInId;

/// Between two attempts: of one sign-in, and of all when the circuit is open.
pub(crate) const REFRESH_PAUSE: Pause = Pause {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(60),
};

/// So many sign-ins must have failed, with no answer for any in between.
const OPENS_AT: usize = 3;

/// What those are told who come while the probe is under way.
const PROBING: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whose requests failed since the last answer.
    failing: SmallVec<[SignInId; OPENS_AT]>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Timestamp,
    /// Probes that failed in a row.
    failures: u32,
    probing: bool,
}

impl Open {
    fn left(&self, now: Timestamp) -> Duration {
        match self.until.since(now) {
            Duration::ZERO if self.probing => PROBING,
            left => left,
        }
    }
}

/// Leave to make one request. Dropped without a verdict, for want of a store, say, it counts as not used.
#[derive(Debug)]
#[must_use]
pub(crate) struct Permit<'a> {
    circuit: &'a Circuit,
    probe: bool,
}

impl Circuit {
    /// State is whole at every point where a panic could leave it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` if all is well; else how long to wait, which is nothing for who would be the probe.
    pub(crate) fn trouble(&self, now: Timestamp) -> Option<Duration> {
        self.lock().open.as_ref().map(|open| open.left(now))
    }

    /// # Errors
    ///
    /// How long to wait.
    pub(crate) fn enter(&self, now: Timestamp) -> Result<Permit<'_>, Duration> {
        let mut state = self.lock();
        let probe = match &mut state.open {
            None => false,
            Some(open) => match open.left(now) {
                Duration::ZERO => {
                    open.probing = true;
                    true
                }
                left => return Err(left),
            },
        };
        Ok(Permit {
            circuit: self,
            probe,
        })
    }
}

impl Permit<'_> {
    /// The provider has answered; whether that ends an outage.
    pub(crate) fn answered(mut self) -> bool {
        self.probe = false;
        let mut state = self.circuit.lock();
        state.failing.clear();
        state.open.take().is_some()
    }

    /// It has not, or was of no use; whether that begins an outage. What it said to one sign-in is for all no longer than the
    /// longest pause: a limit on one user must not become everybody's.
    pub(crate) fn failed(
        mut self,
        sign_in: SignInId,
        now: Timestamp,
        retry_after: Option<Duration>,
    ) -> bool {
        let probe = std::mem::take(&mut self.probe);
        let until = |failures| {
            let asked = retry_after.unwrap_or_default().min(REFRESH_PAUSE.longest);
            now.plus(REFRESH_PAUSE.after(failures).max(asked))
        };
        let mut state = self.circuit.lock();
        match &mut state.open {
            Some(open) if probe => {
                open.failures = open.failures.saturating_add(1);
                open.until = until(open.failures);
                open.probing = false;
                false
            }
            // It was sent before the circuit opened, and says nothing new.
            Some(_) => false,
            None => {
                if !state.failing.contains(&sign_in) {
                    state.failing.push(sign_in);
                }
                let opens = state.failing.len() >= OPENS_AT;
                if opens {
                    state.failing.clear();
                    state.open = Some(Open {
                        until: until(0),
                        failures: 0,
                        probing: false,
                    });
                }
                opens
            }
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.probe
            && let Some(open) = &mut self.circuit.lock().open
        {
            open.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(1_000 + seconds)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn open() -> Circuit {
        let circuit = Circuit::default();
        for last in [false, false, true] {
            let permit = circuit.enter(at(0)).unwrap();
            assert_eq!(permit.failed(SignInId::random(), at(0), None), last);
        }
        circuit
    }

    #[test]
    fn one_sign_in_that_always_fails_stops_nobody_else_r30() {
        let (circuit, bad) = (Circuit::default(), SignInId::random());
        for second in 0..100 {
            let permit = circuit.enter(at(second)).unwrap();
            assert!(!permit.failed(bad, at(second), None));
        }
        assert_eq!(circuit.trouble(at(100)), None);
    }

    #[test]
    fn an_answer_in_between_keeps_it_closed_r30() {
        let circuit = Circuit::default();
        for _ in 0..10 {
            for _ in 0..2 {
                let permit = circuit.enter(at(0)).unwrap();
                assert!(!permit.failed(SignInId::random(), at(0), None));
            }
            assert!(!circuit.enter(at(0)).unwrap().answered());
        }
    }

    #[test]
    fn one_probe_passes_and_failures_make_the_pauses_longer_r30() {
        let circuit = open();
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(circuit.trouble(at(now)), Some(secs(pause)));
            assert_eq!(circuit.enter(at(now)).unwrap_err(), secs(pause));
            now += pause as i64;
            assert_eq!(circuit.trouble(at(now)), Some(Duration::ZERO));
            let probe = circuit.enter(at(now)).unwrap();
            assert_eq!(circuit.enter(at(now)).unwrap_err(), PROBING);
            assert!(!probe.failed(SignInId::random(), at(now), None));
        }
        now += 60;
        assert!(circuit.enter(at(now)).unwrap().answered());
        assert_eq!(circuit.trouble(at(now)), None);
        assert!(circuit.enter(at(now)).is_ok() && circuit.enter(at(now)).is_ok());
    }

    #[test]
    fn a_probe_that_was_not_sent_leaves_its_turn_to_another_r30() {
        let circuit = open();
        drop(circuit.enter(at(1)).unwrap());
        assert!(circuit.enter(at(1)).unwrap().answered());
    }

    #[test]
    fn what_was_sent_before_it_opened_counts_once_r30() {
        let circuit = Circuit::default();
        let sent: Vec<_> = (0..10).map(|_| circuit.enter(at(0)).unwrap()).collect();
        let opened = |permit: Permit<'_>| permit.failed(SignInId::random(), at(0), None);
        assert_eq!(
            sent.into_iter()
                .map(opened)
                .filter(|opened| *opened)
                .count(),
            1
        );
        assert_eq!(circuit.trouble(at(0)), Some(secs(1)));
    }

    #[test]
    fn a_retry_after_is_for_all_up_to_a_minute_r30() {
        for (asked, pause) in [(0, 1), (7, 7), (3600, 60)] {
            let circuit = Circuit::default();
            for _ in 0..OPENS_AT {
                let permit = circuit.enter(at(0)).unwrap();
                permit.failed(SignInId::random(), at(0), Some(secs(asked)));
            }
            assert_eq!(circuit.trouble(at(0)), Some(secs(pause)), "{asked}");
        }
    }
}
