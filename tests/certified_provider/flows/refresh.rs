//! Tokens that are due.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use axum::{Extension, Router};
use axum_signout::{Cause, Error, Tokens};
use futures_util::future::join_all;
use tokio::sync::Barrier;
use tower::ServiceExt as _;

use crate::fixture::{Running, World};
use crate::support::app::App;
use crate::support::certified::{Fault, Options};

fn short_lived() -> Options {
    Options::new().lifetime("AccessToken", 300)
}

async fn refresh_token(world: &Running) -> String {
    let tokens = world.provider.tokens().await;
    let mut alive = tokens
        .into_iter()
        .filter(|token| token.kind == "RefreshToken" && !token.consumed);
    let token = alive.next().expect("there is one");
    assert!(alive.next().is_none(), "there is one only");
    token.value
}

#[tokio::test]
async fn a_token_that_is_due_is_refreshed_and_the_refresh_token_rotated_r28() {
    let world = World::new().options(short_lived()).start().await;
    world.sign_in("ann").await;
    let mut seen = vec![world.text("/token").await];
    let mut refresh_tokens = vec![refresh_token(&world).await];
    for round in 1..=3 {
        world.advance(200);
        assert_eq!(
            world.text("/token").await,
            seen[round - 1],
            "there is time left"
        );
        world.advance(50);
        seen.push(world.text("/token").await);
        refresh_tokens.push(refresh_token(&world).await);
        assert_ne!(seen[round], seen[round - 1]);
        assert_ne!(refresh_tokens[round], refresh_tokens[round - 1]);
        assert!(world.provider.is_active(&seen[round]).await);
        assert_eq!(world.refreshes().await, round);
    }
    assert_eq!(
        world.events("grant.revoked").await,
        0,
        "none was used twice"
    );
    assert_eq!(world.sign_ins().await, 1);
}

/// Loads its sign-in, waits until all are there, and then wants a token.
fn at_once(together: usize) -> Router {
    let barrier = Arc::new(Barrier::new(together));
    let handler = move |tokens: Tokens| {
        let barrier = barrier.clone();
        async move {
            barrier.wait().await;
            let tokens = join_all((0..5).map(|_| tokens.acquire(()))).await;
            let tokens = tokens.into_iter().collect::<Result<Vec<_>, Error>>()?;
            assert!(tokens.iter().all(|one| one.secret() == tokens[0].secret()));
            Ok::<_, Error>(tokens[0].secret().to_owned())
        }
    };
    Router::new().route("/at-once", get(handler))
}

#[tokio::test]
async fn fifty_who_want_a_token_at_once_make_one_refresh_r29() {
    let world = World::new()
        .options(short_lived())
        .routes(at_once(10))
        .start()
        .await;
    world.sign_in("ann").await;
    let before = world.text("/token").await;
    world.advance(290);

    let pages = join_all((0..10).map(|_| world.get("/at-once"))).await;
    let token = &pages[0].body;
    assert_ne!(*token, before);
    for page in &pages {
        assert_eq!(page.status, 200);
        assert_eq!(page.body, *token);
    }
    assert_eq!(world.refreshes().await, 1);
    assert_eq!(world.events("refresh_token.consumed").await, 1);
    assert_eq!(world.events("grant.error").await, 0);
    assert_eq!(world.events("grant.revoked").await, 0);
    assert!(world.provider.is_active(token).await);
    assert_eq!(world.active("RefreshToken").await, 1);
}

const SIGN_INS: usize = 100;
const TOGETHER: usize = 10;
const ROUNDS: usize = 20;

/// Has so many ask for the token of each sign-in, all at the same moment: one token came of it for each, in the order of the sign-ins.
async fn storm(app: &App, requests: &[String]) -> Vec<String> {
    let start = Arc::new(Barrier::new(requests.len() * TOGETHER));
    let mut all = Vec::new();
    for cookies in requests {
        let request = Request::get("/hold").header("cookie", cookies);
        let request = request.body(Body::empty()).unwrap();
        let mut answer = app.router.clone().oneshot(request).await.unwrap();
        let tokens: Tokens = answer.extensions_mut().remove().expect("signed in");
        let together: Vec<_> = (0..TOGETHER)
            .map(|_| {
                let (tokens, start) = (tokens.clone(), start.clone());
                tokio::spawn(async move {
                    start.wait().await;
                    tokens.acquire(()).await.unwrap().secret().to_owned()
                })
            })
            .collect();
        all.push(together);
    }
    let mut tokens = Vec::new();
    for together in all {
        let got = join_all(together).await.into_iter();
        let mut got: Vec<String> = got.map(Result::unwrap).collect();
        got.dedup();
        assert_eq!(got.len(), 1, "all of a sign-in have the same token");
        tokens.append(&mut got);
    }
    tokens
}

