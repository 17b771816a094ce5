//! Every way for a sign-in to end from elsewhere, and the next request of the session that held it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use axum_signout::testing::{TestBrowser, TestProvider, TestUser};
use axum_signout::{Account, AuthBuilder, Cause, SessionOutcome, SignInId, SignOutReport, Tokens};

use crate::app::{session_cookie, v015};
use crate::people::{browser, id_of, labelled, pressed, routes};
use crate::support::app::{Answer, Setup, cookies, send};
use crate::world::{World, acquire};

/// How alice's sign-in on the phone ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    BackChannelBySid,
    BackChannelBySubject,
    FrontChannel,
    EndedOne,
    EndedOthers,
    EndedAll,
    SignedOutEverywhere,
    OperatorEndedOne,
    OperatorEndedAll,
    IdleTime,
    AbsoluteTime,
    RefreshRejected,
    StoreLimit,
    AccountLimit,
}

const ALONE: [(Way, Cause); 14] = [
    (Way::BackChannelBySid, Cause::BackChannel),
    (Way::BackChannelBySubject, Cause::BackChannel),
    (Way::FrontChannel, Cause::FrontChannel),
    (Way::EndedOne, Cause::SignOutOthers),
    (Way::EndedOthers, Cause::SignOutOthers),
    (Way::EndedAll, Cause::SignOutEverywhere),
    (Way::SignedOutEverywhere, Cause::SignOutEverywhere),
    (Way::OperatorEndedOne, Cause::Operator),
    (Way::OperatorEndedAll, Cause::Operator),
    (Way::IdleTime, Cause::Idle),
    (Way::AbsoluteTime, Cause::Absolute),
    (Way::RefreshRejected, Cause::RefreshRejected),
    (Way::StoreLimit, Cause::Capacity),
    (Way::AccountLimit, Cause::Capacity),
];

/// Those that end one account of a session and not the other, which is all but the idle time.
fn beside_another() -> impl Iterator<Item = (Way, Cause)> {
    ALONE.into_iter().filter(|(way, _)| *way != Way::IdleTime)
}

type Reports = Arc<Mutex<Vec<SignOutReport>>>;

struct Scene {
    world: World,
    reports: Reports,
    /// Another session of alice's.
    here: TestBrowser,
    /// The one whose sign-in ends.
    phone: TestBrowser,
    /// What a handler that runs on the phone holds.
    tokens: Tokens,
    sid: String,
}

const HOUR: Duration = Duration::from_secs(60 * 60);
/// A store's clock is later at each call, so it runs a little ahead of one that stands still.
const A_LITTLE: Duration = Duration::from_secs(1);

impl Scene {
    async fn set(way: Way, other: Option<&'static str>) -> Self {
        let reports = Reports::default();
        let told = reports.clone();
        let auth = move |auth: AuthBuilder| {
            let auth = labelled(auth).on_sign_out(move |report| {
                told.lock().unwrap().push(report);
                std::future::ready(())
            });
            match way {
                Way::AbsoluteTime => auth.idle_lifetime(10 * HOUR).absolute_lifetime(5 * HOUR),
                _ => auth,
            }
        };
        let all = 2 + usize::from(other.is_some());
        let routes = routes().merge(Router::new().route("/state", get(v015::state)));
        let setup = Setup::new().routes(routes);
        let world = World::assemble(TestProvider::builder(), setup, auth, |store| match way {
            Way::StoreLimit => store.max_sign_ins(all),
            Way::AccountLimit => store.max_sign_ins_per_account(2),
            _ => store,
        })
        .await;
        world.provider.add_user(TestUser::new("carol"));
        let mut phone = browser(&world.app, "phone", "alice").await;
        let me = world.app.get(&mut phone, "/me").await.json().unwrap();
        let sid = me["accounts"][0]["sid"].as_str().unwrap().to_owned();
        let tokens = world.tokens(&phone).await;
        world.advance(HOUR);
        if let Some(other) = other {
            world.app.sign_in(&mut phone, other).await;
        }
        let here = browser(&world.app, "here", "alice").await;
        world.app.get(&mut phone, "/cart/shoes").await;
        Self {
            world,
            reports,
            here,
            phone,
            tokens,
            sid,
        }
    }

    fn alice(&self) -> Account {
        Account::new(self.world.provider.issuer(), "alice")
    }

    async fn back_channel(&self, claim: &str, value: &str) {
        let token = self.world.provider.logout_token("app");
        let token = token.claim(claim, value).sign();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("logout_token", &token);
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let router = &self.world.app.router;
        let answer = send(
            router,
            "POST",
            "/signout/backchannel",
            &headers,
            &form.finish(),
        )
        .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }

