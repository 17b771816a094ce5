//! A way to Redis on which one command, or its answer, can be held.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::support::redis::RedisServer;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// The command does not get to the server.
    Command,
    /// The server has done it, and its answer does not get back.
    Answer,
}

struct Trap {
    hold: Hold,
    text: &'static str,
    caught: oneshot::Sender<()>,
    go: oneshot::Receiver<()>,
}

impl Trap {
    async fn held(self) {
        let _ = self.caught.send(());
        let _ = self.go.await;
    }
}

type Armed = Arc<Mutex<Option<Trap>>>;

pub struct Way {
    url: String,
    armed: Armed,
}

/// What is held, or will be.
pub struct Held {
    caught: oneshot::Receiver<()>,
    go: oneshot::Sender<()>,
}

impl Held {
    /// Returns once it is.
    pub async fn caught(&mut self) {
        (&mut self.caught).await.expect("the way is open");
    }

    pub fn release(self) {
        let _ = self.go.send(());
    }
}

impl Way {
    pub async fn to(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (to, armed) = (server.port(), Armed::default());
        let trap = armed.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::spawn(pass(client, server, trap.clone()));
            }
        });
        let url = format!("redis://127.0.0.1:{port}");
        Self { url, armed }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Holds the next command with this text in it.
    pub fn hold(&self, hold: Hold, text: &'static str) -> Held {
        let (caught, is_caught) = oneshot::channel();
        let (release, go) = oneshot::channel();
        let trap = Trap {
            hold,
            text,
            caught,
            go,
        };
        self.armed.lock().unwrap().replace(trap);
        Held {
            caught: is_caught,
            go: release,
        }
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, armed: Armed) {
    let (mut to_server, mut to_client) = ([0; 16 * 1024], [0; 16 * 1024]);
    let mut answer = None;
    loop {
        tokio::select! {
            read = client.read(&mut to_server) => {
                let Ok(read @ 1..) = read else { return };
                let command = &to_server[..read];
                let is_meant = |trap: &mut Trap| {
                    String::from_utf8_lossy(command).contains(trap.text)
                };
                let trap = armed.lock().unwrap().take_if(is_meant);
                match trap {
                    Some(trap) if trap.hold == Hold::Command => trap.held().await,
                    Some(trap) => answer = Some(trap),
                    None => {}
                }
                if server.write_all(command).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut to_client) => {
                let Ok(read @ 1..) = read else { return };
                if let Some(trap) = answer.take() {
                    trap.held().await;
                }
                if client.write_all(&to_client[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}
