//! What makes pods.

use std::collections::BTreeMap;

use serde_json::Value;
use wharf_core::selector::Selector;

use super::{Causes, forbidden, immutable, invalid, not_negative, one_of, pod, required};
use crate::resources::value::{at, items, number};

const STATEFUL_UPDATE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

fn spec_not_negative(v: &Value, field: &str, causes: &mut Causes) {
    not_negative(v.get("spec").unwrap_or(&Value::Null), "spec", field, causes);
}

/// A template of pods.
pub(super) fn template(template: Option<&Value>, here: &str, causes: &mut Causes) {
    let template = template.unwrap_or(&Value::Null);
    let spec = template.get("spec").unwrap_or(&Value::Null);
    super::metadata::labels(at(template, &["metadata", "labels"]), &format!("{here}.labels"), causes);
    pod::spec(spec, &format!("{here}.spec"), causes);
    if !items(spec, &["ephemeralContainers"]).is_empty() {
        forbidden(causes, &format!("{here}.spec.ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Templates that stand for themselves.
pub(crate) fn pod_template(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    template(new.get("template"), "template", causes);
}

/// The template of what keeps its pods running.
fn lasting(new: &Value, causes: &mut Causes) {
    template(at(new, &["spec", "template"]), "spec.template", causes);
    restarts(new, causes);
}

fn restarts(new: &Value, causes: &mut Causes) {
    one_of(causes, "spec.template.spec.restartPolicy", at(new, &["spec", "template", "spec", "restartPolicy"]), &["Always"]);
}

fn labels_of(v: &Value) -> BTreeMap<String, String> {
    let labels = at(v, &["spec", "template", "metadata", "labels"]).cloned().unwrap_or_default();
    serde_json::from_value(labels).unwrap_or_default()
}

/// Replica sets, daemon sets and what is like them: a selector that matches its template.
pub(crate) fn workload(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    selecting(new, old, causes);
    lasting(new, causes);
}

/// Counts, and a selector that matches the template's labels.
fn selecting(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    spec_not_negative(new, "replicas", causes);
    spec_not_negative(new, "minReadySeconds", causes);
    spec_not_negative(new, "revisionHistoryLimit", causes);
    let selector = at(new, &["spec", "selector"]);
    match selector {
        None => required(causes, "spec.selector", ""),
        Some(selector) => {
            let empty = items(selector, &["matchExpressions"]).is_empty()
                && at(selector, &["matchLabels"]).and_then(Value::as_object).is_none_or(|m| m.is_empty());
            let parsed = serde_json::from_value(selector.clone()).ok().and_then(|s| Selector::from_object(&s).ok());
            match parsed {
                _ if empty => invalid(causes, "spec.selector", selector, "empty selector is invalid for deployment"),
                None => invalid(causes, "spec.selector", selector, "invalid label selector"),
                Some(parsed) => {
                    let labels = labels_of(new);
                    if !parsed.matches(&labels) {
                        let shown = serde_json::to_value(&labels).unwrap_or_default();
                        invalid(causes, "spec.template.metadata.labels", &shown, "`selector` does not match template `labels`");
                    }
                }
            }
        }
    }
    if let Some(old) = old {
        immutable(causes, "spec.selector", selector, at(old, &["spec", "selector"]));
    }
}

/// Deployments.
pub(crate) fn deployment(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    workload(new, old, causes);
    let strategy = &["spec", "strategy"];
    let kind = at(new, strategy).and_then(|s| s.get("type"));
    one_of(causes, "spec.strategy.type", kind, &["Recreate", "RollingUpdate"]);
    let rolling = at(new, &["spec", "strategy", "rollingUpdate"]);
    if kind.is_some_and(|k| k == "Recreate") && rolling.is_some() {
        forbidden(causes, "spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'");
    }
    let zero = |name: &str| rolling.and_then(|r| r.get(name)).is_some_and(|v| *v == 0 || v == "0%" || v == "0");
    if zero("maxUnavailable") && zero("maxSurge") {
        let value = rolling.and_then(|r| r.get("maxUnavailable")).cloned().unwrap_or_default();
        invalid(causes, "spec.strategy.rollingUpdate.maxUnavailable", &value, "may not be 0 when `maxSurge` is 0");
    }
    let (deadline, ready) = (number(new, &["spec", "progressDeadlineSeconds"]), number(new, &["spec", "minReadySeconds"]).unwrap_or(0));
    if let Some(deadline) = deadline.filter(|d| *d <= ready) {
        invalid(causes, "spec.progressDeadlineSeconds", &deadline.into(), "must be greater than minReadySeconds");
    }
}

/// Stateful sets.
pub(crate) fn stateful_set(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    const MUTABLE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    selecting(new, None, causes);
    // As in Kubernetes, the rest of the pods is judged when they are made: they have volumes that only the claims' templates give them.
    super::metadata::labels(at(new, &["spec", "template", "metadata", "labels"]), "spec.template.labels", causes);
    restarts(new, causes);
    if at(new, &["spec", "template", "spec", "activeDeadlineSeconds"]).is_some() {
        forbidden(causes, "spec.template.spec.activeDeadlineSeconds", "activeDeadlineSeconds in StatefulSet is not Supported");
    }
    one_of(causes, "spec.podManagementPolicy", at(new, &["spec", "podManagementPolicy"]), &["OrderedReady", "Parallel"]);
    one_of(causes, "spec.updateStrategy.type", at(new, &["spec", "updateStrategy", "type"]), &["OnDelete", "RollingUpdate"]);
    if let Some(old) = old {
        let fixed = |v: &Value| {
            let mut spec = v.get("spec").and_then(Value::as_object).cloned().unwrap_or_default();
            spec.retain(|k, _| !MUTABLE.contains(&k.as_str()));
            spec
        };
        if fixed(new) != fixed(old) {
            forbidden(causes, "spec", STATEFUL_UPDATE);
        }
    }
}

/// Replication controllers.
pub(crate) fn replication_controller(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    spec_not_negative(new, "replicas", causes);
    match at(new, &["spec", "selector"]).and_then(Value::as_object).filter(|m| !m.is_empty()) {
        None => required(causes, "spec.selector", ""),
        Some(selector) => {
            let labels = labels_of(new);
            if !selector.iter().all(|(k, v)| labels.get(k).map(String::as_str) == v.as_str()) {
                let shown = serde_json::to_value(&labels).unwrap_or_default();
                invalid(causes, "spec.template.metadata.labels", &shown, "`selector` does not match template `labels`");
            }
        }
    }
    lasting(new, causes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::testing::found;
    use serde_json::json;

    fn deployment_of(labels: Value) -> Value {
        json!({"spec":{"replicas":1,"selector":{"matchLabels":{"a":"b"}},"strategy":{"type":"RollingUpdate"},
            "template":{"metadata":{"labels":labels},"spec":{"restartPolicy":"Always","containers":[{"name":"a","image":"x"}]}}}})
    }

    #[test]
    fn a_stateful_sets_pods_have_volumes_of_its_claims() {
        let mut set = deployment_of(json!({"a":"b"}));
        set["spec"]["volumeClaimTemplates"] = json!([{"metadata":{"name":"data"},"spec":{}}]);
        set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name":"data","mountPath":"/data"}]);
        assert_eq!(found(stateful_set, &set, None), Vec::<String>::new());
        assert_eq!(found(workload, &set, None), ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\""]);
        set["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
        set["spec"]["template"]["metadata"]["labels"] = json!({"a":"c"});
        let found = found(stateful_set, &set, None);
        assert!(found[0].contains("`selector` does not match template `labels`"), "{found:?}");
        assert_eq!(found[1], "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"");
    }

    #[test]
    fn the_selector_must_match_and_stay() {
        let mut causes = Vec::new();
        let good = deployment_of(json!({"a":"b"}));
        deployment(&good, None, &mut causes);
        assert!(causes.is_empty(), "{causes:?}");
        deployment(&deployment_of(json!({"a":"c"})), None, &mut causes);
        assert!(causes[0].message.as_ref().unwrap().contains("`selector` does not match template `labels`"));
        causes.clear();
        let mut other = deployment_of(json!({"a":"b","c":"d"}));
        other["spec"]["selector"]["matchLabels"] = json!({"c":"d"});
        deployment(&other, Some(&good), &mut causes);
        assert!(causes[0].message.as_ref().unwrap().ends_with("field is immutable"));
    }
}
