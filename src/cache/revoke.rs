//! What goes on in the background: tokens in the outbox are revoked at the provider (R32), and sign-ins whose time is up
//! are evicted.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::inner::{Cache, Inner};
use crate::events;
use crate::id::OperationId;
use crate::provider::{Revocation, TokenHint};
use crate::report::ShutdownReport;
use crate::secret::Secret;
use crate::store::{OutboxItem, StoreError};

/// For how long an item is this node's: longer than the calls that one item can take.
const HOLD: Duration = Duration::from_secs(5 * 60);

/// How often the outbox is looked at when nothing new has come in.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The first pause before a failed revocation is tried again; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How many items are revoked at the same time.
const AT_ONCE: usize = 16;

/// Providers that cannot be reached at the moment.
#[derive(Default)]
struct Away(Mutex<HashMap<Arc<str>, Duration>>);

impl Away {
    fn until(&self, issuer: &str) -> Option<Duration> {
        let away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        away.get(issuer).copied()
    }

    fn note(&self, issuer: &Arc<str>, pause: Duration) {
        let mut away = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        away.insert(issuer.clone(), pause);
    }
}

/// What became of one item.
enum Sent {
    Done,
    Later(Duration),
}

impl Cache {
    /// Starts the loops where there is a runtime already: what a store that outlives the process holds is then swept before the
    /// first request.
    pub(crate) fn start_if_possible(&self) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.start_background();
        }
    }

    /// Starts the loops once there is a runtime to run them on. They end with the cache.
    pub(super) fn start_background(&self) {
        self.0.background.call_once(|| {
            self.listen();
            let weak = Arc::downgrade(&self.0);
            // Tracked: a shutdown waits for the revocation that is under way.
            let tasks = &self.0.tasks;
            tasks.spawn(revoking(weak.clone(), OperationId::random()));
            #[cfg(feature = "metrics")]
            tasks.spawn(super::measure::measuring(weak.clone()));
            tasks.spawn(sweeping(weak));
        });
    }

    /// Revokes what is in the outbox and due; how many items were finished.
    pub(crate) async fn drain_outbox(&self, holder: OperationId) -> Result<usize, StoreError> {
        let mut finished = 0;
        loop {
            let items = self.0.store.outbox_take(holder, HOLD).await?;
            if items.is_empty() {
                return Ok(finished);
            }
            let away = Away::default();
            for some in items.chunks(AT_ONCE) {
                let mut sending = Vec::with_capacity(some.len());
                for item in some {
                    sending.push(self.send(item, &away));
                }
                for done in join_all(sending).await {
                    finished += usize::from(done?);
                }
            }
        }
    }

    /// One item; whether it is finished. A provider that put one off is left alone for the rest of the batch, so that it does
    /// not hold up the others.
    async fn send(&self, item: &OutboxItem, away: &Away) -> Result<bool, StoreError> {
        let sent = match away.until(&item.retained.issuer) {
            Some(pause) => Sent::Later(pause),
            None => self.revoke(item).await,
        };
        match sent {
            Sent::Done => {
                self.0.store.outbox_done(item).await?;
                Ok(true)
            }
            Sent::Later(pause) => {
                away.note(&item.retained.issuer, pause);
                self.0.store.outbox_retry(item, pause).await?;
                Ok(false)
            }
        }
    }

    /// Lets what is under way come to its end.
    pub(crate) async fn shutdown(&self, limit: Duration) -> ShutdownReport {
        let inner = &self.0;
        inner.stopped.cancel();
        inner.tasks.close();
        let all = async {
            inner.tasks.wait().await;
            self.drain_outbox(OperationId::random()).await.is_ok()
        };
        let finished = tokio::time::timeout(limit, all).await.unwrap_or(false);
        let stats = tokio::time::timeout(limit, inner.store.stats()).await;
        ShutdownReport {
            finished,
            pending: inner.pending.count() + inner.unread.count(),
            outbox: stats.ok().and_then(Result::ok).map(|stats| stats.outbox),
        }
    }

    async fn revoke(&self, item: &OutboxItem) -> Sent {
        let Some(provider) = self.provider(&item.retained.issuer) else {
            tracing::warn!(issuer = %item.retained.issuer, "tokens of a provider that is not configured are not revoked");
            return Sent::Done;
        };
        let tokens = &item.retained.tokens;
        // The refresh token first: with it, others could be had.
        let refresh = tokens
            .refresh_token()
            .map(|token| (token, TokenHint::RefreshToken));
        let access = tokens
            .access_tokens()
            .iter()
            .map(|token| (token.as_secret(), TokenHint::AccessToken));
        let all: Vec<(&Secret, TokenHint)> = refresh.into_iter().chain(access).collect();
        for (token, hint) in all {
            let outcome = provider.revoke(token, hint).await;
            events::revocation(item.id, hint.name(), outcome.as_str());
            match outcome {
                Revocation::Revoked | Revocation::Unsupported | Revocation::Rejected { .. } => {}
                Revocation::NoEndpoint => return Sent::Done,
                Revocation::Later { retry_after } => {
                    let pause = FIRST_PAUSE
                        .saturating_mul(1 << item.attempts.min(16))
                        .max(retry_after.unwrap_or_default())
                        .min(LONGEST_PAUSE);
                    return Sent::Later(pause);
                }
            }
        }
        Sent::Done
    }
}

/// Both loops hold the cache only while they work, so that it ends when its last user lets go of it.
async fn revoking(cache: Weak<Inner>, holder: OperationId) {
    loop {
        let Some(inner) = cache.upgrade() else { return };
        let (news, stopped) = (inner.outbox.clone(), inner.stopped.clone());
        // A store of the app's own may panic; the tokens of the next sign-out are to be revoked all the same.
        match AssertUnwindSafe(Cache(inner).drain_outbox(holder))
            .catch_unwind()
            .await
        {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the outbox could not be read"),
            Err(_) => tracing::error!("the token store panicked"),
        }
        tokio::select! {
            () = news.notified() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = stopped.cancelled() => return,
        }
    }
}

async fn sweeping(cache: Weak<Inner>) {
    loop {
        let Some(inner) = cache.upgrade() else { return };
        let (pause, stopped) = (inner.config.sweep_every, inner.stopped.clone());
        drop(inner);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped.cancelled() => return,
        }
        let Some(inner) = cache.upgrade() else { return };
        match AssertUnwindSafe(Cache(inner).evict_due())
            .catch_unwind()
            .await
        {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "sign-ins whose time is up could not be evicted");
            }
            Err(_) => tracing::error!("the token store panicked"),
        }
    }
}
