//! Containers.

use std::time::Duration;

use wharf_core::runtime::{ContainerFilter, ContainerState, ImageSpec, LinuxContainerResources, RuntimeError};

use super::bench::*;
use crate::{CaseResult, Stop, ensure, ensure_eq, fail, skip};

pub(super) async fn create_twice(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let config = b.container("a", b.harness.sleep());
    let id = b.create(&sandbox, &config).await?;
    ensure_eq!(b.create(&sandbox, &config).await?, id, "the id of the same container, created again");
    b.start(&id).await?;
    ensure_eq!(b.create(&sandbox, &config).await?, id, "the id of the same container, created again while it runs");
    ensure_eq!(b.ids(&ContainerFilter::default()).await?, [id], "all containers");
    Ok(())
}

pub(super) async fn create_concurrently(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let config = b.container("a", b.harness.sleep());
    let ids = futures::future::join_all((0..4).map(|_| b.create(&sandbox, &config))).await;
    let ids = ids.into_iter().collect::<Result<Vec<_>, Stop>>()?;
    ensure!(ids.windows(2).all(|w| w[0] == w[1]), "concurrent creates of one container gave {ids:?}");
    ensure_eq!(b.ids(&ContainerFilter::default()).await?, ids[..1], "all containers");
    Ok(())
}

pub(super) async fn another_attempt(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let mut config = b.container("a", b.harness.sleep());
    let first = b.create(&sandbox, &config).await?;
    config.metadata.attempt = 1;
    let second = b.create(&sandbox, &config).await?;
    ensure!(first != second, "another attempt has the id of the first");
    ensure_eq!(b.status(&second).await?.container.metadata, config.metadata, "metadata of the second attempt");
    // The same name in another sandbox is another container.
    let other = b.sandbox().await?;
    let third = b.create(&other, &config).await?;
    ensure!(third != second, "a container of another sandbox has the id of the first");
    Ok(())
}

pub(super) async fn create_unknown_sandbox(b: &Bench<'_>) -> CaseResult {
    let config = b.container("a", b.harness.sleep());
    not_found(b.runtime().create_container(UNKNOWN, &config, &b.pod()).await, "create_container in a sandbox")
}

pub(super) async fn create_stopped_sandbox(b: &Bench<'_>) -> CaseResult {
    let (pod, sandbox) = b.sandbox().await?;
    ok(b.runtime().stop_pod_sandbox(&sandbox).await, "stop_pod_sandbox")?;
    let config = b.container("a", b.harness.sleep());
    match b.runtime().create_container(&sandbox, &config, &pod).await {
        Err(RuntimeError::FailedPrecondition { .. }) => Ok(()),
        other => fail(format!("create_container in a stopped sandbox: expected FailedPrecondition, got {other:?}")),
    }
}

pub(super) async fn create_absent_image(b: &Bench<'_>) -> CaseResult {
    if !b.has_images() {
        return skip(super::image::NOT_DECLARED);
    }
    let (pod, sandbox) = b.sandbox().await?;
    let mut config = b.container("a", b.harness.sleep());
    config.image = ImageSpec::new("conformance.invalid/never-pulled:v1");
    match b.runtime().create_container(&sandbox, &config, &pod).await {
        Err(RuntimeError::ImageNotPresent { .. }) => {}
        other => return fail(format!("create_container of an absent image: expected ImageNotPresent, got {other:?}")),
    }
    ensure!(b.ids(&ContainerFilter::default()).await?.is_empty(), "a container without an image is listed");
    Ok(())
}

