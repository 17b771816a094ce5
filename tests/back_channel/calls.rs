//! What a call ends, and what it leaves alone.

use std::time::Duration;

use axum::Router;
use axum_signout::testing::{
    Endpoint, Event, Fault, Gate, TestBrowser, TestClient, TestProvider, TokenKind,
};
use axum_signout::{Auth, Cause, ConfigError, ErrorKind, Provider};

use crate::support::app::{CLIENT, SECRET, Setup, cookies, send};
use crate::world::{World, acquire, kind};
use crate::{arrive, assert_done, assert_refused, call, sign_ins, who};

#[tokio::test]
async fn all_sign_ins_of_one_session_at_the_provider_end_r23() {
    let world = World::new().await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    for sid in ["shared", "shared", "other"] {
        arrive(auth, provider, "ann", sid).await;
    }
    let token = provider.logout_token(CLIENT).claim("sid", "shared").sign();
    assert_done(&call(&world.app.router, &token).await, "shared");
    assert_eq!(sign_ins(auth).await, 1);
    world.finish().await;
    let causes: Vec<_> = world.app.seen().iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::BackChannel, Cause::BackChannel]);
}

#[tokio::test]
async fn a_subject_alone_ends_every_browsers_session_r23_a8() {
    let world = World::new().await;
    let mut browsers = [world.sign_in("alice").await, world.sign_in("alice").await];
    let mut bob = world.sign_in("bob").await;
    let (subject, _) = who(&world.app, &mut browsers[0]).await;
    for browser in &mut browsers {
        world.app.get(browser, "/cart/shoes").await;
    }
    let token = world
        .provider
        .logout_token(CLIENT)
        .claim("sub", subject)
        .sign();
    assert_done(&call(&world.app.router, &token).await, "alice");
    for browser in &mut browsers {
        let before = cookies(browser);
        world.assert_signed_out(browser).await;
        // Promise 4: the data is gone, not just the tokens.
        let headers = [("cookie", before.as_str())];
        let cart = send(&world.app.router, "GET", "/cart/show", &headers, "").await;
        assert_eq!(cart.body, "");
    }
    assert_eq!(who(&world.app, &mut bob).await.0, "bob");
    // The next sign-in revives none of them.
    world.app.sign_in(&mut browsers[0], "alice").await;
    world.assert_signed_out(&mut browsers[1]).await;
}

#[tokio::test]
async fn a_subject_is_found_where_accounts_go_by_other_claims_r23() {
    let world = World::with(|auth| auth.account_identity(["tid", "oid"])).await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    for (subject, sid) in [("ann", "1"), ("ann", "2"), ("eve", "3")] {
        arrive(auth, provider, subject, sid).await;
    }
    let token = provider.logout_token(CLIENT).claim("sub", "ann").sign();
    assert_done(&call(&world.app.router, &token).await, "ann");
    assert_eq!(sign_ins(auth).await, 1);
}

#[tokio::test]
async fn a_request_that_is_running_gets_no_token_any_more_r23() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let (_, sid) = who(&world.app, &mut browser).await;
    let tokens = world.tokens(&browser).await;
    acquire(&tokens).await.unwrap();
    let token = world.provider.logout_token(CLIENT).claim("sid", sid).sign();
    assert_done(&call(&world.app.router, &token).await, "while it runs");
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::NotSignedIn);
}

#[tokio::test]
async fn another_issuers_or_clients_session_is_left_alone_r20_r23() {
    let other = TestProvider::start().await;
    other.add_client(TestClient::new("app-there").secret(SECRET));
    let second = Provider::discover(other.issuer(), "app-there").name("second");
    let second = second.client_secret(SECRET).build().unwrap();
    let world = World::with(move |auth| auth.provider(second)).await;
    let auth = &world.app.auth;
    arrive(auth, &world.provider, "ann", "s").await;
    arrive(auth, &other, "ann", "s").await;
    // The same names, by another issuer, which signs for itself only.
    let posing = other
        .logout_token("app-there")
        .claim("iss", world.provider.issuer());
    let posing = posing.claim("aud", CLIENT).claim("sid", "s").sign();
    assert_refused(
        &call(&world.app.router, &posing).await,
        "unknown_key",
        "posing",
    );
    let for_other = world
        .provider
        .logout_token(CLIENT)
        .claim("aud", "app-there");
    let answer = call(&world.app.router, &for_other.claim("sid", "s").sign()).await;
    assert_refused(&answer, "audience", "for the other client");
    assert_eq!(sign_ins(auth).await, 2);
    let token = other
        .logout_token("app-there")
        .claim("sub", "ann")
        .claim("sid", "s");
    assert_done(&call(&world.app.router, &token.sign()).await, "its own");
    assert_eq!(sign_ins(auth).await, 1);
    let token = world.provider.logout_token(CLIENT).claim("sid", "s").sign();
    assert_done(&call(&world.app.router, &token).await, "the first one's");
    assert_eq!(sign_ins(auth).await, 0);
}

