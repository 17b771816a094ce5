//! The last step of every sign-out, whatever its origin: hooks hear of what left, and the report goes to the trace and to who
//! asked for it (promise 3).

use futures_util::future::join_all;

use super::evict::Evicted;
use super::inner::Cache;
use crate::cause::Cause;
use crate::events;
use crate::hooks::Eviction;
use crate::id::OperationId;
use crate::report::{Revocation, SessionOutcome, SignOutReport};

impl Cache {
    /// Concludes a sign-out without a browser: the eviction hooks are told and waited for, each for its time limit, and the
    /// report is [published](Self::publish). `cause` is that of the sign-out as a whole.
    ///
    /// To be called from a task that is not stopped halfway, right after [`evict`](Self::evict) with the same correlation id.
    pub(crate) async fn conclude(
        &self,
        cause: Cause,
        correlation_id: &str,
        evicted: Evicted,
    ) -> SignOutReport {
        let session = match cause {
            Cause::Replaced | Cause::SessionEnded => SessionOutcome::None,
            _ => SessionOutcome::AtNextRequest,
        };
        self.conclude_with(cause, correlation_id, evicted, session)
            .await
    }

    async fn conclude_with(
        &self,
        cause: Cause,
        correlation_id: &str,
        evicted: Evicted,
        session: SessionOutcome,
    ) -> SignOutReport {
        let mut report = self.report(cause, correlation_id, &evicted);
        if !report.evicted.is_empty() || report.pending > 0 {
            report.session = session;
        }
        report.hooks = self.tell(&evicted.evictions).await;
        self.publish(&report);
        report
    }

    /// [`conclude`](Self::conclude), for those who wait for nothing.
    pub(crate) fn conclude_later(&self, cause: Cause, correlation_id: &str, evicted: Evicted) {
        if evicted.is_empty() {
            return;
        }
        let (cache, correlation_id) = (self.clone(), correlation_id.to_owned());
        self.0
            .tasks
            .spawn(async move { cache.conclude(cause, &correlation_id, evicted).await });
    }

    /// [`conclude_later`](Self::conclude_later), for sign-ins that left a session which goes on, with what took their place.
    pub(crate) fn conclude_displaced(&self, cause: Cause, correlation_id: &str, evicted: Evicted) {
        if evicted.is_empty() {
            return;
        }
        let (cache, id) = (self.clone(), correlation_id.to_owned());
        self.0.tasks.spawn(async move {
            let session = SessionOutcome::None;
            cache.conclude_with(cause, &id, evicted, session).await
        });
    }

    /// Sign-ins that left each for itself: a sign-out and a report for every one of them.
    pub(super) async fn conclude_each(&self, evictions: Vec<Eviction>) {
        join_all(evictions.into_iter().map(async |eviction| {
            let (cause, id) = (eviction.cause(), eviction.correlation_id().to_owned());
            self.conclude(cause, &id, Evicted::of(vec![eviction])).await
        }))
        .await;
    }

    /// What evictions came to, before anything else is known.
    pub(crate) fn report(
        &self,
        cause: Cause,
        correlation_id: &str,
        evicted: &Evicted,
    ) -> SignOutReport {
        let mut report = SignOutReport::new(cause, correlation_id.to_owned());
        report.evicted = evicted.sign_ins();
        report.pending = evicted.pending;
        report.not_retried = evicted.not_retried;
        report.revocation = self.revocation_of(evicted);
        report
    }

    /// The end of a sign-out: its trace, and the hooks for reports, in the background. A sign-out that found nothing to do is
    /// nobody's business: strangers can ask for any number of those.
    pub(crate) fn publish(&self, report: &SignOutReport) {
        if report.is_empty() {
            return;
        }
        events::signed_out(report);
        if !self.0.hooks.wants_reports() {
            return;
        }
        let (cache, report) = (self.clone(), report.clone());
        self.0.tasks.spawn(async move {
            cache.0.hooks.signed_out(&cache.0.tasks, report).await;
        });
    }

    fn revocation_of(&self, evicted: &Evicted) -> Revocation {
        let no_endpoint = |eviction: &Eviction| {
            let provider = self.provider(eviction.account().issuer());
            let known = provider.and_then(|provider| provider.known_metadata());
            known.is_some_and(|metadata| metadata.revocation_endpoint.is_none())
        };
        match evicted.to_revoke {
            0 => Revocation::None,
            _ if evicted.evictions.iter().all(no_endpoint) => Revocation::NoEndpoint,
            count => Revocation::Queued(count),
        }
    }

    /// The name of a sign-out that nobody has named.
    pub(super) fn correlation_id() -> String {
        OperationId::random().to_string()
    }
}
