//! Encryption of what is kept elsewhere: XChaCha20-Poly1305, with a ring of keys so that they can be changed.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead as _, AeadInPlace as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::ConfigError;
use crate::id::{hash_parts, random};

/// The keys that encrypt what a shared store keeps: tokens, accounts, the keys in the sessions.
///
/// New values are written under the first key, and all keys read. So a key is changed in three steps, each on all nodes
/// before the next: the new one is added [for reading](Self::and_for_reading); it becomes the first, and the old one stays for
/// reading; after the absolute lifetime of sign-ins (72 hours by default), when nothing written under it is left, the old
/// one goes. A value whose key is missing is not there: its user is signed out.
///
/// The cipher is XChaCha20-Poly1305: a random nonce of 192 bits for each value never comes twice, however many are written. What
/// a value is and where it belongs is authenticated along with it, so a value that somebody moves or exchanges is not read.
///
/// # Example
///
/// ```
/// use axum_signout::KeyRing;
///
/// // From the environment or a vault: 32 random bytes, `openssl rand -base64 32`.
/// let ring = KeyRing::parse("kM3nGkcgC4f6lLw9Wc2gMkYtwZzGRvVvyDk3hJ1v2aE=")?;
/// // While keys are changed, the new one first:
/// let ring = KeyRing::new([7; 32]).and_for_reading([3; 32]);
/// # Ok::<(), axum_signout::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct KeyRing {
    first: Key,
    others: Vec<Key>,
}

/// How a key is called in what was written under it: so that the right one of several is tried, and only that one.
const NAME: usize = 8;
const NONCE: usize = 24;
const TAG: usize = 16;

#[derive(Clone)]
struct Key {
    name: [u8; NAME],
    cipher: XChaCha20Poly1305,
}

impl Key {
    fn new(mut bytes: [u8; 32]) -> Self {
        let hash = hash_parts("encryption-key", &[&bytes]);
        let mut name = [0; NAME];
        name.copy_from_slice(&hash[..NAME]);
        let cipher = XChaCha20Poly1305::new(&bytes.into());
        bytes.zeroize();
        Self { name, cipher }
    }
}

impl KeyRing {
    /// One key of 32 random bytes, to write and to read.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            first: Key::new(key),
            others: Vec::new(),
        }
    }

    /// One more key, only to read with.
    #[must_use]
    pub fn and_for_reading(mut self, key: [u8; 32]) -> Self {
        self.others.push(Key::new(key));
        self
    }

    /// Keys in base64, each of 32 bytes, with commas between them; the first is the one to write with. Either alphabet, with or without
    /// padding.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfRange`] without the value, which is a secret: not base64, or not 32 bytes.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut keys = text.split(',').map(|key| {
            decode(key.trim()).ok_or_else(|| ConfigError::OutOfRange {
                what: "encryption key",
                value: "[redacted]".into(),
                allowed: "32 bytes in base64, or several of those with commas between them",
            })
        });
        // Splitting gives one part at least.
        let first = keys.next().ok_or(ConfigError::Missing {
            what: "encryption key",
        })??;
        keys.try_fold(Self::new(*first), |ring, key| {
            Ok(ring.and_for_reading(*key?))
        })
    }

    /// Encrypts a value, bound to its place: what it is, and where it belongs. For stores of others; the one in Redis does it by itself.
    #[must_use]
    pub fn seal(&self, place: &[&[u8]], plain: &[u8]) -> Vec<u8> {
        let Key { name, cipher } = &self.first;
        let nonce = random::<NONCE>();
        let mut sealed = Vec::with_capacity(NAME + NONCE + plain.len() + TAG);
        sealed.extend_from_slice(name);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(plain);
        let aad = associated(name, place);
        let tag = cipher
            .encrypt_in_place_detached(
                XNonce::from_slice(&nonce),
                &aad,
                &mut sealed[NAME + NONCE..],
            )
            // 256 GiB are the limit.
            .expect("a value fits into memory, so it is not too long for the cipher");
        sealed.extend_from_slice(&tag);
        sealed
    }

    /// What was sealed for that place under one of the keys; nothing for anything else.
    #[must_use]
    pub fn open(&self, place: &[&[u8]], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (name, rest) = sealed.split_first_chunk::<NAME>()?;
        let (nonce, msg) = rest.split_first_chunk::<NONCE>()?;
        let mut keys = std::iter::once(&self.first).chain(&self.others);
        let key = keys.find(|key| key.name == *name)?;
        let aad = &associated(name, place);
        let opened = key
            .cipher
            .decrypt(XNonce::from_slice(nonce), Payload { msg, aad });
        opened.ok().map(Zeroizing::new)
    }
}

/// What is authenticated along: each part with its length before it, so that no two lists of parts are alike.
fn associated(name: &[u8; NAME], place: &[&[u8]]) -> [u8; 32] {
    let mut parts: Vec<&[u8]> = vec![name];
    parts.extend_from_slice(place);
    hash_parts("sealed", &parts)
}

