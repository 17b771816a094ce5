//! The certified OpenID provider (`oidc-provider` from npm), one process for each test that asks for one.
//!
//! ```ignore
//! let provider = Certified::start(Options::new().client(
//!     Client::new("app").secret("s3cret").redirect_uri("http://127.0.0.1:3000/signin/callback"),
//! )).await;
//! ```
//!
//! Any login with any password is let in; the login becomes the subject, the name is the login with a capital.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::process::TiedProcess;

/// A client's registration, in the words of Dynamic Client Registration.
#[derive(Clone, Debug)]
pub struct Client(Map<String, Value>);

impl Client {
    /// A confidential client that authenticates by `client_secret_basic`, once it has a secret.
    pub fn new(id: &str) -> Self {
        Self(Map::new())
            .set("client_id", id)
            .set(
                "grant_types",
                json!(["authorization_code", "refresh_token"]),
            )
            .set("response_types", json!(["code"]))
            .set("redirect_uris", json!([]))
    }

    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    pub fn secret(self, secret: &str) -> Self {
        self.set("client_secret", secret)
    }

    /// `client_secret_basic`, `client_secret_post` or `none`. This provider takes a secret both ways, whichever of the two
    /// is registered: see how it came from [`Event::authorization`].
    pub fn auth_method(self, method: &str) -> Self {
        self.set("token_endpoint_auth_method", method)
    }

    pub fn public(self) -> Self {
        self.auth_method("none")
    }

    pub fn redirect_uri(self, uri: &str) -> Self {
        self.push("redirect_uris", uri)
    }

    pub fn post_logout_redirect_uri(self, uri: &str) -> Self {
        self.push("post_logout_redirect_uris", uri)
    }

    /// Its logout tokens carry the `sid` too when `with_sid`, else the `sub` alone.
    pub fn backchannel_logout_uri(self, uri: &str, with_sid: bool) -> Self {
        self.set("backchannel_logout_uri", uri)
            .set("backchannel_logout_session_required", with_sid)
    }

    /// `RS256` (the default), `PS256`, `ES256`, `EdDSA` or `HS256`.
    pub fn id_token_alg(self, alg: &str) -> Self {
        self.set("id_token_signed_response_alg", alg)
    }

    fn push(mut self, name: &str, uri: &str) -> Self {
        match self.0.entry(name).or_insert_with(|| json!([])) {
            Value::Array(uris) => uris.push(uri.into()),
            other => *other = json!([uri]),
        }
        self
    }
}

/// How the provider behaves. Every setting but the host can be changed later by
/// [`Certified::configure`].
#[derive(Clone, Debug, Default)]
pub struct Options(Map<String, Value>);

impl Options {
    pub fn new() -> Self {
        Self::default()
    }

    /// `127.0.0.1` unless set; `localhost` is another site for a browser.
    pub fn host(self, host: &str) -> Self {
        self.set("host", host)
    }

    pub fn client(mut self, client: Client) -> Self {
        match self.0.entry("clients").or_insert_with(|| json!([])) {
            Value::Array(clients) => clients.push(Value::Object(client.0)),
            other => *other = json!([client.0]),
        }
        self
    }

    /// Seconds that a model lives: `AccessToken`, `RefreshToken`, `IdToken`, `Session`, …
    pub fn lifetime(mut self, model: &str, seconds: u32) -> Self {
        match self.0.entry("ttl").or_insert_with(|| json!({})) {
            Value::Object(all) => _ = all.insert(model.to_owned(), seconds.into()),
            other => *other = json!({ model: seconds }),
        }
        self
    }

    /// On unless set.
    pub fn rotate_refresh_tokens(self, rotate: bool) -> Self {
        self.set("rotateRefreshToken", rotate)
    }

    /// Whether tokens die with the session at the provider. Unless set: those do that were granted without
    /// `offline_access`.
    pub fn tokens_expire_with_session(self, expire: bool) -> Self {
        self.set("expiresWithSession", expire)
    }

