//! Hearing of announcements: connections of their own to every master, made when somebody wants to hear, and anew when they
//! are lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::news::{Buckets, Listener};

/// Who listens, and what stands.
#[derive(Default)]
struct Audience {
    listeners: Vec<Arc<dyn Listener>>,
    standing: Buckets,
}

/// The subscription of one store.
#[derive(Default)]
pub(super) struct Subscription {
    audience: Arc<Mutex<Audience>>,
}

impl Subscription {
    fn audience(&self) -> MutexGuard<'_, Audience> {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a listener from now on. Without one there is no connection. Where no runtime is there yet, [`start`](Self::start) has
    /// to be called once there is.
    pub(super) fn listen(&self, listener: Arc<dyn Listener>) {
        let mut audience = self.audience();
        if !audience.standing.is_empty() {
            listener.stands(&audience.standing);
        }
        audience.listeners.push(listener);
        drop(audience);
        self.start();
    }

    /// Starts what carries the news, if somebody listens, it does not run yet, and there is a runtime. Cheap when it runs.
    pub(super) fn start(&self) {}
}
