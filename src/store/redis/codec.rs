//! The form in which entries and tokens are kept.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::account::Account;
use crate::id::{Address, DownstreamName, OperationId, Selector};
#[cfg(feature = "encryption")]
use crate::key_ring::KeyRing;
use crate::secret::wipe;
use crate::store::{Entry, Lifetimes, Result, RetainedTokens, StoreError, StoreErrorKind};
use crate::token::{AccessToken, Expiry, IdToken, TokenSet};

/// The largest value that is written or read. A provider's token response is not larger.
const LARGEST: usize = 1024 * 1024;

/// What a value is and where it belongs: one that is found elsewhere is not read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// The entry at an address, also while its tokens wait to be revoked.
    Entry(&'a Address),
    /// A downstream token of the sign-in at an address.
    Downstream(&'a Address, &'a DownstreamName),
    /// Tokens in the outbox that come from no entry.
    Retained(OperationId),
    /// A session, by the hash of its id.
    #[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
    Session(&'a [u8; 32]),
}

impl Place<'_> {
    /// What tells it from every other one, for the cipher. Nothing is moved from one place to another while it is sealed.
    #[cfg(feature = "encryption")]
    fn parts(&self) -> [&[u8]; 4] {
        let none: &[u8] = &[];
        match self {
            Self::Entry(address) => [
                b"entry",
                address.account.as_bytes(),
                address.id.as_bytes(),
                none,
            ],
            Self::Downstream(address, name) => [
                b"downstream",
                address.account.as_bytes(),
                address.id.as_bytes(),
                name.as_bytes(),
            ],
            Self::Retained(id) => [b"retained", id.as_bytes(), none, none],
            Self::Session(name) => [b"session", *name, none, none],
        }
    }
}

/// Seals what is kept, and opens it again. The first byte says how: whatever this version does not know is not there.
///
/// Sessions are MessagePack, which says what is where, for their values are of the app's own types. Entries and tokens are ours and read
/// with every request: postcard says nothing of that, and takes a quarter of the time. So whoever changes their form changes
/// [`PLAIN`].
#[derive(Debug, Default)]
pub(super) struct Codec {
    #[cfg(feature = "encryption")]
    keys: Option<KeyRing>,
    unreadable: AtomicU64,
}

/// Sealed with nothing.
const PLAIN: u8 = 3;
/// Sealed by a [`KeyRing`], with what begins with [`PLAIN`] inside.
#[cfg(feature = "encryption")]
const ENCRYPTED: u8 = 2;

impl Codec {
    /// With keys nothing is read that was not written under one of them: else whoever can write to Redis could put anything there.
    #[cfg(feature = "encryption")]
    pub(super) fn encrypted(keys: Option<KeyRing>) -> Self {
        Self {
            keys,
            ..Self::default()
        }
    }

    /// What `write` appends; nothing if that fails.
    pub(super) fn seal(
        &self,
        place: Place<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Option<()>,
    ) -> Result<Vec<u8>> {
        // Room for most, so that growing leaves no copies behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(4096));
        plain.push(PLAIN);
        if write(&mut plain).is_none() || plain.len() > LARGEST {
            return Err(StoreError::new(
                StoreErrorKind::Full,
                "the tokens take more than 1 MiB",
            ));
        }
        #[cfg(feature = "encryption")]
        if let Some(keys) = &self.keys {
            let mut sealed = keys.seal(&place.parts(), &plain);
            sealed.insert(0, ENCRYPTED);
            return Ok(sealed);
        }
        #[cfg(not(feature = "encryption"))]
        let _ = place;
        Ok(std::mem::take(&mut *plain))
    }

