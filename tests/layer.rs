//! The layer around an app: where it works, what it refuses, and what it does to each request and response.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts as _, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum_signout::clock::ManualClock;
use axum_signout::store::{Removal, RevokeRule, Target, TokenStore as _};
use axum_signout::testing::{Gate, TestBrowser, TestClient, TestProvider};
use axum_signout::{
    AccessToken, Account, Address, Auth, AuthBuilder, Cause, Error, OperationId, Pages, Provider,
    TokenSet, Tokens,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use support::app::{Answer, CLIENT, SECRET, Setup, send};
use support::faulty::{Fail, FaultySessions, FaultyStore};
use support::held::held;
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};
use tower_sessions::{MemoryStore, Session, SessionManagerLayer, SessionStore as _};

const ISSUER: &str = "https://op.example";

fn builder() -> AuthBuilder {
    let provider = Provider::discover(ISSUER, "app").build().unwrap();
    Auth::builder(provider, "https://app.example.com")
}

fn sessions() -> SessionManagerLayer<MemoryStore> {
    SessionManagerLayer::new(MemoryStore::default())
}

/// Signs somebody in without a provider.
async fn plant(
    auth: Auth,
    session: Session,
    Path(subject): Path<String>,
) -> Result<&'static str, Error> {
    let tokens = TokenSet::new()
        .with_access_token(AccessToken::bearer("access"))
        .with_refresh_token("refresh");
    auth.sign_in(&session, None, Account::new(ISSUER, subject), tokens)
        .await?;
    Ok("planted")
}

async fn whoami(account: Option<Account>) -> String {
    account.map_or_else(|| "nobody".into(), |account| account.subject().to_owned())
}

/// An app without a provider, over stores that can fail.
struct Bench {
    auth: Auth,
    store: FaultyStore,
    sessions: FaultySessions,
    router: Router,
    seen: Arc<Mutex<Vec<(Cause, String)>>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Router::new(), |auth| auth)
    }

    fn with(routes: Router, f: impl FnOnce(AuthBuilder) -> AuthBuilder) -> Self {
        Self::over(FaultyStore::new(), routes, f)
    }

    fn over(
        store: FaultyStore,
        routes: Router,
        f: impl FnOnce(AuthBuilder) -> AuthBuilder,
    ) -> Self {
        let (sessions, seen) = (FaultySessions::default(), Arc::new(Mutex::new(Vec::new())));
        let hook = seen.clone();
        let auth = f(builder().store(store.clone())).on_evict(move |eviction| {
            let subject = eviction.account().subject().to_owned();
            hook.lock().unwrap().push((eviction.cause(), subject));
            std::future::ready(())
        });
        let auth = auth.build().unwrap();
        let router = Router::new()
            .route("/plant/{subject}", post(plant))
            .route("/whoami", get(whoami))
            .route(
                "/account",
                get(|account: Account| async move { account.subject().to_owned() }),
            )
            .route("/tokens", get(|_: Tokens| async { "tokens" }))
            .route(
                "/optional",
                get(|tokens: Option<Tokens>| async move { format!("{}", tokens.is_some()) }),
            )
            .route("/public", get(|| async { "public" }))
            .route("/cart/{item}", get(cart))
            .merge(routes)
            .merge(auth.routes())
            .layer(auth.layer_with(SessionManagerLayer::new(sessions.clone())));
        Self {
            auth,
            store,
            sessions,
            router,
            seen,
        }
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        send(&self.router, "GET", path, &[("cookie", cookie)], "").await
    }

    /// The cookie of a session in which these are signed in.
    async fn planted(&self, subjects: &[&str]) -> String {
        let mut cookie = String::new();
        for subject in subjects {
            let path = format!("/plant/{subject}");
            let answer = send(&self.router, "POST", &path, &[("cookie", &*cookie)], "").await;
            assert_eq!(answer.body, "planted");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            cookie = pair(&answer);
        }
        cookie
    }

    /// Where the session's sign-ins are kept, oldest first.
    async fn addresses(&self, cookie: &str) -> Vec<Address> {
        let record = self.sessions.record(&cookie[3..]).await.unwrap();
        let held = held(record.data["axum-signout"].as_str().unwrap());
        held.iter().map(|one| one.address).collect()
    }

    /// As another node does it: this one is not told.
    async fn end_elsewhere(&self, address: Address) {
        let removal = Removal {
            operation: OperationId::from_bytes([7; 16]),
            cause: Cause::BackChannel,
            revoke: RevokeRule::Nothing,
            mark_for: Duration::from_secs(60),
            logout_iat: None,
        };
        let target = Target::SignIn(address);
        let removed = self.store.inner.remove(&target, &removal).await.unwrap();
        assert_eq!(removed.len(), 1);
    }

    async fn sign_ins(&self) -> usize {
        self.auth.stats().await.unwrap().sign_ins
    }

    async fn seen(&self) -> Vec<(Cause, String)> {
        self.auth.shutdown().await;
        self.seen.lock().unwrap().clone()
    }
}

