//! Makes browsers accept the removal of the session's cookie.
//!
//! tower-sessions removes its cookie by a `Set-Cookie` that has neither `Secure` nor `HttpOnly` nor `SameSite`. A browser
//! drops that for a name that begins with `__Host-` or `__Secure-`, and the cookie outlives the session (A10). This
//! layer, outside the session layer, adds what is missing to every removal that passes, so it need not be told the
//! cookie's name; everything else passes byte for byte.
//!
//! A second removal, added by somebody who knows the name, would not do: in a response that also sets a new session
//! cookie it would remove that one.

use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Request, Response, header};
use tower::{Layer, Service};

use crate::undelivered::{Delivering, Delivery};

/// A layer, outside the session layer, that completes the removal of cookies with `Secure`, `HttpOnly` and `SameSite`,
/// so that a cookie named `__Host-…` is really gone after sign-out.
///
/// It also sees where a new session's cookie is not sent: tower-sessions answers 500 where it cannot save a session once more behind
/// the handler, and sends no cookie with a server error, nor to a client that has gone away. Nobody can open the sign-ins that such a
/// session holds; they are evicted, with the cause [`SessionEnded`](crate::Cause::SessionEnded). Without this layer they stay until
/// their idle time is up.
///
/// It is part of what `layer_with` makes; use it by itself where the layers are put together by hand.
///
/// ```
/// # use axum_signout::SessionCookieFix;
/// # let sessions = SessionCookieFix::new(true);
/// let app: axum::Router = axum::Router::new()
///     .layer(sessions)
///     // The last layer of a `Router` is the outermost; in a `ServiceBuilder` it would be the first.
///     .layer(SessionCookieFix::new(true));
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct SessionCookieFix {
    secure: bool,
}

impl SessionCookieFix {
    /// `secure` says whether the app is served over https. If it is not, `Secure` is added for those names only that
    /// have to have it.
    pub fn new(secure: bool) -> Self {
        Self { secure }
    }
}

impl<S> Layer<S> for SessionCookieFix {
    type Service = SessionCookieFixService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionCookieFixService {
            inner,
            secure: self.secure,
        }
    }
}

/// The service of [`SessionCookieFix`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionCookieFixService<S> {
    inner: S,
    secure: bool,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SessionCookieFixService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Delivering<S::Future, ResBody>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        let repair: fn(S::Response) -> S::Response = if self.secure {
            repaired::<true, ResBody>
        } else {
            repaired::<false, ResBody>
        };
        let delivery = Delivery::default();
        request.extensions_mut().insert(delivery.clone());
        Delivering::new(self.inner.call(request), delivery, repair)
    }
}

fn repaired<const SECURE: bool, B>(mut response: Response<B>) -> Response<B> {
    if let Some(keep) = response.extensions_mut().remove::<KeepSessionCookie>() {
        keep.drop_removals(response.headers_mut());
    }
    if response
        .extensions_mut()
        .remove::<FramedElsewhere>()
        .is_some()
    {
        allow_in_frames(response.headers_mut());
    }
    repair_all(response.headers_mut(), SECURE);
    response
}

/// Left in a response by the layer inside: it goes into a frame on a page of another site. The session's cookie came along, so
/// it is one with `SameSite=None; Secure`, and there browsers heed no other removal.
#[derive(Clone)]
pub(crate) struct FramedElsewhere;

fn allow_in_frames(headers: &mut HeaderMap) {
    let header::Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) else {
        return;
    };
    for value in cookies.iter_mut() {
        if removal(value.as_bytes()).is_some_and(|(_, has)| !has.same_site) {
            let allowed = [value.as_bytes(), b"; SameSite=None"].concat();
            // Only ASCII was added.
            if let Ok(allowed) = HeaderValue::from_bytes(&allowed) {
                *value = allowed;
            }
        }
    }
}

/// Left in a response by the layer inside: the session layer's removal of the cookie must not be sent. The request named a
/// session that is not there; where that is because another response has just given the browser a new one under the same cookie
/// name, the removal would take that away.
#[derive(Clone)]
pub(crate) struct KeepSessionCookie {
    /// What the session's cookie is called, as far as its value tells: it is the session's id, or ends with it.
    names: Vec<Vec<u8>>,
}

