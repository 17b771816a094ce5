//! A sign-in that the app does by itself, on its way into cache and session.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use super::Ticket;
use crate::account::Account;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::id::SignInId;
use crate::label;
use crate::session::AnySession;
use crate::sign_in::{Arrival, establish};
use crate::store::Started;
use crate::token::{IdToken, TokenSet};

/// Made by [`Auth::sign_in`](crate::Auth::sign_in), and done when it is awaited.
#[must_use = "nobody is signed in until it is awaited"]
pub struct SigningIn {
    pub(super) core: Arc<Core>,
    pub(super) session: AnySession,
    pub(super) ticket: Option<Ticket>,
    pub(super) account: Account,
    pub(super) tokens: TokenSet,
    pub(super) label: Option<Box<str>>,
}

impl SigningIn {
    /// What the user is shown to tell this sign-in from their others, such as browser and address, as
    /// [`AuthBuilder::sign_in_label`](crate::AuthBuilder::sign_in_label) does for sign-ins of this crate. What is said there
    /// of its length, and of who sees it, holds here too. Default: none.
    ///
    /// ```
    /// # use axum_signout::{Account, Auth, Error, Ticket, TokenSet};
    /// # async fn f(auth: Auth, session: tower_sessions::Session, ticket: Ticket, account: Account, tokens: TokenSet) -> Result<(), Error> {
    /// auth.sign_in(&session, ticket, account, tokens)
    ///     .label("Firefox on Linux, 192.0.2.7")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn label(mut self, label: impl AsRef<str>) -> Self {
        self.label = label::bounded(label.as_ref());
        self
    }
}

impl IntoFuture for SigningIn {
    type Output = Result<SignInId, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Some(provider) = self.core.cache.provider(self.account.issuer()) else {
                return Err(Error::new(
                    ErrorKind::Forbidden,
                    "no provider with the account's issuer is configured",
                ));
            };
            let arrival = Arrival {
                client_id: provider.client_id().into(),
                started: Started {
                    at: self.ticket.map(|ticket| ticket.started),
                    id_token_iat: self.tokens.id_token().and_then(issued_at),
                },
                account: self.account.completed_by(&self.tokens),
                tokens: self.tokens,
                label: self.label,
            };
            establish(&self.core, &self.session, arrival).await
        })
    }
}

impl fmt::Debug for SigningIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningIn")
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

/// The `iat` of an ID token that the app has verified.
fn issued_at(token: &IdToken) -> Option<i64> {
    #[derive(serde::Deserialize)]
    struct Issued {
        iat: i64,
    }
    let account = Account::new("", "").with_id_token(token.clone());
    account.claims::<Issued>().map(|claims| claims.iat)
}