pub(super) async fn states(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.create(&sandbox, &b.container("a", b.harness.sleep())).await?;
    let created = b.status(&id).await?;
    ensure_eq!(created.container.state, ContainerState::Created, "the state after create");
    ensure_eq!((created.started_at, created.finished_at), (None, None), "start and end of a created container");
    b.start(&id).await?;
    let running = b.status(&id).await?;
    ensure_eq!(running.container.state, ContainerState::Running, "the state after start");
    ensure!(running.started_at.is_some() && running.finished_at.is_none(), "a running container has no start, or an end");
    ensure_eq!(running.reason, "", "the reason of a running container");
    ensure_eq!(running.pid != 0, b.runtime().capabilities().processes, "whether a running container has a process");
    b.stop(&id).await?;
    let exited = b.status(&id).await?;
    ensure_eq!(exited.container.state, ContainerState::Exited, "the state after stop");
    ensure_eq!(exited.started_at, running.started_at, "the start of an exited container");
    ensure!(exited.finished_at >= exited.started_at, "a container ended before it started");
    ensure!(!exited.reason.is_empty(), "an exited container has no reason");
    ensure_eq!(exited.container.created_at, created.container.created_at, "when it was made");
    Ok(())
}

pub(super) async fn status(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let config = b.container("a", b.harness.sleep());
    let id = b.create(&sandbox, &config).await?;
    let status = b.status(&id).await?;
    let container = &status.container;
    ensure_eq!((&container.id, &container.pod_sandbox_id), (&id, &sandbox.1), "id and sandbox");
    ensure_eq!(container.metadata, config.metadata, "metadata");
    ensure_eq!(container.image, config.image, "image as asked for");
    ensure!(!container.image_ref.is_empty(), "it has no image id");
    ensure_eq!((&container.labels, &container.annotations), (&config.labels, &config.annotations), "labels and annotations");
    ensure_eq!(status.log_path, sandbox.0.log_directory.join(&config.log_path), "log path");
    Ok(())
}

pub(super) async fn start_twice(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let before = b.status(&id).await?;
    ok(b.runtime().start_container(&id).await, "start_container of a running container")?;
    ensure_eq!(b.status(&id).await?, before, "a running container that was started again");
    Ok(())
}

pub(super) async fn start_unknown(b: &Bench<'_>) -> CaseResult {
    not_found(b.runtime().start_container(UNKNOWN).await, "start_container")
}

pub(super) async fn start_exited(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    b.stop(&id).await?;
    let before = b.status(&id).await?;
    match b.runtime().start_container(&id).await {
        Err(RuntimeError::FailedPrecondition { .. }) => {}
        other => return fail(format!("start_container of an exited container: expected FailedPrecondition, got {other:?}")),
    }
    ensure_eq!(b.status(&id).await?, before, "an exited container that was started again");
    Ok(())
}

pub(super) async fn start_error(b: &Bench<'_>) -> CaseResult {
    let command = b.need(b.harness.missing(), "is not in the image")?;
    let sandbox = b.sandbox().await?;
    let id = b.create(&sandbox, &b.container("a", command)).await?;
    match b.runtime().start_container(&id).await {
        Err(RuntimeError::StartFailed { message, .. }) => ensure!(!message.is_empty(), "StartFailed has no message"),
        other => return fail(format!("start of a missing command: expected StartFailed, got {other:?}")),
    }
    let status = b.exited(&id).await?;
    ensure_eq!(status.reason, "StartError", "the reason of a container that could not start");
    ensure!(!status.message.is_empty(), "StartError has no message");
    ensure!(status.exit_code != 0, "a container that could not start has exit code 0");
    ok(b.runtime().remove_container(&id).await, "remove_container of what could not start")?;
    // The sandbox is none the worse.
    b.sleeping(&sandbox, "next").await.map(drop)
}

pub(super) async fn exit_code(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    for (code, reason) in [(0, "Completed"), (1, "Error"), (7, "Error"), (255, "Error")] {
        let command = b.need(b.harness.exit(code), "exits with a code")?;
        let id = b.started(&sandbox, &format!("exit-{code}"), command).await?;
        let status = b.exited(&id).await?;
        ensure_eq!((status.exit_code, status.signal, status.reason.as_str()), (code, 0, reason), "how exit {code} ended");
        ensure!(status.started_at.is_some() && status.finished_at >= status.started_at, "it has no start, or ended before it");
        ensure_eq!(status.pid, 0, "the process of an exited container");
    }
    Ok(())
}

