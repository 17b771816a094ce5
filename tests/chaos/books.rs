//! What the users wrote down against what the provider did.

use std::collections::{BTreeMap, HashMap, HashSet};

use futures_util::stream::{self, StreamExt as _};
use http::StatusCode;

use crate::node::{AHEAD, TOKEN_LIFETIME, Told};
use crate::support::certified::{Certified, Event, LedgerToken};
use crate::user::{Call, Story, Town};

pub struct Books {
    stories: Vec<Story>,
    /// What became of a last request of each.
    answers: Vec<Call>,
    failed_sign_ins: BTreeMap<String, Vec<String>>,
    tokens: HashMap<String, LedgerToken>,
    events: Vec<Event>,
}

/// A grant's refresh tokens, and when one was used.
#[derive(Default)]
struct Grant<'a> {
    active: usize,
    uses: Vec<f64>,
    access_tokens: usize,
    used: HashSet<&'a str>,
}

impl Books {
    pub async fn of(town: &Town, provider: &Certified) -> Self {
        let mut failed_sign_ins: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (user, why) in town.failed_sign_ins.lock().await.drain(..) {
            failed_sign_ins.entry(why).or_default().push(user);
        }
        let stories: Vec<Story> = town.stories.lock().await.drain(..).collect();
        let asked = stories.iter().enumerate().map(|(number, story)| {
            let node = number % town.nodes.len();
            async move { town.token(&story.cookies, node).await.0 }
        });
        let answers = stream::iter(asked).buffered(16).collect().await;
        let tokens = provider.ledger().await.into_iter();
        Self {
            stories,
            answers,
            failed_sign_ins,
            tokens: tokens.map(|token| (token.value.clone(), token)).collect(),
            events: provider.events().await,
        }
    }

    fn living(&self) -> impl Iterator<Item = (&Story, &Call)> {
        let all = self.stories.iter().zip(&self.answers);
        all.filter(|(story, _)| story.left.is_none() && !story.lost)
    }

