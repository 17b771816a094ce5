//! Signing out from a handler of the app's own, and what that answers with.

use std::fmt;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::current::{Asks, Current};
use crate::extract::AuthRejection;
use crate::pages;
use crate::report::SignOutReport;
use crate::sign_out::{EndSessionRequest, Exit, Outcome, sign_out, was_interrupted};

/// Signs this session out, from a handler of the app's own. The extractor never refuses for want of a sign-in: signing out
/// twice succeeds twice.
///
/// ```
/// use axum::response::IntoResponse;
/// use axum_signout::{EndSessionRequest, SignOut};
///
/// async fn leave(sign_out: SignOut) -> impl IntoResponse {
///     sign_out
///         .run(EndSessionRequest::new().post_logout_redirect("/bye"))
///         .await
/// }
/// ```
///
/// A handler of its own must defend itself against other sites' requests, as `/signout` does; a `POST` behind
/// `tower_http::csrf::CsrfLayer` is enough.
#[derive(Clone)]
pub struct SignOut {
    current: Current,
    headers: HeaderMap,
}

/// Without the headers: the cookies are among them.
impl fmt::Debug for SignOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignOut")
    }
}

impl<S: Send + Sync> FromRequestParts<S> for SignOut {
    type Rejection = AuthRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let current = Current::of(parts)?.clone();
        Ok(Self {
            current,
            headers: parts.headers.clone(),
        })
    }
}

impl SignOut {
    /// Whether this browser was sent to a provider's logout a while ago and did not come back: the user may still be signed in
    /// there. [`run`](Self::run), and so `/signout`, takes them there once more, which a page can offer.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        was_interrupted(self.current.core(), &self.headers)
    }

    /// Signs out: evicts the tokens, ends the session, tells the hooks, and prepares the way to the provider's logout.
    ///
    /// Infallible: what could not be done is in the [report](SignedOut::report) and goes on being tried. The cookie's
    /// removal and the other headers are put on the response by the layer, whatever the handler answers.
    pub async fn run(&self, request: EndSessionRequest) -> SignedOut {
        let outcome = sign_out(&self.current, &self.headers, request).await;
        SignedOut {
            outcome,
            asks: self.current.asks().clone(),
        }
    }
}

/// A sign-out that is done here and may go on at the provider: answer with it, so that the user gets there.
///
/// As a response it is a 303 to the next place; the URL as JSON (`{"location": …}`) for a script that asks for
/// `application/json`; `HX-Redirect` for htmx; or a form that submits itself where the URL would be too long.
#[must_use = "the user is sent to the provider's logout by this response"]
#[derive(Clone)]
pub struct SignedOut {
    outcome: Outcome,
    asks: Asks,
}

impl SignedOut {
    /// What was done.
    #[must_use]
    pub fn report(&self) -> &SignOutReport {
        &self.outcome.report
    }

    /// Where the user goes next. It carries the ID token, so it is not for logs. `None` where a form is needed.
    #[must_use]
    pub fn location(&self) -> Option<&str> {
        match &self.outcome.exit {
            Exit::To(url) => Some(url),
            Exit::Form { .. } => None,
        }
    }
}

impl fmt::Debug for SignedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedOut")
            .field("report", &self.outcome.report)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Location<'a> {
    location: &'a str,
}

impl IntoResponse for SignedOut {
    fn into_response(self) -> Response {
        leave(&self.outcome.exit, &self.asks)
    }
}

/// The response that takes the user along.
pub(crate) fn leave(exit: &Exit, asks: &Asks) -> Response {
    let mut response = match exit {
        Exit::Form { endpoint, fields } => {
            let fields: Vec<(&str, &str)> = fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            pages::form_post(endpoint, &fields)
        }
        Exit::To(url) if asks.json => Json(Location { location: url }).into_response(),
        Exit::To(url) => {
            let (status, name) = if asks.htmx {
                (StatusCode::OK, "hx-redirect")
            } else {
                (StatusCode::SEE_OTHER, "location")
            };
            match HeaderValue::from_str(url) {
                Ok(url) => (status, [(name, url)]).into_response(),
                // A URL of `url` or of the allowlist is ASCII; should it not be, signed out is signed out.
                Err(_) => pages::signed_out(),
            }
        }
    };
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
