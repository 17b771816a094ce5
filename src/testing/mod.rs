//! An OpenID provider and a browser for tests, both inside the process, and the test suite for token stores.
//!
//! The feature `testing` brings a [`TestProvider`] that signs people in and out
//! like a real one, tells what it was asked, and misbehaves on demand, and a
//! [`TestBrowser`] that keeps cookies, follows redirects and clicks buttons as
//! a browser does. This crate's own tests and its demo stand on them; they are
//! meant for yours too. Where a test is about a handler alone, [`signed_in`] is a
//! layer that says who is signed in, without any provider. None of it is meant
//! for production.

mod browser;
mod provider;
mod redacted;
mod signed_in;
pub mod store_contract;

pub use self::{
    browser::{BrowserError, Page, TestBrowser, TestBrowserBuilder},
    provider::{
        BackChannelCall, ClientAuth, Endpoint, Event, Fault, Faults, Gate, IdTokenFault,
        JwtBuilder, NeedsConsent, SessionInfo, SigningAlg, TestClient, TestProvider,
        TestProviderBuilder, TestUser, TokenKind,
    },
    redacted::Redacted,
    signed_in::{SignedInLayer, SignedInService, signed_in, signed_out},
};

/// A client that shows every answer as it is, and reaches loopback addresses
/// whatever the environment says about proxies.
fn http_client() -> reqwest::Client {
    client_builder()
        .build()
        .expect("a client without certificates and proxies can be built")
}

fn client_builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
}
