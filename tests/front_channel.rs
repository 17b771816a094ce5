//! Front-channel logout, end to end on the in-process provider, which is on another site (`localhost`) than the app.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum_signout::testing::{Event, Fault, Gate, TestBrowser, TestClient, TestProvider};
use axum_signout::{Auth, Cause, ConfigError, Provider};
use serde_json::json;
use support::app::{Answer, App, CLIENT, SECRET, Setup, cookies, get_request, send};
use support::faulty::{Fail, FaultyStore};
use tower::ServiceExt as _;
use url::form_urlencoded::byte_serialize;

const PATH: &str = "/signout/frontchannel";

fn set_up(provider: &TestProvider) -> impl FnOnce(&str) {
    |base| {
        let client = TestClient::new(CLIENT).secret(SECRET).app(base);
        // Not the back channel too, which would come first.
        provider.add_client(client.frontchannel_logout_uri(format!("{base}{PATH}")));
    }
}

/// A provider, an app, and a browser in which alice is signed in.
async fn signed_in(setup: Setup) -> (TestProvider, App, TestBrowser) {
    let provider = TestProvider::builder().host("localhost").start().await;
    let app = setup.start_with(provider.issuer(), set_up(&provider)).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    (provider, app, browser)
}

async fn sid(app: &App, browser: &mut TestBrowser) -> String {
    let me = app.get(browser, "/me").await.json().unwrap();
    me["accounts"][0]["sid"].as_str().unwrap().to_owned()
}

fn query(issuer: &str, sid: &str) -> String {
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    format!("iss={}&sid={}", encoded(issuer), encoded(sid))
}

async fn call(app: &App, query: &str, cookie: &str) -> Answer {
    let headers: &[(&str, &str)] = match cookie {
        "" => &[],
        cookie => &[("cookie", cookie)],
    };
    send(&app.router, "GET", &format!("{PATH}?{query}"), headers, "").await
}

async fn sign_ins(app: &App) -> usize {
    app.auth.stats().await.unwrap().sign_ins
}

fn removes_session_cookie(answer: &Answer) -> bool {
    let all = answer.set_cookies();
    all.iter()
        .any(|cookie| cookie.starts_with("id=;") && cookie.contains("Max-Age=0"))
}

/// With a limit, so that what does not happen fails the test.
async fn until(mut what: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, wait).await.expect("it happens");
}

/// The user signs out at the provider, whose page loads the app's in a frame.
#[tokio::test]
async fn oidcc_client_test_rp_frontchannel_opinitlogout_r14_r16() {
    let (provider, app, mut browser) = signed_in(Setup::new()).await;
    app.get(&mut browser, "/cart/milk").await;
    assert_eq!(app.get(&mut browser, "/cart/show").await.body(), "milk");
    provider.clear_events();

    browser.goto(provider.url("/end_session")).await.unwrap();
    browser.submit("confirm-logout", &[]).await.unwrap();
    let frames = browser.load_frames().await.unwrap();
    assert_eq!((frames.len(), frames[0].status().as_u16()), (1, 200));
    let sent = frames[0].request_headers();
    assert_eq!(sent["sec-fetch-site"], "cross-site");
    assert!(
        !sent.contains_key("cookie"),
        "it is not found by the cookie"
    );
    assert_eq!(sign_ins(&app).await, 0);

    // The next request is anonymous, and what was in the session is gone (promise 4).
    let page = app.get(&mut browser, "/whoami").await;
    assert_eq!(page.body(), "nobody");
    assert!(browser.cookies("127.0.0.1").is_empty());
    assert_eq!(app.get(&mut browser, "/cart/show").await.body(), "");
    until(async || app.seen().len() == 1).await;
    let seen = app.seen().remove(0);
    assert_eq!((seen.cause, &*seen.subject), (Cause::FrontChannel, "alice"));

    // R16: nothing is revoked, now or later.
    assert_eq!(app.auth.stats().await.unwrap().outbox, 0);
    app.auth.shutdown().await;
    let revoked = |event: &Event| matches!(event, Event::Revoked { .. });
    assert_eq!(provider.count(revoked), 0);
}

