//! The agent over a hollow runtime: pods run, restart, end, are adopted and go.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod, PodStatus};
use serde_json::{Value, json};
use support::FakeApi;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wharf_core::api::{ApiExt, DeleteParams, PatchKind};
use wharf_core::node::{LogOptions, NodeConnector};
use wharf_core::object::ObjectRef;
use wharf_core::runtime::{ContainerFilter, ContainerState, PodSandboxConfig, PodSandboxFilter, PodSandboxMetadata, RuntimeService};
use wharf_node::{AgentConnector, AgentHandle, BackoffPolicy, NodeAgent};
use wharf_runtime_hollow::HollowRuntime;

struct Node1 {
    runtime: HollowRuntime,
    stop: CancellationToken,
    task: JoinHandle<()>,
    handle: AgentHandle,
}

fn start(api: &Arc<FakeApi>, runtime: &HollowRuntime) -> Node1 {
    let backoff = BackoffPolicy { first: Duration::from_millis(20), most: Duration::from_secs(300) };
    let agent = NodeAgent::builder("n1", api.clone(), Arc::new(runtime.clone()))
        .without_volumes()
        .crash_backoff(backoff)
        .pull_backoff(backoff)
        .build();
    let (stop, handle) = (CancellationToken::new(), agent.handle());
    let task = tokio::spawn(agent.run(stop.clone()));
    Node1 { runtime: runtime.clone(), stop, task, handle }
}

fn pod(name: &str, spec: Value) -> Pod {
    let mut spec = spec;
    spec["nodeName"] = json!("n1");
    serde_json::from_value(json!({"metadata":{"name":name,"namespace":"ns"},"spec":spec})).unwrap()
}

fn status(api: &FakeApi, name: &str) -> PodStatus {
    api.find::<Pod>(name).and_then(|p| p.status).unwrap_or_default()
}

fn condition(status: &PodStatus, kind: &str) -> Option<String> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status.clone())
}

async fn ready(api: &FakeApi, name: &str) -> PodStatus {
    api.until("the pod is ready", |api| {
        let status = status(api, name);
        (condition(&status, "Ready").as_deref() == Some("True")).then_some(status)
    })
    .await
}

impl Node1 {
    async fn containers(&self) -> Vec<(String, ContainerState)> {
        let all = self.runtime.list_containers(&ContainerFilter::default()).await.unwrap();
        all.into_iter().map(|c| (c.id, c.state)).collect()
    }
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn registers_and_runs_a_pod_until_it_is_deleted() {
    let api = FakeApi::new();
    let node = start(&api, &HollowRuntime::new());
    let registered = api.until("the node registers", |api| api.find::<Node>("n1")).await;
    assert_eq!(registered.metadata.labels.unwrap()["kubernetes.io/hostname"], "n1");
    let conditions = registered.status.unwrap().conditions.unwrap();
    assert!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True" && c.reason.as_deref() == Some("KubeletReady")));
    api.until("the lease is renewed", |api| api.find::<Lease>("n1")).await;

    api.create(&pod("web", json!({"containers":[{"name":"c","image":"x:1"}]}))).await.unwrap();
    let status = ready(&api, "web").await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.pod_ip.is_some() && status.host_ip.is_some() && status.start_time.is_some());
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    let container = &status.container_statuses.unwrap()[0];
    assert!(container.ready && container.started == Some(true) && container.state.as_ref().unwrap().running.is_some());
    for reason in ["Pulling", "Pulled", "Created", "Started"] {
        api.until(reason, |api| api.all::<Event>().into_iter().find(|e| e.reason.as_deref() == Some(reason))).await;
    }

    api.delete::<Pod>(&ObjectRef::new("ns", "web"), DeleteParams::default()).await.unwrap();
    api.until("the pod is gone", |api| api.find::<Pod>("web").is_none().then_some(())).await;
    assert_eq!(node.containers().await, []);
    node.stop().await;
}

#[tokio::test]
async fn a_container_that_dies_is_restarted_with_back_off() {
    let api = FakeApi::new();
    let node = start(&api, &HollowRuntime::new());
    api.create(&pod("web", json!({"containers":[{"name":"c","image":"x:1"}]}))).await.unwrap();
    ready(&api, "web").await;
    for restarts in 1..=2 {
        let running = node.containers().await.into_iter().find(|(_, s)| *s == ContainerState::Running).unwrap();
        node.runtime.exit_container(&running.0, 3).unwrap();
        api.until("the container restarts", |api| {
            let c = status(api, "web").container_statuses?.pop()?;
            (c.restart_count == restarts && c.ready && c.last_state?.terminated?.exit_code == 3).then_some(())
        })
        .await;
    }
    api.until("an event tells of the back-off", |api| {
        api.all::<Event>().into_iter().find(|e| {
            e.reason.as_deref() == Some("BackOff")
                && e.message.as_deref().unwrap().starts_with("Back-off restarting failed container c in pod web_ns(")
        })
    })
    .await;
    node.stop().await;
}

