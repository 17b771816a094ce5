//! What one sign-out may ask for.

use std::fmt;
use std::sync::Arc;

use url::Url;

use crate::account::Account;
use crate::cache::SignIn;
use crate::cause::Cause;
use crate::id::SignInId;
use crate::token::IdToken;

/// One sign-out: whom, and what the provider is told (RP-Initiated Logout section 2). Everything has a default, which is to
/// sign out all accounts of the session and to go through the logout of the latest one's provider.
///
/// ```
/// use axum_signout::EndSessionRequest;
///
/// let request = EndSessionRequest::new()
///     .post_logout_redirect("/bye")
///     .logout_hint("ann@example.com")
///     .ui_locales("de en");
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct EndSessionRequest {
    pub(crate) whom: Whom,
    pub(crate) issuer: Option<String>,
    pub(crate) back: Back,
    pub(crate) hint: Hint,
    pub(crate) correlation_id: Option<String>,
    pub(crate) options: Options,
    pub(crate) app_state: Option<String>,
    pub(crate) local_only: bool,
    pub(crate) everywhere: bool,
    pub(crate) before_navigation: Option<BeforeNavigation>,
}

type BeforeNavigation = Arc<dyn Fn(&Url) -> bool + Send + Sync>;

#[derive(Clone, Debug, Default)]
pub(crate) enum Whom {
    #[default]
    All,
    Account(Account),
    SignIn(SignInId),
}

impl Whom {
    pub(super) fn names(&self, sign_in: &SignIn) -> bool {
        match self {
            Self::All => true,
            Self::Account(account) => sign_in.account() == *account,
            Self::SignIn(id) => sign_in.address().id == *id,
        }
    }
}

/// Where the user goes after the provider's logout.
#[derive(Clone, Debug, Default)]
pub(crate) enum Back {
    #[default]
    Configured,
    To(String),
    /// The user stays at the provider.
    Nowhere,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum Hint {
    #[default]
    Stored,
    Given(IdToken),
    None,
}

/// Parameters that go to the provider as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) logout_hint: Option<String>,
    pub(crate) ui_locales: Option<String>,
    pub(crate) extra: Vec<(String, String)>,
}

impl EndSessionRequest {
    /// All accounts of the session.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only this account; the others of the session stay signed in.
    pub fn account(mut self, account: &Account) -> Self {
        self.whom = Whom::Account(account.clone());
        self
    }

    /// Only this sign-in of the session.
    pub fn sign_in(mut self, sign_in: SignInId) -> Self {
        self.whom = Whom::SignIn(sign_in);
        self
    }

    /// Wherever the accounts are signed in, and not in this session only: in other browsers, on other nodes, and where a sign-in
    /// is still under way. The cause is [`SignOutEverywhere`](crate::Cause::SignOutEverywhere). The provider's logout is that of
    /// this browser; what becomes of the user's other sessions there is the provider's to say.
    ///
    /// ```
    /// use axum_signout::{EndSessionRequest, SignOut, SignedOut};
    ///
    /// async fn leave_everywhere(sign_out: SignOut) -> SignedOut {
    ///     sign_out.run(EndSessionRequest::new().everywhere()).await
    /// }
    /// ```
    pub fn everywhere(mut self) -> Self {
        self.everywhere = true;
        self
    }

    /// The provider whose logout the user is sent to, by its issuer. Default: that of the latest sign-in that ends; where
    /// those that end have several, one after the other.
    pub fn issuer(mut self, issuer: impl Into<String>) -> Self {
        self.issuer = Some(issuer.into());
        self
    }

    /// Where the user goes when the provider's logout is done: a path, or a URL on the allowlist. What is neither is
    /// left out, with a trace, for signing out comes first. Default: the one of the configuration.
    pub fn post_logout_redirect(mut self, target: impl Into<String>) -> Self {
        self.back = Back::To(target.into());
        self
    }

    /// Sends no `post_logout_redirect_uri`: the user stays at the provider. Nobody comes back to say that they are done, so the sign-out
    /// counts as [unfinished](crate::SignOut::unfinished) until its time is up.
    pub fn no_post_logout_redirect(mut self) -> Self {
        self.back = Back::Nowhere;
        self
    }

    /// An `id_token_hint` other than the sign-in's own ID token.
    pub fn id_token_hint(mut self, token: IdToken) -> Self {
        self.hint = Hint::Given(token);
        self
    }

    /// Sends `client_id` instead of an `id_token_hint`.
    pub fn no_id_token_hint(mut self) -> Self {
        self.hint = Hint::None;
        self
    }

    /// `logout_hint`: whom the provider should sign out. Left out by default.
    pub fn logout_hint(mut self, hint: impl Into<String>) -> Self {
        self.options.logout_hint = Some(hint.into());
        self
    }

    /// `ui_locales`: space-separated language tags for the provider's pages. Left out by default.
    pub fn ui_locales(mut self, locales: impl Into<String>) -> Self {
        self.options.ui_locales = Some(locales.into());
        self
    }

    /// A further parameter for the provider. The names that this crate sets cannot be given.
    pub fn extra_parameter(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.options.extra.push((name.into(), value.into()));
        self
    }

    /// The name under which hooks, traces and the report speak of this sign-out. Random by default.
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// A value that comes back in [`Returned`](crate::Returned) when the user does. It is kept in an encrypted cookie: the
    /// `state` of the protocol stays unguessable. Beyond about 2 kB it does not fit there; the sign-out is complete then too, but
    /// the return is not recognised and ends on the neutral page.
    pub fn state(mut self, state: impl Into<String>) -> Self {
        self.app_state = Some(state.into());
        self
    }

    /// Signs out here and leaves the provider's session as it is.
    pub fn local_only(mut self) -> Self {
        self.local_only = true;
        self
    }

    /// Called with the provider's URL when all local work is done; `false` keeps the user here.
    pub fn before_navigation(mut self, f: impl Fn(&Url) -> bool + Send + Sync + 'static) -> Self {
        self.before_navigation = Some(Arc::new(f));
        self
    }
}

impl EndSessionRequest {
    /// That of the sign-out as a whole.
    pub(super) fn cause(&self) -> Cause {
        match self.everywhere {
            true => Cause::SignOutEverywhere,
            false => Cause::UserSignOut,
        }
    }

    /// Whether it leaves the provider and the way there to this crate.
    pub(crate) fn is_plain(&self) -> bool {
        self.issuer.is_none()
            && self.before_navigation.is_none()
            && !matches!(self.back, Back::Nowhere)
    }
}

impl fmt::Debug for EndSessionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndSessionRequest")
            .field("whom", &self.whom)
            .field("issuer", &self.issuer)
            .field("correlation_id", &self.correlation_id)
            .field("local_only", &self.local_only)
            .field("everywhere", &self.everywhere)
            .finish_non_exhaustive()
    }
}
