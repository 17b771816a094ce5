//! The memory store with answers that take their time, and fail where the schedule wants that.

use std::fmt;
use std::future::Future;
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
use crate::gates::{Fate, Gates};
use crate::ledger::Ledger;

/// Who says how long a call takes and whether it fails.
pub enum Pace {
    Chance {
        random: Random,
        /// In percent, of the calls that may fail.
        failing: usize,
    },
    /// A schedule that looks at every order.
    Chosen(Arc<Gates>),
}

pub struct RacyStore {
    pub inner: Arc<MemoryTokenStore>,
    pub shared: bool,
    pub pace: Mutex<Pace>,
    pub ledger: Arc<Mutex<Ledger>>,
    /// Where sign-ins were put.
    pub created: Mutex<Vec<Address>>,
}

impl fmt::Debug for RacyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RacyStore")
    }
}

/// How long one call takes on both ways, and what becomes of it.
struct Passage {
    fate: Fate,
    turns: [usize; 2],
    gates: Option<Arc<Gates>>,
}

impl Passage {
    async fn there(&mut self, call: &'static str, may_fail: bool) {
        match &self.gates {
            Some(gates) => self.fate = gates.pass(call, may_fail).await,
            None => pause(self.turns[0]).await,
        }
    }

    async fn back(&self, call: &'static str) {
        match &self.gates {
            Some(gates) => drop(gates.pass(call, false).await),
            None => pause(self.turns[1]).await,
        }
    }
}

async fn pause(turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// Counts a call for as long as it is made. One that is given up has failed, for whoever made it.
struct Calling {
    ledger: Arc<Mutex<Ledger>>,
    call: &'static str,
    answered: bool,
}

/// The calls that tokens take on their way from an answer into the store.
const OF_AN_ANSWER: [&str; 4] = ["register", "replace_if", "get", "outbox_put"];

impl Calling {
    fn new(ledger: &Arc<Mutex<Ledger>>, call: &'static str) -> Self {
        ledger.lock().unwrap().calls += 1;
        Self {
            ledger: ledger.clone(),
            call,
            answered: false,
        }
    }

    fn end(mut self, fate: Fate) {
        self.answered = fate == Fate::Fine;
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        // A schedule that has failed is unwinding.
        let Ok(mut ledger) = self.ledger.lock() else {
            return;
        };
        ledger.calls -= 1;
        if !self.answered {
            tracing::debug!(self.call, "failed or given up");
            if OF_AN_ANSWER.contains(&self.call) {
                ledger.store_failed = Some(ledger.turn);
            }
            ledger.happened("a call of the store that failed");
        }
    }
}

impl RacyStore {
    /// In percent, of the calls that may fail.
    pub fn fail(&self, percent: usize) {
        if let Pace::Chance { failing, .. } = &mut *self.pace.lock().unwrap() {
            *failing = percent;
        }
    }

    fn passage(&self, may_fail: bool) -> Passage {
        match &mut *self.pace.lock().unwrap() {
            Pace::Chosen(gates) => Passage {
                fate: Fate::Fine,
                turns: [0; 2],
                gates: Some(gates.clone()),
            },
            Pace::Chance { random, failing } => {
                let failing = if may_fail { *failing } else { 0 };
                let fate = match (random.percent(failing), random.percent(50)) {
                    (false, _) => Fate::Fine,
                    (true, true) => Fate::NotReached,
                    (true, false) => Fate::AnswerLost,
                };
                Passage {
                    fate,
                    turns: [random.below(4), random.below(4)],
                    gates: None,
                }
            }
        }
    }

    async fn call<T>(
        &self,
        name: &'static str,
        may_fail: bool,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let calling = Calling::new(&self.ledger, name);
        let mut passage = self.passage(may_fail);
        passage.there(name, may_fail).await;
        let answer = match passage.fate {
            Fate::NotReached => Err(StoreError::new(StoreErrorKind::Unavailable, "not reached")),
            _ => call.await,
        };
        passage.back(name).await;
        calling.end(passage.fate);
        tracing::debug!(name, fate = ?passage.fate, "answered");
        match passage.fate {
            Fate::AnswerLost => Err(StoreError::new(StoreErrorKind::Unknown, "answer lost")),
            _ => answer,
        }
    }

    /// A call that takes its time on both ways.
    async fn slow<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.call(name, false, call).await
    }

    /// One that may also fail.
    async fn risky<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.call(name, true, call).await
    }

    /// Notes what leaves at the moment when it does.
    pub async fn taking_out(
        &self,
        call: impl Future<Output = Result<Vec<Removed>>>,
    ) -> Result<Vec<Removed>> {
        let removed = call.await?;
        let mut ledger = self.ledger.lock().unwrap();
        for one in &removed {
            ledger.left.insert(one.address.id, one.cause);
            ledger.happened(one.cause.as_str());
            if one.to_revoke {
                ledger.retained(&one.entry.tokens);
            }
        }
        Ok(removed)
    }
}

#[async_trait]
impl TokenStore for RacyStore {
    fn is_shared(&self) -> bool {
        self.shared
    }

