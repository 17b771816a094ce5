//! What the demo calls a sign-in: browser, system and address, as far as a request tells.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;

/// Browsers name each other in their user agents, so the order matters.
const BROWSERS: [(&str, &str); 5] = [
    ("Edg/", "Edge"),
    ("Firefox/", "Firefox"),
    ("HeadlessChrome/", "Headless Chromium"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
];

const SYSTEMS: [(&str, &str); 5] = [
    ("Android", "Android"),
    ("iPhone", "an iPhone"),
    ("Windows", "Windows"),
    ("Mac OS", "a Mac"),
    ("Linux", "Linux"),
];

pub fn of(request: &Parts) -> Option<String> {
    let agent = request.headers.get(USER_AGENT)?.to_str().ok()?;
    let named = |names: &[(&str, &'static str)]| {
        let found = names.iter().find(|(mark, _)| agent.contains(mark));
        found.map(|(_, name)| *name)
    };
    let browser = named(&BROWSERS).unwrap_or("A browser");
    let system = named(&SYSTEMS).unwrap_or("some system");
    let from = request.extensions.get::<ConnectInfo<SocketAddr>>();
    let from = from.map(|ConnectInfo(from)| format!(" at {}", from.ip()));
    Some(format!("{browser} on {system}{}", from.unwrap_or_default()))
}
