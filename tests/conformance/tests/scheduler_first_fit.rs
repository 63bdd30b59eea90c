//! The scheduler kit over a scheduler of twenty lines that declares nothing: the first node with room. What it knows nothing
//! of it refuses to decide, and the kit sees to that.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use wharf_conformance::scheduler::SchedulerHarness;
use wharf_conformance::{Harness, scheduler_suite};
use wharf_core::scheduler::{Decision, Diagnosis, PodInfo, Refusal, Resources, Scheduler, Snapshot};

#[derive(Debug)]
struct FirstFit;

/// Whether a pod asks for something beyond CPU, memory and a node's name.
fn asks_for_more(pod: &PodInfo) -> bool {
    let Some(spec) = &pod.pod.spec else { return false };
    let has = |list: Option<usize>| list.is_some_and(|n| n > 0);
    pod.invalid.is_some()
        || !pod.host_ports.is_empty()
        || pod.requests.ephemeral_storage > 0
        || !pod.requests.scalar.is_empty()
        || spec.affinity.is_some()
        || spec.node_selector.is_some()
        || has(spec.topology_spread_constraints.as_ref().map(Vec::len))
        || has(spec.scheduling_gates.as_ref().map(Vec::len))
}

impl Scheduler for FirstFit {
    fn schedule(&self, pod: &Arc<Pod>, snapshot: &Snapshot) -> Decision {
        let info = PodInfo::new(pod.clone());
        if asks_for_more(&info) || snapshot.nodes().iter().any(|n| n.with_required_anti_affinity > 0) {
            return Decision::Failed { message: "the pod needs a scheduler that knows more".into() };
        }
        let wanted = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
        let room = |asked: &Resources, has: &Resources, used: &Resources| {
            asked.milli_cpu <= has.milli_cpu - used.milli_cpu && asked.memory <= has.memory - used.memory && used.pods < has.pods
        };
        let mut diagnosis = Diagnosis { nodes: snapshot.nodes().len(), ..Diagnosis::default() };
        for node in snapshot.nodes() {
            let cordoned = node.node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
            let open = node.taints().is_empty() && !cordoned && wanted.is_none_or(|w| w == &*node.name);
            if open && room(&info.requests, &node.allocatable, &node.requested) {
                return Decision::Bind { node: node.name.clone() };
            }
            let refusal = Refusal { reasons: vec!["no room".into()], resolvable: false, plugin: "FirstFit" };
            diagnosis.refusals.insert(node.name.clone(), refusal);
        }
        Decision::Unschedulable(Box::new(diagnosis))
    }
}

struct FirstFits;

impl Harness for FirstFits {}

impl SchedulerHarness for FirstFits {
    fn scheduler(&self, _seed: u64) -> Arc<dyn Scheduler> {
        Arc::new(FirstFit)
    }
}

scheduler_suite!(FirstFits);
