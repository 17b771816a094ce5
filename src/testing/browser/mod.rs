//! A client that does with cookies, redirects and forms what a browser does.

mod cookies;
mod html;
mod page;
mod request;

use std::{error::Error, fmt, net::SocketAddr};

use axum::http::Method;

use super::Redacted;

pub use self::page::Page;
use self::{
    cookies::Jar,
    html::Form,
    request::{Destination, Initiator, Outgoing},
};

/// Why a [`TestBrowser`] could not go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum BrowserError {
    /// This is not an `http` or `https` URL.
    Url(Redacted),
    /// The connection failed, or broke before the answer was complete.
    Connection(String),
    /// More than twenty redirects.
    TooManyRedirects,
    /// No page was visited yet.
    NoPage,
    /// The page has no such link, form or button.
    NotFound(String),
}

impl fmt::Display for BrowserError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(_) => f.write_str("not an http URL"),
            Self::Connection(why) => write!(f, "the connection failed: {why}"),
            Self::TooManyRedirects => f.write_str("too many redirects"),
            Self::NoPage => f.write_str("no page was visited yet"),
            Self::NotFound(what) => write!(f, "the page has no {what}"),
        }
    }
}

impl Error for BrowserError {}

/// Sets up a [`TestBrowser`].
#[must_use]
pub struct TestBrowserBuilder {
    client: reqwest::ClientBuilder,
    block_third_party_cookies: bool,
    redirects_count: bool,
    user_agent: String,
}

impl TestBrowserBuilder {
    /// Connects to this address for a host, whatever the port, as an entry in
    /// the hosts file would. The URL's port is used. `localhost` leads to
    /// 127.0.0.1 already.
    pub fn resolve(mut self, host: &str, address: std::net::IpAddr) -> Self {
        self.client = self.client.resolve(host, SocketAddr::new(address, 0));
        self
    }

    /// Trusts this certificate authority (PEM) for https, and no other.
    ///
    /// # Errors
    ///
    /// When it is no certificate.
    pub fn trust(mut self, pem: &[u8]) -> Result<Self, BrowserError> {
        let certificate = reqwest::Certificate::from_pem(pem)
            .map_err(|_| BrowserError::Connection("not a certificate".to_owned()))?;
        self.client = self.client.tls_certs_only([certificate]);
        Ok(self)
    }

    /// Whether frames of other sites go without cookies, as in Safari and
    /// Firefox. On by default.
    pub fn block_third_party_cookies(mut self, block: bool) -> Self {
        self.block_third_party_cookies = block;
        self
    }

    /// Whether a redirect over another site makes a request cross-site for
    /// `SameSite`, as the cookie standard's draft has it. On by default, being
    /// the harder case for an app; Chromium looks at the initiator only.
    pub fn redirects_count_for_same_site(mut self, count: bool) -> Self {
        self.redirects_count = count;
        self
    }

    /// The `User-Agent` that is sent.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = user_agent.into();
        self
    }

    /// Opens the browser.
    ///
    /// # Panics
    ///
    /// When the TLS library cannot be set up.
    #[must_use]
    pub fn build(self) -> TestBrowser {
        TestBrowser {
            client: self.client.build().expect("the HTTP client is built"),
            jar: Jar::default(),
            page: None,
            history: Vec::new(),
            block_third_party_cookies: self.block_third_party_cookies,
            redirects_count: self.redirects_count,
            user_agent: self.user_agent,
        }
    }
}

impl fmt::Debug for TestBrowserBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBrowserBuilder").finish_non_exhaustive()
    }
}

