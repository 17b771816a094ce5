//! Tokens of the app itself (RFC 6749 section 4.4): one request at a time for each, ahead of time, and evicted for good.
//!
//! They are kept in this node's memory and not in the store. They are nobody's who could sign out elsewhere, there are a few
//! of them, and another one is a request away: a node that asks for its own needs no lease, and no store to be there.
//!
//! A request under way belongs to the slot that it was started for. An eviction takes the slot out, so what the request
//! brings finds no place, is told to nobody, and goes to the provider to be revoked. Who waited for it asks anew.

mod flight;
mod table;

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;

use self::flight::{Flight, Landed};
pub(crate) use self::table::{AppKey, AppTokenTable};
use self::table::{Asked, Slot, Slots, Step, same};
use super::inner::Cache;
use super::refresh::put_off;
use crate::cause::Cause;
use crate::error::{Error, ErrorKind};
use crate::events;
use crate::id::SignInId;
use crate::provider::{Provider, TokenError};
use crate::token::{AccessToken, TokenSet};

/// How often a request begins anew because its token was evicted while it waited.
const ROUNDS: usize = 8;

/// One request for a token.
struct Errand {
    key: AppKey,
    /// Its slot's name among the pauses.
    name: SignInId,
    number: u64,
    /// Of which provider a token had to make room.
    pushed_out: Option<usize>,
}

enum Found {
    Token(AccessToken),
    Flight(Flight),
    NoOther,
}

impl Cache {
    pub(crate) async fn app_token(&self, key: &AppKey) -> Result<AccessToken, Error> {
        let token = self.app_token_but(key, None).await?;
        token.ok_or_else(|| {
            Error::new(
                ErrorKind::Internal,
                "another token of the app was looked for although none was refused",
            )
        })
    }

    /// A valid token; not `but`, which an API has refused. `None`: there is no other to be had that would fare better.
    pub(crate) async fn app_token_but(
        &self,
        key: &AppKey,
        but: Option<&AccessToken>,
    ) -> Result<Option<AccessToken>, Error> {
        for _ in 0..ROUNDS {
            let flight = match self.find_app_token(key, but)? {
                Found::Token(token) => return Ok(Some(token)),
                Found::Flight(flight) => flight,
                Found::NoOther => return Ok(None),
            };
            match flight.landed().await {
                // The provider gave the same one again.
                Landed::Token(token) if but.is_some_and(|but| same(but, &token)) => {
                    return Ok(None);
                }
                // Looked at once more: it may have been evicted before this task had its turn.
                Landed::Token(token) if self.holds_app_token(key, &token) => {
                    return Ok(Some(token));
                }
                Landed::Failed(error) => {
                    return self.still_valid(key, but).map(Some).ok_or(error);
                }
                Landed::Token(_) | Landed::Evicted => {}
            }
        }
        let error = "tokens of the app were evicted again and again while this one was waited for";
        let error = Error::new(ErrorKind::ProviderUnavailable, error);
        Err(error.with_retry_after(Duration::from_secs(1)))
    }

    fn find_app_token(&self, key: &AppKey, but: Option<&AccessToken>) -> Result<Found, Error> {
        let provider = &self.0.providers[key.provider];
        if !provider.proves_client() {
            return Err(Error::new(
                ErrorKind::Misconfigured,
                "a public client has no tokens of its own: the provider needs a client_secret or a client_auth",
            ));
        }
        let asked = Asked {
            now: self.0.clock.wall(),
            margin: self.0.config.expiry_margin,
            share: self.0.config.refresh_ahead,
            but,
        };
        let table = &self.0.app_tokens;
        let mut slots = table.lock();
        // A slot is made with a request only: who is refused takes nobody's place.
        let nothing;
        let slot = match slots.used(key) {
            Some(slot) => slot,
            None => {
                nothing = table.empty(key);
                &nothing
            }
        };
        let name = slot.name;
        match slot.step(&asked, || self.trouble_of(&name, Some(provider))) {
            Step::Serve { token, behind } => {
                // Nobody waits for it, so nobody is told that there is no room.
                if behind && !self.0.stopped.is_cancelled() {
                    let _ = self.start_errand(&mut slots, key);
                }
                Ok(Found::Token(token))
            }
            Step::Join(flight) => Ok(Found::Flight(flight)),
            Step::Ask => self.start_errand(&mut slots, key).map(Found::Flight),
            Step::NoOther => Ok(Found::NoOther),
            Step::Refuse(error) => Err(error),
        }
    }

