//! Refreshes: what they bring, and how they fail.

use std::sync::Arc;
use std::time::Duration;

use axum_signout::clock::{Clock as _, ManualClock};
use axum_signout::store::{Removal, RevokeRule, TokenStore};
use axum_signout::testing::{Endpoint, Event, Fault, Gate, IdTokenFault, TestProvider, TokenKind};
use axum_signout::{AccessToken, AuthBuilder, Cause, Error, ErrorKind, OperationId, Selector};
use tokio::task::JoinHandle;
use tower_sessions::{MemoryStore, SessionManagerLayer};

use crate::support::app::{App, CLIENT, Setup};
use crate::support::faulty::{Fail, Faults, FaultyStore};
use crate::world::{World, acquire, kind, settle};

/// More than a lease lasts: two time-outs of the provider and slack.
const LEASE: Duration = Duration::from_secs(31);

/// The refresh tokens that were used, in order.
fn used(world: &World) -> Vec<String> {
    let used = |event| match event {
        Event::Refreshed { token, .. } => Some(token.reveal().to_owned()),
        _ => None,
    };
    world
        .provider
        .events()
        .into_iter()
        .filter_map(used)
        .collect()
}

#[tokio::test]
async fn a_rotated_refresh_token_is_the_one_that_is_used_next_r28() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    for _ in 0..3 {
        world.expire_tokens();
        acquire(&world.tokens(&browser).await).await.unwrap();
    }
    let mut used = used(&world);
    used.dedup();
    assert_eq!(used.len(), 3);
    assert_eq!(world.reuses(), 0);
    let page = browser
        .clone()
        .post_form(world.app.url("/signout"), &[])
        .await
        .unwrap();
    assert!(page.status().is_success());
    let left = world.app.seen()[0].refresh_token.clone().unwrap();
    assert!(
        !used.contains(&left),
        "the latest one leaves with the sign-in"
    );
}

/// A request whose token has ended, and the gate before which the store keeps what each refresh brings.
async fn refresh_before_a_gate() -> (World, Faults, Gate, JoinHandle<Result<AccessToken, Error>>) {
    let store = FaultyStore::with_clock(Arc::new(ManualClock::new()));
    let faults = store.faults.clone();
    let world = World::with(move |auth| auth.store(store)).await;
    let browser = world.sign_in("alice").await;
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let gate = Gate::new();
    faults.set(&["replace_if"], Fail::Hold(gate.clone()));
    let waiting = tokio::spawn(async move { acquire(&tokens).await });
    (world, faults, gate, waiting)
}

/// A store that is away holds what a refresh brought for seconds, and a token can live for less.
#[tokio::test]
async fn a_token_that_ended_before_it_was_stored_is_refreshed_once_more_r28_r29() {
    let (world, faults, gate, waiting) = refresh_before_a_gate().await;
    gate.arrived(1).await;
    world.expire_tokens();
    faults.clear();
    gate.open();
    let token = waiting.await.unwrap().unwrap();
    assert!(token.is_valid_at(world.clock.wall(), Duration::from_secs(3000)));
    assert_eq!((world.refreshes(), world.reuses()), (2, 0));
}

/// As long as every one of them ends on its way, nobody is sent to sign in for it.
#[tokio::test]
async fn tokens_that_always_end_before_they_are_stored_are_an_outage_r28_r45() {
    let (world, _faults, gate, waiting) = refresh_before_a_gate().await;
    for refresh in 1..=2 {
        gate.arrived(refresh).await;
        world.expire_tokens();
        gate.let_one_pass();
    }
    assert_eq!(kind(waiting.await.unwrap()), ErrorKind::ProviderUnavailable);
    assert_eq!((world.refreshes(), world.app.seen().len()), (2, 0));
}

#[tokio::test]
async fn without_a_new_refresh_token_the_old_one_stays_r28() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let fault = Fault::NoRefreshToken;
    world.provider.faults().times(2, Endpoint::Refresh, fault);
    for _ in 0..3 {
        world.expire_tokens();
        acquire(&world.tokens(&browser).await).await.unwrap();
    }
    let used = used(&world);
    assert_eq!((&used[0], &used[1]), (&used[1], &used[2]));
}

