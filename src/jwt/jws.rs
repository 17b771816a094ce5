//! The compact form of a signed token (RFC 7515, section 7.1).

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use memchr::memchr_iter;

use super::keys::KeySet;
use super::{Claims, JwtError, Members, SigningAlgorithm};

/// Larger than any ID token seen with hundreds of groups in it, smaller than what a flood needs.
pub(crate) const MAX_TOKEN: usize = 64 * 1024;
const MAX_HEADER: usize = 8 * 1024;
const MAX_KEY_ID: usize = 1024;

/// A token taken apart, with nothing in it verified. Its claims are had from [`verify`](Self::verify), and by
/// [`unverified_claims`](Self::unverified_claims) for what is decided before or without that.
pub(crate) struct Jws<'a> {
    algorithm: Option<SigningAlgorithm>,
    key_id: Option<Box<str>>,
    /// In lower case and without the prefix that may be left out (RFC 7515, section 4.1.9).
    typ: Option<Box<str>>,
    signed: &'a str,
    /// All parts, decoded one after the other.
    decoded: Vec<u8>,
    signature: Range<usize>,
    /// `None`: it is not base64url, which is of interest to who reads the claims.
    payload: Option<Range<usize>>,
}

impl<'a> Jws<'a> {
    /// # Errors
    ///
    /// The form is wrong, or the header demands what is not understood.
    pub(crate) fn parse(token: &'a str) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN {
            return Err(JwtError::TooLarge);
        }
        let mut dots = memchr_iter(b'.', token.as_bytes());
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(JwtError::NotCompact);
        };
        let (header, payload) = (&token[..first], &token[first + 1..second]);
        let (signed, signature) = (&token[..second], &token[second + 1..]);
        if header.len() > MAX_HEADER {
            return Err(JwtError::TooLarge);
        }
        // Of each part the last group may be counted whole.
        let mut decoded = Vec::with_capacity(base64::decoded_len_estimate(token.len() + 8));
        let at = decode(header, &mut decoded)?;
        let header = Members::parse(&decoded[at]).ok_or(JwtError::Header)?;
        // `jku`, `x5u`, `jwk` and `x5c` are not read: a token does not choose the key that it is verified with.
        let text = |name: &str| match header.get(name).map(|member| member.text()) {
            None => Ok(None),
            Some(Some(text)) if text.len() <= MAX_KEY_ID => Ok(Some(text)),
            Some(_) => Err(JwtError::Header),
        };
        let has = |name: &str| header.get(name).is_some();
        if has("crit") || has("b64") {
            return Err(JwtError::CriticalHeader);
        }
        // `enc` means encrypted, `zip` compressed; both belong to JWE.
        if has("cty") || has("enc") || has("zip") {
            return Err(JwtError::NestedToken);
        }
        let algorithm = text("alg")?.ok_or(JwtError::Header)?;
        let algorithm = SigningAlgorithm::from_name(algorithm);
        let key_id = text("kid")?.map(Box::from);
        let typ = text("typ")?.map(short_type);
        Ok(Self {
            algorithm,
            key_id,
            typ,
            signed,
            signature: decode(signature, &mut decoded)?,
            payload: decode(payload, &mut decoded).ok(),
            decoded,
        })
    }

    /// Verifies the signature and reads the claims.
    ///
    /// The token's `alg` only picks one of those allowed, and a key is used with the algorithms of its own type only, so
    /// that a public key never serves as an HMAC secret.
    ///
    /// # Errors
    ///
    /// [`JwtError::UnknownKey`] if newer keys may have what is needed; others are final.
    pub(crate) fn verify(
        &self,
        keys: &KeySet,
        allowed: &[SigningAlgorithm],
    ) -> Result<Claims<'_>, JwtError> {
        let algorithm = self.verify_signature(keys, allowed)?;
        self.read_claims(algorithm)
    }

    fn verify_signature(
        &self,
        keys: &KeySet,
        allowed: &[SigningAlgorithm],
    ) -> Result<SigningAlgorithm, JwtError> {
        let algorithm = self
            .algorithm
            .filter(|algorithm| allowed.contains(algorithm))
            .ok_or(JwtError::AlgorithmNotAllowed)?;
        let signature = &self.decoded[self.signature.clone()];
        let key_id = self.key_id.as_deref();
        keys.verify(algorithm, key_id, self.signed.as_bytes(), signature)?;
        Ok(algorithm)
    }

    #[cfg(test)]
    pub(super) fn has_hmac_of_wrong_length(&self) -> bool {
        let hmac = self.algorithm.and_then(SigningAlgorithm::hmac);
        hmac.is_some_and(|hmac| hmac.tag_len() != self.signature.len())
    }

    fn read_claims(&self, algorithm: SigningAlgorithm) -> Result<Claims<'_>, JwtError> {
        let payload = self.payload.clone().ok_or(JwtError::NotBase64)?;
        Ok(Claims {
            members: Members::parse(&self.decoded[payload]).ok_or(JwtError::Payload)?,
            algorithm,
            typ: self.typ.as_deref(),
        })
    }

    /// The claims of a token whose signature was not verified now: of one that was accepted before and is at hand, or to
    /// find out whose keys are to verify it. Nothing may be concluded from them alone.
    pub(super) fn unverified_claims(&self) -> Result<Claims<'_>, JwtError> {
        self.read_claims(self.algorithm.unwrap_or(SigningAlgorithm::Rs256))
    }
}

