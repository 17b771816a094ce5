//! Sign-in, refresh, revocation, downstream tokens.

use axum_signout::testing::{Event, TestProvider, TokenKind};

use crate::fixture::{Fixture, error, query};

#[tokio::test]
async fn a_person_signs_in_and_gets_tokens() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    let way_back = fixture.way_back();
    assert_eq!(query(&way_back, "state").as_deref(), Some("state-1"));
    assert_eq!(
        query(&way_back, "iss").as_deref(),
        Some(fixture.provider.issuer())
    );

    let claims = tokens.claims();
    assert_eq!(claims["iss"], fixture.provider.issuer());
    assert_eq!(claims["sub"], "alice");
    assert_eq!(claims["aud"], "web");
    assert_eq!(claims["nonce"], "nonce-1");
    assert_eq!(claims["name"], "Alice Adams");
    assert_eq!(tokens.get("scope"), "openid profile Mail.Read");
    assert!(fixture.provider.is_active(tokens.access()));
    assert!(fixture.provider.is_active(tokens.refresh()));

    let sid = claims["sid"].as_str().unwrap();
    let session = fixture.provider.session_of(sid).unwrap();
    assert_eq!(session.subject, "alice");
    assert!(session.clients.contains("web"));
    let issued = |event: &Event| matches!(event, Event::TokensIssued { .. });
    assert_eq!(fixture.provider.count(issued), 1);
}

#[tokio::test]
async fn a_retired_refresh_token_that_is_used_again_revokes_the_grant() {
    let mut fixture = Fixture::new().await;
    let first = fixture.sign_in("alice").await;
    let (status, answer) = fixture.refresh(first.refresh(), &[]).await;
    assert_eq!(status, 200, "{answer}");
    let second = crate::fixture::Tokens(answer);
    assert_eq!(second.claims()["sub"], "alice");
    assert!(!fixture.provider.is_active(first.refresh()));
    assert!(fixture.provider.is_active(second.refresh()));

    let answer = fixture.refresh(first.refresh(), &[]).await;
    assert_eq!(error(&answer), (400, "invalid_grant"));
    assert!(!fixture.provider.is_active(second.refresh()));
    assert!(!fixture.provider.is_active(second.access()));
    let reused = |event: &Event| matches!(event, Event::ReuseDetected { .. });
    assert_eq!(fixture.provider.count(reused), 1);
}

#[tokio::test]
async fn without_rotation_a_refresh_token_stays() {
    let builder = TestProvider::builder().rotate_refresh_tokens(false);
    let mut fixture = Fixture::with(builder).await;
    let tokens = fixture.sign_in("alice").await;
    for _ in 0..2 {
        let (status, answer) = fixture.refresh(tokens.refresh(), &[]).await;
        assert_eq!(status, 200);
        assert!(answer["refresh_token"].is_null());
    }
}

#[tokio::test]
async fn revocation_and_introspection() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    let (_, answer) = fixture
        .post("/introspect", &[("token", tokens.refresh())])
        .await;
    assert_eq!(
        (&answer["active"], &answer["sub"]),
        (&true.into(), &"alice".into())
    );
    let unknown = fixture.post("/revoke", &[("token", "unknown")]).await;
    assert_eq!(unknown.0, 200);
    let known = fixture
        .post("/revoke", &[("token", tokens.refresh())])
        .await;
    assert_eq!(known.0, 200);
    let (_, answer) = fixture
        .post("/introspect", &[("token", tokens.access())])
        .await;
    assert_eq!(answer["active"], false, "the grant's access tokens die too");
    let kinds: Vec<_> = fixture
        .provider
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Revoked { kind, .. } => Some(kind),
            _ => None,
        })
        .collect();
    assert_eq!(kinds, [None, Some(TokenKind::Refresh)]);
}
