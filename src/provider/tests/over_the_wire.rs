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
    Provider::discover(format!("http://127.0.0.1:{port}"), "my-app")
        .client_secret("secret")
        .timeout(Duration::from_millis(500))
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
        let provider = provider(port);
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
