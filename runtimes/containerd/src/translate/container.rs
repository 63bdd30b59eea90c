//! Containers.

use std::collections::HashMap;

use k8s_cri::v1;
use wharf_core::runtime::{
    Container, ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState, ContainerStats, ContainerStatus, ImageSpec,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount, MountPropagation, RuntimeError, RuntimeResult,
};

use super::{image_spec, namespace_options, time};
use crate::owner::{self, Owner};

/// What is hidden from a container that asks for the default. CRI has no word for it: an empty list hides nothing.
const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// What a container that asks for the default cannot write.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A container's configuration, marked as ours.
pub(crate) fn container_config(
    config: &ContainerConfig,
    pod_uid: &str,
    owner: &Owner,
    cgroup_v2: bool,
) -> RuntimeResult<v1::ContainerConfig> {
    if config.stop_signal.is_some() {
        return Err(RuntimeError::Unsupported { capability: "a stop signal other than the image's (CRI 1.32 has no field for it)" });
    }
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: config.metadata.name.clone(), attempt: config.metadata.attempt }),
        image: Some(image_spec(&config.image)),
        command: config.command.clone(),
        args: config.args.clone(),
        working_dir: config.working_dir.clone(),
        envs: config.envs.iter().map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone() }).collect(),
        mounts: config.mounts.iter().map(mount).collect(),
        labels: owner.labels(&config.labels, pod_uid)?,
        annotations: owner::container_annotations(&config.annotations, &config.image)?,
        log_path: config.log_path.to_string_lossy().into_owned(),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        tty: config.tty,
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(resources(&config.resources, cgroup_v2)),
            security_context: Some(security_context(&config.security_context)),
        }),
        ..Default::default()
    })
}

/// Limits. CRI has none on processes but for cgroup v2; there it takes the kernel's own names.
pub(crate) fn resources(resources: &LinuxContainerResources, cgroup_v2: bool) -> v1::LinuxContainerResources {
    let mut unified = HashMap::new();
    if cgroup_v2 && resources.pids_limit > 0 {
        unified.insert("pids.max".to_string(), resources.pids_limit.to_string());
    }
    v1::LinuxContainerResources {
        cpu_period: resources.cpu_period,
        cpu_quota: resources.cpu_quota,
        cpu_shares: resources.cpu_shares,
        memory_limit_in_bytes: resources.memory_limit_in_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        unified,
        ..Default::default()
    }
}