#[tokio::test]
async fn a_new_id_token_replaces_the_old_one_and_none_leaves_it_r28() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let old = world.tokens(&browser).await.id_token().unwrap();
    let faults = world.provider.faults();
    faults.once(Endpoint::Refresh, Fault::IdToken(IdTokenFault::Missing));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    acquire(&tokens).await.unwrap();
    assert_eq!(tokens.id_token().unwrap().secret(), old.secret());

    let renamed = IdTokenFault::Claim("name".into(), "Alice B.".into());
    faults.once(Endpoint::Refresh, Fault::IdToken(renamed));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    acquire(&tokens).await.unwrap();
    assert_ne!(tokens.id_token().unwrap().secret(), old.secret());
    assert_eq!(tokens.account().name().as_deref(), Some("Alice B."));
    assert_eq!(
        world.tokens(&browser).await.account().name().as_deref(),
        Some("Alice B.")
    );
}

/// The sign-in cannot go on: the refresh token is spent, and what came in exchange is somebody else's. Everything that was
/// obtained goes back.
#[tokio::test]
async fn a_wrong_id_token_ends_the_sign_in_r28() {
    let rows = [
        ("other subject", IdTokenFault::OtherSubject("bob".into())),
        ("wrong audience", IdTokenFault::WrongAudience),
        ("wrong issuer", IdTokenFault::WrongIssuer),
        ("wrong nonce", IdTokenFault::WrongNonce),
        ("bad signature", IdTokenFault::BadSignature),
        ("unsigned", IdTokenFault::Unsigned),
    ];
    for (name, fault) in rows {
        let world = World::new().await;
        let mut browser = world.sign_in("alice").await;
        let fault = Fault::IdToken(fault);
        world.provider.faults().always(Endpoint::Refresh, fault);
        world.expire_tokens();
        let tokens = world.tokens(&browser).await;
        assert_eq!(
            kind(acquire(&tokens).await),
            ErrorKind::NotSignedIn,
            "{name}"
        );
        assert_eq!(tokens.ended().await, Cause::RefreshRejected, "{name}");
        world.assert_signed_out(&mut browser).await;
        world.finish().await;
        assert_eq!(world.app.seen()[0].cause, Cause::RefreshRejected, "{name}");
        let revoked = world.revoked();
        let count = |wanted| {
            revoked
                .iter()
                .filter(|(kind, _)| *kind == Some(wanted))
                .count()
        };
        // Those of before and those that came.
        assert_eq!(
            (count(TokenKind::Refresh), count(TokenKind::Access)),
            (2, 2),
            "{name}"
        );
    }
}

fn closing(logout_iat: i64) -> Removal {
    Removal {
        operation: OperationId::random(),
        cause: Cause::BackChannel,
        revoke: RevokeRule::Nothing,
        mark_for: Duration::from_secs(3600),
        logout_iat: Some(logout_iat),
    }
}

#[tokio::test]
async fn a_sid_that_changes_at_a_refresh_is_the_one_a_logout_finds() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let old = world
        .tokens(&browser)
        .await
        .account()
        .sid()
        .unwrap()
        .to_owned();
    let moved = IdTokenFault::Claim("sid".into(), "moved".into());
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::IdToken(moved));
    world.expire_tokens();
    acquire(&world.tokens(&browser).await).await.unwrap();
    let tokens = world.tokens(&browser).await;
    assert_eq!(tokens.account().sid(), Some("moved"));
    let members = async |sid: &str| {
        let selector = Selector::sid(world.provider.issuer(), CLIENT, sid);
        let members = world.store.close(&selector, &closing(0)).await.unwrap();
        members
            .into_iter()
            .map(|address| address.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(members("moved").await, [tokens.sign_in()]);
    // It is the provider's session no more, though a logout by its name may still be under way.
    assert!(members(&old).await.is_empty() || members(&old).await == [tokens.sign_in()]);
}

#[tokio::test]
async fn a_logout_by_the_new_sid_that_overtakes_the_refresh_ends_the_sign_in() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let gate = Gate::new();
    let faults = world.provider.faults();
    let moved = IdTokenFault::Claim("sid".into(), "moved".into());
    faults.once(Endpoint::Refresh, Fault::IdToken(moved));
    faults.once(Endpoint::Refresh, Fault::HoldAnswer(gate.clone()));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let refresh = tokio::spawn(async move { acquire(&tokens).await });
    gate.arrived(1).await;
    let selector = Selector::sid(world.provider.issuer(), CLIENT, "moved");
    let logout = closing(world.provider.now() + 1);
    let members = world.store.close(&selector, &logout).await.unwrap();
    assert_eq!(members, []);
    gate.open();
    assert_eq!(kind(refresh.await.unwrap()), ErrorKind::NotSignedIn);
    world.assert_signed_out(&mut browser).await;
    world.finish().await;
    assert_eq!(world.app.seen()[0].cause, Cause::BackChannel);
    assert_eq!(world.app.auth.stats().await.unwrap().selector_members, 0);
}

