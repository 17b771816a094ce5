//! One node: the test program itself, started once more as a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_signout::store::{MemoryTier, RedisTokenStore};
use axum_signout::{
    Account, Auth, EndSessionRequest, Error, ErrorKind, KeyRing, Provider, SignInId, SignOut,
    SignOutReport, Tokens,
};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower_sessions::{CachingSessionStore, MemoryStore, SessionManagerLayer, SessionStore};

use crate::setups::Setup;
use crate::support::certified::artifacts;
use crate::support::process::TiedProcess;

pub const CLIENT: &str = "app";
pub const SECRET: &str = "s3cret";

/// The life of the provider's access tokens, in seconds.
pub const TOKEN_LIFETIME: u32 = 12;

/// From this share of it on they are refreshed behind the requests: never sooner.
pub const AHEAD: f64 = 0.5;

/// So long before their end requests wait for that.
const MARGIN: Duration = Duration::from_secs(4);

/// What a request for a token is answered.
#[derive(Deserialize, Serialize)]
pub struct Served {
    pub sign_in: SignInId,
    pub token: String,
}

/// Which sign-in an operator ends.
#[derive(Debug, Deserialize, Serialize)]
pub struct Whose {
    pub user: String,
    pub sign_in: SignInId,
}

/// What a sign-out is answered.
#[derive(Debug, Deserialize, Serialize)]
pub struct Left {
    pub evicted: usize,
    pub pending: usize,
    pub not_retried: usize,
    pub session: String,
}

impl Left {
    fn of(report: &SignOutReport) -> Self {
        Self {
            evicted: report.evicted.len(),
            pending: report.pending,
            not_retried: report.not_retried,
            session: format!("{:?}", report.session),
        }
    }
}

/// What a node knows of the store, and what its hook heard.
#[derive(Debug, Deserialize, Serialize)]
pub struct Told {
    pub sign_ins: usize,
    pub outbox: usize,
    /// What the store has not confirmed yet.
    pub pending: i64,
    /// Of whom, by cause.
    pub evictions: BTreeMap<String, Vec<String>>,
    /// How often a copy in memory answered.
    pub hits: u64,
}

type Evictions = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

#[derive(Clone)]
struct Knows {
    issuer: String,
    auth: Auth,
    store: Arc<RedisTokenStore>,
    evictions: Evictions,
    pending: Arc<Pending>,
}

/// The gauge of pending evictions: each look takes what has come or gone since the last.
struct Pending {
    snapshots: Snapshotter,
    sum: Mutex<i64>,
}

impl Pending {
    fn record() -> Arc<Self> {
        let recorder = DebuggingRecorder::new();
        let snapshots = recorder.snapshotter();
        recorder.install().expect("the first");
        let sum = Mutex::default();
        Arc::new(Self { snapshots, sum })
    }

    fn count(&self) -> i64 {
        let mut sum = self.sum.lock().expect("nobody panics with it");
        for (key, _, _, value) in self.snapshots.snapshot().into_vec() {
            if let DebugValue::Gauge(change) = value
                && key.key().name() == "axum_signout_pending_evictions"
            {
                *sum += change.round() as i64;
            }
        }
        *sum
    }
}

/// A node, running until this is dropped.
#[derive(Debug)]
pub struct Node {
    _process: TiedProcess,
    pub url: String,
}

impl Node {
    /// `base_url`: what browsers call the app, by default this node's own address.
    pub fn start(
        setup: Setup,
        number: usize,
        issuer: &str,
        redis: &[String],
        base_url: Option<&str>,
    ) -> Self {
        let program = std::env::current_exe().expect("this runs");
        let mut command = Command::new(program);
        command
            .args(["--ignored", "--exact", "node::a_node", "--nocapture"])
            .env("CHAOS_SETUP", setup.name)
            .env("CHAOS_LOG", log(setup, number))
            .env("CHAOS_ISSUER", issuer)
            .env("CHAOS_REDIS", redis.join(","))
            .env("CHAOS_BASE_URL", base_url.unwrap_or_default());
        let mut process = TiedProcess::spawn(command, "It is this test program.");
        let url = process.wait_for_line("a node", |line| {
            let (_, url) = line.split_once("listening on ")?;
            Some(url.to_owned())
        });
        Self {
            _process: process,
            url,
        }
    }
}

