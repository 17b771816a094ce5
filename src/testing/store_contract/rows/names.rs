use std::time::Duration;

use crate::id::{ClaimName, OperationId};
use crate::store::{Claim, Lease, StoreStats, TokenStore};
use crate::testing::store_contract::Factory;
use crate::testing::store_contract::harness::*;

fn name(text: &str) -> ClaimName {
    ClaimName::of("test", &[text.as_bytes()])
}

fn holders() -> (OperationId, OperationId) {
    (OperationId::random(), OperationId::random())
}

const HOLD: Duration = Duration::from_secs(60);
const KEEP: Duration = Duration::from_secs(600);

pub async fn a_claim_has_one_holder(factory: &dyn Factory) {
    let test = any(factory).await;
    let store = test.store();
    let (one, two) = holders();
    assert_eq!(
        store.claim(&name("a"), one, HOLD).await.unwrap(),
        Claim::Held
    );
    assert_eq!(
        store.claim(&name("a"), two, HOLD).await.unwrap(),
        Claim::Taken
    );
    assert_eq!(
        store.claim(&name("b"), two, HOLD).await.unwrap(),
        Claim::Held
    );
    assert!(!store.settle(&name("a"), two, KEEP).await.unwrap());
    store.release(&name("a"), two).await.unwrap();
    assert_eq!(
        store.claim(&name("a"), two, HOLD).await.unwrap(),
        Claim::Taken
    );
}

pub async fn a_claim_that_is_settled_is_kept_r22(factory: &dyn Factory) {
    let test = any(factory).await;
    let store = test.store();
    let (one, two) = holders();
    store.claim(&name("a"), one, HOLD).await.unwrap();
    assert!(store.settle(&name("a"), one, KEEP).await.unwrap());
    store.release(&name("a"), one).await.unwrap();
    test.advance(KEEP - HOLD).await;
    assert_eq!(
        store.claim(&name("a"), two, HOLD).await.unwrap(),
        Claim::Taken
    );
    // A logout token that comes a second time, by the same hands or not.
    assert_eq!(
        store.claim(&name("a"), one, HOLD).await.unwrap(),
        Claim::Taken
    );
    test.advance(HOLD * 2).await;
    assert_eq!(
        store.claim(&name("a"), two, HOLD).await.unwrap(),
        Claim::Held
    );
}

pub async fn a_claim_that_is_released_or_forgotten_can_be_made_again_r22(factory: &dyn Factory) {
    let test = any(factory).await;
    let store = test.store();
    let (one, two) = holders();
    store.claim(&name("a"), one, HOLD).await.unwrap();
    store.release(&name("a"), one).await.unwrap();
    assert!(!store.settle(&name("a"), one, KEEP).await.unwrap());
    assert_eq!(
        store.claim(&name("a"), two, HOLD).await.unwrap(),
        Claim::Held
    );
    // The holder dies: whoever comes after the hold has it, and the former holder cannot settle.
    test.advance(HOLD * 2).await;
    assert!(!store.settle(&name("a"), two, KEEP).await.unwrap());
    assert_eq!(
        store.claim(&name("a"), one, HOLD).await.unwrap(),
        Claim::Held
    );
    store.release(&name("a"), two).await.unwrap();
    assert!(!store.settle(&name("a"), two, KEEP).await.unwrap());
    assert_eq!(
        store.claim(&name("a"), two, HOLD).await.unwrap(),
        Claim::Taken
    );
    test.assert_nothing_stays().await;
}

/// R29: what keeps refreshes apart.
pub async fn a_lease_has_one_holder_who_knows_what_is_left(factory: &dyn Factory) {
    let test = any(factory).await;
    let store = test.store();
    let (one, two) = holders();
    let lease = async |holder| store.lease(&name("a"), holder, HOLD).await.unwrap();
    assert_eq!(lease(one).await, Lease::Held(HOLD));
    let second = Duration::from_secs(1);
    test.advance(second * 20).await;
    // Asking again does not prolong it.
    for (holder, held) in [(one, true), (two, false), (one, true)] {
        let left = match lease(holder).await {
            Lease::Held(left) if held => left,
            Lease::Busy(left) if !held => left,
            other => panic!("{other:?}"),
        };
        assert!(left <= second * 40 && left > second * 39, "{left:?}");
    }
    test.advance(second * 41).await;
    assert_eq!(lease(two).await, Lease::Held(HOLD));
    assert!(matches!(lease(one).await, Lease::Busy(_)));
    store.end_lease(&name("a"), two).await.unwrap();
    assert_eq!(lease(one).await, Lease::Held(HOLD));
}

pub async fn an_ended_lease_is_not_the_former_holders_to_end(factory: &dyn Factory) {
    let test = any(factory).await;
    let store = test.store();
    let (one, two) = holders();
    store.lease(&name("a"), one, HOLD).await.unwrap();
    test.advance(HOLD * 2).await;
    store.lease(&name("a"), two, HOLD).await.unwrap();
    store.end_lease(&name("a"), one).await.unwrap();
    let lease = store.lease(&name("a"), one, HOLD).await.unwrap();
    assert!(matches!(lease, Lease::Busy(_)));
    test.advance(HOLD * 2).await;
    assert_eq!(store.stats().await.unwrap(), StoreStats::default());
}

pub async fn claims_and_leases_of_one_name_are_different_things(factory: &dyn Factory) {
    let test = any(factory).await;
    let store = test.store();
    let (one, two) = holders();
    assert_eq!(
        store.claim(&name("a"), one, HOLD).await.unwrap(),
        Claim::Held
    );
    let lease = store.lease(&name("a"), two, HOLD).await.unwrap();
    assert!(matches!(lease, Lease::Held(_)));
    store.release(&name("a"), one).await.unwrap();
    let lease = store.lease(&name("a"), one, HOLD).await.unwrap();
    assert!(matches!(lease, Lease::Busy(_)));
}

pub async fn of_many_who_claim_at_once_one_wins(factory: &dyn Factory) {
    let test = any(factory).await;
    for round in 0..test.round_count() {
        let text = round.to_string();
        let (one, two) = holders();
        let store = (test.store().clone(), test.store().clone());
        let names = (name(&text), name(&text));
        let claims = at_once(
            round % 16,
            async move { store.0.claim(&names.0, one, HOLD).await.unwrap() },
            async move { store.1.claim(&names.1, two, HOLD).await.unwrap() },
        );
        let (a, b) = claims.await;
        assert_ne!(a, b, "one holds it");
        let winner = if a == Claim::Held { one } else { two };
        // It settles while the other one releases what it does not hold.
        let loser = if a == Claim::Held { two } else { one };
        let store = (test.store().clone(), test.store().clone());
        let names = (name(&text), name(&text));
        let ended = at_once(
            round % 16,
            async move { store.0.settle(&names.0, winner, KEEP).await.unwrap() },
            async move { store.1.release(&names.1, loser).await.unwrap() },
        );
        assert!(ended.await.0);
        let late = OperationId::random();
        let claim = test.store().claim(&name(&text), late, HOLD).await.unwrap();
        assert_eq!(claim, Claim::Taken);
        let (store, names) = (test.store(), name(&format!("lease {text}")));
        let (a, b) = (store.clone(), store.clone());
        let leases = at_once(
            round % 16,
            async move { a.lease(&names, one, HOLD).await.unwrap() },
            async move { b.lease(&names, two, HOLD).await.unwrap() },
        );
        let (a, b) = leases.await;
        let held = [a, b]
            .iter()
            .filter(|l| matches!(l, Lease::Held(_)))
            .count();
        assert_eq!(held, 1);
    }
    test.assert_nothing_stays().await;
}
