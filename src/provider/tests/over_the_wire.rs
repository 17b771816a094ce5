//! The default client against a server on loopback that misbehaves.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

type Script = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// Serves each connection once: what the script says to the request's first line, and closes.
async fn serve(script: impl Fn(&str, u16) -> Vec<u8> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let script: Script = Arc::new(move |line: &str| script(line, port));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, Arc::clone(&script)));
        }
    });
    port
}

async fn answer(mut stream: TcpStream, script: Script) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&buffer[..n]),
        }
    }
    let text = String::from_utf8_lossy(&request);
    let reply = script(text.lines().next().unwrap_or_default());
    if reply == b"hang" {
        std::future::pending::<()>().await;
    }
    let _ = stream.write_all(&reply).await;
    let _ = stream.shutdown().await;
}

fn reply(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

fn documents(line: &str, port: u16) -> Option<Vec<u8>> {
    let base = format!("http://127.0.0.1:{port}");
    if line.contains("/.well-known/openid-configuration") {
        let document = json!({
            "issuer": base,
            "authorization_endpoint": format!("{base}/authorize"),
            "token_endpoint": format!("{base}/token"),
            "jwks_uri": format!("{base}/keys"),
            "revocation_endpoint": format!("{base}/revoke"),
        });
        return Some(reply("200 OK", "", &document.to_string()));
    }
    line.contains("/keys")
        .then(|| reply("200 OK", "", &test_keys().jwks().to_string()))
}

fn provider(port: u16) -> Provider {
    provider_with(port, Duration::from_secs(10))
}

fn provider_with(port: u16, timeout: Duration) -> Provider {
    Provider::discover(format!("http://127.0.0.1:{port}"), "my-app")
        .client_secret("secret")
        .timeout(timeout)
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_provider_on_loopback_works_over_plain_http() {
    let port =
        serve(|line, port| documents(line, port).unwrap_or_else(|| reply("200 OK", "", TOKENS)))
            .await;
    let provider = provider(port);
    provider.ready().await.unwrap();
    exchange(&provider).await.unwrap();
    let outcome = provider.revoke(&"rt".into(), TokenHint::RefreshToken).await;
    assert_eq!(outcome, Revocation::Revoked);
}

/// R45.
#[tokio::test]
async fn redirects_are_not_followed() {
    let followed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&followed);
    let port = serve(move |line, port| {
        if line.contains("/elsewhere") {
            count.fetch_add(1, Ordering::SeqCst);
        }
        if line.contains("/.well-known") || line.contains("/token") {
            return reply("307 Temporary Redirect", "Location: /elsewhere\r\n", "");
        }
        documents(line, port).unwrap()
    })
    .await;
    let error = provider(port).metadata().await.unwrap_err();
    assert!(error.reason.contains("redirect"), "{}", error.reason);
    let base = format!("http://127.0.0.1:{port}");
    let by_hand = ProviderMetadata::new(
        &base,
        format!("{base}/a"),
        format!("{base}/token"),
        format!("{base}/keys"),
    );
    let by_hand = Provider::with_metadata(by_hand, "my-app").build().unwrap();
    assert_eq!(exchange(&by_hand).await.unwrap_err(), TokenError::Unusable);
    assert_eq!(followed.load(Ordering::SeqCst), 0);
}

/// R45.
#[tokio::test]
async fn faults_are_told_apart() {
    let away = |outcome_known| TokenError::Unavailable {
        retry_after: None,
        outcome_known,
    };
    let big = "x".repeat(2 << 20);
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{big}");
    let rows: Vec<(&str, Vec<u8>, TokenError)> = vec![
        ("closed without an answer", Vec::new(), away(false)),
        (
            "closed midway",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"acc".to_vec(),
            away(false),
        ),
        ("no HTTP", b"SSH-2.0\r\n\r\n".to_vec(), away(false)),
        ("hangs", b"hang".to_vec(), away(false)),
        (
            "announces too much",
            reply("200 OK", "", &big),
            TokenError::Unusable,
        ),
        ("sends too much", endless.into_bytes(), TokenError::Unusable),
        (
            "garbage",
            reply("200 OK", "", "garbage"),
            TokenError::Unusable,
        ),
    ];
    for (name, bytes, expected) in rows {
        let port =
            serve(move |line, port| documents(line, port).unwrap_or_else(|| bytes.clone())).await;
        // The metadata has the time it needs on a busy machine; what hangs then is given up soon.
        let timeout = Duration::from_secs(if name == "hangs" { 2 } else { 10 });
        let provider = provider_with(port, timeout);
        assert_eq!(exchange(&provider).await.unwrap_err(), expected, "{name}");
    }
}

#[tokio::test]
async fn nobody_listening_is_surely_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let metadata = ProviderMetadata::new(
        &base,
        format!("{base}/a"),
        format!("{base}/t"),
        format!("{base}/k"),
    );
    let provider = Provider::with_metadata(metadata, "c").build().unwrap();
    let known = TokenError::Unavailable {
        retry_after: None,
        outcome_known: true,
    };
    assert_eq!(exchange(&provider).await.unwrap_err(), known);
}

/// Keeps what is traced.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn nothing_secret_is_traced_a11() {
    let log = Log::default();
    let subscriber = {
        let log = log.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || log.clone())
            .finish()
    };
    // While there is one subscriber only, an event that a test on another thread meets first is switched off for all.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
    let _guard = tracing::subscriber::set_default(subscriber);
    let tokens = r#"{"access_token":"SECRET-at","token_type":"Bearer","refresh_token":"SECRET-rt","id_token":"SECRET.id.token"}"#;
    let answers: Vec<Vec<u8>> = vec![
        reply("200 OK", "", tokens),
        reply("200 OK", "", &tokens.replace("Bearer\"", "Bearer")),
        reply(
            "400 Bad Request",
            "",
            r#"{"error":"invalid_grant","error_description":"SECRET"}"#,
        ),
        reply("400 Bad Request", "", r#"{"error":"x","claims":"SECRET"}"#),
        reply("500 Oh", "", "SECRET"),
        Vec::new(),
    ];
    for answer in answers {
        let port =
            serve(move |line, port| documents(line, port).unwrap_or_else(|| answer.clone())).await;
        let provider = Provider::discover(format!("http://127.0.0.1:{port}"), "my-app")
            .client_secret("SECRET-client")
            .build()
            .unwrap();
        let code = CodeExchange {
            code: "SECRET-code",
            pkce_verifier: "SECRET-verifier",
            redirect_uri: "https://app.example.com/",
            scopes: &["openid"],
        };
        let error = provider.exchange_code(&code).await.err();
        assert!(!format!("{error:?}").contains("SECRET"));
        let refresh = Secret::new("SECRET-rt");
        let _ = provider.refresh(&refresh, &[], None).await;
        let _ = provider.revoke(&refresh, TokenHint::RefreshToken).await;
        let forged = IdToken::new("SECRET.id.token");
        assert!(verify(&provider, &forged).await.is_err());
    }
    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("tokens were issued"), "{text}");
    assert!(text.contains("invalid_grant"), "{text}");
    // As sent in the header, and as text.
    let basic = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        "my-app:SECRET-client",
    );
    assert!(!text.contains("SECRET") && !text.contains(&basic), "{text}");
}
