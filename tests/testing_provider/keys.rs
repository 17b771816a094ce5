//! ID tokens and keys, judged by `openidconnect`.

use axum_signout::testing::{
    Endpoint, Event, Fault, IdTokenFault, SigningAlg, TestClient, TestProvider,
};
use openidconnect::{
    ClientId, ClientSecret, IssuerUrl, Nonce,
    core::{CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet},
};
use serde_json::Value;

use crate::fixture::{APP, Fixture, SECRET, part};

/// What an independent implementation says about an ID token.
async fn verdict(fixture: &Fixture, token: &str) -> Result<(), String> {
    let keys: CoreJsonWebKeySet = serde_json::from_value(fixture.get("/jwks").await).unwrap();
    let issuer = IssuerUrl::new(fixture.provider.issuer().to_owned()).unwrap();
    let secret = ClientSecret::new(SECRET.to_owned());
    let verifier = CoreIdTokenVerifier::new_confidential_client(
        ClientId::new("web".to_owned()),
        secret,
        issuer,
        keys,
    );
    let token: CoreIdToken = token.parse().map_err(|_| "not an ID token".to_owned())?;
    token
        .claims(&verifier, &Nonce::new("nonce-1".to_owned()))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

async fn verdict_with(fault: IdTokenFault) -> Result<(), String> {
    let mut fixture = Fixture::new().await;
    let faults = fixture.provider.faults();
    faults.once(Endpoint::Code, Fault::IdToken(fault));
    let tokens = fixture.sign_in("alice").await;
    verdict(&fixture, tokens.get("id_token")).await
}

#[tokio::test]
async fn good_id_tokens_are_good() {
    let mut fixture = Fixture::new().await;
    let tokens = fixture.sign_in("alice").await;
    let id_token = tokens.get("id_token");
    verdict(&fixture, id_token).await.unwrap();
    assert_eq!(part(id_token, 0)["alg"], "RS256");

    let (_, refreshed) = fixture.refresh(tokens.refresh(), &[]).await;
    let refreshed = refreshed["id_token"].as_str().unwrap();
    verdict(&fixture, refreshed).await.unwrap();

    let by_hand = fixture.provider.id_token("web", "bob");
    let by_hand = by_hand.claim("nonce", "nonce-1").sign();
    verdict(&fixture, &by_hand).await.unwrap();
}

#[tokio::test]
async fn es256_and_hs256_are_signed_as_registered() {
    let mut fixture = Fixture::new().await;
    for alg in [SigningAlg::Es256, SigningAlg::Hs256] {
        let client = TestClient::new("web").secret(SECRET).app(APP);
        fixture.provider.add_client(client.signing_alg(alg));
        let tokens = fixture.sign_in_with("alice", &[("prompt", "login")]).await;
        let header = part(tokens.get("id_token"), 0);
        assert_eq!(
            header["alg"].as_str(),
            Some(if alg == SigningAlg::Es256 {
                "ES256"
            } else {
                "HS256"
            })
        );
        if alg == SigningAlg::Es256 {
            let keys: CoreJsonWebKeySet =
                serde_json::from_value(fixture.get("/jwks").await).unwrap();
            assert_eq!(keys.keys().len(), 2);
        }
    }
}

#[tokio::test]
async fn bad_id_tokens_are_bad() {
    let rows = [
        (IdTokenFault::WrongIssuer, "issuer"),
        (IdTokenFault::WrongAudience, "audience"),
        (IdTokenFault::WrongNonce, "nonce"),
        (IdTokenFault::Expired, "expired"),
        (IdTokenFault::Unsigned, "ignature"),
        (IdTokenFault::Hs256, "ignature"),
        (IdTokenFault::UnpublishedKey, "ignature"),
        (IdTokenFault::ForgedKey, "ignature"),
        (IdTokenFault::BadSignature, "ignature"),
    ];
    for (fault, reason) in rows {
        let row = format!("{fault:?}");
        let error = verdict_with(fault).await.expect_err(&row);
        assert!(error.contains(reason), "{row}: {error}");
    }
}

#[tokio::test]
async fn id_token_faults_that_are_not_the_verifiers_to_see() {
    let mut fixture = Fixture::new().await;
    let faults = fixture.provider.faults();
    faults.once(Endpoint::Code, Fault::IdToken(IdTokenFault::Missing));
    let tokens = fixture.sign_in("alice").await;
    assert!(tokens.0["id_token"].is_null());

    let other = IdTokenFault::OtherSubject("bob".to_owned());
    faults.once(Endpoint::Refresh, Fault::IdToken(other));
    let (_, answer) = fixture.refresh(tokens.refresh(), &[]).await;
    let id_token = answer["id_token"].as_str().unwrap();
    assert_eq!(part(id_token, 1)["sub"], "bob");
    verdict(&fixture, id_token).await.unwrap();

    let claim = IdTokenFault::Claim("azp".to_owned(), Value::Null);
    faults.once(Endpoint::Refresh, Fault::IdToken(claim));
    let without = IdTokenFault::WithoutClaim("sid".to_owned());
    faults.once(Endpoint::Refresh, Fault::IdToken(without));
    let token = answer["refresh_token"].as_str().unwrap();
    let (_, answer) = fixture.refresh(token, &[]).await;
    let claims = part(answer["id_token"].as_str().unwrap(), 1);
    assert!(claims["azp"].is_null() && claims.get("azp").is_some());
    assert!(claims.get("sid").is_none());
}

#[tokio::test]
async fn keys_rotate_and_old_ones_go_when_told() {
    let mut fixture = Fixture::with(TestProvider::builder().own_key(true)).await;
    let before = fixture.sign_in("alice").await;
    fixture.provider.rotate_keys();
    let after = fixture.sign_in_with("alice", &[("prompt", "login")]).await;
    let (old, new) = (before.get("id_token"), after.get("id_token"));
    assert_ne!(part(old, 0)["kid"], part(new, 0)["kid"]);
    verdict(&fixture, old).await.unwrap();
    verdict(&fixture, new).await.unwrap();
    fixture.provider.withdraw_old_keys();
    verdict(&fixture, old).await.unwrap_err();
    verdict(&fixture, new).await.unwrap();
    fixture.provider.replace_keys();
    verdict(&fixture, new).await.unwrap_err();
    let fetched = |event: &Event| *event == Event::KeysFetched;
    assert_eq!(fixture.provider.count(fetched), 5);
}

#[tokio::test]
async fn the_clock_can_be_off() {
    let mut fixture = Fixture::new().await;
    fixture.provider.set_clock_offset(-3600);
    let tokens = fixture.sign_in("alice").await;
    let error = verdict(&fixture, tokens.get("id_token")).await.unwrap_err();
    assert!(error.contains("expired"), "{error}");
    assert!(fixture.provider.is_active(tokens.access()));
    fixture.provider.set_clock_offset(0);
    assert!(!fixture.provider.is_active(tokens.access()));
}
