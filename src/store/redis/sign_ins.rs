//! Sign-ins: looking them up, and taking them out.

use std::sync::Arc;

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};

use super::RedisTokenStore;
use super::codec::{Place, Wiped};
use super::head::{Head, cause};
use super::keys::push_field;
use super::recent::Done;
use super::reply::{self, Reply, unexpected};
use super::room::Room;
use super::script::{self, Call};
use super::tier::Change;
use super::time::{lifetime, seconds};
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::id::{
    AccountHash, Address, KeyHash, Locator, OperationId, Selector, SignInId, TokenHash,
};
use crate::store::{
    Entry, Lookup, MAX_BATCH, Removal, Removed, Result, RevokeRule, SignInInfo, Started, Stored,
    Target,
};

/// At first each bucket adds so many to a batch of due sign-ins: one account's do not keep the others waiting.
const FAIR_SHARE: usize = 8;

/// Room for a command, a key and two fields: one that has to grow costs several times as much.
const FIELDS_SIZE: usize = 256;

/// As `put_downstream.lua` has it.
const MOST_DOWNSTREAM: u64 = 64;

/// How often another sign-in is looked for when the one that was to leave is gone already.
const TRIES: usize = 8;

/// How a call of `remove.lua` says what leaves.
pub(super) enum Leaving<'a> {
    Target(&'a Target),
    /// Those of them whose time is up.
    Due(&'a [SignInId]),
    /// For want of room.
    Evict(SignInId),
}

/// What a script answered.
pub(super) struct Answered {
    pub(super) reply: Reply,
    pub(super) at: Timestamp,
    /// By way of which connection.
    pub(super) connection: u64,
}

/// Hashes of the tokens that others are obtained with, as scripts look for one: between commas.
pub(super) fn subjects(entry: &Entry) -> String {
    let tokens = entry.tokens.access_tokens().iter();
    tokens.fold(String::from(","), |all, token| {
        all + &format!("{},", TokenHash::of(token.as_secret()))
    })
}

pub(super) fn rule(rule: RevokeRule) -> &'static str {
    match rule {
        RevokeRule::Nothing => "Nothing",
        RevokeRule::All => "All",
        RevokeRule::UnlessOffline => "UnlessOffline",
        RevokeRule::OnlySignIn => "OnlySignIn",
    }
}

pub(super) fn flag(value: bool) -> &'static str {
    if value { "1" } else { "0" }
}

/// The field of an account's hash that is a sign-in's head and entry.
pub(super) fn field(id: &SignInId) -> String {
    format!("h{id}")
}

impl RedisTokenStore {
    /// A call about an account.
    pub(super) fn about(&self, script: &'static script::Script, account: &AccountHash) -> Call {
        let keys = self.keys.of_account(account);
        Call::new(script, keys, self.time.arguments()).arg(account.to_string())
    }

    /// Runs a script, and notes the time that it tells.
    pub(super) async fn run(&self, bucket: u8, call: Call) -> Result<Reply> {
        Ok(self.run_noted(bucket, call).await?.reply)
    }

    /// The same, with what it takes to [remember](super::link::Link::remember) it.
    pub(super) async fn run_noted(&self, bucket: u8, call: Call) -> Result<Answered> {
        let (connection, mut reply) = self.link.run(call).await?;
        let at = reply.time()?;
        self.time.note(bucket, at);
        Ok(Answered {
            reply,
            at,
            connection,
        })
    }

    /// The time at the server of a bucket: a little early, or asked for.
    pub(super) async fn time_at(&self, bucket: u8) -> Result<Timestamp> {
        match self.time.read(bucket) {
            Some(now) => Ok(now),
            None => {
                let now = self.link.time().await?;
                self.time.note(bucket, now);
                Ok(now)
            }
        }
    }

    /// The answer to a command about an account, in one round trip; with it the time where it is not known.
    pub(super) async fn read(
        &self,
        account: &AccountHash,
        command: Cmd,
    ) -> Result<(Timestamp, Value)> {
        let bucket = account.bucket();
        if let Some(now) = self.time.read(bucket) {
            return Ok((now, self.link.send(&command).await?));
        }
        // Once a second; it is not to make every read's future larger.
        Box::pin(self.read_with_time(bucket, command)).await
    }

