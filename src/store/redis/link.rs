//! The connection: made when it is needed, made anew when it is lost, shared by all calls.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::sentinel::SentinelClient;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value,
};

use super::reply::{self, Reply, unexpected};
use super::script::Call;
use crate::clock::Timestamp;
use crate::events;
use crate::store::{Result, StoreError, StoreErrorKind};

/// After a connection could not be made, calls fail at once for so long: they do not queue up for one try each.
const PAUSE: Duration = Duration::from_millis(100);

/// How many commands wait to be written before callers do.
const QUEUE: usize = 1024;

/// Where Redis is.
pub(super) enum Servers {
    /// One server.
    One(Client),
    /// A cluster: only masters are asked.
    Cluster(ClusterClient),
    /// The master that sentinels name.
    Sentinel(tokio::sync::Mutex<SentinelClient>),
}

#[derive(Clone)]
enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What is sent in one go.
#[derive(Clone, Copy)]
enum Request<'a> {
    One(&'a Cmd),
    /// Several commands. In a cluster all of them go where the first that names a key goes.
    Together(&'a Pipeline),
    Script(&'a Call),
    /// Of all masters of a cluster.
    Times,
}

impl Connection {
    async fn send(&mut self, request: Request<'_>) -> redis::RedisResult<Value> {
        match request {
            Request::One(command) => self.command(command).await,
            Request::Together(commands) => {
                let count = commands.len();
                let answers = match self {
                    Self::One(connection) => {
                        connection.send_packed_commands(commands, 0, count).await
                    }
                    Self::Cluster(connection) => {
                        connection.req_packed_commands(commands, 0, count).await
                    }
                };
                Value::Array(answers?).extract_error()
            }
            Request::Script(call) => match self.command(&call.by_name()).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.command(&call.by_source()).await
                }
                done => done,
            },
            Request::Times => {
                let command = redis::cmd("TIME");
                let Self::Cluster(connection) = self else {
                    return self.command(&command).await;
                };
                let masters = MultipleNodeRoutingInfo::AllMasters;
                let everywhere = RoutingInfo::MultiNode((masters, None));
                connection.route_command(command, everywhere).await
            }
        }
    }

    async fn command(&mut self, command: &Cmd) -> redis::RedisResult<Value> {
        match self {
            Self::One(connection) => connection.send_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        }
        .and_then(Value::extract_error)
    }
}

#[derive(Default)]
struct Current {
    connection: Option<Connection>,
    /// Which of them: one that was lost is given up once.
    number: u64,
    failed: Option<(Instant, StoreError)>,
}

pub(super) struct Link {
    servers: Servers,
    timeout: Duration,
    current: Mutex<Current>,
    /// Held by the one that connects.
    connecting: tokio::sync::Mutex<()>,
}

/// Why a command has no answer, and what is to be done about it.
struct Lost {
    error: StoreError,
    again: bool,
}

