//! Debian's Redis on a free port, empty, writing nothing to disk. It ends with the test.

use std::net::TcpListener;
use std::process::Command;

use super::process::TiedProcess;

/// The server does not watch its standard input, so a shell does. It says when there is no server, such as when somebody
/// else was faster with the port.
const WATCH: &str = r#"
    trap '' INT HUP TERM
    { redis-server --port "$1" --bind 127.0.0.1 --save '' --appendonly no --dir /; echo 'no server'; } </dev/null &
    cat >/dev/null
    exec >/dev/null 2>&1
    kill -s KILL -- -$$
"#;

#[derive(Debug)]
pub struct RedisServer {
    _process: TiedProcess,
    url: String,
}

impl RedisServer {
    /// # Panics
    ///
    /// When Redis is missing; the message says what to install.
    pub async fn start() -> Self {
        let started = tokio::task::spawn_blocking(|| (0..5).find_map(|_| Self::on_a_free_port()));
        let started = started
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        started.expect("redis-server did not start on any of five free ports")
    }

    fn on_a_free_port() -> Option<Self> {
        const NEEDED: &str =
            "The tests need Redis: run scripts/test, or `apt-get install redis-server`.";
        let installed = Command::new("redis-server").arg("--version").output();
        assert!(installed.is_ok(), "redis-server is not installed. {NEEDED}");
        let port = TcpListener::bind("127.0.0.1:0")
            .ok()?
            .local_addr()
            .ok()?
            .port();
        let mut command = Command::new("sh");
        command.args(["-c", WATCH, "sh"]).arg(port.to_string());
        let mut process = TiedProcess::spawn(command, NEEDED);
        let ready = process.wait_for_line("redis-server", |line| {
            let ready = line.contains("Ready to accept connections");
            (ready || line == "no server").then_some(ready)
        });
        let url = format!("redis://127.0.0.1:{port}");
        ready.then_some(Self {
            _process: process,
            url,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}
