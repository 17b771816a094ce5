//! The sign-ins of a user, in all of their browsers: seen and ended by the user, and by an operator (R43).

#[path = "../support/mod.rs"]
mod support;
#[path = "../tokens/world.rs"]
#[allow(dead_code)]
mod world;

mod ending;
mod listing;
mod operator;
mod people;
mod races;
