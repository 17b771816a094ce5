//! The way to the provider's logout (RP-Initiated Logout sections 2 and 3): a URL, or a form where that would be too long.

use url::Url;

use super::request::Options;
use crate::config::LongUrl;
use crate::token::IdToken;

/// How the user leaves.
#[derive(Clone)]
pub(crate) enum Exit {
    /// To a URL: the provider's, or one of this app.
    To(String),
    /// By a form that submits itself (R5).
    Form {
        endpoint: Url,
        fields: Vec<(String, String)>,
    },
}

/// What the provider is told.
pub(crate) struct EndSession<'a> {
    pub(crate) endpoint: &'a Url,
    pub(crate) client_id: &'a str,
    pub(crate) hint: Option<&'a IdToken>,
    /// `post_logout_redirect_uri` and `state`.
    pub(crate) back: Option<(&'a str, &'a str)>,
    pub(crate) options: &'a Options,
}

/// The parameters that this crate sets.
const RESERVED: [&str; 6] = [
    "id_token_hint",
    "client_id",
    "post_logout_redirect_uri",
    "state",
    "logout_hint",
    "ui_locales",
];

impl EndSession<'_> {
    fn fields(&self, with_hint: bool) -> Vec<(String, String)> {
        let mut fields = Vec::new();
        let mut add = |name: &str, value: &str| fields.push((name.to_owned(), value.to_owned()));
        match self.hint {
            Some(hint) if with_hint => add("id_token_hint", hint.secret()),
            _ => add("client_id", self.client_id),
        }
        if let Some((uri, state)) = self.back {
            add("post_logout_redirect_uri", uri);
            add("state", state);
        }
        if let Some(hint) = &self.options.logout_hint {
            add("logout_hint", hint);
        }
        if let Some(locales) = &self.options.ui_locales {
            add("ui_locales", locales);
        }
        for (name, value) in &self.options.extra {
            if RESERVED.contains(&name.as_str()) {
                tracing::warn!(
                    name,
                    "a parameter of the end-session request is the crate's to set"
                );
            } else {
                add(name, value);
            }
        }
        fields
    }

    fn url(&self, with_hint: bool) -> Url {
        let mut url = self.endpoint.clone();
        // Appended: a query that the endpoint already carries survives.
        url.query_pairs_mut().extend_pairs(self.fields(with_hint));
        url
    }

    /// `can_post`: whether the client can be shown a form; a script that asked for JSON cannot.
    pub(crate) fn exit(&self, max_url: usize, long: LongUrl, can_post: bool) -> Exit {
        let url = self.url(true);
        if url.as_str().len() <= max_url {
            return Exit::To(url.into());
        }
        if long == LongUrl::FormPost && can_post {
            return Exit::Form {
                endpoint: self.endpoint.clone(),
                fields: self.fields(true),
            };
        }
        Exit::To(self.url(false).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACK: Option<(&str, &str)> = Some(("https://app/signout/callback", "st"));

    fn exit(endpoint: &str, hint: Option<&str>, options: &Options, long: LongUrl) -> String {
        let hint = hint.map(IdToken::new);
        let end_session = EndSession {
            endpoint: &endpoint.parse().unwrap(),
            client_id: "me",
            hint: hint.as_ref(),
            back: BACK,
            options,
        };
        match end_session.exit(200, long, true) {
            Exit::To(url) => url,
            Exit::Form { endpoint, fields } => format!("POST {endpoint} {}", fields[0].0),
        }
    }

    #[test]
    fn the_way_out() {
        let none = Options::default();
        let some = Options {
            logout_hint: Some("ann".into()),
            ui_locales: Some("de en".into()),
            extra: vec![("x".into(), "1".into()), ("state".into(), "forged".into())],
        };
        let long = "t".repeat(300);
        let back = "post_logout_redirect_uri=https%3A%2F%2Fapp%2Fsignout%2Fcallback&state=st";
        let post = LongUrl::FormPost;
        let rows = [
            (
                "R2: the ID token is the hint",
                exit("https://op/end", Some("h.p.s"), &none, post),
                format!("https://op/end?id_token_hint=h.p.s&{back}"),
            ),
            (
                "R2: without one, the client",
                exit("https://op/end", None, &none, post),
                format!("https://op/end?client_id=me&{back}"),
            ),
            (
                "R1: the endpoint's query survives",
                exit("https://op/end?p=b2c", None, &none, post),
                format!("https://op/end?p=b2c&client_id=me&{back}"),
            ),
            (
                "R4: options, but nothing reserved",
                exit("https://op/end", None, &some, post),
                format!("https://op/end?client_id=me&{back}&logout_hint=ann&ui_locales=de+en&x=1"),
            ),
            (
                "R5 A13: too long, a form",
                exit("https://op/end?p=1", Some(&long), &none, post),
                "POST https://op/end?p=1 id_token_hint".into(),
            ),
            (
                "R5 A13: too long, no hint",
                exit("https://op/end", Some(&long), &none, LongUrl::DropHint),
                format!("https://op/end?client_id=me&{back}"),
            ),
        ];
        for (name, found, expected) in rows {
            assert_eq!(found, expected, "{name}");
        }
    }
}