async fn cart(session: Session, Path(item): Path<String>) -> String {
    if item != "show" {
        session.insert("cart", item).await.unwrap();
    }
    let cart = session.get::<String>("cart").await.unwrap();
    cart.unwrap_or_default()
}

/// `id=…` as the answer sets it.
fn pair(answer: &Answer) -> String {
    let all = answer.set_cookies();
    let cookie = all.iter().find(|cookie| cookie.starts_with("id=")).unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

fn removes_cookie(answer: &Answer) -> bool {
    let all = answer.set_cookies();
    all.iter().any(|cookie| {
        cookie.starts_with("id=;")
            && cookie.contains("Max-Age=0")
            && cookie.contains("; Secure; HttpOnly; SameSite=Lax")
    })
}

/// What is traced at the level of errors on this thread.
#[derive(Clone, Default)]
struct Errors(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Errors {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Errors {
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_missing_or_misplaced_session_layer_is_500_and_one_trace_that_says_how() {
    let auth = builder().build().unwrap();
    let routes = || Router::new().route("/whoami", get(whoami));
    /// The session of a version that is not enabled, as far as this crate can see it.
    #[derive(Clone)]
    struct ForeignSession;
    let rows: [(&str, Router); 5] = [
        ("none", routes().layer(auth.layer())),
        (
            "wrong order on a Router",
            routes().layer(sessions()).layer(auth.layer()),
        ),
        (
            "wrong order in a ServiceBuilder",
            routes().layer(ServiceBuilder::new().layer(auth.layer()).layer(sessions())),
        ),
        (
            "another version",
            routes()
                .layer(auth.layer())
                .layer(axum::Extension(ForeignSession)),
        ),
        (
            "none around the crate's routes",
            Router::new()
                .route("/whoami", post(|| async {}))
                .merge(auth.routes())
                .layer(auth.layer()),
        ),
    ];
    let errors = Errors::default();
    let _guard = errors.capture();
    for (name, router) in rows {
        let answer = send(&router, "GET", "/whoami", &[("accept", "text/html")], "").await;
        assert_eq!(answer.status, 500, "{name}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
        assert!(answer.body.is_empty(), "{name}");
        let lines = errors.lines();
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        for says in [
            "AuthLayer must run inside SessionManagerLayer",
            ".layer(auth.layer()).layer(session_layer)",
            ".layer(session_layer).layer(auth.layer())",
            "Auth::layer_with(session_layer)",
            "tower-sessions 0.15 (feature tower-sessions-015)",
            "0.14 (feature tower-sessions-014)",
        ] {
            assert!(lines[0].contains(says), "{name}: {says}");
        }
    }
}

#[tokio::test]
async fn a_missing_layer_is_500_and_one_trace() {
    let auth = builder().build().unwrap();
    // The routes that are added after a layer do not get it.
    let late = Router::new()
        .route("/public", get(|| async {}))
        .layer(auth.layer_with(sessions()))
        .route("/whoami", get(whoami))
        .route(
            "/guarded",
            get(|| async { "private" }).route_layer(auth.require_account()),
        )
        .merge(auth.routes());
    let errors = Errors::default();
    let _guard = errors.capture();
    for (method, path) in [
        ("GET", "/whoami"),
        ("GET", "/guarded"),
        ("GET", "/signin"),
        ("GET", "/signin/callback"),
        ("POST", "/signout"),
        ("GET", "/signout/callback"),
    ] {
        let answer = send(&late, method, path, &[], "").await;
        assert_eq!(answer.status, 500, "{path}");
        assert_eq!(answer.body, "Internal error.", "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        let lines = errors.lines();
        assert_eq!(lines.len(), 1, "{path}: {lines:?}");
        assert!(lines[0].contains("layer_with"), "{path}");
    }
}

#[tokio::test]
async fn every_right_order_works() {
    let auth = builder().build().unwrap();
    let store = MemoryStore::default();
    let sessions = || SessionManagerLayer::new(store.clone());
    let routes = || {
        Router::new()
            .route("/plant/{subject}", post(plant))
            .route("/whoami", get(whoami))
    };
    let rows: [(&str, Router); 4] = [
        ("by hand", routes().layer(auth.layer()).layer(sessions())),
        (
            "by hand in a ServiceBuilder",
            routes().layer(ServiceBuilder::new().layer(sessions()).layer(auth.layer())),
        ),
        ("layer_with", routes().layer(auth.layer_with(sessions()))),
        (
            "layer_with in a ServiceBuilder",
            routes().layer(ServiceBuilder::new().layer(auth.layer_with(sessions()))),
        ),
    ];
    for (name, router) in rows {
        let answer = send(&router, "POST", "/plant/ann", &[], "").await;
        assert_eq!(answer.body, "planted", "{name}");
        let cookie = pair(&answer);
        let answer = send(&router, "GET", "/whoami", &[("cookie", &*cookie)], "").await;
        assert_eq!(answer.body, "ann", "{name}");

        // And without any router: a plain service.
        let plain = service_fn(|request: Request| async move {
            let (mut parts, _) = request.into_parts();
            let account = Account::from_request_parts(&mut parts, &()).await;
            Ok::<_, std::convert::Infallible>(match account {
                Ok(account) => account.subject().to_owned().into_response(),
                Err(rejection) => rejection.into_response(),
            })
        });
        let service = ServiceBuilder::new()
            .layer(auth.layer_with(sessions()))
            .service(plain);
        for (cookie, status) in [(&*cookie, 200), ("", 401), ("id=garbage", 401)] {
            let request = Request::builder().header("cookie", cookie);
            let request = request.body(Body::empty()).unwrap();
            let answer: Response = service.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), status, "{name} {cookie}");
        }
        // The guard is a layer for any service, too.
        let guarded = ServiceBuilder::new()
            .layer(auth.layer_with(sessions()))
            .service(auth.require_account().layer(service_fn(|_: Request| async {
                Ok::<_, std::convert::Infallible>("private".into_response())
            })));
        let request = Request::new(Body::empty());
        assert_eq!(guarded.oneshot(request).await.unwrap().status(), 401);
    }
}

/// Serves a router that is made for its own address.
async fn serve(make: impl FnOnce(&str) -> Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let router = make(&base);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    base
}

fn provider_for(provider: &TestProvider, base: &str) -> Provider {
    provider.add_client(TestClient::new(CLIENT).secret(SECRET).app(base));
    let provider = Provider::discover(provider.issuer(), CLIENT).client_secret(SECRET);
    provider.build().unwrap()
}

#[tokio::test]
async fn it_works_nested_with_the_layer_inside_or_outside() {
    for inside in [true, false] {
        let provider = TestProvider::start().await;
        let base = serve(|base| {
            let base = format!("{base}/app");
            let auth = Auth::builder(provider_for(&provider, &base), base)
                .redirect_to_sign_in(true)
                .after_sign_in("/app/whoami")
                .after_sign_out("/app/bye")
                .build()
                .unwrap();
            let routes = Router::new()
                .route("/whoami", get(whoami))
                .route("/bye", get(|| async { "bye" }))
                .route(
                    "/mail",
                    get(|| async { "mail" }).route_layer(auth.require_account()),
                )
                .merge(auth.routes());
            let layer = auth.layer_with(sessions());
            match inside {
                true => Router::new().nest("/app", routes.layer(layer)),
                false => Router::new().nest("/app", routes).layer(layer),
            }
        })
        .await;
        let mut browser = TestBrowser::new();
        let page = browser
            .goto(format!("{base}/app/mail?box=1"))
            .await
            .unwrap();
        assert!(page.has_id("login-alice"), "{}", page.status());
        browser.submit("login-alice", &[]).await.unwrap();
        let page = browser.follow().await.unwrap();
        assert_eq!(page.url().as_str(), format!("{base}/app/mail?box=1"));
        assert_eq!(page.body(), "mail");
        let page = browser.post_form("/app/signout", &[]).await.unwrap();
        assert!(page.has_id("confirm-logout"));
        let page = browser.submit("confirm-logout", &[]).await.unwrap();
        assert_eq!(page.body(), "bye");
        let page = browser.goto(format!("{base}/app/whoami")).await.unwrap();
        assert_eq!(page.body(), "nobody");
    }
}

#[tokio::test]
async fn it_works_with_state() {
    #[derive(Clone)]
    struct App(&'static str);
    let auth = builder().build().unwrap();
    let router: Router = Router::new()
        .route("/plant/{subject}", post(plant))
        .route(
            "/hello",
            get(
                |State(App(hello)): State<App>, account: Account| async move {
                    format!("{hello} {}", account.subject())
                },
            ),
        )
        .merge(auth.routes::<App>())
        .layer(auth.layer_with(sessions()))
        .with_state(App("hello"));
    let cookie = pair(&send(&router, "POST", "/plant/ann", &[], "").await);
    let answer = send(&router, "GET", "/hello", &[("cookie", &*cookie)], "").await;
    assert_eq!(answer.body, "hello ann");
    let answer = send(&router, "POST", "/signout", &[("cookie", &*cookie)], "").await;
    assert_eq!(answer.status, 303);
}

#[tokio::test]
async fn it_works_with_tower_sessions_0_14() {
    use tower_sessions_014::{MemoryStore, Session, SessionManagerLayer};
    let provider = TestProvider::start().await;
    let evicted: Arc<Mutex<Vec<Cause>>> = Arc::default();
    let hook = evicted.clone();
    let base = serve(|base| {
        let auth = Auth::builder(provider_for(&provider, base), base)
            .on_evict(move |eviction| {
                hook.lock().unwrap().push(eviction.cause());
                std::future::ready(())
            })
            .build()
            .unwrap();
        let flush = |session: Session| async move { session.flush().await.unwrap() };
        Router::new()
            .route("/whoami", get(whoami))
            .route("/flush", get(flush))
            .merge(auth.routes())
            .layer(auth.layer_with(SessionManagerLayer::new(MemoryStore::default())))
    })
    .await;
    let mut browser = TestBrowser::new();
    for _ in 0..2 {
        let link = format!("{base}/signin?return_to=/whoami&prompt=login");
        browser.goto(link).await.unwrap();
        browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(browser.follow().await.unwrap().body(), "alice");
    }
    browser.goto(format!("{base}/flush")).await.unwrap();
    assert_eq!(browser.cookie("127.0.0.1", "id"), None);
    let link = format!("{base}/signin?return_to=/whoami&prompt=login");
    browser.goto(link).await.unwrap();
    browser.submit("login-alice", &[]).await.unwrap();
    browser.follow().await.unwrap();
    browser.post_form("/signout", &[]).await.unwrap();
    assert_eq!(browser.cookie("127.0.0.1", "id"), None);
    let page = browser.goto(format!("{base}/whoami")).await.unwrap();
    assert_eq!(page.body(), "nobody");
    let evicted = evicted.lock().unwrap();
    assert_eq!(
        *evicted,
        [Cause::Replaced, Cause::SessionEnded, Cause::UserSignOut]
    );
}

#[tokio::test]
async fn who_is_not_signed_in_gets_an_answer_for_their_kind_of_client() {
    const NAVIGATION: &[(&str, &str)] = &[
        ("accept", "text/html,*/*"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-site", "none"),
    ];
    const SCRIPT: &[(&str, &str)] = &[("accept", "application/json"), ("sec-fetch-mode", "cors")];
    const HTMX: &[(&str, &str)] = &[("accept", "text/html"), ("hx-request", "true")];
    let guarded = |auth: &Auth| {
        Router::new().route(
            "/guarded",
            get(|| async { "private" })
                .post(|| async { "private" })
                .route_layer(auth.require_account()),
        )
    };
    for redirect in [false, true] {
        let auth = builder().build().unwrap();
        let bench = Bench::with(guarded(&auth), |auth| auth.redirect_to_sign_in(redirect));
        for path in ["/account?a=1", "/tokens?a=1", "/guarded?a=1"] {
            let back = url::form_urlencoded::byte_serialize(path.as_bytes());
            let link = format!(
                "https://app.example.com/signin?return_to={}",
                back.collect::<String>()
            );
            for (name, method, headers) in [
                ("navigation", "GET", NAVIGATION),
                ("script", "GET", SCRIPT),
                ("htmx", "GET", HTMX),
                ("curl", "GET", &[]),
                ("form", "POST", NAVIGATION),
            ] {
                if method == "POST" && !path.starts_with("/guarded") {
                    continue;
                }
                let answer = send(&bench.router, method, path, headers, "").await;
                let case = format!("{name} {path} {redirect}");
                assert_eq!(answer.header("cache-control"), Some("no-store"), "{case}");
                let hx = answer.header("hx-redirect");
                if name == "navigation" && redirect {
                    assert_eq!(answer.status, 303, "{case}");
                    assert_eq!(answer.header("location"), Some(&*link), "{case}");
                } else {
                    assert_eq!(answer.status, 401, "{case}");
                    let page = answer.body.contains("<html");
                    assert_eq!(page, name == "navigation", "{case}");
                    if page {
                        assert!(answer.body.contains(&link), "{case}");
                    } else {
                        assert_eq!(answer.body, "Not signed in.", "{case}");
                    }
                }
                let wanted = (name == "htmx").then_some("https://app.example.com/signin");
                assert_eq!(hx, wanted, "{case}");
            }
        }
        assert_eq!(bench.get("/optional", "").await.body, "false");
        assert_eq!(bench.get("/whoami", "").await.body, "nobody");
        // A page that sign-in would not come back to keeps nobody from signing in.
        let long = format!("/account?{}", "a".repeat(4000));
        let answer = send(&bench.router, "GET", &long, NAVIGATION, "").await;
        let shown = format!("{:?}{}", answer.headers, answer.body);
        assert!(!shown.contains("return_to"), "{redirect}");

        let cookie = bench.planted(&["ann"]).await;
        for (path, body) in [
            ("/account", "ann"),
            ("/tokens", "tokens"),
            ("/optional", "true"),
            ("/guarded", "private"),
        ] {
            assert_eq!(bench.get(path, &cookie).await.body, body);
        }
    }
}

#[tokio::test]
async fn a_401_of_the_apps_own_is_left_alone() {
    let routes = Router::new().route("/own", get(|| async { (StatusCode::UNAUTHORIZED, "mine") }));
    let bench = Bench::with(routes, |auth| auth.redirect_to_sign_in(true));
    let headers = [("accept", "text/html"), ("sec-fetch-mode", "navigate")];
    let answer = send(&bench.router, "GET", "/own", &headers, "").await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (401, "mine"));
}

#[tokio::test]
async fn a_store_that_is_away_is_503_and_not_signed_out() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    for token_store in [true, false] {
        match token_store {
            true => bench.store.faults.set(&["load"], Fail::Unavailable),
            false => bench.sessions.faults.set(&["load"], Fail::Unavailable),
        }
        for path in ["/account", "/tokens", "/optional", "/whoami"] {
            let answer = bench.get(path, &cookie).await;
            assert_eq!(answer.status, 503, "{path}");
            assert_eq!(answer.header("retry-after"), Some("5"), "{path}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
            assert!(answer.set_cookies().is_empty(), "{path}: the session stays");
        }
        // Who needs no account, or has no cookie, is served.
        assert_eq!(bench.get("/public", &cookie).await.body, "public");
        assert_eq!(bench.get("/whoami", "").await.body, "nobody");
        bench.store.faults.clear();
        bench.sessions.faults.clear();
        assert_eq!(bench.get("/whoami", &cookie).await.body, "ann");
    }
    assert!(bench.seen().await.is_empty());
}

struct OwnPages;

impl Pages for OwnPages {
    fn not_signed_in(&self, sign_in_url: &str) -> Response {
        Html(format!("own 401 {sign_in_url}")).into_response()
    }

    fn forbidden(&self) -> Response {
        "own 403".into_response()
    }

    fn sign_in_failed(&self, status: StatusCode, code: &str) -> Response {
        format!("own {} {code}", status.as_u16()).into_response()
    }

    fn signed_out(&self) -> Response {
        (StatusCode::CREATED, "own bye").into_response()
    }
}

#[tokio::test]
async fn the_apps_own_pages_are_shown_with_the_right_status() {
    let bench = Bench::with(Router::new(), |auth| auth.pages(OwnPages));
    let html = ("accept", "text/html");
    let cross = ("sec-fetch-site", "cross-site");
    type Row<'a> = (&'a str, &'a str, (&'a str, &'a str), u16, &'a str);
    let rows: [Row; 4] = [
        (
            "GET",
            "/account",
            html,
            401,
            "own 401 https://app.example.com/signin?",
        ),
        ("POST", "/signout", cross, 403, "own 403"),
        (
            "GET",
            "/signin/callback",
            html,
            400,
            "own 400 unknown_or_expired_sign_in",
        ),
        ("GET", "/signout/callback", html, 200, "own bye"),
    ];
    for (method, path, header, status, body) in rows {
        let answer = send(&bench.router, method, path, &[header], "").await;
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.body.starts_with(body), "{path}: {}", answer.body);
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
    }
}

#[tokio::test]
async fn signed_in_responses_are_not_stored_unless_the_handler_says_otherwise_r13() {
    let own = || async { ([("cache-control", "max-age=60")], "own") };
    let routes = || Router::new().route("/own", get(own));
    for on in [true, false] {
        let bench = Bench::with(routes(), |auth| match on {
            true => auth,
            false => auth.no_store(false),
        });
        let anonymous = bench.get("/public", "").await;
        assert_eq!(anonymous.header("cache-control"), None);
        let answer = send(&bench.router, "POST", "/plant/ann", &[], "").await;
        let cookie = pair(&answer);
        let expected = on.then_some("no-store");
        assert_eq!(answer.header("cache-control"), expected, "it sets a cookie");
        for path in ["/public", "/whoami", "/nowhere"] {
            let answer = bench.get(path, &cookie).await;
            assert_eq!(answer.header("cache-control"), expected, "{path}");
        }
        let answer = bench.get("/own", &cookie).await;
        assert_eq!(answer.header("cache-control"), Some("max-age=60"));
    }
}

#[tokio::test]
async fn a_session_that_the_app_ends_takes_its_tokens_along() {
    let routes = || {
        Router::new()
            .route(
                "/flush",
                get(|session: Session| async move { session.flush().await.unwrap() }),
            )
            .route(
                "/clear",
                get(|session: Session| async move { session.clear().await }),
            )
            .route(
                "/remove",
                get(|session: Session| async move {
                    let _: Option<serde_json::Value> =
                        session.remove("axum-signout").await.unwrap();
                }),
            )
            .route(
                "/flush-and-fail",
                get(|session: Session| async move {
                    session.flush().await.unwrap();
                    StatusCode::INTERNAL_SERVER_ERROR
                }),
            )
            .route(
                "/overwrite",
                get(|session: Session| async move {
                    session.insert("axum-signout", "garbage").await.unwrap();
                }),
            )
            .route(
                "/cycle",
                get(|session: Session| async move { session.cycle_id().await.unwrap() }),
            )
    };
    for path in [
        "/flush",
        "/clear",
        "/remove",
        "/flush-and-fail",
        "/overwrite",
    ] {
        let bench = Bench::with(routes(), |auth| auth);
        let cookie = bench.planted(&["ann", "bob"]).await;
        let answer = bench.get(path, &cookie).await;
        assert_eq!(
            bench.sign_ins().await,
            0,
            "{path}: gone when the answer is there"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(bench.get("/whoami", &cookie).await.body, "nobody", "{path}");
        let mut seen = bench.seen().await;
        seen.sort_by(|one, two| one.1.cmp(&two.1));
        let ended = |subject: &str| (Cause::SessionEnded, subject.to_owned());
        assert_eq!(seen, [ended("ann"), ended("bob")], "{path}");
    }
    // A new id is no end.
    let bench = Bench::with(routes(), |auth| auth);
    let cookie = bench.planted(&["ann"]).await;
    let answer = bench.get("/cycle", &cookie).await;
    assert_eq!(bench.get("/whoami", &pair(&answer)).await.body, "ann");
    assert!(bench.seen().await.is_empty());
}

#[tokio::test]
async fn a_flush_counts_although_the_client_goes_away_or_the_handler_panics() {
    let gate = Gate::new();
    let held = gate.clone();
    let routes = Router::new().route(
        "/flush-and-wait",
        get(move |session: Session| async move {
            session.flush().await.unwrap();
            held.pass().await;
        }),
    );
    let bench = Bench::with(routes, |auth| auth);
    let cookie = bench.planted(&["ann"]).await;
    let request = |path: &str| {
        let request = Request::builder().uri(path).header("cookie", &cookie);
        request.body(Body::empty()).unwrap()
    };
    let running = tokio::spawn(bench.router.clone().oneshot(request("/flush-and-wait")));
    gate.arrived(1).await;
    assert_eq!(bench.sign_ins().await, 1);
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let ended = (Cause::SessionEnded, "ann".to_owned());
    assert_eq!(bench.seen().await, [ended]);
    assert_eq!(bench.sign_ins().await, 0);

    let routes = Router::new().route(
        "/flush-and-panic",
        get(|session: Session| async move {
            session.flush().await.unwrap();
            explode();
        }),
    );
    let bench = Bench::with(routes, |auth| auth);
    let cookie = bench.planted(&["ann"]).await;
    let request = Request::builder().uri("/flush-and-panic");
    let request = request
        .header("cookie", &cookie)
        .body(Body::empty())
        .unwrap();
    let running = tokio::spawn(bench.router.clone().oneshot(request));
    assert!(running.await.unwrap_err().is_panic());
    assert_eq!(bench.seen().await.len(), 1);
    assert_eq!(bench.sign_ins().await, 0);
}

fn explode() {
    panic!("a handler of a test");
}

#[tokio::test]
async fn data_that_this_version_did_not_write_is_signed_out() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    let record = bench.sessions.record(&cookie[3..]).await.unwrap();
    let good = record.data["axum-signout"].as_str().unwrap();
    let held = held(good).remove(0);
    let (account, id) = (held.address.account, held.address.id);
    let key = URL_SAFE_NO_PAD.encode(held.key);
    let object = json!({ "a": account, "i": id, "k": key });
    for (name, value) in [
        ("null", json!(null)),
        ("text", json!("alice")),
        ("a subject", json!({ "sub": "ann", "access_token": "x" })),
        ("an object", json!({ "v": 1, "s": [object] })),
        ("fields", json!(format!("1.{account}.{id}.{key}"))),
        ("another version", json!(format!("2{}", &good[1..]))),
        ("newer", json!(format!("{good}.x"))),
        ("list", json!([good])),
    ] {
        let mut changed = record.clone();
        changed.data.insert("axum-signout".into(), value);
        bench.sessions.inner.save(&changed).await.unwrap();
        let answer = bench.get("/whoami", &cookie).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (200, "nobody"),
            "{name}"
        );
        assert_eq!(bench.get("/account", &cookie).await.status, 401, "{name}");
    }
    // And can sign in again.
    let answer = send(
        &bench.router,
        "POST",
        "/plant/bob",
        &[("cookie", &*cookie)],
        "",
    )
    .await;
    assert_eq!(bench.get("/whoami", &pair(&answer)).await.body, "bob");
}

#[tokio::test]
async fn a_record_that_cannot_be_decoded_is_signed_out_and_ended() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    bench.sessions.faults.set(&["load"], Fail::Garbage);
    let answer = bench.get("/whoami", &cookie).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "nobody"));
    assert!(removes_cookie(&answer), "else it would be so for good");
    bench.sessions.faults.clear();
    assert_eq!(bench.get("/whoami", &cookie).await.body, "nobody");
}

