//! The provider's answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};

use super::establish::{Arrival, Caller, settle, while_awaited};
use super::pending::{Failure, Pending, parameters};
use super::start::restart;
use crate::account::Account;
use crate::core::Core;
use crate::current::Current;
use crate::error::{Error, ErrorKind};
use crate::events;
use crate::id::{OperationId, SignInId};
use crate::jwt::id_token::Expectations;
use crate::provider::{CodeExchange, Provider};
use crate::return_url::SafeTarget;
use crate::session::AnySession;
use crate::sign_out::forget;
use crate::store::{Claim, Started};
use crate::token::TokenSet;

/// Where the user goes next.
pub(crate) enum Next {
    /// To the page that was wanted, by a page of ours: a redirect from the provider would not send a `Strict` cookie.
    Handover(SafeTarget),
    /// To the provider once more.
    Restart(String),
}

/// Looks at the answer, exchanges the code, and establishes the sign-in.
pub(crate) async fn callback(current: &Current, request: &Parts) -> Result<Next, Failure> {
    let core = current.core();
    let headers = &request.headers;
    let query = request.uri.query().unwrap_or_default();
    let resumed = resume(current, headers, query);
    let query = parameters(Some(resumed.as_deref().unwrap_or(query)))?;
    let pending = query
        .get("state")
        .and_then(|state| Pending::recall(current, headers, state))
        .ok_or_else(|| Failure::bad_request("unknown_or_expired_sign_in"))?;
    if pending.had_session
        && resumed.is_none()
        && let Some(next) = bring_session(current, headers, &query)
    {
        return Ok(Next::Handover(next));
    }
    let provider = core
        .cache
        .provider(&pending.issuer)
        .ok_or_else(|| Failure::bad_request("unknown_provider"))?;
    let metadata = provider.metadata().await.map_err(Error::from)?;
    pending.forget(current);
    let code = code(provider, metadata.iss_parameter, query)?;
    // Only now, when there is something to be had for it: what strangers send must not fill the store.
    claim(current, &pending).await?;

    let Some(session) = current.session().cloned() else {
        return Err(Error::new(ErrorKind::Misconfigured, "there is no session layer").into());
    };
    let received = {
        let (core, provider) = (core.clone(), provider.clone());
        let (pending, label) = (pending.clone(), core.label_of(request));
        let tasks = core.cache.tasks().clone();
        // From here on there are tokens, and a browser that goes away must not leave them lying about.
        while_awaited(&tasks, |caller| async move {
            receive(&core, &session, &pending, &provider, &code, label, &caller).await
        })
        .await
    };
    match received? {
        Ok(_) => {}
        // Signed out everywhere while this was under way: once more by itself, so that the user who wants to be
        // signed in now is.
        Err(error) if error.kind() == ErrorKind::NotSignedIn && !pending.restarted => {
            return restart(current, headers, &pending).await.map(Next::Restart);
        }
        Err(error) => return Err(error.into()),
    }
    forget(current, headers);
    let target = pending
        .target
        .as_deref()
        .and_then(|target| core.sign_in_target(target))
        .unwrap_or_else(|| core.after_sign_in.clone());
    Ok(Next::Handover(target))
}

/// Exchanges the code and puts what it brings into cache and session. The inner result is that of the session; tokens that
/// come to nothing go back to the provider.
async fn receive(
    core: &Arc<Core>,
    session: &AnySession,
    pending: &Pending,
    provider: &Provider,
    code: &str,
    label: Option<Box<str>>,
    caller: &Caller,
) -> Result<Result<SignInId, Error>, Failure> {
    let redirect_uri = core.url(&core.config.paths.sign_in_callback);
    let tokens = provider
        .exchange_code(&CodeExchange {
            code,
            pkce_verifier: &pending.verifier,
            redirect_uri: &redirect_uri,
            scopes: &provider.asked_scopes(&pending.query.scopes()),
        })
        .await
        .map_err(Error::from)?
        .tokens;
    match verified(pending, provider, &tokens).await {
        Ok((account, id_token_iat)) => {
            let arrival = Arrival {
                account,
                tokens,
                client_id: provider.client_id().into(),
                label,
                started: Started {
                    at: Some(pending.started),
                    id_token_iat: Some(id_token_iat),
                },
            };
            Ok(settle(core, session, arrival, caller).await)
        }
        Err(failure) => {
            core.cache
                .discard_tokens(provider.issuer(), provider.client_id().into(), tokens)
                .await;
            Err(failure)
        }
    }
}

