//! What the app wants to be told: when tokens leave the cache, before the user is sent to the provider's logout, when they
//! are back, and what each sign-out came to.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::account::Account;
use crate::cause::Cause;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::Chain;
use crate::events;
use crate::id::{Address, SignInId};
use crate::report::{HookOutcome, HookStatus, SignOutReport};
use crate::store::Removed;
use crate::token::TokenSet;

/// What a hook returns: its error goes to the trace, by `Display`.
pub type HookResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// What a closure given as a hook may return: `()` or a `Result<(), E>`.
pub trait IntoHookResult {
    /// As the one type.
    ///
    /// # Errors
    /// Those of the hook.
    fn into_hook_result(self) -> HookResult;
}

impl IntoHookResult for () {
    fn into_hook_result(self) -> HookResult {
        Ok(())
    }
}

impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> IntoHookResult for Result<(), E> {
    fn into_hook_result(self) -> HookResult {
        self.map_err(Into::into)
    }
}

/// One sign-in's tokens have left the cache. Cheap to clone.
#[derive(Clone)]
pub struct Eviction(Arc<EvictionData>);

struct EvictionData {
    removed: Removed,
    correlation_id: Box<str>,
}

impl Eviction {
    pub(crate) fn new(removed: Removed, correlation_id: &str) -> Self {
        Self(Arc::new(EvictionData {
            removed,
            correlation_id: correlation_id.into(),
        }))
    }

    /// Why.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.0.removed.cause
    }

    /// Whose.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.0.removed.entry.account
    }

    /// Which sign-in.
    #[must_use]
    pub fn sign_in(&self) -> SignInId {
        self.0.removed.address.id
    }

    /// The tokens as they were when they left, for hooks that must revoke or notify. They may be expired, and the crate
    /// may be revoking them at this moment. `Debug` shows none of them.
    #[must_use]
    pub fn tokens(&self) -> &TokenSet {
        &self.0.removed.entry.tokens
    }

    /// How many tokens left: refresh, ID, access and downstream tokens.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tokens().count() + self.0.removed.downstream
    }

    /// What the app [called](crate::AuthBuilder::sign_in_label) the sign-in. It comes from a request, so it is to be escaped where it
    /// is shown, and is personal data.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        self.0.removed.entry.label.as_deref()
    }

    /// When the sign-in was created, by the store's clock.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.0.removed.created
    }

    /// When it was last used, by the store's clock.
    #[must_use]
    pub fn last_used(&self) -> Timestamp {
        self.0.removed.last_used
    }

    /// The same for everything that one sign-out did; also in the traces and the report.
    #[must_use]
    pub fn correlation_id(&self) -> &str {
        &self.0.correlation_id
    }

    pub(crate) fn removed(&self) -> &Removed {
        &self.0.removed
    }
}

impl fmt::Debug for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Eviction")
            .field("cause", &self.cause())
            .field("sign_in", &self.sign_in())
            .field("count", &self.count())
            .field("correlation_id", &self.correlation_id())
            .finish_non_exhaustive()
    }
}

/// Called whenever tokens leave the cache, whatever the cause.
///
/// Hooks run concurrently, each for at most the configured time; one that fails, hangs or panics stops neither the others
/// nor the sign-out.
///
/// It is called once for each sign-in, by the process that evicts it. When it is not called is listed in the
/// [crate's documentation](crate#when-a-hook-is-not-called).
///
/// ```
/// use axum_signout::{Eviction, EvictionHook, HookResult};
///
/// struct Audit;
///
/// impl EvictionHook for Audit {
///     async fn evicted(&self, eviction: &Eviction) -> HookResult {
///         println!("{} {}", eviction.cause(), eviction.account().subject());
///         Ok(())
///     }
/// }
/// ```
pub trait EvictionHook: Send + Sync + 'static {
    /// One sign-in's tokens have left.
    fn evicted(&self, eviction: &Eviction) -> impl Future<Output = HookResult> + Send;
}

/// A sign-in has ended, on this node or another. Cheap to clone.
///
/// It tells no more than every node knows: tokens and account are with the node that evicted it, and its [`Eviction`].
#[derive(Clone)]
pub struct EvictionNotice {
    address: Address,
    cause: Cause,
    config: Arc<Config>,
}

