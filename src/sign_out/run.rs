//! One sign-out, from the first eviction to the way out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use futures_util::future::join_all;
use url::Url;

use super::interrupted::{UnderWay, resume, search};
use super::request::{Back, EndSessionRequest, Hint, Whom};
use super::rp_initiated::{EndSession, Exit};
use crate::cache::{Evicted, LateSignOut, Order, SignIn};
use crate::cause::Cause;
use crate::config::Config;
use crate::core::Core;
use crate::current::Current;
use crate::hooks::Navigation;
use crate::id::{AccountHash, Address, OperationId};
use crate::report::{ProviderOutcome, SessionOutcome, SignOutReport};
use crate::session::{AnySession, SessionData, SessionError};
use crate::store::Target;
use crate::token::IdToken;

/// What a sign-out came to.
#[derive(Clone)]
pub(crate) struct Outcome {
    pub(crate) report: SignOutReport,
    pub(crate) exit: Exit,
}

/// Which sign-ins of the session end, and which stay.
fn chosen(current: &Current, whom: &Whom) -> (Vec<SignIn>, Vec<SignIn>) {
    let all = current.sign_ins().unwrap_or_default();
    all.into_iter().partition(|sign_in| whom.names(sign_in))
}

/// Whether somebody has thrown the session out, which then has no say over the account's others. What the user did in this
/// session, or what ended by itself, takes that from nobody.
fn thrown_out(cause: Cause) -> bool {
    match cause {
        Cause::SignOutOthers
        | Cause::SignOutEverywhere
        | Cause::Operator
        | Cause::FrontChannel
        | Cause::BackChannel => true,
        Cause::UserSignOut
        | Cause::Idle
        | Cause::Absolute
        | Cause::RefreshRejected
        | Cause::Replaced
        | Cause::Capacity
        | Cause::SessionEnded => false,
    }
}

/// Whether a sign-in is one that was named, as far as its address tells.
fn meant(config: &Config, whom: &Whom, address: &Address) -> bool {
    match whom {
        Whom::All => true,
        Whom::Account(account) => address.account == account.hash(&config.identity),
        Whom::SignIn(id) => address.id == *id,
    }
}

/// The accounts that are signed out everywhere. One whose sign-in in this session has ended by itself while the request ran is
/// among them, for its others have not; and one that the store could not open, as far as it is known to be meant.
fn everywhere(current: &Current, whom: &Whom, unopened: &[Address]) -> BTreeSet<AccountHash> {
    let opened = current.opened().iter().filter(|one| whom.names(one));
    let opened = opened.filter(|one| !one.cause().is_some_and(thrown_out));
    let meant = |address: &&Address| meant(&current.core().config, whom, address);
    let opened = opened.map(|one| one.address().account);
    let unopened = unopened.iter().filter(meant);
    opened.chain(unopened.map(|one| one.account)).collect()
}

/// The issuers whose logout the user goes through, one after the other: the latest sign-in's first.
fn itinerary(ending: &[SignIn], named: Option<&str>) -> Vec<Arc<str>> {
    let mut issuers: Vec<Arc<str>> = Vec::new();
    for sign_in in ending.iter().rev() {
        let issuer: Arc<str> = sign_in.account().issuer().into();
        let wanted = named.is_none_or(|named| named == &*issuer);
        if wanted && !issuers.contains(&issuer) {
            issuers.push(issuer);
        }
    }
    issuers
}

/// Signs out. Runs in a task of its own, so that a client that disconnects does not stop it; what the response must carry
/// is left with the request.
pub(crate) async fn sign_out(
    current: &Current,
    headers: &HeaderMap,
    request: EndSessionRequest,
) -> Outcome {
    let correlation_id = request
        .correlation_id
        .clone()
        .unwrap_or_else(|| OperationId::random().to_string());
    let cause = request.cause();
    let here = Arc::new(());
    let task = {
        let (current, correlation_id) = (current.clone(), correlation_id.clone());
        let headers = headers.clone();
        let caller = Arc::downgrade(&here);
        let tasks = current.core().cache.tasks().clone();
        tasks.spawn(async move {
            let gone = || caller.strong_count() == 0 || current.effects().answered;
            run(&current, &headers, request, correlation_id, &gone).await
        })
    };
    let done = task.await;
    drop(here);
    match done {
        Ok(outcome) => outcome,
        Err(_) => {
            tracing::error!(correlation_id, "a sign-out was stopped halfway");
            // Whatever is left: the cookie must not survive.
            current.effects().signed_out = true;
            let mut report = SignOutReport::new(cause, correlation_id);
            if let Some(session) = current.session() {
                report.session = end_session(session).await;
            }
            current.core().cache.publish(&report);
            Outcome {
                report,
                exit: home(current.core()),
            }
        }
    }
}

