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

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::{digest, hmac};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use smallvec::{SmallVec, smallvec};

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

/// The claims of a token whose signature was verified; or was not, where whoever has them got them by a name that says so
/// ([`Jws::unverified_claims`](jws::Jws)).
pub(crate) struct Claims<'a> {
    members: Members<'a>,
    /// The one that verified the signature, where one did.
    algorithm: SigningAlgorithm,
    /// The header's `typ`, in lower case and without the prefix that may be left out.
    typ: Option<&'a str>,
}

/// Room for issuers, URLs and names; a value that is longer serves no honest purpose and ends up in store keys.
const MAX_STRING_CLAIM: usize = 2048;
const MAX_AUDIENCES: usize = 64;

impl<'a> Claims<'a> {
    pub(crate) fn algorithm(&self) -> SigningAlgorithm {
        self.algorithm
    }

    /// The header's `typ`, in lower case and without the prefix that may be left out (RFC 7515, section 4.1.9).
    pub(crate) fn typ(&self) -> Option<&'a str> {
        self.typ
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Member<'a>> {
        self.members.get(name)
    }

    /// A claim that may be absent, but not of another type. `null` counts as absent, as many serializers write it.
    pub(crate) fn optional_string(&self, name: &'static str) -> Result<Option<&str>, JwtError> {
        match self.get(name) {
            None | Some(Member::Other(Value::Null)) => Ok(None),
            Some(Member::Text(text)) if text.len() <= MAX_STRING_CLAIM => Ok(Some(text)),
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
            None | Some(Member::Other(Value::Null)) => return Ok(None),
            Some(Member::Other(Value::Number(number))) => number,
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
    pub(crate) fn audiences(&self) -> Result<SmallVec<[&str; 2]>, JwtError> {
        const INVALID: JwtError = JwtError::InvalidClaim("aud");
        match self.get("aud") {
            None | Some(Member::Other(Value::Null)) => Err(JwtError::MissingClaim("aud")),
            Some(Member::Text(one)) => Ok(smallvec![&**one]),
            Some(Member::Other(Value::Array(many)))
                if !many.is_empty() && many.len() <= MAX_AUDIENCES =>
            {
                many.iter()
                    .map(|each| each.as_str().ok_or(INVALID))
                    .collect()
            }
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
            Some(Member::Other(Value::Object(events))) => events.contains_key(BACK_CHANNEL_EVENT),
            _ => false,
        };
        by_event || self.typ() == Some("logout+jwt")
    }
}

/// The members of a JSON object, refused if one comes twice (RFC 7519, section 4): two readers that pick different ones
/// of the two see different tokens.
pub(super) struct Members<'a>(Vec<(Name<'a>, Member<'a>)>);

/// The value of a member. Most are texts, and what has nothing to decode in it stays where it is.
pub(crate) enum Member<'a> {
    Text(Cow<'a, str>),
    /// No text.
    Other(Value),
}

/// The name of a member.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Members<'a> {
    /// More than a logout token has, fewer than an allocator's fast path takes.
    const USUAL: usize = 12;

    pub(super) fn parse(json: &'a [u8]) -> Option<Self> {
        // All of it in one go: the reader of bytes looks at each text by itself.
        let json = std::str::from_utf8(json).ok()?;
        serde_json::from_str(json).ok()
    }

    fn get(&self, name: &str) -> Option<&Member<'a>> {
        // Names of different lengths differ at once, so this is faster than a search by order.
        let mut members = self.0.iter();
        let found = members.find(|(have, _)| have.0 == name);
        found.map(|(_, member)| member)
    }
}

impl Member<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Other(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(Name<'de>, Member<'de>)> = Vec::with_capacity(Members::USUAL);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                // Sorted, because a stranger may send thousands of them.
                members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                match members.windows(2).any(|pair| pair[0].0 == pair[1].0) {
                    true => Err(de::Error::custom("a member comes twice")),
                    false => Ok(Members(members)),
                }
            }
        }

        deserializer.deserialize_map(Visitor)
    }
}

impl<'de> Deserialize<'de> for Member<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        /// What is no text is left to the library's own type, which knows all that a feature of it may make of a number.
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Member<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Member<'de>, E> {
                Ok(Member::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Member<'de>, E> {
                Ok(Member::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: de::Error>(self) -> Result<Member<'de>, E> {
                Ok(Member::Other(Value::Null))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Member<'de>, E> {
                Ok(Member::Other(value.into()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Member<'de>, E> {
                Ok(Member::Other(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Member<'de>, E> {
                Ok(Member::Other(value.into()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Member<'de>, E> {
                Ok(Member::Other(value.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, values: A) -> Result<Member<'de>, A::Error> {
                Value::deserialize(SeqAccessDeserializer::new(values)).map(Member::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Member<'de>, A::Error> {
                Value::deserialize(MapAccessDeserializer::new(map)).map(Member::Other)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_whatever_their_order_and_spelling_r21() {
        let json = r#"{"sub":"a\u00e9","\u0061ud":["x","y"],"z":null,"iat":1.5,"b":true,"n":-1,"o":{"sub":1},"":""}"#;
        let members = Members::parse(json.as_bytes()).unwrap();
        let text = |name| members.get(name).and_then(Member::text);
        assert_eq!(text("sub"), Some("aé"));
        assert_eq!(text(""), Some(""));
        let other = |name| match members.get(name) {
            Some(Member::Other(value)) => Some(value.clone()),
            _ => None,
        };
        assert_eq!(other("aud"), Some(serde_json::json!(["x", "y"])));
        assert_eq!(other("z"), Some(Value::Null));
        assert_eq!(other("iat"), Some(1.5.into()));
        assert_eq!(other("b"), Some(true.into()));
        assert_eq!(other("n"), Some((-1).into()));
        assert_eq!(other("o"), Some(serde_json::json!({"sub": 1})));
        assert!(members.get("s").is_none() && members.get("\\u0061ud").is_none());
    }

    #[test]
    fn a_member_that_comes_twice_is_refused_wherever_it_stands_a9() {
        let many = |last: &str| {
            let numbers = (0..5_000).map(|number| format!(r#""{number}":0,"#));
            format!("{{{}{last}:1}}", numbers.collect::<String>())
        };
        let parsed = |json: &str| Members::parse(json.as_bytes()).is_some();
        assert!(parsed(&many(r#""5000""#)));
        assert!(!parsed(&many(r#""2500""#)));
        assert!(!parsed(&many(r#""\u0032500""#)));
        assert!(!parsed(r#"{"a":1,"b":2,"a":1}"#));
        // Of what is inside, the last one counts, as with any other reader of this library.
        assert!(parsed(r#"{"a":{"b":1,"b":2}}"#));
    }

    #[test]
    fn what_is_no_object_of_members_is_refused() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200));
        let rows = [
            "",
            "[]",
            r#""text""#,
            "null",
            "{",
            r#"{"a":1}x"#,
            r#"{"a":1,}"#,
            r#"{a:1}"#,
            r#"{1:1}"#,
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
            &deep,
        ];
        for row in rows {
            assert!(Members::parse(row.as_bytes()).is_none(), "{row}");
        }
        assert!(Members::parse(b"{\"a\":\"\xff\"}").is_none());
    }
}
