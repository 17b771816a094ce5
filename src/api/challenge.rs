//! What a 401 asks for: another token, or the user (RFC 6750 section 3, RFC 9470 section 3, and the claims challenges of Entra).

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http_auth::ChallengeRef;
use http_auth::parser::ChallengeParser;
use serde_json::{Map, Value};

use crate::error::Wanted;

/// Of `WWW-Authenticate`: what is beyond is not read.
const MAX_VALUES: usize = 8;
const MAX_CHALLENGES: usize = 16;
const MAX_VALUE: usize = 8 * 1024;

/// What is asked for has to fit into a cookie on the user's way to the provider.
const MAX_CLAIMS: usize = 1024;
const MAX_ACR_VALUES: usize = 512;

/// What is to be done about a 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The user has to go to the provider.
    User(Wanted),
    /// Another token may fare better.
    OtherToken,
    /// Neither would help.
    Final,
}

/// Unless it says something else, a 401 is about the token: APIs without the header are many.
pub(super) fn judge(headers: &HeaderMap) -> Verdict {
    let mut verdict = None;
    let mut unreadable = false;
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    for value in values.take(MAX_VALUES) {
        let text = value.to_str().ok().filter(|text| text.len() <= MAX_VALUE);
        let Some(text) = text else {
            unreadable = true;
            continue;
        };
        for challenge in ChallengeParser::new(text).take(MAX_CHALLENGES) {
            let Ok(challenge) = challenge else {
                unreadable = true;
                break;
            };
            let one = of_challenge(&challenge);
            if rank(&one) > verdict.as_ref().map_or(0, rank) {
                verdict = Some(one);
            }
        }
    }
    match verdict {
        Some(Verdict::Final) if unreadable => Verdict::OtherToken,
        Some(verdict) => verdict,
        None => Verdict::OtherToken,
    }
}

/// Of several challenges, the one that asks for most is followed.
fn rank(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Final => 1,
        Verdict::OtherToken => 2,
        Verdict::User(wanted) if wanted.claims.is_none() => 3,
        Verdict::User(_) => 4,
    }
}

fn of_challenge(challenge: &ChallengeRef<'_>) -> Verdict {
    if !challenge.scheme.eq_ignore_ascii_case("bearer") {
        return Verdict::Final;
    }
    let param = |name: &str| {
        let mut params = challenge.params.iter();
        let (_, value) = params.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value.to_unescaped())
    };
    let error = param("error").unwrap_or_default();
    match error.as_str() {
        "insufficient_user_authentication" => Verdict::User(Wanted {
            acr_values: param("acr_values").filter(|acr| (1..=MAX_ACR_VALUES).contains(&acr.len())),
            max_age: param("max_age").and_then(|age| age.parse().ok()),
            claims: param("claims").as_deref().and_then(claims),
            ..Wanted::default()
        }),
        "" | "invalid_token" | "insufficient_claims" => {
            match param("claims").as_deref().map(claims) {
                Some(Some(claims)) => Verdict::User(Wanted {
                    claims: Some(claims),
                    ..Wanted::default()
                }),
                _ => Verdict::OtherToken,
            }
        }
        _ => Verdict::Final,
    }
}

