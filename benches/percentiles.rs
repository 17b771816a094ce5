//! Median and 99th percentile of single calls at 1,000,000 sign-ins. Each call is timed by itself, so that a figure includes the
//! reading of the clock (see the first line that is printed).

mod support;

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use axum_signout::Tokens;
use axum_signout::store::{Target, TokenStore};
use support::{World, empty_store, is_bench, ready, removal, sid, sign_in};
use tower::{Layer as _, Service as _, service_fn};

fn main() {
    let (size, count) = if is_bench() {
        (1_000_000, 200_000)
    } else {
        (100, 100)
    };
    println!("{size} sign-ins, {count} calls each; median, 99th percentile");
    show("nothing: the clock", timed(count, || (), |()| ()));
    of_the_store(size, count);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(of_the_layer(size, count));
}

fn show(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{name:44} {:>7} ns {:>7} ns",
        at(0.5).as_nanos(),
        at(0.99).as_nanos()
    );
}

fn timed<T, R>(
    count: u64,
    mut prepare: impl FnMut() -> T,
    mut call: impl FnMut(T) -> R,
) -> Vec<Duration> {
    (0..count)
        .map(|_| {
            let prepared = prepare();
            let begin = Instant::now();
            let result = black_box(call(prepared));
            let took = begin.elapsed();
            drop(result);
            took
        })
        .collect()
}

fn of_the_store(size: u64, count: u64) {
    let store = empty_store();
    let mut locators: Vec<_> = (0..size).map(|number| sign_in(&store, number)).collect();
    let mut number = 0;
    let times = timed(
        count,
        || {
            number = (number + 7919) % size;
            locators[number as usize].clone()
        },
        |locator| ready(store.load(std::slice::from_ref(&locator))),
    );
    show("store: load one", times);
    let mut removals = |name: &str, by: fn(&axum_signout::Locator) -> Target| {
        let mut times = Vec::new();
        for _ in 0..count / 4 {
            number = (number + 7919) % size;
            let target = by(&locators[number as usize]);
            let removal = removal();
            let begin = Instant::now();
            let removed = black_box(ready(store.remove(&target, &removal)));
            times.push(begin.elapsed());
            assert_eq!(removed.expect("memory does not fail").len(), 1);
            locators[number as usize] = sign_in(&store, number);
        }
        show(name, times);
    };
    removals("store: remove one sign-in", |locator| {
        Target::SignIn(locator.address)
    });
    removals("store: remove one account", |locator| {
        Target::Account(locator.address.account)
    });
    let mut times = Vec::new();
    for _ in 0..count / 4 {
        number = (number + 7919) % size;
        let (selector, removal) = (sid(number), removal());
        let begin = Instant::now();
        let members = ready(store.close(&selector, &removal)).expect("memory does not fail");
        for member in members {
            let removed = ready(store.remove(&Target::SignIn(member), &removal));
            black_box(removed).expect("memory does not fail");
        }
        times.push(begin.elapsed());
        locators[number as usize] = sign_in(&store, number);
    }
    show("store: close one sid and remove its sign-in", times);
}

async fn of_the_layer(size: u64, count: u64) {
    let mut world = World::new(size).await;
    let mut service = world.auth.layer().layer(service_fn(async |_| {
        Ok::<_, Infallible>(Response::new(Body::empty()))
    }));
    for (name, signed_in) in [
        ("layer: a request without a sign-in", false),
        ("layer: a request with a sign-in", true),
    ] {
        let mut times = Vec::new();
        for id in world.some(count) {
            let id = if signed_in { id } else { world.plain };
            let request = world.request(Some(id)).await;
            let begin = Instant::now();
            let answer = black_box(service.call(request).await);
            times.push(begin.elapsed());
            drop(answer);
        }
        show(name, times);
    }
    let mut app = Router::new()
        .route("/", get(async |tokens: Tokens| Extension(tokens)))
        .layer(world.auth.layer());
    let mut times = Vec::new();
    for id in world.some(count) {
        let request = world.request(Some(id)).await;
        let Ok(mut answer) = app.call(request).await;
        let handle = answer.extensions_mut().remove::<Tokens>();
        let handle = handle.expect("signed in");
        let begin = Instant::now();
        let token = black_box(handle.acquire("mail").await);
        times.push(begin.elapsed());
        token.expect("a hit");
    }
    show("first acquire of a request", times);
}
