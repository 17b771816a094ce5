//! What users see of their sign-ins.

use std::time::Duration;

use axum::Router;
use axum::routing::post;
use axum_signout::clock::Clock as _;
use axum_signout::testing::{TestBrowser, TestProvider};
use axum_signout::{Account, Auth, Error, TokenSet};
use serde_json::json;
use tower_sessions::Session;

use crate::people::{browser, labels, list, routes, setup, world};
use crate::support::app::{Setup, send};
use crate::support::faulty::{Fail, FaultyStore};

#[tokio::test]
async fn users_see_when_and_where_they_signed_in_r43() {
    let world = world().await;
    let app = &world.app;
    let start = world.clock.wall().as_secs();
    let laptop = browser(app, "laptop", "alice").await;
    world.advance(Duration::from_secs(600));
    let phone = browser(app, "phone", "alice").await;
    world.advance(Duration::from_secs(300));
    // Use, which is noted for the next to see.
    app.get(&mut laptop.clone(), "/whoami").await;

    let all = list(app, &phone).await;
    let ids: Vec<&str> = all.iter().map(|one| one["id"].as_str().unwrap()).collect();
    let idle = 2 * 60 * 60;
    let expected = json!([
        {
            "id": ids[0], "label": "phone", "current": true,
            "created": start + 600, "last_used": start + 900, "expires": start + 900 + idle,
        },
        {
            "id": ids[1], "label": "laptop", "current": false,
            "created": start, "last_used": start + 900, "expires": start + 900 + idle,
        },
    ]);
    assert_eq!(json!(all), expected, "and nothing else, such as a key");
    assert_ne!(ids[0], ids[1]);
    let all = list(app, &laptop).await;
    assert_eq!(
        (&all[1]["id"], &all[1]["current"]),
        (&json!(ids[1]), &json!(true))
    );
    assert_eq!(all[0]["current"], false);
}

#[tokio::test]
async fn nobody_sees_the_sign_ins_of_somebody_else_r43_a3() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let alice = browser(&app, "alice's", "alice").await;
    let bob = browser(&app, "bob's", "bob").await;
    assert_eq!(labels(&app, &alice).await, ["alice's"]);
    assert_eq!(labels(&app, &bob).await, ["bob's"]);
    let page = app.get(&mut bob.clone(), "/sign-ins/of/alice").await;
    assert_eq!(page.body(), "[]", "she is not signed in to this session");
    let page = app.get(&mut TestBrowser::new(), "/sign-ins").await;
    assert_eq!(page.status(), 401);
}

#[tokio::test]
async fn of_two_accounts_in_a_session_the_latest_is_meant_or_the_one_that_is_named_r43() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut shared = browser(&app, "shared", "alice").await;
    browser(&app, "alice's", "alice").await;
    app.sign_in(&mut shared, "bob").await;
    assert_eq!(labels(&app, &shared).await, ["shared"], "bob's only");
    let page = app.get(&mut shared, "/sign-ins/of/alice").await;
    let all = page.json().unwrap();
    assert_eq!(
        (&all[0]["label"], &all[0]["current"]),
        (&json!("alice's"), &json!(false))
    );
    assert_eq!(
        (&all[1]["label"], &all[1]["current"]),
        (&json!("shared"), &json!(true))
    );
}

#[tokio::test]
async fn an_app_with_a_sign_in_of_its_own_gives_a_label_too_r43() {
    async fn own(auth: Auth, session: Session) -> Result<(), Error> {
        let account = Account::new(auth.providers()[0].issuer(), "alice");
        auth.sign_in(&session, None, account, TokenSet::new())
            .label("\u{202e}Firefox\r\n on Linux")
            .await?;
        Ok(())
    }
    let provider = TestProvider::start().await;
    let app = Setup::new()
        .routes(routes().merge(Router::new().route("/own", post(own))))
        .start(&provider)
        .await;
    let answer = send(&app.router, "POST", "/own", &[], "").await;
    let cookie = answer.set_cookies()[0].split(';').next().unwrap();
    let headers = [("cookie", cookie)];
    let answer = send(&app.router, "GET", "/sign-ins", &headers, "").await;
    assert!(
        answer.body.contains(r#""label":"Firefox on Linux""#),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_label_that_cannot_be_made_keeps_nobody_from_signing_in_r43() {
    for panics in [false, true] {
        let provider = TestProvider::start().await;
        let label = move |_: &axum::http::request::Parts| -> Option<String> {
            assert!(!panics, "a closure of a test");
            None
        };
        let app = Setup::new()
            .routes(routes())
            .auth(move |auth| auth.sign_in_label(label))
            .start(&provider)
            .await;
        let alice = browser(&app, "a", "alice").await;
        assert_eq!(list(&app, &alice).await[0]["label"], json!(null));
    }
}

#[tokio::test]
async fn eviction_hooks_know_the_label_r43() {
    let provider = TestProvider::start().await;
    let (send_label, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let app = setup()
        .auth(move |auth| {
            crate::people::labelled(auth).on_evict(move |eviction| {
                send_label
                    .send(eviction.label().map(str::to_owned))
                    .unwrap();
                std::future::ready(())
            })
        })
        .start(&provider)
        .await;
    let alice = browser(&app, "laptop", "alice").await;
    app.sign_out(&alice, &[]).await;
    assert_eq!(seen.recv().await.unwrap().as_deref(), Some("laptop"));
}

#[tokio::test]
async fn what_the_store_has_yet_to_evict_is_not_listed_r43_a5() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let for_auth = store.clone();
    let app = setup()
        .auth(move |auth| crate::people::labelled(auth).store(for_auth))
        .start(&provider)
        .await;
    let mut here = browser(&app, "here", "alice").await;
    browser(&app, "there", "alice").await;
    store.faults.set(&["remove"], Fail::Unavailable);
    let report = crate::people::pressed(&app, &mut here, "/sign-ins/end-others").await;
    assert_eq!(report["pending"], 1);
    assert_eq!(labels(&app, &here).await, ["here"]);
    store.faults.set(&["list"], Fail::Unavailable);
    assert_eq!(app.get(&mut here, "/sign-ins").await.status(), 503);
}
