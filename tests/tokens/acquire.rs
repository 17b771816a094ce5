//! What is handed out, and when the provider is asked.

use std::time::Duration;

use axum::http::Method;
use axum_signout::testing::{Endpoint, Event, Fault, NeedsConsent, TestBrowser, TestProvider};
use axum_signout::{ErrorKind, Provider};

use crate::support::app::Setup;
use crate::world::{World, acquire, kind};

#[tokio::test]
async fn a_cached_token_costs_no_request() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    world.provider.clear_events();
    let tokens = world.tokens(&browser).await;
    let first = acquire(&tokens).await.unwrap();
    for _ in 0..3 {
        let again = tokens.acquire(["openid", "profile"]).await.unwrap();
        assert_eq!(again.secret(), first.secret());
    }
    assert_eq!(world.get(&browser, "/token").await.body(), first.secret());
    assert_eq!(world.provider.events(), []);
}

#[tokio::test]
async fn a_token_is_refreshed_once_a_minute_before_its_end() {
    let world = World::with(|auth| auth.refresh_ahead(None)).await;
    let browser = world.sign_in("alice").await;
    let first = acquire(&world.tokens(&browser).await).await.unwrap();
    world.advance(Duration::from_secs(3600 - 61));
    let same = acquire(&world.tokens(&browser).await).await.unwrap();
    assert_eq!(same.secret(), first.secret());
    assert_eq!(world.refreshes(), 0);

    world.advance(Duration::from_secs(1));
    let next = acquire(&world.tokens(&browser).await).await.unwrap();
    assert_ne!(next.secret(), first.secret());
    assert!(world.provider.is_active(next.secret()));
    let again = acquire(&world.tokens(&browser).await).await.unwrap();
    assert_eq!(again.secret(), next.secret());
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test]
async fn the_margin_can_be_set() {
    let world = World::with(|auth| auth.expiry_margin(Duration::from_secs(600))).await;
    let browser = world.sign_in("alice").await;
    world.advance(Duration::from_secs(3600 - 600));
    acquire(&world.tokens(&browser).await).await.unwrap();
    assert_eq!(world.refreshes(), 1);
}

/// Some providers issue tokens of a minute.
#[tokio::test]
async fn a_token_that_lives_no_longer_than_the_margin_is_served_for_half_of_its_life() {
    let provider = TestProvider::builder().access_token_lifetime(Duration::from_secs(60));
    let world = World::start(provider, Setup::new(), |auth| auth).await;
    let browser = world.sign_in("alice").await;
    for round in 0..3 {
        for _ in 0..3 {
            acquire(&world.tokens(&browser).await).await.unwrap();
        }
        assert_eq!(world.refreshes(), round);
        world.advance(Duration::from_secs(30));
    }
}

/// A request that loaded the sign-in before another one's refresh finds what that brought.
#[tokio::test]
async fn what_another_request_refreshed_is_found_without_asking_again() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    world.expire_tokens();
    let (one, two) = (world.tokens(&browser).await, world.tokens(&browser).await);
    let first = acquire(&one).await.unwrap();
    let second = acquire(&two).await.unwrap();
    assert_eq!(first.secret(), second.secret());
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test]
async fn fewer_scopes_are_served_by_a_token_that_has_them_and_more_are_asked_for() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    let own = acquire(&tokens).await.unwrap();
    assert_eq!(
        tokens.acquire("profile").await.unwrap().secret(),
        own.secret()
    );
    assert_eq!(world.refreshes(), 0);

    let wider = tokens.acquire("Mail.Send Mail.Read").await.unwrap();
    assert_eq!(
        wider.scopes().collect::<Vec<_>>(),
        ["Mail.Read", "Mail.Send"]
    );
    let asked = world
        .provider
        .events()
        .into_iter()
        .find_map(|event| match event {
            Event::Refreshed { scopes, .. } => Some(scopes),
            _ => None,
        });
    assert_eq!(asked.unwrap(), ["Mail.Read", "Mail.Send"]);
    // Of this request and of the next one.
    for tokens in [&tokens, &world.tokens(&browser).await] {
        let narrower = tokens.acquire(["Mail.Read"]).await.unwrap();
        assert_eq!(narrower.secret(), wider.secret());
        assert_eq!(acquire(tokens).await.unwrap().secret(), own.secret());
    }
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test]
async fn a_grant_of_less_than_was_asked_for_needs_the_user() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let less = Fault::Set("scope".into(), "Mail.Read".into());
    world.provider.faults().always(Endpoint::Refresh, less);
    let tokens = world.tokens(&browser).await;
    let answer = tokens.acquire("Mail.Read Mail.Send").await;
    assert_eq!(kind(answer), ErrorKind::InteractionRequired);
    // What came is kept all the same.
    assert!(tokens.acquire("Mail.Read").await.is_ok());
    assert_eq!(world.refreshes(), 1);
    assert_eq!(world.sign_ins().await, 1);
}

