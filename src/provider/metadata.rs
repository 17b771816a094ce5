//! A provider's metadata (OpenID Connect Discovery 1.0, section 3; RFC 8414), as published or written by hand.

use std::fmt;

use serde_json::{Map, Value};
use url::Url;

use super::url_rules::{self, UrlProblem};
use crate::error::ConfigError;

/// A provider's metadata, written by hand for a provider that does not publish it.
///
/// ```
/// use axum_signout::ProviderMetadata;
///
/// let metadata = ProviderMetadata::new(
///     "https://login.example.com",
///     "https://login.example.com/authorize",
///     "https://login.example.com/token",
///     "https://login.example.com/keys",
/// )
/// .end_session_endpoint("https://login.example.com/logout");
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ProviderMetadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
    end_session_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    introspection_endpoint: Option<String>,
    userinfo_endpoint: Option<String>,
    iss_parameter: bool,
    back_channel_logout_session: bool,
}

impl ProviderMetadata {
    /// What every provider has. URLs are checked when the provider is built.
    pub fn new(
        issuer: impl Into<String>,
        authorization_endpoint: impl Into<String>,
        token_endpoint: impl Into<String>,
        jwks_uri: impl Into<String>,
    ) -> Self {
        Self {
            issuer: issuer.into(),
            authorization_endpoint: authorization_endpoint.into(),
            token_endpoint: token_endpoint.into(),
            jwks_uri: jwks_uri.into(),
            end_session_endpoint: None,
            revocation_endpoint: None,
            introspection_endpoint: None,
            userinfo_endpoint: None,
            iss_parameter: false,
            back_channel_logout_session: false,
        }
    }

    /// Where a browser is sent to sign out at the provider. By default none: signing out is local then.
    pub fn end_session_endpoint(mut self, url: impl Into<String>) -> Self {
        self.end_session_endpoint = Some(url.into());
        self
    }

    /// Where tokens are revoked (RFC 7009). By default none: tokens are not revoked then.
    pub fn revocation_endpoint(mut self, url: impl Into<String>) -> Self {
        self.revocation_endpoint = Some(url.into());
        self
    }

    /// Where tokens are looked into (RFC 7662). By default none. Nothing in this crate asks there.
    pub fn introspection_endpoint(mut self, url: impl Into<String>) -> Self {
        self.introspection_endpoint = Some(url.into());
        self
    }

    /// Where claims of the user are read (OIDC Core section 5.3). By default none. Nothing in this crate asks there: claims are
    /// those of the ID token.
    pub fn userinfo_endpoint(mut self, url: impl Into<String>) -> Self {
        self.userinfo_endpoint = Some(url.into());
        self
    }

    /// The provider's `authorization_response_iss_parameter_supported` (RFC 9207). By default not: if it is, an
    /// answer without the parameter is refused.
    pub fn authorization_response_iss_parameter(mut self, supported: bool) -> Self {
        self.iss_parameter = supported;
        self
    }

    /// The provider's `backchannel_logout_session_supported`: whether its logout tokens name the session. By default not.
    /// Without effect, as there is no back-channel logout yet.
    pub fn backchannel_logout_session(mut self, supported: bool) -> Self {
        self.back_channel_logout_session = supported;
        self
    }

