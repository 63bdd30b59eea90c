//! Namespaces and garbage collection, with custom resources as with built-in ones.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use wharf::Cluster;

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

struct World {
    cluster: Cluster,
    client: Client,
}

fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

impl World {
    /// A cluster that serves boats in namespaces, and fleets in none.
    async fn new() -> Self {
        let cluster = Cluster::builder().start().await.unwrap();
        let world = Self { client: cluster.client(), cluster };
        for (kind, scope) in [("Boat", "Namespaced"), ("Fleet", "Cluster")] {
            world.define(kind, scope).await;
        }
        world.create("v1", "Namespace", "", "sea", json!({})).await;
        world
    }

    async fn define(&self, kind: &str, scope: &str) {
        let (singular, plural) = (kind.to_lowercase(), format!("{}s", kind.to_lowercase()));
        let definition: CustomResourceDefinition = serde_json::from_value(json!({
            "metadata": {"name": format!("{plural}.example.com")},
            "spec": {"group": "example.com", "scope": scope, "names": {"kind": kind, "plural": plural, "singular": singular},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
        }))
        .unwrap();
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = definitions.create(&PostParams::default(), &definition).await.unwrap().metadata.name.unwrap();
        let established = async || {
            let status = definitions.get(&name).await.unwrap().status.unwrap_or_default();
            status.conditions.iter().flatten().any(|c| c.type_ == "Established" && c.status == "True")
        };
        until("the definition is established", established).await;
    }

    fn api(&self, api_version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.client.clone(), &resource(api_version, kind)),
            _ => Api::namespaced_with(self.client.clone(), namespace, &resource(api_version, kind)),
        }
    }

    async fn create(&self, api_version: &str, kind: &str, namespace: &str, name: &str, more: Value) -> DynamicObject {
        let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
        for (member, value) in more.as_object().unwrap() {
            match member.as_str() {
                "metadata" => value.as_object().unwrap().iter().for_each(|(k, v)| object["metadata"][k] = v.clone()),
                _ => object[member] = value.clone(),
            }
        }
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.api(api_version, kind, namespace).create(&PostParams::default(), &object).await.unwrap()
    }

    /// A ConfigMap in the sea that depends on something.
    async fn map_of(&self, name: &str, owner: &DynamicObject) {
        self.create("v1", "ConfigMap", "sea", name, json!({"metadata": {"ownerReferences": [reference(owner)]}})).await;
    }

    async fn is_there(&self, api_version: &str, kind: &str, namespace: &str, name: &str) -> bool {
        // A kind that is no longer served has no objects either.
        match self.api(api_version, kind, namespace).get_opt(name).await {
            Ok(found) => found.is_some(),
            Err(kube::Error::Api(status)) if status.code == 404 => false,
            Err(error) => panic!("{error}"),
        }
    }

    async fn gone(&self, api_version: &str, kind: &str, namespace: &str, name: &str) {
        until(&format!("{kind} {name} is gone"), async || !self.is_there(api_version, kind, namespace, name).await).await;
    }
}

fn reference(owner: &DynamicObject) -> Value {
    let types = owner.types.as_ref().unwrap();
    json!({"apiVersion": types.api_version, "kind": types.kind, "name": owner.metadata.name, "uid": owner.metadata.uid,
        "blockOwnerDeletion": true})
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("waited for this: {what}"));
}

const V1: &str = "example.com/v1";

#[tokio::test]
async fn custom_resources_own_and_are_owned() {
    let world = World::new().await;
    // A custom owner, of built-in and of custom dependents.
    let boat = world.create(V1, "Boat", "sea", "one", json!({})).await;
    world.map_of("of-boat", &boat).await;
    world.create(V1, "Boat", "sea", "dinghy", json!({"metadata": {"ownerReferences": [reference(&boat)]}})).await;
    world.api(V1, "Boat", "sea").delete("one", &DeleteParams::background()).await.unwrap();
    world.gone("v1", "ConfigMap", "sea", "of-boat").await;
    world.gone(V1, "Boat", "sea", "dinghy").await;
    // An owner without a namespace.
    let fleet = world.create(V1, "Fleet", "", "royal", json!({})).await;
    world.map_of("of-fleet", &fleet).await;
    world.create(V1, "Boat", "sea", "of-fleet", json!({"metadata": {"ownerReferences": [reference(&fleet)]}})).await;
    world.api(V1, "Fleet", "").delete("royal", &DeleteParams::background()).await.unwrap();
    world.gone("v1", "ConfigMap", "sea", "of-fleet").await;
    world.gone(V1, "Boat", "sea", "of-fleet").await;
    // An owner that was never there.
    let ghost = json!({"apiVersion": V1, "kind": "Boat", "name": "ghost", "uid": "ghost"});
    world.create(V1, "Boat", "sea", "haunted", json!({"metadata": {"ownerReferences": [ghost]}})).await;
    world.gone(V1, "Boat", "sea", "haunted").await;
    world.cluster.shutdown().await;
}

