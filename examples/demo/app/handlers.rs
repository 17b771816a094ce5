//! What the app answers.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract;
use axum::extract::{Form, Query};
use axum::http::header;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{Html, IntoResponse, Redirect, Sse};
use axum_signout::testing::TestProvider;
use axum_signout::{Auth, Error, ErrorKind, SignInId, SignIns, SignOut, SignedOut, Tokens};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tower_sessions::{Session, session};

use super::journal::Journal;
use super::page::{self, View};

const NOTE: &str = "note";
const NOTICE: &str = "notice";

#[derive(Clone)]
pub struct State {
    pub journal: Arc<Journal>,
    pub provider: Arc<TestProvider>,
    pub token_lifetime: Duration,
}

/// What came of an acquisition: kept in the session until it was shown once.
#[derive(Serialize, Deserialize)]
pub struct Notice {
    pub sign_in: String,
    pub who: String,
    pub scopes: String,
    pub result: AcquireResult,
}

#[derive(Serialize, Deserialize)]
pub enum AcquireResult {
    Token {
        /// Enough to tell two tokens apart, and of no use to anybody else.
        fingerprint: String,
        from_cache: bool,
        took: Duration,
    },
    /// The user has to go to the provider.
    InteractionRequired,
    Failed(String),
}

pub async fn home(
    auth: Auth,
    tokens: Option<Tokens>,
    sign_ins: Option<SignIns>,
    sign_out: SignOut,
    session: Session,
    extract::State(state): extract::State<State>,
) -> Result<impl IntoResponse, PageError> {
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
    let notice = match session.get(NOTICE).await? {
        Some(notice) => {
            session.remove_value(NOTICE).await?;
            Some(notice)
        }
        None => None,
    };
    let view = View {
        auth: &auth,
        accounts: &accounts,
        everywhere: &everywhere,
        unfinished: sign_out.is_unfinished(),
        note: session.get(NOTE).await?,
        notice,
        seen: state.journal.seen(),
        token_lifetime: state.token_lifetime,
    };
    let policy = format!(
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; \
         form-action 'self' {}; base-uri 'none'; frame-ancestors 'none'",
        // The sign-out form leads there.
        state.provider.issuer()
    );
    Ok((
        [(header::CONTENT_SECURITY_POLICY, policy)],
        Html(page::render(&view).into_string()),
    ))
}

/// For who closed the provider's page before it was done.
pub async fn finish(sign_out: SignOut) -> SignedOut {
    sign_out.finish().await
}

#[derive(Deserialize)]
pub struct Wanted {
    sign_in: String,
    scopes: String,
}

/// Gets a token, as a handler does that is about to call an API.
pub async fn acquire(
    tokens: Tokens,
    session: Session,
    Form(wanted): Form<Wanted>,
) -> Result<Redirect, PageError> {
    let Some(tokens) = chosen(&tokens, &wanted.sign_in)? else {
        return Ok(Redirect::to("/"));
    };
    let before = tokens.describe().access_tokens;
    let start = Instant::now();
    let result = match tokens.acquire(wanted.scopes.as_str()).await {
        Ok(token) => AcquireResult::Token {
            took: start.elapsed(),
            fingerprint: fingerprint(token.secret()),
            from_cache: tokens.describe().access_tokens == before,
        },
        // The sign-in ended: the start page says so.
        Err(error) if error.kind() == ErrorKind::NotSignedIn => return Ok(Redirect::to("/")),
        Err(error) if error.kind() == ErrorKind::InteractionRequired => {
            AcquireResult::InteractionRequired
        }
        Err(error) => AcquireResult::Failed(error.to_string()),
    };
    let notice = Notice {
        sign_in: wanted.sign_in,
        who: page::name(&tokens.account()),
        scopes: wanted.scopes,
        result,
    };
    session.insert(NOTICE, notice).await?;
    Ok(Redirect::to("/"))
}

/// A page that needs scopes which the user has not allowed yet: the error takes them to the provider for just these.
pub async fn allow(tokens: Tokens, Query(wanted): Query<Wanted>) -> Result<Redirect, PageError> {
    if let Some(tokens) = chosen(&tokens, &wanted.sign_in)? {
        tokens.acquire(wanted.scopes.as_str()).await?;
    }
    Ok(Redirect::to("/"))
}

