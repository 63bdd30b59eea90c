//! Jobs.

use std::collections::HashSet;

use serde_json::{Value, json};
use wharf_core::selector::is_qualified_name;

use super::metadata::{QUALIFIED, label_1123};
use super::workload::template;
use super::{Causes, duplicate, immutable, invalid, not_negative, one_of, required, too_many, unsupported};
use crate::resources::value::{at, items, number, text};

const MAX_PARALLELISM: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// Above so many completions, with a limit for each index, the rest is limited more.
const MANY_COMPLETIONS: i64 = 100_000;
const FEW_IN_PARALLEL: i64 = 10_000;
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITIONS: usize = 20;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];
const OPERATORS: &[&str] = &["In", "NotIn"];

/// Jobs.
pub(crate) fn job(new: &Value, old: Option<&Value>, causes: &mut Causes) {
    let spec = new.get("spec").unwrap_or(&Value::Null);
    job_spec(spec, "spec", causes);
    super::selector::label_selector(at(spec, &["selector"]), "spec.selector", causes);
    if let Some(old) = old {
        return change(spec, old, causes);
    }
    let name = text(new, &["metadata", "name"]);
    if let Some(completions) = number(spec, &["completions"]).filter(|c| *c > 0 && is_indexed(spec)) {
        let longest = format!("{name}-{}", completions - 1);
        if label_1123(&longest).is_some() {
            let why = format!("will not able to create pod with invalid DNS label: {longest}");
            invalid(causes, "metadata.name", &name.into(), &why);
        }
    }
}

fn is_indexed(spec: &Value) -> bool {
    text(spec, &["completionMode"]) == "Indexed"
}

