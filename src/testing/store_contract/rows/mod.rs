//! The rows, by what they are about.
#![allow(missing_docs)] // A row's name is its documentation.

pub mod basics;
pub mod derived;
pub mod limits;
pub mod marks;
pub mod model;
pub mod names;
pub mod outbox;
pub mod pairs;
pub mod removal;
pub mod repeats;
pub mod selectors;
