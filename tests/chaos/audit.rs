//! Whether the books balance.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::StatusCode;

use crate::books::Books;
use crate::node::{AHEAD, TOKEN_LIFETIME};
use crate::redis::Outage;
use crate::user::{Call, Failure, Story};

/// For so long the answer to a refresh is tried to be stored, and a sign-in that failed to be undone.
const STORING: Duration = Duration::from_secs(3);
const UNDOING: Duration = Duration::from_secs(12);

/// A request to the provider takes no longer.
const SENDING: Duration = Duration::from_secs(10);

/// Whether a moment is in between, by the provider's clock, which counts milliseconds.
fn is_near([begun, ended]: [Instant; 2], at: Instant) -> bool {
    let precision = Duration::from_millis(5);
    begun <= at + precision && at <= ended + precision
}

impl Books {
    pub fn check(&self) {
        self.copies_were_used();
        self.nothing_fails_but_for_want_of_redis();
        self.nothing_was_served_after_its_sign_out();
        self.the_ended_stay_out_and_the_living_in();
        self.everyone_had_their_own_tokens();
        self.every_token_is_gone_or_of_a_live_sign_in();
        self.each_expiry_made_one_refresh();
        self.a_refresh_token_was_seen_twice_only_where_redis_had_lost_its_use();
        self.nobody_was_lost_without_a_reason();
        self.an_outage_is_not_hidden_and_the_other_masters_go_on();
    }

    fn copies_were_used(&self) {
        for told in &self.told {
            assert_eq!(told.hits > 0, self.setup.tier, "{} hits", told.hits);
        }
    }

    fn nothing_fails_but_for_want_of_redis(&self) {
        for call in self.stories.iter().flat_map(|story| &story.calls) {
            assert!([200, 401, 503].contains(&call.status.as_u16()), "{call:?}");
        }
    }

    fn the_ended_stay_out_and_the_living_in(&self) {
        for (story, last) in self.stories.iter().zip(&self.answers) {
            let expected = match story.left.is_some() || story.lost {
                true => StatusCode::UNAUTHORIZED,
                false => StatusCode::OK,
            };
            let (user, left) = (&story.user, &story.left);
            assert_eq!(
                last.status,
                expected,
                "{user} who left: {left:?}, after {}",
                self.history(story)
            );
        }
        let (living, forgotten) = (self.living().count(), self.forgotten().len());
        for told in &self.told {
            let known = living..=living + forgotten;
            assert!(
                known.contains(&told.sign_ins),
                "the store has {}, and {known:?} are signed in",
                told.sign_ins
            );
        }
    }

    /// What a user asked for, and when by the clock of the nodes' traces.
    fn history(&self, story: &Story) -> String {
        let calls = story.calls.iter().map(|call| {
            let (begun, ended) = (self.wall(call.begun), self.wall(call.ended));
            format!(
                "\n{begun:.3} to {ended:.3} node {} {}",
                call.node, call.status
            )
        });
        calls.collect()
    }

    /// What is pending holds on the node that said so, and on the others once it is done.
    fn nothing_was_served_after_its_sign_out(&self) {
        let heard_within = self.setup.heard_within();
        for (story, left, call) in self.served() {
            let Some(late) = call.begun.checked_duration_since(left.at) else {
                continue;
            };
            let is_allowed = call.node != left.node
                && (left.pending
                    || late < heard_within
                    || self.losses.brought_back(left, call).is_some());
            assert!(
                is_allowed,
                "{} was served by node {} {late:?} after the sign-out on {left:?}",
                story.user, call.node,
            );
        }
    }

    fn everyone_had_their_own_tokens(&self) {
        let mut whose: HashMap<&str, usize> = HashMap::new();
        for (number, story) in self.stories.iter().enumerate() {
            for token in story.calls.iter().filter_map(|call| call.token.as_ref()) {
                let issued = self.tokens.get(token).expect("the provider issued it");
                assert_eq!(issued.account_id, story.user);
                let first = *whose.entry(&issued.grant_id).or_insert(number);
                assert_eq!(first, number, "two sign-ins share a grant");
            }
        }
    }

    /// Or of one that Redis has lost: those nobody revokes. Nor those of a sign-in that failed, where it is undone when the user has
    /// another one: by default both may hang on one grant.
    fn every_token_is_gone_or_of_a_live_sign_in(&self) {
        let mut forgotten = self.forgotten();
        forgotten.retain(|_, (user, since)| {
            let since = self.instant(*since);
            !self.is_unknown(user, since) && !self.was_tried_again(user, since)
        });
        assert!(
            forgotten.is_empty(),
            "tokens are left, by grant and user, and their sign-in is not: {forgotten:?}"
        );
    }

