//! The status of a Deployment, computed from its ReplicaSets.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::limits::{limits, wanted};

/// Condition: enough pods are available.
pub const AVAILABLE: &str = "Available";
/// Condition: the rollout moves or is done.
pub const PROGRESSING: &str = "Progressing";
/// Condition: pods cannot be made.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";
/// Reason: the rollout is done.
pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
/// Reason: it did not move for too long.
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// Reason: somebody paused it.
pub const PAUSED: &str = "DeploymentPaused";

/// A condition of a status by its type.
pub fn condition<'a>(status: &'a DeploymentStatus, name: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_deref()?.iter().find(|c| c.type_ == name)
}

/// Sets a condition unless it says so already; `touch` renews it all the same.
pub fn set_condition(status: &mut DeploymentStatus, name: &str, value: &str, reason: &str, message: String, now: Timestamp, touch: bool) {
    let current = condition(status, name);
    if !touch && current.is_some_and(|c| c.status == value && c.reason.as_deref() == Some(reason)) {
        return;
    }
    let kept = current.filter(|c| c.status == value).and_then(|c| c.last_transition_time.clone());
    let fresh = DeploymentCondition {
        type_: name.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(kept.unwrap_or(Time(now))),
    };
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != name);
    conditions.push(fresh);
}

fn remove_condition(status: &mut DeploymentStatus, name: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != name);
    }
}

/// The progress deadline, if there is one.
pub fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds.unwrap_or(600);
    if seconds == i32::MAX { None } else { Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))) }
}

fn sum(sets: &[&ReplicaSet], of: impl Fn(&ReplicaSet) -> Option<i32>) -> i32 {
    sets.iter().filter_map(|s| of(s)).fold(0, i32::saturating_add)
}

/// Counts and the Available condition.
pub fn counts(deployment: &Deployment, sets: &[&ReplicaSet], current: Option<&ReplicaSet>, now: Timestamp) -> DeploymentStatus {
    let total = sum(sets, |s| s.spec.as_ref().and_then(|s| s.replicas));
    let available = sum(sets, |s| s.status.as_ref().and_then(|s| s.available_replicas));
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: count(sum(sets, |s| s.status.as_ref().map(|s| s.replicas))),
        updated_replicas: count(current.and_then(|s| s.status.as_ref()).map_or(0, |s| s.replicas)),
        ready_replicas: count(sum(sets, |s| s.status.as_ref().and_then(|s| s.ready_replicas))),
        available_replicas: count(available),
        unavailable_replicas: count((total - available).max(0)),
        terminating_replicas: count(sum(sets, |s| s.status.as_ref().and_then(|s| s.terminating_replicas))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    };
    let (value, reason, message) = if available >= wanted(deployment) - limits(deployment).unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, AVAILABLE, value, reason, message.into(), now, false);
    status
}

fn count(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

/// Whether the rollout is done.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = wanted(deployment);
    [status.updated_replicas, status.replicas, status.available_replicas].iter().all(|n| n.unwrap_or(0) == wanted)
        && status.observed_generation >= deployment.metadata.generation
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |value: Option<i32>| value.unwrap_or(0);
    n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn left(condition: &DeploymentCondition, deadline: Duration, now: Timestamp) -> Option<Duration> {
    let since = condition.last_update_time.as_ref()?.0;
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(deadline.saturating_sub(passed))
}

/// Progressing and ReplicaFailure, and when to look at the deadline again. `status` has the counts already.
pub fn progress(
    deployment: &Deployment,
    status: &mut DeploymentStatus,
    sets: &[&ReplicaSet],
    current: Option<&ReplicaSet>,
    now: Timestamp,
) -> Option<Duration> {
    let old = deployment.status.clone().unwrap_or_default();
    let subject = match current.and_then(|s| s.metadata.name.as_deref()) {
        Some(name) => format!("ReplicaSet \"{name}\""),
        None => format!("Deployment \"{}\"", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    let known = condition(status, PROGRESSING).cloned();
    let known_done = known.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    let done = known_done && status.replicas == status.updated_replicas;
    let mut requeue = None;
    match deadline(deployment) {
        None => remove_condition(status, PROGRESSING),
        Some(_) if done => {}
        Some(deadline) => {
            if is_complete(deployment, status) {
                let message = format!("{subject} has successfully progressed.");
                set_condition(status, PROGRESSING, "True", NEW_SET_AVAILABLE, message, now, false);
            } else if has_progressed(&old, status) {
                set_condition(status, PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now, true);
                requeue = Some(deadline);
            } else if let Some(known) = known.filter(|c| c.reason.as_deref() != Some(NEW_SET_AVAILABLE)) {
                let late = known.reason.as_deref() == Some(TIMED_OUT);
                match left(&known, deadline, now).filter(|left| !late && !left.is_zero()) {
                    Some(left) => requeue = Some(left),
                    None => {
                        let message = format!("{subject} has timed out progressing.");
                        set_condition(status, PROGRESSING, "False", TIMED_OUT, message, now, false);
                    }
                }
            }
        }
    }
    let failure = current
        .into_iter()
        .chain(sets.iter().copied())
        .find_map(|s| s.status.as_ref()?.conditions.as_deref()?.iter().find(|c| c.type_ == REPLICA_FAILURE));
    match failure {
        Some(c) => {
            let (reason, message) = (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default());
            set_condition(status, REPLICA_FAILURE, &c.status, &reason, message, now, false);
        }
        None => remove_condition(status, REPLICA_FAILURE),
    }
    requeue
}
