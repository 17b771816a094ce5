//! Lifetimes (R42): what scripts are told of them, and who waits for a sign-in's end. Time moves when a test says so.

mod support;

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path};
use axum::http::Request;
use axum::routing::{get, post};
use axum_signout::clock::ManualClock;
use axum_signout::store::{Removal, RevokeRule, Target, TokenStore as _};
use axum_signout::testing::Gate;
use axum_signout::{
    AccessToken, Account, Address, Auth, AuthBuilder, Cause, EndSessionRequest, Error, ErrorKind,
    OperationId, Provider, SignInId, SignOut, SignOutReport, TokenSet, Tokens,
};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use support::app::{Answer, send};
use support::faulty::{Fail, FaultyStore};
use support::held::held;
use tower::ServiceExt as _;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer, SessionStore as _};

const ISSUER: &str = "https://op.example";
const MINUTE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
const STATUS: &str = "/signout/status";

type Held = Arc<Mutex<Vec<(Account, Tokens)>>>;

/// An app without a provider. Sign-ins live for 2 h without use and for 72 h at most, as by default.
struct Bench {
    auth: Auth,
    clock: Arc<ManualClock>,
    store: FaultyStore,
    sessions: MemoryStore,
    router: Router,
    held: Held,
    reports: Arc<Mutex<Vec<SignOutReport>>>,
}

impl Bench {
    fn new() -> Self {
        Self::with(|auth| auth)
    }

    fn with(f: impl FnOnce(AuthBuilder) -> AuthBuilder) -> Self {
        let clock = Arc::new(ManualClock::new());
        Self::over(FaultyStore::with_clock(clock.clone()), clock, f)
    }

    fn over(
        store: FaultyStore,
        clock: Arc<ManualClock>,
        f: impl FnOnce(AuthBuilder) -> AuthBuilder,
    ) -> Self {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let hook = reports.clone();
        let provider = Provider::discover(ISSUER, "app").build().unwrap();
        let auth = Auth::builder(provider, "https://app.example.com")
            .clock(clock.clone())
            .store(store.clone())
            .on_sign_out(move |report| {
                hook.lock().unwrap().push(report);
                std::future::ready(())
            });
        let auth = f(auth).build().unwrap();
        let held = Held::default();
        let sessions = MemoryStore::default();
        let router = Router::new()
            .route("/plant/{subject}", post(plant))
            .route("/whoami", get(whoami))
            .route("/hold", get(hold))
            .route("/events", get(events))
            .route("/leave", post(leave))
            .layer(Extension(held.clone()))
            .merge(auth.routes())
            .layer(auth.layer_with(SessionManagerLayer::new(sessions.clone())));
        Self {
            auth,
            clock,
            store,
            sessions,
            router,
            held,
            reports,
        }
    }

    async fn send(&self, method: &str, path: &str, cookie: &str) -> Answer {
        send(&self.router, method, path, &[("cookie", cookie)], "").await
    }

    /// The cookie of a session in which these are signed in, one after the other.
    async fn planted(&self, subjects: &[&str]) -> String {
        let mut cookie = String::new();
        for subject in subjects {
            let answer = self
                .send("POST", &format!("/plant/{subject}"), &cookie)
                .await;
            assert_eq!(answer.body, "planted");
            let new = answer.set_cookies()[0].split(';').next().unwrap();
            cookie = new.to_owned();
        }
        cookie
    }

    /// What a script learns, in seconds. It gets no cookie, and nothing that could be cached.
    async fn status(&self, method: &str, cookie: &str) -> Value {
        let answer = self.send(method, STATUS, cookie).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let said: Value = serde_json::from_str(&answer.body).unwrap();
        if said["signed_in"] == true {
            assert!(
                answer.set_cookies().is_empty(),
                "{:?}",
                answer.set_cookies()
            );
        }
        said
    }

    async fn expires_in(&self, method: &str, cookie: &str) -> u64 {
        let said = self.status(method, cookie).await;
        said["expires_in"]
            .as_u64()
            .unwrap_or_else(|| panic!("{said}"))
    }

