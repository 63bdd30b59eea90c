//! Events: containerd's task events from shims, turned into hints for the node agent.

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::protobuf::Message;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::shim_async::{Events, create_events};
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::r#async::{Server, TtrpcContext};
use containerd_shim_protos::{api, events};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How many events wait to be looked at before shims wait.
const PENDING_EVENTS: usize = 256;

struct Receiver {
    send: mpsc::Sender<String>,
}

#[async_trait]
impl Events for Receiver {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<api::Empty> {
        let envelope = request.envelope.unwrap_or_default();
        if envelope.topic == "/tasks/exit"
            && let Ok(event) = events::task::TaskExit::parse_from_bytes(&envelope.event.value)
            && event.id == event.container_id
        {
            // A runtime that is being dropped wants none.
            let _ = self.send.send(event.container_id).await;
        }
        Ok(api::Empty::new())
    }
}

/// Listens for the shims' events until `stop`; yields the ids of containers that have exited.
pub(crate) async fn listen(socket: &Path, stop: CancellationToken) -> io::Result<mpsc::Receiver<String>> {
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (send, receive) = mpsc::channel(PENDING_EVENTS);
    let mut server = Server::new()
        .bind(&format!("unix://{}", socket.display()))
        .map_err(io::Error::other)?
        .register_service(create_events(Arc::new(Receiver { send })));
    server.start().await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        stop.cancelled().await;
        // Not `shutdown`: that one panics when the process's executor ends at the same time. Dropping closes the listener.
        server.disconnect().await;
    });
    Ok(receive)
}
