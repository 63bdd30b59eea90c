//! The mini-cluster with stock kubectl.

use std::process::Command;

use wharf_core::testing::omit;
use wharf_e2e::{MiniCluster, Traces, executable, is_root};

const SMOKE: &str = include_str!("../../../examples/mini-cluster/smoke.yaml");

/// A real cluster with kubectl, or the reason why there is none.
fn cluster(test: &str) -> Option<MiniCluster> {
    let Some(executable) = executable() else {
        omit(test, "WHARF_MINI_CLUSTER does not name a built mini-cluster");
        return None;
    };
    if !is_root() {
        omit(test, "real containers need root");
        return None;
    }
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        omit(test, "kubectl is not installed");
        return None;
    }
    Some(MiniCluster::start(&executable, &[]).expect("mini-cluster starts"))
}

#[test]
fn kubectl_from_apply_to_delete() {
    let before = Traces::now();
    let Some(cluster) = cluster("e2e.kubectl.story") else { return };
    let yaml = cluster.file("smoke.yaml", SMOKE).expect("written");
    let applied = cluster.good(&["apply", "-f", &yaml]);
    assert!(applied.contains("deployment.apps/demo created") && applied.contains("service/demo created"));
    cluster.good(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    cluster.good(&["wait", "--for=condition=Available", "deployment/demo", "--timeout=60s"]);
    assert!(cluster.good(&["apply", "-f", &yaml]).contains("deployment.apps/demo unchanged"));

    let table = cluster.good(&["get", "pods"]);
    assert!(table.starts_with("NAME") && table.matches("1/1").count() == 3 && table.matches("Running").count() == 3);
    assert!(cluster.good(&["get", "pods", "-o", "wide"]).contains("NODE"));
    let json: serde_json::Value = serde_json::from_str(&cluster.good(&["get", "deployment", "demo", "-o", "json"])).expect("JSON");
    assert_eq!(json["status"]["readyReplicas"], 3);
    assert!(cluster.good(&["get", "deployment", "demo", "-o", "yaml"]).contains("kind: Deployment"));
    assert!(cluster.good(&["get", "all"]).contains("service/demo"));
    cluster.good(&["get", "nodes", "-o", "wide"]);
    assert!(cluster.good(&["describe", "deployment", "demo"]).contains("ScalingReplicaSet"));
    assert!(cluster.good(&["describe", "pods", "-l", "app=demo"]).contains("Successfully assigned"));
    cluster.good(&["describe", "service", "demo"]);
    cluster.good(&["describe", "nodes"]);

    assert!(cluster.good(&["logs", "deployment/demo", "--tail=1000"]).contains("demo v1 listens on port 8080"));
    assert!(cluster.good(&["exec", "deployment/demo", "--", "cat", "/etc/demo/message"]).contains("Good day"));
    let failed = cluster.kubectl(&["exec", "deployment/demo", "--", "false"]).expect("kubectl runs");
    assert_eq!(failed.status.code(), Some(1), "exec passes the exit code on");

    cluster.good(&["scale", "deployment/demo", "--replicas=5"]);
    cluster.good(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    cluster.good(&["set", "image", "deployment/demo", "demo=wharf.local/demo:v2"]);
    cluster.good(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    assert!(cluster.good(&["exec", "deployment/demo", "--", "wget", "http://127.0.0.1:8080/version"]).contains("v2"));
    assert!(cluster.good(&["rollout", "history", "deployment/demo"]).contains('2'));
    cluster.good(&["rollout", "undo", "deployment/demo"]);
    cluster.good(&["rollout", "status", "deployment/demo", "--timeout=60s"]);
    assert!(cluster.good(&["exec", "deployment/demo", "--", "wget", "http://127.0.0.1:8080/version"]).contains("v1"));

    cluster.good(&["delete", "-f", &yaml, "--timeout=60s"]);
    cluster.good(&["wait", "--for=delete", "pod", "-l", "app=demo", "--timeout=60s"]);
    assert!(cluster.good(&["get", "pods"]).is_empty());
    assert!(cluster.stop().expect("it ends"), "it ends well");
    assert_eq!(Traces::now(), before);
}

#[test]
fn bad_input_gets_kubernetes_own_answers() {
    let Some(cluster) = cluster("e2e.kubectl.bad_input") else { return };
    let file = |name: &str, text: &str| cluster.file(name, text).expect("written");
    let complaint = cluster.bad(&["apply", "-f", &file("kind.yaml", "apiVersion: v1\nkind: Nothing\nmetadata: {name: a}\n")]);
    assert!(complaint.contains("no matches for kind \"Nothing\" in version \"v1\""), "{complaint}");
    let complaint =
        cluster.bad(&["create", "-f", &file("strict.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndatta: {a: b}\n")]);
    assert!(complaint.contains("strict decoding error: unknown field \"datta\""), "{complaint}");
    let broken = file("broken.json", "{\"apiVersion\": \"v1\", ");
    let complaint = cluster.bad(&["create", "--raw", "/api/v1/namespaces/default/configmaps", "-f", &broken]);
    assert!(complaint.contains("BadRequest"), "{complaint}");
    let large = format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{{\"name\":\"l\"}},\"data\":{{\"a\":\"{}\"}}}}",
        "x".repeat(3 << 20)
    );
    let complaint = cluster.bad(&["create", "--raw", "/api/v1/namespaces/default/configmaps", "-f", &file("large.json", &large)]);
    assert!(complaint.to_lowercase().contains("too large"), "{complaint}");
    assert!(cluster.bad(&["get", "pod", "nobody"]).contains("pods \"nobody\" not found"));
    assert!(cluster.bad(&["create", "configmap", "a", "-n", "nowhere"]).contains("namespaces \"nowhere\" not found"));

    cluster.good(&["create", "configmap", "c", "--from-literal=a=b"]);
    let complaint = cluster.bad(&["create", "configmap", "c"]);
    assert!(complaint.contains("configmaps \"c\" already exists"), "{complaint}");
    let stale = file("stale.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, resourceVersion: \"1\"}\ndata: {a: x}\n");
    let complaint = cluster.bad(&["replace", "-f", &stale]);
    assert!(complaint.contains("the object has been modified"), "{complaint}");
    assert_eq!(cluster.good(&["get", "configmap", "c", "-o", "jsonpath={.data.a}"]), "b");

    cluster.good(&["run", "nopull", "--image=wharf.local/missing:v9"]);
    cluster.good(&[
        "wait",
        "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff",
        "pod/nopull",
        "--timeout=60s",
    ]);
    assert!(cluster.good(&["describe", "pod", "nopull"]).contains("Failed to pull image"));
    cluster.good(&["run", "nocommand", "--image=wharf.local/demo:v1", "--command", "--", "/bin/no-such-program"]);
    cluster.good(&[
        "wait",
        "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff",
        "pod/nocommand",
        "--timeout=60s",
    ]);
    assert!(cluster.good(&["describe", "pod", "nocommand"]).contains("no-such-program"));
    let complaint = cluster.bad(&["logs", "nopull"]);
    assert!(complaint.contains("is waiting to start"), "{complaint}");
    cluster.good(&["delete", "pod", "nopull", "nocommand", "--timeout=60s"]);
    assert!(cluster.stop().expect("it ends"));
}
