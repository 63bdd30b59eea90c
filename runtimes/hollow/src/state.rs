//! Sandboxes and containers, and the moves between their states.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use jiff::Timestamp;
use tokio::task::AbortHandle;
use wharf_core::runtime::{
    Container, ContainerConfig, ContainerEvent, ContainerEventType, ContainerMetadata, ContainerState, ContainerStatus, NamespaceMode,
    PodSandbox, PodSandboxConfig, PodSandboxState, PodSandboxStatus, RuntimeError, RuntimeResult,
};

use crate::addresses::Addresses;
use crate::signal;

/// How a container ended.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: i32,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Ended {
    pub(crate) fn by_signal(signal: i32) -> Self {
        Self { code: 128 + signal, signal, reason: "Error", message: String::new() }
    }
}

#[derive(Debug)]
pub(crate) struct SandboxEntry {
    pub(crate) status: PodSandboxStatus,
}

#[derive(Debug)]
pub(crate) struct ContainerEntry {
    pub(crate) config: ContainerConfig,
    pub(crate) status: ContainerStatus,
    pod_uid: String,
    stop_signal: i32,
    /// The scripted end that is still to come.
    timer: Option<AbortHandle>,
}

impl Drop for ContainerEntry {
    fn drop(&mut self) {
        if let Some(timer) = &self.timer {
            timer.abort();
        }
    }
}

impl ContainerEntry {
    fn event(&self, r#type: ContainerEventType) -> ContainerEvent {
        let Container { id, pod_sandbox_id, .. } = &self.status.container;
        ContainerEvent { container_id: id.clone(), pod_sandbox_id: pod_sandbox_id.clone(), pod_uid: self.pod_uid.clone(), r#type }
    }

    fn end(&mut self, ended: Ended, now: Timestamp) -> ContainerEvent {
        let status = &mut self.status;
        status.container.state = ContainerState::Exited;
        status.finished_at = Some(now);
        status.exit_code = ended.code;
        status.signal = ended.signal;
        status.reason = ended.reason.into();
        status.message = ended.message;
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        self.event(ContainerEventType::Stopped)
    }

    fn has_ended(&self) -> bool {
        self.status.container.state == ContainerState::Exited
    }
}

#[derive(Debug)]
pub(crate) struct State {
    prefix: String,
    /// Ids given out; they order as they were made.
    made: u64,
    addresses: Addresses,
    pub(crate) sandboxes: BTreeMap<String, SandboxEntry>,
    pub(crate) containers: BTreeMap<String, ContainerEntry>,
    /// Pod uid and attempt to sandbox.
    by_pod: HashMap<(String, u32), String>,
    /// Sandbox, name and attempt to container.
    by_name: HashMap<(String, ContainerMetadata), String>,
}

fn not_found(kind: &'static str, id: &str) -> RuntimeError {
    RuntimeError::NotFound { kind, id: id.to_string() }
}

fn refused(entry: &ContainerEntry, operation: &'static str) -> RuntimeError {
    let Container { id, state, .. } = &entry.status.container;
    RuntimeError::FailedPrecondition { id: id.clone(), state: format!("{state:?}"), operation }
}

impl State {
    pub(crate) fn new(prefix: String, addresses: Addresses) -> Self {
        Self {
            prefix,
            made: 0,
            addresses,
            sandboxes: BTreeMap::new(),
            containers: BTreeMap::new(),
            by_pod: HashMap::new(),
            by_name: HashMap::new(),
        }
    }

    fn next_id(&mut self) -> String {
        self.made += 1;
        format!("{}-{:08}", self.prefix, self.made)
    }

    pub(crate) fn sandbox(&self, id: &str) -> RuntimeResult<&SandboxEntry> {
        self.sandboxes.get(id).ok_or_else(|| not_found("sandbox", id))
    }

    pub(crate) fn container(&self, id: &str) -> RuntimeResult<&ContainerEntry> {
        self.containers.get(id).ok_or_else(|| not_found("container", id))
    }

    fn container_mut(&mut self, id: &str) -> RuntimeResult<&mut ContainerEntry> {
        self.containers.get_mut(id).ok_or_else(|| not_found("container", id))
    }

