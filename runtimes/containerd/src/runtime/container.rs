//! Containers.

use std::collections::HashSet;
use std::path::{Component, Path};
use std::time::Duration;

use k8s_cri::v1;
use serde::Deserialize;
use wharf_core::runtime::{
    Container, ContainerConfig, ContainerFilter, ContainerState, ContainerStats, ContainerStatus, LinuxContainerResources,
    PodSandboxConfig, PodSandboxState, RuntimeError, RuntimeResult,
};

use super::{ContainerdRuntime, RESERVED_POLL, sandbox};
use crate::client::{CALL_TIMEOUT, CREATE_CONTAINER_TIMEOUT, START_CONTAINER_TIMEOUT, STOP_MARGIN};
use crate::error::CriError;
use crate::translate;

const KIND: &str = "container";
const CREATE: &str = "create_container";
const START: &str = "start_container";
/// The part of CRI's verbose answer that has the process id; containerd and CRI-O agree on it.
const INFO: &str = "info";

#[derive(Debug, Default, Deserialize)]
struct Info {
    #[serde(default)]
    pid: u32,
}

fn not_found(id: &str) -> RuntimeError {
    RuntimeError::NotFound { kind: KIND, id: id.to_string() }
}

fn precondition(container: &Container, operation: &'static str) -> RuntimeError {
    RuntimeError::FailedPrecondition { id: container.id.clone(), state: format!("{:?}", container.state), operation }
}

