//! The pod network seam: what CNI does for a sandbox.

use std::fmt::Debug;
use std::net::IpAddr;
use std::path::PathBuf;

use async_trait::async_trait;

use super::{BoxError, PortMapping};

/// What a pod network is told about a sandbox.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PodNetworkConfig {
    /// The sandbox's id; the key for addresses and interfaces.
    pub sandbox_id: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The network namespace, as a path that can be opened (`/proc/PID/ns/net` or a bind mount).
    pub netns: PathBuf,
    /// Host ports to forward.
    pub port_mappings: Vec<PortMapping>,
}

impl PodNetworkConfig {
    /// A config without port mappings.
    pub fn new(sandbox_id: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>, netns: impl Into<PathBuf>) -> Self {
        Self {
            sandbox_id: sandbox_id.into(),
            namespace: namespace.into(),
            name: name.into(),
            netns: netns.into(),
            port_mappings: Vec::new(),
        }
    }
}

/// What a sandbox got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetworkStatus {
    /// The pod's addresses, the primary first.
    pub ips: Vec<IpAddr>,
}

/// What a pod network can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodNetworkError {
    /// No address is left.
    #[error("no address is left in {range}: {used} are in use; remove pods or give the node a larger range")]
    Exhausted {
        /// The range.
        range: String,
        /// How many are allocated.
        used: usize,
    },
    /// Anything else.
    #[error("{op} failed: {source}")]
    Backend {
        /// The step that failed.
        op: &'static str,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

/// Gives a sandbox its interface and address.
///
/// # Contract
/// `setup` twice for one sandbox id returns the same addresses. `teardown` of the unknown succeeds, also when
/// the network namespace is already gone. Allocations survive a restart of the process.
///
/// # Cancellation
/// A dropped `setup` may leave an interface; `teardown` removes it.
///
/// # Errors
/// [`PodNetworkError`].
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// Touch only interfaces and rules of your own naming; `shutdown` leaves no trace.
#[async_trait]
pub trait PodNetwork: Send + Sync + Debug + 'static {
    /// Makes the sandbox's interface and gives it an address.
    async fn setup(&self, config: &PodNetworkConfig) -> Result<PodNetworkStatus, PodNetworkError>;
    /// Releases what `setup` took.
    async fn teardown(&self, sandbox_id: &str) -> Result<(), PodNetworkError>;
    /// Whether pods can be given a network now; the text says why not.
    async fn ready(&self) -> Result<(), PodNetworkError>;
    /// Removes everything that this network made on the machine.
    async fn shutdown(&self) -> Result<(), PodNetworkError>;
}
