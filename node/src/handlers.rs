//! Several runtimes on one node, each behind the handlers of RuntimeClasses.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use parking_lot::Mutex;
use wharf_core::runtime::*;

/// Ids whose runtime is remembered. Past it they are asked for again.
const MAX_REMEMBERED: usize = 16_384;

/// Several runtimes that look like one. The handler `""` is the default.
///
/// A new sandbox goes to the runtime of its handler; what has an id goes to the runtime that has it; lists are those of all.
/// An image is asked of the runtime of [`ImageSpec::runtime_handler`]. A list fails when one of the runtimes does: one that
/// left a runtime out would tell that its pods are gone. The name and version are the default's.
pub struct RuntimeHandlers {
    handlers: BTreeMap<String, SharedRuntime>,
    /// Each runtime once, whatever handlers it has; the default first.
    runtimes: Vec<SharedRuntime>,
    /// Which runtime an id is in. A cache: the runtimes themselves are the truth.
    owners: Mutex<HashMap<String, usize>>,
}

impl fmt::Debug for RuntimeHandlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.handlers).finish()
    }
}

fn same(a: &SharedRuntime, b: &SharedRuntime) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// What is asked by its id.
#[derive(Clone, Copy)]
enum Id<'a> {
    Sandbox(&'a str),
    Container(&'a str),
}

impl<'a> Id<'a> {
    fn text(self) -> &'a str {
        match self {
            Self::Sandbox(id) | Self::Container(id) => id,
        }
    }
    async fn is_in(self, runtime: &SharedRuntime) -> RuntimeResult<()> {
        match self {
            Self::Sandbox(id) => runtime.pod_sandbox_status(id).await.map(drop),
            Self::Container(id) => runtime.container_status(id).await.map(drop),
        }
    }
}

impl RuntimeHandlers {
    /// One runtime, for pods without a RuntimeClass.
    pub fn new(default: SharedRuntime) -> Self {
        Self { handlers: [(String::new(), default.clone())].into(), runtimes: vec![default], owners: Mutex::default() }
    }

    /// A runtime for pods whose RuntimeClass has this handler; it replaces one that had it. A runtime may have several.
    pub fn with(mut self, handler: impl Into<String>, runtime: SharedRuntime) -> Self {
        self.handlers.insert(handler.into(), runtime);
        self.runtimes.clear();
        // "" sorts first, so the default stays first.
        for runtime in self.handlers.values() {
            if !self.runtimes.iter().any(|known| same(known, runtime)) {
                self.runtimes.push(runtime.clone());
            }
        }
        self
    }

    /// The handlers; the default's `""` first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// The runtime of a handler.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidArgument`] when there is none, in containerd's words.
    pub fn get(&self, handler: &str) -> RuntimeResult<&SharedRuntime> {
        self.handlers.get(handler).ok_or_else(|| {
            let known: Vec<&str> = self.names().filter(|name| !name.is_empty()).collect();
            let message = format!("no runtime for {handler:?} is configured: this node's handlers are {known:?}");
            RuntimeError::InvalidArgument { field: "runtime_handler", message }
        })
    }

    /// Whether any of the runtimes tells of changes.
    pub(crate) fn any_events(&self) -> bool {
        self.runtimes.iter().any(|r| r.capabilities().events)
    }

    /// What the runtime of a handler offers; nothing when there is none.
    pub(crate) fn capabilities_of(&self, handler: &str) -> RuntimeCapabilities {
        self.handlers.get(handler).map_or(RuntimeCapabilities::none(), |r| r.capabilities())
    }

    fn default_runtime(&self) -> &SharedRuntime {
        // Never empty: `new` puts the default there, and `with` only adds.
        &self.runtimes[0]
    }

    fn remember(&self, id: &str, runtime: &SharedRuntime) {
        let Some(index) = self.runtimes.iter().position(|known| same(known, runtime)) else { return };
        let mut owners = self.owners.lock();
        if owners.len() >= MAX_REMEMBERED {
            owners.clear();
        }
        owners.insert(id.to_owned(), index);
    }

