//! What Redis adds, on loopback: reads beside a bare `GET` of as many bytes on a connection of the same kind, a request with its
//! token, signing out, and how long another node takes to hear of it. What is compared takes turns, so that whatever else the
//! machine does meets all of it, and a ratio is the median of the turns' ratios.
//!
//! `ONLY=reads` (or `requests`, `sign-outs`, `lag`) runs one part, `ROW=load` (or `get`, `field`) one kind of read, `TURNS=…` as
//! many turns, `THREADS=…` on as many workers.

#[allow(dead_code, reason = "a benchmark uses a part of it")]
#[path = "../tests/support/process.rs"]
mod process;
#[allow(dead_code, reason = "a benchmark uses a part of it")]
#[path = "../tests/support/redis.rs"]
mod server;
mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use axum_signout::store::{MemoryTier, RedisTokenStore, TokenStore};
use axum_signout::{Account, EndSessionRequest, Locator, SignOut, Tokens};
use futures_util::future::join_all;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use server::RedisServer;
use support::{ISSUER, World, account_of, empty_store, is_bench, sign_in_to, tokens_of};
use tower::{Service as _, ServiceExt as _};
use tower_sessions::MemoryStore;
use tower_sessions::session::Id;

/// How many reads of a turn are under way at a time, and how many each of those makes one after the other.
const AT_A_TIME: u64 = 64;
const EACH: u64 = 20;

