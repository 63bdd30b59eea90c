//! Programs that show how Wharf is embedded and extended: one folder or file each beside this one.
//!
//! `cargo run --package wharf-examples --example embed`; the mini-cluster is `cargo run --example mini-cluster`.
