//! Sending the user to the provider.

use std::time::Duration;

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::pending::{Failure, Pending, parameters};
use crate::clock::Timestamp;
use crate::current::Current;
use crate::error::{Error, Wanted};
use crate::events;
use crate::id::{ClaimName, random_text};
use crate::provider::{AuthorizationRequest, Provider, prompt};
use crate::return_url::SafeTarget;
use crate::sign_out::must_ask;

/// What the cookies are called that say what the user has to be asked for.
const WANTED: &str = "wanted";

/// How long that is remembered: a second failure for the same reason within it means that asking did not help.
const WANTED_FOR: Duration = Duration::from_secs(2 * 60);

/// How often the user is asked within that time for the same scopes and resource: a challenge may differ each time, as one that
/// names the time does, and asking must end all the same.
const MAX_ASKS: usize = 3;

/// Longest that is asked for, as JSON: it has to fit into the next cookie too, with what the sign-in under way remembers.
pub(super) const MAX_WANTED: usize = 2 * 1024;

/// What the user has been sent away for.
#[derive(Serialize, Deserialize)]
struct Ask {
    wanted: Wanted,
    /// When the user was asked for the same scopes and resource, this time included.
    times: Vec<Timestamp>,
}

/// The way to sign-in for a request that failed for want of something only the user can give; `None` if the user was asked for
/// just that a moment ago, or too often for the like, or if it is too much to be remembered.
pub(crate) fn ask_for(
    current: &Current,
    headers: &HeaderMap,
    wanted: &Wanted,
    return_to: Option<&str>,
) -> Option<String> {
    let core = current.core();
    let now = core.cache.clock().wall();
    let parts = serde_json::to_vec(wanted).ok()?;
    if parts.len() > MAX_WANTED {
        return None;
    }
    let tag = ClaimName::of("wanted", &[&parts]).to_string()[..12].to_owned();
    let asked = core.vault.open_all::<Ask>(headers, WANTED, now);
    if asked.iter().any(|(other, _)| *other == tag) {
        return None;
    }
    let mut times = times_of_the_like(&asked, wanted, now);
    if times.len() >= MAX_ASKS {
        return None;
    }
    times.push(now);
    let ask = Ask {
        wanted: wanted.clone(),
        times,
    };
    let cookie = core.vault.seal(WANTED, &tag, &ask, WANTED_FOR, now).ok()?;
    let oldest = core.vault.to_expire(headers, WANTED, now);
    let oldest = oldest.iter();
    current.set_cookies(oldest.filter_map(|tag| core.vault.expire(WANTED, tag)));
    current.set_cookies([cookie]);
    let mut url = core.url(&core.config.paths.sign_in);
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("want", &tag);
    if let Some(target) = return_to.filter(|target| core.sign_in_target(target).is_some()) {
        query.append_pair("return_to", target);
    }
    url.push('?');
    url.push_str(&query.finish());
    Some(url)
}

/// When the user was asked for the same scopes and resource. Each cookie has the times of those before it, for the older ones are
/// pushed out by what other pages ask for.
fn times_of_the_like(asked: &[(String, Ask)], wanted: &Wanted, now: Timestamp) -> Vec<Timestamp> {
    let is_like = |other: &Wanted| {
        (&other.issuer, &other.scopes, &other.resource)
            == (&wanted.issuer, &wanted.scopes, &wanted.resource)
    };
    let like = asked.iter().filter(|(_, ask)| is_like(&ask.wanted));
    let recent = like.map(|(_, ask)| {
        let times = ask.times.iter().copied();
        times.filter(|time| now < time.plus(WANTED_FOR)).collect()
    });
    recent.max_by_key(Vec::len).unwrap_or_default()
}

/// The query of the sign-in route, by name.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StartQuery {
    #[serde(skip)]
    return_to: Option<String>,
    #[serde(skip)]
    provider: Option<String>,
    /// The name of the cookie that says what the user has to be asked for.
    #[serde(skip)]
    want: Option<String>,
    pub(super) wanted: Option<Wanted>,
    prompt: Option<String>,
    max_age: Option<u64>,
    login_hint: Option<String>,
    acr_values: Option<String>,
    ui_locales: Option<String>,
    extra: Vec<(String, String)>,
}

impl StartQuery {
    /// What an API asks for goes before what a link asks for.
    pub(super) fn max_age(&self) -> Option<Duration> {
        let wanted = self.wanted.as_ref().and_then(|wanted| wanted.max_age);
        wanted.or(self.max_age).map(Duration::from_secs)
    }

