//! What Kubernetes fills in where the user left something out.

mod device;
mod extension;
mod pod;
mod service;
mod workload;

use serde_json::{Value, json};

use crate::resources::value::{as_map, at, default, default_text, each_in, object, text};

pub(crate) use device::{csi_driver, resource_claim, resource_claim_template};
pub(crate) use extension::{
    admission_policy, admission_policy_binding, api_service, flow_schema, mutating_webhooks, priority_level, validating_webhooks,
};
pub(crate) use pod::{pod, pod_template_kind, qos_class};
pub(crate) use service::{endpoint_slice, endpoints, service};
pub(crate) use workload::{
    autoscaler, autoscaler_v1, cron_job, daemon_set, deployment, disruption_budget, job, replica_set, replication_controller, stateful_set,
    usual_metrics,
};

/// Namespaces: the finalizer and the phase come with the creation, which is when there is no status yet.
pub(crate) fn namespace(v: &mut Value) {
    let name = text(v, &["metadata", "name"]).to_owned();
    default_text(object(v, &["metadata", "labels"]), "kubernetes.io/metadata.name", &name);
    if at(v, &["status", "phase"]).is_none() && at(v, &["metadata", "deletionTimestamp"]).is_none() {
        object(v, &["status"]).insert("phase".into(), "Active".into());
        object(v, &["spec"]).insert("finalizers".into(), json!(["kubernetes"]));
    }
}

/// Limit ranges: a container's default limit is the most that it may have; its default request that limit, or else the least.
pub(crate) fn limit_range(v: &mut Value) {
    // Where nothing is said nothing is added, or it would be read as something else again.
    let Some(Value::Object(spec)) = v.get_mut("spec") else { return };
    each_in(spec, "limits", |limit| {
        if limit.get("type").and_then(Value::as_str) != Some("Container") {
            return;
        }
        for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
            let known = limit.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
            if known.is_empty() {
                continue;
            }
            let filled = as_map(limit.entry(to).or_insert_with(|| json!({})));
            for (name, amount) in known {
                filled.entry(name).or_insert(amount);
            }
        }
    });
}

/// Secrets.
pub(crate) fn secret(v: &mut Value) {
    let map = as_map(v);
    default_text(map, "type", "Opaque");
    if let Some(Value::Object(strings)) = map.remove("stringData") {
        use base64::Engine;
        let data = as_map(map.entry("data").or_insert_with(|| json!({})));
        for (name, value) in strings {
            let text = value.as_str().unwrap_or_default();
            data.insert(name, base64::engine::general_purpose::STANDARD.encode(text).into());
        }
    }
}

/// Persistent volumes.
pub(crate) fn persistent_volume(v: &mut Value) {
    let spec = object(v, &["spec"]);
    default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    default_text(spec, "volumeMode", "Filesystem");
    default_text(object(v, &["status"]), "phase", "Pending");
}

/// Claims.
pub(crate) fn persistent_volume_claim(v: &mut Value) {
    default_text(object(v, &["spec"]), "volumeMode", "Filesystem");
    default_text(object(v, &["status"]), "phase", "Pending");
}

/// Storage classes.
pub(crate) fn storage_class(v: &mut Value) {
    let map = as_map(v);
    default_text(map, "reclaimPolicy", "Delete");
    default_text(map, "volumeBindingMode", "Immediate");
}

/// Priority classes.
pub(crate) fn priority_class(v: &mut Value) {
    default_text(as_map(v), "preemptionPolicy", "PreemptLowerPriority");
}

/// Role bindings of both scopes.
pub(crate) fn role_binding(v: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    let map = as_map(v);
    if let Some(role) = map.get_mut("roleRef").and_then(Value::as_object_mut) {
        default_text(role, "apiGroup", GROUP);
    }
    each_in(map, "subjects", |subject| {
        if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
            default_text(subject, "apiGroup", GROUP);
        }
    });
}

/// Ingress classes.
pub(crate) fn ingress_class(v: &mut Value) {
    if let Some(parameters) = object(v, &["spec"]).get_mut("parameters").and_then(Value::as_object_mut) {
        default(parameters, "scope", "Cluster");
    }
}

/// Network policies.
pub(crate) fn network_policy(v: &mut Value) {
    let egress = at(v, &["spec", "egress"]).is_some_and(|e| e.as_array().is_some_and(|l| !l.is_empty()));
    let spec = object(v, &["spec"]);
    if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("policyTypes".into(), if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
    for direction in ["ingress", "egress"] {
        each_in(spec, direction, |rule| each_in(rule, "ports", |port| default_text(port, "protocol", "TCP")));
    }
}

/// Ingresses.
pub(crate) fn ingress(v: &mut Value) {
    default(object(v, &["status"]), "loadBalancer", json!({}));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_ingress_classes_are_the_clusters() {
        let filled = |parameters: Value| {
            let mut v = json!({"spec":{"parameters":parameters}});
            ingress_class(&mut v);
            v["spec"]["parameters"]["scope"].clone()
        };
        assert_eq!(filled(json!({"kind":"K","name":"n"})), "Cluster");
        assert_eq!(filled(json!({"scope":"Namespace"})), "Namespace");
        let mut without = json!({"spec":{"controller":"a.b/c"}});
        ingress_class(&mut without);
        assert_eq!(without, json!({"spec":{"controller":"a.b/c"}}));
    }

    #[test]
    fn limits_of_containers_follow_from_each_other() {
        let filled = |limit: Value| {
            let mut v = json!({"spec":{"limits":[limit]}});
            limit_range(&mut v);
            v["spec"]["limits"][0].clone()
        };
        let full = filled(json!({"type":"Container","max":{"cpu":"2"},"min":{"cpu":"1","memory":"1Gi"},"default":{"memory":"4Gi"}}));
        assert_eq!(full["default"], json!({"cpu":"2","memory":"4Gi"}));
        assert_eq!(full["defaultRequest"], json!({"cpu":"2","memory":"4Gi"}));
        assert_eq!(filled(json!({"type":"Container","min":{"cpu":"1"}}))["defaultRequest"], json!({"cpu":"1"}));
        let pod = json!({"type":"Pod","max":{"cpu":"2"}});
        assert_eq!(filled(pod.clone()), pod);
    }

    #[test]
    fn policies_that_say_no_direction_get_theirs() {
        let types = |spec: Value| {
            let mut v = json!({"spec":spec});
            network_policy(&mut v);
            v["spec"]["policyTypes"].clone()
        };
        assert_eq!(types(json!({"policyTypes":[]})), json!(["Ingress"]));
        assert_eq!(types(json!({"egress":[{}]})), json!(["Ingress", "Egress"]));
        assert_eq!(types(json!({"egress":[{}],"policyTypes":["Egress"]})), json!(["Egress"]));
    }
}
