//! The rules for logout tokens: OpenID Connect Back-Channel Logout 1.0, sections 2.4 and 2.6.

use std::fmt;
use std::time::Duration;

use serde_json::Value;

use super::id_token::IdTokenRules;
use super::jws::{Jws, Unverified};
use super::keys::KeySet;
use super::{BACK_CHANNEL_EVENT, Claims, JwtError, Member, WantsNewerKeys};
use crate::clock::Timestamp;

/// How old a token may be whatever its `exp` says: it is remembered for as long, so that it is used once.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// What logout tokens of a provider must be, on top of what its ID tokens must be too: who made it, for whom, and how it is
/// signed.
#[derive(Clone, Debug)]
pub(crate) struct LogoutTokenRules {
    /// Whether `exp` and `typ` must be there, as the standard's final edition recommends.
    pub(crate) strict: bool,
    /// How old a token without `exp` may be.
    pub(crate) max_age: Duration,
}

/// A logout token that passed every rule. Made by [`LogoutTokenRules::verify`] only.
#[derive(Clone)]
pub(crate) struct VerifiedLogoutToken {
    issuer: Box<str>,
    client_id: Box<str>,
    whom: Whom,
    id: Box<str>,
    issued_at: Timestamp,
    good_until: Timestamp,
}

/// Whose sign-ins a logout token ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    /// Those of one session at the provider; all of them of this subject, where it says so.
    Session {
        sid: Box<str>,
        subject: Option<Box<str>>,
    },
    /// All of a subject.
    Subject(Box<str>),
}

impl VerifiedLogoutToken {
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    pub(crate) fn whom(&self) -> &Whom {
        &self.whom
    }

    /// Its `jti`.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// By the provider's clock.
    pub(crate) fn issued_at(&self) -> Timestamp {
        self.issued_at
    }

    /// From when on it would be refused, with the skew that clocks are granted.
    pub(crate) fn good_until(&self) -> Timestamp {
        self.good_until
    }
}

impl fmt::Debug for VerifiedLogoutToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedLogoutToken")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Why a logout token was refused. Never carries a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogoutTokenError {
    Jwt(JwtError),
    /// The header's `typ` is that of something else, or missing in strict mode.
    Type,
    Issuer,
    Audience,
    UntrustedAudience,
    IssuedInFuture,
    TooOld,
    Expired,
    /// Strict mode: `exp` is missing.
    NoExpiry,
    /// Without the back-channel event it is no logout token: an ID token, perhaps (R27).
    Events,
    Nonce,
    /// Neither `sub` nor `sid`, or an empty one.
    Whom,
    TokenId,
}

impl LogoutTokenError {
    /// The reason as a word, for traces and counters.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Jwt(error) => match error {
                JwtError::TooLarge => "too_large",
                JwtError::NotCompact | JwtError::NotBase64 => "malformed",
                JwtError::Header => "header",
                JwtError::CriticalHeader => "critical_header",
                JwtError::NestedToken => "nested_token",
                JwtError::AlgorithmNotAllowed => "algorithm",
                JwtError::UnknownKey => "unknown_key",
                JwtError::Signature => "signature",
                JwtError::Payload => "payload",
                JwtError::MissingClaim(_) => "missing_claim",
                JwtError::InvalidClaim(_) => "invalid_claim",
            },
            Self::Type => "type",
            Self::Issuer => "issuer",
            Self::Audience => "audience",
            Self::UntrustedAudience => "untrusted_audience",
            Self::IssuedInFuture => "issued_in_future",
            Self::TooOld => "too_old",
            Self::Expired => "expired",
            Self::NoExpiry => "no_expiry",
            Self::Events => "events",
            Self::Nonce => "nonce",
            Self::Whom => "whom",
            Self::TokenId => "token_id",
        }
    }
}

impl fmt::Display for LogoutTokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jwt(error) => return error.fmt(f),
            Self::Type => "the token's type is not that of a logout token",
            Self::Issuer => "the logout token is by another issuer",
            Self::Audience => "the logout token is for another client",
            Self::UntrustedAudience => {
                "the logout token is also for an audience that is not among the trusted ones"
            }
            Self::IssuedInFuture => {
                "the logout token was issued in the future: the clocks are too far apart"
            }
            Self::TooOld => "the logout token was issued too long ago",
            Self::Expired => "the logout token has expired",
            Self::NoExpiry => "the logout token does not say when it expires",
            Self::Events => "the token has no back-channel logout event",
            Self::Nonce => "the token has a nonce, which no logout token has",
            Self::Whom => "the logout token names neither a subject nor a session",
            Self::TokenId => "the logout token's identifier is empty",
        })
    }
}

impl std::error::Error for LogoutTokenError {}

impl From<JwtError> for LogoutTokenError {
    fn from(error: JwtError) -> Self {
        Self::Jwt(error)
    }
}

