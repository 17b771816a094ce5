//! Requests per second of one route, with and without the layer: called directly, and over HTTP on loopback. What is compared
//! takes turns of a fraction of a second, so that whatever else the machine does meets both. Where the machine does much else, the
//! processor time that the server takes for a request says more than what is left over for it: that is the second figure over HTTP.
//! The same once more with a layer that does the least that one can do: what tower-sessions takes to read a session is in both.

mod support;

use std::collections::HashMap;
use std::hint::spin_loop;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use serde_json::Value;
use support::{World, is_bench};
use tower::layer::layer_fn;
use tower::{Service, ServiceExt as _};
use tower_sessions::session::Id;
use tower_sessions::{Session, SessionManagerLayer};

/// Turns that each side gets.
const TURNS: usize = 30;
/// Connections that are kept busy at the same time.
const CONNECTIONS: usize = 8;

fn main() {
    let (size, turn) = if is_bench() {
        (10_000, Duration::from_millis(200))
    } else {
        (10, Duration::from_millis(1))
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let world = runtime.block_on(World::new(size));
    let cases = [
        ("no cookie", "/", None),
        ("a session without a sign-in", "/", Some(world.plain)),
        ("a session with a sign-in", "/", Some(world.ids[0])),
        ("no cookie, handler reads session", "/cart", None),
        (
            "without a sign-in, handler reads session",
            "/cart",
            Some(world.plain),
        ),
        (
            "with a sign-in, handler reads session",
            "/cart",
            Some(world.ids[0]),
        ),
    ];
    let wanted = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|part| name.contains(part));
    let cases = cases.into_iter().filter(|(name, ..)| is_wanted(name));
    let (without, layers) = routers(&world);
    for (name, with) in layers {
        println!(
            "requests per second without and with {name}, and their ratio: medians of {TURNS} turns"
        );
        println!("called directly:");
        for (name, path, cookie) in cases.clone() {
            compare(name, |layer| {
                let app = if layer { &with } else { &without };
                Rate::of(runtime.block_on(call(app, path, cookie, turn)))
            });
        }
        let servers = [without.clone(), with].map(serve);
        println!(
            "over HTTP on loopback, {CONNECTIONS} connections, server on one thread, client on another:"
        );
        for (name, path, cookie) in cases.clone() {
            let mut clients = servers
                .each_ref()
                .map(|server| Client::new(server, path, cookie));
            compare(name, |layer| clients[usize::from(layer)].run(turn));
        }
    }
}

fn routers(world: &World) -> (Router, [(&'static str, Router); 2]) {
    let cart = async |session: Session| {
        let cart = session.get::<String>("cart").await;
        cart.ok().flatten().unwrap_or_default()
    };
    let routes = Router::new()
        .route("/", get(async || "hello"))
        .route("/cart", get(cart));
    let sessions = || SessionManagerLayer::new(world.sessions.as_ref().clone());
    let least = Arc::new(Mutex::new(
        (0..=u8::MAX).map(|n| (n, Arc::new(n))).collect(),
    ));
    let least = routes
        .clone()
        .layer(layer_fn(move |inner| Least {
            inner,
            map: least.clone(),
        }))
        .layer(sessions());
    (
        routes.clone().layer(sessions()),
        [
            ("the layer", routes.layer(world.auth.layer_with(sessions()))),
            ("a layer that does the least", least),
        ],
    )
}

/// Reads a value of the session, finds what it names in a map, gives that to the handler, and has the answer not stored.
#[derive(Clone)]
struct Least<S> {
    inner: S,
    map: Arc<Mutex<HashMap<u8, Arc<u8>>>>,
}

impl<S> Service<Request> for Least<S>
where
    S: Service<Request, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Self { mut inner, map } = self.clone();
        Box::pin(async move {
            let session = request.extensions().get::<Session>().cloned();
            let session = session.expect("the session layer is outside");
            if session.id().is_some() {
                let value = session.get_value("axum-signout").await;
                if let Some(Value::String(text)) = value.expect("the store is there") {
                    let found = map.lock().expect("nobody panics")[&text.as_bytes()[2]].clone();
                    request.extensions_mut().insert(found);
                }
            }
            let mut response = inner.call(request).await?;
            let no_store = HeaderValue::from_static("no-store");
            response
                .headers_mut()
                .insert(header::CACHE_CONTROL, no_store);
            Ok(response)
        })
    }
}

/// Requests per second of a turn.
#[derive(Clone, Copy)]
struct Rate {
    by_the_clock: f64,
    /// Of the server's processor time, where the system tells it.
    of_the_processor: Option<f64>,
}

impl Rate {
    fn of(by_the_clock: f64) -> Self {
        Self {
            by_the_clock,
            of_the_processor: None,
        }
    }
}

