//! admissionregistration.k8s.io: webhooks, and what policies have in common with them.

use std::collections::HashSet;

use serde_json::Value;
use wharf_cel::Compiled;
use wharf_core::selector::is_qualified_name;

use super::metadata::{QUALIFIED, subdomain};
use super::selector::label_selector;
use super::webhook::{client_config, review_versions};
use super::{Causes, duplicate, invalid, one_of, required, star_alone, too_many};
use crate::resources::value::{at, items, number, text};
use crate::webhook::REVIEWS;

pub(super) const FAILURE_POLICIES: &[&str] = &["Fail", "Ignore"];
pub(super) const MATCH_POLICIES: &[&str] = &["Equivalent", "Exact"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
pub(super) const REINVOCATION_POLICIES: &[&str] = &["IfNeeded", "Never"];
const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
const MAX_CONDITIONS: usize = 64;
/// What every expression can name.
pub(super) const NAMES: &[&str] = &["object", "oldObject", "request", "namespaceObject"];

/// Webhooks that change objects.
pub(crate) fn mutating_webhooks(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    webhooks(new, old, causes);
    for (i, hook) in items(new, &["webhooks"]).iter().enumerate() {
        let field = format!("webhooks[{i}].reinvocationPolicy");
        one_of(causes, &field, at(hook, &["reinvocationPolicy"]), REINVOCATION_POLICIES);
    }
}

/// Webhooks that refuse objects.
pub(crate) fn validating_webhooks(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    webhooks(new, old, causes);
}

fn webhooks(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let hooks = items(new, &["webhooks"]);
    let before = old.map(|old| items(old, &["webhooks"])).unwrap_or_default();
    let conditions = |hook| items(hook, &["matchConditions"]);
    // Conditions that an older server let in may stay.
    let known =
        old.is_some() && hooks.len() == before.len() && hooks.iter().zip(before).all(|(new, old)| conditions(new) == conditions(old));
    let mut seen = HashSet::new();
    for (i, hook) in hooks.iter().enumerate() {
        let here = format!("webhooks[{i}]");
        webhook(hook, &here, causes);
        if !known {
            match_conditions(conditions(hook), &[NAMES, &["authorizer"]].concat(), &format!("{here}.matchConditions"), causes);
        }
        let name = text(hook, &["name"]);
        if !name.is_empty() && !seen.insert(name) {
            duplicate(causes, &format!("{here}.name"), &name.into());
        }
    }
}

fn webhook(hook: &Value, here: &str, causes: &mut Causes) {
    qualified_domain(text(hook, &["name"]), &format!("{here}.name"), causes);
    let versions = items(hook, &["admissionReviewVersions"]);
    review_versions(
        versions,
        &format!("must specify one of {}", REVIEWS.join(", ")),
        false,
        &format!("{here}.admissionReviewVersions"),
        causes,
    );
    for (i, rule) in items(hook, &["rules"]).iter().enumerate() {
        rule_with_operations(rule, &format!("{here}.rules[{i}]"), causes);
    }
    one_of(causes, &format!("{here}.failurePolicy"), at(hook, &["failurePolicy"]), FAILURE_POLICIES);
    one_of(causes, &format!("{here}.matchPolicy"), at(hook, &["matchPolicy"]), MATCH_POLICIES);
    let effects = at(hook, &["sideEffects"]);
    if effects.is_none() {
        required(causes, &format!("{here}.sideEffects"), &format!("must specify one of {}", SIDE_EFFECTS.join(", ")));
    }
    one_of(causes, &format!("{here}.sideEffects"), effects, SIDE_EFFECTS);
    if let Some(seconds) = number(hook, &["timeoutSeconds"]).filter(|n| !(1..=30).contains(n)) {
        invalid(causes, &format!("{here}.timeoutSeconds"), &seconds.into(), "the timeout value must be between 1 and 30 seconds");
    }
    for name in ["namespaceSelector", "objectSelector"] {
        label_selector(at(hook, &[name]), &format!("{here}.{name}"), causes);
    }
    client_config(at(hook, &["clientConfig"]).unwrap_or(&Value::Null), &format!("{here}.clientConfig"), causes);
}

/// A domain of at least three parts.
fn qualified_domain(name: &str, field: &str, causes: &mut Causes) {
    if name.is_empty() {
        required(causes, field, "");
    } else if let Some(why) = subdomain(name) {
        invalid(causes, field, &name.into(), why);
    } else if name.split('.').count() < 3 {
        invalid(causes, field, &name.into(), "should be a domain with at least three segments separated by dots");
    }
}

/// Which requests are meant.
pub(super) fn rule_with_operations(rule: &Value, here: &str, causes: &mut Causes) {
    star_alone(items(rule, &["operations"]), &format!("{here}.operations"), "", "operations", causes);
    for (i, operation) in items(rule, &["operations"]).iter().enumerate() {
        one_of(causes, &format!("{here}.operations[{i}]"), Some(operation), OPERATIONS);
    }
    star_alone(items(rule, &["apiGroups"]), &format!("{here}.apiGroups"), "", "API groups", causes);
    star_alone(items(rule, &["apiVersions"]), &format!("{here}.apiVersions"), "", "API versions", causes);
    for (i, _) in items(rule, &["apiVersions"]).iter().enumerate().filter(|(_, version)| *version == "") {
        required(causes, &format!("{here}.apiVersions[{i}]"), "");
    }
    rule_resources(items(rule, &["resources"]), &format!("{here}.resources"), causes);
    one_of(causes, &format!("{here}.scope"), at(rule, &["scope"]), SCOPES);
}

fn rule_resources(resources: &[Value], field: &str, causes: &mut Causes) {
    if resources.is_empty() {
        required(causes, field, "");
    }
    let (mut every_part, mut every_resource) = (HashSet::new(), HashSet::new());
    let mut plain = false;
    for (i, entry) in resources.iter().enumerate() {
        let found = entry.as_str().unwrap_or_default();
        if found.is_empty() {
            required(causes, &format!("{field}[{i}]"), "");
            continue;
        }
        let Some((resource, part)) = found.split_once('/') else {
            plain = found != "*";
            continue;
        };
        if every_part.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {found}");
            invalid(causes, &format!("{field}[{i}]"), entry, &why);
        }
        if every_resource.contains(part) {
            invalid(causes, &format!("{field}[{i}]"), entry, &format!("if '*/{part}' is present, must not specify {found}"));
        }
        if part == "*" {
            every_part.insert(resource);
        }
        if resource == "*" {
            every_resource.insert(part);
        }
    }
    if resources.len() > 1 && resources.iter().any(|r| r == "*/*") {
        invalid(causes, field, &resources.into(), "if '*/*' is present, must not specify other resources");
    }
    if plain && resources.iter().any(|r| r == "*") {
        invalid(causes, field, &resources.into(), "if '*' is present, must not specify other resources without subresources");
    }
}

