//! Debian's Redis on free ports, empty, writing nothing to disk but what a cluster must. It ends with the test.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::process::TiedProcess;

/// The server does not watch its standard input, so a shell does. It says when there is no server, such as when somebody
/// else was faster with the port.
const WATCH: &str = r#"
    trap '' INT HUP TERM
    { redis-server "$@"; echo 'no server'; } </dev/null &
    cat >/dev/null
    exec >/dev/null 2>&1
    rm -f "$REMOVE" "$COPY"
    kill -s KILL -- -$$
"#;

/// Redis insists on writing down who is in the cluster.
const CLUSTER_FILE: &str = "--cluster-config-file";

/// A replica keeps what its master sent, and every server begins with what is in the file of that name: each has its own.
fn copy_of(port: u16) -> String {
    format!("redis-{}-{port}.rdb", std::process::id())
}

/// What a server says when it is up, and what a sentinel says.
const READY: &str = "Ready to accept connections";
const WATCHING: &str = "+monitor master";

const NEEDED: &str = "The tests need Redis: run scripts/test, or `apt-get install redis-server`.";

#[derive(Debug)]
pub struct RedisServer {
    /// Behind a lock so that tests can share the server.
    _process: Mutex<TiedProcess>,
    port: u16,
    url: String,
}

impl RedisServer {
    /// # Panics
    ///
    /// When Redis is missing; the message says what to install.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further options of `redis-server`.
    ///
    /// # Panics
    ///
    /// When Redis is missing; the message says what to install.
    pub async fn start_with(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let start = move || (0..5).find_map(|_| Self::on(free_port(), &options));
        let started = tokio::task::spawn_blocking(start);
        let started = started
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        started.expect("redis-server did not start on any of five free ports")
    }

