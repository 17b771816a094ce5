use std::time::Duration;

use crate::cause::Cause;
use crate::id::Selector;
use crate::store::{Created, Lookup, Registered, Removal, Started, StoreStats, Target, TokenStore};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, StoreUnderTest, account, locator};

fn dated(logout_iat: Option<i64>) -> Removal {
    Removal {
        logout_iat,
        ..removal(Cause::BackChannel)
    }
}

/// Whether the account's and the selector's marks let a sign-in pass; they must agree.
async fn passes(test: &StoreUnderTest, selector: &Selector, started: &Started) -> bool {
    let new = locator(&someone());
    let registered = test.register(selector, &new.address, started).await;
    let created = test.create(&new, entry_of("x", &[]), started).await;
    let done = is_done(&created);
    assert_eq!(registered == Registered::Done, done, "{started:?}");
    if done {
        let target = Target::SignIn(new.address);
        test.remove(target, &removal(Cause::UserSignOut)).await;
        test.store()
            .unregister(selector, &new.address)
            .await
            .unwrap();
    }
    done
}

async fn mark(test: &StoreUnderTest, selector: &Selector, removal: &Removal) {
    test.remove(Target::Account(someone()), removal).await;
    test.close(selector, removal).await;
}

fn selector() -> Selector {
    Selector::subject("https://login.example.com", "app", "ann")
}

pub async fn a_sign_in_that_began_before_the_account_was_removed_is_refused(factory: &dyn Factory) {
    let test = any(factory).await;
    let before = test.started().await;
    let keep = locator(&someone()).address.id;
    let targets = [
        Target::Account(someone()),
        Target::AccountExcept(someone(), keep),
    ];
    for target in targets {
        let started = test.started().await;
        test.remove(target, &removal(Cause::SignOutEverywhere))
            .await;
        for started in [&before, &started] {
            let late = locator(&someone());
            let created = test.create(&late, entry_of("late", &[]), started).await;
            assert!(matches!(created, Created::Refused), "{target:?}");
            test.assert_gone(&late, "late").await;
        }
        let other = locator(&account(2));
        assert!(is_done(
            &test.create(&other, entry_of("other", &[]), &before).await
        ));
        test.sign_in(&someone(), "after").await;
    }
}

pub async fn a_younger_id_token_passes_the_mark_of_a_logout_token(factory: &dyn Factory) {
    let test = any(factory).await;
    let before = test.now().await;
    mark(&test, &selector(), &dated(Some(1000))).await;
    let after = test.now().await;
    let rows = [
        ("before, older", before, Some(999), false),
        ("before, as old", before, Some(1000), false),
        ("before, younger", before, Some(1001), true),
        ("before, no iat", before, None, false),
        ("after, older", after, Some(1), true),
        ("after, no iat", after, None, true),
    ];
    for (name, at, id_token_iat, expected) in rows {
        let started = Started {
            at: Some(at),
            id_token_iat,
        };
        assert_eq!(
            passes(&test, &selector(), &started).await,
            expected,
            "{name}"
        );
    }
    // An unauthenticated or local sign-out has no iat: then a young ID token does not help.
    let before = test.now().await;
    mark(&test, &selector(), &dated(None)).await;
    let started = Started {
        at: Some(before),
        id_token_iat: Some(i64::MAX),
    };
    assert!(!passes(&test, &selector(), &started).await);
}

pub async fn a_sign_in_of_unknown_start_is_held_against_iat_only(factory: &dyn Factory) {
    let started = |id_token_iat| Started {
        at: None,
        id_token_iat,
    };
    let rows = [
        (None, None, true),
        (None, Some(1), true),
        (Some(1000), None, true),
        (Some(1000), Some(1000), false),
        (Some(1000), Some(1001), true),
    ];
    for (logout_iat, id_token_iat, expected) in rows {
        let test = any(factory).await;
        mark(&test, &selector(), &dated(logout_iat)).await;
        let passed = passes(&test, &selector(), &started(id_token_iat)).await;
        assert_eq!(passed, expected, "{logout_iat:?} {id_token_iat:?}");
    }
}

pub async fn the_strictest_of_several_marks_holds(factory: &dyn Factory) {
    for order in [[None, Some(1000)], [Some(1000), None]] {
        let test = any(factory).await;
        let before_both = test.now().await;
        mark(&test, &selector(), &dated(order[0])).await;
        let between = test.now().await;
        mark(&test, &selector(), &dated(order[1])).await;
        let younger = |at| Started {
            at: Some(at),
            id_token_iat: Some(1001),
        };
        assert!(!passes(&test, &selector(), &younger(before_both)).await);
        // Only the second mark is later than this one.
        let expected = order[1].is_some();
        assert_eq!(
            passes(&test, &selector(), &younger(between)).await,
            expected
        );
        let older = Started {
            at: Some(between),
            id_token_iat: Some(1000),
        };
        assert!(!passes(&test, &selector(), &older).await);
    }
    let test = any(factory).await;
    let before = test.now().await;
    for iat in [2000, 1000] {
        mark(&test, &selector(), &dated(Some(iat))).await;
    }
    for (iat, expected) in [(1500, false), (2001, true)] {
        let started = Started {
            at: Some(before),
            id_token_iat: Some(iat),
        };
        assert_eq!(
            passes(&test, &selector(), &started).await,
            expected,
            "{iat}"
        );
    }
    // A short mark does not shorten a long one.
    let test = any(factory).await;
    let before = test.started().await;
    mark(&test, &selector(), &dated(None)).await;
    let short = Removal {
        mark_for: Duration::from_secs(1),
        ..dated(None)
    };
    mark(&test, &selector(), &short).await;
    test.advance(MINUTE).await;
    assert!(!passes(&test, &selector(), &before).await);
}

/// R23, R43: a mark that it should have met would be gone by then.
pub async fn what_takes_longer_than_marks_are_kept_is_refused_r23_r43(factory: &dyn Factory) {
    let test = any(factory).await;
    let entry = || entry_of("x", &[]);
    let started = test.started().await;
    test.advance(MARK_FOR - MINUTE).await;
    let new = locator(&someone());
    assert!(is_done(&test.create(&new, entry(), &started).await));
    test.advance(MINUTE).await;
    let late = locator(&someone());
    for _ in 0..2 {
        assert!(!is_done(&test.create(&late, entry(), &started).await));
    }
    test.assert_gone(&late, "too late").await;
    // One without a start was never held against marks of the store's time.
    let unknown = Started::default();
    assert!(is_done(
        &test.create(&locator(&someone()), entry(), &unknown).await
    ));
}

pub async fn marks_and_causes_end(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let before = test.started().await;
    mark(&test, &selector(), &dated(None)).await;
    test.advance(MARK_FOR - MINUTE).await;
    assert!(!passes(&test, &selector(), &before).await);
    let cause = test.load(&ann).await;
    assert!(matches!(cause, Lookup::Gone(Some(Cause::BackChannel))));
    test.advance(MINUTE * 2).await;
    assert!(matches!(test.load(&ann).await, Lookup::Gone(None)));
    test.all_due().await;
    let stats = test.store().stats().await.unwrap();
    let expected = StoreStats::default();
    assert_eq!(stats, expected);
}