#[tokio::test]
async fn jobs_end_and_init_containers_come_first() {
    let api = FakeApi::new();
    let runtime = HollowRuntime::builder()
        .script(|config| match config.metadata.name.as_str() {
            "ok" | "init" => exit(0),
            "bad" => exit(7),
            _ => wharf_runtime_hollow::Script::Run,
        })
        .build();
    let node = start(&api, &runtime);
    let one = |name: &str| json!([{"name":name,"image":"x:1"}]);
    api.create(&pod("done", json!({"restartPolicy":"OnFailure","initContainers":one("init"),"containers":one("ok")}))).await.unwrap();
    api.create(&pod("failed", json!({"restartPolicy":"Never","containers":one("bad")}))).await.unwrap();
    api.create(&pod("stuck", json!({"restartPolicy":"Never","initContainers":one("bad"),"containers":one("main")}))).await.unwrap();
    for (name, phase) in [("done", "Succeeded"), ("failed", "Failed"), ("stuck", "Failed")] {
        api.until(phase, |api| (status(api, name).phase.as_deref() == Some(phase)).then_some(())).await;
    }
    assert_eq!(status(&api, "failed").container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap().exit_code, 7);
    assert!(status(&api, "stuck").container_statuses.unwrap()[0].state.clone().unwrap().waiting.is_some());
    assert_eq!(condition(&status(&api, "done"), "Initialized").as_deref(), Some("True"));
    node.stop().await;
}

#[tokio::test]
async fn a_container_to_debug_joins_a_running_pod_once() {
    let api = FakeApi::new();
    let node = start(&api, &HollowRuntime::new());
    api.create(&pod("web", json!({"containers":[{"name":"c","image":"x:1"}]}))).await.unwrap();
    ready(&api, "web").await;
    let patch = json!({"spec":{"ephemeralContainers":[{"name":"debug","image":"busybox:1","targetContainerName":"c"}]}});
    api.patch::<Pod>(&ObjectRef::new("ns", "web"), "ephemeralcontainers", PatchKind::Merge, &patch).await.unwrap();
    let ephemeral = |api: &FakeApi| status(api, "web").ephemeral_container_statuses?.pop();
    let running = api.until("it runs", |api| ephemeral(api).filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()))).await;
    let id = running.container_id.unwrap();
    node.runtime.exit_container(id.split("://").nth(1).unwrap(), 3).unwrap();
    let ended = api.until("it has ended", |api| ephemeral(api)?.state?.terminated).await;
    assert_eq!(ended.exit_code, 3);
    let event = api.all::<Event>().into_iter().find(|e| e.involved_object.field_path.as_deref() == Some("spec.ephemeralContainers{debug}"));
    assert!(event.is_some());
    // The pod is as ready as before, and nothing started it again.
    let status = ready(&api, "web").await;
    assert_eq!((status.phase.as_deref(), ephemeral(&api).unwrap().restart_count), (Some("Running"), 0));
    assert_eq!(node.containers().await.len(), 2);
    node.stop().await;
}

fn exit(code: i32) -> wharf_runtime_hollow::Script {
    wharf_runtime_hollow::Script::Exit { after: Duration::ZERO, code }
}

#[tokio::test]
async fn what_is_wrong_shows_as_kubectl_users_know_it() {
    let api = FakeApi::new();
    let node = start(&api, &HollowRuntime::new());
    let one = |image: &str, more: Value| {
        let mut container = json!({"name":"c","image":image});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"containers":[container]})
    };
    let from = json!({"envFrom":[{"configMapRef":{"name":"nope"}}]});
    for (name, spec, reason, message) in [
        ("pull", one("does-not-exist:1", json!({})), "ImagePullBackOff", "Back-off pulling image \"does-not-exist:1\": ErrImagePull: "),
        (
            "never",
            one("x:2", json!({"imagePullPolicy":"Never"})),
            "ErrImageNeverPull",
            "Container image \"x:2\" is not present with pull policy of Never",
        ),
        ("name", one("UPPER:x:y", json!({})), "InvalidImageName", "Failed to apply default image tag"),
        ("config", one("x:1", from), "CreateContainerConfigError", "configmap \"nope\" not found"),
    ] {
        api.create(&pod(name, spec)).await.unwrap();
        let text = api
            .until(reason, |api| {
                let waiting = status(api, name).container_statuses?.pop()?.state?.waiting?;
                (waiting.reason.as_deref() == Some(reason)).then_some(waiting.message.unwrap_or_default())
            })
            .await;
        assert!(text.starts_with(message), "{text}");
        assert_eq!(status(&api, name).phase.as_deref(), Some("Pending"));
    }
    let connector = AgentConnector::new();
    connector.register("n1", node.handle.clone());
    let uid = api.find::<Pod>("config").unwrap().metadata.uid.unwrap();
    let key = ObjectRef::new("ns", "config");
    let refused = connector.logs("n1", &key, &uid, "c", &LogOptions::default()).await.err().unwrap();
    assert_eq!(
        (refused.code(), refused.to_string().as_str()),
        (Some(400), "container \"c\" in pod \"config\" is waiting to start: CreateContainerConfigError")
    );
    // A node may be there and be run by another process.
    assert_eq!(connector.logs("n2", &key, &uid, "c", &LogOptions::default()).await.err().unwrap().code(), Some(503));
    assert_eq!(connector.logs("n1", &key, "other", "c", &LogOptions::default()).await.err().unwrap().code(), Some(404));
    assert_eq!(connector.logs("n1", &key, &uid, "zz", &LogOptions::default()).await.err().unwrap().code(), Some(400));
    node.stop().await;
}

