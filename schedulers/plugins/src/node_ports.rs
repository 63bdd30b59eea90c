//! No two pods take the same port of a node.

use wharf_core::scheduler::{NodeInfo, PodInfo, Snapshot};
use wharf_scheduler_framework::{CycleState, Filter, PreFilter, PreFilterOutcome, Rejection};

/// The pod's host ports must be free.
#[derive(Debug, Clone, Copy, Default)]
pub struct NodePorts;

impl PreFilter for NodePorts {
    fn pre_filter(&self, _: &mut CycleState, pod: &PodInfo, _: &Snapshot) -> Result<PreFilterOutcome, Rejection> {
        Ok(if pod.host_ports.is_empty() { PreFilterOutcome::Skip } else { PreFilterOutcome::Continue })
    }
}

impl Filter for NodePorts {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let taken = pod.host_ports.iter().any(|wanted| node.used_ports.keys().any(|used| used.conflicts(wanted)));
        if taken { Err(Rejection::unschedulable("node(s) didn't have free ports for the requested pod ports")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{cluster, node, pod, single};
    use serde_json::{Value, json};

    fn port(port: i32, protocol: &str, ip: &str) -> Value {
        json!({"containers":[{"name":"c","ports":[{"containerPort":1,"hostPort":port,"protocol":protocol,"hostIP":ip}]}]})
    }

    #[test]
    fn conflicts_by_port_protocol_and_address() {
        let nodes = cluster(&[node("n", json!({}), json!({}))], &[("n", pod("q", json!({}), port(80, "TCP", "10.0.0.1")))]);
        for (spec, fits) in [
            (port(80, "TCP", "10.0.0.1"), false),
            (port(80, "TCP", "10.0.0.2"), true),
            (port(80, "TCP", ""), false),
            (port(80, "UDP", "10.0.0.1"), true),
            (port(81, "TCP", "10.0.0.1"), true),
            (json!({}), true),
        ] {
            let expected = if fits { Ok(()) } else { Err(("node(s) didn't have free ports for the requested pod ports".into(), true)) };
            assert_eq!(single("NodePorts", &pod("p", json!({}), spec.clone()), &nodes), expected, "{spec}");
        }
    }
}
