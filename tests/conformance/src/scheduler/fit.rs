//! Room on a node.

use serde_json::json;

use super::SchedulerHarness;
use super::kit::{base, cluster, declared, having, named, node, on, pod, requesting};
use crate::CaseResult;

/// A node is full when the requests of its pods leave too little CPU.
pub(super) async fn cpu(harness: &dyn SchedulerHarness) -> CaseResult {
    let nodes = [node("a"), node("b")];
    let full = on("a", named("x", requesting(json!({"cpu": "1500m"}))));
    let rig = base(harness);
    let now = cluster(&nodes, &[full])?;
    rig.goes("only b has a core left", &now, &requesting(json!({"cpu": "1"})), &["b"])?;
    rig.goes("both have half a core", &now, &requesting(json!({"cpu": "500m"})), &["a", "b"])?;
    rig.goes("none has three", &now, &requesting(json!({"cpu": "3"})), &[])
}

/// Limits and usage count for nothing where there is a request.
pub(super) async fn memory_requests_only(harness: &dyn SchedulerHarness) -> CaseResult {
    let limited = json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "100Gi"}}}]});
    let rig = base(harness);
    let now = cluster(&[node("a")], &[on("a", named("x", pod(limited.clone()))), on("a", named("y", pod(limited.clone())))])?;
    rig.goes("2Gi are left, whatever the limits", &now, &pod(limited), &["a"])?;
    rig.goes("3Gi are not", &now, &requesting(json!({"memory": "3Gi"})), &[])
}

/// A node takes as many pods as it says, the last one included.
pub(super) async fn pod_count(harness: &dyn SchedulerHarness) -> CaseResult {
    let small = having(node("a"), "pods", "2");
    let rig = base(harness);
    let one = on("a", named("x", pod(json!({}))));
    let two = on("a", named("y", pod(json!({}))));
    rig.goes("one of two", &cluster(std::slice::from_ref(&small), std::slice::from_ref(&one))?, &pod(json!({})), &["a"])?;
    rig.goes("two of two", &cluster(&[small], &[one, two])?, &pod(json!({})), &[])
}

/// A pod that takes exactly what is left fits; one unit more does not.
pub(super) async fn exactly(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = base(harness);
    let now = cluster(&[node("a")], &[on("a", named("x", requesting(json!({"cpu": "1", "memory": "1Gi"}))))])?;
    rig.goes("exactly the rest", &now, &requesting(json!({"cpu": "1", "memory": "3Gi"})), &["a"])?;
    rig.goes("a thousandth more", &now, &requesting(json!({"cpu": "1001m"})), &[])?;
    rig.goes("a byte more", &now, &requesting(json!({"memory": "3221225473"})), &[])
}

/// A pod without requests fits on a node without CPU and memory to spare.
pub(super) async fn nothing_requested(harness: &dyn SchedulerHarness) -> CaseResult {
    let full = on("a", named("x", requesting(json!({"cpu": "2", "memory": "4Gi"}))));
    base(harness).goes("it asks for nothing", &cluster(&[node("a")], &[full])?, &pod(json!({})), &["a"])
}

/// Ephemeral storage and extended resources are held to as CPU is; a node that lacks the resource has none of it.
pub(super) async fn ephemeral_and_extended(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = declared!(harness, extended_resources);
    let rich = having(having(node("b"), "example.com/gpu", "2"), "ephemeral-storage", "10Gi");
    let nodes = [node("a"), rich];
    let taken = on("b", named("x", requesting(json!({"example.com/gpu": "1", "ephemeral-storage": "6Gi"}))));
    let now = cluster(&nodes, &[taken])?;
    rig.goes("one is left on b", &now, &requesting(json!({"example.com/gpu": "1"})), &["b"])?;
    rig.goes("two are not", &now, &requesting(json!({"example.com/gpu": "2"})), &[])?;
    rig.goes("storage is left on b", &now, &requesting(json!({"ephemeral-storage": "4Gi"})), &["b"])?;
    rig.goes("not that much", &now, &requesting(json!({"ephemeral-storage": "5Gi"})), &[])?;
    rig.end()
}

/// Init containers run one after the other: the largest counts, if it is more than the containers together.
pub(super) async fn init_containers(harness: &dyn SchedulerHarness) -> CaseResult {
    let init = |first: &str, second: &str| {
        pod(json!({
            "initContainers": [
                {"name": "i", "resources": {"requests": {"cpu": first}}}, {"name": "j", "resources": {"requests": {"cpu": second}}},
            ],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
        }))
    };
    let (rig, now) = (base(harness), cluster(&[node("a")], &[])?);
    rig.goes("1.5 and then 2, not together", &now, &init("1500m", "2"), &["a"])?;
    rig.goes("the largest is too much", &now, &init("2500m", "100m"), &[])
}

/// A sidecar counts beside the containers.
pub(super) async fn sidecars(harness: &dyn SchedulerHarness) -> CaseResult {
    let beside = |cpu: &str| {
        pod(json!({
            "initContainers": [{"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}}],
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
        }))
    };
    let (rig, now) = (base(harness), cluster(&[node("a")], &[])?);
    rig.goes("together two cores", &now, &beside("1"), &["a"])?;
    rig.goes("together more", &now, &beside("1100m"), &[])
}

/// A pod's overhead counts on top.
pub(super) async fn overhead(harness: &dyn SchedulerHarness) -> CaseResult {
    let with =
        |cpu: &str| pod(json!({"overhead": {"cpu": cpu}, "containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}));
    let (rig, now) = (base(harness), cluster(&[node("a")], &[])?);
    rig.goes("together two cores", &now, &with("500m"), &["a"])?;
    rig.goes("together more", &now, &with("600m"), &[])
}

/// A pod that the caller put into the snapshot counts before anybody confirmed its binding.
pub(super) async fn assumed_pods_count(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = base(harness);
    let mut now = cluster(&[node("a"), node("b")], &[])?;
    let big = requesting(json!({"cpu": "1500m"}));
    let assumed = super::kit::typed(&named("x", big.clone()))?;
    now.add_pod("a", std::sync::Arc::new(wharf_core::scheduler::PodInfo::new(assumed)));
    rig.goes("a is spoken for", &now, &big, &["b"])
}

/// A pod that has ended takes nothing.
pub(super) async fn terminated_pods_do_not(harness: &dyn SchedulerHarness) -> CaseResult {
    let rig = base(harness);
    for phase in ["Succeeded", "Failed"] {
        let mut ended = on("a", named("x", requesting(json!({"cpu": "2"}))));
        ended["status"] = json!({"phase": phase});
        rig.goes(phase, &cluster(&[node("a")], &[ended])?, &requesting(json!({"cpu": "2"})), &["a"])?;
    }
    Ok(())
}
