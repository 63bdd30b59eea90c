//! The controllers together, over an API server's rules in memory.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use wharf_controllers::replicaset::ReplicaSetController;
use wharf_controllers::serviceaccount::RootCaPublisher;
use wharf_core::api::{ApiExt, DeleteParams, Kind, PatchKind, Propagation};
use wharf_core::clock::{ManualClock, SystemClock};
use wharf_core::object::ObjectRef;

use support::{FakeApi, Running, pretend_pods, run};

fn typed<K: Kind>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn web() -> ObjectRef {
    ObjectRef::new("ns", "web")
}

fn deployment(image: &str) -> Value {
    json!({"metadata":{"name":"web","namespace":"ns"},"spec":{"replicas":3,"selector":{"matchLabels":{"app":"web"}},
        "template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":image}]}}}})
}

fn images(api: &FakeApi) -> Vec<String> {
    let mut images: Vec<_> = api.all::<Pod>().iter().map(|p| p.spec.as_ref().unwrap().containers[0].image.clone().unwrap()).collect();
    images.sort();
    images
}

fn rolled_out(api: &FakeApi, image: &str, count: usize) -> bool {
    let all = api.all::<Deployment>();
    let Some(deployment) = all.first() else { return false };
    let Some(status) = &deployment.status else { return false };
    let count_i = i32::try_from(count).unwrap();
    let done = status.conditions.iter().flatten().any(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    done && status.observed_generation == deployment.metadata.generation
        && [status.replicas, status.updated_replicas, status.available_replicas] == [Some(count_i); 3]
        && images(api) == vec![image.to_string(); count]
}

fn ready_endpoints(api: &FakeApi) -> HashSet<String> {
    let ready = |e: &k8s_openapi::api::discovery::v1::Endpoint| e.conditions.as_ref().and_then(|c| c.ready) == Some(true);
    let slices = api.all::<EndpointSlice>();
    slices.iter().flat_map(|s| s.endpoints.iter().flatten()).filter(|e| ready(e)).map(|e| e.addresses[0].clone()).collect()
}

async fn start() -> Running {
    let running = run(SystemClock::shared(), wharf_controllers::all());
    pretend_pods(&running.api);
    let service =
        json!({"metadata":{"name":"web","namespace":"ns"},"spec":{"clusterIP":"10.9.0.1","selector":{"app":"web"},"ports":[{"port":80}]}});
    running.api.create(&typed::<Service>(service)).await.unwrap();
    running.api.create(&typed::<Deployment>(deployment("v1"))).await.unwrap();
    running.api.until("the first rollout", || (), |api| rolled_out(api, "v1", 3) && ready_endpoints(api).len() == 3).await;
    running
}

#[tokio::test]
async fn a_deployment_rolls_out_scales_rolls_on_and_back() {
    let running = start().await;
    let api = &running.api;
    assert_eq!(api.all::<Pod>().len(), 3, "not one pod too many");
    let scale = json!({"spec":{"replicas":5}});
    api.patch::<Deployment>(&web(), "", PatchKind::Merge, &scale).await.unwrap();
    api.until("five", || (), |api| rolled_out(api, "v1", 5)).await;
    let v2 = json!({"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v2"}]}}}});
    api.patch::<Deployment>(&web(), "", PatchKind::Merge, &v2).await.unwrap();
    api.until("v2", || (), |api| rolled_out(api, "v2", 5)).await;
    let v1 = json!({"spec":{"template":{"spec":{"containers":[{"name":"c","image":"v1"}]}}}});
    api.patch::<Deployment>(&web(), "", PatchKind::Merge, &v1).await.unwrap();
    api.until("v1 again", || (), |api| rolled_out(api, "v1", 5) && ready_endpoints(api).len() == 5).await;
    assert_eq!(api.all::<ReplicaSet>().len(), 2);
    bounds_were_kept(api);
    let annotations = api.all::<Deployment>()[0].metadata.annotations.clone().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    let told = |api: &FakeApi, end: &str| {
        let events = api.all::<Event>();
        events.iter().any(|e| e.reason.as_deref() == Some("ScalingReplicaSet") && e.message.as_ref().unwrap().ends_with(end))
    };
    api.until("the event", || (), |api| told(api, "from 0 to 3")).await;
}

