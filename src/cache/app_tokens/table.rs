//! Where the tokens of the app itself are kept: by what they are for, in a bounded number.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::flight::Flight;
use crate::cache::back_off::{Trouble, spread};
use crate::cache::refresh::put_off;
use crate::clock::Timestamp;
use crate::error::Error;
use crate::id::{self, SignInId};
use crate::token::{AccessToken, TokenSet};

/// What a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AppKey {
    /// Among those of the cache, which never change. It stands for issuer and client.
    pub(super) provider: usize,
    resource: Option<Box<str>>,
    /// Sorted, each once, with spaces between.
    scopes: Box<str>,
}

impl AppKey {
    pub(crate) fn new(provider: usize, scopes: &[&str], resource: Option<&str>) -> Self {
        let mut scopes = scopes.to_vec();
        scopes.sort_unstable();
        scopes.dedup();
        Self {
            provider,
            resource: resource.map(Into::into),
            scopes: scopes.join(" ").into(),
        }
    }

    pub(super) fn resource(&self) -> Option<&str> {
        self.resource.as_deref()
    }

    pub(super) fn scopes(&self) -> &str {
        &self.scopes
    }

    pub(super) fn scope_list(&self) -> Vec<&str> {
        self.scopes.split_ascii_whitespace().collect()
    }
}

/// What is kept for one key. It is there while there is a token, a request for one, or a failure to remember.
pub(super) struct Slot {
    /// Its name among the pauses, and its place among all. The same when it comes back after an eviction: that ends no pause.
    pub(super) name: SignInId,
    /// With the refresh token, if a provider gives one against section 4.4.3 of RFC 6749: it is to be revoked as well.
    pub(super) tokens: Option<TokenSet>,
    pub(super) flight: Option<(u64, Flight)>,
    /// What the provider said when it refused.
    pub(super) refusal: Option<Error>,
    used: u64,
}

/// When somebody asks, and how tokens are judged.
pub(super) struct Asked<'a> {
    pub(super) now: Timestamp,
    pub(super) margin: Duration,
    pub(super) share: Option<f64>,
    /// A token that is of no use to them: an API refused it.
    pub(super) but: Option<&'a AccessToken>,
}

/// What is to be done for one who asks.
pub(super) enum Step {
    /// It is theirs; `behind`: and the next one is to be got without them.
    Serve {
        token: AccessToken,
        behind: bool,
    },
    /// They wait for the request under way.
    Join(Flight),
    /// They wait for one that is to be made.
    Ask,
    /// The token that an API refused was issued a moment ago: no other one would fare better.
    NoOther,
    Refuse(Error),
}

impl Slot {
    pub(super) fn token(&self) -> Option<&AccessToken> {
        self.tokens.as_ref()?.access_tokens().first()
    }

    /// The request under way. One whose task was lost, with the runtime that ran it, is none.
    pub(super) fn flight(&self) -> Option<&Flight> {
        let (_, flight) = self.flight.as_ref()?;
        (!flight.is_over()).then_some(flight)
    }

    /// `trouble` is asked only where there is a reason to make a request.
    pub(super) fn step(
        &self,
        asked: &Asked<'_>,
        trouble: impl FnOnce() -> Option<Trouble>,
    ) -> Step {
        let refused = |token: &&AccessToken| asked.but.is_some_and(|but| same(but, token));
        let held = self.token();
        let token = held.filter(|token| !refused(token));
        let serve = |token: &AccessToken, behind| Step::Serve {
            token: token.clone(),
            behind: behind && self.flight().is_none(),
        };
        if let Some(token) = token.filter(|token| token.is_fresh_at(asked.now, asked.margin)) {
            let due = asked.share.is_some_and(|share| {
                token.is_due_at(asked.now, asked.margin, share, spread(&self.name))
            });
            let behind = due && trouble().is_none_or(|trouble| trouble.left.is_zero());
            return serve(token, behind);
        }
        let trouble = trouble();
        let valid = token.filter(|token| token.is_valid_at(asked.now, Duration::ZERO));
        if let (Some(token), Some(trouble)) = (valid, trouble) {
            return serve(token, trouble.left.is_zero());
        }
        if let Some(flight) = self.flight() {
            return Step::Join(flight.clone());
        }
        if held.is_some_and(|token| refused(&token) && token.is_young_at(asked.now)) {
            return Step::NoOther;
        }
        if let Some(trouble) = trouble.filter(|trouble| !trouble.left.is_zero()) {
            let refusal = self.refusal.clone().filter(|_| !trouble.outage);
            let error = refusal.unwrap_or_else(|| put_off(trouble.left));
            return Step::Refuse(error.with_retry_after(trouble.left));
        }
        Step::Ask
    }

    /// The provider has given these.
    pub(super) fn keep(&mut self, tokens: TokenSet) {
        self.tokens = Some(tokens);
        self.refusal = None;
    }
}

