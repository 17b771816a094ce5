//! A logout token against a sign-in that is under way, each order held by a gate.

use std::sync::Arc;
use std::time::Duration;

use axum_signout::testing::{Endpoint, Fault, Gate, JwtBuilder, TestBrowser, TestProvider};
use axum_signout::{Account, Cause, ErrorKind, TokenSet};
use tokio::task::JoinHandle;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

use crate::app::session_cookie;
use crate::support::app::{Answer, App, CLIENT, Setup, cookies, path_and_query, send, undelivered};
use crate::support::faulty::{Fail, FaultySessions, FaultyStore};
use crate::world::{World, acquire, kind};

/// Provider clocks that are right, and five minutes off either way.
const OFF: [i64; 3] = [0, 300, -300];

/// What a logout token names.
const NAMES: [&str; 2] = ["sid", "sub"];

struct Scene {
    provider: TestProvider,
    app: App,
    store: FaultyStore,
    sessions: FaultySessions,
}

impl Scene {
    async fn new(off: i64) -> Self {
        let provider = TestProvider::start().await;
        provider.set_clock_offset(off);
        let (store, sessions) = (FaultyStore::new(), FaultySessions::default());
        let for_auth = store.clone();
        let app = Setup::new()
            .sessions(SessionManagerLayer::new(sessions.clone()))
            .auth(move |auth| auth.store(for_auth))
            .start(&provider)
            .await;
        Self {
            provider,
            app,
            store,
            sessions,
        }
    }

    /// A browser at the provider's sign-in page.
    async fn begin(&self) -> TestBrowser {
        let mut browser = TestBrowser::new();
        let start = self.app.url("/signin?return_to=/whoami&prompt=login");
        let page = browser.goto(start).await.unwrap();
        assert!(page.has_id("login-alice"), "{}", page.body());
        browser
    }

    /// The answer that this browser will bring back, and the `sid` of the session at the provider.
    async fn answered(&self, browser: &TestBrowser) -> (url::Url, String) {
        let before = self.provider.sessions();
        let (answer, _) = undelivered(browser, "alice").await;
        let mut now = self.provider.sessions();
        now.retain(|session| before.iter().all(|had| had.sid != session.sid));
        (answer, now.remove(0).sid)
    }

    fn deliver(&self, browser: &TestBrowser, answer: &url::Url) -> JoinHandle<Answer> {
        let (router, cookies) = (self.app.router.clone(), cookies(browser));
        let path = path_and_query(answer);
        tokio::spawn(async move { send(&router, "GET", &path, &[("cookie", &cookies)], "").await })
    }

    fn token(&self, name: &str, sid: &str) -> JwtBuilder {
        let value = if name == "sid" { sid } else { "alice" };
        self.provider.logout_token(CLIENT).claim(name, value)
    }

    async fn call(&self, token: &JwtBuilder) {
        call(&self.app, token).await;
    }

    async fn sign_ins(&self) -> usize {
        self.app.auth.stats().await.unwrap().sign_ins
    }

    /// Refused, and at the provider once more by itself, where the user has to sign in; then it is fine.
    async fn begins_anew(&self, mut browser: TestBrowser, answer: &Answer, row: &str) {
        assert_eq!(answer.status, 303, "{row}: {}", answer.body);
        assert_eq!(answer.location().path(), "/authorize", "{row}");
        assert_eq!(answer.param("prompt").as_deref(), Some("login"), "{row}");
        assert_eq!(self.sign_ins().await, 0, "{row}");
        for set in answer.set_cookies() {
            browser.set_cookie(&self.app.base, set).unwrap();
        }
        browser.goto(answer.location().as_str()).await.unwrap();
        browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(browser.follow().await.unwrap().body(), "alice", "{row}");
        assert_eq!(self.sign_ins().await, 1, "{row}");
    }
}