/// The app's own sign-out goes through the provider, whose page loads the app's in a frame: nobody is there any more.
#[tokio::test]
async fn oidcc_client_test_rp_frontchannel_rpinitlogout_r14_r17() {
    let setup = Setup::new().auth(|auth| auth.after_sign_out("/"));
    let (provider, app, mut browser) = signed_in(setup).await;
    browser.post_form("/signout", &[]).await.unwrap();
    browser.submit("confirm-logout", &[]).await.unwrap();
    let frames = browser.load_frames().await.unwrap();
    assert_eq!((frames.len(), frames[0].status().as_u16()), (1, 200));
    let page = browser.follow().await.unwrap();
    assert_eq!(page.url().as_str(), app.url("/"));
    assert!(provider.sessions().is_empty());
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
    let causes: Vec<Cause> = app.seen().iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::UserSignOut]);
}

#[tokio::test]
async fn what_names_no_sign_in_changes_nothing_r14_r17() {
    let (provider, app, mut browser) = signed_in(Setup::new()).await;
    let sid = sid(&app, &mut browser).await;
    let issuer = provider.issuer();
    let good = query(issuer, &sid);
    let long = query(issuer, &"s".repeat(5000));
    let before = app.auth.stats().await.unwrap();
    let rows = [
        ("nothing", String::new(), 400),
        ("sid alone", format!("sid={sid}"), 400),
        ("iss alone", format!("iss={issuer}"), 400),
        ("iss empty", format!("iss=&sid={sid}"), 400),
        ("sid empty", query(issuer, ""), 400),
        ("doubled", format!("{good}&sid={sid}"), 400),
        ("over-long", long, 400),
        ("another issuer", query("https://other.example", &sid), 200),
        (
            "the issuer with a slash",
            query(&format!("{issuer}/"), &sid),
            200,
        ),
        ("another sid", query(issuer, "nobody's"), 200),
        ("the subject as sid", query(issuer, "alice"), 200),
        ("script", query("<script>alert(1)</script>", "<b>"), 200),
    ];
    let page = call(&app, &query(issuer, "nobody's"), "").await.body;
    for cookie in ["", &*cookies(&browser)] {
        for (name, query, status) in &rows {
            let answer = call(&app, query, cookie).await;
            assert_eq!(answer.status, *status, "{name}");
            assert_eq!(
                answer.body, page,
                "R15: the same whatever was asked, {name}"
            );
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
            assert!(answer.set_cookies().is_empty(), "{name}");
        }
    }
    let post = send(&app.router, "POST", &format!("{PATH}?{good}"), &[], "").await;
    assert_eq!(post.status, 405);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    // Nor does the store remember what strangers ask for, which would fill it.
    for n in 0..200 {
        call(&app, &query(issuer, &format!("guess-{n}")), "").await;
    }
    let after = app.auth.stats().await.unwrap();
    assert_eq!((after.marks, after.claims), (before.marks, before.claims));

    // And all the while it would have worked.
    assert_eq!(call(&app, &format!("own=1&{good}"), "").await.status, 200);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
}

