//! What this node hears of sign-ins that ended, here or elsewhere: requests that run lose them at once, and the hooks for every
//! node are told, once.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::inner::{Cache, Inner};
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::events;
use crate::hooks::EvictionNotice;
use crate::id::Address;
use crate::store::StoreListener;

/// How many sign-ins a node remembers to have told of, the latest.
const MOST_TOLD: usize = 65_536;

/// For how long. An announcement comes within a second or is missed. What has not ended after all, such as an entry that this node could not
/// read, or what somebody has made up, must not keep the hooks from hearing of the end when it comes.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// How many notices are with the hooks at a time. Beyond, hooks are not told.
const MOST_UNDER_WAY: usize = 16_384;

/// Which sign-ins the hooks for every node were told of, and how many notices are with them.
#[derive(Debug, Default)]
pub(super) struct Told {
    latest: Mutex<Latest>,
    under_way: AtomicUsize,
}

#[derive(Debug, Default)]
struct Latest {
    known: HashSet<Address>,
    /// The oldest first.
    order: VecDeque<(Address, Timestamp)>,
}

/// Whether the hooks are to be told.
#[derive(Debug, PartialEq, Eq)]
enum Entry {
    /// It counts as under way, and they count as told.
    Entered,
    /// They were told a moment ago.
    Told,
    TooMany,
}

impl Told {
    fn enter(&self, address: Address, now: Timestamp) -> Entry {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |(_, at): &(_, Timestamp)| now.since(*at) >= TOLD_FOR;
        while latest.order.front().is_some_and(is_over) {
            latest.pop();
        }
        if latest.known.contains(&address) {
            return Entry::Told;
        }
        if self.under_way.load(Ordering::SeqCst) >= MOST_UNDER_WAY {
            return Entry::TooMany;
        }
        self.under_way.fetch_add(1, Ordering::SeqCst);
        if latest.order.len() >= MOST_TOLD {
            latest.pop();
        }
        latest.known.insert(address);
        latest.order.push_back((address, now));
        Entry::Entered
    }
}

impl Latest {
    fn pop(&mut self) {
        if let Some((oldest, _)) = self.order.pop_front() {
            self.known.remove(&oldest);
        }
    }
}

/// A notice that is with the hooks.
struct UnderWay(Arc<Inner>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.told.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inner {
    /// A sign-in has ended, as far as this node knows.
    pub(super) fn notice(self: Arc<Self>, address: Address, cause: Cause) {
        if !self.hooks.wants_notices() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return events::notice_dropped("no runtime");
        };
        match self.told.enter(address, self.clock.steady()) {
            Entry::Entered => {}
            Entry::Told => return,
            Entry::TooMany => return events::notice_dropped("too many"),
        }
        let entered = UnderWay(self.clone());
        let notice = EvictionNotice::new(address, cause, self.config.clone());
        let tell = async move {
            let inner = &entered.0;
            inner.hooks.noticed(&inner.tasks, notice).await;
        };
        self.tasks.spawn_on(tell, &runtime);
    }
}

impl StoreListener for Inner {
    /// Hooks hear of it from the flag, if a request holds one, or else from here.
    fn ended(&self, address: &Address, cause: Cause) {
        self.live.end(address, cause);
        if let Some(inner) = self
            .live
            .cache()
            .upgrade()
            .filter(|_| !self.stopped.is_cancelled())
        {
            inner.notice(*address, cause);
        }
    }

    fn changed(&self, address: &Address) {
        self.live.doubt(address);
    }

    fn missed(&self) {
        self.live.doubt_all();
    }
}

