//! Tokens of the app itself, as the app gets them.

use std::fmt;
use std::sync::Arc;

use super::Auth;
use crate::cache::AppKey;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::provider::Provider;
use crate::scopes::Scopes;
use crate::token::AccessToken;

impl Auth {
    /// The tokens of the app itself, at the first provider; of the others by [`AppTokens::of_provider`].
    pub fn app_tokens(&self) -> AppTokens {
        AppTokens {
            core: self.0.clone(),
            at: 0,
        }
    }
}

/// Access tokens of the app itself, not of a user: by the client credentials grant (RFC 6749 section 4.4). Cheap to clone, and not bound
/// to a request, so that background jobs have them too. Had with [`Auth::app_tokens`].
///
/// ```
/// # use axum_signout::{Auth, Error};
/// async fn report(auth: Auth) -> Result<String, Error> {
///     let token = auth.app_tokens().acquire("Reports.Write").await?;
///     // … call the API with token.secret() …
///     Ok(format!("until {:?}", token.expires()))
/// }
/// ```
///
/// # What is kept
///
/// One token for each provider, resource and set of scopes, whose order does not matter. Unlike a user's token, one with more scopes
/// does not serve a request for fewer: the app gets the least power that it asks for. They are in this process's memory, and
/// not in the token store: each node gets its own, and a sign-out of a user changes nothing about them. Of
/// [1,000](crate::AuthBuilder::max_app_tokens) at most; the least recently used leaves then, and stays valid at the provider.
///
/// A token is got when it is first asked for, and the next one [ahead of time](crate::AuthBuilder::refresh_ahead), behind those who ask; there is
/// no timer. All who need one wait for the same request, which goes on without them. Where the provider is away, a token
/// that is still valid is served; without one, pauses from a second to a minute lie between attempts, and longer ones where
/// the provider asks for them. So they do after a refusal. A token whose life the provider does not state is kept until it is evicted
/// or refused by an API.
#[derive(Clone)]
#[must_use]
pub struct AppTokens {
    core: Arc<Core>,
    /// Which of the providers.
    at: usize,
}

impl AppTokens {
    /// Those at another provider, by its [name](crate::Provider::name).
    ///
    /// ```
    /// # use axum_signout::{AccessToken, Auth, Error};
    /// # async fn token(auth: Auth) -> Result<AccessToken, Error> {
    /// auth.app_tokens().of_provider("partners")?.acquire("Orders.Read").await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::Misconfigured`]: there is none of that name.
    pub fn of_provider(&self, name: &str) -> Result<Self, Error> {
        let providers = self.core.cache.providers();
        let at = providers.iter().position(|one| one.name() == name);
        let at = at.ok_or_else(|| {
            Error::new(
                ErrorKind::Misconfigured,
                "no provider has the name that app tokens are asked of",
            )
        })?;
        let core = self.core.clone();
        Ok(Self { core, at })
    }

    /// The provider that issues them.
    #[must_use]
    pub fn provider(&self) -> &Provider {
        &self.core.cache.providers()[self.at]
    }

    /// A valid access token with these scopes: from memory, or by one request to the provider. `()` asks for no scopes, and the provider
    /// chooses. It is for the [provider's resource](crate::ProviderBuilder::resource), where one is configured.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Misconfigured`]: the app is a public client there, which has no tokens of its own. Nothing was sent.
    /// * [`ErrorKind::ProviderUnavailable`]: the provider is away, and no token that is still valid is there; also without an attempt, until the
    ///   pause after the last one is over. [`Error::retry_after`] is what is left of it.
    /// * [`ErrorKind::ProviderRejected`]: it refused, granted less, or sent what is no token. A refusal is told again, without asking it, until the
    ///   pause is over.
    /// * [`ErrorKind::Capacity`]: requests for [so many](crate::AuthBuilder::max_app_tokens) other tokens are under way.
    pub async fn acquire(&self, scopes: impl Scopes) -> Result<AccessToken, Error> {
        let key = self.key(&scopes, None);
        self.core.cache.app_token(&key).await
    }

    /// Like [`acquire`](Self::acquire), for a resource (RFC 8707): an API that the provider issues separate tokens for.
    ///
    /// # Errors
    /// Those of [`acquire`](Self::acquire).
    pub async fn acquire_for(
        &self,
        resource: &str,
        scopes: impl Scopes,
    ) -> Result<AccessToken, Error> {
        let key = self.key(&scopes, Some(resource));
        self.core.cache.app_token(&key).await
    }

    /// Another token than one that its API refused with 401, for the same scopes and resource: what took its place meanwhile, or by one
    /// request, however many ask. Those who do not ask so are served the old one until then, which may do at other APIs; to take it
    /// from everybody at once there is [`evict`](Self::evict). [`Api`](crate::Api) does this by itself.
    ///
    /// `None`: there is no other that would fare better, for the provider gave the same one again, or the refused one was issued
    /// less than a minute ago. An API that refuses every token does not make every call a request for one.
    ///
    /// ```
    /// # use axum_signout::{AccessToken, Auth, Error};
    /// # async fn call(_: &AccessToken) -> u16 { 200 }
    /// async fn job(auth: Auth) -> Result<u16, Error> {
    ///     let tokens = auth.app_tokens();
    ///     let token = tokens.acquire("Reports.Write").await?;
    ///     let status = call(&token).await;
    ///     if status == 401 && let Some(fresh) = tokens.acquire_fresh("Reports.Write", &token).await? {
    ///         return Ok(call(&fresh).await);
    ///     }
    ///     Ok(status)
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`acquire`](Self::acquire).
    pub async fn acquire_fresh(
        &self,
        scopes: impl Scopes,
        refused: &AccessToken,
    ) -> Result<Option<AccessToken>, Error> {
        let key = self.key(&scopes, refused.resource());
        self.core.cache.app_token_but(&key, Some(refused)).await
    }

    /// Takes the token for these scopes out, for good, and has it revoked at the provider in the background, unless
    /// [the policy](crate::AuthBuilder::revocation) is never to revoke. How many there were: 0 or 1.
    ///
    /// No `acquire` that begins after this returned gets it, nor what a request brings that was under way: that is revoked as well, and
    /// who waits for it asks again. What handlers have in their hands already stays with them, and ends at the provider.
    /// This node's only: others have their own. A provider that issues the same token again until it ends undoes it.
    ///
    /// It waits for the store to note what is to be revoked, for five seconds at most, and never for the provider. If the store is
    /// away, noting it is tried again for some seconds; dropping the future stops neither.
    pub async fn evict(&self, scopes: impl Scopes) -> usize {
        self.evict_one(self.key(&scopes, None)).await
    }

    /// Like [`evict`](Self::evict), for a resource.
    pub async fn evict_for(&self, resource: &str, scopes: impl Scopes) -> usize {
        self.evict_one(self.key(&scopes, Some(resource))).await
    }

    /// Like [`evict`](Self::evict), all of this provider's, whatever they are for: after its client secret was changed, say. How many
    /// there were.
    pub async fn evict_all(&self) -> usize {
        let cache = &self.core.cache;
        cache.evict_app_tokens(self.at, |_| true).await
    }

    async fn evict_one(&self, key: AppKey) -> usize {
        let cache = &self.core.cache;
        cache.evict_app_tokens(self.at, |one| *one == key).await
    }

    fn key(&self, scopes: &impl Scopes, resource: Option<&str>) -> AppKey {
        AppKey::new(self.at, &scopes.list(), resource)
    }
}

impl fmt::Debug for AppTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppTokens")
            .field("provider", &self.provider().name())
            .finish_non_exhaustive()
    }
}
