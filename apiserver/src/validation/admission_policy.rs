//! admissionregistration.k8s.io: policies in CEL, and what binds them.

use std::collections::HashSet;

use serde_json::Value;
use wharf_core::selector::is_qualified_name;

use super::admission::{
    FAILURE_POLICIES, MATCH_POLICIES, NAMES, REINVOCATION_POLICIES, expression, match_conditions, needed_expression, rule_with_operations,
};
use super::metadata::{QUALIFIED, label_1035, path_segment, subdomain};
use super::selector::label_selector;
use super::{Causes, duplicate, forbidden, invalid, one_of, required, unsupported};
use crate::resources::value::{at, items, text};

/// Operations whose object can be changed.
const MUTATING_OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "UPDATE"];
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];
const PATCH_TYPES: &[&str] = &["ApplyConfiguration", "JSONPatch"];
const MAX_AUDIT_ANNOTATIONS: usize = 20;
/// Longest expression of an audit annotation, in bytes.
const MAX_AUDIT_EXPRESSION: usize = 5 << 10;

/// Policies that refuse objects.
pub(crate) fn validating_policy(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let names = policy(new, old, causes);
    let authorized = [&names[..], &["authorizer"]].concat();
    let (validations, annotations) = (items(new, &["spec", "validations"]), items(new, &["spec", "auditAnnotations"]));
    if validations.is_empty() && annotations.is_empty() {
        for field in ["spec.validations", "spec.auditAnnotations"] {
            required(causes, field, "validations or auditAnnotations must be non-empty");
        }
    }
    for (i, rule) in validations.iter().enumerate() {
        validation(rule, &names, &authorized, &format!("spec.validations[{i}]"), causes);
    }
    if annotations.len() > MAX_AUDIT_ANNOTATIONS {
        let why = format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations");
        invalid(causes, "spec.auditAnnotations", &annotations.into(), &why);
    }
    let mut seen = HashSet::new();
    for (i, annotation) in annotations.iter().enumerate() {
        let here = format!("spec.auditAnnotations[{i}]");
        audit_annotation(annotation, text(new, &["metadata", "name"]), &authorized, &here, causes);
        let key = text(annotation, &["key"]);
        if !seen.insert(key) {
            duplicate(causes, &format!("{here}.key"), &key.into());
        }
    }
}

/// Policies that change objects.
pub(crate) fn mutating_policy(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let names = policy(new, old, causes);
    let operations = items(new, &["spec", "matchConstraints", "resourceRules"]).iter().flat_map(|rule| items(rule, &["operations"]));
    for operation in operations {
        one_of(causes, "spec.matchConstraints.resourceRules.operations", Some(operation), MUTATING_OPERATIONS);
    }
    let mutations = items(new, &["spec", "mutations"]);
    if mutations.is_empty() {
        required(causes, "spec.mutations", "mutations must contain at least one item");
    }
    let names = [&names[..], &["authorizer", "jsonpatch"]].concat();
    for (i, change) in mutations.iter().enumerate() {
        mutation(change, &names, &format!("spec.mutations[{i}]"), causes);
    }
    needed_choice(at(new, &["spec", "reinvocationPolicy"]), "spec.reinvocationPolicy", REINVOCATION_POLICIES, causes);
}

/// One of a few, and it must be there.
fn needed_choice(value: Option<&Value>, field: &str, supported: &[&str], causes: &mut Causes) {
    match value.filter(|v| *v != "") {
        None => required(causes, field, ""),
        value => one_of(causes, field, value, supported),
    }
}

