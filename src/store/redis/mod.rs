//! Sign-ins in Redis or Valkey.
//!
//! # Keys
//!
//! All names begin with the prefix and a hash tag, which is one of 256 buckets in hexadecimal: `axum-signout:{a5}:…`.
//! Whatever others chose is in them as a hash only.
//!
//! | key | type | of | ends |
//! |---|---|---|---|
//! | `account:<account>` | hash | everything of one account: entries, downstream tokens, mark, what was answered of late | a day after its last sign-in, or with the last of what ends by itself |
//! | `ending:<account>` | sorted set | what in it ends by itself | with it |
//! | `due` | sorted set | the sign-ins of a bucket, by when their time is up | a day after the last |
//! | `derived` | sorted set | the sign-ins of a bucket that have downstream tokens | a day after the last |
//! | `outbox`, `outbox:ready`, `outbox:age` | hash, sorted sets | tokens to revoke | a day after the last came in |
//! | `selector:<selector>` | sorted set | members | with the last |
//! | `selector:mark:<selector>` | string | mark | with it |
//! | `selector:answer:<selector>:<call>` | string | what a closing answered | after a minute |
//! | `selectors` | sorted set | the members of a bucket, to be counted | with the last |
//! | `claim:<name>`, `lease:<name>` | string | who has it | with it |
//! | `claims`, `leases` | sorted set | those of a bucket, to be counted | with the last |
//! | `session:<hash of its id>` | string | a session | with it |
//! | `batch:<call>` | string | which sign-ins a call of `due` is about | after a minute |
//!
//! # Channels
//!
//! | channel | of | what is said |
//! |---|---|---|
//! | `<prefix>:news:<database>` | one server, and the master of sentinels | `E:<account>:<sign-in>:<cause>`: it has left; `C:<account>:<sign-in>`: its entry or its key is another; nothing: somebody has just subscribed |
//! | `<prefix>:{a5}:news`, a shard's | each bucket of a cluster | the same |
//!
//! # Rules
//!
//! * What concerns one account lies in one slot and is changed by one script, which names every key that it touches: a
//!   slot that is being moved to another master makes it wait, not overlook something.
//! * What a request reads is one field of one key, by `HGET`: a sign-in's head and entry, in one piece. Once a second `TIME` goes before it, in the same round
//!   trip: a sign-in whose time is up must not be served, and its fields stay until they are collected.
//! * Selectors lie elsewhere and follow in an order that every interruption survives: members come before the entry and go
//!   after it.
//! * Every call has a name, or is the same when it is done twice, and what a script answered is kept in the same slot for a
//!   minute, the tokens of removed sign-ins included. So whatever the client sends again changes no answer.
//! * At `maxmemory` Redis refuses the first write of a script if it is one that may take more memory, but none that comes after
//!   another write. So scripts that must go on begin with a write that takes none.
//! * What was done of late can be done again, by `replay.lua` and `close_again.lua`, with its own time: a failover may have
//!   undone it.
//! * Sign-ins leave in `take_out` of `account.lua` and nowhere else, and it announces that; so does whatever changes an entry or a
//!   key. Announcing is part of the script, and fails without it: who may not publish signs out all the same.
//! * In a cluster the channel stands in `KEYS` as the keys of its slot do, so a slot that is being moved makes a script wait rather than
//!   announce where nobody listens any more. Elsewhere a name with the hash tag stands there, which the channel is made of: a single server
//!   may insist on slots all the same.
//! * With a [`tier`](RedisTokenStoreBuilder::memory_tier), `load` may be answered by a copy; everything else asks Redis. Every call that changes a
//!   sign-in says so to the tier before it is sent and when it has ended.

mod builder;
mod codec;
mod head;
mod keys;
mod link;
mod masters;
mod measure;
mod names;
mod news;
mod outbox;
mod recent;
mod replay;
mod reply;
mod room;
mod script;
mod selectors;
#[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
mod sessions;
mod sign_ins;
mod store;
mod subscription;
mod tier;
mod time;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
#[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
use std::sync::atomic::Ordering;

pub use self::builder::RedisTokenStoreBuilder;
use self::codec::Codec;
use self::keys::Keys;
use self::link::Link;
use self::room::Room;
#[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
pub use self::sessions::RedisSessionStore;
use self::subscription::Subscription;
use self::tier::Tier;
pub use self::tier::{MemoryTier, TierStats};
use self::time::Time;

