//! What the runtime holds of one pod, read at one moment.

use std::net::IpAddr;

use wharf_core::runtime::{
    ContainerFilter, ContainerState, ContainerStatus, PodSandbox, PodSandboxFilter, PodSandboxState, Runtime, RuntimeResult, StringMap,
};

use crate::labels;

/// The sandboxes and containers of a pod, the newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodRuntime {
    pub(crate) sandboxes: Vec<PodSandbox>,
    pub(crate) containers: Vec<ContainerStatus>,
    /// Addresses of the newest sandbox.
    pub(crate) ips: Vec<IpAddr>,
}

impl PodRuntime {
    pub(crate) async fn read(runtime: &dyn Runtime, node: &str, uid: &str) -> RuntimeResult<Self> {
        let mut selector = StringMap::new();
        selector.insert(labels::POD_UID.into(), uid.into());
        selector.insert(labels::NODE.into(), node.into());
        let filter = PodSandboxFilter { label_selector: selector.clone(), ..PodSandboxFilter::default() };
        let mut sandboxes = runtime.list_pod_sandbox(&filter).await?;
        sandboxes.sort_by_key(|s| std::cmp::Reverse((s.metadata.attempt, s.created_at)));
        let filter = ContainerFilter { label_selector: selector, ..ContainerFilter::default() };
        let mut containers = Vec::new();
        for container in runtime.list_containers(&filter).await? {
            match runtime.container_status(&container.id).await {
                Ok(status) => containers.push(status),
                // Removed between the two calls.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        containers.sort_by_key(|c| std::cmp::Reverse((attempt(c), c.container.created_at)));
        let ips = match sandboxes.first() {
            Some(newest) => match runtime.pod_sandbox_status(&newest.id).await {
                Ok(status) => status.ips,
                Err(error) if error.is_not_found() => Vec::new(),
                Err(error) => return Err(error),
            },
            None => Vec::new(),
        };
        Ok(Self { sandboxes, containers, ips })
    }

    /// The handler that the pod runs on; the default's before there is a sandbox.
    pub(crate) fn handler(&self) -> &str {
        self.sandboxes.first().map_or("", |s| s.runtime_handler.as_str())
    }
    /// The newest sandbox, if it is up.
    pub(crate) fn sandbox(&self) -> Option<&PodSandbox> {
        self.sandboxes.first().filter(|s| s.state == PodSandboxState::Ready)
    }
    /// The newest instance of a container, in whichever sandbox.
    pub(crate) fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.container.metadata.name == name)
    }
    /// The instance before the newest.
    pub(crate) fn previous(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().filter(|c| c.container.metadata.name == name).nth(1)
    }
    /// The newest instance of a container in a given sandbox.
    pub(crate) fn latest_in(&self, sandbox: &str, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.container.metadata.name == name && c.container.pod_sandbox_id == sandbox)
    }
    pub(crate) fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|c| is_running(c))
    }
    /// Whether anything of the pod is still up.
    pub(crate) fn is_alive(&self) -> bool {
        self.sandboxes.iter().any(|s| s.state == PodSandboxState::Ready) || self.running().next().is_some()
    }
}

pub(crate) fn is_running(status: &ContainerStatus) -> bool {
    status.container.state == ContainerState::Running
}

/// The restart count of an instance.
pub(crate) fn attempt(status: &ContainerStatus) -> u32 {
    let noted = status.container.annotations.get(labels::RESTART_COUNT).and_then(|c| c.parse().ok());
    noted.unwrap_or(status.container.metadata.attempt)
}
