//! The same tokens, good and bad, before `openidconnect` and before us: the verdict is the same, save for what is listed
//! here as a difference on purpose.

use std::collections::HashMap;
use std::str::FromStr as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use openidconnect::core::{
    CoreIdToken, CoreIdTokenVerifier, CoreJsonWebKeySet, CoreJwsSigningAlgorithm as Core,
};
use openidconnect::{ClientId, ClientSecret, IssuerUrl, Nonce};
use serde_json::{Value, json};

use super::SigningAlgorithm as Alg;
use super::id_token::{Expectations, IdTokenRules};
use super::jws::Jws;
use super::keys::KeySet;
use super::test_keys::{CLIENT_SECRET, base64, key_id, sign_rsa, test_keys};
use crate::clock::Timestamp;
use crate::token::IdToken;

const ISSUER: &str = "https://op.example.com";
const NOW: i64 = 1_800_000_000;
const SKEW: i64 = 300;

/// The algorithms of both.
const ALGORITHMS: [(Alg, Core); 12] = [
    (Alg::Rs256, Core::RsaSsaPkcs1V15Sha256),
    (Alg::Rs384, Core::RsaSsaPkcs1V15Sha384),
    (Alg::Rs512, Core::RsaSsaPkcs1V15Sha512),
    (Alg::Ps256, Core::RsaSsaPssSha256),
    (Alg::Ps384, Core::RsaSsaPssSha384),
    (Alg::Ps512, Core::RsaSsaPssSha512),
    (Alg::Es256, Core::EcdsaP256Sha256),
    (Alg::Es384, Core::EcdsaP384Sha384),
    (Alg::EdDsa, Core::EdDsa),
    (Alg::Hs256, Core::HmacSha256),
    (Alg::Hs384, Core::HmacSha384),
    (Alg::Hs512, Core::HmacSha512),
];

/// How a change is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    Same,
    /// We refuse, whatever the other says.
    Stricter,
    /// We accept what the other refuses.
    Laxer,
}

/// A token in the making.
#[derive(Clone)]
struct Draft {
    algorithm: Alg,
    header: Value,
    claims: Value,
    finish: fn(&Draft) -> String,
}

impl Draft {
    fn new(algorithm: Alg) -> Self {
        let mut header = json!({"alg": algorithm.name()});
        if let Some(id) = key_id(algorithm) {
            header["kid"] = id.into();
        }
        Self {
            algorithm,
            header,
            claims: json!({"iss": ISSUER, "aud": "my-app", "sub": "ann", "nonce": "nonce",
                "iat": NOW, "exp": NOW + 3600}),
            finish: |draft| test_keys().token(draft.algorithm, &draft.header, &draft.claims),
        }
    }

    fn unsigned(&self) -> String {
        let (header, claims) = (self.header.to_string(), self.claims.to_string());
        format!("{}.{}", base64(header), base64(claims))
    }
}

struct Change {
    name: &'static str,
    agreement: Agreement,
    apply: fn(&mut Draft),
}

fn drop_claim(draft: &mut Draft, name: &str) {
    draft.claims.as_object_mut().unwrap().remove(name);
}

