use std::collections::HashSet;
use std::time::Duration;

use crate::id::OperationId;
use crate::store::{OUTBOX_AGE, OutboxItem, RetainedTokens, StoreStats, TokenStore};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, StoreUnderTest, account};

const HOLD: Duration = Duration::from_secs(60);

async fn put(test: &StoreUnderTest, number: u64) -> OperationId {
    let id = OperationId::random();
    let retained = RetainedTokens::of(&entry_of(&number.to_string(), &[]));
    let account = account(number);
    let put = test.store().outbox_put(id, &account, retained);
    put.await.unwrap();
    id
}

async fn take(test: &StoreUnderTest) -> Vec<OutboxItem> {
    let holder = OperationId::random();
    test.store().outbox_take(holder, HOLD).await.unwrap()
}

pub async fn an_item_is_handed_out_until_it_is_done(factory: &dyn Factory) {
    let test = any(factory).await;
    let id = put(&test, 1).await;
    for attempts in 0..3 {
        let items = take(&test).await;
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].id, id);
        assert_eq!(items[0].attempts, attempts);
        assert_eq!(items[0].account, account(1));
        let token = items[0].retained.tokens.refresh_token().unwrap();
        assert_eq!(token.secret(), "refresh 1");
        test.advance(HOLD * 2).await;
    }
    let items = take(&test).await;
    test.store().outbox_done(&items[0]).await.unwrap();
    test.advance(HOLD * 2).await;
    assert!(take(&test).await.is_empty());
    assert_eq!(test.store().stats().await.unwrap().outbox, 0);
}

pub async fn an_item_is_held_for_one_holder_at_a_time(factory: &dyn Factory) {
    let test = any(factory).await;
    put(&test, 1).await;
    put(&test, 2).await;
    let holder = OperationId::random();
    let items = test.store().outbox_take(holder, HOLD).await.unwrap();
    assert_eq!(items.len(), 2);
    assert!(take(&test).await.is_empty());
    test.store().outbox_done(&items[0]).await.unwrap();
    // The same holder asks again and gets what it has not finished.
    let again = test.store().outbox_take(holder, HOLD).await.unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].id, items[1].id);
}

pub async fn a_late_answer_does_not_take_an_item_from_its_next_holder(factory: &dyn Factory) {
    let test = any(factory).await;
    let id = put(&test, 1).await;
    let slow = take(&test).await;
    test.advance(HOLD * 2).await;
    let next = take(&test).await;
    assert_eq!(next[0].id, id);
    let retry = test.store().outbox_retry(&slow[0], Duration::ZERO);
    retry.await.unwrap();
    assert!(take(&test).await.is_empty(), "it is still held");
    // That the tokens are revoked is true, whoever says it.
    test.store().outbox_done(&slow[0]).await.unwrap();
    let retry = test.store().outbox_retry(&next[0], Duration::ZERO);
    retry.await.unwrap();
    assert!(take(&test).await.is_empty());
}

pub async fn an_item_comes_back_when_it_is_to_be_tried_again(factory: &dyn Factory) {
    let test = any(factory).await;
    put(&test, 1).await;
    let holder = OperationId::random();
    let items = test.store().outbox_take(holder, HOLD).await.unwrap();
    test.store()
        .outbox_retry(&items[0], HOLD * 10)
        .await
        .unwrap();
    assert!(
        test.store()
            .outbox_take(holder, HOLD)
            .await
            .unwrap()
            .is_empty()
    );
    test.advance(HOLD * 9).await;
    assert!(take(&test).await.is_empty());
    test.advance(HOLD * 2).await;
    let items = take(&test).await;
    assert_eq!(items.len(), 1);
    assert_eq!(items[0].attempts, 1);
}

pub async fn items_do_not_get_older_than_a_day(factory: &dyn Factory) {
    let test = any(factory).await;
    put(&test, 1).await;
    put(&test, 2).await;
    let items = take(&test).await;
    test.store()
        .outbox_retry(&items[0], OUTBOX_AGE * 2)
        .await
        .unwrap();
    test.advance(OUTBOX_AGE - HOLD).await;
    assert_eq!(take(&test).await.len(), 1);
    test.advance(HOLD * 2).await;
    assert!(take(&test).await.is_empty());
    test.all_due().await;
    assert_eq!(test.store().stats().await.unwrap(), StoreStats::default());
}

pub async fn two_takers_never_get_the_same_item(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut expected = HashSet::new();
    for n in 0..50 {
        expected.insert(put(&test, n).await);
    }
    for round in 0..test.round_count().min(50) {
        let (one, two) = (test.clone(), test.clone());
        let taken = at_once(round % 16, async move { take(&one).await }, async move {
            take(&two).await
        });
        let (a, b) = taken.await;
        assert_eq!(a.len() + b.len(), 50);
        let ids: HashSet<OperationId> = a.iter().chain(&b).map(|item| item.id).collect();
        assert_eq!(ids, expected);
        // Every second round by running out, every other by a retry at once with the next taker.
        if round % 2 == 0 {
            test.advance(HOLD * 2).await;
        } else {
            for item in a.iter().chain(&b) {
                test.store()
                    .outbox_retry(item, Duration::ZERO)
                    .await
                    .unwrap();
            }
        }
    }
    test.assert_nothing_stays().await;
}
