//! What the provider is told before it starts: clients, users, habits.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::{Map, Value, json};

use super::TestProvider;

/// How a client proves itself at the token, revocation and introspection
/// endpoints. The provider accepts the registered method only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// `client_secret_basic`.
    SecretBasic,
    /// `client_secret_post`.
    SecretPost,
    /// `none`: a public client, which must use PKCE.
    None,
}

/// The algorithm by which a client's ID tokens and logout tokens are signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SigningAlg {
    /// RSASSA-PKCS1-v1_5 with SHA-256, the default of OpenID Connect.
    #[default]
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// HMAC with SHA-256 and the client's secret.
    Hs256,
}

impl SigningAlg {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Hs256 => "HS256",
        }
    }
}

/// A client's registration at the [`TestProvider`].
///
/// ```
/// use axum_signout::testing::TestClient;
///
/// let public = TestClient::new("spa").redirect_uri("http://127.0.0.1:3000/signin/callback");
/// let confidential = TestClient::new("web").secret("s3cret").app("http://127.0.0.1:3000");
/// ```
#[derive(Clone)]
#[must_use]
pub struct TestClient {
    pub(super) id: String,
    pub(super) secret: Option<String>,
    pub(super) auth: ClientAuth,
    pub(super) redirect_uris: Vec<String>,
    pub(super) post_logout_redirect_uris: Vec<String>,
    pub(super) frontchannel_logout_uri: Option<String>,
    pub(super) backchannel_logout_uri: Option<String>,
    pub(super) signing_alg: SigningAlg,
}

impl TestClient {
    /// A public client without any URL.
    pub fn new(client_id: impl Into<String>) -> Self {
        Self {
            id: client_id.into(),
            secret: None,
            auth: ClientAuth::None,
            redirect_uris: Vec::new(),
            post_logout_redirect_uris: Vec::new(),
            frontchannel_logout_uri: None,
            backchannel_logout_uri: None,
            signing_alg: SigningAlg::Rs256,
        }
    }

    /// Makes it a confidential client, by `client_secret_basic` unless
    /// [`auth_method`](Self::auth_method) says otherwise later.
    pub fn secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self.auth = ClientAuth::SecretBasic;
        self
    }

    /// How the client proves itself.
    pub fn auth_method(mut self, auth: ClientAuth) -> Self {
        self.auth = auth;
        self
    }

    /// Adds a URL to which codes are sent. It is compared exactly.
    pub fn redirect_uri(mut self, uri: impl Into<String>) -> Self {
        self.redirect_uris.push(uri.into());
        self
    }

    /// Adds a URL at which a sign-out may end. It is compared exactly.
    pub fn post_logout_redirect_uri(mut self, uri: impl Into<String>) -> Self {
        self.post_logout_redirect_uris.push(uri.into());
        self
    }

    /// The URL that is loaded in a frame when the session ends.
    pub fn frontchannel_logout_uri(mut self, uri: impl Into<String>) -> Self {
        self.frontchannel_logout_uri = Some(uri.into());
        self
    }

    /// The URL to which a logout token is posted when the session ends.
    pub fn backchannel_logout_uri(mut self, uri: impl Into<String>) -> Self {
        self.backchannel_logout_uri = Some(uri.into());
        self
    }

    /// Registers the two URLs that an app on this crate's default paths has to
    /// register: `<base>/signin/callback` and `<base>/signout/callback`.
    pub fn app(self, base_url: &str) -> Self {
        let base = base_url.trim_end_matches('/');
        self.redirect_uri(format!("{base}/signin/callback"))
            .post_logout_redirect_uri(format!("{base}/signout/callback"))
    }

    /// Registers `<base>/signout/frontchannel` and
    /// `<base>/signout/backchannel`, this crate's default paths.
    pub fn app_logout_channels(self, base_url: &str) -> Self {
        let base = base_url.trim_end_matches('/');
        self.frontchannel_logout_uri(format!("{base}/signout/frontchannel"))
            .backchannel_logout_uri(format!("{base}/signout/backchannel"))
    }

    /// How ID tokens and logout tokens are signed. RS256 by default.
    pub fn signing_alg(mut self, alg: SigningAlg) -> Self {
        self.signing_alg = alg;
        self
    }
}

