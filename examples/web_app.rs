//! A web app with sign-in, tokens and sign-out, configured by its environment. Run it against a provider of yours:
//!
//! ```sh
//! OIDC_ISSUER=https://login.example.com OIDC_CLIENT_ID=my-app OIDC_CLIENT_SECRET=… cargo run --example web_app
//! ```
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `OIDC_ISSUER` | the provider, exactly as it calls itself | required |
//! | `OIDC_CLIENT_ID` | this app's registration there | required |
//! | `OIDC_CLIENT_SECRET` | its secret | none: a public client |
//! | `OIDC_SCOPES` | what every sign-in asks for | `openid profile offline_access` |
//! | `BIND` | where to listen; port 0 takes a free one | `127.0.0.1:3000` |
//! | `BASE_URL` | what browsers call the app; a path in it is where its routes are mounted | `http://` and `BIND` |
//! | `SESSION_COOKIE` | the session cookie's name, `__Host-` names included | `id` |
//! | `REDIS_URL` | where sessions and tokens are kept, for several nodes: `redis://` or `rediss://` | none: this process's memory |
//! | `TOKEN_KEY` | encrypts what is kept there, and the cookies of sign-ins under way, the same on all nodes: `openssl rand -base64 32`; while it is changed, the new and the old one with a comma between them | none: not encrypted, and a sign-in ends on the node that began it |
//! | `RUST_LOG` | what is traced on standard error | `info` |
//!
//! A variable that is empty counts as unset. At the provider, register the two URLs that are printed on standard error.
//! The app starts while the provider is down.

use std::collections::VecDeque;
use std::fmt;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Query, State};
use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use axum_signout::clock::{Clock, SystemClock, Timestamp};
use axum_signout::store::RedisTokenStore;
use axum_signout::{Auth, Error, KeyRing, Provider, SignedIn, Tokens};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower_sessions::{MemoryStore, SessionManagerLayer, SessionStore};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// What is wrong with the configuration; the message names the variable.
struct Wrong(String);

impl Wrong {
    fn new(variable: &str, problem: impl fmt::Display) -> Self {
        Self(format!("{variable}: {problem}"))
    }
}

fn variable(name: &str) -> Result<Option<String>, Wrong> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(Wrong::new(name, "is not Unicode text")),
    }
}

fn required(name: &str, example: &str) -> Result<String, Wrong> {
    variable(name)?.ok_or_else(|| Wrong::new(name, format_args!("must be set, to {example}")))
}

struct Settings {
    provider: Provider,
    bind: String,
    base_url: Option<String>,
    session_cookie: String,
    redis: Option<RedisTokenStore>,
    cookie_key: Option<Vec<u8>>,
}

/// The store in Redis, if there is one, and the key of the cookies, if one was given.
fn shared() -> Result<(Option<RedisTokenStore>, Option<Vec<u8>>), Wrong> {
    let mut redis = variable("REDIS_URL")?.map(RedisTokenStore::builder);
    let mut cookie_key = None;
    if let Some(key) = variable("TOKEN_KEY")? {
        let keys = KeyRing::parse(&key).map_err(|error| Wrong::new("TOKEN_KEY", error))?;
        redis = redis.map(|redis| redis.encryption(keys));
        // Another key made of the first one, so that none is used for two things.
        let first = key.split(',').next().unwrap_or_default().trim();
        let made = digest(&SHA256, format!("cookies {first}").as_bytes());
        cookie_key = Some(made.as_ref().to_vec());
    }
    // The URL may have a password in it.
    let wrong = |_| {
        Wrong::new(
            "REDIS_URL",
            "is not a redis:// or rediss:// URL of a server",
        )
    };
    let redis = redis.map(|redis| redis.build().map_err(wrong));
    Ok((redis.transpose()?, cookie_key))
}

