//! One refresh at a time for each sign-in (R29), and pauses between those that fail (R30).
//!
//! The lease and the generation of the store decide; the flights here only save work within one process. A refresh runs in
//! a task of its own, so that the request that started it may go away.
//!
//! After a failure for want of the provider nobody asks again for this sign-in until a pause is over, and once several
//! sign-ins in a row have failed, for none of the provider's but one ([`Circuit`](crate::provider::Circuit)). From the first failure
//! until the next success, who has a token that is still valid is not made to wait for an attempt.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::answer::same_refresh_token;
use super::back_off::Trouble;
use super::evict::Order;
use super::inner::Cache;
use super::live::Flag;
use super::opened::ended;
use super::pick::{Asked, pick};
use crate::cause::Cause;
use crate::error::{Error, ErrorKind};
use crate::events::{self, Who};
use crate::id::{Address, ClaimName, OperationId, SignInId, TokenHash};
use crate::provider::{Permit, Provider, TokenError};
use crate::store::{Entry, Generation, Lease, Lookup, Stored, Target};

/// What a refresh is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) scopes: Vec<String>,
    pub(super) resource: Option<String>,
    /// The token that its API refused, which this one takes the place of.
    pub(super) refused: Option<TokenHash>,
}

impl Wanted {
    pub(super) fn new(asked: Asked<'_>) -> Self {
        let mut scopes: Vec<String> = asked.scopes.iter().map(ToString::to_string).collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self {
            scopes,
            resource: asked.resource.map(str::to_owned),
            refused: asked.refused,
        }
    }

    pub(super) fn scopes(&self) -> Vec<&str> {
        self.scopes.iter().map(String::as_str).collect()
    }

    /// The same, by the [scopes](Self::scopes) of it.
    fn asked<'a>(&'a self, scopes: &'a [&'a str]) -> Asked<'a> {
        Asked {
            scopes,
            resource: self.resource.as_deref(),
            refused: self.refused,
        }
    }
}

pub(super) type Answer = Result<Stored, Error>;
pub(super) type Flight = Shared<BoxFuture<'static, Answer>>;

/// The refresh under way for one sign-in on this node.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<Option<(Wanted, Flight)>>);

impl Flights {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Wanted, Flight)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.lock().is_some()
    }
}

/// The provider was away a moment ago, and is not asked again yet.
pub(super) fn put_off(left: Duration) -> Error {
    Error::new(
        ErrorKind::ProviderUnavailable,
        "the provider is not available; it is asked again later",
    )
    .with_retry_after(left)
}

/// Another refresh was faster.
fn changed() -> Error {
    Error::new(
        ErrorKind::ProviderUnavailable,
        "the sign-in's tokens changed during a refresh",
    )
}

/// What is left of a lease must cover the request that it guards, with room for a slow machine.
const LEASE_SLACK: Duration = Duration::from_secs(5);

