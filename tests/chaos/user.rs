//! Users, as their browsers: they sign in, have tokens acquired, and sign out, on nodes that chance picks, and write down what came.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, header};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::cookie::{CookieStore as _, Jar};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::sleep;
use url::Url;

use crate::node::{Left, Served};
use crate::support::http::Page;

/// Sign-ins under way at a time: the provider is one process in JavaScript.
const SIGNING_IN: usize = 12;

/// Requests under way at a time, all users together.
const REQUESTS: usize = 64;

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
    /// What the browser sends. Whoever has copied it goes on sending it.
    pub cookies: String,
    pub calls: Vec<Call>,
    /// When a sign-out was acknowledged.
    pub left: Option<Instant>,
    /// The store had not confirmed it then.
    pub pending: bool,
    /// How often it was refused.
    pub tried_in_vain: usize,
    /// It said that it could not read what the session holds.
    pub unread: bool,
    /// It ended without a sign-out.
    pub lost: bool,
}

/// What all users have in common.
pub struct Town {
    pub nodes: Vec<String>,
    pub until: Instant,
    http: reqwest::Client,
    signing_in: Semaphore,
    requests: Semaphore,
    pub stories: Mutex<Vec<Story>>,
    /// Whose, and why.
    pub failed_sign_ins: Mutex<Vec<(String, String)>>,
}

impl Town {
    pub fn new(nodes: Vec<String>, until: Instant) -> Arc<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("no TLS set-up to fail");
        Arc::new(Self {
            nodes,
            until,
            http,
            signing_in: Semaphore::new(SIGNING_IN),
            requests: Semaphore::new(REQUESTS),
            stories: Mutex::default(),
            failed_sign_ins: Mutex::default(),
        })
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn any_node(&self, chance: &mut StdRng) -> usize {
        chance.random_range(0..self.nodes.len())
    }

    /// Times are of the request itself, not of the wait for its turn.
    async fn send(&self, request: reqwest::RequestBuilder) -> (Instant, Page, Instant) {
        let _turn = self.requests.acquire().await.expect("never closed");
        let begun = Instant::now();
        let response = request
            .send()
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"));
        let (url, status) = (response.url().clone(), response.status());
        let headers = response.headers().clone();
        let body = response.text().await.expect("a body");
        let page = Page {
            url,
            status,
            headers,
            body,
        };
        (begun, page, Instant::now())
    }

    /// With cookies that change.
    async fn browse(
        &self,
        jar: &Jar,
        method: Method,
        url: &Url,
        form: &[(String, String)],
    ) -> Page {
        let mut request = self.http.request(method, url.clone()).form(form);
        if let Some(cookies) = jar.cookies(url) {
            request = request.header(header::COOKIE, cookies);
        }
        let (_, page, _) = self.send(request).await;
        let set = page.headers.get_all(header::SET_COOKIE);
        jar.set_cookies(&mut set.iter(), url);
        page
    }

    /// The cookies that the session then has; or where it ended, and how.
    async fn sign_in(&self, user: &str, chance: &mut StdRng) -> Result<String, String> {
        let _turn = self.signing_in.acquire().await.expect("never closed");
        let jar = Jar::default();
        let callback = format!("{}/signin/callback", self.nodes[0]);
        let begin = format!("{}/signin", self.nodes[self.any_node(chance)]);
        let begin = Url::parse(&begin).expect("a URL");
        let mut page = self.browse(&jar, Method::GET, &begin, &[]).await;
        for _ in 0..16 {
            if let Some(next) = page.location() {
                if next.as_str().starts_with(&callback) {
                    // All nodes have one address, as behind a balancer.
                    let node = Url::parse(&self.nodes[self.any_node(chance)]).expect("a URL");
                    let mut url = next;
                    url.set_port(node.port()).expect("an address with a port");
                    let page = self.browse(&jar, Method::GET, &url, &[]).await;
                    if page.status != StatusCode::OK {
                        return Err(format!("{} at the callback", page.status));
                    }
                    let cookies = jar.cookies(&url).ok_or("no cookie")?;
                    return Ok(cookies.to_str().expect("ASCII").to_owned());
                }
                page = self.browse(&jar, Method::GET, &next, &[]).await;
            } else if page.status == StatusCode::OK && page.body.contains("<form") {
                let mut form = page.form();
                if form.has("login") {
                    form = form.with("login", user).with("password", "any");
                }
                page = self
                    .browse(&jar, Method::POST, &form.action, &form.fields)
                    .await;
            } else {
                return Err(format!("{} at {}", page.status, page.url.path()));
            }
        }
        Err("the provider asks again and again".to_owned())
    }

