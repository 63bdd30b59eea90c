//! Cordoned nodes take no new pods.

use k8s_openapi::api::core::v1::Taint;
use wharf_core::scheduler::{NodeInfo, PodInfo};
use wharf_scheduler_framework::{CycleState, Filter, Rejection};

use crate::taint_toleration::{tolerates, tolerations};

/// Only nodes without `spec.unschedulable`, unless the pod tolerates `node.kubernetes.io/unschedulable:NoSchedule`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if node.node.spec.as_ref().and_then(|s| s.unschedulable) != Some(true) {
            return Ok(());
        }
        let taint = Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Taint::default() };
        if tolerations(&pod.pod).iter().any(|t| tolerates(t, &taint)) {
            return Ok(());
        }
        Err(Rejection::unresolvable("node(s) were unschedulable"))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{cluster, node, pod, single};
    use serde_json::json;

    #[test]
    fn cordoned_nodes_are_left_out_unless_tolerated() {
        let tolerant = json!({"tolerations":[{"key":"node.kubernetes.io/unschedulable","operator":"Exists","effect":"NoSchedule"}]});
        for (cordoned, spec, fits) in [(false, json!({}), true), (true, json!({}), false), (true, tolerant, true)] {
            let nodes = cluster(&[node("n", json!({}), json!({"unschedulable":cordoned}))], &[]);
            let expected = if fits { Ok(()) } else { Err(("node(s) were unschedulable".into(), false)) };
            assert_eq!(single("NodeUnschedulable", &pod("p", json!({}), spec.clone()), &nodes), expected, "{cordoned} {spec}");
        }
    }
}
