//! [`Auth`]: what an app has in its hands.

mod app_tokens;
mod builder;
mod links;
mod operator;
mod signing_in;

use std::sync::Arc;
use std::time::Duration;

use crate::account::Account;
use crate::clock::Timestamp;
use crate::cookie_fix::SessionCookieFix;
use crate::core::Core;
use crate::error::Error;
use crate::guard::RequireAccount;
use crate::layer::AuthLayer;
use crate::provider::Provider;
use crate::report::ShutdownReport;
use crate::session::AnySession;
use crate::store::StoreStats;
use crate::token::TokenSet;

pub use self::app_tokens::AppTokens;
pub use self::builder::AuthBuilder;
pub use self::links::{RegisteredUrls, SignInUrl};
pub use self::signing_in::SigningIn;

/// The token cache and the sign-out of one app. Cheap to clone; an extractor where the layer is, and `Option<Auth>` where it
/// may not be.
///
/// ```
/// # use axum::{Router, routing::get};
/// # use axum_signout::{Auth, ConfigError, Provider};
/// # use tower_sessions::{MemoryStore, SessionManagerLayer};
/// # fn app() -> Result<Router, ConfigError> {
/// let provider = Provider::discover("https://login.example.com", "my-app")
///     .client_secret("from the configuration")
///     .build()?;
/// let auth = Auth::builder(provider, "https://app.example.com")
///     .after_sign_out("/goodbye")
///     .on_evict(|eviction| async move { println!("{eviction:?}") })
///     .build()?;
/// let sessions = SessionManagerLayer::new(MemoryStore::default());
///
/// let app = Router::new()
///     .route("/mail", get(|| async { "mail" }).route_layer(auth.require_account()))
///     .merge(auth.routes())
///     .layer(auth.layer_with(sessions));
/// # Ok(app)
/// # }
/// # app().unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Auth(Arc<Core>);

/// The start stamp of a sign-in that the app does by itself: taken with [`Auth::ticket`] when the user is sent to the provider,
/// kept in the app's session meanwhile, and given to [`Auth::sign_in`]. A sign-out everywhere that happened in between then
/// refuses the sign-in; and so does a start that is longer ago than [`AuthBuilder::sign_in_timeout`], for that is how long
/// such sign-outs are remembered.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Ticket {
    started: Timestamp,
}

impl Auth {
    /// Begins with one provider and the app's base URL: scheme, host and port that browsers use, with the mount prefix
    /// where the routes are nested.
    pub fn builder(provider: Provider, base_url: impl Into<String>) -> AuthBuilder {
        AuthBuilder::new(provider, base_url.into())
    }

    pub(crate) fn of_core(core: Arc<Core>) -> Self {
        Self(core)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0
    }

    /// The layer alone, which must run inside the session layer: `.layer(auth.layer()).layer(sessions)` on a `Router`,
    /// `.layer(sessions).layer(auth.layer())` in a `ServiceBuilder`. It does not repair the session cookie's removal:
    /// where that has a `__Host-` name, add [`session_cookie_fix`](Self::session_cookie_fix) outermost.
    #[must_use]
    pub fn layer(&self) -> AuthLayer {
        AuthLayer::new(self.clone())
    }

    /// The layer with the session layer around it, in the right order for `Router` and `ServiceBuilder`.
    pub fn layer_with<L>(&self, sessions: L) -> (SessionCookieFix, L, AuthLayer) {
        (self.session_cookie_fix(), sessions, self.layer())
    }

    /// The outermost part of [`layer_with`](Self::layer_with).
    pub fn session_cookie_fix(&self) -> SessionCookieFix {
        SessionCookieFix::new(self.0.base.is_secure())
    }

    /// A guard for a group of routes: `.route_layer(auth.require_account())`. Who is not signed in is answered as by the
    /// [`Account`] extractor, whatever else the handler would have taken for a user: a library that reads the session before
    /// this crate does, such as axum-login, may still know a user whose sign-in was ended elsewhere, for that one request.
    #[must_use]
    pub fn require_account(&self) -> RequireAccount {
        RequireAccount::new()
    }