    pub async fn token(&self, cookies: &str, node: usize) -> (Call, Option<Served>) {
        let request = self.http.get(format!("{}/token", self.nodes[node]));
        let request = request.header(header::COOKIE, cookies);
        let (begun, page, ended) = self.send(request).await;
        let served: Option<Served> = serde_json::from_str(&page.body)
            .ok()
            .filter(|_| page.status == StatusCode::OK);
        let call = Call {
            begun,
            ended,
            node,
            status: page.status,
            token: served.as_ref().map(|served| served.token.clone()),
        };
        (call, served)
    }

    /// Nothing where it was refused.
    async fn leave(&self, cookies: &str, node: usize) -> Option<(Left, Instant)> {
        let request = self.http.post(format!("{}/leave", self.nodes[node]));
        let request = request.header(header::COOKIE, cookies);
        let (_, page, ended) = self.send(request).await;
        if page.status != StatusCode::OK {
            return None;
        }
        let left: Left = serde_json::from_str(&page.body).expect("what `leave` answers");
        Some((left, ended))
    }

    /// Signs in and out until time is up, at least once; now and then the last sign-in stays.
    pub async fn live(&self, user: String, seed: u64) {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut lives = 0;
        while lives == 0 || !self.is_over() {
            match self.sign_in(&user, &mut chance).await {
                Ok(cookies) => {
                    lives += 1;
                    let story = self.one_sign_in(&user, cookies, &mut chance).await;
                    self.stories.lock().await.push(story);
                }
                Err(why) => {
                    let mut failed = self.failed_sign_ins.lock().await;
                    failed.push((user.clone(), why));
                    drop(failed);
                    sleep(Duration::from_millis(chance.random_range(500..1_500))).await;
                }
            }
        }
    }

    async fn one_sign_in(&self, user: &str, cookies: String, chance: &mut StdRng) -> Story {
        let mut story = Story {
            user: user.to_owned(),
            cookies,
            calls: Vec::new(),
            left: None,
            pending: false,
            tried_in_vain: 0,
            unread: false,
            lost: false,
        };
        let stays = Instant::now() + Duration::from_millis(chance.random_range(2_000..20_000));
        while story.calls.is_empty() || Instant::now() < stays.min(self.until) {
            sleep(Duration::from_millis(chance.random_range(200..2_500))).await;
            // Two tabs, on two nodes: what is due is refreshed once all the same.
            let both = [self.any_node(chance), self.any_node(chance)];
            let both = both.map(|node| self.token(&story.cookies, node));
            for (call, _) in futures_util::future::join_all(both).await {
                story.lost |= call.status == StatusCode::UNAUTHORIZED;
                story.calls.push(call);
            }
            if story.lost {
                return story;
            }
        }
        if self.is_over() && chance.random_ratio(1, 4) {
            return story;
        }
        self.sign_out(&mut story, chance).await;
        story
    }

    async fn sign_out(&self, story: &mut Story, chance: &mut StdRng) {
        let cookies = story.cookies.clone();
        // Others run while it is done.
        let (early, late) = (self.any_node(chance), self.any_node(chance));
        let meanwhile = async {
            let (one, _) = self.token(&cookies, early).await;
            let (two, _) = self.token(&cookies, late).await;
            [one, two]
        };
        let nodes: Vec<usize> = (0..64).map(|_| self.any_node(chance)).collect();
        let leaving = async {
            for (tries, node) in nodes.into_iter().enumerate() {
                match self.leave(&cookies, node).await {
                    Some((left, at)) if left.not_retried == 0 => return (tries, left, at),
                    _ => {}
                }
                // A browser has no cookie any more; this one has kept a copy, and tries again.
                sleep(Duration::from_millis(250)).await;
            }
            panic!("nobody can sign out");
        };
        let (calls, (tries, left, at)) = tokio::join!(meanwhile, leaving);
        story.calls.extend(calls);
        story.tried_in_vain = tries;
        story.unread = left.session == "Unread";
        story.pending = left.pending > 0;
        story.left = Some(at);
        // At once, on every node, by whoever has copied the cookie; and once more a little later.
        for pause in [0, 300, 1_500] {
            sleep(Duration::from_millis(pause)).await;
            let everywhere = (0..self.nodes.len()).map(|node| self.token(&cookies, node));
            let answers = futures_util::future::join_all(everywhere).await;
            story
                .calls
                .extend(answers.into_iter().map(|(call, _)| call));
        }
    }
}
