//! The copies, as many as there may be.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::time::Stamp;
use super::epochs::Epoch;
use crate::clock::Timestamp;
use crate::id::{Address, KeyHash};
use crate::store::Stored;

/// What a look-up found.
pub(super) struct Known {
    pub(super) stored: Stored,
    /// What opens it.
    pub(super) key: KeyHash,
    /// From when on its use is to be noted.
    pub(super) touch_at: Timestamp,
    /// From before the look-up was sent, as is the next.
    pub(super) epoch: Epoch,
    pub(super) sent: Stamp,
    /// The store's time when it answered.
    pub(super) now: Timestamp,
}

impl Known {
    /// What a look-up with this key is told, so long after. `None`: Redis is to be asked, for another node may have given it
    /// another key since, or prolonged it.
    pub(super) fn answer(&self, key: &KeyHash, age: Duration) -> Option<Stored> {
        let now = self.now.plus(age);
        if self.stored.expires <= now || !self.key.is(key) {
            return None;
        }
        Some(Stored {
            touch_due: now >= self.touch_at,
            ..self.stored.clone()
        })
    }
}

/// Where a copy is, for as long as it may be served: moka, and the readers that it waits for, let go of values some time after they have
/// left, and tokens must not wait for that.
struct Slot(Mutex<Option<Known>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn empty(&self) {
        let known = self.lock().take();
        // Wiped outside the lock.
        drop(known);
    }
}

pub(super) struct Copies {
    slots: Cache<Address, Arc<Slot>>,
    good_for: Duration,
    is_swept: Arc<AtomicBool>,
    alive: CancellationToken,
    _until: DropGuard,
}

impl Copies {
    pub(super) fn new(most: usize, good_for: Duration) -> Self {
        let slots = Cache::builder()
            .max_capacity(most as u64)
            // So that they leave; whether one is too old to be served is decided when it is looked at.
            .time_to_live(good_for)
            .eviction_listener(|_, slot: Arc<Slot>, _| slot.empty())
            .build();
        let alive = CancellationToken::new();
        Self {
            slots,
            good_for,
            is_swept: Arc::default(),
            _until: alive.clone().drop_guard(),
            alive,
        }
    }

    /// What `read` makes of the copy at an address.
    pub(super) fn get<T>(
        &self,
        address: &Address,
        read: impl FnOnce(&Known) -> Option<T>,
    ) -> Option<T> {
        let slot = self.slots.get(address)?;
        let known = slot.lock();
        known.as_ref().and_then(read)
    }

    pub(super) fn keep(&self, address: Address, known: Known) {
        self.sweep_from_now_on();
        self.slots
            .insert(address, Arc::new(Slot(Mutex::new(Some(known)))));
    }

    pub(super) fn wipe(&self, address: &Address) {
        self.slots.invalidate(address);
    }

    pub(super) fn count(&self) -> u64 {
        self.slots.run_pending_tasks();
        self.slots.entry_count()
    }

    /// moka looks for old ones when it is used; where nobody signs in any more they would stay.
    fn sweep_from_now_on(&self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        if self.is_swept.swap(true, Ordering::AcqRel) {
            return;
        }
        let swept = Swept(self.is_swept.clone());
        let (slots, alive, every) = (self.slots.clone(), self.alive.clone(), self.good_for);
        runtime.spawn(async move {
            let _swept = swept;
            let gone = async {
                loop {
                    tokio::time::sleep(every).await;
                    sweep(&slots).await;
                }
            };
            alive.run_until_cancelled(gone).await;
        });
    }
}

/// Some at a time.
async fn sweep(slots: &Cache<Address, Arc<Slot>>) {
    loop {
        let before = slots.entry_count();
        slots.run_pending_tasks();
        if slots.entry_count() >= before {
            return;
        }
        tokio::task::yield_now().await;
    }
}

/// A runtime that ends takes its sweeper with it; the next one gets another.
struct Swept(Arc<AtomicBool>);

impl Drop for Swept {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // Those that are too old are not among what is iterated over.
        self.slots.run_pending_tasks();
        for (_, slot) in &self.slots {
            slot.empty();
        }
    }
}
