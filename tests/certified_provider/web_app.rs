//! The example `web_app`, as a process, through the whole flow.

use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use crate::fixture::{json, parameter, registration};
use crate::support::app::{CLIENT, SECRET};
use crate::support::certified::{Certified, Fault, Options};
use crate::support::example::Example;
use crate::support::http::{Browser, Page};
use crate::support::redis::{RedisServer, free_port};
use url::Url;

struct WebApp {
    provider: Certified,
    process: Example,
    base_url: String,
    browser: Browser,
}

impl WebApp {
    /// Besides the issuer, the client and a free port.
    async fn start(environment: &[(&str, &str)]) -> Self {
        let provider = Certified::start(Options::new()).await;
        let mut process = spawn(provider.issuer(), environment);
        let base_url = process.base_url();
        let client = registration(&base_url);
        let confidential = environment
            .iter()
            .any(|(name, _)| *name == "OIDC_CLIENT_SECRET");
        let client = if confidential {
            client.secret(SECRET)
        } else {
            client.public()
        };
        provider.add_client(client).await;
        Self {
            provider,
            process,
            base_url,
            browser: Browser::new(),
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base_url)
    }

    async fn get(&self, path: &str) -> Page {
        self.browser.get(&self.url(path)).await
    }

    async fn sign_in(&self, login: &str, path: &str) {
        let callback = self.url("/signin/callback");
        let back = self
            .browser
            .sign_in_at(&self.url(path), login, &callback)
            .await;
        let page = self.browser.get(back.as_str()).await;
        assert_eq!(page.status, 200, "{}", page.body);
    }

    async fn sign_out(&self) -> Page {
        let form = self.get("/").await.form();
        assert_eq!(form.action.as_str(), self.url("/signout"));
        let page = self.browser.submit(&form).await;
        let end_session = page.location().expect("to the provider");
        assert_eq!(
            parameter(&end_session, "post_logout_redirect_uri"),
            Some(self.url("/signout/callback"))
        );
        let back = self.browser.sign_out_at(end_session.as_str()).await;
        self.browser.get(back.as_str()).await
    }
}

fn spawn(issuer: &str, environment: &[(&str, &str)]) -> Example {
    let usual = [
        ("OIDC_ISSUER", issuer),
        ("OIDC_CLIENT_ID", CLIENT),
        ("BIND", "127.0.0.1:0"),
    ];
    Example::spawn("web_app", &[&usual[..], environment].concat())
}

