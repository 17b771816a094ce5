//! A provider behind the HTTP client: rotates refresh tokens, notices when one is used again, and answers when it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum_signout::clock::{Clock, ManualClock, Timestamp};
use axum_signout::testing::{SigningAlg, TestClient, TestProvider};
use axum_signout::{Cause, SignInId, TokenSet};
use oauth2::{AsyncHttpClient, HttpRequest, HttpResponse};
use serde_json::json;
use tokio::sync::oneshot;

use crate::Random;
use crate::ledger::Ledger;

pub const ISSUER: &str = "https://provider.example";

/// What is left of the cache's lease, at least, when it sends: the time-out and five seconds.
const LEASE: Duration = Duration::from_secs(15);

/// So long before a token's end who wants it waits for the next one; a refresh before that is ahead of time.
const MARGIN: Duration = Duration::from_secs(60);

/// The keys of a provider that exists, so that ours has some that can be read and signed with.
pub struct Keys {
    signer: TestProvider,
    pub published: Vec<u8>,
}

impl Keys {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let signer = TestProvider::start().await;
            signer.add_client(TestClient::new("app").signing_alg(SigningAlg::Es256));
            let http = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = http.get(signer.url("/jwks")).send().await.unwrap();
            let published = answer.bytes().await.unwrap().to_vec();
            Self { signer, published }
        })
    }

    /// A logout token of ours, of that time.
    pub fn logout_token(&self, name: &str, value: &str, at: Timestamp) -> String {
        let token = self.signer.logout_token("app").claim("iss", ISSUER);
        let token = token.claim("iat", at.as_secs()).without("exp");
        token.claim(name, value).sign()
    }
}

/// How a refresh is answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Rotated,
    Kept,
    /// 503, not handled.
    Busy,
    /// Handled, and the answer lost.
    Lost,
    /// Not handled, and the connection lost.
    Cut,
    /// Handled, and the answer is garbage.
    Garbage,
    /// The grant is revoked at the provider.
    Refused,
}

#[derive(Clone)]
pub struct Mock(pub Arc<Mutex<State>>);

pub struct State {
    clock: Arc<ManualClock>,
    ledger: Arc<Mutex<Ledger>>,
    keys: Vec<u8>,
    grants: Vec<Grant>,
    /// Which grant a token belongs to.
    of: BTreeMap<String, usize>,
    pub waiting: Vec<Call>,
    pub revoked: BTreeSet<String>,
    /// Refreshes are answered at once.
    pub at_once: bool,
    /// Revocations are refused for now, in percent.
    pub revocation_busy: usize,
    pub random: Random,
    pub violations: Vec<String>,
    next: usize,
}

pub struct Call {
    id: usize,
    pub refresh_token: String,
    scope: String,
    answer: oneshot::Sender<Result<HttpResponse, Broken>>,
}

#[derive(Default)]
struct Grant {
    current: String,
    revoked: bool,
    retired: BTreeSet<String>,
    /// Refresh tokens an answer to which was read: they must not come again.
    answered: BTreeSet<String>,
    /// When each was sent and nothing was heard.
    unheard: BTreeMap<String, Timestamp>,
    in_flight: Option<usize>,
    /// The refresh token that the cache has, as far as it was told.
    held: String,
    /// Access tokens that the cache was told of, by the scopes that were asked for, in order.
    access: BTreeMap<String, Vec<String>>,
    /// When the sign-in's own access token, the last of them, ends.
    end: Timestamp,
    /// The turn in which the answer that brought a token was read.
    read: BTreeMap<String, u64>,
}

impl Grant {
    /// What the cache has or had, but for what was replaced.
    fn latest(&self) -> impl Iterator<Item = &String> {
        let access = self.access.values().filter_map(|all| all.last());
        std::iter::once(&self.held).chain(access)
    }
}

#[derive(Debug)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was cut")
    }
}

impl std::error::Error for Broken {}

impl Mock {
    pub fn new(
        clock: Arc<ManualClock>,
        ledger: Arc<Mutex<Ledger>>,
        keys: &[u8],
        random: Random,
    ) -> Self {
        Self(Arc::new(Mutex::new(State {
            clock,
            ledger,
            keys: keys.to_vec(),
            grants: Vec::new(),
            of: BTreeMap::new(),
            waiting: Vec::new(),
            revoked: BTreeSet::new(),
            at_once: false,
            revocation_busy: 0,
            random,
            violations: Vec::new(),
            next: 0,
        })))
    }

