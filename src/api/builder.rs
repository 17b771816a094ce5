//! Setting up an [`Api`].

use std::sync::Arc;
use std::time::Duration;

use reqwest::{ClientBuilder, redirect};

use super::origin::ApiOrigin;
use super::{Api, Inner};
use crate::error::ConfigError;
use crate::scopes::Scopes;

/// Sets up an [`Api`].
#[derive(Debug)]
#[must_use]
pub struct ApiBuilder {
    base: String,
    scopes: Vec<String>,
    resource: Option<String>,
    timeout: Duration,
    client: Option<ClientBuilder>,
}

impl Api {
    /// Begins with the API's base URL: `https`, or `http` on loopback, with a path where the API has one. No user, query or fragment.
    pub fn builder(base: impl Into<String>) -> ApiBuilder {
        ApiBuilder {
            base: base.into(),
            scopes: Vec::new(),
            resource: None,
            timeout: Duration::from_secs(30),
            client: None,
        }
    }
}

impl ApiBuilder {
    /// The scopes that its tokens carry. Default: none, which means the token that came with the sign-in, and for the app itself what the
    /// provider chooses.
    pub fn scopes(mut self, scopes: impl Scopes) -> Self {
        self.scopes = scopes.list().into_iter().map(str::to_owned).collect();
        self
    }

    /// The resource (RFC 8707) that its tokens are for. Default: none, which leaves it to the provider and to the
    /// [one configured for it](crate::ProviderBuilder::resource), for few providers know them.
    pub fn resource(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// How long status and headers of an answer are waited for, each of the two times that a call may take. Default: 30 s,
    /// about as long as proxies in front of the app wait for it. A millisecond to an hour. The default client also lets a pause in a
    /// body last so long.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The settings of the HTTP client, for certificates, proxies and connections of the app's own. Default: five seconds to connect,
    /// and else those of `reqwest`, the environment's proxies included.
    ///
    /// Redirects are switched off, and proxies for plain `http`, whatever they say here. Do not switch its store of cookies on: the client is shared by all
    /// users, and so would be their cookies.
    pub fn http_client(mut self, client: ClientBuilder) -> Self {
        self.client = Some(client);
        self
    }

    /// # Errors
    /// A setting is out of its range, or the HTTP client cannot be set up.
    pub fn build(self) -> Result<Api, ConfigError> {
        let origin = ApiOrigin::parse(&self.base)?;
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(3600));
        if !(least..=most).contains(&self.timeout) {
            return Err(ConfigError::OutOfRange {
                what: "timeout of an API",
                value: format!("{:?}", self.timeout),
                allowed: "a millisecond to an hour",
            });
        }
        let mut client = self.client.unwrap_or_else(|| default_client(self.timeout));
        // A client that follows a redirect takes the token along, where it thinks fit.
        client = client.redirect(redirect::Policy::none());
        if origin.is_secure() {
            client = client.https_only(true);
        } else {
            // It would see the token.
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| {
            tracing::error!(error = %crate::error::Chain(&error), "no HTTP client");
            ConfigError::Missing {
                what: "http_client of an API (it cannot be set up on this machine)",
            }
        })?;
        Ok(Api(Arc::new(Inner {
            origin,
            scopes: self.scopes.into(),
            resource: self.resource.map(Into::into),
            client,
            timeout: self.timeout,
        })))
    }
}

fn default_client(timeout: Duration) -> ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("axum-signout/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(timeout)
        // As for the provider: an idle connection that the server is about to close loses requests.
        .pool_idle_timeout(Duration::from_secs(4))
}
