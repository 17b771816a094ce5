//! The token endpoint (RFC 6749, section 3.2), and what its siblings share with it: a form, sent with the client's proof.
//!
//! The requests are made here and not by `oauth2`'s typed client, whose answers are read with its types: that client knows
//! neither `private_key_jwt` nor the grants of RFC 8693 and RFC 7523, does not say which status or `Retry-After` came, and
//! refuses a provider on loopback for revocation. So there is one place that authenticates the client.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, Method, StatusCode, header};
use oauth2::basic::BasicTokenType;
use oauth2::{HttpResponse, StandardTokenResponse};
use serde_json::{Map, Value};
use url::Url;
use url::form_urlencoded::Serializer;

use super::client_auth::{AssertionAudience, ClientAuth};
use super::http::HttpError;
use super::retry_after::retry_after;
use super::{Metadata, Provider, Unavailable};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind};
use crate::secret::Secret;
use crate::token::{IdTokenField, TokenSet};

/// An authorization code, and what belongs to it.
pub(crate) struct CodeExchange<'a> {
    pub(crate) code: &'a str,
    pub(crate) pkce_verifier: &'a str,
    pub(crate) redirect_uri: &'a str,
    /// All scopes that the sign-in asked for: what the answer grants when it does not say.
    pub(crate) scopes: &'a [&'a str],
}

/// The tokens of one answer.
#[derive(Debug)]
pub(crate) struct TokenAnswer {
    pub(crate) tokens: TokenSet,
    /// What was issued (RFC 8693, section 2.2.1).
    #[allow(dead_code, reason = "read by token exchange")]
    pub(crate) issued_token_type: Option<Box<str>>,
}

/// Why there are no tokens.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum TokenError {
    /// The code or the refresh token is not, or no longer, good.
    InvalidGrant,
    /// The user has to go to the provider. `claims` is the challenge to send along.
    Interaction {
        code: Box<str>,
        claims: Option<Box<str>>,
    },
    /// The provider refuses the request or the client, whatever the grant.
    Rejected { code: Box<str> },
    /// The provider is away, slow or overloaded.
    Unavailable {
        retry_after: Option<Duration>,
        /// Whether it is sure that the grant was not used: not if the request was sent and no answer was read.
        outcome_known: bool,
    },
    /// An answer came that cannot be read; the grant may be used up.
    Unusable,
}

/// Without the claims, which are the provider's text.
impl fmt::Debug for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenError({self})")
    }
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidGrant => f.write_str("the provider refused the grant: invalid_grant"),
            Self::Interaction { code, .. } => {
                write!(f, "the provider wants to see the user: {code}")
            }
            Self::Rejected { code } => write!(f, "the provider refused the request: {code}"),
            Self::Unavailable {
                outcome_known: true,
                ..
            } => f.write_str("the provider is not available"),
            Self::Unavailable { .. } => {
                f.write_str("the provider's answer was lost, if there was one")
            }
            Self::Unusable => f.write_str("the provider's answer is not usable"),
        }
    }
}

impl std::error::Error for TokenError {}

impl From<Unavailable> for TokenError {
    fn from(unavailable: Unavailable) -> Self {
        Self::Unavailable {
            retry_after: Some(unavailable.retry_after),
            outcome_known: true,
        }
    }
}

impl From<HttpError> for TokenError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::TooLarge => Self::Unusable,
            HttpError::NotSent | HttpError::TimedOut | HttpError::Broken => Self::Unavailable {
                retry_after: None,
                outcome_known: error == HttpError::NotSent,
            },
        }
    }
}

impl From<TokenError> for Error {
    fn from(error: TokenError) -> Self {
        let kind = match &error {
            TokenError::InvalidGrant | TokenError::Interaction { .. } => {
                ErrorKind::InteractionRequired
            }
            TokenError::Rejected { .. } | TokenError::Unusable => ErrorKind::ProviderRejected,
            TokenError::Unavailable { .. } => ErrorKind::ProviderUnavailable,
        };
        let challenge = match &error {
            TokenError::Interaction { claims, .. } => claims.clone(),
            _ => None,
        };
        let after = match &error {
            TokenError::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        };
        let mut result = Error::new(kind, "no tokens from the provider").with_source(error);
        if let Some(claims) = challenge {
            result = result.with_challenge(&claims);
        }
        match after {
            Some(after) => result.with_retry_after(after),
            None => result,
        }
    }
}

