//! A runtime that starts plain processes of the host, for trusted jobs: no image, no isolation, the host's network.
//!
//! What it cannot do it refuses: exec, a terminal, another user, a network of the pod's own (`hostNetwork: true` is needed).
//! Limits are not applied, mounts are not made. Processes are lost when the agent is.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::{Either, select};
use futures::stream::BoxStream;
use nix::sys::signal::{Signal, killpg};
use parking_lot::Mutex;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use wharf_core::clock::Clock;
use wharf_core::runtime::*;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the output of a process that ended may take: one that left its group may hold it open for ever.
const DRAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Entry {
    config: ContainerConfig,
    status: ContainerStatus,
    log: Option<Arc<CriLog>>,
    ended: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    sandboxes: BTreeMap<String, PodSandboxStatus>,
    containers: BTreeMap<String, Entry>,
}

/// Runs containers as processes of the host. Clones share it.
#[derive(Debug, Clone)]
pub struct ProcessRuntime {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// The program and arguments of a container: without an image there are no others.
fn words(config: &ContainerConfig) -> RuntimeResult<Vec<&str>> {
    let words: Vec<&str> = config.command.iter().chain(&config.args).map(String::as_str).collect();
    if words.is_empty() { Err(RuntimeError::invalid("command", "without an image there is no default: name a program")) } else { Ok(words) }
}

fn stop_signal(config: &ContainerConfig) -> RuntimeResult<Signal> {
    let name = config.stop_signal.as_deref().unwrap_or("SIGTERM");
    name.parse().map_err(|_| RuntimeError::invalid("stop_signal", format!("{name:?} is not a signal; SIGTERM is")))
}

/// Signals a process and all that it started. That they have gone meanwhile is fine.
fn signal(pid: u32, signal: Signal) {
    if let Some(group) = i32::try_from(pid).ok().filter(|pid| *pid > 1) {
        let _ = killpg(nix::unistd::Pid::from_raw(group), signal);
    }
}

/// What a process has used, from /proc. What it started is not counted.
fn stats(status: &ContainerStatus) -> ContainerStats {
    let read = |file| std::fs::read_to_string(format!("/proc/{}/{file}", status.pid)).unwrap_or_default();
    // Past the name, which may be anything: utime and stime are words 11 and 12, in hundredths of a second.
    let word = |n| read("stat").rsplit(')').next()?.split_whitespace().nth(n)?.parse::<u64>().ok();
    let resident = read("status").lines().find_map(|l| l.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    let mut stats = ContainerStats { id: status.container.id.clone(), ..ContainerStats::default() };
    (stats.metadata, stats.labels) = (status.container.metadata.clone(), status.container.labels.clone());
    stats.cpu_usage_core_nano_seconds = (word(11).unwrap_or(0) + word(12).unwrap_or(0)) * 10_000_000;
    stats.memory_working_set_bytes = resident.unwrap_or(0) * 1024;
    stats
}

impl Entry {
    fn state(&self) -> ContainerState {
        self.status.container.state
    }
    fn refuse<T>(&self, operation: &'static str) -> RuntimeResult<T> {
        Err(RuntimeError::failed_precondition(&*self.status.container.id, self.state(), operation))
    }
    fn spawn(&self) -> RuntimeResult<Child> {
        let words = words(&self.config)?;
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_clear().env("PATH", PATH).envs(self.config.envs.iter().cloned());
        command.current_dir(Some(&*self.config.working_dir).filter(|dir| !dir.is_empty()).unwrap_or("/"));
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |e| RuntimeError::StartFailed { id: self.status.container.id.clone(), message: format!("exec {:?}: {e}", words[0]) };
        command.spawn().map_err(failed)
    }
    fn end(&mut self, exit_code: i32, signal: i32, (reason, message): (&str, &str), now: jiff::Timestamp) {
        let status = &mut self.status;
        status.container.state = ContainerState::Exited;
        (status.exit_code, status.signal, status.pid, status.finished_at) = (exit_code, signal, 0, Some(now));
        (status.reason, status.message) = (reason.into(), message.into());
        self.ended.send_replace(true);
    }
}

impl ProcessRuntime {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Arc::default() }
    }
    fn with<T>(&self, id: &str, work: impl FnOnce(&mut Entry) -> RuntimeResult<T>) -> RuntimeResult<T> {
        work(self.state.lock().containers.get_mut(id).ok_or_else(|| RuntimeError::not_found("container", id))?)
    }
    /// Stays with a process until it has ended and its output is in the log.
    async fn follow(self, id: String, pid: u32, mut child: Child, log: Arc<CriLog>) {
        let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else { return };
        let output = tokio::spawn(async move { tokio::join!(log.copy("stdout", out), log.copy("stderr", err)) });
        let status = child.wait().await;
        // A container ends with its first process.
        signal(pid, Signal::SIGKILL);
        select(output, self.clock.sleep(DRAIN)).await;
        let by = status.as_ref().ok().and_then(|s| s.signal()).unwrap_or(0);
        let code = if by > 0 { 128 + by } else { status.ok().and_then(|s| s.code()).unwrap_or(255) };
        let reason = if code == 0 { ("Completed", "") } else { ("Error", "") };
        // Not found: it was removed.
        self.state.lock().containers.get_mut(&id).into_iter().for_each(|entry| entry.end(code, by, reason, self.clock.now()));
    }
    /// Signals a container that has not ended, and waits; whether it has ended then. The unknown has.
    async fn kill(&self, id: &str, with: Option<Signal>, patience: impl Future<Output = ()> + Send) -> bool {
        let ended = self.with(id, |entry| {
            match entry.state() {
                ContainerState::Created => entry.end(137, 9, ("Error", "it was never started"), self.clock.now()),
                _ => signal(entry.status.pid, with.map_or_else(|| stop_signal(&entry.config), Ok)?),
            }
            Ok(entry.ended.subscribe())
        });
        let Ok(mut ended) = ended else { return true };
        matches!(select(pin!(ended.wait_for(|ended| *ended)), pin!(patience)).await, Either::Left(_))
    }
}