/// After a rollback, say: what its user had in the session must not become the next one's.
#[tokio::test]
async fn a_session_of_another_version_is_ended_with_all_that_is_in_it() {
    let routes = Router::new().route(
        "/from-the-future",
        get(|session: Session| async move {
            session.insert("axum-signout", "2.x.y.z").await.unwrap();
            session.insert("note", "ann's").await.unwrap();
        }),
    );
    let note = |session: Session| async move {
        let note: Option<String> = session.get("note").await.unwrap();
        note.unwrap_or_default()
    };
    let routes = routes.route("/note", get(note));
    for next in ["/note", "/plant/bob"] {
        let bench = Bench::with(routes.clone(), |auth| auth);
        let cookie = pair(&bench.get("/from-the-future", "").await);
        let method = if next == "/note" { "GET" } else { "POST" };
        let answer = send(&bench.router, method, next, &[("cookie", &*cookie)], "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        if next == "/note" {
            assert_eq!(answer.body, "");
            assert!(removes_cookie(&answer));
        } else {
            let bobs = pair(&answer);
            assert_eq!(bench.get("/whoami", &bobs).await.body, "bob");
            assert_eq!(bench.get("/note", &bobs).await.body, "");
        }
        assert_eq!(bench.get("/note", &cookie).await.body, "");
    }
}

