//! What the rows are written in.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Factory, Limits, StoreUnderTest, account, locator};
use crate::account::Account;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{
    AccountHash, Address, DownstreamName, KeyHash, Locator, OperationId, Selector, SessionKey,
    TokenHash,
};
use crate::secret::Secret;
use crate::store::{
    Created, Downstream, Entry, Generation, Lifetimes, Lookup, Registered, Removal, Removed,
    RevokeRule, Started, Stored, Target, TokenStore,
};
use crate::token::{AccessToken, TokenSet};

pub(super) const IDLE: Duration = Duration::from_secs(2 * 3600);
pub(super) const ABSOLUTE: Duration = Duration::from_secs(72 * 3600);
pub(super) const MARK_FOR: Duration = Duration::from_secs(900);
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// Two texts that must not be the same, as the names of a test's tokens.
pub(super) fn tokens(name: &str) -> TokenSet {
    let access = AccessToken::bearer(format!("access {name}"));
    TokenSet::new()
        .with_refresh_token(format!("refresh {name}"))
        .with_access_token(access)
}

pub(super) fn entry_of(name: &str, selectors: &[Selector]) -> Entry {
    Entry {
        account: Account::new("https://login.example.com", name),
        client_id: "app".into(),
        tokens: tokens(name),
        lifetimes: Lifetimes {
            idle: IDLE,
            absolute: ABSOLUTE,
        },
        selectors: selectors.into(),
        label: Some(name.into()),
    }
}

pub(super) fn refresh_token(entry: &Entry) -> &str {
    entry.tokens.refresh_token().map_or("", Secret::secret)
}

pub(super) fn removal(cause: Cause) -> Removal {
    Removal {
        operation: OperationId::random(),
        cause,
        revoke: RevokeRule::Nothing,
        mark_for: MARK_FOR,
        logout_iat: None,
    }
}

pub(super) fn revoking(cause: Cause) -> Removal {
    Removal {
        revoke: RevokeRule::All,
        ..removal(cause)
    }
}

pub(super) fn derived(name: &str, access_token: &str) -> Downstream {
    Downstream {
        name: derived_name(name),
        subject: TokenHash::of(&Secret::new(access_token)),
        token: AccessToken::bearer(format!("derived {name}")),
    }
}

pub(super) fn derived_name(name: &str) -> DownstreamName {
    DownstreamName::of(&[name.as_bytes()])
}

/// Addresses, in an order that does not depend on the store's.
pub(super) fn addresses(removed: &[Removed]) -> Vec<Address> {
    sorted(removed.iter().map(|removed| removed.address))
}

pub(super) fn sorted(addresses: impl IntoIterator<Item = Address>) -> Vec<Address> {
    let mut addresses: Vec<Address> = addresses.into_iter().collect();
    addresses.sort_by_key(|address| (address.account, address.id));
    addresses
}

/// What identifies an answer of removals, for comparison with that of a repetition.
pub(super) fn summary(removed: &[Removed]) -> Vec<(Address, Cause, bool, String)> {
    let row = |removed: &Removed| {
        let token = refresh_token(&removed.entry).to_owned();
        (removed.address, removed.cause, removed.to_revoke, token)
    };
    let mut rows: Vec<_> = removed.iter().map(row).collect();
    rows.sort_by_key(|(address, ..)| (address.account, address.id));
    rows
}

pub(super) async fn small(factory: &dyn Factory, set: impl FnOnce(&mut Limits)) -> StoreUnderTest {
    let mut limits = Limits::default();
    set(&mut limits);
    factory.make(limits).await
}

pub(super) async fn any(factory: &dyn Factory) -> StoreUnderTest {
    factory.make(Limits::default()).await
}

impl StoreUnderTest {
    pub(super) fn store(&self) -> &Arc<dyn TokenStore> {
        &self.store
    }

    pub(super) async fn advance(&self, by: Duration) {
        (self.advance)(by).await;
    }

    pub(super) fn round_count(&self) -> usize {
        self.rounds
    }

    pub(super) async fn now(&self) -> Timestamp {
        self.store.now().await.unwrap()
    }

    pub(super) async fn started(&self) -> Started {
        Started {
            at: Some(self.now().await),
            id_token_iat: None,
        }
    }

    pub(super) async fn create(
        &self,
        locator: &Locator,
        entry: Entry,
        started: &Started,
    ) -> Created {
        let removal = removal(Cause::Capacity);
        let create = self
            .store
            .create(locator, Arc::new(entry), started, &removal);
        create.await.unwrap()
    }

    /// A sign-in that starts now, with everything that belongs to it.
    pub(super) async fn sign_in(&self, account: &AccountHash, name: &str) -> Locator {
        self.sign_in_with(account, entry_of(name, &[])).await
    }

    pub(super) async fn sign_in_with(&self, account: &AccountHash, entry: Entry) -> Locator {
        let locator = locator(account);
        let started = self.started().await;
        for selector in &entry.selectors {
            let done = self.register(selector, &locator.address, &started).await;
            assert_eq!(done, Registered::Done);
        }
        let created = self.create(&locator, entry, &started).await;
        assert!(is_done(&created), "{created:?}");
        locator
    }

    pub(super) async fn register(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
    ) -> Registered {
        let registered = self.store.register(selector, address, started);
        registered.await.unwrap()
    }

