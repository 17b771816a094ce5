//! Sign-ins whose time is up (R42), and those that leave for others.

use std::sync::Arc;
use std::time::Duration;

use axum_signout::clock::Clock;
use axum_signout::{Cause, ErrorKind};

use crate::world::{World, acquire, kind};

const MINUTE: Duration = Duration::from_secs(60);

/// A store's clock is later at each call, so it runs a little ahead of one that stands still.
const A_LITTLE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn who_is_idle_for_too_long_is_signed_out_r42() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    world.advance(119 * MINUTE);
    assert_eq!(world.app.auth.evict_due().await.unwrap(), 0);
    world.advance(MINUTE + A_LITTLE);
    assert_eq!(world.app.auth.evict_due().await.unwrap(), 1);
    assert_eq!(world.app.seen()[0].cause, Cause::Idle);
    assert_eq!(tokens.ended().await, Cause::Idle);
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::NotSignedIn);
    world.assert_signed_out(&mut browser).await;
    assert_eq!(world.app.auth.evict_due().await.unwrap(), 0);
    world.finish().await;
    assert!(world.revoked().len() >= 2);
}

/// Whether or not the sweep has come by.
#[tokio::test]
async fn a_request_after_the_end_is_anonymous_and_its_session_empty_r42() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    world.app.get(&mut browser, "/cart/book").await;
    world.advance(120 * MINUTE + A_LITTLE);
    assert_eq!(world.app.get(&mut browser, "/cart/show").await.body(), "");
    world.assert_signed_out(&mut browser).await;
    assert_eq!(world.app.auth.evict_due().await.unwrap(), 1);
    assert_eq!(world.app.seen()[0].cause, Cause::Idle);
}

/// Nor does a handler that still runs get anything.
#[tokio::test]
async fn a_handler_that_outlives_a_lifetime_gets_no_token_before_the_sweep_r42() {
    let rows = [
        (120 * MINUTE, 300 * MINUTE, Cause::Idle),
        (60 * MINUTE, 60 * MINUTE, Cause::Absolute),
    ];
    for (end, absolute, cause) in rows {
        let world = World::with(move |auth| auth.absolute_lifetime(absolute)).await;
        let browser = world.sign_in("alice").await;
        let [one, two, three] = [
            world.tokens(&browser).await,
            world.tokens(&browser).await,
            world.tokens(&browser).await,
        ];
        assert!(acquire(&one).await.is_ok() && one.id_token().is_ok());
        world.advance(end + A_LITTLE);
        assert_eq!(kind(acquire(&one).await), ErrorKind::NotSignedIn, "{cause}");
        assert_eq!(kind(one.id_token()), ErrorKind::NotSignedIn);
        assert_eq!(one.ended().await, cause);
        // Whoever asks first: what one has found holds for all.
        assert_eq!(kind(two.id_token()), ErrorKind::NotSignedIn);
        assert_eq!(kind(three.time_left().await), ErrorKind::NotSignedIn);
        assert_eq!(world.app.seen(), []);
        assert_eq!(world.app.auth.evict_due().await.unwrap(), 1);
        assert_eq!(world.app.seen()[0].cause, cause);
    }
}

#[tokio::test]
async fn a_handler_goes_on_past_the_end_it_knew_of_where_others_have_prolonged_it_r42() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let held = [world.tokens(&browser).await, world.tokens(&browser).await];
    world.advance(100 * MINUTE);
    assert_eq!(world.get(&browser, "/whoami").await.body(), "alice");
    world.advance(100 * MINUTE);
    assert!(held[0].id_token().is_ok());
    assert!(acquire(&held[1]).await.is_ok());
    world.advance(20 * MINUTE + A_LITTLE);
    assert_eq!(kind(held[0].id_token()), ErrorKind::NotSignedIn);
}