/// All of them.
pub(crate) struct AppTokenTable {
    slots: Mutex<Slots>,
    salt: [u8; 16],
    most: usize,
}

#[derive(Default)]
pub(super) struct Slots {
    all: HashMap<AppKey, Slot>,
    uses: u64,
    flights: u64,
}

/// So many requests for tokens are under way that there is no room for another key.
#[derive(Debug)]
pub(super) struct Full;

impl AppTokenTable {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            slots: Mutex::default(),
            // Pauses and turns are not the same on all nodes.
            salt: id::random(),
            most,
        }
    }

    /// Slots are whole at every point where a panic could leave them.
    pub(super) fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn name(&self, key: &AppKey) -> SignInId {
        let provider = key.provider.to_be_bytes();
        let resource = key.resource().map(str::as_bytes);
        let parts = [
            &self.salt,
            &provider[..],
            &[u8::from(resource.is_some())],
            resource.unwrap_or_default(),
            key.scopes().as_bytes(),
        ];
        let [name @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            id::hash_parts("app token", &parts);
        SignInId::from_bytes(name)
    }

    /// What there is of a key that has no slot.
    pub(super) fn empty(&self, key: &AppKey) -> Slot {
        Slot {
            name: self.name(key),
            tokens: None,
            flight: None,
            refusal: None,
            used: 0,
        }
    }

    /// The slot of a key, and a new one if there is none. The least recently used of the others leaves where there is no room
    /// for it, but for those with a request under way; and of which provider a token has left so.
    pub(super) fn slot<'s>(
        &self,
        slots: &'s mut Slots,
        key: &AppKey,
    ) -> Result<(&'s mut Slot, Option<usize>), Full> {
        let mut pushed_out = None;
        if !slots.all.contains_key(key) && slots.all.len() >= self.most {
            let idle = slots.all.iter().filter(|(_, slot)| slot.flight().is_none());
            let oldest = idle.min_by_key(|(_, slot)| slot.used).map(|(key, _)| key);
            let oldest = oldest.ok_or(Full)?.clone();
            let left = slots.all.remove(&oldest);
            let token = left.and_then(|slot| slot.tokens);
            pushed_out = token.map(|_| oldest.provider);
        }
        let slot = slots.all.entry(key.clone());
        let slot = slot.or_insert_with(|| self.empty(key));
        slots.uses += 1;
        slot.used = slots.uses;
        Ok((slot, pushed_out))
    }
}

impl Slots {
    pub(super) fn get(&self, key: &AppKey) -> Option<&Slot> {
        self.all.get(key)
    }

    /// The same, for one who uses it.
    pub(super) fn used(&mut self, key: &AppKey) -> Option<&Slot> {
        let slot = self.all.get_mut(key)?;
        self.uses += 1;
        slot.used = self.uses;
        Some(slot)
    }

    pub(super) fn next_flight(&mut self) -> u64 {
        self.flights += 1;
        self.flights
    }

    /// The slot that a flight was for, unless it was evicted since.
    pub(super) fn of_flight(&mut self, key: &AppKey, number: u64) -> Option<&mut Slot> {
        let slot = self.all.get_mut(key)?;
        let own = matches!(&slot.flight, Some((own, _)) if *own == number);
        own.then_some(slot)
    }

    /// Takes out what is for these keys, requests under way included: what they bring finds no place.
    pub(super) fn take(&mut self, which: impl Fn(&AppKey) -> bool) -> Vec<Slot> {
        let taken = self.all.extract_if(|key, _| which(key));
        taken.map(|(_, slot)| slot).collect()
    }
}

