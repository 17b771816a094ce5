//! The demo's one page. `html!` escapes every value.

use std::time::Duration;

use axum_signout::clock::{Clock, SystemClock, Timestamp};
use axum_signout::{
    Account, Auth, Cause, HookStatus, ProviderOutcome, Revocation, SessionOutcome, SignInSummary,
    SignOutReport, SignedIn, TokenInfo,
};
use maud::{DOCTYPE, Markup, html};

use super::SCOPE_WITH_CONSENT;
use super::handlers::{AcquireResult, Notice};
use super::journal::{Evicted, Seen};

/// What the page shows.
pub struct View<'a> {
    pub auth: &'a Auth,
    pub accounts: &'a [SignedIn],
    /// The sign-ins of each of them, in this browser and in others.
    pub everywhere: &'a [Vec<SignInSummary>],
    /// Whether somebody left for the provider's logout and did not come back.
    pub unfinished: bool,
    /// What the app keeps in the session.
    pub note: Option<String>,
    pub notice: Option<Notice>,
    pub seen: Seen,
    pub token_lifetime: Duration,
}

/// The people whom the demo's provider knows.
const PEOPLE: [(&str, &str); 2] = [("alice", "Alice Adams"), ("bob", "Bob Brown")];

/// The buttons of an account: what they say, and the scopes that they ask for.
const SCOPES: [(&str, &str); 4] = [
    ("As at sign-in", ""),
    ("Mail.Read", "Mail.Read"),
    ("Calendar + Files", "Calendar.Read Files.Read"),
    (SCOPE_WITH_CONSENT, SCOPE_WITH_CONSENT),
];

pub fn name(account: &Account) -> String {
    account
        .name()
        .unwrap_or_else(|| account.subject().to_owned())
}

pub fn render(view: &View) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "axum-signout" }
                link rel="icon" href="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'><rect width='32' height='32' rx='9' fill='%234f46e5'/><path d='M13 9h-3v14h3M15 16h9m-4-4 4 4-4 4' fill='none' stroke='white' stroke-width='2.5' stroke-linecap='round' stroke-linejoin='round'/></svg>";
                link rel="stylesheet" href="/style.css";
                script src="/script.js" defer {}
            }
            body data-now=(millis(SystemClock::new().wall())) {
                (top_bar(view))
                @if view.accounts.is_empty() { (welcome(view)) }
                main {
                    @if !view.accounts.is_empty() {
                        section #accounts aria-label="Accounts" {
                            @if let Some(notice) = &view.notice { (notice_of(notice)) }
                            @for (account, sign_ins) in view.accounts.iter().zip(view.everywhere) { (account_card(view, account, sign_ins)) }
                            (add_account(view))
                        }
                    }
                    (evictions(&view.seen))
                    (last_report(view.seen.last_report.as_ref()))
                    (browser_data(view))
                }
                footer {
                    "Every sign-in of this process ends with it. "
                    a #provider href=(view.auth.providers()[0].issuer()) { "What the provider knows" }
                }
            }
        }
    }
}

fn top_bar(view: &View) -> Markup {
    let count = view.accounts.len();
    html! {
        header.bar {
            a.brand href="/" {
                span.mark aria-hidden="true" { "→" }
                "axum-signout"
            }
            span #status.pill.on[count > 0] {
                @match count {
                    0 => "Nobody is signed in",
                    1 => "1 account is signed in",
                    _ => { (count) " accounts are signed in" }
                }
            }
            @if count > 0 {
                form method="post" action=(view.auth.sign_out_url()) {
                    button #sign-out-all.danger { @if count > 1 { "Sign out of all" } @else { "Sign out" } }
                }
            }
        }
    }
}

fn welcome(view: &View) -> Markup {
    html! {
        section.welcome {
            h1 { "Sign in, watch the tokens, sign out." }
            p {
                "An app on 127.0.0.1, an OpenID provider on localhost, and between them a token cache that forgets "
                "everything it should, the moment it should. Who are you?"
            }
            @if view.unfinished {
                form #unfinished.notice.bad method="post" action="/finish" {
                    span { "You are signed out here, but the provider may still know you." }
                    button #finish { "Finish there" }
                }
            }
            div.people {
                @for (login, name) in PEOPLE {
                    a.person id={ "sign-in-" (login) } href=(view.auth.sign_in_url("/").login_hint(login)) {
                        (avatar(name))
                        span { strong { (name) } small { "Sign in at the provider" } }
                    }
                }
            }
        }
    }
}

