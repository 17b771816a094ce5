//! Hearing of announcements: a connection of their own to every master, made when somebody wants to hear, and anew when it is
//! lost.
//!
//! A node hears its own announcements too: they say the same as its calls do, and nobody minds hearing it twice. It costs a message of some
//! 80 bytes for each change, and the tier a look-up: what was loaded between the call and its announcement is dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::keys::Keys;
use super::link::Link;
use super::masters::{Master, Masters};
use super::news::{BEAT, BEAT_LIMIT, Buckets, Listener, Message, Moment, News};
use crate::id::Address;

/// How many announcements wait to be passed on. With one more the connection counts as lost, for that one is.
const QUEUE: usize = 4096;

/// Between attempts; doubled each time nothing comes of one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A connection that stood for less makes the next attempt wait longer: a server that drops each one soon must not be connected to all
/// the time.
const STANDS_FIRM: Duration = BEAT.saturating_mul(2);

/// How often it is looked who the masters are, where that can change unnoticed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Who listens, and what stands.
#[derive(Default)]
struct Audience {
    listeners: Vec<Arc<dyn Listener>>,
    standing: Buckets,
    /// Whether something runs that carries the news.
    is_carried: bool,
}

struct Shared {
    masters: Masters,
    keys: Arc<Keys>,
    /// What calls go over.
    link: Arc<Link>,
    /// For connecting and subscribing.
    timeout: Duration,
    audience: Mutex<Audience>,
    /// Somebody listens, and nothing carries the news. Changed with the audience, read without it.
    is_due: AtomicBool,
    ignored: AtomicU64,
    /// Said in the trace, since a connection stood last.
    said: AtomicBool,
}

/// The subscription of one store. What carries it ends with it.
pub(super) struct Subscription {
    shared: Arc<Shared>,
    end: CancellationToken,
    _ends: DropGuard,
}

impl Subscription {
    pub(super) fn new(masters: Masters, keys: Arc<Keys>, link: Arc<Link>) -> Self {
        let end = CancellationToken::new();
        Self {
            shared: Arc::new(Shared {
                masters,
                keys,
                timeout: link.timeout(),
                link,
                audience: Mutex::default(),
                is_due: AtomicBool::new(false),
                ignored: AtomicU64::new(0),
                said: AtomicBool::new(false),
            }),
            _ends: end.clone().drop_guard(),
            end,
        }
    }

    /// Tells a listener from now on. Without one there is no connection. Where no runtime is there yet, [`start`](Self::start) has
    /// to be called once there is.
    pub(super) fn listen(&self, listener: Arc<dyn Listener>) {
        let mut audience = self.shared.audience();
        if !audience.standing.is_empty() {
            listener.stands(&audience.standing);
        }
        audience.listeners.push(listener);
        self.shared.note(&audience);
        drop(audience);
        self.start();
    }

    /// Starts what carries the news, if somebody listens, it does not run yet or no longer, and there is a runtime. With every look-up: what
    /// runs may have ended with its runtime, or by a panic. Costs a read of memory when it runs.
    pub(super) fn start(&self) {
        let shared = &self.shared;
        if !shared.is_due.load(Ordering::Relaxed) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut audience = shared.audience();
        if audience.is_carried || audience.listeners.is_empty() {
            return;
        }
        audience.is_carried = true;
        shared.note(&audience);
        drop(audience);
        let running = Running(Some(shared.clone()));
        let (shared, end) = (shared.clone(), self.end.clone());
        runtime.spawn(async move {
            if end.run_until_cancelled(shared.carry()).await.is_some() {
                running.has_said_so();
            }
        });
    }

    /// How many messages on the channels were no announcements.
    pub(super) fn ignored(&self) -> u64 {
        self.shared.ignored.load(Ordering::Relaxed)
    }
}

/// Its end, also with the runtime that it ran on.
struct Running(Option<Arc<Shared>>);

impl Running {
    /// It has [left](Shared::leave); another one may run by now.
    fn has_said_so(mut self) {
        self.0 = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            let mut audience = shared.audience();
            audience.is_carried = false;
            shared.note(&audience);
        }
    }
}

/// That some buckets stand, until this is dropped.
struct Standing<'a> {
    shared: &'a Shared,
    buckets: Buckets,
}

impl<'a> Standing<'a> {
    fn new(shared: &'a Shared, buckets: Buckets) -> Self {
        let mut audience = shared.audience();
        audience.standing = audience.standing.with(&buckets);
        audience.tell(|listener| listener.stands(&buckets));
        shared.said.store(false, Ordering::Relaxed);
        tracing::debug!(?buckets, "announcements of Redis are heard");
        Self { shared, buckets }
    }
}

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        let mut audience = self.shared.audience();
        audience.standing = audience.standing.without(&self.buckets);
        audience.tell(|listener| listener.lost(&self.buckets));
    }
}

