//! The provider's keys, and JWTs good and bad.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use aws_lc_rs::{
    digest, hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::{
    Shared,
    config::{SigningAlg, TestClient},
    faults::IdTokenFault,
};

pub(super) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn sha256(text: &str) -> digest::Digest {
    digest::digest(&digest::SHA256, text.as_bytes())
}

/// 256 random bits.
pub(super) fn random() -> String {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has a source of randomness");
    base64url(bytes)
}

fn new_rsa() -> Arc<RsaKeyPair> {
    Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("2048 bits are a supported size"))
}

/// Making an RSA key takes long enough to be felt in a suite that starts a
/// provider for each test.
fn shared_rsa() -> Arc<RsaKeyPair> {
    static KEY: OnceLock<Arc<RsaKeyPair>> = OnceLock::new();
    KEY.get_or_init(new_rsa).clone()
}

fn unpublished_rsa() -> Arc<RsaKeyPair> {
    static KEY: OnceLock<Arc<RsaKeyPair>> = OnceLock::new();
    KEY.get_or_init(new_rsa).clone()
}

#[derive(Clone)]
struct Key<P> {
    kid: String,
    pair: Arc<P>,
}

impl<P> Key<P> {
    fn new(pair: Arc<P>) -> Self {
        let mut kid = random();
        kid.truncate(16);
        Self { kid, pair }
    }
}

/// The keys that are published; the last of each kind signs.
#[derive(Clone)]
pub(super) struct KeyRing {
    rsa: Vec<Key<RsaKeyPair>>,
    ec: Vec<Key<EcdsaKeyPair>>,
}

impl KeyRing {
    pub(super) fn new(own: bool) -> Self {
        let mut keys = Self {
            rsa: vec![Key::new(if own { new_rsa() } else { shared_rsa() })],
            ec: Vec::new(),
        };
        keys.add_ec();
        keys
    }

    fn add_ec(&mut self) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .expect("P-256 is a supported curve");
        self.ec.push(Key::new(Arc::new(pair)));
    }

    pub(super) fn rotate(&mut self, keep_old: bool) {
        if !keep_old {
            self.rsa.clear();
            self.ec.clear();
        }
        self.rsa.push(Key::new(new_rsa()));
        self.add_ec();
    }

    pub(super) fn withdraw_old(&mut self) {
        self.rsa.drain(..self.rsa.len().saturating_sub(1));
        self.ec.drain(..self.ec.len().saturating_sub(1));
    }

    pub(super) fn jwks(&self) -> Value {
        let rsa = self.rsa.iter().map(|key| {
            let public = key.pair.public_key();
            json!({
                "kty": "RSA", "use": "sig", "alg": "RS256", "kid": key.kid,
                "n": base64url(public.modulus().big_endian_without_leading_zero()),
                "e": base64url(public.exponent().big_endian_without_leading_zero()),
            })
        });
        let ec = self.ec.iter().map(|key| {
            // An uncompressed point: 0x04, x, y.
            let (x, y) = key.pair.public_key().as_ref()[1..].split_at(32);
            json!({
                "kty": "EC", "use": "sig", "alg": "ES256", "kid": key.kid, "crv": "P-256",
                "x": base64url(x), "y": base64url(y),
            })
        });
        json!({ "keys": rsa.chain(ec).collect::<Vec<_>>() })
    }

    fn kid(&self, alg: SigningAlg) -> Option<&str> {
        match alg {
            SigningAlg::Rs256 => self.rsa.last().map(|key| key.kid.as_str()),
            SigningAlg::Es256 => self.ec.last().map(|key| key.kid.as_str()),
            SigningAlg::Hs256 => None,
        }
    }

    fn sign(&self, alg: SigningAlg, message: &str, secret: &str) -> Vec<u8> {
        match alg {
            SigningAlg::Rs256 => match self.rsa.last() {
                Some(key) => sign_rsa(&key.pair, message),
                None => Vec::new(),
            },
            SigningAlg::Es256 => match self.ec.last() {
                Some(key) => key
                    .pair
                    .sign(&SystemRandom::new(), message.as_bytes())
                    .expect("a generated key signs")
                    .as_ref()
                    .to_vec(),
                None => Vec::new(),
            },
            SigningAlg::Hs256 => sign_hs256(secret, message),
        }
    }
}

fn sign_rsa(pair: &RsaKeyPair, message: &str) -> Vec<u8> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .expect("a generated key signs, and the buffer has its length");
    signature
}

