//! All of the crate on one page: sign in as one of two people or as both, see what the tokens can do and how long they live, sign out
//! of one account or of all, and see which tokens leave the cache and what the sign-out reports.
//!
//! `cargo run --example demo`, with an OpenID provider in the same process. Open the URL that it prints.
//!
//! `BIND` says where the app listens; by default it is port 3000 on 127.0.0.1, or the next one that is free.

mod app;

use std::error::Error;

use app::{Demo, Options};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| "axum_signout=info,demo=info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();

    let bind = match std::env::var("BIND") {
        Ok(address) => Some(address.parse()?),
        Err(_) => None,
    };
    let demo = Demo::start(Options {
        bind,
        ..Options::default()
    })
    .await?;
    tracing::info!(issuer = demo.provider.issuer(), "the provider is up");
    println!("Open {} in a browser. Ctrl-C ends it.", demo.url);

    tokio::signal::ctrl_c().await?;
    // Hooks and revocations that are under way come to their end.
    demo.auth.shutdown().await;
    Ok(())
}
