//! Which servers the announcements come from: those that run the scripts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::cluster_routing::Slot;
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, RedisError, Value};

use super::keys::Keys;
use super::news::Buckets;

/// No cluster has more ranges of slots.
const SLOTS: usize = 16384;

/// Where to ask which servers are masters. All clients speak RESP3, in which announcements and answers share a connection.
pub(super) enum Masters {
    One(Box<Client>),
    Sentinel(Box<tokio::sync::Mutex<SentinelClient>>),
    /// Any of its nodes.
    Cluster {
        nodes: Vec<Client>,
        /// Which of them to begin with: after a failure another one.
        first: AtomicUsize,
    },
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
        let address = |master: &Self| master.client.get_connection_info().addr().clone();
        self.buckets == other.buckets && address(self) == address(other)
    }
}

impl Masters {
    pub(super) fn cluster(nodes: Vec<Client>) -> Self {
        let first = AtomicUsize::new(0);
        Self::Cluster { nodes, first }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster { .. })
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
            Self::Cluster { nodes, first } => {
                let at = first.load(Ordering::Relaxed) % nodes.len().max(1);
                let asked = match nodes.get(at) {
                    Some(node) => slots(node, config).await,
                    None => Err(unexpected()),
                };
                match asked {
                    Ok(ranges) => Ok(of_ranges(ranges, &buckets_by_slot(keys))),
                    Err(error) => {
                        first.store(at + 1, Ordering::Relaxed);
                        Err(error)
                    }
                }
            }
        }
    }

    /// What was found at the node that was asked last turned out to be wrong: another one is asked next.
    pub(super) fn doubt(&self) {
        if let Self::Cluster { first, .. } = self {
            first.fetch_add(1, Ordering::Relaxed);
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
            Value::BulkString(host) => std::str::from_utf8(host).ok()?,
            Value::SimpleString(host) => host,
            // It does not know its own name: it is the one that was asked.
            Value::Nil => "",
            _ => return None,
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
        let address = range.master.get_connection_info().addr();
        let known = masters
            .iter_mut()
            .find(|known| known.client.get_connection_info().addr() == address);
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
