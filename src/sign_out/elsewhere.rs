//! Ending sign-ins wherever they are: by their user from another session, or by an operator.

use std::sync::Arc;

use crate::cache::Order;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::id::OperationId;
use crate::report::SignOutReport;

/// Carries an order out, in a task of its own, so that a caller that goes away does not stop it. A session that held such a
/// sign-in is emptied at its next request.
pub(crate) async fn end(core: &Arc<Core>, order: Order) -> Result<SignOutReport, Error> {
    let cache = core.cache.clone();
    let task = core.cache.tasks().spawn(async move {
        let correlation_id = OperationId::random().to_string();
        let evicted = cache.evict(&[order], &correlation_id).await;
        cache.conclude(order.cause, &correlation_id, evicted).await
    });
    let stopped = |_| Error::new(ErrorKind::Internal, "a sign-out was stopped halfway");
    task.await.map_err(stopped)
}