    /// A cluster of one master, which has all slots.
    ///
    /// # Panics
    ///
    /// When Redis is missing, or has not taken the slots within half a minute.
    pub async fn start_alone_in_a_cluster() -> Self {
        let name = format!("redis-{}-{}-alone", std::process::id(), free_port());
        let file = std::env::temp_dir().join(name);
        let (file, bus) = (file.to_string_lossy().into_owned(), free_port().to_string());
        let options = ["--cluster-enabled", "yes", CLUSTER_FILE, &file];
        let options = [&options[..], &["--cluster-port", &bus]].concat();
        let server = Self::start_with(&options).await;
        server.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !server
            .cli(&["CLUSTER", "INFO"])
            .contains("cluster_state:ok")
        {
            assert!(Instant::now() < deadline, "it does not serve");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    /// Again where one was that has ended.
    ///
    /// # Panics
    ///
    /// When the port is taken by now.
    pub async fn start_at(port: u16) -> Self {
        Self::start_at_with(port, &[]).await
    }

    /// The same with further options.
    ///
    /// # Panics
    ///
    /// When the port is taken by now.
    pub async fn start_at_with(port: u16, options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let started = tokio::task::spawn_blocking(move || Self::on(port, &options)).await;
        let started = started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        started.expect("the port is free")
    }

    fn on(port: u16, options: &[String]) -> Option<Self> {
        let number = port.to_string();
        let directory = std::env::temp_dir();
        let directory = directory.to_string_lossy();
        let copy = copy_of(port);
        let first = [
            "--port",
            &number,
            "--bind",
            "127.0.0.1",
            "--dir",
            &directory,
            "--dbfilename",
            &copy,
            "--save",
            "",
            "--appendonly",
            "no",
            // A replica that gets its master's data as a file leaves it behind, and the next server would begin with it.
            "--repl-diskless-load",
            "swapdb",
        ];
        let first = first.map(String::from);
        let mut options_of_cluster = options.iter().skip_while(|option| *option != CLUSTER_FILE);
        let remove = options_of_cluster.nth(1).map_or("", |file| file);
        Self::spawn(port, &[&first[..], options].concat(), remove, READY)
    }

    /// One that watches over a master, on a port of its own.
    ///
    /// # Panics
    ///
    /// When Redis is missing.
    pub async fn start_sentinel(master: u16, name: &str) -> Self {
        let port = free_port();
        let file = std::env::temp_dir().join(format!("sentinel-{}-{port}", std::process::id()));
        let text = format!(
            "port {port}\nsentinel monitor {name} 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 5000\n",
        );
        std::fs::write(&file, text).expect("a file for tests");
        let file = file.to_string_lossy().into_owned();
        let spawn = move || {
            let options = [file.clone(), "--sentinel".to_owned()];
            Self::spawn(port, &options, &file, WATCHING)
        };
        let started = tokio::task::spawn_blocking(spawn).await;
        let started = started.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        started.expect("the port is free")
    }

    fn spawn(port: u16, options: &[String], remove: &str, said: &str) -> Option<Self> {
        let installed = Command::new("redis-server").arg("--version").output();
        assert!(installed.is_ok(), "redis-server is not installed. {NEEDED}");
        let mut command = Command::new("sh");
        command
            .env("REMOVE", remove)
            .env("COPY", std::env::temp_dir().join(copy_of(port)))
            .args(["-c", WATCH, "sh"])
            .args(options);
        let mut process = TiedProcess::spawn(command, NEEDED);
        let ready = process.wait_for_line("redis-server", |line| {
            let ready = line.contains(said);
            (ready || line == "no server").then_some(ready)
        });
        let url = format!("redis://127.0.0.1:{port}");
        ready.then_some(Self {
            _process: Mutex::new(process),
            port,
            url,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What `redis-cli` prints.
    ///
    /// # Panics
    ///
    /// When it fails.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.port.to_string()])
            .args(arguments)
            .output();
        let output = output.unwrap_or_else(|error| panic!("redis-cli: {error}. {NEEDED}"));
        assert!(output.status.success(), "redis-cli {arguments:?}");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }

    /// As a master of a cluster of three.
    pub fn serves_with_two_others(&self) -> bool {
        let info = self.cli(&["CLUSTER", "INFO"]);
        info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
    }

    /// The names of all keys.
    pub fn keys(&self) -> Vec<String> {
        let keys = self.cli(&["--scan"]);
        keys.lines().map(Into::into).collect()
    }

    fn signal(&self, pid: &str, signal: &str) {
        let sent = Command::new("kill").args([signal, pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill {signal}");
    }

    /// Stops the process (SIGSTOP): it keeps its connections and says nothing. Dropping what comes back lets it go on.
    pub fn pause(&self) -> Paused<'_> {
        let info = self.cli(&["INFO", "server"]);
        let mut lines = info.lines();
        let pid = lines.find_map(|line| line.strip_prefix("process_id:"));
        let pid = pid.expect("Redis tells its process").trim().to_owned();
        self.signal(&pid, "-STOP");
        Paused { server: self, pid }
    }

    /// Everything that `work` makes this server do, but for what its scripts call: a name of a command with its arguments
    /// on each line.
    pub async fn commands_of(&self, work: impl Future<Output = ()>) -> Vec<String> {
        const MONITOR: &str = r#"
            redis-cli -p "$1" monitor </dev/null &
            cat >/dev/null
            kill $!
        "#;
        let mut command = Command::new("sh");
        command
            .args(["-c", MONITOR, "sh"])
            .arg(self.port.to_string());
        let mut monitor = TiedProcess::spawn(command, NEEDED);
        monitor.wait_for_line("redis-cli", |line| (line == "OK").then_some(()));
        work.await;
        self.cli(&["ECHO", "that is all"]);
        let mut seen = Vec::new();
        loop {
            let line = monitor.wait_for_line("redis-cli", |line| Some(line.to_owned()));
            if line.contains("that is all") {
                return seen;
            }
            // time [database address] "COMMAND" "argument" …
            let is_of_a_script = line.contains(" lua] ");
            if let Some((_, command)) = line.split_once("] ").filter(|_| !is_of_a_script) {
                seen.push(command.to_owned());
            }
        }
    }
}

/// A server that goes away, and comes back with what it wrote to its disk when it was told to.
#[derive(Debug)]
pub struct Snapshots {
    directory: std::path::PathBuf,
    port: u16,
    server: Option<RedisServer>,
}

impl Snapshots {
    /// # Panics
    ///
    /// When Redis is missing.
    pub async fn start() -> Self {
        let mut made = Self::away();
        let server = RedisServer::start_with(&made.options()).await;
        made.port = server.port();
        made.server = Some(server);
        made
    }

    /// One that is not there yet.
    ///
    /// # Panics
    ///
    /// Where there is no place for its files.
    pub fn away() -> Self {
        let port = free_port();
        let name = format!("redis-dump-{}-{port}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for tests");
        Self {
            directory,
            port,
            server: None,
        }
    }

    fn options(&self) -> [&str; 2] {
        ["--dir", self.directory.to_str().expect("it is text")]
    }

    /// # Panics
    ///
    /// When it is away.
    pub fn server(&self) -> &RedisServer {
        self.server.as_ref().expect("it runs")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn save(&self) {
        self.server().cli(&["SAVE"]);
    }

    /// Killed: what was not saved is lost.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// What was saved is lost as well.
    pub fn wipe(&self) {
        let _ = std::fs::remove_file(self.directory.join("dump.rdb"));
    }

    /// There again, with what was saved.
    ///
    /// # Panics
    ///
    /// When the port is taken by now.
    pub async fn come_back(&mut self) {
        let server = RedisServer::start_at_with(self.port, &self.options()).await;
        self.server = Some(server);
    }

    /// # Panics
    ///
    /// When the port is taken by now.
    pub async fn restart(&mut self) {
        self.kill();
        self.come_back().await;
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A master, its replica, and a sentinel that knows them as `main`.
#[derive(Debug)]
pub struct Replicated {
    master: Option<RedisServer>,
    pub replica: RedisServer,
    pub sentinel: RedisServer,
}

/// Looks again until it is so.
///
/// # Panics
///
/// When it is not so within a minute.
pub async fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl RedisServer {
    /// Goes on as a replica of another, and has all that it has.
    async fn has_copied(&self) {
        wait_until("the replica has copied its master", || {
            self.cli(&["INFO", "replication"])
                .contains("master_link_status:up")
        })
        .await;
    }

    /// From now on replicas hear nothing of what happens here.
    pub fn stop_replicating(&self) {
        self.cli(&["ACL", "SETUSER", "default", "-psync", "-sync"]);
        self.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    }
}

impl Replicated {
    /// # Panics
    ///
    /// When Redis is missing, or they do not find each other within a minute.
    pub async fn start() -> Self {
        let master = RedisServer::start().await;
        let port = master.port().to_string();
        let options = ["--replicaof", "127.0.0.1", &port];
        let replica = RedisServer::start_with(&options).await;
        let sentinel = RedisServer::start_sentinel(master.port(), "main").await;
        wait_until("the sentinel sees the replica", || {
            let replicas = sentinel.cli(&["SENTINEL", "REPLICAS", "main"]);
            replicas.contains("flags\nslave")
        })
        .await;
        replica.has_copied().await;
        Self {
            master: Some(master),
            replica,
            sentinel,
        }
    }

    /// # Panics
    ///
    /// When it was killed.
    pub fn master(&self) -> &RedisServer {
        self.master.as_ref().expect("it runs")
    }

    /// Kills the master, and waits until the replica is in its place.
    ///
    /// # Panics
    ///
    /// When that takes longer than a minute.
    pub async fn fail_over(&mut self) {
        self.master = None;
        wait_until("the replica is promoted", || {
            self.replica
                .cli(&["INFO", "replication"])
                .contains("role:master")
        })
        .await;
        wait_until("the sentinel says so", || {
            let name = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"];
            let port = self.replica.port().to_string();
            self.sentinel.cli(&name).contains(&port)
        })
        .await;
    }
}

/// What a server with TLS needs, made for the test.
#[derive(Debug)]
pub struct Certificates {
    directory: std::path::PathBuf,
}

impl Certificates {
    /// # Panics
    ///
    /// When `openssl` is missing.
    pub fn new() -> Self {
        let name = format!("redis-tls-{}-{}", std::process::id(), free_port());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory for tests");
        let made = Self { directory };
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        made.openssl(&format!(
            "{new} -keyout ca.key -out ca.pem -subj /CN=authority"
        ));
        made.openssl(&format!(
            "{new} -keyout server.key -out server.pem -subj /CN=server -CA ca.pem -CAkey ca.key \
             -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1"
        ));
        made
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command
            .args(arguments.split_whitespace())
            .current_dir(&self.directory);
        let output = command.output().expect("openssl is installed");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }

    pub fn authority(&self) -> Vec<u8> {
        std::fs::read(self.path("ca.pem")).expect("it was just made")
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A server that stands still.
pub struct Paused<'a> {
    server: &'a RedisServer,
    pid: String,
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.server.signal(&self.pid, "-CONT");
    }
}

/// A port that nobody has at the moment.
pub fn free_port() -> u16 {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    port.expect("a port is free").port()
}

/// Has three servers share the slots.
///
/// # Panics
///
/// When they do not find each other within a minute.
pub async fn make_cluster(masters: &[&RedisServer]) {
    for (number, master) in masters.iter().enumerate() {
        let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")][number];
        master.cli(&["CLUSTER", "ADDSLOTSRANGE", slots.0, slots.1]);
        master.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
    }
    for other in &masters[1..] {
        let port = other.port.to_string();
        let bus = other.cli(&["CONFIG", "GET", "cluster-port"]);
        let bus = bus.lines().last().expect("it has one");
        masters[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &port, bus]);
    }
    wait_until("the cluster comes up", || {
        masters.iter().all(|master| master.serves_with_two_others())
    })
    .await;
}

/// Three masters that share the slots.
#[derive(Debug)]
pub struct RedisCluster {
    masters: Vec<RedisServer>,
}

impl RedisCluster {
    /// # Panics
    ///
    /// When Redis is missing, or the masters do not find each other within a minute.
    pub async fn start() -> Self {
        let mut masters = Vec::new();
        for number in 0..3 {
            let name = format!("redis-{}-{}-{number}", std::process::id(), free_port());
            let file = std::env::temp_dir().join(name);
            let file = file.to_string_lossy().into_owned();
            let options = ["--cluster-enabled", "yes", CLUSTER_FILE, &file];
            // The masters talk on the port that is 10,000 higher.
            let bus = free_port().to_string();
            let options = [&options[..], &["--cluster-port", &bus]].concat();
            masters.push(RedisServer::start_with(&options).await);
        }
        make_cluster(&masters.iter().collect::<Vec<_>>()).await;
        Self { masters }
    }

    /// One more node, which copies what the first master has.
    ///
    /// # Panics
    ///
    /// When Redis is missing, or the two do not find each other within half a minute.
    pub async fn replica_of_the_first(&self) -> RedisServer {
        let name = format!("redis-{}-{}-replica", std::process::id(), free_port());
        let file = std::env::temp_dir().join(name);
        let (file, bus) = (file.to_string_lossy().into_owned(), free_port().to_string());
        let options = ["--cluster-enabled", "yes", CLUSTER_FILE, &file];
        let options = [&options[..], &["--cluster-port", &bus]].concat();
        let replica = RedisServer::start_with(&options).await;
        let first = &self.masters[0];
        let port = replica.port.to_string();
        first.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        let id = first.cli(&["CLUSTER", "MYID"]);
        let deadline = Instant::now() + Duration::from_secs(30);
        let wait_for = async |is_so: &dyn Fn() -> bool| {
            while !is_so() {
                assert!(Instant::now() < deadline, "the replica does not come up");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        wait_for(&|| replica.cli(&["CLUSTER", "NODES"]).contains(&id)).await;
        wait_for(&|| replica.cli(&["CLUSTER", "REPLICATE", &id]) == "OK").await;
        let is_up = || {
            replica
                .cli(&["INFO", "replication"])
                .contains("master_link_status:up")
        };
        wait_for(&is_up).await;
        let knows = |node: &RedisServer| {
            let nodes = node.cli(&["CLUSTER", "NODES"]);
            nodes.contains(&format!("slave {id}"))
        };
        wait_for(&|| self.masters.iter().all(knows)).await;
        replica
    }

    pub fn urls(&self) -> Vec<String> {
        self.masters
            .iter()
            .map(|master| master.url.clone())
            .collect()
    }

    pub fn masters(&self) -> &[RedisServer] {
        &self.masters
    }

    /// A replica of one of the masters, which all know of.
    ///
    /// # Panics
    ///
    /// When they do not find each other within a minute.
    pub async fn replica_of(&self, master: &RedisServer) -> RedisServer {
        let name = format!("redis-{}-{}-replica", std::process::id(), free_port());
        let file = std::env::temp_dir().join(name);
        let file = file.to_string_lossy().into_owned();
        let bus = free_port().to_string();
        let replica = RedisServer::start_with(&[
            "--cluster-enabled",
            "yes",
            CLUSTER_FILE,
            &file,
            "--cluster-port",
            &bus,
        ])
        .await;
        let own = replica.port.to_string();
        master.cli(&["CLUSTER", "MEET", "127.0.0.1", &own, &bus]);
        let id = master.cli(&["CLUSTER", "MYID"]);
        wait_until("the replica meets its master", || {
            replica.cli(&["CLUSTER", "NODES"]).contains(&id)
        })
        .await;
        wait_until("the master is known to be one", || {
            let replicate = Command::new("redis-cli")
                .args(["-p", &own, "CLUSTER", "REPLICATE", &id])
                .output();
            replicate.is_ok_and(|output| output.stdout.starts_with(b"OK"))
        })
        .await;
        replica.has_copied().await;
        let knows_all = |server: &RedisServer| {
            let nodes = server.cli(&["CLUSTER", "NODES"]);
            let port = format!(":{own}@");
            let mut nodes = nodes.lines();
            nodes.any(|node| node.contains(&port) && node.contains("slave"))
        };
        wait_until("all know the replica", || {
            self.masters.iter().all(knows_all)
        })
        .await;
        replica
    }
}
