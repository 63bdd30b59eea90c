//! The controller kit over the built-in controllers, in an API server over a store in memory.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_conformance::controller::{Change, ControllerHarness, Objects, Scenario};
use wharf_conformance::{Harness, controller_suite};
use wharf_controllers::deployment::DeploymentController;
use wharf_controllers::endpointslice::EndpointSliceController;
use wharf_controllers::garbage::GarbageCollector;
use wharf_controllers::namespace::NamespaceController;
use wharf_controllers::replicaset::ReplicaSetController;
use wharf_controllers::serviceaccount::ServiceAccountController;
use wharf_core::api::SharedApi;
use wharf_core::clock::Clock;
use wharf_core::controller::Controller;
use wharf_core::object::{ObjectRef, resource_of};
use wharf_store_memory::MemoryStore;

struct BuiltIn {
    controller: fn() -> Arc<dyn Controller>,
    scenario: fn() -> Scenario,
    servers: Mutex<Vec<ApiServer>>,
}

impl Harness for BuiltIn {}

#[async_trait]
impl ControllerHarness for BuiltIn {
    async fn api(&self, clock: Arc<dyn Clock>) -> SharedApi {
        let server = ApiServer::builder(Arc::new(MemoryStore::new()), clock).build().await.unwrap();
        let api = server.local(User::master("conformance"));
        // A server ends when it is dropped.
        self.servers.lock().push(server);
        api
    }
    fn controller(&self) -> Arc<dyn Controller> {
        (self.controller)()
    }
    fn scenarios(&self) -> Vec<Scenario> {
        vec![(self.scenario)()]
    }
}

fn built_in(controller: fn() -> Arc<dyn Controller>, scenario: fn() -> Scenario) -> BuiltIn {
    BuiltIn { controller, scenario, servers: Mutex::default() }
}

fn kit(name: &str) -> ObjectRef {
    ObjectRef::new("kit", name)
}

fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kit"}})
}

fn account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "kit", "name": "default"}})
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "kit", "name": name}})
}

fn owned_by_config_map(name: &str) -> Value {
    json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": format!("uid-of:ConfigMap/{name}"), "controller": true}])
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "example.com/web"}]}})
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} instead of {wanted:?}")) }
}

fn in_kit<'a>(objects: &'a Objects, kind: &str) -> Vec<&'a Value> {
    objects.of(kind).iter().filter(|o| o["metadata"]["namespace"] == "kit").collect()
}

fn replica_set() -> Scenario {
    let (sets, web) = (resource_of::<ReplicaSet>(), kit("web"));
    let scale = |n: i32| Change::Merge(resource_of::<ReplicaSet>(), kit("web"), json!({"spec": {"replicas": n}}));
    Scenario {
        name: "a ReplicaSet is scaled up and down",
        resources: vec![
            resource_of::<Namespace>(),
            resource_of::<ServiceAccount>(),
            resource_of::<ConfigMap>(),
            sets.clone(),
            resource_of::<Pod>(),
        ],
        primary: (sets, web),
        initial: vec![
            namespace(),
            account(),
            config_map("other"),
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"namespace": "kit", "name": "web"},
                "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template()}}),
        ],
        changes: vec![scale(4), scale(2)],
        settled: Arc::new(|objects| {
            let ours =
                |p: &&&Value| p["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet" && p["metadata"]["deletionTimestamp"].is_null();
            expect("pods", in_kit(objects, "Pod").iter().filter(ours).count(), 2)?;
            let Some(set) = objects.get("ReplicaSet", "web") else { return Err("the ReplicaSet is gone".into()) };
            expect("status.replicas", &set["status"]["replicas"], &json!(2))
        }),
        owned: vec![resource_of::<Pod>()],
        foreign: vec![json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "kit", "name": "stranger", "labels": {"app": "web"}, "ownerReferences": owned_by_config_map("other")},
            "spec": template()["spec"]})],
        max_writes: 14,
    }
}

fn deployment() -> Scenario {
    let deployments = resource_of::<Deployment>();
    Scenario {
        name: "a Deployment is made and scaled",
        resources: vec![resource_of::<Namespace>(), resource_of::<ConfigMap>(), deployments.clone(), resource_of::<ReplicaSet>()],
        primary: (deployments.clone(), kit("web")),
        initial: vec![
            namespace(),
            config_map("other"),
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "kit", "name": "web"},
                "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template()}}),
        ],
        changes: vec![Change::Merge(deployments, kit("web"), json!({"spec": {"replicas": 3}}))],
        settled: Arc::new(|objects| {
            let sets = in_kit(objects, "ReplicaSet");
            let ours: Vec<_> = sets.iter().filter(|s| s["metadata"]["ownerReferences"][0]["kind"] == "Deployment").collect();
            expect("replica sets", ours.len(), 1)?;
            expect("their size", &ours[0]["spec"]["replicas"], &json!(3))?;
            let Some(web) = objects.get("Deployment", "web") else { return Err("the Deployment is gone".into()) };
            expect("observedGeneration", &web["status"]["observedGeneration"], &web["metadata"]["generation"])
        }),
        owned: vec![resource_of::<ReplicaSet>()],
        foreign: vec![json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"namespace": "kit", "name": "stranger", "labels": {"app": "web"}, "ownerReferences": owned_by_config_map("other")},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template()}})],
        max_writes: 8,
    }
}

