//! The provider against clients that are made up, and against a server on loopback.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{self, Method, header};
use oauth2::{HttpRequest, HttpResponse};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::*;
use crate::clock::{ManualClock, Timestamp};
use crate::error::ConfigError;
use crate::jwt::JwtError;
use crate::jwt::SigningAlgorithm;
use crate::jwt::id_token::{Expectations, IdTokenError};
use crate::jwt::test_keys::{CLIENT_SECRET, rsa_jwk, test_keys};
use crate::secret::Secret;
use crate::token::IdToken;

const ISSUER: &str = "https://op.example.com";
const NOW: i64 = 1_800_000_000;

/// A provider behind a client that answers from a table and counts.
#[derive(Default)]
struct Fake {
    metadata: Mutex<Answer>,
    keys: Mutex<Answer>,
    token: Mutex<VecDeque<Answer>>,
    metadata_requests: AtomicUsize,
    key_requests: AtomicUsize,
    seen: Mutex<Vec<HttpRequest>>,
    /// If set, each request takes a permit before it is answered.
    gate: Option<Semaphore>,
}

#[derive(Clone, Default)]
enum Answer {
    #[default]
    Refused,
    Lost,
    Never,
    Status(u16, Vec<(&'static str, &'static str)>, String),
}

fn ok(body: impl ToString) -> Answer {
    Answer::Status(200, Vec::new(), body.to_string())
}

fn status(code: u16, body: impl ToString) -> Answer {
    Answer::Status(code, Vec::new(), body.to_string())
}

fn metadata_document() -> Value {
    json!({
        "issuer": ISSUER,
        "authorization_endpoint": "https://op.example.com/authorize?tenant=a",
        "token_endpoint": "https://op.example.com/token",
        "jwks_uri": "https://op.example.com/keys",
        "end_session_endpoint": "https://op.example.com/logout?x=1",
        "revocation_endpoint": "https://op.example.com/revoke",
    })
}

impl Fake {
    fn up() -> Self {
        Self {
            metadata: Mutex::new(ok(metadata_document())),
            keys: Mutex::new(ok(test_keys().jwks())),
            ..Self::default()
        }
    }

    fn count(&self) -> (usize, usize) {
        (
            self.metadata_requests.load(Ordering::SeqCst),
            self.key_requests.load(Ordering::SeqCst),
        )
    }

    fn set_metadata(&self, answer: Answer) {
        *self.metadata.lock().unwrap() = answer;
    }

    fn set_keys(&self, answer: Answer) {
        *self.keys.lock().unwrap() = answer;
    }

    fn next_token_answer(&self, answer: Answer) {
        self.token.lock().unwrap().push_back(answer);
    }

    fn last_form(&self) -> (HttpRequest, Vec<(String, String)>) {
        let request = self.seen.lock().unwrap().last().unwrap().clone();
        let form = url::form_urlencoded::parse(request.body())
            .into_owned()
            .collect();
        (request, form)
    }

    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, std::io::Error> {
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let answer = match request.uri().path() {
            "/.well-known/openid-configuration" => {
                self.metadata_requests.fetch_add(1, Ordering::SeqCst);
                self.metadata.lock().unwrap().clone()
            }
            "/keys" => {
                self.key_requests.fetch_add(1, Ordering::SeqCst);
                self.keys.lock().unwrap().clone()
            }
            _ => self.token.lock().unwrap().pop_front().unwrap_or_default(),
        };
        self.seen.lock().unwrap().push(request);
        match answer {
            Answer::Refused => Err(std::io::ErrorKind::ConnectionRefused.into()),
            Answer::Lost => Err(std::io::ErrorKind::ConnectionReset.into()),
            Answer::Never => std::future::pending().await,
            Answer::Status(code, headers, body) => {
                let mut response = http::Response::builder().status(code);
                for (name, value) in headers {
                    response = response.header(name, value);
                }
                Ok(response.body(body.into_bytes()).unwrap())
            }
        }
    }
}

struct World {
    fake: Arc<Fake>,
    clock: Arc<ManualClock>,
    provider: Provider,
}

fn world(fake: Fake) -> World {
    world_with(fake, |builder| builder.client_secret(CLIENT_SECRET))
}

fn world_with(fake: Fake, set: impl FnOnce(ProviderBuilder) -> ProviderBuilder) -> World {
    let fake = Arc::new(fake);
    let clock = Arc::new(ManualClock::at(Timestamp::from_secs(NOW)));
    let client = {
        let fake = Arc::clone(&fake);
        move |request: HttpRequest| {
            let fake = Arc::clone(&fake);
            async move { fake.answer(request).await }
        }
    };
    let builder = Provider::discover(ISSUER, "my-app")
        .http_client(client)
        .clock(clock.clone());
    World {
        provider: set(builder).build().unwrap(),
        fake,
        clock,
    }
}

