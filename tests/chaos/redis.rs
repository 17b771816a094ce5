//! A Redis that is killed and started again, and loses nothing that it acknowledged.

use std::path::PathBuf;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::support::redis::RedisServer;

pub struct Mortal {
    directory: PathBuf,
    port: u16,
    server: Option<RedisServer>,
    pub kills: usize,
}

impl Mortal {
    pub async fn start(chance: &mut StdRng) -> Self {
        let port = quiet_port(chance);
        let name = format!("redis-chaos-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for tests");
        let mut mortal = Self {
            directory,
            port,
            server: None,
            kills: 0,
        };
        mortal.rise().await;
        mortal
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub async fn rise(&mut self) {
        let directory = self.directory.to_string_lossy();
        let options = [
            "--dir",
            &directory,
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ];
        self.server = Some(RedisServer::start_at_with(self.port, &options).await);
    }

    /// By SIGKILL.
    pub async fn kill(&mut self) {
        self.kills += 1;
        let server = self.server.take();
        let killed = tokio::task::spawn_blocking(move || drop(server)).await;
        killed.expect("it ends");
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Below those that the kernel hands out: while nobody listens on one of those, it can become the near end of a connection, even of one
/// to itself.
fn quiet_port(chance: &mut StdRng) -> u16 {
    let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| chance.random_range(10_000..30_000))
        .take(100)
        .find(free)
        .expect("a port is free")
}
