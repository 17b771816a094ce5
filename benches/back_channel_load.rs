//! Back-channel logout under load: 100,000 sign-ins of 50,000 accounts, 2,000 calls a second for ten seconds. It ends with an
//! error if a legitimate call is refused, or a forged one leaves something behind.

#[path = "../tests/back_channel_load/load.rs"]
mod load;
mod support;

use load::Load;
use support::is_bench;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let (accounts, calls) = if is_bench() {
        (50_000, 20_000)
    } else {
        (1_000, 400)
    };
    runtime.block_on(load::under(Load {
        accounts,
        calls,
        rate: 2_000,
    }));
}
