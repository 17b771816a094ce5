//! What the session's data holds: where the session's sign-ins are kept, and the keys that open them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use zeroize::{Zeroize as _, Zeroizing};

use crate::id::{Locator, SignInId};

/// The sign-ins of one session, oldest first; the latest is the default.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionData {
    sign_ins: Vec<Locator>,
}

/// And what follows is [`Locator::SIZE`] bytes for each sign-in, in base64url.
const VERSION: &str = "1.";

impl SessionData {
    /// The key in the session's data.
    pub(crate) const KEY: &'static str = "axum-signout";

    /// Most sign-ins that one session holds; the oldest leaves when one more comes.
    pub(crate) const MAX_SIGN_INS: usize = 8;

    /// Bytes of that many.
    const LIMIT: usize = Self::MAX_SIGN_INS * Locator::SIZE;

    /// Account, sign-in and key of each, in base64url after the version. One text and no tree of lists and objects: session stores
    /// clone or parse all of it for every request.
    ///
    /// `None` for what this version did not write.
    pub(crate) fn decode(value: &Value) -> Option<Self> {
        let text = value.as_str()?.strip_prefix(VERSION)?;
        // What is longer holds too many.
        let mut bytes = [0; Self::LIMIT];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes);
        // Of what could not be decoded a part may be there.
        let written = &mut bytes[..*length.as_ref().unwrap_or(&Self::LIMIT)];
        let data = length.is_ok().then(|| Self::of_bytes(written)).flatten();
        written.zeroize();
        data
    }

    fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let (all, rest) = bytes.as_chunks();
        let mut data = Self {
            sign_ins: Vec::with_capacity(all.len()),
        };
        for locator in all {
            let locator = Locator::of_bytes(locator)?;
            if data.position(locator.address.id).is_some() {
                return None;
            }
            data.sign_ins.push(locator);
        }
        (rest.is_empty() && !data.is_empty()).then_some(data)
    }

    pub(crate) fn encode(&self) -> Value {
        let mut bytes = Zeroizing::new(Vec::with_capacity(Self::LIMIT));
        for locator in &self.sign_ins {
            locator.extend(&mut bytes);
        }
        let mut text = VERSION.to_owned();
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text.into()
    }

    /// Oldest first.
    pub(crate) fn sign_ins(&self) -> &[Locator] {
        &self.sign_ins
    }

    pub(crate) fn into_sign_ins(self) -> Vec<Locator> {
        self.sign_ins
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.sign_ins.is_empty()
    }

    /// Adds a sign-in as the latest. What comes back no longer has a place in the session, and must be evicted: the
    /// one of the same name, or the oldest of too many.
    pub(crate) fn push(&mut self, locator: Locator) -> Option<Locator> {
        let replaced = self.remove(locator.address.id);
        let left = replaced.or_else(|| {
            (self.sign_ins.len() >= Self::MAX_SIGN_INS).then(|| self.sign_ins.remove(0))
        });
        self.sign_ins.push(locator);
        left
    }

    /// Takes a sign-in out.
    pub(crate) fn remove(&mut self, id: SignInId) -> Option<Locator> {
        self.position(id).map(|at| self.sign_ins.remove(at))
    }

    fn position(&self, id: SignInId) -> Option<usize> {
        self.sign_ins.iter().position(|have| have.address.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{AccountHash, Address, SessionKey};
    use serde_json::json;

    pub(super) fn locator(n: u8) -> Locator {
        Locator {
            address: Address {
                account: AccountHash::from_bytes([n; 32]),
                id: SignInId::from_bytes([n; 16]),
            },
            key: SessionKey::random(),
        }
    }

    fn data(count: u8) -> SessionData {
        let mut data = SessionData::default();
        for n in 0..count {
            assert!(data.push(locator(n)).is_none());
        }
        data
    }

    fn names(data: &SessionData) -> Vec<SignInId> {
        data.sign_ins().iter().map(|l| l.address.id).collect()
    }

    fn text(data: &SessionData) -> String {
        data.encode().as_str().unwrap().to_owned()
    }

    #[test]
    fn it_survives_its_text_form_in_order() {
        for count in 1..=8 {
            let before = data(count);
            let after = SessionData::decode(&before.encode()).unwrap();
            assert_eq!(names(&after), names(&before));
            for (one, two) in before.sign_ins().iter().zip(after.sign_ins()) {
                assert_eq!(one.address, two.address);
                assert_eq!(one.key.hash(), two.key.hash());
            }
            assert_eq!(
                after.sign_ins().last().unwrap().address.id,
                names(&before)[count as usize - 1]
            );
        }
    }

    fn bytes(data: &SessionData) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(&text(data)[2..]).unwrap()
    }

    fn form(bytes: &[u8]) -> String {
        format!("1.{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    #[test]
    fn the_form_is_the_documented_one() {
        let data = data(2);
        assert!(text(&data).starts_with("1."));
        let bytes = bytes(&data);
        assert_eq!(bytes.len(), 160);
        assert_eq!(bytes[80..112], [1; 32]);
        assert_eq!(bytes[112..128], [1; 16]);
        let mut key = Vec::new();
        data.sign_ins()[1].extend(&mut key);
        assert_eq!(bytes[128..], key[48..]);
    }

    #[test]
    fn whatever_this_version_did_not_write_is_signed_out() {
        let good = text(&data(2));
        let (head, tail) = good.split_at(good.len() - 1);
        let bytes = bytes(&data(2));
        let one = &bytes[..80];
        let fields = |name: &str| format!("1.{name}.{}.{name}", "A".repeat(22));
        let mut same_name = bytes.clone();
        same_name.copy_within(32..48, 112);

        let rows: Vec<(&str, Value)> = vec![
            ("null", Value::Null),
            ("true", json!(true)),
            ("number", json!(1)),
            ("float", json!(1.5)),
            ("empty list", json!([])),
            ("list", json!([good.clone()])),
            ("list of bytes", json!(bytes.clone())),
            ("empty object", json!({})),
            ("an object", json!({ "v": 1, "s": [good.clone()] })),
            ("a text in json in a text", json!(json!(good).to_string())),
            ("empty text", json!("")),
            ("another text", json!("axum-signout")),
            ("the version alone", json!("1")),
            ("the version and a dot", json!("1.")),
            ("dots", json!("......")),
            ("no version", json!(good[2..])),
            ("version 0", json!(format!("0.{}", &good[2..]))),
            ("version 2", json!(format!("2.{}", &good[2..]))),
            ("version 11", json!(format!("1{good}"))),
            ("version 01", json!(format!("0{good}"))),
            ("version with a space", json!(format!(" {good}"))),
            ("version empty", json!(good[1..])),
            ("a dot at the end", json!(format!("{good}."))),
            ("a line end", json!(format!("{good}\n"))),
            ("fields with dots between", json!(fields(&"A".repeat(43)))),
            ("one byte", json!(form(&[1]))),
            ("a byte too few", json!(form(&bytes[1..]))),
            ("a byte too many", json!(form(&[&bytes[..], &[0]].concat()))),
            ("a character too few", json!(head)),
            ("a character too many", json!(format!("{good}A"))),
            ("padded", json!(format!("{good}="))),
            ("in the other base64", json!(format!("{head}/"))),
            (
                "with stray bits",
                json!(format!("{}_", text(&data(1)).split_at(108).0)),
            ),
            ("with a space", json!(format!("{head} {tail}"))),
            ("not ASCII", json!(format!("{head}\u{e9}"))),
            ("huge", json!(format!("1.{}", "A".repeat(1_000_000)))),
            ("the same sign-in twice", json!(form(&one.repeat(2)))),
            ("the same name twice", json!(form(&same_name))),
            (
                "nine",
                json!(form(&[&bytes[..], &self::bytes(&data(8))[80..]].concat())),
            ),
            ("ten thousand", json!(form(&one.repeat(10_000)))),
        ];
        for (name, value) in rows {
            assert!(SessionData::decode(&value).is_none(), "{name}");
        }
        assert!(SessionData::decode(&json!(good)).is_some());
        assert!(SessionData::decode(&json!(form(one))).is_some());
    }

    #[test]
    fn no_single_changed_character_brings_a_panic() {
        let good = text(&data(2));
        for at in 0..good.len() {
            for with in ["", ".", "..", "0", "=", "\u{e9}", "-"] {
                let mut text = good.clone();
                text.replace_range(at..=at, with);
                if let Some(data) = SessionData::decode(&text.into()) {
                    assert!(!data.is_empty() && data.sign_ins().len() <= 2);
                }
            }
        }
    }

    #[test]
    fn the_oldest_leaves_when_there_are_too_many() {
        let mut full = data(8);
        let left = full.push(locator(8)).unwrap();
        assert_eq!(left.address.id, SignInId::from_bytes([0; 16]));
        assert_eq!(full.sign_ins().len(), SessionData::MAX_SIGN_INS);
        assert_eq!(
            full.sign_ins().last().unwrap().address.id,
            SignInId::from_bytes([8; 16])
        );
    }

    #[test]
    fn the_same_name_is_replaced_and_comes_last() {
        let mut full = data(8);
        let left = full.push(locator(3)).unwrap();
        assert_eq!(left.address.id, SignInId::from_bytes([3; 16]));
        assert_eq!(full.sign_ins().len(), 8);
        assert_eq!(
            full.sign_ins().last().unwrap().address.id,
            SignInId::from_bytes([3; 16])
        );
        assert!(full.remove(SignInId::from_bytes([3; 16])).is_some());
        assert!(full.remove(SignInId::from_bytes([3; 16])).is_none());
    }

    #[test]
    fn nothing_prints_a_key_a11() {
        let data = data(1);
        let key = URL_SAFE_NO_PAD.encode(&bytes(&data)[48..]);
        let printed = format!("{data:?}");
        assert!(printed.contains("SessionKey([redacted])") && !printed.contains(&key));
    }
}
