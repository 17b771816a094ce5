//! The routes: each a thin handler over its flow.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::{Bytes, to_bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, RawQuery, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};

use crate::auth::Auth;
use crate::cookie_fix::FramedElsewhere;
use crate::core::{Core, Pages};
use crate::csrf;
use crate::current::Current;
use crate::error::{Error, ErrorKind};
use crate::events;
use crate::id::SignInId;
use crate::pages;
use crate::sign_in::{self, Failure, Next, StartQuery, parameters};
use crate::sign_out::{self, CallbackQuery, EndSessionRequest, Onward, Refusal, after_sign_out};
use crate::signed_out::leave;
use crate::status;

/// A sign-out form is a few short fields.
const MAX_FORM: usize = 8 * 1024;

/// Logout tokens have about a kilobyte.
const MAX_LOGOUT_FORM: usize = 64 * 1024;

impl Auth {
    /// All routes of the crate: sign-in, sign-out, and their callbacks, for apps that have no sign-in of their own.
    pub fn routes<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        self.sign_in_routes().merge(self.sign_out_routes())
    }

    /// `GET /signin` and `GET /signin/callback`.
    pub fn sign_in_routes<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let paths = &self.core().config.paths;
        Router::new()
            .route(&paths.sign_in, no_store(get(start)))
            .route(&paths.sign_in_callback, no_store(get(callback)))
    }

    /// `POST /signout`, `GET /signout/callback`, `/signout/resume`, `GET` and `POST` [`/signout/status`](Self::status_url),
    /// `GET /signout/frontchannel` and `POST /signout/backchannel`, for apps with a sign-in of their own.
    pub fn sign_out_routes<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let core = self.core();
        let paths = &core.config.paths;
        let pages = core.pages.clone();
        let csrf = core
            .csrf
            .clone()
            .with_rejection_response(move |_| forbidden(&*pages));
        let mut sign_out = post(by_post).layer(csrf.clone());
        if core.config.get_sign_out {
            sign_out = sign_out.get(by_get);
        }
        let pages = core.pages.clone();
        let prolong = post(prolong).layer(
            core.csrf
                .clone()
                .with_rejection_response(move |_| not_prolonged(&*pages)),
        );
        let status = prolong.get(status);
        Router::new()
            .route(
                &paths.sign_out,
                no_store(sign_out.layer(DefaultBodyLimit::max(MAX_FORM))),
            )
            .route(&paths.sign_out_callback, no_store(get(returned)))
            .route(
                &paths.sign_out_resume,
                no_store(post(resume).layer(csrf).get(resume_by_get)),
            )
            .route(&paths.front_channel, no_store(get(front_channel)))
            .route(&paths.status, no_store(status))
            .route(&paths.back_channel, no_store(back_channel(core.clone())))
    }
}

/// Called by the provider: no browser, so no session, no cookie, and nothing for a defence against forged requests to go by.
fn back_channel<S: Clone + Send + Sync + 'static>(core: Arc<Core>) -> MethodRouter<S> {
    let handler = move |request: Request| async move {
        let (Parts { headers, .. }, body) = request.into_parts();
        let body = to_bytes(body, MAX_LOGOUT_FORM).await.ok();
        // In two boxes, this one and the framework's, both are small enough for the allocator's fast path (1032 bytes).
        match Box::pin(sign_out::back_channel(&core, &headers, body.as_deref())).await {
            Ok(()) => StatusCode::OK.into_response(),
            Err(refusal) => bad_logout(refusal),
        }
    };
    post(handler)
}

/// Back-Channel Logout section 2.8.
fn bad_logout(refusal: Refusal) -> Response {
    let body = serde_json::json!({
        "error": refusal.error,
        "error_description": refusal.reason,
    });
    (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
}

/// R13, whatever the handler answers.
fn no_store<S: Clone + Send + Sync + 'static>(routes: MethodRouter<S>) -> MethodRouter<S> {
    routes.layer(axum::middleware::map_response(
        |response: Response| async move { no_store_of(response) },
    ))
}

