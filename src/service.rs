//! What happens around each request: before the handler its session's sign-ins are opened, and a session that was ended
//! elsewhere is emptied (promise 4); after it, what the sign-out asks of the browser goes onto the response, and a session
//! that the app ended by itself takes its tokens along.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use smallvec::SmallVec;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::Service;

use crate::auth::Auth;
use crate::cache::{Opened, Order, SignIn, Use, within};
use crate::cause::Cause;
use crate::cookie_fix::KeepSessionCookie;
use crate::core::Core;
use crate::current::{Asks, Current, Effects, Found};
use crate::error::{Error, ErrorKind, Wanted};
use crate::events;
use crate::id::Address;
use crate::report::SessionOutcome;
use crate::session::{AnySession, SessionData, SessionId};
use crate::sign_in::ask_for;
use crate::sign_out::{end_session, renew_session};
use crate::store::Target;
use crate::undelivered::Delivery;

/// The service of [`AuthLayer`](crate::AuthLayer).
#[derive(Clone, Debug)]
pub struct AuthService<S> {
    inner: S,
    auth: Auth,
}

impl<S> AuthService<S> {
    pub(crate) fn new(inner: S, auth: Auth) -> Self {
        Self { inner, auth }
    }

    /// What is known of a request before its session is opened; nothing without a session.
    fn current<B>(&self, request: &Request<B>) -> Option<Current> {
        let session = AnySession::from_extensions(request.extensions())?;
        let core = self.auth.core();
        let mut asks = Asks::of(
            request.method(),
            request.uri(),
            request.headers(),
            request.extensions(),
        );
        asks.status = core.is_status(asks.path());
        Some(Current::new(core.clone(), Some(session), asks))
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for AuthService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    ReqBody: Send + 'static,
    ResBody: Default + Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<ReqBody>) -> Self::Future {
        // The clone that was polled ready is the one to call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let current = self.current(&request);
        Box::pin(async move {
            let Some(current) = current else {
                return Ok(without_session());
            };
            if current.came_with().is_some() {
                open(&current).await;
            }
            let delivery = request.extensions().get::<Delivery>().cloned();
            request.extensions_mut().insert(current.clone());
            let mut leaving = Leaving::new(current);
            let mut response = inner.call(request).await?;
            leaving.check().await;
            if let Some(delivery) = delivery {
                delivery.note(&leaving.current).await;
            }
            finish(&leaving.current, &mut response);
            Ok(response)
        })
    }
}

