//! The calls, each put together of the steps that lie in one slot.

use std::collections::HashMap;
#[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};

use super::RedisTokenStore;
use super::codec::Wiped;
use super::names;
use super::news::{Buckets, Listener, News};
use super::recent::{Done, Written};
use super::reply::{Reply, unexpected};
use super::script;
use super::sign_ins::{Leaving, field, flag, subjects};
use super::time::{lifetime, moment, seconds};
use crate::clock::Timestamp;
use crate::id::{
    AccountHash, Address, ClaimName, DownstreamName, KeyHash, Locator, OperationId, Selector,
    SignInId, TokenHash,
};
#[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
use crate::store::AnySessionStore;
use crate::store::{
    Claim, Created, Downstream, Entry, Generation, Lease, Lookup, Measurement, OutboxItem,
    Registered, Removal, Removed, Replaced, Result, RetainedTokens, SignInInfo, Started,
    StoreListener, StoreStats, Target, TokenStore,
};
use crate::token::AccessToken;

/// A listener of the store. It does not hear of buckets: it looks at everything anew.
struct PassedOn(Weak<dyn StoreListener>);

impl PassedOn {
    fn tell(&self, tell: impl FnOnce(&dyn StoreListener)) {
        if let Some(listener) = self.0.upgrade() {
            tell(&*listener);
        }
    }
}

impl Listener for PassedOn {
    fn heard(&self, news: &News) {
        self.tell(|listener| match news {
            News::Ended { address, cause } => listener.ended(address, *cause),
            News::Changed { address } => listener.changed(address),
        });
    }

    fn lost(&self, _: &Buckets) {
        self.tell(|listener| listener.missed());
    }

    fn stands(&self, _: &Buckets) {
        self.tell(|listener| listener.missed());
    }

    fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

#[async_trait]
impl TokenStore for RedisTokenStore {
    fn is_shared(&self) -> bool {
        true
    }

    fn listen(&self, listener: Weak<dyn StoreListener>) {
        self.subscription.listen(Arc::new(PassedOn(listener)));
    }

    #[cfg(any(feature = "tower-sessions-015", feature = "tower-sessions-014"))]
    fn session_store(&self) -> Option<AnySessionStore> {
        let given = self.sessions_given.load(Ordering::SeqCst);
        given.then(|| AnySessionStore::of(self.make_sessions()))
    }

    async fn now(&self) -> Result<Timestamp> {
        let now = match self.time.test_clock() {
            Some(clock) => clock.steady(),
            None => self.link.time().await?,
        };
        Ok(self.time.later(now))
    }

    async fn register(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
    ) -> Result<Registered> {
        self.register_for_now(selector, address, started).await
    }

    async fn unregister(&self, selector: &Selector, address: &Address) -> Result<()> {
        self.leave_one(selector, address).await
    }

    async fn create(
        &self,
        locator: &Locator,
        entry: Arc<Entry>,
        started: &Started,
        removal: &Removal,
    ) -> Result<Created> {
        let address = &locator.address;
        let body = self.codec.seal_entry(address, &entry)?;
        let members = || {
            let selectors = entry.selectors.iter();
            selectors.map(|selector| (*selector, *address)).collect()
        };
        // A repetition must not register again: the selector may have been closed since. What is there, or was, is told by
        // the script; before anything is, the members come first, so that no entry is ever there without them.
        if !entry.selectors.is_empty() && self.is_new(address).await? {
            match self.bind(&entry, address, started).await {
                Ok(Registered::Done) => {}
                Ok(Registered::Refused) => {
                    self.leave(members()).await;
                    return Ok(Created::Refused);
                }
                Err(error) => {
                    self.leave(members()).await;
                    return Err(error);
                }
            }
        }
        let room = self.room_to_revoke(removal).await;
        let call = self
            .about(&script::CREATE, &address.account)
            .arg(address.id.to_string())
            .arg(locator.key.hash().to_string())
            .arg(started.at.map(moment).unwrap_or_default())
            .arg(seconds(started.id_token_iat))
            .arg(removal.operation.to_string())
            .arg(super::sign_ins::rule(removal.revoke))
            .arg(lifetime(removal.mark_for))
            .arg(lifetime(entry.lifetimes.idle))
            .arg(lifetime(entry.lifetimes.absolute))
            .arg(flag(entry.tokens.is_offline()))
            .arg(subjects(&entry))
            .arg(body)
            .arg(self.max_per_account.to_string())
            .arg(room.to_string());
        if self.may_lack()
            && self.refuses(&address.account, started).await?
            && self.is_new(address).await?
        {
            self.leave(members()).await;
            return Ok(Created::Refused);
        }
        // Those that have to leave are of the same account.
        let _change = self.changing(&address.account);
        let answered = self.run_noted(address.account.bucket(), call).await?;
        let (mut reply, at) = (answered.reply, answered.at);
        match reply.text()?.as_str() {
            "D" => {
                let mut evicted = self.removed(&address.account, reply.list()?)?;
                self.wipe(&evicted);
                let done = Done::removal(&address.account, None, removal, at, &evicted);
                if let Some(done) = done
                    && let Err(error) = self.link.remember(answered.connection, done).await
                {
                    tracing::warn!(%error, "a sign-in that had to leave may come back");
                }
                if reply.flag()? {
                    self.outbox.used(Self::waiting(&evicted));
                    // The entry is there: that more of them have to leave must not make its creation fail.
                    match self.make_room(address, removal, &self.sign_ins).await {
                        Ok(more) => evicted.extend(more),
                        Err(error) => tracing::warn!(%error, "sign-ins are not counted"),
                    }
                    self.leave_all(&evicted).await;
                }
                Ok(Created::Done { evicted })
            }
            // Too late: what was registered for it goes. Where another is at the address, it is that one's.
            "R" => {
                self.leave(members()).await;
                Ok(Created::Refused)
            }
            "O" => Ok(Created::Refused),
            _ => Err(unexpected()),
        }
    }

