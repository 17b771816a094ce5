use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::id::{Address, Locator, OperationId, SessionKey};
use crate::store::{Created, Generation, Lookup, Replaced, Started, Target, TokenStore};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, account, locator};

pub async fn a_sign_in_is_opened_by_its_own_key_only(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let stored = test.live(&ann).await.expect("it is there");
    assert_eq!(refresh_token(&stored.entry), "refresh ann");
    assert_eq!(stored.generation, Generation::FIRST);
    assert_eq!(stored.expires, stored.created.plus(IDLE));
    let wrong = Locator {
        key: SessionKey::random(),
        ..ann.clone()
    };
    assert!(matches!(test.load(&wrong).await, Lookup::Gone(None)));
    assert!(test.is_there(&ann.address).await);
}

pub async fn an_address_is_never_used_again(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let second = Locator {
        key: SessionKey::random(),
        ..ann.clone()
    };
    let started = test.started().await;
    let created = test.create(&second, entry_of("bob", &[]), &started).await;
    assert!(matches!(created, Created::Refused));
    assert_eq!(
        refresh_token(&test.live(&ann).await.unwrap().entry),
        "refresh ann"
    );
    test.remove(Target::SignIn(ann.address), &removal(Cause::UserSignOut))
        .await;
    for locator in [&ann, &second] {
        let started = test.started().await;
        let created = test.create(locator, entry_of("bob", &[]), &started).await;
        assert!(matches!(created, Created::Refused));
        test.assert_gone(locator, "created again").await;
    }
    test.assert_nothing_stays().await;
}

pub async fn load_answers_in_the_order_of_its_locators(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut locators = Vec::new();
    for n in 0..10 {
        locators.push(test.sign_in(&account(n % 3), &n.to_string()).await);
    }
    let removal = removal(Cause::Operator);
    test.remove(Target::SignIn(locators[4].address), &removal)
        .await;
    locators.reverse();
    let found = test.store().load(&locators).await.unwrap();
    let names: Vec<Option<String>> = found
        .into_iter()
        .map(|found| Some(found.live()?.entry.account.subject().to_owned()))
        .collect();
    let expected = (0..10).rev().map(|n| (n != 4).then(|| n.to_string()));
    assert_eq!(names, expected.collect::<Vec<_>>());
    assert!(test.store().load(&[]).await.unwrap().is_empty());
}

pub async fn nothing_said_about_one_account_reaches_another_r34_a3(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&account(1), "ann").await;
    // The worst case: the same sign-in id, and an account of the same bucket.
    let mut bytes = *account(1).as_bytes();
    bytes[31] ^= 1;
    let other = crate::id::AccountHash::from_bytes(bytes);
    let bob = Locator {
        address: Address {
            account: other,
            id: ann.address.id,
        },
        key: ann.key.clone(),
    };
    test.assert_gone(&bob, "before bob is there").await;
    let started = test.started().await;
    let created = test.create(&bob, entry_of("bob", &[]), &started).await;
    assert!(is_done(&created));
    let name = |stored: Option<crate::store::Stored>| {
        stored.map(|stored| stored.entry.account.subject().to_owned())
    };
    assert_eq!(name(test.live(&ann).await).as_deref(), Some("ann"));
    assert_eq!(name(test.live(&bob).await).as_deref(), Some("bob"));
    let put = test
        .store()
        .put_downstream(&ann.address, derived("x", "access ann"));
    assert!(put.await.unwrap());
    assert_eq!(test.derived(&bob.address, "x").await, None);
    let removed = test
        .remove(Target::Account(other), &removal(Cause::Operator))
        .await;
    assert_eq!(addresses(&removed), [bob.address]);
    test.assert_gone(&bob, "bob was removed").await;
    assert!(test.live(&ann).await.is_some());
    assert_eq!(
        test.derived(&ann.address, "x").await.as_deref(),
        Some("derived x")
    );
    let started = Started::default();
    let carl = locator(&account(1));
    assert!(is_done(
        &test.create(&carl, entry_of("carl", &[]), &started).await
    ));
}

pub async fn the_clock_is_later_at_each_call(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut last = test.now().await;
    for _ in 0..100 {
        let now = test.now().await;
        assert!(now > last);
        last = now;
    }
    test.advance(MINUTE).await;
    // A store that runs ahead of its clock, because it was asked often, may be a little short of a minute.
    assert!(test.now().await.since(last) > MINUTE - Duration::from_secs(1));
    let threads = (0..4).map(|_| {
        let store = test.store().clone();
        tokio::spawn(async move {
            let mut seen = Vec::new();
            for _ in 0..100 {
                seen.push(store.now().await.unwrap());
            }
            seen
        })
    });
    let mut all = Vec::new();
    for seen in futures_util::future::join_all(threads).await {
        all.extend(seen.expect("the store does not panic"));
    }
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 400);
}

