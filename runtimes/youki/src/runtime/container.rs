//! Containers: made by the agent, run by the shim, known by their records on disk.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::shim_async::TaskClient;
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::context::Context;
use tokio::sync::mpsc;
use wharf_core::runtime::*;

use super::sandbox::{Sandbox, call, clear_directory};
use super::streams::{self, Want};
use super::{Inner, blocking, labels_match, new_id};
use crate::image::{ImageConfig, ImageRecord};
use crate::rootfs::{mkdir_in, mount_overlay, read_in, unmount};
use crate::spec::{self, Available, Device, Input, SandboxPaths, signal_number};
use crate::state::{ContainerDir, ContainerRecord, Phase, ShimContainer, StatusRecord, read_json, write_json};
use crate::user::{self, Wanted};
use crate::wire::Hello;

/// The most output that `exec_sync` collects of each stream.
const MAX_EXEC_OUTPUT: usize = 16 << 20;
/// How many files of a container's own layer are looked at for its size.
const MAX_SIZED_FILES: usize = 10_000;
/// Code of a container that was lost with its shim, as containerd gives it.
const LOST_CODE: i32 = 255;
/// Code of a container that could not be started.
const START_ERROR_CODE: i32 = 128;

/// A container.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(super) dir: ContainerDir,
    pub(super) record: ContainerRecord,
    pub(super) sandbox: Arc<Sandbox>,
    /// Start and remove, one at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Entry {
    pub(super) fn new(dir: ContainerDir, record: ContainerRecord, sandbox: Arc<Sandbox>) -> Arc<Self> {
        Arc::new(Self { dir, record, sandbox, turn: tokio::sync::Mutex::default() })
    }
}

fn invalid(field: &'static str) -> impl FnOnce(String) -> RuntimeError {
    move |message| RuntimeError::InvalidArgument { field, message }
}

fn code(error: &ttrpc::Error) -> Option<ttrpc::Code> {
    match error {
        ttrpc::Error::RpcStatus(status) => status.code.enum_value().ok(),
        _ => None,
    }
}

fn message(error: &ttrpc::Error) -> String {
    match error {
        ttrpc::Error::RpcStatus(status) => status.message.clone(),
        other => other.to_string(),
    }
}

fn rpc(op: &'static str) -> impl Fn(ttrpc::Error) -> RuntimeError {
    move |error| RuntimeError::transient(op, message(&error))
}

impl Inner {
    pub(super) fn select(&self, filter: &ContainerFilter) -> Vec<Arc<Entry>> {
        self.containers
            .iter()
            .map(|e| e.value().clone())
            .filter(|e| filter.id.as_ref().is_none_or(|id| *id == e.record.id))
            .filter(|e| filter.pod_sandbox_id.as_ref().is_none_or(|id| *id == e.record.sandbox_id))
            .filter(|e| labels_match(&filter.label_selector, &e.record.config.labels))
            .collect()
    }

