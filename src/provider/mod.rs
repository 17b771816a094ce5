//! The OpenID provider: one issuer with this app's registration there.
//!
//! A [`Provider`] is made without any I/O, so an app starts while its provider is down. Its metadata is discovered when
//! it is first needed (or in [`Provider::ready`]), its keys likewise, and each is then kept:
//!
//! 1. One request at a time fetches each of the two documents, in a task of its own: whoever waited and left stops nothing.
//! 2. What is held stays in use until its successor has been read and checked. A provider that is away, or that publishes
//!    rubbish for an hour, takes nothing from those who are signed in, and keeps nobody from signing out.
//! 3. After a failure there is a pause, short at first, and for keys after every fetch: a flood of bad tokens
//!    makes no flood of requests.
//! 4. Every endpoint comes from the metadata of the configured issuer. Nothing a request says picks where a token is sent.
//! 5. No redirect is followed; every answer is bounded in size and time.
//!
//! `https` is required, except that a provider on loopback may speak plain `http` at all of its endpoints.

mod authorization;
mod builder;
mod circuit;
mod client_auth;
mod discovery;
mod fetched;
mod http;
mod key_cache;
mod metadata;
pub(crate) mod prompt;
#[cfg(feature = "reqwest")]
mod reqwest_client;
mod retry_after;
mod revocation;
mod token_endpoint;
mod url_rules;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub(crate) use self::authorization::AuthorizationRequest;
pub use self::builder::ProviderBuilder;
pub(crate) use self::circuit::{Circuit, Permit, REFRESH_PAUSE};
use self::client_auth::Credentials;
pub use self::client_auth::{AssertionAudience, ClientAssertion, ClientAuth};
use self::discovery::MetadataSource;
use self::fetched::Fetched;
use self::http::Http;
pub(crate) use self::key_cache::VerifyError;
pub(crate) use self::metadata::Metadata;
pub use self::metadata::ProviderMetadata;
pub(crate) use self::revocation::{Revocation, TokenHint};
pub(crate) use self::token_endpoint::{CodeExchange, TokenError};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind};
use crate::jwt::id_token::IdTokenRules;
use crate::jwt::keys::KeySet;
use crate::jwt::logout_token::LogoutTokenRules;

/// An OpenID provider: its issuer, this app's registration there, and what was learned of it. Cheap to clone; clones share
/// everything.
///
/// ```
/// # #[cfg(feature = "reqwest")] {
/// use axum_signout::Provider;
///
/// let provider = Provider::discover("https://login.example.com", "my-app")
///     .client_secret("from the configuration")
///     .build()?;
/// assert_eq!(provider.name(), "login-example-com");
/// # }
/// # Ok::<(), axum_signout::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Provider(Arc<Inner>);

struct Inner {
    name: Box<str>,
    credentials: Credentials,
    scopes: Box<[Box<str>]>,
    authorization_params: Box<[(Box<str>, Box<str>)]>,
    resource: Option<Box<str>>,
    rules: IdTokenRules,
    logout_rules: LogoutTokenRules,
    http: Http,
    clock: OnceLock<Arc<dyn Clock>>,
    metadata: MetadataSource,
    keys: Fetched<KeySet>,
    circuit: Circuit,
}

impl Provider {
    /// A provider whose metadata is found by OpenID Connect Discovery, at
    /// `{issuer}/.well-known/openid-configuration`. No request is made until it is needed.
    ///
    /// The issuer must be exactly the one that the provider states, with or without a slash at its end; `https`, or
    /// `http` on loopback.
    pub fn discover(issuer: impl Into<String>, client_id: impl Into<String>) -> ProviderBuilder {
        ProviderBuilder::discover(issuer.into(), client_id.into())
    }

    /// A provider whose metadata is written by hand: nothing is discovered, only its keys are fetched.
    pub fn with_metadata(
        metadata: ProviderMetadata,
        client_id: impl Into<String>,
    ) -> ProviderBuilder {
        ProviderBuilder::with_metadata(metadata, client_id.into())
    }

    /// The issuer, exactly as configured.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.0.rules.issuer
    }

    /// This app's client identifier at the provider.
    #[must_use]
    pub fn client_id(&self) -> &str {
        &self.0.rules.client_id
    }

    /// The name that chooses this provider among several in URLs.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Waits until metadata and keys are there, for an app that would rather start late than answer sign-ins with an
    /// error.
    ///
    /// Makes one attempt, or waits for the one under way, and is bounded by the [time-out](ProviderBuilder::timeout)
    /// of each of the two requests.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ProviderUnavailable`], with the time after which another attempt is made.
    pub async fn ready(&self) -> Result<(), Error> {
        self.metadata().await?;
        self.current_keys().await?;
        Ok(())
    }

    /// The scopes that every sign-in asks for.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0.scopes.iter().map(AsRef::as_ref)
    }

    /// How long one request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.0.http.timeout()
    }

    /// Whether refreshes are of use at the moment, for whoever shares this provider.
    pub(crate) fn circuit(&self) -> &Circuit {
        &self.0.circuit
    }

    pub(crate) fn rules(&self) -> &IdTokenRules {
        &self.0.rules
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.0.clock.get_or_init(|| Arc::new(SystemClock::new()))
    }

    /// The clock of whoever uses the provider, unless the builder was given one or time was read already.
    pub(crate) fn adopt_clock(&self, clock: &Arc<dyn Clock>) {
        let _ = self.0.clock.set(Arc::clone(clock));
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("name", &self.name())
            .field("issuer", &self.issuer())
            .field("client_id", &self.client_id())
            .finish_non_exhaustive()
    }
}

/// A document of the provider is not there: nothing was sent but the request for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable {
    /// When the next attempt may be made.
    pub(crate) retry_after: Duration,
    /// Free of secrets: both documents are public.
    pub(crate) reason: Arc<str>,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Unavailable {}

impl From<Unavailable> for Error {
    fn from(unavailable: Unavailable) -> Self {
        let after = unavailable.retry_after;
        Error::new(
            ErrorKind::ProviderUnavailable,
            "the provider is not available",
        )
        .with_source(unavailable)
        .with_retry_after(after)
    }
}
