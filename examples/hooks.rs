//! Three eviction hooks that one would really write: a line in an audit log, the end of the user's WebSockets, and the end
//! of what the app had cached for the user on disk.
//!
//! `cargo run --example hooks`, and open the URL that it prints.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{self, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum_signout::clock::{Clock, SystemClock};
use axum_signout::testing::{TestClient, TestProvider};
use axum_signout::{Account, Auth, Cause, Eviction, EvictionHook, HookResult, Provider, Tokens};
use futures_util::FutureExt as _;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::json;
use tokio::fs;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_sessions::{MemoryStore, SessionManagerLayer};

/// One line of JSON for every sign-in that ends.
struct AuditLog {
    path: PathBuf,
}

impl EvictionHook for AuditLog {
    async fn evicted(&self, eviction: &Eviction) -> HookResult {
        // The tokens can be read here, and have no business in a log.
        let mut line = json!({
            "time": SystemClock::new().wall().as_secs(),
            "event": "evicted",
            "cause": eviction.cause(),
            "issuer": eviction.account().issuer(),
            "subject": eviction.account().subject(),
            "sign_in": eviction.sign_in(),
            "tokens": eviction.count(),
            "correlation_id": eviction.correlation_id(),
        })
        .to_string();
        line.push('\n');
        let mut options = fs::OpenOptions::new();
        let mut file = options.create(true).append(true).open(&self.path).await?;
        // In one piece: hooks of several evictions run at the same time.
        file.write_all(line.as_bytes()).await?;
        file.flush().await?;
        Ok(())
    }
}

/// The WebSockets that are open, by account.
///
/// Any of the user's sessions that ends closes all of them; those of a session that goes on connect again. Where they should
/// end with their own sign-in only, waiting for [`Tokens::ended`] does it without a hook.
#[derive(Clone, Default)]
struct Sockets {
    open: Arc<Mutex<HashMap<(String, String), CancellationToken>>>,
}

impl Sockets {
    fn key(account: &Account) -> (String, String) {
        (account.issuer().to_owned(), account.subject().to_owned())
    }

    /// Cancelled when the account's sockets have to close.
    fn closing(&self, account: &Account) -> CancellationToken {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.entry(Self::key(account)).or_default().clone()
    }
}

impl EvictionHook for Sockets {
    async fn evicted(&self, eviction: &Eviction) -> HookResult {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closing) = open.remove(&Self::key(eviction.account())) {
            closing.cancel();
        }
        Ok(())
    }
}

/// What was fetched for a user, in a folder of their own.
#[derive(Clone)]
struct Downloads {
    root: PathBuf,
}

impl Downloads {
    /// Named by a hash: a subject may be any text, `../..` too.
    fn folder(&self, account: &Account) -> PathBuf {
        let who = json!([account.issuer(), account.subject()]).to_string();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, who.as_bytes());
        let name: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        self.root.join(name)
    }

    async fn fetch(&self, account: &Account, number: u32) -> io::Result<String> {
        let folder = self.folder(account);
        let file = folder.join(format!("{number}.txt"));
        if let Ok(cached) = fs::read_to_string(&file).await {
            return Ok(cached);
        }
        let fetched = format!("invoice {number} of {}", account.subject());
        fs::create_dir_all(&folder).await?;
        fs::write(&file, &fetched).await?;
        Ok(fetched)
    }
}

