//! Where Redis is, and limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisError,
    TlsCertificates, TlsMode,
};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::RedisTokenStore;
use super::codec::Codec;
use super::keys::Keys;
use super::link::{Link, Servers};
use super::masters::Masters;
use super::replay::Replay;
use super::room::Room;
use super::subscription::Subscription;
use super::tier::{MemoryTier, Tier};
use super::time::Time;
#[cfg(any(test, feature = "testing"))]
use crate::clock::Clock;
use crate::error::ConfigError;
#[cfg(feature = "encryption")]
use crate::key_ring::KeyRing;
use crate::secret::Secret;
use crate::store::limits::check_limits;

/// How many commands are under way to a master of a cluster. The client asks for its masters on the same connections, each of which
/// has room for 50 commands that are not written yet; and it is one task, which is not to have too many answers at a time, see
/// `LOOKS_AT_ONCE` in `link.rs`.
const AT_A_TIME: usize = 40;

/// What kind of servers the URLs name.
#[derive(Clone)]
enum Kind {
    One,
    Cluster,
    Sentinel { master: String },
}

/// Sets up a [`RedisTokenStore`].
#[derive(Clone)]
#[must_use]
pub struct RedisTokenStoreBuilder {
    urls: Vec<String>,
    kind: Kind,
    prefix: String,
    timeout: Duration,
    credentials: Option<(String, Secret)>,
    root_certificate: Option<Vec<u8>>,
    max_sign_ins: usize,
    max_sign_ins_per_account: usize,
    max_selectors: Option<usize>,
    max_claims: usize,
    max_outbox: usize,
    tier: Option<MemoryTier>,
    #[cfg(feature = "encryption")]
    keys: Option<KeyRing>,
    #[cfg(any(test, feature = "testing"))]
    clock: Option<Arc<dyn Clock>>,
}

impl RedisTokenStoreBuilder {
    pub(super) fn new(urls: impl IntoIterator<Item = String>) -> Self {
        Self {
            urls: urls.into_iter().collect(),
            kind: Kind::One,
            prefix: "axum-signout".to_owned(),
            timeout: Duration::from_secs(2),
            credentials: None,
            root_certificate: None,
            max_sign_ins: 10_000_000,
            max_sign_ins_per_account: 100,
            max_selectors: None,
            max_claims: 1_000_000,
            max_outbox: 100_000,
            tier: None,
            #[cfg(feature = "encryption")]
            keys: None,
            #[cfg(any(test, feature = "testing"))]
            clock: None,
        }
    }

    pub(super) fn cluster(mut self) -> Self {
        self.kind = Kind::Cluster;
        self
    }

    pub(super) fn sentinel(mut self, master: String) -> Self {
        self.kind = Kind::Sentinel { master };
        self
    }

