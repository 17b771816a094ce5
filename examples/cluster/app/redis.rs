//! A Redis of the example's own: empty, on a free port of this machine, and gone with the example.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};

/// The server does not watch its standard input, so a shell does. The kernel closes it when this process ends, however that
/// comes about, so no server is left behind.
const WATCH: &str = r#"
    trap '' INT HUP TERM
    redis-server "$@" </dev/null &
    exec >/dev/null
    cat
    kill -s KILL $!
"#;

const INSTALL: &str = "install it (Debian: `apt-get install redis-server`), or set REDIS_URL to a Redis or Valkey that runs";

/// Why there is no Redis; the message says what to do.
#[derive(Debug)]
pub struct NoRedis(&'static str);

impl fmt::Display for NoRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {INSTALL}", self.0)
    }
}

impl std::error::Error for NoRedis {}

pub struct OwnRedis {
    process: Child,
    pub url: String,
}

impl OwnRedis {
    /// Waits until it takes connections.
    pub fn start() -> Result<Self, NoRedis> {
        let installed = Command::new("redis-server").arg("--version").output();
        installed.map_err(|_| NoRedis("redis-server is not installed"))?;
        // Somebody may be faster with the port.
        let started = (0..5).find_map(|_| Self::on_free_port());
        started.ok_or(NoRedis("redis-server does not start"))
    }

    fn on_free_port() -> Option<Self> {
        let port = free_port()?;
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh", "--bind", "127.0.0.1"]);
        command.args(["--port", &port.to_string()]);
        // Nothing is written to disk, nothing that is there is read, and no user is dropped for lack of memory.
        command.args(["--dbfilename", &format!("cluster-{port}.rdb")]);
        command.args(["--save", "", "--appendonly", "no"]);
        command.args(["--maxmemory-policy", "noeviction"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt as _;
            // Ctrl-C is for the example, which still has something to say to Redis then.
            command.process_group(0);
        }
        let mut process = command.spawn().ok()?;
        let said = BufReader::new(process.stdout.take()?);
        let started = Self {
            process,
            url: format!("redis://127.0.0.1:{port}"),
        };
        let mut lines = said.lines().map_while(Result::ok);
        // A server that cannot have the port says so, and ends.
        let ready = lines.any(|line| line.contains("Ready to accept connections"));
        // A full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        ready.then_some(started)
    }
}

/// Nobody has it at the moment.
fn free_port() -> Option<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    Some(listener.local_addr().ok()?.port())
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
