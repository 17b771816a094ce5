//! A document that is fetched when it is needed, by one task at a time, and kept.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Unavailable;
use crate::clock::{Clock, Timestamp};

/// How long to leave the provider alone after a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pause {
    /// After the first one.
    pub(crate) first: Duration,
    /// Doubled with each failure in a row, up to this.
    pub(crate) longest: Duration,
}

impl Pause {
    pub(crate) fn after(self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}

/// What is held, and which one it is.
pub(super) struct Held<T> {
    pub(super) value: Arc<T>,
    pub(super) version: u64,
    pub(super) age: Duration,
}

pub(super) struct Fetched<T> {
    state: Arc<Mutex<State<T>>>,
    pause: Pause,
}

struct State<T> {
    value: Option<Arc<T>>,
    /// Counts successes.
    version: u64,
    fetched: Timestamp,
    not_before: Timestamp,
    failures: u32,
    reason: Arc<str>,
    /// Ends when its sender is dropped, by whatever way the task ends.
    flight: Option<watch::Receiver<()>>,
}

impl<T> State<T> {
    /// A flight whose task was lost (its runtime was shut down) is none.
    fn flight(&self) -> Option<watch::Receiver<()>> {
        let flight = self.flight.as_ref()?;
        flight.has_changed().is_ok().then(|| flight.clone())
    }

    fn unavailable(&self, now: Timestamp) -> Unavailable {
        Unavailable {
            retry_after: self.not_before.since(now),
            reason: Arc::clone(&self.reason),
        }
    }
}

impl<T: Send + Sync + 'static> Fetched<T> {
    pub(super) fn new(pause: Pause) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                value: None,
                version: 0,
                fetched: Timestamp::default(),
                not_before: Timestamp::default(),
                failures: 0,
                reason: "it was not fetched yet".into(),
                flight: None,
            })),
            pause,
        }
    }

    pub(super) fn held(&self, clock: &dyn Clock) -> Option<Held<T>> {
        let state = lock(&self.state);
        let value = state.value.as_ref()?;
        Some(Held {
            value: Arc::clone(value),
            version: state.version,
            age: clock.steady().since(state.fetched),
        })
    }

    /// Starts a fetch, unless one is under way or the pause after the last one is not over; does not wait for it.
    /// `fetch` runs in a task of its own.
    ///
    /// The pause is claimed before the request is sent, so that no number of callers gets two requests out of it.
    ///
    /// # Errors
    ///
    /// No fetch is under way, and none may be made now.
    pub(super) fn start<F, E>(
        &self,
        clock: &Arc<dyn Clock>,
        fetch: impl FnOnce() -> F,
    ) -> Result<watch::Receiver<()>, Unavailable>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        E: std::error::Error + Send + 'static,
    {
        let mut state = lock(&self.state);
        if let Some(flight) = state.flight() {
            return Ok(flight);
        }
        let now = clock.steady();
        if now < state.not_before {
            return Err(state.unavailable(now));
        }
        let Ok(runtime) = Handle::try_current() else {
            return Err(Unavailable {
                retry_after: Duration::ZERO,
                reason: "there is no Tokio runtime here to fetch it with".into(),
            });
        };
        state.not_before = now.plus(self.pause.after(state.failures));
        let (sender, receiver) = watch::channel(());
        state.flight = Some(receiver.clone());
        drop(state);

        let (shared, clock, pause, fetch) = (
            Arc::clone(&self.state),
            Arc::clone(clock),
            self.pause,
            fetch(),
        );
        runtime.spawn(async move {
            let outcome = fetch.await;
            let mut state = lock(&shared);
            let now = clock.steady();
            match outcome {
                Ok(value) => {
                    state.value = Some(Arc::new(value));
                    state.version += 1;
                    state.fetched = now;
                    state.failures = 0;
                }
                Err(error) => {
                    state.not_before = now.plus(pause.after(state.failures));
                    state.failures = state.failures.saturating_add(1);
                    state.reason = crate::error::Chain(&error).to_string().into();
                }
            }
            state.flight = None;
            drop(state);
            drop(sender);
        });
        Ok(receiver)
    }

    /// Waits for a fetch to end, and gives what is held then, which is what was held before if the fetch failed.
    ///
    /// # Errors
    ///
    /// Nothing is held.
    pub(super) async fn landed(
        &self,
        mut flight: watch::Receiver<()>,
        clock: &dyn Clock,
    ) -> Result<Held<T>, Unavailable> {
        // Nothing is ever sent: the error is the end.
        let _ = flight.changed().await;
        self.held(clock)
            .ok_or_else(|| lock(&self.state).unavailable(clock.steady()))
    }
}

/// The state is consistent at every point where a panic could leave it.
fn lock<T>(state: &Mutex<State<T>>) -> MutexGuard<'_, State<T>> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
