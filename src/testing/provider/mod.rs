//! An OpenID provider inside the process.

mod authorize;
mod client_auth;
mod config;
mod end_session;
mod events;
mod faults;
mod inject;
mod inspect;
mod keys;
mod metadata;
mod net;
mod pages;
mod params;
mod state;
mod token;

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    http::{HeaderMap, HeaderValue, header},
    middleware,
    response::Response,
    routing::{get, post},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    task::JoinHandle,
};

use self::{
    config::Habits,
    events::EventLog,
    keys::KeyRing,
    net::{Connection, Connections, CuttableListener},
    state::{Grant, State},
};
pub use self::{
    config::{ClientAuth, NeedsConsent, SigningAlg, TestClient, TestProviderBuilder, TestUser},
    events::{BackChannelCall, Event, TokenKind},
    faults::{Endpoint, Fault, Faults, Gate, IdTokenFault},
    keys::JwtBuilder,
    state::SessionInfo,
};

/// An OpenID provider that runs inside the process, on a free port of
/// 127.0.0.1, until it is dropped.
///
/// It does the code flow with PKCE, refresh with rotation and reuse detection,
/// downstream tokens, revocation, introspection, and sign-out by redirect, by
/// front channel and by back channel. What it did can be read from
/// [`events`](Self::events), and [`faults`](Self::faults) make it misbehave.
/// People sign in by a click; there are no passwords.
///
/// ```
/// use axum_signout::testing::{TestBrowser, TestClient, TestProvider};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let provider = TestProvider::builder()
///     .client(TestClient::new("my-app").secret("s3cret").app("http://127.0.0.1:3000"))
///     .start()
///     .await;
///
/// let mut browser = TestBrowser::new();
/// let page = browser.goto(provider.issuer()).await?;
/// assert!(page.body().contains("Nobody is signed in"));
/// # Ok(()) }
/// ```
pub struct TestProvider {
    shared: Arc<Shared>,
    address: SocketAddr,
    connections: Connections,
    serving: Mutex<Serving>,
}

enum Serving {
    Running(JoinHandle<()>),
    /// Bound, so that nobody else gets the port, and not listening, so that
    /// connections are refused.
    Paused(Option<TcpSocket>),
}

pub(crate) struct Shared {
    issuer: String,
    cookie_name: String,
    habits: Habits,
    state: Mutex<State>,
    events: EventLog,
    faults: Faults,
    http: reqwest::Client,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session_cookie(&self, headers: &HeaderMap) -> Option<String> {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .find(|(name, _)| *name == self.cookie_name)
            .map(|(_, value)| value.to_owned())
    }

    fn set_session_cookie(&self, response: &mut Response, value: Option<&str>) {
        let name = &self.cookie_name;
        let cookie = match value {
            Some(value) => format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax"),
            None => format!("{name}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0"),
        };
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            response.headers_mut().append(header::SET_COOKIE, cookie);
        }
    }
}

impl TestProvider {
    /// Sets one up that differs from the default.
    pub fn builder() -> TestProviderBuilder {
        TestProviderBuilder::new()
    }

