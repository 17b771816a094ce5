//! What the contract leaves open: sizes, what is forgotten first, and what is cleared away when.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::account::Account;
use crate::cause::Cause;
use crate::clock::ManualClock;
use crate::id::Locator;
use crate::id::{SessionKey, SignInId};
use crate::store::{Lifetimes, RevokeRule};
use crate::store::{Lookup, Target, TokenStore};
use crate::token::TokenSet;

struct Store {
    clock: Arc<ManualClock>,
    store: MemoryTokenStore,
}

fn store(set_up: impl FnOnce(MemoryTokenStoreBuilder) -> MemoryTokenStoreBuilder) -> Store {
    let clock = Arc::new(ManualClock::new());
    let builder = MemoryTokenStore::builder().clock(clock.clone());
    let store = set_up(builder).build().unwrap();
    Store { clock, store }
}

fn locator(account: u64) -> Locator {
    Locator {
        address: Address {
            account: AccountHash::of(&[&account.to_be_bytes()]),
            id: SignInId::random(),
        },
        key: SessionKey::random(),
    }
}

fn entry(selectors: &[Selector]) -> Arc<Entry> {
    Arc::new(Entry {
        account: Account::new("https://login.example.com", "ann"),
        client_id: "app".into(),
        tokens: TokenSet::new().with_refresh_token("r"),
        lifetimes: Lifetimes {
            idle: Duration::from_secs(7200),
            absolute: Duration::from_secs(72 * 3600),
        },
        selectors: selectors.into(),
        label: None,
    })
}

fn removal() -> Removal {
    Removal {
        operation: OperationId::random(),
        cause: Cause::UserSignOut,
        revoke: RevokeRule::Nothing,
        mark_for: Duration::from_secs(600),
        logout_iat: None,
    }
}

impl Store {
    async fn started(&self) -> Started {
        Started {
            at: Some(self.store.now().await.unwrap()),
            id_token_iat: None,
        }
    }

    async fn sign_in(&self, account: u64) -> (Locator, Created) {
        let locator = locator(account);
        let started = self.started().await;
        let created = self
            .store
            .create(&locator, entry(&[]), &started, &removal())
            .await;
        (locator, created.unwrap())
    }
}

#[tokio::test]
async fn the_clock_of_the_store_is_later_at_each_call_while_time_stands_still() {
    let Store { store, .. } = store(|b| b);
    let mut last = store.now().await.unwrap();
    for _ in 0..1000 {
        let next = store.now().await.unwrap();
        assert!(next > last);
        last = next;
    }
}

#[tokio::test]
async fn members_of_a_sign_in_that_was_abandoned_are_cleared_away() {
    let test = store(|b| b);
    let selector = Selector::sid("i", "c", "s");
    let (abandoned, kept) = (locator(1), locator(2));
    for locator in [&abandoned, &kept] {
        let started = test.started().await;
        let registered = test.store.register(&selector, &locator.address, &started);
        assert_eq!(registered.await.unwrap(), Registered::Done);
    }
    let started = test.started().await;
    let mut live = (*entry(&[selector])).clone();
    live.lifetimes.idle = Duration::from_secs(72 * 3600);
    let created = test
        .store
        .create(&kept, Arc::new(live), &started, &removal())
        .await;
    assert!(matches!(created.unwrap(), Created::Done { .. }));
    test.clock.advance(Duration::from_secs(3601));
    assert_eq!(test.store.stats().await.unwrap().selector_members, 1);
    let members = test.store.close(&selector, &removal()).await.unwrap();
    assert_eq!(members, [kept.address]);
}

