//! An app under test: the crate's routes, a few handlers, and a log of what its hooks saw.

use std::sync::{Arc, Mutex};

use axum::extract::{Path, Query};
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_signout::testing::{TestBrowser, TestClient, TestProvider};
use axum_signout::{
    Account, Auth, AuthBuilder, Cause, EndSessionRequest, Error, Provider, ProviderBuilder,
    SignOut, SignOutReport, Tokens,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer, SessionStore};

pub const CLIENT: &str = "app";
pub const SECRET: &str = "app-secret-3f9c";

/// What a hook saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub cause: Cause,
    pub subject: String,
    pub count: usize,
    pub refresh_token: Option<String>,
}

pub struct App {
    pub base: String,
    pub auth: Auth,
    pub evictions: Arc<Mutex<Vec<Seen>>>,
    /// The last report of a sign-out by `/leave`.
    pub report: Arc<Mutex<Option<SignOutReport>>>,
    /// For requests that are not sent over the wire.
    pub router: Router,
    serving: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// How an app differs from the default one.
pub struct Setup<Sessions: SessionStore = MemoryStore> {
    pub client_id: &'static str,
    pub sessions: SessionManagerLayer<Sessions>,
    pub provider: Box<dyn FnOnce(ProviderBuilder) -> ProviderBuilder + Send>,
    pub auth: Box<dyn FnOnce(AuthBuilder) -> AuthBuilder + Send>,
    pub routes: Router,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            client_id: CLIENT,
            sessions: SessionManagerLayer::new(MemoryStore::default()),
            provider: Box::new(|provider| provider),
            auth: Box::new(|auth| auth),
            routes: Router::new(),
        }
    }
}

impl Setup {
    pub fn new() -> Self {
        Self::default()
    }
}

impl<Sessions: SessionStore + Clone> Setup<Sessions> {
    pub fn client_id(mut self, client_id: &'static str) -> Self {
        self.client_id = client_id;
        self
    }

    pub fn auth(mut self, f: impl FnOnce(AuthBuilder) -> AuthBuilder + Send + 'static) -> Self {
        self.auth = Box::new(f);
        self
    }

    pub fn provider(
        mut self,
        f: impl FnOnce(ProviderBuilder) -> ProviderBuilder + Send + 'static,
    ) -> Self {
        self.provider = Box::new(f);
        self
    }

    pub fn sessions<Other: SessionStore>(
        self,
        sessions: SessionManagerLayer<Other>,
    ) -> Setup<Other> {
        Setup {
            client_id: self.client_id,
            sessions,
            provider: self.provider,
            auth: self.auth,
            routes: self.routes,
        }
    }

    pub fn routes(mut self, routes: Router) -> Self {
        self.routes = routes;
        self
    }

    /// Registers the app at the provider and serves it.
    pub async fn start(self, provider: &TestProvider) -> App {
        self.start_with(provider.issuer(), |base| {
            provider.add_client(TestClient::new(CLIENT).secret(SECRET).app(base));
        })
        .await
    }

    pub async fn start_with(self, issuer: &str, register: impl FnOnce(&str)) -> App {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        register(&base);
        let provider = Provider::discover(issuer, self.client_id)
            .client_secret(SECRET)
            .scopes(["openid", "profile", "email", "offline_access"]);
        let provider = (self.provider)(provider).build().unwrap();
        let evictions = Arc::new(Mutex::new(Vec::new()));
        let seen = evictions.clone();
        let builder = Auth::builder(provider, base.clone()).on_evict(move |eviction| {
            let refresh = eviction.tokens().refresh_token();
            seen.lock().unwrap().push(Seen {
                cause: eviction.cause(),
                subject: eviction.account().subject().to_owned(),
                count: eviction.count(),
                refresh_token: refresh.map(|token| token.secret().to_owned()),
            });
            std::future::ready(())
        });
        let auth = (self.auth)(builder).build().unwrap();
        let report = Arc::new(Mutex::new(None));
        let app = Router::new()
            .merge(handlers(&auth, &report))
            .merge(self.routes)
            .merge(auth.routes())
            .layer(auth.layer_with(self.sessions));
        let router = app.clone();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        App {
            base,
            auth,
            evictions,
            report,
            router,
            serving,
        }
    }
}

