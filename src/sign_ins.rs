//! All sign-ins of an account, in whatever browser: for the user who wants to see them, and to end some.

use std::fmt;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use serde::{Serialize, Serializer};

use crate::account::Account;
use crate::cache::{Order, SignIn};
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::current::Current;
use crate::error::{Error, ErrorKind};
use crate::extract::AuthRejection;
use crate::id::{Address, OperationId, SignInId};
use crate::report::SignOutReport;
use crate::sign_out::{EndSessionRequest, end, sign_out};
use crate::store::{Lookup, SignInInfo, Target};

/// The sign-ins of the current account in all of its sessions (ASVS 7.5.2): to list them, and to end one, the others, or all. As an
/// extractor it is about the account of the session's latest sign-in, and refuses with 401 where nobody is signed in;
/// `Option<SignIns>` does not.
///
/// ```
/// use axum::{Form, Json};
/// use axum_signout::{Error, SignIns, SignInId, SignInSummary, SignOutReport};
///
/// async fn my_sign_ins(sign_ins: SignIns) -> Result<Json<Vec<SignInSummary>>, Error> {
///     Ok(Json(sign_ins.list().await?))
/// }
///
/// # #[derive(serde::Deserialize)] struct Which { id: SignInId }
/// async fn end_one(sign_ins: SignIns, Form(which): Form<Which>) -> Result<Json<SignOutReport>, Error> {
///     Ok(Json(sign_ins.end(which.id).await?))
/// }
/// ```
///
/// A session that held a sign-in which was ended here is emptied at its next request, and its requests that are under way get
/// no token any more. Handlers that end sign-ins must defend themselves against other sites' requests: a `POST` behind
/// `tower_http::csrf::CsrfLayer` is enough. ASVS 7.5.2 wants the user to prove who they are again before they end others'
/// sign-ins: send them to sign-in with `prompt=login` or `max_age` first, where that matters.
///
/// An operator does the same without a request, by [`Auth::sign_ins_of`](crate::Auth::sign_ins_of),
/// [`Auth::end_sign_in`](crate::Auth::end_sign_in) and [`Auth::end_sign_ins_of`](crate::Auth::end_sign_ins_of).
#[derive(Clone)]
pub struct SignIns {
    current: Current,
    sign_in: SignIn,
}

impl<S: Send + Sync> FromRequestParts<S> for SignIns {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let current = Current::of(parts)?.clone();
        let sign_in = current.required()?;
        Ok(Self { current, sign_in })
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for SignIns {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        let current = Current::of(parts)?.clone();
        let sign_in = current.optional()?;
        Ok(sign_in.map(|sign_in| Self { current, sign_in }))
    }
}

impl SignIns {
    /// Whose these are.
    #[must_use]
    pub fn account(&self) -> Account {
        self.sign_in.account()
    }

    /// The sign-ins of another account of this session.
    ///
    /// # Errors
    /// [`ErrorKind::StoreUnavailable`].
    pub fn of(&self, account: &Account) -> Result<Option<Self>, Error> {
        let found = self.current.of_account(account)?;
        Ok(found.map(|sign_in| Self {
            current: self.current.clone(),
            sign_in,
        }))
    }

    /// The account's sign-ins, newest first.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::NotSignedIn`]: the sign-in of this session has ended.
    /// * [`ErrorKind::StoreUnavailable`].
    pub async fn list(&self) -> Result<Vec<SignInSummary>, Error> {
        self.still_signed_in().await?;
        let Address { account, id } = self.sign_in.address();
        let all = self.current.core().cache.list(&account).await?;
        // It may have been ended while the store was asked.
        self.still_signed_in().await?;
        let all = all.into_iter();
        Ok(all.map(|one| SignInSummary::of(one, Some(id))).collect())
    }

