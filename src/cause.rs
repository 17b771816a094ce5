//! Why tokens leave the cache.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a sign-in ended. [`FrontChannel`](Self::FrontChannel) is a word of the store's contract that no route of this crate gives a
/// removal yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Cause {
    /// The user signed out in this session.
    UserSignOut,
    /// The user ended it from another session: it alone, or all but that one.
    SignOutOthers,
    /// The user signed out everywhere.
    SignOutEverywhere,
    /// An operator ended it, or all of the account's.
    Operator,
    /// The provider's front-channel logout.
    FrontChannel,
    /// The provider's back-channel logout: it sent a logout token.
    BackChannel,
    /// Not used for the idle lifetime.
    Idle,
    /// The absolute lifetime is over.
    Absolute,
    /// The provider no longer accepts the refresh token.
    RefreshRejected,
    /// A new sign-in of the same account in the same session took its place.
    Replaced,
    /// A limit on the number of sign-ins was reached: of the store or the account, and this one was used least recently, or of
    /// the session, and this one was the oldest.
    Capacity,
    /// The session ended by other hands: the app flushed it, or it could not be saved.
    SessionEnded,
}

impl Cause {
    /// The name, as it appears in traces.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserSignOut => "UserSignOut",
            Self::SignOutOthers => "SignOutOthers",
            Self::SignOutEverywhere => "SignOutEverywhere",
            Self::Operator => "Operator",
            Self::FrontChannel => "FrontChannel",
            Self::BackChannel => "BackChannel",
            Self::Idle => "Idle",
            Self::Absolute => "Absolute",
            Self::RefreshRejected => "RefreshRejected",
            Self::Replaced => "Replaced",
            Self::Capacity => "Capacity",
            Self::SessionEnded => "SessionEnded",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