fn avatar(name: &str) -> Markup {
    let initials = name.split(' ').filter_map(|word| word.chars().next());
    html! {
        span class={ "avatar hue-" (hue(name)) } aria-hidden="true" { (initials.take(2).collect::<String>()) }
    }
}

fn hue(name: &str) -> usize {
    name.bytes().map(usize::from).sum::<usize>() % 3
}

fn account_card(view: &View, one: &SignedIn, sign_ins: &[SignInSummary]) -> Markup {
    let account = &one.account;
    let (name, id) = (name(account), one.sign_in.to_string());
    html! {
        article.card.account data-subject=(account.subject()) {
            header {
                (avatar(&name))
                div.who {
                    h2 { (name) }
                    p {
                        (account.email().unwrap_or_default())
                        @for role in account.roles() { span.chip { (role) } }
                    }
                }
                form method="post" action=(view.auth.sign_out_url()) {
                    input type="hidden" name="sign_in" value=(id);
                    button id={ "sign-out-" (account.subject()) } { "Sign out" }
                }
            }
            h3 { "Access tokens" }
            ul.tokens {
                @for token in &one.access_tokens { (token_row(view, token)) }
            }
            form.acquire method="post" action="/acquire" {
                input type="hidden" name="sign_in" value=(id);
                span { "Acquire" }
                @for (label, scopes) in SCOPES {
                    button name="scopes" value=(scopes) { (label) }
                }
            }
            dl {
                div { dt { "Subject" } dd { code { (account.subject()) } } }
                div { dt { "Issuer" } dd { code { (account.issuer()) } } }
                @if let Some(sid) = account.sid() {
                    div { dt { "Session at the provider" } dd { code { (short(sid)) } } }
                }
                div {
                    dt { "Ends, if not used, in" }
                    dd { (countdown(one.expires)) }
                }
                div {
                    dt { "Refresh token" }
                    dd {
                        @if one.refreshable { "kept on the server" } @else { "none" }
                    }
                }
            }
            (sign_ins_of(view, one, sign_ins))
            form.quiet method="post" action="/break" {
                input type="hidden" name="sign_in" value=(id);
                button id={ "break-" (account.subject()) } { "Have the provider withdraw this grant" }
                " and the next refresh ends the sign-in."
            }
        }
    }
}

fn sign_ins_of(view: &View, one: &SignedIn, sign_ins: &[SignInSummary]) -> Markup {
    let (subject, id) = (one.account.subject(), one.sign_in.to_string());
    html! {
        h3 { "Sign-ins" }
        ul.sign-ins {
            @for each in sign_ins {
                li {
                    div {
                        strong { (each.label.as_deref().unwrap_or("A browser")) }
                        @if each.current { " " span.chip { "this browser" } }
                        small { "since " (clock_time(each.created)) " · last used " (clock_time(each.last_used)) }
                    }
                    @if !each.current {
                        form method="post" action="/sign-ins/end" {
                            input type="hidden" name="sign_in" value=(id);
                            button name="other" value=(each.id) { "End" }
                        }
                    }
                }
            }
        }
        div.actions {
            @if sign_ins.len() > 1 {
                form method="post" action="/sign-ins/end-others" {
                    input type="hidden" name="sign_in" value=(id);
                    button id={ "end-others-" (subject) } { "End the others" }
                }
            }
            form method="post" action=(view.auth.sign_out_url()) {
                input type="hidden" name="sign_in" value=(id);
                input type="hidden" name="everywhere" value="true";
                button id={ "everywhere-" (subject) } { "Sign out everywhere" }
            }
        }
    }
}

