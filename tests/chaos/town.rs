//! The nodes as their users' browsers see them, and what all users have in common.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum_signout::SignInId;
use http::{Method, StatusCode, header};
use rand::Rng as _;
use rand::rngs::StdRng;
use reqwest::cookie::{CookieStore as _, Jar};
use tokio::sync::{Mutex, Semaphore};
use url::Url;

use crate::node::{Left, Served, Whose};
use crate::support::http::Page;
use crate::user::{Call, Failure, Story};

/// Sign-ins under way at a time: the provider is one process in JavaScript.
const SIGNING_IN: usize = 12;

/// Requests under way at a time, all users together.
const REQUESTS: usize = 64;

/// What all users have in common.
pub struct Town {
    pub nodes: Vec<String>,
    pub until: Instant,
    http: reqwest::Client,
    signing_in: Semaphore,
    requests: Semaphore,
    pub stories: Mutex<Vec<Story>>,
    pub failed_sign_ins: Mutex<Vec<Failure>>,
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

    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    pub fn any_node(&self, chance: &mut StdRng) -> usize {
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
    pub async fn sign_in(&self, user: &str, chance: &mut StdRng) -> Result<String, String> {
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

    /// By the user, or by an operator, who leaves the session as it is. Nothing where it was refused.
    pub async fn leave(
        &self,
        story: &Story,
        by_operator: Option<SignInId>,
        node: usize,
    ) -> Option<(Left, Instant)> {
        let node = &self.nodes[node];
        let request = match by_operator {
            None => {
                let request = self.http.post(format!("{node}/leave"));
                request.header(header::COOKIE, &story.cookies)
            }
            Some(sign_in) => {
                let user = story.user.clone();
                let request = self.http.post(format!("{node}/end"));
                request.query(&Whose { user, sign_in })
            }
        };
        let (_, page, ended) = self.send(request).await;
        if page.status != StatusCode::OK {
            return None;
        }
        let left: Left = serde_json::from_str(&page.body).expect("what a sign-out answers");
        Some((left, ended))
    }
}
