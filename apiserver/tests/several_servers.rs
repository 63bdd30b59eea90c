//! Two API servers over one store: leaders are fenced, addresses are given once, and what only one process knew is known to both.

#![allow(clippy::unwrap_used, reason = "tests may")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Binding, ConfigMap, Event, Pod, Service};
use k8s_openapi::api::policy::v1::Eviction;
use parking_lot::Mutex;
use serde_json::{Value, json};
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_apiserver::rest::ServiceRanges;
use wharf_core::api::{ApiError, ApiExt, DeleteParams, Kind, PatchKind, SharedApi, Target, Verb, Write};
use wharf_core::clock::{Clock, ManualClock};
use wharf_core::controller::election::{ElectionOptions, LeaderElector, Leadership};
use wharf_core::object::ObjectRef;
use wharf_core::store::{
    Fence, Key, ListOptions, Listing, ObjectStore, Op, Record, ResourceId, Revision, Scope, SharedStore, StoreCapabilities, StoreResult,
    Transaction, WatchStream,
};
use wharf_store_memory::MemoryStore;

fn typed<K: Kind>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn at(name: &str) -> ObjectRef {
    ObjectRef::new("default", name)
}

fn admin() -> User {
    User::master("admin")
}

async fn server(store: &SharedStore, clock: &ManualClock) -> ApiServer {
    ApiServer::builder(store.clone(), Arc::new(clock.clone()) as Arc<dyn Clock>).build().await.unwrap()
}

/// Lets every task go on until all wait.
async fn settle() {
    for _ in 0..256 {
        tokio::task::yield_now().await;
    }
}

/// An elector on a server, and its terms so far.
fn candidate(server: &ApiServer, clock: &ManualClock, identity: &str) -> Arc<Mutex<Vec<Leadership>>> {
    let terms = Arc::<Mutex<Vec<Leadership>>>::default();
    let mut options = ElectionOptions::new(ObjectRef::new("kube-system", "kube-controller-manager"), identity);
    options.random = Arc::new(|| 0.0);
    let elector = LeaderElector::new(server.local(admin()), Arc::new(clock.clone()), options).unwrap();
    let (began, stop) = (terms.clone(), server.stop().clone());
    tokio::spawn(async move {
        let lead = |lead: Leadership| {
            began.lock().push(lead.clone());
            async move { lead.stop().cancelled().await }
        };
        elector.run(stop, lead).await;
    });
    terms
}

/// One that leads through a server.
fn acting(server: &ApiServer, lead: &Leadership) -> SharedApi {
    lead.guard(server.fenced(admin(), lead.fence().clone()))
}

fn config(name: &str) -> ConfigMap {
    typed(json!({"metadata": {"name": name, "namespace": "default"}}))
}

fn pod(name: &str) -> Pod {
    typed(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}}))
}

/// Every sort of write that a controller or scheduler makes.
async fn every_write(api: &SharedApi) -> Vec<(&'static str, Result<(), ApiError>)> {
    let deployment = |replicas: i32| -> Deployment {
        typed(
            json!({"metadata": {"name": "d", "namespace": "default"}, "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}}}}),
        )
    };
    let post = async |name: &str, sub, body: Vec<u8>| {
        let target = Target::of::<Pod>(at(name)).sub(sub);
        api.write(Write { target, verb: Verb::Create(body.into()), field_manager: String::new() }).await.map(|_| ())
    };
    let scale = async || {
        let verb = Verb::Patch { kind: PatchKind::Merge, body: r#"{"spec":{"replicas":4}}"#.into() };
        api.write(Write { target: Target::of::<Deployment>(at("d")).sub("scale"), verb, field_manager: String::new() }).await.map(|_| ())
    };
    let binding: Binding = typed(json!({"metadata": {"name": "p", "namespace": "default"}, "target": {"kind": "Node", "name": "n"}}));
    let eviction: Eviction = typed(json!({"metadata": {"name": "p", "namespace": "default"}}));
    let event: Event = typed(json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"namespace": "default"}}));
    let service: Service = typed(json!({"metadata": {"name": "s", "namespace": "default"}, "spec": {"ports": [{"port": 80}]}}));
    vec![
        ("create", api.create(&config("new")).await.map(|_| ())),
        (
            "generateName",
            api.create(&typed::<ConfigMap>(json!({"metadata": {"generateName": "g-", "namespace": "default"}}))).await.map(|_| ()),
        ),
        ("service", api.create(&service).await.map(|_| ())),
        ("event", api.create(&event).await.map(|_| ())),
        ("update", api.update(&deployment(2)).await.map(|_| ())),
        ("patch", api.patch::<Deployment>(&at("d"), "", PatchKind::Merge, &json!({"spec": {"replicas": 3}})).await.map(|_| ())),
        ("scale", scale().await),
        ("status", api.patch::<Deployment>(&at("d"), "status", PatchKind::Merge, &json!({"status": {"replicas": 1}})).await.map(|_| ())),
        ("binding", post("p", "binding", serde_json::to_vec(&binding).unwrap()).await),
        ("delete of a bound pod", api.delete::<Pod>(&at("p"), DeleteParams::default()).await),
        ("eviction", post("q", "eviction", serde_json::to_vec(&eviction).unwrap()).await),
        ("delete", api.delete::<ConfigMap>(&at("old"), DeleteParams::default()).await),
    ]
}