    /// On unless set. Off, only clients that registered for logout tokens with a `sid` get one in their ID tokens.
    pub fn sid_in_id_tokens(self, sid: bool) -> Self {
        self.set("sidInIdToken", sid)
    }

    /// Whether a refresh token takes `offline_access`. It does not unless set.
    pub fn refresh_tokens_need_offline_access(self, need: bool) -> Self {
        self.set(
            "issueRefreshToken",
            if need { "offline_access" } else { "always" },
        )
    }

    /// An API of its own, by resource indicator. `format` is `opaque` or `jwt`.
    pub fn resource(mut self, indicator: &str, scope: &str, format: &str) -> Self {
        let resource = json!({ "scope": scope, "accessTokenFormat": format });
        match self.0.entry("resources").or_insert_with(|| json!({})) {
            Value::Object(all) => _ = all.insert(indicator.to_owned(), resource),
            other => *other = json!({ indicator: resource }),
        }
        self
    }

    /// Any other of the settings that head `server.mjs`, `configuration` among them, which `oidc-provider` gets as it is.
    pub fn set(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }
}

/// What happens to the requests to one path from now on.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It waits, before the provider sees it, for [`Certified::release`].
    Hold,
    /// The provider acts on it, and the answer waits.
    HoldResponse,
    /// The connection is closed before the provider sees it.
    Drop,
    /// The provider acts on it, and the connection is closed instead of an answer.
    DropResponse,
    /// It is answered with this status.
    Status(u16),
}

/// Something that happened at the provider.
///
/// Names: those of `oidc-provider` (`grant.success`, `grant.error`, `grant.revoked`, `refresh_token.consumed`,
/// `access_token.saved`, `end_session.success`, `backchannel.success`, `backchannel.error`, …), `request`, `response` and
/// `request.held` of the server around it, and `logout_token.answered` with the status of the app's answer and whom the token
/// named.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    pub seq: u64,
    /// Seconds since 1970.
    pub at: f64,
    pub name: String,
    pub client_id: Option<String>,
    pub account_id: Option<String>,
    pub grant_id: Option<String>,
    pub grant_type: Option<String>,
    pub sid: Option<String>,
    pub id: Option<String>,
    pub scope: Option<String>,
    pub route: Option<String>,
    pub method: Option<String>,
    pub path: Option<String>,
    /// The scheme of a request's `Authorization` header, in small letters; empty without one.
    pub authorization: Option<String>,
    pub status: Option<u16>,
    pub error: Option<String>,
    pub error_description: Option<String>,
}

