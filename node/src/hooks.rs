//! postStart and preStop, and stopping what they belong to.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use parking_lot::Mutex;
use wharf_core::events::EventType;
use wharf_core::runtime::{RuntimeError, RuntimeService};

use crate::pod;
use crate::probes::http;
use crate::shared::Shared;
use crate::snapshot::PodRuntime;

/// Longest that a hook over HTTP may take when nothing else bounds it.
const HTTP_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a hook failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookError {
    #[error("{0}")]
    Runtime(#[from] RuntimeError),
    #[error("command '{command}' exited with {code}: {output}")]
    Exit { command: String, code: i32, output: String },
    #[error("{0}")]
    Http(#[from] http::HttpError),
    #[error("invalid handler: it names no action that is supported")]
    Handler,
}

/// Runs a hook in a running container.
pub(crate) async fn run(
    shared: &Shared,
    container: &Container,
    id: &str,
    hook: &LifecycleHandler,
    ips: &[IpAddr],
) -> Result<(), HookError> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let result = shared.runtime.exec_sync(id, &command, Duration::ZERO).await?;
        if result.exit_code != 0 {
            let output = String::from_utf8_lossy(&result.stderr).chars().take(256).collect();
            return Err(HookError::Exit { command: command.join(" "), code: result.exit_code, output });
        }
        return Ok(());
    }
    if let Some(get) = &hook.http_get {
        let request = http::request(get, container, ips.first().copied().unwrap_or(shared.node_ip))?;
        http::probe(&*shared.clock, &request, HTTP_TIMEOUT).await?;
        return Ok(());
    }
    if let Some(sleep) = &hook.sleep {
        shared.clock.sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err(HookError::Handler)
}

/// Stops one container: preStop first, within the same grace.
pub(crate) async fn stop_container(
    shared: &Shared,
    pod: &Pod,
    runtime: &PodRuntime,
    name: &str,
    id: &str,
    grace: Duration,
    stopping: &Arc<Mutex<HashSet<String>>>,
) -> Result<(), RuntimeError> {
    let begun = shared.clock.monotonic();
    let container = pod.spec.as_ref().and_then(|s| pod::find(s, name)).map(|(c, _)| c);
    let hook = container.as_deref().and_then(|c| Some((c, c.lifecycle.as_ref()?.pre_stop.as_ref()?)));
    if let Some((container, hook)) = hook
        && shared.probing(runtime)
        && grace > Duration::from_secs(1)
        && stopping.lock().insert(id.into())
    {
        tokio::select! {
            done = run(shared, container, id, hook, &runtime.ips) => {
                if let Err(error) = done {
                    shared.container_event(pod, name, EventType::Warning, "FailedPreStopHook", format!("PreStopHook failed: {error}"));
                }
            }
            () = shared.clock.sleep(grace) => tracing::debug!("preStop took the whole grace"),
        }
    }
    let spent = shared.clock.monotonic().saturating_sub(begun);
    let left = grace.saturating_sub(spent).max(pod::MINIMUM_GRACE.min(grace));
    shared.runtime.stop_container(id, left).await
}

/// Stops the main containers together, then the sidecars from last to first, then the sandboxes.
pub(crate) async fn stop_pod(
    shared: &Shared,
    pod: &Pod,
    runtime: &PodRuntime,
    grace: Duration,
    stopping: &Arc<Mutex<HashSet<String>>>,
) -> Result<(), RuntimeError> {
    let begun = shared.clock.monotonic();
    let sidecars: Vec<&Container> = pod.spec.iter().flat_map(pod::init_containers).filter(|c| pod::is_sidecar(c)).collect();
    let stop = |name: String, id: String, grace: Duration| -> BoxFuture<'_, Result<(), RuntimeError>> {
        Box::pin(async move {
            if !stopping.lock().contains(&id) {
                shared.container_event(pod, &name, EventType::Normal, "Killing", format!("Stopping container {name}"));
            }
            stop_container(shared, pod, runtime, &name, &id, grace, stopping).await
        })
    };
    let main = runtime.running().map(|c| &c.container).filter(|c| !sidecars.iter().any(|s| s.name == c.metadata.name));
    let stops: Vec<_> = main.map(|c| stop(c.metadata.name.clone(), c.id.clone(), grace)).collect();
    try_join_all(stops).await?;
    for sidecar in sidecars.iter().rev() {
        for running in runtime.running().filter(|c| c.container.metadata.name == sidecar.name) {
            let left = grace.saturating_sub(shared.clock.monotonic().saturating_sub(begun)).max(pod::MINIMUM_GRACE.min(grace));
            stop(sidecar.name.clone(), running.container.id.clone(), left).await?;
        }
    }
    for sandbox in &runtime.sandboxes {
        shared.runtime.stop_pod_sandbox(&sandbox.id).await?;
    }
    Ok(())
}
