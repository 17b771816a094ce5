//! What is known of the request under way: its session, the sign-ins that this opened, and what its response must carry.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use axum::extract::OriginalUri;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use smallvec::SmallVec;

use crate::account::Account;
use crate::cache::SignIn;
use crate::cause::Cause;
use crate::cookie_fix::KeepSessionCookie;
use crate::core::Core;
use crate::error::Error;
use crate::id::{Address, SignInId};
use crate::session::{AnySession, SessionId};

/// Put into the request's extensions by the layer.
#[derive(Clone, Debug)]
pub(crate) struct Current(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    session: Option<AnySession>,
    /// That of the request's cookie, whatever becomes of it.
    came_with: Option<SessionId>,
    asks: Asks,
    /// Nothing as long as nobody looked.
    found: OnceLock<Found>,
    effects: Mutex<Effects>,
}

/// What the request's session holds.
pub(crate) struct Found {
    /// Oldest first.
    pub(crate) sign_ins: Result<SmallVec<[SignIn; 1]>, Error>,
    /// What the session names although the store could not open it.
    pub(crate) unopened: Vec<Address>,
}

/// What the response must carry, whatever the handler makes of it.
#[derive(Default)]
pub(crate) struct Effects {
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) signed_out: bool,
    /// Why a sign-in was found ended when the request came in, where that is known.
    pub(crate) ended: Option<Cause>,
    /// The request's cookie names a session that is not there, or no longer; perhaps because another response is about to
    /// bring the browser a new one, which its removal would take away.
    pub(crate) keep_cookie: Option<KeepSessionCookie>,
    /// The response is on its way: what comes now, from its body or a socket, brings the browser no cookie.
    pub(crate) answered: bool,
}

/// What kind of answer the client understands.
#[derive(Clone, Debug)]
pub(crate) struct Asks {
    /// A person's navigation, which can be shown a page or sent elsewhere.
    pub(crate) navigation: bool,
    /// A script that wants JSON and cannot follow a redirect to another origin.
    pub(crate) json: bool,
    pub(crate) htmx: bool,
    /// Whether this is a question for the status, which is no use of the sign-in.
    pub(crate) status: bool,
    /// What was asked for, as the client sent it.
    uri: Uri,
    cookies: SmallVec<[HeaderValue; 1]>,
}

const HX_REQUEST: HeaderName = HeaderName::from_static("hx-request");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

impl Asks {
    pub(crate) fn of(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Self {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let accept = text(header::ACCEPT).unwrap_or_default();
        let htmx = headers.contains_key(HX_REQUEST);
        let navigation = match text(SEC_FETCH_MODE) {
            Some(mode) => mode == "navigate",
            // A browser from before Fetch metadata, or no browser.
            None => accept.contains("text/html"),
        };
        let original = extensions
            .get::<OriginalUri>()
            .map_or(uri, |original| &original.0);
        Self {
            navigation: navigation && !htmx && matches!(*method, Method::GET | Method::HEAD),
            json: accept.contains("application/json") && !accept.contains("text/html"),
            htmx,
            status: false,
            uri: original.clone(),
            cookies: headers.get_all(header::COOKIE).iter().cloned().collect(),
        }
    }

    /// The request's cookies.
    pub(crate) fn cookies(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for cookie in &self.cookies {
            headers.append(header::COOKIE, cookie.clone());
        }
        headers
    }

    /// The path as the client sent it.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    /// Path and query, to come back to.
    pub(crate) fn return_to(&self) -> &str {
        match self.uri.path_and_query() {
            Some(whole) => whole.as_str(),
            None => self.uri.path(),
        }
    }
}

impl Current {
    pub(crate) fn new(core: Arc<Core>, session: Option<AnySession>, asks: Asks) -> Self {
        Self(Arc::new(Inner {
            core,
            came_with: session.as_ref().and_then(AnySession::id),
            session,
            asks,
            found: OnceLock::new(),
            effects: Mutex::default(),
        }))
    }

