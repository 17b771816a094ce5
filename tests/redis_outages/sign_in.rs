//! During a sign-in.

use axum_signout::testing::{Endpoint, Fault, Gate, TestBrowser};

use super::world::{World, active, assert_not_signed_in, until};

/// Signs in up to where the provider has given out the tokens, whose answer waits while `then` is done.
async fn callback(
    world: &World,
    then: impl AsyncFnOnce(),
) -> (TestBrowser, axum_signout::testing::Page) {
    let gate = Gate::new();
    let fault = Fault::HoldAnswer(gate.clone());
    world.provider.faults().once(Endpoint::Code, fault);
    let mut browser = TestBrowser::new();
    let path = world.node.app.url("/signin?return_to=/whoami");
    browser.goto(path).await.unwrap();
    let signing_in = tokio::spawn(async move {
        let page = browser.submit("login-alice", &[]).await.unwrap();
        (browser, page)
    });
    gate.arrived(1).await;
    then().await;
    gate.open();
    signing_in.await.unwrap()
}

#[tokio::test]
async fn away_before_the_callback_nothing_is_asked_for() {
    let mut world = World::new().await;
    let mut browser = TestBrowser::new();
    let path = world.node.app.url("/signin?return_to=/whoami");
    browser.goto(path).await.unwrap();
    world.redis.kill();
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert_not_signed_in(&page);
    assert!(active(&world.provider).is_empty());
    world.redis.come_back().await;
    until("it signs in", async || {
        let page = world.node.get(&browser, "/signin").await;
        page.status() == 200
    })
    .await;
    world.sign_in().await;
}

#[tokio::test]
async fn away_during_the_callback_the_user_is_not_signed_in_and_the_tokens_are_revoked_a5() {
    let mut world = World::new().await;
    let redis = std::mem::replace(&mut world.redis, crate::support::redis::Snapshots::away());
    let redis = std::cell::RefCell::new(redis);
    let (browser, page) = callback(&world, async || redis.borrow_mut().kill()).await;
    assert_not_signed_in(&page);
    world.redis = redis.into_inner();
    assert!(!active(&world.provider).is_empty());
    world.redis.come_back().await;
    until("Redis is reached", async || {
        world.node.get(&browser, "/whoami").await.body() == "nobody"
    })
    .await;
    world.assert_nothing_left().await;
    assert!(world.node.app.seen().is_empty(), "it never began");
}

#[tokio::test]
async fn slow_during_the_callback_what_redis_does_afterwards_is_undone_a2_a5() {
    let world = World::new().await;
    // Its scripts are known.
    drop(world.sign_in().await);
    world.node.app.auth.shutdown().await;
    let world = World::with(world.redis).await;
    let paused = std::cell::RefCell::new(None);
    let (browser, page) = callback(&world, async || {
        *paused.borrow_mut() = Some(world.redis.server().pause());
    })
    .await;
    assert_not_signed_in(&page);
    drop(paused.into_inner());
    until("Redis is reached", async || {
        world.node.get(&browser, "/whoami").await.body() == "nobody"
    })
    .await;
    until("what was created late is removed", async || {
        let stats = world.node.app.auth.stats().await;
        stats.is_ok_and(|stats| stats.sign_ins == 1)
    })
    .await;
    until("its tokens are revoked", async || {
        active(&world.provider).is_empty()
    })
    .await;
}
