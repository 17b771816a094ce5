//! Calls of an API with a token, to that API only.

mod builder;
mod call;
mod challenge;
mod origin;
mod source;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::origin::ApiOrigin;

pub use self::builder::ApiBuilder;
pub use self::source::TokenSource;

/// An API that handlers call in the user's name, or for the [app itself](crate::Auth::app_tokens): each call carries a valid token, and
/// goes to this API only. Configured once and cheap to clone, for the app's state.
///
/// ```
/// # use axum::{Router, extract::State, routing::get};
/// # use axum_signout::{Api, Auth, ConfigError, Error, Tokens};
/// # fn app() -> Result<Router, ConfigError> {
/// let mail = Api::builder("https://graph.example.com/v1.0")
///     .scopes(["Mail.Read", "Mail.Send"])
///     .build()?;
/// let app = Router::new().route("/mail", get(inbox)).with_state(mail);
/// # Ok(app)
/// # }
///
/// async fn inbox(State(mail): State<Api>, tokens: Tokens) -> Result<String, Error> {
///     let answer = mail.get(&tokens, "/me/messages").await?;
///     // … a `reqwest::Response`, whatever its status …
///     Ok(answer.status().to_string())
/// }
///
/// async fn nightly(mail: &Api, auth: &Auth) -> Result<u16, Error> {
///     let answer = mail.get(&auth.app_tokens(), "/users").await?;
///     Ok(answer.status().as_u16())
/// }
/// # app().unwrap();
/// ```
///
/// # Where a token goes
///
/// 1. To the base URL's scheme, host and port, below its path. That is compared on the parsed URL, right before the token is put on;
///    anything else is refused with [`ErrorKind::Forbidden`](crate::ErrorKind::Forbidden), and nothing is sent. So is a path with a segment `..` or `.` in a
///    form that only some servers see (`..%2f`, `%252e%252e`, `..%5c`, `..;`). Plain `..` moves within the base path: what
///    comes from users and goes into a path is to be percent-encoded by the app.
/// 2. Redirects are not followed, not even on the same origin: the 3xx is the answer. Its `Location` can be given to
///    [`get`](Self::get), which refuses it where it leads elsewhere. A download that an API hands over to another origin is fetched from there by
///    a client of the app's own, without a token.
/// 3. In the header `Authorization` only, and only as a bearer token (RFC 6750 section 2.1). A request that carries that header already,
///    or one that says `Host`, is refused; defaults of the app's own [client](ApiBuilder::http_client) for either have no effect.
/// 4. Plain `http` is for loopback, and goes there directly, never through a proxy.
///
/// # What becomes of a 401
///
/// | the API says | what happens |
/// |---|---|
/// | nothing, or `invalid_token` | the call is repeated once with [another token](crate::Tokens::acquire_fresh), if there is one and the body can be sent again, which a stream cannot; the answer to that is the caller's |
/// | a claims challenge (`claims`, with `insufficient_claims` or `invalid_token`) | [`ErrorKind::InteractionRequired`](crate::ErrorKind::InteractionRequired), with [`Error::claims`](crate::Error::claims) |
/// | `insufficient_user_authentication` (RFC 9470) | the same, with [`Error::acr_values`](crate::Error::acr_values) and [`Error::max_age`](crate::Error::max_age) |
/// | anything else | the 401 is the caller's |
///
/// An error of the second and third kind that a handler returns sends the user to the provider, which is asked for just that:
/// [`AuthBuilder::redirect_to_sign_in`](crate::AuthBuilder::redirect_to_sign_in), or [`Tokens::interaction_url`](crate::Tokens::interaction_url) in one call.
/// With a token of the app itself there is no user to ask, and such a 401 is the caller's.
///
/// # Limits
///
/// An answer's status and headers are waited for [30 seconds](ApiBuilder::timeout), each of the two times. Its body is the caller's to read and to bound, as a
/// stream or whole; by default it fails after a pause that long. Of `WWW-Authenticate` 8 values of 8 kB and 16 challenges each are
/// read. Claims of more than 1 kB are no challenge. A user is sent to the provider once for the same challenge and at most three times in all for
/// the same scopes and resource in two minutes, and for no more than 2 kB of claims, `acr_values` and scopes; beyond that the 401 remains.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    origin: ApiOrigin,
    scopes: Box<[String]>,
    resource: Option<Box<str>>,
    client: reqwest::Client,
    timeout: Duration,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("base", &self.0.origin.to_string())
            .field("scopes", &self.0.scopes)
            .field("resource", &self.0.resource)
            .finish_non_exhaustive()
    }
}