    /// What a handler of a new request has.
    async fn held(&self, cookie: &str) -> (Account, Tokens) {
        assert_eq!(self.send("GET", "/hold", cookie).await.status, 200);
        self.held.lock().unwrap().pop().unwrap()
    }

    async fn whoami(&self, cookie: &str) -> String {
        self.send("GET", "/whoami", cookie).await.body
    }

    /// As another node does it.
    async fn end_elsewhere(&self, cookie: &str, id: SignInId) {
        let removal = Removal {
            operation: OperationId::random(),
            cause: Cause::Operator,
            revoke: RevokeRule::Nothing,
            mark_for: MINUTE,
            logout_iat: None,
        };
        let record = self.sessions.load(&cookie[3..].parse().unwrap()).await;
        let record = record.unwrap().unwrap();
        let held = held(record.data["axum-signout"].as_str().unwrap());
        let account = held[0].address.account;
        let target = Target::SignIn(Address { account, id });
        let removed = self.store.remove(&target, &removal).await.unwrap();
        assert_eq!(removed.len(), 1);
    }

    async fn causes(&self) -> Vec<Cause> {
        assert!(self.auth.shutdown().await.finished);
        let reports = self.reports.lock().unwrap();
        reports.iter().map(|report| report.cause).collect()
    }
}

/// Signs somebody in without a provider.
async fn plant(
    auth: Auth,
    session: Session,
    Path(subject): Path<String>,
) -> Result<&'static str, Error> {
    let tokens = TokenSet::new().with_access_token(AccessToken::bearer("access"));
    let account = Account::new(ISSUER, subject);
    auth.sign_in(&session, None, account, tokens).await?;
    Ok("planted")
}

async fn whoami(account: Option<Account>) -> String {
    account.map_or_else(|| "nobody".into(), |account| account.subject().to_owned())
}

async fn hold(Extension(held): Extension<Held>, account: Account, tokens: Tokens) {
    held.lock().unwrap().push((account, tokens));
}

async fn leave(sign_out: SignOut) {
    let _ = sign_out.run(EndSessionRequest::new().local_only()).await;
}

/// One piece, and then nothing until the sign-in ends.
async fn events(account: Account) -> Body {
    let first = stream::once(async { Ok::<_, Infallible>(Bytes::from("first")) });
    let all = first.chain(stream::pending());
    Body::from_stream(all.take_until(async move { account.ended().await }))
}

#[tokio::test]
async fn asking_how_long_it_goes_on_prolongs_nothing_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    // As often as a use would be noted.
    for minute in 1..120 {
        bench.clock.advance(MINUTE);
        let left = bench.expires_in("GET", &cookie).await;
        let expected = (120 - minute) * 60;
        assert!(
            (expected - 1..=expected).contains(&left),
            "{left} s after {minute} min"
        );
    }
    bench.clock.advance(MINUTE + SECOND);
    let said = bench.status("GET", &cookie).await;
    assert_eq!(said, json!({ "signed_in": false, "ended": "Idle" }));
    // The session is gone with it (promise 4), and nobody knows of one any more.
    assert_eq!(
        bench.status("GET", &cookie).await,
        json!({ "signed_in": false })
    );
    assert_eq!(bench.auth.evict_due().await.unwrap(), 1);
    assert_eq!(bench.causes().await, [Cause::Idle]);
}

#[tokio::test]
async fn every_other_request_is_a_use_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    bench.clock.advance(100 * MINUTE);
    assert_eq!(bench.whoami(&cookie).await, "ann");
    assert!(bench.expires_in("GET", &cookie).await >= 120 * 60 - 1);
}

#[tokio::test]
async fn a_script_can_prolong_the_idle_time_and_not_the_absolute_one_r42() {
    let bench = Bench::with(|auth| auth.absolute_lifetime(180 * MINUTE));
    let cookie = bench.planted(&["ann"]).await;
    bench.clock.advance(100 * MINUTE);
    let left = bench.status("POST", &cookie).await;
    assert!(
        left["idle_expires_in"].as_u64().unwrap() >= 120 * 60 - 1,
        "{left}"
    );
    assert_eq!(left["absolute_expires_in"], 80 * 60);
    assert_eq!(left["expires_in"], left["absolute_expires_in"]);
    bench.clock.advance(80 * MINUTE + SECOND);
    let said = bench.status("POST", &cookie).await;
    assert_eq!(said, json!({ "signed_in": false, "ended": "Absolute" }));
}

