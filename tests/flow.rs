//! Sign in, get tokens, sign out: against the in-process provider.

mod support;

use axum_signout::Cause;
use axum_signout::testing::{TestBrowser, TestProvider};
use support::app::Setup;

#[tokio::test]
async fn sign_in_then_out_and_nothing_is_left() {
    let provider = TestProvider::start().await;
    let app = Setup::new()
        .auth(|auth| auth.after_sign_out("/"))
        .start(&provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    assert_eq!(app.get(&mut browser, "/whoami").await.body(), "alice");
    let token = app.get(&mut browser, "/token").await.body().to_owned();
    assert!(provider.is_active(&token));

    app.get(&mut browser, "/").await;
    let page = browser.post_form(app.url("/signout"), &[]).await.unwrap();
    println!("{:?}", page);
    assert_eq!(app.auth.stats().await.unwrap().sign_ins, 0);
    assert_eq!(app.seen()[0].cause, Cause::UserSignOut);
    assert_eq!(browser.cookie("127.0.0.1", "id"), None);
}