async fn call(app: &App, token: &JwtBuilder) {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("logout_token", &token.sign());
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let path = "/signout/backchannel";
    let answer = send(&app.router, "POST", path, &headers, &form.finish()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// The user is at the provider with their answer, when the provider says that the session has ended.
#[tokio::test]
async fn a_logout_token_before_the_codes_exchange_refuses_the_sign_in_unless_its_id_token_is_younger_r23()
 {
    for name in NAMES {
        let scene = Scene::new(0).await;
        let browser = scene.begin().await;
        let (answer, sid) = scene.answered(&browser).await;
        // As if it were issued after the ID token, of the same second.
        scene.call(&scene.token(name, &sid).issued_ago(-5)).await;
        let answer = scene.deliver(&browser, &answer).await.unwrap();
        scene.begins_anew(browser, &answer, name).await;

        // The provider vouches for the session after it sent the logout token: this one is not meant.
        let scene = Scene::new(0).await;
        let browser = scene.begin().await;
        let (answer, sid) = scene.answered(&browser).await;
        scene.call(&scene.token(name, &sid).issued_ago(5)).await;
        let answer = scene.deliver(&browser, &answer).await.unwrap();
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        assert_eq!(scene.sign_ins().await, 1, "{name}");
    }
}

#[tokio::test]
async fn a_logout_token_between_the_codes_exchange_and_the_entry_refuses_the_sign_in_once_r23_a8() {
    for name in NAMES {
        for step in ["exchange", "register", "create"] {
            let row = format!("{name} {step}");
            let scene = Scene::new(0).await;
            let browser = scene.begin().await;
            let (answer, sid) = scene.answered(&browser).await;
            let gate = Gate::new();
            match step {
                "exchange" => {
                    let held = Fault::HoldAnswer(gate.clone());
                    scene.provider.faults().once(Endpoint::Code, held);
                }
                step => scene.store.faults.set(&[step], Fail::Hold(gate.clone())),
            }
            let waiting = scene.deliver(&browser, &answer);
            gate.arrived(1).await;
            scene.store.faults.clear();
            scene.call(&scene.token(name, &sid)).await;
            gate.open();
            let answer = waiting.await.unwrap();
            assert_eq!(scene.sign_ins().await, 0, "{row}");
            let issued = scene.provider.secrets();
            scene.begins_anew(browser, &answer, &row).await;
            let report = scene.app.auth.shutdown().await;
            assert_eq!((report.finished, report.outbox), (true, Some(0)), "{row}");
            let left = issued.iter().any(|secret| scene.provider.is_active(secret));
            assert!(!left, "{row}: a token is left behind");
        }
    }
}

/// The entry is there already, and the session's record is about to be.
#[tokio::test]
async fn a_logout_token_between_the_entry_and_the_session_leaves_a_session_that_opens_nothing_r23()
{
    for name in NAMES {
        let scene = Scene::new(0).await;
        let browser = scene.begin().await;
        let (answer, sid) = scene.answered(&browser).await;
        let gate = Gate::new();
        scene
            .sessions
            .faults
            .set(&["create"], Fail::Hold(gate.clone()));
        let waiting = scene.deliver(&browser, &answer);
        gate.arrived(1).await;
        scene.sessions.faults.clear();
        assert_eq!(scene.sign_ins().await, 1, "{name}");
        scene.call(&scene.token(name, &sid)).await;
        gate.open();
        let answer = waiting.await.unwrap();
        assert_eq!(scene.sign_ins().await, 0, "{name}");
        let cookie = session_cookie(&answer).unwrap_or_default();
        let router = &scene.app.router;
        let next = send(router, "GET", "/whoami", &[("cookie", &*cookie)], "").await;
        assert_eq!(next.body, "nobody", "{name}");
        scene.app.auth.shutdown().await;
        let causes: Vec<_> = scene.app.seen().iter().map(|seen| seen.cause).collect();
        assert_eq!(causes, [Cause::BackChannel], "{name}");
    }
}

#[tokio::test]
async fn a_sign_in_that_began_before_a_logout_by_subject_is_refused_and_begins_anew_r23_a8() {
    for off in OFF {
        let row = format!("{off} s off");
        let scene = Scene::new(off).await;
        let mut there = TestBrowser::new();
        scene.app.sign_in(&mut there, "alice").await;
        let browser = scene.begin().await;
        let (answer, _) = scene.answered(&browser).await;
        let gate = Gate::new();
        let held = Fault::HoldAnswer(gate.clone());
        scene.provider.faults().once(Endpoint::Code, held);
        let waiting = scene.deliver(&browser, &answer);
        gate.arrived(1).await;
        scene.call(&scene.token("sub", "")).await;
        gate.open();
        let answer = waiting.await.unwrap();
        scene.begins_anew(browser, &answer, &row).await;
        let page = scene.app.get(&mut there, "/whoami").await;
        assert_eq!(
            page.body(),
            "nobody",
            "{row}: the next sign-in revives none"
        );
    }
}

/// Whatever the times in the two tokens say about it.
#[tokio::test]
async fn a_sign_in_that_began_after_a_logout_by_subject_is_accepted_r23_a8() {
    for (off, ahead) in [(0, 0), (0, 2), (300, 0), (300, -2), (-300, 0), (-300, 2)] {
        let row = format!("{off} s off, {ahead} s ahead");
        let scene = Scene::new(off).await;
        let mut there = TestBrowser::new();
        scene.app.sign_in(&mut there, "alice").await;
        scene.call(&scene.token("sub", "").issued_ago(-ahead)).await;
        let browser = scene.begin().await;
        let (answer, _) = scene.answered(&browser).await;
        let answer = scene.deliver(&browser, &answer).await.unwrap();
        assert_eq!(answer.status, 200, "{row}: {}", answer.body);
        assert_eq!(scene.sign_ins().await, 1, "{row}");
        let page = scene.app.get(&mut there, "/whoami").await;
        assert_eq!(page.body(), "nobody", "{row}");
    }
}

/// An app's own sign-in can take as long as the app's session lives; what refuses it is not kept for that long.
#[tokio::test]
async fn a_sign_in_that_outlasts_what_is_remembered_of_logouts_is_refused_r23_r43() {
    for name in ["sid", "sub", "everywhere"] {
        let world = World::new().await;
        let auth = &world.app.auth;
        let account = Account::new(world.provider.issuer(), "ann").with_sid("s");
        let ticket = auth.ticket().await.unwrap();
        match name {
            "everywhere" => drop(auth.end_sign_ins_of(&account).await.unwrap()),
            name => {
                let value = if name == "sid" { "s" } else { "ann" };
                let token = world.provider.logout_token(CLIENT).claim(name, value);
                call(&world.app, &token).await;
            }
        }
        world.advance(Duration::from_secs(61 * 60));
        let session = Session::new(None, Arc::new(MemoryStore::default()), None);
        let late = auth.sign_in(&session, ticket, account.clone(), TokenSet::new());
        assert_eq!(kind(late.await), ErrorKind::NotSignedIn, "{name}");
        assert_eq!(world.sign_ins().await, 0, "{name}");
        let ticket = auth.ticket().await.unwrap();
        let again = auth.sign_in(&session, ticket, account, TokenSet::new());
        again.await.unwrap();
    }
}

#[tokio::test]
async fn a_handler_that_refreshes_while_its_sign_in_is_ended_by_the_provider_gets_nothing_r23_r31()
{
    for name in NAMES {
        let world = World::new().await;
        let browser = world.sign_in("alice").await;
        let sid = world.provider.sessions().remove(0).sid;
        let gate = Gate::new();
        let held = Fault::HoldAnswer(gate.clone());
        world.provider.faults().once(Endpoint::Refresh, held);
        world.expire_tokens();
        let tokens = world.tokens(&browser).await;
        let waiting = {
            let tokens = tokens.clone();
            tokio::spawn(async move { acquire(&tokens).await })
        };
        gate.arrived(1).await;
        let value = if name == "sid" { &*sid } else { "alice" };
        let token = world.provider.logout_token(CLIENT).claim(name, value);
        call(&world.app, &token).await;
        gate.open();
        assert_eq!(
            kind(waiting.await.unwrap()),
            ErrorKind::NotSignedIn,
            "{name}"
        );
        assert_eq!(
            kind(acquire(&tokens).await),
            ErrorKind::NotSignedIn,
            "{name}"
        );
        assert_eq!(tokens.ended().await, Cause::BackChannel, "{name}");
        world.finish().await;
        let alice = Account::new(world.provider.issuer(), "alice");
        assert_eq!(world.app.auth.sign_ins_of(&alice).await.unwrap().len(), 0);
        assert_eq!(world.app.seen().len(), 1, "{name}");
    }
}