/// Use is noted once a minute: what is told in between is what the server does.
#[tokio::test]
async fn what_is_told_right_after_a_use_is_true_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    bench.clock.advance(Duration::from_secs(59));
    let left = bench.expires_in("POST", &cookie).await;
    assert_eq!(left, 120 * 60 - 59);
    bench.clock.advance(Duration::from_secs(left - 1));
    assert_eq!(bench.expires_in("GET", &cookie).await, 1);
    bench.clock.advance(2 * SECOND);
    assert_eq!(bench.status("GET", &cookie).await["signed_in"], false);
}

#[tokio::test]
async fn a_page_is_told_to_warn_within_the_window_r42() {
    for (window, expected) in [
        (None, 60),
        (Some(10 * MINUTE), 600),
        (Some(Duration::ZERO), 0),
    ] {
        let bench = Bench::with(|auth| match window {
            Some(window) => auth.warn_before(window),
            None => auth,
        });
        let cookie = bench.planted(&["ann"]).await;
        let before = 120 * MINUTE - Duration::from_secs(expected);
        bench.clock.advance(before - SECOND);
        assert_eq!(bench.status("GET", &cookie).await["warn"], false);
        bench.clock.advance(SECOND + SECOND / 2);
        let said = bench.status("GET", &cookie).await;
        let warned = said["warn"] == true;
        assert_eq!(warned, expected > 0, "{said}");
    }
}

#[tokio::test]
async fn each_account_of_the_session_is_told_apart_r42() {
    let bench = Bench::with(|auth| auth.absolute_lifetime(100 * MINUTE));
    let first = bench.planted(&["ann"]).await;
    bench.clock.advance(30 * MINUTE);
    let answer = bench.send("POST", "/plant/bob", &first).await;
    let cookie = answer.set_cookies()[0]
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    bench.clock.advance(10 * MINUTE);
    let said = bench.status("GET", &cookie).await;
    let of = |at: usize, name: &str| said["sign_ins"][at][name].as_u64().unwrap();
    assert_eq!(of(0, "absolute_expires_in"), 60 * 60);
    assert_eq!(of(1, "absolute_expires_in"), 90 * 60);
    assert_eq!(
        said["expires_in"],
        60 * 60,
        "that of the one that ends first"
    );
    assert_ne!(
        said["sign_ins"][0]["sign_in"],
        said["sign_ins"][1]["sign_in"]
    );
    // One ends: the other is told, in its renewed session.
    bench.clock.advance(60 * MINUTE + SECOND);
    let answer = bench.send("GET", STATUS, &cookie).await;
    let said: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(said["ended"], "Absolute");
    assert_eq!(said["sign_ins"].as_array().unwrap().len(), 1);
    assert_eq!(said["signed_in"], true);
}

#[tokio::test]
async fn another_site_can_prolong_nothing_r10_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    bench.clock.advance(100 * MINUTE);
    for headers in [
        [("cookie", &*cookie), ("sec-fetch-site", "cross-site")],
        [("cookie", &*cookie), ("origin", "https://evil.example")],
    ] {
        let answer = send(&bench.router, "POST", STATUS, &headers, "").await;
        assert_eq!(answer.status, 403);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    assert!(bench.expires_in("GET", &cookie).await <= 20 * 60);
}

