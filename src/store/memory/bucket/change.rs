//! What creates, rewrites and takes out sign-ins.

use std::sync::Arc;

use super::{Bucket, Context, Refusal, Slot, Tombstone};
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{AccountHash, Address, KeyHash, OperationId, TokenHash};
use crate::store::memory::answers::{Answer, Asked};
use crate::store::memory::index::{NONE, tag};
use crate::store::memory::outbox::Retained;
use crate::store::memory::timers::Timer;
use crate::store::{
    Created, Entry, Generation, REPEAT_WINDOW, Removal, Removed, Replaced, Started, Target,
};

impl Bucket {
    /// What to answer without creating anything, if that is known already.
    pub(in crate::store::memory) fn before_create(
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
        // Of its start on no mark is sure to be there still.
        let too_late = started
            .at
            .is_some_and(|at| now.since(at) >= removal.mark_for);
        if too_late || self.marks.refuse(&address.account, started, now) {
            self.answer_create(address, Created::Refused, removal, now);
            return Err(Refusal::Late);
        }
        Ok(None)
    }

    pub(in crate::store::memory) fn answer_create(
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
    pub(in crate::store::memory) fn create(
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
    pub(in crate::store::memory) fn replace_if(
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

    pub(in crate::store::memory) fn remove(
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
    pub(in crate::store::memory) fn due(
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
        let to_revoke = removal
            .revoke
            .applies_to(&slot.entry.tokens, siblings as usize - 1)
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

    /// The least recently used of all, or of some that `random` picks; never that at `keep`.
    pub(in crate::store::memory) fn oldest(
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
    pub(in crate::store::memory) fn evict(
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
}

/// Why a sign-in leaves to make room: one whose time is up has ended by that.
fn leaving(slot: &Slot, now: Timestamp) -> Cause {
    let (end, cause) = slot.end();
    if end <= now { cause } else { Cause::Capacity }
}