/// Whole accounts, and of the others those of this session.
fn orders(
    accounts: &BTreeSet<AccountHash>,
    here: impl Iterator<Item = Address>,
    cause: Cause,
) -> Vec<Order> {
    let here = here.filter(|address| !accounts.contains(&address.account));
    let here = here.map(|address| Order::new(Target::SignIn(address), Cause::UserSignOut));
    let whole = accounts.iter();
    let whole = whole.map(|one| Order::new(Target::Account(*one), cause));
    whole.chain(here).collect()
}

/// What the same sign-out does with a session that is read later.
fn late(core: &Arc<Core>, request: &EndSessionRequest, correlation_id: &str) -> LateSignOut {
    // Not the whole: what is kept is kept in the core's cache.
    let config = core.config.clone();
    let (whom, everywhere, cause) = (request.whom.clone(), request.everywhere, request.cause());
    LateSignOut {
        cause,
        correlation_id: correlation_id.to_owned(),
        orders: Box::new(move |held| {
            let named = held.iter().filter(|one| meant(&config, &whom, one));
            let accounts = named.filter(|_| everywhere).map(|one| one.account);
            orders(&accounts.collect(), held.iter().copied(), cause)
        }),
    }
}

async fn run(
    current: &Current,
    headers: &HeaderMap,
    request: EndSessionRequest,
    correlation_id: String,
    nobody_hears: &(dyn Fn() -> bool + Sync),
) -> Outcome {
    let core = current.core().clone();
    if request.everywhere {
        // Another node may have ended them since.
        join_all(current.opened().iter().map(SignIn::goes_on)).await;
    }
    let (ending, staying) = chosen(current, &request.whom);
    let everything = staying.is_empty();
    // A5: what the store could not open is evicted as well, at the latest when the store is back. All of it, whoever was named:
    // the session ends as a whole, since it cannot be told whose each is.
    let unopened = unopened(current).await;
    let names = unopened.names();
    let accounts = match request.everywhere {
        true => everywhere(current, &request.whom, names),
        false => BTreeSet::new(),
    };
    let here = ending
        .iter()
        .map(SignIn::address)
        .chain(names.iter().copied());
    let orders = orders(&accounts, here, request.cause());

    let evicted = core.cache.evict(&orders, &correlation_id).await;
    let cause = request.cause();
    let mut report = core.cache.report(cause, &correlation_id, &evicted);
    // Before its record may be deleted.
    if let (Unopened::Unread, Some(id)) = (&unopened, current.session().and_then(AnySession::id)) {
        let late = late(&core, &request, &correlation_id);
        if let Some(retried) = core.cache.sign_out_later(id, late) {
            report.pending += 1;
            report.not_retried += usize::from(!retried);
        }
    }
    report.session = match current.session() {
        None => SessionOutcome::None,
        // Nothing is there that could end: a stranger's request is not the session store's business.
        Some(session) if !session.has_cookie() && !session.is_modified() => SessionOutcome::None,
        Some(session) if everything => match (end_session(session).await, &unopened) {
            (SessionOutcome::NotDeleted, Unopened::Garbage) => SessionOutcome::Unread,
            // Though it may be deleted: the store was back a moment too late.
            (_, Unopened::Unread) => SessionOutcome::Unread,
            (outcome, _) => outcome,
        },
        Some(_) if ending.is_empty() => SessionOutcome::None,
        // Nobody would get the new session's cookie. The next request finds what has ended, and renews the session then.
        Some(_) if nobody_hears() => SessionOutcome::AtNextRequest,
        Some(session) => renew_session(&core, session, &staying).await,
    };
    // A request that names nobody who is here changes nothing, in the browser neither.
    current.effects().signed_out = everything || !ending.is_empty();
    report.hooks = core.cache.tell(&evicted.evictions).await;
    let hints = hints(&ending, &evicted);

    let exit = way_out(current, headers, &request, &ending, &hints, &mut report).await;
    if report.session == SessionOutcome::Renewed && nobody_hears() {
        // The accounts that stay are under keys that nobody gets.
        for one in &staying {
            let order = Order::new(Target::SignIn(one.address()), Cause::SessionEnded);
            core.cache.evict_quietly(order).await;
        }
        report.session = SessionOutcome::Ended;
    }
    core.cache.publish(&report);
    Outcome { report, exit }
}

