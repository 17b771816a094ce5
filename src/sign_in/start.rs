//! Sending the user to the provider.

use std::time::Duration;

use axum::http::HeaderMap;

use super::pending::{Failure, Pending, parameters};
use crate::current::Current;
use crate::error::Error;
use crate::id::random_text;
use crate::provider::{AuthorizationRequest, Provider};
use crate::return_url::SafeTarget;
use crate::sign_out::unfinished;

/// The query of the sign-in route, by name.
#[derive(Debug, Default)]
pub(crate) struct StartQuery {
    return_to: Option<String>,
    provider: Option<String>,
    prompt: Option<String>,
    max_age: Option<u64>,
    login_hint: Option<String>,
    acr_values: Option<String>,
    ui_locales: Option<String>,
    extra: Vec<(String, String)>,
}

impl StartQuery {
    /// `allowed` are the further parameters that the configuration lets through; any other is left out.
    pub(crate) fn parse(query: Option<&str>, allowed: &[String]) -> Result<Self, Failure> {
        let mut found = parameters(query)?;
        let max_age = found
            .remove("max_age")
            .map(|age| age.parse())
            .transpose()
            .map_err(|_| Failure::bad_request("invalid_request"))?;
        Ok(Self {
            return_to: found.remove("return_to"),
            provider: found.remove("provider"),
            prompt: found.remove("prompt"),
            max_age,
            login_hint: found.remove("login_hint"),
            acr_values: found.remove("acr_values"),
            ui_locales: found.remove("ui_locales"),
            extra: allowed
                .iter()
                .filter_map(|name| Some((name.clone(), found.remove(name)?)))
                .collect(),
        })
    }
}

/// The URL that the user is sent to. What must be remembered goes into a cookie of the response.
pub(crate) async fn start(
    current: &Current,
    headers: &HeaderMap,
    query: StartQuery,
) -> Result<String, Failure> {
    let core = current.core();
    let provider = core
        .provider_named(query.provider.as_deref())
        .ok_or_else(|| Failure::bad_request("unknown_provider"))?;
    let target = match &query.return_to {
        None => None,
        Some(wanted) => Some(
            core.allowed
                .check(wanted)
                .ok_or_else(|| Failure::bad_request("return_to_not_allowed"))?,
        ),
    };
    let mut prompt = query.prompt.clone();
    if prompt.is_none() && unfinished(core, headers).is_some() {
        // R8: the sign-out at the provider may not have happened, so its session must not sign this user in again
        // unasked.
        prompt = Some("login".into());
    }
    let query = StartQuery { prompt, ..query };
    send(current, headers, provider, target, &query, false).await
}

/// Once more, after a mark refused the sign-in: without the user noticing, and without looking at the session at the
/// provider that was there before.
pub(super) async fn restart(
    current: &Current,
    headers: &HeaderMap,
    before: &Pending,
) -> Result<String, Failure> {
    let core = current.core();
    let provider = core
        .cache
        .provider(&before.issuer)
        .ok_or_else(|| Failure::bad_request("unknown_provider"))?;
    let target = before.target.as_deref();
    let target = target.and_then(|target| core.allowed.check(target));
    let query = StartQuery {
        max_age: before.max_age,
        ..StartQuery::default()
    };
    send(current, headers, provider, target, &query, true).await
}

async fn send(
    current: &Current,
    headers: &HeaderMap,
    provider: &Provider,
    target: Option<SafeTarget>,
    query: &StartQuery,
    restarted: bool,
) -> Result<String, Failure> {
    let core = current.core();
    // The stamp comes first: a sign-out that happens from here on is later than it.
    let started = core.cache.store().now().await.map_err(Error::from)?;
    let pending = Pending {
        state: random_text(),
        nonce: random_text(),
        verifier: random_text(),
        issuer: provider.issuer().to_owned(),
        target: target.map(|target| target.as_str().to_owned()),
        started,
        max_age: query.max_age,
        restarted,
        had_session: current
            .session()
            .is_some_and(|session| session.has_cookie()),
    };
    let extra = query.extra.iter();
    let extra: Vec<(&str, &str)> = extra.map(|(name, value)| (&**name, &**value)).collect();
    let url = provider
        .authorization_url(&AuthorizationRequest {
            redirect_uri: &core.url(&core.config.paths.sign_in_callback),
            state: &pending.state,
            nonce: &pending.nonce,
            pkce_verifier: &pending.verifier,
            prompt: query.prompt.as_deref(),
            max_age: query.max_age.map(Duration::from_secs),
            login_hint: query.login_hint.as_deref(),
            acr_values: query.acr_values.as_deref(),
            ui_locales: query.ui_locales.as_deref(),
            extra: &extra,
            ..AuthorizationRequest::default()
        })
        .await
        .map_err(Error::from)?;
    pending.remember(current, headers)?;
    tracing::info!(
        target: "axum_signout::sign_in",
        issuer = provider.issuer(),
        restarted,
        "sign-in started"
    );
    Ok(url.into())
}
