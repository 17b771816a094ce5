//! What the browser sends, seen from an app on another site than the provider.

use axum::{
    Router,
    http::{HeaderMap, Method, StatusCode, header},
    response::{Html, IntoResponse, Redirect},
    routing::{any, get},
};
use axum_signout::testing::{BrowserError, TestBrowser};

const PAGE: &str = "<form id=out method=post action=/echo><input type=hidden name=a value=1>\
     <button id=go name=b value=2>Go</button></form><a id=link href=/echo>Echo</a>";

/// Answers with the headers that matter, one a line, and the body.
async fn echo(method: Method, headers: HeaderMap, body: String) -> String {
    let mut lines = vec![method.to_string()];
    for name in [
        "cookie",
        "origin",
        "sec-fetch-site",
        "sec-fetch-mode",
        "accept",
    ] {
        let value = headers
            .get(name)
            .map_or("-", |value| value.to_str().unwrap());
        lines.push(format!("{name}: {value}"));
    }
    lines.push(body);
    lines.join("\n")
}

async fn cookies() -> impl IntoResponse {
    let cookies = [
        "strict=1; SameSite=Strict; HttpOnly",
        "lax=1; SameSite=Lax",
        "none=1; SameSite=None; Secure",
        "__Host-id=1; Secure; HttpOnly; Path=/; Max-Age=600",
    ];
    (
        axum::response::AppendHeaders(cookies.map(|cookie| (header::SET_COOKIE, cookie))),
        Html(PAGE),
    )
}

