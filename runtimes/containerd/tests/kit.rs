//! The runtime kit over a containerd of its own: needs root, containerd, runc and the CNI plugins, nothing from the network.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use wharf_conformance::runtime::{self, RuntimeHarness};
use wharf_conformance::system::containerd::{Containerd, ContainerdError, Options};
use wharf_conformance::{Harness, test_main};
use wharf_core::clock::SystemClock;
use wharf_core::runtime::{ImageSpec, RuntimeResult, SharedRuntime};
use wharf_core::testing::omit;
use wharf_runtime_containerd::{ContainerdOptions, ContainerdRuntime};

/// Far beyond what a case takes; one that reaches it has hung.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what containerd does in its own time.
const POLL: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|word| word == common::DEMO) {
        return common::demo(&arguments[2..]);
    }
    if arguments.iter().any(|word| word == "--list") {
        return test_main(runtime::cases(), &Cri { containerd: None, owners: AtomicU32::new(0), owner: Mutex::default() });
    }
    let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let containerd = match executor.block_on(Containerd::start(Options::default())) {
        Ok(containerd) => containerd,
        Err(ContainerdError::Missing(what)) => {
            omit("runtime", &what);
            return ExitCode::SUCCESS;
        }
        Err(e) => panic!("{e}"),
    };
    let harness = Cri { containerd: Some(containerd), owners: AtomicU32::new(0), owner: Mutex::default() };
    let code = test_main(runtime::cases(), &harness);
    if code != ExitCode::SUCCESS {
        eprintln!("{}", harness.containerd().log());
    }
    code
}

struct Cri {
    /// `None` where the cases are but listed.
    containerd: Option<Containerd>,
    /// Numbers the cases: each has an owner of its own, and so sees nothing of the others.
    owners: AtomicU32,
    owner: Mutex<String>,
}

impl Cri {
    fn containerd(&self) -> &Containerd {
        self.containerd.as_ref().unwrap()
    }

    async fn connect(&self) -> SharedRuntime {
        let owner = self.owner.lock().clone();
        let endpoint = self.containerd().endpoint();
        Arc::new(ContainerdRuntime::connect(&endpoint, ContainerdOptions::new(owner), SystemClock::shared()).await.unwrap())
    }
}

impl Harness for Cri {
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[async_trait]
impl RuntimeHarness for Cri {
    async fn runtime(&self) -> SharedRuntime {
        *self.owner.lock() = format!("kit-{}", self.owners.fetch_add(1, Ordering::Relaxed));
        self.connect().await
    }
    async fn restart(&self, runtime: SharedRuntime) -> Option<SharedRuntime> {
        drop(runtime);
        Some(self.connect().await)
    }
    fn image(&self) -> String {
        common::IMAGE.into()
    }
    async fn provide_image(&self, runtime: &SharedRuntime) -> RuntimeResult<()> {
        let spec = ImageSpec::new(common::IMAGE);
        if runtime.image_status(&spec).await?.is_none() {
            let archive = self.containerd().directory().join("conformance.tar");
            if !archive.exists() {
                common::image().write_archive(&archive).unwrap();
            }
            self.containerd().import(&archive).await.unwrap();
        }
        // containerd tells its CRI service of an import, and counts the space, in its own time.
        while runtime.image_status(&spec).await?.is_none() || runtime.image_fs_info().await?.used_bytes == 0 {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
    fn image_can_be_pulled(&self) -> bool {
        false
    }
    /// Nobody listens on this port.
    fn missing_image(&self) -> Option<String> {
        Some("127.0.0.1:1/does-not-exist:v1".into())
    }
    fn sleep(&self) -> Vec<String> {
        common::command(&["sleep"])
    }
    fn ignore_sigterm(&self) -> Option<Vec<String>> {
        Some(common::command(&["ignore"]))
    }
    fn exit(&self, code: i32) -> Option<Vec<String>> {
        Some(common::command(&["exit", &code.to_string()]))
    }
    fn print(&self, stdout: &str, stderr: &str) -> Option<Vec<String>> {
        Some(common::command(&["print", stdout, stderr]))
    }
    fn cat(&self) -> Option<Vec<String>> {
        Some(common::command(&["cat"]))
    }
    fn serve(&self, port: u16, text: &str) -> Option<Vec<String>> {
        Some(common::command(&["serve", &port.to_string(), text]))
    }
    fn missing(&self) -> Option<Vec<String>> {
        Some(vec!["no-such-program".into()])
    }
}
