//! Signed tokens: what every one of them must pass, and the rules for each kind on top.
//!
//! A token goes through the same steps whatever its kind: the compact form is taken apart within limits
//! ([`jws`]), its signature is verified with a key of the provider and an algorithm that *we* allow ([`keys`]), and only
//! then its claims are read. The rules of one kind ([`id_token`], [`logout_token`]) turn verified claims into a proof type which
//! nothing else can build.
//!
//! No feature of another crate in the build decides about signatures here: a JWT library whose crypto backend is chosen by
//! features can be left with none, or with two, by somebody else's choice.

pub(crate) mod id_token;
pub(crate) mod jws;
pub(crate) mod keys;
pub(crate) mod logout_token;

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
pub(crate) mod test_keys;

use std::fmt;

use aws_lc_rs::{digest, hmac};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::clock::Timestamp;

/// The `events` member that makes a token a logout token (Back-Channel Logout 1.0, section 2.4).
pub(crate) const BACK_CHANNEL_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// An algorithm that a provider signs tokens with (RFC 7518, RFC 8037).
///
/// There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SigningAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256: the default of OpenID Connect.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256.
    Ps256,
    /// RSASSA-PSS with SHA-384.
    Ps384,
    /// RSASSA-PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519, under its names `EdDSA` (RFC 8037) and `Ed25519` (RFC 9864).
    EdDsa,
    /// HMAC with SHA-256 and the client secret.
    Hs256,
    /// HMAC with SHA-384 and the client secret.
    Hs384,
    /// HMAC with SHA-512 and the client secret.
    Hs512,
}

impl SigningAlgorithm {
    pub(crate) const ALL: [Self; 12] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
    ];

    /// The name in an `alg` header or member.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
        }
    }

    /// Names are case-sensitive (RFC 7515, section 4.1.1).
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        if name == "Ed25519" {
            return Some(Self::EdDsa);
        }
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
    }

    /// The HMAC behind it, for those that use the client secret.
    pub(crate) fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::Hs256 => Some(hmac::HMAC_SHA256),
            Self::Hs384 => Some(hmac::HMAC_SHA384),
            Self::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    /// The hash that `at_hash` is made with (OIDC Core, section 3.1.3.6). Ed25519 hashes with SHA-512.
    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Self::Rs256 | Self::Ps256 | Self::Es256 | Self::Hs256 => &digest::SHA256,
            Self::Rs384 | Self::Ps384 | Self::Es384 | Self::Hs384 => &digest::SHA384,
            Self::Rs512 | Self::Ps512 | Self::Hs512 | Self::EdDsa => &digest::SHA512,
        }
    }
}

impl fmt::Display for SigningAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a token was refused before the rules of its kind were asked. Never carries a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JwtError {
    TooLarge,
    NotCompact,
    NotBase64,
    Header,
    CriticalHeader,
    NestedToken,
    AlgorithmNotAllowed,
    /// No key for it: newer keys may have one.
    UnknownKey,
    Signature,
    Payload,
    MissingClaim(&'static str),
    InvalidClaim(&'static str),
}

impl fmt::Display for JwtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("the token is too large"),
            Self::NotCompact => f.write_str("the token does not have three parts"),
            Self::NotBase64 => f.write_str("a part of the token is not base64url without padding"),
            Self::Header => {
                f.write_str("the token's header is not an object of unique, typed members")
            }
            Self::CriticalHeader => {
                f.write_str("the token's header demands an extension that is not understood")
            }
            Self::NestedToken => f.write_str("the token contains another token"),
            Self::AlgorithmNotAllowed => {
                f.write_str("the token's algorithm is not one that is configured")
            }
            Self::UnknownKey => f.write_str("the provider's keys have none that fits the token"),
            Self::Signature => f.write_str("the token's signature is wrong"),
            Self::Payload => f.write_str("the token's payload is not an object of unique members"),
            Self::MissingClaim(name) => write!(f, "the claim {name} is missing"),
            Self::InvalidClaim(name) => write!(f, "the claim {name} is not of the right form"),
        }
    }
}

impl std::error::Error for JwtError {}

/// Whether a refusal may be due to keys that are out of date.
pub(crate) trait WantsNewerKeys {
    fn wants_newer_keys(&self) -> bool;
}

impl WantsNewerKeys for JwtError {
    fn wants_newer_keys(&self) -> bool {
        matches!(self, Self::UnknownKey)
    }
}

