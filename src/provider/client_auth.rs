//! How this app proves to the provider that it is the client it says it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::BoxError;
use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::form_urlencoded::byte_serialize;

use crate::secret::Secret;

/// How this app authenticates at the token endpoint and its siblings (OIDC Core, section 9).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ClientAuth {
    /// The secret in the `Authorization` header: `client_secret_basic`. The default with a secret.
    SecretBasic,
    /// The secret in the form: `client_secret_post`.
    SecretPost,
    /// No secret, a public client: `none`. The default without a secret.
    None,
    /// A signed assertion: `private_key_jwt`.
    Assertion(Arc<dyn ClientAssertion>),
}

/// Makes the assertion that proves who the client is: `private_key_jwt` (RFC 7523, section 2.2), with whatever key and
/// signer the app has.
///
/// ```
/// use axum_signout::{AssertionAudience, ClientAssertion, Secret};
///
/// #[derive(Debug)]
/// struct Hsm;
///
/// # async fn sign(_: &str) -> Result<String, std::io::Error> { Ok(String::new()) }
/// #[async_trait::async_trait]
/// impl ClientAssertion for Hsm {
///     async fn assertion(
///         &self,
///         audience: AssertionAudience<'_>,
///     ) -> Result<Secret, Box<dyn std::error::Error + Send + Sync>> {
///         // A JWT with `iss` and `sub` the client, `aud` the issuer, a new `jti`, and an `exp` a minute from now.
///         Ok(sign(audience.issuer()).await?.into())
///     }
/// }
/// ```
#[async_trait]
pub trait ClientAssertion: Send + Sync + fmt::Debug + 'static {
    /// A new assertion in compact form, for one request. It has the provider's [time-out](crate::ProviderBuilder::timeout)
    /// to be made in.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being made. The request is then not sent, and the error's `Display` goes to the trace.
    async fn assertion(&self, audience: AssertionAudience<'_>) -> Result<Secret, BoxError>;
}

/// Whom an assertion is for.
#[derive(Clone, Copy, Debug)]
pub struct AssertionAudience<'a> {
    pub(super) issuer: &'a str,
    pub(super) token_endpoint: &'a str,
}

impl<'a> AssertionAudience<'a> {
    /// The issuer: the audience to prefer, as no other server can pass the assertion on to this one.
    #[must_use]
    pub fn issuer(&self) -> &'a str {
        self.issuer
    }

    /// The token endpoint's URL: the audience that older providers insist on, for requests to other endpoints too.
    #[must_use]
    pub fn token_endpoint(&self) -> &'a str {
        self.token_endpoint
    }
}

/// The client with its proof.
pub(super) struct Credentials {
    pub(super) client_id: Box<str>,
    pub(super) secret: Option<Secret>,
    pub(super) auth: ClientAuth,
}

/// The proof for one request: a header, or parameters.
pub(super) struct Proof {
    pub(super) header: Option<HeaderValue>,
    pub(super) params: Vec<(&'static str, Secret)>,
}

impl Credentials {
    pub(super) fn secret(&self) -> Option<&str> {
        self.secret.as_ref().map(Secret::secret)
    }

    /// # Errors
    ///
    /// The assertion could not be made.
    pub(super) async fn prove(
        &self,
        audience: AssertionAudience<'_>,
        limit: Duration,
    ) -> Result<Proof, BoxError> {
        let id = || ("client_id", Secret::new(&*self.client_id));
        let mut proof = Proof {
            header: None,
            params: Vec::new(),
        };
        match (&self.auth, &self.secret) {
            (ClientAuth::SecretBasic, Some(secret)) => {
                proof.header = Some(self.basic(secret)?);
            }
            (ClientAuth::SecretPost, Some(secret)) => {
                proof.params = vec![id(), ("client_secret", secret.clone())];
            }
            (ClientAuth::Assertion(maker), _) => {
                let assertion = tokio::time::timeout(limit, maker.assertion(audience)).await??;
                let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
                proof.params = vec![
                    id(),
                    ("client_assertion_type", kind.into()),
                    ("client_assertion", assertion),
                ];
            }
            // The builder refuses the forms that need a secret without one.
            (ClientAuth::None | ClientAuth::SecretBasic | ClientAuth::SecretPost, _) => {
                proof.params = vec![id()];
            }
        }
        Ok(proof)
    }

    /// RFC 6749, section 2.3.1: both are form-encoded before they are joined, or an identifier with a colon, as URLs have, would
    /// be cut in two.
    fn basic(&self, secret: &Secret) -> Result<HeaderValue, BoxError> {
        let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let pair = Secret::new(format!(
            "{}:{}",
            encode(&self.client_id),
            encode(secret.secret())
        ));
        let mut header =
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair.secret())))?;
        header.set_sensitive(true);
        Ok(header)
    }
}
