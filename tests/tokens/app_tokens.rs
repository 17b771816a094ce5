//! Tokens of the app itself: one request for each, ahead of time, and never again after an eviction.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_signout::testing::{Endpoint, Event, Fault, Gate, TestClient, TestProvider, TokenKind};
use axum_signout::{
    AccessToken, AppTokens, Auth, ConfigError, Error, ErrorKind, Provider, RevocationPolicy,
};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::Barrier;

use crate::support::app::{CLIENT, SECRET, Setup};
use crate::world::{World, kind, settle};

const SECOND: Duration = Duration::from_secs(1);

/// When every token of an hour is due, wherever it stands among all.
const DUE: Duration = Duration::from_secs(3210);

/// From when on a refused token is replaced.
const OLD_ENOUGH: Duration = Duration::from_secs(60);

const AT: Endpoint = Endpoint::ClientCredentials;

fn issued_by(provider: &TestProvider) -> usize {
    provider.count(|event| {
        matches!(event, Event::TokensIssued { grant_type, subject: None, .. } if grant_type == "client_credentials")
    })
}

fn struck(world: &World) -> usize {
    let struck = |event: &Event| {
        matches!(
            event,
            Event::Faulted {
                endpoint: Endpoint::Token | AT
            }
        )
    };
    world.provider.count(struck)
}

impl World {
    pub(crate) fn app_tokens(&self) -> AppTokens {
        self.app.auth.app_tokens()
    }

    pub(crate) fn issued(&self) -> usize {
        issued_by(&self.provider)
    }

    fn fault(&self, fault: Fault) {
        self.provider.faults().once(AT, fault);
    }

    /// Held before the provider sees it.
    fn hold(&self) -> Gate {
        let gate = Gate::new();
        self.fault(Fault::Hold(gate.clone()));
        gate
    }

    fn revoked_tokens(&self) -> Vec<String> {
        self.revoked().into_iter().map(|(_, token)| token).collect()
    }
}

async fn secret(tokens: &AppTokens, scope: &str) -> String {
    tokens.acquire(scope).await.unwrap().secret().to_owned()
}

/// Another token for the scope `a` in place of a refused one.
async fn fresh(tokens: &AppTokens, refused: &AccessToken) -> Result<Option<AccessToken>, Error> {
    tokens.acquire_fresh("a", refused).await
}

/// Until another token than this one is served.
async fn successor(tokens: &AppTokens, scope: &str, old: &str) -> String {
    let begin = Instant::now();
    loop {
        let token = secret(tokens, scope).await;
        if token != old {
            return token;
        }
        assert!(begin.elapsed() < 20 * SECOND, "the new token never came");
        settle().await;
    }
}