/// What the session names although it could not be opened.
enum Unopened {
    Names(Vec<Address>),
    /// Nobody will ever read it.
    Garbage,
    /// Not even now.
    Unread,
}

impl Unopened {
    fn names(&self) -> &[Address] {
        match self {
            Self::Names(names) => names,
            Self::Garbage | Self::Unread => &[],
        }
    }
}

async fn unopened(current: &Current) -> Unopened {
    if current.sign_ins().is_ok() || !current.unopened().is_empty() {
        return Unopened::Names(current.unopened().to_vec());
    }
    let Some(session) = current.session() else {
        return Unopened::Unread;
    };
    // By an earlier sign-out, which could not either.
    if let Some(id) = session.id()
        && current.core().cache.catch_up(id).await.is_err()
    {
        return Unopened::Unread;
    }
    match tokio::time::timeout(SESSION_STORE_WAIT, session.sign_ins()).await {
        Ok(Ok(held)) => {
            let names = held.sign_ins().iter().map(|one| one.address);
            Unopened::Names(names.collect())
        }
        Ok(Err(error)) if error.is_garbage() => Unopened::Garbage,
        Ok(Err(_)) | Err(_) => Unopened::Unread,
    }
}

/// The ID tokens of those that end, the latest first: as they left the store, where that is known, since another request may
/// have refreshed them.
fn hints(ending: &[SignIn], evicted: &Evicted) -> Vec<(Arc<str>, Option<IdToken>)> {
    let of = |one: &SignIn| {
        let left = evicted
            .evictions
            .iter()
            .find(|eviction| eviction.sign_in() == one.address().id);
        let id_token = match left {
            Some(eviction) => eviction.tokens().id_token().cloned(),
            None => one.entry().tokens.id_token().cloned(),
        };
        (one.account().issuer().into(), id_token)
    };
    ending.iter().rev().map(of).collect()
}

/// How long a sign-out waits for the session store to delete a record: what is on the record is dead by then, and the
/// cookie goes in any case.
const SESSION_STORE_WAIT: Duration = Duration::from_secs(5);

pub(crate) async fn end_session(session: &AnySession) -> SessionOutcome {
    match tokio::time::timeout(SESSION_STORE_WAIT, session.end()).await {
        Ok(Ok(())) => return SessionOutcome::Ended,
        Ok(Err(error)) => tracing::warn!(%error, "a session's record stays in the session store"),
        Err(_) => {
            tracing::warn!("the session store does not say whether a session's record is gone")
        }
    }
    SessionOutcome::NotDeleted
}

/// The accounts that stay move to a new session under new keys: the old record may hold what the account that left had put
/// there, and a racing save of it must hold dead keys only.
pub(crate) async fn renew_session(
    core: &Core,
    session: &AnySession,
    staying: &[SignIn],
) -> SessionOutcome {
    let Ok(held) = session.sign_ins().await else {
        return end_session(session).await;
    };
    let mut renewed = SessionData::default();
    for locator in held.into_sign_ins() {
        if !staying.iter().any(|one| one.address() == locator.address) {
            continue;
        }
        match core.cache.rekey(&locator).await {
            Ok(Some(locator)) => drop(renewed.push(locator)),
            Ok(None) => {}
            // No session will name it, under whichever key.
            Err(error) => {
                tracing::error!(%error, "a sign-in could not be kept");
                let target = Target::SignIn(locator.address);
                let order = Order::new(target, Cause::SessionEnded);
                core.cache.evict_quietly(order).await;
            }
        }
    }
    let ended = end_session(session).await;
    if renewed.is_empty() {
        return ended;
    }
    if let Err(error) = move_in(session, &renewed).await {
        tracing::error!(%error, "the session of the accounts that stay could not be saved");
        end_session(session).await;
        return SessionOutcome::NotDeleted;
    }
    SessionOutcome::Renewed
}

/// Saved at once: the session layer saves nothing on a server error, and the old keys are dead by now.
async fn move_in(session: &AnySession, held: &SessionData) -> Result<(), SessionError> {
    session.set_sign_ins(held).await?;
    session.save().await
}

/// R8: to the provider's logout once more; `None` if no sign-out is unfinished. All else was done when it began, so this says
/// where the provider stands and nothing more.
pub(crate) async fn finish(current: &Current, headers: &HeaderMap) -> Option<Outcome> {
    let resumed = resume(current, headers, None).await?;
    let mut report = SignOutReport::new(Cause::UserSignOut, resumed.correlation_id);
    report.provider = resumed.provider;
    current.core().cache.publish(&report);
    let exit = resumed.exit.unwrap_or_else(|| home(current.core()));
    Some(Outcome { report, exit })
}

