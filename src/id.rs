//! Names: random ones, and ones made by hashing values that others chose.

use std::fmt;

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroize;

use crate::secret::Secret;

/// Random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // AWS-LC stops the process itself when the operating system has no randomness to give, so an error cannot
    // come back; going on with zeros is the one thing that must never happen.
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the random generator does not return after a failure");
    bytes
}

/// A random text of 256 bits, in base64url.
pub(crate) fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(random::<32>())
}

/// SHA-256 over a domain and parts, each with its length before it, so that no two lists of parts hash alike.
pub(crate) fn hash_parts(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in std::iter::once(&domain.as_bytes()).chain(parts) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Equality whose time tells nothing about where two texts differ.
pub(crate) fn same_secret(left: &str, right: &str) -> bool {
    constant_time::verify_slices_are_equal(left.as_bytes(), right.as_bytes()).is_ok()
}

/// How long the longest name is as a text.
pub(crate) const LONGEST: usize = 43;

/// A name of at most 32 bytes as `Display` gives it. In place: a request writes several, and a text of its own for each is most of
/// what they cost.
pub(crate) fn encode<'t>(bytes: &[u8], room: &'t mut [u8; LONGEST]) -> &'t str {
    let length = URL_SAFE_NO_PAD
        .encode_slice(bytes, room)
        .expect("32 bytes take 43 letters");
    std::str::from_utf8(&room[..length]).expect("the alphabet is ASCII")
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    // Room for the longest name. What is longer is none.
    let mut bytes = [0; 48];
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
    bytes[..length].try_into().ok()
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Of the bytes that [`as_bytes`](Self::as_bytes) gave.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            /// The bytes, for a store to build its own names from.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// Of the text that `Display` gave.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                decode(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(encode(&self.0, &mut [0; LONGEST]))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;

                impl de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a ", stringify!($name)))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).ok_or_else(|| E::custom(concat!("not a ", stringify!($name))))
                    }
                }

                deserializer.deserialize_str(Text)
            }
        }
    };
}

name! {
    /// The public name of one sign-in: random, never used twice, safe to show to its user and in logs. It opens
    /// nothing; that takes the [`SessionKey`].
    SignInId, 16
}

name! {
    /// Who an account is, as the store sees it: a hash over the configured claims, by default issuer and subject.
    AccountHash, 32
}

name! {
    /// What the store keeps of a [`SessionKey`].
    KeyHash, 32
}

name! {
    /// How a logout from outside finds sign-ins: a hash over issuer, client and `sid`, or issuer, client and `sub`.
    Selector, 32
}

name! {
    /// The name of a claim or lease.
    ClaimName, 32
}

name! {
    /// The name of one downstream token in the cache: a hash over everything that must be equal for it to be served.
    DownstreamName, 32
}

name! {
    /// Which access token a downstream token was derived from.
    TokenHash, 32
}

name! {
    /// The name of one call to the store, the same when the call is repeated; also of a holder and of an outbox item.
    OperationId, 16
}

impl SignInId {
    pub(crate) fn random() -> Self {
        Self(random())
    }
}

impl OperationId {
    /// A new name.
    #[must_use]
    pub fn random() -> Self {
        // It opens nothing, and a sign-out makes several: from the thread's own generator, a twentieth of the price.
        let mut bytes = [0; 16];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }
}

impl AccountHash {
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        Self(hash_parts("account", parts))
    }

    /// Which of the 256 buckets the account lives in.
    #[must_use]
    pub const fn bucket(&self) -> u8 {
        self.0[0]
    }
}

impl Selector {
    /// All sign-ins of one browser session at the provider.
    #[must_use]
    pub fn sid(issuer: &str, client_id: &str, sid: &str) -> Self {
        Self::of("selector:sid", issuer, client_id, sid)
    }

    /// All sign-ins of one subject.
    #[must_use]
    pub fn subject(issuer: &str, client_id: &str, subject: &str) -> Self {
        Self::of("selector:sub", issuer, client_id, subject)
    }