/// The spec of a job, or of what a cron job makes.
pub(super) fn job_spec(spec: &Value, here: &str, causes: &mut Causes) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        not_negative(spec, here, field, causes);
    }
    let part = |name: &str| number(spec, &[name]);
    let at_field = |name: &str| format!("{here}.{name}");
    if part("maxFailedIndexes").is_some() && part("backoffLimitPerIndex").is_none() {
        required(causes, &at_field("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    one_of(causes, &at_field("completionMode"), at(spec, &["completionMode"]), &["NonIndexed", "Indexed"]);
    if is_indexed(spec) {
        indexed(spec, here, causes);
    } else if matches!(text(spec, &["completionMode"]), "" | "NonIndexed") {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(value) = part(name) {
                invalid(causes, &at_field(name), &value.into(), "requires indexed completion mode");
            }
        }
    }
    let failures = at(spec, &["podFailurePolicy"]);
    if let Some(policy) = failures {
        failure_policy(spec, policy, &at_field("podFailurePolicy.rules"), causes);
    }
    if let Some(policy) = at(spec, &["successPolicy"]) {
        if is_indexed(spec) {
            success_policy(spec, policy, &at_field("successPolicy.rules"), causes);
        } else {
            invalid(causes, &at_field("successPolicy"), policy, "requires indexed completion mode");
        }
    }
    let replacements: &[&str] = if failures.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    one_of(causes, &at_field("podReplacementPolicy"), at(spec, &["podReplacementPolicy"]), replacements);
    template(at(spec, &["template"]), &at_field("template"), causes);
    let field = at_field("template.spec.restartPolicy");
    match text(spec, &["template", "spec", "restartPolicy"]) {
        "" | "Always" => required(causes, &field, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if failures.is_some() => {
            invalid(causes, &field, &"OnFailure".into(), "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        other => unsupported(causes, &field, &other.into(), &["OnFailure", "Never"]),
    }
}

fn indexed(spec: &Value, here: &str, causes: &mut Causes) {
    let part = |name: &str| number(spec, &[name]);
    let (completions, parallelism, failed) = (part("completions"), part("parallelism"), part("maxFailedIndexes"));
    let too_great = |causes: &mut Causes, name: &str, value: Option<i64>, most: i64, when: &str| {
        if let Some(value) = value.filter(|v| *v > most) {
            invalid(causes, &format!("{here}.{name}"), &value.into(), &format!("must be less than or equal to {most}{when}"));
        }
    };
    if completions.is_none() {
        required(causes, &format!("{here}.completions"), "when completion mode is Indexed");
    }
    too_great(causes, "parallelism", parallelism, MAX_PARALLELISM, " when completion mode is Indexed");
    if let (Some(completions), Some(failed)) = (completions, failed)
        && failed > completions
    {
        invalid(causes, &format!("{here}.maxFailedIndexes"), &failed.into(), "must be less than or equal to completions");
    }
    too_great(causes, "maxFailedIndexes", failed, MAX_FAILED_INDEXES, "");
    if completions.is_some_and(|c| c > MANY_COMPLETIONS) && part("backoffLimitPerIndex").is_some() {
        if failed.is_none() {
            let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            required(causes, &format!("{here}.maxFailedIndexes"), &why);
        }
        let when = format!(" when completions are above {MANY_COMPLETIONS} and used with backoff limit per index");
        too_great(causes, "parallelism", parallelism, FEW_IN_PARALLEL, &when);
        too_great(causes, "maxFailedIndexes", failed, FEW_IN_PARALLEL, &when);
    }
}

/// A value that must be there and be one of a few.
fn listed(causes: &mut Causes, field: &str, value: &str, supported: &[&str]) {
    if value.is_empty() {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        required(causes, field, &format!("valid values: [{}]", list.join(" ")));
    } else if !supported.contains(&value) {
        unsupported(causes, field, &value.into(), supported);
    }
}

/// A refusal of a part as a whole, whose value is not shown.
fn refused(causes: &mut Causes, field: &str, why: &str) {
    causes.push(crate::rest::status::cause("FieldValueInvalid", format!("Invalid value: {why}"), field));
}

fn failure_policy(spec: &Value, policy: &Value, here: &str, causes: &mut Causes) {
    let rules = items(policy, &["rules"]);
    too_many(causes, here, rules.len(), MAX_RULES);
    let lists = ["containers", "initContainers"].map(|list| items(spec, &["template", "spec", list]));
    let names: HashSet<&str> = lists.iter().flat_map(|list| list.iter()).map(|c| text(c, &["name"])).collect();
    for (i, rule) in rules.iter().enumerate() {
        let here = format!("{here}[{i}]");
        let action = text(rule, &["action"]);
        if action == "FailIndex" && number(spec, &["backoffLimitPerIndex"]).is_none() {
            invalid(causes, &format!("{here}.action"), &action.into(), "requires the backoffLimitPerIndex to be set");
        }
        listed(causes, &format!("{here}.action"), action, ACTIONS);
        let (codes, conditions) = (at(rule, &["onExitCodes"]), items(rule, &["onPodConditions"]));
        if let Some(codes) = codes {
            exit_codes(codes, &format!("{here}.onExitCodes"), &names, causes);
        }
        too_many(causes, &format!("{here}.onPodConditions"), conditions.len(), MAX_CONDITIONS);
        for (j, pattern) in conditions.iter().enumerate() {
            let kind = text(pattern, &["type"]);
            if !is_qualified_name(kind) {
                invalid(causes, &format!("{here}.onPodConditions[{j}].type"), &kind.into(), QUALIFIED);
            }
            listed(causes, &format!("{here}.onPodConditions[{j}].status"), text(pattern, &["status"]), STATUSES);
        }
        match (codes.is_some(), conditions.is_empty()) {
            (true, false) => refused(causes, &here, "specifying both OnExitCodes and OnPodConditions is not supported"),
            (false, true) => refused(causes, &here, "specifying one of OnExitCodes and OnPodConditions is required"),
            _ => {}
        }
    }
}

fn exit_codes(codes: &Value, here: &str, names: &HashSet<&str>, causes: &mut Causes) {
    let operator = text(codes, &["operator"]);
    listed(causes, &format!("{here}.operator"), operator, OPERATORS);
    if let Some(name) = at(codes, &["containerName"]).filter(|n| !n.as_str().is_some_and(|n| names.contains(n))) {
        let why = "must be one of the container or initContainer names in the pod template";
        invalid(causes, &format!("{here}.containerName"), name, why);
    }
    let (values, field) = (items(codes, &["values"]), format!("{here}.values"));
    if values.is_empty() {
        invalid(causes, &field, &json!([]), "at least one value is required");
    }
    too_many(causes, &field, values.len(), MAX_EXIT_CODES);
    let (mut seen, mut last, mut ordered) = (HashSet::new(), i64::MIN, true);
    for (i, value) in values.iter().enumerate() {
        let code = value.as_i64().unwrap_or_default();
        if operator == "In" && code == 0 {
            invalid(causes, &format!("{field}[{i}]"), value, "must not be 0 for the In operator");
        }
        if !seen.insert(code) {
            duplicate(causes, &format!("{field}[{i}]"), value);
        }
        ordered &= last <= code;
        last = code;
    }
    if !ordered {
        invalid(causes, &field, &at(codes, &["values"]).cloned().unwrap_or_default(), "must be ordered");
    }
}

fn success_policy(spec: &Value, policy: &Value, here: &str, causes: &mut Causes) {
    let rules = items(policy, &["rules"]);
    if rules.is_empty() {
        required(causes, here, "at least one rules must be specified when the successPolicy is specified");
    }
    too_many(causes, here, rules.len(), MAX_RULES);
    let completions = number(spec, &["completions"]).unwrap_or(0);
    for (i, rule) in rules.iter().enumerate() {
        let here = format!("{here}[{i}]");
        let (count, indexes) = (number(rule, &["succeededCount"]), at(rule, &["succeededIndexes"]).and_then(Value::as_str));
        if count.is_none() && indexes.is_none() {
            required(causes, &here, "at least one of succeededCount or succeededIndexes must be specified");
        }
        not_negative(rule, &here, "succeededCount", causes);
        if let Some(count) = count.filter(|c| *c > completions) {
            let why = format!("must be less than or equal to {completions} (the number of specified completions)");
            invalid(causes, &format!("{here}.succeededCount"), &count.into(), &why);
        }
    }
}

fn change(spec: &Value, old: &Value, causes: &mut Causes) {
    let before = old.get("spec").unwrap_or(&Value::Null);
    let (completions, was) = (number(spec, &["completions"]), number(before, &["completions"]));
    if !is_indexed(spec) {
        immutable(causes, "spec.completions", at(spec, &["completions"]), at(before, &["completions"]));
    } else if let Some(completions) = completions.filter(|c| Some(*c) != was && Some(*c) != number(spec, &["parallelism"])) {
        invalid(causes, "spec.completions", &completions.into(), "can only be modified in tandem with spec.parallelism");
    }
    let fixed = |causes: &mut Causes, name: &str| immutable(causes, &format!("spec.{name}"), at(spec, &[name]), at(before, &[name]));
    fixed(causes, "selector");
    // Nothing is scheduled yet: where its pods may go is still open.
    let open = at(before, &["suspend"]) == Some(&Value::Bool(true)) && at(old, &["status", "startTime"]).is_none();
    let template = |v: &'_ Value| v.get("template").cloned().unwrap_or_default();
    if at(spec, &["template"]) != at(before, &["template"]) && !(open && same_but_for_scheduling(&template(spec), &template(before))) {
        invalid(causes, "spec.template", &template(spec), "field is immutable");
    }
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        fixed(causes, name);
    }
}

fn same_but_for_scheduling(new: &Value, old: &Value) -> bool {
    let empty = json!({});
    let part = |v: &Value, path: &[&str]| at(v, path).unwrap_or(&empty).clone();
    same_but(&part(new, &["metadata"]), &part(old, &["metadata"]), &["labels", "annotations"])
        && same_but(&part(new, &["spec"]), &part(old, &["spec"]), &["affinity", "nodeSelector", "tolerations", "schedulingGates"])
        && same_but(&part(new, &["spec", "affinity"]), &part(old, &["spec", "affinity"]), &["nodeAffinity"])
}

/// Whether two objects are the same but for some members; one that is null is none.
fn same_but(new: &Value, old: &Value, but: &[&str]) -> bool {
    let covered = |one: &Value, other: &Value| {
        one.as_object()
            .into_iter()
            .flatten()
            .all(|(name, value)| but.contains(&name.as_str()) || at(other, &[name]) == Some(value).filter(|v| !v.is_null()))
    };
    covered(new, old) && covered(old, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(changes: Value) -> Value {
        let mut spec = json!({"parallelism":1,"template":{"spec":{"restartPolicy":"Never","containers":[{"name":"a","image":"x"}]}}});
        spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        json!({"metadata":{"name":"j"},"spec":spec})
    }
    fn found(new: &Value, old: Option<&Value>) -> Vec<String> {
        crate::validation::testing::found(job, new, old)
    }

    #[test]
    fn causes_in_kubernetes_words() {
        assert_eq!(found(&with(json!({})), None), Vec::<String>::new());
        let rule = |rule: Value| json!({"podFailurePolicy":{"rules":[rule]}});
        for (changes, wanted) in [
            (json!({"parallelism":-1}), "spec.parallelism: Invalid value: -1: must be greater than or equal to 0"),
            (json!({"completionMode":"Indexed"}), "spec.completions: Required value: when completion mode is Indexed"),
            (json!({"completionMode":"X"}), "spec.completionMode: Unsupported value: \"X\": supported values: \"NonIndexed\", \"Indexed\""),
            (json!({"backoffLimitPerIndex":1}), "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"),
            (json!({"successPolicy":{}}), "spec.successPolicy: Invalid value: {}: requires indexed completion mode"),
            (
                json!({"completionMode":"Indexed","completions":1,"parallelism":100_001}),
                "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed",
            ),
            (
                json!({"completionMode":"Indexed","completions":1,"successPolicy":{"rules":[{"succeededCount":2}]}}),
                "spec.successPolicy.rules[0].succeededCount: Invalid value: 2: must be less than or equal to 1 (the number of specified completions)",
            ),
            (
                rule(json!({"action":"Ignore"})),
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            ),
            (
                rule(json!({"onExitCodes":{"operator":"In","values":[1]}})),
                "spec.podFailurePolicy.rules[0].action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
            ),
            (
                rule(json!({"action":"Count","onExitCodes":{"operator":"In","values":[0]}})),
                "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
            ),
            (
                rule(json!({"action":"Count","onExitCodes":{"operator":"NotIn","values":[2,1]}})),
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,1]: must be ordered",
            ),
            (
                rule(json!({"action":"FailIndex","onPodConditions":[{"type":"A","status":"True"}]})),
                "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
            ),
        ] {
            assert_eq!(found(&with(changes), None), [wanted]);
        }
        let always = with(json!({"template":{"spec":{"restartPolicy":"Always","containers":[{"name":"a","image":"x"}]}}}));
        let wanted = "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"";
        assert_eq!(found(&always, None), [wanted]);
    }

    #[test]
    fn what_changes_and_what_does_not() {
        let old = with(json!({"completions":1}));
        let changed = |changes: Value, old: &Value| {
            found(&with(changes), Some(old)).into_iter().map(|c| c.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(changed(json!({"completions":1,"parallelism":3}), &old), Vec::<String>::new());
        assert_eq!(changed(json!({"completions":2}), &old), ["spec.completions"]);
        assert_eq!(changed(json!({"completions":1,"managedBy":"a.b/c"}), &old), ["spec.managedBy"]);
        let template = |spec: Value| {
            let mut whole = json!({"restartPolicy":"Never","containers":[{"name":"a","image":"x"}]});
            whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            json!({"completions":1,"template":{"spec":whole}})
        };
        let moved = template(json!({"nodeSelector":{"a":"b"},"affinity":{"nodeAffinity":{}}}));
        assert_eq!(changed(moved.clone(), &old), ["spec.template"]);
        let suspended = with(json!({"completions":1,"suspend":true}));
        assert_eq!(changed(moved, &suspended), Vec::<String>::new());
        assert_eq!(changed(template(json!({"hostNetwork":true})), &suspended), ["spec.template"]);
    }
}