/// R29.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_at_once_make_one_refresh_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    for round in 1..=3 {
        world.expire_tokens();
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(world.tokens(&browser).await);
        }
        let all = held
            .into_iter()
            .map(|tokens| tokio::spawn(async move { acquire(&tokens).await }));
        let all: Vec<_> = all.collect();
        let mut answers = Vec::new();
        for one in all {
            answers.push(one.await.unwrap().unwrap().secret().to_owned());
        }
        answers.dedup();
        assert_eq!(answers.len(), 1);
        assert_eq!(world.refreshes(), round);
    }
    assert_eq!(world.reuses(), 0);
}

#[tokio::test]
async fn a_failed_refresh_is_not_repeated_by_each_of_those_who_waited_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let gate = Gate::new();
    let faults = world.provider.faults();
    faults.always(Endpoint::Refresh, Fault::Hold(gate.clone()));
    faults.always(Endpoint::Refresh, Fault::Status(500));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let tokens = tokens.clone();
            tokio::spawn(async move { acquire(&tokens).await })
        })
        .collect();
    gate.arrived(1).await;
    gate.open();
    for one in waiting {
        assert_eq!(kind(one.await.unwrap()), ErrorKind::ProviderUnavailable);
    }
    assert_eq!(gate.arrivals(), 1);
}

#[tokio::test]
async fn a_refresh_goes_on_when_its_caller_goes_away_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::Hold(gate.clone()));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let caller = tokio::spawn(async move { acquire(&tokens).await });
    gate.arrived(1).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    // The next request waits for it, and gets what it brings.
    let tokens = world.tokens(&browser).await;
    let next = tokio::spawn(async move { acquire(&tokens).await });
    settle().await;
    assert_eq!(gate.arrivals(), 1);
    gate.open();
    assert!(next.await.unwrap().is_ok());
    assert_eq!(world.refreshes(), 1);
}

/// The same over HTTP, with nobody waiting at all when the answer comes.
#[tokio::test]
async fn a_refresh_whose_browser_closed_the_connection_is_found_by_the_next_request_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::Hold(gate.clone()));
    world.expire_tokens();
    let (mut gone, url) = (browser.clone(), world.app.url("/token"));
    let request = tokio::spawn(async move { gone.goto(url).await.map(drop) });
    gate.arrived(1).await;
    request.abort();
    let _ = request.await;
    gate.open();
    world
        .provider
        .wait_for(|event| matches!(event, Event::Refreshed { .. }))
        .await;
    assert_eq!(world.get(&browser, "/token").await.status(), 200);
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test]
async fn refreshes_for_different_scopes_queue_up_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let gate = Gate::new();
    world
        .provider
        .faults()
        .always(Endpoint::Refresh, Fault::Hold(gate.clone()));
    let tokens = world.tokens(&browser).await;
    let waiting: Vec<_> = ["a", "b", "c", "b", "a"]
        .map(|scope| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.acquire(scope).await })
        })
        .into();
    for round in 1..=3 {
        gate.arrived(round).await;
        settle().await;
        assert_eq!(gate.arrivals(), round, "one at a time");
        gate.let_one_pass();
    }
    for (one, scope) in waiting.into_iter().zip(["a", "b", "c", "b", "a"]) {
        let token = one.await.unwrap().unwrap();
        assert_eq!(token.scopes().collect::<Vec<_>>(), [scope]);
    }
    assert_eq!((world.refreshes(), world.reuses()), (3, 0));
}

