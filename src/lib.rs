//! The token cache and the sign-out for Axum web apps.
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

// Floor 0: ground.
pub mod clock;
mod error;
mod id;
mod secret;

// Floor 1: values.
mod account;
mod cause;
mod token;

// Floor 2: ports.
pub mod store;

#[cfg(feature = "testing")]
pub mod testing;

pub use crate::account::Account;
pub use crate::cause::Cause;
pub use crate::error::{ConfigError, Error, ErrorKind};
pub use crate::id::{
    AccountHash, Address, ClaimName, DownstreamName, KeyHash, Locator, OperationId, Selector,
    SessionKey, SignInId, TokenHash,
};
pub use crate::secret::Secret;
pub use crate::token::{AccessToken, IdToken, IdTokenField, TokenSet};
