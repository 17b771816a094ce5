//! Calls of APIs: servers on loopback that note who sent them which token.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum_signout::testing::{Endpoint, Event, Fault, Gate, NeedsConsent, TestProvider};
use axum_signout::{
    AccessToken, Api, ApiBuilder, AppTokens, Error, ErrorKind, TokenSource, Tokens,
};
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::app_tokens::claims;
use crate::support::app::Setup;
use crate::world::{World, acquire, kind};

/// More than the minute in which a refused token is not replaced.
const OLD_ENOUGH: Duration = Duration::from_secs(120);

/// What arrived at a server.
#[derive(Clone, Debug)]
struct Call {
    method: Method,
    path: String,
    host: String,
    token: Option<String>,
    body: String,
}

type Answer = Arc<dyn Fn(&Call) -> Response + Send + Sync>;

/// A server that notes what arrives. It answers as it is told, and 401 to tokens that it refuses.
struct TestApi {
    url: String,
    calls: Arc<Mutex<Vec<Call>>>,
    refused: Arc<Mutex<BTreeSet<String>>>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Behaviour {
    calls: Arc<Mutex<Vec<Call>>>,
    refused: Arc<Mutex<BTreeSet<String>>>,
    refusals: Gate,
    answer: Answer,
}

impl TestApi {
    async fn start() -> Self {
        Self::answering(|_| "fine".into_response()).await
    }

    async fn answering(answer: impl Fn(&Call) -> Response + Send + Sync + 'static) -> Self {
        let open = Gate::new();
        open.open();
        Self::refusing_at(open, answer).await
    }

    /// Each 401 for a refused token waits at a gate.
    async fn refusing_at(
        refusals: Gate,
        answer: impl Fn(&Call) -> Response + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let behaviour = Behaviour {
            calls: Arc::default(),
            refused: Arc::default(),
            refusals,
            answer: Arc::new(answer),
        };
        let (calls, refused) = (behaviour.calls.clone(), behaviour.refused.clone());
        let app = Router::new().fallback(note).with_state(behaviour);
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            calls,
            refused,
            serving,
        }
    }

    fn client(&self) -> Api {
        self.builder().build().unwrap()
    }

    fn builder(&self) -> ApiBuilder {
        Api::builder(&self.url)
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// The tokens that it saw, in order.
    fn seen(&self) -> Vec<String> {
        let calls = self.calls();
        calls.into_iter().filter_map(|call| call.token).collect()
    }

    fn refuse(&self, token: &str) {
        self.refused.lock().unwrap().insert(token.to_owned());
    }
}

impl Drop for TestApi {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn note(State(api): State<Behaviour>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let authorization = parts.headers.get(header::AUTHORIZATION);
    let token = authorization.map(|value| {
        let value = value.to_str().unwrap();
        value.strip_prefix("Bearer ").unwrap_or(value).to_owned()
    });
    let path = parts.uri.path_and_query();
    let call = Call {
        method: parts.method,
        path: path.map(ToString::to_string).unwrap_or_default(),
        host: parts.headers[header::HOST].to_str().unwrap().to_owned(),
        token: token.clone(),
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    api.calls.lock().unwrap().push(call.clone());
    let is_refused = token.is_none_or(|token| api.refused.lock().unwrap().contains(&token));
    if is_refused {
        api.refusals.pass().await;
        return challenge("Bearer error=\"invalid_token\"");
    }
    (api.answer)(&call)
}

fn challenge(text: &str) -> Response {
    let header = (header::WWW_AUTHENTICATE, text.to_owned());
    (StatusCode::UNAUTHORIZED, [header], "refused").into_response()
}

/// A token that is old enough to be replaced, and that the API refuses.
async fn refused_token(world: &World, api: &TestApi, tokens: &Tokens) -> String {
    let token = acquire(tokens).await.unwrap().secret().to_owned();
    world.advance(OLD_ENOUGH);
    api.refuse(&token);
    token
}

async fn sign_out(world: &World, browser: &mut axum_signout::testing::TestBrowser) {
    world.app.get(browser, "/").await;
    let page = browser.post_form(world.app.url("/signout"), &[]).await;
    assert!(page.unwrap().status().is_success());
}

#[tokio::test]
async fn a_call_carries_the_users_token_for_its_scopes_and_resource_r33() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    let server = TestApi::start().await;

    let answer = server.client().get(&tokens, "/me?a=b").await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "fine");

    let mail = server
        .builder()
        .scopes(["profile", "mail.read"])
        .resource("https://mail.example");
    let mail = mail.build().unwrap();
    let request = mail
        .request(Method::PUT, "/draft")
        .unwrap()
        .body("Dear all");
    mail.send(&tokens, request).await.unwrap();

