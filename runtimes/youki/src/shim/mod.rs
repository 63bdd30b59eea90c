//! The shim: one process per sandbox, parent of its containers, which outlives the agent that started it.
//!
//! It is this very executable run again from a sealed copy in memory, so that a container that gets at
//! `/proc/self/exe` finds nothing it can write to (CVE-2019-5736). It serves containerd's task API on one socket
//! and the bytes of standard streams on another.

mod diagnostics;
pub(crate) mod helper;
mod io;
mod log;
mod reaper;
mod service;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim::asynchronous::publisher::RemotePublisher;
use containerd_shim::asynchronous::{ExitSignal, Shim};
use containerd_shim::{Config, Flags, StartOpts};
use containerd_shim_protos::api::DeleteResponse;

use crate::state::SandboxDir;
use service::{ShimState, TaskService};

/// Names the sandbox directory, and marks a run of the executable as a shim.
pub(crate) const SHIM_ENV: &str = "WHARF_YOUKI_SHIM";
/// The containerd namespace that shims are told.
pub(crate) const NAMESPACE: &str = "wharf";
const RUNTIME_ID: &str = "io.wharf.youki.v1";

/// Becomes a shim or a helper if this process was started as one, and then never returns; else does nothing.
///
/// Call it first thing in `main`, before any thread exists and before arguments are read:
///
/// ```no_run
/// wharf_runtime_youki::shim_main();
/// // the program proper
/// ```
///
/// # Panics
/// Never.
pub fn shim_main() {
    let mut arguments = std::env::args();
    let (_, first, second) = (arguments.next(), arguments.next(), arguments.next());
    if first.as_deref() == Some(helper::HELPER_ARGUMENT) {
        std::process::exit(helper::main(second.as_deref().unwrap_or_default()));
    }
    if let Some(directory) = std::env::var_os(SHIM_ENV) {
        std::process::exit(run_shim(PathBuf::from(directory)));
    }
}

fn run_shim(directory: PathBuf) -> i32 {
    crate::sys::close_inherited();
    // Modes of logs and bundles are meant as they are given.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // A session of its own: neither Ctrl-C nor the end of the embedder's terminal reaches containers.
    if let Err(error) = nix::unistd::setsid() {
        eprintln!("setsid: {error}");
    }
    let sandbox = SandboxDir { dir: directory };
    let lock = match std::fs::File::create(sandbox.shim_lock()) {
        Ok(file) => match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive) {
            Ok(lock) => lock,
            Err((_, error)) => {
                eprintln!("lock: {error}");
                return 1;
            }
        },
        Err(error) => {
            eprintln!("lock: {error}");
            return 1;
        }
    };
    // For the agent to kill one that hangs; valid as long as the lock is held.
    if let Err(error) = std::fs::write(sandbox.shim_lock(), std::process::id().to_string()) {
        eprintln!("lock: {error}");
        return 1;
    }
    // One thread: a shim should cost little, and helpers are spawned without races.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("runtime: {error}");
            return 1;
        }
    };
    let config = Config { no_setup_logger: true, no_reaper: true, ..Config::default() };
    runtime.block_on(containerd_shim::asynchronous::run::<YoukiShim>(RUNTIME_ID, Some(config)));
    drop(lock);
    0
}

struct YoukiShim {
    sandbox: SandboxDir,
    exit: Arc<ExitSignal>,
}

#[async_trait]
impl Shim for YoukiShim {
    type T = TaskService;

    async fn new(_runtime_id: &str, _args: &Flags, _config: &mut Config) -> Self {
        let directory = std::env::var_os(SHIM_ENV).map(PathBuf::from).unwrap_or_default();
        Self { sandbox: SandboxDir { dir: directory }, exit: Arc::new(ExitSignal::default()) }
    }

    async fn start_shim(&mut self, _opts: StartOpts) -> containerd_shim::Result<String> {
        Err(containerd_shim::Error::Unimplemented("start: the agent spawns shims itself".into()))
    }

    async fn delete_shim(&mut self) -> containerd_shim::Result<DeleteResponse> {
        Err(containerd_shim::Error::Unimplemented("delete: the agent cleans up after a dead shim itself".into()))
    }

    async fn wait(&mut self) {
        self.exit.wait().await;
    }

    async fn create_task_service(&self, publisher: RemotePublisher) -> TaskService {
        let state = ShimState::new(self.sandbox.clone(), publisher, self.exit.clone());
        if let Err(error) = state.reaper.run() {
            eprintln!("reaper: {error}");
            std::process::exit(1);
        }
        if let Err(error) = streams::serve(state.clone()) {
            eprintln!("stream socket: {error}");
            std::process::exit(1);
        }
        TaskService::new(state)
    }
}
