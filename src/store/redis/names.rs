//! Claims and leases.

use std::time::Duration;

use super::RedisTokenStore;
use super::reply::{Reply, unexpected};
use super::script::{self, Call, Script};
use super::time::lifetime;
use crate::id::{ClaimName, OperationId};
use crate::store::{Claim, Lease, Result, StoreError, StoreErrorKind};

pub(super) const CLAIM: &str = "claim";
pub(super) const LEASE: &str = "lease";

fn full(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Full, format!("too many {what}"))
}

impl RedisTokenStore {
    async fn about_name(
        &self,
        script: &'static Script,
        what: &str,
        name: &ClaimName,
        holder: OperationId,
        arguments: Vec<String>,
    ) -> Result<Reply> {
        let call = Call::new(script, self.keys.of_name(what, name), self.time.arguments())
            .arg(name.to_string())
            .arg(holder.to_string())
            .args(arguments);
        self.run(name.as_bytes()[0], call).await
    }

    pub(super) async fn claim_name(
        &self,
        name: &ClaimName,
        holder: OperationId,
        hold: Duration,
    ) -> Result<Claim> {
        let room = self.claims.get(self.count_names(CLAIM)).await?;
        let arguments = vec![lifetime(hold), room.to_string()];
        let reply = self.about_name(&script::CLAIM, CLAIM, name, holder, arguments);
        let mut reply = reply.await?;
        let answer = reply.text()?;
        self.claims.used(reply.number()?);
        match answer.as_str() {
            "H" => Ok(Claim::Held),
            "T" => Ok(Claim::Taken),
            "F" => Err(full("claims")),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn settle_name(
        &self,
        name: &ClaimName,
        holder: OperationId,
        keep: Duration,
    ) -> Result<bool> {
        let arguments = vec![lifetime(keep)];
        let reply = self.about_name(&script::SETTLE, CLAIM, name, holder, arguments);
        reply.await?.flag()
    }

    /// `what` is a claim or a lease.
    pub(super) async fn release_name(
        &self,
        what: &str,
        name: &ClaimName,
        holder: OperationId,
    ) -> Result<()> {
        let reply = self.about_name(&script::RELEASE, what, name, holder, Vec::new());
        reply.await.map(drop)
    }

    pub(super) async fn lease_name(
        &self,
        name: &ClaimName,
        holder: OperationId,
        hold: Duration,
    ) -> Result<Lease> {
        let room = self.leases.get(self.count_names(LEASE)).await?;
        let arguments = vec![lifetime(hold), room.to_string()];
        let reply = self.about_name(&script::LEASE, LEASE, name, holder, arguments);
        let mut reply = reply.await?;
        let answer = reply.text()?;
        self.leases.used(reply.number()?);
        if answer == "F" {
            return Err(full("leases"));
        }
        let left = Duration::from_micros(reply.number()?);
        match answer.as_str() {
            "H" => Ok(Lease::Held(left)),
            "B" => Ok(Lease::Busy(left)),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn count_names(&self, what: &str) -> Result<u64> {
        let now = self.time_at(0).await?.as_micros();
        self.count(|bucket| {
            let mut count = redis::cmd("ZCOUNT");
            count.arg(self.keys.names(bucket, what));
            count.arg(format!("({now}")).arg("+inf");
            count
        })
        .await
    }
}
