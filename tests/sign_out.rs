//! Signing out, end to end on the in-process provider.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::Method;
use axum::routing::post;
use axum_signout::clock::ManualClock;
use axum_signout::store::AnySessionStore;
use axum_signout::testing::{
    Endpoint, Event, Fault, Gate, TestBrowser, TestClient, TestProvider, TestUser,
};
use axum_signout::{
    Account, Auth, Cause, ClearSiteData, EndSessionRequest, Error, HookStatus, LongUrl, Provider,
    ProviderOutcome, Revocation, SessionOutcome, SignOut, TokenSet,
};
use serde_json::json;
use support::app::{Answer, App, CLIENT, SECRET, Setup, assert_no_secret, cookies, send};
use support::faulty::{ALL, Fail, FaultySessions, FaultyStore};
use tokio::sync::Notify;
use tower::ServiceExt as _;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer, SessionStore};

/// A provider, an app, and a browser in which alice is signed in.
async fn signed_in(setup: Setup) -> (TestProvider, App, TestBrowser) {
    let provider = TestProvider::start().await;
    let app = setup.start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    (provider, app, browser)
}

async fn sign_ins(app: &App) -> usize {
    app.auth.stats().await.unwrap().sign_ins
}

/// With a limit, so that what does not happen fails the test.
async fn within<T>(what: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, what).await.expect("it happens")
}

fn removes_session_cookie(answer: &Answer) -> bool {
    let all = answer.set_cookies();
    all.iter()
        .any(|cookie| cookie.starts_with("id=;") && cookie.contains("Max-Age=0"))
}

