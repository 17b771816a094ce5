//! What a sign-out did.

use std::sync::Arc;

use serde::Serialize;

use crate::cause::Cause;
use crate::id::{AccountHash, SignInId};

/// What a sign-out did: promise 3, *says what happened*. It reaches the traces, the caller where there is one, and the hooks that
/// [`AuthBuilder::on_sign_out`](crate::AuthBuilder::on_sign_out) takes, and holds no secret.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SignOutReport {
    /// Why. A sign-in in [`evicted`](Self::evicted) can have another cause, if its time was up before.
    pub cause: Cause,
    /// The same for everything that this sign-out did, in hooks and traces.
    pub correlation_id: String,
    /// The sign-ins whose tokens left the cache.
    pub evicted: Vec<EvictedSignIn>,
    /// Evictions that the store did not confirm, each of one sign-in or of all that an account or a session at the provider has, or of a
    /// session that [could not be read](SessionOutcome::Unread): this
    /// node serves their tokens no more and goes on trying. Hooks are called once it has, and what left then is reported once more,
    /// under the same correlation id, or under that of an earlier sign-out that waits for the same.
    pub pending: usize,
    /// How many of those are *not* tried again, because 100,000 different ones (10,000 sessions) are pending on this node already. What requests hold
    /// at this moment ends; a request that comes later is served as long as the store has the sign-in. To be sent again.
    pub not_retried: usize,
    /// What became of the session.
    pub session: SessionOutcome,
    /// How each hook ended.
    pub hooks: Vec<HookOutcome>,
    /// What happens to the tokens at the provider.
    pub revocation: Revocation,
    /// Where the provider's own session stands.
    pub provider: ProviderOutcome,
}

impl SignOutReport {
    pub(crate) fn new(cause: Cause, correlation_id: String) -> Self {
        Self {
            cause,
            correlation_id,
            evicted: Vec::new(),
            pending: 0,
            not_retried: 0,
            session: SessionOutcome::None,
            hooks: Vec::new(),
            revocation: Revocation::None,
            provider: ProviderOutcome::NotAsked,
        }
    }

    /// Whether the sign-out found nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.evicted.is_empty()
            && self.pending == 0
            && self.session == SessionOutcome::None
            && self.provider == ProviderOutcome::NotAsked
    }

    /// How many tokens left the cache.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.evicted.iter().map(|evicted| evicted.tokens).sum()
    }
}

/// One sign-in that was evicted.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct EvictedSignIn {
    /// Which.
    pub sign_in: SignInId,
    /// The account's issuer.
    pub issuer: String,
    /// The account's subject.
    pub subject: String,
    /// Why.
    pub cause: Cause,
    /// How many tokens it had, downstream tokens included.
    pub tokens: usize,
    /// As events name the account.
    #[serde(skip)]
    pub(crate) account: AccountHash,
}

/// What became of the browser's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum SessionOutcome {
    /// There was none, or it goes on with a sign-in that took this one's place.
    None,
    /// Its browser did not ask for this, or had its answer already, as that of a WebSocket has: its data goes, and its cookie is
    /// removed or replaced, with its next request.
    AtNextRequest,
    /// Its data is gone and its cookie removed.
    Ended,
    /// Its data is gone, and a new session holds the accounts that stay signed in.
    Renewed,
    /// Its cookie is removed, but the session store could not delete the record, which opens nothing any more.
    NotDeleted,
    /// Its cookie is removed, but the session store could not read the record, so what sign-ins it names is not known yet. Where the session
    /// store is known (it is with `RedisSessionStore`, and others are named by
    /// [`AuthBuilder::session_store`](crate::AuthBuilder::session_store)) the session counts as one in [`SignOutReport::pending`]: this node
    /// remembers up to 10,000 of them, serves nothing that they name, and tries again, after 0.1 s and then less and less often, every 30 s
    /// at the last, for as long as a sign-in lives. Once it reads the session it evicts the sign-ins, tells hooks and reports under the
    /// same correlation id, and deletes the record. Other nodes serve a copy of the cookie until then. If the record is gone by then
    /// nothing is evicted, and the trace says so.
    ///
    /// Where it is not known, or with one more that is in [`SignOutReport::not_retried`], nothing is tried again: a copy of the cookie opens
    /// the sign-ins once the store is back, until they expire, unless the record could be deleted meanwhile.
    Unread,
}

/// How one call of a hook ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HookOutcome {
    /// Which hook point: `evicted`, `before_navigation`, `after_callback` or `signed_out`.
    pub point: &'static str,
    /// Which of its hooks, in the order in which they were added.
    pub index: usize,
    /// How it ended.
    pub status: HookStatus,
}

/// See [`HookOutcome`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum HookStatus {
    /// It returned without an error.
    Done,
    /// It returned an error.
    Failed,
    /// It was stopped at the time limit.
    TimedOut,
    /// It panicked.
    Panicked,
}

impl HookStatus {
    /// The name, as it appears in traces and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "Done",
            Self::Failed => "Failed",
            Self::TimedOut => "TimedOut",
            Self::Panicked => "Panicked",
        }
    }
}

/// What happens to the tokens at the provider (RFC 7009). Revocation runs after the answer, so a report can only say that
/// it is on its way; its end is a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Revocation {
    /// There was nothing to revoke, or it is switched off.
    None,
    /// So many sign-ins' tokens are in the outbox.
    Queued(usize),
    /// The provider has no `revocation_endpoint`.
    NoEndpoint,
}

/// Where the provider's own session stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum ProviderOutcome {
    /// Nobody was signed in, the request asked for a local sign-out only, the app stopped the navigation, or no browser was there
    /// that could be sent.
    NotAsked,
    /// The user is sent to this issuer's logout.
    Redirected {
        /// The issuer.
        issuer: Arc<str>,
    },
    /// The provider has no `end_session_endpoint`: its session goes on.
    NoEndpoint {
        /// The issuer.
        issuer: Arc<str>,
    },
    /// The provider's metadata could not be had: its session goes on.
    Unavailable {
        /// The issuer.
        issuer: Arc<str>,
    },
}

/// What was left when [`Auth::shutdown`](crate::Auth::shutdown) returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Whether all hooks and sign-outs under way came to their end within the time.
    pub finished: bool,
    /// Evictions that the store has not confirmed, the last time when this was called: those sign-ins are not served by this
    /// process, but by others, until their time is up.
    pub pending: usize,
    /// Tokens of so many sign-ins that are still to be revoked; `None` if the store did not answer. With a store that
    /// outlives the process, another node or the next start goes on with them.
    pub outbox: Option<usize>,
}