    let calls = server.calls();
    assert_eq!(
        (&calls[0].method, &*calls[0].path),
        (&Method::GET, "/me?a=b")
    );
    assert_eq!(
        (&calls[1].method, &*calls[1].path),
        (&Method::PUT, "/draft")
    );
    assert_eq!(calls[1].body, "Dear all");
    let own = acquire(&tokens).await.unwrap();
    let of_mail = tokens
        .acquire_for("https://mail.example", "mail.read")
        .await
        .unwrap();
    assert_ne!(own.secret(), of_mail.secret());
    assert_eq!(server.seen(), [own.secret(), of_mail.secret()]);
}

/// Whatever the app's own settings of the client say.
#[tokio::test]
async fn a_redirect_is_the_answer_and_takes_no_token_along_a1() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let other = TestApi::start().await;
    let elsewhere = other.url.clone();
    let server = TestApi::answering(move |call| {
        let (status, to) = call.path[1..].split_once('/').unwrap();
        let status = StatusCode::from_bytes(status.as_bytes()).unwrap();
        let to = match to {
            "here" => "/there".to_owned(),
            "host" => elsewhere.replace("127.0.0.1", "localhost"),
            "slashes" => elsewhere.replace("http:", ""),
            _ => elsewhere.clone(),
        };
        (status, [(header::LOCATION, to)]).into_response()
    })
    .await;
    let follows = || reqwest::Client::builder().redirect(reqwest::redirect::Policy::limited(10));
    let apis = [
        server.client(),
        server.builder().http_client(follows()).build().unwrap(),
    ];
    let mut sent = 0;
    for api in &apis {
        for status in [301, 302, 303, 307, 308] {
            for to in ["here", "port", "host", "slashes"] {
                let answer = api.get(&tokens, &format!("/{status}/{to}")).await.unwrap();
                assert_eq!(answer.status(), status, "{to}");
                assert!(answer.headers().contains_key(header::LOCATION));
                sent += 1;
            }
        }
    }
    assert_eq!(server.calls().len(), sent);
    assert_eq!(server.seen().len(), sent);
    assert!(other.calls().is_empty(), "{:?}", other.calls());
}

#[tokio::test]
async fn what_leads_elsewhere_is_refused_before_anything_is_sent_a1() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let (server, other) = (TestApi::start().await, TestApi::start().await);
    let api = Api::builder(format!("{}/v1", server.url)).build().unwrap();
    let authority = other.url.strip_prefix("http://").unwrap();
    let own = server.url.strip_prefix("http://").unwrap();
    let rows = [
        ("another port", other.url.clone()),
        ("two slashes", format!("//{authority}/v1")),
        ("backslash", format!("/\\{authority}/v1")),
        ("tab", format!("/\t/{authority}/v1")),
        ("line feed", format!("\n//{authority}/v1")),
        ("a user", format!("http://{own}@{authority}/v1")),
        ("a user of the API", format!("http://u:p@{own}/v1")),
        ("an authority without a slash", format!("@{authority}/v1")),
        ("a port that goes on", format!(":1@{authority}/v1")),
        (
            "another name of the host",
            server.url.replace("127.0.0.1", "localhost") + "/v1",
        ),
        ("https", server.url.replace("http", "https") + "/v1"),
        ("above the base", "/../admin".to_owned()),
        (
            "above the base, encoded",
            "/users/..%2f..%2fadmin".to_owned(),
        ),
        ("beside the base", format!("{}/v10", server.url)),
    ];
    for (name, target) in &rows {
        assert_eq!(
            kind(api.get(&tokens, target).await),
            ErrorKind::Forbidden,
            "{name}"
        );
    }
    // Requests that are made elsewhere are looked at as well.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let inside = format!("{}/v1/me", server.url);
    let rows = [
        ("elsewhere", client.get(&other.url), ErrorKind::Forbidden),
        ("above", client.get(&server.url), ErrorKind::Forbidden),
        (
            "above for a server that decodes",
            client.get(format!("{}/v1/..%2fadmin", server.url)),
            ErrorKind::Forbidden,
        ),
        ("no URL", client.get("/v1/me"), ErrorKind::Misconfigured),
        (
            "a token of its own",
            client.get(&inside).bearer_auth("mine"),
            ErrorKind::Misconfigured,
        ),
        (
            "a user in the URL",
            client.get(inside.replace("http://", "http://u:p@")),
            ErrorKind::Misconfigured,
        ),
        (
            "another host by name",
            client.get(&inside).header("host", authority),
            ErrorKind::Misconfigured,
        ),
    ];
    for (name, request, expected) in rows {
        assert_eq!(kind(api.send(&tokens, request).await), expected, "{name}");
    }
    assert!(server.calls().is_empty() && other.calls().is_empty());

    let inside = api.send(&tokens, client.get(&inside)).await.unwrap();
    assert_eq!(inside.status(), 200);
    assert_eq!(server.seen().len(), 1);
}

/// The second attempt as well.
#[tokio::test]
async fn defaults_of_the_client_change_neither_the_host_nor_the_token_a1() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let server = TestApi::start().await;
    refused_token(&world, &server, &tokens).await;
    let defaults = [
        (header::HOST, "evil.example"),
        (header::AUTHORIZATION, "Bearer mine"),
    ];
    let defaults = defaults.map(|(name, value)| (name, value.parse().unwrap()));
    let client = reqwest::Client::builder().default_headers(defaults.into_iter().collect());
    let api = server.builder().http_client(client).build().unwrap();
    assert_eq!(api.get(&tokens, "/me").await.unwrap().status(), 200);
    let calls = server.calls();
    assert_eq!(calls.len(), 2);
    for call in calls {
        assert_eq!(format!("http://{}", call.host), server.url);
        assert_ne!(call.token.as_deref(), Some("mine"));
    }
}

