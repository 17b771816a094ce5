//! Tokens that are to be revoked, of one bucket.

use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use super::expiring::NameHasher;
use super::quota::Quota;
use crate::clock::Timestamp;
use crate::id::{AccountHash, OperationId};
use crate::store::{Entry, OUTBOX_AGE, OutboxItem, RetainedTokens};

/// What waits. A removed entry is kept as it is and turned into [`RetainedTokens`] when it is handed out: copying its
/// tokens is not done under the lock of a removal.
#[derive(Clone)]
pub(super) enum Retained {
    Entry(Arc<Entry>),
    Tokens(Arc<RetainedTokens>),
}

impl Retained {
    fn tokens(&self) -> RetainedTokens {
        match self {
            Self::Entry(entry) => RetainedTokens::of(entry),
            Self::Tokens(tokens) => (**tokens).clone(),
        }
    }
}

struct Item {
    account: AccountHash,
    retained: Retained,
    created: Timestamp,
    /// Who has it, and how often it was handed out: the number tells a late answer from the current holder's.
    holder: Option<OperationId>,
    handed_out: u32,
    /// From when on it can be handed out, to another holder if it has one.
    ready: Timestamp,
}

/// An item that was taken, to be turned into an [`OutboxItem`] once the lock is left.
pub(super) struct Taken {
    id: OperationId,
    account: AccountHash,
    created: Timestamp,
    attempts: u32,
    retained: Retained,
}

impl From<Taken> for OutboxItem {
    fn from(taken: Taken) -> Self {
        Self {
            id: taken.id,
            account: taken.account,
            created: taken.created,
            attempts: taken.attempts,
            retained: taken.retained.tokens(),
        }
    }
}

#[derive(Default)]
pub(super) struct Outbox {
    items: HashMap<OperationId, Item, BuildHasherDefault<NameHasher>>,
    by_ready: BTreeSet<(Timestamp, OperationId)>,
    by_age: BTreeSet<(Timestamp, OperationId)>,
}

impl Outbox {
    /// `false` if there is no room. An item of that name that is there already stays as it is.
    pub(super) fn put(
        &mut self,
        id: OperationId,
        account: AccountHash,
        retained: Retained,
        now: Timestamp,
        room: &Quota,
    ) -> bool {
        if self.items.contains_key(&id) {
            return true;
        }
        if !room.try_take() {
            return false;
        }
        let item = Item {
            account,
            retained,
            created: now,
            holder: None,
            handed_out: 0,
            ready: now,
        };
        self.items.insert(id, item);
        self.by_ready.insert((now, id));
        self.by_age.insert((now, id));
        true
    }

    pub(super) fn take(
        &mut self,
        holder: OperationId,
        hold: Duration,
        now: Timestamp,
        limit: usize,
    ) -> Vec<Taken> {
        let mut taken = Vec::new();
        while taken.len() < limit {
            let Some(&(ready, id)) = self.by_ready.first() else {
                break;
            };
            if ready > now {
                break;
            }
            self.by_ready.pop_first();
            let Some(item) = self.items.get_mut(&id) else {
                continue;
            };
            taken.push(Taken {
                id,
                account: item.account,
                created: item.created,
                attempts: item.handed_out,
                retained: item.retained.clone(),
            });
            item.holder = Some(holder);
            item.handed_out = item.handed_out.saturating_add(1);
            item.ready = now.plus(hold);
            self.by_ready.insert((item.ready, id));
            // A hold of no time would hand the same item out for ever.
            if item.ready <= now {
                break;
            }
        }
        taken
    }

    /// The item again, for the holder that still has it.
    pub(super) fn taken_by(
        &self,
        holder: OperationId,
        id: OperationId,
        now: Timestamp,
    ) -> Option<Taken> {
        let item = self.items.get(&id)?;
        (item.holder == Some(holder) && item.ready > now).then(|| Taken {
            id,
            account: item.account,
            created: item.created,
            attempts: item.handed_out.saturating_sub(1),
            retained: item.retained.clone(),
        })
    }

    /// Whoever finishes an item: once its tokens are revoked it does not matter who holds it.
    pub(super) fn finish(&mut self, id: OperationId, room: &Quota) -> Option<Retained> {
        let item = self.items.remove(&id)?;
        self.by_ready.remove(&(item.ready, id));
        self.by_age.remove(&(item.created, id));
        room.give_back();
        Some(item.retained)
    }

    /// Only for the holder that was handed it last: another's late answer must not take it away from that one.
    pub(super) fn retry(&mut self, id: OperationId, attempts: u32, at: Timestamp) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        if item.holder.is_none() || item.handed_out != attempts.saturating_add(1) {
            return;
        }
        self.by_ready.remove(&(item.ready, id));
        item.holder = None;
        item.ready = at;
        self.by_ready.insert((at, id));
    }

    /// When the first is too old.
    pub(super) fn next_aged(&self) -> Option<Timestamp> {
        self.by_age
            .first()
            .map(|(created, _)| created.plus(OUTBOX_AGE))
    }

    /// Forgets an item that is too old.
    pub(super) fn pop_aged(&mut self, now: Timestamp, room: &Quota) -> Option<Retained> {
        if self.next_aged()? > now {
            return None;
        }
        let &(_, id) = self.by_age.first()?;
        self.finish(id, room)
    }
}