impl Cache {
    /// Hears of what other nodes do, from now on and for as long as the cache is there.
    pub(super) fn listen(&self) {
        let inner: Weak<Inner> = Arc::downgrade(&self.0);
        self.0.store.listen(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::super::inner::{CacheParts, NewSignIn, Use};
    use super::super::opened::{Opened, SignIn};
    use super::super::pending::Held;
    use super::*;
    use crate::account::Account;
    use crate::clock::{Clock, ManualClock};
    use crate::config::Config;
    use crate::hooks::Hooks;
    use crate::id::{AccountHash, Locator, SignInId};
    use crate::store::{Generation, MemoryTokenStore, Started, StoreError, StoreErrorKind, Target};
    use crate::token::TokenSet;

    fn somebody() -> Address {
        Address {
            account: AccountHash::of(&[b"ann"]),
            id: SignInId::random(),
        }
    }

    impl Told {
        fn leave(&self) {
            self.under_way.fetch_sub(1, Ordering::SeqCst);
        }

        fn enters(&self, address: Address, now: Timestamp) -> bool {
            let entry = self.enter(address, now);
            if entry == Entry::Entered {
                self.leave();
            }
            entry == Entry::Entered
        }
    }

    #[test]
    fn nobody_is_told_twice_within_a_minute_and_what_is_remembered_is_bounded() {
        let (told, clock) = (Told::default(), ManualClock::new());
        let enters = |address| told.enters(address, clock.steady());
        let first = somebody();
        assert!(enters(first) && !enters(first));
        let made_up = Address {
            account: AccountHash::of(&[b"nobody"]),
            ..first
        };
        assert!(enters(made_up), "an id of somebody else's");
        clock.advance(TOLD_FOR - Duration::from_micros(1));
        assert!(!enters(first));
        clock.advance(Duration::from_micros(1));
        assert!(enters(first) && !enters(first));
        for _ in 0..MOST_TOLD - 1 {
            assert!(enters(somebody()));
        }
        assert!(!enters(first), "the latest are remembered");
        assert!(enters(somebody()));
        let latest = told.latest.lock().unwrap();
        let remembered = (latest.known.len(), latest.order.len());
        assert_eq!(remembered, (MOST_TOLD, MOST_TOLD));
        assert!(!latest.known.contains(&first), "the oldest made room");
    }

    #[test]
    fn who_was_not_told_for_want_of_room_is_told_later() {
        let (told, now) = (Told::default(), Timestamp::from_secs(1));
        for _ in 0..MOST_UNDER_WAY {
            assert_eq!(told.enter(somebody(), now), Entry::Entered);
        }
        let one = somebody();
        assert_eq!(told.enter(one, now), Entry::TooMany);
        told.leave();
        assert_eq!(told.enter(one, now), Entry::Entered);
        assert_eq!(told.enter(one, now), Entry::Told);
    }

    /// A cache that has told its hooks so much.
    struct World {
        cache: Cache,
        clock: Arc<ManualClock>,
        told: Arc<Mutex<Vec<(Address, Cause)>>>,
    }

    impl World {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::new());
            let told = Arc::new(Mutex::new(Vec::new()));
            let mut hooks = Hooks::new();
            let tell = told.clone();
            hooks.on_evict_everywhere(move |notice: EvictionNotice| {
                tell.lock()
                    .unwrap()
                    .push((notice.address(), notice.cause()));
                std::future::ready(())
            });
            let store = MemoryTokenStore::builder().clock(clock.clone());
            let cache = Cache::new(CacheParts {
                store: Arc::new(store.build().unwrap()),
                clock: clock.clone(),
                providers: Vec::new(),
                hooks,
                config: Arc::new(Config::default()),
                sessions: None,
            });
            Self { cache, clock, told }
        }

        async fn signed_in(&self) -> (Locator, SignIn) {
            let new = NewSignIn {
                account: Account::new("https://issuer", "ann"),
                client_id: "client".into(),
                tokens: TokenSet::new(),
                label: None,
                started: Started::default(),
            };
            let locator = self.cache.create(new).await.unwrap();
            let held = std::slice::from_ref(&locator);
            let mut opened = self.cache.open(held, Use::None).await.unwrap();
            match opened.remove(0) {
                Opened::Live(sign_in) => (locator, sign_in),
                other => panic!("{other:?}"),
            }
        }

        /// The store did not answer to a removal.
        fn unanswered(&self, target: Target, cause: Cause) {
            let removal = self.cache.removal(cause, None);
            let error = StoreError::new(StoreErrorKind::Unknown, "away");
            self.cache
                .hold_back(Held::Target(target), removal, "c", &error);
        }

        /// All that was told so far.
        async fn told(&self) -> Vec<(Address, Cause)> {
            while self.cache.0.pending.count() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            self.told.lock().unwrap().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_go_on_is_told_of_when_it_ends_and_not_before_r42_r43() {
        let world = World::new();
        let (locator, held) = world.signed_in().await;
        let address = locator.address;
        // The refresh token of another generation was refused.
        let other = Target::SignInAt(address, Generation::FIRST.next());
        world.unanswered(other, Cause::RefreshRejected);
        assert!(held.has_ended(), "for what runs here");
        assert_eq!(world.told().await, []);
        let target = Target::SignIn(address);
        let order = super::super::evict::Order::new(target, Cause::UserSignOut);
        assert_eq!(world.cache.evict(&[order], "d").await.evictions.len(), 1);
        assert_eq!(world.told().await, [(address, Cause::UserSignOut)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_the_store_is_told_of_once_it_is_done_r42_r43() {
        let world = World::new();
        let (locator, _held) = world.signed_in().await;
        let at = Target::SignInAt(locator.address, Generation::FIRST);
        world.unanswered(at, Cause::RefreshRejected);
        let expected = [(locator.address, Cause::RefreshRejected)];
        assert_eq!(world.told().await, expected);
        // At once, where it cannot go on.
        let (locator, _held) = world.signed_in().await;
        world.unanswered(Target::SignIn(locator.address), Cause::Operator);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert_eq!(world.cache.0.pending.count(), 1);
        assert_eq!(world.told.lock().unwrap().len(), 2);
        assert_eq!(world.told().await.len(), 2, "and not again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_told_of_although_it_was_made_up_a_minute_before_r42_r43() {
        let world = World::new();
        let (locator, _) = world.signed_in().await;
        let address = locator.address;
        world.cache.0.ended(&address, Cause::Operator);
        world.cache.0.ended(&address, Cause::Operator);
        assert_eq!(world.told().await.len(), 1);
        world.clock.advance(TOLD_FOR);
        let order = super::super::evict::Order::new(Target::SignIn(address), Cause::UserSignOut);
        world.cache.evict(&[order], "c").await;
        let told = world.told().await;
        assert_eq!(told[1..], [(address, Cause::UserSignOut)]);
    }
}
