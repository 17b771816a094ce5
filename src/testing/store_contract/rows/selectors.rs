use std::sync::Arc;

use crate::cause::Cause;
use crate::id::{OperationId, Selector};
use crate::store::{Created, Generation, Registered, Replaced, Started, Target, TokenStore};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, account, locator};

fn sid(text: &str) -> Selector {
    Selector::sid("https://login.example.com", "app", text)
}

/// R14, R23: how a logout from outside finds sign-ins.
pub async fn closing_returns_every_member_r23(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut expected = Vec::new();
    for n in 0..5 {
        let entry = entry_of("x", &[sid("shared"), sid(&n.to_string())]);
        expected.push(test.sign_in_with(&account(n % 2), entry).await);
    }
    let addresses_of = sorted(expected.iter().map(|locator| locator.address));
    let removal = removal(Cause::BackChannel);
    let members = test.close(&sid("shared"), &removal).await;
    assert_eq!(sorted(members.iter().copied()), addresses_of);
    for member in members {
        let removed = test.remove(Target::SignIn(member), &removal).await;
        assert_eq!(addresses(&removed), [member]);
    }
    for locator in &expected {
        test.assert_gone(locator, "closed").await;
    }
    test.assert_nothing_stays().await;
}

pub async fn looking_at_the_members_changes_nothing_r23(factory: &dyn Factory) {
    let test = any(factory).await;
    let started = test.started().await;
    let members = async |text| test.store().members(&sid(text)).await.unwrap();
    assert!(members("s").await.is_empty());
    let mut expected = Vec::new();
    for n in 0..3 {
        let entry = entry_of("x", &[sid("s"), sid(&n.to_string())]);
        expected.push(test.sign_in_with(&account(n % 2), entry).await.address);
    }
    let before = test.store().stats().await.unwrap();
    for _ in 0..2 {
        assert_eq!(sorted(members("s").await), sorted(expected.clone()));
    }
    assert_eq!(members("1").await, [expected[1]]);
    assert!(members("other").await.is_empty());
    assert_eq!(test.store().stats().await.unwrap(), before);
    let address = locator(&someone()).address;
    let registered = test.register(&sid("s"), &address, &started).await;
    assert_eq!(registered, Registered::Done, "the selector is not closed");
    test.store().unregister(&sid("s"), &address).await.unwrap();
    // Members stay until their removal, so they are seen until then.
    test.close(&sid("s"), &removal(Cause::BackChannel)).await;
    assert_eq!(sorted(members("s").await), sorted(expected.clone()));
    test.remove(Target::SignIn(expected[0]), &removal(Cause::BackChannel))
        .await;
    assert_eq!(sorted(members("s").await), sorted(expected[1..].to_vec()));
}

pub async fn selectors_of_any_text_are_kept_apart_a12(factory: &dyn Factory) {
    let texts = [
        "",
        "a",
        "a:b",
        "a}b{c",
        "*",
        "a\r\nb",
        "a\0",
        "\u{1f600}",
        "a b",
    ];
    let test = any(factory).await;
    let mut all = Vec::new();
    for text in texts {
        all.push(
            test.sign_in_with(&someone(), entry_of(text, &[sid(text)]))
                .await,
        );
    }
    for (text, locator) in texts.iter().zip(all) {
        let members = test.close(&sid(text), &removal(Cause::BackChannel)).await;
        assert_eq!(members, [locator.address], "{text:?}");
    }
}

pub async fn members_stay_until_their_sign_in_is_removed(factory: &dyn Factory) {
    let test = any(factory).await;
    let entry = || entry_of("x", &[sid("s")]);
    let one = test.sign_in_with(&someone(), entry()).await;
    let two = test.sign_in_with(&someone(), entry()).await;
    // Whoever closed it first dies before it removes anything.
    test.close(&sid("s"), &removal(Cause::BackChannel)).await;
    let members = test.close(&sid("s"), &removal(Cause::BackChannel)).await;
    assert_eq!(sorted(members), sorted([one.address, two.address]));
    test.remove(Target::SignIn(one.address), &removal(Cause::BackChannel))
        .await;
    let members = test.close(&sid("s"), &removal(Cause::BackChannel)).await;
    assert_eq!(members, [two.address]);
    test.advance(IDLE + MINUTE).await;
    assert_eq!(addresses(&test.all_due().await), [two.address]);
    let members = test.close(&sid("s"), &removal(Cause::BackChannel)).await;
    assert!(members.is_empty(), "expired and collected");
}

