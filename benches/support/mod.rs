//! A store with a million sign-ins, some of them in sessions that a request can bring.

#![allow(
    dead_code,
    reason = "each benchmark is a program of its own and uses a part of this"
)]

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum_signout::store::{
    Created, Entry, Lifetimes, MemoryTokenStore, Removal, RevokeRule, Started, TokenStore,
};
use axum_signout::testing::store_contract::{account, locator};
use axum_signout::{
    AccessToken, Account, Auth, Cause, IdToken, Locator, OperationId, Provider, ProviderMetadata,
    RevocationPolicy, Selector, TokenSet,
};
use futures_util::FutureExt as _;
use tower_sessions::session::Id;
use tower_sessions::{MemoryStore, Session};

pub const SIZES: [u64; 3] = [1, 10_000, 1_000_000];

pub const ISSUER: &str = "https://login.example.com";

/// The memory store never waits, so its futures are ready at once: no runtime is measured along.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("the memory store never waits")
}

pub fn sid(number: u64) -> Selector {
    sid_at(ISSUER, number)
}

pub fn sid_at(issuer: &str, number: u64) -> Selector {
    Selector::sid(issuer, "app", &number.to_string())
}

fn text(number: u64, size: usize) -> String {
    format!("{number:0size$}")
}

pub fn tokens(number: u64) -> TokenSet {
    tokens_of(number, 64)
}

/// Access and refresh token of so many bytes, an ID token of twice as many.
pub fn tokens_of(number: u64, size: usize) -> TokenSet {
    let access = AccessToken::bearer(text(number, size))
        .with_scopes(["openid", "profile", "mail"])
        .expires_in(Duration::from_secs(3600));
    TokenSet::new()
        .with_refresh_token(text(number, size))
        .with_id_token(IdToken::new(format!("h.e30.{}", text(number, 2 * size))))
        .with_access_token(access)
}

pub fn account_of(number: u64) -> Account {
    Account::new(ISSUER, text(number, 16))
}

fn entry(issuer: &str, number: u64, tokens: TokenSet) -> Arc<Entry> {
    Arc::new(Entry {
        account: Account::new(issuer, text(number, 16)),
        client_id: "app".into(),
        tokens,
        lifetimes: Lifetimes {
            idle: Duration::from_secs(7200),
            absolute: Duration::from_secs(72 * 3600),
        },
        selectors: [sid_at(issuer, number)].into(),
        label: None,
    })
}

pub fn removal() -> Removal {
    Removal {
        operation: OperationId::random(),
        cause: Cause::UserSignOut,
        revoke: RevokeRule::All,
        mark_for: Duration::from_secs(900),
        logout_iat: None,
    }
}

/// Straight into the store.
pub fn sign_in(store: &MemoryTokenStore, number: u64) -> Locator {
    sign_in_at(store, ISSUER, number)
}

pub fn sign_in_at(store: &MemoryTokenStore, issuer: &str, number: u64) -> Locator {
    ready(sign_in_to(store, issuer, number, tokens(number)))
}

pub async fn sign_in_to(
    store: &dyn TokenStore,
    issuer: &str,
    number: u64,
    tokens: TokenSet,
) -> Locator {
    let locator = locator(&account(number));
    let started = Started {
        at: Some(store.now().await.expect("the store is there")),
        id_token_iat: None,
    };
    let selector = sid_at(issuer, number);
    let registered = store.register(&selector, &locator.address, &started);
    registered.await.expect("there is room");
    let entry = entry(issuer, number, tokens);
    let created = store.create(&locator, entry, &started, &removal()).await;
    assert!(matches!(created, Ok(Created::Done { .. })));
    locator
}

pub fn empty_store() -> MemoryTokenStore {
    MemoryTokenStore::builder()
        .max_sign_ins(2_000_000)
        .max_outbox(10_000_000)
        .build()
        .expect("the limits are in range")
}

/// An app's `Auth` with as many sign-ins in its cache as asked for.
pub struct World {
    pub auth: Auth,
    pub sessions: Arc<MemoryStore>,
    /// Of the sessions that hold one sign-in each: all of them, or a tenth of a million spread evenly over it.
    pub ids: Vec<Id>,
    /// Of a session that holds something else.
    pub plain: Id,
    at: usize,
    next: u64,
}

impl World {
    pub async fn new(size: u64) -> Self {
        let store = Arc::new(empty_store());
        let mut world = Self::over(store.clone(), Arc::default()).await;
        let each = if size > 100_000 { 10 } else { 1 };
        for number in 0..size {
            if number % each == 0 {
                world.add(number).await;
            } else {
                sign_in(&store, number);
            }
        }
        world.next = size;
        world
    }

    /// One node, and nobody signed in by it.
    pub async fn over(store: Arc<dyn TokenStore>, sessions: Arc<MemoryStore>) -> Self {
        let url = |path: &str| format!("{ISSUER}/{path}");
        let metadata = ProviderMetadata::new(ISSUER, url("authorize"), url("token"), url("keys"));
        let provider = Provider::with_metadata(metadata, "app")
            .build()
            .expect("a provider");
        let auth = Auth::builder(provider, "https://app.example.com")
            .store(store)
            .revocation(RevocationPolicy::Never)
            .build()
            .expect("a configuration");
        let plain = Session::new(None, sessions.clone(), None);
        plain.insert("cart", "apples").await.expect("in memory");
        plain.save().await.expect("in memory");
        Self {
            auth,
            sessions,
            ids: Vec::new(),
            plain: plain.id().expect("saved"),
            at: 0,
            next: 0,
        }
    }

    /// One more who can come with a request.
    pub async fn add(&mut self, number: u64) {
        let id = self.sign_in(number).await;
        self.ids.push(id);
        self.next = self.next.max(number + 1);
    }

    /// By way of the public API, into a session of its own.
    pub async fn sign_in(&self, number: u64) -> Id {
        let session = Session::new(None, self.sessions.clone(), None);
        session.insert("cart", "apples").await.expect("in memory");
        let account = account_of(number).with_sid(number.to_string());
        let signed_in = self.auth.sign_in(&session, None, account, tokens(number));
        signed_in.await.expect("signed in");
        session.id().expect("saved")
    }

    /// Some of the sessions with a sign-in: neighbours in time are not neighbours in memory.
    pub fn some(&mut self, count: u64) -> Vec<Id> {
        (0..count)
            .map(|_| {
                self.at = (self.at + 7919) % self.ids.len();
                self.ids[self.at]
            })
            .collect()
    }

    /// Puts a new sign-in in the place of one that has ended.
    pub async fn renew(&mut self, ended: Id) {
        self.next += 1;
        let id = self.sign_in(self.next).await;
        let place = self.ids.iter().position(|id| *id == ended);
        if let Some(place) = place {
            self.ids[place] = id;
        }
    }

    /// A request as it leaves the session layer, its record loaded: reading that is the session store's work.
    pub async fn request(&self, id: Option<Id>) -> Request {
        let session = Session::new(id, self.sessions.clone(), None);
        session.get_value("cart").await.expect("in memory");
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(session);
        request
    }
}

/// `--bench` is what `cargo bench` adds; without it this is a test of whether the benchmark still runs.
pub fn is_bench() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}
