use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::id::{ClaimName, Locator, OperationId, Selector, SessionKey};
use crate::store::{
    Claim, Created, Generation, Lease, REPEAT_WINDOW, Replaced, RetainedTokens, Started, Target,
    TokenStore,
};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, account, locator};

/// A repetition comes soon, but not at once.
const LATER: Duration = Duration::from_secs(REPEAT_WINDOW.as_secs() / 2);

pub async fn create_again_is_the_same_sign_in(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = locator(&someone());
    let started = test.started().await;
    let removal = removal(Cause::Capacity);
    for _ in 0..3 {
        let entry = Arc::new(entry_of("ann", &[]));
        let created = test.store().create(&ann, entry, &started, &removal).await;
        assert!(evicted(created.unwrap()).is_empty());
        test.advance(LATER / 2).await;
    }
    assert_eq!(test.store().list(&someone()).await.unwrap().len(), 1);
    // Also when the account was marked since, but this sign-in was to stay.
    let target = Target::AccountExcept(someone(), ann.address.id);
    test.remove(target, &revoking(Cause::SignOutOthers)).await;
    let entry = Arc::new(entry_of("ann", &[]));
    let created = test.store().create(&ann, entry, &started, &removal).await;
    assert!(is_done(&created.unwrap()));
}

pub async fn create_again_after_its_removal_is_refused(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = locator(&someone());
    let started = test.started().await;
    let create = removal(Cause::Capacity);
    let entry = || Arc::new(entry_of("ann", &[]));
    let created = test.store().create(&ann, entry(), &started, &create).await;
    assert!(is_done(&created.unwrap()));
    let target = Target::SignIn(ann.address);
    test.remove(target, &removal(Cause::UserSignOut)).await;
    for started in [started, Started::default()] {
        let created = test.store().create(&ann, entry(), &started, &create).await;
        assert!(matches!(created.unwrap(), Created::Refused));
    }
    test.assert_gone(&ann, "created again").await;
}

pub async fn create_again_tells_of_the_same_evictions(factory: &dyn Factory) {
    let test = small(factory, |limits| limits.max_sign_ins_per_account = 2).await;
    for name in ["one", "two"] {
        test.sign_in(&someone(), name).await;
    }
    let new = locator(&someone());
    let started = test.started().await;
    let removal = revoking(Cause::Operator);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let entry = Arc::new(entry_of("new", &[]));
        let created = test.store().create(&new, entry, &started, &removal).await;
        answers.push(summary(&evicted(created.unwrap())));
        test.advance(LATER).await;
    }
    assert_eq!(answers[0].len(), 1);
    assert_eq!(answers[0][0].1, Cause::Capacity);
    assert_eq!(answers[0], answers[1]);
    let items = test.store().outbox_take(OperationId::random(), MINUTE);
    assert_eq!(items.await.unwrap().len(), 1);
}

pub async fn create_again_is_refused_again(factory: &dyn Factory) {
    let test = any(factory).await;
    let started = test.started().await;
    let mark = removal(Cause::SignOutEverywhere);
    test.remove(Target::Account(someone()), &mark).await;
    test.advance(MARK_FOR - LATER).await;
    let late = locator(&someone());
    let create = removal(Cause::Capacity);
    for _ in 0..2 {
        let entry = Arc::new(entry_of("late", &[]));
        let created = test.store().create(&late, entry, &started, &create).await;
        assert!(matches!(created.unwrap(), Created::Refused));
        test.advance(LATER - MINUTE / 4).await;
    }
}

pub async fn remove_again_returns_the_same_and_removes_no_more(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut keep = None;
    for n in 0..3 {
        let locator = test.sign_in(&someone(), &n.to_string()).await;
        keep = Some(locator.address.id);
    }
    let one = test.sign_in(&account(2), "one").await.address;
    let at = test.sign_in(&account(3), "at").await.address;
    test.sign_in(&account(4), "all").await;
    let targets = [
        Target::AccountExcept(someone(), keep.unwrap()),
        Target::SignIn(one),
        Target::SignInAt(at, Generation::FIRST),
        Target::Account(account(4)),
        Target::Account(account(5)),
    ];
    for (target, count) in targets.into_iter().zip([2, 1, 1, 1, 0]) {
        let removal = revoking(Cause::Operator);
        let first = summary(&test.remove(target, &removal).await);
        assert_eq!(first.len(), count, "{target:?}");
        let new = test.sign_in(target.account(), "new").await;
        test.advance(LATER).await;
        let again = summary(&test.remove(target, &removal).await);
        assert_eq!(first, again, "{target:?}");
        assert!(test.live(&new).await.is_some(), "{target:?}");
        // One name for several targets: the sign-ins that a closing yielded.
        let other = Target::SignIn(new.address);
        assert_eq!(test.remove(other, &removal).await.len(), 1, "{target:?}");
    }
    let items = test.store().outbox_take(OperationId::random(), MINUTE);
    assert_eq!(items.await.unwrap().len(), 5 + 5);
}

