//! containerd's task service over libcontainer, for all containers of one sandbox.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use containerd_shim::asynchronous::ExitSignal;
use containerd_shim::asynchronous::publisher::RemotePublisher;
use containerd_shim_protos::cgroups::metrics::{CPUStat, CPUUsage, MemoryEntry, MemoryStat, Metrics};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp as ProtoTimestamp;
use containerd_shim_protos::protobuf::{EnumOrUnknown, Message, MessageDyn, MessageField};
use containerd_shim_protos::shim_async::Task;
use containerd_shim_protos::ttrpc;
use containerd_shim_protos::ttrpc::r#async::TtrpcContext;
use containerd_shim_protos::{api, events};
use jiff::Timestamp;
use nix::fcntl::{FcntlArg, FdFlag, OFlag};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::NAMESPACE;
use super::helper::{HELPER_ARGUMENT, Invocation, Reply, Request};
use super::io::{ChildEnds, ConsoleSocket, Pty, Sinks, Streams};
use super::log::CriLog;
use super::reaper::{Exit, Reaper};
use crate::cgroup::Hierarchies;
use crate::state::{ContainerDir, Phase, SandboxDir, ShimContainer, StatusRecord, read_json, write_json};

/// How long output is awaited after a process's end, when something else still holds its streams.
const DRAIN: Duration = Duration::from_secs(2);
/// The longest message that a process may leave when it could not be executed.
const MAX_EXEC_ERROR: u64 = 4096;
/// How many containers and how many execs in each a shim holds.
const MAX_TASKS: usize = 1024;
/// Code of a container that could not be started, as containerd gives it.
const START_ERROR_CODE: i32 = 128;

/// A process with its streams.
pub(super) struct Proc {
    pub(super) pid: Mutex<i32>,
    pub(super) sinks: Arc<Sinks>,
    pub(super) stdin: tokio::sync::Mutex<Option<std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>>>,
    pub(super) terminal: Mutex<Option<Arc<Pty>>>,
    /// Set once the process has ended and its output has been moved.
    pub(super) exit: watch::Sender<Option<Exit>>,
}

impl Proc {
    fn new(sinks: Arc<Sinks>) -> Arc<Self> {
        Arc::new(Self {
            pid: Mutex::new(0),
            sinks,
            stdin: tokio::sync::Mutex::new(None),
            terminal: Mutex::new(None),
            exit: watch::Sender::new(None),
        })
    }
    pub(super) fn exited(&self) -> Option<Exit> {
        *self.exit.borrow()
    }
    pub(super) async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|e| *e);
        // The sender is in `self`, so the wait ends with a value.
        ended.unwrap_or(Exit { code: 255, signal: 0, at: Timestamp::now() })
    }
    fn adopt_streams(&self, streams: &mut Streams) -> TaskTracker {
        *self.terminal.lock() = streams.terminal.take();
        streams.pump(&self.sinks)
    }
    fn signal(&self, signal: i32, group: bool) -> Result<(), nix::errno::Errno> {
        let pid = *self.pid.lock();
        if pid <= 0 || self.exited().is_some() {
            return Err(nix::errno::Errno::ESRCH);
        }
        let signal = Signal::try_from(signal)?;
        kill(Pid::from_raw(if group { -pid } else { pid }), signal)
    }
    /// Kills the process and its process group.
    pub(super) fn kill(&self) {
        // It may have ended.
        let _ = self.signal(Signal::SIGKILL as i32, true);
        let _ = self.signal(Signal::SIGKILL as i32, false);
    }
}

/// A process to be run in a container.
pub(super) struct ExecTask {
    pub(super) proc: Arc<Proc>,
    process: Vec<u8>,
    tty: bool,
    stdin: bool,
}

/// A container.
pub(super) struct ContainerTask {
    id: String,
    pub(super) dir: ContainerDir,
    pub(super) config: ShimContainer,
    pub(super) init: Arc<Proc>,
    pub(super) execs: Mutex<HashMap<String, Arc<ExecTask>>>,
    status: Mutex<StatusRecord>,
    /// Cancelled when starting has come to an end, well or not; an exit is told only then.
    started: CancellationToken,
    start_error: Mutex<Option<String>>,
    exec_error: tokio::sync::Mutex<Option<pipe::Receiver>>,
}

impl ContainerTask {
    fn save(&self, change: impl FnOnce(&mut StatusRecord)) {
        let record = {
            let mut status = self.status.lock();
            change(&mut status);
            status.clone()
        };
        if let Err(error) = write_json(&self.dir.status(), &record) {
            eprintln!("status of {}: {error}", self.id);
        }
    }
}

