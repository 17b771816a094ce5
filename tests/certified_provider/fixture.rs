//! The app of the tests, registered at a provider of its own, and a browser that knows both.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum_signout::clock::ManualClock;
use axum_signout::{AuthBuilder, ProviderBuilder};
use serde_json::Value;
use tower_sessions::{MemoryStore, SessionManagerLayer};
use url::Url;

use crate::support::app::{App, CLIENT, SECRET, Seen, Setup};
use crate::support::certified::{Certified, Client, Options};
use crate::support::http::{Browser, Page};

/// What differs from the usual app.
pub(crate) struct World {
    options: Options,
    client_id: &'static str,
    back_channel: Option<bool>,
    client: Box<dyn FnOnce(Client) -> Client + Send>,
    provider: Box<dyn FnOnce(ProviderBuilder) -> ProviderBuilder + Send>,
    auth: Box<dyn FnOnce(AuthBuilder) -> AuthBuilder + Send>,
    routes: Router,
}

/// An app and its provider.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) provider: Rc<Certified>,
    pub(crate) app: Arc<App>,
    pub(crate) browser: Browser,
    pub(crate) clock: Arc<ManualClock>,
    client_id: &'static str,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            options: Options::new(),
            client_id: CLIENT,
            back_channel: None,
            client: Box::new(|client| client),
            provider: Box::new(|provider| provider),
            auth: Box::new(|auth| auth),
            routes: Router::new(),
        }
    }

    pub(crate) fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    pub(crate) fn client(mut self, f: impl FnOnce(Client) -> Client + Send + 'static) -> Self {
        self.client = Box::new(f);
        self
    }

    /// The provider calls it when a session there ends, by logout tokens with a `sid` or with a subject alone.
    pub(crate) fn back_channel(mut self, with_sid: bool) -> Self {
        self.back_channel = Some(with_sid);
        self
    }

    pub(crate) fn provider(
        mut self,
        f: impl FnOnce(ProviderBuilder) -> ProviderBuilder + Send + 'static,
    ) -> Self {
        self.provider = Box::new(f);
        self
    }

    /// Asks for what outlives the session at the provider.
    pub(crate) fn offline(self) -> Self {
        self.provider(|provider| {
            provider
                .scopes(["openid", "offline_access", "Mail.Read"])
                .authorization_param("prompt", "consent")
        })
    }

    pub(crate) fn auth(
        mut self,
        f: impl FnOnce(AuthBuilder) -> AuthBuilder + Send + 'static,
    ) -> Self {
        self.auth = Box::new(f);
        self
    }

    pub(crate) fn routes(mut self, routes: Router) -> Self {
        self.routes = routes;
        self
    }

    pub(crate) async fn start(mut self) -> Running {
        let provider = Certified::start(std::mem::take(&mut self.options)).await;
        self.start_at(Rc::new(provider), Browser::new()).await
    }

    /// As another client of that app's provider, in the same browser.
    pub(crate) async fn start_beside(
        mut self,
        other: &Running,
        client_id: &'static str,
    ) -> Running {
        self.client_id = client_id;
        self.start_at(other.provider.clone(), other.browser.clone())
            .await
    }

    async fn start_at(self, provider: Rc<Certified>, browser: Browser) -> Running {
        let clock = Arc::new(ManualClock::new());
        let (of_auth, auth) = (clock.clone(), self.auth);
        let configure = self.provider;
        // Cookies go by the host alone, and all apps of a test are on the same one.
        let sessions = SessionManagerLayer::new(MemoryStore::default()).with_name(self.client_id);
        let app = Setup::new()
            .client_id(self.client_id)
            // The client of these tests does not send `Secure` cookies over http.
            .sessions(sessions.with_secure(false))
            .provider(|provider| configure(provider.scopes(["openid", "profile", "Mail.Read"])))
            .auth(|builder| auth(builder.clock(of_auth)))
            .routes(self.routes)
            .start_with(provider.issuer(), |_| {})
            .await;
        let client = registration(&app.base).set("client_id", self.client_id);
        let mut client = (self.client)(client.secret(SECRET));
        if let Some(with_sid) = self.back_channel {
            let uri = app.auth.registered_urls().backchannel_logout_uri;
            client = client.backchannel_logout_uri(&uri, with_sid);
        }
        provider.add_client(client).await;
        Running {
            provider,
            app: Arc::new(app),
            browser,
            clock,
            client_id: self.client_id,
        }
    }
}

/// What an app with the crate's routes registers.
pub(crate) fn registration(base_url: &str) -> Client {
    Client::new(CLIENT)
        .redirect_uri(&format!("{base_url}/signin/callback"))
        .post_logout_redirect_uri(&format!("{base_url}/signout/callback"))
}

