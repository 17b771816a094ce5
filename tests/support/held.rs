//! What this crate keeps in a session's data.

use axum_signout::{AccountHash, Address, SignInId};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// One sign-in of a session.
pub struct Held {
    pub address: Address,
    pub key: Vec<u8>,
}

/// The sign-ins of a session, oldest first, of the value of `axum-signout` in its data.
///
/// # Panics
///
/// When it is not of the form that the crate writes.
pub fn held(value: &str) -> Vec<Held> {
    let text = value.strip_prefix("1.").expect("the version");
    let bytes = URL_SAFE_NO_PAD.decode(text).expect("base64url");
    let (all, rest) = bytes.as_chunks::<80>();
    assert!(rest.is_empty() && !all.is_empty(), "account, name and key");
    let of = |one: &[u8; 80]| Held {
        address: Address {
            account: AccountHash::from_bytes(one[..32].try_into().unwrap()),
            id: SignInId::from_bytes(one[32..48].try_into().unwrap()),
        },
        key: one[48..].to_vec(),
    };
    all.iter().map(of).collect()
}
