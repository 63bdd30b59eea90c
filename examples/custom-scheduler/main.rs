//! A scheduler plugin of one's own, beside Kubernetes' in one profile: pods go to where their data is.
//!
//! A pod says in an annotation which data set it reads; nodes say in labels which they hold: `local` on their own disks,
//! `cached` in part. Pods prefer such nodes, and a pod that insists runs nowhere else.
//!
//! `cargo run -p wharf-examples --example custom-scheduler`; `cargo test -p wharf-examples --example custom-scheduler`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use serde_json::json;
use wharf::core::scheduler::{NodeInfo, PodInfo};
use wharf::runtime_hollow::HollowRuntime;
use wharf::scheduler_framework::{CycleState, Filter, MAX_SCORE, Plugin, Profile, ProfileError, Registration, Rejection, Score};
use wharf::{Cluster, NodeSpec, scheduler_plugins};

/// On a pod: the data set that it reads.
const READS: &str = "data.example.com/reads";
/// On a pod: `required` if it must not read over the network.
const LOCALITY: &str = "data.example.com/locality";
/// On a node, followed by the name of a data set: `local` or `cached`.
const HOLDS: &str = "holds.data.example.com/";

/// Takes part in Filter and Score. A plugin holds configuration and no state: each call is a function of what it is given.
#[derive(Debug)]
struct DataLocality;

impl Plugin for DataLocality {
    fn name(&self) -> &'static str {
        "DataLocality"
    }
}

fn annotation<'a>(pod: &'a PodInfo, key: &str) -> Option<&'a str> {
    pod.pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// How good a node is for a pod's data, from 0 to [`MAX_SCORE`].
fn nearness(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let held = annotation(pod, READS).and_then(|data| node.label(&format!("{HOLDS}{data}")));
    match held {
        Some("local") => MAX_SCORE,
        Some("cached") => MAX_SCORE / 2,
        _ => 0,
    }
}

impl Filter for DataLocality {
    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        if annotation(pod, LOCALITY) == Some("required") && nearness(pod, node) == 0 {
            // Unresolvable: no pod has to make room, the data is not there.
            return Err(Rejection::unresolvable("node(s) didn't hold the pod's data"));
        }
        Ok(())
    }
}

impl Score for DataLocality {
    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<i64, Rejection> {
        Ok(nearness(pod, node))
    }
    fn normalize(&self, _: &CycleState, _: &PodInfo, _: &[Arc<NodeInfo>], _: &mut [i64]) -> Result<(), Rejection> {
        // In range already.
        Ok(())
    }
}

/// Kubernetes' default profile and DataLocality, which counts as much as its heaviest plugins together.
fn profile() -> Result<Profile, ProfileError> {
    let registry = scheduler_plugins::registry().register(Registration::new(DataLocality).filter().score().points());
    scheduler_plugins::default_profile().weighted("DataLocality", 10).build(&registry)
}

async fn cluster() -> Result<Cluster, Box<dyn std::error::Error>> {
    let node = |name: &str| NodeSpec::hollow(name, Arc::new(HollowRuntime::new()));
    let cluster = Cluster::builder()
        .scheduler_profile(profile()?)
        .node(node("archive").labels([("holds.data.example.com/genome", "local")]))
        .node(node("edge").labels([("holds.data.example.com/genome", "cached")]))
        .node(node("plain"))
        .start()
        .await?;
    Ok(cluster)
}

/// Creates a pod and waits until the scheduler has spoken: the node's name, or why there is none.
async fn place(cluster: &Cluster, name: &str, annotations: &[(&str, &str)]) -> Result<String, Box<dyn std::error::Error>> {
    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let annotations: BTreeMap<_, _> = annotations.iter().copied().collect();
    let pod = json!({"metadata": {"name": name, "annotations": annotations}, "spec": {"containers": [{"name": "c", "image": "x:1"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let verdict = |pod: &Pod| {
        let bound = pod.spec.as_ref().and_then(|s| s.node_name.clone());
        bound.or_else(|| {
            let conditions = pod.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?.message.clone()
        })
    };
    let pod = await_condition(pods, name, |pod: Option<&Pod>| pod.is_some_and(|p| verdict(p).is_some())).await?;
    Ok(pod.as_ref().and_then(verdict).unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cluster = cluster().await?;
    println!("reads genome: {}", place(&cluster, "reader", &[(READS, "genome")]).await?);
    println!("needs weather: {}", place(&cluster, "forecast", &[(READS, "weather"), (LOCALITY, "required")]).await?);
    cluster.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use wharf::core::scheduler::{Decision, Scheduler, Snapshot};
    use wharf::scheduler_framework::FrameworkScheduler;

    use super::*;

    // A scheduler is a function: no cluster, no clock, no waiting.
    #[test]
    fn as_a_function() {
        let node = |name: &str, holds: &str| -> Arc<Node> {
            let labels = json!({"holds.data.example.com/genome": holds});
            let amounts = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
            let node = json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": amounts}});
            Arc::new(serde_json::from_value(node).unwrap())
        };
        let snapshot = Snapshot::new([node("a", "cached"), node("b", "local"), node("c", "")], []);
        let pod = |annotations: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p", "annotations": annotations}, "spec": {"containers": [{"name": "c"}]}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        for seed in 0..20 {
            let scheduler = FrameworkScheduler::new(Arc::new(profile().unwrap()), seed);
            let decision = scheduler.schedule(&pod(json!({READS: "genome"})), &snapshot);
            assert!(matches!(&decision, Decision::Bind { node } if **node == *"b"), "{decision:?}");
            let nowhere = scheduler.schedule(&pod(json!({READS: "weather", LOCALITY: "required"})), &snapshot);
            assert!(matches!(nowhere, Decision::Unschedulable(_)), "{nowhere:?}");
        }
    }

    #[tokio::test]
    async fn in_a_cluster() {
        let cluster = cluster().await.unwrap();
        assert_eq!(place(&cluster, "reader", &[(READS, "genome")]).await.unwrap(), "archive");
        let why = place(&cluster, "forecast", &[(READS, "weather"), (LOCALITY, "required")]).await.unwrap();
        assert!(why.contains("node(s) didn't hold the pod's data"), "{why}");
        cluster.shutdown().await;
    }
}
