//! Sign-out that the provider asks for through the browser (OpenID Connect Front-Channel Logout 1.0): it loads a page of ours in
//! a frame of its own.
//!
//! 1. The request is not signed: whoever knows issuer and `sid`, or has the browser of somebody who does load the page, can
//!    send it. So it ends the sign-ins that both name and nothing else, and nothing is ever revoked for it (R16).
//! 2. It is found by what it says, not by the cookie, which third-party rules keep back (R14). A cookie that comes all the
//!    same is removed only if its session holds a sign-in that ended.
//! 3. A `sid` that nobody has leaves nothing behind. A closed selector would be remembered, to refuse the sign-ins that are
//!    under way meanwhile, and a stranger could fill that memory until sign-ins of others are refused. So a sign-in that is
//!    under way while its session at the provider ends is not covered by this, but by the signed back-channel logout.
//! 4. The answer is the same page whatever happened, for the provider's eyes only (R15): a stranger learns nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use url::Url;

use super::run::{end_session, renew_session};
use crate::cache::SignIn;
use crate::cause::Cause;
use crate::core::Core;
use crate::current::Current;
use crate::events;
use crate::id::{OperationId, Selector};
use crate::provider::Provider;
use crate::store::StoreError;

/// Longest `iss` or `sid`, in bytes. Providers use a fraction of it.
const MAX_PARAMETER: usize = 2048;

/// Longest query, with parameters of the app's own.
const MAX_QUERY: usize = 16 * 1024;

/// Whom the provider says to sign out.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    issuer: String,
    sid: String,
}

/// Why a request is not one for a sign-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    TooLong,
    Doubled,
    Empty,
    /// No `sid`, or none where one is needed.
    Incomplete,
}

impl Refused {
    fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Doubled => "doubled_parameter",
            Self::Empty => "empty_parameter",
            Self::Incomplete => "missing_parameter",
        }
    }
}

impl Named {
    /// Both `iss` and `sid`, each once (section 2); what else the query has is the app's own. `sole` is the issuer that a
    /// `sid` alone means, where the configuration allows that.
    fn parse(query: Option<&str>, sole: Option<&str>) -> Result<Self, Refused> {
        let query = query.unwrap_or_default();
        if query.len() > MAX_QUERY {
            return Err(Refused::TooLong);
        }
        let (mut issuer, mut sid) = (None, None);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "iss" => &mut issuer,
                "sid" => &mut sid,
                _ => continue,
            };
            match value.len() {
                0 => return Err(Refused::Empty),
                1..=MAX_PARAMETER => {}
                _ => return Err(Refused::TooLong),
            }
            if slot.replace(value.into_owned()).is_some() {
                return Err(Refused::Doubled);
            }
        }
        let issuer = issuer.or_else(|| sole.map(str::to_owned));
        match (issuer, sid) {
            (Some(issuer), Some(sid)) => Ok(Self { issuer, sid }),
            _ => Err(Refused::Incomplete),
        }
    }
}

/// What the page is answered with.
pub(crate) struct Framed {
    pub(crate) status: StatusCode,
    /// Who may frame it: sources of a Content Security Policy.
    pub(crate) ancestors: String,
}

/// Ends what the request names. Hooks are told, but not waited for.
pub(crate) async fn front_channel(current: &Current, query: Option<&str>) -> Framed {
    let core = current.core();
    let providers = core.cache.providers();
    let sole = match providers {
        [only] if core.config.sid_without_issuer => Some(only.issuer()),
        _ => None,
    };
    let named = match Named::parse(query, sole) {
        Ok(named) => named,
        Err(refused) => {
            events::front_channel("refused", refused.as_str());
            return Framed {
                status: StatusCode::BAD_REQUEST,
                ancestors: ancestors(providers),
            };
        }
    };
    let Some(provider) = core.cache.provider(&named.issuer) else {
        events::front_channel("ignored", "issuer");
        return Framed {
            status: StatusCode::OK,
            ancestors: ancestors(providers),
        };
    };
    let selector = Selector::sid(provider.issuer(), provider.client_id(), &named.sid);
    let ancestors = ancestors(std::slice::from_ref(provider));
    let task = {
        let current = current.clone();
        let tasks = core.cache.tasks().clone();
        // The browser drops the frame as soon as the provider's page moves on.
        tasks.spawn(async move { sign_out(&current, selector).await })
    };
    let status = match task.await {
        Ok(true) => StatusCode::OK,
        Ok(false) => StatusCode::SERVICE_UNAVAILABLE,
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Framed { status, ancestors }
}

/// `false` if the token store has not confirmed it.
async fn sign_out(current: &Current, selector: Selector) -> bool {
    let core = current.core();
    match evict(core, &selector).await {
        Ok(0) => {
            leave_session(current).await;
            true
        }
        // Its next request does: the answer to this one is a server error, with which no cookie of a renewed session comes.
        Ok(_) => false,
        Err(error) => {
            tracing::error!(%error, "a front-channel logout found the token store away");
            events::front_channel("pending", "store");
            look_again(core, selector);
            false
        }
    }
}

/// How many evictions are pending then.
async fn evict(core: &Core, selector: &Selector) -> Result<usize, StoreError> {
    if core.cache.store().members(selector).await?.is_empty() {
        events::front_channel("ignored", "sid");
        return Ok(0);
    }
    events::front_channel("accepted", "");
    let correlation_id = OperationId::random().to_string();
    let cause = Cause::FrontChannel;
    let cache = &core.cache;
    let evicted = cache
        .evict_selected(selector, cause, None, &correlation_id)
        .await;
    let pending = evicted.pending;
    cache.conclude_later(cause, &correlation_id, evicted);
    Ok(pending)
}

/// The session whose cookie came along loses what ended, as its next request would (promise 4). Any other session is none of
/// the provider's business: the request is not signed.
async fn leave_session(current: &Current) {
    let opened = current.opened().iter().cloned();
    let (ended, staying): (Vec<SignIn>, Vec<SignIn>) = opened.partition(SignIn::has_ended);
    let Some(session) = current.session().filter(|_| !ended.is_empty()) else {
        return;
    };
    if staying.is_empty() {
        end_session(session).await;
    } else {
        renew_session(current.core(), session, &staying).await;
    }
}

/// How often, and how far apart, a store that was away is asked again: for about ten minutes in all.
const PAUSES: [u64; 9] = [1, 2, 5, 10, 30, 60, 120, 180, 180];

/// Whether anybody has that `sid` could not be seen, so nothing can be held back; the provider will not send this again. A
/// limited number of them wait, since a stranger could send any number: those beyond it are lost, which the answer does not
/// hide.
fn look_again(core: &Arc<Core>, selector: Selector) {
    let Ok(waiting) = core.front_channel_waiting.clone().try_acquire_owned() else {
        return;
    };
    let core = core.clone();
    let stopped = core.cache.stopped().clone();
    let tasks = core.cache.tasks().clone();
    tasks.spawn(async move {
        let _waiting = waiting;
        for pause in PAUSES {
            let last = tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(pause)) => false,
                () = stopped.cancelled() => true,
            };
            if evict(&core, &selector).await.is_ok() {
                return;
            }
            if last {
                break;
            }
        }
        tracing::error!("a front-channel logout is given up");
    });
}

