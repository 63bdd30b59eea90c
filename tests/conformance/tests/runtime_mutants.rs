//! The runtime kit against runtimes that break the contract in one way each: a named case must notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use wharf_conformance::runtime::{RuntimeHarness, cases};
use wharf_conformance::{Harness, Outcome, run_case};
use wharf_core::runtime::{
    AttachRequest, AuthConfig, Container, ContainerConfig, ContainerEvent, ContainerFilter, ContainerState, ContainerStats,
    ContainerStatus, Duplex, ExecRequest, ExecResult, FilesystemUsage, Image, ImageService, ImageSpec, LinuxContainerResources, PodSandbox,
    PodSandboxConfig, PodSandboxFilter, PodSandboxStatus, RuntimeCapabilities, RuntimeError, RuntimeResult, RuntimeService, RuntimeStatus,
    RuntimeVersion, Session, SharedRuntime,
};
use wharf_runtime_hollow::{HollowRuntime, Script};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The same pod's sandbox is made anew each time.
    ForgetsSandboxes,
    /// The same container is made anew each time.
    ForgetsContainers,
    /// What has exited is said to run.
    SaysRunning,
    /// The list is of an older state than the status.
    StaleList,
    /// A removed container stays.
    ForgetsToRemove,
    /// A removed sandbox stays.
    ForgetsToRemoveSandbox,
    UnknownIsAnError,
    WrongExitCode,
    IgnoresFilters,
    /// Declares exec and has none.
    ClaimsExec,
    /// Declares that containers outlive the agent and loses them.
    LosesOnRestart,
    StartErrorIsNoReason,
    /// Pulls by itself what is not there.
    PullsInSecret,
    OneAddressForAll,
    EventsEnd,
    /// Starting what has exited succeeds and does nothing.
    StartsExited,
    /// Stop returns before the container has exited.
    StopsLater,
    AnyReference,
    /// Annotations do not come back.
    DropsAnnotations,
}

#[derive(Debug, Clone)]
struct Mutant {
    inner: HollowRuntime,
    fault: Fault,
    count: Arc<AtomicU32>,
}

impl Mutant {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
    fn next(&self) -> u32 {
        self.count.fetch_add(1, Ordering::Relaxed)
    }
    async fn refuse_unknown(&self, id: &str) -> RuntimeResult<()> {
        if self.is(Fault::UnknownIsAnError) {
            self.inner.container_status(id).await?;
        }
        Ok(())
    }
    fn told(&self, mut container: Container) -> Container {
        if self.is(Fault::SaysRunning) && container.state == ContainerState::Exited {
            container.state = ContainerState::Running;
        }
        if self.is(Fault::DropsAnnotations) {
            container.annotations.clear();
        }
        container
    }
}

