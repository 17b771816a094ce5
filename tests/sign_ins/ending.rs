//! Users who end their sign-ins: one, the others, all.

use std::sync::Arc;
use std::time::Duration;

use axum_signout::clock::ManualClock;
use axum_signout::testing::{Event, Gate, TestBrowser, TestProvider};
use axum_signout::{Account, Cause, SignInId, SignIns, Tokens};
use serde_json::json;
use tower::ServiceExt as _;

use crate::people::{
    browser, evicted, id_of, labelled, labels, own_id, press, pressed, setup, who,
};
use crate::support::app::{App, Setup, send};
use crate::support::faulty::{ALL, Fail, FaultyStore};
use crate::world::settle;

fn causes(app: &App) -> Vec<Cause> {
    app.seen().iter().map(|seen| seen.cause).collect()
}

/// Its next request is anonymous, its data gone, and its cookie taken back.
async fn assert_signed_out(app: &App, browser: &mut TestBrowser) {
    let copy = browser.clone();
    assert_eq!(who(app, browser).await, "nobody");
    assert_eq!(browser.cookie("127.0.0.1", "id"), None);
    assert_eq!(app.get(&mut copy.clone(), "/cart/show").await.body(), "");
}

#[tokio::test]
async fn a_user_ends_the_sign_in_of_a_phone_that_was_lost_r43() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut here = browser(&app, "here", "alice").await;
    let mut phone = browser(&app, "phone", "alice").await;
    let mut tablet = browser(&app, "tablet", "alice").await;
    press(&app, &mut phone, "/cart/apples").await;
    let id = id_of(&app, &here, "phone").await;
    let path = format!("/sign-ins/end/{id}");
    let report = pressed(&app, &mut here, &path).await;
    assert_eq!(report["evicted"][0]["sign_in"], json!(id));
    assert_eq!(report["evicted"][0]["cause"], "SignOutOthers");
    assert_eq!(report["evicted"][0]["subject"], "alice");
    assert_eq!(report["revocation"], json!({ "Queued": 1 }));
    assert_eq!(report["hooks"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&report["pending"], &report["session"]),
        (&json!(0), &json!("AtNextRequest"))
    );
    assert_eq!(
        causes(&app),
        [Cause::SignOutOthers],
        "told before the answer"
    );
    assert_signed_out(&app, &mut phone).await;
    assert_eq!(who(&app, &mut tablet).await, "alice");
    assert_eq!(labels(&app, &here).await, ["tablet", "here"]);

    // A second time it is there no more, which is no failure.
    let report = pressed(&app, &mut here, &path).await;
    assert_eq!((evicted(&report), &report["pending"]), (0, &json!(0)));
    assert_eq!(causes(&app).len(), 1);
}

