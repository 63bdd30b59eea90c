//! Real containers, made from this very executable: needs root, cgroups and overlayfs, nothing from the network.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libtest_mimic::{Arguments, Trial};
use sha2::{Digest, Sha256};
use wharf_core::runtime::*;
use wharf_core::testing::omit;
use wharf_runtime_youki::YoukiRuntime;

const IMAGE: &str = "wharf.local/demo:v1";
/// Marks a run of this executable as the program in a container.
const DEMO: &str = "demo-mode";
/// Marks a run as an agent that starts a pod and dies.
const AGENT: &str = "agent-mode";
/// Far beyond what anything here takes, also on an emulated processor; a wait that reaches it has hung.
const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    wharf_runtime_youki::shim_main();
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some(DEMO) => std::process::exit(demo(&arguments[2..])),
        Some(AGENT) => return block_on(agent(Path::new(&arguments[2]))),
        _ => {}
    }
    let mut options = Arguments::from_args();
    if !options.list && nix::unistd::geteuid().is_root() {
        store();
    }
    // Two cores; each case starts several processes.
    options.test_threads = options.test_threads.or(Some(4));
    let cases: Vec<(&str, fn())> = vec![
        ("youki.run.logs_and_exit_code", || run(logs_and_exit_code)),
        ("youki.create.idempotent", || run(idempotent)),
        ("youki.start.missing_executable", || run(missing_executable)),
        ("youki.stop.signal_then_kill", || run(stop_and_kill)),
        ("youki.exec.sync_and_streams", || run(exec)),
        ("youki.exec.terminal", || run(exec_terminal)),
        ("youki.exec.dropped_session_ends_it", || run(exec_dropped)),
        ("youki.attach.stdin", || run(attach)),
        ("youki.attach.terminal", || run(attach_terminal)),
        ("youki.logs.reopen", || run(reopen)),
        ("youki.resources.cgroup", || run(resources)),
        ("youki.resources.oom", || run(oom)),
        ("youki.security.user_and_root", || run(security)),
        ("youki.security.capabilities", || run(capabilities)),
        ("youki.sandbox.namespaces", || run(namespaces)),
        ("youki.sandbox.host_network", || run(host_network)),
        ("youki.sandbox.shared_by_containers", || run(shared)),
        ("youki.port_forward", || run(port_forward)),
        ("youki.stats", || run(stats)),
        ("youki.events", || run(events)),
        ("youki.adopt.new_instance", || run(adopt)),
        ("youki.adopt.after_agent_death", || run(adopt_after_death)),
        ("youki.adopt.dead_shim", || run(dead_shim)),
        ("youki.remove.leaves_nothing", || run(leaves_nothing)),
        ("youki.images.remove_keeps_layers_in_use", || run(image_removal)),
        ("youki.images.pull", || run(pull)),
        ("youki.images.pull_refused", || run(pull_refused)),
        ("youki.parallel.pods", || run(parallel)),
    ];
    let trials = cases
        .into_iter()
        .map(|(name, case)| {
            Trial::test(name, move || {
                if !nix::unistd::geteuid().is_root() {
                    omit(name, "containers need root");
                    return Ok(());
                }
                case();
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&options, trials).exit();
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

fn run<F: Future<Output = ()> + Send + 'static>(case: fn(Fixture) -> F) {
    block_on(async {
        let fixture = Fixture::new().await;
        let runtime = fixture.runtime.clone();
        let (root, _directory) = (fixture.root.clone(), fixture.directory.clone());
        let case = tokio::spawn(tokio::time::timeout(PATIENCE, Box::pin(case(fixture))));
        let result = case.await;
        if !matches!(result, Ok(Ok(()))) {
            // What shims have to say helps to understand a failure.
            for sandbox in std::fs::read_dir(root.join("state/sandboxes")).into_iter().flatten().flatten() {
                eprintln!("{}", std::fs::read_to_string(sandbox.path().join("shim.log")).unwrap_or_default());
            }
        }
        runtime.remove_all().await.unwrap();
        match result {
            Ok(in_time) => in_time.expect("the case hangs"),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    });
}

// ---- the program in the container ----

fn demo(arguments: &[String]) -> i32 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["exit", code] => return code.parse().unwrap(),
        ["say", out, err] => {
            println!("{out}");
            eprintln!("{err}");
            print!("unfinished");
        }
        ["serve"] => block_on(async {
            let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
            println!("serving");
            term.recv().await;
            println!("bye");
            std::process::exit(7);
        }),
        ["hang"] => loop {
            println!("hanging");
            std::thread::sleep(Duration::from_secs(3600));
        },
        ["cat"] => {
            std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap();
        }
        ["lines"] => {
            // A line at a time, so that the test can take its turn.
            for line in std::io::stdin().lines() {
                println!("got {}", line.unwrap());
            }
        }
        ["eat"] => {
            let mut eaten: Vec<Vec<u8>> = Vec::new();
            loop {
                eaten.push(vec![1; 1 << 20]);
                std::hint::black_box(&eaten);
            }
        }
        ["read", path] => match std::fs::read_to_string(path) {
            Ok(text) => print!("{text}"),
            Err(error) => {
                eprintln!("{error}");
                return 1;
            }
        },
        ["write", path] => {
            if let Err(error) = std::fs::write(path, "x") {
                eprintln!("{error}");
                return 1;
            }
        }
        ["env", name] => println!("{}", std::env::var(name).unwrap_or_default()),
        ["link", path] => println!("{}", std::fs::read_link(path).unwrap().display()),
        ["listen", port] => {
            let listener = std::net::TcpListener::bind(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
            println!("listening");
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut bytes = [0; 4];
                stream.read_exact(&mut bytes).unwrap();
                stream.write_all(&bytes).unwrap();
            }
        }
        other => {
            eprintln!("what is {other:?}?");
            return 2;
        }
    }
    0
}

async fn agent(root: &Path) {
    let fixture = Fixture::at(root.to_path_buf(), None).await;
    let (sandbox, container) = fixture.started(&["lines"], |c| c.stdin = true).await;
    println!("{sandbox} {container}");
    // Death without any goodbye.
    nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL).unwrap();
}

