//! Putting the parts together.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use axum_extra::extract::cookie::Key;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::cache::{Cache, CacheParts};
use crate::clock::{Clock, SystemClock};
use crate::config::{ClearSiteData, Config, LongUrl, RevocationPolicy};
use crate::cookies::CookieVault;
use crate::core::{BuiltInPages, Core, LabelFn, Pages};
use crate::error::ConfigError;
use crate::hooks::{
    Eviction, EvictionHook, EvictionNotice, Hooks, IntoHookResult, Navigation, Returned,
};
use crate::provider::Provider;
use crate::report::SignOutReport;
use crate::return_url::{Allowlist, BaseUrl, SafeTarget};
use crate::store::{AnySessionStore, MemoryTokenStore, TokenStore};

use super::Auth;

/// Most front-channel logouts that wait for a token store that is away: they come from strangers, too.
const MAX_FRONT_CHANNEL_WAITING: usize = 1024;

/// Most back-channel calls that wait for the provider's keys, each with a token in memory: they come from strangers, too.
const MAX_BACK_CHANNEL_WAITING: usize = 256;

/// Builds an [`Auth`].
#[must_use]
pub struct AuthBuilder {
    providers: Vec<Provider>,
    base_url: String,
    config: Config,
    hooks: Hooks,
    store: Option<Arc<dyn TokenStore>>,
    sessions: Option<AnySessionStore>,
    clock: Option<Arc<dyn Clock>>,
    cookie_key: Option<Zeroizing<Vec<u8>>>,
    after_sign_in: String,
    after_sign_out: Option<String>,
    allowed: Vec<String>,
    pages: Arc<dyn Pages>,
    sign_in_label: Option<LabelFn>,
}

impl AuthBuilder {
    pub(super) fn new(provider: Provider, base_url: String) -> Self {
        Self {
            providers: vec![provider],
            base_url,
            config: Config::default(),
            hooks: Hooks::new(),
            store: None,
            sessions: None,
            clock: None,
            cookie_key: None,
            after_sign_in: "/".into(),
            after_sign_out: None,
            allowed: Vec::new(),
            pages: Arc::new(BuiltInPages),
            sign_in_label: None,
        }
    }

    /// A further provider; its name and its issuer are its alone. Users choose by [`SignInUrl::provider`](crate::SignInUrl::provider).
    pub fn provider(mut self, provider: Provider) -> Self {
        self.providers.push(provider);
        self
    }

    /// Where tokens are kept. Default: [`MemoryTokenStore`], for one node.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// The session store that the app's session layer has. It is asked for one thing: where it was away at a sign-out, so that the session
    /// could not be read, what the session named is evicted once the store is back ([`SessionOutcome::Unread`](crate::SessionOutcome::Unread)).
    /// Default: that of [`TokenStore::session_store`], which [`RedisTokenStore`](crate::store::RedisTokenStore) has, and other stores have not.
    pub fn session_store(mut self, sessions: AnySessionStore) -> Self {
        self.sessions = Some(sessions);
        self
    }

    /// Where the time is read. Default: the operating system. A [`MemoryTokenStore`] of your own has a clock of its own.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// At least 32 random bytes, the same on all nodes, that encrypt what a sign-in or sign-out under way must remember. Default: random for
    /// this process, which is right for one node and ends what is under way at a restart.
    ///
    /// A shorter key is refused by [`build`](Self::build).
    pub fn cookie_key(mut self, key: &[u8]) -> Self {
        self.cookie_key = Some(Zeroizing::new(key.to_vec()));
        self
    }

    /// Where sign-in ends when nothing was wanted before. A path or a URL on the allowlist. Default: `/`, which every app has.
    pub fn after_sign_in(mut self, target: impl Into<String>) -> Self {
        self.after_sign_in = target.into();
        self
    }

    /// Where sign-out ends. A path or a URL on the allowlist. Default: a neutral page of this crate, since an app's start page
    /// often sends the user straight to sign-in again.
    pub fn after_sign_out(mut self, target: impl Into<String>) -> Self {
        self.after_sign_out = Some(target.into());
        self
    }

    /// Lets `return_to` lead elsewhere: to any path of an origin (`https://shop.example.com`), or to one URL. Paths of the app's
    /// own origin are always allowed. Default: nothing else, for an open redirect lends the app's good name to others.
    pub fn allow_return_to(mut self, origin_or_url: impl Into<String>) -> Self {
        self.allowed.push(origin_or_url.into());
        self
    }

