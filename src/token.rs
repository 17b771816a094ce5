//! The tokens of one sign-in.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oauth2::{ExtraTokenFields, StandardTokenResponse, TokenResponse, TokenType};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::id::TokenHash;
use crate::secret::Secret;

/// A token that its API refuses so soon after it was issued is not replaced: the next one would fare no better, and an API that
/// refuses them all, because it expects another audience, say, must not make every call a request for a token.
const TOO_YOUNG_TO_REPLACE: Duration = Duration::from_secs(60);

/// An ID token, byte for byte as the provider sent it: it is the `id_token_hint` at sign-out.
#[derive(Clone)]
pub struct IdToken(Arc<Secret>);

impl IdToken {
    /// Wraps the compact form.
    pub fn new(token: impl Into<String>) -> Self {
        Self(Arc::new(Secret::new(token)))
    }

    /// The compact form itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.0.secret()
    }
}

impl fmt::Debug for IdToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdToken([redacted])")
    }
}

/// When an access token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "redis", derive(Serialize, Deserialize))]
pub(crate) enum Expiry {
    /// The provider did not say.
    Unknown,
    /// The same of one that was received then.
    Since(Timestamp),
    /// So long after it was received, which nobody has stamped yet.
    In {
        lifetime: Duration,
        soon: Soon,
    },
    At(Timestamp),
    /// From when it was received.
    Between {
        from: Timestamp,
        end: Timestamp,
        soon: Soon,
    },
}

/// After how many seconds the provider wants a token refreshed (`refresh_in`, an extension of Entra); none for zero. It fits
/// into a gap of [`Expiry`], so that it takes no memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "redis", derive(Serialize, Deserialize))]
pub(crate) struct Soon(u32);

/// An access token and what is known of it. Cheap to clone.
#[derive(Clone)]
pub struct AccessToken(Arc<Access>);

#[derive(Clone)]
struct Access {
    token: Secret,
    token_type: Cow<'static, str>,
    /// Sorted, with a space between two (RFC 6749 section 3.3): one place in memory, not one for each.
    scopes: Box<str>,
    resource: Option<Box<str>>,
    expiry: Expiry,
}

impl AccessToken {
    /// A bearer token with no scopes, no resource and no known end.
    pub fn bearer(token: impl Into<Secret>) -> Self {
        Self(Arc::new(Access {
            token: token.into(),
            token_type: Cow::Borrowed("Bearer"),
            scopes: Box::default(),
            resource: None,
            expiry: Expiry::Unknown,
        }))
    }

    /// As a store kept it: the scopes are the [text](Self::scope_text) of before, and no type is `Bearer`. In one go, for every
    /// request does this.
    #[cfg(feature = "redis")]
    pub(crate) fn kept(
        token: &str,
        token_type: Option<&str>,
        scopes: &str,
        resource: Option<&str>,
        expiry: Expiry,
    ) -> Self {
        Self(Arc::new(Access {
            token: token.into(),
            token_type: token_type.map_or(Cow::Borrowed("Bearer"), |text| text.to_owned().into()),
            scopes: scopes.into(),
            resource: resource.map(Into::into),
            expiry,
        }))
    }

    #[cfg(feature = "redis")]
    pub(crate) fn expiry(&self) -> Expiry {
        self.0.expiry
    }

    #[cfg(feature = "redis")]
    pub(crate) fn scope_text(&self) -> &str {
        &self.0.scopes
    }

