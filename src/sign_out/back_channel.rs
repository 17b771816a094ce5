//! The provider calls: OpenID Connect Back-Channel Logout 1.0, sections 2.5 to 2.8.
//!
//! 1. The form is read, within limits (R18). It needs no session, no cookie and no defence against forged requests: only
//!    the token in it counts.
//! 2. The issuer that the token claims picks one of the configured providers; everything is then verified by that one's
//!    rules and keys (R19 to R21, R26, R27).
//! 3. The token's `jti` is claimed, so that it is worked on once at a time (R22).
//! 4. The sign-ins it means are evicted, on every node (R23). Hooks and revocation follow later (R25).
//! 5. Only when the store has confirmed all of it is the claim settled and the answer 200 (R24): until then the provider
//!    may send the same token again.

use std::borrow::Cow;
use std::future::{Future as _, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use memchr::memchr2;
use smallvec::SmallVec;

use crate::account::Account;
use crate::cache::{Evicted, Order};
use crate::cause::Cause;
use crate::core::Core;
use crate::events;
use crate::id::{ClaimName, OperationId, Selector};
use crate::jwt::jws::Jws;
use crate::jwt::logout_token::{
    LogoutTokenError, UnverifiedLogoutToken, VerifiedLogoutToken, Whom,
};
use crate::provider::VerifyError;
use crate::store::{Claim, Lookup, StoreErrorKind, Target};

/// How long a claim is held for work that is under way: longer than that takes with a store that is slow, and short enough
/// that the provider can try again soon after a node died over it.
const HOLD: Duration = Duration::from_secs(60);

/// How many members of a session are looked at at the same time.
const AT_ONCE: usize = 64;

/// Why a call is answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The word for the answer's `error` (section 2.8).
    pub(crate) error: &'static str,
    /// The reason as a word, for the answer, traces and counters.
    pub(crate) reason: &'static str,
}

impl Refusal {
    /// It is no use to send it again.
    const fn invalid(reason: &'static str) -> Self {
        let error = "invalid_request";
        Self { error, reason }
    }

    /// It may do later.
    const fn for_now(reason: &'static str) -> Self {
        let error = "temporarily_unavailable";
        Self { error, reason }
    }
}

/// The logout token of a request (R18). `None` is a body that could not be read.
pub(crate) fn logout_token_of<'a>(
    headers: &HeaderMap,
    body: Option<&'a [u8]>,
) -> Result<Cow<'a, str>, Refusal> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (kinds.next(), kinds.next()) else {
        return Err(Refusal::invalid("content_type"));
    };
    let kind = kind.to_str().unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(Refusal::invalid("content_type"));
    }
    let body = body.and_then(|body| std::str::from_utf8(body).ok());
    let body = body.ok_or(Refusal::invalid("body"))?;
    let mut fields: SmallVec<[_; 2]> = body.split('&').filter_map(field).collect();
    fields.sort_unstable();
    // With a doubled one, two readers could see two different requests.
    if fields.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Refusal::invalid("doubled_parameter"));
    }
    let token = fields.into_iter().find(|(name, _)| name == "logout_token");
    match token {
        Some((_, token)) if !token.is_empty() => Ok(token),
        _ => Err(Refusal::invalid("no_logout_token")),
    }
}

/// One field of a form. What has nothing to decode, as a token never has, is taken as it stands: the decoder goes through it byte
/// by byte several times.
fn field(text: &str) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    if memchr2(b'%', b'+', text.as_bytes()).is_some() {
        return url::form_urlencoded::parse(text.as_bytes()).next();
    }
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (!text.is_empty()).then_some((name.into(), value.into()))
}

/// Answers a call: `Ok` is 200.
pub(crate) async fn back_channel(
    core: &Arc<Core>,
    headers: &HeaderMap,
    body: Option<&[u8]>,
) -> Result<(), Refusal> {
    let correlation_id = OperationId::random().to_string();
    let (done, signed) = match verified(core, headers, body).await {
        Ok(token) => {
            let done = carry_out(core, token, correlation_id.clone()).await;
            (done, true)
        }
        Err(refusal) => (Err(refusal), false),
    };
    let refused = done.as_ref().err().map(|refusal| refusal.reason);
    events::logout_token(refused, signed, &correlation_id);
    done
}

