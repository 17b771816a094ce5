//! A request that is running when its sign-in is ended: what it writes to its session brings nothing back, and it gets no token.

use axum::Router;
use axum_signout::testing::{Gate, TestClient, TestProvider};
use axum_signout::{Account, Auth, ErrorKind, Provider};
use tokio::task::JoinHandle;

use crate::app::{Arriving, How, Stops, answer, request, session_cookie, state};
use crate::support::app::{Answer, CLIENT, SECRET, send};
use crate::support::faulty::{Fail, Faults, FaultyStore};

/// How the sign-in ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// Its user signs out, in another tab.
    OtherTab,
    /// The provider calls.
    BackChannel,
    /// Its user signs out everywhere, in another browser.
    Everywhere,
}

/// When the running request writes to its session.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Before,
    /// While the eviction is under way.
    During,
    /// It begins to save before the eviction, and the session store is done with it after that.
    Across,
    After,
}

const ENDS: [End; 3] = [End::OtherTab, End::BackChannel, End::Everywhere];
const WHENS: [When; 4] = [When::Before, When::During, When::Across, When::After];
const HOWS: [How; 3] = [How::Save, How::Layer, How::Cycle];

/// Where the requests go that race, and those that end the sign-in: one node, or two.
pub struct Nodes {
    pub racing: Router,
    pub other: Router,
    /// Gates before the session store of the racing one.
    pub faults: Faults,
    /// Whether the store refuses to save a session that was deleted.
    pub refuses_deleted: bool,
}

pub struct World {
    pub provider: TestProvider,
    pub auth: Auth,
    tokens: FaultyStore,
}

impl World {
    pub async fn new() -> Self {
        let provider = TestProvider::start().await;
        provider.add_client(TestClient::new(CLIENT).secret(SECRET));
        let registered = Provider::discover(provider.issuer(), CLIENT).client_secret(SECRET);
        let tokens = FaultyStore::new();
        let auth = Auth::builder(registered.build().unwrap(), "https://app.example.com")
            .store(tokens.clone())
            .build()
            .unwrap();
        Self {
            provider,
            auth,
            tokens,
        }
    }

    fn account(&self, subject: &str) -> Account {
        Account::new(self.provider.issuer(), subject)
    }

    /// A new session, whose cookie is returned.
    async fn sign_in(&self, router: &Router, subject: &str) -> String {
        let mut arriving = request("POST", "/in", None);
        let account = self.account(subject);
        arriving.extensions_mut().insert(Arriving(account));
        let answer = answer(router, arriving).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        session_cookie(&answer).expect("a session")
    }

    fn logout_token(&self, subject: &str) -> String {
        let token = self.provider.logout_token(CLIENT);
        let token = token.claim("sub", subject).sign();
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("logout_token", &token).finish()
    }
}

/// One order of what happens.
struct Story<'w> {
    world: &'w World,
    nodes: &'w Nodes,
    end: End,
    when: When,
    how: How,
    subject: String,
    /// The cookie of the session whose request is running.
    cookie: String,
    /// Another session of the same account.
    elsewhere: String,
}