#[tokio::test]
async fn a_sign_in_that_is_created_after_its_members_were_cleared_away_is_found_all_the_same_r23() {
    let test = store(|b| b);
    let selector = Selector::sid("i", "c", "s");
    let late = locator(1);
    let started = test.started().await;
    let registered = test.store.register(&selector, &late.address, &started);
    assert_eq!(registered.await.unwrap(), Registered::Done);
    test.clock.advance(Duration::from_secs(2 * 3600));
    assert_eq!(test.store.stats().await.unwrap().selector_members, 0);
    // Where a user may take longer at the provider than members wait.
    let mut removal = removal();
    removal.mark_for = Duration::from_secs(3 * 3600);
    let created = test
        .store
        .create(&late, entry(&[selector]), &started, &removal)
        .await;
    assert!(matches!(created.unwrap(), Created::Done { .. }));
    let members = test.store.close(&selector, &removal).await.unwrap();
    assert_eq!(members, [late.address]);
}

#[tokio::test]
async fn marks_that_had_to_be_forgotten_still_refuse_what_started_before_them() {
    let test = store(|b| b);
    let bucket_of_one = |n: u64| {
        let mut bytes = [0; 32];
        bytes[8..16].copy_from_slice(&n.to_be_bytes());
        AccountHash::from_bytes(bytes)
    };
    let first = bucket_of_one(0);
    let before = test.started().await;
    for n in 0..2 * MIN_MARKS as u64 {
        let target = Target::Account(bucket_of_one(n));
        test.store.remove(&target, &removal()).await.unwrap();
    }
    assert!(test.store.stats().await.unwrap().marks <= 3 * MIN_MARKS);
    let after = test.started().await;
    for (started, refused) in [(before, true), (after, false)] {
        let mut locator = locator(0);
        locator.address.account = first;
        let created = test
            .store
            .create(&locator, entry(&[]), &started, &removal())
            .await;
        assert_eq!(matches!(created.unwrap(), Created::Refused), refused);
    }
}

#[tokio::test]
async fn about_the_least_recently_used_leave_a_large_store() {
    let test = store(|b| b.max_sign_ins(5_000));
    let mut order = Vec::new();
    for n in 0..5_000 {
        order.push(test.sign_in(n).await.0.address);
    }
    let mut evicted = HashSet::new();
    for n in 5_000..6_000 {
        match test.sign_in(n).await.1 {
            Created::Done { evicted: gone } => {
                evicted.extend(gone.iter().map(|removed| removed.address));
            }
            Created::Refused => panic!("nothing was marked"),
        }
    }
    assert_eq!(evicted.len(), 1_000);
    let oldest_half = order[..2_500].iter();
    let share = oldest_half.filter(|at| evicted.contains(at)).count();
    assert!(share > 990, "{share} of 1000 were from the older half");
    assert_eq!(test.store.stats().await.unwrap().sign_ins, 5_000);
}

#[tokio::test]
async fn timers_of_sign_ins_that_left_early_do_not_pile_up() {
    let test = store(|b| b);
    for _ in 0..2_000 {
        let (locator, _) = test.sign_in(7).await;
        let target = Target::SignIn(locator.address);
        test.store.remove(&target, &removal()).await.unwrap();
    }
    let stripe = AccountHash::of(&[&7u64.to_be_bytes()]).bucket();
    let bucket = test.store.buckets.lock(stripe);
    assert!(bucket.timer_count() <= 65);
    drop(bucket);
}

/// A clock that runs something when it is read for the n-th time: the one place where a test gets between the steps of
/// a call, always at the same point, however busy the machine is.
#[derive(Default)]
struct Between {
    reads: AtomicU64,
    at: AtomicU64,
    work: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Between")
    }
}

impl Clock for Between {
    fn wall(&self) -> Timestamp {
        Timestamp::from_secs(1_000_000)
    }

    fn steady(&self) -> Timestamp {
        if self.reads.fetch_add(1, Ordering::SeqCst) + 1 == self.at.load(Ordering::SeqCst) {
            let work = lock(&self.work).take();
            if let Some(work) = work {
                work();
            }
        }
        self.wall()
    }
}

