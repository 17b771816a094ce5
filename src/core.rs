//! What the flows work with: the parts of one `Auth`, put together by its builder.

use std::fmt;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;

use tokio::sync::Semaphore;
use tower_http::csrf::CsrfLayer;

use crate::cache::Cache;
use crate::config::Config;
use crate::cookies::CookieVault;
use crate::label;
use crate::pages;
use crate::provider::Provider;
use crate::return_url::{Allowlist, BaseUrl, SafeTarget};

/// The pages that the crate shows by itself, for an app that has its own. Every method has a default. Status and `no-store` are set
/// by the crate, whatever a page says.
pub trait Pages: Send + Sync + 'static {
    /// 401 for a person who went to a page without being signed in, where redirecting to sign-in is off.
    fn not_signed_in(&self, sign_in_url: &str) -> Response {
        pages::not_signed_in(sign_in_url)
    }

    /// 403 for a sign-out that another site asked for.
    fn forbidden(&self) -> Response {
        pages::error_page(StatusCode::FORBIDDEN, "Not allowed", None)
    }

    /// A sign-in that did not succeed. `code` is the error code of the provider (RFC 6749 section 4.1.2.1) or of this
    /// crate; made of letters, digits, `_`, `-` and `.` only.
    fn sign_in_failed(&self, status: StatusCode, code: &str) -> Response {
        pages::error_page(status, "Sign-in did not succeed", Some(code))
    }

    /// The neutral page that a sign-out ends on when nothing says where to go.
    fn signed_out(&self) -> Response {
        pages::signed_out()
    }
}

/// The crate's own pages.
#[derive(Debug)]
pub(crate) struct BuiltInPages;

impl Pages for BuiltInPages {}

/// The parts of one `Auth`.
pub(crate) struct Core {
    pub(crate) cache: Cache,
    pub(crate) config: Arc<Config>,
    pub(crate) base: BaseUrl,
    pub(crate) allowed: Allowlist,
    pub(crate) vault: CookieVault,
    pub(crate) csrf: CsrfLayer,
    pub(crate) after_sign_in: SafeTarget,
    /// `None`: the neutral page.
    pub(crate) after_sign_out: Option<SafeTarget>,
    pub(crate) pages: Arc<dyn Pages>,
    pub(crate) sign_in_label: Option<LabelFn>,
    /// Room for front-channel logouts that wait for the token store.
    pub(crate) front_channel_waiting: Arc<Semaphore>,
    /// Room for back-channel calls whose token is being verified.
    pub(crate) back_channel_waiting: Semaphore,
}

/// What the app calls a sign-in, by the request that ends it.
pub(crate) type LabelFn = Box<dyn Fn(&Parts) -> Option<String> + Send + Sync>;

impl Core {
    /// The app's label for the sign-in that a request ends. A closure that panics keeps nobody from signing in.
    pub(crate) fn label_of(&self, request: &Parts) -> Option<Box<str>> {
        let label = self.sign_in_label.as_ref()?;
        let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| label(request)));
        let label = answer.unwrap_or_else(|_| {
            tracing::error!("the closure for labels of sign-ins panicked");
            None
        })?;
        label::bounded(&label)
    }

    /// The provider of that name, or the first one where none is named.
    pub(crate) fn provider_named(&self, name: Option<&str>) -> Option<&Provider> {
        let providers = self.cache.providers();
        match name {
            None => providers.first(),
            Some(name) => providers.iter().find(|provider| provider.name() == name),
        }
    }

    /// Where a sign-in may end: not on the crate's own routes, or a link to sign-in could sign the user out by a navigation
    /// that comes from this origin.
    pub(crate) fn sign_in_target(&self, wanted: &str) -> Option<SafeTarget> {
        let target = self.allowed.check(wanted)?;
        let whole = match target.as_str() {
            path if path.starts_with('/') => format!("{}{path}", self.base.origin()),
            url => url.to_owned(),
        };
        let page = whole.split(['?', '#']).next().unwrap_or_default();
        let own = self.config.paths.all();
        let is_own = own.into_iter().any(|(_, path)| self.url(path) == page);
        (!is_own).then_some(target)
    }

    /// Whether a path is that of the status route, as the router sees it: with the mount prefix, or without where a proxy takes
    /// it off.
    pub(crate) fn is_status(&self, path: &str) -> bool {
        let status = &self.config.paths.status;
        let mount = path.strip_suffix(status.as_str());
        mount.is_some_and(|mount| mount.is_empty() || mount == self.base.prefix())
    }

    /// The absolute URL of one of the crate's routes.
    pub(crate) fn url(&self, path: &str) -> String {
        self.base.join_mounted(path)
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("cache", &self.cache)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
