use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::id::OperationId;
use crate::store::{
    Generation, Lifetimes, Lookup, MAX_BATCH, Removal, RevokeRule, Target, TokenStore,
};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, account};
use crate::token::AccessToken;

pub async fn one_of_several_is_removed_and_leaves_its_cause(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let other = test.sign_in(&someone(), "other").await;
    let before = test.live(&ann).await.unwrap();
    let put = test
        .store()
        .put_downstream(&ann.address, derived("x", "access ann"));
    assert!(put.await.unwrap());
    let removal = removal(Cause::FrontChannel);
    let removed = test.remove(Target::SignIn(ann.address), &removal).await;
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].address, ann.address);
    assert_eq!(refresh_token(&removed[0].entry), "refresh ann");
    assert_eq!(removed[0].cause, Cause::FrontChannel);
    assert_eq!(removed[0].created, before.created);
    assert_eq!(removed[0].downstream, 1);
    assert!(!removed[0].to_revoke);
    test.assert_gone(&ann, "removed").await;
    for found in [test.load(&ann).await, test.get(&ann.address).await] {
        assert!(matches!(found, Lookup::Gone(Some(Cause::FrontChannel))));
    }
    assert!(test.live(&other).await.is_some());
    // The cause of the first removal is what ended it.
    test.remove(Target::SignIn(ann.address), &revoking(Cause::Operator))
        .await;
    let found = test.load(&ann).await;
    assert!(matches!(found, Lookup::Gone(Some(Cause::FrontChannel))));
}

pub async fn an_account_is_removed_whole_a8(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut all = Vec::new();
    for n in 0..20 {
        all.push(test.sign_in(&someone(), &n.to_string()).await);
    }
    let other = test.sign_in(&account(2), "other").await;
    let target = Target::Account(someone());
    let removed = test.remove(target, &removal(Cause::BackChannel)).await;
    let expected = sorted(all.iter().map(|locator| locator.address));
    assert_eq!(addresses(&removed), expected);
    for locator in &all {
        test.assert_gone(locator, "account removed").await;
    }
    assert!(test.live(&other).await.is_some());
    // A new sign-in brings none of the others back.
    let new = test.sign_in(&someone(), "new").await;
    let list = test.store().list(&someone()).await.unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].address, new.address);
}

pub async fn all_but_one_are_removed(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut all = Vec::new();
    for n in 0..5 {
        all.push(test.sign_in(&someone(), &n.to_string()).await);
    }
    let kept = all.remove(2);
    let target = Target::AccountExcept(someone(), kept.address.id);
    let removed = test.remove(target, &removal(Cause::SignOutOthers)).await;
    let expected = sorted(all.iter().map(|locator| locator.address));
    assert_eq!(addresses(&removed), expected);
    assert!(test.live(&kept).await.is_some());
    for locator in &all {
        test.assert_gone(locator, "others removed").await;
    }
}

/// R30: a refused refresh token that is no longer the one in the store ends nothing.
pub async fn one_is_removed_only_at_the_generation_that_was_meant(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let entry = Arc::new(entry_of("two", &[]));
    let replace = test.store().replace_if(
        &ann.address,
        Generation::FIRST,
        entry,
        OperationId::random(),
    );
    replace.await.unwrap();
    let at = |generation| Target::SignInAt(ann.address, generation);
    let cause = Cause::RefreshRejected;
    let removed = test.remove(at(Generation::FIRST), &removal(cause)).await;
    assert!(removed.is_empty());
    assert!(test.live(&ann).await.is_some());
    let removed = test
        .remove(at(Generation::FIRST.next()), &removal(cause))
        .await;
    assert_eq!(addresses(&removed), [ann.address]);
    test.assert_gone(&ann, "removed at its generation").await;
}

pub async fn removing_what_is_not_there_succeeds_a14(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let nobody = crate::testing::store_contract::locator(&account(9)).address;
    let targets = [
        Target::SignIn(nobody),
        Target::SignInAt(nobody, Generation::FIRST),
        Target::Account(nobody.account),
        Target::AccountExcept(nobody.account, nobody.id),
    ];
    for target in targets {
        let removed = test.remove(target, &revoking(Cause::Operator)).await;
        assert!(removed.is_empty(), "{target:?}");
    }
    assert!(test.live(&ann).await.is_some());
    test.assert_nothing_stays().await;
}