/// The claims of an access token that is a JWT.
pub(crate) fn claims(token: &AccessToken) -> Value {
    let part = token.secret().split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

type Answer = Result<AccessToken, Error>;

#[tokio::test]
async fn a_thousand_who_want_an_app_token_at_once_make_one_request_r29() {
    let world = World::new().await;
    let gate = world.hold();
    let barrier = Arc::new(Barrier::new(1000));
    let asking = (0..1000).map(|n| {
        let (tokens, barrier) = (world.app_tokens(), barrier.clone());
        tokio::spawn(async move {
            barrier.wait().await;
            match n % 3 {
                0 => tokens.acquire("a b").await,
                1 => tokens.acquire(["b", "a"]).await,
                _ => tokens.acquire("b a b").await,
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    gate.arrived(1).await;
    settle().await;
    gate.open();
    let first = secret(&world.app_tokens(), "a b").await;
    assert!(world.provider.is_active(&first));
    for one in asking {
        assert_eq!(one.await.unwrap().unwrap().secret(), first);
    }
    assert_eq!((gate.arrivals(), world.issued()), (1, 1));
}

#[tokio::test]
async fn each_set_of_scopes_and_each_resource_has_a_token_of_its_own_r29() {
    let provider = TestProvider::builder().jwt_access_tokens(true);
    let world = World::start(provider, Setup::new(), |auth| auth).await;
    let tokens = world.app_tokens();
    let both = tokens.acquire(["b", "a"]).await.unwrap();
    assert_eq!(both.scopes().collect::<Vec<_>>(), ["a", "b"]);
    let (api, other) = ("https://api.example.com", "https://other.example.com");
    let all = [
        both,
        tokens.acquire("a").await.unwrap(),
        tokens.acquire(()).await.unwrap(),
        tokens.acquire_for(api, "a").await.unwrap(),
        tokens.acquire_for(other, "a").await.unwrap(),
    ];
    assert_eq!(world.issued(), 5);
    for (at, one) in all.iter().enumerate() {
        for another in &all[..at] {
            assert_ne!(one.secret(), another.secret());
        }
    }
    assert_eq!(all[2].scopes().count(), 0);
    assert_eq!(claims(&all[3])["aud"][0], api, "RFC 8707");
    assert_eq!(claims(&all[4])["aud"][0], other);
    assert_eq!(claims(&all[0])["aud"][0], world.provider.issuer());
    assert_eq!(claims(&all[0])["sub"], CLIENT, "it is no user's");
    assert_eq!(all[3].resource(), Some(api));
    // All of them are there, and no other is asked for.
    let again = tokens.acquire_for(api, ["a", "a"]).await.unwrap();
    assert_eq!(again.secret(), all[3].secret());
    assert_eq!(tokens.acquire(()).await.unwrap().secret(), all[2].secret());
    assert_eq!(world.issued(), 5);
}

#[tokio::test]
async fn the_providers_own_resource_is_for_app_tokens_too() {
    let provider = TestProvider::builder().jwt_access_tokens(true);
    let setup = Setup::new().provider(|provider| provider.resource("https://default.example.com"));
    let world = World::start(provider, setup, |auth| auth).await;
    let token = world.app_tokens().acquire("a").await.unwrap();
    assert_eq!(claims(&token)["aud"][0], "https://default.example.com");
    assert_eq!(token.resource(), None);
}

#[tokio::test]
async fn an_app_token_past_its_share_is_served_while_the_next_one_is_got_r29() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let first = secret(&tokens, "a").await;
    let gate = world.hold();
    world.advance(2879 * SECOND);
    assert_eq!(secret(&tokens, "a").await, first);
    settle().await;
    assert_eq!(gate.arrivals(), 0, "it is too early");
    world.advance(DUE - 2879 * SECOND);
    for _ in 0..50 {
        assert_eq!(secret(&tokens, "a").await, first, "nobody waits");
    }
    gate.arrived(1).await;
    settle().await;
    assert_eq!(gate.arrivals(), 1, "one request");
    gate.open();
    let second = successor(&tokens, "a", &first).await;
    assert!(world.provider.is_active(&second));
    assert!(
        world.provider.is_active(&first),
        "replaced, which revokes nothing"
    );
    assert_eq!(world.issued(), 2);
    // Whose own last minute has come waits.
    world.advance(3545 * SECOND);
    assert_ne!(secret(&tokens, "a").await, second);
    assert_eq!(world.issued(), 3);
}

#[tokio::test]
async fn the_providers_refresh_in_counts_for_app_tokens_and_the_setting_switches_it_off_r29() {
    let world = World::new().await;
    let faults = world.provider.faults();
    faults.always(AT, Fault::Set("refresh_in".into(), 600.into()));
    let tokens = world.app_tokens();
    let first = secret(&tokens, "a").await;
    world.advance(599 * SECOND);
    assert_eq!(secret(&tokens, "a").await, first);
    settle().await;
    assert_eq!(world.issued(), 1);
    world.advance(1471 * SECOND);
    successor(&tokens, "a", &first).await;

    let world = World::with(|auth| auth.refresh_ahead(None)).await;
    let tokens = world.app_tokens();
    let first = secret(&tokens, "a").await;
    world.advance(3539 * SECOND);
    assert_eq!(secret(&tokens, "a").await, first);
    settle().await;
    assert_eq!(world.issued(), 1);
}

#[tokio::test]
async fn in_an_outage_a_valid_app_token_is_served_and_nobody_waits_r30() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let first = secret(&tokens, "a").await;
    let faults = world.provider.faults();
    faults.always(AT, Fault::Status(503));
    world.advance(3545 * SECOND);
    for _ in 0..20 {
        assert_eq!(secret(&tokens, "a").await, first);
    }
    settle().await;
    assert_eq!(struck(&world), 1, "a pause follows");
    // Now the provider hangs: the next attempt is made behind those who have a token.
    let gate = Gate::new();
    faults.clear();
    faults.always(AT, Fault::Hold(gate.clone()));
    world.advance(SECOND);
    for _ in 0..20 {
        assert_eq!(secret(&tokens, "a").await, first);
    }
    gate.arrived(1).await;
    // And whoever has none any more waits for it.
    world.advance(60 * SECOND);
    let of_task = tokens.clone();
    let waiting = tokio::spawn(async move { of_task.acquire("a").await });
    settle().await;
    assert!(!waiting.is_finished());
    gate.open();
    assert_ne!(waiting.await.unwrap().unwrap().secret(), first);
    assert_eq!((gate.arrivals(), world.issued()), (1, 2));
}

#[tokio::test]
async fn a_long_outage_costs_the_provider_about_a_request_for_an_app_token_a_minute_r30() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    world.provider.faults().always(AT, Fault::Status(503));
    for _ in 0..30 * 60 {
        let error = tokens.acquire("a").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProviderUnavailable);
        let left = error.retry_after().unwrap();
        assert!(Duration::ZERO < left && left <= 60 * SECOND, "{left:?}");
        world.advance(SECOND);
    }
    let struck = struck(&world);
    assert!((30..=70).contains(&struck), "{struck}");
    world.provider.faults().clear();
    world.advance(60 * SECOND);
    assert!(tokens.acquire("a").await.is_ok());
}

/// What waiters of one request are told, and that neither they nor those who come in the pause repeat it.
#[tokio::test]
async fn a_failed_request_for_an_app_token_is_not_repeated_by_those_who_waited_r29_r30() {
    use ErrorKind::{ProviderRejected, ProviderUnavailable};
    let oauth = |code: &str| Fault::OAuthError(code.to_owned());
    let set = |name: &str, value: Value| Fault::Set(name.to_owned(), value);
    let rows = [
        (
            "503",
            Fault::StatusRetryAfter(503, 20),
            ProviderUnavailable,
            ProviderUnavailable,
            20,
        ),
        (
            "429",
            Fault::StatusRetryAfter(429, 9),
            ProviderUnavailable,
            ProviderUnavailable,
            9,
        ),
        (
            "500",
            Fault::Status(500),
            ProviderUnavailable,
            ProviderUnavailable,
            1,
        ),
        (
            "closed",
            Fault::Drop,
            ProviderUnavailable,
            ProviderUnavailable,
            1,
        ),
        (
            "closed midway",
            Fault::DropMidway,
            ProviderUnavailable,
            ProviderUnavailable,
            1,
        ),
        (
            "garbage",
            Fault::Garbage,
            ProviderRejected,
            ProviderUnavailable,
            1,
        ),
        (
            "a megabyte",
            Fault::Huge,
            ProviderRejected,
            ProviderUnavailable,
            1,
        ),
        (
            "no token",
            Fault::Without("access_token".into()),
            ProviderRejected,
            ProviderUnavailable,
            1,
        ),
        (
            "invalid_client",
            oauth("invalid_client"),
            ProviderRejected,
            ProviderRejected,
            1,
        ),
        (
            "invalid_grant",
            oauth("invalid_grant"),
            ProviderRejected,
            ProviderRejected,
            1,
        ),
        // No user could help, so none is sent to the provider.
        (
            "a user wanted",
            oauth("interaction_required"),
            ProviderRejected,
            ProviderRejected,
            1,
        ),
        (
            "granted less",
            set("scope", "b".into()),
            ProviderRejected,
            ProviderRejected,
            1,
        ),
        (
            "ended",
            set("expires_in", 0.into()),
            ProviderRejected,
            ProviderRejected,
            1,
        ),
    ];
    for (name, fault, first, later, pause) in rows {
        let world = World::new().await;
        let gate = world.hold();
        world.fault(fault);
        let tokens = world.app_tokens();
        let waiting: Vec<_> = (0..20)
            .map(|_| {
                let tokens = tokens.clone();
                tokio::spawn(async move { tokens.acquire("a").await })
            })
            .collect();
        gate.arrived(1).await;
        settle().await;
        gate.open();
        for one in waiting {
            let answer: Answer = one.await.unwrap();
            assert_eq!(kind(answer), first, "{name}");
        }
        let error = tokens.acquire("a").await.unwrap_err();
        assert_eq!(error.kind(), later, "{name}");
        let left = error.retry_after().unwrap();
        let pause = Duration::from_secs(pause);
        assert!(pause / 2 <= left && left <= pause, "{name}: {left:?}");
        assert_eq!(gate.arrivals(), 1, "{name}");
        world.advance(pause);
        assert!(tokens.acquire("a").await.is_ok(), "{name}");
        world.finish().await;
        // What came and is of no use is not left valid.
        let useless = ["granted less", "ended"].contains(&name);
        assert_eq!(world.revoked().len(), usize::from(useless), "{name}");
    }
}

#[tokio::test]
async fn an_outage_that_sign_ins_found_out_puts_app_tokens_off_too_r30() {
    let world = World::new().await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(world.sign_in("alice").await);
    }
    let valid = secret(&world.app_tokens(), "valid").await;
    let refresh = Endpoint::Refresh;
    world.provider.faults().always(refresh, Fault::Status(503));
    world.advance(3545 * SECOND);
    for browser in &all {
        assert_eq!(world.get(browser, "/token").await.status(), 200);
    }
    assert_eq!(
        kind(world.app_tokens().acquire("new").await),
        ErrorKind::ProviderUnavailable
    );
    assert_eq!(secret(&world.app_tokens(), "valid").await, valid);
    settle().await;
    assert_eq!(world.issued(), 1);
    // The probe may be for an app token, and its answer lets all others pass.
    world.provider.faults().clear();
    world.advance(SECOND);
    assert!(world.app_tokens().acquire("new").await.is_ok());
    assert!(world.app_tokens().acquire("newer").await.is_ok());
}

#[tokio::test]
async fn a_request_for_an_app_token_goes_on_when_its_caller_goes_away_r29() {
    let world = World::new().await;
    let gate = world.hold();
    let tokens = world.app_tokens();
    let waiting = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.acquire("a").await }
    });
    gate.arrived(1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    gate.open();
    secret(&tokens, "a").await;
    assert_eq!((gate.arrivals(), world.issued()), (1, 1));
}

