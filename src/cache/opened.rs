//! A sign-in that a request has opened, and handing out its tokens.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;

use super::back_off::spread;
use super::inner::Cache;
use super::live::Flag;
use super::pick::{Asked, pick, pick_such};
use super::refresh::{Wanted, put_off};
use crate::account::Account;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::id::{Address, TokenHash};
use crate::store::{Entry, Lookup, Stored};
use crate::token::AccessToken;

/// How long what was loaded from a shared store is good for: another node may have evicted it since.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// What a locator opened.
#[derive(Clone, Debug)]
pub(crate) enum Opened {
    Live(SignIn),
    /// The sign-in goes on under another key: another request has just renewed the session.
    Moved,
    /// The sign-in has ended, and why, where that is known.
    Dead(Option<Cause>),
}

/// A sign-in that was there when its request came in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SignIn(Arc<Inner>);

struct Inner {
    cache: Cache,
    flag: Arc<Flag>,
    snapshot: Mutex<Snapshot>,
}

#[derive(Clone)]
struct Snapshot {
    stored: Stored,
    /// Counted from before the load was sent.
    at: Timestamp,
    /// The flag's, from before the load was sent.
    doubts: u64,
}

pub(super) fn ended() -> Error {
    Error::new(ErrorKind::NotSignedIn, "the sign-in has ended")
}

