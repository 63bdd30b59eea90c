//! Affinity to nodes.

use serde_json::{Value, json};

use super::SchedulerHarness;
use super::kit::{cluster, declared, label, needs, node, pod};
use crate::CaseResult;

fn required(terms: Value) -> Value {
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": operator, "values": values})
}

/// In, NotIn, Exists, DoesNotExist, Gt and Lt, also where the label is missing or no number.
pub(super) async fn operators(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, node_affinity);
    let nodes = [node("bare"), label(node("low"), "gen", "3"), label(node("high"), "gen", "12"), label(node("word"), "gen", "new")];
    let now = cluster(&nodes, &[])?;
    for (operator, values, to) in [
        ("In", &["3", "new"][..], &["low", "word"][..]),
        ("NotIn", &["3"], &["bare", "high", "word"]),
        ("Exists", &[], &["low", "high", "word"]),
        ("DoesNotExist", &[], &["bare"]),
        ("Gt", &["3"], &["high"]),
        ("Lt", &["12"], &["low"]),
        ("Gt", &["12"], &[]),
    ] {
        let spec = required(json!([{"matchExpressions": [expression("gen", operator, values)]}]));
        rig.goes(&format!("gen {operator} {values:?}"), &now, &pod(spec), to)?;
    }
    rig.end()
}

/// A node can be required by its name, which is a field.
pub(super) async fn match_fields(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, node_affinity);
    let now = cluster(&[node("a"), node("b"), node("c")], &[])?;
    let by_name = |operator: &str, name: &str| pod(required(json!([{"matchFields": [expression("metadata.name", operator, &[name])]}])));
    rig.goes("only b", &now, &by_name("In", "b"), &["b"])?;
    rig.goes("any but b", &now, &by_name("NotIn", "b"), &["a", "c"])?;
    rig.goes("one that is not there", &now, &by_name("In", "z"), &[])?;
    rig.end()
}

/// One term is enough; in it every expression must hold. A term without any matches nothing.
pub(super) async fn terms_and_expressions(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, node_affinity);
    let now = cluster(&[label(node("a"), "x", "1"), label(node("b"), "y", "1"), label(label(node("c"), "x", "1"), "y", "1")], &[])?;
    let (x, y) = (expression("x", "Exists", &[]), expression("y", "Exists", &[]));
    let both = required(json!([{"matchExpressions": [x, y]}]));
    rig.goes("both in one term", &now, &pod(both), &["c"])?;
    let either = required(json!([{"matchExpressions": [expression("x", "DoesNotExist", &[])]}, {"matchExpressions": [x, y]}]));
    rig.goes("either of two terms", &now, &pod(either), &["b", "c"])?;
    let second = required(json!([{"matchExpressions": [expression("z", "Exists", &[])]}, {"matchExpressions": [x, y]}]));
    rig.goes("the second of two terms", &now, &pod(second), &["c"])?;
    rig.goes("an empty term", &now, &pod(required(json!([{}]))), &[])?;
    rig.end()
}

/// A `nodeSelector` and an affinity must both hold.
pub(super) async fn with_selector(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, node_affinity);
    let now = cluster(&[label(node("a"), "x", "1"), label(label(node("b"), "x", "1"), "y", "1")], &[])?;
    let mut spec = required(json!([{"matchExpressions": [expression("y", "Exists", &[])]}]));
    spec["nodeSelector"] = json!({"x": "1"});
    rig.goes("both", &now, &pod(spec.clone()), &["b"])?;
    spec["nodeSelector"] = json!({"x": "2"});
    rig.goes("not both", &now, &pod(spec), &[])?;
    rig.end()
}

/// Of nodes that differ in nothing else, the one with the most weight is chosen; a preference rules nothing out.
pub(super) async fn preferred(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, preferences);
    let rig = declared!(harness, node_affinity);
    let now = cluster(&[label(node("a"), "x", "1"), label(node("b"), "y", "1"), node("c")], &[])?;
    let prefer = |x: i32, y: i32| {
        let one = |key: &str, weight: i32| json!({"weight": weight, "preference": {"matchExpressions": [expression(key, "Exists", &[])]}});
        pod(json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [one("x", x), one("y", y)]}}}))
    };
    rig.goes("x weighs more", &now, &prefer(80, 20), &["a"])?;
    rig.goes("y weighs more", &now, &prefer(20, 80), &["b"])?;
    rig.goes("no node is preferred", &cluster(&[node("c")], &[])?, &prefer(50, 50), &["c"])?;
    rig.end()
}
