//! Where an API's calls may go: its own origin, below its own path. Whatever a caller's text looks like, what decides is the parsed
//! URL, compared right before a token is put on.

use std::borrow::Cow;
use std::fmt;

use url::Url;

use crate::error::ConfigError;
use crate::return_url::{BaseUrl, absolute, is_plain, percent_decode};

/// The base URL of an API.
#[derive(Clone, Debug)]
pub(super) struct ApiOrigin {
    base: BaseUrl,
    root: Url,
}

impl ApiOrigin {
    const WHAT: &'static str = "API";

    pub(super) fn parse(value: &str) -> Result<Self, ConfigError> {
        let base = BaseUrl::parse_as(Self::WHAT, value)?;
        let root = Url::parse(base.origin()).map_err(|error| ConfigError::InvalidUrl {
            what: Self::WHAT,
            value: base.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Self { base, root })
    }

    pub(super) fn as_str(&self) -> &str {
        self.base.origin()
    }

    pub(super) fn is_secure(&self) -> bool {
        self.base.is_secure()
    }

    /// The URL of a path and query below the base URL, or of an absolute URL that is there already, such as the `next` link of
    /// a list.
    pub(super) fn join(&self, target: &str) -> Option<Url> {
        let url = match target.strip_prefix('/') {
            // It would not lead elsewhere from here, but who wrote it meant that it does.
            Some(rest) if !is_plain(target) || rest.starts_with('/') => return None,
            Some(_) => Url::parse(&self.base.join_mounted(target)).ok()?,
            None => absolute(target)?,
        };
        self.covers(&url).then_some(url)
    }

    /// Whether a token may go there: scheme, host and port are equal, nobody is named, and the path is not outside, nor for a server
    /// that decodes it.
    pub(super) fn covers(&self, url: &Url) -> bool {
        let path = url.path().strip_prefix(self.base.prefix());
        url.origin() == self.root.origin()
            && url.username().is_empty()
            && url.password().is_none()
            && path.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            && !climbs(url.path())
    }
}

/// Whether a parsed path has a segment `..` or `.` for a server that decodes once or twice before it routes, takes a backslash for
/// a slash, or cuts parameters off (`..;a=b`).
fn climbs(path: &str) -> bool {
    let has_dots = |bytes: &[u8]| {
        let mut segments = bytes.split(|byte| matches!(byte, b'/' | b'\\'));
        segments.any(|segment| {
            let name = segment.split(|byte| *byte == b';').next();
            matches!(name, Some(b".." | b"."))
        })
    };
    let mut seen = Cow::Borrowed(path.as_bytes());
    for _ in 0..2 {
        if has_dots(&seen) {
            return true;
        }
        match percent_decode(&seen) {
            Some(decoded) => seen = Cow::Owned(decoded),
            None => return false,
        }
    }
    has_dots(&seen)
}

impl fmt::Display for ApiOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.base.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api() -> ApiOrigin {
        ApiOrigin::parse("https://api.example.com/v1").unwrap()
    }

    #[test]
    fn paths_and_links_of_the_api_are_joined() {
        let rows = [
            ("a path", "/me", "/v1/me"),
            ("the base itself", "/", "/v1/"),
            ("a query", "/me?a=b&c=/d\\", "/v1/me?a=b&c=/d\\"),
            ("a space", "/Ann Lee", "/v1/Ann%20Lee"),
            ("a letter", "/Zoë", "/v1/Zo%C3%AB"),
            ("encoded data", "/keys/a%2Fb%0A", "/v1/keys/a%2Fb%0A"),
            ("dots within", "/a/../b", "/v1/b"),
            (
                "dots in names",
                "/..a/b../...;.%2f.c",
                "/v1/..a/b../...;.%2f.c",
            ),
            ("encoded dots in the query", "/me?a=..%2f", "/v1/me?a=..%2f"),
            (
                "a percent sign that encodes nothing",
                "/100%/%zz",
                "/v1/100%/%zz",
            ),
            (
                "an at sign in the path",
                "/users/ann@example.com",
                "/v1/users/ann@example.com",
            ),
            ("a colon in the path", "/me:mail", "/v1/me:mail"),
            (
                "a URL in the query",
                "/me?next=https://evil.example",
                "/v1/me?next=https://evil.example",
            ),
            ("slashes later", "/a//b", "/v1/a//b"),
            (
                "its link",
                "https://api.example.com/v1/me?page=2",
                "/v1/me?page=2",
            ),
            (
                "its link with the port",
                "https://api.example.com:443/v1/me",
                "/v1/me",
            ),
            (
                "its link in capitals",
                "HTTPS://API.example.com/v1/me",
                "/v1/me",
            ),
        ];
        for (name, target, expected) in rows {
            let url = api().join(target).expect(name);
            assert_eq!(url.origin(), api().root.origin(), "{name}");
            assert_eq!(&url[url::Position::BeforePath..], expected, "{name}");
        }
    }

