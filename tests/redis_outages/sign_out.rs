//! In the middle of a sign-out.

use std::time::Instant;

use axum_signout::store::{RedisTokenStore, TokenStore as _};
use axum_signout::{Cause, SessionOutcome};
use serde_json::json;

use super::world::{Node, TIMEOUT, World, assert_unavailable, until};

/// What is there again for a moment must not be served for one.
async fn stays_out(world: &World, browser: &axum_signout::testing::TestBrowser) {
    until("Redis is reached", async || {
        let page = world.node.get(browser, "/whoami").await;
        assert_ne!(page.body(), "alice");
        page.status() == 200
    })
    .await;
    assert_eq!(world.node.who(browser).await, "nobody");
    assert_eq!(world.node.get(browser, "/token").await.status(), 401);
}

fn causes(world: &World) -> Vec<Cause> {
    let seen = world.node.app.seen();
    seen.iter().map(|seen| seen.cause).collect()
}

#[tokio::test]
async fn away_in_the_middle_of_a_sign_out_it_is_completed_and_pending_until_redis_is_back_a5_r6() {
    let mut world = World::new().await;
    let browser = world.sign_in().await;
    world.redis.save();
    let redis = std::mem::replace(&mut world.redis, crate::support::redis::Snapshots::away());
    let redis = std::cell::RefCell::new(redis);
    let leave = world
        .node
        .leave(&browser, async || redis.borrow_mut().kill());
    let (answer, report) = leave.await;
    world.redis = redis.into_inner();
    // To the user it is a sign-out like any other.
    assert_eq!(answer.status, 303, "{}", answer.body);
    assert!(
        answer
            .location()
            .as_str()
            .starts_with(world.provider.issuer())
    );
    let removal = answer.set_cookies();
    let removal = removal.iter().find(|cookie| cookie.starts_with("id="));
    assert!(
        removal.is_some_and(|cookie| cookie.contains("Max-Age=0")),
        "{:?}",
        answer.set_cookies()
    );
    assert_eq!((report.pending, report.not_retried), (1, 0));
    // Somebody who kept the cookie.
    assert_unavailable(&world.node.get(&browser, "/token").await);

    world.redis.come_back().await;
    stays_out(&world, &browser).await;
    until("the hooks are told", async || !causes(&world).is_empty()).await;
    world.assert_nothing_left().await;
    assert_eq!(causes(&world), [Cause::UserSignOut], "once");
}

#[tokio::test]
async fn slow_in_the_middle_of_a_sign_out_it_is_completed_in_bounded_time_a5() {
    let world = World::new().await;
    let browser = world.sign_in().await;
    let paused = std::cell::RefCell::new(None);
    let begun = std::cell::Cell::new(Instant::now());
    let leave = world.node.leave(&browser, async || {
        *paused.borrow_mut() = Some(world.redis.server().pause());
        begun.set(Instant::now());
    });
    let (answer, report) = leave.await;
    let took = begun.get().elapsed();
    assert!(took < 10 * TIMEOUT, "{took:?}");
    assert_eq!((answer.status.as_u16(), report.pending), (303, 1));
    drop(paused.into_inner());
    stays_out(&world, &browser).await;
    until("the hooks are told", async || !causes(&world).is_empty()).await;
    world.assert_nothing_left().await;
    assert_eq!(causes(&world), [Cause::UserSignOut], "once");
}

/// Where the session is out of reach as well nobody knows whose it is: its cookie goes, no copy of it opens anything here, and
/// what it held is evicted when Redis is back.
#[tokio::test]
async fn away_before_a_sign_out_what_the_session_held_is_evicted_when_redis_is_back_a5_a10() {
    let mut world = World::new().await;
    let browser = world.sign_in().await;
    let other = Node::start(&world.provider, RedisTokenStore::builder(world.redis.url())).await;
    world.redis.save();
    world.redis.kill();
    let (answer, report) = world.node.app.leave(&browser, json!({})).await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    let removal = answer.set_cookies();
    let removal = removal.iter().find(|cookie| cookie.starts_with("id="));
    assert!(removal.is_some_and(|cookie| cookie.contains("Max-Age=0")));
    let left = (report.session, report.pending, report.not_retried);
    assert_eq!(left, (SessionOutcome::Unread, 1, 0));
    assert_unavailable(&world.node.get(&browser, "/token").await);

    world.redis.come_back().await;
    stays_out(&world, &browser).await;
    until("the hooks are told", async || !causes(&world).is_empty()).await;
    let raw = RedisTokenStore::builder(world.redis.url()).build().unwrap();
    assert_eq!(raw.stats().await.unwrap().sign_ins, 0);
    until("the record is deleted", async || {
        let keys = world.redis.server().keys();
        !keys.iter().any(|key| key.contains(":session:"))
    })
    .await;
    assert_eq!(other.who(&browser).await, "nobody");
    world.assert_nothing_left().await;
    assert_eq!(causes(&world), [Cause::UserSignOut], "once");
}

/// Nobody asks: it is done all the same.
#[tokio::test]
async fn away_before_a_sign_out_everywhere_the_other_sessions_end_as_well_a5() {
    let mut world = World::new().await;
    let browser = world.sign_in().await;
    let elsewhere = world.sign_in().await;
    world.redis.save();
    world.redis.kill();
    let everywhere = json!({ "everywhere": true });
    let (_, report) = world.node.app.leave(&browser, everywhere).await;
    assert_eq!(
        (report.session, report.pending),
        (SessionOutcome::Unread, 1)
    );
    world.redis.come_back().await;
    until("the hooks are told", async || causes(&world).len() == 2).await;
    assert_eq!(causes(&world), [Cause::SignOutEverywhere; 2]);
    assert_eq!(world.node.who(&elsewhere).await, "nobody");
    world.assert_nothing_left().await;
}
