//! What the users wrote down, and what the provider did.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, StreamExt as _};
use http::StatusCode;

use crate::NODES;
use crate::losses::Losses;
use crate::node::Told;
use crate::redis::Outage;
use crate::setups::Setup;
use crate::support::certified::{Certified, Event, LedgerToken};
use crate::town::Town;
use crate::user::{Call, Departure, Failure, Story};

pub struct Books {
    pub setup: Setup,
    pub outages: Vec<Outage>,
    pub losses: Losses,
    pub stories: Vec<Story>,
    /// What became of a last request of each.
    pub answers: Vec<Call>,
    pub failures: Vec<Failure>,
    pub tokens: HashMap<String, LedgerToken>,
    pub events: Vec<Event>,
    pub told: Vec<Told>,
    /// The same moment by the clock of this process and by the provider's.
    now: (Instant, f64),
}

/// Once the pauses are over that a provider which was slow has asked for.
async fn last_answer(town: &Town, story: &Story, node: usize) -> Call {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (call, _) = town.token(&story.cookies, node).await;
        if call.status != StatusCode::SERVICE_UNAVAILABLE || Instant::now() >= deadline {
            return call;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A grant's refresh tokens, and when one was used.
#[derive(Default)]
pub struct Grant<'a> {
    pub uses: Vec<f64>,
    pub access_tokens: usize,
    used: HashSet<&'a str>,
}

impl Books {
    pub async fn of(
        setup: Setup,
        outages: Vec<Outage>,
        town: &Town,
        provider: &Certified,
        told: Vec<Told>,
    ) -> Self {
        let failures = town.failed_sign_ins.lock().await.drain(..).collect();
        let mut stories: Vec<Story> = town.stories.lock().await.drain(..).collect();
        let asked = stories.iter().enumerate().map(|(number, story)| {
            let node = number % NODES;
            last_answer(town, story, node)
        });
        let answers: Vec<Call> = stream::iter(asked).buffered(16).collect().await;
        for (story, last) in stories.iter_mut().zip(&answers) {
            story.lost |= story.left.is_none() && last.status == StatusCode::UNAUTHORIZED;
        }
        let lossy: &[Outage] = if setup.forgets() { &outages } else { &[] };
        let losses = Losses::new(lossy, &stories, NODES);
        let tokens = provider.ledger().await.into_iter();
        let now = (Instant::now(), SystemTime::now());
        let wall = now.1.duration_since(UNIX_EPOCH).expect("it is later");
        Self {
            setup,
            outages,
            losses,
            stories,
            answers,
            failures,
            tokens: tokens.map(|token| (token.value.clone(), token)).collect(),
            events: provider.events().await,
            told,
            now: (now.0, wall.as_secs_f64()),
        }
    }

    /// A time of the provider's by the clock of this process.
    pub fn instant(&self, at: f64) -> Instant {
        let (now, wall) = self.now;
        now - Duration::from_secs_f64(wall - at)
    }

    /// The other way round, in seconds since 1970.
    pub fn wall(&self, at: Instant) -> f64 {
        let (now, wall) = self.now;
        wall - now.duration_since(at).as_secs_f64()
    }

    pub fn living(&self) -> impl Iterator<Item = (&Story, &Call)> {
        let all = self.stories.iter().zip(&self.answers);
        all.filter(|(story, _)| story.left.is_none() && !story.lost)
    }

    /// Those who have left, and each time that they were served.
    pub fn served(&self) -> impl Iterator<Item = (&Story, &Departure, &Call)> {
        self.stories.iter().flat_map(|story| {
            let served = story.calls.iter().filter(|call| call.token.is_some());
            served.filter_map(move |call| Some((story, story.left.as_ref()?, call)))
        })
    }

    pub fn grants(&self) -> HashMap<&str, Grant<'_>> {
        let mut grants: HashMap<&str, Grant<'_>> = HashMap::new();
        for token in self.tokens.values() {
            let grant = grants.entry(&token.grant_id).or_default();
            grant.access_tokens += usize::from(token.kind != "RefreshToken");
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
    pub fn reuses(&self) -> impl Iterator<Item = (&str, f64)> {
        let is = |event: &&Event| {
            event.name == "grant.revoked" && event.route.as_deref() == Some("token")
        };
        let reused = self.events.iter().filter(is);
        reused.map(|event| (event.grant_id.as_deref().expect("it has one"), event.at))
    }

    /// The users whose sign-in ended because its refresh token was refused, or what came for it could not be stored.
    pub fn rejected(&self) -> impl Iterator<Item = &str> {
        let told = self.told.iter();
        let rejected = told.filter_map(|told| told.evictions.get("RefreshRejected"));
        rejected.flatten().map(String::as_str)
    }

    /// The grants that live sign-ins hang on.
    fn living_grants(&self) -> HashSet<&str> {
        let served = self.living().filter_map(|(_, last)| last.token.as_ref());
        served.map(|token| &*self.tokens[token].grant_id).collect()
    }

    /// The grants that have tokens although nobody is signed in to them, whose, and from when on. Nobody can have these tokens.
    pub fn forgotten(&self) -> HashMap<&str, (&str, f64)> {
        let living = self.living_grants();
        let active = self.tokens.values().filter(|token| token.state == "active");
        let left = active.filter(|token| !living.contains(&*token.grant_id));
        let mut forgotten: HashMap<_, _> = left
            .map(|token| (&*token.grant_id, (&*token.account_id, token.at)))
            .collect();
        for token in self.tokens.values() {
            if let Some((_, since)) = forgotten.get_mut(&*token.grant_id) {
                *since = since.min(token.at);
            }
        }
        forgotten
    }

    /// Requests that ran while one of the masters was away, from beginning to end.
    pub fn during(&self, outage: Outage) -> impl Iterator<Item = (&Story, &Call)> {
        let calls = self
            .stories
            .iter()
            .flat_map(|story| story.calls.iter().map(move |call| (story, call)));
        calls.filter(move |(_, call)| call.begun > outage.dead && call.ended < outage.up)
    }

    pub fn print(&self) {
        let calls = || self.stories.iter().flat_map(|story| &story.calls);
        let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
        for call in calls() {
            *statuses.entry(call.status.as_u16()).or_default() += 1;
        }
        let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
        for failure in &self.failures {
            *failures.entry(&failure.why).or_default() += 1;
        }
        let left = || self.stories.iter().filter_map(|story| story.left.as_ref());
        let in_vain: usize = left().map(|left| left.tried_in_vain).sum();
        println!("Redis was killed    {} times", self.outages.len());
        println!("sign-ins            {}", self.stories.len());
        for (why, times) in failures {
            println!("  failed            {times} times: {why}");
        }
        println!("  signed out        {}", left().count());
        println!(
            "    pending         {}",
            left().filter(|left| left.pending).count()
        );
        println!("    tried in vain   {in_vain}");
        println!(
            "    unread          {}",
            left().filter(|left| left.unread).count()
        );
        let lost = self.stories.iter().filter(|story| story.lost).count();
        println!("  lost              {lost}");
        println!("    refresh refused {}", self.rejected().count());
        println!("  forgotten         {}", self.forgotten().len());
        let undone = self.stories.iter().filter(|story| self.losses.undo(story));
        println!("    undone          {}", undone.count());
        println!("  alive             {}", self.living().count());
        println!("requests for tokens {statuses:?}");
        let meanwhile = self.outages.iter().flat_map(|outage| self.during(*outage));
        let meanwhile = meanwhile.filter(|(_, call)| call.token.is_some()).count();
        println!("  served meanwhile  {meanwhile}");
        let hits: Vec<u64> = self.told.iter().map(|told| told.hits).collect();
        println!("  from copies       {hits:?}");
        let uses: usize = self.grants().values().map(|grant| grant.uses.len()).sum();
        println!("tokens issued       {}", self.tokens.len());
        println!("  refreshes         {uses}");
        println!("  reuse seen        {}", self.reuses().count());
        let evictions = self.told.iter().map(|told| {
            let causes = told.evictions.iter();
            causes
                .map(|(cause, users)| (cause, users.len()))
                .collect::<BTreeMap<_, _>>()
        });
        println!("evictions           {:?}", evictions.collect::<Vec<_>>());
        self.print_latest();
    }

    fn print_latest(&self) {
        let begun = |pending: bool| {
            let some = self
                .served()
                .filter(move |(_, left, _)| left.pending == pending);
            some.filter_map(|(_, left, call)| call.begun.checked_duration_since(left.at))
        };
        println!("served after a sign-out");
        println!("  requests          {}", begun(false).count());
        println!("  begun at most     {:?}", begun(false).max());
        println!("  if it was pending {:?}", begun(true).max());
        // Those that ran when it was acknowledged.
        let ended = self
            .served()
            .filter_map(|(_, left, call)| call.ended.checked_duration_since(left.at));
        println!("  ended at most     {:?}", ended.max());
        let came_back = self.served().filter_map(|(_, left, call)| {
            let up = self.losses.brought_back(left, call)?;
            call.begun.checked_duration_since(left.at)?;
            Some(call.begun.saturating_duration_since(up))
        });
        println!("  after a restart   {:?}", came_back.max());
    }
}
