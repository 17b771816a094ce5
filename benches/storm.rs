//! 10,000 requests that wait for one refresh: how long after the provider's answer the last of them has its token.

#[path = "../tests/storm/storm.rs"]
mod storm;
mod support;

use std::time::Duration;

use storm::Storm;
use support::is_bench;

/// What is to be reached.
const TARGET: Duration = Duration::from_millis(20);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (waiters, times) = if is_bench() { (10_000, 50) } else { (500, 2) };
    let mut took = runtime.block_on(async {
        let mut storm = Storm::start().await;
        let mut took = Vec::new();
        for _ in 0..times {
            took.push(storm.break_loose(waiters).await);
        }
        took
    });
    took.sort_unstable();
    let within = took.iter().filter(|one| **one <= TARGET).count();
    println!(
        "{waiters} waiters, {times} storms: least {:?}, median {:?}, most {:?}; {within} within {TARGET:?}",
        took[0],
        took[took.len() / 2],
        took[took.len() - 1],
    );
}
