//! What has happened in a schedule, for invariants that need both the store and the provider.

use std::collections::{BTreeMap, BTreeSet};

use axum_signout::store::RetainedTokens;
use axum_signout::{Cause, SignInId, TokenSet};

/// For so many turns of the scheduler a token may be on its way from an answer to the store: calls of the store take six at most,
/// and three follow each other.
const ON_THE_WAY: u64 = 60;

#[derive(Default)]
pub struct Ledger {
    /// Turns that every task has had.
    pub turn: u64,
    /// Calls of the store that are being made.
    pub calls: usize,
    /// Whether those take as long as it pleases the schedule.
    pub calls_wait: bool,
    /// When a call failed that tokens take on their way into the store: who writes them tries again, after a while.
    pub store_failed: Option<u64>,
    /// Tokens that wait in the outbox to be revoked.
    pub outbox: BTreeSet<String>,
    /// Why each sign-in left the store.
    pub left: BTreeMap<SignInId, Cause>,
    /// How often each of the things happened that a schedule is to bring about.
    pub tally: BTreeMap<&'static str, usize>,
}

impl Ledger {
    pub fn happened(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    pub fn may_be_under_way_since(&self, read: u64) -> bool {
        self.turn - read <= ON_THE_WAY
            || (self.calls_wait && self.calls > 0)
            || self.store_failed.is_some_and(|failed| failed >= read)
    }

    pub fn retained(&mut self, tokens: &TokenSet) {
        self.outbox.extend(texts(tokens));
    }

    /// Of an answer that nothing here can keep.
    pub fn discarded(&mut self, tokens: &TokenSet) {
        self.retained(tokens);
        self.happened("an answer that was discarded");
    }

    pub fn done(&mut self, retained: &RetainedTokens) {
        for text in texts(&retained.tokens) {
            self.outbox.remove(&text);
        }
    }
}

fn texts(tokens: &TokenSet) -> impl Iterator<Item = String> {
    let refresh = tokens.refresh_token().map(|token| token.secret());
    let access = tokens.access_tokens().iter().map(|token| token.secret());
    refresh.into_iter().chain(access).map(str::to_owned)
}

/// Whether somebody wanted the sign-in to end, so that its tokens are revoked.
pub fn is_by_wish(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::UserSignOut | Cause::Operator | Cause::SignOutOthers | Cause::BackChannel
    )
}
