//! Signing in: the code flow with PKCE (OIDC Core section 3.1, RFC 7636, RFC 9207), and putting what it brings into cache
//! and session.

mod callback;
mod establish;
mod pending;
mod start;

pub(crate) use self::callback::{Next, callback};
pub(crate) use self::establish::{Arrival, establish};
pub(crate) use self::pending::{Failure, parameters};
pub(crate) use self::start::{StartQuery, ask_for, start};