/// R8: the same for a request that may come for nothing, which then ends where a sign-out does.
pub(crate) async fn go_on(current: &Current, headers: &HeaderMap) -> Exit {
    match finish(current, headers).await {
        Some(outcome) => outcome.exit,
        None => home(current.core()),
    }
}

/// Where a sign-out ends that does not go through the provider.
fn home(core: &Core) -> Exit {
    match &core.after_sign_out {
        Some(target) => Exit::To(target.as_str().to_owned()),
        // Without a state, the callback shows the neutral page.
        None => Exit::To(core.url(&core.config.paths.sign_out_callback)),
    }
}

async fn way_out(
    current: &Current,
    headers: &HeaderMap,
    request: &EndSessionRequest,
    ending: &[SignIn],
    hints: &[(Arc<str>, Option<IdToken>)],
    report: &mut SignOutReport,
) -> Exit {
    let core = current.core();
    let wanted = match &request.back {
        Back::To(target) => {
            let allowed = core.allowed.check(target);
            if allowed.is_none() {
                tracing::warn!("a place to go after sign-out is not allowed and was left out");
            }
            allowed.or_else(|| core.after_sign_out.clone())
        }
        Back::Configured | Back::Nowhere => core.after_sign_out.clone(),
    };
    let here = match &wanted {
        Some(target) => Exit::To(target.as_str().to_owned()),
        None => home(core),
    };
    let mut issuers = itinerary(ending, request.issuer.as_deref());
    if issuers.is_empty() && current.sign_ins().is_err() {
        // Nobody could be asked who was signed in; the first provider is the best guess.
        issuers.extend(core.cache.providers().first().map(|p| p.issuer().into()));
    }
    if request.local_only {
        return here;
    }
    if issuers.is_empty() {
        // A second click, or somebody who thought better of it: the provider's session may still be there.
        let nobody = current.opened().is_empty() && request.is_plain();
        return match nobody {
            true => match resume(current, headers, wanted.as_ref()).await {
                Some(resumed) => {
                    report.provider = resumed.provider;
                    resumed.exit.unwrap_or(here)
                }
                None => here,
            },
            false => here,
        };
    }
    let mut search = search(core, &issuers).await;
    let Some(found) = search.found.take() else {
        if let Some(outcome) = search.outcome() {
            report.provider = outcome;
        }
        if !search.away.is_empty() {
            // The session there goes on, and must not sign anybody in again unasked (R8).
            let under_way = UnderWay::new(core, wanted.as_ref(), request, report);
            under_way.keep_until_back(current, search.away);
        }
        return here;
    };
    let stored = hints.iter().find(|(of, _)| *of == found.issuer);
    let hint = match &request.hint {
        Hint::Stored => stored.and_then(|(_, token)| token.as_ref()),
        Hint::Given(token) => Some(token),
        Hint::None => None,
    };
    let uri = core.url(&core.config.paths.sign_out_callback);
    let state = crate::id::random_text();
    let back = !matches!(request.back, Back::Nowhere);
    let end_session = EndSession {
        endpoint: &found.endpoint,
        client_id: found.provider.client_id(),
        hint,
        back: back.then_some((uri.as_str(), state.as_str())),
        options: &request.options,
    };
    let asks = current.asks();
    let can_post = !asks.json && !asks.htmx;
    let exit = end_session.exit(core.config.max_url, core.config.long_url, can_post);
    if !may_go(request, &found.endpoint) {
        report.provider = ProviderOutcome::NotAsked;
        return here;
    }
    let issuer = found.issuer.clone();
    report.provider = ProviderOutcome::Redirected {
        issuer: issuer.clone(),
    };
    let navigation = Navigation {
        report: report.clone(),
        issuer,
    };
    let outcomes = core
        .cache
        .hooks()
        .navigating(core.cache.tasks(), navigation);
    report.hooks.extend(outcomes.await);
    // Also where the user does not come back: then the next sign-in asks for a fresh login (R8).
    UnderWay::new(core, wanted.as_ref(), request, report).keep_for(current, &found, &state);
    exit
}

/// Asks the app's callback. One that panics stops nothing.
fn may_go(request: &EndSessionRequest, endpoint: &Url) -> bool {
    let Some(go) = &request.before_navigation else {
        return true;
    };
    // The app sees where the user would go, not the token that goes along.
    let answer = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| go(endpoint)));
    answer.unwrap_or_else(|_| {
        tracing::error!("the callback before the navigation panicked");
        true
    })
}
