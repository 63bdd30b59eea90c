//! The runtime kit over real containers, made from this very executable: needs root, cgroups and overlayfs, nothing
//! from the network.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nix::sys::signal::{SigSet, Signal};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use wharf_conformance::runtime::{self, RuntimeHarness};
use wharf_conformance::{Harness, test_main};
use wharf_core::runtime::{
    PodNetwork, PodNetworkConfig, PodNetworkError, PodNetworkStatus, PodSandboxConfig, RuntimeResult, SharedRuntime,
};
use wharf_core::testing::omit;
use wharf_runtime_youki::YoukiRuntime;

const IMAGE: &str = "wharf.local/conformance:v1";
/// Marks a run of this executable as the program in a container.
const DEMO: &str = "demo-mode";
/// Far beyond what a case takes; one that reaches it has hung.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    wharf_runtime_youki::shim_main();
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|word| word == DEMO) {
        return demo(&arguments[2..]);
    }
    let listing = arguments.iter().any(|word| word == "--list");
    if !listing && !nix::unistd::geteuid().is_root() {
        omit("runtime", "containers need root");
        return ExitCode::SUCCESS;
    }
    let youki = Youki::default();
    let code = test_main(runtime::cases(), &youki);
    youki.leave_nothing();
    code
}

// ---- the program in the container ----

fn demo(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap()),
        ["print", stdout, stderr] => {
            println!("{stdout}");
            eprintln!("{stderr}");
        }
        ["sleep"] => wait_for(Signal::SIGTERM),
        // Blocked and never taken, which is what ignoring comes to.
        ["ignore"] => {
            SigSet::from(Signal::SIGTERM).thread_block().unwrap();
            wait_for(Signal::SIGUSR1);
        }
        ["cat"] => {
            // Without the line buffer of standard output: what came in goes out at once.
            let mut stdout = std::fs::File::from(std::os::fd::AsFd::as_fd(&std::io::stdout()).try_clone_to_owned().unwrap());
            std::io::copy(&mut std::io::stdin(), &mut stdout).unwrap();
        }
        ["serve", port, text] => {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse::<u16>().unwrap())).unwrap();
            for stream in listener.incoming() {
                stream.unwrap().write_all(text.as_bytes()).unwrap();
            }
        }
        ref other => {
            eprintln!("what is {other:?}?");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The first process of a PID namespace gets no signal it has no handler for, but one it has blocked stays pending.
fn wait_for(signal: Signal) {
    let set = SigSet::from(signal);
    set.thread_block().unwrap();
    set.wait().unwrap();
}

// ---- the image ----

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Packs this executable and the libraries it has loaded as an OCI layout.
fn image_layout(directory: &Path) {
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(true);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut libraries: Vec<&str> = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).filter(|p| p.contains(".so")).collect();
    libraries.dedup();
    for library in libraries {
        tar.append_path_with_name(library, library.trim_start_matches('/')).unwrap();
    }
    for loader in ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1", "lib/ld-musl-x86_64.so.1"] {
        let path = Path::new("/").join(loader);
        if path.exists() {
            tar.append_path_with_name(path, loader).unwrap();
        }
    }
    tar.append_path_with_name("/proc/self/exe", "bin/demo").unwrap();
    let layer = tar.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": { "Entrypoint": ["demo", DEMO], "Cmd": ["exit", "0"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))] },
    });
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        std::fs::write(blobs.join(digest(bytes)), bytes).unwrap();
        serde_json::json!({ "digest": format!("sha256:{}", digest(bytes)), "size": bytes.len(), "mediaType": "application/octet-stream" })
    };
    let manifest = serde_json::json!({ "schemaVersion": 2, "config": put(config.to_string().as_bytes()), "layers": [put(&layer)] });
    let mut descriptor = put(manifest.to_string().as_bytes());
    descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": IMAGE });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

// ---- the network ----

/// Gives addresses and no interfaces: the kit asks for different ones, and reaches ports over loopback.
#[derive(Debug, Default)]
struct Addresses {
    given: Mutex<BTreeMap<String, IpAddr>>,
}

