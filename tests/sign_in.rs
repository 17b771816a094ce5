//! Signing in, end to end on the in-process provider.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum_signout::clock::ManualClock;
use axum_signout::store::{Removal, RevokeRule, Target, TokenStore as _};
use axum_signout::testing::{
    Endpoint, Event, Fault, Gate, IdTokenFault, Page, TestBrowser, TestClient, TestProvider,
    TokenKind,
};
use axum_signout::{Cause, OperationId, RevocationPolicy};
use serde_json::json;
use support::app::{
    App, CLIENT, SECRET, Setup, assert_no_secret, cookies, get_request, path_and_query, undelivered,
};
use support::faulty::{ALL, Fail, FaultySessions, FaultyStore};
use support::held::held;
use tower::ServiceExt as _;
use tower_sessions::cookie::SameSite;
use tower_sessions::{MemoryStore, SessionManagerLayer, SessionStore};

async fn start(provider: &TestProvider) -> App {
    Setup::new().start(provider).await
}

async fn sign_ins(app: &App) -> usize {
    app.auth.stats().await.unwrap().sign_ins
}

/// The first revocation of a refresh token, of those so far and those to come.
async fn revoked(provider: &TestProvider) -> Event {
    wait_for(provider, |event| {
        matches!(
            event,
            Event::Revoked {
                kind: Some(TokenKind::Refresh),
                ..
            }
        )
    })
    .await
}

/// With a limit, so that what does not happen fails the test.
async fn wait_for(provider: &TestProvider, such: impl FnMut(&Event) -> bool) -> Event {
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, provider.wait_for(such))
        .await
        .expect("the event happens")
}

/// The path of a browser up to the provider's sign-in page.
async fn begin(app: &App, browser: &mut TestBrowser, path: &str) -> Page {
    browser.goto(app.url(path)).await.unwrap()
}

#[tokio::test]
async fn pkce_is_sent_with_s256_and_needed_r36() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let sent = browser.history()[0].location().unwrap();
    let param = |name: &str| {
        let mut values = sent.query_pairs().filter(|(key, _)| key == name);
        let value = values.next().map(|(_, value)| value.into_owned());
        assert!(values.next().is_none(), "{name} is there once");
        value.unwrap()
    };
    assert_eq!(param("response_type"), "code");
    assert_eq!(param("code_challenge_method"), "S256");
    assert_eq!(param("code_challenge").len(), 43);
    let random: BTreeSet<String> = ["state", "nonce", "code_challenge"].map(param).into();
    assert_eq!(random.len(), 3);
    assert!(random.iter().all(|value| value.len() == 43));
    // The code alone is worth nothing: whoever has it and the client's secret lacks the verifier.
    let (answer, _) = undelivered(&browser, "alice").await;
    let code = answer.query_pairs().find(|(k, _)| k == "code").unwrap().1;
    let redirect_uri = app.url("/signin/callback");
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("grant_type", "authorization_code"),
            ("code", &*code),
            ("redirect_uri", &*redirect_uri),
        ])
        .finish();
    let stolen = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .post(provider.url("/token"))
        .basic_auth(CLIENT, Some(SECRET))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(stolen.status(), 400);
}

#[tokio::test]
async fn an_answer_in_another_browser_is_refused_and_leaves_the_right_one_alone_r36() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin?return_to=/whoami").await;
    let (answer, refusal) = undelivered(&browser, "alice").await;
    assert_eq!(refusal.status(), 400);
    assert!(refusal.body().contains("unknown_or_expired_sign_in"));
    assert_eq!(sign_ins(&app).await, 0);

    // A browser with a sign-in of its own under way is another browser as well.
    let mut attacker = TestBrowser::new();
    begin(&app, &mut attacker, "/signin").await;
    let page = attacker.goto(answer.as_str()).await.unwrap();
    assert_eq!(page.status(), 400);
    assert_eq!(sign_ins(&app).await, 0);

    browser.goto(answer.as_str()).await.unwrap();
    assert_eq!(browser.follow().await.unwrap().body(), "alice");
}

#[tokio::test]
async fn an_answer_is_used_once_r36() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin?return_to=/whoami").await;
    let (answer, _) = undelivered(&browser, "alice").await;
    let mut thief = browser.clone();
    browser.goto(answer.as_str()).await.unwrap();
    browser.follow().await.unwrap();
    provider.clear_events();
    // Whoever copied the cookie, and the browser itself by its back button.
    for again in [&mut thief, &mut browser] {
        let page = again.goto(answer.as_str()).await.unwrap();
        assert_eq!(page.status(), 400);
        assert!(page.body().contains("unknown_or_expired_sign_in"));
    }
    let exchanges = provider.count(|e| matches!(e, Event::TokenRefused { .. }));
    assert_eq!(exchanges, 0, "the provider is not asked with a used code");
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    assert_eq!(sign_ins(&app).await, 1);
}

#[tokio::test]
async fn two_deliveries_at_the_same_time_make_one_sign_in_r36() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let (answer, _) = undelivered(&browser, "alice").await;
    let gate = Gate::new();
    let faults = provider.faults();
    faults.always(Endpoint::Code, Fault::Hold(gate.clone()));
    let request = || get_request(&path_and_query(&answer), &cookies(&browser));
    let first = tokio::spawn(app.router.clone().oneshot(request()));
    gate.arrived(1).await;
    let second = app.router.clone().oneshot(request()).await.unwrap();
    assert_eq!(second.status(), 400);
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    assert_eq!(sign_ins(&app).await, 1);
}

