//! What the integration tests share: the certified provider, a client for its pages, and Chromium.
//!
//! Each part fails where what it needs is not installed. A test that skips itself looks like one that passed.

// Every test program compiles all of this and uses a part of it.
#![allow(dead_code)]

pub mod app;
pub mod certified;
pub mod chromium;
pub mod example;
pub mod faulty;
pub mod held;
pub mod http;
pub mod process;
pub mod redis;
