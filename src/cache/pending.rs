//! Evictions that the store has not confirmed: they hold on this node at once, and are retried until they are done.
//!
//! A sign-in that begins while an eviction is pending that means it, such as one of the same account, is held back like
//! those before it, and ends with them: without the store nobody knows which was first. That lasts until the store has
//! confirmed, and no longer than a sign-in lives; the next sign-in is accepted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::evict::Evicted;
use super::inner::Cache;
use super::live::Flag;
use crate::cause::Cause;
use crate::events::{self, Who};
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
    fn who(&self) -> Option<Who<'_>> {
        match self {
            Self::Target(target) => Some(Who::unnamed(target.account())),
            Self::Closing(_) => None,
        }
    }
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
        events::eviction_pending(held.who(), removal.cause, correlation, error);
        // Before the flags: a request that opens the sign-in after they were flipped must find it here.
        let retried = self.0.pending.add(&held, removal.cause);
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
            events::eviction_settled(held.who(), removal.cause, correlation, true);
            return;
        }
        let (cache, correlation_id) = (self.clone(), correlation.to_owned());
        self.0
            .tasks
            .spawn(async move { cache.retry(held, removal, &correlation_id).await });
    }

    /// Why something that was loaded must not be served, if so.
    pub(super) fn held_back(&self, flag: &Flag, stored: &Stored) -> Option<Cause> {
        // Noted first: a closing that becomes pending after the look finds the flag.
        flag.note(stored);
        let pending = &self.0.pending;
        pending.covers(&flag.address(), &stored.entry.selectors)
    }

    async fn retry(&self, held: Held, removal: Removal, correlation_id: &str) {
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
            match self.try_again(&held, &removal, correlation_id).await {
                Ok(evictions) => {
                    self.0.pending.done(&held);
                    events::eviction_settled(held.who(), removal.cause, correlation_id, false);
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
        self.0.pending.done(&held);
        events::eviction_settled(held.who(), removal.cause, correlation_id, true);
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
    sign_ins: HashMap<SignInId, (Cause, u32)>,
    accounts: HashMap<AccountHash, Vec<(Option<SignInId>, Cause)>>,
    closings: HashMap<Selector, (Cause, u32)>,
}

/// Most evictions that are retried at the same time.
const MAX_PENDING: usize = 100_000;

fn one_more<N: Eq + Hash>(names: &mut HashMap<N, (Cause, u32)>, name: N, cause: Cause) {
    names.entry(name).or_insert((cause, 0)).1 += 1;
}

fn one_less<N: Eq + Hash>(names: &mut HashMap<N, (Cause, u32)>, name: N) {
    if let Entry::Occupied(mut entry) = names.entry(name) {
        entry.get_mut().1 -= 1;
        if entry.get().1 == 0 {
            entry.remove();
        }
    }
}

impl PendingEvictions {
    fn add(&self, held: &Held, cause: Cause) -> bool {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if self.count.load(Ordering::SeqCst) >= MAX_PENDING {
            return false;
        }
        match held {
            Held::Target(Target::SignIn(address) | Target::SignInAt(address, _)) => {
                one_more(&mut all.sign_ins, address.id, cause);
            }
            Held::Target(Target::Account(account)) => all.account(account, None, cause),
            Held::Target(Target::AccountExcept(account, id)) => {
                all.account(account, Some(*id), cause);
            }
            Held::Closing(selector) => one_more(&mut all.closings, *selector, cause),
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        true
    }

    fn done(&self, held: &Held) {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held {
            Held::Target(Target::SignIn(address) | Target::SignInAt(address, _)) => {
                one_less(&mut all.sign_ins, address.id);
            }
            Held::Target(Target::Account(account)) => all.account_done(account, None),
            Held::Target(Target::AccountExcept(account, id)) => {
                all.account_done(account, Some(*id));
            }
            Held::Closing(selector) => one_less(&mut all.closings, *selector),
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
        let sign_in = all.sign_ins.get(&address.id).map(|(cause, _)| *cause);
        let account = || {
            let mut list = all.accounts.get(&address.account)?.iter();
            let covering = list.find(|(but, _)| *but != Some(address.id))?;
            Some(covering.1)
        };
        let closing = || {
            let mut closings = selectors.iter().filter_map(|s| all.closings.get(s));
            closings.next().map(|(cause, _)| *cause)
        };
        sign_in.or_else(account).or_else(closing)
    }
}

impl All {
    fn account(&mut self, account: &AccountHash, but: Option<SignInId>, cause: Cause) {
        let list = self.accounts.entry(*account).or_default();
        list.push((but, cause));
    }

    fn account_done(&mut self, account: &AccountHash, but: Option<SignInId>) {
        if let Some(list) = self.accounts.get_mut(account) {
            if let Some(at) = list.iter().position(|(have, _)| *have == but) {
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
        let sid = |sid| Selector::sid("i", "c", sid);
        let all = [
            (one, [sid("1"), sid("both")]),
            (two, [sid("2"), sid("2b")]),
            (other, [sid("3"), sid("both")]),
        ];
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
            for times in 1..=2 {
                assert!(pending.add(&held, Cause::BackChannel));
                assert_eq!(covered(&pending), expected, "{held:?} {times}");
            }
            pending.done(&held);
            assert_eq!(covered(&pending), expected, "{held:?} once more");
            pending.done(&held);
            assert_eq!(covered(&pending), [false; 3], "{held:?}");
            assert_eq!(pending.count(), 0);
        }
    }
}
