//! What the scripts keep of a sign-in besides its entry.

use std::time::Duration;

use aws_lc_rs::constant_time;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error, StrDeserializer};

use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::KeyHash;
use crate::store::{Generation, Lifetimes};

/// The field `h` of an account's hash, see `account_keys.lua`.
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
    key: &'a str,
}

impl<'a> Head<'a> {
    pub(super) fn parse(field: &'a [u8]) -> Option<Self> {
        let mut parts = Parts(Some(std::str::from_utf8(field).ok()?));
        match parts.next()? {
            "L" => {
                let mut number = || parts.number();
                let generation = Generation(number()?);
                let created = Timestamp::from_micros(number()?);
                let last_used = Timestamp::from_micros(number()?);
                let idle = Duration::from_micros(number()?);
                let absolute = Duration::from_micros(number()?);
                let _offline = number()?;
                Some(Self::Live(Live {
                    generation,
                    created,
                    last_used,
                    lifetimes: Lifetimes { idle, absolute },
                    key: parts.next()?,
                }))
            }
            "X" => {
                let cause = cause(parts.next()?)?;
                let until = parts.number()?;
                Some(Self::Left(cause, Timestamp::from_micros(until)))
            }
            _ => None,
        }
    }
}

/// What is between colons. Heads are short and every request reads one, so it goes byte by byte: a searcher for each part
/// takes longer.
struct Parts<'a>(Option<&'a str>);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let left = self.0.take()?;
        let Some(end) = left.bytes().position(|byte| byte == b':') else {
            return Some(left);
        };
        self.0 = Some(&left[end + 1..]);
        Some(&left[..end])
    }

    fn number(&mut self) -> Option<u64> {
        self.next()?.parse().ok()
    }
}

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
        KeyHash::parse(self.key)
    }

    pub(super) fn has_key(&self, key: &KeyHash) -> bool {
        let key = key.to_string();
        constant_time::verify_slices_are_equal(self.key.as_bytes(), key.as_bytes()).is_ok()
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
        let text = format!("L:3:1000000:2000000:60000000:90000000:0:{key}");
        let Some(Head::Live(live)) = Head::parse(text.as_bytes()) else {
            panic!("not read");
        };
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
            b"X:Nobody:5",
            b"X:Idle:",
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