#[tokio::test]
async fn plain_http_never_goes_through_a_proxy() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let (server, proxy) = (TestApi::start().await, TestApi::start().await);
    let proxied = reqwest::Client::builder().proxy(reqwest::Proxy::all(&proxy.url).unwrap());
    let api = server.builder().http_client(proxied).build().unwrap();
    assert_eq!(api.get(&tokens, "/me").await.unwrap().status(), 200);
    assert!(proxy.calls().is_empty(), "{:?}", proxy.calls());
}

#[tokio::test]
async fn a_refused_token_is_replaced_and_the_call_repeated_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    let server = TestApi::start().await;
    let old = refused_token(&world, &server, &tokens).await;
    let api = server.client();
    let request = || api.request(Method::POST, "/mail").unwrap().body("Dear all");
    let answer = api.send(&tokens, request()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(world.refreshes(), 1);

    let calls = server.calls();
    let bodies: Vec<&str> = calls.iter().map(|call| &*call.body).collect();
    assert_eq!(bodies, ["Dear all", "Dear all"]);
    let new = acquire(&world.tokens(&browser).await).await.unwrap();
    assert_eq!(server.seen(), [&*old, new.secret()]);
    assert!(world.provider.is_active(new.secret()));
    // The next call begins with the new one.
    api.send(&tokens, request()).await.unwrap();
    assert_eq!(server.seen().len(), 3);
    assert_eq!(world.refreshes(), 1);
}

#[tokio::test]
async fn fifty_refusals_at_once_make_one_refresh_r29() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let gate = Gate::new();
    let server = TestApi::refusing_at(gate.clone(), |_| "fine".into_response()).await;
    let late = world.tokens(&browser).await;
    refused_token(&world, &server, &late).await;
    let (api, mut running) = (server.client(), JoinSet::new());
    for _ in 0..10 {
        let tokens = world.tokens(&browser).await;
        for _ in 0..5 {
            let (api, tokens) = (api.clone(), tokens.clone());
            running.spawn(async move { api.get(&tokens, "/me").await.unwrap().status() });
        }
    }
    gate.arrived(50).await;
    gate.open();
    for status in running.join_all().await {
        assert_eq!(status, 200);
    }
    assert_eq!((world.refreshes(), world.reuses()), (1, 0));
    // A request that began before all this still has the old token, and finds the new one.
    assert_eq!(api.get(&late, "/me").await.unwrap().status(), 200);
    assert_eq!((world.refreshes(), server.seen().len()), (1, 102));
}

#[tokio::test]
async fn an_api_that_refuses_every_token_gets_two_and_costs_a_refresh_a_minute_r30() {
    for life in ["known", "unknown"] {
        let world = World::new().await;
        if life == "unknown" {
            let fault = Fault::Without("expires_in".into());
            world.provider.faults().always(Endpoint::Token, fault);
        }
        let browser = world.sign_in("alice").await;
        let server = TestApi::answering(|_| challenge("Bearer error=\"invalid_token\"")).await;
        let api = server.client();
        let mut counts = Vec::new();
        for wait in [0, 60, 0, 1, 30, 60] {
            world.advance(Duration::from_secs(wait));
            let tokens = world.tokens(&browser).await;
            let answer = api.get(&tokens, "/me").await.unwrap();
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.text().await.unwrap(), "refused");
            counts.push((server.seen().len(), world.refreshes()));
        }
        let expected = [(1, 0), (3, 1), (4, 1), (5, 1), (6, 1), (8, 2)];
        assert_eq!(counts, expected, "{life}");
    }
}

#[tokio::test]
async fn a_provider_that_gives_the_same_token_again_leaves_it_at_the_401() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let (tokens, late) = (world.tokens(&browser).await, world.tokens(&browser).await);
    let server = TestApi::start().await;
    let old = refused_token(&world, &server, &tokens).await;
    let same = Fault::Set("access_token".into(), old.clone().into());
    let id_token = Fault::Without("id_token".into());
    world.provider.faults().always(Endpoint::Refresh, same);
    world.provider.faults().always(Endpoint::Refresh, id_token);
    // A request that began before knows only of the old one, and has its own copy of it.
    for tokens in [&tokens, &late, &tokens, &late] {
        let answer = server.client().get(tokens, "/me").await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(world.refreshes(), 1);
    }
    assert_eq!(server.seen(), [&*old; 4]);
}

/// Two tokens of the sign-in serve the same scope; both are refused.
#[tokio::test]
async fn a_token_that_is_as_old_as_the_refused_one_is_not_taken_for_a_fresh_one_r29() {
    let provider = TestProvider::builder();
    let setup = Setup::new().provider(|p| p.scopes(["openid", "offline_access", "mail.read"]));
    let world = World::start(provider, setup, |auth| auth).await;
    let browser = world.sign_in("alice").await;
    // Of a request that does not know of the second one.
    let early = world.tokens(&browser).await;
    let tokens = world.tokens(&browser).await;
    let wide = tokens.acquire("mail.read mail.send").await.unwrap();
    let server = TestApi::start().await;
    server.refuse(wide.secret());
    refused_token(&world, &server, &tokens).await;
    let api = server.builder().scopes("mail.read").build().unwrap();
    let mut counts = Vec::new();
    for round in 0..3 {
        let tokens = match round {
            0 => early.clone(),
            _ => world.tokens(&browser).await,
        };
        assert_eq!(api.get(&tokens, "/me").await.unwrap().status(), 200);
        counts.push((world.refreshes(), server.seen().len()));
    }
    // One refresh was for `mail.send`; each refused token costs one more, once.
    assert_eq!(counts, [(2, 2), (3, 4), (3, 5)]);
}

