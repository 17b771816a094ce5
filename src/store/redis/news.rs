//! What nodes tell each other: that a copy of a sign-in is stale.
//!
//! The script that changes a sign-in announces it, in the same step. A [`Listener`] of any node hears of it as long as the
//! subscription stands, and is told when it does not.

use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::head::cause;
use crate::cause::Cause;
use crate::clock::{Clock as _, SystemClock, Timestamp};
use crate::id::{AccountHash, Address, SignInId};

/// What was heard of a sign-in. The same may be heard more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It has left the store, and why.
    Ended { address: Address, cause: Cause },
    /// Its entry or its key is another.
    Changed { address: Address },
}

/// Longer than any announcement: two names and a cause.
const LONGEST: usize = 128;

impl News {
    pub(super) fn address(&self) -> &Address {
        match self {
            Self::Ended { address, .. } | Self::Changed { address } => address,
        }
    }

    /// Of what `announce` in `account.lua` publishes: `E:account:id:cause` or `C:account:id`. Anything else is none: whoever may
    /// publish can send what they like.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        if message.len() > LONGEST {
            return None;
        }
        let mut parts = std::str::from_utf8(message).ok()?.split(':');
        let kind = parts.next()?;
        let address = Address {
            account: AccountHash::parse(parts.next()?)?,
            id: SignInId::parse(parts.next()?)?,
        };
        let news = match kind {
            "E" => Self::Ended {
                address,
                cause: cause(parts.next()?)?,
            },
            "C" => Self::Changed { address },
            _ => return None,
        };
        parts.next().is_none().then_some(news)
    }
}

/// A set of buckets: those that one connection carries the news of.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Buckets([u64; 4]);

impl Buckets {
    pub(super) const NONE: Self = Self([0; 4]);
    pub(super) const ALL: Self = Self([u64::MAX; 4]);

    pub(super) fn contains(&self, bucket: u8) -> bool {
        self.0[usize::from(bucket / 64)] & (1 << (bucket % 64)) != 0
    }

    pub(super) fn insert(&mut self, bucket: u8) {
        self.0[usize::from(bucket / 64)] |= 1 << (bucket % 64);
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// Those that are in this set or in the other.
    pub(super) fn with(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a |= b);
        self
    }

    /// Those that are in this set and not in the other.
    pub(super) fn without(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a &= !b);
        self
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u8> {
        let all = *self;
        (0..=u8::MAX).filter(move |bucket| all.contains(*bucket))
    }
}

impl FromIterator<u8> for Buckets {
    fn from_iter<I: IntoIterator<Item = u8>>(buckets: I) -> Self {
        let mut all = Self::NONE;
        buckets.into_iter().for_each(|bucket| all.insert(bucket));
        all
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => f.write_str("all"),
            _ => f.debug_set().entries(self.iter()).finish(),
        }
    }
}

/// A moment that neither a process that stood still nor a machine that slept can pass off as a later one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    at: Instant,
    /// Notices a machine that slept, which [`Instant`] does not; also one whose clock was set back before, which a steady reading does not.
    wall: Timestamp,
}

static CLOCK: LazyLock<SystemClock> = LazyLock::new(SystemClock::new);

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            wall: CLOCK.wall(),
        }
    }

    #[cfg(test)]
    pub(super) fn ago(by: Duration) -> Self {
        let now = Self::now();
        Self {
            wall: now.wall.minus(by),
            ..now
        }
    }

    /// How long ago it was, by whichever clock says more.
    pub(super) fn elapsed(&self) -> Duration {
        let wall = CLOCK.wall().since(self.wall);
        self.at.elapsed().max(wall)
    }
}

/// How often each connection is asked whether it still carries anything.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// A connection whose last answered heartbeat was sent this long ago is lost, whether anybody has noticed yet or not.
pub(super) const BEAT_LIMIT: Duration = Duration::from_secs(3);

/// Who wants to hear. Called by one at a time, in order, quickly, never blocking; nothing here may call back into the subscription.
///
/// Until it is told that they stand, all buckets are lost.
pub(super) trait Listener: Send + Sync {
    /// An announcement. Some may come for buckets that are lost.
    fn heard(&self, news: &News);

    /// From some moment before this call on, announcements of these buckets may have been missed.
    fn lost(&self, buckets: &Buckets);

    /// From before this call on, announcements of these buckets are heard, until they are lost.
    fn stands(&self, buckets: &Buckets);

    /// The connection that carries these buckets has answered a heartbeat that was sent at that moment: whatever was announced before
    /// then has been heard. Comes every [`BEAT`] while they stand; when none came for [`BEAT_LIMIT`], what was heard says nothing.
    fn beat(&self, buckets: &Buckets, sent: Moment) {
        let _ = (buckets, sent);
    }

    /// Whether nobody is left to be told.
    fn is_gone(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_read_and_anything_else_is_none() {
        let address = Address {
            account: AccountHash::of(&[b"ann"]),
            id: SignInId::random(),
        };
        let (account, id) = (address.account, address.id);
        let ended = format!("E:{account}:{id}:BackChannel");
        let cause = Cause::BackChannel;
        let read = News::parse(ended.as_bytes());
        assert_eq!(read, Some(News::Ended { address, cause }));
        let changed = format!("C:{account}:{id}");
        let read = News::parse(changed.as_bytes());
        assert_eq!(read, Some(News::Changed { address }));
        let long = format!("{changed}:{}", "x".repeat(LONGEST));
        for bad in [
            "",
            "E",
            "C:a:b",
            &format!("E:{account}:{id}"),
            &format!("E:{account}:{id}:Nobody"),
            &format!("E:{account}:{id}:Idle:"),
            &format!("X:{account}:{id}"),
            &format!("{changed}:"),
            &format!("C:{id}:{account}"),
            &long,
        ] {
            assert_eq!(News::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(News::parse(b"C:\xff:\xff"), None);
    }

    #[test]
    fn sets_of_buckets_are_told_apart() {
        let some: Buckets = [0, 63, 64, 255].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [0, 63, 64, 255]);
        assert!(some.contains(64) && !some.contains(65));
        let rest = Buckets::ALL.without(&some);
        assert_eq!(rest.iter().count(), 252);
        assert_eq!(rest.with(&some), Buckets::ALL);
        assert!(some.without(&some).is_empty());
    }

    #[test]
    fn a_machine_that_slept_is_noticed() {
        let mut moment = Moment::now();
        assert!(moment.elapsed() < BEAT_LIMIT);
        moment.wall = moment.wall.minus(BEAT_LIMIT);
        assert!(moment.elapsed() >= BEAT_LIMIT);
    }
}