fn handlers(auth: &Auth, report: &Arc<Mutex<Option<SignOutReport>>>) -> Router {
    let report = report.clone();
    let leave = move |sign_out: SignOut, Json(wanted): Json<Value>| {
        let report = report.clone();
        async move {
            let signed_out = sign_out.run(request(&wanted)).await;
            *report.lock().unwrap() = Some(signed_out.report().clone());
            signed_out
        }
    };
    Router::new()
        .route("/", get(|| async { "public" }))
        .route("/me", get(me))
        .route("/whoami", get(whoami))
        .route("/token", get(token))
        .route(
            "/guarded",
            get(|| async { "guarded" }).route_layer(auth.require_account()),
        )
        .route("/leave", post(leave))
        .route("/flush", post(flush))
        .route("/cart/{item}", post(cart).get(cart))
        .route(
            "/fail",
            get(|| async { axum::http::StatusCode::INTERNAL_SERVER_ERROR }),
        )
}

fn request(wanted: &Value) -> EndSessionRequest {
    let text = |name: &str| wanted[name].as_str();
    let mut request = EndSessionRequest::new();
    if let Some(id) = text("sign_in") {
        request = request.sign_in(axum_signout::SignInId::parse(id).unwrap());
    }
    if let Some(subject) = text("account") {
        let issuer = text("account_issuer").unwrap_or_default();
        request = request.account(&Account::new(issuer, subject));
    }
    if let Some(issuer) = text("issuer") {
        request = request.issuer(issuer);
    }
    if let Some(id) = text("correlation_id") {
        request = request.correlation_id(id);
    }
    if let Some(hint) = text("hint") {
        request = request.id_token_hint(axum_signout::IdToken::new(hint));
    }
    if let Some(locales) = text("ui_locales") {
        request = request.ui_locales(locales);
    }
    if let Some(extra) = wanted["extra"].as_object() {
        for (name, value) in extra {
            request = request.extra_parameter(name, value.as_str().unwrap());
        }
    }
    if let Some(target) = text("return_to") {
        request = request.post_logout_redirect(target);
    }
    if let Some(hint) = text("logout_hint") {
        request = request.logout_hint(hint);
    }
    if let Some(state) = text("state") {
        request = request.state(state);
    }
    if wanted["nowhere"] == true {
        request = request.no_post_logout_redirect();
    }
    if wanted["no_hint"] == true {
        request = request.no_id_token_hint();
    }
    if wanted["local_only"] == true {
        request = request.local_only();
    }
    if wanted["everywhere"] == true {
        request = request.everywhere();
    }
    if wanted["stay"] == true {
        request = request.before_navigation(|_| false);
    }
    if wanted["explode"] == true {
        request = request.before_navigation(|_| panic!("a callback of a test"));
    }
    request
}

async fn me(tokens: Tokens) -> Result<Json<Value>, Error> {
    let accounts: Vec<Value> = tokens
        .accounts()?
        .iter()
        .map(|one| {
            json!({
                "sign_in": one.sign_in.to_string(),
                "issuer": one.account.issuer(),
                "subject": one.account.subject(),
                "sid": one.account.sid(),
                "name": one.account.name(),
            })
        })
        .collect();
    Ok(Json(json!({ "accounts": accounts })))
}

async fn whoami(account: Option<Account>) -> String {
    account.map_or_else(|| "nobody".into(), |account| account.subject().to_owned())
}

#[derive(serde::Deserialize)]
struct Wanted {
    scope: Option<String>,
}

async fn token(tokens: Tokens, Query(wanted): Query<Wanted>) -> Result<String, Error> {
    let scope = wanted.scope.unwrap_or_default();
    Ok(tokens.acquire(scope).await?.secret().to_owned())
}

async fn flush(session: Session) -> &'static str {
    session.flush().await.unwrap();
    "flushed"
}

/// Something of the app's own in the session.
async fn cart(session: Session, Path(item): Path<String>) -> String {
    if item != "show" {
        session.insert("cart", item).await.unwrap();
    }
    session
        .get::<String>("cart")
        .await
        .unwrap()
        .unwrap_or_default()
}

impl App {
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.evictions.lock().unwrap().clone()
    }

    /// Through sign-in at the in-process provider, up to the page that was wanted.
    pub async fn sign_in(&self, browser: &mut TestBrowser, login: &str) {
        self.sign_in_at(browser, login, "/signin?return_to=/whoami&prompt=login")
            .await;
    }

    pub async fn sign_in_at(&self, browser: &mut TestBrowser, login: &str, path: &str) {
        browser.goto(self.url(path)).await.unwrap();
        let mut page = browser
            .submit(&format!("login-{login}"), &[])
            .await
            .unwrap();
        // The callback hands over by a page of its own, twice where the session's cookie had to come along.
        for _ in 0..3 {
            if page.url().path().starts_with("/signin") && page.status() == 200 {
                page = browser.follow().await.unwrap();
            }
        }
        assert_eq!(page.status(), 200, "{}", page.body());
    }

    /// What the app says of this browser, to a script.
    pub async fn get(&self, browser: &mut TestBrowser, path: &str) -> axum_signout::testing::Page {
        browser.goto(self.url(path)).await.unwrap()
    }
}