    /// What all keys begin with, by default `axum-signout`: for apps that share one Redis and not their users. 1 to 64
    /// visible ASCII characters without braces, which Redis Cluster reads.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long a call waits for Redis at most, connecting included, by default 2 s: a healthy Redis answers in a
    /// millisecond, and a user waits this long to be told that signing in does not work at the moment. 10 ms to 1 min. A
    /// call that consists of several steps may take it for each.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The user, empty for the default one, and its password, by default those of the URL: for a password that does not
    /// stand in the URL. With sentinels the URLs' are said to the sentinels, and these to the master.
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<Secret>) -> Self {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    /// The certificate, in PEM, of the authority that signed those of the servers, for `rediss` URLs. By default the
    /// operating system's authorities are trusted.
    pub fn root_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.root_certificate = Some(pem.into());
        self
    }

    /// Most sign-ins at a time, by default 10,000,000: what Redis' memory is good for is the operator's to say, with
    /// `maxmemory` and the policy `noeviction`. One more and the one whose time would be up first leaves, with cause
    /// [`Cause::Capacity`](crate::Cause::Capacity).
    pub fn max_sign_ins(mut self, max: usize) -> Self {
        self.max_sign_ins = max;
        self
    }

    /// Most sign-ins of one account, by default 100: more browsers than a person has, few enough that nobody crowds out
    /// the others. One more and the least recently used of the account leaves.
    pub fn max_sign_ins_per_account(mut self, max: usize) -> Self {
        self.max_sign_ins_per_account = max;
        self
    }

    /// Most members of selectors, by default four for each sign-in that there may be: a sign-in has one or two, and one
    /// that was begun and abandoned keeps its own for an hour. At the limit sign-ins are refused.
    pub fn max_selectors(mut self, max: usize) -> Self {
        self.max_selectors = Some(max);
        self
    }

    /// Most claims, and most leases, by default 1,000,000, some 250 MiB: logout tokens of ten minutes at more than a
    /// thousand a second. At the limit whoever claims is refused.
    pub fn max_claims(mut self, max: usize) -> Self {
        self.max_claims = max;
        self
    }

    /// Most tokens that wait to be revoked, by default 100,000: sign-outs of some hours while the provider is away. At
    /// the limit a removal goes on, and says of its tokens that they are not to be revoked.
    pub fn max_outbox(mut self, max: usize) -> Self {
        self.max_outbox = max;
        self
    }

    /// Keeps copies of sign-ins in this process' memory, for some seconds: most requests are then answered without a round trip for
    /// the sign-in; with sessions in Redis that of the session remains. Default: none, every request asks Redis. [`MemoryTier`] says what it costs: what a node does not hear of it may serve for a while.
    pub fn memory_tier(mut self, tier: MemoryTier) -> Self {
        self.tier = Some(tier);
        self
    }

    /// Encrypts tokens, accounts and sessions with these keys, the same on all nodes. Default: they are kept as they are, and whoever reads
    /// Redis, or a copy of its disk, has them.
    ///
    /// Once it is set, only what is encrypted is read: users that were signed in before sign in again, and the tokens that they had cannot be
    /// revoked any more. What stays readable: hashes of accounts, sessions and session keys, ids of sign-ins, times, and causes.
    #[cfg(feature = "encryption")]
    pub fn encryption(mut self, keys: KeyRing) -> Self {
        self.keys = Some(keys);
        self
    }

    /// Where the store reads the time in place of Redis' own clock: for tests, on one node. Keys live a day longer then,
    /// for Redis ends them by its own.
    #[cfg(any(test, feature = "testing"))]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Checks the settings and makes the store. Nothing is sent: the app starts while Redis is away.
    ///
    /// # Errors
    /// [`ConfigError::InvalidUrl`] for a URL that names no server, [`ConfigError::Missing`] without one,
    /// [`ConfigError::OutOfRange`] for a limit of zero or above 2^31, and for a timeout, a prefix or a certificate that is
    /// none.
    pub fn build(self) -> Result<RedisTokenStore, ConfigError> {
        self.check()?;
        let nodes = self.nodes()?;
        let database = nodes.first().map_or(0, |node| node.redis_settings().db());
        let wrong = |error: RedisError| ConfigError::InvalidUrl {
            what: "redis url",
            // Not as it was given: it may hold a password.
            value: nodes
                .first()
                .map_or(String::new(), |node| node.addr().to_string()),
            reason: error.category().to_owned(),
        };
        let servers = self.servers(&nodes).map_err(wrong)?;
        let masters = self.masters(&nodes).map_err(wrong)?;
        let max_selectors = self
            .max_selectors
            .unwrap_or(self.max_sign_ins.saturating_mul(4));
        let is_cluster = matches!(servers, Servers::Cluster(_));
        let time = Time::new(is_cluster);
        let keys = Arc::new(match is_cluster {
            true => Keys::of_cluster(&self.prefix),
            false => Keys::of_server(&self.prefix, database),
        });
        #[cfg(any(test, feature = "testing"))]
        let time = time.given(self.clock);
        #[cfg(feature = "encryption")]
        let codec = Codec::encrypted(self.keys);
        #[cfg(not(feature = "encryption"))]
        let codec = Codec::default();
        let time = Arc::new(time);
        let replay = Replay::new(keys.clone(), time.clone());
        let link = Arc::new(Link::new(servers, self.timeout, replay));
        let subscription = Subscription::new(masters, keys.clone(), link.clone());
        let tier = self.tier.as_ref().map(|tier| Arc::new(Tier::new(tier)));
        if let Some(tier) = &tier {
            subscription.listen(tier.clone());
        }
        Ok(RedisTokenStore {
            keys,
            codec: Arc::new(codec),
            time,
            link,
            sign_ins: Room::new(self.max_sign_ins),
            members: Room::new(max_selectors),
            claims: Room::new(self.max_claims),
            leases: Room::new(self.max_claims),
            outbox: Room::new(self.max_outbox),
            max_per_account: self.max_sign_ins_per_account,
            subscription,
            tier,
            sessions_given: false.into(),
        })
    }

    fn sentinels(
        &self,
        nodes: &[ConnectionInfo],
        master: &str,
        protocol: ProtocolVersion,
    ) -> redis::RedisResult<SentinelClient> {
        let addresses = nodes.iter().map(|node| node.addr().clone());
        let mut client = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
            .set_client_to_redis_protocol(protocol);
        if let Some(first) = nodes.first() {
            let settings = first.redis_settings();
            client = client.set_client_to_redis_db(settings.db());
            if let Some(user) = settings.username() {
                client = client.set_client_to_sentinel_username(user);
            }
            if let Some(password) = settings.password() {
                client = client.set_client_to_sentinel_password(password);
            }
        }
        if let Some((user, password)) = &self.credentials {
            client = client.set_client_to_redis_password(password.secret());
            if !user.is_empty() {
                client = client.set_client_to_redis_username(user);
            }
        }
        if nodes.iter().any(is_secure) {
            client = client.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(certificates) = self.certificates(nodes) {
            client = client
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates);
        }
        client.build()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let limits = [
            ("max_sign_ins", self.max_sign_ins),
            ("max_sign_ins_per_account", self.max_sign_ins_per_account),
            ("max_selectors", self.max_selectors.unwrap_or(1)),
            ("max_claims", self.max_claims),
            ("max_outbox", self.max_outbox),
        ];
        check_limits(&limits)?;
        if let Some(tier) = &self.tier {
            tier.check()?;
        }
        let timeouts = Duration::from_millis(10)..=Duration::from_secs(60);
        if !timeouts.contains(&self.timeout) {
            return Err(ConfigError::OutOfRange {
                what: "timeout",
                value: format!("{:?}", self.timeout),
                allowed: "10 ms to 1 min",
            });
        }
        let certificate = self.root_certificate.as_deref();
        if certificate.is_some_and(|pem| !is_certificate(pem)) {
            return Err(ConfigError::OutOfRange {
                what: "root_certificate",
                value: "the text that was given".to_owned(),
                allowed: "certificates in PEM",
            });
        }
        let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'{' && byte != b'}';
        if !(1..=64).contains(&self.prefix.len()) || !self.prefix.bytes().all(fits) {
            return Err(ConfigError::OutOfRange {
                what: "prefix",
                value: self.prefix.clone(),
                allowed: "1 to 64 visible ASCII characters without braces",
            });
        }
        Ok(())
    }

    fn nodes(&self) -> Result<Vec<ConnectionInfo>, ConfigError> {
        let nodes = self.urls.iter().map(|url| node(url));
        let mut nodes: Vec<ConnectionInfo> = nodes.collect::<Result<_, _>>()?;
        if let (Some((user, password)), Kind::One | Kind::Cluster) = (&self.credentials, &self.kind)
        {
            nodes = nodes
                .into_iter()
                .map(|node| signed_in(node, user, password))
                .collect();
        }
        if nodes.is_empty() {
            return Err(ConfigError::Missing { what: "redis url" });
        }
        if nodes.iter().any(is_secure) {
            choose_crypto();
        }
        Ok(nodes)
    }

    /// Those to trust instead of the operating system's.
    fn certificates(&self, nodes: &[ConnectionInfo]) -> Option<TlsCertificates> {
        let root_cert = self.root_certificate.clone();
        let is_own = root_cert.is_some() && nodes.iter().any(is_secure);
        is_own.then_some(TlsCertificates {
            client_tls: None,
            root_cert,
        })
    }

    fn client(&self, node: &ConnectionInfo) -> redis::RedisResult<Client> {
        match self.certificates(std::slice::from_ref(node)) {
            Some(certificates) => Client::build_with_tls(node.clone(), certificates),
            None => Client::open(node.clone()),
        }
    }

    /// Where calls go. There is a node.
    fn servers(&self, nodes: &[ConnectionInfo]) -> redis::RedisResult<Servers> {
        match &self.kind {
            Kind::One => self.client(&nodes[0]).map(Servers::One),
            Kind::Cluster => {
                let mut cluster = ClusterClient::builder(nodes.to_vec())
                    .connection_timeout(self.timeout)
                    .response_timeout(self.timeout)
                    .connection_concurrency_limit(AT_A_TIME);
                if let Some(certificates) = self.certificates(nodes) {
                    cluster = cluster.certs(certificates);
                }
                cluster.build().map(Servers::Cluster)
            }
            Kind::Sentinel { master } => {
                let client = self.sentinels(nodes, master, ProtocolVersion::RESP2)?;
                Ok(Servers::Sentinel(tokio::sync::Mutex::new(client)))
            }
        }
    }

    /// Where announcements come from.
    fn masters(&self, nodes: &[ConnectionInfo]) -> redis::RedisResult<Masters> {
        let client = |node: &ConnectionInfo| {
            let settings = node.redis_settings().clone();
            let settings = settings.set_protocol(ProtocolVersion::RESP3);
            self.client(&node.clone().set_redis_settings(settings))
        };
        Ok(match &self.kind {
            Kind::One => Masters::One(Box::new(client(&nodes[0])?)),
            Kind::Cluster => Masters::cluster(
                nodes
                    .iter()
                    .map(client)
                    .collect::<redis::RedisResult<_>>()?,
            ),
            Kind::Sentinel { master } => {
                let client = self.sentinels(nodes, master, ProtocolVersion::RESP3)?;
                Masters::Sentinel(Box::new(tokio::sync::Mutex::new(client)))
            }
        })
    }
}