#[tokio::test]
async fn a_body_that_cannot_be_sent_again_leaves_it_at_the_401_but_replaces_the_token_r29() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let (server, source) = (TestApi::start().await, TestApi::start().await);
    refused_token(&world, &server, &tokens).await;
    let api = server.client();
    let stream = || async {
        let download = source.client().get(&tokens, "/file").await.unwrap();
        api.request(Method::POST, "/upload").unwrap().body(download)
    };
    let answer = api.send(&tokens, stream().await).await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(server.calls().len(), 1);
    assert_eq!(server.calls()[0].body, "fine");
    let answer = api.send(&tokens, stream().await).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!((world.refreshes(), server.calls().len()), (1, 2));
}

#[tokio::test]
async fn what_another_token_does_not_help_with_is_the_callers_at_once_r33() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    world.advance(OLD_ENOUGH);
    for (status, text) in [
        (401, "Bearer error=\"insufficient_scope\""),
        (401, "Basic realm=\"x\""),
        (403, "Bearer error=\"invalid_token\""),
        (500, "Bearer"),
    ] {
        let server = TestApi::answering(move |_| {
            let mut response = challenge(text);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        })
        .await;
        let answer = server.client().get(&tokens, "/me").await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), server.seen().len()),
            (status, 1),
            "{text}"
        );
    }
    assert_eq!(world.refreshes(), 0);
}

#[tokio::test]
async fn a_sign_out_between_the_refusal_and_the_second_attempt_ends_it_r31() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let gate = Gate::new();
    let server = TestApi::refusing_at(gate.clone(), |_| "fine".into_response()).await;
    let tokens = world.tokens(&browser).await;
    let old = refused_token(&world, &server, &tokens).await;
    let calling = {
        let (api, tokens) = (server.client(), tokens.clone());
        tokio::spawn(async move { api.get(&tokens, "/me").await })
    };
    gate.arrived(1).await;
    sign_out(&world, &mut browser).await;
    gate.open();
    assert_eq!(kind(calling.await.unwrap()), ErrorKind::NotSignedIn);
    assert_eq!((server.seen(), world.refreshes()), (vec![old], 0));
}

#[tokio::test]
async fn a_sign_out_during_the_refresh_for_the_second_attempt_ends_it_r31_a2() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let server = TestApi::start().await;
    let tokens = world.tokens(&browser).await;
    let old = refused_token(&world, &server, &tokens).await;
    let gate = Gate::new();
    let hold = Fault::HoldAnswer(gate.clone());
    world.provider.faults().once(Endpoint::Refresh, hold);
    let calling = {
        let (api, tokens) = (server.client(), tokens.clone());
        tokio::spawn(async move { api.get(&tokens, "/me").await })
    };
    gate.arrived(1).await;
    sign_out(&world, &mut browser).await;
    gate.open();
    assert_eq!(kind(calling.await.unwrap()), ErrorKind::NotSignedIn);
    assert_eq!(server.seen(), [old]);
    world.finish().await;
}

#[tokio::test]
async fn a_provider_that_is_away_is_the_error_and_the_sign_in_stays_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    let server = TestApi::start().await;
    let old = refused_token(&world, &server, &tokens).await;
    world
        .provider
        .faults()
        .once(Endpoint::Refresh, Fault::StatusRetryAfter(503, 7));
    for _ in 0..2 {
        let error = server.client().get(&tokens, "/me").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ProviderUnavailable);
        assert_eq!(error.retry_after().unwrap().as_secs(), 7);
        let response = error.into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
    }
    assert_eq!(server.seen(), [old.clone(), old]);
    assert_eq!(world.sign_ins().await, 1);
    world.advance(Duration::from_secs(7));
    assert_eq!(
        server.client().get(&tokens, "/me").await.unwrap().status(),
        200
    );
}

#[tokio::test]
async fn a_provider_that_refuses_the_refresh_is_asked_again_after_a_pause_r30() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    let tokens = world.tokens(&browser).await;
    let server = TestApi::start().await;
    refused_token(&world, &server, &tokens).await;
    let api = server.client();
    let refusal = Fault::OAuthError("invalid_scope".into());
    world.provider.faults().always(Endpoint::Refresh, refusal);
    world.provider.clear_events();
    let asked = || {
        let asked = |event: &Event| matches!(event, Event::Faulted { .. });
        world.provider.count(asked)
    };
    let error = api.get(&tokens, "/me").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProviderRejected);
    for _ in 0..4 {
        // Of other requests, too.
        let tokens = world.tokens(&browser).await;
        assert_eq!(api.get(&tokens, "/me").await.unwrap().status(), 401);
    }
    assert_eq!((asked(), server.seen().len()), (1, 5));

    world.advance(Duration::from_secs(60));
    world.provider.faults().clear();
    assert_eq!(api.get(&tokens, "/me").await.unwrap().status(), 200);
    assert_eq!((world.refreshes(), world.sign_ins().await), (1, 1));
}

