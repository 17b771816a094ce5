//! Front-channel logout in Chromium: the provider is on `localhost`, the app on 127.0.0.1, which are two sites.

mod support;

use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Html;
use axum::routing::get;
use axum::{Json, Router};
use axum_signout::testing::{TestClient, TestProvider};
use axum_signout::{Account, Auth, Cause, Provider};
use http::header;
use support::chromium::{Chromium, Launch};
use tokio::net::TcpListener;
use tower_sessions::cookie::SameSite;
use tower_sessions::{MemoryStore, SessionManagerLayer};

const CLIENT: &str = "app";
const SECRET: &str = "app-secret";
const PATH: &str = "/signout/frontchannel";

/// A request for the framed page: its query, and whether it brought a cookie.
type Framed = Arc<Mutex<Vec<(String, bool)>>>;

struct Scene {
    provider: TestProvider,
    chromium: Chromium,
    auth: Auth,
    app: String,
    framed: Framed,
    causes: Arc<Mutex<Vec<Cause>>>,
}

async fn whoami(account: Option<Account>) -> Html<String> {
    let who = account.map_or_else(|| "nobody".into(), |one| one.subject().to_owned());
    Html(format!("<p id=who>{who}</p>"))
}

async fn sid(account: Account) -> Json<String> {
    Json(account.sid().unwrap_or_default().to_owned())
}

/// Serves on a free port of 127.0.0.1, which `localhost` is as well.
async fn serve(listener: TcpListener, app: Router) {
    tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
}

impl Scene {
    /// Alice is signed in. The session's cookie would be sent by a frame, were it not for the browser's rules.
    async fn new(launch: Launch) -> Self {
        let builder = TestProvider::builder().host("localhost");
        let provider = builder.confirm_logout(false).start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let app = format!("http://{}", listener.local_addr().expect("bound"));
        let client = TestClient::new(CLIENT).secret(SECRET).app(&app);
        provider.add_client(client.frontchannel_logout_uri(format!("{app}{PATH}")));

        let causes = Arc::new(Mutex::new(Vec::new()));
        let seen = causes.clone();
        let registration = Provider::discover(provider.issuer(), CLIENT).client_secret(SECRET);
        let auth = Auth::builder(registration.build().expect("valid"), app.clone())
            .on_evict(move |eviction| {
                seen.lock().expect("no panic").push(eviction.cause());
                std::future::ready(())
            })
            .build()
            .expect("valid");
        let framed = Framed::default();
        let log = framed.clone();
        let record = move |request: Request, next: Next| {
            if request.uri().path() == PATH {
                let query = request.uri().query().unwrap_or_default().to_owned();
                let cookie = request.headers().contains_key(header::COOKIE);
                log.lock().expect("no panic").push((query, cookie));
            }
            next.run(request)
        };
        let sessions = SessionManagerLayer::new(MemoryStore::default())
            .with_same_site(SameSite::None)
            .with_secure(true);
        let router = Router::new()
            .route("/", get(whoami))
            .route("/sid", get(sid))
            .merge(auth.routes())
            .layer(auth.layer_with(sessions))
            .layer(middleware::from_fn(record));
        serve(listener, router).await;

        let chromium = launch.start().await;
        chromium.goto(&format!("{app}/signin")).await;
        chromium.click_id("login-alice").await;
        chromium.wait_for_text("alice").await;
        chromium.wait_for("#who").await;
        Self {
            provider,
            chromium,
            auth,
            app,
            framed,
            causes,
        }
    }

    async fn sign_ins(&self) -> usize {
        self.auth.stats().await.expect("in memory").sign_ins
    }
}

#[tokio::test]
async fn a_sign_out_at_the_provider_ends_the_apps_without_its_cookie_r14_r15() {
    for (launch, cookie) in [
        (Launch::new().block_third_party_cookies(), false),
        // That it is the browser that keeps the cookie back.
        (Launch::new(), true),
    ] {
        let scene = Scene::new(launch).await;
        assert_eq!(scene.sign_ins().await, 1);
        scene
            .chromium
            .goto(&scene.provider.url("/end_session"))
            .await;
        let chromium = &scene.chromium;
        chromium
            .wait_until("the frame's request", async || {
                let framed = scene.framed.lock().expect("no panic");
                (!framed.is_empty()).then_some(())
            })
            .await;
        // A page is complete when its frames are.
        chromium
            .wait_until("the frame", async || {
                let state = chromium.execute("return document.readyState").await;
                (state == "complete").then_some(())
            })
            .await;
        assert_eq!(scene.sign_ins().await, 0);
        let framed = scene.framed.lock().expect("no panic").clone();
        let [(query, brought)] = &framed[..] else {
            panic!("one request: {framed:?}")
        };
        assert!(query.contains("iss=") && query.contains("sid="), "{query}");
        assert_eq!(*brought, cookie);
        // Where the cookie came along it was removed with the answer; where not, it is with the next one.
        chromium.goto(&scene.app).await;
        chromium.wait_for_text("nobody").await;
        assert!(chromium.cookie("id").await.is_none());
        assert_eq!(
            *scene.causes.lock().expect("no panic"),
            [Cause::FrontChannel]
        );
    }
}

#[tokio::test]
async fn only_the_providers_page_can_frame_it_r15() {
    let scene = Scene::new(Launch::new()).await;
    let page = format!(
        "{}{PATH}?iss={}&sid=nobodys",
        scene.app,
        scene.provider.issuer()
    );
    let html = format!("<iframe src='{page}' onload='document.title=\"loaded\"'></iframe>");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let stranger = Router::new().route("/", get(async move || Html(html)));
    serve(listener, stranger).await;

    // The provider's page frames it, and shows it; one on another port of its host is not the provider's.
    let rows = [
        (scene.provider.url("/end_session"), true),
        (format!("http://localhost:{port}/"), false),
    ];
    for (framer, shown) in rows {
        scene.framed.lock().expect("no panic").clear();
        let chromium = &scene.chromium;
        chromium.goto(&framer).await;
        chromium
            .wait_until("the frame's request", async || {
                let framed = scene.framed.lock().expect("no panic");
                (!framed.is_empty()).then_some(())
            })
            .await;
        let within = async || {
            let client = chromium.client();
            client.enter_frame(0).await.ok()?;
            let url = chromium.execute("return location.href").await;
            client.enter_parent_frame().await.ok()?;
            let url = url.as_str().unwrap_or_default().to_owned();
            (url != "about:blank").then_some(url)
        };
        let url = chromium.wait_until("the frame", within).await;
        assert_eq!(url.starts_with(&scene.app), shown, "{framer}: {url}");
    }
}
