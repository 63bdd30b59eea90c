//! The API over the memory store, through its trait and as requests.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod parts;
mod proxy;
mod verbs;
mod world;