fn decode(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let text = text.trim_end_matches('=');
    let engine = match text.contains(['+', '/']) {
        true => STANDARD_NO_PAD,
        false => URL_SAFE_NO_PAD,
    };
    let bytes = Zeroizing::new(engine.decode(text).ok()?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing")
            .field("keys", &(1 + self.others.len()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: [&[u8]; 2] = [b"entry", b"ann"];

    fn read(ring: &KeyRing, place: &[&[u8]], sealed: &[u8]) -> Option<String> {
        let opened = ring.open(place, sealed)?;
        Some(String::from_utf8(opened.to_vec()).unwrap())
    }

    #[test]
    fn what_is_sealed_is_opened_at_its_place_only() {
        let ring = KeyRing::new([1; 32]);
        for plain in ["", "t", "token", &"x".repeat(100_000)] {
            let sealed = ring.seal(&PLACE, plain.as_bytes());
            assert_eq!(sealed.len(), NAME + NONCE + plain.len() + TAG);
            assert_eq!(read(&ring, &PLACE, &sealed).as_deref(), Some(plain));
            let others: [&[&[u8]]; 5] = [
                &[],
                &[b"entry"],
                &[b"entryann"],
                &[b"entry", b"bob"],
                &[b"entry", b"ann", b""],
            ];
            for other in others {
                assert!(ring.open(other, &sealed).is_none());
            }
        }
    }

    #[test]
    fn nothing_of_it_can_be_changed_or_left_out() {
        let ring = KeyRing::new([1; 32]);
        let sealed = ring.seal(&PLACE, b"token");
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                assert!(ring.open(&PLACE, &changed).is_none(), "bit {bit} of {at}");
            }
            assert!(ring.open(&PLACE, &sealed[..at]).is_none());
            assert!(ring.open(&PLACE, &sealed[at + 1..]).is_none());
        }
        let longer = [&sealed[..], &[0]].concat();
        assert!(ring.open(&PLACE, &longer).is_none());
    }

    #[test]
    fn the_same_value_is_never_written_alike() {
        let ring = KeyRing::new([1; 32]);
        let sealed = ring.seal(&PLACE, b"token");
        assert_ne!(sealed, ring.seal(&PLACE, b"token"));
        assert!(!sealed.windows(5).any(|part| part == b"token"));
    }

    #[test]
    fn keys_are_changed_without_losing_what_was_written() {
        let (old, new) = ([1; 32], [2; 32]);
        let steps = [
            KeyRing::new(old),
            KeyRing::new(old).and_for_reading(new),
            KeyRing::new(new).and_for_reading(old),
            KeyRing::new(new),
        ];
        let written: Vec<_> = steps.iter().map(|ring| ring.seal(&PLACE, b"t")).collect();
        // Two steps next to each other run at the same time, on different nodes.
        for (at, ring) in steps.iter().enumerate() {
            let (first, last) = (at.saturating_sub(1), (at + 1).min(3));
            for written in &written[first..=last] {
                assert!(ring.open(&PLACE, written).is_some());
            }
        }
        assert!(steps[3].open(&PLACE, &written[0]).is_none());
        assert!(steps[3].open(&PLACE, &written[1]).is_none());
        assert!(steps[0].open(&PLACE, &written[3]).is_none());
    }

    #[test]
    fn keys_are_read_in_both_alphabets_and_refused_without_being_told() {
        let sealed = KeyRing::new([0xfb; 32]).seal(&PLACE, b"t");
        let text = STANDARD_NO_PAD.encode([0xfb; 32]);
        let url = URL_SAFE_NO_PAD.encode([0xfb; 32]);
        let zero = URL_SAFE_NO_PAD.encode([0; 32]);
        assert!(text.contains(['+', '/']) && !url.contains(['+', '/']));
        let good = [
            text.clone(),
            format!("{text}="),
            url.clone(),
            format!(" {url}=\n"),
            format!("{zero},{url}"),
            format!("{url} , {zero}"),
        ];
        for good in good {
            let ring = KeyRing::parse(&good).unwrap();
            assert!(ring.open(&PLACE, &sealed).is_some(), "{good}");
        }
        let bad = [
            "",
            ",",
            "AAAA",
            &url[1..],
            &format!("A{url}"),
            &format!("{url},"),
            &format!("{url},AAAA"),
            &"z".repeat(64),
            &"A".repeat(44),
            "correct horse battery staple",
        ];
        for bad in bad {
            let error = KeyRing::parse(bad).unwrap_err();
            assert!(matches!(error, ConfigError::OutOfRange { .. }), "{bad}");
            assert!(bad.len() < 4 || !format!("{error} {error:?}").contains(bad));
        }
    }

    #[test]
    fn nothing_prints_a_key_a11() {
        let ring = KeyRing::new([77; 32]).and_for_reading([78; 32]);
        assert_eq!(format!("{ring:?}"), "KeyRing { keys: 2, .. }");
    }
}
