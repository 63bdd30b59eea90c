//! The built-in controllers, run by core's driver in the API server's process and outside of it: nothing else changes.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_client::RemoteApi;
use wharf_core::api::{ApiExt, DeleteParams, Kind, Propagation, SharedApi};
use wharf_core::clock::SystemClock;
use wharf_core::controller::{Context, Driver, DriverOptions};
use wharf_core::events::EventRecorder;
use wharf_core::informer::{Informers, Reader};
use wharf_core::metrics::{ControllerMetrics, Metrics};
use wharf_core::object::ObjectRef;
use wharf_store_memory::MemoryStore;

/// After which a test is taken to hang.
const HANGS: Duration = Duration::from_secs(120);

fn typed<K: Kind>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// Waits until something holds for the objects of a kind.
async fn until<K: Kind>(what: &str, reader: &Reader<K>, holds: impl Fn(&[Arc<K>]) -> bool) -> Vec<Arc<K>> {
    let (_, mut changes) = reader.informer().subscribe();
    let wait = async {
        loop {
            let all = reader.list();
            if holds(&all) {
                return all;
            }
            // One that is told of too much looks again too.
            let _ = changes.recv().await;
        }
    };
    let Ok(all) = tokio::time::timeout(HANGS, wait).await else { panic!("never happened: {what}") };
    all
}

async fn a_deployment_becomes_pods(remote: bool) {
    let (clock, stop) = (SystemClock::shared(), CancellationToken::new());
    let server = ApiServer::builder(Arc::new(MemoryStore::default()), clock.clone()).stop(stop.clone()).build().await.unwrap();
    server.ready().await;
    let manager = User::master("system:kube-controller-manager");
    // This is all the difference.
    let api: SharedApi =
        if remote { Arc::new(RemoteApi::new(server.kube_client(manager, "default"), clock.clone())) } else { server.local(manager) };
    let context = Context {
        informers: Informers::new(api.clone(), clock.clone(), stop.clone()),
        events: EventRecorder::new(api.clone(), clock.clone(), "test", ""),
        api,
        clock: clock.clone(),
    };
    let driver = Driver::new(context, ControllerMetrics::new(&Metrics::default()), DriverOptions::default());
    for controller in wharf_controllers::all() {
        let (driver, stop) = (driver.clone(), stop.clone());
        tokio::spawn(async move { driver.run(controller, stop).await });
    }

    let user = server.local(User::master("admin"));
    let seen = Informers::new(user.clone(), clock, stop.clone());
    let (deployments, sets, pods) = (seen.of::<Deployment>(), seen.of::<ReplicaSet>(), seen.of::<Pod>());
    user.create(&typed::<Namespace>(json!({"metadata": {"name": "ns"}}))).await.unwrap();
    let web = typed::<Deployment>(json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"replicas": 3,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}));
    let web = user.create(&web).await.unwrap();

    let counted = |d: &Deployment| d.status.as_ref().is_some_and(|s| s.replicas == Some(3) && s.observed_generation == Some(1));
    until("a status that counts three", &deployments, |all| all.iter().any(|d| counted(d))).await;
    let set = until("one ReplicaSet", &sets, |all| all.len() == 1).await.remove(0);
    let three = until("three pods", &pods, |all| all.len() == 3).await;
    let owner = |metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
        metadata.owner_references.as_ref().unwrap().iter().find(|o| o.controller == Some(true)).unwrap().uid.clone()
    };
    assert_eq!(owner(&set.metadata), web.metadata.uid.clone().unwrap());
    assert_eq!(three.iter().map(|p| owner(&p.metadata)).collect::<BTreeSet<_>>(), BTreeSet::from([set.metadata.uid.clone().unwrap()]));

    // What the garbage collector reads and deletes crosses the seam as well.
    let params = DeleteParams { propagation: Some(Propagation::Background), ..DeleteParams::default() };
    user.delete::<Deployment>(&ObjectRef::new("ns", "web"), params).await.unwrap();
    until("no ReplicaSet", &sets, <[_]>::is_empty).await;
    until("no pods", &pods, <[_]>::is_empty).await;
    stop.cancel();
}

#[tokio::test]
async fn in_the_process_a_deployment_becomes_pods() {
    a_deployment_becomes_pods(false).await;
}

#[tokio::test]
async fn outside_of_it_a_deployment_becomes_pods() {
    a_deployment_becomes_pods(true).await;
}
