//! A pod that is resized while it runs: processor and memory, and nothing else.

use serde_json::{Map, Value, json};

use super::ephemeral::{is_mirror, refuse};
use super::{Causes, forbidden, invalid, pod};
use crate::defaults::qos_class;
use crate::resources::value::{as_map, at, items, text};

/// What may be resized.
const RESIZED: [&str; 2] = ["cpu", "memory"];

/// A pod of which the resources were written.
pub(crate) fn resize(new: &Value, old: &Value, causes: &mut Causes) {
    pod::spec(new.get("spec").unwrap_or(&Value::Null), "spec", causes);
    if is_mirror(old) {
        return refuse(causes, "static pods cannot be resized");
    }
    if text(old, &["spec", "os", "name"]) == "windows" {
        return refuse(causes, "windows pods cannot be resized");
    }
    let listed = causes.len();
    for list in ["containers", "initContainers"] {
        same_containers(new, old, list, causes);
    }
    if causes.len() > listed {
        return;
    }
    let class = match text(old, &["status", "qosClass"]) {
        "" => qos_class(old),
        class => class,
    };
    if class != qos_class(new) {
        invalid(causes, "spec", &json!(text(new, &["status", "qosClass"])), "Pod QOS Class may not change as a result of resizing");
    }
    if !is_supported(old) {
        forbidden(causes, "spec", "Pod running on node without support for resize");
    }
    for (list, init) in [("initContainers", true), ("containers", false)] {
        for (index, (now, before)) in items(new, &["spec", list]).iter().zip(items(old, &["spec", list])).enumerate() {
            let sidecar = text(before, &["restartPolicy"]) == "Always";
            if init && !sidecar {
                if now != before {
                    forbidden(causes, "spec", "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            for part in ["requests", "limits"] {
                let amounts =
                    |container: &Value| at(container, &["resources", part]).and_then(Value::as_object).cloned().unwrap_or_default();
                let (now, before) = (amounts(now), amounts(before));
                if before.keys().any(|name| !now.contains_key(name)) {
                    forbidden(causes, &format!("spec.{list}[{index}].resources.{part}"), &format!("resource {part} cannot be removed"));
                }
            }
            if without_resized(now) != without_resized(before) {
                let what = if init { " for sidecar containers" } else { "" };
                forbidden(causes, "spec", &format!("only cpu and memory resources{what} are mutable"));
            }
        }
    }
}

fn same_containers(new: &Value, old: &Value, list: &str, causes: &mut Causes) {
    let (now, before) = (items(new, &["spec", list]), items(old, &["spec", list]));
    if now.len() != before.len() {
        return forbidden(causes, &format!("spec.{list}"), &format!("{list} may not be added or removed on resize"));
    }
    for (index, (now, before)) in now.iter().zip(before).enumerate() {
        if text(now, &["name"]) != text(before, &["name"]) {
            let why = format!("{list} may not be renamed or reordered on resize");
            forbidden(causes, &format!("spec.{list}[{index}].name"), &why);
        }
    }
}

/// Whether the pod's node resizes: it tells what running containers have. Before one runs nobody can know.
fn is_supported(pod: &Value) -> bool {
    let running = |status: &&Value| at(status, &["state", "running"]).is_some();
    items(pod, &["status", "containerStatuses"]).iter().find(running).is_none_or(|status| at(status, &["resources"]).is_some())
}

/// A container as it is but for what may be resized; amounts that are written differently are the same.
fn without_resized(container: &Value) -> Value {
    let mut rest = container.clone();
    let map = as_map(&mut rest);
    map.remove("resizePolicy");
    let mut kept = Map::new();
    for part in ["requests", "limits"] {
        let amounts = at(container, &["resources", part]).and_then(Value::as_object).into_iter().flatten();
        let others: Map<String, Value> = amounts
            .filter(|(name, _)| !RESIZED.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), pod::amount(value).map_or_else(|_| value.clone(), |amount| amount.to_string().into())))
            .collect();
        if !others.is_empty() {
            kept.insert(part.into(), others.into());
        }
    }
    map.insert("resources".into(), kept.into());
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(new: &Value, old: &Value) -> Vec<String> {
        let mut causes = Vec::new();
        resize(new, old, &mut causes);
        crate::validation::testing::lines(causes)
    }
    fn pod(resources: Value) -> Value {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "x", "resources": resources}]}});
        pod["status"]["qosClass"] = qos_class(&pod).into();
        pod
    }

    #[test]
    fn processor_and_memory_change_and_nothing_else() {
        let old = pod(json!({"requests": {"cpu": "1", "example.com/gpu": "1"}}));
        assert_eq!(told(&pod(json!({"requests": {"cpu": "2", "memory": "1Gi", "example.com/gpu": "1"}})), &old), Vec::<String>::new());
        assert_eq!(
            told(&pod(json!({"requests": {"cpu": "2", "example.com/gpu": "2"}})), &old),
            ["spec: Forbidden: only cpu and memory resources are mutable"]
        );
        assert_eq!(
            told(&pod(json!({"requests": {"example.com/gpu": "1", "memory": "1"}})), &old),
            ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]
        );
        let mut two = pod(json!({"requests": {"cpu": "1"}}));
        two["spec"]["containers"][0]["name"] = "b".into();
        assert_eq!(told(&two, &old), ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]);
    }

    #[test]
    fn the_class_stays_and_the_node_must_be_able_to() {
        let mut old = pod(json!({"requests": {"cpu": "1"}}));
        let all = json!({"cpu": "1", "memory": "1Gi"});
        let mut grown = pod(json!({"requests": all, "limits": all}));
        grown["status"] = old["status"].clone();
        assert_eq!(told(&grown, &old), ["spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"]);
        let new = pod(json!({"requests": {"cpu": "2"}}));
        old["status"]["containerStatuses"] = json!([{"name": "a", "state": {"running": {}}}]);
        assert_eq!(told(&new, &old), ["spec: Forbidden: Pod running on node without support for resize"]);
        old["status"]["containerStatuses"][0]["resources"] = json!({});
        assert_eq!(told(&new, &old), Vec::<String>::new());
    }
}
