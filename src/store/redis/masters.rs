//! Which servers the announcements come from: those that run the scripts.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use redis::cluster_routing::Slot;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, RedisError, Value};

use super::keys::Keys;
use super::news::Buckets;

/// No cluster has more ranges of slots.
const SLOTS: usize = 16384;

/// How many masters are kept in mind, to be asked who the masters are where those that the app named are gone.
const KNOWN: usize = 16;

/// Where to ask which servers are masters. All clients speak RESP3, in which announcements and answers share a connection.
pub(super) enum Masters {
    One(Box<Client>),
    Sentinel(Box<tokio::sync::Mutex<SentinelClient>>),
    Cluster(Nodes),
}

/// Nodes of a cluster, any of which can be asked.
pub(super) struct Nodes {
    /// As the app named them.
    seeds: Vec<Client>,
    /// Others that were masters when it was looked last.
    known: Mutex<Vec<Client>>,
    /// Which of them to begin with: after a failure another one.
    first: AtomicUsize,
}

impl Nodes {
    fn new(seeds: Vec<Client>) -> Self {
        Self {
            seeds,
            known: Mutex::default(),
            first: AtomicUsize::new(0),
        }
    }

    fn next(&self) -> Option<Client> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.seeds.len() + known.len();
        let at = self.first.load(Ordering::Relaxed).checked_rem(count)?;
        self.seeds.iter().chain(known.iter()).nth(at).cloned()
    }

    fn another(&self) {
        self.first.fetch_add(1, Ordering::Relaxed);
    }

    fn note(&self, masters: &[Master]) {
        let is_seed = |master: &&Master| {
            let address = address(&master.client);
            self.seeds.iter().any(|seed| self::address(seed) == address)
        };
        let others = masters.iter().filter(|master| !is_seed(master));
        let others = others.map(|master| master.client.clone()).take(KNOWN);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = others.collect();
    }
}

fn address(client: &Client) -> &ConnectionAddr {
    client.get_connection_info().addr()
}

/// A master, and the buckets that are its own.
#[derive(Clone)]
pub(super) struct Master {
    pub(super) client: Client,
    pub(super) buckets: Buckets,
}

impl Master {
    /// Whether a connection to the one serves as well for the other.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.buckets == other.buckets && address(&self.client) == address(&other.client)
    }
}