pub async fn use_prolongs_and_is_noted_once_in_a_while(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let first = test.live(&ann).await.unwrap();
    assert!(!first.touch_due);
    // Too early: nothing is written.
    test.advance(Duration::from_secs(30)).await;
    assert!(test.store().touch(&ann.address).await.unwrap());
    assert_eq!(test.live(&ann).await.unwrap().last_used, first.last_used);
    test.advance(Duration::from_secs(31)).await;
    assert!(test.live(&ann).await.unwrap().touch_due);
    assert!(test.store().touch(&ann.address).await.unwrap());
    let touched = test.live(&ann).await.unwrap();
    assert!(touched.last_used >= first.last_used.plus(MINUTE));
    assert_eq!(touched.expires, touched.last_used.plus(IDLE));
    assert_eq!(touched.generation, first.generation);
    assert_eq!(touched.created, first.created);
    assert!(!touched.touch_due);
    test.advance(IDLE - Duration::from_secs(30)).await;
    assert!(test.live(&ann).await.is_some());
    assert!(test.due().await.is_empty());
}

pub async fn what_is_idle_or_too_old_is_never_served_r42(factory: &dyn Factory) {
    let test = any(factory).await;
    let idle = test.sign_in(&someone(), "ann").await;
    test.advance(IDLE).await;
    test.advance(Duration::from_secs(1)).await;
    // Nobody has called `due`.
    test.assert_gone(&idle, "idle").await;
    let old = test.sign_in(&someone(), "bob").await;
    let mut age = Duration::ZERO;
    while age < ABSOLUTE {
        assert!(test.store().touch(&old.address).await.unwrap(), "{age:?}");
        test.advance(IDLE / 2).await;
        age += IDLE / 2;
    }
    test.advance(Duration::from_secs(1)).await;
    test.assert_gone(&old, "too old").await;
    test.assert_nothing_stays().await;
}

pub async fn replacing_goes_by_generation(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let before = test.live(&ann).await.unwrap();
    let replace = async |generation, name: &str| {
        let entry = Arc::new(entry_of(name, &[]));
        let operation = OperationId::random();
        let replace = test
            .store()
            .replace_if(&ann.address, generation, entry, operation);
        replace.await.unwrap()
    };
    let second = Generation::FIRST.next();
    assert_eq!(replace(second, "early").await, Replaced::Changed);
    assert_eq!(
        replace(Generation::FIRST, "two").await,
        Replaced::Done(second)
    );
    assert_eq!(replace(Generation::FIRST, "late").await, Replaced::Changed);
    let after = test.live(&ann).await.unwrap();
    assert_eq!(refresh_token(&after.entry), "refresh two");
    assert_eq!(after.generation, second);
    assert_eq!(after.created, before.created);
    assert_eq!(after.last_used, before.last_used);
    assert_eq!(
        replace(second, "three").await,
        Replaced::Done(second.next())
    );
    test.remove(Target::SignIn(ann.address), &removal(Cause::UserSignOut))
        .await;
    assert_eq!(replace(second.next(), "four").await, Replaced::Gone);
}

pub async fn a_new_key_makes_the_old_one_worthless(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let new = Locator {
        key: SessionKey::random(),
        ..ann.clone()
    };
    assert!(test.store().rekey(&ann, &new.key.hash()).await.unwrap());
    assert!(matches!(test.load(&ann).await, Lookup::Gone(_)));
    let stored = test.live(&new).await.unwrap();
    assert_eq!(stored.generation, Generation::FIRST);
    let wrong = Locator {
        key: SessionKey::random(),
        ..ann.clone()
    };
    assert!(!test.store().rekey(&wrong, &key()).await.unwrap());
    assert!(test.live(&new).await.is_some());
    assert!(test.is_there(&ann.address).await);
}

pub async fn sign_ins_are_listed_newest_first_r43(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut expected = Vec::new();
    for name in ["one", "two", "three"] {
        expected.insert(0, test.sign_in(&someone(), name).await.address);
        test.sign_in(&account(2), "another").await;
        test.advance(MINUTE * 2).await;
    }
    test.store().touch(&expected[2]).await.unwrap();
    let list = test.store().list(&someone()).await.unwrap();
    let listed: Vec<Address> = list.iter().map(|info| info.address).collect();
    assert_eq!(listed, expected);
    assert_eq!(list[0].label.as_deref(), Some("three"));
    assert!(list[2].last_used > list[2].created);
    assert_eq!(list[2].expires, list[2].last_used.plus(IDLE));
    test.advance(IDLE - MINUTE).await;
    let list = test.store().list(&someone()).await.unwrap();
    assert_eq!(list.len(), 1, "the others are idle");
    assert!(test.store().list(&account(3)).await.unwrap().is_empty());
}
