//! The environment of containers, and what of their pod it may name.

use serde_json::{Value, json};

use super::metadata::subdomain;
use super::objects::{KEY, config_key};
use super::{Causes, invalid, required, unsupported};
use crate::resources::value::{at, items, text};

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: &[&str] = &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
/// Fields of pods that can be named at all.
const KNOWN: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.hostNetwork",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.nominatedNodeName",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const AMOUNTS: &[&str] =
    &["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const SOURCES: &[&str] = &["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"];
const NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// Whether this cannot name a variable.
fn not_a_variable(name: &str) -> bool {
    name.bytes().any(|b| !(b' '..=b'~').contains(&b) || b == b'=')
}

/// `env` and `envFrom` of a container.
pub(super) fn env(container: &Value, field: &str, causes: &mut Causes) {
    for (i, variable) in items(container, &["env"]).iter().enumerate() {
        let (here, name) = (format!("{field}.env[{i}]"), text(variable, &["name"]));
        if name.is_empty() {
            required(causes, &format!("{here}.name"), "");
        } else if not_a_variable(name) {
            invalid(causes, &format!("{here}.name"), &name.into(), NAME);
        }
        if let Some(source) = at(variable, &["valueFrom"]) {
            value_from(source, !text(variable, &["value"]).is_empty(), &format!("{here}.valueFrom"), causes);
        }
    }
    for (i, source) in items(container, &["envFrom"]).iter().enumerate() {
        let (list, here) = (format!("{field}.envFrom"), format!("{field}.envFrom[{i}]"));
        let prefix = text(source, &["prefix"]);
        if not_a_variable(prefix) {
            invalid(causes, &format!("{here}.prefix"), &prefix.into(), NAME);
        }
        let named: Vec<&str> = ["configMapRef", "secretRef"].into_iter().filter(|kind| at(source, &[kind]).is_some()).collect();
        for kind in &named {
            let (name, at_name) = (text(source, &[kind, "name"]), format!("{here}.{kind}.name"));
            if name.is_empty() {
                required(causes, &at_name, "");
            } else if let Some(why) = subdomain(name) {
                invalid(causes, &at_name, &name.into(), why);
            }
        }
        match named.len() {
            0 => invalid(causes, &list, &json!(""), "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => invalid(causes, &list, &json!(""), "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(source: &Value, has_value: bool, here: &str, causes: &mut Causes) {
    let named: Vec<&str> = SOURCES.iter().copied().filter(|kind| at(source, &[kind]).is_some()).collect();
    for kind in &named {
        let (part, field) = (&source[*kind], format!("{here}.{kind}"));
        match *kind {
            "fieldRef" => field_ref(part, FIELDS, &field, causes),
            "resourceFieldRef" => resource_field_ref(part, false, &field, causes),
            "configMapKeyRef" | "secretKeyRef" => {
                let (name, key) = (text(part, &["name"]), text(part, &["key"]));
                if let Some(why) = subdomain(name) {
                    invalid(causes, &format!("{field}.name"), &name.into(), why);
                }
                if key.is_empty() {
                    required(causes, &format!("{field}.key"), "");
                } else if !config_key(key) {
                    invalid(causes, &format!("{field}.key"), &key.into(), KEY);
                }
            }
            _ => {
                for name in ["key", "path", "volumeName"] {
                    if text(part, &[name]).is_empty() {
                        required(causes, &format!("{field}.{name}"), "");
                    }
                }
            }
        }
    }
    match named.len() {
        0 => {
            let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
            invalid(causes, here, &json!(""), why);
        }
        _ if has_value => invalid(causes, here, &json!(""), "may not be specified when `value` is not empty"),
        1 => {}
        _ => invalid(causes, here, &json!(""), "may not have more than one field specified at a time"),
    }
}

/// A field of the pod. In a volume other fields can be had than in a variable.
fn field_ref(part: &Value, fields: &[&str], here: &str, causes: &mut Causes) {
    let (version, path) = (text(part, &["apiVersion"]), text(part, &["fieldPath"]));
    if version.is_empty() {
        return required(causes, &format!("{here}.apiVersion"), "");
    }
    let field = format!("{here}.fieldPath");
    if path.is_empty() {
        return required(causes, &field, "");
    }
    let (name, subscript) = match path.strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        Some((name, subscript)) => (name, Some(subscript)),
        None => (path, None),
    };
    if !KNOWN.contains(&name) {
        let why = format!("error converting fieldPath: field label not supported: {name}");
        return invalid(causes, &field, &path.into(), &why);
    }
    match subscript {
        Some(subscript) => match name {
            "metadata.annotations" | "metadata.labels" => {
                if !wharf_core::selector::is_qualified_name(&subscript.to_lowercase()) {
                    invalid(causes, &field, &subscript.into(), super::metadata::QUALIFIED);
                }
            }
            _ => invalid(causes, &field, &name.into(), "does not support subscript"),
        },
        None if !fields.contains(&name) => unsupported(causes, &field, &name.into(), fields),
        None => {}
    }
}

fn resource_field_ref(part: &Value, in_volume: bool, here: &str, causes: &mut Causes) {
    let resource = text(part, &["resource"]);
    if in_volume && text(part, &["containerName"]).is_empty() {
        required(causes, &format!("{here}.containerName"), "");
    } else if resource.is_empty() {
        required(causes, &format!("{here}.resource"), "");
    } else if !AMOUNTS.contains(&resource) && !resource.starts_with("limits.hugepages-") && !resource.starts_with("requests.hugepages-") {
        unsupported(causes, &format!("{here}.resource"), &resource.into(), AMOUNTS);
    }
}

/// One file of a downward volume.
pub(super) fn downward_file(file: &Value, here: &str, causes: &mut Causes) {
    let (field, amount) = (at(file, &["fieldRef"]), at(file, &["resourceFieldRef"]));
    if let Some(part) = field {
        field_ref(part, VOLUME_FIELDS, &format!("{here}.fieldRef"), causes);
        if amount.is_some() {
            invalid(causes, here, &json!("resource"), "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
    } else if let Some(part) = amount {
        resource_field_ref(part, true, &format!("{here}.resourceFieldRef"), causes);
    } else {
        required(causes, here, "one of fieldRef and resourceFieldRef is required");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(container: Value) -> Vec<String> {
        let mut causes = Vec::new();
        env(&container, "c", &mut causes);
        crate::validation::testing::lines(causes)
    }

    #[test]
    fn variables() {
        let from = |source: Value| found(json!({"env":[{"name":"a","valueFrom":source}]}));
        for good in [
            json!({"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.labels['a.b/c']"}}),
            json!({"fieldRef":{"apiVersion":"v1","fieldPath":"status.podIPs"}}),
            json!({"resourceFieldRef":{"resource":"limits.cpu"}}),
            json!({"secretKeyRef":{"name":"s","key":"k"}}),
        ] {
            assert_eq!(from(good.clone()), Vec::<String>::new(), "{good}");
        }
        for (source, wanted) in [
            (
                json!({}),
                "c.env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ),
            (
                json!({"configMapKeyRef":{"name":"s","key":"k"},"secretKeyRef":{"name":"s","key":"k"}}),
                "c.env[0].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
            ),
            (
                json!({"fieldRef":{"apiVersion":"v1","fieldPath":"spec.foo"}}),
                "c.env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.foo\": error converting fieldPath: field label not supported: spec.foo",
            ),
            (
                json!({"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.name['a']"}}),
                "c.env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name\": does not support subscript",
            ),
            (json!({"secretKeyRef":{"name":"s"}}), "c.env[0].valueFrom.secretKeyRef.key: Required value"),
        ] {
            assert_eq!(from(source), [wanted]);
        }
        assert!(
            from(json!({"fieldRef":{"apiVersion":"v1","fieldPath":"metadata.labels"}}))[0].contains("supported values: \"metadata.name\"")
        );
        assert!(from(json!({"resourceFieldRef":{"resource":"cpu"}}))[0].contains("Unsupported value: \"cpu\""));
        assert_eq!(
            found(json!({"env":[{"name":"a","value":"b","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]})),
            ["c.env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"]
        );
        assert_eq!(found(json!({"env":[{"name":"a=b"}]})), [format!("c.env[0].name: Invalid value: \"a=b\": {NAME}")]);
    }

    #[test]
    fn whole_maps() {
        assert_eq!(found(json!({"envFrom":[{"prefix":"A_","configMapRef":{"name":"c"}}]})), Vec::<String>::new());
        assert_eq!(
            found(json!({"envFrom":[{}, {"secretRef":{}}]})),
            [
                "c.envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                "c.envFrom[1].secretRef.name: Required value"
            ]
        );
    }
}
