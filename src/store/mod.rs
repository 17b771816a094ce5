//! Where sign-ins are kept: the one seam between one machine and many.
//!
//! [`TokenStore`] is implemented by [`MemoryTokenStore`] and by whoever keeps tokens elsewhere; the contract is tested by
//! one suite, exported under the feature `testing`.
//!
//! # Words
//!
//! * An account's hash picks one of 256 *buckets*; all that concerns one account lies in one bucket, so that one step can
//!   change it together.
//! * An [`Address`] names a sign-in, a [`Locator`] opens it.
//! * A [`Selector`] is a set of addresses: how a logout from outside finds sign-ins.
//! * A *mark* is what the removal of an account, or the closing of a selector, leaves behind for
//!   [`Removal::mark_for`]: a sign-in that [started](Started) before it is refused. Several marks of one name may be kept
//!   as one that is as strict as each of them, for as long as the longest.
//!
//! # Repeating
//!
//! Client libraries send again after a lost connection, so every mutation can be repeated with the same arguments and
//! then gives the same answer, at least for [`REPEAT_WINDOW`]; an [`OperationId`] tells a repetition from a second call.

mod limits;
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod sessions;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;

pub use self::memory::{MemoryTokenStore, MemoryTokenStoreBuilder};
#[cfg(all(
    feature = "redis",
    any(feature = "tower-sessions-015", feature = "tower-sessions-014")
))]
pub use self::redis::RedisSessionStore;
#[cfg(feature = "redis")]
pub use self::redis::{MemoryTier, RedisTokenStore, RedisTokenStoreBuilder, TierStats};
pub use self::sessions::AnySessionStore;
#[cfg(all(
    feature = "redis",
    any(feature = "tower-sessions-015", feature = "tower-sessions-014")
))]
pub(crate) use self::sessions::Records;
use crate::account::Account;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{
    AccountHash, Address, ClaimName, DownstreamName, KeyHash, Locator, OperationId, Selector,
    SignInId, TokenHash,
};
use crate::token::{AccessToken, TokenSet};

/// For how long a repeated mutation gives the answer of the first.
pub const REPEAT_WINDOW: Duration = Duration::from_secs(60);

/// Most items that one call of [`TokenStore::due`] or [`TokenStore::outbox_take`] hands out.
pub const MAX_BATCH: usize = 256;

/// How long outbox items are kept at most.
pub const OUTBOX_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// What a store answers with.
pub type Result<T> = std::result::Result<T, StoreError>;

/// Why a store could not do what it was asked.
#[derive(Clone, Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
}

/// The category of a [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The store was not reached: nothing was done.
    Unavailable,
    /// The answer did not arrive: it may have been done or not.
    Unknown,
    /// A limit is reached: nothing was done.
    Full,
}

impl StoreError {
    /// `message` goes to the trace, so it must be free of secrets.
    pub fn new(kind: StoreErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// The category.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StoreError {}

/// How long a sign-in lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// Since it was last used.
    pub idle: Duration,
    /// Since it was created.
    pub absolute: Duration,
}

impl Lifetimes {
    /// How often use is noted down: a twentieth of the idle time, at most a minute.
    #[must_use]
    pub fn touch_interval(&self) -> Duration {
        (self.idle / 20).min(Duration::from_secs(60))
    }
}

/// What is kept of one sign-in.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who.
    pub account: Account,
    /// The client ID that this app has at the account's issuer.
    pub client_id: Arc<str>,
    /// The tokens.
    pub tokens: TokenSet,
    /// How long the sign-in lives.
    pub lifetimes: Lifetimes,
    /// The selectors that it was [registered](TokenStore::register) under, which are left when it goes.
    pub selectors: Box<[Selector]>,
    /// What the app shows its user to tell sign-ins apart, such as browser and address.
    pub label: Option<Box<str>>,
}

/// Counts the writes of an entry's tokens; [`TokenStore::replace_if`] writes over the one it names only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// That of an entry that was just created.
    pub const FIRST: Self = Self(1);

    /// That of the next write.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// An entry as it is in the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What is kept.
    pub entry: Arc<Entry>,
    /// Which write of it.
    pub generation: Generation,
    /// When the sign-in was created, by the store's clock.
    pub created: Timestamp,
    /// When it was last used, as far as [`TokenStore::touch`] noted it.
    pub last_used: Timestamp,
    /// When it ends if it is not used again.
    pub expires: Timestamp,
    /// Whether it is time for [`TokenStore::touch`].
    pub touch_due: bool,
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The sign-in is there.
    Live(Stored),
    /// It is not, and why, where a removal left that. One whose time is up is gone before [`TokenStore::due`] has
    /// collected it; a store may then tell the cause already.
    Gone(Option<Cause>),
    /// It is there, but another key opens it by now: what the session holds is an old copy.
    Moved,
}

