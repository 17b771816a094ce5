//! One refresh at a time for each sign-in (R29), and what becomes of its answer (R28, R30, R31).
//!
//! The lease and the generation of the store decide; the flights here only save work within one process. A refresh runs in
//! a task of its own, so that the request that started it may go away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::evict::Order;
use super::inner::{Cache, selectors};
use super::live::Flag;
use super::opened::{ended, pick};
use crate::account::Account;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::config::RevocationPolicy;
use crate::error::{Error, ErrorKind};
use crate::id::{AccountHash, Address, ClaimName, OperationId, Selector};
use crate::jwt::id_token::Expectations;
use crate::provider::{Provider, TokenError, VerifyError};
use crate::store::{
    Entry, Generation, Lease, Lookup, Registered, Replaced, RetainedTokens, Started, StoreError,
    Stored, Target,
};
use crate::token::TokenSet;

/// What a refresh is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    scopes: Vec<String>,
    resource: Option<String>,
}

impl Wanted {
    fn new(scopes: &[&str], resource: Option<&str>) -> Self {
        let mut scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
        scopes.sort_unstable();
        scopes.dedup();
        Self {
            scopes,
            resource: resource.map(str::to_owned),
        }
    }

    fn scopes(&self) -> Vec<&str> {
        self.scopes.iter().map(String::as_str).collect()
    }
}

type Answer = Result<Stored, Error>;
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

