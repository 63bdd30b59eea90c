//! Two mini-clusters, processes of their own, over one etcd: one leads, and when it is killed or put to sleep the other goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use wharf_conformance::system::etcd::Etcd;
use wharf_core::testing::omit;
use wharf_e2e::{MiniCluster, executable, is_root};

/// What a build of mini-cluster without the feature answers.
const NOT_BUILT: &str = "is not in this build";
/// leaseDuration and the longest wait between two tries, and what two busy cores may add to it.
const TAKEOVER: Duration = Duration::from_secs(15 + 5 + 15);
/// Against a test that hangs.
const PATIENCE: Duration = Duration::from_secs(180);
const ASK_AGAIN: Duration = Duration::from_millis(100);
const REPLICAS: i32 = 8;
const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// A process of the cluster, and a client of its API server.
struct Process {
    cluster: MiniCluster,
    client: Client,
}

fn signal(process: &Process, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(process.cluster.pid()).expect("a process id")), signal).expect("it can be signalled");
}

async fn client(kubeconfig: &Path) -> Client {
    let config = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.expect("a configuration");
    Client::try_from(config).expect("a client")
}

/// What the processes share: an etcd, and the keys that Secrets are encrypted with in it.
struct Common {
    etcd: Etcd,
    keys: tempfile::TempDir,
}

async fn start(executable: &Path, common: &Common, name: &'static str, more: &[&str]) -> Process {
    let (endpoint, keys) = (common.etcd.endpoint(), common.keys.path().join("encryption-key"));
    let keys = keys.to_str().expect("a path in UTF-8");
    let all = ["--store", "etcd", "--etcd-endpoints", endpoint.as_str(), "--encryption-key-file", keys, "--node-name", name];
    let arguments = [&all[..], more].concat();
    let cluster = tokio::task::block_in_place(|| MiniCluster::start(executable, &arguments)).expect("mini-cluster starts");
    let client = client(&cluster.kubeconfig()).await;
    Process { cluster, client }
}

/// mini-cluster with etcd built in, and an etcd; or the reason why not.
async fn stage(test: &str) -> Option<(PathBuf, Common)> {
    let Some(executable) = executable() else {
        omit(test, "WHARF_MINI_CLUSTER does not name a built mini-cluster");
        return None;
    };
    // A data folder that cannot be: it gets past its choices and no further.
    let tried = Command::new(&executable).args(["--store", "etcd", "--runtime", "hollow", "--data", "/proc/none"]).output();
    if tried.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains(NOT_BUILT)) {
        omit(test, "mini-cluster was built without etcd");
        return None;
    }
    let etcd = Etcd::start_or_omit(test).await?;
    Some((executable, Common { etcd, keys: tempfile::tempdir().expect("a folder") }))
}

/// Who holds the leases, if it is one process.
async fn holder(client: &Client) -> Option<String> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let mut holders = Vec::new();
    for name in LEASES {
        let holder = leases.get_opt(name).await.ok()??.spec?.holder_identity?;
        holders.push(holder.split('_').next().unwrap_or_default().to_owned());
    }
    holders.dedup();
    (holders.len() == 1).then(|| holders.remove(0)).filter(|holder| !holder.is_empty())
}

async fn until<F: Future<Output = bool>>(what: &str, wanted: impl Fn() -> F) -> Duration {
    let begin = Instant::now();
    while !wanted().await {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(ASK_AGAIN).await;
    }
    begin.elapsed()
}

async fn until_leads(client: &Client, name: &str) -> Duration {
    until(&format!("{name} leads"), async || holder(client).await.as_deref() == Some(name)).await
}

/// Pods on the nodes of the process that stays, so that none has to be replaced because its node is gone.
fn deployment(nodes: &[&str]) -> Deployment {
    let on = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": nodes}]});
    let value = json!({
        "metadata": {"name": "demo"},
        // It takes its time, so that there is a middle.
        "spec": {"replicas": REPLICAS, "minReadySeconds": 1, "selector": {"matchLabels": {"app": "demo"}},
            "strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"app": "demo"}}, "spec": {
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [on]}}},
                "terminationGracePeriodSeconds": 1, "containers": [{"name": "demo", "image": "wharf.local/demo:v1"}]}}},
    });
    serde_json::from_value(value).expect("a deployment")
}

fn image(tag: &str) -> serde_json::Value {
    json!({"spec": {"template": {"spec": {"containers": [{"name": "demo", "image": format!("wharf.local/demo:{tag}")}]}}}})
}

