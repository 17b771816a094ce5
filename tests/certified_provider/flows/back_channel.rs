//! Signing out somewhere else: the provider calls the app over the wire.

use axum_signout::Cause;

use crate::fixture::{Running, World, json, parameter};
use crate::support::app::{Answer, CLIENT, send};
use crate::support::certified::{Certified, Event, Fault};
use crate::support::http::Page;

const OTHER: &str = "other-app";

/// Two apps in one browser, each a client of the provider with stores of its own. Ann is signed in to both, in one session
/// there, and has something in her session with each.
async fn two_apps() -> (Running, Running) {
    let first = World::new().back_channel(true);
    let first = first.auth(|auth| auth.after_sign_out("/")).start().await;
    let second = World::new().back_channel(true);
    let second = second.start_beside(&first, OTHER).await;
    for app in [&first, &second] {
        app.sign_in("ann").await;
        app.get("/cart/shoes").await;
        assert_eq!(app.text("/cart/show").await, "shoes");
    }
    let sessions = first.provider.sessions().await;
    assert_eq!((sessions.len(), sessions[0].clients.len()), (1, 2));
    (first, second)
}

/// The `sid` of the one session that ann has at the provider.
async fn sid(world: &Running) -> String {
    let sessions = world.provider.sessions().await;
    assert_eq!(sessions.len(), 1);
    sessions[0].clients[CLIENT].sid.clone().expect("a sid")
}

/// The calls until now: which client was answered how, and whom the token named.
async fn calls(provider: &Certified) -> Vec<(String, u16, Option<String>, Option<String>)> {
    let answered = provider.events_named("logout_token.answered").await;
    let call = |one: Event| {
        let client = one.client_id.expect("an audience");
        let status = one.status.expect("a status");
        (client, status, one.account_id, one.sid)
    };
    let mut calls: Vec<_> = answered.into_iter().map(call).collect();
    calls.sort();
    calls
}

/// What the app answers to a request with this cookie and no other.
async fn answer_for(world: &Running, path: &str, cookie: &str) -> Answer {
    send(&world.app.router, "GET", path, &[("cookie", cookie)], "").await
}

/// The next request with this session cookie is nobody's and its session empty, and the cookie goes with the answer.
async fn assert_ended(world: &Running, cookie: &str) {
    let next = answer_for(world, "/cart/show", cookie).await;
    assert_eq!((next.status.as_u16(), &*next.body), (200, ""));
    let set = next.set_cookies();
    assert!(
        set.iter().any(|one| one.contains("Max-Age=0")),
        "R41: {set:?}"
    );
    assert_eq!(answer_for(world, "/whoami", cookie).await.body, "nobody");
    assert_eq!(answer_for(world, "/token", cookie).await.status, 401);
}

/// The latest logout token that the provider sent.
async fn logout_token(provider: &Certified) -> String {
    let issued = provider.issued().await;
    let token = issued.into_iter().rfind(|one| one.kind == "LogoutToken");
    token.expect("one was sent").value
}

async fn deliver(world: &Running, token: &str) -> Page {
    let url = world.app.url("/signout/backchannel");
    world.browser.post(&url, &[("logout_token", token)]).await
}

#[tokio::test]
async fn signing_out_at_one_app_ends_the_sign_in_at_the_other_r23_r24() {
    let (first, second) = two_apps().await;
    let cookie = second.session_cookie().expect("signed in");
    let end_session = first.sign_out().await;
    assert_eq!(calls(&first.provider).await, []);
    assert_eq!(
        second.whoami().await,
        "ann",
        "the user has not been at the provider yet"
    );

    let back = first.browser.sign_out_at(end_session.as_str()).await;
    assert_eq!(second.sign_ins().await, 0, "before any request to it");
    assert_ended(&second, &cookie).await;
    let expected = [CLIENT, OTHER].map(|client| (client.to_owned(), 200));
    let calls = calls(&first.provider).await;
    let answered: Vec<_> = calls.iter().map(|one| (one.0.clone(), one.1)).collect();
    assert_eq!(answered, expected);
    let home = first.browser.get(back.as_str()).await.location();
    assert_eq!(home.map(String::from), Some(first.app.url("/")));

    for (app, cause) in [(&first, Cause::UserSignOut), (&second, Cause::BackChannel)] {
        app.settle().await;
        let seen = app.eviction();
        assert_eq!((seen.cause, seen.subject.as_str()), (cause, "ann"));
        // Nothing of what was before is in the way of a new sign-in.
        app.sign_in("ann").await;
        assert_eq!(app.whoami().await, "ann");
        assert_eq!(app.text("/cart/show").await, "");
    }
}