#[tokio::test]
async fn a_shutdown_waits_for_a_request_for_an_app_token_r29() {
    let world = World::new().await;
    let gate = world.hold();
    let tokens = world.app_tokens();
    let waiting = tokio::spawn({
        let tokens = tokens.clone();
        async move { tokens.acquire("a").await }
    });
    gate.arrived(1).await;
    let auth = world.app.auth.clone();
    let shutdown = tokio::spawn(async move { auth.shutdown().await });
    settle().await;
    assert!(!shutdown.is_finished());
    gate.open();
    assert!(shutdown.await.unwrap().finished);
    let first = waiting.await.unwrap().unwrap();
    // And none begins ahead of time any more.
    world.advance(DUE);
    assert_eq!(secret(&tokens, "a").await, first.secret());
    settle().await;
    assert_eq!(world.issued(), 1);
}

#[tokio::test]
async fn an_evicted_app_token_is_gone_for_good_and_revoked_r32() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let api = "https://api.example.com";
    let a = secret(&tokens, "a").await;
    let b = secret(&tokens, "b").await;
    let of_api = tokens.acquire_for(api, "a").await.unwrap();
    assert_eq!(tokens.evict("a").await, 1);
    assert_eq!(tokens.evict("a").await, 0);
    let next = secret(&tokens, "a").await;
    assert_ne!(next, a);
    assert_eq!(secret(&tokens, "b").await, b);
    assert_eq!(tokens.evict_for(api, "a").await, 1);
    world.finish().await;
    assert_eq!(world.revoked_tokens(), [a.as_str(), of_api.secret()]);
    assert!(!world.provider.is_active(&a));
    assert!(world.provider.is_active(&next) && world.provider.is_active(&b));

    assert_eq!(tokens.evict_all().await, 2);
    world.finish().await;
    for secret in [&next, &b] {
        assert!(!world.provider.is_active(secret));
    }
    assert_eq!((world.revoked().len(), world.issued()), (4, 4));
}

