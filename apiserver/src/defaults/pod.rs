//! Defaults of pods and of the templates that make them.

use serde_json::{Map, Value, json};

use crate::resources::value::{as_map, at, default, default_text, each_in, items, object, text};

const FILE_MODE: i64 = 0o644;

/// Pods.
pub(crate) fn pod(v: &mut Value) {
    pod_spec(as_map(v).entry("spec").or_insert_with(|| json!({})));
    default(object(v, &["spec"]), "enableServiceLinks", true);
    // A pod's requests are its limits unless it says otherwise; a template's are left to its pods.
    for list in ["containers", "initContainers"] {
        each_in(object(v, &["spec"]), list, requests_from_limits);
    }
    let qos = qos_class(v);
    let status = object(v, &["status"]);
    default_text(status, "phase", "Pending");
    default_text(status, "qosClass", qos);
}

/// The kind PodTemplate.
pub(crate) fn pod_template_kind(v: &mut Value) {
    pod_template(object(v, &["template"]));
}

/// The template of a controller.
pub(super) fn pod_template(template: &mut Map<String, Value>) {
    pod_spec(template.entry("spec").or_insert_with(|| json!({})));
}

fn pod_spec(spec: &mut Value) {
    let host_network = at(spec, &["hostNetwork"]) == Some(&Value::Bool(true));
    let map = as_map(spec);
    default_text(map, "restartPolicy", "Always");
    default_text(map, "dnsPolicy", "ClusterFirst");
    default_text(map, "schedulerName", "default-scheduler");
    default(map, "terminationGracePeriodSeconds", 30);
    default(map, "securityContext", json!({}));
    // The old name of a field is kept beside the new one.
    if let Some(account) = map.get("serviceAccountName").cloned() {
        default(map, "serviceAccount", account);
    } else if let Some(account) = map.get("serviceAccount").cloned() {
        default(map, "serviceAccountName", account);
    }
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        each_in(map, list, |c| container(c, host_network));
    }
    each_in(map, "volumes", volume);
}

fn container(c: &mut Map<String, Value>, host_network: bool) {
    let image = c.get("image").and_then(Value::as_str).unwrap_or_default().to_owned();
    default_text(c, "imagePullPolicy", if is_latest(&image) { "Always" } else { "IfNotPresent" });
    default_text(c, "terminationMessagePath", "/dev/termination-log");
    default_text(c, "terminationMessagePolicy", "File");
    default(c, "resources", json!({}));
    each_in(c, "ports", |port| {
        default_text(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            default(port, "hostPort", number);
        }
    });
    each_in(c, "env", |env| {
        if let Some(field) = env.get_mut("valueFrom").and_then(|f| f.get_mut("fieldRef")) {
            default_text(as_map(field), "apiVersion", "v1");
        }
    });
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(Value::Object(probe)) = c.get_mut(name) {
            for (field, value) in [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)] {
                // In a probe a zero is an omission too.
                if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
                    probe.insert(field.into(), value.into());
                }
            }
            http_get(probe);
            if let Some(Value::Object(grpc)) = probe.get_mut("grpc") {
                default(grpc, "service", "");
            }
        }
    }
    if let Some(Value::Object(lifecycle)) = c.get_mut("lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(Value::Object(handler)) = lifecycle.get_mut(name) {
                http_get(handler);
            }
        }
    }
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(Value::Object(get)) = handler.get_mut("httpGet") {
        default_text(get, "path", "/");
        default_text(get, "scheme", "HTTP");
    }
}

/// Whether an image names no tag, or `latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest" || tag.is_empty())
}

fn volume(v: &mut Map<String, Value>) {
    if v.keys().all(|k| k == "name") {
        v.insert("emptyDir".into(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(Value::Object(source)) = v.get_mut(source) {
            default(source, "defaultMode", FILE_MODE);
            field_refs(source);
            each_in(source, "sources", |part| {
                if let Some(Value::Object(token)) = part.get_mut("serviceAccountToken") {
                    default(token, "expirationSeconds", 3600);
                }
                if let Some(Value::Object(down)) = part.get_mut("downwardAPI") {
                    field_refs(down);
                }
            });
        }
    }
    if let Some(Value::Object(path)) = v.get_mut("hostPath") {
        default(path, "type", "");
    }
}

fn field_refs(source: &mut Map<String, Value>) {
    each_in(source, "items", |item| {
        if let Some(Value::Object(field)) = item.get_mut("fieldRef") {
            default_text(field, "apiVersion", "v1");
        }
    });
}

fn requests_from_limits(c: &mut Map<String, Value>) {
    if let Some(Value::Object(resources)) = c.get_mut("resources")
        && let Some(Value::Object(limits)) = resources.get("limits").cloned()
    {
        let requests = as_map(resources.entry("requests").or_insert_with(|| json!({})));
        for (name, amount) in limits {
            default(requests, &name, amount);
        }
    }
}

/// The quality of service that a pod's requests and limits amount to.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let all = items(pod, &["spec", "containers"]).iter().chain(items(pod, &["spec", "initContainers"]));
    let (mut any, mut guaranteed) = (false, true);
    for container in all {
        for resource in ["cpu", "memory"] {
            let amount = |part: &str| text(container, &["resources", part, resource]).parse::<wharf_core::quantity::Quantity>().ok();
            let (request, limit) = (amount("requests").filter(|q| !q.is_zero()), amount("limits").filter(|q| !q.is_zero()));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images() {
        for (image, latest) in [("a", true), ("a:latest", true), ("r:5000/a", true), ("r:5000/a:v1", false), ("a@sha256:1", false)] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn a_small_pod_becomes_a_whole_one() {
        let mut v = json!({"spec":{"containers":[{"name":"a","image":"x:1","ports":[{"containerPort":80}],"readinessProbe":{"httpGet":{"port":80}}}],
            "volumes":[{"name":"v"},{"name":"s","secret":{"secretName":"x"}}]}});
        pod(&mut v);
        assert_eq!(v["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
        assert_eq!(v["spec"]["containers"][0]["ports"][0]["protocol"], "TCP");
        assert_eq!(v["spec"]["containers"][0]["readinessProbe"]["failureThreshold"], 3);
        assert_eq!(v["spec"]["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(v["spec"]["volumes"][1]["secret"]["defaultMode"], 420);
        assert_eq!(v["status"], json!({"phase":"Pending","qosClass":"BestEffort"}));
        let before = v.clone();
        pod(&mut v);
        assert_eq!(v, before);
    }

    #[test]
    fn qos() {
        let with = |resources: Value| json!({"spec":{"containers":[{"resources":resources}]}});
        let mut limits = with(json!({"limits":{"cpu":"1","memory":"1Gi"}}));
        pod(&mut limits);
        assert_eq!(limits["status"]["qosClass"], "Guaranteed");
        assert_eq!(qos_class(&with(json!({"requests":{"cpu":"1"}}))), "Burstable");
        assert_eq!(
            qos_class(&with(json!({"limits":{"cpu":"1","memory":"1Gi"},"requests":{"cpu":"1000m","memory":"1024Mi"}}))),
            "Guaranteed"
        );
    }
}
