//! Objects that make no sense.

use serde_json::json;
use wharf_core::scheduler::Decision;

use super::SchedulerHarness;
use super::kit::{ask, cluster, having, node, requesting, typed};
use crate::{CaseResult, ensure};

/// A request that is no quantity is not taken for nothing.
pub(super) async fn request(harness: &dyn SchedulerHarness) -> CaseResult {
    for requests in [json!({"cpu": "lots"}), json!({"memory": "1Zz"})] {
        let decision = ask(&*harness.scheduler(1), &typed(&requesting(requests.clone()))?, &cluster(&[node("a")], &[])?)?;
        ensure!(!matches!(decision, Decision::Bind { .. }), "{requests} was bound");
    }
    Ok(())
}

/// A node whose amounts are no quantities has none.
pub(super) async fn node_amounts(harness: &dyn SchedulerHarness) -> CaseResult {
    let now = cluster(&[having(node("a"), "cpu", "many"), node("b")], &[])?;
    let decision = ask(&*harness.scheduler(1), &typed(&requesting(json!({"cpu": "1"})))?, &now)?;
    ensure!(matches!(&decision, Decision::Bind { node } if &**node == "b"), "b is sound, but: {decision:?}");
    Ok(())
}

/// Pods and nodes without any field do no harm.
pub(super) async fn empty(harness: &dyn SchedulerHarness) -> CaseResult {
    let now = cluster(&[json!({"metadata": {"name": "a"}})], &[])?;
    for pod in [json!({}), json!({"metadata": {}}), json!({"metadata": {"name": "p"}, "spec": {"containers": []}})] {
        ask(&*harness.scheduler(1), &typed(&pod)?, &now)?;
    }
    Ok(())
}
