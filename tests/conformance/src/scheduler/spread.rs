//! Topology spread constraints.

use serde_json::{Value, json};

use super::SchedulerHarness;
use super::kit::{ZONE, app, cluster, declared, having, in_namespace, in_zone, named, needs, node, on, pod};
use crate::CaseResult;

fn spread(when: &str, more: Value) -> Value {
    let mut constraint =
        json!({"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "web"}}});
    for (name, value) in more.as_object().into_iter().flatten() {
        constraint[name] = value.clone();
    }
    app("web", pod(json!({"topologySpreadConstraints": [constraint]})))
}

fn web(name: &str, node: &str) -> Value {
    on(node, named(name, app("web", pod(json!({})))))
}

/// No zone may have more than maxSkew pods above the emptiest.
pub(super) async fn max_skew(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, topology_spread);
    let nodes = [in_zone("a1", "a"), in_zone("b1", "b")];
    let hard = |skew: i32| spread("DoNotSchedule", json!({"maxSkew": skew}));
    let one = cluster(&nodes, &[web("x", "a1")])?;
    rig.goes("zone b is behind", &one, &hard(1), &["b1"])?;
    rig.goes("a skew of two is allowed", &one, &hard(2), &["a1", "b1"])?;
    let mut cordoned = in_zone("b1", "b");
    cordoned["spec"] = json!({"unschedulable": true});
    rig.goes("zone b takes none, but it counts", &cluster(&[in_zone("a1", "a"), cordoned], &[web("x", "a1")])?, &hard(1), &[])?;
    rig.end()
}

/// A node without the label is no place for the pod.
pub(super) async fn missing_label(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, topology_spread);
    rig.goes("b has no zone", &cluster(&[in_zone("a", "a"), node("b")], &[])?, &spread("DoNotSchedule", json!({})), &["a"])?;
    rig.goes("no node has one", &cluster(&[node("b")], &[])?, &spread("DoNotSchedule", json!({})), &[])?;
    rig.end()
}

/// ScheduleAnyway prefers the emptier zone and rules out none.
pub(super) async fn schedule_anyway(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, preferences);
    let rig = declared!(harness, topology_spread);
    let pods = [web("x", "a1"), web("y", "a1")];
    let soft = spread("ScheduleAnyway", json!({}));
    rig.goes("zone b is emptier", &cluster(&[in_zone("a1", "a"), in_zone("b1", "b")], &pods)?, &soft, &["b1"])?;
    let full = having(in_zone("b1", "b"), "pods", "0");
    rig.goes("zone b is full, so zone a will do", &cluster(&[in_zone("a1", "a"), full], &pods)?, &soft, &["a1"])?;
    rig.end()
}

/// With fewer zones than minDomains the emptiest counts as empty.
pub(super) async fn min_domains(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, topology_spread);
    let nodes = [in_zone("a1", "a"), in_zone("b1", "b")];
    let wanting = |domains: i32| spread("DoNotSchedule", json!({"minDomains": domains}));
    let both = cluster(&nodes, &[web("x", "a1"), web("y", "b1")])?;
    rig.goes("two zones of two", &both, &wanting(2), &["a1", "b1"])?;
    rig.goes("two zones of three", &both, &wanting(3), &[])?;
    rig.end()
}

/// Only pods with the selected labels in the pod's own namespace count.
pub(super) async fn counts_by_label_and_namespace(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, topology_spread);
    let nodes = [in_zone("a1", "a"), in_zone("b1", "b")];
    let hard = spread("DoNotSchedule", json!({}));
    let db = on("b1", named("y", app("db", pod(json!({})))));
    let foreign = in_namespace("other", web("z", "b1"));
    rig.goes("others do not count", &cluster(&nodes, &[web("x", "a1"), db, foreign])?, &hard, &["b1"])?;
    rig.end()
}

/// A pod that is being deleted does not count.
pub(super) async fn terminating_do_not_count(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, topology_spread);
    let mut going = web("y", "a1");
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let now = cluster(&[in_zone("a1", "a"), in_zone("b1", "b")], &[going, web("x", "b1")])?;
    rig.goes("zone a is the emptier", &now, &spread("DoNotSchedule", json!({})), &["a1"])?;
    rig.end()
}
