//! What the provider does when it is spoken to by plain HTTP: the facts that the crate's own flows are measured against. If one
//! of these fails, the provider behaves otherwise than the other tests take for granted.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use oauth2::{PkceCodeChallenge, PkceCodeVerifier};
use serde_json::Value;
use url::Url;

use crate::support::{
    certified::{Certified, Client, Fault, Options},
    http::{Browser, Page},
};

const REDIRECT: &str = "http://127.0.0.1:9/signin/callback";
const GOODBYE: &str = "http://127.0.0.1:9/signout/callback";
const SCOPES: &str = "openid profile email Mail.Read";

fn app() -> Client {
    Client::new("app")
        .secret("app-secret")
        .redirect_uri(REDIRECT)
        .post_logout_redirect_uri(GOODBYE)
}

/// An app that speaks the protocol by hand.
struct App {
    provider: Certified,
    browser: Browser,
}

struct SignedIn {
    access_token: String,
    refresh_token: String,
    id_token: String,
}

impl App {
    async fn start(options: Options) -> Self {
        Self {
            provider: Certified::start(options).await,
            browser: Browser::new(),
        }
    }

    fn authorization_url(
        &self,
        scopes: &str,
        extra: &[(&str, &str)],
    ) -> (String, PkceCodeVerifier) {
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let mut url = Url::parse(&self.provider.url("/auth")).expect("the provider's URL");
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", "app")
            .append_pair("redirect_uri", REDIRECT)
            .append_pair("scope", scopes)
            .append_pair("state", "the-state")
            .append_pair("nonce", "the-nonce")
            .append_pair("code_challenge", challenge.as_str())
            .append_pair("code_challenge_method", "S256")
            .extend_pairs(extra);
        (url.into(), verifier)
    }

    async fn sign_in(&self, scopes: &str, extra: &[(&str, &str)]) -> SignedIn {
        let (url, verifier) = self.authorization_url(scopes, extra);
        let back = self.browser.sign_in_at(&url, "ann", REDIRECT).await;
        assert_eq!(parameter(&back, "state").as_deref(), Some("the-state"));
        assert_eq!(
            parameter(&back, "iss").as_deref(),
            Some(self.provider.issuer()),
            "RFC 9207"
        );
        let code = parameter(&back, "code").unwrap_or_else(|| panic!("no code in {back}"));

        let answer = self
            .token(&[
                ("grant_type", "authorization_code"),
                ("code", &code),
                ("redirect_uri", REDIRECT),
                ("code_verifier", verifier.secret()),
            ])
            .await;
        SignedIn::read(&answer)
    }

    async fn refresh(&self, refresh_token: &str) -> Page {
        self.token(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
        ])
        .await
    }

    async fn token(&self, fields: &[(&str, &str)]) -> Page {
        self.authenticated("/token", fields).await
    }

    async fn revoke(&self, token: &str) -> Page {
        self.authenticated("/token/revocation", &[("token", token)])
            .await
    }

    async fn authenticated(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let url = self
            .provider
            .url(path)
            .replace("http://", "http://app:app-secret@");
        Browser::new().post(&url, fields).await
    }

    fn end_session_url(&self, id_token: &str) -> String {
        let mut url = Url::parse(&self.provider.url("/session/end")).expect("the provider's URL");
        url.query_pairs_mut()
            .append_pair("id_token_hint", id_token)
            .append_pair("post_logout_redirect_uri", GOODBYE)
            .append_pair("state", "bye-state");
        url.into()
    }
}

impl SignedIn {
    fn read(page: &Page) -> Self {
        assert_eq!(page.status, 200, "{}", page.body);
        let answer = json(page);
        let text = |name: &str| {
            answer[name]
                .as_str()
                .unwrap_or_else(|| panic!("no {name} in {}", page.body))
                .to_owned()
        };
        Self {
            access_token: text("access_token"),
            refresh_token: text("refresh_token"),
            id_token: text("id_token"),
        }
    }

    fn claims(&self) -> Value {
        jose_part(&self.id_token, 1)
    }
}

fn jose_header(token: &str) -> Value {
    jose_part(token, 0)
}

fn jose_part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).expect("three parts");
    let part = BASE64_URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&part).expect("JSON")
}

fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn json(page: &Page) -> Value {
    serde_json::from_str(&page.body).unwrap_or_else(|error| panic!("{error}: {}", page.body))
}

