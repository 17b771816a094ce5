//! What an operator watches: gauges of the store, of Redis, and of this node's way to it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum_signout::store::{MemoryTier, RedisTokenStore, TokenStore as _};
use axum_signout::testing::store_contract::account;
use axum_signout::{Auth, Provider};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

use super::world::{entry, sign_in};
use crate::support::redis::RedisServer;

/// What every gauge and counter shows.
#[derive(Default)]
struct Shown(Mutex<BTreeMap<String, (bool, Arc<AtomicU64>)>>);

impl Shown {
    fn named(&self, key: &Key, is_gauge: bool) -> Arc<AtomicU64> {
        let name = key.name().trim_start_matches("axum_signout_");
        let labels = key.labels().map(|label| format!(" {}", label.value()));
        let name = labels.fold(name.to_owned(), |name, label| name + &label);
        let mut all = self.0.lock().unwrap();
        let (_, value) = all
            .entry(name)
            .or_insert_with(|| (is_gauge, Arc::default()));
        value.clone()
    }
}

impl Recorder for Shown {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.named(key, false))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.named(key, true))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// The tests have one thread each, so that what is set for the thread is set for all of the test.
struct Watch {
    shown: &'static Shown,
    _guard: metrics::LocalRecorderGuard<'static>,
}

impl Watch {
    fn start() -> Self {
        let shown: &'static Shown = Box::leak(Box::default());
        Self {
            shown,
            _guard: metrics::set_default_local_recorder(shown),
        }
    }

    /// Without the crate's prefix.
    fn look(&self) -> BTreeMap<String, f64> {
        let all = self.shown.0.lock().unwrap();
        let values = all.iter().map(|(name, (is_gauge, value))| {
            let value = value.load(Ordering::SeqCst);
            let value = if *is_gauge {
                f64::from_bits(value)
            } else {
                value as f64
            };
            (name.clone(), value)
        });
        values.collect()
    }

    async fn wait_for(&self, name: &str, value: f64) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let known = self.look();
            if known.get(name) == Some(&value) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{name} is not {value}: {known:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn watched(store: Arc<RedisTokenStore>) -> Auth {
    let provider = Provider::discover("https://login.example.com", "app");
    let provider = provider.build().unwrap();
    let auth = Auth::builder(provider, "https://app.example.com")
        .store(store)
        .measure_every(Duration::from_secs(1))
        .build()
        .unwrap();
    // As soon as the layer is made in a runtime, what goes on in the background begins.
    let _ = auth.layer();
    auth
}

#[tokio::test]
async fn the_store_is_measured_now_and_then_and_says_when_redis_is_away_r44() {
    let watch = Watch::start();
    let server = RedisServer::start().await;
    let store = RedisTokenStore::builder(server.url())
        .memory_tier(MemoryTier::new())
        .build()
        .unwrap();
    let store = Arc::new(store);
    let ann = sign_in(&*store, &account(1), entry("ann")).await;
    sign_in(&*store, &account(2), entry("bob")).await;
    let auth = watched(store.clone());

    watch.wait_for("sign_ins", 2.0).await;
    watch.wait_for("store_up", 1.0).await;
    watch.wait_for("redis_connected", 1.0).await;
    let known = watch.look();
    assert_eq!(known["selector_members"], 2.0);
    assert_eq!(known["outbox"], 0.0);
    assert_eq!(known["redis_max_bytes"], 0.0, "no limit is set");
    assert!(known["redis_used_bytes"] > 500_000.0, "{known:?}");
    assert!(known["store_round_trip_seconds"] > 0.0, "{known:?}");
    assert_eq!(known["redis_connections_total made"], 1.0);
    assert_eq!(known["unreadable_values_total"], 0.0);

    // As soon as announcements are heard, the second look-up is answered by a copy.
    watch.wait_for("tier_bypassed_buckets", 0.0).await;
    for _ in 0..2 {
        store.load(std::slice::from_ref(&ann)).await.unwrap();
    }
    let stats = store.tier_stats().unwrap();
    assert_eq!((stats.hits, stats.sign_ins), (1, 1));
    watch.wait_for("tier_hits_total", 1.0).await;
    watch.wait_for("tier_sign_ins", 1.0).await;
    let misses = stats.misses as f64;
    watch.wait_for("tier_misses_total", misses).await;

    let port = server.port();
    drop(server);
    watch.wait_for("store_up", 0.0).await;
    watch.wait_for("redis_connected", 0.0).await;
    let known = watch.look();
    assert!(known["redis_connections_total lost"] >= 1.0, "{known:?}");
    assert!(known["redis_connections_total failed"] >= 1.0, "{known:?}");
    assert_eq!(known["sign_ins"], 2.0, "what was known last");
    let _server = RedisServer::start_at(port).await;
    watch.wait_for("store_up", 1.0).await;
    watch.wait_for("sign_ins", 0.0).await;
    drop(auth);
}

#[tokio::test]
async fn without_a_setting_nothing_is_measured() {
    let provider = Provider::discover("https://login.example.com", "app");
    let builder = Auth::builder(provider.build().unwrap(), "https://app.example.com");
    assert!(
        builder
            .measure_every(Duration::from_millis(999))
            .build()
            .is_err()
    );

    let watch = Watch::start();
    let provider = Provider::discover("https://login.example.com", "app");
    let auth = Auth::builder(provider.build().unwrap(), "https://app.example.com");
    let auth = auth.build().unwrap();
    let _ = auth.layer();
    // What is begun is begun by then.
    auth.shutdown().await;
    assert_eq!(watch.look().get("store_up"), None);
}
