//! Two hollow runtimes on one node, chosen by RuntimeClass; and the runtime kit over both as one.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use serde_json::{Value, json};
use support::FakeApi;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wharf_conformance::runtime::RuntimeHarness;
use wharf_conformance::{Harness, runtime_suite};
use wharf_core::api::{ApiExt, DeleteParams};
use wharf_core::object::ObjectRef;
use wharf_core::runtime::{
    ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState, ImageService, ImageSpec, PodSandboxConfig, PodSandboxFilter,
    PodSandboxMetadata, RuntimeError, RuntimeService, SharedRuntime,
};
use wharf_node::{BackoffPolicy, NodeAgent, RuntimeHandlers};
use wharf_runtime_hollow::{HollowRuntime, Script};

struct Both;

impl Harness for Both {}

#[async_trait]
impl RuntimeHarness for Both {
    async fn runtime(&self) -> SharedRuntime {
        let scripted = || {
            Arc::new(
                HollowRuntime::builder()
                    .script(|config| match config.command.first().map(String::as_str) {
                        Some("exit") => Script::Exit { after: Duration::ZERO, code: config.command[1].parse().unwrap() },
                        Some("missing") => Script::FailStart { message: "no such file".into() },
                        _ => Script::Run,
                    })
                    .build(),
            )
        };
        Arc::new(RuntimeHandlers::new(scripted()).with("other", scripted()))
    }
    fn image(&self) -> String {
        "wharf.local/hollow:v1".into()
    }
    fn missing_image(&self) -> Option<String> {
        Some("wharf.local/does-not-exist:v1".into())
    }
    fn sleep(&self) -> Vec<String> {
        vec!["sleep".into()]
    }
    fn exit(&self, code: i32) -> Option<Vec<String>> {
        Some(vec!["exit".into(), code.to_string()])
    }
    fn missing(&self) -> Option<Vec<String>> {
        Some(vec!["missing".into()])
    }
}

runtime_suite!(Both);

fn sandbox(uid: &str) -> PodSandboxConfig {
    let metadata = PodSandboxMetadata { name: uid.into(), uid: uid.into(), namespace: "ns".into(), attempt: 0 };
    PodSandboxConfig { metadata, ..PodSandboxConfig::default() }
}

