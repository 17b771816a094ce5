//! How the store does, as gauges, for whoever watches the app.

use std::panic::AssertUnwindSafe;
use std::sync::Weak;

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::inner::{Cache, Inner};
use crate::events;
use crate::store::{Measurement, StoreError};

/// Holds the cache only while it works, as the other loops do.
pub(super) async fn measuring(cache: Weak<Inner>) {
    loop {
        let Some(inner) = cache.upgrade() else { return };
        let Some(pause) = inner.config.measure_every else {
            return;
        };
        let stopped = inner.stopped.clone();
        let measured = AssertUnwindSafe(Cache(inner).measure())
            .catch_unwind()
            .await;
        match measured {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the token store could not be measured"),
            Err(_) => tracing::error!("the token store panicked"),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stopped.cancelled() => return,
        }
    }
}

impl Cache {
    /// What a store that does not answer would say stays as it was; that it did not is said.
    async fn measure(&self) -> Result<(), StoreError> {
        let measured = self.measure_store().await;
        events::gauge(
            "axum_signout_store_up",
            f64::from(u8::from(measured.is_ok())),
        );
        // Afterwards: it includes what became of the connection.
        for one in self.0.store.measure().await {
            match one {
                Measurement::Gauge(name, value) => events::gauge(name, value),
                Measurement::Counter(name, total) => events::total(name, total),
            }
        }
        measured
    }

    async fn measure_store(&self) -> Result<(), StoreError> {
        let asked = Instant::now();
        self.0.store.now().await?;
        let round_trip = asked.elapsed().as_secs_f64();
        let stats = self.0.store.stats().await?;
        let counts = [
            ("axum_signout_sign_ins", stats.sign_ins),
            ("axum_signout_selector_members", stats.selector_members),
            ("axum_signout_marks", stats.marks),
            ("axum_signout_claims", stats.claims),
            ("axum_signout_downstream_tokens", stats.downstream),
            ("axum_signout_outbox", stats.outbox),
        ];
        for (name, count) in counts {
            events::gauge(name, count as f64);
        }
        events::gauge("axum_signout_store_round_trip_seconds", round_trip);
        Ok(())
    }
}