fn id_token(key: &str) -> IdToken {
    let claims = json!({"iss": ISSUER, "aud": "my-app", "sub": "ann", "nonce": "n",
        "iat": NOW, "exp": NOW + 86_400 * 30});
    let header = json!({"alg": "RS256", "kid": key});
    IdToken::new(test_keys().token(SigningAlgorithm::Rs256, &header, &claims))
}

async fn verify(provider: &Provider, token: &IdToken) -> Result<(), VerifyError<IdTokenError>> {
    let expected = Expectations::sign_in("n");
    provider.verify_id_token(token, &expected).await.map(drop)
}

// Discovery.

#[tokio::test]
async fn building_makes_no_request_and_ready_makes_two_r45() {
    let w = world(Fake::up());
    assert_eq!(w.fake.count(), (0, 0));
    assert!(w.provider.known_metadata().is_none());
    w.provider.ready().await.unwrap();
    w.provider.ready().await.unwrap();
    assert_eq!(w.fake.count(), (1, 1));
    let metadata = w.provider.known_metadata().unwrap();
    assert_eq!(
        metadata.end_session_endpoint.as_ref().unwrap().as_str(),
        "https://op.example.com/logout?x=1"
    );
}

#[tokio::test]
async fn a_provider_that_was_down_works_soon_after_it_is_back_r45() {
    let w = world(Fake::default());
    let mut pauses = Vec::new();
    for _ in 0..7 {
        let error = w.provider.metadata().await.unwrap_err();
        assert_eq!(&*error.reason, "the provider cannot be reached");
        pauses.push(error.retry_after.as_secs());
        // Within the pause nothing is sent.
        let requests = w.fake.count();
        w.clock
            .advance(error.retry_after - Duration::from_millis(1));
        assert!(w.provider.metadata().await.is_err());
        assert_eq!(w.fake.count(), requests);
        w.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    w.fake.set_metadata(ok(metadata_document()));
    w.fake.set_keys(ok(test_keys().jwks()));
    w.provider.ready().await.unwrap();
}

#[tokio::test]
async fn a_crate_error_tells_when_to_come_back() {
    let w = world(Fake::default());
    let error = w.provider.ready().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProviderUnavailable);
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
}

/// R1, R45.
#[tokio::test]
async fn metadata_that_is_refused() {
    let with = |name: &str, value: Value| {
        let mut document = metadata_document();
        document[name] = value;
        ok(document)
    };
    let without = |name: &str| {
        let mut document = metadata_document();
        document.as_object_mut().unwrap().remove(name);
        ok(document)
    };
    let rows: Vec<(&str, Answer, &str)> = vec![
        (
            "another issuer",
            with("issuer", "https://evil.example.com".into()),
            "exactly",
        ),
        (
            "a slash more",
            with("issuer", "https://op.example.com/".into()),
            "exactly",
        ),
        (
            "other case",
            with("issuer", "https://OP.example.com".into()),
            "exactly",
        ),
        ("no issuer", without("issuer"), "no issuer"),
        ("issuer is a number", with("issuer", 1.into()), "no issuer"),
        (
            "no authorization endpoint",
            without("authorization_endpoint"),
            "no authorization_endpoint",
        ),
        (
            "no token endpoint",
            without("token_endpoint"),
            "no token_endpoint",
        ),
        ("no keys", without("jwks_uri"), "no jwks_uri"),
        (
            "plain token endpoint",
            with("token_endpoint", "http://op.example.com/t".into()),
            "https",
        ),
        (
            "token endpoint on this machine",
            with("token_endpoint", "http://127.0.0.1/t".into()),
            "https",
        ),
        (
            "keys in a file",
            with("jwks_uri", "file:///etc/passwd".into()),
            "https",
        ),
        (
            "script",
            with("authorization_endpoint", "javascript:alert(1)".into()),
            "https",
        ),
        (
            "fragment",
            with("authorization_endpoint", "https://op.example.com/#a".into()),
            "fragment",
        ),
        (
            "user name",
            with("authorization_endpoint", "https://u@op.example.com/".into()),
            "user name",
        ),
        (
            "line break",
            with(
                "authorization_endpoint",
                "https://op.example.com/\r\nx".into(),
            ),
            "control",
        ),
        (
            "relative",
            with("token_endpoint", "/token".into()),
            "relative",
        ),
        ("not JSON", ok("<html>"), "not a JSON object"),
        ("an array", ok("[]"), "not a JSON object"),
        ("empty", ok(""), "not a JSON object"),
        (
            "nested too deep",
            ok("[".repeat(100_000)),
            "not a JSON object",
        ),
        (
            "redirect",
            Answer::Status(
                302,
                vec![("location", "https://evil.example.com")],
                String::new(),
            ),
            "redirect",
        ),
        ("not found", status(404, metadata_document()), "404"),
        ("broken", status(500, metadata_document()), "500"),
        ("no content", status(204, ""), "204"),
        (
            "oversize",
            ok(" ".repeat(super::http::BODY_LIMIT + 1)),
            "too large",
        ),
        ("reset", Answer::Lost, "lost"),
    ];
    for (name, answer, reason) in rows {
        let w = world(Fake::up());
        w.fake.set_metadata(answer);
        let error = w.provider.metadata().await.unwrap_err();
        assert!(error.reason.contains(reason), "{name}: {}", error.reason);
        assert!(w.provider.known_metadata().is_none(), "{name}");
    }
}