#[tokio::test]
async fn a_sign_in_expires_by_the_clock_r36() {
    let provider = TestProvider::start().await;
    let clock = Arc::new(ManualClock::new());
    let for_auth = clock.clone();
    let app = Setup::new()
        .auth(move |auth| {
            auth.clock(for_auth)
                .sign_in_timeout(Duration::from_secs(60))
        })
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let (answer, _) = undelivered(&browser, "alice").await;
    // Whatever the browser does about `Max-Age`: this one still has the cookie.
    clock.advance(Duration::from_secs(61));
    let page = browser.goto(answer.as_str()).await.unwrap();
    assert_eq!(page.status(), 400);
    assert!(page.body().contains("unknown_or_expired_sign_in"));
    assert_eq!(sign_ins(&app).await, 0);
}

#[tokio::test]
async fn tabs_side_by_side_each_come_to_their_page_r36() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    let mut answers = Vec::new();
    for path in ["/whoami?tab=1", "/whoami?tab=2", "/whoami?tab=3"] {
        let url: String = url::form_urlencoded::byte_serialize(path.as_bytes()).collect();
        begin(&app, &mut browser, &format!("/signin?return_to={url}")).await;
        answers.push((path, undelivered(&browser, "alice").await.0));
    }
    for (path, answer) in answers {
        browser.goto(answer.as_str()).await.unwrap();
        let page = browser.follow().await.unwrap();
        assert!(page.url().as_str().ends_with(path), "{}", page.url());
        assert_eq!(page.body(), "alice");
    }
    assert_eq!(sign_ins(&app).await, 1, "each took the place of the last");
    let left: Vec<_> = browser.cookies("127.0.0.1");
    assert!(
        !left.iter().any(|name| name.contains("axum-signout")),
        "{left:?}"
    );
}

#[tokio::test]
async fn tabs_beyond_a_few_push_out_the_oldest_and_cookies_stay_few_r36() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    let mut answers = Vec::new();
    for _ in 0..7 {
        begin(&app, &mut browser, "/signin?return_to=/whoami").await;
        answers.push(undelivered(&browser, "alice").await.0);
    }
    assert!(browser.cookies("127.0.0.1").len() <= 5);
    let oldest = browser.goto(answers[0].as_str()).await.unwrap();
    assert_eq!(oldest.status(), 400);
    browser.goto(answers[6].as_str()).await.unwrap();
    assert_eq!(browser.follow().await.unwrap().body(), "alice");
}

#[tokio::test]
async fn the_issuer_of_the_answer_is_checked_rfc9207_r36() {
    let set = |value: &str| Fault::Set("iss".into(), json!(value));
    let issuer_and = |provider: &TestProvider, end: &str| format!("{}{end}", provider.issuer());
    type Row = (&'static str, fn(&str) -> Fault);
    let rows: [Row; 4] = [
        ("another", |_| {
            Fault::Set("iss".into(), json!("https://evil.example"))
        }),
        ("empty", |_| Fault::Set("iss".into(), json!(""))),
        ("absent though advertised", |_| Fault::Without("iss".into())),
        ("with a slash more", |issuer| {
            Fault::Set("iss".into(), json!(format!("{issuer}/")))
        }),
    ];
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    for (name, fault) in rows {
        let mut browser = TestBrowser::new();
        begin(&app, &mut browser, "/signin").await;
        let fault = fault(provider.issuer());
        provider.faults().once(Endpoint::Authorize, fault);
        let page = browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(page.status(), 400, "{name}");
        assert!(page.body().contains("issuer_mismatch"), "{name}");
    }
    let exchanged =
        provider.count(|e| matches!(e, Event::TokensIssued { .. } | Event::TokenRefused { .. }));
    assert_eq!(exchanged, 0, "no code went to anybody");
    assert_eq!(sign_ins(&app).await, 0);

    // Not advertised: may be absent, and if it is there it must fit.
    let provider = TestProvider::builder().response_iss(false).start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    provider
        .faults()
        .once(Endpoint::Authorize, set(&issuer_and(&provider, "x")));
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert_eq!(page.status(), 400);
}

#[tokio::test]
async fn malformed_answers_get_a_clear_400_and_change_nothing() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin?return_to=/whoami").await;
    let (answer, _) = undelivered(&browser, "alice").await;
    let (path, query) = (answer.path(), answer.query().unwrap());
    let state = answer.query_pairs().find(|(k, _)| k == "state").unwrap().1;
    let rows = [
        ("nothing", String::new()),
        ("no state", "code=x".into()),
        ("empty state", "code=x&state=".into()),
        ("wrong state", "code=x&state=abc".into()),
        (
            "a state of the right length",
            format!("code=x&state={}", "A".repeat(43)),
        ),
        ("state twice", format!("{query}&state={state}")),
        ("code twice", format!("{query}&code=other")),
        ("huge", format!("{query}&x={}", "a".repeat(20_000))),
        ("not UTF-8", "state=%ff%fe&code=%00".into()),
        ("resume of nothing", "resume=AAAAAAAAAAAA".into()),
        ("resume with dots", "resume=../../x".into()),
        ("resume empty", "resume=".into()),
    ];
    for (name, query) in rows {
        let page = browser
            .goto(app.url(&format!("{path}?{query}")))
            .await
            .unwrap();
        assert_eq!(page.status(), 400, "{name}");
        assert_eq!(page.header("cache-control"), Some("no-store"), "{name}");
    }
    let changed_cookie = {
        let mut other = browser.clone();
        for name in browser.cookies("127.0.0.1") {
            let garbage = format!("{name}=garbage; Path=/; HttpOnly; SameSite=Lax");
            other.set_cookie(&app.base, &garbage).unwrap();
        }
        other.goto(answer.as_str()).await.unwrap()
    };
    assert_eq!(changed_cookie.status(), 400);
    // After all that, the real one still works.
    browser.goto(answer.as_str()).await.unwrap();
    assert_eq!(browser.follow().await.unwrap().body(), "alice");
}