/// A token whose claims were read first, because one of them says whose keys are to verify it. What was read is what is
/// verified, so it is read once.
pub(super) struct Unverified<'a> {
    jws: &'a Jws<'a>,
    claims: Claims<'a>,
}

impl<'a> Unverified<'a> {
    /// # Errors
    ///
    /// A payload that is none.
    pub(super) fn read(jws: &'a Jws<'a>) -> Result<Self, JwtError> {
        let claims = jws.unverified_claims()?;
        Ok(Self { jws, claims })
    }

    /// The issuer that the token claims. Nothing may be concluded from it alone.
    pub(super) fn claimed_issuer(&self) -> Result<&str, JwtError> {
        self.claims.string("iss")
    }

    /// The claims, once the signature is verified: see [`Jws::verify`].
    ///
    /// # Errors
    ///
    /// [`JwtError::UnknownKey`] if newer keys may have what is needed; others are final.
    pub(super) fn verify(
        &self,
        keys: &KeySet,
        allowed: &[SigningAlgorithm],
    ) -> Result<&Claims<'a>, JwtError> {
        self.jws.verify_signature(keys, allowed)?;
        Ok(&self.claims)
    }
}

fn short_type(typ: &str) -> Box<str> {
    const PREFIX: &str = "application/";
    let prefix = typ.get(..PREFIX.len());
    let mut short: Box<str> = match prefix.is_some_and(|had| had.eq_ignore_ascii_case(PREFIX)) {
        true => typ[PREFIX.len()..].into(),
        false => typ.into(),
    };
    short.make_ascii_lowercase();
    short
}