/// How often a node looks whether another one's refresh has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Cache {
    /// What is in the store after a refresh for what is asked for; the caller's tokens if another refresh brought that
    /// meanwhile.
    pub(super) async fn refresh(
        &self,
        flag: &Arc<Flag>,
        known: &Stored,
        asked: Asked<'_>,
    ) -> Answer {
        let wanted = Wanted::new(asked);
        loop {
            let (flight, mine) = self.join(flag, known, &wanted);
            let answer = flight.await;
            if mine {
                return answer;
            }
            // Another request's refresh for other scopes: what it brought may do, else it is this one's turn.
            if let Ok(stored) = answer {
                if self.settles(&stored, &wanted) {
                    return Ok(stored);
                }
            } else if flag.ended() {
                return Err(ended());
            }
        }
    }

    /// Whether what is stored leaves nothing to ask the provider for.
    pub(super) fn settles(&self, stored: &Stored, wanted: &Wanted) -> bool {
        let (now, margin) = (self.0.clock.wall(), self.0.config.expiry_margin);
        let (tokens, scopes) = (&stored.entry.tokens, wanted.scopes());
        let asked = wanted.asked(&scopes);
        match asked.refused_in(tokens, now) {
            // Issued again, to somebody else who asked for another one.
            Some(refused) => refused.is_young_at(now),
            None => pick(tokens, asked, now, margin).is_some(),
        }
    }

    /// Whether a refresh of this sign-in, or of many at its provider, failed lately.
    pub(super) fn trouble(&self, flag: &Flag, entry: &Entry) -> Option<Trouble> {
        self.trouble_of(&flag.address().id, self.provider(entry.account.issuer()))
    }

    /// The same of anything that has a name among the pauses.
    pub(super) fn trouble_of(&self, id: &SignInId, provider: Option<&Provider>) -> Option<Trouble> {
        let own = self.0.back_off.trouble(id, self.0.clock.steady());
        let of_all =
            provider.and_then(|provider| provider.circuit().trouble(provider.clock().steady()));
        match (own, of_all) {
            (own, None) => own,
            (Some(own), Some(left)) if own.outage => Some(Trouble {
                left: left.max(own.left),
                outage: true,
            }),
            (_, Some(left)) => Some(Trouble { left, outage: true }),
        }
    }

    /// A flight that nobody waits for, unless one is under way.
    pub(super) fn refresh_behind(
        &self,
        flag: &Arc<Flag>,
        known: &Stored,
        wanted: Wanted,
    ) -> Option<Flight> {
        let mut slot = flag.flights.lock();
        if slot.is_some() {
            return None;
        }
        let flight = self.take_off(flag, known, &wanted);
        *slot = Some((wanted, flight.clone()));
        Some(flight)
    }

    /// The flight under way, or a new one; and whether it is for what this caller wants.
    fn join(&self, flag: &Arc<Flag>, known: &Stored, wanted: &Wanted) -> (Flight, bool) {
        let mut slot = flag.flights.lock();
        if let Some((theirs, flight)) = &*slot {
            return (flight.clone(), theirs == wanted);
        }
        let flight = self.take_off(flag, known, wanted);
        *slot = Some((wanted.clone(), flight.clone()));
        (flight, true)
    }

    /// To be called with the slot locked, which the task empties when it ends.
    fn take_off(&self, flag: &Arc<Flag>, known: &Stored, wanted: &Wanted) -> Flight {
        let (cache, flag_of_task) = (self.clone(), flag.clone());
        let (wanted_of_task, known) = (wanted.clone(), known.clone());
        let task = self.0.tasks.spawn(async move {
            // A panic in here must free the slot too, or no request would ever refresh again.
            let run = cache.run(&flag_of_task, known.generation, &wanted_of_task);
            let run = std::panic::AssertUnwindSafe(run);
            let answer = run.catch_unwind().await;
            let panicked = || Error::new(ErrorKind::Internal, "a refresh panicked");
            let answer = answer.unwrap_or_else(|_| Err(panicked()));
            cache.note_outcome(&flag_of_task, &known, &wanted_of_task, &answer);
            // After the pause was noted: whoever finds no flight must find that.
            *flag_of_task.flights.lock() = None;
            answer
        });
        async move {
            task.await
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a refresh was stopped")))
        }
        .boxed()
        .shared()
    }

    fn note_outcome(&self, flag: &Flag, known: &Stored, wanted: &Wanted, answer: &Answer) {
        let address = flag.address();
        let Err(error) = answer else {
            self.0.back_off.answered(&address.id);
            return;
        };
        events::refresh_failed(Who::unnamed(&address.account), address.id, error.kind());
        // Whoever has a token has no reason to ask again at once, whatever went wrong, be it one that an API refused: it would refuse
        // it for every request. Whoever has none hears of it each time: what was wanted may be something else then.
        let (now, scopes) = (self.0.clock.wall(), wanted.scopes());
        let tokens = &known.entry.tokens;
        let token = pick(tokens, wanted.asked(&scopes), now, Duration::ZERO);
        if (token.is_some() || wanted.refused.is_some()) && !flag.ended() {
            let now = self.0.clock.steady();
            let trouble = self.0.back_off.trouble(&address.id, now);
            if trouble.is_none_or(|trouble| trouble.left.is_zero()) {
                self.0.back_off.refused(address.id, now);
            }
        }
    }

    async fn run(&self, flag: &Flag, known: Generation, wanted: &Wanted) -> Answer {
        let address = flag.address();
        let name = ClaimName::of("refresh", &[address.id.as_bytes()]);
        let holder = OperationId::random();
        let lease = self.lease_time();
        let patience = Instant::now() + self.slowest() + LEASE_SLACK;
        loop {
            match self.0.store.lease(&name, holder, lease).await? {
                Lease::Held(_) => break,
                Lease::Busy(left) => {
                    // A refresh elsewhere whose outcome is unknown keeps its lease, but one that succeeded shows.
                    let stored = self.at(&address).await?;
                    if stored.generation != known && self.settles(&stored, wanted) {
                        return Ok(stored);
                    }
                    // On one node the flight keeps refreshes apart, so this lease is what an unknown outcome has left:
                    // there is nothing to wait for.
                    if !self.0.store.is_shared() || Instant::now() >= patience {
                        let now = self.0.clock.steady();
                        self.0.back_off.hold(address.id, now, left);
                        return Err(Error::new(
                            ErrorKind::ProviderUnavailable,
                            "the outcome of an earlier refresh of this sign-in is not known",
                        )
                        .with_retry_after(left));
                    }
                    tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                }
            }
        }
        let (answer, over) = self.held(flag, known, wanted, &name, holder).await;
        if over {
            // Not waited for in vain: a lease that could not be given back ends by itself.
            if let Err(error) = self.0.store.end_lease(&name, holder).await {
                tracing::warn!(%error, "a refresh lease could not be given back");
            }
        }
        answer
    }

    /// Longer than the slowest provider's time-out, so that it covers the request whichever it is for.
    fn lease_time(&self) -> Duration {
        self.slowest() * 2 + LEASE_SLACK * 2
    }

    fn slowest(&self) -> Duration {
        let timeouts = self.0.providers.iter().map(Provider::timeout);
        timeouts.max().unwrap_or_default()
    }

    pub(super) async fn at(&self, address: &Address) -> Answer {
        match self.0.store.get(address).await? {
            Lookup::Live(stored) => Ok(stored),
            Lookup::Moved | Lookup::Gone(_) => Err(ended()),
        }
    }

    /// The refresh itself, under the lease; and whether the lease may be given back: not after an unknown outcome, for a
    /// refresh token must not be sent again while its first use may still arrive, nor while another node still finds one that is spent.
    async fn held(
        &self,
        flag: &Flag,
        known: Generation,
        wanted: &Wanted,
        name: &ClaimName,
        holder: OperationId,
    ) -> (Answer, bool) {
        let address = flag.address();
        let stored = match self.at(&address).await {
            Ok(stored) => stored,
            Err(error) => return (Err(error), true),
        };
        if stored.generation != known && self.settles(&stored, wanted) {
            return (Ok(stored), true);
        }
        let entry = &stored.entry;
        let Some(refresh_token) = entry.tokens.refresh_token.clone() else {
            let error = Error::new(
                ErrorKind::InteractionRequired,
                "there is no refresh token to get another access token with",
            );
            return (Err(error), true);
        };
        let Some(provider) = self.provider(entry.account.issuer()) else {
            let error = Error::new(
                ErrorKind::InteractionRequired,
                "the provider of this sign-in is no longer configured",
            );
            return (Err(error), true);
        };
        // For those who waited for a flight for other scopes, which failed: not everyone's turn is an attempt.
        let trouble = self.0.back_off.trouble(&address.id, self.0.clock.steady());
        if let Some(Trouble { left, outage: true }) = trouble
            && !left.is_zero()
        {
            return (Err(put_off(left)), true);
        }
        let permit = match provider.circuit().enter(provider.clock().steady()) {
            Ok(permit) => permit,
            Err(left) => return (Err(put_off(left)), true),
        };
        // The metadata is fetched before the lease is looked at: a slow discovery must not eat what the request needs.
        if let Err(error) = provider.ready().await {
            let asked_for = error.retry_after();
            let pause = self.outage(permit, provider, address.id, asked_for, Duration::ZERO);
            return (Err(error.with_retry_after(pause)), true);
        }
        let asked = Instant::now();
        let left_of_lease = match self.0.store.lease(name, holder, self.lease_time()).await {
            // An answer that was long on its way tells what was left when it set out.
            Ok(Lease::Held(left)) => left,
            Ok(Lease::Busy(_)) => Duration::ZERO,
            Err(error) => return (Err(error.into()), true),
        };
        // A process that stood still may have been given the lease anew, with another node's refresh in between: then the
        // refresh token that was read before is spent.
        let before = stored;
        let stored = match self.at(&address).await {
            Ok(stored) => stored,
            Err(error) => return (Err(error), true),
        };
        if !same_refresh_token(&stored.entry, &before.entry) {
            let answer = match self.settles(&stored, wanted) {
                true => Ok(stored),
                false => Err(changed()),
            };
            return (answer, true);
        }
        if left_of_lease.saturating_sub(asked.elapsed()) < provider.timeout() + LEASE_SLACK {
            let error = Error::new(
                ErrorKind::ProviderUnavailable,
                "too little is left of the refresh lease",
            );
            return (Err(error), true);
        }
        // The store may still have what this node has ended: its removal is pending.
        if flag.ended() || self.held_back(flag, &stored).is_some() {
            return (Err(ended()), true);
        }
        let scopes = wanted.scopes();
        let resource = wanted.resource.as_deref();
        let answer = provider.refresh(&refresh_token, &scopes, resource).await;
        // Whoever sent an answer that cannot be read may have used the refresh token up.
        let (retry_after, known) = match &answer {
            Err(TokenError::Unusable) => (None, false),
            Err(TokenError::Unavailable {
                retry_after,
                outcome_known,
            }) => (*retry_after, *outcome_known),
            // A refusal, too, says that the provider is there.
            Ok(_) | Err(_) => {
                if permit.answered() {
                    events::provider_outage(provider.issuer(), true);
                }
                return match answer {
                    Ok(answer) => {
                        self.keep_answer(address, stored, provider, answer.tokens, wanted)
                            .await
                    }
                    Err(TokenError::InvalidGrant) => self.refused(&stored, address, wanted).await,
                    Err(error) => (Err(error.into()), true),
                };
            }
        };
        // What is left of a lease that is kept is waited for in any case.
        let at_least = match known {
            true => Duration::ZERO,
            false => left_of_lease.saturating_sub(asked.elapsed()),
        };
        let pause = self.outage(permit, provider, address.id, retry_after, at_least);
        let error = answer.err().map(Error::from);
        let error = error.unwrap_or_else(|| put_off(pause));
        (Err(error.with_retry_after(pause)), known)
    }

    /// Notes that the provider is away; for how long this sign-in leaves it alone.
    pub(super) fn outage(
        &self,
        permit: Permit<'_>,
        provider: &Provider,
        id: SignInId,
        retry_after: Option<Duration>,
        at_least: Duration,
    ) -> Duration {
        if permit.failed(id, provider.clock().steady(), retry_after) {
            events::provider_outage(provider.issuer(), false);
        }
        let at_least = at_least.max(retry_after.unwrap_or_default());
        let now = self.0.clock.steady();
        self.0.back_off.outage(id, now, at_least)
    }

    /// R30: the sign-in ends only if the refresh token that was refused is still the one in the store. Also whether
    /// other nodes find that out.
    async fn refused(&self, stored: &Stored, address: Address, wanted: &Wanted) -> (Answer, bool) {
        let target = Target::SignInAt(address, stored.generation);
        let end = self.end(target, Cause::RefreshRejected).await;
        if end != End::Nothing {
            return (Err(ended()), end.is_confirmed());
        }
        let answer = match self.at(&address).await {
            Ok(now) if self.settles(&now, wanted) => Ok(now),
            Ok(_) => Err(changed()),
            Err(error) => Err(error),
        };
        (answer, true)
    }

    /// Whether another sign-in took its place. What this node knows comes first: a store forgets in time why a sign-in left, and
    /// may then be told something else.
    pub(super) async fn was_replaced(&self, address: &Address) -> bool {
        let known = self.0.live.cause(address);
        if known.is_some_and(|cause| cause != Cause::Replaced) {
            return false;
        }
        let now = self.0.store.get(address).await;
        matches!(now, Ok(Lookup::Gone(Some(Cause::Replaced))))
    }

    pub(super) async fn end(&self, target: Target, cause: Cause) -> End {
        let correlation_id = Self::correlation_id();
        let evicted = self
            .evict(&[Order::new(target, cause)], &correlation_id)
            .await;
        let end = match evicted.pending {
            0 if evicted.is_empty() => End::Nothing,
            0 => End::Done,
            _ => End::Pending,
        };
        self.conclude_later(cause, &correlation_id, evicted);
        end
    }
}

/// What came of ending a sign-in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There was none any more.
    Nothing,
    Done,
    /// The store has not confirmed it: other nodes may still find it.
    Pending,
}

impl End {
    pub(super) fn is_confirmed(self) -> bool {
        self != Self::Pending
    }
}
