//! What a sign-in under way must remember, and how it can fail.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use super::start::StartQuery;
use crate::clock::Timestamp;
use crate::cookies::{CookieError, CookieVault};
use crate::current::Current;
use crate::error::{Error, ErrorKind};
use crate::events;
use crate::id::ClaimName;

const PURPOSE: &str = "signin";

/// Kept in an encrypted cookie, so that the answer must come back to the browser that asked: not in the session, whose
/// cookie may be `Strict` or planted, and not in the store, which strangers could fill.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) verifier: String,
    pub(super) issuer: String,
    pub(super) target: Option<String>,
    /// The start stamp: the store's clock.
    pub(super) started: Timestamp,
    pub(super) query: StartQuery,
    /// Whether this one began by itself, after the first was refused by a mark.
    pub(super) restarted: bool,
    /// Whether the browser had a session when it left.
    pub(super) had_session: bool,
}

fn tag(state: &str) -> String {
    ClaimName::of("signin-state", &[state.as_bytes()]).to_string()[..12].to_owned()
}

impl Pending {
    pub(super) fn claim_name(&self) -> ClaimName {
        ClaimName::of("signin-state", &[self.state.as_bytes()])
    }

    /// Seals it into a cookie of the response; tabs side by side have one each, and the oldest beyond a few leave. What the
    /// provider is asked for goes before the page to come back to, which is left out where both are too much.
    pub(super) fn remember(
        &mut self,
        current: &Current,
        headers: &HeaderMap,
    ) -> Result<(), Failure> {
        let core = current.core();
        let now = core.cache.clock().wall();
        let lifetime = core.config.pending_sign_in;
        let mut cookie = self.seal(&core.vault, lifetime, now);
        if cookie == Err(CookieError::TooLarge) && self.target.take().is_some() {
            cookie = self.seal(&core.vault, lifetime, now);
        }
        let cookie = cookie.map_err(|error| {
            tracing::warn!(%error, "a sign-in could not be remembered");
            Failure::new(StatusCode::BAD_REQUEST, "request_too_large")
        })?;
        let oldest = core.vault.to_expire(headers, PURPOSE, now);
        current.set_cookies(
            oldest
                .iter()
                .filter_map(|tag| core.vault.expire(PURPOSE, tag)),
        );
        current.set_cookies([cookie]);
        Ok(())
    }

    fn seal(
        &self,
        vault: &CookieVault,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<HeaderValue, CookieError> {
        vault.seal(PURPOSE, &tag(&self.state), self, lifetime, now)
    }

    pub(super) fn recall(current: &Current, headers: &HeaderMap, state: &str) -> Option<Self> {
        let core = current.core();
        let now = core.cache.clock().wall();
        let pending: Self = core.vault.open(headers, PURPOSE, &tag(state), now)?;
        crate::id::same_secret(&pending.state, state).then_some(pending)
    }

    pub(super) fn forget(&self, current: &Current) {
        current.set_cookies(current.core().vault.expire(PURPOSE, &tag(&self.state)));
    }
}

/// Why a sign-in did not succeed: a status and a code, which is all that the page shows (R38).
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) code: String,
    pub(crate) retry_after: Option<std::time::Duration>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &str) -> Self {
        Self {
            status,
            code: sanitised(code),
            retry_after: None,
        }
    }

    pub(crate) fn bad_request(code: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        events::sign_in_failed(&error);
        let code = match error.kind() {
            ErrorKind::ProviderUnavailable => "provider_unavailable",
            ErrorKind::ProviderRejected => "invalid_provider_response",
            ErrorKind::StoreUnavailable | ErrorKind::Capacity => "temporarily_unavailable",
            ErrorKind::NotSignedIn => "signed_out_meanwhile",
            ErrorKind::InteractionRequired => "interaction_required",
            ErrorKind::Forbidden => "access_denied",
            ErrorKind::InvalidRequest => "invalid_request",
            ErrorKind::ApiUnavailable | ErrorKind::Misconfigured | ErrorKind::Internal => {
                "server_error"
            }
        };
        Self {
            retry_after: error.retry_after(),
            ..Self::new(error.kind().status(), code)
        }
    }
}

/// A provider's error code reaches the page only as far as it looks like one.
fn sanitised(code: &str) -> String {
    let kept: String = code
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
        .take(64)
        .collect();
    if kept.is_empty() {
        "unknown_error".into()
    } else {
        kept
    }
}

/// Query parameters, each at most once: with a doubled one, two readers could see two different requests.
pub(crate) fn parameters(query: Option<&str>) -> Result<HashMap<String, String>, Failure> {
    let mut found = HashMap::new();
    let query = query.unwrap_or_default();
    if query.len() > 16 * 1024 {
        return Err(Failure::bad_request("request_too_large"));
    }
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if found
            .insert(name.into_owned(), value.into_owned())
            .is_some()
        {
            return Err(Failure::bad_request("invalid_request"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::start::MAX_WANTED;
    use super::*;
    use crate::error::Wanted;
    use crate::id::random_text;

    #[test]
    fn error_codes_are_cut_to_what_codes_are_made_of_r38() {
        assert_eq!(Failure::bad_request("access_denied").code, "access_denied");
        assert_eq!(
            Failure::bad_request("<script>alert(1)</script>").code,
            "scriptalert1script"
        );
        assert_eq!(Failure::bad_request("\u{202e}<>").code, "unknown_error");
        assert_eq!(Failure::bad_request(&"a".repeat(500)).code.len(), 64);
    }

    #[test]
    fn the_most_that_an_api_asks_for_fits_into_the_cookie_of_the_sign_in_r33() {
        let issuer = format!("https://{}.example.com/tenant", "i".repeat(150));
        let mut wanted = Wanted {
            issuer: Some(issuer.clone()),
            ..Wanted::default()
        };
        let length = |wanted: &Wanted| serde_json::to_vec(wanted).unwrap().len();
        wanted.scopes = vec!["s".repeat(MAX_WANTED - length(&wanted) - 2)];
        assert_eq!(length(&wanted), MAX_WANTED);
        let mut query = StartQuery::parse(Some("prompt=login"), &[]).unwrap();
        query.wanted = Some(wanted);
        let mut pending = Pending {
            state: random_text(),
            nonce: random_text(),
            verifier: random_text(),
            issuer,
            target: None,
            started: Timestamp::from_secs(4_000_000_000),
            query,
            restarted: false,
            had_session: false,
        };
        let vault = CookieVault::new(CookieVault::derive_key(&[1; 32]).unwrap(), true);
        let (lifetime, now) = (Duration::from_secs(3600), pending.started);
        assert!(pending.seal(&vault, lifetime, now).is_ok());
        pending.target = Some("/".repeat(2048));
        let sealed = pending.seal(&vault, lifetime, now);
        assert_eq!(sealed, Err(CookieError::TooLarge));
    }

    #[test]
    fn a_doubled_parameter_is_refused() {
        assert!(parameters(Some("a=1&b=2")).is_ok());
        assert!(parameters(Some("state=1&state=2")).is_err());
        assert!(parameters(None).unwrap().is_empty());
    }
}