fn hex(text: &str) -> String {
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn number(value: &Value) -> i64 {
    value
        .as_i64()
        .unwrap_or_else(|| panic!("{value} is no whole number"))
}

#[tokio::test]
async fn a_user_signs_in_gets_tokens_signs_out_and_no_secret_is_logged_a11() {
    let app = WebApp::start(&[("OIDC_CLIENT_SECRET", SECRET), ("RUST_LOG", "trace")]).await;
    let home = app.get("/").await;
    assert_eq!(home.status, 200);
    assert_eq!(home.headers["content-type"], "text/html; charset=utf-8");
    assert!(
        home.body
            .contains(&format!("href=\"{}?", app.url("/signin"))),
        "{}",
        home.body
    );
    assert!(!home.body.contains("<form"));
    for path in ["/me", "/token", "/token?scope=openid"] {
        assert_eq!(app.get(path).await.status, 401, "{path}");
    }
    assert_eq!(json(&app.get("/evictions").await), json!([]));

    app.sign_in("ann", "/signin?return_to=/").await;
    let cookies = app.browser.cookies(&app.base_url).unwrap_or_default();
    let cookie = cookies.split("; ").find_map(|one| one.strip_prefix("id="));
    let cookie = cookie
        .unwrap_or_else(|| panic!("no cookie `id` in {cookies}"))
        .to_owned();
    let session = &app.provider.sessions().await[0].clients[CLIENT];
    assert!(session.persists_logout, "offline_access was granted");
    let me = json(&app.get("/me").await);
    assert_eq!(me["accounts"].as_array().map(Vec::len), Some(1));
    let account = &me["accounts"][0];
    assert_eq!(account["issuer"], app.provider.issuer());
    assert_eq!(account["subject"], "ann");
    assert_eq!(account["sid"].as_str(), session.sid.as_deref());
    assert_eq!(account["name"], "Ann");
    let created = number(&account["created"]);
    assert!(number(&account["last_used"]) >= created);
    assert_eq!(
        number(&account["expires"]) - number(&account["last_used"]),
        2 * 60 * 60
    );
    assert!(number(&account["token_expires"]) > created);

    let page = app.get("/token").await;
    assert_eq!(page.headers["cache-control"], "no-store");
    let facts = json(&page);
    let tokens = app.provider.tokens().await;
    let access_token = tokens
        .iter()
        .find(|one| one.kind == "AccessToken")
        .expect("one");
    let refresh_token = tokens
        .iter()
        .find(|one| one.kind == "RefreshToken")
        .expect("one");
    assert_eq!(facts["sha256"], hex(&access_token.value));
    assert!(
        (3500..=3600).contains(&number(&facts["expires_in"])),
        "{facts}"
    );
    assert_eq!(
        facts["scopes"],
        json!(["offline_access", "openid", "profile"])
    );
    assert_eq!(
        json(&app.get("/token?scope=openid%20profile").await)["sha256"],
        facts["sha256"]
    );
    let refused = app.get("/token?scope=Files.Read").await;
    assert!(!refused.status.is_success());

    let bye = app.sign_out().await;
    assert_eq!(bye.status, 200, "{}", bye.body);
    assert_eq!(app.get("/me").await.status, 401);
    assert!(!app.get("/").await.body.contains("<form"));
    let evictions = json(&app.get("/evictions").await);
    let expected = json!([{ "cause": "UserSignOut", "subject": "ann", "count": 3 }]);
    assert_eq!(evictions, expected);
    assert!(app.provider.sessions().await.is_empty());

    let issued = app.provider.issued().await;
    let finished = app.process.stop();
    assert_eq!(finished.status.code(), Some(0), "{}", finished.stderr);
    assert_eq!(finished.stdout, format!("listening on {}\n", app.base_url));
    for token in [access_token, refresh_token] {
        assert!(
            !app.provider.is_active(&token.value).await,
            "{}",
            token.kind
        );
    }
    assert!(
        finished.stderr.contains("TRACE") && finished.stderr.contains("signed out"),
        "traces are there:\n{}",
        finished.stderr
    );
    let secrets = issued
        .iter()
        .map(|one| (one.kind.as_str(), one.value.as_str()));
    for (kind, secret) in secrets.chain([("client secret", SECRET), ("session cookie", &cookie)]) {
        for line in finished.stderr.lines() {
            assert!(!line.contains(secret), "{kind}: {line}");
        }
    }
}

#[tokio::test]
async fn a_public_client_with_a_cookie_of_another_name_below_a_path() {
    // Let go of again, for the path must be known before the port is.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("bound").to_string();
    drop(free);
    let app = WebApp::start(&[
        ("BIND", &address),
        ("BASE_URL", &format!("http://{address}/app")),
        ("SESSION_COOKIE", "webapp"),
        ("OIDC_CLIENT_SECRET_FILE", "of no meaning here"),
        ("OIDC_SCOPES", "openid Mail.Read"),
    ])
    .await;
    assert_eq!(app.base_url, format!("http://{address}/app"));
    app.sign_in("bob", "/signin").await;
    let cookies = app.browser.cookies(&app.base_url).unwrap_or_default();
    assert!(cookies.contains("webapp="), "{cookies}");
    let session = &app.provider.sessions().await[0].clients[CLIENT];
    assert!(!session.persists_logout, "nobody asked for it");
    let me = json(&app.get("/me").await);
    assert_eq!(me["accounts"][0]["subject"], "bob");
    let facts = json(&app.get("/token?scope=Mail.Read").await);
    assert_eq!(facts["scopes"], json!(["Mail.Read", "openid"]));
    let requests = app.provider.events_named("request").await;
    assert!(
        requests
            .iter()
            .all(|one| one.authorization.as_deref() != Some("basic"))
    );

    let home = app.browser.get(&app.base_url).await.form();
    assert_eq!(home.action.as_str(), app.url("/signout"));
    let page = app.browser.submit(&home).await;
    let back = app
        .browser
        .sign_out_at(page.location().expect("to the provider").as_str())
        .await;
    assert_eq!(app.browser.get(back.as_str()).await.status, 200);
    assert_eq!(app.get("/me").await.status, 401);
}

#[tokio::test]
async fn two_accounts_are_listed_and_signed_out_together() {
    let app = WebApp::start(&[("OIDC_CLIENT_SECRET", SECRET)]).await;
    app.sign_in("ann", "/signin").await;
    app.sign_in("bob", "/signin?prompt=login").await;
    let me = json(&app.get("/me").await);
    let subjects = [&me["accounts"][0]["subject"], &me["accounts"][1]["subject"]];
    assert_eq!(subjects, ["ann", "bob"]);
    app.sign_out().await;
    let evictions = json(&app.get("/evictions").await);
    let mut subjects: Vec<&str> = evictions
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["subject"].as_str())
        .collect();
    subjects.sort_unstable();
    assert_eq!(subjects, ["ann", "bob"]);
}

