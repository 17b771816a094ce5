//! A token that only the user can make possible: the page that needs it sends them to the provider, once.

mod support;

use axum_signout::Provider;
use axum_signout::testing::{
    Endpoint, Event, Fault, NeedsConsent, TestBrowser, TestClient, TestProvider,
};
use support::app::{App, CLIENT, SECRET, Setup};

async fn world(provider: &TestProvider) -> (App, TestBrowser) {
    let app = Setup::new()
        .auth(|auth| auth.redirect_to_sign_in(true))
        .start(provider)
        .await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    (app, browser)
}

#[tokio::test]
async fn a_page_that_lacks_consent_gets_it_by_way_of_the_provider() {
    let provider = TestProvider::builder()
        .needs_consent(NeedsConsent::new("mail.send").error("consent_required"))
        .start()
        .await;
    let (app, mut browser) = world(&provider).await;
    let page = browser
        .goto(app.url("/token?scope=mail.send"))
        .await
        .unwrap();
    assert!(
        page.url().as_str().starts_with(provider.issuer()),
        "{}",
        page.url()
    );
    let page = browser.submit("consent-allow", &[]).await.unwrap();
    assert_eq!(page.url().path(), "/signin/callback");
    let mut page = browser.follow().await.unwrap();
    if page.url().path() == "/signin/callback" {
        page = browser.follow().await.unwrap();
    }
    assert_eq!(page.status(), 200, "{}", page.body());
    assert_eq!(page.url().path(), "/token");
    assert!(provider.is_active(page.body()));
}

#[tokio::test]
async fn asking_that_does_not_help_is_not_repeated() {
    let provider = TestProvider::builder()
        .needs_consent(NeedsConsent::new("mail.send").error("consent_required"))
        .start()
        .await;
    let (app, mut browser) = world(&provider).await;
    provider.consent("alice", support::app::CLIENT, &["mail.send"]);
    // Whatever the user does, the provider goes on refusing.
    provider.faults().always(
        Endpoint::Refresh,
        Fault::OAuthError("consent_required".into()),
    );
    provider
        .faults()
        .always(Endpoint::Code, Fault::Set("scope".into(), "openid".into()));
    provider.clear_events();
    let mut page = browser
        .goto(app.url("/token?scope=mail.read.all"))
        .await
        .unwrap();
    for _ in 0..8 {
        if page.url().path() == "/token" {
            break;
        }
        page = browser.follow().await.unwrap();
    }
    let asked = provider.count(|event| matches!(event, Event::Authorize { .. }));
    assert_eq!(asked, 1, "{page:?}");
    assert_eq!(page.status(), 401);
}

/// Two accounts, each of its own provider; the one that lacks consent is not the first provider's.
#[tokio::test]
async fn the_user_is_sent_to_the_provider_of_the_account_that_lacks_consent() {
    let first = TestProvider::start().await;
    let second = TestProvider::builder()
        .needs_consent(NeedsConsent::new("mail.send").error("consent_required"))
        .start()
        .await;
    let issuer = second.issuer().to_owned();
    let app = Setup::new()
        .auth(move |auth| {
            let other = Provider::discover(issuer, CLIENT).client_secret(SECRET);
            let other = other.scopes(["openid", "offline_access"]).name("second");
            let auth = auth.provider(other.build().unwrap());
            auth.redirect_to_sign_in(true)
        })
        .start(&first)
        .await;
    second.add_client(TestClient::new(CLIENT).secret(SECRET).app(&app.base));
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let path = "/signin?return_to=/whoami&provider=second";
    app.sign_in_at(&mut browser, "alice", path).await;
    first.clear_events();
    let page = browser.goto(app.url("/token?scope=mail.send")).await;
    let page = page.unwrap();
    assert!(
        page.url().as_str().starts_with(second.issuer()),
        "{}",
        page.url()
    );
    assert_eq!(first.events(), []);
}
