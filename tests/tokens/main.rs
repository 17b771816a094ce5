//! Tokens: from the cache, by a refresh, and never after the sign-in has ended; and those of the app itself. Against the in-process provider.

#[path = "../support/mod.rs"]
mod support;

mod acquire;
mod ahead;
mod api;
mod app_tokens;
mod lifetimes;
mod outage;
mod own_sign_in;
mod races;
mod refresh;
mod reports;
mod revocation;
mod world;
