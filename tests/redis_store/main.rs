//! The Redis store, on real servers.

#[path = "../support/mod.rs"]
mod support;

mod contract;
mod ear;
mod encryption;
mod held;
mod keys;
mod measured;
mod news;
mod nodes;
mod outages;
mod replay;
mod resent;
mod round_trips;
mod servers;
mod sessions;
mod sizing;
mod tier;
mod visits;
mod world;