fn changes() -> Vec<Change> {
    use Agreement::{Same, Stricter};
    let row = |name, agreement, apply| Change {
        name,
        agreement,
        apply,
    };
    vec![
        row("nothing", Same, |_| {}),
        // The issuer.
        row("no iss", Same, |d| drop_claim(d, "iss")),
        row("another iss", Same, |d| {
            d.claims["iss"] = "https://evil.example.com".into()
        }),
        row("iss with a slash", Same, |d| {
            d.claims["iss"] = "https://op.example.com/".into()
        }),
        row("iss in other case", Same, |d| {
            d.claims["iss"] = "https://OP.example.com".into()
        }),
        row("iss null", Same, |d| d.claims["iss"] = Value::Null),
        row("iss array", Same, |d| d.claims["iss"] = json!([ISSUER])),
        // The audience.
        row("no aud", Same, |d| drop_claim(d, "aud")),
        row("another aud", Same, |d| d.claims["aud"] = "other".into()),
        row("aud array", Same, |d| d.claims["aud"] = json!(["my-app"])),
        row("aud array without us", Same, |d| {
            d.claims["aud"] = json!(["a", "b"])
        }),
        row("aud empty array", Same, |d| d.claims["aud"] = json!([])),
        row("aud with a stranger", Same, |d| {
            d.claims["aud"] = json!(["my-app", "stranger"])
        }),
        row("aud with a friend, and azp", Same, |d| {
            d.claims["aud"] = json!(["friend", "my-app"]);
            d.claims["azp"] = "my-app".into();
        }),
        row("aud number", Same, |d| d.claims["aud"] = 1.into()),
        row("aud with a number", Same, |d| {
            d.claims["aud"] = json!(["my-app", 1])
        }),
        row("aud null", Same, |d| d.claims["aud"] = Value::Null),
        row("azp is us", Same, |d| d.claims["azp"] = "my-app".into()),
        // openidconnect leaves `azp` alone, as the standard contradicts itself about it.
        row("azp is another", Stricter, |d| {
            d.claims["azp"] = "friend".into()
        }),
        row("a friend without azp", Stricter, |d| {
            d.claims["aud"] = json!(["my-app", "friend"])
        }),
        // The subject.
        row("no sub", Same, |d| drop_claim(d, "sub")),
        row("sub number", Same, |d| d.claims["sub"] = 1.into()),
        row("sub null", Same, |d| d.claims["sub"] = Value::Null),
        row("sub of 255", Same, |d| {
            d.claims["sub"] = "s".repeat(255).into()
        }),
        row("sub of 256", Stricter, |d| {
            d.claims["sub"] = "s".repeat(256).into()
        }),
        row("sub empty", Stricter, |d| d.claims["sub"] = "".into()),
        // Times.
        row("no exp", Same, |d| drop_claim(d, "exp")),
        row("exp just over", Same, |d| {
            d.claims["exp"] = (NOW - SKEW).into()
        }),
        row("exp just not over", Same, |d| {
            d.claims["exp"] = (NOW - SKEW + 1).into()
        }),
        row("exp long over", Same, |d| d.claims["exp"] = 1.into()),
        row("exp text", Same, |d| d.claims["exp"] = "1900000000".into()),
        row("exp null", Same, |d| d.claims["exp"] = Value::Null),
        row("exp fraction", Same, |d| {
            d.claims["exp"] = json!(NOW as f64 + 9.5)
        }),
        row("exp in milliseconds", Stricter, |d| {
            d.claims["exp"] = ((NOW + 9) * 1000).into()
        }),
        row("exp true", Same, |d| d.claims["exp"] = true.into()),
        row("no iat", Same, |d| drop_claim(d, "iat")),
        row("iat as late as can be", Same, |d| {
            d.claims["iat"] = (NOW + SKEW).into()
        }),
        row("iat too late", Same, |d| {
            d.claims["iat"] = (NOW + SKEW + 1).into()
        }),
        row("iat long ago", Same, |d| d.claims["iat"] = 1.into()),
        row("iat text", Same, |d| d.claims["iat"] = "now".into()),
        row("auth_time", Same, |d| {
            d.claims["auth_time"] = (NOW - 9).into()
        }),
        row("auth_time text", Same, |d| {
            d.claims["auth_time"] = "then".into()
        }),
        row("auth_time null", Same, |d| {
            d.claims["auth_time"] = Value::Null
        }),
        // The nonce.
        row("no nonce", Same, |d| drop_claim(d, "nonce")),
        row("another nonce", Same, |d| {
            d.claims["nonce"] = "nonce2".into()
        }),
        row("nonce empty", Same, |d| d.claims["nonce"] = "".into()),
        row("nonce number", Same, |d| d.claims["nonce"] = 1.into()),
        row("nonce null", Same, |d| d.claims["nonce"] = Value::Null),
        // Kinds of tokens.
        row("typ JWT", Same, |d| d.header["typ"] = "JWT".into()),
        row("typ jwt", Same, |d| d.header["typ"] = "jwt".into()),
        row("typ application/jwt", Same, |d| {
            d.header["typ"] = "application/jwt".into()
        }),
        row("typ JOSE", Same, |d| d.header["typ"] = "JOSE".into()),
        row("typ at+jwt", Same, |d| d.header["typ"] = "at+jwt".into()),
        row("typ logout+jwt", Same, |d| {
            d.header["typ"] = "logout+jwt".into()
        }),
        // R27: openidconnect knows no logout tokens.
        row("the logout event", Stricter, |d| {
            d.claims["events"] = json!({super::BACK_CHANNEL_EVENT: {}});
        }),
        row("another event", Same, |d| {
            d.claims["events"] = json!({"https://a.example/e": {}})
        }),
        // The header.
        row("crit", Same, |d| d.header["crit"] = json!(["exp"])),
        row("cty", Same, |d| d.header["cty"] = "JWT".into()),
        row("alg none", Same, |d| {
            d.header["alg"] = "none".into();
            d.finish = |d| format!("{}.", d.unsigned());
        }),
        row("alg None", Same, |d| {
            d.header["alg"] = "None".into();
            d.finish = |d| format!("{}.", d.unsigned());
        }),
        row("alg unknown", Same, |d| d.header["alg"] = "XS256".into()),
        row("alg missing", Same, |d| {
            drop(d.header.as_object_mut().unwrap().remove("alg"))
        }),
        row("jku", Same, |d| {
            d.header["jku"] = "https://evil.example.com/keys".into()
        }),
        row("kid unknown", Same, |d| {
            // An HMAC is by the client secret, whatever its `kid`.
            if d.algorithm.hmac().is_none() {
                d.header["kid"] = "unknown".into();
            }
        }),
        row("kid of another type", Same, |d| match d.algorithm {
            Alg::Hs256 | Alg::Hs384 | Alg::Hs512 => {}
            Alg::EdDsa => d.header["kid"] = "rsa".into(),
            _ => d.header["kid"] = "ed".into(),
        }),
        // The signature.
        row("no signature", Same, |d| {
            d.finish = |d| format!("{}.", d.unsigned())
        }),
        row("rubbish for a signature", Same, |d| {
            d.finish = |d| format!("{}.{}", d.unsigned(), base64([7; 64]));
        }),
        row("signed for other claims", Same, |d| {
            d.finish = |d| {
                let mut other = d.clone();
                other.claims["sub"] = "eve".into();
                let token = test_keys().token(d.algorithm, &d.header, &d.claims);
                let signature = token.rsplit_once('.').unwrap().1;
                format!("{}.{signature}", other.unsigned())
            };
        }),
        row("signed with a strange key", Same, |d| {
            d.finish = |d| {
                let unsigned = d.unsigned();
                let scheme = &aws_lc_rs::signature::RSA_PKCS1_SHA256;
                let signature = sign_rsa(&test_keys().other_rsa, scheme, unsigned.as_bytes());
                format!("{unsigned}.{}", base64(signature))
            };
        }),
        row("HMAC with the public key", Same, |d| {
            d.header = json!({"alg": "HS256", "kid": "rsa"});
            d.finish = |d| {
                let unsigned = d.unsigned();
                let public = test_keys().rsa_public_der();
                let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
                let tag = aws_lc_rs::hmac::sign(&key, unsigned.as_bytes());
                format!("{unsigned}.{}", base64(tag))
            };
        }),
        row("three parts and more", Same, |d| {
            d.finish = |d| test_keys().token(d.algorithm, &d.header, &d.claims) + ".e30";
        }),
        row("padding", Same, |d| {
            d.finish = |d| test_keys().token(d.algorithm, &d.header, &d.claims) + "=";
        }),
        // What matters to neither.
        row("sid", Same, |d| d.claims["sid"] = "08a5019c".into()),
        row("unknown claims", Same, |d| {
            d.claims["groups"] = json!(["a", {"b": 1}])
        }),
    ]
}

