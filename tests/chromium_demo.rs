//! The demo in Chromium. Its provider is on another site (`localhost`) than the app (127.0.0.1), as real ones are.

mod support;

#[path = "../examples/demo/app/mod.rs"]
mod demo;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use axum_signout::testing::Event;
use demo::{Demo, Options};
use serde_json::json;
use support::chromium::Chromium;
use tower_sessions::cookie::SameSite;

/// A demo on a free port, and a browser on its start page.
struct Scene {
    demo: Demo,
    chromium: Chromium,
}

fn options() -> Options {
    Options {
        bind: Some(([127, 0, 0, 1], 0).into()),
        ..Options::default()
    }
}

/// The cookies that the tests of whole flows run with; the first is how tower-sessions comes.
fn kinds() -> [Options; 3] {
    [
        options(),
        Options {
            same_site: SameSite::Lax,
            ..options()
        },
        Options {
            cookie: "__Host-id",
            secure: true,
            ..options()
        },
    ]
}

const SIGNED_OUT: &str = "Nobody is signed in";

impl Scene {
    async fn with(options: Options) -> Self {
        let demo = Demo::start(options).await.expect("the demo starts");
        let chromium = Chromium::start().await;
        chromium.goto(&demo.url).await;
        Self { demo, chromium }
    }

    async fn new() -> Self {
        Self::with(options()).await
    }

    fn home(&self) -> String {
        format!("{}/", self.demo.url)
    }

    /// By the link with this `id`, as somebody who has to say so at the provider.
    async fn sign_in(&self, link: &str, login: &str) {
        self.chromium.click_id(link).await;
        self.chromium.click_id(&format!("login-{login}")).await;
        self.wait_for_account(login).await;
    }

    async fn sign_in_alice(&self) {
        self.sign_in("sign-in-alice", "alice").await;
    }

    async fn wait_for_account(&self, login: &str) {
        self.chromium
            .wait_for(&format!("article[data-subject={login}]"))
            .await;
    }

    /// By the button with this `id`, with a yes to the provider's question, until back on the start page.
    async fn sign_out(&self, button: &str) {
        self.chromium.click_id(button).await;
        self.chromium.click_id("confirm-logout").await;
        self.wait_for_home().await;
    }

    /// Where the provider knows nobody any more, and asks nothing.
    async fn sign_out_at_home(&self, button: &str) {
        self.chromium.click_id(button).await;
        self.chromium.wait_for_text(SIGNED_OUT).await;
    }

    async fn close_tab_for_a_new_one(&self) {
        let client = self.chromium.client();
        let next = client.new_window(true).await.expect("a tab");
        client.close_window().await.expect("a tab");
        let switched = client.switch_to_window(next.handle).await;
        switched.expect("it is open");
    }

    async fn wait_for_home(&self) {
        let home = self.home();
        self.chromium
            .wait_until("the start page", async || {
                (self.chromium.url().await.as_str() == home).then_some(())
            })
            .await;
        self.chromium.wait_for("#status").await;
    }

    async fn accounts(&self) -> Vec<String> {
        let found = self
            .chromium
            .execute(
                "return [...document.querySelectorAll('article')].map(one => one.dataset.subject)",
            )
            .await;
        serde_json::from_value(found).expect("a list of names")
    }

    /// What is left in the browser's two storages.
    async fn stored(&self) -> u64 {
        let stored = self
            .chromium
            .execute("return localStorage.length + sessionStorage.length")
            .await;
        stored.as_u64().expect("a number")
    }

    async fn sign_ins(&self) -> usize {
        self.demo.auth.stats().await.expect("in memory").sign_ins as usize
    }
}

#[tokio::test]
async fn in_and_out_and_nothing_is_left_in_the_browser_r12_r40_r41_a10() {
    for options in kinds() {
        let cookie = options.cookie;
        let (same_site, secure) = (options.same_site, options.secure);
        let scene = Scene::with(options).await;
        let chromium = &scene.chromium;
        assert!(chromium.cookie(cookie).await.is_none());
        if cookie == "id" && same_site == SameSite::Strict {
            chromium.screenshot("demo-1-signed-out").await;
        }

        scene.sign_in_alice().await;
        let kept = chromium.cookie(cookie).await.expect("a session");
        assert!(kept.http_only && kept.secure == secure && kept.path == "/");
        assert_eq!(kept.same_site, Some(same_site.to_string()));
        chromium.wait_for(".token .countdown").await;
        let page = chromium.text().await;
        for shown in ["Alice Adams", "alice@example.com", "openid", "profile"] {
            assert!(page.contains(shown), "{shown} in {page}");
        }
        assert_eq!(scene.stored().await, 2);
        if cookie == "id" && same_site == SameSite::Strict {
            chromium.screenshot("demo-2-signed-in").await;
        }

        scene.sign_out("sign-out-all").await;
        assert!(chromium.text().await.contains(SIGNED_OUT));
        assert!(chromium.cookie(cookie).await.is_none(), "{cookie}");
        assert_eq!(scene.stored().await, 0);
        assert_eq!(scene.sign_ins().await, 0);
        assert!(scene.demo.provider.sessions().is_empty());
        let page = chromium.text().await;
        assert!(page.contains("UserSignOut") && page.contains("Session ended"));
        if cookie == "id" && same_site == SameSite::Strict {
            chromium.screenshot("demo-3-signed-out-again").await;
        }
    }
}

