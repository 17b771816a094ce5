//! The one door through which requests to the provider leave.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::http::{HeaderValue, Method, StatusCode, header};
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use url::Url;

use super::discovery::FetchError;
use super::url_rules::is_secure;

/// Of every answer: metadata, keys and tokens are a few kilobytes, rarely a hundred.
pub(super) const BODY_LIMIT: usize = 1024 * 1024;

type CallFuture<'c> = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send + 'c>>;

/// [`AsyncHttpClient`] with its types erased.
trait Client: Send + Sync {
    fn call(&self, request: HttpRequest) -> CallFuture<'_>;
}

struct Erased<C>(C);

impl<C> Client for Erased<C>
where
    C: for<'c> AsyncHttpClient<'c, Future: Send, Error: Send + Sync> + Send + Sync + 'static,
{
    fn call(&self, request: HttpRequest) -> CallFuture<'_> {
        let answer = self.0.call(request);
        Box::pin(async move { answer.await.map_err(|error| Box::new(error) as BoxError) })
    }
}

/// What the crate's own client says went wrong; of others only what [`reached_nobody`] finds is known.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "reqwest"),
    allow(dead_code, reason = "made by that client only")
)]
pub(super) enum ClientError {
    NotConnected(BoxError),
    Broken(BoxError),
    TooLarge,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected(_) => "no connection",
            Self::Broken(_) => "the connection was lost",
            Self::TooLarge => "the answer is too large",
        })
    }
}

impl StdError for ClientError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::NotConnected(source) | Self::Broken(source) => Some(&**source),
            Self::TooLarge => None,
        }
    }
}

/// Why there is no answer, or none that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HttpError {
    /// The request surely was not sent.
    NotSent,
    /// It may have arrived.
    TimedOut,
    /// It may have arrived.
    Broken,
    /// An answer came, and is too large to be one.
    TooLarge,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent => "the provider cannot be reached",
            Self::TimedOut => "the provider did not answer in time",
            Self::Broken => "the connection to the provider was lost",
            Self::TooLarge => "the provider's answer is too large",
        })
    }
}

impl StdError for HttpError {}

/// A client, held to limits: no plain `http` but on loopback, a time for the whole exchange, a size for the answer.
#[derive(Clone)]
pub(super) struct Http {
    client: Arc<dyn Client>,
    timeout: Duration,
}

impl Http {
    pub(super) fn new<C>(client: C, timeout: Duration) -> Self
    where
        C: for<'c> AsyncHttpClient<'c, Future: Send, Error: Send + Sync> + Send + Sync + 'static,
    {
        Self {
            client: Arc::new(Erased(client)),
            timeout,
        }
    }

    pub(super) fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Statuses are the caller's to judge. A redirect is one of them and never followed.
    pub(super) async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Endpoints are checked where they are read; a slip there must not send a secret in the clear.
        let secure = Url::parse(&request.uri().to_string()).is_ok_and(|url| is_secure(&url));
        if !secure {
            return Err(HttpError::NotSent);
        }
        let answer = match tokio::time::timeout(self.timeout, self.client.call(request)).await {
            Err(_) => return Err(HttpError::TimedOut),
            Ok(Err(error)) => return Err(judge(&*error)),
            Ok(Ok(answer)) => answer,
        };
        if answer.body().len() > BODY_LIMIT {
            return Err(HttpError::TooLarge);
        }
        Ok(answer)
    }
}

fn judge(error: &(dyn StdError + Send + Sync + 'static)) -> HttpError {
    match error.downcast_ref::<ClientError>() {
        Some(own) => {
            tracing::debug!(error = %crate::error::Chain(own), "a request to the provider failed");
            match own {
                ClientError::NotConnected(_) => HttpError::NotSent,
                ClientError::Broken(_) => HttpError::Broken,
                ClientError::TooLarge => HttpError::TooLarge,
            }
        }
        // The text of another client's error is not traced: it may show the request.
        None if reached_nobody(error) => HttpError::NotSent,
        None => HttpError::Broken,
    }
}

/// Whether an error of any client says that nobody listens there, the one thing that only ever happens before sending.
fn reached_nobody(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    // Some chains are long, none is honest beyond this.
    for _ in 0..16 {
        let Some(error) = next else { break };
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// Fetches a public document.
pub(super) async fn get_json(http: &Http, url: &str) -> Result<Vec<u8>, FetchError> {
    let request = axum::http::Request::builder()
        .method(Method::GET)
        .uri(url)
        .header(header::ACCEPT, HeaderValue::from_static("application/json"))
        .body(Vec::new())
        .map_err(|_| FetchError::Http(HttpError::NotSent))?;
    let answer = http.send(request).await.map_err(FetchError::Http)?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError::Status(answer.status()));
    }
    Ok(answer.into_body())
}
