//! What was answered of late, for those who ask again.

use super::expiring::Expiring;
use crate::clock::Timestamp;
use crate::id::{Address, OperationId};
use crate::store::{Created, Generation, REPEAT_WINDOW, Removed, Target};

/// What was asked. Calls that belong together can share an operation's name: the sign-ins that a closing yielded are
/// removed under one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Asked {
    Remove(Target),
    Create(Address),
    Replace(Address),
}

#[derive(Clone)]
pub(super) enum Answer {
    Removed(Vec<Removed>),
    Created(Created),
    Replaced(Generation),
}

impl Answer {
    /// Sign-ins it keeps alive, and itself.
    fn weight(&self) -> usize {
        1 + match self {
            Self::Removed(removed) | Self::Created(Created::Done { evicted: removed }) => {
                removed.len()
            }
            Self::Created(Created::Refused) | Self::Replaced(_) => 0,
        }
    }
}

/// Most sign-ins and answers that one bucket remembers; the oldest are forgotten.
const MAX_WEIGHT: usize = 1024;

#[derive(Default)]
pub(super) struct Answers {
    answers: Expiring<(OperationId, Asked), Answer>,
    weight: usize,
}

impl Answers {
    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.answers.next()
    }

    pub(super) fn get(
        &self,
        operation: OperationId,
        asked: Asked,
        now: Timestamp,
    ) -> Option<Answer> {
        self.answers.get(&(operation, asked), now).cloned()
    }

    /// What is forgotten for it goes to `trash`.
    pub(super) fn put(
        &mut self,
        operation: OperationId,
        asked: Asked,
        answer: Answer,
        now: Timestamp,
        trash: &mut Vec<Answer>,
    ) {
        self.weight += answer.weight();
        let until = now.plus(REPEAT_WINDOW);
        if let Some(old) = self.answers.insert((operation, asked), answer, until) {
            self.weight -= old.weight();
            trash.push(old);
        }
        while self.weight > MAX_WEIGHT && self.answers.len() > 1 {
            let Some((old, _)) = self.answers.pop_first() else {
                break;
            };
            self.weight -= old.weight();
            trash.push(old);
        }
    }

    pub(super) fn pop_ended(&mut self, now: Timestamp) -> Option<Answer> {
        let old = self.answers.pop_ended(now)?;
        self.weight -= old.weight();
        Some(old)
    }
}
