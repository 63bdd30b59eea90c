//! A mini-cluster that ends, in good order or not, and comes back over its data folder: nothing that was acknowledged is lost, and
//! containers that run are adopted.

use std::path::PathBuf;

use wharf_core::testing::omit;
use wharf_e2e::{MiniCluster, Traces, executable, is_root};

/// The mini-cluster, or the reason why this test is left out.
fn stage(test: &str) -> Option<PathBuf> {
    let Some(executable) = executable() else {
        omit(test, "WHARF_MINI_CLUSTER does not name a built mini-cluster");
        return None;
    };
    if !is_root() {
        omit(test, "real containers need root");
        return None;
    }
    Some(executable)
}

const SECRET: &str = "a word that nobody may read from the disk";

fn populate(cluster: &MiniCluster) {
    cluster.good(&["create", "secret", "generic", "kept", &format!("--from-literal=word={SECRET}")]);
    cluster.good(&["create", "deployment", "kept", "--image=wharf.local/demo:v1", "--replicas=2"]);
    cluster.good(&["rollout", "status", "deployment/kept", "--timeout=120s"]);
}

/// Each container with how often it was restarted.
fn containers(cluster: &MiniCluster) -> Vec<String> {
    let path = "{range .items[*].status.containerStatuses[*]}{.containerID} {.restartCount}{\"\\n\"}{end}";
    let text = cluster.good(&["get", "pods", "-l", "app=kept", "-o", &format!("jsonpath={path}")]);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn secret(cluster: &MiniCluster) -> String {
    cluster.good(&["get", "secret", "kept", "-o", "go-template={{.data.word | base64decode}}"])
}

/// Whether a word stands in any file under a folder.
fn stands_in(folder: &std::path::Path, word: &[u8]) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let found = match entry.file_type() {
            Ok(kind) if kind.is_dir() => stands_in(&path, word),
            Ok(kind) if kind.is_file() => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                bytes.windows(word.len()).any(|window| window == word).then_some(path)
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn what_was_killed_comes_back_and_adopts_its_containers() {
    let Some(executable) = stage("e2e.durable.killed") else { return };
    let before = Traces::now();
    let cluster = MiniCluster::start(&executable, &[]).expect("mini-cluster starts");
    populate(&cluster);
    let ran = containers(&cluster);
    assert_eq!(ran.len(), 2);
    let (folder, data) = (cluster.folder(), cluster.data());
    cluster.kill().expect("it is killed");

    assert!(data.join("store").is_dir(), "objects are in the data folder");
    let encoded = "YSB3b3JkIHRoYXQgbm9ib2R5IG1heSByZWFk";
    for word in [SECRET, encoded] {
        assert_eq!(stands_in(&data.join("store"), word.as_bytes()), None, "Secrets are encrypted");
    }
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(data.join("encryption-key")).expect("a key").permissions());
    assert_eq!(mode & 0o777, 0o600);

    let cluster = MiniCluster::start_in(folder, &executable, &[]).expect("mini-cluster starts again");
    assert_eq!(secret(&cluster), SECRET);
    cluster.good(&["rollout", "status", "deployment/kept", "--timeout=120s"]);
    assert_eq!(containers(&cluster), ran, "the same containers, and none was restarted");
    // The returned cluster is in charge of them.
    cluster.good(&["scale", "deployment/kept", "--replicas=1"]);
    cluster.good(&["wait", "--for=jsonpath={.status.replicas}=1", "deployment/kept", "--timeout=60s"]);
    cluster.good(&["delete", "deployment/kept", "--cascade=foreground", "--timeout=60s"]);
    assert!(cluster.stop().expect("it ends"), "it ends well");
    assert_eq!(Traces::now(), before);
}

#[test]
fn what_ended_in_good_order_makes_its_pods_run_again() {
    let Some(executable) = stage("e2e.durable.ended") else { return };
    let before = Traces::now();
    let cluster = MiniCluster::start(&executable, &[]).expect("mini-cluster starts");
    populate(&cluster);
    let ran = containers(&cluster);
    let folder = cluster.folder();
    assert!(cluster.stop().expect("it ends"), "it ends well");
    assert_eq!(Traces::now(), before, "nothing runs meanwhile");

    let cluster = MiniCluster::start_in(folder.clone(), &executable, &["--keep-running"]).expect("mini-cluster starts again");
    assert_eq!(secret(&cluster), SECRET);
    cluster.good(&["wait", "--for=condition=Ready", "pods", "-l", "app=kept", "--timeout=120s"]);
    let again = containers(&cluster);
    assert!(again.len() == 2 && again.iter().all(|container| !ran.contains(container)), "{ran:?} ended, {again:?} run");
    assert!(cluster.stop().expect("it ends"), "it ends well");

    let cluster = MiniCluster::start_in(folder, &executable, &[]).expect("mini-cluster starts once more");
    cluster.good(&["wait", "--for=condition=Ready", "pods", "-l", "app=kept", "--timeout=120s"]);
    assert_eq!(containers(&cluster), again, "containers were kept running, and are adopted");
    assert!(cluster.stop().expect("it ends"), "it ends well");
    assert_eq!(Traces::now(), before);
}
