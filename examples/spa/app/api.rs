//! The API: a resource server of its own, which asks the provider about each token (RFC 7662). So a token that was revoked opens
//! nothing here any more, at the price of a question for each request.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

pub const CLIENT_ID: &str = "orders-api";
pub const CLIENT_SECRET: &str = "the-secret-of-the-api";

#[derive(Clone)]
struct Introspection {
    endpoint: String,
    http: reqwest::Client,
}

/// What the provider says of a token.
#[derive(Deserialize)]
struct Answer {
    active: bool,
    token_type: Option<String>,
    /// Whom it was issued to.
    client_id: Option<String>,
    sub: Option<String>,
}

pub fn router(endpoint: String) -> reqwest::Result<Router> {
    // What is on this machine is not reached through a proxy.
    let http = reqwest::Client::builder().no_proxy().build()?;
    Ok(Router::new()
        .route("/orders", get(orders))
        .with_state(Introspection { endpoint, http }))
}

async fn orders(
    State(provider): State<Introspection>,
    headers: HeaderMap,
) -> Result<Json<Value>, StatusCode> {
    let bearer = headers.get(header::AUTHORIZATION);
    let token = bearer
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or(StatusCode::UNAUTHORIZED)?;
    let answer = provider.ask(token).await.map_err(|error| {
        tracing::warn!(error = %error.without_url(), "the provider did not answer");
        StatusCode::SERVICE_UNAVAILABLE
    })?;
    match answer {
        // A token that another app got is none for this API; where a provider knows of audiences or scopes, they are to be
        // looked at as well. A refresh token is known to the provider as well, and opens nothing here.
        Answer {
            active: true,
            token_type: Some(kind),
            client_id: Some(client),
            sub: Some(_),
        } if kind == "Bearer" && client == super::CLIENT_ID => {
            Ok(Json(json!({ "orders": ["Lamp", "Teapot", "Umbrella"] })))
        }
        _ => Err(StatusCode::UNAUTHORIZED),
    }
}

impl Introspection {
    async fn ask(&self, token: &str) -> reqwest::Result<Answer> {
        self.http
            .post(&self.endpoint)
            .basic_auth(CLIENT_ID, Some(CLIENT_SECRET))
            .form(&[("token", token)])
            .send()
            .await?
            .error_for_status()?
            .json()
            .await
    }
}
