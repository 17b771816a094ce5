//! A sign-in that was ended elsewhere is over for its session (promise 4), and nothing brings it back (promise 1).

#[path = "../support/mod.rs"]
mod support;

#[path = "../sign_ins/people.rs"]
#[allow(dead_code)]
mod people;
#[path = "../tokens/world.rs"]
#[allow(dead_code)]
mod world;

mod app;
mod causes;
mod logout_tokens;
mod running;
mod stores;
