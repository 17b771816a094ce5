//! Who may ask for a sign-out: the app's own pages, not other sites (R10).

use http::{HeaderMap, HeaderName, header};
use tower_http::csrf::CsrfLayer;
use url::Url;

use crate::error::ConfigError;
use crate::return_url::BaseUrl;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_PURPOSE: HeaderName = HeaderName::from_static("sec-purpose");
const PURPOSE: HeaderName = HeaderName::from_static("purpose");

/// For routes that act on POST: tower-http's protection, which also trusts the app's public origin, because a proxy may
/// have rewritten `Host`. It lets every GET pass: see [`same_origin_get`].
pub(crate) fn layer(base: &BaseUrl) -> Result<CsrfLayer, ConfigError> {
    CsrfLayer::new()
        .add_trusted_origin(base.origin())
        .map_err(|error| ConfigError::InvalidUrl {
            what: "base URL",
            value: base.to_string(),
            reason: error.to_string(),
        })
}

/// Whether a GET that changes something comes from the app's own pages, or from the user's own hand.
///
/// 1. A prefetch or prerender is refused: the user has not decided yet.
/// 2. `Sec-Fetch-Site: same-origin` passes, but for `no-cors`, which is an image or the like in the app's page,
///    perhaps put there by another user.
/// 3. `Sec-Fetch-Site: none`, the address bar or a bookmark, passes as a navigation.
/// 4. Without that header, `Origin` must be the app's, or where it is missing, the origin of `Referer`.
/// 5. Everything else is refused; so is a header that comes twice.
pub(crate) fn same_origin_get(headers: &HeaderMap, base: &BaseUrl) -> bool {
    if [SEC_PURPOSE, PURPOSE]
        .iter()
        .any(|name| is_speculative(headers, name))
    {
        return false;
    }
    let (Some(site), Some(mode), Some(origin), Some(referer)) = (
        single(headers, &SEC_FETCH_SITE),
        single(headers, &SEC_FETCH_MODE),
        single(headers, &header::ORIGIN),
        single(headers, &header::REFERER),
    ) else {
        return false;
    };
    // The values of the Fetch metadata are in lower case by their standard.
    match (site, mode) {
        (Given("same-origin"), Given("navigate" | "cors" | "same-origin")) => true,
        (Given("none"), Given("navigate")) => true,
        (Given(_), _) => false,
        (Absent, _) => match (origin, referer) {
            (Given(origin), _) => origin == base.origin(),
            (Absent, Given(referer)) => Url::parse(referer)
                .is_ok_and(|url| url.origin().ascii_serialization() == base.origin()),
            (Absent, Absent) => false,
        },
    }
}

#[derive(Clone, Copy)]
enum Header<'a> {
    Absent,
    Given(&'a str),
}
use Header::{Absent, Given};

/// `None` for one that comes twice or is not ASCII.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Header<'h>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Some(Absent),
        (Some(value), None) => value.to_str().ok().map(Given),
        (Some(_), Some(_)) => None,
    }
}

