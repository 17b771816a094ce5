//! The token endpoint.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value};

use super::{
    Shared,
    authorize::is_resource,
    client_auth::{OAuthError, authenticate, claimed_client, no_store},
    config::{ClientAuth, TestClient},
    events::Event,
    faults::{Active, IdTokenFault},
    keys::{JwtBuilder, base64url, sha256},
    params::Params,
    state::{self, AccessToken, Grant, IdToken, RefreshToken},
};

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

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