impl Lookup {
    /// The entry, if there is one.
    #[must_use]
    pub fn live(self) -> Option<Stored> {
        match self {
            Self::Live(stored) => Some(stored),
            Self::Moved | Self::Gone(_) => None,
        }
    }
}

/// When a sign-in began, to be held against marks. Store time is compared with store time only, and the provider's with
/// the provider's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Started {
    /// The store's clock ([`TokenStore::now`]) when the user was sent to the provider; `None` if nobody noted it: then
    /// only `id_token_iat` is compared.
    pub at: Option<Timestamp>,
    /// The `iat` of its ID token, seconds of the provider's clock.
    pub id_token_iat: Option<i64>,
}

/// What [`TokenStore::register`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The address is in the selector's set.
    Done,
    /// The selector was closed after the sign-in had started.
    Refused,
}

/// What [`TokenStore::create`] did.
#[derive(Clone, Debug)]
pub enum Created {
    /// The entry is there.
    Done {
        /// Sign-ins that had to leave, because the account or the store has too many.
        evicted: Vec<Removed>,
    },
    /// The account was marked after the sign-in had started, that start is longer ago than marks are kept, the address was
    /// removed already or used before, or a selector of the entry was closed in between, where the store notices that.
    Refused,
}

/// What [`TokenStore::replace_if`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// Written; this is the new generation.
    Done(Generation),
    /// The sign-in has ended.
    Gone,
    /// There is another generation.
    Changed,
}

/// Which sign-ins a removal takes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One.
    SignIn(Address),
    /// One, if its tokens are still those of this generation.
    SignInAt(Address, Generation),
    /// All of an account. Leaves a mark.
    Account(AccountHash),
    /// All of an account but one. Leaves a mark.
    AccountExcept(AccountHash, SignInId),
}

impl Target {
    /// Whose.
    #[must_use]
    pub fn account(&self) -> &AccountHash {
        match self {
            Self::SignIn(address) | Self::SignInAt(address, _) => &address.account,
            Self::Account(account) | Self::AccountExcept(account, _) => account,
        }
    }
}

/// Which of the removed tokens go into the outbox, to be revoked at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokeRule {
    /// None: for causes that are not authenticated (R16), or where it is switched off.
    Nothing,
    /// All.
    All,
    /// All but those of a sign-in with `offline_access` (Back-Channel Logout section 2.7).
    UnlessOffline,
    /// All, if the account has no other sign-in left: those of one browser may hang on one grant at the provider, which ends
    /// with the first token of it that is revoked.
    OnlySignIn,
}

impl RevokeRule {
    /// Whether tokens are revoked, of a sign-in that leaves so many others of its account behind.
    #[must_use]
    pub fn applies_to(self, tokens: &TokenSet, others: usize) -> bool {
        match self {
            Self::OnlySignIn => others == 0,
            Self::Nothing => false,
            Self::All => true,
            Self::UnlessOffline => !tokens.is_offline(),
        }
    }
}

/// How sign-ins are removed.
#[derive(Clone, Copy, Debug)]
pub struct Removal {
    /// The name of this call.
    pub operation: OperationId,
    /// What is left behind as the cause.
    pub cause: Cause,
    /// What goes into the outbox in the same step.
    pub revoke: RevokeRule,
    /// How long marks and causes stay: for as long as a sign-in can be under way.
    pub mark_for: Duration,
    /// The `iat` of the logout token that caused it: a sign-in whose ID token is younger passes the mark.
    pub logout_iat: Option<i64>,
}

/// A sign-in that was taken out.
#[derive(Clone, Debug)]
pub struct Removed {
    /// Where it was.
    pub address: Address,
    /// What was there.
    pub entry: Arc<Entry>,
    /// Why.
    pub cause: Cause,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last used.
    pub last_used: Timestamp,
    /// How many downstream tokens went with it.
    pub downstream: usize,
    /// Whether its tokens are in the outbox: `false` too if they were to be, and it is full.
    pub to_revoke: bool,
}

/// One sign-in of an account, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignInInfo {
    /// Where it is kept.
    pub address: Address,
    /// When it was created.
    pub created: Timestamp,
    /// When it was last used.
    pub last_used: Timestamp,
    /// When it ends if it is not used again.
    pub expires: Timestamp,
    /// What the app called it.
    pub label: Option<Box<str>>,
}

/// The answer to [`TokenStore::claim`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This holder has it.
    Held,
    /// Another holder has it, or it was settled.
    Taken,
}

