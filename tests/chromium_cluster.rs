//! Two nodes that share sessions and tokens: the example `cluster`, over HTTP, in Chromium, and as a process.

mod support;

#[path = "../examples/cluster/app/mod.rs"]
mod cluster;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use cluster::{Cluster, Options};
use support::chromium::Chromium;
use support::example::Example;
use support::http::Browser;
use support::redis::{RedisServer, free_port};

const SIGNED_IN: &str = "Alice Adams is signed in";
const SIGNED_OUT: &str = "Nobody is signed in";

async fn start(redis_url: Option<String>) -> Cluster {
    let any_port = ([127, 0, 0, 1], 0).into();
    let options = Options {
        bind: [any_port; 2],
        redis_url,
    };
    Cluster::start(options).await.expect("the cluster starts")
}

/// The other node's page and its stream of events learn of it without a further request of the user's.
#[tokio::test]
async fn a_sign_out_on_one_node_reaches_the_stream_of_the_other_r23() {
    let redis = RedisServer::start().await;
    let cluster = start(Some(redis.url().to_owned())).await;
    let [a, b] = cluster.nodes.each_ref().map(|node| node.url.as_str());
    let browser = Browser::new();
    let page = browser.get(b).await;
    assert!(page.body.contains(SIGNED_OUT), "{}", page.body);
    assert_eq!(redis.keys(), Vec::<String>::new());

    let callback = format!("{a}/signin/callback");
    let sign_in = browser.get(&format!("{a}/signin?return_to=/")).await;
    let who = browser.follow(sign_in, &callback).await;
    let answered = browser.submit(&who.form().with("user", "alice")).await;
    let back = browser.follow(answered, &callback).await.location();
    let back = back.expect("back at the app");
    assert_eq!(browser.get(back.as_str()).await.status, 200);
    for node in [a, b] {
        let page = browser.get(node).await;
        assert!(page.body.contains(SIGNED_IN), "{}", page.body);
        assert!(page.body.contains("Signed in on node A"), "{}", page.body);
    }

    let of_the_example = |key: &String| key.starts_with("axum-signout-cluster:");
    assert!(
        redis.keys().iter().any(of_the_example),
        "{:?}",
        redis.keys()
    );

    // A client without a limit of time: the stream stays open.
    let events = reqwest::Client::builder().no_proxy().build().unwrap();
    let cookies = browser.cookies(b).expect("the same as the other node's");
    let request = events.get(format!("{b}/events")).header("cookie", cookies);
    let mut stream = request.send().await.expect("an answer");
    assert_eq!(stream.status(), 200);

    let form = browser.get(a).await.form();
    let page = browser.submit(&form).await;
    assert_eq!(page.status, 303, "{}", page.body);
    let told = async {
        let mut text = String::new();
        while let Some(chunk) = stream.chunk().await.expect("the stream goes on") {
            text += std::str::from_utf8(&chunk).expect("text");
            if text.contains("data: UserSignOut") {
                return text;
            }
        }
        panic!("it ended after {text:?}")
    };
    let text = tokio::time::timeout(Duration::from_secs(30), told).await;
    let text = text.expect("node B hears of it");
    assert!(text.contains("event: ended"), "{text}");
    let page = browser.get(b).await;
    assert!(page.body.contains(SIGNED_OUT), "{}", page.body);
    assert_eq!(browser.get(&format!("{b}/events")).await.status, 401);
    cluster.shutdown().await;
}

#[tokio::test]
async fn an_open_page_of_one_node_notices_what_happens_on_the_other_r23_a6() {
    let cluster = start(None).await;
    let [a, b] = cluster.nodes.each_ref().map(|node| node.url.as_str());
    let chromium = Chromium::start().await;
    chromium.goto(a).await;
    let window_a = chromium.client().window().await.unwrap();
    chromium.click_id("other").await;
    let others = async || {
        let all = chromium.client().windows().await.ok()?;
        all.into_iter().find(|window| *window != window_a)
    };
    let window_b = chromium.wait_until("the other node's page", others).await;
    let look_at = async |window: &fantoccini::wd::WindowHandle| {
        let switched = chromium.client().switch_to_window(window.clone()).await;
        switched.unwrap();
    };
    look_at(&window_b).await;
    chromium.wait_for_url(b).await;
    chromium.wait_for_text(SIGNED_OUT).await;

    look_at(&window_a).await;
    chromium.click_id("sign-in-alice").await;
    chromium.click_id("login-alice").await;
    chromium.wait_for_text(SIGNED_IN).await;
    look_at(&window_b).await;
    chromium.wait_for_text(SIGNED_IN).await;

    look_at(&window_a).await;
    chromium.click_id("sign-out").await;
    // Whatever becomes of it at the provider, where the user is now.
    chromium.wait_for_text("Sign out everywhere?").await;
    look_at(&window_b).await;
    chromium.wait_for_text("The sign-in ended").await;
    assert!(chromium.text().await.contains(SIGNED_OUT));
    assert!(chromium.exists("body[data-node=B]").await);
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_redis_that_it_started_ends_with_it_even_when_it_is_terminated() {
    let ports = [free_port(), free_port()];
    let bind = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let example = Example::spawn("cluster", &[("BIND", &bind)]);
    wait_until("both nodes", || ports.into_iter().all(answers));
    let finished = example.stop();
    let port = finished.stderr.split_once("redis://127.0.0.1:");
    let port = port.and_then(|(_, rest)| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    });
    let port: u16 = port.unwrap_or_else(|| panic!("no Redis in:\n{}", finished.stderr));
    wait_until("the end of Redis", || !answers(port));
}

#[test]
fn who_has_no_redis_is_told_what_to_install() {
    let finished = Example::run("cluster", &[("PATH", "/nowhere")]);
    assert_eq!(finished.status.code(), Some(1), "{finished:?}");
    for word in [
        "redis-server is not installed",
        "apt-get install redis-server",
        "REDIS_URL",
    ] {
        assert!(finished.stderr.contains(word), "{}", finished.stderr);
    }
}