/// R16, R25.
pub async fn what_is_to_be_revoked_is_in_the_outbox_r25(factory: &dyn Factory) {
    let offline = || {
        let mut entry = entry_of("offline", &[]);
        let token = AccessToken::bearer("a").with_scopes(["offline_access"]);
        entry.tokens = entry.tokens.with_access_token(token);
        entry
    };
    let rows = [
        (RevokeRule::Nothing, false, false),
        (RevokeRule::UnlessOffline, true, false),
        (RevokeRule::All, true, true),
    ];
    for (revoke, online_goes, offline_goes) in rows {
        let test = any(factory).await;
        test.sign_in_with(&someone(), entry_of("online", &[])).await;
        test.sign_in_with(&someone(), offline()).await;
        let removal = Removal {
            revoke,
            ..removal(Cause::BackChannel)
        };
        let removed = test.remove(Target::Account(someone()), &removal).await;
        for removed in &removed {
            let expected = if refresh_token(&removed.entry) == "refresh online" {
                online_goes
            } else {
                offline_goes
            };
            assert_eq!(removed.to_revoke, expected, "{revoke:?}");
        }
        let hold = Duration::from_secs(60);
        let items = test.store().outbox_take(OperationId::random(), hold);
        let items = items.await.unwrap();
        let expected = usize::from(online_goes) + usize::from(offline_goes);
        assert_eq!(items.len(), expected, "{revoke:?}");
        for item in items {
            assert_eq!(item.account, someone());
            assert_eq!(&*item.retained.issuer, "https://login.example.com");
            assert_eq!(&*item.retained.client_id, "app");
            assert!(item.retained.tokens.refresh_token().is_some());
        }
        test.assert_nothing_stays().await;
    }
}

pub async fn expired_sign_ins_are_handed_out_with_the_lifetime_that_ended_r42(
    factory: &dyn Factory,
) {
    let test = any(factory).await;
    let idle = test.sign_in(&account(1), "idle").await;
    let mut short = entry_of("absolute", &[]);
    short.lifetimes = Lifetimes {
        idle: IDLE,
        absolute: IDLE / 2,
    };
    let old = test.sign_in_with(&account(2), short).await;
    assert!(test.due().await.is_empty());
    test.advance(IDLE / 2 + MINUTE).await;
    let used = test.sign_in(&account(3), "used").await;
    let due = test.all_due().await;
    assert_eq!(addresses(&due), [old.address]);
    assert_eq!(due[0].cause, Cause::Absolute);
    test.assert_gone(&old, "collected").await;
    let left = test.load(&old).await;
    assert!(matches!(left, Lookup::Gone(Some(Cause::Absolute))));
    test.advance(IDLE / 2).await;
    assert!(test.store().touch(&used.address).await.unwrap());
    let due = test.all_due().await;
    assert_eq!(addresses(&due), [idle.address]);
    assert_eq!(due[0].cause, Cause::Idle);
    test.assert_gone(&idle, "collected").await;
    let left = test.load(&idle).await;
    assert!(matches!(left, Lookup::Gone(Some(Cause::Idle))));
    test.advance(IDLE / 2).await;
    assert!(test.live(&used).await.is_some(), "it was used");
    assert!(test.all_due().await.is_empty());
}

pub async fn due_hands_each_sign_in_to_one_caller(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut expected = Vec::new();
    for n in 0..400 {
        expected.push(test.sign_in(&account(n % 100), "x").await.address);
    }
    test.advance(IDLE + MINUTE).await;
    let callers = (0..4).map(|_| {
        let test = test.clone();
        tokio::spawn(async move { test.all_due().await })
    });
    let mut all = Vec::new();
    for due in futures_util::future::join_all(callers).await {
        all.extend(addresses(&due.expect("the store does not panic")));
    }
    assert_eq!(sorted(all), sorted(expected));
    test.assert_nothing_stays().await;
}

pub async fn due_prefers_nobody(factory: &dyn Factory) {
    let test = small(factory, |limits| limits.max_sign_ins_per_account = 10_000).await;
    for _ in 0..2 * MAX_BATCH {
        test.sign_in(&account(1), "many").await;
    }
    for n in 2..12 {
        test.sign_in(&account(n), "few").await;
    }
    test.advance(IDLE + MINUTE).await;
    let due = test.due().await;
    let accounts: HashSet<_> = due.iter().map(|removed| removed.address.account).collect();
    assert_eq!(accounts.len(), 11, "one account keeps the others waiting");
    assert!(due.len() <= MAX_BATCH);
}

pub async fn the_last_sign_in_of_an_account_is_the_one_revoked_r32(factory: &dyn Factory) {
    let test = any(factory).await;
    let one = test.sign_in(&someone(), "one").await;
    let two = test.sign_in(&someone(), "two").await;
    let removal = Removal {
        revoke: RevokeRule::OnlySignIn,
        ..removal(Cause::Idle)
    };
    for (locator, revoked) in [(one, false), (two, true)] {
        let target = Target::SignIn(locator.address);
        let removed = test.remove(target, &removal).await;
        assert_eq!(removed.len(), 1);
        assert_eq!(removed[0].to_revoke, revoked);
    }
}
