//! Signing out elsewhere against what happens there at the same time, each order held by a gate.

use std::collections::BTreeMap;

use axum_signout::testing::{Endpoint, Fault, Gate, TestBrowser, TestProvider, TestUser};
use axum_signout::{Account, Cause, ErrorKind};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tower_sessions::SessionManagerLayer;

use crate::people::{browser, evicted, labelled, pressed, setup, who, world};
use crate::support::app::{Answer, App, cookies, get_request, path_and_query, send, undelivered};
use crate::support::faulty::{Fail, FaultySessions, FaultyStore};

/// Provider clocks that are right, and five minutes off either way.
const OFF: [i64; 3] = [0, 300, -300];

async fn sign_ins(app: &App) -> usize {
    app.auth.stats().await.unwrap().sign_ins
}

async fn faulty(provider: &TestProvider) -> (App, FaultyStore) {
    let store = FaultyStore::new();
    let for_auth = store.clone();
    let app = setup()
        .auth(move |auth| labelled(auth).store(for_auth))
        .start(provider)
        .await;
    (app, store)
}

/// A browser at the provider's sign-in page, and the answer that it will bring back.
async fn under_way(app: &App, browser: &mut TestBrowser, login: &str) -> url::Url {
    let page = browser
        .goto(app.url("/signin?return_to=/whoami&prompt=login"))
        .await
        .unwrap();
    assert!(page.has_id(&format!("login-{login}")), "{}", page.body());
    undelivered(browser, login).await.0
}

/// The provider's answer, delivered by this browser at a moment of the test's choice.
fn deliver(app: &App, browser: &TestBrowser, answer: &url::Url) -> JoinHandle<Answer> {
    let (router, cookies) = (app.router.clone(), cookies(browser));
    let path = path_and_query(answer);
    tokio::spawn(async move { send(&router, "GET", &path, &[("cookie", &cookies)], "").await })
}

fn post(app: &App, browser: &TestBrowser, path: &'static str) -> JoinHandle<Answer> {
    let (router, cookies) = (app.router.clone(), cookies(browser));
    tokio::spawn(async move { send(&router, "POST", path, &[("cookie", &cookies)], "").await })
}

#[tokio::test]
async fn a_sign_in_that_started_before_a_sign_out_everywhere_is_refused_and_begins_anew_once_r43() {
    for off in OFF {
        let provider = TestProvider::start().await;
        provider.set_clock_offset(off);
        let app = setup().start(&provider).await;
        let here = browser(&app, "here", "alice").await;
        let mut traveller = TestBrowser::new();
        let answer = under_way(&app, &mut traveller, "alice").await;
        let (_, report) = app.leave(&here, json!({ "everywhere": true })).await;
        assert_eq!(report.evicted.len(), 1);

        let page = traveller.goto(answer.as_str()).await.unwrap();
        assert!(
            page.has_id("login-alice"),
            "at the provider once more, {off} s off"
        );
        assert_eq!(sign_ins(&app).await, 0);
        let mut unlucky = traveller.clone();
        traveller.submit("login-alice", &[]).await.unwrap();
        assert_eq!(traveller.follow().await.unwrap().body(), "alice");

        // Overtaken a second time, it says so instead of going round and round.
        unlucky.clear_cookies("127.0.0.1");
        let alice = Account::new(provider.issuer(), "alice");
        let answer = under_way(&app, &mut unlucky, "alice").await;
        app.auth.end_sign_ins_of(&alice).await.unwrap();
        unlucky.goto(answer.as_str()).await.unwrap();
        let (answer, _) = undelivered(&unlucky, "alice").await;
        app.auth.end_sign_ins_of(&alice).await.unwrap();
        let page = unlucky.goto(answer.as_str()).await.unwrap();
        assert_eq!(page.status(), 401);
        assert!(page.body().contains("signed_out_meanwhile"));
        assert_eq!(sign_ins(&app).await, 0);
    }
}

/// It may show no page, and must not be let in without one.
#[tokio::test]
async fn a_silent_sign_in_that_is_overtaken_does_not_begin_anew_r43() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut silent = browser(&app, "silent", "alice").await;
    let gate = Gate::new();
    provider
        .faults()
        .once(Endpoint::Token, Fault::HoldAnswer(gate.clone()));
    let url = app.url("/signin?return_to=/whoami&prompt=none");
    let page = tokio::spawn(async move {
        let page = silent.goto(url).await.unwrap();
        match page.url().path() {
            "/signin/callback" if page.status() == 200 => silent.follow().await.unwrap(),
            _ => page,
        }
    });
    gate.arrived(1).await;
    let alice = Account::new(provider.issuer(), "alice");
    app.auth.end_sign_ins_of(&alice).await.unwrap();
    gate.open();
    let page = page.await.unwrap();
    assert_eq!(page.status(), 400, "{}", page.body());
    assert!(page.body().contains("login_required"), "{}", page.body());
    assert_eq!(sign_ins(&app).await, 0);
}

