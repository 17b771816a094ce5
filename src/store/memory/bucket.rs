//! All that concerns the accounts of one bucket, changed together under one lock.

mod change;

use std::sync::Arc;

use aws_lc_rs::constant_time;

use super::answers::{Answer, Answers};
use super::expiring::Expiring;
use super::index::{Index, NONE, tag};
use super::marks::Marks;
use super::outbox::{Outbox, Retained};
use super::quota::Quota;
use super::slab::Slab;
use super::timers::Timers;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{AccountHash, Address, DownstreamName, KeyHash};
use crate::store::{Downstream, Entry, Generation, Lookup, SignInInfo, Stored};

/// Most downstream tokens of one sign-in.
const MAX_DOWNSTREAM: usize = 64;

/// How many ended things of each kind a call clears away: more than it can add, so that they never pile up.
const PURGE_STEP: usize = 4;

/// What a call on a bucket works with.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    /// Later than that of any call before.
    pub(super) now: Timestamp,
    pub(super) sign_ins: &'a Quota,
    pub(super) outbox: &'a Quota,
    pub(super) max_per_account: usize,
}

/// One sign-in. Slots of one account are linked, the newest first; its index entry points to that.
struct Slot {
    address: Address,
    key: KeyHash,
    entry: Arc<Entry>,
    generation: Generation,
    created: Timestamp,
    last_used: Timestamp,
    downstream: Option<Box<[Arc<Downstream>]>>,
    newer: u32,
    older: u32,
    /// How many the account has; kept in the newest only.
    siblings: u32,
    /// Which timer is valid.
    timer: u32,
}

impl Slot {
    /// When it ends unless it is used, and why.
    fn end(&self) -> (Timestamp, Cause) {
        let idle = self.last_used.plus(self.entry.lifetimes.idle);
        let absolute = self.created.plus(self.entry.lifetimes.absolute);
        if absolute <= idle {
            (absolute, Cause::Absolute)
        } else {
            (idle, Cause::Idle)
        }
    }

    fn is_live(&self, now: Timestamp) -> bool {
        self.end().0 > now
    }

    fn touch_due(&self, now: Timestamp) -> bool {
        now.since(self.last_used) >= self.entry.lifetimes.touch_interval()
    }

    fn has_key(&self, key: &KeyHash) -> bool {
        constant_time::verify_slices_are_equal(self.key.as_bytes(), key.as_bytes()).is_ok()
    }

    fn downstream(&self) -> &[Arc<Downstream>] {
        self.downstream.as_deref().unwrap_or_default()
    }
}

/// What a removal leaves at an address.
struct Tombstone {
    cause: Cause,
    time: Timestamp,
}

/// What fell out of use under the lock and is dropped after it: wiping tokens takes its time.
#[derive(Default)]
pub(super) struct Trash {
    answers: Vec<Answer>,
    retained: Vec<Retained>,
    downstream: Vec<Arc<Downstream>>,
}

/// Why a sign-in was not created.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Another sign-in is at that address.
    Occupied,
    /// It came too late.
    Late,
}

pub(super) struct Bucket {
    slots: Slab<Slot>,
    ids: Index,
    accounts: Index,
    timers: Timers,
    tombstones: Expiring<Address, Tombstone>,
    max_tombstones: usize,
    marks: Marks<AccountHash>,
    answers: Answers,
    pub(super) outbox: Outbox,
    downstream: usize,
    trash: Trash,
}

impl Bucket {
    pub(super) fn new(max_marks: usize) -> Self {
        Self {
            slots: Slab::default(),
            ids: Index::default(),
            accounts: Index::default(),
            timers: Timers::default(),
            tombstones: Expiring::default(),
            max_tombstones: max_marks,
            marks: Marks::new(max_marks),
            answers: Answers::default(),
            outbox: Outbox::default(),
            downstream: 0,
            trash: Trash::default(),
        }
    }

    pub(super) fn take_trash(&mut self) -> Trash {
        std::mem::take(&mut self.trash)
    }

    /// Marks, causes and remembered answers.
    pub(super) fn marks(&self) -> usize {
        self.tombstones.len() + self.marks.len() + self.answers.len()
    }

    pub(super) fn downstream(&self) -> usize {
        self.downstream
    }

    #[cfg(test)]
    pub(super) fn timer_count(&self) -> usize {
        self.timers.len()
    }

    fn find(&self, address: &Address) -> Option<u32> {
        self.ids.find(tag(address.id.as_bytes()), |slot| {
            self.slots
                .get(slot)
                .is_some_and(|have| have.address == *address)
        })
    }

    fn find_live(&self, address: &Address, now: Timestamp) -> Option<u32> {
        let slot = self.find(address)?;
        self.slots.get(slot)?.is_live(now).then_some(slot)
    }

    /// The account's newest sign-in.
    fn newest(&self, account: &AccountHash) -> Option<u32> {
        self.accounts.find(tag(account.as_bytes()), |slot| {
            self.slots
                .get(slot)
                .is_some_and(|have| have.address.account == *account)
        })
    }

    /// The account's sign-ins, the newest first.
    fn siblings(&self, account: &AccountHash) -> impl Iterator<Item = (u32, &Slot)> {
        let mut next = self.newest(account).unwrap_or(NONE);
        std::iter::from_fn(move || {
            let at = next;
            let slot = self.slots.get(at)?;
            next = slot.older;
            Some((at, slot))
        })
    }

