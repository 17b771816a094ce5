//! Set-up errors name the bad value; run-time errors are opaque and carry a [`kind`](Error::kind).

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// What is wrong with the configuration, found by a builder's `build()`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A URL could not be parsed, or has a part that it must not have.
    InvalidUrl {
        /// Which setting.
        what: &'static str,
        /// The value as it was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A URL must be `https`; plain `http` is accepted on loopback only.
    InsecureUrl {
        /// Which setting.
        what: &'static str,
        /// The value as it was given.
        value: String,
    },
    /// A path setting does not begin with one `/`, or has a query, a fragment or a parameter.
    InvalidPath {
        /// Which setting.
        what: &'static str,
        /// The value as it was given.
        value: String,
    },
    /// Two settings that must differ are the same.
    Duplicate {
        /// Which setting.
        what: &'static str,
        /// The value that was given twice.
        value: String,
    },
    /// A required setting is empty.
    Missing {
        /// Which setting.
        what: &'static str,
    },
    /// A value is outside its allowed range.
    OutOfRange {
        /// Which setting.
        what: &'static str,
        /// The value as it was given.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A place that sign-in or sign-out may end at is not on the allowlist or not a safe target.
    UnsafeTarget {
        /// Which setting.
        what: &'static str,
        /// The value as it was given.
        value: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidUrl {
                what,
                value,
                reason,
            } => write!(f, "{what}: {value:?} is not a usable URL: {reason}"),
            Self::InsecureUrl { what, value } => {
                write!(f, "{what}: {value:?} must be https (http on loopback only)")
            }
            Self::InvalidPath { what, value } => write!(
                f,
                "{what}: {value:?} must be a plain path that begins with a single slash"
            ),
            Self::Duplicate { what, value } => write!(f, "{what}: {value:?} is given twice"),
            Self::Missing { what } => write!(f, "{what} is missing"),
            Self::OutOfRange {
                what,
                value,
                allowed,
            } => write!(f, "{what}: {value} is out of range, allowed is {allowed}"),
            Self::UnsafeTarget { what, value } => {
                write!(f, "{what}: {value:?} is not an allowed redirect target")
            }
        }
    }
}

impl StdError for ConfigError {}

/// What went wrong at run time.
///
/// Opaque: what it was is told by [`kind`](Self::kind), the cause goes to the trace. As a response it has a fixed
/// status and a fixed body; no text of a provider, a store or a request is ever part of it.
pub struct Error {
    kind: ErrorKind,
    context: Cow<'static, str>,
    retry_after: Option<Duration>,
    wanted: Option<Box<Wanted>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What the user has to be asked for at the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// Of the sign-in that was lacking.
    #[serde(default)]
    pub(crate) issuer: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) resource: Option<String>,
    /// The claims challenge of the provider or of an API.
    pub(crate) claims: Option<String>,
    /// How an API wants the user to have authenticated, and how many seconds ago at most (RFC 9470).
    #[serde(default)]
    pub(crate) acr_values: Option<String>,
    #[serde(default)]
    pub(crate) max_age: Option<u64>,
}

/// The category of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nobody is signed in to this session, or the sign-in has ended. 401.
    NotSignedIn,
    /// The user has to go to the provider again: consent, step-up, or a refresh token that is gone. 401.
    InteractionRequired,
    /// The account, provider or target named is not one that this request may use. 403.
    Forbidden,
    /// The request is malformed: a parameter, a cookie, a form. 400.
    InvalidRequest,
    /// The provider cannot be reached, is slow or overloaded. 503 with `Retry-After`.
    ProviderUnavailable,
    /// The provider answered with something that is not valid, or refused the request. 502.
    ProviderRejected,
    /// The token store cannot be reached. 503 with `Retry-After`.
    StoreUnavailable,
    /// An API that the app calls cannot be reached or is slow. 503 with `Retry-After`.
    ApiUnavailable,
    /// A limit is reached. 503 with `Retry-After`.
    Capacity,
    /// The layers are missing, in the wrong order, or of a version that is not enabled; or the app asked for a token of its own at a
    /// provider that is not configured, or as a public client. 500.
    Misconfigured,
    /// Anything else. 500.
    Internal,
}

