//! What the hooks saw, for the page to show.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use axum_signout::clock::{Clock, SystemClock, Timestamp};
use axum_signout::{Cause, Eviction, SignOutReport};
use futures_util::Stream;
use futures_util::stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// How many evictions are remembered.
const KEPT: usize = 12;

/// One for the whole process: this demo has one person in front of it. An app with users would show each their own.
pub struct Journal {
    seen: Mutex<Seen>,
    news: broadcast::Sender<Evicted>,
}

#[derive(Clone, Default)]
pub struct Seen {
    /// The latest first.
    pub evictions: VecDeque<Evicted>,
    pub last_report: Option<SignOutReport>,
}

/// What is shown of an eviction: none of its tokens.
#[derive(Clone)]
pub struct Evicted {
    pub at: Timestamp,
    pub cause: Cause,
    pub name: String,
    pub tokens: usize,
    pub correlation_id: String,
}

impl Journal {
    pub fn new() -> Self {
        Self {
            seen: Mutex::default(),
            news: broadcast::channel(KEPT).0,
        }
    }

    pub fn evicted(&self, eviction: &Eviction) {
        let account = eviction.account();
        let evicted = Evicted {
            at: SystemClock::new().wall(),
            cause: eviction.cause(),
            name: account
                .name()
                .unwrap_or_else(|| account.subject().to_owned()),
            tokens: eviction.count(),
            correlation_id: eviction.correlation_id().to_owned(),
        };
        self.change(|seen| {
            seen.evictions.push_front(evicted.clone());
            seen.evictions.truncate(KEPT);
        });
        // Nobody may be looking.
        let _ = self.news.send(evicted);
    }

    pub fn signed_out(&self, report: SignOutReport) {
        self.change(|seen| seen.last_report = Some(report));
    }

    pub fn seen(&self) -> Seen {
        self.change(|seen| seen.clone())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The evictions from now on.
    pub fn follow(&self) -> impl Stream<Item = Evicted> + Send + use<> {
        stream::unfold(self.news.subscribe(), |mut news| async {
            loop {
                match news.recv().await {
                    Ok(evicted) => return Some((evicted, news)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
    }
}
