//! Which of several fitting nodes is chosen.

use std::sync::Arc;

use serde_json::json;
use wharf_core::scheduler::{Decision, PodInfo};

use super::SchedulerHarness;
use super::kit::{ask, base, cluster, named, needs, node, on, requesting, typed};
use crate::{CaseResult, ensure_eq, fail};

/// The node with more left is preferred.
pub(super) async fn least_allocated(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, least_allocated);
    let request = json!({"cpu": "100m", "memory": "200Mi"});
    let big = json!({"cpu": "1", "memory": "2Gi"});
    let pods = [on("a", named("x", requesting(big.clone()))), on("c", named("y", requesting(big)))];
    base(harness).goes("b is empty", &cluster(&[node("a"), node("b"), node("c")], &pods)?, &requesting(request), &["b"])
}

/// Equal pods onto equal nodes, one after the other, end up as many on each.
pub(super) async fn equal_pods_spread(harness: &dyn SchedulerHarness) -> CaseResult {
    needs!(harness, least_allocated);
    for seed in 1..=3 {
        let scheduler = harness.scheduler(seed);
        let mut now = cluster(&[node("a"), node("b"), node("c")], &[])?;
        for i in 0..9 {
            let pod = typed(&named(&format!("p{i}"), requesting(json!({"cpu": "200m", "memory": "400Mi"}))))?;
            let Decision::Bind { node } = ask(&*scheduler, &pod, &now)? else { return fail("there is room for nine") };
            now.add_pod(&node, Arc::new(PodInfo::new(pod)));
        }
        ensure_eq!(now.nodes().iter().map(|n| n.pods.len()).collect::<Vec<_>>(), [3, 3, 3], "pods on each node");
    }
    Ok(())
}
