//! A guard for a group of routes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::http::Request;
use axum::response::{IntoResponse, Response};
use tower::{Layer, Service};

use crate::current::Current;

/// Lets signed-in requests through, and answers the others as the [`Account`](crate::Account) extractor would. Made by
/// [`Auth::require_account`](crate::Auth::require_account), for `Router::route_layer`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RequireAccount;

impl RequireAccount {
    pub(crate) fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for RequireAccount {
    type Service = RequireAccountService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireAccountService { inner }
    }
}

/// The service of [`RequireAccount`].
#[derive(Clone, Debug)]
pub struct RequireAccountService<S> {
    inner: S,
}

impl<S, B> Service<Request<B>> for RequireAccountService<S>
where
    S: Service<Request<B>, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let refused = Current::of_extensions(request.extensions())
            .and_then(|current| current.required().map(drop))
            .err();
        if let Some(rejection) = refused {
            return Box::pin(async { Ok(rejection.into_response()) });
        }
        Box::pin(self.inner.call(request))
    }
}