    /// A new grant: its refresh token and its access token, which lasts for so long.
    pub fn grant(&self, lifetime: Duration) -> (String, String) {
        let mut state = self.0.lock().unwrap();
        let end = state.clock.wall().plus(lifetime);
        let at = state.grants.len();
        let (refresh, access) = (format!("r{at}.0"), format!("a{at}.0"));
        state.of.insert(refresh.clone(), at);
        state.of.insert(access.clone(), at);
        state.grants.push(Grant {
            current: refresh.clone(),
            held: refresh.clone(),
            access: [(String::new(), vec![access.clone()])].into(),
            end,
            ..Grant::default()
        });
        (refresh, access)
    }

    pub fn happened(&self, what: &'static str) {
        let state = self.0.lock().unwrap();
        state.ledger.lock().unwrap().happened(what);
    }

    /// Why a sign-in has left the store, if it has.
    pub fn left(&self, id: SignInId) -> Option<Cause> {
        let state = self.0.lock().unwrap();
        state.ledger.lock().unwrap().left.get(&id).copied()
    }

    /// Which grant an access token belongs to.
    pub fn owner(&self, token: &str) -> usize {
        self.0.lock().unwrap().of[token]
    }

    /// Answers one of the refreshes that wait.
    pub fn answer(&self, which: usize, outcome: Outcome) {
        let mut state = self.0.lock().unwrap();
        let call = state.waiting.swap_remove(which);
        let answer = state.handle(&call.refresh_token, &call.scope, outcome);
        // Whoever waited may have left.
        let _ = call.answer.send(answer);
    }

    /// What was obtained and is neither in use any more nor revoked.
    pub fn forgotten(
        &self,
        left_to_end: &BTreeSet<String>,
        mut but: BTreeSet<usize>,
    ) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let left_to_end = left_to_end.iter();
        but.extend(left_to_end.filter_map(|token| state.of.get(token).copied()));
        let mut forgotten = Vec::new();
        for (at, grant) in state.grants.iter().enumerate() {
            if but.contains(&at) {
                continue;
            }
            let left = grant.latest().filter(|one| !state.revoked.contains(*one));
            forgotten.extend(left.cloned());
        }
        forgotten
    }

    /// Tokens of a grant whose answer was read, and that are neither in the sign-in's entry nor in the outbox nor revoked, nor on
    /// their way there.
    pub fn astray(&self, grant: usize, entry: Option<&TokenSet>) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let ledger = state.ledger.lock().unwrap();
        let held = |token: &str| {
            entry.is_some_and(|tokens| {
                let refresh = tokens.refresh_token().map(|token| token.secret());
                let mut access = tokens.access_tokens().iter();
                refresh == Some(token) || access.any(|one| one.secret() == token)
            })
        };
        let grant = &state.grants[grant];
        let astray = grant.latest().filter(|token| {
            let under_way = grant.read.get(*token);
            let under_way = under_way.is_some_and(|read| ledger.may_be_under_way_since(*read));
            !(under_way
                || held(token)
                || ledger.outbox.contains(*token)
                || state.revoked.contains(*token))
        });
        astray.cloned().collect()
    }
}

impl State {
    fn arrive(&mut self, refresh_token: &str, scope: &str) -> usize {
        self.next += 1;
        let id = self.next;
        let (now, wall) = (self.clock.steady(), self.clock.wall());
        let grant = &mut self.grants[self.of[refresh_token]];
        if grant.in_flight.is_some() {
            self.violations
                .push(format!("two refreshes at once with {refresh_token}"));
        }
        if grant.answered.contains(refresh_token) {
            self.violations
                .push(format!("{refresh_token} was sent after its answer"));
        }
        if let Some(sent) = grant.unheard.get(refresh_token)
            && now.since(*sent) < LEASE
        {
            self.violations
                .push(format!("{refresh_token} was sent again within its lease"));
        }
        let ahead = scope.is_empty() && wall.plus(MARGIN) < grant.end;
        grant.in_flight = Some(id);
        grant.unheard.insert(refresh_token.to_owned(), now);
        let mut ledger = self.ledger.lock().unwrap();
        ledger.happened("a refresh");
        if ahead {
            ledger.happened("a refresh ahead of time");
        }
        id
    }

    /// What the provider does, whether or not anybody hears of it.
    fn handle(
        &mut self,
        refresh_token: &str,
        scope: &str,
        outcome: Outcome,
    ) -> Result<HttpResponse, Broken> {
        match outcome {
            Outcome::Busy => return Ok(response(503, &json!({}))),
            Outcome::Cut => return Err(Broken),
            _ => {}
        }
        let at = self.of[refresh_token];
        self.next += 1;
        let (refresh, access) = (
            format!("r{at}.{}", self.next),
            format!("a{at}.{}", self.next),
        );
        let grant = &mut self.grants[at];
        if outcome == Outcome::Refused || grant.retired.contains(refresh_token) {
            grant.revoked = true;
        }
        if grant.revoked {
            return match outcome {
                Outcome::Lost => Err(Broken),
                _ => Ok(response(400, &json!({ "error": "invalid_grant" }))),
            };
        }
        let lifetime = [61, 500, 500, 3600][self.random.below(4)];
        let mut answer = json!({
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": lifetime,
        });
        if !scope.is_empty() {
            answer["scope"] = scope.into();
        }
        self.of.insert(access, at);
        if outcome != Outcome::Kept {
            grant
                .retired
                .insert(std::mem::replace(&mut grant.current, refresh.clone()));
            answer["refresh_token"] = refresh.clone().into();
            self.of.insert(refresh, at);
        }
        match outcome {
            Outcome::Lost => Err(Broken),
            Outcome::Garbage => Ok(response(200, &json!("garbage"))),
            _ => Ok(response(200, &answer)),
        }
    }

