//! What visits leave in Redis, and what they ask of it, through the app: sign-in, token, sign-out.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;
use axum_signout::store::{RedisSessionStore, RedisTokenStore};
use axum_signout::testing::{TestBrowser, TestProvider, TestUser};
use axum_signout::{
    AccessToken, Account, Auth, EndSessionRequest, Provider, ProviderMetadata, RevocationPolicy,
    SignOut, TokenSet, Tokens,
};
use tower::Service as _;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

use super::keys::pass;
use super::round_trips::{names, tags};
use crate::support::app::{App, Setup};
use crate::support::redis::RedisServer;

const ROUNDS: usize = 1000;

/// How long marks last here, and what is remembered of a sign-out; answers and leases are kept for a minute.
const MARK_FOR: Duration = Duration::from_secs(60);
/// A code from the provider is claimed for ten minutes, which is the longest.
const CLAIMED_FOR: Duration = Duration::from_secs(600);

/// What is sent on the connections that hear of other nodes.
const OF_ANNOUNCEMENTS: [&str; 6] = ["HELLO", "CLIENT", "SUBSCRIBE", "PUBLISH", "EXISTS", "PING"];

struct World {
    app: App,
    sessions: Arc<RedisSessionStore>,
    issuer: String,
}

impl World {
    async fn new(server: &RedisServer, provider: &TestProvider) -> Self {
        let store = RedisTokenStore::builder(server.url()).build().unwrap();
        let sessions = store.sessions();
        let layer = SessionManagerLayer::new(sessions.clone()).with_secure(false);
        let app = Setup::new().sessions(layer).auth(|auth| {
            auth.store(store)
                .sign_in_timeout(MARK_FOR)
                .sign_out_timeout(MARK_FOR)
        });
        Self {
            app: app.start(provider).await,
            sessions: Arc::new(sessions),
            issuer: provider.issuer().to_owned(),
        }
    }

    /// At the provider, which gives tokens that have to be refreshed at once, and takes part in the sign-out.
    async fn by_browser(&self, user: &str) {
        let mut browser = TestBrowser::new();
        self.app.sign_in(&mut browser, user).await;
        let page = self.app.get(&mut browser, "/token").await;
        assert_eq!(page.status(), 200, "{}", page.body());
        let signout = self.app.url("/signout");
        browser.post_form(signout, &[]).await.unwrap();
        let page = self.app.get(&mut browser, "/whoami").await;
        assert_eq!(page.body(), "nobody");
    }

    /// By the app's own sign-in, and a sign-out of this session or of all.
    async fn by_hand(&self, user: &str, everywhere: bool) {
        let session = Session::new(None, self.sessions.clone(), None);
        let ticket = self.app.auth.ticket().await.unwrap();
        let account = Account::new(&*self.issuer, user).with_sid(user);
        let tokens = TokenSet::new()
            .with_refresh_token("refresh")
            .with_access_token(AccessToken::bearer("token"));
        let auth = &self.app.auth;
        auth.sign_in(&session, ticket, account, tokens)
            .await
            .unwrap();
        let visit = async move |tokens: Tokens, sign_out: SignOut| {
            assert_eq!(tokens.acquire(()).await.unwrap().secret(), "token");
            let request = EndSessionRequest::new().local_only();
            let request = match everywhere {
                true => request.everywhere(),
                false => request,
            };
            sign_out.run(request).await
        };
        let mut app = Router::new().route("/", get(visit)).layer(auth.layer());
        let status = request(&mut app, &session).await;
        assert!(status.is_redirection() || status.is_success(), "{status}");
        let session = Session::new(session.id(), self.sessions.clone(), None);
        assert!(session.get_value("axum-signout").await.unwrap().is_none());
    }
}

/// A7: somebody who stays has keys, too, and they are all that is there in the end.
#[tokio::test]
async fn a_thousand_visits_leave_no_key_once_marks_and_claims_have_ended_a7() {
    let server = RedisServer::start().await;
    let provider = TestProvider::builder()
        .access_token_lifetime(Duration::from_secs(1))
        .user(TestUser::new("ann"))
        .user(TestUser::new("bob"));
    let provider = provider.start().await;
    let world = World::new(&server, &provider).await;
    let mut bob = TestBrowser::new();
    world.app.sign_in(&mut bob, "bob").await;
    pass(&server, CLAIMED_FOR);
    let before = server.keys().len();
    assert!(before > 0, "bob is signed in");

    for number in 0..ROUNDS {
        match number % 20 {
            0 => world.by_browser("ann").await,
            n => world.by_hand(&format!("user {n}"), n % 2 == 0).await,
        }
    }
    assert!(server.keys().len() > before, "there are marks and claims");
    // What is to be revoked is.
    world.app.auth.shutdown().await;
    pass(&server, CLAIMED_FOR);
    assert_eq!(server.keys().len(), before, "{:?}", server.keys());
    let page = world.app.get(&mut bob, "/whoami").await;
    assert_ne!(page.body(), "nobody");
}

