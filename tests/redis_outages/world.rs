//! Apps whose sign-ins and sessions are in Redis.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use axum_signout::clock::ManualClock;
use axum_signout::store::{RedisTokenStore, RedisTokenStoreBuilder, TokenStore as _};
use axum_signout::testing::{Event, Gate, Page, TestBrowser, TestProvider};
use axum_signout::{EndSessionRequest, ErrorKind, ProviderBuilder, SignOut, SignOutReport};
use tower_sessions::SessionManagerLayer;

use crate::support::app::{Answer, App, Setup, cookies, send};
use crate::support::redis::{RedisServer, Snapshots};

/// How long the store waits for Redis in these tests.
pub const TIMEOUT: Duration = Duration::from_millis(300);

/// One process of the app.
pub struct Node {
    pub app: App,
    pub store: Arc<RedisTokenStore>,
    pub clock: Arc<ManualClock>,
    /// Where a sign-out by `/leave-later` waits.
    pub gate: Gate,
    report: Arc<Mutex<Option<SignOutReport>>>,
}

impl Node {
    pub async fn start(provider: &TestProvider, redis: RedisTokenStoreBuilder) -> Self {
        Self::with(provider, redis.timeout(TIMEOUT), |provider| provider).await
    }

    pub async fn with(
        provider: &TestProvider,
        redis: RedisTokenStoreBuilder,
        settings: impl FnOnce(ProviderBuilder) -> ProviderBuilder + Send + 'static,
    ) -> Self {
        let store = Arc::new(redis.build().unwrap());
        let clock = Arc::new(ManualClock::new());
        let (gate, report) = (Gate::new(), Arc::<Mutex<_>>::default());
        let (of_auth, time, of_route, told) = (
            store.clone(),
            clock.clone(),
            gate.clone(),
            Arc::clone(&report),
        );
        let leave_later = async move |sign_out: SignOut| {
            of_route.pass().await;
            let signed_out = sign_out.run(EndSessionRequest::new()).await;
            *told.lock().unwrap() = Some(signed_out.report().clone());
            signed_out
        };
        let leave_later = move |sign_out| {
            let leave_later = leave_later.clone();
            async move { leave_later(sign_out).await }
        };
        let app = Setup::new()
            .sessions(SessionManagerLayer::new(store.sessions()))
            .routes(Router::new().route("/leave-later", post(leave_later)))
            .provider(settings)
            .auth(move |auth| auth.store(of_auth).clock(time))
            .start(provider)
            .await;
        Self {
            app,
            store,
            clock,
            gate,
            report,
        }
    }

    pub async fn get(&self, browser: &TestBrowser, path: &str) -> Page {
        self.app.get(&mut browser.clone(), path).await
    }

    pub async fn who(&self, browser: &TestBrowser) -> String {
        self.get(browser, "/whoami").await.body().to_owned()
    }

    /// A sign-out that begins while everything is there, and goes on when `then` is done.
    pub async fn leave(
        &self,
        browser: &TestBrowser,
        then: impl AsyncFnOnce(),
    ) -> (Answer, SignOutReport) {
        let (router, cookie) = (self.app.router.clone(), cookies(browser));
        let leaving = tokio::spawn(async move {
            let headers = [("cookie", &*cookie), ("accept", "text/html")];
            send(&router, "POST", "/leave-later", &headers, "").await
        });
        self.gate.arrived(1).await;
        then().await;
        self.gate.open();
        let answer = leaving.await.unwrap();
        let report = self.report.lock().unwrap().take().expect("a report");
        (answer, report)
    }

    /// Nothing is pending, nobody is signed in, and whatever is in Redis ends by itself.
    pub async fn assert_nothing_left(&self, redis: &RedisServer) {
        let report = self.app.auth.shutdown().await;
        assert!(report.finished && report.pending == 0, "{report:?}");
        assert_eq!(report.outbox, Some(0));
        let stats = self.store.stats().await.unwrap();
        assert_eq!(
            (stats.sign_ins, stats.selector_members, stats.downstream),
            (0, 0, 0),
            "{stats:?}"
        );
        for key in redis.keys() {
            assert_ne!(redis.cli(&["PTTL", &key]), "-1", "{key} stays for good");
        }
    }
}

/// One node, and a Redis that comes and goes.
pub struct World {
    pub provider: TestProvider,
    pub redis: Snapshots,
    pub node: Node,
}

impl World {
    pub async fn new() -> Self {
        Self::with(Snapshots::start().await).await
    }

    pub async fn with(redis: Snapshots) -> Self {
        let provider = TestProvider::start().await;
        let node = Node::start(&provider, RedisTokenStore::builder(redis.url())).await;
        Self {
            provider,
            redis,
            node,
        }
    }

    pub async fn sign_in(&self) -> TestBrowser {
        let mut browser = TestBrowser::new();
        self.node.app.sign_in(&mut browser, "alice").await;
        assert_eq!(self.node.who(&browser).await, "alice");
        browser
    }

    pub async fn assert_nothing_left(&self) {
        let revoked = || active(&self.provider).is_empty();
        until("the tokens are revoked", async || revoked()).await;
        self.node.assert_nothing_left(self.redis.server()).await;
    }
}

/// The tokens that the provider would still accept.
pub fn active(provider: &TestProvider) -> BTreeSet<String> {
    let mut secrets = provider.secrets();
    secrets.retain(|secret| provider.is_active(secret));
    secrets
}

pub fn refreshes(provider: &TestProvider) -> usize {
    provider.count(|event| matches!(event, Event::Refreshed { .. }))
}

pub fn reuses(provider: &TestProvider) -> usize {
    provider.count(|event| matches!(event, Event::ReuseDetected { .. }))
}

/// The answer to whoever needs the store while it is away: nothing is taken from the browser.
pub fn assert_unavailable(page: &Page) {
    assert_come_again(page);
    assert_eq!(page.body(), ErrorKind::StoreUnavailable.message());
    assert_eq!(page.header("set-cookie"), None);
}

/// The same during a sign-in: a page that names the code of what went wrong.
pub fn assert_not_signed_in(page: &Page) {
    assert_come_again(page);
    let code = "<code>temporarily_unavailable</code>";
    assert!(page.body().contains(code), "{}", page.body());
}

fn assert_come_again(page: &Page) {
    assert_eq!(page.status(), 503, "{}", page.body());
    assert_eq!(page.header("retry-after"), Some("5"));
    assert_eq!(page.header("cache-control"), Some("no-store"));
}

/// Looks again until it is so.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