/// A browser's session at the provider.
#[derive(Clone, Debug, Deserialize)]
pub struct ProviderSession {
    pub account_id: String,
    pub clients: std::collections::HashMap<String, ProviderSessionClient>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ProviderSessionClient {
    pub sid: Option<String>,
    pub grant_id: Option<String>,
    /// Set when `offline_access` lets the grant live on after a logout.
    pub persists_logout: bool,
}

/// A token that the provider still holds, alive or consumed. JWT access tokens are not among them.
#[derive(Clone, Debug, Deserialize)]
pub struct StoredToken {
    /// `AccessToken` or `RefreshToken`.
    pub kind: String,
    pub value: String,
    pub account_id: Option<String>,
    pub client_id: String,
    pub grant_id: String,
    pub scope: Option<String>,
    pub consumed: bool,
    pub expires_with_session: bool,
}

/// A token that the provider issued at some time. JWT access tokens are not among them.
#[derive(Clone, Debug, Deserialize)]
pub struct LedgerToken {
    /// `AccessToken` or `RefreshToken`.
    pub kind: String,
    pub value: String,
    pub account_id: String,
    pub grant_id: String,
    /// When, in seconds since 1970.
    pub at: f64,
    /// `active`; `consumed`, as a refresh token that was used; or `gone`, revoked or expired.
    pub state: String,
}

/// A value that must never be seen outside the places that the protocol gives it.
#[derive(Clone, Debug, Deserialize)]
pub struct Issued {
    /// `AccessToken`, `RefreshToken`, `IdToken`, `AuthorizationCode`, `LogoutToken`, `State`, `Nonce` or `CodeVerifier`.
    pub kind: String,
    pub value: String,
}

/// What the app answered to a logout token.
#[derive(Clone, Debug, Deserialize)]
pub struct Delivery {
    pub ok: bool,
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// The provider, running. It ends when this is dropped.
#[derive(Debug)]
pub struct Certified {
    process: TiedProcess,
    issuer: String,
    admin: String,
}

#[derive(Deserialize)]
struct Listening {
    issuer: String,
    admin: String,
}

impl Certified {
    /// # Panics
    ///
    /// When Node.js or the packages are missing; the message says what to do.
    pub async fn start(options: Options) -> Self {
        // Starting takes about half a second, which the test's other tasks need not wait for.
        tokio::task::spawn_blocking(move || Self::start_blocking(&options))
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    fn start_blocking(options: &Options) -> Self {
        const NEEDED: &str = "The tests need Node.js 20 or newer and the packages of tests/oidc-provider: run \
            scripts/test, or install Node.js and run `npm ci` in that folder.";
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oidc-provider");
        assert!(
            folder.join("node_modules/oidc-provider").is_dir(),
            "oidc-provider is not installed. {NEEDED}"
        );

        let mut command = Command::new("node");
        command.arg("server.mjs").current_dir(folder);
        let mut process = TiedProcess::spawn(command, NEEDED);
        process.write_line(&Value::Object(options.0.clone()).to_string());
        let Listening { issuer, admin } =
            process.wait_for_line("oidc-provider", |line| serde_json::from_str(line).ok());
        Self {
            process,
            issuer,
            admin,
        }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// An address at the provider, which has `/auth`, `/token`, `/me`, `/jwks`, `/session/end`, `/token/revocation` and
    /// `/token/introspection`.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer)
    }

    /// What happened until now, in order.
    pub async fn events(&self) -> Vec<Event> {
        self.ask("/events").await
    }

    pub async fn events_named(&self, name: &str) -> Vec<Event> {
        self.ask(&format!("/events?name={name}")).await
    }

    /// The number of the latest event, for [`Self::wait_for`].
    pub async fn now(&self) -> u64 {
        self.events().await.last().map_or(0, |event| event.seq)
    }

    /// The first event of that name after the one with number `after`.
    ///
    /// # Panics
    ///
    /// When none comes within 10 seconds.
    pub async fn wait_for(&self, name: &str, after: u64) -> Event {
        let found: Vec<Event> = self
            .ask(&format!("/events?name={name}&after={after}&wait_ms=10000"))
            .await;
        found
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("no {name} at the provider within 10 s"))
    }

    /// How often a path was asked for, whatever came of it.
    pub async fn requests_to(&self, path: &str) -> usize {
        let requests = self.events_named("request").await;
        requests
            .iter()
            .filter(|request| request.path.as_deref() == Some(path))
            .count()
    }

    /// The sessions that somebody is signed in to.
    pub async fn sessions(&self) -> Vec<ProviderSession> {
        self.ask("/sessions").await
    }

    pub async fn tokens(&self) -> Vec<StoredToken> {
        self.ask("/tokens").await
    }

    /// Every token that was ever issued to a user's account.
    pub async fn ledger(&self) -> Vec<LedgerToken> {
        self.ask("/ledger").await
    }

    /// Everything secret that this provider handed out or was sent, since it started.
    pub async fn issued(&self) -> Vec<Issued> {
        self.ask("/issued").await
    }

    /// What the introspection endpoint says (RFC 7662). It does not know JWT access tokens.
    pub async fn introspect(&self, token: &str) -> Value {
        let response = client()
            .post(self.url("/token/introspection"))
            .basic_auth("inspector", Some("inspector-secret"))
            .form(&[("token", token)])
            .send()
            .await
            .expect("the provider answers");
        response
            .json()
            .await
            .expect("introspection answers with JSON")
    }