fn sign_hs256(secret: &str, message: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Signing {
    Proper,
    Unsigned,
    Hs256,
    Unpublished,
    Forged,
    Broken,
}

/// A JWT that the [`TestProvider`](super::TestProvider) signs: good as it
/// comes, and bad in any way a test wants.
///
/// ```
/// # fn example(provider: &axum_signout::testing::TestProvider) {
/// let good = provider.logout_token("my-app").claim("sid", "s-1").sign();
/// let expired = provider.logout_token("my-app").claim("sid", "s-1").expires_in(-600).sign();
/// let unsigned = provider.logout_token("my-app").claim("sid", "s-1").unsigned().sign();
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct JwtBuilder {
    shared: Arc<Shared>,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    header_text: Option<String>,
    payload_text: Option<String>,
    keys: KeyRing,
    alg: SigningAlg,
    secret: String,
    signing: Signing,
    now: i64,
}

impl JwtBuilder {
    pub(super) fn new(
        shared: &Arc<Shared>,
        keys: KeyRing,
        client: &TestClient,
        typ: &str,
        now: i64,
    ) -> Self {
        let alg = client.signing_alg;
        let mut header = Map::new();
        header.insert("alg".to_owned(), alg.name().into());
        header.insert("typ".to_owned(), typ.into());
        if let Some(kid) = keys.kid(alg) {
            header.insert("kid".to_owned(), kid.into());
        }
        Self {
            shared: shared.clone(),
            header,
            claims: Map::new(),
            header_text: None,
            payload_text: None,
            keys,
            alg,
            secret: client.secret.clone().unwrap_or_default(),
            signing: Signing::Proper,
            now,
        }
    }

    /// Sets a claim, in place of the one that is there.
    pub fn claim(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.claims.insert(name.into(), value.into());
        self
    }

    /// Leaves a claim out.
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets a header member, in place of the one that is there.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.header.insert(name.into(), value.into());
        self
    }

    /// Leaves a header member out.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    /// Signs this text as the header, in place of its members: for what no JSON object can hold, such as a member twice.
    pub fn header_text(mut self, text: impl Into<String>) -> Self {
        self.header_text = Some(text.into());
        self
    }

    /// Signs this text as the payload, in place of the claims.
    pub fn payload_text(mut self, text: impl Into<String>) -> Self {
        self.payload_text = Some(text.into());
        self
    }

    /// The claims as they are, to write a [text](Self::payload_text) from.
    #[must_use]
    pub fn claims_text(&self) -> String {
        Value::Object(self.claims.clone()).to_string()
    }

    /// `exp`, in seconds from the provider's now; negative is the past.
    pub fn expires_in(self, seconds: i64) -> Self {
        let at = self.now + seconds;
        self.claim("exp", at)
    }

    /// `iat`, in seconds before the provider's now; negative is the future.
    pub fn issued_ago(self, seconds: i64) -> Self {
        let at = self.now - seconds;
        self.claim("iat", at)
    }

    /// `alg` is `none`, and the signature is empty.
    pub fn unsigned(mut self) -> Self {
        self.signing = Signing::Unsigned;
        self.header("alg", "none").without_header("kid")
    }

    /// `alg` is `HS256`, with the client's secret as the key.
    pub fn hs256(mut self) -> Self {
        self.signing = Signing::Hs256;
        self.header("alg", "HS256").without_header("kid")
    }

    /// Signed by a key that was never published, under a `kid` of its own.
    pub fn unpublished_key(mut self) -> Self {
        self.signing = Signing::Unpublished;
        self.header("kid", "unpublished").header("alg", "RS256")
    }

    /// Signed by a key that was never published, under the `kid` of the
    /// published one.
    pub fn forged_key(mut self) -> Self {
        self.signing = Signing::Forged;
        self
    }

    /// A signature that does not fit.
    pub fn bad_signature(mut self) -> Self {
        self.signing = Signing::Broken;
        self
    }

    pub(super) fn fault(self, fault: &IdTokenFault) -> Self {
        let an_hour_ago = self.now - 3600;
        match fault {
            IdTokenFault::Missing => self,
            IdTokenFault::WrongIssuer => self.claim("iss", "https://issuer.invalid/other"),
            IdTokenFault::WrongNonce => self.claim("nonce", "another-nonce"),
            IdTokenFault::WrongAudience => self
                .claim("aud", "another-client")
                .claim("azp", "another-client"),
            IdTokenFault::OtherSubject(subject) => self.claim("sub", subject.as_str()),
            IdTokenFault::Expired => self
                .claim("exp", an_hour_ago)
                .claim("iat", an_hour_ago - 600),
            IdTokenFault::Unsigned => self.unsigned(),
            IdTokenFault::Hs256 => self.hs256(),
            IdTokenFault::UnpublishedKey => self.unpublished_key(),
            IdTokenFault::ForgedKey => self.forged_key(),
            IdTokenFault::BadSignature => self.bad_signature(),
            IdTokenFault::Claim(name, value) => self.claim(name.as_str(), value.clone()),
            IdTokenFault::WithoutClaim(name) => self.without(name),
        }
    }

    /// The signed token. It counts among the
    /// [secrets](super::TestProvider::secrets).
    #[must_use]
    pub fn sign(&self) -> String {
        let token = self.compact();
        self.shared.lock().note_secret(&token);
        token
    }

    pub(super) fn compact(&self) -> String {
        let header = Value::Object(self.header.clone()).to_string();
        let header = self.header_text.as_ref().unwrap_or(&header);
        let claims = self.claims_text();
        let payload = self.payload_text.as_ref().unwrap_or(&claims);
        let message = format!("{}.{}", base64url(header), base64url(payload));
        let signature = match self.signing {
            Signing::Proper => self.keys.sign(self.alg, &message, &self.secret),
            Signing::Unsigned => Vec::new(),
            Signing::Hs256 => sign_hs256(&self.secret, &message),
            Signing::Unpublished | Signing::Forged => sign_rsa(&unpublished_rsa(), &message),
            Signing::Broken => {
                let mut signature = self.keys.sign(self.alg, &message, &self.secret);
                if let Some(byte) = signature.first_mut() {
                    *byte ^= 1;
                }
                signature
            }
        };
        format!("{message}.{}", base64url(signature))
    }
}

impl fmt::Debug for JwtBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtBuilder")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}