#[derive(Deserialize)]
pub struct Note {
    text: String,
}

/// Something of the app's own in the session.
pub async fn note(session: Session, Form(note): Form<Note>) -> Result<Redirect, PageError> {
    let text: String = note.text.chars().take(80).collect();
    session.insert(NOTE, text).await?;
    Ok(Redirect::to("/"))
}

#[derive(Deserialize)]
pub struct Which {
    sign_in: String,
}

/// Has the provider withdraw what it granted: the next refresh is refused, and the sign-in ends.
pub async fn break_grant(
    tokens: Tokens,
    extract::State(state): extract::State<State>,
    Form(which): Form<Which>,
) -> Result<Redirect, Error> {
    if let Some(tokens) = chosen(&tokens, &which.sign_in)? {
        let account = tokens.account();
        state.provider.revoke_grants_of(account.subject());
    }
    Ok(Redirect::to("/"))
}

#[derive(Deserialize)]
pub struct Other {
    /// This session's.
    sign_in: String,
    /// The one to end.
    other: SignInId,
}

/// Ends one of the user's sign-ins in other browsers.
pub async fn end_sign_in(
    tokens: Tokens,
    sign_ins: SignIns,
    extract::State(state): extract::State<State>,
    Form(which): Form<Other>,
) -> Result<Redirect, Error> {
    if let Some(theirs) = of(&tokens, &sign_ins, &which.sign_in)? {
        state.journal.signed_out(theirs.end(which.other).await?);
    }
    Ok(Redirect::to("/"))
}

/// Ends all of the user's sign-ins in other browsers.
pub async fn end_others(
    tokens: Tokens,
    sign_ins: SignIns,
    extract::State(state): extract::State<State>,
    Form(which): Form<Which>,
) -> Result<Redirect, Error> {
    if let Some(theirs) = of(&tokens, &sign_ins, &which.sign_in)? {
        state.journal.signed_out(theirs.end_others().await?);
    }
    Ok(Redirect::to("/"))
}

/// All sign-ins of the account that one of this session's is of.
fn of(tokens: &Tokens, sign_ins: &SignIns, sign_in: &str) -> Result<Option<SignIns>, Error> {
    match chosen(tokens, sign_in)? {
        Some(tokens) => sign_ins.of(&tokens.account()),
        None => Ok(None),
    }
}

/// The tokens of the sign-in that a form names.
fn chosen(tokens: &Tokens, sign_in: &str) -> Result<Option<Tokens>, Error> {
    match SignInId::parse(sign_in) {
        Some(id) => tokens.of_sign_in(id),
        None => Ok(None),
    }
}

/// Tells the page about every eviction, and when a sign-in that it shows has ended.
pub async fn events(
    tokens: Option<Tokens>,
    extract::State(state): extract::State<State>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Error> {
    let ends = FuturesUnordered::new();
    if let Some(tokens) = tokens {
        for one in tokens.accounts()? {
            if let Some(tokens) = tokens.of_sign_in(one.sign_in)? {
                ends.push(async move { tokens.ended().await });
            }
        }
    }
    let ended = ends.map(|cause| Event::default().event("ended").data(cause.as_str()));
    let evictions = state.journal.follow().map(|evicted| {
        let row = page::eviction(&evicted).into_string();
        Event::default().event("evicted").data(row)
    });
    let events = stream::select(evictions, ended).map(Ok);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
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

fn fingerprint(token: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    let bytes = hash.as_ref().iter().take(4);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

/// Why a page could not be had.
pub enum PageError {
    Auth(Error),
    Session(session::Error),
}

impl From<Error> for PageError {
    fn from(error: Error) -> Self {
        Self::Auth(error)
    }
}

impl From<session::Error> for PageError {
    fn from(error: session::Error) -> Self {
        Self::Session(error)
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> axum::response::Response {
        match self {
            Self::Auth(error) => error.into_response(),
            Self::Session(error) => {
                tracing::error!(%error, "the session cannot be read");
                axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response()
            }
        }
    }
}
