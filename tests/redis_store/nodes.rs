//! Two nodes of an app that share a Redis: what one evicts, the other hears of.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Extension, Path};
use axum::routing::{get, post};
use axum_signout::store::RedisTokenStore;
use axum_signout::{
    AccessToken, Account, Auth, Cause, ErrorKind, EvictionNotice, Provider, SignInId, TokenSet,
    Tokens,
};
use tokio::sync::mpsc;
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

use super::ear::Ear;
use crate::support::app::{Answer, send};
use crate::support::redis::RedisServer;

const ISSUER: &str = "https://op.example";

type Held = Arc<Mutex<Option<(Account, Tokens)>>>;

/// A node, its own connections included.
struct Node {
    auth: Auth,
    router: Router,
    held: Held,
    notices: mpsc::UnboundedReceiver<EvictionNotice>,
}

async fn plant(auth: Auth, session: Session, Path(subject): Path<String>) -> String {
    let tokens = TokenSet::new().with_access_token(AccessToken::bearer("token"));
    let account = Account::new(ISSUER, subject);
    auth.sign_in(&session, None, account, tokens).await.unwrap();
    "planted".to_owned()
}

async fn hold(Extension(held): Extension<Held>, account: Account, tokens: Tokens) {
    held.lock().unwrap().replace((account, tokens));
}

impl Node {
    /// Returns once it hears of what others do.
    async fn new(server: &RedisServer, sessions: &MemoryStore) -> Self {
        let store = Arc::new(RedisTokenStore::builder(server.url()).build().unwrap());
        let provider = Provider::discover(ISSUER, "app").build().unwrap();
        let (tell, notices) = mpsc::unbounded_channel();
        let auth = Auth::builder(provider, "https://app.example.com")
            .store(store.clone())
            .on_evict_everywhere(move |notice| {
                let _ = tell.send(notice);
                std::future::ready(())
            });
        let auth = auth.build().unwrap();
        let held = Held::default();
        let router = Router::new()
            .route("/plant/{subject}", post(plant))
            .route("/hold", get(hold))
            .layer(Extension(held.clone()))
            .merge(auth.routes())
            .layer(auth.layer_with(SessionManagerLayer::new(sessions.clone())));
        // Who listens since is told with everyone else.
        Ear::of(&store, 1).await;
        Self {
            auth,
            router,
            held,
            notices,
        }
    }

    async fn send(&self, method: &str, path: &str, cookie: &str) -> Answer {
        send(&self.router, method, path, &[("cookie", cookie)], "").await
    }

    /// The cookie of a session in which somebody is signed in.
    async fn planted(&self, subject: &str) -> String {
        let answer = self.send("POST", &format!("/plant/{subject}"), "").await;
        assert_eq!(answer.body, "planted");
        let cookie = answer.set_cookies()[0].split(';').next().unwrap();
        cookie.to_owned()
    }

    /// What a handler has that goes on.
    async fn held(&self, cookie: &str) -> (Account, Tokens) {
        assert_eq!(self.send("GET", "/hold", cookie).await.status, 200);
        self.held.lock().unwrap().take().expect("it was just held")
    }

    async fn notice(&mut self) -> (SignInId, Cause) {
        let next = tokio::time::timeout(Duration::from_secs(30), self.notices.recv()).await;
        let notice = next.expect("no hook was called").unwrap();
        (notice.sign_in(), notice.cause())
    }
}

#[tokio::test]
async fn whoever_waits_on_another_node_hears_of_a_sign_out_at_once_r42_r43() {
    let (server, sessions) = (RedisServer::start().await, MemoryStore::default());
    let here = Node::new(&server, &sessions).await;
    let there = Node::new(&server, &sessions).await;
    let cookie = here.planted("ann").await;
    let (account, tokens) = there.held(&cookie).await;
    assert_eq!(tokens.acquire(()).await.unwrap().secret(), "token");
    let waiting = {
        let account = account.clone();
        tokio::spawn(async move { account.ended().await })
    };
    let looked = Instant::now();
    let report = here.auth.end_sign_in(&account, tokens.sign_in()).await;
    assert_eq!(report.unwrap().evicted.len(), 1);
    assert_eq!(waiting.await.unwrap(), Cause::Operator);
    // By itself it would have looked every five seconds.
    assert!(looked.elapsed() < Duration::from_secs(4));
    let error = tokens.acquire(()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotSignedIn);
}

#[tokio::test]
async fn a_hook_for_every_node_is_called_once_on_each_r42_r43() {
    let (server, sessions) = (RedisServer::start().await, MemoryStore::default());
    let mut nodes = [
        Node::new(&server, &sessions).await,
        Node::new(&server, &sessions).await,
    ];
    let ann = Account::new(ISSUER, "ann");
    let mut expected = Vec::new();
    for by in [0, 1, 0, 1] {
        let cookie = nodes[by].planted("ann").await;
        // Held on one node: it has a flag there, and none on the other.
        let (account, tokens) = nodes[1].held(&cookie).await;
        let ended = nodes[by].auth.end_sign_in(&account, tokens.sign_in()).await;
        assert_eq!(ended.unwrap().evicted.len(), 1);
        expected.push((tokens.sign_in(), Cause::Operator));
    }
    for node in &mut nodes {
        let mut told = Vec::new();
        for _ in 0..4 {
            let next = tokio::time::timeout(Duration::from_secs(30), node.notices.recv()).await;
            let notice = next.expect("no hook was called").unwrap();
            assert!(notice.is_of(&ann) && !notice.is_of(&Account::new(ISSUER, "bob")));
            told.push((notice.sign_in(), notice.cause()));
        }
        told.sort_by_key(|(id, _)| *id);
        expected.sort_by_key(|(id, _)| *id);
        assert_eq!(told, expected);
    }
    // Whatever would have come twice has come before this.
    nodes[0].planted("ann").await;
    nodes[0].auth.end_sign_ins_of(&ann).await.unwrap();
    for node in &mut nodes {
        let (id, _) = node.notice().await;
        assert!(expected.iter().all(|(told, _)| *told != id));
    }
    for node in &nodes {
        assert!(node.auth.shutdown().await.finished);
        assert!(node.notices.is_empty());
    }
}
