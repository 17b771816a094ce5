//! A provider in trouble: pauses between attempts, what is served meanwhile, and how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_signout::store::{Entry, Lookup, Replaced, TokenStore};
use axum_signout::testing::{Endpoint, Event, Fault, Gate, TestProvider};
use axum_signout::{AccessToken, Cause, ErrorKind, OperationId, Selector};

use crate::support::app::{CLIENT, Setup};
use crate::world::{World, acquire, kind, settle};

/// Far longer than any test should wait for a provider, and so long that nothing is decided by it.
const SLOW: Duration = Duration::from_secs(100);

const SECOND: Duration = Duration::from_secs(1);

/// Requests that a fault has struck.
fn struck(world: &World) -> usize {
    let struck =
        |event: &Event| matches!(event, Event::Faulted { endpoint } if is_token(*endpoint));
    world.provider.count(struck)
}

fn is_token(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::Token | Endpoint::Refresh)
}

async fn slow_world() -> World {
    let setup = Setup::new().provider(|provider| provider.timeout(SLOW));
    World::start(TestProvider::builder(), setup, |auth| auth).await
}

#[tokio::test]
async fn a_long_outage_costs_the_provider_about_a_request_a_minute_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    world
        .provider
        .faults()
        .always(Endpoint::Refresh, Fault::Status(503));
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    for _ in 0..45 * 60 {
        let error = acquire(&tokens).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProviderUnavailable);
        let left = error.retry_after().unwrap();
        assert!(Duration::ZERO < left && left <= 60 * SECOND, "{left:?}");
        world.advance(SECOND);
    }
    // One for each pause of half a minute to a minute, and the first ones.
    let struck = struck(&world);
    assert!((45..=100).contains(&struck), "{struck}");

    world.provider.faults().clear();
    world.advance(60 * SECOND);
    assert!(acquire(&tokens).await.is_ok());
    assert_eq!(world.sign_ins().await, 1);
    assert!(world.app.seen().is_empty());
}

#[tokio::test]
async fn what_is_left_of_the_pause_is_the_retry_after_of_all_who_come_r30() {
    for status in [503, 429] {
        let world = World::new().await;
        let browser = world.sign_in("alice").await;
        let fault = Fault::StatusRetryAfter(status, 20);
        world.provider.faults().once(Endpoint::Refresh, fault);
        world.expire_tokens();
        for (after, left) in [(0, "20"), (1, "19"), (18, "1")] {
            world.advance(after * SECOND);
            let page = world.get(&browser, "/token").await;
            assert_eq!(page.status(), 503);
            assert_eq!(page.header("retry-after"), Some(left), "{status}");
            assert_eq!(page.body(), ErrorKind::ProviderUnavailable.message());
        }
        assert_eq!((struck(&world), world.refreshes()), (1, 0), "{status}");
        world.advance(SECOND);
        assert_eq!(world.get(&browser, "/token").await.status(), 200);
        assert_eq!(world.refreshes(), 1, "{status}");
    }
}

