//! Faults to inject, endpoint by endpoint.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::{Semaphore, watch};

/// Where a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `/.well-known/openid-configuration`.
    Discovery,
    /// The key set.
    Jwks,
    /// The authorization endpoint.
    Authorize,
    /// The token endpoint, whatever the grant.
    Token,
    /// The token endpoint, asked with a code.
    Code,
    /// The token endpoint, asked with a refresh token.
    Refresh,
    /// The token endpoint, asked for a token of the client itself.
    ClientCredentials,
    /// The token endpoint, asked for a downstream token: token exchange
    /// (RFC 8693) or on-behalf-of.
    Downstream,
    /// The revocation endpoint.
    Revoke,
    /// The introspection endpoint.
    Introspect,
    /// The user-info endpoint.
    UserInfo,
    /// The end-session endpoint.
    EndSession,
}

/// What goes wrong.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The request waits for so long before it is handled.
    Delay(Duration),
    /// The request waits at a [`Gate`] before it is handled.
    Hold(Gate),
    /// The request is handled, then its answer waits at a [`Gate`].
    HoldAnswer(Gate),
    /// The connection is closed; the request is not handled.
    Drop,
    /// The request is handled, then the connection is closed instead of an
    /// answer: the tokens in it are lost.
    LoseAnswer,
    /// The request is handled, then the connection is closed after half of the
    /// answer's body.
    DropMidway,
    /// The request is not handled; this status with an HTML body is the answer.
    Status(u16),
    /// As [`Status`](Self::Status), with `Retry-After` in seconds.
    StatusRetryAfter(u16, u64),
    /// The request is not handled; 400 with this OAuth error code is the
    /// answer, such as `invalid_grant`.
    OAuthError(String),
    /// The request is not handled; 200 with something that is not JSON is the
    /// answer.
    Garbage,
    /// The request is handled; its JSON answer is padded to more than a
    /// megabyte.
    Huge,
    /// A member of the JSON answer is set to this value. With `issuer` at
    /// discovery, the document names the wrong issuer. At
    /// [`Endpoint::Authorize`] and [`Endpoint::EndSession`] it is a parameter
    /// of the redirect back to the client, such as `iss` or `state`, and
    /// redirects are what is counted.
    Set(String, Value),
    /// A member of the JSON answer is left out: `end_session_endpoint`,
    /// `revocation_endpoint`, `refresh_token`, `id_token`, … Redirects as with
    /// [`Set`](Self::Set).
    Without(String),
    /// No new refresh token; the old one stays good.
    NoRefreshToken,
    /// The access token is good for so long only.
    AccessTokenLifetime(Duration),
    /// Something is wrong with the ID token.
    IdToken(IdTokenFault),
}

impl Fault {
    /// The discovery document has no `end_session_endpoint`.
    #[must_use]
    pub fn no_end_session_endpoint() -> Self {
        Self::Without("end_session_endpoint".to_owned())
    }

    /// The discovery document has no `revocation_endpoint`.
    #[must_use]
    pub fn no_revocation_endpoint() -> Self {
        Self::Without("revocation_endpoint".to_owned())
    }

    /// The discovery document names another issuer.
    #[must_use]
    pub fn wrong_issuer() -> Self {
        Self::Set(
            "issuer".to_owned(),
            Value::from("https://issuer.invalid/other"),
        )
    }

    /// `invalid_grant` from the token endpoint.
    #[must_use]
    pub fn invalid_grant() -> Self {
        Self::OAuthError("invalid_grant".to_owned())
    }
}

/// What is wrong with an ID token.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum IdTokenFault {
    /// There is none.
    Missing,
    /// `iss` is another one.
    WrongIssuer,
    /// `nonce` is another one.
    WrongNonce,
    /// `aud` is another client.
    WrongAudience,
    /// `sub` is this one.
    OtherSubject(String),
    /// It expired an hour ago.
    Expired,
    /// `alg` is `none`, and there is no signature.
    Unsigned,
    /// `alg` is `HS256` and the key is the client's secret, or the empty
    /// string for a public client.
    Hs256,
    /// It is signed by a key that was never published, under a `kid` of its own.
    UnpublishedKey,
    /// It is signed by a key that was never published, under the `kid` of the
    /// published one.
    ForgedKey,
    /// The signature does not fit.
    BadSignature,
    /// A claim has this value; `null` included.
    Claim(String, Value),
    /// A claim is left out.
    WithoutClaim(String),
}

