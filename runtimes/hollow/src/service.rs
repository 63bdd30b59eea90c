//! The seam itself: CRI's verbs over the pretended state.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::broadcast;
use wharf_core::runtime::{
    AttachRequest, AuthConfig, Container, ContainerConfig, ContainerEvent, ContainerFilter, ContainerState, ContainerStats,
    ContainerStatus, Duplex, ExecRequest, ExecResult, FilesystemUsage, Image, ImageService, ImageSpec, LinuxContainerResources, PodSandbox,
    PodSandboxConfig, PodSandboxFilter, PodSandboxStatus, RuntimeCapabilities, RuntimeError, RuntimeResult, RuntimeService, RuntimeStatus,
    RuntimeVersion, Session, StringMap,
};

use crate::images::IMAGE_SIZE;
use crate::{EVENT_BUFFER, HollowRuntime, Script};

fn selects(selector: &StringMap, labels: &StringMap) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn matches(filter: &ContainerFilter, container: &Container) -> bool {
    filter.id.as_ref().is_none_or(|id| *id == container.id)
        && filter.pod_sandbox_id.as_ref().is_none_or(|id| *id == container.pod_sandbox_id)
        && filter.state.is_none_or(|state| state == container.state)
        && selects(&filter.label_selector, &container.labels)
}

fn sandbox_matches(filter: &PodSandboxFilter, sandbox: &PodSandbox) -> bool {
    filter.id.as_ref().is_none_or(|id| *id == sandbox.id)
        && filter.state.is_none_or(|state| state == sandbox.state)
        && selects(&filter.label_selector, &sandbox.labels)
}

fn unsupported<T>(capability: &'static str) -> RuntimeResult<T> {
    Err(RuntimeError::Unsupported { capability })
}

#[async_trait]
impl RuntimeService for HollowRuntime {
    async fn version(&self) -> RuntimeResult<RuntimeVersion> {
        Ok(RuntimeVersion { runtime_name: "hollow".into(), runtime_version: env!("CARGO_PKG_VERSION").into() })
    }

    fn capabilities(&self) -> RuntimeCapabilities {
        let mut capabilities = RuntimeCapabilities::none();
        capabilities.events = true;
        capabilities.images = true;
        capabilities
    }

