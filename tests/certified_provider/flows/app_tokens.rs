//! Tokens of the app itself.

use axum_signout::ErrorKind;
use futures_util::future::join_all;
use serde_json::json;

use crate::fixture::{Running, World};
use crate::support::app::CLIENT;
use crate::support::certified::Options;

const API: &str = "https://api.example.com";

async fn start() -> Running {
    let options = Options::new()
        .resource(API, "orders", "opaque")
        .lifetime("ClientCredentials", 300);
    let grants = json!(["authorization_code", "refresh_token", "client_credentials"]);
    let world = World::new().options(options);
    world
        .client(move |client| {
            let client = client.set("grant_types", grants);
            client.set("scope", "openid Mail.Read")
        })
        .start()
        .await
}

async fn requests(world: &Running) -> usize {
    let grants = world.provider.events_named("grant.success").await;
    let kind = Some("client_credentials");
    let such = grants
        .iter()
        .filter(|one| one.grant_type.as_deref() == kind);
    such.count()
}

#[tokio::test]
async fn an_app_token_is_good_there_until_it_is_evicted_here_r29_r32() {
    let world = start().await;
    let tokens = world.app.auth.app_tokens();
    let all = join_all((0..50).map(|_| tokens.acquire("Mail.Read"))).await;
    let token = all[0].as_ref().unwrap().clone();
    for one in &all {
        assert_eq!(one.as_ref().unwrap().secret(), token.secret());
    }
    assert_eq!(requests(&world).await, 1);
    let known = world.provider.introspect(token.secret()).await;
    assert_eq!(known["active"], true);
    assert_eq!(known["scope"], "Mail.Read");
    assert_eq!(known["client_id"], CLIENT);
    assert!(known.get("sub").is_none(), "it is no user's: {known}");

    assert_eq!(tokens.evict("Mail.Read").await, 1);
    let next = tokens.acquire("Mail.Read").await.unwrap();
    assert_ne!(next.secret(), token.secret());
    world.settle().await;
    assert!(!world.provider.is_active(token.secret()).await);
    assert!(world.provider.is_active(next.secret()).await);
}

#[tokio::test]
async fn an_app_token_for_a_resource_is_for_that_and_the_next_one_comes_when_it_is_due_r29() {
    let world = start().await;
    let tokens = world.app.auth.app_tokens();
    let token = tokens.acquire_for(API, "orders").await.unwrap();
    let known = world.provider.introspect(token.secret()).await;
    assert_eq!(known["aud"], API);
    assert_eq!(known["scope"], "orders");
    world.advance(250);
    let next = tokens.acquire_for(API, "orders").await.unwrap();
    assert_ne!(next.secret(), token.secret());
    assert!(world.provider.is_active(next.secret()).await);
    assert_eq!(requests(&world).await, 2);
    world.advance(60);
    let anew = tokens
        .acquire_fresh("orders", &next)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(anew.resource(), Some(API));
    assert_ne!(anew.secret(), next.secret());
}

#[tokio::test]
async fn what_the_provider_does_not_grant_is_no_app_token_r30_r32() {
    let world = start().await;
    let tokens = world.app.auth.app_tokens();
    let refused = [
        tokens.acquire("Mail.Send").await,
        // It grants the half of this that the resource has.
        tokens.acquire_for(API, "orders Mail.Read").await,
    ];
    for answer in refused {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::ProviderRejected);
    }
    assert_eq!(requests(&world).await, 1);
    world.settle().await;
    for issued in world.provider.issued().await {
        assert!(!world.provider.is_active(&issued.value).await);
    }
    assert!(tokens.acquire_for(API, "orders").await.is_ok());
}