impl Running {
    /// The same app in another browser.
    pub(crate) fn in_another_browser(&self) -> Self {
        Self {
            browser: Browser::new(),
            ..self.clone()
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Page {
        self.browser.get(&self.app.url(path)).await
    }

    pub(crate) async fn post_json(&self, path: &str, body: &Value) -> Page {
        self.browser.post_json(&self.app.url(path), body).await
    }

    pub(crate) async fn text(&self, path: &str) -> String {
        self.get(path).await.body
    }

    pub(crate) async fn whoami(&self) -> String {
        self.text("/whoami").await
    }

    pub(crate) async fn sign_in(&self, login: &str) {
        self.sign_in_by(login, "/signin?return_to=/whoami").await;
    }

    /// Through the provider's pages and back, up to the page that hands over.
    pub(crate) async fn sign_in_by(&self, login: &str, path: &str) {
        let back = self.answer_to(login, path).await;
        let page = self.browser.get(back.as_str()).await;
        assert_eq!(page.status, 200, "{}", page.body);
        assert!(
            page.body.contains("http-equiv=\"refresh\""),
            "{}",
            page.body
        );
    }

    /// The provider's answer to a sign-in, on its way to the callback.
    pub(crate) async fn answer_to(&self, login: &str, path: &str) -> Url {
        let callback = self.app.url("/signin/callback");
        self.browser
            .sign_in_at(&self.app.url(path), login, &callback)
            .await
    }

    /// The app's session cookie. The provider's are on the same host, which is all that cookies go by.
    pub(crate) fn session_cookie(&self) -> Option<String> {
        let all = self.browser.cookies(&self.app.base)?;
        let name = format!("{}=", self.client_id);
        let found = all.split("; ").find(|cookie| cookie.starts_with(&name));
        found.map(str::to_owned)
    }

    /// Where a sign-in that starts now sends the browser.
    pub(crate) async fn request_of(&self, path: &str) -> Url {
        let page = self.get(path).await;
        let url = page.location();
        url.unwrap_or_else(|| panic!("{}: {}", page.status, page.body))
    }

    /// The first page of the provider that a sign-in stops at.
    pub(crate) async fn first_page(&self, path: &str) -> Page {
        let callback = self.app.url("/signin/callback");
        self.browser.follow(self.get(path).await, &callback).await
    }

    /// Signs out here, and returns where the browser is sent.
    pub(crate) async fn sign_out(&self) -> Url {
        let page = self.browser.post(&self.app.url("/signout"), &[]).await;
        assert_eq!(page.status, 303, "R9: {}", page.body);
        page.location().expect("a 303 has a location")
    }

    /// Signs out here and at the provider, and returns what the callback answers.
    pub(crate) async fn sign_out_everywhere(&self) -> Page {
        let url = self.sign_out().await;
        let back = self.browser.sign_out_at(url.as_str()).await;
        self.browser.get(back.as_str()).await
    }

    /// Hooks and revocations come to their end. Nothing is left to do in the background from then on.
    pub(crate) async fn settle(&self) {
        let report = self.app.auth.shutdown().await;
        assert!(report.finished && report.outbox == Some(0), "{report:?}");
    }

    /// The one eviction that a hook saw.
    pub(crate) fn eviction(&self) -> Seen {
        let seen = self.app.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen[0].clone()
    }

    pub(crate) async fn sign_ins(&self) -> usize {
        self.app
            .auth
            .stats()
            .await
            .expect("it is in memory")
            .sign_ins
    }

    /// How many tokens of a kind are alive at the provider, by its introspection.
    pub(crate) async fn active(&self, kind: &str) -> usize {
        let mut active = 0;
        for token in self.provider.tokens().await {
            if token.kind == kind && self.provider.is_active(&token.value).await {
                active += 1;
            }
        }
        active
    }

    pub(crate) async fn events(&self, name: &str) -> usize {
        self.provider.events_named(name).await.len()
    }

    pub(crate) async fn refreshes(&self) -> usize {
        let grants = self.provider.events_named("grant.success").await;
        let kind = Some("refresh_token");
        grants
            .iter()
            .filter(|one| one.grant_type.as_deref() == kind)
            .count()
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }
}

pub(crate) fn parameter(url: &Url, name: &str) -> Option<String> {
    let mut pairs = url.query_pairs();
    pairs
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

pub(crate) fn json(page: &Page) -> Value {
    serde_json::from_str(&page.body).unwrap_or_else(|error| panic!("{error}: {}", page.body))
}
