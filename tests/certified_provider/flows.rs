//! The crate's own flows. What was done is read from the provider itself (introspection, its event log) and from our store.

mod app_tokens;
mod back_channel;
mod refresh;
mod sign_in;
mod sign_out;