fn token_row(view: &View, token: &TokenInfo) -> Markup {
    html! {
        li.token {
            span.scopes {
                @for scope in &token.scopes { span.chip { (scope) } }
                @if let Some(resource) = &token.resource { span.chip.resource { (resource) } }
            }
            @if let Some(end) = token.expires {
                progress max=(view.token_lifetime.as_millis()) value="0" data-until=(millis(end)) aria-hidden="true" {}
                (countdown(end))
            }
        }
    }
}

fn add_account(view: &View) -> Markup {
    let missing = PEOPLE.iter().filter(|(login, _)| {
        let signed_in = |one: &SignedIn| one.account.subject() == *login;
        !view.accounts.iter().any(signed_in)
    });
    html! {
        @for (login, name) in missing {
            // Without `prompt` the provider would answer with the person whom it knows already.
            a.person.add id={ "add-" (login) } href=(view.auth.sign_in_url("/").login_hint(*login).prompt("login")) {
                (avatar(name))
                span { strong { "Add " (name) } small { "A second account in the same session" } }
            }
        }
    }
}

fn notice_of(notice: &Notice) -> Markup {
    let scopes = match notice.scopes.as_str() {
        "" => "the scopes of the sign-in",
        scopes => scopes,
    };
    html! {
        div #notice.notice.bad[!matches!(notice.result, AcquireResult::Token { .. })] role="status" {
            @match &notice.result {
                AcquireResult::Token { fingerprint, from_cache, took } => {
                    strong { @if *from_cache { "From the cache" } @else { "Fetched from the provider" } }
                    " in " (duration(*took)) ": token " code { (fingerprint) } " for " (scopes) " of " (notice.who) "."
                }
                AcquireResult::InteractionRequired => {
                    strong { "The provider wants to see " (notice.who) " first" }
                    ", before it issues a token for " (scopes) ". "
                    form action="/allow" {
                        input type="hidden" name="sign_in" value=(notice.sign_in);
                        button #allow name="scopes" value=(notice.scopes) { "Go there" }
                    }
                }
                AcquireResult::Failed(reason) => {
                    strong { "No token" } " for " (scopes) " of " (notice.who) ": " (reason) "."
                }
            }
        }
    }
}

fn evictions(seen: &Seen) -> Markup {
    html! {
        section.card {
            h2 { "Evictions" span #live.live { "live" } }
            p.hint { "Told by a hook, whenever tokens leave the cache." }
            ol #evictions {
                @for evicted in &seen.evictions { (eviction(evicted)) }
            }
            p.empty { "None yet." }
        }
    }
}

pub fn eviction(evicted: &Evicted) -> Markup {
    html! {
        li {
            span.cause { (evicted.cause) }
            (clock_time(evicted.at))
            p {
                strong { (evicted.name) } " " (because(evicted.cause)) ". "
                (count(evicted.tokens, "token")) " left the cache."
            }
            small { "correlation id " code { (short(&evicted.correlation_id)) } }
        }
    }
}

fn because(cause: Cause) -> &'static str {
    match cause {
        Cause::UserSignOut => "signed out here",
        Cause::SignOutOthers => "was signed out from another session",
        Cause::SignOutEverywhere => "signed out everywhere",
        Cause::Operator => "was signed out by an operator",
        Cause::FrontChannel | Cause::BackChannel => "was signed out by the provider",
        Cause::Idle => "was away for too long",
        Cause::Absolute => "was signed in for too long",
        Cause::RefreshRejected => "lost the provider's grant",
        Cause::Replaced => "signed in once more",
        Cause::Capacity => "made room for others",
        _ => "lost the session",
    }
}

fn last_report(report: Option<&SignOutReport>) -> Markup {
    html! {
        section.card #report {
            h2 { "The last sign-out" }
            p.hint { "Its " code { "SignOutReport" } ", as the app gets it." }
            @if let Some(report) = report {
                ul.steps {
                    @for evicted in &report.evicted {
                        (step(true, html! { strong { (evicted.subject) } ": " (count(evicted.tokens, "token")) " evicted" }))
                    }
                    @if report.pending > 0 {
                        (step(false, html! { (count(report.pending, "sign-in")) " still to be evicted" }))
                    }
                    (session_step(report.session))
                    @let failed = report.hooks.iter().filter(|hook| hook.status != HookStatus::Done).count();
                    (step(failed == 0, html! {
                        (count(report.hooks.len(), "hook")) " told"
                        @if failed > 0 { ", " (failed) " failed" }
                    }))
                    (revocation_step(report.revocation))
                    (provider_step(&report.provider))
                }
                small { "correlation id " code { (short(&report.correlation_id)) } }
            } @else {
                p.empty { "Nobody has signed out yet." }
            }
        }
    }
}