#[tokio::test]
async fn malformed_cookies_are_nobodys() {
    let bench = Bench::new();
    bench.planted(&["ann"]).await;
    for cookie in [
        "id=",
        "id=x",
        "id=AAAAAAAAAAAAAAAAAAAAAA",
        "id=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "id=%00%ff",
        "id=\"\"; id=AAAAAAAAAAAAAAAAAAAAAA",
        ";;;=;",
    ] {
        let answer = bench.get("/whoami", cookie).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (200, "nobody"),
            "{cookie}"
        );
    }
}

#[tokio::test]
async fn a_sign_in_that_ended_elsewhere_takes_the_sessions_data_along_before_the_handler_runs() {
    let clock = Arc::new(ManualClock::new());
    for expired in [true, false] {
        let store = FaultyStore::with_clock(clock.clone());
        let for_auth = clock.clone();
        let bench = Bench::over(store, Router::new(), |auth| auth.clock(for_auth));
        let cookie = bench.planted(&["ann"]).await;
        assert_eq!(bench.get("/cart/book", &cookie).await.body, "book");
        assert_eq!(bench.get("/cart/show", &cookie).await.body, "book");
        match expired {
            true => clock.advance(Duration::from_secs(2 * 60 * 60 + 1)),
            false => {
                let address = bench.addresses(&cookie).await[0];
                bench.end_elsewhere(address).await;
            }
        }
        let answer = bench.get("/cart/show", &cookie).await;
        assert_eq!(answer.body, "", "the data is gone, expired: {expired}");
        assert!(removes_cookie(&answer), "{:?}", answer.set_cookies());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(bench.sessions.record(&cookie[3..]).await.is_none());
        assert_eq!(bench.get("/whoami", &cookie).await.body, "nobody");
        if expired {
            assert_eq!(bench.auth.evict_due().await.unwrap(), 1);
            assert_eq!(bench.seen().await, [(Cause::Idle, "ann".to_owned())]);
        }
    }
}

