//! The memory store by number of sign-ins: look-up, and removal of one sign-in, one account, one (issuer, sid).

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_signout::store::{
    Created, Entry, Lifetimes, MemoryTokenStore, Removal, RevokeRule, Started, Target, TokenStore,
};
use axum_signout::testing::store_contract::{account, locator};
use axum_signout::{
    AccessToken, Account, Cause, IdToken, Locator, OperationId, Selector, TokenSet,
};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;

const SIZES: [u64; 3] = [1, 10_000, 1_000_000];

/// The memory store never waits, so its futures are ready at once: no runtime is measured along.
fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store never waits")
}

fn sid(number: u64) -> Selector {
    Selector::sid("https://login.example.com", "app", &number.to_string())
}

fn entry(number: u64) -> Arc<Entry> {
    let text = |size: usize| format!("{number:0size$}");
    let access = AccessToken::bearer(text(64))
        .with_scopes(["openid", "profile"])
        .expires_in(Duration::from_secs(3600));
    Arc::new(Entry {
        account: Account::new("https://login.example.com", text(16)),
        client_id: "app".into(),
        tokens: TokenSet::new()
            .with_refresh_token(text(64))
            .with_id_token(IdToken::new(text(128)))
            .with_access_token(access),
        lifetimes: Lifetimes {
            idle: Duration::from_secs(7200),
            absolute: Duration::from_secs(72 * 3600),
        },
        selectors: [sid(number)].into(),
        label: None,
    })
}

fn removal() -> Removal {
    Removal {
        operation: OperationId::random(),
        cause: Cause::UserSignOut,
        revoke: RevokeRule::All,
        mark_for: Duration::from_secs(900),
        logout_iat: None,
    }
}

fn sign_in(store: &MemoryTokenStore, number: u64) -> Locator {
    let locator = locator(&account(number));
    let started = Started {
        at: Some(ready(store.now()).expect("memory does not fail")),
        id_token_iat: None,
    };
    ready(store.register(&sid(number), &locator.address, &started)).expect("there is room");
    let created = ready(store.create(&locator, entry(number), &started, &removal()));
    assert!(matches!(created, Ok(Created::Done { .. })));
    locator
}

fn filled(size: u64) -> (MemoryTokenStore, Vec<Locator>) {
    let store = MemoryTokenStore::builder()
        .max_sign_ins(2_000_000)
        .max_outbox(10_000_000)
        .build()
        .expect("the limits are in range");
    let locators = (0..size).map(|number| sign_in(&store, number)).collect();
    (store, locators)
}

/// Takes one of the sign-ins out for each round, measures that alone, and puts a new one in its place.
fn measure(
    store: &MemoryTokenStore,
    locators: &mut [Locator],
    rounds: u64,
    work: impl Fn(&MemoryTokenStore, u64, &Locator),
) -> Duration {
    let mut total = Duration::ZERO;
    for round in 0..rounds {
        // A stride that is coprime to all sizes: neighbours in time are not neighbours in memory.
        let number = (round * 7919) % locators.len() as u64;
        let slot = &mut locators[number as usize];
        let begin = Instant::now();
        work(store, number, slot);
        total += begin.elapsed();
        *slot = sign_in(store, number);
        let items = if round % 128 == 0 {
            ready(store.outbox_take(OperationId::random(), Duration::from_secs(60)))
        } else {
            Ok(Vec::new())
        };
        for item in items.expect("memory does not fail") {
            ready(store.outbox_done(&item)).expect("memory does not fail");
        }
    }
    total
}

fn store(criterion: &mut Criterion) {
    for size in SIZES {
        let (store, mut locators) = filled(size);
        criterion.bench_with_input(BenchmarkId::new("load", size), &(), |bencher, ()| {
            bencher.iter_custom(|rounds| {
                let (mut total, mut at, mut left) = (Duration::ZERO, 0, rounds);
                while left > 0 {
                    // A request has its locator at hand: fetching it from a list of a million is not measured.
                    let batch: Vec<Locator> = (0..left.min(64))
                        .map(|_| {
                            at = (at + 7919) % locators.len();
                            locators[at].clone()
                        })
                        .collect();
                    let begin = Instant::now();
                    for locator in &batch {
                        let found = ready(store.load(std::slice::from_ref(locator)));
                        black_box(found).expect("memory does not fail");
                    }
                    total += begin.elapsed();
                    left -= batch.len() as u64;
                }
                total
            });
        });
        criterion.bench_with_input(BenchmarkId::new("remove one", size), &(), |bencher, ()| {
            bencher.iter_custom(|rounds| {
                measure(&store, &mut locators, rounds, |store, _, locator| {
                    let target = Target::SignIn(locator.address);
                    black_box(ready(store.remove(&target, &removal()))).expect("removed");
                })
            });
        });
        criterion.bench_with_input(
            BenchmarkId::new("remove account", size),
            &(),
            |bencher, ()| {
                bencher.iter_custom(|rounds| {
                    measure(&store, &mut locators, rounds, |store, _, locator| {
                        let target = Target::Account(locator.address.account);
                        black_box(ready(store.remove(&target, &removal()))).expect("removed");
                    })
                });
            },
        );
        criterion.bench_with_input(BenchmarkId::new("close sid", size), &(), |bencher, ()| {
            bencher.iter_custom(|rounds| {
                measure(&store, &mut locators, rounds, |store, number, _| {
                    let removal = removal();
                    let members = ready(store.close(&sid(number), &removal)).expect("closed");
                    for member in members {
                        let target = Target::SignIn(member);
                        black_box(ready(store.remove(&target, &removal))).expect("removed");
                    }
                })
            });
        });
        criterion.bench_with_input(BenchmarkId::new("nothing due", size), &(), |bencher, ()| {
            bencher.iter(|| black_box(ready(store.due(&removal()))).expect("nothing"));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = store
}
criterion_main!(benches);
