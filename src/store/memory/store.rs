//! The calls, each put together of the steps that lie in one bucket or stripe.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::MemoryTokenStore;
use super::bucket::Refusal;
use super::outbox::Retained;
use super::stripes::lock;
use crate::clock::Timestamp;
use crate::id::{
    AccountHash, Address, ClaimName, DownstreamName, KeyHash, Locator, OperationId, Selector,
    TokenHash,
};
use crate::store::{
    Claim, Created, Downstream, Entry, Generation, Lease, Lookup, MAX_BATCH, OutboxItem,
    REPEAT_WINDOW, Registered, Removal, Removed, Replaced, Result, RetainedTokens, SignInInfo,
    Started, StoreStats, Target, TokenStore,
};
use crate::token::AccessToken;

/// At first each bucket adds so many to a batch of [`TokenStore::due`]: one account's sign-ins do not keep the others
/// waiting.
const FAIR_SHARE: usize = 8;

/// Batches of due sign-ins that are remembered for whoever asks again.
const MAX_BATCHES: usize = 64;

/// Holders of outbox items that are remembered.
const MAX_HOLDERS: usize = 1024;

#[async_trait]
impl TokenStore for MemoryTokenStore {
    fn is_shared(&self) -> bool {
        false
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(self.stamp())
    }

    async fn register(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
    ) -> Result<Registered> {
        self.register_at(selector, address, started)
    }

    async fn unregister(&self, selector: &Selector, address: &Address) -> Result<()> {
        self.leave([selector], address);
        Ok(())
    }

    async fn create(
        &self,
        locator: &Locator,
        entry: Arc<Entry>,
        started: &Started,
        removal: &Removal,
    ) -> Result<Created> {
        let address = &locator.address;
        let stripe = address.account.bucket();
        let key = locator.key.hash();
        let first = self.in_bucket(stripe, |bucket, context| {
            bucket.before_create(address, &key, started, removal, context)
        });
        match first {
            Ok(Some(created)) => return Ok(created),
            Ok(None) => {}
            Err(refusal) => return Ok(self.refuse(refusal, &entry, address)),
        }
        // Before the entry, so that none is ever there without them.
        match self.bind(&entry, address, started) {
            Ok(true) => {}
            Ok(false) => return Ok(self.refuse(Refusal::Late, &entry, address)),
            Err(error) => {
                self.leave(&entry.selectors, address);
                return Err(error);
            }
        }
        // The bucket was left in the meantime: all is looked at once more in the step that creates.
        let second = self.in_bucket(stripe, |bucket, context| {
            match bucket.before_create(address, &key, started, removal, context)? {
                Some(created) => Ok((created, false)),
                None => {
                    let entry = entry.clone();
                    let evicted = bucket.create(address, key, entry, removal, context);
                    Ok::<_, Refusal>((Created::Done { evicted }, true))
                }
            }
        });
        let (mut created, is_new) = match second {
            Ok(created) => created,
            Err(refusal) => return Ok(self.refuse(refusal, &entry, address)),
        };
        if let (true, Created::Done { evicted }) = (is_new, &mut created) {
            self.evict_over_limit(address, removal, evicted);
            self.leave_all(evicted);
            if !evicted.is_empty() {
                let answer = created.clone();
                self.in_bucket(stripe, |bucket, context| {
                    bucket.answer_create(address, answer, removal, context.now);
                });
            }
        }
        Ok(created)
    }

    async fn load(&self, locators: &[Locator]) -> Result<Vec<Lookup>> {
        let now = self.read_clock();
        let look_up = |locator: &Locator| {
            // Hashed before the lock is taken.
            let key = locator.key.hash();
            let address = &locator.address;
            let bucket = self.buckets.lock(address.account.bucket());
            bucket.look_up(address, Some(&key), now)
        };
        Ok(locators.iter().map(look_up).collect())
    }

    async fn get(&self, address: &Address) -> Result<Lookup> {
        let now = self.read_clock();
        let bucket = self.buckets.lock(address.account.bucket());
        Ok(bucket.look_up(address, None, now))
    }

    async fn touch(&self, address: &Address) -> Result<bool> {
        Ok(self.in_bucket(address.account.bucket(), |bucket, context| {
            bucket.touch(address, context.now)
        }))
    }