    /// To be called with the slots locked: whoever comes next finds the request.
    fn start_errand(&self, slots: &mut Slots, key: &AppKey) -> Result<Flight, Error> {
        let number = slots.next_flight();
        let Ok((slot, pushed_out)) = self.0.app_tokens.slot(slots, key) else {
            return Err(Error::new(
                ErrorKind::Capacity,
                "too many tokens of the app are asked for at once",
            ));
        };
        let errand = Errand {
            key: key.clone(),
            name: slot.name,
            number,
            pushed_out,
        };
        let cache = self.clone();
        let work = async move { cache.run_errand(errand).await };
        let flight = Flight::start(&self.0.tasks, work);
        slot.flight = Some((number, flight.clone()));
        Ok(flight)
    }

    fn holds_app_token(&self, key: &AppKey, token: &AccessToken) -> bool {
        let slots = self.0.app_tokens.lock();
        let held = slots.get(key).and_then(Slot::token);
        held.is_some_and(|held| same(held, token))
    }

    fn still_valid(&self, key: &AppKey, but: Option<&AccessToken>) -> Option<AccessToken> {
        let now = self.0.clock.wall();
        let slots = self.0.app_tokens.lock();
        let held = slots.get(key).and_then(Slot::token)?;
        let refused = but.is_some_and(|but| same(but, held));
        (!refused && held.is_valid_at(now, Duration::ZERO)).then(|| held.clone())
    }

    async fn run_errand(&self, errand: Errand) -> Landed {
        // Not revoked: nobody wanted it gone, and who was given it a moment ago may be using it.
        if let Some(provider) = errand.pushed_out {
            let issuer = self.0.providers[provider].issuer();
            events::app_tokens_evicted(issuer, Cause::Capacity, 1);
        }
        // With a pause after a panic, too, as after anything else that went wrong.
        let work = AssertUnwindSafe(self.ask_for_app_token(&errand)).catch_unwind();
        let answer = work.await.unwrap_or_else(|_| {
            let now = self.0.clock.steady();
            self.0.back_off.refused(errand.name, now);
            Err(Error::new(
                ErrorKind::Internal,
                "a request for an app token panicked",
            ))
        });
        self.land(&errand, answer)
    }

    /// The request itself. What went wrong is noted for the pauses before anybody can see that it is over.
    async fn ask_for_app_token(&self, errand: &Errand) -> Result<TokenSet, Error> {
        let provider = &self.0.providers[errand.key.provider];
        let permit = provider.circuit().enter(provider.clock().steady());
        let permit = permit.map_err(put_off)?;
        let (scopes, resource) = (errand.key.scope_list(), errand.key.resource());
        let answer = provider.client_credentials(&scopes, resource).await;
        let retry_after = match &answer {
            Err(TokenError::Unusable) => None,
            Err(TokenError::Unavailable { retry_after, .. }) => *retry_after,
            // A refusal, too, says that the provider is there.
            Ok(_) | Err(_) => {
                if permit.answered() {
                    events::provider_outage(provider.issuer(), true);
                }
                let result = match answer {
                    Ok(answer) => {
                        self.checked_app_token(provider, answer.tokens, &scopes, resource)
                    }
                    // Never one that sends a user to the provider: none could help.
                    Err(error) => Err(rejected("no token for the app").with_source(error)),
                };
                let back_off = &self.0.back_off;
                match &result {
                    Ok(_) => back_off.answered(&errand.name),
                    Err(_) => back_off.refused(errand.name, self.0.clock.steady()),
                }
                return result;
            }
        };
        let pause = self.outage(permit, provider, errand.name, retry_after, Duration::ZERO);
        let error = answer.err().map(Error::from);
        let error = error.unwrap_or_else(|| put_off(pause));
        Err(error.with_retry_after(pause))
    }

