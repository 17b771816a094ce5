//! What sign-ins that began earlier are held against.

use std::hash::Hash;

use super::expiring::Expiring;
use crate::clock::Timestamp;
use crate::store::{Removal, Started};

/// All removals of one account, or closings of one selector, in one.
///
/// Those with and those without a logout token's `iat` are kept apart: either alone would weaken the other.
#[derive(Clone, Copy, Default)]
pub(super) struct Mark {
    /// The latest without `iat`.
    firm: Option<Timestamp>,
    /// The latest with one, and the latest of those.
    dated: Option<(Timestamp, i64)>,
}

impl Mark {
    fn add(&mut self, time: Timestamp, logout_iat: Option<i64>) {
        match (logout_iat, self.dated) {
            (None, _) => self.firm = self.firm.max(Some(time)),
            (Some(iat), None) => self.dated = Some((time, iat)),
            (Some(iat), Some((had, had_iat))) => {
                self.dated = Some((had.max(time), had_iat.max(iat)));
            }
        }
    }

    fn refuses(&self, started: &Started) -> bool {
        let firm = matches!((self.firm, started.at), (Some(mark), Some(at)) if mark >= at);
        firm || self.dated.is_some_and(|(mark, logout_iat)| {
            match (started.at, started.id_token_iat) {
                (_, Some(iat)) if iat > logout_iat => false,
                (Some(at), _) => mark >= at,
                (None, Some(_)) => true,
                (None, None) => false,
            }
        })
    }

    fn latest(&self) -> Timestamp {
        let dated = self.dated.map(|(time, _)| time);
        self.firm.max(dated).unwrap_or_default()
    }
}

/// Marks by name, bounded in number.
pub(super) struct Marks<K> {
    marks: Expiring<K, Mark>,
    max: usize,
    floor: Floor,
}

/// Stands in for what had to be forgotten at a limit: every sign-in that started before the latest of it is refused.
/// Some begin again for nothing; none slips through.
#[derive(Clone, Copy, Default)]
struct Floor {
    time: Timestamp,
    until: Timestamp,
}

impl<K: Copy + Eq + Hash> Marks<K> {
    pub(super) fn new(max: usize) -> Self {
        Self {
            marks: Expiring::default(),
            max,
            floor: Floor::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.marks.next()
    }

    /// Marks stay for as long as the longest of them.
    pub(super) fn add(&mut self, key: K, time: Timestamp, removal: &Removal) {
        let until = time.plus(removal.mark_for);
        let (mut mark, until) = match self.marks.get_mut(&key, time) {
            Some((mark, had)) => (*mark, had.max(until)),
            None => (Mark::default(), until),
        };
        mark.add(time, removal.logout_iat);
        self.marks.insert(key, mark, until);
        while self.marks.len() > self.max {
            let Some((mark, until)) = self.marks.pop_first() else {
                break;
            };
            self.raise_floor(mark.latest(), until);
        }
    }

    pub(super) fn raise_floor(&mut self, time: Timestamp, until: Timestamp) {
        self.floor.time = self.floor.time.max(time);
        self.floor.until = self.floor.until.max(until);
    }

    pub(super) fn refuse(&self, key: &K, started: &Started, now: Timestamp) -> bool {
        let floored = self.floor.until > now && started.at.is_none_or(|at| at <= self.floor.time);
        floored
            || self
                .marks
                .get(key, now)
                .is_some_and(|mark| mark.refuses(started))
    }

    /// Forgets some that have ended.
    pub(super) fn purge(&mut self, now: Timestamp, limit: usize) {
        for _ in 0..limit {
            if self.marks.pop_ended(now).is_none() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_secs(seconds)
    }

    #[test]
    fn a_mark_refuses_what_started_before_it_unless_its_id_token_is_younger() {
        let firm: &[(i64, Option<i64>)] = &[(100, None)];
        let dated: &[(i64, Option<i64>)] = &[(100, Some(1000))];
        let both: &[(i64, Option<i64>)] = &[(100, None), (200, Some(1000))];
        let two: &[(i64, Option<i64>)] = &[(200, Some(1000)), (100, Some(2000))];
        let rows = [
            ("before", firm, Some(99), None, true),
            ("at the same moment", firm, Some(100), None, true),
            ("after", firm, Some(101), None, false),
            (
                "no logout iat to compare with",
                firm,
                Some(99),
                Some(9999),
                true,
            ),
            ("nobody noted the start", firm, None, Some(1), false),
            ("before, id token older", dated, Some(99), Some(999), true),
            ("before, id token as old", dated, Some(99), Some(1000), true),
            (
                "before, id token younger",
                dated,
                Some(99),
                Some(1001),
                false,
            ),
            ("before, no id token iat", dated, Some(99), None, true),
            ("after, id token older", dated, Some(101), Some(999), false),
            (
                "unknown start, id token older",
                dated,
                None,
                Some(1000),
                true,
            ),
            ("unknown start, younger", dated, None, Some(1001), false),
            ("unknown start, no iat", dated, None, None, false),
            (
                "a later dated mark leaves the firm one",
                both,
                Some(100),
                Some(9999),
                true,
            ),
            (
                "an earlier firm mark leaves the dated one",
                both,
                Some(150),
                Some(1000),
                true,
            ),
            ("passes both", both, Some(150), Some(1001), false),
            ("the latest of each", two, Some(150), Some(1500), true),
        ];
        for (name, marks, start, iat, refused) in rows {
            let mut mark = Mark::default();
            for (time, logout_iat) in marks {
                mark.add(at(*time), *logout_iat);
            }
            let started = Started {
                at: start.map(at),
                id_token_iat: iat,
            };
            assert_eq!(mark.refuses(&started), refused, "{name}");
        }
    }
}