#[tokio::test]
async fn the_id_of_somebody_elses_sign_in_ends_nothing_r43_a3_a14() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut alice = browser(&app, "alice's", "alice").await;
    let mut bob = browser(&app, "bob's", "bob").await;
    let bobs = own_id(&app, &bob).await;
    let before = app.auth.stats().await.unwrap();
    let made_up = axum_signout::SignInId::from_bytes([7; 16]).to_string();
    let mut answers = Vec::new();
    for id in [&bobs, &made_up] {
        let mut report = pressed(&app, &mut alice, &format!("/sign-ins/end/{id}")).await;
        assert_eq!(evicted(&report), 0);
        report["correlation_id"].take();
        answers.push(report);
    }
    assert_eq!(answers[0], answers[1], "whose it is, is not told");
    assert_eq!(
        app.auth.stats().await.unwrap(),
        before,
        "names that were made up fill nothing"
    );
    assert_eq!(who(&app, &mut bob).await, "bob");
    assert_eq!(who(&app, &mut alice).await, "alice");
    assert!(app.seen().is_empty());
    for id in ["short", &"A".repeat(5000), "..%2f"] {
        let page = press(&app, &mut alice, &format!("/sign-ins/end/{id}")).await;
        assert!(
            page.status() == 400 || page.status() == 404,
            "{id}: {page:?}"
        );
    }
    // In one session, too: each account is its own.
    app.sign_in(&mut bob, "alice").await;
    let report = pressed(&app, &mut bob, &format!("/sign-ins/end/{bobs}")).await;
    assert_eq!(evicted(&report), 0);
    let me = app.get(&mut bob, "/me").await.json().unwrap();
    assert_eq!(me["accounts"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn who_ends_their_own_sign_in_is_signed_out_here_r43_r41() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut here = browser(&app, "here", "alice").await;
    let mut there = browser(&app, "there", "alice").await;
    let id = own_id(&app, &here).await;
    let page = press(&app, &mut here, &format!("/sign-ins/end/{id}")).await;
    assert_eq!(page.json().unwrap()["session"], "Ended");
    assert_eq!(page.header("clear-site-data"), Some("\"storage\""));
    assert_eq!(here.cookie("127.0.0.1", "id"), None);
    assert_eq!(causes(&app), [Cause::UserSignOut]);
    assert_eq!(who(&app, &mut there).await, "alice");
}

#[tokio::test]
async fn ending_the_others_leaves_this_one_and_other_people_r43() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut one = browser(&app, "one", "alice").await;
    let mut here = browser(&app, "here", "alice").await;
    let mut two = browser(&app, "two", "alice").await;
    let mut bob = browser(&app, "bob's", "bob").await;
    press(&app, &mut here, "/cart/apples").await;
    let report = pressed(&app, &mut here, "/sign-ins/end-others").await;
    assert_eq!(evicted(&report), 2);
    assert_eq!(causes(&app), [Cause::SignOutOthers; 2]);
    assert_signed_out(&app, &mut one).await;
    assert_signed_out(&app, &mut two).await;
    assert_eq!(who(&app, &mut bob).await, "bob");
    assert_eq!(labels(&app, &here).await, ["here"]);
    assert_eq!(app.get(&mut here, "/cart/show").await.body(), "apples");
    assert_eq!(app.get(&mut here, "/token").await.status(), 200);
    let report = pressed(&app, &mut here, "/sign-ins/end-others").await;
    assert_eq!(evicted(&report), 0);
}

#[tokio::test]
async fn signing_out_everywhere_ends_all_sessions_and_keeps_the_other_account_of_this_one_r43_r37()
{
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let mut shared = browser(&app, "shared", "bob").await;
    app.sign_in(&mut shared, "alice").await;
    press(&app, &mut shared, "/cart/apples").await;
    let mut phone = browser(&app, "phone", "alice").await;
    let mut bobs = browser(&app, "bob's", "bob").await;
    let old = shared.clone();
    let report = pressed(&app, &mut shared, "/sign-ins/end-all").await;
    assert_eq!(
        (evicted(&report), &report["session"]),
        (2, &json!("Renewed"))
    );
    assert_eq!(report["provider"], "NotAsked");
    assert_eq!(report["cause"], "SignOutEverywhere");
    assert_eq!(causes(&app), [Cause::SignOutEverywhere; 2]);
    assert_signed_out(&app, &mut phone).await;
    assert_eq!(who(&app, &mut bobs).await, "bob");
    // Bob stays, in a new session and with nothing that was there before.
    assert_eq!(who(&app, &mut shared).await, "bob");
    assert_eq!(app.get(&mut shared, "/cart/show").await.body(), "");
    assert_ne!(
        shared.cookie("127.0.0.1", "id"),
        old.cookie("127.0.0.1", "id")
    );
    assert_eq!(who(&app, &mut old.clone()).await, "nobody");
    assert_eq!(app.auth.stats().await.unwrap().sign_ins, 2);
}

