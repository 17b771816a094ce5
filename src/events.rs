//! What happened to somebody's sign-in, as structured events (R44, ASVS 16) and, with the feature `metrics`, as counters:
//! one function for each thing that can happen, so that its fields are the same wherever it does.

use crate::account::Account;
use crate::cause::Cause;
use crate::error::{Error, ErrorKind};
use crate::id::{AccountHash, Address, OperationId, Selector, SignInId};
use crate::report::{HookStatus, SignOutReport};

/// One more of a counter. Names and labels are texts of this crate, never of a request or a provider: their number is bounded.
fn count(name: &'static str, labels: &[(&'static str, &'static str)]) {
    #[cfg(feature = "metrics")]
    metrics::counter!(name, labels).increment(1);
    #[cfg(not(feature = "metrics"))]
    let _ = (name, labels);
}

/// Whose it is, as events name them: by a hash, which is the same in all of them, and by the subject where the app asked for
/// it in plain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    hash: &'a AccountHash,
    account: Option<&'a Account>,
    in_plain: bool,
}

impl<'a> Who<'a> {
    /// `in_plain` is the setting.
    pub(crate) fn new(hash: &'a AccountHash, account: &'a Account, in_plain: bool) -> Self {
        Self {
            hash,
            account: Some(account),
            in_plain,
        }
    }

    /// Where only the hash is known.
    pub(crate) fn unnamed(hash: &'a AccountHash) -> Self {
        Self {
            hash,
            account: None,
            in_plain: false,
        }
    }

    fn issuer(&self) -> Option<&'a str> {
        self.account.map(Account::issuer)
    }

    fn subject(&self) -> Option<&'a str> {
        let account = self.account.filter(|_| self.in_plain);
        account.map(Account::subject)
    }
}

/// The user was sent to the provider.
pub(crate) fn sign_in_started(issuer: &str, restarted: bool) {
    count("axum_signout_sign_ins_total", &[("outcome", "started")]);
    tracing::info!(
        target: "axum_signout::sign_in",
        issuer,
        restarted,
        outcome = "started",
        "sign-in started"
    );
}

/// Tokens are in the cache, and the session is saved.
pub(crate) fn signed_in(who: Who<'_>, sign_in: SignInId) {
    count("axum_signout_sign_ins_total", &[("outcome", "done")]);
    tracing::info!(
        target: "axum_signout::sign_in",
        account = %who.hash,
        issuer = who.issuer(),
        subject = who.subject(),
        %sign_in,
        outcome = "done",
        "signed in"
    );
}

/// The provider's answer was an error; `code` is the provider's, and has the form of one.
pub(crate) fn sign_in_refused(issuer: &str, code: &str) {
    count("axum_signout_sign_ins_total", &[("outcome", "refused")]);
    tracing::info!(
        target: "axum_signout::sign_in",
        issuer,
        code,
        outcome = "refused",
        "the provider refused a sign-in"
    );
}

/// It came to nothing for a reason of ours, of a store's, or because the provider's answer was not in order.
pub(crate) fn sign_in_failed(error: &Error) {
    count("axum_signout_sign_ins_total", &[("outcome", "failed")]);
    tracing::warn!(
        target: "axum_signout::sign_in",
        kind = error.kind().as_str(),
        error = %crate::error::Chain(error),
        outcome = "failed",
        "a sign-in failed"
    );
}

/// New tokens are in the cache.
pub(crate) fn refreshed(who: Who<'_>, sign_in: SignInId, rotated: bool) {
    count("axum_signout_refreshes_total", &[("outcome", "done")]);
    tracing::info!(
        target: "axum_signout::refresh",
        account = %who.hash,
        issuer = who.issuer(),
        subject = who.subject(),
        %sign_in,
        rotated,
        outcome = "done",
        "refreshed"
    );
}

