//! Which sign-ins are in use by requests of this node, so that an eviction reaches those that are already running.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::Notify;

use super::inner::Inner;
use super::refresh::Flights;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{AccountHash, Address, Selector, SignInId};
use crate::store::Stored;

const STRIPES: usize = 64;

type Flags = HashMap<SignInId, Weak<Flag>, BuildHasherDefault<IdHasher>>;

#[derive(Debug, Default)]
struct Stripe {
    flags: Mutex<Flags>,
    /// How many there are: an eviction passes over stripes without any, and takes no lock for that.
    count: AtomicUsize,
}

impl Stripe {
    fn lock(&self) -> MutexGuard<'_, Flags> {
        self.flags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the end of a sign-in's name, which is random and made here: nobody chooses which of them collide.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        // Not the beginning, which has picked the stripe.
        if let Some(end) = bytes.last_chunk() {
            self.0 ^= u64::from_ne_bytes(*end);
        }
    }

    /// The length, which is the same for all.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All flags that some request holds.
#[derive(Debug)]
pub(crate) struct Registry {
    stripes: Box<[Stripe]>,
    cache: Weak<Inner>,
}

/// Says whether one sign-in has ended; shared by all requests of this node that loaded it.
#[derive(Debug)]
pub(crate) struct Flag {
    address: Address,
    ended: AtomicBool,
    /// Whether the hooks for every node were to be told.
    noticed: AtomicBool,
    /// How often something was carried out that may have ended it before, elsewhere: what was loaded until then says nothing.
    doubts: AtomicU64,
    cause: OnceLock<Cause>,
    changed: Notify,
    /// The newest of what was loaded of it: which selectors it goes by.
    known: Mutex<Option<Stored>>,
    /// When it ends by this node's clock, as far as that was looked for: whoever waits for it may give up and begin anew.
    known_end: Mutex<Option<Timestamp>>,
    pub(super) flights: Flights,
    registry: Arc<Registry>,
}

impl Registry {
    pub(super) fn new(cache: Weak<Inner>) -> Arc<Self> {
        Arc::new(Self {
            stripes: (0..STRIPES).map(|_| Stripe::default()).collect(),
            cache,
        })
    }

    fn stripe(&self, id: &SignInId) -> &Stripe {
        &self.stripes[usize::from(id.as_bytes()[0]) % STRIPES]
    }

    fn held(&self, id: &SignInId) -> Option<Arc<Flag>> {
        self.stripe(id).lock().get(id).and_then(Weak::upgrade)
    }

    /// The flag of a sign-in. Whoever loads a sign-in asks for its flag first: an eviction that the load did not see then
    /// finds the flag.
    pub(crate) fn enter(self: &Arc<Self>, address: Address) -> Arc<Flag> {
        let stripe = self.stripe(&address.id);
        let mut flags = stripe.lock();
        let place = flags.entry(address.id);
        if let Entry::Occupied(flag) = &place
            && let Some(flag) = flag.get().upgrade()
        {
            // With that of `for_each`: who loads after this sees what an eviction did before, or that finds the flag, whatever the
            // store does to order the two.
            fence(Ordering::SeqCst);
            return flag;
        }
        let flag = Arc::new(Flag {
            address,
            ended: AtomicBool::new(false),
            noticed: AtomicBool::new(false),
            doubts: AtomicU64::new(0),
            cause: OnceLock::new(),
            changed: Notify::new(),
            known: Mutex::default(),
            known_end: Mutex::default(),
            flights: Flights::default(),
            registry: self.clone(),
        });
        place.insert_entry(Arc::downgrade(&flag));
        stripe.count.store(flags.len(), Ordering::SeqCst);
        fence(Ordering::SeqCst);
        flag
    }

    /// Ends a sign-in for all requests that hold it. The account must be right too: an id is not secret, and may come from anyone.
    pub(crate) fn end(&self, address: &Address, cause: Cause) {
        let flag = self.held(&address.id);
        if let Some(flag) = flag.filter(|flag| flag.address == *address) {
            flag.end(cause);
        }
    }

    /// The same, of one that may go on: whoever knows better tells the hooks.
    pub(super) fn end_quietly(&self, address: &Address, cause: Cause) {
        let flag = self.held(&address.id);
        if let Some(flag) = flag.filter(|flag| flag.address == *address) {
            flag.end_quietly(cause);
        }
    }

    /// Why a sign-in that somebody holds has ended, if it has.
    pub(super) fn cause(&self, address: &Address) -> Option<Cause> {
        let flag = self.held(&address.id)?;
        (flag.address == *address).then(|| flag.cause())?
    }

    /// Ends all sign-ins of an account that requests hold: for an eviction whose answer from the store is missing.
    pub(crate) fn end_account(&self, account: &AccountHash, but: Option<&SignInId>, cause: Cause) {
        self.for_each(|flag| {
            if flag.is_of(account, but) {
                flag.end(cause);
            }
        });
    }

    /// Has a sign-in looked at anew before it is served again.
    pub(super) fn doubt(&self, address: &Address) {
        let flag = self.held(&address.id);
        if let Some(flag) = flag.filter(|flag| flag.address == *address) {
            flag.doubt();
        }
    }

    /// The same for whatever requests hold.
    pub(super) fn doubt_all(&self) {
        self.for_each(Flag::doubt);
    }

    /// Whose it is, as long as that is there.
    pub(super) fn cache(&self) -> Weak<Inner> {
        self.cache.clone()
    }

