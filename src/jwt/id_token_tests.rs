use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use serde_json::{Value, json};

use super::*;
use crate::jwt::test_keys::{self, CLIENT_SECRET, base64, key_id, rsa_jwk, sign_rsa, test_keys};
use SigningAlgorithm as Alg;

const ISSUER: &str = "https://op.example.com";
const NOW: i64 = 1_800_000_000;
const SKEW: i64 = 300;

fn rules(algorithms: &[Alg]) -> IdTokenRules {
    IdTokenRules {
        issuer: ISSUER.into(),
        client_id: "my-app".into(),
        algorithms: algorithms.into(),
        trusted_audiences: Box::new(["friend".into()]),
        clock_skew: Duration::from_secs(SKEW as u64),
    }
}

fn keys(algorithms: &[Alg]) -> KeySet {
    KeySet::parse(test_keys().jwks().to_string().as_bytes(), algorithms)
        .unwrap_or_default()
        .with_client_secret(CLIENT_SECRET, algorithms)
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "my-app", "sub": "ann", "nonce": "n-0S6_WzA2Mj", "iat": NOW, "exp": NOW + 3600})
}

fn header() -> Value {
    json!({"alg": "RS256", "kid": "rsa"})
}

fn expected() -> Expectations<'static> {
    Expectations::sign_in("n-0S6_WzA2Mj")
}

fn check_text(token: &str, expected: &Expectations<'_>) -> Result<VerifiedIdToken, IdTokenError> {
    let allowed = [Alg::Rs256];
    rules(&allowed).verify(
        &IdToken::new(token),
        expected,
        &keys(&allowed),
        Timestamp::from_secs(NOW),
    )
}