/// There are none.
pub(crate) fn refresh_failed(who: Who<'_>, sign_in: SignInId, kind: ErrorKind) {
    count(
        "axum_signout_refreshes_total",
        &[("outcome", kind.as_str())],
    );
    tracing::info!(
        target: "axum_signout::refresh",
        account = %who.hash,
        %sign_in,
        outcome = kind.as_str(),
        "a refresh failed"
    );
}

/// The provider has answered a request for a token of the app itself; whether it is in the cache, or was evicted before it came.
pub(crate) fn app_token_obtained(issuer: &str, resource: Option<&str>, scopes: &str, kept: bool) {
    let outcome = if kept { "done" } else { "evicted" };
    count("axum_signout_app_tokens_total", &[("outcome", outcome)]);
    tracing::info!(
        target: "axum_signout::app_token",
        issuer,
        resource,
        scopes,
        outcome,
        "app token obtained"
    );
}

/// There is none.
pub(crate) fn app_token_failed(
    issuer: &str,
    resource: Option<&str>,
    scopes: &str,
    kind: ErrorKind,
) {
    let outcome = kind.as_str();
    count("axum_signout_app_tokens_total", &[("outcome", outcome)]);
    tracing::warn!(
        target: "axum_signout::app_token",
        issuer,
        resource,
        scopes,
        outcome,
        "no app token"
    );
}

/// Tokens of the app itself have left the cache: the app evicted them, or there were too many.
pub(crate) fn app_tokens_evicted(issuer: &str, cause: Cause, tokens: usize) {
    count(
        "axum_signout_app_token_evictions_total",
        &[("cause", cause.as_str())],
    );
    tracing::info!(
        target: "axum_signout::app_token",
        issuer,
        %cause,
        tokens,
        outcome = "done",
        "app tokens evicted"
    );
}

/// The refreshes of several sign-ins failed in a row: others are put off. Or the first one after that was answered.
pub(crate) fn provider_outage(issuer: &str, over: bool) {
    let outcome = if over { "ended" } else { "began" };
    count(
        "axum_signout_provider_outages_total",
        &[("outcome", outcome)],
    );
    if over {
        tracing::info!(
            target: "axum_signout::provider",
            issuer,
            outcome,
            "the provider answers again"
        );
    } else {
        tracing::warn!(
            target: "axum_signout::provider",
            issuer,
            outcome,
            "the provider does not answer: refreshes are put off"
        );
    }
}

/// One sign-in's tokens have left the cache.
pub(crate) fn evicted(
    who: Who<'_>,
    sign_in: SignInId,
    cause: Cause,
    tokens: usize,
    correlation_id: &str,
) {
    count("axum_signout_evictions_total", &[("cause", cause.as_str())]);
    tracing::info!(
        target: "axum_signout::eviction",
        account = %who.hash,
        issuer = who.issuer(),
        subject = who.subject(),
        %sign_in,
        %cause,
        tokens,
        correlation_id,
        outcome = "done",
        "evicted"
    );
}

/// A sign-out is over, wherever it came from.
pub(crate) fn signed_out(report: &SignOutReport) {
    let cause = report.cause;
    let outcome = match report.pending {
        0 => "done",
        _ => "pending",
    };
    let mut accounts: Vec<String> = Vec::new();
    for one in &report.evicted {
        let account = one.account.to_string();
        if !accounts.contains(&account) {
            accounts.push(account);
        }
    }
    count(
        "axum_signout_sign_outs_total",
        &[("cause", cause.as_str()), ("outcome", outcome)],
    );
    tracing::info!(
        target: "axum_signout::sign_out",
        %cause,
        account = accounts.join(" "),
        correlation_id = report.correlation_id,
        evicted = report.evicted.len(),
        pending = report.pending,
        session = ?report.session,
        provider = ?report.provider,
        outcome,
        "signed out"
    );
}

