//! Taking sign-ins out, for good.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::inner::Cache;
use crate::cause::Cause;
use crate::hooks::Eviction;
use crate::id::{AccountHash, Address, SignInId};
use crate::report::{EvictedSignIn, HookOutcome};
use crate::store::{Removal, Removed, StoreError, StoreErrorKind, Target};

/// How long an eviction waits for the store before it is held as pending.
const STORE_WAIT: Duration = Duration::from_secs(5);

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
    /// How many of the evictions left tokens in the outbox.
    pub(crate) to_revoke: usize,
}

impl Evicted {
    /// For a report.
    pub(crate) fn sign_ins(&self) -> Vec<EvictedSignIn> {
        let of = |eviction: &Eviction| EvictedSignIn {
            sign_in: eviction.sign_in(),
            issuer: eviction.account().issuer().to_owned(),
            subject: eviction.account().subject().to_owned(),
            cause: eviction.cause(),
            tokens: eviction.count(),
        };
        self.evictions.iter().map(of).collect()
    }
}

impl Cache {
    /// Carries orders out. When this returns, no `acquire` on this node that begins later gets any of those tokens,
    /// whether the store answered or not. To be called from a task that is not stopped halfway; hooks are the caller's
    /// next step ([`tell`](Self::tell)).
    pub(crate) async fn evict(&self, orders: &[Order], correlation_id: &str) -> Evicted {
        let mut evicted = Evicted::default();
        for order in orders {
            let removal = self.removal(order.cause, order.logout_iat);
            match self.remove(&order.target, &removal).await {
                Ok(removed) => {
                    evicted.to_revoke += removed.iter().filter(|r| r.to_revoke).count();
                    evicted
                        .evictions
                        .extend(self.finish(removed, correlation_id));
                }
                Err(error) => {
                    evicted.pending += 1;
                    self.hold_back(order.target, removal, correlation_id, &error);
                }
            }
        }
        evicted
    }

    /// A store that hangs is one whose answer is not known.
    async fn remove(&self, target: &Target, removal: &Removal) -> Result<Vec<Removed>, StoreError> {
        match tokio::time::timeout(STORE_WAIT, self.0.store.remove(target, removal)).await {
            Ok(removed) => removed,
            Err(_) => Err(StoreError::new(
                StoreErrorKind::Unknown,
                "the token store did not answer in time",
            )),
        }
    }