impl Story<'_> {
    fn ending(&self) -> JoinHandle<Answer> {
        const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
        let (cookie, path, body) = match self.end {
            End::OtherTab => (self.cookie.clone(), "/signout", String::new()),
            End::Everywhere => (self.elsewhere.clone(), "/signout", "everywhere=true".into()),
            End::BackChannel => {
                let form = self.world.logout_token(&self.subject);
                (String::new(), "/signout/backchannel", form)
            }
        };
        let router = self.nodes.other.clone();
        tokio::spawn(async move {
            let headers = [FORM, ("cookie", &cookie)];
            let headers = if cookie.is_empty() {
                &headers[..1]
            } else {
                &headers
            };
            send(&router, "POST", path, headers, &body).await
        })
    }

    fn ended(&self, answer: &Answer) {
        let expected = match self.end {
            End::BackChannel => 200,
            End::OtherTab | End::Everywhere => 303,
        };
        assert_eq!(answer.status, expected, "{}", answer.body);
    }

    /// The running request's answer, with the sign-out in its place; and whether the handler asked for its token after it.
    async fn told(&self, stops: &Stops) -> (Answer, bool) {
        let mut running = request("POST", "/run", Some(&self.cookie));
        running.extensions_mut().insert(stops.clone());
        let router = self.nodes.racing.clone();
        let running = tokio::spawn(async move { answer(&router, running).await });
        stops.before.arrived(1).await;
        // Who saves by itself stops after that; who leaves it to the layer comes to its end first.
        let stays = self.how == How::Save;
        match self.when {
            When::Before => {
                stops.before.open();
                stops.after.arrived(1).await;
                self.ended(&self.ending().await.unwrap());
                stops.after.open();
                (running.await.unwrap(), true)
            }
            When::During => {
                let gate = Gate::new();
                let faults = &self.world.tokens.faults;
                faults.set(&["remove"], Fail::Hold(gate.clone()));
                let ending = self.ending();
                gate.arrived(1).await;
                faults.clear();
                stops.before.open();
                if stays {
                    stops.after.arrived(1).await;
                    gate.open();
                    self.ended(&ending.await.unwrap());
                    stops.after.open();
                    return (running.await.unwrap(), true);
                }
                stops.after.open();
                let answer = running.await.unwrap();
                gate.open();
                self.ended(&ending.await.unwrap());
                (answer, false)
            }
            When::Across => {
                let gate = Gate::new();
                let faults = &self.nodes.faults;
                faults.set(&["save", "create"], Fail::Hold(gate.clone()));
                stops.before.open();
                if !stays {
                    stops.after.open();
                }
                gate.arrived(1).await;
                faults.clear();
                self.ended(&self.ending().await.unwrap());
                gate.open();
                stops.after.open();
                (running.await.unwrap(), stays)
            }
            When::After => {
                self.ended(&self.ending().await.unwrap());
                stops.before.open();
                stops.after.open();
                (running.await.unwrap(), true)
            }
        }
    }

    /// What tower-sessions answers where the store refuses to save what was deleted in between.
    fn expected_status(&self) -> u16 {
        let deleted = self.end == End::OtherTab && self.how != How::Cycle;
        // The layer saves at the end, also after the handler did.
        let saved_before = self.when == When::During && self.how == How::Layer;
        match self.nodes.refuses_deleted && deleted && !saved_before {
            true => 500,
            false => 200,
        }
    }

    async fn run(self) {
        let story = format!("{:?} {:?} {:?}", self.end, self.when, self.how);
        let stops = Stops::new(self.how);
        let (answer, asked_after) = self.told(&stops).await;
        assert_eq!(answer.status, self.expected_status(), "{story}");
        if asked_after {
            assert_eq!(stops.token(), Err(ErrorKind::NotSignedIn), "{story}");
        }
        let set = session_cookie(&answer);
        if answer.status == 200 && self.how == How::Cycle {
            assert!(
                set.as_ref().is_some_and(|set| *set != self.cookie),
                "{story}"
            );
        }
        for node in [&self.nodes.racing, &self.nodes.other] {
            for cookie in [set.as_deref(), Some(&*self.cookie), None] {
                let found = state(node, cookie).await;
                assert_eq!(found, "nobody has nothing", "{story} {cookie:?}");
            }
        }
        // Only the user's own sign-out leaves the other session as it is.
        let account = self.world.account(&self.subject);
        let left = self.world.auth.sign_ins_of(&account).await.unwrap();
        assert_eq!(
            left.len(),
            usize::from(self.end == End::OtherTab),
            "{story}"
        );
        let found = state(&self.nodes.other, Some(&self.elsewhere)).await;
        assert_eq!(found.starts_with("nobody"), left.is_empty(), "{story}");
    }
}

/// Every order of every sign-out and every way to save.
pub async fn nothing_comes_back(world: &World, nodes: &Nodes) {
    let mut number = 0;
    for end in ENDS {
        for when in WHENS {
            for how in HOWS {
                // The session's id was changed before: the sign-out comes with a cookie that names nothing any more.
                let unnamed = matches!(when, When::Before | When::Across) && how == How::Cycle;
                if end == End::OtherTab && unnamed {
                    continue;
                }
                number += 1;
                let subject = format!("user-{number}");
                let cookie = world.sign_in(&nodes.racing, &subject).await;
                let elsewhere = world.sign_in(&nodes.other, &subject).await;
                let filled = answer(&nodes.racing, request("POST", "/cart/shoes", Some(&cookie)));
                assert_eq!(filled.await.status, 200);
                for node in [&nodes.racing, &nodes.other] {
                    let before = state(node, Some(&cookie)).await;
                    assert_eq!(before, format!("{subject} has shoes"));
                }
                let story = Story {
                    world,
                    nodes,
                    end,
                    when,
                    how,
                    subject,
                    cookie,
                    elsewhere,
                };
                story.run().await;
            }
        }
    }
}
