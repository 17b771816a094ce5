//! Claims and leases.

use std::time::Duration;

use super::expiring::Expiring;
use super::quota::Quota;
use crate::clock::Timestamp;
use crate::id::{ClaimName, OperationId};
use crate::store::{Claim, Lease};

struct Claimed {
    holder: OperationId,
    settled: bool,
}

/// How many claims and leases there may be. Apart: claims are made for strangers, and must not keep anybody's tokens from
/// being refreshed.
#[derive(Debug)]
pub(super) struct Rooms {
    claims: Quota,
    leases: Quota,
}

impl Rooms {
    pub(super) fn new(max: usize) -> Self {
        Self {
            claims: Quota::new(max),
            leases: Quota::new(max),
        }
    }
}

/// The claims and leases of one stripe. A claim and a lease of the same name have nothing to do with each other.
#[derive(Default)]
pub(super) struct Names {
    claims: Expiring<ClaimName, Claimed>,
    leases: Expiring<ClaimName, OperationId>,
}

impl Names {
    pub(super) fn len(&self) -> usize {
        self.claims.len() + self.leases.len()
    }

    /// `None` at the limit.
    pub(super) fn claim(
        &mut self,
        name: &ClaimName,
        holder: OperationId,
        hold: Duration,
        now: Timestamp,
        rooms: &Rooms,
    ) -> Option<Claim> {
        if let Some(claimed) = self.claims.get(name, now) {
            let held = claimed.holder == holder && !claimed.settled;
            return Some(if held { Claim::Held } else { Claim::Taken });
        }
        if !rooms.claims.try_take() {
            return None;
        }
        let claimed = Claimed {
            holder,
            settled: false,
        };
        if self.claims.insert(*name, claimed, now.plus(hold)).is_some() {
            rooms.claims.give_back();
        }
        Some(Claim::Held)
    }

    pub(super) fn settle(
        &mut self,
        name: &ClaimName,
        holder: OperationId,
        keep: Duration,
        now: Timestamp,
    ) -> bool {
        match self.claims.get(name, now) {
            Some(claimed) if claimed.holder == holder => {
                if !claimed.settled {
                    let settled = Claimed {
                        holder,
                        settled: true,
                    };
                    self.claims.insert(*name, settled, now.plus(keep));
                }
                true
            }
            _ => false,
        }
    }

    pub(super) fn release(
        &mut self,
        name: &ClaimName,
        holder: OperationId,
        now: Timestamp,
        rooms: &Rooms,
    ) {
        let claimed = self.claims.get(name, now);
        let mine = claimed.is_some_and(|claimed| claimed.holder == holder && !claimed.settled);
        if mine && self.claims.remove(name).is_some() {
            rooms.claims.give_back();
        }
    }

    /// `None` at the limit.
    pub(super) fn lease(
        &mut self,
        name: &ClaimName,
        holder: OperationId,
        hold: Duration,
        now: Timestamp,
        rooms: &Rooms,
    ) -> Option<Lease> {
        if let Some((had, until)) = self.leases.get_mut(name, now) {
            let left = until.since(now);
            return Some(if *had == holder {
                Lease::Held(left)
            } else {
                Lease::Busy(left)
            });
        }
        if !rooms.leases.try_take() {
            return None;
        }
        if self.leases.insert(*name, holder, now.plus(hold)).is_some() {
            rooms.leases.give_back();
        }
        Some(Lease::Held(hold))
    }

    pub(super) fn end_lease(
        &mut self,
        name: &ClaimName,
        holder: OperationId,
        now: Timestamp,
        rooms: &Rooms,
    ) {
        let mine = self.leases.get(name, now) == Some(&holder);
        if mine && self.leases.remove(name).is_some() {
            rooms.leases.give_back();
        }
    }

    /// Clears away up to `limit` of each kind that has ended.
    pub(super) fn purge(&mut self, limit: usize, now: Timestamp, rooms: &Rooms) {
        for _ in 0..limit {
            if self.claims.pop_ended(now).is_none() {
                break;
            }
            rooms.claims.give_back();
        }
        for _ in 0..limit {
            if self.leases.pop_ended(now).is_none() {
                break;
            }
            rooms.leases.give_back();
        }
    }
}