fn endpoint_slice() -> Scenario {
    let pod = |name: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "kit", "name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "example.com/web"}]},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    let services = resource_of::<Service>();
    Scenario {
        name: "a Service gets a third pod",
        resources: vec![
            resource_of::<Namespace>(),
            resource_of::<ServiceAccount>(),
            services.clone(),
            resource_of::<Pod>(),
            resource_of::<EndpointSlice>(),
        ],
        primary: (services, kit("web")),
        initial: vec![
            namespace(),
            account(),
            pod("a", "10.0.0.1"),
            pod("b", "10.0.0.2"),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "kit", "name": "web"},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}),
        ],
        changes: vec![Change::Create(pod("c", "10.0.0.3"))],
        settled: Arc::new(|objects| {
            let slices = in_kit(objects, "EndpointSlice");
            let ours: Vec<_> = slices.iter().filter(|s| s["metadata"]["name"] != "stranger").collect();
            expect("slices", ours.len(), 1)?;
            expect("endpoints", ours[0]["endpoints"].as_array().map_or(0, Vec::len), 3)
        }),
        owned: vec![resource_of::<EndpointSlice>()],
        foreign: vec![json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "kit", "name": "stranger",
                "labels": {"kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "somebody"}},
            "addressType": "IPv4", "endpoints": [], "ports": []})],
        max_writes: 3,
    }
}

fn emptied_namespace() -> Scenario {
    let namespaces = resource_of::<Namespace>();
    let at = ObjectRef::new("", "kit");
    Scenario {
        name: "a namespace is deleted with what is in it",
        resources: vec![namespaces.clone(), resource_of::<ConfigMap>(), resource_of::<Secret>()],
        primary: (namespaces.clone(), at.clone()),
        initial: vec![
            namespace(),
            config_map("a"),
            config_map("b"),
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "kit", "name": "s"}}),
        ],
        changes: vec![Change::Delete(namespaces, at)],
        settled: Arc::new(|objects| {
            expect("the namespace is there", objects.get("Namespace", "kit").is_some(), false)?;
            expect("objects in it", in_kit(objects, "ConfigMap").len() + in_kit(objects, "Secret").len(), 0)
        }),
        owned: vec![],
        foreign: vec![],
        max_writes: 8,
    }
}

fn collected_garbage() -> Scenario {
    let owners = resource_of::<ConfigMap>();
    let secret = |name: &str, owner: &str| {
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"namespace": "kit", "name": name, "ownerReferences": owned_by_config_map(owner)}})
    };
    Scenario {
        name: "an owner is deleted",
        resources: vec![resource_of::<Namespace>(), owners.clone(), resource_of::<Secret>()],
        primary: (owners.clone(), kit("owner")),
        initial: vec![namespace(), config_map("owner"), config_map("other"), secret("a", "owner"), secret("b", "owner")],
        changes: vec![Change::Delete(owners, kit("owner"))],
        settled: Arc::new(|objects| {
            let left = in_kit(objects, "Secret").iter().filter(|s| s["metadata"]["name"] != "stranger").count();
            expect("dependents", left, 0)
        }),
        owned: vec![],
        foreign: vec![secret("stranger", "other")],
        max_writes: 2,
    }
}

fn default_account() -> Scenario {
    let namespaces = resource_of::<Namespace>();
    Scenario {
        name: "a namespace gets its account, twice",
        resources: vec![namespaces.clone(), resource_of::<ServiceAccount>()],
        primary: (namespaces, ObjectRef::new("", "kit")),
        initial: vec![namespace()],
        changes: vec![Change::Delete(resource_of::<ServiceAccount>(), kit("default"))],
        settled: Arc::new(|objects| expect("accounts", in_kit(objects, "ServiceAccount").len(), 1)),
        owned: vec![],
        foreign: vec![],
        max_writes: 8,
    }
}

mod replicaset {
    use super::*;
    controller_suite!(built_in(|| Arc::new(ReplicaSetController::new()), replica_set));
}
mod deployments {
    use super::*;
    controller_suite!(built_in(|| Arc::new(DeploymentController::new()), deployment));
}
mod endpointslice {
    use super::*;
    controller_suite!(built_in(|| Arc::new(EndpointSliceController::new()), endpoint_slice));
}
mod namespaces {
    use super::*;
    fn controller() -> Arc<dyn Controller> {
        Arc::new(NamespaceController::new(vec![resource_of::<ConfigMap>(), resource_of::<Secret>()]))
    }
    controller_suite!(built_in(controller, emptied_namespace));
}
mod garbage {
    use super::*;
    fn controller() -> Arc<dyn Controller> {
        Arc::new(GarbageCollector::new(vec![resource_of::<ConfigMap>(), resource_of::<Secret>()], Vec::new()))
    }
    controller_suite!(built_in(controller, collected_garbage));
}
mod serviceaccount {
    use super::*;
    controller_suite!(built_in(|| Arc::new(ServiceAccountController::new()), default_account));
}
