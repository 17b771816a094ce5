//! The provider and the browser of the feature `testing`, with plain HTTP as
//! the client between them.

mod browser;
mod faults;
mod fixture;
mod flow;
mod keys;
mod sign_out;
