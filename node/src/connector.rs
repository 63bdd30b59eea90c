//! The API server's way into pods, for agents in the same process.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dashmap::DashMap;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use wharf_core::api::ApiError;
use wharf_core::node::{LogOptions, NodeConnector};
use wharf_core::object::ObjectRef;
use wharf_core::runtime::{AttachRequest, ContainerState, ContainerStatus, Duplex, ExecRequest, RuntimeError, RuntimeService, Session};

use crate::logs::{self, Source};
use crate::pod;
use crate::shared::Shared;
use crate::snapshot::{PodRuntime, is_running};

/// Reaches the pods of one agent.
#[derive(Debug, Clone)]
pub struct AgentHandle {
    shared: Arc<Shared>,
}

fn bad_request(message: String) -> ApiError {
    ApiError::status(400, "BadRequest", message)
}
fn not_found(message: String) -> ApiError {
    ApiError::status(404, "NotFound", message)
}
fn of_runtime(error: RuntimeError) -> ApiError {
    match &error {
        RuntimeError::NotFound { .. } => not_found(error.to_string()),
        RuntimeError::Unsupported { .. } | RuntimeError::InvalidArgument { .. } => bad_request(error.to_string()),
        RuntimeError::FailedPrecondition { .. } => ApiError::status(409, "Conflict", error.to_string()),
        _ => ApiError::status(500, "InternalError", error.to_string()),
    }
}

impl AgentHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    async fn look(&self, key: &ObjectRef, uid: &str) -> Result<(Arc<Pod>, PodRuntime), ApiError> {
        let missing = || not_found(format!("pod {:?} not found on node {:?}", key.name, self.shared.name));
        let pod = self.shared.known_pod(key, uid).ok_or_else(missing)?;
        let runtime = PodRuntime::read(&*self.shared.runtime, &self.shared.name, uid).await.map_err(of_runtime)?;
        Ok((pod, runtime))
    }

    async fn running(&self, key: &ObjectRef, uid: &str, container: &str) -> Result<ContainerStatus, ApiError> {
        let (pod, runtime) = self.look(key, uid).await?;
        check_name(&pod, container)?;
        let found = runtime.latest(container).filter(|c| is_running(c));
        found.cloned().ok_or_else(|| not_found(format!("container not found ({container:?})")))
    }

    async fn logs(
        &self,
        key: &ObjectRef,
        uid: &str,
        container: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let (pod, runtime) = self.look(key, uid).await?;
        check_name(&pod, container)?;
        let begun = |c: &&ContainerStatus| c.container.state != ContainerState::Created;
        let status = if options.previous {
            // In back-off the newest instance has ended: for kubectl it is already the previous one.
            let newest = runtime.latest(container).filter(|c| c.container.state == ContainerState::Exited && is_waiting(&pod, container));
            newest
                .or_else(|| runtime.previous(container))
                .filter(begun)
                .ok_or_else(|| bad_request(format!("previous terminated container {container:?} in pod {:?} not found", key.name)))?
        } else {
            runtime.latest(container).filter(begun).ok_or_else(|| {
                let reason = waiting_reason(&pod, container).unwrap_or_else(|| "ContainerCreating".into());
                bad_request(format!("container {container:?} in pod {:?} is waiting to start: {reason}", key.name))
            })?
        };
        let source = Source {
            path: status.log_path.clone(),
            container_id: status.container.id.clone(),
            runtime: self.shared.runtime.clone(),
            clock: self.shared.clock.clone(),
        };
        match logs::stream(source, options.clone()).await {
            Ok(stream) => Ok(stream),
            // A runtime without processes writes no log.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Box::pin(futures::stream::empty())),
            Err(error) => Err(ApiError::status(500, "InternalError", format!("failed to open the log: {error}"))),
        }
    }
}

fn check_name(pod: &Pod, container: &str) -> Result<(), ApiError> {
    let known = pod.spec.as_ref().and_then(|s| pod::find(s, container)).is_some();
    let refused = || bad_request(format!("container {container} is not valid for pod {}", pod::name(pod)));
    known.then_some(()).ok_or_else(refused)
}

fn waiting_reason(pod: &Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).chain(&status.ephemeral_container_statuses).flatten();
    all.filter(|s| s.name == container).find_map(|s| s.state.as_ref()?.waiting.as_ref()?.reason.clone())
}

fn is_waiting(pod: &Pod, container: &str) -> bool {
    waiting_reason(pod, container).is_some()
}

/// A [`NodeConnector`] over the agents of this process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct AgentConnector {
    agents: Arc<DashMap<String, AgentHandle>>,
}

impl AgentConnector {
    /// No agents yet.
    pub fn new() -> Self {
        Self::default()
    }
    /// Makes an agent reachable under its node's name, replacing another of that name.
    pub fn register(&self, node: impl Into<String>, agent: AgentHandle) {
        self.agents.insert(node.into(), agent);
    }
    /// Forgets an agent.
    pub fn unregister(&self, node: &str) {
        self.agents.remove(node);
    }
    fn agent(&self, node: &str) -> Result<AgentHandle, ApiError> {
        self.agents.get(node).map(|a| a.clone()).ok_or_else(|| {
            let message = format!(
                "the agent of node {node:?} does not run in this process, and logs, exec, attach and port-forward are not passed on to others: ask the API server of the process that has it"
            );
            ApiError::status(503, "ServiceUnavailable", message)
        })
    }
}

#[async_trait]
impl NodeConnector for AgentConnector {
    async fn logs(
        &self,
        node: &str,
        pod: &ObjectRef,
        uid: &str,
        container: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        self.agent(node)?.logs(pod, uid, container, options).await
    }
    async fn exec(&self, node: &str, pod: &ObjectRef, uid: &str, container: &str, request: &ExecRequest) -> Result<Session, ApiError> {
        let agent = self.agent(node)?;
        let found = agent.running(pod, uid, container).await?;
        agent.shared.runtime.exec(&found.container.id, request).await.map_err(of_runtime)
    }
    async fn attach(&self, node: &str, pod: &ObjectRef, uid: &str, container: &str, request: &AttachRequest) -> Result<Session, ApiError> {
        let agent = self.agent(node)?;
        let found = agent.running(pod, uid, container).await?;
        agent.shared.runtime.attach(&found.container.id, request).await.map_err(of_runtime)
    }
    async fn port_forward(&self, node: &str, pod: &ObjectRef, uid: &str, port: u16) -> Result<Box<dyn Duplex>, ApiError> {
        let agent = self.agent(node)?;
        let (found, runtime) = agent.look(pod, uid).await?;
        let sandbox = runtime.sandbox().ok_or_else(|| {
            ApiError::status(500, "InternalError", format!("unable to forward port: pod {} is not running", pod::name(&found)))
        })?;
        agent.shared.runtime.port_forward(&sandbox.id, port).await.map_err(of_runtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_node_of_another_process_is_named_with_what_to_do() {
        let connector = AgentConnector::new();
        let pod = ObjectRef::new("default", "p");
        let error = connector.port_forward("elsewhere", &pod, "u", 80).await.err().unwrap();
        assert_eq!(error.code(), Some(503));
        assert!(error.to_string().contains("\"elsewhere\" does not run in this process"), "{error}");
        assert!(error.to_string().contains("ask the API server of the process that has it"), "{error}");
    }
}
