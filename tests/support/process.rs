//! Child processes that end when the test does, however it ends.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

/// A process that watches its standard input and quits at its end. The kernel closes it when this process dies, so not
/// even a test run that was killed leaves anything behind.
#[derive(Debug)]
pub struct TiedProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    /// The end of what it said on standard error, for the message when it fails.
    complaints: Arc<Mutex<Vec<u8>>>,
}

impl TiedProcess {
    /// # Panics
    ///
    /// With `needed`, which says what to install, when the program cannot be started.
    pub fn spawn(mut command: Command, needed: &str) -> Self {
        // An interrupt of the terminal reaches the test alone: what ends this process is the end of the test.
        command.process_group(0);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "{:?} did not start ({error}). {needed}",
                command.get_program()
            )
        });

        let stdout = child.stdout.take().expect("piped above");
        let stderr = child.stderr.take().expect("piped above");
        let (send, lines) = mpsc::channel();
        // Both are read to their end: a full pipe would stop the process in the middle of a test.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let complaints = Arc::new(Mutex::new(Vec::new()));
        thread::spawn({
            let complaints = Arc::clone(&complaints);
            move || collect(stderr, &complaints)
        });

        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            lines,
            complaints,
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("only dropping closes it");
        // What went wrong shows when the answer does not come, together with what the process said about it.
        let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
    }

    /// The first line from now on that `wanted` makes something of.
    ///
    /// # Panics
    ///
    /// When the process ends, or says nothing of the kind for half a minute.
    pub fn wait_for_line<T>(&mut self, what: &str, wanted: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some(found) = wanted(&line) {
                        return found;
                    }
                }
                Err(error) => {
                    let _ = self.child.kill();
                    let status = self.child.wait();
                    let complaints = self
                        .complaints
                        .lock()
                        .map(|text| text.clone())
                        .unwrap_or_default();
                    let complaints = String::from_utf8_lossy(&complaints);
                    panic!("{what} did not come up ({error}, {status:?}):\n{complaints}");
                }
            }
        }
    }
}

impl Drop for TiedProcess {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Long enough for a browser to be taken down in order.
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read, into: &Mutex<Vec<u8>>) {
    const KEPT: usize = 16 * 1024;
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if let Ok(mut text) = into.lock() {
            text.extend_from_slice(&buffer[..read]);
            let surplus = text.len().saturating_sub(KEPT);
            text.drain(..surplus);
        }
    }
}
