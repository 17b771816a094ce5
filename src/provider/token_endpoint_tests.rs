use std::time::Duration;

use axum::http::Response;
use serde_json::json;

use super::*;

type Headers<'a> = &'a [(&'a str, &'a str)];

fn judged(status: u16, headers: Headers<'_>, body: &str) -> Result<TokenAnswer, TokenError> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(*name, *value);
    }
    let answer = answer.body(body.as_bytes().to_vec()).unwrap();
    let fields = judge(&answer, Timestamp::from_secs(0))?;
    read_tokens(fields, &["asked"], None).ok_or(TokenError::Unusable)
}

#[test]
fn answers_without_tokens() {
    let error =
        |code: &str| json!({"error": code, "error_description": "secret words"}).to_string();
    let away = |seconds: Option<u64>| TokenError::Unavailable {
        retry_after: seconds.map(Duration::from_secs),
        outcome_known: true,
    };
    let unknown = || TokenError::Unavailable {
        retry_after: None,
        outcome_known: false,
    };
    let rejected = |code: &str| TokenError::Rejected { code: code.into() };
    let interaction = |code: &str, claims: Option<&str>| TokenError::Interaction {
        code: code.into(),
        claims: claims.map(Into::into),
    };
    let after: Headers = &[("retry-after", "30")];
    let none: Headers = &[];
    let rows: Vec<(&str, u16, Headers, String, TokenError)> = vec![
        (
            "invalid_grant",
            400,
            none,
            error("invalid_grant"),
            TokenError::InvalidGrant,
        ),
        (
            "invalid_grant with 401",
            401,
            none,
            error("invalid_grant"),
            TokenError::InvalidGrant,
        ),
        (
            "Entra: token expired",
            400,
            none,
            json!({"error": "invalid_grant", "suberror": "token_expired"}).to_string(),
            TokenError::InvalidGrant,
        ),
        (
            "Entra: consent",
            400,
            none,
            json!({"error": "invalid_grant", "suberror": "consent_required"}).to_string(),
            interaction("consent_required", None),
        ),
        (
            "Entra: step-up",
            400,
            none,
            json!({"error": "interaction_required", "claims": "{\"access_token\":{}}"}).to_string(),
            interaction("interaction_required", Some("{\"access_token\":{}}")),
        ),
        (
            "claims with invalid_grant",
            400,
            none,
            json!({"error": "invalid_grant", "claims": "{}"}).to_string(),
            interaction("invalid_grant", Some("{}")),
        ),
        (
            "claims too long",
            400,
            none,
            json!({"error": "interaction_required", "claims": "x".repeat(4097)}).to_string(),
            interaction("interaction_required", None),
        ),
        (
            "login_required",
            400,
            none,
            error("login_required"),
            interaction("login_required", None),
        ),
        (
            "consent_required",
            400,
            none,
            error("consent_required"),
            interaction("consent_required", None),
        ),
        (
            "invalid_client",
            401,
            none,
            error("invalid_client"),
            rejected("invalid_client"),
        ),
        (
            "invalid_scope",
            400,
            none,
            error("invalid_scope"),
            rejected("invalid_scope"),
        ),
        (
            "unauthorized_client",
            403,
            none,
            error("unauthorized_client"),
            rejected("unauthorized_client"),
        ),
        (
            "hostile code",
            400,
            none,
            error("<script>\n"),
            rejected("unreadable_error_code"),
        ),
        (
            "quote in the code",
            400,
            none,
            error("a\"b"),
            rejected("unreadable_error_code"),
        ),
        (
            "long code",
            400,
            none,
            error(&"x".repeat(65)),
            rejected("unreadable_error_code"),
        ),
        (
            "empty code",
            400,
            none,
            error(""),
            rejected("unreadable_error_code"),
        ),
        (
            "code is a number",
            400,
            none,
            json!({"error": 7}).to_string(),
            rejected("http_400"),
        ),
        ("a page", 404, none, "<html>".into(), rejected("http_404")),
        ("nothing", 403, none, String::new(), rejected("http_403")),
        ("429", 429, after, error("slow"), away(Some(30))),
        ("503", 503, after, String::new(), away(Some(30))),
        ("500", 500, none, "<html>".into(), unknown()),
        (
            "502 that says invalid_grant",
            502,
            none,
            error("invalid_grant"),
            unknown(),
        ),
        ("408", 408, none, String::new(), unknown()),
        (
            "temporarily_unavailable",
            400,
            after,
            error("temporarily_unavailable"),
            away(Some(30)),
        ),
        ("server_error", 400, none, error("server_error"), unknown()),
        ("redirect", 302, none, String::new(), TokenError::Unusable),
        (
            "not modified",
            304,
            none,
            String::new(),
            TokenError::Unusable,
        ),
        (
            "success without body",
            200,
            none,
            String::new(),
            TokenError::Unusable,
        ),
        (
            "success with a page",
            200,
            none,
            "<html>".into(),
            TokenError::Unusable,
        ),
        (
            "success with an array",
            200,
            none,
            "[]".into(),
            TokenError::Unusable,
        ),
        (
            "success with an error",
            200,
            none,
            error("invalid_grant"),
            TokenError::Unusable,
        ),
        (
            "no access token",
            200,
            none,
            r#"{"token_type":"Bearer"}"#.into(),
            TokenError::Unusable,
        ),
        (
            "empty access token",
            200,
            none,
            r#"{"access_token":"","token_type":"Bearer"}"#.into(),
            TokenError::Unusable,
        ),
        (
            "access token is a number",
            200,
            none,
            r#"{"access_token":1,"token_type":"Bearer"}"#.into(),
            TokenError::Unusable,
        ),
        (
            "no token type",
            200,
            none,
            r#"{"access_token":"a"}"#.into(),
            TokenError::Unusable,
        ),
        (
            "cut off",
            200,
            none,
            r#"{"access_token":"a","token_type":"Bea"#.into(),
            TokenError::Unusable,
        ),
    ];
    for (name, status, headers, body, expected) in rows {
        let found = judged(status, headers, &body).unwrap_err();
        assert_eq!(found, expected, "{name}");
        let text = format!("{found} {found:?} {}", Error::from(found.clone()));
        assert!(
            !text.contains("secret words") && !text.contains("access_token"),
            "{name}: {text}"
        );
    }
}

