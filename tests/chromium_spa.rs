//! The single-page app in Chromium: several tabs, one session, no token in any of them.

mod support;

#[path = "../examples/spa/app/mod.rs"]
mod spa;

use std::sync::Arc;
use std::time::Duration;

use axum_signout::clock::ManualClock;
use axum_signout::testing::Event;
use serde_json::json;
use spa::{Options, Spa};
use support::chromium::Chromium;

const IDLE: Duration = Duration::from_secs(15 * 60);

/// The app on a free port with a clock that stands still, and a browser whose user is signed in.
struct Scene {
    spa: Spa,
    clock: Arc<ManualClock>,
    chromium: Chromium,
}

impl Scene {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let options = Options {
            bind: ([127, 0, 0, 1], 0).into(),
            idle: IDLE,
            clock: clock.clone(),
        };
        let spa = Spa::start(options).await.expect("the app starts");
        let chromium = Chromium::start().await;
        chromium.goto(&spa.url).await;
        chromium.click_id("sign-in").await;
        chromium.click_id("login-alice").await;
        let scene = Self {
            spa,
            clock,
            chromium,
        };
        scene.wait_for_greeting().await;
        scene
    }

    async fn wait_for_greeting(&self) {
        self.chromium.wait_for_text("Hello, Alice").await;
    }

    /// A further tab on the app, in front.
    async fn open_tab(&self) -> fantoccini::wd::WindowHandle {
        let client = self.chromium.client();
        let tab = client.new_window(true).await.expect("a tab").handle;
        self.go_to(&tab).await;
        self.chromium.goto(&self.spa.url).await;
        self.wait_for_greeting().await;
        tab
    }

    async fn tab(&self) -> fantoccini::wd::WindowHandle {
        self.chromium.client().window().await.expect("a tab")
    }

    async fn go_to(&self, tab: &fantoccini::wd::WindowHandle) {
        let switched = self.chromium.client().switch_to_window(tab.clone()).await;
        switched.expect("it is open");
    }

    async fn write_a_note(&self) {
        self.chromium.type_into("#draft", "private").await;
        // Under the name of the sign-in.
        let stored = self.stored().await;
        let notes: Vec<_> = stored.as_object().expect("storage").values().collect();
        assert_eq!(notes, ["private"]);
    }

    /// What is in this tab's two storages.
    async fn stored(&self) -> serde_json::Value {
        let script = "return Object.assign({}, localStorage, sessionStorage)";
        self.chromium.execute(script).await
    }

    /// Nothing of the user is shown or kept in this tab.
    async fn wait_for_forgotten(&self, why: &str) {
        self.chromium.wait_for_text(why).await;
        assert_eq!(self.stored().await, json!({}));
        let left = self
            .chromium
            .execute("return document.getElementById('draft').value + document.getElementById('name').textContent")
            .await;
        assert_eq!(left, "");
    }
}

#[tokio::test]
async fn logging_off_in_one_tab_empties_the_others_r11_r12_r42() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    let first = scene.tab().await;
    scene.write_a_note().await;
    let second = scene.open_tab().await;
    scene.write_a_note().await;
    chromium.screenshot("spa-1-signed-in").await;

    scene.go_to(&first).await;
    chromium.click_id("log-off").await;
    // The script went where it was told: to the provider's logout, and back.
    chromium.click_id("confirm-logout").await;
    chromium.wait_for("#sign-in").await;
    assert_eq!(scene.stored().await, json!({}));
    assert!(chromium.cookie("id").await.is_none());
    assert!(scene.spa.provider.sessions().is_empty());

    scene.go_to(&second).await;
    scene.wait_for_forgotten("You are signed out").await;
    chromium.screenshot("spa-2-signed-out").await;
}

/// The other tab hears nothing from the first, as one in another process of the browser may not: it asks.
#[tokio::test]
async fn a_tab_that_hears_nothing_asks_r42() {
    let scene = Scene::new().await;
    scene.write_a_note().await;
    // As a sign-out does that comes from elsewhere.
    let script = "const done = arguments[arguments.length - 1]; fetch('/signout', { method: 'POST', headers: { Accept: 'application/json' } }).then(answer => done(answer.status))";
    let status = scene.chromium.client().execute_async(script, vec![]).await;
    assert_eq!(status.expect("it runs"), 200);
    scene.wait_for_forgotten("You are signed out").await;
}