/// The JSON object of a claims challenge, in base64 of either alphabet, with padding or without, or as it is.
fn claims(text: &str) -> Option<String> {
    let json = if text.starts_with('{') {
        text.to_owned()
    } else {
        let config = GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true);
        let alphabet = match text.contains(['-', '_']) {
            true => alphabet::URL_SAFE,
            false => alphabet::STANDARD,
        };
        let decoded = GeneralPurpose::new(&alphabet, config).decode(text).ok()?;
        String::from_utf8(decoded).ok()?
    };
    let object = serde_json::from_str::<Map<String, Value>>(&json).ok()?;
    (!object.is_empty() && json.len() <= MAX_CLAIMS).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    const CLAIMS: &str = r#"{"access_token":{"nbf":{"essential":true,"value":"1?>~"}}}"#;

    fn judged(values: &[&str]) -> Verdict {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(header::WWW_AUTHENTICATE, value);
        }
        judge(&headers)
    }

    fn wants(claims: Option<&str>, acr_values: Option<&str>, max_age: Option<u64>) -> Verdict {
        Verdict::User(Wanted {
            claims: claims.map(str::to_owned),
            acr_values: acr_values.map(str::to_owned),
            max_age,
            ..Wanted::default()
        })
    }

    #[test]
    fn a_401_asks_for_another_token_or_for_the_user_r33() {
        let entra = format!(
            r#"Bearer realm="", authorization_uri="https://login.example.com/authorize", error="insufficient_claims", claims="{}""#,
            STANDARD.encode(CLAIMS)
        );
        let invalid = format!(
            r#"Bearer error="invalid_token", error_description="revoked", claims="{}""#,
            URL_SAFE_NO_PAD.encode(CLAIMS)
        );
        let plain = format!(
            r#"Bearer error="insufficient_claims", claims="{}""#,
            CLAIMS.replace('"', "\\\"")
        );
        let later = format!(r#"Basic realm="a, b", {invalid}"#);
        let asked = wants(Some(CLAIMS), None, None);
        let rows: [(&str, &[&str], Verdict); 20] = [
            ("no header", &[], Verdict::OtherToken),
            ("no error", &[r#"Bearer realm="x""#], Verdict::OtherToken),
            ("the scheme alone", &["bearer"], Verdict::OtherToken),
            (
                "invalid_token",
                &[r#"BEARER ERROR=invalid_token"#],
                Verdict::OtherToken,
            ),
            (
                "another error",
                &[r#"Bearer error="insufficient_scope", scope="a""#],
                Verdict::Final,
            ),
            ("another scheme", &[r#"Basic realm="x""#], Verdict::Final),
            (
                "two schemes",
                &[r#"Basic realm="x", Bearer"#],
                Verdict::OtherToken,
            ),
            (
                "two headers",
                &["Negotiate", r#"Bearer error="invalid_token""#],
                Verdict::OtherToken,
            ),
            ("base64 with padding", &[&entra], asked.clone()),
            ("base64url without", &[&invalid], asked.clone()),
            ("JSON as it is", &[&plain], asked.clone()),
            ("after another scheme", &[&later], asked.clone()),
            ("in another header", &["Bearer", &invalid], asked),
            (
                "claims that are none",
                &[r#"Bearer error="insufficient_claims", claims="!""#],
                Verdict::OtherToken,
            ),
            (
                "claims that are no object",
                &[r#"Bearer error="insufficient_claims", claims="W10""#],
                Verdict::OtherToken,
            ),
            (
                "claims with an error of another kind",
                &[&invalid.replace("invalid_token", "insufficient_scope")],
                Verdict::Final,
            ),
            (
                "step-up",
                &[
                    r#"Bearer error="insufficient_user_authentication", acr_values="myACR other", max_age="5""#,
                ],
                wants(None, Some("myACR other"), Some(5)),
            ),
            (
                "step-up without quotes",
                &[r#"Bearer error=insufficient_user_authentication, max_age=0"#],
                wants(None, None, Some(0)),
            ),
            (
                "step-up with a time that is none",
                &[
                    r#"Bearer error="insufficient_user_authentication", max_age="-1", acr_values="""#,
                ],
                wants(None, None, None),
            ),
            (
                "step-up beside a plain challenge",
                &[
                    r#"Bearer realm="a", Bearer error="insufficient_user_authentication", acr_values="x""#,
                ],
                wants(None, Some("x"), None),
            ),
        ];
        for (name, values, expected) in rows {
            assert_eq!(judged(values), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_is_too_much_asks_for_another_token_at_most_r33() {
        let long = format!(
            r#"Bearer error="insufficient_user_authentication", acr_values="{}""#,
            "a".repeat(MAX_ACR_VALUES + 1)
        );
        let claims = |text: &str| format!(r#"Bearer error="insufficient_claims", claims="{text}""#);
        let large = format!(r#"{{"a":"{}"}}"#, "a".repeat(MAX_CLAIMS));
        let deep = format!(r#"{}1{}"#, r#"{"a":"#.repeat(150), "}".repeat(150));
        let many = format!(
            "{}{}",
            "Basic, ".repeat(MAX_CHALLENGES),
            claims(&URL_SAFE_NO_PAD.encode(CLAIMS))
        );
        let huge = format!(r#"Bearer realm="{}""#, "a".repeat(1_000_000));
        let rows: [(&str, &str, Verdict); 9] = [
            ("garbage", "=,=\"", Verdict::OtherToken),
            ("nothing", "", Verdict::OtherToken),
            (
                "a quote that stays open",
                r#"Bearer error="invalid"#,
                Verdict::OtherToken,
            ),
            (
                "letters beyond ASCII",
                "Bearer realm=\"ü\"",
                Verdict::OtherToken,
            ),
            ("a long acr", &long, wants(None, None, None)),
            (
                "large claims",
                &claims(&URL_SAFE_NO_PAD.encode(&large)),
                Verdict::OtherToken,
            ),
            (
                "deep claims",
                &claims(&URL_SAFE_NO_PAD.encode(&deep)),
                Verdict::OtherToken,
            ),
            ("many challenges", &many, Verdict::Final),
            ("a huge value", &huge, Verdict::OtherToken),
        ];
        for (name, value, expected) in rows {
            assert_eq!(judged(&[value]), expected, "{name}");
        }
        let mut values = vec!["Basic"; MAX_VALUES];
        let asking = claims(&URL_SAFE_NO_PAD.encode(CLAIMS));
        values.push(&asking);
        assert_eq!(judged(&values), Verdict::Final, "many values");
    }
}
