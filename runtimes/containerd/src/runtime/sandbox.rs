//! Sandboxes.

use std::collections::HashMap;

use k8s_cri::v1;
use wharf_core::runtime::{
    PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, PodSandboxStatus, RuntimeError, RuntimeResult,
};

use super::{ContainerdRuntime, RESERVED_POLL};
use crate::client::{CALL_TIMEOUT, RUN_POD_SANDBOX_TIMEOUT, STOP_MARGIN};
use crate::error::{CriError, Failure};
use crate::translate;

const RUN: &str = "run_pod_sandbox";
const KIND: &str = "sandbox";

async fn items(runtime: &ContainerdRuntime, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>, Failure> {
    let mut client = runtime.cri.runtime();
    let request = v1::ListPodSandboxRequest { filter: Some(filter) };
    Ok(runtime.cri.call("list_pod_sandbox", CALL_TIMEOUT, client.list_pod_sandbox(request)).await?.items)
}

fn is(item: &v1::PodSandbox, metadata: &PodSandboxMetadata) -> bool {
    let found = item.metadata.as_ref();
    found.is_some_and(|m| {
        (&m.name, &m.namespace, &m.uid, m.attempt) == (&metadata.name, &metadata.namespace, &metadata.uid, metadata.attempt)
    })
}

/// The sandbox of ours with this id.
pub(super) async fn owned(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<Option<PodSandbox>> {
    if id.is_empty() {
        return Ok(None);
    }
    let filter = PodSandboxFilter { id: Some(id.to_string()), ..PodSandboxFilter::default() };
    Ok(list(runtime, &filter).await?.into_iter().next())
}

async fn existing(runtime: &ContainerdRuntime, metadata: &PodSandboxMetadata) -> RuntimeResult<Option<String>> {
    let filter = v1::PodSandboxFilter { label_selector: runtime.owner.pod_selector(&metadata.uid), ..Default::default() };
    Ok(items(runtime, filter).await?.into_iter().find(|item| is(item, metadata)).map(|item| item.id))
}

/// Who has the name of a sandbox, when it is not us.
async fn foreign_holder(runtime: &ContainerdRuntime, metadata: &PodSandboxMetadata) -> RuntimeResult<Option<String>> {
    let all = items(runtime, v1::PodSandboxFilter { label_selector: HashMap::new(), ..Default::default() }).await?;
    Ok(all.into_iter().find(|item| is(item, metadata) && !runtime.owner.owns(&item.labels)).map(|item| item.id))
}

pub(super) async fn run(runtime: &ContainerdRuntime, config: &PodSandboxConfig, handler: &str) -> RuntimeResult<String> {
    let sent = translate::sandbox_config(config, &runtime.owner, false)?;
    let deadline = runtime.cri.clock.monotonic() + RUN_POD_SANDBOX_TIMEOUT;
    loop {
        // Also what a call made whose answer never came.
        if let Some(id) = existing(runtime, &config.metadata).await? {
            return Ok(id);
        }
        let mut client = runtime.cri.runtime();
        let request = v1::RunPodSandboxRequest { config: Some(sent.clone()), runtime_handler: handler.to_string() };
        let failure = match runtime.cri.call(RUN, RUN_POD_SANDBOX_TIMEOUT, client.run_pod_sandbox(request)).await {
            Ok(response) => return Ok(response.pod_sandbox_id),
            Err(failure) => failure,
        };
        if !failure.is_name_reserved() || runtime.cri.clock.monotonic() >= deadline {
            return Err(failure.into());
        }
        // It is being made by another call, or being taken away after one that failed.
        if let Some(holder) = foreign_holder(runtime, &config.metadata).await? {
            let advice = "it belongs to another owner on this socket: give its owner, or remove it there";
            return Err(RuntimeError::permanent(RUN, CriError::NameHeld { holder, advice }));
        }
        runtime.cri.clock.sleep(RESERVED_POLL).await;
    }
}

pub(super) async fn stop(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<()> {
    if owned(runtime, id).await?.is_none() {
        return Ok(());
    }
    let mut client = runtime.cri.runtime();
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_string() };
    match runtime.cri.call("stop_pod_sandbox", STOP_MARGIN, client.stop_pod_sandbox(request)).await {
        Err(failure) if !failure.is_not_found() => Err(failure.into()),
        _ => Ok(()),
    }
}

pub(super) async fn remove(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<()> {
    if owned(runtime, id).await?.is_none() {
        return Ok(());
    }
    // containerd refuses to remove a sandbox that is ready.
    stop(runtime, id).await?;
    let mut client = runtime.cri.runtime();
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_string() };
    match runtime.cri.call("remove_pod_sandbox", CALL_TIMEOUT, client.remove_pod_sandbox(request)).await {
        Err(failure) if !failure.is_not_found() => Err(failure.into()),
        _ => Ok(()),
    }
}

pub(super) async fn status(runtime: &ContainerdRuntime, id: &str) -> RuntimeResult<PodSandboxStatus> {
    const OP: &str = "pod_sandbox_status";
    let not_found = || RuntimeError::NotFound { kind: KIND, id: id.to_string() };
    if id.is_empty() {
        return Err(not_found());
    }
    let mut client = runtime.cri.runtime();
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_string(), verbose: false };
    let response = runtime.cri.call(OP, CALL_TIMEOUT, client.pod_sandbox_status(request)).await;
    let status = response.map_err(|failure| failure.about(KIND, id))?.status;
    let status = status.ok_or_else(|| RuntimeError::permanent(OP, CriError::Missing("status")))?;
    // An id that is but the beginning of another finds that one.
    if status.id != id || !runtime.owner.owns(&status.labels) {
        return Err(not_found());
    }
    Ok(translate::sandbox_status(status))
}

pub(super) async fn list(runtime: &ContainerdRuntime, filter: &PodSandboxFilter) -> RuntimeResult<Vec<PodSandbox>> {
    let Some(sent) = translate::sandbox_filter(filter, &runtime.owner) else { return Ok(Vec::new()) };
    let mut items = items(runtime, sent).await?;
    items.retain(|item| runtime.owner.owns(&item.labels) && filter.id.as_ref().is_none_or(|id| *id == item.id));
    Ok(items.into_iter().map(translate::sandbox).collect())
}
