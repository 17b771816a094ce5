//! Putting a sign-in into cache and session.

use std::sync::Arc;

use crate::account::Account;
use crate::cache::{NewSignIn, Order};
use crate::cause::Cause;
use crate::core::Core;
use crate::error::{Error, ErrorKind};
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

/// Runs in a task of its own: a client that disconnects in the middle must not leave tokens that no session names.
pub(crate) async fn establish(
    core: &Arc<Core>,
    session: &AnySession,
    arrival: Arrival,
) -> Result<SignInId, Error> {
    let (core, session) = (core.clone(), session.clone());
    let tasks = core.cache.tasks().clone();
    tasks
        .spawn(async move { run(&core, &session, arrival).await })
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "a sign-in was stopped")))
}

async fn run(core: &Core, session: &AnySession, arrival: Arrival) -> Result<SignInId, Error> {
    let correlation_id = OperationId::random().to_string();
    let issuer = arrival.account.issuer().to_owned();
    let held = match session.sign_ins().await {
        Ok(held) => held,
        Err(error) => {
            core.cache
                .discard_tokens(&issuer, arrival.client_id, arrival.tokens)
                .await;
            return Err(session_failed(error));
        }
    };
    // For the case that it is refused: then nobody will ever use them, and they go back.
    let tokens = arrival.tokens.clone();
    let new = core
        .cache
        .create(NewSignIn {
            account: arrival.account,
            client_id: arrival.client_id.clone(),
            tokens: arrival.tokens,
            label: arrival.label,
            started: arrival.started,
        })
        .await;
    let new = match new {
        Ok(locator) => locator,
        Err(error) => {
            core.cache
                .discard_tokens(&issuer, arrival.client_id, tokens)
                .await;
            return Err(error.into());
        }
    };
    match move_in(core, session, held, &new, &correlation_id).await {
        Ok(()) => {
            tracing::info!(
                target: "axum_signout::sign_in",
                issuer,
                account = %new.address.account,
                sign_in = %new.address.id,
                "signed in"
            );
            Ok(new.address.id)
        }
        Err(error) => {
            let order = Order::new(Target::SignIn(new.address), Cause::SessionEnded);
            let evicted = core.cache.evict(&[order], &correlation_id).await;
            core.cache.tell(&evicted.evictions).await;
            // What is left in memory must not be saved by the session layer, nor keep its cookie.
            if let Err(error) = session.end().await {
                tracing::warn!(%error, "a session's record stays in the session store, and opens nothing");
            }
            Err(error)
        }
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
    for locator in held.into_sign_ins() {
        if locator.address.account == new.address.account {
            orders.push(Order::new(Target::SignIn(locator.address), Cause::Replaced));
        } else if let Some(locator) = core.cache.rekey(&locator).await? {
            all.push(locator);
        }
    }
    if let Some(oldest) = all.push(new.clone()) {
        orders.push(Order::new(Target::SignIn(oldest.address), Cause::Capacity));
    }
    let evicted = core.cache.evict(&orders, correlation_id).await;
    let cache = core.cache.clone();
    // Before what can fail: those sign-ins have ended.
    core.cache
        .tasks()
        .spawn(async move { cache.tell(&evicted.evictions).await });
    session.set_sign_ins(&all).await.map_err(session_failed)?;
    session.save().await.map_err(session_failed)
}

fn session_failed(error: SessionError) -> Error {
    Error::new(ErrorKind::StoreUnavailable, "the session store failed").with_source(error)
}