    /// The sandbox of a pod's attempt, made if it is not there. The event is for a new one.
    pub(crate) fn run_sandbox(
        &mut self,
        config: &PodSandboxConfig,
        runtime_handler: &str,
        now: Timestamp,
    ) -> RuntimeResult<(String, Option<ContainerEvent>)> {
        let metadata = config.metadata.clone();
        if metadata.uid.is_empty() {
            return Err(RuntimeError::InvalidArgument { field: "metadata.uid", message: "a sandbox needs the uid of its pod".into() });
        }
        let pod = (metadata.uid.clone(), metadata.attempt);
        if let Some(id) = self.by_pod.get(&pod) {
            return Ok((id.clone(), None));
        }
        let ips: Vec<IpAddr> = match config.namespace_options.network {
            NamespaceMode::Node => Vec::new(),
            _ => vec![self.addresses.take().map_err(|e| RuntimeError::transient("run_pod_sandbox", e))?],
        };
        let id = self.next_id();
        let sandbox = PodSandbox {
            id: id.clone(),
            metadata,
            state: PodSandboxState::Ready,
            created_at: now,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: runtime_handler.to_string(),
        };
        self.by_pod.insert(pod, id.clone());
        let entry = SandboxEntry { status: PodSandboxStatus { sandbox, ips, config: config.clone() } };
        let event = sandbox_event(&entry, ContainerEventType::Started);
        self.sandboxes.insert(id.clone(), entry);
        Ok((id, Some(event)))
    }

    fn containers_of(&self, sandbox_id: &str) -> Vec<String> {
        self.containers.values().map(|c| &c.status.container).filter(|c| c.pod_sandbox_id == sandbox_id).map(|c| c.id.clone()).collect()
    }

    pub(crate) fn stop_sandbox(&mut self, id: &str, now: Timestamp) -> Vec<ContainerEvent> {
        let mut events = Vec::new();
        for container in self.containers_of(id) {
            events.extend(self.stop_container(&container, now));
        }
        if let Some(entry) = self.sandboxes.get_mut(id) {
            for ip in entry.status.ips.drain(..) {
                self.addresses.release(ip);
            }
            if entry.status.sandbox.state == PodSandboxState::Ready {
                entry.status.sandbox.state = PodSandboxState::NotReady;
                events.push(sandbox_event(entry, ContainerEventType::Stopped));
            }
        }
        events
    }

    pub(crate) fn remove_sandbox(&mut self, id: &str, now: Timestamp) -> Vec<ContainerEvent> {
        let mut events = self.stop_sandbox(id, now);
        for container in self.containers_of(id) {
            events.extend(self.remove_container(&container, now));
        }
        if let Some(entry) = self.sandboxes.remove(id) {
            let metadata = &entry.status.sandbox.metadata;
            self.by_pod.remove(&(metadata.uid.clone(), metadata.attempt));
            events.push(sandbox_event(&entry, ContainerEventType::Deleted));
        }
        events
    }

