//! kube-rs over TLS: its client, and its runtime with watcher, reflector and Controller.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::entry::Entry;
use kube::api::{Api, DeleteParams, DynamicObject, EvictParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::PartialObjectMeta;
use kube::discovery::{Discovery, Scope};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::{self, InitialListStrategy};
use kube::runtime::{Controller, WatchStreamExt, wait};
use kube::{Client, Config, ResourceExt};
use serde_json::json;
use tokio::sync::mpsc;
use wharf_e2e::ControlPlane;

async fn client(plane: &ControlPlane) -> Client {
    let config = Kubeconfig::read_from(plane.kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a configuration");
    Client::try_from(config).expect("a client")
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name, "labels": {"of": "kube-rs"}}, "data": {"n": "0"}})).expect("a ConfigMap")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client() {
    let plane = ControlPlane::start().await;
    let client = client(&plane).await;
    let version = client.apiserver_version().await.expect("a version");
    assert_eq!(version.minor.trim_end_matches('+'), "36");
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &config_map("a")).await.expect("a dry run");
    assert!(maps.get_opt("a").await.expect("an answer").is_none());
    let made = maps.create(&PostParams::default(), &config_map("a")).await.expect("made");
    let again = maps.create(&PostParams::default(), &config_map("a")).await.expect_err("a second of one name");
    assert!(matches!(&again, kube::Error::Api(status) if status.is_already_exists()), "{again:?}");

    let Entry::Occupied(mut entry) = maps.entry("a").await.expect("an entry") else { panic!("it is there") };
    entry.get_mut().labels_mut().insert("x".into(), "y".into());
    entry.commit(&PostParams::default()).await.expect("a commit");
    let mut stale = made.clone();
    stale.data = None;
    let refused = maps.replace("a", &PostParams::default(), &stale).await.expect_err("stale");
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_conflict()), "{refused:?}");
    let gone = DeleteParams::default().preconditions(kube::api::Preconditions { uid: Some("other".into()), resource_version: None });
    let refused = maps.delete("a", &gone).await.expect_err("another's uid");
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_conflict()), "{refused:?}");

    let apply = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"k": "1"}});
    maps.patch("s", &PatchParams::apply("one"), &Patch::Apply(&apply)).await.expect("applied");
    let other = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"k": "2"}});
    let refused = maps.patch("s", &PatchParams::apply("two"), &Patch::Apply(&other)).await.expect_err("a conflict");
    assert!(matches!(&refused, kube::Error::Api(status) if status.is_conflict()), "{refused:?}");
    let forced = maps.patch("s", &PatchParams::apply("two").force(), &Patch::Apply(&other)).await.expect("forced");
    assert_eq!(forced.data.expect("data")["k"], "2");
    let patched = maps.patch("s", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": null}}))).await.expect("patched");
    assert!(patched.data.unwrap_or_default().is_empty());

    let metadata: PartialObjectMeta<ConfigMap> = maps.get_metadata("a").await.expect("metadata");
    assert_eq!(metadata.labels()["x"], "y");
    let page = maps.list(&ListParams::default().limit(1)).await.expect("a page");
    assert!(page.items.len() == 1 && page.metadata.continue_.is_some());
    let selected = maps.list_metadata(&ListParams::default().labels("of=kube-rs")).await.expect("a list");
    assert_eq!(selected.items.len(), 1);

    // Everything by discovery.
    let discovery = Discovery::new(client.clone()).run().await.expect("discovery");
    let aggregated = Discovery::new(client.clone()).run_aggregated().await.expect("aggregated discovery");
    for found in [&discovery, &aggregated] {
        let (resource, capabilities) =
            found.resolve_gvk(&kube::core::GroupVersionKind::gvk("apps", "v1", "Deployment")).expect("deployments");
        assert!(resource.plural == "deployments" && capabilities.scope == Scope::Namespaced && capabilities.supports_operation("patch"));
        assert!(capabilities.subresources.iter().any(|(r, _)| r.plural == "deployments/scale" || r.plural == "scale"), "{capabilities:?}");
    }
    let (resource, _) = discovery.resolve_gvk(&kube::core::GroupVersionKind::gvk("", "v1", "ConfigMap")).expect("config maps");
    let dynamic: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    assert_eq!(dynamic.get("a").await.expect("an object").types.expect("types").kind, "ConfigMap");
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("of=kube-rs")).await.expect("gone");
    assert!(maps.get_opt("a").await.expect("an answer").is_none());

    // A pod is scheduled, runs, and is evicted.
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", "image": "example/web:1"}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod).expect("a pod")).await.expect("made");
    wait::await_condition(pods.clone(), "p", wait::conditions::is_pod_running()).await.expect("it runs");
    let uid = pods.get("p").await.expect("a pod").uid().expect("a uid");
    pods.evict("p", &EvictParams::default()).await.expect("evicted");
    wait::await_condition(pods.clone(), "p", wait::conditions::is_deleted(&uid)).await.expect("it goes");
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.cordon("pretends").await.expect("cordoned");
    nodes.uncordon("pretends").await.expect("uncordoned");

    // A watch from the middle of time, with bookmarks asked for.
    let params = WatchParams::default().timeout(60);
    let version = maps.list(&ListParams::default()).await.expect("a list").metadata.resource_version.expect("a version");
    let mut events = maps.watch(&params, &version).await.expect("a watch").boxed();
    maps.create(&PostParams::default(), &config_map("later")).await.expect("made");
    assert!(matches!(events.try_next().await.expect("an event"), Some(WatchEvent::Added(map)) if map.name_any() == "later"));
    let refused = maps.watch(&params, "1").await.expect("an answer").boxed().try_next().await;
    assert!(matches!(&refused, Ok(Some(WatchEvent::Error(status))) if status.code == 410), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reflectors_of_either_kind_follow() {
    let plane = ControlPlane::start().await;
    let client = client(&plane).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&PostParams::default(), &config_map("first")).await.expect("made");
    for strategy in [InitialListStrategy::ListWatch, InitialListStrategy::StreamingList] {
        let config = watcher::Config { initial_list_strategy: strategy.clone(), ..watcher::Config::default().labels("of=kube-rs") };
        let (reader, writer) = reflector::store();
        let mut stream = reflector::reflector(writer, watcher::watcher(maps.clone(), config)).applied_objects().boxed();
        let found = stream.try_next().await.expect("an object").expect("a stream without end");
        assert_eq!(found.name_any(), "first", "{strategy:?}");
        let name = format!("second-{}", strategy == InitialListStrategy::ListWatch);
        maps.create(&PostParams::default(), &config_map(&name)).await.expect("made");
        while reader.get(&ObjectRef::new(&name).within("default")).is_none() {
            stream.try_next().await.expect("an object");
        }
        maps.delete(&name, &DeleteParams::default()).await.expect("gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_reconciles_what_it_owns() {
    let plane = ControlPlane::start().await;
    let client = client(&plane).await;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let (sender, mut reconciled) = mpsc::unbounded_channel();
    let context = Arc::new((client.clone(), sender));
    let controller = Controller::new(deployments.clone(), watcher::Config::default()).owns(maps.clone(), watcher::Config::default()).run(
        |deployment, context: Arc<(Client, mpsc::UnboundedSender<i32>)>| async move {
            let maps: Api<ConfigMap> = Api::default_namespaced(context.0.clone());
            let replicas = deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or_default();
            let owner = kube::Resource::controller_owner_ref(&*deployment, &()).expect("an owner");
            let wanted = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": deployment.name_any(), "ownerReferences": [owner]}, "data": {"replicas": replicas.to_string()},
            });
            maps.patch(&deployment.name_any(), &PatchParams::apply("test-controller").force(), &Patch::Apply(&wanted)).await?;
            let _ = context.1.send(replicas);
            Ok::<_, kube::Error>(Action::await_change())
        },
        |_, _, _| Action::requeue(Duration::from_secs(1)),
        context,
    );
    let running = tokio::spawn(controller.for_each(|_| std::future::ready(())));
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "main", "image": "example/web:1"}]}}}});
    deployments.create(&PostParams::default(), &serde_json::from_value(deployment).expect("a deployment")).await.expect("made");
    while reconciled.recv().await.expect("the controller runs") != 1 {}
    // What it owns is taken away, and comes again.
    let uid = maps.get("web").await.expect("made by the controller").uid().expect("a uid");
    maps.delete("web", &DeleteParams::default()).await.expect("gone");
    wait::await_condition(maps.clone(), "web", |map: Option<&ConfigMap>| map.is_some_and(|m| m.uid().is_some_and(|u| u != uid)))
        .await
        .expect("again");
    deployments.patch_scale("web", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 3}}))).await.expect("scaled");
    while reconciled.recv().await.expect("the controller runs") != 3 {}
    // The garbage collector takes it along.
    let uid = maps.get("web").await.expect("a map").uid().expect("a uid");
    deployments.delete("web", &DeleteParams::foreground()).await.expect("going");
    wait::await_condition(maps, "web", wait::conditions::is_deleted(&uid)).await.expect("it goes");
    running.abort();
}