#[tokio::test]
async fn a_subject_that_disagrees_with_one_of_a_session_changes_nothing_r23() {
    let world = World::new().await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    for subject in ["ann", "ann", "eve"] {
        arrive(auth, provider, subject, "s").await;
    }
    let token = provider
        .logout_token(CLIENT)
        .claim("sub", "ann")
        .claim("sid", "s")
        .sign();
    assert_refused(
        &call(&world.app.router, &token).await,
        "subject",
        "ann's and eve's",
    );
    assert_eq!(sign_ins(auth).await, 3);
    // Not closed either: one that was under way may arrive.
    arrive(auth, provider, "ann", "s").await;
    assert_eq!(auth.stats().await.unwrap().claims, 0);
}

#[tokio::test]
async fn a_token_counts_once_r22() {
    let world = World::new().await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    arrive(auth, provider, "ann", "1").await;
    let token = provider.logout_token(CLIENT).claim("sub", "ann").sign();
    assert_done(&call(&world.app.router, &token).await, "first");
    arrive(auth, provider, "ann", "2").await;
    assert_refused(&call(&world.app.router, &token).await, "replayed", "again");
    assert_eq!(
        sign_ins(auth).await,
        1,
        "the new sign-in is not the token's"
    );
    // For as long as it is good, with the skew of the clocks.
    world.advance(Duration::from_secs(300));
    assert_refused(&call(&world.app.router, &token).await, "replayed", "later");
    world.advance(Duration::from_secs(3600));
    assert_refused(
        &call(&world.app.router, &token).await,
        "expired",
        "too late",
    );
    // Another client's or issuer's, or another token with another name, is another token.
    let other = provider.logout_token(CLIENT).claim("sub", "ann").sign();
    assert_done(&call(&world.app.router, &other).await, "another");
    assert_eq!(sign_ins(auth).await, 0);
}

#[tokio::test]
async fn offline_tokens_survive_and_others_are_revoked_later_r25() {
    for (scopes, expected) in [
        (&["openid", "offline_access"][..], vec![]),
        (
            &["openid"][..],
            vec![Some(TokenKind::Refresh), Some(TokenKind::Access)],
        ),
    ] {
        let setup = Setup::new().provider(|provider| provider.scopes(scopes.iter().copied()));
        let world = World::start(TestProvider::builder(), setup, |auth| auth).await;
        let mut browser = world.sign_in("alice").await;
        let (subject, sid) = who(&world.app, &mut browser).await;
        // A call that waited for a revocation would not be answered before the gate opens.
        let gate = Gate::new();
        let held = Fault::Hold(gate.clone());
        world.provider.faults().always(Endpoint::Revoke, held);
        let token = world.provider.logout_token(CLIENT).claim("sub", subject);
        let token = token.claim("sid", sid).sign();
        assert_done(&call(&world.app.router, &token).await, "not revoked yet");
        assert_eq!(world.revoked(), []);
        gate.open();
        world.finish().await;
        let kinds: Vec<_> = world.revoked().into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, expected, "{scopes:?}");
    }
}

#[tokio::test]
async fn a_provider_that_is_away_is_not_needed_where_its_keys_are_at_hand_r24_r26() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let (_, sid) = who(&world.app, &mut browser).await;
    let token = world.provider.logout_token(CLIENT).claim("sid", sid).sign();
    world.provider.pause().await;
    assert_done(&call(&world.app.router, &token).await, "keys are at hand");
    world.assert_signed_out(&mut browser).await;
}

#[tokio::test]
async fn keys_that_were_rotated_in_between_are_fetched_once_r26() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let (_, sid) = who(&world.app, &mut browser).await;
    let fetches = |world: &World| world.provider.count(|event| *event == Event::KeysFetched);
    world.provider.rotate_keys();
    world.advance(Duration::from_secs(600));
    let before = fetches(&world);
    let token = world.provider.logout_token(CLIENT).claim("sid", sid).sign();
    assert_done(&call(&world.app.router, &token).await, "a new key");
    assert_eq!(fetches(&world), before + 1);
    world.assert_signed_out(&mut browser).await;
}

