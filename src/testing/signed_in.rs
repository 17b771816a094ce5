//! A layer that says who is signed in, for tests of handlers.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, Response, StatusCode};
use tokio::sync::OnceCell;
use tower::{Layer, Service};

use crate::account::Account;
use crate::auth::Auth;
use crate::cache::{NewSignIn, Opened, Use};
use crate::current::{Asks, Current, Found};
use crate::error::{ConfigError, Error};
use crate::id::Locator;
use crate::provider::{Provider, ProviderMetadata};
use crate::service::finish;
use crate::session::AnySession;
use crate::store::Started;
use crate::token::TokenSet;

/// The client ID that the layer's `Auth` has at every issuer.
const CLIENT_ID: &str = "test";
/// Where nobody is signed in, there is still a provider to sign in at.
const DEFAULT_ISSUER: &str = "https://login.example.com";

/// A layer in which an account is signed in with these tokens: [`Account`], `Option<Account>`,
/// [`Tokens`](crate::Tokens), [`SignOut`](crate::SignOut), [`Auth`] and [`RequireAccount`](crate::RequireAccount) work
/// without any provider, session layer or cookie.
///
/// One layer is one browser: a handler that signs out has signed out the requests after it, too. Scopes that the tokens do
/// not cover, and tokens that have expired, are refused as by a provider that is out of reach, or with
/// [`InteractionRequired`](crate::ErrorKind::InteractionRequired) where there is no refresh token. Signing out leads to
/// `<issuer>/end_session`. Nothing is ever sent anywhere.
///
/// Claims come from [`Account::with_claims`], or else from the ID token, whose signature nobody looks at.
///
/// ```
/// use axum::{Router, body::Body, http::Request, routing::get};
/// use axum_signout::testing::{signed_in, signed_out};
/// use axum_signout::{AccessToken, Account, Error, TokenSet, Tokens};
/// use tower::ServiceExt as _;
///
/// async fn mail(account: Account, tokens: Tokens) -> Result<String, Error> {
///     let token = tokens.acquire("Mail.Read").await?;
///     Ok(format!("{} reads with {}", account.subject(), token.secret()))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let routes = Router::new().route("/mail", get(mail));
/// let request = || Request::get("/mail").body(Body::empty()).unwrap();
///
/// let ann = Account::new("https://login.example.com", "ann");
/// let token = AccessToken::bearer("token-1").with_scopes(["Mail.Read"]);
/// let app = routes.clone().layer(signed_in(ann, TokenSet::new().with_access_token(token)));
/// let response = app.oneshot(request()).await.unwrap();
/// assert_eq!(response.status(), 200);
///
/// let app = routes.layer(signed_out());
/// let response = app.oneshot(request()).await.unwrap();
/// assert_eq!(response.status(), 401);
/// # }
/// ```
///
/// # Panics
///
/// If the account's issuer could not be that of a provider: it must be an `https` URL, or `http` on loopback.
pub fn signed_in(account: Account, tokens: TokenSet) -> SignedInLayer {
    SignedInLayer::new(vec![(account, tokens)])
}

/// A layer in which nobody is signed in, and all the same extractors work as far as they can: `Account` refuses with 401, and
/// `Option<Account>` is `None`. See [`signed_in`].
pub fn signed_out() -> SignedInLayer {
    SignedInLayer::new(Vec::new())
}

/// Made by [`signed_in`] and [`signed_out`].
#[derive(Clone)]
#[must_use]
pub struct SignedInLayer {
    browser: Arc<Browser>,
}

impl SignedInLayer {
    fn new(who: Vec<(Account, TokenSet)>) -> Self {
        let auth = match auth_for(&who) {
            Ok(auth) => auth,
            Err(error) => panic!("this account cannot be signed in: {error}"),
        };
        // Made once: a `Router` calls its layer for every route that it has.
        let browser = Arc::new(Browser {
            auth,
            who,
            held: OnceCell::new(),
        });
        Self { browser }
    }

    /// A further account in the same session; it is the latest one then.
    ///
    /// # Panics
    ///
    /// As [`signed_in`].
    pub fn and(self, account: Account, tokens: TokenSet) -> Self {
        let mut who = self.browser.who.clone();
        who.push((account, tokens));
        Self::new(who)
    }
}

impl fmt::Debug for SignedInLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedInLayer").finish_non_exhaustive()
    }
}