    fn change(mut self, change: impl FnOnce(&mut Access)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// The scopes it carries. Order and repetition do not matter; a text with spaces is several (RFC 6749 section 3.3).
    #[must_use]
    pub fn with_scopes<T: AsRef<str>>(self, scopes: impl IntoIterator<Item = T>) -> Self {
        let texts: Vec<T> = scopes.into_iter().collect();
        let mut scopes: Vec<&str> = texts
            .iter()
            .flat_map(|text| text.as_ref().split_ascii_whitespace())
            .collect();
        scopes.sort_unstable();
        scopes.dedup();
        self.change(|access| access.scopes = scopes.join(" ").into())
    }

    /// The resource (RFC 8707) it is for.
    #[must_use]
    pub fn with_resource(self, resource: impl Into<String>) -> Self {
        self.change(|access| access.resource = Some(resource.into().into_boxed_str()))
    }

    /// How long it lives from the moment it is stored.
    #[must_use]
    pub fn expires_in(self, lifetime: Duration) -> Self {
        self.change(|access| {
            let soon = Soon::default();
            access.expiry = Expiry::In { lifetime, soon };
        })
    }

    /// When the provider wants it refreshed, counted as its lifetime is. Without one it says nothing.
    pub(crate) fn refresh_in(self, after: Duration) -> Self {
        self.change(|access| {
            if let Expiry::In { soon, .. } = &mut access.expiry {
                *soon = Soon(after.as_secs().try_into().unwrap_or(u32::MAX));
            }
        })
    }

    /// When it ends.
    #[must_use]
    pub fn expires_at(self, end: Timestamp) -> Self {
        self.change(|access| access.expiry = Expiry::At(end))
    }

    /// The type the provider stated, by default `Bearer`.
    #[must_use]
    pub fn with_type(self, token_type: impl Into<String>) -> Self {
        self.change(|access| access.token_type = Cow::Owned(token_type.into()))
    }

    /// The token itself.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.0.token.secret()
    }

    pub(crate) fn as_secret(&self) -> &Secret {
        &self.0.token
    }

    /// The token's type, `Bearer` for nearly all.
    #[must_use]
    pub fn token_type(&self) -> &str {
        &self.0.token_type
    }

    /// The scopes it carries, sorted.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        self.0.scopes.split_ascii_whitespace()
    }

    /// The resource it is for, where one was asked for.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        self.0.resource.as_deref()
    }

    /// When it ends by the wall clock; `None` if the provider did not say.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        match self.0.expiry {
            Expiry::At(end) | Expiry::Between { end, .. } => Some(end),
            Expiry::Unknown | Expiry::Since(_) | Expiry::In { .. } => None,
        }
    }

    /// Whether it can still be used at a moment, with a margin before its end: half its lifetime at most, for else a token
    /// that lives for less than the margin would never be of use.
    #[must_use]
    pub fn is_valid_at(&self, now: Timestamp, margin: Duration) -> bool {
        match self.0.expiry {
            Expiry::Unknown | Expiry::Since(_) => true,
            Expiry::In { lifetime, .. } => lifetime > margin,
            Expiry::At(end) | Expiry::Between { end, .. } => now.plus(margin) < end,
        }
    }

    /// Whether it is too early to look for another one: a margin that is longer than half of the token's life does not
    /// count, or a token that lives for a minute would be refreshed by every request.
    pub(crate) fn is_fresh_at(&self, now: Timestamp, margin: Duration) -> bool {
        let margin = match self.0.expiry {
            Expiry::Between { from, end, .. } => margin.min(end.since(from) / 2),
            Expiry::In { lifetime, .. } => margin.min(lifetime / 2),
            Expiry::Unknown | Expiry::Since(_) | Expiry::At(_) => margin,
        };
        self.is_valid_at(now, margin)
    }

    /// Whether it is time to get another one in the background, while this one is served: after a share of its life, or when
    /// the provider said, and up to half of what is left until the margin later, by the sign-in's place among all (`spread`, from
    /// 0 to 1), so that tokens that were issued together are not due together. Never of a token whose life is not known.
    ///
    /// A provider that wants it before a tenth of the token's life is not believed: every request would refresh.
    pub(crate) fn is_due_at(
        &self,
        now: Timestamp,
        margin: Duration,
        share: f64,
        spread: f64,
    ) -> bool {
        let Expiry::Between { from, end, soon } = self.0.expiry else {
            return false;
        };
        let (life, passed) = (end.since(from), now.since(from));
        let begin = match soon {
            Soon(0) => life.mul_f64(share),
            Soon(seconds) => Duration::from_secs(seconds.into()).max(life / 10),
        };
        if passed < begin {
            return false;
        }
        let rest = life.saturating_sub(margin.min(life / 2));
        passed >= begin + rest.saturating_sub(begin).mul_f64(spread / 2.0)
    }

    /// When it was stored, where that is known.
    pub(crate) fn received(&self) -> Option<Timestamp> {
        match self.0.expiry {
            Expiry::Since(from) | Expiry::Between { from, .. } => Some(from),
            Expiry::Unknown | Expiry::In { .. } | Expiry::At(_) => None,
        }
    }

    /// Whether it is not to be replaced although an API refuses it: it was stored a moment ago, and the next one would fare no
    /// better.
    pub(crate) fn is_young_at(&self, now: Timestamp) -> bool {
        // Either way: it may have been stored by a node whose clock is ahead.
        self.received()
            .is_some_and(|at| now.since(at).max(at.since(now)) < TOO_YOUNG_TO_REPLACE)
    }

    /// Its life is over, whatever the provider said of it.
    pub(crate) fn end(&mut self, now: Timestamp) {
        Arc::make_mut(&mut self.0).expiry = Expiry::At(now);
    }

    pub(crate) fn is(&self, hash: &TokenHash) -> bool {
        TokenHash::of(&self.0.token) == *hash
    }

    /// Whether a request for these scopes and this resource is served by this token.
    pub(crate) fn covers(&self, scopes: &[&str], resource: Option<&str>) -> bool {
        self.resource() == resource && scopes.iter().all(|scope| self.has_scope(scope))
    }

    pub(crate) fn has_scope(&self, scope: &str) -> bool {
        self.scopes().any(|have| have == scope)
    }

    fn replaces(&self, other: &Self) -> bool {
        self.0.resource == other.0.resource && self.0.scopes == other.0.scopes
    }

    fn stamp(&mut self, now: Timestamp) {
        let stamped = match self.0.expiry {
            Expiry::Unknown => Expiry::Since(now),
            Expiry::In { lifetime, soon } => Expiry::Between {
                from: now,
                end: now.plus(lifetime),
                soon,
            },
            Expiry::Since(_) | Expiry::At(_) | Expiry::Between { .. } => return,
        };
        Arc::make_mut(&mut self.0).expiry = stamped;
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("token", &self.0.token)
            .field("token_type", &self.0.token_type)
            .field("scopes", &self.0.scopes)
            .field("resource", &self.0.resource)
            .field("expiry", &self.0.expiry)
            .finish()
    }
}

