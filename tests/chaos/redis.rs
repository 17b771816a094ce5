//! Redis that is killed and started again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::setups::{Redis, Setup};
use crate::support::redis::{RedisServer, make_cluster, wait_until};

/// One time that a server was away.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// What had happened before is in what it comes back with.
    pub saved: Instant,
    /// From then on nobody has an answer of it, as it was before.
    pub dead: Instant,
    /// It is served again.
    pub up: Instant,
}

/// All servers of a set-up.
pub struct Mortals {
    setup: Setup,
    chance: StdRng,
    servers: Vec<Mortal>,
    saved: Instant,
    pub outages: Vec<Outage>,
}

impl Mortals {
    pub async fn start(setup: Setup, seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let count = if setup.is_cluster() { 3 } else { 1 };
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(Mortal::start(setup.redis, &mut chance).await);
        }
        if setup.is_cluster() {
            make_cluster(&servers.iter().map(Mortal::server).collect::<Vec<_>>()).await;
        }
        Self {
            setup,
            chance,
            servers,
            saved: Instant::now(),
            outages: Vec::new(),
        }
    }

    pub fn urls(&self) -> Vec<String> {
        let servers = self.servers.iter();
        servers.map(|one| one.server().url().to_owned()).collect()
    }

    async fn peace(&mut self, longest: u64, until: Instant) {
        let peace = self.chance.random_range(longest / 8..longest);
        let end = Instant::now() + Duration::from_millis(peace);
        tokio::time::sleep_until(end.min(until).into()).await;
    }

    /// Kills one and starts it again, until `until`.
    pub async fn reign(mut self, until: Instant) -> Self {
        loop {
            if self.setup.forgets() {
                self.peace(2_000, until).await;
                // Or it comes back as it was then once more.
                if self.chance.random_ratio(3, 4) {
                    self.save();
                }
            }
            self.peace(4_000, until).await;
            if Instant::now() >= until {
                break;
            }
            self.one_dies().await;
        }
        if self.setup.forgets() {
            // Most of them leave now, and are there again.
            self.save();
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            self.one_dies().await;
        }
        self
    }

    fn save(&mut self) {
        self.saved = Instant::now();
        self.servers[0].server().cli(&["SAVE"]);
    }

    async fn one_dies(&mut self) {
        let which = self.chance.random_range(0..self.servers.len());
        self.servers[which].kill().await;
        let dead = Instant::now();
        let away = Duration::from_millis(self.chance.random_range(0..1_500));
        tokio::time::sleep(away).await;
        self.servers[which].rise().await;
        self.outages.push(Outage {
            saved: if self.setup.forgets() {
                self.saved
            } else {
                dead
            },
            dead,
            up: Instant::now(),
        });
    }
}

/// One server.
struct Mortal {
    redis: Redis,
    directory: PathBuf,
    ports: [u16; 2],
    server: Option<RedisServer>,
}

impl Mortal {
    async fn start(redis: Redis, chance: &mut StdRng) -> Self {
        let ports = [quiet_port(chance), quiet_port(chance)];
        let name = format!("redis-chaos-{}-{}", std::process::id(), ports[0]);
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for tests");
        let server = None;
        let mut mortal = Self {
            redis,
            directory,
            ports,
            server,
        };
        mortal.spawn().await;
        mortal
    }

    fn server(&self) -> &RedisServer {
        self.server.as_ref().expect("it runs")
    }

    async fn spawn(&mut self) {
        let directory = self.directory.to_string_lossy();
        let [port, bus] = self.ports.map(|port| port.to_string());
        let mut options = vec!["--dir", &directory];
        if self.redis != Redis::Forgetful {
            options.extend(["--appendonly", "yes", "--appendfsync", "always"]);
        }
        if self.redis == Redis::Cluster {
            options.extend(["--cluster-enabled", "yes", "--cluster-port", &bus]);
            options.extend(["--cluster-require-full-coverage", "no"]);
        }
        let port = port.parse().expect("it was one");
        self.server = Some(RedisServer::start_at_with(port, &options).await);
    }

    async fn rise(&mut self) {
        self.spawn().await;
        if self.redis == Redis::Cluster {
            let server = self.server();
            // A master waits for two seconds before it takes its place again.
            wait_until("it is one of three", || server.serves_with_two_others()).await;
        }
    }

    /// By SIGKILL.
    async fn kill(&mut self) {
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
