//! The one page of a node. `html!` escapes every value.

use axum_signout::{Auth, SignInSummary, SignedIn};
use maud::{DOCTYPE, Markup, html};

use super::handlers::{Noticed, State};

/// What the page shows.
pub struct View<'a> {
    pub auth: &'a Auth,
    pub state: &'a State,
    pub accounts: &'a [SignedIn],
    /// The sign-ins of each of them, in this browser and in others.
    pub everywhere: &'a [Vec<SignInSummary>],
    pub noticed: Option<Noticed>,
}

/// The people whom the example's provider knows.
const PEOPLE: [(&str, &str); 2] = [("alice", "Alice Adams"), ("bob", "Bob Brown")];

pub fn render(view: &View) -> Markup {
    let signed_in = !view.accounts.is_empty();
    let name = view.state.name;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Node " (name) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/style.css";
                script src="/script.js" defer {}
            }
            body data-node=(name) data-signed-in=(signed_in) data-status=(view.auth.status_url()) {
                header {
                    span.node { "Node " (name) }
                    a #other href=(view.state.other) target="_blank" { "Open the other node" }
                }
                main {
                    @if let Some(noticed) = view.noticed { (notice(noticed, signed_in)) }
                    @if signed_in {
                        @for (one, sign_ins) in view.accounts.iter().zip(view.everywhere) { (account(one, sign_ins)) }
                        (sign_out(view))
                    } @else {
                        (welcome(view))
                    }
                }
            }
        }
    }
}

fn notice(noticed: Noticed, signed_in: bool) -> Markup {
    html! {
        p #notice role="status" {
            @match (signed_in, noticed) {
                (true, _) => "Somebody signed in on the other node.",
                (false, Noticed::Told) => "The sign-in ended: this node told the page.",
                (false, Noticed::Asked) => "The sign-in ended: the page had asked.",
            }
        }
    }
}

fn welcome(view: &View) -> Markup {
    html! {
        h1 { "Nobody is signed in" }
        p.hint { "Sign in here, and look at the other node: it shares this one's sessions and tokens." }
        div.actions {
            @for (login, name) in PEOPLE {
                a.button id={ "sign-in-" (login) } href=(view.auth.sign_in_url("/").login_hint(login)) { "Sign in as " (name) }
            }
        }
    }
}

fn account(one: &SignedIn, sign_ins: &[SignInSummary]) -> Markup {
    let account = &one.account;
    html! {
        section data-subject=(account.subject()) {
            h1 { (account.name().as_deref().unwrap_or(account.subject())) " is signed in" }
            p.hint {
                (one.access_tokens.len()) " access tokens"
                @if one.refreshable { " and a refresh token" }
                ", read from Redis for this page"
            }
            ul {
                @for each in sign_ins {
                    li {
                        (each.label.as_deref().unwrap_or("A browser"))
                        @if each.current { " " span.chip { "this browser" } }
                    }
                }
            }
        }
    }
}

fn sign_out(view: &View) -> Markup {
    html! {
        div.actions {
            form method="post" action=(view.auth.sign_out_url()) {
                button #sign-out { "Sign out" }
            }
            form method="post" action=(view.auth.sign_out_url()) {
                button #sign-out-everywhere name="everywhere" value="true" { "Sign out in all browsers" }
            }
        }
        p.hint { "Then watch the page of the other node." }
    }
}