    pub(super) async fn create_container(
        self: &Arc<Self>,
        sandbox: Arc<Sandbox>,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> RuntimeResult<String> {
        let metadata = config.metadata.clone();
        let _turn = self.turns.take(format!("{}/{}/{}", sandbox.id, metadata.name, metadata.attempt)).await;
        let existing = self.entries_of(&sandbox.id).into_iter().find(|e| e.record.config.metadata == metadata);
        if let Some(entry) = existing {
            return Ok(entry.record.id.clone());
        }
        sandbox.require_ready("create_container").await?;
        if config.security_context.namespace_options.pid == NamespaceMode::Pod {
            return Err(RuntimeError::Unsupported { capability: "a PID namespace shared by the containers of a pod" });
        }
        let image = self.images.find(&config.image.image).ok_or(RuntimeError::ImageNotPresent { image: config.image.image.clone() })?;
        let inner = self.clone();
        let entry = blocking("create_container", move || inner.make_container(sandbox, config, sandbox_config, image)).await??;
        let id = entry.record.id.clone();
        self.containers.insert(id.clone(), entry.clone());
        self.emit(&entry, ContainerEventType::Created);
        Ok(id)
    }

    /// Makes the directory, the root file system and the spec. Blocks.
    fn make_container(
        &self,
        sandbox: Arc<Sandbox>,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
        image: ImageRecord,
    ) -> RuntimeResult<Arc<Entry>> {
        let id = new_id();
        let dir = sandbox.dir.container(&id);
        match self.make_container_in(&id, &dir, &sandbox, config, sandbox_config, image) {
            Ok(record) => Ok(Entry::new(dir, record, sandbox)),
            Err(error) => {
                if let Err(cleanup) = clear_directory(&dir.dir) {
                    tracing::warn!(container = %id, error = %cleanup, "a container that failed is not wholly cleared away");
                }
                Err(error)
            }
        }
    }

    fn make_container_in(
        &self,
        id: &str,
        dir: &ContainerDir,
        sandbox: &Sandbox,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
        image: ImageRecord,
    ) -> RuntimeResult<ContainerRecord> {
        let op = "create_container";
        let fault = |e: std::io::Error| RuntimeError::transient(op, e);
        let image_config: ImageConfig = self.images.config(&image.id).map_err(|e| RuntimeError::permanent(op, e))?;
        let defaults = image_config.config.unwrap_or_default();
        if spec::command_line(&config, &defaults).is_empty() {
            return Err(invalid("command")("no command specified, neither by the container nor by its image".into()));
        }
        let stop_signal = config.stop_signal.clone().or(defaults.stop_signal.clone()).unwrap_or_else(|| "SIGTERM".into());
        if signal_number(&stop_signal).is_none() {
            return Err(invalid("stop_signal")(format!("{stop_signal:?} is no signal")));
        }
        std::fs::create_dir_all(&dir.dir).map_err(fault)?;
        let device_rules = self.cgroups.has_device_rules();
        // Nodes that an image brings along open nothing either.
        let nodev = !device_rules && !config.security_context.privileged;
        mount_overlay(&self.images.layers_dir(), &image.layers, dir, nodev).map_err(fault)?;
        let rootfs = dir.rootfs();
        let file = |path: &str| read_in(&rootfs, Path::new(path)).map(Option::unwrap_or_default).map_err(fault);
        let wanted = Wanted {
            image: defaults.user.as_deref().unwrap_or_default(),
            run_as_user: config.security_context.run_as_user,
            run_as_group: config.security_context.run_as_group,
            supplemental_groups: &config.security_context.supplemental_groups,
        };
        let user = user::resolve(&wanted, &file("/etc/passwd")?, &file("/etc/group")?).map_err(invalid("user"))?;
        for cwd in [&config.working_dir, defaults.working_dir.as_ref().unwrap_or(&String::new())] {
            if !cwd.is_empty() {
                if !cwd.starts_with('/') {
                    return Err(invalid("working_dir")(format!("{cwd:?} must be absolute")));
                }
                // One that cannot be made is told when the container starts.
                let _ = mkdir_in(&rootfs, Path::new(cwd));
                break;
            }
        }
        for mount in &config.mounts {
            // As containerd has it: a source that is missing is a directory to be.
            match std::fs::metadata(&mount.host_path) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => std::fs::create_dir_all(&mount.host_path)
                    .map_err(|e| invalid("mounts")(format!("host path {}: {e}", mount.host_path.display())))?,
                _ => {}
            }
        }
        let record = sandbox.record.read().clone();
        let options = &record.config.namespace_options;
        let cgroup = format!("{}/{id}", record.cgroup_parent);
        let paths = SandboxPaths {
            net: (options.network != NamespaceMode::Node).then(|| sandbox.dir.namespace("net")),
            ipc: (options.ipc != NamespaceMode::Node).then(|| sandbox.dir.namespace("ipc")),
            uts: Some(sandbox.dir.namespace("uts")),
            shm: Some(if options.ipc == NamespaceMode::Node { "/dev/shm".into() } else { sandbox.dir.shm() }),
            resolv_conf: Some(sandbox.dir.resolv_conf()),
            hostname: Some(sandbox.dir.hostname()),
        };
        let devices = if config.security_context.privileged { host_devices() } else { Vec::new() };
        let spec = spec::build(&Input {
            config: &config,
            sandbox: &sandbox_config,
            defaults: &defaults,
            user: &user,
            paths: &paths,
            rootfs: &rootfs,
            cgroup: &cgroup,
            devices: &devices,
            available: Available::detect(device_rules).map_err(fault)?,
        });
        write_json(&dir.spec(), &spec).map_err(fault)?;
        let log_path = sandbox_config.log_directory.join(&config.log_path);
        let shim = ShimContainer {
            log_path: (!config.log_path.as_os_str().is_empty()).then(|| log_path.clone()),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            cgroup: cgroup.clone(),
        };
        write_json(&dir.shim_config(), &shim).map_err(fault)?;
        write_json(&dir.status(), &StatusRecord::default()).map_err(fault)?;
        let record = ContainerRecord {
            id: id.into(),
            sandbox_id: sandbox.id.clone(),
            config,
            image_ref: image.id,
            layers: image.layers,
            stop_signal,
            created_at: self.clock.now(),
            log_path,
            cgroup,
        };
        write_json(&dir.record(), &record).map_err(fault)?;
        Ok(record)
    }

