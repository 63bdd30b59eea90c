//! A cluster inside a test, and a controller written with kube-rs's own runtime against it.
//!
//! `cargo run -p wharf-examples --example embed` runs it; `cargo test -p wharf-examples --example embed` runs the test.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// What a team would have in production, unchanged: it greets every ConfigMap that asks for it.
async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let Some(name) = map.data.as_ref().and_then(|data| data.get("greet")) else { return Ok(Action::await_change()) };
    let maps: Api<ConfigMap> = Api::namespaced((*client).clone(), &map.namespace().unwrap_or_default());
    let patch = json!({"data": {"greeting": format!("Good day, {name}.")}});
    maps.patch(&map.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(Action::await_change())
}

async fn run_controller(client: Client) {
    let maps: Api<ConfigMap> = Api::all(client.clone());
    let again = |_: Arc<ConfigMap>, _: &kube::Error, _: Arc<Client>| Action::requeue(Duration::from_secs(1));
    Controller::new(maps, watcher::Config::default()).run(reconcile, again, Arc::new(client)).for_each(|_| std::future::ready(())).await;
}

async fn story() -> Result<String, Box<dyn std::error::Error>> {
    let cluster = wharf::Cluster::builder().start().await?;
    let controller = tokio::spawn(run_controller(cluster.client()));

    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client());
    let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "hello"}, "data": {"greet": "embedder"}}))?;
    maps.create(&PostParams::default(), &map).await?;
    let greeted = |map: Option<&ConfigMap>| map.and_then(|m| m.data.as_ref()).is_some_and(|data| data.contains_key("greeting"));
    let map = kube::runtime::wait::await_condition(maps, "hello", greeted).await?;

    controller.abort();
    cluster.shutdown().await;
    Ok(map.and_then(|m| m.data).and_then(|mut data| data.remove("greeting")).unwrap_or_default())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("{}", story().await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use kube::Api;

    // Fifteen lines are enough for a cluster in a test.
    #[tokio::test]
    async fn a_cluster_in_a_test() {
        let cluster = wharf::Cluster::builder().start().await.unwrap();
        let namespaces: Api<Namespace> = Api::all(cluster.client());
        assert!(namespaces.get("default").await.is_ok());
        cluster.shutdown().await;
    }

    #[tokio::test]
    async fn a_controller_of_kube_rs_runs_unchanged() {
        assert_eq!(super::story().await.unwrap(), "Good day, embedder.");
    }
}