#[tokio::test]
async fn the_sign_out_form_signs_out_everywhere_and_at_the_provider_r43() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let here = browser(&app, "here", "alice").await;
    let mut phone = browser(&app, "phone", "alice").await;
    let cookie = crate::support::app::cookies(&here);
    let headers = [
        ("cookie", &*cookie),
        ("content-type", "application/x-www-form-urlencoded"),
    ];
    for bad in [
        "everywhere=perhaps",
        "everywhere=true&everywhere=true",
        "everywhere=TRUE",
    ] {
        let answer = send(&app.router, "POST", "/signout", &headers, bad).await;
        assert_eq!(answer.status, 400, "{bad}");
    }
    assert_eq!(
        app.auth.stats().await.unwrap().sign_ins,
        2,
        "nothing has changed"
    );
    let body = "everywhere=true";
    let answer = send(&app.router, "POST", "/signout", &headers, body).await;
    assert_eq!(answer.status, 303);
    assert_eq!(answer.location().path(), "/end_session");
    assert!(answer.param("id_token_hint").is_some());
    assert_eq!(app.auth.stats().await.unwrap().sign_ins, 0);
    assert_eq!(causes(&app), [Cause::SignOutEverywhere; 2]);
    assert_signed_out(&app, &mut phone).await;

    for (body, left) in [
        ("everywhere=false", 1),
        ("everywhere=", 1),
        ("everywhere=on", 0),
    ] {
        let here = browser(&app, "here", "alice").await;
        let cookie = crate::support::app::cookies(&here);
        let headers = [("cookie", &*cookie), headers[1]];
        browser(&app, "phone", "alice").await;
        send(&app.router, "POST", "/signout", &headers, body).await;
        assert_eq!(app.auth.stats().await.unwrap().sign_ins, left, "{body}");
        let (_, report) = app
            .leave(
                &browser(&app, "x", "alice").await,
                json!({ "everywhere": true }),
            )
            .await;
        assert_eq!(report.evicted.len(), left + 1);
    }
}

#[tokio::test]
async fn each_account_that_is_named_and_no_other_is_signed_out_everywhere_r4_r43() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    for (wanted, stays) in [
        (json!({ "everywhere": true }), &[][..]),
        (
            json!({ "everywhere": true, "account": "alice" }),
            &["bob"][..],
        ),
    ] {
        let mut shared = browser(&app, "shared", "alice").await;
        app.sign_in(&mut shared, "bob").await;
        let mut elsewhere = browser(&app, "elsewhere", "alice").await;
        app.sign_in(&mut elsewhere, "bob").await;
        let mut wanted = wanted;
        wanted["account_issuer"] = json!(provider.issuer());
        app.leave(&shared, wanted).await;
        let me = app.get(&mut elsewhere, "/me").await;
        let left: Vec<String> = match me.status().as_u16() {
            401 => Vec::new(),
            _ => {
                let me = me.json().unwrap();
                let all = me["accounts"].as_array().unwrap().iter();
                all.map(|one| one["subject"].as_str().unwrap().to_owned())
                    .collect()
            }
        };
        assert_eq!(left, stays);
    }
}

