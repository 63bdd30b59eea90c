//! Where pods want to be: affinity, spread, gates.

use std::collections::HashSet;

use serde_json::{Value, json};
use wharf_core::selector::is_qualified_name;

use super::metadata::{QUALIFIED, label_1123};
use super::selector::label_selector;
use super::{Causes, duplicate, forbidden, invalid, one_of, required, unsupported};
use crate::resources::value::{at, items, number, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NOT_AN_OPERATOR: &str = "not a valid selector operator";

/// The affinity in a pod's spec.
pub(super) fn affinity(spec: &Value, field: &str, causes: &mut Causes) {
    let node = format!("{field}.affinity.nodeAffinity");
    if let Some(needed) = at(spec, &["affinity", "nodeAffinity", REQUIRED]) {
        node_selector(needed, &format!("{node}.{REQUIRED}"), causes);
    }
    for (i, preferred) in items(spec, &["affinity", "nodeAffinity", PREFERRED]).iter().enumerate() {
        let here = format!("{node}.{PREFERRED}[{i}]");
        weight(preferred, &here, causes);
        node_term(preferred.get("preference").unwrap_or(&Value::Null), &format!("{here}.preference"), causes);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let here = format!("{field}.affinity.{kind}");
        for (i, term) in items(spec, &["affinity", kind, REQUIRED]).iter().enumerate() {
            pod_term(term, &format!("{here}.{REQUIRED}[{i}]"), causes);
        }
        for (i, preferred) in items(spec, &["affinity", kind, PREFERRED]).iter().enumerate() {
            let here = format!("{here}.{PREFERRED}[{i}]");
            weight(preferred, &here, causes);
            pod_term(preferred.get("podAffinityTerm").unwrap_or(&Value::Null), &format!("{here}.podAffinityTerm"), causes);
        }
    }
}

fn weight(preferred: &Value, here: &str, causes: &mut Causes) {
    let weight = number(preferred, &["weight"]).unwrap_or(0);
    if !(1..=100).contains(&weight) {
        invalid(causes, &format!("{here}.weight"), &weight.into(), "must be in the range 1-100");
    }
}

/// Terms of which a node must meet one.
pub(super) fn node_selector(selector: &Value, here: &str, causes: &mut Causes) {
    let terms = items(selector, &["nodeSelectorTerms"]);
    if terms.is_empty() {
        required(causes, &format!("{here}.nodeSelectorTerms"), "must have at least one node selector term");
    }
    for (i, term) in terms.iter().enumerate() {
        node_term(term, &format!("{here}.nodeSelectorTerms[{i}]"), causes);
    }
}

fn node_term(term: &Value, here: &str, causes: &mut Causes) {
    for (i, requirement) in items(term, &["matchExpressions"]).iter().enumerate() {
        let here = format!("{here}.matchExpressions[{i}]");
        let (values, operator) = (items(requirement, &["values"]), text(requirement, &["operator"]));
        let at_values = format!("{here}.values");
        match operator {
            "In" | "NotIn" if values.is_empty() => required(causes, &at_values, "must be specified when `operator` is 'In' or 'NotIn'"),
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                forbidden(causes, &at_values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            "Gt" | "Lt" if values.len() != 1 => {
                required(causes, &at_values, "must be specified single value when `operator` is 'Lt' or 'Gt'");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            _ => invalid(causes, &format!("{here}.operator"), &operator.into(), NOT_AN_OPERATOR),
        }
        label_name(text(requirement, &["key"]), &format!("{here}.key"), causes);
    }
    for (i, requirement) in items(term, &["matchFields"]).iter().enumerate() {
        let here = format!("{here}.matchFields[{i}]");
        let (values, operator) = (items(requirement, &["values"]), text(requirement, &["operator"]));
        match operator {
            "In" | "NotIn" if values.len() != 1 => {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                required(causes, &format!("{here}.values"), why);
            }
            "In" | "NotIn" => {}
            _ => invalid(causes, &format!("{here}.operator"), &operator.into(), NOT_AN_OPERATOR),
        }
        let key = text(requirement, &["key"]);
        if key != "metadata.name" {
            invalid(causes, &format!("{here}.key"), &key.into(), "not a valid field selector key");
        }
    }
}

fn label_name(name: &str, field: &str, causes: &mut Causes) {
    if !is_qualified_name(name) {
        invalid(causes, field, &name.into(), QUALIFIED);
    }
}

fn pod_term(term: &Value, here: &str, causes: &mut Causes) {
    label_selector(at(term, &["labelSelector"]), &format!("{here}.labelSelector"), causes);
    label_selector(at(term, &["namespaceSelector"]), &format!("{here}.namespaceSelector"), causes);
    for namespace in items(term, &["namespaces"]) {
        if let Some(why) = label_1123(namespace.as_str().unwrap_or_default()) {
            invalid(causes, &format!("{here}.namespace"), namespace, why);
        }
    }
    match_label_keys(term, here, causes);
    topology_key(term, here, causes);
}

fn topology_key(term: &Value, here: &str, causes: &mut Causes) {
    let (key, field) = (text(term, &["topologyKey"]), format!("{here}.topologyKey"));
    if key.is_empty() {
        required(causes, &field, "can not be empty");
    } else {
        label_name(key, &field, causes);
    }
}

/// Keys whose values a pod brings.
fn match_label_keys(term: &Value, here: &str, causes: &mut Causes) {
    for list in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = items(term, &[list]);
        if !keys.is_empty() && at(term, &["labelSelector"]).is_none() {
            forbidden(causes, &format!("{here}.{list}"), "must not be specified when labelSelector is not set");
        }
        for (i, key) in keys.iter().enumerate() {
            label_name(key.as_str().unwrap_or_default(), &format!("{here}.{list}[{i}]"), causes);
        }
    }
}

/// Even spread over the machine room.
pub(super) fn spread(spec: &Value, field: &str, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, constraint) in items(spec, &["topologySpreadConstraints"]).iter().enumerate() {
        let here = format!("{field}.topologySpreadConstraints[{i}]");
        let skew = number(constraint, &["maxSkew"]).unwrap_or(0);
        if skew <= 0 {
            invalid(causes, &format!("{here}.maxSkew"), &skew.into(), "must be greater than zero");
        }
        topology_key(constraint, &here, causes);
        let (key, otherwise) = (text(constraint, &["topologyKey"]), text(constraint, &["whenUnsatisfiable"]));
        if !matches!(otherwise, "DoNotSchedule" | "ScheduleAnyway") {
            unsupported(causes, &format!("{here}.whenUnsatisfiable"), &otherwise.into(), &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if !seen.insert((key, otherwise)) {
            let twice = json!(format!("{{{key}, {otherwise}}}"));
            duplicate(causes, &format!("{here}.{{topologyKey, whenUnsatisfiable}}"), &twice);
        }
        if let Some(domains) = number(constraint, &["minDomains"]) {
            let at_domains = format!("{here}.minDomains");
            if domains <= 0 {
                invalid(causes, &at_domains, &domains.into(), "must be greater than zero");
            }
            if otherwise != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {otherwise}");
                invalid(causes, &at_domains, &domains.into(), &why);
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(causes, &format!("{here}.{policy}"), at(constraint, &[policy]), &["Honor", "Ignore"]);
        }
        match_label_keys(constraint, &here, causes);
        label_selector(at(constraint, &["labelSelector"]), &format!("{here}.labelSelector"), causes);
    }
}

/// What a pod waits for before it is scheduled, and before it is ready.
pub(super) fn gates(spec: &Value, field: &str, causes: &mut Causes) {
    let mut seen = HashSet::new();
    let gates = items(spec, &["schedulingGates"]);
    for (i, gate) in gates.iter().enumerate() {
        let (name, here) = (text(gate, &["name"]), format!("{field}.schedulingGates[{i}]"));
        label_name(name, &here, causes);
        if !seen.insert(name) {
            duplicate(causes, &here, &name.into());
        }
    }
    for (i, gate) in items(spec, &["readinessGates"]).iter().enumerate() {
        label_name(text(gate, &["conditionType"]), &format!("{field}.readinessGates[{i}].conditionType"), causes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rule: fn(&Value, &str, &mut Causes), spec: Value) -> Vec<String> {
        let mut causes = Vec::new();
        rule(&spec, "spec", &mut causes);
        crate::validation::testing::lines(causes)
    }

    #[test]
    fn nodes() {
        let needed = |terms: Value| found(affinity, json!({"affinity":{"nodeAffinity":{REQUIRED:{"nodeSelectorTerms":terms}}}}));
        let good = json!([{"matchExpressions":[{"key":"a","operator":"In","values":["b"]},{"key":"a","operator":"Gt","values":["1"]}],
            "matchFields":[{"key":"metadata.name","operator":"In","values":["n"]}]}]);
        assert_eq!(needed(good), Vec::<String>::new());
        let at = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
        assert_eq!(needed(json!([])), [format!("{at}: Required value: must have at least one node selector term")]);
        let bad = json!([{"matchExpressions":[{"key":"a","operator":"Lt"}],"matchFields":[{"key":"b","operator":"Exists"}]}]);
        assert_eq!(
            needed(bad),
            [
                format!(
                    "{at}[0].matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"
                ),
                format!("{at}[0].matchFields[0].operator: Invalid value: \"Exists\": not a valid selector operator"),
                format!("{at}[0].matchFields[0].key: Invalid value: \"b\": not a valid field selector key"),
            ]
        );
        let preferred = json!({"affinity":{"nodeAffinity":{PREFERRED:[{"weight":101,"preference":{}}]}}});
        assert!(found(affinity, preferred)[0].ends_with("must be in the range 1-100"));
    }

    #[test]
    fn pods() {
        let term = |term: Value| found(affinity, json!({"affinity":{"podAntiAffinity":{REQUIRED:[term]}}}));
        assert_eq!(term(json!({"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"a":"b"}}})), Vec::<String>::new());
        assert_eq!(
            term(json!({"matchLabelKeys":["a"]})),
            [
                format!(
                    "spec.affinity.podAntiAffinity.{REQUIRED}[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"
                ),
                format!("spec.affinity.podAntiAffinity.{REQUIRED}[0].topologyKey: Required value: can not be empty"),
            ]
        );
    }

    #[test]
    fn spreading() {
        let good = json!({"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"DoNotSchedule","minDomains":2});
        assert_eq!(found(spread, json!({"topologySpreadConstraints":[good]})), Vec::<String>::new());
        let twice = json!({"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"ScheduleAnyway"});
        assert_eq!(
            found(spread, json!({"topologySpreadConstraints":[twice, twice]})),
            ["spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{zone, ScheduleAnyway}\""]
        );
        assert_eq!(
            found(spread, json!({"topologySpreadConstraints":[{"topologyKey":"zone","whenUnsatisfiable":"x","minDomains":1}]})),
            [
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"x\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
                "spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not x",
            ]
        );
    }

    #[test]
    fn gates_have_names_of_their_own() {
        let gated = json!({"schedulingGates":[{"name":"a.b/c"},{"name":"a.b/c"}],"readinessGates":[{"conditionType":"a b"}]});
        let all = found(gates, gated);
        assert_eq!(all[0], "spec.schedulingGates[1]: Duplicate value: \"a.b/c\"");
        assert!(all[1].starts_with("spec.readinessGates[0].conditionType: Invalid value: \"a b\""));
    }
}