    pub(super) fn open<T>(
        &self,
        place: Place<'_>,
        sealed: &[u8],
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Option<T> {
        let plain = self.decrypted(place, sealed);
        let opened = match plain.as_ref().and_then(|plain| plain.split_first()) {
            Some((&PLAIN, plain)) if plain.len() <= LARGEST => read(plain),
            _ => None,
        };
        if opened.is_none() {
            self.complain(place);
        }
        opened
    }

    /// Counts a value that could not be read.
    pub(super) fn complain(&self, place: Place<'_>) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
        tracing::error!(what = %place, "a value in Redis is not readable");
    }

    #[cfg(feature = "encryption")]
    fn decrypted<'s>(&self, place: Place<'_>, sealed: &'s [u8]) -> Option<Plain<'s>> {
        let Some(keys) = &self.keys else {
            return Some(Plain::AsItWas(sealed));
        };
        let (&ENCRYPTED, sealed) = sealed.split_first()? else {
            return None;
        };
        keys.open(&place.parts(), sealed).map(Plain::Decrypted)
    }

    #[cfg(not(feature = "encryption"))]
    fn decrypted<'s>(&self, _: Place<'_>, sealed: &'s [u8]) -> Option<Plain<'s>> {
        Some(Plain::AsItWas(sealed))
    }

    /// How many values could not be read.
    pub(super) fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    pub(super) fn seal_entry(&self, address: &Address, entry: &Entry) -> Result<Vec<u8>> {
        self.seal_form(Place::Entry(address), &EntryForm::of(entry))
    }

    pub(super) fn open_entry(&self, address: &Address, sealed: &[u8]) -> Option<Entry> {
        self.open(Place::Entry(address), sealed, |plain| {
            read_form::<EntryForm<'_>>(plain)?.into_entry()
        })
    }

    fn seal_form(&self, place: Place<'_>, form: &impl Serialize) -> Result<Vec<u8>> {
        self.seal(place, |plain| {
            let written = postcard::to_extend(form, Appended(plain));
            written.ok().map(drop)
        })
    }

    pub(super) fn seal_downstream(
        &self,
        address: &Address,
        name: &DownstreamName,
        token: &AccessToken,
    ) -> Result<Vec<u8>> {
        self.seal_form(Place::Downstream(address, name), &AccessForm::of(token))
    }

    pub(super) fn open_downstream(
        &self,
        address: &Address,
        name: &DownstreamName,
        sealed: &[u8],
    ) -> Option<AccessToken> {
        self.open(Place::Downstream(address, name), sealed, |plain| {
            read_form(plain).map(AccessForm::into_token)
        })
    }

    pub(super) fn seal_retained(
        &self,
        id: OperationId,
        retained: &RetainedTokens,
    ) -> Result<Vec<u8>> {
        let form = RetainedForm {
            issuer: &retained.issuer,
            client_id: &retained.client_id,
            tokens: TokensForm::of(&retained.tokens),
        };
        self.seal_form(Place::Retained(id), &form)
    }

    pub(super) fn open_retained(&self, id: OperationId, sealed: &[u8]) -> Option<RetainedTokens> {
        self.open(Place::Retained(id), sealed, |plain| {
            let form: RetainedForm<'_> = read_form(plain)?;
            Some(RetainedTokens {
                issuer: form.issuer.into(),
                client_id: form.client_id.into(),
                tokens: form.tokens.into_tokens(),
            })
        })
    }
}

/// The whole of it, and no more.
fn read_form<'p, T: Deserialize<'p>>(plain: &'p [u8]) -> Option<T> {
    let (form, rest) = postcard::take_from_bytes(plain).ok()?;
    rest.is_empty().then_some(form)
}

/// Grows in place, so that it stays the caller's to wipe.
struct Appended<'v>(&'v mut Vec<u8>);

impl Extend<u8> for Appended<'_> {
    fn extend<T: IntoIterator<Item = u8>>(&mut self, bytes: T) {
        self.0.extend(bytes);
    }
}

/// What Redis answered: the tokens themselves, unless they are encrypted.
pub(super) struct Wiped(pub(super) Vec<u8>);

impl Deref for Wiped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