    async fn load(&self, locators: &[Locator]) -> Result<Vec<Lookup>> {
        // Most sessions hold one.
        if let [locator] = locators {
            return Ok(vec![self.open(locator).await?]);
        }
        // All are sent before the first answer is waited for.
        try_join_all(locators.iter().map(|locator| self.open(locator))).await
    }

    async fn get(&self, address: &Address) -> Result<Lookup> {
        self.look_up(address, None).await
    }

    async fn touch(&self, address: &Address) -> Result<bool> {
        let call = self.about(&script::TOUCH, &address.account);
        let call = call.arg(address.id.to_string());
        // Copies say that it is due: no more requests are to hear that.
        let _change = self.changing_one(address);
        self.run(address.account.bucket(), call).await?.flag()
    }

    async fn replace_if(
        &self,
        address: &Address,
        generation: Generation,
        entry: Arc<Entry>,
        operation: OperationId,
    ) -> Result<Replaced> {
        let call = self
            .about(&script::REPLACE, &address.account)
            .arg(address.id.to_string())
            .arg(generation.0.to_string())
            .arg(operation.to_string())
            .arg(lifetime(entry.lifetimes.idle))
            .arg(lifetime(entry.lifetimes.absolute))
            .arg(flag(entry.tokens.is_offline()))
            .arg(subjects(&entry))
            .arg(self.codec.seal_entry(address, &entry)?);
        let _change = self.changing_one(address);
        let answered = self
            .run_noted(address.account.bucket(), call.clone())
            .await?;
        let mut reply = answered.reply;
        let done = match reply.text()?.as_str() {
            "D" => Generation(reply.number()?),
            "C" => return Ok(Replaced::Changed),
            "G" => return Ok(Replaced::Gone),
            _ => return Err(unexpected()),
        };
        let old = Wiped(reply.bytes()?);
        // Empty for a repetition.
        let old = match old.is_empty() {
            true => None,
            false => self.codec.open_entry(address, &old),
        };
        // A refresh token that was used up must not come back.
        if old.as_ref().is_none_or(|old| is_rotated(old, &entry)) {
            let written = Written {
                address: *address,
                generation: done,
                call,
            };
            let written = Done::Write(written);
            self.link.remember(answered.connection, written).await?;
        }
        if let Some(old) = old
            && old.selectors != entry.selectors
        {
            if let Err(error) = self.rebind(&entry, address).await {
                tracing::warn!(%error, "members of selectors end early");
            }
            let left = old.selectors.iter();
            let left = left.filter(|old| !entry.selectors.contains(old));
            let left = left.map(|selector| (*selector, *address));
            self.leave(left.collect()).await;
        }
        Ok(Replaced::Done(done))
    }

    async fn rekey(&self, locator: &Locator, new_key: &KeyHash) -> Result<bool> {
        let address = &locator.address;
        let call = self
            .about(&script::REKEY, &address.account)
            .arg(address.id.to_string())
            .arg(locator.key.hash().to_string())
            .arg(new_key.to_string());
        let _change = self.changing_one(address);
        self.run(address.account.bucket(), call).await?.flag()
    }

    async fn remove(&self, target: &Target, removal: &Removal) -> Result<Vec<Removed>> {
        let room = self.room_to_revoke(removal).await;
        let leaving = Leaving::Target(target);
        let removed = self
            .take_out(target.account(), leaving, removal, room)
            .await?;
        self.leave_all(&removed).await;
        Ok(removed)
    }

    async fn close(&self, selector: &Selector, removal: &Removal) -> Result<Vec<Address>> {
        self.close_selector(selector, removal).await
    }

