//! A browser's cookie jar (RFC 6265 and its successor draft).

use std::time::SystemTime;

use axum_extra::extract::cookie::{Cookie, Expiration, SameSite};
use url::{Host, Url};

/// What matters about a request for the choice of its cookies.
#[derive(Clone, Copy, Debug)]
pub(super) struct CookieContext {
    /// Initiator and redirects are of the target's site.
    pub(super) same_site: bool,
    /// A navigation of the whole window by GET or HEAD.
    pub(super) safe_navigation: bool,
    /// In a frame below a page of another site.
    pub(super) third_party: bool,
}

#[derive(Clone)]
struct Stored {
    name: String,
    value: String,
    domain: String,
    host_only: bool,
    path: String,
    secure: bool,
    http_only: bool,
    same_site: SameSite,
    expires: Option<i64>,
}

#[derive(Clone, Default)]
pub(super) struct Jar {
    cookies: Vec<Stored>,
}

impl Jar {
    /// Takes in a `Set-Cookie` header, unless a browser would refuse it.
    pub(super) fn store(&mut self, url: &Url, header: &str, context: CookieContext) {
        if let Some(cookie) = accept(url, header, context) {
            self.cookies.retain(|old| {
                old.name != cookie.name || old.domain != cookie.domain || old.path != cookie.path
            });
            if cookie.expires.is_none_or(|at| at > now()) {
                self.cookies.push(cookie);
            }
        }
    }

    /// The `Cookie` header for a request; those with the longest path first.
    pub(super) fn header(&self, url: &Url, context: CookieContext) -> Option<String> {
        let now = now();
        let mut cookies: Vec<_> = self
            .cookies
            .iter()
            .filter(|cookie| cookie.expires.is_none_or(|at| at > now))
            .filter(|cookie| cookie.matches(url))
            .filter(|cookie| {
                context.same_site
                    || match cookie.same_site {
                        SameSite::Strict => false,
                        SameSite::Lax => context.safe_navigation,
                        SameSite::None => true,
                    }
            })
            .collect();
        cookies.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<_> = cookies
            .iter()
            .map(|cookie| format!("{}={}", cookie.name, cookie.value))
            .collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    pub(super) fn get(&self, host: &str, name: &str) -> Option<&str> {
        let now = now();
        self.cookies
            .iter()
            .filter(|cookie| cookie.expires.is_none_or(|at| at > now))
            .find(|cookie| cookie.name == name && cookie.domain_matches(host))
            .map(|cookie| cookie.value.as_str())
    }

    pub(super) fn names(&self, host: &str) -> Vec<String> {
        let now = now();
        self.cookies
            .iter()
            .filter(|cookie| cookie.expires.is_none_or(|at| at > now))
            .filter(|cookie| cookie.domain_matches(host))
            .map(|cookie| cookie.name.clone())
            .collect()
    }

    pub(super) fn visible_to_scripts(&self, host: &str) -> Vec<String> {
        self.cookies
            .iter()
            .filter(|cookie| !cookie.http_only && cookie.domain_matches(host))
            .map(|cookie| cookie.name.clone())
            .collect()
    }

    /// What quitting the browser does.
    pub(super) fn end_session(&mut self) {
        self.cookies.retain(|cookie| cookie.expires.is_some());
    }

    pub(super) fn clear_host(&mut self, host: &str) {
        self.cookies.retain(|cookie| !cookie.domain_matches(host));
    }

    pub(super) fn clear_where(&mut self, such: impl Fn(&str) -> bool) {
        self.cookies.retain(|cookie| !such(&cookie.domain));
    }
}

impl Stored {
    fn domain_matches(&self, host: &str) -> bool {
        host == self.domain
            || (!self.host_only
                && host
                    .strip_suffix(&self.domain)
                    .is_some_and(|rest| rest.ends_with('.')))
    }

