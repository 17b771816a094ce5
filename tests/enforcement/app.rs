//! An app on either version of tower-sessions, whose handler stops where the test wants it to.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use axum_signout::testing::Gate;
use axum_signout::{Account, ErrorKind};
use serde::Deserialize;
use tower::ServiceExt as _;

use crate::support::app::Answer;

/// How a handler writes to its session.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub enum How {
    /// By itself.
    Save,
    /// It leaves that to the session layer.
    Layer,
    /// Under a new id, which is left to the layer.
    Cycle,
}

/// Who a sign-in of the app's own is for.
#[derive(Clone)]
pub struct Arriving(pub Account);

/// Where a handler stops, and what it got.
#[derive(Clone)]
pub struct Stops {
    /// Before it writes to its session.
    pub before: Gate,
    /// After that, and before it asks for a token.
    pub after: Gate,
    pub how: How,
    pub token: Arc<Mutex<Option<Result<(), ErrorKind>>>>,
}

impl Stops {
    pub fn new(how: How) -> Self {
        Self {
            before: Gate::new(),
            after: Gate::new(),
            how,
            token: Arc::default(),
        }
    }

    /// What the handler's `acquire` came to.
    pub fn token(&self) -> Result<(), ErrorKind> {
        self.token
            .lock()
            .unwrap()
            .expect("the handler came to its end")
    }
}

macro_rules! version {
    ($name:ident, $sessions:ident) => {
        pub mod $name {
            use std::fmt::Debug;

            use async_trait::async_trait;
            use axum::extract::Path;
            use axum::http::StatusCode;
            use axum::routing::{get, post};
            use axum::{Extension, Router};
            use axum_signout::{AccessToken, Account, Auth, Error, TokenSet, Tokens};
            use $sessions::session::{Id, Record};
            use $sessions::session_store::{Error as StoreError, Result};
            use $sessions::{Session, SessionManagerLayer, SessionStore};

            use super::{Arriving, How, Stops};
            use crate::support::faulty::{Fail, Faults};

            /// A session store with gates before `create`, `save`, `load` and `delete`.
            #[derive(Clone, Debug)]
            pub struct Gated<S> {
                pub inner: S,
                pub faults: Faults,
            }

            impl<S> Gated<S> {
                async fn meet(&self, operation: &'static str) -> Result<()> {
                    match self.faults.of(operation) {
                        None => Ok(()),
                        Some(Fail::Hold(gate)) => {
                            gate.pass().await;
                            Ok(())
                        }
                        Some(_) => Err(StoreError::Backend("a fault of a test".into())),
                    }
                }
            }

            #[async_trait]
            impl<S: SessionStore> SessionStore for Gated<S> {
                async fn create(&self, record: &mut Record) -> Result<()> {
                    self.meet("create").await?;
                    self.inner.create(record).await
                }

                async fn save(&self, record: &Record) -> Result<()> {
                    self.meet("save").await?;
                    self.inner.save(record).await
                }

                async fn load(&self, id: &Id) -> Result<Option<Record>> {
                    self.meet("load").await?;
                    self.inner.load(id).await
                }

                async fn delete(&self, id: &Id) -> Result<()> {
                    self.meet("delete").await?;
                    self.inner.delete(id).await
                }
            }

            pub fn app<S>(auth: &Auth, store: S, faults: &Faults) -> Router
            where
                S: SessionStore + Clone + Debug,
            {
                let gated = Gated {
                    inner: store,
                    faults: faults.clone(),
                };
                Router::new()
                    .route("/in", post(sign_in))
                    .route("/cart/{item}", post(cart))
                    .route("/state", get(state))
                    .route("/run", post(run))
                    .merge(auth.routes())
                    .layer(auth.layer_with(SessionManagerLayer::new(gated)))
            }

            async fn sign_in(
                auth: Auth,
                session: Session,
                Extension(Arriving(account)): Extension<Arriving>,
            ) -> core::result::Result<(), Error> {
                let token = AccessToken::bearer(format!("token of {}", account.subject()));
                let tokens = TokenSet::new().with_access_token(token);
                let ticket = auth.ticket().await?;
                auth.sign_in(&session, ticket, account, tokens).await?;
                Ok(())
            }

            async fn cart(session: Session, Path(item): Path<String>) {
                session.insert("cart", item).await.unwrap();
            }

            /// Who it is, and what is in the cart.
            pub async fn state(account: Option<Account>, session: Session) -> String {
                let who = account
                    .as_ref()
                    .map_or("nobody", |account| account.subject());
                let cart = session.get::<String>("cart").await.unwrap();
                format!("{who} has {}", cart.as_deref().unwrap_or("nothing"))
            }

            /// Has its tokens and its session when it stops.
            async fn run(
                session: Session,
                tokens: Tokens,
                Extension(stops): Extension<Stops>,
            ) -> StatusCode {
                stops.before.pass().await;
                if stops.how == How::Cycle {
                    session.cycle_id().await.unwrap();
                }
                session.insert("cart", "what came late").await.unwrap();
                let saved = stops.how != How::Save || session.save().await.is_ok();
                stops.after.pass().await;
                let token = tokens.acquire(()).await;
                let token = token.map(drop).map_err(|error| error.kind());
                *stops.token.lock().unwrap() = Some(token);
                match saved {
                    true => StatusCode::OK,
                    false => StatusCode::INTERNAL_SERVER_ERROR,
                }
            }
        }
    };
}

version!(v015, tower_sessions);
version!(v014, tower_sessions_014);

pub fn request(method: &str, path: &str, cookie: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    request.body(Body::empty()).unwrap()
}

pub async fn answer(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

/// The session cookie that an answer sets: `Some("")` where it removes one.
pub fn session_cookie(answer: &Answer) -> Option<String> {
    let all = answer.set_cookies();
    let set = all.iter().find(|cookie| cookie.starts_with("id="))?;
    let pair = set.split(';').next().unwrap();
    Some(if pair == "id=" {
        String::new()
    } else {
        pair.to_owned()
    })
}

/// What `/state` says to who comes with that cookie.
pub async fn state(router: &Router, cookie: Option<&str>) -> String {
    let answer = answer(router, request("GET", "/state", cookie)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}
