//! Programs that show how Wharf is embedded and extended: one folder each beside this one.
//!
//! `cargo run --package wharf-examples --example embed`; the mini-cluster is `cargo run --example mini-cluster`.

/// The documents' examples are compiled with this crate's.
#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-a-runtime.md")]
struct WritingARuntime;
#[cfg(doctest)]
#[doc = include_str!("../../docs/embedding.md")]
struct Embedding;
