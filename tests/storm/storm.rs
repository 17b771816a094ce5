//! Requests that all wait for one refresh: how long after the provider's answer the last of them has its token.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use axum::{Extension, Router};
use axum_signout::clock::ManualClock;
use axum_signout::testing::Gate;
use axum_signout::{
    AccessToken, Account, Auth, Provider, ProviderMetadata, SigningAlgorithm, TokenSet, Tokens,
};
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tower::Service as _;
use tower_sessions::session::Id;
use tower_sessions::{MemoryStore, Session};

const ISSUER: &str = "https://login.example.com";
const LIFETIME: Duration = Duration::from_secs(3600);

/// RFC 7517 appendix A.1: nothing here is signed.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","use":"sig","kid":"1",
    "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

/// A provider behind the HTTP client, whose answers to refreshes are held.
#[derive(Clone, Default)]
struct Held(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    gate: Gate,
    refreshes: usize,
}

impl<'c> AsyncHttpClient<'c> for Held {
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Infallible>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() == "/keys" {
                return Ok(HttpResponse::new(KEYS.into()));
            }
            let (gate, number) = {
                let mut state = self.0.lock().unwrap();
                state.refreshes += 1;
                (state.gate.clone(), state.refreshes)
            };
            gate.pass().await;
            let answer = json!({
                "access_token": access_token(number),
                "refresh_token": format!("refresh-{number}"),
                "token_type": "Bearer",
                "expires_in": LIFETIME.as_secs(),
            });
            Ok(HttpResponse::new(answer.to_string().into_bytes()))
        })
    }
}

fn access_token(number: usize) -> String {
    format!("access-{number:058}")
}

/// One person who is signed in.
pub struct Storm {
    provider: Held,
    clock: Arc<ManualClock>,
    app: Router,
    sessions: Arc<MemoryStore>,
    session: Id,
}

impl Storm {
    pub async fn start() -> Self {
        let url = |path: &str| format!("{ISSUER}/{path}");
        let metadata = ProviderMetadata::new(ISSUER, url("authorize"), url("token"), url("keys"));
        let provider = Held::default();
        let registration = Provider::with_metadata(metadata, "app")
            .http_client(provider.clone())
            .id_token_algorithms([SigningAlgorithm::Es256])
            .build()
            .unwrap();
        let clock = Arc::new(ManualClock::new());
        let auth = Auth::builder(registration, "https://app.example.com")
            .clock(clock.clone())
            .build()
            .unwrap();
        let app = Router::new()
            .route("/", get(async |tokens: Tokens| Extension(tokens)))
            .layer(auth.layer());
        let sessions = Arc::new(MemoryStore::default());
        let session = Session::new(None, sessions.clone(), None);
        let tokens = TokenSet::new()
            .with_refresh_token("refresh-0")
            .with_access_token(AccessToken::bearer(access_token(0)).expires_in(LIFETIME));
        let signed_in = auth.sign_in(&session, None, Account::new(ISSUER, "ann"), tokens);
        signed_in.await.unwrap();
        Self {
            provider,
            clock,
            app,
            sessions,
            session: session.id().unwrap(),
        }
    }

    /// What the handler of a new request has.
    async fn request(&mut self) -> Tokens {
        let mut request = Request::new(Body::empty());
        let session = Session::new(Some(self.session), self.sessions.clone(), None);
        request.extensions_mut().insert(session);
        let Ok(mut answer) = self.app.call(request).await;
        answer.extensions_mut().remove().expect("signed in")
    }

    /// Has so many requests wait for a refresh, and returns how long after the provider's answer the last one had its token.
    pub async fn break_loose(&mut self, waiters: usize) -> Duration {
        self.clock.advance(LIFETIME + Duration::from_secs(1));
        let gate = Gate::new();
        let before = {
            let mut state = self.provider.0.lock().unwrap();
            state.gate = gate.clone();
            state.refreshes
        };
        let waiting = Arc::new(AtomicUsize::new(0));
        // Whoever collects what tasks return is woken by each of them, and would compete with those that still wait for their turn.
        let served = Arc::new((AtomicUsize::new(0), Notify::new()));
        let mut all = JoinSet::new();
        for _ in 0..waiters {
            let tokens = self.request().await;
            let (waiting, served) = (waiting.clone(), served.clone());
            all.spawn(async move {
                let mut acquire = pin!(tokens.acquire(()));
                let mut counted = false;
                let token = poll_fn(|cx| {
                    let polled = acquire.as_mut().poll(cx);
                    if polled.is_pending() && !counted {
                        counted = true;
                        waiting.fetch_add(1, Ordering::SeqCst);
                    }
                    polled
                });
                let token = token.await;
                let at = Instant::now();
                if served.0.fetch_add(1, Ordering::SeqCst) + 1 == waiters {
                    served.1.notify_one();
                }
                (token, at)
            });
        }
        let begun = tokio::time::timeout(Duration::from_secs(60), gate.arrived(1));
        begun.await.expect("a refresh begins");
        while waiting.load(Ordering::SeqCst) < waiters {
            tokio::task::yield_now().await;
        }
        let answered = Instant::now();
        gate.open();
        let all_served = tokio::time::timeout(Duration::from_secs(60), served.1.notified());
        all_served.await.expect("all have their answer");
        let mut last = answered;
        let expected = access_token(before + 1);
        for (token, at) in all.join_all().await {
            assert_eq!(token.expect("it was refreshed").secret(), expected);
            last = last.max(at);
        }
        let after = self.provider.0.lock().unwrap().refreshes;
        assert_eq!(after - before, 1, "one refresh for all of them");
        last - answered
    }
}