/// A session came back whose sign-in has ended meanwhile: the request is anonymous, and the session's data goes.
pub(crate) fn session_found_ended(of: &Address, cause: Option<Cause>) {
    tracing::info!(
        target: "axum_signout::session",
        account = %of.account,
        sign_in = %of.id,
        cause = cause.map(Cause::as_str),
        outcome = "emptied",
        "the session's sign-in has ended"
    );
}

/// What the provider made of a token that the outbox held.
pub(crate) fn revocation(item: OperationId, hint: &'static str, outcome: &'static str) {
    count("axum_signout_revocations_total", &[("outcome", outcome)]);
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "axum_signout::revocation",
                %item,
                hint,
                outcome,
                "revocation"
            )
        };
    }
    match outcome {
        "done" => event!(info),
        "unsupported" | "no endpoint" => event!(debug),
        _ => event!(warn),
    }
}

/// A provider's back-channel call was answered with 200, or with 400 for this reason. `signed`: by the provider, so that it was
/// no stranger's.
pub(crate) fn logout_token(refused: Option<&'static str>, signed: bool, correlation_id: &str) {
    let name = "axum_signout_logout_tokens_total";
    match refused {
        None => {
            count(name, &[("outcome", "accepted"), ("reason", "")]);
            tracing::info!(
                target: "axum_signout::back_channel",
                correlation_id,
                outcome = "accepted",
                "logout token accepted"
            );
        }
        Some(reason) => {
            count(name, &[("outcome", "refused"), ("reason", reason)]);
            macro_rules! event {
                ($level:ident) => {
                    tracing::$level!(
                        target: "axum_signout::back_channel",
                        correlation_id,
                        outcome = "refused",
                        reason,
                        "logout token refused"
                    )
                };
            }
            // Anyone can send what no provider has signed, any number of times: not a reason to fill a log.
            match signed {
                true => event!(warn),
                false => event!(debug),
            }
        }
    }
}

/// A provider's page loaded ours: what came of it, and why not more. Who is signed out by it is told as for every sign-out.
pub(crate) fn front_channel(outcome: &'static str, reason: &'static str) {
    let name = "axum_signout_front_channel_total";
    count(name, &[("outcome", outcome), ("reason", reason)]);
    macro_rules! event {
        ($level:ident) => {
            tracing::$level!(
                target: "axum_signout::front_channel",
                outcome,
                reason,
                "front-channel logout"
            )
        };
    }
    // What changes nothing anyone can send, any number of times: not a reason to fill a log.
    match outcome {
        "ignored" | "refused" => event!(debug),
        _ => event!(info),
    }
}

/// Another site asked for a sign-in to be prolonged.
pub(crate) fn prolonging_refused() {
    tracing::info!(
        target: "axum_signout::session",
        outcome = "refused",
        "a request of another site to prolong a sign-in was refused"
    );
}

/// A sign-out that another site asked for.
pub(crate) fn sign_out_refused() {
    count("axum_signout_sign_outs_refused_total", &[]);
    tracing::info!(
        target: "axum_signout::sign_out",
        outcome = "refused",
        "a sign-out that another site asked for was refused"
    );
}

/// Whose an eviction is that the store has not confirmed.
#[derive(Clone, Copy)]
pub(crate) enum Named<'a> {
    Account(&'a AccountHash),
    /// Whose they are is known when the store answers.
    Selector(&'a Selector),
    /// A session that could not be read: the same.
    Session,
}

impl Named<'_> {
    fn account(&self) -> Option<tracing::field::DisplayValue<&AccountHash>> {
        match self {
            Self::Account(hash) => Some(tracing::field::display(*hash)),
            Self::Selector(_) | Self::Session => None,
        }
    }

    fn selector(&self) -> Option<tracing::field::DisplayValue<&Selector>> {
        match self {
            Self::Account(_) | Self::Session => None,
            Self::Selector(selector) => Some(tracing::field::display(*selector)),
        }
    }
}

/// What becomes of an eviction that the store has not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retried {
    /// This node holds the tokens back, and tries again.
    New,
    /// As it does already, for an earlier one that means the same.
    Joined,
    /// Too many are pending.
    No,
}

