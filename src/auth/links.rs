//! URLs that an app shows or registers.

use std::fmt;

/// What to register at the provider: absolute URLs, with the mount prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisteredUrls {
    /// For `redirect_uris` (OpenID Connect Dynamic Client Registration section 2): where sign-in comes back to.
    pub redirect_uri: String,
    /// For `post_logout_redirect_uris` (RP-Initiated Logout section 3.1): where the provider's logout comes back to.
    pub post_logout_redirect_uri: String,
    /// For `backchannel_logout_uri` (Back-Channel Logout section 2.2): where the provider posts logout tokens to. It must reach
    /// the app from the provider, without a browser. `backchannel_logout_session_required` is worth setting as well: with a
    /// `sid`, a logout ends that browser's sign-ins; without, all of the account.
    pub backchannel_logout_uri: String,
}

/// A link to sign-in, with parameters for this one request. `Display` is the URL.
#[derive(Clone, Debug)]
#[must_use]
pub struct SignInUrl {
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
}

impl SignInUrl {
    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.retain(|(have, _)| have != name);
        self.query.push((name.to_owned(), value.into()));
        self
    }

    /// Which provider, by its [name](crate::Provider::name). Default: the first.
    pub fn provider(self, name: impl Into<String>) -> Self {
        self.with("provider", name)
    }

    /// Who is about to sign in, as the provider knows them (OIDC Core section 3.1.2.1).
    pub fn login_hint(self, hint: impl Into<String>) -> Self {
        self.with("login_hint", hint)
    }

    /// `login`, `consent`, `select_account`, several of them with spaces between, or `none` alone. It adds up with what
    /// [the provider's configuration](crate::ProviderBuilder::authorization_param) asks for, and with the `login` that follows
    /// an unfinished sign-out; that one and `none` exclude each other, and sign-in then ends with `login_required`.
    pub fn prompt(self, prompt: impl Into<String>) -> Self {
        self.with("prompt", prompt)
    }

    /// How long ago the user may have authenticated, in seconds.
    pub fn max_age(self, seconds: u64) -> Self {
        self.with("max_age", seconds.to_string())
    }

    /// Authentication context class references, space-separated.
    pub fn acr_values(self, values: impl Into<String>) -> Self {
        self.with("acr_values", values)
    }

    /// Languages for the provider's pages, space-separated.
    pub fn ui_locales(self, locales: impl Into<String>) -> Self {
        self.with("ui_locales", locales)
    }

    /// A further parameter; it must be let through by [`AuthBuilder::sign_in_parameters`](crate::AuthBuilder::sign_in_parameters).
    pub fn extra_parameter(self, name: &str, value: impl Into<String>) -> Self {
        self.with(name, value)
    }
}

impl fmt::Display for SignInUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(&self.query);
        write!(f, "{}?{}", self.path, query.finish())
    }
}