    /// The truth about a container. A shim that has died has taken its containers along. Blocks.
    pub(super) fn truth(&self, entry: &Entry) -> StatusRecord {
        let read = || read_json::<StatusRecord>(&entry.dir.status()).unwrap_or_default();
        let status = read();
        if !matches!(status.phase, Phase::Starting | Phase::Running) || entry.sandbox.alive() {
            return status;
        }
        // Its last act may have been to write the end down.
        let status = read();
        if status.phase == Phase::Exited {
            return status;
        }
        self.cgroups.kill_all(&entry.record.cgroup);
        let lost = StatusRecord {
            phase: Phase::Exited,
            pid: 0,
            finished_at: Some(self.clock.now()),
            exit_code: LOST_CODE,
            reason: "Error".into(),
            message: "the container was lost: its shim died".into(),
            ..status
        };
        if let Err(error) = write_json(&entry.dir.status(), &lost) {
            tracing::warn!(container = %entry.record.id, %error, "the end of a lost container cannot be written down");
        }
        lost
    }

    async fn truth_async(self: &Arc<Self>, entry: &Arc<Entry>) -> RuntimeResult<StatusRecord> {
        let (inner, entry) = (self.clone(), entry.clone());
        blocking("container_status", move || inner.truth(&entry)).await
    }

    /// Blocks.
    pub(super) fn container_status(&self, entry: &Entry) -> ContainerStatus {
        let status = self.truth(entry);
        let record = &entry.record;
        ContainerStatus {
            container: Container {
                id: record.id.clone(),
                pod_sandbox_id: record.sandbox_id.clone(),
                metadata: record.config.metadata.clone(),
                image: record.config.image.clone(),
                image_ref: record.image_ref.clone(),
                state: match status.phase {
                    Phase::Created | Phase::Starting => ContainerState::Created,
                    Phase::Running => ContainerState::Running,
                    Phase::Exited => ContainerState::Exited,
                },
                created_at: record.created_at,
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
            },
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            signal: status.signal,
            reason: status.reason,
            message: status.message,
            log_path: record.log_path.clone(),
            mounts: record.config.mounts.clone(),
            pid: status.pid,
        }
    }