// ---- the image ----

fn sha(bytes: &[u8]) -> String {
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
    for (path, text) in
        [("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"), ("etc/group", "app:x:1001:\nextra:x:44:app\n")]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    let layer = tar.into_inner().unwrap();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": { "Entrypoint": ["demo", DEMO], "Cmd": ["exit", "0"], "Env": ["FROM_IMAGE=yes"], "WorkingDir": "/work" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha(&layer))] },
    });
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        std::fs::write(blobs.join(sha(bytes)), bytes).unwrap();
        serde_json::json!({ "digest": format!("sha256:{}", sha(bytes)), "size": bytes.len(), "mediaType": "application/octet-stream" })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2, "config": put(config.to_string().as_bytes()), "layers": [put(&layer)],
    });
    let mut descriptor = put(manifest.to_string().as_bytes());
    descriptor["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": IMAGE });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [descriptor] });
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
}

/// A store with the image, made once: unpacking takes long without optimisation.
fn store() -> &'static Path {
    static STORE: std::sync::LazyLock<tempfile::TempDir> = std::sync::LazyLock::new(|| {
        let directory = tempfile::tempdir().unwrap();
        let (layout, root) = (directory.path().join("layout"), directory.path().join("r"));
        image_layout(&layout);
        let import = async move {
            let runtime = YoukiRuntime::builder(root).build().await.unwrap();
            assert_eq!(runtime.images().import_oci_layout(&layout, None).await.unwrap(), [IMAGE]);
        };
        std::thread::scope(|scope| scope.spawn(|| block_on(import)).join().unwrap());
        directory
    });
    STORE.path()
}

// ---- the fixture ----

struct Fixture {
    runtime: YoukiRuntime,
    root: PathBuf,
    directory: Option<Arc<tempfile::TempDir>>,
}

