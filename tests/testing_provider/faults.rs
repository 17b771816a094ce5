//! Each fault, as a client sees it.

use std::time::Duration;

use axum_signout::testing::{Endpoint, Event, Fault, Gate};
use serde_json::{Value, json};

use crate::fixture::{AFTER, Fixture, error, query};

const DISCOVERY: &str = "/.well-known/openid-configuration";

/// The status and the body of a GET; `None` for the one when the connection
/// broke before it, for the other when it broke in the middle.
async fn get(fixture: &Fixture, path: &str) -> (Option<u16>, Option<String>) {
    match fixture.http.get(fixture.provider.url(path)).send().await {
        Ok(answer) => (Some(answer.status().as_u16()), answer.text().await.ok()),
        Err(_) => (None, None),
    }
}

#[tokio::test]
async fn answers_that_are_not_those_one_hoped_for() {
    let fixture = Fixture::new().await;
    let faults = fixture.provider.faults();
    let endpoints = [(Endpoint::Discovery, DISCOVERY), (Endpoint::Jwks, "/jwks")];
    for (endpoint, path) in endpoints {
        faults.once(endpoint, Fault::Drop);
        assert_eq!(get(&fixture, path).await, (None, None));

        faults.once(endpoint, Fault::LoseAnswer);
        assert_eq!(get(&fixture, path).await, (None, None));

        faults.once(endpoint, Fault::DropMidway);
        assert_eq!(get(&fixture, path).await, (Some(200), None));

        faults.once(endpoint, Fault::Status(502));
        assert_eq!(get(&fixture, path).await.0, Some(502));

        faults.once(endpoint, Fault::Garbage);
        let body = get(&fixture, path).await.1.unwrap();
        assert!(serde_json::from_str::<Value>(&body).is_err());

        faults.once(endpoint, Fault::Huge);
        let body = get(&fixture, path).await.1.unwrap();
        assert!(body.len() > 1 << 20);
        assert!(serde_json::from_str::<Value>(&body).is_ok());

        faults.once(endpoint, Fault::Delay(Duration::ZERO));
        assert_eq!(get(&fixture, path).await.0, Some(200));
    }
    let faulted = |event: &Event| matches!(event, Event::Faulted { .. });
    assert_eq!(fixture.provider.count(faulted), 14);
}

#[tokio::test]
async fn retry_after_is_sent_and_faults_are_counted_and_cleared() {
    let fixture = Fixture::new().await;
    let faults = fixture.provider.faults();
    faults.times(2, Endpoint::Jwks, Fault::StatusRetryAfter(503, 7));
    for expected in [503, 503, 200] {
        let answer = fixture.http.get(fixture.provider.url("/jwks")).send().await;
        let answer = answer.unwrap();
        assert_eq!(answer.status().as_u16(), expected);
        let retry_after = answer.headers().get("retry-after");
        assert_eq!(retry_after.is_some(), expected == 503);
    }
    faults.always(Endpoint::Jwks, Fault::Status(429));
    faults.always(Endpoint::Discovery, Fault::Status(500));
    for _ in 0..3 {
        assert_eq!(get(&fixture, "/jwks").await.0, Some(429));
    }
    faults.clear_endpoint(Endpoint::Jwks);
    assert_eq!(get(&fixture, "/jwks").await.0, Some(200));
    assert_eq!(get(&fixture, DISCOVERY).await.0, Some(500));
    faults.clear();
    assert_eq!(get(&fixture, DISCOVERY).await.0, Some(200));
}

#[tokio::test]
async fn discovery_can_lie_and_lack() {
    let fixture = Fixture::new().await;
    let faults = fixture.provider.faults();
    faults.once(Endpoint::Discovery, Fault::wrong_issuer());
    faults.once(Endpoint::Discovery, Fault::no_end_session_endpoint());
    faults.once(Endpoint::Discovery, Fault::no_revocation_endpoint());
    let document = fixture.get(DISCOVERY).await;
    assert_ne!(document["issuer"], fixture.provider.issuer());
    assert!(document.get("end_session_endpoint").is_none());
    assert!(document.get("revocation_endpoint").is_none());
    let document = fixture.get(DISCOVERY).await;
    assert_eq!(document["issuer"], fixture.provider.issuer());
    assert!(document.get("end_session_endpoint").is_some());
}

#[tokio::test]
async fn a_lost_answer_is_not_a_lost_request() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    let faults = fixture.provider.faults();
    let fields = [
        ("grant_type", "refresh_token"),
        ("refresh_token", tokens.refresh()),
    ];

    faults.once(Endpoint::Refresh, Fault::Drop);
    fixture.try_post("/token", &fields).await.unwrap_err();
    assert!(fixture.provider.is_active(tokens.refresh()));

    faults.once(Endpoint::Refresh, Fault::LoseAnswer);
    fixture.try_post("/token", &fields).await.unwrap_err();
    assert!(!fixture.provider.is_active(tokens.refresh()));
    let refreshed = |event: &Event| matches!(event, Event::Refreshed { token, .. } if *token == tokens.refresh());
    assert_eq!(fixture.provider.count(refreshed), 1);
}

