//! What the scripts keep of a sign-in besides its entry.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::KeyHash;
use crate::store::{Generation, Lifetimes};

/// What the field `h` of an account's hash begins with, see `account_keys.lua`.
#[derive(Debug, PartialEq)]
pub(super) enum Head<'a> {
    Live(Live<'a>),
    /// What a removal left, and until when.
    Left(Cause, Timestamp),
}

#[derive(Debug, PartialEq)]
pub(super) struct Live<'a> {
    pub(super) generation: Generation,
    pub(super) created: Timestamp,
    pub(super) last_used: Timestamp,
    pub(super) lifetimes: Lifetimes,
    key: &'a [u8],
}

impl<'a> Head<'a> {
    /// Takes it off a field; what is left is the sealed entry.
    pub(super) fn split(field: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut parts = Parts(field);
        match parts.next()? {
            b"L" => {
                let generation = Generation(parts.number()?);
                let created = Timestamp::from_micros(parts.number()?);
                let last_used = Timestamp::from_micros(parts.number()?);
                let idle = Duration::from_micros(parts.number()?);
                let absolute = Duration::from_micros(parts.number()?);
                let _offline = parts.number()?;
                let live = Live {
                    generation,
                    created,
                    last_used,
                    lifetimes: Lifetimes { idle, absolute },
                    key: parts.next()?,
                };
                Some((Self::Live(live), parts.0))
            }
            b"X" => {
                let text = |bytes| std::str::from_utf8(bytes).ok();
                let cause = cause(text(parts.next()?)?)?;
                let until = text(parts.0)?.parse().ok()?;
                Some((Self::Left(cause, Timestamp::from_micros(until)), &[]))
            }
            _ => None,
        }
    }

    /// Without the entry.
    pub(super) fn parse(field: &'a [u8]) -> Option<Self> {
        Self::split(field).map(|(head, _)| head)
    }
}

/// What is before colons. Heads are short and every request reads one, so it goes byte by byte: a searcher for each part
/// takes longer.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == b':')?;
        let part = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Some(part)
    }

    fn number(&mut self) -> Option<u64> {
        let (mut number, mut digits) = (0_u64, 0);
        while let digit @ 0..=9 = self.0.get(digits)?.wrapping_sub(b'0') {
            number = number.wrapping_mul(10).wrapping_add(digit.into());
            digits += 1;
        }
        self.0 = self.0[digits..].strip_prefix(b":")?;
        // Only more digits than that can have wrapped.
        (1..=MOST_DIGITS).contains(&digits).then_some(number)
    }
}

/// So many fit into 64 bits, whichever they are; scripts write 16 at most.
const MOST_DIGITS: usize = 19;

impl Live<'_> {
    /// When it ends unless it is used, and why.
    pub(super) fn end(&self) -> (Timestamp, Cause) {
        let idle = self.last_used.plus(self.lifetimes.idle);
        let absolute = self.created.plus(self.lifetimes.absolute);
        if absolute <= idle {
            (absolute, Cause::Absolute)
        } else {
            (idle, Cause::Idle)
        }
    }

    pub(super) fn touch_due(&self, now: Timestamp) -> bool {
        now.since(self.last_used) >= self.lifetimes.touch_interval()
    }

    pub(super) fn key_hash(&self) -> Option<KeyHash> {
        KeyHash::parse(std::str::from_utf8(self.key).ok()?)
    }

    pub(super) fn has_key(&self, key: &KeyHash) -> bool {
        self.key_hash().is_some_and(|own| own.is(key))
    }
}

/// Of the name that [`Cause::as_str`] gave.
pub(super) fn cause(name: &str) -> Option<Cause> {
    let name: StrDeserializer<'_, Error> = name.into_deserializer();
    Cause::deserialize(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionKey;

    #[test]
    fn a_head_is_read_and_anything_else_is_none() {
        let key = SessionKey::random().hash();
        let text = format!("L:3:1000000:2000000:60000000:90000000:0:{key}:a:b");
        let Some((Head::Live(live), rest)) = Head::split(text.as_bytes()) else {
            panic!("not read");
        };
        assert_eq!(rest, b"a:b");
        assert_eq!(live.generation, Generation(3));
        let end = (Timestamp::from_secs(62), Cause::Idle);
        assert_eq!(live.end(), end);
        assert!(live.has_key(&key));
        assert!(!live.has_key(&SessionKey::random().hash()));
        let left = Head::Left(Cause::BackChannel, Timestamp::from_secs(5));
        assert_eq!(Head::parse(b"X:BackChannel:5000000"), Some(left));
        for bad in [
            &b""[..],
            b"L",
            b"L:1:2",
            b"L:1:2:3:4:5:0:key",
            b"L:1::3:4:5:0:key:",
            b"L:1:+2:3:4:5:0:key:",
            b"L:1:10000000000000000000:3:4:5:0:key:",
            b"X:Nobody:5",
            b"X:\xff:5",
            b"X:Idle:",
            b"X:Idle:5:",
            b"Y:1",
            b"\xff",
        ] {
            assert_eq!(Head::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn every_cause_is_read_by_its_name() {
        for name in [
            Cause::UserSignOut,
            Cause::SignOutOthers,
            Cause::SignOutEverywhere,
            Cause::Operator,
            Cause::FrontChannel,
            Cause::BackChannel,
            Cause::Idle,
            Cause::Absolute,
            Cause::RefreshRejected,
            Cause::Replaced,
            Cause::Capacity,
            Cause::SessionEnded,
        ] {
            assert_eq!(cause(name.as_str()), Some(name));
        }
    }
}