/// In the last minute of a token's life, too: only the attempt that finds out waits for the provider.
#[tokio::test]
async fn a_valid_token_is_served_at_once_while_the_provider_hangs_r30() {
    let world = slow_world().await;
    let browser = world.sign_in("alice").await;
    let first = acquire(&world.tokens(&browser).await).await.unwrap();
    let faults = world.provider.faults();
    faults.once(Endpoint::Refresh, Fault::Status(503));
    let gate = Gate::new();
    faults.always(Endpoint::Refresh, Fault::Hold(gate.clone()));
    // The one fault that is used up does not hold the request: an answer is given at once.
    world.advance(3545 * SECOND);
    let tokens = world.tokens(&browser).await;
    assert_eq!(acquire(&tokens).await.unwrap().secret(), first.secret());
    assert_eq!(gate.arrivals(), 0);

    world.advance(SECOND);
    let begin = Instant::now();
    for _ in 0..50 {
        assert_eq!(acquire(&tokens).await.unwrap().secret(), first.secret());
    }
    gate.arrived(1).await;
    for _ in 0..50 {
        let page = world.get(&browser, "/token").await;
        assert_eq!(page.body(), first.secret());
    }
    assert!(begin.elapsed() < SLOW / 2, "nobody waited for the provider");
    settle().await;
    assert_eq!(gate.arrivals(), 1, "one attempt is under way, and no more");

    // Who has no token any more waits for it, and gets what it brings.
    world.advance(60 * SECOND);
    let waiting = tokio::spawn(async move { acquire(&tokens).await });
    settle().await;
    assert!(!waiting.is_finished());
    gate.open();
    assert_ne!(waiting.await.unwrap().unwrap().secret(), first.secret());
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test]
async fn an_outage_for_many_is_found_out_by_a_few_r30() {
    let world = World::new().await;
    let mut all = Vec::new();
    for _ in 0..12 {
        all.push(world.sign_in("alice").await);
    }
    world
        .provider
        .faults()
        .always(Endpoint::Refresh, Fault::Status(503));
    world.expire_tokens();
    for browser in &all {
        assert_eq!(world.get(browser, "/token").await.status(), 503);
    }
    assert_eq!(struck(&world), 3, "then the others are put off");
    world.advance(SECOND);
    for browser in &all {
        assert_eq!(world.get(browser, "/token").await.status(), 503);
    }
    assert_eq!(struck(&world), 4, "one is the probe");

    // Well again: the next probe's answer lets all others pass.
    world.provider.faults().clear();
    world.advance(2 * SECOND);
    for browser in &all[3..] {
        assert_eq!(world.get(browser, "/token").await.status(), 200);
    }
    assert_eq!(world.refreshes(), 9);
    assert_eq!(world.sign_ins().await, 12);
    assert!(world.app.seen().is_empty());
}

/// Each would be the next one's turn.
#[tokio::test]
async fn who_waited_for_other_scopes_does_not_repeat_what_failed_r29_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let gate = Gate::new();
    let faults = world.provider.faults();
    faults.always(Endpoint::Refresh, Fault::Hold(gate.clone()));
    faults.always(Endpoint::Refresh, Fault::Status(503));
    let tokens = world.tokens(&browser).await;
    let waiting = ["a", "b", "c", "d"].map(|scope| {
        let tokens = tokens.clone();
        tokio::spawn(async move { tokens.acquire(scope).await })
    });
    gate.arrived(1).await;
    settle().await;
    gate.open();
    for one in waiting {
        let error = one.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProviderUnavailable);
        assert!(error.retry_after().unwrap() <= SECOND);
    }
    assert_eq!(gate.arrivals(), 1);
}

/// The user's own trouble with the provider is nobody else's.
#[tokio::test]
async fn a_refusal_puts_nobody_off_r30() {
    let world = World::new().await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.push(world.sign_in("alice").await);
    }
    world.expire_tokens();
    let faults = world.provider.faults();
    let refusals = ["interaction_required", "invalid_scope", "invalid_grant"];
    for (browser, code) in all.iter().zip(refusals) {
        faults.once(Endpoint::Refresh, Fault::OAuthError(code.into()));
        assert_ne!(world.get(browser, "/token").await.status(), 200);
    }
    for browser in &all[3..] {
        assert_eq!(world.get(browser, "/token").await.status(), 200);
    }
    assert_eq!(world.get(&all[0], "/token").await.status(), 200);
    assert_eq!(world.refreshes(), 3);
}

/// A handler that has been running since before the last refresh finds in an outage what that brought.
#[tokio::test]
async fn a_long_handler_finds_in_an_outage_what_others_got_before_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let long = world.tokens(&browser).await;
    world.expire_tokens();
    let second = acquire(&world.tokens(&browser).await).await.unwrap();
    let fault = Fault::StatusRetryAfter(503, 60);
    world.provider.faults().always(Endpoint::Refresh, fault);
    world.advance(3590 * SECOND);
    let page = world.get(&browser, "/token").await;
    assert_eq!(page.body(), second.secret());
    assert_eq!(acquire(&long).await.unwrap().secret(), second.secret());
    assert_eq!(struck(&world), 1);
}

/// An earlier attempt whose outcome is not known: the pause is what is left of its lease, not a second.
#[tokio::test]
async fn a_lost_answer_is_a_pause_as_long_as_its_lease_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    world.provider.faults().once(Endpoint::Refresh, Fault::Drop);
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let error = acquire(&tokens).await.unwrap_err();
    let left = error.retry_after().unwrap();
    assert!(25 * SECOND < left && left <= 30 * SECOND, "{left:?}");
    world.advance(20 * SECOND);
    let again = acquire(&tokens).await.unwrap_err();
    let rest = again.retry_after().unwrap();
    assert!(5 * SECOND < rest && rest <= 10 * SECOND, "{rest:?}");
    world.advance(10 * SECOND);
    assert!(acquire(&tokens).await.is_ok());
    assert_eq!((world.refreshes(), world.reuses()), (1, 0));
}