impl Provider {
    /// Exchanges an authorization code.
    pub(crate) async fn exchange_code(
        &self,
        exchange: &CodeExchange<'_>,
    ) -> Result<TokenAnswer, TokenError> {
        let mut params = vec![
            ("grant_type", "authorization_code"),
            ("code", exchange.code),
            ("redirect_uri", exchange.redirect_uri),
            ("code_verifier", exchange.pkce_verifier),
        ];
        params.extend(self.default_resource());
        self.token_request(&params, exchange.scopes, None).await
    }

    /// Uses a refresh token.
    ///
    /// Without scopes the answer is for all of the grant's; if it does not name them, the token is said to have none, and the
    /// caller knows better. Without a resource the token is for the configured one.
    pub(crate) async fn refresh(
        &self,
        refresh_token: &Secret,
        scopes: &[&str],
        resource: Option<&str>,
    ) -> Result<TokenAnswer, TokenError> {
        let joined = scopes.join(" ");
        let mut params = vec![
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.secret()),
        ];
        if !scopes.is_empty() {
            params.push(("scope", &joined));
        }
        match resource {
            Some(resource) => params.push(("resource", resource)),
            None => params.extend(self.default_resource()),
        }
        self.token_request(&params, scopes, resource).await
    }

    /// Asks for a token of the client itself (section 4.4). Only for a client [with a proof](Self::proves_client).
    ///
    /// Without scopes the provider chooses; without a resource the token is for the configured one.
    pub(crate) async fn client_credentials(
        &self,
        scopes: &[&str],
        resource: Option<&str>,
    ) -> Result<TokenAnswer, TokenError> {
        let joined = scopes.join(" ");
        let mut params = vec![("grant_type", "client_credentials")];
        if !scopes.is_empty() {
            params.push(("scope", &joined));
        }
        match resource {
            Some(resource) => params.push(("resource", resource)),
            None => params.extend(self.default_resource()),
        }
        self.token_request(&params, scopes, resource).await
    }

    /// Any grant. `asked` and `resource` describe the access token of the answer where that does not.
    #[tracing::instrument(skip_all, fields(provider = self.name(), grant = grant_type(params)))]
    pub(crate) async fn token_request(
        &self,
        params: &[(&str, &str)],
        asked: &[&str],
        resource: Option<&str>,
    ) -> Result<TokenAnswer, TokenError> {
        let outcome = async {
            let metadata = self.metadata().await?;
            let answer = self
                .post_form(&metadata, &metadata.token_endpoint, params)
                .await?;
            let fields = judge(&answer, self.clock().wall())?;
            read_tokens(fields, asked, resource).ok_or(TokenError::Unusable)
        }
        .await;
        match &outcome {
            Ok(_) => tracing::debug!("tokens were issued"),
            Err(error) => tracing::warn!(%error, "no tokens"),
        }
        outcome
    }

    /// Sends a form with the client's proof to an endpoint of this provider.
    pub(super) async fn post_form(
        &self,
        metadata: &Metadata,
        endpoint: &Url,
        params: &[(&str, &str)],
    ) -> Result<HttpResponse, HttpError> {
        let audience = AssertionAudience {
            issuer: self.issuer(),
            token_endpoint: metadata.token_endpoint.as_str(),
        };
        let limit = self.0.http.timeout();
        let proof = match self.0.credentials.prove(audience, limit).await {
            Ok(proof) => proof,
            Err(error) => {
                tracing::error!(%error, "the client's assertion could not be made");
                return Err(HttpError::NotSent);
            }
        };
        // The serializer is not `Send`, so it must be gone before the request is waited for.
        let body = {
            let mut form = Serializer::new(String::new());
            form.extend_pairs(params);
            let proof = proof.params.iter();
            form.extend_pairs(proof.map(|(name, value)| (name, value.secret())));
            form.finish().into_bytes()
        };
        let mut request = axum::http::Request::builder()
            .method(Method::POST)
            .uri(endpoint.as_str())
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            )
            .body(body)
            .map_err(|_| HttpError::NotSent)?;
        if let Some(header) = proof.header {
            request.headers_mut().insert(header::AUTHORIZATION, header);
        }
        self.0.http.send(request).await
    }

    /// Whether this client is a confidential one (section 2.1): it has a secret or makes assertions.
    pub(crate) fn proves_client(&self) -> bool {
        !matches!(self.0.credentials.auth, ClientAuth::None)
    }

    fn default_resource(&self) -> Option<(&'static str, &str)> {
        Some(("resource", self.0.resource.as_deref()?))
    }
}

/// By its name: any other parameter may be a secret.
fn grant_type<'a>(params: &[(&str, &'a str)]) -> Option<&'a str> {
    let (_, grant) = params.iter().find(|(name, _)| *name == "grant_type")?;
    Some(grant)
}

