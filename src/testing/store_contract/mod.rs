//! The contract of [`TokenStore`] as tests, which every store runs unchanged.
//!
//! A [`Factory`] makes empty stores; [`store_contract_tests!`](crate::store_contract_tests) turns each row into a test of
//! its own, [`run`] goes through all of them.
//!
//! ```no_run
//! use std::sync::Arc;
//! use axum_signout::clock::ManualClock;
//! use axum_signout::store::MemoryTokenStore;
//! use axum_signout::testing::store_contract::{Limits, StoreUnderTest};
//!
//! async fn make(limits: Limits) -> StoreUnderTest {
//!     let clock = Arc::new(ManualClock::new());
//!     let store = MemoryTokenStore::builder()
//!         .clock(clock.clone())
//!         .max_claims(limits.max_claims)
//!         // …
//!         .build()
//!         .unwrap();
//!     StoreUnderTest::new(store, move |by| {
//!         clock.advance(by);
//!         async {}
//!     })
//! }
//!
//! axum_signout::store_contract_tests!(make);
//! # fn main() {}
//! ```

mod harness;

#[doc(hidden)]
pub mod rows;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::id::{AccountHash, Address, Locator, SessionKey, SignInId};
use crate::store::TokenStore;

/// The limits that a row wants of its store. A store that counts its limits otherwise may be stricter nowhere, and
/// looser nowhere.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Most sign-ins.
    pub max_sign_ins: usize,
    /// Most sign-ins of one account.
    pub max_sign_ins_per_account: usize,
    /// Most members of selectors.
    pub max_selectors: usize,
    /// Most claims and leases.
    pub max_claims: usize,
    /// Most outbox items.
    pub max_outbox: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sign_ins: 100_000,
            max_sign_ins_per_account: 100,
            max_selectors: 400_000,
            max_claims: 100_000,
            max_outbox: 100_000,
        }
    }
}

/// An empty store, and the way to let time pass for it.
#[derive(Clone)]
pub struct StoreUnderTest {
    store: Arc<dyn TokenStore>,
    advance: Arc<dyn Fn(Duration) -> BoxFuture<'static, ()> + Send + Sync>,
    rounds: usize,
}

impl StoreUnderTest {
    /// `advance` moves the store's clock; it is called while no other call runs.
    pub fn new<F, Fut>(store: impl TokenStore, advance: F) -> Self
    where
        F: Fn(Duration) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self {
            store: Arc::new(store),
            advance: Arc::new(move |by| Box::pin(advance(by))),
            rounds: 100,
        }
    }

    /// How often each race is run, by default 100 times; the random calls are fewer in proportion.
    #[must_use]
    pub fn rounds(mut self, rounds: usize) -> Self {
        self.rounds = rounds;
        self
    }
}

/// Makes stores; a function of [`Limits`] is one.
pub trait Factory: Send + Sync {
    /// An empty store with these limits.
    fn make(&self, limits: Limits) -> BoxFuture<'_, StoreUnderTest>;
}

impl<F, Fut> Factory for F
where
    F: Fn(Limits) -> Fut + Send + Sync,
    Fut: Future<Output = StoreUnderTest> + Send + 'static,
{
    fn make(&self, limits: Limits) -> BoxFuture<'_, StoreUnderTest> {
        Box::pin(self(limits))
    }
}

/// Runs one row on a runtime of its own, with several threads, because races are among them.
#[doc(hidden)]
pub fn block_on(row: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(3).enable_all().build();
    runtime.expect("a runtime can be built").block_on(row);
}

/// A new locator of an account, as a sign-in makes one: for tests and benchmarks of stores.
#[must_use]
pub fn locator(account: &AccountHash) -> Locator {
    Locator {
        address: Address {
            account: *account,
            id: SignInId::random(),
        },
        key: SessionKey::random(),
    }
}