fn is_certificate(pem: &[u8]) -> bool {
    let mut all = CertificateDer::pem_slice_iter(pem).peekable();
    all.peek().is_some() && all.all(|certificate| certificate.is_ok())
}

fn is_secure(node: &ConnectionInfo) -> bool {
    matches!(node.addr(), ConnectionAddr::TcpTls { .. })
}

fn node(url: &str) -> Result<ConnectionInfo, ConfigError> {
    let bad = |reason: &str| ConfigError::InvalidUrl {
        what: "redis url",
        value: without_password(url),
        reason: reason.to_owned(),
    };
    let node = url
        .into_connection_info()
        .map_err(|_| bad("it is not redis://, rediss:// or a socket's path"))?;
    if let ConnectionAddr::TcpTls { insecure: true, .. } = node.addr() {
        return Err(bad("certificates are always checked"));
    }
    // The answers are read as those of the older protocol, which every server speaks.
    let settings = node.redis_settings().clone();
    let settings = settings.set_protocol(ProtocolVersion::RESP2);
    Ok(node.set_redis_settings(settings))
}

fn signed_in(node: ConnectionInfo, user: &str, password: &Secret) -> ConnectionInfo {
    let mut settings = node.redis_settings().clone();
    settings = settings.set_password(password.secret());
    if !user.is_empty() {
        settings = settings.set_username(user);
    }
    node.set_redis_settings(settings)
}

