//! What a namespace may hold: quotas and limit ranges.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde_json::{Map, Value};
use wharf_core::quantity::Quantity;
use wharf_core::selector::is_qualified_name;

use super::metadata::QUALIFIED;
use super::pod::amount;
use super::{Causes, duplicate, forbidden, immutable, invalid, required};
use crate::resources::value::{at, items, text};

const HUGE_PAGES: &str = "hugepages-";
const REQUESTED_HUGE_PAGES: &str = "requests.hugepages-";
/// What pods ask for.
const COMPUTE: &[&str] = &["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const STORAGE: &[&str] = &["ephemeral-storage", "limits.ephemeral-storage", "requests.ephemeral-storage", "requests.storage"];
/// What is counted in whole objects.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const IN_CONTAINERS: &[&str] = &["cpu", "ephemeral-storage", "memory"];
const SCOPES: &[&str] = &[
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
const CONFLICTING: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const ONLY_EXIST: &str = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

fn quota_counts(name: &str) -> bool {
    let known = [COMPUTE, STORAGE, COUNTED].iter().any(|list| list.contains(&name));
    known || name.starts_with(HUGE_PAGES) || name.starts_with(REQUESTED_HUGE_PAGES)
}

fn is_standard(name: &str) -> bool {
    name == "storage" || quota_counts(name)
}

/// The name of a resource: a standard one, or one with a domain.
fn resource_name(name: &str, field: &str, causes: &mut Causes) -> bool {
    let why = match name {
        _ if !is_qualified_name(name) => QUALIFIED,
        _ if !name.contains('/') && !is_standard(name) => "must be a standard resource type or fully qualified",
        _ => return true,
    };
    invalid(causes, field, &name.into(), why);
    false
}

/// Amounts of what a quota holds.
fn counted(list: Option<&Value>, field: &str, causes: &mut Causes) {
    for (name, value) in members(list) {
        let here = format!("{field}[{name}]");
        if resource_name(name, &here, causes) && !name.contains('/') && !quota_counts(name) {
            invalid(causes, &here, &name.as_str().into(), "must be a standard resource for quota");
        }
        match amount(value) {
            Err(why) => invalid(causes, &here, value, &why),
            Ok(amount) if amount.is_negative() => invalid(causes, &here, value, "must be greater than or equal to 0"),
            Ok(amount) if COUNTED.contains(&name.as_str()) && amount.milli() % 1000 != 0 => {
                invalid(causes, &here, value, "must be an integer");
            }
            Ok(_) => {}
        }
    }
}

fn members(list: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    list.and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

/// Whether a scope selects anything that a resource counts.
fn applies(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "CrossNamespacePodAffinity" | "NotBestEffort" | "NotTerminating" | "PriorityClass" | "Terminating" => {
            resource == "pods" || COMPUTE.contains(&resource)
        }
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

/// Quotas.
pub(crate) fn resource_quota(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let hard = at(new, &["spec", "hard"]);
    counted(hard, "spec.hard", causes);
    let counts: BTreeSet<&str> = members(hard).map(|(name, _)| name.as_str()).filter(|name| quota_counts(name)).collect();
    scopes(new, &counts, causes);
    scope_selector(new, &counts, causes);
    if let Some(old) = old {
        let set = |v| -> BTreeSet<String> { items(v, &["spec", "scopes"]).iter().map(Value::to_string).collect() };
        if set(new) != set(old) {
            immutable(causes, "spec.scopes", at(new, &["spec", "scopes"]), at(old, &["spec", "scopes"]));
        }
    }
}

fn scopes(new: &Value, counts: &BTreeSet<&str>, causes: &mut Causes) {
    let Some(all) = at(new, &["spec", "scopes"]) else { return };
    let named: Vec<&str> = items(new, &["spec", "scopes"]).iter().filter_map(Value::as_str).collect();
    for scope in &named {
        if !SCOPES.contains(scope) {
            invalid(causes, "spec.scopes", all, "unsupported scope");
        }
        for _ in counts.iter().filter(|resource| !applies(scope, resource)) {
            invalid(causes, "spec.scopes", all, "unsupported scope applied to resource");
        }
    }
    conflicting(&named, "spec.scopes", all, causes);
}

fn conflicting(named: &[&str], field: &str, all: &Value, causes: &mut Causes) {
    for _ in CONFLICTING.iter().filter(|pair| pair.iter().all(|scope| named.contains(scope))) {
        invalid(causes, field, all, "conflicting scopes");
    }
}

fn scope_selector(new: &Value, counts: &BTreeSet<&str>, causes: &mut Causes) {
    let Some(selector) = at(new, &["spec", "scopeSelector"]) else { return };
    let field = "spec.scopeSelector.matchExpressions";
    let requirements = items(selector, &["matchExpressions"]);
    for requirement in requirements {
        let (scope, operator) = (text(requirement, &["scopeName"]), text(requirement, &["operator"]));
        let values = requirement.get("values").cloned().unwrap_or(Value::Null);
        if !SCOPES.contains(&scope) {
            invalid(causes, &format!("{field}.scopeName"), &scope.into(), "unsupported scope");
        }
        for _ in counts.iter().filter(|resource| !applies(scope, resource)) {
            invalid(causes, field, selector, "unsupported scope applied to resource");
        }
        if !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope) && operator != "Exists" {
            invalid(causes, &format!("{field}.operator"), &operator.into(), ONLY_EXIST);
        }
        let none = values.as_array().is_none_or(Vec::is_empty);
        match operator {
            "In" | "NotIn" if none => {
                let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                required(causes, &format!("{field}.values"), why);
            }
            "Exists" | "DoesNotExist" if !none => {
                let why = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                invalid(causes, &format!("{field}.values"), &values, why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => invalid(causes, &format!("{field}.operator"), &operator.into(), "not a valid selector operator"),
        }
    }
    let named: Vec<&str> = requirements.iter().map(|r| text(r, &["scopeName"])).collect();
    conflicting(&named, field, selector, causes);
}

/// What is in use, as the quota controller tells it.
pub(crate) fn resource_quota_status(new: &Value, _old: &Value, causes: &mut Causes) {
    for part in ["hard", "used"] {
        counted(at(new, &["status", part]), &format!("status.{part}"), causes);
    }
}

const LIMITED: &[&str] = &["Container", "PersistentVolumeClaim", "Pod"];

/// Limit ranges.
pub(crate) fn limit_range(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    let mut seen = HashSet::new();
    for (i, limit) in items(new, &["spec", "limits"]).iter().enumerate() {
        let (here, kind) = (format!("spec.limits[{i}]"), text(limit, &["type"]));
        let field = format!("{here}.type");
        if !is_qualified_name(kind) {
            invalid(causes, &field, &kind.into(), QUALIFIED);
        } else if !kind.contains('/') && !LIMITED.contains(&kind) {
            invalid(causes, &field, &kind.into(), "must be a standard limit type or fully qualified");
        }
        if !seen.insert(kind) {
            duplicate(causes, &field, &kind.into());
        }
        limits(limit, kind, &here, causes);
    }
}

fn limits(limit: &Value, kind: &str, here: &str, causes: &mut Causes) {
    let mut amounts: BTreeMap<&str, BTreeMap<&str, Quantity>> = BTreeMap::new();
    for part in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let list = limit.get(part);
        if kind == "Pod" && part.starts_with("default") {
            if members(list).next().is_some() {
                forbidden(causes, &format!("{here}.{part}"), "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, value) in members(list) {
            let field = format!("{here}.{part}[{name}]");
            limited_name(kind, name, &field, causes);
            match amount(value) {
                Ok(amount) => {
                    amounts.entry(name).or_default().insert(part, amount);
                }
                Err(why) => invalid(causes, &field, value, &why),
            }
        }
    }
    let bounded = |part: &str| amounts.get("storage").is_some_and(|found| found.contains_key(part));
    if kind == "PersistentVolumeClaim" && !bounded("min") && !bounded("max") {
        required(causes, &format!("{here}.limits"), "either minimum or maximum storage value is required, but neither was provided");
    }
    for (name, parts) in &amounts {
        in_order(name, parts, here, causes);
    }
}

fn limited_name(kind: &str, name: &str, field: &str, causes: &mut Causes) {
    let in_containers = IN_CONTAINERS.contains(&name) || name.starts_with(HUGE_PAGES);
    if resource_name(name, field, causes) && matches!(kind, "Container" | "Pod") && !name.contains('/') && !in_containers {
        invalid(causes, field, &name.into(), "must be a standard resource for containers");
    }
}

/// What must not be greater than what, where a message stands, and what it calls them.
const ORDER: [[&str; 5]; 6] = [
    ["min", "max", "min", "min value", "max value"],
    ["min", "defaultRequest", "defaultRequest", "min value", "default request value"],
    ["defaultRequest", "max", "defaultRequest", "default request value", "max value"],
    ["defaultRequest", "default", "defaultRequest", "default request value", "default limit value"],
    ["min", "default", "default", "min value", "default value"],
    ["default", "max", "default", "default value", "max value"],
];

fn in_order(name: &str, parts: &BTreeMap<&str, Quantity>, here: &str, causes: &mut Causes) {
    for [least, most, at, low, high] in ORDER {
        let (Some(a), Some(b)) = (parts.get(least), parts.get(most)) else { continue };
        if a > b {
            // Kubernetes shows the bound, where a default is outside of it.
            let shown = match (at, least) {
                ("default", "min") => a,
                ("default", _) => b,
                _ => &parts[at],
            };
            let field = format!("{here}.{at}[{name}]");
            invalid(causes, &field, &shown.to_string().into(), &format!("{low} {a} is greater than {high} {b}"));
        }
    }
    let field = |part: &str| format!("{here}.{part}[{name}]");
    if let Some(ratio) = parts.get("maxLimitRequestRatio") {
        let shown = ratio.to_string().into();
        if *ratio < Quantity::from_units(1, ratio.format()) {
            invalid(causes, &field("maxLimitRequestRatio"), &shown, &format!("ratio {ratio} is less than 1"));
        }
        if let (Some(min), Some(max)) = (parts.get("min"), parts.get("max"))
            && let Some(most) = quotient(max, min)
            && as_f64(ratio) > most
        {
            let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
            invalid(causes, &field("maxLimitRequestRatio"), &shown, &why);
        }
    }
    // More than there is may be promised of what is native, but for huge pages.
    let shared = (!name.contains('/') || name.contains("kubernetes.io/")) && !name.starts_with(HUGE_PAGES);
    if let (Some(limit), Some(request)) = (parts.get("default"), parts.get("defaultRequest"))
        && !shared
        && limit != request
    {
        let why = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        invalid(causes, &field("defaultRequest"), &request.to_string().into(), &why);
    }
}

#[expect(clippy::cast_precision_loss, reason = "as Kubernetes compares ratios")]
fn as_f64(amount: &Quantity) -> f64 {
    amount.nano() as f64 / 1e9
}

fn quotient(max: &Quantity, min: &Quantity) -> Option<f64> {
    (!min.is_zero()).then(|| as_f64(max) / as_f64(min))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validation::testing::found;

    fn quota(spec: Value) -> Value {
        json!({"metadata":{"name":"q","namespace":"n"},"spec":spec})
    }

    #[test]
    fn quotas() {
        let good = quota(json!({"hard":{"cpu":"1","pods":"2","requests.storage":"1Gi","count/deployments.apps":"3","hugepages-2Mi":"4Mi",
            "gold.storageclass.storage.k8s.io/requests.storage":"1Gi"}}));
        assert_eq!(found(resource_quota, &good, None), Vec::<String>::new());
        let bad = quota(json!({"hard":{"storage":"1","bananas":"1","pods":"1500m","secrets":"-1","a b":"1"},"scopes":["Terminating"]}));
        assert_eq!(
            found(resource_quota, &bad, None),
            [
                format!("spec.hard[a b]: Invalid value: \"a b\": {QUALIFIED}"),
                "spec.hard[bananas]: Invalid value: \"bananas\": must be a standard resource type or fully qualified".into(),
                "spec.hard[pods]: Invalid value: \"1500m\": must be an integer".into(),
                "spec.hard[secrets]: Invalid value: \"-1\": must be greater than or equal to 0".into(),
                "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota".into(),
                "spec.scopes: Invalid value: [\"Terminating\"]: unsupported scope applied to resource".into(),
            ]
        );
    }

    #[test]
    fn scopes_of_quotas() {
        let scoped = |scopes: Value| quota(json!({"hard":{"pods":"1"},"scopes":scopes}));
        let both = scoped(json!(["BestEffort", "NotBestEffort"]));
        let text = "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]";
        assert_eq!(found(resource_quota, &both, None), [format!("{text}: conflicting scopes")]);
        let swapped = scoped(json!(["NotBestEffort", "BestEffort"]));
        assert_eq!(found(resource_quota, &both, Some(&swapped)), [format!("{text}: conflicting scopes")]);
        assert_eq!(
            found(resource_quota, &scoped(json!([])), Some(&scoped(json!(["Terminating"])))),
            ["spec.scopes: Invalid value: []: field is immutable"]
        );
        let selected =
            |requirement: Value| found(resource_quota, &quota(json!({"scopeSelector":{"matchExpressions":[requirement]}})), None);
        assert_eq!(selected(json!({"scopeName":"PriorityClass","operator":"In","values":["high"]})), Vec::<String>::new());
        assert_eq!(
            selected(json!({"scopeName":"PriorityClass","operator":"In"})),
            [
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            ]
        );
        assert_eq!(
            selected(json!({"scopeName":"Terminating","operator":"In","values":["a"]})),
            [format!("spec.scopeSelector.matchExpressions.operator: Invalid value: \"In\": {ONLY_EXIST}")]
        );
        assert_eq!(
            selected(json!({"scopeName":"Some","operator":"Near"})),
            [
                "spec.scopeSelector.matchExpressions.scopeName: Invalid value: \"Some\": unsupported scope",
                "spec.scopeSelector.matchExpressions.operator: Invalid value: \"Near\": not a valid selector operator"
            ]
        );
    }

    #[test]
    fn uses_of_quotas() {
        let mut causes = Vec::new();
        let new = json!({"status":{"hard":{"pods":"1"},"used":{"pods":"0.5"}}});
        resource_quota_status(&new, &new, &mut causes);
        assert_eq!(causes.len(), 1);
        assert_eq!(causes[0].field.as_deref(), Some("status.used[pods]"));
    }

    #[test]
    fn limit_ranges() {
        let one = |limit: Value| found(limit_range, &json!({"spec":{"limits":[limit]}}), None);
        let good = json!({"type":"Container","max":{"cpu":"2"},"min":{"cpu":"100m"},"default":{"cpu":"1"},"defaultRequest":{"cpu":"200m"},
            "maxLimitRequestRatio":{"cpu":"10"}});
        assert_eq!(one(good), Vec::<String>::new());
        assert_eq!(one(json!({"type":"PersistentVolumeClaim","max":{"storage":"1Gi"}})), Vec::<String>::new());
        let wrong = json!({"type":"Container","max":{"cpu":"1"},"min":{"cpu":"2"},"default":{"cpu":"3"},"defaultRequest":{"cpu":"4"}});
        assert_eq!(
            one(wrong),
            [
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"4\": default request value 4 is greater than max value 1",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"4\": default request value 4 is greater than default limit value 3",
                "spec.limits[0].default[cpu]: Invalid value: \"1\": default value 3 is greater than max value 1",
            ]
        );
        assert_eq!(
            one(json!({"type":"Container","max":{"cpu":"2"},"min":{"cpu":"1"},"maxLimitRequestRatio":{"cpu":"3"}})),
            ["spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000"]
        );
        assert_eq!(
            one(json!({"type":"Container","default":{"example.com/gpu":"2"},"defaultRequest":{"example.com/gpu":"1"}})),
            [
                "spec.limits[0].defaultRequest[example.com/gpu]: Invalid value: \"1\": default value 2 must equal to defaultRequest value 1 in example.com/gpu"
            ]
        );
        assert_eq!(
            one(json!({"type":"Pod","default":{"cpu":"1"},"max":{"pods":"1"}})),
            [
                "spec.limits[0].max[pods]: Invalid value: \"pods\": must be a standard resource for containers",
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ]
        );
        assert_eq!(
            found(limit_range, &json!({"spec":{"limits":[{"type":"Box"},{"type":"Box"}]}}), None),
            [
                "spec.limits[0].type: Invalid value: \"Box\": must be a standard limit type or fully qualified",
                "spec.limits[1].type: Invalid value: \"Box\": must be a standard limit type or fully qualified",
                "spec.limits[1].type: Duplicate value: \"Box\"",
            ]
        );
    }
}