impl Fixture {
    async fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("wy-").tempdir().unwrap();
        Self::at(directory.path().join("r"), Some(Arc::new(directory))).await
    }

    async fn at(root: PathBuf, directory: Option<Arc<tempfile::TempDir>>) -> Self {
        if !root.exists() {
            std::fs::create_dir_all(&root).unwrap();
            let copied = std::process::Command::new("cp").arg("-al").arg(store().join("r/images")).arg(&root).status().unwrap();
            assert!(copied.success());
        }
        let runtime = YoukiRuntime::builder(&root).build().await.unwrap();
        Self { runtime, root, directory }
    }

    fn sandbox_config(&self, uid: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: PodSandboxMetadata { name: "pod".into(), uid: uid.into(), namespace: "default".into(), attempt: 0 },
            hostname: "pod-host".into(),
            log_directory: self.root.join("logs").join(uid),
            dns_config: Some(DnsConfig { servers: vec!["10.9.8.7".into()], ..DnsConfig::default() }),
            cgroup_parent: format!("/wharf-test/{}", sha(self.root.join(uid).to_str().unwrap().as_bytes())),
            ..PodSandboxConfig::default()
        }
    }

    fn container_config(&self, arguments: &[&str]) -> ContainerConfig {
        ContainerConfig {
            metadata: ContainerMetadata { name: "main".into(), attempt: 0 },
            image: ImageSpec::new(IMAGE),
            args: arguments.iter().map(|a| a.to_string()).collect(),
            log_path: "main.log".into(),
            ..ContainerConfig::default()
        }
    }

    async fn created(&self, arguments: &[&str], change: impl FnOnce(&mut ContainerConfig)) -> (String, String) {
        let config = self.sandbox_config("u1");
        let sandbox = self.runtime.run_pod_sandbox(&config, "").await.unwrap();
        let mut container = self.container_config(arguments);
        change(&mut container);
        let container = self.runtime.create_container(&sandbox, &container, &config).await.unwrap();
        (sandbox, container)
    }

    async fn started(&self, arguments: &[&str], change: impl FnOnce(&mut ContainerConfig)) -> (String, String) {
        let (sandbox, container) = self.created(arguments, change).await;
        self.runtime.start_container(&container).await.unwrap();
        (sandbox, container)
    }

    async fn status(&self, id: &str) -> ContainerStatus {
        self.runtime.container_status(id).await.unwrap()
    }

    /// Looks again until it is so; bounded by the case's patience.
    async fn exited(&self, id: &str) -> ContainerStatus {
        loop {
            let status = self.status(id).await;
            if status.container.state == ContainerState::Exited {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn logs(&self, id: &str) -> String {
        let path = self.status(id).await.log_path;
        std::fs::read_to_string(path).unwrap_or_default()
    }

    async fn logged(&self, id: &str, text: &str) {
        while !self.logs(id).await.contains(text) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn demo(&self, id: &str, arguments: &[&str]) -> ExecResult {
        let mut command = vec!["demo".to_string(), DEMO.to_string()];
        command.extend(arguments.iter().map(|a| a.to_string()));
        self.runtime.exec_sync(id, &command, Duration::ZERO).await.unwrap()
    }

    async fn demo_out(&self, id: &str, arguments: &[&str]) -> String {
        String::from_utf8(self.demo(id, arguments).await.stdout).unwrap()
    }
}

fn demo_request(arguments: &[&str]) -> ExecRequest {
    let mut command = vec!["demo".to_string(), DEMO.to_string()];
    command.extend(arguments.iter().map(|a| a.to_string()));
    ExecRequest { command, stdin: true, stdout: true, stderr: true, tty: false }
}

async fn read_until(receiver: &mut tokio::sync::mpsc::Receiver<Bytes>, text: &str) -> String {
    let mut all = String::new();
    while !all.contains(text) {
        let Some(bytes) = receiver.recv().await else { panic!("{all:?} ended without {text:?}") };
        all.push_str(&String::from_utf8_lossy(&bytes));
    }
    all
}

// ---- the cases ----

async fn logs_and_exit_code(f: Fixture) {
    let (sandbox, container) = f.started(&["say", "to-out", "to-err"], |_| {}).await;
    let status = f.exited(&container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"), "{status:?}");
    assert!(status.started_at.is_some() && status.finished_at.is_some());
    let logs = f.logs(&container).await;
    assert!(logs.contains(" stdout F to-out\n"), "{logs}");
    assert!(logs.contains(" stderr F to-err\n"), "{logs}");
    assert!(logs.contains(" stdout P unfinished\n"), "{logs}");
    let config = f.sandbox_config("u1");
    let mut other = f.container_config(&["exit", "42"]);
    other.metadata.name = "other".into();
    let other = f.runtime.create_container(&sandbox, &other, &config).await.unwrap();
    assert_eq!(f.status(&other).await.container.state, ContainerState::Created);
    f.runtime.start_container(&other).await.unwrap();
    let status = f.exited(&other).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (42, "Error"));
}

async fn idempotent(f: Fixture) {
    let config = f.sandbox_config("u1");
    let (first, second) = tokio::join!(f.runtime.run_pod_sandbox(&config, ""), f.runtime.run_pod_sandbox(&config, ""));
    let sandbox = first.unwrap();
    assert_eq!(sandbox, second.unwrap());
    let container = f.container_config(&["hang"]);
    let (first, second) =
        tokio::join!(f.runtime.create_container(&sandbox, &container, &config), f.runtime.create_container(&sandbox, &container, &config));
    let container = first.unwrap();
    assert_eq!(container, second.unwrap());
    assert_eq!(f.runtime.list_containers(&ContainerFilter::default()).await.unwrap().len(), 1);
    for _ in 0..2 {
        f.runtime.remove_container(&container).await.unwrap();
        f.runtime.stop_container(&container, Duration::ZERO).await.unwrap();
        f.runtime.stop_pod_sandbox(&sandbox).await.unwrap();
    }
    assert_eq!(f.runtime.pod_sandbox_status(&sandbox).await.unwrap().sandbox.state, PodSandboxState::NotReady);
    for _ in 0..2 {
        f.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    }
    assert!(f.runtime.pod_sandbox_status(&sandbox).await.unwrap_err().is_not_found());
}

async fn missing_executable(f: Fixture) {
    let (_, container) = f.created(&[], |c| c.command = vec!["no-such-program".into()]).await;
    let error = f.runtime.start_container(&container).await.unwrap_err();
    let wanted = "exec: \"no-such-program\": executable file not found in $PATH";
    assert!(matches!(&error, RuntimeError::StartFailed { message, .. } if message.contains(wanted)), "{error}");
    let status = f.status(&container).await;
    assert_eq!((status.container.state, status.reason.as_str(), status.exit_code), (ContainerState::Exited, "StartError", 128));
    assert!(status.message.contains(wanted));
}

async fn stop_and_kill(f: Fixture) {
    let (sandbox, gentle) = f.started(&["serve"], |_| {}).await;
    f.logged(&gentle, "serving").await;
    f.runtime.stop_container(&gentle, PATIENCE).await.unwrap();
    let status = f.status(&gentle).await;
    assert_eq!((status.exit_code, status.signal), (7, 0));
    assert!(f.logs(&gentle).await.contains("bye"));
    let mut stubborn = f.container_config(&["hang"]);
    stubborn.metadata.name = "stubborn".into();
    stubborn.log_path = "stubborn.log".into();
    let stubborn = f.runtime.create_container(&sandbox, &stubborn, &f.sandbox_config("u1")).await.unwrap();
    f.runtime.start_container(&stubborn).await.unwrap();
    f.logged(&stubborn, "hanging").await;
    // As PID 1 without a handler it does not feel SIGTERM.
    f.runtime.stop_container(&stubborn, Duration::from_millis(50)).await.unwrap();
    let status = f.status(&stubborn).await;
    assert_eq!((status.exit_code, status.signal), (137, 9));
}

async fn exec(f: Fixture) {
    let (_, container) = f.started(&["hang"], |c| c.envs = vec![("MINE".into(), "here".into())]).await;
    let result = f.demo(&container, &["say", "a", "b"]).await;
    assert_eq!((result.stdout.as_slice(), result.stderr.as_slice(), result.exit_code), (&b"a\nunfinished"[..], &b"b\n"[..], 0));
    assert_eq!(f.demo(&container, &["exit", "3"]).await.exit_code, 3);
    assert_eq!(f.demo_out(&container, &["env", "MINE"]).await, "here\n");
    assert_eq!(f.demo_out(&container, &["env", "FROM_IMAGE"]).await, "yes\n");
    let command = ["demo".to_string(), DEMO.into(), "hang".into()];
    let error = f.runtime.exec_sync(&container, &command, Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
    let error = f.runtime.exec_sync(&container, &["nope".to_string()], Duration::ZERO).await.unwrap_err();
    assert!(error.to_string().contains("exec: \"nope\": executable file not found in $PATH"), "{error}");
    let mut session = f.runtime.exec(&container, &demo_request(&["cat"])).await.unwrap();
    let stdin = session.stdin.take().unwrap();
    stdin.send(Bytes::from_static(b"through\n")).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "through").await;
    drop(stdin);
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);
}

async fn exec_terminal(f: Fixture) {
    let (_, container) = f.started(&["hang"], |_| {}).await;
    let request = ExecRequest { tty: true, stderr: false, ..demo_request(&["lines"]) };
    let mut session = f.runtime.exec(&container, &request).await.unwrap();
    assert!(session.stderr.is_none());
    session.resize.as_ref().unwrap().send(TerminalSize { width: 100, height: 30 }).await.unwrap();
    session.stdin.as_ref().unwrap().send(Bytes::from_static(b"hello\n")).await.unwrap();
    // The terminal echoes, and turns newlines.
    let out = read_until(session.stdout.as_mut().unwrap(), "got hello").await;
    assert!(out.contains("hello\r\n"), "{out:?}");
    session.stdin.as_ref().unwrap().send(Bytes::from_static(b"\x04")).await.unwrap();
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);
}

async fn exec_dropped(f: Fixture) {
    let (_, container) = f.started(&["hang"], |_| {}).await;
    let mut session = f.runtime.exec(&container, &demo_request(&["hang"])).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "hanging").await;
    let cgroup = pids_cgroup(&f.sandbox_config("u1").cgroup_parent, &container);
    assert_eq!(std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap().lines().count(), 2);
    drop(session);
    while std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap().lines().count() > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(f.status(&container).await.container.state, ContainerState::Running);
}