/// The answer to [`TokenStore::lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// This holder has it, for so long.
    Held(Duration),
    /// Another holder has it, for so long at most.
    Busy(Duration),
}

/// A token that was obtained with a sign-in's token.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// What it is found by.
    pub name: DownstreamName,
    /// What it was derived from: it goes when that is replaced.
    pub subject: TokenHash,
    /// The token.
    pub token: AccessToken,
}

/// Tokens that are to be revoked: a type of their own, so that nothing that serves tokens can reach them.
#[derive(Clone, Debug)]
pub struct RetainedTokens {
    /// Whose they are.
    pub issuer: Arc<str>,
    /// The client they were issued to.
    pub client_id: Arc<str>,
    /// What is to be revoked.
    pub tokens: TokenSet,
}

impl RetainedTokens {
    /// Those of an entry.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        Self {
            issuer: entry.account.issuer().into(),
            client_id: entry.client_id.clone(),
            tokens: entry.tokens.clone(),
        }
    }
}

/// One item of the outbox.
#[derive(Clone, Debug)]
pub struct OutboxItem {
    /// Its name.
    pub id: OperationId,
    /// Whose bucket it lies in.
    pub account: AccountHash,
    /// When it came in.
    pub created: Timestamp,
    /// How often it was handed out before.
    pub attempts: u32,
    /// What is to be revoked.
    pub retained: RetainedTokens,
}

/// Who wants to hear what happens to sign-ins in a store that [others work on](TokenStore::is_shared) as well. Made by this crate,
/// called by stores: inside a Tokio runtime, in the order in which it happened to each sign-in. No method blocks. What is told twice
/// does no harm.
pub trait StoreListener: Send + Sync {
    /// A sign-in was removed, by whichever node, and why.
    fn ended(&self, address: &Address, cause: Cause);

    /// The entry of a sign-in was replaced, or its key.
    fn changed(&self, address: &Address);

    /// Something may have been missed, such as when a connection was lost, and when it is there again: what was looked up before
    /// says nothing any more.
    fn missed(&self);
}

