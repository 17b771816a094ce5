//! Away at start, and during requests.

use std::time::{Duration, Instant};

use axum_signout::Cause;
use axum_signout::testing::{Endpoint, Fault, Gate, TestBrowser};

use super::world::{
    TIMEOUT, World, active, assert_not_signed_in, assert_unavailable, refreshes, reuses, until,
};
use crate::support::app::{cookies, send};
use crate::support::redis::Snapshots;

#[tokio::test]
async fn away_at_start_the_app_starts_and_signs_in_as_soon_as_redis_is_there() {
    let mut world = World::with(Snapshots::away()).await;
    let browser = TestBrowser::new();
    assert_eq!(world.node.get(&browser, "/").await.body(), "public");
    assert_not_signed_in(&world.node.get(&browser, "/signin").await);
    assert!(active(&world.provider).is_empty());

    world.redis.come_back().await;
    until("it signs in", async || {
        let page = world.node.get(&browser, "/signin").await;
        page.status() == 200
    })
    .await;
    let browser = world.sign_in().await;
    assert_eq!(world.node.get(&browser, "/token").await.status(), 200);
}

#[tokio::test]
async fn away_during_a_request_its_user_is_told_to_come_again_and_stays_signed_in() {
    let mut world = World::new().await;
    let browser = world.sign_in().await;
    let token = world.node.get(&browser, "/token").await;
    world.redis.save();
    world.redis.kill();
    for path in ["/token", "/me", "/guarded"] {
        assert_unavailable(&world.node.get(&browser, path).await);
    }
    assert_eq!(world.node.get(&browser, "/").await.body(), "public");
    world.redis.come_back().await;
    until("it is served", async || {
        world.node.get(&browser, "/token").await.status() == 200
    })
    .await;
    let again = world.node.get(&browser, "/token").await;
    assert_eq!(again.body(), token.body());
    assert!(world.node.app.seen().is_empty());
}

#[tokio::test]
async fn slow_instead_of_away_nobody_waits_for_longer_than_the_time_limit() {
    let world = World::new().await;
    let browser = world.sign_in().await;
    {
        let _paused = world.redis.server().pause();
        for path in ["/token", "/guarded"] {
            let begun = Instant::now();
            assert_unavailable(&world.node.get(&browser, path).await);
            assert!(begun.elapsed() < 5 * TIMEOUT, "{:?}", begun.elapsed());
        }
    }
    until("it is served", async || {
        world.node.get(&browser, "/token").await.status() == 200
    })
    .await;
    assert_eq!(world.node.who(&browser).await, "alice");
}

async fn expire(world: &World) {
    let hour = Duration::from_secs(3601);
    world.node.clock.advance(hour);
    world.provider.set_clock_offset(3601);
}

/// A request that refreshes, whose answer the provider holds back until `then` is done.
async fn refresh(world: &World, browser: &TestBrowser, then: impl AsyncFnOnce()) -> (u16, String) {
    let gate = Gate::new();
    let fault = Fault::HoldAnswer(gate.clone());
    world.provider.faults().once(Endpoint::Refresh, fault);
    expire(world).await;
    let (router, cookie) = (world.node.app.router.clone(), cookies(browser));
    let request = tokio::spawn(async move {
        let headers = [("cookie", &*cookie)];
        send(&router, "GET", "/token", &headers, "").await
    });
    gate.arrived(1).await;
    then().await;
    gate.open();
    let answer = request.await.unwrap();
    (answer.status.as_u16(), answer.body)
}

#[tokio::test]
async fn away_for_a_moment_during_a_refresh_what_it_brought_is_kept_r28_r30() {
    let mut world = World::new().await;
    let browser = world.sign_in().await;
    world.redis.save();
    world.redis.kill();
    world.redis.come_back().await;
    let (status, token) = refresh(&world, &browser, async || {
        world
            .redis
            .server()
            .cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    })
    .await;
    assert_eq!(status, 200, "{token}");
    assert_eq!(world.node.get(&browser, "/token").await.body(), token);
    assert_eq!(
        (refreshes(&world.provider), reuses(&world.provider)),
        (1, 0)
    );
}

#[tokio::test]
async fn away_for_long_during_a_refresh_the_sign_in_ends_and_no_token_stays_r30_r31_a5() {
    let mut world = World::new().await;
    let browser = world.sign_in().await;
    world.redis.save();
    let redis = &mut world.redis;
    let gate = Gate::new();
    let fault = Fault::HoldAnswer(gate.clone());
    world.provider.faults().once(Endpoint::Refresh, fault);
    world.node.clock.advance(Duration::from_secs(3601));
    world.provider.set_clock_offset(3601);
    let (router, cookie) = (world.node.app.router.clone(), cookies(&browser));
    let request = tokio::spawn(async move {
        let headers = [("cookie", &*cookie)];
        send(&router, "GET", "/token", &headers, "").await
    });
    gate.arrived(1).await;
    redis.kill();
    gate.open();
    let answer = request.await.unwrap();
    assert_eq!(answer.status, 401, "{}", answer.body);

    // The refresh token that Redis still has is spent, and is not sent again.
    world.redis.come_back().await;
    until("the sign-in ends", async || {
        world.node.who(&browser).await == "nobody"
    })
    .await;
    assert_eq!(world.node.get(&browser, "/token").await.status(), 401);
    assert_eq!(
        (refreshes(&world.provider), reuses(&world.provider)),
        (1, 0)
    );
    until("the hooks are told", async || {
        !world.node.app.seen().is_empty()
    })
    .await;
    world.assert_nothing_left().await;
    let causes: Vec<Cause> = world
        .node
        .app
        .seen()
        .iter()
        .map(|seen| seen.cause)
        .collect();
    assert_eq!(causes, [Cause::RefreshRejected]);
}
