//! Waiting until a sign-in ends: at once by an eviction of this node, or one that the store tells of; else by looking at the store.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::inner::{Cache, Inner};
use super::live::Flag;
use crate::account::Watch;
use crate::cause::Cause;
use crate::store::{Lookup, Stored};

/// How often a store is asked while somebody waits: one that other nodes work on more often, since this node may miss what it tells of their
/// evictions. A round trip for everyone who waits, so not every second.
const LOOK_AT_SHARED: Duration = Duration::from_secs(5);
const LOOK_AT_OWN: Duration = Duration::from_secs(60);

/// A clock that stands still at the end must not keep a processor busy.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

impl Flag {
    /// Waits until the sign-in ends, and says why. It holds neither tokens nor the cache meanwhile, and uses nothing: the idle
    /// time runs. Can be dropped and called again at any point.
    pub(crate) async fn until_ended(&self) -> Cause {
        tokio::select! {
            biased;
            cause = self.wait() => cause,
            cause = gone(self, self.cache()) => cause,
        }
    }
}

impl Watch for Flag {
    fn ended(self: Arc<Self>) -> BoxFuture<'static, Cause> {
        async move { self.until_ended().await }.boxed()
    }
}

/// Looks at the store until the sign-in is not there any more.
async fn gone(flag: &Flag, inner: Weak<Inner>) -> Cause {
    loop {
        // Nobody is left who could sign anyone in or out.
        let Some(inner) = inner.upgrade() else {
            return Cause::SessionEnded;
        };
        let cache = Cache(inner);
        let looked = look(flag, &cache).await;
        drop(cache);
        match looked {
            Ok(pause) => tokio::time::sleep(pause).await,
            Err(Ended(cause)) => return cause,
        }
    }
}

struct Ended(Cause);

/// How long to wait before the next look.
async fn look(flag: &Flag, cache: &Cache) -> Result<Duration, Ended> {
    let longest = match cache.store().is_shared() {
        true => LOOK_AT_SHARED,
        false => LOOK_AT_OWN,
    };
    let found = cache.store().get(&flag.address()).await;
    let clock = cache.clock();
    match found {
        Ok(Lookup::Live(stored)) => {
            // By the store's clock, which may be far from this node's.
            let left = match cache.store().now().await {
                Ok(now) => stored.expires.since(now),
                Err(_) => longest_left(&stored),
            };
            flag.known_end().replace(clock.steady().plus(left));
            Ok(left.clamp(SHORTEST_PAUSE, longest))
        }
        Ok(Lookup::Moved) => Ok(longest),
        Ok(Lookup::Gone(cause)) => {
            let cause = cause.unwrap_or(Cause::SessionEnded);
            flag.end(cause);
            Err(Ended(cause))
        }
        // Nobody can tell whether it was used elsewhere: what was known last counts, so that a store that is away prolongs
        // nothing. Without an earlier look that is what the request loaded.
        Err(error) => {
            let now = clock.steady();
            let loaded = || {
                flag.known()
                    .map_or(Duration::ZERO, |known| longest_left(&known))
            };
            let end = *flag.known_end().get_or_insert_with(|| now.plus(loaded()));
            if end <= now {
                return Err(Ended(Cause::Idle));
            }
            tracing::debug!(%error, "whether a sign-in has ended is not known");
            Ok(longest)
        }
    }
}

/// What can be left of it at most if nobody uses it meanwhile, whatever the store's clock shows.
fn longest_left(stored: &Stored) -> Duration {
    let absolute = stored.created.plus(stored.entry.lifetimes.absolute);
    let absolute = absolute.since(stored.last_used);
    stored.entry.lifetimes.idle.min(absolute)
}
