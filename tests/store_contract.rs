//! The memory store keeps the contract.

use std::sync::Arc;

use axum_signout::clock::ManualClock;
use axum_signout::store::MemoryTokenStore;
use axum_signout::testing::store_contract::{Limits, StoreUnderTest};

async fn memory(limits: Limits) -> StoreUnderTest {
    let clock = Arc::new(ManualClock::new());
    let store = MemoryTokenStore::builder()
        .clock(clock.clone())
        .max_sign_ins(limits.max_sign_ins)
        .max_sign_ins_per_account(limits.max_sign_ins_per_account)
        .max_selectors(limits.max_selectors)
        .max_claims(limits.max_claims)
        .max_outbox(limits.max_outbox)
        .build()
        .expect("the limits are in range");
    StoreUnderTest::new(store, move |by| {
        clock.advance(by);
        async {}
    })
}

axum_signout::store_contract_tests!(memory);
