//! Whose tokens an API's calls carry.

use std::future::Future;

use crate::auth::AppTokens;
use crate::error::Error;
use crate::extract::Tokens;
use crate::token::AccessToken;

/// Where the token of an API's call comes from: [`Tokens`], those of a user, or [`AppTokens`], those of the app itself. Not for
/// others to implement.
pub trait TokenSource: Source {}

impl<T: Source> TokenSource for T {}

/// What [`TokenSource`] is made of, out of reach of others.
pub trait Source: Sync {
    fn acquire(
        &self,
        scopes: &[&str],
        resource: Option<&str>,
    ) -> impl Future<Output = Result<AccessToken, Error>> + Send;

    /// Another one than one that was refused; `None` if there is none that would fare better.
    fn acquire_other(
        &self,
        scopes: &[&str],
        refused: &AccessToken,
    ) -> impl Future<Output = Result<Option<AccessToken>, Error>> + Send;

    /// The error that leads the user to the provider for what an API asks for; `None` where there is no user.
    fn interaction(&self, error: Error, scopes: &[&str], resource: Option<&str>) -> Option<Error>;
}

impl Source for Tokens {
    fn acquire(
        &self,
        scopes: &[&str],
        resource: Option<&str>,
    ) -> impl Future<Output = Result<AccessToken, Error>> + Send {
        self.opened().acquire(scopes, resource)
    }

    fn acquire_other(
        &self,
        scopes: &[&str],
        refused: &AccessToken,
    ) -> impl Future<Output = Result<Option<AccessToken>, Error>> + Send {
        self.opened().acquire_other(scopes, refused)
    }

    fn interaction(&self, error: Error, scopes: &[&str], resource: Option<&str>) -> Option<Error> {
        Some(self.opened().wanting(error, scopes, resource))
    }
}

impl Source for AppTokens {
    async fn acquire(&self, scopes: &[&str], resource: Option<&str>) -> Result<AccessToken, Error> {
        match resource {
            Some(resource) => self.acquire_for(resource, scopes).await,
            None => self.acquire(scopes).await,
        }
    }

    async fn acquire_other(
        &self,
        scopes: &[&str],
        refused: &AccessToken,
    ) -> Result<Option<AccessToken>, Error> {
        self.acquire_fresh(scopes, refused).await
    }

    fn interaction(&self, _: Error, _: &[&str], _: Option<&str>) -> Option<Error> {
        None
    }
}