    async fn members(&self, selector: &Selector) -> Result<Vec<Address>> {
        self.members_of(selector).await
    }

    async fn list(&self, account: &AccountHash) -> Result<Vec<SignInInfo>> {
        self.list_of(account).await
    }

    async fn claim(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Claim> {
        self.claim_name(name, holder, hold).await
    }

    async fn settle(&self, name: &ClaimName, holder: OperationId, keep: Duration) -> Result<bool> {
        self.settle_name(name, holder, keep).await
    }

    async fn release(&self, name: &ClaimName, holder: OperationId) -> Result<()> {
        self.release_name(names::CLAIM, name, holder).await
    }

    async fn lease(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Lease> {
        self.lease_name(name, holder, hold).await
    }

    async fn end_lease(&self, name: &ClaimName, holder: OperationId) -> Result<()> {
        self.release_name(names::LEASE, name, holder).await
    }

    async fn put_downstream(&self, address: &Address, downstream: Downstream) -> Result<bool> {
        let Downstream {
            name,
            subject,
            token,
        } = &downstream;
        let call = self
            .about(&script::PUT_DOWNSTREAM, &address.account)
            .arg(address.id.to_string())
            .arg(name.to_string())
            .arg(subject.to_string())
            .arg(token.expires().map(moment).unwrap_or_default())
            .arg(self.codec.seal_downstream(address, name, token)?);
        self.run(address.account.bucket(), call).await?.flag()
    }

    async fn get_downstream(
        &self,
        address: &Address,
        name: &DownstreamName,
    ) -> Result<Option<AccessToken>> {
        let fields = [&*field(&address.id), &*format!("d{}{name}", address.id)];
        let get = self.get("HMGET", &address.account, &fields);
        let (now, values) = self.read(&address.account, get).await?;
        let mut values = Reply::of(values)?;
        let mut next = || Ok(values.maybe_bytes()?.map(Wiped));
        let (Some(head), Some(kept)) = (next()?, next()?) else {
            return Ok(None);
        };
        let is_live = match super::head::Head::parse(&head) {
            Some(super::head::Head::Live(live)) => {
                live.end().0 > now && self.was_taken_out(address, live.created).is_none()
            }
            _ => false,
        };
        // 'subject:ends:' and the token.
        let sealed = kept.splitn(3, |byte| *byte == b':').nth(2);
        let sealed = sealed.filter(|_| is_live);
        Ok(sealed.and_then(|sealed| self.codec.open_downstream(address, name, sealed)))
    }

    async fn due(&self, removal: &Removal) -> Result<Vec<Removed>> {
        let batch = self.batch(removal.operation).await?;
        let mut accounts: HashMap<AccountHash, Vec<SignInId>> = HashMap::new();
        for address in batch {
            let ids = accounts.entry(address.account).or_default();
            ids.push(address.id);
        }
        if accounts.is_empty() {
            return Ok(Vec::new());
        }
        let room = self.room_to_revoke(removal).await;
        let take = accounts
            .iter()
            .map(|(account, ids)| self.take_out(account, Leaving::Due(ids), removal, room));
        let mut removed = Vec::new();
        let mut failed = None;
        for taken in join_all(take).await {
            match taken {
                Ok(taken) => removed.extend(taken),
                Err(error) => failed = Some(error),
            }
        }
        self.leave_all(&removed).await;
        match failed {
            // What was taken out has to be told of; the rest comes with the next call.
            Some(error) if removed.is_empty() => Err(error),
            _ => Ok(removed),
        }
    }

    async fn outbox_put(
        &self,
        id: OperationId,
        account: &AccountHash,
        retained: RetainedTokens,
    ) -> Result<()> {
        self.put_item(id, account, &retained).await
    }

    async fn outbox_take(&self, holder: OperationId, hold: Duration) -> Result<Vec<OutboxItem>> {
        self.take_items(holder, hold).await
    }

    async fn outbox_done(&self, item: &OutboxItem) -> Result<()> {
        self.finish_item(item).await
    }

    async fn outbox_retry(&self, item: &OutboxItem, after: Duration) -> Result<()> {
        self.put_item_back(item, after).await
    }

    async fn measure(&self) -> Vec<Measurement> {
        self.measurements().await
    }

    async fn stats(&self) -> Result<StoreStats> {
        Ok(StoreStats {
            sign_ins: self.count_sign_ins().await? as usize,
            selector_members: self.count_members().await? as usize,
            marks: 0,
            claims: (self.count_names(names::CLAIM).await? + self.count_names(names::LEASE).await?)
                as usize,
            downstream: self.count_downstream().await? as usize,
            outbox: self.count_outbox().await? as usize,
        })
    }
}

fn is_rotated(old: &Entry, new: &Entry) -> bool {
    let secret = |entry: &Entry| entry.tokens.refresh_token().map(TokenHash::of);
    secret(old) != secret(new)
}