impl Audience {
    fn tell(&mut self, tell: impl Fn(&dyn Listener)) {
        self.let_go();
        self.listeners.iter().for_each(|listener| tell(&**listener));
    }

    /// Of those that nobody is behind any more.
    fn let_go(&mut self) {
        self.listeners.retain(|listener| !listener.is_gone());
    }
}

/// What came over a connection.
enum Heard {
    News(News),
    /// No more of some bucket comes here, or nothing at all.
    Over,
}

/// A connection to one master.
struct Carrier<'a> {
    master: Master,
    /// Ends when the connection is lost, or nobody listens any more; for how long it stood.
    work: Pin<Box<dyn Future<Output = Duration> + Send + 'a>>,
}

/// The place of the first that ended, and for how long it stood. Without any it waits for ever.
async fn first_ended(carriers: &mut [Carrier<'_>]) -> (usize, Duration) {
    if carriers.is_empty() {
        return std::future::pending().await;
    }
    let (stood, at, _) = select_all(carriers.iter_mut().map(|carrier| &mut carrier.work)).await;
    (at, stood)
}

fn lost(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::Io, why))
}

impl Shared {
    fn audience(&self) -> MutexGuard<'_, Audience> {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, audience: &Audience) {
        let is_due = !audience.is_carried && !audience.listeners.is_empty();
        self.is_due.store(is_due, Ordering::Relaxed);
    }

    fn is_unheard(&self) -> bool {
        let mut audience = self.audience();
        audience.let_go();
        audience.listeners.is_empty()
    }

    /// Whether nobody listens any more. Then nothing carries the news from here on, and the next listener starts it.
    fn leave(&self) -> bool {
        let mut audience = self.audience();
        audience.let_go();
        let leaves = audience.listeners.is_empty();
        audience.is_carried = !leaves;
        self.note(&audience);
        leaves
    }

    /// Keeps a connection to every master, until nobody listens any more.
    async fn carry(&self) {
        let mut carriers: Vec<Carrier<'_>> = Vec::new();
        let mut pause = FIRST_PAUSE;
        let mut look = Box::pin(self.look_after(Duration::ZERO));
        loop {
            if self.is_unheard() {
                // First, so that what stood is lost before somebody else begins.
                carriers.clear();
                if self.leave() {
                    return;
                }
                look = Box::pin(self.look_after(Duration::ZERO));
            }
            tokio::select! {
                (at, stood) = first_ended(&mut carriers) => {
                    carriers.swap_remove(at);
                    pause = pause_after(stood, pause);
                    self.masters.doubt();
                    look = Box::pin(self.look_after(spread(pause)));
                }
                masters = &mut look => {
                    let next = match masters {
                        Ok(masters) => {
                            self.follow(masters, &mut carriers);
                            LOOK_AGAIN
                        }
                        Err(error) => {
                            self.complain(&error);
                            self.masters.doubt();
                            pause = longer(pause);
                            spread(pause)
                        }
                    };
                    let moves = self.masters.can_move() || carriers.is_empty();
                    let next = if moves { next } else { Duration::MAX };
                    look = Box::pin(self.look_after(next));
                }
            }
        }
    }

    async fn look_after(&self, pause: Duration) -> redis::RedisResult<Vec<Master>> {
        tokio::time::sleep(pause).await;
        let config = self.config();
        let look = self.masters.look(&self.keys, &config);
        let looked = tokio::time::timeout(self.timeout, look).await;
        looked.unwrap_or_else(|_| Err(lost("nobody said in time who the masters are")))
    }

    /// Ends the connections that no longer are to be, and makes those that are missing.
    fn follow<'a>(&'a self, masters: Vec<Master>, carriers: &mut Vec<Carrier<'a>>) {
        carriers.retain(|carrier| masters.iter().any(|master| master.is(&carrier.master)));
        for master in masters {
            if !carriers.iter().any(|carrier| carrier.master.is(&master)) {
                let work = Box::pin(self.carry_one(master.clone()));
                carriers.push(Carrier { master, work });
            }
        }
    }

    async fn carry_one(&self, master: Master) -> Duration {
        let mut stands = None;
        if let Err(error) = self.hear(&master, &mut stands).await {
            self.complain(&error);
            if stands.is_some() {
                let reason = error.category();
                tracing::warn!(reason, "announcements of Redis are missed for a while");
            }
        }
        stands.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn config(&self) -> AsyncConnectionConfig {
        AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(BEAT_LIMIT - BEAT))
    }

    /// Subscribes, and passes on what comes until the connection is lost, or nobody listens any more.
    async fn hear(
        &self,
        master: &Master,
        stands: &mut Option<tokio::time::Instant>,
    ) -> redis::RedisResult<()> {
        let (feed, mut heard) = mpsc::channel(QUEUE);
        let is_full = Arc::new(AtomicBool::new(false));
        let (overflow, ignored) = (is_full.clone(), Arc::new(AtomicU64::new(0)));
        let count = ignored.clone();
        let config = self.config().set_push_sender(move |push: PushInfo| {
            let heard = match read(&push) {
                Read::News(news) => Heard::News(news),
                Read::Unknown(address) => {
                    count.fetch_add(1, Ordering::Relaxed);
                    Heard::News(News::Changed { address })
                }
                Read::Over => Heard::Over,
                Read::Nothing => return Ok(()),
                Read::Garbage => {
                    count.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
            };
            feed.try_send(heard)
                .inspect_err(|_| overflow.store(true, Ordering::SeqCst))
        });
        let start = self.subscribe(master, &config);
        let started = tokio::time::timeout(self.timeout, start).await;
        let connection = started.unwrap_or_else(|_| Err(lost("no subscription in time")))?;

        let buckets = master.buckets;
        let mut standing = None;
        let mut beat = Box::pin(self.beat_after(Duration::ZERO, &connection, &buckets));
        loop {
            let mut answered = None;
            let mut next = tokio::select! {
                biased;
                next = heard.recv() => Some(next.ok_or_else(|| lost("it was closed"))?),
                sent = &mut beat => {
                    answered = Some(sent?);
                    heard.try_recv().ok()
                }
            };
            // Whatever came before the answer did is in the queue.
            while let Some(one) = next {
                match one {
                    Heard::News(news) => self.audience().tell(|listener| listener.heard(&news)),
                    Heard::Over => return Err(lost("the subscription ended")),
                }
                next = heard.try_recv().ok();
            }
            if is_full.load(Ordering::SeqCst) {
                return Err(lost("too much to hear at once"));
            }
            let more = ignored.swap(0, Ordering::Relaxed);
            if more > 0 && self.ignored.fetch_add(more, Ordering::Relaxed) == 0 {
                tracing::warn!(
                    "somebody else, or another version, publishes where sign-ins are announced"
                );
            }
            if let Some(sent) = answered {
                standing.get_or_insert_with(|| Standing::new(self, buckets));
                stands.get_or_insert_with(tokio::time::Instant::now);
                self.audience()
                    .tell(|listener| listener.beat(&buckets, sent));
                if self.is_unheard() {
                    return Ok(());
                }
                beat = Box::pin(self.beat_after(BEAT, &connection, &buckets));
            }
        }
    }

    async fn subscribe(
        &self,
        master: &Master,
        config: &AsyncConnectionConfig,
    ) -> redis::RedisResult<MultiplexedConnection> {
        let connection = master
            .client
            .get_multiplexed_async_connection_with_config(config)
            .await?;
        let (subscribe, publish) = match self.masters.is_cluster() {
            true => ("SSUBSCRIBE", "SPUBLISH"),
            false => ("SUBSCRIBE", "PUBLISH"),
        };
        // Each by itself: their slots differ.
        let mut channels: Vec<String> = Vec::new();
        for bucket in master.buckets.iter() {
            let channel = self.keys.channel(bucket);
            if channels.last() != Some(&channel) {
                channels.push(channel);
            }
        }
        let mut commands: Vec<Cmd> = Vec::with_capacity(channels.len() + 1);
        for channel in &channels {
            let mut command = redis::cmd(subscribe);
            command.arg(channel);
            commands.push(command);
        }
        // Who hears without being allowed to tell would wait in vain for what its own kind leaves out.
        let mut probe = redis::cmd(publish);
        probe
            .arg(channels.first().map_or("", String::as_str))
            .arg("");
        commands.push(probe);
        let sent = commands.iter().map(|command| ask(&connection, command));
        for answer in join_all(sent).await {
            answer?;
        }
        Ok(connection)
    }

    /// Asks, after a while, whether the server still is what it was. When it was sent.
    async fn beat_after(
        &self,
        pause: Duration,
        connection: &MultiplexedConnection,
        buckets: &Buckets,
    ) -> redis::RedisResult<Moment> {
        tokio::time::sleep(pause).await;
        let sent = Moment::now();
        if self.masters.is_cluster() {
            // A read, which a node refuses that is no longer the master, or alone.
            let channel = buckets
                .iter()
                .next()
                .map(|bucket| self.keys.channel(bucket));
            let mut exists = redis::cmd("EXISTS");
            exists.arg(channel.unwrap_or_default());
            return match ask(connection, &exists).await? {
                Value::Int(_) => Ok(sent),
                _ => Err(lost("an unexpected answer")),
            };
        }
        // Needs no permission, and tells the role.
        let Value::Map(hello) = ask(connection, &redis::cmd("HELLO")).await? else {
            return Err(lost("an unexpected answer"));
        };
        match hello
            .iter()
            .any(|(name, value)| says(name, "role") && says(value, "master"))
        {
            true => Ok(sent),
            false => {
                // It still answers reads, as old as they are by now.
                self.link.doubt();
                Err(lost("it is no longer the master"))
            }
        }
    }

    /// Once, for what somebody has to change; the rest passes, and the store's own calls say so.
    fn complain(&self, error: &RedisError) {
        let is_lasting = match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError) => true,
            ErrorKind::Extension => error.code() == Some("NOPERM"),
            ErrorKind::RESP3NotSupported => true,
            _ => false,
        };
        if is_lasting && !self.said.swap(true, Ordering::Relaxed) {
            tracing::error!(
                code = error.code().unwrap_or_default(),
                "sign-outs are not announced to other nodes: Redis refuses to publish or to subscribe; \
                 does its user have the channels, and is a cluster's version 7.0 or later?"
            );
        } else {
            tracing::debug!(reason = error.category(), "no announcements of Redis");
        }
    }
}

