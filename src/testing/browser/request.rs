//! One request with its redirects, as a browser sends it.

use std::{error::Error, net::IpAddr, sync::Arc};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use url::{Host, Origin, Url, form_urlencoded};

use super::{
    BrowserError, TestBrowser,
    cookies::CookieContext,
    page::{Page, PageParts},
};

pub(super) const MAX_HOPS: usize = 20;

pub(super) const FIRST_PARTY: CookieContext = CookieContext {
    same_site: true,
    safe_navigation: true,
    third_party: false,
};

/// Who makes the browser send a request.
#[derive(Clone, Debug)]
pub(super) enum Initiator {
    /// The person, in the address bar.
    Typed,
    /// A page.
    Page(Url),
    /// A page that says nothing about itself.
    Nowhere,
}

impl Initiator {
    pub(super) fn page(page: &Page) -> Self {
        Self::Page(page.url().clone())
    }

    pub(super) fn attacker() -> Self {
        Url::parse("https://attacker.example/").map_or(Self::Nowhere, Self::Page)
    }
}

/// What the answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    Window,
    Frame,
    Script,
}

#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) initiator: Initiator,
    pub(super) destination: Destination,
    headers: Vec<(String, String)>,
    body: Option<String>,
}

impl Outgoing {
    pub(super) fn get(url: Url, initiator: Initiator) -> Self {
        Self {
            method: Method::GET,
            url,
            initiator,
            destination: Destination::Window,
            headers: Vec::new(),
            body: None,
        }
    }

    pub(super) fn script(
        method: Method,
        url: Url,
        initiator: Initiator,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Self {
        let headers = headers.iter();
        Self {
            method,
            destination: Destination::Script,
            headers: headers
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: body.map(str::to_owned),
            ..Self::get(url, initiator)
        }
    }

    pub(super) fn post<N: AsRef<str>, V: AsRef<str>>(
        url: Url,
        initiator: Initiator,
        fields: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        Self {
            method: Method::POST,
            body: Some(body),
            ..Self::get(url, initiator)
        }
    }

    /// `Sec-Fetch-Site`: the farthest of all the hops so far.
    fn fetch_site(&self, chain: &[Url]) -> &'static str {
        let initiator = match &self.initiator {
            Initiator::Typed => return "none",
            Initiator::Nowhere => return "cross-site",
            Initiator::Page(page) => page,
        };
        let hops = || std::iter::once(initiator).chain(chain);
        if hops().all(|hop| hop.origin() == self.url.origin()) {
            "same-origin"
        } else if hops().all(|hop| same_site(hop, &self.url)) {
            "same-site"
        } else {
            "cross-site"
        }
    }

    fn cookie_context(&self, chain: &[Url], redirects_count: bool) -> CookieContext {
        let initiated_here = match &self.initiator {
            Initiator::Typed => true,
            Initiator::Nowhere => false,
            Initiator::Page(page) => same_site(page, &self.url),
        };
        let came_here = !redirects_count || chain.iter().all(|hop| same_site(hop, &self.url));
        CookieContext {
            same_site: initiated_here && came_here,
            safe_navigation: self.destination == Destination::Window
                && matches!(self.method, Method::GET | Method::HEAD),
            third_party: self.destination != Destination::Window && !initiated_here,
        }
    }

    fn may_use_cookies(&self, context: CookieContext, block_third_party: bool) -> bool {
        match (self.destination, &self.initiator) {
            (Destination::Window, _) => true,
            (Destination::Frame, _) => !(context.third_party && block_third_party),
            // `credentials: "same-origin"`, the default of fetch.
            (Destination::Script, Initiator::Page(page)) => page.origin() == self.url.origin(),
            (Destination::Script, _) => false,
        }
    }

    /// The `Origin` header: on everything but GET and HEAD, and on a script's
    /// requests to other origins. After a redirect over another origin it says
    /// `null`.
    fn origin(&self, chain: &[Url]) -> Option<String> {
        let safe = matches!(self.method, Method::GET | Method::HEAD);
        match &self.initiator {
            Initiator::Typed => None,
            Initiator::Nowhere => (!safe).then(|| "null".to_owned()),
            Initiator::Page(page) => {
                let cross_origin = page.origin() != self.url.origin();
                if safe && !(cross_origin && self.destination == Destination::Script) {
                    return None;
                }
                let tainted = chain
                    .iter()
                    .any(|hop| hop.origin() != page.origin() && hop.origin() != self.url.origin());
                Some(if tainted {
                    "null".to_owned()
                } else {
                    page.origin().ascii_serialization()
                })
            }
        }
    }

    /// The request that a redirect asks for.
    fn redirected(mut self, status: StatusCode, url: Url) -> Self {
        let turns_to_get = status == StatusCode::SEE_OTHER && self.method != Method::HEAD
            || matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND)
                && self.method == Method::POST;
        if turns_to_get {
            self.method = Method::GET;
            self.body = None;
        }
        let fragment = self.url.fragment().map(str::to_owned);
        self.url = url;
        if self.url.fragment().is_none() {
            self.url.set_fragment(fragment.as_deref());
        }
        self
    }
}