impl fmt::Debug for TestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClient")
            .field("id", &self.id)
            .field("auth", &self.auth)
            .field("redirect_uris", &self.redirect_uris)
            .field("post_logout_redirect_uris", &self.post_logout_redirect_uris)
            .field("frontchannel_logout_uri", &self.frontchannel_logout_uri)
            .field("backchannel_logout_uri", &self.backchannel_logout_uri)
            .field("signing_alg", &self.signing_alg)
            .finish_non_exhaustive()
    }
}

/// A person who can sign in at the [`TestProvider`], by a click and without a
/// password.
///
/// ```
/// use axum_signout::testing::TestUser;
///
/// let carol = TestUser::new("carol").claim("name", "Carol").claim("roles", vec!["Auditor"]);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TestUser {
    pub(super) login: String,
    pub(super) subject: String,
    pub(super) claims: Map<String, Value>,
}

impl TestUser {
    /// A user whose subject is their login.
    pub fn new(login: impl Into<String>) -> Self {
        let login = login.into();
        Self {
            subject: login.clone(),
            login,
            claims: Map::new(),
        }
    }

    /// A subject that differs from the login.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    /// A claim that ID tokens and the user-info endpoint state.
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    pub(super) fn display_name(&self) -> &str {
        self.claims
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or(&self.login)
    }

    /// Whether a `login_hint` means this person.
    pub(super) fn is_hinted(&self, hint: &str) -> bool {
        let email = self.claims.get("email").and_then(Value::as_str);
        hint == self.login || hint == self.subject || email == Some(hint)
    }
}

/// A scope that the user must allow on the provider's page, and what the token
/// endpoint answers for it until then.
///
/// ```
/// use axum_signout::testing::NeedsConsent;
///
/// let scope = NeedsConsent::new("Admin.Write")
///     .claims(r#"{"access_token":{"acrs":{"essential":true,"value":"c1"}}}"#);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct NeedsConsent {
    pub(super) scope: String,
    pub(super) error: String,
    pub(super) claims: Option<String>,
}

impl NeedsConsent {
    /// Answers `interaction_required`, without a challenge.
    pub fn new(scope: impl Into<String>) -> Self {
        Self {
            scope: scope.into(),
            error: "interaction_required".to_owned(),
            claims: None,
        }
    }

    /// Another error code, such as `consent_required`.
    pub fn error(mut self, code: impl Into<String>) -> Self {
        self.error = code.into();
        self
    }

    /// A `claims` member for the answer, as Entra's conditional access sends it.
    pub fn claims(mut self, challenge: impl Into<String>) -> Self {
        self.claims = Some(challenge.into());
        self
    }
}

/// The habits of the provider; they do not change while it runs.
#[derive(Clone, Debug)]
pub(super) struct Habits {
    pub(super) host: String,
    pub(super) confirm_logout: bool,
    pub(super) response_iss: bool,
    pub(super) rotate_refresh_tokens: bool,
    pub(super) scopes_beyond_grant: bool,
    pub(super) refresh_needs_offline_access: bool,
    pub(super) jwt_access_tokens: bool,
    pub(super) own_key: bool,
    pub(super) access_token_lifetime: Duration,
    pub(super) id_token_lifetime: Duration,
}

/// Sets up a [`TestProvider`].
#[derive(Debug)]
#[must_use]
pub struct TestProviderBuilder {
    pub(super) habits: Habits,
    pub(super) port: u16,
    pub(super) clients: Vec<TestClient>,
    pub(super) users: BTreeMap<String, TestUser>,
    pub(super) needs_consent: Vec<NeedsConsent>,
}

impl TestProviderBuilder {
    pub(super) fn new() -> Self {
        Self {
            habits: Habits {
                host: "127.0.0.1".to_owned(),
                confirm_logout: true,
                response_iss: true,
                rotate_refresh_tokens: true,
                scopes_beyond_grant: true,
                refresh_needs_offline_access: false,
                jwt_access_tokens: false,
                own_key: false,
                access_token_lifetime: Duration::from_secs(3600),
                id_token_lifetime: Duration::from_secs(600),
            },
            port: 0,
            clients: Vec::new(),
            users: default_users(),
            needs_consent: Vec::new(),
        }
    }

