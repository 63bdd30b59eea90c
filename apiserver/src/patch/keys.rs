//! How lists of the built-in types are merged: Kubernetes' patchMergeKey and listMapKey, as one table.

/// How two lists become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListRule {
    /// The new one replaces the old one.
    Atomic,
    /// Items are the same when their keys are. A strategic merge looks at the first key only.
    Map(&'static [&'static str]),
    /// A set of scalars.
    Set,
}

/// Kinds whose `spec`, at some depth, is a pod's.
const CONTAINERS: &[&str] = &["containers", "initContainers", "ephemeralContainers"];

/// The rule of a list; `path` are the names of the members that lead to it, list positions left out.
pub(crate) fn rule(kind: &str, path: &[&str]) -> ListRule {
    let last = path.last().copied().unwrap_or_default();
    let parent = path.len().checked_sub(2).and_then(|i| path.get(i)).copied().unwrap_or_default();
    let in_container = CONTAINERS.contains(&parent);
    match (parent, last) {
        ("metadata", "ownerReferences") => ListRule::Map(&["uid"]),
        ("metadata", "finalizers") => ListRule::Set,
        ("spec", name) if CONTAINERS.contains(&name) => ListRule::Map(&["name"]),
        (_, "ports") if in_container => ListRule::Map(&["containerPort", "protocol"]),
        (_, "env") if in_container => ListRule::Map(&["name"]),
        (_, "volumeMounts") if in_container => ListRule::Map(&["mountPath"]),
        (_, "volumeDevices") if in_container => ListRule::Map(&["devicePath"]),
        ("spec", "ports") if kind == "Service" => ListRule::Map(&["port", "protocol"]),
        ("spec", "volumes" | "imagePullSecrets" | "schedulingGates" | "resourceClaims") => ListRule::Map(&["name"]),
        ("spec", "hostAliases") => ListRule::Map(&["ip"]),
        ("spec", "topologySpreadConstraints") => ListRule::Map(&["topologyKey", "whenUnsatisfiable"]),
        ("spec", "podCIDRs") if kind == "Node" => ListRule::Set,
        ("spec", "finalizers") if kind == "Namespace" => ListRule::Atomic,
        ("status", "conditions") => ListRule::Map(&["type"]),
        ("status", "addresses") if kind == "Node" => ListRule::Map(&["type"]),
        ("status", "podIPs" | "hostIPs") if kind == "Pod" => ListRule::Map(&["ip"]),
        ("", "secrets") if kind == "ServiceAccount" => ListRule::Map(&["name"]),
        ("", "webhooks") => ListRule::Map(&["name"]),
        _ => ListRule::Atomic,
    }
}

/// Key fields that have a default, so that an item without them has a key too.
pub(crate) fn key_default(key: &str) -> Option<&'static str> {
    (key == "protocol").then_some("TCP")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_depend_on_where_they_are() {
        assert_eq!(rule("Service", &["spec", "ports"]), ListRule::Map(&["port", "protocol"]));
        assert_eq!(rule("Deployment", &["spec", "template", "spec", "containers", "ports"]), ListRule::Map(&["containerPort", "protocol"]));
        assert_eq!(rule("NetworkPolicy", &["spec", "ingress", "ports"]), ListRule::Atomic);
        assert_eq!(rule("Pod", &["spec", "containers", "args"]), ListRule::Atomic);
        assert_eq!(rule("ConfigMap", &["metadata", "finalizers"]), ListRule::Set);
    }
}