/// The refresh token was refused because another node had used it, whose answer is in the store by then.
#[tokio::test]
async fn a_refusal_of_what_another_node_has_replaced_is_read_again_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let first = acquire(&world.tokens(&browser).await).await.unwrap();
    let gate = Gate::new();
    let faults = world.provider.faults();
    faults.once(Endpoint::Refresh, Fault::Hold(gate.clone()));
    faults.once(Endpoint::Refresh, Fault::invalid_grant());
    world.expire_tokens();
    let tokens = world.tokens(&browser).await;
    let account = tokens.account();
    let waiting = tokio::spawn(async move { acquire(&tokens).await });
    gate.arrived(1).await;

    let sid = account.sid().unwrap();
    let selector = Selector::sid(world.provider.issuer(), CLIENT, sid);
    let address = world.store.members(&selector).await.unwrap()[0];
    let Lookup::Live(stored) = world.store.get(&address).await.unwrap() else {
        panic!("the sign-in is there");
    };
    let token = AccessToken::bearer("of another node").with_scopes(first.scopes());
    let token = token.expires_at(axum_signout::clock::Timestamp::from_secs(
        world.provider.now() + 3600,
    ));
    let next = Arc::new(Entry {
        tokens: stored.entry.tokens.clone().with_access_token(token),
        ..Entry::clone(&stored.entry)
    });
    let written = world
        .store
        .replace_if(&address, stored.generation, next, OperationId::random())
        .await;
    assert!(matches!(written, Ok(Replaced::Done(_))), "{written:?}");

    gate.open();
    let token = waiting.await.unwrap().unwrap();
    assert_eq!(token.secret(), "of another node");
    assert_eq!(
        world.get(&browser, "/token").await.body(),
        "of another node"
    );
    assert_eq!((world.sign_ins().await, world.app.seen().len()), (1, 0));
    // Then the provider takes the one that is there.
    world.expire_tokens();
    assert_eq!(world.get(&browser, "/token").await.status(), 200);
    assert_eq!(world.refreshes(), 1);
}

/// When the refresh that meets the fault is made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// Behind the request, long before the token ends.
    Ahead,
    /// In the last minute of the token.
    InTheMargin,
    Expired,
}

/// What becomes of the sign-in.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// It goes on.
    Stays,
    /// It ends with the next refresh: the provider rotated the refresh token in the answer that was lost.
    EndsWithTheNext,
    EndsAtOnce,
}

