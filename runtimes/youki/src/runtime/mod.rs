//! The agent's side: CRI's verbs over shims, one file a concern.

mod container;
mod events;
mod launch;
mod sandbox;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use dashmap::DashMap;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};
use wharf_core::clock::{Clock, SystemClock};
use wharf_core::runtime::*;

use crate::cgroup::Hierarchies;
use crate::image::{ImageStore, to_image};
use crate::state::{Layout, MAX_SOCKET_PATH};
use container::Entry;
use launch::Executable;
use sandbox::Sandbox;

/// How many events a slow listener may be behind before its stream ends.
const EVENTS: usize = 1024;
/// Length of sandbox and container ids in bytes, twice that in characters; short for the sake of socket paths.
const ID_BYTES: usize = 10;

/// Real containers, each pod held by a shim of its own.
///
/// Everything is below one root directory, where one agent works at a time. See the [crate] for what is needed
/// of the machine and of the embedder's `main`.
#[derive(Debug, Clone)]
pub struct YoukiRuntime {
    inner: Arc<Inner>,
}

/// Makes a [`YoukiRuntime`].
#[derive(Debug)]
pub struct YoukiRuntimeBuilder {
    root: PathBuf,
    network: Option<Arc<dyn PodNetwork>>,
    shim_executable: Option<PathBuf>,
    insecure: Vec<String>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    layout: Layout,
    images: ImageStore,
    network: Option<Arc<dyn PodNetwork>>,
    clock: Arc<dyn Clock>,
    executable: Executable,
    cgroups: Hierarchies,
    sandboxes: DashMap<String, Arc<Sandbox>>,
    containers: DashMap<String, Arc<Entry>>,
    turns: Turns,
    events: broadcast::Sender<ContainerEvent>,
    _stop: DropGuard,
}

/// One caller at a time for each key.
#[derive(Debug, Default)]
struct Turns {
    turns: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Turns {
    async fn take(&self, key: String) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock();
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(&key).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    turns.insert(key, Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }
}

/// A new random id.
fn new_id() -> String {
    let mut bytes = [0u8; ID_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    crate::image::hex(&bytes)
}

/// Runs blocking work off the executor.
async fn blocking<T: Send + 'static>(op: &'static str, work: impl FnOnce() -> T + Send + 'static) -> RuntimeResult<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| RuntimeError::transient(op, e))
}

/// Runs a call to its end even if the caller drops its future: half of a container helps nobody.
async fn detached<T: Send + 'static>(op: &'static str, work: impl Future<Output = RuntimeResult<T>> + Send + 'static) -> RuntimeResult<T> {
    tokio::spawn(work).await.map_err(|e| RuntimeError::transient(op, e))?
}

impl YoukiRuntimeBuilder {
    /// The pod network; without one sandboxes have the loopback interface only.
    #[must_use]
    pub fn network(mut self, network: Arc<dyn PodNetwork>) -> Self {
        self.network = Some(network);
        self
    }