#[tokio::test]
async fn without_a_refresh_token_the_401_is_the_callers() {
    let world = World::new().await;
    let none = Fault::Without("refresh_token".into());
    world.provider.faults().once(Endpoint::Token, none);
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let server = TestApi::start().await;
    let old = refused_token(&world, &server, &tokens).await;
    let answer = server.client().get(&tokens, "/me").await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.text().await.unwrap(), "refused");
    assert_eq!((server.seen(), world.sign_ins().await), (vec![old], 1));
}

/// The refresh that it waits for is another caller's, and over by the time it looks.
#[tokio::test]
async fn a_sign_out_while_another_ones_refresh_is_waited_for_ends_it_r31_a2() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let server = TestApi::start().await;
    let (tokens, others) = (world.tokens(&browser).await, world.tokens(&browser).await);
    let old = acquire(&tokens).await.unwrap();
    refused_token(&world, &server, &tokens).await;
    let gate = Gate::new();
    let hold = Fault::HoldAnswer(gate.clone());
    world.provider.faults().once(Endpoint::Refresh, hold);
    let waiting = tokens.acquire_fresh((), &old);
    let mut waiting = std::pin::pin!(waiting);
    assert!(waiting.as_mut().now_or_never().is_none());
    let same = old.clone();
    let other = tokio::spawn(async move { others.acquire_fresh((), &same).await });
    gate.arrived(1).await;
    gate.open();
    assert!(other.await.unwrap().unwrap().is_some());
    sign_out(&world, &mut browser).await;
    assert_eq!(kind(waiting.await), ErrorKind::NotSignedIn);
    world.finish().await;
}

#[tokio::test]
async fn an_api_that_is_slow_or_away_is_a_503_without_its_url_a11() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let never = Gate::new();
    let server = TestApi::refusing_at(never, |_| "fine".into_response()).await;
    server.refuse(acquire(&tokens).await.unwrap().secret());
    let slow = server.builder().timeout(Duration::from_millis(50));
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = Api::builder(format!("http://{}", closed.local_addr().unwrap()));
    drop(closed);
    for (name, api) in [("slow", slow), ("away", away)] {
        let api = api.build().unwrap();
        let error = api.get(&tokens, "/me?code=5ecret").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ApiUnavailable, "{name}");
        let mut text = format!("{error:?} {error}");
        let mut next = std::error::Error::source(&error);
        while let Some(source) = next {
            text += &format!(" {source}");
            next = source.source();
        }
        assert!(!text.contains("5ecret"), "{name}: {text}");
        let response = error.into_response();
        assert_eq!(response.status(), 503, "{name}");
        assert!(
            response.headers().contains_key(header::RETRY_AFTER),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_token_that_is_no_bearer_token_is_not_sent_as_one_r33() {
    let world = World::new().await;
    let browser = world.sign_in("alice").await;
    world.expire_tokens();
    let fault = Fault::Set("token_type".into(), "N_A".into());
    world.provider.faults().once(Endpoint::Refresh, fault);
    let tokens = world.tokens(&browser).await;
    let server = TestApi::start().await;
    let refused = server.client().get(&tokens, "/me").await;
    assert_eq!(kind(refused), ErrorKind::ProviderRejected);
    assert!(server.calls().is_empty());
}

/// Two of a browser: what an API asked for, and where the user was sent for it.
struct SteppedUp {
    world: World,
    server: TestApi,
    browser: axum_signout::testing::TestBrowser,
}

const CLAIMS: &str = r#"{"access_token":{"acrs":{"essential":true,"value":"c1"}}}"#;
/// The same in base64url.
const ENCODED: &str =
    "eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlIjoiYzEifX19";

impl SteppedUp {
    /// `/call` is a page for people, `/script` tells a script where to go.
    async fn start(server: TestApi) -> Self {
        let api = server.builder().scopes("mail.read").build().unwrap();
        let call = async |State(api): State<Api>, tokens: Tokens| -> Result<String, Error> {
            let answer = api.get(&tokens, "/me").await?;
            Ok(answer.text().await.unwrap())
        };
        let script =
            async |State(api): State<Api>, tokens: Tokens| match api.get(&tokens, "/me").await {
                Ok(answer) => answer.text().await.unwrap(),
                Err(error) => tokens
                    .interaction_url(&error, "/call")
                    .unwrap_or_else(|| "no way".into()),
            };
        let routes = Router::new()
            .route("/call", get(call))
            .route("/script", get(script))
            .with_state(api);
        let provider = TestProvider::builder();
        let setup = Setup::new().routes(routes);
        let world = World::start(provider, setup, |auth| auth.redirect_to_sign_in(true)).await;
        let browser = world.sign_in("alice").await;
        world.provider.clear_events();
        Self {
            world,
            server,
            browser,
        }
    }

    /// Through the provider and back to the page.
    async fn call(&mut self) -> (StatusCode, String) {
        let mut page = self
            .browser
            .goto(self.world.app.url("/call"))
            .await
            .unwrap();
        for _ in 0..8 {
            if page.url().path() == "/call" {
                return (page.status(), page.body().to_owned());
            }
            page = match page.has_id("login-alice") {
                true => self.browser.submit("login-alice", &[]).await.unwrap(),
                false => self.browser.follow().await.unwrap(),
            };
        }
        panic!("no way back from {page:?}");
    }

    /// What the provider was asked for, each time.
    fn asked(&self) -> Vec<std::collections::BTreeMap<String, String>> {
        let asked = |event| match event {
            Event::Authorize { params, .. } => Some(params),
            _ => None,
        };
        let events = self.world.provider.events();
        events.into_iter().filter_map(asked).collect()
    }
}

/// Refuses what came with the first sign-in, with a challenge.
async fn challenging(text: &'static str) -> TestApi {
    let first = Mutex::new(None::<String>);
    TestApi::answering(move |call| {
        let token = call.token.clone().unwrap();
        match *first.lock().unwrap().get_or_insert(token.clone()) == token {
            true => challenge(text),
            false => "stepped up".into_response(),
        }
    })
    .await
}

#[tokio::test]
async fn a_claims_challenge_leads_to_the_provider_and_back_r33() {
    let text = format!("Bearer realm=\"\", error=\"insufficient_claims\", claims=\"{ENCODED}\"");
    let mut one = SteppedUp::start(challenging(text.leak()).await).await;
    assert_eq!(one.call().await, (StatusCode::OK, "stepped up".into()));
    let asked = one.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["claims"], CLAIMS);
    assert!(asked[0]["scope"].contains("mail.read"), "{asked:?}");
    // Before and after: nothing was repeated with a token that would not have helped.
    assert_eq!(one.server.seen().len(), 2);
}