/// Promise 1: what was asked for before the eviction is served to nobody after it.
#[tokio::test]
async fn what_a_request_under_way_brings_after_an_eviction_is_nobodys_and_revoked_r31_r32() {
    for ahead in [false, true] {
        let world = World::new().await;
        let tokens = world.app_tokens();
        if ahead {
            secret(&tokens, "a").await;
            world.advance(DUE);
        }
        let gate = Gate::new();
        world.fault(Fault::HoldAnswer(gate.clone()));
        let waiting = tokio::spawn({
            let tokens = tokens.clone();
            async move { tokens.acquire("a").await }
        });
        gate.arrived(1).await;
        settle().await;
        assert_eq!(waiting.is_finished(), ahead);
        let held: Vec<String> = active(&world);
        assert_eq!(held.len(), 1 + usize::from(ahead));
        assert_eq!(tokens.evict("a").await, usize::from(ahead));

        // Whoever comes now does not wait for it.
        let new = secret(&tokens, "a").await;
        assert!(!held.contains(&new));
        gate.open();
        let of_waiter = waiting.await.unwrap().unwrap();
        if !ahead {
            assert_eq!(of_waiter.secret(), new, "who waited asks anew");
        }
        world.finish().await;
        assert_eq!(secret(&tokens, "a").await, new, "nothing is written back");
        assert_eq!(active(&world), [new]);
        let mut revoked = world.revoked_tokens();
        revoked.sort_unstable();
        let mut held = held;
        held.sort_unstable();
        assert_eq!(revoked, held);
        assert_eq!(world.issued(), 2 + usize::from(ahead));
    }
}