pub(super) fn match_conditions(conditions: &[Value], names: &[&str], field: &str, causes: &mut Causes) {
    too_many(causes, field, conditions.len(), MAX_CONDITIONS);
    let mut seen = HashSet::new();
    for (i, condition) in conditions.iter().enumerate() {
        let here = format!("{field}[{i}]");
        needed_expression(text(condition, &["expression"]).trim(), "", names, &format!("{here}.expression"), causes);
        let name = text(condition, &["name"]);
        if name.is_empty() {
            required(causes, &format!("{here}.name"), "");
            continue;
        }
        if !is_qualified_name(name) {
            invalid(causes, &format!("{here}.name"), &name.into(), QUALIFIED);
        }
        if !seen.insert(name) {
            duplicate(causes, &format!("{here}.name"), &name.into());
        }
    }
}

/// An expression that must be there, and speak only of some names.
pub(super) fn needed_expression(source: &str, missing: &str, names: &[&str], field: &str, causes: &mut Causes) {
    if source.trim().is_empty() {
        required(causes, field, missing);
    } else {
        expression(source, names, field, causes);
    }
}

pub(super) fn expression(source: &str, names: &[&str], field: &str, causes: &mut Causes) {
    if let Err(why) = Compiled::new(source, names) {
        invalid(causes, field, &source.into(), &why.to_string());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::testing::{found, with};

    const NONE: [String; 0] = [];

    fn hook() -> Value {
        json!({
            "name": "a.example.com",
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "clientConfig": {"service": {"name": "a", "namespace": "b", "port": 443, "path": "/a/b"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods", "pods/status"]}],
            "matchConditions": [{"name": "m", "expression": "request.userInfo.username != 'a' && authorizer.group('').resource('x').check('y').allowed()"}],
        })
    }

    fn hook_with(changes: &[(&str, Value)]) -> Vec<String> {
        found(mutating_webhooks, &json!({"webhooks":[with(hook(), changes)]}), None)
    }

    #[test]
    fn webhook_parts() {
        assert_eq!(hook_with(&[]), NONE);
        assert_eq!(hook_with(&[("/timeoutSeconds", json!(30)), ("/reinvocationPolicy", json!("IfNeeded"))]), NONE);
        for (path, value, wanted) in [
            ("/name", json!(""), "name: Required value"),
            ("/name", json!("a.b"), "name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots"),
            ("/sideEffects", Value::Null, "sideEffects: Required value: must specify one of None, NoneOnDryRun"),
            ("/sideEffects", json!("Some"), "sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\""),
            ("/failurePolicy", json!("x"), "failurePolicy: Unsupported value: \"x\": supported values: \"Fail\", \"Ignore\""),
            ("/matchPolicy", json!("x"), "matchPolicy: Unsupported value: \"x\": supported values: \"Equivalent\", \"Exact\""),
            ("/reinvocationPolicy", json!("x"), "reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\""),
            ("/timeoutSeconds", json!(31), "timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds"),
            ("/admissionReviewVersions", json!([]), "admissionReviewVersions: Required value: must specify one of v1, v1beta1"),
            ("/admissionReviewVersions", json!(["v1", "v1"]), "admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version"),
            (
                "/admissionReviewVersions",
                json!(["v2"]),
                "admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
            ),
            (
                "/objectSelector",
                json!({"matchExpressions":[{"key":"a","operator":"x"}]}),
                "objectSelector.matchExpressions[0].operator: Invalid value: \"x\": not a valid selector operator",
            ),
            ("/clientConfig", json!({}), "clientConfig: Required value: exactly one of url or service is required"),
            ("/clientConfig/url", json!("https://a"), "clientConfig: Required value: exactly one of url or service is required"),
            ("/clientConfig/service/name", json!(""), "clientConfig.service.name: Required value: service name is required"),
            (
                "/clientConfig/service/port",
                json!(0),
                "clientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ),
        ] {
            assert_eq!(hook_with(&[(path, value)]), [format!("webhooks[0].{wanted}")]);
        }
        assert!(hook_with(&[("/admissionReviewVersions", json!(["v1", "1"]))])[0].contains("a DNS-1035 label must"));
    }

    #[test]
    fn webhook_names() {
        let both = json!({"webhooks":[hook(), hook()]});
        assert_eq!(found(validating_webhooks, &both, None), ["webhooks[1].name: Duplicate value: \"a.example.com\""]);
    }

    #[test]
    fn rules() {
        let rule = |part: &str, value: Value| {
            let mut hook = hook();
            hook["rules"][0][part] = value;
            found(validating_webhooks, &json!({"webhooks":[hook]}), None)
        };
        for (part, good) in [
            ("operations", json!(["*"])),
            ("apiGroups", json!(["*"])),
            ("resources", json!(["*/*"])),
            ("resources", json!(["*", "pods/status"])),
            ("resources", json!(["pods/*", "*/scale"])),
            ("scope", json!("*")),
        ] {
            assert_eq!(rule(part, good.clone()), NONE, "{good}");
        }
        for (part, value, wanted) in [
            ("operations", json!([]), "operations: Required value"),
            (
                "operations",
                json!(["*", "CREATE"]),
                "operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ),
            (
                "operations",
                json!(["GET"]),
                "operations[0]: Unsupported value: \"GET\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
            ),
            ("apiGroups", json!([]), "apiGroups: Required value"),
            (
                "apiGroups",
                json!(["*", "a"]),
                "apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API groups",
            ),
            (
                "apiVersions",
                json!(["*", "a"]),
                "apiVersions: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other API versions",
            ),
            ("apiVersions", json!([""]), "apiVersions[0]: Required value"),
            ("resources", json!([]), "resources: Required value"),
            ("resources", json!([""]), "resources[0]: Required value"),
            (
                "resources",
                json!(["pods/*", "pods/status"]),
                "resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
            ),
            (
                "resources",
                json!(["*/status", "pods/status"]),
                "resources[1]: Invalid value: \"pods/status\": if '*/status' is present, must not specify pods/status",
            ),
            (
                "resources",
                json!(["*/*", "pods"]),
                "resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
            ),
            (
                "resources",
                json!(["*", "pods"]),
                "resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
            ),
            ("scope", json!("x"), "scope: Unsupported value: \"x\": supported values: \"*\", \"Cluster\", \"Namespaced\""),
        ] {
            assert_eq!(rule(part, value), [format!("webhooks[0].rules[0].{wanted}")]);
        }
    }

    #[test]
    fn conditions() {
        let of = |conditions: Value| json!({"webhooks":[with(hook(), &[("/matchConditions", conditions)])]});
        let check = |conditions: Value| found(validating_webhooks, &of(conditions), None);
        for (conditions, wanted) in [
            (json!([{"name":"a"}]), "[0].expression: Required value"),
            (json!([{"expression":"true"}]), "[0].name: Required value"),
            (json!([{"name":"a","expression":"true"},{"name":"a","expression":"true"}]), "[1].name: Duplicate value: \"a\""),
            (
                json!([{"name":"a","expression":"params.x"}]),
                "[0].expression: Invalid value: \"params.x\": compilation failed: undeclared reference to 'params' (in container '')",
            ),
        ] {
            assert_eq!(check(conditions), [format!("webhooks[0].matchConditions{wanted}")]);
        }
        assert!(check(json!([{"name":"-","expression":"true"}]))[0].contains("name part must consist"));
        assert!(check(json!([{"name":"a","expression":"1 +"}]))[0].contains(": compilation failed: "));
        let many: Vec<Value> = (0..65).map(|i| json!({"name":format!("a{i}"),"expression":"true"})).collect();
        assert_eq!(check(many.into()), ["webhooks[0].matchConditions: Too many: 65: must have at most 64 items"]);
        let bad = of(json!([{"name":"a","expression":"params.x"}]));
        assert_eq!(found(validating_webhooks, &bad, Some(&bad)), NONE, "what was there stays");
    }

    #[test]
    fn nothing_panics_on_odd_objects() {
        for object in [json!(null), json!([]), json!({"webhooks":[null, 1, {"clientConfig":{"url":1}}]})] {
            for rule in [mutating_webhooks, validating_webhooks] {
                found(rule, &object, Some(&object));
            }
        }
    }
}