impl EvictionNotice {
    pub(crate) fn new(address: Address, cause: Cause, config: Arc<Config>) -> Self {
        Self {
            address,
            cause,
            config,
        }
    }

    /// Which sign-in: what [`Tokens::sign_in`](crate::Tokens::sign_in) said in a request.
    #[must_use]
    pub fn sign_in(&self) -> SignInId {
        self.address.id
    }

    /// Why.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Whether it is one of this account's, as a request of this app had it: for what is kept by account, not by sign-in. The
    /// account may have others that go on.
    #[must_use]
    pub fn is_of(&self, account: &Account) -> bool {
        account.hash(&self.config.identity) == self.address.account
    }
}

impl fmt::Debug for EvictionNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EvictionNotice")
            .field("sign_in", &self.address.id)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

/// The user is about to be sent to the provider's logout: everything local is done.
#[derive(Clone, Debug)]
pub struct Navigation {
    /// What was done so far.
    pub report: SignOutReport,
    /// The issuer whose logout comes next.
    pub issuer: Arc<str>,
}

/// The user is back from the provider's logout.
#[derive(Clone, Debug)]
pub struct Returned {
    /// The correlation id of the sign-out.
    pub correlation_id: String,
    /// Where the user goes next; empty for the neutral page.
    pub target: String,
    /// What [`EndSessionRequest::state`](crate::EndSessionRequest::state) was given.
    pub state: Option<String>,
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

trait DynHook<E>: Send + Sync {
    fn call(&self, event: E) -> BoxFuture<'static, HookResult>;
}

impl<E, F, Fut> DynHook<E> for F
where
    F: Fn(E) -> Fut + Send + Sync,
    Fut: Future + Send + 'static,
    Fut::Output: IntoHookResult,
{
    fn call(&self, event: E) -> BoxFuture<'static, HookResult> {
        let answer = self(event);
        Box::pin(async move { answer.await.into_hook_result() })
    }
}

struct TraitHook<H>(Arc<H>);

impl<H: EvictionHook> DynHook<Eviction> for TraitHook<H> {
    fn call(&self, eviction: Eviction) -> BoxFuture<'static, HookResult> {
        let hook = self.0.clone();
        Box::pin(async move { hook.evicted(&eviction).await })
    }
}

struct List<E> {
    point: &'static str,
    hooks: Vec<Arc<dyn DynHook<E>>>,
}

impl<E: Clone + Send + 'static> List<E> {
    fn new(point: &'static str) -> Self {
        Self {
            point,
            hooks: Vec::new(),
        }
    }

    fn add<F, Fut>(&mut self, hook: F)
    where
        F: Fn(E) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.hooks.push(Arc::new(hook));
    }
}

/// All hooks of one `Auth`.
pub(crate) struct Hooks {
    evictions: List<Eviction>,
    notices: List<EvictionNotice>,
    navigations: List<Navigation>,
    returns: List<Returned>,
    reports: List<SignOutReport>,
    limit: Duration,
}

impl Hooks {
    pub(crate) fn new() -> Self {
        Self {
            evictions: List::new("evicted"),
            notices: List::new("evicted_everywhere"),
            navigations: List::new("before_navigation"),
            returns: List::new("after_callback"),
            reports: List::new("signed_out"),
            limit: Duration::from_secs(5),
        }
    }

    pub(crate) fn set_limit(&mut self, limit: Duration) {
        self.limit = limit;
    }

