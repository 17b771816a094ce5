//! Every way to sign out yields a report (promise 3).

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum_signout::{AuthBuilder, Cause, HookStatus, SessionOutcome, SignOutReport};
use serde_json::json;

use crate::world::World;

#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Vec<SignOutReport>>>);

impl Reports {
    fn hook(&self) -> impl FnOnce(AuthBuilder) -> AuthBuilder + Send + 'static {
        let all = self.0.clone();
        move |auth| {
            auth.on_sign_out(move |report| {
                all.lock().unwrap().push(report);
                std::future::ready(())
            })
        }
    }

    fn all(&self) -> Vec<SignOutReport> {
        self.0.lock().unwrap().clone()
    }

    /// Causes and outcomes for the session, when all hooks have run; one sign-in each, whose hook was told before.
    async fn told(&self, world: &World) -> Vec<(Cause, SessionOutcome)> {
        world.finish().await;
        let all = self.all();
        for report in &all {
            assert_eq!(report.evicted.len(), 1, "{report:?}");
            assert_eq!(report.evicted[0].cause, report.cause);
            assert_eq!(report.hooks.len(), 1, "{report:?}");
            assert_eq!(report.hooks[0].status, HookStatus::Done);
        }
        let ids: HashSet<_> = all.iter().map(|report| &report.correlation_id).collect();
        assert_eq!(ids.len(), all.len(), "one name for each sign-out");
        all.iter().map(|r| (r.cause, r.session)).collect()
    }
}

#[tokio::test]
async fn the_user_s_own_sign_out_is_reported_when_all_is_done_r42() {
    let reports = Reports::default();
    let world = World::with(reports.hook()).await;
    let browser = world.sign_in("alice").await;
    let (_, report) = world.app.leave(&browser, json!({})).await;
    let told = reports.told(&world).await;
    assert_eq!(told, [(Cause::UserSignOut, SessionOutcome::Ended)]);
    let heard = reports.all().remove(0);
    assert_eq!(heard.correlation_id, report.correlation_id);
    assert_eq!(heard.provider, report.provider);
}

#[tokio::test]
async fn whoever_finds_nothing_to_sign_out_is_not_reported() {
    let reports = Reports::default();
    let world = World::with(reports.hook()).await;
    let stranger = axum_signout::testing::TestBrowser::new();
    let (_, report) = world.app.leave(&stranger, json!({})).await;
    assert_eq!(report.evicted.len(), 0);
    world.finish().await;
    assert_eq!(reports.all().len(), 0);
}

/// Two that end in the same sweep are two sign-outs.
#[tokio::test]
async fn lifetimes_that_are_over_are_reported_one_by_one_r42() {
    let reports = Reports::default();
    let world = World::with(reports.hook()).await;
    world.sign_in("alice").await;
    world.sign_in("bob").await;
    world.advance(Duration::from_secs(3 * 60 * 60));
    assert_eq!(world.app.auth.evict_due().await.unwrap(), 2);
    let told = reports.told(&world).await;
    let idle = (Cause::Idle, SessionOutcome::AtNextRequest);
    assert_eq!(told, [idle, idle]);
    let mut whose: Vec<_> = reports.all();
    whose.sort_by(|a, b| a.evicted[0].subject.cmp(&b.evicted[0].subject));
    assert_eq!(whose[0].evicted[0].subject, "alice");
    assert_eq!(whose[1].evicted[0].subject, "bob");
}

#[tokio::test]
async fn a_refused_refresh_a_flushed_session_and_a_second_sign_in_are_reported() {
    let reports = Reports::default();
    let world = World::with(reports.hook()).await;
    let mut browser = world.sign_in("alice").await;
    world.app.sign_in(&mut browser, "alice").await;
    world.provider.revoke_grants_of("alice");
    world.expire_tokens();
    assert_eq!(world.get(&browser, "/token").await.status(), 401);
    let browser = world.sign_in("bob").await;
    let flush = [("cookie", &*crate::support::app::cookies(&browser))];
    crate::support::app::send(&world.app.router, "POST", "/flush", &flush, "").await;
    let mut told = reports.told(&world).await;
    told.sort_by_key(|(cause, _)| cause.as_str());
    assert_eq!(
        told,
        [
            (Cause::RefreshRejected, SessionOutcome::AtNextRequest),
            (Cause::Replaced, SessionOutcome::None),
            (Cause::SessionEnded, SessionOutcome::None),
        ]
    );
}

#[tokio::test]
async fn the_oldest_of_too_many_accounts_leaves_a_session_that_goes_on() {
    let reports = Reports::default();
    let world = World::with(reports.hook()).await;
    let mut browser = axum_signout::testing::TestBrowser::new();
    for number in 0..9 {
        let name = format!("user{number}");
        world
            .provider
            .add_user(axum_signout::testing::TestUser::new(&name));
        world.app.sign_in(&mut browser, &name).await;
    }
    let told = reports.told(&world).await;
    assert_eq!(told, [(Cause::Capacity, SessionOutcome::None)]);
    assert_eq!(world.get(&browser, "/whoami").await.body(), "user8");
}

#[tokio::test]
async fn a_hook_for_reports_that_hangs_or_panics_keeps_nobody_from_signing_out() {
    let reports = Reports::default();
    let (late, fine) = (reports.clone(), reports.hook());
    let world = World::with(move |auth| {
        let auth = auth
            .hook_timeout(Duration::from_millis(50))
            .on_sign_out(|_| std::future::pending::<()>())
            .on_sign_out(|report: SignOutReport| async move {
                assert_eq!(report.evicted.len(), 0, "a panic of a test");
            });
        fine(auth)
    })
    .await;
    let browser = world.sign_in("alice").await;
    let (answer, _) = world.app.leave(&browser, json!({})).await;
    assert_eq!(answer.status, 303);
    assert_eq!(late.told(&world).await.len(), 1);
}