    fn acr_values(&self) -> Option<&str> {
        let wanted = self.wanted.as_ref();
        let wanted = wanted.and_then(|wanted| wanted.acr_values.as_deref());
        wanted.or(self.acr_values.as_deref())
    }

    /// Whether the provider was asked for a fresh login.
    pub(super) fn asks_for_login(&self) -> bool {
        let prompt = self.prompt.as_deref().unwrap_or_default();
        prompt.split_ascii_whitespace().any(|one| one == "login")
    }

    /// Scopes besides those of the configuration.
    pub(super) fn scopes(&self) -> Vec<&str> {
        let wanted = self.wanted.iter().flat_map(|wanted| &wanted.scopes);
        wanted.map(String::as_str).collect()
    }

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
            want: found.remove("want"),
            wanted: None,
            prompt: found.remove("prompt").filter(|p| !p.trim().is_empty()),
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
    let mut query = query;
    query.wanted = query.want.as_deref().and_then(|tag| {
        let now = core.cache.clock().wall();
        let ask: Ask = core.vault.open(headers, WANTED, tag, now)?;
        Some(ask.wanted)
    });
    // A step-up is for the account that was lacking, whose provider need not be the first one.
    let wanted = query.wanted.as_ref();
    let of_account = wanted.and_then(|wanted| core.cache.provider(wanted.issuer.as_deref()?));
    let provider = match (&query.provider, of_account) {
        (None, Some(provider)) => provider,
        (named, _) => core
            .provider_named(named.as_deref())
            .ok_or_else(|| Failure::bad_request("unknown_provider"))?,
    };
    let target = match &query.return_to {
        None => None,
        Some(wanted) => Some(
            core.sign_in_target(wanted)
                .ok_or_else(|| Failure::bad_request("return_to_not_allowed"))?,
        ),
    };
    if must_ask(current, headers, provider.issuer()).await {
        // R8: the sign-out at the provider may not have happened, so its session must not sign this user in again
        // unasked, whatever else the provider is to ask.
        let own = query.prompt.take().unwrap_or_default();
        if prompt::asks_nothing(&own) {
            return Err(Failure::bad_request("login_required"));
        }
        query.prompt = Some(prompt::merged(&own, "login").into_owned());
    }
    send(current, headers, provider, target, query, false).await
}

/// Once more, after a mark refused the sign-in: the user who wants to be signed in now signs in again, and not by the session
/// at the provider that was there before.
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
    let target = target.and_then(|target| core.sign_in_target(target));
    let mut query = before.query.clone();
    let own = query.prompt.take().unwrap_or_default();
    if prompt::asks_nothing(&own) {
        return Err(Failure::bad_request("login_required"));
    }
    query.prompt = Some(prompt::merged(&own, "login").into_owned());
    send(current, headers, provider, target, query, true).await
}

async fn send(
    current: &Current,
    headers: &HeaderMap,
    provider: &Provider,
    target: Option<SafeTarget>,
    query: StartQuery,
    restarted: bool,
) -> Result<String, Failure> {
    let core = current.core();
    // The stamp comes first: a sign-out that happens from here on is later than it.
    let started = core.cache.store().now().await.map_err(Error::from)?;
    let mut pending = Pending {
        state: random_text(),
        nonce: random_text(),
        verifier: random_text(),
        issuer: provider.issuer().to_owned(),
        target: target.map(|target| target.as_str().to_owned()),
        started,
        query,
        restarted,
        had_session: current
            .session()
            .is_some_and(|session| session.has_cookie()),
    };
    let query = &pending.query;
    let wanted = query.wanted.clone().unwrap_or_default();
    let resources: Vec<&str> = wanted.resource.as_deref().into_iter().collect();
    let extra = query.extra.iter();
    let extra: Vec<(&str, &str)> = extra.map(|(name, value)| (&**name, &**value)).collect();
    let url = provider
        .authorization_url(&AuthorizationRequest {
            redirect_uri: &core.url(&core.config.paths.sign_in_callback),
            state: &pending.state,
            nonce: &pending.nonce,
            pkce_verifier: &pending.verifier,
            prompt: query.prompt.as_deref(),
            max_age: query.max_age(),
            login_hint: query.login_hint.as_deref(),
            acr_values: query.acr_values(),
            ui_locales: query.ui_locales.as_deref(),
            claims: wanted.claims.as_deref(),
            scopes: &query.scopes(),
            resources: &resources,
            extra: &extra,
        })
        .await
        .map_err(Error::from)?;
    pending.remember(current, headers)?;
    events::sign_in_started(provider.issuer(), restarted);
    Ok(url.into())
}