    async fn replace_if(
        &self,
        address: &Address,
        generation: Generation,
        entry: Arc<Entry>,
        operation: OperationId,
    ) -> Result<Replaced> {
        let tokens = entry.tokens.access_tokens().iter();
        let subjects: Vec<TokenHash> = tokens
            .map(|token| TokenHash::of(token.as_secret()))
            .collect();
        let new = entry.clone();
        let (replaced, old) = self.in_bucket(address.account.bucket(), |bucket, context| {
            let now = context.now;
            bucket.replace_if(address, generation, new, &subjects, operation, now)
        });
        if let Some(old) = old.filter(|old| old.selectors != entry.selectors) {
            // Only confirmed: the caller has registered them, and if they are gone the sign-in has been removed since.
            for selector in &entry.selectors {
                self.in_selectors(selector, |selectors, _| {
                    selectors.confirm(selector, address)
                });
            }
            let left = old.selectors.iter();
            self.leave(left.filter(|old| !entry.selectors.contains(old)), address);
        }
        Ok(replaced)
    }

    async fn rekey(&self, locator: &Locator, new_key: &KeyHash) -> Result<bool> {
        let old = locator.key.hash();
        let address = &locator.address;
        Ok(self.in_bucket(address.account.bucket(), |bucket, context| {
            bucket.rekey(address, &old, new_key, context.now)
        }))
    }

    async fn remove(&self, target: &Target, removal: &Removal) -> Result<Vec<Removed>> {
        let removed = self.in_bucket(target.account().bucket(), |bucket, context| {
            bucket.remove(target, removal, context)
        });
        self.leave_all(&removed);
        Ok(removed)
    }

    async fn close(&self, selector: &Selector, removal: &Removal) -> Result<Vec<Address>> {
        Ok(self.in_selectors(selector, |selectors, now| {
            selectors.close(selector, removal, now)
        }))
    }

    async fn members(&self, selector: &Selector) -> Result<Vec<Address>> {
        Ok(self.in_selectors(selector, |selectors, _| selectors.addresses(selector)))
    }

    async fn list(&self, account: &AccountHash) -> Result<Vec<SignInInfo>> {
        let now = self.read_clock();
        Ok(self.buckets.lock(account.bucket()).list(account, now))
    }