#[tokio::test]
async fn the_back_button_shows_nothing_private() {
    for options in kinds() {
        let scene = Scene::with(options).await;
        let chromium = &scene.chromium;
        scene.sign_in_alice().await;
        // An address that is not loaded anew by the sign-out itself, or the browser could not show an old copy.
        let private = format!("{}/?private", scene.demo.url);
        chromium.goto(&private).await;
        scene.wait_for_account("alice").await;
        scene.sign_out("sign-out-all").await;

        // Back to where the browser's story begins.
        let mut seen = Vec::new();
        loop {
            chromium.back().await;
            let url = chromium.url().await;
            if !url.scheme().starts_with("http") {
                break;
            }
            if url.as_str().starts_with(&scene.demo.url) {
                let (page, html) = (chromium.text().await, chromium.html().await);
                assert!(!html.contains("alice@example.com"), "{url}: {page}");
                seen.push(url.to_string());
            }
        }
        assert!(seen.contains(&private), "{seen:?}");
    }
}

#[tokio::test]
async fn another_sites_form_cannot_sign_the_user_out_r10() {
    let with_none = Options {
        same_site: SameSite::None,
        secure: true,
        ..options()
    };
    // With `None`, the session comes along with the form: then the check of the request is all that is left.
    let brings_session = |same_site| same_site == SameSite::None;
    for options in kinds().into_iter().chain([with_none]) {
        let same_site = options.same_site;
        let scene = Scene::with(options).await;
        let chromium = &scene.chromium;
        scene.sign_in_alice().await;
        let other_site = serve_on_localhost(format!(
            "<form method=post action='{}'><button id=forged>Win a prize</button></form>
             <form method=post action='{}/note'><button id=control name=text value=forged>Win another</button></form>",
            scene.demo.auth.sign_out_url(),
            scene.demo.url,
        ))
        .await;

        chromium.goto(&other_site).await;
        chromium.click_id("forged").await;
        chromium.wait_for_text("Not allowed").await;
        let status = chromium
            .execute("return performance.getEntriesByType('navigation')[0].responseStatus")
            .await;
        assert_eq!(status, 403);

        assert_eq!(scene.sign_ins().await, 1);
        chromium.goto(&scene.demo.url).await;
        scene.wait_for_account("alice").await;
        assert_eq!(scene.stored().await, 2);

        // Whether the session came along: a form of the app's own, which asks for an account first, and then where it is from.
        chromium.goto(&other_site).await;
        chromium.click_id("control").await;
        match brings_session(same_site) {
            true => chromium.wait_for_text("HTTP ERROR 403").await,
            false => chromium.wait_for_text("Not signed in.").await,
        }
    }
}

async fn serve_on_localhost(page: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let app = Router::new().route("/", get(async move || Html(page)));
    tokio::spawn(async { axum::serve(listener, app).await });
    format!("http://localhost:{port}/")
}

#[tokio::test]
async fn two_accounts_in_one_session_and_one_of_them_leaves_r4_r37() {
    for options in kinds() {
        let cookie = options.cookie;
        let scene = Scene::with(options).await;
        let chromium = &scene.chromium;
        scene.sign_in_alice().await;
        let note = "milk & <b>honey</b>";
        chromium.type_into("[name=text]", note).await;
        chromium.click_id("keep-note").await;
        chromium.wait_for_text(note).await;
        let before = chromium.cookie(cookie).await.expect("a session");

        // The answer comes from another site, and with `Strict` without the session: it must not be lost.
        scene.sign_in("add-bob", "bob").await;
        assert_eq!(scene.accounts().await, ["alice", "bob"]);
        assert!(chromium.text().await.contains(note));
        let after = chromium.cookie(cookie).await.expect("a session");
        assert_ne!(before.value, after.value);
        assert_eq!(scene.sign_ins().await, 2);
        chromium.screenshot("demo-4-two-accounts").await;

        scene.sign_out("sign-out-bob").await;
        scene.wait_for_account("alice").await;
        assert_eq!(scene.accounts().await, ["alice"]);
        assert_eq!(scene.sign_ins().await, 1);
        assert!(!chromium.text().await.contains(note), "it was of both");

        scene.sign_out_at_home("sign-out-all").await;
        assert!(chromium.text().await.contains(SIGNED_OUT));
        assert!(chromium.cookie(cookie).await.is_none());
    }
}