impl EvictionHook for Downloads {
    async fn evicted(&self, eviction: &Eviction) -> HookResult {
        // The same user has signed in again, and goes on using it.
        if eviction.cause() == Cause::Replaced {
            return Ok(());
        }
        match fs::remove_dir_all(self.folder(eviction.account())).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[derive(Clone)]
struct App {
    sockets: Sockets,
    downloads: Downloads,
}

/// The app, and its `Auth`; `folder` is for its files.
fn app(provider: Provider, url: &str, folder: &Path) -> Result<(Router, Auth), Box<dyn Error>> {
    let app = App {
        sockets: Sockets::default(),
        downloads: Downloads {
            root: folder.join("downloads"),
        },
    };
    let auth = Auth::builder(provider, url)
        .after_sign_out("/")
        .redirect_to_sign_in(true)
        .eviction_hook(AuditLog {
            path: folder.join("audit.jsonl"),
        })
        .eviction_hook(app.sockets.clone())
        .eviction_hook(app.downloads.clone())
        .build()?;
    let router = Router::new()
        .route("/", get(home))
        .route("/socket", get(socket))
        .route("/invoices/{number}", get(invoice))
        .with_state(app)
        .merge(auth.routes())
        // The cookie is `SameSite=Strict`: another site's page cannot open a socket in the user's name.
        .layer(
            auth.layer_with(SessionManagerLayer::new(MemoryStore::default()).with_secure(false)),
        );
    Ok((router, auth))
}

async fn invoice(
    account: Account,
    extract::Path(number): extract::Path<u32>,
    State(app): State<App>,
) -> Result<String, StatusCode> {
    let invoice = app.downloads.fetch(&account, number).await;
    invoice.map_err(|error| {
        tracing::error!(%error, "an invoice could not be cached");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}

async fn socket(tokens: Tokens, State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    let closing = app.sockets.closing(&tokens.account());
    // An eviction that was over before `closing` was there has closed nothing: look again.
    if tokens.ended().now_or_never().is_some() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    upgrade.on_upgrade(async move |mut socket| {
        // Both ends of the connection may go first; what cannot be sent any more is of no use.
        if closing
            .run_until_cancelled(echo(&mut socket))
            .await
            .is_none()
        {
            let _ = socket.send(Message::Text("signed out".into())).await;
            let _ = socket.send(Message::Close(None)).await;
        }
    })
}

async fn echo(socket: &mut WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_)) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn home(auth: Auth, account: Option<Account>) -> Html<String> {
    const SCRIPT: &str = "
        const state = document.getElementById('socket');
        const socket = new WebSocket('/socket');
        socket.onopen = () => state.textContent = 'open';
        socket.onclose = () => state.textContent = 'closed';";
    let page: Markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Hooks" }
                style { "body{font:1rem/1.6 system-ui;max-width:38rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}" }
            }
            body {
                h1 { "Hooks" }
                @match account {
                    None => p { a href=(auth.sign_in_url("/")) { "Sign in" } },
                    Some(account) => {
                        p { "Signed in as " strong { (account.name().unwrap_or_default()) } "." }
                        p { "The WebSocket is " strong #socket { "connecting" } "." }
                        p { a href="/invoices/1" { "Invoice 1" } " is cached on disk once it was seen." }
                        form method="post" action=(auth.sign_out_url()) { button { "Sign out" } }
                        p { "Open this page twice, sign out in one, and look at the other." }
                        script { (PreEscaped(SCRIPT)) }
                    }
                }
            }
        }
    };
    Html(page.into_string())
}

/// An app on a free port, and its provider.
async fn start(folder: &Path) -> Result<(String, Auth, TestProvider), Box<dyn Error>> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let test_provider = TestProvider::builder()
        .host("localhost")
        .client(TestClient::new("hooks").secret("a-secret").app(&url))
        .start()
        .await;
    let provider = Provider::discover(test_provider.issuer(), "hooks")
        .client_secret("a-secret")
        .build()?;
    let (router, auth) = app(provider, &url, folder)?;
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((url, auth, test_provider))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let folder = std::env::temp_dir().join(format!("axum-signout-hooks-{}", std::process::id()));
    fs::create_dir_all(&folder).await?;
    let (url, auth, _provider) = start(&folder).await?;
    println!(
        "Open {url} in a browser. The app's files are in {}.",
        folder.display()
    );
    tokio::signal::ctrl_c().await?;
    // Hooks that are under way come to their end.
    auth.shutdown().await;
    fs::remove_dir_all(&folder).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum_signout::testing::TestBrowser;
    use futures_util::StreamExt as _;
    use tokio_tungstenite::connect_async;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

    #[tokio::test]
    async fn signing_out_is_noted_closes_the_socket_and_deletes_the_downloads() {
        let folder =
            std::env::temp_dir().join(format!("axum-signout-hooks-test-{}", std::process::id()));
        fs::create_dir_all(&folder).await.unwrap();
        let (url, _auth, _provider) = start(&folder).await.unwrap();

        let mut browser = TestBrowser::new();
        browser.goto(format!("{url}/invoices/7")).await.unwrap();
        browser.submit("login-alice", &[]).await.unwrap();
        let invoice = browser.follow().await.unwrap();
        assert_eq!(invoice.body(), "invoice 7 of alice");
        let downloads = || std::fs::read_dir(folder.join("downloads")).unwrap().count();
        assert_eq!(downloads(), 1);

        let mut request = format!("{}/socket", url.replace("http:", "ws:"))
            .into_client_request()
            .unwrap();
        let cookie = format!("id={}", browser.cookie("127.0.0.1", "id").unwrap());
        request
            .headers_mut()
            .insert("cookie", cookie.parse().unwrap());
        let (mut socket, _) = connect_async(request).await.unwrap();

        browser.goto(&url).await.unwrap();
        browser.submit("Sign out", &[]).await.unwrap();
        let last = socket.next().await.unwrap().unwrap();
        assert_eq!(last.to_text().unwrap(), "signed out");
        assert!(socket.next().await.unwrap().unwrap().is_close());
        assert_eq!(downloads(), 0);

        let log = fs::read_to_string(folder.join("audit.jsonl"))
            .await
            .unwrap();
        let line: serde_json::Value = serde_json::from_str(&log).unwrap();
        assert_eq!(
            (&line["cause"], &line["subject"]),
            (&json!("UserSignOut"), &json!("alice"))
        );
        fs::remove_dir_all(&folder).await.unwrap();
    }
}
