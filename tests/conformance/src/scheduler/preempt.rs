//! Pods of lower priority make room.

use serde_json::{Value, json};
use wharf_core::scheduler::Decision;

use super::SchedulerHarness;
use super::kit::{ask, base, cluster, named, needs, node, on, requesting, typed};
use crate::{CaseResult, ensure_eq, fail};

fn ranked(name: &str, priority: i32, cpu: &str) -> Value {
    let mut pod = named(name, requesting(json!({"cpu": cpu})));
    pod["spec"]["priority"] = json!(priority);
    pod
}

fn victims(harness: &dyn SchedulerHarness, nodes: &[Value], pods: &[Value], pod: &Value) -> CaseResult<(String, Vec<String>)> {
    match ask(&*harness.scheduler(1), &typed(pod)?, &cluster(nodes, pods)?)? {
        Decision::Nominate { node, victims, .. } => {
            let mut names: Vec<_> = victims.iter().filter_map(|v| v.metadata.name.clone()).collect();
            names.sort();
            Ok((node.to_string(), names))
        }
        other => fail(format!("a node should have been nominated, but: {other:?}")),
    }
}

/// A pod of lower priority goes, on the node that is nominated.
pub(super) async fn lower_priority(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, preemption);
    let pods = [on("a", ranked("high", 200, "2")), on("b", ranked("low", 1, "2"))];
    let found = victims(harness, &[node("a"), node("b")], &pods, &ranked("p", 100, "1"))?;
    ensure_eq!(found, ("b".to_owned(), vec!["low".to_owned()]), "nominated node and victims");
    Ok(())
}

/// A pod of the same priority stays.
pub(super) async fn not_the_equal(harness: &dyn SchedulerHarness) -> CaseResult {
    base(harness).goes("they are equal", &cluster(&[node("a")], &[on("a", ranked("x", 7, "2"))])?, &ranked("p", 7, "1"), &[])
}

/// `preemptionPolicy: Never` waits for room.
pub(super) async fn policy_never(harness: &dyn SchedulerHarness) -> CaseResult {
    let mut patient = ranked("p", 100, "1");
    patient["spec"]["preemptionPolicy"] = json!("Never");
    base(harness).goes("it preempts nobody", &cluster(&[node("a")], &[on("a", ranked("x", 1, "2"))])?, &patient, &[])
}

/// Only as many go as must, the least important of them.
pub(super) async fn no_more_than_needed(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, preemption);
    let pods = [on("a", ranked("low", 1, "1")), on("a", ranked("middle", 10, "1"))];
    ensure_eq!(victims(harness, &[node("a")], &pods, &ranked("p", 100, "1"))?.1, ["low"], "victims");
    Ok(())
}