    fn stories_of(&self, user: &str) -> impl Iterator<Item = &Story> {
        self.stories.iter().filter(move |story| story.user == user)
    }

    fn failures_of(&self, user: &str) -> impl Iterator<Item = &Failure> {
        let all = self.failures.iter();
        all.filter(move |failure| failure.user == user)
    }

    /// Whether Redis may have lost the sign-in for which the provider has issued tokens then.
    fn is_unknown(&self, user: &str, issued: Instant) -> bool {
        let arrived = self.stories_of(user);
        let arrived = arrived.map(|story| (story.arrival, Duration::ZERO));
        let failed = self.failures_of(user);
        let failed = failed.map(|failure| (failure.tried, UNDOING));
        arrived.chain(failed).any(|([begun, ended], and)| {
            is_near([begun, ended], issued) && self.losses.may_lack([begun, ended + and])
        })
    }

    /// Whether the provider has issued tokens then for a sign-in that failed, after which the user came in.
    fn was_tried_again(&self, user: &str, issued: Instant) -> bool {
        let failed = self.failures_of(user);
        let mut failed = failed.filter(|failure| is_near(failure.tried, issued));
        failed.any(|failure| {
            let mut later = self.stories_of(user);
            later.any(|story| story.arrival[0] >= failure.tried[1])
        })
    }

    fn each_expiry_made_one_refresh(&self) {
        let soonest = f64::from(TOKEN_LIFETIME) * AHEAD;
        for grant in self.grants().values_mut() {
            assert_eq!(grant.access_tokens, 1 + grant.uses.len());
            grant.uses.sort_by(f64::total_cmp);
            for pair in grant.uses.windows(2) {
                let between = pair[1] - pair[0];
                // Half a second for the way of the answer.
                assert!(between > soonest - 0.5, "two refreshes within {between} s");
            }
        }
    }

    /// Or the lease, or the token that came in its place: until the node that has it replays that, others send the one from before.
    fn a_refresh_token_was_seen_twice_only_where_redis_had_lost_its_use(&self) {
        let grants = self.grants();
        for (grant, at) in self.reuses() {
            let seen = self.instant(at);
            let mut uses = grants[grant].uses.iter();
            let is_lost = uses.any(|used| {
                let mut after = self.losses.after(self.instant(*used) + STORING);
                after.any(|(outage, replayed)| {
                    outage.dead < seen && replayed.is_none_or(|by| seen < by + SENDING)
                })
            });
            assert!(is_lost, "the provider saw a refresh token twice");
        }
    }

    /// A refresh token is spent when its answer is there. Where the new one cannot be stored for three seconds, the sign-in ends. So
    /// does one whose refresh token was seen twice, and one that Redis does not know any more.
    fn nobody_was_lost_without_a_reason(&self) {
        let mut users: HashMap<&str, [usize; 3]> = HashMap::new();
        for story in self.stories.iter().filter(|story| story.lost) {
            let known = !self.losses.may_lack(story.arrival);
            let [lost, by_refresh, _] = users.entry(&story.user).or_default();
            *lost += 1;
            *by_refresh += usize::from(known);
        }
        // Who had left and was brought back is found by a refresh as well, for their tokens are revoked.
        for story in self.stories.iter().filter(|story| self.losses.undo(story)) {
            users.entry(&story.user).or_default()[0] += 1;
        }
        for user in self.rejected() {
            users.entry(user).or_default()[2] += 1;
        }
        for (user, [lost, by_refresh, rejected]) in users {
            assert!(
                (by_refresh..=lost).contains(&rejected),
                "{user} has lost {lost} sign-ins, {by_refresh} of them not to Redis, and {rejected} were rejected"
            );
        }
        let rejected = self
            .rejected()
            .count()
            .saturating_sub(self.reuses().count());
        assert!(rejected * 20 <= self.stories.len(), "{rejected} are lost");
    }

    /// While one is away, the accounts of the others are served. Without any, nobody is, but for what a copy answers until the loss is
    /// noticed.
    fn an_outage_is_not_hidden_and_the_other_masters_go_on(&self) {
        let late =
            |outage: Outage, call: &Call| call.begun > outage.dead + self.setup.heard_within();
        let during = self.outages.iter().flat_map(|outage| {
            let during = self.during(*outage).map(|(_, call)| call);
            during.filter(move |call| self.setup.is_cluster() || late(*outage, call))
        });
        let (served, refused) = during
            .map(|call| call.status)
            .filter(|status| *status != StatusCode::UNAUTHORIZED)
            .partition::<Vec<_>, _>(|status| *status == StatusCode::OK);
        match self.setup.is_cluster() {
            true => assert!(
                !served.is_empty() || refused.len() < 20,
                "nobody was served"
            ),
            false => assert_eq!(served.len(), 0, "without Redis"),
        }
    }
}