/// R1.
#[tokio::test]
async fn broken_optional_metadata_is_left_out_a4() {
    for bad in [
        json!("http://op.example.com/logout"),
        json!("not a url"),
        json!(""),
        json!(7),
        json!(["https://op.example.com/logout"]),
        json!(null),
    ] {
        let w = world(Fake::up());
        let mut document = metadata_document();
        document["end_session_endpoint"] = bad.clone();
        document["authorization_response_iss_parameter_supported"] = json!("yes");
        w.fake.set_metadata(ok(document));
        let metadata = w.provider.metadata().await.unwrap();
        assert!(metadata.end_session_endpoint.is_none(), "{bad}");
        assert!(metadata.revocation_endpoint.is_some());
        assert!(!metadata.iss_parameter);
    }
}

#[tokio::test]
async fn one_discovery_for_everybody_who_waits_and_none_of_them_can_stop_it() {
    let w = world(Fake {
        gate: Some(Semaphore::new(0)),
        ..Fake::up()
    });
    let mut waiting: Vec<_> = (0..50)
        .map(|_| {
            let provider = w.provider.clone();
            tokio::spawn(async move { provider.metadata().await.is_ok() })
        })
        .collect();
    settle().await;
    // The one that started it goes away while the request is under way.
    let first = waiting.remove(0);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    w.fake.gate.as_ref().unwrap().add_permits(1);
    for task in waiting {
        assert!(task.await.unwrap());
    }
    assert_eq!(w.fake.count(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_is_given_up_and_a_sign_out_does_not_wait_so_long() {
    let w = world(Fake::up());
    w.fake.set_metadata(Answer::Never);
    let start = tokio::time::Instant::now();
    let none = w.provider.metadata_within(Duration::from_secs(2)).await;
    assert!(none.is_none());
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    let error = w.provider.metadata().await.unwrap_err();
    assert!(error.reason.contains("in time"), "{}", error.reason);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn old_metadata_is_used_while_newer_is_fetched_and_when_there_is_none() {
    let w = world(Fake::up());
    let old = w.provider.metadata().await.unwrap();
    w.clock.advance(Duration::from_secs(3601));
    w.fake.set_metadata(Answer::Refused);
    assert_eq!(w.provider.metadata().await.unwrap(), old);
    settle().await;
    assert_eq!(w.fake.count().0, 2);
    let mut document = metadata_document();
    document["end_session_endpoint"] = json!("https://op.example.com/new");
    w.fake.set_metadata(ok(document));
    w.clock.advance(Duration::from_secs(2));
    assert_eq!(w.provider.metadata().await.unwrap(), old);
    settle().await;
    assert_ne!(w.provider.metadata().await.unwrap(), old);
    assert_eq!(w.fake.count().0, 3);
}

/// Lets tasks run that wait for nothing but their turn.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let w = world(Fake::up());
    let outcome = futures_util::FutureExt::now_or_never(w.provider.metadata()).unwrap();
    assert!(outcome.is_err());
}

#[test]
fn a_fetch_whose_runtime_went_away_is_made_again() {
    let w = world(Fake {
        gate: Some(Semaphore::new(0)),
        ..Fake::up()
    });
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let first = runtime();
    let hangs = first.block_on(w.provider.metadata_within(Duration::from_millis(5)));
    assert!(hangs.is_none());
    drop(first);
    w.fake.gate.as_ref().unwrap().add_permits(9);
    w.clock.advance(Duration::from_secs(1));
    assert!(runtime().block_on(w.provider.metadata()).is_ok());
}

// Keys.

#[tokio::test]
async fn a_new_key_is_found_by_one_refetch_and_old_ones_stay_until_then_r26() {
    let w = world(Fake::up());
    verify(&w.provider, &id_token("rsa")).await.unwrap();
    w.fake
        .set_keys(ok(json!({"keys": [rsa_jwk(&test_keys().rsa, "rotated")]})));
    // Within the pause after the first fetch nothing is sent.
    assert!(verify(&w.provider, &id_token("rotated")).await.is_err());
    assert_eq!(w.fake.count().1, 1);
    w.clock.advance(Duration::from_secs(10));
    verify(&w.provider, &id_token("rsa")).await.unwrap();
    assert_eq!(w.fake.count().1, 1);
    verify(&w.provider, &id_token("rotated")).await.unwrap();
    assert_eq!(w.fake.count().1, 2);
    // The old one is gone with its set.
    assert!(verify(&w.provider, &id_token("rsa")).await.is_err());
}

#[tokio::test]
async fn keys_that_cannot_be_had_leave_the_old_ones_r26() {
    for rubbish in [
        Answer::Refused,
        Answer::Lost,
        status(500, "{}"),
        ok("rubbish"),
        ok(json!({"keys": []})),
        ok(json!({"keys": [{"kty": "oct", "k": "AAAA"}]})),
    ] {
        let w = world(Fake::up());
        verify(&w.provider, &id_token("rsa")).await.unwrap();
        w.fake.set_keys(rubbish);
        w.clock.advance(Duration::from_secs(10));
        assert!(verify(&w.provider, &id_token("other")).await.is_err());
        assert_eq!(w.fake.count().1, 2);
        verify(&w.provider, &id_token("rsa")).await.unwrap();
        // Nor when they are past their time.
        w.clock.advance(Duration::from_secs(3600));
        verify(&w.provider, &id_token("rsa")).await.unwrap();
        assert_eq!(w.fake.count().1, 3);
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_one_request_in_each_pause_r26() {
    let w = world(Fake::up());
    verify(&w.provider, &id_token("rsa")).await.unwrap();
    for pause in 0..5 {
        w.clock.advance(Duration::from_secs(10));
        let flood: Vec<_> = (0..200)
            .map(|n| {
                let provider = w.provider.clone();
                let token = id_token(&format!("forged-{pause}-{n}"));
                tokio::spawn(async move { verify(&provider, &token).await })
            })
            .collect();
        for task in flood {
            let refused = task.await.unwrap().unwrap_err();
            let (VerifyError::Refused(reason) | VerifyError::NoNewerKeys(reason)) = refused else {
                panic!("there are keys: {refused}");
            };
            assert!(matches!(reason, IdTokenError::Jwt(JwtError::UnknownKey)));
        }
        assert_eq!(w.fake.count().1, 2 + pause);
    }
}

#[tokio::test]
async fn a_wrong_signature_by_a_known_key_makes_no_request() {
    let w = world(Fake::up());
    verify(&w.provider, &id_token("rsa")).await.unwrap();
    w.clock.advance(Duration::from_secs(10));
    let mut text = id_token("rsa").secret().to_owned();
    let at = text.len() - 4;
    let flipped = if text[at..].starts_with('A') {
        "Q"
    } else {
        "A"
    };
    text.replace_range(at..=at, flipped);
    assert!(verify(&w.provider, &IdToken::new(text)).await.is_err());
    assert_eq!(w.fake.count().1, 1);
}

#[tokio::test]
async fn without_keys_a_token_is_neither_good_nor_bad() {
    let w = world(Fake::up());
    w.fake.set_keys(Answer::Refused);
    let error = verify(&w.provider, &id_token("rsa")).await.unwrap_err();
    assert!(matches!(error, VerifyError::Unavailable(_)));
    assert_eq!(Error::from(error).kind(), ErrorKind::ProviderUnavailable);
}

#[tokio::test]
async fn keys_past_their_time_are_replaced_before_they_are_used() {
    let w = world(Fake::up());
    verify(&w.provider, &id_token("rsa")).await.unwrap();
    w.fake
        .set_keys(ok(json!({"keys": [rsa_jwk(&test_keys().rsa, "rotated")]})));
    w.clock.advance(Duration::from_secs(3600));
    assert!(verify(&w.provider, &id_token("rsa")).await.is_err());
}

#[tokio::test]
async fn hmac_needs_no_keys_from_anywhere() {
    let w = world_with(Fake::default(), |builder| {
        builder
            .client_secret(CLIENT_SECRET)
            .id_token_algorithms([SigningAlgorithm::Hs256])
    });
    let claims = json!({"iss": ISSUER, "aud": "my-app", "sub": "ann", "nonce": "n",
        "iat": NOW, "exp": NOW + 60});
    let token = test_keys().token(SigningAlgorithm::Hs256, &json!({"alg": "HS256"}), &claims);
    verify(&w.provider, &IdToken::new(token)).await.unwrap();
    assert_eq!(w.fake.count(), (0, 0));
}

// Requests.

#[tokio::test]
async fn nothing_leaves_in_the_clear_even_if_an_endpoint_slipped_through() {
    let fake = Arc::new(Fake::up());
    let client = {
        let fake = Arc::clone(&fake);
        move |request: HttpRequest| {
            let fake = Arc::clone(&fake);
            async move { fake.answer(request).await }
        }
    };
    let http = super::http::Http::new(client, Duration::from_secs(1));
    for url in [
        "http://op.example.com/keys",
        "/keys",
        "ftp://localhost/keys",
    ] {
        let outcome = super::http::get_json(&http, url).await;
        assert!(outcome.is_err(), "{url}");
    }
    assert_eq!(fake.count().1, 0);
    let outcome = super::http::get_json(&http, "http://localhost/keys").await;
    assert!(outcome.is_ok());
}

#[tokio::test]
async fn the_authorization_url_has_what_it_must_and_keeps_what_the_endpoint_had() {
    let w = world_with(Fake::up(), |builder| {
        builder
            .scopes(["profile", "offline_access"])
            .resource("https://api.example.com")
            .authorization_param("domain_hint", "configured")
            .authorization_param("prompt", "configured")
    });
    let url = w
        .provider
        .authorization_url(&AuthorizationRequest {
            redirect_uri: "https://app.example.com/signin/callback",
            state: "st",
            nonce: "no",
            pkce_verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            scopes: &["Mail.Read", "profile"],
            prompt: Some("login"),
            max_age: Some(Duration::from_secs(0)),
            login_hint: Some("ann@example.com & co"),
            extra: &[
                ("redirect_uri", "https://evil.example.com"),
                ("state", "evil"),
                ("response_type", "token"),
                ("request_uri", "https://evil.example.com"),
                ("domain_hint", "request"),
                ("prompt", "none"),
            ],
            ..AuthorizationRequest::default()
        })
        .await
        .unwrap();
    assert_eq!(url.path(), "/authorize");
    let query: Vec<_> = url.query_pairs().into_owned().collect();
    let expected = [
        ("tenant", "a"),
        ("response_type", "code"),
        ("client_id", "my-app"),
        ("redirect_uri", "https://app.example.com/signin/callback"),
        ("scope", "openid profile offline_access Mail.Read"),
        ("state", "st"),
        ("nonce", "no"),
        // RFC 7636, appendix B.
        (
            "code_challenge",
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        ),
        ("code_challenge_method", "S256"),
        ("prompt", "login configured"),
        ("max_age", "0"),
        ("login_hint", "ann@example.com & co"),
        ("resource", "https://api.example.com"),
        ("domain_hint", "request"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(query, expected);
}

fn form<'a>(form: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut values = form.iter().filter(|(other, _)| other == name);
    let first = values.next();
    assert!(values.next().is_none(), "{name} comes twice");
    first.map(|(_, value)| value.as_str())
}

const TOKENS: &str = r#"{"access_token":"at","token_type":"Bearer","expires_in":60,"refresh_token":"rt","id_token":"a.b.c"}"#;

async fn exchange(provider: &Provider) -> Result<super::token_endpoint::TokenAnswer, TokenError> {
    let exchange = CodeExchange {
        code: "the code",
        pkce_verifier: "verifier",
        redirect_uri: "https://app.example.com/signin/callback",
        scopes: &["openid", "profile"],
    };
    provider.exchange_code(&exchange).await
}

#[tokio::test]
async fn a_code_is_exchanged() {
    let w = world(Fake::up());
    w.fake.next_token_answer(ok(TOKENS));
    let answer = exchange(&w.provider).await.unwrap();
    assert_eq!(answer.tokens.refresh_token().unwrap().secret(), "rt");
    assert_eq!(answer.tokens.id_token().unwrap().secret(), "a.b.c");
    let access: Vec<_> = answer.tokens.access_tokens()[0].scopes().collect();
    assert_eq!(access, ["openid", "profile"]);
    let (request, fields) = w.fake.last_form();
    assert_eq!(request.method(), Method::POST);
    assert_eq!(request.uri(), "https://op.example.com/token");
    assert_eq!(form(&fields, "grant_type"), Some("authorization_code"));
    assert_eq!(form(&fields, "code"), Some("the code"));
    assert_eq!(form(&fields, "code_verifier"), Some("verifier"));
    assert_eq!(form(&fields, "client_secret"), None);
}

#[tokio::test]
async fn a_refresh_names_scopes_and_resource_only_when_asked_to() {
    let w = world(Fake::up());
    let secret = Secret::new("rt");
    w.fake.next_token_answer(ok(TOKENS));
    w.provider.refresh(&secret, &[], None).await.unwrap();
    let (_, fields) = w.fake.last_form();
    assert_eq!(form(&fields, "refresh_token"), Some("rt"));
    assert_eq!(
        (form(&fields, "scope"), form(&fields, "resource")),
        (None, None)
    );

    w.fake.next_token_answer(ok(TOKENS));
    let api = Some("https://api");
    let answer = w.provider.refresh(&secret, &["a", "b"], api).await.unwrap();
    let (_, fields) = w.fake.last_form();
    assert_eq!(form(&fields, "scope"), Some("a b"));
    assert_eq!(form(&fields, "resource"), api);
    assert_eq!(answer.tokens.access_tokens()[0].resource(), api);
}

/// RFC 6749, section 4.4.
#[tokio::test]
async fn a_token_of_the_client_itself_is_asked_for_by_scopes_and_resource() {
    let w = world(Fake::up());
    w.fake.next_token_answer(ok(TOKENS));
    w.provider.client_credentials(&[], None).await.unwrap();
    let (request, fields) = w.fake.last_form();
    assert_eq!(request.uri(), "https://op.example.com/token");
    assert!(request.headers().contains_key(header::AUTHORIZATION));
    assert_eq!(fields.len(), 1, "nothing else is sent");
    assert_eq!(form(&fields, "grant_type"), Some("client_credentials"));

    let w = world_with(Fake::up(), |b| {
        b.client_secret("s").resource("https://default")
    });
    let api = Some("https://api");
    for (resource, sent) in [(None, Some("https://default")), (api, api)] {
        w.fake.next_token_answer(ok(TOKENS));
        let answer = w.provider.client_credentials(&["a", "b"], resource).await;
        let (_, fields) = w.fake.last_form();
        assert_eq!(form(&fields, "scope"), Some("a b"));
        assert_eq!(form(&fields, "resource"), sent);
        let token = answer.unwrap().tokens.access_tokens()[0].clone();
        assert_eq!(token.resource(), resource);
    }
}

#[test]
fn a_client_without_proof_is_a_public_one() {
    let assertions = || ClientAuth::Assertion(Arc::new(Assertions(true)));
    let proves = |set: &dyn Fn(ProviderBuilder) -> ProviderBuilder| {
        world_with(Fake::up(), set).provider.proves_client()
    };
    assert!(!proves(&|b| b));
    assert!(!proves(&|b| b
        .client_secret("s")
        .client_auth(ClientAuth::None)));
    assert!(proves(&|b| b.client_secret("s")));
    assert!(proves(&|b| b
        .client_secret("s")
        .client_auth(ClientAuth::SecretPost)));
    assert!(proves(&|b| b.client_auth(assertions())));
}

#[derive(Debug)]
struct Assertions(bool);

#[async_trait::async_trait]
impl ClientAssertion for Assertions {
    async fn assertion(&self, audience: AssertionAudience<'_>) -> Result<Secret, axum::BoxError> {
        if !self.0 {
            return Err("the key is locked away".into());
        }
        Ok(format!("{} {}", audience.issuer(), audience.token_endpoint()).into())
    }
}

#[tokio::test]
async fn the_client_proves_itself_in_each_of_the_forms() {
    let basic = |request: &HttpRequest| {
        let value = request.headers().get(header::AUTHORIZATION)?;
        assert!(value.is_sensitive());
        let text = value.to_str().unwrap().strip_prefix("Basic ").unwrap();
        let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
        Some(String::from_utf8(bytes.unwrap()).unwrap())
    };
    let sent = async |set: fn(ProviderBuilder) -> ProviderBuilder| {
        let w = world_with(Fake::up(), set);
        w.fake.next_token_answer(ok(TOKENS));
        exchange(&w.provider).await.unwrap();
        w.fake.last_form()
    };

    // RFC 6749, section 2.3.1: a colon, a space and the like survive.
    let (request, fields) = sent(|b| b.client_secret("p:ä s/+%")).await;
    assert_eq!(
        basic(&request).as_deref(),
        Some("my-app:p%3A%C3%A4+s%2F%2B%25")
    );
    assert_eq!(
        (form(&fields, "client_id"), form(&fields, "client_secret")),
        (None, None)
    );

    let (request, fields) =
        sent(|b| b.client_secret("s:&").client_auth(ClientAuth::SecretPost)).await;
    assert_eq!(basic(&request), None);
    assert_eq!(form(&fields, "client_id"), Some("my-app"));
    assert_eq!(form(&fields, "client_secret"), Some("s:&"));

    let (request, fields) = sent(|b| b).await;
    assert_eq!(basic(&request), None);
    assert_eq!(form(&fields, "client_id"), Some("my-app"));
    assert_eq!(form(&fields, "client_secret"), None);

    let (request, fields) =
        sent(|b| b.client_auth(ClientAuth::Assertion(Arc::new(Assertions(true))))).await;
    assert_eq!(basic(&request), None);
    assert_eq!(
        form(&fields, "client_assertion_type"),
        Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
    );
    assert_eq!(
        form(&fields, "client_assertion"),
        Some("https://op.example.com https://op.example.com/token")
    );
}

#[tokio::test]
async fn an_assertion_that_cannot_be_made_sends_nothing() {
    let w = world_with(Fake::up(), |b| {
        b.client_auth(ClientAuth::Assertion(Arc::new(Assertions(false))))
    });
    let error = exchange(&w.provider).await.unwrap_err();
    let known = TokenError::Unavailable {
        retry_after: None,
        outcome_known: true,
    };
    assert_eq!(error, known);
    assert_eq!(w.fake.seen.lock().unwrap().len(), 1, "metadata only");
}

#[tokio::test(start_paused = true)]
async fn it_is_known_whether_a_request_may_have_arrived() {
    let away = |outcome_known| TokenError::Unavailable {
        retry_after: None,
        outcome_known,
    };
    for (name, answer, expected) in [
        ("nobody listens", Answer::Refused, away(true)),
        ("reset", Answer::Lost, away(false)),
        ("no answer", Answer::Never, away(false)),
        ("503", status(503, ""), away(true)),
        ("500", status(500, ""), away(false)),
        ("oversize", ok("x".repeat(2 << 20)), TokenError::Unusable),
    ] {
        let w = world(Fake::up());
        w.fake.next_token_answer(answer);
        assert_eq!(exchange(&w.provider).await.unwrap_err(), expected, "{name}");
    }
    let w = world(Fake::default());
    assert!(matches!(
        exchange(&w.provider).await.unwrap_err(),
        TokenError::Unavailable {
            retry_after: Some(_),
            outcome_known: true
        }
    ));
}

#[tokio::test]
async fn revocations() {
    let later = |seconds: Option<u64>| Revocation::Later {
        retry_after: seconds.map(Duration::from_secs),
    };
    let rejected = |code: &str| Revocation::Rejected { code: code.into() };
    let busy = |code| Answer::Status(code, vec![("retry-after", "17")], String::new());
    for (name, answer, expected) in [
        ("200", ok(""), Revocation::Revoked),
        ("200 with a page", ok("<html>"), Revocation::Revoked),
        ("204", status(204, ""), Revocation::Revoked),
        (
            "unsupported",
            status(400, json!({"error": "unsupported_token_type"})),
            Revocation::Unsupported,
        ),
        (
            "finished already",
            status(400, json!({"error": "invalid_token"})),
            Revocation::Revoked,
        ),
        (
            "finished already, other word",
            status(400, json!({"error": "invalid_grant"})),
            Revocation::Revoked,
        ),
        (
            "bad client",
            status(401, json!({"error": "invalid_client"})),
            rejected("invalid_client"),
        ),
        ("page", status(404, "<html>"), rejected("http_404")),
        ("redirect", status(302, ""), rejected("http_302")),
        (
            "hostile code",
            status(400, json!({"error": "\u{1b}[31m"})),
            rejected("unreadable_error_code"),
        ),
        ("503", busy(503), later(Some(17))),
        ("429", busy(429), later(Some(17))),
        ("500", status(500, ""), later(None)),
        ("refused", Answer::Refused, later(None)),
        ("lost", Answer::Lost, later(None)),
    ] {
        let w = world(Fake::up());
        w.fake.next_token_answer(answer);
        let outcome = w
            .provider
            .revoke(&"rt".into(), TokenHint::RefreshToken)
            .await;
        assert_eq!(outcome, expected, "{name} (R32)");
        let (request, fields) = w.fake.last_form();
        assert_eq!(request.uri(), "https://op.example.com/revoke");
        assert_eq!(form(&fields, "token"), Some("rt"));
        assert_eq!(form(&fields, "token_type_hint"), Some("refresh_token"));
        assert!(request.headers().contains_key(header::AUTHORIZATION));
    }
    let w = world(Fake::default());
    let outcome = w
        .provider
        .revoke(&"rt".into(), TokenHint::AccessToken)
        .await;
    assert_eq!(outcome, later(Some(1)), "no metadata");

    let w = world(Fake::up());
    let mut document = metadata_document();
    document
        .as_object_mut()
        .unwrap()
        .remove("revocation_endpoint");
    w.fake.set_metadata(ok(document));
    let outcome = w
        .provider
        .revoke(&"rt".into(), TokenHint::AccessToken)
        .await;
    assert_eq!(outcome, Revocation::NoEndpoint);
}

// The builder.

#[test]
fn configurations_that_are_refused() {
    type Set = fn(ProviderBuilder) -> ProviderBuilder;
    let insecure = |error: &ConfigError| matches!(error, ConfigError::InsecureUrl { .. });
    for issuer in [
        "http://op.example.com",
        "ftp://op.example.com",
        "http://192.168.0.1",
    ] {
        let error = Provider::discover(issuer, "c").build().unwrap_err();
        assert!(insecure(&error), "{issuer}: {error}");
    }
    for issuer in [
        "",
        "op.example.com",
        "https://a?x=1",
        "https://a#x",
        "https://u@a",
    ] {
        let error = Provider::discover(issuer, "c").build().unwrap_err();
        assert!(
            matches!(error, ConfigError::InvalidUrl { what: "issuer", .. }),
            "{issuer}: {error}"
        );
    }
    let rows: Vec<(&str, Set, &str)> = vec![
        ("empty secret", |b| b.client_secret(""), "client_secret"),
        (
            "basic without secret",
            |b| b.client_auth(ClientAuth::SecretBasic),
            "client_secret",
        ),
        (
            "post without secret",
            |b| b.client_auth(ClientAuth::SecretPost),
            "client_secret",
        ),
        (
            "HMAC without secret",
            |b| b.id_token_algorithms([SigningAlgorithm::Hs256]),
            "client_secret",
        ),
        (
            "HMAC with a short secret",
            |b| {
                b.client_secret("short-secret")
                    .id_token_algorithms([SigningAlgorithm::Hs256])
            },
            "client_secret",
        ),
        (
            "no algorithm",
            |b| b.id_token_algorithms([]),
            "id_token_algorithms",
        ),
        ("name with a slash", |b| b.name("a/b"), "name"),
        ("empty name", |b| b.name(""), "name"),
        ("long name", |b| b.name("n".repeat(65)), "name"),
        ("scope with a space", |b| b.scopes(["a b"]), "scopes"),
        ("empty scope", |b| b.scopes([""]), "scopes"),
        (
            "reserved parameter",
            |b| b.authorization_param("state", "x"),
            "authorization_param",
        ),
        ("no time", |b| b.timeout(Duration::ZERO), "timeout"),
        ("much time", |b| b.timeout(Duration::MAX), "timeout"),
        (
            "no pause",
            |b| b.keys_cool_down(Duration::ZERO),
            "keys_cool_down",
        ),
        (
            "wide skew",
            |b| b.clock_skew(Duration::from_secs(3601)),
            "clock_skew",
        ),
    ];
    for (name, set, what) in rows {
        let error = set(Provider::discover(ISSUER, "c")).build().unwrap_err();
        assert!(error.to_string().starts_with(what), "{name}: {error}");
        assert!(
            !format!("{error} {error:?}").contains("short-secret"),
            "{name}"
        );
    }
    assert_eq!(
        Provider::discover(ISSUER, "").build().unwrap_err(),
        ConfigError::Missing { what: "client_id" }
    );
}

#[test]
fn metadata_by_hand_is_checked_strictly_and_needs_no_request() {
    let metadata = || {
        ProviderMetadata::new(
            ISSUER,
            "https://op.example.com/authorize",
            "https://op.example.com/token",
            "https://op.example.com/keys",
        )
    };
    let good = Provider::with_metadata(metadata(), "c").build().unwrap();
    assert!(good.known_metadata().is_some());
    for bad in [
        metadata().end_session_endpoint("http://op.example.com/logout"),
        metadata().revocation_endpoint("nonsense"),
        ProviderMetadata::new(ISSUER, "", "", ""),
        ProviderMetadata::new("nonsense", "", "", ""),
    ] {
        assert!(
            Provider::with_metadata(bad.clone(), "c").build().is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn names_come_from_the_host() {
    for (issuer, name) in [
        ("https://login.example.com/realms/a", "login-example-com"),
        ("http://127.0.0.1:3000", "127-0-0-1"),
        ("http://[::1]:3000", "1"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva-example"),
    ] {
        let provider = Provider::discover(issuer, "c").build().unwrap();
        assert_eq!(provider.name(), name);
    }
}

#[test]
fn nothing_prints_a_secret_a11() {
    let builder = Provider::discover(ISSUER, "c").client_secret("hidden-secret");
    let text = format!("{builder:?}");
    let provider = builder.build().unwrap();
    let text = format!("{text} {provider:?}");
    assert!(!text.contains("hidden-secret"), "{text}");
}

#[cfg(feature = "reqwest")]
mod over_the_wire;
