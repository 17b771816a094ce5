//! Tokens that are finished are revoked (R32), as far as the configuration wants it (R25).

use std::time::Duration;

use axum_signout::testing::{Endpoint, Event, Fault, TestBrowser, TestProvider, TokenKind};
use axum_signout::{Revocation, RevocationPolicy};

use crate::support::app::Setup;
use crate::world::{World, acquire};

async fn sign_out(world: &World, browser: &mut TestBrowser) {
    world.app.get(browser, "/").await;
    let page = browser
        .post_form(world.app.url("/signout"), &[])
        .await
        .unwrap();
    assert!(page.status().is_success(), "{}", page.body());
}

fn kinds(world: &World) -> Vec<Option<TokenKind>> {
    world.revoked().into_iter().map(|(kind, _)| kind).collect()
}

#[tokio::test]
async fn the_refresh_token_is_revoked_first_r32() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    let all = [
        acquire(&tokens).await.unwrap(),
        tokens.acquire("Mail.Read").await.unwrap(),
    ];
    sign_out(&world, &mut browser).await;
    world.finish().await;
    let (refresh, access) = (Some(TokenKind::Refresh), Some(TokenKind::Access));
    assert_eq!(kinds(&world), [refresh, access, access]);
    let revoked: Vec<_> = world
        .revoked()
        .into_iter()
        .skip(1)
        .map(|(_, token)| token)
        .collect();
    assert_eq!(revoked, all.map(|token| token.secret().to_owned()));
    assert_eq!(
        world.revoked()[0].1,
        world.app.seen()[0].refresh_token.clone().unwrap()
    );
}

#[tokio::test]
async fn a_revocation_is_put_off_for_as_long_as_the_provider_says_r32() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let busy = Fault::StatusRetryAfter(503, 120);
    world.provider.faults().once(Endpoint::Revoke, busy);
    sign_out(&world, &mut browser).await;
    let early = world.app.auth.shutdown().await;
    assert!(
        early.finished,
        "an outbox that is not empty keeps no process: {early:?}"
    );
    assert_eq!(early.outbox, Some(1));
    world.advance(Duration::from_secs(119));
    assert_eq!(world.app.auth.shutdown().await.outbox, Some(1));
    assert!(world.revoked().is_empty());
    world.advance(Duration::from_secs(2));
    world.finish().await;
    assert_eq!(world.revoked().len(), 2);
}

#[tokio::test]
async fn a_provider_that_is_down_delays_the_revocation_and_not_the_sign_out_r32() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    world.app.get(&mut browser, "/").await;
    world.provider.pause().await;
    let signed_out = browser
        .fetch(axum::http::Method::POST, world.app.url("/signout"))
        .await
        .unwrap();
    assert_eq!(signed_out.status(), 200);
    assert_eq!(world.app.auth.shutdown().await.outbox, Some(1));
    world.provider.resume().await;
    world.advance(Duration::from_secs(3600));
    world.finish().await;
    assert_eq!(world.revoked().len(), 2);
}

#[tokio::test]
async fn a_provider_that_stays_away_is_given_up_after_a_day_r32() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    world
        .provider
        .faults()
        .always(Endpoint::Revoke, Fault::Status(500));
    sign_out(&world, &mut browser).await;
    assert_eq!(world.app.auth.shutdown().await.outbox, Some(1));
    // The store's clock may be a little ahead of the one that stands still: it is later at each reading.
    world.advance(Duration::from_secs(24 * 3600 + 1));
    world.app.auth.evict_due().await.unwrap();
    assert_eq!(world.app.auth.stats().await.unwrap().outbox, 0);
}

#[tokio::test]
async fn tokens_that_cannot_be_revoked_there_are_no_failure_r32() {
    let provider = TestProvider::builder().jwt_access_tokens(true);
    let world = World::start(provider, Setup::new(), |auth| auth).await;
    let mut browser = world.sign_in("alice").await;
    sign_out(&world, &mut browser).await;
    world.finish().await;
    assert_eq!(kinds(&world), [Some(TokenKind::Refresh)]);
    let refused = |event: &Event| matches!(event, Event::RevocationRefused { .. });
    assert_eq!(world.provider.count(refused), 1);
}

