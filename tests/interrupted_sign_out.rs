//! A sign-out that the browser did not come back from, or whose provider was out of reach (R8).

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use axum_signout::clock::ManualClock;
use axum_signout::testing::{Event, TestBrowser, TestClient, TestProvider};
use axum_signout::{Account, Auth, Error, Provider, ProviderOutcome, SignOut, TokenSet};
use serde_json::json;
use support::app::{Answer, App, CLIENT, SECRET, Setup, cookies, send};
use support::faulty::{Fail, FaultyStore};
use tower_sessions::Session;

/// What the app's banner would say.
fn banner() -> Router {
    let text = |sign_out: SignOut| async move {
        match sign_out.unfinished() {
            Some(unfinished) => unfinished.issuers().join(" "),
            None => "none".into(),
        }
    };
    Router::new().route("/banner", get(text))
}

fn setup() -> Setup {
    let settle = |auth: Auth, sign_out: SignOut| async move {
        let issuer = auth.providers()[0].issuer().to_owned();
        sign_out.settle_unfinished(&issuer).await;
    };
    Setup::new()
        .auth(|auth| auth.after_sign_out("/bye"))
        .routes(
            banner()
                .route("/bye", get(|| async { "bye" }))
                .route("/settle", post(settle)),
        )
}

/// Alice signed out here, and closed the page of the provider's logout.
async fn interrupted(setup: Setup) -> (TestProvider, App, TestBrowser) {
    let provider = TestProvider::start().await;
    let app = setup.start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let page = browser.post_form("/signout", &[]).await.unwrap();
    assert!(page.has_id("confirm-logout"));
    assert_eq!(provider.sessions().len(), 1);
    provider.clear_events();
    (provider, app, browser)
}

/// Another provider besides that of the setup, by the name `second`.
fn with_second(second: &TestProvider) -> Setup {
    let issuer = second.issuer().to_owned();
    setup().auth(move |auth| {
        let other = Provider::discover(issuer, CLIENT)
            .client_secret(SECRET)
            .name("second");
        auth.provider(other.build().unwrap()).after_sign_out("/bye")
    })
}

async fn sign_in_at_second(app: &App, browser: &mut TestBrowser) {
    let path = "/signin?return_to=/whoami&provider=second";
    app.sign_in_at(browser, "bob", path).await;
}

fn asked_for_login(event: &Event) -> bool {
    matches!(event, Event::Authorize { params, .. } if params.get("prompt").is_some_and(|p| p == "login"))
}

async fn banner_of(app: &App, browser: &mut TestBrowser) -> String {
    app.get(browser, "/banner").await.body().to_owned()
}

#[tokio::test]
async fn a_button_or_a_link_of_the_app_goes_on_with_it_r8() {
    for by_post in [true, false] {
        let (provider, app, mut browser) = interrupted(setup()).await;
        assert_eq!(banner_of(&app, &mut browser).await, provider.issuer());
        let page = match by_post {
            true => browser.post_form("/signout/resume", &[]).await,
            false => browser.goto(app.url("/signout/resume")).await,
        };
        assert!(page.unwrap().has_id("confirm-logout"));
        let page = browser.submit("confirm-logout", &[]).await.unwrap();
        assert_eq!(page.url().as_str(), app.url("/bye"));
        assert!(provider.sessions().is_empty());
        assert_eq!(banner_of(&app, &mut browser).await, "none");
        assert!(browser.cookies("127.0.0.1").is_empty());
        assert_eq!(app.seen().len(), 1, "it was evicted once");
    }
}

#[tokio::test]
async fn a_script_goes_on_with_it_r8_r11() {
    let (provider, app, browser) = interrupted(setup()).await;
    let cookie = cookies(&browser);
    let headers = [("cookie", &*cookie), ("accept", "application/json")];
    let answer = send(&app.router, "POST", "/signout/resume", &headers, "").await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains(&provider.url("/end_session")));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[tokio::test]
async fn other_sites_cannot_send_the_user_there_r8_r10() {
    let (provider, app, mut browser) = interrupted(setup()).await;
    let by_post = browser.cross_site_post(app.url("/signout/resume"), &[]);
    assert_eq!(by_post.await.unwrap().status(), 403);
    let by_link = browser.cross_site_link(app.url("/signout/resume"));
    assert_eq!(by_link.await.unwrap().status(), 403);
    assert_eq!(banner_of(&app, &mut browser).await, provider.issuer());
    let asked = |event: &Event| matches!(event, Event::EndSessionRequested { .. });
    assert_eq!(provider.count(asked), 0);
}

