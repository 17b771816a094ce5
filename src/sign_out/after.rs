//! The user is back from the provider's logout (RP-Initiated Logout section 3).

use std::sync::Arc;

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::request::{EndSessionRequest, Options};
use super::rp_initiated::{EndSession, Exit};
use super::run::Outcome;
use crate::cause::Cause;
use crate::core::Core;
use crate::current::Current;
use crate::hooks::Returned;
use crate::id::{ClaimName, OperationId, same_secret};
use crate::report::{ProviderOutcome, SessionOutcome, SignOutReport};
use crate::return_url::SafeTarget;
use crate::store::Claim;

const PURPOSE: &str = "signout";

/// What must be remembered until the user is back; kept in an encrypted cookie, so that it is this browser that comes back.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct UnderWay {
    state: String,
    /// The issuer whose logout the user was sent to.
    issuer: String,
    target: Option<String>,
    /// The issuers whose logout is still to come.
    rest: Vec<String>,
    correlation_id: String,
    app_state: Option<String>,
    /// Whether other accounts of the session stayed.
    #[serde(default)]
    others_stay: bool,
}

/// Where the user goes from the callback.
pub(crate) enum Onward {
    To(Exit),
    /// By a page of ours: a redirect that follows the provider's would leave the `Strict` cookie of those who stayed behind.
    Handover(SafeTarget),
}

/// What the provider sends along.
#[derive(Default)]
pub(crate) struct CallbackQuery {
    state: Option<String>,
}

impl CallbackQuery {
    /// A query that cannot be read is one without a state.
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let mut states = pairs.filter(|(name, _)| name == "state");
        let state = states.next().map(|(_, value)| value.into_owned());
        match states.next() {
            None => Self { state },
            Some(_) => Self::default(),
        }
    }
}

fn tag(state: &str) -> String {
    ClaimName::of("signout-state", &[state.as_bytes()]).to_string()[..12].to_owned()
}

pub(super) fn remember(
    current: &Current,
    state: &str,
    issuer: &str,
    target: Option<&SafeTarget>,
    rest: Vec<String>,
    request: &EndSessionRequest,
    report: &SignOutReport,
) {
    let under_way = UnderWay {
        state: state.to_owned(),
        issuer: issuer.to_owned(),
        target: target.map(|target| target.as_str().to_owned()),
        rest,
        correlation_id: report.correlation_id.clone(),
        app_state: request.app_state.clone(),
        others_stay: report.session == SessionOutcome::Renewed,
    };
    keep(current, &under_way);
}

fn keep(current: &Current, under_way: &UnderWay) {
    let core = current.core();
    let sealed = core.vault.seal(
        PURPOSE,
        &tag(&under_way.state),
        under_way,
        core.config.pending_sign_out,
        core.cache.clock().wall(),
    );
    match sealed {
        Ok(cookie) => current.set_cookies([cookie]),
        // Nothing local depends on it (R8): the user will see the neutral page.
        Err(error) => tracing::warn!(%error, "a sign-out could not be remembered"),
    }
}

/// R8: the sign-out for which this browser went to the provider's logout a while ago and never came back.
pub(crate) fn unfinished(core: &Core, headers: &HeaderMap) -> Option<UnderWay> {
    let now = core.cache.clock().wall();
    let all: Vec<(String, UnderWay)> = core.vault.open_all(headers, PURPOSE, now);
    all.into_iter().next().map(|(_, under_way)| under_way)
}

/// R8: to the provider's logout once more; `None` if there is nothing to be had there. All else was done when the sign-out
/// began, so this says where the provider stands and nothing more.
pub(crate) async fn finish(current: &Current, headers: &HeaderMap) -> Option<Outcome> {
    let under_way = unfinished(current.core(), headers)?;
    let mut report = SignOutReport::new(Cause::UserSignOut, under_way.correlation_id);
    let (exit, issuer) = resume(current, headers, None).await?;
    report.provider = ProviderOutcome::Redirected { issuer };
    current.core().cache.publish(report.clone());
    Some(Outcome { report, exit })
}

