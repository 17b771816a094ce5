//! The token endpoint, and those that look at tokens.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::{
    Shared,
    authorize::is_resource,
    config::{ClientAuth, TestClient},
    events::{Event, TokenKind},
    faults::{Active, IdTokenFault},
    keys::{JwtBuilder, base64url, sha256},
    params::Params,
    state::{self, AccessToken, Grant, IdToken, RefreshToken},
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

/// An error answer (RFC 6749, section 5.2).
#[derive(Debug)]
pub(super) struct OAuthError {
    error: String,
    description: &'static str,
    claims: Option<String>,
}

impl OAuthError {
    fn new(error: &str, description: &'static str) -> Self {
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

fn no_store(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Finds out which client asks, and has it prove itself by the registered
/// method.
fn authenticate(
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

fn claimed_client(headers: &HeaderMap, params: &Params) -> String {
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

pub(super) async fn token(
    State(shared): State<Arc<Shared>>,
    active: Active,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = Params::parse(&body);
    let mut state = shared.lock();
    state.note_secrets_of(&params);
    let mut desk = Desk {
        shared: &shared,
        state: &mut state,
        active,
    };
    match desk.answer(&headers, &params) {
        Ok(members) => no_store(Json(Value::Object(members)).into_response()),
        Err(error) => {
            shared.events.push(Event::TokenRefused {
                client_id: claimed_client(&headers, &params),
                grant_type: params.owned("grant_type").unwrap_or_default(),
                error: error.error.clone(),
            });
            error.into_response()
        }
    }
}

/// One request to the token endpoint, under the state's lock.
struct Desk<'a> {
    shared: &'a Arc<Shared>,
    state: &'a mut state::State,
    active: Active,
}

type Members = Map<String, Value>;

impl Desk<'_> {
    fn answer(&mut self, headers: &HeaderMap, params: &Params) -> Result<Members, OAuthError> {
        if params.doubled().is_some() {
            return Err(OAuthError::new("invalid_request", "doubled parameter"));
        }
        let client = authenticate(self.state, headers, params)?;
        if !params.all("resource").all(is_resource) {
            return Err(OAuthError::new("invalid_target", "resource"));
        }
        match params.get("grant_type") {
            Some("authorization_code") => self.code(&client, params),
            Some("refresh_token") => self.refresh(&client, params),
            Some("client_credentials") => self.client_credentials(&client, params),
            Some(TOKEN_EXCHANGE) => self.downstream(&client, params, "subject_token"),
            Some(JWT_BEARER) => self.downstream(&client, params, "assertion"),
            Some(_) => Err(OAuthError::new("unsupported_grant_type", "unknown grant")),
            None => Err(OAuthError::new("invalid_request", "grant_type is missing")),
        }
    }

    fn code(&mut self, client: &TestClient, params: &Params) -> Result<Members, OAuthError> {
        let refused = || OAuthError::new("invalid_grant", "the code is not good");
        let now = self.state.now();
        let code = params.get("code").unwrap_or_default();
        let record = self.state.codes.get_mut(code).ok_or_else(refused)?;
        let grant_index = record.grant;
        let grant = self.state.grants[grant_index].clone();
        if grant.client_id != client.id {
            return Err(refused());
        }
        if record.used {
            self.reused(grant_index);
            return Err(refused());
        }
        let verified = match (&record.code_challenge, params.get("code_verifier")) {
            (Some(challenge), Some(verifier)) => base64url(sha256(verifier)) == *challenge,
            (None, None) => true,
            _ => false,
        };
        if !verified
            || record.expires <= now
            || params.get("redirect_uri") != Some(record.redirect_uri.as_str())
        {
            return Err(refused());
        }
        record.used = true;
        self.shared.events.push(Event::TokensIssued {
            client_id: client.id.clone(),
            subject: Some(grant.subject.clone()),
            grant_type: "authorization_code".to_owned(),
            scopes: grant.scopes.clone(),
        });
        let audience = audience(params, &grant.resources);
        let scopes = grant.scopes.clone();
        let (mut members, access_token) =
            self.access_token(client, Some(grant_index), scopes, audience);
        let wants_refresh = grant.offline() || !self.shared.habits.refresh_needs_offline_access;
        if wants_refresh && !self.active.no_refresh_token() {
            let token = self.refresh_token(grant_index);
            members.insert("refresh_token".to_owned(), token.into());
        }
        self.id_token(client, &grant, &access_token, &mut members);
        Ok(members)
    }

    fn refresh(&mut self, client: &TestClient, params: &Params) -> Result<Members, OAuthError> {
        let refused = || OAuthError::new("invalid_grant", "the refresh token is not good");
        let presented = params.get("refresh_token").unwrap_or_default();
        let record = self
            .state
            .refresh_tokens
            .get(presented)
            .ok_or_else(refused)?;
        let (grant_index, retired, revoked) = (record.grant, record.retired, record.revoked);
        let grant = self.state.grants[grant_index].clone();
        if grant.client_id != client.id {
            return Err(refused());
        }
        if retired {
            self.reused(grant_index);
            return Err(refused());
        }
        if revoked || grant.revoked {
            return Err(refused());
        }
        let scopes = self.refresh_scopes(&grant, params)?;

        let keeps_token =
            !self.shared.habits.rotate_refresh_tokens || self.active.no_refresh_token();
        if !keeps_token && let Some(record) = self.state.refresh_tokens.get_mut(presented) {
            record.retired = true;
        }
        self.shared.events.push(Event::Refreshed {
            client_id: client.id.clone(),
            subject: grant.subject.clone(),
            scopes: scopes.clone(),
            token: presented.into(),
        });
        let audience = audience(params, &grant.resources);
        let (mut members, access_token) =
            self.access_token(client, Some(grant_index), scopes, audience);
        if !keeps_token {
            let token = self.refresh_token(grant_index);
            members.insert("refresh_token".to_owned(), token.into());
        }
        self.id_token(client, &grant, &access_token, &mut members);
        Ok(members)
    }

    fn refresh_scopes(&self, grant: &Grant, params: &Params) -> Result<Vec<String>, OAuthError> {
        let asked = params.words("scope");
        if asked.is_empty() {
            return Ok(grant.scopes.clone());
        }
        let beyond = asked.iter().any(|scope| !grant.scopes.contains(scope));
        if beyond && !self.shared.habits.scopes_beyond_grant {
            return Err(OAuthError::new("invalid_scope", "more than was granted"));
        }
        self.check_consent(grant, &asked)?;
        Ok(asked)
    }

    fn check_consent(&self, grant: &Grant, scopes: &[String]) -> Result<(), OAuthError> {
        match self
            .state
            .missing_consent(&grant.login, &grant.client_id, scopes)
        {
            Some(needed) => Err(OAuthError {
                error: needed.error.clone(),
                description: "the user has to allow this",
                claims: needed.claims.clone(),
            }),
            None => Ok(()),
        }
    }

    fn client_credentials(
        &mut self,
        client: &TestClient,
        params: &Params,
    ) -> Result<Members, OAuthError> {
        if client.auth == ClientAuth::None {
            return Err(OAuthError::new("unauthorized_client", "a public client"));
        }
        let scopes = params.words("scope");
        self.shared.events.push(Event::TokensIssued {
            client_id: client.id.clone(),
            subject: None,
            grant_type: "client_credentials".to_owned(),
            scopes: scopes.clone(),
        });
        let audience = audience(params, &[]);
        Ok(self.access_token(client, None, scopes, audience).0)
    }

    /// Token exchange (RFC 8693) and Entra's on-behalf-of: a user's access
    /// token for another one.
    fn downstream(
        &mut self,
        client: &TestClient,
        params: &Params,
        subject_param: &str,
    ) -> Result<Members, OAuthError> {
        let exchange = subject_param == "subject_token";
        if exchange && params.get("subject_token_type") != Some(ACCESS_TOKEN_TYPE) {
            return Err(OAuthError::new("invalid_request", "subject_token_type"));
        }
        if exchange
            && params
                .get("requested_token_type")
                .is_some_and(|wanted| wanted != ACCESS_TOKEN_TYPE)
        {
            return Err(OAuthError::new("invalid_request", "requested_token_type"));
        }
        if !exchange && params.get("requested_token_use") != Some("on_behalf_of") {
            return Err(OAuthError::new("invalid_request", "requested_token_use"));
        }
        let subject_token = params.get(subject_param).unwrap_or_default();
        let grant_index = self
            .state
            .access_tokens
            .get(subject_token)
            .filter(|token| self.state.access_token_active(token))
            .and_then(|token| token.grant)
            .ok_or_else(|| OAuthError::new("invalid_grant", "the subject token is not good"))?;
        let grant = self.state.grants[grant_index].clone();
        let scopes = params.words("scope");
        self.check_consent(&grant, &scopes)?;
        self.shared.events.push(Event::TokensIssued {
            client_id: client.id.clone(),
            subject: Some(grant.subject.clone()),
            grant_type: params.owned("grant_type").unwrap_or_default(),
            scopes: scopes.clone(),
        });
        let audience = audience(params, &[]);
        let (mut members, _) = self.access_token(client, Some(grant_index), scopes, audience);
        if exchange {
            members.insert("issued_token_type".to_owned(), ACCESS_TOKEN_TYPE.into());
        }
        Ok(members)
    }

    fn reused(&mut self, grant: usize) {
        let grant = &mut self.state.grants[grant];
        grant.revoked = true;
        self.shared.events.push(Event::ReuseDetected {
            client_id: grant.client_id.clone(),
            subject: grant.subject.clone(),
        });
    }

    fn access_token(
        &mut self,
        client: &TestClient,
        grant: Option<usize>,
        scopes: Vec<String>,
        mut audience: Vec<String>,
    ) -> (Members, String) {
        let lifetime = self
            .active
            .access_token_lifetime()
            .unwrap_or(self.shared.habits.access_token_lifetime)
            .as_secs();
        let issued = self.state.now();
        let expires = issued.saturating_add_unsigned(lifetime);
        if audience.is_empty() {
            audience.push(self.shared.issuer.clone());
        }
        let subject = grant.map_or(client.id.clone(), |grant| {
            self.state.grants[grant].subject.clone()
        });
        let token = if self.shared.habits.jwt_access_tokens {
            let jti = self.state.new_secret();
            JwtBuilder::new(
                self.shared,
                self.state.keys.clone(),
                &TestClient::new(&client.id),
                "at+jwt",
                issued,
            )
            .claim("iss", self.shared.issuer.as_str())
            .claim("sub", subject)
            .claim("aud", audience.clone())
            .claim("client_id", client.id.as_str())
            .claim("scope", scopes.join(" "))
            .claim("iat", issued)
            .claim("exp", expires)
            .claim("jti", jti)
            .compact()
        } else {
            self.state.new_secret()
        };
        self.state.note_secret(&token);
        let mut members = Members::new();
        members.insert("access_token".to_owned(), token.as_str().into());
        members.insert("token_type".to_owned(), "Bearer".into());
        members.insert("expires_in".to_owned(), lifetime.into());
        members.insert("scope".to_owned(), scopes.join(" ").into());
        let record = AccessToken {
            client_id: client.id.clone(),
            grant,
            scopes,
            audience,
            issued,
            expires,
            revoked: false,
        };
        self.state.access_tokens.insert(token.clone(), record);
        (members, token)
    }

    fn refresh_token(&mut self, grant: usize) -> String {
        let token = self.state.new_secret();
        let record = RefreshToken {
            grant,
            retired: false,
            revoked: false,
        };
        self.state.refresh_tokens.insert(token.clone(), record);
        token
    }

    fn id_token(
        &mut self,
        client: &TestClient,
        grant: &Grant,
        access_token: &str,
        members: &mut Members,
    ) {
        let faults = self.active.id_token();
        if !grant.scopes.iter().any(|scope| scope == "openid")
            || faults.contains(&IdTokenFault::Missing)
        {
            return;
        }
        let mut token = id_token(self.shared, self.state, client, grant)
            .claim("at_hash", base64url(&sha256(access_token).as_ref()[..16]));
        for fault in &faults {
            token = token.fault(fault);
        }
        let token = token.compact();
        self.state.note_secret(&token);
        let record = IdToken {
            client_id: client.id.clone(),
            sid: grant.sid.clone(),
            login: grant.login.clone(),
        };
        self.state.id_tokens.insert(token.clone(), record);
        members.insert("id_token".to_owned(), token.into());
    }
}

/// A good ID token for a grant.
pub(super) fn id_token(
    shared: &Arc<Shared>,
    state: &state::State,
    client: &TestClient,
    grant: &Grant,
) -> JwtBuilder {
    let now = state.now();
    let mut token = JwtBuilder::new(shared, state.keys.clone(), client, "JWT", now);
    if let Some(user) = state.users.get(&grant.login) {
        for (name, value) in &user.claims {
            token = token.claim(name, value.clone());
        }
    }
    if let Some(nonce) = &grant.nonce {
        token = token.claim("nonce", nonce.as_str());
    }
    if let Some(acr) = &grant.acr {
        token = token.claim("acr", acr.as_str());
    }
    let lifetime = shared.habits.id_token_lifetime.as_secs();
    token
        .claim("iss", shared.issuer.as_str())
        .claim("sub", grant.subject.as_str())
        .claim("aud", client.id.as_str())
        .claim("azp", client.id.as_str())
        .claim("iat", now)
        .claim("exp", now.saturating_add_unsigned(lifetime))
        .claim("auth_time", grant.auth_time)
        .claim("sid", grant.sid.as_str())
}

fn audience(params: &Params, granted: &[String]) -> Vec<String> {
    let asked: Vec<String> = params
        .all("resource")
        .chain(params.all("audience"))
        .map(str::to_owned)
        .collect();
    if asked.is_empty() {
        granted.to_vec()
    } else {
        asked
    }
}

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
