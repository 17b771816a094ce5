//! Signing out from a handler of the app's own, and what that answers with.

use std::fmt;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::clock::Timestamp;
use crate::current::{Asks, Current};
use crate::extract::AuthRejection;
use crate::pages;
use crate::report::SignOutReport;
use crate::sign_out::{EndSessionRequest, Exit, Outcome, finish, forget, sign_out, unfinished};

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
///
/// Where the app's pages have a content security policy with `form-action`, it must name the provider's origin, and the app's
/// own: browsers hold the redirect that answers a form to it.
#[derive(Clone)]
pub struct SignOut {
    current: Current,
    headers: HeaderMap,
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
    /// Signs out: evicts the tokens, ends the session, tells the hooks, and prepares the way to the provider's logout.
    ///
    /// Where nobody is signed in any more but a sign-out [is unfinished](Self::is_unfinished), it goes on with that.
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

    /// The sign-out for which this browser was sent to a provider's logout within the last
    /// [few minutes](crate::AuthBuilder::sign_out_timeout) and did not come back, or for which that logout could not be found.
    /// Here everything is done; at the provider the user may still be signed in, and the app can show a banner with a way to
    /// [go on](crate::Auth::sign_out_resume_url). The next sign-in at that provider asks for a fresh login in any case, and ends
    /// this; an app with a sign-in of its own asks with `prompt=login` meanwhile, and then calls
    /// [`settle_unfinished`](Self::settle_unfinished).
    ///
    /// A sign-out that was told to leave the user [at the provider](EndSessionRequest::no_post_logout_redirect) is unfinished,
    /// too, for nobody comes back from it.
    ///
    /// This reads a cookie and asks nobody. A copy of the cookie that was settled since is found out by the store when the
    /// user goes on or signs in.
    ///
    /// ```
    /// # use axum_signout::{Auth, SignOut};
    /// async fn start_page(auth: Auth, sign_out: SignOut) -> String {
    ///     match sign_out.unfinished() {
    ///         Some(unfinished) => format!(
    ///             "<form method=post action={}>You may still be signed in at {}. <button>Sign out there</button></form>",
    ///             auth.sign_out_resume_url(),
    ///             unfinished.issuers().join(" and "),
    ///         ),
    ///         None => "Hello.".into(),
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn unfinished(&self) -> Option<Unfinished> {
        let (issuers, since) = unfinished(self.current.core(), &self.headers)?;
        Some(Unfinished { issuers, since })
    }

    /// Whether there is an [unfinished](Self::unfinished) sign-out.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.unfinished().is_some()
    }

    /// For apps with a sign-in of their own: the user has just proved, by a fresh login at that issuer, who they are, and nothing is
    /// [unfinished](Self::unfinished) there any more. `/signin/callback` does this by itself.
    pub async fn settle_unfinished(&self, issuer: &str) {
        forget(&self.current, &self.headers, issuer).await;
    }

    /// Sends the user to the provider's logout once more, where a sign-out [is unfinished](Self::unfinished): what
    /// [`/signout/resume`](crate::Auth::sign_out_resume_url) does, for a handler of the app's own. The provider is told the client
    /// only, since the ID token is gone, and will ask the user. Who has signed in again meanwhile stays signed in here. Where
    /// nothing is unfinished, this is [`run`](Self::run) with nothing asked for.
    pub async fn finish(&self) -> SignedOut {
        match finish(&self.current, &self.headers).await {
            Some(outcome) => SignedOut {
                outcome,
                asks: self.current.asks().clone(),
            },
            None => self.run(EndSessionRequest::new()).await,
        }
    }
}

/// A sign-out that is done here, and at a provider perhaps not: see [`SignOut::unfinished`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    issuers: Vec<String>,
    since: Timestamp,
}

impl Unfinished {
    /// The issuers whose logout the user has not come back from, in the order in which going on leads there.
    #[must_use]
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }

    /// When the user signed out here.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.since
    }
}

impl fmt::Debug for SignOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignOut")
            .field("is_unfinished", &self.is_unfinished())
            .finish_non_exhaustive()
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
