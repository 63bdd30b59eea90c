//! Debian's etcdctl on the bridge, as a person types.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use wharf_core::testing::omit;

use crate::support::Served;

struct Ctl {
    served: Served,
    /// Whether the endpoint is said as an URL.
    url: bool,
}

impl Ctl {
    async fn or_omit(test: &str) -> Option<Self> {
        match Command::new("etcdctl").arg("version").env("ETCDCTL_API", "3").output().await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                omit(test, "etcdctl is missing: install Debian's etcd-client");
                None
            }
            Err(error) => panic!("{error}"),
            Ok(_) => Some(Self { served: Served::memory().await, url: false }),
        }
    }
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        let scheme = if self.url { "http://" } else { "" };
        command.env("ETCDCTL_API", "3").arg(format!("--endpoints={scheme}127.0.0.1:{}", self.served.port)).args(words).kill_on_drop(true);
        command
    }
    async fn output(&self, words: &[&str]) -> Output {
        self.command(words).stdin(Stdio::null()).output().await.unwrap()
    }
    /// What it prints when it succeeds.
    async fn ok(&self, words: &[&str]) -> String {
        let output = self.output(words).await;
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
    /// What it prints when it fails.
    async fn fails(&self, words: &[&str]) -> String {
        let output = self.output(words).await;
        assert!(!output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
    /// A transaction, as typed.
    async fn txn(&self, text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("txn");
        std::fs::write(&file, text).unwrap();
        let output = self.command(&["txn"]).stdin(std::fs::File::open(&file).unwrap()).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[tokio::test]
async fn keys() {
    let Some(ctl) = Ctl::or_omit("bridge.etcdctl.keys").await else { return };
    assert_eq!(ctl.ok(&["put", "a", "1"]).await, "OK");
    assert_eq!(ctl.ok(&["put", "a", "2", "--prev-kv"]).await, "OK\na\n1");
    assert_eq!(ctl.ok(&["put", "b/1", "x"]).await, "OK");
    assert_eq!(ctl.ok(&["put", "b/2", "y"]).await, "OK");
    assert_eq!(ctl.ok(&["get", "a"]).await, "a\n2");
    assert_eq!(ctl.ok(&["get", "b/", "--prefix", "--keys-only"]).await.replace("\n\n", "\n"), "b/1\nb/2");
    assert_eq!(ctl.ok(&["get", "", "--from-key", "--print-value-only"]).await, "2\nx\ny");
    assert_eq!(ctl.ok(&["get", "b/", "--prefix", "--order=DESCEND", "--sort-by=KEY", "--limit=1"]).await, "b/2\ny");
    assert_eq!(ctl.ok(&["get", "a", "--rev=2"]).await, "a\n1");
    assert!(ctl.ok(&["get", "a", "-w", "json"]).await.contains(r#""create_revision":2,"mod_revision":3,"version":2"#));
    assert_eq!(ctl.ok(&["del", "b/", "--prefix", "--prev-kv"]).await, "2\nb/1\nx\nb/2\ny");
    assert_eq!(ctl.ok(&["del", "nothing"]).await, "0");
    assert!(ctl.fails(&["get", "a", "--rev=99"]).await.contains("etcdserver: mvcc: required revision is a future revision"));
    assert!(ctl.fails(&["put", "", "x"]).await.contains("key is not provided"));
}

#[tokio::test]
async fn transactions() {
    let Some(ctl) = Ctl::or_omit("bridge.etcdctl.transactions").await else { return };
    ctl.ok(&["put", "user1", "bad"]).await;
    let text = "value(\"user1\") = \"bad\"\n\ndel user1\nput seen 1\n\nput user1 good\n\n";
    assert_eq!(ctl.txn(text).await, "SUCCESS\n\n1\n\nOK");
    assert_eq!(ctl.txn(text).await, "FAILURE\n\nOK");
    assert_eq!(ctl.ok(&["get", "user1"]).await, "user1\ngood");
    assert_eq!(ctl.txn("mod(\"user1\") > \"3\"\nver(\"none\") = \"0\"\n\nget user1\n\n\n").await, "SUCCESS\n\nuser1\ngood");
}

#[tokio::test]
async fn watches() {
    let Some(ctl) = Ctl::or_omit("bridge.etcdctl.watches").await else { return };
    ctl.ok(&["put", "w/1", "old"]).await;
    let mut watch = ctl.command(&["watch", "w/", "--prefix", "--rev=1", "--prev-kv"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = async || lines.next_line().await.unwrap().unwrap();
    for expected in ["PUT", "w/1", "old"] {
        assert_eq!(next().await, expected);
    }
    ctl.ok(&["put", "other", "x"]).await;
    ctl.ok(&["put", "w/1", "new"]).await;
    ctl.ok(&["del", "w/1"]).await;
    for expected in ["PUT", "w/1", "old", "w/1", "new", "DELETE", "w/1", "new", "w/1", ""] {
        assert_eq!(next().await, expected);
    }
    watch.kill().await.unwrap();
    ctl.ok(&["compact", "4", "--physical"]).await;
    assert!(ctl.fails(&["watch", "w/", "--prefix", "--rev=2"]).await.contains("required revision has been compacted"));
    assert!(ctl.fails(&["compact", "4"]).await.contains("etcdserver: mvcc: required revision has been compacted"));
    assert!(ctl.fails(&["get", "w/1", "--rev=3"]).await.contains("etcdserver: mvcc: required revision has been compacted"));
}

#[tokio::test]
async fn leases() {
    let Some(ctl) = Ctl::or_omit("bridge.etcdctl.leases").await else { return };
    let granted = ctl.ok(&["lease", "grant", "600"]).await;
    let id = granted.split_whitespace().nth(1).unwrap().to_owned();
    assert!(granted.ends_with("granted with TTL(600s)"), "{granted}");
    ctl.ok(&["put", "held", "x", &format!("--lease={id}")]).await;
    assert!(ctl.ok(&["lease", "timetolive", &id, "--keys"]).await.ends_with("attached keys([held])"));
    assert!(ctl.ok(&["lease", "keep-alive", "--once", &id]).await.ends_with("keepalived with TTL(600)"));
    assert!(ctl.ok(&["lease", "list"]).await.contains(&id));
    assert_eq!(ctl.ok(&["lease", "revoke", &id]).await, format!("lease {id} revoked"));
    assert_eq!(ctl.ok(&["get", "held"]).await, "");
    assert!(ctl.fails(&["lease", "revoke", &id]).await.contains("etcdserver: requested lease not found"));
    assert!(ctl.fails(&["put", "held", "x", &format!("--lease={id}")]).await.contains("etcdserver: requested lease not found"));
}

#[tokio::test]
async fn maintenance() {
    let Some(ctl) = Ctl::or_omit("bridge.etcdctl.maintenance").await else { return };
    maintain(ctl).await;
}

/// This etcdctl makes an `:authority` of it that is none.
#[tokio::test]
async fn maintenance_of_an_url() {
    let Some(ctl) = Ctl::or_omit("bridge.etcdctl.url").await else { return };
    maintain(Ctl { url: true, ..ctl }).await;
}

async fn maintain(ctl: Ctl) {
    ctl.ok(&["put", "a", "1"]).await;
    let health = ctl.output(&["endpoint", "health"]).await;
    assert!(health.status.success(), "{health:?}");
    let status = ctl.ok(&["endpoint", "status", "-w", "fields"]).await;
    for field in [r#""Version" : "3.6.0""#, r#""RaftIndex" : 2"#, r#""Revision" : 2"#] {
        assert!(status.contains(field), "{status}");
    }
    assert!(ctl.ok(&["member", "list"]).await.contains(&ctl.served.endpoint));
    assert!(ctl.ok(&["defrag"]).await.contains("Finished defragmenting"));
    assert_eq!(ctl.ok(&["alarm", "list"]).await, "");
    let hash = ctl.ok(&["endpoint", "hashkv", "--write-out=json"]).await;
    assert!(hash.contains(r#""compact_revision":2"#), "{hash}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snapshot");
    ctl.ok(&["snapshot", "save", file.to_str().unwrap()]).await;
    assert!(ctl.ok(&["snapshot", "status", file.to_str().unwrap(), "-w", "json"]).await.contains(r#""revision":2"#));
    // What it cannot do it says.
    assert!(ctl.fails(&["user", "list"]).await.contains("no users and roles"));
    assert!(ctl.fails(&["member", "remove", "1"]).await.contains("no members that come and go"));
}
