//! Interleavings of everything that can happen to a sign-in, against the real cache, with a provider and a store whose answers
//! come when the schedule says so, and logouts from everywhere: promises 1 and 4, R14, R23, R29, R31, R43, A2, A8, and with a
//! shared store A6. After every step: nobody gets a token after its eviction; a sign-in has one refresh under way at most; no
//! refresh token is sent again after its answer was read; every token whose answer was read is in the cache, revoked or in the
//! outbox.
//!
//! * [`schedule`]: random ones. A schedule is a seed. One that fails is named with the seed, and `RACE_SEED=…` replays it alone;
//!   `RACE_SCHEDULES=…` sets how many are run, by all tests of that kind together, and `RACE_FIRST=…` the first seed of each, to
//!   go on where a run ended. `scripts/nightly` runs a million.
//! * [`exhaustive`]: all schedules of small scenarios.
//!
//! `loom` and `shuttle` would look at every order by themselves, but see only what is built on their own replacements of
//! `std::sync` and of tokio: here that would have to be tokio-util, futures, tower-sessions and axum too. `turmoil` draws at random, as we
//! do. Tasks of this crate meet at awaits, in the store and at the provider: a runtime of one thread, and a choice at each of these
//! places, give every order of them.

mod exhaustive;
mod gates;
mod ledger;
mod provider;
mod schedule;
mod store;
mod world;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use world::Mode;

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.draw() % bound as u64) as usize
    }

    pub fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

/// What a replay says: `RUST_LOG=races,axum_signout=debug`.
fn trace() {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    // Another test's replay may have set it already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time()
        .with_writer(std::io::stderr)
        .try_init();
}

/// How many tests run random schedules.
const TESTS: u64 = 3;

/// Runs schedules, so many unless the environment says otherwise, and sees to it that all of these things happened.
fn run_all(mode: Mode, count: u64, must_happen: &[&str]) {
    let keys = Arc::new(provider::Keys::new());
    if let Some(seed) = number("RACE_SEED") {
        trace();
        schedule::run(mode, seed, &keys);
        return;
    }
    let wanted = number("RACE_SCHEDULES").map(|all| all.div_ceil(TESTS));
    let wanted = wanted.unwrap_or(count);
    let first = number("RACE_FIRST").unwrap_or(0);
    let mut happened = BTreeMap::<_, usize>::new();
    for seed in first..first + wanted {
        if seed > first && seed % 50_000 == 0 {
            println!("{} of {wanted} schedules, {mode:?}", seed - first);
        }
        let run = || schedule::run(mode, seed, &keys);
        let Ok(tally) = std::panic::catch_unwind(AssertUnwindSafe(run)) else {
            panic!("schedule {seed} failed; replay it with RACE_SEED={seed}");
        };
        for (what, times) in tally {
            *happened.entry(what).or_default() += times;
        }
    }
    println!("{wanted} schedules from {first}, {mode:?}: {happened:#?}");
    if wanted >= count {
        let never = must_happen
            .iter()
            .filter(|what| !happened.contains_key(*what));
        let never: Vec<_> = never.collect();
        assert!(never.is_empty(), "the schedules never met {never:?}");
    }
}

/// What every kind of schedule is to meet.
const USUAL: &[&str] = &[
    "a token that was served",
    "a refresh",
    "a refresh ahead of time",
    "an answer that was discarded",
    "a caller that left while it waited for a token",
    "a caller that left in the middle of something else",
    "UserSignOut",
    "SignOutOthers",
    "FrontChannel",
    "BackChannel",
    "Idle",
    "RefreshRejected",
    "Replaced",
];

/// One process, and a store that always answers.
#[test]
fn one_node() {
    run_all(Mode::OneNode, 400, USUAL);
}

/// One process, and a store that fails at times, before or after it did what it was asked.
#[test]
fn one_node_with_a_store_that_fails() {
    let failing = ["a call of the store that failed"];
    run_all(Mode::FailingStore, 400, &[USUAL, &failing].concat());
}

/// A store that others share: accounts are removed there without this process being told.
#[test]
fn a_shared_store() {
    run_all(Mode::SharedStore, 400, &[USUAL, &["Operator"]].concat());
}