fn main() {
    let threads = std::env::var("THREADS").map_or(2, |threads| threads.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .expect("a runtime");
    let bench = Bench::new();
    // On a worker, as an app's requests are.
    let done = runtime.spawn(bench.run());
    runtime.block_on(done).expect("no panic");
}

struct Bench {
    only: Option<String>,
    turns: u64,
    /// How many sign-ins there are.
    size: u64,
}

impl Bench {
    fn new() -> Self {
        let turns = std::env::var("TURNS").ok();
        let turns = turns.map(|turns| turns.parse().expect("a number"));
        Self {
            only: std::env::var("ONLY").ok(),
            turns: turns.unwrap_or(if is_bench() { 100 } else { 1 }),
            size: if is_bench() { 10_000 } else { 100 },
        }
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == part)
    }

    async fn run(self) {
        let server = RedisServer::start().await;
        if self.wants("reads") {
            for token_bytes in [64, 1000] {
                self.reads(&server, token_bytes).await;
            }
        }
        if self.wants("requests") {
            self.requests(&server).await;
        }
        if self.wants("sign-outs") {
            self.sign_outs(&server).await;
        }
        if self.wants("lag") {
            self.lag(&server).await;
        }
    }

    /// Each of the rows in turns: one read at a time, and many.
    async fn reads(&self, server: &RedisServer, token_bytes: usize) {
        let reads = Arc::new(Reads::new(server, self.size, token_bytes).await);
        println!(
            "reads of {} bytes, {} sign-ins, {} turns",
            reads.bytes, self.size, self.turns
        );
        let mut kinds = vec![Kind::Get, Kind::Field, Kind::Load];
        let only = std::env::var("ROW").ok();
        kinds.retain(|kind| only.as_deref().is_none_or(|only| kind.short() == only));
        let (mut alone, mut many) = (vec![Vec::new(); kinds.len()], vec![Vec::new(); kinds.len()]);
        for turn in 0..self.turns {
            for (row, kind) in kinds.iter().copied().enumerate() {
                let begin = turn * AT_A_TIME * EACH;
                let mut times = Vec::new();
                for number in begin..begin + 4 * AT_A_TIME {
                    let begin = Instant::now();
                    reads.one(kind, number).await;
                    times.push(begin.elapsed());
                }
                alone[row].push(times);
                many[row].push(reads.many(kind, begin).await);
            }
        }
        println!(
            "  one at a time: median, 99th percentile, median of the turns' ratios of medians"
        );
        let medians = |times: &[Vec<Duration>]| -> Vec<Duration> {
            times.iter().map(|turn| at(turn, 0.5)).collect()
        };
        let bare = medians(&alone[0]);
        for (kind, times) in kinds.iter().zip(&alone) {
            let ratio = ratio(&medians(times), &bare);
            let times = times.concat();
            println!("{} {ratio:>6.2}", row(kind.name(), &times));
        }
        println!("  {AT_A_TIME} at a time: operations per second, time of one in GETs");
        for (kind, times) in kinds.iter().zip(&many) {
            let took = at(times, 0.5).as_secs_f64();
            let rate = (AT_A_TIME * EACH) as f64 / took;
            let ratio = ratio(times, &many[0]);
            println!("  {:42} {rate:>9.0} {ratio:>6.2}", kind.name());
        }
    }

    /// A request through the layer, whose handler acquires a token.
    async fn requests(&self, server: &RedisServer) {
        println!("a request with a token: median, 99th percentile");
        let memory = World::over(Arc::new(empty_store()), Arc::default()).await;
        let shared = World::over(Arc::new(store(server, "requests")), Arc::default()).await;
        let tier = RedisTokenStore::builder(server.url())
            .prefix("tier")
            .memory_tier(MemoryTier::new().good_for(Duration::from_secs(60)));
        let tier = tier.build().expect("the settings are in range");
        let tier = World::over(Arc::new(tier), Arc::default()).await;
        let mut worlds = [
            ("from memory", memory),
            ("from Redis", shared),
            ("from Redis through the tier", tier),
        ];
        for (_, world) in &mut worlds {
            for number in 0..self.size {
                world.add(number).await;
            }
        }
        let mut times = worlds.each_ref().map(|_| Vec::new());
        for _ in 0..self.turns {
            for ((_, world), times) in worlds.iter_mut().zip(&mut times) {
                let handler = async |tokens: Tokens| match tokens.acquire("mail").await {
                    Ok(token) => token.secret().len().to_string(),
                    Err(error) => panic!("{error}"),
                };
                let mut app = Router::new()
                    .route("/", get(handler))
                    .layer(world.auth.layer());
                // Of few, so that the tier has copies of them.
                for id in world.ids.clone().into_iter().take(AT_A_TIME as usize) {
                    let request = world.request(Some(id)).await;
                    let begin = Instant::now();
                    let answer = app.call(request).await;
                    times.push(begin.elapsed());
                    assert!(answer.is_ok_and(|answer| answer.status() == 200));
                }
            }
        }
        for ((name, _), times) in worlds.iter().zip(&times) {
            println!("{}", row(name, times));
        }
    }

    /// Of this browser, as a handler does it, and of an account.
    async fn sign_outs(&self, server: &RedisServer) {
        println!("signing out: median, 99th percentile");
        let mut world = World::over(Arc::new(store(server, "sign-outs")), Arc::default()).await;
        for number in 0..self.size {
            world.add(number).await;
        }
        let leave =
            async |sign_out: SignOut| sign_out.run(EndSessionRequest::new().local_only()).await;
        let app = Router::new()
            .route("/", post(leave))
            .layer(world.auth.layer());
        let mut times = Vec::new();
        for _ in 0..10 * self.turns {
            let id = world.some(1)[0];
            let mut request = world.request(Some(id)).await;
            *request.method_mut() = axum::http::Method::POST;
            let begin = Instant::now();
            let answer = app.clone().oneshot(request).await;
            times.push(begin.elapsed());
            let cleared = |answer: Response| answer.headers().contains_key("clear-site-data");
            assert!(answer.is_ok_and(cleared));
            world.renew(id).await;
        }
        println!("{}", row("one sign-in, by a handler", &times));
        let nobody = u64::MAX;
        for count in [1, 10, 100] {
            let mut times = Vec::new();
            for _ in 0..(self.turns / 2).max(1) {
                for _ in 0..count {
                    world.sign_in(nobody).await;
                }
                let begin = Instant::now();
                let report = world.auth.end_sign_ins_of(&account_of(nobody)).await;
                times.push(begin.elapsed());
                let report = report.expect("the store is there");
                assert_eq!(report.evicted.len(), count);
            }
            println!("{}", row(&format!("everywhere, {count} sessions"), &times));
        }
    }

    /// From the beginning of a sign-out on one node, and from its end, until a request that runs on another node knows.
    async fn lag(&self, server: &RedisServer) {
        println!("until another node knows: median, 99th percentile");
        let sessions = Arc::new(MemoryStore::default());
        let here = World::over(Arc::new(store(server, "lag")), sessions.clone()).await;
        let there = World::over(Arc::new(store(server, "lag")), sessions).await;
        let (mut from_begin, mut from_end) = (Vec::new(), Vec::new());
        for number in 0..5 * self.turns {
            let id = here.sign_in(number).await;
            let account = account_there(&there, id).await;
            let known = tokio::spawn(async move {
                account.ended().await;
                Instant::now()
            });
            // It waits before the sign-out begins.
            tokio::time::sleep(Duration::from_millis(2)).await;
            let begin = Instant::now();
            let report = here.auth.end_sign_ins_of(&account_of(number)).await;
            let end = Instant::now();
            assert_eq!(report.expect("the store is there").evicted.len(), 1);
            let known = known.await.expect("no panic");
            from_begin.push(known.duration_since(begin));
            from_end.push(known.saturating_duration_since(end));
        }
        println!("{}", row("from the sign-out's beginning", &from_begin));
        println!("{}", row("from its end", &from_end));
    }
}

/// Each part's sign-ins are its own.
fn store(server: &RedisServer, prefix: &str) -> RedisTokenStore {
    let builder = RedisTokenStore::builder(server.url()).prefix(prefix);
    builder.build().expect("the settings are in range")
}

