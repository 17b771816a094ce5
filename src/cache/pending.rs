//! Evictions that the store has not confirmed: they hold on this node at once, and are retried until they are done.
//!
//! A sign-in that arrives while an eviction is pending that means it, such as one of the same account, has that eviction tried
//! at once: without the store nobody knows which was first, and with it the sign-in would end when the eviction is done. Then
//! the mark that is left behind says whether it may come in.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::{SmallVec, smallvec};

use super::evict::Evicted;
use super::inner::Cache;
use super::live::Flag;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::events::{self, Named, Retried};
use crate::hooks::Eviction;
use crate::id::{AccountHash, Address, Selector};
use crate::store::{Removal, StoreError, Stored, Target};

/// What the store did not confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    cause: Cause,
    logout_iat: Option<i64>,
    /// What is tried, and after it the latest order that means the same. That one is tried as well, since the first may have been
    /// done before it was given, with its answer lost. Those in between are left out: whoever repeats an order must not use up the
    /// room for others'.
    orders: Mutex<SmallVec<[Arc<Order>; 1]>>,
    /// Whether it is done. Held while it is tried, so that its hooks hear of it once.
    done: tokio::sync::Mutex<bool>,
}

#[derive(Debug)]
struct Order {
    removal: Removal,
    correlation_id: Box<str>,
    /// By then what it means has ended by itself.
    until: Timestamp,
}

impl Pending {
    fn new(held: Held, order: Arc<Order>) -> Arc<Self> {
        Arc::new(Self {
            held,
            cause: order.removal.cause,
            logout_iat: order.removal.logout_iat,
            orders: Mutex::new(smallvec![order]),
            done: tokio::sync::Mutex::new(false),
        })
    }

    fn orders(&self) -> MutexGuard<'_, SmallVec<[Arc<Order>; 1]>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is tried.
    fn first(&self) -> Option<Arc<Order>> {
        self.orders().first().cloned()
    }

    fn means(&self, held: &Held, removal: &Removal) -> bool {
        (self.held, self.cause, self.logout_iat) == (*held, removal.cause, removal.logout_iat)
    }
}

impl Cache {
    /// The store did not confirm an eviction: this node serves those tokens no more, and tries until it is done. `false` where it does
    /// not try.
    pub(super) fn hold_back(
        &self,
        held: Held,
        removal: Removal,
        correlation: &str,
        error: &StoreError,
    ) -> bool {
        let lifetimes = self.0.config.lifetimes.absolute + removal.mark_for;
        let order = Arc::new(Order {
            removal,
            correlation_id: correlation.into(),
            until: self.0.clock.steady().plus(lifetimes),
        });
        // Before the flags: a request that opens the sign-in after they were flipped must find it here.
        let added = self.0.pending.add(held, order);
        let retried = match &added {
            Added::New(_) => Retried::New,
            Added::Joined => Retried::Joined,
            Added::Full => Retried::No,
        };
        events::eviction_pending(held.name(), removal.cause, correlation, error, retried);
        let live = &self.0.live;
        match &held {
            Held::Target(Target::SignIn(address)) => live.end(address, removal.cause),
            // Whether it is the one that was meant, only the store can tell.
            Held::Target(Target::SignInAt(address, _)) => live.end_quietly(address, removal.cause),
            Held::Target(Target::Account(account)) => {
                live.end_account(account, None, removal.cause);
            }
            Held::Target(Target::AccountExcept(account, id)) => {
                live.end_account(account, Some(id), removal.cause);
            }
            Held::Closing(selector) => live.end_selected(selector, removal.cause),
        }
        if let Added::New(pending) = added {
            let cache = self.clone();
            self.0
                .tasks
                .spawn(async move { cache.retry(&pending).await });
        }
        retried != Retried::No
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

    /// Waits before the next attempt at what is pending, twice as long each time. Whether that is the last: the process is about to
    /// end.
    pub(super) async fn rest(&self, pause: &mut Duration) -> bool {
        let last = tokio::select! {
            () = tokio::time::sleep(*pause) => false,
            () = self.0.stopped.cancelled() => true,
        };
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        last
    }

    async fn retry(&self, pending: &Arc<Pending>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let last = self.rest(&mut pause).await;
            match self.settle(pending).await {
                Ok(()) => return,
                // Still pending, so still not served, and in the report of the shutdown.
                Err(_) if last => return,
                Err(error) => {
                    let correlation_id = pending.first().map(|order| order.correlation_id.clone());
                    let correlation_id = correlation_id.as_deref();
                    if self.give_up(pending).await {
                        tracing::error!(%error, correlation_id, "a pending eviction is given up");
                        return;
                    }
                    tracing::warn!(%error, correlation_id, "eviction still pending");
                }
            }
        }
    }