    /// The runtime that has an id; the default for one that none has, which answers as a runtime does to an unknown id.
    async fn owner(&self, id: Id<'_>) -> RuntimeResult<&SharedRuntime> {
        if self.runtimes.len() == 1 {
            return Ok(self.default_runtime());
        }
        if let Some(index) = self.owners.lock().get(id.text()) {
            return Ok(&self.runtimes[*index]);
        }
        let mut silent = None;
        for runtime in &self.runtimes {
            match id.is_in(runtime).await {
                Ok(()) => {
                    self.remember(id.text(), runtime);
                    return Ok(runtime);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => silent = Some(error),
            }
        }
        // One that does not answer may have it: "unknown" would be a guess.
        silent.map_or(Ok(self.default_runtime()), Err)
    }

    /// A sandbox with a handler that its runtime has here, also when the runtime does not keep it.
    fn labelled(&self, mut sandbox: PodSandbox, runtime: &SharedRuntime) -> PodSandbox {
        if !self.handlers.get(&sandbox.runtime_handler).is_some_and(|known| same(known, runtime))
            && let Some((name, _)) = self.handlers.iter().find(|(_, known)| same(known, runtime))
        {
            sandbox.runtime_handler.clone_from(name);
        }
        sandbox
    }
}

#[async_trait]
impl RuntimeService for RuntimeHandlers {
    async fn version(&self) -> RuntimeResult<RuntimeVersion> {
        self.default_runtime().version().await
    }

    /// What every runtime offers.
    fn capabilities(&self) -> RuntimeCapabilities {
        let mut all = RuntimeCapabilities::all();
        for one in self.runtimes.iter().map(|r| r.capabilities()) {
            all.exec &= one.exec;
            all.attach &= one.attach;
            all.port_forward &= one.port_forward;
            all.outlives_agent &= one.outlives_agent;
            all.events &= one.events;
            all.resources &= one.resources;
            all.processes &= one.processes;
            all.images &= one.images;
        }
        all
    }