#[tokio::test]
async fn the_session_id_changes_and_a_planted_one_is_useless_r37() {
    let provider = TestProvider::start().await;
    let store = MemoryStore::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(store.clone()))
        .start(&provider)
        .await;
    // The attacker has a session of their own, and plants its cookie.
    let mut attacker = TestBrowser::new();
    app.get(&mut attacker, "/cart/poison").await;
    let planted = attacker.cookie("127.0.0.1", "id").unwrap().to_owned();
    let mut victim = TestBrowser::new();
    let cookie = format!("id={planted}; Path=/; Secure; HttpOnly; SameSite=Strict");
    victim.set_cookie(&app.base, &cookie).unwrap();
    app.sign_in(&mut victim, "alice").await;

    assert_ne!(victim.cookie("127.0.0.1", "id").unwrap(), planted);
    assert_eq!(app.get(&mut attacker, "/whoami").await.body(), "nobody");
    assert_eq!(app.get(&mut victim, "/whoami").await.body(), "alice");
    let old = store.load(&planted.parse().unwrap()).await.unwrap();
    assert!(old.is_none(), "the old record is deleted");
    // The attacker's last request may still be running and save what it had read: their copy holds no key.
    assert_eq!(app.get(&mut attacker, "/cart/again").await.body(), "again");
    assert_eq!(app.get(&mut attacker, "/whoami").await.body(), "nobody");
}

#[tokio::test]
async fn an_id_that_names_no_session_is_not_adopted_r37() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut victim = TestBrowser::new();
    let made_up = "AAAAAAAAAAAAAAAAAAAAAA";
    let cookie = format!("id={made_up}; Path=/; Secure; HttpOnly; SameSite=Strict");
    victim.set_cookie(&app.base, &cookie).unwrap();
    app.sign_in(&mut victim, "alice").await;
    assert_ne!(victim.cookie("127.0.0.1", "id").unwrap(), made_up);
    assert_eq!(app.get(&mut victim, "/whoami").await.body(), "alice");
}

#[tokio::test]
async fn the_earlier_sign_in_of_the_account_is_replaced_r37() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let first = app.get(&mut browser, "/token").await.body().to_owned();
    let before = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    app.sign_in(&mut browser, "alice").await;
    assert_ne!(browser.cookie("127.0.0.1", "id").unwrap(), before);
    assert_eq!(sign_ins(&app).await, 1);
    let seen = app.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].cause, &*seen[0].subject),
        (Cause::Replaced, "alice")
    );
    let second = app.get(&mut browser, "/token").await.body().to_owned();
    assert_ne!(first, second);
    // The provider may have given both the same grant, so the old tokens are left to end by themselves.
    assert!(app.auth.shutdown().await.finished);
    assert_eq!(provider.count(|e| matches!(e, Event::Revoked { .. })), 0);
    assert!(provider.is_active(&second), "the new sign-in's tokens stay");

    // In another browser it is another sign-in.
    let mut elsewhere = TestBrowser::new();
    app.sign_in(&mut elsewhere, "alice").await;
    assert_eq!(sign_ins(&app).await, 2);
    assert_eq!(app.seen().len(), 1);
}

#[tokio::test]
async fn the_other_account_stays_under_a_new_key_that_a_racing_save_does_not_have_r37() {
    let provider = TestProvider::start().await;
    let store = MemoryStore::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(store.clone()))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let old_cookie = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
    let old_record = store.load(&old_cookie.parse().unwrap()).await.unwrap();
    let old_record = old_record.unwrap();
    app.sign_in(&mut browser, "bob").await;
    let me = app.get(&mut browser, "/me").await.json().unwrap();
    let subjects: Vec<_> = me["accounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["subject"].clone())
        .collect();
    assert_eq!(subjects, ["alice", "bob"]);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "bob");
    assert!(app.seen().is_empty());

    // A request that was under way saves the record that it had read, under the old id.
    store.save(&old_record).await.unwrap();
    let mut racer = TestBrowser::new();
    let cookie = format!("id={old_cookie}; Path=/; Secure; HttpOnly; SameSite=Strict");
    racer.set_cookie(&app.base, &cookie).unwrap();
    assert_eq!(app.get(&mut racer, "/whoami").await.body(), "nobody");
    // Its cookie stays: the removal could reach a browser that has just got the new session's.
    assert_eq!(
        racer.cookie("127.0.0.1", "id").map(str::to_owned),
        Some(old_cookie.clone())
    );
    assert!(
        store
            .load(&old_cookie.parse().unwrap())
            .await
            .unwrap()
            .is_none()
    );
    // That request ended nobody's sign-in.
    let me = app.get(&mut browser, "/me").await.json().unwrap();
    assert_eq!(me["accounts"].as_array().unwrap().len(), 2);
    assert!(app.seen().is_empty());
}

#[tokio::test]
async fn the_providers_error_is_shown_as_an_escaped_code_and_nothing_else_r38() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let page = browser.submit("login-cancel", &[]).await.unwrap();
    assert_eq!(page.status(), 400);
    assert!(page.body().contains("access_denied"));
    assert!(!page.body().contains("the user cancelled"));
    assert!(page.header("content-security-policy").is_some());

    begin(&app, &mut browser, "/signin").await;
    let faults = provider.faults();
    let set = |name: &str, value: &str| Fault::Set(name.into(), json!(value));
    faults.once(
        Endpoint::Authorize,
        set("error", "<img src=x onerror=alert(1)>\"'&"),
    );
    faults.once(
        Endpoint::Authorize,
        set("error_description", "call +1-555-SCAM"),
    );
    faults.once(
        Endpoint::Authorize,
        set("error_uri", "https://evil.example/help"),
    );
    let page = browser.submit("login-cancel", &[]).await.unwrap();
    assert_eq!(page.status(), 400);
    for text in ["<img", "onerror=", "SCAM", "evil.example"] {
        assert!(!page.body().contains(text), "{text}");
    }
    assert_eq!(sign_ins(&app).await, 0);

    // Without a state of ours, not even a code is shown.
    let link = app.url("/signin/callback?error=Call%2BSCAM&state=x");
    let page = browser.cross_site_link(link).await.unwrap();
    assert!(!page.body().contains("SCAM"));
    assert_no_secret(&provider, &app, &browser);
}

