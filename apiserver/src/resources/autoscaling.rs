//! Autoscalers of `autoscaling/v1` and of `autoscaling/v2`: one storage, in the newer form. What the older one has no members for travels
//! in annotations, as in Kubernetes.

use serde_json::{Map, Value, json};

use super::value::{as_map, at, items, object, text};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";

/// Moves a member to another name, where it is.
fn moved(from: &mut Value, path: &[&str], to: &mut Map<String, Value>, name: &str) {
    let (Some((last, parents)), true) = (path.split_last(), at(from, path).is_some()) else { return };
    if let Some(found) = object(from, parents).remove(*last) {
        to.insert(name.to_owned(), found);
    }
}

/// The members of a metric source: where they are in `v2`, below `part` or not, and how `v1` calls them.
fn members(source: &str, part: &'static str) -> Vec<([&'static str; 2], &'static str)> {
    let target = part == "target";
    let own = |name: &'static str| (["", name], name);
    match source {
        "resource" | "containerResource" => {
            let mut all = vec![own("name")];
            if source == "containerResource" {
                all.push(own("container"));
            }
            all.push(([part, "averageUtilization"], if target { "targetAverageUtilization" } else { "currentAverageUtilization" }));
            all.push(([part, "averageValue"], if target { "targetAverageValue" } else { "currentAverageValue" }));
            all
        }
        "pods" => vec![
            (["metric", "name"], "metricName"),
            (["metric", "selector"], "selector"),
            ([part, "averageValue"], if target { "targetAverageValue" } else { "currentAverageValue" }),
        ],
        "object" => vec![
            (["", "describedObject"], "target"),
            (["metric", "name"], "metricName"),
            (["metric", "selector"], "selector"),
            ([part, "value"], if target { "targetValue" } else { "currentValue" }),
            ([part, "averageValue"], "averageValue"),
        ],
        "external" => vec![
            (["metric", "name"], "metricName"),
            (["metric", "selector"], "metricSelector"),
            ([part, "value"], if target { "targetValue" } else { "currentValue" }),
            ([part, "averageValue"], if target { "targetAverageValue" } else { "currentAverageValue" }),
        ],
        _ => Vec::new(),
    }
}

fn path(at: &[&'static str; 2]) -> Vec<&'static str> {
    at.iter().copied().filter(|step| !step.is_empty()).collect()
}

fn source_of(metric: &Value) -> &'static str {
    match text(metric, &["type"]) {
        "ContainerResource" => "containerResource",
        "External" => "external",
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        _ => "",
    }
}

fn to_v1(metric: &Value, part: &'static str) -> Value {
    let source = source_of(metric);
    let mut from = metric.get(source).cloned().unwrap_or_default();
    let mut to = Map::new();
    for (at, name) in members(source, part) {
        moved(&mut from, &path(&at), &mut to, name);
    }
    json!({"type": metric.get("type"), source: to})
}

fn to_v2(metric: &Value, part: &'static str) -> Value {
    let source = source_of(metric);
    let mut to = json!({});
    for (at, name) in members(source, part) {
        if let (Some(found), [parents @ .., last]) = (metric.get(source).and_then(|m| m.get(name)), path(&at).as_slice()) {
            object(&mut to, parents).insert((*last).to_owned(), found.clone());
        }
    }
    if part == "target" {
        let target = object(&mut to, &["target"]);
        let kind = match () {
            () if target.contains_key("averageUtilization") => "Utilization",
            () if target.contains_key("averageValue") => "AverageValue",
            () => "Value",
        };
        target.insert("type".into(), kind.into());
    }
    json!({"type": metric.get("type"), source: to})
}

/// Whether a metric is the share of the processor that `v1` has a member for.
fn is_cpu_share(metric: &Value, part: &str) -> bool {
    text(metric, &["type"]) == "Resource"
        && text(metric, &["resource", "name"]) == "cpu"
        && at(metric, &["resource", part, "averageUtilization"]).is_some()
}

/// The members of a behavior: `v1`'s annotation has the names of Kubernetes' own types, which begin with capitals.
fn renamed(value: &Value, rename: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(name, value)| (rename(name), renamed(value, rename))).collect()),
        Value::Array(all) => all.iter().map(|value| renamed(value, rename)).collect(),
        other => other.clone(),
    }
}