/// Judged alone only: what we accept and the other does not.
fn laxer_changes() -> Vec<Change> {
    vec![Change {
        name: "no kid among several keys",
        agreement: Agreement::Laxer,
        // openidconnect takes a token without `kid` only when a single key has its type; RS256 has one in this set,
        // the two EC curves count as one type there.
        apply: |d| {
            *d = Draft::new(Alg::Es256);
            d.header.as_object_mut().unwrap().remove("kid");
        },
    }]
}

struct Judges {
    rules: IdTokenRules,
    keys: KeySet,
    oracle: CoreIdTokenVerifier<'static>,
}

impl Judges {
    fn new(algorithms: &[Alg]) -> Self {
        let set = test_keys().jwks().to_string();
        let names: HashMap<Alg, Core> = ALGORITHMS.into_iter().collect();
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds as u64);
        let oracle = CoreIdTokenVerifier::new_confidential_client(
            ClientId::new("my-app".to_owned()),
            ClientSecret::new(CLIENT_SECRET.to_owned()),
            IssuerUrl::new(ISSUER.to_owned()).unwrap(),
            serde_json::from_str::<CoreJsonWebKeySet>(&set).unwrap(),
        )
        .set_allowed_algs(algorithms.iter().map(|algorithm| names[algorithm].clone()))
        // It has no skew of its own, so its clock is set back.
        .set_time_fn(move || at(NOW - SKEW).into())
        .set_issue_time_verifier_fn(move |issued| {
            if SystemTime::from(issued) > at(NOW + SKEW) {
                return Err("in the future".to_owned());
            }
            Ok(())
        })
        .set_other_audience_verifier_fn(|audience| audience.as_str() == "friend");
        Self {
            rules: IdTokenRules {
                issuer: ISSUER.into(),
                client_id: "my-app".into(),
                algorithms: algorithms.into(),
                trusted_audiences: Box::new(["friend".into()]),
                clock_skew: Duration::from_secs(SKEW as u64),
            },
            keys: KeySet::parse(set.as_bytes(), algorithms)
                .unwrap()
                .with_client_secret(CLIENT_SECRET, algorithms),
            oracle,
        }
    }

    fn ours(&self, token: &str) -> bool {
        let (token, expected) = (IdToken::new(token), Expectations::sign_in("nonce"));
        let now = Timestamp::from_secs(NOW);
        self.rules
            .verify(&token, &expected, &self.keys, now)
            .is_ok()
    }

    /// openidconnect 4.1 panics on an HMAC whose length is not that of its hash; that counts as refused.
    fn theirs(&self, token: &str) -> bool {
        if Jws::parse(token).is_ok_and(|jws| jws.has_hmac_of_wrong_length()) {
            return false;
        }
        CoreIdToken::from_str(token).is_ok_and(|token| {
            token
                .claims(&self.oracle, &Nonce::new("nonce".to_owned()))
                .is_ok()
        })
    }

    fn compare(&self, name: &str, agreement: Agreement, token: &str) {
        let (ours, theirs) = (self.ours(token), self.theirs(token));
        match agreement {
            Agreement::Same => assert_eq!(ours, theirs, "{name}: we say {ours}"),
            Agreement::Stricter => assert!(!ours, "{name}: accepted"),
            Agreement::Laxer => assert!(ours && !theirs, "{name}: {ours}, {theirs}"),
        }
    }
}

