//! Sealed cookies: what a sign-in or sign-out under way must remember.
//!
//! Not in the session, whose cookie may be `Strict` or planted, and not in the store, which strangers could fill.
//!
//! 1. Each is encrypted and authenticated by axum-extra's private jar, which binds the value to the cookie's name, and
//!    the name to purpose and tag.
//! 2. When it ends is part of what is sealed: a browser, or whoever copied the cookie, need not honour `Max-Age`.
//! 3. On https the name begins with `__Host-`, so no other host of the same site can plant one.
//! 4. A browser can hold [several](MAX_SIDE_BY_SIDE) for one purpose, one for each tab, told apart by their tags.

use std::fmt;
use std::time::Duration;

use axum::response::IntoResponse as _;
use axum_extra::extract::cookie::{Cookie, Key, PrivateCookieJar};
use http::{HeaderMap, HeaderValue, header};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::ConfigError;
use crate::id;

/// Most cookies of one purpose that a browser should hold.
pub(crate) const MAX_SIDE_BY_SIDE: usize = 4;

/// Longest `Set-Cookie` value: name, value and attributes, which is what browsers are bound to keep (RFC 6265,
/// section 6.1).
pub(crate) const MAX_COOKIE: usize = 4096;

/// Most cookies of one purpose that are looked at in a request.
const MAX_TRIED: usize = 32;

/// Seals and opens cookies.
#[derive(Clone)]
pub(crate) struct CookieVault {
    key: Key,
    secure: bool,
}

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    /// When it was sealed.
    c: Timestamp,
    /// When it ends.
    e: Timestamp,
    v: T,
}

/// One cookie of a request, by its tag.
struct Found<'a, T> {
    tag: &'a str,
    /// `None` if it does not open, or has ended.
    sealed: Option<Sealed<T>>,
}

impl CookieVault {
    /// `secure` says whether the app's base URL is https.
    pub(crate) fn new(key: Key, secure: bool) -> Self {
        Self { key, secure }
    }

