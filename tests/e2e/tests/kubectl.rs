//! kubectl through what it can do without containers. Debian's is 1.20; what younger ones alone can do is asked of younger ones.

use serde_json::Value;
use wharf_core::testing::omit;
use wharf_e2e::ControlPlane;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: front}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: example/web:1
        env: [{name: A, value: "1"}, {name: B, value: "2"}]
        ports: [{containerPort: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80}, {name: more, port: 81}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
"#;

/// A control plane and kubectl's minor version.
async fn stage(test: &str) -> Option<(ControlPlane, u32)> {
    let Ok(output) = tokio::process::Command::new("kubectl").args(["version", "--client", "-o", "json"]).output().await else {
        omit(test, "kubectl is not installed");
        return None;
    };
    let version: Value = serde_json::from_slice(&output.stdout).expect("kubectl tells its version");
    let minor = version["clientVersion"]["minor"].as_str().unwrap_or_default().trim_end_matches('+').parse().expect("a minor version");
    Some((ControlPlane::start().await, minor))
}

async fn field(plane: &ControlPlane, object: &str, path: &str) -> String {
    plane.good(&["get", object, "-o", &format!("jsonpath={path}")]).await
}

/// Asks again until a program prints what is wanted; a test that waits in vain is ended by kubectl's own time limit elsewhere.
async fn until(plane: &ControlPlane, arguments: &[&str], wanted: impl Fn(&str) -> bool) -> String {
    loop {
        let out = plane.good(arguments).await;
        if wanted(&out) {
            return out;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn create_get_label_annotate_patch_replace_delete() {
    let Some((plane, _)) = stage("e2e.kubectl.objects").await else { return };
    let file = plane.file("all.yaml", MANIFEST);
    let out = plane.good(&["create", "-f", &file]).await;
    assert_eq!(out, "deployment.apps/web created\nservice/web created\nconfigmap/settings created\n");
    let refused = plane.bad(&["create", "-f", &file]).await;
    assert!(refused.contains(r#"Error from server (AlreadyExists): error when creating"#), "{refused}");
    assert!(refused.contains(r#"deployments.apps "web" already exists"#), "{refused}");

    for (arguments, wanted) in [
        (&["get", "deploy"][..], "NAME"),
        (&["get", "deploy,svc,cm", "-o", "name"], "service/web"),
        (&["get", "deploy", "web", "-o", "wide"], "example/web:1"),
        (&["get", "deploy", "web", "-o", "yaml"], "kind: Deployment"),
        (&["get", "deploy", "web", "-o", "json"], "\"kind\": \"Deployment\""),
        (&["get", "deploy", "--show-labels"], "tier=front"),
        (&["get", "deploy", "-L", "tier"], "TIER"),
        (&["get", "deploy", "-l", "tier in (front, back)"], "web"),
        (&["get", "deploy", "--field-selector", "metadata.name=web"], "web"),
        (&["get", "deploy", "-o", "custom-columns=N:.metadata.name,R:.spec.replicas"], "web   2"),
        (&["get", "deploy", "-o", "go-template={{range .items}}{{.metadata.name}}{{end}}"], "web"),
        (&["get", "cm", "-A", "--sort-by=.metadata.name"], "settings"),
        (&["get", "all"], "service/web"),
        (&["get", "deploy", "--chunk-size=1"], "web"),
        (&["get", "-f", &file], "configmap/settings"),
        (&["describe", "deploy", "web"], "RollingUpdateStrategy"),
        (&["describe", "svc", "web"], "TargetPort:"),
        (&["describe", "cm", "settings"], "blue"),
        (&["describe", "ns", "default"], "Active"),
        (&["get", "--raw", "/api/v1/namespaces/default/configmaps/settings"], "\"color\":\"blue\""),
    ] {
        let out = plane.good(arguments).await;
        assert!(out.contains(wanted), "{arguments:?} printed\n{out}");
    }
    assert!(plane.bad(&["get", "deploy", "nope"]).await.contains(r#"Error from server (NotFound): deployments.apps "nope" not found"#));
    assert!(plane.bad(&["get", "nonsense"]).await.contains("the server doesn't have a resource type \"nonsense\""));
    assert!(plane.bad(&["get", "deploy", "--field-selector", "spec.x=1"]).await.contains("is not a known field selector"));
    assert!(plane.bad(&["get", "pods", "-l", "a in b"]).await.contains("unable to parse requirement"));

    plane.good(&["label", "deploy", "web", "tier=back", "--overwrite"]).await;
    plane.good(&["label", "deploy", "web", "more=yes"]).await;
    assert_eq!(field(&plane, "deploy/web", "{.metadata.labels}").await, r#"{"more":"yes","tier":"back"}"#);
    plane.good(&["label", "cm", "settings", "a=b"]).await;
    plane.good(&["label", "cm", "settings", "a-"]).await;
    assert_eq!(field(&plane, "cm/settings", "{.metadata.labels.a}").await, "");
    plane.bad(&["label", "cm", "settings", "bad key=x"]).await;
    plane.good(&["annotate", "deploy", "web", "example.org/note=some words"]).await;
    assert_eq!(field(&plane, "deploy/web", r"{.metadata.annotations.example\.org/note}").await, "some words");
    plane.good(&["annotate", "cm", "--all", "seen=1"]).await;

    // Strategic: containers and their variables are merged by name, ports of a service by port.
    let patch = r#"{"spec":{"template":{"spec":{"containers":[{"name":"main","env":[{"name":"B","value":"3"},{"name":"A","$patch":"delete"}]}]}}}}"#;
    plane.good(&["patch", "deploy", "web", "-p", patch]).await;
    assert_eq!(field(&plane, "deploy/web", "{..containers[0].env}").await, r#"[{"name":"B","value":"3"}]"#);
    assert_eq!(field(&plane, "deploy/web", "{..containers[0].image}").await, "example/web:1");
    plane.good(&["patch", "svc", "web", "-p", r#"{"spec":{"ports":[{"port":81,"targetPort":8081}]}}"#]).await;
    assert_eq!(field(&plane, "svc/web", "{.spec.ports[*].port}").await, "80 81");
    plane.good(&["patch", "cm", "settings", "--type=merge", "-p", r#"{"data":{"color":null,"size":"9"}}"#]).await;
    assert_eq!(field(&plane, "cm/settings", "{.data}").await, r#"{"size":"9"}"#);
    plane.good(&["patch", "cm", "settings", "--type=json", "-p", r#"[{"op":"replace","path":"/data/size","value":"10"}]"#]).await;
    assert_eq!(field(&plane, "cm/settings", "{.data.size}").await, "10");
    let refused = plane.bad(&["patch", "cm", "settings", "--type=json", "-p", r#"[{"op":"remove","path":"/data/none"}]"#]).await;
    assert!(refused.contains("The request is invalid"), "{refused}");

    let settings = plane.good(&["get", "cm", "settings", "-o", "json"]).await;
    plane.good_with(&["replace", "-f", "-"], &settings.replace("\"10\"", "\"11\"")).await;
    assert_eq!(field(&plane, "cm/settings", "{.data.size}").await, "11");
    let stale = plane.kubectl(&["replace", "-f", "-"], &settings).await;
    assert!(stale.err.contains("the object has been modified; please apply your changes to the latest version and try again"), "{stale:?}");
    plane.good_with(&["replace", "--force", "-f", "-"], &settings).await;
    assert_eq!(field(&plane, "cm/settings", "{.data.size}").await, "10");

    // What is wrong is told with its field.
    let refused = plane.bad(&["patch", "svc", "web", "--type=merge", "-p", r#"{"spec":{"ports":[{"port":70000}]}}"#]).await;
    assert!(
        refused.contains("The Service \"web\" is invalid: ") && refused.contains("spec.ports[0].port: Invalid value: 70000"),
        "{refused}"
    );
    let selector = r#"{"spec":{"selector":{"matchLabels":{"x":"y"}}}}"#;
    let refused = plane.bad(&["patch", "deploy", "web", "--type=merge", "-p", selector]).await;
    assert!(refused.contains("spec.selector") && refused.contains("field is immutable"), "{refused}");

    assert_eq!(plane.good(&["delete", "cm", "settings"]).await, "configmap \"settings\" deleted\n");
    assert!(plane.bad(&["delete", "cm", "settings"]).await.contains("NotFound"));
    plane.good(&["delete", "cm", "settings", "--ignore-not-found"]).await;
    plane.good(&["create", "cm", "one", "--from-literal=a=b"]).await;
    plane.good(&["create", "cm", "two", "--from-literal=a=b"]).await;
    plane.good(&["label", "cm", "one", "two", "set=x"]).await;
    plane.good(&["delete", "cm", "-l", "set=x"]).await;
    assert_eq!(plane.good(&["get", "cm", "-l", "set=x", "-o", "name"]).await, "");
    plane.good(&["delete", "deploy,svc", "web", "--cascade=foreground", "--wait"]).await;
    // A generated name.
    let made = plane
        .good_with(&["create", "-f", "-", "-o", "name"], r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"c-"}}"#)
        .await;
    assert!(made.starts_with("configmap/c-") && made.trim().len() == "configmap/c-".len() + 5, "{made}");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_diff_edit_and_dry_run() {
    let Some((plane, minor)) = stage("e2e.kubectl.apply").await else { return };
    let file = plane.file("all.yaml", MANIFEST);
    let out = plane.good(&["apply", "-f", &file, "--dry-run=server"]).await;
    assert!(out.contains("deployment.apps/web created (server dry run)"), "{out}");
    assert_eq!(plane.good(&["get", "deploy", "-o", "name"]).await, "");
    plane.good(&["apply", "-f", &file]).await;
    let again = plane.good(&["apply", "-f", &file]).await;
    assert_eq!(again, "deployment.apps/web unchanged\nservice/web unchanged\nconfigmap/settings unchanged\n");
    assert_eq!(plane.kubectl(&["diff", "-f", &file], "").await.code, 0);

    let changed =
        MANIFEST.replace("replicas: 2", "replicas: 3").replace("color: blue", "shade: red").replace(", {name: B, value: \"2\"}", "");
    let changed = plane.file("changed.yaml", &changed);
    let diff = plane.kubectl(&["diff", "-f", &changed], "").await;
    assert_eq!(diff.code, 1, "{diff:?}");
    for line in ["-  replicas: 2", "+  replicas: 3", "-  color: blue", "+  shade: red", "-        - name: B"] {
        assert!(diff.out.contains(line), "no {line:?} in\n{}", diff.out);
    }
    let out = plane.good(&["apply", "-f", &changed]).await;
    assert_eq!(out, "deployment.apps/web configured\nservice/web unchanged\nconfigmap/settings configured\n");
    // What was applied before and is not any more goes; what others have set stays.
    assert_eq!(field(&plane, "cm/settings", "{.data}").await, r#"{"shade":"red"}"#);
    assert_eq!(field(&plane, "deploy/web", "{..containers[0].env[*].name}").await, "A");
    let last = plane.good(&["apply", "view-last-applied", "deploy/web"]).await;
    assert!(last.contains("replicas: 3"), "{last}");

    // Server-side: fields have owners.
    let mine = plane.file("mine.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned}\ndata: {a: \"1\"}\n");
    let theirs = plane.file("theirs.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owned}\ndata: {a: \"2\", b: \"2\"}\n");
    plane.good(&["apply", "--server-side", "--field-manager=me", "-f", &mine]).await;
    let refused = plane.bad(&["apply", "--server-side", "--field-manager=them", "-f", &theirs]).await;
    assert!(refused.contains("conflict with \"me\": .data.a"), "{refused}");
    plane.good(&["apply", "--server-side", "--field-manager=them", "--force-conflicts", "-f", &theirs]).await;
    assert_eq!(field(&plane, "cm/owned", "{.data}").await, r#"{"a":"2","b":"2"}"#);
    let managed = field(&plane, "cm/owned", "{.metadata.managedFields[*].manager}").await;
    assert!(managed.contains("them"), "{managed}");
    if minor >= 21 {
        let shown = plane.good(&["get", "cm", "owned", "-o", "yaml", "--show-managed-fields"]).await;
        assert!(shown.contains("manager: them") && shown.contains("operation: Apply") && shown.contains("f:b: {}"), "{shown}");
        assert!(!plane.good(&["get", "cm", "owned", "-o", "yaml"]).await.contains("managedFields"));
    }

    // edit: an editor is a program that changes a file.
    let editor = plane.file("editor.sh", "#!/bin/sh\nsed -i 's/shade: red/shade: green/' \"$1\"\n");
    let mut edit = plane.command("kubectl");
    edit.args(["edit", "cm", "settings"]).env("KUBE_EDITOR", format!("sh {editor}"));
    let ran = plane.run(edit, b"").await;
    assert!(ran.code == 0 && ran.out.contains("configmap/settings edited"), "{ran:?}");
    assert_eq!(field(&plane, "cm/settings", "{.data.shade}").await, "green");
    let editor = plane.file("last.sh", "#!/bin/sh\nsed -i 's/shade: red/shade: white/' \"$1\"\n");
    let mut edit = plane.command("kubectl");
    edit.args(["apply", "edit-last-applied", "cm/settings"]).env("KUBE_EDITOR", format!("sh {editor}"));
    assert_eq!(plane.run(edit, b"").await.code, 0);
    assert!(plane.good(&["apply", "view-last-applied", "cm/settings"]).await.contains("shade: white"));
    let mut edit = plane.command("kubectl");
    edit.args(["edit", "cm", "settings"]).env("KUBE_EDITOR", "true");
    assert!(plane.run(edit, b"").await.out.contains("cancelled, no changes made") || minor > 0);

    // Fields that the kind lacks.
    let unknown = plane.file("unknown.yaml", &MANIFEST.replace("replicas: 2", "replicsa: 2"));
    let refused = plane.bad(&["apply", "-f", &unknown, "-n", "kube-public"]).await;
    assert!(refused.contains("replicsa"), "{refused}");
    plane.good(&["delete", "-f", &file]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollouts_scales_and_waits() {
    let Some((plane, minor)) = stage("e2e.kubectl.rollout").await else { return };
    plane.good(&["create", "deployment", "web", "--image=example/web:1"]).await;
    plane.good(&["rollout", "status", "deploy/web", "--timeout=60s"]).await;
    plane.good(&["wait", "--for=condition=Available", "deploy/web", "--timeout=60s"]).await;
    plane.good(&["annotate", "deploy/web", "kubernetes.io/change-cause=the first"]).await;
    plane.good(&["set", "image", "deploy/web", "web=example/web:2"]).await;
    plane.good(&["annotate", "deploy/web", "kubernetes.io/change-cause=the second", "--overwrite"]).await;
    plane.good(&["rollout", "status", "deploy/web", "--timeout=60s"]).await;
    let history = until(&plane, &["rollout", "history", "deploy/web"], |out| out.contains("the second")).await;
    assert!(history.contains("1         the first"), "{history}");
    assert!(plane.good(&["rollout", "history", "deploy/web", "--revision=1"]).await.contains("example/web:1"));
    plane.good(&["rollout", "undo", "deploy/web"]).await;
    assert_eq!(field(&plane, "deploy/web", "{..containers[0].image}").await, "example/web:1");
    plane.good(&["rollout", "restart", "deploy/web"]).await;
    plane.good(&["rollout", "pause", "deploy/web"]).await;
    plane.good(&["rollout", "resume", "deploy/web"]).await;
    plane.good(&["set", "env", "deploy/web", "KEY=value"]).await;
    plane.good(&["set", "resources", "deploy/web", "--requests=cpu=10m,memory=8Mi"]).await;
    plane.good(&["scale", "deploy/web", "--replicas=3"]).await;
    assert!(plane.bad(&["scale", "deploy/web", "--replicas=3", "--current-replicas=7"]).await.contains("Expected replicas to be 7"));
    plane.good(&["rollout", "status", "deploy/web", "--timeout=60s"]).await;
    assert_eq!(field(&plane, "deploy/web", "{.status.replicas}").await, "3");
    plane.good(&["expose", "deploy/web", "--port=80", "--target-port=8080"]).await;
    assert_eq!(field(&plane, "svc/web", "{.spec.selector.app}").await, "web");
    plane.good(&["run", "alone", "--image=example/web:1"]).await;
    let pod = "pod/alone";
    plane.good(&["wait", "--for=condition=Ready", pod, "--timeout=60s"]).await;
    if minor >= 23 {
        plane.good(&["wait", "--for=jsonpath={.status.phase}=Running", pod, "--timeout=60s"]).await;
        assert_eq!(plane.good(&["get", "deploy", "web", "--subresource=scale", "-o", "jsonpath={.spec.replicas}"]).await, "3");
        plane.good(&["patch", "deploy", "web", "--subresource=scale", "--type=merge", "-p", r#"{"spec":{"replicas":2}}"#]).await;
        plane.good(&["events"]).await;
    }
    plane.good(&["delete", pod, "--now"]).await;
    plane.good(&["create", "job", "once", "--image=example/ends:1"]).await;
    plane.good(&["create", "cronjob", "often", "--image=example/ends:1", "--schedule=*/5 * * * *"]).await;
    plane.good(&["create", "job", "now", "--from=cronjob/often"]).await;
    plane.good(&["delete", "deploy/web", "svc/web", "job/once", "job/now", "cronjob/often"]).await;
    plane.good(&["wait", "--for=delete", "deploy/web", "--timeout=60s"]).await;

    let node = plane.good(&["get", "nodes", "-o", "name"]).await.trim().to_owned();
    let name = node.trim_start_matches("node/");
    plane.good(&["cordon", name]).await;
    assert!(plane.good(&["get", "nodes"]).await.contains("SchedulingDisabled"));
    plane.good(&["uncordon", name]).await;
    plane.good(&["taint", "node", name, "key=value:NoSchedule"]).await;
    plane.good(&["taint", "node", name, "key-"]).await;
    plane.good(&["drain", name, "--ignore-daemonsets", "--force", "--timeout=60s"]).await;
    plane.good(&["uncordon", name]).await;
    assert!(plane.good(&["describe", "node", name]).await.contains("Allocatable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_served_and_explained() {
    let Some((plane, minor)) = stage("e2e.kubectl.discovery").await else { return };
    let versions = plane.good(&["api-versions"]).await;
    for version in ["v1", "apps/v1", "batch/v1", "autoscaling/v2", "rbac.authorization.k8s.io/v1", "storage.k8s.io/v1"] {
        assert!(versions.lines().any(|line| line == version), "no {version} in\n{versions}");
    }
    let resources = plane.good(&["api-resources"]).await;
    for line in ["configmaps", "deployments", "cronjobs", "networkpolicies", "leases"] {
        assert!(resources.contains(line), "no {line} in\n{resources}");
    }
    let cluster_wide = plane.good(&["api-resources", "--namespaced=false", "-o", "name"]).await;
    assert!(cluster_wide.lines().any(|l| l == "nodes") && !cluster_wide.lines().any(|l| l == "pods"), "{cluster_wide}");
    assert!(plane.good(&["api-resources", "--api-group=apps", "--verbs=list,watch", "-o", "wide"]).await.contains("deploy"));
    assert!(plane.good(&["version"]).await.contains("1.36"));
    assert!(plane.good(&["cluster-info"]).await.contains("is running at"));
    assert!(plane.good(&["get", "--raw", "/version"]).await.replace(' ', "").contains(r#""minor":"36""#));
    assert!(plane.good(&["get", "--raw", "/readyz"]).await.contains("ok"));

    assert_eq!(plane.good(&["auth", "can-i", "create", "deployments.apps"]).await.trim(), "yes");
    let ran = plane.kubectl(&["auth", "can-i", "create", "pods", "--as=nobody"], "").await;
    assert_eq!((ran.code, ran.out.trim()), (1, "no"));
    assert!(plane.good(&["auth", "can-i", "--list"]).await.contains("[*]"));
    let roles = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: r}\nrules:\n- {apiGroups: [\"\"], resources: [pods], verbs: [get]}\n";
    plane.good_with(&["auth", "reconcile", "-f", "-"], roles).await;
    plane.good_with(&["auth", "reconcile", "-f", "-"], &roles.replace("[get]", "[get, list]")).await;
    assert_eq!(field(&plane, "clusterrole/r", "{.rules[*].verbs}").await.matches("list").count(), 1);
    if minor >= 28 {
        assert!(plane.good(&["auth", "whoami"]).await.contains("Username"));
    }
}

/// The answer to a GET of a path on a port of this machine.
async fn get(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it is asked");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_resize_and_proxy() {
    use tokio::io::AsyncBufReadExt;
    let Some((plane, minor)) = stage("e2e.kubectl.debug").await else { return };
    plane.good(&["run", "alone", "--image=example/web:1"]).await;
    plane.good(&["wait", "--for=condition=Ready", "pod/alone", "--timeout=60s"]).await;
    if minor >= 25 {
        plane.good(&["debug", "alone", "--image=example/debug:1", "--container=looks", "--target=alone", "--attach=false"]).await;
        let state = "jsonpath={.status.ephemeralContainerStatuses[0].state}";
        until(&plane, &["get", "pod", "alone", "-o", state], |out| out.contains("running")).await;
        assert_eq!(field(&plane, "pod/alone", "{.spec.ephemeralContainers[*].name}").await, "looks");
        let described = plane.good(&["describe", "pod", "alone"]).await;
        assert!(described.contains("Ephemeral Containers:") && described.contains("example/debug:1"), "{described}");
        let patch = r#"{"spec":{"ephemeralContainers":null}}"#;
        let refused = plane.bad(&["patch", "pod", "alone", "--type=merge", "-p", patch]).await;
        assert!(refused.contains("pod updates may not change fields other than"), "{refused}");
    }
    if minor >= 32 {
        let patch = r#"{"spec":{"containers":[{"name":"alone","resources":{"requests":{"cpu":"10m"}}}]}}"#;
        let refused = plane.bad(&["patch", "pod", "alone", "--subresource=resize", "-p", patch]).await;
        assert!(refused.contains("Pod running on node without support for resize"), "{refused}");
    }
    let refused = plane.bad(&["get", "--raw", "/api/v1/namespaces/default/pods/none/proxy/"]).await;
    assert!(refused.contains("pods \"none\" not found"), "{refused}");
    let refused = plane.bad(&["get", "--raw", "/api/v1/namespaces/default/services/none:80/proxy/"]).await;
    assert!(refused.contains("services \"none\" not found"), "{refused}");
    assert!(plane.bad(&["top", "pods"]).await.contains("Metrics API not available"));
    assert!(plane.good(&["get", "componentstatuses"]).await.contains("etcd-0"));

    let mut proxy = plane.command("kubectl");
    let mut proxy = proxy.args(["proxy", "--port=0"]).stdout(std::process::Stdio::piped()).spawn().expect("kubectl proxy runs");
    let mut lines = tokio::io::BufReader::new(proxy.stdout.take().expect("its output")).lines();
    let line = lines.next_line().await.expect("it prints").expect("where it listens");
    let address = line.rsplit(' ').next().expect("an address");
    let answer = get(address, "/api/v1/namespaces/default/pods/alone").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("example/web:1"), "{answer}");
    assert!(get(address, "/version").await.contains("1.36"));
    proxy.kill().await.expect("it ends");
}