fn error(page: &Page) -> (u16, String) {
    (
        page.status.as_u16(),
        json(page)["error"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn signing_in_gives_tokens_with_a_sid_and_a_session_at_the_provider() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;

    let claims = signed_in.claims();
    assert_eq!(claims["iss"], app.provider.issuer());
    assert_eq!(claims["aud"], "app");
    assert_eq!(claims["sub"], "ann");
    assert_eq!(claims["name"], "Ann");
    assert_eq!(claims["email"], "ann@example.com");
    assert_eq!(claims["nonce"], "the-nonce");

    let sessions = app.provider.sessions().await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].account_id, "ann");
    assert_eq!(
        sessions[0].clients["app"].sid.as_deref(),
        claims["sid"].as_str()
    );
    assert!(claims["sid"].is_string());

    let introspected = app.provider.introspect(&signed_in.access_token).await;
    assert_eq!(introspected["active"], true);
    assert_eq!(introspected["scope"], SCOPES);
    assert!(app.provider.is_active(&signed_in.refresh_token).await);
}

#[tokio::test]
async fn a_second_sign_in_in_the_same_session_has_the_same_sid_and_asks_for_no_password() {
    let app = App::start(Options::new().client(app())).await;
    let first = app.sign_in(SCOPES, &[]).await;

    let (url, _) = app.authorization_url(SCOPES, &[]);
    let page = app
        .browser
        .follow(app.browser.get(&url).await, REDIRECT)
        .await;
    assert!(
        page.location().is_some(),
        "a page was shown:\n{}",
        page.body
    );

    let second = app.sign_in(SCOPES, &[]).await;
    assert_eq!(second.claims()["sid"], first.claims()["sid"]);
    assert!(app.provider.is_active(&first.refresh_token).await);
}

#[tokio::test]
async fn a_sid_for_those_clients_only_that_need_it_in_logout_tokens() {
    let uri = "http://127.0.0.1:9/signout/backchannel";
    for (name, client, has_sid) in [
        ("no back-channel", app(), false),
        (
            "subject only",
            app().backchannel_logout_uri(uri, false),
            false,
        ),
        (
            "session required",
            app().backchannel_logout_uri(uri, true),
            true,
        ),
    ] {
        let app = App::start(Options::new().client(client).sid_in_id_tokens(false)).await;
        let claims = app.sign_in(SCOPES, &[]).await.claims();
        assert_eq!(claims["sid"].is_string(), has_sid, "{name}");
    }
}

#[tokio::test]
async fn the_authorization_request_needs_pkce() {
    let app = App::start(Options::new().client(app())).await;
    let url = app.provider.url(&format!(
        "/auth?response_type=code&client_id=app&scope=openid&redirect_uri={REDIRECT}"
    ));
    let back = app
        .browser
        .get(&url)
        .await
        .location()
        .expect("the error goes to the client");
    assert_eq!(
        parameter(&back, "error").as_deref(),
        Some("invalid_request")
    );
}

#[tokio::test]
async fn a_rotated_refresh_token_used_again_revokes_the_whole_grant() {
    let app = App::start(Options::new().client(app())).await;
    let first = app.sign_in(SCOPES, &[]).await;

    let second = SignedIn::read(&app.refresh(&first.refresh_token).await);
    assert_ne!(second.refresh_token, first.refresh_token);
    assert_eq!(second.claims()["sid"], first.claims()["sid"]);
    assert_eq!(
        app.provider
            .events_named("refresh_token.consumed")
            .await
            .len(),
        1
    );
    assert!(!app.provider.is_active(&first.refresh_token).await);
    assert!(app.provider.is_active(&second.refresh_token).await);
    assert!(
        app.provider.is_active(&first.access_token).await,
        "rotation leaves the access token alone"
    );

    let again = app.refresh(&first.refresh_token).await;
    assert_eq!(error(&again), (400, "invalid_grant".to_owned()));
    assert_eq!(app.provider.events_named("grant.revoked").await.len(), 1);
    for dead in [
        &first.access_token,
        &second.access_token,
        &second.refresh_token,
    ] {
        assert!(!app.provider.is_active(dead).await);
    }
}