impl Settings {
    fn read() -> Result<Self, Wrong> {
        let scopes = variable("OIDC_SCOPES")?;
        let scopes = scopes.as_deref().unwrap_or("openid profile offline_access");
        let issuer = required("OIDC_ISSUER", "the provider's URL")?;
        let client_id = required("OIDC_CLIENT_ID", "this app's client id at the provider")?;
        let mut provider =
            Provider::discover(issuer, client_id).scopes(scopes.split_ascii_whitespace());
        if let Some(secret) = variable("OIDC_CLIENT_SECRET")? {
            provider = provider.client_secret(secret);
        }
        if scopes
            .split_ascii_whitespace()
            .any(|s| s == "offline_access")
        {
            // Providers ignore the scope unless the user is asked (OpenID Connect Core, section 11).
            provider = provider.authorization_param("prompt", "consent");
        }
        let provider = provider.build().map_err(|error| {
            let error = error.to_string();
            // It begins with the builder's word for the setting.
            let variable = match error.split([':', ' ']).next() {
                Some("client_id") => "OIDC_CLIENT_ID",
                Some("client_secret") => "OIDC_CLIENT_SECRET",
                Some("scopes") => "OIDC_SCOPES",
                _ => "OIDC_ISSUER",
            };
            Wrong::new(variable, error)
        })?;

        let bind = variable("BIND")?.unwrap_or_else(|| "127.0.0.1:3000".into());
        let port = bind.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        if !matches!(port, Some(Ok(_))) {
            return Err(Wrong::new(
                "BIND",
                "must be an address and a port, as in 127.0.0.1:3000",
            ));
        }
        let session_cookie = variable("SESSION_COOKIE")?.unwrap_or_else(|| "id".into());
        // RFC 6265, section 4.1.1: a token of RFC 2616.
        let fits = |c: char| c.is_ascii_graphic() && !"()<>@,;:\\\"/[]?={}".contains(c);
        if !session_cookie.chars().all(fits) {
            return Err(Wrong::new(
                "SESSION_COOKIE",
                "is not a name that a cookie can have",
            ));
        }
        let (redis, cookie_key) = shared()?;
        Ok(Self {
            provider,
            bind,
            base_url: variable("BASE_URL")?,
            session_cookie,
            redis,
            cookie_key,
        })
    }
}

/// What a hook of this process saw, the latest last.
#[derive(Clone, Debug, Serialize)]
struct Seen {
    cause: &'static str,
    subject: String,
    count: usize,
}

#[derive(Clone, Default)]
struct Evictions(Arc<Mutex<VecDeque<Seen>>>);

impl Evictions {
    /// An app that runs for months must not remember all of them.
    const KEPT: usize = 1000;

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, seen: Seen) {
        let mut all = self.lock();
        if all.len() == Self::KEPT {
            all.pop_front();
        }
        all.push_back(seen);
    }
}

#[derive(Clone)]
struct App {
    auth: Auth,
    evictions: Evictions,
    /// Where the start page is, as a path on the origin.
    home: String,
}

fn app(settings: Settings, base_url: &str) -> Result<(Auth, Router), Wrong> {
    let wrong = |error| Wrong::new("BASE_URL", error);
    let evictions = Evictions::default();
    let log = evictions.clone();
    let mut auth = Auth::builder(settings.provider, base_url).on_evict(move |eviction| {
        log.add(Seen {
            cause: eviction.cause().as_str(),
            subject: eviction.account().subject().to_owned(),
            count: eviction.count(),
        });
        std::future::ready(())
    });
    if let Some(key) = settings.cookie_key {
        auth = auth.cookie_key(&key);
    }
    let sessions = settings.redis.as_ref().map(RedisTokenStore::sessions);
    if let Some(redis) = settings.redis {
        auth = auth.store(redis);
    }
    let auth = auth.build().map_err(wrong)?;

    // The builder has found it to be a URL of scheme, host and path.
    let path = base_url.splitn(4, '/').nth(3).unwrap_or_default();
    let prefix = match path.trim_end_matches('/') {
        "" => String::new(),
        path => format!("/{path}"),
    };
    // Browsers keep a `Secure` cookie from http on loopback too, but most other clients do not send it there. For the names
    // with a prefix there is no choice.
    let name = &settings.session_cookie;
    let secure = base_url.starts_with("https:")
        || name.starts_with("__Host-")
        || name.starts_with("__Secure-");
    let cookie = (settings.session_cookie, secure);

    let state = App {
        auth: auth.clone(),
        evictions,
        home: if prefix.is_empty() {
            "/".into()
        } else {
            prefix.clone()
        },
    };
    let routes = Router::new()
        .route("/", get(home))
        .route("/me", get(me))
        .route("/token", get(token))
        .route("/evictions", get(evictions_seen))
        .merge(auth.routes())
        .with_state(state);
    let routes = if prefix.is_empty() {
        routes
    } else {
        Router::new().nest(&prefix, routes)
    };
    let app = match sessions {
        Some(sessions) => with_sessions(routes, &auth, sessions, cookie),
        None => with_sessions(routes, &auth, MemoryStore::default(), cookie),
    };
    Ok((auth, app))
}

fn with_sessions(
    routes: Router,
    auth: &Auth,
    store: impl SessionStore + Clone,
    (name, secure): (String, bool),
) -> Router {
    let sessions = SessionManagerLayer::new(store)
        .with_name(name)
        .with_secure(secure);
    routes.layer(auth.layer_with(sessions))
}

async fn home(State(app): State<App>, tokens: Option<Tokens>) -> Result<Html<String>, Error> {
    let accounts = match &tokens {
        Some(tokens) => tokens.accounts()?,
        None => Vec::new(),
    };
    let sign_in = escaped(&app.auth.sign_in_url(&app.home).to_string());
    let mut body = String::new();
    for one in &accounts {
        let name = one.account.name();
        let name = escaped(name.as_deref().unwrap_or(one.account.subject()));
        body += &format!("<p>Signed in as {name}.</p>");
    }
    if accounts.is_empty() {
        body += &format!("<p>Nobody is signed in. <a href=\"{sign_in}\">Sign in</a></p>");
    } else {
        let sign_out = escaped(&app.auth.sign_out_url());
        body += &format!(
            "<p><a href=\"{sign_in}\">Sign in with another account</a></p>\
             <form method=\"post\" action=\"{sign_out}\"><button>Sign out</button></form>"
        );
    }
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>web_app</title><h1>web_app</h1>{body}</html>"
    )))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

