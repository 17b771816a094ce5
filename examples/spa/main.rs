//! A single-page app: the page holds no token, talks to an API through its own server, warns before the session ends, and every tab
//! notices when it has.
//!
//! `cargo run --example spa`, with an OpenID provider and an API in the same process. Open the URL that it prints, in two tabs.
//!
//! `BIND` says where the app listens, 127.0.0.1:3000 by default. `IDLE` is the idle lifetime in seconds, 90 by default: short, so that
//! one can watch the warning come.

mod app;

use std::error::Error;
use std::time::Duration;

use app::{Options, Spa};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| "axum_signout=info,spa=info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();

    let mut options = Options::default();
    if let Ok(address) = std::env::var("BIND") {
        options.bind = address.parse()?;
    }
    if let Ok(seconds) = std::env::var("IDLE") {
        options.idle = Duration::from_secs(seconds.parse()?);
    }
    let spa = Spa::start(options).await?;
    tracing::info!(issuer = spa.provider.issuer(), "the provider is up");
    println!("Open {} in a browser. Ctrl-C ends it.", spa.url);

    tokio::signal::ctrl_c().await?;
    // Hooks and revocations that are under way come to their end.
    spa.auth.shutdown().await;
    Ok(())
}
