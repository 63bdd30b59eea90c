//! The smoke story on every combination of store and runtime that this machine offers, and stores and runtimes that go away for a while.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use wharf_conformance::system::containerd::{self, Containerd, ContainerdError};
use wharf_conformance::system::etcd::Etcd;
use wharf_core::testing::omit;
use wharf_e2e::{MiniCluster, Traces, executable, is_root};

const STEPS: &[&str] = &["apply", "ready", "fetch", "scale", "roll", "rollback", "heal", "adopt", "delete"];
const HOLLOW_STEPS: &[&str] = &["apply", "ready", "scale", "roll", "rollback", "delete"];
/// What a build of mini-cluster without the features answers.
const NOT_BUILT: &str = "is not in this build";

async fn play(executable: &Path, arguments: &[String]) -> Output {
    let (executable, arguments) = (executable.to_owned(), arguments.to_owned());
    let run = move || {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(executable);
        command.args(["--smoke", "--listen", "127.0.0.1:0", "--data"]).arg(folder.path()).args(arguments);
        command.output().expect("mini-cluster runs")
    };
    tokio::task::spawn_blocking(run).await.expect("it does not panic")
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|word| (*word).to_owned()).collect()
}

struct Row {
    store: &'static str,
    runtime: &'static str,
    outcome: String,
}

/// One combination; `Err` says what is missing.
async fn combine(executable: &Path, store: &'static str, runtime: &'static str) -> Result<String, String> {
    if runtime != "hollow" && !is_root() {
        return Err("real containers need root".into());
    }
    let before = Traces::now();
    let mut arguments = words(&["--store", store, "--runtime", runtime]);
    let etcd = match store {
        "etcd" => Some(Etcd::start().await.map_err(|e| e.to_string())?),
        _ => None,
    };
    if let Some(etcd) = &etcd {
        arguments.extend(words(&["--etcd-endpoints", &etcd.endpoint()]));
    }
    let containerd = match runtime {
        "containerd" => match Containerd::start(containerd::Options::default()).await {
            Ok(containerd) => Some(containerd),
            Err(ContainerdError::Missing(what)) => return Err(what),
            Err(error) => panic!("{error}"),
        },
        _ => None,
    };
    if let Some(containerd) = &containerd {
        arguments.extend(words(&["--runtime-endpoint", &containerd.endpoint()]));
    }
    let begin = Instant::now();
    let output = play(executable, &arguments).await;
    let took = begin.elapsed();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("--store {store} --runtime {runtime}\n{out}{err}");
    if err.contains(NOT_BUILT) {
        return Err("mini-cluster was built without it".into());
    }
    if !output.status.success()
        && let Some(containerd) = &containerd
    {
        println!("containerd's log:\n{}", containerd.log());
    }
    assert!(output.status.success(), "--store {store} --runtime {runtime}");
    assert_eq!(out.lines().last(), Some("smoke: ok"));
    let steps: Vec<&str> = out.lines().filter_map(|l| l.strip_prefix("step ")).filter_map(|l| l.split(' ').next()).collect();
    assert_eq!(steps, if runtime == "hollow" { HOLLOW_STEPS } else { STEPS });
    if let Some(containerd) = containerd {
        containerd.stop().await;
    }
    drop(etcd);
    assert_eq!(Traces::now(), before, "--store {store} --runtime {runtime} must leave nothing");
    Ok(format!("ok, {:.1} s", took.as_secs_f64()))
}

#[tokio::test(flavor = "multi_thread")]
async fn smoke_on_every_combination() {
    let test = "e2e.smoke";
    let Some(executable) = executable() else { return omit(test, "WHARF_MINI_CLUSTER does not name a built mini-cluster") };
    let mut rows = Vec::new();
    for store in ["memory", "etcd"] {
        for runtime in ["youki", "containerd", "hollow"] {
            let outcome = match combine(&executable, store, runtime).await {
                Ok(outcome) => outcome,
                Err(missing) => {
                    omit(&format!("{test}.{store}.{runtime}"), &missing);
                    format!("omitted: {missing}")
                }
            };
            rows.push(Row { store, runtime, outcome });
        }
    }
    println!("{:<8} {:<11} {:<9} SMOKE", "STORE", "RUNTIME", "PROXY");
    for Row { store, runtime, outcome } in rows {
        let proxy = if runtime == "hollow" { "none" } else { "iptables" };
        println!("{store:<8} {runtime:<11} {proxy:<9} {outcome}");
    }
}

