//! The rules for ID tokens: OpenID Connect Core 1.0, sections 3.1.3.7 and 12.2.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::jws::Jws;
use super::keys::KeySet;
use super::{Claims, JwtError, SigningAlgorithm, WantsNewerKeys};
use crate::clock::Timestamp;
use crate::id::same_secret;
use crate::token::IdToken;

/// OIDC Core, section 2: `sub` must not exceed 255 ASCII characters.
const MAX_SUBJECT: usize = 255;

/// What is the same for every ID token of a provider.
#[derive(Clone, Debug)]
pub(crate) struct IdTokenRules {
    pub(crate) issuer: Box<str>,
    pub(crate) client_id: Box<str>,
    pub(crate) algorithms: Box<[SigningAlgorithm]>,
    /// Who else a token may be for.
    pub(crate) trusted_audiences: Box<[Box<str>]>,
    /// How far the provider's clock may be off.
    pub(crate) clock_skew: Duration,
}

/// What is expected of one ID token.
pub(crate) struct Expectations<'a> {
    occasion: Occasion<'a>,
    access_token: Option<&'a str>,
}

enum Occasion<'a> {
    SignIn {
        nonce: &'a str,
        max_age: Option<Duration>,
    },
    Refresh {
        subject: &'a str,
        held: Option<&'a IdToken>,
    },
}

impl<'a> Expectations<'a> {
    /// The answer to a sign-in that sent this nonce.
    pub(crate) fn sign_in(nonce: &'a str) -> Self {
        Self {
            occasion: Occasion::SignIn {
                nonce,
                max_age: None,
            },
            access_token: None,
        }
    }

    /// A token that came with a refresh, for the sign-in of this subject. What the token held so far says about nonce
    /// and time of authentication must not change.
    pub(crate) fn refresh(subject: &'a str, held: Option<&'a IdToken>) -> Self {
        Self {
            occasion: Occasion::Refresh { subject, held },
            access_token: None,
        }
    }

    /// The sign-in asked for an authentication no older than this, so that `auth_time` must be there.
    pub(crate) fn max_age(mut self, age: Option<Duration>) -> Self {
        if let Occasion::SignIn { max_age, .. } = &mut self.occasion {
            *max_age = age;
        }
        self
    }

    /// The access token of the same answer, for `at_hash`.
    pub(crate) fn access_token(mut self, token: &'a str) -> Self {
        self.access_token = Some(token);
        self
    }
}

/// An ID token that passed every rule. Made by [`IdTokenRules::verify`] only.
#[derive(Clone)]
pub(crate) struct VerifiedIdToken {
    issuer: Box<str>,
    subject: Box<str>,
    sid: Option<Box<str>>,
    issued_at: Timestamp,
}

impl VerifiedIdToken {
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    pub(crate) fn sid(&self) -> Option<&str> {
        self.sid.as_deref()
    }

    /// By the provider's clock.
    pub(crate) fn issued_at(&self) -> Timestamp {
        self.issued_at
    }
}

impl fmt::Debug for VerifiedIdToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedIdToken")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Why an ID token was refused. Never carries a part of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdTokenError {
    Jwt(JwtError),
    Type,
    /// R27: a logout token is not an ID token.
    LogoutToken,
    Issuer,
    Audience,
    UntrustedAudience,
    AuthorizedParty,
    Subject,
    SubjectChanged,
    Expired,
    IssuedInFuture,
    Nonce,
    NonceChanged,
    AuthTimeMissing,
    AuthTooOld,
    AuthTimeChanged,
    AccessTokenHash,
}

impl fmt::Display for IdTokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jwt(error) => return error.fmt(f),
            Self::Type => "the token's type is not that of an ID token",
            Self::LogoutToken => "the token is a logout token, not an ID token",
            Self::Issuer => "the ID token is by another issuer",
            Self::Audience => "the ID token is for another client",
            Self::UntrustedAudience => {
                "the ID token is also for an audience that is not among the trusted ones"
            }
            Self::AuthorizedParty => "the ID token was issued to another party",
            Self::Subject => "the ID token's subject is empty or too long",
            Self::SubjectChanged => "the new ID token is for another subject",
            Self::Expired => "the ID token has expired",
            Self::IssuedInFuture => {
                "the ID token was issued in the future: the clocks are too far apart"
            }
            Self::Nonce => "the ID token's nonce is not the one that was sent",
            Self::NonceChanged => "the new ID token has another nonce",
            Self::AuthTimeMissing => {
                "the ID token does not say when the user authenticated, though it was asked to"
            }
            Self::AuthTooOld => "the user authenticated longer ago than was asked for",
            Self::AuthTimeChanged => "the new ID token has another time of authentication",
            Self::AccessTokenHash => "the access token is not the one of the ID token",
        })
    }
}

impl std::error::Error for IdTokenError {}

impl From<JwtError> for IdTokenError {
    fn from(error: JwtError) -> Self {
        Self::Jwt(error)
    }
}

impl WantsNewerKeys for IdTokenError {
    fn wants_newer_keys(&self) -> bool {
        matches!(self, Self::Jwt(error) if error.wants_newer_keys())
    }
}