#[tokio::test]
async fn revoking_an_access_token_ends_it_and_the_tokens_of_its_grant_but_not_the_grant() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;

    assert_eq!(app.revoke(&signed_in.access_token).await.status, 200);
    assert!(!app.provider.is_active(&signed_in.access_token).await);
    assert!(!app.provider.is_active(&signed_in.refresh_token).await);
    assert!(app.provider.events_named("grant.revoked").await.is_empty());
    assert_eq!(app.revoke("never issued").await.status, 200);
}

#[tokio::test]
async fn revoking_a_refresh_token_revokes_the_grant() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;

    assert_eq!(app.revoke(&signed_in.refresh_token).await.status, 200);
    assert!(!app.provider.is_active(&signed_in.refresh_token).await);
    assert!(!app.provider.is_active(&signed_in.access_token).await);
    assert_eq!(app.provider.events_named("grant.revoked").await.len(), 1);
}

#[tokio::test]
async fn a_jwt_access_token_cannot_be_revoked() {
    let api = "https://api.example.com";
    let app = App::start(
        Options::new()
            .client(app())
            .resource(api, "Files.Read", "jwt"),
    )
    .await;
    let signed_in = app.sign_in("openid Files.Read", &[("resource", api)]).await;

    assert_eq!(signed_in.access_token.split('.').count(), 3, "a JWT");
    let refused = app.revoke(&signed_in.access_token).await;
    assert_eq!(error(&refused), (400, "unsupported_token_type".to_owned()));
}

#[tokio::test]
async fn ending_the_session_takes_the_grant_along_and_the_next_sign_in_asks_for_the_password() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;

    let url = app.end_session_url(&signed_in.id_token);
    let page = app.browser.get(&url).await;
    assert!(page.form().has("xsrf"));
    assert_eq!(
        app.provider.sessions().await.len(),
        1,
        "nothing happens before it is confirmed"
    );

    let back = app.browser.sign_out_at(&url).await;
    assert_eq!(back.as_str(), format!("{GOODBYE}?state=bye-state"));
    assert!(app.provider.sessions().await.is_empty());
    assert!(!app.provider.is_active(&signed_in.refresh_token).await);
    assert!(!app.provider.is_active(&signed_in.access_token).await);
    assert_eq!(
        app.provider.events_named("end_session.success").await.len(),
        1
    );
    assert_eq!(app.provider.events_named("grant.revoked").await.len(), 1);
    let refused = app.refresh(&signed_in.refresh_token).await;
    assert_eq!(error(&refused), (400, "invalid_grant".to_owned()));

    let (url, _) = app.authorization_url(SCOPES, &[]);
    let page = app
        .browser
        .follow(app.browser.get(&url).await, REDIRECT)
        .await;
    assert!(page.form().has("password"), "{}", page.body);
}

#[tokio::test]
async fn staying_signed_in_at_the_provider_ends_this_clients_part_only() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;

    let page = app
        .browser
        .get(&app.end_session_url(&signed_in.id_token))
        .await;
    let back = app.browser.submit(&page.form()).await;
    assert_eq!(
        back.location().expect("back to the app").as_str(),
        format!("{GOODBYE}?state=bye-state")
    );
    let sessions = app.provider.sessions().await;
    assert_eq!(sessions.len(), 1);
    assert!(!sessions[0].clients.contains_key("app"));
    assert!(!app.provider.is_active(&signed_in.refresh_token).await);
}

#[tokio::test]
async fn without_a_session_the_logout_page_submits_itself_and_leads_back_all_the_same() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;

    let stranger = Browser::new();
    let back = stranger
        .sign_out_at(&app.end_session_url(&signed_in.id_token))
        .await;
    assert_eq!(back.as_str(), format!("{GOODBYE}?state=bye-state"));
    assert_eq!(
        app.provider.sessions().await.len(),
        1,
        "another browser's session is not ended by the hint"
    );
}

