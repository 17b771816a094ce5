//! The server behind the page: it serves three files, proxies to the API with the user's token, and has the crate's routes. The tests
//! in Chromium drive it too.

mod api;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use axum_signout::clock::{Clock, SystemClock};
use axum_signout::testing::{TestClient, TestProvider};
use axum_signout::{Api, Auth, LongUrl, Provider, SignOutReport, Tokens};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_sessions::{MemoryStore, SessionManagerLayer};

const CLIENT_ID: &str = "spa";
const CLIENT_SECRET: &str = "the-secret-of-the-server";

/// How one run differs from another.
pub struct Options {
    pub bind: SocketAddr,
    pub idle: Duration,
    pub clock: Arc<dyn Clock>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: (Ipv4Addr::LOCALHOST, 3000).into(),
            idle: Duration::from_secs(90),
            clock: Arc::new(SystemClock::new()),
        }
    }
}

/// App, API and provider, running until this is dropped.
pub struct Spa {
    pub url: String,
    pub auth: Auth,
    pub provider: TestProvider,
    serving: [JoinHandle<()>; 2],
}

impl Spa {
    pub async fn start(options: Options) -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind(options.bind).await?;
        let url = format!("http://{}", listener.local_addr()?);

        // On `localhost`, which to browsers is another site than 127.0.0.1: as far away as a real provider.
        let test_provider = TestProvider::builder()
            .host("localhost")
            .client(TestClient::new(CLIENT_ID).secret(CLIENT_SECRET).app(&url))
            .client(TestClient::new(api::CLIENT_ID).secret(api::CLIENT_SECRET))
            .start()
            .await;
        let for_api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let api = Api::builder(format!("http://{}", for_api.local_addr()?)).build()?;
        let resource_server = api::router(test_provider.url("/introspect"))?;

        let provider = Provider::discover(test_provider.issuer(), CLIENT_ID)
            .client_secret(CLIENT_SECRET)
            .scopes(["openid", "profile", "offline_access"])
            .build()?;
        let auth = Auth::builder(provider, url.clone())
            .clock(options.clock)
            .idle_lifetime(options.idle)
            .after_sign_in("/")
            .after_sign_out("/")
            // Where the user goes to sign out is told to a script: not even the ID token is in that URL. The provider asks
            // the user instead whether it is they who want to leave.
            .long_url(0, LongUrl::DropHint)
            .on_sign_out(|report: SignOutReport| async move {
                tracing::info!(cause = %report.cause, sign_ins = report.evicted.len(), "signed out");
            })
            .build()?;
        let sessions = SessionManagerLayer::new(MemoryStore::default())
            // This speaks plain http, and not every browser keeps `Secure` cookies of http://127.0.0.1.
            .with_secure(false);
        let app = router(&auth, api).layer(auth.layer_with(sessions));

        let serve = |listener, app: Router| {
            tokio::spawn(async move {
                if let Err(error) = axum::serve(listener, app).await {
                    tracing::error!(%error, "the app stopped");
                }
            })
        };
        Ok(Self {
            url,
            auth,
            provider: test_provider,
            serving: [serve(for_api, resource_server), serve(listener, app)],
        })
    }
}

impl Drop for Spa {
    fn drop(&mut self) {
        for server in &self.serving {
            server.abort();
        }
    }
}

fn router(auth: &Auth, api: Api) -> Router {
    let script = ("text/javascript; charset=utf-8", include_str!("script.js"));
    let style = ("text/css; charset=utf-8", include_str!("style.css"));
    let page = ("text/html; charset=utf-8", include_str!("index.html"));
    Router::new()
        .route("/api/me", get(me))
        .route("/api/orders", get(orders))
        .with_state(api)
        .route("/", get(async move || file(page)))
        .route("/script.js", get(async move || file(script)))
        .route("/style.css", get(async move || file(style)))
        .merge(auth.routes())
}

/// Only files of this origin run, and they talk to this origin only: what a script that got in could send a secret to.
fn file((kind, content): (&'static str, &'static str)) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, content).into_response()
}

/// With the sign-in's public name, so that the page knows whose answer it is.
async fn me(tokens: Tokens) -> Json<Value> {
    let account = tokens.account();
    let name = account.name();
    let name = name.unwrap_or_else(|| account.subject().to_owned());
    Json(json!({ "sign_in": tokens.sign_in(), "name": name }))
}

#[derive(Deserialize)]
struct Orders {
    orders: Vec<String>,
}

/// The token goes from here to the API, and the API's answer to the page.
async fn orders(State(api): State<Api>, tokens: Tokens) -> Result<Response, axum_signout::Error> {
    let answer = api.get(&tokens, "/orders").await?;
    let answer = match answer.error_for_status() {
        Ok(answer) => answer.json::<Orders>().await,
        Err(error) => Err(error),
    };
    Ok(match answer {
        Ok(Orders { orders }) => {
            Json(json!({ "sign_in": tokens.sign_in(), "orders": orders })).into_response()
        }
        Err(error) => {
            tracing::warn!(error = %error.without_url(), "the API did not answer");
            StatusCode::BAD_GATEWAY.into_response()
        }
    })
}
