//! What happened at the provider, as values a test can look for.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use axum::http::StatusCode;
use tokio::sync::watch;

use super::faults::Endpoint;
use crate::testing::Redacted;

/// What kind of token it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenKind {
    /// An access token.
    Access,
    /// A refresh token.
    Refresh,
}

/// Something that happened at the [`TestProvider`](super::TestProvider).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The discovery document was asked for.
    DiscoveryFetched,
    /// The key set was asked for.
    KeysFetched,
    /// An authorization request came in.
    Authorize {
        /// As the request says, registered or not.
        client_id: String,
        /// Every parameter but `state`, `nonce`, `code_challenge` and
        /// `id_token_hint`.
        params: BTreeMap<String, String>,
    },
    /// An authorization request was answered with an error.
    AuthorizeRefused {
        /// As the request says.
        client_id: String,
        /// The error code.
        error: String,
    },
    /// A user picked themselves on the sign-in page.
    SignedIn {
        /// The user's subject.
        subject: String,
        /// The provider's session.
        sid: String,
    },
    /// A code was handed out.
    CodeIssued {
        /// To this client.
        client_id: String,
        /// For this user.
        subject: String,
        /// In this session.
        sid: String,
    },
    /// The token endpoint handed out tokens, for any grant but a refresh.
    TokensIssued {
        /// To this client.
        client_id: String,
        /// For this user; `None` for client credentials.
        subject: Option<String>,
        /// `grant_type` of the request.
        grant_type: String,
        /// What the access token is good for.
        scopes: Vec<String>,
    },
    /// A refresh token was used with success.
    Refreshed {
        /// By this client.
        client_id: String,
        /// For this user.
        subject: String,
        /// What the access token is good for.
        scopes: Vec<String>,
        /// The refresh token that was used.
        token: Redacted,
    },
    /// The token endpoint answered with an error.
    TokenRefused {
        /// As the request says.
        client_id: String,
        /// `grant_type` of the request.
        grant_type: String,
        /// The error code.
        error: String,
    },
    /// A retired refresh token, or a code, was used again: its whole grant is
    /// revoked.
    ReuseDetected {
        /// By this client.
        client_id: String,
        /// Of this user.
        subject: String,
    },
    /// A token was revoked by its client.
    Revoked {
        /// By this client.
        client_id: String,
        /// What it was; `None` when the provider does not know the token.
        kind: Option<TokenKind>,
        /// The token.
        token: Redacted,
    },
    /// A revocation was answered with an error.
    RevocationRefused {
        /// The error code.
        error: String,
    },
    /// A token was introspected.
    Introspected {
        /// By this client.
        client_id: String,
        /// The answer.
        active: bool,
    },
    /// The user-info endpoint was asked.
    UserInfoFetched {
        /// The user, when the token was good.
        subject: Option<String>,
    },
    /// An end-session request came in.
    EndSessionRequested {
        /// `GET` or `POST`.
        method: String,
        /// Every parameter but `state` and `id_token_hint`.
        params: BTreeMap<String, String>,
        /// `id_token_hint`.
        hint: Option<Redacted>,
        /// `state`.
        state: Option<Redacted>,
    },
    /// An end-session request was refused with a page.
    EndSessionRefused {
        /// What was wrong with it.
        reason: String,
    },
    /// The user confirmed the sign-out.
    EndSessionConfirmed {
        /// The session that ends.
        sid: String,
    },
    /// The user chose to stay signed in.
    EndSessionDeclined {
        /// The session that stays.
        sid: String,
    },
    /// A session ended, whatever the reason.
    SessionEnded {
        /// The session.
        sid: String,
        /// Whose it was.
        subject: String,
    },
    /// A logout token was posted to a client, which has answered.
    BackChannelCall {
        /// To this client.
        client_id: String,
        /// About this session.
        sid: String,
        /// The status of the answer; `None` when there was none.
        status: Option<u16>,
    },
    /// A new signing key is in use.
    KeysRotated,
    /// A request came in that a fault strikes. Other events follow only if it
    /// is handled all the same.
    Faulted {
        /// The most general name of its endpoint: `Token`, not `Refresh`.
        endpoint: Endpoint,
    },
}

/// How a client answered a logout token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackChannelCall {
    /// The client.
    pub client_id: String,
    /// The status of the answer; `None` when there was none within ten seconds.
    pub status: Option<StatusCode>,
    /// The answer's body.
    pub body: String,
}

#[derive(Debug)]
pub(super) struct EventLog {
    events: Mutex<Vec<Event>>,
    length: watch::Sender<usize>,
}

impl EventLog {
    pub(super) fn new() -> Self {
        Self {
            events: Mutex::default(),
            length: watch::Sender::new(0),
        }
    }

    pub(super) fn push(&self, event: Event) {
        let length = {
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            events.push(event);
            events.len()
        };
        // Two pushes may announce their lengths in the wrong order; a waiter
        // looks at the events themselves, so any announcement will do.
        self.length.send_replace(length);
    }

    pub(super) fn all(&self) -> Vec<Event> {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn clear(&self) {
        self.events
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) async fn wait_for(&self, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let mut length = self.length.subscribe();
        loop {
            length.mark_unchanged();
            // Copied, so that `wanted` may ask the provider about its events.
            let found = self.all().into_iter().find(|event| wanted(event));
            if let Some(event) = found {
                return event;
            }
            if length.changed().await.is_err() {
                // The sender is a field of `self`, which is borrowed here.
                std::future::pending::<()>().await;
            }
        }
    }
}
