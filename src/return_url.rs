//! Where a user may be sent: the app's base URL, the allowlist, and targets that passed it.
//!
//! A target is accepted if
//!
//! 1. it is a path on the app's own origin that begins with exactly one slash, or
//! 2. it is an absolute URL on an allowed origin, or
//! 3. it is one of the exact URLs allowed,
//!
//! each as the WHATWG URL standard reads it, which is how browsers do. What the standard forgives (backslashes for
//! slashes, tabs and line ends that vanish, missing slashes) is refused before it is parsed: no link that an app
//! made has it, and other parsers on the way read it otherwise.

use std::borrow::Cow;
use std::fmt;

use url::{Host, Url};

use crate::error::ConfigError;

/// Longest target that is accepted, in bytes, before and after it is normalised.
pub(crate) const MAX_TARGET: usize = 2048;

/// The app's public address: an origin and the path that the routes are mounted under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseUrl {
    /// The root of the origin.
    root: Url,
    origin: Box<str>,
    /// Empty, or a path that begins with a slash and does not end with one.
    prefix: Box<str>,
}

impl BaseUrl {
    /// `https`, or `http` on loopback; no user, query or fragment.
    pub(crate) fn parse(value: &str) -> Result<Self, ConfigError> {
        Self::parse_as("base URL", value)
    }

    /// The same, for another setting than the app's own.
    pub(crate) fn parse_as(what: &'static str, value: &str) -> Result<Self, ConfigError> {
        let invalid = |reason: &str| ConfigError::InvalidUrl {
            what,
            value: redact_userinfo(value),
            reason: reason.to_owned(),
        };
        if value
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || c == '\\')
        {
            return Err(invalid(
                "it contains white space, a control character or a backslash",
            ));
        }
        let url = Url::parse(value).map_err(|error| invalid(&error.to_string()))?;
        if !matches!(url.scheme(), "https" | "http") || authority(value).is_none() {
            return Err(invalid("it must begin with https://"));
        }
        if has_userinfo(value, &url) {
            return Err(invalid("it must not name a user"));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("it must not have a query or a fragment"));
        }
        let host = url.host_str().unwrap_or_default();
        if host.ends_with('.') {
            return Err(invalid("the host must not end with a dot"));
        }
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err(ConfigError::InsecureUrl {
                what,
                value: value.to_owned(),
            });
        }
        let prefix = url.path().trim_end_matches('/');
        if url.path().contains("//") || path_risk(url.path()).is_some() || prefix.contains('%') {
            return Err(invalid("the path must be plain segments"));
        }
        let mut root = url.clone();
        root.set_path("/");
        Ok(Self {
            origin: url.origin().ascii_serialization().into(),
            prefix: prefix.into(),
            root,
        })
    }

    /// Scheme, host and port, as a browser writes them in an `Origin` header.
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it is `https`.
    pub(crate) fn is_secure(&self) -> bool {
        self.root.scheme() == "https"
    }

    /// The path that the routes are mounted at, without a slash at its end; empty for none.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The whole URL of a route, whose path begins with a slash.
    pub(crate) fn join_mounted(&self, path: &str) -> String {
        format!("{}{}{path}", self.origin, self.prefix)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.prefix)
    }
}

/// What users may be sent to.
#[derive(Clone, Debug)]
pub(crate) struct Allowlist {
    root: Url,
    /// Besides the app's own.
    origins: Vec<url::Origin>,
    exact: Vec<Url>,
}

impl Allowlist {
    const WHAT: &'static str = "allowed redirect target";

    /// Paths on the app's own origin are always allowed. An entry is an origin (`https://other.example`, without a
    /// path) for everything on it, or one URL, of which everything must be equal; `https://other.example/` is that
    /// one page.
    pub(crate) fn new<T: AsRef<str>>(
        base: &BaseUrl,
        entries: impl IntoIterator<Item = T>,
    ) -> Result<Self, ConfigError> {
        let mut allowlist = Self {
            root: base.root.clone(),
            origins: Vec::new(),
            exact: Vec::new(),
        };
        for entry in entries {
            allowlist.add(entry.as_ref())?;
        }
        Ok(allowlist)
    }

    fn add(&mut self, entry: &str) -> Result<(), ConfigError> {
        if entry.starts_with('/') {
            return SafeTarget::from_config(Self::WHAT, entry, self).map(drop);
        }
        let invalid = |reason: &str| ConfigError::InvalidUrl {
            what: Self::WHAT,
            value: redact_userinfo(entry),
            reason: reason.to_owned(),
        };
        let url = absolute(entry).ok_or_else(|| {
            invalid("it must be a plain absolute https URL, an origin, or a path")
        })?;
        if url.scheme() == "http" && !is_loopback(&url) {
            return Err(ConfigError::InsecureUrl {
                what: Self::WHAT,
                value: entry.to_owned(),
            });
        }
        let is_origin = authority(entry).is_some_and(|(_, rest)| rest.is_empty());
        if is_origin {
            self.origins.push(url.origin());
        } else if target_text(&url, false).is_some() {
            self.exact.push(url);
        } else {
            return Err(invalid("its path could be read as another host"));
        }
        Ok(())
    }

    /// The normalised target, or `None` for one that is not allowed.
    pub(crate) fn check(&self, candidate: &str) -> Option<SafeTarget> {
        if candidate.len() > MAX_TARGET {
            return None;
        }
        let (url, is_path) = match candidate.strip_prefix('/') {
            Some(rest) if !is_plain(candidate) || rest.starts_with(['/', '\\']) => return None,
            Some(_) => (self.root.join(candidate).ok()?, true),
            None => (absolute(candidate)?, false),
        };
        let own = url.origin() == self.root.origin();
        // A path must not have led elsewhere, whatever the parser made of it.
        if is_path && !own {
            return None;
        }
        if own || self.origins.contains(&url.origin()) || self.exact.contains(&url) {
            target_text(&url, own).map(SafeTarget)
        } else {
            None
        }
    }
}