/// What `acquire` answers, with a token that is still valid and without; whether the provider is asked again at once; what
/// becomes of the sign-in when the pause is over and the provider is well; and that no token is left alive after its end.
#[tokio::test]
async fn whatever_the_provider_answers_a_valid_token_is_served_and_the_sign_in_stays_r30() {
    use ErrorKind::{NotSignedIn, ProviderRejected, ProviderUnavailable};
    use Then::{EndsAtOnce, EndsWithTheNext, Stays};
    type Row = (&'static str, Fault, ErrorKind, u64, Then);
    let rows: [Row; 10] = [
        // Name, fault, what is answered without a token, the longest pause in seconds, and what follows.
        (
            "after 30 s",
            Fault::Delay(30 * SECOND),
            ProviderUnavailable,
            31,
            Stays,
        ),
        ("closed", Fault::Drop, ProviderUnavailable, 31, Stays),
        (
            "closed midway",
            Fault::DropMidway,
            ProviderUnavailable,
            31,
            EndsWithTheNext,
        ),
        ("500", Fault::Status(500), ProviderUnavailable, 31, Stays),
        ("502", Fault::Status(502), ProviderUnavailable, 31, Stays),
        (
            "503",
            Fault::StatusRetryAfter(503, 3),
            ProviderUnavailable,
            3,
            Stays,
        ),
        (
            "429",
            Fault::StatusRetryAfter(429, 9),
            ProviderUnavailable,
            9,
            Stays,
        ),
        ("garbage", Fault::Garbage, ProviderRejected, 31, Stays),
        (
            "a megabyte of JSON",
            Fault::Huge,
            ProviderRejected,
            31,
            EndsWithTheNext,
        ),
        (
            "invalid_grant once",
            Fault::invalid_grant(),
            NotSignedIn,
            0,
            EndsAtOnce,
        ),
    ];
    for (name, fault, without, pause, then) in rows {
        for when in [When::Ahead, When::InTheMargin, When::Expired] {
            let case = format!("{name}, {when:?}");
            let limit = Duration::from_secs(if name == "after 30 s" { 2 } else { 10 });
            let setup = Setup::new().provider(move |provider| provider.timeout(limit));
            let world = World::start(TestProvider::builder(), setup, |auth| auth).await;
            let browser = world.sign_in("alice").await;
            let first = acquire(&world.tokens(&browser).await).await.unwrap();
            let fault = fault.clone();
            world.provider.faults().once(Endpoint::Refresh, fault);
            world.advance(
                SECOND
                    * match when {
                        When::Ahead => 3300,
                        When::InTheMargin => 3545,
                        When::Expired => 3601,
                    },
            );
            let valid = when != When::Expired;
            if when == When::Ahead {
                let served = acquire(&world.tokens(&browser).await).await.unwrap();
                assert_eq!(served.secret(), first.secret(), "{case}: nobody waits");
                let begin = Instant::now();
                let over = || struck(&world) > 0;
                while !over() || (then == EndsAtOnce && world.sign_ins().await > 0) {
                    assert!(begin.elapsed() < 20 * SECOND, "{case}");
                    tokio::task::yield_now().await;
                }
            }
            for attempt in 0..5 {
                if then == EndsAtOnce && (attempt > 0 || when == When::Ahead) {
                    world.assert_signed_out(&mut browser.clone()).await;
                    break;
                }
                let answer = acquire(&world.tokens(&browser).await).await;
                match answer {
                    Ok(token) if valid && then != EndsAtOnce => {
                        assert_eq!(token.secret(), first.secret(), "{case}");
                    }
                    Err(error) if attempt == 0 && (!valid || then == EndsAtOnce) => {
                        assert_eq!(error.kind(), without, "{case}");
                    }
                    Err(error) if !valid => {
                        assert_eq!(error.kind(), ProviderUnavailable, "{case}");
                        let left = error.retry_after().unwrap();
                        assert!(left <= Duration::from_secs(pause), "{case}");
                    }
                    other => panic!("{case}: {other:?}"),
                }
            }
            assert_eq!(struck(&world), 1, "{case}");
            assert!(world.refreshes() <= 1 && world.reuses() == 0, "{case}");

            if then != EndsAtOnce {
                assert_eq!(world.sign_ins().await, 1, "{case}");
                assert!(world.app.seen().is_empty(), "{case}");
                // Past the token's end in any case.
                world.advance(400 * SECOND);
                let mut after = acquire(&world.tokens(&browser).await).await;
                if when == When::Ahead && after.as_ref().is_err_and(|one| one.kind() == without) {
                    // It has just waited for the first attempt, behind which nobody was.
                    world.advance(60 * SECOND);
                    after = acquire(&world.tokens(&browser).await).await;
                }
                match then {
                    Stays => assert_ne!(after.unwrap().secret(), first.secret(), "{case}"),
                    _ => assert_eq!(kind(after), NotSignedIn, "{case}"),
                }
            }
            let counts = (world.refreshes(), world.reuses());
            match then {
                Stays => {
                    assert_eq!(counts, (1, 0), "{case}");
                    assert_eq!(world.sign_ins().await, 1, "{case}");
                    world.app.sign_out(&browser, &[]).await;
                }
                EndsWithTheNext => assert_eq!(counts, (1, 1), "{case}"),
                EndsAtOnce => assert_eq!(counts, (0, 0), "{case}"),
            }
            assert_eq!(world.sign_ins().await, 0, "{case}");
            world.finish().await;
            let seen = world.app.seen();
            let cause = match then {
                Stays => Cause::UserSignOut,
                _ => Cause::RefreshRejected,
            };
            assert_eq!((seen.len(), seen[0].cause), (1, cause), "{case}");
            let secrets = world.provider.secrets();
            let alive = secrets.iter().filter(|one| world.provider.is_active(one));
            assert_eq!(alive.count(), 0, "{case}: lost tokens");
        }
    }
}
