//! All that concerns the accounts of one bucket, changed together under one lock.

use std::sync::Arc;

use aws_lc_rs::constant_time;

use super::answers::{Answer, Answers, Asked};
use super::expiring::Expiring;
use super::index::{Index, NONE, tag};
use super::marks::Marks;
use super::outbox::{Outbox, Retained};
use super::quota::Quota;
use super::slab::Slab;
use super::timers::{Timer, Timers};
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{AccountHash, Address, DownstreamName, KeyHash, OperationId, TokenHash};
use crate::store::{
    Created, Downstream, Entry, Generation, Lookup, REPEAT_WINDOW, Removal, Removed, Replaced,
    SignInInfo, Started, Stored, Target,
};

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

    /// What to answer without creating anything, if that is known already.
    pub(super) fn before_create(
        &mut self,
        address: &Address,
        key: &KeyHash,
        started: &Started,
        removal: &Removal,
        context: Context<'_>,
    ) -> Result<Option<Created>, Refusal> {
        let now = context.now;
        let asked = Asked::Create(*address);
        if let Some(slot) = self.find(address).and_then(|slot| self.slots.get(slot)) {
            if !slot.has_key(key) || !slot.is_live(now) {
                return Err(Refusal::Occupied);
            }
            return Ok(match self.answers.get(removal.operation, asked, now) {
                Some(Answer::Created(created)) => Some(created),
                _ => Some(Created::Done {
                    evicted: Vec::new(),
                }),
            });
        }
        let refused = matches!(
            self.answers.get(removal.operation, asked, now),
            Some(Answer::Created(Created::Refused))
        );
        if refused || self.tombstones.get(address, now).is_some() {
            return Err(Refusal::Late);
        }
        if self.marks.refuse(&address.account, started, now) {
            self.answer_create(address, Created::Refused, removal, now);
            return Err(Refusal::Late);
        }
        Ok(None)
    }

    pub(super) fn answer_create(
        &mut self,
        address: &Address,
        answer: Created,
        removal: &Removal,
        now: Timestamp,
    ) {
        self.answers.put(
            removal.operation,
            Asked::Create(*address),
            Answer::Created(answer),
            now,
            &mut self.trash.answers,
        );
    }

    /// Puts an entry at an address that [`before_create`](Self::before_create) found free, under the same lock. Returns
    /// what had to leave because the account has too many.
    pub(super) fn create(
        &mut self,
        address: &Address,
        key: KeyHash,
        entry: Arc<Entry>,
        removal: &Removal,
        context: Context<'_>,
    ) -> Vec<Removed> {
        let mut evicted = Vec::new();
        while self.count(&address.account) >= context.max_per_account {
            let siblings = self.siblings(&address.account);
            let Some((oldest, slot)) = siblings.min_by_key(|(_, slot)| slot.last_used) else {
                break;
            };
            let cause = leaving(slot, context.now);
            evicted.extend(self.take_out(oldest, cause, removal, context));
        }
        context.sign_ins.take();
        let older = self.newest(&address.account).unwrap_or(NONE);
        let siblings = self.count(&address.account) as u32 + 1;
        let slot = self.slots.insert(Slot {
            address: *address,
            key,
            entry,
            generation: Generation::FIRST,
            created: context.now,
            last_used: context.now,
            downstream: None,
            newer: NONE,
            older,
            siblings,
            timer: 0,
        });
        let account = tag(address.account.as_bytes());
        match self.slots.get_mut(older) {
            Some(next) => {
                next.newer = slot;
                self.accounts.replace(account, older, slot);
            }
            None => self.accounts.insert(account, slot),
        }
        self.ids.insert(tag(address.id.as_bytes()), slot);
        self.set_timer(slot);
        evicted
    }

    fn count(&self, account: &AccountHash) -> usize {
        let newest = self.newest(account).and_then(|slot| self.slots.get(slot));
        newest.map_or(0, |slot| slot.siblings as usize)
    }

    fn set_timer(&mut self, at: u32) {
        if let Some(slot) = self.slots.get_mut(at) {
            slot.timer = self.timers.set(slot.end().0, at);
        }
    }

    /// `subjects` are the hashes of the new entry's access tokens. Returns the entry that was there.
    pub(super) fn replace_if(
        &mut self,
        address: &Address,
        generation: Generation,
        entry: Arc<Entry>,
        subjects: &[TokenHash],
        operation: OperationId,
        now: Timestamp,
    ) -> (Replaced, Option<Arc<Entry>>) {
        let asked = Asked::Replace(*address);
        let live = self.find_live(address, now);
        let slot = live.and_then(|at| Some((at, self.slots.get_mut(at)?)));
        let Some((at, slot)) = slot.filter(|(_, slot)| slot.generation == generation) else {
            let answer = match self.answers.get(operation, asked, now) {
                Some(Answer::Replaced(generation)) => Replaced::Done(generation),
                _ if live.is_some() => Replaced::Changed,
                _ => Replaced::Gone,
            };
            return (answer, None);
        };
        let had_end = slot.end().0;
        let old = std::mem::replace(&mut slot.entry, entry);
        slot.generation = generation.next();
        let done = slot.generation;
        let earlier = slot.end().0 < had_end;
        if let Some(had) = slot.downstream.take() {
            let (keep, drop): (Vec<_>, Vec<_>) = had
                .into_vec()
                .into_iter()
                .partition(|have| subjects.contains(&have.subject));
            self.downstream -= drop.len();
            self.trash.downstream.extend(drop);
            slot.downstream = (!keep.is_empty()).then(|| keep.into());
        }
        if earlier {
            self.set_timer(at);
        }
        let trash = &mut self.trash.answers;
        self.answers
            .put(operation, asked, Answer::Replaced(done), now, trash);
        (Replaced::Done(done), Some(old))
    }

    pub(super) fn remove(
        &mut self,
        target: &Target,
        removal: &Removal,
        context: Context<'_>,
    ) -> Vec<Removed> {
        let now = context.now;
        let asked = Asked::Remove(*target);
        if let Some(Answer::Removed(removed)) = self.answers.get(removal.operation, asked, now) {
            return removed;
        }
        let slots: Vec<u32> = match target {
            Target::SignIn(address) => self.find(address).into_iter().collect(),
            Target::SignInAt(address, generation) => {
                let same = |slot: &u32| {
                    let slot = self.slots.get(*slot);
                    slot.is_some_and(|slot| slot.generation == *generation)
                };
                self.find(address).filter(same).into_iter().collect()
            }
            Target::Account(account) => self.siblings(account).map(|(slot, _)| slot).collect(),
            Target::AccountExcept(account, keep) => self
                .siblings(account)
                .filter(|(_, slot)| slot.address.id != *keep)
                .map(|(slot, _)| slot)
                .collect(),
        };
        match target {
            Target::Account(account) | Target::AccountExcept(account, _) => {
                self.marks.add(*account, now, removal);
            }
            // Its creation may be under way: it must find out that it came too late.
            Target::SignIn(address) if slots.is_empty() => {
                self.bury(address, removal.cause, removal, now);
            }
            Target::SignIn(_) | Target::SignInAt(..) => {}
        }
        let removed: Vec<Removed> = slots
            .into_iter()
            .filter_map(|slot| self.take_out(slot, removal.cause, removal, context))
            .collect();
        self.answers.put(
            removal.operation,
            asked,
            Answer::Removed(removed.clone()),
            now,
            &mut self.trash.answers,
        );
        removed
    }

    /// Takes out up to `limit` sign-ins whose time is up.
    pub(super) fn due(
        &mut self,
        limit: usize,
        removal: &Removal,
        context: Context<'_>,
    ) -> Vec<Removed> {
        let mut removed = Vec::new();
        while removed.len() < limit {
            let Some(timer) = self.timers.pop(context.now) else {
                break;
            };
            let slot = self.slots.get(timer.slot);
            let Some(slot) = slot.filter(|slot| slot.timer == timer.stamp) else {
                continue;
            };
            let (end, cause) = slot.end();
            if end > context.now {
                self.timers.set_again(timer, end);
            } else {
                removed.extend(self.take_out(timer.slot, cause, removal, context));
            }
        }
        removed
    }

    fn take_out(
        &mut self,
        at: u32,
        cause: Cause,
        removal: &Removal,
        context: Context<'_>,
    ) -> Option<Removed> {
        let siblings = {
            let slot = self.slots.get(at)?;
            self.count(&slot.address.account) as u32
        };
        let slot = self.slots.remove(at)?;
        let address = slot.address;
        let account = tag(address.account.as_bytes());
        self.ids.remove(tag(address.id.as_bytes()), at);
        if let Some(older) = self.slots.get_mut(slot.older) {
            older.newer = slot.newer;
        }
        match self.slots.get_mut(slot.newer) {
            Some(newer) => newer.older = slot.older,
            None if slot.older == NONE => self.accounts.remove(account, at),
            None => self.accounts.replace(account, at, slot.older),
        }
        let newest = self.newest(&address.account);
        if let Some(newest) = newest.and_then(|slot| self.slots.get_mut(slot)) {
            newest.siblings = siblings - 1;
        }
        context.sign_ins.give_back();
        let slots = &self.slots;
        self.timers.tidy(slots.len(), |timer: &Timer| {
            slots
                .get(timer.slot)
                .is_some_and(|slot| slot.timer == timer.stamp)
        });

        self.bury(&address, cause, removal, context.now);
        let downstream = slot.downstream().len();
        self.downstream -= downstream;
        self.trash
            .downstream
            .extend(slot.downstream.into_iter().flatten());
        // An address is used once, so its name serves as the item's: a removal that is sent again cannot put a second
        // one in.
        let to_revoke = removal.revoke.applies_to(&slot.entry.tokens)
            && self.outbox.put(
                OperationId::from_bytes(*address.id.as_bytes()),
                address.account,
                Retained::Entry(slot.entry.clone()),
                context.now,
                context.outbox,
            );
        Some(Removed {
            address,
            entry: slot.entry,
            cause,
            created: slot.created,
            last_used: slot.last_used,
            downstream,
            to_revoke,
        })
    }

    /// Leaves the cause of the first removal, for as long as the longest.
    fn bury(&mut self, address: &Address, cause: Cause, removal: &Removal, now: Timestamp) {
        let until = now.plus(removal.mark_for.max(REPEAT_WINDOW));
        let (cause, until) = match self.tombstones.get_mut(address, now) {
            Some((tombstone, had)) => (tombstone.cause, had.max(until)),
            None => (cause, until),
        };
        self.tombstones
            .insert(*address, Tombstone { cause, time: now }, until);
        while self.tombstones.len() > self.max_tombstones {
            let Some((tombstone, until)) = self.tombstones.pop_first() else {
                break;
            };
            self.marks.raise_floor(tombstone.time, until);
        }
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

    /// The least recently used of all, or of some that `random` picks; never that at `keep`.
    pub(super) fn oldest(
        &self,
        keep: &Address,
        mut random: Option<(usize, &mut dyn FnMut() -> u64)>,
    ) -> Option<(Timestamp, Address)> {
        let use_of = |slot: &Slot| (slot.last_used, slot.address);
        let others = |(_, address): &(Timestamp, Address)| address != keep;
        match &mut random {
            None => self
                .slots
                .iter()
                .map(use_of)
                .filter(others)
                .min_by_key(|(used, _)| *used),
            Some((picks, random)) => {
                let bound = u64::from(self.slots.bound().max(1));
                (0..*picks)
                    .filter_map(|_| self.slots.get((random() % bound) as u32))
                    .map(use_of)
                    .filter(others)
                    .min_by_key(|(used, _)| *used)
            }
        }
    }

    /// Takes out a sign-in that was not used since it was found to be the oldest.
    pub(super) fn evict(
        &mut self,
        (used, address): (Timestamp, Address),
        removal: &Removal,
        context: Context<'_>,
    ) -> Option<Removed> {
        let at = self.find(&address)?;
        let slot = self.slots.get(at)?;
        let cause = leaving(slot, context.now);
        (slot.last_used == used)
            .then(|| self.take_out(at, cause, removal, context))
            .flatten()
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

/// Why a sign-in leaves to make room: one whose time is up has ended by that.
fn leaving(slot: &Slot, now: Timestamp) -> Cause {
    let (end, cause) = slot.end();
    if end <= now { cause } else { Cause::Capacity }
}