/// The origins of these providers: of the issuer, and of the logout page that holds the frame.
fn ancestors(providers: &[Provider]) -> String {
    let mut origins: Vec<String> = Vec::new();
    for provider in providers {
        let issuer = Url::parse(provider.issuer()).ok();
        let metadata = provider.known_metadata();
        let page = metadata.and_then(|metadata| metadata.end_session_endpoint.clone());
        for url in issuer.into_iter().chain(page) {
            let origin = url.origin();
            let text = origin.ascii_serialization();
            if origin.is_tuple() && !origins.contains(&text) {
                origins.push(text);
            }
        }
    }
    match origins.is_empty() {
        true => "'none'".into(),
        false => origins.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_request_names_r14() {
        const OP: &str = "https://op.example";
        let long = format!("sid={}&iss=x", "s".repeat(MAX_PARAMETER + 1));
        let very_long = format!("iss=x&sid=s&own={}", "o".repeat(MAX_QUERY));
        let named = |issuer: &str, sid: &str| {
            Ok(Named {
                issuer: issuer.into(),
                sid: sid.into(),
            })
        };
        let rows = [
            (
                "both",
                "iss=https%3A%2F%2Fop&sid=s+1%26",
                None,
                named("https://op", "s 1&"),
            ),
            (
                "the app's own parameters",
                "a=1&a=2&iss=x&sid=s&b",
                None,
                named("x", "s"),
            ),
            ("nothing", "", None, Err(Refused::Incomplete)),
            ("iss alone", "iss=x", None, Err(Refused::Incomplete)),
            ("sid alone", "sid=s", None, Err(Refused::Incomplete)),
            (
                "iss twice",
                "iss=x&sid=s&iss=x",
                None,
                Err(Refused::Doubled),
            ),
            (
                "sid twice",
                "iss=x&sid=s&sid=t",
                None,
                Err(Refused::Doubled),
            ),
            (
                "sid twice, encoded",
                "iss=x&sid=s&s%69d=t",
                None,
                Err(Refused::Doubled),
            ),
            ("iss empty", "iss=&sid=s", None, Err(Refused::Empty)),
            ("sid empty", "iss=x&sid", None, Err(Refused::Empty)),
            (
                "another case",
                "ISS=x&SID=s",
                None,
                Err(Refused::Incomplete),
            ),
            ("too long", &long, None, Err(Refused::TooLong)),
            ("too much", &very_long, None, Err(Refused::TooLong)),
            ("Entra's, allowed", "sid=s", Some(OP), named(OP, "s")),
            (
                "Entra's with the issuer",
                "sid=s&iss=x",
                Some(OP),
                named("x", "s"),
            ),
            (
                "Entra's with an empty one",
                "sid=s&iss=",
                Some(OP),
                Err(Refused::Empty),
            ),
            (
                "iss alone, where sid may be",
                "iss=x",
                Some(OP),
                Err(Refused::Incomplete),
            ),
        ];
        for (name, query, sole, expected) in rows {
            assert_eq!(Named::parse(Some(query), sole), expected, "{name}");
        }
        assert_eq!(Named::parse(None, Some(OP)), Err(Refused::Incomplete));
    }
}
