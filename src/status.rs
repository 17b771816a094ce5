//! What a page is told that wants to warn its user before the sign-in ends.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;

use crate::cache::{SignIn, TimeLeft};
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::current::Current;
use crate::error::{Error, ErrorKind};
use crate::id::SignInId;

/// The answer of the status route. It names nobody, and is for whoever has the session's cookie.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    signed_in: bool,
    /// Of the sign-in that ends first.
    #[serde(flatten)]
    next: Option<Left>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sign_ins: Vec<One>,
    /// Why this very request found that a sign-in had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Cause>,
}

#[derive(Debug, PartialEq, Serialize)]
struct One {
    sign_in: SignInId,
    #[serde(flatten)]
    left: Left,
}

/// Whole seconds, rounded down, so that a page rather warns early.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Left {
    expires_in: u64,
    idle_expires_in: u64,
    absolute_expires_in: u64,
    warn: bool,
}

impl Left {
    fn of(left: TimeLeft, warn_before: Duration) -> Self {
        Self {
            expires_in: left.until_end().as_secs(),
            idle_expires_in: left.idle.as_secs(),
            absolute_expires_in: left.absolute.as_secs(),
            warn: left.until_end() <= warn_before && !warn_before.is_zero(),
        }
    }
}

impl Status {
    fn of(all: Vec<(SignInId, TimeLeft)>, warn_before: Duration, ended: Option<Cause>) -> Self {
        let first = all.iter().min_by_key(|(_, left)| left.until_end());
        let next = first.map(|(_, left)| Left::of(*left, warn_before));
        let one = |(sign_in, left)| One {
            sign_in,
            left: Left::of(left, warn_before),
        };
        Self {
            signed_in: next.is_some(),
            next,
            sign_ins: all.into_iter().map(one).collect(),
            ended,
        }
    }
}

/// How long the session's sign-ins go on; asking prolongs nothing.
pub(crate) async fn status(current: &Current) -> Result<Status, Error> {
    let all = current.sign_ins()?;
    let now = match all.is_empty() {
        true => Timestamp::default(),
        // By the clock that ends them, and after they were loaded: what that took is not told as left.
        false => current.core().cache.store().now().await?,
    };
    let left = all.iter().map(|one| {
        let left = TimeLeft::of(&one.stored(), now);
        (one.address().id, left)
    });
    Ok(answer(current, left.collect()))
}

/// Prolongs the session's sign-ins, and says how long they go on.
pub(crate) async fn prolong(current: &Current) -> Result<Status, Error> {
    let all = current.sign_ins()?;
    let prolonged = join_all(all.iter().map(SignIn::prolong)).await;
    let mut left = Vec::with_capacity(all.len());
    for (one, prolonged) in all.iter().zip(prolonged) {
        match prolonged {
            Ok(until) => left.push((one.address().id, until)),
            Err(error) if error.kind() == ErrorKind::NotSignedIn => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer(current, left))
}

fn answer(current: &Current, left: Vec<(SignInId, TimeLeft)>) -> Status {
    let ended = current.effects().ended;
    Status::of(left, current.core().config.warn_before, ended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn left(idle: u64, absolute: u64) -> TimeLeft {
        TimeLeft {
            idle: Duration::from_millis(idle),
            absolute: Duration::from_millis(absolute),
        }
    }

    fn said(all: Vec<(SignInId, TimeLeft)>, ended: Option<Cause>) -> serde_json::Value {
        serde_json::to_value(Status::of(all, Duration::from_secs(60), ended)).unwrap()
    }

    #[test]
    fn nobody_is_told_as_nobody_with_the_cause_where_it_is_known_r42() {
        assert_eq!(said(Vec::new(), None), json!({ "signed_in": false }));
        let idle = json!({ "signed_in": false, "ended": "Idle" });
        assert_eq!(said(Vec::new(), Some(Cause::Idle)), idle);
    }

    #[test]
    fn the_first_end_counts_and_is_rounded_down_r42() {
        let ids = [SignInId::random(), SignInId::random()];
        let both = vec![
            (ids[0], left(90_900, 500_000)),
            (ids[1], left(90_900, 59_999)),
        ];
        let one = |id: SignInId, [first, idle, absolute]: [u64; 3], warn: bool| {
            json!({
                "sign_in": id.to_string(), "expires_in": first, "idle_expires_in": idle,
                "absolute_expires_in": absolute, "warn": warn,
            })
        };
        assert_eq!(
            said(both, None),
            json!({
                "signed_in": true, "expires_in": 59, "idle_expires_in": 90, "absolute_expires_in": 59, "warn": true,
                "sign_ins": [one(ids[0], [90, 90, 500], false), one(ids[1], [59, 90, 59], true)],
            })
        );
    }

    #[test]
    fn the_window_to_warn_is_the_one_configured_r42() {
        let rows = [
            (59_999, true),
            (60_000, true),
            (60_001, false),
            (120_000, false),
        ];
        for (idle, expected) in rows {
            let all = vec![(SignInId::random(), left(idle, 1_000_000))];
            assert_eq!(said(all, None)["warn"], expected, "{idle} ms");
        }
    }
}
