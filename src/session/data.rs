//! What the session's data holds: where the session's sign-ins are kept, and the keys that open them.

use serde::Deserialize;
use serde_json::Value;

use crate::id::{AccountHash, Address, Locator, SessionKey, SignInId};

/// The sign-ins of one session, oldest first; the latest is the default.
#[derive(Clone, Debug, Default)]
pub(crate) struct SessionData {
    sign_ins: Vec<Locator>,
}

/// `{"v":1,"s":[{"a":account,"i":sign-in,"k":key}]}`. Unknown fields are refused: only this module writes it, so
/// they are another version's or somebody else's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored<'v> {
    v: u8,
    #[serde(borrow)]
    s: Vec<StoredSignIn<'v>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredSignIn<'v> {
    a: AccountHash,
    i: SignInId,
    k: &'v str,
}

const VERSION: u8 = 1;

impl SessionData {
    /// The key in the session's data.
    pub(crate) const KEY: &'static str = "axum-signout";

    /// Most sign-ins that one session holds; the oldest leaves when one more comes.
    pub(crate) const MAX_SIGN_INS: usize = 8;

    /// `None` for what this version did not write, which counts as signed out.
    pub(crate) fn decode(value: &Value) -> Option<Self> {
        // serde takes a list for a struct, too.
        let sign_ins = value.as_object()?.get("s")?.as_array()?;
        if !sign_ins.iter().all(Value::is_object) {
            return None;
        }
        let stored = Stored::deserialize(value).ok()?;
        if stored.v != VERSION || stored.s.is_empty() || stored.s.len() > Self::MAX_SIGN_INS {
            return None;
        }
        let mut data = Self::default();
        for StoredSignIn { a, i, k } in stored.s {
            let address = Address { account: a, id: i };
            let key = SessionKey::decode(k)?;
            if data.position(i).is_some() {
                return None;
            }
            data.sign_ins.push(Locator { address, key });
        }
        Some(data)
    }