/// The token from before has the scopes still, but its time is up.
#[tokio::test]
async fn a_grant_that_became_less_needs_the_user_and_is_asked_for_once() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    let both = "Mail.Read Mail.Send";
    tokens.acquire(both).await.unwrap();
    world.expire_tokens();
    let less = Fault::Set("scope".into(), "Mail.Read".into());
    world.provider.faults().always(Endpoint::Refresh, less);
    let tokens = world.tokens(&browser).await;
    assert_eq!(
        kind(tokens.acquire(both).await),
        ErrorKind::InteractionRequired
    );
    assert_eq!(world.refreshes(), 2);
    assert_eq!(world.sign_ins().await, 1);
}

#[tokio::test]
async fn what_needs_the_user_is_a_401_for_scripts_and_the_way_to_sign_in_for_people() {
    let builder = TestProvider::builder().needs_consent(NeedsConsent::new("Admin.Write"));
    let world = World::start(builder, Setup::new(), |auth| auth.redirect_to_sign_in(true)).await;
    let mut browser = world.sign_in("alice").await;
    let page = browser
        .fetch(Method::GET, world.app.url("/token?scope=Admin.Write"))
        .await
        .unwrap();
    assert_eq!(page.status(), 401);
    assert_eq!(page.body(), "Please sign in again.");
    assert_eq!(page.header("cache-control"), Some("no-store"));

    browser.clear_history();
    world
        .app
        .get(&mut browser, "/token?scope=Admin.Write")
        .await;
    let first = &browser.history()[0];
    assert_eq!(first.status(), 303);
    let location = first.location().unwrap();
    assert_eq!(location.path(), "/signin");
    assert!(location.query().unwrap().contains("Admin.Write"));
    assert_eq!(world.sign_ins().await, 1);
}

#[tokio::test]
async fn each_resource_has_a_token_of_its_own() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    let own = acquire(&tokens).await.unwrap();
    let api = tokens.acquire_for("https://api.example", ()).await.unwrap();
    assert_ne!(api.secret(), own.secret());
    assert_eq!(api.resource(), Some("https://api.example"));
    let again = tokens.acquire_for("https://api.example", ()).await.unwrap();
    assert_eq!(again.secret(), api.secret());
    let other = tokens
        .acquire_for("https://other.example", "Mail.Read")
        .await
        .unwrap();
    assert_ne!(other.secret(), api.secret());
    assert_eq!(acquire(&tokens).await.unwrap().secret(), own.secret());
    assert_eq!(world.refreshes(), 2);
    let page = world
        .get(&browser, "/token_for?resource=https%3A%2F%2Fapi.example")
        .await;
    assert_eq!(page.body(), api.secret());
}

#[tokio::test]
async fn without_a_refresh_token_the_user_is_needed_once_the_token_is_over() {
    let world = World::new().await;
    world
        .provider
        .faults()
        .once(Endpoint::Code, Fault::NoRefreshToken);
    let browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    assert!(!tokens.describe().refreshable);
    world.advance(Duration::from_secs(3590));
    // Within the margin, where a refresh would be due, it is still good.
    assert!(acquire(&tokens).await.is_ok());
    world.advance(Duration::from_secs(11));
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::InteractionRequired);
    assert_eq!(world.get(&browser, "/token").await.status(), 401);
    assert_eq!(world.sign_ins().await, 1);
    assert_eq!(world.refreshes(), 0);
}