/// Who the ID token says it is, and its `iat`.
async fn verified(
    pending: &Pending,
    provider: &Provider,
    tokens: &TokenSet,
) -> Result<(Account, i64), Failure> {
    let Some(id_token) = tokens.id_token() else {
        return Err(Failure::new(StatusCode::BAD_GATEWAY, "no_id_token"));
    };
    let mut expected = Expectations::sign_in(&pending.nonce).max_age(pending.query.max_age());
    if let Some(access) = tokens.access_tokens().first() {
        expected = expected.access_token(access.secret());
    }
    let verified = provider
        .verify_id_token(id_token, &expected)
        .await
        .map_err(Error::from)?;
    let mut account = Account::new(verified.issuer(), verified.subject());
    if let Some(sid) = verified.sid() {
        account = account.with_sid(sid);
    }
    Ok((
        account.with_id_token(id_token.clone()),
        verified.issued_at().as_secs(),
    ))
}

const RESUME: &str = "signin-resume";

/// The browser had a session when it left, and comes from another site without it: its cookie is `Strict`. The answer is put
/// aside in an encrypted cookie, and a page of ours asks for this route again, this time with the session, so that what is in
/// it (a cart, another account) is not lost. `None` if the answer is too large for a cookie: then the sign-in gets a session
/// of its own.
fn bring_session(
    current: &Current,
    headers: &HeaderMap,
    query: &HashMap<String, String>,
) -> Option<SafeTarget> {
    let core = current.core();
    let from_elsewhere = headers
        .get("sec-fetch-site")
        .is_some_and(|v| v == "cross-site");
    let has_session = current
        .session()
        .is_some_and(|session| session.has_cookie());
    if !from_elsewhere || has_session {
        return None;
    }
    let mut answer = url::form_urlencoded::Serializer::new(String::new());
    answer.extend_pairs(query);
    let tag = crate::id::random_text()[..12].to_owned();
    let cookie = core
        .vault
        .seal(
            RESUME,
            &tag,
            &answer.finish(),
            Duration::from_secs(60),
            core.cache.clock().wall(),
        )
        .ok()?;
    let callback = core.url(&core.config.paths.sign_in_callback);
    let target = core.allowed.check(&format!("{callback}?resume={tag}"))?;
    current.set_cookies([cookie]);
    Some(target)
}

/// The answer that was put aside, if this is the request for it.
fn resume(current: &Current, headers: &HeaderMap, query: &str) -> Option<String> {
    let tag = query.strip_prefix("resume=")?;
    let core = current.core();
    let answer = core
        .vault
        .open(headers, RESUME, tag, core.cache.clock().wall())?;
    current.set_cookies(core.vault.expire(RESUME, tag));
    Some(answer)
}

/// The code of an answer that comes from the provider that was asked.
fn code(
    provider: &Provider,
    states_issuer: bool,
    mut answer: HashMap<String, String>,
) -> Result<String, Failure> {
    // RFC 9207 section 2.4: compared exactly; absent although advertised is an answer from somewhere else.
    match answer.get("iss") {
        Some(issuer) if issuer == provider.issuer() => {}
        None if !states_issuer => {}
        _ => return Err(Failure::bad_request("issuer_mismatch")),
    }
    if let Some(code) = answer.get("error") {
        let failure = Failure::bad_request(code);
        events::sign_in_refused(provider.issuer(), &failure.code);
        return Err(failure);
    }
    answer
        .remove("code")
        .filter(|code| !code.is_empty())
        .ok_or_else(|| Failure::bad_request("invalid_request"))
}

/// The longest that a code may live (RFC 6749 section 4.1.2).
const CODE_LIFE: Duration = Duration::from_secs(10 * 60);

/// Used once (R36): a second answer for the same request is refused, also on another node.
async fn claim(current: &Current, pending: &Pending) -> Result<(), Failure> {
    let core = current.core();
    let claimed = core
        .cache
        .store()
        .claim(&pending.claim_name(), OperationId::random(), CODE_LIFE)
        .await
        .map_err(Error::from)?;
    match claimed {
        Claim::Held => Ok(()),
        Claim::Taken => Err(Failure::bad_request("unknown_or_expired_sign_in")),
    }
}
