//! Back-channel calls at a rate, over HTTP on loopback: some by the provider, most by somebody else. In a program of its own,
//! whose memory is looked at.

#[path = "../support/counting.rs"]
mod counting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum_signout::clock::ManualClock;
use axum_signout::store::{MemoryTokenStore, StoreStats};
use axum_signout::testing::{Event, TestClient, TestProvider};
use axum_signout::{AccessToken, Account, Auth, Cause, Provider, RevocationPolicy, TokenSet};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use counting::used;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tower_sessions::{MemoryStore, Session, SessionManagerLayer};

/// How much of it.
#[derive(Clone, Copy)]
pub struct Load {
    /// With two sign-ins each.
    pub accounts: usize,
    /// A quarter of them name a session at the provider, an eighth a subject, and five eighths are forged.
    pub calls: usize,
    /// How many of them a second.
    pub rate: usize,
}

/// Calls that are under way at the same time, each on a connection of its own.
const AT_ONCE: usize = 32;

/// The pause between two fetches of the provider's keys.
const COOL_DOWN: Duration = Duration::from_secs(1);

/// What rounds of forged calls may come to in memory, in bytes: less than one of a hundred leaves if it leaves anything.
const NOISE: usize = 4096;

fn subject(account: usize) -> String {
    format!("user-{account}")
}

fn sid(account: usize, sign_in: usize) -> String {
    format!("session-{account}-{sign_in}")
}

/// A logout token and what comes of it: nothing is the answer to a good one.
#[derive(Clone)]
struct Call {
    token: String,
    refused: Option<&'static str>,
}

