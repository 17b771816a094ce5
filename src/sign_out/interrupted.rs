//! The sign-out that the browser has not come back from (R8): everything is done here, and at a provider the user may still
//! be signed in.
//!
//! An encrypted cookie remembers it, so that it is this browser that comes back, or goes on. The store says when it is over:
//! a copy of the cookie, in a restored browser or a tab that raced, then neither leads to the provider again nor makes a
//! sign-in ask. That takes one claim for each sign-out that came to its end, or was asked about, for as long as the cookie
//! could live; nothing is written for a browser without such a cookie, so strangers cannot fill the store. Where the store
//! cannot say, a sign-out is not over: asking once too often does no harm.

use std::sync::Arc;

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use url::Url;

use super::request::{EndSessionRequest, Options};
use super::rp_initiated::{EndSession, Exit};
use crate::clock::Timestamp;
use crate::core::Core;
use crate::current::Current;
use crate::id::{ClaimName, OperationId, random_text, same_secret};
use crate::provider::Provider;
use crate::report::{ProviderOutcome, SessionOutcome, SignOutReport};
use crate::return_url::SafeTarget;
use crate::store::{Claim, StoreError};

const PURPOSE: &str = "signout";

/// What must be remembered until the user is back.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct UnderWay {
    /// What the user brings back from the logout of `asked`.
    state: String,
    /// The sign-outs that this is about: their names stay the same from provider to provider.
    ids: Vec<OperationId>,
    since: Timestamp,
    /// The issuer whose logout the user was sent to; `None` while none could be reached.
    asked: Option<String>,
    /// The issuers whose logout the user has not come back from, `asked` among them.
    left: Vec<String>,
    pub(super) target: Option<String>,
    pub(super) correlation_id: String,
    pub(super) app_state: Option<String>,
    /// Whether other accounts of the session stayed.
    pub(super) others_stay: bool,
}

/// A provider whose logout the user can be sent to.
pub(super) struct Found {
    pub(super) issuer: Arc<str>,
    pub(super) endpoint: Url,
    pub(super) provider: Provider,
    /// Those that come after it: the ones that were out of reach last.
    rest: Vec<String>,
}

/// The search for a provider's logout.
#[derive(Default)]
pub(super) struct Search {
    pub(super) found: Option<Found>,
    /// Those that could not be reached.
    pub(super) away: Vec<String>,
    /// One that has no logout.
    pub(super) without: Option<Arc<str>>,
}

impl Search {
    /// What is said of the provider where the user is sent to none.
    pub(super) fn outcome(&self) -> Option<ProviderOutcome> {
        let away = self.away.first().map(|away| away.as_str().into());
        match (away, &self.without) {
            (Some(issuer), _) => Some(ProviderOutcome::Unavailable { issuer }),
            (None, Some(issuer)) => Some(ProviderOutcome::NoEndpoint {
                issuer: issuer.clone(),
            }),
            (None, None) => None,
        }
    }
}

/// The first of these issuers that has a logout to send the user to.
pub(super) async fn search(core: &Core, issuers: &[impl AsRef<str>]) -> Search {
    let mut search = Search::default();
    for (at, issuer) in issuers.iter().enumerate() {
        let issuer = issuer.as_ref();
        let Some(provider) = core.cache.provider(issuer) else {
            continue;
        };
        let known = provider.metadata_within(core.config.metadata_wait).await;
        let Some(metadata) = known else {
            search.away.push(issuer.to_owned());
            continue;
        };
        let Some(endpoint) = &metadata.end_session_endpoint else {
            search.without = Some(issuer.into());
            continue;
        };
        let after = issuers[at + 1..].iter();
        let after = after.map(|issuer| issuer.as_ref().to_owned());
        search.found = Some(Found {
            issuer: issuer.into(),
            endpoint: endpoint.clone(),
            provider: provider.clone(),
            rest: after.chain(search.away.iter().cloned()).collect(),
        });
        break;
    }
    search
}

fn tag(state: &str) -> String {
    ClaimName::of("signout-state", &[state.as_bytes()]).to_string()[..12].to_owned()
}

/// All that this browser remembers, newest first, with their tags.
fn all(core: &Core, headers: &HeaderMap) -> Vec<(String, UnderWay)> {
    let now = core.cache.clock().wall();
    core.vault.open_all(headers, PURPOSE, now)
}

fn expire(current: &Current, tag: &str) {
    current.set_cookies(current.core().vault.expire(PURPOSE, tag));
}

impl UnderWay {
    /// A sign-out that is done here.
    pub(super) fn new(
        core: &Core,
        target: Option<&SafeTarget>,
        request: &EndSessionRequest,
        report: &SignOutReport,
    ) -> Self {
        Self {
            state: random_text(),
            ids: vec![OperationId::random()],
            since: core.cache.clock().wall(),
            asked: None,
            left: Vec::new(),
            target: target.map(|target| target.as_str().to_owned()),
            correlation_id: report.correlation_id.clone(),
            app_state: request.app_state.clone(),
            others_stay: report.session == SessionOutcome::Renewed,
        }
    }