async fn attach(f: Fixture) {
    let (_, container) = f.started(&["lines"], |c| (c.stdin, c.stdin_once) = (true, true)).await;
    let request = AttachRequest { stdin: true, stdout: true, stderr: true, tty: false };
    let mut session = f.runtime.attach(&container, &request).await.unwrap();
    session.stdin.as_ref().unwrap().send(Bytes::from_static(b"one\n")).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got one\n").await;
    let second = AttachRequest { stdin: false, ..request };
    let mut listener = f.runtime.attach(&container, &second).await.unwrap();
    session.stdin.as_ref().unwrap().send(Bytes::from_static(b"two\n")).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got two\n").await;
    read_until(listener.stdout.as_mut().unwrap(), "got two\n").await;
    session.stdin = None;
    assert_eq!(session.exit.await.unwrap().unwrap(), 0);
    assert_eq!(listener.exit.await.unwrap().unwrap(), 0);
    assert!(f.logs(&container).await.contains("got two"));
}

async fn attach_terminal(f: Fixture) {
    let (_, container) = f.started(&["lines"], |c| (c.stdin, c.tty) = (true, true)).await;
    let request = AttachRequest { stdin: true, stdout: true, stderr: false, tty: true };
    let mut session = f.runtime.attach(&container, &request).await.unwrap();
    session.stdin.as_ref().unwrap().send(Bytes::from_static(b"one\n")).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got one\r\n").await;
    drop(session);
    assert_eq!(f.status(&container).await.container.state, ContainerState::Running);
}

