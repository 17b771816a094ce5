//! Sets a provider up.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oauth2::AsyncHttpClient;
use url::Url;

use super::authorization::is_reserved;
use super::circuit::Circuit;
use super::client_auth::{ClientAuth, Credentials};
use super::discovery::MetadataSource;
use super::fetched::{Fetched, Pause};
use super::http::Http;
use super::metadata::{Metadata, ProviderMetadata};
use super::{Inner, Provider, url_rules};
use crate::clock::Clock;
use crate::error::ConfigError;
use crate::jwt::SigningAlgorithm;
use crate::jwt::id_token::IdTokenRules;
use crate::jwt::logout_token::LogoutTokenRules;
use crate::secret::Secret;

const DEFAULT_SCOPES: [&str; 2] = ["openid", "profile"];

/// Sets up a [`Provider`]; had from [`Provider::discover`] or [`Provider::with_metadata`].
#[must_use = "nothing happens until `build` is called"]
pub struct ProviderBuilder {
    source: Source,
    client_id: String,
    client_secret: Option<Secret>,
    client_auth: Option<ClientAuth>,
    name: Option<String>,
    scopes: Vec<String>,
    algorithms: Vec<SigningAlgorithm>,
    trusted_audiences: Vec<String>,
    clock_skew: Duration,
    logout_rules: LogoutTokenRules,
    authorization_params: Vec<(String, String)>,
    resource: Option<String>,
    http: Option<Http>,
    timeout: Duration,
    connect_timeout: Duration,
    discovery_cool_down: Duration,
    keys_cool_down: Duration,
    clock: OnceLock<Arc<dyn Clock>>,
}

enum Source {
    Discovery(String),
    ByHand(Box<ProviderMetadata>),
}

impl ProviderBuilder {
    pub(super) fn discover(issuer: String, client_id: String) -> Self {
        Self::new(Source::Discovery(issuer), client_id)
    }

    pub(super) fn with_metadata(metadata: ProviderMetadata, client_id: String) -> Self {
        Self::new(Source::ByHand(Box::new(metadata)), client_id)
    }

    fn new(source: Source, client_id: String) -> Self {
        Self {
            source,
            client_id,
            client_secret: None,
            client_auth: None,
            name: None,
            scopes: DEFAULT_SCOPES.map(str::to_owned).to_vec(),
            algorithms: vec![SigningAlgorithm::Rs256],
            trusted_audiences: Vec::new(),
            clock_skew: Duration::from_secs(300),
            logout_rules: LogoutTokenRules {
                strict: false,
                max_age: Duration::from_secs(300),
            },
            authorization_params: Vec::new(),
            resource: None,
            http: None,
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            discovery_cool_down: Duration::from_secs(30),
            keys_cool_down: Duration::from_secs(10),
            clock: OnceLock::new(),
        }
    }

    /// The client's secret. By default none, which makes a public client: PKCE protects its codes all the same.
    pub fn client_secret(mut self, secret: impl Into<Secret>) -> Self {
        self.client_secret = Some(secret.into());
        self
    }

    /// How the app authenticates. By default [`SecretBasic`](ClientAuth::SecretBasic) with a secret, as the standard's own
    /// default is, and [`None`](ClientAuth::None) without.
    pub fn client_auth(mut self, auth: ClientAuth) -> Self {
        self.client_auth = Some(auth);
        self
    }

    /// The name that chooses this provider among several in URLs: up to 64 letters, digits, `-` and `_`. By default the
    /// issuer's host with `-` for all else, which is stable, and readable in a log.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// The scopes that every sign-in asks for, in place of the default `openid profile`: the account with a name to show. `openid`
    /// is added if it is missing.
    ///
    /// An address (`email`) is asked for by those who need it. So is `offline_access`: many providers give no
    /// refresh token without it, and it also keeps the refresh token alive when the user signs out at the provider.
    pub fn scopes<T: Into<String>>(mut self, scopes: impl IntoIterator<Item = T>) -> Self {
        self.scopes = scopes.into_iter().map(Into::into).collect();
        self
    }

