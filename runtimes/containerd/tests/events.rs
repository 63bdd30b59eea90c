//! Events of a runtime that tells them. Debian's containerd does not yet.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod fake;

use fake::{Answer, Fake};
use futures::StreamExt;
use k8s_cri::v1;
use wharf_core::clock::SystemClock;
use wharf_core::runtime::{ContainerEventType, RuntimeService};
use wharf_runtime_containerd::{ContainerdOptions, ContainerdRuntime, OWNER_LABEL};

fn event(owner: &str, id: &str, kind: v1::ContainerEventType) -> v1::ContainerEventResponse {
    let sandbox = v1::PodSandboxStatus {
        id: "sandbox".into(),
        metadata: Some(v1::PodSandboxMetadata { uid: "uid".into(), ..Default::default() }),
        labels: [(OWNER_LABEL.to_string(), owner.to_string())].into(),
        ..Default::default()
    };
    v1::ContainerEventResponse {
        container_id: id.into(),
        container_event_type: kind.into(),
        pod_sandbox_status: Some(sandbox),
        ..Default::default()
    }
}

#[tokio::test]
async fn events_of_ours_are_told_and_no_others() {
    let fake = Fake::start(|call| match call {
        "Version" => fake::version(),
        "GetContainerEvents" => Answer::Messages(vec![
            fake::encode(&event("me", "a", v1::ContainerEventType::ContainerCreatedEvent)),
            fake::encode(&event("somebody", "b", v1::ContainerEventType::ContainerCreatedEvent)),
            fake::encode(&v1::ContainerEventResponse { container_id: "c".into(), ..Default::default() }),
            fake::encode(&event("me", "a", v1::ContainerEventType::ContainerStoppedEvent)),
        ]),
        _ => Answer::Error(12, "no"),
    });
    let endpoint = format!("unix://{}", fake.path().display());
    let runtime = ContainerdRuntime::connect(&endpoint, ContainerdOptions::new("me"), SystemClock::shared()).await.unwrap();
    assert!(runtime.capabilities().events);
    let events: Vec<_> = runtime.events().await.unwrap().collect().await;
    let told: Vec<_> = events.iter().map(|e| (e.container_id.as_str(), e.r#type)).collect();
    assert_eq!(told, [("a", ContainerEventType::Created), ("a", ContainerEventType::Stopped)]);
    assert_eq!((events[0].pod_sandbox_id.as_str(), events[0].pod_uid.as_str()), ("sandbox", "uid"));
}