    /// A link to sign-in that comes back to a page afterwards: a path or a URL on the allowlist. One that is neither, or
    /// too long for the cookie that remembers it (beyond about 2 kB), is refused by sign-in with 400.
    pub fn sign_in_url(&self, return_to: &str) -> SignInUrl {
        SignInUrl {
            path: self.0.url(&self.0.config.paths.sign_in),
            query: vec![("return_to".into(), return_to.into())],
        }
    }

    /// Where the sign-out form posts to. Fields of the form, members of a JSON object of texts, or the query may say
    /// `return_to`, a path or a URL on the allowlist; `sign_in`, the [id](crate::Tokens::sign_in) of the one sign-in that
    /// ends, else all of the session's do; and `everywhere=true`, for
    /// [all sessions of these accounts](crate::EndSessionRequest::everywhere). What cannot be read or is not allowed is answered with 400 and changes nothing.
    #[must_use]
    pub fn sign_out_url(&self) -> String {
        self.0.url(&self.0.config.paths.sign_out)
    }

    /// Where a form or a link leads that goes on with an interrupted sign-out, shown where
    /// [`SignOut::unfinished`](crate::SignOut::unfinished) is not `None`.
    ///
    /// It ends nothing here, since that was done when the sign-out began: it sends the user to the provider's logout once more.
    /// POST is defended like [`/signout`](Self::sign_out_url), GET takes navigations from this origin only. Where there is nothing
    /// to go on with, or the provider is still out of reach, the user goes where a sign-out ends; who is signed in stays signed in.
    #[must_use]
    pub fn sign_out_resume_url(&self) -> String {
        self.0.url(&self.0.config.paths.sign_out_resume)
    }

    /// Where scripts ask how long the user stays signed in. `GET` is no use of the sign-in, so a page can poll it; `POST` is, like
    /// any other request, and takes requests of this origin only. Neither sends the session's cookie again, unless it finds that one of several accounts has
    /// ended: the others then move to a new session, as with any request. Both answer alike:
    ///
    /// ```json
    /// {
    ///   "signed_in": true,
    ///   "expires_in": 55, "idle_expires_in": 55, "absolute_expires_in": 7200, "warn": true,
    ///   "sign_ins": [{ "sign_in": "…", "expires_in": 55, "idle_expires_in": 55, "absolute_expires_in": 7200, "warn": true }]
    /// }
    /// ```
    ///
    /// Times are in seconds, rounded down. Those of the session are of the sign-in that ends first. `warn`: it ends within
    /// [`AuthBuilder::warn_before`]. Where nobody is signed in, the answer is 200 with `{"signed_in": false}`, and the one that finds
    /// this out also has `"ended"`: the name of the [cause](crate::Cause). 503 says that a store cannot be reached and nothing is
    /// known.
    ///
    /// A session layer with `with_always_save(true)` sends its cookie with every response, this one too, and prolongs its own
    /// expiry; the sign-in ends on the server all the same. Conversely, a session layer whose own expiry is shorter than these
    /// lifetimes ends sign-ins before their time, and the status does not know.
    #[must_use]
    pub fn status_url(&self) -> String {
        self.0.url(&self.0.config.paths.status)
    }

    /// What to register at the provider.
    #[must_use]
    pub fn registered_urls(&self) -> RegisteredUrls {
        let paths = &self.0.config.paths;
        RegisteredUrls {
            redirect_uri: self.0.url(&paths.sign_in_callback),
            post_logout_redirect_uri: self.0.url(&paths.sign_out_callback),
            frontchannel_logout_uri: self.0.url(&paths.front_channel),
            backchannel_logout_uri: self.0.url(&paths.back_channel),
        }
    }

    /// The providers, the default one first.
    #[must_use]
    pub fn providers(&self) -> &[Provider] {
        self.0.cache.providers()
    }

    /// The start stamp for [`sign_in`](Self::sign_in), to be taken when the user is sent to the provider.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUnavailable`](crate::ErrorKind::StoreUnavailable).
    pub async fn ticket(&self) -> Result<Ticket, Error> {
        let started = self.0.cache.store().now().await?;
        Ok(Ticket { started })
    }