    fn checked_app_token(
        &self,
        provider: &Provider,
        mut tokens: TokenSet,
        scopes: &[&str],
        resource: Option<&str>,
    ) -> Result<TokenSet, Error> {
        let now = self.0.clock.wall();
        tokens.stamp(now);
        let token = tokens.access_tokens().first();
        let problem = match token {
            Some(token) if !token.covers(scopes, resource) => {
                "the provider granted less than the scopes that were asked for"
            }
            Some(token) if token.is_valid_at(now, Duration::ZERO) => return Ok(tokens),
            _ => "the provider issued a token that has ended",
        };
        self.revoke_app_tokens(provider, vec![tokens]);
        Err(rejected(problem))
    }

    /// The end of a request: its token comes into the cache, unless it was evicted meanwhile.
    fn land(&self, errand: &Errand, answer: Result<TokenSet, Error>) -> Landed {
        let (key, provider) = (&errand.key, &self.0.providers[errand.key.provider]);
        let (issuer, resource, scopes) = (provider.issuer(), key.resource(), key.scopes());
        if let Err(error) = &answer {
            events::app_token_failed(issuer, resource, scopes, error.kind());
        }
        let mut slots = self.0.app_tokens.lock();
        let Some(slot) = slots.of_flight(key, errand.number) else {
            drop(slots);
            if let Ok(tokens) = answer {
                events::app_token_obtained(issuer, resource, scopes, false);
                self.revoke_app_tokens(provider, vec![tokens]);
            }
            return Landed::Evicted;
        };
        slot.flight = None;
        let landed = match answer {
            Ok(tokens) => {
                slot.keep(tokens);
                let token = slot.token().cloned();
                token.map_or(Landed::Evicted, Landed::Token)
            }
            Err(error) => {
                slot.refusal = Some(error.clone());
                Landed::Failed(error)
            }
        };
        drop(slots);
        if matches!(landed, Landed::Token(_)) {
            events::app_token_obtained(issuer, resource, scopes, true);
        }
        landed
    }

    /// Takes tokens of the app out; how many there were. They are in the outbox when this returns, or on the way there if the
    /// store is away.
    pub(crate) async fn evict_app_tokens(
        &self,
        provider: usize,
        which: impl Fn(&AppKey) -> bool,
    ) -> usize {
        let taken = {
            let mut slots = self.0.app_tokens.lock();
            slots.take(|key| key.provider == provider && which(key))
        };
        let tokens: Vec<TokenSet> = taken.into_iter().filter_map(|slot| slot.tokens).collect();
        let count = tokens.len();
        if count == 0 {
            return 0;
        }
        let provider = &self.0.providers[provider];
        events::app_tokens_evicted(provider.issuer(), Cause::Operator, count);
        // A task of its own: a caller that goes away must not leave them valid at the provider.
        let _ = self.revoke_app_tokens(provider, tokens).await;
        count
    }

    /// Puts tokens into the outbox, where the configuration wants them revoked.
    fn revoke_app_tokens(
        &self,
        provider: &Provider,
        tokens: Vec<TokenSet>,
    ) -> tokio::task::JoinHandle<()> {
        let (cache, provider) = (self.clone(), provider.clone());
        self.0.tasks.spawn(async move {
            let each = tokens.into_iter().map(|tokens| {
                cache.discard_tokens(provider.issuer(), provider.client_id().into(), tokens)
            });
            join_all(each).await;
        })
    }
}

fn rejected(what: &'static str) -> Error {
    Error::new(ErrorKind::ProviderRejected, what)
}