/// Three pods and then five, with a quarter of surge and of absence: never fewer than three, then four, are available, and
/// never more than seven wanted. Pods themselves may be more for a moment, while one replica set adds before another removes.
fn bounds_were_kept(api: &FakeApi) {
    let mut pods: HashMap<String, Pod> = HashMap::new();
    let mut most_available = 0;
    for (name, pod) in api.history::<Pod>() {
        match pod {
            Some(pod) => pods.insert(name, pod),
            None => pods.remove(&name),
        };
        let active = pods.values().filter(|p| wharf_controllers::pods::is_active(p));
        let available = active.filter(|p| wharf_controllers::pods::is_ready(p)).count();
        most_available = most_available.max(available);
        let least = match most_available {
            0..3 => 0,
            3..5 => 3,
            _ => 4,
        };
        assert!(available >= least, "only {available} pods were available");
    }
    assert!(most_available >= 5);
    let mut sizes = HashMap::new();
    for (name, set) in api.history::<ReplicaSet>() {
        sizes.insert(name, set.and_then(|s| s.spec?.replicas).unwrap_or(0));
        assert!(sizes.values().sum::<i32>() <= 7, "{sizes:?}");
    }
}

#[tokio::test]
async fn a_cache_that_lags_makes_no_second_pods() {
    let running = run(SystemClock::shared(), vec![Arc::new(ReplicaSetController::new())]);
    let api = &running.api;
    let set = json!({"metadata":{"name":"web","namespace":"ns"},"spec":{"replicas":1,"selector":{"matchLabels":{"app":"web"}},
        "template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[]}}}});
    api.create(&typed::<ReplicaSet>(set)).await.unwrap();
    let observed = |api: &FakeApi| api.all::<ReplicaSet>()[0].status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
    let replicas = |api: &FakeApi| api.all::<ReplicaSet>()[0].status.as_ref().map_or(0, |s| s.replicas);
    api.until("one pod is seen", || (), |api| replicas(api) == 1).await;
    api.hold_pods(true);
    let scale = async |n: i32| {
        let before = api.all::<ReplicaSet>()[0].metadata.generation.unwrap();
        api.patch::<ReplicaSet>(&web(), "", PatchKind::Merge, &json!({"spec":{"replicas":n}})).await.unwrap();
        api.until("the change is observed", || (), |api| observed(api) > before).await;
    };
    scale(3).await;
    api.until("three pods", || (), |api| api.all::<Pod>().len() == 3).await;
    // None of this shows the two new pods to the controller.
    scale(4).await;
    assert_eq!(api.all::<Pod>().len(), 3, "decided on a cache known to be old");
    api.hold_pods(false);
    api.until("four pods", || (), |api| replicas(api) == 4).await;
    let made = api.history::<Pod>().into_iter().map(|(name, _)| name).collect::<HashSet<_>>();
    assert_eq!(made.len(), 4, "not one more was ever made");
    // And down: a delete that is not seen yet is not made up for by another.
    api.hold_pods(true);
    scale(3).await;
    api.until("three pods", || (), |api| api.all::<Pod>().len() == 3).await;
    api.patch::<ReplicaSet>(&web(), "", PatchKind::Merge, &json!({"spec":{"minReadySeconds":1}})).await.unwrap();
    let generation = api.all::<ReplicaSet>()[0].metadata.generation.unwrap();
    api.until("observed", || (), |api| observed(api) == generation).await;
    assert_eq!(api.all::<Pod>().len(), 3);
    api.hold_pods(false);
    api.until("settled", || (), |api| replicas(api) == 3).await;
    assert_eq!(api.all::<Pod>().len(), 3);
}

#[tokio::test]
async fn deleting_in_the_background_takes_everything_along() {
    let running = start().await;
    let api = &running.api;
    api.delete::<Deployment>(&web(), DeleteParams::default()).await.unwrap();
    api.delete::<Service>(&web(), DeleteParams::default()).await.unwrap();
    let empty = |api: &FakeApi| api.all::<ReplicaSet>().is_empty() && api.all::<Pod>().is_empty() && api.all::<EndpointSlice>().is_empty();
    api.until("nothing left", || (), empty).await;
}

#[tokio::test]
async fn deleting_in_the_foreground_takes_the_owner_last() {
    let running = start().await;
    let api = &running.api;
    let params = DeleteParams { propagation: Some(Propagation::Foreground), ..DeleteParams::default() };
    api.delete::<Deployment>(&web(), params).await.unwrap();
    api.until("the owner is gone", || (), |api| api.all::<Deployment>().is_empty()).await;
    assert!(api.all::<ReplicaSet>().is_empty(), "dependents go first");
    api.until("the pods too", || (), |api| api.all::<Pod>().is_empty()).await;
}

#[tokio::test]
async fn orphans_stay_and_are_adopted() {
    let running = start().await;
    let api = &running.api;
    let pods: HashSet<_> = api.all::<Pod>().into_iter().map(|p| p.metadata.uid).collect();
    let params = DeleteParams { propagation: Some(Propagation::Orphan), ..DeleteParams::default() };
    api.delete::<Deployment>(&web(), params).await.unwrap();
    api.until("the owner is gone", || (), |api| api.all::<Deployment>().is_empty()).await;
    assert!(api.all::<ReplicaSet>()[0].metadata.owner_references.as_ref().is_none_or(Vec::is_empty));
    api.create(&typed::<Deployment>(deployment("v1"))).await.unwrap();
    api.until("adopted", || (), |api| rolled_out(api, "v1", 3)).await;
    assert_eq!(api.all::<Pod>().into_iter().map(|p| p.metadata.uid).collect::<HashSet<_>>(), pods, "the same pods");
    assert_eq!(api.all::<ReplicaSet>().len(), 1);
}

#[tokio::test]
async fn a_namespace_is_furnished_and_emptied() {
    let mut controllers = wharf_controllers::all();
    controllers.push(Arc::new(RootCaPublisher::new("PEM")));
    let running = run(SystemClock::shared(), controllers);
    let api = &running.api;
    pretend_pods(api);
    api.create(&typed::<Namespace>(json!({"metadata":{"name":"ns"},"spec":{"finalizers":["kubernetes"]}}))).await.unwrap();
    api.until("furnished", || (), |api| api.all::<ServiceAccount>().len() == 1 && api.all::<ConfigMap>().len() == 1).await;
    api.create(&typed::<Deployment>(deployment("v1"))).await.unwrap();
    api.until("pods", || (), |api| rolled_out(api, "v1", 3)).await;
    api.delete::<Namespace>(&ObjectRef::new("", "ns"), DeleteParams::default()).await.unwrap();
    api.until("gone", || (), |api| api.all::<Namespace>().is_empty()).await;
    assert!(api.all::<Pod>().is_empty() && api.all::<Deployment>().is_empty() && api.all::<ServiceAccount>().is_empty());
}

#[tokio::test]
async fn a_silent_node_is_marked_and_its_pods_move() {
    let clock = ManualClock::default();
    let running = run(Arc::new(clock.clone()), wharf_controllers::all());
    let api = &running.api;
    let ready = json!([{"type":"Ready","status":"True"}]);
    let mut node = typed::<Node>(json!({"metadata":{"name":"n1"},"spec":{}}));
    node = (*api.create(&node).await.unwrap()).clone();
    node.status = Some(serde_json::from_value(json!({"conditions":ready.clone()})).unwrap());
    api.update_status(&node).await.unwrap();
    let lease = json!({"metadata":{"name":"n1","namespace":"kube-node-lease"},"spec":{"renewTime":"2026-01-01T00:00:00.000000Z"}});
    api.create(&typed::<Lease>(lease)).await.unwrap();
    for (name, tolerations) in
        [("short", json!([{"operator":"Exists","effect":"NoExecute","tolerationSeconds":10}])), ("ever", json!([{"operator":"Exists"}]))]
    {
        let pod = json!({"metadata":{"name":name,"namespace":"ns"},"spec":{"nodeName":"n1","containers":[],"tolerations":tolerations},
            "status":{"phase":"Running","conditions":ready.clone()}});
        api.create(&typed::<Pod>(pod)).await.unwrap();
    }
    let tick = || clock.advance(Duration::from_secs(5));
    let tainted = |api: &FakeApi| {
        api.all::<Node>()[0].spec.as_ref().unwrap().taints.iter().flatten().any(|t| t.key == "node.kubernetes.io/unreachable")
    };
    api.until("unreachable", tick, tainted).await;
    let going = |api: &FakeApi| -> Vec<String> {
        let pods = api.all::<Pod>();
        pods.into_iter().filter(|p| p.metadata.deletion_timestamp.is_some()).map(|p| p.metadata.name.unwrap()).collect()
    };
    api.until("one pod is evicted", tick, |api| going(api) == ["short"]).await;
    let not_ready = |api: &FakeApi| api.all::<Pod>().iter().all(|p| !wharf_controllers::pods::is_ready(p));
    api.until("its pods are not ready", tick, not_ready).await;
    let heard = json!({"status":{"conditions":ready}});
    api.patch::<Node>(&ObjectRef::new("", "n1"), "", PatchKind::Merge, &heard).await.unwrap();
    let renewed = json!({"spec":{"renewTime":"2026-01-01T01:00:00.000000Z"}});
    api.patch::<Lease>(&ObjectRef::new("kube-node-lease", "n1"), "", PatchKind::Merge, &renewed).await.unwrap();
    api.until("the taints go", || (), |api| !tainted(api)).await;
    api.delete::<Node>(&ObjectRef::new("", "n1"), DeleteParams::default()).await.unwrap();
    api.until("the pods of a node that is gone go", tick, |api| api.all::<Pod>().is_empty()).await;
}