/// What an answer means, by its status first: a proxy in between answers with pages.
pub(super) fn judge(
    answer: &HttpResponse,
    now: Timestamp,
) -> Result<Map<String, Value>, TokenError> {
    let status = answer.status();
    let fields = match serde_json::from_slice(answer.body()) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    };
    if status.is_success() {
        return fields.ok_or(TokenError::Unusable);
    }
    let away = |outcome_known| TokenError::Unavailable {
        retry_after: retry_after(answer.headers(), now),
        outcome_known,
    };
    match status {
        // Turned away before anything was done.
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => return Err(away(true)),
        // The provider failed halfway, or a gateway gave up on it: the grant may be used.
        StatusCode::REQUEST_TIMEOUT => return Err(away(false)),
        _ if status.is_server_error() => return Err(away(false)),
        _ => {}
    }
    if !status.is_client_error() {
        return Err(TokenError::Unusable);
    }
    let fields = fields.unwrap_or_default();
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let Some(code) = text("error") else {
        return Err(TokenError::Rejected {
            code: format!("http_{}", status.as_u16()).into(),
        });
    };
    let claims = text("claims")
        .filter(|claims| claims.len() <= MAX_CLAIMS)
        .map(Into::into);
    Err(match code {
        "temporarily_unavailable" | "slow_down" => away(true),
        "server_error" => away(false),
        "interaction_required"
        | "login_required"
        | "consent_required"
        | "account_selection_required"
        | "insufficient_user_authentication" => TokenError::Interaction {
            code: code.into(),
            claims,
        },
        // Entra says so of a good refresh token, too, when a policy wants the user; its `suberror` tells.
        "invalid_grant" => match text("suberror") {
            Some(
                kind @ ("basic_action" | "additional_action" | "consent_required" | "message_only"),
            ) => TokenError::Interaction {
                code: kind.into(),
                claims,
            },
            _ if claims.is_some() => TokenError::Interaction {
                code: code.into(),
                claims,
            },
            _ => TokenError::InvalidGrant,
        },
        _ => TokenError::Rejected {
            code: error_code(code),
        },
    })
}

/// A claims challenge goes into a URL.
const MAX_CLAIMS: usize = 4096;

/// RFC 6749, section 5.2, and short: the code is shown to people.
pub(crate) fn error_code(code: &str) -> Box<str> {
    let fits = |c: char| matches!(c, '\x20'..='\x21' | '\x23'..='\x5b' | '\x5d'..='\x7e');
    if !code.is_empty() && code.len() <= 64 && code.chars().all(fits) {
        code.into()
    } else {
        "unreadable_error_code".into()
    }
}

/// Reads what providers send, which is not always what RFC 6749, section 5.1 has: lifetimes as text, and members that are
/// `null` or empty.
fn read_tokens(
    mut fields: Map<String, Value>,
    asked: &[&str],
    resource: Option<&str>,
) -> Option<TokenAnswer> {
    let refresh_in = seconds(fields.get("refresh_in"));
    let issued_token_type = fields
        .get("issued_token_type")
        .and_then(Value::as_str)
        .map(Into::into);
    match seconds(fields.get("expires_in")) {
        Some(lifetime) => {
            fields.insert("expires_in".to_owned(), lifetime.as_secs().into());
        }
        None => {
            fields.remove("expires_in");
        }
    }
    for name in ["refresh_token", "id_token", "scope"] {
        let there = |value: &Value| value.as_str().is_some_and(|text| !text.trim().is_empty());
        if !fields.get(name).is_some_and(there) {
            fields.remove(name);
        }
    }
    if let Some(Value::String(scope)) = fields.get_mut("scope") {
        *scope = scope.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if fields.get("access_token")?.as_str()?.is_empty() {
        return None;
    }
    // The error is not looked at: it may quote the token.
    let response: StandardTokenResponse<IdTokenField, BasicTokenType> =
        serde_json::from_value(Value::Object(fields)).ok()?;
    let mut tokens = TokenSet::from_response(&response, asked, resource);
    if let Some(after) = refresh_in {
        for token in &mut tokens.access_tokens {
            *token = token.clone().refresh_in(after);
        }
    }
    Some(TokenAnswer {
        tokens,
        issued_token_type,
    })
}

fn seconds(value: Option<&Value>) -> Option<Duration> {
    let seconds = match value? {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    // A hundred years: a lifetime beyond is none.
    (0.0..=3.2e9)
        .contains(&seconds)
        .then(|| Duration::from_secs(seconds as u64))
}

#[cfg(test)]
#[path = "token_endpoint_tests.rs"]
mod tests;
