//! CPU and memory of a node should be used up evenly.

use std::sync::Arc;

use wharf_core::scheduler::{NodeInfo, PodInfo, Snapshot};
use wharf_scheduler_framework::{CycleState, MAX_SCORE, PreScore, PreScoreOutcome, Rejection, Score};

/// The closer the used shares of CPU and memory, the better.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeResourcesBalancedAllocation;

impl PreScore for NodeResourcesBalancedAllocation {
    fn pre_score(&self, _: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], _: &Snapshot) -> Result<PreScoreOutcome, Rejection> {
        // A pod that requests neither changes no balance.
        let nothing = pod.requests.milli_cpu == 0 && pod.requests.memory == 0;
        Ok(if nothing { PreScoreOutcome::Skip } else { PreScoreOutcome::Continue })
    }
}

impl Score for NodeResourcesBalancedAllocation {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
        let (has, used, wants) = (&node.allocatable, &node.requested, &pod.requests);
        let share = |has: i64, used: i64, wants: i64| (has > 0).then(|| (used.saturating_add(wants) as f64 / has as f64).min(1.0));
        let shares = (share(has.milli_cpu, used.milli_cpu, wants.milli_cpu), share(has.memory, used.memory, wants.memory));
        // The standard deviation of two numbers is half their distance.
        let deviation = if let (Some(cpu), Some(memory)) = shares { (cpu - memory).abs() / 2.0 } else { 0.0 };
        Ok(((1.0 - deviation) * MAX_SCORE as f64) as i64)
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], _: &mut [i64]) -> Result<(), Rejection> {
        // Scores are in range already.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{alone, cluster, node, pod};
    use serde_json::{Value, json};

    fn wants(cpu: &str, memory: &str) -> Value {
        json!({"containers":[{"name":"c","resources":{"requests":{"cpu":cpu,"memory":memory}}}]})
    }

    #[test]
    fn the_node_that_becomes_more_even_is_better() {
        let pods = [("a", pod("q", json!({}), wants("1", "100Mi"))), ("b", pod("r", json!({}), wants("100m", "2Gi")))];
        let nodes = cluster(&[node("a", json!({}), json!({})), node("b", json!({}), json!({}))], &pods);
        let of = |spec| alone("NodeResourcesBalancedAllocation", &pod("p", json!({}), spec), &nodes);
        assert_eq!(of(wants("900m", "0")), Ok("b".into()));
        assert_eq!(of(wants("0", "1900Mi")), Ok("a".into()));
    }
}
