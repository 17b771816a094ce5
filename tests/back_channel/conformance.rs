//! One test for each module of the OpenID Foundation's relying-party plan for back-channel logout, named after it.
//!
//! The suite signs logout tokens without `typ`, adds a claim and a form parameter that nobody knows, and wants exactly 200
//! and `no-store`, or 400.

use axum_signout::testing::{BackChannelCall, JwtBuilder, TestBrowser, TestClient, TestProvider};
use serde_json::json;

use crate::support::app::{Answer, App, CLIENT, SECRET, Setup, cookies, send};
use crate::{EVENT, FORM, PATH, assert_done, assert_refused, form, who};

struct Suite {
    provider: TestProvider,
    app: App,
    browser: TestBrowser,
    subject: String,
    sid: String,
}

impl Suite {
    async fn new() -> Self {
        let provider = TestProvider::start().await;
        let app = Setup::new()
            .start_with(provider.issuer(), |base| {
                let client = TestClient::new(CLIENT).secret(SECRET).app(base);
                provider.add_client(client.app_logout_channels(base));
            })
            .await;
        let mut browser = TestBrowser::new();
        app.sign_in(&mut browser, "alice").await;
        let (subject, sid) = who(&app, &mut browser).await;
        Self {
            provider,
            app,
            browser,
            subject,
            sid,
        }
    }

    async fn send(&self, change: impl FnOnce(JwtBuilder) -> JwtBuilder) -> Answer {
        let token = self.provider.logout_token(CLIENT).without_header("typ");
        let token = token
            .claim("sub", self.subject.as_str())
            .claim("sid", self.sid.as_str());
        let token = change(token.claim("unknown_claim", json!({ "a": 1 }))).sign();
        let body = format!("{}&unknown_parameter=x", form(&token));
        send(
            &self.app.router,
            "POST",
            PATH,
            &[("content-type", FORM)],
            &body,
        )
        .await
    }

    async fn refuses(mut self, reason: &str, change: impl FnOnce(JwtBuilder) -> JwtBuilder) {
        let answer = self.send(change).await;
        assert_refused(&answer, reason, reason);
        let here = self.app.get(&mut self.browser, "/whoami").await;
        assert_eq!(here.body(), self.subject, "still signed in");
    }
}

/// The user signs out here; the provider's call arrives while the browser is still at its end-session endpoint.
#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_r1_r24() {
    let mut suite = Suite::new().await;
    let answer = suite.app.sign_out(&suite.browser, &[]).await;
    let way_out = answer.location();
    // The call of the provider finds nothing that is left, and is answered before the browser is back.
    assert_done(&suite.send(|token| token).await, "during the sign-out");
    let page = suite.browser.goto(way_out.as_str()).await.unwrap();
    assert!(page.status().is_success() || page.status().is_redirection());
    let here = suite.app.get(&mut suite.browser, "/whoami").await;
    assert_eq!(here.body(), "nobody");
}

/// The same module, with the call as the only thing that happens: the provider ends the session.
#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_started_elsewhere_r23_r24() {
    let mut suite = Suite::new().await;
    let cookie = cookies(&suite.browser);
    let calls = suite.provider.end_session(&suite.sid).await;
    let answers: Vec<_> = calls
        .iter()
        .map(|BackChannelCall { status, body, .. }| (status.map(|s| s.as_u16()), body.as_str()))
        .collect();
    assert_eq!(answers, [(Some(200), "")]);
    let here = suite.app.get(&mut suite.browser, "/whoami").await;
    assert_eq!(here.body(), "nobody");
    // The session's data went too (promise 4): its cookie opens nothing.
    let headers = [("cookie", cookie.as_str())];
    let cart = send(&suite.app.router, "GET", "/cart/show", &headers, "").await;
    assert_eq!(cart.body, "");
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_alg_none_r19() {
    let suite = Suite::new().await;
    suite.refuses("algorithm", JwtBuilder::unsigned).await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_no_event_r21() {
    let suite = Suite::new().await;
    suite
        .refuses("events", |token| token.without("events"))
        .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_with_nonce_r21() {
    let suite = Suite::new().await;
    suite
        .refuses("nonce", |token| token.claim("nonce", "n"))
        .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_alg_r19() {
    let suite = Suite::new().await;
    suite.refuses("algorithm", JwtBuilder::hs256).await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_aud_r20() {
    let suite = Suite::new().await;
    suite
        .refuses("audience", |token| token.claim("aud", format!("{CLIENT}1")))
        .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_event_r21() {
    let suite = Suite::new().await;
    let events = json!({ format!("{EVENT}1"): {} });
    suite
        .refuses("events", |token| token.claim("events", events))
        .await;
}

#[tokio::test]
async fn oidcc_client_test_rp_backchannel_rpinitlogout_wrong_iss_r20() {
    let suite = Suite::new().await;
    let issuer = format!("{}1", suite.provider.issuer());
    suite
        .refuses("issuer", |token| token.claim("iss", issuer))
        .await;
}
