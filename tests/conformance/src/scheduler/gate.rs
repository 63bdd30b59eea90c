//! Scheduling gates.

use serde_json::json;
use wharf_core::scheduler::Decision;

use super::SchedulerHarness;
use super::kit::{ask, cluster, node, pod, typed};
use crate::{CaseResult, ensure, skip};

/// A pod with gates waits; without any it does not.
pub(super) async fn waits(harness: &dyn SchedulerHarness) -> CaseResult {
    let now = cluster(&[node("a")], &[])?;
    let gated = typed(&pod(json!({"schedulingGates": [{"name": "example.com/quota"}]})))?;
    let decision = ask(&*harness.scheduler(1), &gated, &now)?;
    if harness.capabilities().gates {
        ensure!(matches!(&decision, Decision::Wait { reason } if !reason.is_empty()), "a gated pod waits, but: {decision:?}");
        let free = ask(&*harness.scheduler(1), &typed(&pod(json!({"schedulingGates": []})))?, &now)?;
        ensure!(matches!(free, Decision::Bind { .. }), "a pod whose gates are gone does not wait, but: {free:?}");
        return Ok(());
    }
    ensure!(!matches!(decision, Decision::Bind { .. } | Decision::Nominate { .. }), "a gated pod was placed: {decision:?}");
    skip("the scheduler does not declare gates; it placed no gated pod")
}