impl IdTokenRules {
    /// # Errors
    ///
    /// The first rule that the token breaks.
    pub(crate) fn verify(
        &self,
        token: &IdToken,
        expected: &Expectations<'_>,
        keys: &KeySet,
        now: Timestamp,
    ) -> Result<VerifiedIdToken, IdTokenError> {
        let jws = Jws::parse(token.secret())?;
        let claims = jws.verify(keys, &self.algorithms)?;
        self.check_kind(&claims)?;
        self.check_parties(&claims)?;
        let subject = claims.string("sub")?;
        if subject.is_empty() || subject.len() > MAX_SUBJECT {
            return Err(IdTokenError::Subject);
        }
        let expires = claims.time("exp")?;
        if now >= expires.plus(self.clock_skew) {
            return Err(IdTokenError::Expired);
        }
        // There is no oldest `iat`: the nonce ties a token to its sign-in, and `exp` ends it.
        let issued_at = claims.time("iat")?;
        if issued_at > now.plus(self.clock_skew) {
            return Err(IdTokenError::IssuedInFuture);
        }
        let auth_time = claims.optional_time("auth_time")?;
        match &expected.occasion {
            Occasion::SignIn { nonce, max_age } => {
                self.check_sign_in(&claims, nonce, *max_age, auth_time, now)?;
            }
            Occasion::Refresh { subject: of, held } => {
                if subject != *of {
                    return Err(IdTokenError::SubjectChanged);
                }
                if let Some(held) = held {
                    check_unchanged(&claims, auth_time, held)?;
                }
            }
        }
        if let Some(access_token) = expected.access_token {
            check_access_token(&claims, access_token)?;
        }
        Ok(VerifiedIdToken {
            issuer: self.issuer.clone(),
            subject: subject.into(),
            sid: claims.sid()?.map(Into::into),
            issued_at,
        })
    }

    fn check_kind(&self, claims: &Claims<'_>) -> Result<(), IdTokenError> {
        if claims.is_logout_token() {
            return Err(IdTokenError::LogoutToken);
        }
        // An access token that is a JWT (`at+jwt`, RFC 9068) is signed with the same keys and may name this client.
        match claims.typ() {
            None | Some("jwt" | "jose") => Ok(()),
            Some(_) => Err(IdTokenError::Type),
        }
    }

    fn check_parties(&self, claims: &Claims<'_>) -> Result<(), IdTokenError> {
        if claims.string("iss")? != &*self.issuer {
            return Err(IdTokenError::Issuer);
        }
        let audiences = claims.audiences()?;
        if !audiences.contains(&&*self.client_id) {
            return Err(IdTokenError::Audience);
        }
        let others = || {
            audiences
                .iter()
                .filter(|audience| **audience != &*self.client_id)
        };
        if !others().all(|other| {
            self.trusted_audiences
                .iter()
                .any(|trusted| **trusted == **other)
        }) {
            return Err(IdTokenError::UntrustedAudience);
        }
        // Required with several audiences as in the standard's first edition: the later one leaves it open, and a
        // token that others may hold should say whom it was made for.
        match claims.optional_string("azp")? {
            Some(party) if party != &*self.client_id => Err(IdTokenError::AuthorizedParty),
            None if others().next().is_some() => Err(IdTokenError::AuthorizedParty),
            _ => Ok(()),
        }
    }

    fn check_sign_in(
        &self,
        claims: &Claims<'_>,
        nonce: &str,
        max_age: Option<Duration>,
        auth_time: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), IdTokenError> {
        let stated = claims.optional_string("nonce")?;
        if !stated.is_some_and(|stated| same_secret(stated, nonce)) {
            return Err(IdTokenError::Nonce);
        }
        if let Some(max_age) = max_age {
            let auth_time = auth_time.ok_or(IdTokenError::AuthTimeMissing)?;
            if auth_time.plus(max_age).plus(self.clock_skew) < now {
                return Err(IdTokenError::AuthTooOld);
            }
        }
        Ok(())
    }
}

/// OIDC Core, section 12.2. What the held token does not say cannot be compared: it may itself be from a refresh, which
/// should leave the nonce out.
fn check_unchanged(
    claims: &Claims<'_>,
    auth_time: Option<Timestamp>,
    held: &IdToken,
) -> Result<(), IdTokenError> {
    let held = Jws::parse(held.secret());
    let held = held.as_ref().map(Jws::unverified_claims);
    let Ok(Ok(held)) = held else {
        // One that an app brought along from its own sign-in, of whatever form.
        return Ok(());
    };
    if let (Some(new), Ok(Some(old))) = (
        claims.optional_string("nonce")?,
        held.optional_string("nonce"),
    ) && new != old
    {
        return Err(IdTokenError::NonceChanged);
    }
    // A later one is what a provider says whose user has authenticated again since, for another app perhaps.
    if let (Some(new), Ok(Some(old))) = (auth_time, held.optional_time("auth_time"))
        && new < old
    {
        return Err(IdTokenError::AuthTimeChanged);
    }
    Ok(())
}

/// OIDC Core, section 3.1.3.8: the left half of the hash of the access token's characters.
fn check_access_token(claims: &Claims<'_>, access_token: &str) -> Result<(), IdTokenError> {
    let Some(stated) = claims.optional_string("at_hash")? else {
        return Ok(());
    };
    let hash = digest::digest(claims.algorithm().digest(), access_token.as_bytes());
    let (half, _) = hash.as_ref().split_at(hash.as_ref().len() / 2);
    if URL_SAFE_NO_PAD.encode(half) == stated {
        Ok(())
    } else {
        Err(IdTokenError::AccessTokenHash)
    }
}

#[cfg(test)]
#[path = "id_token_tests.rs"]
mod tests;
