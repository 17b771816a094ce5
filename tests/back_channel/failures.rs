//! The store or the provider is away: nothing is answered with 200 that is not done, and nothing is forgotten.

use std::time::Duration;

use axum_signout::testing::{Gate, TestBrowser, TestClient, TestProvider};

use crate::support::app::{App, CLIENT, SECRET, Setup};
use crate::support::faulty::{ALL, Fail, FaultyStore};
use crate::world::{World, settle};
use crate::{arrive, assert_done, assert_refused, call, sign_ins, who};

struct Failing {
    provider: TestProvider,
    app: App,
    store: FaultyStore,
    browser: TestBrowser,
}

impl Failing {
    async fn new() -> Self {
        let provider = TestProvider::start().await;
        let store = FaultyStore::new();
        let of_app = store.clone();
        let app = Setup::new()
            .auth(move |auth| auth.store(of_app))
            .start(&provider)
            .await;
        let mut browser = TestBrowser::new();
        app.sign_in(&mut browser, "alice").await;
        Self {
            provider,
            app,
            store,
            browser,
        }
    }

    async fn token(&mut self, sub: bool, sid: bool) -> String {
        let (subject, session) = who(&self.app, &mut self.browser).await;
        let mut token = self.provider.logout_token(CLIENT);
        if sub {
            token = token.claim("sub", subject);
        }
        if sid {
            token = token.claim("sid", session);
        }
        token.sign()
    }

    async fn whoami(&mut self) -> String {
        self.app
            .get(&mut self.browser, "/whoami")
            .await
            .body()
            .to_owned()
    }

