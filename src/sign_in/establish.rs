//! Putting a sign-in into cache and session.

use std::future::Future;
use std::sync::{Arc, Weak};

use tokio_util::task::TaskTracker;

use crate::account::Account;
use crate::cache::{NewSignIn, Order};
use crate::cause::Cause;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
use crate::events;
use crate::id::{Locator, OperationId, SignInId};
use crate::session::{AnySession, SessionData, SessionError};
use crate::store::{Started, Target};
use crate::token::TokenSet;

/// Someone has signed in.
pub(crate) struct Arrival {
    pub(crate) account: Account,
    pub(crate) client_id: Arc<str>,
    pub(crate) tokens: TokenSet,
    pub(crate) label: Option<Box<str>>,
    pub(crate) started: Started,
}

/// Whether somebody still waits for what a task does.
pub(super) struct Caller(Weak<()>);

impl Caller {
    fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

/// Runs work in a task of its own, so that it is not stopped halfway when its caller goes away, but can look whether that
/// happened.
pub(super) async fn while_awaited<T, E, F, Fut>(tasks: &TaskTracker, work: F) -> Result<T, E>
where
    F: FnOnce(Caller) -> Fut,
    Fut: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let here = Arc::new(());
    let done = tasks.spawn(work(Caller(Arc::downgrade(&here)))).await;
    drop(here);
    done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a sign-in was stopped").into()))
}

/// Not stopped halfway by a client that disconnects: that must not leave tokens that no session names.
pub(crate) async fn establish(
    core: &Arc<Core>,
    session: &AnySession,
    arrival: Arrival,
) -> Result<SignInId, Error> {
    let (core, session) = (core.clone(), session.clone());
    let tasks = core.cache.tasks().clone();
    while_awaited(&tasks, |caller| async move {
        settle(&core, &session, arrival, &caller).await
    })
    .await
}

/// Puts the tokens into cache and session, or gives them back to the provider.
pub(super) async fn settle(
    core: &Core,
    session: &AnySession,
    arrival: Arrival,
    caller: &Caller,
) -> Result<SignInId, Error> {
    let correlation_id = OperationId::random().to_string();
    let account = arrival.account.clone();
    let client_id = arrival.client_id.clone();
    // For the case that it is refused: then nobody will ever use them, and they go back.
    let tokens = arrival.tokens.clone();
    let (new, held) = match create(core, session, arrival, caller).await {
        Ok(created) => created,
        Err(error) => {
            core.cache
                .discard_tokens(account.issuer(), client_id, tokens)
                .await;
            return Err(error);
        }
    };
    let moved = move_in(core, session, held.clone(), &new, &correlation_id).await;
    let moved = moved.and_then(|()| match caller.is_gone() {
        // Nobody will get the new session's cookie.
        true => Err(gone()),
        false => Ok(()),
    });
    match moved {
        Ok(()) => {
            let who = core.cache.who(&new.address.account, &account);
            events::signed_in(who, new.address.id);
            Ok(new.address.id)
        }
        Err(error) => {
            undo(core, session, held, &new, &correlation_id).await;
            Err(error)
        }
    }
}

fn gone() -> Error {
    Error::new(
        ErrorKind::Internal,
        "the client went away while it was signed in",
    )
}

/// The new sign-in, and what the session held before.
async fn create(
    core: &Core,
    session: &AnySession,
    arrival: Arrival,
    caller: &Caller,
) -> Result<(Locator, SessionData), Error> {
    if caller.is_gone() {
        return Err(gone());
    }
    if let Some(id) = session.id() {
        // What is signed out must not be carried over.
        core.cache.catch_up(id).await?;
    }
    let held = match session.sign_ins().await {
        // What nobody can read is nobody's: it must not become this account's.
        Err(error) if error.is_garbage() => {
            session.end().await.map_err(session_failed)?;
            SessionData::default()
        }
        held => held.map_err(session_failed)?,
    };
    let new = core
        .cache
        .create(NewSignIn {
            account: arrival.account,
            client_id: arrival.client_id,
            tokens: arrival.tokens,
            label: arrival.label,
            started: arrival.started,
        })
        .await?;
    Ok((new, held))
}

/// The session that the browser had is gone, and the new one does not reach it: what either of them held has ended.
async fn undo(
    core: &Core,
    session: &AnySession,
    held: SessionData,
    new: &Locator,
    correlation_id: &str,
) {
    let held = held.into_sign_ins().into_iter();
    let all = held.map(|locator| locator.address).chain([new.address]);
    let orders: Vec<Order> = all
        .map(|address| Order::new(Target::SignIn(address), Cause::SessionEnded))
        .collect();
    let evicted = core.cache.evict(&orders, correlation_id).await;
    let cache = &core.cache;
    cache.conclude_later(Cause::SessionEnded, correlation_id, evicted);
    // What is left in memory must not be saved by the session layer, nor keep its cookie.
    if let Err(error) = session.end().await {
        tracing::warn!(%error, "a session's record stays in the session store, and opens nothing");
    }
}

/// R37: the session's id changes, the account's earlier sign-in in this session is evicted, and the others get new keys, so
/// that a racing save of the old record holds dead keys only.
async fn move_in(
    core: &Core,
    session: &AnySession,
    held: SessionData,
    new: &Locator,
    correlation_id: &str,
) -> Result<(), Error> {
    session.cycle_id().await.map_err(session_failed)?;
    let mut orders = Vec::new();
    let mut all = SessionData::default();
    let mut stale = false;
    for locator in held.into_sign_ins() {
        if locator.address.account == new.address.account {
            orders.push(Order::new(Target::SignIn(locator.address), Cause::Replaced));
        } else if let Some(locator) = core.cache.rekey(&locator).await? {
            all.push(locator);
        } else {
            stale = true;
        }
    }
    if let Some(oldest) = all.push(new.clone()) {
        orders.push(Order::new(Target::SignIn(oldest.address), Cause::Capacity));
    }
    let evicted = core.cache.evict(&orders, correlation_id).await;
    stale |= evicted.evictions.len() + evicted.pending < orders.len();
    // Before anything else can fail: they have left, whatever becomes of the session. Without waiting: a person waits for the
    // page.
    if let Some(first) = orders.first() {
        let cache = &core.cache;
        cache.conclude_displaced(first.cause, correlation_id, evicted);
    }
    if stale {
        // Another request ended what this session held while the user was at the provider: then its data goes too
        // (promise 4), and is not saved again under the new id.
        session.end().await.map_err(session_failed)?;
    }
    session.set_sign_ins(&all).await.map_err(session_failed)?;
    session.save().await.map_err(session_failed)
}

fn session_failed(error: SessionError) -> Error {
    Error::new(ErrorKind::StoreUnavailable, "the session store failed").with_source(error)
}
