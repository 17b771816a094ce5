//! An app with a clock that the test moves, and handles of its requests' tokens.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::Query;
use axum::routing::get;
use axum::{Extension, Router};
use axum_signout::clock::ManualClock;
use axum_signout::store::{MemoryTokenStore, MemoryTokenStoreBuilder};
use axum_signout::testing::{
    Event, Page, TestBrowser, TestProvider, TestProviderBuilder, TokenKind,
};
use axum_signout::{AccessToken, AuthBuilder, Error, ErrorKind, Tokens};
use serde::Deserialize;

use crate::support::app::{App, Setup};

pub struct World {
    pub provider: TestProvider,
    pub app: App,
    pub clock: Arc<ManualClock>,
    pub store: Arc<MemoryTokenStore>,
    ahead: Mutex<i64>,
    held: Arc<Mutex<Vec<Tokens>>>,
}

impl World {
    pub async fn new() -> Self {
        Self::with(|auth| auth).await
    }

    pub async fn with(auth: impl FnOnce(AuthBuilder) -> AuthBuilder + Send + 'static) -> Self {
        Self::start(TestProvider::builder(), Setup::new(), auth).await
    }

    pub async fn with_store(
        store: impl FnOnce(MemoryTokenStoreBuilder) -> MemoryTokenStoreBuilder,
    ) -> Self {
        Self::assemble(TestProvider::builder(), Setup::new(), |auth| auth, store).await
    }

    pub async fn start(
        provider: TestProviderBuilder,
        setup: Setup,
        auth: impl FnOnce(AuthBuilder) -> AuthBuilder + Send + 'static,
    ) -> Self {
        Self::assemble(provider, setup, auth, |store| store).await
    }

    pub async fn assemble(
        provider: TestProviderBuilder,
        setup: Setup,
        auth: impl FnOnce(AuthBuilder) -> AuthBuilder + Send + 'static,
        store: impl FnOnce(MemoryTokenStoreBuilder) -> MemoryTokenStoreBuilder,
    ) -> Self {
        let provider = provider.start().await;
        let clock = Arc::new(ManualClock::new());
        let store = store(MemoryTokenStore::builder().clock(clock.clone()));
        let store = Arc::new(store.build().unwrap());
        let held = Arc::default();
        let (of_auth, of_store, of_routes) = (clock.clone(), store.clone(), Arc::clone(&held));
        let routes = setup.routes.clone();
        let app = setup
            .routes(routes.merge(handlers(of_routes)))
            .auth(move |builder| auth(builder.clock(of_auth).store(of_store)))
            .start(&provider)
            .await;
        Self {
            provider,
            app,
            clock,
            store,
            ahead: Mutex::new(0),
            held,
        }
    }

    /// Moves the clocks of app and provider.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
        let mut ahead = self.ahead.lock().unwrap();
        *ahead += by.as_secs() as i64;
        self.provider.set_clock_offset(*ahead);
    }

    /// To where every access token of an hour is over.
    pub fn expire_tokens(&self) {
        self.advance(Duration::from_secs(3601));
    }

    pub async fn sign_in(&self, login: &str) -> TestBrowser {
        let mut browser = TestBrowser::new();
        self.app.sign_in(&mut browser, login).await;
        browser
    }

    /// What a handler of a new request has.
    pub async fn tokens(&self, browser: &TestBrowser) -> Tokens {
        let page = self.app.get(&mut browser.clone(), "/hold").await;
        assert_eq!(page.status(), 200, "{}", page.body());
        self.held.lock().unwrap().pop().unwrap()
    }

    pub async fn get(&self, browser: &TestBrowser, path: &str) -> Page {
        self.app.get(&mut browser.clone(), path).await
    }

    /// Nobody is signed in, and the session that was there is gone from its store, so that the cookie is taken back.
    pub async fn assert_signed_out(&self, browser: &mut TestBrowser) {
        assert_eq!(self.app.get(browser, "/whoami").await.body(), "nobody");
        assert_eq!(browser.cookie("127.0.0.1", "id"), None);
    }

    pub fn refreshes(&self) -> usize {
        self.provider
            .count(|event| matches!(event, Event::Refreshed { .. }))
    }

    pub fn reuses(&self) -> usize {
        self.provider
            .count(|event| matches!(event, Event::ReuseDetected { .. }))
    }

    /// Tokens revoked so far, in order.
    pub fn revoked(&self) -> Vec<(Option<TokenKind>, String)> {
        let revoked = |event| match event {
            Event::Revoked { kind, token, .. } => Some((kind, token.reveal().to_owned())),
            _ => None,
        };
        self.provider
            .events()
            .into_iter()
            .filter_map(revoked)
            .collect()
    }

    /// Lets everything come to its end.
    pub async fn finish(&self) {
        let report = self.app.auth.shutdown().await;
        assert!(report.finished && report.outbox == Some(0), "{report:?}");
    }

    pub async fn sign_ins(&self) -> usize {
        self.app.auth.stats().await.unwrap().sign_ins
    }
}

#[derive(Deserialize)]
struct For {
    resource: String,
    scope: Option<String>,
}

fn handlers(held: Arc<Mutex<Vec<Tokens>>>) -> Router {
    let hold = |Extension(held): Extension<Arc<Mutex<Vec<Tokens>>>>, tokens: Tokens| async move {
        held.lock().unwrap().push(tokens);
    };
    let token_for = |tokens: Tokens, Query(For { resource, scope }): Query<For>| async move {
        let token = tokens
            .acquire_for(&resource, scope.unwrap_or_default())
            .await?;
        Ok::<_, Error>(token.secret().to_owned())
    };
    Router::new()
        .route("/hold", get(hold))
        .route("/token_for", get(token_for))
        .layer(Extension(held))
}

/// The token that came with the sign-in, or its successor.
pub async fn acquire(tokens: &Tokens) -> Result<AccessToken, Error> {
    tokens.acquire(()).await
}

pub fn kind<T: std::fmt::Debug>(answer: Result<T, Error>) -> ErrorKind {
    answer.unwrap_err().kind()
}

/// Polls everything that is ready, so that what should not happen had its chance.
pub async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