struct World {
    provider: TestProvider,
    auth: Auth,
    told: Arc<AtomicUsize>,
    load: Load,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl World {
    async fn new(load: Load) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let base = format!("http://{address}");
        let client = TestClient::new("app").secret("secret").app(&base);
        let provider = TestProvider::builder().client(client).start().await;
        let configured = Provider::discover(provider.issuer(), "app")
            .client_secret("secret")
            .keys_cool_down(COOL_DOWN)
            .build();
        // The store's time stands still, so that what is counted at the end has not ended by itself.
        let store = MemoryTokenStore::builder().clock(Arc::new(ManualClock::new()));
        let told = Arc::new(AtomicUsize::new(0));
        let count = told.clone();
        let auth = Auth::builder(configured.unwrap(), base.clone())
            .store(store.build().unwrap())
            .revocation(RevocationPolicy::Never)
            .on_evict(move |eviction| {
                assert_eq!(eviction.cause(), Cause::BackChannel);
                count.fetch_add(1, Ordering::Relaxed);
                std::future::ready(())
            })
            .build()
            .unwrap();
        let sessions = SessionManagerLayer::new(MemoryStore::default());
        let app = Router::new()
            .merge(auth.routes())
            .layer(auth.layer_with(sessions));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            provider,
            auth,
            told,
            load,
            address,
            serving,
        }
    }

    /// As an app with a sign-in of its own does it, without a browser.
    async fn sign_in_everybody(self: &Arc<Self>) {
        let mut tasks = JoinSet::new();
        for part in 0..2 {
            let world = self.clone();
            tasks.spawn(async move {
                let sessions = Arc::new(MemoryStore::default());
                let issuer: Arc<str> = world.provider.issuer().into();
                for account in (part..world.load.accounts).step_by(2) {
                    for sign_in in 0..2 {
                        let session = Session::new(None, sessions.clone(), None);
                        let tokens =
                            TokenSet::new().with_access_token(AccessToken::bearer("access"));
                        let account = Account::new(issuer.clone(), subject(account))
                            .with_sid(sid(account, sign_in));
                        let signed_in = world.auth.sign_in(&session, None, account, tokens);
                        signed_in.await.unwrap();
                    }
                }
            });
        }
        tasks.join_all().await;
    }

    /// One for each of so many accounts: two of three name one of its sign-ins, the third both.
    async fn legitimate(self: &Arc<Self>) -> Vec<Call> {
        let mut tasks = JoinSet::new();
        for part in 0..2 {
            let world = self.clone();
            tasks.spawn_blocking(move || {
                let sign = |account: usize| {
                    let token = world.provider.logout_token("app");
                    let token = match account % 3 {
                        2 => token.claim("sub", subject(account)),
                        _ => token.claim("sid", sid(account, 0)),
                    };
                    Call {
                        token: token.sign(),
                        refused: None,
                    }
                };
                let accounts = (part..world.load.calls / 8 * 3).step_by(2);
                accounts.map(sign).collect::<Vec<_>>()
            });
        }
        tasks.join_all().await.concat()
    }

    /// About somebody who stays: if one of these were believed, a sign-in too many would be gone.
    fn forged(&self, count: usize) -> Vec<Call> {
        let token = |account: usize| {
            let token = self.provider.logout_token("app");
            token.claim("sub", subject(self.load.accounts - 1 - account))
        };
        // Signing takes long, and these are refused whether they come once or often.
        let signed = |number: usize| {
            let other = token(number).claim("aud", "another-app").sign();
            let expired = token(number).issued_ago(7200).expires_in(-3600).sign();
            (other, expired)
        };
        let signed: Vec<_> = (0..50).map(signed).collect();
        let part = |token: &str, number: usize| token.split('.').nth(number).unwrap().to_owned();
        let (header, signature) = (part(&signed[0].0, 0), part(&signed[0].0, 2));
        let forge = |number: usize| {
            let unsigned = token(number % 100).unsigned();
            let (other, expired) = &signed[number % signed.len()];
            match number % 6 {
                0 => {
                    let payload = part(&unsigned.sign(), 1);
                    (format!("{header}.{payload}.{signature}"), "signature")
                }
                1 => {
                    let kid = format!("key-{number}");
                    let unsigned = unsigned.header("alg", "RS256").header("kid", kid);
                    (format!("{}{signature}", unsigned.sign()), "unknown_key")
                }
                2 => (unsigned.sign(), "algorithm"),
                3 => (other.clone(), "audience"),
                4 => (expired.clone(), "expired"),
                _ => (noise(), "header"),
            }
        };
        let call = |number| {
            let (token, reason) = forge(number);
            Call {
                token,
                refused: Some(reason),
            }
        };
        (0..count).map(call).collect()
    }

    /// Makes the calls, at that rate if the machine can do it and one is asked for, and checks each answer. Returns the time
    /// that it took.
    async fn make(
        &self,
        connections: &mut [Connection],
        calls: &[Call],
        rate: Option<usize>,
    ) -> Duration {
        let (begin, next) = (Instant::now(), AtomicUsize::new(0));
        let some = async |connection: &mut Connection| {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(call) = calls.get(number) else {
                    break;
                };
                if let Some(rate) = rate {
                    let due = begin + Duration::from_secs_f64(number as f64 / rate as f64);
                    tokio::time::sleep_until(due.into()).await;
                }
                let (status, body) = connection.call(&call.token).await;
                match call.refused {
                    None => assert_eq!((&*status, &*body), ("200 OK", "")),
                    Some(reason) => {
                        assert_eq!(status, "400 Bad Request", "{reason}: {body}");
                        let said = format!("\"error_description\":\"{reason}\"");
                        assert!(body.contains(&said), "{reason}: {body}");
                    }
                }
            }
        };
        join_all(connections.iter_mut().map(some)).await;
        begin.elapsed()
    }

    async fn connections(&self) -> Vec<Connection> {
        let mut connections = Vec::new();
        for _ in 0..AT_ONCE {
            let stream = TcpStream::connect(self.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            connections.push(Connection(stream));
        }
        connections
    }

    async fn stats(&self) -> StoreStats {
        self.auth.stats().await.unwrap()
    }
}

/// In three parts, as a token is.
fn noise() -> String {
    let part = || {
        let mut bytes = [0; 99];
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        URL_SAFE_NO_PAD.encode(bytes)
    };
    format!("{}.{}.{}", part(), part(), part())
}

/// A client that holds nothing but its connection: what memory a call takes is the server's.
struct Connection(TcpStream);