fn session_step(session: SessionOutcome) -> Markup {
    match session {
        SessionOutcome::Ended => step(true, html! { "Session ended, its cookie removed" }),
        SessionOutcome::Renewed => {
            step(true, html! { "Session renewed for the account that stays" })
        }
        SessionOutcome::AtNextRequest => {
            step(true, html! { "Other sessions end with their next request" })
        }
        SessionOutcome::NotDeleted => step(
            false,
            html! { "Cookie removed, the session's record is left and opens nothing" },
        ),
        _ => step(true, html! { "There was no session" }),
    }
}

fn revocation_step(revocation: Revocation) -> Markup {
    match revocation {
        Revocation::Queued(sign_ins) => step(
            true,
            html! { "Tokens of " (count(sign_ins, "sign-in")) " on their way to be revoked" },
        ),
        Revocation::NoEndpoint => step(false, html! { "The provider cannot revoke tokens" }),
        _ => step(true, html! { "Nothing to revoke" }),
    }
}

fn provider_step(provider: &ProviderOutcome) -> Markup {
    match provider {
        ProviderOutcome::Redirected { issuer } => step(
            true,
            html! { "Sent on to the logout of " code { (issuer) } },
        ),
        ProviderOutcome::NoEndpoint { issuer } => {
            step(false, html! { code { (issuer) } " has no logout" })
        }
        ProviderOutcome::Unavailable { issuer } => {
            step(false, html! { code { (issuer) } " could not be reached" })
        }
        _ => step(true, html! { "The provider was not asked" }),
    }
}

fn step(good: bool, what: Markup) -> Markup {
    html! {
        li.open[!good] { span aria-hidden="true" { @if good { "✓" } @else { "!" } } div { (what) } }
    }
}

fn browser_data(view: &View) -> Markup {
    let signed_in = view.accounts.last();
    html! {
        section.card #data data-account=[signed_in.map(|one| name(&one.account))] {
            h2 { "The app's own data" }
            p.hint { "In the session and in the browser; it leaves at sign-out." }
            dl {
                div { dt { "Session" } dd #note { (view.note.as_deref().unwrap_or("empty")) } }
                div { dt { "sessionStorage" } dd #session-storage { "empty" } }
                div { dt { "localStorage" } dd #local-storage { "empty" } }
            }
            @if signed_in.is_some() {
                form.note method="post" action="/note" {
                    input name="text" maxlength="80" required placeholder="A note for the session" aria-label="A note for the session";
                    button #keep-note { "Keep" }
                }
            }
        }
    }
}

/// Counted down by the script; without it, the time as it was when the page was made.
fn countdown(end: Timestamp) -> Markup {
    let left = end.since(SystemClock::new().wall()).as_secs();
    let (hours, minutes, seconds) = (left / 3600, left / 60 % 60, left % 60);
    html! {
        time.countdown data-until=(millis(end)) {
            @if hours > 0 { (format!("{hours}:{minutes:02}:{seconds:02}")) } @else { (format!("{minutes}:{seconds:02}")) }
        }
    }
}

/// In UTC, which the script replaces by the local time.
fn clock_time(at: Timestamp) -> Markup {
    let seconds = at.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    html! {
        time.clock data-at=(millis(at)) { (format!("{hours:02}:{minutes:02}:{seconds:02}")) " UTC" }
    }
}

fn millis(at: Timestamp) -> u64 {
    at.as_micros() / 1000
}

fn duration(took: Duration) -> String {
    match took.as_micros() {
        micros @ ..1000 => format!("{micros} µs"),
        micros => format!("{:.1} ms", micros as f64 / 1000.0),
    }
}

fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// Names that are long and random are told apart by how they begin.
fn short(text: &str) -> String {
    match text.char_indices().nth(10) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
