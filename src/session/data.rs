//! What the session's data holds: where the session's sign-ins are kept, and the keys that open them.

use serde_json::Value;

use crate::id::{AccountHash, Address, Locator, SessionKey, SignInId};

/// The sign-ins of one session, oldest first; the latest is the default.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionData {
    sign_ins: Vec<Locator>,
}

const VERSION: &str = "1";

impl SessionData {
    /// The key in the session's data.
    pub(crate) const KEY: &'static str = "axum-signout";

    /// Most sign-ins that one session holds; the oldest leaves when one more comes.
    pub(crate) const MAX_SIGN_INS: usize = 8;

    /// `1.account.sign-in.key`, the last three once for each sign-in, in base64url. One text and no tree of lists and
    /// objects: session stores clone or parse all of it for every request.
    ///
    /// `None` for what this version did not write.
    pub(crate) fn decode(value: &Value) -> Option<Self> {
        let mut fields = value.as_str()?.split('.');
        if fields.next() != Some(VERSION) {
            return None;
        }
        let mut data = Self::default();
        while let Some(account) = fields.next() {
            let address = Address {
                account: AccountHash::parse(account)?,
                id: SignInId::parse(fields.next()?)?,
            };
            let key = SessionKey::decode(fields.next()?)?;
            if data.position(address.id).is_some() || data.sign_ins.len() == Self::MAX_SIGN_INS {
                return None;
            }
            data.sign_ins.push(Locator { address, key });
        }
        (!data.is_empty()).then_some(data)
    }

    pub(crate) fn encode(&self) -> Value {
        let mut text = VERSION.to_owned();
        for Locator { address, key } in &self.sign_ins {
            for field in [
                address.account.to_string(),
                address.id.to_string(),
                key.encode(),
            ] {
                text.push('.');
                text.push_str(&field);
            }
        }
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

    #[test]
    fn the_form_is_the_documented_one() {
        let data = data(2);
        let text = text(&data);
        let fields: Vec<&str> = text.split('.').collect();
        assert_eq!(fields.len(), 7);
        assert_eq!(fields[0], "1");
        assert_eq!(fields[1], "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(fields[2], "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(fields[3], data.sign_ins()[0].key.encode());
        assert_eq!(fields[3].len(), 43);
        assert_eq!(fields[5], data.sign_ins()[1].address.id.to_string());
    }

    #[test]
    fn whatever_this_version_did_not_write_is_signed_out() {
        let good = text(&data(2));
        let changed = |at: usize, with: &str| {
            let mut fields: Vec<&str> = good.split('.').collect();
            fields[at] = with;
            json!(fields.join("."))
        };
        let fields: Vec<&str> = good.split('.').collect();
        let one = |sign_in: &[&str]| json!(format!("1.{}", sign_in.join(".")));
        let long = "A".repeat(1_000_000);
        let ninth = text(&SessionData {
            sign_ins: vec![locator(9)],
        });
        let mut old = json!({ "v": 1, "s": [] });
        let as_object = json!({ "a": fields[1], "i": fields[2], "k": fields[3] });
        old["s"].as_array_mut().unwrap().push(as_object);

        let rows: Vec<(&str, Value)> = vec![
            ("null", Value::Null),
            ("true", json!(true)),
            ("number", json!(1)),
            ("float", json!(1.5)),
            ("empty list", json!([])),
            ("list", json!([good.clone()])),
            ("list of fields", json!(fields.clone())),
            ("empty object", json!({})),
            ("an object, as once was planned", old.clone()),
            ("json in a text", json!(old.to_string())),
            ("a text in json in a text", json!(json!(good).to_string())),
            ("empty text", json!("")),
            ("another text", json!("axum-signout")),
            ("the version alone", json!("1")),
            ("the version and a dot", json!("1.")),
            ("dots", json!("......")),
            ("no version", json!(fields[1..].join("."))),
            ("version 0", changed(0, "0")),
            ("version 2", changed(0, "2")),
            ("version 11", changed(0, "11")),
            ("version 01", changed(0, "01")),
            ("version with a space", changed(0, " 1")),
            ("version empty", changed(0, "")),
            ("a dot at the end", json!(format!("{good}."))),
            ("a dot at the beginning", json!(format!(".{good}"))),
            ("a line end", json!(format!("{good}\n"))),
            ("no account", json!(one(&[fields[2], fields[3]]))),
            ("no name", json!(one(&[fields[1], fields[3]]))),
            ("no key", json!(one(&[fields[1], fields[2]]))),
            ("the account alone", json!(one(&[fields[1]]))),
            ("a field more", json!(format!("{good}.{}", fields[3]))),
            ("key empty", changed(6, "")),
            ("key too short", changed(6, fields[2])),
            ("key too long", changed(6, &"A".repeat(44))),
            ("key padded", changed(6, &format!("{}=", "A".repeat(43)))),
            ("key in the other base64", changed(6, &"/".repeat(43))),
            (
                "key with stray bits",
                changed(6, &format!("{}B", "A".repeat(42))),
            ),
            (
                "key with a space",
                changed(6, &format!(" {}", "A".repeat(43))),
            ),
            ("key not ASCII", changed(6, &"é".repeat(43))),
            ("key huge", changed(6, &long)),
            ("account empty", changed(4, "")),
            ("account too short", changed(4, "AAAA")),
            ("account too long", changed(4, &"A".repeat(86))),
            ("account huge", changed(4, &long)),
            ("name empty", changed(5, "")),
            ("name too long", changed(5, fields[1])),
            (
                "account and name swapped",
                one(&[fields[2], fields[1], fields[3]]),
            ),
            (
                "the same sign-in twice",
                json!(format!("{good}.{}", fields[1..4].join("."))),
            ),
            ("the same name twice", changed(5, fields[2])),
            ("nine", json!(format!("{}{}", text(&data(8)), &ninth[1..]))),
            (
                "ten thousand",
                json!(format!("1{}", ninth[1..].repeat(10_000))),
            ),
        ];
        for (name, value) in rows {
            assert!(SessionData::decode(&value).is_none(), "{name}");
        }
        assert!(SessionData::decode(&json!(good)).is_some());
        assert!(SessionData::decode(&one(&fields[1..4])).is_some());
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
        let key = data.sign_ins()[0].key.encode();
        assert!(!format!("{data:?}").contains(&key));
    }
}
