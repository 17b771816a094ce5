//! R44: each thing that happens is one structured event, with whose it was, why and how it ended; and one more of a counter.

mod support;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use axum_signout::clock::ManualClock;
use axum_signout::testing::{Endpoint, Fault, Gate, TestBrowser, TestProvider};
use axum_signout::{Auth, Cause};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use serde_json::json;
use support::app::{App, Setup, send};
use support::faulty::{Fail, FaultyStore};
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

type Fields = BTreeMap<&'static str, String>;

/// The events of this crate, as a collector of logs would get them.
#[derive(Clone, Default)]
struct Events(Arc<Mutex<Vec<Fields>>>);

struct Reader<'a>(&'a mut Fields);

impl Visit for Reader<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: tracing::Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("axum_signout::") {
            let mut fields = Fields::new();
            event.record(&mut Reader(&mut fields));
            fields.insert("level", event.metadata().level().to_string());
            self.0.lock().unwrap().push(fields);
        }
    }
}

impl Events {
    /// The only event of that message since the last look; all others are forgotten.
    fn only(&self, message: &str) -> Fields {
        let all = std::mem::take(&mut *self.0.lock().unwrap());
        let mut such: Vec<Fields> = all
            .into_iter()
            .filter(|fields| fields["message"] == message)
            .collect();
        assert_eq!(such.len(), 1, "{message}: {such:?}");
        such.remove(0)
    }
}

/// One runtime thread each, so that what is set for the thread is set for all of the test: provider, app and browser.
struct Watch {
    events: Events,
    counters: Snapshotter,
    _guards: (
        tracing::subscriber::DefaultGuard,
        metrics::LocalRecorderGuard<'static>,
    ),
}

impl Watch {
    fn start() -> Self {
        let events = Events::default();
        let recorder = Box::leak(Box::new(DebuggingRecorder::new()));
        let counters = recorder.snapshotter();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        Self {
            events,
            counters,
            _guards: (
                tracing::subscriber::set_default(subscriber),
                metrics::set_default_local_recorder(recorder),
            ),
        }
    }

    /// What was counted since the last look, gauges included, as `name{label=value}`.
    fn counted(&self) -> BTreeMap<String, i64> {
        let all = self.counters.snapshot().into_vec().into_iter();
        all.filter_map(|(key, _, _, value)| {
            let labels: Vec<String> = key
                .key()
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            let name = format!("{}{{{}}}", key.key().name(), labels.join(","));
            let value = match value {
                DebugValue::Counter(value) => i64::try_from(value).unwrap(),
                DebugValue::Gauge(value) => value.0 as i64,
                DebugValue::Histogram(_) => return None,
            };
            (value != 0).then_some((name, value))
        })
        .collect()
    }
}