#[tokio::test]
async fn dependents_go_first_or_are_let_go_of() {
    let world = World::new().await;
    // Foreground: whatever the kind, it ends.
    let boat = world.create(V1, "Boat", "sea", "two", json!({})).await;
    world.map_of("first", &boat).await;
    let class = world.create("storage.k8s.io/v1", "StorageClass", "", "fast", json!({"provisioner": "example.com/fast"})).await;
    world.map_of("of-class", &class).await;
    world.api(V1, "Boat", "sea").delete("two", &DeleteParams::foreground()).await.unwrap();
    world.api("storage.k8s.io/v1", "StorageClass", "").delete("fast", &DeleteParams::foreground()).await.unwrap();
    world.gone(V1, "Boat", "sea", "two").await;
    world.gone("storage.k8s.io/v1", "StorageClass", "", "fast").await;
    assert!(!world.is_there("v1", "ConfigMap", "sea", "first").await, "it had to go first");
    assert!(!world.is_there("v1", "ConfigMap", "sea", "of-class").await, "it had to go first");
    // Orphan: dependents stay, without their owner.
    let boat = world.create(V1, "Boat", "sea", "three", json!({})).await;
    world.map_of("orphan", &boat).await;
    world.create(V1, "Boat", "sea", "adrift", json!({"metadata": {"ownerReferences": [reference(&boat)]}})).await;
    world.api(V1, "Boat", "sea").delete("three", &DeleteParams::orphan()).await.unwrap();
    world.gone(V1, "Boat", "sea", "three").await;
    for (api_version, kind, name) in [("v1", "ConfigMap", "orphan"), (V1, "Boat", "adrift")] {
        let left = world.api(api_version, kind, "sea").get(name).await.unwrap();
        assert_eq!(left.metadata.owner_references.unwrap_or_default(), [], "{kind}");
    }
    world.cluster.shutdown().await;
}

/// A version that is stored no longer, nor served: what is known of an owner must not be asked of it.
#[tokio::test]
async fn dependents_outlive_a_version_of_their_owners_kind() {
    let world = World::new().await;
    let boat = world.create(V1, "Boat", "sea", "old", json!({})).await;
    world.map_of("cargo", &boat).await;
    let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let version = |name: &str, served: bool, storage: bool| json!({"name": name, "served": served, "storage": storage, "schema": schema});
    let change = json!({"spec": {"versions": [version("v1", false, false), version("v2", true, true)]}});
    definitions.patch("boats.example.com", &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
    let served = async || world.is_there("example.com/v2", "Boat", "sea", "old").await;
    until("the boat is served as v2", served).await;
    // What comes after the change is looked at by a collector that knows of it.
    world.map_of("more", &boat).await;
    let ghost = json!({"apiVersion": "example.com/v2", "kind": "Boat", "name": "ghost", "uid": "ghost"});
    world.create("v1", "ConfigMap", "sea", "haunted", json!({"metadata": {"ownerReferences": [ghost]}})).await;
    world.gone("v1", "ConfigMap", "sea", "haunted").await;
    for name in ["cargo", "more"] {
        assert!(world.is_there("v1", "ConfigMap", "sea", name).await, "{name}");
    }
    world.api("example.com/v2", "Boat", "sea").delete("old", &DeleteParams::foreground()).await.unwrap();
    world.gone("example.com/v2", "Boat", "sea", "old").await;
    for name in ["cargo", "more"] {
        assert!(!world.is_there("v1", "ConfigMap", "sea", name).await, "{name} had to go first");
    }
    world.cluster.shutdown().await;
}

#[tokio::test]
async fn a_namespace_and_a_definition_take_their_objects_along() {
    let world = World::new().await;
    let boat = world.create(V1, "Boat", "sea", "four", json!({"metadata": {"finalizers": ["example.com/anchor"]}})).await;
    world.map_of("cargo", &boat).await;
    let namespaces = world.api("v1", "Namespace", "");
    namespaces.delete("sea", &DeleteParams::default()).await.unwrap();
    let remaining = async || {
        let status = namespaces.get("sea").await.unwrap().data["status"].clone();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["message"] == "Some resources are remaining: boats.example.com has 1 resource instances")
    };
    until("the namespace says what it waits for", remaining).await;
    let free = json!({"metadata": {"finalizers": null}});
    world.api(V1, "Boat", "sea").patch("four", &PatchParams::default(), &Patch::Merge(free)).await.unwrap();
    world.gone("v1", "Namespace", "", "sea").await;

    // A definition's objects go with it, and what depends on them.
    world.create("v1", "Namespace", "", "sea", json!({})).await;
    let boat = world.create(V1, "Boat", "sea", "five", json!({})).await;
    world.map_of("of-five", &boat).await;
    let definitions = world.api("apiextensions.k8s.io/v1", "CustomResourceDefinition", "");
    definitions.delete("boats.example.com", &DeleteParams::default()).await.unwrap();
    world.gone("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "boats.example.com").await;
    world.gone("v1", "ConfigMap", "sea", "of-five").await;
    // The same name again is another resource, and is followed as well.
    world.define("Boat", "Namespaced").await;
    let boat = world.create(V1, "Boat", "sea", "six", json!({})).await;
    world.map_of("of-six", &boat).await;
    world.api(V1, "Boat", "sea").delete("six", &DeleteParams::foreground()).await.unwrap();
    world.gone(V1, "Boat", "sea", "six").await;
    world.gone("v1", "ConfigMap", "sea", "of-six").await;
    world.cluster.shutdown().await;
}