#[tokio::test]
async fn a_leader_that_slept_cannot_write_even_once() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let (asleep, awake) = (ManualClock::default(), ManualClock::default());
    let (first, second) = (server(&store, &asleep).await, server(&store, &awake).await);
    let a = candidate(&first, &asleep, "a");
    settle().await;
    let b = candidate(&second, &awake, "b");
    settle().await;
    assert_eq!((a.lock().len(), b.lock().len()), (1, 0));
    let (old, api) = (a.lock()[0].clone(), second.local(admin()));
    for name in ["p", "q"] {
        api.create(&pod(name)).await.unwrap();
    }
    api.create(&config("old")).await.unwrap();
    let deployment = json!({"metadata": {"name": "d", "namespace": "default"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}}}});
    api.create(&typed::<Deployment>(deployment)).await.unwrap();
    let made = every_write(&acting(&first, &old)).await;
    // It leads, so that each is carried out; undone for the second round.
    for (what, result) in made {
        result.unwrap_or_else(|e| panic!("{what}: {e}"));
    }
    for name in ["new", "old"] {
        api.delete::<ConfigMap>(&at(name), DeleteParams::default()).await.unwrap();
    }
    api.delete::<Service>(&at("s"), DeleteParams::default()).await.unwrap();
    api.delete::<Event>(&at("e"), DeleteParams::default()).await.unwrap();
    api.delete::<Pod>(&at("p"), DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    for name in ["p", "q"] {
        api.create(&pod(name)).await.unwrap();
    }
    api.create(&config("old")).await.unwrap();
    api.patch::<Deployment>(&at("d"), "", PatchKind::Merge, &json!({"spec": {"replicas": 9}})).await.unwrap();
    api.patch::<Deployment>(&at("d"), "status", PatchKind::Merge, &json!({"status": {"replicas": 9}})).await.unwrap();

    // The first process sleeps: its clock stands still, so that it believes what it knew.
    for _ in 0..32 {
        awake.advance(Duration::from_millis(500));
        settle().await;
    }
    assert_eq!(b.lock().len(), 1, "the other took over");
    let new = b.lock()[0].clone();
    assert!(old.is_held() && new.is_held() && new.fence().revision > old.fence().revision);
    let before = store.revision().await.unwrap();
    // By the API alone, as if the guard had let each through a moment ago.
    for (what, result) in every_write(&first.fenced(admin(), old.fence().clone())).await {
        let error = result.expect_err(what);
        assert!(error.is_fenced(), "{what}: {error}");
    }
    assert_eq!(store.revision().await.unwrap(), before, "not one was carried out");
    assert!(old.is_held());
    // Through its guard the first refusal ends the term.
    assert!(acting(&first, &old).create(&config("late")).await.unwrap_err().is_fenced());
    assert!(!old.is_held() && old.stop().is_cancelled());
    acting(&second, &new).create(&config("late")).await.unwrap();
}

fn lease(name: &str, holder: &str, transitions: i32) -> Lease {
    typed(
        json!({"metadata": {"name": name, "namespace": "kube-system"}, "spec": {"holderIdentity": holder, "leaseTransitions": transitions}}),
    )
}

