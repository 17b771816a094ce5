//! Logout tokens that are unusual and good: each is answered with 200, and ends what it names.

use std::time::Duration;

use axum_signout::SigningAlgorithm;
use axum_signout::testing::{JwtBuilder, SigningAlg, TestClient, TestProvider};
use serde_json::{Value, json};

use crate::support::app::{CLIENT, Setup, send};
use crate::world::World;
use crate::{EVENT, FORM, PATH, arrive, assert_done, assert_refused, call, form, sign_ins};

type Change = Box<dyn Fn(JwtBuilder) -> JwtBuilder>;

fn change(f: impl Fn(JwtBuilder) -> JwtBuilder + 'static) -> Change {
    Box::new(f)
}

fn rows() -> Vec<(String, Change)> {
    let mut rows: Vec<(String, Change)> = Vec::new();
    let mut add = |name: &str, f: Change| rows.push((name.to_owned(), f));
    for typ in [
        "JWT",
        "jwt",
        "Jwt",
        "logout+jwt",
        "LOGOUT+JWT",
        "Logout+Jwt",
        "application/logout+jwt",
        "Application/Logout+JWT",
        "application/jwt",
    ] {
        add(typ, change(move |t| t.header("typ", typ)));
    }
    add("no typ", change(|t| t.without_header("typ")));
    add("no exp", change(|t| t.without("exp")));
    add("exp null", change(|t| t.claim("exp", Value::Null)));
    add("exp just past", change(|t| t.expires_in(-200)));
    add("exp far away", change(|t| t.expires_in(10 * 365 * 86_400)));
    add(
        "exp with a fraction",
        change(|t| {
            let claims: Value = serde_json::from_str(&t.claims_text()).unwrap();
            t.claim("exp", claims["exp"].as_f64().unwrap() + 0.75)
        }),
    );
    add(
        "iat with a fraction",
        change(|t| {
            let claims: Value = serde_json::from_str(&t.claims_text()).unwrap();
            t.claim("iat", claims["iat"].as_f64().unwrap() + 0.5)
        }),
    );
    add("the provider's clock ahead", change(|t| t.issued_ago(-200)));
    add(
        "the provider's clock behind",
        change(|t| t.issued_ago(550).without("exp")),
    );
    add(
        "an old one that is still good",
        change(|t| t.issued_ago(20 * 3600)),
    );
    add(
        "neither typ nor exp",
        change(|t| t.without("exp").without_header("typ")),
    );
    add(
        "aud in an array",
        change(|t| t.claim("aud", json!([CLIENT]))),
    );
    add(
        "aud twice in an array",
        change(|t| t.claim("aud", json!([CLIENT, CLIENT]))),
    );
    add(
        "aud with one that is trusted",
        change(|t| t.claim("aud", json!([CLIENT, "api"]))),
    );
    add("azp", change(|t| t.claim("azp", "somebody")));
    for claim in [
        "acr",
        "auth_time",
        "email",
        "client_id",
        "toe",
        "txn",
        "sub_id",
        "org.example/x",
    ] {
        add(
            &format!("unknown claim {claim}"),
            change(move |t| t.claim(claim, json!({ "x": [1] }))),
        );
    }
    add(
        "many claims",
        change(|mut t| {
            for n in 0..500 {
                t = t.claim(format!("c{n}"), n);
            }
            t
        }),
    );
    add(
        "further events",
        change(|t| {
            t.claim(
                "events",
                json!({ "https://example.com/other": {}, EVENT: {} }),
            )
        }),
    );
    add(
        "an event with members",
        change(|t| {
            t.claim(
                "events",
                json!({ EVENT: { "reason": "admin", "n": [null] } }),
            )
        }),
    );
    add("no kid", change(|t| t.without_header("kid")));
    for name in ["jku", "x5u"] {
        add(
            &format!("{name} is not followed"),
            change(move |t| t.header(name, "http://127.0.0.1:1")),
        );
    }
    add(
        "jwk is not read",
        change(|t| t.header("jwk", json!({ "kty": "oct", "k": "AA" }))),
    );
    add(
        "x5t",
        change(|t| t.header("x5t", "abc").header("x5t#S256", "def")),
    );
    add(
        "an unknown header",
        change(|t| t.header("https://example.com/h", json!([1, 2]))),
    );
    for (name, jti) in [
        ("one letter", "j".to_owned()),
        ("spaces", "a b  c".to_owned()),
        ("not ASCII", "\u{1f600}\u{e9}".to_owned()),
        ("separators", "a:b}c{d*\r\n\0".to_owned()),
        ("long", "j".repeat(2048)),
    ] {
        add(
            &format!("jti with {name}"),
            change(move |t| t.claim("jti", jti.as_str())),
        );
    }
    add(
        "escapes in the payload",
        change(|t| {
            let text = t.claims_text().replace("\"iss\"", "\"\\u0069ss\"");
            t.payload_text(text)
        }),
    );
    add(
        "white space in the payload",
        change(|t| {
            let text = format!("\n\t {} \r\n", t.claims_text());
            t.payload_text(text)
        }),
    );
    rows
}