async fn reopen(f: Fixture) {
    let (_, container) = f.started(&["lines"], |c| c.stdin = true).await;
    let request = AttachRequest { stdin: true, stdout: true, stderr: false, tty: false };
    let mut session = f.runtime.attach(&container, &request).await.unwrap();
    session.stdin.as_ref().unwrap().send(Bytes::from_static(b"one\n")).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got one").await;
    let path = f.status(&container).await.log_path;
    let rotated = path.with_extension("1");
    std::fs::rename(&path, &rotated).unwrap();
    f.runtime.reopen_container_log(&container).await.unwrap();
    session.stdin.as_ref().unwrap().send(Bytes::from_static(b"two\n")).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got two").await;
    f.logged(&container, "got two").await;
    assert!(std::fs::read_to_string(rotated).unwrap().ends_with("got one\n"));
}

fn controller(name: &str) -> PathBuf {
    let v1 = Path::new("/sys/fs/cgroup").join(name);
    if v1.exists() { v1 } else { "/sys/fs/cgroup".into() }
}

fn pids_cgroup(parent: &str, container: &str) -> PathBuf {
    controller("pids").join(parent.trim_start_matches('/')).join(container)
}

async fn resources(f: Fixture) {
    let (_, container) = f
        .started(&["hang"], |c| {
            c.resources = LinuxContainerResources {
                memory_limit_in_bytes: 256 << 20,
                pids_limit: 77,
                cpu_shares: 512,
                cpu_quota: 50_000,
                cpu_period: 100_000,
                oom_score_adj: 500,
                ..LinuxContainerResources::default()
            }
        })
        .await;
    let pids = pids_cgroup(&f.sandbox_config("u1").cgroup_parent, &container);
    assert_eq!(std::fs::read_to_string(pids.join("pids.max")).unwrap().trim(), "77");
    let memory = controller("memory").join(f.sandbox_config("u1").cgroup_parent.trim_start_matches('/')).join(&container);
    let limit = || {
        let v1 = std::fs::read_to_string(memory.join("memory.limit_in_bytes"));
        v1.or_else(|_| std::fs::read_to_string(memory.join("memory.max"))).unwrap().trim().parse::<u64>().unwrap()
    };
    assert_eq!(limit(), 256 << 20);
    let update = LinuxContainerResources { memory_limit_in_bytes: 300 << 20, ..LinuxContainerResources::default() };
    f.runtime.update_container_resources(&container, &update).await.unwrap();
    assert_eq!(limit(), 300 << 20);
    assert_eq!(f.demo_out(&container, &["read", "/proc/1/oom_score_adj"]).await, "500\n");
}

