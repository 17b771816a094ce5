//! Who is signed in.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cause::Cause;
use crate::id::AccountHash;
use crate::token::{IdToken, TokenSet};

/// Who the provider says the user is: issuer and subject, with the claims of the ID token.
///
/// Cheap to clone. As an extractor it is the account of the session's latest sign-in; see the crate's documentation on
/// extractors for what happens when there is none.
#[derive(Clone)]
pub struct Account(Arc<Data>);

/// Not a field more beside the pointer: every entry of the store has one.
#[derive(Clone)]
enum Data {
    Own(Own),
    /// Handed out by an extractor.
    Of {
        account: Account,
        sign_in: Arc<dyn Watch>,
    },
}

/// Where an account learns that the sign-in behind it has ended.
pub(crate) trait Watch: Send + Sync {
    /// Waits until it has, and says why.
    fn ended(self: Arc<Self>) -> BoxFuture<'static, Cause>;
}

#[derive(Clone)]
struct Own {
    issuer: Arc<str>,
    subject: Box<str>,
    sid: Option<Box<str>>,
    claims: Claims,
}

#[derive(Clone)]
enum Claims {
    None,
    Json(Box<str>),
    /// Read when asked for: a second copy for each sign-in would double what it weighs.
    IdToken(IdToken),
}

impl Account {
    /// An account without claims.
    pub fn new(issuer: impl Into<Arc<str>>, subject: impl Into<String>) -> Self {
        Self(Arc::new(Data::Own(Own {
            issuer: issuer.into(),
            subject: subject.into().into_boxed_str(),
            sid: None,
            claims: Claims::None,
        })))
    }

    /// The account as an extractor hands it out.
    pub(crate) fn of_sign_in(self, sign_in: Arc<dyn Watch>) -> Self {
        Self(Arc::new(Data::Of {
            account: self.detached(),
            sign_in,
        }))
    }

    /// Without the sign-in behind it: for what is kept.
    pub(crate) fn detached(self) -> Self {
        match &*self.0 {
            Data::Own(_) => self,
            Data::Of { account, .. } => account.clone(),
        }
    }

    fn own(&self) -> &Own {
        match &*self.0 {
            Data::Own(own) => own,
            Data::Of { account, .. } => account.own(),
        }
    }

    fn change(self, change: impl FnOnce(&mut Own)) -> Self {
        let mut account = self.detached();
        if let Data::Own(own) = Arc::make_mut(&mut account.0) {
            change(own);
        }
        account
    }

    /// Waits until the sign-in behind this account ends, and says why: for the handler of a WebSocket or of server-sent events,
    /// which must not outlive it. An account that a handler got from this crate has one, also when it was cloned; one that the
    /// app made or changed itself belongs to none, and this returns at once.
    ///
    /// An end on this node is noticed at once, idle and absolute lifetimes when they are over; where several nodes share a token
    /// store, an end on another one at once if the store tells of it, as that in Redis does while it is heard, or else within five
    /// seconds. If the store is away when the lifetimes, as far as they are known, are over, this returns too. It can be dropped and
    /// called again at any point.
    ///
    /// Waiting is not use: who just listens is signed out after the [idle lifetime](crate::AuthBuilder::idle_lifetime). Where the
    /// user does something over the connection, say so with [`Tokens::prolong`](crate::Tokens::prolong). Nor does waiting keep
    /// the access and refresh tokens of one that has ended in memory.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use std::time::Duration;
    /// use axum::response::sse::{Event, Sse};
    /// use axum_signout::Account;
    /// use futures_util::{Stream, StreamExt, stream};
    ///
    /// async fn news(account: Account) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    ///     let every_second = stream::unfold((), |()| async {
    ///         tokio::time::sleep(Duration::from_secs(1)).await;
    ///         Some((Ok(Event::default().data("news")), ()))
    ///     });
    ///     Sse::new(every_second.take_until(async move { account.ended().await }))
    /// }
    /// ```
    ///
    /// A WebSocket tells the page why:
    ///
    /// ```
    /// use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
    /// use axum::response::Response;
    /// use axum_signout::{Account, Tokens};
    ///
    /// async fn chat(upgrade: WebSocketUpgrade, account: Account, tokens: Tokens) -> Response {
    ///     upgrade.on_upgrade(move |socket| talk(socket, account, tokens))
    /// }
    ///
    /// async fn talk(mut socket: WebSocket, account: Account, tokens: Tokens) {
    ///     let ended = account.ended();
    ///     tokio::pin!(ended);
    ///     loop {
    ///         tokio::select! {
    ///             cause = &mut ended => {
    ///                 let reason = cause.as_str().into();
    ///                 let close = Message::Close(Some(CloseFrame { code: 4401, reason }));
    ///                 let _ = socket.send(close).await;
    ///                 return;
    ///             }
    ///             message = socket.recv() => {
    ///                 let Some(Ok(message)) = message else { return };
    ///                 if tokens.prolong().await.is_err() || socket.send(message).await.is_err() {
    ///                     return;
    ///                 }
    ///             }
    ///         }
    ///     }
    /// }
    /// ```
    pub async fn ended(&self) -> Cause {
        match &*self.0 {
            Data::Of { sign_in, .. } => sign_in.clone().ended().await,
            Data::Own(_) => Cause::SessionEnded,
        }
    }