/// R8: goes on with a sign-out that was interrupted: to the logout that the user did not come back from.
pub(super) async fn resume(
    current: &Current,
    headers: &HeaderMap,
    target: Option<&SafeTarget>,
) -> Option<(Exit, Arc<str>)> {
    let core = current.core();
    let now = core.cache.clock().wall();
    let all: Vec<(String, UnderWay)> = core.vault.open_all(headers, PURPOSE, now);
    let tags: Vec<String> = all.iter().map(|(tag, _)| tag.clone()).collect();
    let (_, mut latest) = all.into_iter().next()?;
    latest.rest.insert(0, latest.issuer.clone());
    if let Some(target) = target {
        latest.target = Some(target.as_str().to_owned());
    }
    let exit = next_provider(current, &latest).await;
    if exit.is_some() {
        let old = tags.iter();
        current.set_cookies(old.filter_map(|tag| core.vault.expire(PURPOSE, tag)));
    }
    exit
}

/// Forgets sign-outs under way: the user has signed in again.
pub(crate) fn forget(current: &Current, headers: &HeaderMap) {
    let core = current.core();
    let now = core.cache.clock().wall();
    let all: Vec<(String, UnderWay)> = core.vault.open_all(headers, PURPOSE, now);
    for (tag, _) in all {
        current.set_cookies(core.vault.expire(PURPOSE, &tag));
    }
}

/// Where to go now; `None` is the neutral page, which a missing, wrong, foreign or used state leads to as well (R7).
pub(crate) async fn after_sign_out(
    current: &Current,
    headers: &HeaderMap,
    query: CallbackQuery,
) -> Option<Onward> {
    let core = current.core();
    let state = query.state?;
    let tag = tag(&state);
    let now = core.cache.clock().wall();
    let under_way: UnderWay = core.vault.open(headers, PURPOSE, &tag, now)?;
    if !same_secret(&under_way.state, &state) {
        return None;
    }
    current.set_cookies(core.vault.expire(PURPOSE, &tag));
    let name = ClaimName::of("signout-state", &[state.as_bytes()]);
    let keep = core.config.pending_sign_out;
    match core
        .cache
        .store()
        .claim(&name, OperationId::random(), keep)
        .await
    {
        Ok(Claim::Held) => {}
        Ok(Claim::Taken) => return None,
        // Whether it was used before cannot be told; there is nothing left here to protect but a redirect to an
        // allowed place, so the user goes on.
        Err(error) => tracing::warn!(%error, "the state of a sign-out could not be claimed"),
    }
    if let Some((exit, _)) = next_provider(current, &under_way).await {
        return Some(Onward::To(exit));
    }
    // Sealed by this app, and checked again: the allowlist may be another one by now.
    let target = under_way
        .target
        .as_deref()
        .and_then(|target| core.allowed.check(target))
        .or_else(|| core.after_sign_out.clone());
    let returned = Returned {
        correlation_id: under_way.correlation_id,
        target: target
            .as_ref()
            .map(|target| target.as_str().to_owned())
            .unwrap_or_default(),
        state: under_way.app_state,
    };
    core.cache
        .hooks()
        .returned(core.cache.tasks(), returned)
        .await;
    target.map(|target| match under_way.others_stay {
        true => Onward::Handover(target),
        false => Onward::To(Exit::To(target.as_str().to_owned())),
    })
}

/// The logout of the next provider, where the accounts that ended were of several. Their ID tokens are gone by now, so it is
/// told the client only.
async fn next_provider(current: &Current, under_way: &UnderWay) -> Option<(Exit, Arc<str>)> {
    let core = current.core();
    let mut rest = under_way.rest.iter();
    while let Some(issuer) = rest.next() {
        let Some(provider) = core.cache.provider(issuer) else {
            continue;
        };
        let known = provider.metadata_within(core.config.metadata_wait).await;
        let Some(endpoint) = known.as_ref().and_then(|m| m.end_session_endpoint.as_ref()) else {
            continue;
        };
        let state = crate::id::random_text();
        keep(
            current,
            &UnderWay {
                state: state.clone(),
                issuer: issuer.clone(),
                target: under_way.target.clone(),
                rest: rest.cloned().collect(),
                correlation_id: under_way.correlation_id.clone(),
                app_state: under_way.app_state.clone(),
                others_stay: under_way.others_stay,
            },
        );
        let uri = core.url(&core.config.paths.sign_out_callback);
        let end_session = EndSession {
            endpoint,
            client_id: provider.client_id(),
            hint: None,
            back: Some((&uri, &state)),
            options: &Options::default(),
        };
        let exit = end_session.exit(usize::MAX, core.config.long_url, false);
        return Some((exit, issuer.as_str().into()));
    }
    None
}
