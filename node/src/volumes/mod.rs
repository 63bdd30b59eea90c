//! Volumes of a pod, under `ROOT/pods/UID`.

mod atomic;
mod hosts;
mod mount;
mod payload;
mod subpath;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume};
use wharf_core::quantity::Quantity;
use wharf_core::runtime::{Mount, MountPropagation};

use crate::env::{self, ConfigError, expand};
use crate::shared::Shared;
use crate::{labels, pod};

pub(crate) use payload::Tokens;

/// Why a volume cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("{cause}")]
    Content {
        volume: String,
        #[source]
        cause: Box<ConfigError>,
    },
    #[error("references non-existent {what} key: {key}")]
    NoKey { volume: String, what: &'static str, key: String },
    #[error("invalid path {path:?}: it must be relative and must not contain '..'")]
    Path { volume: String, path: String },
    #[error("hostPath type check failed: {path} is not a {kind}")]
    HostPathType { volume: String, path: String, kind: String },
    #[error("{path}: {source}")]
    Io {
        volume: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("volume {volume:?} is of a kind that this node does not support")]
    Unsupported { volume: String },
    #[error("no volume {volume:?} in the pod")]
    Unknown { volume: String },
    #[error("failed to prepare subPath {path:?} for volumeMount {volume:?}: {source}")]
    SubPath {
        volume: String,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("setting up was interrupted")]
    Interrupted { volume: String },
}

impl VolumeError {
    /// The volume at fault.
    pub(crate) fn volume(&self) -> &str {
        match self {
            Self::Content { volume, .. }
            | Self::NoKey { volume, .. }
            | Self::Path { volume, .. }
            | Self::HostPathType { volume, .. }
            | Self::Io { volume, .. }
            | Self::Unsupported { volume }
            | Self::Unknown { volume }
            | Self::SubPath { volume, .. }
            | Self::Interrupted { volume } => volume,
        }
    }
}

fn io(volume: &str, path: &Path) -> impl FnOnce(std::io::Error) -> VolumeError {
    let (volume, path) = (volume.to_string(), path.to_path_buf());
    move |source| VolumeError::Io { volume, path, source }
}

/// Runs disk work off the executor.
async fn blocking<T: Send + 'static>(
    volume: &str,
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(VolumeError::Interrupted { volume: volume.into() }),
    }
}

#[derive(Debug, Clone)]
struct Ready {
    path: PathBuf,
    read_only: bool,
}

/// Volumes that are set up.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodVolumes {
    ready: BTreeMap<String, Ready>,
    live: bool,
}

impl PodVolumes {
    /// Sets up every volume, or brings its content up to date. Repeating it is cheap.
    pub(crate) async fn prepare(shared: &Shared, pod: &Pod) -> Result<Self, VolumeError> {
        let mut made = Self::default();
        if !shared.volumes {
            return Ok(made);
        }
        let logs = shared.pod_log_dir(pod);
        blocking("logs", move || std::fs::create_dir_all(&logs).map_err(io("logs", &logs))).await?;
        let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        for volume in volumes {
            let (ready, live) = set_up(shared, pod, volume).await?;
            made.live |= live;
            made.ready.insert(volume.name.clone(), ready);
        }
        Ok(made)
    }

    /// Whether some content follows the API.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// The mounts of one container.
    pub(crate) async fn mounts(
        &self,
        shared: &Shared,
        pod: &Pod,
        container: &Container,
        attempt: u32,
        envs: &[(String, String)],
    ) -> Result<Vec<Mount>, ConfigError> {
        if !shared.volumes {
            return Ok(Vec::new());
        }
        let mut mounts = Vec::new();
        for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
            let name = &wanted.name;
            let ready = self.ready.get(name).ok_or_else(|| VolumeError::Unknown { volume: name.clone() })?;
            let below = match &wanted.sub_path_expr {
                Some(template) if !template.is_empty() => expand(template, |name| env::lookup(envs, name)),
                _ => wanted.sub_path.clone().unwrap_or_default(),
            };
            let host_path = if below.is_empty() {
                ready.path.clone()
            } else {
                let target = shared.pod_dir(pod::uid(pod)).join("volume-subpaths").join(name).join(&container.name).join(index.to_string());
                let (volume, root) = (name.clone(), ready.path.clone());
                blocking(name, move || {
                    subpath::bind(&root, &below, &target).map(|()| target).map_err(|source| VolumeError::SubPath {
                        volume,
                        path: below,
                        source,
                    })
                })
                .await?
            };
            mounts.push(Mount {
                container_path: wanted.mount_path.clone(),
                host_path,
                readonly: ready.read_only || wanted.read_only == Some(true),
                propagation: match wanted.mount_propagation.as_deref() {
                    Some("HostToContainer") => MountPropagation::HostToContainer,
                    Some("Bidirectional") => MountPropagation::Bidirectional,
                    _ => MountPropagation::Private,
                },
            });
        }
        if !covers(container, "/etc/hosts") {
            let path = shared.pod_dir(pod::uid(pod)).join("etc-hosts");
            mounts.push(Mount {
                container_path: "/etc/hosts".into(),
                host_path: hosts::write(shared, pod, path).await?,
                ..Mount::default()
            });
        }
        if !covers(container, labels::message_path(container)) {
            let path = message_file(shared, pod::uid(pod), &container.name, attempt);
            let host_path = blocking("termination-log", move || {
                let error = |source| VolumeError::Io { volume: "termination-log".into(), path: path.clone(), source };
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir).map_err(error)?;
                }
                std::fs::write(&path, b"").map_err(error)?;
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).map_err(error)?;
                Ok(path)
            })
            .await?;
            mounts.push(Mount { container_path: labels::message_path(container).into(), host_path, ..Mount::default() });
        }
        Ok(mounts)
    }
}