    /// Until what is pending was done: by itself, for the store is back.
    async fn caught_up(&self) {
        while self.store.inner_sign_ins().await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl FaultyStore {
    async fn inner_sign_ins(&self) -> usize {
        use axum_signout::store::TokenStore as _;
        self.inner.stats().await.unwrap().sign_ins
    }
}

#[tokio::test]
async fn a_store_that_fails_on_the_way_is_tried_again_and_so_may_the_provider_r22_r24_a5() {
    type Row = (&'static str, &'static [&'static str], Fail, bool, bool);
    let rows: [Row; 8] = [
        ("close is away", &["close"], Fail::Unavailable, true, true),
        (
            "close's answer is lost",
            &["close"],
            Fail::Unknown,
            false,
            true,
        ),
        ("remove is away", &["remove"], Fail::Unavailable, true, true),
        (
            "remove's answer is lost",
            &["remove"],
            Fail::Unknown,
            false,
            true,
        ),
        (
            "an account's removal is away",
            &["remove"],
            Fail::Unavailable,
            true,
            false,
        ),
        ("claim is away", &["claim"], Fail::Unavailable, true, true),
        (
            "claim's answer is lost",
            &["claim"],
            Fail::Unknown,
            true,
            true,
        ),
        ("all is away", ALL, Fail::Unavailable, true, true),
    ];
    for (row, operations, fail, sub, sid) in rows {
        let mut here = Failing::new().await;
        let token = here.token(sub, sid).await;
        here.store.faults.set(operations, fail);
        let answer = call(&here.app.router, &token).await;
        assert_refused(&answer, "store", row);
        if !operations.contains(&"load") {
            assert_eq!(
                here.whoami().await,
                "nobody",
                "{row}: held back on this node at once"
            );
        }
        here.store.faults.clear();
        // Also if the provider never tries again.
        here.caught_up().await;
        let mut again = call(&here.app.router, &token).await;
        // Where giving the claim back failed too, that is tried again as well.
        while operations.contains(&"release") && again.status != 200 {
            assert_refused(&again, "replayed", row);
            tokio::time::sleep(Duration::from_millis(50)).await;
            again = call(&here.app.router, &token).await;
        }
        assert_done(&again, row);
        assert_eq!(here.whoami().await, "nobody", "{row}");
    }
}

#[tokio::test]
async fn whose_session_it_is_cannot_be_checked_while_the_store_is_away_r23_a5() {
    for operation in ["members", "get"] {
        let mut here = Failing::new().await;
        let token = here.token(true, true).await;
        here.store.faults.set(&[operation], Fail::Unavailable);
        assert_done(&call(&here.app.router, &token).await, operation);
        here.store.faults.clear();
        assert_eq!(here.whoami().await, "nobody", "{operation}");
    }
}

#[tokio::test]
async fn a_store_without_room_for_claims_does_what_is_asked_and_refuses_to_say_so_r22_a5() {
    let mut here = Failing::new().await;
    let token = here.token(true, true).await;
    here.store.faults.set(&["claim"], Fail::Full);
    assert_refused(
        &call(&here.app.router, &token).await,
        "too_many_claims",
        "full",
    );
    assert_eq!(here.whoami().await, "nobody");
    here.store.faults.clear();
    assert_done(&call(&here.app.router, &token).await, "again");
}

#[tokio::test]
async fn a_claim_that_could_not_be_kept_does_not_undo_the_sign_out_r22() {
    let mut here = Failing::new().await;
    let token = here.token(true, true).await;
    here.store.faults.set(&["settle"], Fail::Unavailable);
    assert_done(&call(&here.app.router, &token).await, "settle");
    assert_eq!(here.whoami().await, "nobody");
    assert_refused(&call(&here.app.router, &token).await, "replayed", "again");
}

#[tokio::test]
async fn a_second_delivery_is_not_answered_with_200_before_the_first_is_done_r22_r24() {
    let mut here = Failing::new().await;
    let token = here.token(false, true).await;
    let gate = Gate::new();
    here.store.faults.set(&["close"], Fail::Hold(gate.clone()));
    let first = tokio::spawn({
        let (router, token) = (here.app.router.clone(), token.clone());
        async move { call(&router, &token).await }
    });
    gate.arrived(1).await;
    assert_refused(
        &call(&here.app.router, &token).await,
        "replayed",
        "meanwhile",
    );
    assert_ne!(here.whoami().await, "nobody");
    gate.open();
    assert_done(&first.await.unwrap(), "the first");
    assert_eq!(here.whoami().await, "nobody");
}

#[tokio::test]
async fn a_call_whose_sender_hangs_up_is_finished_all_the_same_r23() {
    let mut here = Failing::new().await;
    let token = here.token(false, true).await;
    let gate = Gate::new();
    here.store.faults.set(&["close"], Fail::Hold(gate.clone()));
    let first = tokio::spawn({
        let (router, token) = (here.app.router.clone(), token.clone());
        async move { call(&router, &token).await }
    });
    gate.arrived(1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    gate.open();
    assert!(here.app.auth.shutdown().await.finished);
    assert_eq!(here.whoami().await, "nobody");
    assert_refused(
        &call(&here.app.router, &token).await,
        "replayed",
        "it succeeded",
    );
}

#[tokio::test]
async fn hooks_do_not_hold_the_answer_up_r25() {
    let gate = Gate::new();
    let at_hook = gate.clone();
    let world = World::with(move |auth| {
        let auth = auth.hook_timeout(Duration::from_secs(3600));
        auth.on_evict(move |_| {
            let gate = at_hook.clone();
            async move { gate.pass().await }
        })
    })
    .await;
    arrive(&world.app.auth, &world.provider, "ann", "s").await;
    let token = world.provider.logout_token(CLIENT).claim("sid", "s").sign();
    assert_done(
        &call(&world.app.router, &token).await,
        "the hook is not done",
    );
    gate.arrived(1).await;
    gate.open();
    world.finish().await;
}

#[tokio::test]
async fn without_the_providers_keys_nothing_is_done_and_the_next_attempt_is_heard_r24_r26() {
    let world = World::new().await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    arrive(auth, provider, "ann", "s").await;
    let token = provider.logout_token(CLIENT).claim("sid", "s").sign();
    let before = auth.stats().await.unwrap();
    provider.pause().await;
    for _ in 0..20 {
        let answer = call(&world.app.router, &token).await;
        assert_refused(&answer, "no_keys", "the provider is away");
        assert!(answer.body.contains("temporarily_unavailable"));
    }
    assert_eq!(auth.stats().await.unwrap(), before);
    provider.resume().await;
    world.advance(Duration::from_secs(120));
    assert_done(&call(&world.app.router, &token).await, "it is back");
    assert_eq!(sign_ins(auth).await, 0);
}

/// A sign-in whose tokens were on their way when its session at the provider ended.
#[tokio::test]
async fn a_sign_in_that_began_before_the_call_does_not_come_to_life_after_it_r23() {
    let provider = TestProvider::start().await;
    provider.add_client(TestClient::new(CLIENT).secret(SECRET));
    let world = World::new().await;
    let (auth, provider) = (&world.app.auth, &world.provider);
    let ticket = auth.ticket().await.unwrap();
    for name in ["sid", "sub"] {
        let token = provider.logout_token(CLIENT).claim(name, "ann").sign();
        assert_done(&call(&world.app.router, &token).await, name);
    }
    let account = axum_signout::Account::new(provider.issuer(), "ann").with_sid("ann");
    let sessions = std::sync::Arc::new(tower_sessions::MemoryStore::default());
    let session = tower_sessions::Session::new(None, sessions, None);
    let late = auth
        .sign_in(&session, ticket, account, axum_signout::TokenSet::new())
        .await;
    assert!(late.is_err());
    settle().await;
    assert_eq!(sign_ins(auth).await, 0);
}