/// What a handler on that node is given.
async fn account_there(node: &World, id: Id) -> Account {
    let mut app = Router::new()
        .route("/", get(async |account: Account| Extension(account)))
        .layer(node.auth.layer());
    let request = node.request(Some(id)).await;
    let Ok(mut answer) = app.call(request).await;
    let account = answer.extensions_mut().remove::<Account>();
    account.expect("signed in")
}

#[derive(Clone, Copy)]
enum Kind {
    Get,
    Field,
    Load,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET of as many bytes",
            Self::Field => "HGET of the entry, not looked at",
            Self::Load => "the store's load",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Field => "field",
            Self::Load => "load",
        }
    }
}

struct Reads {
    store: RedisTokenStore,
    /// As the store's own is, see `link.rs`.
    bare: MultiplexedConnection,
    locators: Vec<Locator>,
    /// Of the account's hash, and of a string that holds as many bytes as are read of it.
    keys: Vec<(String, String)>,
    bytes: usize,
}

impl Reads {
    async fn new(server: &RedisServer, size: u64, token_bytes: usize) -> Self {
        let client = redis::Client::open(server.url()).expect("a URL");
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(None)
            .set_pipeline_buffer_size(1024);
        let bare = client.get_multiplexed_async_connection_with_config(&config);
        let mut bare = bare.await.expect("the server is there");
        let prefix = format!("bytes-{token_bytes}");
        let store = store(server, &prefix);
        let (mut locators, mut keys, mut bytes) = (Vec::new(), Vec::new(), 0);
        for number in 0..size {
            let tokens = tokens_of(number, token_bytes);
            let locator = sign_in_to(&store, ISSUER, number, tokens).await;
            let account = locator.address.account;
            let place =
                |what: &str| format!("{prefix}:{{{:02x}}}:{what}:{account}", account.bucket());
            let key = (place("account"), place("strings"));
            let value: Vec<u8> = field(&key.0, &locator)
                .query_async(&mut bare)
                .await
                .expect("the server is there");
            bytes = value.len();
            assert!(bytes > 4 * token_bytes, "the store keeps it elsewhere");
            let set = redis::cmd("SET").arg(&key.1).arg(value).to_owned();
            let set = set.exec_async(&mut bare).await;
            set.expect("the server is there");
            locators.push(locator);
            keys.push(key);
        }
        Self {
            store,
            bare,
            locators,
            keys,
            bytes,
        }
    }

    /// Neighbours in time are not neighbours in memory.
    async fn one(&self, kind: Kind, number: u64) {
        let at = (number.wrapping_mul(7919) % self.locators.len() as u64) as usize;
        let (locator, (account, string)) = (&self.locators[at], &self.keys[at]);
        match kind {
            Kind::Get => {
                let read = redis::cmd("GET").arg(string).to_owned();
                let value: Vec<u8> = read
                    .query_async(&mut self.bare.clone())
                    .await
                    .expect("there");
                assert_eq!(black_box(value).len(), self.bytes);
            }
            Kind::Field => {
                let value: Vec<u8> = field(account, locator)
                    .query_async(&mut self.bare.clone())
                    .await
                    .expect("there");
                assert_eq!(black_box(value).len(), self.bytes);
            }
            Kind::Load => {
                let found = self.store.load(std::slice::from_ref(locator)).await;
                let found = found.expect("the store is there").remove(0);
                assert!(black_box(found).live().is_some());
            }
        }
    }

    async fn many(self: &Arc<Self>, kind: Kind, first: u64) -> Duration {
        let begin = Instant::now();
        let tasks = (0..AT_A_TIME).map(|task| {
            let reads = self.clone();
            tokio::spawn(async move {
                for number in 0..EACH {
                    reads.one(kind, first + task * EACH + number).await;
                }
            })
        });
        let done = join_all(tasks).await;
        let took = begin.elapsed();
        assert!(done.iter().all(Result::is_ok));
        took
    }
}

/// What the store reads of a sign-in.
fn field(account: &str, locator: &Locator) -> redis::Cmd {
    let mut read = redis::cmd("HGET");
    read.arg(account).arg(format!("h{}", locator.address.id));
    read
}

fn at(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn ratio(times: &[Duration], bare: &[Duration]) -> f64 {
    let ratios = times.iter().zip(bare);
    let mut ratios: Vec<f64> = ratios
        .map(|(time, bare)| time.div_duration_f64(*bare))
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

fn row(name: &str, times: &[Duration]) -> String {
    let micros = |share| at(times, share).as_nanos() as f64 / 1000.0;
    format!(
        "  {name:42} {:>9.1} µs {:>9.1} µs",
        micros(0.5),
        micros(0.99)
    )
}
