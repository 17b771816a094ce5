//! Sign-in, refresh, revocation, downstream tokens.

use axum_signout::testing::{
    ClientAuth, Event, NeedsConsent, TestClient, TestProvider, TestUser, TokenKind,
};

use crate::fixture::{CALLBACK, Fixture, SECRET, Tokens, VERIFIER, error, part, query};

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
    let second = Tokens(answer);
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

#[tokio::test]
async fn authorization_requests_are_checked() {
    let mut fixture = Fixture::new().await;
    let rows = [
        ("code_challenge_method", "plain", "invalid_request"),
        ("response_type", "token", "unsupported_response_type"),
        ("response_mode", "fragment", "invalid_request"),
        ("prompt", "none", "login_required"),
        ("prompt", "none login", "invalid_request"),
        ("max_age", "-1", "invalid_request"),
        ("resource", "relative", "invalid_target"),
        ("request", "jwt", "request_not_supported"),
    ];
    for (name, value, expected) in rows {
        fixture.authorize(&[(name, value)]).await;
        let error = query(&fixture.way_back(), "error");
        assert_eq!(error.as_deref(), Some(expected), "{name}={value}");
    }
    for changed in [
        ("client_id", "other"),
        ("redirect_uri", "http://127.0.0.1:1/"),
    ] {
        let page = fixture.authorize(&[changed]).await.unwrap();
        assert_eq!(page.status().as_u16(), 400);
    }
    fixture.authorize(&[]).await.unwrap();
    fixture.press("login-cancel").await;
    let error = query(&fixture.way_back(), "error");
    assert_eq!(error.as_deref(), Some("access_denied"));
}

#[tokio::test]
async fn what_is_echoed_is_escaped() {
    let mut fixture = Fixture::new().await;
    let user = TestUser::new("<i>\"").claim("name", "<b>Eve</b>");
    fixture.provider.add_user(user);
    let page = fixture.authorize(&[("ui_locales", "\"><script>")]).await;
    let page = page.unwrap();
    for raw in ["<i>", "<b>", "<script>"] {
        assert!(!page.body().contains(raw), "{raw}");
    }
}

#[tokio::test]
async fn single_sign_on_and_the_ways_around_it() {
    let mut fixture = Fixture::new().await;
    let first = fixture.sign_in("alice").await.claims();
    fixture.authorize(&[("prompt", "none")]).await;
    let code = query(&fixture.way_back(), "code").unwrap();
    let (_, second) = fixture.redeem(&code).await;
    let second = Tokens(second).claims();
    assert_eq!(first["sid"], second["sid"]);

    let third = fixture.sign_in_with("bob", &[("prompt", "login")]).await;
    assert_ne!(first["sid"], third.claims()["sid"]);
    assert_eq!(fixture.provider.sessions().len(), 2);
    fixture.provider.set_clock_offset(100);
    let page = fixture.authorize(&[("max_age", "50"), ("acr_values", "high")]);
    assert!(page.await.unwrap().has_id("login-bob"));
    fixture.press("login-bob").await;
    let code = query(&fixture.way_back(), "code").unwrap();
    let (_, fourth) = fixture.redeem(&code).await;
    let fourth = Tokens(fourth).claims();
    assert_eq!(fourth["sid"], third.claims()["sid"]);
    assert_eq!(fourth["acr"], "high");
}

#[tokio::test]
async fn a_code_is_good_once_and_with_its_verifier() {
    let mut fixture = Fixture::new().await;
    let code = fixture.code("alice", &[]).await;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", CALLBACK),
        ("code_verifier", "another"),
    ];
    let answer = fixture.post("/token", &fields).await;
    assert_eq!(error(&answer), (400, "invalid_grant"));
    let (_, answer) = fixture.redeem(&code).await;
    let tokens = Tokens(answer);
    let answer = fixture.redeem(&code).await;
    assert_eq!(error(&answer), (400, "invalid_grant"));
    assert!(!fixture.provider.is_active(tokens.access()));
}

#[tokio::test]
async fn clients_prove_themselves_as_registered() {
    let fixture = Fixture::new().await;
    let fields = [("grant_type", "client_credentials"), ("scope", "Jobs")];
    let (status, answer) = fixture.post("/token", &fields).await;
    assert_eq!((status, &answer["scope"]), (200, &"Jobs".into()));
    let post = crate::fixture::client().auth_method(ClientAuth::SecretPost);
    fixture.provider.add_client(post);
    let answer = fixture.post("/token", &fields).await;
    assert_eq!(error(&answer), (401, "invalid_client"));
    let public = TestClient::new("web").app(crate::fixture::APP);
    fixture.provider.add_client(public);
    let answer = fixture.post("/token", &fields).await;
    assert_eq!(error(&answer), (401, "invalid_client"));
    let refused = |event: &Event| matches!(event, Event::TokenRefused { client_id, .. } if client_id == "web");
    assert_eq!(fixture.provider.count(refused), 2);
}

