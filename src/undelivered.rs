//! A session whose new cookie does not reach its browser: nobody will ever open what it holds.
//!
//! tower-sessions saves a session once more behind the handler, and where that fails it puts an empty 500 in the place of the
//! answer; it sends no cookie with an answer that is a server error either. What the answer carried is lost then, so the layer
//! outside the session layer leaves a handle in the *request*, in which the layer inside it notes what hangs on the cookie.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use crate::cache::Order;
use crate::cause::Cause;
use crate::core::Core;
use crate::current::Current;
use crate::id::Address;
use crate::store::Target;

/// The handle, in the request's extensions.
#[derive(Clone, Default)]
pub(crate) struct Delivery(Arc<Mutex<Option<Awaited>>>);

/// What opens with the cookie that the answer brings, and with nothing else.
struct Awaited {
    core: Arc<Core>,
    sign_ins: Vec<Address>,
}

impl Delivery {
    /// After the handler: notes what the session holds, if it got another id than that of the request's cookie.
    pub(crate) async fn note(&self, current: &Current) {
        let session = current.session().filter(|session| session.is_modified());
        let Some(session) = session.filter(|session| session.id() != current.came_with()) else {
            return;
        };
        let Ok(held) = session.sign_ins().await else {
            return;
        };
        let awaited = Awaited {
            core: current.core().clone(),
            sign_ins: held.sign_ins().iter().map(|one| one.address).collect(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(awaited);
    }

    fn take(&self) -> Option<Awaited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Evicts what was awaited, unless an answer was there that can bring the cookie; also when the client goes away before.
struct Undelivered(Delivery);

impl Drop for Undelivered {
    fn drop(&mut self) {
        let Some(Awaited { core, sign_ins }) = self.0.take() else {
            return;
        };
        if sign_ins.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        tracing::warn!(
            "a session's cookie did not reach the browser; what the session holds is evicted"
        );
        let tasks = core.cache.tasks().clone();
        tasks.spawn(async move {
            for address in sign_ins {
                let order = Order::new(Target::SignIn(address), Cause::SessionEnded);
                core.cache.evict_quietly(order).await;
            }
        });
    }
}

pin_project! {
    /// The future of [`SessionCookieFix`](crate::SessionCookieFix).
    #[must_use]
    pub struct Delivering<F, B> {
        #[pin]
        inner: F,
        undelivered: Undelivered,
        repair: fn(Response<B>) -> Response<B>,
    }
}

impl<F, B> Delivering<F, B> {
    pub(crate) fn new(
        inner: F,
        delivery: Delivery,
        repair: fn(Response<B>) -> Response<B>,
    ) -> Self {
        Self {
            inner,
            undelivered: Undelivered(delivery),
            repair,
        }
    }
}

impl<F, B, E> Future for Delivering<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(context))?;
        if !response.status().is_server_error() {
            drop(this.undelivered.0.take());
        }
        Poll::Ready(Ok((this.repair)(response)))
    }
}
