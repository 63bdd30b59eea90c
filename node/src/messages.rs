//! Termination messages: what a container left to say why it ended, bounded.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncReadExt;
use wharf_core::runtime::{ContainerState, ContainerStatus};

use crate::shared::Shared;
use crate::snapshot::{PodRuntime, attempt};
use crate::{labels, pod, volumes};

/// Most bytes of a message.
const MAX_MESSAGE: u64 = 4096;
/// What is taken from the log instead.
const MAX_LOG_LINES: u64 = 80;
const MAX_LOG_BYTES: u64 = 2048;

/// Reads the messages of containers that ended, each once.
pub(crate) async fn collect(shared: &Shared, pod: &Pod, runtime: &PodRuntime, known: &mut BTreeMap<String, String>) {
    if !shared.volumes {
        return;
    }
    known.retain(|id, _| runtime.containers.iter().any(|c| c.container.id == *id));
    for status in runtime.containers.iter().filter(|c| c.container.state == ContainerState::Exited) {
        if !known.contains_key(&status.container.id) {
            let mut message = read(shared, pod, status).await;
            if message.is_empty() {
                message = status.message.clone();
            }
            known.insert(status.container.id.clone(), message);
        }
    }
    known.retain(|_, message| !message.is_empty());
}

async fn read(shared: &Shared, pod: &Pod, status: &ContainerStatus) -> String {
    let path = volumes::message_file(shared, pod::uid(pod), &status.container.metadata.name, attempt(status));
    let mut bytes = Vec::new();
    // It may have been put elsewhere by an older agent, or never been made.
    if let Ok(file) = tokio::fs::File::open(&path).await
        && let Err(error) = file.take(MAX_MESSAGE).read_to_end(&mut bytes).await
    {
        tracing::debug!("a termination message was not read: {error}");
    }
    let fallback = status.container.annotations.get(labels::MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if bytes.is_empty() && fallback && status.exit_code != 0 {
        bytes = crate::logs::tail(&status.log_path, MAX_LOG_LINES, MAX_LOG_BYTES).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
