//! What an operator may want to know of Redis and of this node's way to it.

use super::reply::maybe_bytes;
use super::{RedisTokenStore, TierStats};
use crate::store::Measurement::{self, Counter, Gauge};

impl RedisTokenStore {
    pub(super) async fn measurements(&self) -> Vec<Measurement> {
        let mut all = self.memory().await;
        all.push(Gauge(
            "axum_signout_redis_connected",
            f64::from(u8::from(self.link.is_connected())),
        ));
        all.push(Counter(
            "axum_signout_unreadable_values_total",
            self.unreadable(),
        ));
        all.push(Counter(
            "axum_signout_unreadable_announcements_total",
            self.unreadable_announcements(),
        ));
        all.extend(self.tier_stats().iter().flat_map(of_tier));
        all
    }

    /// The whole server's, which others may use as well: what is this app's own could only be had by looking at every key.
    /// Nothing in a cluster, whose masters have an exporter each, and where the user may not call `INFO`.
    async fn memory(&self) -> Vec<Measurement> {
        if self.link.is_cluster() {
            return Vec::new();
        }
        let mut info = redis::cmd("INFO");
        info.arg("memory");
        let said = self.link.send(&info).await.and_then(maybe_bytes);
        let said = said.ok().flatten().unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let named = |name: &str| {
            let mut lines = said.lines();
            lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        let used = named("used_memory:").map(|used| Gauge("axum_signout_redis_used_bytes", used));
        let max = named("maxmemory:").map(|max| Gauge("axum_signout_redis_max_bytes", max));
        used.into_iter().chain(max).collect()
    }
}

/// Hits and look-ups, not their rate: that is for whoever watches to make, over a time of their choice.
fn of_tier(tier: &TierStats) -> [Measurement; 4] {
    [
        Counter("axum_signout_tier_hits_total", tier.hits),
        Counter("axum_signout_tier_misses_total", tier.misses),
        Gauge("axum_signout_tier_sign_ins", tier.sign_ins as f64),
        Gauge("axum_signout_tier_bypassed_buckets", tier.bypassed as f64),
    ]
}
