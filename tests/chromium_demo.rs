//! The demo in Chromium. Its provider is on another site (`localhost`) than the app (127.0.0.1), as real ones are.

mod support;

#[path = "../examples/demo/app/mod.rs"]
mod demo;

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use axum_signout::testing::Event;
use demo::{Demo, Options};
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
async fn in_and_out_and_nothing_is_left_in_the_browser_r8_r12_r40_r41_a10() {
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