#[async_trait]
impl PodNetwork for Addresses {
    async fn setup(&self, config: &PodNetworkConfig) -> Result<PodNetworkStatus, PodNetworkError> {
        let mut given = self.given.lock();
        let free = (1..=u8::MAX).map(|n| IpAddr::from([192, 0, 2, n])).find(|ip| given.values().all(|other| other != ip));
        let used = given.len();
        let ip = match given.get(&config.sandbox_id).copied().or(free) {
            Some(ip) => ip,
            None => return Err(PodNetworkError::Exhausted { range: "192.0.2.0/24".into(), used }),
        };
        given.insert(config.sandbox_id.clone(), ip);
        Ok(PodNetworkStatus { ips: vec![ip] })
    }
    async fn teardown(&self, sandbox_id: &str) -> Result<(), PodNetworkError> {
        self.given.lock().remove(sandbox_id);
        Ok(())
    }
    async fn ready(&self) -> Result<(), PodNetworkError> {
        Ok(())
    }
    async fn shutdown(&self) -> Result<(), PodNetworkError> {
        Ok(())
    }
}

// ---- the harness ----

#[derive(Default)]
struct Youki {
    network: Arc<Addresses>,
    /// A store with the image, unpacked once: that takes long without optimisation.
    store: tokio::sync::OnceCell<TempDir>,
    /// Of each case its directory, the last one's last.
    directories: Mutex<Vec<TempDir>>,
}

fn root_in(directory: &TempDir) -> PathBuf {
    directory.path().join("r")
}

fn command(words: &[&str]) -> Vec<String> {
    ["demo", DEMO].iter().chain(words).map(|word| word.to_string()).collect()
}

impl Youki {
    async fn open(&self, root: PathBuf) -> YoukiRuntime {
        YoukiRuntime::builder(root).network(self.network.clone()).build().await.unwrap()
    }

    async fn images(&self) -> PathBuf {
        let make = || async {
            let directory = tempfile::tempdir().unwrap();
            let layout = directory.path().join("layout");
            image_layout(&layout);
            let imported = self.open(root_in(&directory)).await.images().import_oci_layout(&layout, None).await.unwrap();
            assert_eq!(imported, [IMAGE]);
            directory
        };
        root_in(self.store.get_or_init(make).await).join("images")
    }

    /// Removes what a case that hung has left.
    fn leave_nothing(&self) {
        let executor = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        for directory in self.directories.lock().drain(..) {
            executor.block_on(async { self.open(root_in(&directory)).await.remove_all().await.unwrap() });
        }
    }
}

impl Harness for Youki {
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

#[async_trait]
impl RuntimeHarness for Youki {
    async fn runtime(&self) -> SharedRuntime {
        let images = self.images().await;
        // Short, for the sake of socket paths.
        let directory = tempfile::Builder::new().prefix("wy-").tempdir().unwrap();
        let root = root_in(&directory);
        std::fs::create_dir_all(&root).unwrap();
        assert!(Command::new("cp").arg("-al").arg(images).arg(&root).status().unwrap().success());
        self.directories.lock().push(directory);
        Arc::new(self.open(root).await)
    }
    async fn restart(&self, runtime: SharedRuntime) -> Option<SharedRuntime> {
        drop(runtime);
        let root = root_in(self.directories.lock().last()?);
        Some(Arc::new(self.open(root).await))
    }
    fn image(&self) -> String {
        IMAGE.into()
    }
    /// It came with the store.
    async fn provide_image(&self, _runtime: &SharedRuntime) -> RuntimeResult<()> {
        Ok(())
    }
    fn image_can_be_pulled(&self) -> bool {
        false
    }
    /// Nobody listens on this port.
    fn missing_image(&self) -> Option<String> {
        Some("127.0.0.1:1/does-not-exist:v1".into())
    }
    fn adjust(&self, mut config: PodSandboxConfig) -> PodSandboxConfig {
        config.cgroup_parent = format!("/wharf-conformance-{}/{}", std::process::id(), config.metadata.uid);
        config
    }
    fn sleep(&self) -> Vec<String> {
        command(&["sleep"])
    }
    fn ignore_sigterm(&self) -> Option<Vec<String>> {
        Some(command(&["ignore"]))
    }
    fn exit(&self, code: i32) -> Option<Vec<String>> {
        Some(command(&["exit", &code.to_string()]))
    }
    fn print(&self, stdout: &str, stderr: &str) -> Option<Vec<String>> {
        Some(command(&["print", stdout, stderr]))
    }
    fn cat(&self) -> Option<Vec<String>> {
        Some(command(&["cat"]))
    }
    fn serve(&self, port: u16, text: &str) -> Option<Vec<String>> {
        Some(command(&["serve", &port.to_string(), text]))
    }
    fn missing(&self) -> Option<Vec<String>> {
        Some(vec!["no-such-program".into()])
    }
}