impl WantsNewerKeys for LogoutTokenError {
    fn wants_newer_keys(&self) -> bool {
        matches!(self, Self::Jwt(error) if error.wants_newer_keys())
    }
}

/// What was sent as a logout token, with nothing verified.
pub(crate) struct UnverifiedLogoutToken<'a>(Unverified<'a>);

impl<'a> UnverifiedLogoutToken<'a> {
    /// # Errors
    ///
    /// It has no claims.
    pub(crate) fn read(token: &'a Jws<'a>) -> Result<Self, LogoutTokenError> {
        Ok(Self(Unverified::read(token)?))
    }

    /// The issuer that it claims: good for choosing among the configured providers, whose own rules then decide, and for
    /// nothing else.
    pub(crate) fn claimed_issuer(&self) -> Result<&str, LogoutTokenError> {
        Ok(self.0.claimed_issuer()?)
    }
}

impl LogoutTokenRules {
    /// # Errors
    ///
    /// The first rule that the token breaks.
    pub(crate) fn verify(
        &self,
        token: &UnverifiedLogoutToken<'_>,
        parties: &IdTokenRules,
        keys: &KeySet,
        now: Timestamp,
    ) -> Result<VerifiedLogoutToken, LogoutTokenError> {
        let claims = token.0.verify(keys, &parties.algorithms)?;
        self.check_kind(claims)?;
        check_parties(claims, parties)?;
        let issued_at = claims.time("iat")?;
        let good_until = self.good_until(claims, issued_at, parties.clock_skew, now)?;
        let whom = whom(claims)?;
        let id = claims.string("jti")?;
        if id.is_empty() {
            return Err(LogoutTokenError::TokenId);
        }
        Ok(VerifiedLogoutToken {
            issuer: parties.issuer.clone(),
            client_id: parties.client_id.clone(),
            whom,
            id: id.into(),
            issued_at,
            good_until,
        })
    }

    /// What makes it a logout token and no other (R21, R27).
    fn check_kind(&self, claims: &Claims<'_>) -> Result<(), LogoutTokenError> {
        match claims.typ() {
            Some("logout+jwt") => {}
            // Most providers write one of these: the type is from the standard's final edition.
            None | Some("jwt") if !self.strict => {}
            _ => return Err(LogoutTokenError::Type),
        }
        let event = match claims.get("events") {
            Some(Member::Other(Value::Object(events))) => events.get(BACK_CHANNEL_EVENT),
            _ => None,
        };
        if !event.is_some_and(Value::is_object) {
            return Err(LogoutTokenError::Events);
        }
        // Also an empty one: section 2.4 forbids the member, so that no logout token passes for an ID token.
        if claims.get("nonce").is_some() {
            return Err(LogoutTokenError::Nonce);
        }
        Ok(())
    }

    fn good_until(
        &self,
        claims: &Claims<'_>,
        issued_at: Timestamp,
        skew: Duration,
        now: Timestamp,
    ) -> Result<Timestamp, LogoutTokenError> {
        if issued_at > now.plus(skew) {
            return Err(LogoutTokenError::IssuedInFuture);
        }
        let expires = claims.optional_time("exp")?;
        let age = match expires {
            Some(_) => LONGEST_LIFE,
            None if self.strict => return Err(LogoutTokenError::NoExpiry),
            None => self.max_age,
        };
        let too_old = issued_at.plus(age).plus(skew);
        if now >= too_old {
            return Err(LogoutTokenError::TooOld);
        }
        let Some(expired) = expires.map(|at| at.plus(skew)) else {
            return Ok(too_old);
        };
        if now >= expired {
            return Err(LogoutTokenError::Expired);
        }
        Ok(expired.min(too_old))
    }
}

/// As for ID tokens, but for `azp`, which a logout token does not have.
fn check_parties(claims: &Claims<'_>, parties: &IdTokenRules) -> Result<(), LogoutTokenError> {
    if claims.string("iss")? != &*parties.issuer {
        return Err(LogoutTokenError::Issuer);
    }
    let audiences = claims.audiences()?;
    if !audiences.contains(&&*parties.client_id) {
        return Err(LogoutTokenError::Audience);
    }
    let known = |audience: &&str| {
        let mut trusted = parties.trusted_audiences.iter();
        **audience == *parties.client_id || trusted.any(|trusted| **trusted == **audience)
    };
    if !audiences.iter().all(known) {
        return Err(LogoutTokenError::UntrustedAudience);
    }
    Ok(())
}

fn whom(claims: &Claims<'_>) -> Result<Whom, LogoutTokenError> {
    let name = |claim| match claims.optional_string(claim)? {
        Some("") => Err(LogoutTokenError::Whom),
        name => Ok(name.map(Box::from)),
    };
    match (name("sid")?, name("sub")?) {
        (Some(sid), subject) => Ok(Whom::Session { sid, subject }),
        (None, Some(subject)) => Ok(Whom::Subject(subject)),
        (None, None) => Err(LogoutTokenError::Whom),
    }
}
