//! Two nodes, as two processes would be: what they have in common is in Redis. The tests drive them too.

mod handlers;
mod page;
mod redis;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use axum::Router;
use axum::routing::get;
use axum_signout::store::RedisTokenStore;
use axum_signout::testing::{TestClient, TestProvider};
use axum_signout::{Auth, Provider};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_sessions::SessionManagerLayer;

use self::handlers::State;
use self::redis::OwnRedis;

const CLIENT_ID: &str = "cluster";
const CLIENT_SECRET: &str = "the-secret-of-both-nodes";

/// How one run differs from another.
pub struct Options {
    /// Where the nodes listen: on one host, so that a browser sends both the same cookies, which know no ports.
    pub bind: [SocketAddr; 2],
    /// `None`: a Redis is started.
    pub redis_url: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: [3000, 3001].map(|port| (Ipv4Addr::LOCALHOST, port).into()),
            redis_url: None,
        }
    }
}

/// Both nodes and what they need, running until this is dropped.
pub struct Cluster {
    pub nodes: [Node; 2],
    _provider: TestProvider,
    _redis: Option<OwnRedis>,
}

pub struct Node {
    pub url: String,
    auth: Auth,
    serving: JoinHandle<()>,
}

/// What all nodes are given alike.
struct Common<'a> {
    issuer: &'a str,
    redis_url: &'a str,
    cookie_key: [u8; 32],
}

impl Cluster {
    pub async fn start(options: Options) -> Result<Self, Box<dyn Error>> {
        let (redis_url, redis) = match options.redis_url {
            Some(url) => (url, None),
            None => {
                let redis = tokio::task::spawn_blocking(OwnRedis::start).await??;
                tracing::info!(url = redis.url, "Redis is up");
                (redis.url.clone(), Some(redis))
            }
        };
        let listeners = [
            listen(options.bind[0]).await?,
            listen(options.bind[1]).await?,
        ];
        let [a, b] = &listeners;
        let urls = [a.local_addr()?, b.local_addr()?].map(|address| format!("http://{address}"));

        // On `localhost`, which to browsers is another site than 127.0.0.1: as far away as a real provider.
        let client = TestClient::new(CLIENT_ID)
            .secret(CLIENT_SECRET)
            .app(&urls[0])
            .app(&urls[1]);
        let provider = TestProvider::builder().host("localhost").client(client);
        let provider = provider.start().await;
        tracing::info!(issuer = provider.issuer(), "the provider is up");

        let common = Common {
            issuer: provider.issuer(),
            redis_url: &redis_url,
            cookie_key: rand::random(),
        };
        let [a, b] = listeners;
        let nodes = [
            Node::start("A", a, [&urls[0], &urls[1]], &common)?,
            Node::start("B", b, [&urls[1], &urls[0]], &common)?,
        ];
        Ok(Self {
            nodes,
            _provider: provider,
            _redis: redis,
        })
    }

    /// Hooks and revocations that are under way come to their end, while Redis is still there.
    pub async fn shutdown(self) {
        for node in &self.nodes {
            node.auth.shutdown().await;
        }
    }
}

impl Node {
    fn start(
        name: &'static str,
        listener: TcpListener,
        [url, other]: [&String; 2],
        common: &Common<'_>,
    ) -> Result<Self, Box<dyn Error>> {
        let provider = Provider::discover(common.issuer, CLIENT_ID)
            .client_secret(CLIENT_SECRET)
            .scopes(["openid", "profile", "offline_access"])
            .build()?;
        let store = RedisTokenStore::builder(common.redis_url)
            .prefix("axum-signout-cluster")
            .build()?;
        let sessions = SessionManagerLayer::new(store.sessions())
            .with_name("cluster")
            // This speaks plain http, and not every browser keeps `Secure` cookies of http://127.0.0.1.
            .with_secure(false);
        let auth = Auth::builder(provider, url)
            .store(store)
            // Or a sign-in would have to end on the node that began it.
            .cookie_key(&common.cookie_key)
            .after_sign_out("/")
            .sign_in_label(move |_| Some(format!("Signed in on node {name}")))
            .build()?;
        let state = State {
            name,
            other: other.clone(),
            issuer: common.issuer.to_owned(),
        };
        let app = Router::new()
            .route("/", get(handlers::home))
            .route("/events", get(handlers::events))
            .with_state(state)
            .route("/style.css", get(handlers::style))
            .route("/script.js", get(handlers::script))
            .merge(auth.routes())
            .layer(auth.layer_with(sessions));
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(name, %error, "a node stopped");
            }
        });
        Ok(Self {
            url: url.clone(),
            auth,
            serving,
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| {
        format!("{address} cannot be listened on ({error}): choose two addresses by BIND=127.0.0.1:4000,127.0.0.1:4001")
    })
}
