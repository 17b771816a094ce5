//! An app with its browsers, everything that can happen to it, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, header};
use axum::routing::post;
use axum::{Extension, Router};
use axum_signout::clock::{Clock, ManualClock, Timestamp};
use axum_signout::store::{
    Lookup, MemoryTokenStore, Removal, RevokeRule, StoreStats, Target, TokenStore,
};
use axum_signout::{
    AccessToken, Account, Auth, AuthRejection, Cause, EndSessionRequest, Error, ErrorKind,
    OperationId, Provider, ProviderMetadata, SignInId, SignIns, SignOut, SigningAlgorithm, Ticket,
    TokenSet, Tokens,
};
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tower::Service;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

use crate::Random;
use crate::ledger::{Ledger, is_by_wish};
use crate::provider::{ISSUER, Keys, Mock, Outcome};
use crate::store::{Pace, RacyStore};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    OneNode,
    FailingStore,
    SharedStore,
}

const BROWSERS: usize = 3;
pub const ACCOUNTS: usize = 2;

/// Runs one schedule.
pub fn block_on<T>(schedule: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(schedule)
}

/// What is known of sign-ins.
#[derive(Default)]
struct Known {
    /// Counts what happened.
    now: u64,
    /// When this node's eviction of each had returned.
    evicted: BTreeMap<SignInId, u64>,
    /// When another node removed each.
    removed: BTreeMap<SignInId, (u64, Timestamp)>,
    /// The grant of each.
    grants: BTreeMap<SignInId, usize>,
    /// Of each: when it began and was done, and whose it is.
    begun: BTreeMap<SignInId, (u64, u64, Whose)>,
    /// Logouts from elsewhere that were carried out: when they began and returned, and whom they meant.
    logouts: Vec<(u64, u64, Meant)>,
    /// The grants of those that failed.
    failed: BTreeSet<usize>,
    /// The grants of those whose browser has gone, or may have.
    unheard: BTreeSet<usize>,
    /// Logouts by the provider that closed a selector, begun and under way: what they have yet to remove goes by it no more, so that a
    /// front-channel logout beside them finds nobody.
    closings: (usize, usize),
    /// Those that were ended by somebody's wish.
    signed_out: BTreeSet<SignInId>,
    /// Refresh tokens of others that ended.
    left_to_end: BTreeSet<String>,
    violations: Vec<String>,
}