#[tokio::test]
async fn a_sign_out_at_the_provider_ends_the_sign_in_and_its_hook_sees_the_cause_r23_r24() {
    let app = WebApp::start(&[("OIDC_CLIENT_SECRET", SECRET)]).await;
    let back_channel = app.url("/signout/backchannel");
    let client = registration(&app.base_url).secret(SECRET);
    let client = client.backchannel_logout_uri(&back_channel, true);
    app.provider.add_client(client).await;
    app.sign_in("ann", "/signin").await;
    assert_eq!(app.get("/me").await.status, 200);

    let end_session = app.provider.url("/session/end");
    app.browser.sign_out_at(&end_session).await;
    let answered = app.provider.events_named("logout_token.answered").await;
    let statuses: Vec<_> = answered.iter().map(|one| one.status).collect();
    assert_eq!(statuses, [Some(200)]);
    assert_eq!(app.get("/me").await.status, 401);
    assert!(!app.get("/").await.body.contains("<form"));
    // R25: the provider's answer does not wait for hooks.
    let deadline = Instant::now() + Duration::from_secs(30);
    let evictions = loop {
        let seen = json(&app.get("/evictions").await);
        if seen != json!([]) || Instant::now() > deadline {
            break seen;
        }
    };
    let expected = json!([{ "cause": "BackChannel", "subject": "ann", "count": 3 }]);
    assert_eq!(evictions, expected);
    app.sign_in("ann", "/signin").await;
    assert_eq!(json(&app.get("/me").await)["accounts"][0]["subject"], "ann");
}