#[tokio::test]
async fn the_wanted_page_is_reached_through_the_allowlist_r39_a1() {
    let provider = TestProvider::start().await;
    let app = Setup::new()
        .auth(|auth| {
            auth.after_sign_in("/home")
                .allow_return_to("https://shop.example")
                .allow_return_to("https://docs.example/start?x=1")
        })
        .start(&provider)
        .await;
    let evil = [
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "\t//evil.example",
        " //evil.example",
        "/%09/evil.example",
        "/%2f/evil.example",
        "/%5cevil.example",
        "/.//evil.example",
        "/a/..//evil.example",
        "https://evil.example",
        "https:evil.example",
        "https:/evil.example",
        "http://evil.example",
        "HTTPS://EVIL.EXAMPLE",
        "https://shop.example@evil.example",
        "https://shop.example:pw@evil.example/",
        "https://evil.example#shop.example",
        "https://shop.example.evil.example",
        "https://shop.example\\.evil.example",
        "https://shop.example%2eevil.example",
        "https://shop.example.",
        "http://shop.example/",
        "https://docs.example/start",
        "https://docs.example/other",
        "javascript:alert(1)",
        "data:text/html,x",
        "/x\r\nSet-Cookie: a=b",
        "/x%0d%0aSet-Cookie:a=b",
        "/x\0",
        "mail",
        "?x",
        "#x",
        "",
        "\u{ff0f}\u{ff0f}evil.example",
    ];
    for target in evil {
        let mut browser = TestBrowser::new();
        let link = app.auth.sign_in_url(target).to_string();
        let page = browser.goto(&link).await.unwrap();
        assert_eq!(page.status(), 400, "{target:?}");
        assert!(page.body().contains("return_to_not_allowed"), "{target:?}");
        assert!(!page.body().contains("evil"), "{target:?}");
        assert!(browser.cookies("127.0.0.1").is_empty(), "{target:?}");
    }
    let long = format!("/{}", "a".repeat(3000));
    let page = TestBrowser::new()
        .goto(app.auth.sign_in_url(&long).to_string())
        .await
        .unwrap();
    assert_eq!(page.status(), 400);

    let own = app.url("/whoami?a=1&b=%26#x");
    let good = [
        ("/whoami", "/whoami"),
        ("/whoami?a=1&b=%26#x", "/whoami?a=1&b=%26#x"),
        (&*own, "/whoami?a=1&b=%26#x"),
        ("https://shop.example/cart", "https://shop.example/cart"),
        (
            "https://docs.example/start?x=1",
            "https://docs.example/start?x=1",
        ),
    ];
    for (target, reached) in good {
        let mut browser = TestBrowser::new();
        let link = app.auth.sign_in_url(target).prompt("login").to_string();
        browser.goto(&link).await.unwrap();
        let page = browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(page.status(), 200, "{target}");
        let reached = reached.replace('&', "&amp;");
        let refresh = format!("0;url={reached}\"");
        assert!(page.body().contains(&refresh), "{target}: {}", page.body());
    }
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert!(page.body().contains("0;url=/home\""), "nothing was wanted");
}

#[tokio::test]
async fn malformed_sign_in_links_are_refused_and_set_nothing() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let rows = [
        ("return_to twice", "return_to=/a&return_to=/b"),
        ("unknown provider", "provider=nobody"),
        ("max_age of words", "max_age=soon"),
        ("max_age below zero", "max_age=-1"),
        ("max_age too large", "max_age=99999999999999999999999"),
    ];
    for (name, query) in rows {
        let mut browser = TestBrowser::new();
        let page = begin(&app, &mut browser, &format!("/signin?{query}")).await;
        assert_eq!(page.status(), 400, "{name}");
        assert!(browser.cookies("127.0.0.1").is_empty(), "{name}");
    }
    // Parameters that nobody let through do not reach the provider, nor do the protocol's own.
    let mut browser = TestBrowser::new();
    let query =
        "redirect_uri=https://evil.example&state=s&scope=all&claims=x&login_hint=ann&request=x";
    begin(&app, &mut browser, &format!("/signin?{query}")).await;
    let Event::Authorize { params, .. } = provider
        .wait_for(|event| matches!(event, Event::Authorize { .. }))
        .await
    else {
        unreachable!()
    };
    assert_eq!(params["redirect_uri"], app.url("/signin/callback"));
    assert_eq!(params["login_hint"], "ann");
    for name in ["claims", "request"] {
        assert!(!params.contains_key(name), "{name}");
    }
    assert!(!params["scope"].contains("all"));
}

/// The provider is on another site, so that a `Strict` cookie does not come along with its answer.
#[tokio::test]
async fn what_is_in_the_session_survives_sign_in_with_every_same_site_setting() {
    for same_site in [SameSite::Strict, SameSite::Lax, SameSite::None] {
        let provider = TestProvider::builder().host("localhost").start().await;
        let app = Setup::new()
            .sessions(SessionManagerLayer::new(MemoryStore::default()).with_same_site(same_site))
            .start(&provider)
            .await;
        let mut browser = TestBrowser::new();
        app.get(&mut browser, "/cart/book").await;
        let before = browser.cookie("127.0.0.1", "id").unwrap().to_owned();
        app.sign_in(&mut browser, "alice").await;
        assert_eq!(
            browser.page().unwrap().body(),
            "alice",
            "the wanted page knows who it is, {same_site:?}"
        );
        assert_eq!(app.get(&mut browser, "/cart/show").await.body(), "book");
        assert_ne!(browser.cookie("127.0.0.1", "id").unwrap(), before);
        // And so does another account.
        app.sign_in(&mut browser, "bob").await;
        let me = app.get(&mut browser, "/me").await.json().unwrap();
        assert_eq!(me["accounts"].as_array().unwrap().len(), 2, "{same_site:?}");
        assert_eq!(app.get(&mut browser, "/cart/show").await.body(), "book");
        let left = browser.cookies("127.0.0.1");
        assert_eq!(left.len(), 1, "{left:?}");
        assert_no_secret(&provider, &app, &browser);
    }
}