/// An app whose sessions are elsewhere, and which does nothing by itself meanwhile.
fn auth(server: &RedisServer) -> Auth {
    let at = |path: &str| format!("https://login.example.com/{path}");
    let issuer = "https://login.example.com";
    let metadata = ProviderMetadata::new(issuer, at("authorize"), at("token"), at("keys"));
    let provider = Provider::with_metadata(metadata, "app").build().unwrap();
    let store = RedisTokenStore::builder(server.url()).build().unwrap();
    Auth::builder(provider, "https://app.example.com")
        .store(store)
        .revocation(RevocationPolicy::Never)
        .sweep_every(Duration::from_secs(24 * 3600))
        .build()
        .unwrap()
}

async fn signed_in(auth: &Auth, account: &Account, sid: usize) -> Session {
    let session = Session::new(None, Arc::new(MemoryStore::default()), None);
    let account = account.clone().with_sid(sid.to_string());
    let tokens = TokenSet::new().with_access_token(AccessToken::bearer("token"));
    auth.sign_in(&session, None, account, tokens).await.unwrap();
    session
}

fn ann() -> Account {
    Account::new("https://login.example.com", "ann")
}

/// A request's own.
async fn request(app: &mut Router, session: &Session) -> StatusCode {
    let mut request = Request::new(Body::empty());
    request.extensions_mut().insert(session.clone());
    let Ok(answer) = app.call(request).await;
    answer.status()
}

#[tokio::test]
async fn a_request_asks_redis_once_by_a_plain_command_however_often_it_acquires() {
    let server = RedisServer::start().await;
    let auth = auth(&server);
    let session = signed_in(&auth, &ann(), 1).await;
    let empty = Session::new(None, Arc::new(MemoryStore::default()), None);
    empty.insert("cart", "apples").await.unwrap();
    let acquire = async |tokens: Option<Tokens>| {
        let Some(tokens) = tokens else {
            return StatusCode::UNAUTHORIZED;
        };
        for _ in 0..3 {
            assert_eq!(tokens.acquire(()).await.unwrap().secret(), "token");
        }
        assert_eq!(tokens.account().subject(), "ann");
        StatusCode::OK
    };
    let mut app = Router::new().route("/", get(acquire)).layer(auth.layer());
    for (session, status, reads) in [
        (&session, StatusCode::OK, 1),
        (&empty, StatusCode::UNAUTHORIZED, 0),
    ] {
        let commands = server
            .commands_of(async {
                assert_eq!(request(&mut app, session).await, status);
            })
            .await;
        let mut names = names(&commands);
        // Once a second the time goes before the read, in the same round trip; announcements have connections of their own.
        names.retain(|name| *name != "TIME" && !OF_ANNOUNCEMENTS.contains(name));
        assert_eq!(names, vec!["HGET"; reads]);
    }
}

#[tokio::test]
async fn signing_out_everywhere_is_one_script_before_the_selectors_with_the_cache_too() {
    let server = RedisServer::start().await;
    let auth = auth(&server);
    let sign_out = async |sign_ins: usize| {
        for sid in 0..sign_ins {
            signed_in(&auth, &ann(), sid).await;
        }
        server
            .commands_of(async {
                let report = auth.end_sign_ins_of(&ann()).await.unwrap();
                assert_eq!(report.evicted.len(), sign_ins);
            })
            .await
    };
    // The first one makes the scripts known.
    sign_out(1).await;
    for sign_ins in [1, 10] {
        let mut commands = sign_out(sign_ins).await;
        commands
            .retain(|command| !OF_ANNOUNCEMENTS.contains(&names(std::slice::from_ref(command))[0]));
        let keys = server.keys();
        let account = keys.iter().find(|key| key.contains("}:account:"));
        let bucket = tags(account.unwrap())[0];
        assert_eq!(names(&commands), vec!["EVALSHA"; 1 + sign_ins]);
        let of_account = |command: &&String| command.contains("}:account:");
        assert_eq!(commands.iter().filter(of_account).count(), 1);
        assert!(of_account(&&commands[0]) && tags(&commands[0]).iter().all(|tag| *tag == bucket));
    }
}
