use std::time::Duration;

use crate::cause::Cause;
use crate::id::{ClaimName, OperationId, Selector};
use crate::store::{
    Claim, Created, Lookup, MAX_BATCH, Registered, RetainedTokens, StoreErrorKind, Target,
    TokenStore,
};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, account, locator};

pub async fn an_account_with_too_many_sign_ins_loses_the_least_recently_used(
    factory: &dyn Factory,
) {
    let test = small(factory, |limits| limits.max_sign_ins_per_account = 3).await;
    let other = test.sign_in(&account(2), "other").await;
    let mut mine = Vec::new();
    for n in 0..3 {
        mine.push(test.sign_in(&someone(), &n.to_string()).await);
    }
    test.advance(MINUTE * 2).await;
    assert!(test.store().touch(&mine[0].address).await.unwrap());
    // In the order of their last use: 1, 2, 0.
    for oldest in [1, 2, 0] {
        let new = locator(&someone());
        let started = test.started().await;
        let gone = evicted(test.create(&new, entry_of("new", &[]), &started).await);
        assert_eq!(addresses(&gone), [mine[oldest].address]);
        assert_eq!(gone[0].cause, Cause::Capacity);
        let left = test.load(&mine[oldest]).await;
        assert!(matches!(left, Lookup::Gone(Some(Cause::Capacity))));
        assert_eq!(test.store().list(&someone()).await.unwrap().len(), 3);
    }
    assert!(test.live(&other).await.is_some());
}

pub async fn a_full_store_loses_the_least_recently_used(factory: &dyn Factory) {
    let test = small(factory, |limits| limits.max_sign_ins = 10).await;
    let mut all = Vec::new();
    for n in 0..30 {
        let new = locator(&account(n));
        let started = test.started().await;
        let gone = evicted(test.create(&new, entry_of("x", &[]), &started).await);
        assert_eq!(gone.len(), usize::from(n >= 10), "{n}");
        assert!(test.live(&new).await.is_some(), "the new one stays");
        all.push(new);
        assert!(test.store().stats().await.unwrap().sign_ins <= 10);
        test.advance(Duration::from_secs(1)).await;
    }
    // Approximately: whatever left, the older half did not outlive the younger.
    let mut live = [0, 0];
    for (n, locator) in all.iter().enumerate() {
        live[n / 15] += usize::from(test.live(locator).await.is_some());
    }
    assert_eq!(live[0] + live[1], 10);
    assert!(live[1] > live[0], "{live:?}");
    test.assert_nothing_stays().await;
}

pub async fn what_leaves_for_want_of_room_is_gone_for_good(factory: &dyn Factory) {
    let test = small(factory, |limits| limits.max_sign_ins_per_account = 1).await;
    let selector = Selector::sid("i", "c", "s");
    let old = test
        .sign_in_with(&someone(), entry_of("old", &[selector]))
        .await;
    let put = test
        .store()
        .put_downstream(&old.address, derived("x", "access old"));
    assert!(put.await.unwrap());
    let new = locator(&someone());
    let started = test.started().await;
    let entry = std::sync::Arc::new(entry_of("new", &[]));
    let removal = revoking(Cause::Operator);
    let created = test.store().create(&new, entry, &started, &removal).await;
    let gone = evicted(created.unwrap());
    assert_eq!(addresses(&gone), [old.address]);
    assert!(gone[0].to_revoke);
    assert_eq!(gone[0].downstream, 1);
    test.assert_gone(&old, "evicted").await;
    let created = test.create(&old, entry_of("old", &[]), &started).await;
    assert!(matches!(created, Created::Refused));
    assert!(test.close(&selector, &removal).await.is_empty());
    let items = test.store().outbox_take(OperationId::random(), MINUTE);
    let items = items.await.unwrap();
    assert_eq!(items.len(), 1);
    let token = items[0].retained.tokens.refresh_token().unwrap();
    assert_eq!(token.secret(), "refresh old");
    test.assert_nothing_stays().await;
}