/// Promise 2: what hooks do is waited for, and holds nothing up.
#[tokio::test]
async fn other_sessions_have_ended_before_a_hook_is_done_r43() {
    let provider = TestProvider::start().await;
    let gate = Gate::new();
    let of_hook = gate.clone();
    let app = setup()
        .auth(move |auth| {
            labelled(auth).on_evict(move |_| {
                let gate = of_hook.clone();
                async move { gate.pass().await }
            })
        })
        .start(&provider)
        .await;
    let mut here = browser(&app, "here", "alice").await;
    let mut phone = browser(&app, "phone", "alice").await;
    let cookie = crate::support::app::cookies(&here);
    let router = app.router.clone();
    let waiting = tokio::spawn(async move {
        let headers = [("cookie", &*cookie)];
        send(&router, "POST", "/sign-ins/end-others", &headers, "").await
    });
    gate.arrived(1).await;
    assert_signed_out(&app, &mut phone).await;
    assert_eq!(who(&app, &mut here).await, "alice");
    assert!(
        !waiting.is_finished(),
        "its report says how the hooks ended"
    );
    gate.open();
    let answer = waiting.await.unwrap();
    assert!(
        answer.body.contains(r#""status":"Done""#),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_it_r43() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let for_auth = store.clone();
    let app = setup()
        .auth(move |auth| labelled(auth).store(for_auth))
        .start(&provider)
        .await;
    let here = browser(&app, "here", "alice").await;
    let mut phone = browser(&app, "phone", "alice").await;
    let gate = Gate::new();
    store.faults.set(&["remove"], Fail::Hold(gate.clone()));
    let (router, cookie) = (app.router.clone(), crate::support::app::cookies(&here));
    let waiting = tokio::spawn(async move {
        let headers = [("cookie", &*cookie)];
        send(&router, "POST", "/sign-ins/end-others", &headers, "").await
    });
    gate.arrived(1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    gate.open();
    app.auth.shutdown().await;
    assert_eq!(causes(&app), [Cause::SignOutOthers]);
    assert_signed_out(&app, &mut phone).await;
}

#[tokio::test]
async fn a_token_store_that_is_away_is_caught_up_with_r43_a5() {
    let provider = TestProvider::start().await;
    let store = FaultyStore::new();
    let for_auth = store.clone();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let app = setup()
        .auth(move |auth| {
            labelled(auth).store(for_auth).on_evict(move |eviction| {
                tell.send(eviction.cause()).unwrap();
                std::future::ready(())
            })
        })
        .start(&provider)
        .await;
    let mut here = browser(&app, "here", "alice").await;
    let mut phone = browser(&app, "phone", "alice").await;
    let id = id_of(&app, &here, "phone").await;
    store.faults.set(&["get", "remove"], Fail::Unavailable);
    let page = press(&app, &mut here, &format!("/sign-ins/end/{id}")).await;
    assert_eq!(page.status(), 503, "whose it is cannot be told");
    assert_eq!(who(&app, &mut phone).await, "alice");

    store.faults.set(ALL, Fail::Unavailable);
    let (_, report) = app.leave(&here, json!({ "everywhere": true })).await;
    assert_eq!((report.evicted.len(), report.pending), (0, 1));
    // It can be read again, but not written.
    store.faults.clear();
    store.faults.set(&["remove"], Fail::Unavailable);
    let phone_was = phone.clone();
    assert_eq!(
        who(&app, &mut phone).await,
        "nobody",
        "this node serves them no more"
    );
    store.faults.clear();
    for _ in 0..2 {
        let cause = tokio::time::timeout(Duration::from_secs(20), told.recv()).await;
        assert_eq!(cause.unwrap(), Some(Cause::SignOutEverywhere));
    }
    assert_eq!(app.auth.stats().await.unwrap().sign_ins, 0);
    assert_eq!(who(&app, &mut phone_was.clone()).await, "nobody");
}

/// An app with a handler that gives its `SignIns` away.
async fn holding(
    setup: Setup,
    provider: &TestProvider,
) -> (App, tokio::sync::mpsc::UnboundedReceiver<SignIns>) {
    let (send_handle, handles) = tokio::sync::mpsc::unbounded_channel();
    let hold = move |sign_ins: SignIns| {
        send_handle.send(sign_ins).unwrap();
        std::future::ready(())
    };
    let routes = crate::people::routes().route("/hold-sign-ins", axum::routing::get(hold));
    (setup.routes(routes).start(provider).await, handles)
}

#[tokio::test]
async fn a_handler_that_outlives_its_sign_in_has_no_say_any_more_r43() {
    let provider = TestProvider::start().await;
    let (app, mut handles) = holding(setup(), &provider).await;
    let mut thief = browser(&app, "thief", "alice").await;
    let mut here = browser(&app, "here", "alice").await;
    app.get(&mut thief, "/hold-sign-ins").await;
    let handle = handles.recv().await.unwrap();
    let id = handle.list().await.unwrap()[0].id;
    pressed(&app, &mut here, "/sign-ins/end-others").await;
    let refused = axum_signout::ErrorKind::NotSignedIn;
    assert_eq!(handle.list().await.unwrap_err().kind(), refused);
    assert_eq!(handle.end(id).await.unwrap_err().kind(), refused);
    assert_eq!(handle.end_others().await.unwrap_err().kind(), refused);
    let report = handle.end_all().await;
    assert_eq!((report.evicted.len(), report.pending), (0, 0));
    assert_eq!(who(&app, &mut here).await, "alice");
}

/// Whoever was thrown out must not come back by a request that was under way: a form whose end is sent when the thief likes.
#[tokio::test]
async fn who_was_thrown_out_signs_nobody_out_everywhere_r43() {
    let provider = TestProvider::start().await;
    let app = setup().start(&provider).await;
    let thief = browser(&app, "thief", "alice").await;
    let mut here = browser(&app, "here", "alice").await;
    let stalled = Gate::new();
    let end_of_body = stalled.clone();
    let body = async move {
        end_of_body.pass().await;
        Ok::<_, std::io::Error>("everywhere=true")
    };
    let body = axum::body::Body::from_stream(futures_util::stream::once(body));
    let request = axum::http::Request::post("/signout")
        .header("cookie", crate::support::app::cookies(&thief))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body)
        .unwrap();
    let running = tokio::spawn(app.router.clone().oneshot(request));
    stalled.arrived(1).await;
    pressed(&app, &mut here, "/sign-ins/end-others").await;
    stalled.open();
    assert!(running.await.unwrap().unwrap().status().is_redirection());
    assert_eq!(who(&app, &mut here).await, "alice");
    assert_eq!(causes(&app), [Cause::SignOutOthers]);
}

/// But a second click of the user's own counts, although the first has ended this session already.
#[tokio::test]
async fn a_session_that_its_user_has_just_ended_still_signs_out_everywhere_r43() {
    let provider = TestProvider::start().await;
    let (app, mut handles) = holding(setup(), &provider).await;
    let mut here = browser(&app, "here", "alice").await;
    let mut there = browser(&app, "there", "alice").await;
    app.get(&mut here, "/hold-sign-ins").await;
    let handle = handles.recv().await.unwrap();
    app.leave(&here, json!({ "local_only": true })).await;
    assert_eq!(who(&app, &mut there).await, "alice");
    assert_eq!(handle.end_all().await.evicted.len(), 1);
    assert_eq!(who(&app, &mut there).await, "nobody");
}

#[tokio::test]
async fn who_was_thrown_out_on_another_node_has_no_say_on_this_one_either_r43() {
    let provider = TestProvider::start().await;
    let clock = Arc::new(ManualClock::new());
    let store = FaultyStore::with_clock(clock.clone()).shared();
    let (of_auth, store_of_auth) = (clock.clone(), store.clone());
    let setup = setup().auth(move |auth| labelled(auth).clock(of_auth).store(store_of_auth));
    let (app, mut handles) = holding(setup, &provider).await;
    let mut thief = browser(&app, "thief", "alice").await;
    let mut here = browser(&app, "here", "alice").await;
    app.get(&mut thief, "/hold-sign-ins").await;
    let handle = handles.recv().await.unwrap();
    // As another node does it: this one hears nothing.
    let account = Account::new(provider.issuer(), "alice");
    let other = Setup::new().auth(move |auth| auth.store(store));
    let other = other.start_with(provider.issuer(), |_| {}).await;
    let thiefs = SignInId::parse(&id_of(&app, &here, "thief").await).unwrap();
    let report = other.auth.end_sign_in(&account, thiefs).await.unwrap();
    assert_eq!(report.evicted.len(), 1);
    clock.advance(Duration::from_secs(2));
    let refused = axum_signout::ErrorKind::NotSignedIn;
    assert_eq!(handle.end_others().await.unwrap_err().kind(), refused);
    assert_eq!(handle.list().await.unwrap_err().kind(), refused);
    assert_eq!(handle.end(thiefs).await.unwrap_err().kind(), refused);
    assert!(handle.end_all().await.evicted.is_empty());
    assert_eq!(who(&app, &mut here).await, "alice");
}

/// R31 and promise 1, from another browser.
#[tokio::test]
async fn a_request_elsewhere_that_holds_tokens_gets_none_afterwards_r43() {
    let world = crate::people::world().await;
    let mut here = browser(&world.app, "here", "alice").await;
    let phone = browser(&world.app, "phone", "alice").await;
    let tokens: Tokens = world.tokens(&phone).await;
    assert!(tokens.acquire(()).await.is_ok());
    pressed(&world.app, &mut here, "/sign-ins/end-all").await;
    let refused = tokens.acquire(()).await.unwrap_err();
    assert_eq!(refused.kind(), axum_signout::ErrorKind::NotSignedIn);
    assert_eq!(tokens.ended().await, Cause::SignOutEverywhere);
    settle().await;
    world.finish().await;
    for secret in world.provider.secrets() {
        assert!(!world.provider.is_active(&secret));
    }
    let revoked = world
        .provider
        .count(|event| matches!(event, Event::Revoked { .. }));
    assert_eq!(revoked, 4);
}