#[tokio::test]
async fn a_flood_of_unknown_keys_fetches_no_more_and_leaves_nothing_r26() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let (subject, sid) = who(&world.app, &mut browser).await;
    world.advance(Duration::from_secs(600));
    let before = world.app.auth.stats().await.unwrap();
    let fetches = world.provider.count(|event| *event == Event::KeysFetched);
    for n in 0..200 {
        let token = world
            .provider
            .logout_token(CLIENT)
            .claim("sid", sid.as_str());
        let token = token
            .unpublished_key()
            .header("kid", format!("k{n}"))
            .sign();
        assert_refused(
            &call(&world.app.router, &token).await,
            "unknown_key",
            "flood",
        );
    }
    let after = world.provider.count(|event| *event == Event::KeysFetched);
    assert_eq!(after - fetches, 1);
    assert_eq!(world.app.auth.stats().await.unwrap(), before);
    // The provider's own are heard all the while.
    assert_eq!(world.get(&browser, "/whoami").await.body(), subject);
    let token = world.provider.logout_token(CLIENT).claim("sid", sid).sign();
    assert_done(&call(&world.app.router, &token).await, "a good one");
}

/// While strangers use up what may be fetched, the provider is told to come again.
#[tokio::test]
async fn a_good_token_under_a_key_that_cannot_be_fetched_yet_may_come_again_r24_r26() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let (_, sid) = who(&world.app, &mut browser).await;
    world.advance(Duration::from_secs(600));
    let token = |world: &World| {
        world
            .provider
            .logout_token(CLIENT)
            .claim("sid", sid.as_str())
    };
    let forged = token(&world).unpublished_key().header("kid", "k").sign();
    let answer = call(&world.app.router, &forged).await;
    assert_refused(&answer, "unknown_key", "newer keys were read");
    assert!(answer.body.contains("invalid_request"), "{}", answer.body);

    world.provider.rotate_keys();
    let good = token(&world).sign();
    let answer = call(&world.app.router, &good).await;
    assert_refused(&answer, "unknown_key", "too soon");
    let later = "temporarily_unavailable";
    assert!(answer.body.contains(later), "{}", answer.body);
    world.advance(Duration::from_secs(10));
    assert_done(&call(&world.app.router, &good).await, "once more");
    world.assert_signed_out(&mut browser).await;
}

/// The provider's call has no cookie, and a proxy may lead it past the layers.
#[tokio::test]
async fn the_route_needs_neither_layer_nor_session_r10_r18() {
    let provider = TestProvider::start().await;
    provider.add_client(TestClient::new(CLIENT).secret(SECRET));
    let client = Provider::discover(provider.issuer(), CLIENT).client_secret(SECRET);
    let auth = Auth::builder(client.build().unwrap(), "https://app.example.com/mounted")
        .back_channel_path("/logout-calls")
        .build()
        .unwrap();
    let urls = auth.registered_urls();
    let expected = "https://app.example.com/mounted/logout-calls";
    assert_eq!(urls.backchannel_logout_uri, expected);
    let router: Router = Router::new().merge(auth.sign_out_routes());
    arrive(&auth, &provider, "ann", "s").await;
    let token = provider.logout_token(CLIENT).claim("sid", "s").sign();
    let headers = [("content-type", crate::FORM)];
    let answer = send(
        &router,
        "POST",
        "/logout-calls",
        &headers,
        &crate::form(&token),
    )
    .await;
    assert_done(&answer, "without layers");
    assert_eq!(sign_ins(&auth).await, 0);
}

#[tokio::test]
async fn the_routes_path_is_the_crates_own() {
    let client = || {
        let client = Provider::discover("https://login.example.com", CLIENT);
        client.client_secret(SECRET).build().unwrap()
    };
    for path in ["signout", "/sign out", "//x", "/signout"] {
        let refused = Auth::builder(client(), "https://app.example.com")
            .back_channel_path(path)
            .build();
        let what = match refused.unwrap_err() {
            ConfigError::InvalidPath { what, .. } | ConfigError::Duplicate { what, .. } => what,
            other => panic!("{path}: {other}"),
        };
        assert_eq!(what, "back_channel_path", "{path}");
    }
    // A sign-in does not end there.
    let world = World::new().await;
    let mut browser = TestBrowser::new();
    let page = world
        .app
        .get(&mut browser, "/signin?return_to=/signout/backchannel")
        .await;
    assert_eq!(page.status(), 400);
}