#[tokio::test]
async fn only_the_provider_may_frame_the_answer_r15() {
    let first = TestProvider::start().await;
    let second = TestProvider::builder().host("localhost").start().await;
    let elsewhere = "http://127.0.0.1:1";
    let endpoint = json!(format!("{elsewhere}/logout"));
    let fault = Fault::Set("end_session_endpoint".into(), endpoint);
    let faults = second.faults();
    faults.always(axum_signout::testing::Endpoint::Discovery, fault);
    let issuer = second.issuer().to_owned();
    let app = Setup::new()
        .auth(move |auth| {
            let other = Provider::discover(issuer, CLIENT).client_secret(SECRET);
            auth.provider(other.name("second").build().unwrap())
        })
        .start(&first)
        .await;
    for provider in app.auth.providers() {
        provider.ready().await.unwrap();
    }
    let (one, two) = (first.issuer(), second.issuer());
    let two_and_its_page = format!("{two} {elsewhere}");
    let all = format!("{one} {two_and_its_page}");
    let rows = [
        ("known", query(one, "s"), one),
        (
            "whose logout is elsewhere",
            query(two, "s"),
            &*two_and_its_page,
        ),
        ("unknown", query("https://other.example", "s"), &*all),
        ("malformed", String::new(), &*all),
    ];
    for (name, query, framers) in rows {
        let answer = call(&app, &query, "").await;
        let policy = answer.header("content-security-policy").unwrap();
        let expected = format!("default-src 'none'; frame-ancestors {framers}");
        assert_eq!(policy, expected, "{name}");
        assert_eq!(answer.header("x-frame-options"), None, "{name}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
        assert_eq!(
            answer.header("x-content-type-options"),
            Some("nosniff"),
            "{name}"
        );
        assert_eq!(answer.header("clear-site-data"), None, "{name}");
    }
}

#[tokio::test]
async fn entras_sid_without_issuer_works_by_opt_in_r14() {
    let setup = Setup::new().auth(|auth| auth.front_channel_sid_without_issuer(true));
    let (_provider, app, mut browser) = signed_in(setup).await;
    let sid = sid(&app, &mut browser).await;
    let alone = |sid: &str| format!("sid={}", byte_serialize(sid.as_bytes()).collect::<String>());
    assert_eq!(call(&app, &alone("another"), "").await.status, 200);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    assert_eq!(call(&app, &alone(&sid), "").await.status, 200);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
}

#[test]
fn a_sid_without_issuer_needs_a_single_provider_r14() {
    let provider = |n: u8| {
        let provider = Provider::discover(format!("https://op{n}.example"), CLIENT);
        provider.client_secret(SECRET).build().unwrap()
    };
    let auth = Auth::builder(provider(1), "https://app.example")
        .provider(provider(2))
        .front_channel_sid_without_issuer(true);
    assert!(matches!(
        auth.build(),
        Err(ConfigError::OutOfRange {
            what: "front_channel_sid_without_issuer",
            ..
        })
    ));
}

#[tokio::test]
async fn the_cookie_is_removed_where_it_comes_along_and_its_sign_in_ended_r15_r41() {
    let (provider, app, mut alice) = signed_in(Setup::new()).await;
    let mut bob = TestBrowser::new();
    app.sign_in(&mut bob, "bob").await;
    let sid_of_alice = query(provider.issuer(), &sid(&app, &mut alice).await);

    // Bob's browser loads the page that ends alice's sign-in: his own session is none of its business.
    let answer = call(&app, &sid_of_alice, &cookies(&bob)).await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.set_cookies().is_empty(),
        "{:?}",
        answer.set_cookies()
    );
    assert_eq!(app.get(&mut bob, "/whoami").await.body(), "bob");
    assert_eq!(sign_ins(&app).await, 1);

    // Hers, by a request of its own that ends nothing any more.
    let answer = call(&app, &sid_of_alice, &cookies(&alice)).await;
    assert!(
        removes_session_cookie(&answer),
        "{:?}",
        answer.set_cookies()
    );

    // His, by the one that ends it.
    let sid_of_bob = query(provider.issuer(), &sid(&app, &mut bob).await);
    let answer = call(&app, &sid_of_bob, &cookies(&bob)).await;
    assert!(
        removes_session_cookie(&answer),
        "{:?}",
        answer.set_cookies()
    );
    assert_eq!(app.get(&mut bob, "/whoami").await.body(), "nobody");
}

/// Only a cookie with `SameSite=None; Secure` comes along there, and only such a removal is heeded.
#[tokio::test]
async fn in_a_frame_on_another_site_the_removal_is_one_that_browsers_heed_r15_r41() {
    let (provider, app, mut alice) = signed_in(Setup::new()).await;
    let query = query(provider.issuer(), &sid(&app, &mut alice).await);
    let headers = [
        ("cookie", &*cookies(&alice)),
        ("sec-fetch-site", "cross-site"),
    ];
    let path = format!("{PATH}?{query}");
    let answer = send(&app.router, "GET", &path, &headers, "").await;
    let [removal] = answer.set_cookies()[..] else {
        panic!("{:?}", answer.set_cookies())
    };
    assert!(removal.starts_with("id=;") && removal.contains("Max-Age=0"));
    assert!(removal.contains("; SameSite=None") && removal.contains("; Secure"));
    assert!(!removal.contains("Lax"));
}

