//! The memory store by number of sign-ins: look-up, and removal of one sign-in, one account, one (issuer, sid).

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use axum_signout::store::{MemoryTokenStore, Target, TokenStore};
use axum_signout::{Locator, OperationId};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use support::{SIZES, empty_store, ready, removal, sid, sign_in};

fn filled(size: u64) -> (MemoryTokenStore, Vec<Locator>) {
    let store = empty_store();
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