    async fn status(&self) -> RuntimeResult<RuntimeStatus> {
        Ok(RuntimeStatus::all_ready())
    }

    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> RuntimeResult<String> {
        let (id, event) = self.inner.state.lock().run_sandbox(config, runtime_handler, self.inner.clock.now())?;
        self.inner.tell(event);
        Ok(id)
    }

    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        let events = self.inner.state.lock().stop_sandbox(sandbox_id, self.inner.clock.now());
        self.inner.tell(events);
        Ok(())
    }

    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        let events = self.inner.state.lock().remove_sandbox(sandbox_id, self.inner.clock.now());
        self.inner.tell(events);
        Ok(())
    }

    async fn pod_sandbox_status(&self, sandbox_id: &str) -> RuntimeResult<PodSandboxStatus> {
        Ok(self.inner.state.lock().sandbox(sandbox_id)?.status.clone())
    }

    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> RuntimeResult<Vec<PodSandbox>> {
        let state = self.inner.state.lock();
        Ok(state.sandboxes.values().map(|s| &s.status.sandbox).filter(|s| sandbox_matches(filter, s)).cloned().collect())
    }

    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig, _: &PodSandboxConfig) -> RuntimeResult<String> {
        let image = config.image.image.as_str();
        let found = self.inner.images.lock().find(image)?;
        let image_ref = found.ok_or_else(|| RuntimeError::ImageNotPresent { image: image.to_string() })?;
        let (id, event) = self.inner.state.lock().create_container(sandbox_id, config, &image_ref, self.inner.clock.now())?;
        self.inner.tell(event);
        Ok(id)
    }

    async fn start_container(&self, container_id: &str) -> RuntimeResult<()> {
        // The script is the embedder's: it runs without our lock, so that it may ask us.
        let config = self.inner.state.lock().container(container_id)?.config.clone();
        let script = (self.inner.script)(&config);
        let now = self.inner.clock.now();
        if let Script::FailStart { message } = script {
            let event = self.inner.state.lock().fail_start(container_id, &message, now)?;
            self.inner.tell([event]);
            return Err(RuntimeError::StartFailed { id: container_id.to_string(), message });
        }
        let event = self.inner.state.lock().start_container(container_id, now)?;
        if let (Some(_), Script::Exit { after, code }) = (&event, script) {
            let timer = self.inner.end_later(container_id.to_string(), after, code);
            self.inner.state.lock().set_timer(container_id, timer);
        }
        self.inner.tell(event);
        Ok(())
    }

    async fn stop_container(&self, container_id: &str, _timeout: Duration) -> RuntimeResult<()> {
        let event = self.inner.state.lock().stop_container(container_id, self.inner.clock.now());
        self.inner.tell(event);
        Ok(())
    }

    async fn remove_container(&self, container_id: &str) -> RuntimeResult<()> {
        let events = self.inner.state.lock().remove_container(container_id, self.inner.clock.now());
        self.inner.tell(events);
        Ok(())
    }

    async fn list_containers(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<Container>> {
        let state = self.inner.state.lock();
        Ok(state.containers.values().map(|c| &c.status.container).filter(|c| matches(filter, c)).cloned().collect())
    }

    async fn container_status(&self, container_id: &str) -> RuntimeResult<ContainerStatus> {
        Ok(self.inner.state.lock().container(container_id)?.status.clone())
    }

    async fn update_container_resources(&self, container_id: &str, _: &LinuxContainerResources) -> RuntimeResult<()> {
        self.inner.state.lock().container(container_id)?;
        unsupported("resources")
    }

    async fn reopen_container_log(&self, container_id: &str) -> RuntimeResult<()> {
        let state = self.inner.state.lock();
        let status = &state.container(container_id)?.status;
        match status.container.state {
            ContainerState::Running => Ok(()),
            other => Err(RuntimeError::FailedPrecondition {
                id: container_id.to_string(),
                state: format!("{other:?}"),
                operation: "reopen_container_log",
            }),
        }
    }

    async fn exec_sync(&self, _: &str, _: &[String], _: Duration) -> RuntimeResult<ExecResult> {
        unsupported("exec")
    }

    async fn exec(&self, _: &str, _: &ExecRequest) -> RuntimeResult<Session> {
        unsupported("exec")
    }

    async fn attach(&self, _: &str, _: &AttachRequest) -> RuntimeResult<Session> {
        unsupported("attach")
    }

    async fn port_forward(&self, _: &str, _: u16) -> RuntimeResult<Box<dyn Duplex>> {
        unsupported("port_forward")
    }

    async fn list_container_stats(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<ContainerStats>> {
        let state = self.inner.state.lock();
        let running = state.containers.values().map(|c| &c.status.container).filter(|c| c.state == ContainerState::Running);
        Ok(running
            .filter(|c| matches(filter, c))
            .map(|c| ContainerStats {
                id: c.id.clone(),
                metadata: c.metadata.clone(),
                labels: c.labels.clone(),
                ..ContainerStats::default()
            })
            .collect())
    }

    async fn events(&self) -> RuntimeResult<BoxStream<'static, ContainerEvent>> {
        let receiver = self.inner.events.get_or_init(|| broadcast::Sender::new(EVENT_BUFFER)).subscribe();
        // A subscriber that lags sees the stream end, which tells it to list again.
        let next =
            |mut receiver: broadcast::Receiver<ContainerEvent>| async move { receiver.recv().await.ok().map(|event| (event, receiver)) };
        Ok(futures::stream::unfold(receiver, next).boxed())
    }
}

#[async_trait]
impl ImageService for HollowRuntime {
    async fn list_images(&self) -> RuntimeResult<Vec<Image>> {
        Ok(self.inner.images.lock().list())
    }

    async fn image_status(&self, image: &ImageSpec) -> RuntimeResult<Option<Image>> {
        let images = self.inner.images.lock();
        Ok(images.find(&image.image)?.and_then(|id| images.image(&id)))
    }

    async fn pull_image(&self, image: &ImageSpec, _: Option<&AuthConfig>) -> RuntimeResult<String> {
        self.inner.images.lock().pull(&image.image)
    }

    async fn remove_image(&self, image: &ImageSpec) -> RuntimeResult<()> {
        self.inner.images.lock().remove(&image.image)
    }

