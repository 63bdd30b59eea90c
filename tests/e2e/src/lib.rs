//! Runs the mini-cluster as a user does: its own process, its own data folder, stock kubectl.

mod control_plane;
mod unchecked;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use control_plane::{ControlPlane, PYTHON, Ran, python};
pub use unchecked::Unchecked;

/// Names the executable to test; `cargo xtask test` sets it.
pub const EXECUTABLE: &str = "WHARF_MINI_CLUSTER";

/// The mini-cluster's executable; `None` when no one built it for this test.
pub fn executable() -> Option<PathBuf> {
    std::env::var_os(EXECUTABLE).map(PathBuf::from).filter(|path| path.exists())
}

/// Whether containers can be real here.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A mini-cluster that runs.
#[derive(Debug)]
pub struct MiniCluster {
    child: Child,
    folder: Arc<tempfile::TempDir>,
    /// What it printed until it was ready.
    pub greeting: String,
}

impl MiniCluster {
    /// Starts one on a free port and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it ends before.
    pub fn start(executable: &Path, arguments: &[&str]) -> std::io::Result<Self> {
        Self::start_in(Arc::new(tempfile::tempdir()?), executable, arguments)
    }

    /// Starts one over what another has left in its folder.
    ///
    /// # Errors
    /// When it ends before it is ready.
    pub fn start_in(folder: Arc<tempfile::TempDir>, executable: &Path, arguments: &[&str]) -> std::io::Result<Self> {
        let mut child = Command::new(executable)
            .args(["--listen", "127.0.0.1:0", "--data"])
            .arg(folder.path().join("data"))
            .arg("--kubeconfig")
            .arg(folder.path().join("kubeconfig"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut greeting = String::new();
        let mut out = BufReader::new(child.stdout.take().ok_or_else(|| std::io::Error::other("no output"))?);
        while !greeting.contains("\nready in ") {
            if out.read_line(&mut greeting)? == 0 {
                let status = child.wait()?;
                return Err(std::io::Error::other(format!("mini-cluster ended with {status} before it was ready:\n{greeting}")));
            }
        }
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::stdout()));
        Ok(Self { child, folder, greeting })
    }

    /// The folder that it is in, for another after it.
    pub fn folder(&self) -> Arc<tempfile::TempDir> {
        self.folder.clone()
    }

    /// Kills it, so that it can put nothing in order.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn kill(mut self) -> std::io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Its data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs kubectl.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub fn kubectl(&self, arguments: &[&str]) -> std::io::Result<Output> {
        // A discovery cache of its own: others on this machine speak of other servers.
        Command::new("kubectl")
            .arg("--cache-dir")
            .arg(self.folder.path().join("cache"))
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null())
            .output()
    }

    /// Runs kubectl, which must succeed; gives its output.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub fn good(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments).expect("kubectl runs");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("$ kubectl {}\n{out}{err}", arguments.join(" "));
        assert!(output.status.success(), "kubectl {arguments:?} failed: {err}");
        out.into_owned()
    }

    /// Runs kubectl, which must fail; gives what it complains of.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn bad(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments).expect("kubectl runs");
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("$ kubectl {}\n{err}", arguments.join(" "));
        assert!(!output.status.success(), "kubectl {arguments:?} should have failed, and said {}", String::from_utf8_lossy(&output.stdout));
        err
    }

    /// Writes a file into a folder that lives as long as the cluster.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> std::io::Result<String> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Ends it as Ctrl-C does, and waits; tells whether it ended well.
    ///
    /// # Errors
    /// When it cannot be signalled or waited for.
    pub fn stop(mut self) -> std::io::Result<bool> {
        kill(self.nix_pid(), Signal::SIGINT)?;
        Ok(self.child.wait()?.success())
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }
}

impl Drop for MiniCluster {
    fn drop(&mut self) {
        // A failed test leaves in good order too.
        if let Ok(None) = self.child.try_wait() {
            let _ = kill(self.nix_pid(), Signal::SIGINT);
            let _ = self.child.wait();
        }
    }
}

/// What a cluster could leave behind on this machine: processes, mounts, interfaces and rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    /// Mount points.
    pub mounts: Vec<String>,
    /// Network interfaces.
    pub interfaces: Vec<String>,
    /// Packet-filter rules, without counters.
    pub rules: Vec<String>,
    /// Processes whose command line names the executable or a folder of the cluster.
    pub processes: Vec<String>,
}

impl Traces {
    /// What is there now.
    pub fn now() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut mounts: Vec<String> = mounts.lines().filter_map(|l| l.split(' ').nth(1)).map(str::to_owned).collect();
        let mut interfaces: Vec<String> = std::fs::read_dir("/sys/class/net")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        let mut rules = Vec::new();
        for table in ["nat", "filter"] {
            if let Ok(output) = Command::new("iptables-save").args(["-t", table]).output() {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                rules.extend(
                    text.lines()
                        .filter(|l| l.starts_with('-') || l.starts_with(':'))
                        .filter_map(|l| l.split(" [").next())
                        .map(str::to_owned),
                );
            }
        }
        let mut processes = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("mini-cluster") || line.contains("wharf-shim") || line.contains("demo serve") {
                processes.push(line);
            }
        }
        for list in [&mut mounts, &mut interfaces, &mut rules, &mut processes] {
            list.sort();
        }
        Self { mounts, interfaces, rules, processes }
    }
}