impl SignIn {
    /// `at` and `doubts` are from before the load was sent.
    pub(super) fn new(
        cache: Cache,
        flag: Arc<Flag>,
        stored: Stored,
        at: Timestamp,
        doubts: u64,
    ) -> Self {
        let snapshot = Mutex::new(Snapshot { stored, at, doubts });
        Self(Arc::new(Inner {
            cache,
            flag,
            snapshot,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Snapshot> {
        let snapshot = self.0.snapshot.lock();
        snapshot.unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> Snapshot {
        self.lock().clone()
    }

    pub(crate) fn entry(&self) -> Arc<Entry> {
        self.snapshot().stored.entry
    }

    pub(crate) fn stored(&self) -> Stored {
        self.snapshot().stored
    }

    pub(crate) fn account(&self) -> Account {
        self.entry().account.clone()
    }

    /// The account as the app gets it: it can wait for the sign-in's end.
    pub(crate) fn watched_account(&self) -> Account {
        self.account().of_sign_in(self.0.flag.clone())
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.0.cache
    }

    pub(crate) fn address(&self) -> Address {
        self.0.flag.address()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.0.flag.ended()
    }

    /// Why it has ended, if it has.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.0.flag.cause()
    }

    /// Waits until the sign-in ends, and says why.
    pub(crate) async fn ended(&self) -> Cause {
        self.0.flag.until_ended().await
    }

    pub(super) fn keep(&self, stored: Stored, at: Timestamp) {
        // It may go by other selectors than what was there before.
        if let Some(cause) = self.0.cache.held_back(&self.0.flag, &stored) {
            // Hooks hear of it when that is done, if it is.
            self.0.flag.end_quietly(cause);
        }
        let mut snapshot = self.lock();
        if stored.generation >= snapshot.stored.generation {
            (snapshot.stored, snapshot.at) = (stored, at);
        }
    }

    /// What is there now: of a shared store, not older than a second, and of any store, nothing past its end, nor from before an
    /// eviction that meant it and found it gone.
    pub(super) async fn current(&self) -> Result<Stored, Error> {
        let cache = &self.0.cache.0;
        let doubts = self.0.flag.doubts();
        let snapshot = self.snapshot();
        let now = cache.clock.steady();
        // The clocks of store and node may differ, so this only says when to ask: whether it has ended is the store's word. It may
        // have been used since.
        let lapsed = snapshot.stored.expires <= now;
        let aged = cache.store.is_shared() && now.since(snapshot.at) >= GOOD_FOR;
        if !lapsed && !aged && snapshot.doubts == doubts {
            return Ok(snapshot.stored);
        }
        match cache.store.get(&self.address()).await? {
            Lookup::Live(stored) => {
                self.keep(stored.clone(), now);
                let mut snapshot = self.lock();
                snapshot.doubts = snapshot.doubts.max(doubts);
                Ok(stored)
            }
            Lookup::Gone(cause) => {
                // Not the sweep's turn, but known: for whoever else holds it.
                self.0.flag.end(cause.unwrap_or(Cause::SessionEnded));
                Err(ended())
            }
            Lookup::Moved => Err(ended()),
        }
    }

    /// Whether it goes on, as far as can be told: a store that does not answer ends nothing.
    pub(crate) async fn goes_on(&self) -> bool {
        if !self.has_ended() {
            let _ = self.current().await;
        }
        !self.has_ended()
    }

    /// The entry, for who cannot wait. Past the end that is known, a store that answers at once is asked, and any other is not waited
    /// for.
    pub(crate) fn entry_at_once(&self) -> Result<Arc<Entry>, Error> {
        let stored = self.stored();
        let lapsed = stored.expires <= self.0.cache.0.clock.steady();
        let stored = match lapsed {
            true => self
                .current()
                .now_or_never()
                .unwrap_or_else(|| Err(ended()))?,
            false => stored,
        };
        match self.has_ended() {
            true => Err(ended()),
            false => Ok(stored.entry),
        }
    }

    /// A valid access token: from what was loaded, else by a refresh.
    pub(crate) async fn acquire(
        &self,
        scopes: &[&str],
        resource: Option<&str>,
    ) -> Result<AccessToken, Error> {
        let cache = &self.0.cache.0;
        let margin = cache.config.expiry_margin;
        let asked = Asked::of(scopes, resource);
        let stored = self.current().await?;
        let now = cache.clock.wall();
        let token = match pick(&stored.entry.tokens, asked, now, margin) {
            Some(token) if self.is_due(token, now) => {
                Ok(self.ahead(&stored, asked, now, token).clone())
            }
            Some(token) => Ok(token.clone()),
            None if self.has_ended() => Err(ended()),
            None => {
                let token = self.refreshed(&stored, asked).await;
                token.and_then(|token| token.ok_or_else(|| self.granted_less(asked)))
            }
        };
        // After the copy: an eviction that returned before this call began has flipped the flag by now. It also outweighs
        // what made the sign-in end, such as the provider's answer.
        if self.has_ended() {
            return Err(ended());
        }
        token
    }

    /// Another token than one that its API refused: what took its place meanwhile, else by a refresh. `None`: there is none to be
    /// had that would fare better.
    pub(crate) async fn acquire_other(
        &self,
        scopes: &[&str],
        refused: &AccessToken,
    ) -> Result<Option<AccessToken>, Error> {
        let cache = &self.0.cache.0;
        let asked = Asked {
            scopes,
            resource: refused.resource(),
            refused: Some(TokenHash::of(refused.as_secret())),
        };
        let stored = self.current().await?;
        let now = cache.clock.wall();
        let tokens = &stored.entry.tokens;
        let held = asked.refused_in(tokens, now);
        let other = pick(tokens, asked, now, cache.config.expiry_margin);
        let token = match other {
            _ if self.has_ended() => Err(ended()),
            Some(token) if held.is_none() => Ok(Some(token.clone())),
            _ if held.is_some_and(|held| held.is_young_at(now)) => Ok(None),
            _ if !self.can_ask_for_another(&stored) => Ok(None),
            _ => match self.refreshed(&stored, asked).await {
                // The provider gave the same one again.
                Ok(None) if asked.refused_in(&self.entry().tokens, now).is_some() => Ok(None),
                Ok(None) => Err(self.granted_less(asked)),
                answer => answer,
            },
        };
        if self.has_ended() {
            return Err(ended());
        }
        token
    }

    /// Whether the provider may be asked for another token than a refused one: not without a refresh token, nor in the pause after it
    /// refused. That it is away is an error, which [`refreshed`](Self::refreshed) knows.
    fn can_ask_for_another(&self, stored: &Stored) -> bool {
        let cache = &self.0.cache;
        let provider = cache.provider(stored.entry.account.issuer());
        let trouble = cache.trouble(&self.0.flag, &stored.entry);
        let paused = trouble.is_some_and(|trouble| !trouble.outage && !trouble.left.is_zero());
        stored.entry.tokens.refresh_token.is_some() && provider.is_some() && !paused
    }

    /// Whether the next one should be got although this one is good for a while.
    fn is_due(&self, token: &AccessToken, now: Timestamp) -> bool {
        let config = &self.0.cache.0.config;
        config.refresh_ahead.is_some_and(|share| {
            let spread = spread(&self.0.flag.address().id);
            token.is_due_at(now, config.expiry_margin, share, spread)
        })
    }

    /// What is served while the next token is got in the background: the one that is due, unless there is another.
    fn ahead<'t>(
        &self,
        stored: &'t Stored,
        asked: Asked<'_>,
        now: Timestamp,
        due: &'t AccessToken,
    ) -> &'t AccessToken {
        let margin = self.0.cache.0.config.expiry_margin;
        let other = pick_such(&stored.entry.tokens, asked, |token| {
            token.is_fresh_at(now, margin) && !self.is_due(token, now)
        });
        if other.is_none() {
            let trouble = self.0.cache.trouble(&self.0.flag, &stored.entry);
            if trouble.is_none_or(|trouble| trouble.left.is_zero()) {
                self.refresh_behind(stored, asked);
            }
        }
        other.unwrap_or(due)
    }

    /// Starts a refresh that this request does not wait for.
    fn refresh_behind(&self, stored: &Stored, asked: Asked<'_>) {
        let cache = &self.0.cache;
        let refreshable = stored.entry.tokens.refresh_token.is_some();
        if !refreshable || self.has_ended() || cache.0.stopped.is_cancelled() {
            return;
        }
        let (at, wanted) = (cache.0.clock.steady(), Wanted::new(asked));
        let Some(flight) = cache.refresh_behind(&self.0.flag, stored, wanted) else {
            return;
        };
        // A handler that runs for long has the new token for its next call.
        let sign_in = self.clone();
        cache.0.tasks.spawn(async move {
            if let Ok(stored) = flight.await {
                sign_in.keep(stored, at);
            }
        });
    }

    /// What is answered without waiting for an attempt, because the last one failed: a token that is still valid, or that the provider
    /// is away. `None`: the provider is to be asked.
    async fn in_trouble(
        &self,
        stored: &Stored,
        asked: Asked<'_>,
    ) -> Option<Result<AccessToken, Error>> {
        let cache = &self.0.cache;
        stored.entry.tokens.refresh_token.as_ref()?;
        let trouble = cache.trouble(&self.0.flag, &stored.entry)?;
        let now = cache.0.clock.wall();
        let valid =
            |stored: &Stored| pick(&stored.entry.tokens, asked, now, Duration::ZERO).cloned();
        if let Some(token) = valid(stored) {
            if trouble.left.is_zero() {
                self.refresh_behind(stored, asked);
            }
            return Some(Ok(token));
        }
        if trouble.left.is_zero() || !trouble.outage || self.0.flag.flights.is_under_way() {
            return None;
        }
        // What a handler holds may be older than what others got before the outage.
        let at = cache.0.clock.steady();
        let newer = match cache.at(&self.address()).await {
            Ok(newer) => newer,
            Err(error) => return Some(Err(error)),
        };
        let token = valid(&newer);
        self.keep(newer, at);
        Some(token.ok_or_else(|| put_off(trouble.left)))
    }

    /// The token after a refresh; `None` if that brought none that serves.
    async fn refreshed(
        &self,
        stored: &Stored,
        asked: Asked<'_>,
    ) -> Result<Option<AccessToken>, Error> {
        if let Some(answer) = self.in_trouble(stored, asked).await {
            return answer.map(Some);
        }
        let cache = &self.0.cache;
        let mut before = stored.clone();
        let mut result = self.refresh_from(&before, asked).await;
        if let Ok(late) = &result
            && came_late(&before, late, asked, cache.0.clock.wall())
        {
            before = late.clone();
            result = self.refresh_from(&before, asked).await;
        }
        let tokens = match &result {
            Ok(stored) => &stored.entry.tokens,
            Err(_) => &stored.entry.tokens,
        };
        // Before its end a token is good: the margin only says when to begin to look for a new one.
        let now = cache.0.clock.wall();
        let token = pick(tokens, asked, now, Duration::ZERO);
        match (&result, token) {
            (Ok(stored), None) if came_late(&before, stored, asked, now) => Err(Error::new(
                ErrorKind::ProviderUnavailable,
                "the provider's tokens ended before they could be stored",
            )),
            (Ok(_), token) => Ok(token.cloned()),
            (Err(error), Some(_)) if error.kind() != ErrorKind::NotSignedIn => {
                tracing::debug!(kind = ?error.kind(), "a refresh failed, the token is still valid");
                // The attempt may have taken its time, in which another node can have ended the sign-in.
                let fresh = self.current().await?;
                pick(&fresh.entry.tokens, asked, now, Duration::ZERO)
                    .map(|token| Some(token.clone()))
                    .ok_or_else(|| error.clone())
            }
            (Err(error), _) if error.kind() == ErrorKind::InteractionRequired => {
                Err(self.wanting(error.clone(), asked.scopes, asked.resource))
            }
            (Err(error), _) => Err(error.clone()),
        }
    }

    async fn refresh_from(&self, known: &Stored, asked: Asked<'_>) -> Result<Stored, Error> {
        let cache = &self.0.cache;
        let at = cache.0.clock.steady();
        let result = cache.refresh(&self.0.flag, known, asked).await;
        result.inspect(|stored| self.keep(stored.clone(), at))
    }

    fn granted_less(&self, asked: Asked<'_>) -> Error {
        let error = Error::new(
            ErrorKind::InteractionRequired,
            "the provider granted less than the scopes that were asked for",
        );
        self.wanting(error, asked.scopes, asked.resource)
    }

    /// Notes what the user has to be asked for, and at which provider.
    pub(crate) fn wanting(&self, error: Error, scopes: &[&str], resource: Option<&str>) -> Error {
        error.wanting(self.entry().account.issuer(), scopes, resource)
    }
}

/// Whether a refresh brought a token that serves, which was good when it came and is not any more: it waited for a store that was
/// away. One that was there before says nothing, for what the provider grants now may be less.
fn came_late(before: &Stored, after: &Stored, asked: Asked<'_>, now: Timestamp) -> bool {
    let was_there = |token: &AccessToken| {
        let mut all = before.entry.tokens.access_tokens().iter();
        all.any(|old| {
            old.received() == token.received() && old.is(&TokenHash::of(token.as_secret()))
        })
    };
    let was_good = |token: &AccessToken| {
        let came = token.received();
        came.is_some_and(|came| token.is_valid_at(came, Duration::ZERO)) && !was_there(token)
    };
    let tokens = &after.entry.tokens;
    pick(tokens, asked, now, Duration::ZERO).is_none()
        && pick_such(tokens, asked, was_good).is_some()
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn")
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}