/// What all services of a shim share.
pub(super) struct ShimState {
    sandbox: SandboxDir,
    pub(super) reaper: Arc<Reaper>,
    publisher: RemotePublisher,
    exit: Arc<ExitSignal>,
    cgroups: Hierarchies,
    pub(super) containers: Mutex<HashMap<String, Arc<ContainerTask>>>,
    replies: AtomicU64,
}

impl ShimState {
    pub(super) fn new(sandbox: SandboxDir, publisher: RemotePublisher, exit: Arc<ExitSignal>) -> Arc<Self> {
        let cgroups = Hierarchies::detect().unwrap_or(Hierarchies::V1(Vec::new()));
        Arc::new(Self {
            sandbox,
            reaper: Arc::default(),
            publisher,
            exit,
            cgroups,
            containers: Mutex::default(),
            replies: AtomicU64::new(0),
        })
    }

    pub(super) fn sandbox(&self) -> &SandboxDir {
        &self.sandbox
    }

    pub(super) fn container(&self, id: &str) -> Option<Arc<ContainerTask>> {
        self.containers.lock().get(id).cloned()
    }

    /// Runs one libcontainer operation in a process of its own.
    async fn helper(&self, request: Request, ends: ChildEnds, keep: Option<&OwnedFd>) -> Result<Reply, String> {
        let reply = self.sandbox.dir.join(format!(".reply-{}", self.replies.fetch_add(1, Ordering::Relaxed)));
        let invocation = serde_json::to_string(&Invocation { request, reply: reply.clone() }).map_err(|e| e.to_string())?;
        if let Some(fd) = keep {
            // Nothing else is spawned between this and the spawn below: one thread, no await.
            nix::fcntl::fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| e.to_string())?;
        }
        let spawned = Command::new("/proc/self/exe")
            .arg0("wharf-youki-helper")
            .args([HELPER_ARGUMENT, &invocation])
            .current_dir("/")
            .env_clear()
            .stdin(ends.stdin)
            .stdout(ends.stdout)
            .stderr(ends.stderr)
            .spawn();
        if let Some(fd) = keep {
            nix::fcntl::fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|e| e.to_string())?;
        }
        let child = spawned.map_err(|e| format!("start a helper: {e}"))?;
        let exit = self.reaper.spawned(child.id() as i32);
        let exit = exit.await.map_err(|_| "the reaper is gone".to_string())?;
        let answer: Result<Reply, String> = read_json(&reply).map_err(|e| format!("helper ended with {} and no answer: {e}", exit.code));
        // A reply that was never written needs no removal.
        let _ = std::fs::remove_file(&reply);
        let answer = answer?;
        match answer.error {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }

    fn publish(self: &Arc<Self>, topic: &'static str, event: Box<dyn MessageDyn>) {
        let state = self.clone();
        tokio::spawn(async move {
            // Events are hints; an agent that is not there lists when it comes.
            let _ = state.publisher.publish(ttrpc::context::Context::default(), topic, NAMESPACE, event).await;
        });
    }

    async fn create(self: &Arc<Self>, request: api::CreateTaskRequest) -> Result<u32, ttrpc::Error> {
        let id = request.id.clone();
        if self.containers.lock().len() >= MAX_TASKS {
            return Err(status(ttrpc::Code::RESOURCE_EXHAUSTED, format!("a sandbox holds at most {MAX_TASKS} containers")));
        }
        if let Some(existing) = self.container(&id) {
            return Err(status(ttrpc::Code::ALREADY_EXISTS, format!("container {} exists", existing.id)));
        }
        let dir = ContainerDir { dir: PathBuf::from(&request.bundle) };
        let config: ShimContainer = read_json(&dir.shim_config()).map_err(|e| invalid(format!("{}: {e}", dir.shim_config().display())))?;
        for mount in &request.rootfs {
            let target = dir.rootfs();
            std::fs::create_dir_all(&target).map_err(|e| internal(e.to_string()))?;
            containerd_shim::mount::mount_rootfs(Some(mount.type_.as_str()), Some(mount.source.as_str()), &mount.options, &target)
                .map_err(|e| internal(format!("mount rootfs: {e}")))?;
        }
        let log = config.log_path.as_deref().map(CriLog::open).transpose().map_err(|e| internal(format!("open the log: {e}")))?;
        let init = Proc::new(Sinks::new(log));
        let (error_read, error_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| internal(e.to_string()))?;
        let error_read = pipe::Receiver::from_owned_fd(error_read).map_err(|e| internal(e.to_string()))?;
        let request = |console_socket| Request::Create {
            id: id.clone(),
            bundle: dir.dir.clone(),
            state_root: self.sandbox.youki(),
            console_socket,
            error_fd: error_write.as_raw_fd(),
        };
        let (outcome, pumps) = self.launch(&init, config.tty, config.stdin, request, &error_write).await;
        drop(error_write);
        let pid = match outcome {
            Ok(pid) => pid,
            Err(error) => {
                let told = read_exec_error(error_read).await;
                return Err(internal(told.unwrap_or(error)));
            }
        };
        let status: StatusRecord = read_json(&dir.status()).unwrap_or_default();
        let task = Arc::new(ContainerTask {
            id: id.clone(),
            dir,
            config,
            init,
            execs: Mutex::default(),
            status: Mutex::new(status),
            started: CancellationToken::new(),
            start_error: Mutex::new(None),
            exec_error: tokio::sync::Mutex::new(Some(error_read)),
        });
        let exited = self.reaper.adopted(pid);
        self.containers.lock().insert(id.clone(), task.clone());
        let state = self.clone();
        tokio::spawn(async move {
            let exit = exited.await.unwrap_or(Exit { code: 255, signal: 0, at: Timestamp::now() });
            task.started.cancelled().await;
            // With a shared or the host's PID namespace the rest of a container does not end with its first process.
            state.cgroups.kill_all(&task.config.cgroup);
            drain(&pumps).await;
            state.container_exited(&task, exit);
        });
        let mut event = events::task::TaskCreate::new();
        event.container_id = id;
        event.pid = pid as u32;
        self.publish("/tasks/create", Box::new(event));
        Ok(pid as u32)
    }

    /// Gives a process its streams and runs the helper that makes it.
    async fn launch(
        self: &Arc<Self>,
        proc: &Arc<Proc>,
        tty: bool,
        stdin: bool,
        request: impl FnOnce(Option<PathBuf>) -> Request,
        error_write: &OwnedFd,
    ) -> (Result<i32, String>, TaskTracker) {
        let none = || {
            let tracker = TaskTracker::new();
            tracker.close();
            tracker
        };
        let made = async {
            if tty {
                let console = ConsoleSocket::new().map_err(|e| format!("console socket: {e}"))?;
                let reply = self.helper(request(Some(console.path())), ChildEnds::null(), Some(error_write)).await?;
                let master = console.receive().map_err(|e| format!("terminal: {e}"))?;
                let streams = Streams::terminal(master).map_err(|e| format!("terminal: {e}"))?;
                Ok::<_, String>((reply, streams))
            } else {
                let (streams, ends) = Streams::pipes(stdin).map_err(|e| format!("pipes: {e}"))?;
                let reply = self.helper(request(None), ends, Some(error_write)).await?;
                Ok((reply, streams))
            }
        };
        match made.await {
            Ok((reply, mut streams)) => {
                let Some(pid) = reply.pid else { return (Err("no process came to be".into()), none()) };
                *proc.pid.lock() = pid;
                if stdin {
                    *proc.stdin.lock().await = streams.stdin.take();
                }
                let pumps = proc.adopt_streams(&mut streams);
                (Ok(pid), pumps)
            }
            Err(error) => (Err(error), none()),
        }
    }

    fn container_exited(self: &Arc<Self>, task: &Arc<ContainerTask>, exit: Exit) {
        let oom = exit.code == 137 && self.cgroups.oom_kills(&task.config.cgroup) > 0;
        let start_error = task.start_error.lock().clone();
        let exit = if start_error.is_some() { Exit { code: START_ERROR_CODE, ..exit } } else { exit };
        task.save(|status| {
            status.phase = Phase::Exited;
            status.pid = 0;
            status.finished_at = Some(exit.at);
            status.exit_code = exit.code;
            status.signal = exit.signal;
            (status.reason, status.message) = match start_error {
                Some(message) => ("StartError".into(), message),
                None if oom => ("OOMKilled".into(), String::new()),
                None if exit.code == 0 => ("Completed".into(), String::new()),
                None => ("Error".into(), String::new()),
            };
        });
        task.init.sinks.close();
        let pid = *task.init.pid.lock();
        task.init.exit.send_replace(Some(exit));
        if oom {
            let mut event = events::task::TaskOOM::new();
            event.container_id = task.id.clone();
            self.publish("/tasks/oom", Box::new(event));
        }
        let mut event = events::task::TaskExit::new();
        event.container_id = task.id.clone();
        event.id = task.id.clone();
        event.pid = pid as u32;
        event.exit_status = exit.code as u32;
        event.exited_at = MessageField::some(proto_time(exit.at));
        self.publish("/tasks/exit", Box::new(event));
    }

    async fn start_init(self: &Arc<Self>, task: &Arc<ContainerTask>) -> Result<u32, ttrpc::Error> {
        let Some(error_read) = task.exec_error.lock().await.take() else {
            return Err(status(ttrpc::Code::FAILED_PRECONDITION, format!("container {} was started before", task.id)));
        };
        // Taken first: a short process has ended before the helper has, and none ends before it started.
        let started_at = Timestamp::now();
        let request = Request::Start { id: task.id.clone(), state_root: self.sandbox.youki() };
        let mut failure = self.helper(request, ChildEnds::null(), None).await.err();
        if failure.is_none() {
            // The pipe closes at exec; text in it says why there was none.
            failure = read_exec_error(error_read).await;
        }
        let pid = *task.init.pid.lock();
        if let Some(message) = failure {
            *task.start_error.lock() = Some(message.clone());
            task.init.kill();
            task.started.cancel();
            task.init.wait().await;
            return Err(internal(message));
        }
        task.save(|status| {
            status.phase = Phase::Running;
            status.pid = pid as u32;
            status.started_at = Some(started_at);
        });
        task.started.cancel();
        let mut event = events::task::TaskStart::new();
        event.container_id = task.id.clone();
        event.pid = pid as u32;
        self.publish("/tasks/start", Box::new(event));
        Ok(pid as u32)
    }

    async fn start_exec(self: &Arc<Self>, task: &Arc<ContainerTask>, exec_id: &str) -> Result<u32, ttrpc::Error> {
        let exec = find_exec(task, exec_id)?;
        let process = task.dir.dir.join(format!("exec-{exec_id}.json"));
        std::fs::write(&process, &exec.process).map_err(|e| internal(e.to_string()))?;
        let (error_read, error_write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| internal(e.to_string()))?;
        let error_read = pipe::Receiver::from_owned_fd(error_read).map_err(|e| internal(e.to_string()))?;
        let request = |console_socket| Request::Exec {
            id: task.id.clone(),
            state_root: self.sandbox.youki(),
            process: process.clone(),
            console_socket,
            error_fd: error_write.as_raw_fd(),
        };
        let (outcome, pumps) = self.launch(&exec.proc, exec.tty, exec.stdin, request, &error_write).await;
        drop(error_write);
        // The process has read it or never will.
        let _ = std::fs::remove_file(&process);
        let pid = match outcome {
            Ok(pid) => pid,
            Err(error) => {
                let message = read_exec_error(error_read).await.unwrap_or(error);
                exec.proc.sinks.close();
                return Err(internal(message));
            }
        };
        let exited = self.reaper.adopted(pid);
        let (state, task_id, exec_id) = (self.clone(), task.id.clone(), exec_id.to_string());
        tokio::spawn(async move {
            let exit = exited.await.unwrap_or(Exit { code: 255, signal: 0, at: Timestamp::now() });
            drain(&pumps).await;
            exec.proc.sinks.close();
            exec.proc.exit.send_replace(Some(exit));
            let mut event = events::task::TaskExit::new();
            event.container_id = task_id;
            event.id = exec_id;
            event.pid = pid as u32;
            event.exit_status = exit.code as u32;
            event.exited_at = MessageField::some(proto_time(exit.at));
            state.publish("/tasks/exit", Box::new(event));
        });
        Ok(pid as u32)
    }

    async fn delete(self: &Arc<Self>, request: api::DeleteRequest) -> Result<api::DeleteResponse, ttrpc::Error> {
        let task = self.find(&request.id)?;
        let proc = if request.exec_id.is_empty() { task.init.clone() } else { find_exec(&task, &request.exec_id)?.proc.clone() };
        if *proc.pid.lock() != 0 && proc.exited().is_none() {
            if request.exec_id.is_empty() && !task.started.is_cancelled() {
                // Made and never started: there is nothing to wait for.
                task.init.kill();
                task.started.cancel();
                task.init.wait().await;
            } else {
                return Err(status(ttrpc::Code::FAILED_PRECONDITION, "the process still runs".into()));
            }
        }
        let mut response = api::DeleteResponse::new();
        response.pid = *proc.pid.lock() as u32;
        if let Some(exit) = proc.exited() {
            response.exit_status = exit.code as u32;
            response.exited_at = MessageField::some(proto_time(exit.at));
        }
        if !request.exec_id.is_empty() {
            task.execs.lock().remove(&request.exec_id);
            return Ok(response);
        }
        let helper = Request::Delete { id: task.id.clone(), state_root: self.sandbox.youki() };
        self.helper(helper, ChildEnds::null(), None).await.map_err(internal)?;
        self.containers.lock().remove(&task.id);
        let mut event = events::task::TaskDelete::new();
        event.container_id = task.id.clone();
        self.publish("/tasks/delete", Box::new(event));
        Ok(response)
    }

    fn find(&self, id: &str) -> Result<Arc<ContainerTask>, ttrpc::Error> {
        self.container(id).ok_or_else(|| status(ttrpc::Code::NOT_FOUND, format!("container {id} not found")))
    }

    fn find_proc(&self, id: &str, exec_id: &str) -> Result<Arc<Proc>, ttrpc::Error> {
        let task = self.find(id)?;
        if exec_id.is_empty() { Ok(task.init.clone()) } else { Ok(find_exec(&task, exec_id)?.proc.clone()) }
    }
}