    async fn read_with_time(&self, bucket: u8, command: Cmd) -> Result<(Timestamp, Value)> {
        // First, so that what is read is not older than the time says.
        let mut both = Pipeline::with_capacity(2);
        both.cmd("TIME").add_command(command);
        let mut answers = self.link.send_together(&both).await?.into_iter();
        let now = reply::time(answers.next().ok_or_else(unexpected)?)?;
        self.time.note(bucket, now);
        Ok((now, answers.next().ok_or_else(unexpected)?))
    }

    /// A command that reads fields of an account's hash.
    pub(super) fn get(&self, command: &str, account: &AccountHash, fields: &[&str]) -> Cmd {
        // And for one field more, which `get_one` appends.
        let mut get = Cmd::with_capacity(3 + fields.len(), FIELDS_SIZE);
        get.arg(command);
        self.keys.push_account(&mut get, account);
        get.arg(fields);
        get
    }

    /// The one that reads a sign-in.
    fn get_one(&self, address: &Address) -> Cmd {
        let mut get = self.get("HGET", &address.account, &[]);
        push_field(&mut get, &address.id);
        get
    }

    /// What a request begins with: a copy, where there is one.
    pub(super) async fn open(&self, locator: &Locator) -> Result<Lookup> {
        let (address, key) = (&locator.address, locator.key.hash());
        self.subscription.start();
        if let Some(tier) = &self.tier
            && let Some(stored) = tier.find(address, &key, &self.time)
        {
            return Ok(Lookup::Live(stored));
        }
        self.look_up(address, Some(&key)).await
    }

    pub(super) async fn look_up(&self, address: &Address, key: Option<&KeyHash>) -> Result<Lookup> {
        let tier = self.tier.as_ref();
        let load = tier.and_then(|tier| tier.load(address, &self.time));
        let get = self.get_one(address);
        let (now, value) = self.read(&address.account, get).await?;
        let Some(value) = reply::maybe_bytes(value)?.map(Wiped) else {
            return Ok(Lookup::Gone(None));
        };
        let (live, body) = match Head::split(&value) {
            None => {
                self.codec.complain(Place::Entry(address));
                return Ok(Lookup::Gone(None));
            }
            Some((Head::Left(cause, until), _)) => {
                return Ok(Lookup::Gone((until > now).then_some(cause)));
            }
            Some((Head::Live(live), body)) => (live, body),
        };
        let (expires, cause) = live.end();
        if expires <= now {
            return Ok(Lookup::Gone(Some(cause)));
        }
        if let Some(cause) = self.was_taken_out(address, live.created) {
            return Ok(Lookup::Gone(Some(cause)));
        }
        if key.is_some_and(|key| !live.has_key(key)) {
            return Ok(Lookup::Moved);
        }
        let Some(entry) = self.codec.open_entry(address, body) else {
            return Ok(Lookup::Gone(None));
        };
        let stored = Stored {
            entry: Arc::new(entry),
            generation: live.generation,
            created: live.created,
            last_used: live.last_used,
            expires,
            touch_due: live.touch_due(now),
        };
        if let Some(load) = load {
            load.keep(&live, &stored, body.len(), now);
        }
        Ok(Lookup::Live(stored))
    }

    /// To be called before a call is sent after which copies of the account's sign-ins are stale, and kept until it has ended.
    pub(super) fn changing<'a>(&'a self, account: &'a AccountHash) -> Option<Change<'a>> {
        let tier = self.tier.as_ref();
        tier.map(|tier| tier.change(account, None))
    }

    /// The same of a call about one sign-in.
    pub(super) fn changing_one<'a>(&'a self, address: &'a Address) -> Option<Change<'a>> {
        let tier = self.tier.as_ref();
        tier.map(|tier| tier.change(&address.account, Some(address)))
    }

    /// Whether Redis may lack what this node did: in a cluster some of what a failover brought back may be read before it is
    /// noticed. Elsewhere a new connection carries nothing until that is done again, unless it was refused.
    pub(super) fn may_lack(&self) -> bool {
        self.link.is_cluster() || self.link.replay().is_owed()
    }

    /// Why this node has taken out what it finds, if it did.
    pub(super) fn was_taken_out(&self, address: &Address, created: Timestamp) -> Option<Cause> {
        if !self.may_lack() {
            return None;
        }
        self.link.replay().recent.cause(address, created)
    }

