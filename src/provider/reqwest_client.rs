//! The client that is used unless another is plugged in.

use std::error::Error as StdError;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::BoxError;
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use reqwest::{Client, redirect, retry};

use super::http::{BODY_LIMIT, ClientError};

/// `reqwest` 0.13 behind `oauth2`'s trait, whose own implementation is for an older one.
pub(super) struct ReqwestClient(Client);

impl ReqwestClient {
    /// `direct` leaves the environment's proxies out: a provider on this machine is not reached through another.
    pub(super) fn new(
        timeout: Duration,
        connect_timeout: Duration,
        direct: bool,
    ) -> Result<Self, reqwest::Error> {
        let mut builder = Client::builder()
            .user_agent(concat!("axum-signout/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .referer(false)
            // A code and a rotated refresh token are good for one request.
            .retry(retry::never())
            .https_only(!direct)
            .timeout(timeout)
            .connect_timeout(connect_timeout)
            // Shorter than the five seconds after which common servers close an idle connection: one that is closed
            // while a request is on its way leaves open whether it arrived.
            .pool_idle_timeout(Duration::from_secs(4));
        if direct {
            builder = builder.no_proxy();
        }
        Ok(Self(builder.build()?))
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, ClientError> {
        let request = reqwest::Request::try_from(request).map_err(not_connected)?;
        let mut answer = self.0.execute(request).await.map_err(|error| {
            if error.is_connect() || error.is_builder() {
                not_connected(error)
            } else {
                broken(error)
            }
        })?;
        let announced = answer.content_length().unwrap_or(0);
        if announced > BODY_LIMIT as u64 {
            return Err(ClientError::TooLarge);
        }
        let mut body = Vec::with_capacity(announced as usize);
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > BODY_LIMIT {
                return Err(ClientError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = HttpResponse::new(body);
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        Ok(response)
    }
}

/// A URL with a query may carry more than an endpoint's name.
fn boxed(error: reqwest::Error) -> BoxError {
    let error: Box<dyn StdError + Send + Sync> = Box::new(error.without_url());
    error
}

fn not_connected(error: reqwest::Error) -> ClientError {
    ClientError::NotConnected(boxed(error))
}

fn broken(error: reqwest::Error) -> ClientError {
    ClientError::Broken(boxed(error))
}

impl<'c> AsyncHttpClient<'c> for ReqwestClient {
    type Error = ClientError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, ClientError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.exchange(request))
    }
}
