//! The token cache and the sign-out beside `axum-login`, on tower-sessions 0.14: after the provider's answer the user is logged in
//! with axum-login's `AuthSession`, and its `logout()` takes the tokens along.
//!
//! `cargo run --example with_axum_login` runs it beside a provider in the same process; a provider of yours is configured as for
//! `own_sign_in`.

#[path = "shared/openid.rs"]
pub mod openid;
#[path = "shared/run.rs"]
mod run;

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum_login::{AuthManagerLayerBuilder, AuthUser, AuthnBackend, UserId};
use axum_signout::{Account, Auth, Error, Eviction, Provider, Ticket, TokenSet, Tokens};
use openid::{Answer, OpenId, Registration, UnderWay};
use tower_sessions_014::cookie::SameSite;
use tower_sessions_014::{MemoryStore, SessionManagerLayer};

/// A user of the app, as axum-login knows them.
#[derive(Clone, Debug)]
pub struct User {
    subject: String,
}

impl AuthUser for User {
    type Id = String;

    fn id(&self) -> String {
        self.subject.clone()
    }

    /// Without passwords there is nothing whose change must end the sessions: the provider and this crate do that.
    fn session_auth_hash(&self) -> &[u8] {
        self.subject.as_bytes()
    }
}

/// The app's table of users.
#[derive(Clone, Default)]
pub struct Users(Arc<Mutex<HashMap<String, User>>>);

impl Users {
    fn arrive(&self, subject: &str) -> User {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let user = all.entry(subject.to_owned()).or_insert_with(|| User {
            subject: subject.to_owned(),
        });
        user.clone()
    }
}

impl AuthnBackend for Users {
    type User = User;
    /// The subject of an ID token that was verified.
    type Credentials = String;
    type Error = Infallible;

    async fn authenticate(&self, subject: String) -> Result<Option<User>, Infallible> {
        Ok(Some(self.arrive(&subject)))
    }

    async fn get_user(&self, id: &UserId<Self>) -> Result<Option<User>, Infallible> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.get(id).cloned())
    }
}

type AuthSession = axum_login::AuthSession<Users>;

#[derive(Clone)]
struct App {
    openid: Arc<OpenId>,
    issuer: Arc<str>,
}

pub fn app(
    registration: Registration,
    base_url: &str,
    audit: impl Fn(&Eviction) + Send + Sync + 'static,
) -> Result<(Auth, Router), Box<dyn StdError>> {
    let mut provider = Provider::discover(&registration.issuer, &registration.client_id);
    if let Some(secret) = &registration.client_secret {
        provider = provider.client_secret(secret.as_str());
    }
    let auth = Auth::builder(provider.build()?, base_url)
        .after_sign_out("/")
        // Where the link of a 401 page leads.
        .sign_in_paths("/login", "/login/callback")
        .on_evict(move |eviction| {
            audit(&eviction);
            std::future::ready(())
        })
        .build()?;
    let sessions = SessionManagerLayer::new(MemoryStore::default())
        .with_secure(base_url.starts_with("https:"))
        // The callback of this app needs the session, and `Strict` would keep it back on the way from the provider.
        .with_same_site(SameSite::Lax);
    // axum-login's layer has the session layer in it, so it takes that one's place.
    let logins = AuthManagerLayerBuilder::new(Users::default(), sessions).build();
    let app = App {
        issuer: registration.issuer.as_str().into(),
        openid: Arc::new(OpenId::new(registration)?),
    };
    let routes = Router::new()
        // axum-login has read the user before this crate notices that a sign-in was ended elsewhere. The guard refuses that
        // request too; the next one finds nobody logged in.
        .route("/mail", get(mail).route_layer(auth.require_account()))
        .route("/", get(home))
        .route("/login", get(login))
        .route("/login/callback", get(callback))
        .route("/logout", post(logout))
        .with_state(app)
        .merge(auth.sign_out_routes())
        .layer(auth.layer_with(logins));
    Ok((auth, routes))
}

async fn home(logins: AuthSession) -> Html<&'static str> {
    Html(match logins.user {
        None => "<p>Nobody is logged in. <a href=\"/login\">Log in</a></p>",
        Some(_) => {
            "<p>Logged in. <a href=\"/mail\">Mail</a></p>\
             <form method=\"post\" action=\"/logout\"><button>Log out here</button></form>\
             <form method=\"post\" action=\"/signout\"><button>Sign out at the provider too</button></form>"
        }
    })
}

fn refused(error: openid::Failed) -> Response {
    tracing::warn!(%error, "a sign-in failed");
    (StatusCode::BAD_GATEWAY, "Sign-in did not succeed.").into_response()
}

const UNDER_WAY: &str = "login";

async fn login(auth: Auth, logins: AuthSession, State(app): State<App>) -> Result<Response, Error> {
    let ticket = auth.ticket().await?;
    let (url, under_way) = match app.openid.start().await {
        Ok(started) => started,
        Err(error) => return Ok(refused(error)),
    };
    let remembered = logins.session.insert(UNDER_WAY, (ticket, under_way)).await;
    if remembered.is_err() {
        return Ok(StatusCode::SERVICE_UNAVAILABLE.into_response());
    }
    Ok(Redirect::to(&url).into_response())
}

async fn callback(
    auth: Auth,
    mut logins: AuthSession,
    State(app): State<App>,
    Query(answer): Query<Answer>,
) -> Result<Response, Error> {
    let under_way = logins.session.remove::<(Ticket, UnderWay)>(UNDER_WAY).await;
    let Ok(Some((ticket, under_way))) = under_way else {
        return Ok((StatusCode::BAD_REQUEST, "No sign-in is under way.").into_response());
    };
    let arrived = match app.openid.finish(under_way, answer).await {
        Ok(arrived) => arrived,
        Err(error) => return Ok(refused(error)),
    };
    let user = logins.authenticate(arrived.subject.clone()).await;
    let Ok(Some(user)) = user else {
        return Ok((StatusCode::FORBIDDEN, "Not a user of this app.").into_response());
    };
    if logins.login(&user).await.is_err() {
        return Ok(StatusCode::SERVICE_UNAVAILABLE.into_response());
    }
    let account = Account::new(app.issuer, arrived.subject);
    let tokens = TokenSet::from(arrived.response);
    // Last, so that it gets the new session; and nobody is left logged in without tokens.
    let signed_in = auth.sign_in(&logins.session, ticket, account, tokens);
    if let Err(error) = signed_in.await {
        let _ = logins.logout().await;
        return Err(error);
    }
    Ok(Redirect::to("/").into_response())
}

/// Ends the session here, by axum-login alone. The tokens go with it; the session at the provider stays.
async fn logout(mut logins: AuthSession) -> Response {
    match logins.logout().await {
        Ok(_) => Redirect::to("/").into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn mail(logins: AuthSession, tokens: Tokens) -> Result<String, Error> {
    let token = tokens.acquire(()).await?;
    let user = logins.user.map(|user| user.subject).unwrap_or_default();
    Ok(format!(
        "mail of {user}, with a token of {} characters",
        token.secret().len()
    ))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let audit = |eviction: &Eviction| {
        let subject = eviction.account().subject();
        tracing::info!(cause = %eviction.cause(), subject, "the tokens of a sign-in are gone");
    };
    run::run(|registration, base_url| app(registration, base_url, audit)).await
}