/// A cluster with more options, kubectl and root, or the reason why there is none.
fn cluster(test: &str, root: bool, executable: Option<PathBuf>, arguments: &[&str]) -> Option<MiniCluster> {
    let Some(executable) = executable else {
        omit(test, "WHARF_MINI_CLUSTER does not name a built mini-cluster");
        return None;
    };
    if root && !is_root() {
        omit(test, "real containers need root");
        return None;
    }
    if Command::new("kubectl").args(["version", "--client"]).output().is_err() {
        omit(test, "kubectl is not installed");
        return None;
    }
    // A data folder that cannot be: it gets past its choices and no further.
    let tried = Command::new(&executable).args(arguments).args(["--data", "/proc/none"]).output();
    if tried.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains(NOT_BUILT)) {
        omit(test, "mini-cluster was built without the feature");
        return None;
    }
    Some(MiniCluster::start(&executable, arguments).expect("mini-cluster starts"))
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_may_restart_under_a_cluster_and_a_cluster_over_etcd() {
    let test = "e2e.etcd.restart";
    let Some(etcd) = Etcd::start_or_omit(test).await else { return };
    let (endpoint, keys) = (etcd.endpoint(), tempfile::tempdir().expect("a folder"));
    let key_file = keys.path().join("encryption-key");
    let without = ["--runtime", "hollow", "--store", "etcd", "--etcd-endpoints", endpoint.as_str()];
    let arguments = [&without[..], &["--encryption-key-file", key_file.to_str().expect("a path in UTF-8")]].concat();
    let Some(running) = cluster(test, false, executable(), &arguments) else { return };
    running.good(&["create", "deployment", "demo", "--image=wharf.local/demo:v1", "--replicas=2"]);
    running.good(&["rollout", "status", "deployment/demo", "--timeout=60s"]);

    etcd.kill();
    let complaint = running.bad(&["create", "configmap", "lost", "--request-timeout=30s"]);
    assert!(!complaint.is_empty());
    etcd.start_again().await.expect("etcd starts again");
    // Clients try again, as they would with any API server whose etcd was away.
    let begin = Instant::now();
    while !running.kubectl(&["scale", "deployment/demo", "--replicas=4"]).is_ok_and(|output| output.status.success()) {
        assert!(begin.elapsed() < Duration::from_secs(60), "the cluster must find etcd again");
    }
    running.good(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    assert_eq!(running.good(&["get", "deployment", "demo", "-o", "jsonpath={.status.readyReplicas}"]), "4");
    let uid = running.good(&["get", "deployment", "demo", "-o", "jsonpath={.metadata.uid}"]);
    assert!(running.stop().expect("it ends"), "it ends well");

    // One without the keys is told so, and nothing is written.
    let refused = play(&executable().expect("it is there"), &words(&without)).await;
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && complaint.contains("is not in the key file"), "{complaint}");
    let Some(second) = cluster(test, false, executable(), &arguments) else { return };
    assert_eq!(second.good(&["get", "deployment", "demo", "-o", "jsonpath={.metadata.uid}"]), uid, "objects outlive the process");
    second.good(&["scale", "deployment/demo", "--replicas=1"]);
    second.good(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    assert!(second.stop().expect("it ends"), "it ends well");
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_may_restart_under_a_cluster() {
    let test = "e2e.containerd.restart";
    let mut containerd = match Containerd::start(containerd::Options::default()).await {
        Ok(containerd) => containerd,
        Err(ContainerdError::Missing(what)) => return omit(test, &what),
        Err(error) => panic!("{error}"),
    };
    let endpoint = containerd.endpoint();
    let arguments = ["--runtime", "containerd", "--runtime-endpoint", endpoint.as_str()];
    if let Some(running) = cluster(test, true, executable(), &arguments) {
        running.good(&["create", "deployment", "demo", "--image=wharf.local/demo:v1", "--replicas=2"]);
        running.good(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
        assert!(running.good(&["get", "nodes", "-o", "wide"]).contains("containerd://"));
        let before = running.good(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].containerID}"]);
        containerd.kill();
        // Asked of a cluster whose runtime is away; done once it is back.
        running.good(&["scale", "deployment/demo", "--replicas=3"]);
        containerd.start_again().await.expect("containerd starts again");
        running.good(&["rollout", "status", "deployment/demo", "--timeout=120s"]);
        let after = running.good(&["get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].containerID}"]);
        for container in before.split(' ') {
            assert!(after.contains(container), "{container} must still run: {after}");
        }
        assert!(running.good(&["exec", "deployment/demo", "--", "wget", "http://127.0.0.1:8080/version"]).contains("v1"));
        assert!(running.good(&["logs", "deployment/demo"]).contains("demo v1 listens on port 8080"));
        running.good(&["delete", "deployment", "demo"]);
        running.good(&["wait", "--for=delete", "pod", "-l", "app=demo", "--timeout=60s"]);
        assert!(running.stop().expect("it ends"), "it ends well");
    }
    containerd.stop().await;
}
