//! The token cache: opens the sign-ins of a request, hands out tokens, refreshes them once, and evicts them for good.
//!
//! What an eviction does, in this order, so that no step can bring back what an earlier one took: the store removes the
//! entry and keeps its address unusable; the flags that running requests hold are flipped; hooks are told.

mod answer;
mod app_tokens;
mod back_off;
mod bounded;
mod close;
mod conclude;
mod ended;
mod evict;
mod inner;
mod live;
#[cfg(feature = "metrics")]
mod measure;
mod notices;
mod opened;
mod pending;
mod pick;
mod refresh;
mod revoke;
mod time_left;
mod unread;

pub(crate) use self::app_tokens::AppKey;
pub(crate) use self::bounded::within;
pub(crate) use self::evict::{Evicted, Order};
pub(crate) use self::inner::{Cache, CacheParts, NewSignIn, Use};
pub(crate) use self::opened::{Opened, SignIn};
pub use self::time_left::TimeLeft;
pub(crate) use self::unread::LateSignOut;