impl Connection {
    /// Status and body of the answer.
    async fn call(&mut self, token: &str) -> (String, String) {
        let request = format!(
            "POST /signout/backchannel HTTP/1.1\r\nhost: app.example.com\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\nlogout_token={token}",
            "logout_token=".len() + token.len(),
        );
        self.0.write_all(request.as_bytes()).await.unwrap();
        let (mut answer, mut length) = ([0; 2048], 0);
        loop {
            let more = self.0.read(&mut answer[length..]).await.unwrap();
            assert_ne!(more, 0, "hung up");
            length += more;
            let text = std::str::from_utf8(&answer[..length]).unwrap();
            if let Some((status, body)) = answered(text) {
                return (status.to_owned(), body.to_owned());
            }
        }
    }
}

/// `None` until all of it is there.
fn answered(text: &str) -> Option<(&str, &str)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let (_, length) = head.split_once("content-length: ")?;
    let length: usize = length.lines().next()?.parse().ok()?;
    let status = head.lines().next()?.strip_prefix("HTTP/1.1 ")?;
    (body.len() == length).then_some((status, body))
}

/// All of it, with its assertions; prints its figures.
pub async fn under(load: Load) {
    let world = Arc::new(World::new(load).await);
    let begin = Instant::now();
    world.sign_in_everybody().await;
    println!(
        "{} sign-ins of {} accounts in {:.1?}",
        load.accounts * 2,
        load.accounts,
        begin.elapsed()
    );
    let begin = Instant::now();
    let mut legitimate = world.legitimate().await.into_iter();
    let mut forged = world.forged(load.calls / 8 * 5).into_iter();
    println!(
        "{} tokens signed in {:.1?}",
        legitimate.len(),
        begin.elapsed()
    );
    let next = |number| match number % 8 {
        0..3 => legitimate.next().unwrap(),
        _ => forged.next().unwrap(),
    };
    let calls: Vec<Call> = (0..load.calls).map(next).collect();
    let only_forged = calls.iter().filter(|call| call.refused.is_some());
    let only_forged: Vec<Call> = only_forged.cloned().collect();
    let mut connections = world.connections().await;

    // Buffers and connections come in the first round; what forged calls leave behind would come in every one.
    let (before, since) = (world.stats().await, Instant::now());
    let mut growth = usize::MAX;
    for _ in 0..3 {
        let began_with = used();
        world.make(&mut connections, &only_forged, None).await;
        growth = growth.min(used().saturating_sub(began_with));
    }
    println!(
        "{growth} bytes more after {} forged calls",
        only_forged.len()
    );
    assert!(
        growth <= NOISE,
        "{growth} bytes more after {} forged calls",
        only_forged.len()
    );
    assert_eq!(world.stats().await, before);

    let took = world.make(&mut connections, &calls, Some(load.rate)).await;
    println!(
        "{} calls, {} of them forged, in {took:.1?}: {:.0} a second of {} wanted",
        calls.len(),
        only_forged.len(),
        calls.len() as f64 / took.as_secs_f64(),
        load.rate
    );
    let (sessions, subjects) = (load.calls / 4, load.calls / 8);
    let (after, gone) = (world.stats().await, sessions + 2 * subjects);
    assert_eq!(after.sign_ins, before.sign_ins - gone);
    assert_eq!(after.selector_members, before.selector_members - gone);
    // A session's token leaves that it is closed and what was in it, and of its sign-in the cause and the answer; a subject's leaves the
    // account's mark, the answer, and the causes of two sign-ins.
    assert_eq!(after.marks, before.marks + 4 * sessions + 4 * subjects);
    assert_eq!(after.claims, before.claims + sessions + subjects);
    assert_eq!((after.downstream, after.outbox), (0, 0));

    let fetches = world.provider.count(|event| *event == Event::KeysFetched);
    let pauses = since.elapsed().as_secs_f64() / COOL_DOWN.as_secs_f64();
    println!("keys fetched {fetches} times in {pauses:.1} pauses");
    assert!(
        fetches >= 2 && fetches <= pauses as usize + 1,
        "{fetches} fetches"
    );

    world.auth.shutdown().await;
    assert_eq!(world.told.load(Ordering::Relaxed), gone);
}