/// The account of a number: for tests and benchmarks of stores.
#[must_use]
pub fn account(number: u64) -> AccountHash {
    AccountHash::of(&[b"test", &number.to_be_bytes()])
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_contract_rows {
    ({$($callback:tt)*} $($arguments:tt)*) => {
        $($callback)*! { ($($arguments)*)
            basics {
                a_sign_in_is_opened_by_its_own_key_only
                an_address_is_never_used_again
                load_answers_in_the_order_of_its_locators
                nothing_said_about_one_account_reaches_another_r34_a3
                the_clock_is_later_at_each_call
                use_prolongs_and_is_noted_once_in_a_while
                what_is_idle_or_too_old_is_never_served_r42
                replacing_goes_by_generation
                a_new_key_makes_the_old_one_worthless
                sign_ins_are_listed_newest_first_r43
            }
            removal {
                one_of_several_is_removed_and_leaves_its_cause
                an_account_is_removed_whole_a8
                all_but_one_are_removed
                one_is_removed_only_at_the_generation_that_was_meant
                removing_what_is_not_there_succeeds_a14
                the_last_sign_in_of_an_account_is_the_one_revoked_r32
                what_is_to_be_revoked_is_in_the_outbox_r25
                expired_sign_ins_are_handed_out_with_the_lifetime_that_ended_r42
                due_hands_each_sign_in_to_one_caller
                due_prefers_nobody
            }
            selectors {
                closing_returns_every_member_r23
                looking_at_the_members_changes_nothing_r23
                selectors_of_any_text_are_kept_apart_a12
                members_stay_until_their_sign_in_is_removed
                a_replaced_entry_moves_to_its_new_selectors_r28
                unregistering_leaves_the_others
                a_sign_in_that_is_closed_between_registration_and_creation_is_refused
                registration_is_refused_after_the_selector_was_closed
            }
            marks {
                a_sign_in_that_began_before_the_account_was_removed_is_refused
                a_younger_id_token_passes_the_mark_of_a_logout_token
                a_sign_in_of_unknown_start_is_held_against_iat_only
                the_strictest_of_several_marks_holds
                what_takes_longer_than_marks_are_kept_is_refused_r23_r43
                marks_and_causes_end
            }
            repeats {
                create_again_is_the_same_sign_in
                create_again_after_its_removal_is_refused
                create_again_tells_of_the_same_evictions
                create_again_is_refused_again
                remove_again_returns_the_same_and_removes_no_more
                due_again_returns_the_same
                close_again_returns_the_same_members
                replace_again_is_done_once
                rekey_again_is_true
                the_other_changes_can_be_repeated
            }
            names {
                a_claim_has_one_holder
                a_claim_that_is_settled_is_kept_r22
                a_claim_that_is_released_or_forgotten_can_be_made_again_r22
                a_lease_has_one_holder_who_knows_what_is_left
                an_ended_lease_is_not_the_former_holders_to_end
                claims_and_leases_of_one_name_are_different_things
                of_many_who_claim_at_once_one_wins
            }
            derived {
                derived_tokens_live_with_their_sign_in_r35_a7
                derived_tokens_go_when_their_subject_token_is_replaced
                derived_tokens_of_unknown_subject_are_not_kept
                the_derived_token_that_ends_first_leaves_at_the_limit
            }
            outbox {
                an_item_is_handed_out_until_it_is_done
                an_item_is_held_for_one_holder_at_a_time
                a_late_answer_does_not_take_an_item_from_its_next_holder
                an_item_comes_back_when_it_is_to_be_tried_again
                items_do_not_get_older_than_a_day
                two_takers_never_get_the_same_item
            }
            limits {
                an_account_with_too_many_sign_ins_loses_the_least_recently_used
                a_full_store_loses_the_least_recently_used
                what_leaves_for_want_of_room_is_gone_for_good
                too_many_selectors_are_refused
                too_many_claims_and_leases_are_refused
                too_many_outbox_items_are_refused_and_removal_goes_on
                batches_are_bounded
            }
            pairs {
                any_two_operations_in_either_order
                any_two_operations_at_once
                any_operation_at_once_with_expiry
                any_operation_at_once_with_its_own_repetition
                many_sign_ins_and_sign_outs_of_one_account_at_once
            }
            model {
                random_operations_agree_with_a_plain_model
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_contract_tests {
    (($factory:expr) $($module:ident { $($row:ident)* })*) => {
        $(mod $module {
            #[allow(unused_imports)]
            use super::*;
            $(#[test]
            fn $row() {
                use $crate::testing::store_contract::{block_on, rows};
                block_on(rows::$module::$row(&$factory));
            })*
        })*
    };
}

/// One `#[test]` for each row of the contract, on the stores of a [`Factory`].
#[macro_export]
macro_rules! store_contract_tests {
    ($factory:expr) => {
        $crate::__store_contract_rows! { {$crate::__store_contract_tests} $factory }
    };
}

macro_rules! run_rows {
    (($factory:expr) $($module:ident { $($row:ident)* })*) => {
        $($(rows::$module::$row($factory).await;)*)*
    };
}

/// Goes through all rows; the first that fails panics. On a runtime with several threads.
pub async fn run(factory: &dyn Factory) {
    crate::__store_contract_rows! { {run_rows} factory }
}