/// Strict: no padding, no other alphabet, no white space, no bits left over, so that one text only stands for one value. Says where
/// in `decoded` it is.
fn decode(part: &str, decoded: &mut Vec<u8>) -> Result<Range<usize>, JwtError> {
    let begin = decoded.len();
    URL_SAFE_NO_PAD
        .decode_vec(part, decoded)
        .map_err(|_| JwtError::NotBase64)?;
    Ok(begin..decoded.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", encode(header), encode(payload), encode("sig"))
    }

    #[test]
    fn forms_that_are_refused() {
        let good = token(r#"{"alg":"RS256"}"#, "{}");
        assert!(Jws::parse(&good).is_ok());
        let rows: Vec<(&str, String, JwtError)> = vec![
            ("empty", String::new(), JwtError::NotCompact),
            ("no dot", "abc".into(), JwtError::NotCompact),
            ("one dot", "e30.e30".into(), JwtError::NotCompact),
            ("four parts", format!("{good}.e30"), JwtError::NotCompact),
            ("five parts", "a.b.c.d.e".into(), JwtError::NotCompact),
            ("padding", format!("{good}="), JwtError::NotBase64),
            (
                "standard alphabet",
                format!("{good}+/"),
                JwtError::NotBase64,
            ),
            ("white space", format!("{good} "), JwtError::NotBase64),
            ("line break", format!("{good}\n"), JwtError::NotBase64),
            (
                "bits left over",
                "eyJhbGciOiJSUzI1NiJ9.e30.YR".into(),
                JwtError::NotBase64,
            ),
            ("non-ASCII", "é.e30.e30".into(), JwtError::NotBase64),
            (
                "too large",
                format!("{good}{}", "A".repeat(MAX_TOKEN)),
                JwtError::TooLarge,
            ),
            (
                "large header",
                token(
                    &format!(r#"{{"alg":"RS256","x":"{}"}}"#, "x".repeat(MAX_HEADER)),
                    "{}",
                ),
                JwtError::TooLarge,
            ),
            ("header is an array", token("[]", "{}"), JwtError::Header),
            ("header is text", token("alg", "{}"), JwtError::Header),
            ("header is empty", token("", "{}"), JwtError::Header),
            ("no alg", token("{}", "{}"), JwtError::Header),
            (
                "alg is null",
                token(r#"{"alg":null}"#, "{}"),
                JwtError::Header,
            ),
            (
                "alg twice",
                token(r#"{"alg":"RS256","alg":"none"}"#, "{}"),
                JwtError::Header,
            ),
            (
                "alg twice, escaped",
                token(r#"{"alg":"RS256","\u0061lg":"none"}"#, "{}"),
                JwtError::Header,
            ),
            (
                "kid is a number",
                token(r#"{"alg":"RS256","kid":1}"#, "{}"),
                JwtError::Header,
            ),
            (
                "kid is long",
                token(
                    &format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(1025)),
                    "{}",
                ),
                JwtError::Header,
            ),
            (
                "typ is an object",
                token(r#"{"alg":"RS256","typ":{}}"#, "{}"),
                JwtError::Header,
            ),
            (
                "crit",
                token(r#"{"alg":"RS256","crit":["exp"]}"#, "{}"),
                JwtError::CriticalHeader,
            ),
            (
                "crit is empty",
                token(r#"{"alg":"RS256","crit":[]}"#, "{}"),
                JwtError::CriticalHeader,
            ),
            (
                "b64",
                token(r#"{"alg":"RS256","b64":false}"#, "{}"),
                JwtError::CriticalHeader,
            ),
            (
                "cty",
                token(r#"{"alg":"RS256","cty":"JWT"}"#, "{}"),
                JwtError::NestedToken,
            ),
            (
                "enc",
                token(r#"{"alg":"dir","enc":"A128GCM"}"#, "{}"),
                JwtError::NestedToken,
            ),
            (
                "zip",
                token(r#"{"alg":"RS256","zip":"DEF"}"#, "{}"),
                JwtError::NestedToken,
            ),
            (
                "deep header",
                token(
                    &format!(r#"{{"alg":"RS256","x":{}}}"#, "[".repeat(2000)),
                    "{}",
                ),
                JwtError::Header,
            ),
        ];
        for (name, text, expected) in rows {
            assert_eq!(Jws::parse(&text).err(), Some(expected), "{name}");
        }
    }

    #[test]
    fn the_algorithm_comes_from_the_caller_a9() {
        let keys = KeySet::default();
        for alg in [
            "none", "None", "NONE", "nOnE", "", "HS256", "rs256", "RS256 ", "ES256K",
        ] {
            let text = token(&format!(r#"{{"alg":"{alg}"}}"#), "{}");
            let refused = Jws::parse(&text)
                .unwrap()
                .verify(&keys, &[SigningAlgorithm::Rs256])
                .err();
            assert_eq!(refused, Some(JwtError::AlgorithmNotAllowed), "{alg}");
        }
    }
}