/// R27 is among them.
#[test]
fn each_change_alone_gets_the_same_verdict() {
    let all: Vec<Alg> = ALGORITHMS.iter().map(|(algorithm, _)| *algorithm).collect();
    let judges = Judges::new(&all);
    let (mut good, mut bad) = (0, 0);
    for algorithm in [
        Alg::Rs256,
        Alg::Ps512,
        Alg::Es256,
        Alg::Es384,
        Alg::EdDsa,
        Alg::Hs256,
    ] {
        for change in changes() {
            let mut draft = Draft::new(algorithm);
            (change.apply)(&mut draft);
            let token = (draft.finish)(&draft);
            let name = format!("{algorithm}: {}", change.name);
            judges.compare(&name, change.agreement, &token);
            *(if judges.ours(&token) {
                &mut good
            } else {
                &mut bad
            }) += 1;
            // A difference that is none any more should be struck from the list.
            if change.agreement == Agreement::Stricter {
                assert!(judges.theirs(&token), "{name}: no difference");
            }
        }
    }
    assert!(good >= 60 && bad >= 60, "{good} good, {bad} bad");
    for change in laxer_changes() {
        let mut draft = Draft::new(Alg::Rs256);
        (change.apply)(&mut draft);
        judges.compare(change.name, change.agreement, &(draft.finish)(&draft));
    }
}

#[test]
fn every_pair_of_allowed_and_used_algorithm_gets_the_same_verdict() {
    for (allowed, _) in ALGORITHMS {
        // A key set without a key for the allowed algorithm is an error of its own with us.
        let with_one = [allowed, Alg::Rs256];
        let judges = Judges::new(&with_one);
        for (used, _) in ALGORITHMS {
            let draft = Draft::new(used);
            let token = (draft.finish)(&draft);
            judges.compare(&format!("{used} where {allowed}"), Agreement::Same, &token);
            assert_eq!(
                judges.ours(&token),
                with_one.contains(&used),
                "{used} where {allowed}"
            );
        }
    }
}

#[test]
fn changes_in_random_company_get_the_same_verdict() {
    let all: Vec<Alg> = ALGORITHMS.iter().map(|(algorithm, _)| *algorithm).collect();
    let judges = Judges::new(&all);
    let changes = changes();
    // Marsaglia's xorshift, from a fixed seed.
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut pick = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for _ in 0..2000 {
        let mut draft = Draft::new(ALGORITHMS[pick(ALGORITHMS.len())].0);
        let mut names = vec![draft.algorithm.name()];
        let mut agreement = Agreement::Same;
        for _ in 0..=pick(3) {
            let change = &changes[pick(changes.len())];
            (change.apply)(&mut draft);
            names.push(change.name);
            if change.agreement == Agreement::Stricter {
                agreement = Agreement::Stricter;
            }
        }
        // A later change can undo an earlier one, so a token on which we differ alone is not judged in company.
        if agreement == Agreement::Same {
            let token = (draft.finish)(&draft);
            judges.compare(&names.join(", "), agreement, &token);
        }
    }
}
