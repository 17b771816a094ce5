//! The end-session endpoint, and the channels by which clients hear of it.

use std::sync::{Arc, Mutex};

use axum::{Form, Router, extract::State, http::StatusCode, routing::post};
use axum_signout::testing::{BackChannelCall, Event, TestClient, TestProvider};
use serde_json::Value;

use crate::fixture::{AFTER, APP, Fixture, SECRET, part, query};

#[tokio::test]
async fn sign_out_asks_and_comes_back() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    let url = fixture.end_session_url(&[
        ("id_token_hint", tokens.get("id_token")),
        ("post_logout_redirect_uri", AFTER),
        ("state", "back"),
        ("extra", "1"),
    ]);
    let page = fixture.browser.goto(&url).await.unwrap();
    assert!(page.has_id("confirm-logout") && page.has_id("decline-logout"));
    assert_eq!(fixture.provider.sessions().len(), 1);

    fixture.press("confirm-logout").await;
    assert_eq!(fixture.way_back().as_str(), format!("{AFTER}?state=back"));
    assert!(fixture.provider.sessions().is_empty());
    assert!(!fixture.provider.is_active(tokens.refresh()));
    assert!(fixture.browser.cookies("127.0.0.1").is_empty());

    let requested = fixture
        .provider
        .wait_for(|event| matches!(event, Event::EndSessionRequested { .. }))
        .await;
    let Event::EndSessionRequested {
        params,
        hint,
        state,
        ..
    } = requested
    else {
        unreachable!()
    };
    assert_eq!(params["extra"], "1");
    assert_eq!(hint.unwrap().reveal(), tokens.get("id_token"));
    assert_eq!(state.unwrap(), "back");
}

#[tokio::test]
async fn declining_leaves_the_session() {
    let mut fixture = Fixture::new().await;
    fixture.sign_in("alice").await;
    let url = fixture.end_session_url(&[("client_id", "web"), ("post_logout_redirect_uri", AFTER)]);
    fixture.browser.goto(&url).await.unwrap();
    fixture.press("decline-logout").await;
    assert_eq!(fixture.way_back().as_str(), AFTER);
    assert_eq!(fixture.provider.sessions().len(), 1);
}

#[tokio::test]
async fn offline_access_survives_and_an_expired_hint_is_good() {
    let mut fixture = Fixture::with(TestProvider::builder().confirm_logout(false)).await;
    let scope = [("scope", "openid offline_access")];
    let tokens = fixture.sign_in_with("alice", &scope).await;
    fixture.provider.set_clock_offset(100_000);
    let url = fixture.end_session_url(&[
        ("id_token_hint", tokens.get("id_token")),
        ("post_logout_redirect_uri", AFTER),
    ]);
    let _ = fixture.browser.goto(&url).await;
    assert_eq!(fixture.way_back().as_str(), AFTER);
    assert!(fixture.provider.sessions().is_empty());
    assert!(fixture.provider.is_active(tokens.refresh()));
}

#[tokio::test]
async fn bad_end_session_requests_change_nothing() {
    let mut fixture = Fixture::with(TestProvider::builder().confirm_logout(false)).await;
    let tokens = fixture.sign_in("alice").await;
    let hint = tokens.get("id_token").to_owned();
    let elsewhere = "http://127.0.0.1:1/elsewhere";
    let rows: [(&str, &[(&str, &str)]); 5] = [
        ("unknown hint", &[("id_token_hint", "x.y.z")]),
        (
            "other client",
            &[("id_token_hint", &hint), ("client_id", "other")],
        ),
        (
            "unregistered",
            &[
                ("client_id", "web"),
                ("post_logout_redirect_uri", elsewhere),
            ],
        ),
        ("no client", &[("post_logout_redirect_uri", AFTER)]),
        ("doubled", &[("client_id", "web"), ("client_id", "web")]),
    ];
    for (row, params) in rows {
        let url = fixture.end_session_url(params);
        let page = fixture.browser.goto(&url).await.unwrap();
        assert_eq!(page.status(), StatusCode::BAD_REQUEST, "{row}");
        assert_eq!(fixture.provider.sessions().len(), 1, "{row}");
    }
}

type Received = Arc<Mutex<Vec<Value>>>;

async fn receive(State(received): State<Received>, Form(form): Form<Vec<(String, String)>>) {
    assert_eq!(form[0].0, "logout_token");
    let mut received = received.lock().unwrap();
    received.push(part(&form[0].1, 0));
    received.push(part(&form[0].1, 1));
}

async fn app() -> (String, Received) {
    let received = Received::default();
    let router = Router::new()
        .route("/signout/backchannel", post(receive))
        .route("/signout/frontchannel", axum::routing::get(|| async {}))
        .with_state(received.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (base, received)
}

fn with_channels(base: &str) -> TestClient {
    TestClient::new("web")
        .secret(SECRET)
        .app(APP)
        .app_logout_channels(base)
}

#[tokio::test]
async fn both_channels_carry_the_session() {
    let builder = TestProvider::builder().host("localhost");
    let mut fixture = Fixture::with(builder.confirm_logout(false)).await;
    let (base, received) = app().await;
    fixture.provider.add_client(with_channels(&base));
    let sid = fixture.sign_in("alice").await.claims()["sid"].clone();

    let url = fixture.end_session_url(&[("client_id", "web"), ("post_logout_redirect_uri", AFTER)]);
    fixture.browser.goto(&url).await.unwrap();
    let frames = fixture.browser.load_frames().await.unwrap();
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].status(), StatusCode::OK);
    assert_eq!(query(frames[0].url(), "sid").as_deref(), sid.as_str());
    let iss = query(frames[0].url(), "iss");
    assert_eq!(iss.as_deref(), Some(fixture.provider.issuer()));
    let sent = frames[0].request_headers();
    assert_eq!(sent["sec-fetch-site"], "cross-site");
    assert_eq!(sent["sec-fetch-dest"], "iframe");

    let called = |event: &Event| {
        matches!(
            event,
            Event::BackChannelCall {
                status: Some(200),
                ..
            }
        )
    };
    fixture.provider.wait_for(called).await;
    let received = received.lock().unwrap();
    assert_eq!(received[0]["typ"], "logout+jwt");
    assert_eq!(received[1]["sid"], sid);
    assert_eq!(received[1]["sub"], "alice");
    assert_eq!(received[1]["aud"], "web");
}

#[tokio::test]
async fn the_provider_ends_a_session_by_itself() {
    let mut fixture = Fixture::new().await;
    let (base, received) = app().await;
    fixture.provider.add_client(with_channels(&base));
    let tokens = fixture.sign_in("alice").await;
    let claims = tokens.claims();
    let sid = claims["sid"].as_str().unwrap();

    let calls = fixture.provider.end_session(sid).await;
    let [
        BackChannelCall {
            client_id, status, ..
        },
    ] = &calls[..]
    else {
        panic!("one call")
    };
    assert_eq!((client_id.as_str(), *status), ("web", Some(StatusCode::OK)));
    assert_eq!(received.lock().unwrap()[1]["sid"], sid);
    assert!(!fixture.provider.is_active(tokens.refresh()));

    let token = fixture.provider.logout_token("web").claim("sub", "bob");
    let token = token.without("jti").sign();
    fixture.provider.post_logout_token("web", &token).await;
    let received = received.lock().unwrap();
    assert!(received[3].get("jti").is_none());
    assert_eq!(received[3]["sub"], "bob");
}
