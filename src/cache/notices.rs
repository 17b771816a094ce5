//! What this node hears of sign-ins that ended, here or elsewhere: requests that run lose them at once, and the hooks for every
//! node are told, once.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::inner::{Cache, Inner};
use crate::cause::Cause;
use crate::events;
use crate::hooks::EvictionNotice;
use crate::id::{Address, SignInId};
use crate::store::StoreListener;

/// How many sign-ins a node remembers to have told of, the latest: an announcement comes within a second or is missed.
const MOST_TOLD: usize = 65_536;

/// How many notices are with the hooks at a time. Beyond, hooks are not told.
const MOST_UNDER_WAY: usize = 16_384;

/// Which sign-ins the hooks for every node were told of.
#[derive(Debug, Default)]
pub(super) struct Told {
    ids: Mutex<(HashSet<SignInId>, VecDeque<SignInId>)>,
    under_way: AtomicUsize,
}

impl Told {
    /// Whether nobody was told yet.
    fn first(&self, id: SignInId) -> bool {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *ids;
        if !known.insert(id) {
            return false;
        }
        order.push_back(id);
        if order.len() > MOST_TOLD
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
        true
    }
}

/// A notice that is with the hooks.
struct UnderWay(Arc<Inner>);

impl UnderWay {
    fn enter(inner: Arc<Inner>) -> Option<Self> {
        let before = inner.told.under_way.fetch_add(1, Ordering::Relaxed);
        let entered = Self(inner);
        (before < MOST_UNDER_WAY).then_some(entered)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.told.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Inner {
    /// A sign-in has ended, as far as this node knows.
    pub(super) fn notice(self: Arc<Self>, address: Address, cause: Cause) {
        if !self.hooks.wants_notices() || !self.told.first(address.id) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return events::notice_dropped("no runtime");
        };
        let notice = EvictionNotice::new(address, cause, self.config.clone());
        let Some(entered) = UnderWay::enter(self.clone()) else {
            return events::notice_dropped("too many");
        };
        let tell = async move {
            let inner = &entered.0;
            inner.hooks.noticed(&inner.tasks, notice).await;
        };
        self.tasks.spawn_on(tell, &runtime);
    }
}

impl StoreListener for Inner {
    /// Hooks hear of it from the flag, if a request holds one, or else from here.
    fn ended(&self, address: &Address, cause: Cause) {
        self.live.end(address, cause);
        if let Some(inner) = self
            .live
            .cache()
            .upgrade()
            .filter(|_| !self.stopped.is_cancelled())
        {
            inner.notice(*address, cause);
        }
    }

    fn changed(&self, address: &Address) {
        self.live.doubt(address);
    }

    fn missed(&self) {
        self.live.doubt_all();
    }
}

impl Cache {
    /// Hears of what other nodes do, from now on and for as long as the cache is there.
    pub(super) fn listen(&self) {
        let inner: Weak<Inner> = Arc::downgrade(&self.0);
        self.0.store.listen(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_twice_and_what_is_remembered_is_bounded() {
        let told = Told::default();
        let first = SignInId::random();
        assert!(told.first(first) && !told.first(first));
        for _ in 0..MOST_TOLD - 1 {
            assert!(told.first(SignInId::random()));
        }
        assert!(!told.first(first), "the latest are remembered");
        assert!(told.first(SignInId::random()));
        let (known, order) = &*told.ids.lock().unwrap();
        assert_eq!((known.len(), order.len()), (MOST_TOLD, MOST_TOLD));
        assert!(!known.contains(&first), "the oldest made room");
    }
}