#[tokio::test]
async fn scopes_narrow_widen_and_need_consent() {
    let challenge = r#"{"access_token":{"acrs":{"value":"c1"}}}"#;
    let needed = NeedsConsent::new("Admin.Write").claims(challenge);
    let builder = TestProvider::builder().rotate_refresh_tokens(false);
    let mut fixture = Fixture::with(builder.needs_consent(needed)).await;
    let tokens = fixture.sign_in("alice").await;
    let token = tokens.refresh();
    for scope in ["Mail.Read", "Files.Read"] {
        let (_, answer) = fixture.refresh(token, &[("scope", scope)]).await;
        assert_eq!(answer["scope"], scope);
    }
    let admin = [("scope", "Admin.Write")];
    let answer = fixture.refresh(token, &admin).await;
    assert_eq!(error(&answer), (400, "interaction_required"));
    assert_eq!(answer.1["claims"], challenge);

    let page = fixture.authorize(&[("scope", "openid Admin.Write")]).await;
    assert!(page.unwrap().has_id("consent-deny"));
    fixture.press("consent-allow").await;
    assert!(query(&fixture.way_back(), "code").is_some());
    assert_eq!(fixture.refresh(token, &admin).await.0, 200);

    let strict = TestProvider::builder().scopes_beyond_grant(false);
    let mut fixture = Fixture::with(strict).await;
    let tokens = fixture.sign_in("alice").await;
    let answer = fixture.refresh(tokens.refresh(), &admin).await;
    assert_eq!(error(&answer), (400, "invalid_scope"));
}

#[tokio::test]
async fn downstream_tokens_by_both_grants() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    let access = "urn:ietf:params:oauth:token-type:access_token";
    let exchange = [
        (
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ),
        ("subject_token", tokens.access()),
        ("subject_token_type", access),
        ("resource", "https://api.example.com"),
    ];
    let (status, answer) = fixture.post("/token", &exchange).await;
    assert_eq!(
        (status, &answer["issued_token_type"]),
        (200, &access.into())
    );
    let token = answer["access_token"].as_str().unwrap();
    let (_, described) = fixture.post("/introspect", &[("token", token)]).await;
    assert_eq!(described["aud"][0], "https://api.example.com");
    assert_eq!(described["sub"], "alice");

    let mut on_behalf_of = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", tokens.access()),
        ("requested_token_use", "on_behalf_of"),
        ("scope", "Files.Read"),
    ];
    assert_eq!(fixture.post("/token", &on_behalf_of).await.0, 200);
    on_behalf_of[1].1 = "unknown";
    let answer = fixture.post("/token", &on_behalf_of).await;
    assert_eq!(error(&answer), (400, "invalid_grant"));
}

#[tokio::test]
async fn jwt_access_tokens_cannot_be_revoked() {
    let mut fixture = Fixture::with(TestProvider::builder().jwt_access_tokens(true)).await;
    let tokens = fixture.sign_in("alice").await;
    assert_eq!(part(tokens.access(), 0)["typ"], "at+jwt");
    let answer = fixture.post("/revoke", &[("token", tokens.access())]).await;
    assert_eq!(error(&answer), (400, "unsupported_token_type"));
}

#[tokio::test]
async fn every_secret_is_known_and_none_is_printed() {
    let mut fixture = Fixture::new().await;
    let code = fixture.code("alice", &[]).await;
    let (_, answer) = fixture.redeem(&code).await;
    let tokens = Tokens(answer);
    fixture.refresh(tokens.refresh(), &[]).await;
    let secrets = fixture.provider.secrets();
    let expected = [
        code.as_str(),
        tokens.access(),
        tokens.refresh(),
        tokens.get("id_token"),
        "state-1",
        "nonce-1",
        VERIFIER,
        SECRET,
    ];
    for secret in expected {
        assert!(secrets.contains(secret), "{secret}");
    }
    let printed = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        fixture.provider,
        fixture.provider.events(),
        fixture.browser,
        fixture.browser.history(),
        fixture.provider.logout_token("web"),
        crate::fixture::client(),
    );
    for secret in &secrets {
        assert!(!printed.contains(secret.as_str()), "{secret}");
    }
}

#[tokio::test]
async fn a_login_hint_that_means_somebody_else_asks_who_it_is() {
    let mut fixture = Fixture::new().await;
    fixture.code("alice", &[]).await;
    for (hint, asks) in [
        ("alice@example.com", false),
        ("nobody", false),
        ("bob", true),
    ] {
        // Nobody listens where the code goes, so a page means that the provider asks.
        let page = fixture.authorize(&[("login_hint", hint)]).await;
        assert_eq!(page.is_some(), asks, "{hint}");
    }
}