#[tokio::test]
async fn a_sign_in_that_started_after_a_sign_out_everywhere_is_accepted_r43() {
    for off in OFF {
        let provider = TestProvider::start().await;
        provider.set_clock_offset(off);
        let app = setup().start(&provider).await;
        let here = browser(&app, "here", "alice").await;
        app.leave(&here, json!({ "everywhere": true })).await;
        let mut traveller = TestBrowser::new();
        let answer = under_way(&app, &mut traveller, "alice").await;
        let page = traveller.goto(answer.as_str()).await.unwrap();
        assert_eq!(
            page.url().path(),
            "/signin/callback",
            "{off} s off: {}",
            page.body()
        );
        assert_eq!(traveller.follow().await.unwrap().body(), "alice");
    }
}

#[tokio::test]
async fn a_sign_out_everywhere_between_the_codes_exchange_and_the_entry_refuses_it_r43() {
    let provider = TestProvider::start().await;
    let (app, store) = faulty(&provider).await;
    let alice = Account::new(provider.issuer(), "alice");
    for step in ["exchange", "register", "create"] {
        let mut traveller = TestBrowser::new();
        let answer = under_way(&app, &mut traveller, "alice").await;
        let gate = Gate::new();
        match step {
            "exchange" => {
                let held = Fault::HoldAnswer(gate.clone());
                provider.faults().once(Endpoint::Code, held);
            }
            step => store.faults.set(&[step], Fail::Hold(gate.clone())),
        }
        let waiting = deliver(&app, &traveller, &answer);
        gate.arrived(1).await;
        store.faults.clear();
        app.auth.end_sign_ins_of(&alice).await.unwrap();
        gate.open();
        let answer = waiting.await.unwrap();
        assert_eq!(answer.status, 303, "{step}: {}", answer.body);
        assert_eq!(answer.location().path(), "/authorize", "{step}");
        assert_eq!(answer.param("prompt").as_deref(), Some("login"), "{step}");
        assert_eq!(sign_ins(&app).await, 0, "{step}");
        let report = app.auth.shutdown().await;
        assert_eq!((report.finished, report.outbox), (true, Some(0)), "{step}");
        for secret in provider.secrets() {
            assert!(
                !provider.is_active(&secret),
                "{step}: a token is left behind"
            );
        }
    }
}

/// The store was away when the user signed out everywhere. Without it nobody can say whether a sign-in is one of those that were
/// meant, and with it the eviction is made up for first: who is let in stays in.
#[tokio::test]
async fn a_sign_in_that_arrives_while_an_eviction_is_pending_waits_for_it_and_is_not_lost_r43_a5() {
    let provider = TestProvider::start().await;
    let (app, store) = faulty(&provider).await;
    let here = browser(&app, "here", "alice").await;
    store.faults.set(&["remove"], Fail::Unavailable);
    let (_, report) = app.leave(&here, json!({ "everywhere": true })).await;
    assert_eq!(report.pending, 1);

    let mut traveller = TestBrowser::new();
    let answer = under_way(&app, &mut traveller, "alice").await;
    let page = traveller.goto(answer.as_str()).await.unwrap();
    assert_eq!(page.status(), 503, "{}", page.body());
    let mut bob = TestBrowser::new();
    app.sign_in(&mut bob, "bob").await;
    assert_eq!(who(&app, &mut bob).await, "bob", "he is not meant");

    let answer = under_way(&app, &mut traveller, "alice").await;
    store.faults.clear();
    let page = traveller.goto(answer.as_str()).await.unwrap();
    assert!(
        page.has_id("login-alice"),
        "it started before the eviction was done"
    );
    traveller.submit("login-alice", &[]).await.unwrap();
    assert_eq!(traveller.follow().await.unwrap().body(), "alice");
    let report = app.auth.shutdown().await;
    assert_eq!((report.finished, report.pending), (true, 0));
    assert_eq!(who(&app, &mut traveller).await, "alice");
    let seen = app.seen();
    let causes: Vec<_> = seen.iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::SignOutEverywhere], "once");
}