/// Where the tokens of a table are put to the test: `ann` is signed in once for each, and `eve` must stay.
async fn world() -> World {
    let setup = Setup::new().provider(|provider| provider.trusted_audiences(["api"]));
    let world = World::start(TestProvider::builder(), setup, |auth| auth).await;
    arrive(&world.app.auth, &world.provider, "eve", "eve's").await;
    world
}

#[tokio::test]
async fn an_unusual_logout_token_ends_what_it_names_r19_r20_r21_r23_r24() {
    let world = world().await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    let mut count = 0;
    for (row, change) in rows() {
        for (whom, sub, sid) in [
            ("sub", true, false),
            ("sid", false, true),
            ("both", true, true),
        ] {
            // One `jti` is used once.
            if row.starts_with("jti") && whom != "both" {
                continue;
            }
            let row = format!("{row}, by {whom}");
            arrive(auth, provider, "ann", "s-1").await;
            let mut token = provider.logout_token(CLIENT);
            if sub {
                token = token.claim("sub", "ann");
            }
            if sid {
                token = token.claim("sid", "s-1");
            }
            let token = change(token);
            assert_eq!(sign_ins(auth).await, 2, "{row}");
            assert_done(&call(&world.app.router, &token.sign()).await, &row);
            assert_eq!(sign_ins(auth).await, 1, "{row}");
            count += 1;
        }
    }
    assert!(count >= 100, "{count}");
}

#[tokio::test]
async fn a_sid_may_be_any_text_r23_a12() {
    let world = world().await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    let long = "s".repeat(2048);
    let texts = [
        "a",
        " ",
        "a b",
        "a:b",
        "a}b{c",
        "*",
        "?",
        "[a-z]",
        "/../",
        "a\r\nb",
        "\0",
        "\u{1f600}",
        "\"",
        "\\",
        "%00",
        "null",
        "0",
        "eve",
        "EVE'S",
        "eve's ",
        long.as_str(),
    ];
    for sid in texts {
        arrive(auth, provider, "ann", sid).await;
        let token = provider.logout_token(CLIENT).claim("sid", sid).sign();
        assert_done(&call(&world.app.router, &token).await, sid);
        assert_eq!(sign_ins(auth).await, 1, "{sid:?}: eve's is another");
    }
}

#[tokio::test]
async fn unusual_requests_are_understood_r18() {
    let world = world().await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    let kinds = [
        FORM,
        "application/x-www-form-urlencoded; charset=utf-8",
        "application/x-www-form-urlencoded;charset=UTF-8",
        "application/x-www-form-urlencoded ; charset=\"utf-8\"",
        "APPLICATION/X-WWW-FORM-URLENCODED",
        "application/x-www-form-urlencoded; charset=iso-8859-1; x=y",
    ];
    let extras = [
        "",
        "&state=x",
        "&client_id=other&iss=other",
        "&",
        "&=",
        "&a=%ff",
        "&logout_token2=x",
        "&x=1&y=2&z",
    ];
    for kind in kinds {
        for extra in extras {
            arrive(auth, provider, "ann", "s").await;
            let token = provider.logout_token(CLIENT).claim("sid", "s").sign();
            let body = format!("{}{extra}", form(&token));
            let headers = [
                ("content-type", kind),
                ("origin", "https://evil.example"),
                ("cookie", "id=junk"),
            ];
            let answer = send(&world.app.router, "POST", PATH, &headers, &body).await;
            assert_done(&answer, &format!("{kind} {extra}"));
            assert_eq!(sign_ins(auth).await, 1, "{kind} {extra}");
        }
    }
}