fn revision(lease: &Lease) -> Revision {
    Revision(lease.metadata.resource_version.as_deref().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_fence_moves_with_acquisitions_and_not_with_renewals() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let server = server(&store, &ManualClock::default()).await;
    let (api, name) = (server.local(admin()), ObjectRef::new("kube-system", "mine"));
    let moved_at = async || store.get(&Fence::key_of(&name)).await.unwrap().map(|record| record.modified);

    let first = api.create(&lease("mine", "a", 0)).await.unwrap();
    assert_eq!(moved_at().await, Some(revision(&first)));
    let fence = Fence::new(name.clone(), revision(&first));
    let patch = json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
    let renewed: Arc<Lease> = api.patch(&name, "", PatchKind::Merge, &patch).await.unwrap();
    assert!(revision(&renewed) > revision(&first));
    assert_eq!(moved_at().await, Some(revision(&first)));
    server.fenced(admin(), fence.clone()).create(&config("during")).await.unwrap();

    // One who leads may write its own lease under its own fence, once.
    let held = server.fenced(admin(), fence.clone());
    let released: Arc<Lease> = held.patch(&name, "", PatchKind::Merge, &json!({"spec": {"holderIdentity": ""}})).await.unwrap();
    assert_eq!(moved_at().await, Some(revision(&released)));
    assert!(held.patch::<Lease>(&name, "", PatchKind::Merge, &json!({"spec": {"holderIdentity": "a"}})).await.unwrap_err().is_fenced());
    assert!(held.create(&config("after")).await.unwrap_err().is_fenced());

    // The same holder again is another term.
    let again: Arc<Lease> =
        api.patch(&name, "", PatchKind::Merge, &json!({"spec": {"holderIdentity": "a", "leaseTransitions": 1}})).await.unwrap();
    let again = Fence::new(name.clone(), revision(&again));
    server.fenced(admin(), again.clone()).create(&config("second")).await.unwrap();
    api.delete::<Lease>(&name, DeleteParams::default()).await.unwrap();
    assert_eq!(moved_at().await, None);
    assert!(server.fenced(admin(), again).create(&config("third")).await.unwrap_err().is_fenced());

    // Nodes' heartbeats have none.
    let heartbeat: Lease = typed(json!({"metadata": {"name": "n", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "n"}}));
    api.create(&heartbeat).await.unwrap();
    assert!(store.get(&Fence::key_of(&ObjectRef::new("kube-node-lease", "n"))).await.unwrap().is_none());
}

fn node_port(name: &str, ports: usize) -> Service {
    let ports: Vec<Value> = (0..ports).map(|i| json!({"name": format!("p{i}"), "port": 80 + i})).collect();
    typed(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"type": "NodePort", "ports": ports}}))
}

fn ip_of(service: &Service) -> String {
    service.spec.as_ref().unwrap().cluster_ip.clone().unwrap()
}

fn port_of(service: &Service) -> i32 {
    service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].node_port.unwrap()
}

async fn narrow(store: &SharedStore) -> ApiServer {
    let ranges = ServiceRanges { cluster_ips: "10.0.0.0/27".parse().unwrap(), node_ports: 30_000..=30_027 };
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    ApiServer::builder(store.clone(), clock).service_ranges(ranges).build().await.unwrap()
}

#[tokio::test]
async fn two_servers_give_no_address_twice() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let (first, second) = (narrow(&store).await.local(admin()), narrow(&store).await.local(admin()));
    // 29 addresses and 28 ports, all of them at once, by both.
    let mut all = tokio::task::JoinSet::new();
    for i in 0..28 {
        let api = if i % 2 == 0 { first.clone() } else { second.clone() };
        all.spawn(async move { api.create(&node_port(&format!("s{i}"), 1)).await.unwrap() });
    }
    let made = all.join_all().await;
    let ips: BTreeSet<String> = made.iter().map(|s| ip_of(s)).collect();
    let ports: BTreeSet<i32> = made.iter().map(|s| port_of(s)).collect();
    assert_eq!((ips.len(), ports.len()), (28, 28));
    let full = first.create(&node_port("more", 1)).await.unwrap_err();
    assert!(full.to_string().contains("range is full"), "{full}");

    // What one server gives back the other gives out, also when it is asked for by number.
    let gone = &made[0];
    let name = gone.metadata.name.clone().unwrap();
    first.delete::<Service>(&at(&name), DeleteParams::default()).await.unwrap();
    let mut again = node_port("again", 1);
    again.spec.as_mut().unwrap().cluster_ip = Some(ip_of(gone));
    again.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].node_port = Some(port_of(gone));
    let made_again = second.create(&again).await.unwrap();
    assert_eq!((ip_of(&made_again), port_of(&made_again)), (ip_of(gone), port_of(gone)));
    again.metadata.name = Some("twice".into());
    let refused = first.create(&again).await.unwrap_err();
    assert!(refused.to_string().contains("already allocated"), "{refused}");

    // A change of type gives the port back in the same write.
    let patch = json!({"spec": {"type": "ClusterIP"}});
    first.patch::<Service>(&at("again"), "", PatchKind::Merge, &patch).await.unwrap();
    let port = json!({"spec": {"type": "NodePort"}});
    let back: Arc<Service> = second.patch(&at("again"), "", PatchKind::Merge, &port).await.unwrap();
    assert_eq!(port_of(&back), port_of(gone), "it was the only one free");
}

#[tokio::test]
async fn a_service_of_more_ports_than_a_transaction_has_room_for_is_refused() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let server = server(&store, &ManualClock::default()).await;
    let error = server.local(admin()).create(&node_port("many", 130)).await.unwrap_err();
    assert_eq!(error.code(), Some(422));
    assert!(error.to_string().contains("at most"), "{error}");
}