#[tokio::test]
async fn signing_out_at_the_provider_itself_ends_the_sign_ins_at_all_apps_r23_r24() {
    let (first, second) = two_apps().await;
    let apps = [&first, &second].map(|app| (app, app.session_cookie().expect("signed in")));
    let end_session = first.provider.url("/session/end");
    let back = first.browser.sign_out_at(&end_session).await;
    assert!(back.as_str().starts_with(first.provider.issuer()));
    assert!(first.provider.sessions().await.is_empty());
    let calls = calls(&first.provider).await;
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|one| one.1 == 200), "{calls:?}");
    for (app, cookie) in apps {
        assert_eq!(app.sign_ins().await, 0);
        assert_ended(app, &cookie).await;
        app.settle().await;
        let seen = app.eviction();
        assert_eq!((seen.cause, seen.count), (Cause::BackChannel, 3));
        assert_eq!(app.active("RefreshToken").await, 0);
        // It was no sign-out of this app's that the user left unfinished.
        let request = app.request_of("/signin").await;
        assert_eq!(parameter(&request, "prompt"), None);
    }
}

#[tokio::test]
async fn who_stays_signed_in_at_the_provider_stays_signed_in_at_the_other_app_r23() {
    let (first, second) = two_apps().await;
    let end_session = first.sign_out().await;
    let page = first.browser.get(end_session.as_str()).await;
    // The button that stays signed in sends the form without `logout=yes`.
    first.browser.submit(&page.form()).await;
    let calls = calls(&first.provider).await;
    assert_eq!((calls.len(), &*calls[0].0, calls[0].1), (1, CLIENT, 200));
    assert_eq!(second.whoami().await, "ann");
    assert_eq!(second.text("/cart/show").await, "shoes");
    assert_eq!(first.whoami().await, "nobody");
}

#[tokio::test]
async fn the_call_for_the_app_that_signs_out_is_answered_while_the_browser_is_there_r24() {
    let world = World::new()
        .back_channel(true)
        .auth(|auth| auth.after_sign_out("/"))
        .start()
        .await;
    world.sign_in("ann").await;
    let end_session = world.sign_out().await;
    assert_eq!(
        world.sign_ins().await,
        0,
        "R6: gone before the browser leaves"
    );

    let confirm = "/session/end/confirm";
    let provider = &world.provider;
    provider.inject(confirm, Fault::HoldResponse, Some(1)).await;
    let before = provider.now().await;
    let called = async {
        provider.wait_for("request.held", before).await;
        // The browser has no answer yet, and the provider has all of its own.
        let calls = calls(provider).await;
        assert_eq!(calls.len(), 1);
        assert_eq!((&*calls[0].0, calls[0].1), (CLIENT, 200));
        assert_eq!(world.events("backchannel.success").await, 1);
        assert_eq!(world.events("backchannel.error").await, 0);
        provider.release().await
    };
    let (back, released) = tokio::join!(world.browser.sign_out_at(end_session.as_str()), called);
    assert_eq!(released, 1);

    assert_eq!(parameter(&back, "state"), parameter(&end_session, "state"));
    let home = world.browser.get(back.as_str()).await;
    assert_eq!(home.location().map(String::from), Some(world.app.url("/")));
    world.settle().await;
    assert_eq!(
        world.eviction().cause,
        Cause::UserSignOut,
        "the call found nothing left to do"
    );
    let request = world.request_of("/signin").await;
    assert_eq!(parameter(&request, "prompt"), None, "R8: done with");
    world.sign_in("ann").await;
    assert_eq!(world.whoami().await, "ann");
}