fn covers(container: &Container, path: &str) -> bool {
    container.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == path)
}

/// Where a container's termination message is.
pub(crate) fn message_file(shared: &Shared, uid: &str, container: &str, attempt: u32) -> PathBuf {
    shared.pod_dir(uid).join("containers").join(container).join(attempt.to_string())
}

fn volume_dir(shared: &Shared, pod: &Pod, kind: &str, name: &str) -> PathBuf {
    shared.pod_dir(pod::uid(pod)).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
}

async fn set_up(shared: &Shared, pod: &Pod, volume: &Volume) -> Result<(Ready, bool), VolumeError> {
    let name = &volume.name;
    let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
    let group = group.and_then(|g| u32::try_from(g).ok());
    if let Some(source) = &volume.empty_dir {
        let path = volume_dir(shared, pod, "empty-dir", name);
        let size = source.size_limit.as_ref().and_then(|q| Quantity::try_from(q).ok()).map(|q| q.value());
        let memory = match source.medium.as_deref().unwrap_or_default() {
            "Memory" => true,
            "" => false,
            _ => return Err(VolumeError::Unsupported { volume: name.clone() }),
        };
        let (volume, at) = (name.clone(), path.clone());
        blocking(name, move || empty_dir(&volume, &at, memory, size, group)).await?;
        return Ok((Ready { path, read_only: false }, false));
    }
    if let Some(source) = &volume.host_path {
        let (volume, source) = (name.clone(), source.clone());
        let path = blocking(name, move || host_path(&volume, &source)).await?;
        return Ok((Ready { path, read_only: false }, false));
    }
    let Some((kind, files)) = payload::of(shared, pod, volume).await? else {
        return Err(VolumeError::Unsupported { volume: name.clone() });
    };
    let path = volume_dir(shared, pod, kind, name);
    let (volume, at) = (name.clone(), path.clone());
    let secret = matches!(kind, "secret" | "projected");
    blocking(name, move || {
        std::fs::create_dir_all(&at).map_err(io(&volume, &at))?;
        if secret {
            // Secrets stay off the disk where that is allowed.
            match mount::tmpfs(&at, None) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    tracing::debug!("no tmpfs for {}: {error}", at.display());
                }
                other => other.map_err(io(&volume, &at))?,
            }
        }
        atomic::write(&at, &files, group).map_err(io(&volume, &at))
    })
    .await?;
    Ok((Ready { path, read_only: true }, true))
}

fn empty_dir(volume: &str, path: &Path, memory: bool, size: Option<i64>, group: Option<u32>) -> Result<(), VolumeError> {
    let fresh = !path.exists();
    std::fs::create_dir_all(path).map_err(io(volume, path))?;
    if memory {
        mount::tmpfs(path, size).map_err(io(volume, path))?;
    }
    if fresh {
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        if group.is_some() {
            std::os::unix::fs::chown(path, None, group).map_err(io(volume, path))?;
        }
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(io(volume, path))?;
    }
    Ok(())
}

fn host_path(volume: &str, source: &HostPathVolumeSource) -> Result<PathBuf, VolumeError> {
    use std::os::unix::fs::FileTypeExt;
    let path = PathBuf::from(&source.path);
    if !path.is_absolute() || path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(VolumeError::Path { volume: volume.into(), path: source.path.clone() });
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" => std::fs::create_dir_all(&path).map_err(io(volume, &path))?,
        "FileOrCreate" if !path.exists() => std::fs::write(&path, b"").map_err(io(volume, &path))?,
        _ => {}
    }
    let found = std::fs::metadata(&path).map(|m| m.file_type());
    let holds = match (kind, &found) {
        ("", _) => true,
        (_, Err(_)) => false,
        ("Directory" | "DirectoryOrCreate", Ok(t)) => t.is_dir(),
        ("File" | "FileOrCreate", Ok(t)) => t.is_file(),
        ("Socket", Ok(t)) => t.is_socket(),
        ("CharDevice", Ok(t)) => t.is_char_device(),
        ("BlockDevice", Ok(t)) => t.is_block_device(),
        _ => false,
    };
    let noun = match kind {
        "File" | "FileOrCreate" => "file",
        "Socket" => "socket file",
        "CharDevice" => "character device",
        "BlockDevice" => "block device",
        _ => "directory",
    };
    if holds { Ok(path) } else { Err(VolumeError::HostPathType { volume: volume.into(), path: source.path.clone(), kind: noun.into() }) }
}

/// Removes everything of a pod from the disk.
pub(crate) async fn teardown(shared: &Shared, pod: &Pod) {
    let (dir, logs) = (shared.pod_dir(pod::uid(pod)), shared.pod_log_dir(pod));
    shared.tokens.forget(pod::uid(pod));
    // A uid or name with a slash never comes from the API server; still, nothing outside may be removed.
    if pod::uid(pod).is_empty() || pod::uid(pod).contains('/') || pod::name(pod).contains('/') || pod::namespace(pod).contains('/') {
        return;
    }
    let work = move || {
        if let Err(error) = mount::unmount_below(&dir) {
            tracing::warn!("{} stays, for something is still mounted below it: {error}", dir.display());
            return;
        }
        for path in [dir, logs] {
            match std::fs::remove_dir_all(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!("{} was not removed: {error}", path.display());
                }
                _ => {}
            }
        }
    };
    if tokio::task::spawn_blocking(work).await.is_err() {
        tracing::warn!("removing a pod's volumes was interrupted");
    }
}
