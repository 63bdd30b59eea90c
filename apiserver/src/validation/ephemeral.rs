//! Ephemeral containers: they come, and stay as they came.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Causes, duplicate, forbidden, pod};
use crate::resources::value::{at, items, text};
use crate::rest::status::cause;

const FIELD: &str = "spec.ephemeralContainers";
const MIRROR: &str = "kubernetes.io/config.mirror";
const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
/// What else a container may say is no business of one that comes to debug.
const ALLOWED: &[&str] = &[
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "envFrom",
    "env",
    "volumeMounts",
    "volumeDevices",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "imagePullPolicy",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "targetContainerName",
];

/// Whether a pod is one that its node has made up.
pub(super) fn is_mirror(pod: &Value) -> bool {
    at(pod, &["metadata", "annotations", MIRROR]).is_some()
}

/// A refusal that names no field, as Kubernetes has a few.
pub(super) fn refuse(causes: &mut Causes, why: &str) {
    causes.clear();
    let mut refusal = cause("FieldValueForbidden", format!("Forbidden: {why}"), "");
    refusal.field = Some(String::new());
    causes.push(refusal);
}

/// A pod whose ephemeral containers were written.
pub(crate) fn ephemeral_containers(new: &Value, old: &Value, causes: &mut Causes) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    pod::spec(spec, "spec", causes);
    each(spec, causes);
    if is_mirror(old) {
        return refuse(causes, "static pods do not support ephemeral containers");
    }
    let now = items(spec, &["ephemeralContainers"]);
    for before in items(old, &["spec", "ephemeralContainers"]) {
        let name = text(before, &["name"]);
        // An order is not kept by patches, so that each is looked for.
        match now.iter().rev().find(|container| text(container, &["name"]) == name) {
            None => forbidden(causes, FIELD, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(after) if after != before => {
                forbidden(causes, FIELD, &format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

fn each(spec: &Value, causes: &mut Causes) {
    let name = |container: &'_ Value| text(container, &["name"]).to_owned();
    let others: HashSet<String> = ["containers", "initContainers"].iter().flat_map(|list| items(spec, &[list])).map(name).collect();
    let volumes: HashSet<&str> = items(spec, &["volumes"]).iter().map(|volume| text(volume, &["name"])).collect();
    let mut names = others.clone();
    for (index, container) in items(spec, &["ephemeralContainers"]).iter().enumerate() {
        let here = format!("{FIELD}[{index}]");
        pod::container(container, &here, &volumes, false, causes);
        if !names.insert(name(container)) {
            duplicate(causes, &format!("{here}.name"), &json!(name(container)));
        }
        let target = text(container, &["targetContainerName"]);
        if !target.is_empty() && !others.contains(target) {
            causes.push(cause("FieldValueNotFound", format!("Not found: {target:?}"), &format!("{here}.targetContainerName")));
        }
        for (field, value) in container.as_object().into_iter().flatten() {
            let empty = match value {
                Value::Null => true,
                Value::Object(map) => map.is_empty(),
                Value::Array(list) => list.is_empty(),
                _ => false,
            };
            if !empty && !ALLOWED.contains(&field.as_str()) {
                forbidden(causes, &format!("{here}.{field}"), FORBIDDEN);
            }
        }
        for (mount, value) in items(container, &["volumeMounts"]).iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(value, &[field]).is_empty() {
                    forbidden(causes, &format!("{here}.volumeMounts[{mount}].{field}"), FORBIDDEN);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(new: &Value, old: &Value) -> Vec<String> {
        let mut causes = Vec::new();
        ephemeral_containers(new, old, &mut causes);
        crate::validation::testing::lines(causes)
    }
    fn pod(ephemeral: Value) -> Value {
        json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "x"}], "volumes": [{"name": "v"}], "ephemeralContainers": ephemeral}})
    }

    #[test]
    fn they_are_added_and_neither_changed_nor_removed() {
        let one = json!({"name": "d", "image": "x"});
        assert_eq!(told(&pod(json!([one])), &pod(json!([]))), Vec::<String>::new());
        assert_eq!(told(&pod(json!([{"name": "e", "image": "x"}, one])), &pod(json!([one]))), Vec::<String>::new());
        let at = "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"d\" may not be";
        assert_eq!(told(&pod(json!([])), &pod(json!([one]))), [format!("{at} removed\n")]);
        assert_eq!(told(&pod(json!([{"name": "d", "image": "y"}])), &pod(json!([one]))), [format!("{at} changed\n")]);
    }

    #[test]
    fn they_are_no_part_of_the_pods_work() {
        let bad = pod(json!([
            {"name": "a", "image": "x", "targetContainerName": "z", "ports": [{"containerPort": 1}], "resources": {}},
            {"name": "d", "image": "x", "targetContainerName": "a", "resources": {"limits": {"cpu": "1"}}, "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}]},
        ]));
        assert_eq!(
            told(&bad, &pod(json!([]))),
            [
                "spec.ephemeralContainers[0].name: Duplicate value: \"a\"",
                "spec.ephemeralContainers[0].targetContainerName: Not found: \"z\"",
                "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
                "spec.ephemeralContainers[1].resources: Forbidden: cannot be set for an Ephemeral Container",
                "spec.ephemeralContainers[1].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
            ]
        );
        let mut mirror = pod(json!([]));
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        assert_eq!(told(&pod(json!([])), &mirror), [": Forbidden: static pods do not support ephemeral containers"]);
    }
}
