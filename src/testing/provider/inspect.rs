//! Revocation, introspection, user info: what is done with tokens once they are
//! out.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{
    Shared,
    client_auth::{OAuthError, authenticate, no_store},
    config::TestClient,
    events::{Event, TokenKind},
    params::Params,
    state,
};

pub(super) async fn revoke(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = Params::parse(&body);
    let mut state = shared.lock();
    state.note_secrets_of(&params);
    let result = authenticate(&mut state, &headers, &params)
        .and_then(|client| revoke_for(&shared, &mut state, &client, &params));
    match result {
        Ok(()) => no_store(StatusCode::OK.into_response()),
        Err(error) => {
            shared.events.push(Event::RevocationRefused {
                error: error.error.clone(),
            });
            error.into_response()
        }
    }
}

fn revoke_for(
    shared: &Shared,
    state: &mut state::State,
    client: &TestClient,
    params: &Params,
) -> Result<(), OAuthError> {
    let token = params
        .get("token")
        .ok_or_else(|| OAuthError::new("invalid_request", "token is missing"))?;
    let mut kind = None;
    if let Some(record) = state.access_tokens.get_mut(token) {
        if record.client_id != client.id {
            return Err(OAuthError::new("invalid_grant", "another client's token"));
        }
        if shared.habits.jwt_access_tokens {
            return Err(OAuthError::new("unsupported_token_type", "a JWT"));
        }
        record.revoked = true;
        kind = Some(TokenKind::Access);
    } else if let Some(record) = state.refresh_tokens.get_mut(token) {
        let grant = &mut state.grants[record.grant];
        if grant.client_id != client.id {
            return Err(OAuthError::new("invalid_grant", "another client's token"));
        }
        record.revoked = true;
        // RFC 7009, section 2.1: the access tokens of the grant too.
        grant.revoked = true;
        kind = Some(TokenKind::Refresh);
    }
    shared.events.push(Event::Revoked {
        client_id: client.id.clone(),
        kind,
        token: token.into(),
    });
    Ok(())
}

pub(super) async fn introspect(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = Params::parse(&body);
    let mut state = shared.lock();
    state.note_secrets_of(&params);
    let client = match authenticate(&mut state, &headers, &params) {
        Ok(client) => client,
        Err(error) => return error.into_response(),
    };
    let token = params.get("token").unwrap_or_default();
    let active = state.is_active(token);
    shared.events.push(Event::Introspected {
        client_id: client.id,
        active,
    });
    if !active {
        return no_store(Json(json!({ "active": false })).into_response());
    }
    no_store(Json(describe(&shared, &state, token)).into_response())
}

fn describe(shared: &Shared, state: &state::State, token: &str) -> Value {
    let mut answer = json!({ "active": true, "iss": shared.issuer });
    let grant = if let Some(record) = state.access_tokens.get(token) {
        answer["client_id"] = record.client_id.as_str().into();
        answer["scope"] = record.scopes.join(" ").into();
        answer["aud"] = json!(record.audience);
        answer["iat"] = record.issued.into();
        answer["exp"] = record.expires.into();
        answer["token_type"] = "Bearer".into();
        record.grant
    } else {
        state.refresh_tokens.get(token).map(|record| record.grant)
    };
    if let Some(grant) = grant.and_then(|grant| state.grants.get(grant)) {
        answer["sub"] = grant.subject.as_str().into();
        answer["sid"] = grant.sid.as_str().into();
        if answer.get("scope").is_none() {
            answer["client_id"] = grant.client_id.as_str().into();
            answer["scope"] = grant.scopes.join(" ").into();
        }
    }
    answer
}

pub(super) async fn user_info(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let state = shared.lock();
    let grant = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .and_then(|token| state.access_tokens.get(token))
        .filter(|token| state.access_token_active(token))
        .and_then(|token| state.grants.get(token.grant?));
    shared.events.push(Event::UserInfoFetched {
        subject: grant.map(|grant| grant.subject.clone()),
    });
    let Some(grant) = grant else {
        return (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, "Bearer error=\"invalid_token\"")],
        )
            .into_response();
    };
    let mut claims = state
        .users
        .get(&grant.login)
        .map(|user| user.claims.clone())
        .unwrap_or_default();
    claims.insert("sub".to_owned(), grant.subject.as_str().into());
    no_store(Json(Value::Object(claims)).into_response())
}
