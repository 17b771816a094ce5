//! Two nodes of one app that share sessions and tokens in Redis: sign in on one, be signed in on the other, sign out on one, and
//! watch the other's page notice.
//!
//! `cargo run --example cluster`, with an OpenID provider in the same process. Open both URLs that it prints, side by side.
//!
//! `REDIS_URL` is a Redis or Valkey that runs already; without it the example starts an empty `redis-server`, which ends with it.
//! `BIND` says where the nodes listen, as two addresses with a comma between them; by default that is port 3000 on 127.0.0.1 and port
//! 3001.

mod app;

use std::error::Error;
use std::net::SocketAddr;

use app::{Cluster, Options};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "axum_signout=info,cluster=info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();

    let mut options = Options::default();
    if let Ok(addresses) = std::env::var("BIND") {
        let two: Vec<SocketAddr> = addresses
            .split(',')
            .map(|address| address.trim().parse())
            .collect::<Result<_, _>>()?;
        options.bind = two.try_into().map_err(|_| "BIND names two addresses")?;
    }
    options.redis_url = std::env::var("REDIS_URL")
        .ok()
        .filter(|url| !url.is_empty());
    let cluster = match Cluster::start(options).await {
        Ok(cluster) => cluster,
        Err(error) => {
            // As a sentence: it may say what to install.
            eprintln!("cluster: {error}");
            std::process::exit(1);
        }
    };
    let [a, b] = &cluster.nodes;
    println!("Open {} and {} in a browser. Ctrl-C ends it.", a.url, b.url);

    tokio::signal::ctrl_c().await?;
    cluster.shutdown().await;
    Ok(())
}
