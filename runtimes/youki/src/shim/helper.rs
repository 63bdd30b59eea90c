//! The single-threaded process in which libcontainer runs.
//!
//! libcontainer forks and joins namespaces, which is sound only in a process with one thread. Each of its
//! operations runs in a fresh run of this executable: the request comes by argument, the answer goes to a file,
//! and standard streams are the container's own.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::state;
use crate::sys;

/// Marks a run of the executable as a helper.
pub(crate) const HELPER_ARGUMENT: &str = "wharf-youki-helper";
/// Size of a sandbox's /dev/shm, as container engines have it.
const SHM_OPTIONS: &str = "mode=1777,size=64m";

/// What a helper is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Make a sandbox's namespaces and pin them by bind mounts.
    SandboxUp { ns_dir: PathBuf, shm: PathBuf, network: bool, ipc: bool, hostname: Option<String>, sysctls: Vec<(String, String)> },
    /// Make a container up to the point before exec.
    Create { id: String, bundle: PathBuf, state_root: PathBuf, console_socket: Option<PathBuf>, error_fd: RawFd },
    /// Let a container's process go on to exec.
    Start { id: String, state_root: PathBuf },
    /// Run a process in a running container.
    Exec { id: String, state_root: PathBuf, process: PathBuf, console_socket: Option<PathBuf>, error_fd: RawFd },
    /// Kill what is left of a container and forget it.
    Delete { id: String, state_root: PathBuf },
}

/// A request and where its answer goes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Invocation {
    pub(crate) request: Request,
    pub(crate) reply: PathBuf,
}

/// The answer.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Reply {
    pub(crate) pid: Option<i32>,
    pub(crate) error: Option<String>,
}

/// Runs the request given as JSON; the exit status says whether an answer was written.
pub(crate) fn main(invocation: &str) -> i32 {
    let Ok(invocation) = serde_json::from_str::<Invocation>(invocation) else { return 2 };
    if let Some(directory) = invocation.reply.parent() {
        super::diagnostics::install(&directory.join("shim.log"));
    }
    let reply = match perform(invocation.request) {
        Ok(pid) => Reply { pid, error: None },
        Err(error) => Reply { pid: None, error: Some(error) },
    };
    match state::write_json(&invocation.reply, &reply) {
        Ok(()) => 0,
        Err(_) => 3,
    }
}

fn perform(request: Request) -> Result<Option<i32>, String> {
    match request {
        Request::SandboxUp { ns_dir, shm, network, ipc, hostname, sysctls } => {
            sandbox_up(&ns_dir, &shm, network, ipc, hostname.as_deref(), &sysctls).map(|()| None)
        }
        Request::Create { id, bundle, state_root, console_socket, error_fd } => {
            let container = ContainerBuilder::new(id, SyscallType::default())
                .with_executor(ReportingExecutor { error_fd })
                .with_root_path(state_root)
                .map_err(chain)?
                .with_console_socket(console_socket)
                .validate_id()
                .map_err(chain)?
                .as_init(bundle)
                .with_systemd(false)
                .with_detach(true)
                .build()
                .map_err(chain)?;
            Ok(container.pid().map(|pid| pid.as_raw()))
        }
        Request::Start { id, state_root } => {
            let mut container = Container::load(state_root.join(id)).map_err(chain)?;
            container.start().map_err(chain)?;
            Ok(None)
        }
        Request::Exec { id, state_root, process, console_socket, error_fd } => {
            let pid = ContainerBuilder::new(id, SyscallType::default())
                .with_executor(ReportingExecutor { error_fd })
                .with_root_path(state_root)
                .map_err(chain)?
                .with_console_socket(console_socket)
                .as_tenant()
                .with_detach(true)
                .with_process(Some(process))
                .build()
                .map_err(chain)?;
            Ok(Some(pid.as_raw()))
        }
        Request::Delete { id, state_root } => {
            let root = state_root.join(id);
            if !root.exists() {
                return Ok(None);
            }
            let mut container = Container::load(root).map_err(chain)?;
            container.delete(true).map_err(chain)?;
            Ok(None)
        }
    }
}