/// A place that passed the [`Allowlist`]: an absolute path on the app's origin or an absolute URL, in printable
/// ASCII, fit for a `Location` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SafeTarget(String);

impl SafeTarget {
    /// A target that is named in the configuration.
    pub(crate) fn from_config(
        what: &'static str,
        value: &str,
        allowlist: &Allowlist,
    ) -> Result<Self, ConfigError> {
        allowlist
            .check(value)
            .ok_or_else(|| ConfigError::UnsafeTarget {
                what,
                value: redact_userinfo(value),
            })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SafeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is sent to the browser: the path for the app's own origin, else the whole URL.
fn target_text(url: &Url, own: bool) -> Option<String> {
    if path_risk(url.path()).is_some() || splits_lines(&url[url::Position::AfterPath..]) {
        return None;
    }
    let text = if own {
        &url[url::Position::BeforePath..]
    } else {
        url.as_str()
    };
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    (printable && text.len() <= MAX_TARGET).then(|| text.to_owned())
}

/// Parses an absolute URL that leaves nothing to a parser's kindness.
pub(crate) fn absolute(text: &str) -> Option<Url> {
    let (authority, _) = authority(text)?;
    // An international name has to be given in the form that is sent: letters that look alike would deceive whoever
    // reads the configuration, and percent signs whoever reads the link.
    let plain_host = authority
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-.:[]_".contains(&byte));
    if !is_plain(text) || !plain_host {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let web = matches!(url.scheme(), "https" | "http") && !has_userinfo(text, &url);
    // A name with a dot at its end is another origin, with the same servers behind it.
    (web && !url.host_str()?.ends_with('.')).then_some(url)
}

/// Whether there are no control characters, no spaces around it, and no backslashes before the query.
pub(crate) fn is_plain(text: &str) -> bool {
    let path_end = text.find(['?', '#']).unwrap_or(text.len());
    !text.chars().any(char::is_control) && text.trim() == text && !text[..path_end].contains('\\')
}

/// Authority, and what follows it, of a text that begins with `http(s)://` and a host.
fn authority(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let end = rest.find(['/', '\\', '?', '#']).unwrap_or(rest.len());
    (end > 0).then(|| rest.split_at(end))
}

fn has_userinfo(text: &str, url: &Url) -> bool {
    !url.username().is_empty()
        || url.password().is_some()
        // The parser drops an empty one, as in `https://@host`.
        || authority(text).is_some_and(|(authority, _)| authority.contains('@'))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// A configuration error is shown and logged; a password in it must not be.
fn redact_userinfo(value: &str) -> String {
    match value.rsplit_once('@') {
        Some((before, after)) => {
            let scheme = before.find("://").map_or(0, |at| at + 3);
            format!("{}[redacted]@{after}", &before[..scheme])
        }
        None => value.to_owned(),
    }
}

/// Why a parsed path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathRisk {
    /// A line end, NUL or another control character, however often it is encoded.
    Control,
    /// To somebody who decodes it, it begins with two slashes.
    OtherHost,
    /// It is encoded more often than anybody has a reason to.
    Depth,
}

/// Looks at a path as proxies and frameworks might that decode it once more, take backslashes or letters that look
/// like slashes for slashes, and then resolve dots.
fn path_risk(path: &str) -> Option<PathRisk> {
    let mut seen = Cow::Borrowed(path.as_bytes());
    for _ in 0..4 {
        let text = String::from_utf8_lossy(&seen);
        if text.chars().any(char::is_control) {
            return Some(PathRisk::Control);
        }
        if begins_another_host(&text) {
            return Some(PathRisk::OtherHost);
        }
        match percent_decode(&seen) {
            Some(decoded) => seen = Cow::Owned(decoded),
            None => return None,
        }
    }
    Some(PathRisk::Depth)
}

fn begins_another_host(path: &str) -> bool {
    let mut resolved: Vec<&str> = Vec::new();
    let folded: String = path
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(fold)
        .collect();
    let folded = folded.strip_prefix('/').unwrap_or(&folded);
    for segment in folded.split('/') {
        match segment {
            "." => {}
            ".." => {
                resolved.pop();
            }
            other => resolved.push(other),
        }
    }
    resolved.len() > 1 && resolved[0].is_empty()
}

/// Characters that compatibility normalisation, or a careless eye, takes for a slash or a dot.
fn fold(c: char) -> char {
    match c {
        '\\' | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29f5}' | '\u{29f8}' | '\u{29f9}'
        | '\u{fe68}' | '\u{ff0f}' | '\u{ff3c}' => '/',
        '\u{2024}' | '\u{3002}' | '\u{fe52}' | '\u{ff0e}' | '\u{ff61}' => '.',
        c => c,
    }
}

/// `None` if there is nothing to decode.
pub(crate) fn percent_decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if let [b'%', high, low, ..] = bytes[at..]
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            decoded.push((high * 16 + low) as u8);
            at += 3;
            continue;
        }
        decoded.push(bytes[at]);
        at += 1;
    }
    (decoded.len() < bytes.len()).then_some(decoded)
}

/// Whether somebody who decodes query or fragment, once or twice, would get a line end or NUL into a header.
fn splits_lines(text: &str) -> bool {
    let mut seen = Cow::Borrowed(text.as_bytes());
    for _ in 0..2 {
        match percent_decode(&seen) {
            Some(decoded) => seen = Cow::Owned(decoded),
            None => return false,
        }
        if seen.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
