//! In Chromium, headless, driven by Debian's ChromeDriver.
//!
//! `harness` shows that the browser does what the other tests take for granted.

mod support;

mod harness {
    use axum::{Router, response::Html, routing::get};
    use http::header;
    use url::Url;

    use crate::support::{
        certified::{Certified, Client, Options},
        chromium::{Chromium, Launch},
    };

    async fn serve(app: Router) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async { axum::serve(listener, app).await });
        port
    }

    #[tokio::test]
    async fn signing_in_and_out_on_the_providers_own_pages() {
        let home =
            Router::new().fallback(get(async || Html("<title>The app</title><p id=home>home")));
        let app = format!("http://127.0.0.1:{}", serve(home).await);
        let client = Client::new("app")
            .secret("app-secret")
            .redirect_uri(&format!("{app}/signin/callback"))
            .post_logout_redirect_uri(&format!("{app}/goodbye"));
        let provider = Certified::start(Options::new().host("localhost").client(client)).await;
        let chromium = Chromium::start().await;

        let mut url = Url::parse(&provider.url("/auth")).expect("the provider's URL");
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", "app")
            .append_pair("redirect_uri", &format!("{app}/signin/callback"))
            .append_pair("scope", "openid")
            .append_pair(
                "code_challenge",
                "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
            )
            .append_pair("code_challenge_method", "S256");
        chromium.goto(url.as_str()).await;
        assert_eq!(chromium.title().await, "Sign-in");
        chromium.screenshot("provider-sign-in").await;

        chromium.sign_in_at_provider("ann", &app).await;
        chromium
            .wait_for_url(&format!("{app}/signin/callback?code="))
            .await;
        chromium.wait_for("#home").await;
        assert!(
            chromium
                .cookies()
                .await
                .iter()
                .all(|cookie| cookie.name != "_session"),
            "another site's cookie"
        );
        let all = chromium.all_cookies().await;
        assert!(all.iter().any(|cookie| cookie.name == "_session"
            && cookie.domain == "localhost"
            && cookie.http_only));

        chromium
            .goto(&provider.url(&format!(
                "/session/end?client_id=app&post_logout_redirect_uri={app}/goodbye"
            )))
            .await;
        assert_eq!(chromium.title().await, "Logout Request");
        chromium.screenshot("provider-sign-out").await;
        chromium.sign_out_at_provider().await;
        chromium.wait_for_url(&format!("{app}/goodbye")).await;
        assert!(provider.sessions().await.is_empty());

        // Nobody is signed in any more: the page submits itself.
        chromium
            .goto(&provider.url(&format!(
                "/session/end?client_id=app&post_logout_redirect_uri={app}/goodbye"
            )))
            .await;
        chromium.wait_for_url(&format!("{app}/goodbye")).await;
    }

    #[tokio::test]
    async fn two_browsers_know_nothing_of_each_other() {
        let app = Router::new().route(
            "/",
            get(async || {
                (
                    [(
                        header::SET_COOKIE,
                        "who=ann; HttpOnly; SameSite=Strict; Path=/",
                    )],
                    "in",
                )
            }),
        );
        let app = format!("http://127.0.0.1:{}/", serve(app).await);
        let (first, second) = tokio::join!(Chromium::start(), Chromium::start());

        first.goto(&app).await;
        let cookie = first.cookie("who").await.expect("it was set");
        assert_eq!((cookie.value.as_str(), cookie.http_only), ("ann", true));
        assert_eq!(cookie.same_site.as_deref(), Some("Strict"));
        first.execute("localStorage.setItem('who', 'ann')").await;

        assert!(second.all_cookies().await.is_empty());
        second.goto(&app).await;
        assert!(
            second
                .execute("return localStorage.getItem('who')")
                .await
                .is_null()
        );
    }

    #[tokio::test]
    async fn clear_site_data_and_the_back_button_work_on_loopback() {
        let app = Router::new()
            .route("/", get(async || Html("<p id=first>first")))
            .route(
                "/cleared",
                get(async || {
                    (
                        [("clear-site-data", "\"storage\"")],
                        Html("<p id=cleared>cleared"),
                    )
                }),
            );
        for host in ["127.0.0.1", "localhost"] {
            let app = format!("http://{host}:{}", serve(app.clone()).await);
            let chromium = Chromium::start().await;
            chromium.goto(&app).await;
            chromium
                .execute("localStorage.setItem('who', 'ann'); sessionStorage.setItem('who', 'ann')")
                .await;
            chromium.goto(&format!("{app}/cleared")).await;
            let left = chromium
                .execute("return localStorage.length + sessionStorage.length")
                .await;
            assert_eq!(left, 0, "{host}");
            chromium.back().await;
            chromium.wait_for("#first").await;
        }
    }

    #[tokio::test]
    async fn host_prefixed_cookies_work_over_http_on_loopback_and_only_a_secure_removal_removes_them()
     {
        let cookie =
            |value: &'static str| get(async move || ([(header::SET_COOKIE, value)], "done"));
        let app = Router::new()
            .route(
                "/set",
                cookie("__Host-id=1; Secure; HttpOnly; SameSite=Strict; Path=/"),
            )
            .route("/remove-plainly", cookie("__Host-id=; Max-Age=0; Path=/"))
            .route(
                "/remove",
                cookie("__Host-id=; Max-Age=0; Secure; HttpOnly; SameSite=Strict; Path=/"),
            );
        let port = serve(app).await;
        let chromium = Chromium::start().await;
        for host in ["127.0.0.1", "localhost"] {
            for (path, there) in [("set", true), ("remove-plainly", true), ("remove", false)] {
                chromium.goto(&format!("http://{host}:{port}/{path}")).await;
                assert_eq!(
                    chromium.cookie("__Host-id").await.is_some(),
                    there,
                    "{path} on {host}"
                );
            }
        }
    }

    #[tokio::test]
    async fn third_party_cookies_are_blocked_on_demand() {
        let framed = Router::new().route(
            "/",
            get(async || {
                (
                    [(
                        header::SET_COOKIE,
                        "third=party; Secure; SameSite=None; Path=/",
                    )],
                    Html("<p>framed"),
                )
            }),
        );
        let framed = format!("http://localhost:{}/", serve(framed).await);
        let page = format!("<iframe src='{framed}' onload='document.title=\"loaded\"'></iframe>");
        let outer = Router::new().route("/", get(async move || Html(page)));
        let outer = format!("http://127.0.0.1:{}/", serve(outer).await);

        for (launch, kept) in [
            (Launch::new(), 1),
            (Launch::new().block_third_party_cookies(), 0),
        ] {
            let chromium = launch.start().await;
            chromium.goto(&outer).await;
            chromium
                .wait_until("the frame", async || {
                    (chromium.title().await == "loaded").then_some(())
                })
                .await;
            assert_eq!(chromium.all_cookies().await.len(), kept);
        }
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_browser_that_was_dropped() {
        let chromium = Chromium::start().await;
        let browser = chromium.browser_process_id().expect("the driver tells");
        let traces = [
            format!("/proc/{}/exe", chromium.driver_process_id()).into(),
            // Of a process that has ended and that nobody has asked about yet, only the executable is gone.
            format!("/proc/{browser}/exe").into(),
            chromium.profile().to_owned(),
        ];
        assert!(traces.iter().all(|trace| trace.exists()), "{traces:?}");
        drop(chromium);
        assert!(!traces.iter().any(|trace| trace.exists()), "{traces:?}");
    }
}
