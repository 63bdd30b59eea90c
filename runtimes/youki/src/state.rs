//! What is kept on disk, and where: the truth from which a new agent finds its pods again.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use wharf_core::runtime::{ContainerConfig, PodSandboxConfig};

/// The longest path of a unix socket, less the final zero.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// Paths under the runtime's root.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }
    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("state/sandboxes")
    }
    pub(crate) fn events_socket(&self) -> PathBuf {
        self.root.join("state/events.sock")
    }
    pub(crate) fn sandbox(&self, id: &str) -> SandboxDir {
        SandboxDir { dir: self.sandboxes().join(id) }
    }
}

/// Paths of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SandboxDir {
    pub(crate) dir: PathBuf,
}

impl SandboxDir {
    pub(crate) fn record(&self) -> PathBuf {
        self.dir.join("sandbox.json")
    }
    pub(crate) fn shim_socket(&self) -> PathBuf {
        self.dir.join("shim.sock")
    }
    pub(crate) fn stream_socket(&self) -> PathBuf {
        self.dir.join("io.sock")
    }
    pub(crate) fn shim_lock(&self) -> PathBuf {
        self.dir.join("shim.lock")
    }
    pub(crate) fn shim_log(&self) -> PathBuf {
        self.dir.join("shim.log")
    }
    pub(crate) fn namespaces(&self) -> PathBuf {
        self.dir.join("ns")
    }
    pub(crate) fn namespace(&self, name: &str) -> PathBuf {
        self.dir.join("ns").join(name)
    }
    pub(crate) fn shm(&self) -> PathBuf {
        self.dir.join("shm")
    }
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }
    pub(crate) fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }
    pub(crate) fn youki(&self) -> PathBuf {
        self.dir.join("youki")
    }
    pub(crate) fn containers(&self) -> PathBuf {
        self.dir.join("containers")
    }
    pub(crate) fn container(&self, id: &str) -> ContainerDir {
        ContainerDir { dir: self.containers().join(id) }
    }
}

/// Paths of one container; the directory is its OCI bundle too.
#[derive(Debug, Clone)]
pub(crate) struct ContainerDir {
    pub(crate) dir: PathBuf,
}

impl ContainerDir {
    pub(crate) fn record(&self) -> PathBuf {
        self.dir.join("container.json")
    }
    pub(crate) fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }
    pub(crate) fn shim_config(&self) -> PathBuf {
        self.dir.join("shim.json")
    }
    pub(crate) fn spec(&self) -> PathBuf {
        self.dir.join("config.json")
    }
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }
    pub(crate) fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.join("work")
    }
}

/// A sandbox as it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) runtime_handler: String,
    pub(crate) created_at: Timestamp,
    pub(crate) ips: Vec<IpAddr>,
    /// The parent cgroup of its containers, with a leading slash.
    pub(crate) cgroup_parent: String,
    /// Set once it is whole; one without it is the rest of a call that was cut off.
    pub(crate) complete: bool,
    pub(crate) stopped: bool,
}

/// A container as it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) id: String,
    pub(crate) sandbox_id: String,
    pub(crate) config: ContainerConfig,
    pub(crate) image_ref: String,
    /// Layer directories it is mounted from, so that an image's removal leaves them.
    pub(crate) layers: Vec<String>,
    pub(crate) stop_signal: String,
    pub(crate) created_at: Timestamp,
    pub(crate) log_path: PathBuf,
    pub(crate) cgroup: String,
}

/// What the shim must know of a container beyond its OCI bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ShimContainer {
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) tty: bool,
    pub(crate) cgroup: String,
}

/// A container's life so far; written by the shim once it has the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusRecord {
    pub(crate) phase: Phase,
    pub(crate) pid: u32,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) signal: i32,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    #[default]
    Created,
    /// Handed to the shim; from here a dead shim means a lost container.
    Starting,
    Running,
    Exited,
}

/// Writes JSON so that a reader sees the old or the new, never a part.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_atomic(path, &serde_json::to_vec(value)?)
}

/// Writes a file by rename.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("a file needs a directory"))?;
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.persist(path).map_err(|e| e.error)?;
    Ok(())
}

/// Reads JSON.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Whether the shim of a sandbox lives: it holds its lock for as long as it does.
pub(crate) fn shim_alive(dir: &SandboxDir) -> bool {
    let Ok(file) = fs::File::open(dir.shim_lock()) else { return false };
    match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockSharedNonblock) {
        Ok(_) => false,
        Err((_, errno)) => errno == nix::errno::Errno::EWOULDBLOCK,
    }
}

/// Waits until the shim is gone. Blocks.
pub(crate) fn wait_shim_gone(dir: &SandboxDir) {
    if let Ok(file) = fs::File::open(dir.shim_lock()) {
        // The lock is let go at once; having had it is the answer.
        let _ = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockShared);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_survives_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let status = StatusRecord { phase: Phase::Exited, exit_code: 137, reason: "OOMKilled".into(), ..StatusRecord::default() };
        write_json(&path, &status).unwrap();
        assert_eq!(read_json::<StatusRecord>(&path).unwrap(), status);
    }

    #[test]
    fn a_lock_tells_a_living_shim() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = SandboxDir { dir: dir.path().into() };
        assert!(!shim_alive(&sandbox));
        let file = fs::File::create(sandbox.shim_lock()).unwrap();
        assert!(!shim_alive(&sandbox));
        let held = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive).unwrap();
        assert!(shim_alive(&sandbox));
        drop(held);
        assert!(!shim_alive(&sandbox));
    }
}