fn compare(name: &str, mut rate: impl FnMut(bool) -> Rate) {
    rate(false);
    rate(true);
    let turns: Vec<[Rate; 2]> = (0..TURNS).map(|_| [rate(false), rate(true)]).collect();
    print!("  {name:42}");
    show(&turns, |rate| Some(rate.by_the_clock));
    show(&turns, |rate| rate.of_the_processor);
    println!();
}

fn show(turns: &[[Rate; 2]], kind: fn(&Rate) -> Option<f64>) {
    let turns: Vec<[f64; 2]> = turns
        .iter()
        .filter_map(|[without, with]| Some([kind(without)?, kind(with)?]))
        .collect();
    if turns.is_empty() {
        return;
    }
    let median = |of: fn(&[f64; 2]) -> f64| {
        let mut all: Vec<f64> = turns.iter().map(of).collect();
        all.sort_unstable_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let ratio = median(|[without, with]| with / without);
    print!(
        " {:>9.0} {:>9.0} {:>6.1} %",
        median(|turn| turn[0]),
        median(|turn| turn[1]),
        ratio * 100.0
    );
}

async fn call(app: &Router, path: &str, cookie: Option<Id>, turn: Duration) -> f64 {
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < turn {
        for _ in 0..64 {
            let mut request = Request::get(path);
            if let Some(id) = cookie {
                request = request.header("cookie", format!("id={id}"));
            }
            let request = request.body(Body::empty()).expect("a request");
            let Ok(answer) = app.clone().oneshot(request).await;
            assert_eq!(answer.status(), 200);
            count += 1;
        }
    }
    f64::from(count) / begin.elapsed().as_secs_f64()
}

struct Server {
    address: SocketAddr,
    /// Where Linux tells how long the server's thread has run.
    times: Option<PathBuf>,
}

impl Server {
    fn ran_for(&self) -> Option<Duration> {
        let times = std::fs::read_to_string(self.times.as_ref()?).ok()?;
        let nanos = times.split_whitespace().next()?.parse().ok()?;
        Some(Duration::from_nanos(nanos))
    }
}

fn serve(app: Router) -> Server {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a port");
            let address = listener.local_addr().expect("a bound port");
            let thread = std::fs::read_link("/proc/thread-self").ok();
            let times = thread.map(|thread| Path::new("/proc").join(thread).join("schedstat"));
            let server = Server { address, times };
            sender.send(server).expect("the receiver waits");
            axum::serve(listener, app).await
        })
    });
    receiver.recv().expect("the thread sends")
}

/// Sends the same request over and over, on connections that are kept. It never sleeps: waking it would be work for the server's
/// thread, and the more the longer the server takes, for then it would sleep more often.
struct Client<'s> {
    server: &'s Server,
    connections: Vec<TcpStream>,
    request: String,
    answer: usize,
}

impl<'s> Client<'s> {
    fn new(server: &'s Server, path: &str, cookie: Option<Id>) -> Self {
        let cookie = cookie.map_or_else(String::new, |id| format!("cookie: id={id}\r\n"));
        let request = format!("GET {path} HTTP/1.1\r\nhost: app.example.com\r\n{cookie}\r\n");
        let connect = || {
            let connection = TcpStream::connect(server.address).expect("the server listens");
            connection.set_nodelay(true).expect("an option of TCP");
            connection
        };
        let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| connect()).collect();
        // All answers are as long as the first.
        let mut first = [0; 4096];
        let connection = &mut connections[0];
        connection.write_all(request.as_bytes()).expect("sent");
        std::thread::sleep(Duration::from_millis(100));
        let answer = connection.read(&mut first).expect("answered");
        assert!(first.starts_with(b"HTTP/1.1 200 OK\r\n"));
        for connection in &connections {
            connection.set_nonblocking(true).expect("an option of it");
        }
        Self {
            server,
            connections,
            request,
            answer,
        }
    }

    fn run(&mut self, turn: Duration) -> Rate {
        let mut answer = vec![0; self.answer];
        let before = self.server.ran_for();
        let (begin, mut count) = (Instant::now(), 0);
        while begin.elapsed() < turn {
            for connection in &mut self.connections {
                let sent = connection.write_all(self.request.as_bytes());
                sent.expect("sent");
            }
            for connection in &mut self.connections {
                let mut read = 0;
                while read < answer.len() {
                    match connection.read(&mut answer[read..]) {
                        Ok(0) => panic!("the server closed the connection"),
                        Ok(more) => read += more,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => spin_loop(),
                        Err(error) => panic!("{error}"),
                    }
                }
                count += 1;
            }
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let by_the_clock = f64::from(count) / begin.elapsed().as_secs_f64();
        let took = self.server.ran_for().zip(before);
        let of_the_processor = took
            .map(|(after, before)| after - before)
            .filter(|took| !took.is_zero())
            .map(|took| f64::from(count) / took.as_secs_f64());
        Rate {
            by_the_clock,
            of_the_processor,
        }
    }
}