pub async fn a_replaced_entry_moves_to_its_new_selectors_r28(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test
        .sign_in_with(&someone(), entry_of("ann", &[sid("old"), sid("both")]))
        .await;
    let registered = test
        .register(&sid("new"), &ann.address, &Started::default())
        .await;
    assert_eq!(registered, Registered::Done);
    let entry = Arc::new(entry_of("ann", &[sid("both"), sid("new")]));
    let replace = test.store().replace_if(
        &ann.address,
        Generation::FIRST,
        entry,
        OperationId::random(),
    );
    assert!(matches!(replace.await.unwrap(), Replaced::Done(_)));
    for (text, expected) in [("old", 0), ("both", 1), ("new", 1)] {
        let members = test.close(&sid(text), &removal(Cause::BackChannel)).await;
        assert_eq!(members.len(), expected, "{text}");
    }
    test.remove(Target::SignIn(ann.address), &removal(Cause::BackChannel))
        .await;
    test.assert_nothing_stays().await;
}

pub async fn unregistering_leaves_the_others(factory: &dyn Factory) {
    let test = any(factory).await;
    let started = test.started().await;
    let (one, two) = (locator(&someone()).address, locator(&someone()).address);
    for address in [&one, &two, &one] {
        let registered = test.register(&sid("s"), address, &started).await;
        assert_eq!(registered, Registered::Done);
    }
    for _ in 0..2 {
        test.store().unregister(&sid("s"), &one).await.unwrap();
    }
    let members = test.close(&sid("s"), &removal(Cause::BackChannel)).await;
    assert_eq!(members, [two]);
}

pub async fn a_sign_in_that_is_closed_between_registration_and_creation_is_refused(
    factory: &dyn Factory,
) {
    let test = any(factory).await;
    let started = test.started().await;
    let late = locator(&someone());
    test.register(&sid("s"), &late.address, &started).await;
    let removal = revoking(Cause::BackChannel);
    let members = test.close(&sid("s"), &removal).await;
    assert_eq!(members, [late.address]);
    // There is nothing at the address yet: that must not be forgotten.
    let removed = test.remove(Target::SignIn(late.address), &removal).await;
    assert!(removed.is_empty());
    for started in [started, Started::default()] {
        let entry = entry_of("late", &[sid("s")]);
        let created = test.create(&late, entry, &started).await;
        assert!(matches!(created, Created::Refused));
    }
    test.assert_gone(&late, "closed before it was created")
        .await;
    test.assert_nothing_stays().await;
}

pub async fn registration_is_refused_after_the_selector_was_closed(factory: &dyn Factory) {
    let test = any(factory).await;
    let before = test.started().await;
    test.close(&sid("s"), &removal(Cause::BackChannel)).await;
    let after = test.started().await;
    let address = locator(&someone()).address;
    let rows = [
        ("s", before, Registered::Refused),
        ("other", before, Registered::Done),
        ("s", after, Registered::Done),
    ];
    for (text, started, expected) in rows {
        let registered = test.register(&sid(text), &address, &started).await;
        assert_eq!(registered, expected, "{text}");
    }
    let entry = entry_of("x", &[sid("s"), sid("other")]);
    let new = crate::id::Locator {
        address,
        key: crate::id::SessionKey::random(),
    };
    assert!(is_done(&test.create(&new, entry, &after).await));
    let members = test.close(&sid("s"), &removal(Cause::BackChannel)).await;
    assert_eq!(members, [address]);
}