    /// The default's conditions, and what the others lack.
    async fn status(&self) -> RuntimeResult<RuntimeStatus> {
        let mut status = self.default_runtime().status().await?;
        for (name, runtime) in self.handlers.iter().filter(|(_, r)| !same(r, self.default_runtime())) {
            let down = |error: RuntimeError| RuntimeStatus {
                conditions: vec![RuntimeCondition {
                    r#type: "RuntimeReady".into(),
                    status: false,
                    reason: "RuntimeDown".into(),
                    message: error.to_string(),
                }],
            };
            let theirs = runtime.status().await.unwrap_or_else(down);
            status.conditions.extend(theirs.conditions.into_iter().filter(|c| !c.status).map(|mut condition| {
                condition.message = format!("handler {name:?}: {}", condition.message);
                condition
            }));
        }
        Ok(status)
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> RuntimeResult<String> {
        let runtime = self.get(runtime_handler)?;
        let id = runtime.run_pod_sandbox(config, runtime_handler).await?;
        self.remember(&id, runtime);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        self.owner(Id::Sandbox(sandbox_id)).await?.stop_pod_sandbox(sandbox_id).await
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        self.owner(Id::Sandbox(sandbox_id)).await?.remove_pod_sandbox(sandbox_id).await?;
        self.owners.lock().remove(sandbox_id);
        Ok(())
    }

    async fn pod_sandbox_status(&self, sandbox_id: &str) -> RuntimeResult<PodSandboxStatus> {
        let runtime = self.owner(Id::Sandbox(sandbox_id)).await?;
        let mut status = runtime.pod_sandbox_status(sandbox_id).await?;
        status.sandbox = self.labelled(status.sandbox, runtime);
        Ok(status)
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> RuntimeResult<Vec<PodSandbox>> {
        let mut all = Vec::new();
        for runtime in &self.runtimes {
            all.extend(runtime.list_pod_sandbox(filter).await?.into_iter().map(|sandbox| self.labelled(sandbox, runtime)));
        }
        Ok(all)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> RuntimeResult<String> {
        let runtime = self.owner(Id::Sandbox(sandbox_id)).await?;
        let id = runtime.create_container(sandbox_id, config, sandbox_config).await?;
        self.remember(&id, runtime);
        Ok(id)
    }

    async fn start_container(&self, container_id: &str) -> RuntimeResult<()> {
        self.owner(Id::Container(container_id)).await?.start_container(container_id).await
    }

    async fn stop_container(&self, container_id: &str, timeout: Duration) -> RuntimeResult<()> {
        self.owner(Id::Container(container_id)).await?.stop_container(container_id, timeout).await
    }

    async fn remove_container(&self, container_id: &str) -> RuntimeResult<()> {
        self.owner(Id::Container(container_id)).await?.remove_container(container_id).await?;
        self.owners.lock().remove(container_id);
        Ok(())
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<Container>> {
        let mut all = Vec::new();
        for runtime in &self.runtimes {
            all.extend(runtime.list_containers(filter).await?);
        }
        Ok(all)
    }

    async fn container_status(&self, container_id: &str) -> RuntimeResult<ContainerStatus> {
        self.owner(Id::Container(container_id)).await?.container_status(container_id).await
    }

    async fn update_container_resources(&self, container_id: &str, resources: &LinuxContainerResources) -> RuntimeResult<()> {
        self.owner(Id::Container(container_id)).await?.update_container_resources(container_id, resources).await
    }

    async fn reopen_container_log(&self, container_id: &str) -> RuntimeResult<()> {
        self.owner(Id::Container(container_id)).await?.reopen_container_log(container_id).await
    }

    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult> {
        self.owner(Id::Container(container_id)).await?.exec_sync(container_id, command, timeout).await
    }

    async fn exec(&self, container_id: &str, request: &ExecRequest) -> RuntimeResult<Session> {
        self.owner(Id::Container(container_id)).await?.exec(container_id, request).await
    }

    async fn attach(&self, container_id: &str, request: &AttachRequest) -> RuntimeResult<Session> {
        self.owner(Id::Container(container_id)).await?.attach(container_id, request).await
    }

    async fn port_forward(&self, sandbox_id: &str, port: u16) -> RuntimeResult<Box<dyn Duplex>> {
        self.owner(Id::Sandbox(sandbox_id)).await?.port_forward(sandbox_id, port).await
    }

    async fn list_container_stats(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<ContainerStats>> {
        let mut all = Vec::new();
        for runtime in &self.runtimes {
            all.extend(runtime.list_container_stats(filter).await?);
        }
        Ok(all)
    }

    /// Those of the runtimes that have events. The stream ends with the first that does, so that its user lists again.
    async fn events(&self) -> RuntimeResult<BoxStream<'static, ContainerEvent>> {
        let mut streams = Vec::new();
        for runtime in self.runtimes.iter().filter(|r| r.capabilities().events) {
            streams.push(runtime.events().await?.map(Some).chain(stream::iter([None])));
        }
        if streams.is_empty() {
            return Err(RuntimeError::Unsupported { capability: "events" });
        }
        let all = stream::select_all(streams);
        Ok(all.take_while(|event| std::future::ready(event.is_some())).filter_map(std::future::ready).boxed())
    }
}

#[async_trait]
impl ImageService for RuntimeHandlers {
    async fn list_images(&self) -> RuntimeResult<Vec<Image>> {
        let mut all = Vec::new();
        for runtime in &self.runtimes {
            all.extend(runtime.list_images().await?);
        }
        Ok(all)
    }

    async fn image_status(&self, image: &ImageSpec) -> RuntimeResult<Option<Image>> {
        self.get(&image.runtime_handler)?.image_status(image).await
    }

    async fn pull_image(&self, image: &ImageSpec, auth: Option<&AuthConfig>) -> RuntimeResult<String> {
        self.get(&image.runtime_handler)?.pull_image(image, auth).await
    }

    async fn remove_image(&self, image: &ImageSpec) -> RuntimeResult<()> {
        self.get(&image.runtime_handler)?.remove_image(image).await
    }

    /// The default's.
    async fn image_fs_info(&self) -> RuntimeResult<FilesystemUsage> {
        self.default_runtime().image_fs_info().await
    }
}