/// All cookies that the browser has for the app, as a `Cookie` header.
pub fn cookies(browser: &TestBrowser) -> String {
    let names = browser.cookies("127.0.0.1");
    let pair = |name: &String| format!("{name}={}", browser.cookie("127.0.0.1", name).unwrap());
    names.iter().map(pair).collect::<Vec<_>>().join("; ")
}

/// The provider's answer to a sign-in that `browser` began, not delivered: the sign-in page is filled in by somebody who has
/// none of the browser's cookies, so what arrives at the app with that is refused. Returns the refusal as well.
pub async fn undelivered(
    browser: &TestBrowser,
    login: &str,
) -> (url::Url, axum_signout::testing::Page) {
    let mut other = browser.clone();
    other.clear_cookies("127.0.0.1");
    other.clear_history();
    let refusal = other.submit(&format!("login-{login}"), &[]).await.unwrap();
    assert_eq!(refusal.url().path(), "/signin/callback");
    (refusal.url().clone(), refusal)
}

/// A GET that is not sent over the wire, so that it can be dropped midway.
pub fn get_request(path_and_query: &str, cookies: &str) -> axum::extract::Request {
    axum::http::Request::builder()
        .uri(path_and_query)
        .header("cookie", cookies)
        .header("accept", "text/html")
        .body(axum::body::Body::empty())
        .unwrap()
}

/// `path?query` of a URL.
pub fn path_and_query(url: &url::Url) -> String {
    url[url::Position::BeforePath..url::Position::AfterQuery].to_owned()
}

/// Answers that the app gave this browser must not show a secret.
pub fn assert_no_secret(provider: &TestProvider, app: &App, browser: &TestBrowser) {
    let secrets = provider.secrets();
    for page in browser.history() {
        if page.url().as_str().starts_with(&app.base) {
            let leaked = secrets.iter().any(|secret| page.body().contains(secret));
            assert!(!leaked, "a secret in the body of {page:?}");
        }
    }
}

/// What the app answered to a request that was not sent over the wire.
#[derive(Debug)]
pub struct Answer {
    pub status: axum::http::StatusCode,
    pub headers: axum::http::HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn set_cookies(&self) -> Vec<&str> {
        let all = self.headers.get_all("set-cookie").iter();
        all.map(|value| value.to_str().unwrap()).collect()
    }

    /// The URL that it redirects to.
    pub fn location(&self) -> url::Url {
        let base = url::Url::parse("http://app.invalid").unwrap();
        base.join(self.header("location").unwrap()).unwrap()
    }

    /// A parameter of the URL that it redirects to.
    pub fn param(&self, name: &str) -> Option<String> {
        let url = self.location();
        let mut found = url.query_pairs().filter(|(key, _)| key == name);
        let value = found.next().map(|(_, value)| value.into_owned());
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }
}

/// Sends a request without a wire, and so without what a browser adds.
pub async fn send(
    router: &Router,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Answer {
    use tower::ServiceExt as _;
    let mut request = axum::http::Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(axum::body::Body::from(body.to_owned()));
    let response = router.clone().oneshot(request.unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

impl App {
    /// `POST /leave` with a request as [`request`] reads it, by this browser's cookies; and the report.
    pub async fn leave(&self, browser: &TestBrowser, wanted: Value) -> (Answer, SignOutReport) {
        let headers = [
            ("cookie", &*cookies(browser)),
            ("content-type", "application/json"),
            ("accept", "text/html"),
        ];
        let answer = send(
            &self.router,
            "POST",
            "/leave",
            &headers,
            &wanted.to_string(),
        )
        .await;
        let report = self.report.lock().unwrap().take().expect("a report");
        (answer, report)
    }

    /// `POST /signout` by this browser's cookies.
    pub async fn sign_out(&self, browser: &TestBrowser, headers: &[(&str, &str)]) -> Answer {
        let cookie = cookies(browser);
        let mut all = vec![("cookie", &*cookie)];
        all.extend_from_slice(headers);
        send(&self.router, "POST", "/signout", &all, "").await
    }
}
