//! What to do about a ReplicaSet: a function of what was read.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use wharf_core::selector::Selector;

use crate::pods;

/// Most pods created or deleted in one go.
pub const BURST: usize = 500;
/// Annotation: lower goes first when scaling down.
pub const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// What to change.
#[derive(Debug, Clone)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Create this many pods.
    Create(usize),
    /// Delete these.
    Delete(Vec<Arc<Pod>>),
}

/// The wanted number of pods.
pub fn wanted(set: &ReplicaSet) -> usize {
    usize::try_from(set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)).unwrap_or(0)
}

/// Decides. `pods` are the claimed ones, `going` the uids whose deletion was asked for but is not yet seen, `related`
/// the pods of ReplicaSets of the same Deployment.
pub fn decide(set: &ReplicaSet, pods: &[Arc<Pod>], going: &HashSet<String>, related: &[Arc<Pod>]) -> Step {
    if set.metadata.deletion_timestamp.is_some() {
        return Step::Nothing;
    }
    let mut active: Vec<&Arc<Pod>> = pods.iter().filter(|p| is_counted(p, going)).collect();
    let wanted = wanted(set);
    if active.len() < wanted {
        return Step::Create((wanted - active.len()).min(BURST));
    }
    if active.len() == wanted {
        return Step::Nothing;
    }
    let excess = (active.len() - wanted).min(BURST);
    let mut on_node: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|p| pods::is_active(p)) {
        *on_node.entry(node(pod)).or_default() += 1;
    }
    active.sort_by_cached_key(|pod| rank(pod, on_node.get(node(pod)).copied().unwrap_or(0)));
    Step::Delete(active.into_iter().take(excess).cloned().collect())
}

fn is_counted(pod: &Pod, going: &HashSet<String>) -> bool {
    pods::is_active(pod) && !pod.metadata.uid.as_ref().is_some_and(|uid| going.contains(uid))
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// The order in which pods go: the least comes first.
fn rank(pod: &Pod, related_on_node: usize) -> impl Ord + use<> {
    let assigned = !node(pod).is_empty();
    let phase = match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost: i64 = pod.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST)?.parse().ok()).unwrap_or(0);
    let ready = pods::is_ready(pod);
    let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    (
        assigned,
        phase,
        ready,
        cost,
        Reverse(related_on_node),
        Reverse(pods::ready_since(pod)),
        Reverse(pods::most_restarts(pod)),
        Reverse(created),
        // A last word, so that the order is total and the same every time.
        pod.metadata.name.clone(),
    )
}

/// The status that the pods show, and when another pod will have been ready for long enough.
pub fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<(&'static str, String)>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.as_ref();
    let min_ready = spec.and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let labels = spec.and_then(|s| s.template.as_ref()?.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let template = Selector::from_map(&labels);
    let (mut replicas, mut labelled, mut ready, mut available, mut terminating) = (0, 0, 0, 0, 0);
    let mut soonest: Option<Duration> = None;
    for pod in pods.iter().filter(|p| !pods::is_finished(p)) {
        if pods::is_terminating(pod) {
            terminating += 1;
            continue;
        }
        replicas += 1;
        labelled += i32::from(template.matches_opt(pod.metadata.labels.as_ref()));
        ready += i32::from(pods::is_ready(pod));
        match pods::available_in(pod, min_ready, now) {
            Some(Duration::ZERO) => available += 1,
            Some(left) => soonest = Some(soonest.map_or(left, |s| s.min(left))),
            None => {}
        }
    }
    let mut conditions = set.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    match failure {
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        Some((reason, message)) => {
            if !conditions.iter().any(|c| c.type_ == "ReplicaFailure" && c.reason.as_deref() == Some(reason)) {
                conditions.retain(|c| c.type_ != "ReplicaFailure");
                conditions.push(ReplicaSetCondition {
                    type_: "ReplicaFailure".into(),
                    status: "True".into(),
                    reason: Some(reason.into()),
                    message: Some(message),
                    last_transition_time: Some(Time(now)),
                });
            }
        }
    }
    let count = |n: i32| (n != 0).then_some(n);
    let status = ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: count(labelled),
        ready_replicas: count(ready),
        available_replicas: count(available),
        terminating_replicas: count(terminating),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    };
    (status, soonest)
}