    /// Remembers that the user was sent to that provider, with that state.
    pub(super) fn keep_for(mut self, current: &Current, found: &Found, state: &str) {
        state.clone_into(&mut self.state);
        self.asked = Some(found.issuer.as_ref().to_owned());
        self.left = vec![found.issuer.as_ref().to_owned()];
        self.left.extend(found.rest.iter().cloned());
        self.keep(current);
    }

    /// Remembers that those are still to be asked, which are out of reach.
    pub(super) fn keep_until_back(mut self, current: &Current, away: Vec<String>) {
        // Nobody is told this one.
        self.state = random_text();
        self.asked = None;
        self.left = away;
        self.keep(current);
    }

    fn keep(&self, current: &Current) {
        let core = current.core();
        let now = core.cache.clock().wall();
        let lifetime = core.config.pending_sign_out;
        let tag = tag(&self.state);
        let seal = |what: &Self| core.vault.seal(PURPOSE, &tag, what, lifetime, now);
        // Too large a cookie: what the app wanted for the way back is dispensable, that the next sign-in asks is not.
        let sealed = seal(self).or_else(|error| {
            tracing::warn!(%error, "where a sign-out was to end could not be remembered");
            seal(&Self {
                target: None,
                app_state: None,
                ..self.clone()
            })
        });
        // No more of them than browsers and proxies take in one header, however often somebody signs out.
        let old = core
            .vault
            .to_expire(&current.asks().cookies(), PURPOSE, now);
        old.iter().for_each(|tag| expire(current, tag));
        match sealed {
            Ok(cookie) => current.set_cookies([cookie]),
            // Nothing local depends on it: the user will see the neutral page.
            Err(error) => tracing::warn!(%error, "a sign-out could not be remembered"),
        }
    }

    /// To that provider's logout once more, or to the next one's. The ID tokens are gone by now, so it is told the client only.
    fn depart(self, current: &Current, found: &Found) -> Exit {
        let core = current.core();
        let uri = core.url(&core.config.paths.sign_out_callback);
        let state = random_text();
        let end_session = EndSession {
            endpoint: &found.endpoint,
            client_id: found.provider.client_id(),
            hint: None,
            back: Some((&uri, &state)),
            options: &Options::default(),
        };
        let exit = end_session.exit(usize::MAX, core.config.long_url, false);
        self.keep_for(current, found, &state);
        exit
    }

    /// Newest first; what the newest one says of the way back holds.
    fn merged(all: impl IntoIterator<Item = Self>) -> Option<Self> {
        let mut all = all.into_iter();
        let mut merged = all.next()?;
        for one in all {
            let ids = one.ids.into_iter().filter(|id| !merged.ids.contains(id));
            let ids: Vec<OperationId> = ids.collect();
            merged.ids.extend(ids);
            let left = one.left.into_iter().filter(|i| !merged.left.contains(i));
            let left: Vec<String> = left.collect();
            merged.left.extend(left);
        }
        Some(merged)
    }

    /// The state that came back is used up; `None` if it was used before.
    pub(super) async fn returned(
        current: &Current,
        headers: &HeaderMap,
        state: &str,
    ) -> Option<Self> {
        let core = current.core();
        let now = core.cache.clock().wall();
        let tag = tag(state);
        let under_way: Self = core.vault.open(headers, PURPOSE, &tag, now)?;
        if !same_secret(&under_way.state, state) {
            return None;
        }
        expire(current, &tag);
        let name = ClaimName::of("signout-state", &[state.as_bytes()]);
        let keep = core.config.pending_sign_out;
        let store = core.cache.store();
        match store.claim(&name, OperationId::random(), keep).await {
            Ok(Claim::Held) => {}
            Ok(Claim::Taken) => return None,
            // Whether it was used before cannot be told; there is nothing left here to protect but a redirect to an
            // allowed place, so the user goes on.
            Err(error) => tracing::warn!(%error, "the state of a sign-out could not be claimed"),
        }
        Some(under_way)
    }

    /// The user is back from the logout they were sent to: the way to the next one, or `None` if this was the last that can be
    /// reached now.
    pub(super) async fn next(&self, current: &Current, headers: &HeaderMap) -> Option<Exit> {
        let core = current.core();
        let visited = self.asked.as_deref().unwrap_or_default();
        // What else this browser remembers of that provider is done with, too.
        let others = all(core, headers);
        let others = others.into_iter().filter(|(_, o)| o.state != self.state);
        passed(current, others, visited).await;
        let left = self.left.iter().filter(|issuer| *issuer != visited);
        let left: Vec<&String> = left.collect();
        let mut search = search(core, &left).await;
        if let Some(found) = search.found.take() {
            return Some(self.clone().depart(current, &found));
        }
        if search.away.is_empty() {
            settle(core, &self.ids).await;
        } else {
            self.clone().keep_until_back(current, search.away);
        }
        None
    }
}