    /// The container of a name and attempt, made if it is not there. The event is for a new one.
    pub(crate) fn create_container(
        &mut self,
        sandbox_id: &str,
        config: &ContainerConfig,
        image_ref: &str,
        now: Timestamp,
    ) -> RuntimeResult<(String, Option<ContainerEvent>)> {
        if config.metadata.name.is_empty() {
            return Err(RuntimeError::InvalidArgument { field: "metadata.name", message: "a container needs a name".into() });
        }
        let sandbox = &self.sandbox(sandbox_id)?.status;
        let name = (sandbox_id.to_string(), config.metadata.clone());
        if let Some(id) = self.by_name.get(&name) {
            return Ok((id.clone(), None));
        }
        if sandbox.sandbox.state != PodSandboxState::Ready {
            let state = format!("{:?}", sandbox.sandbox.state);
            return Err(RuntimeError::FailedPrecondition { id: sandbox_id.to_string(), state, operation: "create_container" });
        }
        let stop_signal = match &config.stop_signal {
            None => signal::TERM,
            Some(name) => signal::number(name).ok_or_else(|| RuntimeError::InvalidArgument {
                field: "stop_signal",
                message: format!("{name:?} is not a signal; SIGTERM or 15 would be"),
            })?,
        };
        let (pod_uid, log_path) = (sandbox.sandbox.metadata.uid.clone(), sandbox.config.log_directory.join(&config.log_path));
        let id = self.next_id();
        let container = Container {
            id: id.clone(),
            pod_sandbox_id: sandbox_id.to_string(),
            metadata: config.metadata.clone(),
            image: config.image.clone(),
            image_ref: image_ref.to_string(),
            state: ContainerState::Created,
            created_at: now,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        let status = ContainerStatus {
            container,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            log_path,
            mounts: config.mounts.clone(),
            pid: 0,
        };
        let entry = ContainerEntry { config: config.clone(), status, pod_uid, stop_signal, timer: None };
        let event = entry.event(ContainerEventType::Created);
        self.by_name.insert(name, id.clone());
        self.containers.insert(id.clone(), entry);
        Ok((id, Some(event)))
    }

    /// Begins to run. `None` if it runs already: the same call again converges.
    pub(crate) fn start_container(&mut self, id: &str, now: Timestamp) -> RuntimeResult<Option<ContainerEvent>> {
        let entry = self.container_mut(id)?;
        match entry.status.container.state {
            ContainerState::Created => {
                entry.status.container.state = ContainerState::Running;
                entry.status.started_at = Some(now);
                Ok(Some(entry.event(ContainerEventType::Started)))
            }
            ContainerState::Running => Ok(None),
            _ => Err(refused(entry, "start_container")),
        }
    }

    /// Ends a created container that cannot start.
    pub(crate) fn fail_start(&mut self, id: &str, message: &str, now: Timestamp) -> RuntimeResult<ContainerEvent> {
        let entry = self.container_mut(id)?;
        if entry.status.container.state != ContainerState::Created {
            return Err(refused(entry, "start_container"));
        }
        // 128 is what containerd reports for a process that never was.
        Ok(entry.end(Ended { code: 128, signal: 0, reason: "StartError", message: message.to_string() }, now))
    }

    /// Keeps the timer of a scripted end, if the container still runs.
    pub(crate) fn set_timer(&mut self, id: &str, timer: AbortHandle) {
        match self.containers.get_mut(id) {
            Some(entry) if !entry.has_ended() => entry.timer = Some(timer),
            _ => timer.abort(),
        }
    }

    pub(crate) fn end_running(&mut self, id: &str, ended: Ended, now: Timestamp) -> RuntimeResult<ContainerEvent> {
        let entry = self.container_mut(id)?;
        if entry.status.container.state != ContainerState::Running {
            return Err(refused(entry, "exit_container"));
        }
        Ok(entry.end(ended, now))
    }

    /// Ends a container by its stop signal. One that was never started ends too, so that it never will be.
    pub(crate) fn stop_container(&mut self, id: &str, now: Timestamp) -> Option<ContainerEvent> {
        let entry = self.containers.get_mut(id).filter(|c| !c.has_ended())?;
        let signal = entry.stop_signal;
        Some(entry.end(Ended::by_signal(signal), now))
    }

    pub(crate) fn remove_container(&mut self, id: &str, now: Timestamp) -> Vec<ContainerEvent> {
        let mut events = Vec::new();
        if let Some(mut entry) = self.containers.remove(id) {
            if entry.status.container.state == ContainerState::Running {
                events.push(entry.end(Ended::by_signal(signal::KILL), now));
            }
            let Container { pod_sandbox_id, metadata, .. } = &entry.status.container;
            self.by_name.remove(&(pod_sandbox_id.clone(), metadata.clone()));
            events.push(entry.event(ContainerEventType::Deleted));
        }
        events
    }
}

fn sandbox_event(entry: &SandboxEntry, r#type: ContainerEventType) -> ContainerEvent {
    let PodSandbox { id, metadata, .. } = &entry.status.sandbox;
    ContainerEvent { container_id: id.clone(), pod_sandbox_id: id.clone(), pod_uid: metadata.uid.clone(), r#type }
}