    pub(super) async fn start_container(self: &Arc<Self>, entry: &Arc<Entry>) -> RuntimeResult<()> {
        let op = "start_container";
        let _turn = entry.turn.lock().await;
        let status = self.truth_async(entry).await?;
        match status.phase {
            // The same call again, after one that was cut off.
            Phase::Running => return Ok(()),
            Phase::Exited => {
                return Err(RuntimeError::FailedPrecondition { id: entry.record.id.clone(), state: "Exited".into(), operation: op });
            }
            Phase::Created | Phase::Starting => {}
        }
        entry.sandbox.require_ready(op).await?;
        let starting = entry.clone();
        blocking(op, move || write_json(&starting.dir.status(), &StatusRecord { phase: Phase::Starting, ..StatusRecord::default() }))
            .await?
            .map_err(|e| RuntimeError::transient(op, e))?;
        let client = entry.sandbox.client().await?;
        let mut create = api::CreateTaskRequest::new();
        create.id = entry.record.id.clone();
        create.bundle = entry.dir.dir.display().to_string();
        create.terminal = entry.record.config.tty;
        let mut outcome = match client.create(call(), &create).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == Some(ttrpc::Code::ALREADY_EXISTS) => Ok(()),
            Err(error) => Err(error),
        };
        if outcome.is_ok() {
            let start = api::StartRequest { id: entry.record.id.clone(), ..Default::default() };
            outcome = client.start(call(), &start).await.map(|_| ());
        }
        let Err(error) = outcome else {
            self.emit(entry, ContainerEventType::Started);
            return Ok(());
        };
        let message = format!("failed to create containerd task: unable to start container process: {}", message(&error));
        // What was made of it is of no use; remove clears up what this leaves.
        let delete = api::DeleteRequest { id: entry.record.id.clone(), ..Default::default() };
        let _ = client.delete(call(), &delete).await;
        let (failed, told, now) = (entry.clone(), message.clone(), self.clock.now());
        blocking(op, move || {
            let failed_status = StatusRecord {
                phase: Phase::Exited,
                finished_at: Some(now),
                exit_code: START_ERROR_CODE,
                reason: "StartError".into(),
                message: told,
                ..StatusRecord::default()
            };
            write_json(&failed.dir.status(), &failed_status)
        })
        .await?
        .map_err(|e| RuntimeError::transient(op, e))?;
        self.emit(entry, ContainerEventType::Stopped);
        Err(RuntimeError::StartFailed { id: entry.record.id.clone(), message })
    }

    pub(super) async fn stop_container(self: &Arc<Self>, entry: &Arc<Entry>, timeout: Duration) -> RuntimeResult<()> {
        let op = "stop_container";
        let status = {
            // A start in progress comes to its end first.
            let _turn = entry.turn.lock().await;
            let status = self.truth_async(entry).await?;
            if matches!(status.phase, Phase::Created) {
                let (stopped, now) = (entry.clone(), self.clock.now());
                return blocking(op, move || {
                    let status = StatusRecord {
                        phase: Phase::Exited,
                        finished_at: Some(now),
                        exit_code: 137,
                        reason: "Error".into(),
                        message: "stopped before it was started".into(),
                        ..StatusRecord::default()
                    };
                    write_json(&stopped.dir.status(), &status)
                })
                .await?
                .map_err(|e| RuntimeError::transient(op, e));
            }
            status
        };
        if status.phase == Phase::Exited {
            return Ok(());
        }
        let client = entry.sandbox.client().await?;
        let exited = async {
            let wait = api::WaitRequest { id: entry.record.id.clone(), ..Default::default() };
            client.wait(Context::default(), &wait).await
        };
        let mut exited = std::pin::pin!(exited);
        if !timeout.is_zero() {
            let signal = signal_number(&entry.record.stop_signal).unwrap_or(nix::sys::signal::Signal::SIGTERM as i32);
            self.signal(&client, entry, signal, false).await?;
            tokio::select! {
                ended = &mut exited => return self.confirm_exit(entry, ended.map(|_| ())).await,
                () = self.clock.sleep(timeout) => {}
            }
        }
        self.signal(&client, entry, nix::sys::signal::Signal::SIGKILL as i32, false).await?;
        self.signal(&client, entry, nix::sys::signal::Signal::SIGKILL as i32, true).await?;
        let ended = exited.await.map(|_| ());
        self.confirm_exit(entry, ended).await
    }

    /// The exit was told, or the shim went, which makes it one too.
    async fn confirm_exit(self: &Arc<Self>, entry: &Arc<Entry>, told: Result<(), ttrpc::Error>) -> RuntimeResult<()> {
        let status = self.truth_async(entry).await?;
        match (status.phase, told) {
            (Phase::Exited, _) | (_, Ok(())) => Ok(()),
            (_, Err(error)) => Err(rpc("stop_container")(error)),
        }
    }

    async fn signal(&self, client: &TaskClient, entry: &Entry, signal: i32, all: bool) -> RuntimeResult<()> {
        let kill = api::KillRequest { id: entry.record.id.clone(), signal: signal as u32, all, ..Default::default() };
        match client.kill(call(), &kill).await {
            Ok(_) => Ok(()),
            // It has ended, or its shim has: the wait tells.
            Err(error) if code(&error) == Some(ttrpc::Code::NOT_FOUND) || code(&error).is_none() => Ok(()),
            Err(error) => Err(rpc("stop_container")(error)),
        }
    }

    pub(super) async fn remove_container(self: &Arc<Self>, entry: &Arc<Entry>) -> RuntimeResult<()> {
        let op = "remove_container";
        self.stop_container(entry, Duration::ZERO).await?;
        let _turn = entry.turn.lock().await;
        if !self.containers.contains_key(&entry.record.id) {
            return Ok(());
        }
        let sandbox = entry.sandbox.clone();
        if blocking(op, move || sandbox.alive()).await?
            && let Ok(client) = entry.sandbox.client().await
        {
            let delete = api::DeleteRequest { id: entry.record.id.clone(), ..Default::default() };
            match client.delete(call(), &delete).await {
                Ok(_) => {}
                Err(error) if code(&error) == Some(ttrpc::Code::NOT_FOUND) => {}
                Err(error) => tracing::warn!(container = %entry.record.id, error = %message(&error), "the shim cannot delete a container"),
            }
        }
        let (removed, cgroups) = (entry.clone(), self.cgroups.clone());
        blocking(op, move || -> std::io::Result<()> {
            cgroups.remove(&removed.record.cgroup)?;
            unmount(&removed.dir.rootfs())?;
            // First the record: without it a new agent knows that the rest is to be cleared away.
            match std::fs::remove_file(removed.dir.record()) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let youki = removed.sandbox.dir.youki().join(&removed.record.id);
            if youki.exists() {
                std::fs::remove_dir_all(youki)?;
            }
            clear_directory(&removed.dir.dir)
        })
        .await?
        .map_err(|e| RuntimeError::transient(op, e))?;
        self.containers.remove(&entry.record.id);
        self.emit(entry, ContainerEventType::Deleted);
        Ok(())
    }

    async fn require_running(self: &Arc<Self>, entry: &Arc<Entry>, operation: &'static str) -> RuntimeResult<()> {
        let phase = self.truth_async(entry).await?.phase;
        if phase == Phase::Running {
            return Ok(());
        }
        Err(RuntimeError::FailedPrecondition { id: entry.record.id.clone(), state: format!("{phase:?}"), operation })
    }

    pub(super) async fn update_resources(self: &Arc<Self>, entry: &Arc<Entry>, resources: &LinuxContainerResources) -> RuntimeResult<()> {
        let op = "update_container_resources";
        self.require_running(entry, op).await?;
        let mut request = api::UpdateTaskRequest::new();
        request.id = entry.record.id.clone();
        let value = serde_json::to_vec(resources).map_err(|e| RuntimeError::permanent(op, e))?;
        request.resources = MessageField::some(Any { value, ..Any::default() });
        entry.sandbox.client().await?.update(call(), &request).await.map(|_| ()).map_err(rpc(op))
    }

    pub(super) async fn reopen_log(self: &Arc<Self>, entry: &Arc<Entry>) -> RuntimeResult<()> {
        let op = "reopen_container_log";
        self.require_running(entry, op).await?;
        let hello = Hello::ReopenLog { container: entry.record.id.clone() };
        streams::connect(&entry.sandbox.dir.stream_socket(), &hello).await.map(|_| ()).map_err(|e| RuntimeError::transient(op, e))
    }

    pub(super) async fn attach(self: &Arc<Self>, entry: &Arc<Entry>, request: &AttachRequest) -> RuntimeResult<Session> {
        let op = "attach";
        self.require_running(entry, op).await?;
        let hello = Hello::Attach {
            container: entry.record.id.clone(),
            exec: None,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
        };
        let connection = streams::connect(&entry.sandbox.dir.stream_socket(), &hello).await.map_err(|e| RuntimeError::transient(op, e))?;
        let want = Want { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: entry.record.config.tty };
        Ok(streams::session(connection, want, async {}))
    }

    pub(super) async fn exec(self: &Arc<Self>, entry: &Arc<Entry>, request: &ExecRequest) -> RuntimeResult<Session> {
        let op = "exec";
        if request.command.is_empty() {
            return Err(invalid("command")("at least a program is needed".into()));
        }
        self.require_running(entry, op).await?;
        let (spec, command, tty) = (entry.dir.spec(), request.command.clone(), request.tty);
        let process = blocking(op, move || exec_process(&spec, &command, tty)).await?.map_err(|e| RuntimeError::transient(op, e))?;
        let client = entry.sandbox.client().await?;
        let exec_id = new_id();
        let mut exec = api::ExecProcessRequest::new();
        exec.id = entry.record.id.clone();
        exec.exec_id = exec_id.clone();
        exec.terminal = request.tty;
        exec.stdin = if request.stdin { "stream".into() } else { String::new() };
        exec.spec = MessageField::some(Any { value: process, ..Any::default() });
        client.exec(call(), &exec).await.map_err(rpc(op))?;
        let delete = api::DeleteRequest { id: entry.record.id.clone(), exec_id: exec_id.clone(), ..Default::default() };
        let hello = Hello::Attach {
            container: entry.record.id.clone(),
            exec: Some(exec_id.clone()),
            stdin: request.stdin,
            stdout: request.stdout || request.tty,
            stderr: request.stderr,
        };
        let connected = async {
            let connection =
                streams::connect(&entry.sandbox.dir.stream_socket(), &hello).await.map_err(|e| RuntimeError::transient(op, e))?;
            let start = api::StartRequest { id: entry.record.id.clone(), exec_id: exec_id.clone(), ..Default::default() };
            client
                .start(call(), &start)
                .await
                .map_err(|e| RuntimeError::permanent(op, format!("failed to exec in container: failed to start exec: {}", message(&e))))?;
            Ok(connection)
        };
        match connected.await {
            Ok(connection) => {
                let want = Want { stdin: request.stdin, stdout: request.stdout || request.tty, stderr: request.stderr, tty: request.tty };
                let wait = api::WaitRequest { id: delete.id.clone(), exec_id, ..Default::default() };
                Ok(streams::session(connection, want, async move {
                    // If the shim is gone there is nothing to forget.
                    let _ = client.wait(call(), &wait).await;
                    let _ = client.delete(call(), &delete).await;
                }))
            }
            Err(error) => {
                let _ = client.delete(call(), &delete).await;
                Err(error)
            }
        }
    }

    pub(super) async fn exec_sync(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        command: &[String],
        timeout: Duration,
    ) -> RuntimeResult<ExecResult> {
        let request = ExecRequest { command: command.to_vec(), stdout: true, stderr: true, ..ExecRequest::default() };
        let run = async {
            let mut session = self.exec(entry, &request).await?;
            let (stdout, stderr) = (session.stdout.take(), session.stderr.take());
            let (stdout, stderr, exit) = tokio::join!(collect(stdout), collect(stderr), session.exit);
            let exit_code = exit.map_err(|_| RuntimeError::transient("exec_sync", "the connection to the process was lost"))??;
            Ok(ExecResult { stdout, stderr, exit_code })
        };
        if timeout.is_zero() {
            return Box::pin(run).await;
        }
        tokio::select! {
            result = Box::pin(run) => result,
            // Dropping the session kills the command.
            () = self.clock.sleep(timeout) => {
                let told = format!("command {command:?} timed out after {timeout:?}");
                Err(RuntimeError::transient("exec_sync", std::io::Error::new(std::io::ErrorKind::TimedOut, told)))
            }
        }
    }

    /// Blocks.
    pub(super) fn stats(&self, entry: &Entry, state: Option<ContainerState>) -> Option<ContainerStats> {
        let status = self.truth(entry);
        if status.phase != Phase::Running || state.is_some_and(|s| s != ContainerState::Running) {
            return None;
        }
        let (cpu, memory) = self.cgroups.usage(&entry.record.cgroup);
        let mut files = 0;
        Some(ContainerStats {
            id: entry.record.id.clone(),
            metadata: entry.record.config.metadata.clone(),
            labels: entry.record.config.labels.clone(),
            cpu_usage_core_nano_seconds: cpu,
            memory_working_set_bytes: memory,
            writable_layer_used_bytes: size_of(&entry.dir.upper(), &mut files),
        })
    }
}

