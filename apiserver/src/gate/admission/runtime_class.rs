//! RuntimeClasses of pods: what a class costs and where it runs becomes part of the pod.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use serde_json::{Map, Value, json};
use wharf_core::api::{ApiError, ApiExt, SharedApi};
use wharf_core::object::ObjectRef;
use wharf_core::quantity::Quantity;

use super::creates_pod;
use crate::resources::value::{at, text};
use crate::rest::admission::{Admission, AdmissionRequest, Warnings};
use crate::rest::status;

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const UNDEFINED: &str = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

/// Refuses pods of unknown classes; merges the class's overhead, node selector and tolerations into the pod.
#[derive(Debug, Clone)]
pub struct RuntimeClassPlugin {
    api: SharedApi,
}

fn forbidden(request: &AdmissionRequest, why: &str) -> ApiError {
    status::forbidden("", "pods", &request.name, why)
}

impl RuntimeClassPlugin {
    /// Reads classes from `api`.
    pub fn new(api: SharedApi) -> Self {
        Self { api }
    }

    async fn class(&self, request: &AdmissionRequest, pod: &Value) -> Result<Option<Arc<RuntimeClass>>, ApiError> {
        let Some(name) = at(pod, &["spec", "runtimeClassName"]).and_then(Value::as_str) else { return Ok(None) };
        let found = if name.is_empty() { None } else { self.api.get_opt::<RuntimeClass>(&ObjectRef::new("", name)).await? };
        let missing = || forbidden(request, &format!("pod rejected: RuntimeClass {name:?} not found"));
        found.map(Some).ok_or_else(missing)
    }
}

/// What the class costs on top of the containers; `None` where it says nothing of it.
fn overhead(class: Option<&RuntimeClass>) -> Option<BTreeMap<String, ApiQuantity>> {
    Some(class?.overhead.as_ref()?.pod_fixed.clone().unwrap_or_default())
}

/// Whether a pod's overhead is the class's, however its amounts are written.
fn same_overhead(pod: &Value, class: &BTreeMap<String, ApiQuantity>) -> bool {
    let amount = |text: &str| text.parse::<Quantity>().ok();
    let given = pod.as_object().map_or(0, Map::len);
    given == class.len()
        && class.iter().all(|(name, quantity)| match (amount(&quantity.0), pod.get(name).and_then(Value::as_str).and_then(amount)) {
            (Some(theirs), Some(ours)) => theirs == ours,
            _ => false,
        })
}

/// Whether whatever `b` tolerates, `a` does.
fn covers(a: &Toleration, b: &Toleration) -> bool {
    if a == b {
        return true;
    }
    let word = |o: &Option<String>| o.clone().unwrap_or_default();
    let (operator, key) = (word(&a.operator), word(&a.key));
    // No key and Exists: all keys.
    if key != word(&b.key) && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    // No effect: all effects.
    if word(&a.effect) != word(&b.effect) && !word(&a.effect).is_empty() {
        return false;
    }
    if word(&a.effect) == "NoExecute"
        && let Some(most) = a.toleration_seconds
        && b.toleration_seconds.is_none_or(|seconds| seconds > most)
    {
        return false;
    }
    match &*operator {
        "" | "Equal" => matches!(&*word(&b.operator), "" | "Equal") && a.value == b.value,
        operator => operator == "Exists",
    }
}

