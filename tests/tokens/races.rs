//! Sign-outs against refreshes (R31, A2), each order held by a gate of the provider.

use axum_signout::testing::{Endpoint, Fault, Gate, TokenKind};
use axum_signout::{Cause, ErrorKind};

use crate::world::{World, acquire, kind, settle};

/// Tokens of these kinds that were revoked: refresh tokens, access tokens.
fn revoked(world: &World) -> (usize, usize) {
    let revoked = world.revoked();
    let count = |wanted| {
        revoked
            .iter()
            .filter(|(kind, _)| *kind == Some(wanted))
            .count()
    };
    (count(TokenKind::Refresh), count(TokenKind::Access))
}

fn assert_all_dead(world: &World) {
    for secret in world.provider.secrets() {
        assert!(!world.provider.is_active(&secret));
    }
}

#[tokio::test]
async fn a_refresh_that_ends_after_the_sign_out_writes_nothing_and_is_revoked_r31() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let copy = browser.clone();
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::HoldAnswer(gate.clone()));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let waiting = {
        let tokens = tokens.clone();
        tokio::spawn(async move { acquire(&tokens).await })
    };
    gate.arrived(1).await;
    world.app.get(&mut browser, "/").await;
    browser
        .post_form(world.app.url("/signout"), &[])
        .await
        .unwrap();
    assert_eq!(world.sign_ins().await, 0);
    assert_eq!(tokens.ended().await, Cause::UserSignOut);
    // One that begins now does not wait for the provider, which still holds its answer.
    settle().await;
    gate.open();
    assert_eq!(kind(waiting.await.unwrap()), ErrorKind::NotSignedIn);
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::NotSignedIn);
    world.assert_signed_out(&mut browser).await;
    // Whoever kept the cookie has nothing.
    assert_eq!(world.get(&copy, "/token").await.status(), 401);
    world.finish().await;
    assert_eq!(world.sign_ins().await, 0);
    assert_eq!(
        revoked(&world),
        (2, 2),
        "those of before, and those just obtained"
    );
    assert_all_dead(&world);
    assert_eq!(world.app.seen().len(), 1);
}

#[tokio::test]
async fn a_refresh_that_arrives_after_the_sign_out_obtains_nothing_a2() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::Hold(gate.clone()));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let waiting = tokio::spawn(async move { acquire(&tokens).await });
    gate.arrived(1).await;
    world.app.get(&mut browser, "/").await;
    browser
        .post_form(world.app.url("/signout"), &[])
        .await
        .unwrap();
    world
        .provider
        .wait_for(|event| matches!(event, axum_signout::testing::Event::Revoked { .. }))
        .await;
    gate.open();
    assert_eq!(kind(waiting.await.unwrap()), ErrorKind::NotSignedIn);
    world.finish().await;
    assert_eq!(world.refreshes(), 0);
    assert_all_dead(&world);
}

#[tokio::test]
async fn who_signs_out_and_in_again_during_a_refresh_has_the_new_tokens_only_a2() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::HoldAnswer(gate.clone()));
    world.expire_tokens();
    let old = world.tokens(&browser).await;
    let waiting = {
        let old = old.clone();
        tokio::spawn(async move { acquire(&old).await })
    };
    gate.arrived(1).await;
    world.app.get(&mut browser, "/").await;
    browser
        .post_form(world.app.url("/signout"), &[])
        .await
        .unwrap();
    world.app.sign_in(&mut browser, "alice").await;
    let new = world.tokens(&browser).await;
    let token = acquire(&new).await.unwrap();
    gate.open();
    assert_eq!(kind(waiting.await.unwrap()), ErrorKind::NotSignedIn);
    assert_eq!(kind(acquire(&old).await), ErrorKind::NotSignedIn);
    assert_eq!(acquire(&new).await.unwrap().secret(), token.secret());
    let again = world.tokens(&browser).await;
    assert_eq!(acquire(&again).await.unwrap().secret(), token.secret());
    assert_ne!(old.sign_in(), new.sign_in());
    world.finish().await;
    assert!(
        world.provider.is_active(token.secret()),
        "the new sign-in's own tokens live"
    );
    assert_eq!(revoked(&world), (2, 2));
}

#[tokio::test]
async fn the_same_account_signed_in_again_replaces_its_sign_in_and_its_refresh_r37() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::HoldAnswer(gate.clone()));
    world.expire_tokens();
    let old = world.tokens(&browser).await;
    let waiting = {
        let old = old.clone();
        tokio::spawn(async move { acquire(&old).await })
    };
    gate.arrived(1).await;
    world.app.sign_in(&mut browser, "alice").await;
    assert_eq!(old.ended().await, Cause::Replaced);
    gate.open();
    assert_eq!(kind(waiting.await.unwrap()), ErrorKind::NotSignedIn);
    assert_eq!(world.sign_ins().await, 1);
    world.finish().await;
    assert_eq!(world.app.seen()[0].cause, Cause::Replaced);
    assert_eq!(revoked(&world), (2, 2));
}

/// Promise 1, for a handler that was already running: a WebSocket, say.
#[tokio::test]
async fn a_handler_that_runs_across_an_eviction_gets_no_token_afterwards() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    assert!(acquire(&tokens).await.is_ok());
    let waiting = {
        let tokens = tokens.clone();
        tokio::spawn(async move { tokens.ended().await })
    };
    settle().await;
    assert!(!waiting.is_finished());
    world.app.get(&mut browser, "/").await;
    browser
        .post_form(world.app.url("/signout"), &[])
        .await
        .unwrap();
    assert_eq!(waiting.await.unwrap(), Cause::UserSignOut);
    assert_eq!(tokens.ended().await, Cause::UserSignOut);
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::NotSignedIn);
    assert_eq!(
        kind(tokens.acquire("profile").await),
        ErrorKind::NotSignedIn
    );
    assert_eq!(
        kind(tokens.acquire_for("https://api.example", ()).await),
        ErrorKind::NotSignedIn
    );
    assert_eq!(kind(tokens.id_token()), ErrorKind::NotSignedIn);
    assert!(tokens.of(&tokens.account()).unwrap().is_none());
    assert!(tokens.accounts().unwrap().is_empty());
    assert_eq!(world.refreshes(), 0);
}

#[tokio::test]
async fn a_session_that_the_app_flushes_takes_a_refresh_along() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::HoldAnswer(gate.clone()));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let waiting = tokio::spawn(async move { acquire(&tokens).await });
    gate.arrived(1).await;
    world.app.get(&mut browser, "/").await;
    browser
        .post_form(world.app.url("/flush"), &[])
        .await
        .unwrap();
    gate.open();
    assert_eq!(kind(waiting.await.unwrap()), ErrorKind::NotSignedIn);
    world.finish().await;
    assert_eq!(world.app.seen()[0].cause, Cause::SessionEnded);
    assert_eq!(revoked(&world), (2, 2));
}