    /// Before the handler runs, and once.
    pub(crate) fn set_found(&self, found: Found) {
        let first = self.0.found.set(found);
        debug_assert!(first.is_ok(), "a session is opened once for a request");
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    pub(crate) fn session(&self) -> Option<&AnySession> {
        self.0.session.as_ref()
    }

    /// The session's id when the request came in.
    pub(crate) fn came_with(&self) -> Option<SessionId> {
        self.0.came_with
    }

    pub(crate) fn asks(&self) -> &Asks {
        &self.0.asks
    }

    fn all(&self) -> Result<&[SignIn], Error> {
        match self.0.found.get().map(|found| &found.sign_ins) {
            None => Ok(&[]),
            Some(Ok(all)) => Ok(all),
            Some(Err(error)) => Err(error.clone()),
        }
    }

    /// The sign-ins that are there, oldest first: those that ended while the request ran are left out.
    pub(crate) fn sign_ins(&self) -> Result<Vec<SignIn>, Error> {
        let all = self.all()?.iter();
        Ok(all.filter(|one| !one.has_ended()).cloned().collect())
    }

    /// All that the request opened, ended since or not.
    pub(crate) fn opened(&self) -> &[SignIn] {
        let found = self.0.found.get();
        found.map_or(&[], |found| found.sign_ins.as_deref().unwrap_or_default())
    }

    pub(crate) fn unopened(&self) -> &[Address] {
        self.0.found.get().map_or(&[], |found| &found.unopened)
    }

    /// The sign-in that is meant when none is named.
    pub(crate) fn latest(&self) -> Result<Option<SignIn>, Error> {
        let latest = self.all()?.iter().rev().find(|one| !one.has_ended());
        Ok(latest.cloned())
    }

    pub(crate) fn of_account(&self, account: &Account) -> Result<Option<SignIn>, Error> {
        let all = self.sign_ins()?;
        Ok(all.into_iter().rev().find(|one| one.account() == *account))
    }

    pub(crate) fn named(&self, id: SignInId) -> Result<Option<SignIn>, Error> {
        let all = self.sign_ins()?;
        Ok(all.into_iter().find(|one| one.address().id == id))
    }

    pub(crate) fn effects(&self) -> MutexGuard<'_, Effects> {
        self.0
            .effects
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_cookies(&self, cookies: impl IntoIterator<Item = HeaderValue>) {
        let cookies = cookies
            .into_iter()
            .map(|cookie| (header::SET_COOKIE, cookie));
        self.effects().headers.extend(cookies);
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current")
            .field("found", &self.found.get().is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart() {
        type Row = (
            &'static str,
            &'static str,
            &'static [(&'static str, &'static str)],
            [bool; 3],
        );
        let rows: [Row; 7] = [
            (
                "a browser's navigation",
                "GET",
                &[("sec-fetch-mode", "navigate")],
                [true, false, false],
            ),
            (
                "an old browser's navigation",
                "GET",
                &[("accept", "text/html,*/*")],
                [true, false, false],
            ),
            (
                "a form post",
                "POST",
                &[("sec-fetch-mode", "navigate")],
                [false, false, false],
            ),
            (
                "fetch",
                "GET",
                &[("sec-fetch-mode", "cors"), ("accept", "application/json")],
                [false, true, false],
            ),
            (
                "fetch that takes anything",
                "GET",
                &[("sec-fetch-mode", "cors"), ("accept", "*/*")],
                [false, false, false],
            ),
            (
                "htmx",
                "GET",
                &[("hx-request", "true"), ("accept", "text/html")],
                [false, false, true],
            ),
            ("curl", "GET", &[("accept", "*/*")], [false, false, false]),
        ];
        for (name, method, headers, expected) in rows {
            let method: Method = method.parse().unwrap();
            let headers: HeaderMap = headers
                .iter()
                .map(|(k, v)| {
                    (
                        k.parse::<HeaderName>().unwrap(),
                        v.parse::<HeaderValue>().unwrap(),
                    )
                })
                .collect();
            let asks = Asks::of(
                &method,
                &Uri::from_static("/a?b"),
                &headers,
                &Extensions::new(),
            );
            assert_eq!([asks.navigation, asks.json, asks.htmx], expected, "{name}");
            assert_eq!(asks.return_to(), "/a?b");
        }
    }
}