    pub(crate) fn on_evict<F, Fut>(&mut self, hook: F)
    where
        F: Fn(Eviction) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.evictions.add(hook);
    }

    pub(crate) fn eviction_hook(&mut self, hook: impl EvictionHook) {
        self.evictions
            .hooks
            .push(Arc::new(TraitHook(Arc::new(hook))));
    }

    pub(crate) fn on_evict_everywhere<F, Fut>(&mut self, hook: F)
    where
        F: Fn(EvictionNotice) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.notices.add(hook);
    }

    pub(crate) fn before_navigation<F, Fut>(&mut self, hook: F)
    where
        F: Fn(Navigation) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.navigations.add(hook);
    }

    pub(crate) fn after_callback<F, Fut>(&mut self, hook: F)
    where
        F: Fn(Returned) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.returns.add(hook);
    }

    pub(crate) fn on_sign_out<F, Fut>(&mut self, hook: F)
    where
        F: Fn(SignOutReport) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.reports.add(hook);
    }

    pub(crate) fn wants_reports(&self) -> bool {
        !self.reports.hooks.is_empty()
    }

    pub(crate) fn wants_notices(&self) -> bool {
        !self.notices.hooks.is_empty()
    }

    pub(crate) async fn noticed(&self, tasks: &TaskTracker, notice: EvictionNotice) {
        self.run(&self.notices, tasks, &[notice]).await;
    }

    pub(crate) async fn evicted(
        &self,
        tasks: &TaskTracker,
        evictions: &[Eviction],
    ) -> Vec<HookOutcome> {
        self.run(&self.evictions, tasks, evictions).await
    }

    pub(crate) async fn navigating(
        &self,
        tasks: &TaskTracker,
        navigation: Navigation,
    ) -> Vec<HookOutcome> {
        self.run(&self.navigations, tasks, &[navigation]).await
    }

    pub(crate) async fn returned(
        &self,
        tasks: &TaskTracker,
        returned: Returned,
    ) -> Vec<HookOutcome> {
        self.run(&self.returns, tasks, &[returned]).await
    }

    pub(crate) async fn signed_out(
        &self,
        tasks: &TaskTracker,
        report: SignOutReport,
    ) -> Vec<HookOutcome> {
        self.run(&self.reports, tasks, &[report]).await
    }

    async fn run<E: Clone + Send + 'static>(
        &self,
        list: &List<E>,
        tasks: &TaskTracker,
        events: &[E],
    ) -> Vec<HookOutcome> {
        let mut running = Vec::with_capacity(list.hooks.len() * events.len());
        for event in events {
            for (index, hook) in list.hooks.iter().enumerate() {
                let (hook, event, limit) = (hook.clone(), event.clone(), self.limit);
                // A task of its own: a panic ends there, and a caller that goes away does not stop the hook.
                let task = tasks.spawn(async move {
                    tokio::time::timeout(limit, async move { hook.call(event).await }).await
                });
                running.push((index, task));
            }
        }
        let mut outcomes = Vec::with_capacity(running.len());
        for (index, task) in running {
            let (status, error) = match task.await {
                Ok(Ok(Ok(()))) => (HookStatus::Done, String::new()),
                Ok(Ok(Err(error))) => (HookStatus::Failed, Chain(&*error).to_string()),
                Ok(Err(_)) => (HookStatus::TimedOut, "it took too long".to_owned()),
                Err(_) => (HookStatus::Panicked, "it panicked".to_owned()),
            };
            if status != HookStatus::Done {
                events::hook_failed(list.point, index, status, &error);
            }
            outcomes.push(HookOutcome {
                point: list.point,
                index,
                status,
            });
        }
        outcomes
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("evictions", &self.evictions.hooks.len())
            .field("notices", &self.notices.hooks.len())
            .field("navigations", &self.navigations.hooks.len())
            .field("returns", &self.returns.hooks.len())
            .field("reports", &self.reports.hooks.len())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn explode() {
        panic!("a hook of a test");
    }

    fn returned() -> Returned {
        Returned {
            correlation_id: "c".into(),
            target: "/".into(),
            state: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hook_that_fails_hangs_or_panics_does_not_stop_the_others() {
        let called = Arc::new(AtomicUsize::new(0));
        let mut hooks = Hooks::new();
        hooks.after_callback(|_| async { Err::<(), _>("no") });
        hooks.after_callback(|_| std::future::pending::<()>());
        hooks.after_callback(|_| async { explode() });
        // A panic before the future exists is one inside the hook all the same.
        hooks.after_callback(|_| {
            explode();
            std::future::ready(())
        });
        let count = called.clone();
        hooks.after_callback(move |_| {
            let count = count.clone();
            async move {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let outcomes = hooks.returned(&TaskTracker::new(), returned()).await;
        let statuses: Vec<_> = outcomes.iter().map(|o| o.status).collect();
        assert_eq!(
            statuses,
            [
                HookStatus::Failed,
                HookStatus::TimedOut,
                HookStatus::Panicked,
                HookStatus::Panicked,
                HookStatus::Done
            ]
        );
        assert_eq!(called.load(Ordering::SeqCst), 1);
    }
}