fn no_store_of(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn forbidden(pages: &dyn Pages) -> Response {
    events::sign_out_refused();
    refused(pages)
}

fn not_prolonged(pages: &dyn Pages) -> Response {
    events::prolonging_refused();
    refused(pages)
}

/// What another site asked for.
fn refused(pages: &dyn Pages) -> Response {
    let mut response = pages.forbidden();
    *response.status_mut() = StatusCode::FORBIDDEN;
    no_store_of(response)
}

fn see_other(url: &str) -> Response {
    match HeaderValue::from_str(url) {
        Ok(url) => (StatusCode::SEE_OTHER, [(header::LOCATION, url)]).into_response(),
        Err(_) => Error::new(ErrorKind::Internal, "a URL is not a header value").into_response(),
    }
}

/// The session layer does not save a session on a 5xx answer, and none of these has anything to save.
fn failed(core: &Core, failure: &Failure) -> Response {
    let mut response = core.pages.sign_in_failed(failure.status, &failure.code);
    *response.status_mut() = failure.status;
    if failure.status == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = failure
            .retry_after
            .map_or(5, |after| after.as_secs().max(1));
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

async fn start(current: Current, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let core = current.core();
    let url = match StartQuery::parse(query.as_deref(), &core.config.sign_in_parameters) {
        Ok(query) => sign_in::start(&current, &headers, query).await,
        Err(failure) => Err(failure),
    };
    match url {
        Ok(url) => see_other(&url),
        Err(failure) => failed(core, &failure),
    }
}

async fn callback(current: Current, request: Request) -> Response {
    let (request, _) = request.into_parts();
    match sign_in::callback(&current, &request).await {
        Ok(Next::Handover(target)) => pages::handover("You are signed in", &target),
        Ok(Next::Restart(url)) => see_other(&url),
        Err(failure) => failed(current.core(), &failure),
    }
}

/// What the sign-out form may say.
#[derive(Debug, Default)]
struct SignOutForm {
    return_to: Option<String>,
    sign_in: Option<String>,
    everywhere: Option<String>,
}

impl SignOutForm {
    fn read(query: Option<&str>, headers: &HeaderMap, body: &[u8]) -> Result<Self, Failure> {
        let mut found = parameters(query)?;
        for (name, value) in fields_of(headers, body)? {
            if found.insert(name, value).is_some() {
                return Err(Failure::bad_request("invalid_request"));
            }
        }
        Ok(Self {
            return_to: found.remove("return_to"),
            sign_in: found.remove("sign_in"),
            everywhere: found.remove("everywhere"),
        })
    }

    /// A request that says something impossible changes nothing.
    fn request(self, core: &Core) -> Result<EndSessionRequest, Failure> {
        let mut request = EndSessionRequest::new();
        if let Some(target) = self.return_to.filter(|target| !target.is_empty()) {
            if core.allowed.check(&target).is_none() {
                return Err(Failure::bad_request("return_to_not_allowed"));
            }
            request = request.post_logout_redirect(target);
        }
        if let Some(id) = self.sign_in.filter(|id| !id.is_empty()) {
            let id = SignInId::parse(&id).ok_or_else(|| Failure::bad_request("invalid_request"))?;
            request = request.sign_in(id);
        }
        match self.everywhere.as_deref() {
            // `on` is what a checkbox sends that has no value.
            Some("true" | "on") => Ok(request.everywhere()),
            None | Some("" | "false") => Ok(request),
            Some(_) => Err(Failure::bad_request("invalid_request")),
        }
    }
}

/// A form, or an object of texts from a script. A body of any other type is refused: what it asks for, perhaps to sign one
/// account out and not all, would go unheard.
fn fields_of(headers: &HeaderMap, body: &[u8]) -> Result<HashMap<String, String>, Failure> {
    let invalid = || Failure::bad_request("invalid_request");
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok());
    let essence = kind.map_or("", |kind| kind.split(';').next().unwrap_or_default().trim());
    if body.is_empty() {
        Ok(HashMap::new())
    } else if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        parameters(Some(std::str::from_utf8(body).map_err(|_| invalid())?))
    } else if essence.eq_ignore_ascii_case("application/json") {
        serde_json::from_slice(body).map_err(|_| invalid())
    } else {
        Err(invalid())
    }
}

async fn by_post(
    current: Current,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match body {
        Ok(body) => signing_out(&current, &headers, query.as_deref(), &body).await,
        Err(rejection) => rejection.into_response(),
    }
}

/// Only by configuration, and defended: `CsrfLayer` lets every GET through.
async fn by_get(current: Current, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let core = current.core();
    if !csrf::same_origin_get(&headers, &core.base) {
        return forbidden(&*core.pages);
    }
    signing_out(&current, &headers, query.as_deref(), &[]).await
}

async fn signing_out(
    current: &Current,
    headers: &HeaderMap,
    query: Option<&str>,
    body: &[u8],
) -> Response {
    let request =
        SignOutForm::read(query, headers, body).and_then(|form| form.request(current.core()));
    match request {
        Ok(request) => {
            let outcome = sign_out::sign_out(current, headers, request).await;
            leave(&outcome.exit, current.asks())
        }
        Err(_) => Error::new(
            ErrorKind::InvalidRequest,
            "the sign-out request is not valid",
        )
        .into_response(),
    }
}

async fn resume(current: Current, headers: HeaderMap) -> Response {
    let exit = sign_out::go_on(&current, &headers).await;
    leave(&exit, current.asks())
}

/// For the link of a banner. It ends nothing here, but where the user goes is not for other sites to say.
async fn resume_by_get(current: Current, headers: HeaderMap) -> Response {
    let core = current.core();
    if !csrf::same_origin_get(&headers, &core.base) {
        return forbidden(&*core.pages);
    }
    resume(current, headers).await
}

async fn front_channel(
    current: Current,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let framed = sign_out::front_channel(&current, query.as_deref()).await;
    let mut response = pages::framed(framed.status, &framed.ancestors);
    if headers
        .get("sec-fetch-site")
        .is_some_and(|site| site == "cross-site")
    {
        response.extensions_mut().insert(FramedElsewhere);
    }
    response
}

async fn status(current: Current) -> Response {
    if !current.asks().status {
        tracing::warn!(
            path = current.asks().path(),
            "the status is served at a path that is not the base URL's: polling it prolongs sign-ins"
        );
    }
    said(status::status(&current).await)
}

async fn prolong(current: Current) -> Response {
    said(status::prolong(&current).await)
}

fn said(status: Result<status::Status, Error>) -> Response {
    match status {
        Ok(status) => Json(status).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn returned(current: Current, headers: HeaderMap, RawQuery(query): RawQuery) -> Response {
    let query = CallbackQuery::parse(query.as_deref());
    match after_sign_out(&current, &headers, query).await {
        Some(Onward::To(exit)) => leave(&exit, current.asks()),
        Some(Onward::Handover(target)) => pages::handover("You are signed out", &target),
        None => {
            let mut response = current.core().pages.signed_out();
            *response.status_mut() = StatusCode::OK;
            response
        }
    }
}