impl Link {
    pub(super) fn new(servers: Servers, timeout: Duration) -> Self {
        Self {
            servers,
            timeout,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> Option<Result<(u64, Connection)>> {
        let current = self.current();
        if let Some(connection) = &current.connection {
            return Some(Ok((current.number, connection.clone())));
        }
        let (at, error) = current.failed.as_ref()?;
        (at.elapsed() < PAUSE).then(|| Err(error.clone()))
    }

    async fn connection(&self) -> Result<(u64, Connection)> {
        if let Some(known) = self.known() {
            return known;
        }
        let _one = self.connecting.lock().await;
        if let Some(known) = self.known() {
            return known;
        }
        let made = self.connect().await;
        let mut current = self.current();
        match made {
            Ok(connection) => {
                current.number += 1;
                current.failed = None;
                current.connection = Some(connection.clone());
                Ok((current.number, connection))
            }
            Err(error) => {
                let error = unavailable(&error);
                tracing::warn!(%error, "Redis is not reached");
                current.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> redis::RedisResult<Connection> {
        // Responses are waited for by `bounded`, together with everything before them.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let made = match &self.servers {
            Servers::One(client) => {
                let connect = client.get_multiplexed_async_connection_with_config(&config);
                connect.await.map(Connection::One)
            }
            Servers::Sentinel(sentinels) => {
                let client = sentinels.lock().await.async_get_client().await?;
                let connect = client.get_multiplexed_async_connection_with_config(&config);
                connect.await.map(Connection::One)
            }
            Servers::Cluster(client) => {
                client.get_async_connection().await.map(Connection::Cluster)
            }
        };
        events::redis_connection(if made.is_ok() { "made" } else { "failed" });
        made
    }

    /// As far as is known: one that was lost without a word is noticed with the next call.
    pub(super) fn is_connected(&self) -> bool {
        self.current().connection.is_some()
    }

    fn give_up(&self, number: u64) {
        let mut current = self.current();
        if current.number == number && current.connection.take().is_some() {
            events::redis_connection("lost");
        }
    }

    /// Until the time is up; a command that was sent into a connection that turned out to be lost is sent once more.
    /// Nothing is done twice by that, for every change can be repeated.
    async fn bounded(&self, request: Request<'_>) -> Result<Value> {
        let sent = Mutex::new(None);
        let note = |number| *sent.lock().unwrap_or_else(PoisonError::into_inner) = Some(number);
        let work = async {
            let mut was_sent = false;
            loop {
                let connection = self.connection().await;
                let (number, mut connection) = connection.map_err(|error| match was_sent {
                    true => unknown(&error),
                    false => error,
                })?;
                note(number);
                match connection.send(request).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => {
                        let lost = judge(&error);
                        if is_of_the_connection(&error) {
                            self.give_up(number);
                        }
                        // What is true of the second time, such as a refusal by a server that has just started, says
                        // nothing about the first.
                        if was_sent {
                            return Err(unknown(&lost.error));
                        }
                        if !lost.again {
                            return Err(lost.error);
                        }
                        was_sent = true;
                    }
                }
            }
        };
        let done = tokio::time::timeout(self.timeout, work).await;
        done.unwrap_or_else(|_| {
            match *sent.lock().unwrap_or_else(PoisonError::into_inner) {
                Some(number) => {
                    // A server that went without a word would keep the connection open for many minutes.
                    self.give_up(number);
                    Err(StoreError::new(
                        StoreErrorKind::Unknown,
                        "Redis did not answer in time",
                    ))
                }
                None => Err(StoreError::new(
                    StoreErrorKind::Unavailable,
                    "Redis was not reached in time",
                )),
            }
        })
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Value> {
        self.bounded(Request::One(command)).await
    }

    /// Several commands about one bucket, in one round trip.
    pub(super) async fn send_together(&self, commands: &Pipeline) -> Result<Vec<Value>> {
        match self.bounded(Request::Together(commands)).await? {
            Value::Array(answers) => Ok(answers),
            _ => Err(unexpected()),
        }
    }

    /// Many commands about different buckets.
    pub(super) async fn send_all(&self, commands: Vec<Cmd>) -> Result<Vec<Value>> {
        if self.is_cluster() {
            let answers = join_all(commands.iter().map(|command| self.send(command))).await;
            return answers.into_iter().collect();
        }
        let mut together = Pipeline::with_capacity(commands.len());
        for command in commands {
            together.add_command(command);
        }
        if together.is_empty() {
            return Ok(Vec::new());
        }
        self.send_together(&together).await
    }

    /// Runs a script. The answer begins with the time.
    pub(super) async fn run(&self, call: Call) -> Result<Reply> {
        Reply::of(self.bounded(Request::Script(&call)).await?)
    }

    /// The time of the server, the earliest of all masters of a cluster: a sign-in that starts then started before
    /// whatever any of them stamps later.
    pub(super) async fn time(&self) -> Result<Timestamp> {
        let answer = self.bounded(Request::Times).await?;
        if !self.is_cluster() {
            return reply::time(answer);
        }
        let Value::Map(answers) = answer else {
            return Err(unexpected());
        };
        let times = answers.into_iter().map(|(_, answer)| reply::time(answer));
        let times: Vec<Timestamp> = times.collect::<Result<_>>()?;
        times.into_iter().min().ok_or_else(unexpected)
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Redis' own words name keys and commands at most, never values; but none are repeated to callers.
fn unavailable(error: &RedisError) -> StoreError {
    let text = format!("Redis is not available: {}", error.category());
    StoreError::new(StoreErrorKind::Unavailable, text)
}

fn unknown(error: &StoreError) -> StoreError {
    let text = format!("the connection to Redis was lost; then: {error}");
    StoreError::new(StoreErrorKind::Unknown, text)
}

/// Whether another connection may do better: this one is broken, or leads to a server that is no longer the master.
fn is_of_the_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_timeout()
        || matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
}

fn judge(error: &RedisError) -> Lost {
    let (kind, again) = match error.kind() {
        ErrorKind::Server(kind) => match kind {
            // Refused before anything was done.
            ServerErrorKind::ReadOnly => (StoreErrorKind::Unavailable, true),
            ServerErrorKind::BusyLoading
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::TryAgain
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            | ServerErrorKind::NoPerm => (StoreErrorKind::Unavailable, false),
            _ => (StoreErrorKind::Unknown, false),
        },
        // With `noeviction` Redis refuses a script that may write before it begins.
        ErrorKind::Extension if error.code() == Some("OOM") => (StoreErrorKind::Full, false),
        ErrorKind::Extension
            if matches!(
                error.code(),
                Some("NOAUTH" | "WRONGPASS" | "MISCONF" | "NOREPLICAS")
            ) =>
        {
            (StoreErrorKind::Unavailable, false)
        }
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::ClusterConnectionNotFound => (StoreErrorKind::Unavailable, false),
        ErrorKind::Io => (StoreErrorKind::Unknown, !error.is_timeout()),
        _ => (StoreErrorKind::Unknown, false),
    };
    tracing::warn!(
        code = error.code().unwrap_or_default(),
        "Redis: {}",
        error.category()
    );
    let text = format!("Redis: {}", error.category());
    Lost {
        error: StoreError::new(kind, text),
        again,
    }
}
