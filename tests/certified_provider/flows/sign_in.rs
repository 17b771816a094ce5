//! Signing in.

use axum_signout::{ClientAuth, RevocationPolicy};
use serde_json::json;

use crate::fixture::{World, json, parameter};
use crate::support::app::CLIENT;
use crate::support::certified::Options;
use crate::support::http::Browser;

#[tokio::test]
async fn signing_in_gives_a_session_here_and_there_and_tokens_that_work_r36_r39() {
    let world = World::new().start().await;
    assert_eq!(world.get("/me").await.status, 401);
    assert_eq!(world.get("/token").await.status, 401);
    let request = world.request_of("/signin").await;
    for (name, expected) in [
        ("code_challenge_method", "S256"),
        ("response_type", "code"),
        ("scope", "openid profile Mail.Read"),
        ("redirect_uri", &world.app.url("/signin/callback")),
    ] {
        assert_eq!(
            parameter(&request, name).as_deref(),
            Some(expected),
            "{name}"
        );
    }

    let back = world
        .answer_to("ann", "/signin?return_to=/cart/show?x=1")
        .await;
    let page = world.browser.get(back.as_str()).await;
    assert!(
        page.body.contains("url=/cart/show?x=1\""),
        "R39: {}",
        page.body
    );

    let me = json(&world.get("/me").await);
    let session = &world.provider.sessions().await[0];
    let account = &me["accounts"][0];
    assert_eq!(account["issuer"], world.provider.issuer());
    assert_eq!(account["subject"], "ann");
    assert_eq!(account["name"], "Ann");
    assert_eq!(
        account["sid"].as_str(),
        session.clients[CLIENT].sid.as_deref()
    );
    assert_eq!(world.sign_ins().await, 1);

    let token = world.text("/token").await;
    let facts = world.provider.introspect(&token).await;
    assert_eq!(facts["active"], true);
    assert_eq!(facts["sub"], "ann");
    assert_eq!(world.text("/token?scope=Mail.Read").await, token);
    assert_eq!(world.refreshes().await, 0, "it came from the cache");

    let again = world.browser.get(back.as_str()).await;
    assert_eq!(again.status, 400, "R36: an answer is good once");
    assert_eq!(world.whoami().await, "ann");
}

#[tokio::test]
async fn clients_of_each_kind_sign_in_refresh_and_revoke() {
    for (method, auth, scheme) in [
        ("client_secret_basic", ClientAuth::SecretBasic, "basic"),
        ("client_secret_post", ClientAuth::SecretPost, ""),
        ("none", ClientAuth::None, ""),
    ] {
        let world = World::new()
            .client(move |client| client.auth_method(method))
            .provider(move |provider| provider.client_auth(auth))
            .options(Options::new().lifetime("AccessToken", 300))
            .start()
            .await;
        world.sign_in("ann").await;
        let first = world.text("/token").await;
        world.advance(290);
        let second = world.text("/token").await;
        assert_ne!(second, first, "{method}");
        assert!(world.provider.is_active(&second).await, "{method}");
        world.sign_out().await;
        world.settle().await;
        assert_eq!(world.active("RefreshToken").await, 0, "{method}");
        assert!(!world.provider.is_active(&second).await, "{method}");

        let requests = world.provider.events_named("request").await;
        let authenticated = requests
            .iter()
            .filter(|one| {
                one.path
                    .as_deref()
                    .is_some_and(|path| path.starts_with("/token"))
            })
            .filter(|one| one.path.as_deref() != Some("/token/introspection"));
        let schemes: Vec<_> = authenticated
            .map(|one| one.authorization.as_deref())
            .collect();
        assert!(schemes.len() >= 3, "{method}: {schemes:?}");
        assert!(
            schemes.iter().all(|one| *one == Some(scheme)),
            "{method}: {schemes:?}"
        );
    }
}

#[tokio::test]
async fn offline_access_is_granted_whatever_else_the_sign_in_asks_for() {
    for (path, prompt) in [
        ("/signin", "consent"),
        ("/signin?prompt=login", "login consent"),
        ("/signin?prompt=consent", "consent"),
    ] {
        let world = World::new().offline().start().await;
        let request = world.request_of(path).await;
        assert_eq!(
            parameter(&request, "prompt").as_deref(),
            Some(prompt),
            "{path}"
        );
        world.sign_in_by("ann", path).await;
        let session = &world.provider.sessions().await[0];
        assert!(session.clients[CLIENT].persists_logout, "{path}");
    }
}

#[tokio::test]
async fn without_a_session_there_prompt_none_ends_on_a_page_that_names_the_code_r38() {
    let world = World::new().offline().start().await;
    let callback = world.app.url("/signin/callback");
    let page = world.get("/signin?prompt=none").await;
    let back = world.browser.follow(page, &callback).await.location();
    let back = back.expect("the provider answers at once");
    assert_eq!(parameter(&back, "error").as_deref(), Some("login_required"));

    let page = world.browser.get(back.as_str()).await;
    assert_eq!(page.status, 400);
    assert!(
        page.body.contains("<code>login_required</code>"),
        "{}",
        page.body
    );
    let description = parameter(&back, "error_description").expect("there is one");
    assert!(!page.body.contains(&description), "{}", page.body);
    assert_eq!(world.sign_ins().await, 0);
    assert_eq!(world.whoami().await, "nobody");
    assert_eq!(world.provider.requests_to("/token").await, 0);
}