/// What stands before the last `@`, or after a `?`, may be a password.
fn without_password(url: &str) -> String {
    let url = url.split('?').next().unwrap_or_default();
    let shown = url.rsplit('@').next().unwrap_or_default();
    shown.to_owned()
}

/// The client asks rustls for the process' choice, and rustls panics where several backends are compiled in and nobody
/// chose. An app that has chosen keeps its choice.
fn choose_crypto() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Fails if somebody was faster, which is as good.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
}

impl fmt::Debug for RedisTokenStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the URLs: they may hold passwords.
        f.debug_struct("RedisTokenStoreBuilder")
            .field("prefix", &self.prefix)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(url: &str) -> RedisTokenStoreBuilder {
        RedisTokenStore::builder(url)
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let url = "redis://127.0.0.1";
        let rows = [
            ("no limit", one(url).max_sign_ins(0)),
            ("no claims", one(url).max_claims(0)),
            (
                "too many",
                one(url).max_outbox(crate::store::limits::MOST + 1),
            ),
            ("no time", one(url).timeout(Duration::ZERO)),
            ("too long", one(url).timeout(Duration::from_secs(61))),
            ("no prefix", one(url).prefix("")),
            ("braces", one(url).prefix("a{b}")),
            ("a space", one(url).prefix("a b")),
            ("too long a prefix", one(url).prefix("x".repeat(65))),
            ("not a url", one("127.0.0.1:6379")),
            ("no certificate", one(url).root_certificate("nonsense")),
            ("another scheme", one("https://127.0.0.1")),
            ("unchecked", one("rediss://127.0.0.1/#insecure")),
            ("no node", RedisTokenStore::cluster::<&str>([])),
            (
                "a tier for nobody",
                one(url).memory_tier(MemoryTier::new().max_sign_ins(0)),
            ),
            (
                "copies for too long",
                one(url).memory_tier(MemoryTier::new().good_for(Duration::from_secs(61))),
            ),
            (
                "copies for no time",
                one(url).memory_tier(MemoryTier::new().good_for(Duration::ZERO)),
            ),
        ];
        for (name, builder) in rows {
            assert!(builder.build().is_err(), "{name}");
        }
    }

    /// Nothing is sent, and no runtime is needed.
    #[test]
    fn a_store_is_made_without_a_server() {
        let url = "rediss://user:secret@127.0.0.1:1/2";
        let stores = [
            one(url),
            one("redis://127.0.0.1:1"),
            RedisTokenStore::cluster(["redis://127.0.0.1:1", "redis://127.0.0.1:2"]),
            RedisTokenStore::sentinel(["redis://127.0.0.1:1"], "main"),
        ];
        for store in stores {
            let store = store.build().unwrap();
            assert!(!format!("{store:?}").contains("secret"));
        }
        assert!(!format!("{:?}", one(url)).contains("secret"));
    }

    /// A11.
    #[test]
    fn an_error_does_not_tell_the_password_a11() {
        for url in [
            "rediss://user:secret@127.0.0.1/#insecure",
            "what://u:secret@h",
            "u:secret@h",
            "redis-unix://u@h?pass=secret",
        ] {
            let error = one(url).build().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }
}