pub(super) async fn stop(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let other = b.sleeping(&sandbox, "b").await?;
    b.stop(&id).await?;
    // No waiting: on return it has exited.
    ensure_eq!(b.status(&id).await?.container.state, ContainerState::Exited, "the state when stop has returned");
    ensure_eq!(b.status(&other).await?.container.state, ContainerState::Running, "the state of the other container");
    Ok(())
}

pub(super) async fn stop_twice(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    b.stop(&id).await?;
    let first = b.status(&id).await?;
    ok(b.runtime().stop_container(&id, Duration::ZERO).await, "stop_container of an exited container")?;
    ensure_eq!(b.status(&id).await?, first, "an exited container that was stopped again");
    Ok(())
}

pub(super) async fn stop_created(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.create(&sandbox, &b.container("a", b.harness.sleep())).await?;
    ok(b.runtime().stop_container(&id, GRACE).await, "stop_container of a created container")?;
    let state = b.status(&id).await?.container.state;
    // What never ran may stay what it is, as with containerd.
    ensure!(matches!(state, ContainerState::Created | ContainerState::Exited), "a created container that was stopped is {state:?}");
    ok(b.runtime().remove_container(&id).await, "remove_container of a created container that was stopped")
}

/// Past its time, a container that does not listen is killed.
pub(super) async fn stop_kills(b: &Bench<'_>) -> CaseResult {
    let command = b.want(b.harness.ignore_sigterm(), "ignores SIGTERM")?;
    let sandbox = b.sandbox().await?;
    let id = b.started(&sandbox, "a", command).await?;
    if b.harness.ignore_sigterm_prints() {
        b.logged(&id).await?;
    }
    ok(b.runtime().stop_container(&id, Duration::from_millis(300)).await, "stop_container")?;
    let status = b.status(&id).await?;
    ensure_eq!(status.container.state, ContainerState::Exited, "the state when stop has returned");
    ensure_eq!(status.exit_code, 137, "the exit code of a killed container");
    ensure!(matches!(status.signal, 0 | 9), "a killed container was ended by signal {}", status.signal);
    Ok(())
}

pub(super) async fn stop_unknown(b: &Bench<'_>) -> CaseResult {
    ok(b.runtime().stop_container(UNKNOWN, GRACE).await, "stop_container of an unknown id")
}

pub(super) async fn remove(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let other = b.create(&sandbox, &b.container("b", b.harness.sleep())).await?;
    let rest = [other.clone()];
    b.stop(&id).await?;
    for call in ["the first remove", "the second remove"] {
        ok(b.runtime().remove_container(&id).await, call)?;
        ensure_eq!(b.ids(&ContainerFilter::default()).await?, rest, "all containers after {call}");
        not_found(b.runtime().container_status(&id).await, "container_status")?;
    }
    ok(b.runtime().remove_container(&other).await, "remove_container of a created container")?;
    ensure!(b.ids(&ContainerFilter::default()).await?.is_empty(), "a removed container is listed");
    Ok(())
}

pub(super) async fn remove_running(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    ok(b.runtime().remove_container(&id).await, "remove_container of a running container")?;
    ensure!(b.ids(&ContainerFilter::default()).await?.is_empty(), "a removed container is listed");
    not_found(b.runtime().container_status(&id).await, "container_status")
}

pub(super) async fn remove_unknown(b: &Bench<'_>) -> CaseResult {
    ok(b.runtime().remove_container(UNKNOWN).await, "remove_container of an unknown id")
}

pub(super) async fn create_after_remove(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let config = b.container("a", b.harness.sleep());
    let first = b.create(&sandbox, &config).await?;
    ok(b.runtime().remove_container(&first).await, "remove_container")?;
    let second = b.create(&sandbox, &config).await?;
    b.start(&second).await?;
    ensure_eq!(b.status(&second).await?.container.state, ContainerState::Running, "the state of a container made again");
    Ok(())
}

