//! Ending sign-ins wherever they are: by their user from another session, or by an operator.

use std::sync::Arc;

use super::run::revocation;
use crate::cache::Order;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::id::OperationId;
use crate::report::SignOutReport;

/// What ends nothing, and says so.
pub(crate) fn nothing() -> SignOutReport {
    SignOutReport::new(OperationId::random().to_string())
}

/// Carries an order out, in a task of its own, so that a caller that goes away does not stop it. A session that held such a
/// sign-in is emptied at its next request.
pub(crate) async fn end(core: &Arc<Core>, order: Order) -> Result<SignOutReport, Error> {
    let tasks = core.cache.tasks().clone();
    let core = core.clone();
    let task = tasks.spawn(async move {
        let mut report = nothing();
        let evicted = core.cache.evict(&[order], &report.correlation_id).await;
        report.evicted = evicted.sign_ins();
        report.pending = evicted.pending;
        report.revocation = revocation(&core, &evicted);
        report.hooks = core.cache.tell(&evicted.evictions).await;
        tracing::info!(
            target: "axum_signout::sign_out",
            correlation_id = report.correlation_id,
            account = %order.target.account(),
            cause = %order.cause,
            evicted = report.evicted.len(),
            pending = report.pending,
            "signed out elsewhere"
        );
        report
    });
    let stopped = |_| Error::new(ErrorKind::Internal, "a sign-out was stopped halfway");
    task.await.map_err(stopped)
}