    /// The host in the issuer; `127.0.0.1` by default. With `localhost` the
    /// provider is another *site* than an app on 127.0.0.1, as in production.
    /// It listens on 127.0.0.1 in either case.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.habits.host = host.into();
        self
    }

    /// The port; by default the system picks a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Registers a client. More can follow by [`TestProvider::add_client`].
    pub fn client(mut self, client: TestClient) -> Self {
        self.clients.push(client);
        self
    }

    /// Adds a user, or replaces the one with the same login. `alice` and `bob`
    /// are there from the start.
    pub fn user(mut self, user: TestUser) -> Self {
        self.users.insert(user.login.clone(), user);
        self
    }

    /// Whether the end-session endpoint asks the user before it signs them
    /// out. On by default.
    pub fn confirm_logout(mut self, confirm: bool) -> Self {
        self.habits.confirm_logout = confirm;
        self
    }

    /// Whether authorization answers carry `iss` (RFC 9207) and discovery says
    /// so. On by default.
    pub fn response_iss(mut self, send: bool) -> Self {
        self.habits.response_iss = send;
        self
    }

    /// Whether each refresh hands out a new refresh token and retires the old
    /// one, whose second use then revokes the whole grant. On by default.
    pub fn rotate_refresh_tokens(mut self, rotate: bool) -> Self {
        self.habits.rotate_refresh_tokens = rotate;
        self
    }

    /// Whether a refresh may ask for scopes that the sign-in did not ask for,
    /// as with Entra. On by default; off answers `invalid_scope` (RFC 6749,
    /// section 6).
    pub fn scopes_beyond_grant(mut self, allow: bool) -> Self {
        self.habits.scopes_beyond_grant = allow;
        self
    }

    /// Whether a refresh token is issued for `offline_access` only. Off by
    /// default: without that scope there is one too, and it ends with the
    /// session.
    pub fn refresh_needs_offline_access(mut self, needs: bool) -> Self {
        self.habits.refresh_needs_offline_access = needs;
        self
    }

    /// Whether access tokens are JWTs, which this provider cannot revoke
    /// (`unsupported_token_type`). Off by default: they are opaque.
    pub fn jwt_access_tokens(mut self, jwt: bool) -> Self {
        self.habits.jwt_access_tokens = jwt;
        self
    }

    /// How long an access token is good for; one hour by default.
    pub fn access_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.habits.access_token_lifetime = lifetime;
        self
    }

    /// How long an ID token is good for; ten minutes by default.
    pub fn id_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.habits.id_token_lifetime = lifetime;
        self
    }

    /// Whether this provider makes an RSA key of its own. Off by default: the
    /// providers of one process start with the same key (under different
    /// `kid`s), because making one takes a good part of a second.
    pub fn own_key(mut self, own: bool) -> Self {
        self.habits.own_key = own;
        self
    }

    /// Marks a scope as one that the user must allow first.
    pub fn needs_consent(mut self, scope: NeedsConsent) -> Self {
        self.needs_consent.push(scope);
        self
    }

    /// Starts the provider on a task of the current Tokio runtime.
    ///
    /// # Panics
    ///
    /// When the port cannot be bound.
    pub async fn start(self) -> TestProvider {
        TestProvider::launch(self).await
    }
}

fn default_users() -> BTreeMap<String, TestUser> {
    let alice = TestUser::new("alice")
        .claim("name", "Alice Adams")
        .claim("email", "alice@example.com")
        .claim("email_verified", true)
        .claim("preferred_username", "alice")
        .claim("roles", json!(["Admin", "Reader"]));
    let bob = TestUser::new("bob")
        .claim("name", "Bob Brown")
        .claim("email", "bob@example.com")
        .claim("email_verified", true)
        .claim("preferred_username", "bob")
        .claim("roles", json!(["Reader"]));
    [alice, bob]
        .into_iter()
        .map(|user| (user.login.clone(), user))
        .collect()
}