/// Its request is over, but it has not had its turn to look.
#[tokio::test]
async fn who_has_waited_across_an_eviction_gets_no_app_token_of_before_r31() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let gate = world.hold();
    let mut waiting = pin!(tokens.acquire("a"));
    assert!(waiting.as_mut().now_or_never().is_none());
    gate.arrived(1).await;
    gate.open();
    let first = secret(&tokens, "a").await;
    assert_eq!(tokens.evict("a").await, 1);
    let token = waiting.await.unwrap();
    assert_ne!(token.secret(), first);
    assert_eq!(secret(&tokens, "a").await, token.secret());
    assert_eq!(world.issued(), 2);
}

/// Access tokens that are good at the provider.
fn active(world: &World) -> Vec<String> {
    let secrets = world.provider.secrets().into_iter();
    secrets
        .filter(|secret| world.provider.is_active(secret))
        .collect()
}

#[tokio::test]
async fn many_evictions_and_acquires_at_once_leave_one_app_token_alive_r31_r32() {
    let world = World::new().await;
    let barrier = Arc::new(Barrier::new(60));
    let all = (0..60).map(|n| {
        let (tokens, barrier) = (world.app_tokens(), barrier.clone());
        tokio::spawn(async move {
            barrier.wait().await;
            for _ in 0..5 {
                match n % 6 {
                    0 => _ = tokens.evict("a").await,
                    1 => _ = tokens.evict_all().await,
                    _ => {
                        // Evicted so often that it gives up, or a token.
                        if let Err(error) = tokens.acquire("a").await {
                            assert_eq!(error.kind(), ErrorKind::ProviderUnavailable);
                        }
                    }
                }
                tokio::task::yield_now().await;
            }
        })
    });
    for one in join_all(all).await {
        one.unwrap();
    }
    let last = secret(&world.app_tokens(), "a").await;
    world.finish().await;
    assert_eq!(active(&world), [last]);
    assert_eq!(world.revoked().len(), world.issued() - 1);
}

