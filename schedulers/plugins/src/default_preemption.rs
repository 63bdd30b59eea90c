//! Room for a pod at the cost of pods with lower priority.

use std::cmp::Reverse;
use std::sync::Arc;

use wharf_core::scheduler::{Diagnosis, NodeInfo, PodInfo, Snapshot, availability_message};
use wharf_scheduler_framework::{PostFilter, PostFilterOutcome, Refilter, Rejection};

/// Most nodes that are tried in one attempt.
pub const MAX_CANDIDATES: usize = 100;
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NO_HELP: &str = "Preemption is not helpful for scheduling";

/// Finds the node where the fewest and least important pods have to go. Disruption budgets are not looked at.
#[derive(Debug, Clone, Copy, Default)]
pub struct DefaultPreemption;

/// The pods that must go from a node, the most important first; `None` if their going does not help.
fn victims(pod: &PodInfo, snapshot: &Snapshot, node: &str, refilter: &dyn Refilter) -> Result<Option<Vec<Arc<PodInfo>>>, Rejection> {
    let Some(info) = snapshot.get(node) else { return Ok(None) };
    let mut lower: Vec<_> = info.pods.iter().filter(|p| p.priority() < pod.priority()).cloned().collect();
    if lower.is_empty() {
        return Ok(None);
    }
    let mut then = snapshot.clone();
    for victim in &lower {
        then.remove_pod(node, &victim.object_ref());
    }
    match refilter.fits(pod, &then, node) {
        Ok(()) => {}
        Err(error @ Rejection::Error(_)) => return Err(error),
        Err(_) => return Ok(None),
    }
    // Every pod that can stay stays, the most important and oldest first.
    lower.sort_by_key(|p| (Reverse(p.priority()), p.pod.status.as_ref().and_then(|s| s.start_time.clone())));
    let mut gone = Vec::new();
    for candidate in lower {
        then.add_pod(node, candidate.clone());
        match refilter.fits(pod, &then, node) {
            Ok(()) => {}
            Err(error @ Rejection::Error(_)) => return Err(error),
            Err(_) => {
                then.remove_pod(node, &candidate.object_ref());
                gone.push(candidate);
            }
        }
    }
    Ok(Some(gone).filter(|g| !g.is_empty()))
}

impl PostFilter for DefaultPreemption {
    fn post_filter(
        &self,
        pod: &PodInfo,
        snapshot: &Snapshot,
        diagnosis: &Diagnosis,
        refilter: &dyn Refilter,
    ) -> Result<PostFilterOutcome, Rejection> {
        let spec = pod.pod.spec.as_ref();
        if spec.and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
            return Ok(PostFilterOutcome::Nothing(Some("preemption: not eligible due to preemptionPolicy=Never.".into())));
        }
        let nominated = pod.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref()).and_then(|n| snapshot.get(n));
        if nominated.is_some_and(|n| n.pods.iter().any(|p| p.is_terminating() && p.priority() < pod.priority())) {
            let message = "preemption: not eligible due to a terminating pod on the nominated node.";
            return Ok(PostFilterOutcome::Nothing(Some(message.into())));
        }
        let mut reasons = Vec::with_capacity(diagnosis.refusals.len());
        let mut best: Option<(_, Arc<str>, Vec<Arc<PodInfo>>)> = None;
        let mut tried = 0;
        for (name, refusal) in &diagnosis.refusals {
            if !refusal.resolvable {
                reasons.push(NO_HELP);
                continue;
            }
            reasons.push(NO_VICTIMS);
            if tried >= MAX_CANDIDATES {
                continue;
            }
            let lower = |n: &Arc<NodeInfo>| n.pods.iter().any(|p| p.priority() < pod.priority());
            if !snapshot.get(name).is_some_and(lower) {
                continue;
            }
            tried += 1;
            let Some(victims) = victims(pod, snapshot, name, refilter)? else { continue };
            let highest = victims.iter().map(|v| v.priority()).max();
            let sum: i64 = victims.iter().map(|v| i64::from(v.priority())).sum();
            let cost = (highest, sum, victims.len());
            if best.as_ref().is_none_or(|(least, ..)| cost < *least) {
                best = Some((cost, name.clone(), victims));
            }
        }
        Ok(match best {
            Some((_, node, victims)) => PostFilterOutcome::Nominate { node, victims: victims.iter().map(|v| v.pod.clone()).collect() },
            None => PostFilterOutcome::Nothing(Some(format!("preemption: {}", availability_message(diagnosis.nodes, reasons)))),
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{cluster, node, pod};
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use wharf_core::scheduler::{Decision, Scheduler, Snapshot};

    fn wants(name: &str, priority: i32, cpu: &str, more: Value) -> Arc<Pod> {
        let mut spec = json!({"priority":priority,"containers":[{"name":"c","resources":{"requests":{"cpu":cpu}}}]});
        for (k, v) in more.as_object().unwrap() {
            spec[k] = v.clone();
        }
        pod(name, json!({}), spec)
    }
    fn full() -> Snapshot {
        let nodes = [node("a", json!({}), json!({})), node("b", json!({}), json!({}))];
        let pod = |name: &str, priority, cpu: &str| wants(name, priority, cpu, json!({}));
        cluster(&nodes, &[("a", pod("a1", 5, "1")), ("a", pod("a2", 1, "1")), ("b", pod("b1", 3, "1")), ("b", pod("b2", 3, "1"))])
    }

    #[test]
    fn the_least_important_go_and_no_more_than_needed() {
        let scheduler = crate::default_scheduler(1).unwrap();
        match scheduler.schedule(&wants("p", 9, "1", json!({})), &full()) {
            Decision::Nominate { node, victims, .. } => {
                assert_eq!(&*node, "a");
                assert_eq!(victims.iter().filter_map(|v| v.metadata.name.as_deref()).collect::<Vec<_>>(), ["a2"]);
            }
            other => panic!("{other:?}"),
        }
        match scheduler.schedule(&wants("p", 4, "2", json!({})), &full()) {
            Decision::Nominate { node, victims, .. } => assert_eq!((&*node, victims.len()), ("b", 2)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nobody_goes_for_an_equal_or_a_peaceful_pod() {
        let scheduler = crate::default_scheduler(1).unwrap();
        for (pod, expected) in [
            (
                wants("p", 1, "1", json!({})),
                "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.",
            ),
            (
                wants("p", 9, "1", json!({"preemptionPolicy":"Never"})),
                "0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
            ),
            (
                wants("p", 9, "3", json!({})),
                "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
            ),
        ] {
            match scheduler.schedule(&pod, &full()) {
                Decision::Unschedulable(diagnosis) => assert_eq!(diagnosis.to_string(), expected),
                other => panic!("{other:?}"),
            }
        }
    }
}
