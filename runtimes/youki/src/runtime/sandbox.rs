//! Sandboxes: namespaces, network, a shim, and their end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use containerd_shim_protos::ttrpc::context::{self, Context};
use parking_lot::RwLock;
use wharf_core::runtime::*;

use super::container::Entry;
use super::{Inner, blocking, new_id};
use crate::rootfs::unmount;
use crate::shim::helper::Request;
use crate::spec::resolv_conf;
use crate::state::{ContainerRecord, SandboxDir, SandboxRecord, read_json, shim_alive, wait_shim_gone, write_atomic, write_json};

/// How long a shim may take to answer a call that does not wait for a container.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a shim may take to end when told to, before it is killed.
const SHIM_EXIT: Duration = Duration::from_secs(10);

/// The context of a call to a shim.
pub(super) fn call() -> Context {
    context::with_duration(CALL_TIMEOUT)
}

/// A sandbox.
pub(crate) struct Sandbox {
    pub(super) id: String,
    pub(super) dir: SandboxDir,
    pub(super) record: RwLock<SandboxRecord>,
    client: tokio::sync::Mutex<Option<TaskClient>>,
    /// Stop and remove, one at a time.
    turn: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Sandbox {
    fn new(dir: SandboxDir, record: SandboxRecord) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            dir,
            record: RwLock::new(record),
            client: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    /// Whether its shim lives. Blocks for a moment.
    pub(super) fn alive(&self) -> bool {
        shim_alive(&self.dir)
    }

    pub(super) fn status(&self) -> PodSandboxStatus {
        let alive = self.alive();
        let record = self.record.read();
        let ready = record.complete && !record.stopped && alive;
        PodSandboxStatus {
            sandbox: PodSandbox {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                state: if ready { PodSandboxState::Ready } else { PodSandboxState::NotReady },
                created_at: record.created_at,
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
                runtime_handler: record.runtime_handler.clone(),
            },
            ips: if record.stopped { Vec::new() } else { record.ips.clone() },
            config: record.config.clone(),
        }
    }

    pub(super) async fn require_ready(self: &Arc<Self>, operation: &'static str) -> RuntimeResult<()> {
        let sandbox = self.clone();
        let state = blocking(operation, move || sandbox.status().sandbox.state).await?;
        if state == PodSandboxState::Ready {
            return Ok(());
        }
        Err(RuntimeError::FailedPrecondition { id: self.id.clone(), state: "NotReady".into(), operation })
    }

    /// The shim's task service.
    pub(super) async fn client(&self) -> RuntimeResult<TaskClient> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let address = format!("unix://{}", self.dir.shim_socket().display());
        let connected = Client::connect(&address).await.map_err(|e| RuntimeError::transient("connect to the shim", e))?;
        Ok(client.insert(TaskClient::new(connected)).clone())
    }

    /// `None` for the host's.
    pub(super) fn network_namespace(&self) -> Option<PathBuf> {
        let host = self.record.read().config.namespace_options.network == NamespaceMode::Node;
        (!host).then(|| self.dir.namespace("net"))
    }

    fn network_config(&self) -> Option<PodNetworkConfig> {
        let netns = self.network_namespace()?;
        let record = self.record.read();
        let metadata = &record.config.metadata;
        let mut config = PodNetworkConfig::new(&record.id, &metadata.namespace, &metadata.name, netns);
        config.port_mappings = record.config.port_mappings.clone();
        Some(config)
    }

    fn save(&self) -> std::io::Result<()> {
        let record = self.record.read().clone();
        write_json(&self.dir.record(), &record)
    }
}

/// A cgroup path that stays where it says.
fn cgroup_parent(config: &PodSandboxConfig, id: &str) -> RuntimeResult<String> {
    if config.cgroup_parent.is_empty() {
        return Ok(format!("/wharf/{id}"));
    }
    let trimmed = config.cgroup_parent.trim_matches('/');
    if trimmed.is_empty() || trimmed.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(RuntimeError::InvalidArgument {
            field: "cgroup_parent",
            message: format!("{:?} must be an absolute path below the root, such as /wharf/pod1", config.cgroup_parent),
        });
    }
    Ok(format!("/{trimmed}"))
}

