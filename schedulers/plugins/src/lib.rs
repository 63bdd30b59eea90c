//! Kubernetes' in-tree scheduler plugins, with its names, messages and weights.

use std::sync::Arc;

use wharf_scheduler_framework::{DefaultBinder, FrameworkScheduler, Profile, ProfileBuilder, ProfileError, Registration, Registry};

mod default_preemption;
mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced_allocation;
mod node_resources_fit;
mod node_unschedulable;
mod normalize;
mod pod_topology_spread;
mod priority_sort;
mod scheduling_gates;
mod taint_toleration;
#[cfg(test)]
mod testing;

pub use default_preemption::{DefaultPreemption, MAX_CANDIDATES};
pub use image_locality::ImageLocality;
pub use inter_pod_affinity::InterPodAffinity;
pub use node_affinity::NodeAffinity;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub use node_resources_balanced_allocation::NodeResourcesBalancedAllocation;
pub use node_resources_fit::NodeResourcesFit;
pub use node_unschedulable::NodeUnschedulable;
pub use pod_topology_spread::PodTopologySpread;
pub use priority_sort::PrioritySort;
pub use scheduling_gates::SchedulingGates;
pub use taint_toleration::TaintToleration;

/// Every plugin of this crate, and the DefaultBinder.
pub fn registry() -> Registry {
    Registry::default()
        .register(Registration::new(SchedulingGates).pre_enqueue().points())
        .register(Registration::new(PrioritySort).queue_sort().points())
        .register(Registration::new(NodeUnschedulable).filter().points())
        .register(Registration::new(NodeName).filter().points())
        .register(Registration::new(TaintToleration).filter().pre_score().score().points())
        .register(Registration::new(NodeAffinity).pre_filter().filter().pre_score().score().points())
        .register(Registration::new(NodePorts).pre_filter().filter().points())
        .register(Registration::new(NodeResourcesFit).filter().score().points())
        .register(Registration::new(PodTopologySpread).pre_filter().filter().pre_score().score().points())
        .register(Registration::new(InterPodAffinity).pre_filter().filter().pre_score().score().points())
        .register(Registration::new(DefaultPreemption).post_filter().points())
        .register(Registration::new(NodeResourcesBalancedAllocation).pre_score().score().points())
        .register(Registration::new(ImageLocality).pre_score().score().points())
        .register(Registration::new(DefaultBinder).bind().points())
}

/// Kubernetes' default profile, in its order and with its weights; change it before it is built.
pub fn default_profile() -> ProfileBuilder {
    Profile::builder()
        .plugin("SchedulingGates")
        .plugin("PrioritySort")
        .plugin("NodeUnschedulable")
        .plugin("NodeName")
        .weighted("TaintToleration", 3)
        .weighted("NodeAffinity", 2)
        .plugin("NodePorts")
        .plugin("NodeResourcesFit")
        .weighted("PodTopologySpread", 2)
        .weighted("InterPodAffinity", 2)
        .plugin("DefaultPreemption")
        .plugin("NodeResourcesBalancedAllocation")
        .plugin("ImageLocality")
        .plugin("DefaultBinder")
}

/// A scheduler with the default profile; `seed` decides ties.
///
/// # Errors
/// Never with this crate's own registry, but the caller decides what to do.
pub fn default_scheduler(seed: u64) -> Result<FrameworkScheduler, ProfileError> {
    Ok(FrameworkScheduler::new(Arc::new(default_profile().build(&registry())?), seed))
}

/// Names a plugin by its type.
macro_rules! named {
    ($($plugin:ident),*) => {$(
        impl wharf_scheduler_framework::Plugin for $plugin {
            fn name(&self) -> &'static str {
                stringify!($plugin)
            }
        }
    )*};
}
named!(
    SchedulingGates,
    PrioritySort,
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    PodTopologySpread,
    InterPodAffinity,
    DefaultPreemption,
    NodeResourcesBalancedAllocation,
    ImageLocality
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cluster, node, pod};
    use serde_json::json;
    use wharf_core::scheduler::{Decision, Scheduler};

    fn message(decision: Decision) -> String {
        match decision {
            Decision::Unschedulable(diagnosis) => diagnosis.to_string(),
            other => panic!("it must not fit: {other:?}"),
        }
    }

    #[test]
    fn the_whole_message_is_kubernetes_own() {
        let scheduler = default_scheduler(1).unwrap();
        let taints = json!({"taints":[{"key":"node-role.kubernetes.io/control-plane","effect":"NoSchedule"}]});
        let nodes = cluster(
            &[node("a", json!({}), taints), node("b", json!({}), json!({"unschedulable":true})), node("c", json!({}), json!({}))],
            &[],
        );
        let big = pod("p", json!({}), json!({"containers":[{"name":"c","resources":{"requests":{"cpu":"3"}}}]}));
        assert_eq!(
            message(scheduler.schedule(&big, &nodes)),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. \
             preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling."
                .replace("1 No preemption victims found for incoming pod, 2 Preemption", "3 Preemption")
        );
        assert_eq!(message(scheduler.schedule(&big, &cluster(&[], &[]))), "no nodes available to schedule pods");
    }

    #[test]
    fn gates_hold_a_pod_back() {
        let scheduler = default_scheduler(1).unwrap();
        let gated = pod("p", json!({}), json!({"containers":[],"schedulingGates":[{"name":"x.io/a"},{"name":"x.io/b"}]}));
        let nodes = cluster(&[node("a", json!({}), json!({}))], &[]);
        match scheduler.schedule(&gated, &nodes) {
            Decision::Wait { reason } => assert_eq!(reason, "waiting for scheduling gates: [x.io/a x.io/b]"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn replicas_of_one_owner_are_spread_by_default() {
        let scheduler = default_scheduler(1).unwrap();
        let owned = json!({"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"u","controller":true}]});
        let small = json!({"containers":[{"name":"c","resources":{"requests":{"cpu":"10m"}}}]});
        let mut nodes = cluster(&[node("a", json!({}), json!({})), node("b", json!({}), json!({})), node("c", json!({}), json!({}))], &[]);
        for i in 0..9 {
            let pod = pod(&format!("p{i}"), owned.clone(), small.clone());
            let Decision::Bind { node } = scheduler.schedule(&pod, &nodes) else { panic!("it must fit") };
            nodes.add_pod(&node, Arc::new(wharf_core::scheduler::PodInfo::new(pod)));
        }
        assert_eq!(nodes.nodes().iter().map(|n| n.pods.len()).collect::<Vec<_>>(), [3, 3, 3]);
    }

    #[test]
    fn a_malformed_request_fails_closed() {
        let scheduler = default_scheduler(1).unwrap();
        let bad = pod("p", json!({}), json!({"containers":[{"name":"c","resources":{"requests":{"cpu":"lots"}}}]}));
        let nodes = cluster(&[node("a", json!({}), json!({}))], &[]);
        assert!(matches!(scheduler.schedule(&bad, &nodes), Decision::Failed { .. }));
    }
}
