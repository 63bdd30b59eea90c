//! Events, where the runtime tells them: containerd does from 1.7 on.

use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_cri::v1;
use tokio::sync::mpsc;
use wharf_core::runtime::{ContainerEvent, ContainerEventType, RuntimeError, RuntimeResult};

use super::ContainerdRuntime;
use crate::owner::Owner;

const OP: &str = "events";
/// How many events wait for a reader before the runtime does.
const EVENT_BUFFER: usize = 256;

/// The event, if it is of a sandbox or container of ours.
fn event(event: v1::ContainerEventResponse, owner: &Owner) -> Option<ContainerEvent> {
    let r#type = match event.container_event_type() {
        v1::ContainerEventType::ContainerCreatedEvent => ContainerEventType::Created,
        v1::ContainerEventType::ContainerStartedEvent => ContainerEventType::Started,
        v1::ContainerEventType::ContainerStoppedEvent => ContainerEventType::Stopped,
        v1::ContainerEventType::ContainerDeletedEvent => ContainerEventType::Deleted,
    };
    let sandbox = event.pod_sandbox_status.filter(|sandbox| owner.owns(&sandbox.labels))?;
    Some(ContainerEvent {
        container_id: event.container_id,
        pod_sandbox_id: sandbox.id,
        pod_uid: sandbox.metadata.map(|m| m.uid).unwrap_or_default(),
        r#type,
    })
}

pub(super) async fn events(runtime: &ContainerdRuntime) -> RuntimeResult<BoxStream<'static, ContainerEvent>> {
    if !runtime.capabilities.events {
        return Err(RuntimeError::Unsupported { capability: OP });
    }
    let (owner, mut client) = (runtime.owner.clone(), runtime.cri.runtime());
    let (sender, receiver) = mpsc::channel(EVENT_BUFFER);
    // A task of its own: the answer to the call begins with the first event, and the subscription is to begin now.
    tokio::spawn(async move {
        let forward = async {
            let mut events = match client.get_container_events(v1::GetEventsRequest::default()).await {
                Ok(response) => response.into_inner(),
                Err(status) => return tracing::debug!(%status, "no events"),
            };
            while let Ok(Some(response)) = events.message().await {
                let Some(event) = event(response, &owner) else { continue };
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = forward => {}
            () = sender.closed() => {}
        }
    });
    Ok(futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }).boxed())
}