/// Both lists, without what another of them covers; of equals the first stays.
fn merge(first: Vec<Toleration>, second: Vec<Toleration>) -> Vec<Toleration> {
    let all: Vec<Toleration> = first.into_iter().chain(second).collect();
    let mut merged: Vec<Toleration> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let later = || all[i + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !merged.iter().any(|kept| covers(kept, toleration)) && !later() {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// Where pods of the class may run.
fn schedule(request: &AdmissionRequest, pod: &mut Value, class: &RuntimeClass) -> Result<(), ApiError> {
    let Some(scheduling) = &class.scheduling else { return Ok(()) };
    let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    for (key, wanted) in scheduling.node_selector.iter().flatten() {
        let selector = spec.entry("nodeSelector").or_insert_with(|| json!({}));
        let Some(selector) = selector.as_object_mut() else { continue };
        if let Some(given) = selector.get(key).and_then(Value::as_str)
            && given != wanted
        {
            let why = format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {given}");
            return Err(forbidden(request, &why));
        }
        selector.insert(key.clone(), wanted.as_str().into());
    }
    let theirs = scheduling.tolerations.clone().unwrap_or_default();
    if !theirs.is_empty() {
        let encode = |e: serde_json::Error| status::bad_request(format!("spec.tolerations: {e}"));
        let ours = spec.get("tolerations").filter(|t| !t.is_null()).cloned().unwrap_or_else(|| json!([]));
        let ours: Vec<Toleration> = serde_json::from_value(ours).map_err(encode)?;
        spec.insert("tolerations".into(), serde_json::to_value(merge(ours, theirs)).map_err(encode)?);
    }
    Ok(())
}

#[async_trait]
impl Admission for RuntimeClassPlugin {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }
    fn handles(&self, request: &AdmissionRequest) -> bool {
        creates_pod(request)
    }
    async fn admit(&self, request: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError> {
        let Some(class) = self.class(request, object).await? else { return Ok(Warnings::new()) };
        if let Some(costs) = overhead(Some(&class)) {
            if at(object, &["spec", "overhead"]).is_some_and(|given| !same_overhead(given, &costs)) {
                return Err(forbidden(request, MISMATCH));
            }
            if !costs.is_empty()
                && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
            {
                spec.insert("overhead".into(), json!(costs));
            }
        }
        schedule(request, object, &class)?;
        Ok(Warnings::new())
    }
    async fn validate(&self, request: &AdmissionRequest, object: &Value) -> Result<Warnings, ApiError> {
        // A pod of no class and without overhead, which most are, costs no look-up.
        if text(object, &["spec", "runtimeClassName"]).is_empty() && at(object, &["spec", "overhead"]).is_none() {
            return Ok(Warnings::new());
        }
        let class = self.class(request, object).await?;
        let given = at(object, &["spec", "overhead"]);
        match overhead(class.as_deref()) {
            Some(costs) if !same_overhead(given.unwrap_or(&Value::Null), &costs) => Err(forbidden(request, MISMATCH)),
            None if given.is_some() => Err(forbidden(request, UNDEFINED)),
            _ => Ok(Warnings::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tolerations(value: Value) -> Vec<Toleration> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn tolerations_are_merged_without_what_another_covers() {
        let one = |key: &str, effect: &str| json!({"key":key,"operator":"Equal","value":"v","effect":effect});
        let all = json!({"operator":"Exists"});
        for (first, second, merged) in [
            (json!([]), json!([one("a", "NoSchedule")]), json!([one("a", "NoSchedule")])),
            (json!([one("a", "")]), json!([one("a", "")]), json!([one("a", "")])),
            (json!([one("a", "NoSchedule")]), json!([one("a", "")]), json!([one("a", "")])),
            (json!([one("a", "NoSchedule"), one("b", "")]), json!([all]), json!([all])),
            (json!([one("a", "NoSchedule")]), json!([one("b", "NoSchedule")]), json!([one("a", "NoSchedule"), one("b", "NoSchedule")])),
            (
                json!([{"key":"a","operator":"Exists","effect":"NoExecute","tolerationSeconds":10}]),
                json!([{"key":"a","operator":"Exists","effect":"NoExecute","tolerationSeconds":20}]),
                json!([{"key":"a","operator":"Exists","effect":"NoExecute","tolerationSeconds":20}]),
            ),
        ] {
            let what = format!("{first} and {second}");
            assert_eq!(merge(tolerations(first), tolerations(second)), tolerations(merged), "{what}");
        }
    }

    #[test]
    fn overheads_are_compared_by_amount() {
        let class: BTreeMap<String, ApiQuantity> = [("cpu".into(), ApiQuantity("250m".into()))].into();
        assert!(same_overhead(&json!({"cpu":"0.25"}), &class));
        assert!(!same_overhead(&json!({"cpu":"0.3"}), &class));
        assert!(!same_overhead(&json!({"cpu":"250m","memory":"1"}), &class));
        assert!(!same_overhead(&Value::Null, &class));
        assert!(same_overhead(&Value::Null, &BTreeMap::new()));
    }
}