#[tokio::test]
async fn use_prolongs_the_idle_time_and_not_the_absolute_one_r42() {
    let world = World::with(|auth| auth.absolute_lifetime(300 * MINUTE)).await;
    let mut browser = world.sign_in("alice").await;
    for _ in 0..2 {
        world.advance(100 * MINUTE);
        assert_eq!(world.get(&browser, "/whoami").await.body(), "alice");
        assert_eq!(world.app.auth.evict_due().await.unwrap(), 0);
    }
    world.advance(99 * MINUTE);
    assert_eq!(world.get(&browser, "/token").await.status(), 200);
    world.advance(MINUTE + A_LITTLE);
    assert_eq!(world.app.auth.evict_due().await.unwrap(), 1);
    assert_eq!(world.app.seen()[0].cause, Cause::Absolute);
    world.assert_signed_out(&mut browser).await;
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_prolongs_nothing_r42() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    world.advance(60 * MINUTE);
    let wall = world.clock.wall();
    world.clock.set_wall(wall.minus(50 * MINUTE));
    world.clock.advance(60 * MINUTE + A_LITTLE);
    world.assert_signed_out(&mut browser).await;
}

#[tokio::test]
async fn the_least_recently_used_leaves_when_there_are_too_many() {
    let world = World::with_store(|store| store.max_sign_ins(2)).await;
    let mut first = world.sign_in("alice").await;
    world.advance(10 * MINUTE);
    let second = world.sign_in("bob").await;
    let held = world.tokens(&first).await;
    world.advance(10 * MINUTE);
    // The older one is used, so the other leaves.
    assert_eq!(world.get(&first, "/whoami").await.body(), "alice");
    world.advance(10 * MINUTE);
    let third = world.sign_in("bob").await;
    assert_eq!(world.sign_ins().await, 2);
    assert_eq!(world.get(&second, "/whoami").await.body(), "nobody");
    assert_eq!(world.get(&third, "/whoami").await.body(), "bob");
    assert!(acquire(&held).await.is_ok());
    world.sign_in("alice").await;
    assert_eq!(held.ended().await, Cause::Capacity);
    world.assert_signed_out(&mut first).await;
    world.finish().await;
    let seen: Vec<_> = world
        .app
        .seen()
        .into_iter()
        .map(|one| (one.cause, one.subject))
        .collect();
    assert_eq!(
        seen,
        [
            (Cause::Capacity, "bob".into()),
            (Cause::Capacity, "alice".into())
        ]
    );
    // Each account has another sign-in, whose tokens may hang on the same grant.
    assert!(world.revoked().is_empty());
}

#[tokio::test]
async fn a_shutdown_waits_for_hooks_and_drains_the_outbox() {
    let gate = axum_signout::testing::Gate::new();
    let (held, done) = (
        gate.clone(),
        Arc::new(std::sync::atomic::AtomicBool::new(false)),
    );
    let finished = done.clone();
    let world = World::with(move |auth| {
        auth.on_evict(move |_| {
            let (held, finished) = (held.clone(), finished.clone());
            async move {
                held.pass().await;
                finished.store(true, std::sync::atomic::Ordering::SeqCst);
            }
        })
    })
    .await;
    let mut browser = world.sign_in("alice").await;
    world.provider.revoke_grants_of("alice");
    world.expire_tokens();
    // Whoever finds out does not wait for the hooks.
    assert_eq!(world.app.get(&mut browser, "/token").await.status(), 401);
    gate.arrived(1).await;
    let auth = world.app.auth.clone();
    let shutdown = tokio::spawn(async move { auth.shutdown().await });
    crate::world::settle().await;
    assert!(!shutdown.is_finished());
    gate.open();
    let report = shutdown.await.unwrap();
    assert!(report.finished && report.outbox == Some(0), "{report:?}");
    assert!(done.load(std::sync::atomic::Ordering::SeqCst));
}

/// A revocation that was under way belongs to what a shutdown waits for.
#[tokio::test]
async fn a_shutdown_waits_for_the_revocation_under_way() {
    use axum_signout::testing::{Endpoint, Fault, Gate};
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Revoke, Fault::Hold(gate.clone()));
    browser
        .post_form(world.app.url("/signout"), &[])
        .await
        .unwrap();
    gate.arrived(1).await;
    let auth = world.app.auth.clone();
    let shutdown = tokio::spawn(async move { auth.shutdown().await });
    crate::world::settle().await;
    assert!(!shutdown.is_finished());
    gate.open();
    let report = shutdown.await.unwrap();
    assert!(report.finished && report.outbox == Some(0), "{report:?}");
    assert_eq!(world.revoked().len(), 2);
}