/// One person's browser without JavaScript: it keeps cookies, says by Fetch
/// metadata and `Origin` where a request comes from, follows redirects and
/// clicks links and buttons.
///
/// *Site* means scheme and registrable domain; without the public suffix list,
/// that is taken to be the last two labels of a name, and the whole of an
/// address. `localhost` and `127.0.0.1` are two sites. As in real browsers,
/// ports do not separate cookies. A clone has the same cookies and goes its own way
/// from there.
///
/// ```no_run
/// use axum_signout::testing::TestBrowser;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut browser = TestBrowser::new();
/// browser.goto("http://127.0.0.1:3000/signin?return_to=/mail").await?;
/// let page = browser.submit("login-alice", &[]).await?;   // the provider's page
/// let page = browser.follow().await?;                     // a page that navigates on
/// assert_eq!(page.url().path(), "/mail");
/// assert!(browser.cookie("127.0.0.1", "id").is_some());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct TestBrowser {
    client: reqwest::Client,
    jar: Jar,
    page: Option<Page>,
    history: Vec<Page>,
    block_third_party_cookies: bool,
    redirects_count: bool,
    user_agent: String,
}

impl TestBrowser {
    /// A fresh browser.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Sets up a browser that differs from the default.
    pub fn builder() -> TestBrowserBuilder {
        TestBrowserBuilder {
            client: super::client_builder()
                .tls_certs_only(std::iter::empty())
                .resolve("localhost", SocketAddr::from(([127, 0, 0, 1], 0))),
            block_third_party_cookies: true,
            redirects_count: true,
            user_agent: "Mozilla/5.0 (axum-signout test browser)".to_owned(),
        }
    }

    /// Goes to a URL as if it was typed, and follows redirects.
    ///
    /// # Errors
    ///
    /// [`BrowserError::Url`], [`BrowserError::Connection`],
    /// [`BrowserError::TooManyRedirects`], as for every navigation.
    pub async fn goto(&mut self, url: impl AsRef<str>) -> Result<Page, BrowserError> {
        let url = request::parse(url.as_ref())?;
        self.navigate(Outgoing::get(url, Initiator::Typed)).await
    }

    /// Loads the current page anew, by GET.
    ///
    /// # Errors
    ///
    /// [`BrowserError::NoPage`], and those of a navigation.
    pub async fn reload(&mut self) -> Result<Page, BrowserError> {
        let url = self.current()?.url().clone();
        self.goto(url).await
    }

    /// Clicks the first link with this `id`, text or `href`.
    ///
    /// # Errors
    ///
    /// [`BrowserError::NotFound`], and those of a navigation.
    pub async fn click_link(&mut self, which: &str) -> Result<Page, BrowserError> {
        let page = self.current()?;
        let link = page
            .document()
            .links
            .into_iter()
            .find(|link| {
                link.id.as_deref() == Some(which) || link.text == which || link.href == which
            })
            .ok_or_else(|| BrowserError::NotFound(format!("link {which}")))?;
        let url = request::join(page.url(), &link.href)?;
        let from = Initiator::page(&page);
        self.navigate(Outgoing::get(url, from)).await
    }

    /// Presses a button or sends a form: the button with this `id` or text, or
    /// the form with this `id`, name or `action`; `""` for the only form. A form that is
    /// sent by its own name is sent by its first button. `fields` replace those of the
    /// same name.
    ///
    /// # Errors
    ///
    /// [`BrowserError::NotFound`], and those of a navigation.
    pub async fn submit(
        &mut self,
        which: &str,
        fields: &[(&str, &str)],
    ) -> Result<Page, BrowserError> {
        let page = self.current()?;
        let (form, button) = find_form(&page, which)
            .ok_or_else(|| BrowserError::NotFound(format!("form or button {which}")))?;
        let outgoing = fill(&page, &form, button, fields)?;
        self.navigate(outgoing).await
    }