    pub(super) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// What a provider published. An optional member of the wrong type counts as absent.
    fn read(document: &Map<String, Value>) -> Result<Self, MetadataError> {
        let text = |name: &'static str| document.get(name).and_then(Value::as_str);
        let required = |name: &'static str| {
            text(name)
                .map(str::to_owned)
                .ok_or(MetadataError::Missing(name))
        };
        let optional = |name: &'static str| match document.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(url)) => Some(url.clone()),
            Some(_) => {
                tracing::warn!(
                    member = name,
                    "the provider's metadata has a member of the wrong type, which is left out"
                );
                None
            }
        };
        let flag = |name: &str| document.get(name).and_then(Value::as_bool) == Some(true);
        Ok(Self {
            issuer: required("issuer")?,
            authorization_endpoint: required("authorization_endpoint")?,
            token_endpoint: required("token_endpoint")?,
            jwks_uri: required("jwks_uri")?,
            end_session_endpoint: optional("end_session_endpoint"),
            revocation_endpoint: optional("revocation_endpoint"),
            introspection_endpoint: optional("introspection_endpoint"),
            userinfo_endpoint: optional("userinfo_endpoint"),
            iss_parameter: flag("authorization_response_iss_parameter_supported"),
            back_channel_logout_session: flag("backchannel_logout_session_supported"),
        })
    }

    /// Checks every URL. `broken` decides about optional ones that are not usable.
    fn check(
        &self,
        broken: &mut dyn FnMut(MetadataError) -> Result<(), MetadataError>,
    ) -> Result<Metadata, MetadataError> {
        let at = |what, text: &str, problem| MetadataError::Url {
            what,
            value: text.chars().take(256).collect(),
            problem,
        };
        let issuer = url_rules::issuer(&self.issuer)
            .map_err(|problem| at("issuer", &self.issuer, problem))?;
        let required = |what, text: &str| {
            url_rules::endpoint(text, &issuer).map_err(|problem| at(what, text, problem))
        };
        let mut optional = |what, text: &Option<String>| {
            let Some(text) = text else { return Ok(None) };
            match url_rules::endpoint(text, &issuer) {
                Ok(url) => Ok(Some(url)),
                Err(problem) => broken(at(what, text, problem)).map(|()| None),
            }
        };
        Ok(Metadata {
            authorization_endpoint: required(
                "authorization_endpoint",
                &self.authorization_endpoint,
            )?,
            token_endpoint: required("token_endpoint", &self.token_endpoint)?,
            jwks_uri: required("jwks_uri", &self.jwks_uri)?,
            end_session_endpoint: optional("end_session_endpoint", &self.end_session_endpoint)?,
            revocation_endpoint: optional("revocation_endpoint", &self.revocation_endpoint)?,
            introspection_endpoint: optional(
                "introspection_endpoint",
                &self.introspection_endpoint,
            )?,
            userinfo_endpoint: optional("userinfo_endpoint", &self.userinfo_endpoint)?,
            iss_parameter: self.iss_parameter,
            back_channel_logout_session: self.back_channel_logout_session,
        })
    }
}

/// Metadata whose URLs were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) authorization_endpoint: Url,
    pub(crate) token_endpoint: Url,
    pub(crate) jwks_uri: Url,
    pub(crate) end_session_endpoint: Option<Url>,
    pub(crate) revocation_endpoint: Option<Url>,
    pub(crate) introspection_endpoint: Option<Url>,
    pub(crate) userinfo_endpoint: Option<Url>,
    /// RFC 9207: an answer without `iss` is refused.
    pub(crate) iss_parameter: bool,
    /// Whether logout tokens carry a `sid`.
    pub(crate) back_channel_logout_session: bool,
}

impl Metadata {
    /// Of what was written by hand, where every mistake is worth an error.
    pub(super) fn of_hand(metadata: &ProviderMetadata) -> Result<Self, ConfigError> {
        metadata.check(&mut Err).map_err(|error| match error {
            MetadataError::Url {
                what,
                value,
                problem,
            } => problem.into_config_error(what, &value),
            MetadataError::Missing(what) => ConfigError::Missing { what },
            MetadataError::NotAnObject | MetadataError::Issuer { .. } => {
                ConfigError::Missing { what: "metadata" }
            }
        })
    }

    /// Of what the provider published at the place of an issuer.
    ///
    /// An optional endpoint that is malformed or insecure counts as absent: a slip in the metadata must not keep
    /// anybody from signing in or out (A4).
    pub(super) fn of_document(document: &[u8], issuer: &str) -> Result<Self, MetadataError> {
        let Ok(Value::Object(document)) = serde_json::from_slice(document) else {
            return Err(MetadataError::NotAnObject);
        };
        let metadata = ProviderMetadata::read(&document)?;
        if metadata.issuer != issuer {
            return Err(MetadataError::Issuer {
                stated: metadata.issuer.chars().take(256).collect(),
            });
        }
        metadata.check(&mut |error| {
            tracing::warn!(issuer, %error, "an optional endpoint of the provider is left out");
            Ok(())
        })
    }
}

/// Why metadata was refused. The document is public, so its values may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MetadataError {
    NotAnObject,
    Missing(&'static str),
    Issuer {
        stated: String,
    },
    Url {
        what: &'static str,
        value: String,
        problem: UrlProblem,
    },
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("the metadata is not a JSON object"),
            Self::Missing(what) => write!(f, "the metadata has no {what}"),
            Self::Issuer { stated } => write!(
                f,
                "the metadata is of the issuer {stated:?}, which is not exactly the configured one"
            ),
            Self::Url {
                what,
                value,
                problem,
            } => write!(
                f,
                "the metadata's {what} {value:?} is not usable: {problem}"
            ),
        }
    }
}

impl std::error::Error for MetadataError {}