#[tokio::test]
async fn ids_find_their_runtime() {
    let (a, b) = (HollowRuntime::builder().name("a").build(), HollowRuntime::builder().name("b").build());
    let both = RuntimeHandlers::new(Arc::new(a.clone())).with("b", Arc::new(b.clone()));
    let mut events = both.events().await.unwrap();
    let in_b = both.run_pod_sandbox(&sandbox("1"), "b").await.unwrap();
    assert_eq!(events.next().await.unwrap().pod_sandbox_id, in_b);
    let refused = both.run_pod_sandbox(&sandbox("2"), "c").await.unwrap_err();
    assert!(matches!(refused, RuntimeError::InvalidArgument { field: "runtime_handler", .. }));
    assert!(refused.to_string().contains(r#"no runtime for "c" is configured"#), "{refused}");
    assert_eq!(a.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap(), []);

    let image = ImageSpec::new("x:1").for_handler("b");
    both.pull_image(&image, None).await.unwrap();
    assert_eq!((a.list_images().await.unwrap().len(), b.list_images().await.unwrap().len()), (0, 1));
    let config = ContainerConfig { metadata: ContainerMetadata { name: "c".into(), attempt: 0 }, image, ..ContainerConfig::default() };
    let container = both.create_container(&in_b, &config, &sandbox("1")).await.unwrap();
    // One that never saw the ids asks the runtimes, as after a restart of the agent.
    let both = RuntimeHandlers::new(Arc::new(a.clone())).with("b", Arc::new(b.clone()));
    both.start_container(&container).await.unwrap();
    assert_eq!(b.container_status(&container).await.unwrap().container.state, ContainerState::Running);
    assert_eq!(both.pod_sandbox_status(&in_b).await.unwrap().sandbox.runtime_handler, "b");
    both.stop_container("unknown", Duration::ZERO).await.unwrap();
    both.remove_pod_sandbox(&in_b).await.unwrap();
    assert_eq!(b.list_containers(&ContainerFilter::default()).await.unwrap(), []);
}

#[tokio::test]
async fn one_runtime_with_two_handlers_is_listed_once() {
    let a: SharedRuntime = Arc::new(HollowRuntime::new());
    let both = RuntimeHandlers::new(a.clone()).with("a", a.clone());
    let id = both.run_pod_sandbox(&sandbox("1"), "a").await.unwrap();
    let listed = both.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap();
    assert_eq!(listed.iter().map(|s| (&*s.id, &*s.runtime_handler)).collect::<Vec<_>>(), [(&*id, "a")]);
}

struct Two {
    default: HollowRuntime,
    other: HollowRuntime,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn start(api: &Arc<FakeApi>, default: &HollowRuntime, other: &HollowRuntime) -> Two {
    let backoff = BackoffPolicy { first: Duration::from_millis(20), most: Duration::from_secs(300) };
    let agent = NodeAgent::builder("n1", api.clone(), Arc::new(default.clone()))
        .runtime_handler("other", Arc::new(other.clone()))
        .without_volumes()
        .crash_backoff(backoff)
        .build();
    let stop = CancellationToken::new();
    let task = tokio::spawn(agent.run(stop.clone()));
    Two { default: default.clone(), other: other.clone(), stop, task }
}

fn class(name: &str, handler: &str) -> RuntimeClass {
    serde_json::from_value(json!({"metadata":{"name":name},"handler":handler})).unwrap()
}

fn pod(name: &str, class: Option<&str>) -> Pod {
    let mut spec = json!({"nodeName":"n1","containers":[{"name":"c","image":format!("{name}:1")}]});
    if let Some(class) = class {
        spec["runtimeClassName"] = Value::from(class);
    }
    serde_json::from_value(json!({"metadata":{"name":name,"namespace":"ns"},"spec":spec})).unwrap()
}

async fn running(api: &FakeApi, name: &str, restarts: i32) -> String {
    api.until("the container runs", |api| {
        let container = api.find::<Pod>(name)?.status?.container_statuses?.pop()?;
        (container.ready && container.restart_count == restarts).then_some(container.container_id?)
    })
    .await
}

async fn handlers_of(runtime: &HollowRuntime) -> Vec<(String, String)> {
    let all = runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap();
    all.into_iter().map(|s| (s.metadata.name, s.runtime_handler)).collect()
}

async fn images_of(runtime: &HollowRuntime) -> Vec<String> {
    runtime.list_images().await.unwrap().into_iter().flat_map(|i| i.repo_tags).collect()
}

#[tokio::test]
async fn pods_run_on_the_runtime_of_their_class() {
    let api = FakeApi::new();
    let two = start(&api, &HollowRuntime::builder().name("d").build(), &HollowRuntime::builder().name("o").build());
    api.create(&class("fast", "other")).await.unwrap();
    api.create(&pod("plain", None)).await.unwrap();
    api.create(&pod("classy", Some("fast"))).await.unwrap();
    running(&api, "plain", 0).await;
    let id = running(&api, "classy", 0).await;
    assert_eq!(handlers_of(&two.default).await, [("plain".to_string(), String::new())]);
    assert_eq!(handlers_of(&two.other).await, [("classy".to_string(), "other".to_string())]);
    assert_eq!(images_of(&two.default).await, ["docker.io/library/plain:1"]);
    assert_eq!(images_of(&two.other).await, ["docker.io/library/classy:1"]);
    let told = api
        .until("the node tells its handlers", |api| {
            let handlers = api.find::<Node>("n1")?.status?.runtime_handlers?;
            Some(handlers.into_iter().filter_map(|h| h.name).collect::<Vec<_>>())
        })
        .await;
    assert_eq!(told, ["", "other"]);

    // The class may go: the sandbox knows its handler. The container restarts where it was.
    api.delete::<RuntimeClass>(&ObjectRef::new("", "fast"), DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
        .await
        .unwrap();
    two.other.exit_container(id.strip_prefix("hollow://").unwrap(), 1).unwrap();
    let second = running(&api, "classy", 1).await;
    assert_ne!(second, id);

    // A new agent finds both.
    two.stop.cancel();
    two.task.await.unwrap();
    let two = start(&api, &two.default, &two.other);
    api.delete::<Pod>(&ObjectRef::new("ns", "classy"), DeleteParams::default()).await.unwrap();
    api.until("the pod is gone", |api| api.find::<Pod>("classy").is_none().then_some(())).await;
    assert_eq!(handlers_of(&two.other).await, []);
    assert_eq!(running(&api, "plain", 0).await, running(&api, "plain", 0).await);
    assert_eq!(two.default.list_containers(&ContainerFilter::default()).await.unwrap().len(), 1);
    two.stop.cancel();
    two.task.await.unwrap();
}

#[tokio::test]
async fn what_no_runtime_handles_is_told() {
    let api = FakeApi::new();
    let two = start(&api, &HollowRuntime::new(), &HollowRuntime::new());
    api.create(&class("lost", "nobody")).await.unwrap();
    api.create(&pod("unhandled", Some("lost"))).await.unwrap();
    api.create(&pod("unclassed", Some("later"))).await.unwrap();
    for expected in [
        r#"no runtime for "nobody" is configured: this node's handlers are ["other"]"#,
        r#"Failed to create pod sandbox: runtimeclass.node.k8s.io "later" not found"#,
    ] {
        api.until(expected, |api| {
            let told = |e: &Event| {
                e.reason.as_deref() == Some("FailedCreatePodSandBox") && e.message.as_deref().is_some_and(|m| m.contains(expected))
            };
            api.all::<Event>().into_iter().find(told)
        })
        .await;
    }
    assert_eq!((handlers_of(&two.default).await, handlers_of(&two.other).await), (vec![], vec![]));
    // It is tried again.
    api.create(&class("later", "other")).await.unwrap();
    running(&api, "unclassed", 0).await;
    two.stop.cancel();
    two.task.await.unwrap();
}
