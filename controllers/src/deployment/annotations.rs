//! Annotations that carry revisions and sizes between Deployments and their ReplicaSets.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::limits::{limits, wanted};

/// The number of a template in the history of a Deployment.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of a ReplicaSet that was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// What the Deployment wanted when the ReplicaSet was last scaled.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// Wanted plus surge at that time.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Longest list of earlier numbers, in bytes.
const MAX_HISTORY: usize = 2000;

const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// An annotation as a number.
pub fn number(annotations: Option<&BTreeMap<String, String>>, name: &str) -> Option<i64> {
    annotations?.get(name)?.parse().ok()
}

/// The revision of a ReplicaSet; 0 when it has none.
pub fn revision(set: &ReplicaSet) -> i64 {
    number(set.metadata.annotations.as_ref(), REVISION).unwrap_or(0)
}

fn put(map: &mut BTreeMap<String, String>, name: &str, value: String) -> bool {
    if map.get(name) == Some(&value) {
        return false;
    }
    map.insert(name.into(), value);
    true
}

/// Sets the sizes; whether that changed anything.
pub fn set_sizes(set: &mut ReplicaSet, deployment: &Deployment) -> bool {
    let total = wanted(deployment);
    let most = total.saturating_add(limits(deployment).surge);
    let map = set.metadata.annotations.get_or_insert_default();
    let desired = put(map, DESIRED_REPLICAS, total.to_string());
    put(map, MAX_REPLICAS, most.to_string()) | desired
}

/// Copies the Deployment's own annotations and gives the current ReplicaSet its revision; whether that changed anything.
pub fn set_current(set: &mut ReplicaSet, deployment: &Deployment, new_revision: i64) -> bool {
    let map = set.metadata.annotations.get_or_insert_default();
    let mut changed = false;
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            changed |= put(map, name, value.clone());
        }
    }
    let old = map.get(REVISION).cloned();
    let old_number = old.as_deref().and_then(|r| r.parse::<i64>().ok()).unwrap_or(0);
    if old_number < new_revision {
        changed |= put(map, REVISION, new_revision.to_string());
        if let Some(old) = old.filter(|_| old_number > 0) {
            let mut history: Vec<&str> = map.get(REVISION_HISTORY).map(|h| h.split(',').collect()).unwrap_or_default();
            history.push(&old);
            while history.iter().map(|h| h.len() + 1).sum::<usize>() > MAX_HISTORY {
                history.remove(0);
            }
            let history = history.join(",");
            map.insert(REVISION_HISTORY.into(), history);
        }
    }
    changed
}
