//! A containerd of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::oci_image::OciImage;

/// The namespace in which CRI looks for images.
const NAMESPACE: &str = "k8s.io";
/// The image that is always there: its program does nothing until it is ended, which takes SIGKILL.
pub const PAUSE_IMAGE: &str = "wharf.local/pause:v1";
const PAUSE: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
/// The last of what containerd says when its CRI service begins to answer.
const READY: &str = "Start streaming server";
/// How often a daemon that starts is looked at.
const STARTING_LOOKS: u32 = 600;
/// Between two looks.
const POLL: Duration = Duration::from_millis(50);
/// How often what is being taken away is looked at.
const LEAVING_LOOKS: u32 = 100;

/// How a [`Containerd`] is set up.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The bridge that pods are on; made by the first, and removed at the end. At most 15 characters.
    pub bridge: String,
    /// The pods' addresses.
    pub subnet: Ipv4Net,
    /// `overlayfs`, or `native` where that cannot be nested.
    pub snapshotter: String,
    /// Where the CNI plugins are.
    pub cni_bin_dir: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        let subnet = [10, 253, (std::process::id() % 256) as u8, 0];
        Self {
            bridge: format!("wct{}", std::process::id()),
            subnet: Ipv4Net::new_assert(subnet.into(), 24),
            snapshotter: "overlayfs".into(),
            cni_bin_dir: "/usr/lib/cni".into(),
        }
    }
}

