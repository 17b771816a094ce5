//! A limit on how long the token store is waited for, and on what a panic of it can do, whatever store it is.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::clock::Timestamp;
use crate::id::{
    AccountHash, Address, ClaimName, DownstreamName, KeyHash, Locator, OperationId, Selector,
};
use crate::store::{
    AnySessionStore, Claim, Created, Downstream, Entry, Generation, Lease, Lookup, Measurement,
    OutboxItem, Registered, Removal, Removed, Replaced, Result, RetainedTokens, SignInInfo,
    Started, StoreError, StoreErrorKind, StoreListener, StoreStats, Target, TokenStore, operations,
};
use crate::token::AccessToken;

/// How long one call may take before its outcome counts as unknown.
const STORE_WAIT: Duration = Duration::from_secs(5);

/// The app's store, with that limit on each call: one that hangs must not hang sign-ins, refreshes and sign-outs, and one that
/// panics must not stop them halfway.
#[derive(Debug)]
pub(super) struct Bounded(pub(super) Arc<dyn TokenStore>);

/// [`timeout`], for what nearly always has its answer at once: then no timer is made.
///
/// The work is pinned by the caller: an async function keeps what it is given and what it pins, so it would be there twice.
pub(crate) async fn within<F: Future>(
    limit: Duration,
    mut work: Pin<&mut F>,
) -> std::result::Result<F::Output, Elapsed> {
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(answer) => Ok(answer),
        // In a box, so that those who need no timer do not carry one around.
        Poll::Pending => Box::pin(timeout(limit, work)).await,
    }
}

async fn bounded<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let unknown = |what| Err(StoreError::new(StoreErrorKind::Unknown, what));
    // A sign-out must not end with a store's panic: what it was about to take out is held back, and tried again.
    let mut call = pin!(AssertUnwindSafe(call).catch_unwind());
    match within(STORE_WAIT, call.as_mut()).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => unknown("the token store panicked"),
        Err(_) => unknown("the token store did not answer in time"),
    }
}

macro_rules! delegate {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl TokenStore for Bounded {
            fn is_shared(&self) -> bool {
                self.0.is_shared()
            }

            fn listen(&self, listener: Weak<dyn StoreListener>) {
                self.0.listen(listener);
            }

            fn session_store(&self) -> Option<AnySessionStore> {
                self.0.session_store()
            }

            async fn measure(&self) -> Vec<Measurement> {
                let measured = async { Ok(self.0.measure().await) };
                bounded(measured).await.unwrap_or_default()
            }

            /// The store's own future, bounded by the layer, which has no timer to make for a store that answers at once.
            fn load<'s, 'l, 'f>(&'s self, locators: &'l [Locator]) -> BoxFuture<'f, Result<Vec<Lookup>>>
            where
                Self: 'f,
                's: 'f,
                'l: 'f,
            {
                self.0.load(locators)
            }

            $(async fn $name(&self, $($arg: $type),*) -> Result<$answer> {
                bounded(async { self.0.$name($($arg),*).await }).await
            })*
        }
    };
}

operations!(delegate);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_that_panics_is_one_whose_outcome_is_not_known() {
        let error = bounded::<()>(async { panic!("a store of a test") }).await;
        assert_eq!(error.unwrap_err().kind(), StoreErrorKind::Unknown);
        let error = bounded::<()>(async {
            tokio::task::yield_now().await;
            panic!("a store of a test");
        });
        assert_eq!(error.await.unwrap_err().kind(), StoreErrorKind::Unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_hangs_is_waited_for_five_seconds_a5() {
        let began = tokio::time::Instant::now();
        let error = bounded(std::future::pending::<Result<()>>()).await;
        assert_eq!(error.unwrap_err().kind(), StoreErrorKind::Unknown);
        assert_eq!(began.elapsed(), STORE_WAIT);
        let slow = async {
            tokio::time::sleep(STORE_WAIT / 2).await;
            Ok(7)
        };
        assert_eq!(bounded(slow).await.unwrap(), 7);
    }
}
