//! The real kubectl against the server behind TLS, on loopback.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use wharf_apiserver::ApiServer;
use wharf_apiserver::pki::{Credential, Pki, kubeconfig};
use wharf_apiserver::request::User;
use wharf_apiserver::server::TlsOptions;
use wharf_core::api::ApiError;
use wharf_core::clock::SystemClock;
use wharf_core::node::{LogOptions, NodeConnector};
use wharf_core::object::ObjectRef;
use wharf_core::runtime::{AttachRequest, Duplex, ExecRequest, Session};
use wharf_core::testing::omit;
use wharf_store_memory::MemoryStore;

/// A node on which `cat` copies its input, and everything else prints its arguments; the last argument is the exit code if
/// it is a number. Ports answer what they are sent.
#[derive(Debug)]
struct Node;

#[async_trait]
impl NodeConnector for Node {
    async fn logs(
        &self,
        node: &str,
        pod: &ObjectRef,
        _: &str,
        container: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError> {
        let line = format!("{node} {pod} {container} {:?} {}\n", options.tail_lines, options.follow);
        Ok(futures::stream::iter([Ok(Bytes::from(line))]).boxed())
    }
    async fn exec(&self, _: &str, _: &ObjectRef, _: &str, _: &str, request: &ExecRequest) -> Result<Session, ApiError> {
        let (stdin, mut input) = mpsc::channel::<Bytes>(16);
        let (output, stdout) = mpsc::channel(16);
        let (errors, stderr) = mpsc::channel(16);
        let (exit, exited) = oneshot::channel();
        let command = request.command.clone();
        tokio::spawn(async move {
            if command != ["cat"] {
                let _ = output.send(command.join(" ").into()).await;
                let _ = errors.send("complaint".into()).await;
            }
            while let Some(data) = input.recv().await {
                let _ = output.send(data).await;
            }
            let _ = exit.send(Ok(command.last().and_then(|c| c.parse().ok()).unwrap_or(0)));
        });
        Ok(Session { stdin: request.stdin.then_some(stdin), stdout: Some(stdout), stderr: Some(stderr), resize: None, exit: exited })
    }
    async fn attach(&self, node: &str, pod: &ObjectRef, uid: &str, container: &str, request: &AttachRequest) -> Result<Session, ApiError> {
        let request = ExecRequest { command: vec!["attached".into()], stdin: request.stdin, ..ExecRequest::default() };
        self.exec(node, pod, uid, container, &request).await
    }
    async fn port_forward(&self, _: &str, _: &ObjectRef, _: &str, _: u16) -> Result<Box<dyn Duplex>, ApiError> {
        let (near, far) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(far);
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
        Ok(Box::new(near))
    }
}

struct Cluster {
    folder: tempfile::TempDir,
    _server: ApiServer,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Cluster {
    async fn start() -> Self {
        let clock = SystemClock::shared();
        let keys = Arc::new(Pki::generate(&*clock).unwrap());
        let server = ApiServer::builder(Arc::new(MemoryStore::new()), clock)
            .nodes(Arc::new(Node))
            .pki(keys.clone())
            .token("token-of-dev", User::new("dev", ["devs"]))
            .build()
            .await
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let options = TlsOptions { identity: keys.serving(&[], &[]).unwrap(), client_ca: keys.ca_certificate().to_owned() };
        let contexts = [
            ("admin", Credential::Certificate(keys.admin().unwrap())),
            ("dev", Credential::Token("token-of-dev".into())),
            ("node", Credential::Certificate(keys.node("n1").unwrap())),
        ];
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config"), kubeconfig("wharf", &url, keys.ca_certificate(), &contexts)).unwrap();
        let service = server.service().clone();
        tokio::spawn(async move { service.serve(listener, &options).await });
        Self { folder, _server: server }
    }

    fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new("kubectl");
        command.env("KUBECONFIG", self.folder.path().join("config")).env("HOME", self.folder.path()).args(arguments).kill_on_drop(true);
        command
    }