    fn grants(&self) -> HashMap<&str, Grant<'_>> {
        let mut grants: HashMap<&str, Grant<'_>> = HashMap::new();
        for token in self.tokens.values() {
            let grant = grants.entry(&token.grant_id).or_default();
            match token.kind.as_str() {
                "RefreshToken" => grant.active += usize::from(token.state == "active"),
                _ => grant.access_tokens += 1,
            }
        }
        for event in &self.events {
            if event.name == "refresh_token.consumed"
                && let (Some(grant), Some(id)) = (&event.grant_id, &event.id)
            {
                let grant = grants.entry(grant).or_default();
                assert!(grant.used.insert(id), "a refresh token was used twice");
                grant.uses.push(event.at);
            }
        }
        grants
    }

    /// The provider takes everything of the grant back then.
    fn reused(&self) -> usize {
        let is = |event: &&Event| {
            event.name == "grant.revoked" && event.route.as_deref() == Some("token")
        };
        self.events.iter().filter(is).count()
    }

    /// The grants that live sign-ins hang on.
    fn living_grants(&self) -> HashSet<&str> {
        let served = self.living().filter_map(|(_, last)| last.token.as_ref());
        served.map(|token| &*self.tokens[token].grant_id).collect()
    }

    pub fn print(&self, told: &[Told]) {
        let calls = self.stories.iter().flat_map(|story| &story.calls);
        let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
        for call in calls {
            *statuses.entry(call.status.as_u16()).or_default() += 1;
        }
        let count = |is: &dyn Fn(&Story) -> bool| self.stories.iter().filter(|one| is(one)).count();
        println!("sign-ins            {}", self.stories.len());
        for (why, users) in &self.failed_sign_ins {
            println!("  failed            {} times: {why}", users.len());
        }
        println!("  signed out        {}", count(&|one| one.left.is_some()));
        println!("    pending         {}", count(&|one| one.pending));
        println!(
            "    tried in vain   {}",
            self.stories
                .iter()
                .map(|one| one.tried_in_vain)
                .sum::<usize>()
        );
        println!("    unread          {}", count(&|one| one.unread));
        println!("  lost              {}", count(&|one| one.lost));
        println!("  forgotten         {}", self.forgotten().len());
        println!("  alive             {}", self.living().count());
        println!("requests for tokens {statuses:?}");
        let uses: usize = self.grants().values().map(|grant| grant.uses.len()).sum();
        println!(
            "tokens issued       {}, refreshes {uses}, reuse seen {}",
            self.tokens.len(),
            self.reused()
        );
        println!(
            "evictions           {:?}",
            told.iter().map(|told| &told.evictions).collect::<Vec<_>>()
        );
        // Those that ran when it was acknowledged.
        let late = self.stories.iter().flat_map(|story| {
            let left = story.left;
            let served = story.calls.iter().filter(|call| call.token.is_some());
            served.filter_map(move |call| call.ended.checked_duration_since(left?))
        });
        println!(
            "latest answer with a token after a sign-out {:?}",
            late.max()
        );
        let pending = self.stories.iter().filter(|story| story.pending);
        let late = pending.flat_map(|story| {
            let left = story.left;
            let served = story.calls.iter().filter(|call| call.token.is_some());
            served.filter_map(move |call| call.begun.checked_duration_since(left?))
        });
        println!(
            "latest request with one after a sign-out that was pending {:?}",
            late.max()
        );
    }

    pub fn check(&self, told: &[Told]) {
        self.the_ended_stay_out_and_the_living_in();
        self.nothing_was_served_after_its_sign_out();
        self.everyone_had_their_own_tokens();
        self.every_token_is_gone_or_of_a_live_sign_in();
        self.each_expiry_made_one_refresh();
        self.nobody_was_lost_without_a_reason(told);
        let known = self.living().count() + self.forgotten().len();
        for told in told {
            let said = "what the store has, and who is signed in";
            assert_eq!(told.sign_ins, known, "{said}");
        }
    }

    fn nothing_was_served_after_its_sign_out(&self) {
        // What is pending holds on the node that said so, and on the others once it is done: that is checked at the end.
        for story in self.stories.iter().filter(|story| !story.pending) {
            let Some(left) = story.left else { continue };
            for call in story.calls.iter().filter(|call| call.begun > left) {
                assert_eq!(
                    call.token,
                    None,
                    "{} was served by node {} {:?} after the sign-out",
                    story.user,
                    call.node,
                    call.begun - left,
                );
            }
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

    /// The grants of sign-ins that are there although nobody is signed in to them. Nobody can have their tokens, which are revoked when
    /// the sign-in's time is up.
    fn forgotten(&self) -> HashMap<&str, &str> {
        let living = self.living_grants();
        let active = self.tokens.values().filter(|token| token.state == "active");
        let left = active.filter(|token| !living.contains(&*token.grant_id));
        left.map(|token| (&*token.grant_id, &*token.account_id))
            .collect()
    }

    fn every_token_is_gone_or_of_a_live_sign_in(&self) {
        let forgotten = self.forgotten();
        assert!(
            forgotten.is_empty(),
            "tokens are left, by grant and user, and their sign-in is not: {forgotten:?}"
        );
    }

    fn each_expiry_made_one_refresh(&self) {
        assert_eq!(self.reused(), 0, "the provider saw a refresh token twice");
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

    /// A refresh token is spent when its answer is there. Where the new one cannot be stored for three seconds, the sign-in ends.
    fn nobody_was_lost_without_a_reason(&self, told: &[Told]) {
        let lost = self.stories.iter().filter(|story| story.lost).count();
        let rejected = told
            .iter()
            .filter_map(|told| told.evictions.get("RefreshRejected"));
        assert_eq!(lost, rejected.sum::<usize>());
        assert!(lost * 20 <= self.stories.len(), "{lost} are lost");
    }

    fn the_ended_stay_out_and_the_living_in(&self) {
        for (story, last) in self.stories.iter().zip(&self.answers) {
            let expected = match story.left.is_some() || story.lost {
                true => StatusCode::UNAUTHORIZED,
                false => StatusCode::OK,
            };
            assert_eq!(last.status, expected, "{}", story.user);
        }
    }
}
