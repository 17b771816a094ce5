//! The settings of one `Auth`, with their defaults.

use std::time::Duration;

use crate::store::Lifetimes;

/// Which site data the browser is asked to clear at sign-out, in a `Clear-Site-Data` header.
///
/// The default is `storage` only: `cookies` would clear the cookies of sibling apps on the same domain and those set in
/// the same response; `cache` can hold up the response for seconds in some browsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ClearSiteData {
    storage: bool,
    cache: bool,
    cookies: bool,
    execution_contexts: bool,
}

impl ClearSiteData {
    /// Sends no such header.
    pub fn nothing() -> Self {
        Self {
            storage: false,
            cache: false,
            cookies: false,
            execution_contexts: false,
        }
    }

    /// `localStorage`, `sessionStorage`, IndexedDB, service workers.
    pub fn storage() -> Self {
        Self {
            storage: true,
            ..Self::nothing()
        }
    }

    /// The HTTP cache as well.
    pub fn and_cache(mut self) -> Self {
        self.cache = true;
        self
    }

    /// All cookies of the registrable domain as well.
    pub fn and_cookies(mut self) -> Self {
        self.cookies = true;
        self
    }

    /// Reloads the other tabs of the origin, where the browser supports it.
    pub fn and_execution_contexts(mut self) -> Self {
        self.execution_contexts = true;
        self
    }

    pub(crate) fn header(self) -> Option<String> {
        let parts: Vec<&str> = [
            (self.storage, "\"storage\""),
            (self.cache, "\"cache\""),
            (self.cookies, "\"cookies\""),
            (self.execution_contexts, "\"executionContexts\""),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// Which tokens are revoked at the provider (RFC 7009) when a sign-in ends. The refresh token goes first, then the access
/// tokens, in the background, for a day at most if the provider is away.
///
/// What a revoked token takes along is the provider's to say (RFC 7009 section 2.1): usually all tokens of the same grant, at some
/// providers the user's consent as well, so that the next sign-in asks for it again.
///
/// A token [of the app itself](crate::AppTokens) that the app evicts is revoked by any of these but [`Never`](Self::Never).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RevocationPolicy {
    /// Refresh and access tokens of every sign-in that is signed out. The default: nobody is left who could use them.
    ///
    /// * Of a sign-in that ends by itself ([`Idle`](crate::Cause::Idle), [`Absolute`](crate::Cause::Absolute),
    ///   [`Capacity`](crate::Cause::Capacity), [`SessionEnded`](crate::Cause::SessionEnded),
    ///   [`RefreshRejected`](crate::Cause::RefreshRejected)) only if the account has no other: several may hang on one grant,
    ///   which ends with the first token of it that is revoked.
    /// * Never of one that is [`Replaced`](crate::Cause::Replaced), since the new one may have the same grant, nor by
    ///   [`FrontChannel`](crate::Cause::FrontChannel), which anyone can send.
    /// * By [`BackChannel`](crate::Cause::BackChannel) not with `offline_access` (Back-Channel Logout section 2.7).
    Always,
    /// Those of a sign-in that is signed out, but not with `offline_access`, and none of one that ends by itself.
    UnlessOffline,
    /// None: refresh tokens stay valid at the provider until it ends them.
    Never,
}

/// What to do with a sign-out whose URL is too long for servers on the way (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LongUrl {
    /// Send the parameters in a form that submits itself. The default.
    FormPost,
    /// Leave the `id_token_hint` out and send `client_id`.
    DropHint,
}

/// The paths that [`routes`](crate::Auth::routes) serves, without the mount prefix.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    pub(crate) sign_in: String,
    pub(crate) sign_in_callback: String,
    pub(crate) sign_out: String,
    pub(crate) sign_out_callback: String,
    pub(crate) sign_out_resume: String,
    pub(crate) front_channel: String,
    pub(crate) status: String,
    pub(crate) back_channel: String,
}

impl Paths {
    /// Each with the setting that it comes from.
    pub(crate) fn all(&self) -> [(&'static str, &String); 8] {
        [
            ("sign_in_paths", &self.sign_in),
            ("sign_in_paths", &self.sign_in_callback),
            ("sign_out_paths", &self.sign_out),
            ("sign_out_paths", &self.sign_out_callback),
            ("sign_out_resume_path", &self.sign_out_resume),
            ("status_path", &self.status),
            ("front_channel_path", &self.front_channel),
            ("back_channel_path", &self.back_channel),
        ]
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            sign_in: "/signin".into(),
            sign_in_callback: "/signin/callback".into(),
            sign_out: "/signout".into(),
            sign_out_callback: "/signout/callback".into(),
            sign_out_resume: "/signout/resume".into(),
            front_channel: "/signout/frontchannel".into(),
            status: "/signout/status".into(),
            back_channel: "/signout/backchannel".into(),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) paths: Paths,
    pub(crate) lifetimes: Lifetimes,
    /// An access token that ends within this is not handed out.
    pub(crate) expiry_margin: Duration,
    /// After which share of an access token's life the next one is got in the background.
    pub(crate) refresh_ahead: Option<f64>,
    pub(crate) pending_sign_in: Duration,
    pub(crate) pending_sign_out: Duration,
    pub(crate) identity: Vec<String>,
    pub(crate) revocation: RevocationPolicy,
    pub(crate) clear_site_data: ClearSiteData,
    pub(crate) long_url: LongUrl,
    pub(crate) max_url: usize,
    pub(crate) get_sign_out: bool,
    /// Whether a front-channel logout may leave out the issuer.
    pub(crate) sid_without_issuer: bool,
    pub(crate) redirect_to_sign_in: bool,
    pub(crate) no_store: bool,
    pub(crate) accounts_in_plain: bool,
    pub(crate) sign_in_parameters: Vec<String>,
    /// How long a sign-out waits for the provider's metadata, when all that is local is done.
    pub(crate) metadata_wait: Duration,
    pub(crate) sweep_every: Duration,
    #[cfg(feature = "metrics")]
    pub(crate) measure_every: Option<Duration>,
    /// How long before its end a page should warn.
    pub(crate) warn_before: Duration,
    /// Most tokens of the app itself that are kept.
    pub(crate) max_app_tokens: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            paths: Paths::default(),
            lifetimes: Lifetimes {
                idle: Duration::from_secs(2 * 60 * 60),
                absolute: Duration::from_secs(72 * 60 * 60),
            },
            expiry_margin: Duration::from_secs(60),
            refresh_ahead: Some(0.8),
            pending_sign_in: Duration::from_secs(60 * 60),
            pending_sign_out: Duration::from_secs(10 * 60),
            identity: Vec::new(),
            revocation: RevocationPolicy::Always,
            clear_site_data: ClearSiteData::storage(),
            long_url: LongUrl::FormPost,
            max_url: 4096,
            get_sign_out: false,
            sid_without_issuer: false,
            redirect_to_sign_in: false,
            no_store: true,
            accounts_in_plain: false,
            sign_in_parameters: Vec::new(),
            metadata_wait: Duration::from_secs(3),
            sweep_every: Duration::from_secs(15),
            #[cfg(feature = "metrics")]
            measure_every: None,
            warn_before: Duration::from_secs(60),
            max_app_tokens: 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_lists_what_was_chosen_r12() {
        assert_eq!(ClearSiteData::nothing().header(), None);
        assert_eq!(
            ClearSiteData::storage().header().as_deref(),
            Some("\"storage\"")
        );
        assert_eq!(
            ClearSiteData::storage().and_cookies().header().as_deref(),
            Some("\"storage\", \"cookies\"")
        );
    }
}