fn first(name: &str, change: fn(char) -> char) -> String {
    let mut letters = name.chars();
    letters.next().map(change).into_iter().chain(letters).collect()
}

fn annotate(value: &mut Value, name: &str, content: &Value) {
    object(value, &["metadata", "annotations"]).insert(name.to_owned(), content.to_string().into());
}

fn annotated(value: &mut Value, name: &str) -> Option<Value> {
    at(value, &["metadata", "annotations", name])?;
    let metadata = object(value, &["metadata"]);
    let annotations = as_map(metadata.get_mut("annotations")?);
    let found = annotations.remove(name)?;
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    // What somebody wrote there and cannot be read is no metric.
    serde_json::from_str(found.as_str()?).ok()
}

/// A stored autoscaler as `autoscaling/v1`.
pub(crate) fn serve(mut value: Value) -> Value {
    as_map(&mut value).insert("apiVersion".into(), "autoscaling/v1".into());
    let (metrics, current) = (items(&value, &["spec", "metrics"]).to_vec(), items(&value, &["status", "currentMetrics"]).to_vec());
    let behavior = at(&value, &["spec", "behavior"]).cloned();
    let conditions = at(&value, &["status", "conditions"]).cloned();
    // The last of several counts, as in Kubernetes, which takes one after the other.
    let share = metrics.iter().rfind(|m| is_cpu_share(m, "target")).cloned();
    let is = current.iter().rfind(|m| is_cpu_share(m, "current")).cloned();
    let others: Vec<Value> = metrics.iter().filter(|m| !is_cpu_share(m, "target")).map(|m| to_v1(m, "target")).collect();
    if !others.is_empty() {
        annotate(&mut value, METRICS, &others.into());
    }
    if !current.is_empty() {
        annotate(&mut value, CURRENT, &current.iter().map(|m| to_v1(m, "current")).collect::<Value>());
    }
    if let Some(behavior) = behavior {
        annotate(&mut value, BEHAVIOR, &renamed(&behavior, &|name| first(name, |c| c.to_ascii_uppercase())));
    }
    if let Some(conditions) = conditions.filter(|c| c.as_array().is_some_and(|c| !c.is_empty())) {
        annotate(&mut value, CONDITIONS, &conditions);
    }
    let spec = object(&mut value, &["spec"]);
    spec.remove("metrics");
    spec.remove("behavior");
    if let Some(share) = share {
        spec.insert("targetCPUUtilizationPercentage".into(), share["resource"]["target"]["averageUtilization"].clone());
    }
    if at(&value, &["status"]).is_some() {
        let status = object(&mut value, &["status"]);
        status.remove("currentMetrics");
        status.remove("conditions");
        if let Some(is) = is {
            status.insert("currentCPUUtilizationPercentage".into(), is["resource"]["current"]["averageUtilization"].clone());
        }
    }
    value
}