impl TestBrowser {
    pub(super) async fn run(&mut self, mut outgoing: Outgoing) -> Result<Page, BrowserError> {
        let mut chain = Vec::new();
        for _ in 0..MAX_HOPS {
            let page = self.send(&outgoing, &chain).await?;
            self.history.push(page.clone());
            let target = page
                .location()
                .filter(|_| follows(page.status()))
                .filter(|target| matches!(target.scheme(), "http" | "https"));
            let Some(target) = target else {
                return Ok(page);
            };
            if outgoing.destination == Destination::Script
                && target.origin() != outgoing.url.origin()
            {
                return Ok(page);
            }
            chain.push(outgoing.url.clone());
            outgoing = outgoing.redirected(page.status(), target);
        }
        Err(BrowserError::TooManyRedirects)
    }

    async fn send(&mut self, outgoing: &Outgoing, chain: &[Url]) -> Result<Page, BrowserError> {
        let context = outgoing.cookie_context(chain, self.redirects_count);
        let cookies = outgoing.may_use_cookies(context, self.block_third_party_cookies);
        let mut headers = self.headers(outgoing, chain);
        if cookies && let Some(value) = self.jar.header(&outgoing.url, context) {
            set(&mut headers, header::COOKIE, &value);
        }
        let mut request = self
            .client
            .request(outgoing.method.clone(), outgoing.url.clone())
            .headers(headers.clone());
        if let Some(body) = &outgoing.body {
            request = request.body(body.clone());
        }
        let response = request.send().await.map_err(connection_error)?;
        let status = response.status();
        let answer = response.headers().clone();
        let body = response.bytes().await.map_err(connection_error)?;
        if cookies {
            for value in answer.get_all(header::SET_COOKIE) {
                if let Ok(value) = value.to_str() {
                    self.jar.store(&outgoing.url, value, context);
                }
            }
            if clears_cookies(&answer) && super::cookies::trustworthy(&outgoing.url) {
                self.jar.clear_where(|domain| {
                    site_of(domain) == outgoing.url.host_str().map(site_of).unwrap_or_default()
                });
            }
        }
        Ok(Page(Arc::new(PageParts {
            method: outgoing.method.clone(),
            url: outgoing.url.clone(),
            status,
            headers: answer,
            request_headers: headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })))
    }

    fn headers(&self, outgoing: &Outgoing, chain: &[Url]) -> HeaderMap {
        let (mode, destination, accept) = match outgoing.destination {
            Destination::Window => ("navigate", "document", NAVIGATION_ACCEPT),
            Destination::Frame => ("navigate", "iframe", NAVIGATION_ACCEPT),
            Destination::Script => ("cors", "empty", "application/json"),
        };
        let mut headers = HeaderMap::new();
        set(&mut headers, header::USER_AGENT, &self.user_agent);
        set(&mut headers, header::ACCEPT, accept);
        set(&mut headers, header::ACCEPT_LANGUAGE, "en");
        // Browsers send Fetch metadata to trustworthy URLs only.
        if super::cookies::trustworthy(&outgoing.url) {
            let site = outgoing.fetch_site(chain);
            set(
                &mut headers,
                HeaderName::from_static("sec-fetch-site"),
                site,
            );
            set(
                &mut headers,
                HeaderName::from_static("sec-fetch-mode"),
                mode,
            );
            set(
                &mut headers,
                HeaderName::from_static("sec-fetch-dest"),
                destination,
            );
            if outgoing.destination == Destination::Window {
                set(
                    &mut headers,
                    HeaderName::from_static("sec-fetch-user"),
                    "?1",
                );
            }
        }
        if let Some(origin) = outgoing.origin(chain) {
            set(&mut headers, header::ORIGIN, &origin);
        }
        if outgoing.body.is_some() {
            let form = "application/x-www-form-urlencoded";
            set(&mut headers, header::CONTENT_TYPE, form);
        }
        for (name, value) in &outgoing.headers {
            if let Ok(name) = name.parse() {
                set(&mut headers, name, value);
            }
        }
        headers
    }
}

const NAVIGATION_ACCEPT: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// `Clear-Site-Data`, which takes the cookies of the same answer along.
fn clears_cookies(answer: &HeaderMap) -> bool {
    answer
        .get_all("clear-site-data")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|kind| matches!(kind.trim(), "\"cookies\"" | "\"*\""))
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
        headers.insert(name, value);
    }
}

fn follows(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

pub(super) fn parse(url: &str) -> Result<Url, BrowserError> {
    http_only(Url::parse(url), url)
}

pub(super) fn join(base: &Url, reference: &str) -> Result<Url, BrowserError> {
    http_only(base.join(reference), reference)
}

fn http_only(url: Result<Url, url::ParseError>, text: &str) -> Result<Url, BrowserError> {
    url.ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| BrowserError::Url(text.into()))
}

/// Without the URL, whose query may hold a code.
fn connection_error(error: reqwest::Error) -> BrowserError {
    let error = error.without_url();
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    BrowserError::Connection(message)
}

fn same_site(a: &Url, b: &Url) -> bool {
    site(a).is_some_and(|site_a| Some(site_a) == site(b))
}

/// The scheme and the registrable domain.
fn site(url: &Url) -> Option<(&str, String)> {
    if !matches!(url.origin(), Origin::Tuple(..)) {
        return None;
    }
    let domain = match url.host()? {
        Host::Domain(name) => site_of(name),
        address => address.to_string(),
    };
    Some((url.scheme(), domain))
}

/// The registrable domain of a host.
fn site_of(host: &str) -> String {
    if host.parse::<IpAddr>().is_ok() || host.starts_with('[') {
        return host.to_owned();
    }
    let labels: Vec<_> = host.split('.').collect();
    labels[labels.len().saturating_sub(2)..].join(".")
}