#[tokio::test]
async fn a_sid_ends_one_browsers_sign_in_and_a_subject_alone_all_of_them_r23_a8() {
    // What the client registered, what the token names besides, and whether the other browser's sign-in ends as well.
    for (name, with_sid, sub, both_end) in [
        ("sub and sid", true, Some("ann"), false),
        ("sid only", true, None, false),
        ("sub only", false, Some("ann"), true),
    ] {
        let here = World::new().back_channel(with_sid).start().await;
        here.sign_in("ann").await;
        let sid = sid(&here).await;
        let (there, bob) = (here.in_another_browser(), here.in_another_browser());
        there.sign_in("ann").await;
        bob.sign_in("bob").await;

        let cookie = here.session_cookie().expect("signed in");
        here.get("/cart/shoes").await;
        let sent = here.provider.send_logout_token(CLIENT, sub, Some(&sid));
        let sent = sent.await;
        assert!(sent.ok, "{name}: {sent:?}");
        let sid = with_sid.then_some(sid);
        let named = (CLIENT.to_owned(), 200, sub.map(str::to_owned), sid);
        assert_eq!(calls(&here.provider).await, [named], "{name}");

        assert_ended(&here, &cookie).await;
        let left = if both_end { "nobody" } else { "ann" };
        assert_eq!(there.whoami().await, left, "{name}");
        assert_eq!(bob.whoami().await, "bob", "{name}");
        here.settle().await;
        let seen = here.app.seen();
        assert_eq!(seen.len(), 1 + usize::from(both_end), "{name}");
        assert!(seen.iter().all(|one| one.cause == Cause::BackChannel));
        // A8: who signs in again does not revive the other one.
        here.sign_in("ann").await;
        assert_eq!(here.whoami().await, "ann", "{name}");
        assert_eq!(there.whoami().await, left, "{name}");
    }
}

#[tokio::test]
async fn where_only_subjects_are_told_a_sign_out_in_one_browser_is_one_in_all_r23_a8() {
    let here = World::new().back_channel(false).start().await;
    here.sign_in("ann").await;
    let there = here.in_another_browser();
    there.sign_in("ann").await;
    let cookie = there.session_cookie().expect("signed in");
    there.get("/cart/shoes").await;

    here.sign_out_everywhere().await;
    let named = (CLIENT.to_owned(), 200, Some("ann".to_owned()), None);
    assert_eq!(calls(&here.provider).await, [named]);
    assert_ended(&there, &cookie).await;
    here.settle().await;
    let causes: Vec<_> = here.app.seen().iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::UserSignOut, Cause::BackChannel]);
    // The other browser's session at the provider goes on: no password is asked for.
    let page = there.first_page("/signin").await;
    assert!(!page.form().has("password"), "{}", page.body);
    there.sign_in("ann").await;
    assert_eq!(there.whoami().await, "ann");
}

#[tokio::test]
async fn two_sign_ins_in_one_session_at_the_provider_end_together_r23() {
    let world = World::new().back_channel(true).start().await;
    world.sign_in("ann").await;
    let first = world.session_cookie().expect("signed in");
    world.browser.forget(&world.app.base, CLIENT);
    assert_eq!(world.whoami().await, "nobody");
    world.sign_in("ann").await;
    let second = world.session_cookie().expect("signed in");
    assert_eq!(world.sign_ins().await, 2);

    let sid = sid(&world).await;
    for cookie in [&first, &second] {
        let me = answer_for(&world, "/me", cookie).await.body;
        assert!(me.contains(&sid), "{me}");
        answer_for(&world, "/cart/shoes", cookie).await;
    }
    let end_session = world.provider.url("/session/end");
    world.browser.sign_out_at(&end_session).await;
    assert_eq!(calls(&world.provider).await.len(), 1, "one call for both");
    for cookie in [&first, &second] {
        assert_ended(&world, cookie).await;
    }
    world.settle().await;
    let causes: Vec<_> = world.app.seen().iter().map(|seen| seen.cause).collect();
    assert_eq!(causes, [Cause::BackChannel, Cause::BackChannel]);
}