fn over(id: &OperationId) -> ClaimName {
    ClaimName::of("signout-over", &[id.as_bytes()])
}

/// Whether the store knows that these sign-outs are over: their claims can be had by their own names for as long as nobody has
/// settled them.
async fn is_over(core: &Core, under_way: &UnderWay) -> bool {
    let keep = core.config.pending_sign_out;
    for id in &under_way.ids {
        match core.cache.store().claim(&over(id), *id, keep).await {
            Ok(Claim::Taken) => {}
            Ok(Claim::Held) => return false,
            Err(error) => {
                tracing::warn!(%error, "whether a sign-out is over is not known");
                return false;
            }
        }
    }
    true
}

/// From now on the store knows.
async fn settle(core: &Core, ids: &[OperationId]) {
    for id in ids {
        if let Err(error) = settle_one(core, id).await {
            tracing::warn!(%error, "it could not be noted that a sign-out is over");
        }
    }
}

async fn settle_one(core: &Core, id: &OperationId) -> Result<(), StoreError> {
    let (store, keep) = (core.cache.store(), core.config.pending_sign_out);
    if store.claim(&over(id), *id, keep).await? == Claim::Held {
        store.settle(&over(id), *id, keep).await?;
    }
    Ok(())
}

/// The user was at that issuer's logout, or showed there who they are: nothing is left to be done with it.
async fn passed(current: &Current, all: impl Iterator<Item = (String, UnderWay)>, issuer: &str) {
    for (tag, mut one) in all {
        let before = one.left.len();
        one.left.retain(|left| left != issuer);
        if one.left.is_empty() {
            expire(current, &tag);
            settle(current.core(), &one.ids).await;
        } else if one.left.len() < before {
            one.asked = one.asked.filter(|asked| asked != issuer);
            one.keep(current);
        }
    }
}

/// The sign-out for which this browser went to a provider's logout a while ago and never came back, by the cookie alone: the
/// issuers that are left, and since when.
pub(crate) fn unfinished(core: &Core, headers: &HeaderMap) -> Option<(Vec<String>, Timestamp)> {
    let all = all(core, headers).into_iter().map(|(_, one)| one);
    UnderWay::merged(all).map(|merged| (merged.left, merged.since))
}

/// Whether a sign-in at that provider must ask the user, since its session may be one that they meant to end.
pub(crate) async fn must_ask(current: &Current, headers: &HeaderMap, issuer: &str) -> bool {
    let core = current.core();
    for (tag, one) in all(core, headers) {
        if !one.left.iter().any(|left| left == issuer) {
            continue;
        }
        if !is_over(core, &one).await {
            return true;
        }
        expire(current, &tag);
    }
    false
}

/// Who has signed in again, by a fresh login, is done with what was left of that provider's logout.
pub(crate) async fn forget(current: &Current, headers: &HeaderMap, issuer: &str) {
    let all = all(current.core(), headers);
    passed(current, all.into_iter(), issuer).await;
}

/// What became of going on.
pub(super) struct Resumed {
    pub(super) correlation_id: String,
    pub(super) provider: ProviderOutcome,
    /// `None`: the provider is out of reach, and the sign-out stays as it is.
    pub(super) exit: Option<Exit>,
}

/// Goes on with what was interrupted: to the logout that the user did not come back from, or that was out of reach. `None` if
/// there is nothing to go on with.
pub(super) async fn resume(
    current: &Current,
    headers: &HeaderMap,
    target: Option<&SafeTarget>,
) -> Option<Resumed> {
    let core = current.core();
    let (mut tags, mut alive) = (Vec::new(), Vec::new());
    for (tag, one) in all(core, headers) {
        if is_over(core, &one).await {
            expire(current, &tag);
        } else {
            tags.push(tag);
            alive.push(one);
        }
    }
    let mut merged = UnderWay::merged(alive)?;
    // Somebody may have signed in since: their `Strict` cookie is to come along from the callback.
    merged.others_stay |= !current.opened().is_empty();
    if let Some(target) = target {
        merged.target = Some(target.as_str().to_owned());
    }
    let mut search = search(core, &merged.left).await;
    let correlation_id = merged.correlation_id.clone();
    let (provider, exit) = match search.found.take() {
        Some(found) => {
            let issuer = found.issuer.clone();
            let exit = merged.depart(current, &found);
            (ProviderOutcome::Redirected { issuer }, Some(exit))
        }
        None if search.away.is_empty() => {
            // No logout to be had anywhere, and none to wait for.
            settle(core, &merged.ids).await;
            tags.iter().for_each(|tag| expire(current, tag));
            return None;
        }
        None => (search.outcome()?, None),
    };
    if exit.is_some() {
        tags.iter().for_each(|tag| expire(current, tag));
    }
    Some(Resumed {
        correlation_id,
        provider,
        exit,
    })
}