    /// Sends a form of one's own making from the current page, as a script on
    /// it could; without a page, from nowhere (`Origin: null`).
    ///
    /// # Errors
    ///
    /// Those of a navigation.
    pub async fn post_form(
        &mut self,
        url: impl AsRef<str>,
        fields: &[(&str, &str)],
    ) -> Result<Page, BrowserError> {
        let (url, from) = match &self.page {
            Some(page) => (
                request::join(page.url(), url.as_ref())?,
                Initiator::page(page),
            ),
            None => (request::parse(url.as_ref())?, Initiator::Nowhere),
        };
        let fields = fields.iter().map(|&(name, value)| (name, value));
        self.navigate(Outgoing::post(url, from, fields)).await
    }

    /// Sends a form from a page of `https://attacker.example`.
    ///
    /// # Errors
    ///
    /// Those of a navigation.
    pub async fn cross_site_post(
        &mut self,
        url: impl AsRef<str>,
        fields: &[(&str, &str)],
    ) -> Result<Page, BrowserError> {
        let url = request::parse(url.as_ref())?;
        let fields = fields.iter().map(|&(name, value)| (name, value));
        self.navigate(Outgoing::post(url, Initiator::attacker(), fields))
            .await
    }

    /// Follows a link on a page of `https://attacker.example`.
    ///
    /// # Errors
    ///
    /// Those of a navigation.
    pub async fn cross_site_link(&mut self, url: impl AsRef<str>) -> Result<Page, BrowserError> {
        let url = request::parse(url.as_ref())?;
        self.navigate(Outgoing::get(url, Initiator::attacker()))
            .await
    }

    /// Goes where the page goes by itself: by `<meta http-equiv="refresh">` or by a
    /// form that a script submits, and on until a page stays. A page that stays is
    /// returned as it is.
    ///
    /// # Errors
    ///
    /// Those of a navigation.
    pub async fn follow(&mut self) -> Result<Page, BrowserError> {
        for _ in 0..request::MAX_HOPS {
            let page = self.current()?;
            let document = page.document();
            if let Some(target) = &document.refresh {
                let url = request::join(page.url(), target)?;
                let from = Initiator::page(&page);
                self.navigate(Outgoing::get(url, from)).await?;
            } else if document.submits_itself && document.forms.len() == 1 {
                let outgoing = fill(&page, &document.forms[0], None, &[])?;
                self.navigate(outgoing).await?;
            } else {
                return Ok(page);
            }
        }
        Err(BrowserError::TooManyRedirects)
    }

    /// Loads the frames of the current page, in order, and returns what came.
    /// The page stays the current one.
    ///
    /// # Errors
    ///
    /// Those of a navigation.
    pub async fn load_frames(&mut self) -> Result<Vec<Page>, BrowserError> {
        let page = self.current()?;
        let mut loaded = Vec::new();
        for source in page.document().frames {
            let url = request::join(page.url(), &source)?;
            let mut outgoing = Outgoing::get(url, Initiator::page(&page));
            outgoing.destination = Destination::Frame;
            loaded.push(self.run(outgoing).await?);
        }
        Ok(loaded)
    }

    /// What `fetch(url, { method })` of a script on the current page gets, with
    /// `Accept: application/json`. Cookies go to the page's own origin only, and
    /// a redirect to another origin is returned as it is, since a script could not
    /// follow it. The page stays the current one.
    ///
    /// # Errors
    ///
    /// Those of a navigation.
    pub async fn fetch(
        &mut self,
        method: Method,
        url: impl AsRef<str>,
    ) -> Result<Page, BrowserError> {
        self.fetch_with(method, url, &[], None).await
    }