pub async fn due_again_returns_the_same(factory: &dyn Factory) {
    let test = any(factory).await;
    for n in 0..10 {
        test.sign_in(&account(n), "x").await;
    }
    test.advance(IDLE + MINUTE).await;
    let removal = revoking(Cause::Operator);
    let first = test.store().due(&removal).await.unwrap();
    assert_eq!(first.len(), 10);
    test.advance(LATER).await;
    let again = test.store().due(&removal).await.unwrap();
    assert_eq!(summary(&first), summary(&again));
    assert!(test.due().await.is_empty());
    let items = test.store().outbox_take(OperationId::random(), MINUTE);
    assert_eq!(items.await.unwrap().len(), 10);
}

pub async fn close_again_returns_the_same_members(factory: &dyn Factory) {
    let test = any(factory).await;
    let selector = Selector::sid("i", "c", "s");
    let ann = test
        .sign_in_with(&someone(), entry_of("ann", &[selector]))
        .await;
    let removal = removal(Cause::BackChannel);
    assert_eq!(test.close(&selector, &removal).await, [ann.address]);
    test.remove(Target::SignIn(ann.address), &removal).await;
    let bob = test
        .sign_in_with(&someone(), entry_of("bob", &[selector]))
        .await;
    test.advance(LATER).await;
    assert_eq!(test.close(&selector, &removal).await, [ann.address]);
    assert!(test.live(&bob).await.is_some());
}

pub async fn replace_again_is_done_once(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let operation = OperationId::random();
    let second = Generation::FIRST.next();
    let replace = async |generation, operation, name: &str| {
        let entry = Arc::new(entry_of(name, &[]));
        let replace = test
            .store()
            .replace_if(&ann.address, generation, entry, operation);
        replace.await.unwrap()
    };
    let first = replace(Generation::FIRST, operation, "two").await;
    assert_eq!(first, Replaced::Done(second));
    test.advance(LATER).await;
    let again = replace(Generation::FIRST, operation, "two").await;
    assert_eq!(again, first);
    // Another has written since: the repetition must not write over it.
    let other = OperationId::random();
    assert_eq!(
        replace(second, other, "three").await,
        Replaced::Done(second.next())
    );
    let again = replace(Generation::FIRST, operation, "two").await;
    assert_eq!(again, first);
    let stored = test.live(&ann).await.unwrap();
    assert_eq!(refresh_token(&stored.entry), "refresh three");
    assert_eq!(stored.generation, second.next());
    // And it brings nothing back.
    let target = Target::SignIn(ann.address);
    test.remove(target, &removal(Cause::UserSignOut)).await;
    replace(Generation::FIRST, operation, "two").await;
    assert!(test.live(&ann).await.is_none());
}

pub async fn rekey_again_is_true(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let new = Locator {
        key: SessionKey::random(),
        ..ann.clone()
    };
    for _ in 0..2 {
        assert!(test.store().rekey(&ann, &new.key.hash()).await.unwrap());
        test.advance(LATER).await;
    }
    assert!(test.live(&new).await.is_some());
    assert!(test.live(&ann).await.is_none());
}

pub async fn the_other_changes_can_be_repeated(factory: &dyn Factory) {
    let test = any(factory).await;
    let store = test.store();
    let ann = test.sign_in(&someone(), "ann").await;
    let (name, holder) = (ClaimName::of("test", &[b"n"]), OperationId::random());
    for _ in 0..2 {
        let claim = store.claim(&name, holder, MINUTE).await.unwrap();
        assert_eq!(claim, Claim::Held);
        let lease = store.lease(&name, holder, MINUTE).await.unwrap();
        assert!(matches!(lease, Lease::Held(_)));
        assert!(store.touch(&ann.address).await.unwrap());
        let put = store.put_downstream(&ann.address, derived("x", "access ann"));
        assert!(put.await.unwrap());
    }
    for _ in 0..2 {
        assert!(store.settle(&name, holder, MINUTE).await.unwrap());
        store.end_lease(&name, holder).await.unwrap();
    }
    let (free, retained) = (ClaimName::of("test", &[b"m"]), OperationId::random());
    store.claim(&free, holder, MINUTE).await.unwrap();
    for _ in 0..2 {
        store.release(&free, holder).await.unwrap();
        let tokens = RetainedTokens::of(&entry_of("r", &[]));
        store
            .outbox_put(retained, &someone(), tokens)
            .await
            .unwrap();
    }
    let stats = store.stats().await.unwrap();
    assert_eq!((stats.claims, stats.downstream, stats.outbox), (1, 1, 1));
    let items = store.outbox_take(holder, MINUTE).await.unwrap();
    let again = store.outbox_take(holder, MINUTE).await.unwrap();
    assert_eq!(items[0].id, retained);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].id, retained);
    assert_eq!(again[0].attempts, items[0].attempts);
    for _ in 0..2 {
        store.outbox_done(&items[0]).await.unwrap();
    }
    assert_eq!(store.stats().await.unwrap().outbox, 0);
}