    /// Calls a closure for every sign-in whose tokens leave the cache; see [`EvictionHook`].
    pub fn on_evict<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Eviction) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.hooks.on_evict(hook);
        self
    }

    /// Calls a hook for every sign-in whose tokens leave the cache.
    pub fn eviction_hook(mut self, hook: impl EvictionHook) -> Self {
        self.hooks.eviction_hook(hook);
        self
    }

    /// Calls a closure on every node that shares the store, for every sign-in that has ended, whichever node evicted it: to close
    /// the user's WebSockets, or to drop what this process keeps for them. At least once on each node that hears of it, and mostly once; in the
    /// background, each call for the [time limit](Self::hook_timeout) at most; no sign-out waits for it, and [`Auth::shutdown`] does. Where tokens have
    /// to be seen, or something is to be done once in all, it is [`on_evict`](Self::on_evict).
    ///
    /// With a store in Redis it comes within milliseconds, by the announcement of the node that evicted it; with one of
    /// this process it is told of this node's evictions. What it may miss, and when it comes twice, is listed in the
    /// [crate's documentation](crate#when-a-hook-is-not-called): a handler that waits for
    /// [`Account::ended`](crate::Account::ended) finds out by itself what was missed. It believes whoever may publish in Redis.
    ///
    /// A node remembers for a minute which sign-ins it told of, the latest 65,536, not to tell of them twice, and has up to 16,384 calls under
    /// way at a time; beyond, the closure is not called, which is traced and counted.
    ///
    /// # Example
    ///
    /// A handler keeps what is to be stopped *first*, and then looks whether the sign-in has ended meanwhile: what ended before it was kept,
    /// the hook has not found.
    ///
    /// ```
    /// # use axum_signout::{Account, AuthBuilder, SignInId, Tokens};
    /// use std::collections::HashMap;
    /// use std::sync::{Arc, Mutex};
    ///
    /// use futures_util::FutureExt as _;
    /// use tokio_util::sync::CancellationToken;
    ///
    /// /// What this node's WebSockets stop at, by `Tokens::sign_in`; each takes its own out when it closes.
    /// type Sockets = Arc<Mutex<HashMap<SignInId, CancellationToken>>>;
    ///
    /// fn closing(builder: AuthBuilder, sockets: Sockets) -> AuthBuilder {
    ///     builder.on_evict_everywhere(move |notice| {
    ///         if let Some(stop) = sockets.lock().unwrap().remove(&notice.sign_in()) {
    ///             stop.cancel();
    ///         }
    ///         std::future::ready(())
    ///     })
    /// }
    ///
    /// /// For a WebSocket that is about to be served.
    /// fn opened(sockets: &Sockets, account: &Account, tokens: &Tokens) -> CancellationToken {
    ///     let mut all = sockets.lock().unwrap();
    ///     let stop = all.entry(tokens.sign_in()).or_default().clone();
    ///     drop(all);
    ///     if account.ended().now_or_never().is_some() {
    ///         stop.cancel();
    ///     }
    ///     stop
    /// }
    /// ```
    pub fn on_evict_everywhere<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(EvictionNotice) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.hooks.on_evict_everywhere(hook);
        self
    }

    /// Calls a closure when a user is about to be sent to the provider's logout: all local work is done, and the way there is
    /// held up for no longer than the [time limit](Self::hook_timeout). It cannot keep the user here; that can
    /// [`EndSessionRequest::before_navigation`](crate::EndSessionRequest::before_navigation).
    ///
    /// Called once for each sign-out that goes to a provider: not for the next one where there are several, nor when
    /// an interrupted sign-out is taken up again.
    pub fn before_navigation<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Navigation) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.hooks.before_navigation(hook);
        self
    }

    /// Calls a closure when a user is back from the provider's logout, with the right `state`. Not called when the user never
    /// comes back, or later than the [time-out](Self::sign_out_timeout). How it ended is traced; the sign-out's report is
    /// written by then.
    pub fn after_callback<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Returned) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.hooks.after_callback(hook);
        self
    }

    /// Calls a closure with the [`SignOutReport`] of every sign-out, whatever its cause: by the user, an operator or the
    /// provider, when a lifetime is over, or because the sign-in had to leave. It is called last, when the eviction hooks have
    /// ended, in the background: nobody waits for it, and [`Auth::shutdown`] does.
    ///
    /// What a store that was away confirms later is reported once more then, under the same correlation id. A sign-out that found
    /// nothing to do is not reported.
    ///
    /// ```
    /// # fn audited(builder: axum_signout::AuthBuilder) -> axum_signout::AuthBuilder {
    /// builder.on_sign_out(|report| async move {
    ///     println!("{} {}: {} sign-ins", report.correlation_id, report.cause, report.evicted.len());
    /// })
    /// # }
    /// ```
    pub fn on_sign_out<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(SignOutReport) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: IntoHookResult,
    {
        self.hooks.on_sign_out(hook);
        self
    }

    /// How long one call of a hook may take. Default: 5 s, which is about as long as a person waits.
    pub fn hook_timeout(mut self, limit: Duration) -> Self {
        self.hooks.set_limit(limit);
        self
    }

    /// How long a sign-in lives without being used, from a second to a year (ASVS 7.3). Default: 2 h: a
    /// long meeting is shorter, a night is longer.
    pub fn idle_lifetime(mut self, lifetime: Duration) -> Self {
        self.config.lifetimes.idle = lifetime;
        self
    }

    /// How long a sign-in lives at most, used or not, from a second to a year (ASVS 7.3). Default: 72 h, so that a page that
    /// polls does not stay signed in for ever.
    pub fn absolute_lifetime(mut self, lifetime: Duration) -> Self {
        self.config.lifetimes.absolute = lifetime;
        self
    }

    /// How often the store is asked for sign-ins whose idle or absolute time is up, from a second to a year: so long after the
    /// end their hooks are called at the latest, and later by what hooks take where more than 256 end at once. Whom nobody asks
    /// about is not served meanwhile: requests, the status and [`Account::ended`](crate::Account::ended) go by the exact time.
    /// Default: 15 s, which costs next to nothing.
    pub fn sweep_every(mut self, pause: Duration) -> Self {
        self.config.sweep_every = pause;
        self
    }

    /// How often the store is measured, from a second to a year: how many sign-ins there are, how many tokens wait to be revoked, how
    /// long it takes to answer. The gauges are listed in the module [`runbook`](crate::runbook). Default: never, for it is
    /// not free: with Redis it is 1,536 short commands in six round trips and a few more, so a minute is a good pause, and the memory store
    /// looks at each of its 256 buckets. What it says of a store that nodes share is the same on each of them: have one of them measure,
    /// or take the greatest, never the sum. What it says of the node itself, such as its connection and its memory tier, takes each.
    #[cfg(feature = "metrics")]
    pub fn measure_every(mut self, pause: impl Into<Option<Duration>>) -> Self {
        self.config.measure_every = pause.into();
        self
    }

    /// How long before its end an access token is no longer handed out but refreshed. Default: 60 s, for clocks that differ and
    /// for the time a request takes.
    pub fn expiry_margin(mut self, margin: Duration) -> Self {
        self.config.expiry_margin = margin;
        self
    }

    /// After which share of an access token's life, from 0.1 to 0.95, the next one is got in the background while requests are served
    /// the present one, so that none has to wait; where the provider says when (`refresh_in`), that counts. `None`: never.
    /// Default: 0.8, late enough to make use of a token, early enough for several attempts.
    ///
    /// A token whose life is not known, since it came with its [end](crate::AccessToken::expires_at) or with nothing, is not
    /// followed ahead of time.
    ///
    /// It is the requests that start it: a sign-in that nobody uses is not refreshed, and has no task or timer. Which of the
    /// tokens that were issued together comes first is spread by the name of the sign-in, over half of the time that is then left.
    ///
    /// ```
    /// # fn settings(builder: axum_signout::AuthBuilder) -> axum_signout::AuthBuilder {
    /// builder.refresh_ahead(0.5)
    /// # }
    /// # fn off(builder: axum_signout::AuthBuilder) -> axum_signout::AuthBuilder {
    /// builder.refresh_ahead(None)
    /// # }
    /// ```
    pub fn refresh_ahead(mut self, share: impl Into<Option<f64>>) -> Self {
        self.config.refresh_ahead = share.into();
        self
    }

    /// How many [tokens of the app itself](Auth::app_tokens) are kept, from 1 to 1,000,000: one for each provider, resource and set of
    /// scopes. Beyond, the one that was asked for least recently leaves. Default: 1,000, since an app calls a handful of APIs.
    pub fn max_app_tokens(mut self, max: usize) -> Self {
        self.config.max_app_tokens = max;
        self
    }

    /// How long a user may take at the provider to sign in, from a second to a year. Default: 1 h, for those who have to reset
    /// a password on the way. What a sign-out everywhere leaves behind to refuse such sign-ins is kept for as long, so a sign-in
    /// that takes longer is refused, that of an app with a [ticket](crate::Ticket) too.
    pub fn sign_in_timeout(mut self, limit: Duration) -> Self {
        self.config.pending_sign_in = limit;
        self
    }

    /// How long an unfinished sign-out is remembered, from a second to a year: until then a return is recognised,
    /// [`SignOut::is_unfinished`](crate::SignOut::is_unfinished) says so, and the next sign-in asks for a fresh login. Default:
    /// 10 min, longer than the provider's pages take, short enough that nobody is asked the next day.
    pub fn sign_out_timeout(mut self, limit: Duration) -> Self {
        self.config.pending_sign_out = limit;
        self
    }

    /// Which claims say who an account is, where apps of several clients share a store. Default: none, which means issuer and
    /// subject. For Entra: `["tid", "oid"]`.
    pub fn account_identity<T: Into<String>>(
        mut self,
        claims: impl IntoIterator<Item = T>,
    ) -> Self {
        self.config.identity = claims.into_iter().map(Into::into).collect();
        self
    }

    /// Which tokens are revoked at the provider when a sign-in ends. Default: [`RevocationPolicy::Always`], since nobody is
    /// left who could use them.
    pub fn revocation(mut self, policy: RevocationPolicy) -> Self {
        self.config.revocation = policy;
        self
    }

    /// Which site data browsers clear at sign-out. Default: [`ClearSiteData::storage`].
    pub fn clear_site_data(mut self, what: ClearSiteData) -> Self {
        self.config.clear_site_data = what;
        self
    }

    /// From which length on the URL of the provider's logout is too long, and what is done then. Default: 4096 bytes, which
    /// common proxies and servers accept, and [`LongUrl::FormPost`].
    pub fn long_url(mut self, length: usize, what: LongUrl) -> Self {
        self.config.max_url = length;
        self.config.long_url = what;
        self
    }

    /// Serves `GET /signout` too, for links. It takes navigations from this origin only. Default: off, for links are followed by
    /// accident and fetched ahead.
    pub fn sign_out_by_get(mut self, on: bool) -> Self {
        self.config.get_sign_out = on;
        self
    }

    /// Sends a person's navigation that needs an account to sign-in, instead of showing a 401 page with a link there. Default:
    /// off, so that nobody finds themselves at the provider unasked.
    ///
    /// So it does where a handler answers with an [`Error`](crate::Error) of [`InteractionRequired`](crate::ErrorKind::InteractionRequired): sign-in then asks for the
    /// scopes, resource and claims that were missing, once in two minutes for the same ones, and three times if only the claims differ. Where that did not help, the user
    /// sees the 401 and is not sent around in circles.
    pub fn redirect_to_sign_in(mut self, on: bool) -> Self {
        self.config.redirect_to_sign_in = on;
        self
    }

    /// Whether responses of signed-in requests get `Cache-Control: no-store` where the handler sets none. Default: on, so that
    /// nothing private is shown by the back button after sign-out.
    pub fn no_store(mut self, on: bool) -> Self {
        self.config.no_store = on;
        self
    }

    /// Whether events name the account's subject beside its hash. Default: off: who used the app when is personal data, which logs
    /// often keep for longer than the app may. The hash, SHA-256 over issuer and subject, is the same in all events of an account;
    /// who knows both can compute it.
    pub fn subjects_in_events(mut self, on: bool) -> Self {
        self.config.accounts_in_plain = on;
        self
    }

    /// Further query parameters that the sign-in route passes on to the provider, such as `domain_hint`. Default: none.
    pub fn sign_in_parameters<T: Into<String>>(
        mut self,
        names: impl IntoIterator<Item = T>,
    ) -> Self {
        self.config.sign_in_parameters = names.into_iter().map(Into::into).collect();
        self
    }

    /// What a user is shown to tell one of [their sign-ins](crate::SignIns) from another, such as browser and address, by the
    /// request that ends the sign-in: its headers, and extensions such as `ConnectInfo`. Kept with the sign-in until it ends.
    /// Default: none, since what it would be made of is personal data, and which of it may be kept is the app's to decide.
    ///
    /// Control characters and those that change the direction of text are left out, and what goes beyond 256 bytes is cut
    /// off. It comes from a request all the same: a page that shows it must escape it, and a user can put into it what they
    /// like. Operators and [eviction hooks](crate::Eviction::label) see it too.
    ///
    /// ```
    /// # use axum_signout::{Auth, ConfigError, Provider};
    /// # fn auth(provider: Provider) -> Result<Auth, ConfigError> {
    /// use std::net::SocketAddr;
    ///
    /// use axum::extract::ConnectInfo;
    /// use axum::http::header::USER_AGENT;
    ///
    /// let auth = Auth::builder(provider, "https://app.example.com")
    ///     .sign_in_label(|request| {
    ///         let browser = request.headers.get(USER_AGENT)?.to_str().ok()?;
    ///         // There with `into_make_service_with_connect_info`.
    ///         let ConnectInfo(from) = request.extensions.get::<ConnectInfo<SocketAddr>>()?;
    ///         Some(format!("{}, {browser}", from.ip()))
    ///     })
    ///     .build()?;
    /// # Ok(auth)
    /// # }
    /// ```
    pub fn sign_in_label(
        mut self,
        label: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.sign_in_label = Some(Box::new(label));
        self
    }

    /// The paths of sign-in and its callback. Default: `/signin` and `/signin/callback`. An app with a sign-in of its own sets its
    /// own, so that the links of 401 pages lead there.
    pub fn sign_in_paths(mut self, start: impl Into<String>, callback: impl Into<String>) -> Self {
        self.config.paths.sign_in = start.into();
        self.config.paths.sign_in_callback = callback.into();
        self
    }

    /// The paths of sign-out and its callback. Default: `/signout` and `/signout/callback`.
    pub fn sign_out_paths(mut self, start: impl Into<String>, callback: impl Into<String>) -> Self {
        self.config.paths.sign_out = start.into();
        self.config.paths.sign_out_callback = callback.into();
        self
    }

    /// The path that goes on with an interrupted sign-out. Default: `/signout/resume`.
    pub fn sign_out_resume_path(mut self, path: impl Into<String>) -> Self {
        self.config.paths.sign_out_resume = path.into();
        self
    }

    /// The path of front-channel logout, for the provider's page to load. Default: `/signout/frontchannel`.
    pub fn front_channel_path(mut self, path: impl Into<String>) -> Self {
        self.config.paths.front_channel = path.into();
        self
    }

    /// Takes a front-channel logout that says `sid` without `iss`, as Entra's do, which OpenID Connect Front-Channel Logout
    /// section 2 does not foresee. Only with a single provider, for else nobody could tell whose `sid` it is. Default: off.
    pub fn front_channel_sid_without_issuer(mut self, on: bool) -> Self {
        self.config.sid_without_issuer = on;
        self
    }

    /// The path that tells scripts how long the user stays signed in, and prolongs that; see [`Auth::status_url`]. Default:
    /// `/signout/status`.
    pub fn status_path(mut self, path: impl Into<String>) -> Self {
        self.config.paths.status = path.into();
        self
    }

    /// How long before its end the [status](Auth::status_url) tells a page to warn the user. Default: 60 s, which is time to read and to
    /// decide. Zero: never.
    pub fn warn_before(mut self, before: Duration) -> Self {
        self.config.warn_before = before;
        self
    }

    /// The path that the provider posts logout tokens to (Back-Channel Logout section 2.5). Default: `/signout/backchannel`.
    pub fn back_channel_path(mut self, path: impl Into<String>) -> Self {
        self.config.paths.back_channel = path.into();
        self
    }

    /// The app's own pages, in place of those that the crate brings.
    pub fn pages(mut self, pages: impl Pages) -> Self {
        self.pages = Arc::new(pages);
        self
    }

    /// Checks the configuration and puts everything together. No I/O.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] names the bad value.
    pub fn build(self) -> Result<Auth, ConfigError> {
        let Self {
            providers, config, ..
        } = self;
        let base = BaseUrl::parse(&self.base_url)?;
        let allowed = Allowlist::new(&base, &self.allowed)?;
        check_paths(&config)?;
        check_durations(&config)?;
        if let Some(share) = config.refresh_ahead.filter(|s| !(0.1..=0.95).contains(s)) {
            return Err(ConfigError::OutOfRange {
                what: "refresh_ahead",
                value: share.to_string(),
                allowed: "0.1 to 0.95",
            });
        }
        if !(1..=1_000_000).contains(&config.max_app_tokens) {
            return Err(ConfigError::OutOfRange {
                what: "max_app_tokens",
                value: config.max_app_tokens.to_string(),
                allowed: "1 to 1,000,000",
            });
        }
        let csrf = crate::csrf::layer(&base)?;
        let cookie_key = match &self.cookie_key {
            None => Key::generate(),
            Some(secret) => CookieVault::derive_key(secret)?,
        };
        for (at, provider) in providers.iter().enumerate() {
            let earlier = &providers[..at];
            if earlier.iter().any(|p| p.name() == provider.name()) {
                return Err(ConfigError::Duplicate {
                    what: "provider name",
                    value: provider.name().into(),
                });
            }
            if earlier.iter().any(|p| p.issuer() == provider.issuer()) {
                return Err(ConfigError::Duplicate {
                    what: "provider issuer",
                    value: provider.issuer().into(),
                });
            }
        }
        if config.sid_without_issuer && providers.len() > 1 {
            return Err(ConfigError::OutOfRange {
                what: "front_channel_sid_without_issuer",
                value: format!("{} providers", providers.len()),
                allowed: "a single provider",
            });
        }
        let target = |what, value: &str| SafeTarget::from_config(what, value, &allowed);
        let after_sign_in = target("after_sign_in", &self.after_sign_in)?;
        let after_sign_out = self
            .after_sign_out
            .as_deref()
            .map(|value| target("after_sign_out", value))
            .transpose()?;
        let clock = self
            .clock
            .unwrap_or_else(|| Arc::new(SystemClock::new()) as Arc<dyn Clock>);
        for provider in &providers {
            provider.adopt_clock(&clock);
        }
        let store = match self.store {
            Some(store) => store,
            None => Arc::new(MemoryTokenStore::builder().clock(clock.clone()).build()?),
        };
        let config = Arc::new(config);
        let vault = CookieVault::new(cookie_key, base.is_secure());
        let cache = Cache::new(CacheParts {
            store,
            sessions: self.sessions,
            clock,
            providers,
            hooks: self.hooks,
            config: config.clone(),
        });
        Ok(Auth(Arc::new(Core {
            cache,
            config,
            base,
            allowed,
            vault,
            csrf,
            after_sign_in,
            after_sign_out,
            pages: self.pages,
            sign_in_label: self.sign_in_label,
            front_channel_waiting: Arc::new(Semaphore::new(MAX_FRONT_CHANNEL_WAITING)),
            back_channel_waiting: Semaphore::new(MAX_BACK_CHANNEL_WAITING),
        })))
    }
}