impl Inner {
    pub(super) async fn run_sandbox(self: &Arc<Self>, config: PodSandboxConfig, handler: String) -> RuntimeResult<String> {
        let metadata = config.metadata.clone();
        let _turn = self.turns.take(format!("{}/{}", metadata.uid, metadata.attempt)).await;
        let existing = self.sandboxes.iter().find_map(|s| {
            let other = s.value().record.read().config.metadata.clone();
            (other.uid == metadata.uid && other.attempt == metadata.attempt).then(|| s.key().clone())
        });
        if let Some(id) = existing {
            return Ok(id);
        }
        if config.namespace_options.pid == NamespaceMode::Pod {
            return Err(RuntimeError::Unsupported { capability: "a PID namespace shared by the containers of a pod" });
        }
        let id = new_id();
        let record = SandboxRecord {
            id: id.clone(),
            cgroup_parent: cgroup_parent(&config, &id)?,
            config,
            runtime_handler: handler,
            created_at: self.clock.now(),
            ips: Vec::new(),
            complete: false,
            stopped: false,
        };
        let sandbox = Sandbox::new(self.layout.sandbox(&id), record);
        match self.bring_up(&sandbox).await {
            Ok(()) => {
                self.sandboxes.insert(id.clone(), sandbox);
                Ok(id)
            }
            Err(error) => {
                if let Err(cleanup) = self.tear_down(&sandbox).await {
                    tracing::warn!(sandbox = %id, error = %cleanup, "a sandbox that failed is not wholly cleared away");
                }
                Err(error)
            }
        }
    }

    async fn bring_up(&self, sandbox: &Arc<Sandbox>) -> RuntimeResult<()> {
        let op = "run_pod_sandbox";
        let fault = |e: std::io::Error| RuntimeError::transient(op, e);
        let config = sandbox.record.read().config.clone();
        {
            let (sandbox, config, cgroups) = (sandbox.clone(), config.clone(), self.cgroups.clone());
            let made = move || {
                write_files(&sandbox, &config)?;
                // Made now, it keeps what is above it from going with the last other pod, while a container is on its way into it.
                cgroups.make(&sandbox.record.read().cgroup_parent)
            };
            blocking(op, made).await?.map_err(fault)?;
        }
        let host_network = config.namespace_options.network == NamespaceMode::Node;
        let request = Request::SandboxUp {
            ns_dir: sandbox.dir.namespaces(),
            shm: sandbox.dir.shm(),
            network: !host_network,
            ipc: config.namespace_options.ipc != NamespaceMode::Node,
            hostname: (!config.hostname.is_empty()).then(|| config.hostname.clone()),
            sysctls: config.sysctls.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        };
        let network = async {
            self.executable.helper(request, sandbox.dir.dir.join(".reply-up")).await.map_err(fault)?;
            match (&self.network, sandbox.network_config()) {
                (Some(network), Some(config)) => {
                    network.setup(&config).await.map(|s| s.ips).map_err(|e| RuntimeError::transient("pod network", e))
                }
                _ => Ok(Vec::new()),
            }
        };
        let events = self.layout.events_socket();
        let shim = async { self.executable.shim(&sandbox.id, &sandbox.dir, &events).await.map_err(fault) };
        let (network, shim) = tokio::join!(network, shim);
        shim?;
        let ips = network?;
        {
            let mut record = sandbox.record.write();
            record.ips = ips;
            record.complete = true;
        }
        let saved = sandbox.clone();
        blocking(op, move || saved.save()).await?.map_err(fault)
    }

    pub(super) async fn stop_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> RuntimeResult<()> {
        let _turn = sandbox.turn.lock().await;
        self.stop_sandbox_locked(sandbox).await
    }