impl Known {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

/// Subject and `sid`.
#[derive(Clone, Debug, PartialEq)]
struct Whose {
    subject: String,
    sid: String,
}

/// Whom a logout means.
#[derive(Clone, Debug)]
pub enum Meant {
    Sid(String),
    /// Not one that is under way: anyone can send a front-channel logout, so it leaves nothing behind.
    SidThatIsThere(String),
    Subject(String),
    /// All of the subject's but one.
    Others(String, SignInId),
}

impl Meant {
    fn names(&self, id: SignInId, whose: &Whose) -> bool {
        match self {
            Self::Sid(sid) | Self::SidThatIsThere(sid) => *sid == whose.sid,
            Self::Subject(subject) => *subject == whose.subject,
            Self::Others(subject, but) => *subject == whose.subject && id != *but,
        }
    }
}

impl Known {
    /// The logout that had returned by then, and meant this sign-in. `left`: why that has left the store.
    fn logged_out(&self, id: SignInId, by: u64, left: Option<Cause>) -> Option<&Meant> {
        let (began, done, whose) = self.begun.get(&id)?;
        let meant = self.logouts.iter().find(|(called, returned, meant)| {
            let there = match meant {
                // It found nobody where another eviction was faster, and answers for none but its own.
                Meant::SidThatIsThere(_)
                    if left.is_some_and(|left| left != Cause::FrontChannel) =>
                {
                    return false;
                }
                Meant::SidThatIsThere(_) => done,
                _ => began,
            };
            there < called && *returned < by && meant.names(id, whose)
        });
        meant.map(|(_, _, meant)| meant)
    }
}

#[derive(Clone)]
struct Arriving {
    ticket: Ticket,
    account: Account,
    tokens: TokenSet,
}

/// What a browser waits for when it closes its connection.
#[derive(Clone, Copy, Debug)]
pub enum Caller {
    Acquires,
    DoesSomethingElse,
}

#[derive(Clone, Default)]
struct Browser {
    cookie: Option<String>,
}

pub struct World {
    pub mode: Mode,
    pub random: Random,
    pub clock: Arc<ManualClock>,
    pub provider: Mock,
    pub store: Arc<RacyStore>,
    pub auth: Auth,
    pub sign_ins: usize,
    pub held: Arc<Mutex<Vec<(Tokens, u64)>>>,
    pub acquires: Vec<JoinHandle<()>>,
    /// Other requests.
    pub others: Vec<JoinHandle<()>>,
    ledger: Arc<Mutex<Ledger>>,
    /// What is to come to its end.
    sweeps: Vec<JoinHandle<()>>,
    keys: Arc<Keys>,
    app: Router,
    known: Arc<Mutex<Known>>,
    browsers: Arc<Mutex<Vec<Browser>>>,
}

async fn sign_in(
    auth: Auth,
    session: Session,
    Extension(who): Extension<Arriving>,
) -> Extension<Option<SignInId>> {
    let answer = auth
        .sign_in(&session, Some(who.ticket), who.account, who.tokens)
        .await;
    Extension(answer.ok())
}

/// Whose sign-ins this request had is noted before they are ended.
async fn sign_out(
    tokens: Result<Option<Tokens>, AuthRejection>,
    sign_out: SignOut,
) -> Extension<Vec<SignInId>> {
    let had = match tokens {
        Ok(Some(tokens)) => tokens.accounts().unwrap_or_default(),
        _ => Vec::new(),
    };
    let _ = sign_out.run(EndSessionRequest::new().local_only()).await;
    Extension(had.iter().map(|one| one.sign_in).collect())
}

/// Which sign-in stays, and whose it is.
async fn end_others(sign_ins: SignIns) -> Extension<Option<(SignInId, String)>> {
    let subject = sign_ins.account().subject().to_owned();
    let own = sign_ins.list().await.unwrap_or_default();
    let own = own.iter().find(|one| one.current).map(|one| one.id);
    let ended = sign_ins.end_others().await;
    Extension(ended.ok().and(own).map(|own| (own, subject)))
}

async fn hold(tokens: Tokens) -> Extension<Tokens> {
    Extension(tokens)
}

/// A request, and what its handler left in the response.
async fn ask<T: Clone + Send + Sync + 'static>(
    mut app: Router,
    path: &str,
    cookie: Option<String>,
    extension: Option<Arriving>,
) -> (Option<T>, Option<Option<String>>) {
    let mut request = Request::post(path).body(Body::empty()).unwrap();
    if let Some(cookie) = cookie {
        let cookie = format!("id={cookie}").parse().unwrap();
        request.headers_mut().insert(header::COOKIE, cookie);
    }
    if let Some(extension) = extension {
        request.extensions_mut().insert(extension);
    }
    std::future::poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut app, cx))
        .await
        .unwrap();
    let mut response: Response<Body> = app.call(request).await.unwrap();
    let set = response.headers().get_all(header::SET_COOKIE);
    let cookie = set.iter().find_map(|cookie| {
        let value = cookie.to_str().ok()?.strip_prefix("id=")?;
        let value = value.split(';').next()?;
        Some((!value.is_empty()).then(|| value.to_owned()))
    });
    (response.extensions_mut().remove::<T>(), cookie)
}

