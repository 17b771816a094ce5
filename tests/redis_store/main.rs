//! The Redis store, on real servers.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod encryption;
mod keys;
mod outages;
mod replay;
mod resent;
mod round_trips;
mod servers;
mod sessions;
mod world;
