//! Sandboxes.

use wharf_core::runtime::{ContainerFilter, ContainerState, NamespaceMode, PodSandboxFilter, PodSandboxState};

use super::bench::*;
use crate::{CaseResult, Stop, ensure, ensure_eq, skip};

fn by_id(id: &str) -> PodSandboxFilter {
    PodSandboxFilter { id: Some(id.into()), ..PodSandboxFilter::default() }
}

pub(super) async fn run_twice(b: &Bench<'_>) -> CaseResult {
    let (config, id) = b.sandbox().await?;
    ensure_eq!(b.run(&config).await?, id, "the id of the same pod's sandbox, run again");
    ensure_eq!(b.sandbox_ids(&PodSandboxFilter::default()).await?, [id], "all sandboxes");
    Ok(())
}

pub(super) async fn run_concurrently(b: &Bench<'_>) -> CaseResult {
    let config = b.pod();
    let ids = futures::future::join_all((0..4).map(|_| b.run(&config))).await;
    let ids = ids.into_iter().collect::<Result<Vec<_>, Stop>>()?;
    ensure!(ids.windows(2).all(|w| w[0] == w[1]), "concurrent runs of one sandbox gave {ids:?}");
    ensure_eq!(b.sandbox_ids(&PodSandboxFilter::default()).await?, ids[..1], "all sandboxes");
    Ok(())
}

pub(super) async fn another_attempt(b: &Bench<'_>) -> CaseResult {
    let (mut config, first) = b.sandbox().await?;
    ok(b.runtime().stop_pod_sandbox(&first).await, "stop_pod_sandbox")?;
    config.metadata.attempt = 1;
    let second = b.run(&config).await?;
    ensure!(first != second, "another attempt has the id of the first");
    let status = ok(b.runtime().pod_sandbox_status(&second).await, "pod_sandbox_status")?;
    ensure_eq!((status.sandbox.metadata.attempt, status.sandbox.state), (1, PodSandboxState::Ready), "the second attempt");
    Ok(())
}

pub(super) async fn another_pod(b: &Bench<'_>) -> CaseResult {
    let (config, first) = b.sandbox().await?;
    // A pod that was deleted and made again: only its uid is new.
    let mut again = b.pod();
    again.metadata.name = config.metadata.name.clone();
    let second = b.run(&again).await?;
    ensure!(first != second, "a pod of another uid has the id of the first");
    ensure_eq!(b.sandbox_ids(&PodSandboxFilter::default()).await?.len(), 2, "sandboxes");
    Ok(())
}

pub(super) async fn status(b: &Bench<'_>) -> CaseResult {
    let (config, id) = b.sandbox().await?;
    let status = ok(b.runtime().pod_sandbox_status(&id).await, "pod_sandbox_status")?;
    let sandbox = &status.sandbox;
    ensure_eq!(sandbox.id, id, "id");
    ensure_eq!(sandbox.metadata, config.metadata, "metadata");
    ensure_eq!(sandbox.state, PodSandboxState::Ready, "state");
    ensure_eq!(sandbox.labels, config.labels, "labels");
    ensure_eq!(sandbox.annotations, config.annotations, "annotations");
    ensure_eq!(sandbox.runtime_handler, "", "runtime handler");
    ensure_eq!(status.config, config, "the configuration it was made from");
    ensure_eq!(status.ips.is_empty(), !b.harness.pod_network(), "whether it has no address");
    let listed = ok(b.runtime().list_pod_sandbox(&by_id(&id)).await, "list_pod_sandbox")?;
    ensure_eq!(listed, [status.sandbox], "the sandbox as listed");
    Ok(())
}

pub(super) async fn addresses_differ(b: &Bench<'_>) -> CaseResult {
    if !b.harness.pod_network() {
        return skip("the harness gives sandboxes no network");
    }
    let mut addresses = Vec::new();
    for _ in 0..3 {
        let (_, id) = b.sandbox().await?;
        addresses.extend(ok(b.runtime().pod_sandbox_status(&id).await, "pod_sandbox_status")?.ips);
    }
    let count = addresses.len();
    addresses.sort();
    addresses.dedup();
    ensure_eq!(addresses.len(), count, "different addresses of three sandboxes");
    Ok(())
}

pub(super) async fn host_network(b: &Bench<'_>) -> CaseResult {
    let mut config = b.pod();
    config.namespace_options.network = NamespaceMode::Node;
    config.hostname.clear();
    let id = b.run(&config).await?;
    let status = ok(b.runtime().pod_sandbox_status(&id).await, "pod_sandbox_status")?;
    ensure!(status.ips.is_empty(), "a sandbox on the host's network has addresses of its own: {:?}", status.ips);
    Ok(())
}

