//! What an operator does with a user's sign-ins, without a request of that user's.

use super::Auth;
use crate::account::Account;
use crate::cache::Order;
use crate::cause::Cause;
use crate::error::{Error, ErrorKind};
use crate::id::{AccountHash, Address, SignInId};
use crate::report::SignOutReport;
use crate::sign_ins::SignInSummary;
use crate::sign_out::end;
use crate::store::Target;

/// For operators (ASVS 7.4.5): background jobs, an administrator's handlers. Nothing here asks who is calling.
///
/// The account is `Account::new(issuer, subject)`. Where [`account_identity`](crate::AuthBuilder::account_identity) is configured,
/// it must have its claims: one that [`Tokens::account`](crate::Tokens::account) gave, or
/// [`with_claims`](Account::with_claims) that hold the configured ones. An account whose claims lack one of those is taken for one whose
/// ID token lacks it too, which goes by issuer and subject: where that is not so, such as for a misspelt name, nothing is found.
impl Auth {
    /// An account's sign-ins, newest first, in all of its sessions.
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::InvalidRequest`]: no provider with the account's issuer is configured, or the account has no claims although
    ///   [`account_identity`](crate::AuthBuilder::account_identity) asks for some.
    /// * [`ErrorKind::StoreUnavailable`].
    pub async fn sign_ins_of(&self, account: &Account) -> Result<Vec<SignInSummary>, Error> {
        let all = self.0.cache.list(&self.hash_of(account)?).await?;
        let all = all.into_iter();
        Ok(all.map(|one| SignInSummary::of(one, None)).collect())
    }

    /// Ends one of an account's sign-ins, with cause [`Operator`](Cause::Operator). An id that is not one of the account's, or not
    /// any more, ends nothing and is a success: the report's [`evicted`](SignOutReport::evicted) is empty then. A store that
    /// does not answer is no error: the report counts it as [pending](SignOutReport::pending).
    ///
    /// # Errors
    ///
    /// * [`ErrorKind::InvalidRequest`], as with [`sign_ins_of`](Self::sign_ins_of). Nothing was changed.
    /// * [`ErrorKind::Internal`]: it was stopped halfway, by a panic or the end of the process. What was done holds.
    pub async fn end_sign_in(
        &self,
        account: &Account,
        id: SignInId,
    ) -> Result<SignOutReport, Error> {
        let account = self.hash_of(account)?;
        let target = Target::SignIn(Address { account, id });
        end(&self.0, Order::new(target, Cause::Operator)).await
    }

    /// Ends all of an account's sign-ins, with cause [`Operator`](Cause::Operator): sessions, tokens and hooks as at a sign-out, and the
    /// report says what was done. Sign-ins that are under way are refused. The user can sign in again, unless the
    /// provider keeps them from it.
    ///
    /// ```
    /// # use axum_signout::{Account, Auth, Error};
    /// # async fn f(auth: Auth) -> Result<(), Error> {
    /// let ann = Account::new("https://login.example.com", "ann");
    /// let report = auth.end_sign_ins_of(&ann).await?;
    /// println!("{} ended, {} to come", report.evicted.len(), report.pending);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`end_sign_in`](Self::end_sign_in).
    pub async fn end_sign_ins_of(&self, account: &Account) -> Result<SignOutReport, Error> {
        let target = Target::Account(self.hash_of(account)?);
        end(&self.0, Order::new(target, Cause::Operator)).await
    }

    /// A14: an account that nobody can have is refused, or it would seem to have no sign-ins.
    fn hash_of(&self, account: &Account) -> Result<AccountHash, Error> {
        let invalid = |reason| Err(Error::new(ErrorKind::InvalidRequest, reason));
        let identity = &self.0.config.identity;
        if self.0.cache.provider(account.issuer()).is_none() {
            return invalid("no provider with the account's issuer is configured");
        }
        if !identity.is_empty() && !account.has_claims() {
            return invalid("the account has none of the claims that say who it is");
        }
        Ok(account.hash(identity))
    }
}
