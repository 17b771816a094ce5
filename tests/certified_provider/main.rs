//! Against `oidc-provider`, the certified OpenID provider from npm.

#[path = "../support/mod.rs"]
mod support;

mod fixture;
mod flows;
mod harness;
mod own_sign_in;
mod web_app;
