//! Looking after the connection while nobody uses it.
//!
//! A node that remembers evictions has to find out that Redis lost them, whether it is asked for anything or not: the other
//! nodes serve what came back until it has. The client of a cluster, besides, connects anew by itself, so there each
//! master is asked who it is.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use redis::Value;

use super::link::{Link, Request};
use super::reply::{maybe_bytes, unexpected};
use crate::store::{Result, StoreError};

/// For so long at most nobody notices.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// How often everything is looked at where that cannot be told, or where the server refused to do something again.
const NOW_AND_THEN: Duration = Duration::from_secs(10);

/// Which processes the masters are, and whose data they go on with: either is another one after a restart or a failover.
type Masters = Vec<(Vec<u8>, Vec<String>)>;

/// Begins to look after a link whose connection was just made. The watch before ends.
pub(super) fn start(link: &Arc<Link>) {
    let mine = link.watch.fetch_add(1, Ordering::SeqCst) + 1;
    tokio::spawn(watch(Arc::downgrade(link), mine));
}

async fn watch(link: Weak<Link>, mine: u64) {
    let mut known = None;
    let mut looked = Instant::now();
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(link) = link.upgrade() else { return };
        if link.watch.load(Ordering::SeqCst) != mine {
            return;
        }
        link.replay().recent.forget();
        if link.replay().recent.is_empty() {
            known = None;
        } else if link.is_cluster() {
            known = look(&link, known, &mut looked).await;
        } else if !link.answered.swap(false, Ordering::Relaxed) {
            // Whatever is wrong, the link finds out by it.
            let _ = link.send(&redis::cmd("PING")).await;
        } else if link.replay().is_owed() && is_time(&mut looked) {
            replay(&link).await;
        }
    }
}

fn is_time(looked: &mut Instant) -> bool {
    let is_time = looked.elapsed() >= NOW_AND_THEN;
    if is_time {
        *looked = Instant::now();
    }
    is_time
}

/// Replays unless the masters are those that are known; whom it may take for known next time.
async fn look(link: &Arc<Link>, known: Option<Masters>, looked: &mut Instant) -> Option<Masters> {
    let now = masters(link).await;
    let now = now
        .inspect_err(|error| tracing::debug!(%error, "not all masters say who they are"))
        .ok();
    let is_other = now.is_some() && known != now;
    let is_doubtful = now.is_none() || link.replay().is_owed();
    if is_other {
        // Again in a second, if that fails.
        return replay(link).await.then_some(now).flatten();
    }
    if is_doubtful && is_time(looked) {
        replay(link).await;
    }
    known
}

/// Whether all masters know everything, but for what they refused.
async fn replay(link: &Arc<Link>) -> bool {
    let replayed = async {
        let (_, connection) = link.connection().await?;
        link.replay().run(&connection, link.timeout()).await
    };
    let replayed = replayed.await;
    replayed.inspect_err(complain).is_ok()
}

pub(super) fn complain(error: &StoreError) {
    tracing::warn!(%error, "what this node did of late is not replayed yet");
}

async fn masters(link: &Arc<Link>) -> Result<Masters> {
    let mut masters = Masters::new();
    for (section, field) in [("server", "run_id:"), ("replication", "master_replid:")] {
        let Value::Map(answers) = link.value(Request::Info(section)).await? else {
            return Err(unexpected());
        };
        for (address, info) in answers {
            let info = maybe_bytes(info)?.unwrap_or_default();
            let info = String::from_utf8_lossy(&info);
            let line = info.lines().find(|line| line.starts_with(field));
            let line = line.ok_or_else(unexpected)?.to_owned();
            let address = maybe_bytes(address)?.unwrap_or_default();
            match masters.iter_mut().find(|(known, _)| *known == address) {
                Some((_, lines)) => lines.push(line),
                None => masters.push((address, vec![line])),
            }
        }
    }
    masters.sort_unstable();
    Ok(masters)
}