    async fn claim(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Claim> {
        self.unless_full("claims", || {
            self.in_names(name, |names, now| {
                names.claim(name, holder, hold, now, &self.claims)
            })
        })
    }

    async fn settle(&self, name: &ClaimName, holder: OperationId, keep: Duration) -> Result<bool> {
        Ok(self.in_names(name, |names, now| names.settle(name, holder, keep, now)))
    }

    async fn release(&self, name: &ClaimName, holder: OperationId) -> Result<()> {
        self.in_names(name, |names, now| {
            names.release(name, holder, now, &self.claims);
        });
        Ok(())
    }

    async fn lease(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Lease> {
        self.unless_full("leases", || {
            self.in_names(name, |names, now| {
                names.lease(name, holder, hold, now, &self.claims)
            })
        })
    }

    async fn end_lease(&self, name: &ClaimName, holder: OperationId) -> Result<()> {
        self.in_names(name, |names, now| {
            names.end_lease(name, holder, now, &self.claims);
        });
        Ok(())
    }

    async fn put_downstream(&self, address: &Address, downstream: Downstream) -> Result<bool> {
        let stripe = address.account.bucket();
        let downstream = Arc::new(downstream);
        // Tokens are hashed outside of the lock; when they are replaced meanwhile, those that came are looked at.
        while let Some((entry, generation)) = {
            let now = self.read_clock();
            self.buckets.lock(stripe).live_entry(address, now)
        } {
            let mut tokens = entry.tokens.access_tokens().iter();
            if !tokens.any(|token| TokenHash::of(token.as_secret()) == downstream.subject) {
                return Ok(false);
            }
            let put = self.in_bucket(stripe, |bucket, context| {
                let downstream = downstream.clone();
                bucket.put_downstream(address, generation, downstream, context.now)
            });
            if put.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn get_downstream(
        &self,
        address: &Address,
        name: &DownstreamName,
    ) -> Result<Option<AccessToken>> {
        let now = self.read_clock();
        let found = {
            let bucket = self.buckets.lock(address.account.bucket());
            bucket.get_downstream(address, name, now)
        };
        Ok(found.map(|found| found.token.clone()))
    }

    async fn due(&self, removal: &Removal) -> Result<Vec<Removed>> {
        let operation = removal.operation;
        let now = self.read_clock();
        if let Some(batch) = lock(&self.batches).get(&operation, now) {
            return Ok(batch.clone());
        }
        let mut batch = Vec::new();
        // Begins where chance has it, so that under load every bucket comes first at times.
        let first = self.spread.next() as u8;
        for share in [FAIR_SHARE, MAX_BATCH] {
            let mut more = false;
            for stripe in (0..=u8::MAX).map(|n| first.wrapping_add(n)) {
                if batch.len() == MAX_BATCH || self.buckets.lock(stripe).is_idle(now) {
                    continue;
                }
                let limit = share.min(MAX_BATCH - batch.len());
                let due = self.in_bucket(stripe, |bucket, context| {
                    bucket.purge(MAX_BATCH, context);
                    bucket.due(limit, removal, context)
                });
                more |= due.len() == share;
                batch.extend(due);
            }
            if !more {
                break;
            }
        }
        self.leave_all(&batch);
        for mut selectors in self.selectors.each() {
            selectors.purge(MAX_BATCH, now, &self.members);
        }
        for mut names in self.names.each() {
            names.purge(MAX_BATCH, now, &self.claims);
        }
        let mut ended = Vec::new();
        {
            let mut batches = lock(&self.batches);
            if !batch.is_empty() {
                ended.extend(batches.insert(operation, batch.clone(), now.plus(REPEAT_WINDOW)));
            }
            if batches.len() > MAX_BATCHES {
                ended.extend(batches.pop_first().map(|(batch, _)| batch));
            }
            ended.extend(std::iter::from_fn(|| batches.pop_ended(now)));
        }
        Ok(batch)
    }

    async fn outbox_put(
        &self,
        id: OperationId,
        account: &AccountHash,
        retained: RetainedTokens,
    ) -> Result<()> {
        let retained = Arc::new(retained);
        self.unless_full("tokens to revoke", || {
            self.in_bucket(account.bucket(), |bucket, context| {
                let retained = Retained::Tokens(retained.clone());
                bucket
                    .outbox
                    .put(id, *account, retained, context.now, context.outbox)
                    .then_some(())
            })
        })
    }

    async fn outbox_take(&self, holder: OperationId, hold: Duration) -> Result<Vec<OutboxItem>> {
        let now = self.read_clock();
        let held = lock(&self.holders).get(&holder, now).cloned();
        let again: Vec<OutboxItem> = held
            .iter()
            .flatten()
            .filter_map(|(account, id)| {
                let bucket = self.buckets.lock(account.bucket());
                bucket.outbox.taken_by(holder, *id, now)
            })
            .map(OutboxItem::from)
            .collect();
        if !again.is_empty() || self.outbox.used() == 0 {
            return Ok(again);
        }
        let mut items: Vec<OutboxItem> = Vec::new();
        let first = self.spread.next() as u8;
        for stripe in (0..=u8::MAX).map(|n| first.wrapping_add(n)) {
            let limit = MAX_BATCH - items.len();
            if limit == 0 {
                break;
            }
            let taken = self.in_bucket(stripe, |bucket, context| {
                bucket.purge(MAX_BATCH, context);
                bucket.outbox.take(holder, hold, context.now, limit)
            });
            items.extend(taken.into_iter().map(OutboxItem::from));
        }
        if !items.is_empty() {
            let names = items.iter().map(|item| (item.account, item.id)).collect();
            let mut holders = lock(&self.holders);
            while holders.pop_ended(now).is_some() {}
            holders.insert(holder, names, now.plus(hold));
            if holders.len() > MAX_HOLDERS {
                holders.pop_first();
            }
        }
        Ok(items)
    }

    async fn outbox_done(&self, item: &OutboxItem) -> Result<()> {
        self.in_bucket(item.account.bucket(), |bucket, context| {
            let finished = bucket.outbox.finish(item.id, context.outbox);
            bucket.discard_retained(finished);
        });
        Ok(())
    }

    async fn outbox_retry(&self, item: &OutboxItem, after: Duration) -> Result<()> {
        self.in_bucket(item.account.bucket(), |bucket, context| {
            let at = context.now.plus(after);
            bucket.outbox.retry(item.id, item.attempts, at);
        });
        Ok(())
    }

    async fn stats(&self) -> Result<StoreStats> {
        self.purge();
        let mut stats = StoreStats {
            sign_ins: self.sign_ins.used(),
            claims: self.names.each().map(|names| names.len()).sum(),
            outbox: self.outbox.used(),
            ..StoreStats::default()
        };
        for bucket in self.buckets.each() {
            stats.marks += bucket.marks();
            stats.downstream += bucket.downstream();
        }
        for selectors in self.selectors.each() {
            stats.selector_members += selectors.len();
            stats.marks += selectors.marks();
        }
        stats.marks += lock(&self.batches).len();
        Ok(stats)
    }
}