impl World {
    pub fn new(mode: Mode, mut random: Random, pace: Pace, keys: &Arc<Keys>) -> Self {
        let clock = Arc::new(ManualClock::at(Timestamp::from_secs(1_000_000_000)));
        let inner = MemoryTokenStore::builder().clock(clock.clone());
        let ledger = Arc::new(Mutex::new(Ledger {
            calls_wait: matches!(pace, Pace::Chosen(_)),
            ..Ledger::default()
        }));
        let store = Arc::new(RacyStore {
            inner: Arc::new(inner.build().unwrap()),
            shared: mode == Mode::SharedStore,
            pace: Mutex::new(pace),
            ledger: ledger.clone(),
            created: Mutex::default(),
        });
        let of_provider = Random::new(random.draw());
        let provider = Mock::new(clock.clone(), ledger.clone(), &keys.published, of_provider);
        let at = |path: &str| format!("{ISSUER}{path}");
        let metadata = ProviderMetadata::new(ISSUER, at("/authorize"), at("/token"), at("/keys"))
            .revocation_endpoint(at("/revoke"));
        let registration = Provider::with_metadata(metadata, "app")
            .http_client(provider.clone())
            .id_token_algorithms([SigningAlgorithm::Es256])
            .build()
            .unwrap();
        let known = Arc::new(Mutex::new(Known::default()));
        let seen = known.clone();
        let auth = Auth::builder(registration, "https://app.example")
            .clock(clock.clone())
            .store(store.clone())
            .refresh_ahead(0.5)
            .on_evict(move |eviction| {
                // Hooks are told after the eviction has returned.
                let mut seen = seen.lock().unwrap();
                let now = seen.tick();
                seen.evicted.entry(eviction.sign_in()).or_insert(now);
                tracing::info!(id = %eviction.sign_in(), now, cause = %eviction.cause(), "evicted");
                // Another sign-in of the account may hang on the same grant.
                if is_by_wish(eviction.cause()) {
                    seen.signed_out.insert(eviction.sign_in());
                } else if let Some(token) = eviction.tokens().refresh_token() {
                    seen.left_to_end.insert(token.secret().to_owned());
                }
                std::future::ready(())
            })
            .build()
            .unwrap();
        let app = Router::new()
            .route("/in", post(sign_in))
            .route("/out", post(sign_out))
            .route("/hold", post(hold))
            .route("/end-others", post(end_others))
            .merge(auth.sign_out_routes())
            .layer(auth.layer_with(SessionManagerLayer::new(MemoryStore::default())));
        Self {
            mode,
            random,
            clock,
            provider,
            store,
            auth,
            sign_ins: 0,
            held: Arc::default(),
            acquires: Vec::new(),
            others: Vec::new(),
            ledger,
            sweeps: Vec::new(),
            keys: keys.clone(),
            app,
            known,
            browsers: Arc::new(Mutex::new(vec![Browser::default(); BROWSERS])),
        }
    }

    pub fn browser(&mut self) -> usize {
        self.random.below(BROWSERS)
    }

    fn cookie(&self, browser: usize) -> Option<String> {
        self.browsers.lock().unwrap()[browser].cookie.clone()
    }

    /// A request comes in and acquires.
    pub fn acquire(&mut self, browser: usize, scope: &'static str, refused: bool) {
        let (app, cookie) = (self.app.clone(), self.cookie(browser));
        let (known, held) = (self.known.clone(), self.held.clone());
        let (provider, clock) = (self.provider.clone(), self.clock.clone());
        self.acquires.push(tokio::spawn(async move {
            let began = known.lock().unwrap().tick();
            let (tokens, _) = ask::<Tokens>(app, "/hold", cookie, None).await;
            let Some(tokens) = tokens else { return };
            held.lock().unwrap().push((tokens.clone(), began));
            use_tokens(&tokens, scope, refused, began, &known, &provider, &*clock).await;
        }));
    }

    /// A handler that has been running for a while acquires.
    pub fn acquire_held(&mut self, which: usize, scope: &'static str, refused: bool) {
        let (tokens, began) = self.held.lock().unwrap()[which].clone();
        let (known, provider) = (self.known.clone(), self.provider.clone());
        let clock = self.clock.clone();
        self.acquires.push(tokio::spawn(async move {
            use_tokens(&tokens, scope, refused, began, &known, &provider, &*clock).await;
        }));
    }

    pub fn sign_in(&mut self, browser: usize, account: usize, lifetime: Duration) {
        self.sign_ins += 1;
        let subject = format!("user-{account}");
        // Now and then two of one session at the provider.
        let sid = format!("sid-{}", self.sign_ins / 2);
        let whose = Whose {
            subject: subject.clone(),
            sid: sid.clone(),
        };
        let account = Account::new(ISSUER, subject).with_sid(sid);
        let (refresh, access) = self.provider.grant(lifetime);
        let grant = self.provider.owner(&access);
        let tokens = TokenSet::new()
            .with_refresh_token(refresh)
            .with_access_token(AccessToken::bearer(access).expires_in(lifetime));
        let (app, cookie) = (self.app.clone(), self.cookie(browser));
        let (known, browsers) = (self.known.clone(), self.browsers.clone());
        let auth = self.auth.clone();
        known.lock().unwrap().unheard.insert(grant);
        self.others.push(tokio::spawn(async move {
            // Without one nobody is sent to the provider.
            let Ok(ticket) = auth.ticket().await else {
                return;
            };
            // Not before: its stamp is taken somewhere on the way.
            let began = known.lock().unwrap().tick();
            let arriving = Arriving {
                ticket,
                account,
                tokens,
            };
            let (id, cookie) = ask::<Option<SignInId>>(app, "/in", cookie, Some(arriving)).await;
            known.lock().unwrap().unheard.remove(&grant);
            match id {
                Some(Some(id)) => {
                    let mut known = known.lock().unwrap();
                    known.grants.insert(id, grant);
                    let done = known.tick();
                    known.begun.insert(id, (began, done, whose));
                }
                // What a store that fails made of it is known to nobody.
                _ => {
                    known.lock().unwrap().failed.insert(grant);
                }
            }
            if let Some(cookie) = cookie {
                browsers.lock().unwrap()[browser].cookie = cookie;
            }
        }));
    }

