//! Evictions that the store has not confirmed: they hold on this node at once, and are retried until they are done.
//!
//! A sign-in that arrives while an eviction is pending that means it, such as one of the same account, has that eviction tried
//! at once: without the store nobody knows which was first, and with it the sign-in would end when the eviction is done. Then
//! the mark that is left behind says whether it may come in.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::evict::Evicted;
use super::inner::Cache;
use super::live::Flag;
use crate::cause::Cause;
use crate::events::{self, Named};
use crate::hooks::Eviction;
use crate::id::{AccountHash, Address, Selector, SignInId};
use crate::store::{Removal, StoreError, Stored, Target};

/// What the store did not confirm.
#[derive(Clone, Copy, Debug)]
pub(super) enum Held {
    /// A removal.
    Target(Target),
    /// The closing of a selector.
    Closing(Selector),
}

impl Held {
    /// As events name it.
    fn name(&self) -> Named<'_> {
        match self {
            Self::Target(target) => Named::Account(target.account()),
            Self::Closing(selector) => Named::Selector(selector),
        }
    }
}

/// An eviction that the store has not confirmed.
#[derive(Debug)]
struct Pending {
    held: Held,
    removal: Removal,
    correlation_id: Box<str>,
    /// Whether it is done. Held while it is tried, so that its hooks hear of it once.
    done: tokio::sync::Mutex<bool>,
}

impl Cache {
    /// The store did not confirm an eviction: this node serves those tokens no more, and tries until it is done.
    pub(super) fn hold_back(
        &self,
        held: Held,
        removal: Removal,
        correlation: &str,
        error: &StoreError,
    ) {
        events::eviction_pending(held.name(), removal.cause, correlation, error);
        // Before the flags: a request that opens the sign-in after they were flipped must find it here.
        let pending = Arc::new(Pending {
            held,
            removal,
            correlation_id: correlation.into(),
            done: tokio::sync::Mutex::new(false),
        });
        let retried = self.0.pending.add(&pending);
        let live = &self.0.live;
        match &held {
            Held::Target(Target::SignIn(address) | Target::SignInAt(address, _)) => {
                live.end(&address.id, removal.cause);
            }
            Held::Target(Target::Account(account)) => {
                live.end_account(account, None, removal.cause);
            }
            Held::Target(Target::AccountExcept(account, id)) => {
                live.end_account(account, Some(id), removal.cause);
            }
            Held::Closing(selector) => live.end_selected(selector, removal.cause),
        }
        if !retried {
            tracing::error!("too many evictions are pending: one more is not retried");
            events::eviction_settled(held.name(), removal.cause, correlation, true);
            return;
        }
        let cache = self.clone();
        self.0
            .tasks
            .spawn(async move { cache.retry(&pending).await });
    }

    /// Why something that was loaded must not be served, if so.
    pub(super) fn held_back(&self, flag: &Flag, stored: &Stored) -> Option<Cause> {
        // Noted first: a closing that becomes pending after the look finds the flag.
        flag.note(stored);
        let pending = &self.0.pending;
        pending.covers(&flag.address(), &stored.entry.selectors)
    }

    /// Has done with what would hold a new sign-in back.
    pub(super) async fn settle_for(
        &self,
        address: &Address,
        selectors: &[Selector],
    ) -> Result<(), StoreError> {
        for pending in self.0.pending.covering(address, selectors) {
            self.settle(&pending).await?;
        }
        Ok(())
    }

