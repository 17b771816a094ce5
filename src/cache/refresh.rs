//! One refresh at a time for each sign-in (R29).
//!
//! The lease and the generation of the store decide; the flights here only save work within one process. A refresh runs in
//! a task of its own, so that the request that started it may go away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::evict::Order;
use super::inner::Cache;
use super::live::Flag;
use super::opened::{ended, pick};
use crate::cause::Cause;
use crate::error::{Error, ErrorKind};
use crate::events::{self, Who};
use crate::id::{Address, ClaimName, OperationId};
use crate::provider::{Provider, TokenError};
use crate::store::{Generation, Lease, Lookup, Stored, Target};

/// What a refresh is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) scopes: Vec<String>,
    pub(super) resource: Option<String>,
}

impl Wanted {
    pub(super) fn new(scopes: &[&str], resource: Option<&str>) -> Self {
        let mut scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self {
            scopes,
            resource: resource.map(str::to_owned),
        }
    }

    pub(super) fn scopes(&self) -> Vec<&str> {
        self.scopes.iter().map(String::as_str).collect()
    }
}

pub(super) type Answer = Result<Stored, Error>;
type Flight = Shared<BoxFuture<'static, Answer>>;

/// The refresh under way for one sign-in on this node.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<Option<(Wanted, Flight)>>);

impl Flights {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Wanted, Flight)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left of a lease must cover the request that it guards, with room for a slow machine.
const LEASE_SLACK: Duration = Duration::from_secs(5);

/// How often a node looks whether another one's refresh has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Cache {
    /// What is in the store after a refresh for these scopes and this resource; the caller's tokens if another refresh
    /// brought what is wanted meanwhile.
    pub(super) async fn refresh(
        &self,
        flag: &Arc<Flag>,
        known: &Stored,
        scopes: &[&str],
        resource: Option<&str>,
    ) -> Answer {
        let wanted = Wanted::new(scopes, resource);
        loop {
            let (flight, mine) = self.join(flag, known, &wanted);
            let answer = flight.await;
            if mine {
                return answer;
            }
            // Another request's refresh for other scopes: what it brought may do, else it is this one's turn.
            if let Ok(stored) = answer {
                if self.serves(&stored, &wanted) {
                    return Ok(stored);
                }
            } else if flag.ended() {
                return Err(ended());
            }
        }
    }

    pub(super) fn serves(&self, stored: &Stored, wanted: &Wanted) -> bool {
        let (now, margin) = (self.0.clock.wall(), self.0.config.expiry_margin);
        let scopes = wanted.scopes();
        pick(
            &stored.entry.tokens,
            &scopes,
            wanted.resource.as_deref(),
            now,
            margin,
        )
        .is_some()
    }

    /// The flight under way, or a new one; and whether it is for what this caller wants.
    fn join(&self, flag: &Arc<Flag>, known: &Stored, wanted: &Wanted) -> (Flight, bool) {
        let mut slot = flag.flights.lock();
        if let Some((theirs, flight)) = &*slot {
            return (flight.clone(), theirs == wanted);
        }
        let (cache, flag_of_task) = (self.clone(), flag.clone());
        let (wanted_of_task, generation) = (wanted.clone(), known.generation);
        let task = self.0.tasks.spawn(async move {
            // A panic in here must free the slot too, or no request would ever refresh again.
            let run = cache.run(&flag_of_task, generation, &wanted_of_task);
            let run = std::panic::AssertUnwindSafe(run);
            let answer = run.catch_unwind().await;
            *flag_of_task.flights.lock() = None;
            let panicked = || Error::new(ErrorKind::Internal, "a refresh panicked");
            let answer = answer.unwrap_or_else(|_| Err(panicked()));
            if let Err(error) = &answer {
                let address = flag_of_task.address();
                events::refresh_failed(Who::unnamed(&address.account), address.id, error.kind());
            }
            answer
        });
        let flight = async move {
            task.await
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a refresh was stopped")))
        }
        .boxed()
        .shared();
        *slot = Some((wanted.clone(), flight.clone()));
        (flight, true)
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
                    if stored.generation != known && self.serves(&stored, wanted) {
                        return Ok(stored);
                    }
                    // On one node the flight keeps refreshes apart, so this lease is what an unknown outcome has left:
                    // there is nothing to wait for.
                    if !self.0.store.is_shared() || Instant::now() >= patience {
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
    /// refresh token must not be sent again while its first use may still arrive.
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
        if stored.generation != known && self.serves(&stored, wanted) {
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
        // The metadata is fetched before the lease is looked at: a slow discovery must not eat what the request needs.
        if let Err(error) = provider.ready().await {
            return (Err(error), true);
        }
        let asked = Instant::now();
        match self.0.store.lease(name, holder, self.lease_time()).await {
            // An answer that was long on its way tells what was left when it set out.
            Ok(Lease::Held(left))
                if left.saturating_sub(asked.elapsed()) >= provider.timeout() + LEASE_SLACK => {}
            Ok(_) => {
                let error = Error::new(
                    ErrorKind::ProviderUnavailable,
                    "too little is left of the refresh lease",
                );
                return (Err(error), true);
            }
            Err(error) => return (Err(error.into()), true),
        }
        // The store may still have what this node has ended: its removal is pending.
        if flag.ended() || self.held_back(flag, &stored).is_some() {
            return (Err(ended()), true);
        }
        let scopes = wanted.scopes();
        let resource = wanted.resource.as_deref();
        let answer = provider.refresh(&refresh_token, &scopes, resource).await;
        match answer {
            Ok(answer) => {
                let kept = self.keep_answer(address, stored, provider, answer.tokens, wanted);
                (kept.await, true)
            }
            Err(TokenError::InvalidGrant) => (self.refused(&stored, address, wanted).await, true),
            Err(error) => {
                // Whoever sent an answer that cannot be read may have used the refresh token up.
                let unknown = matches!(
                    error,
                    TokenError::Unusable
                        | TokenError::Unavailable {
                            outcome_known: false,
                            ..
                        }
                );
                (Err(error.into()), !unknown)
            }
        }
    }

    /// R30: the sign-in ends only if the refresh token that was refused is still the one in the store.
    async fn refused(&self, stored: &Stored, address: Address, wanted: &Wanted) -> Answer {
        let target = Target::SignInAt(address, stored.generation);
        if self.end(target, Cause::RefreshRejected).await {
            return Err(ended());
        }
        let now = self.at(&address).await?;
        if self.serves(&now, wanted) {
            return Ok(now);
        }
        Err(Error::new(
            ErrorKind::ProviderUnavailable,
            "the sign-in's tokens changed during a refresh",
        ))
    }

    pub(super) async fn was_replaced(&self, address: &Address) -> bool {
        let now = self.0.store.get(address).await;
        matches!(now, Ok(Lookup::Gone(Some(Cause::Replaced))))
    }

    /// Whether there was something to end, or may have been.
    pub(super) async fn end(&self, target: Target, cause: Cause) -> bool {
        let correlation_id = Self::correlation_id();
        let evicted = self
            .evict(&[Order::new(target, cause)], &correlation_id)
            .await;
        let any = !evicted.is_empty();
        self.conclude_later(cause, &correlation_id, evicted);
        any
    }
}
