//! autoscaling: horizontal pod autoscalers.

use serde_json::Value;

use super::metadata::path_segment;
use super::pod::amount;
use super::{Causes, forbidden, invalid, required, unsupported};
use crate::resources::value::{at, items, number, text};

/// The types of metric sources, and the member that each is described in.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;

/// Autoscalers.
pub(crate) fn horizontal_pod_autoscaler(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    let (least, most) = (number(spec, &["minReplicas"]), number(spec, &["maxReplicas"]).unwrap_or(0));
    if let Some(least) = least.filter(|least| *least < 1) {
        invalid(causes, "spec.minReplicas", &least.into(), "must be greater than or equal to 1");
    }
    if most < 1 {
        invalid(causes, "spec.maxReplicas", &most.into(), "must be greater than 0");
    }
    if least.is_some_and(|least| least > most) {
        invalid(causes, "spec.maxReplicas", &most.into(), "must be greater than or equal to `minReplicas`");
    }
    reference(spec.get("scaleTargetRef").unwrap_or(&Value::Null), "spec.scaleTargetRef", causes);
    for (i, metric) in items(spec, &["metrics"]).iter().enumerate() {
        source(metric, &format!("spec.metrics[{i}]"), causes);
    }
    for direction in ["scaleUp", "scaleDown"] {
        if let Some(rules) = at(spec, &["behavior", direction]) {
            behavior(rules, &format!("spec.behavior.{direction}"), causes);
        }
    }
}

/// Autoscalers of the older version, which are judged as they are stored.
pub(crate) fn horizontal_pod_autoscaler_v1(new: &Value, _old: Option<&Value>, causes: &mut Causes) {
    horizontal_pod_autoscaler(&crate::resources::autoscaling::store(new.clone()), None, causes);
}

/// What is scaled, or described by a metric.
fn reference(object: &Value, here: &str, causes: &mut Causes) {
    for part in ["kind", "name"] {
        named(text(object, &[part]), &format!("{here}.{part}"), "", causes);
    }
    let version = text(object, &["apiVersion"]);
    if version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {version}");
        invalid(causes, &format!("{here}.apiVersion"), &version.into(), &why);
    }
}

/// A name that is there and fits a path.
fn named(name: &str, field: &str, missing: &str, causes: &mut Causes) {
    if name.is_empty() {
        required(causes, field, missing);
    } else if let Some(why) = path_segment(name) {
        invalid(causes, field, &name.into(), why);
    }
}

fn source(metric: &Value, here: &str, causes: &mut Causes) {
    let kind = text(metric, &["type"]);
    let field = format!("{here}.type");
    if kind.is_empty() {
        required(causes, &field, "must specify a metric source type");
    }
    let Some((_, wanted)) = SOURCES.iter().find(|(known, _)| *known == kind) else {
        let known: Vec<&str> = SOURCES.iter().map(|(known, _)| *known).collect();
        return unsupported(causes, &field, &kind.into(), &known);
    };
    let mut there = SOURCES.iter().map(|(_, member)| *member).filter(|member| at(metric, &[member]).is_some());
    if let Some(first) = there.next() {
        described(first, &metric[first], &format!("{here}.{first}"), causes);
    }
    if at(metric, &[wanted]).is_none() {
        required(causes, &format!("{here}.{wanted}"), "must populate information for the given metric source");
    }
    for (_, member) in SOURCES.iter().filter(|(_, member)| member != wanted && at(metric, &[member]).is_some()) {
        forbidden(causes, &format!("{here}.{member}"), "must populate the given metric source only");
    }
}

fn described(member: &str, part: &Value, here: &str, causes: &mut Causes) {
    let target = part.get("target").unwrap_or(&Value::Null);
    let has = |name: &str| at(target, &[name]).is_some();
    let at_target = |name: &str| format!("{here}.target.{name}");
    match member {
        "resource" | "containerResource" => {
            if text(part, &["name"]).is_empty() {
                required(causes, &format!("{here}.name"), "must specify a resource name");
            }
            if member == "containerResource" && text(part, &["container"]).is_empty() {
                required(causes, &format!("{here}.container"), "must specify a container");
            }
        }
        _ => {
            if member == "object" {
                reference(part.get("describedObject").unwrap_or(&Value::Null), &format!("{here}.describedObject"), causes);
            }
            named(text(part, &["metric", "name"]), &format!("{here}.metric.name"), "must specify a metric name", causes);
            super::selector::label_selector(at(part, &["metric", "selector"]), &format!("{here}.metric.selector"), causes);
        }
    }
    measured(target, &format!("{here}.target"), causes);
    match member {
        "resource" | "containerResource" => {
            if !has("averageUtilization") && !has("averageValue") {
                required(causes, &at_target("averageUtilization"), "must set either a target raw value or a target utilization");
            }
            if has("averageUtilization") && has("averageValue") {
                forbidden(causes, &at_target("averageValue"), "may not set both a target raw value and a target utilization");
            }
        }
        "pods" => {
            let positive = at(target, &["averageValue"]).and_then(|v| amount(v).ok()).is_some_and(|v| !v.is_zero() && !v.is_negative());
            if !positive {
                required(causes, &at_target("averageValue"), "must specify a positive target averageValue");
            }
        }
        _ => {
            if !has("value") && !has("averageValue") {
                required(causes, &at_target("averageValue"), "must set either a target value for metric or a per-pod target");
            }
            if member == "external" && has("value") && has("averageValue") {
                forbidden(causes, &at_target("value"), "may not set both a target value for metric and a per-pod target");
            }
        }
    }
}