pub(super) fn same(one: &AccessToken, other: &AccessToken) -> bool {
    id::same_secret(one.secret(), other.secret())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const NAME: SignInId = SignInId::from_bytes([0; 16]);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// With a token of 1000 s that was received at 0.
    fn slot(token: Option<&str>) -> Slot {
        let tokens = token.map(|token| {
            let token = AccessToken::bearer(token).expires_in(secs(1000));
            let mut tokens = TokenSet::new().with_access_token(token);
            tokens.stamp(at(0));
            tokens
        });
        Slot {
            tokens,
            ..AppTokenTable::new(1).empty(&AppKey::new(0, &[], None))
        }
    }

    fn described(step: Step) -> String {
        match step {
            Step::Serve { token, behind } => format!("{} {behind}", token.secret()),
            Step::Join(_) => "join".to_owned(),
            Step::Ask => "ask".to_owned(),
            Step::NoOther => "no other".to_owned(),
            Step::Refuse(error) => format!(
                "{} {}",
                error.kind().as_str(),
                error.retry_after().unwrap_or_default().as_secs()
            ),
        }
    }

    #[tokio::test]
    async fn what_is_done_for_one_who_asks_r29_r30() {
        let none = None;
        let away = |left| {
            Some(Trouble {
                left: secs(left),
                outage: true,
            })
        };
        let refused = |left| {
            Some(Trouble {
                left: secs(left),
                outage: false,
            })
        };
        type Row<'a> = (
            &'a str,
            Option<&'a str>,
            bool,
            Option<&'a str>,
            i64,
            Option<Trouble>,
            &'a str,
        );
        // What is held, whether a request is under way, what an API refused, when, and what went wrong lately.
        let rows: [Row<'_>; 24] = [
            ("nothing there", None, false, None, 0, none, "ask"),
            ("on its way", None, true, None, 0, none, "join"),
            ("there", Some("t"), false, None, 0, none, "t false"),
            ("due", Some("t"), false, None, 800, none, "t true"),
            (
                "due, on its way",
                Some("t"),
                true,
                None,
                800,
                none,
                "t false",
            ),
            ("due, away", Some("t"), false, None, 800, away(9), "t false"),
            (
                "due, pause over",
                Some("t"),
                false,
                None,
                800,
                away(0),
                "t true",
            ),
            ("last minute", Some("t"), false, None, 950, none, "ask"),
            (
                "last minute, on its way",
                Some("t"),
                true,
                None,
                950,
                none,
                "join",
            ),
            (
                "last minute, away",
                Some("t"),
                true,
                None,
                950,
                away(9),
                "t false",
            ),
            (
                "last minute, pause over",
                Some("t"),
                false,
                None,
                950,
                away(0),
                "t true",
            ),
            (
                "last minute, refused",
                Some("t"),
                false,
                None,
                950,
                refused(9),
                "t false",
            ),
            ("ended", Some("t"), false, None, 1000, none, "ask"),
            (
                "ended, away",
                Some("t"),
                false,
                None,
                1000,
                away(9),
                "ProviderUnavailable 9",
            ),
            (
                "ended, on its way",
                Some("t"),
                true,
                None,
                1000,
                away(9),
                "join",
            ),
            (
                "ended, refused",
                Some("t"),
                false,
                None,
                1000,
                refused(9),
                "Internal 9",
            ),
            (
                "ended, pause over",
                Some("t"),
                false,
                None,
                1000,
                refused(0),
                "ask",
            ),
            ("no use", Some("t"), false, Some("t"), 60, none, "ask"),
            (
                "no use, on its way",
                Some("t"),
                true,
                Some("t"),
                60,
                none,
                "join",
            ),
            (
                "no use, away",
                Some("t"),
                false,
                Some("t"),
                60,
                away(9),
                "ProviderUnavailable 9",
            ),
            (
                "no use, young",
                Some("t"),
                false,
                Some("t"),
                59,
                none,
                "no other",
            ),
            (
                "no use, young, on its way",
                Some("t"),
                true,
                Some("t"),
                59,
                none,
                "join",
            ),
            (
                "no use, young, away",
                Some("t"),
                false,
                Some("t"),
                59,
                away(9),
                "no other",
            ),
            (
                "another is of no use",
                Some("t"),
                false,
                Some("u"),
                0,
                none,
                "t false",
            ),
        ];
        for (name, token, under_way, but, now, trouble, expected) in rows {
            let mut slot = slot(token);
            slot.name = NAME;
            slot.refusal = Some(Error::new(ErrorKind::Internal, "what was said"));
            let tasks = tokio_util::task::TaskTracker::new();
            if under_way {
                let flight = Flight::start(&tasks, std::future::pending());
                slot.flight = Some((1, flight));
            }
            let but = but.map(AccessToken::bearer);
            let asked = Asked {
                now: at(now),
                margin: secs(60),
                share: Some(0.8),
                but: but.as_ref(),
            };
            let step = slot.step(&asked, || trouble);
            assert_eq!(described(step), expected, "{name}");
        }
    }

    #[test]
    fn pauses_go_by_what_a_token_is_for_and_differ_from_node_to_node_r30() {
        let (one, two) = (AppTokenTable::new(9), AppTokenTable::new(9));
        let keys = [
            AppKey::new(0, &["a", "b"], None),
            AppKey::new(1, &["a", "b"], None),
            AppKey::new(0, &["a"], None),
            AppKey::new(0, &["a", "b"], Some("")),
            AppKey::new(0, &[], Some("a b")),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(one.name(key), one.name(key));
            assert_ne!(one.name(key), two.name(key));
            for other in &keys[..at] {
                assert_ne!(one.name(key), one.name(other), "{key:?} {other:?}");
            }
        }
        let same = AppKey::new(0, &["b", "a", "b"], None);
        assert_eq!(same, keys[0]);
        assert_eq!(one.name(&same), one.name(&keys[0]));
    }
}