    fn of(domain: &str, issuer: &str, client_id: &str, value: &str) -> Self {
        let parts = [issuer.as_bytes(), client_id.as_bytes(), value.as_bytes()];
        Self(hash_parts(domain, &parts))
    }
}

impl ClaimName {
    /// Hashes a domain and the values that were claimed.
    #[must_use]
    pub fn of(domain: &str, parts: &[&[u8]]) -> Self {
        Self(hash_parts(domain, parts))
    }
}

impl DownstreamName {
    /// Hashes the values that must all be equal for a downstream token to be served.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        Self(hash_parts("downstream", parts))
    }
}

#[cfg(feature = "redis")]
impl KeyHash {
    /// Whether they are equal, in a time that tells nothing about where they differ.
    pub(crate) fn is(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl TokenHash {
    /// Of a token.
    #[must_use]
    pub fn of(token: &Secret) -> Self {
        Self(hash_parts("token", &[token.secret().as_bytes()]))
    }
}

/// The secret, random 256-bit name of one sign-in's cache entry. It lives in the session's data; the store sees its
/// [hash](Self::hash) only.
#[derive(Clone)]
pub struct SessionKey([u8; 32]);

impl SessionKey {
    pub(crate) fn random() -> Self {
        Self(random())
    }

    /// What the store compares.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        // In one go, and short enough for one block: this is done for every request, and a digest that takes its input bit by
        // bit is allocated. No other hash begins like this, for the others begin with a length.
        const DOMAIN: &[u8] = b"session-key";
        let mut bytes = [0; DOMAIN.len() + 32];
        bytes[..DOMAIN.len()].copy_from_slice(DOMAIN);
        bytes[DOMAIN.len()..].copy_from_slice(&self.0);
        let hash = sha256(&bytes);
        bytes.zeroize();
        KeyHash(hash)
    }
}

impl Drop for SessionKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey([redacted])")
    }
}

/// Where a sign-in is kept: enough to name it, not enough to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// Whose it is; its first byte is the bucket.
    pub account: AccountHash,
    /// Which one.
    pub id: SignInId,
}

/// What the session's data holds for one sign-in: where it is, and the key that opens it.
#[derive(Clone, Debug)]
pub struct Locator {
    /// Where it is kept.
    pub address: Address,
    /// What opens it.
    pub key: SessionKey,
}

impl Locator {
    /// How long [`extend`](Self::extend) makes a text of bytes.
    pub(crate) const SIZE: usize = 32 + 16 + 32;

    /// Appends account, sign-in and key.
    pub(crate) fn extend(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.address.account.0);
        bytes.extend_from_slice(&self.address.id.0);
        bytes.extend_from_slice(&self.key.0);
    }

    pub(crate) fn of_bytes(bytes: &[u8; Self::SIZE]) -> Option<Self> {
        let (account, rest) = bytes.split_first_chunk()?;
        let (id, key) = rest.split_first_chunk()?;
        let address = Address {
            account: AccountHash(*account),
            id: SignInId(*id),
        };
        let key = SessionKey(key.try_into().ok()?);
        Some(Self { address, key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R34, A12.
    #[test]
    fn parts_are_not_confused_with_each_other_a12() {
        let one = Selector::sid("https://a", "b", "c:d");
        let two = Selector::sid("https://a", "b:c", "d");
        assert_ne!(one, two);
        assert_ne!(
            Selector::sid("i", "c", "x"),
            Selector::subject("i", "c", "x")
        );
    }

    #[test]
    fn names_survive_their_text_form() {
        let id = SignInId::random();
        assert_eq!(SignInId::parse(&id.to_string()), Some(id));
        assert_eq!(SignInId::parse("short"), None);
        let key = SessionKey::random();
        assert_eq!(format!("{key:?}"), "SessionKey([redacted])");
    }
}
