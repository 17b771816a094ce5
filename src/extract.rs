//! Extractors, and how they refuse.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::account::Account;
use crate::auth::Auth;
use crate::cache::{SignIn, TimeLeft};
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::current::Current;
use crate::error::{Error, ErrorKind};
use crate::id::SignInId;
use crate::scopes::Scopes;
use crate::sign_in::ask_for;
use crate::token::{AccessToken, IdToken, TokenSet};

/// Why an extractor of this crate refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum AuthRejection {
    /// Nobody is signed in to this session.
    NotSignedIn(NotSignedIn),
    /// The token store or the session store cannot be reached.
    Unavailable(Unavailable),
    /// [`AuthLayer`](crate::AuthLayer) did not see the request.
    LayerMissing(LayerMissing),
}

impl IntoResponse for AuthRejection {
    fn into_response(self) -> Response {
        match self {
            Self::NotSignedIn(rejection) => rejection.into_response(),
            Self::Unavailable(rejection) => rejection.into_response(),
            Self::LayerMissing(rejection) => rejection.into_response(),
        }
    }
}

impl fmt::Display for AuthRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSignedIn(_) => "nobody is signed in",
            Self::Unavailable(_) => "a store cannot be reached",
            Self::LayerMissing(_) => "AuthLayer did not see the request",
        })
    }
}

impl std::error::Error for AuthRejection {}

/// Nobody is signed in to this session: 401, as a page for a person's navigation and as fixed text else. Where
/// [`redirect_to_sign_in`](crate::AuthBuilder::redirect_to_sign_in) is on, a navigation is sent to sign-in; htmx always is.
pub struct NotSignedIn {
    current: Current,
}

impl fmt::Debug for NotSignedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NotSignedIn")
    }
}

