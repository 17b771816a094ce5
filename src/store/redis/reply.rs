//! What Redis answers, taken apart.

use redis::Value;

use crate::clock::Timestamp;
use crate::store::{Result, StoreError, StoreErrorKind};

/// An answer that no script of ours gives.
pub(super) fn unexpected() -> StoreError {
    StoreError::new(
        StoreErrorKind::Unknown,
        "Redis answered something unexpected",
    )
}

/// The items of an answer, one by one.
pub(super) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub(super) fn of(value: Value) -> Result<Self> {
        match value {
            Value::Array(values) => Ok(Self(values.into_iter())),
            _ => Err(unexpected()),
        }
    }

    pub(super) fn value(&mut self) -> Result<Value> {
        self.0.next().ok_or_else(unexpected)
    }

    pub(super) fn list(&mut self) -> Result<Vec<Value>> {
        match self.value()? {
            Value::Array(values) => Ok(values),
            _ => Err(unexpected()),
        }
    }

    /// Bytes, or nothing.
    pub(super) fn maybe_bytes(&mut self) -> Result<Option<Vec<u8>>> {
        maybe_bytes(self.value()?)
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>> {
        self.maybe_bytes()?.ok_or_else(unexpected)
    }

    pub(super) fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?).map_err(|_| unexpected())
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        number(self.value()?)
    }

    pub(super) fn flag(&mut self) -> Result<bool> {
        Ok(self.number()? != 0)
    }

    pub(super) fn time(&mut self) -> Result<Timestamp> {
        self.number().map(Timestamp::from_micros)
    }
}

pub(super) fn maybe_bytes(value: Value) -> Result<Option<Vec<u8>>> {
    match value {
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::SimpleString(text) => Ok(Some(text.into_bytes())),
        Value::Nil => Ok(None),
        _ => Err(unexpected()),
    }
}

pub(super) fn number(value: Value) -> Result<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).map_err(|_| unexpected()),
        Value::BulkString(bytes) => std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(unexpected),
        _ => Err(unexpected()),
    }
}

/// The answer to `TIME`.
pub(super) fn time(value: Value) -> Result<Timestamp> {
    let mut parts = Reply::of(value)?;
    let (seconds, micros) = (parts.number()?, parts.number()?);
    Ok(Timestamp::from_micros(
        seconds.saturating_mul(1_000_000).saturating_add(micros),
    ))
}