    /// The algorithms that tokens of this provider may be signed with: what was registered as
    /// `id_token_signed_response_alg`. By default RS256 alone, which is what a provider uses if nothing was registered (OIDC
    /// Core, section 3.1.3.7).
    pub fn id_token_algorithms(
        mut self,
        algorithms: impl IntoIterator<Item = SigningAlgorithm>,
    ) -> Self {
        self.algorithms = algorithms.into_iter().collect();
        self
    }

    /// Who else an ID token may be for, besides this client. By default nobody: who shares a token with us can sign in
    /// here with it.
    pub fn trusted_audiences<T: Into<String>>(
        mut self,
        audiences: impl IntoIterator<Item = T>,
    ) -> Self {
        self.trusted_audiences = audiences.into_iter().map(Into::into).collect();
        self
    }

    /// How far the provider's clock may be off this machine's, up to an hour. By default five minutes: an ID token comes
    /// straight from the provider and is tied to its sign-in by a nonce, so a clock that drifts does more harm than a
    /// wide window does.
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        self
    }

    /// Takes logout tokens ([Back-Channel Logout](https://openid.net/specs/openid-connect-backchannel-1_0.html) section 2.4)
    /// only with `exp` and with the `typ` `logout+jwt`. By default either may be missing, as at many providers.
    ///
    /// * What the default risks: of a provider that signs tokens of other kinds with a back-channel event in them, such as
    ///   security event tokens, one could be taken for a logout token, and one without `exp` is good for
    ///   [a while](Self::logout_token_max_age) that the provider did not choose. Either ends sign-ins, and opens none.
    /// * What strict mode risks: with a provider that leaves one of them out, every logout by it is refused, and people stay
    ///   signed in here who have signed out there.
    pub fn strict_logout_tokens(mut self, on: bool) -> Self {
        self.logout_rules.strict = on;
        self
    }

    /// How old a logout token without `exp` may be, from a second to an hour, not counting the [clock
    /// skew](Self::clock_skew). By default five minutes: a provider that tries again does so within that. One with `exp` is
    /// good until then, and for a day at most.
    pub fn logout_token_max_age(mut self, age: Duration) -> Self {
        self.logout_rules.max_age = age;
        self
    }

    /// Adds a parameter to every sign-in's request, such as `domain_hint`; the same name again replaces it. By default none.
    /// Names that belong to the protocol are refused by [`build`](Self::build).
    ///
    /// What one sign-in says takes the place of what is said here, except that `prompt` adds up: with `consent` here, which
    /// `offline_access` needs at many providers, a sign-in with `prompt=login` asks for `login consent`. `none`
    /// goes with no other value, and that of the sign-in counts.
    pub fn authorization_param(
        mut self,
        name: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        let name = name.into();
        self.authorization_params
            .retain(|(other, _)| *other != name);
        self.authorization_params.push((name, value.into()));
        self
    }

    /// The resource (RFC 8707) that access tokens are for when nobody names another. By default none: the provider chooses.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// The HTTP client, in place of the one that the feature `reqwest` brings.
    ///
    /// Time-out and size limit are enforced around it, the size only once it has read the answer. What else matters is its own
    /// work: it must not follow redirects, must verify certificates, and must not send a request twice. Its errors are not
    /// traced, since they may show a request.
    ///
    /// The default client takes proxies from the environment (`HTTPS_PROXY`, `NO_PROXY`), except for a provider on
    /// loopback, which it reaches directly.
    pub fn http_client<C>(mut self, client: C) -> Self
    where
        C: Send + Sync + 'static + for<'c> AsyncHttpClient<'c, Future: Send, Error: Send + Sync>,
    {
        self.http = Some(Http::new(client, self.timeout));
        self
    }

    /// How long a request to the provider may take as a whole. By default 10 s: users wait for it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long the default client may take to connect. By default 5 s: half of the whole, and the half after which it is
    /// certain that nothing was sent.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest pause between two attempts to read metadata that fail; the first is a second, and each doubles. By default 30 s,
    /// within which sign-in works again once the provider is back.
    pub fn discovery_cool_down(mut self, longest: Duration) -> Self {
        self.discovery_cool_down = longest;
        self
    }

    /// The pause after each time that keys were fetched. By default 10 s: no flood of bad tokens makes more requests than
    /// one in that time, and a key that the provider has just begun to use is unknown for no longer.
    pub fn keys_cool_down(mut self, pause: Duration) -> Self {
        self.keys_cool_down = pause;
        self
    }

    /// Where to read the time. By default what the provider is used with reads it from, else the operating system.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = OnceLock::from(clock);
        self
    }

    /// Checks the configuration. Makes no request.
    ///
    /// # Errors
    ///
    /// A URL that is malformed or not `https` (`http` on loopback), a setting that is missing or out of its range, or no HTTP
    /// client: neither given nor brought by the feature `reqwest`.
    pub fn build(mut self) -> Result<Provider, ConfigError> {
        let issuer = match &self.source {
            Source::Discovery(issuer) => issuer.clone(),
            Source::ByHand(metadata) => metadata.issuer().to_owned(),
        };
        let issuer_url = url_rules::issuer(&issuer)
            .map_err(|problem| problem.into_config_error("issuer", &issuer))?;
        self.check()?;
        let name = match self.name.take() {
            Some(name) => name,
            None => slug(&issuer_url),
        };
        let http = match self.http.take() {
            Some(http) => http.with_timeout(self.timeout),
            None => self.default_http(&issuer_url)?,
        };
        let metadata = match self.source {
            Source::ByHand(metadata) => {
                MetadataSource::ByHand(Arc::new(Metadata::of_hand(&metadata)?))
            }
            Source::Discovery(_) => MetadataSource::Discovered(Fetched::new(Pause {
                first: Duration::from_secs(1).min(self.discovery_cool_down),
                longest: self.discovery_cool_down,
            })),
        };
        let auth = self.client_auth.unwrap_or(match self.client_secret {
            Some(_) => ClientAuth::SecretBasic,
            None => ClientAuth::None,
        });
        let boxed = |texts: Vec<String>| texts.into_iter().map(String::into_boxed_str).collect();
        Ok(Provider(Arc::new(Inner {
            name: name.into(),
            credentials: Credentials {
                client_id: self.client_id.as_str().into(),
                secret: self.client_secret,
                auth,
            },
            scopes: boxed(with_openid(self.scopes)),
            authorization_params: self
                .authorization_params
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            resource: self.resource.map(Into::into),
            rules: IdTokenRules {
                issuer: issuer.into(),
                client_id: self.client_id.into(),
                algorithms: self.algorithms.into(),
                trusted_audiences: boxed(self.trusted_audiences),
                clock_skew: self.clock_skew,
            },
            logout_rules: self.logout_rules,
            http,
            clock: self.clock,
            metadata,
            keys: Fetched::new(Pause {
                first: self.keys_cool_down,
                longest: self.keys_cool_down,
            }),
            circuit: Circuit::default(),
        })))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.client_id.is_empty() {
            return Err(ConfigError::Missing { what: "client_id" });
        }
        if let Some(name) = &self.name {
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || name.len() > 64 || !name.chars().all(fits) {
                return Err(ConfigError::OutOfRange {
                    what: "name",
                    value: name.clone(),
                    allowed: "1 to 64 letters, digits, - and _",
                });
            }
        }
        for scope in &self.scopes {
            // RFC 6749, section 3.3.
            let fits = |c: char| matches!(c, '\x21' | '\x23'..='\x5b' | '\x5d'..='\x7e');
            if scope.is_empty() || !scope.chars().all(fits) {
                return Err(ConfigError::OutOfRange {
                    what: "scopes",
                    value: scope.clone(),
                    allowed: "printable ASCII without spaces, quotes and backslashes",
                });
            }
        }
        for (name, _) in &self.authorization_params {
            if name.is_empty() || is_reserved(name) {
                return Err(ConfigError::OutOfRange {
                    what: "authorization_param",
                    value: name.clone(),
                    allowed: "a name that does not belong to the protocol",
                });
            }
        }
        self.check_secret()?;
        self.check_times()
    }

    fn check_secret(&self) -> Result<(), ConfigError> {
        if self.algorithms.is_empty() {
            return Err(ConfigError::Missing {
                what: "id_token_algorithms",
            });
        }
        let symmetric = self
            .algorithms
            .iter()
            .filter_map(|algorithm| algorithm.hmac());
        // RFC 7518, section 3.2: a key is at least as long as the hash.
        let wanted = symmetric.map(|hmac| hmac.tag_len()).max();
        let needs_secret = matches!(
            self.client_auth,
            Some(ClientAuth::SecretBasic | ClientAuth::SecretPost)
        ) || wanted.is_some();
        match &self.client_secret {
            None if needs_secret => Err(ConfigError::Missing {
                what: "client_secret",
            }),
            Some(secret) if secret.secret().is_empty() => Err(ConfigError::Missing {
                what: "client_secret",
            }),
            Some(secret) if wanted.is_some_and(|wanted| secret.secret().len() < wanted) => {
                Err(ConfigError::OutOfRange {
                    what: "client_secret",
                    value: format!("a text of {} bytes", secret.secret().len()),
                    allowed: "as many bytes as the HMAC has, at least",
                })
            }
            _ => Ok(()),
        }
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let hour = Duration::from_secs(3600);
        let within = |what, value: Duration, least: Duration, allowed| {
            if (least..=hour).contains(&value) {
                return Ok(());
            }
            Err(ConfigError::OutOfRange {
                what,
                value: format!("{value:?}"),
                allowed,
            })
        };
        let (none, some) = (Duration::ZERO, Duration::from_millis(1));
        within("clock_skew", self.clock_skew, none, "up to an hour")?;
        within(
            "logout_token_max_age",
            self.logout_rules.max_age,
            Duration::from_secs(1),
            "a second to an hour",
        )?;
        within("timeout", self.timeout, some, "a millisecond to an hour")?;
        within(
            "connect_timeout",
            self.connect_timeout,
            some,
            "a millisecond to an hour",
        )?;
        within(
            "discovery_cool_down",
            self.discovery_cool_down,
            none,
            "up to an hour",
        )?;
        within(
            "keys_cool_down",
            self.keys_cool_down,
            some,
            "a millisecond to an hour",
        )
    }

    #[cfg(feature = "reqwest")]
    fn default_http(&self, issuer: &Url) -> Result<Http, ConfigError> {
        let direct = issuer.scheme() == "http";
        let client =
            super::reqwest_client::ReqwestClient::new(self.timeout, self.connect_timeout, direct)
                .map_err(|error| {
                tracing::error!(error = %crate::error::Chain(&error), "no HTTP client");
                ConfigError::Missing {
                    what: "http_client (the default one cannot be set up on this machine)",
                }
            })?;
        Ok(Http::new(client, self.timeout))
    }

    #[cfg(not(feature = "reqwest"))]
    fn default_http(&self, _issuer: &Url) -> Result<Http, ConfigError> {
        Err(ConfigError::Missing {
            what: "http_client (or the feature `reqwest`)",
        })
    }
}

impl fmt::Debug for ProviderBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let issuer = match &self.source {
            Source::Discovery(issuer) => issuer,
            Source::ByHand(metadata) => metadata.issuer(),
        };
        f.debug_struct("ProviderBuilder")
            .field("issuer", &issuer)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// Without it there is no ID token (OIDC Core, section 3.1.2.1).
fn with_openid(scopes: Vec<String>) -> Vec<String> {
    let mut all = vec!["openid".to_owned()];
    for scope in scopes {
        if !all.contains(&scope) {
            all.push(scope);
        }
    }
    all
}

fn slug(issuer: &Url) -> String {
    let host = issuer.host_str().unwrap_or_default();
    let slug: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(64)
        .collect();
    let slug = slug.trim_matches('-');
    if slug.is_empty() { "provider" } else { slug }.to_owned()
}