    async fn image_fs_info(&self) -> RuntimeResult<FilesystemUsage> {
        let count = self.inner.images.lock().len() as u64;
        Ok(FilesystemUsage { mountpoint: PathBuf::from("/"), used_bytes: count * IMAGE_SIZE, inodes_used: count })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wharf_core::clock::ManualClock;
    use wharf_core::runtime::{ContainerEventType, ContainerMetadata, PodSandboxMetadata};

    use super::*;

    async fn running(runtime: &HollowRuntime, uid: &str) -> (String, String) {
        let metadata = PodSandboxMetadata { name: "p".into(), uid: uid.into(), namespace: "default".into(), attempt: 0 };
        let sandbox = PodSandboxConfig { metadata, ..PodSandboxConfig::default() };
        let sandbox_id = runtime.run_pod_sandbox(&sandbox, "").await.unwrap();
        runtime.pull_image(&ImageSpec::new("nginx"), None).await.unwrap();
        let metadata = ContainerMetadata { name: "c".into(), attempt: 0 };
        let config = ContainerConfig { metadata, image: ImageSpec::new("nginx"), ..ContainerConfig::default() };
        let id = runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
        runtime.start_container(&id).await.unwrap();
        (sandbox_id, id)
    }

    #[tokio::test]
    async fn a_scripted_exit_waits_for_the_clock() {
        let clock = ManualClock::default();
        let exit = Script::Exit { after: Duration::from_secs(5), code: 3 };
        let runtime = HollowRuntime::builder().clock(Arc::new(clock.clone())).script(move |_| exit.clone()).build();
        let mut events = runtime.events().await.unwrap();
        let (_, id) = running(&runtime, "u").await;
        for _ in 0..3 {
            events.next().await.unwrap();
        }
        clock.advance(Duration::from_secs(4));
        assert_eq!(runtime.container_status(&id).await.unwrap().container.state, ContainerState::Running);
        clock.advance(Duration::from_secs(1));
        assert_eq!(events.next().await.unwrap().r#type, ContainerEventType::Stopped);
        let status = runtime.container_status(&id).await.unwrap();
        assert_eq!((status.container.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, 3, "Error"));
    }

    #[tokio::test]
    async fn removal_forgets_the_timer() {
        let clock = ManualClock::default();
        let exit = Script::Exit { after: Duration::from_secs(5), code: 3 };
        let runtime = HollowRuntime::builder().clock(Arc::new(clock.clone())).script(move |_| exit.clone()).build();
        let (sandbox, _) = running(&runtime, "u").await;
        assert_eq!(clock.waiting(), 1);
        runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        while clock.waiting() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn an_event_stream_that_lags_ends() {
        let runtime = HollowRuntime::new();
        let mut events = runtime.events().await.unwrap();
        for n in 0..EVENT_BUFFER {
            running(&runtime, &n.to_string()).await;
        }
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn ends_that_tests_ask_for() {
        let runtime = HollowRuntime::new();
        let (_, a) = running(&runtime, "a").await;
        let (_, b) = running(&runtime, "b").await;
        runtime.exit_container(&a, 0).unwrap();
        runtime.oom_kill_container(&b).unwrap();
        assert_eq!(runtime.container_status(&a).await.unwrap().reason, "Completed");
        let b = runtime.container_status(&b).await.unwrap();
        assert_eq!((b.reason.as_str(), b.exit_code, b.signal), ("OOMKilled", 137, 9));
        assert!(matches!(runtime.exit_container(&a, 1), Err(RuntimeError::FailedPrecondition { .. })));
        assert!(matches!(runtime.exit_container("unknown", 1), Err(RuntimeError::NotFound { .. })));
    }

    #[tokio::test]
    async fn addresses_come_from_the_range_and_go_back() {
        let range: ipnet::IpNet = "10.9.9.0/30".parse().unwrap();
        let runtime = HollowRuntime::builder().pod_cidr(range).build();
        let (sandbox, _) = running(&runtime, "a").await;
        assert_eq!(runtime.pod_sandbox_status(&sandbox).await.unwrap().ips, ["10.9.9.2".parse::<std::net::IpAddr>().unwrap()]);
        let second = PodSandboxConfig { metadata: PodSandboxMetadata { uid: "b".into(), ..Default::default() }, ..Default::default() };
        assert!(matches!(runtime.run_pod_sandbox(&second, "").await, Err(RuntimeError::Backend { .. })));
        runtime.stop_pod_sandbox(&sandbox).await.unwrap();
        runtime.run_pod_sandbox(&second, "").await.unwrap();
    }
}