/// An error with all its causes in one line.
fn chain(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn sandbox_up(
    ns_dir: &Path,
    shm: &Path,
    network: bool,
    ipc: bool,
    hostname: Option<&str>,
    sysctls: &[(String, String)],
) -> Result<(), String> {
    let step = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    let errno = |what: &'static str| move |e: nix::errno::Errno| format!("{what}: {e}");
    let mut flags = CloneFlags::CLONE_NEWUTS;
    let mut names = vec!["uts"];
    if network {
        flags |= CloneFlags::CLONE_NEWNET;
        names.push("net");
    }
    if ipc {
        flags |= CloneFlags::CLONE_NEWIPC;
        names.push("ipc");
    }
    unshare(flags).map_err(errno("unshare"))?;
    if let Some(hostname) = hostname {
        nix::unistd::sethostname(hostname).map_err(errno("sethostname"))?;
    }
    if network {
        sys::loopback_up().map_err(step("bring lo up"))?;
    }
    for (name, value) in sysctls {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        fs::write(&path, value).map_err(|e| format!("sysctl {name}={value}: {e}"))?;
    }
    fs::create_dir_all(ns_dir).map_err(step("make the namespace directory"))?;
    for name in names {
        let target = ns_dir.join(name);
        fs::write(&target, b"").map_err(step("make a namespace file"))?;
        mount(Some(&Path::new("/proc/self/ns").join(name)), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(errno("pin a namespace"))?;
    }
    if ipc {
        fs::create_dir_all(shm).map_err(step("make the shm directory"))?;
        mount(Some("shm"), shm, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC, Some(SHM_OPTIONS))
            .map_err(errno("mount shm"))?;
    }
    Ok(())
}

/// Executes the container's program, and says in the words of other runtimes why it could not.
#[derive(Debug, Clone)]
struct ReportingExecutor {
    error_fd: RawFd,
}

impl ReportingExecutor {
    fn resolve(&self, spec: &Spec) -> Result<(PathBuf, Vec<String>), String> {
        let process = spec.process().as_ref().ok_or("the container has no process")?;
        let arguments = process.args().clone().filter(|a| !a.is_empty()).ok_or("no command specified")?;
        let path = process.env().iter().flatten().find_map(|e| e.strip_prefix("PATH=")).unwrap_or_default().to_string();
        Ok((find_executable(&arguments[0], &path)?, arguments))
    }
    fn report(&self, message: &str) {
        sys::write_raw(self.error_fd, message.as_bytes());
    }
}

impl Executor for ReportingExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let attempt = || -> Result<(), String> {
            let (path, arguments) = self.resolve(spec)?;
            let c = |s: &[u8]| CString::new(s).map_err(|_| format!("exec: {:?}: contains a zero byte", arguments[0]));
            use std::os::unix::ffi::OsStrExt;
            let program = c(path.as_os_str().as_bytes())?;
            let argv = arguments.iter().map(|a| c(a.as_bytes())).collect::<Result<Vec<_>, _>>()?;
            sys::default_sigpipe();
            match nix::unistd::execv(&program, &argv) {
                Ok(never) => match never {},
                Err(errno) => Err(format!("exec {}: {}", path.display(), describe(errno))),
            }
        };
        let message = match attempt() {
            Ok(()) => return Ok(()),
            Err(message) => message,
        };
        self.report(&message);
        Err(ExecutorError::Other(message))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        self.resolve(spec).map(|_| ()).map_err(|message| {
            self.report(&message);
            ExecutorValidationError::ArgValidationError(message)
        })
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), libcontainer::workload::ExecutorSetEnvsError> {
        sys::replace_environment(envs);
        Ok(())
    }
}

fn describe(errno: nix::errno::Errno) -> &'static str {
    match errno {
        nix::errno::Errno::ENOENT => "no such file or directory",
        nix::errno::Errno::EACCES => "permission denied",
        nix::errno::Errno::ENOEXEC => "exec format error",
        other => other.desc(),
    }
}

/// Finds a program as execvp does, with runc's messages.
fn find_executable(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        let candidate = PathBuf::from(name);
        return match fs::metadata(&candidate) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(format!("exec: {name:?}: stat {name}: no such file or directory")),
            Err(e) => Err(format!("exec: {name:?}: stat {name}: {e}")),
            Ok(meta) if meta.is_dir() => Err(format!("exec: {name:?}: is a directory")),
            Ok(meta) if meta.permissions().mode() & 0o111 == 0 => Err(format!("exec: {name:?}: permission denied")),
            Ok(_) => Ok(candidate),
        };
    }
    let mut denied = false;
    for directory in path.split(':') {
        let candidate = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match fs::metadata(&candidate) {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => return Ok(candidate),
            Ok(meta) if meta.is_file() => denied = true,
            _ => {}
        }
    }
    Err(if denied { format!("exec: {name:?}: permission denied") } else { format!("exec: {name:?}: executable file not found in $PATH") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_told_as_runc_tells_it() {
        assert_eq!(find_executable("foo", "/nowhere").unwrap_err(), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(find_executable("/foo-none", "").unwrap_err(), "exec: \"/foo-none\": stat /foo-none: no such file or directory");
        assert_eq!(find_executable("/", "").unwrap_err(), "exec: \"/\": is a directory");
    }

    #[test]
    fn a_program_is_found_in_path_order_and_must_be_executable() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(&first).unwrap();
        fs::create_dir_all(&second).unwrap();
        fs::write(first.join("tool"), "").unwrap();
        fs::set_permissions(first.join("tool"), fs::Permissions::from_mode(0o644)).unwrap();
        let path = format!("{}:{}", first.display(), second.display());
        assert_eq!(find_executable("tool", &path).unwrap_err(), "exec: \"tool\": permission denied");
        fs::write(second.join("tool"), "").unwrap();
        fs::set_permissions(second.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_executable("tool", &path).unwrap(), second.join("tool"));
    }
}