#[tokio::test]
async fn without_one_nobody_is_signed_out_r8() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut browser = TestBrowser::new();
    let page = browser.goto(app.url("/signout/resume")).await.unwrap();
    assert_eq!(page.url().path(), "/bye");
    app.sign_in(&mut browser, "alice").await;
    let page = browser.post_form("/signout/resume", &[]).await.unwrap();
    assert_eq!(page.url().path(), "/bye");
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
}

/// Who has such a copy: a browser that was restored, a tab whose answer came late.
#[tokio::test]
async fn a_copy_of_the_cookie_is_worth_nothing_once_the_user_was_back_r8() {
    let (provider, app, mut browser) = interrupted(setup()).await;
    let mut copy = browser.clone();
    browser.goto(app.url("/signout/resume")).await.unwrap();
    let mut later_copy = browser.clone();

    // Until then it counts, whichever of the two it is.
    for one in [&copy, &later_copy] {
        let headers = [("cookie", &*cookies(one))];
        let answer = send(&app.router, "GET", "/signin", &headers, "").await;
        assert_eq!(answer.param("prompt").as_deref(), Some("login"));
    }
    browser.submit("confirm-logout", &[]).await.unwrap();
    assert!(provider.sessions().is_empty());
    for one in [&mut copy, &mut later_copy] {
        let headers = [("cookie", &*cookies(one))];
        let answer = send(&app.router, "GET", "/signin", &headers, "").await;
        assert_eq!(answer.status, 303);
        assert_eq!(answer.param("prompt"), None);
        let page = one.goto(app.url("/signout/resume")).await.unwrap();
        assert_eq!(page.url().path(), "/bye");
        assert!(
            one.cookies("127.0.0.1")
                .iter()
                .all(|c| !c.contains("signout"))
        );
    }
}

/// As an app does that signs its users in by itself.
#[tokio::test]
async fn an_app_can_say_that_it_is_settled_r8() {
    let (_provider, app, mut browser) = interrupted(setup()).await;
    let copy = cookies(&browser);
    browser.post_form(app.url("/settle"), &[]).await.unwrap();
    assert_eq!(app.get(&mut browser, "/banner").await.body(), "none");
    let answer = send(&app.router, "GET", "/signin", &[("cookie", &*copy)], "").await;
    assert_eq!(answer.param("prompt"), None);
}

#[tokio::test]
async fn the_cookies_of_many_stay_few_r8() {
    let (_provider, app, mut browser) = interrupted(setup()).await;
    for _ in 0..20 {
        app.sign_in(&mut browser, "alice").await;
        let page = browser.post_form("/signout", &[]).await.unwrap();
        assert!(page.has_id("confirm-logout"));
        browser.cross_site_link(app.url("/")).await.unwrap();
        let names = browser.cookies("127.0.0.1");
        let kept = names.iter().filter(|name| name.contains("signout."));
        assert!(kept.count() <= 4, "{names:?}");
    }
}

/// The way back is forgotten then, but not that the user has to be asked.
#[tokio::test]
async fn what_is_too_large_for_a_cookie_makes_the_next_sign_in_ask_all_the_same_r8() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let state = "s".repeat(8000);
    let (answer, _) = app.leave(&browser, json!({ "state": state })).await;
    let cookie = answer.set_cookies().into_iter();
    let cookie = cookie.filter(|cookie| cookie.contains("signout."));
    let pairs: Vec<&str> = cookie.filter_map(|c| c.split(';').next()).collect();
    assert_eq!(pairs.len(), 1);
    let answer = send(&app.router, "GET", "/signin", &[("cookie", pairs[0])], "").await;
    assert_eq!(answer.param("prompt").as_deref(), Some("login"));
}

#[tokio::test]
async fn when_the_store_cannot_say_the_sign_in_asks_r8() {
    for fail in [Fail::Unavailable, Fail::Unknown, Fail::Full] {
        let store = FaultyStore::new();
        let faults = store.faults.clone();
        let setup = setup().auth(|auth| auth.store(store).after_sign_out("/bye"));
        let (_provider, app, mut browser) = interrupted(setup).await;
        faults.set(&["claim", "settle"], fail);
        let headers = [("cookie", &*cookies(&browser))];
        let answer = send(&app.router, "GET", "/signin", &headers, "").await;
        assert_eq!(answer.param("prompt").as_deref(), Some("login"));
        // Nor does it keep the user from going on, and coming back.
        let page = browser.goto(app.url("/signout/resume")).await.unwrap();
        assert!(page.has_id("confirm-logout"));
        let page = browser.submit("confirm-logout", &[]).await.unwrap();
        assert_eq!(page.url().path(), "/bye");
    }
}