pub(super) async fn list_filters(b: &Bench<'_>) -> CaseResult {
    let first = b.sandbox().await?;
    let second = b.sandbox().await?;
    let running = b.sleeping(&first, "running").await?;
    let created = b.create(&first, &b.container("created", b.harness.sleep())).await?;
    let exited = b.sleeping(&second, "exited").await?;
    b.stop(&exited).await?;
    let all = ContainerFilter::default;
    let sorted = |ids: &[&String]| {
        let mut ids: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
        ids.sort();
        ids
    };
    ensure_eq!(b.ids(&all()).await?, sorted(&[&running, &created, &exited]), "containers without a filter");
    ensure_eq!(b.ids(&ContainerFilter { id: Some(created.clone()), ..all() }).await?, sorted(&[&created]), "by id");
    ensure_eq!(b.ids(&ContainerFilter { id: Some(UNKNOWN.into()), ..all() }).await?, sorted(&[]), "by an unknown id");
    let in_first = ContainerFilter { pod_sandbox_id: Some(first.1.clone()), ..all() };
    ensure_eq!(b.ids(&in_first).await?, sorted(&[&running, &created]), "by sandbox");
    for (state, id) in [(ContainerState::Running, &running), (ContainerState::Created, &created), (ContainerState::Exited, &exited)] {
        ensure_eq!(b.ids(&ContainerFilter { state: Some(state), ..all() }).await?, sorted(&[id]), "by state {state:?}");
    }
    let labelled = |name: &str| [("container".to_string(), name.to_string())].into();
    ensure_eq!(b.ids(&ContainerFilter { label_selector: labelled("created"), ..all() }).await?, sorted(&[&created]), "by label");
    ensure_eq!(
        b.ids(&ContainerFilter { label_selector: labelled("exited"), ..in_first }).await?,
        sorted(&[]),
        "by sandbox and another's label"
    );
    Ok(())
}

/// List and status tell the same of every container, in every state.
pub(super) async fn list_agrees(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    b.create(&sandbox, &b.container("created", b.harness.sleep())).await?;
    b.sleeping(&sandbox, "running").await?;
    let exited = b.sleeping(&sandbox, "exited").await?;
    b.stop(&exited).await?;
    let listed = b.list(&ContainerFilter::default()).await?;
    ensure_eq!(listed.len(), 3, "containers listed");
    for container in listed {
        ensure_eq!(container, b.status(&container.id).await?.container, "a container in the list, and in its status");
    }
    Ok(())
}

pub(super) async fn status_unknown(b: &Bench<'_>) -> CaseResult {
    not_found(b.runtime().container_status(UNKNOWN).await, "container_status")
}

pub(super) async fn resources(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let limits = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..LinuxContainerResources::default() };
    let result = b.runtime().update_container_resources(&id, &limits).await;
    if !b.runtime().capabilities().resources {
        return unsupported(result, "update_container_resources");
    }
    ok(result, "update_container_resources")?;
    ensure_eq!(b.status(&id).await?.container.state, ContainerState::Running, "the state after an update");
    not_found(b.runtime().update_container_resources(UNKNOWN, &limits).await, "update_container_resources")
}

pub(super) async fn stats(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let id = b.sleeping(&sandbox, "a").await?;
    let stats = ok(b.runtime().list_container_stats(&ContainerFilter::default()).await, "list_container_stats")?;
    ensure_eq!(stats.iter().map(|s| s.id.clone()).collect::<Vec<_>>(), [id], "containers with statistics");
    ensure_eq!(stats[0].metadata.name, "a", "its name");
    let filter = ContainerFilter { id: Some(UNKNOWN.into()), ..ContainerFilter::default() };
    let stats = ok(b.runtime().list_container_stats(&filter).await, "list_container_stats")?;
    ensure!(stats.is_empty(), "an unknown container has statistics");
    Ok(())
}