    async fn end(&mut self, way: Way) {
        let (world, app) = (&self.world, &self.world.app);
        match way {
            Way::BackChannelBySid => self.back_channel("sid", &self.sid).await,
            Way::BackChannelBySubject => self.back_channel("sub", "alice").await,
            Way::FrontChannel => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.append_pair("iss", world.provider.issuer());
                query.append_pair("sid", &self.sid);
                let path = format!("/signout/frontchannel?{}", query.finish());
                let answer = send(&app.router, "GET", &path, &[], "").await;
                assert_eq!(answer.status, 200);
            }
            Way::EndedOne => {
                let id = id_of(app, &self.here, "phone").await;
                let path = format!("/sign-ins/end/{id}");
                pressed(app, &mut self.here, &path).await;
            }
            Way::EndedOthers => drop(pressed(app, &mut self.here, "/sign-ins/end-others").await),
            Way::EndedAll => drop(pressed(app, &mut self.here, "/sign-ins/end-all").await),
            Way::SignedOutEverywhere => {
                let cookie = cookies(&self.here);
                let form = ("content-type", "application/x-www-form-urlencoded");
                let headers = [("cookie", &*cookie), form];
                let answer = send(&app.router, "POST", "/signout", &headers, "everywhere=true");
                assert_eq!(answer.await.status, 303);
            }
            Way::OperatorEndedOne => {
                let id = id_of(app, &self.here, "phone").await;
                let id: SignInId = SignInId::parse(&id).unwrap();
                app.auth.end_sign_in(&self.alice(), id).await.unwrap();
            }
            Way::OperatorEndedAll => {
                app.auth.end_sign_ins_of(&self.alice()).await.unwrap();
            }
            Way::IdleTime => world.advance(2 * HOUR + A_LITTLE),
            Way::AbsoluteTime => world.advance(4 * HOUR + A_LITTLE),
            Way::RefreshRejected => {
                world.provider.revoke_grants_of("alice");
                world.expire_tokens();
                acquire(&self.tokens).await.unwrap_err();
            }
            Way::StoreLimit | Way::AccountLimit => {
                // The least recently used is the one that leaves.
                world.advance(HOUR / 6);
                app.get(&mut self.here, "/whoami").await;
                let third = TestBrowser::builder().user_agent("third").build();
                let login = if way == Way::StoreLimit {
                    "bob"
                } else {
                    "alice"
                };
                app.sign_in(&mut { third }, login).await;
            }
        }
    }

    /// A request of the phone, with what its browser has as cookies.
    async fn next(&self, cookie: &str) -> Answer {
        let headers = [("cookie", cookie)];
        send(&self.world.app.router, "GET", "/state", &headers, "").await
    }

    /// What hooks and reports said of the phone's sign-in, once each.
    async fn told(&self, row: &str) -> (Cause, Cause, Cause, SessionOutcome) {
        // What is only due is evicted when its time comes, request or not.
        self.world.app.auth.evict_due().await.unwrap();
        self.world.finish().await;
        let id = self.tokens.sign_in();
        let reports = self.reports.lock().unwrap();
        let about = |report: &&SignOutReport| report.evicted.iter().any(|one| one.sign_in == id);
        let reports: Vec<_> = reports.iter().filter(about).collect();
        assert_eq!(reports.len(), 1, "{row}: {reports:?}");
        let evicted = reports[0].evicted.iter().find(|one| one.sign_in == id);
        let seen = self.world.app.seen();
        let alice = seen.iter().filter(|seen| seen.subject == "alice");
        let hook = alice.map(|seen| seen.cause).next().unwrap();
        (
            hook,
            evicted.unwrap().cause,
            reports[0].cause,
            reports[0].session,
        )
    }
}

#[tokio::test]
async fn a_session_whose_sign_in_ended_elsewhere_is_empty_at_its_next_request_r14_r23_r30_r42_r43()
{
    for (way, cause) in ALONE {
        let row = format!("{way:?}");
        let mut scene = Scene::set(way, None).await;
        let cookie = cookies(&scene.phone);
        assert_eq!(scene.next(&cookie).await.body, "alice has shoes", "{row}");
        scene.end(way).await;
        let answer = scene.next(&cookie).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (200, "nobody has nothing"),
            "{row}"
        );
        assert_eq!(
            session_cookie(&answer).as_deref(),
            Some(""),
            "{row}: removed"
        );
        assert_eq!(
            scene.next(&cookie).await.body,
            "nobody has nothing",
            "{row}"
        );
        assert_eq!(scene.tokens.ended().await, cause, "{row}");
        acquire(&scene.tokens).await.unwrap_err();
        let session = SessionOutcome::AtNextRequest;
        match way {
            // The session that asked ended in the same sign-out.
            Way::EndedAll | Way::SignedOutEverywhere => {
                let told = scene.told(&row).await;
                assert_eq!(told, (cause, cause, cause, SessionOutcome::Ended), "{row}");
            }
            _ => assert_eq!(
                scene.told(&row).await,
                (cause, cause, cause, session),
                "{row}"
            ),
        }
    }
}

#[tokio::test]
async fn of_two_accounts_the_one_that_ended_elsewhere_takes_the_sessions_data_along_r14_r23_r30_r42_r43()
 {
    for (way, cause) in beside_another() {
        let row = format!("{way:?}");
        let mut scene = Scene::set(way, Some("carol")).await;
        let old = cookies(&scene.phone);
        assert_eq!(scene.next(&old).await.body, "carol has shoes", "{row}");
        scene.end(way).await;
        let answer = scene.next(&old).await;
        assert_eq!(
            (answer.status.as_u16(), &*answer.body),
            (200, "carol has nothing"),
            "{row}"
        );
        let new = session_cookie(&answer).unwrap();
        assert!(!new.is_empty() && !old.contains(&new), "{row}: renewed");
        assert_eq!(scene.next(&new).await.body, "carol has nothing", "{row}");
        assert_eq!(scene.next(&old).await.body, "nobody has nothing", "{row}");
        assert_eq!(scene.tokens.ended().await, cause, "{row}");
        let (hook, evicted, report, _) = scene.told(&row).await;
        assert_eq!((hook, evicted, report), (cause, cause, cause), "{row}");
    }
}
