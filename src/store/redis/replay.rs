//! Telling a master again what it has lost.
//!
//! First everything that is remembered is looked at, by plain reads, which is all that a mere interruption costs; then what
//! is not there is done again, with the time of the first. What the server refuses to do again is owed: the watch tries it
//! now and then, and until it is done this node holds to it by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt as _};
use redis::{Cmd, Pipeline, Value};

use super::codec::Wiped;
use super::head::Head;
use super::keys::Keys;
use super::link::{Connection, Request};
use super::recent::{Closed, Done, Gone, Left, Marked, Meant, Recent, Written};
use super::reply::{self, Reply, unexpected};
use super::script::{self, Call};
use super::sign_ins::{flag, member, rule};
use super::time::{Time, lifetime, moment, seconds};
use crate::clock::Timestamp;
use crate::id::{Address, SignInId};
use crate::store::{Result, RevokeRule};

/// How many things are looked at, or done, in one go.
const AT_ONCE: usize = 64;

/// How long an id is in text.
const ID_LENGTH: usize = 22;

/// How many buckets are worked on side by side.
const BUCKETS_AT_ONCE: usize = 8;

/// The same in a cluster, where those of a master that is away take the time-out each.
const OF_CLUSTER_AT_ONCE: usize = 32;

#[derive(Debug)]
pub(super) struct Replay {
    pub(super) recent: Recent,
    /// What was refused since everything was there, counted.
    refused: AtomicU64,
    keys: Arc<Keys>,
    time: Arc<Time>,
}

impl Replay {
    pub(super) fn new(keys: Arc<Keys>, time: Arc<Time>) -> Self {
        Self {
            recent: Recent::default(),
            refused: AtomicU64::new(0),
            keys,
            time,
        }
    }

    /// Whether the server lacks something that it refused to do again.
    pub(super) fn is_owed(&self) -> bool {
        self.refused.load(Ordering::SeqCst) > 0 && !self.recent.is_empty()
    }

