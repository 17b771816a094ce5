//! An operator, without a request of the user's.

use axum_signout::testing::{TestProvider, TestUser};
use axum_signout::{Account, Cause, ErrorKind, SignInId};
use serde_json::json;

use crate::people::{browser, labelled, own_id, pressed, setup, who};
use crate::support::faulty::{Fail, FaultyStore};

#[tokio::test]
async fn an_operator_sees_and_ends_a_users_sign_ins_r43() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut laptop = browser(&app, "laptop", "alice").await;
    let mut phone = browser(&app, "phone", "alice").await;
    let mut bob = browser(&app, "bob's", "bob").await;
    let alice = Account::new(provider.issuer(), "alice");

    let all = app.auth.sign_ins_of(&alice).await.unwrap();
    let labels: Vec<_> = all.iter().map(|one| one.label.as_deref()).collect();
    assert_eq!(labels, [Some("phone"), Some("laptop")]);
    assert!(all.iter().all(|one| !one.current));

    let bobs = app
        .auth
        .sign_ins_of(&Account::new(provider.issuer(), "bob"))
        .await
        .unwrap();
    let report = app.auth.end_sign_in(&alice, bobs[0].id).await.unwrap();
    assert!(report.evicted.is_empty(), "not hers");

    let report = app.auth.end_sign_in(&alice, all[0].id).await.unwrap();
    assert_eq!(report.evicted[0].sign_in, all[0].id);
    assert_eq!(who(&app, &mut phone).await, "nobody");
    assert_eq!(who(&app, &mut laptop).await, "alice");
    let report = app.auth.end_sign_in(&alice, all[0].id).await.unwrap();
    assert!(report.evicted.is_empty(), "once");

    let report = app.auth.end_sign_ins_of(&alice).await.unwrap();
    assert_eq!((report.evicted.len(), report.pending), (1, 0));
    assert_eq!(who(&app, &mut laptop).await, "nobody");
    assert_eq!(who(&app, &mut bob).await, "bob");
    assert!(app.auth.sign_ins_of(&alice).await.unwrap().is_empty());
    let report = app.auth.end_sign_ins_of(&alice).await.unwrap();
    assert!(report.evicted.is_empty());
    let seen = app.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.cause == Cause::Operator && seen.subject == "alice")
    );
    assert_eq!(seen.len(), 2);
}

/// Not even for the moment in which the store cannot say whose it is.
#[tokio::test]
async fn the_id_of_another_accounts_sign_in_ends_nothing_while_the_store_is_away_r43_a3_a5() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let for_auth = store.clone();
    let app = setup()
        .auth(move |auth| labelled(auth).store(for_auth))
        .start(&provider)
        .await;
    let mut ann = browser(&app, "ann's", "alice").await;
    let id = SignInId::parse(&own_id(&app, &ann).await).unwrap();
    store.faults.set(&["remove"], Fail::Unavailable);
    let bob = Account::new(provider.issuer(), "bob");
    assert_eq!(app.auth.end_sign_in(&bob, id).await.unwrap().pending, 1);
    assert_eq!(who(&app, &mut ann).await, "alice");
    let alice = Account::new(provider.issuer(), "alice");
    assert_eq!(app.auth.end_sign_in(&alice, id).await.unwrap().pending, 1);
    assert_eq!(who(&app, &mut ann).await, "nobody");
}

/// Who asks again and again takes no room from others, and what came in between is ended too.
#[tokio::test]
async fn an_order_that_is_repeated_while_the_store_is_away_is_pending_once_a5() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let (for_auth, inner) = (store.clone(), store.inner.clone());
    let app = setup()
        .auth(move |auth| labelled(auth).store(for_auth))
        .start(&provider)
        .await;
    let before = browser(&app, "before", "alice").await;
    let alice = Account::new(provider.issuer(), "alice");
    // Done, but this node does not know.
    store.faults.set(&["remove"], Fail::Unknown);
    assert_eq!(app.auth.end_sign_ins_of(&alice).await.unwrap().pending, 1);
    store.faults.set(&["remove"], Fail::Unavailable);
    let other = crate::support::app::Setup::new().auth(move |auth| auth.store(inner));
    let other = other.start(&provider).await;
    let mut later = browser(&other, "later", "alice").await;
    for _ in 0..20 {
        let report = app.auth.end_sign_ins_of(&alice).await.unwrap();
        assert_eq!((report.pending, report.not_retried), (1, 0));
    }
    assert_eq!(who(&app, &mut before.clone()).await, "nobody");
    assert_eq!(who(&other, &mut later).await, "alice");
    store.faults.clear();
    assert_eq!(app.auth.shutdown().await.pending, 0);
    assert_eq!(who(&other, &mut later).await, "nobody");
    assert_eq!(app.seen().len(), 2);
}

#[tokio::test]
async fn orders_that_mean_the_same_are_one_in_the_report_of_the_shutdown_a5() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let for_auth = store.clone();
    let app = setup()
        .auth(move |auth| labelled(auth).store(for_auth))
        .start(&provider)
        .await;
    let mut here = browser(&app, "here", "alice").await;
    browser(&app, "there", "alice").await;
    store.faults.set(&["remove"], Fail::Unavailable);
    for _ in 0..5 {
        let report = pressed(&app, &mut here, "/sign-ins/end-others").await;
        assert_eq!(report["pending"], 1);
    }
    assert_eq!(app.auth.shutdown().await.pending, 1);
}

/// A14: what nobody can have is refused, and does not seem to have ended.
#[tokio::test]
async fn an_account_that_nobody_can_have_is_refused_r43_a14() {
    let provider = TestProvider::start().await;
    let app = setup()
        .auth(|auth| labelled(auth).account_identity(["tid", "oid"]))
        .start(&provider)
        .await;
    provider.add_user(TestUser::new("entra").claim("tid", "t1").claim("oid", "o1"));
    let mut entra = browser(&app, "entra's", "entra").await;
    let mut alice = browser(&app, "alice's", "alice").await;
    let id = SignInId::from_bytes([1; 16]);
    let slash = format!("{}/", provider.issuer());
    for (name, account) in [
        ("another issuer", Account::new(slash, "entra")),
        ("no claims", Account::new(provider.issuer(), "entra")),
    ] {
        let kinds = [
            app.auth.sign_ins_of(&account).await.unwrap_err().kind(),
            app.auth.end_sign_in(&account, id).await.unwrap_err().kind(),
            app.auth.end_sign_ins_of(&account).await.unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::InvalidRequest; 3], "{name}");
    }
    let by_claims = |tid: &str, oid: &str| {
        Account::new(provider.issuer(), "whoever").with_claims(&json!({ "tid": tid, "oid": oid }))
    };
    for other in [
        by_claims("t2", "o1"),
        by_claims("t1", "o2"),
        by_claims("o1", "t1"),
    ] {
        assert!(
            app.auth
                .end_sign_ins_of(&other)
                .await
                .unwrap()
                .evicted
                .is_empty()
        );
    }
    assert_eq!(who(&app, &mut entra).await, "entra");
    let report = app
        .auth
        .end_sign_ins_of(&by_claims("t1", "o1"))
        .await
        .unwrap();
    assert_eq!(report.evicted.len(), 1);
    assert_eq!(who(&app, &mut entra).await, "nobody");
    // Her ID token has none of the claims, so she is her subject.
    assert_eq!(who(&app, &mut alice).await, "alice");
    let alices = Account::new(provider.issuer(), "alice").with_claims(&json!({}));
    let report = app.auth.end_sign_ins_of(&alices).await.unwrap();
    assert_eq!(report.evicted.len(), 1);
}