/// The accounts that a session cookie opens, and the cookie that the browser has then.
async fn open(app: &App, cookie: &str) -> (Vec<String>, String) {
    let answer = send(&app.router, "GET", "/me", &[("cookie", cookie)], "").await;
    if answer.status == 401 {
        return (Vec::new(), String::new());
    }
    let me: Value = serde_json::from_str(&answer.body).unwrap();
    let all = me["accounts"].as_array().unwrap().iter();
    let subject = |one: &Value| one["subject"].as_str().unwrap().to_owned();
    let renewed = answer
        .set_cookies()
        .iter()
        .any(|set| set.starts_with("id="));
    let cookie = match renewed {
        true => session_cookie(&answer),
        false => cookie.to_owned(),
    };
    (all.map(subject).collect(), cookie)
}

async fn opened(app: &App, cookie: &str) -> Vec<String> {
    open(app, cookie).await.0
}

fn session_cookie(answer: &Answer) -> String {
    let set = answer.set_cookies();
    let id = set.iter().find(|cookie| cookie.starts_with("id=")).unwrap();
    id.split(';').next().unwrap().to_owned()
}

/// Of two answers that arrive at once, each brings a session, and the browser keeps one of the two. Whichever it is: each account is
/// in one session at most, under the key that opens it, and nothing else is there. An account that was in the session before
/// stays in one of the two, or has ended and the hooks know.
#[tokio::test]
async fn two_tabs_that_sign_in_two_accounts_at_once_leave_no_dead_keys_and_no_keys_that_nobody_has()
{
    for (first, held_at) in [
        (None, "create"),
        (Some("carol"), "create"),
        (Some("carol"), "rekey"),
    ] {
        let provider = TestProvider::start().await;
        provider.add_user(TestUser::new("carol"));
        let sessions = FaultySessions::default();
        let store = FaultyStore::new();
        let for_auth = store.clone();
        let app = setup()
            .sessions(SessionManagerLayer::new(sessions.clone()))
            .auth(move |auth| labelled(auth).store(for_auth))
            .start(&provider)
            .await;
        let mut window = TestBrowser::new();
        if let Some(first) = first {
            app.sign_in(&mut window, first).await;
        }
        let before = cookies(&window);
        let (mut one, mut two) = (window.clone(), window);
        let answers = [
            under_way(&app, &mut one, "alice").await,
            under_way(&app, &mut two, "bob").await,
        ];
        let gate = Gate::new();
        store.faults.set(&[held_at], Fail::Hold(gate.clone()));
        let tabs = [
            deliver(&app, &one, &answers[0]),
            deliver(&app, &two, &answers[1]),
        ];
        gate.arrived(2).await;
        gate.open();
        let mut found = BTreeMap::new();
        for tab in tabs {
            let answer = tab.await.unwrap();
            assert_eq!(answer.status, 200, "{}", answer.body);
            let cookie = session_cookie(&answer);
            let (accounts, cookie) = open(&app, &cookie).await;
            assert_eq!(opened(&app, &cookie).await, accounts, "{first:?} {held_at}");
            for account in accounts {
                let other = found.insert(account.clone(), cookie.clone());
                assert_eq!(other, None, "{account} is in one session only");
            }
        }
        assert!(found.contains_key("alice") && found.contains_key("bob"));
        let ended = app.seen();
        let ended: Vec<_> = ended.iter().map(|seen| seen.subject.as_str()).collect();
        if let Some(first) = first {
            assert_ne!(
                found.contains_key(first),
                ended.contains(&first),
                "{held_at}"
            );
        }
        assert_eq!(sign_ins(&app).await, found.len(), "and no other is there");
        assert!(opened(&app, &before).await.is_empty());
        // What the browser does not hold any more, its user can see and end.
        let alice = Account::new(provider.issuer(), "alice");
        assert_eq!(app.auth.sign_ins_of(&alice).await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn ending_the_others_during_a_refresh_of_one_of_them_gets_it_nothing_r31_r43() {
    let world = world().await;
    let mut here = browser(&world.app, "here", "alice").await;
    let phone = browser(&world.app, "phone", "alice").await;
    let gate = Gate::new();
    let held = Fault::HoldAnswer(gate.clone());
    world.provider.faults().once(Endpoint::Refresh, held);
    world.expire_tokens();
    let tokens = world.tokens(&phone).await;
    let waiting = {
        let tokens = tokens.clone();
        tokio::spawn(async move { tokens.acquire(()).await })
    };
    gate.arrived(1).await;
    let report = pressed(&world.app, &mut here, "/sign-ins/end-others").await;
    assert_eq!(evicted(&report), 1);
    gate.open();
    let refused = waiting.await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotSignedIn);
    assert_eq!(tokens.ended().await, Cause::SignOutOthers);
    assert_eq!(who(&world.app, &mut phone.clone()).await, "nobody");
    // This one goes on, with a refresh of its own.
    let own = world.tokens(&here).await.acquire(()).await.unwrap();
    world.finish().await;
    assert!(world.provider.is_active(own.secret()));
    let live = world.provider.secrets();
    let live = live
        .iter()
        .filter(|secret| world.provider.is_active(secret));
    assert_eq!(live.count(), 2, "access and refresh token of this one");
}

/// The session of the phone is renewed, because Bob leaves it, while Alice ends her other sign-ins.
#[tokio::test]
async fn ending_the_others_while_one_of_them_gets_a_new_key_leaves_no_way_in_r37_r43() {
    for held_at in ["rekey", "remove"] {
        let provider = TestProvider::start().await;
        let (app, store) = faulty(&provider).await;
        let mut here = browser(&app, "here", "alice").await;
        let mut phone = browser(&app, "phone", "alice").await;
        app.sign_in(&mut phone, "bob").await;
        let old = cookies(&phone);
        let gate = Gate::new();
        let bob_leaves = json!({ "account": "bob", "account_issuer": provider.issuer() });
        store.faults.set(&[held_at], Fail::Hold(gate.clone()));
        let answer = if held_at == "rekey" {
            let (router, cookie) = (app.router.clone(), old.clone());
            let waiting = tokio::spawn(async move {
                let headers = [("cookie", &*cookie), ("content-type", "application/json")];
                send(&router, "POST", "/leave", &headers, &bob_leaves.to_string()).await
            });
            gate.arrived(1).await;
            store.faults.clear();
            let report = pressed(&app, &mut here, "/sign-ins/end-others").await;
            assert_eq!(evicted(&report), 1);
            gate.open();
            waiting.await.unwrap()
        } else {
            let waiting = post(&app, &here, "/sign-ins/end-others");
            gate.arrived(1).await;
            store.faults.clear();
            let (answer, _) = app.leave(&phone, bob_leaves).await;
            gate.open();
            assert_eq!(waiting.await.unwrap().status, 200);
            answer
        };
        assert_eq!(sign_ins(&app).await, 1, "{held_at}");
        assert_eq!(opened(&app, &old).await, [""; 0], "{held_at}");
        assert_eq!(
            opened(&app, &session_cookie(&answer)).await,
            [""; 0],
            "{held_at}"
        );
        assert_eq!(who(&app, &mut here).await, "alice", "{held_at}");
    }
}

#[tokio::test]
async fn signing_out_everywhere_from_two_sessions_at_once_ends_each_sign_in_once_r43_a14() {
    let provider = TestProvider::start().await;
    let (app, store) = faulty(&provider).await;
    let one = browser(&app, "one", "alice").await;
    let two = browser(&app, "two", "alice").await;
    let gate = Gate::new();
    store.faults.set(&["remove"], Fail::Hold(gate.clone()));
    let both = [
        post(&app, &one, "/sign-ins/end-all"),
        post(&app, &two, "/sign-ins/end-all"),
    ];
    gate.arrived(2).await;
    gate.open();
    let mut ended = 0;
    for answer in both {
        let answer = answer.await.unwrap();
        assert_eq!(answer.status, 200);
        assert!(
            session_cookie(&answer).ends_with('='),
            "the cookie is taken back"
        );
        let report: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(report["session"], "Ended");
        ended += evicted(&report);
    }
    assert_eq!(ended, 2, "each in one of the reports");
    assert_eq!(app.seen().len(), 2);
    for browser in [one, two] {
        assert!(opened(&app, &cookies(&browser)).await.is_empty());
    }
}

/// A request that was there before, and comes back with the old record.
#[tokio::test]
async fn a_request_that_saves_its_session_across_a_sign_out_everywhere_signs_nobody_in_r43() {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let app = setup()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .start(&provider)
        .await;
    let mut here = browser(&app, "here", "alice").await;
    let phone = browser(&app, "phone", "alice").await;
    let gate = Gate::new();
    sessions.faults.set(&["save"], Fail::Hold(gate.clone()));
    let (router, cookie) = (app.router.clone(), cookies(&phone));
    let saving = tokio::spawn(async move {
        use tower::ServiceExt as _;
        let request = get_request("/cart/apples", &cookie);
        router.oneshot(request).await.unwrap()
    });
    gate.arrived(1).await;
    sessions.faults.clear();
    pressed(&app, &mut here, "/sign-ins/end-all").await;
    gate.open();
    saving.await.unwrap();
    assert!(opened(&app, &cookies(&phone)).await.is_empty());
    assert_eq!(app.get(&mut phone.clone(), "/cart/show").await.body(), "");
}