    #[test]
    fn what_leads_elsewhere_is_refused_a1() {
        let rows = [
            ("empty", ""),
            ("relative", "me"),
            ("query only", "?a"),
            ("two slashes", "//evil.example/v1/me"),
            ("two slashes and own host", "//api.example.com/v1/me"),
            ("three slashes", "///evil.example"),
            ("backslash", "/\\evil.example"),
            ("backslashes", "\\\\evil.example"),
            ("backslash later", "/a\\..\\b"),
            ("tab", "/\t/evil.example"),
            ("line feed", "/\n/evil.example"),
            ("line end and a header", "/me\r\nHost: evil.example"),
            ("NUL", "/\0me"),
            ("space first", " /me"),
            ("another host", "https://evil.example/v1/me"),
            (
                "a host that begins alike",
                "https://api.example.com.evil.example/v1/me",
            ),
            (
                "a host that ends alike",
                "https://evilapi.example.com/v1/me",
            ),
            (
                "a user that looks like the host",
                "https://api.example.com@evil.example/v1/me",
            ),
            ("a user", "https://u:p@api.example.com/v1/me"),
            ("an empty user", "https://@api.example.com/v1/me"),
            ("plain http", "http://api.example.com/v1/me"),
            ("plain http at the port", "http://api.example.com:443/v1/me"),
            ("another port", "https://api.example.com:8443/v1/me"),
            (
                "a dot at the end of the host",
                "https://api.example.com./v1/me",
            ),
            ("another scheme", "ftp://api.example.com/v1/me"),
            ("file", "file:///etc/passwd"),
            ("no slashes", "https:api.example.com/v1/me"),
            (
                "backslashes after the scheme",
                "https:\\\\api.example.com/v1/me",
            ),
            ("a tab in the scheme", "ht\ttps://api.example.com/v1/me"),
            ("above the base", "/../admin"),
            ("above the base, encoded", "/%2e%2e/admin"),
            (
                "above the base, in a link",
                "https://api.example.com/v1/../admin",
            ),
            ("above the base, a slash encoded", "/..%2fadmin"),
            ("above the base, all encoded", "/%2e%2E%2Fadmin"),
            ("above the base, later", "/users/..%2f..%2fadmin"),
            ("above the base, encoded first", "/users%2f..%2f..%2fadmin"),
            ("above the base, a backslash encoded", "/..%5cadmin"),
            ("above the base, backslashes only", "/a%5C..%5c..%5Cadmin"),
            ("above the base, with a parameter", "/..;/admin"),
            ("above the base, its parameter encoded", "/..%3ba=b%2fadmin"),
            ("above the base, encoded twice", "/%252e%252e%252fadmin"),
            ("above the base, half encoded twice", "/.%252e/admin"),
            ("above the base, at the end", "/users%2f.."),
            (
                "above the base, encoded, in a link",
                "https://api.example.com/v1/..%2fadmin",
            ),
            ("one dot", "/a%2f.%2fb"),
            ("one dot with a parameter", "/.;/a"),
            ("beside the base", "https://api.example.com/v10/me"),
            ("the root", "https://api.example.com/"),
        ];
        for (name, target) in rows {
            assert_eq!(api().join(target), None, "{name}");
        }
    }

    /// Every text of up to five of these pieces.
    #[test]
    fn no_text_leads_to_another_origin_a1() {
        const PIECES: [&str; 17] = [
            "/",
            "\\",
            "..",
            ".",
            "@",
            ":",
            "?",
            "#",
            "%2f",
            "%5c",
            "%2e%2e",
            "\t",
            "\n",
            " ",
            "https://",
            "evil.example",
            "api.example.com",
        ];
        let api = api();
        let mut joined = 0;
        for n in 0..PIECES.len().pow(5) {
            let mut target = String::new();
            let mut rest = n;
            while rest > 0 {
                target.push_str(PIECES[rest % PIECES.len()]);
                rest /= PIECES.len();
            }
            let Some(url) = api.join(&target) else {
                continue;
            };
            joined += 1;
            let sent = url.as_str();
            assert!(
                sent.starts_with("https://api.example.com/v1"),
                "{target:?}: {sent}"
            );
            let after = sent.as_bytes().get("https://api.example.com/v1".len());
            assert!(
                matches!(after, None | Some(b'/' | b'?' | b'#')),
                "{target:?}: {sent}"
            );
            // What a gateway makes of it that decodes before it routes.
            let path = url.path().replace("%2e", ".");
            let path = path.replace("%2f", "/").replace("%5c", "/");
            let routed = api.root.join(&format!("/.{path}")).unwrap();
            assert!(
                routed.path() == "/v1" || routed.path().starts_with("/v1/"),
                "{target:?}: {routed}"
            );
        }
        assert!(joined > 1000, "{joined}");
    }

    #[test]
    fn a_base_url_is_checked() {
        let rows = [
            ("https://api.example.com", true),
            ("https://api.example.com/", true),
            ("https://api.example.com:8443/v1/", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]", true),
            ("http://localhost/api", true),
            ("http://api.example.com", false),
            ("https://user@api.example.com", false),
            ("https://api.example.com?a", false),
            ("https://api.example.com#a", false),
            ("https://api.example.com/a\\b", false),
            ("api.example.com", false),
            ("ftp://api.example.com", false),
            ("", false),
        ];
        for (base, fine) in rows {
            assert_eq!(ApiOrigin::parse(base).is_ok(), fine, "{base}");
        }
    }
}