/// Rotated refresh tokens that are used again revoke the whole grant at this provider: one refresh too many would show.
#[tokio::test]
async fn a_thousand_who_want_tokens_at_expiry_make_a_refresh_for_each_sign_in_twenty_times_over_r29()
 {
    let world = World::new()
        // The app's clock runs ahead of the provider's, up to a hundred minutes.
        .options(short_lived().lifetime("IdToken", 24 * 3600))
        .routes(Router::new().route("/hold", get(async |tokens: Tokens| Extension(tokens))))
        .start()
        .await;
    let mut requests = Vec::new();
    let mut before = Vec::new();
    for number in 0..SIGN_INS {
        let one = world.in_another_browser();
        one.sign_in(&format!("user-{number}")).await;
        before.push(one.text("/token").await);
        requests.push(one.session_cookie().expect("signed in"));
    }
    for round in 1..=ROUNDS {
        world.advance(300);
        let tokens = storm(&world.app, &requests).await;
        for (token, before) in tokens.iter().zip(&before) {
            assert_ne!(token, before, "it is over");
        }
        let grants = world.provider.events_named("grant.success").await;
        let mut of_each = HashMap::<_, usize>::new();
        for grant in &grants {
            if grant.grant_type.as_deref() == Some("refresh_token") {
                *of_each.entry(grant.account_id.as_deref()).or_default() += 1;
            }
        }
        assert_eq!(of_each.len(), SIGN_INS);
        let (least, most) = (of_each.values().min(), of_each.values().max());
        assert_eq!(
            (least, most),
            (Some(&round), Some(&round)),
            "one refresh each"
        );
        before = tokens;
    }
    let consumed = world.events("refresh_token.consumed").await;
    assert_eq!(consumed, ROUNDS * SIGN_INS);
    assert_eq!(world.events("grant.error").await, 0);
    assert_eq!(world.events("grant.revoked").await, 0);
    for token in &before {
        assert!(world.provider.is_active(token).await);
    }
    let refresh_tokens = world.provider.tokens().await.into_iter();
    let refresh_tokens = refresh_tokens.filter(|one| one.kind == "RefreshToken" && !one.consumed);
    let refresh_tokens: Vec<_> = refresh_tokens.map(|one| one.value).collect();
    assert_eq!(refresh_tokens.len(), SIGN_INS);
    for token in &refresh_tokens {
        assert!(world.provider.is_active(token).await);
    }
    assert_eq!(world.sign_ins().await, SIGN_INS);
    assert!(world.app.seen().is_empty());
}

#[tokio::test]
async fn scopes_that_the_token_at_hand_lacks_are_refreshed_for_and_kept_r28() {
    let world = World::new()
        .provider(|provider| provider.scopes(["openid", "Mail.Read", "Mail.Send"]))
        .start()
        .await;
    world.sign_in("ann").await;
    let all = world.text("/token").await;
    assert_eq!(world.text("/token?scope=Mail.Send").await, all);
    // Never granted: the provider says so, and what is there stays.
    let refused = world.get("/token?scope=Files.Read").await;
    assert!(refused.status.is_client_error() || refused.status.is_server_error());
    assert_eq!(world.text("/token").await, all);
    assert_eq!(world.whoami().await, "ann");
    assert_eq!(world.sign_ins().await, 1);
}

#[tokio::test]
async fn a_grant_that_the_provider_took_back_ends_the_sign_in_and_the_session_r30() {
    let world = World::new().options(short_lived()).start().await;
    world.sign_in("ann").await;
    world.browser.post(&world.app.url("/cart/book"), &[]).await;
    assert_eq!(world.text("/cart/show").await, "book");
    world.provider.revoke_grants("ann").await;
    assert_eq!(
        world.get("/token").await.status,
        200,
        "nobody has asked yet"
    );

    world.advance(290);
    let page = world.get("/token").await;
    assert_eq!(page.status, 401, "{}", page.body);
    assert_eq!(world.sign_ins().await, 0);
    world.settle().await;
    let seen = world.eviction();
    assert_eq!(seen.cause, Cause::RefreshRejected);
    assert_eq!(seen.subject, "ann");

    // Promise 4: the session's data too, not just its tokens.
    assert_eq!(world.text("/cart/show").await, "");
    assert_eq!(world.whoami().await, "nobody");
    assert_eq!(world.session_cookie(), None, "R41");
}

#[tokio::test]
async fn a_provider_in_trouble_ends_nothing_r30() {
    for fault in [Fault::Status(503), Fault::Drop] {
        let world = World::new().options(short_lived()).start().await;
        world.sign_in("ann").await;
        let before = world.text("/token").await;
        world.provider.inject("/token", fault, Some(1)).await;
        world.advance(250);
        assert_eq!(
            world.text("/token").await,
            before,
            "{fault:?}: it is valid still"
        );
        world.provider.inject("/token", fault, Some(1)).await;
        assert_eq!(world.whoami().await, "ann");
        assert_eq!(world.events("grant.revoked").await, 0);
        assert_eq!(world.sign_ins().await, 1);
        assert!(world.app.seen().is_empty());
    }
}

#[tokio::test]
async fn a_refresh_that_ends_after_the_sign_out_leaves_nothing_alive_r31_a2() {
    let world = World::new().options(short_lived()).start().await;
    world.sign_in("ann").await;
    world.advance(290);
    world
        .provider
        .inject("/token", Fault::HoldResponse, Some(1))
        .await;
    let before = world.provider.now().await;
    let refreshing = async {
        let page = world.get("/token").await;
        assert_eq!(page.status, 401, "{}", page.body);
    };
    let signing_out = async {
        world.provider.wait_for("request.held", before).await;
        world.sign_out().await;
        assert_eq!(world.sign_ins().await, 0);
        world.provider.release().await;
    };
    tokio::join!(refreshing, signing_out);
    world.settle().await;
    assert_eq!(world.sign_ins().await, 0);
    assert_eq!(world.active("RefreshToken").await, 0);
    assert_eq!(world.active("AccessToken").await, 0);
    assert_eq!(world.whoami().await, "nobody");
}
