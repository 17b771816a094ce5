//! Keys and tokens for tests.

use std::sync::OnceLock;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::SigningAlgorithm;

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) struct TestKeys {
    pub(crate) rsa: RsaKeyPair,
    pub(crate) other_rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

pub(crate) const CLIENT_SECRET: &str =
    "a client secret that is long enough for every one of the HMAC algorithms of RFC 7518";

/// Made once for a test process: RSA keys take their time.
pub(crate) fn test_keys() -> &'static TestKeys {
    static KEYS: OnceLock<TestKeys> = OnceLock::new();
    KEYS.get_or_init(|| TestKeys {
        rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        other_rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        p256: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        p384: EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
        ed25519: Ed25519KeyPair::generate().unwrap(),
    })
}

pub(crate) fn rsa_jwk(key: &RsaKeyPair, id: &str) -> Value {
    let public = key.public_key();
    json!({
        "kty": "RSA", "use": "sig", "kid": id,
        "n": base64(public.modulus().big_endian_without_leading_zero()),
        "e": base64(public.exponent().big_endian_without_leading_zero()),
    })
}

impl TestKeys {
    pub(crate) fn rsa_public_der(&self) -> Vec<u8> {
        self.rsa.public_key().as_der().unwrap().as_ref().to_vec()
    }

    pub(crate) fn ec_jwk(&self, id: &str) -> Value {
        let point = self.p256.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": id,
            "x": base64(&point[1..33]), "y": base64(&point[33..])})
    }

    pub(crate) fn p384_jwk(&self, id: &str) -> Value {
        let point = self.p384.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-384", "use": "sig", "kid": id,
            "x": base64(&point[1..49]), "y": base64(&point[49..])})
    }

    pub(crate) fn ed_jwk(&self, id: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": id,
            "x": base64(self.ed25519.public_key().as_ref())})
    }

    /// A set with one key of each kind.
    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": [
            rsa_jwk(&self.rsa, "rsa"), self.ec_jwk("p256"), self.p384_jwk("p384"), self.ed_jwk("ed"),
        ]})
    }

    pub(crate) fn sign(&self, algorithm: SigningAlgorithm, message: &[u8]) -> Vec<u8> {
        use SigningAlgorithm as Alg;
        let random = SystemRandom::new();
        let rsa = |encoding: &'static dyn RsaEncoding| sign_rsa(&self.rsa, encoding, message);
        match algorithm {
            Alg::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
            Alg::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
            Alg::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
            Alg::Ps256 => rsa(&signature::RSA_PSS_SHA256),
            Alg::Ps384 => rsa(&signature::RSA_PSS_SHA384),
            Alg::Ps512 => rsa(&signature::RSA_PSS_SHA512),
            Alg::Es256 => self.p256.sign(&random, message).unwrap().as_ref().to_vec(),
            Alg::Es384 => self.p384.sign(&random, message).unwrap().as_ref().to_vec(),
            Alg::EdDsa => self.ed25519.sign(message).as_ref().to_vec(),
            Alg::Hs256 | Alg::Hs384 | Alg::Hs512 => {
                let key = hmac::Key::new(algorithm.hmac().unwrap(), CLIENT_SECRET.as_bytes());
                hmac::sign(&key, message).as_ref().to_vec()
            }
        }
    }

    pub(crate) fn token(
        &self,
        algorithm: SigningAlgorithm,
        header: &Value,
        claims: &Value,
    ) -> String {
        self.raw_token(algorithm, &header.to_string(), &claims.to_string())
    }

    pub(crate) fn raw_token(
        &self,
        algorithm: SigningAlgorithm,
        header: &str,
        claims: &str,
    ) -> String {
        let signed = format!("{}.{}", base64(header), base64(claims));
        let signature = self.sign(algorithm, signed.as_bytes());
        format!("{signed}.{}", base64(signature))
    }
}

pub(crate) fn sign_rsa(
    key: &RsaKeyPair,
    encoding: &'static dyn RsaEncoding,
    message: &[u8],
) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), message, &mut signature)
        .unwrap();
    signature
}

/// The `kid` of the key in [`TestKeys::jwks`] for an algorithm.
pub(crate) fn key_id(algorithm: SigningAlgorithm) -> Option<&'static str> {
    use SigningAlgorithm as Alg;
    match algorithm {
        Alg::Es256 => Some("p256"),
        Alg::Es384 => Some("p384"),
        Alg::EdDsa => Some("ed"),
        Alg::Hs256 | Alg::Hs384 | Alg::Hs512 => None,
        _ => Some("rsa"),
    }
}
