//! Tokens that are to be revoked.

use std::time::Duration;

use futures_util::future::join_all;
use redis::Value;

use super::RedisTokenStore;
use super::codec::Wiped;
use super::reply::{self, Reply, unexpected};
use super::script::{self, Call, Script};
use super::time::lifetime;
use crate::id::{AccountHash, Address, OperationId, SignInId};
use crate::store::{
    MAX_BATCH, OUTBOX_AGE, OutboxItem, Result, RetainedTokens, StoreError, StoreErrorKind,
};

impl RedisTokenStore {
    fn about_outbox(&self, script: &'static Script, bucket: u8) -> Call {
        Call::new(script, self.keys.outbox(bucket), self.time.arguments())
    }

    pub(super) async fn put_item(
        &self,
        id: OperationId,
        account: &AccountHash,
        retained: &RetainedTokens,
    ) -> Result<()> {
        let room = self.outbox.get(self.count_outbox()).await?;
        let call = self
            .about_outbox(&script::OUTBOX_PUT, account.bucket())
            .arg(id.to_string())
            .arg(account.to_string())
            .arg(self.codec.seal_retained(id, retained)?)
            .arg(room.to_string());
        let mut reply = self.run(account.bucket(), call).await?;
        let is_there = reply.flag()?;
        self.outbox.used(reply.number()?);
        if is_there {
            Ok(())
        } else {
            let text = "too many tokens to revoke";
            Err(StoreError::new(StoreErrorKind::Full, text))
        }
    }

    fn item(&self, row: Value) -> Result<Option<OutboxItem>> {
        let mut row = Reply::of(row)?;
        let id = OperationId::parse(&row.text()?).ok_or_else(unexpected)?;
        let kind = row.text()?;
        let account = AccountHash::parse(&row.text()?).ok_or_else(unexpected)?;
        let created = row.time()?;
        let attempts = u32::try_from(row.number()?).unwrap_or(u32::MAX);
        let Some(body) = row.maybe_bytes()?.map(Wiped) else {
            return Ok(None);
        };
        let retained = if kind == "e" {
            // It was moved here with the name of its sign-in.
            let id = SignInId::from_bytes(*id.as_bytes());
            let entry = self.codec.open_entry(&Address { account, id }, &body);
            entry.as_ref().map(RetainedTokens::of)
        } else {
            self.codec.open_retained(id, &body)
        };
        Ok(retained.map(|retained| OutboxItem {
            id,
            account,
            created,
            attempts,
            retained,
        }))
    }

    fn items(&self, rows: Vec<Value>) -> Result<Vec<OutboxItem>> {
        let items = rows.into_iter().map(|row| self.item(row));
        items.filter_map(Result::transpose).collect()
    }

    pub(super) async fn take_items(
        &self,
        holder: OperationId,
        hold: Duration,
    ) -> Result<Vec<OutboxItem>> {
        let held = self
            .sweep(|bucket| {
                let mut get = redis::cmd("HEXISTS");
                get.arg(&self.keys.outbox(bucket)[0]);
                get.arg(format!("h{holder}"));
                get
            })
            .await?;
        let again = (0..=u8::MAX)
            .zip(held)
            .filter(|(_, held)| *held == Value::Int(1))
            .map(|(bucket, _)| async move {
                let call = self.about_outbox(&script::OUTBOX_AGAIN, bucket);
                let call = call.arg(holder.to_string());
                self.items(self.run(bucket, call).await?.list()?)
            });
        let again: Result<Vec<_>> = join_all(again).await.into_iter().collect();
        let again: Vec<OutboxItem> = again?.into_iter().flatten().collect();
        if !again.is_empty() {
            return Ok(again);
        }

        let now = self.time_at(0).await?.as_micros();
        let ready = self
            .sweep(|bucket| {
                let mut count = redis::cmd("ZCOUNT");
                count.arg(&self.keys.outbox(bucket)[1]).arg("-inf").arg(now);
                count
            })
            .await?;
        let mut items = Vec::new();
        // Begins where chance has it, so that every bucket comes first at times.
        let first = holder.as_bytes()[0];
        for bucket in (0..=u8::MAX).map(|n| first.wrapping_add(n)) {
            let limit = MAX_BATCH - items.len();
            let count = ready.get(usize::from(bucket)).cloned().unwrap_or_default();
            if limit == 0 || reply::number(count)? == 0 {
                continue;
            }
            let call = self
                .about_outbox(&script::OUTBOX_TAKE, bucket)
                .arg(holder.to_string())
                .arg(lifetime(hold))
                .arg(limit.to_string());
            let taken = async { self.items(self.run(bucket, call).await?.list()?) };
            match taken.await {
                Ok(taken) => items.extend(taken),
                // What was taken so far is at work; the rest comes with the next call.
                Err(error) if !items.is_empty() => {
                    tracing::warn!(%error, "part of the outbox is not reached");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(items)
    }

    pub(super) async fn finish_item(&self, item: &OutboxItem) -> Result<()> {
        let bucket = item.account.bucket();
        let call = self
            .about_outbox(&script::OUTBOX_DONE, bucket)
            .arg(item.id.to_string());
        self.run(bucket, call).await.map(drop)
    }

    pub(super) async fn put_item_back(&self, item: &OutboxItem, after: Duration) -> Result<()> {
        let bucket = item.account.bucket();
        let call = self
            .about_outbox(&script::OUTBOX_RETRY, bucket)
            .arg(item.id.to_string())
            .arg(item.attempts.to_string())
            .arg(lifetime(after));
        self.run(bucket, call).await.map(drop)
    }

    pub(super) async fn count_outbox(&self) -> Result<u64> {
        let oldest = self.time_at(0).await?.minus(OUTBOX_AGE).as_micros();
        self.count(|bucket| {
            let mut count = redis::cmd("ZCOUNT");
            count.arg(&self.keys.outbox(bucket)[2]);
            count.arg(format!("({oldest}")).arg("+inf");
            count
        })
        .await
    }
}