#[async_trait]
impl RuntimeService for Mutant {
    async fn version(&self) -> RuntimeResult<RuntimeVersion> {
        self.inner.version().await
    }
    fn capabilities(&self) -> RuntimeCapabilities {
        let mut capabilities = self.inner.capabilities();
        capabilities.exec = self.is(Fault::ClaimsExec);
        capabilities.outlives_agent = self.is(Fault::LosesOnRestart);
        capabilities
    }
    async fn status(&self) -> RuntimeResult<RuntimeStatus> {
        self.inner.status().await
    }
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> RuntimeResult<String> {
        let mut config = config.clone();
        if self.is(Fault::ForgetsSandboxes) {
            config.metadata.attempt += 1000 * self.next();
        }
        self.inner.run_pod_sandbox(&config, runtime_handler).await
    }
    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        self.inner.stop_pod_sandbox(sandbox_id).await
    }
    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()> {
        match self.fault {
            Fault::ForgetsToRemoveSandbox => self.inner.stop_pod_sandbox(sandbox_id).await,
            _ => self.inner.remove_pod_sandbox(sandbox_id).await,
        }
    }
    async fn pod_sandbox_status(&self, sandbox_id: &str) -> RuntimeResult<PodSandboxStatus> {
        let mut status = self.inner.pod_sandbox_status(sandbox_id).await?;
        if self.is(Fault::OneAddressForAll) {
            status.ips = vec![std::net::Ipv4Addr::LOCALHOST.into()];
        }
        Ok(status)
    }
    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> RuntimeResult<Vec<PodSandbox>> {
        let filter = if self.is(Fault::IgnoresFilters) { PodSandboxFilter::default() } else { filter.clone() };
        self.inner.list_pod_sandbox(&filter).await
    }
    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig, sandbox: &PodSandboxConfig) -> RuntimeResult<String> {
        let mut config = config.clone();
        match self.fault {
            Fault::ForgetsContainers => config.metadata.attempt += 1000 * self.next(),
            Fault::PullsInSecret => drop(self.inner.pull_image(&config.image, None).await?),
            _ => {}
        }
        self.inner.create_container(sandbox_id, &config, sandbox).await
    }
    async fn start_container(&self, container_id: &str) -> RuntimeResult<()> {
        match self.inner.start_container(container_id).await {
            Err(RuntimeError::FailedPrecondition { .. }) if self.is(Fault::StartsExited) => Ok(()),
            result => result,
        }
    }
    async fn stop_container(&self, container_id: &str, timeout: Duration) -> RuntimeResult<()> {
        self.refuse_unknown(container_id).await?;
        if self.is(Fault::StopsLater) {
            return Ok(());
        }
        self.inner.stop_container(container_id, timeout).await
    }
    async fn remove_container(&self, container_id: &str) -> RuntimeResult<()> {
        self.refuse_unknown(container_id).await?;
        if self.is(Fault::ForgetsToRemove) {
            return self.inner.stop_container(container_id, Duration::ZERO).await;
        }
        self.inner.remove_container(container_id).await
    }
    async fn list_containers(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<Container>> {
        let filter = if self.is(Fault::IgnoresFilters) { ContainerFilter::default() } else { filter.clone() };
        let mut list = self.inner.list_containers(&filter).await?;
        if self.is(Fault::StaleList) {
            for container in &mut list {
                container.state = ContainerState::Created;
            }
        }
        Ok(list.into_iter().map(|c| self.told(c)).collect())
    }
    async fn container_status(&self, container_id: &str) -> RuntimeResult<ContainerStatus> {
        let mut status = self.inner.container_status(container_id).await?;
        if self.is(Fault::WrongExitCode) {
            status.exit_code &= 0x7f;
        }
        if self.is(Fault::StartErrorIsNoReason) && status.reason == "StartError" {
            status.reason = "Error".into();
        }
        status.container = self.told(status.container);
        Ok(status)
    }
    async fn update_container_resources(&self, container_id: &str, resources: &LinuxContainerResources) -> RuntimeResult<()> {
        self.inner.update_container_resources(container_id, resources).await
    }
    async fn reopen_container_log(&self, container_id: &str) -> RuntimeResult<()> {
        self.inner.reopen_container_log(container_id).await
    }
    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult> {
        self.inner.exec_sync(container_id, command, timeout).await
    }
    async fn exec(&self, container_id: &str, request: &ExecRequest) -> RuntimeResult<Session> {
        self.inner.exec(container_id, request).await
    }
    async fn attach(&self, container_id: &str, request: &AttachRequest) -> RuntimeResult<Session> {
        self.inner.attach(container_id, request).await
    }
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> RuntimeResult<Box<dyn Duplex>> {
        self.inner.port_forward(sandbox_id, port).await
    }
    async fn list_container_stats(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<ContainerStats>> {
        self.inner.list_container_stats(filter).await
    }
    async fn events(&self) -> RuntimeResult<BoxStream<'static, ContainerEvent>> {
        let events = self.inner.events().await?;
        Ok(if self.is(Fault::EventsEnd) { events.take(2).boxed() } else { events })
    }
}

#[async_trait]
impl ImageService for Mutant {
    async fn list_images(&self) -> RuntimeResult<Vec<Image>> {
        self.inner.list_images().await
    }
    async fn image_status(&self, image: &ImageSpec) -> RuntimeResult<Option<Image>> {
        self.inner.image_status(image).await
    }
    async fn pull_image(&self, image: &ImageSpec, auth: Option<&AuthConfig>) -> RuntimeResult<String> {
        match self.inner.pull_image(image, auth).await {
            Err(_) if self.is(Fault::AnyReference) => Ok(image.image.clone()),
            result => result,
        }
    }
    async fn remove_image(&self, image: &ImageSpec) -> RuntimeResult<()> {
        self.inner.remove_image(image).await
    }
    async fn image_fs_info(&self) -> RuntimeResult<FilesystemUsage> {
        self.inner.image_fs_info().await
    }
}

