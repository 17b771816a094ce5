//! Taking sign-ins out, for good.

use futures_util::future::join_all;

use super::inner::Cache;
use super::pending::Held;
use crate::cause::Cause;
use crate::events;
use crate::hooks::Eviction;
use crate::report::{EvictedSignIn, HookOutcome};
use crate::store::{Removed, StoreError, Target};

/// One thing to take out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) target: Target,
    pub(crate) cause: Cause,
    pub(crate) logout_iat: Option<i64>,
}

impl Order {
    pub(crate) fn new(target: Target, cause: Cause) -> Self {
        Self {
            target,
            cause,
            logout_iat: None,
        }
    }
}

/// What became of orders.
#[derive(Debug, Default)]
pub(crate) struct Evicted {
    pub(crate) evictions: Vec<Eviction>,
    /// Orders that the store has not confirmed.
    pub(crate) pending: usize,
    /// How many of those are not retried.
    pub(crate) not_retried: usize,
    /// How many of the evictions left tokens in the outbox.
    pub(crate) to_revoke: usize,
}

impl Evicted {
    /// Together with what became of others.
    pub(super) fn add(&mut self, more: Self) {
        self.evictions.extend(more.evictions);
        self.pending += more.pending;
        self.not_retried += more.not_retried;
        self.to_revoke += more.to_revoke;
    }

    /// One order more that is pending, and whether it is retried.
    pub(super) fn pending(&mut self, retried: bool) {
        self.pending += 1;
        self.not_retried += usize::from(!retried);
    }

    pub(super) fn of(evictions: Vec<Eviction>) -> Self {
        let to_revoke = |eviction: &&Eviction| eviction.removed().to_revoke;
        Self {
            to_revoke: evictions.iter().filter(to_revoke).count(),
            evictions,
            pending: 0,
            not_retried: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.evictions.is_empty() && self.pending == 0
    }

    /// For a report.
    pub(crate) fn sign_ins(&self) -> Vec<EvictedSignIn> {
        let of = |eviction: &Eviction| EvictedSignIn {
            sign_in: eviction.sign_in(),
            issuer: eviction.account().issuer().to_owned(),
            subject: eviction.account().subject().to_owned(),
            cause: eviction.cause(),
            tokens: eviction.count(),
            account: eviction.removed().address.account,
        };
        self.evictions.iter().map(of).collect()
    }
}

impl Cache {
    /// Carries orders out. When this returns, no `acquire` on this node that begins later gets any of those tokens,
    /// whether the store answered or not. To be called from a task that is not stopped halfway; hooks and report are the
    /// caller's next step ([`conclude`](Self::conclude)).
    pub(crate) async fn evict(&self, orders: &[Order], correlation_id: &str) -> Evicted {
        self.start_background();
        // Side by side: a store that hangs costs one wait, not one for each.
        let removals = join_all(orders.iter().map(async |order| {
            let removal = self.removal(order.cause, order.logout_iat);
            let removed = self.0.store.remove(&order.target, &removal).await;
            (order, removal, removed)
        }));
        let mut evicted = Evicted::default();
        for (order, removal, removed) in removals.await {
            match removed {
                Ok(removed) => {
                    self.gone(&order.target, order.cause);
                    evicted.to_revoke += removed.iter().filter(|r| r.to_revoke).count();
                    evicted
                        .evictions
                        .extend(self.finish(removed, correlation_id));
                }
                Err(error) => {
                    let held = Held::Target(order.target);
                    evicted.pending(self.hold_back(held, removal, correlation_id, &error));
                }
            }
        }
        evicted
    }

    /// Another eviction, of this node or another, may have been first: then nothing was there, and requests here may hold it for a
    /// while still. Of many, some may have come since and stay.
    fn gone(&self, target: &Target, cause: Cause) {
        let live = &self.0.live;
        match target {
            Target::SignIn(address) => live.end(address, cause),
            Target::Account(account) => live.doubt_account(account, None),
            Target::AccountExcept(account, id) => live.doubt_account(account, Some(id)),
            // Whether it is the one that was meant, only the removal could tell.
            Target::SignInAt(..) => {}
        }
    }

    /// [`finish`](Self::finish), for sign-ins that left each for itself.
    pub(super) fn finish_each(&self, removed: Vec<Removed>) -> Vec<Eviction> {
        removed
            .into_iter()
            .flat_map(|removed| self.finish(vec![removed], &Self::correlation_id()))
            .collect()
    }

    /// What follows a removal in the store: running requests lose their tokens, and the outbox is looked at.
    pub(super) fn finish(&self, removed: Vec<Removed>, correlation_id: &str) -> Vec<Eviction> {
        for removed in &removed {
            self.0.live.end(&removed.address, removed.cause);
            self.0.clone().notice(removed.address, removed.cause);
        }
        if removed.iter().any(|removed| removed.to_revoke) {
            self.0.outbox.notify_one();
        }
        removed
            .into_iter()
            .map(|removed| {
                let eviction = Eviction::new(removed, correlation_id);
                let address = eviction.removed().address;
                events::evicted(
                    self.who(&address.account, eviction.account()),
                    address.id,
                    eviction.cause(),
                    eviction.count(),
                    correlation_id,
                );
                eviction
            })
            .collect()
    }

    /// Tells the hooks, and waits for them, each for its time limit at most.
    pub(crate) async fn tell(&self, evictions: &[Eviction]) -> Vec<HookOutcome> {
        if evictions.is_empty() {
            return Vec::new();
        }
        self.0.hooks.evicted(&self.0.tasks, evictions).await
    }

    /// Evicts what is named; hooks and report follow in the background.
    pub(crate) async fn evict_quietly(&self, order: Order) {
        let correlation_id = Self::correlation_id();
        let evicted = self.evict(&[order], &correlation_id).await;
        self.conclude_later(order.cause, &correlation_id, evicted);
    }

    /// Evicts the sign-ins whose idle or absolute time is up. Runs by itself; for those who inject a clock.
    pub(crate) async fn evict_due(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        loop {
            let removal = self.removal(Cause::Idle, None);
            let removed = self.0.store.due(&removal).await?;
            if removed.is_empty() {
                return Ok(count);
            }
            count += removed.len();
            let evictions = self.finish_each(removed);
            self.conclude_each(evictions).await;
        }
    }
}
