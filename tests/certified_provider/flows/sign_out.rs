//! Signing out.

use std::sync::{Arc, Mutex};

use axum_signout::{Cause, RevocationPolicy};
use serde_json::json;

use crate::fixture::{World, parameter};
use crate::support::app::CLIENT;
use crate::support::certified::Fault;

#[tokio::test]
async fn signing_out_leaves_nothing_here_and_nothing_there_r2_r3_r6() {
    let world = World::new()
        .auth(|auth| auth.after_sign_out("/"))
        .start()
        .await;
    world.sign_in("ann").await;
    let token = world.text("/token").await;

    let end_session = world.sign_out().await;
    // R6: all of it is done here before the redirect leaves.
    assert_eq!(world.sign_ins().await, 0);
    let seen = world.eviction();
    assert_eq!(
        (seen.cause, seen.subject.as_str()),
        (Cause::UserSignOut, "ann")
    );
    assert_eq!(seen.count, 3, "refresh, ID and access token");
    let refresh_token = seen.refresh_token.expect("hooks see it");
    assert_eq!(world.whoami().await, "nobody");
    assert_eq!(world.get("/token").await.status, 401);
    assert_eq!(world.session_cookie(), None, "R41");
    assert_eq!(
        world.provider.sessions().await.len(),
        1,
        "the user has not been there yet"
    );

    let parts = end_session.as_str().split_once('?').expect("a query").0;
    assert_eq!(parts, world.provider.url("/session/end"), "R1");
    let hint = parameter(&end_session, "id_token_hint").expect("R2");
    let issued = world.provider.issued().await;
    assert!(
        issued
            .iter()
            .any(|one| one.kind == "IdToken" && one.value == hint)
    );
    let uri = parameter(&end_session, "post_logout_redirect_uri");
    assert_eq!(uri, Some(world.app.url("/signout/callback")), "R3");

    let back = world.browser.sign_out_at(end_session.as_str()).await;
    assert_eq!(
        parameter(&back, "state"),
        parameter(&end_session, "state"),
        "R7"
    );
    assert!(world.provider.sessions().await.is_empty());
    let home = world.browser.get(back.as_str()).await;
    assert_eq!(home.location().map(String::from), Some(world.app.url("/")));
    let again = world.browser.get(back.as_str()).await;
    assert_eq!(
        (again.status.as_u16(), again.location()),
        (200, None),
        "R7: once"
    );

    world.settle().await;
    assert!(!world.provider.is_active(&token).await);
    assert!(!world.provider.is_active(&refresh_token).await);
    assert_eq!(world.events("end_session.success").await, 1);

    let page = world.first_page("/signin").await;
    assert!(page.form().has("password"), "{}", page.body);
    assert_eq!(
        parameter(&world.request_of("/signin").await, "prompt"),
        None
    );
}

#[tokio::test]
async fn refresh_tokens_are_revoked_as_configured_r32() {
    use RevocationPolicy::{Always, Never, UnlessOffline};
    for (policy, offline, alive) in [
        (Always, false, false),
        (Always, true, false),
        (UnlessOffline, false, false),
        (UnlessOffline, true, true),
        (Never, false, true),
        (Never, true, true),
    ] {
        let name = format!("{policy:?}, offline: {offline}");
        let world = World::new().auth(move |auth| auth.revocation(policy));
        let world = if offline { world.offline() } else { world };
        let world = world.start().await;
        world.sign_in("ann").await;
        assert_eq!(world.active("RefreshToken").await, 1, "{name}");
        let end_session = world.sign_out().await;
        world.settle().await;
        // Before the user has been at the provider's logout, which may take tokens along by itself.
        assert_eq!(
            world.active("RefreshToken").await,
            usize::from(alive),
            "{name}"
        );
        assert_eq!(
            world.active("AccessToken").await,
            usize::from(alive),
            "{name}"
        );
        let asked = world.provider.requests_to("/token/revocation").await;
        assert_eq!(asked == 0, alive, "{name}");

        world.browser.sign_out_at(end_session.as_str()).await;
        // What outlives the session there is what was granted for that.
        let survives = alive && offline;
        assert_eq!(
            world.active("RefreshToken").await,
            usize::from(survives),
            "{name}"
        );
    }
}