/// Why no containerd could be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerdError {
    /// This machine lacks something; a test is to be omitted.
    #[error("{0}")]
    Missing(String),
    /// The daemon ended, or did not come up.
    #[error("containerd did not come up; its log ends with:\n{log}")]
    Start {
        /// The end of its log.
        log: String,
    },
    /// A program failed.
    #[error("{program} failed: {message}")]
    Program {
        /// Which.
        program: String,
        /// What it said.
        message: String,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> ContainerdError {
    let what = what.into();
    move |source| ContainerdError::Io { what, source }
}

/// A containerd that nobody else uses: its own folder, socket, network and pause image. Needs root, runc, the CNI plugins and a C
/// compiler; nothing from the network.
///
/// Dropping it ends it with every container, mount and interface of its own, as [`stop`](Containerd::stop) does.
#[derive(Debug)]
pub struct Containerd {
    directory: TempDir,
    options: Options,
    /// `None` once it was killed.
    daemon: Option<Child>,
    /// How much of the log was there before the daemon that runs.
    log_from: u64,
    stopped: bool,
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

async fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> Result<Output, ContainerdError> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(io_error(format!("cannot run {program}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(ContainerdError::Program { program: program.to_string(), message })
}

impl Containerd {
    /// Starts one; on return its CRI service answers and its pause image is there.
    ///
    /// # Errors
    /// [`ContainerdError::Missing`] where this machine cannot have one; else why it did not come up.
    pub async fn start(options: Options) -> Result<Self, ContainerdError> {
        let missing = |what: String| Err(ContainerdError::Missing(what));
        if !nix::unistd::geteuid().is_root() {
            return missing("containerd needs root".into());
        }
        if let Some(program) = ["containerd", "ctr", "runc", "cc", "ip"].into_iter().find(|program| !in_path(program)) {
            return missing(format!("{program} is not installed"));
        }
        if let Some(plugin) = ["bridge", "host-local", "loopback"].into_iter().find(|p| !options.cni_bin_dir.join(p).is_file()) {
            return missing(format!("the CNI plugin {plugin} is not in {}", options.cni_bin_dir.display()));
        }
        // Short, for the sake of socket paths.
        let directory = tempfile::Builder::new().prefix("wc-").tempdir().map_err(io_error("no folder for containerd"))?;
        let mut containerd = Self { directory, options, daemon: None, log_from: 0, stopped: false };
        containerd.write_configuration().map_err(io_error("containerd's configuration"))?;
        containerd.start_again().await?;
        let pause = containerd.make_pause().await?;
        containerd.import(&pause).await?;
        Ok(containerd)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The CRI socket: `unix:///...`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The folder with all it has, which goes with it.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }

    fn write_configuration(&self) -> io::Result<()> {
        let directory = self.directory.path().display();
        let Options { bridge, subnet, snapshotter, cni_bin_dir } = &self.options;
        let cni_bin_dir = cni_bin_dir.display();
        let cri = r#"plugins."io.containerd.grpc.v1.cri""#;
        let configuration = format!(
            r#"version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
[{cri}]
sandbox_image = "{PAUSE_IMAGE}"
stream_server_address = "127.0.0.1"
stream_server_port = "0"
stats_collect_period = 1
netns_mounts_under_state_dir = true
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "{cni_bin_dir}"
conf_dir = "{directory}/cni"
[{cri}.containerd]
snapshotter = "{snapshotter}"
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
Root = "{directory}/runc"
"#
        );
        let network = serde_json::json!({
            "cniVersion": "0.4.0", "name": bridge, "plugins": [{
                "type": "bridge", "bridge": bridge, "isGateway": true, "ipMasq": false, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": format!("{directory}/ipam"),
                    "ranges": [[{ "subnet": subnet.to_string() }]], "routes": [{ "dst": "0.0.0.0/0" }],
                },
            }],
        });
        fs::write(self.path("config.toml"), configuration)?;
        fs::create_dir_all(self.path("cni"))?;
        fs::write(self.path("cni/10-wharf.conflist"), network.to_string())
    }

    async fn make_pause(&self) -> Result<PathBuf, ContainerdError> {
        let (source, program, archive) = (self.path("pause.c"), self.path("pause"), self.path("pause.tar"));
        fs::write(&source, PAUSE).map_err(io_error("the pause program"))?;
        run("cc", [OsStr::new("-static"), OsStr::new("-Os"), OsStr::new("-o"), program.as_os_str(), source.as_os_str()]).await?;
        let image = OciImage {
            reference: PAUSE_IMAGE.into(),
            files: vec![("pause".into(), program)],
            entrypoint: vec!["/pause".into()],
            cmd: Vec::new(),
        };
        image.write_archive(&archive).map_err(io_error("the pause image"))?;
        Ok(archive)
    }

    /// Starts the daemon over what is there, unless it runs; on return its CRI service answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn start_again(&mut self) -> Result<(), ContainerdError> {
        if self.daemon.is_some() {
            return Ok(());
        }
        let log = self.path("log");
        let file = File::options().create(true).append(true).open(&log).map_err(io_error("containerd's log"))?;
        self.log_from = file.metadata().map(|m| m.len()).unwrap_or_default();
        let stderr = file.try_clone().map_err(io_error("containerd's log"))?;
        let mut command = Command::new("containerd");
        command.arg("--config").arg(self.path("config.toml")).stdin(Stdio::null()).stdout(file).stderr(stderr);
        self.daemon = Some(command.spawn().map_err(io_error("cannot run containerd"))?);
        for _ in 0..STARTING_LOOKS {
            let ended = self.daemon.as_mut().is_some_and(|daemon| !matches!(daemon.try_wait(), Ok(None)));
            if ended {
                self.daemon = None;
                break;
            }
            if self.log().contains(READY) && std::os::unix::net::UnixStream::connect(self.socket()).is_ok() {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        Err(ContainerdError::Start { log: lines[lines.len().saturating_sub(20)..].join("\n") })
    }

    /// What the daemon has logged since it was started last.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.path("log")).unwrap_or_default();
        let from = usize::try_from(self.log_from).unwrap_or_default().min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// Kills the daemon as a crash would: containers and their shims go on.
    pub fn kill(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // One that has ended by itself is as dead.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Imports images from an archive such as [`OciImage::write_archive`] writes. The CRI service learns of them a moment later.
    ///
    /// # Errors
    /// When `ctr` fails.
    pub async fn import(&self, archive: &Path) -> Result<(), ContainerdError> {
        let (socket, archive) = (self.socket(), archive.as_os_str());
        let words = ["-n", NAMESPACE, "images", "import", "--snapshotter", &self.options.snapshotter].map(OsStr::new);
        let address = [OsStr::new("--address"), socket.as_os_str()];
        run("ctr", address.into_iter().chain(words).chain([archive])).await.map(drop)
    }

    /// Ends it with every container, mount and interface of its own.
    pub async fn stop(mut self) {
        // What it does waits for processes, milliseconds each.
        let _ = tokio::task::spawn_blocking(move || self.end()).await;
    }

    fn end(&mut self) {
        if std::mem::replace(&mut self.stopped, true) {
            return;
        }
        self.kill();
        let shims = shims_of(&self.socket());
        let mut processes: Vec<i32> = shims.iter().flat_map(|shim| descendants(*shim)).collect();
        let cgroups: Vec<PathBuf> = processes.iter().flat_map(|pid| cgroups_of(*pid)).collect();
        processes.extend(&shims);
        // Shims first: one that saw its container die would tell and wait for a daemon.
        for pid in shims.iter().chain(&processes) {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        patiently(|| processes.iter().all(|pid| !alive(*pid)));
        for address in shim_addresses(&self.path("state")) {
            let _ = fs::remove_file(address);
        }
        patiently(|| {
            let mounts = mounts_under(self.directory.path());
            for mount in mounts.iter().rev() {
                let _ = Command::new("umount").arg("-l").arg(mount).stderr(Stdio::null()).status();
            }
            mounts.is_empty()
        });
        // Each as soon as the kernel has taken the last process away.
        patiently(|| cgroups.iter().all(|cgroup| fs::remove_dir(cgroup).is_ok() || !cgroup.exists()));
        let _ = Command::new("ip").args(["link", "delete", &self.options.bridge]).stderr(Stdio::null()).status();
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.end();
    }
}

/// Looks until something holds, for a bounded time.
fn patiently(mut holds: impl FnMut() -> bool) {
    for _ in 0..LEAVING_LOOKS {
        if holds() {
            return;
        }
        std::thread::sleep(POLL);
    }
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The shims that serve a daemon: its socket is one of their arguments.
fn shims_of(socket: &Path) -> Vec<i32> {
    let serves = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|program| String::from_utf8_lossy(program).contains("containerd-shim"))
            && words.any(|word| Path::new(String::from_utf8_lossy(word).as_ref()) == socket)
    };
    processes().filter(serves).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    // The name before the closing parenthesis may hold anything.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn descendants(root: i32) -> Vec<i32> {
    let all: Vec<(i32, i32)> = processes().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// The folders of a process' own cgroups, of either version.
fn cgroups_of(pid: i32) -> Vec<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let folder = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let root = Path::new("/sys/fs/cgroup").join(controllers.trim_start_matches("name="));
        (!path.is_empty()).then(|| root.join(path))
    };
    text.lines().filter_map(folder).collect()
}

/// The sockets of the shims, which lie outside of the state.
fn shim_addresses(state: &Path) -> Vec<PathBuf> {
    let tasks = state.join("io.containerd.runtime.v2.task").join(NAMESPACE);
    let bundles = fs::read_dir(tasks).into_iter().flatten().flatten();
    let addresses = bundles.filter_map(|bundle| fs::read_to_string(bundle.path().join("address")).ok());
    addresses.filter_map(|address| Some(PathBuf::from(address.trim().strip_prefix("unix://")?))).collect()
}

/// Mount points in a folder, in the order in which they were mounted.
fn mounts_under(folder: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(folder)).collect()
}