    fn matches(&self, url: &Url) -> bool {
        self.domain_matches(host(url))
            && path_matches(&self.path, url.path())
            && (!self.secure || trustworthy(url))
    }
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default()
}

/// Browsers treat loopback as secure, plain http or not.
pub(super) fn trustworthy(url: &Url) -> bool {
    url.scheme() == "https"
        || match url.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        }
}

fn path_matches(cookie: &str, request: &str) -> bool {
    request
        .strip_prefix(cookie)
        .is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

fn default_path(url: &Url) -> String {
    match url.path().rfind('/') {
        None | Some(0) => "/".to_owned(),
        Some(end) => url.path()[..end].to_owned(),
    }
}

fn accept(url: &Url, header: &str, context: CookieContext) -> Option<Stored> {
    let cookie = Cookie::parse(header.to_owned()).ok()?;
    let (domain, host_only) = match cookie.domain().filter(|domain| !domain.is_empty()) {
        None => (host(url).to_owned(), true),
        Some(domain) => {
            let domain = domain.to_ascii_lowercase();
            let covers = host(url)
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.ends_with('.'));
            if domain == host(url) {
                let address = !matches!(url.host(), Some(Host::Domain(_)));
                (domain, address)
            } else if covers && domain.contains('.') {
                (domain, false)
            } else {
                return None;
            }
        }
    };
    let path = match cookie.path() {
        Some(path) if path.starts_with('/') => path.to_owned(),
        _ => default_path(url),
    };
    let secure = cookie.secure().unwrap_or(false);
    let same_site = cookie.same_site().unwrap_or(SameSite::Lax);
    if secure && !trustworthy(url) || same_site == SameSite::None && !secure {
        return None;
    }
    // A frame or a script of another site can set none but these; a
    // navigation can set all.
    if same_site != SameSite::None && !context.same_site && context.third_party {
        return None;
    }
    let name = cookie.name();
    let prefixed = |prefix: &str| {
        name.get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if prefixed("__Secure-") && !secure {
        return None;
    }
    if prefixed("__Host-") && !(secure && cookie.path() == Some("/") && cookie.domain().is_none()) {
        return None;
    }
    let expires = match (cookie.max_age(), cookie.expires()) {
        (Some(age), _) => Some(now().saturating_add(age.whole_seconds())),
        (None, Some(Expiration::DateTime(at))) => Some(at.unix_timestamp()),
        _ => None,
    };
    Some(Stored {
        name: name.to_owned(),
        value: cookie.value().to_owned(),
        domain,
        host_only,
        path,
        secure,
        http_only: cookie.http_only().unwrap_or(false),
        same_site,
        expires,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAME_SITE: CookieContext = CookieContext {
        same_site: true,
        safe_navigation: true,
        third_party: false,
    };
    const LINK_FROM_ELSEWHERE: CookieContext = CookieContext {
        same_site: false,
        safe_navigation: true,
        third_party: false,
    };
    const POST_FROM_ELSEWHERE: CookieContext = CookieContext {
        same_site: false,
        safe_navigation: false,
        third_party: false,
    };

    fn sent(set_at: &str, header: &str, asked: &str, context: CookieContext) -> bool {
        let mut jar = Jar::default();
        jar.store(&Url::parse(set_at).unwrap(), header, SAME_SITE);
        jar.header(&Url::parse(asked).unwrap(), context).is_some()
    }

    #[test]
    fn cookies_go_where_browsers_send_them() {
        let rows = [
            (
                "other port",
                "http://127.0.0.1:1/",
                "a=1",
                "http://127.0.0.1:2/",
                true,
            ),
            (
                "other host",
                "http://127.0.0.1/",
                "a=1",
                "http://localhost/",
                false,
            ),
            (
                "host-only",
                "https://example.com/",
                "a=1",
                "https://sub.example.com/",
                false,
            ),
            (
                "domain",
                "https://example.com/",
                "a=1; Domain=example.com",
                "https://sub.example.com/",
                true,
            ),
            (
                "leading dot",
                "https://example.com/",
                "a=1; Domain=.example.com",
                "https://sub.example.com/",
                true,
            ),
            (
                "lookalike",
                "https://example.com/",
                "a=1; Domain=example.com",
                "https://badexample.com/",
                false,
            ),
            (
                "parent",
                "https://sub.example.com/",
                "a=1; Domain=example.com",
                "https://example.com/",
                true,
            ),
            (
                "top level",
                "https://example.com/",
                "a=1; Domain=com",
                "https://example.com/",
                false,
            ),
            (
                "foreign domain",
                "https://example.com/",
                "a=1; Domain=example.org",
                "https://example.org/",
                false,
            ),
            (
                "path",
                "http://localhost/",
                "a=1; Path=/app",
                "http://localhost/app/x",
                true,
            ),
            (
                "path is no prefix of a word",
                "http://localhost/",
                "a=1; Path=/app",
                "http://localhost/apple",
                false,
            ),
            (
                "default path",
                "http://localhost/a/b",
                "a=1",
                "http://localhost/a/c",
                true,
            ),
            (
                "default path elsewhere",
                "http://localhost/a/b",
                "a=1",
                "http://localhost/",
                false,
            ),
            (
                "secure on loopback",
                "http://localhost/",
                "a=1; Secure",
                "http://localhost/",
                true,
            ),
            (
                "secure over http",
                "http://example.com/",
                "a=1; Secure",
                "http://example.com/",
                false,
            ),
            (
                "secure from https to http",
                "https://example.com/",
                "a=1; Secure",
                "http://example.com/",
                false,
            ),
            (
                "None without Secure",
                "http://localhost/",
                "a=1; SameSite=None",
                "http://localhost/",
                false,
            ),
            (
                "__Host-",
                "http://localhost/",
                "__Host-a=1; Secure; Path=/",
                "http://localhost/",
                true,
            ),
            (
                "__Host- without Secure",
                "http://localhost/",
                "__Host-a=1; Path=/",
                "http://localhost/",
                false,
            ),
            (
                "__Host- without Path",
                "http://localhost/",
                "__Host-a=1; Secure",
                "http://localhost/",
                false,
            ),
            (
                "__Host- with Domain",
                "https://example.com/",
                "__Host-a=1; Secure; Path=/; Domain=example.com",
                "https://example.com/",
                false,
            ),
            (
                "expired",
                "http://localhost/",
                "a=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
                "http://localhost/",
                false,
            ),
            (
                "Max-Age wins",
                "http://localhost/",
                "a=1; Max-Age=60; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
                "http://localhost/",
                true,
            ),
            (
                "Max-Age=0",
                "http://localhost/",
                "a=1; Max-Age=0",
                "http://localhost/",
                false,
            ),
        ];
        for (row, set_at, header, asked, expected) in rows {
            assert_eq!(sent(set_at, header, asked, SAME_SITE), expected, "{row}");
        }
    }

    #[test]
    fn same_site_holds_cookies_back() {
        let url = "http://localhost/";
        let rows = [
            ("a=1; SameSite=Strict", false, false),
            ("a=1; SameSite=Lax", true, false),
            ("a=1", true, false),
            ("a=1; SameSite=None; Secure", true, true),
        ];
        for (header, link, post) in rows {
            assert_eq!(
                sent(url, header, url, LINK_FROM_ELSEWHERE),
                link,
                "{header}"
            );
            assert_eq!(
                sent(url, header, url, POST_FROM_ELSEWHERE),
                post,
                "{header}"
            );
        }
    }

    #[test]
    fn a_removal_without_secure_leaves_a_host_cookie_alone() {
        let url = Url::parse("http://localhost/").unwrap();
        let mut jar = Jar::default();
        jar.store(&url, "__Host-id=1; Secure; Path=/", SAME_SITE);
        jar.store(&url, "__Host-id=; Path=/; Max-Age=0", SAME_SITE);
        assert_eq!(jar.get("localhost", "__Host-id"), Some("1"));
        jar.store(&url, "__Host-id=; Secure; Path=/; Max-Age=0", SAME_SITE);
        assert_eq!(jar.get("localhost", "__Host-id"), None);
    }
}
