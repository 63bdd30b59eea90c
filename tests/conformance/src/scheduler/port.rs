//! Ports of the node.

use serde_json::{Value, json};

use super::SchedulerHarness;
use super::kit::{cluster, declared, named, node, on, pod};
use crate::CaseResult;

fn taking(port: Value) -> Value {
    let mut port = port;
    port["containerPort"] = json!(80);
    pod(json!({"containers": [{"name": "c", "ports": [port]}]}))
}

/// Two pods cannot take one port of a node.
pub(super) async fn same_port(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, host_ports);
    let taken = on("a", named("x", taking(json!({"hostPort": 8080}))));
    let now = cluster(&[node("a"), node("b")], std::slice::from_ref(&taken))?;
    rig.goes("8080 is free on b", &now, &taking(json!({"hostPort": 8080})), &["b"])?;
    rig.goes("8081 is free", &now, &taking(json!({"hostPort": 8081})), &["a", "b"])?;
    rig.goes("and nowhere else", &cluster(&[node("a")], &[taken])?, &taking(json!({"hostPort": 8080})), &[])?;
    rig.end()
}

/// TCP and UDP ports are different ports; TCP is meant when nothing is said.
pub(super) async fn protocols_differ(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, host_ports);
    let now = cluster(&[node("a")], &[on("a", named("x", taking(json!({"hostPort": 53, "protocol": "TCP"}))))])?;
    rig.goes("UDP", &now, &taking(json!({"hostPort": 53, "protocol": "UDP"})), &["a"])?;
    rig.goes("TCP by default", &now, &taking(json!({"hostPort": 53})), &[])?;
    rig.end()
}

/// One port on two addresses is two ports; no address, or `0.0.0.0`, is all of them.
pub(super) async fn addresses_differ(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, host_ports);
    let now = cluster(&[node("a")], &[on("a", named("x", taking(json!({"hostPort": 80, "hostIP": "10.0.0.1"}))))])?;
    for (ip, to) in [("10.0.0.2", &["a"][..]), ("10.0.0.1", &[]), ("0.0.0.0", &[]), ("", &[])] {
        rig.goes(ip, &now, &taking(json!({"hostPort": 80, "hostIP": ip})), to)?;
    }
    rig.end()
}