    pub fn sign_out(&mut self, browser: usize) {
        let (app, cookie) = (self.app.clone(), self.cookie(browser));
        let (known, browsers) = (self.known.clone(), self.browsers.clone());
        self.others.push(tokio::spawn(async move {
            let (ids, cookie) = ask::<Vec<SignInId>>(app, "/out", cookie, None).await;
            let mut known = known.lock().unwrap();
            let now = known.tick();
            for id in ids.into_iter().flatten() {
                known.evicted.entry(id).or_insert(now);
                tracing::info!(%id, now, "signed out");
            }
            if let Some(cookie) = cookie {
                browsers.lock().unwrap()[browser].cookie = cookie;
            }
        }));
    }

    /// A logout that needs no cookie, and what it means if it is answered with 200.
    fn log_out(&mut self, request: Request<Body>, meant: Meant) {
        let (mut app, known) = (self.app.clone(), self.known.clone());
        self.others.push(tokio::spawn(async move {
            let closes = !matches!(meant, Meant::SidThatIsThere(_));
            let (called, before) = {
                let mut known = known.lock().unwrap();
                known.closings.0 += usize::from(closes);
                known.closings.1 += usize::from(closes);
                (known.tick(), known.closings)
            };
            std::future::poll_fn(|cx| Service::<Request<Body>>::poll_ready(&mut app, cx))
                .await
                .unwrap();
            let response: Response<Body> = app.call(request).await.unwrap();
            let mut known = known.lock().unwrap();
            known.closings.1 -= usize::from(closes);
            let alone = before == (known.closings.0, 0);
            if response.status() == 200 && (closes || alone) {
                let returned = known.tick();
                known.logouts.push((called, returned, meant));
            }
        }));
    }

