//! A pod's sandbox and containers as CRI configurations.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod};
use wharf_core::runtime::{
    ContainerConfig, ContainerMetadata, Image, ImageSpec, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};

use crate::env::{self, ConfigError, expand};
use crate::shared::Shared;
use crate::snapshot::PodRuntime;
use crate::volumes::PodVolumes;
use crate::{dns, labels, pod, security};

/// How long a first container start waits for the list of Services.
const SERVICES_WAIT: std::time::Duration = std::time::Duration::from_secs(2);

/// The sandbox of a pod.
pub(crate) fn sandbox(shared: &Shared, pod: &Pod, attempt: u32) -> PodSandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let host_network = spec.host_network == Some(true);
    let mappings = spec.containers.iter().chain(pod::init_containers(&spec)).flat_map(|c| c.ports.iter().flatten()).filter_map(|p| {
        Some(PortMapping {
            protocol: p.protocol.as_deref().unwrap_or("TCP").parse().unwrap_or(Protocol::Tcp),
            container_port: u16::try_from(p.container_port).ok()?,
            host_port: p.host_port.and_then(|h| u16::try_from(h).ok()).filter(|h| *h > 0)?,
            host_ip: p.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
        })
    });
    PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: pod::name(pod).into(),
            uid: pod::uid(pod).into(),
            namespace: pod::namespace(pod).into(),
            attempt,
        },
        hostname: if host_network { String::new() } else { dns::hostname(pod) },
        log_directory: shared.pod_log_dir(pod),
        dns_config: dns::config(pod, shared.cluster_dns.as_ref(), dns::of_host),
        port_mappings: if host_network { Vec::new() } else { mappings.collect() },
        labels: labels::sandbox(&shared.name, pod),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        cgroup_parent: String::new(),
        namespace_options: security::namespaces(pod),
        sysctls: spec.security_context.and_then(|s| s.sysctls).unwrap_or_default().into_iter().map(|s| (s.name, s.value)).collect(),
    }
}

/// `NAME/ATTEMPT.log`, under the pod's log directory.
pub(crate) fn log_path(name: &str, attempt: u32) -> PathBuf {
    PathBuf::from(name).join(format!("{attempt}.log"))
}

/// One container.
pub(crate) async fn container(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    attempt: u32,
    image: &Image,
    runtime: &PodRuntime,
    volumes: &PodVolumes,
) -> Result<ContainerConfig, ConfigError> {
    security::verify_non_root(pod, container, image)?;
    let facts = shared.facts(pod, &runtime.ips);
    let services = match shared.services.get() {
        Some(reader) => {
            tokio::select! {
                () = reader.synced() => {}
                () = shared.clock.sleep(SERVICES_WAIT) => tracing::warn!("no list of services yet: variables of services are left out"),
            }
            let links = pod.spec.as_ref().and_then(|s| s.enable_service_links) != Some(false);
            let mut known = reader.list_in(pod::namespace(pod));
            if pod::namespace(pod) != "default" {
                known.extend(reader.get(&wharf_core::object::ObjectRef::new("default", "kubernetes")));
            }
            env::service_variables(pod::namespace(pod), links, &known)
        }
        None => Default::default(),
    };
    let envs = env::make(&*shared.api, pod, container, &facts, services).await?;
    let mounts = volumes.mounts(shared, pod, container, attempt, &envs).await?;
    Ok(ContainerConfig {
        metadata: ContainerMetadata { name: container.name.clone(), attempt },
        image: ImageSpec::new(container.image.clone().unwrap_or_default()),
        command: expand_all(&container.command, &envs),
        args: expand_all(&container.args, &envs),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        labels: labels::container(&shared.name, pod, &container.name),
        annotations: labels::annotations(pod, container, attempt),
        log_path: log_path(&container.name, attempt),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        resources: security::resources(pod, container, shared.machine.memory_bytes(), shared.pids_limit),
        security_context: security::context(pod, container),
        stop_signal: container.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        envs,
    })
}

fn expand_all(words: &Option<Vec<String>>, envs: &[(String, String)]) -> Vec<String> {
    words.iter().flatten().map(|word| expand(word, |name| env::lookup(envs, name))).collect()
}