impl IntoResponse for NotSignedIn {
    fn into_response(self) -> Response {
        let (core, asks) = (self.current.core(), self.current.asks());
        if !asks.navigation {
            return Error::new(ErrorKind::NotSignedIn, "nobody is signed in").into_response();
        }
        let mut response = core
            .pages
            .not_signed_in(&crate::auth::sign_in_url(core, Some(asks.return_to())));
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        response.extensions_mut().insert(ErrorKind::NotSignedIn);
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// The token store or the session store cannot be reached: 503 with `Retry-After`.
#[derive(Debug)]
pub struct Unavailable(Error);

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

/// [`AuthLayer`](crate::AuthLayer) did not see the request: 500, and a trace that says so.
#[derive(Debug)]
pub struct LayerMissing(());

impl IntoResponse for LayerMissing {
    fn into_response(self) -> Response {
        Error::new(
            ErrorKind::Misconfigured,
            "AuthLayer did not see this request: add .layer(auth.layer_with(session_layer)) to the router, after its routes",
        )
        .into_response()
    }
}

impl Current {
    pub(crate) fn of(parts: &Parts) -> Result<&Self, AuthRejection> {
        Self::of_extensions(&parts.extensions)
    }

    pub(crate) fn of_extensions(extensions: &Extensions) -> Result<&Self, AuthRejection> {
        extensions
            .get::<Self>()
            .ok_or(AuthRejection::LayerMissing(LayerMissing(())))
    }

    pub(crate) fn required(&self) -> Result<SignIn, AuthRejection> {
        self.optional()?.ok_or_else(|| {
            AuthRejection::NotSignedIn(NotSignedIn {
                current: self.clone(),
            })
        })
    }

    pub(crate) fn optional(&self) -> Result<Option<SignIn>, AuthRejection> {
        self.latest()
            .map_err(|error| AuthRejection::Unavailable(Unavailable(error)))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Current {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Self::of(parts).cloned()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Auth {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of_core(Current::of(parts)?.core().clone()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Account {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Current::of(parts)?.required()?.watched_account())
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Account {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        let sign_in = Current::of(parts)?.optional()?;
        Ok(sign_in.map(|sign_in| sign_in.watched_account()))
    }
}

/// The tokens of the session's latest sign-in, and the way to those of the others. As an extractor it refuses with 401 where
/// nobody is signed in; `Option<Tokens>` does not.
///
/// ```
/// # use axum_signout::{Account, Error, Tokens};
/// async fn mail(account: Account, tokens: Tokens) -> Result<String, Error> {
///     let token = tokens.acquire("Mail.Read").await?;
///     // … call the API with token.secret() …
///     Ok(format!("mail of {}", account.subject()))
/// }
/// ```
#[derive(Clone)]
pub struct Tokens {
    current: Current,
    sign_in: SignIn,
}

impl<S: Send + Sync> FromRequestParts<S> for Tokens {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let current = Current::of(parts)?.clone();
        let sign_in = current.required()?;
        Ok(Self { current, sign_in })
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Tokens {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        let current = Current::of(parts)?.clone();
        let sign_in = current.optional()?;
        Ok(sign_in.map(|sign_in| Self { current, sign_in }))
    }
}

impl Tokens {
    /// A valid access token that carries these scopes: from the cache, without I/O, or by one refresh at the provider
    /// where there is none or it is about to end. Where there is one that is [past a share of its
    /// life](crate::AuthBuilder::refresh_ahead), it is returned at once and the next one got in the background. `()` means the token that came with the sign-in.
    ///
    /// A text of several scopes is separated by spaces, as in OAuth.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::NotSignedIn`]: the sign-in has ended, also while this was waiting.
    /// * [`ErrorKind::InteractionRequired`]: the user has to go to the provider: consent, or no refresh token.
    /// * [`ErrorKind::ProviderUnavailable`], [`ErrorKind::ProviderRejected`]: the refresh did not succeed, and no token that
    ///   is still valid is there. The first also without an attempt, until the pause after the last one is over;
    ///   [`Error::retry_after`] is what is left of it.
    /// * [`ErrorKind::StoreUnavailable`]: the token store did not answer.
    pub async fn acquire(&self, scopes: impl Scopes) -> Result<AccessToken, Error> {
        self.sign_in.acquire(&scopes.list(), None).await
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
        self.sign_in.acquire(&scopes.list(), Some(resource)).await
    }

    /// Another token than one that its API refused with 401, for the same resource: what took its place meanwhile, or by one
    /// refresh at the provider, however many ask. The refused one is handed out no more. [`Api`](crate::Api) does this by itself.
    ///
    /// `None`: there is no other that would fare better, for the provider gave the same one again, there is no refresh token, the
    /// refused one was issued less than a minute ago, or the provider refused a refresh a moment ago. An API that refuses every token
    /// does not make every request a refresh.
    ///
    /// ```
    /// # use axum_signout::{AccessToken, Error, Tokens};
    /// # async fn call(token: &AccessToken) -> u16 { 200 }
    /// async fn mail(tokens: Tokens) -> Result<u16, Error> {
    ///     let token = tokens.acquire("Mail.Read").await?;
    ///     let status = call(&token).await;
    ///     if status == 401 && let Some(fresh) = tokens.acquire_fresh("Mail.Read", &token).await? {
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
        let scopes = scopes.list();
        self.sign_in.acquire_other(&scopes, refused).await
    }

    /// Where to send the user for what an error of [`ErrorKind::InteractionRequired`] lacks: consent, a step-up, a claims
    /// challenge. They come back to `return_to`, a path or a URL on the allowlist, or else to
    /// [`AuthBuilder::after_sign_in`](crate::AuthBuilder::after_sign_in). For scripts, which cannot follow a redirect: a person's navigation is sent
    /// there by [`AuthBuilder::redirect_to_sign_in`](crate::AuthBuilder::redirect_to_sign_in).
    ///
    /// `None` where the error is another one, or the user was asked for just this within two minutes, so that asking again would
    /// not help; also at the fourth time in two minutes for the same scopes and resource, whatever is asked for, and for more than
    /// 2 kB of it. What is asked for travels in an encrypted cookie of this request's response, not in the URL.
    ///
    /// ```
    /// # use axum::{Json, response::{IntoResponse, Response}};
    /// # use axum_signout::{Error, Tokens};
    /// # use serde_json::json;
    /// fn refused(tokens: &Tokens, error: Error) -> Response {
    ///     match tokens.interaction_url(&error, "/mail") {
    ///         Some(location) => Json(json!({ "location": location })).into_response(),
    ///         None => error.into_response(),
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn interaction_url(&self, error: &Error, return_to: &str) -> Option<String> {
        if error.kind() != ErrorKind::InteractionRequired {
            return None;
        }
        let wanted = error.wanted().cloned().unwrap_or_default();
        let cookies = self.current.asks().cookies();
        ask_for(&self.current, &cookies, &wanted, Some(return_to))
    }

    #[cfg(feature = "reqwest")]
    pub(crate) fn opened(&self) -> &SignIn {
        &self.sign_in
    }

    /// Whose these are.
    #[must_use]
    pub fn account(&self) -> Account {
        self.sign_in.watched_account()
    }

    /// The sign-in that these belong to.
    #[must_use]
    pub fn sign_in(&self) -> SignInId {
        self.sign_in.address().id
    }

    /// The ID token, for APIs that want it.
    ///
    /// A handler that runs for longer than the idle lifetime over a shared store asks for [`time_left`](Self::time_left) first: this
    /// does not wait for the store, and refuses past the end that it knows of.
    ///
    /// # Errors
    /// [`ErrorKind::NotSignedIn`] if the sign-in has ended, [`ErrorKind::InteractionRequired`] if there is none.
    pub fn id_token(&self) -> Result<IdToken, Error> {
        let token = self.sign_in.entry_at_once()?.tokens.id_token().cloned();
        token.ok_or_else(|| Error::new(ErrorKind::InteractionRequired, "there is no ID token"))
    }

    /// All accounts of this session, oldest sign-in first.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUnavailable`].
    pub fn accounts(&self) -> Result<Vec<SignedIn>, Error> {
        let all = self.current.sign_ins()?;
        Ok(all.iter().map(SignedIn::of).collect())
    }

    /// The tokens of another account of this session: its latest sign-in.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUnavailable`].
    pub fn of(&self, account: &Account) -> Result<Option<Self>, Error> {
        let found = self.current.of_account(account)?;
        Ok(self.with(found))
    }

    /// The tokens of another sign-in of this session.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUnavailable`].
    pub fn of_sign_in(&self, id: SignInId) -> Result<Option<Self>, Error> {
        let found = self.current.named(id)?;
        Ok(self.with(found))
    }

    fn with(&self, sign_in: Option<SignIn>) -> Option<Self> {
        sign_in.map(|sign_in| Self {
            current: self.current.clone(),
            sign_in,
        })
    }

    /// What is known of this sign-in, without its secrets, for a page that shows it.
    #[must_use]
    pub fn describe(&self) -> SignedIn {
        SignedIn::of(&self.sign_in)
    }

    /// What is left of the sign-in's lifetimes. Asking prolongs nothing; that the request came in did.
    ///
    /// # Errors
    /// [`ErrorKind::NotSignedIn`] if the sign-in has ended, [`ErrorKind::StoreUnavailable`].
    pub async fn time_left(&self) -> Result<TimeLeft, Error> {
        self.sign_in.time_left().await
    }

    /// Notes that the sign-in is used, as each request does by itself: for connections that stay open, whose user does
    /// something. The absolute lifetime stays as it is. Returns what is left.
    ///
    /// # Errors
    /// [`ErrorKind::NotSignedIn`] if the sign-in has ended, [`ErrorKind::StoreUnavailable`].
    pub async fn prolong(&self) -> Result<TimeLeft, Error> {
        self.sign_in.prolong().await
    }

    /// Waits until the sign-in ends, and says why: as [`Account::ended`], which does not keep the tokens in memory meanwhile.
    pub async fn ended(&self) -> Cause {
        self.sign_in.ended().await
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("sign_in", &self.sign_in())
            .finish_non_exhaustive()
    }
}

/// One sign-in of a session, without its secrets.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SignedIn {
    /// Which.
    pub sign_in: SignInId,
    /// Who.
    pub account: Account,
    /// When it was created, by the store's clock.
    pub created: Timestamp,
    /// When it was last used, as far as that was noted.
    pub last_used: Timestamp,
    /// When it ends if it is not used again.
    pub expires: Timestamp,
    /// Whether an expired access token can be refreshed.
    pub refreshable: bool,
    /// Its access tokens.
    pub access_tokens: Vec<TokenInfo>,
}

/// What is known of an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenInfo {
    /// Its scopes, sorted.
    pub scopes: Vec<String>,
    /// The resource that it is for.
    pub resource: Option<String>,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

impl SignedIn {
    fn of(sign_in: &SignIn) -> Self {
        let stored = sign_in.stored();
        let tokens: &TokenSet = &stored.entry.tokens;
        Self {
            sign_in: sign_in.address().id,
            account: sign_in.watched_account(),
            created: stored.created,
            last_used: stored.last_used,
            expires: stored.expires,
            refreshable: tokens.refresh_token().is_some(),
            access_tokens: tokens.access_tokens().iter().map(TokenInfo::of).collect(),
        }
    }
}

impl TokenInfo {
    fn of(token: &AccessToken) -> Self {
        Self {
            scopes: token.scopes().map(str::to_owned).collect(),
            resource: token.resource().map(str::to_owned),
            expires: token.expires(),
        }
    }
}

/// For handlers that do not care whether the layer is there.
impl<S: Send + Sync> OptionalFromRequestParts<S> for Auth {
    type Rejection = Infallible;

    fn from_request_parts(
        parts: &mut Parts,
        _: &S,
    ) -> impl Future<Output = Result<Option<Self>, Self::Rejection>> + Send {
        let auth = Current::of(parts)
            .ok()
            .map(|current| Self::of_core(current.core().clone()));
        std::future::ready(Ok(auth))
    }
}