impl Masters {
    pub(super) fn cluster(seeds: Vec<Client>) -> Self {
        Self::Cluster(Nodes::new(seeds))
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Whether it can be another one tomorrow without the connection being lost.
    pub(super) fn can_move(&self) -> bool {
        !matches!(self, Self::One(_))
    }

    /// All of them, as far as one node knows.
    pub(super) async fn look(
        &self,
        keys: &Keys,
        config: &AsyncConnectionConfig,
    ) -> redis::RedisResult<Vec<Master>> {
        let all = |client| {
            let buckets = Buckets::ALL;
            vec![Master { client, buckets }]
        };
        match self {
            Self::One(client) => Ok(all((**client).clone())),
            Self::Sentinel(sentinels) => {
                let client = sentinels.lock().await.async_get_client().await?;
                Ok(all(client))
            }
            Self::Cluster(nodes) => {
                let node = nodes.next().ok_or_else(unexpected)?;
                let ranges = slots(&node, config).await?;
                let masters = of_ranges(ranges, &buckets_by_slot(keys));
                nodes.note(&masters);
                Ok(masters)
            }
        }
    }

    /// The node that was asked last did not answer, or what it said turned out to be wrong: another one is asked next.
    pub(super) fn doubt(&self) {
        if let Self::Cluster(nodes) = self {
            nodes.another();
        }
    }
}

fn unexpected() -> RedisError {
    RedisError::from((
        ErrorKind::UnexpectedReturnType,
        "the cluster describes itself in no known way",
    ))
}

/// Slots from one to another, and their master.
struct Range {
    slots: std::ops::RangeInclusive<u16>,
    master: Client,
}

async fn slots(node: &Client, config: &AsyncConnectionConfig) -> redis::RedisResult<Vec<Range>> {
    let mut connection = node
        .get_multiplexed_async_connection_with_config(config)
        .await?;
    let mut command = redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let answer = connection.send_packed_command(&command).await?;
    parse_slots(answer.extract_error()?, node).ok_or_else(unexpected)
}

/// `CLUSTER SLOTS`: for each range its ends, its master (host, port, …), and replicas.
fn parse_slots(answer: Value, asked: &Client) -> Option<Vec<Range>> {
    let Value::Array(rows) = answer else {
        return None;
    };
    let mut ranges = Vec::with_capacity(rows.len().min(SLOTS));
    for row in rows {
        let Value::Array(row) = row else { return None };
        let (Value::Int(first), Value::Int(last), Value::Array(master)) =
            (row.first()?, row.get(1)?, row.get(2)?)
        else {
            return None;
        };
        let slots = u16::try_from(*first).ok()?..=u16::try_from(*last).ok()?;
        let host = match master.first()? {
            Value::Nil => "",
            host => text(host)?,
        };
        // It is to be known by a name, and has none.
        let host = match host {
            "?" => match master.get(3).and_then(ip) {
                Some(ip) => ip,
                // Not heard, so not believed to be.
                None => continue,
            },
            named => named,
        };
        // It does not know its own address: it is the one that was asked.
        let is_any = |ip: IpAddr| ip.is_unspecified();
        let host = if host.parse().is_ok_and(is_any) {
            ""
        } else {
            host
        };
        let Value::Int(port) = master.get(1)? else {
            return None;
        };
        let port = u16::try_from(*port).ok()?;
        let master = at(asked, host, port)?;
        ranges.push(Range { slots, master });
    }
    Some(ranges)
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(text) => std::str::from_utf8(text).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Among what else is said of a node, by a version that says it.
fn ip(more: &Value) -> Option<&str> {
    let mut pairs: Box<dyn Iterator<Item = (&Value, &Value)>> = match more {
        Value::Map(pairs) => Box::new(pairs.iter().map(|(name, value)| (name, value))),
        Value::Array(flat) => Box::new(flat.chunks_exact(2).map(|pair| (&pair[0], &pair[1]))),
        _ => return None,
    };
    let (_, ip) = pairs.find(|(name, _)| text(name) == Some("ip"))?;
    text(ip).filter(|ip| !ip.is_empty())
}

/// Another node of the same cluster: the same user, the same way of encryption.
fn at(asked: &Client, host: &str, port: u16) -> Option<Client> {
    let info = asked.get_connection_info();
    let host = |own: &str| if host.is_empty() { own } else { host }.to_owned();
    let address = match info.addr() {
        ConnectionAddr::Tcp(own, _) => ConnectionAddr::Tcp(host(own), port),
        ConnectionAddr::TcpTls {
            host: own,
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host: host(own),
            port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => return None,
    };
    Client::open(info.clone().set_addr(address)).ok()
}

fn buckets_by_slot(keys: &Keys) -> HashMap<Slot, Buckets> {
    let mut all: HashMap<Slot, Buckets> = HashMap::new();
    for bucket in 0..=u8::MAX {
        let slot = Slot::for_key(keys.channel(bucket));
        all.entry(slot).or_default().insert(bucket);
    }
    all
}

/// Each master once, if it has any bucket.
fn of_ranges(ranges: Vec<Range>, by_slot: &HashMap<Slot, Buckets>) -> Vec<Master> {
    let mut masters: Vec<Master> = Vec::new();
    for range in ranges {
        let slots = range.slots.filter_map(Slot::new);
        let found = slots.filter_map(|slot| by_slot.get(&slot));
        let buckets = found.fold(Buckets::NONE, |all, some| all.with(some));
        if buckets.is_empty() {
            continue;
        }
        let known = masters
            .iter_mut()
            .find(|known| address(&known.client) == address(&range.master));
        match known {
            Some(known) => known.buckets = known.buckets.with(&buckets),
            None => masters.push(Master {
                client: range.master,
                buckets,
            }),
        }
    }
    masters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: i64) -> Value {
        Value::Array(vec![
            Value::BulkString(host.into()),
            Value::Int(port),
            Value::BulkString("id".into()),
        ])
    }

    fn row(first: i64, last: i64, master: Value) -> Value {
        let replica = node("10.0.0.9", 6379);
        Value::Array(vec![Value::Int(first), Value::Int(last), master, replica])
    }

    fn asked() -> Client {
        Client::open("redis://ann:secret@10.0.0.1:7000").unwrap()
    }

    #[test]
    fn every_bucket_is_heard_at_the_one_master_that_has_its_slot() {
        let answer = Value::Array(vec![
            row(0, 5460, node("10.0.0.1", 7000)),
            row(5461, 10922, node("10.0.0.2", 7000)),
            row(10923, 12000, node("", 7001)),
            row(12001, 16383, node("10.0.0.2", 7000)),
        ]);
        let ranges = parse_slots(answer, &asked()).unwrap();
        let keys = Keys::of_cluster("shop");
        let masters = of_ranges(ranges, &buckets_by_slot(&keys));
        assert_eq!(masters.len(), 3);
        let mut all = Buckets::NONE;
        for master in &masters {
            assert_eq!(master.buckets.without(&all), master.buckets, "only one");
            all = all.with(&master.buckets);
            let settings = master.client.get_connection_info().redis_settings();
            assert_eq!(settings.username(), Some("ann"));
        }
        assert_eq!(all, Buckets::ALL);
        let third = masters[2].client.get_connection_info().addr().to_string();
        assert_eq!(third, "10.0.0.1:7001", "it does not know its own name");
        assert!(masters[0].is(&masters[0]) && !masters[0].is(&masters[1]));
    }

    /// A node that is known by the names `host`, with what else is said of it.
    fn host_of(host: Value, more: Value) -> Option<String> {
        let master = Value::Array(vec![
            host,
            Value::Int(7001),
            Value::BulkString("id".into()),
            more,
        ]);
        let answer = Value::Array(vec![row(0, 16383, master)]);
        let ranges = parse_slots(answer, &asked()).expect("an answer");
        let range = ranges.first()?;
        Some(address(&range.master).to_string())
    }

    #[test]
    fn a_master_that_has_no_name_is_found_by_its_address_or_not_at_all() {
        let named = |text: &str| Value::BulkString(text.into());
        let none = || Value::Array(Vec::new());
        let ip = ["hostname", "a", "ip", "10.0.0.7"].map(named);
        let flat = Value::Array(ip.to_vec());
        let map = Value::Map(vec![(named("ip"), named("10.0.0.7"))]);
        let asked = "10.0.0.1:7001";
        for (host, more, expected) in [
            (named("redis-2"), none(), Some("redis-2:7001")),
            (named("?"), flat, Some("10.0.0.7:7001")),
            (named("?"), map, Some("10.0.0.7:7001")),
            (named("?"), none(), None),
            (named("?"), Value::Array(vec![named("ip"), named("")]), None),
            (named("?"), Value::Nil, None),
            (Value::Nil, none(), Some(asked)),
            (named(""), none(), Some(asked)),
            (named("0.0.0.0"), none(), Some(asked)),
            (named("::"), none(), Some(asked)),
        ] {
            let shown = format!("{host:?} {more:?}");
            assert_eq!(host_of(host, more).as_deref(), expected, "{shown}");
        }
    }

    #[test]
    fn masters_are_asked_too_where_those_that_the_app_named_do_not_answer() {
        let client = |host: &str| Client::open(format!("redis://{host}:7000")).unwrap();
        let nodes = Nodes::new(vec![client("a"), client("b")]);
        let asked = || address(&nodes.next().unwrap()).to_string();
        let round = |count: usize| {
            let next = |_| {
                let host = asked();
                nodes.another();
                host
            };
            (0..count).map(next).collect::<Vec<_>>()
        };
        assert_eq!(round(4), ["a:7000", "b:7000", "a:7000", "b:7000"]);
        let master = |host: &str| Master {
            client: client(host),
            buckets: Buckets::ALL,
        };
        nodes.note(&["b", "c"].map(master));
        nodes.first.store(0, Ordering::Relaxed);
        assert_eq!(round(4), ["a:7000", "b:7000", "c:7000", "a:7000"]);
        let many: Vec<Master> = (0..100).map(|n| master(&format!("m{n}"))).collect();
        nodes.note(&many);
        nodes.first.store(0, Ordering::Relaxed);
        assert_eq!(
            round(3 + KNOWN)[2 + KNOWN],
            "a:7000",
            "no more than so many"
        );
        assert!(Nodes::new(Vec::new()).next().is_none());
    }

    #[test]
    fn a_description_that_is_none_names_no_master() {
        let bad_port = row(0, 1, node("h", 70_000));
        let bad_slot = row(0, 70_000, node("h", 1));
        for bad in [
            Value::Nil,
            Value::Array(vec![Value::Int(1)]),
            Value::Array(vec![Value::Array(vec![])]),
            Value::Array(vec![bad_port]),
            Value::Array(vec![bad_slot]),
        ] {
            assert!(parse_slots(bad.clone(), &asked()).is_none(), "{bad:?}");
        }
        let beyond = Value::Array(vec![row(16_000, 65_535, node("h", 1))]);
        assert!(parse_slots(beyond, &asked()).is_some());
    }
}
