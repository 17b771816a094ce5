//! Which token of a sign-in serves a request.

use std::time::Duration;

use smallvec::SmallVec;

use crate::clock::Timestamp;
use crate::id::TokenHash;
use crate::token::{AccessToken, TokenSet};

/// OpenID Connect's own scopes say what is in an ID token, not what an access token opens, and several providers leave them out
/// of an answer's `scope` or rename them there: a token is not looked for by them.
const IDENTITY_SCOPES: [&str; 6] = [
    "openid",
    "profile",
    "email",
    "address",
    "phone",
    "offline_access",
];

/// What a token is asked for.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) scopes: &'a [&'a str],
    pub(super) resource: Option<&'a str>,
    /// The token that its API refused, where another one is asked for.
    pub(super) refused: Option<TokenHash>,
}

impl<'a> Asked<'a> {
    pub(super) fn of(scopes: &'a [&'a str], resource: Option<&'a str>) -> Self {
        Self {
            scopes,
            resource,
            refused: None,
        }
    }

    /// The refused token where it is still there, so that nobody has got another one in its place. The provider may have issued it
    /// again meanwhile.
    pub(super) fn refused_in(self, tokens: &TokenSet, now: Timestamp) -> Option<&AccessToken> {
        let refused = self.refused?;
        let held = tokens.access_tokens().iter();
        held.filter(|token| token.is(&refused) && token.is_valid_at(now, Duration::ZERO))
            .max_by_key(|token| token.received())
    }
}

/// The token of a set that serves a request for scopes and a resource. A request without either means the token of the
/// sign-in itself.
pub(super) fn pick<'t>(
    tokens: &'t TokenSet,
    asked: Asked<'_>,
    now: Timestamp,
    margin: Duration,
) -> Option<&'t AccessToken> {
    pick_such(tokens, asked, |token| token.is_fresh_at(now, margin))
}

pub(super) fn pick_such<'t>(
    tokens: &'t TokenSet,
    asked: Asked<'_>,
    usable: impl Fn(&AccessToken) -> bool,
) -> Option<&'t AccessToken> {
    let usable = |token: &&AccessToken| {
        usable(token) && !asked.refused.is_some_and(|refused| token.is(&refused))
    };
    let scopes: SmallVec<[&str; 4]> = asked
        .scopes
        .iter()
        .copied()
        .filter(|scope| !IDENTITY_SCOPES.contains(scope))
        .collect();
    if scopes.is_empty() && asked.resource.is_none() {
        return tokens.access_tokens().first().filter(usable);
    }
    let all = tokens.access_tokens().iter();
    let mut serving = all
        .filter(|token| token.covers(&scopes, asked.resource))
        .filter(usable);
    match asked.refused {
        None => serving.next(),
        // Others that are as old as the refused one may be no good either.
        Some(_) => serving.max_by_key(|token| token.received()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_picked_by_scopes_resource_and_time() {
        let at = Timestamp::from_secs;
        let token = |name: &str, scopes: &[&str], end| {
            AccessToken::bearer(name)
                .with_scopes(scopes)
                .expires_at(at(end))
        };
        let tokens = TokenSet::new()
            .with_access_token(token("first", &["openid"], 1000))
            .with_access_token(token("mail", &["mail", "send"], 2000))
            .with_access_token(token("api", &["mail"], 2000).with_resource("https://api"));
        type Row = (
            &'static [&'static str],
            Option<&'static str>,
            i64,
            Option<&'static str>,
        );
        let rows: [Row; 10] = [
            (&[], None, 0, Some("first")),
            (&[], None, 990, None),
            (&["mail"], None, 0, Some("mail")),
            (&["mail", "send"], None, 0, Some("mail")),
            (&["mail", "read"], None, 0, None),
            (&["mail"], None, 1990, None),
            (&[], Some("https://api"), 0, Some("api")),
            (&["mail"], Some("https://other"), 0, None),
            (&["email", "openid"], None, 0, Some("first")),
            (&["mail", "offline_access"], None, 0, Some("mail")),
        ];
        for (scopes, resource, now, expected) in rows {
            let margin = Duration::from_secs(60);
            let asked = Asked::of(scopes, resource);
            let found = pick(&tokens, asked, at(now), margin).map(AccessToken::secret);
            assert_eq!(found, expected, "{scopes:?} {resource:?} at {now}");
        }
    }
}