    /// Whether its time is up.
    async fn give_up(&self, pending: &Arc<Pending>) -> bool {
        let mut done = pending.done.lock().await;
        let order = pending.first();
        if *done || !self.0.pending.give_up(pending, self.0.clock.steady()) {
            return *done;
        }
        *done = true;
        let correlation_id = order.as_ref().map_or("", |order| &order.correlation_id);
        events::eviction_settled(pending.held.name(), pending.cause, correlation_id, true);
        true
    }

    /// Tries it once, unless it is done.
    async fn settle(&self, pending: &Arc<Pending>) -> Result<(), StoreError> {
        let Pending { held, cause, .. } = &**pending;
        let mut done = pending.done.lock().await;
        while !*done {
            let Some(order) = pending.first() else { break };
            let correlation_id = &order.correlation_id;
            let evictions = self.try_again(held, &order.removal, correlation_id).await?;
            *done = self.0.pending.done(pending);
            if *done {
                events::eviction_settled(held.name(), *cause, correlation_id, false);
            }
            self.conclude_later(*cause, correlation_id, Evicted::of(evictions));
        }
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
    sign_ins: HashMap<Address, Vec<Arc<Pending>>>,
    accounts: HashMap<AccountHash, Vec<Arc<Pending>>>,
    closings: HashMap<Selector, Vec<Arc<Pending>>>,
}

/// Before the first further attempt at what is pending, and before later ones at most.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Most evictions that are retried at the same time. [`SignOutReport::not_retried`](crate::SignOutReport::not_retried) tells users.
const MAX_PENDING: usize = 100_000;

/// What became of one more.
enum Added {
    New(Arc<Pending>),
    /// Another one means the same.
    Joined,
    Full,
}

/// Whether it was there.
fn take<N: Eq + Hash>(
    names: &mut HashMap<N, Vec<Arc<Pending>>>,
    name: &N,
    which: &Arc<Pending>,
) -> bool {
    let Some(list) = names.get_mut(name) else {
        return false;
    };
    let before = list.len();
    list.retain(|one| !Arc::ptr_eq(one, which));
    let taken = list.len() < before;
    if list.is_empty() {
        names.remove(name);
    }
    taken
}

impl PendingEvictions {
    fn add(&self, held: Held, order: Arc<Order>) -> Added {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut same = all.named(&held).iter();
        let same = same.find(|one| one.means(&held, &order.removal));
        if let Some(same) = same {
            let mut orders = same.orders();
            orders.truncate(1);
            orders.push(order);
            return Added::Joined;
        }
        if self.count.load(Ordering::SeqCst) >= MAX_PENDING {
            return Added::Full;
        }
        let pending = Pending::new(held, order);
        let list = match held {
            Held::Target(Target::SignIn(address) | Target::SignInAt(address, _)) => {
                all.sign_ins.entry(address).or_default()
            }
            Held::Target(Target::Account(account) | Target::AccountExcept(account, _)) => {
                all.accounts.entry(account).or_default()
            }
            Held::Closing(selector) => all.closings.entry(selector).or_default(),
        };
        list.push(pending.clone());
        self.count.fetch_add(1, Ordering::SeqCst);
        Added::New(pending)
    }

    /// What was tried is done; whether nothing else is to be tried.
    fn done(&self, pending: &Arc<Pending>) -> bool {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let mut orders = pending.orders();
        if orders.len() > 1 {
            orders.remove(0);
            return false;
        }
        self.take(&mut all, pending);
        true
    }

    /// Lets go of what is not done; `false` if its time is not up.
    fn give_up(&self, pending: &Arc<Pending>, now: Timestamp) -> bool {
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let going_on = pending.orders().iter().any(|order| now <= order.until);
        if !going_on {
            self.take(&mut all, pending);
        }
        !going_on
    }