#[tokio::test]
async fn a_stranger_is_told_that_nobody_is_signed_in_r42() {
    let bench = Bench::new();
    let unknown = "id=AAAAAAAAAAAAAAAAAAAAAA";
    for (method, cookie) in [
        ("GET", ""),
        ("POST", ""),
        ("GET", unknown),
        ("POST", unknown),
    ] {
        let said = bench.status(method, cookie).await;
        assert_eq!(said, json!({ "signed_in": false }));
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_not_taken_for_nobody_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    let rows = [
        ("GET", "load"),
        ("GET", "now"),
        ("POST", "load"),
        ("POST", "touch"),
        ("POST", "get"),
    ];
    for (method, operation) in rows {
        bench.store.faults.set(&[operation], Fail::Unavailable);
        let answer = bench.send(method, STATUS, &cookie).await;
        assert_eq!(answer.status, 503, "{method} without {operation}");
        assert!(answer.set_cookies().is_empty());
        bench.store.faults.clear();
    }
    assert_eq!(bench.status("GET", &cookie).await["signed_in"], true);
}

#[tokio::test]
async fn a_status_path_of_the_app_s_own_below_a_prefix_is_no_use_either_r42() {
    let clock = Arc::new(ManualClock::new());
    let provider = Provider::discover(ISSUER, "app").build().unwrap();
    let auth = Auth::builder(provider, "https://example.com/shop")
        .clock(clock.clone())
        .status_path("/session/left")
        .build()
        .unwrap();
    assert_eq!(auth.status_url(), "https://example.com/shop/session/left");
    let inner = Router::new()
        .route("/plant/{subject}", post(plant))
        .merge(auth.routes());
    let sessions = SessionManagerLayer::new(MemoryStore::default());
    let layered = auth.layer_with(sessions);
    // Inside and outside of the nested router, and behind a proxy that takes the prefix off.
    let routers = [
        (
            Router::new().nest("/shop", inner.clone().layer(layered.clone())),
            "/shop",
        ),
        (
            Router::new()
                .nest("/shop", inner.clone())
                .layer(layered.clone()),
            "/shop",
        ),
        (inner.layer(layered), ""),
    ];
    for (router, prefix) in routers {
        let planted = send(&router, "POST", &format!("{prefix}/plant/ann"), &[], "").await;
        let cookie = planted.set_cookies()[0].split(';').next().unwrap();
        let path = format!("{prefix}/session/left");
        for minutes in [20, 40] {
            clock.advance(20 * MINUTE);
            let answer = send(&router, "GET", &path, &[("cookie", cookie)], "").await;
            let said: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(said["expires_in"], (120 - minutes) * 60, "below {prefix:?}");
        }
    }
}

/// Whether it is still waited for, after what is ready had its chance.
async fn waits(ended: &mut (impl Future<Output = Cause> + Unpin)) -> bool {
    for _ in 0..50 {
        tokio::task::yield_now().await;
        if ended.now_or_never_mut().is_some() {
            return false;
        }
    }
    true
}

trait NowOrNever: Future + Unpin {
    fn now_or_never_mut(&mut self) -> Option<Self::Output> {
        std::pin::Pin::new(self).now_or_never()
    }
}

impl<F: Future + Unpin> NowOrNever for F {}

#[tokio::test]
async fn whoever_waits_for_the_end_hears_of_a_sign_out_at_once_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    let (account, tokens) = bench.held(&cookie).await;
    let mut ended = Box::pin(account.ended());
    assert!(waits(&mut ended).await);
    bench.send("POST", "/leave", &cookie).await;
    assert_eq!(ended.await, Cause::UserSignOut);
    // Whoever asks afterwards, too.
    assert_eq!(account.clone().ended().await, Cause::UserSignOut);
    assert_eq!(tokens.account().ended().await, Cause::UserSignOut);
    assert_eq!(tokens.describe().account.ended().await, Cause::UserSignOut);
}

#[tokio::test]
async fn a_response_that_is_open_ends_with_the_sign_in_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    let request = Request::get("/events").header("cookie", &cookie);
    let request = request.body(Body::empty()).unwrap();
    let response = bench.router.clone().oneshot(request).await.unwrap();
    let mut body = response.into_body().into_data_stream();
    assert_eq!(body.next().await.unwrap().unwrap(), "first");
    assert!(body.next().now_or_never().is_none());
    bench.send("POST", "/leave", &cookie).await;
    assert!(body.next().await.is_none());
}