    /// The session's name at the provider, the `sid` claim: front- and back-channel logout find the sign-in by it.
    #[must_use]
    pub fn with_sid(self, sid: impl Into<String>) -> Self {
        self.change(|own| own.sid = Some(sid.into().into_boxed_str()))
    }

    /// Claims, where they do not come from an ID token that is stored with the sign-in.
    #[must_use]
    pub fn with_claims(self, claims: &Value) -> Self {
        self.change(|own| own.claims = Claims::Json(claims.to_string().into_boxed_str()))
    }

    /// Claims are those of a verified ID token.
    pub(crate) fn with_id_token(self, token: IdToken) -> Self {
        self.change(|own| own.claims = Claims::IdToken(token))
    }

    /// Claims and `sid` of the ID token that came along, where the account has none.
    pub(crate) fn completed_by(self, tokens: &TokenSet) -> Self {
        #[derive(Deserialize)]
        struct Sid {
            sid: Option<String>,
        }
        let account = match tokens.id_token() {
            Some(token) if !self.has_claims() => self.with_id_token(token.clone()),
            _ => self,
        };
        match (account.sid(), account.claims::<Sid>()) {
            (None, Some(Sid { sid: Some(sid) })) => account.with_sid(sid),
            _ => account,
        }
    }

    /// The ID token that the claims are read from, for a store to keep.
    #[cfg(feature = "redis")]
    pub(crate) fn claims_token(&self) -> Option<&IdToken> {
        match &self.own().claims {
            Claims::IdToken(token) => Some(token),
            Claims::None | Claims::Json(_) => None,
        }
    }

    /// The claims that were given along, for a store to keep.
    #[cfg(feature = "redis")]
    pub(crate) fn claims_json(&self) -> Option<&str> {
        match &self.own().claims {
            Claims::Json(json) => Some(json),
            Claims::None | Claims::IdToken(_) => None,
        }
    }

    /// As a store kept them.
    #[cfg(feature = "redis")]
    pub(crate) fn with_claims_json(self, json: &str) -> Self {
        self.change(|own| own.claims = Claims::Json(json.into()))
    }

    /// Whether the claims are read from an ID token.
    pub(crate) fn reads_id_token(&self) -> bool {
        matches!(self.own().claims, Claims::IdToken(_))
    }

    /// Whether claims were given along with the account.
    pub(crate) fn has_claims(&self) -> bool {
        !matches!(self.own().claims, Claims::None)
    }

    /// The provider's issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.own().issuer
    }

    /// The subject: who the user is at that issuer.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.own().subject
    }

    /// The session's name at the provider.
    #[must_use]
    pub fn sid(&self) -> Option<&str> {
        self.own().sid.as_deref()
    }

    /// The claims as the app's own type; `None` if there are no claims or they do not fit.
    ///
    /// ```
    /// # use axum_signout::Account;
    /// #[derive(serde::Deserialize)]
    /// struct Groups { groups: Vec<String> }
    ///
    /// let account = Account::new("https://login.example.com", "ann")
    ///     .with_claims(&serde_json::json!({ "groups": ["staff"] }));
    /// assert_eq!(account.claims::<Groups>().unwrap().groups, ["staff"]);
    /// ```
    #[must_use]
    pub fn claims<T: DeserializeOwned>(&self) -> Option<T> {
        match &self.own().claims {
            Claims::None => None,
            Claims::Json(json) => serde_json::from_str(json).ok(),
            Claims::IdToken(token) => {
                let payload = token.secret().split('.').nth(1)?;
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
            }
        }
    }

    /// The `name` claim, else `preferred_username`.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        let profile = self.claims::<Profile>()?;
        profile.name.or(profile.preferred_username)
    }

    /// The `email` claim. Whether the provider checked it is told by the claim `email_verified`.
    #[must_use]
    pub fn email(&self) -> Option<String> {
        self.claims::<Profile>()?.email
    }

    /// The `roles` claim.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        #[derive(Deserialize)]
        struct Roles {
            roles: Vec<String>,
        }
        self.claims::<Roles>().map(|c| c.roles).unwrap_or_default()
    }

    /// Issuer and subject hashed, or issuer and the values of the configured claims where all of them are there.
    pub(crate) fn hash(&self, identity: &[String]) -> AccountHash {
        let chosen = || -> Option<Vec<String>> {
            let claims = self.claims::<serde_json::Map<String, Value>>()?;
            identity
                .iter()
                .map(|name| Some(claims.get(name)?.as_str()?.to_owned()))
                .collect()
        };
        if !identity.is_empty()
            && let Some(values) = chosen()
        {
            // With the issuer: what another provider says must not name an account of this one (A3).
            let mut parts: Vec<&[u8]> = vec![b"claims", self.issuer().as_bytes()];
            for (name, value) in identity.iter().zip(&values) {
                parts.extend([name.as_bytes(), value.as_bytes()]);
            }
            return AccountHash::of(&parts);
        }
        AccountHash::of(&[
            b"subject",
            self.issuer().as_bytes(),
            self.subject().as_bytes(),
        ])
    }
}