    /// The provider calls.
    pub fn back_channel(&mut self, meant: Meant) {
        let (name, value) = match &meant {
            Meant::Sid(sid) => ("sid", sid),
            Meant::Subject(subject) => ("sub", subject),
            other => panic!("no logout token says {other:?}"),
        };
        let token = self.keys.logout_token(name, value, self.clock.wall());
        let request = Request::post("/signout/backchannel")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(format!("logout_token={token}")))
            .unwrap();
        self.log_out(request, meant);
    }

    pub fn front_channel(&mut self, sid: String) {
        let path = format!("/signout/frontchannel?iss={ISSUER}&sid={sid}");
        let request = Request::get(path).body(Body::empty()).unwrap();
        self.log_out(request, Meant::SidThatIsThere(sid));
    }

    pub fn some_sid(&mut self) -> String {
        format!("sid-{}", self.random.below(self.sign_ins / 2 + 1))
    }

    /// From one session of an account.
    pub fn end_others(&mut self, browser: usize) {
        let (app, cookie) = (self.app.clone(), self.cookie(browser));
        let known = self.known.clone();
        self.others.push(tokio::spawn(async move {
            let called = known.lock().unwrap().tick();
            let ended = ask::<Option<(SignInId, String)>>(app, "/end-others", cookie, None);
            if let (Some(Some((own, subject))), _) = ended.await {
                let mut known = known.lock().unwrap();
                let returned = known.tick();
                let meant = Meant::Others(subject, own);
                known.logouts.push((called, returned, meant));
            }
        }));
    }

    /// A browser closes its connection.
    pub fn drop_caller(&mut self, which: usize, of: Caller) {
        let callers = match of {
            Caller::Acquires => &mut self.acquires,
            Caller::DoesSomethingElse => &mut self.others,
        };
        callers.retain(|task| !task.is_finished());
        if !callers.is_empty() {
            let at = which % callers.len();
            callers.swap_remove(at).abort();
            let what = match of {
                Caller::Acquires => "a caller that left while it waited for a token",
                Caller::DoesSomethingElse => "a caller that left in the middle of something else",
            };
            self.ledger.lock().unwrap().happened(what);
        }
    }

    pub fn sweep(&mut self) {
        let auth = self.auth.clone();
        let sweep = async move { drop(auth.evict_due().await) };
        self.sweeps.push(tokio::spawn(sweep));
    }

    pub async fn pass_time(&mut self, by: Duration) {
        self.clock.advance(by);
        tokio::time::advance(by).await;
    }

    /// By another node: in one process nobody goes around the cache.
    pub async fn remove_account(&mut self) {
        let created = self.store.created.lock().unwrap().clone();
        if created.is_empty() {
            return;
        }
        let account = created[self.random.below(created.len())].account;
        let removal = Removal {
            operation: OperationId::random(),
            cause: Cause::Operator,
            revoke: RevokeRule::All,
            mark_for: Duration::from_secs(3600),
            logout_iat: None,
        };
        let target = Target::Account(account);
        let removed = self.store.inner.remove(&target, &removal);
        let removed = self.store.taking_out(removed).await;
        let mut known = self.known.lock().unwrap();
        let now = (known.tick(), self.clock.steady());
        for removed in removed.unwrap() {
            known.removed.insert(removed.address.id, now);
        }
    }

    /// What must hold at every moment.
    pub fn check(&self) {
        self.everything_is_accounted_for();
        let known = self.known.lock().unwrap();
        let provider = self.provider.0.lock().unwrap();
        let all: Vec<_> = known
            .violations
            .iter()
            .chain(&provider.violations)
            .collect();
        assert!(all.is_empty(), "{all:#?}");
    }

    /// Every token whose answer arrived is in the cache, revoked or in the outbox.
    fn everything_is_accounted_for(&self) {
        let known = self.known.lock().unwrap();
        for (id, grant) in &known.grants {
            let cause = self.ledger.lock().unwrap().left.get(id).copied();
            let entry = match cause {
                Some(cause) if is_by_wish(cause) => None,
                // Nobody is to be signed out at the provider.
                Some(_) => continue,
                None => {
                    let created = self.store.created.lock().unwrap();
                    let address = created.iter().find(|address| address.id == *id);
                    let address = *address.expect("it was created");
                    drop(created);
                    let found = self.store.inner.get(&address).now_or_never();
                    match found.expect("memory never waits").unwrap() {
                        Lookup::Live(stored) => Some(stored.entry),
                        // Its time is up.
                        Lookup::Moved | Lookup::Gone(_) => continue,
                    }
                }
            };
            let tokens = entry.as_deref().map(|entry| &entry.tokens);
            let astray = self.provider.astray(*grant, tokens);
            assert!(
                astray.is_empty(),
                "{id}, left by {cause:?}: {astray:?} are nowhere"
            );
        }
    }

    /// Lets every task that can go on do so, for so many times.
    pub async fn turns(&self, count: usize) {
        for _ in 0..count {
            tokio::task::yield_now().await;
        }
        self.ledger.lock().unwrap().turn += count as u64;
    }

    async fn settle(&self) {
        self.turns(300).await;
    }

    /// Of a request that is over: it has let go of what it held.
    pub async fn requests_end(&mut self) {
        for task in self.others.drain(..).chain(self.acquires.drain(..)) {
            task.await.unwrap();
        }
    }

    pub fn tally(&self) -> BTreeMap<&'static str, usize> {
        self.ledger.lock().unwrap().tally.clone()
    }

    /// Everything is well again: who is signed in gets a token, and after that nothing is left.
    pub async fn finish(&mut self) {
        self.store.fail(0);
        {
            let mut provider = self.provider.0.lock().unwrap();
            provider.at_once = true;
            provider.revocation_busy = 0;
        }
        while !self.provider.0.lock().unwrap().waiting.is_empty() {
            self.provider.answer(0, Outcome::Rotated);
        }
        for task in self.sweeps.drain(..) {
            task.await.unwrap();
        }
        self.requests_end().await;
        self.settle().await;
        self.check();
        // Longer than a lease, and than any pause after a failure.
        self.clock.advance(Duration::from_secs(61));
        tokio::time::advance(Duration::from_secs(61)).await;
        self.settle().await;
        for browser in 0..BROWSERS {
            let cookie = self.cookie(browser);
            let (tokens, _) = ask::<Tokens>(self.app.clone(), "/hold", cookie.clone(), None).await;
            if let Some(tokens) = tokens {
                let mut answer = tokens.acquire(()).await;
                let put_off = |error: &Error| error.kind() == ErrorKind::ProviderUnavailable;
                if answer.as_ref().is_err_and(put_off) {
                    // After an outage one refresh finds out for all, perhaps one that no request waits for.
                    self.settle().await;
                    answer = tokens.acquire(()).await;
                }
                if let Err(error) = answer {
                    assert_eq!(error.kind(), ErrorKind::NotSignedIn, "{error:?}");
                }
            }
            ask::<Vec<SignInId>>(self.app.clone(), "/out", cookie, None).await;
        }
        self.settle().await;
        self.check();
        // Sign-ins whose cookie was lost on the way.
        self.clock.advance(Duration::from_secs(73 * 3600 / 10));
        self.auth.evict_due().await.unwrap();
        assert_eq!(self.auth.stats().await.unwrap().sign_ins, 0);
        let report = self.auth.shutdown().await;
        assert!(report.finished && report.outbox == Some(0), "{report:?}");
        let forgotten = {
            let known = self.known.lock().unwrap();
            // Also of one whose end no hook was told of, because the store's answer was lost for too long.
            let others = known.grants.iter();
            let others = others.filter(|(id, _)| !known.signed_out.contains(id));
            let mut others: BTreeSet<usize> = others.map(|(_, grant)| *grant).collect();
            others.extend(&known.unheard);
            // Nor does it matter then whether the store failed or time passed while it was asked.
            let failed = "a call of the store that failed";
            if self.tally().contains_key(failed) {
                others.extend(&known.failed);
            }
            self.provider.forgotten(&known.left_to_end, others)
        };
        assert!(
            forgotten.is_empty(),
            "obtained and forgotten: {forgotten:?}"
        );
        self.check();
        // Marks, causes, leases and remembered answers end by themselves.
        self.clock.advance(Duration::from_secs(30 * 3600));
        for _ in 0..2 {
            self.auth.evict_due().await.unwrap();
        }
        assert_eq!(self.auth.stats().await.unwrap(), StoreStats::default());
    }
}