    /// Everything that is remembered. Each step takes the time-out at most. In a cluster a bucket that fails keeps none of
    /// the others.
    pub(super) async fn run(&self, connection: &Connection, timeout: Duration) -> Result<()> {
        if self.recent.is_empty() {
            return Ok(());
        }
        let before = self.refused.load(Ordering::SeqCst);
        let buckets = (0..=u8::MAX)
            .map(|bucket| self.recent.of(bucket))
            .filter(|some| !some.is_empty());
        let at_once = match connection.is_cluster() {
            true => OF_CLUSTER_AT_ONCE,
            false => BUCKETS_AT_ONCE,
        };
        let work = stream::iter(buckets)
            .map(async |all| self.again(connection, timeout, &all).await)
            .buffer_unordered(at_once);
        let mut work = std::pin::pin!(work);
        let (mut undone, mut failed) = (0, None);
        while let Some(done) = work.next().await {
            match done {
                Ok(some) => undone += some,
                Err(error) if connection.is_cluster() => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        if undone > 0 {
            tracing::warn!(
                undone,
                "Redis had lost what this node did of late; it is done again"
            );
        }
        if let Some(error) = failed {
            return Err(error);
        }
        // Unless more was refused by now.
        let order = Ordering::SeqCst;
        let _ = self.refused.compare_exchange(before, 0, order, order);
        Ok(())
    }

    /// Things of one bucket. Returns how many were not there.
    pub(super) async fn again(
        &self,
        connection: &Connection,
        timeout: Duration,
        all: &[Arc<Done>],
    ) -> Result<usize> {
        let mut count = 0;
        for some in all.chunks(AT_ONCE) {
            let lost = self.lost(connection, timeout, some).await?;
            count += lost.len();
            let attempt = async |request: Request<'_>| {
                if connection.attempt(timeout, request).await?.is_none() {
                    // Nothing else must wait for it.
                    self.refused.fetch_add(1, Ordering::SeqCst);
                    tracing::error!("Redis refuses to do again what it had lost");
                }
                Ok(())
            };
            let send = async |call: Call| attempt(Request::Script(&call)).await;
            // In their order: a token may have been replaced twice, and is gone when its sign-in is.
            for done in lost {
                match &**done {
                    Done::Write(written) => send(written.call.clone()).await?,
                    Done::Removal(gone) => {
                        send(self.removal(gone)).await?;
                        try_join_all(self.leaving(gone).map(send)).await?;
                    }
                    Done::Closing(closed) => send(self.closing(closed)).await?,
                    Done::Session(name) => {
                        let mut delete = redis::cmd("DEL");
                        delete.arg(self.keys.session(name));
                        attempt(Request::One(&delete)).await?;
                    }
                }
            }
        }
        Ok(count)
    }

    async fn lost<'a>(
        &self,
        connection: &Connection,
        timeout: Duration,
        all: &'a [Arc<Done>],
    ) -> Result<Vec<&'a Arc<Done>>> {
        let mut look = Pipeline::with_capacity(all.len() + 1);
        look.cmd("TIME");
        for done in all {
            look.add_command(self.look(done));
        }
        let answers = connection.within(timeout, Request::Together(&look)).await?;
        let Value::Array(answers) = answers else {
            return Err(unexpected());
        };
        let mut answers = answers.into_iter();
        let now = reply::time(answers.next().ok_or_else(unexpected)?)?;
        let now = self.time.test_clock().map_or(now, |clock| clock.steady());
        let mut found = Vec::with_capacity(all.len());
        let mut others = Pipeline::new();
        for (done, answer) in all.iter().zip(answers) {
            let look = find(done, answer, now)?;
            if let (Found::Others(ids), Done::Removal(gone)) = (&look, &**done) {
                let mut get = redis::cmd("HMGET");
                get.arg(self.keys.account(&gone.account));
                for id in ids {
                    get.arg(format!("h{id}"));
                }
                others.add_command(get);
            }
            found.push((done, look));
        }
        let mut others = match others.is_empty() {
            true => Vec::new(),
            false => match connection
                .within(timeout, Request::Together(&others))
                .await?
            {
                Value::Array(answers) => answers,
                _ => return Err(unexpected()),
            },
        }
        .into_iter();
        let mut lost = Vec::new();
        for (done, look) in found {
            let is_there = match (look, &**done) {
                (Found::Others(ids), Done::Removal(gone)) => {
                    let heads = others.next().ok_or_else(unexpected)?;
                    none_was_meant(gone, &ids, heads)?
                }
                (look, _) => look == Found::There,
            };
            if !is_there {
                lost.push(done);
            }
        }
        Ok(lost)
    }

    /// Reads what tells whether it is still so.
    fn look(&self, done: &Done) -> Cmd {
        let mut get = match done {
            Done::Closing(_) => redis::cmd("GET"),
            Done::Session(_) => redis::cmd("EXISTS"),
            Done::Removal(_) | Done::Write(_) => redis::cmd("HMGET"),
        };
        match done {
            Done::Removal(gone) if gone.meant == Meant::NoOther => {
                get.arg(self.keys.account(&gone.account));
                for left in &gone.left {
                    get.arg(format!("h{}", left.id));
                }
            }
            // The mark is written in the same step as its sign-ins are taken out; where it has ended they tell themselves.
            Done::Removal(gone) => {
                get.arg(self.keys.account(&gone.account));
                get.arg("m").arg("s");
                for left in &gone.left {
                    get.arg(format!("h{}", left.id));
                }
            }
            Done::Closing(closed) => {
                get.arg(&self.keys.of_selector(&closed.selector)[1]);
            }
            Done::Session(name) => {
                get.arg(self.keys.session(name));
            }
            Done::Write(Written { address, .. }) => {
                get.arg(self.keys.account(&address.account));
                get.arg(format!("h{}", address.id));
            }
        }
        get
    }

    fn removal(&self, gone: &Gone) -> Call {
        let (whole, keep) = match gone.meant {
            Meant::NoOther => (false, String::new()),
            Meant::Account => (true, String::new()),
            Meant::AccountExcept(keep) => (true, keep.to_string()),
        };
        let keys = self.keys.of_account(&gone.account);
        let mut call = Call::new(&script::REPLAY, keys, self.time.arguments())
            .arg(gone.account.to_string())
            .arg(moment(gone.mark.at))
            .arg(gone.cause.as_str())
            .arg(rule(gone.revoke))
            .arg(lifetime(gone.mark.mark_for))
            .arg(seconds(gone.mark.logout_iat))
            .arg(flag(whole))
            .arg(keep);
        for left in &gone.left {
            let revoke = match left.to_revoke {
                true => RevokeRule::All,
                false => RevokeRule::Nothing,
            };
            let Left { id, cause, .. } = left;
            call = call
                .arg(id.to_string())
                .arg(cause.as_str())
                .arg(rule(revoke));
        }
        call
    }

    /// Its sign-ins are no members any more.
    fn leaving(&self, gone: &Gone) -> impl Iterator<Item = Call> {
        gone.left.iter().flat_map(move |left| {
            let (account, id) = (gone.account, left.id);
            let member = member(&Address { account, id });
            left.selectors.iter().map(move |selector| {
                let keys = self.keys.of_selector(selector);
                Call::new(&script::UNREGISTER, keys, self.time.arguments())
                    .arg(selector.to_string())
                    .arg(member.clone())
            })
        })
    }

    fn closing(&self, closed: &Closed) -> Call {
        let keys = self.keys.of_selector(&closed.selector);
        Call::new(&script::CLOSE_AGAIN, keys, self.time.arguments())
            .arg(closed.selector.to_string())
            .arg(moment(closed.mark.at))
            .arg(lifetime(closed.mark.mark_for))
            .arg(seconds(closed.mark.logout_iat))
    }
}