#[tokio::test]
async fn a_tab_that_is_closed_at_the_provider_leaves_a_complete_sign_out_r6_r8() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    scene.sign_in_alice().await;
    chromium.click_id("sign-out-all").await;
    chromium.wait_for("#confirm-logout").await;
    assert_eq!(scene.sign_ins().await, 0);
    scene.close_tab_for_a_new_one().await;

    chromium.goto(&scene.demo.url).await;
    chromium.wait_for_text(SIGNED_OUT).await;
    assert!(chromium.cookie("id").await.is_none());
    assert_eq!(scene.stored().await, 0);
    assert_eq!(scene.demo.provider.sessions().len(), 1, "it goes on there");

    // So the provider would let her in unasked; but she meant to leave.
    scene.sign_in_alice().await;
    let asked = scene.demo.provider.count(|event| {
        matches!(event, Event::Authorize { params, .. } if params.get("prompt").is_some_and(|p| p == "login"))
    });
    assert_eq!(asked, 1);

    // Signed in again, nothing of it is left.
    chromium.goto(&scene.demo.url).await;
    assert!(!chromium.exists("#unfinished").await);
    chromium
        .goto(&scene.demo.auth.sign_in_url("/").to_string())
        .await;
    scene.wait_for_account("alice").await;
}

#[tokio::test]
async fn a_sign_out_that_was_left_at_the_provider_can_be_finished_later_r8() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    scene.sign_in_alice().await;
    chromium.click_id("sign-out-all").await;
    chromium.wait_for("#confirm-logout").await;
    scene.close_tab_for_a_new_one().await;

    chromium.goto(&scene.demo.url).await;
    chromium.wait_for("#unfinished").await;
    chromium.screenshot("demo-7-unfinished").await;
    // The banner's button is a form for the crate's own route.
    let action = "return document.querySelector('#unfinished').action";
    let resume = scene.demo.auth.sign_out_resume_url();
    assert_eq!(chromium.execute(action).await, resume);
    chromium.click_id("finish").await;
    chromium.wait_for("#confirm-logout").await;

    // Once more closed midway, and once more there.
    scene.close_tab_for_a_new_one().await;
    chromium.goto(&scene.demo.url).await;
    chromium.wait_for("#unfinished").await;
    scene.sign_out("finish").await;
    assert!(!chromium.exists("#unfinished").await);
    assert!(scene.demo.provider.sessions().is_empty());

    // Nothing is left to go on with.
    chromium.goto(&resume).await;
    scene.wait_for_home().await;
}

#[tokio::test]
async fn tokens_are_acquired_refreshed_and_lost_with_the_grant() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    scene.sign_in_alice().await;
    for (scopes, says) in [
        ("", "From the cache"),
        ("Mail.Read", "Fetched from the provider"),
        ("Mail.Read", "From the cache"),
        ("Admin.Write", "The provider wants to see Alice Adams first"),
    ] {
        chromium
            .click(&format!("[name=scopes][value='{scopes}']"))
            .await;
        chromium.wait_for_text(says).await;
        if says.starts_with("The provider") {
            chromium.click_id("allow").await;
            chromium.click_id("consent-allow").await;
            chromium.wait_for_text("alice@example.com").await;
            chromium.wait_for_text("Replaced").await;
            let chips = chromium
                .execute("return document.querySelector('.tokens').innerText")
                .await;
            assert!(
                chips
                    .as_str()
                    .is_some_and(|chips| chips.contains("Admin.Write")),
                "{chips}"
            );
        } else {
            chromium.reload().await;
        }
    }
    let before = chromium.wait_for(".countdown").await.text().await.ok();
    chromium
        .wait_until("the count-down", async || {
            let now = chromium.wait_for(".countdown").await.text().await.ok();
            (now != before).then_some(())
        })
        .await;

    chromium.click_id("break-alice").await;
    scene.wait_for_home().await;
    chromium.click("[name=scopes][value^=Calendar]").await;
    chromium.wait_for_text(SIGNED_OUT).await;
    chromium.wait_for_text("RefreshRejected").await;
    assert!(chromium.cookie("id").await.is_none());
    assert_eq!(scene.sign_ins().await, 0);
}