    /// A key from a configured secret. It is hashed, so that the same secret may serve the app's own cookies.
    pub(crate) fn derive_key(secret: &[u8]) -> Result<Key, ConfigError> {
        if secret.len() < 32 {
            return Err(ConfigError::OutOfRange {
                what: "cookie key",
                value: format!("a secret of {} bytes", secret.len()),
                allowed: "at least 32 random bytes",
            });
        }
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&id::hash_parts("cookie:signing", &[secret]));
        bytes[32..].copy_from_slice(&id::hash_parts("cookie:encryption", &[secret]));
        Ok(Key::from(&bytes))
    }

    /// A `Set-Cookie` value that holds `value` for a while. Purpose and tag consist of ASCII letters, digits, `-`
    /// and `_`.
    pub(crate) fn seal<T: Serialize>(
        &self,
        purpose: &str,
        tag: &str,
        value: &T,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<HeaderValue, CookieError> {
        let name = self.name(purpose, tag).ok_or(CookieError::Name)?;
        let sealed = Sealed {
            c: now,
            e: now.plus(lifetime),
            v: value,
        };
        let text = serde_json::to_string(&sealed).map_err(|_| CookieError::Encode)?;
        // Parsed rather than built: the builder's `max_age` wants a type of a crate that is not ours to depend on.
        let mut cookie = Cookie::parse(self.attributes(&name, lifetime.as_secs()))
            .map_err(|_| CookieError::Name)?;
        cookie.set_value(text);
        let response = PrivateCookieJar::new(self.key.clone())
            .add(cookie)
            .into_response();
        match response.headers().get(header::SET_COOKIE) {
            Some(value) if value.len() <= MAX_COOKIE => Ok(value.clone()),
            Some(_) => Err(CookieError::TooLarge),
            None => Err(CookieError::Encode),
        }
    }

    /// What a cookie of the request holds; `None` if there is none, it was not sealed for this name by this key, it
    /// has ended, or does not fit the type.
    pub(crate) fn open<T: DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        purpose: &str,
        tag: &str,
        now: Timestamp,
    ) -> Option<T> {
        self.name(purpose, tag)?;
        self.find(headers, purpose, Some(tag), now)
            .into_iter()
            .find_map(|found| found.sealed)
            .map(|sealed| sealed.v)
    }

    /// All of one purpose, newest first, with their tags.
    pub(crate) fn open_all<T: DeserializeOwned>(
        &self,
        headers: &HeaderMap,
        purpose: &str,
        now: Timestamp,
    ) -> Vec<(String, T)> {
        self.newest_first(headers, purpose, now)
            .into_iter()
            .map(|(tag, sealed)| (tag.to_owned(), sealed.v))
            .collect()
    }

    /// The tags of cookies that should be expired when one more is about to be set: those that no longer open, and the
    /// oldest of too many. One that does not open never takes the place of one that does.
    pub(crate) fn to_expire(
        &self,
        headers: &HeaderMap,
        purpose: &str,
        now: Timestamp,
    ) -> Vec<String> {
        let alive = self.newest_first::<IgnoredAny>(headers, purpose, now);
        let mut tags: Vec<String> = Vec::new();
        for (tag, _) in alive.iter().skip(MAX_SIDE_BY_SIDE - 1) {
            tags.push((*tag).to_owned());
        }
        for found in self.find::<IgnoredAny>(headers, purpose, None, now) {
            let dead = !alive.iter().any(|(tag, _)| *tag == found.tag);
            if dead && !tags.iter().any(|tag| tag == found.tag) {
                tags.push(found.tag.to_owned());
            }
        }
        tags
    }

    /// A `Set-Cookie` value that removes one; `None` for a tag that no cookie can have.
    pub(crate) fn expire(&self, purpose: &str, tag: &str) -> Option<HeaderValue> {
        let name = self.name(purpose, tag)?;
        HeaderValue::from_str(&self.attributes(&name, 0)).ok()
    }

    fn newest_first<'h, T: DeserializeOwned>(
        &self,
        headers: &'h HeaderMap,
        purpose: &str,
        now: Timestamp,
    ) -> Vec<(&'h str, Sealed<T>)> {
        let mut all: Vec<(&str, Sealed<T>)> = Vec::new();
        for Found { tag, sealed } in self.find(headers, purpose, None, now) {
            if let Some(sealed) = sealed
                && !all.iter().any(|(have, _)| *have == tag)
            {
                all.push((tag, sealed));
            }
        }
        all.sort_by_key(|(_, sealed)| std::cmp::Reverse(sealed.c));
        all
    }

    fn find<'h, T: DeserializeOwned>(
        &self,
        headers: &'h HeaderMap,
        purpose: &str,
        tag: Option<&str>,
        now: Timestamp,
    ) -> Vec<Found<'h, T>> {
        let prefix = self.prefix(purpose);
        let jar = PrivateCookieJar::new(self.key.clone());
        // By bytes: one value that is not ASCII, of whatever app on this host, must not hide the others.
        let pairs = headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|byte| *byte == b';'))
            .filter_map(|pair| std::str::from_utf8(pair.trim_ascii()).ok());
        pairs
            .filter_map(|pair| {
                let (name, _) = pair.split_once('=')?;
                let found = name.strip_prefix(&*prefix)?;
                let wanted = tag.is_none_or(|tag| tag == found);
                (wanted && is_word(found)).then_some((found, pair))
            })
            .take(MAX_TRIED)
            .map(|(tag, pair)| {
                let opened = Cookie::parse_encoded(pair.to_owned())
                    .ok()
                    .and_then(|cookie| jar.decrypt(cookie));
                let sealed = opened
                    .and_then(|cookie| serde_json::from_str::<Sealed<T>>(cookie.value()).ok())
                    .filter(|sealed| now < sealed.e);
                Found { tag, sealed }
            })
            .collect()
    }

    fn attributes(&self, name: &str, max_age: u64) -> String {
        let secure = if self.secure { "; Secure" } else { "" };
        format!("{name}=; HttpOnly; SameSite=Lax{secure}; Path=/; Max-Age={max_age}")
    }

    fn name(&self, purpose: &str, tag: &str) -> Option<String> {
        (is_word(purpose) && is_word(tag)).then(|| self.prefix(purpose) + tag)
    }

    fn prefix(&self, purpose: &str) -> String {
        let host = if self.secure { "__Host-" } else { "" };
        format!("{host}axum-signout.{purpose}.")
    }
}

