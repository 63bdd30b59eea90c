//! Wharf: Kubernetes taken apart into a Rust library.
//!
//! [`Cluster`] assembles the organs in one process. Each organ is a crate of its own and can be used alone, or replaced: the
//! traits are in [`core`].
//!
//! ```
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use k8s_openapi::api::core::v1::Namespace;
//!
//! let cluster = wharf::Cluster::builder().start().await?;
//! let namespaces: kube::Api<Namespace> = kube::Api::all(cluster.client());
//! assert_eq!(namespaces.get("default").await?.metadata.name.as_deref(), Some("default"));
//! cluster.shutdown().await;
//! # Ok(()) }
//! ```

mod builder;
mod cluster;
mod keys;
mod node;
mod once;
mod storage;
#[cfg(test)]
mod tests;

pub use builder::{ClusterBuilder, ClusterError};
pub use cluster::Cluster;
pub use node::NodeSpec;

pub use wharf_apiserver as apiserver;
pub use wharf_controllers as controllers;
pub use wharf_core as core;
pub use wharf_network as network;
pub use wharf_node as node_agent;
pub use wharf_proxy_iptables as proxy_iptables;
#[cfg(feature = "ipvs")]
pub use wharf_proxy_ipvs as proxy_ipvs;
pub use wharf_proxy_plan as proxy_plan;
#[cfg(feature = "containerd")]
pub use wharf_runtime_containerd as runtime_containerd;
pub use wharf_runtime_hollow as runtime_hollow;
pub use wharf_runtime_youki as runtime_youki;
pub use wharf_scheduler_framework as scheduler_framework;
pub use wharf_scheduler_plugins as scheduler_plugins;
pub use wharf_store_encrypted as store_encrypted;
#[cfg(feature = "etcd")]
pub use wharf_store_etcd as store_etcd;
pub use wharf_store_memory as store_memory;
#[cfg(feature = "redb")]
pub use wharf_store_redb as store_redb;

/// README.md's examples are compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
