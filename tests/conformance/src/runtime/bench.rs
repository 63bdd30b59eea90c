//! What the cases share: a runtime with the image present, short ways to make things, and cleaning up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use wharf_core::runtime::{
    Container, ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState, ContainerStatus, ImageSpec, NamespaceMode,
    PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, RuntimeError, RuntimeResult, SharedRuntime,
};

use super::RuntimeHarness;
use crate::{CaseResult, Stop, ensure, fail, skip};

/// How long a stop may take before it kills, where that does not matter.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// Between two looks at a container that is to exit. Harness::patience bounds how often.
const POLL: Duration = Duration::from_millis(5);

/// Numbers pods over all benches of the process, for names that meet on one machine.
static PODS: AtomicU32 = AtomicU32::new(0);

pub(crate) struct Bench<'h> {
    pub(super) harness: &'h dyn RuntimeHarness,
    runtime: Mutex<SharedRuntime>,
    logs: TempDir,
}

/// Runs a case on a fresh runtime and removes its sandboxes afterwards.
pub(crate) async fn with_bench(harness: &dyn RuntimeHarness, case: for<'a> fn(&'a Bench<'a>) -> BoxFuture<'a, CaseResult>) -> CaseResult {
    let logs = tempfile::tempdir().map_err(|e| Stop::Fail(format!("no directory for logs: {e}")))?;
    let bench = Bench { harness, runtime: Mutex::new(harness.runtime().await), logs };
    if bench.has_images() {
        ok(harness.provide_image(&bench.runtime()).await, "providing the test image")?;
    }
    let result = case(&bench).await;
    let cleaned = bench.clean().await;
    result.and(cleaned)
}

/// Fails the case with the call's name when a call failed.
pub(super) fn ok<T>(result: RuntimeResult<T>, call: &str) -> CaseResult<T> {
    result.map_err(|e| Stop::Fail(format!("{call} failed: {e}")))
}

/// Fails unless the call said that the thing is not there.
pub(super) fn not_found<T: std::fmt::Debug>(result: RuntimeResult<T>, call: &str) -> CaseResult {
    match result {
        Err(RuntimeError::NotFound { .. }) => Ok(()),
        other => fail(format!("{call} of an unknown id: expected NotFound, got {other:?}")),
    }
}

/// Fails unless a call that is not declared returned `Unsupported`.
pub(super) fn unsupported<T: std::fmt::Debug>(result: RuntimeResult<T>, call: &str) -> CaseResult {
    match result {
        Err(RuntimeError::Unsupported { .. }) => Ok(()),
        other => fail(format!("{call} is not declared: expected Unsupported, got {other:?}")),
    }
}