impl KeepSessionCookie {
    /// For the session that a request's cookies name.
    pub(crate) fn of(cookies: &HeaderMap, session_id: &str) -> Self {
        let mut names = Vec::new();
        for header in cookies.get_all(header::COOKIE) {
            for pair in header.as_bytes().split(|byte| *byte == b';') {
                let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
                    continue;
                };
                let (name, value) = (&pair[..equals], &pair[equals + 1..]);
                if value.trim_ascii().ends_with(session_id.as_bytes()) {
                    names.push(name.trim_ascii().to_vec());
                }
            }
        }
        Self { names }
    }

    fn drop_removals(&self, headers: &mut HeaderMap) {
        let all: Vec<HeaderValue> = headers
            .get_all(header::SET_COOKIE)
            .iter()
            .cloned()
            .collect();
        headers.remove(header::SET_COOKIE);
        for cookie in all {
            let removed = removal(cookie.as_bytes());
            if removed.is_none_or(|(name, _)| !self.names.iter().any(|own| own == name)) {
                headers.append(header::SET_COOKIE, cookie);
            }
        }
    }
}

/// The cookie's name and what else is said of it, if this removes one.
fn removal(cookie: &[u8]) -> Option<(&[u8], Attributes)> {
    let mut parts = cookie.split(|byte| *byte == b';');
    let pair = parts.next()?;
    let equals = pair.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
    let mut has = Attributes::default();
    parts.for_each(|part| has.note(part));
    (value.is_empty() && has.ends_now).then_some((name, has))
}

fn repair_all(headers: &mut HeaderMap, secure: bool) {
    if let header::Entry::Occupied(mut cookies) = headers.entry(header::SET_COOKIE) {
        for value in cookies.iter_mut() {
            if let Some(repaired) = repair(value.as_bytes(), secure) {
                *value = repaired;
            }
        }
    }
}

/// The completed removal; `None` if it is no removal, or complete.
fn repair(cookie: &[u8], secure: bool) -> Option<HeaderValue> {
    let (name, has) = removal(cookie)?;
    let mut repaired = cookie.to_vec();
    if !has.secure && (secure || needs_secure(name) || has.same_site_none) {
        repaired.extend(b"; Secure");
    }
    if !has.http_only {
        repaired.extend(b"; HttpOnly");
    }
    // `Lax`, whatever the cookie had: browsers accept both from the same places, and nothing is left to send.
    if !has.same_site {
        repaired.extend(b"; SameSite=Lax");
    }
    if repaired.len() == cookie.len() {
        return None;
    }
    HeaderValue::from_bytes(&repaired).ok()
}

/// RFC 6265bis, section 4.1.3: browsers compare the prefixes without regard to case.
fn needs_secure(name: &[u8]) -> bool {
    [&b"__Host-"[..], b"__Secure-"].iter().any(|prefix| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    })
}

#[derive(Default)]
struct Attributes {
    secure: bool,
    http_only: bool,
    same_site: bool,
    same_site_none: bool,
    ends_now: bool,
}