#[tokio::test]
async fn claims_are_mended_from_the_services_that_exist() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let clock = ManualClock::default();
    let made = server(&store, &clock).await.local(admin()).create(&node_port("old", 1)).await.unwrap();
    let claims = Scope::Resource(ResourceId::new("internal.wharf.dev", "serviceclaims"));
    let names = async || -> BTreeSet<String> {
        store.list(&claims, &ListOptions::default()).await.unwrap().records.iter().map(|r| r.key.name.to_string()).collect()
    };
    let right: BTreeSet<String> = ["10.96.0.1".to_owned(), ip_of(&made), port_of(&made).to_string()].into();
    assert_eq!(names().await, right);
    // As a store of an earlier version: none of them, and one that nobody holds.
    for record in store.list(&claims, &ListOptions::default()).await.unwrap().records {
        store.commit(Transaction::delete(record.key, record.modified)).await.unwrap();
    }
    let stray = Key::new(ResourceId::new("internal.wharf.dev", "serviceclaims"), "", "10.99.9.9");
    store.commit(Transaction::create(stray, "{}".into())).await.unwrap();
    let second = server(&store, &clock).await;
    assert_eq!(names().await, right);
    let mut taken = node_port("new", 1);
    taken.spec.as_mut().unwrap().cluster_ip = Some(ip_of(&made));
    assert!(second.local(admin()).create(&taken).await.unwrap_err().to_string().contains("already allocated"));
}

#[tokio::test]
async fn servers_that_start_at_once_make_what_every_cluster_has_once() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let clock = ManualClock::default();
    let (first, second) = tokio::join!(server(&store, &clock), server(&store, &clock));
    let uid =
        async |server: &ApiServer| server.local(admin()).get(&Target::of::<Service>(at("kubernetes"))).await.unwrap().meta().uid.clone();
    assert_eq!(uid(&first).await, uid(&second).await);
}

/// A memory store that says it lets things expire, and remembers what was to.
#[derive(Debug)]
struct Expiring {
    inner: MemoryStore,
    told: Mutex<Vec<(String, Option<Duration>)>>,
}

#[async_trait]
impl ObjectStore for Expiring {
    fn capabilities(&self) -> StoreCapabilities {
        self.inner.capabilities().expiry(true)
    }
    async fn revision(&self) -> StoreResult<Revision> {
        self.inner.revision().await
    }
    async fn get(&self, key: &Key) -> StoreResult<Option<Record>> {
        self.inner.get(key).await
    }
    async fn list(&self, scope: &Scope, options: &ListOptions) -> StoreResult<Listing> {
        self.inner.list(scope, options).await
    }
    async fn commit(&self, transaction: Transaction) -> StoreResult<Revision> {
        if let Some(Op::Put { key, .. }) = transaction.ops.first() {
            self.told.lock().push((key.resource.resource.to_string(), transaction.ttl));
        }
        self.inner.commit(Transaction::new(transaction.ops)).await
    }
    async fn watch(&self, scope: &Scope, after: Revision) -> StoreResult<WatchStream> {
        self.inner.watch(scope, after).await
    }
    async fn compact(&self, upto: Revision) -> StoreResult<()> {
        self.inner.compact(upto).await
    }
}

#[tokio::test]
async fn events_expire_by_the_store_where_it_can() {
    let store = Arc::new(Expiring { inner: MemoryStore::new(), told: Mutex::default() });
    let server = server(&(store.clone() as SharedStore), &ManualClock::default()).await;
    let api = server.local(admin());
    store.told.lock().clear();
    let event: Event = typed(json!({"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"namespace": "default"}}));
    api.create(&event).await.unwrap();
    api.patch::<Event>(&at("e"), "", PatchKind::Merge, &json!({"count": 2})).await.unwrap();
    api.create(&config("kept")).await.unwrap();
    let hour = Some(Duration::from_secs(3600));
    assert_eq!(*store.told.lock(), [("events".to_owned(), hour), ("events".to_owned(), hour), ("configmaps".to_owned(), None)]);
}

#[tokio::test]
async fn a_released_lease_is_taken_as_soon_as_it_is_seen() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let clock = ManualClock::default();
    let first = server(&store, &clock).await;
    let a = candidate(&first, &clock, "a");
    settle().await;
    // The lease is older than all that the second server has seen happen.
    first.local(admin()).create(&config("later")).await.unwrap();
    let second = server(&store, &clock).await;
    let b = candidate(&second, &clock, "b");
    settle().await;
    a.lock()[0].resign();
    settle().await;
    // No time has passed.
    assert_eq!(b.lock().len(), 1);
}
