//! Refreshes ahead of time: in the background, while the present token is served.

use std::time::{Duration, Instant};

use axum_signout::testing::{Endpoint, Fault, Gate, TestBrowser, TestProvider, TokenKind};
use axum_signout::{Auth, Cause, ConfigError, ErrorKind, Provider};

use crate::support::app::Setup;
use crate::world::{World, acquire, kind, settle};

const SECOND: Duration = Duration::from_secs(1);

/// When every token of an hour is due, wherever its sign-in stands among all: 2,880 s, and half of the 660 s that are then left
/// before the margin.
const DUE: Duration = Duration::from_secs(3210);

async fn served(world: &World, browser: &TestBrowser) -> String {
    acquire(&world.tokens(browser).await)
        .await
        .unwrap()
        .secret()
        .to_owned()
}

/// Until another token than this one is served.
async fn successor(world: &World, browser: &TestBrowser, old: &str) -> String {
    let begin = Instant::now();
    loop {
        let token = served(world, browser).await;
        if token != old {
            return token;
        }
        assert!(begin.elapsed() < 20 * SECOND, "the new token never came");
    }
}

#[tokio::test]
async fn a_token_past_its_share_is_served_while_the_next_one_is_got_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let first = served(&world, &browser).await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::Hold(gate.clone()));
    world.advance(2879 * SECOND);
    assert_eq!(served(&world, &browser).await, first);
    settle().await;
    assert_eq!(gate.arrivals(), 0, "it is too early");

    world.advance(DUE - 2879 * SECOND);
    let long = world.tokens(&browser).await;
    for _ in 0..50 {
        assert_eq!(served(&world, &browser).await, first, "nobody waits");
    }
    gate.arrived(1).await;
    settle().await;
    assert_eq!(gate.arrivals(), 1, "one flight");
    gate.open();
    let second = successor(&world, &browser, &first).await;
    assert!(world.provider.is_active(&second));
    assert_eq!((world.refreshes(), world.reuses()), (1, 0));
    // A handler that ran all the time gets the new one in its turn, and asks for no other.
    for _ in 0..100 {
        if acquire(&long).await.unwrap().secret() == second {
            break;
        }
        settle().await;
    }
    assert_eq!(acquire(&long).await.unwrap().secret(), second);
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test]
async fn who_needs_a_token_now_waits_for_the_flight_that_began_ahead_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let first = served(&world, &browser).await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::Hold(gate.clone()));
    world.advance(DUE);
    assert_eq!(served(&world, &browser).await, first);
    gate.arrived(1).await;
    world.advance(3600 * SECOND - DUE);
    let tokens = world.tokens(&browser).await;
    let waiting = tokio::spawn(async move { acquire(&tokens).await });
    settle().await;
    assert!(!waiting.is_finished());
    gate.open();
    assert_ne!(waiting.await.unwrap().unwrap().secret(), first);
    assert_eq!((world.refreshes(), world.reuses()), (1, 0));
}

#[tokio::test]
async fn the_providers_refresh_in_counts_r29() {
    let world = World::new().await;
    world
        .provider
        .faults()
        .always(Endpoint::Token, Fault::Set("refresh_in".into(), 600.into()));
    let browser = world.sign_in("alice").await;
    let mut token = served(&world, &browser).await;
    // At sign-in and after a refresh; a sign-in's place among all puts it off by half of what is left at most.
    for times in 1..=2 {
        world.advance(599 * SECOND);
        assert_eq!(served(&world, &browser).await, token);
        settle().await;
        assert_eq!(world.refreshes(), times - 1);
        world.advance(1471 * SECOND);
        token = successor(&world, &browser, &token).await;
        assert_eq!(world.refreshes(), times);
    }
}

#[tokio::test]
async fn a_refresh_in_of_nothing_does_not_refresh_with_every_request_r29() {
    for refresh_in in [0, 1] {
        let world = World::new().await;
        let fault = Fault::Set("refresh_in".into(), refresh_in.into());
        world.provider.faults().always(Endpoint::Token, fault);
        let browser = world.sign_in("alice").await;
        for _ in 0..10 {
            served(&world, &browser).await;
            world.advance(SECOND);
        }
        settle().await;
        assert_eq!(world.refreshes(), 0, "{refresh_in}");
    }
}

/// Issued in the same second, due over five and a half minutes.
#[tokio::test]
async fn tokens_that_were_issued_together_are_not_due_together_r29() {
    let world = World::new().await;
    let mut all = Vec::new();
    for _ in 0..40 {
        all.push(world.sign_in("alice").await);
    }
    world.advance(2880 * SECOND);
    for browser in &all {
        served(&world, browser).await;
    }
    settle().await;
    assert_eq!(world.refreshes(), 0);
    world.advance(165 * SECOND);
    for browser in &all {
        served(&world, browser).await;
    }
    world.finish().await;
    // About half of them; less than five, or more than 35, come once in ten million times.
    let due = world.refreshes();
    assert!((5..=35).contains(&due), "{due}");
}

