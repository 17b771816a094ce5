//! Back-channel logout: the provider calls, and sign-ins end, or nothing changes. Against the in-process provider.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code)]
#[path = "../tokens/world.rs"]
mod world;

mod bad;
mod calls;
mod conformance;
mod failures;
mod good;

use std::sync::Arc;

use axum::Router;
use axum_signout::testing::{TestBrowser, TestProvider};
use axum_signout::{AccessToken, Account, Auth, TokenSet};
use serde_json::Value;
use tower_sessions::{MemoryStore, Session};

use crate::support::app::{Answer, App, send};

pub const PATH: &str = "/signout/backchannel";
pub const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
pub const FORM: &str = "application/x-www-form-urlencoded";

pub fn form(token: &str) -> String {
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    form.append_pair("logout_token", token).finish()
}

/// What the provider gets for a logout token.
pub async fn call(router: &Router, token: &str) -> Answer {
    send(
        router,
        "POST",
        PATH,
        &[("content-type", FORM)],
        &form(token),
    )
    .await
}

#[track_caller]
pub fn assert_done(answer: &Answer, row: &str) {
    let got = (answer.status.as_u16(), answer.body.as_str());
    assert_eq!(got, (200, ""), "{row}");
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{row}");
}

#[track_caller]
pub fn assert_refused(answer: &Answer, reason: &str, row: &str) {
    assert_eq!(answer.status, 400, "{row}: {}", answer.body);
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{row}");
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(body["error_description"], reason, "{row}");
    let known = ["invalid_request", "temporarily_unavailable"];
    assert!(known.contains(&body["error"].as_str().unwrap()), "{row}");
}

/// Signs somebody in as an app with a sign-in of its own does, without a browser.
pub async fn arrive(auth: &Auth, provider: &TestProvider, subject: &str, sid: &str) {
    let ticket = auth.ticket().await.unwrap();
    let account = Account::new(provider.issuer(), subject).with_sid(sid);
    let tokens = TokenSet::new().with_access_token(AccessToken::bearer("access"));
    let session = Session::new(None, Arc::new(MemoryStore::default()), None);
    auth.sign_in(&session, ticket, account, tokens)
        .await
        .unwrap();
}

/// Who is signed in, as the page with all accounts says: subject and `sid`.
pub async fn who(app: &App, browser: &mut TestBrowser) -> (String, String) {
    let page = app.get(browser, "/me").await;
    let me: Value = serde_json::from_str(page.body()).unwrap();
    let text = |name: &str| me["accounts"][0][name].as_str().unwrap().to_owned();
    (text("subject"), text("sid"))
}

pub async fn sign_ins(auth: &Auth) -> usize {
    auth.stats().await.unwrap().sign_ins
}
