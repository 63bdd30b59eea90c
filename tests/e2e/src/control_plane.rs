//! A control plane in this process, with one node that pretends, and clients of other makers around it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use wharf::runtime_hollow::{HollowRuntime, Script};
use wharf::{Cluster, NodeSpec};

/// Names the interpreter of a Python environment with the clients; `cargo xtask test` makes one and sets it.
pub const PYTHON: &str = "WHARF_PYTHON";

/// Containers of images whose names hold this word end by themselves, and well.
const ENDS: &str = "/ends:";

/// The interpreter that has the Python clients; `None` when no one installed them.
pub fn python() -> Option<PathBuf> {
    std::env::var_os(PYTHON).map(PathBuf::from).filter(|path| path.exists())
}

/// What came of a program.
#[derive(Debug, Clone)]
pub struct Ran {
    /// Its status.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

/// A control plane behind TLS on loopback, with a kubeconfig in a folder of its own.
#[derive(Debug)]
pub struct ControlPlane {
    /// What runs.
    pub cluster: Cluster,
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// Starts one.
    ///
    /// # Panics
    /// When it cannot be started.
    pub async fn start() -> Self {
        let listen = ([127, 0, 0, 1], 0).into();
        // A runtime in which some containers come to their end.
        let runtime = HollowRuntime::builder().script(|container| match &container.image.image {
            image if image.contains(ENDS) => Script::Exit { after: Duration::ZERO, code: 0 },
            _ => Script::Run,
        });
        let node = NodeSpec::hollow("pretends", Arc::new(runtime.build()));
        let cluster = Cluster::builder().listen(listen).node(node).start().await.expect("a control plane");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("kubeconfig"), cluster.kubeconfig().expect("a kubeconfig")).expect("it is written");
        Self { cluster, folder }
    }

    /// A folder that lives as long as this.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Writes a file.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file is written");
        path.to_str().expect("a path in UTF-8").to_owned()
    }

    /// A program whose kubeconfig, home and discovery cache are this control plane's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.folder.path()).current_dir(self.folder.path()).kill_on_drop(true);
        command
    }

    /// Runs a program to its end.
    ///
    /// # Panics
    /// When it cannot be run.
    pub async fn run(&self, mut command: tokio::process::Command, input: &[u8]) -> Ran {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a program runs");
        let mut stdin = child.stdin.take().expect("its input");
        let input = input.to_vec();
        let feed = tokio::spawn(async move {
            // One that ends early reads no further.
            let _ = stdin.write_all(&input).await;
        });
        let output = child.wait_with_output().await.expect("its output");
        feed.await.expect("its input is written");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Runs kubectl.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command("kubectl");
        command.args(arguments);
        self.run(command, input.as_bytes()).await
    }

    /// What kubectl prints; it must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn good(&self, arguments: &[&str]) -> String {
        self.good_with(arguments, "").await
    }

    /// The same, with input.
    ///
    /// # Panics
    /// When it fails.
    pub async fn good_with(&self, arguments: &[&str], input: &str) -> String {
        let ran = self.kubectl(arguments, input).await;
        assert_eq!(ran.code, 0, "kubectl {arguments:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    /// What kubectl complains of; it must fail.
    ///
    /// # Panics
    /// When it succeeds.
    pub async fn bad(&self, arguments: &[&str]) -> String {
        let ran = self.kubectl(arguments, "").await;
        assert_ne!(ran.code, 0, "kubectl {arguments:?}: {}{}", ran.out, ran.err);
        ran.err
    }

    /// Runs a script of Python, which must succeed; gives what it printed.
    ///
    /// # Panics
    /// When it fails, with what it said.
    pub async fn python(&self, interpreter: &Path, script: &str, arguments: &[&str]) -> String {
        let mut command = self.command(interpreter);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script)).args(arguments);
        let ran = self.run(command, b"").await;
        assert_eq!(ran.code, 0, "{script}: {}{}", ran.out, ran.err);
        ran.out
    }
}