fn find_exec(task: &ContainerTask, exec_id: &str) -> Result<Arc<ExecTask>, ttrpc::Error> {
    task.execs.lock().get(exec_id).cloned().ok_or_else(|| status(ttrpc::Code::NOT_FOUND, format!("exec {exec_id} not found")))
}

async fn drain(pumps: &TaskTracker) {
    // Past the limit something else has inherited the streams; the exit is told without it.
    let _ = tokio::time::timeout(DRAIN, pumps.wait()).await;
}

async fn read_exec_error(reader: pipe::Receiver) -> Option<String> {
    let mut text = Vec::new();
    let mut reader = reader.take(MAX_EXEC_ERROR);
    // A process that hangs before exec hangs its start, as it would anywhere.
    let _ = reader.read_to_end(&mut text).await;
    if text.is_empty() { None } else { Some(String::from_utf8_lossy(&text).into_owned()) }
}

fn status(code: ttrpc::Code, message: String) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message))
}

fn internal(message: String) -> ttrpc::Error {
    status(ttrpc::Code::INTERNAL, message)
}

fn invalid(message: String) -> ttrpc::Error {
    status(ttrpc::Code::INVALID_ARGUMENT, message)
}

fn proto_time(at: Timestamp) -> ProtoTimestamp {
    ProtoTimestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond(), ..ProtoTimestamp::default() }
}