fn auth_for(who: &[(Account, TokenSet)]) -> Result<Auth, ConfigError> {
    let mut issuers: Vec<&str> = Vec::new();
    for (account, _) in who {
        if !issuers.contains(&account.issuer()) {
            issuers.push(account.issuer());
        }
    }
    let first = issuers.first().copied().unwrap_or(DEFAULT_ISSUER);
    let mut auth = Auth::builder(provider(0, first)?, "https://app.example.com");
    for (at, issuer) in issuers.iter().enumerate().skip(1) {
        auth = auth.provider(provider(at, issuer)?);
    }
    auth.build()
}

fn provider(at: usize, issuer: &str) -> Result<Provider, ConfigError> {
    let url = |path: &str| format!("{}/{path}", issuer.trim_end_matches('/'));
    let metadata = ProviderMetadata::new(issuer, url("authorize"), url("token"), url("keys"))
        .end_session_endpoint(url("end_session"));
    Provider::with_metadata(metadata, CLIENT_ID)
        .name(format!("provider-{at}"))
        .http_client(async |_: oauth2::HttpRequest| {
            let mut answer = oauth2::HttpResponse::default();
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            Ok::<_, std::io::Error>(answer)
        })
        .build()
}

impl<S> Layer<S> for SignedInLayer {
    type Service = SignedInService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SignedInService {
            inner,
            browser: self.browser.clone(),
        }
    }
}

struct Browser {
    auth: Auth,
    who: Vec<(Account, TokenSet)>,
    /// What the session would hold.
    held: OnceCell<Vec<Locator>>,
}

impl Browser {
    async fn sign_in(&self) -> Result<Vec<Locator>, Error> {
        let mut held = Vec::new();
        for (account, tokens) in &self.who {
            let new = NewSignIn {
                account: account.clone().completed_by(tokens),
                client_id: CLIENT_ID.into(),
                tokens: tokens.clone(),
                label: None,
                started: Started::default(),
            };
            held.push(self.auth.core().cache.create(new).await?);
        }
        Ok(held)
    }

    async fn current(&self, session: Option<AnySession>, asks: Asks) -> Current {
        let opened = async {
            let held = self.held.get_or_try_init(|| self.sign_in()).await?;
            let opened = self.auth.core().cache.open(held, Use::Noted).await?;
            let live = opened.into_iter().filter_map(|one| match one {
                Opened::Live(sign_in) => Some(sign_in),
                Opened::Moved | Opened::Dead(_) => None,
            });
            Ok(live.collect())
        };
        let current = Current::new(self.auth.core().clone(), session, asks);
        current.set_found(Found {
            sign_ins: opened.await,
            unopened: Vec::new(),
        });
        current
    }
}

/// The service of [`SignedInLayer`].
#[derive(Clone)]
pub struct SignedInService<S> {
    inner: S,
    browser: Arc<Browser>,
}

