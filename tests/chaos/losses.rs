//! What a Redis that comes back older than it was may have undone, and until when that shows.

use std::time::Instant;

use crate::redis::Outage;
use crate::user::{Call, Departure, Story};

/// Of a Redis that loses nothing there are none.
pub struct Losses(Vec<Loss>);

struct Loss {
    outage: Outage,
    /// When each node had answered a request that needs Redis and began after the outage: it replays before it does.
    replayed: Vec<Option<Instant>>,
}

impl Losses {
    pub fn new(outages: &[Outage], stories: &[Story], nodes: usize) -> Self {
        let served: Vec<&Call> = stories
            .iter()
            .flat_map(|story| &story.calls)
            .filter(|call| call.token.is_some())
            .collect();
        let replayed = |outage: &Outage, node| {
            let there = served
                .iter()
                .filter(|call| call.node == node && call.begun > outage.dead);
            there.map(|call| call.ended).min()
        };
        let of = |outage: &Outage| Loss {
            outage: *outage,
            replayed: (0..nodes).map(|node| replayed(outage, node)).collect(),
        };
        Self(outages.iter().map(of).collect())
    }

    /// Whether what was done in that time may be unknown to what came back.
    pub fn may_lack(&self, [begun, ended]: [Instant; 2]) -> bool {
        let mut outages = self.0.iter().map(|loss| &loss.outage);
        outages.any(|outage| ended > outage.saved && begun < outage.dead)
    }

    /// The outages that undid a sign-out, or may have, and when the node that had done it had replayed it.
    fn undoing(&self, left: &Departure) -> impl Iterator<Item = (&Outage, Option<Instant>)> {
        let (asked, at, node) = (left.asked, left.at, left.node);
        // Whether the outage before had undone it, and until when.
        let mut undone: Option<Option<Instant>> = None;
        self.0.iter().filter_map(move |Loss { outage, replayed }| {
            let is_saved_undone =
                undone.is_some_and(|until| until.is_none_or(|until| outage.saved < until));
            let is_undone = asked < outage.dead && (outage.saved < at || is_saved_undone);
            undone = is_undone.then_some(replayed[node]);
            undone.map(|until| (outage, until))
        })
    }

    /// Whether it brought back who had signed in before it was saved.
    pub fn undo(&self, story: &Story) -> bool {
        let left = story.left.as_ref();
        let mut undoing = left.into_iter().flat_map(|left| self.undoing(left));
        undoing.any(|(outage, _)| story.arrival[1] < outage.saved)
    }

    /// When Redis was served again that brought back who had left, where that node has not replayed it.
    pub fn brought_back(&self, left: &Departure, call: &Call) -> Option<Instant> {
        let mut undoing = self.undoing(left);
        let showing = undoing.find(|(outage, until)| {
            call.ended > outage.dead && until.is_none_or(|until| call.begun < until)
        });
        showing.map(|(outage, _)| outage.up)
    }

    /// The outages that may have undone what was done then, and when all nodes had replayed.
    pub fn after(&self, done: Instant) -> impl Iterator<Item = (&Outage, Option<Instant>)> {
        let some = self.0.iter().filter(move |loss| done > loss.outage.saved);
        some.map(|Loss { outage, replayed }| {
            let all: Option<Vec<Instant>> = replayed.iter().copied().collect();
            (outage, all.and_then(|all| all.into_iter().max()))
        })
    }
}