async fn oom(f: Fixture) {
    let (_, container) = f.started(&["eat"], |c| c.resources.memory_limit_in_bytes = 64 << 20).await;
    let status = f.exited(&container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
}

async fn security(f: Fixture) {
    let (sandbox, container) = f
        .started(&["hang"], |c| {
            c.security_context.run_as_user = Some(1000);
            c.security_context.readonly_rootfs = true;
            c.security_context.no_new_privs = true;
            c.security_context.supplemental_groups = vec![99];
        })
        .await;
    let status = f.demo_out(&container, &["read", "/proc/self/status"]).await;
    assert!(status.contains("Uid:\t1000\t1000\t1000\t1000\nGid:\t1001"), "{status}");
    assert!(status.contains("Groups:\t44 99 1001"), "{status}");
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    let mut root = f.container_config(&["hang"]);
    root.metadata.name = "root".into();
    root.security_context.readonly_rootfs = true;
    let root = f.runtime.create_container(&sandbox, &root, &f.sandbox_config("u1")).await.unwrap();
    f.runtime.start_container(&root).await.unwrap();
    let write = f.demo(&root, &["write", "/file"]).await;
    assert!(String::from_utf8_lossy(&write.stderr).contains("Read-only"), "{write:?}");
    assert_eq!(f.demo(&root, &["write", "/proc/sys/kernel/hostname"]).await.exit_code, 1);
    assert_eq!(f.demo_out(&root, &["read", "/proc/kcore"]).await, "");
}

async fn capabilities(f: Fixture) {
    let (sandbox, plain) = f.started(&["hang"], |_| {}).await;
    let status = f.demo_out(&plain, &["read", "/proc/1/status"]).await;
    // Version 2 has no device rules here, so what would make devices is not given.
    let pure_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let effective = if pure_v2 { "CapEff:\t00000000a00425fb" } else { "CapEff:\t00000000a80425fb" };
    assert!(status.contains(effective), "{status}");
    let mut privileged = f.container_config(&["hang"]);
    privileged.metadata.name = "privileged".into();
    privileged.security_context.privileged = true;
    let privileged = f.runtime.create_container(&sandbox, &privileged, &f.sandbox_config("u1")).await.unwrap();
    f.runtime.start_container(&privileged).await.unwrap();
    let status = f.demo_out(&privileged, &["read", "/proc/1/status"]).await;
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounding = own.lines().find_map(|l| l.strip_prefix("CapBnd:")).unwrap();
    assert!(status.contains(&format!("CapEff:{bounding}")), "{status}");
}

async fn namespaces(f: Fixture) {
    let mount = f.root.join("mounted");
    std::fs::write(&mount, "from the host").unwrap();
    let (_, container) = f
        .started(&["hang"], |c| {
            c.mounts = vec![Mount { container_path: "/in/file".into(), host_path: mount, readonly: true, ..Mount::default() }]
        })
        .await;
    assert_eq!(f.demo_out(&container, &["read", "/proc/sys/kernel/hostname"]).await, "pod-host\n");
    assert_eq!(f.demo_out(&container, &["read", "/etc/hostname"]).await, "pod-host\n");
    assert_eq!(f.demo_out(&container, &["read", "/etc/resolv.conf"]).await, "nameserver 10.9.8.7\n");
    assert_eq!(f.demo_out(&container, &["read", "/in/file"]).await, "from the host");
    assert_eq!(f.demo(&container, &["write", "/in/file"]).await.exit_code, 1);
    let cgroup = f.demo_out(&container, &["read", "/proc/self/cgroup"]).await;
    assert!(!cgroup.contains("wharf-test"), "{cgroup}");
    assert_eq!(f.demo(&container, &["write", "/dev/shm/x"]).await.exit_code, 0);
    assert_eq!(f.demo_out(&container, &["link", "/proc/self/cwd"]).await, "/work\n");
    let network = f.demo_out(&container, &["link", "/proc/self/ns/net"]).await;
    assert_ne!(network.trim(), std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
    let interfaces = f.demo_out(&container, &["read", "/proc/net/dev"]).await;
    assert!(interfaces.contains("lo:"), "{interfaces}");
    // The executable of the container's first process is the image's, not a way to ours.
    assert_eq!(f.demo_out(&container, &["link", "/proc/1/exe"]).await, "/bin/demo\n");
}

async fn host_network(f: Fixture) {
    let mut config = f.sandbox_config("u1");
    config.namespace_options.network = NamespaceMode::Node;
    let sandbox = f.runtime.run_pod_sandbox(&config, "").await.unwrap();
    let container = f.runtime.create_container(&sandbox, &f.container_config(&["hang"]), &config).await.unwrap();
    f.runtime.start_container(&container).await.unwrap();
    let network = f.demo_out(&container, &["link", "/proc/self/ns/net"]).await;
    assert_eq!(network.trim(), std::fs::read_link("/proc/self/ns/net").unwrap().to_str().unwrap());
}

async fn shared(f: Fixture) {
    let (sandbox, server) = f.started(&["listen", "8123"], |_| {}).await;
    f.logged(&server, "listening").await;
    let mut other = f.container_config(&["hang"]);
    other.metadata.name = "other".into();
    let other = f.runtime.create_container(&sandbox, &other, &f.sandbox_config("u1")).await.unwrap();
    f.runtime.start_container(&other).await.unwrap();
    for namespace in ["net", "ipc", "uts"] {
        let path = format!("/proc/self/ns/{namespace}");
        assert_eq!(f.demo_out(&server, &["link", &path]).await, f.demo_out(&other, &["link", &path]).await);
    }
    assert_ne!(f.demo_out(&server, &["link", "/proc/self/ns/pid"]).await, f.demo_out(&other, &["link", "/proc/self/ns/pid"]).await);
}

async fn port_forward(f: Fixture) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (sandbox, container) = f.started(&["listen", "8124"], |_| {}).await;
    f.logged(&container, "listening").await;
    let mut stream = f.runtime.port_forward(&sandbox, 8124).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"ping");
    assert!(f.runtime.port_forward(&sandbox, 9).await.is_err());
}

