//! What a request pays for the layer, by number of sign-ins in the cache: what the layer itself does, the first `acquire` on
//! what it loaded, and signing out. No network, and no time of the session store.

mod support;

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use axum_signout::{EndSessionRequest, SignOut, Tokens};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use support::{SIZES, World};
use tower::{Layer as _, Service as _, ServiceExt as _, service_fn};

/// How many requests are made ready at a time.
const BATCH: u64 = 64;

fn layer(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for size in SIZES {
        let mut world = runtime.block_on(World::new(size));

        for (name, signed_in) in [("request with a sign-in", true), ("request without", false)] {
            criterion.bench_with_input(BenchmarkId::new(name, size), &(), |bencher, ()| {
                bencher.iter_custom(|rounds| {
                    runtime.block_on(requests(&mut world, rounds, signed_in))
                });
            });
        }
        criterion.bench_with_input(
            BenchmarkId::new("first acquire", size),
            &(),
            |bencher, ()| {
                bencher.iter_custom(|rounds| runtime.block_on(first_acquires(&mut world, rounds)));
            },
        );
        let handle = runtime.block_on(handles(&mut world, 1)).remove(0);
        criterion.bench_with_input(
            BenchmarkId::new("acquire again", size),
            &(),
            |bencher, ()| {
                bencher.iter_custom(|rounds| {
                    runtime.block_on(async {
                        let begin = Instant::now();
                        for _ in 0..rounds {
                            black_box(handle.acquire("mail").await).expect("a hit");
                        }
                        begin.elapsed()
                    })
                });
            },
        );
        criterion.bench_with_input(BenchmarkId::new("sign-out", size), &(), |bencher, ()| {
            bencher.iter_custom(|rounds| runtime.block_on(sign_outs(&mut world, rounds)));
        });
    }
}

/// The layer around a service that does nothing.
async fn requests(world: &mut World, rounds: u64, signed_in: bool) -> Duration {
    let mut service = world.auth.layer().layer(service_fn(async |_| {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    let (mut total, mut left) = (Duration::ZERO, rounds);
    while left > 0 {
        let mut batch = Vec::new();
        for id in world.some(left.min(BATCH)) {
            let id = if signed_in { id } else { world.plain };
            batch.push(world.request(Some(id)).await);
        }
        left -= batch.len() as u64;
        let mut answers = Vec::with_capacity(batch.len());
        let begin = Instant::now();
        for request in batch {
            answers.push(service.call(request).await);
        }
        total += begin.elapsed();
        let stored = |answer: &Result<Response, _>| {
            let headers = answer.as_ref().map(Response::headers);
            headers.is_ok_and(|headers| headers.contains_key("cache-control"))
        };
        assert!(answers.iter().all(|answer| stored(answer) == signed_in));
    }
    total
}

/// What handlers are given: each of another request.
async fn handles(world: &mut World, count: u64) -> Vec<Tokens> {
    let mut app = Router::new()
        .route("/", get(async |tokens: Tokens| Extension(tokens)))
        .layer(world.auth.layer());
    let mut handles = Vec::new();
    for id in world.some(count) {
        let request = world.request(Some(id)).await;
        let answer = app.call(request).await;
        let Ok(mut answer) = answer;
        handles.push(
            answer
                .extensions_mut()
                .remove::<Tokens>()
                .expect("signed in"),
        );
    }
    handles
}

async fn first_acquires(world: &mut World, rounds: u64) -> Duration {
    let (mut total, mut left) = (Duration::ZERO, rounds);
    while left > 0 {
        let handles = handles(world, left.min(BATCH)).await;
        left -= handles.len() as u64;
        let mut tokens = Vec::with_capacity(handles.len());
        let begin = Instant::now();
        for handle in &handles {
            tokens.push(handle.acquire("mail").await);
        }
        total += begin.elapsed();
        assert!(tokens.iter().all(Result::is_ok));
    }
    total
}

/// A whole sign-out as a handler does it, without the way to the provider.
async fn sign_outs(world: &mut World, rounds: u64) -> Duration {
    let leave = async |sign_out: SignOut| sign_out.run(EndSessionRequest::new().local_only()).await;
    let app = Router::new()
        .route("/", post(leave))
        .layer(world.auth.layer());
    let mut total = Duration::ZERO;
    for _ in 0..rounds {
        let id = world.some(1)[0];
        let mut request = world.request(Some(id)).await;
        *request.method_mut() = axum::http::Method::POST;
        let app = app.clone();
        let begin = Instant::now();
        let answer = app.oneshot(request).await;
        total += begin.elapsed();
        let Ok(answer) = answer;
        assert!(answer.headers().contains_key("clear-site-data"));
        world.renew(id).await;
    }
    total
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = layer
}
criterion_main!(benches);
