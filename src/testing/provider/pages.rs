//! The pages people see at the provider. They need no script.

use axum::{
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
};

use super::{
    config::TestUser,
    state::{AuthorizeRequest, Session},
};

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1f2a;--soft:#667085;--line:#e3e6ee;--card:#fff;--brand:#4f46e5}
@media (prefers-color-scheme:dark){:root{--ink:#eceef4;--soft:#9aa3b5;--line:#30364a;--card:#1c2130;--brand:#8b87ff}
body{background:#12151f!important}}
*{box-sizing:border-box}
body{margin:0;min-height:100vh;display:grid;place-items:center;padding:1.5rem;color:var(--ink);
font:16px/1.5 system-ui,sans-serif;background:linear-gradient(160deg,#eef0ff,#f7f8fc 45%,#eefaf6)}
main{width:100%;max-width:26rem;background:var(--card);border:1px solid var(--line);border-radius:18px;
padding:2rem;box-shadow:0 18px 50px -24px rgba(30,30,80,.45)}
.at{display:inline-block;font-size:.75rem;letter-spacing:.06em;text-transform:uppercase;color:var(--brand);font-weight:600}
h1{font-size:1.4rem;line-height:1.25;margin:.35rem 0 .5rem}
p{margin:.4rem 0;color:var(--soft)}
form{display:grid;gap:.7rem;margin-top:1.4rem}
button,.button{display:flex;align-items:center;justify-content:center;gap:.8rem;width:100%;padding:.75rem 1rem;font:inherit;
color:inherit;text-align:left;text-decoration:none;background:transparent;border:1px solid var(--line);border-radius:12px;cursor:pointer}
button:hover,button:focus-visible,.button:hover{border-color:var(--brand);outline:2px solid var(--brand);outline-offset:1px}
button.main,.button.main{background:var(--brand);border-color:var(--brand);color:#fff;font-weight:600}
button.person{justify-content:flex-start}
.face{flex:none;width:2.4rem;height:2.4rem;border-radius:50%;display:grid;place-items:center;background:var(--brand);color:#fff;font-weight:700}
small{display:block;color:var(--soft)}
ul{padding-left:1.2rem;color:var(--soft)}
code{font-size:.9em;overflow-wrap:anywhere}
iframe{display:none}";

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn page(status: StatusCode, locale: &str, title: &str, head: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html>\n<html lang=\"{}\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n{head}\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <span class=\"at\">Test provider</span>\n<h1>{}</h1>\n{body}\n</main>\n</body>\n</html>\n",
        escape(locale),
        escape(title),
        escape(title),
    );
    (status, [(header::CACHE_CONTROL, "no-store")], Html(html)).into_response()
}

pub(super) fn home(session: Option<&Session>) -> Response {
    let body = match session {
        Some(session) => {
            let clients: String = session
                .clients
                .iter()
                .map(|client| format!("<li><code>{}</code></li>", escape(client)))
                .collect();
            format!(
                "<p>Signed in as <strong id=\"subject\">{}</strong>, in session \
                 <code id=\"sid\">{}</code>.</p>\n<p>Apps of this session:</p>\n<ul>{clients}</ul>\n\
                 <form method=\"post\" action=\"/end_session\"><button id=\"sign-out\">Sign out here</button></form>",
                escape(&session.subject),
                escape(&session.sid),
            )
        }
        None => "<p id=\"nobody\">Nobody is signed in.</p>".to_owned(),
    };
    page(StatusCode::OK, "en", "Who is signed in", "", &body)
}

pub(super) fn login<'a>(
    interaction: &str,
    request: &AuthorizeRequest,
    users: impl Iterator<Item = &'a TestUser>,
) -> Response {
    let people: String = users
        .map(|user| {
            let name = user.display_name();
            let hint = request.login_hint.as_deref();
            let hinted = hint.is_some_and(|hint| user.is_hinted(hint));
            format!(
                "<button class=\"person\" id=\"login-{login}\" name=\"user\" value=\"{login}\"{focus}>\
                 <span class=\"face\">{initial}</span><span>{name}<small>{login}</small></span></button>\n",
                login = escape(&user.login),
                focus = if hinted { " autofocus" } else { "" },
                initial = escape(&name.chars().take(1).collect::<String>()),
                name = escape(name),
            )
        })
        .collect();
    let body = format!(
        "<p>to continue to <strong>{}</strong></p>\n\
         <form id=\"login\" method=\"post\" action=\"/login\">\n\
         <input type=\"hidden\" name=\"interaction\" value=\"{interaction}\">\n{people}</form>\n\
         <form id=\"cancel\" method=\"post\" action=\"/login\">\n\
         <input type=\"hidden\" name=\"interaction\" value=\"{interaction}\">\n\
         <button id=\"login-cancel\" name=\"cancel\" value=\"yes\">Cancel</button></form>",
        escape(&request.client_id),
    );
    page(StatusCode::OK, &request.locale, "Who are you?", "", &body)
}

pub(super) fn consent(interaction: &str, request: &AuthorizeRequest) -> Response {
    let scopes: String = request
        .scopes
        .iter()
        .map(|scope| format!("<li><code>{}</code></li>", escape(scope)))
        .collect();
    let body = format!(
        "<p><strong>{}</strong> asks for</p>\n<ul>{scopes}</ul>\n\
         <form id=\"consent\" method=\"post\" action=\"/consent\">\n\
         <input type=\"hidden\" name=\"interaction\" value=\"{interaction}\">\n\
         <button class=\"main\" id=\"consent-allow\" name=\"allow\" value=\"yes\">Allow</button>\n\
         <button id=\"consent-deny\" name=\"allow\" value=\"no\">Deny</button></form>",
        escape(&request.client_id),
    );
    page(StatusCode::OK, &request.locale, "Allow this?", "", &body)
}

pub(super) fn confirm_logout(ending: &str, subject: &str, locale: &str) -> Response {
    let body = format!(
        "<p>You are signed in as <strong>{}</strong>.</p>\n\
         <form id=\"logout\" method=\"post\" action=\"/end_session/confirm\">\n\
         <input type=\"hidden\" name=\"ending\" value=\"{}\">\n\
         <button class=\"main\" id=\"confirm-logout\" name=\"logout\" value=\"yes\">Yes, sign me out</button>\n\
         <button id=\"decline-logout\" name=\"logout\" value=\"no\">No, stay signed in</button></form>",
        escape(subject),
        escape(ending),
    );
    page(StatusCode::OK, locale, "Sign out everywhere?", "", &body)
}

/// What a browser sees when a session has ended: frames that tell the clients,
/// and the way on.
pub(super) fn signed_out(frames: &[String], target: Option<&str>) -> Response {
    let head = match target {
        // The frames are given a moment to load.
        Some(target) => format!(
            "<meta http-equiv=\"refresh\" content=\"2;url={}\">\n",
            escape(target)
        ),
        None => String::new(),
    };
    let mut body = String::from("<p id=\"signed-out\">Your session at the provider has ended.</p>");
    for frame in frames {
        body.push_str(&format!(
            "\n<iframe class=\"frontchannel\" src=\"{}\"></iframe>",
            escape(frame)
        ));
    }
    if let Some(target) = target {
        body.push_str(&format!(
            "\n<p><a class=\"button main\" id=\"continue\" href=\"{}\">Continue</a></p>",
            escape(target)
        ));
    }
    page(StatusCode::OK, "en", "Signed out", &head, &body)
}

pub(super) fn still_signed_in() -> Response {
    let body = "<p id=\"still-signed-in\">You are still signed in at the provider.</p>";
    page(StatusCode::OK, "en", "Nothing changed", "", body)
}

pub(super) fn error(message: &str) -> Response {
    let body = format!("<p id=\"error\">{}</p>", escape(message));
    page(
        StatusCode::BAD_REQUEST,
        "en",
        "This did not work",
        "",
        &body,
    )
}

/// `response_mode=form_post`: a form that submits itself, with a button for
/// browsers without scripts.
pub(super) fn form_post(action: &str, fields: &[(String, String)]) -> Response {
    let inputs: String = fields
        .iter()
        .map(|(name, value)| {
            format!(
                "<input type=\"hidden\" name=\"{}\" value=\"{}\">\n",
                escape(name),
                escape(value)
            )
        })
        .collect();
    let body = format!(
        "<form id=\"form-post\" method=\"post\" action=\"{}\">\n{inputs}\
         <button class=\"main\">Continue</button></form>\n\
         <script>document.getElementById('form-post').submit()</script>",
        escape(action)
    );
    page(StatusCode::OK, "en", "Back to the app", "", &body)
}