#[tokio::test]
async fn a_step_up_leads_to_the_provider_and_back_r33() {
    let text = "Bearer error=\"insufficient_user_authentication\", acr_values=\"gold silver\", max_age=\"30\"";
    let mut one = SteppedUp::start(challenging(text).await).await;
    // The session at the provider is older than what is asked for.
    one.world.advance(Duration::from_secs(31));
    assert_eq!(one.call().await, (StatusCode::OK, "stepped up".into()));
    let asked = one.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (&*asked[0]["acr_values"], &*asked[0]["max_age"]),
        ("gold silver", "30")
    );
    assert_eq!(asked[0].get("claims"), None);
    let fresh = |event: &Event| matches!(event, Event::SignedIn { .. });
    assert_eq!(one.world.provider.count(fresh), 1);
}

#[tokio::test]
async fn a_challenge_that_the_user_cannot_meet_is_put_once_r33() {
    let text = format!("Bearer error=\"insufficient_claims\", claims=\"{ENCODED}\"");
    let server = TestApi::answering(move |_| challenge(&text)).await;
    let mut one = SteppedUp::start(server).await;
    assert_eq!(one.call().await.0, StatusCode::UNAUTHORIZED);
    assert_eq!((one.asked().len(), one.server.seen().len()), (1, 2));
}

const GOLD: &str =
    "Bearer error=\"insufficient_user_authentication\", acr_values=\"gold\", max_age=\"3600\"";

/// One page wants more than another, a minute later.
#[tokio::test]
async fn another_step_up_leads_to_the_provider_again_r33() {
    let platinum = GOLD.replace("gold", "platinum");
    let more = GOLD.replace("3600", "30");
    let claims = format!("Bearer error=\"insufficient_claims\", claims=\"{ENCODED}\"");
    for second in [&platinum, &more, &claims] {
        let wanted = Arc::new(Mutex::new(GOLD.to_owned()));
        let refused = Arc::new(Mutex::new(None::<String>));
        let (text, lacking) = (wanted.clone(), refused.clone());
        let server = TestApi::answering(move |call| {
            let token = call.token.clone().unwrap();
            match *lacking.lock().unwrap().get_or_insert(token.clone()) == token {
                true => challenge(&text.lock().unwrap()),
                false => "stepped up".into_response(),
            }
        })
        .await;
        let mut one = SteppedUp::start(server).await;
        assert_eq!(one.call().await.0, StatusCode::OK);
        assert_eq!(one.asked().len(), 1);

        one.world.advance(Duration::from_secs(60));
        *wanted.lock().unwrap() = second.clone();
        *refused.lock().unwrap() = None;
        let back = one.call().await;
        assert_eq!(back, (StatusCode::OK, "stepped up".into()), "{second}");
        assert_eq!(one.asked().len(), 2, "{second}");
    }
}