#[tokio::test]
async fn one_of_two_accounts_that_ended_elsewhere_leaves_the_other_with_a_new_key() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann", "bob"]).await;
    bench.get("/cart/bobs", &cookie).await;
    let before = bench.sessions.record(&cookie[3..]).await.unwrap();
    let addresses = bench.addresses(&cookie).await;
    bench.end_elsewhere(addresses[1]).await;
    let answer = bench.get("/cart/show", &cookie).await;
    assert_eq!(
        answer.body, "",
        "what bob left is gone before the handler runs"
    );
    let new = pair(&answer);
    assert_ne!(new, cookie);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(bench.get("/whoami", &new).await.body, "ann");
    assert_eq!(bench.addresses(&new).await, [addresses[0]]);
    // A racing save of the old record holds dead keys only, and ends nothing.
    bench.sessions.inner.save(&before).await.unwrap();
    assert_eq!(bench.get("/whoami", &cookie).await.body, "nobody");
    assert_eq!(bench.get("/whoami", &new).await.body, "ann");
    assert_eq!(bench.sign_ins().await, 1);
    assert!(
        bench.seen().await.is_empty(),
        "the other node told its own hooks"
    );
}

/// It would go on under a key that no session holds.
#[tokio::test]
async fn an_account_that_cannot_get_a_new_key_ends_as_well() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann", "bob"]).await;
    let addresses = bench.addresses(&cookie).await;
    bench.end_elsewhere(addresses[1]).await;
    bench.store.faults.set(&["rekey"], Fail::Unavailable);
    assert_eq!(bench.get("/whoami", &cookie).await.body, "nobody");
    assert_eq!(bench.sign_ins().await, 0);
    let seen = bench.seen().await;
    assert_eq!(seen, [(Cause::SessionEnded, "ann".to_owned())]);
}

