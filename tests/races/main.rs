//! Random interleavings of everything that can happen to a sign-in, against the real cache, with a provider and a store
//! whose answers come when the schedule says so, and logouts from everywhere: promises 1 and 4, R14, R23, R31, R43, A2, A8, and with
//! a shared store A6.
//!
//! A schedule is a seed. One that fails is named with the seed, and `RACE_SEED=…` replays it alone; `RACE_SCHEDULES=…` sets how
//! many are run.

mod provider;
mod schedule;
mod store;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

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

fn run_all(mode: schedule::Mode, count: u64) {
    let keys = Arc::new(provider::Keys::new());
    if let Some(seed) = number("RACE_SEED") {
        schedule::run(mode, seed, &keys);
        return;
    }
    for seed in 0..number("RACE_SCHEDULES").unwrap_or(count) {
        let outcome =
            std::panic::catch_unwind(AssertUnwindSafe(|| schedule::run(mode, seed, &keys)));
        if outcome.is_err() {
            panic!("schedule {seed} failed; replay it with RACE_SEED={seed}");
        }
    }
}

/// One process, and a store that always answers.
#[test]
fn one_node() {
    run_all(schedule::Mode::OneNode, 500);
}

/// One process, and a store that fails at times, before or after it did what it was asked.
#[test]
fn one_node_with_a_store_that_fails() {
    run_all(schedule::Mode::FailingStore, 400);
}

/// A store that others share: accounts are removed there without this process being told.
#[test]
fn a_shared_store() {
    run_all(schedule::Mode::SharedStore, 400);
}