#[tokio::test]
async fn an_answer_that_was_put_aside_opens_in_its_own_browser_and_once_r36() {
    let provider = TestProvider::builder().host("localhost").start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    app.get(&mut browser, "/cart/book").await;
    begin(&app, &mut browser, "/signin?return_to=/whoami").await;
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert_eq!(page.status(), 200);
    let resume = page
        .body()
        .split("url=")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap()
        .to_owned();
    assert!(resume.starts_with("/signin/callback?resume="), "{resume}");
    assert_no_secret(&provider, &app, &browser);
    let mut thief = TestBrowser::new();
    assert_eq!(app.get(&mut thief, &resume).await.status(), 400);
    let mut copied = browser.clone();
    assert_eq!(browser.follow().await.unwrap().body(), "alice");
    assert_eq!(app.get(&mut copied, &resume).await.status(), 400);
    assert_eq!(sign_ins(&app).await, 1);
}

#[tokio::test]
async fn a_provider_that_is_down_says_so_and_works_once_it_is_back_r45() {
    let provider = TestProvider::start().await;
    provider.pause().await;
    let clock = Arc::new(ManualClock::new());
    let for_auth = clock.clone();
    let app = Setup::new()
        .auth(move |auth| auth.clock(for_auth))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    for _ in 0..2 {
        let page = begin(&app, &mut browser, "/signin").await;
        assert_eq!(page.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(page.body().contains("provider_unavailable"));
        let after: u64 = page.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=30).contains(&after));
        assert!(browser.cookies("127.0.0.1").is_empty());
    }
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
    provider.resume().await;
    clock.advance(Duration::from_secs(30));
    app.sign_in(&mut browser, "alice").await;
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
}

#[tokio::test]
async fn broken_metadata_is_503_and_heals_r45() {
    let faults: [(&str, Fault); 5] = [
        ("another issuer", Fault::wrong_issuer()),
        ("garbage", Fault::Garbage),
        ("huge", Fault::Huge),
        ("status", Fault::Status(500)),
        ("no token endpoint", Fault::Without("token_endpoint".into())),
    ];
    for (name, fault) in faults {
        let provider = TestProvider::start().await;
        provider.faults().once(Endpoint::Discovery, fault);
        let clock = Arc::new(ManualClock::new());
        let for_auth = clock.clone();
        let app = Setup::new()
            .auth(move |auth| auth.clock(for_auth))
            .start(&provider)
            .await;
        let mut browser = TestBrowser::new();
        let page = begin(&app, &mut browser, "/signin").await;
        assert_eq!(page.status(), 503, "{name}");
        clock.advance(Duration::from_secs(30));
        app.sign_in(&mut browser, "alice").await;
    }
}

#[tokio::test]
async fn no_faulty_id_token_signs_in_and_its_tokens_are_revoked_r27_a9() {
    use IdTokenFault::*;
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let far = provider.now() + 7200;
    let logout_token = provider
        .logout_token(CLIENT)
        .claim("sub", "alice")
        .claim("sid", "s")
        .sign();
    let claim = |name: &str, value| Fault::IdToken(Claim(name.into(), value));
    let without = |name: &str| Fault::IdToken(WithoutClaim(name.into()));
    let rows: Vec<(&str, Fault)> = vec![
        ("missing", Fault::IdToken(Missing)),
        ("wrong issuer", Fault::IdToken(WrongIssuer)),
        ("wrong nonce", Fault::IdToken(WrongNonce)),
        ("wrong audience", Fault::IdToken(WrongAudience)),
        ("expired", Fault::IdToken(Expired)),
        ("alg none", Fault::IdToken(Unsigned)),
        ("HS256 with the secret", Fault::IdToken(Hs256)),
        ("unpublished key", Fault::IdToken(UnpublishedKey)),
        ("forged key", Fault::IdToken(ForgedKey)),
        ("bad signature", Fault::IdToken(BadSignature)),
        ("nonce null", claim("nonce", json!(null))),
        ("nonce in a list", claim("nonce", json!(["x"]))),
        ("untrusted audience", claim("aud", json!([CLIENT, "evil"]))),
        ("authorized party", claim("azp", json!("evil"))),
        ("subject empty", claim("sub", json!(""))),
        ("subject a number", claim("sub", json!(7))),
        ("subject null", claim("sub", json!(null))),
        ("issued in the future", claim("iat", json!(far))),
        ("expiry as text", claim("exp", json!("tomorrow"))),
        ("expiry null", claim("exp", json!(null))),
        (
            "hash of another access token",
            claim("at_hash", json!("AAAAAAAAAAAAAAAAAAAAAA")),
        ),
        ("without iss", without("iss")),
        ("without sub", without("sub")),
        ("without aud", without("aud")),
        ("without exp", without("exp")),
        ("without iat", without("iat")),
        ("without nonce", without("nonce")),
        ("not a token", Fault::Set("id_token".into(), json!("x"))),
        ("an object", Fault::Set("id_token".into(), json!({"a": 1}))),
        (
            "a logout token",
            Fault::Set("id_token".into(), json!(logout_token)),
        ),
    ];
    for (name, fault) in rows {
        let mut browser = TestBrowser::new();
        begin(&app, &mut browser, "/signin?return_to=/whoami").await;
        provider.clear_events();
        provider.faults().once(Endpoint::Code, fault);
        let page = browser.submit("login-alice", &[]).await.unwrap();
        assert!(
            matches!(page.status().as_u16(), 502 | 503),
            "{name}: {}",
            page.status()
        );
        assert_eq!(page.header("cache-control"), Some("no-store"), "{name}");
        assert_eq!(sign_ins(&app).await, 0, "{name}");
        assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
        assert_no_secret(&provider, &app, &browser);
        // What the provider had issued by then is of no use to anybody.
        revoked(&provider).await;
    }
    assert!(app.seen().is_empty(), "nothing was ever in the cache");
}