/// What a node traces, for who wants to know what came before a failure.
fn log(setup: Setup, number: usize) -> PathBuf {
    artifacts().join(format!("chaos-{}-{number}.log", setup.name))
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: the test of this program does"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a node of the test of this program, which starts it as a process of its own"]
async fn a_node() {
    let (issuer, redis) = (variable("CHAOS_ISSUER"), variable("CHAOS_REDIS"));
    let setup = Setup::named(&variable("CHAOS_SETUP"));
    let log = File::create(variable("CHAOS_LOG")).expect("cargo's folder can be written to");
    tracing_subscriber::fmt()
        .with_env_filter("info")
        .with_ansi(false)
        .with_writer(log)
        .init();
    let pending = Pending::record();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = format!("http://{}", listener.local_addr().expect("bound"));
    let base_url = match variable("CHAOS_BASE_URL") {
        none if none.is_empty() => own.clone(),
        common => common,
    };

    let provider = Provider::discover(issuer.clone(), CLIENT)
        .client_secret(SECRET)
        .build()
        .expect("a good configuration");
    let key = KeyRing::parse(&"A".repeat(43)).expect("a key");
    let mut store = match setup.is_cluster() {
        true => RedisTokenStore::cluster(redis.split(',')),
        false => RedisTokenStore::builder(redis),
    };
    if setup.tier {
        store = store.memory_tier(MemoryTier::new());
    }
    let store = store.encryption(key).build().expect("a good configuration");
    let store = Arc::new(store);
    let sessions = store.sessions();
    let evictions = Evictions::default();
    let heard = evictions.clone();
    let auth = Auth::builder(provider, base_url)
        .store(store.clone())
        .cookie_key(&[7; 32])
        .expiry_margin(MARGIN)
        .refresh_ahead(AHEAD)
        .subjects_in_events(true)
        .on_evict(move |eviction| {
            let mut heard = heard.lock().expect("nobody panics with it");
            let of_cause = heard.entry(eviction.cause().to_string()).or_default();
            of_cause.push(eviction.account().subject().to_owned());
            std::future::ready(())
        })
        .build()
        .expect("a good configuration");
    let app = Router::new()
        .route("/token", get(token))
        .route("/leave", post(leave))
        .route("/end", post(end))
        .route("/told", get(told))
        .with_state(Knows {
            issuer,
            auth: auth.clone(),
            store,
            evictions,
            pending,
        })
        .merge(auth.routes());
    let app = match setup.tier {
        false => with_sessions(app, &auth, sessions),
        // A node goes on with sessions that others have deleted: there is no second guard behind the tier.
        true => {
            let cached = CachingSessionStore::new(MemoryStore::default(), sessions);
            with_sessions(app, &auth, cached)
        }
    };
    let app = app.layer(map_response(noted));
    println!("listening on {own}");
    let serving = axum::serve(listener, app);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Until the test ends, however that comes about.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = stop.send(());
    });
    tokio::select! {
        served = serving.into_future() => served.expect("it goes on"),
        _ = stopped => {}
    }
}

/// For who wants to know why somebody was refused.
async fn noted(response: Response) -> Response {
    if response.status().is_client_error() {
        let kind = response.extensions().get::<ErrorKind>();
        tracing::info!(status = %response.status(), ?kind, "refused");
    }
    response
}

fn with_sessions(app: Router, auth: &Auth, store: impl SessionStore + Clone) -> Router {
    let sessions = SessionManagerLayer::new(store).with_secure(false);
    app.layer(auth.layer_with(sessions))
}

async fn token(tokens: Tokens) -> Result<Json<Served>, Error> {
    let token = tokens.acquire(()).await?;
    Ok(Json(Served {
        sign_in: tokens.sign_in(),
        token: token.secret().to_owned(),
    }))
}

/// Here only: what users do at the provider is not what this is about.
async fn leave(sign_out: SignOut) -> Json<Left> {
    let done = sign_out.run(EndSessionRequest::new().local_only()).await;
    Json(Left::of(done.report()))
}

/// By an operator: the session stays, and finds out at its next request.
async fn end(
    State(Knows { issuer, auth, .. }): State<Knows>,
    Query(whose): Query<Whose>,
) -> Result<Json<Left>, Error> {
    let account = Account::new(issuer, whose.user);
    let report = auth.end_sign_in(&account, whose.sign_in).await?;
    Ok(Json(Left::of(&report)))
}

async fn told(State(knows): State<Knows>) -> Result<Json<Told>, Error> {
    let stats = knows.auth.stats().await?;
    Ok(Json(Told {
        sign_ins: stats.sign_ins,
        outbox: stats.outbox,
        pending: knows.pending.count(),
        evictions: knows
            .evictions
            .lock()
            .expect("nobody panics with it")
            .clone(),
        hits: knows.store.tier_stats().map_or(0, |tier| tier.hits),
    }))
}
