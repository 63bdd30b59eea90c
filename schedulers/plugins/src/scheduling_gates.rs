//! Gates hold a pod back until they are removed.

use k8s_openapi::api::core::v1::Pod;
use wharf_scheduler_framework::{PreEnqueue, Rejection};

/// Only pods without `spec.schedulingGates` enter the queue.
#[derive(Debug, Clone, Copy, Default)]
pub struct SchedulingGates;

impl PreEnqueue for SchedulingGates {
    fn pre_enqueue(&self, pod: &Pod) -> Result<(), Rejection> {
        let gates = pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_deref()).unwrap_or_default();
        if gates.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = gates.iter().map(|g| g.name.as_str()).collect();
        Err(Rejection::unresolvable(format!("waiting for scheduling gates: [{}]", names.join(" "))))
    }
}