#[test]
fn answers_with_tokens_as_they_come() {
    let lifetime = |seconds| Some(Duration::from_secs(seconds));
    let rows = [
        ("plain", json!({"expires_in": 60}), lifetime(60)),
        ("text", json!({"expires_in": "3600"}), lifetime(3600)),
        ("fraction", json!({"expires_in": 59.9}), lifetime(59)),
        ("null", json!({"expires_in": null}), None),
        ("negative", json!({"expires_in": -1}), None),
        ("huge", json!({"expires_in": 1e300}), None),
        ("nonsense", json!({"expires_in": "soon"}), None),
        ("absent", json!({}), None),
        (
            "empty members",
            json!({"refresh_token": "", "id_token": null, "scope": ""}),
            None,
        ),
    ];
    for (name, more, expected) in rows {
        let mut body = json!({"access_token": "a", "token_type": "bearer"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let mut answer = judged(200, &[], &body.to_string()).expect(name);
        assert!(answer.tokens.refresh_token().is_none() && answer.tokens.id_token().is_none());
        answer.tokens.stamp(Timestamp::from_secs(0));
        let token = &answer.tokens.access_tokens()[0];
        let found = token
            .expires()
            .map(|end| end.since(Timestamp::from_secs(0)));
        assert_eq!(found, expected, "{name}");
        assert_eq!(token.scopes().collect::<Vec<_>>(), ["asked"], "{name}");
    }
}

#[test]
fn extensions_are_read() {
    let body = json!({"access_token": "a", "token_type": "N_A", "scope": " x  y ", "refresh_in": "30",
        "issued_token_type": "urn:ietf:params:oauth:token-type:jwt"});
    let answer = judged(200, &[], &body.to_string()).unwrap();
    assert_eq!(
        answer.issued_token_type.as_deref(),
        Some("urn:ietf:params:oauth:token-type:jwt")
    );
    let token = &answer.tokens.access_tokens()[0];
    assert_eq!(token.scopes().collect::<Vec<_>>(), ["x", "y"]);
    assert!(token.token_type().eq_ignore_ascii_case("n_a"));
    assert!(!format!("{answer:?}").contains("\"a\""));
}

#[test]
fn refresh_in_is_kept_with_the_token_r29() {
    for refresh_in in [json!(30), json!("30")] {
        let body = json!({"access_token": "a", "token_type": "Bearer", "expires_in": 100, "refresh_in": refresh_in});
        let mut tokens = judged(200, &[], &body.to_string()).unwrap().tokens;
        let at = Timestamp::from_secs;
        tokens.stamp(at(0));
        let token = &tokens.access_tokens()[0];
        let is_due = |now| token.is_due_at(at(now), Duration::ZERO, 0.8, 0.0);
        assert!(!is_due(29) && is_due(30));
    }
}
