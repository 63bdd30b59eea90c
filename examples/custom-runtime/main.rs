//! How to write a runtime: plain processes of the host, beside another runtime on one node, chosen by RuntimeClass.
//!
//! `cargo run -p wharf-examples --example custom-runtime` runs a pod on it; `cargo test -p wharf-examples --example custom-runtime`
//! runs the runtime kit over it. docs/writing-a-runtime.md tells how it came to be.

#[cfg(test)]
mod conformance;
mod process_runtime;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{LogParams, PostParams};
use kube::runtime::wait::await_condition;
use process_runtime::ProcessRuntime;
use serde_json::json;
use wharf::runtime_hollow::HollowRuntime;
use wharf::{Cluster, NodeSpec};
use wharf_core::clock::SystemClock;

/// One node with two runtimes; what the pod of class `process` printed.
async fn story() -> Result<String, Box<dyn std::error::Error>> {
    let home = tempfile::tempdir()?;
    let processes = Arc::new(ProcessRuntime::new(SystemClock::shared()));
    // Pods without a class go to the runtime that the node is made with. It could be youki's: see docs/writing-a-runtime.md.
    let node = NodeSpec::new("worker", Arc::new(HollowRuntime::new()), home.path().join("root"), home.path().join("logs"));
    // Pods are given the API's certificate, which there is once it is served on an address.
    let builder = Cluster::builder().listen("127.0.0.1:0".parse()?);
    let cluster = builder.node(node.runtime_handler("process", processes)).start().await?;

    let classes: Api<RuntimeClass> = Api::all(cluster.client());
    let class = json!({"metadata": {"name": "process"}, "handler": "process"});
    classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;

    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let pod = json!({"metadata": {"name": "hello"}, "spec": {
        "runtimeClassName": "process", "hostNetwork": true, "restartPolicy": "Never",
        "containers": [{"name": "main", "image": "none", "command": ["/bin/echo", "hello from a process of the host"]}],
    }});
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let ended = |pod: Option<&Pod>| {
        let phase = pod.and_then(|p| p.status.as_ref()?.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    await_condition(pods.clone(), "hello", ended).await?;
    let log = pods.logs("hello", &LogParams::default()).await?;
    cluster.shutdown().await;
    Ok(log)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    print!("{}", story().await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_pod_of_the_class_runs_as_a_process() {
        assert_eq!(super::story().await.unwrap(), "hello from a process of the host\n");
    }
}