#[tokio::test]
async fn a_token_endpoint_that_fails_signs_nobody_in() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let rows: [(&str, Fault, u16); 8] = [
        ("drop", Fault::Drop, 503),
        ("lost answer", Fault::LoseAnswer, 503),
        ("half an answer", Fault::DropMidway, 503),
        ("500", Fault::Status(500), 503),
        ("busy", Fault::StatusRetryAfter(429, 7), 503),
        ("garbage", Fault::Garbage, 502),
        ("refused", Fault::OAuthError("invalid_client".into()), 502),
        (
            "no access token",
            Fault::Without("access_token".into()),
            502,
        ),
    ];
    for (name, fault, status) in rows {
        let mut browser = TestBrowser::new();
        begin(&app, &mut browser, "/signin").await;
        provider.faults().once(Endpoint::Code, fault);
        let page = browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(page.status(), status, "{name}");
        if status == 503 {
            assert!(page.header("retry-after").is_some(), "{name}");
        }
        if name == "busy" {
            assert_eq!(page.header("retry-after"), Some("7"));
        }
        assert_eq!(sign_ins(&app).await, 0, "{name}");
        assert_no_secret(&provider, &app, &browser);
    }
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_503_and_the_tokens_are_revoked() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    provider.faults().always(Endpoint::Jwks, Fault::Status(500));
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert_eq!(page.status(), 503);
    assert_eq!(sign_ins(&app).await, 0);
    revoked(&provider).await;
}

#[tokio::test]
async fn a_token_store_that_fails_is_503_and_leaves_nothing_behind() {
    let rows: [(&str, &[&str], Fail, bool); 9] = [
        ("claim away", &["claim"], Fail::Unavailable, false),
        ("claims full", &["claim"], Fail::Full, false),
        ("register away", &["register"], Fail::Unavailable, true),
        ("selectors full", &["register"], Fail::Full, true),
        ("register unknown", &["register"], Fail::Unknown, true),
        ("create away", &["create"], Fail::Unavailable, true),
        ("store full", &["create"], Fail::Full, true),
        ("create unknown", &["create"], Fail::Unknown, true),
        (
            "create unknown, and then away",
            &["create", "unregister"],
            Fail::Unknown,
            true,
        ),
    ];
    for (name, operations, fail, exchanged) in rows {
        let provider = TestProvider::start().await;
        let store = FaultyStore::new();
        let for_auth = store.clone();
        let app = Setup::new()
            .auth(move |auth| auth.store(for_auth))
            .start(&provider)
            .await;
        let mut browser = TestBrowser::new();
        begin(&app, &mut browser, "/signin?return_to=/whoami").await;
        store.faults.set(operations, fail);
        let page = browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(page.status(), 503, "{name}");
        assert!(page.body().contains("temporarily_unavailable"), "{name}");
        assert!(page.header("retry-after").is_some(), "{name}");
        store.faults.clear();
        assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
        assert_eq!(sign_ins(&app).await, 0, "{name}");
        if exchanged {
            revoked(&provider).await;
        }
        let stats = app.auth.stats().await.unwrap();
        assert_eq!(stats.selector_members, 0, "{name}");
        app.sign_in(&mut browser, "alice").await;
    }
}

#[tokio::test]
async fn a_token_store_that_is_away_at_the_start_is_503() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let for_auth = store.clone();
    let app = Setup::new()
        .auth(move |auth| auth.store(for_auth))
        .start(&provider)
        .await;
    store.faults.set(ALL, Fail::Unavailable);
    let mut browser = TestBrowser::new();
    let page = begin(&app, &mut browser, "/signin").await;
    assert_eq!(page.status(), 503);
    assert!(browser.cookies("127.0.0.1").is_empty());
}

#[tokio::test]
async fn a_session_store_that_fails_signs_nobody_in_and_the_tokens_are_revoked() {
    for operations in [
        &["load"][..],
        &["delete"],
        &["create"],
        &["create", "delete"],
    ] {
        let provider = TestProvider::start().await;
        let sessions = FaultySessions::default();
        let app = Setup::new()
            .sessions(SessionManagerLayer::new(sessions.clone()))
            .start(&provider)
            .await;
        let mut browser = TestBrowser::new();
        app.sign_in(&mut browser, "bob").await;
        let bob = app.get(&mut browser, "/token").await.body().to_owned();
        begin(&app, &mut browser, "/signin?return_to=/whoami&prompt=login").await;
        provider.clear_events();
        sessions.faults.set(operations, Fail::Unavailable);
        let page = browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(page.status(), 503, "{operations:?}");
        sessions.faults.clear();
        revoked(&provider).await;
        let alice = app.seen().iter().any(|seen| seen.subject == "alice");
        if operations == ["load"] {
            // Nothing was touched: bob's session is as it was.
            assert_eq!(app.get(&mut browser, "/whoami").await.body(), "bob");
            assert_eq!(sign_ins(&app).await, 1);
            assert!(!alice, "it never was in the cache");
        } else {
            // The session that bob's sign-in was in has ended, so that has ended as well: nobody could reach it, and the
            // record that the store may still have must not open it.
            assert_eq!(app.get(&mut browser, "/whoami").await.body(), "nobody");
            assert_eq!(sign_ins(&app).await, 0, "{operations:?}");
            assert!(alice);
            assert!(app.seen().iter().any(|seen| seen.subject == "bob"));
            wait_for(
                &provider,
                |e| matches!(e, Event::Revoked { token, .. } if *token == *bob),
            )
            .await;
        }
    }
}