    /// The cache has read an answer.
    fn heard(&mut self, refresh_token: &str, scope: &str, answer: &Result<HttpResponse, Broken>) {
        let Ok(answer) = answer else { return };
        let at = self.of[refresh_token];
        let turn = self.ledger.lock().unwrap().turn;
        let now = self.clock.wall();
        let grant = &mut self.grants[at];
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(answer.body()) else {
            return;
        };
        if answer.status() == 503 {
            grant.unheard.remove(refresh_token);
            return;
        }
        if !body.is_object() {
            return;
        }
        if answer.status() == 400 {
            grant.answered.insert(refresh_token.to_owned());
            return;
        }
        match body["refresh_token"].as_str() {
            Some(rotated) => {
                grant.answered.insert(refresh_token.to_owned());
                grant.held = rotated.to_owned();
                grant.read.insert(rotated.to_owned(), turn);
            }
            None => drop(grant.unheard.remove(refresh_token)),
        }
        let access = body["access_token"].as_str().unwrap().to_owned();
        grant.read.insert(access.clone(), turn);
        if scope.is_empty() {
            let lifetime = body["expires_in"].as_u64().unwrap();
            grant.end = now.plus(Duration::from_secs(lifetime));
        }
        grant
            .access
            .entry(scope.to_owned())
            .or_default()
            .push(access);
    }
}

fn response(status: u16, body: &serde_json::Value) -> HttpResponse {
    let mut response = HttpResponse::new(body.to_string().into_bytes());
    *response.status_mut() = axum::http::StatusCode::from_u16(status).unwrap();
    response
}

/// Whoever sent a refresh has left, or has its answer.
struct InFlight {
    state: Arc<Mutex<State>>,
    refresh_token: String,
    id: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // A schedule that has failed is unwinding.
        let Ok(mut state) = self.state.lock() else {
            return;
        };
        let at = state.of[&self.refresh_token];
        let in_flight = &mut state.grants[at].in_flight;
        if *in_flight == Some(self.id) {
            *in_flight = None;
        }
    }
}

impl<'c> AsyncHttpClient<'c> for Mock {
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, Broken>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(async move {
            let field = |name: &str| {
                url::form_urlencoded::parse(request.body())
                    .find(|(have, _)| have == name)
                    .map(|(_, value)| value.into_owned())
                    .unwrap_or_default()
            };
            match request.uri().path() {
                "/keys" => {
                    let keys = self.0.lock().unwrap().keys.clone();
                    Ok(HttpResponse::new(keys))
                }
                "/revoke" => {
                    let mut state = self.0.lock().unwrap();
                    let busy = state.revocation_busy;
                    if state.random.percent(busy) {
                        return Ok(response(503, &json!({})));
                    }
                    let token = field("token");
                    // The provider's own business: the rest of the grant is left alone, so that each token must be sent.
                    state.revoked.insert(token);
                    Ok(response(200, &json!({})))
                }
                _ => self.refresh(field("refresh_token"), field("scope")).await,
            }
        })
    }
}

impl Mock {
    async fn refresh(&self, refresh_token: String, scope: String) -> Result<HttpResponse, Broken> {
        let (guard, answer) = {
            let mut state = self.0.lock().unwrap();
            let id = state.arrive(&refresh_token, &scope);
            let guard = InFlight {
                state: self.0.clone(),
                refresh_token: refresh_token.clone(),
                id,
            };
            let (sender, answer) = oneshot::channel();
            if state.at_once {
                let outcome = state.handle(&refresh_token, &scope, Outcome::Rotated);
                let _ = sender.send(outcome);
            } else {
                state.waiting.push(Call {
                    id,
                    refresh_token: refresh_token.clone(),
                    scope: scope.clone(),
                    answer: sender,
                });
            }
            (guard, answer)
        };
        let answer = answer.await.unwrap_or(Err(Broken));
        let mut state = self.0.lock().unwrap();
        state.waiting.retain(|call| call.id != guard.id);
        state.heard(&refresh_token, &scope, &answer);
        drop(state);
        drop(guard);
        answer
    }
}