/// Nobody touches it, and no sweep comes by.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_the_end_hears_of_a_lifetime_when_it_is_over_r42() {
    for (absolute, expected) in [(300 * MINUTE, Cause::Idle), (90 * MINUTE, Cause::Absolute)] {
        let bench = Bench::with(|auth| auth.absolute_lifetime(absolute));
        bench.store.faults.set(&["due"], Fail::Unavailable);
        let cookie = bench.planted(&["ann"]).await;
        let (account, _) = bench.held(&cookie).await;
        let mut ended = Box::pin(account.ended());
        assert!(waits(&mut ended).await);
        let span = absolute.min(120 * MINUTE);
        // In steps: a look is never more than a minute away, and the last one is made for the end.
        bench.clock.advance(span - 30 * SECOND);
        tokio::time::advance(MINUTE).await;
        assert!(waits(&mut ended).await);
        bench.clock.advance(29 * SECOND);
        tokio::time::advance(29 * SECOND).await;
        assert!(waits(&mut ended).await);
        bench.clock.advance(2 * SECOND);
        tokio::time::advance(2 * SECOND).await;
        assert!(!waits(&mut ended).await, "{expected}");
        assert_eq!(account.ended().await, expected);
    }
}

#[tokio::test]
async fn whoever_waits_for_the_end_hears_of_one_that_leaves_for_others_r42() {
    let clock = Arc::new(ManualClock::new());
    let of_store = clock.clone();
    let store = FaultyStore::with(|store| store.clock(of_store).max_sign_ins(1));
    let bench = Bench::over(store, clock, |auth| auth);
    let cookie = bench.planted(&["ann"]).await;
    let (account, _) = bench.held(&cookie).await;
    bench.planted(&["bob"]).await;
    assert_eq!(account.ended().await, Cause::Capacity);
    assert_eq!(bench.causes().await, [Cause::Capacity]);
}

