//! An app that signs its users in by itself, with `openidconnect`, and uses only the token cache and the sign-out.
//!
//! `cargo run --example own_sign_in` runs it beside a provider in the same process; with `OIDC_ISSUER`, `OIDC_CLIENT_ID` and
//! `OIDC_CLIENT_SECRET` it uses yours, where `<BASE_URL>/login/callback` and `<BASE_URL>/signout/callback` must be registered.

#[path = "shared/openid.rs"]
pub mod openid;
#[path = "shared/run.rs"]
mod run;

use std::error::Error as StdError;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum_signout::{Account, Auth, Error, Provider, Ticket, TokenSet, Tokens};
use openid::{Answer, OpenId, Registration, UnderWay};
use tower_sessions::cookie::SameSite;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

#[derive(Clone)]
struct App {
    openid: Arc<OpenId>,
    issuer: Arc<str>,
}

pub fn app(
    registration: Registration,
    base_url: &str,
) -> Result<(Auth, Router), Box<dyn StdError>> {
    // The same registration as the sign-in's: it refreshes, revokes, and ends the session at the provider.
    let mut provider = Provider::discover(&registration.issuer, &registration.client_id);
    if let Some(secret) = &registration.client_secret {
        provider = provider.client_secret(secret.as_str());
    }
    let auth = Auth::builder(provider.build()?, base_url)
        .after_sign_out("/")
        // Where the link of a 401 page leads.
        .sign_in_paths("/login", "/login/callback")
        .build()?;
    let sessions = SessionManagerLayer::new(MemoryStore::default())
        .with_secure(base_url.starts_with("https:"))
        // The callback of this app needs the session, and `Strict` would keep it back on the way from the provider.
        .with_same_site(SameSite::Lax);
    let app = App {
        issuer: registration.issuer.as_str().into(),
        openid: Arc::new(OpenId::new(registration)?),
    };
    let routes = Router::new()
        .route("/", get(home))
        .route("/login", get(login))
        .route("/login/callback", get(callback))
        .route("/mail", get(mail))
        .with_state(app)
        .merge(auth.sign_out_routes())
        .layer(auth.layer_with(sessions));
    Ok((auth, routes))
}

async fn home(account: Option<Account>) -> Html<&'static str> {
    Html(match account {
        None => "<p>Nobody is signed in. <a href=\"/login\">Sign in</a></p>",
        Some(_) => {
            "<p>Signed in. <a href=\"/mail\">Mail</a></p>\
             <form method=\"post\" action=\"/signout\"><button>Sign out</button></form>"
        }
    })
}

/// What went wrong is for the log; the user learns that it did.
fn refused(error: openid::Failed) -> Response {
    tracing::warn!(%error, "a sign-in failed");
    (StatusCode::BAD_GATEWAY, "Sign-in did not succeed.").into_response()
}

const UNDER_WAY: &str = "login";

async fn login(auth: Auth, session: Session, State(app): State<App>) -> Result<Response, Error> {
    // Before the user is sent away: a sign-out everywhere that happens from here on refuses this sign-in.
    let ticket = auth.ticket().await?;
    let (url, under_way) = match app.openid.start().await {
        Ok(started) => started,
        Err(error) => return Ok(refused(error)),
    };
    if session
        .insert(UNDER_WAY, (ticket, under_way))
        .await
        .is_err()
    {
        return Ok(StatusCode::SERVICE_UNAVAILABLE.into_response());
    }
    Ok(Redirect::to(&url).into_response())
}

async fn callback(
    auth: Auth,
    session: Session,
    State(app): State<App>,
    Query(answer): Query<Answer>,
) -> Result<Response, Error> {
    let under_way = session.remove::<(Ticket, UnderWay)>(UNDER_WAY).await;
    let Ok(Some((ticket, under_way))) = under_way else {
        return Ok((StatusCode::BAD_REQUEST, "No sign-in is under way.").into_response());
    };
    let arrived = match app.openid.finish(under_way, answer).await {
        Ok(arrived) => arrived,
        Err(error) => return Ok(refused(error)),
    };
    let account = Account::new(app.issuer, arrived.subject);
    let tokens = TokenSet::from(arrived.response);
    auth.sign_in(&session, ticket, account, tokens).await?;
    Ok(Redirect::to("/").into_response())
}

async fn mail(account: Account, tokens: Tokens) -> Result<String, Error> {
    let token = tokens.acquire(()).await?;
    // … call the API with token.secret() …
    Ok(format!(
        "mail of {}, with a token of {} characters",
        account.subject(),
        token.secret().len()
    ))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    run::run(app).await
}