#[derive(Serialize)]
struct Me {
    accounts: Vec<SignedInAccount>,
}

/// Times are in seconds since 1970.
#[derive(Serialize)]
struct SignedInAccount {
    issuer: String,
    subject: String,
    sid: Option<String>,
    name: Option<String>,
    created: i64,
    last_used: i64,
    /// When the sign-in ends if it is not used again.
    expires: i64,
    /// When the access token that came with the sign-in ends.
    token_expires: Option<i64>,
}

impl From<SignedIn> for SignedInAccount {
    fn from(one: SignedIn) -> Self {
        let token = one.access_tokens.first();
        Self {
            issuer: one.account.issuer().to_owned(),
            subject: one.account.subject().to_owned(),
            sid: one.account.sid().map(str::to_owned),
            name: one.account.name(),
            created: one.created.as_secs(),
            last_used: one.last_used.as_secs(),
            expires: one.expires.as_secs(),
            token_expires: token.and_then(|token| Some(token.expires?.as_secs())),
        }
    }
}

async fn me(tokens: Tokens) -> Result<Json<Me>, Error> {
    let accounts = tokens.accounts()?.into_iter();
    Ok(Json(Me {
        accounts: accounts.map(SignedInAccount::from).collect(),
    }))
}

#[derive(Deserialize)]
struct Wanted {
    /// Several are separated by spaces; none means the token that came with the sign-in.
    #[serde(default)]
    scope: String,
}

/// What may be told of an access token: who has the hash cannot use it.
#[derive(Serialize)]
struct TokenFacts {
    sha256: String,
    expires_in: Option<u64>,
    scopes: Vec<String>,
}

async fn token(tokens: Tokens, Query(wanted): Query<Wanted>) -> Result<Json<TokenFacts>, Error> {
    let token = tokens.acquire(wanted.scope).await?;
    let now = SystemClock::new().wall();
    let left = |end: Timestamp| end.since(now).as_secs();
    let hash = digest(&SHA256, token.secret().as_bytes());
    Ok(Json(TokenFacts {
        sha256: hash
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        expires_in: token.expires().map(left),
        scopes: token.scopes().map(str::to_owned).collect(),
    }))
}

/// An app with users of its own would show this to its operators only.
async fn evictions_seen(State(app): State<App>) -> Json<Vec<Seen>> {
    Json(app.evictions.lock().iter().cloned().collect())
}

/// Ends at SIGTERM or ctrl-c.
async fn told_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// How long requests under way may take to come to their end.
const GRACE: Duration = Duration::from_secs(10);

async fn run() -> Result<ExitCode, Wrong> {
    let traces = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env()
        .map_err(|error| Wrong::new("RUST_LOG", error))?;
    tracing_subscriber::fmt()
        .with_env_filter(traces)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();

    let settings = Settings::read()?;
    let bind = settings.bind.clone();
    let listener = match TcpListener::bind(&bind).await {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("web_app: {bind} cannot be listened on: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let base_url = match (&settings.base_url, listener.local_addr()) {
        (Some(base_url), _) => base_url.clone(),
        (None, Ok(address)) => {
            let host = bind.rsplit_once(':').map_or("", |(host, _)| host);
            format!("http://{host}:{}", address.port())
        }
        (None, Err(_)) => format!("http://{bind}"),
    };
    let (auth, app) = app(settings, &base_url)?;
    let urls = auth.registered_urls();
    eprintln!("to be registered at the provider:");
    eprintln!("  redirect URI              {}", urls.redirect_uri);
    eprintln!(
        "  post-logout redirect URI  {}",
        urls.post_logout_redirect_uri
    );
    eprintln!(
        "  back-channel logout URI   {}",
        urls.backchannel_logout_uri
    );
    println!("listening on {base_url}");

    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
        told_to_stop().await;
        let _ = stop.send(());
    });
    // A request that never ends must not keep the process.
    let too_long = async {
        let _ = stopping.await;
        tokio::time::sleep(GRACE).await;
    };
    let served = tokio::select! {
        served = serving => served,
        () = too_long => Ok(()),
    };
    let left = auth.shutdown().await;
    if !left.finished || left.outbox != Some(0) {
        eprintln!("web_app: stopped before everything was done: {left:?}");
    }
    Ok(match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("web_app: {error}");
            ExitCode::FAILURE
        }
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(code) => code,
        Err(Wrong(problem)) => {
            eprintln!("web_app: {problem}");
            ExitCode::from(2)
        }
    }
}