#[tokio::test]
async fn a_challenge_that_differs_each_time_is_put_three_times_in_two_minutes_r33() {
    let count = AtomicUsize::new(0);
    let server = TestApi::answering(move |_| {
        let count = count.fetch_add(1, Ordering::SeqCst);
        challenge(&GOLD.replace("gold", &format!("gold{count}")))
    })
    .await;
    let mut one = SteppedUp::start(server).await;
    assert_eq!(one.call().await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(one.asked().len(), 3);
    one.world.advance(Duration::from_secs(119));
    assert_eq!(one.call().await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(one.asked().len(), 3);
    one.world.advance(Duration::from_secs(1));
    assert_eq!(one.call().await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(one.asked().len(), 6);
}

#[tokio::test]
async fn a_large_challenge_goes_before_the_page_to_come_back_to_r33() {
    let claims: Vec<String> = (0..60).map(|n| format!("\"claim{n}\":null")).collect();
    let claims = format!("{{{}}}", claims.join(","));
    let acr = "a".repeat(500);
    let text = format!(
        "Bearer error=\"insufficient_user_authentication\", acr_values=\"{acr}\", claims=\"{}\"",
        claims.replace('"', "\\\"")
    );
    let mut one = SteppedUp::start(challenging(text.leak()).await).await;
    let long = format!("/call?page={}", "p".repeat(1200));
    let mut page = one.browser.goto(one.world.app.url(&long)).await.unwrap();
    for _ in 0..8 {
        if page.url().path() == "/" {
            break;
        }
        page = one.browser.follow().await.unwrap();
    }
    assert_eq!((page.status(), page.url().path()), (StatusCode::OK, "/"));
    let asked = one.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        (&asked[0]["claims"], &asked[0]["acr_values"]),
        (&claims, &acr)
    );
    assert_eq!(one.call().await, (StatusCode::OK, "stepped up".into()));
}

/// Quotes take two bytes each in the cookie.
#[tokio::test]
async fn a_challenge_that_no_cookie_holds_is_the_apis_401_r33() {
    let claims = format!("{{\"a\":[{}]}}", ["\"\""; 330].join(","));
    let text = format!(
        "Bearer error=\"insufficient_user_authentication\", acr_values=\"{}\", claims=\"{}\"",
        "a".repeat(500),
        claims.replace('"', "\\\"")
    );
    let mut one = SteppedUp::start(challenging(text.leak()).await).await;
    assert_eq!(one.call().await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(one.asked().len(), 0);
}

#[tokio::test]
async fn a_script_is_told_where_to_go_r33() {
    let text = format!("Bearer error=\"insufficient_claims\", claims=\"{ENCODED}\"");
    let server = TestApi::answering(move |_| challenge(&text)).await;
    let mut one = SteppedUp::start(server).await;
    let told = one.world.app.get(&mut one.browser, "/script").await;
    assert!(
        told.body().starts_with(&one.world.app.url("/signin?")),
        "{}",
        told.body()
    );
    assert!(!told.body().contains("acrs"), "{}", told.body());
    let url = told.body().to_owned();
    one.browser.goto(&url).await.unwrap();
    assert_eq!(one.asked()[0]["claims"], CLAIMS);
    // Asking again would not help.
    let again = one.world.app.get(&mut one.browser, "/script").await;
    assert_eq!(again.body(), "no way");
}

#[tokio::test]
async fn a_challenge_to_the_second_attempt_counts_too_r33() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let text = format!("Bearer error=\"insufficient_claims\", claims=\"{ENCODED}\"");
    let server = TestApi::answering(move |_| challenge(&text)).await;
    refused_token(&world, &server, &tokens).await;
    let error = server.client().get(&tokens, "/me").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InteractionRequired);
    assert_eq!(error.claims(), Some(CLAIMS));
    assert_eq!((error.acr_values(), error.max_age()), (None, None));
    assert_eq!((server.seen().len(), world.refreshes()), (2, 1));
}

#[tokio::test]
async fn the_providers_own_challenge_is_handed_to_the_caller_r33() {
    let provider =
        TestProvider::builder().needs_consent(NeedsConsent::new("mail.read").claims(CLAIMS));
    let world = World::start(provider, Setup::new(), |auth| auth).await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let server = TestApi::start().await;
    let api = server.builder().scopes("mail.read").build().unwrap();
    let error = api.get(&tokens, "/me").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InteractionRequired);
    assert_eq!(error.claims(), Some(CLAIMS));
    assert!(server.calls().is_empty());
}

#[tokio::test]
async fn an_answer_is_streamed_whatever_its_length() {
    let world = World::new().await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    let server = TestApi::answering(|_| Body::from(vec![b'x'; 8 << 20]).into_response()).await;
    let mut answer = server.client().get(&tokens, "/file").await.unwrap();
    let mut length = 0;
    while let Some(chunk) = answer.chunk().await.unwrap() {
        length += chunk.len();
    }
    assert_eq!(length, 8 << 20);
}

/// The same of the app, for no scopes.
async fn refused_app_token(world: &World, api: &TestApi, tokens: &AppTokens) -> String {
    let token = tokens.acquire(()).await.unwrap().secret().to_owned();
    world.advance(OLD_ENOUGH);
    api.refuse(&token);
    token
}

const OWN: &str = "https://own.example";