#[tokio::test]
async fn another_tab_notices_that_its_user_has_left() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    scene.sign_in_alice().await;
    let first = chromium.client().window().await.expect("a tab");
    let second = chromium.client().new_window(true).await.expect("a tab");
    let switch = async |to| {
        let switched = chromium.client().switch_to_window(to).await;
        switched.expect("it is open");
    };
    switch(second.handle).await;
    chromium.goto(&scene.demo.url).await;
    scene.sign_out("sign-out-all").await;
    switch(first).await;
    chromium.wait_for_text(SIGNED_OUT).await;
    assert!(!chromium.html().await.contains("alice@example.com"));
}

#[tokio::test]
async fn who_signs_out_everywhere_in_one_browser_is_signed_out_in_the_other_at_the_next_click_r43()
{
    for options in kinds() {
        let cookie = options.cookie;
        let shown = cookie == "id" && options.same_site == SameSite::Strict;
        let here = Scene::with(options).await;
        let there = Chromium::start().await;
        // The page would notice by itself: here it must be the click.
        there.cdp("Network.enable", json!({})).await;
        let blocked = json!({ "urls": ["*/events"] });
        there.cdp("Network.setBlockedURLs", blocked).await;
        there.goto(&here.demo.url).await;
        there.click_id("sign-in-alice").await;
        there.click_id("login-alice").await;
        there.wait_for("#everywhere-alice").await;
        here.sign_in_alice().await;
        assert_eq!(here.sign_ins().await, 2);
        let listed = here
            .chromium
            .execute("return document.querySelectorAll('.sign-ins li').length")
            .await;
        assert_eq!(listed, 2);
        assert!(
            here.chromium
                .text()
                .await
                .contains("Headless Chromium on Linux at 127.0.0.1")
        );
        if shown {
            here.chromium.screenshot("demo-8-sign-ins").await;
        }

        here.sign_out("everywhere-alice").await;
        assert!(here.chromium.text().await.contains(SIGNED_OUT));
        assert!(here.chromium.text().await.contains("SignOutEverywhere"));
        assert_eq!(here.sign_ins().await, 0);
        there.click("[name=scopes][value='Mail.Read']").await;
        there.wait_for_text("Not signed in.").await;
        assert!(there.cookie(cookie).await.is_none(), "{cookie}");
        there.goto(&here.demo.url).await;
        there.wait_for_text(SIGNED_OUT).await;
    }
}

#[tokio::test]
async fn one_browser_ends_the_sign_in_of_another_which_notices_by_itself_r43() {
    let here = Scene::new().await;
    let there = Chromium::start().await;
    for (button, cause) in [
        ("[name=other]", "SignOutOthers"),
        ("#end-others-alice", "SignOutOthers"),
    ] {
        there.goto(&here.demo.url).await;
        there.click_id("sign-in-alice").await;
        // The second time the provider knows her already.
        there.wait_for("#login-alice, #everywhere-alice").await;
        if there.exists("#login-alice").await {
            there.click_id("login-alice").await;
        }
        there.wait_for("#live.on").await;
        here.chromium.goto(&here.demo.url).await;
        if !here.chromium.exists("#everywhere-alice").await {
            here.sign_in_alice().await;
        }
        here.chromium.click(button).await;
        there.wait_for_text(SIGNED_OUT).await;
        here.chromium.wait_for_text(cause).await;
        here.wait_for_account("alice").await;
        assert!(!here.chromium.exists("[name=other]").await);
        assert_eq!(here.sign_ins().await, 1);
    }
}

#[tokio::test]
async fn the_page_looks_right_at_night_and_on_a_phone() {
    let scene = Scene::new().await;
    let chromium = &scene.chromium;
    let dark = json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] });
    chromium.cdp("Emulation.setEmulatedMedia", dark).await;
    scene.sign_in_alice().await;
    chromium.click("[name=scopes][value='Mail.Read']").await;
    chromium.wait_for("#notice").await;
    chromium.screenshot("demo-5-dark").await;

    let phone = json!({ "width": 390, "height": 1600, "deviceScaleFactor": 1, "mobile": true });
    chromium
        .cdp("Emulation.setDeviceMetricsOverride", phone)
        .await;
    let overflow = chromium
        .execute(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth",
        )
        .await;
    assert_eq!(overflow, 0, "nothing is wider than the screen");
    chromium.screenshot("demo-6-phone").await;
}