    /// What is at an address, opened by a key where one is asked for.
    pub(super) fn look_up(
        &self,
        address: &Address,
        key: Option<&KeyHash>,
        now: Timestamp,
    ) -> Lookup {
        let Some(slot) = self.find(address).and_then(|slot| self.slots.get(slot)) else {
            let left = self.tombstones.get(address, now);
            return Lookup::Gone(left.map(|tombstone| tombstone.cause));
        };
        if key.is_some_and(|key| !slot.has_key(key)) {
            return Lookup::Gone(None);
        }
        let (expires, cause) = slot.end();
        if expires <= now {
            return Lookup::Gone(Some(cause));
        }
        Lookup::Live(Stored {
            entry: slot.entry.clone(),
            generation: slot.generation,
            created: slot.created,
            last_used: slot.last_used,
            expires,
            touch_due: slot.touch_due(now),
        })
    }

    pub(super) fn list(&self, account: &AccountHash, now: Timestamp) -> Vec<SignInInfo> {
        let live = self.siblings(account).filter(|(_, slot)| slot.is_live(now));
        live.map(|(_, slot)| SignInInfo {
            address: slot.address,
            created: slot.created,
            last_used: slot.last_used,
            expires: slot.end().0,
            label: slot.entry.label.clone(),
        })
        .collect()
    }

    pub(super) fn touch(&mut self, address: &Address, now: Timestamp) -> bool {
        let live = self.find_live(address, now);
        let Some(slot) = live.and_then(|slot| self.slots.get_mut(slot)) else {
            return false;
        };
        if slot.touch_due(now) {
            slot.last_used = slot.last_used.max(now);
        }
        true
    }

    pub(super) fn rekey(
        &mut self,
        address: &Address,
        old: &KeyHash,
        new: &KeyHash,
        now: Timestamp,
    ) -> bool {
        let live = self.find_live(address, now);
        let Some(slot) = live.and_then(|slot| self.slots.get_mut(slot)) else {
            return false;
        };
        if slot.has_key(old) {
            slot.key = *new;
            return true;
        }
        slot.has_key(new)
    }

    pub(super) fn live_entry(
        &self,
        address: &Address,
        now: Timestamp,
    ) -> Option<(Arc<Entry>, Generation)> {
        let slot = self.slots.get(self.find_live(address, now)?)?;
        Some((slot.entry.clone(), slot.generation))
    }

    /// `None` if the sign-in is not at that generation.
    pub(super) fn put_downstream(
        &mut self,
        address: &Address,
        generation: Generation,
        downstream: Arc<Downstream>,
        now: Timestamp,
    ) -> Option<()> {
        let at = self.find_live(address, now)?;
        let slot = self.slots.get_mut(at)?;
        if slot.generation != generation {
            return None;
        }
        let mut all = slot.downstream.take().unwrap_or_default().into_vec();
        self.downstream -= all.len();
        let end = |token: &Downstream| token.token.expires();
        let leaves = if let Some(same) = all.iter().position(|have| have.name == downstream.name) {
            Some(same)
        } else if all.len() >= MAX_DOWNSTREAM {
            // A token of unknown end leaves last.
            let ends = all.iter().enumerate();
            ends.min_by_key(|(_, have)| (end(have).is_none(), end(have)))
                .map(|(at, _)| at)
        } else {
            None
        };
        if let Some(leaves) = leaves {
            self.trash.downstream.push(all.remove(leaves));
        }
        all.push(downstream);
        self.downstream += all.len();
        slot.downstream = Some(all.into());
        Some(())
    }

    pub(super) fn get_downstream(
        &self,
        address: &Address,
        name: &DownstreamName,
        now: Timestamp,
    ) -> Option<Arc<Downstream>> {
        let slot = self.slots.get(self.find_live(address, now)?)?;
        let mut all = slot.downstream().iter();
        all.find(|have| have.name == *name).cloned()
    }

    /// Whether nothing has ended.
    pub(super) fn is_idle(&self, now: Timestamp) -> bool {
        let first = [
            self.timers.next(),
            self.tombstones.next(),
            self.marks.next(),
            self.answers.next(),
            self.outbox.next_aged(),
        ];
        first.into_iter().flatten().all(|at| at > now)
    }

    /// Clears away some of what has ended: each call a little, so that none has to do it all.
    pub(super) fn purge_some(&mut self, context: Context<'_>) {
        self.purge(PURGE_STEP, context);
    }

    pub(super) fn purge(&mut self, limit: usize, context: Context<'_>) {
        let now = context.now;
        self.marks.purge(now, limit);
        for _ in 0..limit {
            if self.tombstones.pop_ended(now).is_none() {
                break;
            }
        }
        let answers = std::iter::from_fn(|| self.answers.pop_ended(now));
        self.trash.answers.extend(answers.take(limit));
        let aged = std::iter::from_fn(|| self.outbox.pop_aged(now, context.outbox));
        self.trash.retained.extend(aged.take(limit));
    }

    pub(super) fn discard_retained(&mut self, retained: Option<Retained>) {
        self.trash.retained.extend(retained);
    }
}
