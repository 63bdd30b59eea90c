//! Why a pod fits nowhere, in words that people know.

use serde_json::json;

use super::SchedulerHarness;
use super::kit::{cluster, diagnosis, having, named, needs, node, on, pod, requesting, tainted};
use crate::{CaseResult, ensure, ensure_eq};

/// `0/4 nodes are available: ...` with how many nodes each reason rules out.
pub(super) async fn counts_nodes(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, reasons);
    needs!(harness, taints);
    let mut cordoned = node("d");
    cordoned["spec"] = json!({"unschedulable": true});
    let now = cluster(&[node("a"), node("b"), tainted(node("c"), "k", "v", "NoSchedule"), cordoned], &[])?;
    let said = diagnosis(harness, &now, &requesting(json!({"cpu": "3"})))?.to_string();
    let wanted = "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu.";
    ensure!(said.starts_with(wanted), "expected {wanted:?}, got {said:?}");
    Ok(())
}

/// A cluster without nodes has words of its own.
pub(super) async fn no_nodes(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, reasons);
    ensure_eq!(diagnosis(harness, &cluster(&[], &[])?, &pod(json!({})))?.to_string(), "no nodes available to schedule pods", "message");
    Ok(())
}

/// A node that lacks several resources says so of each.
pub(super) async fn all_of_a_node(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, reasons);
    let full = having(node("a"), "pods", "1");
    let now = cluster(&[full], &[on("a", named("x", pod(json!({}))))])?;
    let said = diagnosis(harness, &now, &requesting(json!({"cpu": "3", "memory": "5Gi"})))?.to_string();
    let wanted = "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Too many pods.";
    ensure!(said.starts_with(wanted), "expected {wanted:?}, got {said:?}");
    Ok(())
}

/// Each node has its refusal.
pub(super) async fn names_every_node(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, reasons);
    let diagnosis = diagnosis(harness, &cluster(&[node("a"), node("b"), node("c")], &[])?, &requesting(json!({"cpu": "3"})))?;
    ensure_eq!(diagnosis.nodes, 3, "nodes in the diagnosis");
    ensure_eq!(diagnosis.refusals.keys().map(|n| &**n).collect::<Vec<_>>(), ["a", "b", "c"], "nodes with a refusal");
    ensure!(diagnosis.refusals.values().all(|r| !r.reasons.is_empty()), "a node was refused without a reason: {diagnosis:?}");
    Ok(())
}
