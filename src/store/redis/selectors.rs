//! Which sign-ins a logout from outside means.

use std::time::Duration;

use redis::Value;

use super::RedisTokenStore;
use super::recent::Done;
use super::reply::unexpected;
use super::script::{self, Call, Script};
use super::sign_ins::{member, parse_member};
use super::time::{lifetime, moment, seconds};
use crate::id::{Address, Selector};
use crate::store::{
    Entry, OUTBOX_AGE, Registered, Removal, Result, Started, StoreError, StoreErrorKind,
};

/// How long a member waits for its entry. Whoever registered it and vanished must not fill the store; a creation that
/// comes later registers again.
const PROVISIONAL: Duration = Duration::from_secs(60 * 60);

/// A sign-in whose time is up is collected within that.
const OVERDUE: Duration = OUTBOX_AGE;

fn bucket(selector: &Selector) -> u8 {
    selector.as_bytes()[0]
}

/// For how long a member is kept at most, for an entry that is there: nobody prolongs it when the sign-in is used.
fn as_long_as(entry: &Entry) -> Duration {
    entry.lifetimes.absolute.saturating_add(OVERDUE)
}

fn addresses(values: Vec<Value>) -> Result<Vec<Address>> {
    let parse = |value| match value {
        Value::BulkString(bytes) => std::str::from_utf8(&bytes).ok().and_then(parse_member),
        _ => None,
    };
    let all: Option<Vec<Address>> = values.into_iter().map(parse).collect();
    all.ok_or_else(unexpected)
}

impl RedisTokenStore {
    fn about_selector(&self, script: &'static Script, selector: &Selector) -> Call {
        let keys = self.keys.of_selector(selector);
        Call::new(script, keys, self.time.arguments()).arg(selector.to_string())
    }

    async fn enter(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
        long: Duration,
        only_if_there: bool,
    ) -> Result<Registered> {
        if self.may_lack() && !only_if_there {
            let now = self.time_at(bucket(selector)).await?;
            if self.link.replay().recent.closes(selector, started, now) {
                return Ok(Registered::Refused);
            }
        }
        let room = self.members.get(self.count_members()).await?;
        let call = self
            .about_selector(&script::REGISTER, selector)
            .arg(member(address))
            .arg(started.at.map(moment).unwrap_or_default())
            .arg(seconds(started.id_token_iat))
            .arg(lifetime(long))
            .arg(room.to_string())
            .arg(super::sign_ins::flag(only_if_there));
        let mut reply = self.run(bucket(selector), call).await?;
        let answer = reply.text()?;
        self.members.used(reply.number()?);
        match answer.as_str() {
            "D" => Ok(Registered::Done),
            "R" => Ok(Registered::Refused),
            "F" => Err(StoreError::new(
                StoreErrorKind::Full,
                "too many members of selectors",
            )),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn register_for_now(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
    ) -> Result<Registered> {
        self.enter(selector, address, started, PROVISIONAL, false)
            .await
    }

    /// Registers where that was not done, or so long ago that it was undone, and keeps the members for as long as the
    /// entry can be there.
    pub(super) async fn bind(
        &self,
        entry: &Entry,
        address: &Address,
        started: &Started,
    ) -> Result<Registered> {
        for selector in &entry.selectors {
            let long = as_long_as(entry);
            let registered = self.enter(selector, address, started, long, false).await?;
            if registered == Registered::Refused {
                return Ok(registered);
            }
        }
        Ok(Registered::Done)
    }

    /// The same for an entry that was written anew: if its members are gone, it has been removed since.
    pub(super) async fn rebind(&self, entry: &Entry, address: &Address) -> Result<()> {
        for selector in &entry.selectors {
            let (started, long) = (Started::default(), as_long_as(entry));
            self.enter(selector, address, &started, long, true).await?;
        }
        Ok(())
    }

    pub(super) async fn leave_one(&self, selector: &Selector, address: &Address) -> Result<()> {
        let call = self
            .about_selector(&script::UNREGISTER, selector)
            .arg(member(address));
        self.run(bucket(selector), call).await.map(drop)
    }

    pub(super) async fn close_selector(
        &self,
        selector: &Selector,
        removal: &Removal,
    ) -> Result<Vec<Address>> {
        let mut keys = self.keys.of_selector(selector);
        keys.push(self.keys.closing(selector, removal.operation));
        let call = Call::new(&script::CLOSE, keys, self.time.arguments())
            .arg(selector.to_string())
            .arg(lifetime(removal.mark_for))
            .arg(seconds(removal.logout_iat));
        let answered = self.run_noted(bucket(selector), call).await?;
        let mut reply = answered.reply;
        let members = addresses(reply.list()?)?;
        // A repetition was done when the first was.
        let at = reply.time().unwrap_or(answered.at);
        let done = Done::closing(selector, removal, at);
        self.link.remember(answered.connection, done).await?;
        Ok(members)
    }

    pub(super) async fn members_of(&self, selector: &Selector) -> Result<Vec<Address>> {
        let now = self.time_at(bucket(selector)).await?;
        let mut range = redis::cmd("ZRANGEBYSCORE");
        range.arg(&self.keys.of_selector(selector)[0]);
        range.arg(format!("({}", now.as_micros())).arg("+inf");
        match self.link.send(&range).await? {
            Value::Array(values) => addresses(values),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn count_members(&self) -> Result<u64> {
        let now = self.time_at(0).await?.as_micros();
        self.count(|bucket| {
            let mut count = redis::cmd("ZCOUNT");
            count.arg(self.keys.selectors(bucket));
            count.arg(format!("({now}")).arg("+inf");
            count
        })
        .await
    }
}