/// A second account gives the first one a new key.
#[tokio::test]
async fn a_new_key_is_no_end_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    let (account, tokens) = bench.held(&cookie).await;
    let mut ended = Box::pin(account.ended());
    assert!(waits(&mut ended).await);
    bench.send("POST", "/plant/bob", &cookie).await;
    // The key of the old session opens nothing any more, and that is all.
    assert_eq!(bench.whoami(&cookie).await, "nobody");
    assert!(waits(&mut ended).await);
    let again = account.clone();
    assert!(waits(&mut Box::pin(again.ended())).await);
    assert!(tokens.prolong().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_end_on_another_node_is_heard_of_within_seconds_r42() {
    let clock = Arc::new(ManualClock::new());
    let store = FaultyStore::with_clock(clock.clone()).shared();
    let bench = Bench::over(store, clock, |auth| auth);
    let cookie = bench.planted(&["ann"]).await;
    let (account, tokens) = bench.held(&cookie).await;
    let mut ended = Box::pin(account.ended());
    assert!(waits(&mut ended).await);
    bench.end_elsewhere(&cookie, tokens.sign_in()).await;
    assert!(waits(&mut ended).await);
    // A store that does not answer in between says nothing.
    bench.store.faults.set(&["get"], Fail::Unavailable);
    tokio::time::advance(5 * SECOND).await;
    assert!(waits(&mut ended).await);
    bench.store.faults.clear();
    tokio::time::advance(5 * SECOND).await;
    assert!(!waits(&mut ended).await);
    assert_eq!(account.ended().await, Cause::Operator);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_prolongs_nothing_for_whoever_waits_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    let (account, _) = bench.held(&cookie).await;
    let mut ended = Box::pin(account.ended());
    assert!(waits(&mut ended).await);
    bench
        .store
        .faults
        .set(&["get", "due", "load"], Fail::Unavailable);
    bench.clock.advance(119 * MINUTE);
    tokio::time::advance(MINUTE).await;
    assert!(waits(&mut ended).await);
    bench.clock.advance(MINUTE + SECOND);
    tokio::time::advance(MINUTE).await;
    assert!(!waits(&mut ended).await);
}

/// As in a loop over several things to wait for, each time anew; the second time without an earlier look.
#[tokio::test(start_paused = true)]
async fn whoever_waits_again_and_again_hears_of_the_end_while_the_store_is_away_r42() {
    for looked in [true, false] {
        let bench = Bench::new();
        let cookie = bench.planted(&["ann"]).await;
        let (account, _) = bench.held(&cookie).await;
        if looked {
            assert!(waits(&mut Box::pin(account.ended())).await);
        }
        let away = &["get", "due", "load"];
        bench.store.faults.set(away, Fail::Unavailable);
        for _ in 0..119 {
            bench.clock.advance(MINUTE);
            assert!(waits(&mut Box::pin(account.ended())).await, "{looked}");
        }
        bench.clock.advance(MINUTE + SECOND);
        let over = waits(&mut Box::pin(account.ended())).await;
        match looked {
            true => assert!(!over),
            // What is known is counted from the first wait, which began a minute late.
            false => {
                bench.clock.advance(MINUTE);
                assert!(!waits(&mut Box::pin(account.ended())).await);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_whose_clock_is_ahead_ends_nothing_before_its_time_r42() {
    let ahead = Arc::new(ManualClock::new());
    ahead.advance(10 * MINUTE);
    let of_store = Arc::new(ManualClock::new());
    let store = FaultyStore::with_clock(of_store.clone()).shared();
    let bench = Bench::over(store, ahead.clone(), |auth| auth);
    let both = |by| {
        ahead.advance(by);
        of_store.advance(by);
    };
    let cookie = bench.planted(&["ann"]).await;
    let (account, _) = bench.held(&cookie).await;
    let mut ended = Box::pin(account.ended());
    assert!(waits(&mut ended).await);
    both(115 * MINUTE);
    tokio::time::advance(5 * SECOND).await;
    assert!(waits(&mut ended).await);
    bench.store.faults.set(&["get"], Fail::Unavailable);
    tokio::time::advance(5 * SECOND).await;
    assert!(waits(&mut ended).await, "five minutes are left");
    both(5 * MINUTE + SECOND);
    tokio::time::advance(5 * SECOND).await;
    assert!(!waits(&mut ended).await);
}

#[tokio::test]
async fn waiting_is_no_use_and_saying_so_is_r42() {
    let bench = Bench::with(|auth| auth.absolute_lifetime(200 * MINUTE));
    let cookie = bench.planted(&["ann"]).await;
    let (account, tokens) = bench.held(&cookie).await;
    let mut ended = Box::pin(account.ended());
    bench.clock.advance(100 * MINUTE);
    assert!(waits(&mut ended).await);
    let left = tokens.time_left().await.unwrap();
    assert!(
        left.idle < 21 * MINUTE && left.absolute < 101 * MINUTE,
        "{left:?}"
    );
    assert_eq!(left.until_end(), left.idle);
    let left = tokens.prolong().await.unwrap();
    assert!(
        left.idle > 119 * MINUTE && left.absolute < 101 * MINUTE,
        "{left:?}"
    );
    assert_eq!(left.until_end(), left.absolute);
    bench.clock.advance(101 * MINUTE);
    assert_eq!(
        tokens.prolong().await.unwrap_err().kind(),
        ErrorKind::NotSignedIn
    );
    assert_eq!(
        tokens.time_left().await.unwrap_err().kind(),
        ErrorKind::NotSignedIn
    );
}

/// Nothing stands behind an account that the app made: better to hear of an end at once than never.
#[tokio::test]
async fn an_account_of_the_app_s_own_has_ended_already() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    assert_eq!(
        Account::new(ISSUER, "ann").ended().await,
        Cause::SessionEnded
    );
    let (account, _) = bench.held(&cookie).await;
    let changed = account.clone().with_sid("another");
    assert_eq!(changed.ended().await, Cause::SessionEnded);
    assert_eq!(changed, account);
    assert!(waits(&mut Box::pin(account.ended())).await);
}

#[tokio::test]
async fn whoever_waits_does_not_keep_the_app_alive_r42() {
    let bench = Bench::new();
    let cookie = bench.planted(&["ann"]).await;
    let (account, tokens) = bench.held(&cookie).await;
    let mut ended = Box::pin(account.ended());
    assert!(waits(&mut ended).await);
    drop((tokens, bench));
    // Whoever could sign anyone out is gone.
    assert_eq!(account.ended().await, Cause::SessionEnded);
}

/// What a store that outlives the process holds is swept before anybody comes by.
#[tokio::test(start_paused = true)]
async fn the_sweep_runs_without_any_request_r42() {
    let before = Bench::new();
    before.planted(&["ann"]).await;
    let (store, clock) = (before.store.clone(), before.clock.clone());
    assert!(before.auth.shutdown().await.finished);
    drop(before);
    clock.advance(121 * MINUTE);
    let after = Bench::over(store, clock, |auth| auth.sweep_every(3 * SECOND));
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(after.reports.lock().unwrap().len(), 0);
    tokio::time::sleep(2 * SECOND).await;
    let reports = after.reports.lock().unwrap().clone();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].cause, Cause::Idle);
}

#[tokio::test(start_paused = true)]
async fn the_sweep_outlives_a_store_that_fails_and_hooks_that_hang_or_panic_r42() {
    let bench = Bench::with(|auth| {
        auth.hook_timeout(SECOND).on_evict(|eviction| async move {
            assert_ne!(eviction.account().subject(), "ann", "a panic of a test");
            std::future::pending::<()>().await;
        })
    });
    bench.planted(&["ann"]).await;
    bench.planted(&["bob"]).await;
    bench.store.faults.set(&["due"], Fail::Unavailable);
    bench.clock.advance(121 * MINUTE);
    tokio::time::sleep(40 * SECOND).await;
    assert_eq!(bench.reports.lock().unwrap().len(), 0);
    // One that hangs is given up after five seconds.
    bench.store.faults.set(&["due"], Fail::Hold(Gate::new()));
    tokio::time::sleep(40 * SECOND).await;
    bench.store.faults.clear();
    tokio::time::sleep(40 * SECOND).await;
    assert_eq!(bench.reports.lock().unwrap().len(), 2);
    bench.planted(&["cid"]).await;
    bench.clock.advance(121 * MINUTE);
    tokio::time::sleep(40 * SECOND).await;
    assert_eq!(bench.reports.lock().unwrap().len(), 3);
}

fn explode() {
    panic!("a hook of a test");
}

/// A hook for every node, where there is one.
#[tokio::test]
async fn a_hook_for_every_node_is_called_once_by_a_store_of_one_node_r42_r43() {
    let told: Arc<Mutex<Vec<(SignInId, Cause)>>> = Arc::default();
    let hook = told.clone();
    let bench = Bench::with(move |auth| {
        auth.on_evict_everywhere(|_| async { explode() })
            .on_evict_everywhere(|_| std::future::pending::<()>())
            .hook_timeout(SECOND)
            .on_evict_everywhere(move |notice| {
                assert!(notice.is_of(&Account::new(ISSUER, "ann")));
                hook.lock()
                    .unwrap()
                    .push((notice.sign_in(), notice.cause()));
                async { Err::<(), _>("no") }
            })
    });
    let mut expected = Vec::new();
    for is_held in [true, false] {
        let cookie = bench.planted(&["ann"]).await;
        let (account, tokens) = bench.held(&cookie).await;
        let id = tokens.sign_in();
        let held = is_held.then_some((account, tokens));
        bench.send("POST", "/leave", &cookie).await;
        expected.push((id, Cause::UserSignOut));
        drop(held);
    }
    let cookie = bench.planted(&["ann"]).await;
    let (_, tokens) = bench.held(&cookie).await;
    bench.clock.advance(121 * MINUTE);
    assert_eq!(bench.auth.evict_due().await.unwrap(), 1);
    expected.push((tokens.sign_in(), Cause::Idle));
    // It waits for hooks, those that hang included.
    assert!(bench.auth.shutdown().await.finished);
    assert_eq!(*told.lock().unwrap(), expected);
}
