//! Against `oidc-provider`, the certified OpenID provider from npm.

#[path = "../support/mod.rs"]
mod support;

mod examples;
mod fixture;
mod flows;
mod harness;
mod web_app;