async fn stats(f: Fixture) {
    let (_, container) = f.started(&["hang"], |_| {}).await;
    f.logged(&container, "hanging").await;
    let stats = f.runtime.list_container_stats(&ContainerFilter::default()).await.unwrap();
    assert_eq!(stats.len(), 1);
    assert_eq!(stats[0].id, container);
    assert!(stats[0].cpu_usage_core_nano_seconds > 0 && stats[0].memory_working_set_bytes > 0, "{stats:?}");
}

async fn events(f: Fixture) {
    use futures::StreamExt;
    let mut events = f.runtime.events().await.unwrap();
    let (_, container) = f.started(&["exit", "0"], |_| {}).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let event = events.next().await.unwrap();
        assert_eq!((event.container_id.as_str(), event.pod_uid.as_str()), (container.as_str(), "u1"));
        seen.push(event.r#type);
    }
    assert!(seen.contains(&ContainerEventType::Created) && seen.contains(&ContainerEventType::Stopped), "{seen:?}");
}

async fn adopt(f: Fixture) {
    let (sandbox, container) = f.started(&["lines"], |c| c.stdin = true).await;
    let root = f.root.clone();
    let before = f.status(&container).await;
    let again = Fixture::at(root, None).await;
    let sandboxes = again.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap();
    assert_eq!(sandboxes.iter().map(|s| (s.id.as_str(), s.state)).collect::<Vec<_>>(), [(sandbox.as_str(), PodSandboxState::Ready)]);
    assert_eq!(again.status(&container).await, before);
    again.runtime.remove_all().await.unwrap();
}

async fn adopt_after_death(f: Fixture) {
    let root = f.root.join("second");
    let output = tokio::process::Command::new("/proc/self/exe").args([AGENT, root.to_str().unwrap()]).output().await.unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(output.status.signal(), Some(9), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (sandbox, container) = text.trim().split_once(' ').unwrap();
    let again = Fixture::at(root, None).await;
    let status = again.status(container).await;
    assert_eq!(status.container.state, ContainerState::Running);
    assert_eq!(status.container.pod_sandbox_id, sandbox);
    // It is not only there, it can be worked with.
    let request = AttachRequest { stdin: true, stdout: true, stderr: false, tty: false };
    let mut session = again.runtime.attach(container, &request).await.unwrap();
    session.stdin.as_ref().unwrap().send(Bytes::from_static(b"still here\n")).await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), "got still here").await;
    assert_eq!(again.demo(container, &["exit", "5"]).await.exit_code, 5);
    again.runtime.stop_container(container, Duration::ZERO).await.unwrap();
    assert_eq!(again.status(container).await.exit_code, 137);
    again.runtime.remove_all().await.unwrap();
}

async fn dead_shim(f: Fixture) {
    let (sandbox, container) = f.started(&["hang"], |_| {}).await;
    let directory = f.root.join("state/sandboxes").join(&sandbox);
    let shim: i32 = std::fs::read_to_string(directory.join("shim.lock")).unwrap().trim().parse().unwrap();
    let pid = f.status(&container).await.pid;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::Signal::SIGKILL).unwrap();
    let status = f.exited(&container).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
    assert!(status.message.contains("shim died"));
    assert_eq!(f.runtime.pod_sandbox_status(&sandbox).await.unwrap().sandbox.state, PodSandboxState::NotReady);
    // Its process is gone, or a zombie that waits for the machine's init.
    let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).map(|s| s.rsplit_once(") ").map(|(_, r)| r.starts_with('Z')));
    while matches!(state(), Ok(Some(false))) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    f.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(!directory.exists());
}

async fn leaves_nothing(f: Fixture) {
    let (sandbox, container) = f.started(&["hang"], |_| {}).await;
    let directory = f.root.join("state/sandboxes").join(&sandbox);
    let shim = std::fs::read_to_string(directory.join("shim.lock")).unwrap();
    let pid = f.status(&container).await.pid;
    let cgroup = pids_cgroup(&f.sandbox_config("u1").cgroup_parent, "");
    assert!(cgroup.exists() && Path::new(&format!("/proc/{pid}")).exists());
    f.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
    assert!(!directory.exists());
    assert!(!cgroup.exists());
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(f.root.to_str().unwrap()), "{mounts}");
    // The kernel lets a lock go a moment before the process is reaped.
    while Path::new(&format!("/proc/{}", shim.trim())).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn image_removal(f: Fixture) {
    let (_, container) = f.created(&["exit", "0"], |_| {}).await;
    let image = f.runtime.image_status(&ImageSpec::new(IMAGE)).await.unwrap().unwrap();
    assert_eq!(image.repo_tags, [IMAGE]);
    f.runtime.remove_image(&ImageSpec::new(IMAGE)).await.unwrap();
    assert!(f.runtime.image_status(&ImageSpec::new(IMAGE)).await.unwrap().is_none());
    f.runtime.start_container(&container).await.unwrap();
    assert_eq!(f.exited(&container).await.exit_code, 0);
    f.runtime.remove_image(&ImageSpec::new(IMAGE)).await.unwrap();
}