async fn find(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<Option<Container>> {
    if id.is_empty() {
        return Ok(None);
    }
    let filter = ContainerFilter { id: Some(id.to_string()), ..ContainerFilter::default() };
    Ok(list(runtime, &filter).await?.into_iter().next())
}

/// The container of ours with this id.
pub(super) async fn owned(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<Container> {
    find(runtime, id).await?.ok_or_else(|| not_found(id))
}

/// The container of ours with this id, if it runs.
pub(super) async fn running(runtime: &ContainerdRuntime, id: &str, operation: &'static str) -> RuntimeResult<Container> {
    let container = owned(runtime, id).await?;
    if container.state == ContainerState::Running { Ok(container) } else { Err(precondition(&container, operation)) }
}

async fn existing(runtime: &ContainerdRuntime, sandbox_id: &str, config: &ContainerConfig) -> RuntimeResult<Option<String>> {
    let filter = ContainerFilter { pod_sandbox_id: Some(sandbox_id.to_string()), ..ContainerFilter::default() };
    let found = list(runtime, &filter).await?.into_iter().find(|c| c.pod_sandbox_id == sandbox_id && c.metadata == config.metadata);
    Ok(found.map(|c| c.id))
}

/// Runtimes name a container by the pod's uid, not by its sandbox: one of an earlier sandbox can be in the way.
async fn holder(runtime: &ContainerdRuntime, uid: &str, sandbox_id: &str, config: &ContainerConfig) -> RuntimeResult<Option<String>> {
    let mut client = runtime.cri.runtime();
    let filter = v1::ContainerFilter { label_selector: runtime.owner.pod_selector(uid), ..Default::default() };
    let request = v1::ListContainersRequest { filter: Some(filter) };
    let all = runtime.cri.call("list_containers", CALL_TIMEOUT, client.list_containers(request)).await?.containers;
    let holder = all.into_iter().map(translate::container);
    Ok(holder.filter(|c| c.metadata == config.metadata && c.pod_sandbox_id != sandbox_id).map(|c| c.id).next())
}

/// Runtimes open the log and make no folder for it.
async fn make_log_folder(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> RuntimeResult<()> {
    let path: &Path = &config.log_path;
    if sandbox.log_directory.as_os_str().is_empty() || path.as_os_str().is_empty() {
        return Ok(());
    }
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        let message = format!("{} leads out of the sandbox's log_directory; take a relative path without ..", path.display());
        return Err(RuntimeError::InvalidArgument { field: "log_path", message });
    }
    let path = sandbox.log_directory.join(path);
    let Some(folder) = path.parent() else { return Ok(()) };
    tokio::fs::create_dir_all(folder).await.map_err(|e| RuntimeError::transient(CREATE, e))
}

pub(super) async fn create(
    runtime: &ContainerdRuntime,
    sandbox_id: &str,
    config: &ContainerConfig,
    sandbox_config: &PodSandboxConfig,
) -> RuntimeResult<String> {
    let no_sandbox = || RuntimeError::NotFound { kind: "sandbox", id: sandbox_id.to_string() };
    let no_image = || RuntimeError::ImageNotPresent { image: config.image.image.clone() };
    let uid = &sandbox_config.metadata.uid;
    let sent = translate::container_config(config, uid, &runtime.owner, runtime.cgroup_v2)?;
    // A privileged container needs a sandbox that says it may be there.
    let sent_sandbox = translate::sandbox_config(sandbox_config, &runtime.owner, config.security_context.privileged)?;
    let deadline = runtime.cri.clock.monotonic() + CREATE_CONTAINER_TIMEOUT;
    loop {
        // Also what a call made whose answer never came.
        if let Some(id) = existing(runtime, sandbox_id, config).await? {
            return Ok(id);
        }
        let sandbox = sandbox::owned(runtime, sandbox_id).await?.ok_or_else(no_sandbox)?;
        if sandbox.state != PodSandboxState::Ready {
            let state = format!("{:?}", sandbox.state);
            return Err(RuntimeError::FailedPrecondition { id: sandbox.id, state, operation: CREATE });
        }
        if runtime.find_image(&config.image).await?.is_none() {
            return Err(no_image());
        }
        make_log_folder(sandbox_config, config).await?;
        let mut client = runtime.cri.runtime();
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_string(),
            config: Some(sent.clone()),
            sandbox_config: Some(sent_sandbox.clone()),
        };
        let failure = match runtime.cri.call(CREATE, CREATE_CONTAINER_TIMEOUT, client.create_container(request)).await {
            Ok(response) => return Ok(response.container_id),
            Err(failure) => failure,
        };
        if failure.is_not_found() {
            // What was there a moment ago: the image, or the sandbox.
            return Err(if runtime.find_image(&config.image).await?.is_none() { no_image() } else { no_sandbox() });
        }
        if !failure.is_name_reserved() || runtime.cri.clock.monotonic() >= deadline {
            return Err(failure.into());
        }
        if let Some(holder) = holder(runtime, uid, sandbox_id, config).await? {
            let advice = "it is in an earlier sandbox of the pod: remove that one, or take the next attempt";
            return Err(RuntimeError::transient(CREATE, CriError::NameHeld { holder, advice }));
        }
        runtime.cri.clock.sleep(RESERVED_POLL).await;
    }
}

pub(super) async fn start(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<()> {
    let container = owned(runtime, id).await?;
    match container.state {
        ContainerState::Running => return Ok(()),
        ContainerState::Created => {}
        ContainerState::Exited | ContainerState::Unknown => return Err(precondition(&container, START)),
    }
    let mut client = runtime.cri.runtime();
    let request = v1::StartContainerRequest { container_id: id.to_string() };
    let failure = match runtime.cri.call(START, START_CONTAINER_TIMEOUT, client.start_container(request)).await {
        Ok(_) => return Ok(()),
        Err(failure) => failure,
    };
    if failure.code().is_none() || failure.is_not_found() {
        return Err(failure.about(KIND, id));
    }
    // The code says nothing, the container does: one that could not be started has ended.
    match owned(runtime, id).await?.state {
        ContainerState::Running => Ok(()),
        ContainerState::Exited => Err(RuntimeError::StartFailed { id: id.to_string(), message: failure.message().to_string() }),
        ContainerState::Created | ContainerState::Unknown => Err(failure.into()),
    }
}

pub(super) async fn stop(runtime: &ContainerdRuntime, id: &str, timeout: Duration) -> RuntimeResult<()> {
    match find(runtime, id).await? {
        Some(container) if container.state != ContainerState::Exited => {}
        _ => return Ok(()),
    }
    let mut client = runtime.cri.runtime();
    let request = v1::StopContainerRequest { container_id: id.to_string(), timeout: translate::seconds(timeout) };
    let limit = timeout.saturating_add(STOP_MARGIN);
    match runtime.cri.call("stop_container", limit, client.stop_container(request)).await {
        Err(failure) if !failure.is_not_found() => Err(failure.into()),
        _ => Ok(()),
    }
}

pub(super) async fn remove(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<()> {
    if find(runtime, id).await?.is_none() {
        return Ok(());
    }
    let mut client = runtime.cri.runtime();
    let request = v1::RemoveContainerRequest { container_id: id.to_string() };
    match runtime.cri.call("remove_container", CALL_TIMEOUT, client.remove_container(request)).await {
        Err(failure) if !failure.is_not_found() => Err(failure.into()),
        _ => Ok(()),
    }
}

pub(super) async fn list(runtime: &ContainerdRuntime, filter: &ContainerFilter) -> RuntimeResult<Vec<Container>> {
    let Some(sent) = translate::container_filter(filter, &runtime.owner) else { return Ok(Vec::new()) };
    let mut client = runtime.cri.runtime();
    let request = v1::ListContainersRequest { filter: Some(sent) };
    let mut items = runtime.cri.call("list_containers", CALL_TIMEOUT, client.list_containers(request)).await?.containers;
    // An id that is but the beginning of another finds that one.
    items.retain(|item| {
        runtime.owner.owns(&item.labels)
            && filter.id.as_ref().is_none_or(|id| *id == item.id)
            && filter.pod_sandbox_id.as_ref().is_none_or(|id| *id == item.pod_sandbox_id)
    });
    Ok(items.into_iter().map(translate::container).collect())
}

pub(super) async fn status(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<ContainerStatus> {
    const OP: &str = "container_status";
    let container = owned(runtime, id).await?;
    let mut client = runtime.cri.runtime();
    let request = v1::ContainerStatusRequest { container_id: id.to_string(), verbose: true };
    let response = runtime.cri.call(OP, CALL_TIMEOUT, client.container_status(request)).await;
    let response = response.map_err(|failure| failure.about(KIND, id))?;
    let status = response.status.ok_or_else(|| RuntimeError::permanent(OP, CriError::Missing("status")))?;
    let info: Info = response.info.get(INFO).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    Ok(translate::container_status(container, status, info.pid))
}

pub(super) async fn update_resources(runtime: &ContainerdRuntime, id: &str, resources: &LinuxContainerResources) -> RuntimeResult<()> {
    owned(runtime, id).await?;
    let mut client = runtime.cri.runtime();
    let request = v1::UpdateContainerResourcesRequest {
        container_id: id.to_string(),
        linux: Some(translate::resources(resources, runtime.cgroup_v2)),
        ..Default::default()
    };
    let response = runtime.cri.call("update_container_resources", CALL_TIMEOUT, client.update_container_resources(request)).await;
    response.map(drop).map_err(|failure| failure.about(KIND, id))
}

pub(super) async fn reopen_log(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<()> {
    const OP: &str = "reopen_container_log";
    running(runtime, id, OP).await?;
    let mut client = runtime.cri.runtime();
    let request = v1::ReopenContainerLogRequest { container_id: id.to_string() };
    let response = runtime.cri.call(OP, CALL_TIMEOUT, client.reopen_container_log(request)).await;
    response.map(drop).map_err(|failure| failure.about(KIND, id))
}

pub(super) async fn list_stats(runtime: &ContainerdRuntime, filter: &ContainerFilter) -> RuntimeResult<Vec<ContainerStats>> {
    let Some(label_selector) = runtime.owner.selector(&filter.label_selector) else { return Ok(Vec::new()) };
    // CRI does not select statistics by state.
    let ids: HashSet<String> = list(runtime, filter).await?.into_iter().map(|c| c.id).collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut client = runtime.cri.runtime();
    let sent = v1::ContainerStatsFilter {
        id: filter.id.clone().unwrap_or_default(),
        pod_sandbox_id: filter.pod_sandbox_id.clone().unwrap_or_default(),
        label_selector,
    };
    let request = v1::ListContainerStatsRequest { filter: Some(sent) };
    let stats = runtime.cri.call("list_container_stats", CALL_TIMEOUT, client.list_container_stats(request)).await?.stats;
    Ok(stats.into_iter().map(translate::stats).filter(|stats| ids.contains(&stats.id)).collect())
}