    pub(super) async fn list_of(&self, account: &AccountHash) -> Result<Vec<SignInInfo>> {
        let call = self.about(&script::LIST, account);
        let mut reply = self.run(account.bucket(), call).await?;
        let mut found = Vec::new();
        for row in reply.list()? {
            let mut row = Reply::of(row)?;
            let id = SignInId::parse(&row.text()?).ok_or_else(unexpected)?;
            let address = Address {
                account: *account,
                id,
            };
            let value = Wiped(row.bytes()?);
            let Some((Head::Live(live), body)) = Head::split(&value) else {
                return Err(unexpected());
            };
            if self.was_taken_out(&address, live.created).is_some() {
                continue;
            }
            if let Some(entry) = self.codec.open_entry(&address, body) {
                found.push(SignInInfo {
                    address,
                    created: live.created,
                    last_used: live.last_used,
                    expires: live.end().0,
                    label: entry.label,
                });
            }
        }
        Ok(found)
    }

    /// What a script says of sign-ins that it took out. One that is not readable is gone all the same.
    pub(super) fn removed(&self, account: &AccountHash, rows: Vec<Value>) -> Result<Vec<Removed>> {
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let mut row = Reply::of(row)?;
            let id = SignInId::parse(&row.text()?).ok_or_else(unexpected)?;
            let address = Address {
                account: *account,
                id,
            };
            let (created, last_used) = (row.time()?, row.time()?);
            let cause = cause(&row.text()?).ok_or_else(unexpected)?;
            let downstream = row.number()? as usize;
            let to_revoke = row.flag()?;
            let body = Wiped(row.bytes()?);
            if let Some(entry) = self.codec.open_entry(&address, &body) {
                all.push(Removed {
                    address,
                    entry: Arc::new(entry),
                    cause,
                    created,
                    last_used,
                    downstream,
                    to_revoke,
                });
            }
        }
        Ok(all)
    }

    /// Their copies.
    pub(super) fn wipe(&self, removed: &[Removed]) {
        if let Some(tier) = &self.tier {
            removed.iter().for_each(|one| tier.forget(&one.address));
        }
    }

    pub(super) fn waiting(removed: &[Removed]) -> u64 {
        removed.iter().filter(|removed| removed.to_revoke).count() as u64
    }

    /// How many tokens a removal may put into the outbox.
    pub(super) async fn room_to_revoke(&self, removal: &Removal) -> u64 {
        match removal.revoke {
            RevokeRule::Nothing => 0,
            _ => self.outbox.get_or_some(self.count_outbox()).await,
        }
    }

    /// What is the same for every way of leaving.
    pub(super) fn with_removal(call: Call, removal: &Removal, room: u64) -> Call {
        call.arg(rule(removal.revoke))
            .arg(lifetime(removal.mark_for))
            .arg(seconds(removal.logout_iat))
            .arg(room.to_string())
    }

    pub(super) async fn take_out(
        &self,
        account: &AccountHash,
        leaving: Leaving<'_>,
        removal: &Removal,
        room: u64,
    ) -> Result<Vec<Removed>> {
        let call = self
            .about(&script::REMOVE, account)
            .arg(removal.operation.to_string())
            .arg(removal.cause.as_str());
        let call = Self::with_removal(call, removal, room);
        let call = match leaving {
            Leaving::Target(Target::SignIn(address)) => call.arg("one").arg(address.id.to_string()),
            Leaving::Target(Target::SignInAt(address, generation)) => call
                .arg("at")
                .arg(address.id.to_string())
                .arg(generation.0.to_string()),
            Leaving::Target(Target::Account(_)) => call.arg("all"),
            Leaving::Target(Target::AccountExcept(_, keep)) => {
                call.arg("but").arg(keep.to_string())
            }
            Leaving::Due(ids) => call.arg("due").args(ids.iter().map(SignInId::to_string)),
            Leaving::Evict(id) => call.arg("evict").arg(id.to_string()),
        };
        let _change = self.changing(account);
        let answered = self.run_noted(account.bucket(), call).await?;
        let (mut reply, at) = (answered.reply, answered.at);
        let removed = self.removed(account, reply.list()?)?;
        self.wipe(&removed);
        if reply.flag()? {
            self.outbox.used(Self::waiting(&removed));
        }
        // A repetition was done when the first was.
        let at = reply.time().unwrap_or(at);
        let target = match leaving {
            Leaving::Target(target) => Some(target),
            Leaving::Due(_) | Leaving::Evict(_) => None,
        };
        if let Some(done) = Done::removal(account, target, removal, at, &removed) {
            self.link.remember(answered.connection, done).await?;
        }
        Ok(removed)
    }

    /// Members of what is gone. They are left after the bucket: a closing in between returns an address at which there
    /// is nothing, which its caller's removal finds out. One that stays because Redis went away ends by itself.
    pub(super) async fn leave_all(&self, removed: &[Removed]) {
        let mut members = Vec::new();
        for removed in removed {
            let selectors = removed.entry.selectors.iter();
            members.extend(selectors.map(|selector| (*selector, removed.address)));
        }
        self.leave(members).await;
    }

    pub(super) async fn leave(&self, members: Vec<(Selector, Address)>) {
        let leave = |(selector, address)| async move { self.leave_one(&selector, &address).await };
        for left in join_all(members.into_iter().map(leave)).await {
            if let Err(error) = left {
                tracing::warn!(%error, "a member of a selector stays until it ends");
            }
        }
    }

    /// One command for each bucket.
    pub(super) async fn sweep(&self, command: impl Fn(u8) -> Cmd) -> Result<Vec<Value>> {
        let commands = (0..=u8::MAX).map(command).collect();
        self.link.send_all(commands).await
    }

    pub(super) async fn count(&self, command: impl Fn(u8) -> Cmd) -> Result<u64> {
        let counts = self.sweep(command).await?;
        counts.into_iter().map(reply::number).sum()
    }

    pub(super) async fn count_sign_ins(&self) -> Result<u64> {
        self.count(|bucket| {
            let mut count = redis::cmd("ZCARD");
            count.arg(self.keys.due(bucket));
            count
        })
        .await
    }

    /// How many a sign-in has is its score: so many have one, so many of them two, and so on. Nothing of them is read.
    pub(super) async fn count_downstream(&self) -> Result<u64> {
        let mut all = 0;
        for least in 1..=MOST_DOWNSTREAM {
            let have = self.count(|bucket| {
                let mut count = redis::cmd("ZCOUNT");
                count.arg(self.keys.derived(bucket)).arg(least).arg("+inf");
                count
            });
            match have.await? {
                0 => break,
                have => all += have,
            }
        }
        Ok(all)
    }

    /// Addresses by when their time is up, from each bucket so many after the first few.
    async fn soonest(&self, until: &str, skip: usize, limit: usize) -> Result<Vec<Vec<Due>>> {
        let answers = self.sweep(|bucket| {
            let mut range = redis::cmd("ZRANGEBYSCORE");
            range.arg(self.keys.due(bucket)).arg("-inf").arg(until);
            range.arg("WITHSCORES").arg("LIMIT").arg(skip).arg(limit);
            range
        });
        answers.await?.into_iter().map(Due::all).collect()
    }

    /// Which sign-ins a call of `due` is about: written down before any is taken out, so that whoever repeats the call
    /// gets the rest of them too.
    pub(super) async fn batch(&self, operation: OperationId) -> Result<Vec<Address>> {
        let key = self.keys.batch(operation);
        let mut get = redis::cmd("GET");
        get.arg(&key);
        if let Some(planned) = reply::maybe_bytes(self.link.send(&get).await?)? {
            return parse_batch(&planned);
        }
        let now = self.time_at(0).await?.as_micros().to_string();
        let mut buckets = self.soonest(&now, 0, FAIR_SHARE).await?;
        let count: usize = buckets.iter().map(Vec::len).sum();
        if count < MAX_BATCH && buckets.iter().any(|due| due.len() == FAIR_SHARE) {
            let more = self.soonest(&now, FAIR_SHARE, MAX_BATCH - count).await?;
            buckets.extend(more);
        }
        // Begins where chance has it, so that under load every bucket comes first at times.
        let first = usize::from(operation.as_bytes()[0]);
        let count = super::keys::BUCKETS.min(buckets.len());
        let (fair, rest) = buckets.split_at_mut(count);
        if !fair.is_empty() {
            fair.rotate_left(first % fair.len());
        }
        let planned = fair.iter().chain(rest.iter()).flatten();
        let planned: Vec<Address> = planned.map(|due| due.address).take(MAX_BATCH).collect();
        if planned.is_empty() {
            return Ok(planned);
        }
        let text: String = planned.iter().map(member).collect();
        let mut set = redis::cmd("SET");
        let millis = crate::store::REPEAT_WINDOW.as_millis() as u64;
        set.arg(&key).arg(text).arg("NX").arg("PX").arg(millis);
        if matches!(self.link.send(&set).await?, Value::Nil)
            && let Some(planned) = reply::maybe_bytes(self.link.send(&get).await?)?
        {
            return parse_batch(&planned);
        }
        Ok(planned)
    }

    /// The sign-ins that have to leave so that there are no more than there may be.
    pub(super) async fn make_room(
        &self,
        keep: &Address,
        removal: &Removal,
        sign_ins: &Room,
    ) -> Result<Vec<Removed>> {
        let mut evicted = Vec::new();
        if !sign_ins.is_unknown() {
            sign_ins.used(1);
            return Ok(evicted);
        }
        let count = self.count_sign_ins().await?;
        sign_ins.counted(count);
        let mut tries = 0;
        while count.saturating_sub(evicted.len() as u64) > sign_ins.most() && tries < TRIES {
            let soonest = self.soonest("+inf", 0, 2).await?;
            let others = soonest.into_iter().flatten();
            let others = others.filter(|due| due.address != *keep);
            let Some(first) = others.min_by_key(|due| due.ends) else {
                break;
            };
            let Address { account, id } = first.address;
            let room = self.room_to_revoke(removal).await;
            let leaving = Leaving::Evict(id);
            let gone = self.take_out(&account, leaving, removal, room).await?;
            tries = if gone.is_empty() { tries + 1 } else { 0 };
            evicted.extend(gone);
        }
        Ok(evicted)
    }
}