#[derive(Deserialize)]
struct Profile {
    name: Option<String>,
    preferred_username: Option<String>,
    email: Option<String>,
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        self.issuer() == other.issuer() && self.subject() == other.subject()
    }
}

impl Eq for Account {}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("issuer", &self.issuer())
            .field("subject", &self.subject())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_are_read_from_the_id_token() {
        let payload = URL_SAFE_NO_PAD.encode(json!({"name": "Ann", "roles": ["a"]}).to_string());
        let account =
            Account::new("https://i", "s").with_id_token(IdToken::new(format!("h.{payload}.s")));
        assert_eq!(account.name().as_deref(), Some("Ann"));
        assert_eq!(account.roles(), ["a"]);
        assert_eq!(account.email(), None);
    }

    #[test]
    fn the_hash_is_over_issuer_and_subject_unless_all_chosen_claims_are_there_a3() {
        let identity = ["tid".to_owned(), "oid".to_owned()];
        let claims = json!({"tid": "t", "oid": "o"});
        let one = Account::new("https://a", "1").with_claims(&claims);
        let two = Account::new("https://a", "2").with_claims(&claims);
        let other = Account::new("https://b", "1").with_claims(&claims);
        let partial = Account::new("https://a", "2").with_claims(&json!({"tid": "t"}));
        assert_eq!(one.hash(&identity), two.hash(&identity));
        assert_ne!(one.hash(&identity), other.hash(&identity));
        assert_ne!(one.hash(&[]), two.hash(&[]));
        assert_eq!(partial.hash(&identity), two.hash(&[]));
    }

    /// Every account that can be made of these parts has a hash of its own, but for those that are meant to be one: of the same
    /// issuer, with the same values of all configured claims.
    #[test]
    fn no_two_accounts_are_taken_for_each_other_a3_a12() {
        // Texts that would run together, were they joined; a name of a claim; what has no text.
        let texts = [
            "", "a", "ab", "b", "tid", "oid", "a:b", "a\u{0}b", "claims", "subject",
        ];
        let values: Vec<Value> = texts
            .map(Value::from)
            .into_iter()
            .chain([json!(null), json!(1), json!(["a"]), json!({ "a": "b" })])
            .collect();
        let identities: [&[&str]; 4] = [&[], &["tid"], &["tid", "oid"], &["oid", "tid"]];
        for identity in identities {
            let identity: Vec<String> = identity.iter().map(ToString::to_string).collect();
            let mut owners = std::collections::HashMap::new();
            for (issuer, subject) in texts.iter().flat_map(|i| texts.map(|s| (*i, s))) {
                for (tid, oid) in values
                    .iter()
                    .flat_map(|t| values.iter().map(move |o| (t, o)))
                {
                    let claims = json!({ "tid": tid, "oid": oid });
                    let account = Account::new(issuer, subject).with_claims(&claims);
                    let named = identity.iter().map(|name| claims[name].as_str());
                    let chosen: Option<Vec<&str>> = named.collect();
                    let owner = match chosen.filter(|chosen| !chosen.is_empty()) {
                        Some(chosen) => format!("{:?}", ("by claims", issuer, chosen)),
                        None => format!("{:?}", ("by subject", issuer, subject)),
                    };
                    let had = owners.insert(account.hash(&identity), owner.clone());
                    assert!(had.is_none_or(|had| had == owner), "{owner}");
                }
            }
            let distinct: std::collections::HashSet<_> = owners.values().collect();
            assert_eq!(
                distinct.len(),
                owners.len(),
                "one hash for each: {identity:?}"
            );
        }
    }
}
