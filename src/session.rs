//! The browser's session: the one module that knows that tower-sessions comes in two versions.

mod data;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Extensions;
use serde_json::Value;

pub(crate) use self::data::SessionData;

/// A session of tower-sessions, 0.15 or 0.14.
///
/// Made from the session that the app's handler has: `AnySession::from(&session)`. Cheap to clone; all clones are one
/// session. This crate keeps its own under the key `axum-signout` of the session's data: names and keys of sign-ins, no tokens.
#[derive(Clone)]
pub struct AnySession(Inner);

#[derive(Clone)]
enum Inner {
    #[cfg(feature = "tower-sessions-015")]
    V015(tower_sessions::Session),
    #[cfg(feature = "tower-sessions-014")]
    V014(tower_sessions_014::Session),
}

/// The same expression for the session of either version. It matches on the place and not on a reference, because
/// without any version the type is empty, and a reference to an empty type still counts as inhabited.
macro_rules! either {
    ($any:expr, $session:ident => $body:expr) => {
        match $any.0 {
            #[cfg(feature = "tower-sessions-015")]
            Inner::V015(ref $session) => $body,
            #[cfg(feature = "tower-sessions-014")]
            Inner::V014(ref $session) => $body,
        }
    };
}

#[cfg_attr(
    not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
    allow(unused_variables)
)]
impl AnySession {
    /// The session that a session layer left in a request, of the version that is enabled; 0.15 wins over 0.14.
    pub(crate) fn from_extensions(extensions: &Extensions) -> Option<Self> {
        #[cfg(feature = "tower-sessions-015")]
        if let Some(session) = extensions.get::<tower_sessions::Session>() {
            return Some(session.into());
        }
        #[cfg(feature = "tower-sessions-014")]
        if let Some(session) = extensions.get::<tower_sessions_014::Session>() {
            return Some(session.into());
        }
        None
    }

    /// Whether the request brought the id of a session, or one was saved since. Before the data is read it says
    /// nothing of whether such a session exists: the id is the cookie's, unverified.
    pub(crate) fn has_cookie(&self) -> bool {
        either!(self, session => session.id().is_some())
    }

    /// The session's id.
    pub(crate) fn id(&self) -> Option<SessionId> {
        either!(self, session => session.id().map(|id| SessionId(id.0)))
    }

    /// A value of the session's data; loads the session first.
    pub(crate) async fn get(&self, key: &str) -> Result<Option<Value>, SessionError> {
        either!(self, session => session.get_value(key).await.map_err(failed("read")))
    }

    /// Sets a value of the session's data; loads the session first. It is written by [`save`](Self::save), or by the
    /// session layer when the response is not a server error.
    pub(crate) async fn set(&self, key: &str, value: Value) -> Result<(), SessionError> {
        either!(self, session => {
            session.insert_value(key, value).await.map(drop).map_err(failed("change"))
        })
    }

    /// Takes a value out of the session's data; loads the session first.
    pub(crate) async fn remove(&self, key: &str) -> Result<(), SessionError> {
        either!(self, session => session.remove_value(key).await.map(drop).map_err(failed("change")))
    }

    /// Writes the session now, and gives it an id if it has none.
    pub(crate) async fn save(&self) -> Result<(), SessionError> {
        either!(self, session => session.save().await.map_err(failed("save")))
    }

    /// Takes the id away and deletes what the store has under it; the data stays, for a [`save`](Self::save) to give
    /// it a new id.
    ///
    /// # Errors
    ///
    /// The session could not be loaded, and nothing changed; or the store did not delete the old record, and the id is
    /// gone all the same. [`has_cookie`](Self::has_cookie) tells the two apart.
    pub(crate) async fn cycle_id(&self) -> Result<(), SessionError> {
        either!(self, session => session.cycle_id().await.map_err(failed("renew")))
    }

    /// Whether it was changed since the request began.
    pub(crate) fn is_modified(&self) -> bool {
        either!(self, session => session.is_modified())
    }

