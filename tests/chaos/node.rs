//! One node: the test program itself, started once more as a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_signout::store::RedisTokenStore;
use axum_signout::{Auth, EndSessionRequest, Error, KeyRing, Provider, SignOut, Tokens};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tower_sessions::SessionManagerLayer;

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
    pub sign_in: String,
    pub token: String,
}

/// What a sign-out is answered.
#[derive(Debug, Deserialize, Serialize)]
pub struct Left {
    pub evicted: usize,
    pub pending: usize,
    pub not_retried: usize,
    pub session: String,
}

/// What a node knows of the store, and what its hook heard.
#[derive(Debug, Deserialize, Serialize)]
pub struct Told {
    pub sign_ins: usize,
    pub outbox: usize,
    pub evictions: BTreeMap<String, usize>,
}

type Evictions = Arc<Mutex<BTreeMap<String, usize>>>;

/// A node, running until this is dropped.
#[derive(Debug)]
pub struct Node {
    _process: TiedProcess,
    pub url: String,
}

impl Node {
    /// `base_url`: what browsers call the app, by default this node's own address.
    pub fn start(number: usize, issuer: &str, redis_url: &str, base_url: Option<&str>) -> Self {
        let program = std::env::current_exe().expect("this runs");
        let mut command = Command::new(program);
        command
            .args(["--ignored", "--exact", "node::a_node", "--nocapture"])
            .env("CHAOS_LOG", log(number))
            .env("CHAOS_ISSUER", issuer)
            .env("CHAOS_REDIS", redis_url)
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
pub fn log(number: usize) -> PathBuf {
    artifacts().join(format!("chaos-node-{number}.log"))
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: the test of this program does"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a node of the test of this program, which starts it as a process of its own"]
async fn a_node() {
    let (issuer, redis_url) = (variable("CHAOS_ISSUER"), variable("CHAOS_REDIS"));
    let log = File::create(variable("CHAOS_LOG")).expect("cargo's folder can be written to");
    tracing_subscriber::fmt()
        .with_env_filter("info")
        .with_ansi(false)
        .with_writer(log)
        .init();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let own = format!("http://{}", listener.local_addr().expect("bound"));
    let base_url = match variable("CHAOS_BASE_URL") {
        none if none.is_empty() => own.clone(),
        common => common,
    };

    let provider = Provider::discover(issuer, CLIENT)
        .client_secret(SECRET)
        .build()
        .expect("a good configuration");
    let key = KeyRing::parse(&"A".repeat(43)).expect("a key");
    let store = RedisTokenStore::builder(redis_url)
        .encryption(key)
        .build()
        .expect("a good configuration");
    let sessions = SessionManagerLayer::new(store.sessions()).with_secure(false);
    let evictions = Evictions::default();
    let heard = evictions.clone();
    let auth = Auth::builder(provider, base_url)
        .store(store)
        .cookie_key(&[7; 32])
        .expiry_margin(MARGIN)
        .refresh_ahead(AHEAD)
        .subjects_in_events(true)
        .on_evict(move |eviction| {
            let mut heard = heard.lock().expect("nobody panics with it");
            *heard.entry(eviction.cause().to_string()).or_default() += 1;
            std::future::ready(())
        })
        .build()
        .expect("a good configuration");
    let app = Router::new()
        .route("/token", get(token))
        .route("/leave", post(leave))
        .route("/told", get(told))
        .with_state((auth.clone(), evictions))
        .merge(auth.routes())
        .layer(auth.layer_with(sessions));
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

async fn token(tokens: Tokens) -> Result<Json<Served>, Error> {
    let token = tokens.acquire(()).await?;
    Ok(Json(Served {
        sign_in: tokens.sign_in().to_string(),
        token: token.secret().to_owned(),
    }))
}

/// Here only: what users do at the provider is not what this is about.
async fn leave(sign_out: SignOut) -> Json<Left> {
    let done = sign_out.run(EndSessionRequest::new().local_only()).await;
    let report = done.report();
    Json(Left {
        evicted: report.evicted.len(),
        pending: report.pending,
        not_retried: report.not_retried,
        session: format!("{:?}", report.session),
    })
}

async fn told(State((auth, evictions)): State<(Auth, Evictions)>) -> Result<Json<Told>, Error> {
    let stats = auth.stats().await?;
    Ok(Json(Told {
        sign_ins: stats.sign_ins,
        outbox: stats.outbox,
        evictions: evictions.lock().expect("nobody panics with it").clone(),
    }))
}
