//! Which nodes may be chosen at all.

use serde_json::json;
use wharf_core::scheduler::Decision;

use super::SchedulerHarness;
use super::kit::{ask, base, cluster, declared, label, node, pod, typed};
use crate::{CaseResult, ensure};

/// A pod that names its node goes nowhere else.
pub(super) async fn named(harness: &dyn SchedulerHarness) -> CaseResult {
    let now = cluster(&[node("a"), node("b"), node("c")], &[])?;
    base(harness).goes("it names b", &now, &pod(json!({"nodeName": "b"})), &["b"])?;
    base(harness).goes("it names a node that is not there", &now, &pod(json!({"nodeName": "z"})), &[])
}

/// A cordoned node takes only pods that tolerate that.
pub(super) async fn unschedulable(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, taints);
    let mut cordoned = node("a");
    cordoned["spec"] = json!({"unschedulable": true});
    let now = cluster(std::slice::from_ref(&cordoned), &[])?;
    rig.goes("a is cordoned", &now, &pod(json!({})), &[])?;
    rig.goes("b is not", &cluster(&[cordoned, node("b")], &[])?, &pod(json!({})), &["b"])?;
    let tolerant = pod(json!({"tolerations": [
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}
    ]}));
    rig.goes("it is tolerated", &now, &tolerant, &["a"])?;
    rig.end()
}

/// All labels of a `nodeSelector` must be there.
pub(super) async fn selector(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, node_affinity);
    let now = cluster(&[node("a"), label(node("b"), "disk", "ssd"), label(label(node("c"), "disk", "ssd"), "arch", "arm64")], &[])?;
    rig.goes("one label", &now, &pod(json!({"nodeSelector": {"disk": "ssd"}})), &["b", "c"])?;
    rig.goes("both labels", &now, &pod(json!({"nodeSelector": {"disk": "ssd", "arch": "arm64"}})), &["c"])?;
    rig.goes("another value", &now, &pod(json!({"nodeSelector": {"disk": "tape"}})), &[])?;
    rig.end()
}

/// A node that has gone is not remembered.
pub(super) async fn deleted_is_never_chosen(harness: &dyn SchedulerHarness) -> CaseResult {
    let scheduler = harness.scheduler(1);
    let mut now = cluster(&[node("a"), node("b"), node("c")], &[])?;
    let pod = typed(&pod(json!({})))?;
    for left in ["first", "second", "last"] {
        let Decision::Bind { node } = ask(&*scheduler, &pod, &now)? else {
            return crate::fail(format!("the {left} node was not found"));
        };
        now.remove_node(&node);
    }
    ensure!(matches!(ask(&*scheduler, &pod, &now)?, Decision::Unschedulable(_)), "no node is left");
    Ok(())
}

/// Without nodes every pod is unschedulable.
pub(super) async fn none(harness: &dyn SchedulerHarness) -> CaseResult {
    base(harness).goes("there is no node", &cluster(&[], &[])?, &pod(json!({})), &[])
}
