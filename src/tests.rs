//! Several clusters in this process over one store, as several processes over one etcd.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod, ServiceAccount};
use parking_lot::Mutex;
use serde_json::json;
use wharf_core::api::{ApiExt, Kind, PatchKind, Query, SharedApi};
use wharf_core::clock::{ManualClock, SystemClock};
use wharf_core::controller::election::Timing;
use wharf_core::informer::Informers;
use wharf_core::object::ObjectRef;
use wharf_core::store::SharedStore;
use wharf_runtime_hollow::HollowRuntime;
use wharf_store_memory::MemoryStore;

use crate::{Cluster, ClusterBuilder, NodeSpec};

/// Against a test that hangs.
const PATIENCE: Duration = Duration::from_secs(120);

fn builder(name: &str, store: &SharedStore) -> ClusterBuilder {
    let node = NodeSpec::hollow(format!("{name}-0"), Arc::new(HollowRuntime::new()));
    Cluster::builder().store(store.clone()).identity(name).node(node).listen(SocketAddr::from(([127, 0, 0, 1], 0)))
}

/// Waits until the objects of a type are as wanted.
async fn until<K: Kind>(cluster: &Cluster, what: &str, wanted: impl Fn(&[Arc<K>]) -> bool) {
    let stop = tokio_util::sync::CancellationToken::new();
    let _end = stop.clone().drop_guard();
    let reader = Informers::new(cluster.api(), SystemClock::shared(), stop).of::<K>();
    let wait = async {
        let (_, mut changes) = reader.informer().subscribe();
        while !wanted(&reader.list()) {
            // Behind means: look again.
            let _ = changes.recv().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

fn deployment(replicas: i32) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "demo", "namespace": "default"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "demo"}},
            "template": {"metadata": {"labels": {"app": "demo"}}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}}},
    }))
    .unwrap()
}

fn ready(replicas: i32) -> impl Fn(&[Arc<Deployment>]) -> bool {
    move |all| all.iter().any(|d| d.status.as_ref().is_some_and(|s| s.ready_replicas == Some(replicas) && s.replicas == Some(replicas)))
}

fn held_by(name: &'static str) -> impl Fn(&[Arc<Lease>]) -> bool {
    move |all| {
        let of = |lease: &str| {
            all.iter().find(|l| l.metadata.name.as_deref() == Some(lease)).and_then(|l| l.spec.as_ref()?.holder_identity.clone())
        };
        ["kube-controller-manager", "kube-scheduler"]
            .iter()
            .all(|lease| of(lease).is_some_and(|holder| holder.starts_with(&format!("{name}_"))))
    }
}

/// Every pod that ever is, from now on.
fn count_pods(api: SharedApi) -> Arc<Mutex<BTreeSet<String>>> {
    let pods = Informers::new(api, SystemClock::shared(), tokio_util::sync::CancellationToken::new()).of::<Pod>();
    let seen = Arc::<Mutex<BTreeSet<String>>>::default();
    let (all, (now, mut changes)) = (seen.clone(), pods.informer().subscribe());
    assert!(now.is_empty());
    tokio::spawn(async move {
        while let Ok(change) = changes.recv().await {
            all.lock().extend(change.latest().meta().uid.clone());
        }
    });
    seen
}

