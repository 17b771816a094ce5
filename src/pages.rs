//! The small pages that stand in until the app supplies its own.
//!
//! Each is one document without outside parts. Its policy names its own style and script by hash, so nothing that
//! found its way into the text could run, and no other page may frame it. Values are escaped; what a provider or a
//! request said is shown nowhere but in [`error_page`]'s code (R38).

use std::fmt::{self, Write as _};

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode, header};
use url::Url;

use crate::id;
use crate::return_url::SafeTarget;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-items:center;\
font:1rem/1.5 system-ui,sans-serif;background:#f4f5f7;color:#1d2129}\
main{box-sizing:border-box;width:min(26rem,calc(100% - 2rem));padding:2rem;border-radius:.75rem;\
background:#fff;box-shadow:0 1px 3px #0003}\
h1{margin:0 0 .75rem;font-size:1.375rem;line-height:1.25}\
p{margin:0 0 1rem}p:last-child,form{margin:0}\
code{overflow-wrap:anywhere;padding:.1em .35em;border-radius:.25rem;background:#8882}\
a,button{display:inline-block;padding:.5rem 1rem;border:0;border-radius:.5rem;font:inherit;\
text-decoration:none;cursor:pointer;background:#1a56db;color:#fff}\
a:hover,button:hover{background:#1443ad}\
a:focus-visible,button:focus-visible{outline:3px solid #7aa7ff;outline-offset:2px}\
@media(prefers-color-scheme:dark){body{background:#14161a;color:#e6e8ec}\
main{background:#1f2228;box-shadow:none}}";

/// `form.submit()` would be the button, had the form a field of that name.
const SUBMIT: &str = "HTMLFormElement.prototype.submit.call(document.forms[0])";

/// Longest error code that is shown, in characters.
const MAX_CODE: usize = 128;

/// Sends the browser on to `target` by a navigation that begins on the app's own origin.
///
/// A redirect would belong to the navigation that came from the provider, and a `SameSite=Strict` session cookie is
/// not sent along with one of those.
pub(crate) fn handover(title: &str, target: &SafeTarget) -> Response {
    let target = Escaped(target.as_str());
    Page {
        head: &format!("<meta http-equiv=\"refresh\" content=\"0;url={target}\">"),
        ..Page::new(
            title,
            &format!("<p>One moment, please.</p><p><a href=\"{target}\">Continue</a></p>"),
        )
    }
    .response(StatusCode::OK)
}

/// A form that posts itself to `endpoint`, for what would make too long a URL (R5); a button where scripts are off.
pub(crate) fn form_post(endpoint: &Url, fields: &[(&str, &str)]) -> Response {
    let action = Escaped(endpoint.as_str());
    let mut body = format!("<p>One moment, please.</p><form method=\"post\" action=\"{action}\">");
    for (name, value) in fields {
        let (name, value) = (Escaped(name), Escaped(value));
        let _ = write!(
            body,
            "<input type=\"hidden\" name=\"{name}\" value=\"{value}\">"
        );
    }
    body.push_str("<button>Continue</button></form>");
    Page {
        script: Some(SUBMIT),
        // With `no-referrer` the form would be sent with `Origin: null`, which filters against forged requests refuse.
        referrer: "strict-origin",
        // Browsers apply `form-action` to the redirects that follow, too, and where those lead is the provider's choice.
        form_action: "",
        ..Page::new("Signing you out", &body)
    }
    .response(StatusCode::OK)
}

/// Says what went wrong, with the error code if there is one, and nothing else (R38).
pub(crate) fn error_page(status: StatusCode, title: &str, code: Option<&str>) -> Response {
    let body = match code {
        Some(code) => {
            let short: String = code.chars().take(MAX_CODE).collect();
            format!("<p>Error code: <code>{}</code></p>", Escaped(&short))
        }
        None => String::new(),
    };
    Page::new(title, &body).response(status)
}

/// The neutral end of a sign-out.
pub(crate) fn signed_out() -> Response {
    Page::new("You are signed out", "<p>You can close this page now.</p>").response(StatusCode::OK)
}

/// What the provider's logout page loads in a frame (R15): the same whatever it asked for. `ancestors` are origins, as sources
/// of the policy. There is no `X-Frame-Options`, which can name no origin.
pub(crate) fn framed(status: StatusCode, ancestors: &str) -> Response {
    let body = "<!doctype html><html lang=\"en\"><title>Signing out</title></html>";
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = format!("default-src 'none'; frame-ancestors {ancestors}");
    // The origins of URLs that were parsed are ASCII.
    let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(
        "default-src 'none'; frame-ancestors 'none'",
    ));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// For a navigation to a page that needs an account.
pub(crate) fn not_signed_in(sign_in_url: &str) -> Response {
    let link = Escaped(sign_in_url);
    let body =
        format!("<p>This page needs you to sign in.</p><p><a href=\"{link}\">Sign in</a></p>");
    Page::new("You are not signed in", &body).response(StatusCode::UNAUTHORIZED)
}

/// What is the same in all of them. `title` is text, `head` and `body` are HTML.
struct Page<'a> {
    title: &'a str,
    head: &'a str,
    body: &'a str,
    script: Option<&'a str>,
    referrer: &'static str,
    form_action: &'static str,
}

impl<'a> Page<'a> {
    fn new(title: &'a str, body: &'a str) -> Self {
        Self {
            title,
            head: "",
            body,
            script: None,
            referrer: "no-referrer",
            form_action: "; form-action 'none'",
        }
    }

    fn response(&self, status: StatusCode) -> Response {
        let mut policy = format!("default-src 'none'; style-src {}", source(STYLE));
        let mut script = String::new();
        if let Some(text) = self.script {
            let _ = write!(policy, "; script-src {}", source(text));
            let _ = write!(script, "<script>{text}</script>");
        }
        policy.push_str("; base-uri 'none'; frame-ancestors 'none'");
        policy.push_str(self.form_action);

        let title = Escaped(self.title);
        let (head, body) = (self.head, self.body);
        let html = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <meta name=\"robots\" content=\"noindex\">{head}\
             <title>{title}</title><style>{STYLE}</style></head>\
             <body><main><h1>{title}</h1>{body}</main>{script}</body></html>"
        );

        let mut response = Response::new(Body::from(html));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, self.referrer),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        // Constants and base64: always a valid value, and without a policy nothing may run or frame it all the same.
        let policy = HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        response
    }
}

/// A source expression of a Content Security Policy.
fn source(inline: &str) -> String {
    let hash = STANDARD.encode(id::sha256(inline.as_bytes()));
    format!("'sha256-{hash}'")
}

/// Text for an element or a quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // A parser would drop or replace it.
                '\0' => f.write_char('\u{fffd}')?,
                // As it is, a parser turns it into a line feed.
                '\r' => f.write_str("&#13;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::return_url::{Allowlist, BaseUrl};

    const NASTY: &str = "\"><script>alert(1)</script><a href='x'>&amp;\0\r\n";

    fn target(text: &str) -> SafeTarget {
        let base = BaseUrl::parse("https://app.example.com").unwrap();
        let allowlist = Allowlist::new(&base, ["https://other.example"]).unwrap();
        allowlist.check(text).unwrap()
    }

    fn end_session() -> Url {
        Url::parse("https://login.example.com/end?a=1&b='2'").unwrap()
    }

    fn pages() -> Vec<(&'static str, Response, u16)> {
        vec![
            (
                "handover",
                handover("You are signed in", &target("/mail?a=1&b='2'")),
                200,
            ),
            (
                "form post",
                form_post(&end_session(), &[("id_token_hint", "a.b.c")]),
                200,
            ),
            (
                "error",
                error_page(
                    StatusCode::BAD_REQUEST,
                    "Sign-in failed",
                    Some("access_denied"),
                ),
                400,
            ),
            (
                "error without a code",
                error_page(StatusCode::BAD_GATEWAY, "Sign-in failed", None),
                502,
            ),
            ("signed out", signed_out(), 200),
            (
                "not signed in",
                not_signed_in("/signin?return_to=%2Fmail&x=1"),
                401,
            ),
        ]
    }

    async fn html(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
        let rest = text.split_once(from)?.1;
        Some(rest.split_once(to)?.0)
    }

    #[tokio::test]
    async fn every_page_has_the_headers_r13() {
        for (name, response, status) in pages() {
            assert_eq!(response.status(), status, "{name}");
            let headers = response.headers();
            assert_eq!(headers[header::CACHE_CONTROL], "no-store", "{name}");
            assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{name}");
            assert_eq!(
                headers[header::CONTENT_TYPE],
                "text/html; charset=utf-8",
                "{name}"
            );
            let referrer = if name == "form post" {
                "strict-origin"
            } else {
                "no-referrer"
            };
            assert_eq!(headers[header::REFERRER_POLICY], referrer, "{name}");
            let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(policy.starts_with("default-src 'none'; "), "{name}");
            assert!(policy.contains("; frame-ancestors 'none'"), "{name}");
            assert!(policy.contains("; base-uri 'none'"), "{name}");
            assert!(!policy.contains("unsafe"), "{name}");
            assert_eq!(
                policy.contains("form-action"),
                name != "form post",
                "{name}"
            );
            assert_eq!(policy.contains("script-src"), name == "form post", "{name}");
        }
    }

    #[tokio::test]
    async fn the_policy_covers_what_is_inline_and_nothing_is_loaded() {
        for (name, response, _) in pages() {
            let policy = response.headers()[header::CONTENT_SECURITY_POLICY].clone();
            let policy = policy.to_str().unwrap();
            let html = html(response).await;
            let style = between(&html, "<style>", "</style>").unwrap();
            assert!(policy.contains(&source(style)), "{name}");
            if let Some(script) = between(&html, "<script>", "</script>") {
                assert!(policy.contains(&source(script)), "{name}");
            }
            for outside in [
                "src=", "<link", "<img", "@import", "url(", "style=", "onload=",
            ] {
                assert!(!html.contains(outside), "{name}: {outside}");
            }
        }
    }

    #[tokio::test]
    async fn every_page_is_accessible_and_small() {
        for (name, response, _) in pages() {
            let html = html(response).await;
            assert!(
                html.starts_with("<!doctype html><html lang=\"en\">"),
                "{name}"
            );
            assert_eq!(html.matches("<h1>").count(), 1, "{name}");
            assert_eq!(html.matches("<main>").count(), 1, "{name}");
            assert_eq!(
                between(&html, "<h1>", "</h1>"),
                between(&html, "<title>", "</title>"),
                "{name}"
            );
            assert!(html.contains("name=\"viewport\""), "{name}");
            assert!(html.len() < 4096, "{name}: {}", html.len());
        }
    }

    #[tokio::test]
    async fn the_handover_goes_to_the_target_with_and_without_help() {
        for (given, want) in [
            ("/mail?a=1&b=2", "/mail?a=1&amp;b=2"),
            ("/it's", "/it&#39;s"),
            ("/x;url=//evil", "/x;url=//evil"),
            ("https://other.example/a#b", "https://other.example/a#b"),
        ] {
            let html = html(handover("You are signed in", &target(given))).await;
            let refresh = format!("<meta http-equiv=\"refresh\" content=\"0;url={want}\">");
            assert!(html.contains(&refresh), "{html}");
            assert!(html.contains(&format!("<a href=\"{want}\">")), "{html}");
            assert!(!html.contains("<script"), "{html}");
        }
    }

    #[tokio::test]
    async fn the_form_carries_every_field_escaped_r5() {
        let fields = [
            ("id_token_hint", "a.b.c"),
            ("state", NASTY),
            ("submit", "x"),
            (NASTY, "y"),
        ];
        let html = html(form_post(&end_session(), &fields)).await;
        assert!(
            html.contains("action=\"https://login.example.com/end?a=1&amp;b=%272%27\""),
            "{html}"
        );
        assert!(html.contains("name=\"id_token_hint\" value=\"a.b.c\">"));
        assert!(html.contains("value=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(html.contains("<button>Continue</button>"));
        assert_eq!(html.matches("<script>").count(), 1);
        assert_eq!(html.matches("<input").count(), fields.len());
        // After the form, or there would be nothing to submit.
        assert!(html.find("</form>") < html.find("<script>"));
    }

    #[tokio::test]
    async fn an_error_names_the_code_escaped_and_short_r38() {
        let page = |code: &str| error_page(StatusCode::BAD_REQUEST, "Sign-in failed", Some(code));
        assert!(
            html(page("access_denied"))
                .await
                .contains("<code>access_denied</code>")
        );
        let nasty = html(page(NASTY)).await;
        assert!(
            !nasty.contains("<script") && !nasty.contains("<a "),
            "{nasty}"
        );
        let long = html(page(&"x".repeat(100_000))).await;
        assert!(long.len() < 4096);
        let title = html(error_page(StatusCode::BAD_REQUEST, NASTY, None)).await;
        assert!(!title.contains("<script"), "{title}");
    }

    #[tokio::test]
    async fn the_sign_in_link_is_escaped() {
        let html = html(not_signed_in(NASTY)).await;
        assert!(!html.contains("<script"), "{html}");
    }

    #[test]
    fn the_hash_is_the_one_that_browsers_compute() {
        // The example of the CSP specification, section 2.3.
        assert_eq!(
            source("alert('Hello, world.');"),
            "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"
        );
    }
}
