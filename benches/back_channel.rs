//! What a back-channel call costs beside the verification of its signature, which no implementation can do without: 100,000
//! sign-ins in the memory store, the route called directly, no network. What is compared takes turns, so that whatever else
//! the machine does meets all of it. All of a call is done on one thread; what follows the answer, a hook and the report, is waited
//! for between the calls and not counted.

mod support;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum_signout::store::{MemoryTokenStore, Target, TokenStore};
use axum_signout::testing::{JwtBuilder, TestClient, TestProvider};
use axum_signout::{Auth, Provider, RevocationPolicy};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use support::{empty_store, is_bench, ready, removal, sid_at, sign_in_at};
use tokio::runtime::Runtime;
use tower::Service as _;

/// How many calls are made in a turn.
const BATCH: u64 = 50;

fn main() {
    let (size, turns) = if is_bench() { (100_000, 60) } else { (100, 2) };
    let turns = std::env::var("TURNS").map_or(turns, |turns| turns.parse().expect("a number"));
    // A scheduler that goes on with who was woken last, as that of an app: so the answer comes before what follows it.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut bench = runtime.block_on(Bench::new(size));
    println!("{size} sign-ins, {turns} turns of {BATCH} calls");
    let rows: [(&str, Row); 6] = [
        ("RS256 verification by the crypto backend", Row::Signature),
        ("verified, refused at the last check", Row::Refused),
        ("verified, nobody found", Row::Nobody),
        ("verified and evicted, by sid", Row::Session),
        ("verified and evicted, by sid and sub", Row::Both),
        ("eviction in the store alone", Row::Store),
    ];
    let only = std::env::var("ROW").ok();
    let rows = rows
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|only| name == only));
    let rows: Vec<_> = rows.collect();
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..turns {
        for ((_, row), times) in rows.iter().zip(&mut times) {
            times.push(bench.turn(&runtime, *row) / BATCH as u32);
        }
    }
    let median = |times: &[Duration]| {
        let mut sorted = times.to_vec();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    println!(
        "median and minimum of the turns, for each call; in signatures: the median of the turns' ratios"
    );
    for ((name, _), row) in rows.iter().zip(&times) {
        let ratios = row.iter().zip(&times[0]);
        let mut ratios: Vec<_> = ratios
            .map(|(one, bare)| one.div_duration_f64(*bare))
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        println!(
            "{name:42} {:>8.2} µs {:>8.2} µs {:>6.2}",
            median(row).as_nanos() as f64 / 1000.0,
            row.iter().min().expect("a turn").as_nanos() as f64 / 1000.0,
            ratios[ratios.len() / 2],
        );
    }
}

#[derive(Clone, Copy)]
enum Row {
    Signature,
    Refused,
    Nobody,
    Session,
    Both,
    Store,
}

struct Bench {
    provider: TestProvider,
    key: ParsedPublicKey,
    store: Arc<MemoryTokenStore>,
    router: Router,
    size: u64,
    number: u64,
}

impl Bench {
    async fn new(size: u64) -> Self {
        let client = TestClient::new("app");
        let provider = TestProvider::builder().client(client).start().await;
        let configured = Provider::discover(provider.issuer(), "app").build();
        let store = Arc::new(empty_store());
        let told = AtomicU64::new(0);
        let auth = Auth::builder(configured.expect("a provider"), "https://app.example.com")
            .store(store.clone())
            .revocation(RevocationPolicy::Never)
            .on_evict(move |_| {
                told.fetch_add(1, Ordering::Relaxed);
                std::future::ready(())
            })
            .build()
            .expect("a configuration");
        let bench = Self {
            key: key_of(&provider.url("/jwks")).await,
            provider,
            store,
            router: auth.sign_out_routes(),
            size,
            number: 0,
        };
        for number in 0..size {
            sign_in_at(&bench.store, bench.provider.issuer(), number);
        }
        bench
    }

    fn token(&self) -> JwtBuilder {
        self.provider
            .logout_token("app")
            .claim("sub", format!("{:016}", 0))
    }