async fn verified(
    core: &Core,
    headers: &HeaderMap,
    body: Option<&[u8]>,
) -> Result<VerifiedLogoutToken, Refusal> {
    let token = logout_token_of(headers, body)?;
    let invalid = |error: LogoutTokenError| Refusal::invalid(error.as_str());
    let token = Jws::parse(&token).map_err(|error| invalid(error.into()))?;
    let token = UnverifiedLogoutToken::read(&token).map_err(invalid)?;
    let issuer = token.claimed_issuer().map_err(invalid)?;
    // Promise 7: the configuration says who may be believed.
    let provider = core.cache.provider(issuer);
    let provider = provider.ok_or(Refusal::invalid("issuer"))?;
    // Held for longer than a moment only while keys are fetched, which strangers can make any number of calls wait for (R26).
    let Ok(_waiting) = core.back_channel_waiting.try_acquire() else {
        return Err(Refusal::for_now("busy"));
    };
    match provider.verify_logout_token(&token).await {
        Ok(token) => Ok(token),
        // The provider may have begun to sign with a key that is not known here yet.
        Err(VerifyError::NoNewerKeys(error)) => Err(Refusal::for_now(error.as_str())),
        Err(VerifyError::Refused(error)) => Err(invalid(error)),
        Err(VerifyError::Unavailable(_)) => Err(Refusal::for_now("no_keys")),
    }
}

/// The provider may hang up, and what has begun goes on: where the store has to be waited for, in a task of its own.
async fn carry_out(
    core: &Arc<Core>,
    token: VerifiedLogoutToken,
    correlation_id: String,
) -> Result<(), Refusal> {
    let (tasks, core) = (core.cache.tasks(), core.clone());
    let stopped = |correlation_id: &str| {
        tracing::error!(correlation_id, "a back-channel logout was stopped halfway");
        Err(Refusal::for_now("internal"))
    };
    let name = correlation_id.clone();
    let work = async move {
        let work = AssertUnwindSafe(once(&core, &token, &correlation_id));
        let done = work.catch_unwind().await;
        done.unwrap_or_else(|_| stopped(&correlation_id))
    };
    let mut work = Box::pin(tasks.track_future(work));
    // A store in memory answers at once: nobody can hang up before the end, and a task would only cost.
    match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        Poll::Ready(done) => done,
        Poll::Pending => {
            let done = tokio::spawn(work).await;
            done.unwrap_or_else(|_| stopped(&name))
        }
    }
}

/// R22: one call at a time works on a token, and none after one that succeeded.
async fn once(
    core: &Core,
    token: &VerifiedLogoutToken,
    correlation_id: &str,
) -> Result<(), Refusal> {
    let store = core.cache.store();
    let parts = [token.issuer(), token.client_id(), token.id()].map(str::as_bytes);
    let (name, holder) = (ClaimName::of("logout-token", &parts), OperationId::random());
    let mut full = false;
    let claimed = match store.claim(&name, holder, HOLD).await {
        Ok(Claim::Held) => true,
        // Section 2.6: a token that was used is refused. One that another call works on is not done yet, so it cannot be
        // answered with 200 either.
        Ok(Claim::Taken) => return Err(Refusal::invalid("replayed")),
        // A5: neither a store that is away nor one that others have filled must leave the tokens for good. Whether the token
        // was used before cannot be told, so the eviction is the safe side, and the answer is not 200 (R22).
        Err(error) => {
            tracing::error!(%error, correlation_id, "a logout token could not be claimed");
            full = error.kind() == StoreErrorKind::Full;
            false
        }
    };
    let result = match evicted(core, token, correlation_id).await {
        Ok(evicted) => {
            let pending = evicted.pending;
            // R25: neither hooks nor revocation hold the answer up.
            core.cache
                .conclude_later(Cause::BackChannel, correlation_id, evicted);
            match claimed && pending == 0 {
                true => Ok(()),
                false if full => Err(Refusal::for_now("too_many_claims")),
                false => Err(Refusal::for_now("store")),
            }
        }
        Err(refusal) => Err(refusal),
    };
    if result.is_err() {
        release(core, name, holder).await;
        return result;
    }
    let now = core.cache.clock().wall();
    let keep = token.good_until().since(now);
    match store.settle(&name, holder, keep).await {
        Ok(true) => {}
        // What was asked for is done; the token could be used once more, for as long as it is good.
        Ok(false) => tracing::warn!(correlation_id, "a logout token's claim had ended"),
        Err(error) => tracing::warn!(%error, correlation_id, "a logout token's claim was not kept"),
    }
    Ok(())
}