#[tokio::test]
async fn a_new_agent_adopts_what_runs_and_removes_only_its_own_orphans() {
    let api = FakeApi::new();
    let node = start(&api, &HollowRuntime::new());
    for name in ["stays", "goes"] {
        api.create(&pod(name, json!({"containers":[{"name":"c","image":"x:1"}]}))).await.unwrap();
        ready(&api, name).await;
    }
    let foreign = PodSandboxConfig {
        metadata: PodSandboxMetadata { name: "f".into(), uid: "f".into(), namespace: "f".into(), attempt: 0 },
        ..PodSandboxConfig::default()
    };
    let foreign = node.runtime.run_pod_sandbox(&foreign, "").await.unwrap();
    let before = node.containers().await;
    let runtime = node.runtime.clone();
    node.stop().await;
    api.delete::<Pod>(&ObjectRef::new("ns", "goes"), DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
        .await
        .unwrap();
    let kept = api.find::<Pod>("stays").unwrap();

    let node = start(&api, &runtime);
    loop {
        let sandboxes = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap();
        if sandboxes.len() == 2 {
            assert!(sandboxes.iter().any(|s| s.id == foreign));
            break;
        }
        tokio::task::yield_now().await;
    }
    api.create(&pod("next", json!({"containers":[{"name":"c","image":"x:1"}]}))).await.unwrap();
    ready(&api, "next").await;
    let after = node.containers().await;
    let uid = kept.metadata.uid.clone().unwrap();
    let id = kept.status.clone().unwrap().container_statuses.unwrap()[0].container_id.clone().unwrap();
    let id = id.split("://").nth(1).unwrap();
    assert!(before.iter().any(|c| c.0 == id) && after.iter().any(|c| c.0 == id && c.1 == ContainerState::Running), "{uid}");
    assert_eq!(status(&api, "stays").container_statuses.unwrap()[0].restart_count, 0);
    node.stop().await;
}

#[tokio::test]
async fn volumes_are_on_disk_while_the_pod_is_there() {
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    let api = FakeApi::new();
    let dir = tempfile::tempdir().unwrap();
    let runtime = HollowRuntime::new();
    let agent = NodeAgent::builder("n1", api.clone(), Arc::new(runtime.clone()))
        .root_dir(dir.path().join("root"))
        .log_dir(dir.path().join("logs"))
        .build();
    let stop = CancellationToken::new();
    let task = tokio::spawn(agent.run(stop.clone()));
    let meta = json!({"name":"c","namespace":"ns"});
    api.create(&serde_json::from_value::<Secret>(json!({"metadata":meta,"data":{"k":"c2VjcmV0"}})).unwrap()).await.unwrap();
    let spec = json!({
        "containers":[{"name":"c","image":"x:1","volumeMounts":[{"name":"cm","mountPath":"/cm"},{"name":"e","mountPath":"/e"}]}],
        "volumes":[{"name":"cm","configMap":{"name":"c"}},{"name":"s","secret":{"secretName":"c"}},{"name":"e","emptyDir":{}},
            {"name":"d","downwardAPI":{"items":[{"path":"name","fieldRef":{"fieldPath":"metadata.name"}}]}}],
    });
    api.create(&pod("web", spec)).await.unwrap();
    api.until("the missing ConfigMap is told of", |api| {
        let event = api.all::<Event>().into_iter().find(|e| e.reason.as_deref() == Some("FailedMount"))?;
        (event.message.as_deref() == Some("MountVolume.SetUp failed for volume \"cm\" : configmap \"c\" not found")).then_some(())
    })
    .await;
    api.create(&serde_json::from_value::<ConfigMap>(json!({"metadata":meta,"data":{"k":"v"}})).unwrap()).await.unwrap();
    ready(&api, "web").await;
    let uid = api.find::<Pod>("web").unwrap().metadata.uid.unwrap();
    let home = dir.path().join("root/pods").join(uid);
    let read = |path: &str| std::fs::read_to_string(home.join("volumes").join(path)).unwrap();
    assert_eq!(read("kubernetes.io~configmap/cm/k"), "v");
    assert_eq!(read("kubernetes.io~secret/s/k"), "secret");
    assert_eq!(read("kubernetes.io~downward-api/d/name"), "web");
    assert!(std::fs::read_to_string(home.join("etc-hosts")).unwrap().contains("\tweb\n"));
    api.delete::<Pod>(&ObjectRef::new("ns", "web"), DeleteParams::default()).await.unwrap();
    api.until("the pod is gone", |api| api.find::<Pod>("web").is_none().then_some(())).await;
    assert!(!home.exists() && std::fs::read_dir(dir.path().join("logs")).unwrap().next().is_none());
    stop.cancel();
    task.await.unwrap();
}