/// Everything local is done.
async fn assert_signed_out(app: &App, answer: &Answer) {
    assert_eq!(sign_ins(app).await, 0);
    assert!(removes_session_cookie(answer), "{:?}", answer.set_cookies());
    assert_eq!(answer.header("clear-site-data"), Some("\"storage\""));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn through_the_provider_and_back_r1_r2_r3_r6_r7() {
    let (provider, app, mut browser) =
        signed_in(Setup::new().auth(|auth| auth.after_sign_out("/"))).await;
    let access = app.get(&mut browser, "/token").await.body().to_owned();
    let me = app.get(&mut browser, "/me").await.json().unwrap();
    let sid = me["accounts"][0]["sid"].as_str().unwrap().to_owned();
    app.get(&mut browser, "/").await;
    browser.clear_history();
    let page = browser.post_form("/signout", &[]).await.unwrap();
    assert!(page.has_id("confirm-logout"), "the provider's page");
    // Complete before the user has confirmed anything there.
    let gone = browser.history()[0].clone();
    assert_eq!(gone.status(), 303);
    assert_eq!(sign_ins(&app).await, 0);
    assert_eq!(browser.cookie("127.0.0.1", "id"), None);
    assert_eq!(app.seen()[0].cause, Cause::UserSignOut);
    let Event::EndSessionRequested {
        method,
        params,
        hint,
        state,
    } = within(provider.wait_for(|e| matches!(e, Event::EndSessionRequested { .. }))).await
    else {
        unreachable!()
    };
    assert_eq!(method, "GET");
    assert_eq!(params.len(), 1, "{params:?}");
    assert_eq!(
        params["post_logout_redirect_uri"],
        app.url("/signout/callback")
    );
    let refresh = app.seen()[0].refresh_token.clone().unwrap();
    assert!(hint.is_some() && state.unwrap().reveal().len() == 43);

    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert_eq!(page.url().path(), "/");
    assert_eq!(page.body(), "public");
    assert!(provider.session_of(&sid).is_none());
    assert!(browser.cookies("127.0.0.1").is_empty());
    within(provider.wait_for(|e| matches!(e, Event::Revoked { token, .. } if *token == *access)))
        .await;
    assert!(!provider.is_active(&refresh) && !provider.is_active(&access));
    assert_no_secret(&provider, &app, &browser);

    // The provider asks again who it is.
    let page = browser.goto(app.url("/signin")).await.unwrap();
    assert!(page.has_id("login-alice"));
}

#[tokio::test]
async fn each_kind_of_client_gets_an_answer_it_can_follow_r9_r11() {
    type Row = (&'static str, &'static [(&'static str, &'static str)]);
    let rows: [Row; 5] = [
        (
            "form",
            &[
                ("accept", "text/html,*/*"),
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-mode", "navigate"),
                ("content-type", "application/x-www-form-urlencoded"),
            ],
        ),
        ("curl", &[]),
        ("curl with its default", &[("accept", "*/*")]),
        (
            "fetch",
            &[
                ("accept", "application/json"),
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-mode", "cors"),
            ],
        ),
        (
            "htmx",
            &[("accept", "text/html, */*"), ("hx-request", "true")],
        ),
    ];
    for (name, headers) in rows {
        let (provider, app, browser) = signed_in(Setup::new()).await;
        let answer = app.sign_out(&browser, headers).await;
        assert_signed_out(&app, &answer).await;
        let end_session = provider.url("/end_session?");
        match name {
            "fetch" => {
                assert_eq!(answer.status, 200);
                assert_eq!(answer.header("location"), None);
                let body: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
                let location = body["location"].as_str().unwrap();
                assert!(location.starts_with(&end_session), "{name}");
            }
            "htmx" => {
                assert_eq!(answer.status, 200);
                let location = answer.header("hx-redirect").unwrap();
                assert!(location.starts_with(&end_session), "{name}");
            }
            _ => {
                assert_eq!(answer.status, 303, "{name}");
                assert!(answer.header("location").unwrap().starts_with(&end_session));
            }
        }
    }
}

#[tokio::test]
async fn other_sites_cannot_sign_a_user_out_r10() {
    let (_provider, app, mut browser) = signed_in(Setup::new()).await;
    let page = browser
        .cross_site_post(app.url("/signout"), &[("return_to", "/")])
        .await
        .unwrap();
    assert_eq!(page.status(), 403);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("clear-site-data"), None);
    let rows: [&[(&str, &str)]; 7] = [
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "https://evil.example"), ("host", "app.example")],
        &[("origin", "null"), ("host", "app.example")],
        &[("sec-fetch-site", "cross-site"), ("hx-request", "true")],
        &[
            ("sec-fetch-site", "cross-site"),
            ("accept", "application/json"),
        ],
        &[
            ("origin", "https://evil.example"),
            ("host", "app.example"),
            ("x-forwarded-host", "evil.example"),
        ],
    ];
    for headers in rows {
        let answer = app.sign_out(&browser, headers).await;
        assert_eq!(answer.status, 403, "{headers:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.set_cookies().is_empty(), "{headers:?}");
    }
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn get_signs_out_by_configuration_only_and_is_defended_r10() {
    let (_provider, app, mut browser) = signed_in(Setup::new()).await;
    let page = app.get(&mut browser, "/signout").await;
    assert_eq!(page.status(), 405);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");

    let setup = Setup::new().auth(|auth| auth.sign_out_by_get(true));
    let (_provider, app, mut browser) = signed_in(setup).await;
    let page = browser.cross_site_link(app.url("/signout")).await.unwrap();
    assert_eq!(page.status(), 403);
    let cookie = cookies(&browser);
    let rows: [&[(&str, &str)]; 4] = [
        &[],
        &[
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", "no-cors"),
        ],
        &[
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-mode", "navigate"),
            ("sec-purpose", "prefetch"),
        ],
        &[("referer", "https://evil.example/")],
    ];
    for headers in rows {
        for method in ["GET", "HEAD"] {
            let mut all = vec![("cookie", &*cookie)];
            all.extend_from_slice(headers);
            let answer = send(&app.router, method, "/signout", &all, "").await;
            assert_eq!(answer.status, 403, "{headers:?}");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
        }
    }
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    let page = browser.goto(app.url("/signout?return_to=/")).await.unwrap();
    assert!(page.has_id("confirm-logout"));
    assert_eq!(sign_ins(&app).await, 0);
}

#[tokio::test]
async fn signing_out_twice_succeeds_twice_r6_a14() {
    let (_provider, app, browser) = signed_in(Setup::new()).await;
    let first = app.sign_out(&browser, &[]).await;
    assert_eq!(first.status, 303);
    // The same cookie again, and none at all.
    let again = app.sign_out(&browser, &[]).await;
    assert_eq!(again.status, 303);
    assert_eq!(again.location().path(), "/signout/callback");
    assert!(removes_session_cookie(&again));
    let stranger = app.sign_out(&TestBrowser::new(), &[]).await;
    assert_eq!(stranger.status, 303);
    assert_eq!(app.seen().len(), 1, "hooks hear of it once");
    let neutral = send(&app.router, "GET", "/signout/callback", &[], "").await;
    assert_eq!(neutral.status, 200);
    assert!(neutral.body.contains("You are signed out"));
}

#[tokio::test]
async fn a_strangers_sign_out_does_not_bother_the_session_store() {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .start(&provider)
        .await;
    sessions.faults.set(&["delete", "load"], Fail::Unavailable);
    let (answer, report) = app.leave(&TestBrowser::new(), json!({})).await;
    assert_eq!(answer.status, 303);
    assert_eq!(report.session, SessionOutcome::None);
    assert_eq!(report.provider, ProviderOutcome::NotAsked);
    assert!(report.evicted.is_empty());
}

#[tokio::test]
async fn return_to_goes_through_the_allowlist_or_nothing_changes_a1() {
    let setup = Setup::new().auth(|auth| auth.allow_return_to("https://shop.example"));
    let (_provider, app, mut browser) = signed_in(setup).await;
    let cookie = cookies(&browser);
    let form = [
        ("cookie", &*cookie),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    let evil = [
        "//evil.example",
        "/\\evil.example",
        "/\t/evil.example",
        "/%09/evil.example",
        "/%2f%2fevil.example",
        "https://evil.example",
        "https://shop.example@evil.example",
        "https://shop.example.evil.example",
        "http://shop.example",
        "https:evil.example",
        "javascript:alert(1)",
        "/x\r\nSet-Cookie: a=b",
        "/x%0d%0aSet-Cookie: a=b",
        "mail",
    ];
    for target in evil {
        let body = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("return_to", target)
            .finish();
        let in_query = format!("/signout?{body}");
        for (path, body) in [("/signout", &*body), (&*in_query, "")] {
            let answer = send(&app.router, "POST", path, &form, body).await;
            assert_eq!(answer.status, 400, "{target:?}");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.header("clear-site-data"), None, "{target:?}");
            assert!(answer.set_cookies().is_empty(), "{target:?}");
            assert!(!answer.body.contains("evil"), "{target:?}");
        }
    }
    let malformed = [
        ("twice", "/signout", "return_to=/a&return_to=/b"),
        ("in query and body", "/signout?return_to=/a", "return_to=/b"),
        ("no such name of a sign-in", "/signout", "sign_in=x"),
        ("not UTF-8 after all", "/signout", "sign_in=%ff%fe"),
    ];
    for (name, path, body) in malformed {
        let answer = send(&app.router, "POST", path, &form, body).await;
        assert_eq!(answer.status, 400, "{name}");
        assert!(answer.set_cookies().is_empty(), "{name}");
    }
    let large = "x".repeat(9000);
    let answer = send(&app.router, "POST", "/signout", &form, &large).await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    assert!(app.seen().is_empty());

    // Allowed: it is where the way ends, after the provider.
    app.get(&mut browser, "/").await;
    let page = browser
        .post_form("/signout", &[("return_to", "/whoami?bye")])
        .await
        .unwrap();
    assert!(page.has_id("confirm-logout"));
    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert_eq!(page.url().as_str(), app.url("/whoami?bye"));
    assert_eq!(page.body(), "nobody");
}

#[tokio::test]
async fn a_scripts_fields_are_heard_or_refused() {
    let (_provider, app, mut browser) = signed_in(Setup::new()).await;
    app.sign_in(&mut browser, "bob").await;
    let me = app.get(&mut browser, "/me").await.json().unwrap();
    let alice = me["accounts"][0]["sign_in"].as_str().unwrap().to_owned();
    let cookie = cookies(&browser);
    let post = async |kind: &str, body: &str| {
        let headers = [
            ("cookie", &*cookie),
            ("accept", "application/json"),
            ("content-type", kind),
        ];
        send(&app.router, "POST", "/signout", &headers, body).await
    };
    let json = json!({ "sign_in": alice }).to_string();
    let multipart = format!("--x\r\ncontent-disposition: form-data; name=sign_in\r\n\r\n{alice}");
    for (kind, body) in [
        ("application/json", "{"),
        ("application/json", "[]"),
        ("application/json", r#"{"sign_in": 1}"#),
        ("application/json", r#"{"sign_in": "x"}"#),
        ("application/json", r#"{"return_to": "//evil.example"}"#),
        ("multipart/form-data; boundary=x", &*multipart),
        ("text/plain", &*json),
        ("", &*json),
    ] {
        let answer = post(kind, body).await;
        assert_eq!(answer.status, 400, "{kind} {body}");
        assert!(answer.set_cookies().is_empty(), "{kind} {body}");
    }
    assert_eq!(sign_ins(&app).await, 2);
    let answer = post("application/json; charset=utf-8", &json).await;
    assert_eq!(answer.status, 200);
    assert_eq!(sign_ins(&app).await, 1, "only the one that was named");
    assert_eq!(app.seen()[0].subject, "alice");
    // No body is no request for less.
    let (_provider, app, browser) = signed_in(Setup::new()).await;
    let answer = app
        .sign_out(&browser, &[("content-type", "text/plain")])
        .await;
    assert_signed_out(&app, &answer).await;
}

#[tokio::test]
async fn a_handlers_target_that_is_not_allowed_is_left_out_a1() {
    let setup = Setup::new().auth(|auth| auth.after_sign_out("/bye"));
    let (_provider, app, browser) = signed_in(setup).await;
    let wanted = json!({ "return_to": "//evil.example", "local_only": true });
    let (answer, _) = app.leave(&browser, wanted).await;
    assert_eq!(answer.location().as_str(), "http://app.invalid/bye");
    assert_signed_out(&app, &answer).await;
}

#[tokio::test]
async fn everything_that_one_sign_out_may_ask_for_r4() {
    let wanted = json!({
        "logout_hint": "ann", "ui_locales": "de en", "correlation_id": "corr-1",
        "extra": { "tenant": "t1", "state": "forged", "id_token_hint": "forged" },
    });
    let (provider, app, browser) = signed_in(Setup::new()).await;
    let (answer, report) = app.leave(&browser, wanted).await;
    assert!(
        answer
            .header("location")
            .unwrap()
            .starts_with(&provider.url("/end_session?"))
    );
    let params = ["logout_hint", "ui_locales", "tenant"].map(|name| answer.param(name).unwrap());
    assert_eq!(params, ["ann", "de en", "t1"]);
    assert_ne!(answer.param("state").unwrap(), "forged");
    assert_ne!(answer.param("id_token_hint").unwrap(), "forged");
    assert_eq!(answer.param("client_id"), None);
    assert_eq!(report.correlation_id, "corr-1");
    assert_eq!(report.evicted.len(), 1);
    assert_eq!(report.evicted[0].subject, "alice");
    assert_eq!(report.evicted[0].tokens, 3, "refresh, ID and access token");
    assert_eq!(report.tokens(), 3);
    assert_eq!((report.pending, report.session), (0, SessionOutcome::Ended));
    assert_eq!(report.revocation, Revocation::Queued(1));
    let issuer = provider.issuer().into();
    assert_eq!(report.provider, ProviderOutcome::Redirected { issuer });
    let serialised = serde_json::to_string(&report).unwrap() + &format!("{report:?}");
    assert!(
        provider
            .secrets()
            .iter()
            .all(|secret| !serialised.contains(secret))
    );

    type Row = (&'static str, serde_json::Value, fn(&Answer) -> bool);
    let rows: Vec<Row> = vec![
        ("unset is left out", json!({}), |a| {
            ["logout_hint", "ui_locales"]
                .iter()
                .all(|n| a.param(n).is_none())
        }),
        ("a hint of one's own", json!({ "hint": "a.b.c" }), |a| {
            a.param("id_token_hint").unwrap() == "a.b.c"
        }),
        ("no hint", json!({ "no_hint": true }), |a| {
            a.param("id_token_hint").is_none() && a.param("client_id").unwrap() == CLIENT
        }),
        ("nowhere", json!({ "nowhere": true }), |a| {
            a.param("post_logout_redirect_uri").is_none() && a.param("state").is_none()
        }),
        ("local only", json!({ "local_only": true }), |a| {
            a.location().path() == "/signout/callback"
        }),
        ("stopped by the app", json!({ "stay": true }), |a| {
            a.location().path() == "/signout/callback"
        }),
        (
            "the app's callback panics",
            json!({ "explode": true }),
            |a| a.location().path() == "/end_session",
        ),
        (
            "another issuer",
            json!({ "issuer": "https://x.example" }),
            |a| a.location().path() == "/signout/callback",
        ),
    ];
    for (name, wanted, holds) in rows {
        let (_provider, app, browser) = signed_in(Setup::new()).await;
        let (answer, report) = app.leave(&browser, wanted).await;
        assert!(holds(&answer), "{name}: {:?}", answer.location().path());
        assert_signed_out(&app, &answer).await;
        assert_eq!(report.evicted.len(), 1, "{name}");
        let stays = ["local only", "stopped by the app", "another issuer"].contains(&name);
        assert_eq!(
            report.provider == ProviderOutcome::NotAsked,
            stays,
            "{name}"
        );
    }
}

#[tokio::test]
async fn correlation_and_state_reach_every_hook_r4() {
    let evicted = Arc::new(Mutex::new(Vec::new()));
    let navigated = Arc::new(Mutex::new(Vec::new()));
    let returned = Arc::new(Mutex::new(Vec::new()));
    let (one, two, three) = (evicted.clone(), navigated.clone(), returned.clone());
    let setup = Setup::new().auth(move |auth| {
        auth.on_evict(move |eviction| {
            one.lock()
                .unwrap()
                .push(eviction.correlation_id().to_owned());
            std::future::ready(())
        })
        .before_navigation(move |navigation| {
            two.lock().unwrap().push(navigation.report.clone());
            std::future::ready(())
        })
        .after_callback(move |back| {
            three.lock().unwrap().push(back);
            std::future::ready(())
        })
    });
    let (_provider, app, mut browser) = signed_in(setup).await;
    let wanted = json!({ "correlation_id": "corr-2", "state": "app state", "return_to": "/?bye" });
    let (answer, report) = app.leave(&browser, wanted).await;
    for cookie in answer.set_cookies() {
        browser.set_cookie(&app.base, cookie).unwrap();
    }
    browser.goto(answer.location()).await.unwrap();
    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert_eq!(page.url().as_str(), app.url("/?bye"));
    assert_eq!(*evicted.lock().unwrap(), ["corr-2"]);
    let navigated = navigated.lock().unwrap();
    assert_eq!(navigated[0].correlation_id, "corr-2");
    assert_eq!(
        navigated[0].evicted.len(),
        1,
        "all local work is done by then"
    );
    let returned = returned.lock().unwrap();
    assert_eq!(returned.len(), 1);
    assert_eq!(returned[0].correlation_id, "corr-2");
    assert_eq!(returned[0].state.as_deref(), Some("app state"));
    assert_eq!(returned[0].target, "/?bye");
    assert_eq!(
        report.hooks.len(),
        3,
        "two for the eviction, one for the way"
    );
    assert!(
        report
            .hooks
            .iter()
            .all(|hook| hook.status == HookStatus::Done)
    );
    drop(app);
}

#[tokio::test]
async fn one_account_of_two_signs_out_and_the_other_stays_with_a_new_key_r4() {
    let provider = TestProvider::start().await;
    let store = MemoryStore::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(store.clone()))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    app.sign_in(&mut browser, "bob").await;
    app.get(&mut browser, "/cart/book").await;
    let old = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    let record = store.load(&old.parse().unwrap()).await.unwrap().unwrap();
    let wanted = json!({ "account": "bob", "account_issuer": provider.issuer() });
    let (answer, report) = app.leave(&browser, wanted.clone()).await;
    assert_eq!(report.session, SessionOutcome::Renewed);
    assert_eq!(report.evicted.len(), 1);
    assert_eq!(report.evicted[0].subject, "bob");
    for cookie in answer.set_cookies() {
        browser.set_cookie(&app.base, cookie).unwrap();
    }
    let new = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    assert_ne!(new, old);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    assert_eq!(
        app.get(&mut browser, "/cart/show").await.body(),
        "",
        "bob's data is gone"
    );
    // A racing save of the old record.
    store.save(&record).await.unwrap();
    let cookie = format!("id={old}");
    let answer = send(&app.router, "GET", "/whoami", &[("cookie", &*cookie)], "").await;
    assert_eq!(answer.body, "nobody");
    assert_eq!(sign_ins(&app).await, 1);

    // A14: an account that is not there is not an error, and ends nobody else's sign-in.
    let (answer, report) = app.leave(&browser, wanted).await;
    assert_eq!(answer.status, 303);
    assert!(report.evicted.is_empty());
    assert_eq!(report.session, SessionOutcome::None);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    let nobody = json!({ "sign_in": "AAAAAAAAAAAAAAAAAAAAAA" });
    let (_, report) = app.leave(&browser, nobody).await;
    assert!(report.evicted.is_empty());
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
}

#[tokio::test]
async fn a_sign_in_of_another_session_cannot_be_ended_by_its_name() {
    let (_provider, app, mut alice) = signed_in(Setup::new()).await;
    let mut bob = TestBrowser::new();
    app.sign_in(&mut bob, "bob").await;
    let me = app.get(&mut alice, "/me").await.json().unwrap();
    let name = me["accounts"][0]["sign_in"].as_str().unwrap();
    app.get(&mut bob, "/").await;
    bob.post_form("/signout", &[("sign_in", name)])
        .await
        .unwrap();
    assert_eq!(app.get(&mut alice, "/whoami").await.body(), "alice");
    assert_eq!(app.get(&mut bob, "/whoami").await.body(), "bob");
}

#[tokio::test]
async fn accounts_of_two_providers_are_signed_out_at_both_r4() {
    let first = TestProvider::start().await;
    let second = TestProvider::start().await;
    let issuer = second.issuer().to_owned();
    let app = Setup::new()
        .auth(move |auth| {
            let other = Provider::discover(issuer, CLIENT)
                .client_secret(SECRET)
                .name("second");
            auth.provider(other.build().unwrap()).after_sign_out("/")
        })
        .start(&first)
        .await;
    second.add_client(TestClient::new(CLIENT).secret(SECRET).app(&app.base));
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    app.sign_in_at(
        &mut browser,
        "bob",
        "/signin?return_to=/whoami&provider=second",
    )
    .await;
    app.get(&mut browser, "/").await;
    let page = browser.post_form("/signout", &[]).await.unwrap();
    assert!(
        page.url().as_str().starts_with(second.issuer()),
        "the latest first"
    );
    assert_eq!(sign_ins(&app).await, 0, "both ended at once here");
    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert!(page.url().as_str().starts_with(first.issuer()));
    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert_eq!(page.url().as_str(), app.url("/"));
    assert!(first.sessions().is_empty() && second.sessions().is_empty());
    assert!(browser.cookies("127.0.0.1").is_empty());
}

/// Signs somebody in whom no provider was asked about, so that the provider's metadata is not known yet.
fn plant() -> Router {
    Router::new().route(
        "/plant/{subject}",
        post(
            |auth: Auth,
             session: Session,
             axum::extract::Path(subject): axum::extract::Path<String>| async move {
                let account = Account::new(auth.providers()[0].issuer(), subject);
                auth.sign_in(&session, None, account, TokenSet::new())
                    .await?;
                Ok::<_, Error>("planted")
            },
        ),
    )
}

async fn planted(app: &App) -> TestBrowser {
    let answer = send(&app.router, "POST", "/plant/alice", &[], "").await;
    assert_eq!(answer.body, "planted");
    let mut browser = TestBrowser::new();
    for cookie in answer.set_cookies() {
        browser.set_cookie(&app.base, cookie).unwrap();
    }
    browser
}

#[tokio::test]
async fn a_provider_without_logout_or_out_of_reach_keeps_nobody_signed_in_r1_r45_a4() {
    enum Trouble {
        Fault(Fault),
        Down,
    }
    let set = |name: &str, value| Trouble::Fault(Fault::Set(name.into(), value));
    let rows = [
        (
            "no endpoint",
            Trouble::Fault(Fault::no_end_session_endpoint()),
            true,
        ),
        (
            "insecure endpoint",
            set("end_session_endpoint", json!("http://op.example/x")),
            true,
        ),
        (
            "endpoint a number",
            set("end_session_endpoint", json!(7)),
            true,
        ),
        (
            "endpoint a script",
            set("end_session_endpoint", json!("javascript:x")),
            true,
        ),
        ("down", Trouble::Down, false),
        ("500", Trouble::Fault(Fault::Status(500)), false),
        ("garbage", Trouble::Fault(Fault::Garbage), false),
        (
            "another issuer",
            Trouble::Fault(Fault::wrong_issuer()),
            false,
        ),
        ("connection dropped", Trouble::Fault(Fault::Drop), false),
    ];
    for (name, trouble, no_endpoint) in rows {
        let provider = TestProvider::start().await;
        match trouble {
            Trouble::Fault(fault) => provider.faults().always(Endpoint::Discovery, fault),
            Trouble::Down => provider.pause().await,
        }
        let app = Setup::new()
            .auth(|auth| auth.after_sign_out("/bye"))
            .routes(plant())
            .start(&provider)
            .await;
        let browser = planted(&app).await;
        let (answer, report) = app.leave(&browser, json!({})).await;
        assert_eq!(answer.status, 303, "{name}");
        assert_eq!(
            answer.location().as_str(),
            "http://app.invalid/bye",
            "{name}"
        );
        assert_signed_out(&app, &answer).await;
        let issuer = provider.issuer().into();
        let expected = match no_endpoint {
            true => ProviderOutcome::NoEndpoint { issuer },
            false => ProviderOutcome::Unavailable { issuer },
        };
        assert_eq!(report.provider, expected, "{name}");
        assert_eq!(app.seen().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_provider_that_hangs_holds_a_sign_out_up_for_three_seconds_at_most_a4() {
    let provider = TestProvider::start().await;
    let gate = Gate::new();
    let faults = provider.faults();
    faults.always(Endpoint::Discovery, Fault::Hold(gate.clone()));
    let app = Setup::new().routes(plant()).start(&provider).await;
    let browser = planted(&app).await;
    let before = std::time::Instant::now();
    let (answer, report) = within(app.leave(&browser, json!({}))).await;
    assert!(before.elapsed() < Duration::from_secs(6));
    assert_signed_out(&app, &answer).await;
    assert!(matches!(
        report.provider,
        ProviderOutcome::Unavailable { .. }
    ));
    gate.open();
}

#[tokio::test]
async fn the_endpoints_own_query_survives_r1() {
    let (provider, app, browser) = {
        let provider = TestProvider::start().await;
        let endpoint = format!("{}?policy=b2c", provider.url("/end_session"));
        let fault = Fault::Set("end_session_endpoint".into(), json!(endpoint));
        provider.faults().always(Endpoint::Discovery, fault);
        let app = Setup::new().start(&provider).await;
        let mut browser = TestBrowser::new();
        app.sign_in(&mut browser, "alice").await;
        (provider, app, browser)
    };
    let answer = app.sign_out(&browser, &[]).await;
    let expected = provider.url("/end_session?policy=b2c&id_token_hint=");
    assert!(answer.header("location").unwrap().starts_with(&expected));
}

/// An ID token lives for minutes, and a sign-in for days.
#[tokio::test]
async fn an_id_token_that_has_expired_is_the_hint_all_the_same_r2() {
    let clock = Arc::new(ManualClock::new());
    let (for_auth, left) = (clock.clone(), Arc::new(Mutex::new(None)));
    let seen = left.clone();
    let setup = Setup::new().auth(move |auth| {
        auth.clock(for_auth).on_evict(move |eviction| {
            let id_token = eviction.tokens().id_token();
            *seen.lock().unwrap() = id_token.map(|token| token.secret().to_owned());
            std::future::ready(())
        })
    });
    let (_provider, app, browser) = signed_in(setup).await;
    clock.advance(Duration::from_secs(90 * 60));
    let answer = app.sign_out(&browser, &[]).await;
    let hint = answer.param("id_token_hint");
    assert!(hint.is_some());
    assert_eq!(hint, *left.lock().unwrap());
}

#[tokio::test]
async fn the_callback_without_the_right_state_is_a_neutral_page_r7() {
    let clock = Arc::new(ManualClock::new());
    let for_auth = clock.clone();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let setup = Setup::new().auth(move |auth| {
        auth.clock(for_auth)
            .after_sign_out("/bye")
            .after_callback(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
                std::future::ready(())
            })
    });
    let (_provider, app, browser) = signed_in(setup).await;
    let answer = app.sign_out(&browser, &[]).await;
    let state = answer.param("state").unwrap();
    let sealed = answer.set_cookies();
    let sealed = sealed
        .iter()
        .find(|c| c.contains("axum-signout.signout."))
        .unwrap();
    let pair = sealed.split(';').next().unwrap().to_owned();
    assert!(sealed.contains("; HttpOnly; SameSite=Lax"));
    let good = format!("state={state}");
    let rows = [
        ("nothing", String::new(), &*pair),
        ("empty", "state=".into(), &*pair),
        ("wrong", "state=abc".into(), &*pair),
        (
            "wrong, right length",
            format!("state={}", "A".repeat(43)),
            &*pair,
        ),
        ("doubled", format!("{good}&{good}"), &*pair),
        ("another browser", good.clone(), ""),
        (
            "garbage cookie",
            good.clone(),
            pair.split('=').next().unwrap(),
        ),
        (
            "script",
            "state=%3Cscript%3Ealert(1)%3C/script%3E&error=x".into(),
            &*pair,
        ),
        ("long", format!("state={}", "a".repeat(20_000)), &*pair),
    ];
    let call = async |query: &str, cookie: &str| {
        let headers = [("cookie", cookie)];
        send(
            &app.router,
            "GET",
            &format!("/signout/callback?{query}"),
            &headers,
            "",
        )
        .await
    };
    for (name, query, cookie) in rows {
        let answer = call(&query, cookie).await;
        assert_eq!(answer.status, 200, "{name}");
        assert!(answer.body.contains("You are signed out"), "{name}");
        assert!(!answer.body.contains("script>alert"), "{name}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
        assert!(
            !answer.set_cookies().iter().any(|c| c.starts_with("id=")),
            "{name}"
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    let answer = call(&good, &pair).await;
    assert_eq!(answer.status, 303);
    assert_eq!(answer.location().path(), "/bye");
    assert!(answer.set_cookies()[0].contains("Max-Age=0"));
    let replayed = call(&good, &pair).await;
    assert_eq!(replayed.status, 200, "replayed");
    assert_eq!(calls.load(Ordering::SeqCst), 1);

    // Expired, whatever the browser does about `Max-Age`.
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let answer = app.sign_out(&browser, &[]).await;
    let state = answer.param("state").unwrap();
    let sealed = answer.set_cookies();
    let sealed = sealed
        .iter()
        .find(|c| c.contains("axum-signout.signout."))
        .unwrap();
    clock.advance(Duration::from_secs(10 * 60));
    let late = call(&format!("state={state}"), sealed.split(';').next().unwrap()).await;
    assert_eq!(late.status, 200);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// The OpenID Foundation's modules for the relying party's own sign-out: what the provider's redirect brings back, and what the
/// user sees then.
async fn rp_init_logout(edit: Option<Fault>, arrives_at: &str) {
    let setup = Setup::new().auth(|auth| auth.after_sign_out("/"));
    let (provider, app, mut browser) = signed_in(setup).await;
    if let Some(fault) = edit {
        provider.faults().always(Endpoint::EndSession, fault);
    }
    browser.post_form("/signout", &[]).await.unwrap();
    let sent = |event: &Event| {
        matches!(
            event,
            Event::EndSessionRequested {
                hint: Some(_),
                state: Some(_),
                ..
            }
        )
    };
    assert_eq!(provider.count(sent), 1);
    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert_eq!(
        (page.status().as_u16(), page.url().path()),
        (200, arrives_at)
    );
    assert!(provider.sessions().is_empty());
    assert_eq!(sign_ins(&app).await, 0);
    assert!(!browser.cookies("127.0.0.1").contains(&"id".to_owned()));
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
}

#[tokio::test]
async fn oidcc_client_test_rp_init_logout_r2_r3_r7() {
    rp_init_logout(None, "/").await;
}

#[tokio::test]
async fn oidcc_client_test_rp_init_logout_no_state_r7() {
    let fault = Fault::Without("state".into());
    rp_init_logout(Some(fault), "/signout/callback").await;
}

#[tokio::test]
async fn oidcc_client_test_rp_init_logout_other_state_r7() {
    let fault = Fault::Set("state".into(), json!("another-state"));
    rp_init_logout(Some(fault), "/signout/callback").await;
}

#[tokio::test]
async fn the_callback_leaves_a_session_alone_r7() {
    let (_provider, app, mut browser) = signed_in(Setup::new()).await;
    let page = browser
        .cross_site_link(app.url("/signout/callback"))
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
}

#[tokio::test]
async fn an_interrupted_sign_out_makes_the_next_sign_in_ask_r8() {
    for wanted in [json!({}), json!({ "nowhere": true })] {
        let (provider, app, mut browser) = signed_in(Setup::new()).await;
        let (answer, _) = app.leave(&browser, wanted).await;
        for cookie in answer.set_cookies() {
            browser.set_cookie(&app.base, cookie).unwrap();
        }
        // The user closes the tab instead of confirming: their session at the provider goes on.
        assert_eq!(provider.sessions().len(), 1);
        provider.clear_events();
        let prompted = |event: &Event| matches!(event, Event::Authorize { params, .. } if params.get("prompt").is_some_and(|p| p == "login"));
        let page = browser
            .goto(app.url("/signin?return_to=/whoami"))
            .await
            .unwrap();
        assert!(page.has_id("login-alice"), "no silent sign-in");
        assert_eq!(provider.count(prompted), 1);
        browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(browser.follow().await.unwrap().body(), "alice");
        // From then on it is forgotten.
        browser.goto(app.url("/signin")).await.unwrap();
        assert_eq!(provider.count(prompted), 1);
        assert_eq!(
            browser.cookies("127.0.0.1").len(),
            2,
            "session, and the provider's"
        );
    }
}

#[tokio::test]
async fn an_interrupted_sign_out_can_be_finished_r8() {
    let unfinished = Router::new().route(
        "/unfinished",
        axum::routing::get(|sign_out: SignOut| async move { sign_out.is_unfinished().to_string() }),
    );
    let setup = Setup::new()
        .auth(|auth| auth.after_sign_out("/"))
        .routes(unfinished);
    let (provider, app, mut browser) = signed_in(setup).await;
    assert_eq!(app.get(&mut browser, "/unfinished").await.body(), "false");
    browser.post_form("/signout", &[]).await.unwrap();
    // Back in the app without having confirmed.
    assert_eq!(app.get(&mut browser, "/unfinished").await.body(), "true");
    assert_eq!(provider.sessions().len(), 1);
    let page = browser
        .post_form("/signout", &[("return_to", "/whoami")])
        .await
        .unwrap();
    assert!(page.has_id("confirm-logout"), "at the provider once more");
    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert_eq!(page.url().as_str(), app.url("/whoami"));
    assert!(provider.sessions().is_empty());
    assert_eq!(app.get(&mut browser, "/unfinished").await.body(), "false");
    assert_eq!(app.seen().len(), 1);
    assert!(browser.cookies("127.0.0.1").is_empty());

    // Another site cannot send the user there.
    let page = browser
        .cross_site_post(app.url("/signout"), &[])
        .await
        .unwrap();
    assert_eq!(page.status(), 403);
}

#[tokio::test]
async fn a_url_that_is_too_long_becomes_a_form_or_loses_its_hint_r5_a13() {
    async fn long(what: LongUrl) -> (TestProvider, App, TestBrowser) {
        let provider = TestProvider::start().await;
        let roles: Vec<String> = (0..300).map(|n| format!("role-number-{n}")).collect();
        provider.add_user(TestUser::new("carol").claim("roles", roles));
        let app = Setup::new()
            .auth(move |auth| auth.long_url(4096, what).after_sign_out("/"))
            .start(&provider)
            .await;
        let mut browser = TestBrowser::new();
        app.sign_in(&mut browser, "carol").await;
        (provider, app, browser)
    }
    let (provider, app, mut browser) = long(LongUrl::FormPost).await;
    app.get(&mut browser, "/").await;
    let page = browser.post_form("/signout", &[]).await.unwrap();
    assert_eq!(page.status(), 200);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(sign_ins(&app).await, 0);
    let page = browser.follow().await.unwrap();
    assert!(page.has_id("confirm-logout"));
    let posted = |e: &Event| matches!(e, Event::EndSessionRequested { method, hint: Some(_), .. } if method == "POST");
    assert_eq!(provider.count(posted), 1);
    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert_eq!(page.url().as_str(), app.url("/"));

    // A script or htmx cannot be given a form; and by configuration nobody is.
    for (what, headers) in [
        (LongUrl::FormPost, &[("accept", "application/json")][..]),
        (LongUrl::FormPost, &[("hx-request", "true")]),
        (LongUrl::DropHint, &[]),
    ] {
        let (_provider, app, browser) = long(what).await;
        let answer = app.sign_out(&browser, headers).await;
        assert_signed_out(&app, &answer).await;
        let all = format!("{:?}{}", answer.headers, answer.body);
        assert!(all.contains("client_id=app") && !all.contains("id_token_hint"));
    }
}

#[tokio::test]
async fn site_data_is_cleared_as_configured_r12() {
    let rows = [
        (ClearSiteData::storage(), Some("\"storage\"")),
        (ClearSiteData::nothing(), None),
        (
            ClearSiteData::storage().and_cache().and_cookies(),
            Some("\"storage\", \"cache\", \"cookies\""),
        ),
    ];
    for (what, header) in rows {
        let setup = Setup::new().auth(move |auth| auth.clear_site_data(what));
        let (_provider, app, browser) = signed_in(setup).await;
        let answer = app.sign_out(&browser, &[]).await;
        assert_eq!(answer.header("clear-site-data"), header);
    }
}

#[tokio::test]
async fn nothing_of_these_routes_may_be_stored_r13() {
    let provider = TestProvider::start().await;
    let app = Setup::new().start(&provider).await;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let large = "x".repeat(10_000);
    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16);
    let rows: [Row; 15] = [
        ("GET", "/signin", &[], "", 303),
        ("GET", "/signin?return_to=//evil", &[], "", 400),
        ("POST", "/signin", &[], "", 405),
        ("GET", "/signin/callback", &[], "", 400),
        ("GET", "/signin/callback?state=x&code=y", &[], "", 400),
        ("POST", "/signin/callback", &[], "", 405),
        ("POST", "/signout", &[], "", 303),
        (
            "POST",
            "/signout",
            &[("accept", "application/json")],
            "",
            200,
        ),
        ("POST", "/signout", &[("hx-request", "true")], "", 200),
        (
            "POST",
            "/signout",
            &[("sec-fetch-site", "cross-site")],
            "",
            403,
        ),
        ("POST", "/signout", &[form], "return_to=//evil", 400),
        ("POST", "/signout", &[form], &large, 413),
        ("GET", "/signout", &[], "", 405),
        ("GET", "/signout/callback", &[], "", 200),
        ("POST", "/signout/callback", &[], "", 405),
    ];
    for (method, path, headers, body, status) in rows {
        let answer = send(&app.router, method, path, headers, body).await;
        assert_eq!(answer.status, status, "{method} {path} {headers:?}");
        assert_eq!(
            answer.header("cache-control"),
            Some("no-store"),
            "{method} {path}"
        );
    }
    provider.pause().await;
    let other = Setup::new().start(&provider).await;
    let answer = send(&other.router, "GET", "/signin", &[], "").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn a_host_prefixed_cookie_is_really_removed_r40_r41() {
    let sessions = SessionManagerLayer::new(MemoryStore::default()).with_name("__Host-id");
    let provider = TestProvider::start().await;
    let app = Setup::new().sessions(sessions).start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    app.get(&mut browser, "/").await;
    browser.clear_history();
    browser.post_form("/signout", &[]).await.unwrap();
    assert_eq!(browser.cookie("127.0.0.1", "__Host-id"), None);
    let page = &browser.history()[0];
    let removal = page
        .set_cookies()
        .find(|c| c.starts_with("__Host-id=;"))
        .unwrap();
    for attribute in ["Path=/", "Max-Age=0", "Secure", "HttpOnly", "SameSite=Lax"] {
        assert_eq!(
            removal.matches(&format!("; {attribute}")).count(),
            1,
            "{removal}"
        );
    }
    assert!(!removal.contains("Domain"));
}

#[tokio::test]
async fn a_session_store_that_fails_or_hangs_keeps_no_cookie_and_no_tokens_a10_r41() {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let cookie = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    sessions.faults.set(&["delete"], Fail::Unavailable);
    let (answer, report) = app.leave(&browser, json!({})).await;
    assert_eq!(report.session, SessionOutcome::NotDeleted);
    assert_signed_out(&app, &answer).await;
    sessions.faults.clear();
    assert!(
        sessions.record(&cookie).await.is_some(),
        "the record is still there"
    );
    let page = app.get(&mut browser, "/whoami").await;
    assert_eq!(page.body(), "nobody", "and opens nothing");

    // It hangs: the answer comes all the same.
    app.sign_in(&mut browser, "alice").await;
    let gate = Gate::new();
    sessions.faults.set(&["delete"], Fail::Hold(gate.clone()));
    let (answer, report) = within(app.leave(&browser, json!({ "local_only": true }))).await;
    assert_eq!(report.session, SessionOutcome::NotDeleted);
    assert_signed_out(&app, &answer).await;
    gate.open();
}

#[tokio::test]
async fn a_session_store_that_cannot_be_read_is_reported_and_the_cookie_goes_a10_r41() {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    sessions.faults.set(&["load", "delete"], Fail::Unavailable);
    let (answer, report) = app.leave(&browser, json!({})).await;
    assert!(removes_session_cookie(&answer));
    assert_eq!(report.session, SessionOutcome::Unread);
    assert!(
        matches!(report.provider, ProviderOutcome::Redirected { .. }),
        "the provider's session ends at least"
    );
    assert_eq!(answer.param("client_id").unwrap(), CLIENT);

    // Back a moment too late: the record is gone, and what it named is not.
    sessions.faults.clear();
    app.sign_in(&mut browser, "alice").await;
    sessions.faults.set(&["load"], Fail::Unavailable);
    let (answer, report) = app.leave(&browser, json!({})).await;
    assert!(removes_session_cookie(&answer));
    assert_eq!(report.session, SessionOutcome::Unread);
    assert!(report.evicted.is_empty());
}

/// As with Redis, for any session store that the crate was told of.
#[tokio::test]
async fn a_session_that_could_not_be_read_is_caught_up_with_a5_a10() {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let for_auth = AnySessionStore::v015(sessions.clone());
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .auth(move |auth| auth.session_store(for_auth))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let cookie = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    let headers = [("cookie", &*format!("id={cookie}"))];
    sessions.faults.set(&["load", "delete"], Fail::Unavailable);
    let (answer, report) = app.leave(&browser, json!({})).await;
    assert!(removes_session_cookie(&answer));
    let left = (report.session, report.pending, report.not_retried);
    assert_eq!(left, (SessionOutcome::Unread, 1, 0));
    // Once more, by who has kept the cookie: it is the same that is pending.
    let (_, report) = app.leave(&browser, json!({})).await;
    assert_eq!(
        (report.session, report.pending),
        (SessionOutcome::Unread, 1)
    );

    // It can be read again, but not changed: nobody is served what it names.
    sessions.faults.clear();
    sessions.faults.set(&["delete"], Fail::Unavailable);
    let answer = send(&app.router, "GET", "/whoami", &headers, "").await;
    assert_eq!(answer.body, "nobody");
    assert_eq!(sign_ins(&app).await, 0);
    assert!(sessions.record(&cookie).await.is_some());
    sessions.faults.clear();
    let left = within(app.auth.shutdown()).await;
    assert_eq!(left.pending, 0, "{left:?}");
    assert!(sessions.record(&cookie).await.is_none());
    let causes: Vec<_> = app.seen().iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::UserSignOut], "once");
}

/// Somebody else was faster: nobody will ever know what it held.
#[tokio::test]
async fn a_session_that_is_gone_when_its_store_is_back_is_settled_a5() {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let for_auth = AnySessionStore::v015(sessions.clone());
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .auth(move |auth| auth.session_store(for_auth))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    sessions.faults.set(&["load"], Fail::Unavailable);
    let (_, report) = app.leave(&browser, json!({})).await;
    assert_eq!(
        (report.session, report.pending),
        (SessionOutcome::Unread, 1)
    );
    sessions.faults.clear();
    let left = within(app.auth.shutdown()).await;
    assert_eq!((left.pending, app.seen().len()), (0, 0));
}

/// The app ends the session by itself, while the token store is away (A5).
#[tokio::test]
async fn a_session_that_the_app_ends_while_the_store_is_away_is_caught_up_with_a5() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let (for_auth, evicted) = (store.clone(), Arc::new(Notify::new()));
    let told = evicted.clone();
    let app = Setup::new()
        .auth(move |auth| {
            auth.store(for_auth).on_evict(move |_| {
                told.notify_one();
                std::future::ready(())
            })
        })
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    store.faults.set(ALL, Fail::Unavailable);
    app.get(&mut browser, "/").await;
    browser.post_form(app.url("/flush"), &[]).await.unwrap();
    assert!(app.seen().is_empty());
    store.faults.clear();
    within(evicted.notified()).await;
    assert_eq!(sign_ins(&app).await, 0);
    assert_eq!(app.seen()[0].cause, Cause::SessionEnded);
}

#[tokio::test]
async fn a_token_store_that_is_away_is_caught_up_with_a5() {
    let provider = TestProvider::start().await;
    let (store, sessions) = (FaultyStore::new(), FaultySessions::default());
    let (for_auth, evicted) = (store.clone(), Arc::new(Notify::new()));
    let told = evicted.clone();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .auth(move |auth| {
            auth.store(for_auth).on_evict(move |_| {
                told.notify_one();
                std::future::ready(())
            })
        })
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let refresh = provider.secrets();
    let cookie = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    let record = sessions.record(&cookie).await.unwrap();
    store.faults.set(ALL, Fail::Unavailable);
    let (answer, report) = app.leave(&browser, json!({})).await;
    assert_eq!(answer.status, 303);
    assert!(removes_session_cookie(&answer));
    assert_eq!((report.pending, report.evicted.len()), (1, 0));
    assert_eq!(report.session, SessionOutcome::Ended);
    assert!(matches!(
        report.provider,
        ProviderOutcome::Redirected { .. }
    ));
    assert!(app.seen().is_empty(), "hooks hear of it when it is done");

    // The store can be read again, but not written; and somebody has kept cookie and record.
    store.faults.clear();
    store.faults.set(&["remove"], Fail::Unavailable);
    sessions.inner.save(&record).await.unwrap();
    assert_eq!(app.auth.stats().await.unwrap().sign_ins, 1, "still there");
    let headers = [("cookie", &*format!("id={cookie}"))];
    let answer = send(&app.router, "GET", "/whoami", &headers, "").await;
    assert_eq!(answer.body, "nobody", "and not served");

    store.faults.clear();
    within(evicted.notified()).await;
    assert_eq!(sign_ins(&app).await, 0);
    let seen = app.seen();
    assert_eq!((seen.len(), seen[0].cause), (1, Cause::UserSignOut));
    let token = seen[0].refresh_token.clone().unwrap();
    assert!(refresh.contains(&token));
    within(provider.wait_for(|e| matches!(e, Event::Revoked { token: t, .. } if *t == *token)))
        .await;
}

#[tokio::test]
async fn a_store_whose_answer_is_lost_is_asked_again_and_hooks_hear_once_a5() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let (for_auth, evicted) = (store.clone(), Arc::new(Notify::new()));
    let told = evicted.clone();
    let app = Setup::new()
        .auth(move |auth| {
            auth.store(for_auth).on_evict(move |_| {
                told.notify_one();
                std::future::ready(())
            })
        })
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    store.faults.set(&["remove"], Fail::Unknown);
    let (_, report) = app.leave(&browser, json!({})).await;
    assert_eq!(report.pending, 1);
    store.faults.clear();
    within(evicted.notified()).await;
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn a_handler_that_drops_the_answer_keeps_no_cookie_a10() {
    let leaving = Router::new()
        .route(
            "/drop",
            post(|sign_out: SignOut| async move {
                drop(sign_out.run(EndSessionRequest::new()).await);
                "dropped"
            }),
        )
        .route(
            "/fail",
            post(|sign_out: SignOut| async move {
                drop(sign_out.run(EndSessionRequest::new()).await);
                axum::http::StatusCode::INTERNAL_SERVER_ERROR
            }),
        )
        .route(
            "/again",
            post(|sign_out: SignOut, session: Session| async move {
                drop(sign_out.run(EndSessionRequest::new()).await);
                session.insert("flash", "bye").await.unwrap();
            }),
        );
    for path in ["/drop", "/fail", "/again"] {
        let setup = Setup::new().routes(Router::new().nest("/x", leaving.clone()));
        let (_provider, app, browser) = signed_in(setup).await;
        let old = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
        let headers = [("cookie", &*cookies(&browser))];
        let answer = send(&app.router, "POST", &format!("/x{path}"), &headers, "").await;
        assert_eq!(sign_ins(&app).await, 0, "{path}");
        assert_eq!(
            answer.header("clear-site-data"),
            Some("\"storage\""),
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        if path == "/again" {
            let set = answer.set_cookies();
            let new = set.iter().find(|cookie| cookie.starts_with("id=")).unwrap();
            assert!(!new.contains(&old), "a new session under a new id");
        } else {
            assert!(removes_session_cookie(&answer), "{path}");
        }
    }
}

#[tokio::test]
async fn local_first_then_hooks_then_the_way_out_r6() {
    let order: Arc<Mutex<Vec<&str>>> = Arc::default();
    let (one, two) = (order.clone(), order.clone());
    let store = FaultyStore::new();
    let (inner, for_auth) = (store.inner.clone(), store.clone());
    let sessions = FaultySessions::default();
    let records = sessions.clone();
    let at_hook = Gate::new();
    let gate = at_hook.clone();
    let provider = TestProvider::start().await;
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .auth(move |auth| {
            auth.store(for_auth)
                .on_evict(move |_| {
                    let (order, inner, gate) = (one.clone(), inner.clone(), gate.clone());
                    async move {
                        use axum_signout::store::TokenStore as _;
                        assert_eq!(inner.stats().await.unwrap().sign_ins, 0);
                        order.lock().unwrap().push("evicted");
                        gate.pass().await;
                    }
                })
                .before_navigation(move |_| {
                    two.lock().unwrap().push("navigation");
                    std::future::ready(())
                })
        })
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let cookie = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    let request = axum::http::Request::post("/signout")
        .header("cookie", cookies(&browser))
        .body(axum::body::Body::empty())
        .unwrap();
    let running = tokio::spawn(app.router.clone().oneshot(request));
    at_hook.arrived(1).await;
    // While the hook runs, everything here is done: the session's record is gone, too.
    assert!(records.record(&cookie).await.is_none());
    assert_eq!(*order.lock().unwrap(), ["evicted"]);
    at_hook.open();
    let answer = running.await.unwrap().unwrap();
    assert_eq!(answer.status(), 303);
    assert_eq!(*order.lock().unwrap(), ["evicted", "navigation"]);
}

fn explode() {
    panic!("a hook of a test");
}

#[tokio::test]
async fn hooks_that_fail_hang_or_panic_are_in_the_report() {
    let setup = Setup::new().auth(|auth| {
        auth.hook_timeout(Duration::from_millis(20))
            .on_evict(|_| async { Err::<(), _>("no") })
            .on_evict(|_| std::future::pending::<()>())
            .on_evict(|_| async { explode() })
            .before_navigation(|_| std::future::pending::<()>())
    });
    let (_provider, app, browser) = signed_in(setup).await;
    let (answer, report) = app.leave(&browser, json!({})).await;
    assert_signed_out(&app, &answer).await;
    assert_eq!(answer.location().path(), "/end_session");
    let hooks: Vec<_> = report.hooks.iter().map(|h| (h.point, h.status)).collect();
    assert_eq!(
        hooks,
        [
            ("evicted", HookStatus::Done),
            ("evicted", HookStatus::Failed),
            ("evicted", HookStatus::TimedOut),
            ("evicted", HookStatus::Panicked),
            ("before_navigation", HookStatus::TimedOut),
        ]
    );
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_a_sign_out() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let (for_auth, sessions) = (store.clone(), FaultySessions::default());
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .auth(move |auth| auth.store(for_auth))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let cookie = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    let gate = Gate::new();
    store.faults.set(&["remove"], Fail::Hold(gate.clone()));
    let request = axum::http::Request::post("/signout")
        .header("cookie", cookies(&browser))
        .body(axum::body::Body::empty())
        .unwrap();
    let running = tokio::spawn(app.router.clone().oneshot(request));
    gate.arrived(1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    gate.open();
    app.auth.shutdown().await;
    assert_eq!(sign_ins(&app).await, 0);
    assert_eq!(app.seen().len(), 1);
    assert!(sessions.record(&cookie).await.is_none());
}

/// An app whose `/later` gives its `SignOut` away, as a WebSocket's handler has it after its answer.
async fn two_accounts() -> (
    TestProvider,
    App,
    TestBrowser,
    FaultyStore,
    tokio::sync::mpsc::UnboundedReceiver<SignOut>,
) {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let for_auth = store.clone();
    let (given, handles) = tokio::sync::mpsc::unbounded_channel();
    let later = move |sign_out: SignOut| {
        given.send(sign_out).unwrap();
        std::future::ready(())
    };
    let app = Setup::new()
        .auth(move |auth| auth.store(for_auth))
        .routes(Router::new().route("/later", axum::routing::get(later)))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    app.sign_in(&mut browser, "bob").await;
    (provider, app, browser, store, handles)
}

#[tokio::test]
async fn one_account_of_two_signs_out_after_the_answer_and_the_other_stays_r4() {
    let (provider, app, mut browser, _, mut handles) = two_accounts().await;
    app.get(&mut browser, "/cart/book").await;
    app.get(&mut browser, "/later").await;
    let sign_out = handles.recv().await.unwrap();
    let bob = Account::new(provider.issuer(), "bob");
    let done = sign_out.run(EndSessionRequest::new().account(&bob)).await;
    assert_eq!(done.report().session, SessionOutcome::AtNextRequest);
    assert_eq!(done.report().evicted.len(), 1);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    let cart = app.get(&mut browser, "/cart/show").await;
    assert_eq!(cart.body(), "", "bob's data is gone");
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_no_account_along_that_stays_r4() {
    let (provider, app, mut browser, store, _) = two_accounts().await;
    let gate = Gate::new();
    store.faults.set(&["remove"], Fail::Hold(gate.clone()));
    let wanted = json!({ "account": "bob", "account_issuer": provider.issuer() });
    let request = axum::http::Request::post("/leave")
        .header("cookie", cookies(&browser))
        .header("content-type", "application/json")
        .body(axum::body::Body::from(wanted.to_string()))
        .unwrap();
    let running = tokio::spawn(app.router.clone().oneshot(request));
    gate.arrived(1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    gate.open();
    while sign_ins(&app).await > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
}

/// Too late for its cookie: then nothing may be left under keys that nobody has.
#[tokio::test]
async fn a_client_that_goes_away_after_the_session_was_renewed_leaves_no_sign_in_behind_r4() {
    let (provider, app, browser, store, _) = two_accounts().await;
    let gate = Gate::new();
    store.faults.set(&["rekey"], Fail::Hold(gate.clone()));
    let wanted = json!({ "account": "bob", "account_issuer": provider.issuer() });
    let request = axum::http::Request::post("/leave")
        .header("cookie", cookies(&browser))
        .header("content-type", "application/json")
        .body(axum::body::Body::from(wanted.to_string()))
        .unwrap();
    let running = tokio::spawn(app.router.clone().oneshot(request));
    gate.arrived(1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    gate.open();
    app.auth.shutdown().await;
    assert_eq!(sign_ins(&app).await, 0);
    let causes: Vec<Cause> = app.seen().iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::UserSignOut, Cause::SessionEnded]);
}

#[tokio::test]
async fn a_script_signs_out_and_goes_on_by_itself_r11() {
    let (provider, app, mut browser) = signed_in(Setup::new()).await;
    app.get(&mut browser, "/").await;
    let answer = browser.fetch(Method::POST, "/signout").await.unwrap();
    assert_eq!(answer.status(), 200);
    let location = answer.json().unwrap()["location"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(browser.cookie("127.0.0.1", "id"), None);
    browser.goto(&location).await.unwrap();
    let page = browser.submit("confirm-logout", &[]).await.unwrap();
    assert_eq!(page.url().path(), "/signout/callback");
    assert!(page.body().contains("You are signed out"));
    assert!(provider.sessions().is_empty());
}