/// An autoscaler of `autoscaling/v1` as it is stored.
pub(crate) fn store(mut value: Value) -> Value {
    as_map(&mut value).insert("apiVersion".into(), "autoscaling/v2".into());
    let [metrics, current, behavior, conditions] = [METRICS, CURRENT, BEHAVIOR, CONDITIONS].map(|name| annotated(&mut value, name));
    let each = |list: Option<Value>, part: &'static str| -> Vec<Value> {
        list.as_ref().and_then(Value::as_array).into_iter().flatten().map(|metric| to_v2(metric, part)).collect()
    };
    let (mut metrics, mut current) = (each(metrics, "target"), each(current, "current"));
    let spec = object(&mut value, &["spec"]);
    if let Some(share) = spec.remove("targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": share});
        metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    // Stored without metrics it would be read with the usual ones.
    spec.insert("metrics".into(), if metrics.is_empty() { crate::defaults::usual_metrics() } else { metrics.into() });
    if let Some(behavior) = behavior {
        spec.insert("behavior".into(), renamed(&behavior, &|name| first(name, |c| c.to_ascii_lowercase())));
    }
    if at(&value, &["status"]).is_none() && current.is_empty() && conditions.is_none() {
        return value;
    }
    let status = object(&mut value, &["status"]);
    if let Some(is) = status.remove("currentCPUUtilizationPercentage")
        && !current.iter().any(|metric| is_cpu_share(metric, "current"))
    {
        current.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": is}}}));
    }
    if !current.is_empty() {
        status.insert("currentMetrics".into(), current.into());
    }
    if let Some(conditions) = conditions {
        status.insert("conditions".into(), conditions);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Value {
        json!({"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{"name":"a","annotations":{"x":"y"}},
            "spec":{"minReplicas":1,"maxReplicas":3,"scaleTargetRef":{"kind":"Deployment","name":"web"},
                "metrics":[
                    {"type":"Resource","resource":{"name":"memory","target":{"type":"AverageValue","averageValue":"1Gi"}}},
                    {"type":"Pods","pods":{"metric":{"name":"qps","selector":{"matchLabels":{"a":"b"}}},"target":{"type":"AverageValue","averageValue":"1k"}}},
                    {"type":"Object","object":{"describedObject":{"kind":"Ingress","name":"i"},"metric":{"name":"qps"},"target":{"type":"Value","value":"2k"}}},
                    {"type":"External","external":{"metric":{"name":"queue"},"target":{"type":"AverageValue","averageValue":"30"}}},
                    {"type":"ContainerResource","containerResource":{"name":"cpu","container":"c","target":{"type":"Utilization","averageUtilization":60}}},
                    {"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}}],
                "behavior":{"scaleUp":{"stabilizationWindowSeconds":0,"selectPolicy":"Max","policies":[{"type":"Pods","value":4,"periodSeconds":15}]}}},
            "status":{"currentReplicas":1,"desiredReplicas":2,"currentMetrics":[
                    {"type":"Resource","resource":{"name":"cpu","current":{"averageUtilization":12,"averageValue":"120m"}}}],
                "conditions":[{"type":"AbleToScale","status":"True"}]}})
    }

    #[test]
    fn there_and_back() {
        let old = serve(full());
        assert_eq!(old["apiVersion"], "autoscaling/v1");
        assert_eq!(old["spec"]["targetCPUUtilizationPercentage"], 80);
        assert_eq!(old["status"]["currentCPUUtilizationPercentage"], 12);
        assert!(old["spec"].get("metrics").is_none() && old["spec"].get("behavior").is_none() && old["status"].get("conditions").is_none());
        let metrics: Value = serde_json::from_str(old["metadata"]["annotations"][METRICS].as_str().unwrap()).unwrap();
        assert_eq!(
            metrics[1],
            json!({"type":"Pods","pods":{"metricName":"qps","selector":{"matchLabels":{"a":"b"}},"targetAverageValue":"1k"}})
        );
        assert_eq!(metrics[2]["object"], json!({"target":{"kind":"Ingress","name":"i"},"metricName":"qps","targetValue":"2k"}));
        let behavior: Value = serde_json::from_str(old["metadata"]["annotations"][BEHAVIOR].as_str().unwrap()).unwrap();
        assert_eq!(behavior["ScaleUp"]["Policies"][0]["PeriodSeconds"], 15);
        assert_eq!(store(old), full());
    }

    #[test]
    fn what_kubectl_autoscale_makes() {
        let plain = json!({"apiVersion":"autoscaling/v1","metadata":{"name":"a"},
            "spec":{"maxReplicas":3,"scaleTargetRef":{"kind":"Deployment","name":"web"},"targetCPUUtilizationPercentage":50}});
        let stored = store(plain.clone());
        assert_eq!(stored["spec"]["metrics"][0]["resource"]["target"], json!({"type":"Utilization","averageUtilization":50}));
        assert_eq!(serve(stored), plain);
    }

    #[test]
    fn nonsense_in_an_annotation_is_no_metric() {
        let bad = json!({"metadata":{"annotations":{METRICS:"{","x":"y"}},"spec":{"maxReplicas":1}});
        let stored = store(bad);
        assert_eq!(stored["metadata"]["annotations"], json!({"x":"y"}));
        assert_eq!(stored["spec"]["metrics"], crate::defaults::usual_metrics());
    }
}