#[tokio::test]
async fn app_tokens_are_revoked_as_configured_and_when_the_provider_is_back_r25_r32() {
    let world = World::with(|auth| auth.revocation(RevocationPolicy::Never)).await;
    let a = secret(&world.app_tokens(), "a").await;
    assert_eq!(world.app_tokens().evict("a").await, 1);
    world.finish().await;
    assert!(world.provider.is_active(&a), "as configured");
    assert_ne!(secret(&world.app_tokens(), "a").await, a);

    let world = World::new().await;
    let a = secret(&world.app_tokens(), "a").await;
    world.provider.pause().await;
    assert_eq!(world.app_tokens().evict("a").await, 1);
    assert_eq!(world.app.auth.shutdown().await.outbox, Some(1));
    let gone = world.app_tokens().acquire("a").await;
    assert_eq!(kind(gone), ErrorKind::ProviderUnavailable);
    world.provider.resume().await;
    world.advance(3600 * SECOND);
    world.finish().await;
    assert_eq!(world.revoked_tokens(), [a]);
}

/// Section 4.4.3 of RFC 6749 wants none. It could get others.
#[tokio::test]
async fn a_refresh_token_that_comes_with_an_app_token_is_revoked_with_it_r32() {
    let world = World::new().await;
    world.fault(Fault::Set("refresh_token".into(), "uninvited".into()));
    let a = secret(&world.app_tokens(), "a").await;
    world.app_tokens().evict("a").await;
    world.finish().await;
    assert_eq!(
        world.revoked(),
        [(None, "uninvited".to_owned()), (Some(TokenKind::Access), a)]
    );
}

#[tokio::test]
async fn an_app_token_that_an_api_refused_is_replaced_once_for_all_r29() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let api = "https://api.example.com";
    let refused = tokens.acquire_for(api, "a").await.unwrap();
    world.advance(OLD_ENOUGH);
    let gate = world.hold();
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let (tokens, refused) = (tokens.clone(), refused.clone());
            tokio::spawn(async move { fresh(&tokens, &refused).await })
        })
        .collect();
    gate.arrived(1).await;
    settle().await;
    // It may do elsewhere.
    let meanwhile = tokens.acquire_for(api, "a").await.unwrap();
    assert_eq!(meanwhile.secret(), refused.secret());
    gate.open();
    let next = fresh(&tokens, &refused).await.unwrap().unwrap();
    assert_ne!(next.secret(), refused.secret());
    for one in waiting {
        let other = one.await.unwrap().unwrap().unwrap();
        assert_eq!(other.secret(), next.secret());
    }
    let now = tokens.acquire_for(api, "a").await.unwrap();
    assert_eq!(now.secret(), next.secret());
    assert_eq!((gate.arrivals(), world.issued()), (1, 2));
    // Who comes late with the old one gets the one that is there.
    let late = fresh(&tokens, &refused).await.unwrap().unwrap();
    assert_eq!(late.secret(), next.secret());
    assert_eq!(world.issued(), 2);
}