    /// What follows a removal in the store: running requests lose their tokens, and the outbox is looked at.
    pub(super) fn finish(&self, removed: Vec<Removed>, correlation_id: &str) -> Vec<Eviction> {
        for removed in &removed {
            self.0.live.end(&removed.address.id, removed.cause);
        }
        if removed.iter().any(|removed| removed.to_revoke) {
            self.0.outbox.notify_one();
        }
        removed
            .into_iter()
            .map(|removed| {
                let eviction = Eviction::new(removed, correlation_id);
                tracing::info!(
                    target: "axum_signout::eviction",
                    cause = %eviction.cause(),
                    sign_in = %eviction.sign_in(),
                    account = %eviction.removed().address.account,
                    tokens = eviction.count(),
                    correlation_id,
                    "evicted"
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

    /// Evicts what is named and tells the hooks in the background.
    pub(crate) async fn evict_quietly(&self, order: Order) {
        let correlation_id = crate::id::OperationId::random().to_string();
        let evicted = self.evict(&[order], &correlation_id).await;
        let cache = self.clone();
        self.0
            .tasks
            .spawn(async move { cache.tell(&evicted.evictions).await });
    }

    /// The store did not confirm a removal: this node serves those tokens no more, and tries until it is done.
    fn hold_back(&self, target: Target, removal: Removal, correlation: &str, error: &StoreError) {
        tracing::error!(
            target: "axum_signout::eviction",
            %error,
            cause = %removal.cause,
            account = %target.account(),
            correlation_id = correlation,
            "eviction pending"
        );
        // Before the flags: a request that opens the sign-in after they were flipped must find it here.
        let retried = self.0.pending.add(target);
        match target {
            Target::SignIn(address) | Target::SignInAt(address, _) => {
                self.0.live.end(&address.id, removal.cause);
            }
            Target::Account(account) => self.0.live.end_account(&account, None, removal.cause),
            Target::AccountExcept(account, id) => {
                self.0.live.end_account(&account, Some(&id), removal.cause);
            }
        }
        if !retried {
            tracing::error!("too many evictions are pending: one more is not retried");
            return;
        }
        let (cache, correlation_id) = (self.clone(), correlation.to_owned());
        // Not in the tracker: a shutdown does not wait for a store that is away.
        tokio::spawn(async move { cache.retry(target, removal, &correlation_id).await });
    }

    async fn retry(&self, target: Target, removal: Removal, correlation_id: &str) {
        let given_up = self
            .0
            .clock
            .steady()
            .plus(self.0.config.lifetimes.idle + removal.mark_for);
        let mut pause = Duration::from_millis(100);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Still pending, so still not served.
                () = self.0.stopped.cancelled() => return,
            }
            pause = (pause * 2).min(Duration::from_secs(30));
            match self.remove(&target, &removal).await {
                Ok(removed) => {
                    let evictions = self.finish(removed, correlation_id);
                    self.0.pending.done(&target);
                    tracing::info!(
                        target: "axum_signout::eviction",
                        cause = %removal.cause,
                        account = %target.account(),
                        correlation_id,
                        "pending eviction done"
                    );
                    self.tell(&evictions).await;
                    return;
                }
                // By then the entry has ended by itself.
                Err(_) if self.0.clock.steady() > given_up => break,
                Err(error) => tracing::warn!(%error, correlation_id, "eviction still pending"),
            }
        }
        self.0.pending.done(&target);
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
            let evictions = self.finish(removed, &removal.operation.to_string());
            self.tell(&evictions).await;
        }
    }
}

/// Removals that the store has not confirmed.
#[derive(Debug, Default)]
pub(super) struct PendingEvictions {
    count: AtomicUsize,
    targets: Mutex<Targets>,
}

#[derive(Debug, Default)]
struct Targets {
    sign_ins: HashMap<SignInId, u32>,
    accounts: HashMap<AccountHash, Vec<Option<SignInId>>>,
}

/// Most removals that are retried at the same time.
const MAX_PENDING: usize = 100_000;

impl PendingEvictions {
    fn add(&self, target: Target) -> bool {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if self.count.load(Ordering::SeqCst) >= MAX_PENDING {
            return false;
        }
        match target {
            Target::SignIn(address) | Target::SignInAt(address, _) => {
                *targets.sign_ins.entry(address.id).or_default() += 1;
            }
            Target::Account(account) => targets.accounts.entry(account).or_default().push(None),
            Target::AccountExcept(account, id) => {
                targets.accounts.entry(account).or_default().push(Some(id));
            }
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn done(&self, target: &Target) {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        match target {
            Target::SignIn(address) | Target::SignInAt(address, _) => {
                if let Some(count) = targets.sign_ins.get_mut(&address.id) {
                    *count -= 1;
                    if *count == 0 {
                        targets.sign_ins.remove(&address.id);
                    }
                }
            }
            Target::Account(account) => targets.account_done(account, None),
            Target::AccountExcept(account, id) => targets.account_done(account, Some(*id)),
        }
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether a sign-in is one that must not be served.
    pub(super) fn covers(&self, address: &Address) -> bool {
        if self.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.sign_ins.contains_key(&address.id)
            || targets
                .accounts
                .get(&address.account)
                .is_some_and(|but| but.iter().any(|but| *but != Some(address.id)))
    }
}

impl Targets {
    fn account_done(&mut self, account: &AccountHash, but: Option<SignInId>) {
        if let Some(list) = self.accounts.get_mut(account) {
            if let Some(at) = list.iter().position(|have| *have == but) {
                list.swap_remove(at);
            }
            if list.is_empty() {
                self.accounts.remove(account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_evictions_cover_what_they_name_only() {
        let account = AccountHash::of(&[b"a"]);
        let address = |account| Address {
            account,
            id: SignInId::random(),
        };
        let (one, two) = (address(account), address(account));
        let other = address(AccountHash::of(&[b"b"]));
        let pending = PendingEvictions::default();
        let covered = |p: &PendingEvictions| [one, two, other].map(|a| p.covers(&a));
        let rows = [
            (Target::SignIn(one), [true, false, false]),
            (Target::Account(account), [true, true, false]),
            (Target::AccountExcept(account, two.id), [true, false, false]),
        ];
        for (target, expected) in rows {
            assert!(pending.add(target));
            assert_eq!(covered(&pending), expected, "{target:?}");
            pending.done(&target);
            assert_eq!(covered(&pending), [false; 3], "{target:?}");
        }
    }
}
