//! What a browser has received.

use std::{fmt, sync::Arc};

use axum::http::{HeaderMap, Method, StatusCode, header};
use url::Url;

use super::html::Document;

/// An answer that a [`TestBrowser`](super::TestBrowser) received. Cheap to clone.
#[derive(Clone)]
pub struct Page(pub(super) Arc<PageParts>);

pub(super) struct PageParts {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) request_headers: HeaderMap,
    pub(super) body: String,
}

impl Page {
    /// The method of the request.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.0.method
    }

    /// The URL of the request.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0.url
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The headers of the answer.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// One header of the answer, when it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.headers.get(name)?.to_str().ok()
    }

    /// The headers of the request, cookies included.
    #[must_use]
    pub fn request_headers(&self) -> &HeaderMap {
        &self.0.request_headers
    }

    /// The body; what is not UTF-8 is replaced.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.0.body
    }

    /// The body as JSON.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::from_str(self.body())
    }

    /// Where a redirect leads, resolved; `None` for an answer that is none.
    #[must_use]
    pub fn location(&self) -> Option<Url> {
        if !self.status().is_redirection() {
            return None;
        }
        self.url().join(self.header("location")?).ok()
    }

    /// A parameter of the URL's query.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        self.url()
            .query_pairs()
            .find(|(candidate, _)| candidate == name)
            .map(|(_, value)| value.into_owned())
    }

    /// Every `Set-Cookie` header of the answer.
    pub fn set_cookies(&self) -> impl Iterator<Item = &str> {
        self.0
            .headers
            .get_all(header::SET_COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
    }

    /// Whether the page has an element with this `id`.
    #[must_use]
    pub fn has_id(&self, id: &str) -> bool {
        self.document().ids.iter().any(|one| one == id)
    }

    pub(super) fn document(&self) -> Document {
        Document::parse(self.body())
    }
}

impl fmt::Debug for Page {
    /// Leaves out the query, the headers and the body, where secrets are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.url.clone();
        url.set_query(None);
        f.debug_struct("Page")
            .field("method", &self.0.method)
            .field("url", &url.as_str())
            .field("status", &self.0.status)
            .finish_non_exhaustive()
    }
}
