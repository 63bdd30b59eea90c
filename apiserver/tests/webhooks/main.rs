//! Webhooks that the API server calls: real ones, over TLS on loopback.

#![allow(clippy::unwrap_used, reason = "tests may")]

mod admission;
mod conversion;
mod hook;
mod world;
