//! Taking out what a logout from outside means: the sign-ins of a selector, wherever they are.

use super::evict::{Evicted, Order};
use super::inner::Cache;
use super::pending::Held;
use crate::cause::Cause;
use crate::id::{Address, Selector};
use crate::store::{Removal, StoreError, StoreErrorKind, Target};

/// How many members are removed at the same time.
const AT_ONCE: usize = 64;

impl Cache {
    /// Closes a selector and evicts its members. When this returns, no `acquire` on this node that begins later gets any of
    /// their tokens, whether the store answered or not; what it did not confirm, closing or removal, is pending and
    /// retried. To be called from a task that is not stopped halfway; hooks are the caller's next step
    /// ([`tell`](Self::tell)).
    pub(crate) async fn evict_selected(
        &self,
        selector: &Selector,
        cause: Cause,
        logout_iat: Option<i64>,
        correlation_id: &str,
    ) -> Evicted {
        let removal = self.removal(cause, logout_iat);
        match self.close(selector, &removal, correlation_id).await {
            Ok(evicted) => evicted,
            Err(error) => {
                let held = Held::Closing(*selector);
                let mut evicted = Evicted::default();
                evicted.pending(self.hold_back(held, removal, correlation_id, &error));
                evicted
            }
        }
    }

    /// The same, but for a closing that fails. Once it is done, every member is evicted or pending by itself.
    pub(super) async fn close(
        &self,
        selector: &Selector,
        removal: &Removal,
        correlation_id: &str,
    ) -> Result<Evicted, StoreError> {
        let members = self.0.store.close(selector, removal).await?;
        // Whom another eviction has just removed is no member any more, and requests here may hold it for a while still.
        self.0.live.doubt_selected(selector);
        let mut evicted = Evicted::default();
        for some in members.chunks(AT_ONCE) {
            if evicted.pending == 0 {
                // In a box: the whole would be too large for the allocator's fast path (1032 bytes).
                let removed = Box::pin(self.evict_members(some, removal, correlation_id));
                evicted.add(removed.await);
                continue;
            }
            // A store that hangs costs one long wait, not one for each chunk: the rest is left to the retries.
            let error = StoreError::new(StoreErrorKind::Unavailable, "the token store just failed");
            for member in some {
                let held = Held::Target(Target::SignIn(*member));
                evicted.pending(self.hold_back(held, *removal, correlation_id, &error));
            }
        }
        Ok(evicted)
    }