/// A sign-in and when its time is up.
struct Due {
    address: Address,
    ends: Timestamp,
}

impl Due {
    fn all(answer: Value) -> Result<Vec<Self>> {
        let mut items = Reply::of(answer)?;
        let mut all = Vec::new();
        while let Ok(member) = items.text() {
            let address = parse_member(&member).ok_or_else(unexpected)?;
            let ends = items.text()?.parse::<f64>().map_err(|_| unexpected())?;
            let ends = Timestamp::from_micros(ends as u64);
            all.push(Self { address, ends });
        }
        Ok(all)
    }
}

const ACCOUNT_LENGTH: usize = 43;
const MEMBER_LENGTH: usize = ACCOUNT_LENGTH + 22;

/// An address as the sorted sets have it.
pub(super) fn member(address: &Address) -> String {
    format!("{}{}", address.account, address.id)
}

pub(super) fn parse_member(text: &str) -> Option<Address> {
    let (account, id) = text.split_at_checked(ACCOUNT_LENGTH)?;
    Some(Address {
        account: AccountHash::parse(account)?,
        id: SignInId::parse(id)?,
    })
}

fn parse_batch(text: &[u8]) -> Result<Vec<Address>> {
    let members = text.chunks(MEMBER_LENGTH);
    let parse = |member| parse_member(std::str::from_utf8(member).ok()?);
    let all: Option<Vec<Address>> = members.map(parse).collect();
    all.ok_or_else(unexpected)
}

impl RedisTokenStore {
    /// Whether a removal of this node's refuses such a sign-in: Redis may have lost its mark, and not been told again.
    pub(super) async fn refuses(&self, account: &AccountHash, started: &Started) -> Result<bool> {
        let recent = &self.link.replay().recent;
        if recent.is_empty() {
            return Ok(false);
        }
        let now = self.time_at(account.bucket()).await?;
        Ok(recent.refuses(account, started, now))
    }

    /// Whether nothing is, or was of late, at an address.
    pub(super) async fn is_new(&self, address: &Address) -> Result<bool> {
        let lookup = self.look_up(address, None).await?;
        Ok(matches!(lookup, Lookup::Gone(None)))
    }
}
