//! Many who wait for one refresh. A small part of what `cargo bench --bench storm` does.

mod storm;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_waiters_makes_one_refresh_and_all_get_its_token_r29() {
    let mut storm = storm::Storm::start().await;
    for _ in 0..3 {
        storm.break_loose(1_000).await;
    }
}
