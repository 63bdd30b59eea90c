//! Rotation: a log that has grown too long is set aside, and the runtime opens a new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use wharf_core::runtime::{ContainerFilter, ContainerState, RuntimeService, StringMap};

use crate::labels;
use crate::shared::Shared;

/// A log is rotated when it is longer than this.
pub const MAX_LOG_SIZE: u64 = 10 * 1024 * 1024;
/// Files kept of one log, the one that is written included.
pub const MAX_LOG_FILES: usize = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// The rotated parts of a log, the oldest first.
pub(crate) fn parts(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect();
    found.sort();
    found
}

/// Looks at the logs of running containers until stopped.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    if !shared.volumes {
        return;
    }
    let work = async {
        loop {
            shared.clock.sleep(PERIOD).await;
            Box::pin(once(&shared)).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

async fn once(shared: &Shared) {
    let filter = ContainerFilter {
        state: Some(ContainerState::Running),
        label_selector: StringMap::from([(labels::NODE.to_string(), shared.name.to_string())]),
        ..ContainerFilter::default()
    };
    let Ok(containers) = shared.runtime.list_containers(&filter).await else { return };
    for container in containers {
        let Ok(status) = shared.runtime.container_status(&container.id).await else { continue };
        let path = status.log_path;
        if !tokio::fs::metadata(&path).await.is_ok_and(|m| m.len() > MAX_LOG_SIZE) {
            continue;
        }
        let stamp = shared.clock.now().strftime("%Y%m%d-%H%M%S").to_string();
        let aside = PathBuf::from(format!("{}.{stamp}", path.display()));
        if let Err(error) = tokio::fs::rename(&path, &aside).await {
            tracing::warn!("{} was not rotated: {error}", path.display());
            continue;
        }
        if let Err(error) = shared.runtime.reopen_container_log(&container.id).await {
            tracing::warn!("{} was not opened again: {error}", path.display());
            // The runtime still writes to the file that was set aside.
            if let Err(error) = tokio::fs::rename(&aside, &path).await {
                tracing::warn!("{} was not put back: {error}", path.display());
            }
            continue;
        }
        let old = parts(&path);
        for part in old.iter().take((old.len() + 1).saturating_sub(MAX_LOG_FILES)) {
            if let Err(error) = tokio::fs::remove_file(part).await {
                tracing::warn!("{} was not removed: {error}", part.display());
            }
        }
    }
}