#[tokio::test]
async fn of_two_accounts_in_a_session_the_other_one_stays_r14() {
    let first = TestProvider::start().await;
    let second = TestProvider::start().await;
    let issuer = second.issuer().to_owned();
    let app = Setup::new()
        .auth(move |auth| {
            let other = Provider::discover(issuer, CLIENT).client_secret(SECRET);
            auth.provider(other.name("second").build().unwrap())
        })
        .start(&first)
        .await;
    second.add_client(TestClient::new(CLIENT).secret(SECRET).app(&app.base));
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let sid_of_alice = query(first.issuer(), &sid(&app, &mut browser).await);
    let path = "/signin?return_to=/whoami&provider=second";
    app.sign_in_at(&mut browser, "bob", path).await;
    app.get(&mut browser, "/cart/milk").await;
    let before = cookies(&browser);

    let page = browser
        .goto(app.url(&format!("{PATH}?{sid_of_alice}")))
        .await;
    assert_eq!(page.unwrap().status(), 200);
    assert_ne!(cookies(&browser), before, "a new session");
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "bob");
    assert_eq!(app.get(&mut browser, "/cart/show").await.body(), "");
    assert_eq!(sign_ins(&app).await, 1);
}

#[tokio::test]
async fn a_store_that_is_away_is_asked_again_and_the_answer_says_so_r14_a5() {
    for operation in ["members", "close", "remove"] {
        let store = FaultyStore::new();
        let faults = store.faults.clone();
        let setup = Setup::new().auth(|auth| auth.store(store));
        let (provider, app, mut browser) = signed_in(setup).await;
        let query = query(provider.issuer(), &sid(&app, &mut browser).await);
        faults.set(&[operation], Fail::Unavailable);
        let answer = call(&app, &query, "").await;
        assert_eq!(answer.status, 503, "{operation}");
        assert_eq!(sign_ins(&app).await, 1, "{operation}");
        if operation != "members" {
            // Held back: this node serves it no more.
            let page = app.get(&mut browser, "/whoami").await;
            assert_eq!(page.body(), "nobody", "{operation}");
        }
        faults.clear();
        until(async || sign_ins(&app).await == 0).await;
        assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
        until(async || app.seen().len() == 1).await;
    }
}

#[tokio::test]
async fn hooks_are_told_but_not_waited_for_r14() {
    let gate = Gate::new();
    let told = Arc::new(AtomicBool::new(false));
    let (held, flag) = (gate.clone(), told.clone());
    let setup = Setup::new().auth(move |auth| {
        auth.on_evict(move |_| {
            let (held, flag) = (held.clone(), flag.clone());
            async move {
                held.pass().await;
                flag.store(true, Ordering::SeqCst);
            }
        })
    });
    let (provider, app, mut browser) = signed_in(setup).await;
    let query = query(provider.issuer(), &sid(&app, &mut browser).await);
    assert_eq!(call(&app, &query, "").await.status, 200);
    gate.arrived(1).await;
    assert!(!told.load(Ordering::SeqCst));
    gate.open();
    until(async || told.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_frame_that_is_dropped_does_not_stop_it_r14() {
    let store = FaultyStore::new();
    let faults = store.faults.clone();
    let setup = Setup::new().auth(|auth| auth.store(store));
    let (provider, app, mut browser) = signed_in(setup).await;
    let query = query(provider.issuer(), &sid(&app, &mut browser).await);
    let gate = Gate::new();
    faults.set(&["members"], Fail::Hold(gate.clone()));
    let request = get_request(&format!("{PATH}?{query}"), "");
    let answer = tokio::spawn(app.router.clone().oneshot(request));
    gate.arrived(1).await;
    answer.abort();
    assert!(answer.await.unwrap_err().is_cancelled());
    assert_eq!(sign_ins(&app).await, 1);
    gate.open();
    until(async || sign_ins(&app).await == 0).await;
}

#[tokio::test]
async fn its_path_is_the_apps_to_choose_r14() {
    let setup = Setup::new().auth(|auth| auth.front_channel_path("/gone"));
    let (provider, app, mut browser) = signed_in(setup).await;
    let url = app.auth.registered_urls().frontchannel_logout_uri;
    assert_eq!(url, app.url("/gone"));
    let query = query(provider.issuer(), &sid(&app, &mut browser).await);
    assert_eq!(call(&app, &query, "").await.status, 404);
    let path = format!("/gone?{query}");
    assert_eq!(send(&app.router, "GET", &path, &[], "").await.status, 200);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
    // A link to sign-in must not end there.
    let refused = send(&app.router, "GET", "/signin?return_to=/gone", &[], "").await;
    assert_eq!(refused.status, 400);
}