impl Attributes {
    fn note(&mut self, part: &[u8]) {
        let equals = part.iter().position(|byte| *byte == b'=');
        let (name, value) = match equals {
            Some(at) => (&part[..at], &part[at + 1..]),
            None => (part, &b""[..]),
        };
        let (name, value) = (name.trim_ascii(), value.trim_ascii());
        if name.eq_ignore_ascii_case(b"secure") {
            self.secure = true;
        } else if name.eq_ignore_ascii_case(b"httponly") {
            self.http_only = true;
        } else if name.eq_ignore_ascii_case(b"samesite") {
            self.same_site = true;
            self.same_site_none = value.eq_ignore_ascii_case(b"none");
        } else if name.eq_ignore_ascii_case(b"max-age") {
            // The last one counts.
            self.ends_now = value == b"0";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_completed_and_all_else_is_left_alone() {
        let rows: &[(&str, &str, Option<&str>)] = &[
            (
                "as tower-sessions sends it",
                "__Host-id=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
                Some(
                    "__Host-id=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure; HttpOnly; SameSite=Lax",
                ),
            ),
            (
                "bare",
                "id=; Max-Age=0",
                Some("id=; Max-Age=0; Secure; HttpOnly; SameSite=Lax"),
            ),
            (
                "what is there stays",
                "id=; SameSite=Strict; Secure; Max-Age=0; Path=/x; Domain=a.example",
                Some(
                    "id=; SameSite=Strict; Secure; Max-Age=0; Path=/x; Domain=a.example; HttpOnly",
                ),
            ),
            (
                "any case and spaces",
                "id = ;secure;HTTPONLY ; max-age = 0",
                Some("id = ;secure;HTTPONLY ; max-age = 0; SameSite=Lax"),
            ),
            (
                "complete",
                "id=; HttpOnly; SameSite=Strict; Secure; Max-Age=0",
                None,
            ),
            ("a new session", "id=abc; HttpOnly; Max-Age=3600", None),
            ("a value that ends now", "id=abc; Max-Age=0", None),
            ("no end", "id=; Path=/", None),
            ("another end", "id=; Max-Age=10", None),
            ("an end long ago", "id=; Max-Age=-1", None),
            ("zero later overridden", "id=; Max-Age=0; Max-Age=60", None),
            ("not a cookie", "id", None),
            ("empty", "", None),
            ("the word in the name", "Max-Age=; Path=/", None),
        ];
        for (name, given, want) in rows {
            let got = repair(given.as_bytes(), true);
            assert_eq!(got, want.map(HeaderValue::from_static), "{name}");
            if let Some(got) = got {
                assert_eq!(repair(got.as_bytes(), true), None, "{name}, once more");
            }
        }
    }

    #[test]
    fn without_https_only_names_that_need_it_become_secure() {
        let rows = [
            ("id=; Max-Age=0", "id=; Max-Age=0; HttpOnly; SameSite=Lax"),
            (
                "__Host-id=; Max-Age=0",
                "__Host-id=; Max-Age=0; Secure; HttpOnly; SameSite=Lax",
            ),
            (
                "__SECURE-id=; Max-Age=0",
                "__SECURE-id=; Max-Age=0; Secure; HttpOnly; SameSite=Lax",
            ),
            (
                "__Hos=; Max-Age=0",
                "__Hos=; Max-Age=0; HttpOnly; SameSite=Lax",
            ),
            (
                "id=; SameSite=None; Max-Age=0",
                "id=; SameSite=None; Max-Age=0; Secure; HttpOnly",
            ),
        ];
        for (given, want) in rows {
            assert_eq!(repair(given.as_bytes(), false).unwrap(), want);
        }
    }

    #[test]
    fn order_and_foreign_bytes_survive() {
        let mut headers = HeaderMap::new();
        let values: [&[u8]; 4] = [
            b"a=1",
            b"id=; Max-Age=0",
            b"b=\xff\xfe",
            b"c=; Path=/\xe9; Max-Age=0",
        ];
        for value in values {
            headers.append(header::SET_COOKIE, HeaderValue::from_bytes(value).unwrap());
        }
        repair_all(&mut headers, true);
        let after: Vec<&[u8]> = headers
            .get_all(header::SET_COOKIE)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let want: [&[u8]; 4] = [
            b"a=1",
            b"id=; Max-Age=0; Secure; HttpOnly; SameSite=Lax",
            b"b=\xff\xfe",
            b"c=; Path=/\xe9; Max-Age=0; Secure; HttpOnly; SameSite=Lax",
        ];
        assert_eq!(after, want);
    }

    /// A body of no particular type, through a plain service: nothing here needs Axum.
    #[tokio::test]
    async fn any_body_and_a_plain_service_will_do() {
        #[derive(Clone)]
        struct Plain;

        impl Service<Request<u8>> for Plain {
            type Response = Response<&'static str>;
            type Error = std::convert::Infallible;
            type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, _: Request<u8>) -> Self::Future {
                let response = Response::builder().header(header::SET_COOKIE, "id=; Max-Age=0");
                std::future::ready(Ok(response.body("body").unwrap()))
            }
        }

        let mut service = SessionCookieFix::new(true).layer(Plain);
        let response = service.call(Request::new(1)).await.unwrap();
        assert_eq!(
            response.headers()[header::SET_COOKIE],
            "id=; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
        );
        assert_eq!(*response.body(), "body");
    }

    macro_rules! session_layer {
        ($feature:literal, $name:ident, $sessions:ident) => {
            #[cfg(feature = $feature)]
            mod $name {
                use super::*;
                use axum::Router;
                use axum::body::Body;
                use axum::routing::get;
                use tower::ServiceExt as _;
                use $sessions::{Session, SessionManagerLayer};

                use crate::session::tests::$name::FailingStore;

                async fn cookies(app: &Router, path: &str, cookie: Option<&str>) -> Vec<String> {
                    let mut request = Request::builder().uri(path);
                    if let Some(cookie) = cookie {
                        request = request.header(header::COOKIE, cookie);
                    }
                    let request = request.body(Body::empty()).unwrap();
                    let response = app.clone().oneshot(request).await.unwrap();
                    let all = response.headers().get_all(header::SET_COOKIE);
                    all.iter().map(|v| v.to_str().unwrap().to_owned()).collect()
                }

                fn session(request: &Request<Body>) -> Session {
                    request.extensions().get::<Session>().unwrap().clone()
                }

                fn app(name: &'static str) -> Router {
                    let sessions =
                        SessionManagerLayer::new(FailingStore::default()).with_name(name);
                    Router::new()
                        .route(
                            "/in",
                            get(|request: Request<Body>| async move {
                                session(&request).insert("a", 1).await.unwrap();
                            }),
                        )
                        .route(
                            "/out",
                            get(|request: Request<Body>| async move {
                                session(&request).flush().await.unwrap();
                            }),
                        )
                        .route(
                            "/again",
                            get(|request: Request<Body>| async move {
                                let session = session(&request);
                                session.flush().await.unwrap();
                                session.cycle_id().await.unwrap();
                                session.insert("a", 2).await.unwrap();
                            }),
                        )
                        .layer(sessions)
                        .layer(SessionCookieFix::new(true))
                }

                #[tokio::test]
                async fn the_removal_of_a_prefixed_cookie_is_complete_r40() {
                    for name in ["__Host-id", "__Secure-id", "id"] {
                        let app = app(name);
                        let set = cookies(&app, "/in", None).await;
                        assert_eq!(set.len(), 1);
                        assert!(
                            set[0].contains("SameSite=Strict") && !set[0].contains("Lax"),
                            "{set:?}"
                        );
                        let pair = set[0].split(';').next().unwrap();

                        let removed = cookies(&app, "/out", Some(pair)).await;
                        assert_eq!(removed.len(), 1);
                        let removal = &removed[0];
                        assert!(removal.starts_with(&format!("{name}=; ")), "{removal}");
                        for attribute in
                            ["Path=/", "Max-Age=0", "Secure", "HttpOnly", "SameSite=Lax"]
                        {
                            let attribute = format!("; {attribute}");
                            assert_eq!(removal.matches(&*attribute).count(), 1, "{removal}");
                        }
                        assert!(!removal.contains("Domain"), "{removal}");
                    }
                }

                #[tokio::test]
                async fn a_new_session_of_the_same_response_is_left_alone() {
                    let app = app("__Host-id");
                    let first = cookies(&app, "/in", None).await.remove(0);
                    let pair = first.split(';').next().unwrap();
                    let again = cookies(&app, "/again", Some(pair)).await;
                    assert_eq!(again.len(), 1);
                    assert!(
                        !again[0].starts_with(pair) && !again[0].contains("Max-Age=0"),
                        "{again:?}"
                    );
                    assert_eq!(
                        again[0].split_once("; ").map(|c| c.1),
                        first.split_once("; ").map(|c| c.1)
                    );
                }
            }
        };
    }

    session_layer!("tower-sessions-015", v015, tower_sessions);
    session_layer!("tower-sessions-014", v014, tower_sessions_014);
}
