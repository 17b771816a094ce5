//! The middleware that makes faults happen.

use std::{convert::Infallible, io, sync::Arc};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use super::{
    Shared,
    events::Event,
    faults::{Active, Endpoint, Fault},
    net::Connection,
    params::Params,
};

/// More than any request of the protocol needs, an ID token hint included.
const BODY_LIMIT: usize = 1 << 20;

pub(super) async fn inject(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_LIMIT).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let endpoints = endpoints(parts.uri.path(), &body);
    let active = shared.faults.take(&endpoints);
    if let Some(&endpoint) = endpoints.first()
        && !active.0.is_empty()
    {
        shared.events.push(Event::Faulted { endpoint });
    }
    for fault in &active.0 {
        if let Some(response) = before(fault, &connection).await {
            return response;
        }
    }
    let mut request = Request::from_parts(parts, Body::from(body));
    request.extensions_mut().insert(active.clone());
    let mut response = next.run(request).await;
    for fault in &active.0 {
        response = after(fault, &connection, response).await;
    }
    response
}

fn endpoints(path: &str, body: &[u8]) -> Vec<Endpoint> {
    match path {
        "/.well-known/openid-configuration" => vec![Endpoint::Discovery],
        "/jwks" => vec![Endpoint::Jwks],
        "/authorize" => vec![Endpoint::Authorize],
        "/revoke" => vec![Endpoint::Revoke],
        "/introspect" => vec![Endpoint::Introspect],
        "/userinfo" => vec![Endpoint::UserInfo],
        "/end_session" => vec![Endpoint::EndSession],
        "/token" => match Params::parse(body).get("grant_type") {
            Some("authorization_code") => vec![Endpoint::Token, Endpoint::Code],
            Some("refresh_token") => vec![Endpoint::Token, Endpoint::Refresh],
            Some("client_credentials") => vec![Endpoint::Token, Endpoint::ClientCredentials],
            Some(grant) if grant.starts_with("urn:ietf:params:oauth:grant-type:") => {
                vec![Endpoint::Token, Endpoint::Downstream]
            }
            _ => vec![Endpoint::Token],
        },
        _ => Vec::new(),
    }
}

async fn before(fault: &Fault, connection: &Connection) -> Option<Response> {
    match fault {
        Fault::Delay(time) => {
            tokio::time::sleep(*time).await;
            None
        }
        Fault::Hold(gate) => {
            gate.pass().await;
            None
        }
        Fault::Drop => {
            connection.cut();
            Some(StatusCode::INTERNAL_SERVER_ERROR.into_response())
        }
        Fault::Status(status) => Some(error_page(*status)),
        Fault::StatusRetryAfter(status, seconds) => {
            let mut response = error_page(*status);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, (*seconds).into());
            Some(response)
        }
        Fault::OAuthError(code) => Some(
            (
                StatusCode::BAD_REQUEST,
                [(header::CACHE_CONTROL, "no-store")],
                axum::Json(json!({ "error": code, "error_description": "injected" })),
            )
                .into_response(),
        ),
        Fault::Garbage => Some(
            (
                [(header::CONTENT_TYPE, "application/json")],
                "{\"garbage\": <<<",
            )
                .into_response(),
        ),
        _ => None,
    }
}

fn error_page(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = format!("<html><body><h1>{status}</h1></body></html>");
    (status, axum::response::Html(body)).into_response()
}

async fn after(fault: &Fault, connection: &Connection, response: Response) -> Response {
    match fault {
        Fault::HoldAnswer(gate) => {
            gate.pass().await;
            response
        }
        Fault::LoseAnswer => {
            connection.cut();
            response
        }
        Fault::DropMidway => halve(response, connection.clone()).await,
        Fault::Huge => {
            edit_json(response, |members| {
                members.insert("padding".to_owned(), Value::from("x".repeat(1 << 20)));
            })
            .await
        }
        Fault::Set(name, value) => {
            edit_json(response, |members| {
                members.insert(name.clone(), value.clone());
            })
            .await
        }
        Fault::Without(name) => {
            edit_json(response, |members| {
                members.remove(name);
            })
            .await
        }
        _ => response,
    }
}

async fn read(response: Response) -> (axum::http::response::Parts, Bytes) {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    (parts, body)
}

async fn edit_json(response: Response, edit: impl FnOnce(&mut Map<String, Value>)) -> Response {
    let (mut parts, body) = read(response).await;
    let Ok(Value::Object(mut members)) = serde_json::from_slice(&body) else {
        return Response::from_parts(parts, Body::from(body));
    };
    edit(&mut members);
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(Value::Object(members).to_string()))
}

async fn halve(response: Response, connection: Connection) -> Response {
    let (mut parts, body) = read(response).await;
    parts
        .headers
        .insert(header::CONTENT_LENGTH, body.len().into());
    let half = body.slice(..body.len() / 2);
    let stream = futures_util::stream::unfold(Some(half), move |half| {
        let connection = connection.clone();
        async move {
            if let Some(half) = half {
                return Some((Ok::<_, io::Error>(half), None));
            }
            // Being pending once has the first half written out.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            connection.cut();
            Some((Err(io::ErrorKind::ConnectionReset.into()), None))
        }
    });
    Response::from_parts(parts, Body::from_stream(stream))
}

impl<S: Sync> axum::extract::FromRequestParts<S> for Active {
    type Rejection = Infallible;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _: &S,
    ) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}
