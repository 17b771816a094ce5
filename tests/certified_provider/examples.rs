//! The examples that sign in by themselves. They are compiled into this program, and not run as processes, so that what is
//! tested is what is there now, and the cache behind it can be looked into.

// Each example has what they share as a module of its own, as it has when it is built alone.
#![allow(clippy::duplicate_mod)]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum_signout::{Auth, Cause};
use tokio::net::TcpListener;

use crate::fixture::parameter;
use crate::support::certified::{Certified, Client, Options};
use crate::support::http::{Browser, Page};

#[allow(dead_code)]
#[path = "../../examples/own_sign_in.rs"]
mod own_sign_in;
#[allow(dead_code)]
#[path = "../../examples/with_axum_login.rs"]
mod with_axum_login;

const SECRET: &str = "example-secret";

struct Running {
    provider: Certified,
    base_url: String,
    auth: Auth,
    browser: Browser,
}

/// Each example has a registration of its own type.
macro_rules! start {
    ($example:ident $(, $audit:expr)?) => {{
        let provider = Certified::start(Options::new()).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base_url = format!("http://{}", listener.local_addr().expect("bound"));
        let redirect_uri = format!("{base_url}/login/callback");
        let client = Client::new("example")
            .secret(SECRET)
            .redirect_uri(&redirect_uri)
            .post_logout_redirect_uri(&format!("{base_url}/signout/callback"));
        provider.add_client(client).await;
        let registration = $example::openid::Registration {
            issuer: provider.issuer().to_owned(),
            client_id: "example".into(),
            client_secret: Some(SECRET.into()),
            redirect_uri,
        };
        let (auth, routes) = $example::app(registration, &base_url $(, $audit)?).expect("a good configuration");
        Running::serve(provider, listener, base_url, auth, routes)
    }};
}

impl Running {
    fn serve(
        provider: Certified,
        listener: TcpListener,
        base_url: String,
        auth: Auth,
        routes: Router,
    ) -> Self {
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self {
            provider,
            base_url,
            auth,
            browser: Browser::new(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    async fn get(&self, path: &str) -> Page {
        self.browser.get(&self.url(path)).await
    }

    async fn log_in(&self, login: &str) {
        let callback = self.url("/login/callback");
        let login_url = self.url("/login");
        let back = self.browser.sign_in_at(&login_url, login, &callback).await;
        let page = self.browser.get(back.as_str()).await;
        assert_eq!(
            page.location().map(String::from),
            Some(self.url("/")),
            "{}",
            page.body
        );
        assert_eq!(self.sign_ins().await, 1);
        let mail = self.get("/mail").await;
        assert!(
            mail.body.starts_with(&format!("mail of {login}")),
            "{}",
            mail.body
        );
        let again = self.browser.get(back.as_str()).await;
        assert_eq!(again.status, 400, "an answer is good once");
    }

    async fn sign_ins(&self) -> usize {
        self.auth.stats().await.expect("it is in memory").sign_ins
    }

    async fn alive(&self) -> usize {
        let mut alive = 0;
        for token in self.provider.tokens().await {
            alive += usize::from(self.provider.is_active(&token.value).await);
        }
        alive
    }

    /// Signs out here and there, and looks at what is left.
    async fn sign_out(&self) {
        let page = self.browser.post(&self.url("/signout"), &[]).await;
        let end_session = page.location().expect("to the provider");
        assert!(parameter(&end_session, "id_token_hint").is_some(), "R2");
        assert_eq!(self.sign_ins().await, 0);
        let back = self.browser.sign_out_at(end_session.as_str()).await;
        let page = self.browser.get(back.as_str()).await;
        assert_eq!(page.location().map(String::from), Some(self.url("/")));
        assert!(self.provider.sessions().await.is_empty());
        assert_eq!(self.get("/mail").await.status, 401);
        self.auth.shutdown().await;
        assert_eq!(self.alive().await, 0);
    }
}

#[tokio::test]
async fn an_app_with_its_own_sign_in_has_tokens_and_signs_out_everywhere() {
    let app = start!(own_sign_in);
    assert_eq!(app.get("/mail").await.status, 401);
    app.log_in("ann").await;
    app.sign_out().await;
}

#[tokio::test]
async fn a_sign_in_of_its_own_needs_the_session_that_began_it() {
    let app = start!(own_sign_in);
    let callback = app.url("/login/callback");
    let back = app
        .browser
        .sign_in_at(&app.url("/login"), "ann", &callback)
        .await;
    let page = Browser::new().get(back.as_str()).await;
    assert_eq!(page.status, 400);
    assert_eq!(app.sign_ins().await, 0);
}

#[tokio::test]
async fn axum_logins_logout_takes_the_tokens_along() {
    let causes = Arc::new(Mutex::new(Vec::new()));
    let log = causes.clone();
    let app = start!(with_axum_login, move |eviction| {
        log.lock()
            .expect("no test panics there")
            .push(eviction.cause());
    });
    assert_eq!(app.get("/mail").await.status, 401);
    app.log_in("ann").await;
    let page = app.browser.post(&app.url("/logout"), &[]).await;
    assert_eq!(page.location().map(String::from), Some(app.url("/")));
    assert_eq!(app.sign_ins().await, 0);
    assert_eq!(app.get("/mail").await.status, 401);
    assert!(app.get("/").await.body.contains("Nobody is logged in"));
    app.auth.shutdown().await;
    assert_eq!(
        *causes.lock().expect("no test panics there"),
        [Cause::SessionEnded]
    );
    assert_eq!(app.alive().await, 0);
    assert_eq!(
        app.provider.sessions().await.len(),
        1,
        "the session there goes on"
    );
}

#[tokio::test]
async fn beside_axum_login_the_sign_out_ends_its_session_too() {
    let app = start!(with_axum_login, |_| {});
    app.log_in("ann").await;
    app.sign_out().await;
    assert!(app.get("/").await.body.contains("Nobody is logged in"));
}

#[tokio::test]
async fn logging_in_again_with_axum_login_replaces_the_tokens_r37() {
    let app = start!(with_axum_login, |_| {});
    app.log_in("ann").await;
    let session_cookie = || {
        let all = app.browser.cookies(&app.base_url).unwrap_or_default();
        let found = all.split("; ").find(|cookie| cookie.starts_with("id="));
        found.map(str::to_owned)
    };
    let before = session_cookie();
    assert!(before.is_some());
    app.log_in("ann").await;
    assert_ne!(session_cookie(), before, "the session's id changes");
    assert_eq!(app.sign_ins().await, 1, "the earlier one was replaced");
}