fn with(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn signed(claims: &Value) -> String {
    test_keys().token(Alg::Rs256, &header(), claims)
}

#[test]
fn claims_that_are_refused() {
    use IdTokenError as E;
    let missing = |name| E::Jwt(JwtError::MissingClaim(name));
    let invalid = |name| E::Jwt(JwtError::InvalidClaim(name));
    let event = json!({super::super::BACK_CHANNEL_EVENT: {}});
    let logout = json!({"iss": ISSUER, "aud": "my-app", "sub": "ann", "iat": NOW, "exp": NOW + 60, "jti": "1", "events": event});
    let rows: Vec<(&str, Value, E)> = vec![
        ("no iss", without("iss"), missing("iss")),
        (
            "another iss",
            with("iss", "https://evil.example.com"),
            E::Issuer,
        ),
        (
            "iss with a slash more",
            with("iss", "https://op.example.com/"),
            E::Issuer,
        ),
        (
            "iss in other case",
            with("iss", "https://OP.example.com"),
            E::Issuer,
        ),
        (
            "iss with the default port",
            with("iss", "https://op.example.com:443"),
            E::Issuer,
        ),
        ("iss as array", with("iss", json!([ISSUER])), invalid("iss")),
        ("iss null", with("iss", Value::Null), missing("iss")),
        ("no aud", without("aud"), missing("aud")),
        ("another client", with("aud", "other-app"), E::Audience),
        ("client as prefix", with("aud", "my-app-2"), E::Audience),
        ("aud in other case", with("aud", "My-App"), E::Audience),
        (
            "clients in one text",
            with("aud", "my-app other"),
            E::Audience,
        ),
        ("aud empty text", with("aud", ""), E::Audience),
        ("aud empty array", with("aud", json!([])), invalid("aud")),
        (
            "aud object",
            with("aud", json!({"my-app": 1})),
            invalid("aud"),
        ),
        (
            "aud with a number",
            with("aud", json!(["my-app", 1])),
            invalid("aud"),
        ),
        (
            "aud nested",
            with("aud", json!([["my-app"]])),
            invalid("aud"),
        ),
        (
            "aud with many",
            with("aud", vec!["my-app"; 65]),
            invalid("aud"),
        ),
        (
            "aud with a stranger",
            with("aud", json!(["my-app", "stranger"])),
            E::UntrustedAudience,
        ),
        (
            "aud is a friend only",
            with("aud", json!(["friend"])),
            E::Audience,
        ),
        (
            "friend without azp",
            with("aud", json!(["my-app", "friend"])),
            E::AuthorizedParty,
        ),
        ("azp of another", with("azp", "friend"), E::AuthorizedParty),
        ("azp empty", with("azp", ""), E::AuthorizedParty),
        (
            "azp as array",
            with("azp", json!(["my-app"])),
            invalid("azp"),
        ),
        ("no sub", without("sub"), missing("sub")),
        ("sub empty", with("sub", ""), E::Subject),
        (
            "sub of 256 characters",
            with("sub", "s".repeat(256)),
            E::Subject,
        ),
        (
            "sub too long to look at",
            with("sub", "s".repeat(5000)),
            invalid("sub"),
        ),
        ("sub is a number", with("sub", 7), invalid("sub")),
        ("sub null", with("sub", Value::Null), missing("sub")),
        ("no exp", without("exp"), missing("exp")),
        ("expired", with("exp", NOW - SKEW), E::Expired),
        ("expired long ago", with("exp", 1), E::Expired),
        ("exp zero", with("exp", 0), E::Expired),
        ("exp as text", with("exp", "1900000000"), invalid("exp")),
        ("exp negative", with("exp", -1), invalid("exp")),
        (
            "exp in milliseconds",
            with("exp", NOW * 1000),
            invalid("exp"),
        ),
        ("exp infinite", with("exp", 1e300), invalid("exp")),
        ("exp true", with("exp", true), invalid("exp")),
        ("no iat", without("iat"), missing("iat")),
        (
            "iat in the future",
            with("iat", NOW + SKEW + 1),
            E::IssuedInFuture,
        ),
        ("iat as text", with("iat", "1800000000"), invalid("iat")),
        ("no nonce", without("nonce"), E::Nonce),
        ("another nonce", with("nonce", "n-0S6_WzA2Mk"), E::Nonce),
        ("nonce as prefix", with("nonce", "n-0S6_WzA2"), E::Nonce),
        ("nonce empty", with("nonce", ""), E::Nonce),
        ("nonce null", with("nonce", Value::Null), E::Nonce),
        (
            "nonce as array",
            with("nonce", json!(["n-0S6_WzA2Mj"])),
            invalid("nonce"),
        ),
        (
            "auth_time as text",
            with("auth_time", "yesterday"),
            invalid("auth_time"),
        ),
        ("sid is a number", with("sid", 7), invalid("sid")),
        (
            "sid very long",
            with("sid", "s".repeat(5000)),
            invalid("sid"),
        ),
        ("a logout token (R27)", logout, E::LogoutToken),
        (
            "an ID token with the logout event (R27)",
            with("events", event.clone()),
            E::LogoutToken,
        ),
        ("an array", json!([claims()]), E::Jwt(JwtError::Payload)),
        ("a text", json!("claims"), E::Jwt(JwtError::Payload)),
        ("nothing", Value::Null, E::Jwt(JwtError::Payload)),
    ];
    for (name, claims, error) in rows {
        let refused = check_text(&signed(&claims), &expected()).err();
        assert_eq!(refused, Some(error), "{name}");
    }
}

#[test]
fn claims_that_come_twice_are_refused() {
    for (name, text) in [
        ("sub", r#""sub":"ann","sub":"eve""#),
        ("sub, escaped", r#""sub":"ann","\u0073ub":"eve""#),
        ("unused", r#""sub":"ann","x":1,"x":1"#),
    ] {
        let end = NOW + 60;
        let claims = format!(
            r#"{{"iss":"{ISSUER}","aud":"my-app","nonce":"n-0S6_WzA2Mj","iat":{NOW},"exp":{end},{text}}}"#
        );
        let token = test_keys().raw_token(Alg::Rs256, &header().to_string(), &claims);
        let refused = check_text(&token, &expected()).err();
        assert_eq!(
            refused,
            Some(IdTokenError::Jwt(JwtError::Payload)),
            "{name}"
        );
    }
}

/// R19.
#[test]
fn signatures_that_are_refused_a9() {
    use JwtError as J;
    let keys = test_keys();
    let good = signed(&claims());
    let (unsigned, signature) = good.rsplit_once('.').unwrap();
    let forged_header = |header: Value| {
        format!(
            "{}.{}",
            base64(header.to_string()),
            base64(claims().to_string())
        )
    };
    let none = forged_header(json!({"alg": "none"}));
    let by_other = |header: Value| {
        let signed = forged_header(header);
        let signature = sign_rsa(&keys.other_rsa, &RSA_PKCS1_SHA256, signed.as_bytes());
        format!("{signed}.{}", base64(signature))
    };
    let hmac_with = |secret: &[u8], kid: Value| {
        let signed = forged_header(json!({"alg": "HS256", "kid": kid}));
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        format!(
            "{signed}.{}",
            base64(aws_lc_rs::hmac::sign(&key, signed.as_bytes()))
        )
    };
    let jwk = rsa_jwk(&keys.other_rsa, "rsa");
    let modulus = keys
        .rsa
        .public_key()
        .modulus()
        .big_endian_without_leading_zero()
        .to_vec();
    let other_payload = base64(with("sub", "eve").to_string());
    let rows: Vec<(&str, String, JwtError)> = vec![
        (
            "none, no signature",
            format!("{none}."),
            J::AlgorithmNotAllowed,
        ),
        (
            "none, signature kept",
            format!("{none}.{signature}"),
            J::AlgorithmNotAllowed,
        ),
        ("no signature", format!("{unsigned}."), J::Signature),
        (
            "short signature",
            format!("{unsigned}.{}", base64([1, 2, 3])),
            J::Signature,
        ),
        (
            "zero signature",
            format!("{unsigned}.{}", base64([0; 256])),
            J::Signature,
        ),
        (
            "payload changed",
            format!(
                "{}.{other_payload}.{signature}",
                unsigned.split_once('.').unwrap().0
            ),
            J::Signature,
        ),
        ("signed by another key", by_other(header()), J::Signature),
        (
            "unknown kid",
            by_other(json!({"alg": "RS256", "kid": "new"})),
            J::UnknownKey,
        ),
        (
            "kid in other case",
            by_other(json!({"alg": "RS256", "kid": "RSA"})),
            J::UnknownKey,
        ),
        (
            "kid of a key of another type",
            by_other(json!({"alg": "RS256", "kid": "p256"})),
            J::UnknownKey,
        ),
        (
            "kid as path",
            by_other(json!({"alg": "RS256", "kid": "../../dev/null"})),
            J::UnknownKey,
        ),
        (
            "no kid, another key",
            by_other(json!({"alg": "RS256"})),
            J::UnknownKey,
        ),
        (
            "its own jwk",
            by_other(json!({"alg": "RS256", "kid": "rsa", "jwk": jwk})),
            J::Signature,
        ),
        (
            "its own jku",
            by_other(json!({"alg": "RS256", "kid": "rsa", "jku": "https://evil.example.com"})),
            J::Signature,
        ),
        (
            "its own x5u",
            by_other(json!({"alg": "RS256", "kid": "rsa", "x5u": "https://evil.example.com"})),
            J::Signature,
        ),
        (
            "its own x5c",
            by_other(json!({"alg": "RS256", "kid": "rsa", "x5c": ["MIIB"]})),
            J::Signature,
        ),
        (
            "HMAC with the public modulus",
            hmac_with(&modulus, "rsa".into()),
            J::AlgorithmNotAllowed,
        ),
        (
            "HMAC with the public key's DER",
            hmac_with(&keys.rsa_public_der(), "rsa".into()),
            J::AlgorithmNotAllowed,
        ),
        (
            "HMAC with nothing",
            hmac_with(b"", Value::from("rsa")),
            J::AlgorithmNotAllowed,
        ),
        (
            "HMAC with the secret, not configured",
            hmac_with(CLIENT_SECRET.as_bytes(), "x".into()),
            J::AlgorithmNotAllowed,
        ),
        (
            "RS384, not configured",
            keys.token(
                Alg::Rs384,
                &json!({"alg": "RS384", "kid": "rsa"}),
                &claims(),
            ),
            J::AlgorithmNotAllowed,
        ),
        (
            "PS256, not configured",
            keys.token(
                Alg::Ps256,
                &json!({"alg": "PS256", "kid": "rsa"}),
                &claims(),
            ),
            J::AlgorithmNotAllowed,
        ),
        (
            "ES256, not configured",
            keys.token(
                Alg::Es256,
                &json!({"alg": "ES256", "kid": "p256"}),
                &claims(),
            ),
            J::AlgorithmNotAllowed,
        ),
        (
            "PS256 that says RS256",
            keys.token(Alg::Ps256, &header(), &claims()),
            J::Signature,
        ),
        (
            "crit",
            keys.token(
                Alg::Rs256,
                &json!({"alg": "RS256", "kid": "rsa", "crit": ["x"], "x": 1}),
                &claims(),
            ),
            J::CriticalHeader,
        ),
        (
            "nested",
            keys.token(
                Alg::Rs256,
                &json!({"alg": "RS256", "kid": "rsa", "cty": "JWT"}),
                &claims(),
            ),
            J::NestedToken,
        ),
    ];
    for (name, token, error) in rows {
        let refused = check_text(&token, &expected()).err();
        assert_eq!(refused, Some(IdTokenError::Jwt(error)), "{name}");
    }
}

#[test]
fn an_hmac_key_is_the_client_secret_only_a9() {
    // With both kinds configured, the public key must not serve as the secret.
    let allowed = [Alg::Rs256, Alg::Hs256];
    let test = test_keys();
    let signed = format!(
        "{}.{}",
        base64(r#"{"alg":"HS256","kid":"rsa"}"#),
        base64(claims().to_string())
    );
    let der = test.rsa_public_der();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &der);
    let forged = format!(
        "{signed}.{}",
        base64(aws_lc_rs::hmac::sign(&key, signed.as_bytes()))
    );
    let check = |token: String| {
        let now = Timestamp::from_secs(NOW);
        rules(&allowed).verify(&IdToken::new(token), &expected(), &keys(&allowed), now)
    };
    assert_eq!(
        check(forged).err(),
        Some(IdTokenError::Jwt(JwtError::Signature))
    );
    let honest = test.token(Alg::Hs256, &json!({"alg": "HS256"}), &claims());
    assert!(check(honest).is_ok());
}

/// R27, A9.
#[test]
fn types_of_tokens() {
    use IdTokenError as E;
    for (typ, error) in [
        ("JWT", None),
        ("jwt", None),
        ("application/jwt", None),
        ("JOSE", None),
        ("logout+jwt", Some(E::LogoutToken)),
        ("Logout+JWT", Some(E::LogoutToken)),
        ("application/logout+jwt", Some(E::LogoutToken)),
        ("at+jwt", Some(E::Type)),
        ("application/at+jwt", Some(E::Type)),
        ("secevent+jwt", Some(E::Type)),
        ("dpop+jwt", Some(E::Type)),
        ("", Some(E::Type)),
    ] {
        let header = json!({"alg": "RS256", "kid": "rsa", "typ": typ});
        let token = test_keys().token(Alg::Rs256, &header, &claims());
        assert_eq!(check_text(&token, &expected()).err(), error, "{typ}");
    }
}

#[test]
fn unusual_tokens_that_are_good() {
    let rows: Vec<(&str, Value)> = vec![
        ("plain", claims()),
        ("aud as array", with("aud", json!(["my-app"]))),
        (
            "aud twice the same",
            with("aud", json!(["my-app", "my-app"])),
        ),
        ("azp is the client", with("azp", "my-app")),
        ("azp null", with("azp", Value::Null)),
        ("sub of 255 characters", with("sub", "s".repeat(255))),
        ("sub with any characters", with("sub", "a b/c{}\u{7f}*é")),
        ("times with fractions", with("iat", NOW as f64 + 0.5)),
        ("expired within the skew", with("exp", NOW - SKEW + 1)),
        ("issued within the skew", with("iat", NOW + SKEW)),
        ("issued long ago", with("iat", 1)),
        ("exp far away", with("exp", 253_402_300_799_i64)),
        ("auth_time null", with("auth_time", Value::Null)),
        ("sid empty", with("sid", "")),
        (
            "unknown claims",
            with("https://example.com/roles", json!({"a": [1, {"b": null}]})),
        ),
        (
            "other events",
            with("events", json!({"https://example.com/event": {}})),
        ),
        ("events of another kind", with("events", "yes")),
    ];
    for (name, claims) in rows {
        let verified =
            check_text(&signed(&claims), &expected()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(verified.issuer(), ISSUER);
        assert_eq!(Some(verified.subject()), claims["sub"].as_str());
        assert_eq!(verified.sid(), None, "{name}");
    }
    let mut several = with("aud", json!(["friend", "my-app"]));
    several["azp"] = "my-app".into();
    assert!(check_text(&signed(&several), &expected()).is_ok());

    let mut full = with("sid", "a:b/c {d}");
    full["auth_time"] = (NOW - 7).into();
    full["acr"] = "urn:mace:incommon:iap:silver".into();
    let verified = check_text(&signed(&full), &expected()).unwrap();
    assert_eq!(verified.sid(), Some("a:b/c {d}"));
    assert_eq!(verified.issued_at(), Timestamp::from_secs(NOW));
    let shown = format!("{verified:?}");
    assert!(!shown.contains("ann") && !shown.contains("a:b"), "{shown}");
}

/// R19.
#[test]
fn every_algorithm_with_the_key_of_its_type() {
    for algorithm in Alg::ALL {
        let mut header = json!({"alg": algorithm.name()});
        if let Some(id) = key_id(algorithm) {
            header["kid"] = id.into();
        }
        let token = IdToken::new(test_keys().token(algorithm, &header, &claims()));
        let check = |allowed: &[Alg]| {
            let now = Timestamp::from_secs(NOW);
            rules(allowed)
                .verify(&token, &expected(), &keys(allowed), now)
                .is_ok()
        };
        assert!(check(&[algorithm]), "{algorithm}");
        assert!(check(&Alg::ALL), "{algorithm}");
        let others: Vec<Alg> = Alg::ALL.into_iter().filter(|a| *a != algorithm).collect();
        assert!(!check(&others), "{algorithm}");
        // Nor under another's name.
        for other in others {
            let mut lying = header.clone();
            lying["alg"] = other.name().into();
            let token = IdToken::new(test_keys().token(algorithm, &lying, &claims()));
            let now = Timestamp::from_secs(NOW);
            let keys = keys(&Alg::ALL);
            let outcome = rules(&Alg::ALL).verify(&token, &expected(), &keys, now);
            assert!(outcome.is_err(), "{algorithm} as {other}");
        }
    }
}

#[test]
fn without_a_kid_every_key_that_fits_is_tried() {
    let test = test_keys();
    let set = json!({"keys": [rsa_jwk(&test.other_rsa, "a"), rsa_jwk(&test.rsa, "b")]});
    let keys = KeySet::parse(set.to_string().as_bytes(), &[Alg::Rs256]).unwrap();
    let token = test.token(Alg::Rs256, &json!({"alg": "RS256"}), &claims());
    let now = Timestamp::from_secs(NOW);
    let outcome = rules(&[Alg::Rs256]).verify(&IdToken::new(token), &expected(), &keys, now);
    assert!(outcome.is_ok());
}

#[test]
fn keys_that_are_skipped() {
    let test = test_keys();
    let rsa = || rsa_jwk(&test.rsa, "rsa");
    let changed = |name: &str, value: Value| {
        let mut jwk = rsa();
        jwk[name] = value;
        jwk
    };
    let ec = |name: &str, value: Value| {
        let mut jwk = test.ec_jwk("p256");
        jwk[name] = value;
        jwk
    };
    let small = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, b"x");
    let odd_1024 = [small.as_ref(), small.as_ref()]
        .concat()
        .into_iter()
        .map(|b| b | 0x81)
        .collect::<Vec<u8>>();
    let rows: Vec<(&str, Value)> = vec![
        ("for encryption", changed("use", "enc".into())),
        ("use of the wrong type", changed("use", 1.into())),
        (
            "cannot verify",
            changed("key_ops", json!(["encrypt", "wrapKey"])),
        ),
        ("key_ops empty", changed("key_ops", json!([]))),
        ("for another algorithm", changed("alg", "RS512".into())),
        ("for RSA-OAEP", changed("alg", "RSA-OAEP".into())),
        ("kty unknown", changed("kty", "DSA".into())),
        ("kty in other case", changed("kty", "rsa".into())),
        ("no kty", changed("kty", Value::Null)),
        ("RSA data as EC", changed("kty", "EC".into())),
        ("kid is a number", changed("kid", 1.into())),
        ("no modulus", changed("n", Value::Null)),
        ("modulus with padding", changed("n", "AQAB==".into())),
        (
            "modulus of 1024 bits",
            changed("n", base64(&odd_1024).into()),
        ),
        ("modulus even", changed("n", base64([0xfe; 256]).into())),
        ("modulus empty", changed("n", "".into())),
        ("modulus zero", changed("n", base64([0; 256]).into())),
        (
            "modulus of 16384 bits",
            changed("n", base64([0xff; 2048]).into()),
        ),
        ("exponent 1", changed("e", "AQ".into())),
        ("exponent even", changed("e", "BA".into())),
        ("exponent zero", changed("e", "AA".into())),
        ("exponent huge", changed("e", base64([0xff; 9]).into())),
        ("EC: coordinate short", ec("x", base64([1; 31]).into())),
        ("EC: coordinate long", ec("x", base64([1; 33]).into())),
        ("EC: not on the curve", ec("x", base64([1; 32]).into())),
        ("EC: unknown curve", ec("crv", "secp256k1".into())),
        ("EC: data of another curve", ec("crv", "P-384".into())),
        (
            "OKP: X25519",
            json!({"kty": "OKP", "crv": "X25519", "x": base64([1; 32])}),
        ),
        (
            "OKP: short",
            json!({"kty": "OKP", "crv": "Ed25519", "x": base64([1; 31])}),
        ),
        ("secret", json!({"kty": "oct", "k": base64([1; 64])})),
        ("not an object", json!("key")),
    ];
    let allowed = [Alg::Rs256, Alg::Es256, Alg::Es384, Alg::EdDsa, Alg::Hs256];
    for (name, bad) in rows {
        let alone = json!({"keys": [bad]}).to_string();
        let outcome = KeySet::parse(alone.as_bytes(), &allowed).map(drop);
        assert_eq!(
            outcome,
            Err(super::super::keys::KeySetError::NoneUsable),
            "{name}"
        );
        // And does not spoil the others.
        let beside = json!({"keys": [bad, rsa()]}).to_string();
        assert!(KeySet::parse(beside.as_bytes(), &allowed).is_ok(), "{name}");
    }
    for good in [
        changed("use", Value::Null),
        changed("key_ops", json!(["verify"])),
        changed("alg", "RS256".into()),
        changed(
            "n",
            base64(
                [
                    &[0],
                    test.rsa
                        .public_key()
                        .modulus()
                        .big_endian_without_leading_zero(),
                ]
                .concat(),
            )
            .into(),
        ),
        changed("x5c", json!(["MIIB"])),
    ] {
        let text = json!({"keys": [good]}).to_string();
        let keys = KeySet::parse(text.as_bytes(), &[Alg::Rs256]).unwrap();
        let now = Timestamp::from_secs(NOW);
        let token = IdToken::new(signed(&claims()));
        assert!(
            rules(&[Alg::Rs256])
                .verify(&token, &expected(), &keys, now)
                .is_ok(),
            "{text}"
        );
    }
}

#[test]
fn documents_that_are_no_sets_of_keys() {
    use super::super::keys::KeySetError as K;
    let many = json!({"keys": vec![json!({}); 101]}).to_string();
    for (text, error) in [
        ("", K::NotASet),
        ("[]", K::NotASet),
        ("{}", K::NotASet),
        (r#"{"keys":{}}"#, K::NotASet),
        (r#"{"keys":[]}"#, K::NoneUsable),
        ("<html>", K::NotASet),
        (&many, K::TooMany),
    ] {
        assert_eq!(
            KeySet::parse(text.as_bytes(), &Alg::ALL).map(drop),
            Err(error)
        );
    }
}

#[test]
fn the_access_token_belongs_to_the_id_token() {
    // OIDC Core, appendix A.3, has this pair for RS256.
    let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
    let hash = "77QmUPtjPfzWtF2AnpK9RQ";
    let good = signed(&with("at_hash", hash));
    assert!(check_text(&good, &expected().access_token(token)).is_ok());
    assert!(
        check_text(&good, &expected()).is_ok(),
        "nothing to compare with"
    );
    assert!(
        check_text(&signed(&claims()), &expected().access_token(token)).is_ok(),
        "no hash"
    );
    for bad in [
        "",
        "77QmUPtjPfzWtF2AnpK9RQ==",
        "77QmUPtjPfzWtF2AnpK9R",
        "AAQmUPtjPfzWtF2AnpK9RQ",
    ] {
        let refused = check_text(
            &signed(&with("at_hash", bad)),
            &expected().access_token(token),
        );
        assert_eq!(refused.err(), Some(IdTokenError::AccessTokenHash), "{bad}");
    }
    let other = check_text(&good, &expected().access_token("another"));
    assert_eq!(other.err(), Some(IdTokenError::AccessTokenHash));
}

#[test]
fn the_age_of_the_authentication() {
    let age = |seconds| expected().max_age(Some(Duration::from_secs(seconds)));
    let at = |seconds_ago: i64| signed(&with("auth_time", NOW - seconds_ago));
    for (name, token, max_age, error) in [
        (
            "missing",
            signed(&claims()),
            60,
            Some(IdTokenError::AuthTimeMissing),
        ),
        ("fresh", at(0), 0, None),
        ("within the skew", at(60 + SKEW), 60, None),
        ("too old", at(61 + SKEW), 60, Some(IdTokenError::AuthTooOld)),
        ("no bound to speak of", at(99_999), u64::MAX, None),
    ] {
        assert_eq!(check_text(&token, &age(max_age)).err(), error, "{name}");
    }
    assert!(
        check_text(&at(99_999_999), &expected()).is_ok(),
        "nobody asked"
    );
}

#[test]
fn tokens_from_a_refresh_r28() {
    use IdTokenError as E;
    let held = IdToken::new(signed(&with("auth_time", NOW - 100)));
    let mut held_bare = without("nonce");
    held_bare["auth_time"] = Value::Null;
    let bare = IdToken::new(signed(&held_bare));
    let foreign = IdToken::new("not a JWT");
    let mut silent = without("nonce");
    silent["iat"] = (NOW + 5).into();
    let rows: Vec<(&str, Value, Option<&IdToken>, Option<E>)> = vec![
        ("the same", claims(), Some(&held), None),
        ("no nonce", silent, Some(&held), None),
        (
            "another nonce",
            with("nonce", "other"),
            Some(&held),
            Some(E::NonceChanged),
        ),
        ("a nonce where none was held", claims(), Some(&bare), None),
        (
            "the held one is of another form",
            claims(),
            Some(&foreign),
            None,
        ),
        ("nothing held", claims(), None, None),
        (
            "the same time",
            with("auth_time", NOW - 100),
            Some(&held),
            None,
        ),
        ("a later time", with("auth_time", NOW), Some(&held), None),
        (
            "an earlier time",
            with("auth_time", NOW - 200),
            Some(&held),
            Some(E::AuthTimeChanged),
        ),
        (
            "another session name",
            with("sid", "new"),
            Some(&held),
            None,
        ),
        (
            "another subject",
            with("sub", "eve"),
            Some(&held),
            Some(E::SubjectChanged),
        ),
        (
            "another subject, nothing held",
            with("sub", "eve"),
            None,
            Some(E::SubjectChanged),
        ),
        (
            "another issuer",
            with("iss", "https://evil.example.com"),
            Some(&held),
            Some(E::Issuer),
        ),
        (
            "another audience",
            with("aud", "other"),
            Some(&held),
            Some(E::Audience),
        ),
        ("expired", with("exp", 1), Some(&held), Some(E::Expired)),
    ];
    for (name, claims, held, error) in rows {
        let refused = check_text(&signed(&claims), &Expectations::refresh("ann", held)).err();
        assert_eq!(refused, error, "{name}");
    }
    let lying = json!({"alg": "RS256", "kid": "rsa", "typ": "logout+jwt"});
    let token = test_keys::test_keys().token(Alg::Rs256, &lying, &claims());
    let refused = check_text(&token, &Expectations::refresh("ann", None)).err();
    assert_eq!(refused, Some(E::LogoutToken), "R27");
}

/// Every prefix of a good token, and the token with each byte changed: refused, without a panic.
#[test]
fn no_mangled_token_is_accepted_and_none_panics() {
    let allowed = [Alg::Es256];
    let (rules, keys) = (rules(&allowed), keys(&allowed));
    let header = json!({"alg": "ES256", "kid": "p256"});
    let good = test_keys().token(Alg::Es256, &header, &claims());
    let accepted = |text: String| {
        let now = Timestamp::from_secs(NOW);
        rules
            .verify(&IdToken::new(text), &expected(), &keys, now)
            .is_ok()
    };
    assert!(accepted(good.clone()));
    for at in 0..good.len() {
        assert!(!accepted(good[..at].to_owned()));
        for byte in *b"A-_.=\0 \"" {
            let mut bytes = good.clone().into_bytes();
            if bytes[at] != byte {
                bytes[at] = byte;
                assert!(!accepted(String::from_utf8(bytes).unwrap()), "byte {at}");
            }
        }
    }
}
