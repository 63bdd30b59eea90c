//! What the cases share: small clusters, and a scheduler under several seeds.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wharf_core::scheduler::{Decision, Diagnosis, Scheduler, Snapshot};

use super::{SchedulerCapabilities, SchedulerHarness};
use crate::{CaseResult, Stop, ensure, fail, skip};

/// Each question is asked under so many seeds: who ignores something may be right by chance, but not so often.
const SEEDS: std::ops::Range<u64> = 0..16;

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";

/// A node of 2 cores, 4Gi and 10 pods, labelled with its name.
pub(super) fn node(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {HOSTNAME: name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "10"}},
    })
}

/// The node with one more label.
pub(super) fn label(mut node: Value, key: &str, value: &str) -> Value {
    node["metadata"]["labels"][key] = json!(value);
    node
}

/// A node in a zone.
pub(super) fn in_zone(name: &str, zone: &str) -> Value {
    label(node(name), ZONE, zone)
}

/// The node with another amount of something.
pub(super) fn having(mut node: Value, resource: &str, amount: &str) -> Value {
    node["status"]["allocatable"][resource] = json!(amount);
    node
}

/// The node with a taint.
pub(super) fn tainted(mut node: Value, key: &str, value: &str, effect: &str) -> Value {
    node["spec"]["taints"] = json!([{"key": key, "value": value, "effect": effect}]);
    node
}

/// A pod called `p` of one container that requests nothing, with these fields of its spec.
pub(super) fn pod(spec: Value) -> Value {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    json!({"metadata": {"name": "p", "namespace": "ns", "uid": "p"}, "spec": spec})
}

/// A pod that requests something.
pub(super) fn requesting(requests: Value) -> Value {
    pod(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}))
}

/// The pod under another name.
pub(super) fn named(name: &str, mut pod: Value) -> Value {
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["uid"] = json!(name);
    pod
}

/// The pod with an `app` label.
pub(super) fn app(app: &str, mut pod: Value) -> Value {
    pod["metadata"]["labels"] = json!({"app": app});
    pod
}

/// The pod in another namespace.
pub(super) fn in_namespace(namespace: &str, mut pod: Value) -> Value {
    pod["metadata"]["namespace"] = json!(namespace);
    pod
}

/// The pod on a node.
pub(super) fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = json!(node);
    pod
}

fn decode<T: serde::de::DeserializeOwned>(value: &Value) -> CaseResult<Arc<T>> {
    serde_json::from_value(value.clone()).map(Arc::new).map_err(|e| Stop::Fail(format!("the kit made a wrong object: {e}")))
}

pub(super) fn typed(pod: &Value) -> CaseResult<Arc<Pod>> {
    decode(pod)
}

/// A cluster.
pub(super) fn cluster(nodes: &[Value], pods: &[Value]) -> CaseResult<Snapshot> {
    let nodes = nodes.iter().map(decode::<Node>).collect::<CaseResult<Vec<_>>>()?;
    let pods = pods.iter().map(decode::<Pod>).collect::<CaseResult<Vec<_>>>()?;
    Ok(Snapshot::new(nodes, pods))
}

/// Asks, and checks what holds of every answer: a node that is named exists, and victims are on it.
pub(super) fn ask(scheduler: &dyn Scheduler, pod: &Arc<Pod>, snapshot: &Snapshot) -> CaseResult<Decision> {
    let decision = scheduler.schedule(pod, snapshot);
    match &decision {
        Decision::Bind { node } => ensure!(snapshot.get(node).is_some(), "bound to {node}, which is not in the snapshot"),
        Decision::Nominate { node, victims, .. } => {
            let Some(info) = snapshot.get(node) else { return fail(format!("nominated {node}, which is not in the snapshot")) };
            for victim in victims {
                let there = info.pods.iter().any(|p| p.pod.metadata.uid == victim.metadata.uid);
                ensure!(there, "a victim is not on {node}: {:?}", victim.metadata.name);
            }
        }
        _ => {}
    }
    Ok(decision)
}

/// A harness, and whether it declares what a case is about.
pub(super) struct Rig<'a> {
    harness: &'a dyn SchedulerHarness,
    undeclared: Option<&'static str>,
}

/// For what every scheduler must do.
pub(super) fn base(harness: &dyn SchedulerHarness) -> Rig<'_> {
    Rig { harness, undeclared: None }
}

/// For what a scheduler must do if it declares it; otherwise it may refuse and fail, but not ignore.
macro_rules! declared {
    ($harness:expr, $capability:ident) => {
        $crate::scheduler::kit::rig($harness, stringify!($capability), |c| c.$capability)
    };
}
pub(super) use declared;

/// Ends a case about a preference that is not declared: it may be ignored.
macro_rules! needs {
    ($harness:expr, $capability:ident) => {
        if !$harness.capabilities().$capability {
            return $crate::skip(concat!("the scheduler does not declare ", stringify!($capability)));
        }
    };
}
pub(super) use needs;

pub(super) fn rig<'a>(harness: &'a dyn SchedulerHarness, name: &'static str, has: impl Fn(SchedulerCapabilities) -> bool) -> Rig<'a> {
    Rig { harness, undeclared: (!has(harness.capabilities())).then_some(name) }
}

impl Rig<'_> {
    /// The pod must go to one of these nodes; to none if there is none in the list.
    pub(super) fn goes(&self, why: &str, snapshot: &Snapshot, pod: &Value, to: &[&str]) -> CaseResult {
        let pod = typed(pod)?;
        for seed in SEEDS {
            let decision = ask(&*self.harness.scheduler(seed), &pod, snapshot)?;
            match (&decision, self.undeclared) {
                (Decision::Bind { node }, _) if to.contains(&&**node) => {}
                (Decision::Unschedulable(_), None) if to.is_empty() => {}
                (Decision::Unschedulable(_) | Decision::Failed { .. } | Decision::Wait { .. }, Some(_)) => {}
                _ => return fail(format!("{why}: expected one of {to:?}, got {decision:?}")),
            }
        }
        Ok(())
    }

    /// A pod with something of which the scheduler knows nothing was seen not to be placed wrongly; the rest is left out.
    pub(super) fn end(self) -> CaseResult {
        match self.undeclared {
            None => Ok(()),
            Some(name) => skip(format!("the scheduler does not declare {name}; it ignored nothing of it")),
        }
    }
}

/// Why the pod fits nowhere.
pub(super) fn diagnosis(harness: &dyn SchedulerHarness, snapshot: &Snapshot, pod: &Value) -> CaseResult<Diagnosis> {
    match ask(&*harness.scheduler(1), &typed(pod)?, snapshot)? {
        Decision::Unschedulable(diagnosis) => Ok(*diagnosis),
        other => fail(format!("the pod fits nowhere, but: {other:?}")),
    }
}