#[tokio::test]
async fn an_api_that_refuses_every_app_token_makes_no_flood_of_requests_r30() {
    for life in ["known", "unknown"] {
        let world = World::new().await;
        if life == "unknown" {
            let fault = Fault::Without("expires_in".into());
            world.provider.faults().always(AT, fault);
        }
        let tokens = world.app_tokens();
        let first = tokens.acquire("a").await.unwrap();
        let no_other = async |refused: &AccessToken| fresh(&tokens, refused).await.unwrap();
        world.advance(59 * SECOND);
        assert!(no_other(&first).await.is_none(), "{life}");
        world.advance(SECOND);
        let second = fresh(&tokens, &first).await.unwrap().unwrap();
        assert_ne!(second.secret(), first.secret(), "{life}");
        for _ in 0..10 {
            assert!(no_other(&second).await.is_none(), "{life}");
        }
        assert_eq!(secret(&tokens, "a").await, second.secret(), "{life}");
        assert_eq!(world.issued(), 2, "{life}");
        world.advance(OLD_ENOUGH);
        let third = fresh(&tokens, &second).await.unwrap().unwrap();
        assert_ne!(third.secret(), second.secret(), "{life}");

        // Nor does a provider that answers with the same token, and it is not handed out as another one.
        world.advance(OLD_ENOUGH);
        world.fault(Fault::Set("access_token".into(), third.secret().into()));
        for _ in 0..3 {
            assert!(no_other(&third).await.is_none(), "{life}");
        }
        assert_eq!(world.issued(), 4, "{life}");
    }
}

#[tokio::test]
async fn a_refused_app_token_is_not_served_to_who_refused_it_while_the_provider_is_away_r30() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let refused = tokens.acquire("a").await.unwrap();
    world.advance(OLD_ENOUGH);
    world.fault(Fault::Status(503));
    for _ in 0..3 {
        let answer = fresh(&tokens, &refused).await;
        assert_eq!(kind(answer), ErrorKind::ProviderUnavailable);
    }
    assert_eq!(struck(&world), 1);
    assert_eq!(secret(&tokens, "a").await, refused.secret());
    world.advance(SECOND);
    let next = fresh(&tokens, &refused).await.unwrap().unwrap();
    assert_ne!(next.secret(), refused.secret());
}

#[tokio::test]
async fn the_least_recently_used_app_token_leaves_where_there_are_too_many_r29() {
    let world = World::with(|auth| auth.max_app_tokens(3)).await;
    let tokens = world.app_tokens();
    let mut first = Vec::new();
    for scope in ["a", "b", "c"] {
        first.push(secret(&tokens, scope).await);
    }
    secret(&tokens, "a").await;
    secret(&tokens, "d").await;
    assert_eq!(secret(&tokens, "a").await, first[0]);
    assert_eq!(secret(&tokens, "c").await, first[2]);
    assert_eq!(world.issued(), 4);
    assert_ne!(secret(&tokens, "b").await, first[1]);
    world.finish().await;
    assert!(
        world.provider.is_active(&first[1]),
        "nobody wanted it gone, and somebody may be using it"
    );

    // Those that are being asked for keep their place, and who has none is told.
    let gate = Gate::new();
    world
        .provider
        .faults()
        .always(AT, Fault::Hold(gate.clone()));
    let waiting = ["x", "y", "z"].map(|scope| {
        let tokens = tokens.clone();
        tokio::spawn(async move { tokens.acquire(scope).await })
    });
    gate.arrived(3).await;
    assert_eq!(kind(tokens.acquire("a").await), ErrorKind::Capacity);
    gate.open();
    for one in waiting {
        one.await.unwrap().unwrap();
    }
    assert!(tokens.acquire("a").await.is_ok());
}