/// Signs somebody in at each provider without asking it, so that its metadata is not known yet.
fn plant() -> Router {
    let plant = |auth: Auth, session: Session| async move {
        for provider in auth.providers() {
            let account = Account::new(provider.issuer(), "alice");
            auth.sign_in(&session, None, account, TokenSet::new())
                .await?;
        }
        Ok::<_, Error>("planted")
    };
    banner().route("/plant", post(plant))
}

fn take_cookies(browser: &mut TestBrowser, app: &App, answer: &Answer) {
    for cookie in answer.set_cookies() {
        browser.set_cookie(&app.base, cookie).unwrap();
    }
}

async fn planted(app: &App) -> TestBrowser {
    let answer = send(&app.router, "POST", "/plant", &[], "").await;
    assert_eq!(answer.body, "planted");
    let mut browser = TestBrowser::new();
    take_cookies(&mut browser, app, &answer);
    browser
}

#[tokio::test]
async fn a_logout_that_was_out_of_reach_is_gone_on_with_when_it_is_back_r8_a4() {
    let provider = TestProvider::start().await;
    let clock = Arc::new(ManualClock::new());
    let for_auth = clock.clone();
    let app = Setup::new()
        .auth(|auth| auth.clock(for_auth).after_sign_out("/"))
        .routes(plant())
        .start(&provider)
        .await;
    let mut browser = planted(&app).await;
    provider.pause().await;
    let (answer, report) = app.leave(&browser, json!({})).await;
    let issuer = provider.issuer().into();
    assert_eq!(report.provider, ProviderOutcome::Unavailable { issuer });
    assert_eq!(answer.location().path(), "/");
    take_cookies(&mut browser, &app, &answer);
    assert_eq!(banner_of(&app, &mut browser).await, provider.issuer());

    // Still away: nobody is sent nowhere, and nothing is forgotten.
    let page = browser.goto(app.url("/signout/resume")).await.unwrap();
    assert_eq!(page.url().path(), "/");
    assert_eq!(banner_of(&app, &mut browser).await, provider.issuer());

    provider.resume().await;
    clock.advance(Duration::from_secs(60));
    let headers = [("cookie", &*cookies(&browser))];
    let answer = send(&app.router, "GET", "/signin", &headers, "").await;
    assert_eq!(answer.param("prompt").as_deref(), Some("login"));
    // The provider knows nobody, so it sends the user back at once.
    let page = browser.goto(app.url("/signout/resume")).await.unwrap();
    assert_eq!(page.url().path(), "/");
    let asked = |event: &Event| matches!(event, Event::EndSessionRequested { .. });
    assert_eq!(provider.count(asked), 1);
    assert_eq!(banner_of(&app, &mut browser).await, "none");
}

#[tokio::test]
async fn a_local_sign_out_leaves_nothing_to_go_on_with_r8() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let (answer, _) = app.leave(&browser, json!({ "local_only": true })).await;
    take_cookies(&mut browser, &app, &answer);
    assert_eq!(banner_of(&app, &mut browser).await, "none");
}

#[tokio::test]
async fn of_two_providers_the_one_out_of_reach_comes_when_it_is_back_r8() {
    let (first, second) = (TestProvider::start().await, TestProvider::start().await);
    let clock = Arc::new(ManualClock::new());
    let for_auth = clock.clone();
    let issuer = second.issuer().to_owned();
    let app = Setup::new()
        .auth(move |auth| {
            let other = Provider::discover(issuer, CLIENT)
                .client_secret(SECRET)
                .name("second");
            auth.provider(other.build().unwrap())
                .clock(for_auth)
                .after_sign_out("/")
        })
        .routes(plant())
        .start(&first)
        .await;
    second.add_client(TestClient::new(CLIENT).secret(SECRET).app(&app.base));
    let mut browser = planted(&app).await;
    // The latest comes first, and is away: the other one must not wait for it.
    second.pause().await;
    browser.goto(app.url("/")).await.unwrap();
    let page = browser.post_form("/signout", &[]).await.unwrap();
    assert_eq!(page.url().as_str(), app.url("/"));
    let asked = |event: &Event| matches!(event, Event::EndSessionRequested { .. });
    assert_eq!(first.count(asked), 1);
    assert_eq!(banner_of(&app, &mut browser).await, second.issuer());

    second.resume().await;
    clock.advance(Duration::from_secs(60));
    browser.goto(app.url("/signout/resume")).await.unwrap();
    assert_eq!((first.count(asked), second.count(asked)), (1, 1));
    assert_eq!(banner_of(&app, &mut browser).await, "none");
}