#[tokio::test]
async fn without_an_endpoint_there_is_nothing_to_do_and_the_report_says_so_r32() {
    let world = World::new().await;
    let faults = world.provider.faults();
    faults.always(Endpoint::Discovery, Fault::no_revocation_endpoint());
    let mut browser = world.sign_in("alice").await;
    let leave = world.app.url("/leave");
    let json = [("content-type", "application/json")];
    browser
        .fetch_with(axum::http::Method::POST, leave, &json, Some("{}"))
        .await
        .unwrap();
    let report = world.app.report.lock().unwrap().clone().unwrap();
    assert_eq!(report.revocation, Revocation::NoEndpoint);
    world.finish().await;
    assert!(world.revoked().is_empty());
}

#[tokio::test]
async fn a_refused_revocation_is_not_repeated_r32() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let refused = Fault::OAuthError("invalid_client".into());
    world.provider.faults().always(Endpoint::Revoke, refused);
    sign_out(&world, &mut browser).await;
    world.finish().await;
}

#[tokio::test]
async fn what_is_revoked_is_for_the_configuration_to_say_r25() {
    use RevocationPolicy::{Always, Never, UnlessOffline};
    let rows = [
        ("always", Always, true, 2),
        ("always, offline or not", Always, false, 2),
        (
            "not what was asked for to outlive the session",
            UnlessOffline,
            true,
            0,
        ),
        ("but everything else", UnlessOffline, false, 2),
        ("never", Never, true, 0),
        ("never at all", Never, false, 0),
    ];
    for (name, policy, offline, expected) in rows {
        let setup = Setup::new().provider(move |provider| match offline {
            true => provider.scopes(["openid", "offline_access"]),
            false => provider.scopes(["openid"]),
        });
        let world = World::start(TestProvider::builder(), setup, move |auth| {
            auth.revocation(policy)
        })
        .await;
        let mut browser = world.sign_in("alice").await;
        sign_out(&world, &mut browser).await;
        world.finish().await;
        assert_eq!(world.revoked().len(), expected, "{name}");
    }
}

/// A refresh for a few scopes does not make an offline sign-in another one.
#[tokio::test]
async fn offline_is_what_the_sign_in_was_granted_r25() {
    let world = World::with(|auth| auth.revocation(RevocationPolicy::UnlessOffline)).await;
    let mut browser = world.sign_in("alice").await;
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    tokens.acquire("Mail.Read").await.unwrap();
    acquire(&tokens).await.unwrap();
    sign_out(&world, &mut browser).await;
    world.finish().await;
    assert!(world.revoked().is_empty());
}

/// Tokens of a sign-in that was refused at its end belong to nobody.
#[tokio::test]
async fn the_tokens_of_a_sign_in_that_fails_are_revoked() {
    use axum_signout::testing::IdTokenFault;
    let faults = [
        IdTokenFault::WrongNonce,
        IdTokenFault::Missing,
        IdTokenFault::BadSignature,
    ];
    for fault in faults {
        let world = World::new().await;
        world
            .provider
            .faults()
            .once(Endpoint::Code, Fault::IdToken(fault.clone()));
        let mut browser = TestBrowser::new();
        browser.goto(world.app.url("/signin")).await.unwrap();
        let page = browser.submit("login-alice", &[]).await.unwrap();
        assert_eq!(page.status(), 502, "{fault:?}");
        assert_eq!(world.sign_ins().await, 0);
        world.app.auth.stats().await.unwrap();
        world.app.get(&mut browser, "/whoami").await;
        world.finish().await;
        assert_eq!(
            kinds(&world),
            [Some(TokenKind::Refresh), Some(TokenKind::Access)],
            "{fault:?}"
        );
    }
}