/// How often a write of refreshed tokens is repeated, under the same name, and how long the pauses are.
const STORE_TRIES: u32 = 5;
const STORE_PAUSE: Duration = Duration::from_millis(200);

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

    fn serves(&self, stored: &Stored, wanted: &Wanted) -> bool {
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
            answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a refresh panicked")))
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

    async fn at(&self, address: &Address) -> Answer {
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
        if flag.ended() {
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

    async fn was_replaced(&self, address: &Address) -> bool {
        let now = self.0.store.get(address).await;
        matches!(now, Ok(Lookup::Gone(Some(Cause::Replaced))))
    }

    /// Whether there was something to end, or may have been.
    async fn end(&self, target: Target, cause: Cause) -> bool {
        let correlation_id = OperationId::random().to_string();
        let evicted = self
            .evict(&[Order::new(target, cause)], &correlation_id)
            .await;
        let any = !evicted.evictions.is_empty() || evicted.pending > 0;
        let cache = self.clone();
        self.0
            .tasks
            .spawn(async move { cache.tell(&evicted.evictions).await });
        any
    }

    /// Every token whose answer arrived ends in the cache or in the outbox. The refresh token that was sent is spent and
    /// must not be sent again, so where its successor cannot be kept the sign-in ends.
    async fn keep_answer(
        &self,
        address: Address,
        stored: Stored,
        provider: &Provider,
        mut answer: TokenSet,
        wanted: &Wanted,
    ) -> Answer {
        let entry = stored.entry.clone();
        let kept = match self.checked_account(provider, &entry, &mut answer).await {
            Ok((account, issued)) => {
                self.write(address, stored, account, issued, &answer, wanted)
                    .await
            }
            // Tokens of who knows whom.
            Err(error) => Err(Lost::SignIn(error, Cause::RefreshRejected)),
        };
        match kept {
            Ok(stored) => Ok(stored),
            Err(Lost::Answer(instead)) => {
                // The sign-in that goes on, or the one that took its place, may hang on the same grant.
                if instead.is_err() && !self.was_replaced(&address).await {
                    self.discard(&entry, answer).await;
                }
                instead
            }
            Err(Lost::SignIn(error, cause)) => {
                self.discard(&entry, answer).await;
                self.end(Target::SignIn(address), cause).await;
                Err(error)
            }
        }
    }

    async fn write(
        &self,
        address: Address,
        stored: Stored,
        account: Account,
        issued: Option<i64>,
        answer: &TokenSet,
        wanted: &Wanted,
    ) -> Result<Stored, Lost> {
        let now = self.0.clock.wall();
        let operation = OperationId::random();
        let mut base = stored;
        let mut tries = 0;
        let (added, lost) = loop {
            let mut next = merged(&base.entry, answer, account.clone(), wanted, now);
            let added = new_selectors(&base.entry, &next, !self.0.config.identity.is_empty());
            next.selectors = base.entry.selectors.iter().chain(&added).cloned().collect();
            let next = Arc::new(next);
            let replaced = match self.register(&added, &address, issued).await {
                Ok(Registered::Done) => {
                    let store = &self.0.store;
                    store
                        .replace_if(&address, base.generation, next.clone(), operation)
                        .await
                }
                Ok(Registered::Refused) => {
                    break (added, Lost::SignIn(ended(), Cause::BackChannel));
                }
                Err(error) => Err(error),
            };
            let error = match replaced {
                Ok(Replaced::Done(generation)) => {
                    tracing::info!(
                        target: "axum_signout::refresh",
                        sign_in = %address.id,
                        rotated = answer.refresh_token.is_some(),
                        "refreshed"
                    );
                    return Ok(Stored {
                        entry: next,
                        generation,
                        ..base
                    });
                }
                Ok(Replaced::Gone) => break (added, Lost::Answer(Err(ended()))),
                Ok(Replaced::Changed) => match self.0.store.get(&address).await {
                    Ok(Lookup::Moved | Lookup::Gone(_)) => {
                        break (added, Lost::Answer(Err(ended())));
                    }
                    // Someone changed the entry without the lease, such as its label; a changed refresh token means
                    // that this answer is the older one.
                    Ok(Lookup::Live(stored)) if same_refresh_token(&stored.entry, &base.entry) => {
                        base = stored;
                        continue;
                    }
                    Ok(Lookup::Live(stored)) => break (added, Lost::Answer(Ok(stored))),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tries += 1;
            if tries > STORE_TRIES {
                break (added, Lost::SignIn(error.into(), Cause::RefreshRejected));
            }
            tracing::warn!(%error, "refreshed tokens could not be stored yet");
            tokio::time::sleep(STORE_PAUSE * tries).await;
        };
        // What was registered for the write leads nowhere.
        for selector in &added {
            if let Err(error) = self.0.store.unregister(selector, &address).await {
                tracing::warn!(%error, "a selector keeps the address of no sign-in");
            }
        }
        Err(lost)
    }

    /// R28: a new ID token must be of the same issuer, subject and audience. The account with the new claims, or the old
    /// one where there is no new token; and when the new one was issued.
    async fn checked_account(
        &self,
        provider: &Provider,
        entry: &Entry,
        answer: &mut TokenSet,
    ) -> Result<(Account, Option<i64>), Error> {
        let Some(id_token) = answer.id_token.clone() else {
            return Ok((entry.account.clone(), None));
        };
        let held = entry.tokens.id_token();
        let expected = Expectations::refresh(entry.account.subject(), held);
        let verified = match provider.verify_id_token(&id_token, &expected).await {
            Ok(verified) => verified,
            // Without keys nothing can be said about it. The token endpoint answered over TLS, so the other tokens are
            // kept; the claims stay those that were verified.
            Err(VerifyError::Unavailable(_)) => {
                answer.id_token = None;
                return Ok((entry.account.clone(), None));
            }
            Err(error) => return Err(error.into()),
        };
        let mut account = entry.account.clone();
        if let Some(sid) = verified.sid() {
            account = account.with_sid(sid);
        }
        // Claims that the app gave stay the app's.
        if !account.has_claims() || account.reads_id_token() {
            account = account.with_id_token(id_token);
        }
        Ok((account, Some(verified.issued_at().as_secs())))
    }

    /// The provider may name the session anew with a refresh: then a logout by the new name must find the sign-in, and
    /// one that came while the answer was on its way has ended it.
    async fn register(
        &self,
        added: &[Selector],
        address: &Address,
        issued: Option<i64>,
    ) -> Result<Registered, StoreError> {
        let started = Started {
            at: None,
            id_token_iat: issued,
        };
        for selector in added {
            let registered = self.0.store.register(selector, address, &started).await?;
            if registered == Registered::Refused {
                return Ok(registered);
            }
        }
        Ok(Registered::Done)
    }

    async fn discard(&self, entry: &Entry, tokens: TokenSet) {
        self.discard_tokens(entry.account.issuer(), entry.client_id.clone(), tokens)
            .await;
    }

    /// R31: tokens that no entry holds go to the provider to be revoked.
    pub(crate) async fn discard_tokens(&self, issuer: &str, client_id: Arc<str>, tokens: TokenSet) {
        if self.0.config.revocation == RevocationPolicy::Never {
            return;
        }
        // A first sign-in that is refused has started nothing yet.
        self.start_background();
        let id = OperationId::random();
        // Whose they are does not matter any more: the name of the item picks the bucket.
        let account = AccountHash::of(&[b"discarded", id.as_bytes()]);
        let retained = RetainedTokens {
            issuer: issuer.into(),
            client_id,
            tokens,
        };
        match self.0.store.outbox_put(id, &account, retained).await {
            Ok(()) => self.0.outbox.notify_one(),
            Err(error) => tracing::error!(%error, "tokens that were not kept are not revoked"),
        }
    }
}

/// What becomes of an answer that was not kept.
enum Lost {
    /// It alone is given up; this is what its caller gets instead.
    Answer(Answer),
    /// The sign-in ends with it.
    SignIn(Error, Cause),
}

fn new_selectors(old: &Entry, next: &Entry, by_subject: bool) -> Vec<Selector> {
    if old.account.sid() == next.account.sid() {
        return Vec::new();
    }
    let mut wanted = selectors(&next.account, &next.client_id, by_subject);
    wanted.retain(|selector| !old.selectors.contains(selector));
    wanted
}

fn same_refresh_token(one: &Entry, two: &Entry) -> bool {
    match (one.tokens.refresh_token(), two.tokens.refresh_token()) {
        (Some(one), Some(two)) => crate::id::same_secret(one.secret(), two.secret()),
        (None, None) => true,
        _ => false,
    }
}

/// The entry with what a refresh brought: the refresh token in the same write as the access token, the old one where there
/// is no new one (R28).
fn merged(
    old: &Entry,
    answer: &TokenSet,
    account: Account,
    wanted: &Wanted,
    now: Timestamp,
) -> Entry {
    let mut tokens = old.tokens.clone();
    if let Some(refresh) = &answer.refresh_token {
        tokens.refresh_token = Some(refresh.clone());
    }
    if let Some(id_token) = &answer.id_token {
        tokens.id_token = Some(id_token.clone());
    }
    let whole = wanted.scopes.is_empty() && wanted.resource.is_none();
    for token in &answer.access_tokens {
        if whole && !tokens.access_tokens.is_empty() {
            // The token of the sign-in itself, whatever scopes it has by now; where the answer does not name them,
            // they are what they were (RFC 6749 section 6).
            let first = match token.scopes().next() {
                Some(_) => token.clone(),
                None => token.clone().with_scopes(tokens.access_tokens[0].scopes()),
            };
            tokens.access_tokens[0] = first;
        } else {
            tokens.insert(token.clone());
        }
    }
    tokens.stamp(now);
    Entry {
        account,
        tokens,
        ..old.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Lifetimes;
    use crate::token::{AccessToken, IdToken};

    fn entry() -> Entry {
        Entry {
            account: Account::new("https://issuer", "ann"),
            client_id: "client".into(),
            tokens: TokenSet::new()
                .with_refresh_token("old-refresh")
                .with_id_token(IdToken::new("old-id"))
                .with_access_token(AccessToken::bearer("first").with_scopes(["openid", "mail"])),
            lifetimes: Lifetimes {
                idle: Duration::from_secs(1),
                absolute: Duration::from_secs(1),
            },
            selectors: Box::default(),
            label: None,
        }
    }

    fn refresh(entry: &Entry) -> &str {
        entry.tokens.refresh_token().unwrap().secret()
    }

    #[test]
    fn what_an_answer_leaves_out_stays_r28() {
        let old = entry();
        let answer = TokenSet::new().with_access_token(AccessToken::bearer("second"));
        let wanted = Wanted::new(&[], None);
        let next = merged(
            &old,
            &answer,
            old.account.clone(),
            &wanted,
            Timestamp::default(),
        );
        assert_eq!(refresh(&next), "old-refresh");
        assert_eq!(next.tokens.id_token().unwrap().secret(), "old-id");
        let access: Vec<_> = next
            .tokens
            .access_tokens()
            .iter()
            .map(|t| t.secret())
            .collect();
        assert_eq!(
            access,
            ["second"],
            "the sign-in's own token is replaced, whatever its scopes"
        );
    }

    #[test]
    fn a_rotated_refresh_token_comes_with_the_access_token_r28() {
        let old = entry();
        let answer = TokenSet::new()
            .with_refresh_token("new-refresh")
            .with_access_token(AccessToken::bearer("files").with_scopes(["files"]));
        let wanted = Wanted::new(&["files"], None);
        let next = merged(
            &old,
            &answer,
            old.account.clone(),
            &wanted,
            Timestamp::default(),
        );
        assert_eq!(refresh(&next), "new-refresh");
        let access: Vec<_> = next
            .tokens
            .access_tokens()
            .iter()
            .map(|t| t.secret())
            .collect();
        assert_eq!(access, ["first", "files"]);
    }
}
