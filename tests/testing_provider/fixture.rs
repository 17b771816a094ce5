use axum_signout::testing::{Page, TestBrowser, TestClient, TestProvider, TestProviderBuilder};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use url::{Url, form_urlencoded};

pub const APP: &str = "http://127.0.0.1:1";
pub const CALLBACK: &str = "http://127.0.0.1:1/signin/callback";
pub const AFTER: &str = "http://127.0.0.1:1/signout/callback";
/// With the characters that Basic authentication has to encode.
pub const SECRET: &str = "s3cret/+ü:";
/// RFC 7636, appendix B.
pub const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
pub const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

pub fn client() -> TestClient {
    TestClient::new("web").secret(SECRET).app(APP)
}

/// A provider with one confidential client, and one person's browser.
pub struct Fixture {
    pub provider: TestProvider,
    pub browser: TestBrowser,
    pub http: reqwest::Client,
}

impl Fixture {
    pub async fn new() -> Self {
        Self::with(TestProvider::builder()).await
    }

    pub async fn with(builder: TestProviderBuilder) -> Self {
        Self {
            provider: builder.client(client()).start().await,
            browser: TestBrowser::new(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// An authorization request; an empty value leaves a parameter out.
    pub fn authorize_url(&self, changed: &[(&str, &str)]) -> Url {
        let mut url = Url::parse(&self.provider.url("/authorize")).unwrap();
        let defaults = [
            ("client_id", "web"),
            ("redirect_uri", CALLBACK),
            ("response_type", "code"),
            ("scope", "openid profile Mail.Read"),
            ("state", "state-1"),
            ("nonce", "nonce-1"),
            ("code_challenge", CHALLENGE),
            ("code_challenge_method", "S256"),
        ];
        let kept = defaults
            .iter()
            .filter(|(name, _)| changed.iter().all(|(other, _)| other != name));
        let added = changed.iter().filter(|(_, value)| !value.is_empty());
        url.query_pairs_mut().extend_pairs(kept.chain(added));
        url
    }

    /// The last redirect. Nobody listens at the callback, so that is where the
    /// browser's way ends.
    pub fn way_back(&self) -> Url {
        let page = self.browser.history().last().expect("a page");
        page.location().expect("a redirect")
    }

    pub async fn authorize(&mut self, changed: &[(&str, &str)]) -> Option<Page> {
        let url = self.authorize_url(changed);
        self.browser.goto(url).await.ok()
    }

    pub async fn press(&mut self, button: &str) -> Option<Page> {
        self.browser.submit(button, &[]).await.ok()
    }

    pub async fn code(&mut self, login: &str, changed: &[(&str, &str)]) -> String {
        self.authorize(changed).await.expect("the sign-in page");
        self.press(&format!("login-{login}")).await;
        query(&self.way_back(), "code").expect("a code")
    }

    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        self.try_post(path, fields).await.expect("an answer")
    }

    pub async fn try_post(
        &self,
        path: &str,
        fields: &[(&str, &str)],
    ) -> Result<(u16, Value), reqwest::Error> {
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish();
        let secret: String = form_urlencoded::byte_serialize(SECRET.as_bytes()).collect();
        let answer = self
            .http
            .post(self.provider.url(path))
            .basic_auth("web", Some(secret))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
            .await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    pub async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(self.provider.url(path)).send().await;
        let text = answer.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    pub async fn redeem(&self, code: &str) -> (u16, Value) {
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", CALLBACK),
            ("code_verifier", VERIFIER),
        ];
        self.post("/token", &fields).await
    }

    pub async fn sign_in(&mut self, login: &str) -> Tokens {
        self.sign_in_with(login, &[]).await
    }

    pub async fn sign_in_with(&mut self, login: &str, changed: &[(&str, &str)]) -> Tokens {
        let code = self.code(login, changed).await;
        let (status, answer) = self.redeem(&code).await;
        assert_eq!(status, 200, "{answer}");
        Tokens(answer)
    }

    pub async fn refresh(&self, token: &str, extra: &[(&str, &str)]) -> (u16, Value) {
        let mut fields = vec![("grant_type", "refresh_token"), ("refresh_token", token)];
        fields.extend(extra);
        self.post("/token", &fields).await
    }

    pub fn end_session_url(&self, params: &[(&str, &str)]) -> Url {
        let mut url = Url::parse(&self.provider.url("/end_session")).unwrap();
        url.query_pairs_mut().extend_pairs(params);
        url
    }
}

/// An answer of the token endpoint.
pub struct Tokens(pub Value);

impl Tokens {
    pub fn get(&self, name: &str) -> &str {
        self.0[name].as_str().unwrap_or_else(|| panic!("no {name}"))
    }

    pub fn access(&self) -> &str {
        self.get("access_token")
    }

    pub fn refresh(&self) -> &str {
        self.get("refresh_token")
    }

    pub fn claims(&self) -> Value {
        part(self.get("id_token"), 1)
    }
}

/// The header (0) or the claims (1) of a JWT.
pub fn part(token: &str, index: usize) -> Value {
    let encoded = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(encoded).unwrap()).unwrap()
}

pub fn query(url: &Url, name: &str) -> Option<String> {
    let mut pairs = url.query_pairs();
    let (_, value) = pairs.find(|(candidate, _)| candidate == name)?;
    Some(value.into_owned())
}

pub fn error(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["error"].as_str().unwrap_or_default())
}
