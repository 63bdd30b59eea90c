//! What node agents may do: Kubernetes' Node authorizer. A node reads the secrets, config maps and claims of its own pods,
//! and changes only what is its own.

use std::fmt;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use wharf_core::api::{ApiExt, Query, SharedApi};
use wharf_core::informer::{Informers, Reader};
use wharf_core::object::ObjectRef;

use super::{Authorizer, Decision};
use crate::request::{RequestInfo, User};

/// The group of node agents.
pub const NODES: &str = "system:nodes";
/// What their names begin with.
pub const PREFIX: &str = "system:node:";

/// The node that a user is.
pub fn node_of(user: &User) -> Option<&str> {
    let node = user.name.strip_prefix(PREFIX).filter(|node| !node.is_empty())?;
    user.groups.iter().any(|g| g == NODES).then_some(node)
}

/// The Node authorizer. Cheap to clone.
#[derive(Clone)]
pub struct NodeAuthorizer {
    pods: Reader<Pod>,
    api: SharedApi,
}

impl fmt::Debug for NodeAuthorizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeAuthorizer")
    }
}

/// What of a pod's spec refers to another object.
fn refers(pod: &Pod, resource: &str, name: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let volumes = || spec.volumes.iter().flatten();
    let sources = || volumes().filter_map(|v| v.projected.as_ref()).flat_map(|p| p.sources.iter().flatten());
    let containers = || {
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| (&c.env, &c.env_from));
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| (&c.env, &c.env_from)).chain(ephemeral)
    };
    let values = || containers().flat_map(|(env, _)| env.iter().flatten()).filter_map(|e| e.value_from.as_ref());
    let froms = || containers().flat_map(|(_, from)| from.iter().flatten());
    match resource {
        "secrets" => {
            volumes().any(|v| v.secret.as_ref().is_some_and(|s| s.secret_name.as_deref() == Some(name)))
                || sources().any(|s| s.secret.as_ref().is_some_and(|s| s.name == name))
                || values().any(|v| v.secret_key_ref.as_ref().is_some_and(|s| s.name == name))
                || froms().any(|f| f.secret_ref.as_ref().is_some_and(|s| s.name == name))
                || spec.image_pull_secrets.iter().flatten().any(|s| s.name == name)
        }
        "configmaps" => {
            volumes().any(|v| v.config_map.as_ref().is_some_and(|c| c.name == name))
                || sources().any(|s| s.config_map.as_ref().is_some_and(|c| c.name == name))
                || values().any(|v| v.config_map_key_ref.as_ref().is_some_and(|c| c.name == name))
                || froms().any(|f| f.config_map_ref.as_ref().is_some_and(|c| c.name == name))
        }
        "persistentvolumeclaims" => {
            let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
            volumes().any(|v| v.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == name))
                || volumes().any(|v| v.ephemeral.is_some() && format!("{pod_name}-{}", v.name) == name)
        }
        "serviceaccounts" => spec.service_account_name.as_deref() == Some(name),
        _ => false,
    }
}

impl NodeAuthorizer {
    /// Decides by the pods that `informers` know, and asks `api` where they may be behind; must be called inside a tokio
    /// runtime.
    pub fn new(informers: &Informers, api: SharedApi) -> Self {
        Self { pods: informers.of::<Pod>(), api }
    }