fn is_speculative(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(|value| {
        let value = value.as_bytes().to_ascii_lowercase();
        [&b"prefetch"[..], b"prerender", b"preview"]
            .iter()
            .any(|word| value.windows(word.len()).any(|part| part == *word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::routing::any;
    use http::HeaderValue;
    use tower::ServiceExt as _;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_static(value);
                (HeaderName::from_static(name), value)
            })
            .fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
    }

    fn base() -> BaseUrl {
        BaseUrl::parse("https://app.example.com/app").unwrap()
    }

    #[test]
    fn a_get_from_elsewhere_is_refused_r10() {
        const SITE: &str = "sec-fetch-site";
        const MODE: &str = "sec-fetch-mode";
        const OWN: &str = "https://app.example.com";
        type Row = (&'static str, &'static [(&'static str, &'static str)], bool);
        let rows: &[Row] = &[
            (
                "link of the own page",
                &[(SITE, "same-origin"), (MODE, "navigate")],
                true,
            ),
            (
                "script of the own page",
                &[(SITE, "same-origin"), (MODE, "cors")],
                true,
            ),
            (
                "script in same-origin mode",
                &[(SITE, "same-origin"), (MODE, "same-origin")],
                true,
            ),
            (
                "image of the own page",
                &[(SITE, "same-origin"), (MODE, "no-cors")],
                false,
            ),
            (
                "web socket",
                &[(SITE, "same-origin"), (MODE, "websocket")],
                false,
            ),
            ("no mode", &[(SITE, "same-origin")], false),
            ("typed", &[(SITE, "none"), (MODE, "navigate")], true),
            ("typed, no mode", &[(SITE, "none")], false),
            (
                "none, not a navigation",
                &[(SITE, "none"), (MODE, "cors")],
                false,
            ),
            (
                "none, an image",
                &[(SITE, "none"), (MODE, "no-cors")],
                false,
            ),
            (
                "sibling site",
                &[(SITE, "same-site"), (MODE, "navigate")],
                false,
            ),
            (
                "link of another site",
                &[(SITE, "cross-site"), (MODE, "navigate")],
                false,
            ),
            (
                "image of another site",
                &[(SITE, "cross-site"), (MODE, "no-cors")],
                false,
            ),
            (
                "another site says it is us",
                &[(SITE, "cross-site"), ("origin", OWN), ("referer", OWN)],
                false,
            ),
            (
                "capitals",
                &[(SITE, "Same-Origin"), (MODE, "navigate")],
                false,
            ),
            ("unknown", &[(SITE, "galaxy"), (MODE, "navigate")], false),
            (
                "empty",
                &[(SITE, ""), (MODE, "navigate"), ("origin", OWN)],
                false,
            ),
            (
                "site twice",
                &[
                    (SITE, "same-origin"),
                    (SITE, "cross-site"),
                    (MODE, "navigate"),
                ],
                false,
            ),
            (
                "mode twice",
                &[(SITE, "none"), (MODE, "navigate"), (MODE, "cors")],
                false,
            ),
            (
                "prefetch",
                &[
                    (SITE, "same-origin"),
                    (MODE, "navigate"),
                    ("sec-purpose", "prefetch"),
                ],
                false,
            ),
            (
                "prerender of what is typed",
                &[
                    (SITE, "none"),
                    (MODE, "navigate"),
                    ("sec-purpose", "prefetch;prerender"),
                ],
                false,
            ),
            (
                "prefetch, the older header",
                &[
                    (SITE, "same-origin"),
                    (MODE, "cors"),
                    ("purpose", "prefetch"),
                ],
                false,
            ),
            ("preview", &[("origin", OWN), ("purpose", "Preview")], false),
            ("old browser, origin", &[("origin", OWN)], true),
            (
                "old browser, other origin",
                &[("origin", "https://evil.example")],
                false,
            ),
            ("old browser, null", &[("origin", "null")], false),
            (
                "old browser, null and own referer",
                &[("origin", "null"), ("referer", OWN)],
                false,
            ),
            (
                "old browser, other scheme",
                &[("origin", "http://app.example.com")],
                false,
            ),
            (
                "old browser, other port",
                &[("origin", "https://app.example.com:8443")],
                false,
            ),
            (
                "old browser, longer host",
                &[("origin", "https://app.example.com.evil.example")],
                false,
            ),
            (
                "old browser, own origin twice",
                &[("origin", OWN), ("origin", OWN)],
                false,
            ),
            (
                "old browser, referer",
                &[("referer", "https://app.example.com/mail?a#b")],
                true,
            ),
            ("old browser, origin as referer", &[("referer", OWN)], true),
            (
                "old browser, referer with port",
                &[("referer", "https://app.example.com:443/")],
                true,
            ),
            (
                "old browser, other referer",
                &[("referer", "https://evil.example/https://app.example.com")],
                false,
            ),
            (
                "old browser, user in the referer",
                &[("referer", "https://app.example.com@evil.example/")],
                false,
            ),
            (
                "old browser, referer is a path",
                &[("referer", "/mail")],
                false,
            ),
            (
                "old browser, broken referer",
                &[("referer", "about:blank")],
                false,
            ),
            (
                "old browser, opaque referer",
                &[("referer", "data:text/html,x")],
                false,
            ),
            (
                "old browser, origins disagree",
                &[("origin", "https://evil.example"), ("referer", OWN)],
                false,
            ),
            ("mode alone", &[(MODE, "navigate")], false),
            ("nothing", &[], false),
            ("host does not count", &[("host", "app.example.com")], false),
        ];
        for (name, list, want) in rows {
            assert_eq!(same_origin_get(&headers(list), &base()), *want, "{name}");
        }
    }

    #[tokio::test]
    async fn a_post_from_elsewhere_is_refused_and_changes_nothing_r10() {
        type Row = (&'static str, &'static [(&'static str, &'static str)], u16);
        let rows: &[Row] = &[
            ("own page", &[("sec-fetch-site", "same-origin")], 200),
            ("another site", &[("sec-fetch-site", "cross-site")], 403),
            ("sibling site", &[("sec-fetch-site", "same-site")], 403),
            (
                "old browser",
                &[("origin", "https://app.example.com"), ("host", "10.0.0.1")],
                200,
            ),
            (
                "old browser, another site",
                &[
                    ("origin", "https://evil.example"),
                    ("host", "app.example.com"),
                ],
                403,
            ),
            (
                "old browser, null",
                &[("origin", "null"), ("host", "app.example.com")],
                403,
            ),
            ("no browser", &[("host", "app.example.com")], 200),
        ];
        let app = Router::new()
            .route("/", any(|| async {}))
            .layer(layer(&base()).unwrap());
        for (name, list, status) in rows {
            let mut request = Request::builder()
                .method("POST")
                .body(Body::empty())
                .unwrap();
            *request.headers_mut() = headers(list);
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), *status, "{name}");
        }
    }

    #[test]
    fn every_base_url_can_be_trusted() {
        for value in [
            "https://bücher.example:8443/x",
            "http://[::1]:3000",
            "http://localhost",
        ] {
            assert!(layer(&BaseUrl::parse(value).unwrap()).is_ok(), "{value}");
        }
    }
}
