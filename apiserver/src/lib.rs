//! The Kubernetes API over any `ObjectStore`, as a `tower::Service`: in process or behind TLS.

pub mod gate;
pub mod metrics;
pub mod pki;
pub mod request;
pub mod server;
pub mod stream;

/// Stands in until `rest/mod.rs` compiles.
pub mod rest {
    pub mod admission;
    pub mod path;
}