enum Plain<'s> {
    AsItWas(&'s [u8]),
    #[cfg(feature = "encryption")]
    Decrypted(Zeroizing<Vec<u8>>),
}

impl Deref for Plain<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::AsItWas(plain) => plain,
            #[cfg(feature = "encryption")]
            Self::Decrypted(plain) => plain,
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(address) => write!(f, "sign-in {}", address.id),
            Self::Downstream(address, name) => write!(f, "token {name} of {}", address.id),
            Self::Retained(id) => write!(f, "tokens to revoke {id}"),
            #[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
            Self::Session(name) => {
                write!(f, "session {}", crate::id::ClaimName::from_bytes(**name))
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
struct EntryForm<'a> {
    issuer: &'a str,
    subject: &'a str,
    sid: Option<&'a str>,
    #[serde(borrow)]
    claims: ClaimsForm<'a>,
    client_id: &'a str,
    tokens: TokensForm<'a>,
    idle: Duration,
    absolute: Duration,
    /// One after the other.
    #[serde(borrow)]
    selectors: Cow<'a, [u8]>,
    label: Option<&'a str>,
}

#[derive(Serialize, Deserialize)]
enum ClaimsForm<'a> {
    None,
    Json(&'a str),
    /// Those of an ID token that is no longer the one among the tokens.
    IdToken(&'a str),
    /// Those of the ID token among the tokens, which is kept once.
    OfTokens,
}

#[derive(Serialize, Deserialize)]
struct TokensForm<'a> {
    refresh_token: Option<&'a str>,
    id_token: Option<&'a str>,
    #[serde(borrow)]
    access_tokens: Vec<AccessForm<'a>>,
}

#[derive(Serialize, Deserialize)]
struct AccessForm<'a> {
    token: &'a str,
    /// `None` for `Bearer`.
    token_type: Option<&'a str>,
    scopes: &'a str,
    resource: Option<&'a str>,
    expiry: Expiry,
}

#[derive(Serialize, Deserialize)]
struct RetainedForm<'a> {
    issuer: &'a str,
    client_id: &'a str,
    #[serde(borrow)]
    tokens: TokensForm<'a>,
}

impl<'a> EntryForm<'a> {
    fn of(entry: &'a Entry) -> Self {
        let account = &entry.account;
        let id_token = entry.tokens.id_token().map(IdToken::secret);
        let claims = match (account.claims_json(), account.claims_token()) {
            (Some(json), _) => ClaimsForm::Json(json),
            (None, Some(token)) if Some(token.secret()) == id_token => ClaimsForm::OfTokens,
            (None, Some(token)) => ClaimsForm::IdToken(token.secret()),
            (None, None) => ClaimsForm::None,
        };
        Self {
            issuer: account.issuer(),
            subject: account.subject(),
            sid: account.sid(),
            claims,
            client_id: &entry.client_id,
            tokens: TokensForm::of(&entry.tokens),
            idle: entry.lifetimes.idle,
            absolute: entry.lifetimes.absolute,
            selectors: entry
                .selectors
                .iter()
                .flat_map(|one| *one.as_bytes())
                .collect(),
            label: entry.label.as_deref(),
        }
    }

    fn into_entry(self) -> Option<Entry> {
        let (selectors, rest) = self.selectors.as_chunks();
        if !rest.is_empty() {
            return None;
        }
        let tokens = self.tokens.into_tokens();
        let mut account = Account::new(self.issuer, self.subject);
        if let Some(sid) = self.sid {
            account = account.with_sid(sid);
        }
        account = match (self.claims, tokens.id_token()) {
            (ClaimsForm::Json(json), _) => account.with_claims_json(json),
            (ClaimsForm::IdToken(token), _) => account.with_id_token(IdToken::new(token)),
            (ClaimsForm::OfTokens, Some(token)) => account.with_id_token(token.clone()),
            (ClaimsForm::OfTokens, None) | (ClaimsForm::None, _) => account,
        };
        Some(Entry {
            account,
            client_id: self.client_id.into(),
            tokens,
            lifetimes: Lifetimes {
                idle: self.idle,
                absolute: self.absolute,
            },
            selectors: selectors
                .iter()
                .copied()
                .map(Selector::from_bytes)
                .collect(),
            label: self.label.map(Into::into),
        })
    }
}