    /// As [`fetch`](Self::fetch), with headers (which replace the browser's) and a
    /// body.
    ///
    /// # Errors
    ///
    /// Those of a navigation.
    pub async fn fetch_with(
        &mut self,
        method: Method,
        url: impl AsRef<str>,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Result<Page, BrowserError> {
        let page = self.current()?;
        let url = request::join(page.url(), url.as_ref())?;
        let from = Initiator::page(&page);
        self.run(Outgoing::script(method, url, from, headers, body))
            .await
    }

    /// The page that is shown.
    #[must_use]
    pub fn page(&self) -> Option<&Page> {
        self.page.as_ref()
    }

    /// Every answer so far, redirects, frames and fetches included.
    #[must_use]
    pub fn history(&self) -> &[Page] {
        &self.history
    }

    /// Forgets the answers so far; cookies stay.
    pub fn clear_history(&mut self) {
        self.history.clear();
    }

    /// The value of a cookie that this host gets.
    #[must_use]
    pub fn cookie(&self, host: &str, name: &str) -> Option<&str> {
        self.jar.get(host, name)
    }

    /// The names of the cookies that this host gets.
    #[must_use]
    pub fn cookies(&self, host: &str) -> Vec<String> {
        self.jar.names(host)
    }

    /// The names of this host's cookies that scripts can read.
    #[must_use]
    pub fn script_cookies(&self, host: &str) -> Vec<String> {
        self.jar.visible_to_scripts(host)
    }

    /// Stores a cookie as if `url` had set it; `cookie` as in `Set-Cookie`.
    /// What a browser would refuse is refused.
    ///
    /// # Errors
    ///
    /// [`BrowserError::Url`].
    pub fn set_cookie(&mut self, url: impl AsRef<str>, cookie: &str) -> Result<(), BrowserError> {
        let url = request::parse(url.as_ref())?;
        self.jar.store(&url, cookie, request::FIRST_PARTY);
        Ok(())
    }

    /// Removes the cookies of a host.
    pub fn clear_cookies(&mut self, host: &str) {
        self.jar.clear_host(host);
    }

    /// Quits and starts anew: session cookies and the page are gone, cookies
    /// with a lifetime stay.
    pub fn restart(&mut self) {
        self.jar.end_session();
        self.page = None;
    }

    fn current(&self) -> Result<Page, BrowserError> {
        self.page.clone().ok_or(BrowserError::NoPage)
    }

    async fn navigate(&mut self, outgoing: Outgoing) -> Result<Page, BrowserError> {
        let page = self.run(outgoing).await?;
        self.page = Some(page.clone());
        Ok(page)
    }
}

impl Default for TestBrowser {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestBrowser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBrowser")
            .field("page", &self.page)
            .finish_non_exhaustive()
    }
}

/// The form and, when a button was meant, its name and value.
fn find_form(page: &Page, which: &str) -> Option<(Form, Option<(String, String)>)> {
    let forms = page.document().forms;
    for form in &forms {
        for button in &form.buttons {
            if !which.is_empty() && (button.id.as_deref() == Some(which) || button.text == which) {
                let pair = button.name.clone().map(|name| (name, button.value.clone()));
                return Some((form.clone(), pair));
            }
        }
    }
    let mut named = forms.iter().filter(|form| {
        which.is_empty()
            || form.id.as_deref() == Some(which)
            || form.name.as_deref() == Some(which)
            || form.action == which
    });
    let form = named.next()?.clone();
    if which.is_empty() && named.next().is_some() {
        return None;
    }
    let pair = form
        .buttons
        .first()
        .and_then(|button| Some((button.name.clone()?, button.value.clone())));
    Some((form, pair))
}

fn fill(
    page: &Page,
    form: &Form,
    button: Option<(String, String)>,
    replace: &[(&str, &str)],
) -> Result<Outgoing, BrowserError> {
    let mut fields: Vec<(String, String)> = form
        .fields
        .iter()
        .filter(|(name, _)| replace.iter().all(|(replaced, _)| replaced != name))
        .cloned()
        .collect();
    fields.extend(
        replace
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned())),
    );
    fields.extend(button);
    let mut url = request::join(page.url(), &form.action)?;
    let from = Initiator::page(page);
    if form.post {
        return Ok(Outgoing::post(url, from, fields));
    }
    url.query_pairs_mut().clear().extend_pairs(fields);
    Ok(Outgoing::get(url, from))
}