impl fmt::Debug for CookieVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CookieVault")
            .field("secure", &self.secure)
            .finish_non_exhaustive()
    }
}

/// Part of a cookie's name: without dots, so that no purpose and tag run into each other.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Why a cookie could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieError {
    /// Purpose or tag has a character that it must not have.
    Name,
    /// The value does not fit JSON.
    Encode,
    /// Browsers would drop it.
    TooLarge,
}

impl fmt::Display for CookieError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the cookie's name is not valid",
            Self::Encode => "the cookie's value cannot be encoded",
            Self::TooLarge => "the cookie would be larger than browsers keep",
        })
    }
}

impl std::error::Error for CookieError {}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pending {
        state: String,
        verifier: String,
    }

    fn pending(state: &str) -> Pending {
        Pending {
            state: state.to_owned(),
            verifier: "v\u{e9}rifier; \"=\r\n".to_owned(),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_secs(1_000_000)
    }

    fn vault() -> CookieVault {
        CookieVault::new(Key::from(&[7; 64]), true)
    }

    fn seal(vault: &CookieVault, tag: &str, at: Timestamp) -> HeaderValue {
        vault
            .seal("signin", tag, &pending(tag), MINUTE, at)
            .unwrap()
    }

    /// What a browser sends back.
    fn pair(set_cookie: &HeaderValue) -> String {
        let text = set_cookie.to_str().unwrap();
        text.split(';').next().unwrap().to_owned()
    }

    fn headers<T: AsRef<str>>(values: &[T]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::COOKIE, value.as_ref().parse().unwrap());
        }
        headers
    }

    fn tags(all: &[(String, Pending)]) -> Vec<&str> {
        all.iter().map(|(tag, _)| tag.as_str()).collect()
    }

    #[test]
    fn what_is_sealed_comes_back_and_cannot_be_read_on_the_way() {
        let vault = vault();
        let cookie = seal(&vault, "tab1", now());
        let text = cookie.to_str().unwrap();
        assert!(!text.contains("tab1%22") && !text.contains("state"));
        let headers = headers(&[pair(&cookie)]);
        let opened: Option<Pending> = vault.open(&headers, "signin", "tab1", now());
        assert_eq!(opened, Some(pending("tab1")));
        assert_ne!(cookie, seal(&vault, "tab1", now()), "a nonce of its own");
    }

    #[test]
    fn attributes_r40() {
        let secure = seal(&vault(), "t", now());
        let text = secure.to_str().unwrap();
        assert!(text.starts_with("__Host-axum-signout.signin.t="), "{text}");
        let attributes: Vec<_> = text.split("; ").skip(1).collect();
        assert_eq!(
            attributes,
            ["HttpOnly", "SameSite=Lax", "Secure", "Path=/", "Max-Age=60"]
        );
        let plain = CookieVault::new(Key::from(&[7; 64]), false);
        let cookie = seal(&plain, "t", now());
        let text = cookie.to_str().unwrap();
        assert!(text.starts_with("axum-signout.signin.t="), "{text}");
        let attributes: Vec<_> = text.split("; ").skip(1).collect();
        assert_eq!(
            attributes,
            ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=60"]
        );
    }

    #[test]
    fn removal() {
        assert_eq!(
            vault().expire("signin", "t").unwrap(),
            "__Host-axum-signout.signin.t=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0"
        );
        let plain = CookieVault::new(Key::from(&[7; 64]), false);
        assert_eq!(
            plain.expire("signout", "t").unwrap(),
            "axum-signout.signout.t=; HttpOnly; SameSite=Lax; Path=/; Max-Age=0"
        );
    }

    #[test]
    fn it_ends_when_its_seal_says_so_whatever_the_browser_does() {
        let vault = vault();
        let headers = headers(&[pair(&seal(&vault, "t", now()))]);
        let at = |offset: Duration| -> Option<Pending> {
            vault.open(&headers, "signin", "t", now().plus(offset))
        };
        assert!(at(Duration::ZERO).is_some());
        assert!(at(MINUTE - Duration::from_micros(1)).is_some());
        assert!(at(MINUTE).is_none());
        assert!(at(Duration::MAX).is_none());
        let all: Vec<(String, Pending)> = vault.open_all(&headers, "signin", now().plus(MINUTE));
        assert!(all.is_empty());
    }

    #[test]
    fn what_is_not_this_cookie_changes_nothing_r7() {
        let vault = vault();
        let good = pair(&seal(&vault, "t", now()));
        let value = good.split_once('=').unwrap().1.to_owned();
        let name = "__Host-axum-signout.signin.t";
        let other_key = CookieVault::new(Key::from(&[8; 64]), true);
        let plain = CookieVault::new(Key::from(&[7; 64]), false);
        let mut flipped = value.clone();
        let swap = if value.starts_with('A') { "B" } else { "A" };
        flipped.replace_range(..1, swap);
        let typed = vault.seal("signin", "t", &"text", MINUTE, now()).unwrap();
        let bare = PrivateCookieJar::new(Key::from(&[7; 64]))
            .add(Cookie::new(name, "{\"state\":\"x\",\"verifier\":\"y\"}"))
            .into_response();

        let rows = [
            ("nothing", String::new()),
            ("another cookie", "id=1".to_owned()),
            ("no equals sign", name.to_owned()),
            ("empty", format!("{name}=")),
            ("garbage", format!("{name}=garbage")),
            (
                "base64 garbage",
                format!("{name}=QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQQ=="),
            ),
            (
                "plain text",
                format!("{name}={{\"c\":0,\"e\":9999999999999999,\"v\":{{}}}}"),
            ),
            ("percent signs", format!("{name}=%%%00%ff")),
            ("very long", format!("{name}={}", "A".repeat(50_000))),
            ("a bit changed", format!("{name}={flipped}")),
            ("cut", format!("{name}={}", &value[..value.len() - 8])),
            ("longer", format!("{name}={value}AAAA")),
            (
                "another tag",
                format!("__Host-axum-signout.signin.u={value}"),
            ),
            (
                "another purpose",
                format!("__Host-axum-signout.signout.t={value}"),
            ),
            ("no prefix", format!("axum-signout.signin.t={value}")),
            (
                "prefix in capitals",
                format!("__HOST-axum-signout.signin.t={value}"),
            ),
            (
                "encoded name",
                format!("__Host%2Daxum-signout.signin.t={value}"),
            ),
            ("nameless", format!("={good}")),
            ("another key", pair(&seal(&other_key, "t", now()))),
            ("sealed for http", pair(&seal(&plain, "t", now()))),
            ("another type", pair(&typed)),
            (
                "sealed without an end",
                pair(&bare.headers()[header::SET_COOKIE]),
            ),
            ("expired", pair(&seal(&vault, "t", now().minus(MINUTE)))),
        ];
        for (row, planted) in rows {
            let alone = headers(&[&planted]);
            let opened: Option<Pending> = vault.open(&alone, "signin", "t", now());
            assert_eq!(opened, None, "{row}");
            for (order, both) in [
                ("before", format!("{planted}; {good}")),
                ("after", format!("{good}; {planted}")),
            ] {
                let opened: Option<Pending> = vault.open(&headers(&[both]), "signin", "t", now());
                assert_eq!(opened, Some(pending("t")), "{row} {order}");
            }
        }
    }

    #[test]
    fn a_cookie_opens_under_its_own_name_only() {
        let vault = vault();
        let good = pair(&seal(&vault, "t", now()));
        let value = good.split_once('=').unwrap().1;
        for (purpose, tag) in [("signin", "u"), ("signout", "t"), ("signin", "T")] {
            let name = vault.name(purpose, tag).unwrap();
            let headers = headers(&[format!("{name}={value}")]);
            let opened: Option<Pending> = vault.open(&headers, purpose, tag, now());
            assert_eq!(opened, None, "{purpose} {tag}");
        }
    }

    #[test]
    fn several_cookie_headers_and_foreign_bytes_are_read() {
        let vault = vault();
        let one = pair(&seal(&vault, "one", now()));
        let two = pair(&seal(&vault, "two", now().plus(MINUTE / 2)));
        let mut headers = headers(&["a=b", &one]);
        let mut mixed = b"x=\xff\xfe; y=\xc3\xa9;".to_vec();
        mixed.extend(two.as_bytes());
        headers.append(header::COOKIE, HeaderValue::from_bytes(&mixed).unwrap());
        let all: Vec<(String, Pending)> = vault.open_all(&headers, "signin", now());
        assert_eq!(tags(&all), ["two", "one"]);
        assert_eq!(all[1].1, pending("one"));
        let none: Vec<(String, Pending)> = vault.open_all(&headers, "signout", now());
        assert!(none.is_empty());
    }

    #[test]
    fn tabs_side_by_side_are_limited_and_the_oldest_leave() {
        let vault = vault();
        let cookies: Vec<String> = (0..6)
            .map(|n| {
                pair(&seal(
                    &vault,
                    &format!("t{n}"),
                    now().plus(Duration::from_secs(n)),
                ))
            })
            .collect();
        let later = now().plus(Duration::from_secs(6));
        for (count, want) in [
            (0, vec![]),
            (3, vec![]),
            (4, vec!["t0"]),
            (6, vec!["t2", "t1", "t0"]),
        ] {
            let headers = headers(&[cookies[..count].join("; ")]);
            assert_eq!(vault.to_expire(&headers, "signin", later), want, "{count}");
        }
    }

    #[test]
    fn dead_ones_are_cleared_away_and_never_push_out_live_ones() {
        let vault = vault();
        let alive = pair(&seal(&vault, "alive", now()));
        let ended = pair(&seal(&vault, "ended", now().minus(MINUTE)));
        let prefix = "__Host-axum-signout.signin.";
        let planted: Vec<String> = (0..5).map(|n| format!("{prefix}p{n}=x")).collect();
        let bad_names = format!(
            "{prefix}a.b=x; {prefix}=x; {prefix}\"=x; {prefix}{}=x",
            "l".repeat(65)
        );
        let shadow = format!("{prefix}alive=x");
        let headers = headers(&[planted.join("; "), ended, bad_names, shadow, alive]);
        assert_eq!(
            vault.to_expire(&headers, "signin", now()),
            ["p0", "p1", "p2", "p3", "p4", "ended"]
        );
        let many: Vec<String> = (0..500).map(|n| format!("{prefix}p{n}=x")).collect();
        let headers = self::headers(&[many.join("; ")]);
        assert_eq!(vault.to_expire(&headers, "signin", now()).len(), MAX_TRIED);
    }

    #[test]
    fn what_browsers_would_drop_is_an_error() {
        let vault = vault();
        let seal = |length: usize| vault.seal("p", "t", &"x".repeat(length), MINUTE, now());
        assert!(seal(2500).unwrap().len() <= MAX_COOKIE);
        assert_eq!(seal(4000).unwrap_err(), CookieError::TooLarge);
        assert_eq!(seal(1_000_000).unwrap_err(), CookieError::TooLarge);
    }

    #[test]
    fn names_have_no_other_characters() {
        let vault = vault();
        let long = "l".repeat(65);
        for word in [
            "", "a.b", "a b", "a;b", "a=b", "a\r\nb", "\u{e9}", "a/b", &long,
        ] {
            let sealed = vault.seal("p", word, &1, MINUTE, now());
            assert_eq!(sealed.unwrap_err(), CookieError::Name, "{word}");
            assert!(vault.seal(word, "t", &1, MINUTE, now()).is_err(), "{word}");
            assert!(vault.expire("p", word).is_none(), "{word}");
            let opened: Option<u8> = vault.open(&headers(&["a=b"]), "p", word, now());
            assert!(opened.is_none(), "{word}");
        }
    }

    #[test]
    fn a_key_comes_from_a_secret_that_is_long_enough() {
        assert!(CookieVault::derive_key(&[1; 31]).is_err());
        let one = CookieVault::new(CookieVault::derive_key(&[1; 32]).unwrap(), true);
        let same = CookieVault::new(CookieVault::derive_key(&[1; 32]).unwrap(), true);
        let other = CookieVault::new(CookieVault::derive_key(&[2; 32]).unwrap(), true);
        let headers = headers(&[pair(&seal(&one, "t", now()))]);
        assert!(
            same.open::<Pending>(&headers, "signin", "t", now())
                .is_some()
        );
        assert!(
            other
                .open::<Pending>(&headers, "signin", "t", now())
                .is_none()
        );
        assert!(!format!("{one:?}").contains("key"));
    }
}