/// A3: each browser, and each account, has its own tokens only.
#[tokio::test]
async fn nobody_ever_gets_anothers_token_a3() {
    let world = World::new().await;
    let alice = world.sign_in("alice").await;
    let bob = world.sign_in("bob").await;
    let again = world.sign_in("alice").await;
    // Two accounts in one browser.
    let mut both = world.sign_in("alice").await;
    world.app.sign_in(&mut both, "bob").await;
    world.expire_tokens();
    let mut seen = Vec::new();
    for browser in [&alice, &bob, &again, &both] {
        let tokens = world.tokens(browser).await;
        seen.push((tokens.account(), acquire(&tokens).await.unwrap()));
        seen.push((tokens.account(), tokens.acquire("Mail.Read").await.unwrap()));
    }
    let tokens = world.tokens(&both).await;
    let accounts = tokens.accounts().unwrap();
    let subjects: Vec<_> = accounts.iter().map(|one| one.account.subject()).collect();
    assert_eq!(subjects, ["alice", "bob"]);
    assert_eq!(tokens.account().subject(), "bob");
    let older = tokens.of(&accounts[0].account).unwrap().unwrap();
    seen.push((older.account(), acquire(&older).await.unwrap()));
    let by_id = tokens.of_sign_in(accounts[0].sign_in).unwrap().unwrap();
    assert_eq!(by_id.account().subject(), "alice");

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for (at, (account, token)) in seen.iter().enumerate() {
        let request = http.get(world.provider.url("/userinfo"));
        let answer = request.bearer_auth(token.secret()).send().await.unwrap();
        let owner: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(owner["sub"], account.subject());
        let twice = seen[..at]
            .iter()
            .any(|(_, other)| other.secret() == token.secret());
        assert!(!twice, "one token for two sign-ins");
    }
    // A sign-in of another session is not to be had by its name.
    let foreign = world.tokens(&alice).await.sign_in();
    assert!(tokens.of_sign_in(foreign).unwrap().is_none());
}

#[tokio::test]
async fn a_stranger_gets_no_token() {
    let world = World::new().await;
    let page = world.get(&TestBrowser::new(), "/token").await;
    assert_eq!(page.status(), 401);
    assert_eq!(world.provider.events(), []);
}

/// Endpoints belong to the sign-in's issuer: with two providers each refresh goes to its own.
#[tokio::test]
async fn a_refresh_goes_to_the_issuer_of_the_sign_in() {
    let second = TestProvider::start().await;
    let other = Provider::discover(second.issuer(), crate::support::app::CLIENT)
        .client_secret(crate::support::app::SECRET)
        .name("second")
        .build()
        .unwrap();
    let world = World::with(move |auth| auth.provider(other)).await;
    second.add_client(
        axum_signout::testing::TestClient::new(crate::support::app::CLIENT)
            .secret(crate::support::app::SECRET)
            .app(&world.app.base),
    );
    let mut browser = world.sign_in("alice").await;
    world
        .app
        .sign_in_at(
            &mut browser,
            "alice",
            "/signin?provider=second&return_to=/whoami",
        )
        .await;
    second.set_clock_offset(3601);
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let accounts = tokens.accounts().unwrap();
    assert_eq!(accounts.len(), 2);
    for one in accounts {
        let at = if one.account.issuer() == second.issuer() {
            &second
        } else {
            &world.provider
        };
        let token = tokens.of_sign_in(one.sign_in).unwrap().unwrap();
        let token = acquire(&token).await.unwrap();
        assert!(at.is_active(token.secret()));
    }
    let refreshed = |event: &Event| matches!(event, Event::Refreshed { .. });
    assert_eq!((world.refreshes(), second.count(refreshed)), (1, 1));
}
