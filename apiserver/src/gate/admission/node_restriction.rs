//! What the Node authorizer cannot tell from a request: a node agent writes its own Node and its own pods only.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use wharf_core::api::{ApiError, SharedApi, Target};
use wharf_core::object::ObjectRef;

use crate::gate::authorization::node::node_of;
use crate::rest::admission::{Admission, AdmissionRequest, Operation, Warnings};

/// Labels that a node must not give itself.
const RESTRICTED: &str = "node-restriction.kubernetes.io/";

/// Holds node agents to what is theirs.
#[derive(Debug, Clone)]
pub struct NodeRestriction {
    api: SharedApi,
}

impl NodeRestriction {
    /// Reads pods from `api`.
    pub fn new(api: SharedApi) -> Self {
        Self { api }
    }

    async fn runs(&self, node: &str, request: &AdmissionRequest) -> Result<bool, ApiError> {
        let target = Target::of::<Pod>(ObjectRef::new(request.namespace.as_str(), request.name.as_str()));
        match self.api.get(&target).await {
            Ok(object) => Ok(object.decode::<Pod>()?.spec.as_ref().is_some_and(|s| s.node_name.as_deref() == Some(node))),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn restricted(labels: &Value) -> Vec<(&String, &Value)> {
    labels.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with(RESTRICTED)).collect()
}

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }
    fn handles(&self, request: &AdmissionRequest) -> bool {
        request.group.is_empty()
            && matches!(request.resource.as_str(), "nodes" | "pods")
            && request.operation != Operation::Connect
            && node_of(&request.user).is_some()
    }
    async fn admit(&self, _: &AdmissionRequest, _: &mut Value) -> Result<Warnings, ApiError> {
        Ok(Warnings::new())
    }
    async fn validate(&self, request: &AdmissionRequest, object: &Value) -> Result<Warnings, ApiError> {
        let Some(node) = node_of(&request.user) else { return Ok(Warnings::new()) };
        let refuse = |why: String| {
            let message = format!("{} {:?} is forbidden: {why}", request.resource, request.name);
            Err(ApiError::status(403, "Forbidden", message))
        };
        if request.resource == "nodes" {
            if request.name != node {
                return refuse(format!("node {node:?} is not allowed to modify node {:?}", request.name));
            }
            let (old, new) = (request.old.as_deref().map_or(&Value::Null, |o| &o["metadata"]["labels"]), &object["metadata"]["labels"]);
            if request.operation != Operation::Delete && restricted(old) != restricted(new) {
                return refuse(format!("is not allowed to modify labels: {RESTRICTED}*"));
            }
            if request.operation == Operation::Update
                && request.old.as_ref().is_some_and(|old| old["spec"]["taints"] != object["spec"]["taints"])
            {
                return refuse(format!("node {node:?} is not allowed to modify taints"));
            }
            return Ok(Warnings::new());
        }
        match (request.operation, request.subresource.as_str()) {
            (Operation::Create, "") => {
                if object["metadata"]["annotations"].get("kubernetes.io/config.mirror").is_none() {
                    return refuse(format!(
                        "pod does not have \"kubernetes.io/config.mirror\" annotation, node {node:?} can only create mirror pods"
                    ));
                }
                if object["spec"]["nodeName"] != node {
                    return refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
                }
            }
            _ => {
                if !self.runs(node, request).await? {
                    return refuse(format!("node {node:?} can only change pods with spec.nodeName set to itself"));
                }
            }
        }
        Ok(Warnings::new())
    }
}
