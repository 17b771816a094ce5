//! What becomes of the answer to a refresh: every token of it ends in the cache or in the outbox (R28, R30, R31).

use std::sync::Arc;
use std::time::Duration;

use super::inner::{Cache, selectors};
use super::opened::ended;
use super::refresh::{Answer, Wanted};
use crate::account::Account;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::config::RevocationPolicy;
use crate::error::Error;
use crate::events;
use crate::id::{AccountHash, Address, OperationId, Selector};
use crate::jwt::id_token::Expectations;
use crate::provider::{Provider, VerifyError};
use crate::store::{
    Entry, Lookup, Registered, Replaced, RetainedTokens, Started, StoreError, Stored, Target,
};
use crate::token::TokenSet;

/// How often a write of refreshed tokens is repeated, under the same name, and how long the pauses are.
const STORE_TRIES: u32 = 5;
const STORE_PAUSE: Duration = Duration::from_millis(200);

impl Cache {
    /// Every token whose answer arrived ends in the cache or in the outbox. The refresh token that was sent is spent and
    /// must not be sent again, so where its successor cannot be kept the sign-in ends. Also whether the store knows of either.
    pub(super) async fn keep_answer(
        &self,
        address: Address,
        stored: Stored,
        provider: &Provider,
        mut answer: TokenSet,
        wanted: &Wanted,
    ) -> (Answer, bool) {
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
            Ok(stored) => (Ok(stored), true),
            Err(Lost::Answer(instead)) => {
                // The sign-in that goes on, or the one that took its place, may hang on the same grant.
                if instead.is_err() && !self.was_replaced(&address).await {
                    self.discard(&entry, answer).await;
                }
                (instead, true)
            }
            Err(Lost::SignIn(error, cause)) => {
                self.discard(&entry, answer).await;
                let end = self.end(Target::SignIn(address), cause).await;
                (Err(error), end.is_confirmed())
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
                    let who = self.who(&address.account, &next.account);
                    events::refreshed(who, address.id, answer.refresh_token.is_some());
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
            if self.0.pending.covers(address, added).is_some() {
                return Ok(Registered::Refused);
            }
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
        if self.retain(id, &account, &retained).await.is_ok() {
            return;
        }
        // Under the same name, so that what was done all the same is not done twice; and behind the caller's back.
        let cache = self.clone();
        self.0.tasks.spawn(async move {
            for tries in 1..=STORE_TRIES {
                tokio::select! {
                    () = tokio::time::sleep(STORE_PAUSE * 2_u32.pow(tries)) => {}
                    () = cache.0.stopped.cancelled() => {}
                }
                match cache.retain(id, &account, &retained).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(%error, "tokens that were not kept wait to be revoked")
                    }
                }
            }
            tracing::error!("tokens that were not kept are not revoked");
        });
    }

    async fn retain(
        &self,
        id: OperationId,
        account: &AccountHash,
        retained: &RetainedTokens,
    ) -> Result<(), StoreError> {
        let put = self.0.store.outbox_put(id, account, retained.clone());
        put.await?;
        self.0.outbox.notify_one();
        Ok(())
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

pub(super) fn same_refresh_token(one: &Entry, two: &Entry) -> bool {
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
    if let Some(refused) = &wanted.refused {
        // Left in its place, which says what it was for, and to be revoked with the others; but nobody is served it any more.
        let held = tokens.access_tokens.iter_mut();
        held.filter(|token| token.is(refused))
            .for_each(|token| token.end(now));
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
    use crate::cache::pick::Asked;
    use crate::id::TokenHash;
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
        let wanted = Wanted::new(Asked::of(&[], None));
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
        let wanted = Wanted::new(Asked::of(&["files"], None));
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
    #[test]
    fn a_refused_token_is_served_no_more_and_stays_to_be_revoked() {
        let old = entry();
        let refused = TokenHash::of(old.tokens.access_tokens()[0].as_secret());
        let asked = Asked::of(&["mail"], None);
        let wanted = Wanted::new(Asked {
            refused: Some(refused),
            ..asked
        });
        let answer =
            TokenSet::new().with_access_token(AccessToken::bearer("mail").with_scopes(["mail"]));
        let now = Timestamp::from_secs(1000);
        let next = merged(&old, &answer, old.account.clone(), &wanted, now);
        let valid = |token: &AccessToken| token.is_valid_at(now, Duration::ZERO);
        let access = next.tokens.access_tokens().iter();
        let access: Vec<_> = access.map(|t| (t.secret(), valid(t))).collect();
        assert_eq!(access, [("first", false), ("mail", true)]);
    }

    /// A removal that was sent long before it arrives says why to a store that has forgotten the first one.
    #[tokio::test]
    async fn what_this_node_knows_of_an_end_outweighs_what_the_store_is_told_later_r31() {
        let cache = Cache::new(crate::cache::CacheParts {
            store: Arc::new(crate::store::MemoryTokenStore::new()),
            sessions: None,
            clock: Arc::new(crate::clock::SystemClock::new()),
            providers: Vec::new(),
            hooks: crate::hooks::Hooks::new(),
            config: Arc::default(),
        });
        let address = Address {
            account: AccountHash::of(&[b"ann"]),
            id: crate::id::SignInId::random(),
        };
        let held = cache.0.live.enter(address);
        held.end(Cause::BackChannel);
        let removal = cache.removal(Cause::Replaced, None);
        let target = Target::SignIn(address);
        cache.store().remove(&target, &removal).await.unwrap();
        assert!(!cache.was_replaced(&address).await);
        drop(held);
        assert!(cache.was_replaced(&address).await);
    }
}
