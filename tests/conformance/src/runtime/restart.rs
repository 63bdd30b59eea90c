//! Restart of the agent: what runs goes on and is found again, exactly.

use wharf_core::runtime::{ContainerFilter, ContainerState, PodSandboxFilter};

use super::bench::*;
use crate::{CaseResult, ensure, ensure_eq};

pub(super) async fn adopts(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let running = b.sleeping(&sandbox, "running").await?;
    let created = b.create(&sandbox, &b.container("created", b.harness.sleep())).await?;
    let exited = b.sleeping(&sandbox, "exited").await?;
    b.stop(&exited).await?;
    let mut before = Vec::new();
    for id in [&running, &created, &exited] {
        before.push(b.status(id).await?);
    }
    let pod_before = ok(b.runtime().pod_sandbox_status(&sandbox.1).await, "pod_sandbox_status")?;
    b.restart().await?;
    for status in before {
        ensure_eq!(b.status(&status.container.id).await?, status, "a container after a restart");
    }
    let pod = ok(b.runtime().pod_sandbox_status(&sandbox.1).await, "pod_sandbox_status")?;
    ensure_eq!(pod, pod_before, "the sandbox after a restart");
    ensure_eq!(b.ids(&ContainerFilter::default()).await?.len(), 3, "containers after a restart");
    Ok(())
}

pub(super) async fn keeps_idempotence(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let config = b.container("a", b.harness.sleep());
    let id = b.create(&sandbox, &config).await?;
    b.start(&id).await?;
    b.restart().await?;
    ensure_eq!(b.run(&sandbox.0).await?, sandbox.1, "the id of the same pod's sandbox, run again after a restart");
    ensure_eq!(b.create(&sandbox, &config).await?, id, "the id of the same container, created again after a restart");
    ensure_eq!(b.sandbox_ids(&PodSandboxFilter::default()).await?.len(), 1, "sandboxes after a restart");
    Ok(())
}

/// What was adopted can be used, stopped with a true exit code, and removed.
pub(super) async fn goes_on(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let created = b.create(&sandbox, &b.container("b", b.harness.sleep())).await?;
    b.restart().await?;
    if b.runtime().capabilities().exec {
        let exit = b.need(b.harness.exit(7), "exits with a code")?;
        let result = ok(b.runtime().exec_sync(&id, &exit, GRACE).await, "exec_sync after a restart")?;
        ensure_eq!(result.exit_code, 7, "the exit code of an exec after a restart");
    }
    b.start(&created).await?;
    ensure_eq!(b.status(&created).await?.container.state, ContainerState::Running, "a container started after a restart");
    b.stop(&id).await?;
    let status = b.status(&id).await?;
    ensure_eq!(status.container.state, ContainerState::Exited, "the state of a container stopped after a restart");
    ensure!(!status.reason.is_empty() && status.finished_at.is_some(), "it has no reason or end: {status:?}");
    // What has exited stays exited over another restart.
    b.restart().await?;
    ensure_eq!(b.status(&id).await?, status, "an exited container after another restart");
    ok(b.runtime().remove_container(&id).await, "remove_container after a restart")?;
    not_found(b.runtime().container_status(&id).await, "container_status")
}