#[tokio::test]
async fn the_app_chooses_where_it_ends_and_what_comes_back_r4() {
    let returned = Arc::new(Mutex::new(Vec::new()));
    let log = returned.clone();
    let world = World::new()
        .auth(move |auth| {
            auth.after_callback(move |returned| {
                log.lock().expect("no test panics there").push(returned);
                std::future::ready(())
            })
        })
        .start()
        .await;
    world.sign_in("ann").await;
    let request =
        json!({ "return_to": "/cart/show?bye=1", "state": "order 42", "logout_hint": "ann" });
    let page = world.post_json("/leave", &request).await;
    let end_session = page.location().expect("to the provider");
    assert_eq!(
        parameter(&end_session, "logout_hint").as_deref(),
        Some("ann")
    );
    assert_ne!(
        parameter(&end_session, "state").as_deref(),
        Some("order 42")
    );

    let back = world.browser.sign_out_at(end_session.as_str()).await;
    let page = world.browser.get(back.as_str()).await;
    assert_eq!(
        page.location().map(String::from),
        Some(world.app.url("/cart/show?bye=1"))
    );
    let returned = returned.lock().expect("no test panics there");
    assert_eq!(returned.len(), 1);
    assert_eq!(returned[0].state.as_deref(), Some("order 42"));
    assert_eq!(returned[0].target, "/cart/show?bye=1");
}

#[tokio::test]
async fn a_logout_that_the_user_declines_there_is_done_here_all_the_same_r8() {
    let world = World::new().start().await;
    world.sign_in("ann").await;
    let end_session = world.sign_out().await;
    let page = world.browser.get(end_session.as_str()).await;
    // The button that stays signed in sends the form without `logout=yes`.
    let back = world.browser.submit(&page.form()).await.location();
    let page = world
        .browser
        .get(back.expect("back to the app").as_str())
        .await;
    assert_eq!(page.status, 200, "the neutral page: {}", page.body);
    let sessions = world.provider.sessions().await;
    assert_eq!(sessions.len(), 1, "the session there goes on");
    assert!(!sessions[0].clients.contains_key(CLIENT));
    assert_eq!(world.whoami().await, "nobody");
    world.settle().await;
    assert_eq!(world.active("RefreshToken").await, 0);
}

#[tokio::test]
async fn after_a_sign_out_that_was_not_finished_the_password_is_asked_for_r8() {
    let world = World::new().start().await;
    world.sign_in("ann").await;
    world.sign_out().await;
    assert_eq!(
        world.provider.sessions().await.len(),
        1,
        "the tab was closed on the way"
    );

    for (path, prompt) in [
        ("/signin", "login"),
        ("/signin?prompt=", "login"),
        ("/signin?prompt=select_account", "select_account login"),
        ("/signin?prompt=login", "login"),
    ] {
        let request = world.request_of(path).await;
        assert_eq!(
            parameter(&request, "prompt").as_deref(),
            Some(prompt),
            "{path}"
        );
    }
    let before = world.provider.requests_to("/auth").await;
    let refused = world.get("/signin?prompt=none").await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("login_required"), "{}", refused.body);
    assert_eq!(world.provider.requests_to("/auth").await, before);

    let page = world.first_page("/signin").await;
    assert!(page.form().has("password"), "{}", page.body);
    world.sign_in("ann").await;
    assert_eq!(world.whoami().await, "ann");
    let request = world.request_of("/signin").await;
    assert_eq!(parameter(&request, "prompt"), None, "done with");
}

#[tokio::test]
async fn a_provider_that_is_away_keeps_nobody_from_signing_out_a4_r45() {
    let world = World::new()
        .auth(|auth| auth.after_sign_out("/"))
        .start()
        .await;
    world.sign_in("ann").await;
    world.provider.inject("*", Fault::Status(503), None).await;
    let location = world.sign_out().await;
    // Its metadata is known: the user goes there, and finds it away.
    assert!(
        location
            .as_str()
            .starts_with(&world.provider.url("/session/end"))
    );
    assert_eq!(world.sign_ins().await, 0);
    assert_eq!(world.whoami().await, "nobody");
    assert_eq!(world.eviction().cause, Cause::UserSignOut);
    assert_eq!(
        world.app.auth.stats().await.expect("in memory").outbox,
        1,
        "kept for later"
    );

    world.provider.heal().await;
    assert_eq!(world.active("RefreshToken").await, 1);
    world.advance(3600);
    world.settle().await;
    assert_eq!(world.active("RefreshToken").await, 0);
}

#[tokio::test]
async fn signing_out_twice_succeeds_twice_r6() {
    let world = World::new()
        .auth(|auth| auth.after_sign_out("/"))
        .start()
        .await;
    world.sign_in("ann").await;
    world.sign_out_everywhere().await;
    let location = world.sign_out().await;
    assert_eq!(location.as_str(), world.app.url("/"));
    assert_eq!(world.app.seen().len(), 1);
}

#[tokio::test]
async fn shutting_down_waits_for_a_revocation_under_way() {
    let world = World::new().start().await;
    world.sign_in("ann").await;
    world
        .provider
        .inject("/token/revocation", Fault::Hold, Some(1))
        .await;
    let before = world.provider.now().await;
    world.sign_out().await;
    world.provider.wait_for("request.held", before).await;
    let release = async {
        world.provider.release().await;
    };
    let (report, ()) = tokio::join!(world.app.auth.shutdown(), release);
    assert!(report.finished && report.outbox == Some(0), "{report:?}");
    assert_eq!(world.active("RefreshToken").await, 0);
}
