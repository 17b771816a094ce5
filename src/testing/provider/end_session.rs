//! The end-session endpoint, and what a session's end sets off.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{RawQuery, State},
    http::{HeaderMap, Method},
    response::Response,
};
use serde_json::json;
use url::Url;

use super::{
    Shared,
    authorize::{redirect, request_params},
    config::TestClient,
    events::{BackChannelCall, Event},
    faults::Endpoint,
    keys::{JwtBuilder, random},
    pages,
    params::Params,
    state::{self, EndSession, Session},
};

const BACK_CHANNEL_EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
const BACK_CHANNEL_TIMEOUT: Duration = Duration::from_secs(10);
const LOGOUT_TOKEN_LIFETIME: i64 = 120;

pub(super) async fn end_session(
    State(shared): State<Arc<Shared>>,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    let params = request_params(&method, query.as_deref(), &body);
    shared.events.push(Event::EndSessionRequested {
        method: method.to_string(),
        params: params.without(&["state", "id_token_hint"]),
        hint: params.get("id_token_hint").map(Into::into),
        state: params.get("state").map(Into::into),
    });
    let ending = {
        let mut state = shared.lock();
        state.note_secrets_of(&params);
        let target = match target(&state, &params) {
            Ok(target) => target.map(|target| edited(&shared, target)),
            Err(reason) => {
                drop(state);
                shared.events.push(Event::EndSessionRefused {
                    reason: reason.to_owned(),
                });
                return pages::error(reason);
            }
        };
        let session = shared
            .session_cookie(&headers)
            .filter(|cookie| state.sessions.contains_key(cookie));
        let Some(session) = session else {
            return finish(&[], target.as_deref());
        };
        let ending = EndSession { session, target };
        // Another session's hint does not speak for the person at this browser.
        let of_another_session = params
            .get("id_token_hint")
            .and_then(|hint| state.id_tokens.get(hint))
            .zip(state.sessions.get(&ending.session))
            .is_some_and(|(hint, session)| hint.sid != session.sid);
        if shared.habits.confirm_logout || of_another_session {
            let subject = state
                .sessions
                .get(&ending.session)
                .map(|session| session.subject.clone())
                .unwrap_or_default();
            let locale = params.words("ui_locales").into_iter().next();
            let id = state.new_secret();
            state.ending.insert(id.clone(), ending);
            return pages::confirm_logout(&id, &subject, locale.as_deref().unwrap_or("en"));
        }
        ending
    };
    sign_out(&shared, &ending).await
}

/// Where the sign-out ends, `state` included; `None` for the provider's own
/// page.
fn target(state: &state::State, params: &Params) -> Result<Option<Url>, &'static str> {
    if params.doubled().is_some() {
        return Err("A parameter is there twice.");
    }
    // An expired hint is as good as a fresh one (RP-Initiated Logout, section 4).
    let hint = params
        .get("id_token_hint")
        .map(|hint| {
            state
                .id_tokens
                .get(hint)
                .ok_or("The id_token_hint is unknown.")
        })
        .transpose()?;
    let client_id = match (hint, params.get("client_id")) {
        (Some(hint), Some(client_id)) if hint.client_id != client_id => {
            return Err("The client_id is not the one in the id_token_hint.");
        }
        (Some(hint), _) => Some(hint.client_id.as_str()),
        (None, client_id) => client_id,
    };
    let client = client_id
        .map(|id| state.clients.get(id).ok_or("The client is unknown."))
        .transpose()?;
    let Some(uri) = params.get("post_logout_redirect_uri") else {
        return Ok(None);
    };
    let client = client.ok_or("post_logout_redirect_uri needs an id_token_hint or a client_id.")?;
    if !client
        .post_logout_redirect_uris
        .iter()
        .any(|one| one == uri)
    {
        return Err("The post_logout_redirect_uri is not registered.");
    }
    let mut target = Url::parse(uri).map_err(|_| "The post_logout_redirect_uri is not a URL.")?;
    if let Some(state) = params.get("state") {
        target.query_pairs_mut().append_pair("state", state);
    }
    Ok(Some(target))
}

/// The target, with the faults that strike it.
fn edited(shared: &Shared, mut target: Url) -> String {
    let mut fields: Vec<_> = target.query_pairs().into_owned().collect();
    let before = fields.clone();
    shared
        .faults
        .edit_redirect(Endpoint::EndSession, &mut fields);
    // A registered query is left as it was written.
    if fields != before {
        target.query_pairs_mut().clear().extend_pairs(fields);
    }
    target.into()
}