    fn take(&self, all: &mut All, pending: &Arc<Pending>) {
        let taken = match &pending.held {
            Held::Target(Target::SignIn(address) | Target::SignInAt(address, _)) => {
                take(&mut all.sign_ins, address, pending)
            }
            Held::Target(Target::Account(account) | Target::AccountExcept(account, _)) => {
                take(&mut all.accounts, account, pending)
            }
            Held::Closing(selector) => take(&mut all.closings, selector, pending),
        };
        if taken {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether a selector's closing is among them: whom it means only their entries tell.
    pub(super) fn closings(&self) -> bool {
        let all = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.count() > 0 && !all().closings.is_empty()
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
        first.map(|pending| pending.cause)
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
    /// Those that go by the same name.
    fn named(&self, held: &Held) -> &[Arc<Pending>] {
        let named = match held {
            Held::Target(Target::SignIn(address) | Target::SignInAt(address, _)) => {
                self.sign_ins.get(address)
            }
            Held::Target(Target::Account(account) | Target::AccountExcept(account, _)) => {
                self.accounts.get(account)
            }
            Held::Closing(selector) => self.closings.get(selector),
        };
        named.map(Vec::as_slice).unwrap_or_default()
    }

    fn covering<'a>(
        &'a self,
        address: &'a Address,
        selectors: &'a [Selector],
    ) -> impl Iterator<Item = &'a Arc<Pending>> {
        let sign_in = self.sign_ins.get(address).into_iter().flatten();
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
    use crate::id::SignInId;

    fn order(until: i64) -> Arc<Order> {
        Arc::new(Order {
            removal: Removal {
                operation: crate::id::OperationId::random(),
                cause: Cause::BackChannel,
                revoke: crate::store::RevokeRule::Nothing,
                mark_for: Duration::ZERO,
                logout_iat: None,
            },
            correlation_id: "c".into(),
            until: Timestamp::from_secs(until),
        })
    }

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
            let Added::New(first) = pending.add(held, order(1)) else {
                panic!("{held:?}");
            };
            assert_eq!(covered(&pending), expected, "{held:?}");
            // Again and again: it is tried once more.
            for until in 2..10 {
                assert!(matches!(pending.add(held, order(until)), Added::Joined));
            }
            assert_eq!(pending.count(), 1);
            assert!(!pending.done(&first));
            assert_eq!(covered(&pending), expected, "{held:?} once more");
            assert_eq!(first.first().unwrap().until, Timestamp::from_secs(9));
            assert!(pending.done(&first));
            assert_eq!(covered(&pending), [false; 3], "{held:?}");
            assert_eq!(pending.count(), 0);
        }
    }

    #[test]
    fn what_is_pending_is_let_go_of_once_and_when_its_last_order_is_over() {
        let at = Timestamp::from_secs;
        let pending = PendingEvictions::default();
        let held = Held::Target(Target::Account(AccountHash::of(&[b"a"])));
        let Added::New(first) = pending.add(held, order(1)) else {
            panic!("it is the first");
        };
        assert!(matches!(pending.add(held, order(5)), Added::Joined));
        assert!(!pending.give_up(&first, at(5)));
        assert_eq!(pending.count(), 1);
        for _ in 0..2 {
            assert!(pending.give_up(&first, at(6)));
            assert_eq!(pending.count(), 0);
        }
        // Somebody who tried at the same time was successful.
        while !pending.done(&first) {}
        assert_eq!(pending.count(), 0);
    }

    #[test]
    fn no_more_are_pending_than_there_is_room_for() {
        let pending = PendingEvictions::default();
        let held = |n: usize| {
            let account = AccountHash::of(&[&n.to_be_bytes()]);
            Held::Target(Target::Account(account))
        };
        for n in 0..MAX_PENDING {
            assert!(matches!(pending.add(held(n), order(1)), Added::New(_)));
        }
        assert!(matches!(
            pending.add(held(MAX_PENDING), order(1)),
            Added::Full
        ));
        assert!(matches!(pending.add(held(7), order(1)), Added::Joined));
        assert_eq!(pending.count(), MAX_PENDING);
    }
}