    async fn allows(&self, node: &str, info: &RequestInfo) -> bool {
        if !info.is_resource {
            return false;
        }
        let reads = matches!(info.verb.as_str(), "get" | "list" | "watch");
        let named = !info.name.is_empty();
        let own = info.name == node;
        match (info.group.as_str(), info.resource.as_str(), info.subresource.as_str()) {
            ("", "secrets" | "configmaps" | "persistentvolumeclaims", "") => reads && named && self.uses(node, info).await,
            ("", "serviceaccounts", "token") => info.verb == "create" && self.uses(node, info).await,
            ("", "nodes", "") => reads || info.verb == "create" || (own && matches!(info.verb.as_str(), "update" | "patch")),
            ("", "nodes", "status") => own && matches!(info.verb.as_str(), "get" | "update" | "patch"),
            ("", "services", "") | ("discovery.k8s.io", "endpointslices", "") => reads,
            ("", "pods", "") => match info.verb.as_str() {
                "get" => self.runs(node, info).await,
                // Which pods may be listed cannot be told from the request; admission and the field selector narrow it.
                "list" | "watch" => true,
                // NodeRestriction looks at the pod itself, as it is now.
                "create" | "delete" => true,
                _ => false,
            },
            ("", "pods", "status") => matches!(info.verb.as_str(), "update" | "patch"),
            ("", "pods", "eviction") => info.verb == "create",
            ("", "persistentvolumes", "") => info.verb == "get" && named,
            ("" | "events.k8s.io", "events", "") => matches!(info.verb.as_str(), "create" | "update" | "patch"),
            ("coordination.k8s.io", "leases", "") => info.namespace == "kube-node-lease" && (info.verb == "create" || own),
            ("storage.k8s.io", "csinodes", "") => info.verb == "create" || own,
            ("storage.k8s.io", "csidrivers", "") | ("node.k8s.io", "runtimeclasses", "") => reads,
            ("storage.k8s.io", "volumeattachments", "") => info.verb == "get",
            ("authentication.k8s.io", "tokenreviews", "") => info.verb == "create",
            ("authorization.k8s.io", "subjectaccessreviews" | "localsubjectaccessreviews", "") => info.verb == "create",
            ("certificates.k8s.io", "certificatesigningrequests", "") => reads || info.verb == "create",
            _ => false,
        }
    }

    async fn uses(&self, node: &str, info: &RequestInfo) -> bool {
        self.pods.synced().await;
        let on_node = |pod: &Pod| pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref() == Some(node));
        if self.pods.list_in(&info.namespace).iter().any(|pod| on_node(pod) && refers(pod, &info.resource, &info.name)) {
            return true;
        }
        // The agent may have heard of its pod before we did.
        let query = Query {
            namespace: Some(info.namespace.as_str().into()),
            field_selector: Some(format!("spec.nodeName={node}")),
            ..Query::default()
        };
        let now = self.api.list_as::<Pod>(&query).await;
        now.is_ok_and(|pods| pods.iter().any(|pod| refers(pod, &info.resource, &info.name)))
    }

    /// Whether a pod runs on the node. One that is gone may be asked for, so that the agent learns of it.
    async fn runs(&self, node: &str, info: &RequestInfo) -> bool {
        self.pods.synced().await;
        let pod = self.pods.get(&ObjectRef::new(info.namespace.as_str(), info.name.as_str()));
        // A pod that seems unassigned may just have been bound.
        pod.is_none_or(|pod| pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().is_none_or(|n| n == node)))
    }
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, user: &User, request: &RequestInfo) -> Decision {
        match node_of(user) {
            Some(node) if self.allows(node, request).await => Decision::Allow,
            _ => Decision::NoOpinion,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_every_reference() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {
            "serviceAccountName": "sa",
            "imagePullSecrets": [{"name": "pull"}],
            "containers": [{"name": "c", "env": [{"name": "x", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}}], "envFrom": [{"configMapRef": {"name": "all"}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "vol"}},
                {"name": "b", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
                {"name": "c", "ephemeral": {}},
            ],
        }})).unwrap();
        for (resource, name, expected) in [
            ("secrets", "pull", true),
            ("secrets", "env", true),
            ("secrets", "vol", true),
            ("secrets", "other", false),
            ("configmaps", "all", true),
            ("configmaps", "kube-root-ca.crt", true),
            ("configmaps", "vol", false),
            ("persistentvolumeclaims", "p-c", true),
            ("serviceaccounts", "sa", true),
            ("serviceaccounts", "default", false),
        ] {
            assert_eq!(refers(&pod, resource, name), expected, "{resource} {name}");
        }
    }

    #[test]
    fn a_node_is_name_and_group() {
        assert_eq!(node_of(&User::new("system:node:a", [NODES])), Some("a"));
        assert_eq!(node_of(&User::new("system:node:a", ["dev"])), None);
        assert_eq!(node_of(&User::new("system:node:", [NODES])), None);
    }
}