/// Refusals take nobody's place.
#[tokio::test]
async fn who_is_put_off_pushes_no_app_token_out_r30() {
    let world = World::with(|auth| auth.max_app_tokens(1)).await;
    let tokens = world.app_tokens();
    world.fault(Fault::StatusRetryAfter(503, 60));
    assert!(tokens.acquire("b").await.is_err());
    let a = secret(&tokens, "a").await;
    assert_eq!(
        kind(tokens.acquire("b").await),
        ErrorKind::ProviderUnavailable
    );
    assert_eq!(secret(&tokens, "a").await, a);
    assert_eq!(world.issued(), 1);
}

#[tokio::test]
async fn app_tokens_of_several_providers_do_not_mix_r29() {
    let second = TestProvider::start().await;
    second.add_client(TestClient::new("other-app").secret("other-secret-77"));
    let provider = Provider::discover(second.issuer(), "other-app")
        .client_secret("other-secret-77")
        .name("second")
        .build()
        .unwrap();
    let world = World::with(move |auth| auth.provider(provider)).await;
    let one = world.app_tokens();
    let two = one.of_provider("second").unwrap();
    assert_eq!(one.provider().issuer(), world.provider.issuer());
    assert_eq!(two.provider().issuer(), second.issuer());
    let (of_one, of_two) = (secret(&one, "a").await, secret(&two, "a").await);
    assert!(world.provider.is_active(&of_one) && !world.provider.is_active(&of_two));
    assert!(second.is_active(&of_two));
    assert_eq!((world.issued(), issued_by(&second)), (1, 1));

    assert_eq!(one.evict_all().await, 1);
    assert_eq!(secret(&two, "a").await, of_two);
    world.finish().await;
    assert!(second.is_active(&of_two) && !world.provider.is_active(&of_one));
    // The trouble of one is not the other's.
    world.provider.pause().await;
    assert!(one.acquire("a").await.is_err());
    assert!(two.acquire("b").await.is_ok());

    let unknown = one.of_provider("third").unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Misconfigured);
    let name = one.provider().name().to_owned();
    assert_eq!(
        two.of_provider(&name).unwrap().provider().issuer(),
        world.provider.issuer()
    );
}

#[tokio::test]
async fn a_public_client_has_no_app_tokens_and_nothing_is_sent() {
    let op = TestProvider::start().await;
    let provider = Provider::discover(op.issuer(), CLIENT).build().unwrap();
    let auth = Auth::builder(provider, "https://app.example.com");
    let auth = auth.build().unwrap();
    let error = auth.app_tokens().acquire("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.to_string().contains("public client"), "{error}");
    assert_eq!(auth.app_tokens().evict_all().await, 0);
    assert_eq!(op.events(), []);
}

#[tokio::test]
async fn a_wrong_secret_gets_no_app_token() {
    let setup = Setup::new().provider(|provider| provider.client_secret("not this one"));
    let world = World::start(TestProvider::builder(), setup, |auth| auth).await;
    let error = world.app_tokens().acquire("a").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProviderRejected);
    assert_eq!(world.issued(), 0);
}

#[tokio::test]
async fn nothing_prints_an_app_token_a11() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let token = tokens.acquire("a").await.unwrap();
    let text = format!("{tokens:?} {token:?} {:?}", world.app.auth);
    assert!(text.contains("AppTokens"), "{text}");
    assert!(
        !text.contains(token.secret()) && !text.contains(SECRET),
        "{text}"
    );
}

#[tokio::test]
async fn how_many_are_kept_has_its_range() {
    for max in [0, 1_000_001] {
        let provider = Provider::discover("https://login.example.com", "app");
        let builder = Auth::builder(provider.build().unwrap(), "https://app.example.com");
        let error = builder.max_app_tokens(max).build().unwrap_err();
        let what = "max_app_tokens";
        assert!(
            matches!(error, ConfigError::OutOfRange { what: named, .. } if named == what),
            "{max}"
        );
    }
}