/// Keeps sign-ins in Redis or Valkey: several nodes share them, and a sign-out on one holds on all.
///
/// Redis from 6.2 and Valkey from 7.2, a single server, a cluster, or the master that sentinels name. Replicas are never
/// read. The connection is made at the first call, and anew when it is lost.
///
/// # Time
///
/// Lifetimes count by the clocks of the Redis servers. Keep those in step, and let them be slewed, not set: a sign-in
/// that starts is stamped with the earliest of all masters, so that one whose clock is fast refuses some sign-ins after a
/// sign-out for as long as it is ahead; where a failover leads to a server whose clock is behind, sign-ins that were under
/// way may pass a sign-out by as much, or be taken out when it is replayed although they came after it. While a master of a cluster is away nobody starts a sign-in, and expired sign-ins are
/// not collected; requests and sign-outs of the others' accounts go on.
///
/// # Announcements
///
/// Nodes tell each other what has ended or changed, by publish and subscribe: that ends what handlers of other nodes wait for
/// ([`Account::ended`](crate::Account::ended)) and calls the hooks of
/// [`AuthBuilder::on_evict_everywhere`](crate::AuthBuilder::on_evict_everywhere). For that each node has one more connection, to each master of
/// a cluster, from the moment when an [`Auth`](crate::Auth) with this store runs. It speaks RESP3, is asked once a second, counts as lost
/// two seconds after a question that is not answered, and is then made anew, with up to two seconds between attempts. Who the masters are is looked up every
/// five seconds. In a cluster the
/// announcements go through sharded channels, which take Redis from 7.0 or Valkey; with an older one, sign-outs are not announced.
///
/// Nothing depends on hearing: what was missed is found out by looking, as without announcements. What they say are hashes of accounts, ids of
/// sign-ins, and causes, and they are believed: whoever can publish there can end what runs for a sign-in whose account's hash and id they know,
/// and have the hooks called for any sign-in that they make up, and nothing else. A message of another version about a sign-in makes nodes look at it
/// anew. A node hears its own announcements, too: a message for each change, and hooks are not called twice for it.
///
/// # Permissions
///
/// A user with an ACL needs the keys `~<prefix>:*` and the channels `&<prefix>:*`: since Redis 7.0 a new user has no channels. Without them
/// everything works but announcements, which the trace says once. The commands are those of `@read`, `@write`, `@scripting`, `@connection` and
/// `@pubsub`, and `TIME`, `INFO`, `CLUSTER SLOTS` and, with sentinels, `ROLE` besides. Without `INFO` a node of a cluster cannot ask the masters
/// who they are (see below), which the trace says once, and looks at everything that it remembers every ten seconds instead.
///
/// # Durability
///
/// A sign-out is as durable as the write that acknowledged it: a failover, or a restart from an old snapshot, can undo it. So
/// each node remembers what it evicted and which selectors it closed, for two hours, some 100,000 of them and at most 64 MiB, the latest of
/// each bucket, and as many sessions that it deleted: an hour lies between two snapshots of a Redis that few write to, and it may be away for another.
/// Refreshed tokens it remembers for a minute, or until their sign-in is evicted, up to 16 MiB, of which an entry may take 64 KiB: a larger one is not remembered. Whoever finds a lost connection connects anew at once, and a node
/// that nobody asks anything looks once a second.
///
/// * On a single server, and behind sentinels, a new connection carries nothing before all of that is as it was: it is looked
///   at by plain reads, and what was lost is done again, with the time of the first. Who signed in since stays. Tokens that are to
///   be revoked are in the outbox again; hooks of [`on_evict`](crate::AuthBuilder::on_evict) are not told twice. What the server
///   refuses to do again, because it takes no writes, say, keeps nobody waiting: this node holds to it by itself, and tries again
///   every ten seconds.
/// * The client of a cluster connects anew by itself. Should it come to a halt altogether, which that of the crate `redis` can when a master
///   goes away and comes back, it is made anew, some six time-outs after the first call that it did not answer; until then the node answers
///   503. In a cluster a node holds to what it did, whatever it reads, and asks all masters
///   once a second which processes they are and whose data they go on with; where that has changed everything is replayed. While
///   one of the masters is away, and without the right to `INFO`, they cannot be compared, and everything is looked at every ten seconds.
/// * In between, other nodes may serve what came back: for a second, for as long as nobody reaches the new master, and for good if
///   the node that evicted is gone, or its memory of it; then idle and absolute lifetime end it. For a Redis that loses less:
///   `appendonly yes`, and `min-replicas-to-write 1` where there are replicas.
/// * What is not replayed: claims, so that a logout token that was accepted could be sent again; leases, so that where Redis lost one two nodes
///   can send the same refresh token; the new key that a sign-in was given, so that its session no longer opens it and the user signs in
///   again; and tokens that waited to be revoked of sign-ins that were gone before the snapshot, or came after it. A refresh token that came back is sent once
///   more if it was used longer than a minute before, or if another node needs it before the node that used it has replayed; a provider that rotates
///   refuses it, and may revoke what it had given for it. The sign-in ends with
///   [`Cause::RefreshRejected`](crate::Cause::RefreshRejected).
/// * `FLUSHALL`, `DEBUG RELOAD` and whatever else changes data under a connection is not noticed.
///
/// Set `maxmemory-policy` to `noeviction`; under any other Redis forgets marks and sign-ins as it likes. At `maxmemory`
/// sign-ins are refused with [`StoreErrorKind::Full`](super::StoreErrorKind::Full). Requests are served, sign-ins taken out, selectors closed and
/// sessions deleted as ever, and what was lost is replayed; that takes a little memory more. What waits until there is room: refreshes, which take a
/// lease; noting that a sign-in is used, so that its idle time goes on; whatever saves a session; collecting expired sign-ins; and handing out
/// tokens that are to be revoked.
///
/// # Memory tier
///
/// Without one every request asks Redis, and one that begins after a sign-out has returned, on whichever node, gets no token. With a
/// [`memory_tier`](RedisTokenStoreBuilder::memory_tier) that holds on other nodes from when they hear of it: [`MemoryTier`] has the bounds.
///
/// # Limits
///
/// See [`RedisTokenStoreBuilder`]. All nodes together keep to them. Counting asks all buckets; far from a limit it is done
/// now and then, so with more than 16 nodes, or several that come to a limit at once, there can be a few more than that.
/// A sign-in takes at most 1 MiB. [`StoreStats::marks`](super::StoreStats::marks) is always 0: marks end by themselves and
/// are not counted.
///
/// # Errors
///
/// [`Unavailable`](super::StoreErrorKind::Unavailable) where nothing was done: Redis was not reached, or it refused.
/// [`Unknown`](super::StoreErrorKind::Unknown) where it may have been: no answer came in time, or the connection was lost
/// twice.
///
/// # Example
///
/// ```no_run
/// use axum_signout::store::RedisTokenStore;
///
/// # fn main() -> Result<(), axum_signout::ConfigError> {
/// let store = RedisTokenStore::builder("rediss://app:password@redis.internal:6379")
///     .prefix("shop")
///     .build()?;
/// // A cluster, of which any node leads to the others:
/// let store = RedisTokenStore::cluster(["redis://10.0.0.1:6379", "redis://10.0.0.2:6379"]).build()?;
/// // The master that sentinels know by a name:
/// let store = RedisTokenStore::sentinel(["redis://10.0.0.1:26379"], "main")
///     .credentials("app", "password")
///     .build()?;
/// # Ok(()) }
/// ```
pub struct RedisTokenStore {
    keys: Arc<Keys>,
    codec: Arc<Codec>,
    time: Arc<Time>,
    link: Arc<Link>,
    sign_ins: Room,
    members: Room,
    claims: Room,
    leases: Room,
    outbox: Room,
    max_per_account: usize,
    subscription: Subscription,
    tier: Option<Arc<Tier>>,
    /// Whether the app has its sessions here as well.
    #[cfg_attr(
        not(any(feature = "tower-sessions-015", feature = "tower-sessions-014")),
        allow(dead_code, reason = "there are no sessions")
    )]
    sessions_given: AtomicBool,
}