/// What policies of both sorts have. Returns what their expressions can name.
fn policy(new: &Value, old: Option<&Value>, causes: &mut Causes) -> Vec<&'static str> {
    let part = |name: &str| at(new, &["spec", name]);
    match part("failurePolicy") {
        None => required(causes, "spec.failurePolicy", ""),
        found => one_of(causes, "spec.failurePolicy", found, FAILURE_POLICIES),
    }
    let mut names = NAMES.to_vec();
    if let Some(kind) = part("paramKind") {
        names.push("params");
        param_kind(kind, "spec.paramKind", causes);
    }
    match part("matchConstraints") {
        None => required(causes, "spec.matchConstraints", ""),
        Some(constraints) => {
            match_resources(constraints, "spec.matchConstraints", causes);
            if items(constraints, &["resourceRules"]).is_empty() {
                required(causes, "spec.matchConstraints.resourceRules", "");
            }
        }
    }
    let conditions = items(new, &["spec", "matchConditions"]);
    // Conditions that an older server let in may stay.
    if !old.is_some_and(|old| items(old, &["spec", "matchConditions"]) == conditions) {
        match_conditions(conditions, &[&names[..], &["authorizer"]].concat(), "spec.matchConditions", causes);
    }
    names.push("variables");
    let authorized = [&names[..], &["authorizer"]].concat();
    let mut seen = HashSet::new();
    for (i, variable) in items(new, &["spec", "variables"]).iter().enumerate() {
        let (here, name) = (format!("spec.variables[{i}]"), text(variable, &["name"]));
        if name.trim().is_empty() {
            required(causes, &format!("{here}.name"), "name is not specified");
        } else if !wharf_cel::is_identifier(name) {
            invalid(causes, &format!("{here}.name"), &name.into(), "name is not a valid CEL identifier");
        } else if !seen.insert(name) {
            duplicate(causes, &format!("{here}.name"), &name.into());
        }
        let source = text(variable, &["expression"]);
        needed_expression(source, "expression is not specified", &authorized, &format!("{here}.expression"), causes);
    }
    names
}

/// The kind of a policy's parameters.
fn param_kind(kind: &Value, here: &str, causes: &mut Causes) {
    let (api_version, field) = (text(kind, &["apiVersion"]), format!("{here}.apiVersion"));
    if api_version.is_empty() {
        required(causes, &field, "");
    } else if api_version.matches('/').count() > 1 {
        invalid(causes, &field, &api_version.into(), &format!("unexpected GroupVersion string: {api_version}"));
    } else {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if let Some(why) = subdomain(group).filter(|_| !group.is_empty()) {
            invalid(causes, &field, &group.into(), why);
        }
        if version.is_empty() {
            invalid(causes, &field, &api_version.into(), "version must be specified");
        } else if let Some(why) = label_1035(version) {
            invalid(causes, &field, &version.into(), why);
        }
    }
    let kind = text(kind, &["kind"]);
    if kind.is_empty() {
        required(causes, &format!("{here}.kind"), "");
    } else if let Some(why) = label_1035(&kind.to_lowercase()) {
        let why = format!("may have mixed case, but should otherwise match: {why}");
        invalid(causes, &format!("{here}.kind"), &kind.into(), &why);
    }
}

/// Which objects a policy or a binding is about.
fn match_resources(resources: &Value, here: &str, causes: &mut Causes) {
    match at(resources, &["matchPolicy"]) {
        None => required(causes, &format!("{here}.matchPolicy"), ""),
        found => one_of(causes, &format!("{here}.matchPolicy"), found, MATCH_POLICIES),
    }
    for name in ["namespaceSelector", "objectSelector"] {
        let (selector, field) = (at(resources, &[name]), format!("{here}.{name}"));
        if selector.is_none() {
            required(causes, &field, "");
        }
        label_selector(selector, &field, causes);
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(resources, &[list]).iter().enumerate() {
            named_rule(rule, &format!("{here}.{list}[{i}]"), causes);
        }
    }
}

fn named_rule(rule: &Value, here: &str, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, name) in items(rule, &["resourceNames"]).iter().enumerate() {
        let field = format!("{here}.resourceNames[{i}]");
        let found = name.as_str().unwrap_or_default();
        if let Some(why) = path_segment(found) {
            invalid(causes, &field, name, why);
        }
        if !seen.insert(found) {
            duplicate(causes, &field, name);
        }
    }
    rule_with_operations(rule, here, causes);
}