/// With Redis, a key, and one address for both, as behind a balancer: the sign-in is begun on one node and ended on the other.
#[tokio::test]
async fn two_nodes_share_sign_ins_and_a_sign_out_holds_on_both_r23_a6() {
    let redis = RedisServer::start().await;
    let key = "A".repeat(43);
    let environment = [
        ("OIDC_CLIENT_SECRET", SECRET),
        ("REDIS_URL", redis.url()),
        ("TOKEN_KEY", &*key),
    ];
    let one = WebApp::start(&environment).await;
    // It says the common address, and listens on a port of its own.
    let port = free_port();
    let bind = format!("127.0.0.1:{port}");
    let own = [("BASE_URL", &*one.base_url), ("BIND", &*bind)];
    let environment = [&environment[..], &own].concat();
    let mut process = spawn(one.provider.issuer(), &environment);
    assert_eq!(process.base_url(), one.base_url);
    let at_two = |url: &str| {
        let mut url: Url = url.parse().unwrap();
        url.set_port(Some(port)).unwrap();
        url
    };
    let two = async |path: &str| one.browser.get(at_two(&one.url(path)).as_str()).await;

    let callback = one.url("/signin/callback");
    let begun = one.url("/signin?return_to=/");
    let back = one.browser.sign_in_at(&begun, "ann", &callback).await;
    let page = one.browser.get(at_two(back.as_str()).as_str()).await;
    assert_eq!(page.status, 200, "{}", page.body);

    let subjects = |page: Page| json(&page)["accounts"][0]["subject"].clone();
    assert_eq!(subjects(one.get("/me").await), "ann");
    assert_eq!(subjects(two("/me").await), "ann");
    let here = json(&one.get("/token").await);
    assert_eq!(json(&two("/token").await)["sha256"], here["sha256"]);

    one.sign_out().await;
    for page in [one.get("/me").await, two("/me").await, two("/token").await] {
        assert_eq!(page.status, 401);
    }
}

#[tokio::test]
async fn it_starts_while_the_provider_is_down_r45() {
    let provider = Certified::start(Options::new()).await;
    provider.inject("*", Fault::Status(503), None).await;
    let mut process = spawn(provider.issuer(), &[]);
    let base_url = process.base_url();
    let browser = Browser::new();
    let sign_in = format!("{base_url}/signin");
    assert_eq!(browser.get(&base_url).await.status, 200);
    let page = browser.get(&sign_in).await;
    assert_eq!(page.status, 503);
    assert!(page.headers.contains_key("retry-after"));

    provider.heal().await;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let page = browser.get(&sign_in).await;
        if page.status == 303 {
            break;
        }
        assert_eq!(page.status, 503);
        assert!(
            Instant::now() < deadline,
            "it does not notice that the provider is back"
        );
    }
}

#[test]
fn what_is_wrong_with_the_configuration_is_said_and_ends_it_with_2() {
    let good = [
        ("OIDC_ISSUER", "https://login.example.com"),
        ("OIDC_CLIENT_ID", CLIENT),
        ("BIND", "127.0.0.1:0"),
    ];
    for (name, value) in [
        ("OIDC_ISSUER", ""),
        ("OIDC_ISSUER", "login.example.com"),
        ("OIDC_ISSUER", "http://login.example.com"),
        ("OIDC_CLIENT_ID", ""),
        ("OIDC_SCOPES", "openid \"quoted\""),
        ("BIND", "3000"),
        ("BIND", "127.0.0.1:http"),
        ("BASE_URL", "app.example.com"),
        ("BASE_URL", "http://app.example.com"),
        ("BASE_URL", "https://app.example.com/?x=1"),
        ("SESSION_COOKIE", "a b"),
        ("SESSION_COOKIE", "id;Path=/"),
        ("REDIS_URL", "http://app:hidden@127.0.0.1"),
        ("REDIS_URL", "hidden"),
        ("TOKEN_KEY", "hidden"),
        ("RUST_LOG", "web_app=loud"),
    ] {
        let environment = [&good[..], &[(name, value)]].concat();
        let finished = Example::run("web_app", &environment);
        assert_eq!(
            finished.status.code(),
            Some(2),
            "{name}={value}: {finished:?}"
        );
        assert_eq!(finished.stdout, "", "{name}={value}");
        assert_eq!(
            finished.stderr.lines().count(),
            1,
            "{name}={value}: {}",
            finished.stderr
        );
        assert!(
            finished.stderr.contains(name) && !finished.stderr.contains("hidden"),
            "{name}={value}: {}",
            finished.stderr
        );
    }
}
