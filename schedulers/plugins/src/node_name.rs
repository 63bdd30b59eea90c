//! A pod that names its node goes nowhere else.

use wharf_core::scheduler::{NodeInfo, PodInfo};
use wharf_scheduler_framework::{CycleState, Filter, Rejection};

/// Only the node in `spec.nodeName`, where that is set.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodeName;

impl Filter for NodeName {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        match pod.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()) {
            Some(name) if name != &*node.name => Err(Rejection::unresolvable("node(s) didn't match the requested node name")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{cluster, node, pod, single};
    use serde_json::json;

    #[test]
    fn only_the_named_node() {
        let nodes = cluster(&[node("n", json!({}), json!({}))], &[]);
        for (spec, fits) in [(json!({}), true), (json!({"nodeName":"n"}), true), (json!({"nodeName":"m"}), false)] {
            let expected = if fits { Ok(()) } else { Err(("node(s) didn't match the requested node name".into(), false)) };
            assert_eq!(single("NodeName", &pod("p", json!({}), spec.clone()), &nodes), expected, "{spec}");
        }
    }
}