fn check_paths(config: &Config) -> Result<(), ConfigError> {
    let all = config.paths.all();
    for (at, (what, path)) in all.iter().enumerate() {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
        let is_path = path.starts_with('/') && !path.contains("//") && path.chars().all(plain);
        if !is_path {
            return Err(ConfigError::InvalidPath {
                what,
                value: (*path).clone(),
            });
        }
        if all[..at].iter().any(|(_, other)| other == path) {
            return Err(ConfigError::Duplicate {
                what,
                value: (*path).clone(),
            });
        }
    }
    Ok(())
}

fn check_durations(config: &Config) -> Result<(), ConfigError> {
    const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let all = [
        ("idle_lifetime", config.lifetimes.idle),
        ("absolute_lifetime", config.lifetimes.absolute),
        ("sign_in_timeout", config.pending_sign_in),
        ("sign_out_timeout", config.pending_sign_out),
        ("sweep_every", config.sweep_every),
    ];
    #[cfg(feature = "metrics")]
    let all = all
        .into_iter()
        .chain(config.measure_every.map(|pause| ("measure_every", pause)));
    for (what, value) in all {
        if value < Duration::from_secs(1) || value > YEAR {
            return Err(ConfigError::OutOfRange {
                what,
                value: format!("{value:?}"),
                allowed: "one second to a year",
            });
        }
    }
    Ok(())
}

impl fmt::Debug for AuthBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthBuilder")
            .field("providers", &self.providers)
            .field("base_url", &self.base_url)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