    async fn now(&self) -> Result<Timestamp> {
        self.slow("now", self.inner.now()).await
    }

    async fn register(
        &self,
        selector: &Selector,
        address: &Address,
        started: &Started,
    ) -> Result<Registered> {
        self.risky("register", self.inner.register(selector, address, started))
            .await
    }

    async fn unregister(&self, selector: &Selector, address: &Address) -> Result<()> {
        self.slow("unregister", self.inner.unregister(selector, address))
            .await
    }

    async fn create(
        &self,
        locator: &Locator,
        entry: Arc<Entry>,
        started: &Started,
        removal: &Removal,
    ) -> Result<Created> {
        self.created.lock().unwrap().push(locator.address);
        self.risky(
            "create",
            self.inner.create(locator, entry, started, removal),
        )
        .await
    }

    async fn load(&self, locators: &[Locator]) -> Result<Vec<Lookup>> {
        self.risky("load", self.inner.load(locators)).await
    }

    async fn get(&self, address: &Address) -> Result<Lookup> {
        self.risky("get", self.inner.get(address)).await
    }

    async fn touch(&self, address: &Address) -> Result<bool> {
        self.risky("touch", self.inner.touch(address)).await
    }

    async fn replace_if(
        &self,
        address: &Address,
        generation: Generation,
        entry: Arc<Entry>,
        operation: OperationId,
    ) -> Result<Replaced> {
        self.risky(
            "replace_if",
            self.inner.replace_if(address, generation, entry, operation),
        )
        .await
    }

    async fn rekey(&self, locator: &Locator, new_key: &KeyHash) -> Result<bool> {
        self.risky("rekey", self.inner.rekey(locator, new_key))
            .await
    }

    async fn remove(&self, target: &Target, removal: &Removal) -> Result<Vec<Removed>> {
        self.risky(
            "remove",
            self.taking_out(self.inner.remove(target, removal)),
        )
        .await
    }

    async fn close(&self, selector: &Selector, removal: &Removal) -> Result<Vec<Address>> {
        self.risky("close", self.inner.close(selector, removal))
            .await
    }

    async fn members(&self, selector: &Selector) -> Result<Vec<Address>> {
        self.slow("members", self.inner.members(selector)).await
    }

    async fn list(&self, account: &AccountHash) -> Result<Vec<SignInInfo>> {
        self.risky("list", self.inner.list(account)).await
    }

    async fn claim(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Claim> {
        self.risky("claim", self.inner.claim(name, holder, hold))
            .await
    }

    async fn settle(&self, name: &ClaimName, holder: OperationId, keep: Duration) -> Result<bool> {
        self.risky("settle", self.inner.settle(name, holder, keep))
            .await
    }

    async fn release(&self, name: &ClaimName, holder: OperationId) -> Result<()> {
        self.risky("release", self.inner.release(name, holder))
            .await
    }

    async fn lease(&self, name: &ClaimName, holder: OperationId, hold: Duration) -> Result<Lease> {
        self.risky("lease", self.inner.lease(name, holder, hold))
            .await
    }

    async fn end_lease(&self, name: &ClaimName, holder: OperationId) -> Result<()> {
        self.risky("end_lease", self.inner.end_lease(name, holder))
            .await
    }

    async fn put_downstream(&self, address: &Address, downstream: Downstream) -> Result<bool> {
        self.risky(
            "put_downstream",
            self.inner.put_downstream(address, downstream),
        )
        .await
    }

    async fn get_downstream(
        &self,
        address: &Address,
        name: &DownstreamName,
    ) -> Result<Option<AccessToken>> {
        self.risky("get_downstream", self.inner.get_downstream(address, name))
            .await
    }

    async fn due(&self, removal: &Removal) -> Result<Vec<Removed>> {
        // One whose answer is lost takes its sign-ins along, until the same is asked again.
        self.slow("due", self.taking_out(self.inner.due(removal)))
            .await
    }

    async fn outbox_put(
        &self,
        id: OperationId,
        account: &AccountHash,
        retained: RetainedTokens,
    ) -> Result<()> {
        // Tokens that cannot even be put there are lost, and said to be.
        self.slow("outbox_put", async {
            self.ledger.lock().unwrap().discarded(&retained.tokens);
            self.inner.outbox_put(id, account, retained).await
        })
        .await
    }

    async fn outbox_take(&self, holder: OperationId, hold: Duration) -> Result<Vec<OutboxItem>> {
        self.risky("outbox_take", self.inner.outbox_take(holder, hold))
            .await
    }

    async fn outbox_done(&self, item: &OutboxItem) -> Result<()> {
        self.risky("outbox_done", async {
            self.ledger.lock().unwrap().done(&item.retained);
            self.inner.outbox_done(item).await
        })
        .await
    }

    async fn outbox_retry(&self, item: &OutboxItem, after: Duration) -> Result<()> {
        self.risky("outbox_retry", self.inner.outbox_retry(item, after))
            .await
    }

    async fn stats(&self) -> Result<StoreStats> {
        self.inner.stats().await
    }
}