/// Keeps sign-ins.
///
/// Every promise below holds against every interleaving with other calls for the same account. Nothing that was removed
/// or has expired is ever handed out by [`load`](Self::load), [`get`](Self::get) or [`list`](Self::list). An error is an
/// error, never *nothing found*.
///
/// Unless a method says otherwise it returns [`StoreErrorKind::Unavailable`] or [`StoreErrorKind::Unknown`] when the store
/// cannot be reached, and nothing else.
#[async_trait]
pub trait TokenStore: Send + Sync + fmt::Debug + 'static {
    /// Whether other nodes work on the same data: then what a request loaded is good for a second only.
    fn is_shared(&self) -> bool;

    /// Tells a listener what happens to sign-ins from now on, as soon as it is known here and for as long as the listener is
    /// there. Nothing depends on it: what is not told of is found out by looking, a little later. Does nothing by default, which is
    /// right for a store of one node: whoever changes something there knows.
    fn listen(&self, listener: Weak<dyn StoreListener>) {
        let _ = listener;
    }

    /// The store's clock, later at each call: the start stamp of a sign-in.
    async fn now(&self) -> Result<Timestamp>;

    /// Adds an address to a selector's set, before the entry is created. Refused if the selector was closed after the
    /// start.
    ///
    /// # Errors
    /// [`StoreErrorKind::Full`] at the limit of selectors.
    async fn register(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
    ) -> Result<Registered>;

    /// Takes an address out of a selector's set, for an entry that was not created after all.
    async fn unregister(&self, selector: &Selector, address: &Address) -> Result<()>;

    /// Puts a new entry, with generation [`Generation::FIRST`]. Refused if the account was marked after the start, or if
    /// the address was removed, even before there was anything at it: its selector was closed while it was under way. An
    /// address that was ever used is not used again; a repetition finds its own entry, by the key, and is `Done`.
    ///
    /// Also refused if the start is [`Removal::mark_for`] ago or more, in the same step: a mark that was left since then, of
    /// the account or of a selector, may have ended.
    ///
    /// `removal` says how those are removed that have to leave; their cause is [`Cause::Capacity`].
    ///
    /// # Errors
    /// [`StoreErrorKind::Full`] if the store is full and nothing may leave.
    async fn create(
        &self,
        locator: &Locator,
        entry: Arc<Entry>,
        started: &Started,
        removal: &Removal,
    ) -> Result<Created>;

    /// What the locators open, in their order, in one round trip. A wrong key finds nothing.
    async fn load(&self, locators: &[Locator]) -> Result<Vec<Lookup>>;

    /// What is at an address, for work on a sign-in that was opened before: its key may have been changed since.
    async fn get(&self, address: &Address) -> Result<Lookup>;

    /// Notes use, at most once every [`Lifetimes::touch_interval`]. `false` if there is nothing. Leaves the generation.
    async fn touch(&self, address: &Address) -> Result<bool>;

    /// Writes the entry over that generation: tokens, account, and selectors, of which new ones were registered before.
    /// Drops the downstream tokens whose subject token is no longer there, and leaves the selectors that the new entry
    /// does not have.
    async fn replace_if(
        &self,
        address: &Address,
        generation: Generation,
        entry: Arc<Entry>,
        operation: OperationId,
    ) -> Result<Replaced>;

    /// Gives an entry a new key; from then on the old one opens nothing. `false` if it is not there under the old key
    /// (nor, for a repetition, under the new one).
    async fn rekey(&self, locator: &Locator, new_key: &KeyHash) -> Result<bool>;

    /// Takes out, in one step, what the target names, with its downstream tokens; leaves cause and mark, and puts into
    /// the outbox what is to be revoked. Returns what was there, also what had expired and was not collected yet. The
    /// sign-ins leave their selectors.
    ///
    /// With [`Target::SignIn`] an address is remembered even if nothing is there, so that a creation under way is
    /// refused. A full outbox does not stop a removal. Calls for several targets can share one [`OperationId`].
    async fn remove(&self, target: &Target, removal: &Removal) -> Result<Vec<Removed>>;

    /// Marks a selector and returns its members, in one step; the caller then [removes](Self::remove) each. Members stay
    /// until their removal, so that a caller that dies in between leaves nothing unreachable.
    async fn close(&self, selector: &Selector, removal: &Removal) -> Result<Vec<Address>>;

    /// The addresses in a selector's set, without closing it: what [`close`](Self::close) would return if it were called
    /// for the first time. For those who must look before they change anything; what they saw may have changed since.
    async fn members(&self, selector: &Selector) -> Result<Vec<Address>>;

    /// The sign-ins of an account, newest first.
    async fn list(&self, account: &AccountHash) -> Result<Vec<SignInInfo>>;

    /// Claims a name for a while; `Held` again for the same holder, which does not prolong it.
    ///
    /// # Errors
    /// [`StoreErrorKind::Full`] at the limit of claims: whoever asks must refuse.
    async fn claim(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Claim>;

    /// Keeps a claim for good, that is for `keep`. `false` if the holder no longer has it.
    async fn settle(&self, name: &ClaimName, holder: OperationId, keep: Duration) -> Result<bool>;

    /// Gives a claim back, unless it was settled.
    async fn release(&self, name: &ClaimName, holder: OperationId) -> Result<()>;

    /// Takes a lease, or says how long another holder has it. The holder that has it gets what is left of it: asking
    /// again does not prolong it.
    ///
    /// # Errors
    /// [`StoreErrorKind::Full`] at the limit of leases, which is apart from that of claims.
    async fn lease(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Lease>;

    /// Gives a lease back.
    async fn end_lease(&self, name: &ClaimName, holder: OperationId) -> Result<()>;

    /// Keeps a downstream token with a sign-in, if that is there and still has the subject token. At most 64 for each:
    /// the one that ends first leaves.
    async fn put_downstream(&self, address: &Address, downstream: Downstream) -> Result<bool>;

    /// The downstream token of that name, as long as its sign-in is there.
    async fn get_downstream(
        &self,
        address: &Address,
        name: &DownstreamName,
    ) -> Result<Option<AccessToken>>;

    /// Removes, with cause [`Cause::Idle`] or [`Cause::Absolute`], up to [`MAX_BATCH`] sign-ins whose time is up. Each is
    /// handed to one caller only. The cause in `removal` is not used.
    async fn due(&self, removal: &Removal) -> Result<Vec<Removed>>;

    /// Puts tokens that are in no entry into the outbox, under a name of the caller's.
    ///
    /// # Errors
    /// [`StoreErrorKind::Full`] at the limit of outbox items.
    async fn outbox_put(
        &self,
        id: OperationId,
        account: &AccountHash,
        retained: RetainedTokens,
    ) -> Result<()>;

    /// Takes up to [`MAX_BATCH`] items that are due; nobody else gets them for `hold`. A holder that has unfinished items
    /// gets those again and no others: it names one call, not one worker.
    async fn outbox_take(&self, holder: OperationId, hold: Duration) -> Result<Vec<OutboxItem>>;

    /// Finishes an item, whoever holds it by now: its tokens are revoked.
    async fn outbox_done(&self, item: &OutboxItem) -> Result<()>;

    /// Puts an item back, to be handed out again after a while. Without effect if it was handed out again since
    /// ([`OutboxItem::attempts`] tells) or put back already.
    async fn outbox_retry(&self, item: &OutboxItem, after: Duration) -> Result<()>;

    /// How much is kept.
    async fn stats(&self) -> Result<StoreStats>;

    /// Where the app keeps its sessions, if the store knows: beside the sign-ins. Used where
    /// [`AuthBuilder::session_store`](crate::AuthBuilder::session_store) says nothing. By default there is none.
    fn session_store(&self) -> Option<AnySessionStore> {
        None
    }

    /// What an operator may want to watch besides [`stats`](Self::stats), as [`measure_every`](crate::AuthBuilder::measure_every) asks for it.
    /// What cannot be had is left out. By default there is nothing.
    async fn measure(&self) -> Vec<Measurement> {
        Vec::new()
    }
}

/// A number about a store of one kind, with its name as a metric: a text of the program's, never of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Measurement {
    /// What goes up and down.
    Gauge(&'static str, f64),
    /// What only goes up while the process runs: the whole of it, not what came since the last look.
    Counter(&'static str, u64),
}

/// How much a store keeps, for metrics and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Sign-ins.
    pub sign_ins: usize,
    /// Members of selectors.
    pub selector_members: usize,
    /// Marks, causes and remembered answers.
    pub marks: usize,
    /// Claims and leases.
    pub claims: usize,
    /// Downstream tokens.
    pub downstream: usize,
    /// Outbox items.
    pub outbox: usize,
}

/// The operations of a [`TokenStore`] that a store around another one passes on alike; `load` is not among them, for it is the
/// hot path, and each has its own way with it.
macro_rules! operations {
    ($each:ident) => {
        $each! {
            now() -> Timestamp;
            register(selector: &Selector, address: &Address, started: &Started) -> Registered;
            unregister(selector: &Selector, address: &Address) -> ();
            create(locator: &Locator, entry: Arc<Entry>, started: &Started, removal: &Removal) -> Created;
            get(address: &Address) -> Lookup;
            touch(address: &Address) -> bool;
            replace_if(address: &Address, generation: Generation, entry: Arc<Entry>, operation: OperationId) -> Replaced;
            rekey(locator: &Locator, new_key: &KeyHash) -> bool;
            remove(target: &Target, removal: &Removal) -> Vec<Removed>;
            close(selector: &Selector, removal: &Removal) -> Vec<Address>;
            members(selector: &Selector) -> Vec<Address>;
            list(account: &AccountHash) -> Vec<SignInInfo>;
            claim(name: &ClaimName, holder: OperationId, hold: Duration) -> Claim;
            settle(name: &ClaimName, holder: OperationId, keep: Duration) -> bool;
            release(name: &ClaimName, holder: OperationId) -> ();
            lease(name: &ClaimName, holder: OperationId, hold: Duration) -> Lease;
            end_lease(name: &ClaimName, holder: OperationId) -> ();
            put_downstream(address: &Address, downstream: Downstream) -> bool;
            get_downstream(address: &Address, name: &DownstreamName) -> Option<AccessToken>;
            due(removal: &Removal) -> Vec<Removed>;
            outbox_put(id: OperationId, account: &AccountHash, retained: RetainedTokens) -> ();
            outbox_take(holder: OperationId, hold: Duration) -> Vec<OutboxItem>;
            outbox_done(item: &OutboxItem) -> ();
            outbox_retry(item: &OutboxItem, after: Duration) -> ();
            stats() -> StoreStats;
        }
    };
}
pub(crate) use operations;

macro_rules! delegate {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl<T: TokenStore + ?Sized> TokenStore for Arc<T> {
            fn is_shared(&self) -> bool {
                (**self).is_shared()
            }

            fn listen(&self, listener: Weak<dyn StoreListener>) {
                (**self).listen(listener);
            }

            fn session_store(&self) -> Option<AnySessionStore> {
                (**self).session_store()
            }

            async fn measure(&self) -> Vec<Measurement> {
                (**self).measure().await
            }

            /// The other store's own future: this is the hot path.
            fn load<'s, 'l, 'f>(&'s self, locators: &'l [Locator]) -> BoxFuture<'f, Result<Vec<Lookup>>>
            where
                Self: 'f,
                's: 'f,
                'l: 'f,
            {
                (**self).load(locators)
            }

            $(async fn $name(&self, $($arg: $type),*) -> Result<$answer> {
                (**self).$name($($arg),*).await
            })*
        }
    };
}
operations!(delegate);
