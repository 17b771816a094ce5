//! Evictions that the store has not confirmed: they hold on this node at once, and are retried until they are done.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::evict::Evicted;
use super::inner::Cache;
use crate::events::{self, Who};
use crate::id::{AccountHash, Address, SignInId};
use crate::store::{Removal, StoreError, Target};

impl Cache {
    /// The store did not confirm a removal: this node serves those tokens no more, and tries until it is done.
    pub(super) fn hold_back(
        &self,
        target: Target,
        removal: Removal,
        correlation: &str,
        error: &StoreError,
    ) {
        let who = Who::unnamed(target.account());
        events::eviction_pending(who, removal.cause, correlation, error);
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
            events::eviction_settled(who, removal.cause, correlation, true);
            return;
        }
        let (cache, correlation_id) = (self.clone(), correlation.to_owned());
        self.0
            .tasks
            .spawn(async move { cache.retry(target, removal, &correlation_id).await });
    }

    async fn retry(&self, target: Target, removal: Removal, correlation_id: &str) {
        let given_up = self
            .0
            .clock
            .steady()
            .plus(self.0.config.lifetimes.absolute + removal.mark_for);
        let who = Who::unnamed(target.account());
        let mut pause = Duration::from_millis(100);
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(pause) => false,
                () = self.0.stopped.cancelled() => true,
            };
            pause = (pause * 2).min(Duration::from_secs(30));
            match self.0.store.remove(&target, &removal).await {
                Ok(removed) => {
                    let evictions = self.finish(removed, correlation_id);
                    self.0.pending.done(&target);
                    events::eviction_settled(who, removal.cause, correlation_id, false);
                    let evicted = Evicted::of(evictions);
                    self.conclude(removal.cause, correlation_id, evicted).await;
                    return;
                }
                // Still pending, so still not served, and in the report of the shutdown.
                Err(_) if last => return,
                // By then the entry has ended by itself.
                Err(error) if self.0.clock.steady() > given_up => {
                    tracing::error!(%error, correlation_id, "a pending eviction is given up");
                    break;
                }
                Err(error) => tracing::warn!(%error, correlation_id, "eviction still pending"),
            }
        }
        self.0.pending.done(&target);
        events::eviction_settled(who, removal.cause, correlation_id, true);
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

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
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
