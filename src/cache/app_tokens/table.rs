//! Where the tokens of the app itself are kept: by what they are for, in a bounded number.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::flight::Flight;
use crate::cache::back_off::{Trouble, spread};
use crate::cache::refresh::put_off;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::id::{self, SignInId};
use crate::token::{AccessToken, TokenSet};

/// An API that refuses new tokens, too, makes no flood of requests for tokens: so long after one was replaced because it
/// was refused, its successor is not.
const ANEW_PAUSE: Duration = Duration::from_secs(10);

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
    /// Until when the token is not replaced because an API refuses it.
    pub(super) settled_until: Option<Timestamp>,
    used: u64,
}

/// When somebody asks, and how tokens are judged.
pub(super) struct Asked<'a> {
    pub(super) wall: Timestamp,
    pub(super) steady: Timestamp,
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
    /// They wait for one that is to be made; `anew`: because an API refused the token that is there.
    Ask {
        anew: bool,
    },
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
        if let Some(token) = token.filter(|token| token.is_fresh_at(asked.wall, asked.margin)) {
            let due = asked.share.is_some_and(|share| {
                token.is_due_at(asked.wall, asked.margin, share, spread(&self.name))
            });
            let behind = due && trouble().is_none_or(|trouble| trouble.left.is_zero());
            return serve(token, behind);
        }
        let trouble = trouble();
        let valid = token.filter(|token| token.is_valid_at(asked.wall, Duration::ZERO));
        if let (Some(token), Some(trouble)) = (valid, trouble) {
            return serve(token, trouble.left.is_zero());
        }
        if let Some(flight) = self.flight() {
            return Step::Join(flight.clone());
        }
        if let Some(trouble) = trouble.filter(|trouble| !trouble.left.is_zero()) {
            let refusal = self.refusal.clone().filter(|_| !trouble.outage);
            let error = refusal.unwrap_or_else(|| put_off(trouble.left));
            return Step::Refuse(error.with_retry_after(trouble.left));
        }
        let anew = held.is_some_and(|token| refused(&token));
        let settled = self.settled_until.filter(|until| asked.steady < *until);
        if let (Some(until), true) = (settled, anew) {
            let error = "a token that was issued in place of a refused one is refused as well";
            let error = Error::new(ErrorKind::ProviderRejected, error);
            return Step::Refuse(error.with_retry_after(until.since(asked.steady)));
        }
        Step::Ask { anew }
    }

    /// The provider has given these.
    pub(super) fn keep(&mut self, tokens: TokenSet, anew_at: Option<Timestamp>) {
        self.tokens = Some(tokens);
        self.refusal = None;
        self.settled_until = anew_at.map(|at| at.plus(ANEW_PAUSE));
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
            settled_until: None,
            used: 0,
        }
    }

    /// The slot of a key, and a new one if there is none. The least recently used of the others leaves where there is no room
    /// for it, but for those with a request under way.
    pub(super) fn slot<'s>(
        &self,
        slots: &'s mut Slots,
        key: &AppKey,
    ) -> Result<(&'s mut Slot, Option<(AppKey, Slot)>), Full> {
        let mut left = None;
        if !slots.all.contains_key(key) && slots.all.len() >= self.most {
            let idle = slots.all.iter().filter(|(_, slot)| slot.flight().is_none());
            let oldest = idle.min_by_key(|(_, slot)| slot.used).map(|(key, _)| key);
            let oldest = oldest.ok_or(Full)?.clone();
            left = slots.all.remove_entry(&oldest);
        }
        let slot = slots.all.entry(key.clone());
        let slot = slot.or_insert_with(|| self.empty(key));
        slots.uses += 1;
        slot.used = slots.uses;
        Ok((slot, left))
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