#[tokio::test]
async fn a_token_whose_subject_and_session_disagree_is_refused_and_changes_nothing_r23_r24() {
    let world = World::new().back_channel(true).start().await;
    world.sign_in("ann").await;
    let sid = sid(&world).await;
    let sent = world
        .provider
        .send_logout_token(CLIENT, Some("bob"), Some(&sid));
    let sent = sent.await;
    assert_eq!((sent.ok, sent.status), (false, Some(400)));
    assert_eq!(world.whoami().await, "ann");
    // What nobody has is a success.
    let nobody = world
        .provider
        .send_logout_token(CLIENT, Some("eve"), Some("unknown"));
    assert!(nobody.await.ok);
    assert_eq!(world.whoami().await, "ann");
    world.settle().await;
    assert_eq!(world.app.seen(), []);
}

#[tokio::test]
async fn keys_that_were_rotated_before_the_call_are_fetched_once_r26() {
    for keep_old in [true, false] {
        let here = World::new().back_channel(true).start().await;
        here.sign_in("ann").await;
        let there = here.in_another_browser();
        there.sign_in("ann").await;
        assert_eq!(here.provider.requests_to("/jwks").await, 1);
        here.provider.rotate_keys(keep_old).await;
        // The pause between two fetches is over.
        here.advance(60);

        for (browser, left) in [(&here, 1), (&there, 0)] {
            let end_session = here.provider.url("/session/end");
            browser.browser.sign_out_at(&end_session).await;
            assert_eq!(here.sign_ins().await, left);
            assert_eq!(browser.whoami().await, "nobody");
            assert_eq!(here.provider.requests_to("/jwks").await, 2);
        }
        let calls = calls(&here.provider).await;
        let statuses: Vec<_> = calls.iter().map(|one| one.1).collect();
        assert_eq!(statuses, [200, 200]);
        here.settle().await;
    }
}

#[tokio::test]
async fn what_is_offline_outlives_the_call_and_the_rest_is_revoked_r25() {
    for (name, offline, ended_there, alive, revocations) in [
        ("online, told", false, false, 0, true),
        ("online, ended there", false, true, 0, true),
        ("offline, told", true, false, 1, false),
        ("offline, ended there", true, true, 1, false),
    ] {
        let world = World::new().back_channel(true);
        let world = if offline { world.offline() } else { world };
        let world = world.start().await;
        world.sign_in("ann").await;
        assert_eq!(world.active("RefreshToken").await, 1, "{name}");
        if ended_there {
            let end_session = world.provider.url("/session/end");
            world.browser.sign_out_at(&end_session).await;
        } else {
            // The provider keeps everything: what dies is revoked by the app.
            let sid = sid(&world).await;
            let sent = world
                .provider
                .send_logout_token(CLIENT, Some("ann"), Some(&sid));
            assert!(sent.await.ok, "{name}");
        }
        assert_eq!(world.sign_ins().await, 0, "{name}");
        world.settle().await;
        assert_eq!(world.active("RefreshToken").await, alive, "{name}");
        let asked = world.provider.requests_to("/token/revocation").await;
        assert_eq!(asked > 0, revocations, "{name}: {asked}");
        let seen = world.eviction();
        let token = seen.refresh_token.expect("hooks see it");
        assert_eq!(world.provider.is_active(&token).await, alive == 1, "{name}");
    }
}

#[tokio::test]
async fn a_logout_token_that_comes_again_is_refused_and_ends_nothing_new_r22() {
    let world = World::new().back_channel(false).start().await;
    world.sign_in("ann").await;
    let end_session = world.provider.url("/session/end");
    world.browser.sign_out_at(&end_session).await;
    assert_eq!(world.whoami().await, "nobody");
    let token = logout_token(&world.provider).await;
    world.sign_in("ann").await;

    // It names the subject, so it would end the new sign-in too.
    for _ in 0..2 {
        let answer = deliver(&world, &token).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(json(&answer)["error_description"], "replayed");
        assert_eq!(world.whoami().await, "ann");
    }
    let sent = world.provider.send_logout_token(CLIENT, Some("ann"), None);
    assert!(sent.await.ok, "a new one is another matter");
    assert_eq!(world.whoami().await, "nobody");
}
