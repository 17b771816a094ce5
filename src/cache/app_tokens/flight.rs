//! One request for a token of the app, shared by all who wait for it.

use std::future::Future;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::error::{Error, ErrorKind};
use crate::token::AccessToken;

/// What became of it.
#[derive(Clone, Debug)]
pub(super) enum Landed {
    Token(AccessToken),
    Failed(Error),
    /// What it was for was evicted before it ended, so what it brought is nobody's.
    Evicted,
}

#[derive(Clone)]
pub(super) struct Flight {
    landed: Shared<BoxFuture<'static, Landed>>,
    task: AbortHandle,
}

impl Flight {
    /// In a task of its own: whoever waits for it may go away.
    pub(super) fn start(
        tasks: &TaskTracker,
        work: impl Future<Output = Landed> + Send + 'static,
    ) -> Self {
        let task = tasks.spawn(work);
        let handle = task.abort_handle();
        let stopped = || {
            Error::new(
                ErrorKind::Internal,
                "a request for an app token was stopped",
            )
        };
        let landed = async move { task.await.unwrap_or_else(|_| Landed::Failed(stopped())) };
        Self {
            landed: landed.boxed().shared(),
            task: handle,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) async fn landed(self) -> Landed {
        self.landed.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An app may have used its `Auth` on a runtime that is gone.
    #[test]
    fn a_request_whose_runtime_was_shut_down_is_over_and_an_error_r29() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.build().unwrap()
        };
        let (tasks, first) = (TaskTracker::new(), runtime());
        let flight = first.block_on(async { Flight::start(&tasks, std::future::pending()) });
        assert!(!flight.is_over());
        drop(first);
        assert!(flight.is_over());
        let Landed::Failed(error) = runtime().block_on(flight.landed()) else {
            panic!("it has brought nothing");
        };
        assert_eq!(error.kind(), ErrorKind::Internal);
    }
}
