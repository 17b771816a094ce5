//! What the tests put into the store.

use std::sync::Arc;
use std::time::Duration;

use axum_signout::store::{
    Created, Downstream, Entry, Lifetimes, Registered, Removal, RevokeRule, Started, TokenStore,
};
use axum_signout::testing::store_contract::locator;
use axum_signout::{
    AccessToken, Account, AccountHash, Cause, DownstreamName, Locator, OperationId, Secret,
    Selector, TokenHash, TokenSet,
};

pub const MARK_FOR: Duration = Duration::from_secs(60);

pub fn removal(cause: Cause) -> Removal {
    Removal {
        operation: OperationId::random(),
        cause,
        revoke: RevokeRule::All,
        mark_for: MARK_FOR,
        logout_iat: None,
    }
}

pub fn selector() -> Selector {
    Selector::sid("https://login.example.com", "app", "session 1")
}

pub fn entry(name: &str) -> Entry {
    let access = AccessToken::bearer(format!("access {name}"));
    Entry {
        account: Account::new("https://login.example.com", name),
        client_id: "app".into(),
        tokens: TokenSet::new()
            .with_refresh_token(format!("refresh {name}"))
            .with_access_token(access),
        lifetimes: Lifetimes {
            idle: Duration::from_secs(3600),
            absolute: Duration::from_secs(36_000),
        },
        selectors: [selector()].into(),
        label: Some("phone".into()),
    }
}

pub fn derived(name: &str) -> Downstream {
    Downstream {
        name: DownstreamName::of(&[b"api"]),
        subject: TokenHash::of(&Secret::new(format!("access {name}"))),
        token: AccessToken::bearer("derived"),
    }
}

/// A sign-in of now, as the crate makes one.
pub async fn sign_in(store: &dyn TokenStore, account: &AccountHash, entry: Entry) -> Locator {
    let locator = locator(account);
    let started = Started {
        at: Some(store.now().await.unwrap()),
        id_token_iat: None,
    };
    for selector in &entry.selectors {
        let registered = store.register(selector, &locator.address, &started).await;
        assert_eq!(registered.unwrap(), Registered::Done);
    }
    let removal = removal(Cause::Capacity);
    let created = store
        .create(&locator, Arc::new(entry), &started, &removal)
        .await;
    assert!(matches!(created.unwrap(), Created::Done { .. }));
    locator
}

pub async fn is_live(store: &dyn TokenStore, locator: &Locator) -> bool {
    let mut found = store.load(std::slice::from_ref(locator)).await.unwrap();
    found.remove(0).live().is_some()
}