#[tokio::test]
async fn requests_without_a_session_ask_no_store() {
    let bench = Bench::new();
    bench.store.faults.set(&["load"], Fail::Unavailable);
    bench.sessions.faults.set(&["load"], Fail::Unavailable);
    assert_eq!(bench.get("/whoami", "").await.body, "nobody");
    assert_eq!(bench.get("/whoami", "other=1").await.body, "nobody");
    // A session without a sign-in asks the session store only.
    bench.sessions.faults.clear();
    let cookie = pair(&bench.get("/cart/book", "").await);
    assert_eq!(bench.get("/whoami", &cookie).await.body, "nobody");
}

#[tokio::test]
async fn guard_and_errors_behave_for_a_real_sign_in() {
    let provider = TestProvider::start().await;
    let app = Setup::new().start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let page = app.get(&mut browser, "/guarded").await;
    assert_eq!(page.body(), "guarded");
    let page = app.get(&mut browser, "/fail").await;
    assert_eq!(page.status(), 500);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
}

/// A request with an old session id may come back after the response that brought the browser a new one under the same name:
/// the removal of the cookie must not follow it. What the app itself removes goes all the same.
#[tokio::test]
async fn a_cookie_of_no_session_is_left_alone_and_the_apps_own_are_not() {
    let routes = Router::new().route(
        "/forget",
        get(async || [("set-cookie", "remember=; Max-Age=0; Path=/")]),
    );
    let bench = Bench::with(routes, |auth| auth);
    let cookie = format!("remember=me; id={}", "A".repeat(22));
    let request = Request::builder().uri("/forget").header("cookie", cookie);
    let request = request.body(Body::empty()).unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    let cookies = response.headers().get_all("set-cookie").iter();
    let names: Vec<_> = cookies
        .map(|cookie| cookie.to_str().unwrap().split('=').next().unwrap())
        .collect();
    assert_eq!(names, ["remember"]);
}
