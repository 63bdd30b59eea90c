//! Priorities of pods: from the class's name to the number that the scheduler reads.

use async_trait::async_trait;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use wharf_core::api::{ApiError, ApiExt, Query, SharedApi, Target};
use wharf_core::object::ObjectRef;

use super::creates_pod;
use crate::rest::admission::{Admission, AdmissionRequest, Warnings};

const NEVER: &str = "Never";
const LOWER: &str = "PreemptLowerPriority";

/// The classes that every cluster has; to be created at bootstrap.
pub fn priority_classes() -> Vec<PriorityClass> {
    [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
    ]
    .map(|(name, value, description)| PriorityClass {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        value: Some(value),
        description: Some(description.into()),
        preemption_policy: Some(LOWER.into()),
        global_default: None,
    })
    .into()
}

/// Resolves `priorityClassName`.
#[derive(Debug, Clone)]
pub struct Priority {
    api: SharedApi,
}

impl Priority {
    /// Reads classes from `api`.
    pub fn new(api: SharedApi) -> Self {
        Self { api }
    }

    async fn default_class(&self) -> Result<Option<std::sync::Arc<PriorityClass>>, ApiError> {
        let classes = self.api.list_as::<PriorityClass>(&Query::default()).await?;
        // Of several defaults the lowest counts.
        Ok(classes.into_iter().filter(|c| c.global_default == Some(true)).min_by_key(|c| c.value))
    }
}

fn forbidden(request: &AdmissionRequest, why: &str) -> ApiError {
    ApiError::status(403, "Forbidden", format!("pods {:?} is forbidden: {why}", request.name))
}

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }
    fn handles(&self, request: &AdmissionRequest) -> bool {
        creates_pod(request)
    }
    async fn admit(&self, request: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError> {
        let asked = object["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
        let class = if asked.is_empty() {
            self.default_class().await?
        } else {
            let target = Target::of::<PriorityClass>(ObjectRef::new("", asked.as_str()));
            match self.api.get(&target).await {
                Ok(class) => Some(class.decode()?),
                Err(error) if error.is_not_found() => {
                    return Err(forbidden(request, &format!("no PriorityClass with name {asked} was found")));
                }
                Err(error) => return Err(error),
            }
        };
        let value = class.as_ref().and_then(|c| c.value).unwrap_or_default();
        let policy = class.as_ref().and_then(|c| c.preemption_policy.as_deref()).unwrap_or(LOWER).to_owned();
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(Warnings::new()) };
        if spec.get("priority").and_then(Value::as_i64).is_some_and(|given| given != i64::from(value)) {
            return Err(forbidden(
                request,
                "the integer value of priority must not be provided in pod spec; priority admission controller computed it from the given PriorityClass name",
            ));
        }
        match spec.get("preemptionPolicy").and_then(Value::as_str) {
            Some(given) if given != policy && (given == NEVER || policy == NEVER) => {
                return Err(forbidden(
                    request,
                    "the string value of PreemptionPolicy must not be provided in pod spec; priority admission controller computed it from the given PriorityClass name",
                ));
            }
            _ => {}
        }
        if let Some(name) = class.and_then(|c| c.metadata.name.clone()) {
            spec.insert("priorityClassName".into(), name.into());
        }
        spec.insert("priority".into(), value.into());
        spec.insert("preemptionPolicy".into(), policy.into());
        Ok(Warnings::new())
    }
    async fn validate(&self, _: &AdmissionRequest, _: &Value) -> Result<Warnings, ApiError> {
        Ok(Warnings::new())
    }
}