/// The tokens of one sign-in: refresh token, ID token, and an access token for each resource and scope set, 32 of those at most;
/// the oldest but the first leaves when one more comes.
///
/// Made from a token response of `oauth2` or `openidconnect` by `TokenSet::from(response)`; the ID token is found
/// where the response's extra fields carry one (oauth2's `BasicTokenResponse` has none: use
/// [`IdTokenField`] as its extra fields).
#[derive(Clone, Debug, Default)]
pub struct TokenSet {
    pub(crate) refresh_token: Option<Arc<Secret>>,
    pub(crate) id_token: Option<IdToken>,
    /// The one of the sign-in first, the latest of the others last.
    pub(crate) access_tokens: SmallVec<[AccessToken; 1]>,
}

impl TokenSet {
    /// A set without tokens.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the refresh token.
    #[must_use]
    pub fn with_refresh_token(mut self, token: impl Into<Secret>) -> Self {
        self.refresh_token = Some(Arc::new(token.into()));
        self
    }

    /// Sets the ID token.
    #[must_use]
    pub fn with_id_token(mut self, token: IdToken) -> Self {
        self.id_token = Some(token);
        self
    }

    /// Adds an access token; one for the same resource and scopes is replaced.
    #[must_use]
    pub fn with_access_token(mut self, token: AccessToken) -> Self {
        self.insert(token);
        self
    }

    /// The refresh token.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.refresh_token.as_deref()
    }

    /// The ID token.
    #[must_use]
    pub fn id_token(&self) -> Option<&IdToken> {
        self.id_token.as_ref()
    }

    /// The access tokens.
    #[must_use]
    pub fn access_tokens(&self) -> &[AccessToken] {
        &self.access_tokens
    }

    /// Most access tokens that one sign-in keeps; the oldest but the first leaves when one more comes.
    pub(crate) const MAX_ACCESS_TOKENS: usize = 32;

    pub(crate) fn insert(&mut self, token: AccessToken) {
        match self
            .access_tokens
            .iter()
            .position(|have| have.replaces(&token))
        {
            Some(at) => self.access_tokens[at] = token,
            None => {
                if self.access_tokens.len() >= Self::MAX_ACCESS_TOKENS {
                    self.access_tokens.remove(1);
                }
                self.access_tokens.push(token);
            }
        }
    }

    /// Turns lifetimes into moments, counted from now.
    pub(crate) fn stamp(&mut self, now: Timestamp) {
        for token in &mut self.access_tokens {
            token.stamp(now);
        }
        self.access_tokens.shrink_to_fit();
    }

    /// Whether the provider keeps the refresh token alive beyond the user's session there.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.access_tokens
            .iter()
            .any(|token| token.has_scope("offline_access"))
    }

    /// How many tokens there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.access_tokens.len()
            + usize::from(self.refresh_token.is_some())
            + usize::from(self.id_token.is_some())
    }
}

