//! A provider's signature keys (RFC 7517), ready for use.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{JwtError, SigningAlgorithm};

/// Providers publish up to a dozen. More than this is not a set of signature keys.
const MAX_KEYS: usize = 100;
/// A token without `kid` costs one verification for each key that fits.
const MAX_TRIES: usize = 8;

/// The keys of one provider, with the client secret's HMAC keys where such an algorithm is configured.
#[derive(Clone, Default)]
pub(crate) struct KeySet {
    /// One for each pair of key and algorithm.
    public: Vec<PublicKey>,
    secret: Vec<(SigningAlgorithm, hmac::Key)>,
}

#[derive(Clone)]
struct PublicKey {
    id: Option<Box<str>>,
    algorithm: SigningAlgorithm,
    key: ParsedPublicKey,
}

/// Why a document is not taken as a set of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeySetError {
    NotASet,
    TooMany,
    /// None that fits the algorithms that are configured.
    NoneUsable,
}

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotASet => "the document is not a set of keys",
            Self::TooMany => "the document has too many keys",
            Self::NoneUsable => "the document has no key for the configured algorithms",
        })
    }
}

impl std::error::Error for KeySetError {}

impl KeySet {
    /// Reads a JWK set, for the given algorithms. Keys of other kinds, for other uses, too short or malformed are
    /// skipped: a provider adds keys for others without asking us (RFC 7517, section 5).
    pub(crate) fn parse(
        document: &[u8],
        algorithms: &[SigningAlgorithm],
    ) -> Result<Self, KeySetError> {
        let document: Value = serde_json::from_slice(document).map_err(|_| KeySetError::NotASet)?;
        let keys = document
            .get("keys")
            .and_then(Value::as_array)
            .ok_or(KeySetError::NotASet)?;
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut set = Self::default();
        for jwk in keys.iter().filter_map(Value::as_object) {
            for &algorithm in algorithms {
                if let Some(key) = public_key(jwk, algorithm) {
                    set.public.push(key);
                }
            }
        }
        if set.public.is_empty() {
            return Err(KeySetError::NoneUsable);
        }
        Ok(set)
    }

    /// The HMAC keys for those of the algorithms that use the client secret (OIDC Core, section 10.1).
    pub(crate) fn with_client_secret(
        mut self,
        secret: &str,
        algorithms: &[SigningAlgorithm],
    ) -> Self {
        self.secret = algorithms
            .iter()
            .filter_map(|&algorithm| {
                Some((
                    algorithm,
                    hmac::Key::new(algorithm.hmac()?, secret.as_bytes()),
                ))
            })
            .collect();
        self
    }

    pub(super) fn verify(
        &self,
        algorithm: SigningAlgorithm,
        key_id: Option<&str>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), JwtError> {
        if algorithm.hmac().is_some() {
            let (_, key) = self
                .secret
                .iter()
                .find(|(of, _)| *of == algorithm)
                .ok_or(JwtError::AlgorithmNotAllowed)?;
            return hmac::verify(key, message, signature).map_err(|_| JwtError::Signature);
        }
        let fits = |key: &&PublicKey| {
            key.algorithm == algorithm && key_id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        let mut tried = 0;
        for key in self.public.iter().filter(fits).take(MAX_TRIES) {
            if key.key.verify_sig(message, signature).is_ok() {
                return Ok(());
            }
            tried += 1;
        }
        // Without a `kid`, a wrong signature may as well be one by a key that is not known yet.
        if tried == 0 || key_id.is_none() {
            Err(JwtError::UnknownKey)
        } else {
            Err(JwtError::Signature)
        }
    }
}

/// Keys are public, but their moduli are noise in a log.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self
            .public
            .iter()
            .map(|key| (key.id.as_deref(), key.algorithm))
            .collect();
        f.debug_struct("KeySet")
            .field("public", &ids)
            .finish_non_exhaustive()
    }
}