#[async_trait]
impl RuntimeService for ProcessRuntime {
    async fn version(&self) -> RuntimeResult<RuntimeVersion> {
        Ok(RuntimeVersion { runtime_name: "process".into(), runtime_version: env!("CARGO_PKG_VERSION").into() })
    }
    fn capabilities(&self) -> RuntimeCapabilities {
        let mut capabilities = RuntimeCapabilities::none();
        capabilities.processes = true;
        capabilities
    }
    async fn status(&self) -> RuntimeResult<RuntimeStatus> {
        Ok(RuntimeStatus::all_ready())
    }
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> RuntimeResult<String> {
        if config.namespace_options.network != NamespaceMode::Node {
            return Err(RuntimeError::invalid("namespace_options.network", "only the host's is offered: set hostNetwork: true"));
        }
        let mut state = self.state.lock();
        if let Some(known) = state.sandboxes.values().find(|s| s.config.metadata == config.metadata) {
            return Ok(known.sandbox.id.clone());
        }
        let id = new_id();
        state.sandboxes.insert(id.clone(), PodSandboxStatus::ready(&*id, config, runtime_handler, self.clock.now()));
        Ok(id)
    }
    async fn stop_pod_sandbox(&self, id: &str) -> RuntimeResult<()> {
        if let Some(status) = self.state.lock().sandboxes.get_mut(id) {
            status.sandbox.state = PodSandboxState::NotReady;
        }
        for container in self.list_containers(&ContainerFilter::of_sandbox(id)).await? {
            self.kill(&container.id, Some(Signal::SIGKILL), std::future::pending()).await;
        }
        Ok(())
    }
    async fn remove_pod_sandbox(&self, id: &str) -> RuntimeResult<()> {
        self.stop_pod_sandbox(id).await?;
        for container in self.list_containers(&ContainerFilter::of_sandbox(id)).await? {
            self.remove_container(&container.id).await?;
        }
        self.state.lock().sandboxes.remove(id);
        Ok(())
    }
    async fn pod_sandbox_status(&self, id: &str) -> RuntimeResult<PodSandboxStatus> {
        self.state.lock().sandboxes.get(id).cloned().ok_or_else(|| RuntimeError::not_found("sandbox", id))
    }
    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> RuntimeResult<Vec<PodSandbox>> {
        Ok(self.state.lock().sandboxes.values().map(|s| &s.sandbox).filter(|s| filter.matches(s)).cloned().collect())
    }
    async fn create_container(&self, sandbox_id: &str, config: &ContainerConfig, _: &PodSandboxConfig) -> RuntimeResult<String> {
        if config.tty || config.security_context.run_as_user.is_some() {
            return Err(RuntimeError::unsupported("a terminal, or another user"));
        }
        words(config)?;
        stop_signal(config)?;
        let mut state = self.state.lock();
        let sandbox = state.sandboxes.get(sandbox_id).ok_or_else(|| RuntimeError::not_found("sandbox", sandbox_id))?;
        let known = |c: &&Container| c.pod_sandbox_id == sandbox_id && c.metadata == config.metadata;
        if let Some(known) = state.containers.values().map(|e| &e.status.container).find(known) {
            return Ok(known.id.clone());
        }
        if sandbox.sandbox.state != PodSandboxState::Ready {
            return Err(RuntimeError::failed_precondition(sandbox_id, sandbox.sandbox.state, "create_container"));
        }
        let id = new_id();
        let mut status = ContainerStatus::created(&*id, sandbox, config, &*config.image.image, self.clock.now());
        // The truth: none is made.
        status.mounts.clear();
        state.containers.insert(id.clone(), Entry { config: config.clone(), status, log: None, ended: watch::Sender::new(false) });
        Ok(id)
    }
    async fn start_container(&self, id: &str) -> RuntimeResult<()> {
        // Under the lock, so that two starts make one process.
        let started = self.with(id, |entry| {
            match entry.state() {
                ContainerState::Created => {}
                ContainerState::Running => return Ok(None),
                _ => return entry.refuse("start_container"),
            }
            let log = CriLog::open(&entry.status.log_path, self.clock.clone()).map(Arc::new);
            let log = log.map_err(|e| RuntimeError::transient("open the log", e))?;
            let child = entry.spawn().inspect_err(|e| entry.end(128, 0, ("StartError", &e.to_string()), self.clock.now()))?;
            entry.status.container.state = ContainerState::Running;
            (entry.status.started_at, entry.status.pid) = (Some(self.clock.now()), child.id().unwrap_or(0));
            entry.log = Some(log.clone());
            Ok(Some((entry.status.pid, child, log)))
        })?;
        if let Some((pid, child, log)) = started {
            tokio::spawn(self.clone().follow(id.into(), pid, child, log));
        }
        Ok(())
    }
    async fn stop_container(&self, id: &str, timeout: Duration) -> RuntimeResult<()> {
        if !self.kill(id, None, self.clock.sleep(timeout)).await {
            self.kill(id, Some(Signal::SIGKILL), std::future::pending()).await;
        }
        Ok(())
    }
    async fn remove_container(&self, id: &str) -> RuntimeResult<()> {
        self.kill(id, Some(Signal::SIGKILL), std::future::pending()).await;
        self.state.lock().containers.remove(id);
        Ok(())
    }
    async fn list_containers(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<Container>> {
        Ok(self.state.lock().containers.values().map(|e| &e.status.container).filter(|c| filter.matches(c)).cloned().collect())
    }
    async fn container_status(&self, id: &str) -> RuntimeResult<ContainerStatus> {
        self.with(id, |entry| Ok(entry.status.clone()))
    }
    async fn update_container_resources(&self, _: &str, _: &LinuxContainerResources) -> RuntimeResult<()> {
        Err(RuntimeError::unsupported("resources"))
    }
    async fn reopen_container_log(&self, id: &str) -> RuntimeResult<()> {
        self.with(id, |entry| match entry.log.as_ref().filter(|_| entry.state() == ContainerState::Running) {
            Some(log) => log.reopen().map_err(|e| RuntimeError::transient("reopen_container_log", e)),
            None => entry.refuse("reopen_container_log"),
        })
    }
    async fn exec_sync(&self, _: &str, _: &[String], _: Duration) -> RuntimeResult<ExecResult> {
        Err(RuntimeError::unsupported("exec"))
    }
    async fn exec(&self, _: &str, _: &ExecRequest) -> RuntimeResult<Session> {
        Err(RuntimeError::unsupported("exec"))
    }
    async fn attach(&self, _: &str, _: &AttachRequest) -> RuntimeResult<Session> {
        Err(RuntimeError::unsupported("attach"))
    }
    async fn port_forward(&self, _: &str, _: u16) -> RuntimeResult<Box<dyn Duplex>> {
        Err(RuntimeError::unsupported("port_forward"))
    }
    async fn list_container_stats(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<ContainerStats>> {
        let state = self.state.lock();
        let running = state.containers.values().filter(|e| e.state() == ContainerState::Running && filter.matches(&e.status.container));
        Ok(running.map(|e| stats(&e.status)).collect())
    }
    async fn events(&self) -> RuntimeResult<BoxStream<'static, ContainerEvent>> {
        Err(RuntimeError::unsupported("events"))
    }
}

/// There are none: `images` is not declared, so the node agent asks for none.
#[async_trait]
impl ImageService for ProcessRuntime {
    async fn list_images(&self) -> RuntimeResult<Vec<Image>> {
        Ok(Vec::new())
    }
    async fn image_status(&self, _: &ImageSpec) -> RuntimeResult<Option<Image>> {
        Ok(None)
    }
    async fn pull_image(&self, _: &ImageSpec, _: Option<&AuthConfig>) -> RuntimeResult<String> {
        Err(RuntimeError::unsupported("images"))
    }
    async fn remove_image(&self, _: &ImageSpec) -> RuntimeResult<()> {
        Ok(())
    }
    async fn image_fs_info(&self) -> RuntimeResult<FilesystemUsage> {
        Err(RuntimeError::unsupported("images"))
    }
}
