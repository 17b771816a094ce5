//! One refresh over several nodes (R29), whatever becomes of the one that refreshes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum_signout::store::RedisTokenStore;
use axum_signout::testing::{Endpoint, Fault, Gate, TestBrowser, TestProvider};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use super::world::{Node, refreshes, reuses};
use crate::support::app::{Answer, cookies, send};
use crate::support::redis::RedisServer;

/// What a node waits for the provider: leases are two of these and ten seconds.
const PROVIDER: Duration = Duration::from_millis(500);
const LEASE: Duration = Duration::from_secs(11);

async fn node(provider: &TestProvider, url: &str) -> Node {
    let redis = RedisTokenStore::builder(url);
    Node::with(provider, redis, |provider| provider.timeout(PROVIDER)).await
}

fn expire(provider: &TestProvider, nodes: &[&Node]) {
    for node in nodes {
        node.clock.advance(Duration::from_secs(3601));
    }
    provider.set_clock_offset(3601);
}

async fn token(node: &Node, cookie: &str) -> Answer {
    let headers = [("cookie", cookie)];
    send(&node.app.router, "GET", "/token", &headers, "").await
}

/// Two nodes, and a user who is signed in at both.
async fn two(provider: &TestProvider, here: &str, there: &str) -> (Node, Node, String) {
    let first = node(provider, here).await;
    let mut browser = TestBrowser::new();
    first.app.sign_in(&mut browser, "alice").await;
    let second = node(provider, there).await;
    let cookie = cookies(&browser);
    assert_eq!(token(&second, &cookie).await.status, 200);
    (first, second, cookie)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_requests_on_two_nodes_at_expiry_are_one_refresh_r29() {
    let redis = RedisServer::start().await;
    let provider = TestProvider::builder()
        .rotate_refresh_tokens(true)
        .start()
        .await;
    let (here, there, cookie) = two(&provider, redis.url(), redis.url()).await;
    expire(&provider, &[&here, &there]);
    let ask = |n: usize| token([&here, &there][n % 2], &cookie);
    let answers = join_all((0..100).map(ask)).await;
    for answer in &answers {
        assert_eq!(
            (answer.status.as_u16(), &answer.body),
            (200, &answers[0].body)
        );
    }
    assert_eq!((refreshes(&provider), reuses(&provider)), (1, 0));
    assert!(provider.is_active(&answers[0].body));
}

/// Its runtime ends with all of its tasks and connections, as those of a process do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_in_the_middle_of_a_refresh_delays_the_other_by_its_lease_r29() {
    let redis = RedisServer::start().await;
    let provider = Arc::new(TestProvider::start().await);
    let first = node(&provider, redis.url()).await;
    let mut browser = TestBrowser::new();
    first.app.sign_in(&mut browser, "alice").await;
    let cookie = cookies(&browser);
    let process = tokio::runtime::Runtime::new().unwrap();
    let (url, of_process) = (redis.url().to_owned(), provider.clone());
    let dies = process.spawn(async move { node(&of_process, &url).await });
    let dies = dies.await.unwrap();
    expire(&provider, &[&first, &dies]);
    let gate = Gate::new();
    let fault = Fault::Hold(gate.clone());
    provider.faults().once(Endpoint::Refresh, fault);
    let begun = Instant::now();
    let (router, its_cookie) = (dies.app.router.clone(), cookie.clone());
    drop(process.spawn(async move {
        let headers = [("cookie", &*its_cookie)];
        send(&router, "GET", "/token", &headers, "").await
    }));
    gate.arrived(1).await;
    process.shutdown_background();
    drop(dies);

    let mut answer = token(&first, &cookie).await;
    while answer.status == 503 {
        // The other's refresh may still arrive at the provider.
        assert_eq!(refreshes(&provider), 0);
        assert!(begun.elapsed() < LEASE + Duration::from_secs(5));
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!(Duration::from_secs(wait) <= LEASE, "{wait}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        // What requests wait for is told by the app's clock.
        first.clock.advance(Duration::from_millis(200));
        answer = token(&first, &cookie).await;
    }
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(begun.elapsed() >= LEASE - Duration::from_secs(2));
    assert_eq!((refreshes(&provider), reuses(&provider)), (1, 0));
}

/// Between a node and Redis. When it asks for its lease again, what the node sends waits until it may go on. Redis does not know
/// the script when it is asked first.
async fn halting(to: u16, halted: Gate) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let leases = Arc::new(AtomicUsize::new(0));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            let (leases, halted) = (leases.clone(), halted.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    let sent = String::from_utf8_lossy(&buffer[..read]);
                    if sent.contains(":lease:") && leases.fetch_add(1, Ordering::SeqCst) == 2 {
                        halted.pass().await;
                    }
                    if to_server.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis://127.0.0.1:{port}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stood_still_for_longer_than_its_lease_sends_no_token_that_is_spent_r29_a2() {
    let redis = RedisServer::start().await;
    let provider = TestProvider::builder()
        .rotate_refresh_tokens(true)
        .start()
        .await;
    let halt = Gate::new();
    let behind = halting(redis.port(), halt.clone()).await;
    let (here, stands_still, cookie) = two(&provider, redis.url(), &behind).await;
    expire(&provider, &[&here, &stands_still]);
    let (router, its_cookie) = (stands_still.app.router.clone(), cookie.clone());
    let late = tokio::spawn(async move {
        let headers = [("cookie", &*its_cookie)];
        send(&router, "GET", "/token", &headers, "").await
    });
    // It has the lease, and has read the tokens. Then its time is up.
    halt.arrived(1).await;
    let keys = redis.keys();
    let lease = keys.iter().find(|key| key.contains(":lease:")).unwrap();
    assert_eq!(redis.cli(&["DEL", lease]), "1");
    let answer = token(&here, &cookie).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    halt.open();
    let late = late.await.unwrap();
    assert_eq!((late.status.as_u16(), &late.body), (200, &answer.body));
    assert_eq!((refreshes(&provider), reuses(&provider)), (1, 0));
    assert_eq!(token(&here, &cookie).await.body, answer.body);
}
