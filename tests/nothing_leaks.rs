//! Promise 5, A11, R44: everything that can happen to a sign-in, with every crate's trace at its most talkative, and then a
//! search for whatever was secret. The responses of the app are searched too.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::Method;
use axum::routing::{get, post};
use axum::{Json, Router};
use axum_signout::clock::ManualClock;
use axum_signout::store::{
    Downstream, MemoryTokenStore, Removal, RetainedTokens, RevokeRule, TokenStore,
};
use axum_signout::testing::{
    Endpoint, Fault, IdTokenFault, JwtBuilder, Page, TestBrowser, TestClient, TestProvider,
};
use axum_signout::{
    Account, Auth, Cause, ClientAuth, EndSessionRequest, Error, IdToken, LongUrl, OperationId,
    SignIns, SignOut, TokenHash, TokenSet, Tokens,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;
use support::app::{App, CLIENT, SECRET, Setup};
use tower_sessions::Session;
use tracing_subscriber::fmt::format::FmtSpan;

/// Everything that was traced.
#[derive(Clone, Default)]
struct Trace(Arc<Mutex<Vec<u8>>>);

impl io::Write for Trace {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Trace {
    /// Of this crate and of all others, of spans and of what comes by the `log` crate.
    fn start() -> Self {
        let trace = Self::default();
        let writer = trace.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::level_filters::LevelFilter::TRACE)
            .with_span_events(FmtSpan::FULL)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .init();
        trace
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A secret in the forms in which it could be written down.
fn forms(secret: &str) -> BTreeSet<String> {
    let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let every: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let mut forms = BTreeSet::from([secret.to_owned(), percent, every]);
    forms.insert(format!("{:?}", secret.as_bytes()));
    // Inside a longer text, such as the header of Basic authentication, base64 has three ways to write it.
    for before in 0..3 {
        let mut bytes = vec![b'x'; before];
        bytes.extend_from_slice(secret.as_bytes());
        for engine in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = engine.encode(&bytes);
            // What the neighbours have a part in.
            let from = [0, 2, 3][before];
            let to = bytes.len() / 3 * 4;
            forms.insert(text[from..to].to_owned());
        }
    }
    forms
}

/// Every form of every secret, by how it begins: a text is read once, whatever their number.
struct Wanted(HashMap<[u8; START], Vec<(String, &'static str)>>);

const START: usize = 10;

impl Wanted {
    fn new(secrets: &BTreeMap<String, &'static str>) -> Self {
        let mut wanted: HashMap<_, Vec<_>> = HashMap::new();
        for (secret, kind) in secrets {
            for form in forms(secret) {
                let start = form.as_bytes()[..START].try_into().unwrap();
                wanted.entry(start).or_default().push((form, *kind));
            }
        }
        Self(wanted)
    }

    /// What was found, with the line that it is in.
    fn search(&self, place: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (at, start) in text.as_bytes().windows(START).enumerate() {
            let Some(forms) = self.0.get(start) else {
                continue;
            };
            for (form, kind) in forms {
                if text.as_bytes()[at..].starts_with(form.as_bytes()) {
                    let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
                    let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
                    let line: String = text[line..end].chars().take(300).collect();
                    found.push(format!("{kind} in {place}: {line}"));
                }
            }
        }
        found
    }
}

#[derive(Clone, Default)]
struct Seen {
    /// Session keys, and ids of session records as numbers.
    secrets: Arc<Mutex<BTreeSet<String>>>,
    held: Arc<Mutex<Vec<Tokens>>>,
}

/// Notes what the session holds, and shows what a handler could print.
async fn note(State(seen): State<Seen>, session: Session, auth: Auth, tokens: Option<Tokens>) {
    if let Some(held) = session.get::<String>("axum-signout").await.unwrap() {
        let mut secrets = seen.secrets.lock().unwrap();
        let keys = support::held::held(&held).into_iter().map(|one| one.key);
        secrets.extend(keys.map(|key| URL_SAFE_NO_PAD.encode(key)));
        secrets.insert(held[2..].to_owned());
    }
    tracing::info!("{auth:?} {tokens:?}");
    if let Some(tokens) = tokens {
        let (account, describe, all) = (tokens.account(), tokens.describe(), tokens.accounts());
        tracing::info!("{account:?} {describe:?} {all:?} {:?}", tokens.id_token());
        for scopes in ["", "openid", "Mail.Read", "Admin.Write"] {
            show(&tokens.acquire(scopes).await);
        }
        show(&tokens.acquire_for("https://api.example", ()).await);
        seen.held.lock().unwrap().push(tokens);
    }
}

fn show(answer: &Result<impl Debug, Error>) {
    tracing::info!("{answer:?}");
    if let Err(error) = answer {
        let mut next: Option<&dyn std::error::Error> = Some(error);
        while let Some(error) = next {
            tracing::info!("{error} {error:?}");
            next = error.source();
        }
    }
}

/// Lists a user's sign-ins, and ends some.
async fn sign_ins(sign_ins: SignIns, which: Option<Path<String>>) -> String {
    let mut said = format!("{sign_ins:?} {:?}", sign_ins.list().await);
    match which.as_ref().map(|which| which.as_str()) {
        Some("others") => said += &format!("{:?}", sign_ins.end_others().await),
        Some(_) => said += &format!("{:?}", sign_ins.end_all().await),
        None => {}
    }
    tracing::info!("{said}");
    said
}

async fn leave(sign_out: SignOut, Json(hint): Json<Option<String>>) -> axum_signout::SignedOut {
    tracing::info!("{sign_out:?}");
    let mut request = EndSessionRequest::new().state("of-the-app-itself");
    if let Some(hint) = hint {
        request = request.id_token_hint(IdToken::new(hint));
    }
    tracing::info!("{request:?}");
    let signed_out = sign_out.run(request).await;
    tracing::info!("{signed_out:?} {:?}", signed_out.report());
    signed_out
}

/// An app that is fit for everything.
struct Stage {
    provider: TestProvider,
    app: App,
    seen: Seen,
    clock: Arc<ManualClock>,
    store: Arc<MemoryTokenStore>,
    pages: Vec<Page>,
    ahead: i64,
}

impl Stage {
    async fn new(auth: ClientAuth, long: bool) -> Self {
        let provider = TestProvider::start().await;
        let clock = Arc::new(ManualClock::new());
        let store = MemoryTokenStore::builder().clock(clock.clone()).build();
        let store = Arc::new(store.unwrap());
        let seen = Seen::default();
        let routes = Router::new()
            .route("/note", get(note))
            .with_state(seen.clone())
            .route("/sign-ins", get(sign_ins))
            .route("/sign-ins/{which}", get(sign_ins))
            .route("/go", post(leave));
        let (of_auth, of_store) = (clock.clone(), store.clone());
        let method = match auth {
            ClientAuth::SecretPost => axum_signout::testing::ClientAuth::SecretPost,
            _ => axum_signout::testing::ClientAuth::SecretBasic,
        };
        let setup = Setup::new().routes(routes);
        let setup = setup.provider(move |builder| {
            let builder = builder.client_auth(auth);
            tracing::info!("{:?}", builder);
            builder.timeout(Duration::from_secs(2))
        });
        let setup = setup.auth(move |auth| {
            let auth = auth
                .clock(of_auth)
                .store(of_store)
                .cookie_key(COOKIE_KEY)
                .before_navigation(|navigation| async move { tracing::info!("{navigation:?}") })
                .after_callback(|returned| async move { tracing::info!("{returned:?}") })
                .on_evict(|eviction| async move {
                    tracing::info!(
                        "{eviction:?} {:?} {:?}",
                        eviction.tokens(),
                        eviction.account()
                    );
                    Err::<(), _>("a hook that fails")
                })
                .on_evict(|_| async { panic_of_a_hook() })
                .on_sign_out(|report| async move { tracing::info!("{report:?}") })
                .sign_in_label(|request| Some(format!("{:?}", request.headers.get("user-agent"))));
            let auth = if long {
                auth.long_url(10, LongUrl::FormPost)
            } else {
                auth
            };
            tracing::info!("{auth:?}");
            auth
        });
        let issuer = provider.issuer().to_owned();
        let app = setup
            .start_with(&issuer, |base| {
                let client = TestClient::new(CLIENT).secret(SECRET).app(base);
                let client = client.backchannel_logout_uri(format!("{base}/signout/backchannel"));
                provider.add_client(client.auth_method(method));
            })
            .await;
        tracing::info!("{:?}", app.auth);
        tracing::info!("{:?} {:?}", app.auth.providers(), app.auth.ticket().await);
        Self {
            provider,
            app,
            seen,
            clock,
            store,
            pages: Vec::new(),
            ahead: 0,
        }
    }

    fn pass(&mut self, seconds: i64) {
        self.clock.advance(Duration::from_secs(seconds as u64));
        self.ahead += seconds;
        self.provider.set_clock_offset(self.ahead);
    }

    async fn signed_in(&mut self) -> TestBrowser {
        let mut browser = TestBrowser::new();
        self.app.sign_in(&mut browser, "alice").await;
        self.app.get(&mut browser, "/note").await;
        browser
    }

    fn done(&mut self, browser: TestBrowser) {
        self.pages.extend(browser.history().iter().cloned());
    }

    async fn sign_ins_that_fail(&mut self) {
        let faults = [
            (Endpoint::Code, Fault::Status(500)),
            (Endpoint::Code, Fault::StatusRetryAfter(503, 3)),
            (Endpoint::Code, Fault::Drop),
            (Endpoint::Code, Fault::LoseAnswer),
            (Endpoint::Code, Fault::DropMidway),
            (Endpoint::Code, Fault::Garbage),
            (Endpoint::Code, Fault::Huge),
            (Endpoint::Code, Fault::invalid_grant()),
            (Endpoint::Code, Fault::OAuthError("invalid_client".into())),
            (Endpoint::Code, Fault::Without("access_token".into())),
            (Endpoint::Code, Fault::Set("token_type".into(), 7.into())),
            (
                Endpoint::Code,
                Fault::Set("expires_in".into(), "soon".into()),
            ),
            (Endpoint::Code, Fault::IdToken(IdTokenFault::Missing)),
            (Endpoint::Code, Fault::IdToken(IdTokenFault::WrongNonce)),
            (Endpoint::Code, Fault::IdToken(IdTokenFault::WrongIssuer)),
            (Endpoint::Code, Fault::IdToken(IdTokenFault::Expired)),
            (Endpoint::Code, Fault::IdToken(IdTokenFault::Unsigned)),
            (Endpoint::Code, Fault::IdToken(IdTokenFault::UnpublishedKey)),
            (Endpoint::Code, Fault::IdToken(IdTokenFault::BadSignature)),
            (
                Endpoint::Authorize,
                Fault::Set("iss".into(), "https://elsewhere.example".into()),
            ),
            (
                Endpoint::Authorize,
                Fault::Set("error".into(), "access_denied".into()),
            ),
            (
                Endpoint::Authorize,
                Fault::Set("state".into(), "forged-state-of-no-worth".into()),
            ),
            (
                Endpoint::Authorize,
                Fault::Set("code".into(), "forged-code-of-no-worth".into()),
            ),
            (Endpoint::Authorize, Fault::Without("code".into())),
        ];
        for (endpoint, fault) in faults {
            self.provider.faults().once(endpoint, fault);
            let mut browser = TestBrowser::new();
            let start = self.app.url("/signin?return_to=/note&login_hint=alice");
            browser.goto(start).await.unwrap();
            let page = browser.submit("login-alice", &[]).await.unwrap();
            // What was used once does not work again, and says nothing either.
            browser.goto(page.url().as_str()).await.unwrap();
            // A cookie that was tampered with.
            let names = browser.cookies("127.0.0.1");
            for name in names {
                let cookie = format!("{name}=tampered; Path=/");
                browser.set_cookie(&self.app.base, &cookie).unwrap();
            }
            browser.goto(page.url().as_str()).await.unwrap();
            self.provider.faults().clear();
            self.done(browser);
        }
    }

    async fn refreshes_that_fail(&mut self) {
        let faults = [
            Fault::Status(500),
            Fault::StatusRetryAfter(429, 9),
            Fault::Drop,
            Fault::LoseAnswer,
            Fault::DropMidway,
            Fault::Garbage,
            Fault::Huge,
            Fault::Without("access_token".into()),
            Fault::Set("refresh_token".into(), 7.into()),
            Fault::invalid_grant(),
            Fault::OAuthError("interaction_required".into()),
            Fault::IdToken(IdTokenFault::OtherSubject("bob".into())),
            Fault::IdToken(IdTokenFault::BadSignature),
        ];
        for fault in faults {
            let mut browser = self.signed_in().await;
            self.pass(3601);
            self.provider.faults().once(Endpoint::Refresh, fault);
            self.app.get(&mut browser, "/note").await;
            self.provider.faults().clear();
            self.pass(31);
            self.app.get(&mut browser, "/note").await;
            self.app.get(&mut browser, "/guarded").await;
            browser
                .post_form(self.app.url("/signout"), &[])
                .await
                .unwrap();
            self.done(browser);
        }
    }

    async fn app_tokens(&mut self) {
        let tokens = self.app.auth.app_tokens();
        let faults = [
            Fault::Status(500),
            Fault::LoseAnswer,
            Fault::DropMidway,
            Fault::Garbage,
            Fault::Huge,
            Fault::Set("scope".into(), "less".into()),
            Fault::Set("refresh_token".into(), 7.into()),
            Fault::OAuthError("invalid_client".into()),
        ];
        for fault in faults {
            let kept = tokens.acquire("kept").await;
            show(&kept);
            if let Ok(kept) = kept {
                // From when on it is replaced.
                self.pass(60);
                show(&tokens.acquire_fresh("kept", &kept).await);
            }
            let faults = self.provider.faults();
            faults.once(Endpoint::ClientCredentials, fault);
            show(&tokens.acquire_for("https://api.example", "a").await);
            show(&tokens.acquire_for("https://api.example", "a").await);
            let evicted = tokens.evict_all().await;
            tracing::info!("{tokens:?} {evicted}");
            self.pass(61);
        }
    }

    async fn sign_outs(&mut self) {
        let revocations = [
            None,
            Some(Fault::Status(500)),
            Some(Fault::StatusRetryAfter(503, 5)),
            Some(Fault::LoseAnswer),
            Some(Fault::OAuthError("invalid_client".into())),
            Some(Fault::OAuthError("unsupported_token_type".into())),
        ];
        let json = [("content-type", "application/json")];
        for fault in revocations {
            if let Some(fault) = fault {
                self.provider.faults().times(2, Endpoint::Revoke, fault);
            }
            let mut browser = self.signed_in().await;
            let page = browser
                .post_form(self.app.url("/signout"), &[])
                .await
                .unwrap();
            if page.url().as_str().starts_with(&self.app.base) {
                browser.follow().await.unwrap();
            }
            let back = browser.submit("confirm", &[]).await;
            if let Ok(back) = back {
                browser.goto(back.url().as_str()).await.unwrap();
            }
            browser
                .goto(
                    self.app
                        .url("/signout/callback?state=forged-state-of-no-worth"),
                )
                .await
                .unwrap();
            self.done(browser);
        }
        // By a script, by a handler, with a hint of the app's own, cross-site, and by hand.
        let mut browser = self.signed_in().await;
        browser
            .cross_site_post(self.app.url("/signout"), &[])
            .await
            .unwrap();
        self.app.get(&mut browser, "/").await;
        let answer = browser
            .fetch(Method::POST, self.app.url("/signout"))
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        self.done(browser);
        for body in ["null", "\"a-hint-of-the-app.that-is.an-id-token\""] {
            let mut browser = self.signed_in().await;
            self.app.get(&mut browser, "/").await;
            browser
                .fetch_with(Method::POST, self.app.url("/go"), &json, Some(body))
                .await
                .unwrap();
            self.done(browser);
        }
        let mut browser = self.signed_in().await;
        browser
            .post_form(self.app.url("/flush"), &[])
            .await
            .unwrap();
        self.done(browser);
        // While the provider is down.
        let mut browser = self.signed_in().await;
        self.app.get(&mut browser, "/").await;
        self.provider.pause().await;
        browser
            .fetch(Method::POST, self.app.url("/signout"))
            .await
            .unwrap();
        // Its metadata is known, so the way there leads to nobody.
        assert!(browser.goto(self.app.url("/signin")).await.is_err());
        self.provider.resume().await;
        self.done(browser);
    }

    /// By the provider, and by the user from another browser.
    async fn logouts_from_elsewhere(&mut self) {
        let bad: [fn(JwtBuilder) -> JwtBuilder; 8] = [
            JwtBuilder::unsigned,
            JwtBuilder::bad_signature,
            JwtBuilder::unpublished_key,
            JwtBuilder::hs256,
            |token| token.claim("nonce", Value::Null),
            |token| token.claim("iss", "https://elsewhere.example"),
            |token| token.claim("sub", "somebody-else"),
            |token| token.without("events"),
        ];
        let mut browser = self.signed_in().await;
        let sid = self.sid();
        let token = |stage: &Self| {
            stage
                .provider
                .logout_token(CLIENT)
                .claim("sid", sid.clone())
        };
        for bad in bad {
            let token = bad(token(self)).sign();
            let call = self.provider.post_logout_token(CLIENT, &token).await;
            assert_eq!(call.status.map(|s| s.as_u16()), Some(400));
            self.keep(&token);
        }
        let token = token(self).sign();
        self.keep(&token);
        for expected in [200, 400] {
            let call = self.provider.post_logout_token(CLIENT, &token).await;
            assert_eq!(call.status.map(|s| s.as_u16()), Some(expected));
        }
        self.app.get(&mut browser, "/note").await;
        self.done(browser);

        for path in [
            "/signout/frontchannel?sid=",
            "/signout/frontchannel?iss=x&sid=",
        ] {
            let mut browser = self.signed_in().await;
            let sid = self.sid();
            let issuer = self.provider.issuer().to_owned();
            let path = format!("{path}{sid}").replace("iss=x", &format!("iss={issuer}"));
            self.app.get(&mut browser, &path).await;
            self.app.get(&mut browser, "/note").await;
            self.done(browser);
        }

        let mut here = self.signed_in().await;
        let there = self.signed_in().await;
        for method in [Method::GET, Method::POST] {
            let status = self.app.url("/signout/status");
            here.fetch(method, status).await.unwrap();
        }
        for path in ["/sign-ins", "/sign-ins/others", "/sign-ins/all"] {
            self.app.get(&mut here, path).await;
        }
        self.app.get(&mut here, "/signout/resume").await;
        self.done(here);
        self.done(there);

        let mut interrupted = self.signed_in().await;
        interrupted
            .post_form(self.app.url("/signout"), &[])
            .await
            .unwrap();
        self.app.get(&mut interrupted, "/signout/resume").await;
        interrupted
            .fetch(Method::POST, self.app.url("/signout/resume"))
            .await
            .unwrap();
        self.done(interrupted);
    }

    /// Of the browser that was signed in last.
    fn sid(&self) -> String {
        let held = self.seen.held.lock().unwrap();
        let account = held.last().unwrap().account();
        account.sid().unwrap().to_owned()
    }

    /// What this test made by hand.
    fn keep(&self, token: &str) {
        self.seen.secrets.lock().unwrap().insert(token.to_owned());
    }

    /// What an app, or a store of somebody's own, could print.
    async fn values(&mut self) {
        let browser = self.signed_in().await;
        let tokens = self.seen.held.lock().unwrap().pop().unwrap();
        let access = tokens.acquire(()).await.unwrap();
        let id_token = tokens.id_token().unwrap();
        let set = TokenSet::new()
            .with_access_token(access.clone())
            .with_id_token(id_token)
            .with_refresh_token("a-refresh-token-of-the-app");
        self.seen
            .secrets
            .lock()
            .unwrap()
            .insert("a-refresh-token-of-the-app".into());
        let retained = RetainedTokens {
            issuer: "https://issuer.example".into(),
            client_id: "app".into(),
            tokens: set.clone(),
        };
        tracing::info!(
            "{access:?} {set:?} {retained:?} {tokens:?} {:?}",
            self.store
        );
        let downstream = Downstream {
            name: axum_signout::DownstreamName::of(&[b"x"]),
            subject: TokenHash::from_bytes([0; 32]),
            token: access,
        };
        tracing::info!("{downstream:?}");
        let removal = Removal {
            operation: OperationId::random(),
            cause: Cause::Operator,
            revoke: RevokeRule::All,
            mark_for: Duration::from_secs(60),
            logout_iat: None,
        };
        let due = self.store.due(&removal).await;
        tracing::info!("{due:?}");
        let account = Account::new("https://elsewhere.example", "x");
        tracing::info!("{account:?}");
        self.done(browser);
    }
}

const COOKIE_KEY: &[u8] = b"a-cookie-key-that-is-secret-and-long-enough-for-it";

fn panic_of_a_hook() {
    // Without the message that a panic leaves in the output.
    std::panic::resume_unwind(Box::new("a hook that panics"));
}

/// Parameters that the protocol puts into these responses.
fn prescribed(page: &Page, provider: &str) -> String {
    let strip = |url: &str| -> String {
        let Ok(url) = url::Url::parse(url) else {
            return url.to_owned();
        };
        let may: &[&str] = match url.path() {
            // OpenID Connect Core 3.1.2.1.
            "/authorize" => &["state", "nonce"],
            // RP-Initiated Logout 2.
            "/end_session" => &["state", "id_token_hint"],
            _ => &[],
        };
        if !url.as_str().starts_with(provider) {
            return url.into();
        }
        let mut kept = url.clone();
        let pairs = url
            .query_pairs()
            .filter(|(name, _)| !may.contains(&&**name));
        kept.query_pairs_mut().clear().extend_pairs(pairs);
        kept.into()
    };
    let mut text = String::new();
    for (name, value) in page.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        match name.as_str() {
            "location" => text.push_str(&strip(&value)),
            // The cookies themselves are what they are for; everything else in them is searched.
            "set-cookie" => {
                let (pair, attributes) = value.split_once(';').unwrap_or((&value, ""));
                let (name, _) = pair.split_once('=').unwrap_or((pair, ""));
                text.push_str(name);
                text.push_str(attributes);
            }
            _ => text.push_str(&value),
        }
        text.push('\n');
    }
    let body = match page.json() {
        Ok(Value::Object(answer)) if answer.contains_key("location") => {
            strip(answer["location"].as_str().unwrap())
        }
        _ => without_hidden_fields(page.body(), provider),
    };
    text.push_str(&body);
    text
}

/// A form that goes to the provider's end-session endpoint carries there what the URL would have.
fn without_hidden_fields(body: &str, provider: &str) -> String {
    let mut body = body.to_owned();
    if !body.contains(&format!("action=\"{provider}/end_session\"")) {
        return body;
    }
    for name in ["state", "id_token_hint"] {
        let field = format!("name=\"{name}\" value=\"");
        if let Some(at) = body.find(&field) {
            let from = at + field.len();
            let to = from + body[from..].find('"').unwrap();
            body.replace_range(from..to, "");
        }
    }
    body
}

/// The app's cookies as browsers had them.
fn cookies(pages: &[Page]) -> BTreeMap<String, &'static str> {
    let mut found = BTreeMap::new();
    for page in pages {
        for cookie in page.set_cookies() {
            let (pair, _) = cookie.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if value.len() < 16 {
                continue;
            }
            if name == "id" {
                found.insert(value.to_owned(), "a session cookie");
                let id = tower_sessions::session::Id::from_str(value).unwrap();
                found.insert(id.0.to_string(), "a session's id");
            } else {
                found.insert(value.to_owned(), "a sealed cookie");
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_a_trace_or_a_response_a11() {
    let trace = Trace::start();
    let mut leaks = Vec::new();
    let mut all = BTreeMap::new();
    for (auth, long) in [
        (ClientAuth::SecretBasic, false),
        (ClientAuth::SecretPost, true),
    ] {
        let mut stage = Stage::new(auth, long).await;
        stage.sign_ins_that_fail().await;
        stage.refreshes_that_fail().await;
        stage.app_tokens().await;
        stage.sign_outs().await;
        stage.logouts_from_elsewhere().await;
        stage.values().await;
        stage.pass(3 * 3600);
        stage.app.auth.evict_due().await.unwrap();
        stage.pass(3600);
        let report = stage.app.auth.shutdown().await;
        tracing::info!("{report:?}");

        let mut secrets: BTreeMap<String, &'static str> = BTreeMap::new();
        for secret in stage.provider.secrets() {
            secrets.insert(
                secret,
                "a token, code, state, nonce, verifier or client secret",
            );
        }
        for key in stage.seen.secrets.lock().unwrap().iter() {
            secrets.insert(key.clone(), "a session key");
        }
        secrets.insert(
            String::from_utf8(COOKIE_KEY.to_vec()).unwrap(),
            "the cookie key",
        );
        secrets.insert("a-hint-of-the-app.that-is.an-id-token".into(), "a hint");
        // What a test made up is short, and no secret.
        secrets.retain(|secret, _| secret.len() >= 12 && !secret.ends_with("of-no-worth"));
        assert!(secrets.len() > 200, "{} secrets", secrets.len());
        let (base, provider) = (stage.app.base.clone(), stage.provider.issuer().to_owned());
        let of_app = |page: &&Page| page.url().as_str().starts_with(&base);
        let pages: Vec<Page> = stage.pages.iter().filter(of_app).cloned().collect();
        let cookies = cookies(&pages);
        assert!(
            pages.len() > 100 && cookies.len() > 50,
            "{} {}",
            pages.len(),
            cookies.len()
        );
        let of_both: BTreeMap<_, _> = secrets.into_iter().chain(cookies).collect();
        let wanted = Wanted::new(&of_both);
        for page in &pages {
            let place = format!("the answer to {} {}", page.method(), page.url().path());
            leaks.extend(wanted.search(&place, &prescribed(page, &provider)));
        }
        all.extend(of_both);
    }
    let text = trace.text();
    // The search sees what is there.
    assert!(text.contains("a hook that fails") && text.contains("axum_signout::refresh"));
    assert!(text.contains("app token obtained") && text.contains("no app token"));
    // So do the others talk.
    for target in ["tower_sessions", "hyper_util", "reqwest::connect"] {
        assert!(text.contains(target), "{target}");
    }
    leaks.extend(Wanted::new(&all).search("the trace", &text));
    leaks.sort();
    leaks.dedup();
    assert!(
        leaks.is_empty(),
        "{} leaks\n{}",
        leaks.len(),
        leaks[..leaks.len().min(20)].join("\n")
    );
}

#[test]
fn the_search_finds_every_form() {
    let secret = "s3cret/with+signs=and-more";
    let wanted = Wanted::new(&BTreeMap::from([(secret.to_owned(), "a secret")]));
    let percent: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let mut rows = vec![secret.to_owned(), format!("?a={percent}")];
    for before in ["", "a", "ab", "client:"] {
        for after in ["", "z", "zz"] {
            let text = format!("{before}{secret}{after}");
            rows.push(STANDARD_NO_PAD.encode(&text));
            rows.push(URL_SAFE_NO_PAD.encode(&text));
        }
    }
    for row in rows {
        assert!(!wanted.search("a row", &row).is_empty(), "{row}");
    }
    assert!(wanted.search("nothing", "s3cret/with+signs").is_empty());
}