/// The store has not confirmed an eviction.
pub(crate) fn eviction_pending(
    of: Named<'_>,
    cause: Cause,
    correlation_id: &str,
    error: &dyn std::fmt::Display,
    retried: Retried,
) {
    let outcome = match retried {
        Retried::New => {
            pending_evictions(1.0);
            "pending"
        }
        Retried::Joined => "pending",
        Retried::No => "not retried",
    };
    tracing::error!(
        target: "axum_signout::eviction",
        account = of.account(),
        selector = of.selector(),
        %cause,
        correlation_id,
        %error,
        outcome,
        "eviction pending"
    );
}

/// It has; or it is given up, when the sign-in has ended by itself.
pub(crate) fn eviction_settled(of: Named<'_>, cause: Cause, correlation_id: &str, given_up: bool) {
    pending_evictions(-1.0);
    let outcome = if given_up { "given up" } else { "done" };
    tracing::info!(
        target: "axum_signout::eviction",
        account = of.account(),
        selector = of.selector(),
        %cause,
        correlation_id,
        outcome,
        "pending eviction settled"
    );
}

/// What is measured now and then. The name is a text of a program, never of a request.
#[cfg(feature = "metrics")]
pub(crate) fn gauge(name: &'static str, value: f64) {
    metrics::gauge!(name).set(value);
}

/// The whole of what was counted elsewhere.
#[cfg(feature = "metrics")]
pub(crate) fn total(name: &'static str, total: u64) {
    metrics::counter!(name).absolute(total);
}

/// A connection to Redis: `made`, `failed` or `lost`.
#[cfg(feature = "redis")]
pub(crate) fn redis_connection(outcome: &'static str) {
    count(
        "axum_signout_redis_connections_total",
        &[("outcome", outcome)],
    );
}

fn pending_evictions(change: f64) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("axum_signout_pending_evictions").increment(change);
    #[cfg(not(feature = "metrics"))]
    let _ = change;
}

/// A hook did not come to a good end.
pub(crate) fn hook_failed(point: &'static str, index: usize, status: HookStatus, error: &str) {
    let outcome = status.as_str();
    count(
        "axum_signout_hook_failures_total",
        &[("point", point), ("outcome", outcome)],
    );
    tracing::error!(
        target: "axum_signout::hook",
        point,
        index,
        outcome,
        error,
        "a hook failed"
    );
}

/// The hooks for every node are not told of a sign-in that ended.
pub(crate) fn notice_dropped(why: &'static str) {
    count(
        "axum_signout_hook_failures_total",
        &[("point", "evicted_everywhere"), ("outcome", "Dropped")],
    );
    tracing::error!(
        target: "axum_signout::hook",
        point = "evicted_everywhere",
        outcome = "Dropped",
        error = why,
        "a hook was not called"
    );
}

/// The provider's keys were asked for.
pub(crate) fn keys_fetched(issuer: &str, error: Option<&dyn std::fmt::Display>) {
    match error {
        None => {
            count("axum_signout_key_fetches_total", &[("outcome", "done")]);
            tracing::debug!(
                target: "axum_signout::provider",
                issuer,
                outcome = "done",
                "the provider's keys were read"
            );
        }
        Some(error) => {
            count("axum_signout_key_fetches_total", &[("outcome", "failed")]);
            tracing::warn!(
                target: "axum_signout::provider",
                issuer,
                %error,
                outcome = "failed",
                "the provider's keys could not be read"
            );
        }
    }
}

/// An API refused a token that a handler's call carried; `outcome` is what came of it.
#[cfg(feature = "reqwest")]
pub(crate) fn api_refused(origin: &str, outcome: &'static str) {
    count("axum_signout_api_refusals_total", &[("outcome", outcome)]);
    tracing::debug!(
        target: "axum_signout::api",
        origin,
        outcome,
        "an API refused a token"
    );
}