/// The provider is away for certain: nothing was used up.
#[tokio::test]
async fn an_outage_serves_what_is_still_valid_and_ends_nothing_r30() {
    let rows = [
        // The second failure in a row: from one second to two.
        ("503", Fault::Status(503), 2),
        ("503 with Retry-After", Fault::StatusRetryAfter(503, 7), 7),
        ("429", Fault::StatusRetryAfter(429, 9), 9),
        (
            "temporarily_unavailable",
            Fault::OAuthError("temporarily_unavailable".into()),
            2,
        ),
    ];
    for (name, fault, retry_after) in rows {
        let world = World::new().await;
        let browser = world.sign_in("alice").await;
        let first = acquire(&world.tokens(&browser).await).await.unwrap();
        world.provider.faults().always(Endpoint::Refresh, fault);
        world.advance(Duration::from_secs(3590));
        let page = world.get(&browser, "/token").await;
        assert_eq!(
            (page.status().as_u16(), page.body()),
            (200, first.secret()),
            "{name}"
        );

        world.advance(Duration::from_secs(10));
        let tokens = world.tokens(&browser).await;
        assert_eq!(
            kind(acquire(&tokens).await),
            ErrorKind::ProviderUnavailable,
            "{name}"
        );
        let page = world.get(&browser, "/token").await;
        assert_eq!(page.status(), 503, "{name}");
        let seconds = retry_after.to_string();
        assert_eq!(page.header("retry-after"), Some(&*seconds), "{name}");
        assert_eq!(
            world.get(&browser, "/whoami").await.body(),
            "alice",
            "{name}"
        );

        world.provider.faults().clear();
        world.advance(Duration::from_secs(retry_after));
        let page = world.get(&browser, "/token").await;
        assert_eq!(page.status(), 200, "{name}");
        assert!(world.app.seen().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_provider_that_does_not_listen_ends_nothing_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    world.expire_tokens();
    world.provider.pause().await;
    let tokens = world.tokens(&browser).await;
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::ProviderUnavailable);
    world.provider.resume().await;
    // That nothing was sent is certain, so nothing keeps the next one but the pause.
    world.advance(Duration::from_secs(1));
    assert!(acquire(&tokens).await.is_ok());
    assert_eq!((world.refreshes(), world.reuses()), (1, 0));
}

#[tokio::test]
async fn a_provider_that_is_too_slow_ends_nothing_r30() {
    let gate = Gate::new();
    // It is the sign-in's time-out as well, which a slow machine must not miss.
    let setup = Setup::new().provider(|provider| provider.timeout(Duration::from_secs(2)));
    let world = World::start(TestProvider::builder(), setup, |auth| auth).await;
    let browser = world.sign_in("alice").await;
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::Hold(gate.clone()));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let error = acquire(&tokens).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProviderUnavailable);
    assert_eq!(world.sign_ins().await, 1);
    assert!(world.app.seen().is_empty());
}

/// What the refresh token of a lost answer is worth is not known: as long as the first use may still arrive, it is not sent
/// a second time. Then it is, once.
#[tokio::test]
async fn after_a_lost_answer_the_refresh_token_waits_for_the_lease_to_end_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    world.provider.faults().once(Endpoint::Refresh, Fault::Drop);
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::ProviderUnavailable);
    for _ in 0..3 {
        let error: Error = acquire(&world.tokens(&browser).await).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProviderUnavailable);
        assert!(error.retry_after().unwrap() <= LEASE);
    }
    assert_eq!(world.refreshes(), 0);
    world.advance(LEASE);
    assert!(acquire(&tokens).await.is_ok());
    assert_eq!((world.refreshes(), world.reuses()), (1, 0));
}

#[tokio::test]
async fn a_lost_answer_that_rotated_costs_the_sign_in_and_no_more_r30() {
    for fault in [Fault::LoseAnswer, Fault::DropMidway, Fault::Huge] {
        let world = World::new().await;
        let mut browser = world.sign_in("alice").await;
        world
            .provider
            .faults()
            .once(Endpoint::Refresh, fault.clone());
        world.expire_tokens();
        let tokens = world.tokens(&browser).await;
        assert!(acquire(&tokens).await.is_err(), "{fault:?}");
        let again = kind(acquire(&tokens).await);
        assert_eq!(again, ErrorKind::ProviderUnavailable, "{fault:?}");
        assert_eq!((world.refreshes(), world.reuses()), (1, 0), "{fault:?}");
        assert_eq!(world.sign_ins().await, 1, "{fault:?}");

        world.advance(LEASE);
        assert_eq!(
            kind(acquire(&tokens).await),
            ErrorKind::NotSignedIn,
            "{fault:?}"
        );
        assert_eq!((world.refreshes(), world.reuses()), (1, 1), "{fault:?}");
        world.assert_signed_out(&mut browser).await;
        world.finish().await;
        assert_eq!(world.app.seen()[0].cause, Cause::RefreshRejected);
    }
}