/// The service.
pub(super) struct TaskService {
    state: Arc<ShimState>,
}

impl TaskService {
    pub(super) fn new(state: Arc<ShimState>) -> Self {
        Self { state }
    }
}

#[async_trait]
impl Task for TaskService {
    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        let task = self.state.find(&request.id)?;
        let proc = self.state.find_proc(&request.id, &request.exec_id)?;
        let mut response = api::StateResponse::new();
        response.id = request.id;
        response.exec_id = request.exec_id.clone();
        response.bundle = task.dir.dir.display().to_string();
        response.pid = *proc.pid.lock() as u32;
        let state = match proc.exited() {
            Some(exit) => {
                response.exit_status = exit.code as u32;
                response.exited_at = MessageField::some(proto_time(exit.at));
                api::Status::STOPPED
            }
            None if request.exec_id.is_empty() && !task.started.is_cancelled() => api::Status::CREATED,
            None if response.pid == 0 => api::Status::CREATED,
            None => api::Status::RUNNING,
        };
        response.status = EnumOrUnknown::new(state);
        Ok(response)
    }

    async fn create(&self, _: &TtrpcContext, request: api::CreateTaskRequest) -> ttrpc::Result<api::CreateTaskResponse> {
        let mut response = api::CreateTaskResponse::new();
        response.pid = self.state.create(request).await?;
        Ok(response)
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let task = self.state.find(&request.id)?;
        let mut response = api::StartResponse::new();
        response.pid = if request.exec_id.is_empty() {
            self.state.start_init(&task).await?
        } else {
            self.state.start_exec(&task, &request.exec_id).await?
        };
        Ok(response)
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        self.state.delete(request).await
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let task = self.state.find(&request.id)?;
        let mut response = api::PidsResponse::new();
        for pid in self.state.cgroups.processes(&task.config.cgroup) {
            let mut process = api::ProcessInfo::new();
            process.pid = pid as u32;
            response.processes.push(process);
        }
        Ok(response)
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let proc = self.state.find_proc(&request.id, &request.exec_id)?;
        if request.all {
            let task = self.state.find(&request.id)?;
            self.state.cgroups.kill_all(&task.config.cgroup);
            return Ok(api::Empty::new());
        }
        proc.signal(request.signal as i32, false).map_err(|errno| match errno {
            nix::errno::Errno::ESRCH => status(ttrpc::Code::NOT_FOUND, "the process has ended".into()),
            nix::errno::Errno::EINVAL => invalid(format!("no such signal: {}", request.signal)),
            other => internal(other.to_string()),
        })?;
        Ok(api::Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> ttrpc::Result<api::Empty> {
        let task = self.state.find(&request.id)?;
        if task.init.exited().is_some() || !task.started.is_cancelled() {
            return Err(status(ttrpc::Code::FAILED_PRECONDITION, format!("container {} is not running", task.id)));
        }
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if request.exec_id.is_empty() || !request.exec_id.chars().all(valid) {
            return Err(invalid("exec_id must be letters, digits, - and _".into()));
        }
        let mut execs = task.execs.lock();
        if execs.len() >= MAX_TASKS {
            return Err(status(ttrpc::Code::RESOURCE_EXHAUSTED, format!("a container holds at most {MAX_TASKS} execs")));
        }
        if execs.contains_key(&request.exec_id) {
            return Err(status(ttrpc::Code::ALREADY_EXISTS, format!("exec {} exists", request.exec_id)));
        }
        let exec = ExecTask {
            proc: Proc::new(Sinks::new(None)),
            process: request.spec.value.clone(),
            tty: request.terminal,
            stdin: !request.stdin.is_empty(),
        };
        execs.insert(request.exec_id, Arc::new(exec));
        Ok(api::Empty::new())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> ttrpc::Result<api::Empty> {
        let proc = self.state.find_proc(&request.id, &request.exec_id)?;
        let terminal = proc.terminal.lock().clone();
        let size = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
        match terminal {
            Some(pty) => pty.resize(size(request.width), size(request.height)).map_err(|e| internal(e.to_string()))?,
            None => return Err(status(ttrpc::Code::FAILED_PRECONDITION, "the process has no terminal".into())),
        }
        Ok(api::Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> ttrpc::Result<api::Empty> {
        if request.stdin {
            *self.state.find_proc(&request.id, &request.exec_id)?.stdin.lock().await = None;
        }
        Ok(api::Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> ttrpc::Result<api::Empty> {
        let task = self.state.find(&request.id)?;
        let resources = serde_json::from_slice(&request.resources.value).map_err(|e| invalid(format!("resources: {e}")))?;
        self.state.cgroups.update(&task.config.cgroup, &resources).map_err(|e| internal(e.to_string()))?;
        Ok(api::Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        let exit = self.state.find_proc(&request.id, &request.exec_id)?.wait().await;
        let mut response = api::WaitResponse::new();
        response.exit_status = exit.code as u32;
        response.exited_at = MessageField::some(proto_time(exit.at));
        Ok(response)
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let task = self.state.find(&request.id)?;
        let (cpu, memory) = self.state.cgroups.usage(&task.config.cgroup);
        let usage = CPUUsage { total: cpu, ..CPUUsage::default() };
        let metrics = Metrics {
            cpu: MessageField::some(CPUStat { usage: MessageField::some(usage), ..CPUStat::default() }),
            memory: MessageField::some(MemoryStat {
                usage: MessageField::some(MemoryEntry { usage: memory, ..MemoryEntry::default() }),
                ..MemoryStat::default()
            }),
            ..Metrics::default()
        };
        let mut response = api::StatsResponse::new();
        let value = metrics.write_to_bytes().map_err(|e| internal(e.to_string()))?;
        response.stats = MessageField::some(Any { type_url: "io.containerd.cgroups.v1.Metrics".into(), value, ..Any::default() });
        Ok(response)
    }

    async fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        let mut response = api::ConnectResponse::new();
        response.shim_pid = std::process::id();
        response.version = env!("CARGO_PKG_VERSION").into();
        if let Some(task) = self.state.container(&request.id) {
            response.task_pid = *task.init.pid.lock() as u32;
        }
        Ok(response)
    }

    async fn shutdown(&self, _: &TtrpcContext, request: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        if request.now || self.state.containers.lock().is_empty() {
            self.state.exit.signal();
        }
        Ok(api::Empty::new())
    }
}