impl<'a> TokensForm<'a> {
    fn of(tokens: &'a TokenSet) -> Self {
        Self {
            refresh_token: tokens.refresh_token().map(|token| token.secret()),
            id_token: tokens.id_token().map(IdToken::secret),
            access_tokens: tokens.access_tokens().iter().map(AccessForm::of).collect(),
        }
    }

    fn into_tokens(self) -> TokenSet {
        let mut tokens = TokenSet::new();
        if let Some(token) = self.refresh_token {
            tokens = tokens.with_refresh_token(token);
        }
        if let Some(token) = self.id_token {
            tokens = tokens.with_id_token(IdToken::new(token));
        }
        let access = self.access_tokens.into_iter();
        let access = access.take(TokenSet::MAX_ACCESS_TOKENS);
        tokens.access_tokens = access.map(AccessForm::into_token).collect();
        tokens
    }
}

impl<'a> AccessForm<'a> {
    fn of(token: &'a AccessToken) -> Self {
        Self {
            token: token.secret(),
            token_type: (token.token_type() != "Bearer").then(|| token.token_type()),
            scopes: token.scope_text(),
            resource: token.resource(),
            expiry: token.expiry(),
        }
    }

    fn into_token(self) -> AccessToken {
        AccessToken::kept(
            self.token,
            self.token_type,
            self.scopes,
            self.resource,
            self.expiry,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::{AccountHash, SignInId};

    fn address() -> Address {
        Address {
            account: AccountHash::of(&[b"ann"]),
            id: SignInId::random(),
        }
    }

    fn entry() -> Entry {
        let id_token = IdToken::new("h.e30.s");
        let account = Account::new("https://i", "ann")
            .with_sid("s")
            .with_id_token(id_token.clone());
        let mut tokens = TokenSet::new()
            .with_refresh_token("refresh")
            .with_id_token(id_token)
            .with_access_token(
                AccessToken::bearer("one")
                    .with_scopes(["b", "a"])
                    .expires_in(Duration::from_secs(60)),
            )
            .with_access_token(
                AccessToken::bearer("two")
                    .with_type("DPoP")
                    .with_resource("https://api")
                    .expires_at(Timestamp::from_secs(5)),
            );
        tokens.stamp(Timestamp::from_secs(100));
        Entry {
            account,
            client_id: "app".into(),
            tokens,
            lifetimes: Lifetimes {
                idle: Duration::from_millis(1500),
                absolute: Duration::MAX,
            },
            selectors: [Selector::sid("i", "c", "s")].into(),
            label: Some("phone".into()),
        }
    }

    #[test]
    fn an_entry_comes_back_as_it_was() {
        let (codec, address, entry) = (Codec::default(), address(), entry());
        let sealed = codec.seal_entry(&address, &entry).unwrap();
        let opened = codec.open_entry(&address, &sealed).unwrap();
        assert_eq!(opened.account, entry.account);
        assert_eq!(opened.account.sid(), Some("s"));
        assert!(opened.account.reads_id_token());
        assert_eq!(opened.client_id, entry.client_id);
        assert_eq!(opened.lifetimes, entry.lifetimes);
        assert_eq!(opened.selectors, entry.selectors);
        assert_eq!(opened.label, entry.label);
        let secrets = |tokens: &TokenSet| {
            let access = tokens.access_tokens().iter();
            let access = access.map(|token| {
                let scopes: Vec<String> = token.scopes().map(Into::into).collect();
                let known = (
                    token.token_type().to_owned(),
                    token.resource().map(String::from),
                );
                (token.secret().to_owned(), scopes, known, token.expiry())
            });
            (
                tokens.refresh_token().map(|t| t.secret().to_owned()),
                tokens.id_token().map(|t| t.secret().to_owned()),
                access.collect::<Vec<_>>(),
            )
        };
        assert_eq!(secrets(&opened.tokens), secrets(&entry.tokens));
    }

    #[test]
    fn claims_come_back_whatever_they_were_read_from() {
        let (codec, address) = (Codec::default(), address());
        let plain = Account::new("https://i", "ann");
        let json = serde_json::json!({ "name": "Ann" });
        let accounts = [
            plain.clone(),
            plain.clone().with_claims(&json),
            plain.with_id_token(IdToken::new("h.eyJuYW1lIjoiQW5uIn0.s")),
        ];
        for account in accounts {
            let entry = Entry { account, ..entry() };
            let sealed = codec.seal_entry(&address, &entry).unwrap();
            let opened = codec.open_entry(&address, &sealed).unwrap();
            assert_eq!(opened.account.name(), entry.account.name());
            assert_eq!(opened.account.has_claims(), entry.account.has_claims());
        }
    }

    #[test]
    fn what_is_not_readable_is_not_there_and_is_counted() {
        let (codec, address) = (Codec::default(), address());
        let sealed = codec.seal_entry(&address, &entry()).unwrap();
        let mut other = sealed.clone();
        other[0] = 200;
        let cut = sealed[..sealed.len() / 2].to_vec();
        let longer = [&sealed[..], &[0]].concat();
        let bad = [Vec::new(), vec![PLAIN], other, cut, longer];
        for (at, bad) in bad.into_iter().enumerate() {
            assert!(codec.open_entry(&address, &bad).is_none());
            assert_eq!(codec.unreadable(), at as u64 + 1);
        }
    }

    #[cfg(feature = "encryption")]
    #[test]
    fn what_is_encrypted_shows_nothing_and_is_read_under_its_keys_and_at_its_place_only() {
        let address = address();
        let old = Codec::encrypted(Some(KeyRing::new([1; 32])));
        let sealed = old.seal_entry(&address, &entry()).unwrap();
        for known in ["ann", "https://i", "refresh", "one", "h.e30.s", "phone"] {
            let found = sealed.windows(known.len()).any(|at| at == known.as_bytes());
            assert!(!found, "{known}");
        }
        assert!(old.open_entry(&address, &sealed).is_some());
        let new = KeyRing::new([2; 32]).and_for_reading([1; 32]);
        let new = Codec::encrypted(Some(new));
        assert!(new.open_entry(&address, &sealed).is_some());
        assert_eq!((old.unreadable(), new.unreadable()), (0, 0));

        let plain = Codec::default();
        let unsealed = plain.seal_entry(&address, &entry()).unwrap();
        let refused: [(&str, &Codec, Address, Vec<u8>); 5] = [
            ("another place", &old, self::address(), sealed.clone()),
            ("no keys", &plain, address, sealed.clone()),
            ("not encrypted", &old, address, unsealed.clone()),
            (
                "said to be",
                &old,
                address,
                [&[ENCRYPTED], &unsealed[..]].concat(),
            ),
            (
                "a key that is gone",
                &old,
                address,
                new.seal_entry(&address, &entry()).unwrap(),
            ),
        ];
        for (at, (name, codec, address, sealed)) in refused.into_iter().enumerate() {
            assert!(codec.open_entry(&address, &sealed).is_none(), "{name}");
            assert_eq!(
                old.unreadable() + plain.unreadable(),
                at as u64 + 1,
                "{name}"
            );
        }
    }

    #[test]
    fn what_is_too_large_is_refused() {
        let (codec, address, mut entry) = (Codec::default(), address(), entry());
        entry.tokens = entry.tokens.with_refresh_token("x".repeat(LARGEST));
        let refused = codec.seal_entry(&address, &entry).unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Full);
    }
}