pub(super) async fn confirm(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let params = Params::parse(&body);
    let ending = {
        let mut state = shared.lock();
        let Some(ending) = params.get("ending").and_then(|id| state.ending.remove(id)) else {
            return pages::error("This page was used already.");
        };
        if params.get("logout") != Some("yes") {
            if let Some(session) = state.sessions.get(&ending.session) {
                shared.events.push(Event::EndSessionDeclined {
                    sid: session.sid.clone(),
                });
            }
            return match &ending.target {
                Some(target) => redirect(target),
                None => pages::still_signed_in(),
            };
        }
        if let Some(session) = state.sessions.get(&ending.session) {
            shared.events.push(Event::EndSessionConfirmed {
                sid: session.sid.clone(),
            });
        }
        ending
    };
    sign_out(&shared, &ending).await
}

async fn sign_out(shared: &Arc<Shared>, ending: &EndSession) -> Response {
    let ended = shared.lock().remove_session(&ending.session);
    let mut frames = Vec::new();
    if let Some(session) = &ended {
        frames = shared.lock().front_channel(session, &shared.issuer);
        announce_end(shared, session).await;
    }
    let mut response = finish(&frames, ending.target.as_deref());
    shared.set_session_cookie(&mut response, None);
    response
}

fn finish(frames: &[String], target: Option<&str>) -> Response {
    match target {
        Some(target) if frames.is_empty() => redirect(target),
        target => pages::signed_out(frames, target),
    }
}

impl state::State {
    /// The URLs to load in frames, with `iss` and `sid` (Front-Channel Logout,
    /// section 2).
    fn front_channel(&self, session: &Session, issuer: &str) -> Vec<String> {
        session
            .clients
            .iter()
            .filter_map(|client| self.clients.get(client)?.frontchannel_logout_uri.as_deref())
            .filter_map(|uri| Url::parse(uri).ok())
            .map(|mut url| {
                url.query_pairs_mut()
                    .append_pair("iss", issuer)
                    .append_pair("sid", &session.sid);
                url.into()
            })
            .collect()
    }
}

/// Tells the log and, through the back channel, the clients.
pub(super) async fn announce_end(shared: &Arc<Shared>, session: &Session) -> Vec<BackChannelCall> {
    shared.events.push(Event::SessionEnded {
        sid: session.sid.clone(),
        subject: session.subject.clone(),
    });
    let deliveries: Vec<_> = {
        let state = shared.lock();
        session
            .clients
            .iter()
            .filter_map(|client| state.clients.get(client))
            .filter_map(|client| {
                let token = logout_token(shared, &state, client)
                    .claim("sub", session.subject.as_str())
                    .claim("sid", session.sid.as_str())
                    .compact();
                Some((
                    client.id.clone(),
                    client.backchannel_logout_uri.clone()?,
                    token,
                ))
            })
            .collect()
    };
    let mut calls = Vec::new();
    for (client_id, uri, token) in deliveries {
        let call = post_logout_token(shared, client_id, &uri, &token).await;
        shared.events.push(Event::BackChannelCall {
            client_id: call.client_id.clone(),
            sid: session.sid.clone(),
            status: call.status.map(|status| status.as_u16()),
        });
        calls.push(call);
    }
    calls
}

pub(super) async fn post_logout_token(
    shared: &Shared,
    client_id: String,
    uri: &str,
    token: &str,
) -> BackChannelCall {
    shared.lock().note_secret(token);
    let body = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("logout_token", token)
        .finish();
    let answer = shared
        .http
        .post(uri)
        .header("content-type", "application/x-www-form-urlencoded")
        .timeout(BACK_CHANNEL_TIMEOUT)
        .body(body)
        .send()
        .await;
    match answer {
        Ok(answer) => BackChannelCall {
            client_id,
            status: Some(answer.status()),
            body: answer.text().await.unwrap_or_default(),
        },
        Err(_) => BackChannelCall {
            client_id,
            status: None,
            body: String::new(),
        },
    }
}

/// A logout token that lacks `sub` and `sid` only.
pub(super) fn logout_token(
    shared: &Arc<Shared>,
    state: &state::State,
    client: &TestClient,
) -> JwtBuilder {
    let now = state.now();
    JwtBuilder::new(shared, state.keys.clone(), client, "logout+jwt", now)
        .claim("iss", shared.issuer.as_str())
        .claim("aud", client.id.as_str())
        .claim("iat", now)
        .claim("exp", now + LOGOUT_TOKEN_LIFETIME)
        .claim("jti", random())
        .claim("events", json!({ BACK_CHANNEL_EVENT: {} }))
}