    /// Starts one with the defaults: users `alice` and `bob`, no client yet.
    ///
    /// # Panics
    ///
    /// When no port can be bound.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    async fn launch(builder: TestProviderBuilder) -> Self {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, builder.port)))
            .expect("the test provider binds a port of 127.0.0.1");
        let address = listener.local_addr().expect("a listener knows its address");
        let mut state = State::new(KeyRing::new(builder.habits.own_key));
        state.users = builder.users;
        state.needs_consent = builder.needs_consent;
        let provider = Self {
            shared: Arc::new(Shared {
                issuer: format!("http://{}:{}", builder.habits.host, address.port()),
                // Ports do not separate cookies, so the name must.
                cookie_name: format!("test_provider_{}", address.port()),
                habits: builder.habits,
                state: Mutex::new(state),
                events: EventLog::new(),
                faults: Faults::default(),
                http: super::http_client(),
            }),
            address,
            connections: Connections::default(),
            serving: Mutex::new(Serving::Paused(None)),
        };
        for client in builder.clients {
            provider.add_client(client);
        }
        provider.serve(listener);
        provider
    }

    fn serve(&self, listener: TcpListener) {
        let router = router(&self.shared);
        let listener = CuttableListener {
            listener,
            connections: self.connections.clone(),
        };
        let task = tokio::spawn(async move {
            let service = router.into_make_service_with_connect_info::<Connection>();
            // Serving ends by being aborted, never by itself.
            let _ = axum::serve(listener, service).await;
        });
        *self.serving() = Serving::Running(task);
    }

    fn serving(&self) -> MutexGuard<'_, Serving> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The issuer, such as `http://127.0.0.1:40123`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.shared.issuer
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL below the issuer; `path` begins with a slash.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.shared.issuer)
    }

    /// Refuses connections from now on and closes those that are open, as a
    /// provider that is down. The port stays this provider's own.
    pub async fn pause(&self) {
        let serving = std::mem::replace(&mut *self.serving(), Serving::Paused(None));
        let task = match serving {
            Serving::Running(task) => task,
            paused @ Serving::Paused(_) => {
                *self.serving() = paused;
                return;
            }
        };
        task.abort();
        // An error says that it was aborted, which is what is wanted.
        let _ = task.await;
        self.connections.cut_all();
        let placeholder = TcpSocket::new_v4().and_then(|socket| {
            socket.set_reuseaddr(true)?;
            socket.bind(self.address)?;
            Ok(socket)
        });
        *self.serving() = Serving::Paused(placeholder.ok());
    }

    /// Serves again after [`pause`](Self::pause), on the same port and with
    /// everything it knew.
    ///
    /// # Panics
    ///
    /// When the port cannot be bound again.
    pub async fn resume(&self) {
        {
            let mut serving = self.serving();
            match &mut *serving {
                Serving::Running(_) => return,
                Serving::Paused(placeholder) => drop(placeholder.take()),
            }
        }
        let listener = bind(self.address).expect("the test provider binds its port again");
        self.serve(listener);
    }

    /// Stops serving. Dropping does the same, without waiting.
    pub async fn shutdown(self) {
        self.pause().await;
    }

    /// Registers a client, or replaces the one with the same `client_id`.
    pub fn add_client(&self, client: TestClient) {
        let mut state = self.shared.lock();
        if let Some(secret) = &client.secret {
            state.note_secret(secret);
        }
        state.clients.insert(client.id.clone(), client);
    }

    /// Adds a user, or replaces the one with the same login.
    pub fn add_user(&self, user: TestUser) {
        self.shared.lock().users.insert(user.login.clone(), user);
    }

    /// Marks a scope as one that the user must allow first.
    pub fn require_consent(&self, scope: NeedsConsent) {
        self.shared.lock().needs_consent.push(scope);
    }

    /// Has a user allow scopes to a client, as the consent page does.
    pub fn consent(&self, login: &str, client_id: &str, scopes: &[&str]) {
        let scopes: Vec<String> = scopes.iter().map(|&scope| scope.to_owned()).collect();
        self.shared.lock().consent(login, client_id, &scopes);
    }

    /// The faults to inject.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.shared.faults.clone()
    }

    /// Sets the provider's clock so many seconds ahead of the system's;
    /// negative is behind. It moves `iat`, `exp` and every expiry here.
    pub fn set_clock_offset(&self, seconds: i64) {
        self.shared.lock().clock_offset = seconds;
    }

    /// The provider's time, in seconds since the epoch.
    #[must_use]
    pub fn now(&self) -> i64 {
        self.shared.lock().now()
    }

    /// Signs with new keys from now on. The old ones stay published, so that
    /// tokens signed before still verify.
    pub fn rotate_keys(&self) {
        self.shared.lock().keys.rotate(true);
        self.shared.events.push(Event::KeysRotated);
    }

    /// Signs with new keys from now on, and publishes only them.
    pub fn replace_keys(&self) {
        self.shared.lock().keys.rotate(false);
        self.shared.events.push(Event::KeysRotated);
    }

    /// Publishes only the keys that sign now.
    pub fn withdraw_old_keys(&self) {
        self.shared.lock().keys.withdraw_old();
    }

    /// What happened so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.shared.events.all()
    }

    /// How many events so far are such.
    #[must_use]
    pub fn count(&self, mut such: impl FnMut(&Event) -> bool) -> usize {
        let events = self.shared.events.all();
        events.iter().filter(|event| such(event)).count()
    }

    /// Forgets what happened so far.
    pub fn clear_events(&self) {
        self.shared.events.clear();
    }

    /// The first such event: one of those so far, or else the next. It waits
    /// for as long as that takes.
    pub async fn wait_for(&self, such: impl FnMut(&Event) -> bool) -> Event {
        self.shared.events.wait_for(such).await
    }

    /// Whether an access token or a refresh token is good here and now.
    #[must_use]
    pub fn is_active(&self, token: &str) -> bool {
        self.shared.lock().is_active(token)
    }

    /// The sessions that are open.
    #[must_use]
    pub fn sessions(&self) -> Vec<SessionInfo> {
        let state = self.shared.lock();
        state
            .sessions
            .values()
            .map(|session| session.info())
            .collect()
    }

    /// An open session by its `sid`.
    #[must_use]
    pub fn session_of(&self, sid: &str) -> Option<SessionInfo> {
        self.sessions()
            .into_iter()
            .find(|session| session.sid == sid)
    }

    /// Ends a session from the provider's side, as an administrator does: its
    /// refresh tokens without `offline_access` die, and its clients get a
    /// logout token. Returns their answers.
    pub async fn end_session(&self, sid: &str) -> Vec<BackChannelCall> {
        let session = {
            let mut state = self.shared.lock();
            let cookie = state.cookie_of(sid);
            cookie.and_then(|cookie| state.remove_session(&cookie))
        };
        match session {
            Some(session) => end_session::announce_end(&self.shared, &session).await,
            None => Vec::new(),
        }
    }

    /// Revokes everything a user allowed, as an administrator does. The
    /// sessions stay.
    pub fn revoke_grants_of(&self, subject: &str) {
        for grant in &mut self.shared.lock().grants {
            if grant.subject == subject {
                grant.revoked = true;
            }
        }
    }

    /// A logout token for a client, complete but for `sub` and `sid`.
    ///
    /// # Panics
    ///
    /// When the client is not registered.
    pub fn logout_token(&self, client_id: &str) -> JwtBuilder {
        let state = self.shared.lock();
        let client = state.clients.get(client_id).expect("a registered client");
        end_session::logout_token(&self.shared, &state, client)
    }

    /// Posts a logout token to a client's `backchannel_logout_uri`.
    ///
    /// # Panics
    ///
    /// When the client is not registered or has no such URI.
    pub async fn post_logout_token(&self, client_id: &str, token: &str) -> BackChannelCall {
        let uri = {
            let state = self.shared.lock();
            let client = state.clients.get(client_id).expect("a registered client");
            let uri = client.backchannel_logout_uri.clone();
            uri.expect("a client with a backchannel_logout_uri")
        };
        end_session::post_logout_token(&self.shared, client_id.to_owned(), &uri, token).await
    }

    /// An ID token for a client and a user, complete but for `nonce`, with a
    /// `sid` that belongs to no session.
    ///
    /// # Panics
    ///
    /// When the client or the user is unknown.
    pub fn id_token(&self, client_id: &str, login: &str) -> JwtBuilder {
        let state = self.shared.lock();
        let client = state.clients.get(client_id).expect("a registered client");
        let user = state.users.get(login).expect("a known user");
        let grant = Grant {
            client_id: client.id.clone(),
            login: user.login.clone(),
            subject: user.subject.clone(),
            sid: "no-session".to_owned(),
            scopes: Vec::new(),
            resources: Vec::new(),
            nonce: None,
            acr: None,
            auth_time: state.now(),
            revoked: false,
        };
        token::id_token(&self.shared, &state, client, &grant)
    }

    /// Every code, token, `state`, `nonce`, verifier, client secret and cookie
    /// value that was issued or seen here, known or not: what no log may hold.
    #[must_use]
    pub fn secrets(&self) -> BTreeSet<String> {
        self.shared.lock().secrets.clone()
    }
}

impl Drop for TestProvider {
    fn drop(&mut self) {
        if let Serving::Running(task) = &*self.serving() {
            task.abort();
        }
        self.connections.cut_all();
    }
}

impl fmt::Debug for TestProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestProvider")
            .field("issuer", &self.shared.issuer)
            .finish_non_exhaustive()
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Closed connections of before the pause must not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

fn router(shared: &Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(metadata::home))
        .route(
            "/.well-known/openid-configuration",
            get(metadata::discovery),
        )
        .route("/jwks", get(metadata::jwks))
        .route(
            "/authorize",
            get(authorize::authorize).post(authorize::authorize),
        )
        .route("/login", post(authorize::login))
        .route("/consent", post(authorize::consent))
        .route("/token", post(token::token))
        .route("/revoke", post(inspect::revoke))
        .route("/introspect", post(inspect::introspect))
        .route(
            "/userinfo",
            get(inspect::user_info).post(inspect::user_info),
        )
        .route(
            "/end_session",
            get(end_session::end_session).post(end_session::end_session),
        )
        .route("/end_session/confirm", post(end_session::confirm))
        .layer(middleware::from_fn_with_state(
            shared.clone(),
            inject::inject,
        ))
        .with_state(shared.clone())
}