fn measured(target: &Value, here: &str, causes: &mut Causes) {
    match text(target, &["type"]) {
        "" => required(causes, &format!("{here}.type"), "must specify a metric target type"),
        "Utilization" | "Value" | "AverageValue" => {}
        other => invalid(causes, &format!("{here}.type"), &other.into(), "must be either Utilization, Value, or AverageValue"),
    }
    for name in ["value", "averageValue"] {
        let Some(value) = at(target, &[name]) else { continue };
        match amount(value) {
            Err(why) => invalid(causes, &format!("{here}.{name}"), value, &why),
            Ok(found) if found.is_zero() || found.is_negative() => invalid(causes, &format!("{here}.{name}"), value, "must be positive"),
            Ok(_) => {}
        }
    }
    if let Some(share) = number(target, &["averageUtilization"]).filter(|share| *share < 1) {
        invalid(causes, &format!("{here}.averageUtilization"), &share.into(), "must be greater than 0");
    }
}

fn behavior(rules: &Value, here: &str, causes: &mut Causes) {
    let window = format!("{here}.stabilizationWindowSeconds");
    match number(rules, &["stabilizationWindowSeconds"]) {
        Some(seconds) if seconds < 0 => invalid(causes, &window, &seconds.into(), "must be greater than or equal to zero"),
        Some(seconds) if seconds > MAX_WINDOW => {
            invalid(causes, &window, &seconds.into(), &format!("must be less than or equal to {MAX_WINDOW}"));
        }
        _ => {}
    }
    super::one_of(causes, &format!("{here}.selectPolicy"), at(rules, &["selectPolicy"]), &["Disabled", "Max", "Min"]);
    let policies = items(rules, &["policies"]);
    if policies.is_empty() {
        required(causes, &format!("{here}.policies"), "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let here = format!("{here}.policies[{i}]");
        let kind = text(policy, &["type"]);
        if !matches!(kind, "Percent" | "Pods") {
            unsupported(causes, &format!("{here}.type"), &kind.into(), &["Percent", "Pods"]);
        }
        for name in ["value", "periodSeconds"] {
            let found = number(policy, &[name]).unwrap_or(0);
            if found <= 0 {
                invalid(causes, &format!("{here}.{name}"), &found.into(), "must be greater than zero");
            } else if name == "periodSeconds" && found > MAX_PERIOD {
                invalid(causes, &format!("{here}.{name}"), &found.into(), &format!("must be less than or equal to {MAX_PERIOD}"));
            }
        }
    }
}

/// What an autoscaler has come to.
pub(crate) fn horizontal_pod_autoscaler_status(new: &Value, _old: &Value, causes: &mut Causes) {
    let status = new.get("status").unwrap_or(&Value::Null);
    for name in ["currentReplicas", "desiredReplicas"] {
        super::not_negative(status, "status", name, causes);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(more: Value) -> Vec<String> {
        let mut spec = json!({"minReplicas":1,"maxReplicas":3,"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"web"}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        crate::validation::testing::found(horizontal_pod_autoscaler, &json!({"spec":spec}), None)
    }

    #[test]
    fn bounds_and_targets() {
        assert_eq!(found(json!({})), Vec::<String>::new());
        assert_eq!(
            found(json!({"minReplicas":0,"maxReplicas":0,"scaleTargetRef":{"apiVersion":"a/b/c","kind":"a/b"}})),
            [
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.name: Required value",
                "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            ]
        );
        assert_eq!(found(json!({"minReplicas":4})), ["spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"]);
    }

    #[test]
    fn metrics() {
        let metric = |metric: Value| found(json!({"metrics":[metric]}));
        for good in [
            json!({"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization","averageUtilization":80}}}),
            json!({"type":"Pods","pods":{"metric":{"name":"qps"},"target":{"type":"AverageValue","averageValue":"1k"}}}),
            json!({"type":"Object","object":{"describedObject":{"kind":"Ingress","name":"i"},"metric":{"name":"qps"},"target":{"type":"Value","value":"1"}}}),
            json!({"type":"External","external":{"metric":{"name":"queue"},"target":{"type":"AverageValue","averageValue":"30"}}}),
        ] {
            assert_eq!(metric(good.clone()), Vec::<String>::new(), "{good}");
        }
        for (bad, wanted) in [
            (
                json!({"type":"Some"}),
                "type: Unsupported value: \"Some\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            ),
            (json!({"type":"Pods"}), "pods: Required value: must populate information for the given metric source"),
            (
                json!({"type":"Resource","resource":{"name":"cpu","target":{"type":"Utilization"}}}),
                "resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
            ),
            (
                json!({"type":"Pods","pods":{"metric":{"name":"qps"},"target":{"type":"Share","averageValue":"1"}}}),
                "pods.target.type: Invalid value: \"Share\": must be either Utilization, Value, or AverageValue",
            ),
            (
                json!({"type":"External","external":{"metric":{},"target":{"type":"Value","value":"1"}}}),
                "external.metric.name: Required value: must specify a metric name",
            ),
        ] {
            assert_eq!(metric(bad), [format!("spec.metrics[0].{wanted}")]);
        }
    }

    #[test]
    fn behaviors() {
        let up = |rules: Value| found(json!({"behavior":{"scaleUp":rules}}));
        assert_eq!(up(json!({"policies":[{"type":"Pods","value":4,"periodSeconds":15}]})), Vec::<String>::new());
        assert_eq!(
            up(
                json!({"stabilizationWindowSeconds":3601,"selectPolicy":"Most","policies":[{"type":"Some","value":0,"periodSeconds":1801}]})
            ),
            [
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Most\": supported values: \"Disabled\", \"Max\", \"Min\"",
                "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"Some\": supported values: \"Percent\", \"Pods\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ]
        );
        assert_eq!(up(json!({})), ["spec.behavior.scaleUp.policies: Required value: must specify at least one Policy"]);
    }
}
