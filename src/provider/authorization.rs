//! Where the browser goes to sign in (RFC 6749, section 4.1.1; OIDC Core, section 3.1.2.1).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;

use super::{Metadata, Provider, Unavailable, prompt};
use crate::id::sha256;

/// What this crate sets by itself, and what would change the kind of answer: nothing that an app or a request adds may
/// say otherwise.
pub(super) const RESERVED: [&str; 12] = [
    "client_id",
    "client_secret",
    "code_challenge",
    "code_challenge_method",
    "nonce",
    "redirect_uri",
    "request",
    "request_uri",
    "response_mode",
    "response_type",
    "scope",
    "state",
];

/// One sign-in's request. What is `None` or empty is left out.
#[derive(Default)]
pub(crate) struct AuthorizationRequest<'a> {
    pub(crate) redirect_uri: &'a str,
    pub(crate) state: &'a str,
    pub(crate) nonce: &'a str,
    /// Only its hash is sent (RFC 7636, S256).
    pub(crate) pkce_verifier: &'a str,
    /// Besides those of the provider's configuration.
    pub(crate) scopes: &'a [&'a str],
    /// Besides the one of the provider's configuration.
    pub(crate) prompt: Option<&'a str>,
    pub(crate) max_age: Option<Duration>,
    pub(crate) login_hint: Option<&'a str>,
    pub(crate) acr_values: Option<&'a str>,
    pub(crate) ui_locales: Option<&'a str>,
    /// What step-up asks for: the `claims` parameter (OIDC Core, section 5.5).
    pub(crate) claims: Option<&'a str>,
    /// Besides the one of the provider's configuration (RFC 8707).
    pub(crate) resources: &'a [&'a str],
    /// Reserved names among these are left out; others take the place of the configuration's.
    pub(crate) extra: &'a [(&'a str, &'a str)],
}

impl Provider {
    /// # Errors
    ///
    /// The metadata is not there.
    pub(crate) async fn authorization_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<Url, Unavailable> {
        let metadata = self.metadata().await?;
        Ok(self.authorization_url_at(&metadata, request))
    }

    /// The scopes that a request asks for: those of the configuration and its own, each once.
    pub(crate) fn asked_scopes<'a>(&'a self, own: &[&'a str]) -> Vec<&'a str> {
        let mut scopes: Vec<&str> = self.scopes().collect();
        for scope in own {
            if !scopes.contains(scope) {
                scopes.push(scope);
            }
        }
        scopes
    }

    fn authorization_url_at(&self, metadata: &Metadata, request: &AuthorizationRequest<'_>) -> Url {
        let challenge = sha256(request.pkce_verifier.as_bytes());
        let scopes = self.asked_scopes(request.scopes).join(" ");
        let max_age = request.max_age.map(|age| age.as_secs().to_string());
        let prompt = request.prompt.map(|own| {
            let configured = self.0.authorization_params.iter();
            let mut configured = configured.filter(|(name, _)| &**name == "prompt");
            prompt::merged(own, configured.next().map_or("", |(_, value)| value))
        });
        let mut url = metadata.authorization_endpoint.clone();
        let mut query = url.query_pairs_mut();
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", self.client_id())
            .append_pair("redirect_uri", request.redirect_uri)
            .append_pair("scope", &scopes)
            .append_pair("state", request.state)
            .append_pair("nonce", request.nonce)
            .append_pair("code_challenge", &URL_SAFE_NO_PAD.encode(challenge))
            .append_pair("code_challenge_method", "S256");
        let optional = [
            ("prompt", prompt.as_deref()),
            ("max_age", max_age.as_deref()),
            ("login_hint", request.login_hint),
            ("acr_values", request.acr_values),
            ("ui_locales", request.ui_locales),
            ("claims", request.claims),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        for resource in self.0.resource.as_deref().iter().chain(request.resources) {
            query.append_pair("resource", resource);
        }
        let typed = |name: &str| {
            optional
                .iter()
                .any(|(other, value)| *other == name && value.is_some())
        };
        let mut added: Vec<(&str, &str)> = Vec::new();
        let configured = self.0.authorization_params.iter();
        let configured = configured.map(|(name, value)| (&**name, &**value));
        // The request's own come first, so that the configuration's are the ones left out.
        for (name, value) in request.extra.iter().copied().chain(configured) {
            if is_reserved(name) {
                tracing::warn!(name, "a reserved parameter of a sign-in is left out");
            } else if !typed(name) && !added.iter().any(|(other, _)| *other == name) {
                added.push((name, value));
            }
        }
        query.extend_pairs(added);
        drop(query);
        url
    }
}

pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name)
}
