//! Back-channel logout under load: no legitimate call is refused, and what forged ones leave behind is nothing. A small part
//! of what `cargo bench --bench back_channel_load` does, which takes minutes in a build without optimisation.

mod load;

use load::Load;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_legitimate_call_is_refused_and_forged_ones_leave_nothing_r22_r23_r24_r26() {
    load::under(Load {
        accounts: 2_500,
        calls: 1_600,
        rate: 1_000,
    })
    .await;
}
