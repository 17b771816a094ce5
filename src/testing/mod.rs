//! For tests: of this crate, of stores that others write, and of apps.

pub mod store_contract;
