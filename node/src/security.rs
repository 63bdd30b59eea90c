//! securityContext and resources as CRI wants them.

use k8s_openapi::api::core::v1::{Container, Pod};
use wharf_core::quantity::Quantity;
use wharf_core::runtime::{Image, LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption};

use crate::env::ConfigError;
use crate::pod;

const CFS_PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;

/// Namespaces of a pod's sandbox and containers.
pub(crate) fn namespaces(pod: &Pod) -> NamespaceOption {
    let Some(spec) = &pod.spec else { return NamespaceOption::default() };
    let node = |on: Option<bool>| if on == Some(true) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (spec.host_pid, spec.share_process_namespace) {
        (Some(true), _) => NamespaceMode::Node,
        (_, Some(true)) => NamespaceMode::Pod,
        _ => NamespaceMode::Container,
    };
    NamespaceOption { network: node(spec.host_network), pid, ipc: node(spec.host_ipc) }
}

/// The container's settings over the pod's.
pub(crate) fn context(pod: &Pod, container: &Container) -> LinuxContainerSecurityContext {
    let own = container.security_context.clone().unwrap_or_default();
    let outer = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let mut groups = outer.supplemental_groups.unwrap_or_default();
    groups.extend(outer.fs_group);
    groups.dedup();
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let short = |names: Option<Vec<String>>| {
        names.unwrap_or_default().into_iter().map(|n| n.strip_prefix("CAP_").map(Into::into).unwrap_or(n)).collect()
    };
    LinuxContainerSecurityContext {
        privileged: own.privileged == Some(true),
        add_capabilities: short(capabilities.add),
        drop_capabilities: short(capabilities.drop),
        run_as_user: own.run_as_user.or(outer.run_as_user),
        run_as_group: own.run_as_group.or(outer.run_as_group),
        supplemental_groups: groups,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
        namespace_options: namespaces(pod),
    }
}

/// Refuses a container that must not, but would, run as root.
pub(crate) fn verify_non_root(pod: &Pod, container: &Container, image: &Image) -> Result<(), ConfigError> {
    let own = container.security_context.clone().unwrap_or_default();
    let outer = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    if own.run_as_non_root.or(outer.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let (pod, container) = (pod::full_name(pod), container.name.clone());
    match own.run_as_user.or(outer.run_as_user) {
        Some(0) => Err(ConfigError::UserIsRoot { pod, container }),
        Some(_) => Ok(()),
        None => match (image.uid, image.username.as_str()) {
            (Some(0), _) | (None, "") => Err(ConfigError::ImageRunsAsRoot { pod, container }),
            (None, user) => Err(ConfigError::UserUnknown { user: user.into(), pod, container }),
            (Some(_), _) => Ok(()),
        },
    }
}

/// Limits of a container. `memory_capacity` is the node's, in bytes.
pub(crate) fn resources(pod: &Pod, container: &Container, memory_capacity: i64, pids_limit: i64) -> LinuxContainerResources {
    let all = container.resources.clone().unwrap_or_default();
    let (limits, requests) = (all.limits.unwrap_or_default(), all.requests.unwrap_or_default());
    let get = |map: &std::collections::BTreeMap<String, _>, name: &str| map.get(name).and_then(|q| Quantity::try_from(q).ok());
    let cpu_limit = get(&limits, "cpu").map_or(0, |q| q.milli());
    let cpu_request = get(&requests, "cpu").map_or(cpu_limit, |q| q.milli());
    let memory_request = get(&requests, "memory").map_or(0, |q| q.value());
    let quota = if cpu_limit > 0 { (cpu_limit.saturating_mul(CFS_PERIOD) / 1000).max(MIN_QUOTA) } else { 0 };
    let oom_score_adj = match pod::qos(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let share = 1000 - memory_request.saturating_mul(1000) / memory_capacity.max(1);
            share.clamp(3, 999)
        }
    };
    LinuxContainerResources {
        cpu_period: if quota > 0 { CFS_PERIOD } else { 0 },
        cpu_quota: quota,
        cpu_shares: (cpu_request.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES),
        memory_limit_in_bytes: get(&limits, "memory").map_or(0, |q| q.value()),
        oom_score_adj,
        pids_limit,
        cpuset_cpus: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: serde_json::Value, security: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata":{"name":"p","namespace":"n","uid":"u"},"spec":{"containers":[{"name":"c","resources":resources,"securityContext":security}]}})).unwrap()
    }

    #[test]
    fn limits_follow_the_quality_of_service() {
        for (given, shares, quota, memory, oom) in [
            (json!({}), 2, 0, 0, 1000),
            (json!({"limits":{"cpu":"500m","memory":"64Mi"}}), 512, 50_000, 64 << 20, -997),
            (json!({"requests":{"cpu":"1","memory":"512Mi"}}), 1024, 0, 0, 500),
            (json!({"limits":{"cpu":"1m"}}), 2, 1000, 0, 999),
        ] {
            let pod = pod(given.clone(), json!({}));
            let made = resources(&pod, &pod.spec.as_ref().unwrap().containers[0], 1 << 30, 0);
            assert_eq!(
                (made.cpu_shares, made.cpu_quota, made.memory_limit_in_bytes, made.oom_score_adj),
                (shares, quota, memory, oom),
                "{given}"
            );
        }
    }

    #[test]
    fn refuses_root_where_it_must() {
        let image = |uid, name: &str| Image { uid, username: name.into(), ..Image::default() };
        for (security, image, message) in [
            (json!({}), image(None, ""), None),
            (json!({"runAsNonRoot":true}), image(None, ""), Some("container has runAsNonRoot and image will run as root")),
            (json!({"runAsNonRoot":true}), image(Some(1), ""), None),
            (json!({"runAsNonRoot":true,"runAsUser":0}), image(Some(1), ""), Some("container's runAsUser breaks non-root policy")),
            (json!({"runAsNonRoot":true}), image(None, "web"), Some("container has runAsNonRoot and image has non-numeric user (web)")),
        ] {
            let pod = pod(json!({}), security.clone());
            let got = verify_non_root(&pod, &pod.spec.as_ref().unwrap().containers[0], &image).map_err(|e| e.to_string());
            match message {
                None => assert_eq!(got, Ok(()), "{security}"),
                Some(text) => assert!(got.unwrap_err().starts_with(text), "{security}"),
            }
        }
    }
}
