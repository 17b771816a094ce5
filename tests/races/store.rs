//! The memory store with answers that take their time, and fail where the schedule wants that.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum_signout::clock::Timestamp;
use axum_signout::store::{
    Claim, Created, Downstream, Entry, Generation, Lease, Lookup, MemoryTokenStore, OutboxItem,
    Registered, Removal, Removed, Replaced, Result, RetainedTokens, SignInInfo, Started,
    StoreError, StoreErrorKind, StoreStats, Target, TokenStore,
};
use axum_signout::{
    AccessToken, AccountHash, Address, ClaimName, DownstreamName, KeyHash, Locator, OperationId,
    Selector,
};

use crate::Random;

#[derive(Debug)]
pub struct RacyStore {
    pub inner: Arc<MemoryTokenStore>,
    pub shared: bool,
    pub random: Mutex<Random>,
    /// In percent, of the calls that may fail.
    pub failing: Mutex<usize>,
    /// Where sign-ins were put.
    pub created: Mutex<Vec<Address>>,
}

enum Fate {
    Fine,
    NotReached,
    AnswerLost,
}

impl RacyStore {
    async fn pause(&self) {
        let turns = self.random.lock().unwrap().below(4);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }

    fn fate(&self) -> Fate {
        let chance = *self.failing.lock().unwrap();
        let mut random = self.random.lock().unwrap();
        match (random.percent(chance), random.percent(50)) {
            (false, _) => Fate::Fine,
            (true, true) => Fate::NotReached,
            (true, false) => Fate::AnswerLost,
        }
    }

    /// A call that takes its time on both ways.
    async fn slow<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.pause().await;
        let answer = call.await;
        self.pause().await;
        answer
    }

    async fn risky<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let fate = self.fate();
        if matches!(fate, Fate::NotReached) {
            self.pause().await;
            return Err(StoreError::new(StoreErrorKind::Unavailable, "not reached"));
        }
        let answer = self.slow(call).await;
        match fate {
            Fate::AnswerLost => Err(StoreError::new(StoreErrorKind::Unknown, "answer lost")),
            _ => answer,
        }
    }
}

use std::future::Future;

#[async_trait]
impl TokenStore for RacyStore {
    fn is_shared(&self) -> bool {
        self.shared
    }

    async fn now(&self) -> Result<Timestamp> {
        self.slow(self.inner.now()).await
    }

    async fn register(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
    ) -> Result<Registered> {
        self.risky(self.inner.register(selector, address, started))
            .await
    }

    async fn unregister(&self, selector: &Selector, address: &Address) -> Result<()> {
        self.slow(self.inner.unregister(selector, address)).await
    }

    async fn create(
        &self,
        locator: &Locator,
        entry: Arc<Entry>,
        started: &Started,
        removal: &Removal,
    ) -> Result<Created> {
        self.created.lock().unwrap().push(locator.address);
        self.risky(self.inner.create(locator, entry, started, removal))
            .await
    }

    async fn load(&self, locators: &[Locator]) -> Result<Vec<Lookup>> {
        self.risky(self.inner.load(locators)).await
    }

    async fn get(&self, address: &Address) -> Result<Lookup> {
        self.risky(self.inner.get(address)).await
    }

    async fn touch(&self, address: &Address) -> Result<bool> {
        self.risky(self.inner.touch(address)).await
    }

    async fn replace_if(
        &self,
        address: &Address,
        generation: Generation,
        entry: Arc<Entry>,
        operation: OperationId,
    ) -> Result<Replaced> {
        self.risky(self.inner.replace_if(address, generation, entry, operation))
            .await
    }

    async fn rekey(&self, locator: &Locator, new_key: &KeyHash) -> Result<bool> {
        self.risky(self.inner.rekey(locator, new_key)).await
    }

    async fn remove(&self, target: &Target, removal: &Removal) -> Result<Vec<Removed>> {
        self.risky(self.inner.remove(target, removal)).await
    }

    async fn close(&self, selector: &Selector, removal: &Removal) -> Result<Vec<Address>> {
        self.risky(self.inner.close(selector, removal)).await
    }

    async fn members(&self, selector: &Selector) -> Result<Vec<Address>> {
        self.slow(self.inner.members(selector)).await
    }

    async fn list(&self, account: &AccountHash) -> Result<Vec<SignInInfo>> {
        self.risky(self.inner.list(account)).await
    }

    async fn claim(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Claim> {
        self.risky(self.inner.claim(name, holder, hold)).await
    }

    async fn settle(&self, name: &ClaimName, holder: OperationId, keep: Duration) -> Result<bool> {
        self.risky(self.inner.settle(name, holder, keep)).await
    }

    async fn release(&self, name: &ClaimName, holder: OperationId) -> Result<()> {
        self.risky(self.inner.release(name, holder)).await
    }

    async fn lease(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Lease> {
        self.risky(self.inner.lease(name, holder, hold)).await
    }

    async fn end_lease(&self, name: &ClaimName, holder: OperationId) -> Result<()> {
        self.risky(self.inner.end_lease(name, holder)).await
    }

    async fn put_downstream(&self, address: &Address, downstream: Downstream) -> Result<bool> {
        self.risky(self.inner.put_downstream(address, downstream))
            .await
    }

    async fn get_downstream(
        &self,
        address: &Address,
        name: &DownstreamName,
    ) -> Result<Option<AccessToken>> {
        self.risky(self.inner.get_downstream(address, name)).await
    }

    async fn due(&self, removal: &Removal) -> Result<Vec<Removed>> {
        // One whose answer is lost takes its sign-ins along, until the same is asked again.
        self.slow(self.inner.due(removal)).await
    }

    async fn outbox_put(
        &self,
        id: OperationId,
        account: &AccountHash,
        retained: RetainedTokens,
    ) -> Result<()> {
        // Tokens that cannot even be put there are lost, and said to be.
        self.slow(self.inner.outbox_put(id, account, retained))
            .await
    }

    async fn outbox_take(&self, holder: OperationId, hold: Duration) -> Result<Vec<OutboxItem>> {
        self.risky(self.inner.outbox_take(holder, hold)).await
    }

    async fn outbox_done(&self, item: &OutboxItem) -> Result<()> {
        self.risky(self.inner.outbox_done(item)).await
    }

    async fn outbox_retry(&self, item: &OutboxItem, after: Duration) -> Result<()> {
        self.risky(self.inner.outbox_retry(item, after)).await
    }

    async fn stats(&self) -> Result<StoreStats> {
        self.inner.stats().await
    }
}
