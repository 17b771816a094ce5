//! The crate's examples as users run them: as processes of their own, configured by their environment.

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

/// Tied to this process, so that not even a test run that was killed leaves it behind: the end of standard input, which the
/// kernel closes then, makes the shell end it as a service manager would.
const TIED: &str = r#""$0" & app=$!; cat >/dev/null; kill -TERM "$app" 2>/dev/null; wait "$app""#;

/// An example that runs.
#[derive(Debug)]
pub struct Example {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
    listening: mpsc::Receiver<String>,
}

/// What it came to.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Example {
    /// Waits for one that ends by itself, which is what a wrong configuration leads to.
    pub fn run(name: &str, environment: &[(&str, &str)]) -> Finished {
        let mut command = Command::new(program(name));
        let command = command.env_clear().envs(environment.iter().copied());
        let output = command.output().expect("it can be started");
        Finished {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Only what is given is in its environment.
    pub fn spawn(name: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", TIED])
            .arg(program(name))
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("there is a shell");
        let (send, listening) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped above");
        let stderr = child.stderr.take().expect("piped above");
        let stdout = thread::spawn(move || {
            read(stdout, |text| {
                let line = text.split_once('\n').map_or("", |(line, _)| line);
                if let Some(base_url) = line.strip_prefix("listening on ") {
                    let _ = send.send(base_url.to_owned());
                }
            })
        });
        Self {
            stdin: child.stdin.take(),
            child,
            stdout: Some(stdout),
            stderr: Some(thread::spawn(move || read(stderr, |_| {}))),
            listening,
        }
    }

    /// The base URL that its first line tells.
    ///
    /// # Panics
    ///
    /// When it ends instead, or says nothing of the kind for half a minute.
    pub fn base_url(&mut self) -> String {
        let told = self.listening.recv_timeout(Duration::from_secs(30));
        told.unwrap_or_else(|_| panic!("it does not listen: {:?}", self.finish()))
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Finished {
        self.finish()
    }

    fn finish(&mut self) -> Finished {
        drop(self.stdin.take());
        let status = self.child.wait().expect("it is our child");
        let text = |reader: Option<JoinHandle<String>>| reader.and_then(|one| one.join().ok());
        Finished {
            status,
            stdout: text(self.stdout.take()).unwrap_or_default(),
            stderr: text(self.stderr.take()).unwrap_or_default(),
        }
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if self.stdin.is_some() {
            self.finish();
        }
    }
}

/// All of it: a full pipe would stop the process in the middle of a test.
fn read(mut from: impl Read, mut look: impl FnMut(&str)) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        all.extend_from_slice(&buffer[..read]);
        look(&String::from_utf8_lossy(&all));
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// `cargo test` builds the examples along with the tests, but not when it is told to run one test program only.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this runs");
    let folder = test.ancestors().nth(2).expect("it is in target/…/deps");
    let program = folder.join("examples").join(name);
    let built = modified(&program);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let newest = newest(&root.join("src")).max(modified(&root.join(format!("examples/{name}.rs"))));
    assert!(
        built.is_some() && built >= newest,
        "the example {name} is missing or older than its source: run `cargo build --example {name}`, with the features of this run"
    );
    program
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|of| of.modified()).ok()
}

fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(folder).expect("the source is there");
    let times = entries.map(|entry| {
        let path = entry.expect("a folder can be read").path();
        if path.is_dir() {
            newest(&path)
        } else {
            modified(&path)
        }
    });
    times.max().flatten()
}