async fn patch(client: &Client, patch: &serde_json::Value) {
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.patch("demo", &PatchParams::default(), &Patch::Strategic(patch)).await.expect("patched");
}

/// Whether the rollout is over, as kubectl tells.
async fn rolled_out(client: &Client) -> bool {
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let Ok(found) = deployments.get("demo").await else { return false };
    let Some(status) = &found.status else { return false };
    status.observed_generation == found.metadata.generation
        && [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas] == [Some(REPLICAS); 4]
}

/// Every pod that ever came into being, by uid: the ReplicaSet that it is of, and whether it lives.
type Pods = Arc<Mutex<BTreeMap<String, (String, bool)>>>;

/// Follows the pods through one server from now on.
async fn count(client: &Client) -> Pods {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let seen = Pods::default();
    let listed = pods.list(&ListParams::default()).await.expect("a list");
    assert!(listed.items.is_empty());
    let (all, mut from) = (seen.clone(), listed.metadata.resource_version.unwrap_or_default());
    tokio::spawn(async move {
        loop {
            // A watch that ends goes on where it was.
            let Ok(events) = pods.watch(&WatchParams::default(), &from).await else {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            };
            let mut events = events.boxed();
            while let Ok(Some(event)) = events.try_next().await {
                let (pod, lives) = match event {
                    WatchEvent::Added(pod) | WatchEvent::Modified(pod) => (pod, true),
                    WatchEvent::Deleted(pod) => (pod, false),
                    WatchEvent::Bookmark(mark) => {
                        from = mark.metadata.resource_version;
                        continue;
                    }
                    WatchEvent::Error(status) => panic!("the watch broke: {status:?}"),
                };
                from = pod.resource_version().unwrap_or_default();
                let set = pod.owner_references().first().map(|o| o.name.clone()).unwrap_or_default();
                all.lock().expect("no test panicked").insert(pod.uid().unwrap_or_default(), (set, lives));
            }
        }
    });
    seen
}

/// How many pods each ReplicaSet ever had, and has.
fn tally(pods: &Pods) -> BTreeMap<String, (usize, usize)> {
    let mut tally = BTreeMap::<String, (usize, usize)>::new();
    for (set, lives) in pods.lock().expect("no test panicked").values() {
        let entry = tally.entry(set.clone()).or_default();
        entry.0 += 1;
        entry.1 += usize::from(*lives);
    }
    tally
}

/// Waits for the end of a rollout, then holds that each ReplicaSet so far made its pods exactly once, and that only the last one's live.
async fn finish(client: &Client, pods: &Pods, sets: usize) {
    until("the rollout ends", async || rolled_out(client).await).await;
    let wanted = REPLICAS as usize;
    until("the old pods are gone", async || tally(pods).values().map(|(_, living)| living).sum::<usize>() == wanted).await;
    let tally = tally(pods);
    println!("pods made and living, by ReplicaSet: {tally:?}");
    assert_eq!(tally.len(), sets, "{tally:?}");
    assert!(tally.values().all(|(made, _)| *made == wanted), "no pod is made twice: {tally:?}");
}

/// Whether a process says of itself that it leads: for each lease.
async fn says_it_leads(client: &Client) -> Vec<bool> {
    let request = http::Request::get("/metrics").body(Vec::new()).expect("a request");
    let text = client.request_text(request).await.unwrap_or_default();
    let says = |lease: &str| text.lines().any(|line| line == format!("leader_election_master_status{{name=\"{lease}\"}} 1"));
    LEASES.iter().map(|lease| says(lease)).collect()
}

async fn transitions(client: &Client) -> Vec<Option<i32>> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-system");
    let mut all = Vec::new();
    for name in LEASES {
        all.push(leases.get(name).await.expect("a lease").spec.and_then(|spec| spec.lease_transitions));
    }
    all
}

/// The first of two processes leads, the second has the pods: of the runtime that the arguments name, on these nodes.
async fn two(executable: &Path, common: &Common, of_second: &[&str], nodes: &[&str]) -> (Process, Process, Pods) {
    let first = start(executable, common, "first", &["--runtime", "hollow", "--nodes", "1"]).await;
    until_leads(&first.client, "first").await;
    let second = start(executable, common, "second", of_second).await;
    let pods = count(&second.client).await;
    // By the server that stays.
    let deployments: Api<Deployment> = Api::default_namespaced(second.client.clone());
    deployments.create(&PostParams::default(), &deployment(nodes)).await.expect("created");
    finish(&second.client, &pods, 1).await;
    assert_eq!(holder(&second.client).await.as_deref(), Some("first"));
    trusts(&second, &first).await;
    (first, second, pods)
}