#[tokio::test]
async fn the_page_warns_stays_on_request_and_signs_itself_out_r42() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    scene.write_a_note().await;
    let second = scene.open_tab().await;
    assert!(
        !chromium
            .wait_for("#warning")
            .await
            .is_displayed()
            .await
            .unwrap()
    );

    scene.clock.advance(IDLE - Duration::from_secs(50));
    chromium.wait_for_text("You will be signed out in").await;
    chromium.screenshot("spa-3-warning").await;
    chromium.click_id("stay").await;
    chromium
        .wait_until("no warning", async || {
            let text = chromium.text().await;
            (!text.contains("You will be signed out in")).then_some(())
        })
        .await;
    assert_eq!(scene.spa.auth.evict_due().await.unwrap(), 0);

    // Nobody touches anything, but both tabs go on asking.
    scene.clock.advance(IDLE - Duration::from_secs(50));
    chromium.wait_for_text("You will be signed out in").await;
    scene.clock.advance(Duration::from_secs(51));
    let why = "You were signed out because you were away";
    scene.wait_for_forgotten(why).await;
    for tab in chromium.client().windows().await.expect("two tabs") {
        scene.go_to(&tab).await;
        scene.wait_for_forgotten(why).await;
    }
    scene.go_to(&second).await;
    assert!(chromium.cookie("id").await.is_none());
    scene.spa.auth.evict_due().await.unwrap();
    assert_eq!(scene.spa.auth.stats().await.unwrap().sign_ins, 0);
}

#[tokio::test]
async fn no_token_reaches_the_browser_and_the_api_is_served_all_the_same_r11_a11() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    chromium.click_id("load").await;
    chromium.wait_for_text("Teapot").await;
    let introspected = |event: &Event| matches!(event, Event::Introspected { active: true, .. });
    assert_eq!(scene.spa.provider.count(introspected), 1);

    // All that the app answers a script with, and all that the browser keeps.
    let script = "const done = arguments[arguments.length - 1];
        const paths = ['/', '/script.js', '/style.css', '/api/me', '/api/orders', '/signout/status'];
        Promise.all(paths.map(async path => {
            const answer = await fetch(path);
            return [...answer.headers].join() + await answer.text();
        })).then(all => done(all.join() + document.documentElement.outerHTML + document.cookie + JSON.stringify([localStorage, sessionStorage])))";
    let seen = chromium.client().execute_async(script, vec![]).await;
    let seen = seen.expect("it runs").as_str().expect("a text").to_owned();
    assert!(seen.contains("Teapot") && seen.contains("signed_in"));
    let secrets = scene.spa.provider.secrets();
    assert!(secrets.len() > 3);
    for secret in &secrets {
        assert!(
            !seen.contains(secret.as_str()),
            "a secret of the provider is in what the page can read"
        );
    }

    let active = || {
        secrets
            .iter()
            .filter(|secret| scene.spa.provider.is_active(secret))
            .count()
    };
    assert!(active() >= 2);

    // Neither is one in the answer that a sign-out gives to the script, nor in the URL that it leads to.
    let copy = chromium.cookie("id").await.expect("a session").value;
    let script = "const done = arguments[arguments.length - 1];
        fetch('/signout', { method: 'POST', headers: { Accept: 'application/json' } })
            .then(answer => answer.text()).then(done)";
    let answer = chromium.client().execute_async(script, vec![]).await;
    let answer = answer
        .expect("it runs")
        .as_str()
        .expect("a text")
        .to_owned();
    assert!(answer.contains("end_session"), "{answer}");
    for secret in &secrets {
        assert!(!answer.contains(secret.as_str()), "a secret in {answer}");
    }

    // What was copied before opens nothing afterwards: neither the cookie here, nor the access token at the API.
    let url = format!("{}/api/me", scene.spa.url);
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http
        .get(url)
        .header("cookie", format!("id={copy}"))
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 401);
    assert!(scene.spa.auth.shutdown().await.finished);
    assert_eq!(active(), 0, "tokens that are good still");
}

/// Another account in the same session, from another tab: what is on the screen is of the one whom the server would serve.
#[tokio::test]
async fn a_tab_shows_nothing_of_one_user_to_another_r11() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    scene.write_a_note().await;
    chromium.click_id("load").await;
    chromium.wait_for_text("Teapot").await;
    let first = scene.tab().await;
    scene.open_tab().await;
    let sign_in = format!("{}/signin?return_to=/&prompt=login", scene.spa.url);
    chromium.goto(&sign_in).await;
    chromium.click_id("login-bob").await;
    chromium.wait_for_text("Hello, Bob").await;

    scene.go_to(&first).await;
    chromium.wait_for_text("Hello, Bob").await;
    assert!(!chromium.text().await.contains("Teapot"));
    let draft = "return document.getElementById('draft').value";
    assert_eq!(chromium.execute(draft).await, "");
    assert_eq!(scene.stored().await, json!({}));
}

/// `Clear-Site-Data` reaches tabs whose script is asleep or gone.
#[tokio::test]
async fn what_a_tab_without_a_script_keeps_is_cleared_by_the_browser_r12() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    let first = scene.tab().await;
    let client = chromium.client();
    let other = client.new_window(true).await.expect("a tab").handle;
    scene.go_to(&other).await;
    chromium.goto(&format!("{}/style.css", scene.spa.url)).await;
    chromium
        .execute("sessionStorage.setItem('a', 'private'); localStorage.setItem('b', 'private')")
        .await;
    scene.go_to(&first).await;
    chromium.click_id("log-off").await;
    chromium.click_id("confirm-logout").await;
    chromium.wait_for("#sign-in").await;
    scene.go_to(&other).await;
    chromium
        .wait_until("empty storages", async || {
            (scene.stored().await == json!({})).then_some(())
        })
        .await;
}