/// What happens to a sign-in between the first look at its bucket and the step that creates it.
#[test]
fn what_comes_between_the_steps_of_a_creation_stops_it() {
    type Meanwhile = fn(&Locator) -> Target;
    let rows: [(&str, Meanwhile); 3] = [
        ("signed out everywhere", |new| {
            Target::Account(new.address.account)
        }),
        ("signed out elsewhere", |new| {
            Target::AccountExcept(new.address.account, SignInId::random())
        }),
        ("closed, and removed before it is there", |new| {
            Target::SignIn(new.address)
        }),
    ];
    for (name, target) in rows {
        // The second and third reading are those for its selector, where the lock of the bucket is free.
        for at in [2, 3] {
            let clock = Arc::new(Between::default());
            let builder = MemoryTokenStore::builder().clock(clock.clone());
            let store = Arc::new(builder.build().unwrap());
            let (new, selector) = (locator(1), Selector::sid("i", "c", "s"));
            let started = Started {
                at: Some(ready(store.now())),
                id_token_iat: None,
            };
            assert_eq!(
                ready(store.register(&selector, &new.address, &started)),
                Registered::Done
            );
            let (other, target) = (store.clone(), target(&new));
            *lock(&clock.work) = Some(Box::new(move || {
                assert!(ready(other.remove(&target, &removal())).is_empty());
            }));
            clock.reads.store(0, Ordering::SeqCst);
            clock.at.store(at, Ordering::SeqCst);
            let removal = removal();
            let created = ready(store.create(&new, entry(&[selector]), &started, &removal));
            assert!(lock(&clock.work).is_none(), "{name}: nothing came between");
            assert!(matches!(created, Created::Refused), "{name}, at {at}");
            let found = ready(store.get(&new.address));
            assert!(matches!(found, Lookup::Gone(_)), "{name}, at {at}");
            let stats = ready(store.stats());
            assert_eq!((stats.sign_ins, stats.selector_members), (0, 0), "{name}");
        }
    }
}

#[test]
fn a_creation_that_is_sent_twice_at_once_is_created_once() {
    let clock = Arc::new(Between::default());
    let builder = MemoryTokenStore::builder().clock(clock.clone());
    let store = Arc::new(builder.build().unwrap());
    let (new, started, removal) = (locator(1), Started::default(), removal());
    let selectors = [Selector::sid("i", "c", "s")];
    let (other, again) = (store.clone(), new.clone());
    *lock(&clock.work) = Some(Box::new(move || {
        // Without selectors, whose lock is held here.
        let created = ready(other.create(&again, entry(&[]), &started, &removal));
        assert!(matches!(created, Created::Done { .. }));
    }));
    clock.at.store(2, Ordering::SeqCst);
    let created = ready(store.create(&new, entry(&selectors), &started, &removal));
    assert!(matches!(created, Created::Done { .. }));
    assert!(lock(&clock.work).is_none(), "nothing came between");
    assert_eq!(ready(store.stats()).sign_ins, 1);
    assert_eq!(ready(store.list(&new.address.account)).len(), 1);
}

fn ready<T>(future: impl Future<Output = Result<T>>) -> T {
    use futures_util::FutureExt as _;
    let done = future.now_or_never();
    done.expect("the memory store never waits").unwrap()
}

#[test]
fn a_limit_of_zero_is_refused() {
    type Set = fn(MemoryTokenStoreBuilder) -> MemoryTokenStoreBuilder;
    let rows: [(&str, Set); 5] = [
        ("max_sign_ins", |b| b.max_sign_ins(0)),
        ("max_sign_ins_per_account", |b| {
            b.max_sign_ins_per_account(0)
        }),
        ("max_selectors", |b| b.max_selectors(0)),
        ("max_claims", |b| b.max_claims(0)),
        ("max_outbox", |b| b.max_outbox(usize::MAX)),
    ];
    for (name, set) in rows {
        let error = set(MemoryTokenStore::builder()).build().unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("{name}:")),
            "{error}"
        );
    }
}