/// Whoever one process let in is let in by the other, by certificate and by token.
async fn trusts(process: &Process, issuer: &Process) {
    let mut config = Kubeconfig::read_from(issuer.cluster.kubeconfig()).expect("a kubeconfig");
    let clusters = Kubeconfig::read_from(process.cluster.kubeconfig()).expect("a kubeconfig").clusters;
    let servers = |clusters: &[kube::config::NamedCluster]| clusters.iter().filter_map(|c| c.cluster.clone()?.server).collect::<Vec<_>>();
    assert_ne!(servers(&config.clusters), servers(&clusters));
    config.clusters = clusters;
    for context in ["wharf", "wharf-token"] {
        let options = KubeConfigOptions { context: Some(context.into()), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(config.clone(), &options).await.expect("a configuration");
        let nodes: Api<Node> = Api::all(Client::try_from(config).expect("a client"));
        nodes.list(&ListParams::default()).await.unwrap_or_else(|e| panic!("{context}: {e}"));
    }
}

/// The leader is killed in the middle of a rollout.
async fn kill_the_leader(test: &str, of_second: &[&str], nodes: &[&str]) {
    let Some((executable, common)) = stage(test).await else { return };
    let (first, second, pods) = two(&executable, &common, of_second, nodes).await;
    patch(&second.client, &image("v2")).await;
    until("the rollout is under way", async || tally(&pods).len() == 2).await;
    signal(&first, Signal::SIGKILL);
    let took = until_leads(&second.client, "second").await;
    println!("{test}: the other led {:.1} s after the leader was killed; by then {:?}", took.as_secs_f64(), tally(&pods));
    assert!(took < TAKEOVER, "{took:?}");
    finish(&second.client, &pods, 2).await;
    assert_eq!(transitions(&second.client).await, [Some(1); 2]);

    // One that comes back is the one that waits, and takes over at once from one that ends in good order. It is trusted as before.
    let again = start(&executable, &common, "first", &["--runtime", "hollow", "--nodes", "1"]).await;
    assert_eq!(says_it_leads(&again.client).await, [false; 2]);
    assert!(tokio::task::block_in_place(|| second.cluster.stop()).expect("it ends"), "it ends well");
    let took = until_leads(&again.client, "first").await;
    println!("{test}: it led {:.1} s after the other had ended", took.as_secs_f64());
    assert!(tokio::task::block_in_place(|| again.cluster.stop()).expect("it ends"), "it ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_nothing_is_done_twice() {
    let nodes = ["second-hollow-0", "second-hollow-1", "second-hollow-2"];
    kill_the_leader("e2e.ha.kill.hollow", &["--runtime", "hollow"], &nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_under_real_containers() {
    let test = "e2e.ha.kill.youki";
    if !is_root() {
        return omit(test, "real containers need root");
    }
    kill_the_leader(test, &["--runtime", "youki", "--proxy", "none", "--bridge", "wharfha0", "--pod-cidr", "10.251.0.0/24"], &["second"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_wakes_up_as_one_that_waits() {
    let test = "e2e.ha.sleep";
    let Some((executable, common)) = stage(test).await else { return };
    let nodes = ["second-hollow-0", "second-hollow-1", "second-hollow-2"];
    let (first, second, pods) = two(&executable, &common, &["--runtime", "hollow"], &nodes).await;
    patch(&second.client, &image("v2")).await;
    until("the rollout is under way", async || tally(&pods).len() == 2).await;
    // In the middle of its work: whatever it was about to write it still is when it wakes.
    signal(&first, Signal::SIGSTOP);
    let took = until_leads(&second.client, "second").await;
    println!("{test}: the other led {:.1} s after the leader fell asleep; by then {:?}", took.as_secs_f64(), tally(&pods));
    assert!(took < TAKEOVER, "{took:?}");
    signal(&first, Signal::SIGCONT);
    until("it knows that it leads no more", async || says_it_leads(&first.client).await == [false; 2]).await;
    finish(&second.client, &pods, 2).await;
    assert_eq!(transitions(&second.client).await, [Some(1); 2], "it did not take the leases back");
    assert_eq!(says_it_leads(&second.client).await, [true; 2]);

    // It waits for its turn, and gets it.
    assert!(tokio::task::block_in_place(|| second.cluster.stop()).expect("it ends"), "it ends well");
    until_leads(&first.client, "first").await;
    assert!(tokio::task::block_in_place(|| first.cluster.stop()).expect("it ends"), "it ends well");
}
