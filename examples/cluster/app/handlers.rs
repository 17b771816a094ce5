//! What a node answers.

use std::convert::Infallible;

use axum::extract;
use axum::extract::Query;
use axum::http::header;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{Html, IntoResponse, Sse};
use axum_signout::{Auth, Error, SignIns, Tokens};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use serde::Deserialize;

use super::page::{self, View};

#[derive(Clone)]
pub struct State {
    pub name: &'static str,
    /// The other node's URL.
    pub other: String,
    pub issuer: String,
}

/// How a page came to ask for itself anew.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Noticed {
    /// The server told it.
    Told,
    /// It had asked the server.
    Asked,
}

#[derive(Deserialize)]
pub struct Wanted {
    noticed: Option<Noticed>,
}

pub async fn home(
    auth: Auth,
    tokens: Option<Tokens>,
    sign_ins: Option<SignIns>,
    Query(wanted): Query<Wanted>,
    extract::State(state): extract::State<State>,
) -> Result<impl IntoResponse, Error> {
    let accounts = match &tokens {
        Some(tokens) => tokens.accounts()?,
        None => Vec::new(),
    };
    let mut everywhere = Vec::new();
    if let Some(sign_ins) = sign_ins {
        for one in &accounts {
            everywhere.push(match sign_ins.of(&one.account)? {
                Some(theirs) => theirs.list().await?,
                None => Vec::new(),
            });
        }
    }
    let view = View {
        auth: &auth,
        state: &state,
        accounts: &accounts,
        everywhere: &everywhere,
        noticed: wanted.noticed,
    };
    let policy = format!(
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self' {}; \
         base-uri 'none'; frame-ancestors 'none'",
        // The sign-out form leads there.
        state.issuer
    );
    Ok((
        [(header::CONTENT_SECURITY_POLICY, policy)],
        Html(page::render(&view).into_string()),
    ))
}

/// Tells a page when a sign-in that it shows has ended, on whichever node.
pub async fn events(
    tokens: Tokens,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    let ends = FuturesUnordered::new();
    for one in tokens.accounts()? {
        ends.push(async move { one.account.ended().await });
    }
    let ended = ends.map(|cause| Event::default().event("ended").data(cause.as_str()));
    Ok(Sse::new(ended.map(Ok)).keep_alive(KeepAlive::default()))
}

pub async fn style() -> impl IntoResponse {
    let style = include_str!("style.css");
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], style)
}

pub async fn script() -> impl IntoResponse {
    let script = include_str!("script.js");
    let kind = "text/javascript; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], script)
}