#[tokio::test]
async fn refresh_tokens_with_offline_access_survive_a_logout() {
    // Without prompt=consent the provider takes offline_access out of the request (OpenID Connect Core, section 11).
    let consent = [("prompt", "consent")];
    let offline = "openid offline_access";
    for (name, options, scopes, extra, alive) in [
        (
            "offline_access",
            Options::new(),
            offline,
            &consent[..],
            true,
        ),
        (
            "offline_access without consent",
            Options::new(),
            offline,
            &[][..],
            false,
        ),
        (
            "no offline_access",
            Options::new(),
            "openid",
            &consent[..],
            false,
        ),
        (
            "offline_access, bound to the session",
            Options::new().tokens_expire_with_session(true),
            offline,
            &consent[..],
            false,
        ),
        (
            "no offline_access, not bound to the session",
            Options::new().tokens_expire_with_session(false),
            "openid",
            &consent[..],
            true,
        ),
    ] {
        let app = App::start(options.client(app())).await;
        let signed_in = app.sign_in(scopes, extra).await;
        let session = &app.provider.sessions().await[0];
        assert_eq!(session.clients["app"].persists_logout, alive, "{name}");

        app.browser
            .sign_out_at(&app.end_session_url(&signed_in.id_token))
            .await;
        assert!(app.provider.sessions().await.is_empty(), "{name}");
        assert_eq!(
            app.provider.is_active(&signed_in.refresh_token).await,
            alive,
            "{name}"
        );
        let refreshed = app.refresh(&signed_in.refresh_token).await;
        assert_eq!(
            refreshed.status.is_success(),
            alive,
            "{name}: {}",
            refreshed.body
        );
    }
}

#[tokio::test]
async fn a_refresh_may_narrow_the_scopes_and_keeps_the_refresh_tokens_own() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in("openid Mail.Read Mail.Send", &[]).await;

    let narrowed = app
        .token(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", &signed_in.refresh_token),
            ("scope", "openid Mail.Read"),
        ])
        .await;
    assert_eq!(json(&narrowed)["scope"], "openid Mail.Read");
    let narrowed = SignedIn::read(&narrowed);
    let widened = app
        .token(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", &narrowed.refresh_token),
            ("scope", "openid Mail.Send"),
        ])
        .await;
    assert_eq!(json(&widened)["scope"], "openid Mail.Send");
}

#[tokio::test]
async fn rotated_keys_sign_the_next_token_and_old_ones_stay_if_wanted() {
    let app = App::start(Options::new().client(app())).await;
    let kid = |token: &str| {
        jose_header(token)["kid"]
            .as_str()
            .expect("a kid")
            .to_owned()
    };
    let published = async |app: &App| app.browser.get(&app.provider.url("/jwks")).await.body;

    let first = app.sign_in(SCOPES, &[]).await;
    app.provider.rotate_keys(true).await;
    let second = SignedIn::read(&app.refresh(&first.refresh_token).await);
    assert_ne!(kid(&second.id_token), kid(&first.id_token));
    assert!(published(&app).await.contains(&kid(&first.id_token)));

    app.provider.rotate_keys(false).await;
    let third = SignedIn::read(&app.refresh(&second.refresh_token).await);
    let keys = published(&app).await;
    assert!(keys.contains(&kid(&third.id_token)));
    assert!(!keys.contains(&kid(&second.id_token)));
}

#[tokio::test]
async fn every_algorithm_that_clients_register_signs_their_id_tokens() {
    for alg in ["RS256", "PS256", "ES256", "EdDSA", "HS256"] {
        let app = App::start(Options::new().client(app().id_token_alg(alg))).await;
        let signed_in = app.sign_in(SCOPES, &[]).await;
        assert_eq!(jose_header(&signed_in.id_token)["alg"], alg);
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_the_refresh_token_consumed() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;
    let token_endpoint = app.provider.url("/token");

    app.provider
        .inject("/token", Fault::DropResponse, Some(1))
        .await;
    let lost = reqwest::Client::new()
        .post(token_endpoint)
        .basic_auth("app", Some("app-secret"))
        .form(&[
            ("grant_type", "refresh_token"),
            ("refresh_token", &signed_in.refresh_token),
        ])
        .send()
        .await;
    assert!(lost.is_err());
    assert_eq!(
        app.provider
            .events_named("refresh_token.consumed")
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn a_request_is_held_until_it_is_released() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;

    app.provider.inject("/token", Fault::Hold, None).await;
    let before = app.provider.now().await;
    let (refreshed, released) = tokio::join!(app.refresh(&signed_in.refresh_token), async {
        app.provider.wait_for("request.held", before).await;
        assert!(
            app.provider
                .events_named("refresh_token.consumed")
                .await
                .is_empty()
        );
        app.provider.release().await
    });
    assert_eq!(released, 1);
    assert_eq!(refreshed.status, 200, "{}", refreshed.body);
    app.provider.heal().await;
}

#[tokio::test]
async fn logout_tokens_reach_loopback() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (send, mut received) = tokio::sync::mpsc::unbounded_channel();
    let receiver = axum::Router::new().route(
        "/signout/backchannel",
        axum::routing::post(move |body: String| {
            send.send(body).expect("the test waits for it");
            async {}
        }),
    );
    tokio::spawn(async { axum::serve(listener, receiver).await });

    let client =
        app().backchannel_logout_uri(&format!("http://{address}/signout/backchannel"), true);
    let app = App::start(Options::new().client(client)).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;
    app.browser
        .sign_out_at(&app.end_session_url(&signed_in.id_token))
        .await;

    let body = received.recv().await.expect("one logout token");
    let token = body
        .strip_prefix("logout_token=")
        .expect("a form with one field");
    assert!(
        app.provider
            .issued()
            .await
            .iter()
            .any(|known| known.kind == "LogoutToken" && known.value == token)
    );
    let told = app.provider.events_named("backchannel.success").await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].client_id.as_deref(), Some("app"));
    assert_eq!(told[0].sid.as_deref(), signed_in.claims()["sid"].as_str());

    let delivery = app
        .provider
        .send_logout_token("app", Some("ann"), Some("a-sid"))
        .await;
    assert!(delivery.ok, "{delivery:?}");
}