#[tokio::test]
async fn the_replaced_sign_ins_hooks_are_called_although_the_session_cannot_be_saved() {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    begin(&app, &mut browser, "/signin?prompt=login").await;
    sessions.faults.set(&["create"], Fail::Unavailable);
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert_eq!(page.status(), 503);
    app.auth.shutdown().await;
    let causes: Vec<Cause> = app.seen().iter().map(|seen| seen.cause).collect();
    assert_eq!(causes.len(), 2, "{causes:?}");
    assert!(causes.contains(&Cause::Replaced) && causes.contains(&Cause::SessionEnded));
    assert_eq!(sign_ins(&app).await, 0);
}

#[tokio::test]
async fn a_browser_that_goes_away_during_the_exchange_leaves_no_tokens_behind() {
    let provider = TestProvider::start().await;
    let app = start(&provider).await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let (answer, _) = undelivered(&browser, "alice").await;
    let gate = Gate::new();
    let faults = provider.faults();
    faults.once(Endpoint::Code, Fault::HoldAnswer(gate.clone()));
    let request = get_request(&path_and_query(&answer), &cookies(&browser));
    let running = tokio::spawn(app.router.clone().oneshot(request));
    gate.arrived(1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    gate.open();
    revoked(&provider).await;
    assert_eq!(sign_ins(&app).await, 0);
}

/// A sign-in whose browser goes away while the session store is at such a call.
async fn goes_away_during(call: &'static str) -> (App, Gate, TestProvider) {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let (answer, _) = undelivered(&browser, "alice").await;
    let gate = Gate::new();
    sessions.faults.set(&[call], Fail::Hold(gate.clone()));
    let request = get_request(&path_and_query(&answer), &cookies(&browser));
    let running = tokio::spawn(app.router.clone().oneshot(request));
    gate.arrived(1).await;
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    (app, gate, provider)
}

#[tokio::test]
async fn a_browser_that_goes_away_while_the_session_is_saved_leaves_no_sign_in_behind() {
    let (app, gate, provider) = goes_away_during("create").await;
    gate.open();
    // Nobody was given the session's cookie.
    revoked(&provider).await;
    assert_eq!(sign_ins(&app).await, 0);
    app.auth.shutdown().await;
    assert_eq!(app.seen()[0].cause, Cause::SessionEnded);
}

/// tower-sessions saves once more behind the callback, and answers 500 without a cookie where it cannot.
#[tokio::test]
async fn a_session_whose_cookie_is_lost_to_the_session_layers_500_leaves_no_sign_in_behind_a5() {
    let provider = TestProvider::start().await;
    let sessions = FaultySessions::default();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    sessions.faults.set(&["save"], Fail::Unavailable);
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert_eq!((page.status().as_u16(), page.body()), (500, ""));
    assert_eq!(page.header("set-cookie"), None);
    revoked(&provider).await;
    assert_eq!(sign_ins(&app).await, 0);
    app.auth.shutdown().await;
    let causes: Vec<Cause> = app.seen().iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::SessionEnded]);

    // The session that a browser has goes on with its cookie, whatever fails.
    sessions.faults.clear();
    app.sign_in(&mut browser, "alice").await;
    sessions.faults.set(&["save"], Fail::Unavailable);
    let page = browser.post_form(app.url("/cart/pen"), &[]).await.unwrap();
    assert_eq!(page.status(), 500);
    sessions.faults.clear();
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
}

#[tokio::test]
async fn a_browser_that_goes_away_while_the_session_is_saved_again_leaves_no_sign_in_behind() {
    let (app, _held, provider) = goes_away_during("save").await;
    revoked(&provider).await;
    assert_eq!(sign_ins(&app).await, 0);
}

#[tokio::test]
async fn at_the_limit_of_sign_ins_the_least_recent_leaves_and_hooks_are_told() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::with(|builder| builder.max_sign_ins(1));
    let app = Setup::new()
        .auth(move |auth| auth.store(store))
        .start(&provider)
        .await;
    let (mut alice, mut bob) = (TestBrowser::new(), TestBrowser::new());
    app.sign_in(&mut alice, "alice").await;
    app.sign_in(&mut bob, "bob").await;
    assert_eq!(app.get(&mut alice, "/whoami").await.body(), "nobody");
    assert_eq!(alice.cookie("127.0.0.1", "id"), None);
    assert_eq!(app.get(&mut bob, "/whoami").await.body(), "bob");
    app.auth.shutdown().await;
    let seen = app.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].cause, &*seen[0].subject),
        (Cause::Capacity, "alice")
    );
}

#[tokio::test]
async fn at_the_limits_of_selectors_and_claims_sign_ins_are_refused() {
    for claims in [true, false] {
        let provider = TestProvider::start().await;
        let store = FaultyStore::with(|builder| match claims {
            true => builder.max_claims(1),
            false => builder.max_selectors(1),
        });
        let app = Setup::new()
            .auth(move |auth| auth.store(store))
            .start(&provider)
            .await;
        let (mut alice, mut bob) = (TestBrowser::new(), TestBrowser::new());
        app.sign_in(&mut alice, "alice").await;
        begin(&app, &mut bob, "/signin").await;
        let page = bob.submit("login-bob", &[]).await.unwrap();
        assert_eq!(page.status(), 503, "claims: {claims}");
        assert_eq!(sign_ins(&app).await, 1);
        assert_eq!(app.get(&mut alice, "/whoami").await.body(), "alice");
    }
}