    /// Runs shims from this executable instead of a copy of the current one. It has to call
    /// [`shim_main`](crate::shim_main) first in its `main`.
    #[must_use]
    pub fn shim_executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.shim_executable = Some(path.into());
        self
    }

    /// Lets images come from this registry (`host` or `host:port`) without TLS. Loopback hosts always may.
    #[must_use]
    pub fn insecure_registry(mut self, registry: impl Into<String>) -> Self {
        self.insecure.push(registry.into());
        self
    }

    /// The clock for timestamps and timeouts.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the root directory and finds again what is there: pods whose shim lives go on, the rest of calls that
    /// were cut off is cleared away.
    ///
    /// # Errors
    /// [`RuntimeError`], when the root cannot be used or its path is too long for sockets.
    pub async fn build(self) -> RuntimeResult<YoukiRuntime> {
        // Ring, unless the embedder has chosen already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = std::path::absolute(&self.root).map_err(|e| RuntimeError::permanent("open the root directory", e))?;
        let layout = Layout::new(&root);
        let longest = layout.sandbox(&"0".repeat(2 * ID_BYTES)).shim_socket();
        if longest.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(RuntimeError::InvalidArgument {
                field: "root_dir",
                message: format!(
                    "{} is too long: sockets below it would have {} characters, and {MAX_SOCKET_PATH} are possible",
                    layout.root().display(),
                    longest.as_os_str().len()
                ),
            });
        }
        let (paths, insecure) = (layout.clone(), self.insecure);
        let (images, cgroups) = blocking("open the root directory", move || -> RuntimeResult<_> {
            use std::os::unix::fs::DirBuilderExt;
            let mut directory = std::fs::DirBuilder::new();
            directory.recursive(true).mode(0o711);
            directory.create(paths.sandboxes()).map_err(|e| RuntimeError::permanent("open the root directory", e))?;
            let images = ImageStore::open(paths.images(), insecure).map_err(|e| RuntimeError::permanent("open the image store", e))?;
            let cgroups = Hierarchies::detect().map_err(|e| RuntimeError::permanent("find cgroups", e))?;
            Ok((images, cgroups))
        })
        .await??;
        let stop = CancellationToken::new();
        let mut exits =
            events::listen(&layout.events_socket(), stop.clone()).await.map_err(|e| RuntimeError::permanent("listen for events", e))?;
        let inner = Arc::new(Inner {
            layout,
            images,
            network: self.network,
            clock: self.clock,
            executable: Executable::new(self.shim_executable),
            cgroups,
            sandboxes: DashMap::new(),
            containers: DashMap::new(),
            turns: Turns::default(),
            events: broadcast::Sender::new(EVENTS),
            _stop: stop.drop_guard(),
        });
        inner.load().await?;
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            while let Some(id) = exits.recv().await {
                let Some(inner) = weak.upgrade() else { return };
                let entry = inner.containers.get(&id).map(|e| e.value().clone());
                if let Some(entry) = entry {
                    inner.emit(&entry, ContainerEventType::Stopped);
                }
            }
        });
        Ok(YoukiRuntime { inner })
    }
}

impl YoukiRuntime {
    /// A runtime that keeps everything below `root_dir`.
    pub fn builder(root_dir: impl Into<PathBuf>) -> YoukiRuntimeBuilder {
        YoukiRuntimeBuilder {
            root: root_dir.into(),
            network: None,
            shim_executable: None,
            insecure: Vec::new(),
            clock: SystemClock::shared(),
        }
    }

    /// The image store, to import images from disk.
    pub fn images(&self) -> &ImageStore {
        &self.inner.images
    }

    /// Removes every sandbox with its containers, processes, mounts, interfaces and cgroups. Images stay.
    ///
    /// # Errors
    /// The first [`RuntimeError`]; the other sandboxes are removed all the same.
    ///
    /// # Cancellation
    /// What has begun goes on.
    pub async fn remove_all(&self) -> RuntimeResult<()> {
        let ids: Vec<String> = self.inner.sandboxes.iter().map(|s| s.key().clone()).collect();
        let results = futures::future::join_all(ids.iter().map(|id| self.remove_pod_sandbox(id))).await;
        results.into_iter().collect()
    }
}

impl Inner {
    fn emit(&self, entry: &Entry, kind: ContainerEventType) {
        let pod_uid = entry.sandbox.record.read().config.metadata.uid.clone();
        // Nobody may be listening.
        let _ = self.events.send(ContainerEvent {
            container_id: entry.record.id.clone(),
            pod_sandbox_id: entry.record.sandbox_id.clone(),
            pod_uid,
            r#type: kind,
        });
    }

    fn entry(&self, id: &str) -> RuntimeResult<Arc<Entry>> {
        let found = self.containers.get(id).map(|e| e.value().clone());
        found.ok_or_else(|| RuntimeError::NotFound { kind: "container", id: id.into() })
    }

