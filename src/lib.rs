//! The token cache and the sign-out for Axum web apps.
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

#[cfg(feature = "testing")]
pub mod testing;
