//! Which server answers for a group and version.

use serde_json::Value;

use super::metadata::{label_1035, subdomain};
use super::{Causes, invalid, required};
use crate::resources::value::{at, number, text};

/// API services.
pub(crate) fn api_service(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    let (group, version) = (text(new, &["spec", "group"]), text(new, &["spec", "version"]));
    let (name, wanted) = (text(new, &["metadata", "name"]), format!("{version}.{group}"));
    if name != wanted {
        invalid(causes, "metadata.name", &name.into(), &format!("must be `spec.version+\".\"+spec.group`: \"{wanted}\""));
    }
    if group.is_empty() && version != "v1" {
        required(causes, "spec.group", "only v1 may have an empty group and it better be legacy kube");
    }
    if let Some(why) = subdomain(group).filter(|_| !group.is_empty()) {
        invalid(causes, "spec.group", &group.into(), why);
    }
    if let Some(why) = label_1035(version) {
        invalid(causes, "spec.version", &version.into(), why);
    }
    for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = number(new, &["spec", field]).unwrap_or(0);
        if !(1..=most).contains(&priority) {
            invalid(causes, &format!("spec.{field}"), &priority.into(), &format!("must be positive and less than {most}"));
        }
    }
    let bundle = text(new, &["spec", "caBundle"]);
    let insecure = at(new, &["spec", "insecureSkipTLSVerify"]).filter(|i| **i == Value::Bool(true));
    let Some(service) = at(new, &["spec", "service"]) else {
        if !bundle.is_empty() {
            invalid(causes, "spec.caBundle", &bundle.into(), "local APIServices may not have a caBundle");
        }
        if let Some(insecure) = insecure {
            invalid(causes, "spec.insecureSkipTLSVerify", insecure, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    for part in ["namespace", "name"] {
        if text(service, &[part]).is_empty() {
            required(causes, &format!("spec.service.{part}"), "");
        }
    }
    if let Some(insecure) = insecure.filter(|_| !bundle.is_empty()) {
        invalid(causes, "spec.insecureSkipTLSVerify", insecure, "may not be true if caBundle is present");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(name: &str, spec: Value) -> Vec<String> {
        let mut causes = Vec::new();
        api_service(&json!({"metadata":{"name":name},"spec":spec}), None, &mut causes);
        causes.into_iter().map(|c| format!("{} {}", c.reason.unwrap(), c.field.unwrap())).collect()
    }

    #[test]
    fn names_priorities_and_services() {
        let good = json!({"group":"a.b","version":"v1","groupPriorityMinimum":20_000,"versionPriority":1000,"service":{"namespace":"n","name":"s"}});
        assert_eq!(found("v1.a.b", good.clone()), Vec::<String>::new());
        assert_eq!(found("v1.", json!({"version":"v1","groupPriorityMinimum":1,"versionPriority":1})), Vec::<String>::new());
        let with = |changes: Value| {
            let mut spec = good.clone();
            spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            spec
        };
        for (name, changes, wanted) in [
            ("x.a.b", json!({}), "FieldValueInvalid metadata.name"),
            ("v2.", json!({"group":"","version":"v2"}), "FieldValueRequired spec.group"),
            ("v1.A", json!({"group":"A"}), "FieldValueInvalid spec.group"),
            ("1.a.b", json!({"version":"1"}), "FieldValueInvalid spec.version"),
            ("v1.a.b", json!({"groupPriorityMinimum":0}), "FieldValueInvalid spec.groupPriorityMinimum"),
            ("v1.a.b", json!({"versionPriority":1001}), "FieldValueInvalid spec.versionPriority"),
            ("v1.a.b", json!({"service":{"namespace":"n"}}), "FieldValueRequired spec.service.name"),
            ("v1.a.b", json!({"insecureSkipTLSVerify":true,"caBundle":"AA=="}), "FieldValueInvalid spec.insecureSkipTLSVerify"),
            ("v1.a.b", json!({"service":null,"caBundle":"AA=="}), "FieldValueInvalid spec.caBundle"),
        ] {
            assert_eq!(found(name, with(changes)), [wanted]);
        }
    }
}
