//! Telling the provider that a token is finished (RFC 7009; R32).

use std::time::Duration;

use super::token_endpoint::{TokenError, error_code, judge};
use super::{Metadata, Provider};
use crate::secret::Secret;

/// What kind a token is. The provider may look for it there first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenHint {
    RefreshToken,
    AccessToken,
}

impl TokenHint {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RefreshToken => "refresh_token",
            Self::AccessToken => "access_token",
        }
    }
}

/// Where a revocation stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Revocation {
    /// The token is finished, by this request or before it.
    Revoked,
    /// The provider does not revoke tokens of this kind. No failure.
    Unsupported,
    /// The provider does not revoke tokens.
    NoEndpoint,
    /// The provider refuses this client or request; again would be in vain.
    Rejected { code: Box<str> },
    /// The provider is away or overloaded, or its answer was lost: again, and no sooner than it says.
    Later { retry_after: Option<Duration> },
}

impl Revocation {
    /// The name, as it appears in events.
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Revoked => "done",
            Self::Unsupported => "unsupported",
            Self::NoEndpoint => "no endpoint",
            Self::Rejected { .. } => "refused",
            Self::Later { .. } => "put off",
        }
    }
}

impl Provider {
    /// One attempt. May be repeated: a token that is revoked already counts as revoked.
    #[tracing::instrument(skip_all, fields(provider = self.name(), hint = hint.name()))]
    pub(crate) async fn revoke(&self, token: &Secret, hint: TokenHint) -> Revocation {
        let outcome = match self.metadata().await {
            Ok(metadata) => self.revoke_at(&metadata, token, hint).await,
            Err(unavailable) => Revocation::Later {
                retry_after: Some(unavailable.retry_after),
            },
        };
        tracing::debug!(?outcome, "revocation");
        outcome
    }

    async fn revoke_at(&self, metadata: &Metadata, token: &Secret, hint: TokenHint) -> Revocation {
        let Some(endpoint) = &metadata.revocation_endpoint else {
            return Revocation::NoEndpoint;
        };
        let params = [("token", token.secret()), ("token_type_hint", hint.name())];
        let answer = match self.post_form(metadata, endpoint, &params).await {
            Ok(answer) => answer,
            Err(_) => return Revocation::Later { retry_after: None },
        };
        // Success has no body, or any.
        if answer.status().is_success() {
            return Revocation::Revoked;
        }
        match judge(&answer, self.clock().wall()) {
            Err(TokenError::Unavailable { retry_after, .. }) => Revocation::Later { retry_after },
            // Section 2.2 wants 200 for a token that is finished; not every provider read it.
            Err(TokenError::InvalidGrant) => Revocation::Revoked,
            Err(TokenError::Rejected { code }) => match &*code {
                "unsupported_token_type" => Revocation::Unsupported,
                "invalid_token" => Revocation::Revoked,
                _ => Revocation::Rejected { code },
            },
            Err(TokenError::Interaction { code, .. }) => Revocation::Rejected { code },
            Ok(_) | Err(TokenError::Unusable) => Revocation::Rejected {
                code: error_code(&format!("http_{}", answer.status().as_u16())),
            },
        }
    }
}