#[tokio::test]
async fn with_a_session_there_prompt_none_signs_in_without_a_page() {
    // Revoking would take the user's consent along.
    let world = World::new()
        .auth(|auth| auth.revocation(RevocationPolicy::Never))
        .start()
        .await;
    world.sign_in("ann").await;
    // Another browser session here, the same one there.
    let page = world.browser.post(&world.app.url("/flush"), &[]).await;
    assert_eq!(page.body, "flushed");
    assert_eq!(world.whoami().await, "nobody");
    let page = world.first_page("/signin?prompt=none").await;
    let back = page.location().expect("no page was shown");
    let page = world.browser.get(back.as_str()).await;
    assert_eq!(page.status, 200, "{}", page.body);
    assert_eq!(world.whoami().await, "ann");
}

#[tokio::test]
async fn an_answer_of_another_issuer_or_of_none_is_refused_r36() {
    let world = World::new().start().await;
    for issuer in [None, Some("https://evil.example.com")] {
        let mut back = world.answer_to("ann", "/signin").await;
        assert_eq!(
            parameter(&back, "iss").as_deref(),
            Some(world.provider.issuer())
        );
        let others: Vec<(String, String)> = back
            .query_pairs()
            .filter(|(name, _)| name != "iss")
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        back.query_pairs_mut()
            .clear()
            .extend_pairs(others)
            .extend_pairs(issuer.map(|issuer| ("iss", issuer)));
        let page = world.browser.get(back.as_str()).await;
        assert_eq!(page.status, 400, "{issuer:?}");
        assert!(
            page.body.contains("issuer_mismatch"),
            "{issuer:?}: {}",
            page.body
        );
    }
    assert_eq!(
        world.provider.requests_to("/token").await,
        0,
        "the code went nowhere"
    );
    assert_eq!(world.sign_ins().await, 0);
}

#[tokio::test]
async fn an_answer_in_another_browser_than_the_one_that_asked_is_refused_r36() {
    let world = World::new().start().await;
    let back = world.answer_to("ann", "/signin").await;
    let page = Browser::new().get(back.as_str()).await;
    assert_eq!(page.status, 400);
    assert!(
        page.body.contains("unknown_or_expired_sign_in"),
        "{}",
        page.body
    );
    assert_eq!(world.provider.requests_to("/token").await, 0);
}

#[tokio::test]
async fn keys_that_changed_since_are_fetched_again_r26() {
    let world = World::new().start().await;
    world.sign_in("ann").await;
    world.provider.rotate_keys(false).await;
    world.advance(60);
    world.sign_in("ann").await;
    assert_eq!(world.whoami().await, "ann");
    assert_eq!(world.provider.requests_to("/jwks").await, 2);
}

#[tokio::test]
async fn two_accounts_share_a_session_and_leave_it_one_by_one() {
    // A browser has one session there, so ann's ends when bob signs in; what is offline lives on.
    let world = World::new().offline().start().await;
    world.sign_in("ann").await;
    world.sign_in_by("bob", "/signin?prompt=login").await;
    let me = json(&world.get("/me").await);
    let subjects = [&me["accounts"][0]["subject"], &me["accounts"][1]["subject"]];
    assert_eq!(subjects, ["ann", "bob"]);
    assert_eq!(
        world.whoami().await,
        "bob",
        "the latest is the one that is meant"
    );
    let of_bob = world.text("/token").await;
    assert_eq!(world.provider.introspect(&of_bob).await["sub"], "bob");

    let bob = me["accounts"][1]["sign_in"].as_str().expect("an id");
    let page = world
        .browser
        .post(&world.app.url("/signout"), &[("sign_in", bob)])
        .await;
    let end_session = page.location().expect("to the provider");
    let hint = parameter(&end_session, "id_token_hint").expect("R2: bob's ID token");
    let issued = world.provider.issued().await;
    assert!(
        issued
            .iter()
            .any(|one| one.kind == "IdToken" && one.value == hint)
    );

    let me = json(&world.get("/me").await);
    assert_eq!(me["accounts"].as_array().map(Vec::len), Some(1));
    assert_eq!(world.whoami().await, "ann");
    let of_ann = world.text("/token").await;
    assert_eq!(world.provider.introspect(&of_ann).await["sub"], "ann");
    let gone = world.eviction();
    assert_eq!(json!(gone.subject), "bob");
    world.settle().await;
    assert!(!world.provider.is_active(&of_bob).await);
    assert!(world.provider.is_active(&of_ann).await);
}