    pub(crate) fn encode(&self) -> Value {
        let sign_ins: Vec<Value> = self
            .sign_ins
            .iter()
            .map(|Locator { address, key }| {
                serde_json::json!({
                    "a": address.account.to_string(),
                    "i": address.id.to_string(),
                    "k": key.encode(),
                })
            })
            .collect();
        serde_json::json!({ "v": VERSION, "s": sign_ins })
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

    #[test]
    fn it_survives_its_json_form_in_order() {
        for count in 1..=8 {
            let before = data(count);
            let text = before.encode().to_string();
            let after = SessionData::decode(&serde_json::from_str(&text).unwrap()).unwrap();
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
        let value = data(1).encode();
        assert_eq!(value["v"], 1);
        assert_eq!(
            value["s"][0]["a"],
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        );
        assert_eq!(value["s"][0]["i"], "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(value["s"][0]["k"].as_str().unwrap().len(), 43);
        assert_eq!(value.as_object().unwrap().len(), 2);
        assert_eq!(value["s"][0].as_object().unwrap().len(), 3);
    }

    #[test]
    fn whatever_this_version_did_not_write_is_signed_out() {
        let good = data(2).encode();
        let changed = |change: &dyn Fn(&mut Value)| {
            let mut value = good.clone();
            change(&mut value);
            value
        };
        let mut nine = data(8).encode();
        let ninth = SessionData {
            sign_ins: vec![locator(9)],
        }
        .encode()["s"][0]
            .clone();
        nine["s"].as_array_mut().unwrap().push(ninth);

        let rows: Vec<(&str, Value)> = vec![
            ("null", Value::Null),
            ("true", json!(true)),
            ("number", json!(1)),
            ("float", json!(1.5)),
            ("text", json!("axum-signout")),
            ("json in a text", json!(good.to_string())),
            ("empty text", json!("")),
            ("empty list", json!([])),
            ("list", json!([good.clone()])),
            // serde takes a sequence for a struct.
            ("fields as a list", json!([1, good["s"].clone()])),
            ("empty object", json!({})),
            (
                "no version",
                changed(&|v| drop(v.as_object_mut().unwrap().remove("v"))),
            ),
            ("version 0", changed(&|v| v["v"] = json!(0))),
            ("version 2", changed(&|v| v["v"] = json!(2))),
            ("version 257", changed(&|v| v["v"] = json!(257))),
            ("version -1", changed(&|v| v["v"] = json!(-1))),
            ("version 1.0", changed(&|v| v["v"] = json!(1.0))),
            ("version as text", changed(&|v| v["v"] = json!("1"))),
            ("version null", changed(&|v| v["v"] = Value::Null)),
            (
                "no sign-ins",
                changed(&|v| drop(v.as_object_mut().unwrap().remove("s"))),
            ),
            ("zero sign-ins", changed(&|v| v["s"] = json!([]))),
            ("sign-ins null", changed(&|v| v["s"] = Value::Null)),
            (
                "sign-ins as an object",
                changed(&|v| v["s"] = json!({"0": v["s"][0]})),
            ),
            ("sign-ins as text", changed(&|v| v["s"] = json!("x"))),
            ("a sign-in is null", changed(&|v| v["s"][1] = Value::Null)),
            ("a sign-in is a text", changed(&|v| v["s"][1] = json!("x"))),
            (
                "a sign-in is a list",
                changed(&|v| {
                    v["s"][1] = json!([v["s"][1]["a"], v["s"][1]["i"], v["s"][1]["k"]]);
                }),
            ),
            (
                "no account",
                changed(&|v| drop(v["s"][1].as_object_mut().unwrap().remove("a"))),
            ),
            (
                "no name",
                changed(&|v| drop(v["s"][1].as_object_mut().unwrap().remove("i"))),
            ),
            (
                "no key",
                changed(&|v| drop(v["s"][1].as_object_mut().unwrap().remove("k"))),
            ),
            ("account null", changed(&|v| v["s"][1]["a"] = Value::Null)),
            ("key null", changed(&|v| v["s"][1]["k"] = Value::Null)),
            ("key a number", changed(&|v| v["s"][1]["k"] = json!(7))),
            ("key empty", changed(&|v| v["s"][1]["k"] = json!(""))),
            (
                "key too short",
                changed(&|v| v["s"][1]["k"] = v["s"][1]["i"].clone()),
            ),
            (
                "key too long",
                changed(&|v| v["s"][1]["k"] = json!("A".repeat(44))),
            ),
            (
                "key padded",
                changed(&|v| v["s"][1]["k"] = json!(format!("{}=", "A".repeat(43)))),
            ),
            (
                "key in the other base64",
                changed(&|v| v["s"][1]["k"] = json!("/".repeat(43))),
            ),
            (
                "key with stray bits",
                changed(&|v| {
                    v["s"][1]["k"] = json!(format!("{}B", "A".repeat(42)));
                }),
            ),
            (
                "key with a space",
                changed(&|v| v["s"][1]["k"] = json!(format!(" {}", "A".repeat(43)))),
            ),
            (
                "key not ASCII",
                changed(&|v| v["s"][1]["k"] = json!("é".repeat(43))),
            ),
            (
                "key huge",
                changed(&|v| v["s"][1]["k"] = json!("A".repeat(1_000_000))),
            ),
            (
                "account too short",
                changed(&|v| v["s"][1]["a"] = json!("AAAA")),
            ),
            (
                "account too long",
                changed(&|v| v["s"][1]["a"] = json!("A".repeat(86))),
            ),
            (
                "name too long",
                changed(&|v| v["s"][1]["i"] = v["s"][1]["a"].clone()),
            ),
            (
                "account and name swapped",
                changed(&|v| {
                    let sign_in = v["s"][1].clone();
                    v["s"][1]["a"] = sign_in["i"].clone();
                    v["s"][1]["i"] = sign_in["a"].clone();
                }),
            ),
            (
                "the same sign-in twice",
                changed(&|v| v["s"][1] = v["s"][0].clone()),
            ),
            (
                "the same name twice",
                changed(&|v| v["s"][1]["i"] = v["s"][0]["i"].clone()),
            ),
            ("nine", nine),
            (
                "ten thousand",
                changed(&|v| v["s"] = json!(vec![v["s"][0].clone(); 10_000])),
            ),
            ("an unknown field", changed(&|v| v["x"] = json!(1))),
            (
                "an unknown field of a sign-in",
                changed(&|v| v["s"][0]["x"] = json!(1)),
            ),
            (
                "another case",
                changed(&|v| v["s"][0] = json!({"A": "", "I": "", "K": ""})),
            ),
        ];
        for (name, value) in rows {
            assert!(SessionData::decode(&value).is_none(), "{name}");
        }
        assert!(SessionData::decode(&good).is_some());
    }

    #[test]
    fn no_single_changed_character_brings_a_panic() {
        let good = data(2).encode().to_string();
        for at in 0..good.len() {
            for with in ["", "\"", "{", "[", "0", "=", "\u{e9}", "-"] {
                let mut text = good.clone();
                text.replace_range(at..=at, with);
                if let Ok(value) = serde_json::from_str::<Value>(&text)
                    && let Some(data) = SessionData::decode(&value)
                {
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