#[tokio::test]
async fn a_secret_is_taken_in_header_and_body_alike_and_the_event_log_tells_which() {
    let grant = [
        ("grant_type", "refresh_token"),
        ("refresh_token", "never issued"),
    ];
    let with_id = [&[("client_id", "app")], &grant[..]].concat();
    let with_secret = [&[("client_secret", "app-secret")], &with_id[..]].concat();

    let confidential = App::start(Options::new().client(app())).await;
    let token_endpoint = confidential.provider.url("/token");
    let in_header = confidential.authenticated("/token", &grant).await;
    let in_body = confidential
        .browser
        .post(&token_endpoint, &with_secret)
        .await;
    let nowhere = confidential.browser.post(&token_endpoint, &with_id).await;
    assert_eq!(error(&in_header).1, "invalid_grant");
    assert_eq!(error(&in_body).1, "invalid_grant");
    assert_eq!(error(&nowhere).1, "invalid_client");
    let requests = confidential.provider.events_named("request").await;
    let schemes: Vec<_> = requests
        .iter()
        .filter_map(|request| request.authorization.as_deref())
        .collect();
    assert_eq!(schemes, ["basic", "", ""]);

    let public = App::start(Options::new().client(app().public())).await;
    let answer = public
        .browser
        .post(&public.provider.url("/token"), &with_id)
        .await;
    assert_eq!(error(&answer).1, "invalid_grant");
}

#[tokio::test]
async fn clients_can_be_added_while_it_runs() {
    let app = App::start(Options::new()).await;
    let (url, _) = app.authorization_url(SCOPES, &[]);
    assert_eq!(app.browser.get(&url).await.status, 400);
    app.provider.add_client(self::app()).await;
    app.sign_in(SCOPES, &[]).await;
}

#[tokio::test]
async fn everything_secret_is_on_the_list_of_what_was_issued() {
    let app = App::start(Options::new().client(app())).await;
    let signed_in = app.sign_in(SCOPES, &[]).await;
    let issued = app.provider.issued().await;
    for (kind, value) in [
        ("AccessToken", signed_in.access_token.as_str()),
        ("RefreshToken", &signed_in.refresh_token),
        ("IdToken", &signed_in.id_token),
        ("State", "the-state"),
        ("Nonce", "the-nonce"),
    ] {
        assert!(
            issued
                .iter()
                .any(|known| known.kind == kind && known.value == value),
            "{kind}"
        );
    }
    for kind in ["AuthorizationCode", "CodeVerifier"] {
        assert!(issued.iter().any(|known| known.kind == kind), "{kind}");
    }
}

#[tokio::test]
async fn it_quits_when_its_standard_input_is_closed() {
    let provider = Certified::start(Options::new()).await;
    let process = format!("/proc/{}", provider.process_id());
    assert!(std::path::Path::new(&process).exists());
    drop(provider);
    assert!(!std::path::Path::new(&process).exists());
}