/// Something requests wait at until a test lets them go on, so that a test can
/// order what happens without sleeping.
///
/// ```
/// # async fn example(provider: axum_signout::testing::TestProvider) {
/// use axum_signout::testing::{Endpoint, Fault, Gate};
///
/// let gate = Gate::new();
/// provider.faults().once(Endpoint::Refresh, Fault::Hold(gate.clone()));
/// // … start something that refreshes …
/// gate.arrived(1).await;
/// // … the refresh is under way: sign out now …
/// gate.open();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    arrived: watch::Sender<usize>,
    passes: Semaphore,
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(GateState {
            arrived: watch::Sender::new(0),
            passes: Semaphore::new(0),
        }))
    }

    /// Waits until so many have arrived at the gate, counted from its making.
    pub async fn arrived(&self, count: usize) {
        let mut arrived = self.0.arrived.subscribe();
        // An error means that the sender is gone; `self` holds it.
        let _ = arrived.wait_for(|arrived| *arrived >= count).await;
    }

    /// How many have arrived so far.
    #[must_use]
    pub fn arrivals(&self) -> usize {
        *self.0.arrived.borrow()
    }

    /// Lets one request go on: one that waits, or the next to arrive.
    pub fn let_one_pass(&self) {
        self.0.passes.add_permits(1);
    }

    /// Lets all go on, those that wait and those still to come.
    pub fn open(&self) {
        self.0.passes.close();
    }

    /// Arrives, and waits to be let on.
    pub async fn pass(&self) {
        self.0.arrived.send_modify(|arrived| *arrived += 1);
        // Closing the semaphore is how the gate is opened for good.
        if let Ok(pass) = self.0.passes.acquire().await {
            pass.forget();
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// The faults of a [`TestProvider`](super::TestProvider). Several may strike
/// the same request; they do so in the order in which they were injected.
///
/// A fault counts the requests of its endpoint, whether or not it made a
/// difference to them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<Injected>>>);

#[derive(Debug)]
struct Injected {
    endpoint: Endpoint,
    fault: Fault,
    left: Option<usize>,
}

impl Injected {
    fn edits_redirect(&self) -> bool {
        matches!(self.endpoint, Endpoint::Authorize | Endpoint::EndSession)
            && matches!(self.fault, Fault::Set(..) | Fault::Without(_))
    }
}

impl Faults {
    /// From now on until [`clear`](Self::clear).
    pub fn always(&self, endpoint: Endpoint, fault: Fault) {
        self.add(endpoint, fault, None);
    }

    /// For the next request.
    pub fn once(&self, endpoint: Endpoint, fault: Fault) {
        self.add(endpoint, fault, Some(1));
    }

    /// For the next `count` requests.
    pub fn times(&self, count: usize, endpoint: Endpoint, fault: Fault) {
        self.add(endpoint, fault, Some(count));
    }

    /// Takes every fault back. What waits at a [`Gate`] goes on waiting.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// Takes the faults of one endpoint back.
    pub fn clear_endpoint(&self, endpoint: Endpoint) {
        self.lock().retain(|injected| injected.endpoint != endpoint);
    }

    fn add(&self, endpoint: Endpoint, fault: Fault, left: Option<usize>) {
        self.lock().push(Injected {
            endpoint,
            fault,
            left,
        });
    }

    /// Uses up the faults for one request.
    pub(super) fn take(&self, endpoints: &[Endpoint]) -> Active {
        self.take_such(|injected| {
            endpoints.contains(&injected.endpoint) && !injected.edits_redirect()
        })
    }

    /// Uses up the faults for one redirect, and lets them have its parameters.
    pub(super) fn edit_redirect(&self, endpoint: Endpoint, fields: &mut Vec<(String, String)>) {
        let active =
            self.take_such(|injected| injected.endpoint == endpoint && injected.edits_redirect());
        for fault in active.0 {
            let (name, value) = match fault {
                Fault::Set(name, Value::String(value)) => (name, Some(value)),
                Fault::Set(name, value) => (name, Some(value.to_string())),
                Fault::Without(name) => (name, None),
                _ => continue,
            };
            fields.retain(|(field, _)| *field != name);
            fields.extend(value.map(|value| (name, value)));
        }
    }

    fn take_such(&self, such: impl Fn(&Injected) -> bool) -> Active {
        let mut injected = self.lock();
        let mut active = Vec::new();
        for entry in injected.iter_mut().filter(|entry| such(entry)) {
            if let Some(left) = &mut entry.left {
                if *left == 0 {
                    continue;
                }
                *left -= 1;
            }
            active.push(entry.fault.clone());
        }
        injected.retain(|entry| entry.left != Some(0));
        Active(active)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Injected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The faults that strike one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Active(pub(super) Vec<Fault>);

impl Active {
    pub(super) fn id_token(&self) -> Vec<IdTokenFault> {
        self.0
            .iter()
            .filter_map(|fault| match fault {
                Fault::IdToken(fault) => Some(fault.clone()),
                _ => None,
            })
            .collect()
    }

    pub(super) fn no_refresh_token(&self) -> bool {
        self.0
            .iter()
            .any(|fault| matches!(fault, Fault::NoRefreshToken))
    }

    pub(super) fn access_token_lifetime(&self) -> Option<Duration> {
        self.0.iter().rev().find_map(|fault| match fault {
            Fault::AccessTokenLifetime(lifetime) => Some(*lifetime),
            _ => None,
        })
    }
}