/// With a resource of the provider's own for who names none.
async fn a_successor_is_for_the_same_resource(world: &World, tokens: &impl TokenSource) {
    let other = "https://other.example";
    let requests = || world.issued() + world.refreshes();
    for (resource, audience) in [(None, OWN), (Some(other), other)] {
        let server = TestApi::start().await;
        let mut api = server.builder().scopes("mail.read");
        if let Some(resource) = resource {
            api = api.resource(resource);
        }
        let api = api.build().unwrap();
        let begun = requests();
        let call = async || api.get(tokens, "/me").await.unwrap().status();
        assert_eq!(call().await, 200);
        server.refuse(&server.seen()[0]);
        world.advance(OLD_ENOUGH);
        assert_eq!(
            (call().await, call().await),
            (StatusCode::OK, StatusCode::OK)
        );
        assert_eq!(requests() - begun, 2, "{audience}");

        let seen = server.seen();
        let (old, new) = (&seen[0], &seen[2]);
        assert_ne!(old, new, "{audience}");
        assert_eq!(seen, [old, old, new, new].map(String::clone), "{audience}");
        for token in [old, new] {
            let claims = claims(&AccessToken::bearer(token.as_str()));
            assert_eq!(claims["aud"][0], audience);
            assert_eq!(claims["scope"], "mail.read");
        }
    }
}

#[tokio::test]
async fn another_token_is_for_the_resource_of_the_refused_one() {
    let provider = TestProvider::builder().jwt_access_tokens(true);
    let setup = Setup::new().provider(|provider| provider.resource(OWN));
    let world = World::start(provider, setup, |auth| auth).await;
    a_successor_is_for_the_same_resource(&world, &world.app_tokens()).await;
    let tokens = world.tokens(&world.sign_in("alice").await).await;
    a_successor_is_for_the_same_resource(&world, &tokens).await;
}

#[tokio::test]
async fn fifty_refusals_of_an_app_token_at_once_make_one_request_r29() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let gate = Gate::new();
    let server = TestApi::refusing_at(gate.clone(), |_| "fine".into_response()).await;
    refused_app_token(&world, &server, &tokens).await;
    let (api, mut running) = (server.client(), JoinSet::new());
    for _ in 0..50 {
        let (api, tokens) = (api.clone(), tokens.clone());
        running.spawn(async move { api.get(&tokens, "/me").await.unwrap().status() });
    }
    gate.arrived(50).await;
    gate.open();
    for status in running.join_all().await {
        assert_eq!(status, 200);
    }
    assert_eq!((world.issued(), server.seen().len()), (2, 100));
}

#[tokio::test]
async fn an_api_that_refuses_every_app_token_gets_two_and_costs_a_request_a_minute_r30() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let server = TestApi::answering(|_| challenge("Bearer error=\"invalid_token\"")).await;
    let api = server.client();
    let mut counts = Vec::new();
    for wait in [0, 60, 0, 59, 1] {
        world.advance(Duration::from_secs(wait));
        let answer = api.get(&tokens, "/me").await.unwrap();
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.text().await.unwrap(), "refused");
        counts.push((server.seen().len(), world.issued()));
    }
    assert_eq!(counts, [(1, 1), (3, 2), (4, 2), (5, 2), (7, 3)]);
}

/// There is no user who could be asked.
#[tokio::test]
async fn a_challenge_to_the_app_itself_is_the_callers_401_r33() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let text = format!("Bearer error=\"insufficient_claims\", claims=\"{ENCODED}\"");
    let expected = text.clone();
    let server = TestApi::answering(move |_| challenge(&text)).await;
    tokens.acquire(()).await.unwrap();
    world.advance(OLD_ENOUGH);
    let answer = server.client().get(&tokens, "/me").await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], expected);
    assert_eq!((server.seen().len(), world.issued()), (1, 1));
}

#[tokio::test]
async fn an_app_token_goes_to_its_api_only_a1() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let other = TestApi::start().await;
    let elsewhere = other.url.clone();
    let server = TestApi::answering(move |_| {
        let to = [(header::LOCATION, elsewhere.clone())];
        (StatusCode::TEMPORARY_REDIRECT, to).into_response()
    })
    .await;
    let api = server.client();
    refused_app_token(&world, &server, &tokens).await;
    // The second attempt is redirected.
    assert_eq!(api.get(&tokens, "/me").await.unwrap().status(), 307);
    assert_eq!(server.seen().len(), 2);
    let leading_away = api.get(&tokens, &other.url).await;
    assert_eq!(kind(leading_away), ErrorKind::Forbidden);
    assert!(other.calls().is_empty(), "{:?}", other.calls());
}

#[tokio::test]
async fn an_app_token_that_is_evicted_while_its_call_is_refused_is_followed_by_a_new_one_r31() {
    let world = World::new().await;
    let tokens = world.app_tokens();
    let gate = Gate::new();
    let server = TestApi::refusing_at(gate.clone(), |_| "fine".into_response()).await;
    // Too young to be replaced, had it stayed.
    let old = tokens.acquire(()).await.unwrap();
    server.refuse(old.secret());
    let calling = {
        let (api, tokens) = (server.client(), tokens.clone());
        tokio::spawn(async move { api.get(&tokens, "/me").await })
    };
    gate.arrived(1).await;
    assert_eq!(tokens.evict(()).await, 1);
    gate.open();
    assert_eq!(calling.await.unwrap().unwrap().status(), 200);
    let new = tokens.acquire(()).await.unwrap();
    assert_eq!(server.seen(), [old.secret(), new.secret()]);
    assert_eq!(world.issued(), 2);
    world.finish().await;
    assert!(!world.provider.is_active(old.secret()));
    assert!(world.provider.is_active(new.secret()));
}