/// An id that no runtime has given out.
pub(super) const UNKNOWN: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl<'h> Bench<'h> {
    pub(super) fn runtime(&self) -> SharedRuntime {
        Arc::clone(&self.runtime.lock())
    }

    /// Whether images are declared.
    pub(super) fn has_images(&self) -> bool {
        self.runtime().capabilities().images
    }

    /// A command the harness may not have. A runtime with real processes has to have it.
    pub(super) fn need(&self, command: Option<Vec<String>>, what: &str) -> CaseResult<Vec<String>> {
        match command {
            Some(command) => Ok(command),
            None if self.runtime().capabilities().processes => {
                fail(format!("processes are declared, but the harness has no command that {what}"))
            }
            None => skip(format!("the harness has no command that {what}")),
        }
    }

    /// A command that the harness need not have even so.
    pub(super) fn want(&self, command: Option<Vec<String>>, what: &str) -> CaseResult<Vec<String>> {
        command.map_or_else(|| skip(format!("the harness has no command that {what}")), Ok)
    }

    /// The configuration of a pod that no other has.
    pub(super) fn pod(&self) -> PodSandboxConfig {
        let n = PODS.fetch_add(1, Ordering::Relaxed);
        let uid = format!("c0f0{:04x}-0000-4000-8000-{n:012x}", std::process::id() & 0xffff);
        let name = format!("pod-{n}");
        let mut config = PodSandboxConfig {
            metadata: PodSandboxMetadata { name: name.clone(), uid, namespace: "conformance".into(), attempt: 0 },
            hostname: name,
            log_directory: self.logs.path().join(n.to_string()),
            ..PodSandboxConfig::default()
        };
        config.labels.insert("pod".into(), n.to_string());
        config.annotations.insert("note".into(), "kept as it is".into());
        if !self.harness.pod_network() {
            config.namespace_options.network = NamespaceMode::Node;
            config.hostname.clear();
        }
        self.harness.adjust(config)
    }

    pub(super) async fn run(&self, config: &PodSandboxConfig) -> CaseResult<String> {
        if let Err(e) = std::fs::create_dir_all(&config.log_directory) {
            return fail(format!("no directory for logs: {e}"));
        }
        ok(self.runtime().run_pod_sandbox(config, "").await, "run_pod_sandbox")
    }

    /// A new pod's sandbox.
    pub(super) async fn sandbox(&self) -> CaseResult<(PodSandboxConfig, String)> {
        let config = self.pod();
        let id = self.run(&config).await?;
        Ok((config, id))
    }

    /// The configuration of a container of the test image.
    pub(super) fn container(&self, name: &str, command: Vec<String>) -> ContainerConfig {
        let mut config = ContainerConfig {
            metadata: ContainerMetadata { name: name.into(), attempt: 0 },
            image: ImageSpec::new(self.harness.image()),
            command,
            log_path: format!("{name}.log").into(),
            ..ContainerConfig::default()
        };
        config.labels.insert("container".into(), name.into());
        config.annotations.insert("note".into(), "kept as it is".into());
        config.security_context.namespace_options.network = match self.harness.pod_network() {
            true => NamespaceMode::Pod,
            false => NamespaceMode::Node,
        };
        config
    }

    pub(super) async fn create(&self, sandbox: &(PodSandboxConfig, String), config: &ContainerConfig) -> CaseResult<String> {
        ok(self.runtime().create_container(&sandbox.1, config, &sandbox.0).await, "create_container")
    }

    pub(super) async fn start(&self, id: &str) -> CaseResult {
        ok(self.runtime().start_container(id).await, "start_container")
    }

    /// A container made and started.
    pub(super) async fn started(&self, sandbox: &(PodSandboxConfig, String), name: &str, command: Vec<String>) -> CaseResult<String> {
        let id = self.create(sandbox, &self.container(name, command)).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// A container that runs until it is stopped.
    pub(super) async fn sleeping(&self, sandbox: &(PodSandboxConfig, String), name: &str) -> CaseResult<String> {
        let id = self.started(sandbox, name, self.harness.sleep()).await?;
        let state = self.status(&id).await?.container.state;
        ensure!(state == ContainerState::Running, "a started container is {state:?}");
        Ok(id)
    }

    pub(super) async fn stop(&self, id: &str) -> CaseResult {
        ok(self.runtime().stop_container(id, GRACE).await, "stop_container")
    }

    pub(super) async fn status(&self, id: &str) -> CaseResult<ContainerStatus> {
        ok(self.runtime().container_status(id).await, "container_status")
    }

    /// Waits until a container has exited.
    pub(super) async fn exited(&self, id: &str) -> CaseResult<ContainerStatus> {
        loop {
            let status = self.status(id).await?;
            if status.container.state == ContainerState::Exited {
                return Ok(status);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until a running container has logged something.
    pub(super) async fn logged(&self, id: &str) -> CaseResult {
        let status = self.status(id).await?;
        while std::fs::metadata(&status.log_path).map_or(0, |m| m.len()) == 0 {
            let state = self.status(id).await?.container.state;
            ensure!(state == ContainerState::Running, "a container that was to print is {state:?}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    pub(super) async fn list(&self, filter: &ContainerFilter) -> CaseResult<Vec<Container>> {
        ok(self.runtime().list_containers(filter).await, "list_containers")
    }

    /// Ids of the containers that match, sorted.
    pub(super) async fn ids(&self, filter: &ContainerFilter) -> CaseResult<Vec<String>> {
        let mut ids: Vec<_> = self.list(filter).await?.into_iter().map(|c| c.id).collect();
        ids.sort();
        Ok(ids)
    }

    /// Ids of the sandboxes that match, sorted.
    pub(super) async fn sandbox_ids(&self, filter: &PodSandboxFilter) -> CaseResult<Vec<String>> {
        let list = ok(self.runtime().list_pod_sandbox(filter).await, "list_pod_sandbox")?;
        let mut ids: Vec<_> = list.into_iter().map(|s| s.id).collect();
        ids.sort();
        Ok(ids)
    }

    /// Replaces the runtime by another over what it left. Skips, or fails if that is declared to work.
    pub(super) async fn restart(&self) -> CaseResult {
        let runtime = self.runtime();
        if !runtime.capabilities().outlives_agent {
            return skip("outlives_agent is not declared");
        }
        // Ours must not be what keeps the old one alive.
        match self.harness.restart(runtime).await {
            Some(next) => {
                *self.runtime.lock() = next;
                Ok(())
            }
            None => fail("outlives_agent is declared, but the harness cannot restart it"),
        }
    }

    async fn clean(&self) -> CaseResult {
        let runtime = self.runtime();
        for id in self.sandbox_ids(&PodSandboxFilter::default()).await? {
            ok(runtime.remove_pod_sandbox(&id).await, "remove_pod_sandbox, cleaning up")?;
        }
        let left = self.list(&ContainerFilter::default()).await?;
        ensure!(left.is_empty(), "containers are left when every sandbox has been removed: {left:?}");
        Ok(())
    }
}