    fn sandbox(&self, id: &str) -> RuntimeResult<Arc<Sandbox>> {
        let found = self.sandboxes.get(id).map(|s| s.value().clone());
        found.ok_or_else(|| RuntimeError::NotFound { kind: "sandbox", id: id.into() })
    }
}

fn labels_match(selector: &StringMap, labels: &StringMap) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[async_trait]
impl RuntimeService for YoukiRuntime {
    async fn version(&self) -> RuntimeResult<RuntimeVersion> {
        Ok(RuntimeVersion { runtime_name: "youki".into(), runtime_version: env!("CARGO_PKG_VERSION").into() })
    }

    fn capabilities(&self) -> RuntimeCapabilities {
        RuntimeCapabilities::all()
    }

    async fn status(&self) -> RuntimeResult<RuntimeStatus> {
        let mut status = RuntimeStatus::all_ready();
        if !nix::unistd::geteuid().is_root() {
            status.conditions[0] = RuntimeCondition {
                r#type: "RuntimeReady".into(),
                status: false,
                reason: "NotRoot".into(),
                message: "containers need root".into(),
            };
        }
        if let Some(network) = &self.inner.network
            && let Err(error) = network.ready().await
        {
            status.conditions[1] = RuntimeCondition {
                r#type: "NetworkReady".into(),
                status: false,
                reason: "NetworkPluginNotReady".into(),
                message: error.to_string(),
            };
        }
        Ok(status)
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> RuntimeResult<String> {
        let (inner, config, handler) = (self.inner.clone(), config.clone(), runtime_handler.to_string());
        detached("run_pod_sandbox", async move { inner.run_sandbox(config, handler).await }).await
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        let Ok(sandbox) = self.inner.sandbox(sandbox_id) else { return Ok(()) };
        let inner = self.inner.clone();
        detached("stop_pod_sandbox", async move { inner.stop_sandbox(&sandbox).await }).await
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        let Ok(sandbox) = self.inner.sandbox(sandbox_id) else { return Ok(()) };
        let inner = self.inner.clone();
        detached("remove_pod_sandbox", async move { inner.remove_sandbox(&sandbox).await }).await
    }

    async fn pod_sandbox_status(&self, sandbox_id: &str) -> RuntimeResult<PodSandboxStatus> {
        let sandbox = self.inner.sandbox(sandbox_id)?;
        blocking("pod_sandbox_status", move || sandbox.status()).await
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> RuntimeResult<Vec<PodSandbox>> {
        let all: Vec<Arc<Sandbox>> = self.inner.sandboxes.iter().map(|s| s.value().clone()).collect();
        let filter = filter.clone();
        blocking("list_pod_sandbox", move || {
            all.iter()
                .filter(|s| filter.id.as_ref().is_none_or(|id| *id == s.id))
                .map(|s| s.status().sandbox)
                .filter(|s| filter.state.is_none_or(|state| state == s.state) && labels_match(&filter.label_selector, &s.labels))
                .collect()
        })
        .await
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> RuntimeResult<String> {
        let sandbox = self.inner.sandbox(sandbox_id)?;
        let (inner, config, sandbox_config) = (self.inner.clone(), config.clone(), sandbox_config.clone());
        detached("create_container", async move { inner.create_container(sandbox, config, sandbox_config).await }).await
    }

    async fn start_container(&self, container_id: &str) -> RuntimeResult<()> {
        let (inner, entry) = (self.inner.clone(), self.inner.entry(container_id)?);
        detached("start_container", async move { inner.start_container(&entry).await }).await
    }

    async fn stop_container(&self, container_id: &str, timeout: Duration) -> RuntimeResult<()> {
        let Ok(entry) = self.inner.entry(container_id) else { return Ok(()) };
        let inner = self.inner.clone();
        detached("stop_container", async move { inner.stop_container(&entry, timeout).await }).await
    }

    async fn remove_container(&self, container_id: &str) -> RuntimeResult<()> {
        let Ok(entry) = self.inner.entry(container_id) else { return Ok(()) };
        let inner = self.inner.clone();
        detached("remove_container", async move { inner.remove_container(&entry).await }).await
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<Container>> {
        let inner = self.inner.clone();
        let entries = self.inner.select(filter);
        let filter = filter.clone();
        blocking("list_containers", move || {
            entries
                .iter()
                .map(|entry| inner.container_status(entry).container)
                .filter(|c| filter.state.is_none_or(|state| state == c.state))
                .collect()
        })
        .await
    }

    async fn container_status(&self, container_id: &str) -> RuntimeResult<ContainerStatus> {
        let (inner, entry) = (self.inner.clone(), self.inner.entry(container_id)?);
        blocking("container_status", move || inner.container_status(&entry)).await
    }

    async fn update_container_resources(&self, container_id: &str, resources: &LinuxContainerResources) -> RuntimeResult<()> {
        let entry = self.inner.entry(container_id)?;
        self.inner.update_resources(&entry, resources).await
    }

    async fn reopen_container_log(&self, container_id: &str) -> RuntimeResult<()> {
        let entry = self.inner.entry(container_id)?;
        self.inner.reopen_log(&entry).await
    }

    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult> {
        let entry = self.inner.entry(container_id)?;
        self.inner.exec_sync(&entry, command, timeout).await
    }

    async fn exec(&self, container_id: &str, request: &ExecRequest) -> RuntimeResult<Session> {
        let entry = self.inner.entry(container_id)?;
        self.inner.exec(&entry, request).await
    }

    async fn attach(&self, container_id: &str, request: &AttachRequest) -> RuntimeResult<Session> {
        let entry = self.inner.entry(container_id)?;
        self.inner.attach(&entry, request).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> RuntimeResult<Box<dyn Duplex>> {
        let sandbox = self.inner.sandbox(sandbox_id)?;
        sandbox.require_ready("port_forward").await?;
        Ok(Box::new(streams::connect_in(sandbox.network_namespace(), port).await?))
    }

    async fn list_container_stats(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<ContainerStats>> {
        let inner = self.inner.clone();
        let entries = self.inner.select(filter);
        let state = filter.state;
        blocking("list_container_stats", move || entries.iter().filter_map(|entry| inner.stats(entry, state)).collect()).await
    }

    async fn events(&self) -> RuntimeResult<BoxStream<'static, ContainerEvent>> {
        let receiver = self.inner.events.subscribe();
        // A listener that lags ends, and lists again.
        Ok(Box::pin(futures::stream::unfold(
            receiver,
            |mut receiver| async move { receiver.recv().await.ok().map(|event| (event, receiver)) },
        )))
    }
}

#[async_trait]
impl ImageService for YoukiRuntime {
    async fn list_images(&self) -> RuntimeResult<Vec<Image>> {
        Ok(self.inner.images.list())
    }

    async fn image_status(&self, image: &ImageSpec) -> RuntimeResult<Option<Image>> {
        Ok(self.inner.images.find(&image.image).as_ref().map(to_image))
    }

    async fn pull_image(&self, image: &ImageSpec, auth: Option<&AuthConfig>) -> RuntimeResult<String> {
        Box::pin(self.inner.images.pull(&image.image, auth)).await.map_err(|e| e.into_runtime(&image.image))
    }

    async fn remove_image(&self, image: &ImageSpec) -> RuntimeResult<()> {
        let in_use: BTreeSet<String> = self.inner.containers.iter().flat_map(|e| e.value().record.layers.clone()).collect();
        let (images, name) = (self.inner.images.clone(), image.image.clone());
        blocking("remove_image", move || images.remove(&name, &in_use).map_err(|e| e.into_runtime(&name))).await?
    }

    async fn image_fs_info(&self) -> RuntimeResult<FilesystemUsage> {
        let images = self.inner.images.clone();
        blocking("image_fs_info", move || images.usage()).await
    }
}
