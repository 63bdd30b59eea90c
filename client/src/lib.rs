//! The Api of controllers and agents over a kube::Client, for parts that run apart from the API server.
//!
//! ```no_run
//! # fn run(client: kube::Client) {
//! use std::sync::Arc;
//! use wharf_client::RemoteApi;
//! use wharf_core::api::SharedApi;
//! use wharf_core::clock::SystemClock;
//! // Wharf's API server or any other Kubernetes: what takes a `SharedApi` does not see the difference.
//! let api: SharedApi = Arc::new(RemoteApi::new(client, SystemClock::shared()));
//! # }
//! ```

mod http_call;
mod path;
mod remote;
mod wire;

pub use http_call::{MAX_ANSWER, MAX_ATTEMPTS, MAX_RETRY_AFTER, REQUEST_TIMEOUT};
pub use remote::{MAX_PAGES, PAGE, RemoteApi};
pub use wire::MAX_EVENT;
