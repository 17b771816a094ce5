//! A browser as far as HTTP goes: it keeps cookies, follows redirects up to a point, and sends forms. No scripts.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode, header};
use reqwest::cookie::{CookieStore, Jar};
use url::Url;

#[derive(Clone, Debug)]
pub struct Browser {
    client: reqwest::Client,
    cookies: Arc<Jar>,
}

/// What came back, read in full.
#[derive(Clone, Debug)]
pub struct Page {
    pub url: Url,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// A form as the page has it, to be filled in and sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub action: Url,
    pub fields: Vec<(String, String)>,
}

impl Default for Browser {
    fn default() -> Self {
        Self::new()
    }
}

impl Browser {
    pub fn new() -> Self {
        let cookies = Arc::new(Jar::default());
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .cookie_provider(Arc::clone(&cookies))
            .build()
            .expect("no TLS set-up to fail");
        Self { client, cookies }
    }

    /// The `Cookie` header that would go to that address, or nothing.
    pub fn cookies(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).expect("an absolute URL");
        let header = self.cookies.cookies(&url)?;
        Some(header.to_str().expect("cookies are ASCII here").to_owned())
    }

    /// Loses one cookie of that address, and keeps the others.
    pub fn forget(&self, url: &str, name: &str) {
        let url = Url::parse(url).expect("an absolute URL");
        let removal = format!("{name}=; Path=/; Max-Age=0");
        self.cookies.add_cookie_str(&removal, &url);
    }

    pub async fn get(&self, url: &str) -> Page {
        page(self.client.get(url)).await
    }

    pub async fn post(&self, url: &str, fields: &[(&str, &str)]) -> Page {
        page(self.client.post(url).form(fields)).await
    }

    pub async fn post_json(&self, url: &str, body: &serde_json::Value) -> Page {
        page(self.client.post(url).json(body)).await
    }

    pub async fn submit(&self, form: &Form) -> Page {
        page(self.client.post(form.action.clone()).form(&form.fields)).await
    }

    /// Follows redirects, but not the one to an address that begins with `stop`: that one is returned unanswered.
    pub async fn follow(&self, mut page: Page, stop: &str) -> Page {
        for _ in 0..20 {
            match page.location() {
                Some(next) if !next.as_str().starts_with(stop) => {
                    page = self.get(next.as_str()).await
                }
                _ => return page,
            }
        }
        panic!("more than 20 redirects, the last to {}", page.url)
    }

    /// Goes through the provider's login and consent pages, whichever it shows, and returns the address that it sends
    /// the browser back to, which begins with `stop`.
    pub async fn sign_in_at(&self, url: &str, login: &str, stop: &str) -> Url {
        let mut page = self.follow(self.get(url).await, stop).await;
        // Who is signed in as somebody else is asked to leave first, then who they are, then whether they agree.
        for _ in 0..5 {
            if let Some(back) = page.location() {
                return back;
            }
            let mut form = page.form();
            if form.has("login") {
                form = form.with("login", login).with("password", "any");
            }
            page = self.follow(self.submit(&form).await, stop).await;
        }
        panic!("the provider asks again and again:\n{}", page.body)
    }

    /// Confirms on the provider's logout page and returns the address that it sends the browser to then. For who is not
    /// signed in, the page is a form that a script submits.
    pub async fn sign_out_at(&self, url: &str) -> Url {
        let page = self.get(url).await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.body);
        let page = self.submit(&page.form().with("logout", "yes")).await;
        page.location()
            .unwrap_or_else(|| panic!("no redirect but {}:\n{}", page.status, page.body))
    }
}

impl Page {
    /// Where it redirects to, made absolute.
    pub fn location(&self) -> Option<Url> {
        let location = self.headers.get(header::LOCATION)?.to_str().ok()?;
        self.url.join(location).ok()
    }

    /// The first form of the page with its hidden and preset fields.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn form(&self) -> Form {
        let found = self
            .body
            .split_once("<form")
            .and_then(|(_, rest)| rest.split_once("</form>"));
        let (form, _) = found
            .unwrap_or_else(|| panic!("{} {} has no form:\n{}", self.status, self.url, self.body));
        let (open, inside) = form.split_once('>').expect("a form's tag ends");
        let action = attribute(open, "action").unwrap_or_default();
        let fields = inside
            .split("<input")
            .skip(1)
            .filter_map(|input| {
                let input = input.split('>').next()?;
                Some((
                    attribute(input, "name")?,
                    attribute(input, "value").unwrap_or_default(),
                ))
            })
            .collect();
        Form {
            action: self.url.join(&action).expect("a form's action is a URL"),
            fields,
        }
    }
}

impl Form {
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, _)| known == name)
    }

    /// Sets a field, or adds it as a button that was pressed does.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.retain(|(known, _)| known != name);
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Good for the pages of the provider under test, which write every attribute the same way.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    let (value, _) = rest.split_once('"')?;
    Some(
        value
            .replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&amp;", "&"),
    )
}

async fn page(request: reqwest::RequestBuilder) -> Page {
    let response = request.send().await.expect("an answer");
    let (url, status, headers) = (
        response.url().clone(),
        response.status(),
        response.headers().clone(),
    );
    let body = response.text().await.expect("a body");
    Page {
        url,
        status,
        headers,
        body,
    }
}
