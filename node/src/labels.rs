//! Labels and annotations that tie sandboxes and containers to pods: the kubelet's own.

use k8s_openapi::api::core::v1::{Container, Pod};
use wharf_core::runtime::StringMap;

pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Several agents may share a runtime: each sees only what carries its name.
pub(crate) const NODE: &str = "wharf.dev/node";
pub(crate) const HASH: &str = "io.kubernetes.container.hash";
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub(crate) const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub(crate) const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub(crate) const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Labels of a sandbox: the pod's own, then what finds it again.
pub(crate) fn sandbox(node: &str, pod: &Pod) -> StringMap {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(node, pod));
    labels
}

/// Labels of a container.
pub(crate) fn container(node: &str, pod: &Pod, name: &str) -> StringMap {
    let mut labels = identity(node, pod);
    labels.insert(CONTAINER_NAME.into(), name.into());
    labels
}

fn identity(node: &str, pod: &Pod) -> StringMap {
    let meta = &pod.metadata;
    [(POD_NAME, meta.name.as_deref()), (POD_NAMESPACE, meta.namespace.as_deref()), (POD_UID, meta.uid.as_deref()), (NODE, Some(node))]
        .into_iter()
        .map(|(k, v)| (k.to_string(), v.unwrap_or_default().to_string()))
        .collect()
}

/// Annotations of a container.
pub(crate) fn annotations(pod: &Pod, container: &Container, attempt: u32) -> StringMap {
    let mut out = StringMap::new();
    out.insert(HASH.into(), hash(container));
    out.insert(RESTART_COUNT.into(), attempt.to_string());
    out.insert(MESSAGE_PATH.into(), message_path(container).into());
    out.insert(MESSAGE_POLICY.into(), container.termination_message_policy.clone().unwrap_or_else(|| "File".into()));
    if let Some(grace) = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds) {
        out.insert(GRACE.into(), grace.to_string());
    }
    out
}

pub(crate) fn message_path(container: &Container) -> &str {
    container.termination_message_path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/dev/termination-log")
}

/// What makes a running container differ from its spec, as the kubelet sees it: name and image. FNV-1a, for it must
/// be the same in every build of the agent.
pub(crate) fn hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in container.name.bytes().chain([0]).chain(image.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("{hash:x}")
}
