use std::sync::Arc;
use std::time::Duration;

use crate::cause::Cause;
use crate::id::{OperationId, TokenHash};
use crate::secret::Secret;
use crate::store::{Downstream, Generation, Target, TokenStore};
use crate::testing::store_contract::harness::*;
use crate::testing::store_contract::{Factory, locator};
use crate::token::AccessToken;

pub async fn derived_tokens_live_with_their_sign_in_r35_a7(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    for (name, value) in [("x", "one"), ("y", "two"), ("x", "three")] {
        let mut token = derived(name, "access ann");
        token.token = AccessToken::bearer(value);
        assert!(
            test.store()
                .put_downstream(&ann.address, token)
                .await
                .unwrap()
        );
    }
    assert_eq!(
        test.derived(&ann.address, "x").await.as_deref(),
        Some("three")
    );
    assert_eq!(test.derived(&ann.address, "z").await, None);
    assert_eq!(test.store().stats().await.unwrap().downstream, 2);
    let removal = removal(Cause::UserSignOut);
    let removed = test.remove(Target::SignIn(ann.address), &removal).await;
    assert_eq!(removed[0].downstream, 2);
    test.assert_gone(&ann, "signed out").await;
    assert_eq!(test.store().stats().await.unwrap().downstream, 0);

    let bob = test.sign_in(&someone(), "bob").await;
    let put = test
        .store()
        .put_downstream(&bob.address, derived("x", "access bob"));
    assert!(put.await.unwrap());
    test.advance(IDLE + MINUTE).await;
    assert_eq!(test.derived(&bob.address, "x").await, None);
    test.assert_nothing_stays().await;
}

/// R35.
pub async fn derived_tokens_go_when_their_subject_token_is_replaced(factory: &dyn Factory) {
    let test = any(factory).await;
    let mut entry = entry_of("ann", &[]);
    let mail = AccessToken::bearer("mail").with_scopes(["mail"]);
    entry.tokens = entry.tokens.with_access_token(mail.clone());
    let ann = test.sign_in_with(&someone(), entry).await;
    for (name, subject) in [("x", "access ann"), ("y", "mail")] {
        let put = test
            .store()
            .put_downstream(&ann.address, derived(name, subject));
        assert!(put.await.unwrap());
    }
    let mut entry = entry_of("two", &[]);
    entry.tokens = entry.tokens.with_access_token(mail);
    let replace = test.store().replace_if(
        &ann.address,
        Generation::FIRST,
        Arc::new(entry),
        OperationId::random(),
    );
    replace.await.unwrap();
    assert_eq!(test.derived(&ann.address, "x").await, None);
    assert_eq!(
        test.derived(&ann.address, "y").await.as_deref(),
        Some("derived y")
    );
    // The exchange had begun before the refresh.
    let put = test
        .store()
        .put_downstream(&ann.address, derived("x", "access ann"));
    assert!(!put.await.unwrap());
    assert_eq!(test.derived(&ann.address, "x").await, None);
}

pub async fn derived_tokens_of_unknown_subject_are_not_kept(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let put = test
        .store()
        .put_downstream(&ann.address, derived("x", "access bob"));
    assert!(!put.await.unwrap());
    let nobody = locator(&someone()).address;
    let put = test
        .store()
        .put_downstream(&nobody, derived("x", "access ann"));
    assert!(!put.await.unwrap());
    assert_eq!(test.store().stats().await.unwrap().downstream, 0);
}

pub async fn the_derived_token_that_ends_first_leaves_at_the_limit(factory: &dyn Factory) {
    let test = any(factory).await;
    let ann = test.sign_in(&someone(), "ann").await;
    let now = test.now().await;
    // The first has no known end and stays; of the others the 40th ends first.
    for n in 0..65u64 {
        let token = AccessToken::bearer("t");
        let token = match n {
            0 => token,
            40 => token.expires_at(now.plus(Duration::from_secs(1000))),
            _ => token.expires_at(now.plus(Duration::from_secs(2000 + n))),
        };
        let downstream = Downstream {
            name: derived_name(&n.to_string()),
            subject: TokenHash::of(&Secret::new("access ann")),
            token,
        };
        let put = test.store().put_downstream(&ann.address, downstream);
        assert!(put.await.unwrap());
    }
    assert_eq!(test.store().stats().await.unwrap().downstream, 64);
    for (name, there) in [("0", true), ("1", true), ("40", false), ("64", true)] {
        assert_eq!(
            test.derived(&ann.address, name).await.is_some(),
            there,
            "{name}"
        );
    }
}