/// The claims of a token whose signature was verified, or of one that is held already and only compared with.
pub(crate) struct Claims {
    members: Map<String, Value>,
    /// The one that verified the signature.
    algorithm: SigningAlgorithm,
    /// The header's `typ`, as it was written.
    typ: Option<String>,
}

/// Room for issuers, URLs and names; a value that is longer serves no honest purpose and ends up in store keys.
const MAX_STRING_CLAIM: usize = 2048;
const MAX_AUDIENCES: usize = 64;

impl Claims {
    pub(crate) fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// The header's `typ`, in lower case and without the prefix that may be left out (RFC 7515, section 4.1.9).
    pub(crate) fn typ(&self) -> Option<String> {
        let typ = self.typ.as_deref()?.to_ascii_lowercase();
        Some(match typ.strip_prefix("application/") {
            Some(short) => short.to_owned(),
            None => typ,
        })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.members.get(name)
    }

    /// A claim that may be absent, but not of another type. `null` counts as absent, as many serializers write it.
    pub(crate) fn optional_string(&self, name: &'static str) -> Result<Option<&str>, JwtError> {
        match self.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.len() <= MAX_STRING_CLAIM => Ok(Some(text)),
            Some(_) => Err(JwtError::InvalidClaim(name)),
        }
    }

    pub(crate) fn string(&self, name: &'static str) -> Result<&str, JwtError> {
        self.optional_string(name)?
            .ok_or(JwtError::MissingClaim(name))
    }

    /// A `NumericDate` may have a fraction (RFC 7519, section 2), which is dropped.
    pub(crate) fn optional_time(&self, name: &'static str) -> Result<Option<Timestamp>, JwtError> {
        /// The year 9999: what lies beyond comes from milliseconds taken for seconds, or from mischief.
        const LAST: f64 = 253_402_300_799.0;
        let number = match self.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number,
            Some(_) => return Err(JwtError::InvalidClaim(name)),
        };
        match number.as_f64() {
            Some(seconds) if (0.0..=LAST).contains(&seconds) => {
                Ok(Some(Timestamp::from_secs(seconds as i64)))
            }
            _ => Err(JwtError::InvalidClaim(name)),
        }
    }

    pub(crate) fn time(&self, name: &'static str) -> Result<Timestamp, JwtError> {
        self.optional_time(name)?
            .ok_or(JwtError::MissingClaim(name))
    }

    /// One string, or an array of them that is not empty.
    pub(crate) fn audiences(&self) -> Result<Vec<&str>, JwtError> {
        const INVALID: JwtError = JwtError::InvalidClaim("aud");
        match self.get("aud") {
            None | Some(Value::Null) => Err(JwtError::MissingClaim("aud")),
            Some(Value::String(one)) => Ok(vec![one]),
            Some(Value::Array(many)) if !many.is_empty() && many.len() <= MAX_AUDIENCES => many
                .iter()
                .map(|each| each.as_str().ok_or(INVALID))
                .collect(),
            Some(_) => Err(INVALID),
        }
    }

    /// The session's name at the provider. Empty is absent: as a name it would be shared by strangers.
    pub(crate) fn sid(&self) -> Result<Option<&str>, JwtError> {
        Ok(self.optional_string("sid")?.filter(|sid| !sid.is_empty()))
    }

    /// Whether the token says that it is a logout token, by its header or by its event.
    pub(crate) fn is_logout_token(&self) -> bool {
        let by_event = match self.get("events") {
            Some(Value::Object(events)) => events.contains_key(BACK_CHANNEL_EVENT),
            _ => false,
        };
        by_event || self.typ().as_deref() == Some("logout+jwt")
    }
}

/// The members of a JSON object, refused if one comes twice (RFC 7519, section 4): two readers that pick different ones
/// of the two see different tokens.
pub(super) fn unique_members(json: &[u8]) -> Option<Map<String, Value>> {
    struct Members(Map<String, Value>);

    impl<'de> Deserialize<'de> for Members {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Members;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object with unique members")
                }

                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut access: A,
                ) -> Result<Members, A::Error> {
                    let mut members = Map::new();
                    while let Some((name, value)) = access.next_entry::<String, Value>()? {
                        if members.insert(name, value).is_some() {
                            return Err(serde::de::Error::custom("a member comes twice"));
                        }
                    }
                    Ok(Members(members))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }

    serde_json::from_slice::<Members>(json)
        .ok()
        .map(|members| members.0)
}