    async fn retry(&self, pending: &Arc<Pending>) {
        let (removal, correlation_id) = (&pending.removal, &*pending.correlation_id);
        let given_up = self
            .0
            .clock
            .steady()
            .plus(self.0.config.lifetimes.absolute + removal.mark_for);
        let mut pause = Duration::from_millis(100);
        loop {
            let last = tokio::select! {
                () = tokio::time::sleep(pause) => false,
                () = self.0.stopped.cancelled() => true,
            };
            pause = (pause * 2).min(Duration::from_secs(30));
            match self.settle(pending).await {
                Ok(()) => return,
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
        self.0.pending.done(pending);
        events::eviction_settled(pending.held.name(), removal.cause, correlation_id, true);
    }

    /// Tries it once, unless it is done.
    async fn settle(&self, pending: &Arc<Pending>) -> Result<(), StoreError> {
        let Pending {
            held,
            removal,
            correlation_id,
            done,
        } = &**pending;
        let mut done = done.lock().await;
        if *done {
            return Ok(());
        }
        let evictions = self.try_again(held, removal, correlation_id).await?;
        *done = true;
        self.0.pending.done(pending);
        events::eviction_settled(held.name(), removal.cause, correlation_id, false);
        self.conclude_later(removal.cause, correlation_id, Evicted::of(evictions));
        Ok(())
    }

    async fn try_again(
        &self,
        held: &Held,
        removal: &Removal,
        correlation_id: &str,
    ) -> Result<Vec<Eviction>, StoreError> {
        match held {
            Held::Target(target) => {
                let removed = self.0.store.remove(target, removal).await?;
                Ok(self.finish(removed, correlation_id))
            }
            // What becomes pending by it is so before the closing is no longer: there is no gap to be served through.
            Held::Closing(selector) => {
                let evicted = self.close(selector, removal, correlation_id).await?;
                Ok(evicted.evictions)
            }
        }
    }
}

/// Evictions that the store has not confirmed.
#[derive(Debug, Default)]
pub(super) struct PendingEvictions {
    count: AtomicUsize,
    held: Mutex<All>,
}

/// Several may be pending of one name; the first says the cause.
#[derive(Debug, Default)]
struct All {
    sign_ins: HashMap<SignInId, Vec<Arc<Pending>>>,
    accounts: HashMap<AccountHash, Vec<Arc<Pending>>>,
    closings: HashMap<Selector, Vec<Arc<Pending>>>,
}

/// Most evictions that are retried at the same time.
const MAX_PENDING: usize = 100_000;

fn take<N: Eq + Hash>(names: &mut HashMap<N, Vec<Arc<Pending>>>, name: &N, which: &Arc<Pending>) {
    if let Some(list) = names.get_mut(name) {
        list.retain(|one| !Arc::ptr_eq(one, which));
        if list.is_empty() {
            names.remove(name);
        }
    }
}

impl PendingEvictions {
    fn add(&self, pending: &Arc<Pending>) -> bool {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if self.count.load(Ordering::SeqCst) >= MAX_PENDING {
            return false;
        }
        let list = match pending.held {
            Held::Target(Target::SignIn(address) | Target::SignInAt(address, _)) => {
                all.sign_ins.entry(address.id).or_default()
            }
            Held::Target(Target::Account(account) | Target::AccountExcept(account, _)) => {
                all.accounts.entry(account).or_default()
            }
            Held::Closing(selector) => all.closings.entry(selector).or_default(),
        };
        list.push(pending.clone());
        self.count.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn done(&self, pending: &Arc<Pending>) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &pending.held {
            Held::Target(Target::SignIn(address) | Target::SignInAt(address, _)) => {
                take(&mut all.sign_ins, &address.id, pending);
            }
            Held::Target(Target::Account(account) | Target::AccountExcept(account, _)) => {
                take(&mut all.accounts, account, pending);
            }
            Held::Closing(selector) => take(&mut all.closings, selector, pending),
        }
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Whether a sign-in is one that must not be served, and why.
    pub(super) fn covers(&self, address: &Address, selectors: &[Selector]) -> Option<Cause> {
        if self.count.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.covering(address, selectors).next();
        first.map(|pending| pending.removal.cause)
    }

    fn covering(&self, address: &Address, selectors: &[Selector]) -> Vec<Arc<Pending>> {
        if self.count() == 0 {
            return Vec::new();
        }
        let all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        all.covering(address, selectors).cloned().collect()
    }
}

impl All {
    fn covering<'a>(
        &'a self,
        address: &'a Address,
        selectors: &'a [Selector],
    ) -> impl Iterator<Item = &'a Arc<Pending>> {
        let sign_in = self.sign_ins.get(&address.id).into_iter().flatten();
        let account = self.accounts.get(&address.account).into_iter().flatten();
        let account = account.filter(|one| {
            let but = Target::AccountExcept(address.account, address.id);
            !matches!(one.held, Held::Target(target) if target == but)
        });
        let closings = selectors.iter().filter_map(|one| self.closings.get(one));
        sign_in.chain(account).chain(closings.flatten())
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
        let sid = |sid| Selector::sid("i", "c", sid);
        let all = [
            (one, [sid("1"), sid("both")]),
            (two, [sid("2"), sid("2b")]),
            (other, [sid("3"), sid("both")]),
        ];
        let order = |held| {
            Arc::new(Pending {
                held,
                removal: Removal {
                    operation: crate::id::OperationId::random(),
                    cause: Cause::BackChannel,
                    revoke: crate::store::RevokeRule::Nothing,
                    mark_for: Duration::ZERO,
                    logout_iat: None,
                },
                correlation_id: "c".into(),
                done: tokio::sync::Mutex::new(false),
            })
        };
        let pending = PendingEvictions::default();
        let covered = |p: &PendingEvictions| {
            let covers = |(a, s): &(_, [Selector; 2])| p.covers(a, s) == Some(Cause::BackChannel);
            all.each_ref().map(covers)
        };
        let rows = [
            (Held::Target(Target::SignIn(one)), [true, false, false]),
            (Held::Target(Target::Account(account)), [true, true, false]),
            (
                Held::Target(Target::AccountExcept(account, two.id)),
                [true, false, false],
            ),
            (Held::Closing(sid("both")), [true, false, true]),
            (Held::Closing(sid("2b")), [false, true, false]),
            (Held::Closing(sid("none")), [false, false, false]),
        ];
        for (held, expected) in rows {
            let mut both = Vec::new();
            for times in 1..=2 {
                both.push(order(held));
                assert!(pending.add(both.last().unwrap()));
                assert_eq!(covered(&pending), expected, "{held:?} {times}");
            }
            pending.done(&both[0]);
            assert_eq!(covered(&pending), expected, "{held:?} once more");
            pending.done(&both[1]);
            assert_eq!(covered(&pending), [false; 3], "{held:?}");
            assert_eq!(pending.count(), 0);
        }
    }
}