fn without_session<B: Default>() -> Response<B> {
    tracing::error!(
        "no tower-sessions session was found in the request: AuthLayer must run inside SessionManagerLayer. On a Router, \
         the layer added last runs first: .layer(auth.layer()).layer(session_layer). In a ServiceBuilder, the layer added \
         first runs first: .layer(session_layer).layer(auth.layer()). Auth::layer_with(session_layer) puts them in order \
         for both. The session layer must be that of tower-sessions 0.15 (feature tower-sessions-015) or 0.14 (feature \
         tower-sessions-014), with that feature enabled"
    );
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// How long a request waits for each of the stores before it goes on without them.
const STORE_WAIT: Duration = Duration::from_secs(5);

/// Opens what the session holds, whose cookie the request brought.
async fn open(current: &Current) {
    let (sign_ins, unopened) = match opened(current).await {
        Ok(live) => (Ok(live), Vec::new()),
        Err(Unopened { error, names }) => (Err(error), names),
    };
    current.set_found(Found { sign_ins, unopened });
}

/// What could not be opened, and why.
struct Unopened {
    error: Error,
    names: Vec<Address>,
}

impl From<Error> for Unopened {
    fn from(error: Error) -> Self {
        let names = Vec::new();
        Self { error, names }
    }
}

fn unavailable(what: &'static str) -> Error {
    Error::new(ErrorKind::StoreUnavailable, what)
}

const SESSIONS_LATE: &str = "the session store did not answer in time";

async fn opened(current: &Current) -> Result<SmallVec<[SignIn; 1]>, Unopened> {
    let (core, id) = (current.core(), current.came_with());
    let Some(session) = current.session() else {
        return Ok(SmallVec::new());
    };
    // Signed out, though it could not be read: nothing that it names is opened before that is caught up with.
    if let Some(id) = id
        && core.cache.is_unread(&id)
    {
        let caught_up = Box::pin(timeout(STORE_WAIT, core.cache.catch_up(id))).await;
        caught_up.unwrap_or_else(|_| Err(unavailable(SESSIONS_LATE)))?;
    }
    let held = within(STORE_WAIT, pin!(session.sign_ins())).await;
    let held = match held.map_err(|_| unavailable(SESSIONS_LATE))? {
        Ok(held) if held.is_empty() => {
            if !session.has_cookie() {
                keep_cookie(current);
            }
            return Ok(SmallVec::new());
        }
        Ok(held) => held.into_sign_ins(),
        Err(error) if error.is_garbage() => {
            tracing::warn!(%error, "a session that cannot be read is ended");
            Box::pin(end_session(session)).await;
            return Ok(SmallVec::new());
        }
        Err(error) => {
            return Err(unavailable("the session store failed")
                .with_source(error)
                .into());
        }
    };
    let used = match current.asks().status {
        true => Use::None,
        false => Use::Noted,
    };
    let opened = within(STORE_WAIT, pin!(core.cache.open(&held, used))).await;
    let opened = opened.map_or_else(
        |_| Err(unavailable("the token store did not answer in time")),
        |opened| opened.map_err(Error::from),
    );
    let opened = opened.map_err(|error| Unopened {
        error,
        names: held.iter().map(|locator| locator.address).collect(),
    })?;
    let all = opened.len();
    let mut live = SmallVec::new();
    let mut moved = false;
    let mut ended = None;
    for (opened, locator) in opened.into_iter().zip(&held) {
        match opened {
            Opened::Live(sign_in) => live.push(sign_in),
            Opened::Moved => moved = true,
            Opened::Dead(cause) => {
                events::session_found_ended(&locator.address, cause);
                ended = cause.or(ended);
            }
        }
    }
    if live.len() == all {
        return Ok(live);
    }
    let (live, superseded) = Box::pin(leave_ended(core, session, live, moved)).await;
    current.effects().ended = ended;
    if superseded {
        keep_cookie(current);
    }
    Ok(live)
}

/// Ends a session of which a sign-in has ended, or renews it for those that stay. Returns what stays, and whether another
/// request has ended or renewed it before.
async fn leave_ended(
    core: &Arc<Core>,
    session: &AnySession,
    live: SmallVec<[SignIn; 1]>,
    moved: bool,
) -> (SmallVec<[SignIn; 1]>, bool) {
    // A client that goes away must not leave accounts under keys that no session holds.
    let tasks = core.cache.tasks().clone();
    let (core, session) = (core.clone(), session.clone());
    let renewed = tasks.spawn(async move {
        if moved || live.is_empty() {
            end_session(&session).await;
            return (SmallVec::new(), moved);
        }
        match renew_session(&core, &session, &live).await {
            SessionOutcome::Renewed => (live, false),
            SessionOutcome::NotDeleted => {
                // Under keys that no session holds.
                for one in &live {
                    let target = Target::SignIn(one.address());
                    let order = Order::new(target, Cause::SessionEnded);
                    core.cache.evict_quietly(order).await;
                }
                (SmallVec::new(), false)
            }
            // Another request was faster: its response has the cookie of the renewed session.
            _ => (SmallVec::new(), true),
        }
    });
    match timeout(STORE_WAIT, renewed).await {
        Ok(renewed) => renewed.unwrap_or_default(),
        Err(_) => (SmallVec::new(), true),
    }
}

fn keep_cookie(current: &Current) {
    let cookies = current.asks().cookies();
    let id = current.came_with();
    let id = id.map(SessionId::cookie_value).unwrap_or_default();
    current.effects().keep_cookie = Some(KeepSessionCookie::of(&cookies, &id));
}

/// Notices, after the handler, that it ended the session without this crate; also when the handler did not come to its end
/// because the client went away.
struct Leaving {
    current: Current,
    checked: bool,
}

impl Leaving {
    fn new(current: Current) -> Self {
        Self {
            current,
            checked: false,
        }
    }

    async fn check(&mut self) {
        if let Some(check) = self.start() {
            // Waited for: the response tells the user that they are signed out.
            let _ = check.await;
        }
    }

    /// The check as a task, once, where there is something to check.
    fn start(&mut self) -> Option<JoinHandle<()>> {
        if std::mem::replace(&mut self.checked, true) {
            return None;
        }
        let current = &self.current;
        if !current.session()?.is_modified() {
            return None;
        }
        let all_ended = current.opened().iter().all(SignIn::has_ended);
        if all_ended && unopened(current).is_empty() {
            return None;
        }
        tokio::runtime::Handle::try_current().ok()?;
        let tasks = current.core().cache.tasks().clone();
        let current = current.clone();
        Some(tasks.spawn(async move { evict_what_left(&current).await }))
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.start();
    }
}

/// What the token store could not open, where this crate's own sign-out has not seen to it.
fn unopened(current: &Current) -> &[Address] {
    if current.effects().signed_out {
        &[]
    } else {
        current.unopened()
    }
}

async fn evict_what_left(current: &Current) {
    let Some(session) = current.session() else {
        return;
    };
    let held = match session.sign_ins().await {
        Ok(held) => held,
        // What somebody else wrote opens nothing.
        Err(error) if error.is_garbage() => SessionData::default(),
        // If it cannot be read, what it holds is not known.
        Err(_) => return,
    };
    let live = current.opened().iter().filter(|one| !one.has_ended());
    // Those that the token store could not open have left as well; they are evicted when it is back.
    let all = live
        .map(SignIn::address)
        .chain(unopened(current).iter().copied());
    for address in all {
        let stays = held.sign_ins().iter().any(|one| one.address == address);
        if !stays {
            let order = Order::new(Target::SignIn(address), Cause::SessionEnded);
            current.core().cache.evict_quietly(order).await;
        }
    }
}

/// What the response must carry.
pub(crate) fn finish<B: Default>(current: &Current, response: &mut Response<B>) {
    let core = current.core();
    let signed_in = !current.opened().is_empty();
    send_to_sign_in(current, response);
    let answered = Effects {
        answered: true,
        ..Effects::default()
    };
    let effects = std::mem::replace(&mut *current.effects(), answered);
    let headers = response.headers_mut();
    // R13: a modified session means that its cookie is set or removed.
    let cookie = current.session().is_some_and(AnySession::is_modified);
    let private = (signed_in || cookie) && core.config.no_store;
    let no_store = HeaderValue::from_static("no-store");
    if effects.signed_out || !effects.headers.is_empty() {
        headers.insert(header::CACHE_CONTROL, no_store);
    } else if private {
        headers.entry(header::CACHE_CONTROL).or_insert(no_store);
    }
    if effects.signed_out {
        let clear = core.config.clear_site_data.header();
        if let Some(clear) = clear.and_then(|clear| HeaderValue::from_str(&clear).ok()) {
            headers.insert("clear-site-data", clear);
        }
    }
    for (name, value) in effects.headers {
        headers.append(name, value);
    }
    if let (Some(keep), false) = (effects.keep_cookie, effects.signed_out) {
        response.extensions_mut().insert(keep);
    }
}

/// A 401 of this crate becomes the way to sign-in for those who can be sent there.
fn send_to_sign_in<B: Default>(current: &Current, response: &mut Response<B>) {
    if response.status() != StatusCode::UNAUTHORIZED {
        return;
    }
    let (core, asks) = (current.core(), current.asks());
    let redirect = asks.navigation && core.config.redirect_to_sign_in;
    if !redirect && !asks.htmx {
        return;
    }
    // What htmx asked for is a part of a page, and not one to come back to.
    let return_to = redirect.then(|| asks.return_to());
    let url = match response.extensions().get::<ErrorKind>() {
        Some(ErrorKind::NotSignedIn) => Some(crate::auth::sign_in_url(core, return_to)),
        Some(ErrorKind::InteractionRequired) => {
            let wanted = response.extensions().get::<Wanted>().cloned();
            ask_for(
                current,
                &asks.cookies(),
                &wanted.unwrap_or_default(),
                return_to,
            )
        }
        _ => None,
    };
    let Some(url) = url.and_then(|url| HeaderValue::from_str(&url).ok()) else {
        return;
    };
    if asks.htmx {
        response.headers_mut().insert("hx-redirect", url);
        return;
    }
    let mut redirect = Response::new(B::default());
    *redirect.status_mut() = StatusCode::SEE_OTHER;
    let headers = redirect.headers_mut();
    headers.insert(header::LOCATION, url);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *response = redirect;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Provider;

    /// Above 1032 bytes glibc's malloc takes its slow path, for each request.
    #[tokio::test]
    async fn the_future_of_a_request_is_small() {
        let provider = Provider::discover("https://login.example.com", "app");
        let provider = provider.build().unwrap();
        let auth = Auth::builder(provider, "https://app.example.com");
        let auth = auth.build().unwrap();
        let mut service = AuthService::new(axum::Router::<()>::new(), auth);
        let future = service.call(Request::new(axum::body::Body::empty()));
        let size = size_of_val(&*future);
        assert!(size <= 1032, "{size} bytes");
    }
}