pub(super) async fn list_filters(b: &Bench<'_>) -> CaseResult {
    let (config, first) = b.sandbox().await?;
    let (_, second) = b.sandbox().await?;
    ok(b.runtime().stop_pod_sandbox(&second).await, "stop_pod_sandbox")?;
    let none: [String; 0] = [];
    let (first, second) = ([first], [second]);
    ensure_eq!(b.sandbox_ids(&PodSandboxFilter::default()).await?.len(), 2, "sandboxes without a filter");
    ensure_eq!(b.sandbox_ids(&by_id(&first[0])).await?, first, "by id");
    ensure_eq!(b.sandbox_ids(&by_id(UNKNOWN)).await?, none, "by an unknown id");
    for (state, id) in [(PodSandboxState::Ready, &first), (PodSandboxState::NotReady, &second)] {
        let filter = PodSandboxFilter { state: Some(state), ..PodSandboxFilter::default() };
        ensure_eq!(b.sandbox_ids(&filter).await?, *id, "by state {state:?}");
    }
    let mut filter = PodSandboxFilter { label_selector: config.labels.clone(), ..PodSandboxFilter::default() };
    ensure_eq!(b.sandbox_ids(&filter).await?, first, "by labels");
    filter.state = Some(PodSandboxState::NotReady);
    ensure_eq!(b.sandbox_ids(&filter).await?, none, "by labels and another's state");
    filter.state = None;
    filter.label_selector.insert("absent".into(), "x".into());
    ensure_eq!(b.sandbox_ids(&filter).await?, none, "by labels of which one is absent");
    Ok(())
}

pub(super) async fn stop(b: &Bench<'_>) -> CaseResult {
    let (_, id) = b.sandbox().await?;
    for call in ["the first stop", "the second stop"] {
        ok(b.runtime().stop_pod_sandbox(&id).await, call)?;
        let status = ok(b.runtime().pod_sandbox_status(&id).await, "pod_sandbox_status")?;
        ensure_eq!(status.sandbox.state, PodSandboxState::NotReady, "the state after {call}");
    }
    ensure_eq!(b.sandbox_ids(&by_id(&id)).await?, [id], "a stopped sandbox in the list");
    Ok(())
}

pub(super) async fn stop_ends_containers(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let a = b.sleeping(&sandbox, "a").await?;
    let c = b.sleeping(&sandbox, "c").await?;
    ok(b.runtime().stop_pod_sandbox(&sandbox.1).await, "stop_pod_sandbox")?;
    for id in [a, c] {
        let state = b.status(&id).await?.container.state;
        ensure_eq!(state, ContainerState::Exited, "the state of a container of a stopped sandbox");
    }
    Ok(())
}

pub(super) async fn stop_unknown(b: &Bench<'_>) -> CaseResult {
    ok(b.runtime().stop_pod_sandbox(UNKNOWN).await, "stop_pod_sandbox of an unknown id")
}

pub(super) async fn remove(b: &Bench<'_>) -> CaseResult {
    let (_, id) = b.sandbox().await?;
    ok(b.runtime().stop_pod_sandbox(&id).await, "stop_pod_sandbox")?;
    for call in ["the first remove", "the second remove"] {
        ok(b.runtime().remove_pod_sandbox(&id).await, call)?;
        ensure!(b.sandbox_ids(&PodSandboxFilter::default()).await?.is_empty(), "after {call} the sandbox is listed");
        not_found(b.runtime().pod_sandbox_status(&id).await, "pod_sandbox_status")?;
    }
    Ok(())
}

pub(super) async fn remove_ready(b: &Bench<'_>) -> CaseResult {
    let sandbox = b.sandbox().await?;
    let container = b.sleeping(&sandbox, "a").await?;
    b.create(&sandbox, &b.container("created", b.harness.sleep())).await?;
    ok(b.runtime().remove_pod_sandbox(&sandbox.1).await, "remove_pod_sandbox with running containers")?;
    ensure!(b.sandbox_ids(&PodSandboxFilter::default()).await?.is_empty(), "a removed sandbox is listed");
    ensure!(b.ids(&ContainerFilter::default()).await?.is_empty(), "containers of a removed sandbox are listed");
    not_found(b.runtime().container_status(&container).await, "container_status")
}

pub(super) async fn remove_unknown(b: &Bench<'_>) -> CaseResult {
    ok(b.runtime().remove_pod_sandbox(UNKNOWN).await, "remove_pod_sandbox of an unknown id")
}

pub(super) async fn run_after_remove(b: &Bench<'_>) -> CaseResult {
    let (config, id) = b.sandbox().await?;
    ok(b.runtime().remove_pod_sandbox(&id).await, "remove_pod_sandbox")?;
    let again = b.run(&config).await?;
    let status = ok(b.runtime().pod_sandbox_status(&again).await, "pod_sandbox_status")?;
    ensure_eq!(status.sandbox.state, PodSandboxState::Ready, "the state of a sandbox that was removed and run again");
    ensure_eq!(b.sandbox_ids(&PodSandboxFilter::default()).await?, [again], "all sandboxes");
    Ok(())
}

pub(super) async fn status_unknown(b: &Bench<'_>) -> CaseResult {
    not_found(b.runtime().pod_sandbox_status(UNKNOWN).await, "pod_sandbox_status")
}
