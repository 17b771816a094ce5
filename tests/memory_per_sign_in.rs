//! What a sign-in takes besides its tokens, by an allocator that counts.

#[path = "support/counting.rs"]
mod counting;

use std::sync::Arc;
use std::time::Duration;

use axum_signout::store::{
    Created, Entry, Lifetimes, MemoryTokenStore, Registered, Removal, RevokeRule, Started,
    TokenStore,
};
use axum_signout::testing::store_contract::{account, locator};
use axum_signout::{AccessToken, Account, Cause, IdToken, OperationId, Selector, TokenSet};
use counting::used;

/// Who is signed in, and the tokens: what the limit does not count.
fn content(number: u64) -> (Account, TokenSet) {
    let text = |size: usize| format!("{number:0size$}");
    let tokens = TokenSet::new()
        .with_refresh_token(text(64))
        .with_id_token(IdToken::new(text(800)))
        .with_access_token(AccessToken::bearer(text(64)).with_scopes(["openid", "profile"]));
    let issuer: Arc<str> = "https://login.example.com".into();
    (Account::new(issuer, text(16)).with_sid(text(16)), tokens)
}

async fn bytes_for_each(count: u64) -> usize {
    let client_id: Arc<str> = "app".into();
    let removal = || Removal {
        operation: OperationId::random(),
        cause: Cause::Capacity,
        revoke: RevokeRule::Nothing,
        mark_for: Duration::from_secs(900),
        logout_iat: None,
    };
    let contents: Vec<(Account, TokenSet)> = (0..count).map(content).collect();
    let before = used();
    let store = MemoryTokenStore::builder()
        .max_sign_ins(count as usize)
        .build()
        .expect("the limit is in range");
    for (number, (account_of, tokens)) in contents.iter().enumerate() {
        let locator = locator(&account(number as u64));
        let selector = Selector::sid("https://login.example.com", "app", &number.to_string());
        let started = Started {
            at: Some(store.now().await.unwrap()),
            id_token_iat: None,
        };
        let registered = store.register(&selector, &locator.address, &started).await;
        assert_eq!(registered.unwrap(), Registered::Done);
        // Copied with the structure, so that only pointers to the tokens are counted: the structure is the tokens' own.
        let entry = Entry {
            account: account_of.clone(),
            client_id: client_id.clone(),
            tokens: tokens.clone(),
            lifetimes: Lifetimes {
                idle: Duration::from_secs(7200),
                absolute: Duration::from_secs(72 * 3600),
            },
            selectors: [selector].into(),
            label: None,
        };
        let removal = removal();
        let created = store.create(&locator, Arc::new(entry), &started, &removal);
        assert!(matches!(created.await.unwrap(), Created::Done { .. }));
    }
    let with_copies = used() - before;
    // The list of access tokens and their scopes exist twice, here and in the store.
    let begin = used();
    let copies: Vec<TokenSet> = contents.iter().map(|(_, tokens)| tokens.clone()).collect();
    let of_copies = used() - begin - copies.capacity() * size_of::<TokenSet>();
    (with_copies - of_copies) / count as usize
}

#[tokio::test]
async fn a_sign_in_takes_at_most_512_bytes_besides_its_tokens() {
    // Both ends of how full tables are that double: just grown, and just before it.
    for count in [100_000, 190_000] {
        let bytes = bytes_for_each(count).await;
        println!("{bytes} bytes for each of {count} sign-ins");
        assert!(bytes <= 512, "{bytes} bytes for each of {count} sign-ins");
    }
}
