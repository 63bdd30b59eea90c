//! rbac.authorization.k8s.io: rules, and who is bound to them.

use serde_json::Value;

use super::metadata::{path_segment, subdomain};
use super::selector::label_selector;
use super::{Causes, invalid, required, unsupported};
use crate::resources::value::{at, items, text};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles of a namespace.
pub(crate) fn role(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    rules(new, true, causes);
}

/// Cluster roles.
pub(crate) fn cluster_role(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    rules(new, false, causes);
    let Some(aggregation) = at(new, &["aggregationRule"]) else { return };
    const SELECTORS: &str = "aggregationRule.clusterRoleSelectors";
    let selectors = items(aggregation, &["clusterRoleSelectors"]);
    if selectors.is_empty() {
        required(causes, SELECTORS, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    }
    for (i, selector) in selectors.iter().enumerate() {
        label_selector(Some(selector), &format!("{SELECTORS}[{i}]"), causes);
    }
}

fn rules(role: &Value, in_namespace: bool, causes: &mut Causes) {
    for (i, rule) in items(role, &["rules"]).iter().enumerate() {
        let field = |name: &str| format!("rules[{i}].{name}");
        let has = |name: &str| !items(rule, &[name]).is_empty();
        if !has("verbs") {
            required(causes, &field("verbs"), "verbs must contain at least one value");
        }
        if let Some(paths) = at(rule, &["nonResourceURLs"]).filter(|_| has("nonResourceURLs")) {
            if in_namespace {
                invalid(causes, &field("nonResourceURLs"), paths, "namespaced rules cannot apply to non-resource URLs");
            }
            if has("apiGroups") || has("resources") || has("resourceNames") {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                invalid(causes, &field("nonResourceURLs"), paths, why);
            }
            continue;
        }
        if !has("apiGroups") {
            required(causes, &field("apiGroups"), "resource rules must supply at least one api group");
        }
        if !has("resources") {
            required(causes, &field("resources"), "resource rules must supply at least one resource");
        }
        if has("resourceNames") && items(rule, &["resources"]).len() > 1 {
            required(causes, &field("resourceNames"), "resource names cannot apply to multiple resources");
        }
    }
}

/// Bindings in a namespace.
pub(crate) fn role_binding(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    binding(new, old, true, causes);
}

/// Bindings in the whole cluster.
pub(crate) fn cluster_role_binding(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    binding(new, old, false, causes);
}

fn only(causes: &mut Causes, field: &str, value: &str, supported: &[&str]) {
    if !supported.contains(&value) {
        unsupported(causes, field, &value.into(), supported);
    }
}

fn binding(new: &Value, old: Option<&Value>, in_namespace: bool, causes: &mut Causes) {
    only(causes, "roleRef.apiGroup", text(new, &["roleRef", "apiGroup"]), &[GROUP]);
    let kinds: &[&str] = if in_namespace { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    only(causes, "roleRef.kind", text(new, &["roleRef", "kind"]), kinds);
    let name = text(new, &["roleRef", "name"]);
    if name.is_empty() {
        required(causes, "roleRef.name", "");
    } else if let Some(why) = path_segment(name) {
        invalid(causes, "roleRef.name", &name.into(), why);
    }
    for (i, subject) in items(new, &["subjects"]).iter().enumerate() {
        bound(subject, in_namespace, &format!("subjects[{i}]"), causes);
    }
    if let Some(old) = old
        && at(new, &["roleRef"]) != at(old, &["roleRef"])
    {
        invalid(causes, "roleRef", &new["roleRef"], "cannot change roleRef");
    }
}

fn bound(subject: &Value, in_namespace: bool, here: &str, causes: &mut Causes) {
    let (name, group) = (text(subject, &["name"]), text(subject, &["apiGroup"]));
    if name.is_empty() {
        required(causes, &format!("{here}.name"), "");
    }
    match text(subject, &["kind"]) {
        "ServiceAccount" => {
            if let Some(why) = subdomain(name).filter(|_| !name.is_empty()) {
                invalid(causes, &format!("{here}.name"), &name.into(), why);
            }
            only(causes, &format!("{here}.apiGroup"), group, &[""]);
            if !in_namespace && text(subject, &["namespace"]).is_empty() {
                required(causes, &format!("{here}.namespace"), "");
            }
        }
        kind @ ("User" | "Group") => {
            if name.is_empty() {
                let why = format!("{} name cannot be empty", kind.to_lowercase());
                invalid(causes, &format!("{here}.name"), &name.into(), &why);
            }
            only(causes, &format!("{here}.apiGroup"), group, &[GROUP]);
        }
        other => only(causes, &format!("{here}.kind"), other, &["ServiceAccount", "User", "Group"]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::testing::found;

    #[test]
    fn rules_name_what_they_are_about() {
        let ok = json!({"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["a"]}]});
        assert!(found(role, &ok, None).is_empty() && found(cluster_role, &ok, None).is_empty());
        assert!(found(cluster_role, &json!({"rules":[{"verbs":["get"],"nonResourceURLs":["/x"]}]}), None).is_empty());
        for (rule, wanted) in [
            (json!({"apiGroups":[""],"resources":["pods"]}), "rules[0].verbs: Required value: verbs must contain at least one value"),
            (
                json!({"verbs":["get"],"nonResourceURLs":["/x"]}),
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
            ),
            (
                json!({"verbs":["get"],"resources":["pods"]}),
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""]}),
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["a","b"],"resourceNames":["c"]}),
                "rules[0].resourceNames: Required value: resource names cannot apply to multiple resources",
            ),
        ] {
            assert_eq!(found(role, &json!({"rules":[rule]}), None), [wanted]);
        }
        assert_eq!(
            found(cluster_role, &json!({"rules":[{"verbs":["get"],"nonResourceURLs":["/x"],"resources":["a"]}]}), None),
            ["rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs"]
        );
        assert_eq!(
            found(cluster_role, &json!({"aggregationRule":{}}), None),
            [
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"
            ]
        );
    }

    #[test]
    fn bindings_say_whom_and_to_what() {
        let binding = |kind: &str, subject: Value| json!({"roleRef":{"apiGroup":GROUP,"kind":kind,"name":"r"},"subjects":[subject]});
        let account = json!({"kind":"ServiceAccount","name":"a"});
        assert!(found(role_binding, &binding("Role", account.clone()), None).is_empty());
        assert_eq!(found(cluster_role_binding, &binding("ClusterRole", account), None), ["subjects[0].namespace: Required value"]);
        let user = json!({"kind":"User","name":"u","apiGroup":GROUP});
        assert!(found(cluster_role_binding, &binding("ClusterRole", user.clone()), None).is_empty());
        assert_eq!(
            found(cluster_role_binding, &binding("Role", user.clone()), None),
            ["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""]
        );
        assert_eq!(
            found(role_binding, &binding("Pod", user.clone()), None),
            ["roleRef.kind: Unsupported value: \"Pod\": supported values: \"Role\", \"ClusterRole\""]
        );
        assert_eq!(
            found(role_binding, &binding("Role", json!({"kind":"Group","apiGroup":GROUP})), None),
            ["subjects[0].name: Required value", "subjects[0].name: Invalid value: \"\": group name cannot be empty"]
        );
        assert_eq!(
            found(role_binding, &binding("Role", json!({"kind":"Robot","name":"x"})), None),
            ["subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\""]
        );
        let old = binding("ClusterRole", user.clone());
        assert!(found(role_binding, &binding("Role", user), Some(&old))[0].ends_with("cannot change roleRef"));
    }
}