async fn ask(connection: &MultiplexedConnection, command: &Cmd) -> redis::RedisResult<Value> {
    let mut connection = connection.clone();
    let answer = connection.send_packed_command(command).await;
    answer.and_then(Value::extract_error)
}

fn says(value: &Value, text: &str) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == text.as_bytes(),
        Value::SimpleString(own) => own == text,
        _ => false,
    }
}

enum Read {
    News(News),
    /// Whatever it says of this sign-in.
    Unknown(Address),
    Over,
    Nothing,
    Garbage,
}

/// What a push message says.
fn read(push: &PushInfo) -> Read {
    match push.kind {
        // Channel and message.
        PushKind::Message | PushKind::SMessage => match push.data.get(1) {
            // The probe of a node that has just subscribed.
            Some(Value::BulkString(message)) if message.is_empty() => Read::Nothing,
            Some(Value::BulkString(message)) => match Message::parse(message) {
                Some(Message::News(news)) => Read::News(news),
                Some(Message::Unknown(address)) => Read::Unknown(address),
                None => Read::Garbage,
            },
            _ => Read::Garbage,
        },
        // A slot has moved away.
        PushKind::SUnsubscribe | PushKind::Unsubscribe | PushKind::Disconnection => Read::Over,
        _ => Read::Nothing,
    }
}

