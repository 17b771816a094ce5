//! Users: they sign in, have tokens acquired, and sign out, on nodes that chance picks, and write down what came.

use std::time::{Duration, Instant};

use axum_signout::SignInId;
use http::StatusCode;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::time::sleep;

use crate::town::Town;

/// How many of those who left last are tried again and again.
const LATEST: usize = 50;

/// A request for a token, and what came: times by this process' clock.
#[derive(Clone, Debug)]
pub struct Call {
    pub begun: Instant,
    pub ended: Instant,
    pub node: usize,
    pub status: StatusCode,
    pub token: Option<String>,
}

/// One sign-in, from its beginning to its end.
#[derive(Debug)]
pub struct Story {
    pub user: String,
    /// When it was begun, and when its cookies were there.
    pub arrival: [Instant; 2],
    /// What the browser sends. Whoever has copied it goes on sending it.
    pub cookies: String,
    pub calls: Vec<Call>,
    pub left: Option<Departure>,
    /// It ended without a sign-out.
    pub lost: bool,
}

/// A sign-out that was acknowledged.
#[derive(Clone, Debug)]
pub struct Departure {
    /// When it was asked for first.
    pub asked: Instant,
    pub at: Instant,
    /// Which node says so.
    pub node: usize,
    /// The store had not confirmed it then.
    pub pending: bool,
    /// It could not read what the session holds.
    pub unread: bool,
    /// How often it was refused before.
    pub tried_in_vain: usize,
}

/// A sign-in that came to nothing.
#[derive(Debug)]
pub struct Failure {
    pub user: String,
    pub tried: [Instant; 2],
    pub why: String,
}

impl Town {
    /// Signs in and out until time is up; now and then the last sign-in stays.
    pub async fn live(&self, user: String, seed: u64) {
        let mut chance = StdRng::seed_from_u64(seed);
        while !self.is_over() {
            let begun = Instant::now();
            let signed_in = self.sign_in(&user, &mut chance).await;
            let tried = [begun, Instant::now()];
            match signed_in {
                Ok(cookies) => {
                    let story = self.one_sign_in(&user, tried, cookies, &mut chance).await;
                    self.stories.lock().await.push(story);
                }
                Err(why) => {
                    let user = user.clone();
                    let mut failed = self.failed_sign_ins.lock().await;
                    failed.push(Failure { user, tried, why });
                    drop(failed);
                    sleep(Duration::from_millis(chance.random_range(500..1_500))).await;
                }
            }
        }
    }

    async fn one_sign_in(
        &self,
        user: &str,
        arrival: [Instant; 2],
        cookies: String,
        chance: &mut StdRng,
    ) -> Story {
        let mut story = Story {
            user: user.to_owned(),
            arrival,
            cookies,
            calls: Vec::new(),
            left: None,
            lost: false,
        };
        let mut sign_in = None;
        let stays = Instant::now() + Duration::from_millis(chance.random_range(2_000..15_000));
        while story.calls.is_empty() || Instant::now() < stays.min(self.until) {
            sleep(Duration::from_millis(chance.random_range(200..2_500))).await;
            // Two tabs, on two nodes: what is due is refreshed once all the same.
            let both = [self.any_node(chance), self.any_node(chance)];
            let both = both.map(|node| self.token(&story.cookies, node));
            for (call, served) in futures_util::future::join_all(both).await {
                story.lost |= call.status == StatusCode::UNAUTHORIZED;
                story.calls.push(call);
                sign_in = sign_in.or(served.map(|served| served.sign_in));
            }
            if story.lost {
                return story;
            }
        }
        if self.is_over() && chance.random_ratio(1, 4) {
            return story;
        }
        let by_operator = sign_in.filter(|_| chance.random());
        self.sign_out(&mut story, by_operator, chance).await;
        story
    }

    async fn sign_out(&self, story: &mut Story, by: Option<SignInId>, chance: &mut StdRng) {
        // Others run while it is done.
        let (early, late) = (self.any_node(chance), self.any_node(chance));
        let meanwhile = async {
            let (one, _) = self.token(&story.cookies, early).await;
            let (two, _) = self.token(&story.cookies, late).await;
            [one, two]
        };
        let nodes: Vec<usize> = (0..64).map(|_| self.any_node(chance)).collect();
        let asked = Instant::now();
        let leaving = async {
            for (tried_in_vain, node) in nodes.into_iter().enumerate() {
                match self.leave(story, by, node).await {
                    Some((left, at)) if left.not_retried == 0 => {
                        return Departure {
                            asked,
                            at,
                            node,
                            pending: left.pending > 0,
                            unread: left.session == "Unread",
                            tried_in_vain,
                        };
                    }
                    _ => {}
                }
                // A browser has no cookie any more; this one has kept a copy, and tries again.
                sleep(Duration::from_millis(250)).await;
            }
            panic!("nobody can sign out");
        };
        let (calls, left) = tokio::join!(meanwhile, leaving);
        story.calls.extend(calls);
        story.left = Some(left);
        // At once, on every node, by whoever has copied the cookie; and again until more than three seconds have passed.
        for pause in [0, 300, 1_500, 1_300] {
            sleep(Duration::from_millis(pause)).await;
            let everywhere = (0..self.nodes.len()).map(|node| self.token(&story.cookies, node));
            let answers = futures_util::future::join_all(everywhere).await;
            story
                .calls
                .extend(answers.into_iter().map(|(call, _)| call));
        }
    }

    /// Goes on sending the cookies of those who have left, and for a while after the last of them has.
    pub async fn steal(&self, seed: u64) {
        let mut chance = StdRng::seed_from_u64(seed);
        while Instant::now() < self.until + Duration::from_secs(7) {
            sleep(Duration::from_millis(20)).await;
            let stories = self.stories.lock().await;
            let first = stories.len().saturating_sub(LATEST);
            let Some(number) =
                (!stories.is_empty()).then(|| chance.random_range(first..stories.len()))
            else {
                continue;
            };
            let cookies = stories[number].cookies.clone();
            let has_left = stories[number].left.is_some();
            drop(stories);
            if has_left {
                let (call, _) = self.token(&cookies, self.any_node(&mut chance)).await;
                self.stories.lock().await[number].calls.push(call);
            }
        }
    }
}