    async fn stop_sandbox_locked(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> RuntimeResult<()> {
        // First, so that nothing new starts in it.
        sandbox.record.write().stopped = true;
        let saved = sandbox.clone();
        blocking("stop_pod_sandbox", move || saved.save()).await?.map_err(|e| RuntimeError::transient("stop_pod_sandbox", e))?;
        let entries = self.entries_of(&sandbox.id);
        let stops = futures::future::join_all(entries.iter().map(|e| self.stop_container(e, Duration::ZERO))).await;
        stops.into_iter().collect::<RuntimeResult<()>>()?;
        self.release_network(sandbox).await
    }

    async fn release_network(&self, sandbox: &Sandbox) -> RuntimeResult<()> {
        match (&self.network, sandbox.network_namespace()) {
            (Some(network), Some(_)) => network.teardown(&sandbox.id).await.map_err(|e| RuntimeError::transient("pod network", e)),
            _ => Ok(()),
        }
    }

    pub(super) async fn remove_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> RuntimeResult<()> {
        let _turn = sandbox.turn.lock().await;
        if !self.sandboxes.contains_key(&sandbox.id) {
            return Ok(());
        }
        if !sandbox.dir.record().exists() {
            // An agent that came after this one has removed it.
            for entry in self.entries_of(&sandbox.id) {
                self.containers.remove(&entry.record.id);
            }
            self.sandboxes.remove(&sandbox.id);
            return Ok(());
        }
        self.stop_sandbox_locked(sandbox).await?;
        for entry in self.entries_of(&sandbox.id) {
            self.remove_container(&entry).await?;
        }
        self.tear_down(sandbox).await?;
        self.sandboxes.remove(&sandbox.id);
        Ok(())
    }

    pub(super) fn entries_of(&self, sandbox_id: &str) -> Vec<Arc<Entry>> {
        self.containers.iter().filter(|e| e.value().record.sandbox_id == sandbox_id).map(|e| e.value().clone()).collect()
    }

    /// Ends the shim and removes every trace. Succeeds on what is half there.
    async fn tear_down(&self, sandbox: &Arc<Sandbox>) -> RuntimeResult<()> {
        let op = "remove_pod_sandbox";
        self.release_network(sandbox).await?;
        if let Ok(client) = sandbox.client().await {
            let request = api::ShutdownRequest { id: sandbox.id.clone(), now: true, ..Default::default() };
            // It may go before it answers.
            let _ = client.shutdown(call(), &request).await;
        }
        let gone = {
            let dir = sandbox.dir.clone();
            tokio::task::spawn_blocking(move || wait_shim_gone(&dir))
        };
        tokio::select! {
            _ = gone => {}
            () = self.clock.sleep(SHIM_EXIT) => {
                tracing::warn!(sandbox = %sandbox.id, "the shim does not end and is killed");
                let dir = sandbox.dir.clone();
                blocking(op, move || kill_shim(&dir)).await?;
            }
        }
        let (sandbox, cgroups) = (sandbox.clone(), self.cgroups.clone());
        blocking(op, move || -> std::io::Result<()> {
            let parent = sandbox.record.read().cgroup_parent.clone();
            cgroups.remove(&parent)?;
            if let Some((above, _)) = parent.rsplit_once('/') {
                cgroups.remove_if_empty(above);
            }
            clear_directory(&sandbox.dir.dir)
        })
        .await?
        .map_err(|e| RuntimeError::transient(op, e))
    }

    /// Finds again what an earlier agent has left.
    pub(super) async fn load(self: &Arc<Self>) -> RuntimeResult<()> {
        let op = "find sandboxes again";
        let inner = self.clone();
        let broken = blocking(op, move || -> std::io::Result<Vec<(SandboxDir, Option<SandboxRecord>)>> {
            let mut broken = Vec::new();
            for found in std::fs::read_dir(inner.layout.sandboxes())? {
                let dir = SandboxDir { dir: found?.path() };
                match read_json::<SandboxRecord>(&dir.record()) {
                    Ok(record) if record.complete => {
                        let sandbox = Sandbox::new(dir, record);
                        inner.load_containers(&sandbox)?;
                        inner.sandboxes.insert(sandbox.id.clone(), sandbox);
                    }
                    Ok(record) => broken.push((dir, Some(record))),
                    Err(_) => broken.push((dir, None)),
                }
            }
            Ok(broken)
        })
        .await?
        .map_err(|e| RuntimeError::transient(op, e))?;
        for (dir, record) in broken {
            tracing::info!(directory = %dir.dir.display(), "clearing away a sandbox that was never whole");
            match record {
                Some(record) => self.tear_down(&Sandbox::new(dir, record)).await?,
                None => blocking(op, move || {
                    kill_shim(&dir);
                    clear_directory(&dir.dir)
                })
                .await?
                .map_err(|e| RuntimeError::transient(op, e))?,
            }
        }
        Ok(())
    }

    fn load_containers(&self, sandbox: &Arc<Sandbox>) -> std::io::Result<()> {
        let directory = match std::fs::read_dir(sandbox.dir.containers()) {
            Ok(directory) => directory,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
        };
        for found in directory {
            let path = found?.path();
            let Some(id) = path.file_name().and_then(|n| n.to_str()) else { continue };
            let dir = sandbox.dir.container(id);
            match read_json::<ContainerRecord>(&dir.record()) {
                Ok(record) => {
                    self.containers.insert(record.id.clone(), Entry::new(dir, record, sandbox.clone()));
                }
                // The record is written last; without it the container was never made.
                Err(_) => clear_directory(&dir.dir)?,
            }
        }
        Ok(())
    }
}

fn write_files(sandbox: &Sandbox, config: &PodSandboxConfig) -> std::io::Result<()> {
    std::fs::create_dir_all(sandbox.dir.containers())?;
    std::fs::create_dir_all(sandbox.dir.youki())?;
    sandbox.save()?;
    let resolver = match &config.dns_config {
        Some(dns) => resolv_conf(dns).into_bytes(),
        None => std::fs::read("/etc/resolv.conf").unwrap_or_default(),
    };
    write_readable(&sandbox.dir.resolv_conf(), &resolver)?;
    let hostname =
        if config.hostname.is_empty() { nix::unistd::gethostname()?.to_string_lossy().into_owned() } else { config.hostname.clone() };
    write_readable(&sandbox.dir.hostname(), format!("{hostname}\n").as_bytes())?;
    if !config.log_directory.as_os_str().is_empty() {
        std::fs::create_dir_all(&config.log_directory)?;
    }
    Ok(())
}

/// A file that every user of a container may read.
fn write_readable(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    write_atomic(path, bytes)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
}

/// Kills a shim by the process id it wrote, if it still holds its lock.
fn kill_shim(dir: &SandboxDir) {
    if !shim_alive(dir) {
        return;
    }
    let pid = std::fs::read_to_string(dir.shim_lock()).ok().and_then(|t| t.trim().parse::<i32>().ok()).filter(|p| *p > 1);
    if let Some(pid) = pid {
        // The lock says that it lives, so the id is its own.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        wait_shim_gone(dir);
    }
}

/// Unmounts everything below a directory and removes it.
pub(super) fn clear_directory(directory: &Path) -> std::io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    // The latest mount first: it may lie on another.
    for line in mounts.lines().rev() {
        let Some(point) = line.split(' ').nth(1) else { continue };
        let point = PathBuf::from(point.replace("\\040", " "));
        if point.starts_with(directory) {
            unmount(&point)?;
        }
    }
    match std::fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_parent_stays_below_the_root() {
        let parent = |path: &str| cgroup_parent(&PodSandboxConfig { cgroup_parent: path.into(), ..Default::default() }, "id");
        assert_eq!(parent("").unwrap(), "/wharf/id");
        assert_eq!(parent("/wharf/pod1").unwrap(), "/wharf/pod1");
        for bad in ["/", "/../x", "/a/./b", "/a//b"] {
            assert!(parent(bad).is_err(), "{bad}");
        }
    }
}
