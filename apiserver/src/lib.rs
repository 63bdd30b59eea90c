//! The Kubernetes API over any `ObjectStore`, as a `tower::Service`: in process or behind TLS.

mod builder;
pub(crate) mod crd;
mod defaults;
pub mod discovery;
mod endpoints;
pub mod gate;
mod local;
pub mod metrics;
pub mod openapi;
mod patch;
pub mod pki;
pub mod request;
pub mod resources;
pub mod rest;
pub mod server;
pub mod stream;
pub mod table;
mod validation;
mod webhook;

pub use builder::{ApiServer, ApiServerBuilder};
pub use local::LocalApi;