#[tokio::test]
async fn revocation_that_is_switched_off_is_off_for_refused_sign_ins_as_well() {
    let provider = TestProvider::start().await;
    let app = Setup::new()
        .auth(|auth| auth.revocation(RevocationPolicy::Never))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin").await;
    let fault = Fault::IdToken(IdTokenFault::WrongNonce);
    provider.faults().once(Endpoint::Code, fault);
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert_eq!(page.status(), 502);
    assert_eq!(app.auth.stats().await.unwrap().outbox, 0);
}

#[tokio::test]
async fn cookies_are_secure_http_only_and_for_the_whole_host_r40() {
    let provider = TestProvider::start().await;
    let sessions = SessionManagerLayer::new(MemoryStore::default()).with_name("__Host-id");
    let app = Setup::new().sessions(sessions).start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    assert!(browser.cookie("127.0.0.1", "__Host-id").is_some());
    assert!(browser.script_cookies("127.0.0.1").is_empty());
    for page in browser.history() {
        if !page.url().as_str().starts_with(&app.base) {
            continue;
        }
        for cookie in page.set_cookies() {
            assert!(cookie.contains("; HttpOnly"), "{}", page.url().path());
            assert!(cookie.contains("; Path=/"), "{}", page.url().path());
            assert!(cookie.contains("; SameSite="), "{}", page.url().path());
            assert!(!cookie.contains("Domain"), "{}", page.url().path());
        }
    }
}

#[tokio::test]
async fn the_provider_is_chosen_by_name_and_each_sign_in_keeps_its_issuer() {
    let first = TestProvider::start().await;
    let second = TestProvider::start().await;
    let issuer = second.issuer().to_owned();
    let app = Setup::new()
        .auth(move |auth| {
            let other = axum_signout::Provider::discover(issuer, CLIENT)
                .client_secret(SECRET)
                .name("second")
                .build();
            auth.provider(other.unwrap())
        })
        .start(&first)
        .await;
    second.add_client(TestClient::new(CLIENT).secret(SECRET).app(&app.base));
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    app.sign_in_at(
        &mut browser,
        "alice",
        "/signin?return_to=/me&provider=second",
    )
    .await;
    let me = app.get(&mut browser, "/me").await.json().unwrap();
    assert_eq!(me["accounts"][0]["issuer"], first.issuer());
    assert_eq!(me["accounts"][1]["issuer"], second.issuer());
    assert!(
        app.seen().is_empty(),
        "the same subject, not the same account"
    );

    // Mix-up: the answer of one provider for the sign-in at the other.
    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin?provider=second").await;
    let (answer, _) = undelivered(&browser, "alice").await;
    let mixed = answer.as_str().replace(
        &url::form_urlencoded::byte_serialize(second.issuer().as_bytes()).collect::<String>(),
        &url::form_urlencoded::byte_serialize(first.issuer().as_bytes()).collect::<String>(),
    );
    assert_ne!(mixed, answer.as_str());
    let page = browser.goto(&mixed).await.unwrap();
    assert_eq!(page.status(), 400);
}

/// Promise 1: a sign-in that had begun before a sign-out everywhere does not undo it; the user who wants to be signed in now
/// is, by going to the provider once more.
#[tokio::test]
async fn a_sign_in_overtaken_by_a_sign_out_everywhere_begins_anew_once() {
    let provider = TestProvider::start().await;
    let (store, sessions) = (FaultyStore::new(), FaultySessions::default());
    let for_auth = store.clone();
    let app = Setup::new()
        .sessions(SessionManagerLayer::new(sessions.clone()))
        .auth(move |auth| auth.store(for_auth))
        .start(&provider)
        .await;
    let mut elsewhere = TestBrowser::new();
    app.sign_in(&mut elsewhere, "alice").await;
    let cookie = elsewhere.cookie("127.0.0.1", "id").unwrap();
    let record = sessions.record(cookie).await.unwrap();
    let held = held(record.data["axum-signout"].as_str().unwrap());
    let account = held[0].address.account;
    let end_all = async |name: u8| {
        let removal = Removal {
            operation: OperationId::from_bytes([name; 16]),
            cause: Cause::SignOutEverywhere,
            revoke: RevokeRule::Nothing,
            mark_for: Duration::from_secs(3600),
            logout_iat: None,
        };
        let target = Target::Account(account);
        store.inner.remove(&target, &removal).await.unwrap();
    };

    let mut browser = TestBrowser::new();
    begin(&app, &mut browser, "/signin?return_to=/whoami").await;
    let (answer, _) = undelivered(&browser, "alice").await;
    end_all(1).await;
    provider.clear_events();
    let page = browser.goto(answer.as_str()).await.unwrap();
    assert!(page.has_id("login-alice"), "at the provider once more");
    assert_eq!(sign_ins(&app).await, 0);
    revoked(&provider).await;
    let mut unlucky = browser.clone();
    browser.submit("login-alice", &[]).await.unwrap();
    assert_eq!(browser.follow().await.unwrap().body(), "alice");

    // Overtaken a second time, it says so instead of going round and round.
    unlucky.clear_cookies("127.0.0.1");
    begin(&app, &mut unlucky, "/signin?return_to=/whoami").await;
    let (answer, _) = undelivered(&unlucky, "alice").await;
    end_all(2).await;
    unlucky.goto(answer.as_str()).await.unwrap();
    let (answer, _) = undelivered(&unlucky, "alice").await;
    end_all(3).await;
    let page = unlucky.goto(answer.as_str()).await.unwrap();
    assert_eq!(page.status(), 401);
    assert!(page.body().contains("signed_out_meanwhile"));
    assert_eq!(sign_ins(&app).await, 0);
}
