//! The runtime, and its RuntimeService; each group of verbs has a file of its own.

mod container;
mod events;
mod sandbox;
mod streams;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use k8s_cri::v1;
use wharf_core::clock::Clock;
use wharf_core::runtime::{
    AttachRequest, Container, ContainerConfig, ContainerEvent, ContainerFilter, ContainerStats, ContainerStatus, Duplex, ExecRequest,
    ExecResult, LinuxContainerResources, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatus, RuntimeCapabilities,
    RuntimeCondition, RuntimeError, RuntimeResult, RuntimeService, RuntimeStatus, RuntimeVersion, Session,
};

use crate::client::{CALL_TIMEOUT, Cri};
use crate::error::{ConnectError, CriError};
use crate::owner::Owner;

/// Between two looks at what another call is making.
const RESERVED_POLL: Duration = Duration::from_millis(100);
/// Present where cgroups are v2.
const CGROUP_V2: &str = "/sys/fs/cgroup/cgroup.controllers";

/// Settings of a [`ContainerdRuntime`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ContainerdOptions {
    /// Marks what is made through it; what has another mark, or none, is unknown. The same owner finds its own again after a restart.
    /// 1 to 63 letters, digits, `-`, `_` or `.`.
    pub owner: String,
}

impl ContainerdOptions {
    /// Options with an owner, such as the node's name.
    pub fn new(owner: impl Into<String>) -> Self {
        Self { owner: owner.into() }
    }
}

/// A runtime behind a CRI v1 socket.
///
/// Cloning it shares the connection. A connection that breaks is made again by the next call; calls that it takes down fail as
/// [`Transient`](wharf_core::runtime::Retry::Transient), and what they began is found by the same call again; a containerd that was killed
/// may refuse for a moment, until it has collected what it left half made. Stops and execs count
/// whole seconds, as CRI does; a fraction is rounded up.
#[derive(Debug, Clone)]
pub struct ContainerdRuntime {
    pub(crate) cri: Cri,
    owner: Owner,
    capabilities: RuntimeCapabilities,
    cgroup_v2: bool,
}

impl ContainerdRuntime {
    /// Connects to a socket, such as `unix:///run/containerd/containerd.sock`, and asks what it offers.
    ///
    /// # Errors
    /// [`ConnectError`], within [`CONNECT_TIMEOUT`](crate::CONNECT_TIMEOUT).
    pub async fn connect(endpoint: &str, options: ContainerdOptions, clock: Arc<dyn Clock>) -> Result<Self, ConnectError> {
        let owner = Owner::new(&options.owner)?;
        let (cri, version) = Cri::connect(endpoint, clock).await?;
        let mut capabilities = RuntimeCapabilities::all();
        capabilities.events = cri.has_events().await;
        tracing::debug!(endpoint, runtime = version.runtime_name, version = version.runtime_version, ?capabilities, "connected");
        Ok(Self { cri, owner, capabilities, cgroup_v2: Path::new(CGROUP_V2).exists() })
    }

    /// The endpoint, as it was given.
    pub fn endpoint(&self) -> &str {
        &self.cri.endpoint
    }
}

#[async_trait]
impl RuntimeService for ContainerdRuntime {
    async fn version(&self) -> RuntimeResult<RuntimeVersion> {
        let mut runtime = self.cri.runtime();
        let version = self.cri.call("version", CALL_TIMEOUT, runtime.version(v1::VersionRequest::default())).await?;
        Ok(RuntimeVersion { runtime_name: version.runtime_name, runtime_version: version.runtime_version })
    }

    fn capabilities(&self) -> RuntimeCapabilities {
        self.capabilities.clone()
    }

    async fn status(&self) -> RuntimeResult<RuntimeStatus> {
        const OP: &str = "status";
        let mut runtime = self.cri.runtime();
        let response = self.cri.call(OP, CALL_TIMEOUT, runtime.status(v1::StatusRequest { verbose: false })).await?;
        let status = response.status.ok_or_else(|| RuntimeError::permanent(OP, CriError::Missing("status")))?;
        let condition =
            |c: v1::RuntimeCondition| RuntimeCondition { r#type: c.r#type, status: c.status, reason: c.reason, message: c.message };
        Ok(RuntimeStatus { conditions: status.conditions.into_iter().map(condition).collect() })
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> RuntimeResult<String> {
        sandbox::run(self, config, runtime_handler).await
    }
    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        sandbox::stop(self, sandbox_id).await
    }
    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        sandbox::remove(self, sandbox_id).await
    }
    async fn pod_sandbox_status(&self, sandbox_id: &str) -> RuntimeResult<PodSandboxStatus> {
        sandbox::status(self, sandbox_id).await
    }
    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> RuntimeResult<Vec<PodSandbox>> {
        sandbox::list(self, filter).await
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> RuntimeResult<String> {
        // Its configuration is in it several times over.
        Box::pin(container::create(self, sandbox_id, config, sandbox_config)).await
    }
    async fn start_container(&self, container_id: &str) -> RuntimeResult<()> {
        container::start(self, container_id).await
    }
    async fn stop_container(&self, container_id: &str, timeout: Duration) -> RuntimeResult<()> {
        container::stop(self, container_id, timeout).await
    }
    async fn remove_container(&self, container_id: &str) -> RuntimeResult<()> {
        container::remove(self, container_id).await
    }
    async fn list_containers(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<Container>> {
        container::list(self, filter).await
    }
    async fn container_status(&self, container_id: &str) -> RuntimeResult<ContainerStatus> {
        container::status(self, container_id).await
    }
    /// A limit that is zero is left as it is: CRI has no word for taking one away.
    async fn update_container_resources(&self, container_id: &str, resources: &LinuxContainerResources) -> RuntimeResult<()> {
        container::update_resources(self, container_id, resources).await
    }
    async fn reopen_container_log(&self, container_id: &str) -> RuntimeResult<()> {
        container::reopen_log(self, container_id).await
    }

    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult> {
        streams::exec_sync(self, container_id, command, timeout).await
    }
    async fn exec(&self, container_id: &str, request: &ExecRequest) -> RuntimeResult<Session> {
        streams::exec(self, container_id, request).await
    }
    async fn attach(&self, container_id: &str, request: &AttachRequest) -> RuntimeResult<Session> {
        streams::attach(self, container_id, request).await
    }
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> RuntimeResult<Box<dyn Duplex>> {
        streams::port_forward(self, sandbox_id, port).await
    }

    async fn list_container_stats(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<ContainerStats>> {
        container::list_stats(self, filter).await
    }
    async fn events(&self) -> RuntimeResult<BoxStream<'static, ContainerEvent>> {
        events::events(self).await
    }
}
