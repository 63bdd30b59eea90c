//! Defaults of what makes pods.

use serde_json::{Map, Value, json};

use super::pod::pod_template;
use crate::resources::value::{as_map, at, default, default_text, object, text};

fn template(v: &mut Value) {
    pod_template(object(v, &["spec", "template"]));
}

fn member<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    as_map(map.entry(name).or_insert_with(|| json!({})))
}

/// Deployments.
pub(crate) fn deployment(v: &mut Value) {
    template(v);
    let spec = object(v, &["spec"]);
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    let strategy = member(spec, "strategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
        let rolling = member(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", "25%");
        default(rolling, "maxSurge", "25%");
    }
}

/// Replica sets.
pub(crate) fn replica_set(v: &mut Value) {
    template(v);
    default(object(v, &["spec"]), "replicas", 1);
    default(object(v, &["status"]), "replicas", 0);
}

/// Replication controllers.
pub(crate) fn replication_controller(v: &mut Value) {
    template(v);
    let labels = at(v, &["spec", "template", "metadata", "labels"]).cloned();
    let spec = object(v, &["spec"]);
    default(spec, "replicas", 1);
    if let Some(labels) = labels {
        default(spec, "selector", labels);
    }
    default(object(v, &["status"]), "replicas", 0);
}

/// Stateful sets.
pub(crate) fn stateful_set(v: &mut Value) {
    template(v);
    let spec = object(v, &["spec"]);
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = member(spec, "updateStrategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
        default(member(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = member(spec, "persistentVolumeClaimRetentionPolicy");
    default_text(retention, "whenDeleted", "Retain");
    default_text(retention, "whenScaled", "Retain");
    default(object(v, &["status"]), "replicas", 0);
}

/// Daemon sets.
pub(crate) fn daemon_set(v: &mut Value) {
    template(v);
    let spec = object(v, &["spec"]);
    default(spec, "revisionHistoryLimit", 10);
    let strategy = member(spec, "updateStrategy");
    default_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
        let rolling = member(strategy, "rollingUpdate");
        default(rolling, "maxUnavailable", 1);
        default(rolling, "maxSurge", 0);
    }
    let status = object(v, &["status"]);
    for field in ["currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"] {
        default(status, field, 0);
    }
}

fn job_spec(spec: &mut Map<String, Value>) {
    pod_template(member(spec, "template"));
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        spec.insert("completions".into(), 1.into());
    }
    default(spec, "parallelism", 1);
    default(spec, "backoffLimit", 6);
    default_text(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    let on_failure = spec.get("podFailurePolicy").is_some();
    default_text(spec, "podReplacementPolicy", if on_failure { "Failed" } else { "TerminatingOrFailed" });
}

/// Jobs; a selector of its own is made from the uid, which exists when the job is stored.
pub(crate) fn job(v: &mut Value) {
    let (uid, name) = (text(v, &["metadata", "uid"]).to_owned(), text(v, &["metadata", "name"]).to_owned());
    let manual = at(v, &["spec", "manualSelector"]) == Some(&Value::Bool(true));
    job_spec(object(v, &["spec"]));
    if uid.is_empty() || manual || at(v, &["spec", "selector"]).is_some() {
        return;
    }
    let labels = object(v, &["spec", "template", "metadata", "labels"]);
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
    ] {
        default(labels, key, value.as_str());
    }
    object(v, &["spec"]).insert("selector".into(), json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
}

/// Cron jobs.
pub(crate) fn cron_job(v: &mut Value) {
    let spec = object(v, &["spec"]);
    default_text(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    // A job's own defaults come when it is made; only its pods are filled in here.
    pod_template(object(v, &["spec", "jobTemplate", "spec", "template"]));
}

/// What is measured where nothing else is asked for.
pub(crate) fn usual_metrics() -> Value {
    const CPU: i64 = 80;
    let target = json!({"type": "Utilization", "averageUtilization": CPU});
    json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}])
}

/// Autoscalers of the older version.
pub(crate) fn autoscaler_v1(v: &mut Value) {
    default(object(v, &["spec"]), "minReplicas", 1);
}

/// Autoscalers.
pub(crate) fn autoscaler(v: &mut Value) {
    let spec = object(v, &["spec"]);
    default(spec, "minReplicas", 1);
    if spec.get("metrics").is_none_or(|m| m.as_array().is_none_or(Vec::is_empty)) {
        spec.insert("metrics".into(), usual_metrics());
    }
    // How to scale is filled in where anything is said of it.
    if let Some(Value::Object(behavior)) = spec.get_mut("behavior") {
        let all = json!({"type": "Percent", "value": 100, "periodSeconds": 15});
        let four = json!({"type": "Pods", "value": 4, "periodSeconds": 15});
        let up = member(behavior, "scaleUp");
        default(up, "stabilizationWindowSeconds", 0);
        default_text(up, "selectPolicy", "Max");
        default(up, "policies", json!([four, all]));
        let down = member(behavior, "scaleDown");
        default_text(down, "selectPolicy", "Max");
        default(down, "policies", json!([all]));
    }
}

/// Disruption budgets.
pub(crate) fn disruption_budget(v: &mut Value) {
    let status = object(v, &["status"]);
    for field in ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"] {
        default(status, field, 0);
    }
}
