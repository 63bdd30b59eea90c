//! Small clusters for tests.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wharf_core::scheduler::{Decision, PodInfo, Scheduler, Snapshot};
use wharf_scheduler_framework::{FrameworkScheduler, Profile};

/// A node of 2 cores, 4Gi and 10 pods, labelled with its name.
pub(crate) fn node(name: &str, labels: Value, spec: Value) -> Arc<Node> {
    let mut labels = labels;
    labels["kubernetes.io/hostname"] = json!(name);
    let status = json!({"allocatable":{"cpu":"2","memory":"4Gi","pods":"10"}});
    Arc::new(serde_json::from_value(json!({"metadata":{"name":name,"labels":labels},"spec":spec,"status":status})).unwrap())
}

/// A pod in the namespace `ns`.
pub(crate) fn pod(name: &str, metadata: Value, spec: Value) -> Arc<Pod> {
    let (mut metadata, mut spec) = (metadata, spec);
    metadata["name"] = json!(name);
    if metadata.get("namespace").is_none() {
        metadata["namespace"] = json!("ns");
    }
    if spec.get("containers").is_none() {
        spec["containers"] = json!([]);
    }
    Arc::new(serde_json::from_value(json!({"metadata":metadata,"spec":spec})).unwrap())
}

/// Nodes with pods on them.
pub(crate) fn cluster(nodes: &[Arc<Node>], pods: &[(&str, Arc<Pod>)]) -> Snapshot {
    let mut snapshot = Snapshot::new(nodes.iter().cloned(), []);
    for (node, pod) in pods {
        assert!(snapshot.add_pod(node, Arc::new(PodInfo::new(pod.clone()))));
    }
    snapshot
}

/// What one plugin alone says: the node's name, or the reasons by node.
pub(crate) fn alone(plugin: &str, pod: &Arc<Pod>, snapshot: &Snapshot) -> Result<String, Vec<(String, String, bool)>> {
    let profile = Profile::builder().plugin(plugin).build(&crate::registry()).unwrap();
    match FrameworkScheduler::new(Arc::new(profile), 1).schedule(pod, snapshot) {
        Decision::Bind { node } => Ok(node.to_string()),
        Decision::Unschedulable(d) => Err(d.refusals.iter().map(|(n, r)| (n.to_string(), r.reasons.join(", "), r.resolvable)).collect()),
        other => panic!("{other:?}"),
    }
}

/// Whether a single node called `n` takes the pod; the reason if not.
pub(crate) fn single(plugin: &str, pod: &Arc<Pod>, snapshot: &Snapshot) -> Result<(), (String, bool)> {
    alone(plugin, pod, snapshot).map(|_| ()).map_err(|mut all| {
        let (_, reason, resolvable) = all.remove(0);
        (reason, resolvable)
    })
}
