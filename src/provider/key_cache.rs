//! The provider's keys, fetched again when a token is signed with one that is not known (R26).

use std::fmt;
use std::time::Duration;

use super::discovery::FetchError;
use super::fetched::Held;
use super::http::get_json;
use super::{Provider, Unavailable};
use crate::error::{Error, ErrorKind};
use crate::events;
use crate::jwt::WantsNewerKeys;
use crate::jwt::id_token::{Expectations, IdTokenError, VerifiedIdToken};
use crate::jwt::keys::{KeySet, KeySetError};
use crate::jwt::logout_token::{LogoutTokenError, UnverifiedLogoutToken, VerifiedLogoutToken};
use crate::token::IdToken;

/// After this time a key that the provider withdrew must be out of use. Unlike metadata, keys this old are not used while
/// newer ones are on their way, only when there are none to be had.
const FRESH: Duration = Duration::from_secs(60 * 60);

impl Provider {
    /// The keys, as fresh as they can be had.
    pub(super) async fn current_keys(&self) -> Result<Held<KeySet>, Unavailable> {
        match self.0.keys.held(&**self.clock()) {
            Some(held) if held.age < FRESH => Ok(held),
            // In boxes, so that the many calls that need no fetch do not carry one around.
            Some(old) => Ok(Box::pin(self.newer_keys(old.version)).await.unwrap_or(old)),
            None => Box::pin(self.fetch_keys()).await,
        }
    }

    /// Keys of a later version than the one seen, if they may be fetched now.
    async fn newer_keys(&self, seen: u64) -> Option<Held<KeySet>> {
        let newer = |held: Held<KeySet>| (held.version > seen).then_some(held);
        if let Some(held) = self.0.keys.held(&**self.clock()).and_then(newer) {
            return Some(held);
        }
        self.fetch_keys().await.ok().and_then(newer)
    }

    async fn fetch_keys(&self) -> Result<Held<KeySet>, Unavailable> {
        let clock = self.clock();
        let flight = self.0.keys.start(clock, || fetch(self.clone()))?;
        self.0.keys.landed(flight, &**clock).await
    }

    /// Runs a check with the keys, and once more with newer ones if it asks for them and they can be had.
    pub(crate) async fn with_keys<T, E: WantsNewerKeys>(
        &self,
        check: impl Fn(&KeySet) -> Result<T, E>,
    ) -> Result<T, VerifyError<E>> {
        let held = self
            .current_keys()
            .await
            .map_err(VerifyError::Unavailable)?;
        let refused = match check(&held.value) {
            Ok(accepted) => return Ok(accepted),
            Err(refused) => refused,
        };
        if !refused.wants_newer_keys() {
            return Err(VerifyError::Refused(refused));
        }
        match Box::pin(self.newer_keys(held.version)).await {
            Some(newer) => check(&newer.value).map_err(VerifyError::Refused),
            None => Err(VerifyError::NoNewerKeys(refused)),
        }
    }

    /// Verifies an ID token by every rule of OIDC Core.
    #[tracing::instrument(skip_all, fields(provider = self.name()))]
    pub(crate) async fn verify_id_token(
        &self,
        token: &IdToken,
        expected: &Expectations<'_>,
    ) -> Result<VerifiedIdToken, VerifyError<IdTokenError>> {
        let now = self.clock().wall();
        self.with_keys(|keys| self.rules().verify(token, expected, keys, now))
            .await
            .inspect_err(|error| tracing::warn!(%error, "an ID token was refused"))
    }

    /// Verifies a logout token by every rule of Back-Channel Logout.
    #[tracing::instrument(skip_all, fields(provider = self.name()))]
    pub(crate) async fn verify_logout_token(
        &self,
        token: &UnverifiedLogoutToken<'_>,
    ) -> Result<VerifiedLogoutToken, VerifyError<LogoutTokenError>> {
        let now = self.clock().wall();
        let rules = &self.0.logout_rules;
        self.with_keys(|keys| rules.verify(token, self.rules(), keys, now))
            .await
    }
}

async fn fetch(provider: Provider) -> Result<KeySet, FetchError> {
    let outcome = try_fetch(&provider).await;
    let error = outcome.as_ref().err();
    events::keys_fetched(
        provider.issuer(),
        error.map(|error| error as &dyn std::fmt::Display),
    );
    outcome
}

async fn try_fetch(provider: &Provider) -> Result<KeySet, FetchError> {
    let algorithms = &provider.rules().algorithms;
    let secret = provider.0.credentials.secret();
    let with_secret = |keys: KeySet| match secret {
        Some(secret) => keys.with_client_secret(secret, algorithms),
        None => keys,
    };
    if algorithms
        .iter()
        .all(|algorithm| algorithm.hmac().is_some())
    {
        return Ok(with_secret(KeySet::default()));
    }
    let metadata = provider.metadata().await.map_err(FetchError::Unavailable)?;
    let document = get_json(&provider.0.http, metadata.jwks_uri.as_str()).await?;
    match KeySet::parse(&document, algorithms) {
        Ok(keys) => Ok(with_secret(keys)),
        // One that signs with the client secret only need not publish any.
        Err(KeySetError::NoneUsable) if algorithms.iter().any(|one| one.hmac().is_some()) => {
            Ok(with_secret(KeySet::default()))
        }
        Err(error) => Err(FetchError::Keys(error)),
    }
}

/// Why a token was not accepted.
#[derive(Debug)]
pub(crate) enum VerifyError<E> {
    /// It is bad.
    Refused(E),
    /// The keys that are there do not know it, and newer ones cannot be had now: the pause between two fetches is not over, or
    /// the provider does not answer.
    NoNewerKeys(E),
    /// There are no keys to verify it with.
    Unavailable(Unavailable),
}

impl<E: fmt::Display> fmt::Display for VerifyError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) | Self::NoNewerKeys(error) => error.fmt(f),
            Self::Unavailable(error) => write!(f, "no keys to verify it with: {error}"),
        }
    }
}

impl<E: std::error::Error> std::error::Error for VerifyError<E> {}

impl From<VerifyError<IdTokenError>> for Error {
    fn from(error: VerifyError<IdTokenError>) -> Self {
        match error {
            VerifyError::Refused(error) | VerifyError::NoNewerKeys(error) => {
                Error::new(ErrorKind::ProviderRejected, "the ID token was refused")
                    .with_source(error)
            }
            VerifyError::Unavailable(unavailable) => unavailable.into(),
        }
    }
}