    async fn with_input(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feed = tokio::spawn(async move {
            let _ = stdin.write_all(&input).await;
        });
        let output = child.wait_with_output().await.unwrap();
        feed.await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    async fn run(&self, arguments: &[&str]) -> Ran {
        self.with_input(arguments, b"").await
    }

    /// What a command prints that must succeed.
    async fn good(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert_eq!(ran.code, 0, "{arguments:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    /// What a command complains of that must fail.
    async fn bad(&self, arguments: &[&str]) -> String {
        let ran = self.run(arguments).await;
        assert_ne!(ran.code, 0, "{arguments:?}: {}{}", ran.out, ran.err);
        ran.err
    }
}

async fn cluster(test: &str) -> Option<Cluster> {
    if tokio::process::Command::new("kubectl").arg("version").arg("--client").output().await.is_err() {
        omit(test, "kubectl is not installed");
        return None;
    }
    Some(Cluster::start().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_one_is_and_what_one_may() {
    let Some(cluster) = cluster("apiserver.kubectl.auth").await else { return };
    assert!(cluster.good(&["version"]).await.contains("Server Version: v1.36.0+wharf"));
    assert!(cluster.good(&["get", "ns"]).await.contains("kube-system"));
    assert!(cluster.good(&["get", "--raw", "/readyz?verbose"]).await.contains("[+]informer-sync ok"));
    let refused = cluster.bad(&["--context", "dev", "get", "pods"]).await;
    assert_eq!(
        refused.trim(),
        r#"Error from server (Forbidden): pods is forbidden: User "dev" cannot list resource "pods" in API group "" in the namespace "default""#
    );
    let refused = cluster.bad(&["--context", "node", "get", "secrets", "-A"]).await;
    assert!(refused.contains(r#"User "system:node:n1" cannot list resource "secrets" in API group "" at the cluster scope"#), "{refused}");
    assert!(cluster.bad(&["--context", "dev", "--as", "admin", "get", "pods"]).await.contains("cannot impersonate resource \"users\""));
    assert!(cluster.bad(&["--token", "wrong", "--context", "dev", "get", "pods"]).await.contains("logged in"));

    let policy = cluster.folder.path().join("policy.yaml");
    let text = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: default}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, list]}
- {apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [get, patch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: dev}]
"#;
    std::fs::write(&policy, text).unwrap();
    cluster.good(&["apply", "-f", policy.to_str().unwrap()]).await;
    // The index follows the store at its own pace.
    while cluster.run(&["--context", "dev", "get", "pods"]).await.code != 0 {}
    assert!(cluster.bad(&["--context", "dev", "-n", "kube-system", "get", "pods"]).await.contains("forbidden"));

    // An editor of roles cannot write one that is mightier than itself.
    let mightier = r#"{"rules":[{"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}]}"#;
    let refused = cluster.bad(&["--context", "dev", "patch", "role", "reader", "--type=merge", "-p", mightier]).await;
    assert!(refused.contains("attempting to grant RBAC permissions not currently held"), "{refused}");
    let weaker = r#"{"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["get"]}]}"#;
    cluster.good(&["--context", "dev", "patch", "role", "reader", "--type=merge", "-p", weaker]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_clients_send_protobuf() {
    let Some(cluster) = cluster("apiserver.kubectl.protobuf").await else { return };
    for arguments in [
        &["create", "ns", "n"][..],
        &["create", "configmap", "c", "--from-literal=k=v"],
        &["create", "secret", "generic", "s", "--from-literal=k=v"],
        &["create", "deployment", "d", "--image=x:1", "--replicas=0", "--port=80"],
        &["create", "serviceaccount", "robot"],
        &["create", "clusterrole", "r", "--verb=get", "--resource=pods,deployments.apps"],
        &["create", "clusterrolebinding", "b", "--clusterrole=r", "--serviceaccount=default:robot"],
        &["create", "priorityclass", "zero", "--value=0"],
        &["create", "service", "clusterip", "svc", "--tcp=80:8080"],
        &["create", "ingress", "i", "--rule=a.b/x=svc:80"],
        &["create", "pdb", "p", "--selector=a=b", "--min-available=50%"],
    ] {
        cluster.good(arguments).await;
    }
    assert_eq!(cluster.good(&["get", "secret", "s", "-o", "jsonpath={.data.k}"]).await, "dg==");
    assert_eq!(cluster.good(&["get", "deploy", "d", "-o", "jsonpath={.spec.replicas} {..containerPort}"]).await, "0 80");
    assert_eq!(cluster.good(&["get", "ingress", "i", "-o", "jsonpath={..service.port.number}"]).await, "80");
    assert_eq!(cluster.good(&["get", "pdb", "p", "-o", "jsonpath={.spec.minAvailable}"]).await, "50%");
    assert_eq!(cluster.good(&["auth", "can-i", "delete", "nodes"]).await.trim(), "yes");
    assert!(cluster.good(&["auth", "whoami"]).await.contains("kubeadm:cluster-admins"));
    // A token from the API is good for the API, for what its account may do.
    let token = cluster.good(&["create", "token", "robot"]).await;
    let config = cluster.folder.path().join("robot");
    let text = std::fs::read_to_string(cluster.folder.path().join("config")).unwrap().replace("token-of-dev", token.trim());
    std::fs::write(&config, text).unwrap();
    let kubeconfig = format!("--kubeconfig={}", config.display());
    assert!(cluster.good(&[&kubeconfig, "--context=dev", "auth", "whoami"]).await.contains("system:serviceaccount:default:robot"));
    cluster.good(&[&kubeconfig, "--context=dev", "get", "deploy", "d"]).await;
    assert!(cluster.bad(&[&kubeconfig, "--context=dev", "delete", "deploy", "d"]).await.contains("cannot delete resource \"deployments\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn into_a_pod() {
    let Some(cluster) = cluster("apiserver.kubectl.streams").await else { return };
    cluster.good(&["run", "p", "--image=x", "--overrides", r#"{"spec":{"nodeName":"n1"}}"#]).await;
    assert_eq!(cluster.good(&["get", "pod", "p", "-o", "jsonpath={.spec.serviceAccountName} {.spec.priority}"]).await, "default 0");
    assert_eq!(cluster.good(&["logs", "p", "--tail=3"]).await, "n1 default/p p Some(3) false\n");
    assert!(cluster.bad(&["logs", "p", "-c", "nope"]).await.contains("container nope is not valid for pod p"));
    let ran = cluster.run(&["exec", "p", "--", "sh", "-c", "7"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (7, "sh -c 7"));
    assert!(ran.err.contains("complaint") && ran.err.contains("command terminated with exit code 7"), "{}", ran.err);
    let input: Vec<u8> = (0..300_000_u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let ran = cluster.with_input(&["exec", "-i", "p", "--", "cat"], &input).await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.as_bytes() == input, "what comes back is not what went in");
    assert!(cluster.good(&["attach", "p"]).await.contains("attached"));

    let running = r#"{"status":{"phase":"Running"}}"#;
    cluster.good(&["patch", "pod", "p", "--subresource=status", "--type=merge", "-p", running]).await;
    let mut forward = cluster.command(&["port-forward", "pod/p", ":80"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(forward.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address = line.strip_prefix("Forwarding from ").and_then(|l| l.split_once(" -> ")).unwrap().0.to_owned();
    // Twice over one tunnel, and more than a frame.
    for size in [10_usize, 3_000_000] {
        let mut connection = tokio::net::TcpStream::connect(&address).await.unwrap();
        let sent = input.iter().copied().cycle().take(size).collect::<Vec<u8>>();
        let (mut from, mut to) = connection.split();
        let mut back = Vec::new();
        let write = async {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(from.read_to_end(&mut back), write);
        read.unwrap();
        assert!(back == sent, "{} of {size} bytes came back", back.len());
    }
    forward.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_are_explained_and_checked() {
    let Some(cluster) = cluster("apiserver.kubectl.explain").await else { return };
    let text = cluster.good(&["explain", "pod.spec.containers", "--recursive"]).await;
    assert!(text.contains("FIELD: containers <[]Container>") && text.contains("livenessProbe"), "{text}");
    let text = cluster.good(&["explain", "deploy"]).await;
    assert!(text.contains("GROUP:      apps") && text.contains("Deployment enables declarative updates"), "{text}");
    let text = cluster.good(&["explain", "deployment.spec.strategy.rollingUpdate.maxSurge"]).await;
    assert!(text.contains("<IntOrString>"), "{text}");
    assert!(cluster.bad(&["explain", "pod.spec.nothing"]).await.contains("does not exist"));
    let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"dat":{}}"#;
    let refused = cluster.with_input(&["create", "--validate=strict", "-f", "-"], map.as_bytes()).await;
    assert!(refused.code != 0 && refused.err.contains("unknown field \"dat\""), "{}", refused.err);
}