struct Mutants(Fault);

fn script(config: &ContainerConfig) -> Script {
    let words: Vec<&str> = config.command.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", code] => Script::Exit { after: Duration::ZERO, code: code.parse().unwrap_or(0) },
        ["missing"] => Script::FailStart { message: "no such file".into() },
        _ => Script::Run,
    }
}

impl Harness for Mutants {}

#[async_trait]
impl RuntimeHarness for Mutants {
    async fn runtime(&self) -> SharedRuntime {
        Arc::new(Mutant { inner: HollowRuntime::builder().script(script).build(), fault: self.0, count: Arc::default() })
    }
    fn image(&self) -> String {
        "wharf.local/hollow:v1".into()
    }
    fn missing_image(&self) -> Option<String> {
        Some("wharf.local/does-not-exist:v1".into())
    }
    fn sleep(&self) -> Vec<String> {
        vec!["sleep".into()]
    }
    fn exit(&self, code: i32) -> Option<Vec<String>> {
        Some(vec!["exit".into(), code.to_string()])
    }
    fn missing(&self) -> Option<Vec<String>> {
        Some(vec!["missing".into()])
    }
    async fn restart(&self, _: SharedRuntime) -> Option<SharedRuntime> {
        Some(self.runtime().await)
    }
}

const CAUGHT: &[(Fault, &[&str])] = &[
    (Fault::ForgetsSandboxes, &["runtime.sandbox.run_twice", "runtime.sandbox.run_concurrently"]),
    (Fault::ForgetsContainers, &["runtime.container.create_twice", "runtime.container.create_concurrently"]),
    (Fault::SaysRunning, &["runtime.container.stop", "runtime.container.states", "runtime.sandbox.stop_ends_containers"]),
    (Fault::StaleList, &["runtime.container.list_agrees"]),
    (Fault::ForgetsToRemove, &["runtime.container.remove", "runtime.container.remove_running"]),
    (Fault::ForgetsToRemoveSandbox, &["runtime.sandbox.remove", "runtime.sandbox.remove_ready"]),
    (Fault::UnknownIsAnError, &["runtime.container.stop_unknown", "runtime.container.remove_unknown"]),
    (Fault::WrongExitCode, &["runtime.container.exit_code"]),
    (Fault::IgnoresFilters, &["runtime.container.list_filters", "runtime.sandbox.list_filters"]),
    (Fault::ClaimsExec, &["runtime.stream.exec_not_running"]),
    (Fault::LosesOnRestart, &["runtime.restart.adopts", "runtime.restart.keeps_idempotence", "runtime.restart.goes_on"]),
    (Fault::StartErrorIsNoReason, &["runtime.container.start_error"]),
    (Fault::PullsInSecret, &["runtime.container.create_absent_image"]),
    (Fault::OneAddressForAll, &["runtime.sandbox.addresses_differ", "runtime.sandbox.host_network"]),
    (Fault::EventsEnd, &["runtime.stream.events"]),
    (Fault::StartsExited, &["runtime.container.start_exited"]),
    (Fault::StopsLater, &["runtime.container.stop"]),
    (Fault::AnyReference, &["runtime.image.missing", "runtime.image.not_a_reference"]),
    (Fault::DropsAnnotations, &["runtime.container.status"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mutant_fails_its_cases() {
    let cases = cases();
    for (fault, ids) in CAUGHT {
        for id in *ids {
            let case = cases.iter().find(|c| c.id == *id).unwrap_or_else(|| panic!("no case {id}"));
            match run_case(case, &Mutants(*fault)).await {
                Outcome::Failed(message) => println!("{fault:?} fails {id}: {message}"),
                other => panic!("{fault:?} was not caught by {id}: {other}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runtime_without_a_fault_fails_nothing() {
    let report = wharf_conformance::run_all(&cases(), &Mutants(Fault::None)).await;
    assert!(report.is_ok(), "{:?}", report.failed().collect::<Vec<_>>());
}