#[tokio::test]
async fn it_can_be_set_and_switched_off_r29() {
    let world = World::with(|auth| auth.refresh_ahead(0.25)).await;
    let browser = world.sign_in("alice").await;
    let first = served(&world, &browser).await;
    world.advance(899 * SECOND);
    served(&world, &browser).await;
    settle().await;
    assert_eq!(world.refreshes(), 0);
    world.advance(1400 * SECOND);
    successor(&world, &browser, &first).await;

    let world = World::with(|auth| auth.refresh_ahead(None)).await;
    let fault = Fault::Set("refresh_in".into(), 600.into());
    world.provider.faults().always(Endpoint::Token, fault);
    let browser = world.sign_in("alice").await;
    world.advance(3539 * SECOND);
    for _ in 0..3 {
        served(&world, &browser).await;
    }
    settle().await;
    assert_eq!(world.refreshes(), 0);

    for share in [f64::NAN, -1.0, 0.0, 0.99, f64::INFINITY] {
        let provider = Provider::discover("https://login.example.com", "app");
        let builder = Auth::builder(provider.build().unwrap(), "https://app.example.com");
        let error = builder.refresh_ahead(share).build().unwrap_err();
        let what = "refresh_ahead";
        assert!(
            matches!(error, ConfigError::OutOfRange { what: named, .. } if named == what),
            "{share}"
        );
    }
}

#[tokio::test]
async fn without_a_refresh_token_nothing_is_tried_ahead_r29() {
    let world = World::new().await;
    world
        .provider
        .faults()
        .once(Endpoint::Code, Fault::NoRefreshToken);
    let browser = world.sign_in("alice").await;
    world.provider.clear_events();
    world.advance(3539 * SECOND);
    for _ in 0..3 {
        served(&world, &browser).await;
    }
    settle().await;
    assert_eq!(world.provider.events(), []);
}

/// It is tried again, with pauses, and disturbs nobody.
#[tokio::test]
async fn a_refresh_ahead_that_fails_disturbs_nobody_r29_r30() {
    let rows = [
        ("503", Fault::Status(503)),
        ("invalid_scope", Fault::OAuthError("invalid_scope".into())),
        (
            "interaction_required",
            Fault::OAuthError("interaction_required".into()),
        ),
    ];
    for (name, fault) in rows {
        let world = World::new().await;
        let browser = world.sign_in("alice").await;
        let first = served(&world, &browser).await;
        let gate = Gate::new();
        let faults = world.provider.faults();
        faults.always(Endpoint::Refresh, Fault::Hold(gate.clone()));
        faults.always(Endpoint::Refresh, fault);
        gate.let_one_pass();
        world.advance(DUE);
        assert_eq!(served(&world, &browser).await, first, "{name}");
        gate.arrived(1).await;
        // Its failure is noted when the flight is over, and nobody can start another one before.
        for _ in 0..20 {
            assert_eq!(served(&world, &browser).await, first, "{name}");
        }
        assert_eq!(gate.arrivals(), 1, "{name}");
        // When the pause is over, one more, and only one.
        for _ in 0..30 {
            if gate.arrivals() < 2 {
                world.advance(SECOND);
            }
            assert_eq!(served(&world, &browser).await, first, "{name}");
        }
        gate.arrived(2).await;
        assert_eq!(gate.arrivals(), 2, "{name}");
        world.provider.faults().clear();
        gate.open();
        for _ in 0..100 {
            if served(&world, &browser).await != first {
                break;
            }
            world.advance(SECOND);
        }
        assert_eq!(world.refreshes(), 1, "{name}");
        assert_eq!(world.sign_ins().await, 1, "{name}");
        assert!(world.app.seen().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_sign_out_during_a_refresh_ahead_gets_it_nothing_r29_r31() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::HoldAnswer(gate.clone()));
    world.advance(DUE);
    let tokens = world.tokens(&browser).await;
    assert!(acquire(&tokens).await.is_ok());
    gate.arrived(1).await;
    world.app.get(&mut browser, "/").await;
    browser
        .post_form(world.app.url("/signout"), &[])
        .await
        .unwrap();
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::NotSignedIn);
    gate.open();
    world.assert_signed_out(&mut browser).await;
    world.finish().await;
    assert_eq!(world.sign_ins().await, 0);
    assert_eq!(world.app.seen()[0].cause, Cause::UserSignOut);
    let revoked = world.revoked();
    let count = |wanted| {
        let such = revoked.iter().filter(|(kind, _)| *kind == Some(wanted));
        such.count()
    };
    assert_eq!(
        (count(TokenKind::Refresh), count(TokenKind::Access)),
        (2, 2),
        "those of before, and those just obtained"
    );
    for secret in world.provider.secrets() {
        assert!(!world.provider.is_active(&secret));
    }
}

#[tokio::test]
async fn a_shutdown_waits_for_a_refresh_ahead_and_lets_none_begin_r29() {
    let setup = Setup::new();
    let world = World::start(TestProvider::builder(), setup, |auth| auth).await;
    let browser = world.sign_in("alice").await;
    let first = served(&world, &browser).await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::HoldAnswer(gate.clone()));
    world.advance(DUE);
    served(&world, &browser).await;
    gate.arrived(1).await;
    let auth = world.app.auth.clone();
    let shutdown = tokio::spawn(async move { auth.shutdown().await });
    settle().await;
    assert!(!shutdown.is_finished());
    gate.open();
    assert!(shutdown.await.unwrap().finished);
    let second = served(&world, &browser).await;
    assert_ne!(second, first, "what it brought is kept");
    world.advance(DUE);
    assert_eq!(served(&world, &browser).await, second);
    settle().await;
    assert_eq!(world.refreshes(), 1);
}
