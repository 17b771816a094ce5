//! Which client asks, and the error answers it gets.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use url::form_urlencoded;

use super::{
    config::{ClientAuth, TestClient},
    params::Params,
    state,
};

/// An error answer (RFC 6749, section 5.2).
#[derive(Debug)]
pub(super) struct OAuthError {
    pub(super) error: String,
    pub(super) description: &'static str,
    pub(super) claims: Option<String>,
}

impl OAuthError {
    pub(super) fn new(error: &str, description: &'static str) -> Self {
        Self {
            error: error.to_owned(),
            description,
            claims: None,
        }
    }
}

impl IntoResponse for OAuthError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.error, "error_description": self.description });
        if let Some(claims) = self.claims {
            body["claims"] = claims.into();
        }
        let status = if self.error == "invalid_client" {
            StatusCode::UNAUTHORIZED
        } else {
            StatusCode::BAD_REQUEST
        };
        let mut response = no_store((status, Json(body)).into_response());
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"test provider\""),
            );
        }
        response
    }
}

pub(super) fn no_store(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Finds out which client asks, and has it prove itself by the registered
/// method.
pub(super) fn authenticate(
    state: &mut state::State,
    headers: &HeaderMap,
    params: &Params,
) -> Result<TestClient, OAuthError> {
    let refused = || OAuthError::new("invalid_client", "client authentication failed");
    let basic = headers
        .get(header::AUTHORIZATION)
        .map(|value| basic_credentials(value).ok_or_else(refused))
        .transpose()?;
    if let Some((_, secret)) = &basic {
        state.note_secret(secret);
    }
    let posted = params.get("client_secret");
    let id = match (&basic, params.get("client_id")) {
        (Some((id, _)), None) => id.as_str(),
        (Some((id, _)), Some(posted)) if id == posted => posted,
        (None, Some(posted)) => posted,
        _ => return Err(refused()),
    };
    let client = state.clients.get(id).ok_or_else(refused)?;
    let presented = match client.auth {
        ClientAuth::SecretBasic if posted.is_none() => basic.map(|(_, secret)| secret),
        ClientAuth::SecretPost if basic.is_none() => posted.map(str::to_owned),
        ClientAuth::None if basic.is_none() && posted.is_none() => None,
        _ => return Err(refused()),
    };
    if presented != client.secret {
        return Err(refused());
    }
    Ok(client.clone())
}

pub(super) fn claimed_client(headers: &HeaderMap, params: &Params) -> String {
    headers
        .get(header::AUTHORIZATION)
        .and_then(basic_credentials)
        .map(|(id, _)| id)
        .or_else(|| params.owned("client_id"))
        .unwrap_or_default()
}

/// RFC 6749, section 2.3.1: both halves are form-encoded before Base64.
fn basic_credentials(value: &HeaderValue) -> Option<(String, String)> {
    let encoded = value.to_str().ok()?.strip_prefix("Basic ")?;
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((form_decode(id), form_decode(secret)))
}

fn form_decode(text: &str) -> String {
    form_urlencoded::parse(format!("v={text}").as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