    /// Ends one of the account's sign-ins, with cause [`SignOutOthers`](Cause::SignOutOthers). That of this session ends as by a
    /// sign-out here, with cause [`UserSignOut`](Cause::UserSignOut), and without the provider's logout.
    ///
    /// An id that is not one of the account's, or not any more, ends nothing and is a success: the report's
    /// [`evicted`](SignOutReport::evicted) is empty then, and [`pending`](SignOutReport::pending) 0.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::NotSignedIn`]: the sign-in of this session has ended. Nothing was changed.
    /// * [`ErrorKind::StoreUnavailable`]: whether it is one of the account's cannot be told. Nothing was changed.
    pub async fn end(&self, id: SignInId) -> Result<SignOutReport, Error> {
        self.still_signed_in().await?;
        if id == self.sign_in.address().id {
            return Ok(self.sign_out(EndSessionRequest::new()).await);
        }
        let core = self.current.core();
        let address = Address {
            account: self.sign_in.address().account,
            id,
        };
        // A removal is remembered whether anything was there or not: names that somebody made up must not fill the store.
        match core.cache.store().get(&address).await? {
            Lookup::Gone(_) => {
                let correlation_id = OperationId::random().to_string();
                Ok(SignOutReport::new(Cause::SignOutOthers, correlation_id))
            }
            Lookup::Live(_) | Lookup::Moved => {
                let order = Order::new(Target::SignIn(address), Cause::SignOutOthers);
                end(core, order).await
            }
        }
    }

    /// Ends all of the account's sign-ins but that of this session, with cause [`SignOutOthers`](Cause::SignOutOthers). One that is
    /// under way elsewhere is refused, and begins anew. To be offered to users who have changed a password or another factor
    /// (ASVS 7.4.3).
    ///
    /// A store that does not answer is no error: the report counts it as [pending](SignOutReport::pending).
    ///
    /// # Errors
    /// [`ErrorKind::NotSignedIn`]: the sign-in of this session has ended. Nothing was changed.
    pub async fn end_others(&self) -> Result<SignOutReport, Error> {
        self.still_signed_in().await?;
        let Address { account, id } = self.sign_in.address();
        let target = Target::AccountExcept(account, id);
        let order = Order::new(target, Cause::SignOutOthers);
        end(self.current.core(), order).await
    }

    /// Ends all of the account's sign-ins, with cause [`SignOutEverywhere`](Cause::SignOutEverywhere): this session ends too, or goes
    /// on with its other accounts. The provider's logout is left out; for that, see
    /// [`EndSessionRequest::everywhere`](crate::EndSessionRequest::everywhere).
    ///
    /// Infallible, as [`SignOut::run`](crate::SignOut::run) is, and a second time it succeeds again.
    pub async fn end_all(&self) -> SignOutReport {
        self.sign_out(EndSessionRequest::new().everywhere()).await
    }

    async fn sign_out(&self, request: EndSessionRequest) -> SignOutReport {
        let request = request.sign_in(self.sign_in.address().id).local_only();
        let cookies = self.current.asks().cookies();
        sign_out(&self.current, &cookies, request).await.report
    }

    /// A handler that runs on after its sign-in was ended, here or on another node, has no say any more.
    async fn still_signed_in(&self) -> Result<(), Error> {
        match self.sign_in.goes_on().await {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::NotSignedIn, "the sign-in has ended")),
        }
    }
}

impl fmt::Debug for SignIns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIns")
            .field("account", &self.account())
            .finish_non_exhaustive()
    }
}

/// One of an account's sign-ins, without its secrets. As JSON, times are whole seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SignInSummary {
    /// Which.
    pub id: SignInId,
    /// When it was created, by the store's clock.
    #[serde(serialize_with = "seconds")]
    pub created: Timestamp,
    /// When it was last used, by the store's clock. It is noted once a minute at most.
    #[serde(serialize_with = "seconds")]
    pub last_used: Timestamp,
    /// When it ends if it is not used again, by the store's clock.
    #[serde(serialize_with = "seconds")]
    pub expires: Timestamp,
    /// What the app [called](crate::AuthBuilder::sign_in_label) it. It comes from a request, so it is to be escaped where it is
    /// shown, and is personal data.
    pub label: Option<String>,
    /// Whether it is that of the session that asks; never for an operator.
    pub current: bool,
}

impl SignInSummary {
    pub(crate) fn of(info: SignInInfo, current: Option<SignInId>) -> Self {
        Self {
            id: info.address.id,
            created: info.created,
            last_used: info.last_used,
            expires: info.expires,
            label: info.label.map(Into::into),
            current: Some(info.address.id) == current,
        }
    }
}

fn seconds<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(time.as_secs())
}
