//! Heartbeats: what becomes of a node's conditions when it falls silent.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How long a node may be silent.
pub const GRACE: Duration = Duration::from_secs(40);
/// How long a node may take until it says anything at all.
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Conditions that become unknown together.
const CONDITIONS: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What changes whenever the node is heard of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pulse {
    renewed: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
}

fn condition<'a>(node: &'a Node, name: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_deref()?.iter().find(|c| c.type_ == name)
}

/// The status of the Ready condition, if there is one.
pub fn ready(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|c| c.status.as_str())
}

impl Pulse {
    /// From the node's lease and its own status.
    pub fn of(node: &Node, lease: Option<&Lease>) -> Self {
        Self {
            renewed: lease.and_then(|l| l.spec.as_ref()?.renew_time.as_ref()).map(|t| t.0),
            heartbeat: condition(node, "Ready").and_then(|c| c.last_heartbeat_time.as_ref()).map(|t| t.0),
        }
    }

    /// How long the silence may last.
    pub fn grace(&self) -> Duration {
        if *self == Self::default() { STARTUP_GRACE } else { GRACE }
    }
}

/// The conditions of a node that has been silent for too long; `None` if they say so already.
pub fn silent(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let mut conditions = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut changed = false;
    for name in CONDITIONS {
        match conditions.iter_mut().find(|c| c.type_ == *name) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                known.status = "Unknown".into();
                known.reason = Some("NodeStatusUnknown".into());
                known.message = Some("Kubelet stopped posting node status.".into());
                known.last_transition_time = Some(Time(now));
                changed = true;
            }
            None => {
                conditions.push(NodeCondition {
                    type_: (*name).into(),
                    status: "Unknown".into(),
                    reason: Some("NodeStatusNeverUpdated".into()),
                    message: Some("Kubelet never posted node status.".into()),
                    last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                    last_transition_time: Some(Time(now)),
                });
                changed = true;
            }
        }
    }
    changed.then_some(conditions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn silence_makes_conditions_unknown_once() {
        let mut node: Node = serde_json::from_value(
            json!({"metadata":{},"status":{"conditions":[{"type":"Ready","status":"True","reason":"KubeletReady"}]}}),
        )
        .unwrap();
        let conditions = silent(&node, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(conditions.len(), 4);
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(conditions[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        node.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(ready(&node), Some("Unknown"));
        assert_eq!(silent(&node, Timestamp::UNIX_EPOCH), None);
    }

    #[test]
    fn a_new_node_gets_more_time() {
        let node = Node::default();
        assert_eq!(Pulse::of(&node, None).grace(), STARTUP_GRACE);
        let lease: Lease = serde_json::from_value(json!({"metadata":{},"spec":{"renewTime":"2026-01-01T00:00:00.000000Z"}})).unwrap();
        assert_eq!(Pulse::of(&node, Some(&lease)).grace(), GRACE);
    }
}