async fn collect(stream: Option<mpsc::Receiver<Bytes>>) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(mut stream) = stream else { return out };
    while let Some(bytes) = stream.recv().await {
        let room = MAX_EXEC_OUTPUT - out.len();
        out.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
    out
}

/// The process of an exec: the container's own with another command line.
fn exec_process(spec: &Path, command: &[String], tty: bool) -> std::io::Result<Vec<u8>> {
    let spec: serde_json::Value = read_json(spec)?;
    let mut process = spec["process"].clone();
    process["args"] = serde_json::json!(command);
    process["terminal"] = serde_json::json!(tty);
    if tty && let Some(env) = process["env"].as_array_mut() {
        let has_term = env.iter().any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")));
        if !has_term {
            env.push("TERM=xterm".into());
        }
    }
    Ok(serde_json::to_vec(&process)?)
}

fn size_of(directory: &Path, files: &mut usize) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let mut size = 0;
    for entry in entries.flatten() {
        *files += 1;
        if *files > MAX_SIZED_FILES {
            break;
        }
        let Ok(meta) = entry.metadata() else { continue };
        size += meta.blocks() * 512;
        if meta.is_dir() {
            size += size_of(&entry.path(), files);
        }
    }
    size
}

/// The host's device nodes right below /dev. Blocks.
fn host_devices() -> Vec<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
    // Made by libcontainer in every container.
    const OWN: [&str; 9] = ["null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "fuse"];
    let Ok(entries) = std::fs::read_dir("/dev") else { return Vec::new() };
    let mut devices = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(meta) = entry.metadata() else { continue };
        let kind = match meta.file_type() {
            t if t.is_char_device() => 'c',
            t if t.is_block_device() => 'b',
            _ => continue,
        };
        if OWN.contains(&name.as_str()) {
            continue;
        }
        devices.push(Device {
            path: format!("/dev/{name}"),
            kind,
            major: nix::sys::stat::major(meta.rdev()),
            minor: nix::sys::stat::minor(meta.rdev()),
            mode: meta.permissions().mode() & 0o777,
        });
    }
    devices
}
