//! A node must have what the pod requests.

use std::sync::Arc;

use wharf_core::scheduler::{NodeInfo, PodInfo};
use wharf_scheduler_framework::{CycleState, Filter, MAX_SCORE, Reason, Rejection, Score};

/// What is requested must be free; the node with the largest share left free is best (LeastAllocated).
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeResourcesFit;

impl Filter for NodeResourcesFit {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if let Some(error) = &pod.invalid {
            return Err(Rejection::error(error.clone()));
        }
        let mut reasons: Vec<Reason> = Vec::new();
        let mut hopeless = false;
        let (has, used, wants) = (&node.allocatable, &node.requested, &pod.requests);
        if used.pods + 1 > has.pods {
            reasons.push("Too many pods".into());
        }
        let mut check = |reason: fn(&str) -> Reason, name: &str, wants: i64, has: i64, used: i64| {
            if wants > 0 && wants > has.saturating_sub(used) {
                reasons.push(reason(name));
                hopeless |= wants > has;
            }
        };
        check(|_| "Insufficient cpu".into(), "", wants.milli_cpu, has.milli_cpu, used.milli_cpu);
        check(|_| "Insufficient memory".into(), "", wants.memory, has.memory, used.memory);
        check(|_| "Insufficient ephemeral-storage".into(), "", wants.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage);
        for (name, amount) in &wants.scalar {
            check(|name| format!("Insufficient {name}").into(), name, *amount, has.get(name), used.get(name));
        }
        match (reasons.is_empty(), hopeless) {
            (true, _) => Ok(()),
            (false, false) => Err(Rejection::Unschedulable(reasons)),
            (false, true) => Err(Rejection::UnschedulableAndUnresolvable(reasons)),
        }
    }
}

impl Score for NodeResourcesFit {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
        let (has, used, wants) = (&node.allocatable, &node.non_zero_requested, &pod.non_zero);
        let free = |has: i64, used: i64, wants: i64| {
            let then = used.saturating_add(wants);
            // A resource that the node does not have is no reason for or against it.
            (has > 0).then(|| if then > has { 0 } else { (has - then).saturating_mul(MAX_SCORE) / has })
        };
        let shares = [free(has.milli_cpu, used.milli_cpu, wants.milli_cpu), free(has.memory, used.memory, wants.memory)];
        let count = i64::try_from(shares.iter().flatten().count()).unwrap_or(1);
        Ok(shares.iter().flatten().sum::<i64>() / count.max(1))
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], _: &mut [i64]) -> Result<(), Rejection> {
        // Scores are shares already.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{alone, cluster, node, pod, single};
    use serde_json::{Value, json};

    fn wants(requests: Value) -> Value {
        json!({"containers":[{"name":"c","resources":{"requests":requests}}]})
    }

    #[test]
    fn what_is_requested_must_be_free() {
        let nodes = cluster(&[node("n", json!({}), json!({}))], &[("n", pod("q", json!({}), wants(json!({"cpu":"1","memory":"1Gi"}))))]);
        for (requests, refused) in [
            (json!({"cpu":"1","memory":"3Gi"}), None),
            (json!({"cpu":"1001m"}), Some(("Insufficient cpu", true))),
            (json!({"cpu":"1500m","memory":"3.5Gi"}), Some(("Insufficient cpu, Insufficient memory", true))),
            (json!({"cpu":"2001m"}), Some(("Insufficient cpu", false))),
            (json!({"ephemeral-storage":"1"}), Some(("Insufficient ephemeral-storage", false))),
            (json!({"x.io/gpu":"1"}), Some(("Insufficient x.io/gpu", false))),
            (json!({"x.io/gpu":"0"}), None),
            (json!({}), None),
        ] {
            let expected = refused.map_or(Ok(()), |(r, resolvable)| Err((r.to_string(), resolvable)));
            assert_eq!(single("NodeResourcesFit", &pod("p", json!({}), wants(requests.clone())), &nodes), expected, "{requests}");
        }
    }

    #[test]
    fn a_full_node_says_so() {
        let pods: Vec<_> = (0..10).map(|i| ("n", pod(&format!("q{i}"), json!({}), json!({})))).collect();
        let nodes = cluster(&[node("n", json!({}), json!({}))], &pods);
        assert_eq!(single("NodeResourcesFit", &pod("p", json!({}), json!({})), &nodes), Err(("Too many pods".into(), true)));
    }

    #[test]
    fn the_emptier_node_is_better() {
        let busy = ("a", pod("q", json!({}), wants(json!({"cpu":"1"}))));
        let nodes = cluster(&[node("a", json!({}), json!({})), node("b", json!({}), json!({}))], &[busy]);
        assert_eq!(alone("NodeResourcesFit", &pod("p", json!({}), wants(json!({"cpu":"100m"}))), &nodes), Ok("b".into()));
    }
}