    pub async fn is_active(&self, token: &str) -> bool {
        self.introspect(token).await["active"] == true
    }

    /// Registers a client, or replaces the one of the same id.
    pub async fn add_client(&self, client: Client) {
        let _: Value = self.tell("/clients", &Value::Object(client.0)).await;
    }

    /// Replaces the settings that are named, lists and maps as a whole; sessions, grants and tokens stay.
    pub async fn configure(&self, options: Options) {
        let _: Value = self.tell("/configure", &Value::Object(options.0)).await;
    }

    /// New signing keys, the old ones published still or withdrawn at once.
    pub async fn rotate_keys(&self, keep_old: bool) {
        let _: Value = self
            .tell("/keys/rotate", &json!({ "keep_old": keep_old }))
            .await;
    }

    /// Ends an account's sessions as expiry does: no client hears of it, and grants stay.
    pub async fn end_sessions(&self, account_id: &str) {
        let _: Value = self
            .tell("/sessions/end", &json!({ "account_id": account_id }))
            .await;
    }

    /// Takes away everything that was granted for an account: its refresh tokens answer `invalid_grant`.
    pub async fn revoke_grants(&self, account_id: &str) {
        let _: Value = self
            .tell("/grants/revoke", &json!({ "account_id": account_id }))
            .await;
    }

    /// Sends a logout token to a client now. Its `sid` goes along if the client registered that it needs one. No session
    /// and no grant of the provider's ends with it.
    pub async fn send_logout_token(
        &self,
        client_id: &str,
        sub: Option<&str>,
        sid: Option<&str>,
    ) -> Delivery {
        self.tell(
            "/backchannel",
            &json!({ "client_id": client_id, "sub": sub, "sid": sid }),
        )
        .await
    }

    /// From now on, and for `times` requests if that is given. The path `*` stands for every path.
    pub async fn inject(&self, path: &str, fault: Fault, times: Option<u32>) {
        let (action, status) = match fault {
            Fault::Hold => ("hold", None),
            Fault::HoldResponse => ("hold_response", None),
            Fault::Drop => ("drop", None),
            Fault::DropResponse => ("drop_response", None),
            Fault::Status(status) => ("status", Some(status)),
        };
        let mut fault = json!({ "path": path, "action": action, "status": status });
        if let Some(times) = times {
            fault["times"] = times.into();
        }
        let _: Value = self.tell("/faults", &fault).await;
    }

    /// Lets what is held go on, and tells how many that were.
    pub async fn release(&self) -> u64 {
        let answer: Value = self.tell("/release", &json!({})).await;
        answer["released"].as_u64().unwrap_or_default()
    }

    /// No faults any more; what is held goes on.
    pub async fn heal(&self) {
        let _: Value = answer(client().delete(format!("{}/faults", self.admin))).await;
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> T {
        answer(client().get(format!("{}{path}", self.admin))).await
    }

    async fn tell<T: DeserializeOwned>(&self, path: &str, body: &Value) -> T {
        answer(client().post(format!("{}{path}", self.admin)).json(body)).await
    }
}

async fn answer<T: DeserializeOwned>(request: reqwest::RequestBuilder) -> T {
    let response = request
        .send()
        .await
        .expect("the provider's admin surface answers");
    let status = response.status();
    let body = response
        .text()
        .await
        .expect("the provider's admin surface answers in full");
    assert!(
        status.is_success(),
        "the provider's admin surface refused: {body}"
    );
    serde_json::from_str(&body)
        .unwrap_or_else(|error| panic!("unexpected answer ({error}): {body}"))
}

/// A fresh one each time: a pooled connection belongs to the runtime of the test that opened it.
fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .expect("no TLS set-up to fail")
}

/// Where tests put what a person may want to look at.
pub fn artifacts() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).to_owned();
    std::fs::create_dir_all(&folder).expect("cargo's folder can be written to");
    folder
}