/// What there is of something that was done.
#[derive(Debug, PartialEq)]
enum Found {
    There,
    Lost,
    /// These are there beside it: it was lost if any of them was meant.
    Others(Vec<SignInId>),
}

impl Found {
    fn there(is_there: bool) -> Self {
        match is_there {
            true => Self::There,
            false => Self::Lost,
        }
    }
}

/// Whether what was done is still so, by what [`Replay::look`] reads.
fn find(done: &Done, answer: Value, now: Timestamp) -> Result<Found> {
    let is_there = match done {
        Done::Removal(gone) if gone.meant == Meant::NoOther => {
            let mut heads = Reply::of(answer)?;
            have_left(&mut heads, gone, now)?
        }
        Done::Removal(gone) => {
            let mut fields = Reply::of(answer)?;
            let (mark, ids) = (fields.maybe_bytes()?, fields.maybe_bytes()?);
            if gone.mark.has_ended(now) {
                let ids = ids.as_deref().map_or(Ok(Vec::new()), ids_of)?;
                return Ok(match have_left(&mut fields, gone, now)? {
                    true if !ids.is_empty() => Found::Others(ids),
                    is_there => Found::there(is_there),
                });
            }
            mark.is_some_and(|mark| is_marked(&mark, &gone.mark))
        }
        Done::Closing(closed) => {
            let mark = reply::maybe_bytes(answer)?;
            closed.mark.has_ended(now) || mark.is_some_and(|mark| is_marked(&mark, &closed.mark))
        }
        Done::Session(_) => reply::number(answer)? == 0,
        Done::Write(written) => {
            let head = Reply::of(answer)?.maybe_bytes()?.map(Wiped);
            match head.as_deref().and_then(Head::parse) {
                Some(Head::Live(live)) => live.generation >= written.generation,
                Some(Head::Left(..)) | None => true,
            }
        }
    };
    Ok(Found::there(is_there))
}

/// Ids as the field `s` has them, see `account_keys.lua`.
fn ids_of(field: &[u8]) -> Result<Vec<SignInId>> {
    let parse = |id| SignInId::parse(std::str::from_utf8(id).ok()?);
    let ids: Option<Vec<SignInId>> = field.chunks(ID_LENGTH).map(parse).collect();
    ids.ok_or_else(unexpected)
}

fn have_left(heads: &mut Reply, gone: &Gone, now: Timestamp) -> Result<bool> {
    for _ in &gone.left {
        // With the entry behind it, where it is still there.
        let head = heads.maybe_bytes()?.map(Wiped);
        if !has_left(head.as_deref(), &gone.mark, now) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether all of these came later, or were to stay.
fn none_was_meant(gone: &Gone, ids: &[SignInId], heads: Value) -> Result<bool> {
    let mut heads = Reply::of(heads)?;
    for id in ids {
        let head = heads.maybe_bytes()?.map(Wiped);
        if let Some(Head::Live(live)) = head.as_deref().and_then(Head::parse)
            && gone.means(id, live.created).is_some()
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn has_left(head: Option<&[u8]>, mark: &Marked, now: Timestamp) -> bool {
    match head.map(Head::parse) {
        Some(Some(Head::Live(_))) => false,
        Some(Some(Head::Left(..))) => true,
        // Nothing is there, as it is when its cause has been kept for long enough.
        Some(None) | None => mark.has_ended(now),
    }
}

/// Whether a mark, see `prelude.lua`, is as strict as this one.
fn is_marked(mark: &[u8], wanted: &Marked) -> bool {
    let Ok(text) = std::str::from_utf8(mark) else {
        return false;
    };
    let mut parts = text.split(':');
    let mut next = || parts.next().unwrap_or_default();
    let (firm, dated, iat) = (next(), next(), next());
    let is_late = |at: &str| at.parse().is_ok_and(|at: u64| at >= wanted.at.as_micros());
    match wanted.logout_iat {
        None => is_late(firm),
        Some(wanted) => is_late(dated) && iat.parse().is_ok_and(|iat: i64| iat >= wanted),
    }
}