/// Gives the claim back, so that the provider's next attempt is heard. A store that is away is asked a few times more; at
/// the latest the claim ends by itself.
async fn release(core: &Core, name: ClaimName, holder: OperationId) {
    if core.cache.store().release(&name, holder).await.is_ok() {
        return;
    }
    let cache = core.cache.clone();
    core.cache.tasks().spawn(async move {
        for pause in [1, 2, 4] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            if cache.store().release(&name, holder).await.is_ok() {
                return;
            }
        }
    });
}

/// R23: takes out what the token means.
async fn evicted(
    core: &Core,
    token: &VerifiedLogoutToken,
    correlation_id: &str,
) -> Result<Evicted, Refusal> {
    let (issuer, client_id) = (token.issuer(), token.client_id());
    let (cause, iat) = (Cause::BackChannel, Some(token.issued_at().as_secs()));
    let selector = match token.whom() {
        Whom::Session { sid, subject } => {
            let selector = Selector::sid(issuer, client_id, sid);
            if let Some(subject) = subject {
                check_subject(core, &selector, subject).await?;
            }
            selector
        }
        Whom::Subject(subject) if core.config.identity.is_empty() => {
            let account = Account::new(issuer, &**subject).hash(&[]);
            let order = Order {
                target: Target::Account(account),
                cause,
                logout_iat: iat,
            };
            return Ok(core.cache.evict(&[order], correlation_id).await);
        }
        // The account's hash is made of other claims, which a logout token does not have.
        Whom::Subject(subject) => Selector::subject(issuer, client_id, subject),
    };
    let cache = &core.cache;
    Ok(cache
        .evict_selected(&selector, cause, iat, correlation_id)
        .await)
}

/// Whether the session is that subject's, as far as the store tells; nothing was changed before. If it is away, the
/// provider's word that the session has ended is taken: it is signed, and the eviction will be pending.
async fn check_subject(core: &Core, selector: &Selector, subject: &str) -> Result<(), Refusal> {
    let store = core.cache.store();
    let members = match store.members(selector).await {
        Ok(members) => members,
        Err(error) => {
            tracing::warn!(%error, "whose session is logged out cannot be checked");
            return Ok(());
        }
    };
    for some in members.chunks(AT_ONCE) {
        for found in join_all(some.iter().map(|member| store.get(member))).await {
            match found {
                Ok(Lookup::Live(stored)) if stored.entry.account.subject() != subject => {
                    return Err(Refusal::invalid("subject"));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "whose session is logged out cannot be checked");
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_form_are_those_that_a_decoder_reads_r18() {
        let rows = [
            "",
            "&",
            "=",
            "a",
            "a=",
            "=a",
            "a=b",
            "a=b=c",
            "&a=b&&c=d&",
            "a=b;c=d",
            "a=b+c",
            "a+b=c",
            "%61=%62",
            "a%3Db=c%26d",
            "a=%",
            "a=%zz",
            "a=%ff",
            "é=ü",
            "logout%5Ftoken=e30.e30%2Ee30&state=x",
        ];
        for row in rows {
            let fields: Vec<_> = row.split('&').filter_map(field).collect();
            let decoded: Vec<_> = url::form_urlencoded::parse(row.as_bytes()).collect();
            assert_eq!(fields, decoded, "{row}");
        }
    }
}