fn validation(rule: &Value, names: &[&str], authorized: &[&str], here: &str, causes: &mut Causes) {
    let source = text(rule, &["expression"]);
    needed_expression(source, "expression is not specified", authorized, &format!("{here}.expression"), causes);
    let (source, field) = (text(rule, &["messageExpression"]), format!("{here}.messageExpression"));
    if !source.is_empty() && source.trim().is_empty() {
        invalid(causes, &field, &source.into(), "must be non-empty if specified");
    } else if !source.is_empty() {
        expression(source, names, &field, causes);
    }
    let message = text(rule, &["message"]);
    if !message.is_empty() && message.trim().is_empty() {
        invalid(causes, &format!("{here}.message"), &message.into(), "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        invalid(causes, &format!("{here}.message"), &message.into(), "message must not contain line breaks");
    }
    one_of(causes, &format!("{here}.reason"), at(rule, &["reason"]), REASONS);
}

fn audit_annotation(annotation: &Value, policy: &str, names: &[&str], here: &str, causes: &mut Causes) {
    let (key, field) = (text(annotation, &["key"]), format!("{here}.key"));
    let full = format!("{policy}/{key}");
    if policy.is_empty() {
        invalid(causes, &field, &key.into(), "requires metadata.name be non-empty");
    } else if !is_qualified_name(&full) {
        invalid(causes, &field, &full.into(), QUALIFIED);
    }
    let (source, field) = (text(annotation, &["valueExpression"]), format!("{here}.valueExpression"));
    if source.trim().len() > MAX_AUDIT_EXPRESSION {
        return required(causes, &field, &format!("must not exceed {MAX_AUDIT_EXPRESSION} bytes in length"));
    }
    needed_expression(source, "valueExpression is not specified", names, &field, causes);
}

fn mutation(change: &Value, names: &[&str], here: &str, causes: &mut Causes) {
    let kind = text(change, &["patchType"]);
    let (wanted, other) = match kind {
        "" => return required(causes, &format!("{here}.patchType"), ""),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        _ => return unsupported(causes, &format!("{here}.patchType"), &kind.into(), PATCH_TYPES),
    };
    match at(change, &[wanted]) {
        None => required(causes, &format!("{here}.{wanted}"), &format!("must be specified when patchType is {kind}")),
        Some(patch) => needed_expression(text(patch, &["expression"]), "", names, &format!("{here}.{wanted}.expression"), causes),
    }
    if at(change, &[other]).is_some() {
        let why = format!("must not be specified when patchType is {kind}");
        invalid(causes, &format!("{here}.{other}"), &format!("{{{other}}}").into(), &why);
    }
}

/// Bindings of policies that refuse objects.
pub(crate) fn validating_policy_binding(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    binding(new, causes);
    validation_actions(items(new, &["spec", "validationActions"]), "spec.validationActions", causes);
}

/// Bindings of policies that change objects.
pub(crate) fn mutating_policy_binding(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    binding(new, causes);
}

fn binding(new: &Value, causes: &mut Causes) {
    let policy = text(new, &["spec", "policyName"]);
    if policy.is_empty() {
        required(causes, "spec.policyName", "");
    } else if let Some(why) = subdomain(policy) {
        invalid(causes, "spec.policyName", &policy.into(), why);
    }
    if let Some(reference) = at(new, &["spec", "paramRef"]) {
        param_ref(reference, "spec.paramRef", causes);
    }
    if let Some(resources) = at(new, &["spec", "matchResources"]) {
        // Kubernetes misspells this field too.
        match_resources(resources, "spec.matchResouces", causes);
    }
}

/// Where a policy's parameters are.
fn param_ref(reference: &Value, here: &str, causes: &mut Causes) {
    let (name, selector) = (text(reference, &["name"]), at(reference, &["selector"]));
    if let Some(why) = path_segment(name) {
        invalid(causes, &format!("{here}.name"), &name.into(), why);
    }
    label_selector(selector, &format!("{here}.selector"), causes);
    match (name.is_empty(), selector) {
        (true, None) => required(causes, here, "one of name or selector must be specified"),
        (false, Some(_)) => {
            for part in ["name", "selector"] {
                forbidden(causes, &format!("{here}.{part}"), "name and selector are mutually exclusive");
            }
        }
        _ => {}
    }
    let action = at(reference, &["parameterNotFoundAction"]);
    needed_choice(action, &format!("{here}.parameterNotFoundAction"), &["Allow", "Deny"], causes);
}

fn validation_actions(actions: &[Value], field: &str, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, action) in actions.iter().enumerate() {
        one_of(causes, &format!("{field}[{i}]"), Some(action), &["Audit", "Deny", "Warn"]);
        if !seen.insert(action.as_str().unwrap_or_default()) {
            duplicate(causes, &format!("{field}[{i}]"), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        invalid(causes, field, &actions.into(), why);
    }
    if actions.is_empty() {
        required(causes, field, "");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::testing::{found, with};

    const NONE: [String; 0] = [];

    fn constraints() -> Value {
        json!({
            "matchPolicy": "Equivalent",
            "namespaceSelector": {},
            "objectSelector": {},
            "resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}],
        })
    }

    fn validating() -> Value {
        json!({"metadata": {"name": "p.example.com"}, "spec": {
            "failurePolicy": "Fail",
            "paramKind": {"apiVersion": "example.com/v1", "kind": "Limit"},
            "matchConstraints": constraints(),
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{
                "expression": "variables.n <= params.max",
                "message": "too many",
                "messageExpression": "'at most ' + string(params.max)",
                "reason": "Invalid",
            }],
            "auditAnnotations": [{"key": "replicas", "valueExpression": "string(variables.n)"}],
        }})
    }

    fn check_policy(changes: &[(&str, Value)]) -> Vec<String> {
        found(validating_policy, &with(validating(), changes), None)
    }

    #[test]
    fn validating_policies() {
        assert_eq!(check_policy(&[]), NONE);
        assert_eq!(check_policy(&[("/spec/validations", json!([])), ("/spec/matchConditions", json!([]))]), NONE);
        let both = check_policy(&[("/spec/validations", json!([])), ("/spec/auditAnnotations", Value::Null)]);
        assert_eq!(
            both,
            ["validations", "auditAnnotations"]
                .map(|f| format!("spec.{f}: Required value: validations or auditAnnotations must be non-empty"))
        );
        let one = |name: &str, value: Value| check_policy(&[(&format!("/spec/{name}"), value)]);
        for (part, value, wanted) in [
            ("failurePolicy", Value::Null, "failurePolicy: Required value"),
            ("failurePolicy", json!("x"), "failurePolicy: Unsupported value: \"x\": supported values: \"Fail\", \"Ignore\""),
            ("matchConstraints", Value::Null, "matchConstraints: Required value"),
            ("matchConstraints/resourceRules", json!([]), "matchConstraints.resourceRules: Required value"),
            ("matchConstraints/matchPolicy", Value::Null, "matchConstraints.matchPolicy: Required value"),
            ("matchConstraints/objectSelector", Value::Null, "matchConstraints.objectSelector: Required value"),
            ("paramKind/apiVersion", json!(""), "paramKind.apiVersion: Required value"),
            (
                "paramKind/apiVersion",
                json!("a/b/c"),
                "paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            ),
            ("paramKind/apiVersion", json!("a/"), "paramKind.apiVersion: Invalid value: \"a/\": version must be specified"),
            ("paramKind/kind", Value::Null, "paramKind.kind: Required value"),
            ("variables", json!([{"expression":"1"}]), "variables[0].name: Required value: name is not specified"),
            ("variables", json!([{"name":"a"}]), "variables[0].expression: Required value: expression is not specified"),
            (
                "variables",
                json!([{"name":"while","expression":"1"}]),
                "variables[0].name: Invalid value: \"while\": name is not a valid CEL identifier",
            ),
            (
                "variables",
                json!([{"name":"a","expression":"1"},{"name":"a","expression":"1"}]),
                "variables[1].name: Duplicate value: \"a\"",
            ),
            ("validations", json!([{"expression":" "}]), "validations[0].expression: Required value: expression is not specified"),
            (
                "validations",
                json!([{"expression":"true","messageExpression":" "}]),
                "validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
            ),
            (
                "validations",
                json!([{"expression":"true","messageExpression":"authorizer"}]),
                "validations[0].messageExpression: Invalid value: \"authorizer\": compilation failed: undeclared reference to 'authorizer' (in container '')",
            ),
            (
                "validations",
                json!([{"expression":"true","message":"a\nb"}]),
                "validations[0].message: Invalid value: \"a\\nb\": message must not contain line breaks",
            ),
            (
                "validations",
                json!([{"expression":"true","message":" "}]),
                "validations[0].message: Invalid value: \" \": message must be non-empty if specified",
            ),
            (
                "validations",
                json!([{"expression":"true","reason":"x"}]),
                "validations[0].reason: Unsupported value: \"x\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ),
            (
                "auditAnnotations",
                json!([{"key":"a"}]),
                "auditAnnotations[0].valueExpression: Required value: valueExpression is not specified",
            ),
            (
                "auditAnnotations",
                json!([{"key":"a","valueExpression":"'a'"},{"key":"a","valueExpression":"'a'"}]),
                "auditAnnotations[1].key: Duplicate value: \"a\"",
            ),
            (
                "auditAnnotations",
                json!([{"key":"a","valueExpression":"1".repeat(6000)}]),
                "auditAnnotations[0].valueExpression: Required value: must not exceed 5120 bytes in length",
            ),
        ] {
            assert_eq!(one(part, value), [format!("spec.{wanted}")]);
        }
        assert!(one("auditAnnotations", json!([{"key":"-","valueExpression":"'a'"}]))[0].contains("\"p.example.com/-\": name part must"));
        assert!(one("paramKind/kind", json!("A_B"))[0].contains("\"A_B\": may have mixed case, but should otherwise match: a DNS-1035"));
        assert!(one("paramKind", Value::Null)[0].contains("undeclared reference to 'params'"));
        let named = json!([{"operations":["*"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*"],"resourceNames":["a","a","b/c"]}]);
        assert_eq!(
            one("matchConstraints/excludeResourceRules", named),
            [
                "spec.matchConstraints.excludeResourceRules[0].resourceNames[1]: Duplicate value: \"a\"",
                "spec.matchConstraints.excludeResourceRules[0].resourceNames[2]: Invalid value: \"b/c\": may not contain '/'",
            ]
        );
    }

    #[test]
    fn mutating_policies() {
        let good = json!({"spec": {
            "failurePolicy": "Fail",
            "reinvocationPolicy": "Never",
            "matchConstraints": constraints(),
            "mutations": [
                {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: object.spec.replicas}}"}},
                {"patchType": "JSONPatch", "jsonPatch": {"expression": "[JSONPatch{op: 'add', path: '/a/' + jsonpatch.escapeKey('b'), value: 'c'}]"}},
            ],
        }});
        let one = |name: &str, value: Value| found(mutating_policy, &with(good.clone(), &[(&format!("/spec/{name}"), value)]), None);
        assert_eq!(found(mutating_policy, &good, None), NONE);
        for (part, value, wanted) in [
            ("reinvocationPolicy", Value::Null, "reinvocationPolicy: Required value"),
            ("reinvocationPolicy", json!("x"), "reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\""),
            ("mutations", json!([]), "mutations: Required value: mutations must contain at least one item"),
            ("mutations", json!([{}]), "mutations[0].patchType: Required value"),
            (
                "mutations",
                json!([{"patchType":"x"}]),
                "mutations[0].patchType: Unsupported value: \"x\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
            ),
            (
                "mutations",
                json!([{"patchType":"JSONPatch"}]),
                "mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
            ),
            (
                "mutations",
                json!([{"patchType":"JSONPatch","jsonPatch":{"expression":" "}}]),
                "mutations[0].jsonPatch.expression: Required value",
            ),
            (
                "mutations",
                json!([{"patchType":"JSONPatch","jsonPatch":{"expression":"[]"},"applyConfiguration":{"expression":"x"}}]),
                "mutations[0].applyConfiguration: Invalid value: \"{applyConfiguration}\": must not be specified when patchType is JSONPatch",
            ),
            (
                "mutations",
                json!([{"patchType":"ApplyConfiguration","applyConfiguration":{"expression":"x"}}]),
                "mutations[0].applyConfiguration.expression: Invalid value: \"x\": compilation failed: undeclared reference to 'x' (in container '')",
            ),
            (
                "matchConstraints/resourceRules",
                json!([{"operations":["DELETE"],"apiGroups":["*"],"apiVersions":["*"],"resources":["*"]}]),
                "matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
            ),
        ] {
            assert_eq!(one(part, value), [format!("spec.{wanted}")]);
        }
    }

    #[test]
    fn bindings() {
        let good = json!({"spec": {
            "policyName": "p.example.com",
            "paramRef": {"name": "a", "namespace": "b", "parameterNotFoundAction": "Deny"},
            "matchResources": constraints(),
            "validationActions": ["Deny", "Audit"],
        }});
        let one = |name: &str, value: Value| {
            let changed = with(good.clone(), &[(&format!("/spec/{name}"), value)]);
            found(validating_policy_binding, &changed, None)
        };
        assert_eq!(found(validating_policy_binding, &good, None), NONE);
        assert_eq!(found(mutating_policy_binding, &json!({"spec":{"policyName":"a"}}), None), NONE);
        assert_eq!(found(mutating_policy_binding, &json!({}), None), ["spec.policyName: Required value"]);
        for (part, value, wanted) in [
            ("policyName", json!(""), "policyName: Required value"),
            ("paramRef/parameterNotFoundAction", Value::Null, "paramRef.parameterNotFoundAction: Required value"),
            (
                "paramRef/parameterNotFoundAction",
                json!("x"),
                "paramRef.parameterNotFoundAction: Unsupported value: \"x\": supported values: \"Allow\", \"Deny\"",
            ),
            ("paramRef/name", Value::Null, "paramRef: Required value: one of name or selector must be specified"),
            ("paramRef/name", json!("a/b"), "paramRef.name: Invalid value: \"a/b\": may not contain '/'"),
            ("validationActions", json!([]), "validationActions: Required value"),
            ("validationActions", json!(["Deny", "Deny"]), "validationActions[1]: Duplicate value: \"Deny\""),
            (
                "validationActions",
                json!(["x"]),
                "validationActions[0]: Unsupported value: \"x\": supported values: \"Audit\", \"Deny\", \"Warn\"",
            ),
            ("matchResources/matchPolicy", Value::Null, "matchResouces.matchPolicy: Required value"),
        ] {
            assert_eq!(one(part, value), [format!("spec.{wanted}")]);
        }
        assert!(one("policyName", json!("A"))[0].contains("a lowercase RFC 1123 subdomain"));
        assert!(one("validationActions", json!(["Deny", "Warn"]))[0].contains("must not contain both Deny and Warn"));
        assert_eq!(
            one("paramRef/selector", json!({})),
            ["name", "selector"].map(|part| format!("spec.paramRef.{part}: Forbidden: name and selector are mutually exclusive"))
        );
    }

    #[test]
    fn nothing_panics_on_odd_objects() {
        let odd = [json!(null), json!([]), json!({"spec":[1]})];
        for object in &odd {
            for rule in [validating_policy, mutating_policy] {
                found(rule, object, Some(object));
            }
            for rule in [validating_policy_binding, mutating_policy_binding] {
                assert!(!found(rule, object, None).is_empty());
            }
        }
    }
}