    async fn evict_members(
        &self,
        members: &[Address],
        removal: &Removal,
        correlation_id: &str,
    ) -> Evicted {
        let orders: Vec<Order> = members
            .iter()
            .map(|member| Order {
                target: Target::SignIn(*member),
                cause: removal.cause,
                logout_iat: removal.logout_iat,
            })
            .collect();
        self.evict(&orders, correlation_id).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::account::Account;
    use crate::cache::inner::SignInError;
    use crate::cache::{CacheParts, NewSignIn, Opened, SignIn, Use};
    use crate::clock::{SystemClock, Timestamp};
    use crate::config::Config;
    use crate::error::ErrorKind;
    use crate::hooks::Hooks;
    use crate::id::*;
    use crate::store::*;
    use crate::token::{AccessToken, TokenSet};

    /// A memory store of which closing, or removing, is away.
    #[derive(Debug)]
    struct Away {
        inner: MemoryTokenStore,
        close: AtomicUsize,
        remove: AtomicUsize,
        removals: AtomicUsize,
        gets: AtomicUsize,
    }

    impl Away {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                inner: MemoryTokenStore::new(),
                close: AtomicUsize::new(0),
                remove: AtomicUsize::new(0),
                removals: AtomicUsize::new(0),
                gets: AtomicUsize::new(0),
            })
        }

        fn meet(&self, operation: &str) -> Result<()> {
            let left = match operation {
                "close" => &self.close,
                "remove" => {
                    self.removals.fetch_add(1, Ordering::SeqCst);
                    &self.remove
                }
                "get" => {
                    self.gets.fetch_add(1, Ordering::SeqCst);
                    return Ok(());
                }
                _ => return Ok(()),
            };
            let less = |left: usize| left.checked_sub(1);
            match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less) {
                Ok(_) => Err(StoreError::new(StoreErrorKind::Unavailable, "away")),
                Err(_) => Ok(()),
            }
        }
    }

    macro_rules! away {
        ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {
            #[async_trait]
            impl TokenStore for Away {
                fn is_shared(&self) -> bool {
                    false
                }

                async fn load(&self, locators: &[Locator]) -> Result<Vec<Lookup>> {
                    self.inner.load(locators).await
                }

                $(async fn $name(&self, $($arg: $type),*) -> Result<$answer> {
                    self.meet(stringify!($name))?;
                    self.inner.$name($($arg),*).await
                })*
            }
        };
    }
    operations!(away);

    fn sid() -> Selector {
        Selector::sid("https://issuer", "client", "s1")
    }

    fn cache(store: &Arc<Away>) -> Cache {
        Cache::new(CacheParts {
            store: store.clone(),
            sessions: None,
            clock: Arc::new(SystemClock::new()),
            providers: Vec::new(),
            hooks: Hooks::new(),
            config: Arc::new(Config::default()),
        })
    }

    async fn create(cache: &Cache, subject: &str, sid: &str) -> Locator {
        try_create(cache, subject, sid).await.unwrap()
    }

    async fn try_create(
        cache: &Cache,
        subject: &str,
        sid: &str,
    ) -> std::result::Result<Locator, SignInError> {
        let new = NewSignIn {
            account: Account::new("https://issuer", subject).with_sid(sid),
            client_id: "client".into(),
            tokens: TokenSet::new().with_access_token(AccessToken::bearer("access")),
            label: None,
            started: Started::default(),
        };
        cache.create(new).await
    }

    async fn open(cache: &Cache, locator: &Locator) -> std::result::Result<SignIn, Option<Cause>> {
        let mut opened = cache
            .open(std::slice::from_ref(locator), Use::Noted)
            .await
            .unwrap();
        match opened.remove(0) {
            Opened::Live(sign_in) => Ok(sign_in),
            Opened::Moved => unreachable!("nothing gives new keys here"),
            Opened::Dead(cause) => Err(cause),
        }
    }

    async fn end(cache: &Cache) -> Evicted {
        let cause = Cause::BackChannel;
        cache.evict_selected(&sid(), cause, None, "c").await
    }

    #[tokio::test]
    async fn a_selector_takes_all_that_carry_it_and_no_other_r23_a8() {
        let cache = cache(&Away::new());
        let mut held = Vec::new();
        for subject in 0..(AT_ONCE + 5) {
            held.push(create(&cache, &subject.to_string(), "s1").await);
        }
        let other = create(&cache, "0", "s2").await;
        let running = open(&cache, &held[0]).await.unwrap();
        let evicted = end(&cache).await;
        assert_eq!((evicted.evictions.len(), evicted.pending), (AT_ONCE + 5, 0));
        for locator in &held {
            let cause = open(&cache, locator).await.unwrap_err();
            assert_eq!(cause, Some(Cause::BackChannel));
        }
        let error = running.acquire(&[], None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotSignedIn);
        assert!(open(&cache, &other).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_at_a_closing_leaves_no_tokens_for_good_a5() {
        let store = Away::new();
        let cache = cache(&store);
        let held = create(&cache, "ann", "s1").await;
        let other = create(&cache, "ann", "s2").await;
        let running = open(&cache, &held).await.unwrap();
        store.close.store(3, Ordering::SeqCst);
        let evicted = end(&cache).await;
        assert_eq!((evicted.evictions.len(), evicted.pending), (0, 1));
        // At once, on this node: for what runs, for what comes, and for what cannot be told apart from those before.
        assert!(running.acquire(&[], None).await.is_err());
        assert_eq!(running.ended().await, Cause::BackChannel);
        let cause = open(&cache, &held).await.unwrap_err();
        assert_eq!(cause, Some(Cause::BackChannel));
        assert!(try_create(&cache, "ann", "s1").await.is_err());
        assert!(open(&cache, &other).await.is_ok());
        let listed = cache.list(&held.address.account).await.unwrap();
        let listed: Vec<Address> = listed.iter().map(|one| one.address).collect();
        assert_eq!(listed, [other.address]);
        assert_eq!(cache.0.pending.count(), 1);
        // The clock of the test moves on by itself as soon as nothing else is left to do.
        while cache.0.pending.count() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(store.inner.stats().await.unwrap().sign_ins, 1);
        // And nobody is locked out: the next sign-in is accepted.
        let mut new = create(&cache, "ann", "s1").await;
        assert!(open(&cache, &new).await.is_ok());
        new.address.id = SignInId::random();
        assert!(open(&cache, &new).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_between_closing_and_removal_is_asked_again_a5() {
        let store = Away::new();
        let cache = cache(&store);
        let mut held = Vec::new();
        for subject in 0..(2 * AT_ONCE) {
            held.push(create(&cache, &subject.to_string(), "s1").await);
        }
        store.remove.store(1, Ordering::SeqCst);
        let evicted = end(&cache).await;
        // One failed; the rest of its chunk was done, and those after it were not asked for.
        let done = (evicted.evictions.len(), evicted.pending);
        assert_eq!(done, (AT_ONCE - 1, AT_ONCE + 1));
        assert_eq!(store.removals.load(Ordering::SeqCst), AT_ONCE);
        for locator in &held {
            assert!(open(&cache, locator).await.is_err());
        }
        while cache.0.pending.count() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(store.inner.stats().await.unwrap().sign_ins, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_closing_that_is_still_pending_is_told_at_shutdown() {
        let store = Away::new();
        let cache = cache(&store);
        create(&cache, "ann", "s1").await;
        store.close.store(usize::MAX, Ordering::SeqCst);
        end(&cache).await;
        let report = cache.shutdown(Duration::from_secs(5)).await;
        assert_eq!(report.pending, 1);
    }

    #[tokio::test]
    async fn a_sign_in_that_another_node_removed_first_ends_here_too_a6() {
        let store = Away::new();
        let (here, there) = (cache(&store), cache(&store));
        let held = create(&here, "ann", "s1").await;
        let running = open(&here, &held).await.unwrap();
        // The other node removes what it was told of, while this one has the same list.
        let members = store.members(&sid()).await.unwrap();
        end(&there).await;
        let removal = here.removal(Cause::BackChannel, None);
        let evicted = here.evict_members(&members, &removal, "c").await;
        assert!(evicted.evictions.is_empty());
        assert!(running.acquire(&[], None).await.is_err());
    }

    async fn has_token(sign_in: &SignIn) -> bool {
        match sign_in.acquire(&[], None).await {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotSignedIn);
                false
            }
        }
    }

    #[tokio::test]
    async fn an_account_that_another_node_removed_first_ends_here_too_a6() {
        let store = Away::new();
        let (here, there) = (cache(&store), cache(&store));
        for but_one in [false, true] {
            let held = create(&here, "ann", "s1").await;
            let stays = create(&here, "ann", "s2").await;
            let other = create(&here, "bob", "s1").await;
            let mut running = Vec::new();
            for locator in [&held, &stays, &other] {
                running.push(open(&here, locator).await.unwrap());
            }
            let account = held.address.account;
            let target = match but_one {
                true => Target::AccountExcept(account, stays.address.id),
                false => Target::Account(account),
            };
            let order = [Order::new(target, Cause::Operator)];
            assert!(!there.evict(&order, "there").await.is_empty());
            // What that removal does not tell this node, the next one does.
            assert!(has_token(&running[0]).await);
            assert!(here.evict(&order, "here").await.is_empty());
            assert!(!has_token(&running[0]).await);
            assert_eq!(running[0].cause(), Some(Cause::Operator));
            assert_eq!(has_token(&running[1]).await, but_one);
            assert!(has_token(&running[2]).await);
        }
    }

    #[tokio::test]
    async fn members_that_another_node_removed_first_end_here_too_a6_a8() {
        let store = Away::new();
        let (here, there) = (cache(&store), cache(&store));
        let held = create(&here, "ann", "s1").await;
        let other = create(&here, "ann", "s2").await;
        let running = open(&here, &held).await.unwrap();
        let beside = open(&here, &other).await.unwrap();
        end(&there).await;
        assert!(has_token(&running).await);
        assert!(end(&here).await.is_empty());
        assert!(!has_token(&running).await);
        assert!(has_token(&beside).await);
    }

    #[tokio::test]
    async fn what_came_since_is_asked_for_once_and_stays_a6() {
        let store = Away::new();
        let cache = cache(&store);
        let held = create(&cache, "ann", "s1").await;
        let running = open(&cache, &held).await.unwrap();
        let gets = || store.gets.load(Ordering::SeqCst);
        cache.0.live.doubt_account(&held.address.account, None);
        assert!(has_token(&running).await && has_token(&running).await);
        assert_eq!(gets(), 1);
        cache.0.live.doubt_selected(&sid());
        assert!(has_token(&running).await && has_token(&running).await);
        assert_eq!(gets(), 2);
        // What another node changed, and what may have been missed.
        cache.0.changed(&held.address);
        assert!(has_token(&running).await && has_token(&running).await);
        assert_eq!(gets(), 3);
        cache.0.missed();
        assert!(has_token(&running).await && has_token(&running).await);
        assert_eq!(gets(), 4);
        let mut other = held.address;
        other.account = AccountHash::of(&[b"bob"]);
        cache.0.changed(&other);
        cache.0.ended(&other, Cause::Operator);
        assert!(has_token(&running).await);
        assert_eq!(gets(), 4);
        cache.0.ended(&held.address, Cause::BackChannel);
        assert!(!has_token(&running).await);
        assert_eq!(running.cause(), Some(Cause::BackChannel));
    }
}
