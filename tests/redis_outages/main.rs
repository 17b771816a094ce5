//! What users see while Redis is away, slow, empty or another one, and that nothing comes back and nothing is left behind.

#[path = "../support/mod.rs"]
mod support;

mod back;
mod nodes;
mod requests;
mod sign_in;
mod sign_out;
mod world;