/// The refresh token is spent, and what came in its place is not kept. The sign-in ends by that, but where that is put off, another
/// node still finds it as it was.
#[tokio::test]
async fn a_spent_refresh_token_is_sent_by_nobody_while_its_sign_in_waits_to_be_removed_r28_r29() {
    let store = FaultyStore::with_clock(Arc::new(ManualClock::new()));
    let (other, faults) = (store.elsewhere(), store.faults.clone());
    let sessions = SessionManagerLayer::new(MemoryStore::default());
    let setup = || Setup::new().sessions(sessions.clone());
    let auth = |auth: AuthBuilder| auth.store(store);
    let world = World::start(TestProvider::builder(), setup(), auth).await;
    let of_other = world.clock.clone();
    let other = setup().auth(move |auth| auth.clock(of_other).store(other));
    let browser = world.sign_in("alice").await;
    let other = other.start(&world.provider).await;
    let ask = |app: &App| {
        let (mut browser, url) = (browser.clone(), app.url("/token"));
        async move { browser.goto(url).await.unwrap().status() }
    };
    world.expire_tokens();
    faults.set(&["replace_if", "remove"], Fail::Unavailable);
    assert_eq!(ask(&world.app).await, 401);
    assert_eq!(ask(&other).await, 503);
    assert_eq!((world.refreshes(), world.reuses()), (1, 0));

    faults.clear();
    world.finish().await;
    assert_eq!(ask(&other).await, 401);
    assert_eq!((world.refreshes(), world.reuses()), (1, 0));
    assert_eq!(world.app.seen()[0].cause, Cause::RefreshRejected);
}

/// A token that is still valid is not held back by a lease that an unknown outcome has left.
#[tokio::test]
async fn a_lost_answer_keeps_nobody_waiting_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let first = acquire(&world.tokens(&browser).await).await.unwrap();
    world.provider.faults().once(Endpoint::Refresh, Fault::Drop);
    world.advance(Duration::from_secs(3570));
    for _ in 0..3 {
        let page = world.get(&browser, "/token").await;
        assert_eq!(page.body(), first.secret());
    }
    assert_eq!(world.refreshes(), 0);
}

#[tokio::test]
async fn garbage_ends_nothing_and_is_answered_without_a_word_of_it_r30() {
    for fault in [Fault::Garbage, Fault::Without("access_token".into())] {
        let world = World::new().await;
        let browser = world.sign_in("alice").await;
        world
            .provider
            .faults()
            .once(Endpoint::Refresh, fault.clone());
        world.expire_tokens();
        let page = world.get(&browser, "/token").await;
        assert_eq!(page.status(), 502, "{fault:?}");
        assert_eq!(page.body(), ErrorKind::ProviderRejected.message());
        assert_eq!(world.get(&browser, "/whoami").await.body(), "alice");
        let page = world.get(&browser, "/token").await;
        assert_eq!(page.status(), 503, "its outcome is not known: {fault:?}");
    }
}

#[tokio::test]
async fn a_refused_refresh_token_ends_the_sign_in_everywhere_r30() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    world.app.get(&mut browser, "/cart/book").await;
    world.provider.revoke_grants_of("alice");
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    assert_eq!(kind(acquire(&tokens).await), ErrorKind::NotSignedIn);
    assert_eq!(tokens.ended().await, Cause::RefreshRejected);
    assert_eq!(world.sign_ins().await, 0);
    // Promise 4: the session's data goes too.
    assert_eq!(world.app.get(&mut browser, "/cart/show").await.body(), "");
    world.assert_signed_out(&mut browser).await;
    world.finish().await;
    let seen = world.app.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].cause, &*seen[0].subject),
        (Cause::RefreshRejected, "alice")
    );
}

/// The provider refuses the client or the request, which says nothing about the grant.
#[tokio::test]
async fn another_refusal_ends_nothing_r30() {
    let rows = [
        ("invalid_client", ErrorKind::ProviderRejected, 502),
        ("invalid_scope", ErrorKind::ProviderRejected, 502),
        ("interaction_required", ErrorKind::InteractionRequired, 401),
    ];
    for (code, expected, status) in rows {
        let world = World::new().await;
        let browser = world.sign_in("alice").await;
        let fault = Fault::OAuthError(code.into());
        world.provider.faults().times(2, Endpoint::Refresh, fault);
        world.expire_tokens();
        let tokens = world.tokens(&browser).await;
        assert_eq!(kind(acquire(&tokens).await), expected, "{code}");
        assert_eq!(
            world.get(&browser, "/token").await.status(),
            status,
            "{code}"
        );
        assert!(acquire(&tokens).await.is_ok(), "{code}");
    }
}