    pub(super) async fn load(&self, locator: &Locator) -> Lookup {
        let locators = std::slice::from_ref(locator);
        let mut found = self.store.load(locators).await.unwrap();
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    pub(super) async fn live(&self, locator: &Locator) -> Option<Stored> {
        self.load(locator).await.live()
    }

    pub(super) async fn get(&self, address: &Address) -> Lookup {
        self.store.get(address).await.unwrap()
    }

    pub(super) async fn is_there(&self, address: &Address) -> bool {
        self.get(address).await.live().is_some()
    }

    pub(super) async fn remove(&self, target: Target, removal: &Removal) -> Vec<Removed> {
        self.store.remove(&target, removal).await.unwrap()
    }

    pub(super) async fn close(&self, selector: &Selector, removal: &Removal) -> Vec<Address> {
        self.store.close(selector, removal).await.unwrap()
    }

    pub(super) async fn due(&self) -> Vec<Removed> {
        let removal = removal(Cause::Operator);
        self.store.due(&removal).await.unwrap()
    }

    pub(super) async fn all_due(&self) -> Vec<Removed> {
        let mut all = Vec::new();
        loop {
            let due = self.due().await;
            if due.is_empty() {
                return all;
            }
            all.extend(due);
        }
    }

    pub(super) async fn derived(&self, address: &Address, name: &str) -> Option<String> {
        let name = derived_name(name);
        let found = self.store.get_downstream(address, &name).await.unwrap();
        found.map(|token| token.secret().to_owned())
    }

    /// No later call makes use of an address at which there was a sign-in.
    pub(super) async fn assert_gone(&self, locator: &Locator, story: &str) {
        let address = &locator.address;
        assert!(self.live(locator).await.is_none(), "{story}: load");
        assert!(!self.is_there(address).await, "{story}: get");
        let listed = self.store.list(&address.account).await.unwrap();
        let listed = listed.iter().any(|info| info.address == *address);
        assert!(!listed, "{story}: list");
        assert!(!self.store.touch(address).await.unwrap(), "{story}: touch");
        for generation in [Generation::FIRST, Generation::FIRST.next()] {
            let entry = Arc::new(entry_of("late", &[]));
            let operation = OperationId::random();
            let replace = self.store.replace_if(address, generation, entry, operation);
            let replaced = replace.await.unwrap();
            assert_eq!(replaced, crate::store::Replaced::Gone, "{story}: replace");
        }
        let new_key = SessionKey::random().hash();
        let rekeyed = self.store.rekey(locator, &new_key).await.unwrap();
        assert!(!rekeyed, "{story}: rekey");
        let kept = self.store.put_downstream(address, derived("x", "access a"));
        assert!(!kept.await.unwrap(), "{story}: put_downstream");
        assert_eq!(self.derived(address, "x").await, None, "{story}: derived");
    }

    /// Lets all time pass that anything is kept for: afterwards the store is as empty as before the first call.
    pub(super) async fn assert_nothing_stays(&self) {
        self.advance(ABSOLUTE).await;
        self.all_due().await;
        // Claims and marks of the tests, tombstones of what was just collected, and the outbox.
        self.advance(crate::store::OUTBOX_AGE * 8).await;
        self.all_due().await;
        let stats = self.store.stats().await.unwrap();
        assert_eq!(
            stats,
            crate::store::StoreStats::default(),
            "something stays"
        );
    }
}

pub(super) fn is_done(created: &Created) -> bool {
    matches!(created, Created::Done { .. })
}

pub(super) fn evicted(created: Created) -> Vec<Removed> {
    match created {
        Created::Done { evicted } => evicted,
        Created::Refused => panic!("refused"),
    }
}

pub(super) fn key() -> KeyHash {
    SessionKey::random().hash()
}

pub(super) fn someone() -> AccountHash {
    account(1)
}

/// Runs two futures on two threads, as close to the same moment as can be: both wait actively, and `skew` moves the one
/// or the other by a little, so that rounds meet in different places.
pub(super) async fn at_once<A, B>(skew: usize, a: A, b: B) -> (A::Output, B::Output)
where
    A: Future<Output: Send> + Send + 'static,
    B: Future<Output: Send> + Send + 'static,
{
    let gate = Arc::new(AtomicUsize::new(0));
    let (first, second) = if skew.is_multiple_of(2) {
        (skew, 0)
    } else {
        (0, skew)
    };
    let a = tokio::spawn(behind(gate.clone(), first, a));
    let b = tokio::spawn(behind(gate, second, b));
    let a = a.await.expect("the first does not panic");
    (a, b.await.expect("the second does not panic"))
}

async fn behind<F: Future>(gate: Arc<AtomicUsize>, delay: usize, work: F) -> F::Output {
    gate.fetch_add(1, Ordering::SeqCst);
    let mut spins = 0u32;
    while gate.load(Ordering::SeqCst) < 2 {
        spins += 1;
        // Both may have been put on one thread.
        if spins.is_multiple_of(512) {
            tokio::task::yield_now().await;
        }
        std::hint::spin_loop();
    }
    // Some ten nanoseconds each: a call on a store in memory takes less than a hundred of them.
    for _ in 0..delay {
        std::hint::spin_loop();
    }
    work.await
}