fn security_context(context: &LinuxContainerSecurityContext) -> v1::LinuxContainerSecurityContext {
    let paths = |paths: &Option<Vec<String>>, default: &[&str]| match paths {
        Some(paths) => paths.clone(),
        None => default.iter().map(ToString::to_string).collect(),
    };
    v1::LinuxContainerSecurityContext {
        capabilities: Some(v1::Capability {
            add_capabilities: context.add_capabilities.clone(),
            drop_capabilities: context.drop_capabilities.clone(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: context.privileged,
        namespace_options: Some(namespace_options(&context.namespace_options)),
        run_as_user: context.run_as_user.map(|value| v1::Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| v1::Int64Value { value }),
        readonly_rootfs: context.readonly_rootfs,
        supplemental_groups: context.supplemental_groups.clone(),
        no_new_privs: context.no_new_privs,
        masked_paths: paths(&context.masked_paths, &MASKED_PATHS),
        readonly_paths: paths(&context.readonly_paths, &READONLY_PATHS),
        ..Default::default()
    }
}

fn mount(mount: &Mount) -> v1::Mount {
    v1::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.to_string_lossy().into_owned(),
        readonly: mount.readonly,
        propagation: match mount.propagation {
            MountPropagation::Private => v1::MountPropagation::PropagationPrivate.into(),
            MountPropagation::HostToContainer => v1::MountPropagation::PropagationHostToContainer.into(),
            MountPropagation::Bidirectional => v1::MountPropagation::PropagationBidirectional.into(),
        },
        ..Default::default()
    }
}

fn mounted(mount: v1::Mount) -> Mount {
    Mount {
        propagation: match mount.propagation() {
            v1::MountPropagation::PropagationPrivate => MountPropagation::Private,
            v1::MountPropagation::PropagationHostToContainer => MountPropagation::HostToContainer,
            v1::MountPropagation::PropagationBidirectional => MountPropagation::Bidirectional,
        },
        container_path: mount.container_path,
        host_path: mount.host_path.into(),
        readonly: mount.readonly,
    }
}

pub(crate) fn container_filter(filter: &ContainerFilter, owner: &Owner) -> Option<v1::ContainerFilter> {
    let state = |state: ContainerState| match state {
        ContainerState::Created => v1::ContainerState::ContainerCreated.into(),
        ContainerState::Running => v1::ContainerState::ContainerRunning.into(),
        ContainerState::Exited => v1::ContainerState::ContainerExited.into(),
        ContainerState::Unknown => v1::ContainerState::ContainerUnknown.into(),
    };
    Some(v1::ContainerFilter {
        id: filter.id.clone().unwrap_or_default(),
        state: filter.state.map(|s| v1::ContainerStateValue { state: state(s) }),
        pod_sandbox_id: filter.pod_sandbox_id.clone().unwrap_or_default(),
        label_selector: owner.selector(&filter.label_selector)?,
    })
}

pub(crate) fn state(state: v1::ContainerState) -> ContainerState {
    match state {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => ContainerState::Running,
        v1::ContainerState::ContainerExited => ContainerState::Exited,
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    }
}

fn metadata(metadata: Option<v1::ContainerMetadata>) -> ContainerMetadata {
    let metadata = metadata.unwrap_or_default();
    ContainerMetadata { name: metadata.name, attempt: metadata.attempt }
}

pub(crate) fn container(item: v1::Container) -> Container {
    let state = state(item.state());
    let image = owner::container_image(&item.annotations);
    Container {
        image: image.unwrap_or_else(|| ImageSpec::new(item.image.unwrap_or_default().image)),
        id: item.id,
        pod_sandbox_id: item.pod_sandbox_id,
        metadata: metadata(item.metadata),
        image_ref: item.image_ref,
        state,
        created_at: time(item.created_at).unwrap_or_default(),
        labels: owner::visible_labels(item.labels),
        annotations: owner::visible_annotations(item.annotations),
    }
}

/// A container in full, from its entry in the list (CRI's status does not name the sandbox) and its status.
pub(crate) fn container_status(mut container: Container, status: v1::ContainerStatus, pid: u32) -> ContainerStatus {
    let state = state(status.state());
    container.state = state;
    let running = state == ContainerState::Running;
    let ended = matches!(state, ContainerState::Exited | ContainerState::Unknown);
    let finished_at = time(status.finished_at).filter(|_| ended);
    ContainerStatus {
        // containerd notes the start when the call that starts has returned: of a quick process that is after its end.
        started_at: time(status.started_at).map(|started| finished_at.map_or(started, |finished| started.min(finished))),
        finished_at,
        exit_code: status.exit_code,
        // CRI does not tell.
        signal: 0,
        reason: if running { String::new() } else { status.reason },
        message: status.message,
        log_path: status.log_path.into(),
        mounts: status.mounts.into_iter().map(mounted).collect(),
        pid: if running { pid } else { 0 },
        container,
    }
}

pub(crate) fn stats(stats: v1::ContainerStats) -> ContainerStats {
    let attributes = stats.attributes.unwrap_or_default();
    let value = |value: Option<v1::UInt64Value>| value.map(|v| v.value).unwrap_or_default();
    ContainerStats {
        id: attributes.id,
        metadata: metadata(attributes.metadata),
        labels: owner::visible_labels(attributes.labels),
        cpu_usage_core_nano_seconds: value(stats.cpu.and_then(|cpu| cpu.usage_core_nano_seconds)),
        memory_working_set_bytes: value(stats.memory.and_then(|memory| memory.working_set_bytes)),
        writable_layer_used_bytes: value(stats.writable_layer.and_then(|layer| layer.used_bytes)),
    }
}

#[cfg(test)]
mod tests {
    use wharf_core::runtime::NamespaceMode;

    use super::*;

    fn sent(config: &ContainerConfig) -> v1::ContainerConfig {
        container_config(config, "uid", &Owner::new("me").unwrap(), true).unwrap()
    }

    #[test]
    fn everything_that_cri_has_a_word_for_is_sent() {
        let mut config = ContainerConfig { command: vec!["c".into()], args: vec!["a".into()], tty: true, ..ContainerConfig::default() };
        config.envs.push(("K".into(), "V".into()));
        config.mounts.push(Mount {
            container_path: "/c".into(),
            host_path: "/h".into(),
            readonly: true,
            propagation: MountPropagation::HostToContainer,
        });
        config.resources = LinuxContainerResources { cpu_quota: 5, memory_limit_in_bytes: 6, pids_limit: 7, ..Default::default() };
        config.security_context.run_as_user = Some(0);
        config.security_context.namespace_options.pid = NamespaceMode::Pod;
        let sent = sent(&config);
        assert_eq!((sent.command, sent.args, sent.tty), (config.command, config.args, true));
        assert_eq!((sent.envs[0].key.as_str(), sent.envs[0].value.as_str()), ("K", "V"));
        assert_eq!(mounted(sent.mounts[0].clone()), config.mounts[0]);
        let linux = sent.linux.unwrap();
        let limits = linux.resources.unwrap();
        assert_eq!((limits.cpu_quota, limits.memory_limit_in_bytes, limits.unified["pids.max"].as_str()), (5, 6, "7"));
        let security = linux.security_context.unwrap();
        // The user 0 is not the same as no user.
        assert_eq!((security.run_as_user.unwrap().value, security.run_as_group), (0, None));
        assert_eq!(security.namespace_options.unwrap().pid, i32::from(v1::NamespaceMode::Pod));
        assert!(resources(&config.resources, false).unified.is_empty());
    }

    #[test]
    fn default_paths_are_spelled_out_and_none_is_none() {
        let mut config = ContainerConfig::default();
        let security = |config: &ContainerConfig| sent(config).linux.unwrap().security_context.unwrap();
        assert_eq!(security(&config).masked_paths, MASKED_PATHS);
        config.security_context.masked_paths = Some(Vec::new());
        config.security_context.readonly_paths = Some(vec!["/x".into()]);
        assert_eq!((security(&config).masked_paths.len(), security(&config).readonly_paths), (0, vec!["/x".to_string()]));
    }

    #[test]
    fn what_cri_cannot_say_is_refused() {
        let config = ContainerConfig { stop_signal: Some("SIGINT".into()), ..ContainerConfig::default() };
        let refused = container_config(&config, "uid", &Owner::new("me").unwrap(), false);
        assert!(matches!(refused, Err(RuntimeError::Unsupported { .. })));
    }

    #[test]
    fn a_container_keeps_the_image_it_was_asked_for_with() {
        let config = ContainerConfig { image: ImageSpec::new("nginx").for_handler("kata"), ..ContainerConfig::default() };
        let sent = sent(&config);
        let item = v1::Container { annotations: sent.annotations, labels: sent.labels, image_ref: "sha256:1".into(), ..Default::default() };
        let back = container(item);
        assert_eq!((back.image, back.labels, back.annotations), (config.image, config.labels, config.annotations));
        let status = v1::ContainerStatus { started_at: 5, finished_at: 0, ..Default::default() };
        assert_eq!(container_status(container(v1::Container::default()), status, 7).pid, 0);
    }

    #[test]
    fn nothing_ends_before_it_starts() {
        let state = v1::ContainerState::ContainerExited.into();
        let status = v1::ContainerStatus { state, started_at: 9, finished_at: 5, ..Default::default() };
        let status = container_status(container(v1::Container::default()), status, 0);
        assert_eq!((status.started_at, status.finished_at), (time(5), time(5)));
    }
}