/// Extra fields of a token response that keep the ID token, for use with `oauth2`:
/// `StandardTokenResponse<IdTokenField, BasicTokenType>`.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct IdTokenField {
    /// The ID token in compact form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_token: Option<String>,
}

impl IdTokenField {
    /// Whether there is one.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.id_token.is_some()
    }
}

impl fmt::Debug for IdTokenField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdTokenField([redacted])")
    }
}

impl ExtraTokenFields for IdTokenField {}

impl<EF: ExtraTokenFields, TT: TokenType> From<StandardTokenResponse<EF, TT>> for TokenSet {
    fn from(response: StandardTokenResponse<EF, TT>) -> Self {
        Self::from_response(&response, &[], None)
    }
}

impl TokenSet {
    /// `asked` are the scopes of the request: RFC 6749 section 5.1 lets the answer leave `scope` out when it granted
    /// just those.
    pub(crate) fn from_response<EF: ExtraTokenFields, TT: TokenType>(
        response: &StandardTokenResponse<EF, TT>,
        asked: &[&str],
        resource: Option<&str>,
    ) -> Self {
        let mut access = AccessToken::bearer(response.access_token().secret().as_str());
        access = match response.scopes() {
            Some(granted) => access.with_scopes(granted.iter().map(|s| s.as_str())),
            None => access.with_scopes(asked),
        };
        if let Some(resource) = resource {
            access = access.with_resource(resource);
        }
        if let Some(lifetime) = response.expires_in() {
            access = access.expires_in(lifetime);
        }
        // A token type serializes to the text it came from; one that does not is left at the default.
        if let Ok(serde_json::Value::String(token_type)) =
            serde_json::to_value(response.token_type())
            && !token_type.eq_ignore_ascii_case("bearer")
        {
            access = access.with_type(token_type);
        }
        let mut set = Self::new().with_access_token(access);
        if let Some(refresh) = response.refresh_token() {
            set = set.with_refresh_token(refresh.secret().as_str());
        }
        // `Serialize` gives the ID token byte for byte, also that of an openidconnect response, whose own type
        // cannot be named without depending on that crate.
        let extra = serde_json::to_value(response.extra_fields()).unwrap_or_default();
        if let Some(id_token) = extra.get("id_token").and_then(|token| token.as_str()) {
            set = set.with_id_token(IdToken::new(id_token));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    #[test]
    fn a_token_covers_fewer_scopes_of_the_same_resource_only() {
        let token = AccessToken::bearer("t").with_scopes(["b", "a", "a"]);
        assert_eq!(token.scopes().collect::<Vec<_>>(), ["a", "b"]);
        assert!(token.covers(&["a"], None));
        assert!(token.covers(&[], None));
        assert!(!token.covers(&["a", "c"], None));
        assert!(!token.covers(&["a"], Some("https://api")));
        assert!(!token.covers(&["a b"], None) && !token.covers(&[""], None));
        let same = AccessToken::bearer("t").with_scopes(["b  a"]);
        assert!(same.replaces(&token) && same.scopes().eq(["a", "b"]));
    }

    #[test]
    fn lifetimes_become_moments_when_stamped() {
        let mut set = TokenSet::new()
            .with_access_token(AccessToken::bearer("t").expires_in(Duration::from_secs(100)));
        set.stamp(at(1000));
        let token = &set.access_tokens()[0];
        assert_eq!(token.expires(), Some(at(1100)));
        assert!(token.is_valid_at(at(1039), Duration::from_secs(60)));
        assert!(!token.is_valid_at(at(1040), Duration::from_secs(60)));
        assert!(token.is_fresh_at(at(1049), Duration::from_secs(60)));
        assert!(!token.is_fresh_at(at(1050), Duration::from_secs(60)));
    }

    #[test]
    fn a_refused_token_is_replaced_once_it_is_a_minute_old_r30() {
        let token = AccessToken::bearer("t");
        let hour = Duration::from_secs(3600);
        let rows = [
            ("its life known", token.clone().expires_in(hour), true),
            ("its life unknown", token.clone(), true),
            ("its end only known", token.expires_at(at(9000)), false),
        ];
        for (name, token, young) in rows {
            assert!(!token.is_young_at(at(1000)), "{name}: not stored yet");
            let mut set = TokenSet::new().with_access_token(token);
            set.stamp(at(1000));
            // What is there already stays what it is when another one comes.
            set.stamp(at(2000));
            let is_young = |now| set.access_tokens()[0].is_young_at(at(now));
            let found = [940, 941, 1000, 1059, 1060, 2000].map(is_young);
            assert_eq!(found, [false, young, young, young, false, false], "{name}");
        }
    }

    #[test]
    fn a_token_is_due_after_a_share_of_its_life_or_when_the_provider_says_r29() {
        let token = |refresh_in| {
            let token = AccessToken::bearer("t").expires_in(Duration::from_secs(1060));
            let mut set = TokenSet::new().with_access_token(token.refresh_in(refresh_in));
            set.stamp(at(0));
            set.access_tokens()[0].clone()
        };
        let rows = [
            ("by share, the first", 0, 0.0, 848),
            ("by share, the last", 0, 1.0, 924),
            ("half of what is left before the margin", 0, 0.5, 886),
            ("the provider's word", 500, 0.0, 500),
            ("the provider's word, the last", 500, 1.0, 750),
            ("later than the share", 950, 0.0, 950),
            ("within the margin", 1050, 1.0, 1050),
            ("after its end", 5000, 0.0, 5000),
            ("too early", 1, 0.0, 106),
        ];
        for (name, refresh_in, spread, due) in rows {
            let token = token(Duration::from_secs(refresh_in));
            let is_due = |now| token.is_due_at(at(now), Duration::from_secs(60), 0.8, spread);
            assert!(!is_due(due - 1) && is_due(due), "{name}");
        }
        let unknown = [
            AccessToken::bearer("t"),
            AccessToken::bearer("t").refresh_in(Duration::from_secs(1)),
            AccessToken::bearer("t").expires_at(at(100)),
        ];
        for token in unknown {
            assert!(
                !token.is_due_at(at(99), Duration::ZERO, 0.5, 0.0),
                "{token:?}"
            );
        }
        assert_eq!(
            size_of::<Expiry>(),
            24,
            "the provider's word takes no memory"
        );
    }

    #[test]
    fn nothing_prints_a_token_a11() {
        let set = TokenSet::new()
            .with_refresh_token("rrr")
            .with_id_token(IdToken::new("iii"))
            .with_access_token(AccessToken::bearer("aaa"));
        let text = format!("{set:?}");
        assert!(
            !text.contains("rrr") && !text.contains("iii") && !text.contains("aaa"),
            "{text}"
        );
    }

    /// R2: byte for byte.
    #[test]
    fn the_id_token_of_an_oauth2_response_is_kept() {
        let json = r#"{"access_token":"a","token_type":"bearer","expires_in":60,"scope":"x y","refresh_token":"r","id_token":"h.p.s"}"#;
        let response: StandardTokenResponse<IdTokenField, oauth2::basic::BasicTokenType> =
            serde_json::from_str(json).unwrap();
        let set = TokenSet::from(response);
        assert_eq!(set.id_token().unwrap().secret(), "h.p.s");
        assert_eq!(set.refresh_token().unwrap().secret(), "r");
        assert!(set.access_tokens()[0].covers(&["x", "y"], None));
        assert_eq!(set.access_tokens()[0].token_type(), "Bearer");
    }

    #[test]
    fn the_number_of_access_tokens_is_bounded() {
        let mut set = TokenSet::new();
        for n in 0..100 {
            set.insert(AccessToken::bearer("t").with_scopes([format!("s{n}")]));
        }
        assert_eq!(set.access_tokens().len(), TokenSet::MAX_ACCESS_TOKENS);
        assert!(set.access_tokens()[0].has_scope("s0"));
    }
}
