//! What the cache is made of, and how sign-ins get into it.

use std::fmt;
use std::sync::Arc;

use futures_util::future::join_all;
use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::app_tokens::AppTokenTable;
use super::back_off::BackOff;
use super::bounded::Bounded;
use super::evict::Order;
use super::live::Registry;
use super::notices::Told;
use super::opened::{Opened, SignIn};
use super::pending::PendingEvictions;
use super::unread::UnreadSessions;
use crate::account::Account;
use crate::cause::Cause;
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, RevocationPolicy};
use crate::error::{Error, ErrorKind};
use crate::events::Who;
use crate::hooks::Hooks;
use crate::id::{AccountHash, Address, Locator, OperationId, Selector, SessionKey, SignInId};
use crate::provider::Provider;
use crate::store::{
    AnySessionStore, Created, Entry, Lookup, Registered, Removal, RevokeRule, SignInInfo, Started,
    StoreError, StoreErrorKind, Target, TokenStore,
};
use crate::token::TokenSet;

/// Handle of the one cache of an `Auth`.
#[derive(Clone)]
pub(crate) struct Cache(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Arc<dyn TokenStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) providers: Vec<Provider>,
    pub(super) hooks: Hooks,
    pub(super) config: Arc<Config>,
    /// What must be finished although nobody may be waiting for it.
    pub(super) tasks: TaskTracker,
    pub(super) live: Arc<Registry>,
    pub(super) told: Told,
    pub(super) pending: PendingEvictions,
    /// Where the app keeps its sessions, if it said so.
    pub(super) sessions: Option<AnySessionStore>,
    pub(super) unread: UnreadSessions,
    pub(super) back_off: BackOff,
    pub(super) app_tokens: AppTokenTable,
    /// Rung when something was put into the outbox.
    pub(super) outbox: Arc<Notify>,
    pub(super) stopped: CancellationToken,
    pub(super) background: std::sync::Once,
}

/// What a cache is made of.
pub(crate) struct CacheParts {
    pub(crate) store: Arc<dyn TokenStore>,
    pub(crate) sessions: Option<AnySessionStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) providers: Vec<Provider>,
    pub(crate) hooks: Hooks,
    pub(crate) config: Arc<Config>,
}

/// A sign-in that is about to be put into the cache.
#[derive(Debug)]
pub(crate) struct NewSignIn {
    pub(crate) account: Account,
    pub(crate) client_id: Arc<str>,
    pub(crate) tokens: TokenSet,
    pub(crate) label: Option<Box<str>>,
    pub(crate) started: Started,
}

/// Whether a request counts as a use of its sign-ins, which prolongs their idle time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Noted,
    None,
}

/// Why a sign-in was not put into the cache.
#[derive(Debug)]
pub(crate) enum SignInError {
    /// The account signed out everywhere, or the provider ended the session, after this sign-in had started; or that is so long
    /// ago that it cannot be told.
    Refused,
    Store(StoreError),
}

impl From<StoreError> for SignInError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let kind = match error.kind() {
            StoreErrorKind::Full => ErrorKind::Capacity,
            _ => ErrorKind::StoreUnavailable,
        };
        Self::new(kind, "the token store failed").with_source(error)
    }
}

impl From<SignInError> for Error {
    fn from(error: SignInError) -> Self {
        match error {
            SignInError::Refused => Self::new(
                ErrorKind::NotSignedIn,
                "the account was signed out while this sign-in was under way, or it took too long",
            ),
            SignInError::Store(error) => error.into(),
        }
    }
}

