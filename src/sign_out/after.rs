//! The user is back from the provider's logout (RP-Initiated Logout section 3).

use axum::http::HeaderMap;

use super::interrupted::UnderWay;
use super::rp_initiated::Exit;
use crate::current::Current;
use crate::hooks::Returned;
use crate::return_url::SafeTarget;

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

/// Where to go now; `None` is the neutral page, which a missing, wrong, foreign or used state leads to as well (R7).
pub(crate) async fn after_sign_out(
    current: &Current,
    headers: &HeaderMap,
    query: CallbackQuery,
) -> Option<Onward> {
    let core = current.core();
    let state = query.state?;
    let under_way = UnderWay::returned(current, headers, &state).await?;
    if let Some(exit) = under_way.next(current, headers).await {
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