/// Acquires, and holds what came against what is known by then of the time before.
async fn use_tokens(
    tokens: &Tokens,
    scope: &'static str,
    refused: bool,
    request: u64,
    known: &Mutex<Known>,
    provider: &Mock,
    clock: &dyn Clock,
) {
    let id = tokens.sign_in();
    let begin = || (known.lock().unwrap().tick(), clock.steady());
    let began = begin();
    let Ok(token) = tokens.acquire(scope).await else {
        return;
    };
    hold_against(id, &token, began, request, known, provider);
    if !refused {
        return;
    }
    let began = begin();
    let Ok(Some(other)) = tokens.acquire_fresh(scope, &token).await else {
        return;
    };
    provider.happened("a token in place of a refused one");
    hold_against(id, &other, began, request, known, provider);
    if other.secret() == token.secret() {
        let violation = format!("{id}: the refused token again");
        known.lock().unwrap().violations.push(violation);
    }
}

/// Holds a token that came against what is known by then of the time before.
fn hold_against(
    id: SignInId,
    token: &AccessToken,
    (began, time): (u64, Timestamp),
    request: u64,
    known: &Mutex<Known>,
    provider: &Mock,
) {
    provider.happened("a token that was served");
    let mut known = known.lock().unwrap();
    tracing::info!(%id, began, now = known.now, "a token was served");
    if let Some(meant) = known.logged_out(id, began, provider.left(id)).cloned() {
        let violation = format!("{id}: a token after the logout of {meant:?}");
        known.violations.push(violation);
    }
    if known.evicted.get(&id).is_some_and(|at| *at < began) {
        known
            .violations
            .push(format!("{id}: a token after the eviction"));
    }
    if let Some((at, when)) = known.removed.get(&id).copied() {
        if at < request {
            known
                .violations
                .push(format!("{id}: a token for a request after the removal"));
        }
        if at < began && time.since(when) > Duration::from_secs(1) {
            known
                .violations
                .push(format!("{id}: a token a second after the removal"));
        }
    }
    let owner = provider.owner(token.secret());
    if known.grants.get(&id).is_some_and(|grant| *grant != owner) {
        known
            .violations
            .push(format!("{id}: another sign-in's token"));
    }
}