#[tokio::test]
async fn the_token_endpoint_misbehaves() {
    let mut fixture = Fixture::new().await;
    let faults = fixture.provider.faults();
    let lifetime = Duration::from_secs(5);
    faults.once(Endpoint::Code, Fault::AccessTokenLifetime(lifetime));
    let tokens = fixture.sign_in("alice").await;
    assert_eq!(tokens.0["expires_in"], 5);
    fixture.provider.set_clock_offset(6);
    assert!(!fixture.provider.is_active(tokens.access()));

    faults.once(Endpoint::Refresh, Fault::invalid_grant());
    let answer = fixture.refresh(tokens.refresh(), &[]).await;
    assert_eq!(error(&answer), (400, "invalid_grant"));

    faults.once(Endpoint::Refresh, Fault::NoRefreshToken);
    let (status, answer) = fixture.refresh(tokens.refresh(), &[]).await;
    assert_eq!((status, &answer["refresh_token"]), (200, &Value::Null));
    assert!(fixture.provider.is_active(tokens.refresh()));

    faults.once(
        Endpoint::Token,
        Fault::Set("token_type".to_owned(), json!("N_A")),
    );
    let (_, answer) = fixture.refresh(tokens.refresh(), &[]).await;
    assert_eq!(answer["token_type"], "N_A");
}

#[tokio::test]
async fn a_gate_orders_what_happens() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    let faults = fixture.provider.faults();
    let (before, after) = (Gate::new(), Gate::new());
    faults.once(Endpoint::Refresh, Fault::Hold(before.clone()));
    faults.once(Endpoint::Refresh, Fault::HoldAnswer(after.clone()));
    let story = async {
        before.arrived(1).await;
        assert!(fixture.provider.is_active(tokens.refresh()));
        before.let_one_pass();
        after.arrived(1).await;
        assert!(!fixture.provider.is_active(tokens.refresh()));
        after.open();
    };
    let (answer, ()) = tokio::join!(fixture.refresh(tokens.refresh(), &[]), story);
    assert_eq!(answer.0, 200);
    after.pass().await;
    assert_eq!((before.arrivals(), after.arrivals()), (1, 2));
}

#[tokio::test]
async fn redirects_back_can_lie_and_lack() {
    let mut fixture = Fixture::new().await;
    let faults = fixture.provider.faults();
    faults.once(
        Endpoint::Authorize,
        Fault::Set("iss".to_owned(), json!("https://evil.invalid")),
    );
    faults.once(Endpoint::Authorize, Fault::Without("state".to_owned()));
    fixture.sign_in("alice").await;
    let way_back = fixture.way_back();
    assert_eq!(
        query(&way_back, "iss").as_deref(),
        Some("https://evil.invalid")
    );
    assert_eq!(query(&way_back, "state"), None);

    faults.once(
        Endpoint::EndSession,
        Fault::Set("state".to_owned(), json!("forged")),
    );
    let params = [
        ("client_id", "web"),
        ("post_logout_redirect_uri", AFTER),
        ("state", "mine"),
    ];
    let url = fixture.end_session_url(&params);
    fixture.browser.goto(&url).await.unwrap();
    fixture.press("confirm-logout").await;
    assert_eq!(
        query(&fixture.way_back(), "state").as_deref(),
        Some("forged")
    );
}

#[tokio::test]
async fn revocation_introspection_and_end_session_can_fail() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    let faults = fixture.provider.faults();
    let token = [("token", tokens.access())];
    faults.once(Endpoint::Revoke, Fault::Status(503));
    assert_eq!(fixture.post("/revoke", &token).await.0, 503);
    let unsupported = Fault::OAuthError("unsupported_token_type".to_owned());
    faults.once(Endpoint::Revoke, unsupported);
    let answer = fixture.post("/revoke", &token).await;
    assert_eq!(error(&answer), (400, "unsupported_token_type"));
    assert!(fixture.provider.is_active(tokens.access()));
    faults.once(Endpoint::Introspect, Fault::Drop);
    fixture.try_post("/introspect", &token).await.unwrap_err();
    faults.once(Endpoint::EndSession, Fault::Status(500));
    let url = fixture.end_session_url(&[]);
    let page = fixture.browser.goto(&url).await.unwrap();
    assert_eq!(page.status().as_u16(), 500);
    faults.once(Endpoint::Authorize, Fault::Status(500));
    let page = fixture.authorize(&[]).await.unwrap();
    assert_eq!(page.status().as_u16(), 500);
}

#[tokio::test]
async fn a_provider_that_is_down_comes_back_as_it_was() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    for _ in 0..2 {
        fixture.provider.pause().await;
        fixture.provider.pause().await;
        let refused = fixture.http.get(fixture.provider.url("/jwks")).send().await;
        assert!(refused.unwrap_err().is_connect());
        fixture.provider.resume().await;
        fixture.provider.resume().await;
        assert_eq!(get(&fixture, "/jwks").await.0, Some(200));
    }
    let (status, _) = fixture.refresh(tokens.refresh(), &[]).await;
    assert_eq!(status, 200);
    let address = fixture.provider.address();
    fixture.provider.shutdown().await;
    std::net::TcpStream::connect(address).unwrap_err();
}

#[tokio::test]
async fn a_request_that_waits_is_cut_by_a_pause() {
    let fixture = Fixture::new().await;
    let gate = Gate::new();
    let faults = fixture.provider.faults();
    faults.once(Endpoint::Jwks, Fault::Hold(gate.clone()));
    let story = async {
        gate.arrived(1).await;
        fixture.provider.pause().await;
    };
    let (answer, ()) = tokio::join!(get(&fixture, "/jwks"), story);
    assert_eq!(answer, (None, None));
}