/// The base URLs of one app by two hosts, which are two sites.
async fn app() -> (String, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = format!("http://localhost:{port}");
    let over_there = format!("{other}/return");
    let back = format!("http://127.0.0.1:{port}/echo");
    let frame = format!("<iframe src=\"{back}\"></iframe>");
    let refresh = "<meta http-equiv=\"refresh\" content=\"0; url=/posts-itself\">";
    let itself = "<body onload=\"document.forms[0].submit()\"><form method=post action=/echo>\
         <input name=hint value='a&amp;b'></form>";
    let clear = [("clear-site-data", "\"cookies\""), ("set-cookie", "late=1")];
    let router = Router::new()
        .route("/", get(cookies))
        .route("/echo", any(echo))
        .route(
            "/away",
            get(move || async move { Redirect::to(&over_there) }),
        )
        .route("/return", get(move || async move { Redirect::to(&back) }))
        .route("/keep", any(|| async { Redirect::temporary("/echo") }))
        .route("/loop", get(|| async { Redirect::to("/loop") }))
        .route("/framed", get(move || async move { Html(frame) }))
        .route("/refresh", get(move || async move { Html(refresh) }))
        .route("/posts-itself", get(move || async move { Html(itself) }))
        .route("/clear", get(move || async move { clear }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (format!("http://127.0.0.1:{port}"), other)
}

const ALL: &str = "cookie: strict=1; lax=1; none=1; __Host-id=1";

#[tokio::test]
async fn cookies_and_metadata_follow_the_initiator() {
    let (app, other) = app().await;
    let mut browser = TestBrowser::new();
    browser.goto(&app).await.unwrap();
    assert_eq!(browser.script_cookies("127.0.0.1"), ["lax", "none"]);
    let echo = format!("{app}/echo");

    let typed = browser.goto(&echo).await.unwrap();
    assert!(typed.body().contains(ALL));
    assert!(typed.body().contains("sec-fetch-site: none"));

    browser.goto(&app).await.unwrap();
    let linked = browser.click_link("link").await.unwrap();
    assert!(linked.body().contains(ALL));
    assert!(linked.body().contains("sec-fetch-site: same-origin"));

    browser.goto(&app).await.unwrap();
    let sent = browser.submit("go", &[("a", "9")]).await.unwrap();
    assert!(sent.body().starts_with("POST") && sent.body().ends_with("a=9&b=2"));
    assert!(sent.body().contains(&format!("origin: {app}")));

    let linked = browser.cross_site_link(&echo).await.unwrap();
    assert!(linked.body().contains("cookie: lax=1; none=1; __Host-id=1"));
    assert!(linked.body().contains("sec-fetch-site: cross-site"));

    let posted = browser.cross_site_post(&echo, &[("x", "1")]).await.unwrap();
    assert!(posted.body().contains("cookie: none=1\n"));
    assert!(posted.body().contains("origin: https://attacker.example"));

    browser.goto(&other).await.unwrap();
    let posted = browser.post_form(&echo, &[]).await.unwrap();
    assert!(posted.body().contains("cookie: none=1\n"));
    assert!(posted.body().contains("sec-fetch-site: cross-site"));
}

#[tokio::test]
async fn a_redirect_over_another_site_holds_strict_cookies_back() {
    let (app, _) = app().await;
    let away = format!("{app}/away");
    let mut browser = TestBrowser::new();
    browser.goto(&app).await.unwrap();
    let page = browser.post_form("/keep", &[("kept", "1")]).await.unwrap();
    assert!(page.body().starts_with("POST") && page.body().ends_with("kept=1"));
    let page = browser.goto(&away).await.unwrap();
    assert!(page.body().contains("cookie: lax=1; none=1"));
    assert_eq!(browser.history().iter().rev().take(3).count(), 3);

    let mut chromium = TestBrowser::builder()
        .redirects_count_for_same_site(false)
        .build();
    chromium.goto(&app).await.unwrap();
    let page = chromium.goto(&away).await.unwrap();
    assert!(page.body().contains(ALL));
}

#[tokio::test]
async fn frames_of_other_sites_go_without_cookies() {
    let (app, other) = app().await;
    let mut strict = TestBrowser::new();
    let mut lenient = TestBrowser::builder()
        .block_third_party_cookies(false)
        .build();
    for (browser, expected) in [
        (&mut strict, "cookie: -\n"),
        (&mut lenient, "cookie: none=1\n"),
    ] {
        browser.goto(&app).await.unwrap();
        browser.goto(format!("{other}/framed")).await.unwrap();
        let frames = browser.load_frames().await.unwrap();
        assert!(frames[0].body().contains(expected), "{}", frames[0].body());
    }
}

#[tokio::test]
async fn scripts_stay_on_their_origin() {
    let (app, other) = app().await;
    let mut browser = TestBrowser::new();
    browser.goto(&app).await.unwrap();
    let here = browser.fetch(Method::POST, "/echo").await.unwrap();
    assert!(here.body().contains(ALL));
    assert!(here.body().contains("sec-fetch-mode: cors"));
    assert!(here.body().contains("accept: application/json"));
    let there = browser.fetch(Method::GET, format!("{other}/echo")).await;
    assert!(there.unwrap().body().contains("cookie: -\n"));
    let away = browser.fetch(Method::GET, "/away").await.unwrap();
    assert_eq!(away.status(), StatusCode::SEE_OTHER);
    assert_eq!(away.location().unwrap().as_str(), format!("{other}/return"));
    assert_eq!(browser.page().unwrap().url().path(), "/");
    let headers = [("accept", "text/html")];
    let with = browser.fetch_with(Method::PUT, "/echo", &headers, Some("body"));
    let with = with.await.unwrap();
    assert!(with.body().contains("accept: text/html") && with.body().ends_with("body"));
}

#[tokio::test]
async fn pages_that_go_on_by_themselves_are_followed() {
    let (app, _) = app().await;
    let mut browser = TestBrowser::new();
    browser.goto(format!("{app}/refresh")).await.unwrap();
    let page = browser.follow().await.unwrap();
    assert!(page.body().starts_with("POST") && page.body().ends_with("hint=a%26b"));
    let looping = browser.goto(format!("{app}/loop")).await.unwrap_err();
    assert!(matches!(looping, BrowserError::TooManyRedirects));
    let nowhere = browser.goto("javascript:alert(1)").await.unwrap_err();
    assert!(matches!(nowhere, BrowserError::Url(_)));
    let missing = browser.submit("no-such", &[]).await.unwrap_err();
    assert!(matches!(missing, BrowserError::NotFound(_)));
}

#[tokio::test]
async fn cookies_go_with_the_session_the_host_or_clear_site_data() {
    let (app, _) = app().await;
    let mut browser = TestBrowser::new();
    browser.goto(&app).await.unwrap();
    let mut copy = browser.clone();
    browser.restart();
    assert_eq!(browser.cookies("127.0.0.1"), ["__Host-id"]);
    browser.set_cookie(&app, "mine=1").unwrap();
    assert_eq!(browser.cookie("127.0.0.1", "mine"), Some("1"));
    browser.clear_cookies("127.0.0.1");
    assert!(browser.cookies("127.0.0.1").is_empty());
    copy.goto(format!("{app}/clear")).await.unwrap();
    assert!(copy.cookies("127.0.0.1").is_empty());
}
