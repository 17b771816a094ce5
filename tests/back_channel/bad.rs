//! Logout tokens that are refused: each rule broken alone, and as real attacks did it.

use aws_lc_rs::hmac;
use axum_signout::testing::{JwtBuilder, SigningAlg, TestClient, TestProvider};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::app::{CLIENT, cookies, send};
use crate::world::World;
use crate::{EVENT, FORM, PATH, assert_done, assert_refused, call, form, who};

/// A name, the reason it is refused for, and the token.
type Row = (String, &'static str, String);

struct Rows {
    good: JwtBuilder,
    rows: Vec<Row>,
}

impl Rows {
    fn add(&mut self, name: &str, reason: &'static str, token: impl Into<String>) {
        self.rows.push((name.into(), reason, token.into()));
    }

    fn token(
        &mut self,
        name: &str,
        reason: &'static str,
        change: impl FnOnce(JwtBuilder) -> JwtBuilder,
    ) {
        let token = change(self.good.clone()).sign();
        self.add(name, reason, token);
    }

    /// A claim that is missing, null, or of each other type.
    fn claim(&mut self, claim: &str, rows: &[(&str, &'static str, Value)]) {
        for (name, reason, value) in rows {
            self.token(&format!("{claim} {name}"), reason, |t| {
                t.claim(claim, value.clone())
            });
        }
    }
}

fn signatures(all: &mut Rows, provider: &TestProvider, jwks: &Value) {
    for alg in ["none", "None", "NONE", "nOnE", "NonE", ""] {
        all.token(&format!("alg {alg:?}, no signature"), "algorithm", |t| {
            t.unsigned().header("alg", alg)
        });
        let unsigned = all.good.clone().unsigned().header("alg", alg).sign();
        let dressed = format!("{unsigned}{}", URL_SAFE_NO_PAD.encode([0; 256]));
        all.add(
            &format!("alg {alg:?}, some signature"),
            "algorithm",
            dressed,
        );
    }
    for alg in [
        "rs256", "RS256 ", "ES256K", "RS1", "HS1", "PS256", "ES256", "EdDSA",
    ] {
        all.token(&format!("alg {alg:?}"), "algorithm", |t| {
            t.header("alg", alg)
        });
    }
    all.token("alg missing", "header", |t| t.without_header("alg"));
    all.token("alg null", "header", |t| t.header("alg", Value::Null));
    all.token(
        "HS256 with the client secret",
        "algorithm",
        JwtBuilder::hs256,
    );
    let rsa = &jwks["keys"][0];
    let modulus = URL_SAFE_NO_PAD.decode(rsa["n"].as_str().unwrap()).unwrap();
    let keys = [
        ("the public key's modulus", modulus),
        ("the public key's JWK", rsa.to_string().into_bytes()),
        ("an empty key", Vec::new()),
    ];
    for (name, key) in keys {
        let unsigned = all.good.clone().header("alg", "HS256").sign();
        let message = unsigned.rsplit_once('.').unwrap().0;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let tag = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
        all.add(
            &format!("HS256 with {name}"),
            "algorithm",
            format!("{message}.{tag}"),
        );
    }
    provider.add_client(TestClient::new("elliptic").signing_alg(SigningAlg::Es256));
    let elliptic = provider.logout_token("elliptic").claim("aud", CLIENT);
    all.add(
        "the provider's own ES256, which is not registered",
        "algorithm",
        elliptic.claim("sid", "s").sign(),
    );

    let good = all.good.sign();
    let (message, signature) = good.rsplit_once('.').unwrap();
    all.token("a wrong signature", "signature", JwtBuilder::bad_signature);
    all.token(
        "another's key under the provider's kid",
        "signature",
        JwtBuilder::forged_key,
    );
    all.token(
        "a key nobody knows",
        "unknown_key",
        JwtBuilder::unpublished_key,
    );
    all.add("the signature cut off", "signature", format!("{message}."));
    all.add(
        "half a signature",
        "signature",
        format!("{message}.{}", &signature[..100]),
    );
    let other = all.good.clone().claim("sub", "root").sign();
    let (other, _) = other.rsplit_once('.').unwrap();
    all.add(
        "another token's signature",
        "signature",
        format!("{other}.{signature}"),
    );

    let long = "k".repeat(1025);
    for kid in [
        "../../dev/null",
        "' OR 1=1 --",
        "",
        "*",
        "\u{0}",
        "http://127.0.0.1/jwks",
    ] {
        all.token(&format!("kid {kid:?}"), "unknown_key", |t| {
            t.header("kid", kid)
        });
    }
    for (name, kid) in [
        ("number", json!(1)),
        ("null", json!(null)),
        ("long", json!(long)),
    ] {
        all.token(&format!("kid {name}"), "header", |t| t.header("kid", kid));
    }
    for (name, value) in [
        ("jwk", json!({ "kty": "RSA", "n": rsa["n"], "e": "AQAB" })),
        ("jku", json!("http://127.0.0.1:1/jwks")),
        ("x5u", json!("http://127.0.0.1:1/cert")),
        ("x5c", json!(["MIIB"])),
    ] {
        all.token(
            &format!("{name} brings the key along"),
            "unknown_key",
            |t| t.unpublished_key().header(name, value.clone()),
        );
        all.token(
            &format!("{name} under the provider's kid"),
            "signature",
            |t| t.forged_key().header(name, value),
        );
    }
}

fn forms(all: &mut Rows) {
    let good = all.good.sign();
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    for (name, token) in [
        ("a dot at the end", format!("{good}.")),
        ("a fourth part", format!("{good}.e30")),
        ("two parts", format!("{header}.{payload}")),
        ("one part", header.to_owned()),
        ("padding", format!("{good}=")),
        ("garbage at the end", format!("{good}!")),
        ("a line break at the end", format!("{good}\n")),
        ("a space before", format!(" {good}")),
        ("a NUL within", format!("{header}.\0{payload}.{signature}")),
        ("two tokens", format!("{good},{good}")),
        (
            "the JSON serialization",
            json!({ "protected": header, "payload": payload, "signature": signature }).to_string(),
        ),
        ("not ASCII", "\u{e9}.e30.e30".to_owned()),
    ] {
        all.add(name, "malformed", token);
    }
    all.add(
        "a header of text",
        "header",
        format!("YQ.{payload}.{signature}"),
    );
    all.add(
        "an empty payload",
        "payload",
        format!("{header}..{signature}"),
    );
    let claims = all.good.claims_text();
    let inner = claims.trim_end_matches('}');
    for (name, text) in [
        (
            "iss twice",
            format!(r#"{inner},"iss":"https://evil.example"}}"#),
        ),
        ("aud twice", format!(r#"{inner},"aud":"other"}}"#)),
        ("events twice", format!(r#"{inner},"events":{{}}}}"#)),
        (
            "sub twice, escaped",
            format!(r#"{inner},"s\u0075b":"bob"}}"#),
        ),
        ("garbage after the payload", format!("{claims}x")),
        ("two payloads", format!("{claims}{claims}")),
        ("a payload that is cut off", inner.to_owned()),
        ("an array", format!("[{claims}]")),
        ("text", "\"logout\"".to_owned()),
        ("nothing", String::new()),
        (
            "deep nesting",
            format!(r#"{inner},"x":{}}}"#, "[".repeat(500)),
        ),
    ] {
        all.token(&format!("payload: {name}"), "payload", |t| {
            t.payload_text(text)
        });
    }
    all.token("alg twice", "header", |t| {
        t.header_text(r#"{"alg":"none","alg":"RS256"}"#)
    });
    all.token("header is an array", "header", |t| t.header_text("[]"));
    for (name, value, reason) in [
        ("crit", json!(["exp"]), "critical_header"),
        ("crit", json!([]), "critical_header"),
        ("b64", json!(false), "critical_header"),
        ("b64", json!(true), "critical_header"),
        ("zip", json!("DEF"), "nested_token"),
        ("enc", json!("A128GCM"), "nested_token"),
        ("cty", json!("JWT"), "nested_token"),
    ] {
        all.token(&format!("{name} {value}"), reason, |t| {
            t.header(name, value)
        });
    }
}

fn kinds(all: &mut Rows, provider: &TestProvider) {
    for typ in [
        "at+jwt",
        "secevent+jwt",
        "id_token+jwt",
        "JOSE",
        "",
        "logout",
        "logout+jwt ",
        "logout+jwt;v=1",
        "application/json",
        "text/logout+jwt",
    ] {
        all.token(&format!("typ {typ:?}"), "type", |t| t.header("typ", typ));
    }
    all.token("typ is a number", "header", |t| t.header("typ", 1));
    let id_token = || provider.id_token(CLIENT, "alice");
    all.add("an ID token", "events", id_token().sign());
    let named = id_token().header("typ", "logout+jwt");
    all.add(
        "an ID token that is called a logout token",
        "events",
        named.sign(),
    );
    let event = id_token()
        .claim("nonce", "n")
        .claim("events", json!({ EVENT: {} }));
    all.add(
        "an ID token with the event",
        "nonce",
        event.claim("jti", "j").sign(),
    );
    all.token("events missing", "events", |t| t.without("events"));
    let values = [
        ("null", json!(null)),
        ("text", json!(EVENT)),
        ("true", json!(true)),
        ("an array of the name", json!([EVENT])),
        ("an array of the object", json!([{ EVENT: {} }])),
        ("empty", json!({})),
        (
            "of another event",
            json!({ "http://schemas.openid.net/event/other": {} }),
        ),
        ("in capitals", json!({ EVENT.to_uppercase(): {} })),
        (
            "with a slash at the end",
            json!({ format!("{EVENT}/"): {} }),
        ),
        (
            "with https",
            json!({ EVENT.replace("http:", "https:"): {} }),
        ),
        ("one level down", json!({ "events": { EVENT: {} } })),
        ("with null", json!({ EVENT: null })),
        ("with text", json!({ EVENT: "" })),
        ("with true", json!({ EVENT: true })),
        ("with an array", json!({ EVENT: [] })),
    ];
    for (name, value) in values {
        all.token(&format!("events {name}"), "events", |t| {
            t.claim("events", value)
        });
    }
    for nonce in [json!("n"), json!(""), json!(null), json!(0), json!({})] {
        all.token(&format!("nonce {nonce}"), "nonce", |t| {
            t.claim("nonce", nonce)
        });
    }
}

fn claims(all: &mut Rows, issuer: &str) {
    for claim in ["iss", "aud", "iat", "jti"] {
        all.token(&format!("{claim} missing"), "missing_claim", |t| {
            t.without(claim)
        });
        all.claim(claim, &[("null", "missing_claim", json!(null))]);
    }
    let invalid = "invalid_claim";
    all.claim(
        "iss",
        &[
            (
                "with a slash at the end",
                "issuer",
                json!(format!("{issuer}/")),
            ),
            ("in capitals", "issuer", json!(issuer.to_uppercase())),
            ("of another", "issuer", json!("https://evil.example")),
            ("with a query", "issuer", json!(format!("{issuer}?"))),
            ("empty", "issuer", json!("")),
            ("an array", invalid, json!([issuer])),
            ("a number", invalid, json!(1)),
        ],
    );
    all.claim(
        "aud",
        &[
            ("of another client", "audience", json!("other")),
            ("empty text", "audience", json!("")),
            ("in capitals", "audience", json!(CLIENT.to_uppercase())),
            ("that begins alike", "audience", json!(format!("{CLIENT}2"))),
            (
                "as a list in a text",
                "audience",
                json!(format!("{CLIENT} other")),
            ),
            ("an array of others", "audience", json!(["other", "third"])),
            (
                "an array with a stranger",
                "untrusted_audience",
                json!([CLIENT, "other"]),
            ),
            ("an empty array", invalid, json!([])),
            ("nested", invalid, json!([[CLIENT]])),
            ("an array with null", invalid, json!([CLIENT, null])),
            ("an object", invalid, json!({ CLIENT: true })),
            ("too many", invalid, json!(vec![CLIENT; 65])),
        ],
    );
    for claim in ["iat", "exp"] {
        all.claim(
            claim,
            &[
                ("text", invalid, json!("1700000000")),
                ("negative", invalid, json!(-1)),
                ("huge", invalid, json!(1e18)),
                ("true", invalid, json!(true)),
                ("an object", invalid, json!({})),
            ],
        );
    }
    all.token("iat in the future", "issued_in_future", |t| {
        t.issued_ago(-400)
    });
    all.token("iat in milliseconds", invalid, |t| {
        t.claim("iat", 1_700_000_000_000_000_i64)
    });
    all.token("iat too old without exp", "too_old", |t| {
        t.without("exp").issued_ago(700)
    });
    all.token("iat zero without exp", "too_old", |t| {
        t.without("exp").claim("iat", 0)
    });
    all.token("iat a day and more ago", "too_old", |t| {
        t.issued_ago(86_400 + 400).expires_in(3600)
    });
    all.token("exp in the past", "expired", |t| t.expires_in(-400));
    all.token("exp zero", "expired", |t| t.claim("exp", 0));
    all.claim(
        "jti",
        &[
            ("empty", "token_id", json!("")),
            ("a number", invalid, json!(7)),
            ("an array", invalid, json!(["j"])),
            ("huge", invalid, json!("j".repeat(3000))),
        ],
    );
    for (name, change) in [
        ("neither sub nor sid", (None, None)),
        ("sub null, no sid", (Some(json!(null)), None)),
        ("sid null, no sub", (None, Some(json!(null)))),
        ("both null", (Some(json!(null)), Some(json!(null)))),
        ("sub empty, no sid", (Some(json!("")), None)),
        ("sid empty, no sub", (None, Some(json!("")))),
    ] {
        all.token(name, "whom", |t| {
            let mut t = t.without("sub").without("sid");
            if let Some(sub) = change.0 {
                t = t.claim("sub", sub);
            }
            if let Some(sid) = change.1 {
                t = t.claim("sid", sid);
            }
            t
        });
    }
    all.claim(
        "sub",
        &[
            ("empty beside a sid", "whom", json!("")),
            ("a number", invalid, json!(1)),
            ("an array", invalid, json!(["alice"])),
            ("huge", invalid, json!("s".repeat(3000))),
            (
                "of somebody else than the session's",
                "subject",
                json!("bob"),
            ),
        ],
    );
    all.claim(
        "sid",
        &[
            ("empty beside a sub", "whom", json!("")),
            ("a number", invalid, json!(1)),
            ("an object", invalid, json!({ "sid": "s" })),
            ("huge", invalid, json!("s".repeat(3000))),
        ],
    );
}

#[tokio::test]
async fn a_bad_logout_token_is_refused_and_changes_nothing_r19_r20_r21_r22_r23_r24_r27_a9() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let (subject, sid) = who(&world.app, &mut browser).await;
    let provider = &world.provider;
    let good = provider.logout_token(CLIENT).claim("sub", subject.as_str());
    let good = good.claim("sid", sid.as_str());
    let jwks = reqwest::Client::builder().no_proxy().build().unwrap();
    let jwks = jwks.get(provider.url("/jwks")).send().await.unwrap();
    let jwks: Value = serde_json::from_slice(&jwks.bytes().await.unwrap()).unwrap();
    let mut all = Rows {
        good: good.clone(),
        rows: Vec::new(),
    };
    signatures(&mut all, provider, &jwks);
    forms(&mut all);
    kinds(&mut all, provider);
    claims(&mut all, provider.issuer());
    assert!(all.rows.len() >= 150, "{}", all.rows.len());

    let before = world.app.auth.stats().await.unwrap();
    let cookie = cookies(&browser);
    for (row, reason, token) in &all.rows {
        let answer = call(&world.app.router, token).await;
        assert_refused(&answer, reason, row);
        assert!(
            !answer.body.contains(&sid) && !answer.body.contains(token.as_str()),
            "{row}"
        );
        assert_eq!(world.app.auth.stats().await.unwrap(), before, "{row}");
        let headers = [("cookie", cookie.as_str())];
        let here = send(&world.app.router, "GET", "/whoami", &headers, "").await;
        assert_eq!(here.body, subject, "{row}");
    }
    assert!(world.app.seen().is_empty());
    // The one that all of them were made from is good.
    assert_done(&call(&world.app.router, &good.sign()).await, "good");
    world.assert_signed_out(&mut browser).await;
}

#[tokio::test]
async fn a_request_of_another_form_is_refused_and_changes_nothing_r18_r24() {
    let world = World::new().await;
    let mut browser = world.sign_in("alice").await;
    let (subject, _) = who(&world.app, &mut browser).await;
    let good = world
        .provider
        .logout_token(CLIENT)
        .claim("sub", subject.as_str());
    let good = form(&good.sign());
    let before = world.app.auth.stats().await.unwrap();
    let json = json!({ "logout_token": good }).to_string();
    let large = format!("{good}&x={}", "x".repeat(64 * 1024));
    let rows: &[(&str, &str, Option<&str>, &str)] = &[
        ("no content type", "content_type", None, &good),
        ("empty content type", "content_type", Some(""), &good),
        ("JSON", "content_type", Some("application/json"), &json),
        ("text", "content_type", Some("text/plain"), &good),
        (
            "multipart",
            "content_type",
            Some("multipart/form-data; boundary=x"),
            &good,
        ),
        (
            "a logout token as such",
            "content_type",
            Some("application/logout+jwt"),
            &good,
        ),
        (
            "a type that begins alike",
            "content_type",
            Some("application/x-www-form-urlencoded2"),
            &good,
        ),
        (
            "two types",
            "content_type",
            Some("application/x-www-form-urlencoded, text/plain"),
            &good,
        ),
        ("no body", "no_logout_token", Some(FORM), ""),
        ("no logout token", "no_logout_token", Some(FORM), "token=x"),
        (
            "an empty logout token",
            "no_logout_token",
            Some(FORM),
            "logout_token=",
        ),
        (
            "another case",
            "no_logout_token",
            Some(FORM),
            "Logout_Token=x",
        ),
        (
            "an array's name",
            "no_logout_token",
            Some(FORM),
            "logout_token[]=x",
        ),
        (
            "the token twice",
            "doubled_parameter",
            Some(FORM),
            &format!("{good}&{good}"),
        ),
        (
            "the token and another",
            "doubled_parameter",
            Some(FORM),
            &format!("logout_token=x&{good}"),
        ),
        (
            "an unknown parameter twice",
            "doubled_parameter",
            Some(FORM),
            &format!("a=1&{good}&a=2"),
        ),
        ("too large", "body", Some(FORM), &large),
        (
            "what no token is",
            "malformed",
            Some(FORM),
            "logout_token=x",
        ),
        (
            "not UTF-8 when decoded",
            "malformed",
            Some(FORM),
            "logout_token=%ff%fe",
        ),
    ];
    for (row, reason, kind, body) in rows {
        let kind = kind.map(|kind| ("content-type", kind));
        let headers: Vec<_> = kind.into_iter().collect();
        let answer = send(&world.app.router, "POST", PATH, &headers, body).await;
        assert_refused(&answer, reason, row);
        assert_eq!(world.app.auth.stats().await.unwrap(), before, "{row}");
    }
    let twice = [("content-type", FORM), ("content-type", FORM)];
    let answer = send(&world.app.router, "POST", PATH, &twice, &good).await;
    assert_refused(&answer, "content_type", "two headers");
    // In the query it would end up in logs.
    let path = format!("{PATH}?{good}");
    let answer = send(
        &world.app.router,
        "POST",
        &path,
        &[("content-type", FORM)],
        "",
    )
    .await;
    assert_refused(&answer, "no_logout_token", "in the query");
    let raw = axum::http::Request::post(PATH)
        .header("content-type", FORM)
        .body(axum::body::Body::from(&b"logout_token=\xff"[..]));
    let answer = tower::ServiceExt::oneshot(world.app.router.clone(), raw.unwrap());
    assert_eq!(answer.await.unwrap().status(), 400, "not UTF-8");
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = send(
            &world.app.router,
            method,
            PATH,
            &[("content-type", FORM)],
            &good,
        )
        .await;
        assert_eq!(answer.status, 405, "{method}");
    }
    assert_eq!(world.get(&browser, "/whoami").await.body(), subject);
    assert_eq!(world.app.auth.stats().await.unwrap(), before);
}