fn counters<const N: usize>(all: [(&str, i64); N]) -> BTreeMap<String, i64> {
    all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// The event's fields of these names.
fn picked<'a>(event: &'a Fields, names: &[&'static str]) -> Vec<&'a str> {
    names
        .iter()
        .map(|name| event.get(name).map_or("", String::as_str))
        .collect()
}

async fn at(
    setup: impl FnOnce(axum_signout::AuthBuilder) -> axum_signout::AuthBuilder + Send + 'static,
) -> (TestProvider, App) {
    let provider = TestProvider::start().await;
    let app = Setup::new().auth(setup).start(&provider).await;
    (provider, app)
}

#[tokio::test]
async fn a_sign_ins_life_is_told_in_events_and_counted_r44() {
    let watch = Watch::start();
    let (provider, app) = at(|auth| auth).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let signed_in = watch.events.only("signed in");
    let account = signed_in["account"].clone();
    assert_eq!(account.len(), 43, "SHA-256 in base64url");
    assert_eq!(
        picked(&signed_in, &["issuer", "subject", "outcome"]),
        [provider.issuer(), "", "done"]
    );
    let sign_in = signed_in["sign_in"].clone();
    let counted = watch.counted();
    assert_eq!(counted["axum_signout_sign_ins_total{outcome=started}"], 1);
    assert_eq!(counted["axum_signout_sign_ins_total{outcome=done}"], 1);
    assert_eq!(
        counted["axum_signout_key_fetches_total{outcome=done}"], 1,
        "{counted:?}"
    );

    app.get(&mut browser, "/token?scope=mail").await;
    let refreshed = watch.events.only("refreshed");
    let names = ["account", "sign_in", "subject", "outcome"];
    assert_eq!(picked(&refreshed, &names), [&account, &sign_in, "", "done"]);
    let done = ("axum_signout_refreshes_total{outcome=done}", 1);
    assert_eq!(watch.counted(), counters([done]));

    provider.faults().once(Endpoint::Token, Fault::Status(503));
    app.get(&mut browser, "/token?scope=calendar").await;
    let failed = watch.events.only("a refresh failed");
    let outcome = "ProviderUnavailable";
    assert_eq!(picked(&failed, &names), [&account, &sign_in, "", outcome]);
    let failed = (
        "axum_signout_refreshes_total{outcome=ProviderUnavailable}",
        1,
    );
    assert_eq!(watch.counted(), counters([failed]));

    app.sign_out(&browser, &[]).await;
    let all = watch.events.0.lock().unwrap().clone();
    let evicted = all.iter().find(|e| e["message"] == "evicted").unwrap();
    let signed_out = watch.events.only("signed out");
    let names = ["account", "cause", "outcome"];
    let expected = [account.as_str(), Cause::UserSignOut.as_str(), "done"];
    assert_eq!(picked(evicted, &names), expected);
    assert_eq!(picked(&signed_out, &names), expected);
    assert_eq!(evicted["sign_in"], sign_in);
    assert_eq!(evicted["correlation_id"], signed_out["correlation_id"]);
    let counted = watch.counted();
    assert_eq!(
        counted["axum_signout_evictions_total{cause=UserSignOut}"],
        1
    );
    assert_eq!(
        counted["axum_signout_sign_outs_total{cause=UserSignOut,outcome=done}"],
        1
    );
}

#[tokio::test]
async fn an_outage_of_the_provider_is_told_once_and_its_end_too_r44() {
    let watch = Watch::start();
    let clock = Arc::new(ManualClock::new());
    let of_auth = clock.clone();
    let (provider, app) = at(move |auth| auth.clock(of_auth)).await;
    let mut all = Vec::new();
    for _ in 0..5 {
        let mut browser = TestBrowser::new();
        app.sign_in(&mut browser, "alice").await;
        all.push(browser);
    }
    let name = "axum_signout_provider_outages_total";
    let fault = Fault::Status(503);
    provider.faults().always(Endpoint::Refresh, fault);
    for browser in &mut all {
        app.get(browser, "/token?scope=mail").await;
    }
    let began = watch
        .events
        .only("the provider does not answer: refreshes are put off");
    let names = ["issuer", "outcome"];
    assert_eq!(picked(&began, &names), [provider.issuer(), "began"]);
    let counted = watch.counted();
    assert_eq!(counted[&format!("{name}{{outcome=began}}")], 1);
    let failed = "axum_signout_refreshes_total{outcome=ProviderUnavailable}";
    assert_eq!(counted[failed], 3, "who is put off is no failure");

    provider.faults().clear();
    clock.advance(std::time::Duration::from_secs(1));
    for browser in &mut all {
        app.get(browser, "/token?scope=mail").await;
    }
    let ended = watch.events.only("the provider answers again");
    assert_eq!(picked(&ended, &names), [provider.issuer(), "ended"]);
    assert_eq!(watch.counted()[&format!("{name}{{outcome=ended}}")], 1);
}

#[tokio::test]
async fn what_happens_to_app_tokens_is_told_and_counted_r44() {
    let watch = Watch::start();
    let (provider, app) = at(|auth| auth.max_app_tokens(1)).await;
    let tokens = app.auth.app_tokens();
    let names = ["issuer", "scopes", "resource", "cause", "tokens", "outcome"];
    let issuer = provider.issuer();
    let api = "https://api.example.com";

    let token = tokens.acquire_for(api, "b a").await.unwrap();
    let event = watch.events.only("app token obtained");
    assert_eq!(picked(&event, &names), [issuer, "a b", api, "", "", "done"]);
    assert!(!event.values().any(|value| value.contains(token.secret())));
    let done = ("axum_signout_app_tokens_total{outcome=done}", 1);
    assert_eq!(watch.counted(), counters([done]));

    tokens.acquire("c").await.unwrap();
    let event = watch.events.only("app tokens evicted");
    let expected = [issuer, "", "", "Capacity", "1", "done"];
    assert_eq!(picked(&event, &names), expected);
    let capacity = ("axum_signout_app_token_evictions_total{cause=Capacity}", 1);
    assert_eq!(watch.counted(), counters([done, capacity]));

    assert_eq!(tokens.evict_all().await, 1);
    let event = watch.events.only("app tokens evicted");
    let expected = [issuer, "", "", "Operator", "1", "done"];
    assert_eq!(picked(&event, &names), expected);
    assert!(app.auth.shutdown().await.finished);
    let counted = watch.counted();
    assert_eq!(
        counted["axum_signout_app_token_evictions_total{cause=Operator}"],
        1
    );
    assert_eq!(counted["axum_signout_revocations_total{outcome=done}"], 1);

    let refused = Fault::OAuthError("invalid_scope".into());
    provider.faults().once(Endpoint::ClientCredentials, refused);
    assert!(tokens.acquire("d").await.is_err());
    let event = watch.events.only("no app token");
    let expected = [issuer, "d", "", "", "", "ProviderRejected"];
    assert_eq!(picked(&event, &names), expected);
    let rejected = ("axum_signout_app_tokens_total{outcome=ProviderRejected}", 1);
    assert_eq!(watch.counted(), counters([rejected]));

    let gate = Gate::new();
    let held = Fault::HoldAnswer(gate.clone());
    provider.faults().once(Endpoint::ClientCredentials, held);
    let of_task = tokens.clone();
    let waiting = tokio::spawn(async move { of_task.acquire("e").await });
    gate.arrived(1).await;
    tokens.evict("e").await;
    gate.open();
    waiting.await.unwrap().unwrap();
    let evicted = "axum_signout_app_tokens_total{outcome=evicted}";
    assert_eq!(watch.counted()[evicted], 1);
}

#[tokio::test]
async fn subjects_are_in_events_by_configuration_only_r44() {
    for in_plain in [false, true] {
        let watch = Watch::start();
        let (provider, app) = at(move |auth| auth.subjects_in_events(in_plain)).await;
        let mut browser = TestBrowser::new();
        app.sign_in(&mut browser, "alice").await;
        app.get(&mut browser, "/token?scope=mail").await;
        let subject = provider.sessions()[0].subject.clone();
        app.sign_out(&browser, &[]).await;
        let all = watch.events.0.lock().unwrap().clone();
        for message in ["signed in", "refreshed", "evicted"] {
            let event = all.iter().find(|e| e["message"] == message).unwrap();
            let shown = if in_plain { subject.as_str() } else { "" };
            assert_eq!(picked(event, &["subject"]), [shown], "{message}");
        }
        let texts = all.iter().flat_map(|event| event.values());
        let shown = texts.filter(|text| text.contains(&subject)).count();
        assert_eq!(shown > 0, in_plain);
    }
}

#[tokio::test]
async fn refusals_and_failures_are_events_r44() {
    let watch = Watch::start();
    let hooked = |auth: axum_signout::AuthBuilder| {
        auth.on_evict(|_| std::future::ready(Err::<(), _>("the audit log is full")))
    };
    let (provider, app) = at(hooked).await;
    let mut browser = TestBrowser::new();

    let cross_site = [("sec-fetch-site", "cross-site")];
    app.sign_out(&browser, &cross_site).await;
    let event = watch
        .events
        .only("a sign-out that another site asked for was refused");
    assert_eq!(event["outcome"], "refused");

    app.get(
        &mut browser,
        "/signin/callback?state=nobody&error=access_denied",
    )
    .await;
    provider.faults().once(Endpoint::Token, Fault::Status(503));
    browser.goto(app.url("/signin")).await.unwrap();
    let page = browser.submit("login-alice", &[]).await.unwrap();
    assert_eq!(page.status(), 503);
    let event = watch.events.only("a sign-in failed");
    assert_eq!(
        picked(&event, &["kind", "outcome"]),
        ["ProviderUnavailable", "failed"]
    );

    app.sign_in(&mut browser, "alice").await;
    app.sign_out(&browser, &[]).await;
    let event = watch.events.only("a hook failed");
    assert_eq!(
        picked(&event, &["point", "outcome", "error"]),
        ["evicted", "Failed", "the audit log is full"]
    );
    let counted = watch.counted();
    let expected = [
        "axum_signout_sign_outs_refused_total{}",
        "axum_signout_sign_ins_total{outcome=failed}",
        "axum_signout_hook_failures_total{point=evicted,outcome=Failed}",
    ];
    for name in expected {
        assert_eq!(counted[name], 1, "{name}: {counted:?}");
    }
}

/// What the provider has signed is worth a warning, what anyone can make up is not.
#[tokio::test]
async fn what_strangers_send_fills_no_log_r44() {
    let watch = Watch::start();
    let (provider, app) = at(|auth| auth).await;
    let call = async |token: String| {
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let body = format!("logout_token={token}");
        let path = "/signout/backchannel";
        send(&app.router, "POST", path, &form, &body).await.status
    };
    assert_eq!(call("made.up".into()).await, 400);
    let event = watch.events.only("logout token refused");
    let fields = ["level", "outcome", "reason"];
    assert_eq!(picked(&event, &fields), ["DEBUG", "refused", "malformed"]);
    let token = provider.logout_token(support::app::CLIENT);
    let token = token.claim("sid", "nobody's").sign();
    assert_eq!(call(token.clone()).await, 200);
    assert_eq!(call(token).await, 400);
    let event = watch.events.only("logout token refused");
    assert_eq!(picked(&event, &fields), ["WARN", "refused", "replayed"]);

    let cross_site = [("sec-fetch-site", "cross-site")];
    send(&app.router, "POST", "/signout/status", &cross_site, "").await;
    let event = watch
        .events
        .only("a request of another site to prolong a sign-in was refused");
    assert_eq!(event["outcome"], "refused");
}

#[tokio::test]
async fn an_eviction_that_the_store_does_not_confirm_is_counted_until_it_is_a5_r44() {
    let watch = Watch::start();
    let store = FaultyStore::new();
    let faults = store.faults.clone();
    let (_provider, app) = at(move |auth| auth.store(store)).await;
    let mut browser = TestBrowser::new();
    app.sign_in(&mut browser, "alice").await;
    let account = watch.events.only("signed in")["account"].clone();
    watch.counted();
    faults.set(&["remove"], Fail::Unavailable);
    let (_, report) = app.leave(&browser, json!({})).await;
    assert_eq!(report.pending, 1);
    let event = watch.events.only("eviction pending");
    assert_eq!(
        picked(&event, &["account", "cause", "outcome"]),
        [&account, "UserSignOut", "pending"]
    );
    let counted = watch.counted();
    assert_eq!(counted["axum_signout_pending_evictions{}"], 1);
    let pending = "axum_signout_sign_outs_total{cause=UserSignOut,outcome=pending}";
    assert_eq!(counted[pending], 1);
    faults.clear();
    settled(&app.auth).await;
    let event = watch.events.only("pending eviction settled");
    assert_eq!(event["outcome"], "done");
    assert_eq!(
        watch.counted()["axum_signout_evictions_total{cause=UserSignOut}"],
        1
    );
}

/// Until the store has confirmed what was pending: at its end, the app tries once more.
async fn settled(auth: &Auth) {
    assert_eq!(auth.shutdown().await.pending, 0);
}
