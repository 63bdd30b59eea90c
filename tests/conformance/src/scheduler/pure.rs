//! A decision is a function of what is given.

use serde_json::json;
use wharf_core::scheduler::{Decision, Snapshot};

use super::SchedulerHarness;
use super::kit::{ask, cluster, having, named, node, on, requesting, typed};
use crate::{CaseResult, ensure, ensure_eq};

fn uneven() -> CaseResult<Snapshot> {
    cluster(&[node("a"), node("b"), having(node("c"), "cpu", "4")], &[on("a", named("x", requesting(json!({"cpu": "1"}))))])
}

/// Where one node alone fits, every call says the same.
pub(super) async fn same_answer(harness: &dyn SchedulerHarness) -> CaseResult {
    let scheduler = harness.scheduler(5);
    let (now, pod) = (uneven()?, typed(&requesting(json!({"cpu": "3"})))?);
    for call in 0..20 {
        let decision = ask(&*scheduler, &pod, &now)?;
        ensure!(matches!(&decision, Decision::Bind { node } if &**node == "c"), "call {call}: only c fits, but: {decision:?}");
    }
    Ok(())
}

/// Two schedulers of one seed answer the same calls the same, chance included.
pub(super) async fn same_seed(harness: &dyn SchedulerHarness) -> CaseResult {
    let nodes: Vec<_> = (0..12).map(|i| node(&format!("n{i:02}"))).collect();
    let now = cluster(&nodes, &[])?;
    let (one, other) = (harness.scheduler(9), harness.scheduler(9));
    for call in 0..50 {
        let pod = typed(&named(&format!("p{call}"), requesting(json!({"cpu": "100m"}))))?;
        let (left, right) = (ask(&*one, &pod, &now)?, ask(&*other, &pod, &now)?);
        ensure_eq!(format!("{left:?}"), format!("{right:?}"), "call {call} under one seed");
    }
    Ok(())
}

/// What was decided before counts only if the caller put it into the snapshot.
pub(super) async fn no_memory(harness: &dyn SchedulerHarness) -> CaseResult {
    let scheduler = harness.scheduler(1);
    let now = cluster(&[node("a")], &[])?;
    for i in 0..5 {
        let pod = typed(&named(&format!("p{i}"), requesting(json!({"cpu": "2"}))))?;
        let decision = ask(&*scheduler, &pod, &now)?;
        ensure!(matches!(decision, Decision::Bind { .. }), "nothing is on the node, but: {decision:?}");
    }
    let full = cluster(&[node("a")], &[on("a", named("x", requesting(json!({"cpu": "2"}))))])?;
    let decision = ask(&*scheduler, &typed(&named("late", requesting(json!({"cpu": "2"}))))?, &full)?;
    ensure!(!matches!(decision, Decision::Bind { .. }), "the node is full by now, but: {decision:?}");
    Ok(())
}

/// The snapshot is as it was, after every kind of decision.
pub(super) async fn snapshot_untouched(harness: &dyn SchedulerHarness) -> CaseResult {
    let scheduler = harness.scheduler(1);
    let now = uneven()?;
    let (before, generation) = (format!("{:?}", now.nodes()), now.generation());
    for cpu in ["100m", "3", "100"] {
        ask(&*scheduler, &typed(&requesting(json!({"cpu": cpu})))?, &now)?;
    }
    ensure_eq!(now.generation(), generation, "generation of the snapshot");
    ensure!(format!("{:?}", now.nodes()) == before, "the nodes of the snapshot changed");
    Ok(())
}
