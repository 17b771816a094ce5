//! Redis is back, but not as it was: empty, older, or another server.

use axum_signout::Cause;
use axum_signout::store::{RedisTokenStore, TokenStore as _};
use axum_signout::testing::{TestBrowser, TestProvider};

use super::world::{Node, World, active, until};
use crate::support::redis::Replicated;

#[tokio::test]
async fn back_empty_everybody_is_signed_out_and_can_sign_in_again_r42() {
    let mut world = World::new().await;
    let browser = world.sign_in().await;
    world.redis.restart().await;
    until("Redis is reached", async || {
        world.node.get(&browser, "/whoami").await.status() == 200
    })
    .await;
    assert_eq!(world.node.who(&browser).await, "nobody");
    assert_eq!(world.node.get(&browser, "/token").await.status(), 401);
    let mut again = browser.clone();
    world.node.app.sign_in(&mut again, "alice").await;
    assert_eq!(world.node.who(&again).await, "alice");
    assert_eq!(world.node.app.auth.stats().await.unwrap().sign_ins, 1);
}

#[tokio::test]
async fn back_from_an_old_snapshot_who_signed_out_stays_out_and_hooks_hear_of_it_once_a2_a5() {
    let mut world = World::new().await;
    let browser = world.sign_in().await;
    world.redis.save();
    let (_, report) = world.node.leave(&browser, async || {}).await;
    assert_eq!((report.pending, report.evicted.len()), (0, 1));
    until("the tokens are revoked", async || {
        active(&world.provider).is_empty()
    })
    .await;
    world.redis.restart().await;
    // Session and sign-in are there again, until the first node that remembers connects.
    let raw = RedisTokenStore::builder(world.redis.url()).build().unwrap();
    assert_eq!(raw.stats().await.unwrap().sign_ins, 1);
    until("Redis is reached", async || {
        let page = world.node.get(&browser, "/whoami").await;
        assert_ne!(page.body(), "alice");
        page.status() == 200
    })
    .await;
    let mut asks = browser.clone();
    assert_eq!(
        world.node.app.get(&mut asks, "/whoami").await.body(),
        "nobody"
    );
    assert_eq!(raw.stats().await.unwrap().sign_ins, 0);
    world.assert_nothing_left().await;
    let seen = world.node.app.seen();
    let causes: Vec<Cause> = seen.iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::UserSignOut]);
}

#[tokio::test]
async fn failing_over_users_wait_and_a_sign_out_that_the_new_master_missed_is_done_again_a2_a6() {
    let mut redis = Replicated::start().await;
    let provider = TestProvider::start().await;
    let sentinels = || RedisTokenStore::sentinel([redis.sentinel.url().to_owned()], "main");
    let here = Node::start(&provider, sentinels()).await;
    let mut alice = TestBrowser::new();
    here.app.sign_in(&mut alice, "alice").await;
    let mut bob = TestBrowser::new();
    here.app.sign_in(&mut bob, "bob").await;
    assert_eq!(redis.master().cli(&["WAIT", "1", "10000"]), "1");
    redis.master().stop_replicating();
    let (_, report) = here.leave(&alice, async || {}).await;
    assert_eq!((report.pending, report.evicted.len()), (0, 1));
    redis.fail_over().await;
    until("the new master is found", async || {
        let page = here.get(&alice, "/whoami").await;
        assert_ne!(page.body(), "alice");
        assert!(matches!(page.status().as_u16(), 200 | 503));
        page.status() == 200
    })
    .await;
    assert_eq!(here.who(&alice).await, "nobody");
    assert_eq!(here.who(&bob).await, "bob");
    let raw = RedisTokenStore::builder(redis.replica.url())
        .build()
        .unwrap();
    assert_eq!(raw.stats().await.unwrap().sign_ins, 1);
    assert_eq!(here.app.seen().len(), 1);
}
