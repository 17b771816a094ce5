//! Which sign-ins a logout from outside means.

use super::expiring::Expiring;
use super::index::{Index, NONE, tag};
use super::marks::Marks;
use super::quota::Quota;
use super::slab::Slab;
use super::timers::Timers;
use crate::clock::Timestamp;
use crate::id::{Address, OperationId, Selector};
use crate::store::{REPEAT_WINDOW, Registered, Removal, Started};

/// How long a member waits for its entry. Whoever registered it and vanished must not fill the store; a creation that
/// comes later registers again.
const PROVISIONAL: std::time::Duration = std::time::Duration::from_secs(60 * 60);

/// Most closings that a stripe remembers the answers to.
const MAX_ANSWERS: usize = 1024;

/// A member of a set; those of one selector are linked, and its index entry points to the first.
struct Member {
    selector: Selector,
    address: Address,
    before: u32,
    after: u32,
    /// Which timer is valid; zero once the entry was created.
    timer: u32,
}

/// The selectors of one stripe.
pub(super) struct Selectors {
    members: Slab<Member>,
    index: Index,
    timers: Timers,
    provisional: usize,
    marks: Marks<Selector>,
    answers: Expiring<(OperationId, Selector), Box<[Address]>>,
}

impl Selectors {
    pub(super) fn new(max_marks: usize) -> Self {
        Self {
            members: Slab::default(),
            index: Index::default(),
            timers: Timers::default(),
            provisional: 0,
            marks: Marks::new(max_marks),
            answers: Expiring::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn marks(&self) -> usize {
        self.marks.len() + self.answers.len()
    }

    fn first(&self, selector: &Selector) -> Option<u32> {
        self.index.find(tag(selector.as_bytes()), |at| {
            let member = self.members.get(at);
            member.is_some_and(|member| member.selector == *selector)
        })
    }

    fn members(&self, selector: &Selector) -> impl Iterator<Item = (u32, &Member)> {
        let mut next = self.first(selector).unwrap_or(NONE);
        std::iter::from_fn(move || {
            let at = next;
            let member = self.members.get(at)?;
            next = member.after;
            Some((at, member))
        })
    }

    fn find(&self, selector: &Selector, address: &Address) -> Option<u32> {
        let mut members = self.members(selector);
        members
            .find(|(_, member)| member.address == *address)
            .map(|(at, _)| at)
    }

    pub(super) fn addresses(&self, selector: &Selector) -> Vec<Address> {
        let members = self.members(selector);
        members.map(|(_, member)| member.address).collect()
    }

    /// `None` at the limit.
    pub(super) fn register(
        &mut self,
        selector: &Selector,
        address: &Address,
        started: &Started,
        now: Timestamp,
        room: &Quota,
    ) -> Option<Registered> {
        if self.marks.refuse(selector, started, now) {
            return Some(Registered::Refused);
        }
        if self.find(selector, address).is_some() {
            return Some(Registered::Done);
        }
        if !room.try_take() {
            return None;
        }
        let after = self.first(selector).unwrap_or(NONE);
        let at = self.members.insert(Member {
            selector: *selector,
            address: *address,
            before: NONE,
            after,
            timer: 0,
        });
        match self.members.get_mut(after) {
            Some(next) => {
                next.before = at;
                self.index.replace(tag(selector.as_bytes()), after, at);
            }
            None => self.index.insert(tag(selector.as_bytes()), at),
        }
        let timer = self.timers.set(now.plus(PROVISIONAL), at);
        if let Some(member) = self.members.get_mut(at) {
            member.timer = timer;
        }
        self.provisional += 1;
        Some(Registered::Done)
    }

    /// The entry is there, or is about to be: the member stays until it goes.
    pub(super) fn confirm(&mut self, selector: &Selector, address: &Address) {
        let found = self.find(selector, address);
        let member = found.and_then(|at| self.members.get_mut(at));
        if let Some(member) = member.filter(|member| member.timer != 0) {
            member.timer = 0;
            self.provisional -= 1;
            self.tidy();
        }
    }

    pub(super) fn unregister(&mut self, selector: &Selector, address: &Address, room: &Quota) {
        if let Some(at) = self.find(selector, address) {
            self.leave(at, room);
        }
    }

    fn leave(&mut self, at: u32, room: &Quota) {
        let Some(member) = self.members.remove(at) else {
            return;
        };
        let tag = tag(member.selector.as_bytes());
        if let Some(after) = self.members.get_mut(member.after) {
            after.before = member.before;
        }
        match self.members.get_mut(member.before) {
            Some(before) => before.after = member.after,
            None if member.after == NONE => self.index.remove(tag, at),
            None => self.index.replace(tag, at, member.after),
        }
        room.give_back();
        if member.timer != 0 {
            self.provisional -= 1;
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        let members = &self.members;
        self.timers.tidy(self.provisional, |timer| {
            let member = members.get(timer.slot);
            member.is_some_and(|member| member.timer == timer.stamp)
        });
    }

    pub(super) fn close(
        &mut self,
        selector: &Selector,
        removal: &Removal,
        now: Timestamp,
    ) -> Vec<Address> {
        let key = (removal.operation, *selector);
        if let Some(answer) = self.answers.get(&key, now) {
            return answer.to_vec();
        }
        self.marks.add(*selector, now, removal);
        let members = self.addresses(selector);
        let until = now.plus(REPEAT_WINDOW);
        self.answers.insert(key, members.as_slice().into(), until);
        if self.answers.len() > MAX_ANSWERS {
            self.answers.pop_first();
        }
        members
    }

    /// Clears away up to `limit` of each kind that has ended.
    pub(super) fn purge(&mut self, limit: usize, now: Timestamp, room: &Quota) {
        self.marks.purge(now, limit);
        for _ in 0..limit {
            if self.answers.pop_ended(now).is_none() {
                break;
            }
        }
        for _ in 0..limit {
            let Some(timer) = self.timers.pop(now) else {
                break;
            };
            let member = self.members.get(timer.slot);
            if member.is_some_and(|member| member.timer == timer.stamp) {
                self.leave(timer.slot, room);
            }
        }
    }
}