fn token(kubeconfig: &str) -> &str {
    kubeconfig.lines().find_map(|line| line.trim().trim_start_matches("user:").trim().strip_prefix("token: ")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_share_a_store_one_leads_and_the_other_goes_on() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let a = builder("a", &store).leader_election(true).start().await.unwrap();
    until(&a, "a leads", held_by("a")).await;
    let b = builder("b", &store).leader_election(true).start().await.unwrap();
    // Who may come in at one may come in at the other.
    let (of_a, of_b) = (a.kubeconfig().unwrap(), b.kubeconfig().unwrap());
    assert_eq!(token(&of_a), token(&of_b));
    let authority = |text: &str| text.lines().find(|l| l.contains("certificate-authority-data")).unwrap().to_owned();
    assert_eq!(authority(&of_a), authority(&of_b));

    let seen = count_pods(b.api());
    b.api().create(&deployment(3)).await.unwrap();
    until(&b, "three are ready", ready(3)).await;
    let patch = json!({"spec": {"replicas": 9}});
    b.api().patch::<Deployment>(&ObjectRef::new("default", "demo"), "", PatchKind::Merge, &patch).await.unwrap();
    a.shutdown().await;
    // Released, not run out: but for that this would take 15 s, and more than one term.
    until(&b, "b leads", held_by("b")).await;
    until(&b, "nine pods are there", |pods: &[Arc<Pod>]| {
        pods.iter().filter(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some())).count() == 9
    })
    .await;
    for lease in b.api().list_as::<Lease>(&Query { namespace: Some("kube-system".into()), ..Query::default() }).await.unwrap() {
        assert_eq!(lease.spec.as_ref().unwrap().lease_transitions, Some(1), "{:?}", lease.metadata.name);
    }
    until(&b, "both are told of", |events: &[Arc<Event>]| {
        let told = |text: &str| {
            events.iter().any(|e| e.reason.as_deref() == Some("LeaderElection") && e.message.as_deref().is_some_and(|m| m.contains(text)))
        };
        told("became leader") && told("stopped leading")
    })
    .await;
    assert_eq!(seen.lock().len(), 9, "none was made twice");
    b.shutdown().await;
}

async fn says_it_leads(cluster: &Cluster) -> bool {
    let request = hyper::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = cluster.client().request_text(request).await.unwrap();
    text.lines().any(|line| line == "leader_election_master_status{name=\"kube-controller-manager\"} 1")
}

/// Its clock stands still: it never learns that its lease has run out, and its controllers go on beside the other's. Only the store can
/// tell them.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_know_that_it_was_replaced_makes_no_pod() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let timing =
        Timing { lease_duration: Duration::from_secs(3), renew_deadline: Duration::from_secs(2), retry_period: Duration::from_millis(200) };
    let sleepy = Cluster::builder().store(store.clone()).identity("a").clock(Arc::new(ManualClock::default()));
    let a = sleepy.leader_election(true).leader_election_timing(timing).start().await.unwrap();
    until(&a, "a leads", held_by("a")).await;
    // Its controllers have begun, and see what happens.
    until(&a, "a's controllers work", |accounts: &[Arc<ServiceAccount>]| !accounts.is_empty()).await;
    let b = builder("b", &store).leader_election(true).leader_election_timing(timing).start().await.unwrap();
    until(&b, "b leads", held_by("b")).await;
    // The lease is written before anybody is told of it.
    let told = async {
        while !says_it_leads(&b).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.expect("b knows that it leads");
    assert!(says_it_leads(&a).await, "both believe it");

    let seen = count_pods(b.api());
    b.api().create(&deployment(5)).await.unwrap();
    until(&b, "five are ready", ready(5)).await;
    // The first write that it tried told it.
    let wait = async {
        while says_it_leads(&a).await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("a finds out");
    assert_eq!(seen.lock().len(), 5, "none was made twice");
    let leases = b.api().list_as::<Lease>(&Query { namespace: Some("kube-system".into()), ..Query::default() }).await.unwrap();
    assert!(held_by("b")(&leases));
    b.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_alone_elects_nobody() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let only = builder("only", &store).start().await.unwrap();
    only.api().create(&deployment(2)).await.unwrap();
    until(&only, "two are ready", ready(2)).await;
    let leases = only.api().list_as::<Lease>(&Query { namespace: Some("kube-system".into()), ..Query::default() }).await.unwrap();
    assert!(leases.is_empty());
    only.shutdown().await;
}

#[tokio::test]
async fn times_that_do_not_go_together_are_refused_at_start() {
    let timing = Timing { lease_duration: Duration::from_secs(1), ..Timing::default() };
    let store: SharedStore = Arc::new(MemoryStore::new());
    let started = builder("a", &store).leader_election(true).leader_election_timing(timing).start().await;
    assert!(matches!(started, Err(crate::ClusterError::Election(_))));
}