impl<S: fmt::Debug> fmt::Debug for SignedInService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedInService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SignedInService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    ReqBody: Send + 'static,
    ResBody: Default + Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        // The clone that was polled ready is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let browser = self.browser.clone();
        Box::pin(async move {
            let asks = Asks::of(
                request.method(),
                request.uri(),
                request.headers(),
                request.extensions(),
            );
            // A test that brings a session layer has its session end with the sign-out.
            let session = AnySession::from_extensions(request.extensions());
            let current = browser.current(session, asks).await;
            request.extensions_mut().insert(current.clone());
            let mut response = inner.call(request).await?;
            finish(&current, &mut response);
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::error::ErrorKind;
    use crate::extract::Tokens;
    use crate::sign_out::EndSessionRequest;
    use crate::signed_out::SignOut;
    use crate::token::AccessToken;
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::response::IntoResponse;
    use axum::routing::{get, post};
    use tower::ServiceExt as _;

    fn ann() -> Account {
        Account::new("https://login.example.com", "ann")
    }

    fn tokens() -> TokenSet {
        let token = AccessToken::bearer("mail-1").with_scopes(["mail"]);
        TokenSet::new().with_access_token(token)
    }

    async fn whoami(account: Option<Account>) -> String {
        account.map_or_else(|| "nobody".into(), |account| account.subject().to_owned())
    }

    async fn acquire(tokens: Tokens) -> String {
        match tokens.acquire("mail").await {
            Ok(token) => token.secret().to_owned(),
            Err(error) => format!("{:?}", error.kind()),
        }
    }

    async fn leave(sign_out: SignOut) -> impl IntoResponse {
        sign_out.run(EndSessionRequest::new()).await
    }

    fn app(layer: SignedInLayer) -> Router {
        Router::new()
            .route("/guarded", get(|account: Account| whoami(Some(account))))
            .route_layer(crate::guard::RequireAccount::new())
            .route("/whoami", get(whoami))
            .route("/acquire", get(acquire))
            .route("/url", get(async |auth: Auth| auth.sign_out_url()))
            .route("/leave", post(leave))
            .layer(layer)
    }

    async fn ask(app: &Router, method: &str, path: &str) -> (Response<Body>, String) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 16).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (Response::from_parts(parts, Body::empty()), body)
    }

    async fn get_text(app: &Router, path: &str) -> String {
        ask(app, "GET", path).await.1
    }

    #[tokio::test]
    async fn handlers_see_the_account_and_its_tokens() {
        let app = app(signed_in(ann(), tokens()));
        for (path, expected) in [
            ("/guarded", "ann"),
            ("/whoami", "ann"),
            ("/acquire", "mail-1"),
            ("/url", "https://app.example.com/signout"),
        ] {
            assert_eq!(get_text(&app, path).await, expected, "{path}");
        }
        let (response, _) = ask(&app, "GET", "/whoami").await;
        assert_eq!(response.headers()["cache-control"], "no-store");
    }

    #[tokio::test]
    async fn a_handler_that_signs_out_has_signed_out_the_requests_after_it() {
        let app = app(signed_in(ann(), tokens()));
        let (response, _) = ask(&app, "POST", "/leave").await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        let location = response.headers()["location"].to_str().unwrap();
        assert!(location.starts_with("https://login.example.com/end_session?"));
        assert!(response.headers().contains_key("clear-site-data"));
        assert_eq!(get_text(&app, "/whoami").await, "nobody");
        assert_eq!(ask(&app, "GET", "/guarded").await.0.status(), 401);
    }

    #[tokio::test]
    async fn nobody_is_signed_in() {
        let app = app(signed_out());
        assert_eq!(get_text(&app, "/whoami").await, "nobody");
        assert_eq!(ask(&app, "GET", "/guarded").await.0.status(), 401);
        assert_eq!(ask(&app, "GET", "/acquire").await.0.status(), 401);
        assert_eq!(ask(&app, "POST", "/leave").await.0.status(), 303);
    }

    #[tokio::test]
    async fn the_last_of_several_accounts_is_the_one_that_is_meant() {
        let bob = Account::new("https://other.example.com", "bob");
        let app = app(signed_in(ann(), tokens()).and(bob, TokenSet::new()));
        assert_eq!(get_text(&app, "/whoami").await, "bob");
    }

    #[tokio::test]
    async fn what_the_tokens_do_not_cover_is_refused() {
        let expired = AccessToken::bearer("old")
            .with_scopes(["mail"])
            .expires_at(Timestamp::from_secs(1));
        let expired = TokenSet::new().with_access_token(expired);
        for (tokens, expected) in [
            (TokenSet::new(), ErrorKind::InteractionRequired),
            (expired.clone(), ErrorKind::InteractionRequired),
            (
                expired.with_refresh_token("r"),
                ErrorKind::ProviderUnavailable,
            ),
        ] {
            let app = app(signed_in(ann(), tokens));
            assert_eq!(get_text(&app, "/acquire").await, format!("{expected:?}"));
        }
    }

    #[tokio::test]
    async fn claims_are_those_of_the_account_or_of_the_id_token() {
        let name = get(async |account: Account| account.name().unwrap_or_default());
        let app = |account, tokens| {
            Router::new()
                .route("/", name.clone())
                .layer(signed_in(account, tokens))
        };
        let given = ann().with_claims(&serde_json::json!({ "name": "Ann" }));
        assert_eq!(get_text(&app(given, tokens()), "/").await, "Ann");
        // {"name":"Anna"}
        let token = crate::token::IdToken::new("e30.eyJuYW1lIjoiQW5uYSJ9.");
        let app = app(ann(), tokens().with_id_token(token));
        assert_eq!(get_text(&app, "/").await, "Anna");
    }
}