/// The causes that are nobody's wish.
macro_rules! ends_by_itself {
    () => {
        Cause::Idle
            | Cause::Absolute
            | Cause::Capacity
            | Cause::SessionEnded
            | Cause::RefreshRejected
    };
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

impl Cache {
    pub(crate) fn new(parts: CacheParts) -> Self {
        Self(Arc::new_cyclic(|cache| Inner {
            store: Arc::new(Bounded(parts.store)),
            app_tokens: AppTokenTable::new(parts.config.max_app_tokens),
            clock: parts.clock,
            providers: parts.providers,
            hooks: parts.hooks,
            config: parts.config,
            tasks: TaskTracker::new(),
            live: Registry::new(cache.clone()),
            told: Told::default(),
            pending: PendingEvictions::default(),
            sessions: parts.sessions,
            unread: UnreadSessions::default(),
            back_off: BackOff::default(),
            outbox: Arc::new(Notify::new()),
            stopped: CancellationToken::new(),
            background: std::sync::Once::new(),
        }))
    }

    pub(crate) fn store(&self) -> &dyn TokenStore {
        &*self.0.store
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.0.clock
    }

    pub(crate) fn hooks(&self) -> &Hooks {
        &self.0.hooks
    }

    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.0.tasks
    }

    /// For what waits for a store: the process is about to end.
    pub(crate) fn stopped(&self) -> &CancellationToken {
        &self.0.stopped
    }

    pub(crate) fn providers(&self) -> &[Provider] {
        &self.0.providers
    }

    /// Endpoints belong to the sign-in's issuer (promise 7): nothing else is asked for a provider.
    pub(crate) fn provider(&self, issuer: &str) -> Option<&Provider> {
        self.0
            .providers
            .iter()
            .find(|provider| provider.issuer() == issuer)
    }

    /// How events name an account.
    pub(crate) fn who<'a>(&self, hash: &'a AccountHash, account: &'a Account) -> Who<'a> {
        Who::new(hash, account, self.0.config.accounts_in_plain)
    }

    /// How a sign-in is removed for a cause, by the configuration.
    pub(super) fn removal(&self, cause: Cause, logout_iat: Option<i64>) -> Removal {
        let revoke = match (self.0.config.revocation, cause) {
            (RevocationPolicy::Never, _) => RevokeRule::Nothing,
            // R16: it is not authenticated, so anyone could have sent it.
            (_, Cause::FrontChannel) => RevokeRule::Nothing,
            // The provider may have given the sign-in that takes its place the same grant.
            (_, Cause::Replaced) => RevokeRule::Nothing,
            // Not by the user's hand: what else they are signed in to goes on, perhaps under the same grant.
            (RevocationPolicy::Always, ends_by_itself!()) => RevokeRule::OnlySignIn,
            (RevocationPolicy::UnlessOffline, ends_by_itself!()) => RevokeRule::Nothing,
            (RevocationPolicy::UnlessOffline, _) | (_, Cause::BackChannel) => {
                RevokeRule::UnlessOffline
            }
            (RevocationPolicy::Always, _) => RevokeRule::All,
        };
        Removal {
            operation: OperationId::random(),
            cause,
            revoke,
            mark_for: self.0.config.pending_sign_in,
            logout_iat,
        }
    }

    /// Opens the sign-ins that a session holds, in one round trip, for a request that is or is not a use of them.
    pub(crate) async fn open(
        &self,
        locators: &[Locator],
        used: Use,
    ) -> Result<SmallVec<[Opened; 1]>, StoreError> {
        self.start_background();
        // The flags first: an eviction that this load does not see then finds them.
        let flags: SmallVec<[_; 1]> = locators
            .iter()
            .map(|locator| {
                let flag = self.0.live.enter(locator.address);
                let doubts = flag.doubts();
                (flag, doubts)
            })
            .collect();
        // Only what a shared store says grows old.
        let sent = if self.0.store.is_shared() {
            self.0.clock.steady()
        } else {
            Timestamp::default()
        };
        let found = self.0.store.load(locators).await?;
        let mut opened = SmallVec::with_capacity(flags.len());
        let mut touched = Vec::new();
        for ((flag, doubts), lookup) in flags.into_iter().zip(found) {
            opened.push(match lookup {
                Lookup::Gone(cause) => Opened::Dead(cause),
                Lookup::Moved => Opened::Moved,
                Lookup::Live(_) if flag.ended() => Opened::Dead(flag.cause()),
                Lookup::Live(stored) => {
                    if let Some(cause) = self.held_back(&flag, &stored) {
                        opened.push(Opened::Dead(Some(cause)));
                        continue;
                    }
                    if stored.touch_due && used == Use::Noted {
                        touched.push(flag.address());
                    }
                    Opened::Live(SignIn::new(self.clone(), flag, stored, sent, doubts))
                }
            });
        }
        if !touched.is_empty() {
            // In a box: at most once a minute, and what every request carries around stays small.
            Box::pin(async {
                for address in touched {
                    self.touch(address).await;
                }
            })
            .await;
        }
        Ok(opened)
    }

    /// The sign-ins of an account, newest first. What is about to be evicted is none of them any more.
    pub(crate) async fn list(&self, account: &AccountHash) -> Result<Vec<SignInInfo>, StoreError> {
        let mut all = self.0.store.list(account).await?;
        let pending = &self.0.pending;
        all.retain(|one| pending.covers(&one.address, &[]).is_none());
        if !pending.closings() {
            return Ok(all);
        }
        let found = all.iter().map(|one| self.0.store.get(&one.address));
        let mut listed = Vec::with_capacity(all.len());
        for (one, found) in all.iter().zip(join_all(found).await) {
            if let Lookup::Live(stored) = found?
                && pending
                    .covers(&one.address, &stored.entry.selectors)
                    .is_none()
            {
                listed.push(one.clone());
            }
        }
        Ok(listed)
    }

    async fn touch(&self, address: Address) {
        let store = self.0.store.clone();
        let touch = async move {
            if let Err(error) = store.touch(&address).await {
                tracing::warn!(%error, "use of a sign-in could not be noted");
            }
        };
        // A shared store is a round trip away, which no request should wait for.
        if self.0.store.is_shared() {
            self.0.tasks.spawn(touch);
        } else {
            touch.await;
        }
    }

    /// Puts a sign-in into the cache. To be called from a task that is not stopped halfway.
    pub(crate) async fn create(&self, new: NewSignIn) -> Result<Locator, SignInError> {
        self.start_background();
        let config = &self.0.config;
        let mut tokens = new.tokens;
        tokens.stamp(self.0.clock.wall());
        let address = Address {
            account: new.account.hash(&config.identity),
            id: SignInId::random(),
        };
        let locator = Locator {
            address,
            key: SessionKey::random(),
        };
        let selectors = selectors(&new.account, &new.client_id, !config.identity.is_empty());
        let entry = Arc::new(Entry {
            account: new.account.detached(),
            client_id: new.client_id,
            tokens,
            lifetimes: config.lifetimes,
            selectors: selectors.into(),
            label: new.label,
        });
        self.settle_for(&address, &entry.selectors).await?;
        match self.insert(&locator, &entry, &new.started).await {
            Ok(()) => Ok(locator),
            Err(error) => {
                for selector in &entry.selectors {
                    if let Err(error) = self.0.store.unregister(selector, &address).await {
                        tracing::warn!(%error, "a selector keeps the address of no sign-in");
                    }
                }
                if matches!(&error, SignInError::Store(e) if e.kind() == StoreErrorKind::Unknown) {
                    // It may be there after all, under a key that nobody was given.
                    let order = Order::new(Target::SignIn(address), Cause::SessionEnded);
                    let correlation_id = address.id.to_string();
                    let evicted = self.evict(&[order], &correlation_id).await;
                    self.conclude(order.cause, &correlation_id, evicted).await;
                }
                Err(error)
            }
        }
    }

    async fn insert(
        &self,
        locator: &Locator,
        entry: &Arc<Entry>,
        started: &Started,
    ) -> Result<(), SignInError> {
        let store = &self.0.store;
        for selector in &entry.selectors {
            match store.register(selector, &locator.address, started).await? {
                Registered::Done => {}
                Registered::Refused => return Err(SignInError::Refused),
            }
        }
        let removal = self.removal(Cause::Capacity, None);
        match store
            .create(locator, entry.clone(), started, &removal)
            .await?
        {
            Created::Refused => Err(SignInError::Refused),
            Created::Done { evicted } => {
                let evicted = self.finish_each(evicted);
                if !evicted.is_empty() {
                    let cache = self.clone();
                    self.0
                        .tasks
                        .spawn(async move { cache.conclude_each(evicted).await });
                }
                Ok(())
            }
        }
    }

    /// Gives a sign-in a new key; `None` if it has ended.
    pub(crate) async fn rekey(&self, locator: &Locator) -> Result<Option<Locator>, StoreError> {
        let new = Locator {
            address: locator.address,
            key: SessionKey::random(),
        };
        let done = self.0.store.rekey(locator, &new.key.hash()).await?;
        Ok(done.then_some(new))
    }
}

/// How a logout from outside finds the sign-in. The subject's selector is left out where the account's hash already is
/// issuer and subject.
pub(super) fn selectors(account: &Account, client_id: &str, by_subject: bool) -> Vec<Selector> {
    let issuer = account.issuer();
    let mut selectors = Vec::new();
    if let Some(sid) = account.sid() {
        selectors.push(Selector::sid(issuer, client_id, sid));
    }
    if by_subject {
        selectors.push(Selector::subject(issuer, client_id, account.subject()));
    }
    selectors
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("store", &self.0.store)
            .finish_non_exhaustive()
    }
}
