//! The app of the demo. The tests in Chromium drive it too, with other [`Options`].

mod handlers;
mod journal;
mod label;
mod page;

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use axum_signout::testing::{NeedsConsent, TestClient, TestProvider};
use axum_signout::{Auth, Eviction, Navigation, Provider};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_http::csrf::CsrfLayer;
use tower_sessions::cookie::SameSite;
use tower_sessions::{MemoryStore, SessionManagerLayer};

use self::handlers::State;
use self::journal::Journal;

const CLIENT_ID: &str = "demo";
const CLIENT_SECRET: &str = "the-secret-of-a-demo";

/// What the demo's provider lets users have only when they have allowed it on a page of its own.
const SCOPE_WITH_CONSENT: &str = "Admin.Write";

/// How one run of the demo differs from another.
pub struct Options {
    /// Where the app listens: `None` is port 3000 on 127.0.0.1, or the next one that is free.
    pub bind: Option<SocketAddr>,
    /// The session cookie.
    pub cookie: &'static str,
    pub same_site: SameSite,
    pub secure: bool,
    /// How long access tokens are good for. Short, so that one can watch a refresh.
    pub token_lifetime: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bind: None,
            cookie: "id",
            same_site: SameSite::Strict,
            // The demo speaks plain http, and not every browser keeps `Secure` cookies of http://127.0.0.1.
            secure: false,
            token_lifetime: Duration::from_secs(90),
        }
    }
}

/// The app and its provider, running until this is dropped.
pub struct Demo {
    pub url: String,
    pub auth: Auth,
    pub provider: Arc<TestProvider>,
    serving: JoinHandle<()>,
}

impl Demo {
    pub async fn start(options: Options) -> Result<Self, Box<dyn Error>> {
        let listener = listen(options.bind).await?;
        let url = format!("http://{}", listener.local_addr()?);

        // On `localhost`, which to browsers is another site than 127.0.0.1: as far away as a real provider.
        let test_provider = TestProvider::builder()
            .host("localhost")
            .client(TestClient::new(CLIENT_ID).secret(CLIENT_SECRET).app(&url))
            .access_token_lifetime(options.token_lifetime)
            .needs_consent(NeedsConsent::new(SCOPE_WITH_CONSENT))
            .start()
            .await;
        let provider = Provider::discover(test_provider.issuer(), CLIENT_ID)
            .client_secret(CLIENT_SECRET)
            .scopes(["openid", "profile", "email", "offline_access"])
            .build()?;

        let journal = Arc::new(Journal::new());
        let auth = Auth::builder(provider, url.clone())
            .after_sign_out("/")
            .redirect_to_sign_in(true)
            // The default of 60 s suits tokens that live for an hour.
            .expiry_margin(Duration::from_secs(10))
            .sign_in_label(label::of)
            .on_evict({
                let journal = journal.clone();
                move |eviction: Eviction| {
                    journal.evicted(&eviction);
                    std::future::ready(())
                }
            })
            .before_navigation({
                let journal = journal.clone();
                move |navigation: Navigation| {
                    journal.signed_out(navigation.report);
                    std::future::ready(())
                }
            })
            .build()?;

        let sessions = SessionManagerLayer::new(MemoryStore::default())
            .with_name(options.cookie)
            .with_same_site(options.same_site)
            .with_secure(options.secure);
        let test_provider = Arc::new(test_provider);
        let state = State {
            journal,
            provider: test_provider.clone(),
            token_lifetime: options.token_lifetime,
        };
        let app = router(&auth, state).layer(auth.layer_with(sessions));
        // For the labels of sign-ins.
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "the demo stopped");
            }
        });
        Ok(Self {
            url,
            auth,
            provider: test_provider,
            serving,
        })
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn router(auth: &Auth, state: State) -> Router {
    let signed_in_only = Router::new()
        .route("/acquire", post(handlers::acquire))
        .route("/allow", get(handlers::allow))
        .route("/note", post(handlers::note))
        .route("/break", post(handlers::break_grant))
        .route("/sign-ins/end", post(handlers::end_sign_in))
        .route("/sign-ins/end-others", post(handlers::end_others))
        // `/signout` defends itself against other sites' forms; what an app does by itself, the app defends.
        .route_layer(CsrfLayer::new())
        .route_layer(auth.require_account());
    Router::new()
        .route("/", get(handlers::home))
        .route("/events", get(handlers::events))
        .merge(signed_in_only)
        .with_state(state)
        .route("/style.css", get(handlers::style))
        .route("/script.js", get(handlers::script))
        .merge(auth.routes())
}

async fn listen(bind: Option<SocketAddr>) -> io::Result<TcpListener> {
    if let Some(address) = bind {
        return TcpListener::bind(address).await;
    }
    let ports = 3000..3020;
    for port in ports.clone() {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            bound => return bound,
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("none of the ports {ports:?} is free; choose one by BIND=127.0.0.1:4000"),
    ))
}
