//! Two runtimes of one node, chosen by RuntimeClass: containers of youki, and plain processes of the host.
//! What docs/writing-a-runtime.md says of a node with both is held here. Needs root.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

#[path = "../custom-runtime/process_runtime.rs"]
mod process_runtime;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use process_runtime::ProcessRuntime;
use serde_json::{Value, json};
use wharf::runtime_youki::YoukiRuntime;
use wharf::{Cluster, NodeSpec};
use wharf_conformance::system::oci_image::OciImage;
use wharf_core::clock::SystemClock;
use wharf_core::testing::omit;

const IMAGE: &str = "wharf.local/where:v1";
/// Marks a run of this executable as a pod's program.
const WHERE: &str = "say-where";
/// Far beyond what it takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often mounts are looked at: nothing tells of them.
const POLL: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    // A pod's shim is this same program, run again: this comes before anything else.
    wharf::runtime_youki::shim_main();
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|word| word == WHERE) {
        println!("{}", whereabouts());
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() {
        omit("beside_youki", "containers need root");
        return ExitCode::SUCCESS;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(story());
    println!("test beside_youki ... ok");
    ExitCode::SUCCESS
}

/// The PID namespace, and whether this is its first process.
fn whereabouts() -> String {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap();
    format!("{} first={}", namespace.display(), std::process::id() == 1)
}

fn pod(name: &str, class: Option<&str>, program: &str) -> Pod {
    let mut pod = json!({"metadata": {"name": name}, "spec": {
        "hostNetwork": true, "restartPolicy": "Never",
        "containers": [{"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": [program, WHERE]}],
    }});
    if let Some(class) = class {
        pod["spec"]["runtimeClassName"] = Value::from(class);
    }
    serde_json::from_value(pod).unwrap()
}

/// Runs a pod to its end; what it printed.
async fn run(pods: &Api<Pod>, pod: Pod) -> String {
    let name = pod.metadata.name.clone().unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let ended = |pod: Option<&Pod>| {
        let phase = pod.and_then(|p| p.status.as_ref()?.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    await_condition(pods.clone(), &name, ended).await.unwrap();
    pods.logs(&name, &LogParams::default()).await.unwrap().trim().to_owned()
}

async fn story() {
    let home = tempfile::tempdir().unwrap();
    let youki = Arc::new(YoukiRuntime::builder(home.path().join("runtime")).build().await.unwrap());
    let archive = home.path().join("image.tar");
    OciImage::of_this_executable(IMAGE, "where").unwrap().write_archive(&archive).unwrap();
    youki.images().import_archive(&archive, None).await.unwrap();

    let processes = Arc::new(ProcessRuntime::new(SystemClock::shared()));
    let node = NodeSpec::new("worker", youki, home.path().join("root"), home.path().join("logs")).runtime_handler("process", processes);
    let cluster = Cluster::builder().listen("127.0.0.1:0".parse().unwrap()).node(node).start().await.unwrap();
    let classes: Api<RuntimeClass> = Api::all(cluster.client());
    for (name, handler) in [("process", "process"), ("nowhere", "no-such-handler")] {
        let class = json!({"metadata": {"name": name}, "handler": handler});
        classes.create(&PostParams::default(), &serde_json::from_value(class).unwrap()).await.unwrap();
    }

    let pods: Api<Pod> = Api::default_namespaced(cluster.client());
    let contained = run(&pods, pod("contained", None, "/bin/where")).await;
    let own = std::env::current_exe().unwrap();
    let plain = run(&pods, pod("plain", Some("process"), own.to_str().unwrap())).await;
    let here = std::fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    assert_eq!(plain, format!("{here} first=false"), "a process of the host");
    assert!(contained.ends_with("first=true") && !contained.starts_with(&here), "a container is a world of its own, not {contained}");

    refused(&cluster, &pods).await;
    for name in ["contained", "plain", "lost"] {
        let uid = pods.get(name).await.unwrap().metadata.uid.unwrap();
        pods.delete(name, &DeleteParams::default()).await.unwrap();
        await_condition(pods.clone(), name, conditions::is_deleted(&uid)).await.unwrap();
    }
    // The agent takes a pod's sandbox and volumes away after the pod is gone from the API.
    let gone = async {
        while !mounts_in(home.path()).is_empty() {
            tokio::time::sleep(POLL).await;
        }
    };
    let taken_away = tokio::time::timeout(PATIENCE, gone).await;
    assert!(taken_away.is_ok(), "of the pods there is left: {:?}", mounts_in(home.path()));
    cluster.shutdown().await;
}

/// A class that there is not, and one whose handler the node lacks.
async fn refused(cluster: &Cluster, pods: &Api<Pod>) {
    let error = pods.create(&PostParams::default(), &pod("unknown", Some("x"), "/bin/where")).await.unwrap_err().to_string();
    assert!(error.contains("pod rejected: RuntimeClass \"x\" not found"), "{error}");
    pods.create(&PostParams::default(), &pod("lost", Some("nowhere"), "/bin/where")).await.unwrap();
    let events: Api<Event> = Api::default_namespaced(cluster.client());
    let told = |event: &Event| {
        let message = event.message.as_deref().unwrap_or_default();
        event.reason.as_deref() == Some("FailedCreatePodSandBox") && message.contains("no runtime for \"no-such-handler\" is configured")
    };
    let mut changes = Box::pin(kube::runtime::watcher(events.clone(), Default::default()));
    let seen = async {
        while let Some(change) = futures::StreamExt::next(&mut changes).await {
            use kube::runtime::watcher::Event::{Apply, InitApply};
            if let Ok(Apply(event) | InitApply(event)) = change
                && told(&event)
            {
                return true;
            }
        }
        false
    };
    assert!(seen.await, "{:?}", events.list(&ListParams::default()).await);
}

fn mounts_in(folder: &Path) -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().filter(|line| line.split(' ').nth(1).is_some_and(|path| Path::new(path).starts_with(folder))).map(Into::into).collect()
}