impl RedisTokenStore {
    /// One server: `redis://[user:password@]host[:port][/database]`, `rediss://` with TLS.
    pub fn builder(url: impl Into<String>) -> RedisTokenStoreBuilder {
        RedisTokenStoreBuilder::new([url.into()])
    }

    /// A cluster, by one or more of its nodes. All have the same user and password. Each node of the app has at most 40 calls under way to
    /// each master; those that come meanwhile wait, for the [`timeout`](RedisTokenStoreBuilder::timeout) at most.
    pub fn cluster<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> RedisTokenStoreBuilder {
        RedisTokenStoreBuilder::new(urls.into_iter().map(Into::into)).cluster()
    }

    /// The master that sentinels know by this name. The URLs are the sentinels'.
    pub fn sentinel<U: Into<String>>(
        urls: impl IntoIterator<Item = U>,
        master: impl Into<String>,
    ) -> RedisTokenStoreBuilder {
        RedisTokenStoreBuilder::new(urls.into_iter().map(Into::into)).sentinel(master.into())
    }

    /// A store for the app's sessions over the same connection, with the same prefix.
    #[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
    #[must_use]
    pub fn sessions(&self) -> RedisSessionStore {
        self.sessions_given.store(true, Ordering::SeqCst);
        self.make_sessions()
    }

    #[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
    fn make_sessions(&self) -> RedisSessionStore {
        RedisSessionStore::new(self.keys.clone(), self.codec.clone(), self.link.clone())
    }

    /// How the [memory tier](RedisTokenStoreBuilder::memory_tier) does, if there is one.
    #[must_use]
    pub fn tier_stats(&self) -> Option<TierStats> {
        self.tier.as_ref().map(|tier| tier.stats())
    }

    /// How many values this node found that it could not read. They count as not there: those of a newer version, or what
    /// somebody else wrote.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.codec.unreadable()
    }

    /// How many messages this node got on the channels of announcements that it could not read: somebody else publishes there, or a
    /// newer version does. Those that name a sign-in make this node look at it anew; others are passed over.
    #[must_use]
    pub fn unreadable_announcements(&self) -> u64 {
        self.subscription.ignored()
    }
}

impl fmt::Debug for RedisTokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTokenStore")
            .field("keys", &self.keys)
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}