/// Before the next attempt, after a connection that stood for so long.
fn pause_after(stood: Duration, last: Duration) -> Duration {
    match stood >= STANDS_FIRM {
        true => FIRST_PAUSE,
        false => longer(last),
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// Half of it by chance, so that nodes which lost a server together do not come back together.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{AccountHash, SignInId};

    #[test]
    fn who_is_dropped_soon_after_each_attempt_waits_longer_each_time() {
        let soon = STANDS_FIRM - Duration::from_millis(1);
        let mut pause = FIRST_PAUSE;
        for stood in [Duration::ZERO, soon, soon] {
            let next = pause_after(stood, pause);
            assert_eq!(next, 2 * pause);
            pause = next;
        }
        assert_eq!(pause_after(STANDS_FIRM, pause), FIRST_PAUSE);
        assert_eq!(pause_after(soon, LONGEST_PAUSE), LONGEST_PAUSE);
    }

    fn push(kind: PushKind, data: &[&[u8]]) -> PushInfo {
        let data = data.iter().map(|bytes| Value::BulkString(bytes.to_vec()));
        PushInfo {
            kind,
            data: data.collect(),
        }
    }

    #[test]
    fn what_a_server_pushes() {
        let address = Address {
            account: AccountHash::of(&[b"ann"]),
            id: SignInId::random(),
        };
        let news = format!("C:{}:{}", address.account, address.id);
        let expected = News::Changed { address };
        for kind in [PushKind::Message, PushKind::SMessage] {
            let read_as = |message: &[u8]| read(&push(kind.clone(), &[b"channel", message]));
            assert!(matches!(read_as(news.as_bytes()), Read::News(news) if news == expected));
            let newer = format!("{news}:more");
            let unknown = |read| matches!(read, Read::Unknown(of) if of == address);
            assert!(unknown(read_as(newer.as_bytes())), "of another version");
            assert!(matches!(read_as(b""), Read::Nothing), "a probe");
            assert!(matches!(read_as(b"C"), Read::Garbage));
            assert!(matches!(read(&push(kind.clone(), &[])), Read::Garbage));
        }
        for kind in [PushKind::SUnsubscribe, PushKind::Disconnection] {
            assert!(matches!(read(&push(kind, &[b"channel"])), Read::Over));
        }
        for kind in [PushKind::SSubscribe, PushKind::Invalidate] {
            assert!(matches!(read(&push(kind, &[b"channel"])), Read::Nothing));
        }
    }
}