    /// Has all sign-ins of an account that requests hold looked at anew before they are served again: for an eviction that the store
    /// has confirmed. Another one may have removed them a moment before, and some may have been created since.
    pub(super) fn doubt_account(&self, account: &AccountHash, but: Option<&SignInId>) {
        self.for_each(|flag| {
            if flag.is_of(account, but) {
                flag.doubt();
            }
        });
    }

    /// Ends all sign-ins that requests hold and that go by a selector: for a closing that the store did not confirm.
    /// Whoever loads one [notes](Flag::note) it before looking at what is pending.
    pub(crate) fn end_selected(&self, selector: &Selector, cause: Cause) {
        self.for_each(|flag| {
            if flag.goes_by(selector) == Some(true) {
                flag.end(cause);
            }
        });
    }

    /// What [`doubt_account`](Self::doubt_account) is to an account, for a selector. One that is being loaded may go by it.
    pub(super) fn doubt_selected(&self, selector: &Selector) {
        self.for_each(|flag| {
            if flag.goes_by(selector) != Some(false) {
                flag.doubt();
            }
        });
    }

    fn for_each(&self, act: impl Fn(&Flag)) {
        fence(Ordering::SeqCst);
        for stripe in &self.stripes {
            if stripe.count.load(Ordering::SeqCst) == 0 {
                continue;
            }
            // Collected whole, then looked at: letting go of a flag takes the lock that is held here.
            let flags: Vec<_> = stripe.lock().values().filter_map(Weak::upgrade).collect();
            flags.iter().for_each(|flag| act(flag));
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let len = |stripe: &Stripe| {
            let len = stripe.lock().len();
            assert_eq!(stripe.count.load(Ordering::SeqCst), len);
            len
        };
        self.stripes.iter().map(len).sum()
    }
}

impl Flag {
    /// What was loaded of the sign-in, for [`Registry::end_selected`].
    pub(super) fn note(&self, stored: &Stored) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended() {
            return;
        }
        if known
            .as_ref()
            .is_none_or(|known| known.generation < stored.generation)
        {
            *known = Some(stored.clone());
        }
    }

    fn is_of(&self, account: &AccountHash, but: Option<&SignInId>) -> bool {
        self.address.account == *account && Some(&self.address.id) != but
    }

    /// Whether it goes by a selector, where that is known.
    fn goes_by(&self, selector: &Selector) -> Option<bool> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref()?;
        Some(known.entry.selectors.contains(selector))
    }

    fn doubt(&self) {
        self.doubts.fetch_add(1, Ordering::SeqCst);
    }

    /// Who loads the sign-in reads this before, and trusts what came for as long as it is the same.
    pub(super) fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::SeqCst)
    }

    pub(super) fn known(&self) -> Option<Stored> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    pub(super) fn known_end(&self) -> MutexGuard<'_, Option<Timestamp>> {
        let known_end = self.known_end.lock();
        known_end.unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it for all who hold it, and tells the hooks.
    pub(super) fn end(&self, cause: Cause) {
        self.end_quietly(cause);
        let is_first = !self.noticed.swap(true, Ordering::SeqCst);
        if let Some(inner) = self.cache().upgrade().filter(|_| is_first) {
            // Not the flag's own: it may have ended quietly before, by what did not come to be.
            inner.notice(self.address, cause);
        }
    }

    /// Ends it for all who hold it, although it may go on.
    pub(super) fn end_quietly(&self, cause: Cause) {
        let _ = self.cause.set(cause);
        self.ended.store(true, Ordering::SeqCst);
        // Whoever waits for the end may keep the flag for long: not the tokens with it.
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(known);
        self.changed.notify_waiters();
    }

    pub(crate) fn address(&self) -> Address {
        self.address
    }

    /// Why it has ended, if it has.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.cause.get().copied()
    }

    /// Whether the sign-in has ended.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Whose it is, as long as that is there.
    pub(super) fn cache(&self) -> Weak<Inner> {
        self.registry.cache()
    }

    /// Waits until this node has ended it, and says why.
    pub(super) async fn wait(&self) -> Cause {
        loop {
            let changed = self.changed.notified();
            if self.ended() {
                // The cause is set before the flag.
                return self.cause().unwrap_or(Cause::SessionEnded);
            }
            changed.await;
        }
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        let stripe = self.registry.stripe(&self.address.id);
        let mut flags = stripe.lock();
        // Another request may have entered a new flag since the last holder of this one let go.
        if let Entry::Occupied(flag) = flags.entry(self.address.id)
            && flag.get().strong_count() == 0
        {
            flag.remove();
            stripe.count.store(flags.len(), Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(account: &[u8]) -> Address {
        Address {
            account: AccountHash::of(&[account]),
            id: SignInId::random(),
        }
    }

    #[tokio::test]
    async fn an_eviction_reaches_all_holders_and_leaves_nothing_behind() {
        let registry = Registry::new(Weak::new());
        let address = address(b"a");
        let (one, two) = (registry.enter(address), registry.enter(address));
        assert_eq!(registry.len(), 1);
        let of_another = Address {
            account: AccountHash::of(&[b"b"]),
            ..address
        };
        registry.end(&of_another, Cause::Operator);
        assert!(!one.ended());
        registry.end(&address, Cause::BackChannel);
        assert!(one.ended() && two.ended());
        assert_eq!(two.wait().await, Cause::BackChannel);
        drop((one, two));
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn an_account_ends_but_for_the_one_that_stays() {
        let registry = Registry::new(Weak::new());
        let (one, two, other) = (address(b"a"), address(b"a"), address(b"b"));
        let flags = [one, two, other].map(|address| registry.enter(address));
        registry.end_account(&one.account, Some(&two.id), Cause::SignOutOthers);
        assert_eq!(flags.map(|flag| flag.ended()), [true, false, false]);
    }
}
