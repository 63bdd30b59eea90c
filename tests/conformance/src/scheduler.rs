//! The scheduler kit: what [`Scheduler`]'s contract says, and what Kubernetes documents of placing pods, case by case.
//!
//! A scheduler declares what it knows of ([`SchedulerCapabilities`]). What it does not declare it may not ignore: such a pod
//! is placed rightly or not at all ([`Decision::Failed`](wharf_core::scheduler::Decision::Failed)), and that is checked.

mod affinity;
mod fit;
mod gate;
mod inter_pod;
mod kit;
mod malformed;
mod node;
mod port;
mod preempt;
mod pure;
mod reason;
mod score;
mod sequence;
mod spread;
mod taint;

use std::sync::Arc;

use wharf_core::scheduler::Scheduler;

use crate::Harness;

/// What a scheduler knows of, beyond CPU, memory and the number of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SchedulerCapabilities {
    /// Ephemeral storage, huge pages and extended resources.
    pub extended_resources: bool,
    /// Ports of the node.
    pub host_ports: bool,
    /// `nodeSelector` and node affinity.
    pub node_affinity: bool,
    /// Taints, tolerations and unschedulable nodes.
    pub taints: bool,
    /// Affinity and anti-affinity to pods.
    pub pod_affinity: bool,
    /// Topology spread constraints.
    pub topology_spread: bool,
    /// Preferences: nodes are compared, not only ruled out.
    pub preferences: bool,
    /// The emptier node is preferred, so that equal pods spread.
    pub least_allocated: bool,
    /// Refusals in Kubernetes' own words.
    pub reasons: bool,
    /// Pods of lower priority make room.
    pub preemption: bool,
    /// Pods with scheduling gates wait.
    pub gates: bool,
}

impl SchedulerCapabilities {
    /// All of them, as Kubernetes' default profile has.
    pub fn all() -> Self {
        Self {
            extended_resources: true,
            host_ports: true,
            node_affinity: true,
            taints: true,
            pod_affinity: true,
            topology_spread: true,
            preferences: true,
            least_allocated: true,
            reasons: true,
            preemption: true,
            gates: true,
        }
    }
}

/// Makes schedulers for the kit.
pub trait SchedulerHarness: Harness {
    /// A fresh scheduler; the seed decides whatever it leaves to chance.
    fn scheduler(&self, seed: u64) -> Arc<dyn Scheduler>;
    /// What it knows of. Declares nothing unless overridden.
    fn capabilities(&self) -> SchedulerCapabilities {
        SchedulerCapabilities::default()
    }
}

crate::suite!($ scheduler_suite, scheduler, dyn SchedulerHarness, {
    fit {
        cpu, memory_requests_only, pod_count, exactly, nothing_requested, ephemeral_and_extended, init_containers, sidecars,
        overhead, assumed_pods_count, terminated_pods_do_not,
    }
    port {
        same_port, protocols_differ, addresses_differ,
    }
    node {
        named, unschedulable, selector, deleted_is_never_chosen, none,
    }
    affinity {
        operators, match_fields, terms_and_expressions, with_selector, preferred,
    }
    taint {
        no_schedule, no_execute, prefer_no_schedule, tolerations,
    }
    inter_pod {
        near, first_of_its_kind, apart, symmetry, namespaces, preferred,
    }
    spread {
        max_skew, missing_label, schedule_anyway, min_domains, counts_by_label_and_namespace, terminating_do_not_count,
    }
    score {
        least_allocated, equal_pods_spread,
    }
    reason {
        counts_nodes, no_nodes, all_of_a_node, names_every_node,
    }
    preempt {
        lower_priority, not_the_equal, policy_never, no_more_than_needed,
    }
    gate {
        waits,
    }
    pure {
        same_answer, same_seed, no_memory, snapshot_untouched,
    }
    malformed {
        request, node_amounts, empty,
    }
    sequence {
        capacity_holds, room_is_found,
    }
});