/// A registry that serves one small image, and counts requests for its layer. With `broken` the layer is another.
async fn registry(broken: bool) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(2);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    tar.append_data(&mut header, "file", &b"hi"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let layer = gzip.finish().unwrap();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": { "User": "7", "Cmd": ["/file"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha(&tar))] },
    });
    let config = config.to_string().into_bytes();
    let descriptor = |kind: &str, bytes: &[u8]| serde_json::json!({ "mediaType": kind, "digest": format!("sha256:{}", sha(bytes)), "size": bytes.len() });
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let (config_path, layer_path) = (format!("blobs/sha256:{}", sha(&config)), format!("blobs/sha256:{}", sha(&layer)));
    let layer = if broken { b"not it".to_vec() } else { layer };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let fetched = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = fetched.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let path = head.split(' ').nth(1).unwrap();
            let (status, kind, body): (&str, &str, &[u8]) = if path == "/v2/" {
                ("200 OK", "application/json", b"{}")
            } else if path.ends_with("/app/manifests/v1") {
                ("200 OK", "application/vnd.oci.image.manifest.v1+json", &manifest)
            } else if path.ends_with(&config_path) {
                ("200 OK", "application/octet-stream", &config)
            } else if path.ends_with(&layer_path) {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                ("200 OK", "application/octet-stream", &layer)
            } else {
                ("404 Not Found", "application/json", b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"manifest unknown\"}]}")
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(body).await.unwrap();
        }
    });
    (address, fetched)
}

async fn pull(f: Fixture) {
    let (address, fetched) = registry(false).await;
    let image = ImageSpec::new(format!("{address}/app:v1"));
    let (first, second) = tokio::join!(f.runtime.pull_image(&image, None), f.runtime.pull_image(&image, None));
    let id = first.unwrap();
    assert_eq!(id, second.unwrap());
    assert_eq!(fetched.load(std::sync::atomic::Ordering::Relaxed), 1);
    let pulled = f.runtime.image_status(&ImageSpec::new(&id)).await.unwrap().unwrap();
    assert_eq!((pulled.repo_tags.as_slice(), pulled.uid), (&[format!("{address}/app:v1")][..], Some(7)));
    assert!(pulled.repo_digests[0].starts_with(&format!("{address}/app@sha256:")));
    assert_eq!(std::fs::read_dir(f.root.join("images/tmp")).unwrap().count(), 0);
}

async fn pull_refused(f: Fixture) {
    let (address, _) = registry(true).await;
    for (name, says) in [("other:v1", "manifest unknown"), ("app:v1", "sha256")] {
        let image = format!("{address}/{name}");
        let error = f.runtime.pull_image(&ImageSpec::new(&image), None).await.unwrap_err();
        assert!(matches!(&error, RuntimeError::PullFailed { message, .. } if message.contains(says)), "{error}");
        assert!(f.runtime.image_status(&ImageSpec::new(&image)).await.unwrap().is_none());
    }
    let error = f.runtime.pull_image(&ImageSpec::new("localhost:1/a:v1"), None).await.unwrap_err();
    assert!(matches!(&error, RuntimeError::PullFailed { retry: Retry::Transient, .. }), "{error}");
    assert_eq!(std::fs::read_dir(f.root.join("images/tmp")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(f.root.join("images/layers")).unwrap().count(), 1);
}

async fn parallel(f: Fixture) {
    let begun = std::time::Instant::now();
    let (sandbox, _) = f.started(&["hang"], |_| {}).await;
    println!("a pod running after {:?}", begun.elapsed());
    let shim = std::fs::read_to_string(f.root.join("state/sandboxes").join(sandbox).join("shim.lock")).unwrap();
    let memory = std::fs::read_to_string(format!("/proc/{}/status", shim.trim())).unwrap();
    println!("its shim: {:?}", memory.lines().filter(|l| l.starts_with("Rss")).collect::<Vec<_>>());
    const PODS: usize = 8;
    let begun = std::time::Instant::now();
    let pods = (0..PODS).map(|n| {
        let f = &f;
        async move {
            let config = f.sandbox_config(&format!("n{n}"));
            let sandbox = f.runtime.run_pod_sandbox(&config, "").await.unwrap();
            let container = f.runtime.create_container(&sandbox, &f.container_config(&["hang"]), &config).await.unwrap();
            f.runtime.start_container(&container).await.unwrap();
            assert_eq!(f.status(&container).await.container.state, ContainerState::Running);
        }
    });
    futures::future::join_all(pods).await;
    println!("{PODS} pods running after {:?}", begun.elapsed());
    assert_eq!(f.runtime.list_pod_sandbox(&PodSandboxFilter::default()).await.unwrap().len(), PODS + 1);
}