#[tokio::test]
async fn nothing_found_is_a_success_r24() {
    let world = world().await;
    for (name, value) in [("sid", "unknown"), ("sub", "nobody")] {
        let token = world.provider.logout_token(CLIENT).claim(name, value);
        assert_done(&call(&world.app.router, &token.sign()).await, name);
    }
    assert_eq!(sign_ins(&world.app.auth).await, 1);
}

#[tokio::test]
async fn other_algorithms_are_good_where_they_are_registered_r19() {
    let rows = [
        (SigningAlg::Es256, SigningAlgorithm::Es256),
        (SigningAlg::Hs256, SigningAlgorithm::Hs256),
    ];
    // As long as the HMAC at least.
    let secret = "a-secret-of-forty-eight-bytes-made-for-this-test";
    for (signs, registered) in rows {
        let provider = TestProvider::start().await;
        let app = Setup::new()
            .provider(move |provider| {
                let provider = provider.client_secret(secret);
                provider.id_token_algorithms([registered])
            })
            .start_with(provider.issuer(), |base| {
                let client = TestClient::new(CLIENT).secret(secret).app(base);
                provider.add_client(client.signing_alg(signs));
            })
            .await;
        arrive(&app.auth, &provider, "ann", "s").await;
        let token = provider.logout_token(CLIENT).claim("sid", "s").sign();
        assert_done(&call(&app.router, &token).await, registered.name());
        assert_eq!(sign_ins(&app.auth).await, 0, "{registered}");
        provider.add_client(TestClient::new(CLIENT).secret(secret));
        let token = provider.logout_token(CLIENT).claim("sid", "s").sign();
        let answer = call(&app.router, &token).await;
        assert_refused(&answer, "algorithm", "RS256 is not registered");
    }
}

#[tokio::test]
async fn strict_mode_wants_an_end_and_a_type_r20() {
    let setup = Setup::new().provider(|provider| provider.strict_logout_tokens(true));
    let world = World::start(TestProvider::builder(), setup, |auth| auth).await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    let rows: [(&str, Option<&str>, Change); 6] = [
        ("as it should be", None, change(|t| t)),
        (
            "with the type in full",
            None,
            change(|t| t.header("typ", "application/Logout+jwt")),
        ),
        ("no typ", Some("type"), change(|t| t.without_header("typ"))),
        ("JWT", Some("type"), change(|t| t.header("typ", "JWT"))),
        ("no exp", Some("no_expiry"), change(|t| t.without("exp"))),
        (
            "exp null",
            Some("no_expiry"),
            change(|t| t.claim("exp", Value::Null)),
        ),
    ];
    for (row, refused, change) in rows {
        arrive(auth, provider, "ann", "s").await;
        let before = sign_ins(auth).await;
        let token = change(provider.logout_token(CLIENT).claim("sid", "s"));
        let answer = call(&world.app.router, &token.sign()).await;
        match refused {
            Some(reason) => {
                assert_refused(&answer, reason, row);
                assert_eq!(sign_ins(auth).await, before, "{row}");
            }
            None => {
                assert_done(&answer, row);
                assert_eq!(sign_ins(auth).await, 0, "{row}");
            }
        }
    }
}

#[tokio::test]
async fn the_age_of_a_token_without_an_end_can_be_set_r20() {
    let setup = Setup::new().provider(|provider| {
        let provider = provider.logout_token_max_age(Duration::from_secs(60));
        provider.clock_skew(Duration::from_secs(10))
    });
    let world = World::start(TestProvider::builder(), setup, |auth| auth).await;
    let token = |ago| {
        let token = world.provider.logout_token(CLIENT).claim("sid", "s");
        token.without("exp").issued_ago(ago).sign()
    };
    let answer = call(&world.app.router, &token(60)).await;
    assert_done(&answer, "within");
    let answer = call(&world.app.router, &token(80)).await;
    assert_refused(&answer, "too_old", "beyond");
}
