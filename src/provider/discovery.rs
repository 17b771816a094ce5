//! OpenID Connect Discovery (R45).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::timeout;

use super::fetched::Fetched;
use super::http::{Http, HttpError, get_json};
use super::metadata::{Metadata, MetadataError};
use super::{Provider, Unavailable};
use crate::jwt::keys::KeySetError;

/// One request an hour costs nothing, and an endpoint that moved is found before a sign-out needs it.
const FRESH: Duration = Duration::from_secs(60 * 60);

pub(super) enum MetadataSource {
    ByHand(Arc<Metadata>),
    Discovered(Fetched<Metadata>),
}

impl Provider {
    /// What is known already, without any I/O.
    pub(crate) fn known_metadata(&self) -> Option<Arc<Metadata>> {
        match &self.0.metadata {
            MetadataSource::ByHand(metadata) => Some(Arc::clone(metadata)),
            MetadataSource::Discovered(document) => Some(document.held(&**self.clock())?.value),
        }
    }

    /// What is known, or else is found within a time: for a sign-out, which must not wait long.
    pub(crate) async fn metadata_within(&self, limit: Duration) -> Option<Arc<Metadata>> {
        timeout(limit, self.metadata()).await.ok()?.ok()
    }

    /// What is known, or else is found by the one request that is made for everybody who waits. What is known for an
    /// hour is used and fetched again behind the caller's back.
    pub(crate) async fn metadata(&self) -> Result<Arc<Metadata>, Unavailable> {
        let document = match &self.0.metadata {
            MetadataSource::ByHand(metadata) => return Ok(Arc::clone(metadata)),
            MetadataSource::Discovered(document) => document,
        };
        let clock = self.clock();
        let fetch = || discover(self.0.http.clone(), self.issuer().to_owned());
        if let Some(held) = document.held(&**clock) {
            if held.age >= FRESH {
                let _ = document.start(clock, fetch);
            }
            return Ok(held.value);
        }
        let flight = document.start(clock, fetch)?;
        Ok(document.landed(flight, &**clock).await?.value)
    }
}

#[tracing::instrument(skip_all, fields(issuer))]
async fn discover(http: Http, issuer: String) -> Result<Metadata, FetchError> {
    // OIDC Discovery, section 4.1: a slash at the issuer's end is dropped first.
    let base = issuer.strip_suffix('/').unwrap_or(&issuer);
    let url = format!("{base}/.well-known/openid-configuration");
    let outcome = match get_json(&http, &url).await {
        Ok(document) => Metadata::of_document(&document, &issuer).map_err(FetchError::Metadata),
        Err(error) => Err(error),
    };
    match &outcome {
        Ok(_) => tracing::debug!(issuer, "the provider's metadata was read"),
        Err(error) => tracing::warn!(issuer, %error, "the provider's metadata could not be read"),
    }
    outcome
}

/// Why a public document could not be had.
#[derive(Debug)]
pub(super) enum FetchError {
    Http(HttpError),
    Status(StatusCode),
    Metadata(MetadataError),
    Keys(KeySetError),
    Unavailable(Unavailable),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(error) => error.fmt(f),
            Self::Status(status) if status.is_redirection() => write!(
                f,
                "the provider answered with a redirect ({}), which is not followed",
                status.as_u16()
            ),
            Self::Status(status) => write!(f, "the provider answered {}", status.as_u16()),
            Self::Metadata(error) => error.fmt(f),
            Self::Keys(error) => error.fmt(f),
            Self::Unavailable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FetchError {}