#[tokio::test]
async fn a_sign_in_at_another_provider_leaves_it_as_it_is_r8() {
    let second = TestProvider::start().await;
    let (first, app, mut browser) = interrupted(with_second(&second)).await;
    second.add_client(TestClient::new(CLIENT).secret(SECRET).app(&app.base));
    sign_in_at_second(&app, &mut browser).await;
    assert_eq!(second.count(asked_for_login), 0);
    assert_eq!(banner_of(&app, &mut browser).await, first.issuer());

    // Going on ends the first one's session, and nobody's here.
    browser.goto(app.url("/signout/resume")).await.unwrap();
    browser.submit("confirm-logout", &[]).await.unwrap();
    assert!(first.sessions().is_empty());
    assert_eq!(second.sessions().len(), 1);
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "bob");
    assert_eq!(banner_of(&app, &mut browser).await, "none");
}

#[tokio::test]
async fn two_that_were_interrupted_are_gone_on_with_one_after_the_other_r8() {
    let (first, second) = (TestProvider::start().await, TestProvider::start().await);
    let app = with_second(&second).start(&first).await;
    second.add_client(TestClient::new(CLIENT).secret(SECRET).app(&app.base));
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    sign_in_at_second(&app, &mut browser).await;
    for (login, issuer) in [("alice", first.issuer()), ("bob", second.issuer())] {
        let wanted = json!({ "account": login, "account_issuer": issuer });
        let (answer, _) = app.leave(&browser, wanted).await;
        assert!(answer.header("location").unwrap().starts_with(issuer));
        take_cookies(&mut browser, &app, &answer);
    }
    let both = format!("{} {}", second.issuer(), first.issuer());
    assert_eq!(banner_of(&app, &mut browser).await, both);

    // Signing in at one of them settles that one.
    let mut other = browser.clone();
    let path = "/signin?return_to=/whoami&provider=second&login_hint=bob";
    let page = other.goto(app.url(path)).await.unwrap();
    assert!(page.has_id("login-bob"), "no silent sign-in");
    other.submit("login-bob", &[]).await.unwrap();
    assert_eq!(other.follow().await.unwrap().body(), "bob");
    assert_eq!(banner_of(&app, &mut other).await, first.issuer());

    browser.goto(app.url("/signout/resume")).await.unwrap();
    assert!(
        browser
            .page()
            .unwrap()
            .url()
            .as_str()
            .starts_with(first.issuer()),
        "what the sign-in settled is settled in every copy"
    );
}

#[tokio::test]
async fn a_sign_in_that_began_before_the_sign_out_does_not_settle_it_r8() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    // In another tab, a sign-in that nobody is asked about; its answer is held up on the way.
    let headers = [("cookie", &*cookies(&browser))];
    let started = send(
        &app.router,
        "GET",
        "/signin?return_to=/banner",
        &headers,
        "",
    )
    .await;
    take_cookies(&mut browser, &app, &started);
    browser.goto(app.url("/")).await.unwrap();
    browser.post_form("/signout", &[]).await.unwrap();
    browser.goto(started.location()).await.unwrap();
    let page = browser.follow().await.unwrap();
    assert_eq!(page.body(), provider.issuer(), "{page:?}");
}

#[tokio::test]
async fn its_path_is_the_apps_to_choose_r8() {
    let setup = Setup::new().auth(|auth| auth.sign_out_resume_path("/leave/again"));
    let (provider, app, mut browser) = interrupted(setup).await;
    assert_eq!(app.auth.sign_out_resume_url(), app.url("/leave/again"));
    let page = browser.goto(app.auth.sign_out_resume_url()).await.unwrap();
    assert!(page.url().as_str().starts_with(provider.issuer()));
    assert_eq!(app.get(&mut browser, "/signout/resume").await.status(), 404);
    // A link to sign-in must not end there.
    let refused = send(
        &app.router,
        "GET",
        "/signin?return_to=/leave/again",
        &[],
        "",
    )
    .await;
    assert_eq!(refused.status, 400);
}
