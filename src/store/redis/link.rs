//! The connection: made when it is needed, made anew when it is lost, shared by all calls.
//!
//! A new one may lead to a server that has lost something: what this node did of late is told it before anything else is.

use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{Either, join_all};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::sentinel::SentinelClient;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value,
};

use super::recent::Done;
use super::replay::Replay;
use super::reply::{self, Reply, unexpected};
use super::script::Call;
use crate::clock::Timestamp;
use crate::events;
use crate::store::{Result, StoreError, StoreErrorKind};

/// After a connection could not be made, calls fail at once for so long: they do not queue up for one try each.
const PAUSE: Duration = Duration::from_millis(100);

/// For so many time-outs the client of a cluster may be busy with a master that is silent, before calls to the others go on.
const PATIENCE: u32 = 5;

/// How many calls one look through all buckets makes side by side in a cluster, whose client is one task for all of them. tokio interrupts a task
/// after 128 steps, and the last one may be given a lock that it does not use before it is run again. While the client looks up where
/// its masters are, it runs no calls: one that has that lock then keeps it from looking, for good.
const LOOKS_AT_ONCE: usize = 16;

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
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// What is sent in one go.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    One(&'a Cmd),
    /// Several commands. In a cluster all of them go where the first that names a key goes.
    Together(&'a Pipeline),
    Script(&'a Call),
    /// Of all masters of a cluster.
    Times,
    /// Who they are.
    Info(&'static str),
}

impl Connection {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// What is not one command takes several times as much memory, and every read's future would be as large: so it is on the heap.
    fn send(
        &mut self,
        request: Request<'_>,
    ) -> impl Future<Output = redis::RedisResult<Value>> + Send {
        match request {
            Request::One(command) => Either::Left(self.command(command)),
            request => Either::Right(Box::pin(self.send_any(request))),
        }
    }

    async fn send_any(&mut self, request: Request<'_>) -> redis::RedisResult<Value> {
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
            Request::Times => self.everywhere(redis::cmd("TIME"), None).await,
            Request::Info(section) => {
                let mut info = redis::cmd("INFO");
                info.arg(section);
                self.everywhere(info, None).await
            }
        }
    }

    /// At all masters of a cluster.
    async fn everywhere(
        &mut self,
        command: Cmd,
        wanted: Option<ResponsePolicy>,
    ) -> redis::RedisResult<Value> {
        let Self::Cluster(connection) = self else {
            return self.command(&command).await;
        };
        let masters = MultipleNodeRoutingInfo::AllMasters;
        let everywhere = RoutingInfo::MultiNode((masters, wanted));
        let answers = connection.route_command(command, everywhere).await;
        answers.and_then(Value::extract_error)
    }

    /// Whether any of the servers answers, be it by a refusal.
    async fn is_alive(&mut self) -> bool {
        let any = Some(ResponsePolicy::OneSucceeded);
        let answer = self.everywhere(redis::cmd("PING"), any).await;
        answer.err().is_none_or(|error| error.code().is_some())
    }

    /// Sends on this connection or not at all, and waits so long.
    pub(super) async fn within(&self, limit: Duration, request: Request<'_>) -> Result<Value> {
        let answer = self.attempt(limit, request).await?;
        answer.ok_or_else(unexpected)
    }

    /// The same; `None` where the server has refused this one command, or all that write, which says nothing of others.
    pub(super) async fn attempt(
        &self,
        limit: Duration,
        request: Request<'_>,
    ) -> Result<Option<Value>> {
        let mut connection = self.clone();
        let answer = tokio::time::timeout(limit, connection.send(request)).await;
        match answer.map_err(|_| no_answer())? {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                let lost = judge(&error);
                let response = ErrorKind::Server(ServerErrorKind::ResponseError);
                let writes_nothing = matches!(error.code(), Some("MISCONF" | "NOREPLICAS"));
                let is_full = lost.error.kind() == StoreErrorKind::Full;
                match error.kind() == response || writes_nothing || is_full {
                    true => Ok(None),
                    false => Err(lost.error),
                }
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
    /// Which of them, counted from when it was begun to be made: one that was lost is given up once.
    number: u64,
    failed: Option<(Instant, StoreError)>,
}

pub(super) struct Link {
    servers: Servers,
    timeout: Duration,
    replay: Replay,
    current: Mutex<Current>,
    /// Held by the one that connects.
    connecting: tokio::sync::Mutex<()>,
    /// Held by the one that finds out whether the client of a cluster still runs.
    doubting: Arc<tokio::sync::Mutex<()>>,
    /// Whether there was an answer since somebody looked.
    pub(super) answered: AtomicBool,
    /// Which watch is the one that goes on.
    pub(super) watch: AtomicU64,
    /// Whether it was said that `INFO` is refused.
    said: AtomicBool,
}

/// Why a command has no answer, and what is to be done about it.
struct Lost {
    error: StoreError,
    again: bool,
}

impl Link {
    pub(super) fn new(servers: Servers, timeout: Duration, replay: Replay) -> Self {
        Self {
            servers,
            timeout,
            replay,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::new(()),
            doubting: Arc::default(),
            answered: AtomicBool::new(false),
            watch: AtomicU64::new(0),
            said: AtomicBool::new(false),
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

    pub(super) async fn connection(self: &Arc<Self>) -> Result<(u64, Connection)> {
        if let Some(known) = self.known() {
            return known;
        }
        let link = self.clone();
        // In a task: the one who asked may stop waiting, and what there is to be replayed takes as long as it takes.
        let made = tokio::spawn(async move { link.make().await }).await;
        made.unwrap_or_else(|_| Err(unexpected()))
    }

    async fn make(self: &Arc<Self>) -> Result<(u64, Connection)> {
        let _one = self.connecting.lock().await;
        if let Some(known) = self.known() {
            return known;
        }
        // Before anything is read of what there is to be replayed, see `remember`.
        let number = {
            let mut current = self.current();
            current.number += 1;
            current.number
        };
        let made = match tokio::time::timeout(self.time_to_connect(), self.connect()).await {
            Ok(Ok(connection)) => {
                let replayed = self.tell(&connection).await;
                replayed.map(|()| connection)
            }
            Ok(Err(error)) => Err(unavailable(&error)),
            Err(_) => Err(not_reached()),
        };
        let mut current = self.current();
        match made {
            Ok(connection) => {
                current.failed = None;
                current.connection = Some(connection.clone());
                super::watch::start(self);
                Ok((number, connection))
            }
            Err(error) => {
                tracing::warn!(%error, "Redis is not reached");
                let error = StoreError::new(StoreErrorKind::Unavailable, error.to_string());
                current.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// The client of a cluster asks its servers one after the other, and one that is silent takes a whole time-out, twice. Callers
    /// wait no longer for that than for anything else.
    fn time_to_connect(&self) -> Duration {
        match self.is_cluster() {
            true => self.timeout * PATIENCE,
            false => self.timeout,
        }
    }

    /// What this node did of late. In a cluster nobody waits for it longer than for any answer, and what is left is the
    /// watch's: a master that is away must not keep the accounts of the others from being served, and until all are told this
    /// node holds to what it did.
    async fn tell(&self, connection: &Connection) -> Result<()> {
        let replay = self.replay.run(connection, self.timeout);
        if !self.is_cluster() {
            return replay.await;
        }
        let told = tokio::time::timeout(self.timeout, replay).await;
        if let Err(error) = told.unwrap_or_else(|_| Err(no_answer())) {
            super::watch::complain(&error);
        }
        Ok(())
    }

    /// Keeps in mind what was done by way of a connection. One that was begun to be made since may have missed it.
    ///
    /// # Errors
    /// It may have been lost in between.
    pub(super) async fn remember(self: &Arc<Self>, number: u64, done: Done) -> Result<()> {
        let done = Arc::new(done);
        self.replay.recent.add(done.clone());
        if self.current().number == number {
            return Ok(());
        }
        let again = async {
            let (_, connection) = self.connection().await?;
            self.replay.again(&connection, self.timeout, &[done]).await
        };
        let again = again.await;
        again.map(drop).map_err(|error| unknown(&error))
    }

    pub(super) fn replay(&self) -> &Replay {
        &self.replay
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
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

    /// Somebody else has found out that the server is no master any more, which reads would not tell: the next call connects anew.
    pub(super) fn doubt(&self) {
        let number = self.current().number;
        self.give_up(number);
    }

    fn give_up(&self, number: u64) {
        let mut current = self.current();
        if current.number == number && current.connection.take().is_some() {
            events::redis_connection("lost");
        }
    }

    /// Whether the connection has to be made anew. The client of a cluster does that itself for each master, and what is
    /// wrong with one says nothing of the others. What it says of a connection that was dropped it says of itself as well.
    fn is_over(&self, error: &RedisError) -> bool {
        if !self.is_cluster() {
            return is_of_the_connection(error);
        }
        error.is_connection_dropped() && !error.is_connection_refusal()
    }

    /// A call had no answer in time. A server that went without a word would keep the connection open for many minutes. In a cluster it
    /// is one of several; but the client can come to a halt as a whole, when one of its tasks is given a lock that it then does not run
    /// to use, and would stay so.
    fn overdue(self: &Arc<Self>, number: u64) {
        if !self.is_cluster() {
            return self.give_up(number);
        }
        let Ok(one) = self.doubting.clone().try_lock_owned() else {
            return;
        };
        let Some(Ok((current, connection))) = self.known() else {
            return;
        };
        if current != number {
            return;
        }
        // In a cluster nobody else takes that back.
        self.answered.store(false, Ordering::Relaxed);
        let link = self.clone();
        tokio::spawn(async move {
            let _one = one;
            let is_alive = link.is_alive(connection).await;
            if !is_alive && !link.answered.load(Ordering::Relaxed) {
                tracing::warn!("the client of the cluster has come to a halt; it is made anew");
                link.give_up(number);
            }
        });
    }

    async fn is_alive(&self, mut connection: Connection) -> bool {
        let deadline = Instant::now() + self.timeout * PATIENCE;
        // Each attempt ends with the time-out that the client has for all calls.
        while Instant::now() < deadline {
            if let Ok(true) = tokio::time::timeout(self.timeout, connection.is_alive()).await {
                return true;
            }
            tokio::time::sleep(PAUSE).await;
        }
        false
    }

    /// Until the time is up; a command that was sent into a connection that turned out to be lost is sent once more.
    /// Nothing is done twice by that, for every change can be repeated.
    async fn bounded(self: &Arc<Self>, request: Request<'_>) -> Result<(u64, Value)> {
        // By way of which connection; none has the number 0.
        let sent = AtomicU64::new(0);
        // Where it is: a time limit that takes it copies all of it, twice.
        let work = pin!(async {
            let mut was_sent = false;
            loop {
                let connection = self.connection().await;
                let (number, mut connection) = connection.map_err(|error| match was_sent {
                    true => unknown(&error),
                    false => error,
                })?;
                sent.store(number, Ordering::Relaxed);
                match connection.send(request).await {
                    Ok(answer) => {
                        self.answered.store(true, Ordering::Relaxed);
                        return Ok((number, answer));
                    }
                    Err(error) => {
                        let lost = judge(&error);
                        if self.is_over(&error) {
                            self.give_up(number);
                        } else if error.is_timeout() {
                            self.overdue(number);
                        }
                        let is_forbidden =
                            error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm);
                        if is_forbidden && matches!(request, Request::Info(_)) {
                            self.complain();
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
        });
        let done = tokio::time::timeout(self.timeout, work).await;
        done.unwrap_or_else(|_| match sent.load(Ordering::Relaxed) {
            0 => Err(not_reached()),
            number => {
                self.overdue(number);
                Err(no_answer())
            }
        })
    }

    fn complain(&self) {
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the user may not call INFO, so whether a master of the cluster has lost something is looked up now and then"
            );
        }
    }

    pub(super) async fn value(self: &Arc<Self>, request: Request<'_>) -> Result<Value> {
        Ok(self.bounded(request).await?.1)
    }

    pub(super) fn send(
        self: &Arc<Self>,
        command: &Cmd,
    ) -> impl Future<Output = Result<Value>> + Send {
        self.value(Request::One(command))
    }

    /// Several commands about one bucket, in one round trip.
    pub(super) async fn send_together(self: &Arc<Self>, commands: &Pipeline) -> Result<Vec<Value>> {
        match self.value(Request::Together(commands)).await? {
            Value::Array(answers) => Ok(answers),
            _ => Err(unexpected()),
        }
    }

    /// Many commands about different buckets. What reads only: the first that fails ends it.
    pub(super) async fn send_all(self: &Arc<Self>, commands: Vec<Cmd>) -> Result<Vec<Value>> {
        if self.is_cluster() {
            return in_groups(&commands, |command| self.send(command)).await;
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

    /// Runs a script, and says by way of which connection, for [`remember`](Self::remember). The answer begins with the time.
    pub(super) async fn run(self: &Arc<Self>, call: Call) -> Result<(u64, Reply)> {
        let (number, answer) = self.bounded(Request::Script(&call)).await?;
        Ok((number, Reply::of(answer)?))
    }

    /// The time of the server, the earliest of all masters of a cluster: a sign-in that starts then started before
    /// whatever any of them stamps later.
    pub(super) async fn time(self: &Arc<Self>) -> Result<Timestamp> {
        let answer = self.value(Request::Times).await?;
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

/// As many at a time as a cluster bears. Each group is waited for as long as any call.
async fn in_groups<'c, F: Future<Output = Result<Value>>>(
    commands: &'c [Cmd],
    send: impl Fn(&'c Cmd) -> F,
) -> Result<Vec<Value>> {
    let mut answers = Vec::with_capacity(commands.len());
    for some in commands.chunks(LOOKS_AT_ONCE) {
        for answer in join_all(some.iter().map(&send)).await {
            answers.push(answer?);
        }
    }
    Ok(answers)
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

fn not_reached() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "Redis was not reached in time")
}

fn no_answer() -> StoreError {
    StoreError::new(StoreErrorKind::Unknown, "Redis did not answer in time")
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn commands() -> Vec<Cmd> {
        let numbered = |number: usize| redis::cmd("ECHO").arg(number).to_owned();
        (0..100).map(numbered).collect()
    }

    /// A cluster's client that has many calls to work on can come to a halt while it looks up its masters.
    #[tokio::test]
    async fn a_cluster_is_not_asked_many_things_at_a_time_and_answers_keep_their_order() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let commands = commands();
        let answers = in_groups(&commands, async |command| {
            let others = now.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(others + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Value::BulkString(command.get_packed_command()))
        });
        let asked = commands.iter().map(Cmd::get_packed_command);
        let asked: Vec<Value> = asked.map(Value::BulkString).collect();
        assert_eq!(answers.await.unwrap(), asked);
        assert_eq!(most.into_inner(), LOOKS_AT_ONCE);
    }

    /// Else a master that is silent would be waited for once for each group.
    #[tokio::test]
    async fn after_one_that_fails_a_cluster_is_asked_no_more() {
        let asked = AtomicUsize::new(0);
        let commands = commands();
        let answers = in_groups(&commands, async |_| {
            match asked.fetch_add(1, Ordering::SeqCst) {
                20 => Err(no_answer()),
                _ => Ok(Value::Nil),
            }
        });
        assert!(answers.await.is_err());
        assert_eq!(asked.into_inner(), 2 * LOOKS_AT_ONCE);
    }
}
