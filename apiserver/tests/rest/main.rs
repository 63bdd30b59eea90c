//! The API over the memory store, through its trait and as requests.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod forms;
mod lists;
mod parts;
mod proxy;
mod verbs;
mod world;
mod writes;