/// The key for use with one algorithm, if it is of that algorithm's type and meant for it.
fn public_key(jwk: &Map<String, Value>, algorithm: SigningAlgorithm) -> Option<PublicKey> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();

    let meant_for = |name: &str, wanted: &dyn Fn(&Value) -> bool| match jwk.get(name) {
        None | Some(Value::Null) => true,
        Some(value) => wanted(value),
    };
    let usable = meant_for("use", &|value| value == "sig")
        && meant_for("key_ops", &|value| {
            value
                .as_array()
                .is_some_and(|ops| ops.iter().any(|op| op == "verify"))
        })
        && meant_for("alg", &|value| {
            value.as_str().and_then(SigningAlgorithm::from_name) == Some(algorithm)
        });
    if !usable {
        return None;
    }
    let id = match jwk.get("kid") {
        None | Some(Value::Null) => None,
        Some(Value::String(id)) => Some(id.as_str().into()),
        Some(_) => return None,
    };

    let coordinates = |curve: &str, size: usize| {
        let (x, y) = (bytes("x")?, bytes("y")?);
        if text("kty") != Some("EC") || text("crv") != Some(curve) {
            return None;
        }
        // RFC 7518, section 6.2.1.2: each is exactly as long as the field's elements.
        if x.len() != size || y.len() != size {
            return None;
        }
        Some([&[0x04], x.as_slice(), y.as_slice()].concat())
    };
    let rsa = |parameters: &'static RsaParameters| {
        if text("kty") != Some("RSA") {
            return None;
        }
        rsa_key(&bytes("n")?, &bytes("e")?, parameters)
    };
    use SigningAlgorithm as Alg;
    let key = match algorithm {
        Alg::Rs256 => rsa(&signature::RSA_PKCS1_2048_8192_SHA256)?,
        Alg::Rs384 => rsa(&signature::RSA_PKCS1_2048_8192_SHA384)?,
        Alg::Rs512 => rsa(&signature::RSA_PKCS1_2048_8192_SHA512)?,
        Alg::Ps256 => rsa(&signature::RSA_PSS_2048_8192_SHA256)?,
        Alg::Ps384 => rsa(&signature::RSA_PSS_2048_8192_SHA384)?,
        Alg::Ps512 => rsa(&signature::RSA_PSS_2048_8192_SHA512)?,
        Alg::Es256 => ParsedPublicKey::new(
            &signature::ECDSA_P256_SHA256_FIXED,
            coordinates("P-256", 32)?,
        )
        .ok()?,
        Alg::Es384 => ParsedPublicKey::new(
            &signature::ECDSA_P384_SHA384_FIXED,
            coordinates("P-384", 48)?,
        )
        .ok()?,
        Alg::EdDsa => {
            if text("kty") != Some("OKP") || text("crv") != Some("Ed25519") {
                return None;
            }
            let x = bytes("x").filter(|x| x.len() == 32)?;
            ParsedPublicKey::new(&signature::ED25519, x).ok()?
        }
        // The client secret never comes from a document.
        Alg::Hs256 | Alg::Hs384 | Alg::Hs512 => return None,
    };
    Some(PublicKey { id, algorithm, key })
}

fn rsa_key(n: &[u8], e: &[u8], parameters: &'static RsaParameters) -> Option<ParsedPublicKey> {
    // Some providers write the sign byte of their language's big integers, against RFC 7518, section 2.
    let trimmed = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes[zeros..].to_vec()
    };
    let (n, e) = (trimmed(n), trimmed(e));
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    // The backend checks the size when it verifies; a key that can never verify must not count as one that fits.
    if !(2048..=8192).contains(&bits) {
        return None;
    }
    // An exponent of 1 makes every text its own signature. Larger ones than 2^32 are not in use.
    let odd = |bytes: &[u8]| bytes.last().is_some_and(|byte| byte & 1 == 1);
    if !odd(&n) || !odd(&e) || e.len() > 4 || e == [1] {
        return None;
    }
    RsaPublicKeyComponents { n, e }
        .to_parsed_public_key(parameters)
        .ok()
}
