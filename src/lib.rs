#![doc = include_str!("docs/overview.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

// Floor 0: ground.
pub mod clock;
mod error;
mod id;
mod secret;

// Floor 1: values.
mod account;
mod cause;
mod config;
mod events;
mod jwt;
#[cfg(feature = "encryption")]
mod key_ring;
mod label;
mod pages;
mod report;
mod return_url;
mod scopes;
mod token;

// Floor 2: ports.
mod cookies;
mod hooks;
mod provider;
mod session;
pub mod store;

// Floor 3: cache.
mod cache;

// Floor 4: flows.
mod core;
mod current;
mod sign_in;
mod sign_out;
mod status;

// Floor 5: face.
#[cfg(feature = "reqwest")]
mod api;
mod auth;
mod cookie_fix;
mod csrf;
mod extract;
mod guard;
mod layer;
mod routes;
mod service;
mod sign_ins;
mod signed_out;
mod undelivered;

#[cfg(feature = "testing")]
pub mod testing;

#[cfg(any(doc, doctest))]
#[doc = include_str!("docs/own_sign_in.md")]
pub mod own_sign_in {}

#[cfg(any(doc, doctest))]
#[doc = include_str!("docs/runbook.md")]
pub mod runbook {}

pub use crate::account::Account;
#[cfg(feature = "reqwest")]
pub use crate::api::{Api, ApiBuilder, TokenSource};
pub use crate::auth::{AppTokens, Auth, AuthBuilder, RegisteredUrls, SignInUrl, SigningIn, Ticket};
pub use crate::cache::TimeLeft;
pub use crate::cause::Cause;
pub use crate::config::{ClearSiteData, LongUrl, RevocationPolicy};
pub use crate::cookie_fix::{SessionCookieFix, SessionCookieFixService};
pub use crate::core::Pages;
pub use crate::error::{ConfigError, Error, ErrorKind};
pub use crate::extract::{
    AuthRejection, LayerMissing, NotSignedIn, SignedIn, TokenInfo, Tokens, Unavailable,
};
pub use crate::guard::{RequireAccount, RequireAccountService};
pub use crate::hooks::{
    Eviction, EvictionHook, EvictionNotice, HookResult, IntoHookResult, Navigation, Returned,
};
pub use crate::id::{
    AccountHash, Address, ClaimName, DownstreamName, KeyHash, Locator, OperationId, Selector,
    SessionKey, SignInId, TokenHash,
};
pub use crate::jwt::SigningAlgorithm;
#[cfg(feature = "encryption")]
pub use crate::key_ring::KeyRing;
pub use crate::layer::AuthLayer;
pub use crate::provider::{
    AssertionAudience, ClientAssertion, ClientAuth, Provider, ProviderBuilder, ProviderMetadata,
};
pub use crate::report::{
    EvictedSignIn, HookOutcome, HookStatus, ProviderOutcome, Revocation, SessionOutcome,
    ShutdownReport, SignOutReport,
};
pub use crate::scopes::Scopes;
pub use crate::secret::Secret;
pub use crate::service::AuthService;
pub use crate::session::AnySession;
pub use crate::sign_ins::{SignInSummary, SignIns};
pub use crate::sign_out::EndSessionRequest;
pub use crate::signed_out::{SignOut, SignedOut, Unfinished};
pub use crate::token::{AccessToken, IdToken, IdTokenField, TokenSet};

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