    fn turn(&mut self, runtime: &Runtime, row: Row) -> Duration {
        let mut numbers = Vec::new();
        for _ in 0..BATCH {
            self.number = (self.number + 7919) % self.size;
            numbers.push(self.number);
        }
        let tokens = |token: &dyn Fn(JwtBuilder, u64) -> JwtBuilder| -> Vec<String> {
            let signed = numbers
                .iter()
                .map(|number| token(self.token(), *number).sign());
            signed.collect()
        };
        let session = |token: JwtBuilder, number: u64| token.claim("sid", number.to_string());
        let took = match row {
            Row::Signature => verify(&self.key, &tokens(&session)),
            Row::Refused => {
                let tokens = tokens(&|token, number| session(token, number).claim("jti", ""));
                self.call(runtime, &tokens, 400)
            }
            Row::Nobody => {
                let tokens = tokens(&|token, _| token.claim("sid", "nobody's").without("sub"));
                self.call(runtime, &tokens, 200)
            }
            Row::Session => {
                let tokens = tokens(&|token, number| session(token, number).without("sub"));
                self.call(runtime, &tokens, 200)
            }
            Row::Both => {
                let tokens = tokens(&|token, number| {
                    session(token, number).claim("sub", format!("{number:016}"))
                });
                self.call(runtime, &tokens, 200)
            }
            Row::Store => self.evict(&numbers),
        };
        if matches!(row, Row::Session | Row::Both | Row::Store) {
            let left = ready(self.store.stats()).expect("memory does not fail");
            assert_eq!(left.sign_ins as u64, self.size - BATCH);
            for number in numbers {
                sign_in_at(&self.store, self.provider.issuer(), number);
            }
        }
        took
    }

    fn call(&mut self, runtime: &Runtime, tokens: &[String], status: u16) -> Duration {
        let requests: Vec<_> = tokens.iter().map(|token| request(token)).collect();
        let answered = runtime.spawn(answers(self.router.clone(), requests));
        let (answers, took) = runtime.block_on(answered).expect("no panic");
        assert!(answers.iter().all(|answer| answer.status() == status));
        took
    }

    fn evict(&self, numbers: &[u64]) -> Duration {
        let removals: Vec<_> = numbers
            .iter()
            .map(|number| (sid_at(self.provider.issuer(), *number), removal()))
            .collect();
        let mut removed = Vec::with_capacity(numbers.len());
        let begin = Instant::now();
        for (selector, removal) in &removals {
            let members = ready(self.store.close(selector, removal)).expect("memory does not fail");
            for member in members {
                removed.push(ready(self.store.remove(&Target::SignIn(member), removal)));
            }
        }
        let took = begin.elapsed();
        drop(removed);
        took
    }
}

async fn answers(mut router: Router, requests: Vec<Request>) -> (Vec<Response>, Duration) {
    let mut answers = Vec::with_capacity(requests.len());
    let mut took = Duration::ZERO;
    for request in requests {
        let begin = Instant::now();
        let Ok(answer) = router.call(request).await;
        took += begin.elapsed();
        answers.push(answer);
        // What is left of the work after the answer.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }
    (answers, took)
}

fn request(token: &str) -> Request {
    Request::post("/signout/backchannel")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(format!("logout_token={token}")))
        .expect("a request")
}

/// From the set that the crate fetches too.
async fn key_of(keys: &str) -> ParsedPublicKey {
    let keys = reqwest::get(keys).await.expect("answered");
    let keys: serde_json::Value = keys.json().await.expect("a set of keys");
    let part = |name: &str| {
        let text = keys["keys"][0][name].as_str().expect("an RSA key");
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    };
    RsaPublicKeyComponents {
        n: part("n"),
        e: part("e"),
    }
    .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
    .expect("a key")
}

fn verify(key: &ParsedPublicKey, tokens: &[String]) -> Duration {
    let taken_apart: Vec<_> = tokens
        .iter()
        .map(|token| {
            let (signed, signature) = token.rsplit_once('.').expect("three parts");
            let signature = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
            (signed, signature)
        })
        .collect();
    let begin = Instant::now();
    for (signed, signature) in &taken_apart {
        let verified = key.verify_sig(signed.as_bytes(), signature);
        assert!(black_box(verified).is_ok());
    }
    begin.elapsed()
}