    /// Ends the session: its data and its id are gone from this handle, so that the session layer sends the cookie's
    /// removal and saves nothing. What is inserted afterwards gets a new id.
    ///
    /// `flush()` would not do: it keeps the id when the store's delete fails, and leaves the old one in the record
    /// for a later insert to save under. The order here makes the session empty before the store is asked, so a store
    /// that fails, or a caller that gives up waiting for it, changes nothing about that.
    ///
    /// # Errors
    ///
    /// The store did not delete its record, or it is not known whether it did. The session has ended all the same; what is
    /// left is a record that a copy of the cookie still opens.
    pub(crate) async fn end(&self) -> Result<(), SessionError> {
        either!(self, session => {
            session.clear().await;
            session.cycle_id().await.map_err(failed("end"))
        })
    }

    /// The sign-ins that the session's data names; none if there is nothing.
    ///
    /// # Errors
    ///
    /// The session could not be loaded; or something is there that this version did not write: another version, before a
    /// rollback. Whose the rest of the data is cannot be told then, so it counts as [garbage](SessionError::is_garbage).
    pub(crate) async fn sign_ins(&self) -> Result<SessionData, SessionError> {
        match self.get(SessionData::KEY).await? {
            None => Ok(SessionData::default()),
            Some(value) => SessionData::decode(&value).ok_or(SessionError {
                operation: "read",
                reason: Reason::Foreign,
            }),
        }
    }

    /// Puts sign-ins into the session's data; without any the key goes.
    pub(crate) async fn set_sign_ins(&self, data: &SessionData) -> Result<(), SessionError> {
        if data.is_empty() {
            self.remove(SessionData::KEY).await
        } else {
            self.set(SessionData::KEY, data.encode()).await
        }
    }
}

/// The id of a session. [`cookie_value`](Self::cookie_value) makes a text of it where one is needed, which is rare.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(i128);

impl SessionId {
    /// As its store has it.
    pub(crate) fn number(self) -> i128 {
        self.0
    }

    /// As the session's cookie has it: plain, or behind a signature.
    pub(crate) fn cookie_value(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0.to_le_bytes())
    }
}

impl fmt::Debug for AnySession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The session's own `Debug` prints its id, which is as good as the cookie.
        f.write_str("AnySession([redacted])")
    }
}

/// What a session or its store could not do.
///
/// It carries no text of the store: tower-sessions traces that itself, and it may quote ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionError {
    operation: &'static str,
    reason: Reason,
}

impl SessionError {
    /// What the store holds is not a session, or not one of this version: no second try will read it.
    pub(crate) fn is_garbage(self) -> bool {
        matches!(self.reason, Reason::Decode | Reason::Foreign)
    }
}

#[cfg_attr(
    not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
    allow(dead_code, reason = "there are no sessions that could fail")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    Json,
    Encode,
    Decode,
    Backend,
    Foreign,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            Reason::Json => "a value does not fit JSON",
            Reason::Encode => "the session store could not encode it",
            Reason::Decode => "the session store could not decode it",
            Reason::Backend => "the session store failed",
            Reason::Foreign => "another version of this crate has written it",
        };
        write!(f, "could not {} the session: {reason}", self.operation)
    }
}

impl std::error::Error for SessionError {}

#[cfg_attr(
    not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
    allow(dead_code)
)]
fn failed<E: Into<Reason>>(operation: &'static str) -> impl FnOnce(E) -> SessionError {
    move |error| SessionError {
        operation,
        reason: error.into(),
    }
}

macro_rules! version {
    ($feature:literal, $sessions:ident, $variant:ident) => {
        #[cfg(feature = $feature)]
        impl From<$sessions::Session> for AnySession {
            fn from(session: $sessions::Session) -> Self {
                Self(Inner::$variant(session))
            }
        }

        #[cfg(feature = $feature)]
        impl From<&$sessions::Session> for AnySession {
            fn from(session: &$sessions::Session) -> Self {
                session.clone().into()
            }
        }

        #[cfg(feature = $feature)]
        impl From<$sessions::session::Error> for Reason {
            fn from(error: $sessions::session::Error) -> Self {
                use $sessions::session::Error;
                use $sessions::session_store::Error as Store;
                match error {
                    Error::SerdeJson(_) => Self::Json,
                    Error::Store(Store::Encode(_)) => Self::Encode,
                    Error::Store(Store::Decode(_)) => Self::Decode,
                    Error::Store(Store::Backend(_)) => Self::Backend,
                }
            }
        }
    };
}

version!("tower-sessions-015", tower_sessions, V015);
version!("tower-sessions-014", tower_sessions_014, V014);

#[cfg(test)]
pub(crate) mod tests;