pub async fn too_many_selectors_are_refused(factory: &dyn Factory) {
    let test = small(factory, |limits| limits.max_selectors = 5).await;
    let started = test.started().await;
    let address = locator(&someone()).address;
    let sid = |n: usize| Selector::sid("i", "c", &n.to_string());
    for n in 0..5 {
        let registered = test.register(&sid(n), &address, &started).await;
        assert_eq!(registered, Registered::Done);
    }
    let refused = test.store().register(&sid(5), &address, &started).await;
    assert_eq!(refused.unwrap_err().kind(), StoreErrorKind::Full);
    assert_eq!(test.store().stats().await.unwrap().selector_members, 5);
    // Closing needs no room, and what is there already fits.
    test.close(&sid(9), &removal(Cause::BackChannel)).await;
    let registered = test.register(&sid(0), &address, &started).await;
    assert_eq!(registered, Registered::Done);
    test.store().unregister(&sid(0), &address).await.unwrap();
    let registered = test.register(&sid(5), &address, &started).await;
    assert_eq!(registered, Registered::Done);
    test.assert_nothing_stays().await;
}

pub async fn too_many_claims_and_leases_are_refused(factory: &dyn Factory) {
    let test = small(factory, |limits| limits.max_claims = 4).await;
    let name = |n: u8| ClaimName::of("test", &[&[n]]);
    let holder = OperationId::random();
    let store = test.store();
    for n in 0..2 {
        store.claim(&name(n), holder, MINUTE).await.unwrap();
        store.lease(&name(n), holder, MINUTE).await.unwrap();
    }
    let full = StoreErrorKind::Full;
    let claim = store.claim(&name(7), holder, MINUTE).await;
    assert_eq!(claim.unwrap_err().kind(), full);
    let lease = store.lease(&name(7), holder, MINUTE).await;
    assert_eq!(lease.unwrap_err().kind(), full);
    // What is held already is not refused.
    let claim = store.claim(&name(0), holder, MINUTE).await.unwrap();
    assert_eq!(claim, Claim::Held);
    store.release(&name(0), holder).await.unwrap();
    let claim = store.claim(&name(7), holder, MINUTE).await.unwrap();
    assert_eq!(claim, Claim::Held);
    // Ended ones make room.
    test.advance(MINUTE * 2).await;
    for n in 10..14 {
        let claim = store.claim(&name(n), holder, MINUTE).await.unwrap();
        assert_eq!(claim, Claim::Held);
    }
}

pub async fn too_many_outbox_items_are_refused_and_removal_goes_on(factory: &dyn Factory) {
    let test = small(factory, |limits| limits.max_outbox = 2).await;
    for n in 0..3 {
        test.sign_in(&someone(), &n.to_string()).await;
    }
    let target = Target::Account(someone());
    let removed = test.remove(target, &revoking(Cause::UserSignOut)).await;
    assert_eq!(removed.len(), 3);
    let to_revoke = removed.iter().filter(|removed| removed.to_revoke).count();
    assert_eq!(to_revoke, 2, "the third is reported as not in the outbox");
    let retained = || RetainedTokens::of(&entry_of("r", &[]));
    let (store, id) = (test.store(), OperationId::random());
    let put = store.outbox_put(id, &someone(), retained()).await;
    assert_eq!(put.unwrap_err().kind(), StoreErrorKind::Full);
    let items = store.outbox_take(id, MINUTE).await.unwrap();
    store.outbox_done(&items[0]).await.unwrap();
    store.outbox_put(id, &someone(), retained()).await.unwrap();
    test.assert_nothing_stays().await;
}

pub async fn batches_are_bounded(factory: &dyn Factory) {
    let test = small(factory, |limits| limits.max_sign_ins_per_account = 10_000).await;
    let count = MAX_BATCH + 50;
    for n in 0..count as u64 {
        test.sign_in(&account(n % 7), "x").await;
    }
    test.advance(IDLE + MINUTE).await;
    let removal = revoking(Cause::Operator);
    let first = test.store().due(&removal).await.unwrap();
    assert_eq!(first.len(), MAX_BATCH);
    let removal = revoking(Cause::Operator);
    let second = test.store().due(&removal).await.unwrap();
    assert_eq!(second.len(), 50);
    let take = async || {
        let take = test.store().outbox_take(OperationId::random(), MINUTE);
        take.await.unwrap().len()
    };
    assert_eq!(take().await, MAX_BATCH);
    assert_eq!(take().await, 50);
    assert_eq!(take().await, 0);
    test.assert_nothing_stays().await;
}