impl ErrorKind {
    /// The name, as it appears in traces and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSignedIn => "NotSignedIn",
            Self::InteractionRequired => "InteractionRequired",
            Self::Forbidden => "Forbidden",
            Self::InvalidRequest => "InvalidRequest",
            Self::ProviderUnavailable => "ProviderUnavailable",
            Self::ProviderRejected => "ProviderRejected",
            Self::StoreUnavailable => "StoreUnavailable",
            Self::ApiUnavailable => "ApiUnavailable",
            Self::Capacity => "Capacity",
            Self::Misconfigured => "Misconfigured",
            Self::Internal => "Internal",
        }
    }

    /// The status that an error of this kind is answered with.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::NotSignedIn | Self::InteractionRequired => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::ProviderRejected => StatusCode::BAD_GATEWAY,
            Self::ProviderUnavailable
            | Self::StoreUnavailable
            | Self::ApiUnavailable
            | Self::Capacity => StatusCode::SERVICE_UNAVAILABLE,
            Self::Misconfigured | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The whole body that an error of this kind is answered with.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::NotSignedIn => "Not signed in.",
            Self::InteractionRequired => "Please sign in again.",
            Self::Forbidden => "Not allowed.",
            Self::InvalidRequest => "The request is not valid.",
            Self::ProviderRejected => "The sign-in service gave an unusable answer.",
            Self::ProviderUnavailable => "The sign-in service is not available at the moment.",
            Self::StoreUnavailable | Self::ApiUnavailable | Self::Capacity => {
                "The service is not available at the moment."
            }
            Self::Misconfigured | Self::Internal => "Internal error.",
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            context: context.into(),
            retry_after: None,
            wanted: None,
            source: None,
        }
    }

    /// Notes what the user has to be asked for, along with what is noted already.
    pub(crate) fn wanting(mut self, issuer: &str, scopes: &[&str], resource: Option<&str>) -> Self {
        let wanted = self.wanted.get_or_insert_default();
        wanted.issuer = Some(issuer.to_owned());
        wanted.scopes = scopes.iter().map(ToString::to_string).collect();
        wanted.resource = resource.map(str::to_owned);
        self
    }

    #[cfg(feature = "reqwest")]
    pub(crate) fn with_wanted(mut self, wanted: Wanted) -> Self {
        self.wanted = Some(Box::new(wanted));
        self
    }

    pub(crate) fn with_challenge(mut self, claims: &str) -> Self {
        self.wanted.get_or_insert_default().claims = Some(claims.to_owned());
        self
    }

    /// Only for sources whose `Display` is known to be free of secrets.
    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    pub(crate) fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The category.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The claims challenge of the provider or of an API, a JSON object: the `claims` parameter of the authorization
    /// request that answers it (OIDC Core section 5.5). Only where the kind is [`ErrorKind::InteractionRequired`].
    #[must_use]
    pub fn claims(&self) -> Option<&str> {
        self.wanted.as_ref()?.claims.as_deref()
    }

    /// How an API wants the user to have authenticated (RFC 9470 section 3): the `acr_values` of the authorization request that
    /// answers it.
    #[must_use]
    pub fn acr_values(&self) -> Option<&str> {
        self.wanted.as_ref()?.acr_values.as_deref()
    }

    /// How long ago an API wants the user to have authenticated at most (RFC 9470 section 3): the `max_age` of the
    /// authorization request that answers it.
    #[must_use]
    pub fn max_age(&self) -> Option<Duration> {
        self.wanted.as_ref()?.max_age.map(Duration::from_secs)
    }

    pub(crate) fn wanted(&self) -> Option<&Wanted> {
        self.wanted.as_deref()
    }

    /// How long to wait before trying again, where that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Waiters of one refresh share its error, so it can be copied; the source stays with the first.
impl Clone for Error {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            context: match &self.source {
                None => self.context.clone(),
                Some(source) => format!("{}: {source}", self.context).into(),
            },
            retry_after: self.retry_after,
            wanted: self.wanted.clone(),
            source: None,
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Sources by `Display`: a foreign `Debug` may print more than its author thought of.
        f.debug_struct("Error")
            .field("kind", &self.kind)
            .field("context", &self.context)
            .field("source", &self.source.as_ref().map(ToString::to_string))
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|e| &**e as _)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        if status.is_server_error() {
            tracing::error!(kind = ?self.kind, error = %Chain(&self), "request failed");
        } else {
            tracing::debug!(kind = ?self.kind, error = %Chain(&self), "request refused");
        }
        let mut response = (status, self.kind.message()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // Rounded up: who comes back a moment too early waits once more.
            let whole = |after: Duration| after.as_secs() + u64::from(after.subsec_nanos() > 0);
            let seconds = self.retry_after.map_or(5, |after| whole(after).max(1));
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self.kind);
        if let Some(wanted) = self.wanted {
            response.extensions_mut().insert(*wanted);
        }
        response
    }
}

/// An error and its sources on one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn StdError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            write!(f, ": {source}")?;
            next = source.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_shows_the_fixed_text_only() {
        let error = Error::new(ErrorKind::ProviderUnavailable, "secret context")
            .with_retry_after(Duration::from_millis(6001));
        let response = error.into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    }
}