    /// Puts a sign-in that the app did by itself into cache and session. The session's id changes, and an earlier sign-in of
    /// the same account in it is evicted.
    ///
    /// The tokens must be verified: this crate believes the account. Its issuer must be that of a configured provider. Claims
    /// and `sid` are read from the ID token, where the account has none of its own.
    ///
    /// Without a ticket, a sign-out everywhere that happens while the user is at the provider is noticed only if it came
    /// from the provider and the ID token is not younger.
    ///
    /// A session holds up to eight sign-ins; one more and the oldest is evicted, with [`Cause::Capacity`](crate::Cause::Capacity).
    /// The session is saved before this returns. A [label](SigningIn::label) can be given along.
    ///
    /// ```
    /// # use axum_signout::{Account, Auth, Error, IdTokenField, Ticket, TokenSet};
    /// # use oauth2::{basic::BasicTokenType, StandardTokenResponse};
    /// async fn end_of_callback(
    ///     auth: Auth,
    ///     session: tower_sessions::Session,
    ///     ticket: Option<Ticket>,
    ///     account: Account,
    ///     response: StandardTokenResponse<IdTokenField, BasicTokenType>,
    /// ) -> Result<(), Error> {
    ///     auth.sign_in(&session, ticket, account, TokenSet::from(response)).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::Forbidden`](crate::ErrorKind::Forbidden): no provider with the account's issuer is configured.
    /// * [`ErrorKind::NotSignedIn`](crate::ErrorKind::NotSignedIn): the account was signed out since the ticket was taken.
    /// * [`ErrorKind::StoreUnavailable`](crate::ErrorKind::StoreUnavailable), [`ErrorKind::Capacity`](crate::ErrorKind::Capacity): token store or session store.
    ///
    /// No token stays behind then; what was handed over is revoked, where [the policy](AuthBuilder::revocation) says so and the
    /// issuer is known. If the session could not be saved, it has ended, with what it held before. Otherwise it is as it was: an
    /// app that has noted there who the user is takes that back.
    pub fn sign_in(
        &self,
        session: impl Into<AnySession>,
        ticket: impl Into<Option<Ticket>>,
        account: Account,
        tokens: TokenSet,
    ) -> SigningIn {
        SigningIn {
            core: self.0.clone(),
            session: session.into(),
            ticket: ticket.into(),
            account,
            tokens,
            label: None,
        }
    }

    /// Evicts the sign-ins whose idle or absolute time is up, and waits for the hooks; how many there were. This runs by
    /// itself, by default [every 15 seconds](AuthBuilder::sweep_every), as soon as the layer was made inside a Tokio runtime or a first request came:
    /// for tests that move a clock of their own.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUnavailable`](crate::ErrorKind::StoreUnavailable).
    pub async fn evict_due(&self) -> Result<usize, Error> {
        Ok(self.0.cache.evict_due().await?)
    }

    /// How much the store keeps, for metrics.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUnavailable`](crate::ErrorKind::StoreUnavailable).
    pub async fn stats(&self) -> Result<StoreStats, Error> {
        Ok(self.0.cache.store().stats().await?)
    }

    /// Lets sign-outs, hooks and revocations that are under way come to their end, for ten seconds at most, which is what
    /// process managers commonly grant, and then asks the store what is left. To be called when the server has stopped taking
    /// requests. Evictions that wait for a token store that is away are not waited for.
    pub async fn shutdown(&self) -> ShutdownReport {
        self.0.cache.shutdown(Duration::from_secs(10)).await
    }
}

pub(crate) fn sign_in_url(core: &Core, return_to: Option<&str>) -> String {
    let path = core.url(&core.config.paths.sign_in);
    // One that sign-in would refuse is left out: the user can still sign in.
    match return_to.filter(|target| core.sign_in_target(target).is_some()) {
        None => path,
        Some(return_to) => SignInUrl {
            path,
            query: vec![("return_to".into(), return_to.into())],
        }
        .to_string(),
    }
}
