//! The client against a server that says what the test wrote, under a clock that the test moves.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod calls;
mod server;
mod watches;
