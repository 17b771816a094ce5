//! The authorization endpoint, and the sign-in and consent pages behind it.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{RawQuery, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use url::Url;

use super::{
    Shared,
    config::{ClientAuth, TestClient},
    events::Event,
    faults::Endpoint,
    pages,
    params::Params,
    state::{self, AuthorizeRequest, Code, Grant, Session},
};

const CODE_LIFETIME: i64 = 60;

/// What is wrong with a request: a page where the redirect URI cannot be
/// trusted, an answer to the client otherwise.
#[derive(Debug)]
enum Refusal {
    Page(&'static str),
    Answer(&'static str, &'static str),
}

/// What the browser gets next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Login,
    Consent,
    Code,
    Refuse(&'static str, &'static str),
}

pub(super) fn request_params(method: &Method, query: Option<&str>, body: &[u8]) -> Params {
    if method == Method::POST {
        Params::parse(body)
    } else {
        Params::parse(query.unwrap_or_default().as_bytes())
    }
}

pub(super) async fn authorize(
    State(shared): State<Arc<Shared>>,
    method: Method,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Response {
    let params = request_params(&method, query.as_deref(), &body);
    let client_id = params.owned("client_id").unwrap_or_default();
    shared.events.push(Event::Authorize {
        client_id: client_id.clone(),
        params: params.without(&["state", "nonce", "code_challenge", "id_token_hint"]),
    });
    let mut state = shared.lock();
    state.note_secrets_of(&params);

    let Some((client, redirect_uri)) = recipient(&state, &params) else {
        drop(state);
        return refuse_with_page(&shared, client_id, "unknown client or redirect URI");
    };
    let mut request = bare_request(&params, redirect_uri);
    match check(&client, &params, &mut request) {
        Ok(()) => {}
        Err(Refusal::Page(why)) => {
            drop(state);
            return refuse_with_page(&shared, client_id, why);
        }
        Err(Refusal::Answer(error, why)) => {
            drop(state);
            return refuse(&shared, &request, error, why);
        }
    }

    let cookie = shared.session_cookie(&headers);
    let session = cookie
        .as_deref()
        .and_then(|cookie| state.sessions.get(cookie));
    match decide(&state, &params, &request, session) {
        Step::Login => {
            let interaction = state.new_secret();
            state
                .interactions
                .insert(interaction.clone(), request.clone());
            pages::login(&interaction, &request, state.users.values())
        }
        Step::Consent => {
            let interaction = state.new_secret();
            state
                .interactions
                .insert(interaction.clone(), request.clone());
            pages::consent(&interaction, &request)
        }
        Step::Code => {
            let cookie = cookie.unwrap_or_default();
            issue_code(&shared, &mut state, &request, &cookie)
        }
        Step::Refuse(error, why) => {
            drop(state);
            refuse(&shared, &request, error, why)
        }
    }
}

/// The client and the URI to answer to, when both are registered.
fn recipient(state: &state::State, params: &Params) -> Option<(TestClient, String)> {
    let client = state.clients.get(params.get("client_id")?)?;
    let redirect_uri = params.get("redirect_uri")?;
    client
        .redirect_uris
        .iter()
        .any(|registered| registered == redirect_uri)
        .then(|| (client.clone(), redirect_uri.to_owned()))
}

fn bare_request(params: &Params, redirect_uri: String) -> AuthorizeRequest {
    AuthorizeRequest {
        client_id: params.owned("client_id").unwrap_or_default(),
        redirect_uri,
        form_post: params.get("response_mode") == Some("form_post"),
        state: params.owned("state"),
        nonce: params.owned("nonce"),
        scopes: params.words("scope"),
        code_challenge: params.owned("code_challenge"),
        resources: params.all("resource").map(str::to_owned).collect(),
        acr: params.words("acr_values").into_iter().next(),
        login_hint: params.owned("login_hint"),
        locale: params
            .words("ui_locales")
            .into_iter()
            .next()
            .unwrap_or_else(|| "en".to_owned()),
        force_consent: params.words("prompt").iter().any(|p| p == "consent"),
    }
}

fn check(
    client: &TestClient,
    params: &Params,
    request: &mut AuthorizeRequest,
) -> Result<(), Refusal> {
    if matches!(params.doubled(), Some("client_id" | "redirect_uri")) {
        return Err(Refusal::Page("doubled parameter"));
    }
    if params.doubled().is_some() {
        return Err(Refusal::Answer("invalid_request", "doubled parameter"));
    }
    match params.get("response_mode") {
        None | Some("query" | "form_post") => {}
        Some(_) => return Err(Refusal::Answer("invalid_request", "unknown response_mode")),
    }
    match params.get("response_type") {
        Some("code") => {}
        None => {
            return Err(Refusal::Answer(
                "invalid_request",
                "response_type is missing",
            ));
        }
        Some(_) => return Err(Refusal::Answer("unsupported_response_type", "only code")),
    }
    if params.get("request").is_some() {
        return Err(Refusal::Answer("request_not_supported", "request"));
    }
    if params.get("request_uri").is_some() {
        return Err(Refusal::Answer("request_uri_not_supported", "request_uri"));
    }
    match (&request.code_challenge, params.get("code_challenge_method")) {
        (Some(_), Some("S256")) => {}
        (Some(_), _) => return Err(Refusal::Answer("invalid_request", "PKCE needs S256")),
        (None, _) if client.auth == ClientAuth::None => {
            return Err(Refusal::Answer(
                "invalid_request",
                "a public client needs PKCE",
            ));
        }
        (None, _) => {}
    }
    const PROMPTS: [&str; 4] = ["none", "login", "consent", "select_account"];
    let prompt = params.words("prompt");
    if prompt
        .iter()
        .any(|value| !PROMPTS.contains(&value.as_str()))
        || (prompt.len() > 1 && prompt.iter().any(|value| value == "none"))
    {
        return Err(Refusal::Answer("invalid_request", "prompt"));
    }
    if params
        .get("max_age")
        .is_some_and(|age| age.parse::<u32>().is_err())
    {
        return Err(Refusal::Answer("invalid_request", "max_age"));
    }
    if !request
        .resources
        .iter()
        .all(|resource| is_resource(resource))
    {
        return Err(Refusal::Answer("invalid_target", "resource"));
    }
    Ok(())
}

/// RFC 8707, section 2: an absolute URI without a fragment.
pub(super) fn is_resource(resource: &str) -> bool {
    Url::parse(resource).is_ok_and(|url| url.fragment().is_none())
}

fn decide(
    state: &state::State,
    params: &Params,
    request: &AuthorizeRequest,
    session: Option<&Session>,
) -> Step {
    let prompt = params.words("prompt");
    let prompts = |value: &str| prompt.iter().any(|candidate| candidate == value);
    let hinted = params
        .get("id_token_hint")
        .map(|hint| state.id_tokens.get(hint));
    // Somebody else whom the provider knows; a hint that means nobody changes nothing.
    let expected = request
        .login_hint
        .as_deref()
        .and_then(|hint| state.users.values().find(|user| user.is_hinted(hint)));
    let session = session.filter(|session| {
        let too_old = params
            .get("max_age")
            .and_then(|age| age.parse::<i64>().ok())
            .is_some_and(|age| state.now() - session.auth_time > age);
        let another = hinted
            .is_some_and(|hint| hint.is_none_or(|hint| hint.login != session.login))
            || expected.is_some_and(|user| user.login != session.login);
        !too_old && !another
    });
    let Some(session) = session else {
        return if prompts("none") {
            Step::Refuse("login_required", "nobody is signed in")
        } else {
            Step::Login
        };
    };
    if prompts("login") || prompts("select_account") {
        return Step::Login;
    }
    let missing = state
        .missing_consent(&session.login, &request.client_id, &request.scopes)
        .is_some();
    match (missing || request.force_consent, prompts("none")) {
        (true, true) => Step::Refuse("consent_required", "the user has to allow this"),
        (true, false) => Step::Consent,
        (false, _) => Step::Code,
    }
}

pub(super) async fn login(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = Params::parse(&body);
    let mut state = shared.lock();
    let Some(request) = params
        .get("interaction")
        .and_then(|interaction| state.interactions.remove(interaction))
    else {
        return pages::error("This sign-in page was used already.");
    };
    if params.get("cancel").is_some() {
        drop(state);
        return refuse(&shared, &request, "access_denied", "the user cancelled");
    }
    let Some(user) = params
        .get("user")
        .and_then(|login| state.users.get(login))
        .cloned()
    else {
        return pages::error("Nobody by that name.");
    };
    let cookie = state.sign_in(shared.session_cookie(&headers).as_deref(), &user);
    if let Some(session) = state.sessions.get(&cookie) {
        shared.events.push(Event::SignedIn {
            subject: session.subject.clone(),
            sid: session.sid.clone(),
        });
    }
    let needs_consent = request.force_consent
        || state
            .missing_consent(&user.login, &request.client_id, &request.scopes)
            .is_some();
    let mut response = if needs_consent {
        let interaction = state.new_secret();
        state
            .interactions
            .insert(interaction.clone(), request.clone());
        pages::consent(&interaction, &request)
    } else {
        issue_code(&shared, &mut state, &request, &cookie)
    };
    shared.set_session_cookie(&mut response, Some(&cookie));
    response
}

pub(super) async fn consent(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let params = Params::parse(&body);
    let mut state = shared.lock();
    let Some(request) = params
        .get("interaction")
        .and_then(|interaction| state.interactions.remove(interaction))
    else {
        return pages::error("This page was used already.");
    };
    let cookie = shared.session_cookie(&headers).unwrap_or_default();
    let Some(login) = state.sessions.get(&cookie).map(|s| s.login.clone()) else {
        drop(state);
        return refuse(&shared, &request, "login_required", "the session has ended");
    };
    if params.get("allow") != Some("yes") {
        drop(state);
        return refuse(&shared, &request, "access_denied", "the user said no");
    }
    state.consent(&login, &request.client_id, &request.scopes);
    issue_code(&shared, &mut state, &request, &cookie)
}

fn issue_code(
    shared: &Shared,
    state: &mut state::State,
    request: &AuthorizeRequest,
    cookie: &str,
) -> Response {
    let Some(session) = state.sessions.get_mut(cookie) else {
        return pages::error("The session has ended.");
    };
    session.clients.insert(request.client_id.clone());
    let grant = Grant {
        client_id: request.client_id.clone(),
        login: session.login.clone(),
        subject: session.subject.clone(),
        sid: session.sid.clone(),
        scopes: request.scopes.clone(),
        resources: request.resources.clone(),
        nonce: request.nonce.clone(),
        acr: request.acr.clone(),
        auth_time: session.auth_time,
        revoked: false,
    };
    shared.events.push(Event::CodeIssued {
        client_id: grant.client_id.clone(),
        subject: grant.subject.clone(),
        sid: grant.sid.clone(),
    });
    state.grants.push(grant);
    let code = state.new_secret();
    let expires = state.now() + CODE_LIFETIME;
    let record = Code {
        grant: state.grants.len() - 1,
        redirect_uri: request.redirect_uri.clone(),
        code_challenge: request.code_challenge.clone(),
        expires,
        used: false,
    };
    state.codes.insert(code.clone(), record);
    answer(shared, request, vec![("code".to_owned(), code)])
}

fn refuse(
    shared: &Shared,
    request: &AuthorizeRequest,
    error: &'static str,
    why: &'static str,
) -> Response {
    shared.events.push(Event::AuthorizeRefused {
        client_id: request.client_id.clone(),
        error: error.to_owned(),
    });
    let fields = vec![
        ("error".to_owned(), error.to_owned()),
        ("error_description".to_owned(), why.to_owned()),
    ];
    answer(shared, request, fields)
}

fn refuse_with_page(shared: &Shared, client_id: String, why: &'static str) -> Response {
    shared.events.push(Event::AuthorizeRefused {
        client_id,
        error: "invalid_request".to_owned(),
    });
    pages::error(&format!("The request was refused: {why}."))
}

/// Sends the browser back to the client.
fn answer(
    shared: &Shared,
    request: &AuthorizeRequest,
    mut fields: Vec<(String, String)>,
) -> Response {
    if let Some(state) = &request.state {
        fields.push(("state".to_owned(), state.clone()));
    }
    if shared.habits.response_iss {
        fields.push(("iss".to_owned(), shared.issuer.clone()));
    }
    shared
        .faults
        .edit_redirect(Endpoint::Authorize, &mut fields);
    if request.form_post {
        return pages::form_post(&request.redirect_uri, &fields);
    }
    let Ok(mut target) = Url::parse(&request.redirect_uri) else {
        return pages::error("The redirect URI that was registered is not a URL.");
    };
    target.query_pairs_mut().extend_pairs(fields);
    redirect(target.as_str())
}

pub(super) fn redirect(target: &str) -> Response {
    (
        StatusCode::SEE_OTHER,
        [
            (header::LOCATION, target),
            (header::CACHE_CONTROL, "no-store"),
        ],
    )
        .into_response()
}
