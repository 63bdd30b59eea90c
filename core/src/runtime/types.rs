//! CRI's messages, with CRI's names.

use std::net::IpAddr;
use std::path::PathBuf;

use jiff::Timestamp;

use super::StringMap;

/// Name and version of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeVersion {
    /// `youki`, `containerd`, `hollow`.
    pub runtime_name: String,
    /// Its version.
    pub runtime_version: String,
}

/// One condition of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeCondition {
    /// `RuntimeReady` or `NetworkReady`.
    pub r#type: String,
    /// Whether it holds.
    pub status: bool,
    /// CamelCase reason when it does not.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// Readiness of a runtime.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuntimeStatus {
    /// Its conditions.
    pub conditions: Vec<RuntimeCondition>,
}

impl RuntimeStatus {
    /// `RuntimeReady` and `NetworkReady` both hold.
    pub fn all_ready() -> Self {
        let ready = |name: &str| RuntimeCondition { r#type: name.into(), status: true, reason: String::new(), message: String::new() };
        Self { conditions: vec![ready("RuntimeReady"), ready("NetworkReady")] }
    }
    /// Whether every condition holds.
    pub fn is_ready(&self) -> bool {
        self.conditions.iter().all(|c| c.status)
    }
}

/// Which pod a sandbox belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct PodSandboxMetadata {
    /// The pod's name.
    pub name: String,
    /// The pod's uid.
    pub uid: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Counts sandboxes of one pod, from 0.
    pub attempt: u32,
}

/// DNS inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct DnsConfig {
    /// Nameserver addresses.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// Transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            other => Err(format!("unknown protocol {other:?}: expected TCP, UDP or SCTP")),
        }
    }
}

/// A port of the sandbox made reachable on the host.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    /// Transport protocol.
    pub protocol: Protocol,
    /// The port inside.
    pub container_port: u16,
    /// The port on the host.
    pub host_port: u16,
    /// The host address to listen on; `None` for all.
    pub host_ip: Option<IpAddr>,
}

/// Where a Linux namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum NamespaceMode {
    /// Shared by the pod.
    #[default]
    Pod,
    /// The container's own.
    Container,
    /// The host's.
    Node,
}

/// Namespaces of a sandbox or container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NamespaceOption {
    /// Network namespace: `Pod` or `Node`.
    pub network: NamespaceMode,
    /// PID namespace.
    pub pid: NamespaceMode,
    /// IPC namespace: `Pod` or `Node`.
    pub ipc: NamespaceMode,
}

impl Default for NamespaceOption {
    fn default() -> Self {
        Self { network: NamespaceMode::Pod, pid: NamespaceMode::Container, ipc: NamespaceMode::Pod }
    }
}

/// What a sandbox is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct PodSandboxConfig {
    /// Which pod.
    pub metadata: PodSandboxMetadata,
    /// The hostname; empty for the host's own (host network).
    pub hostname: String,
    /// Where container logs go; an absolute directory.
    pub log_directory: PathBuf,
    /// Resolver configuration; `None` for the host's.
    pub dns_config: Option<DnsConfig>,
    /// Host ports.
    pub port_mappings: Vec<PortMapping>,
    /// Labels, to filter by.
    pub labels: StringMap,
    /// Annotations, kept and returned as they are.
    pub annotations: StringMap,
    /// The parent cgroup of all its containers, such as `/wharf/pod<uid>`; empty for the runtime's choice.
    pub cgroup_parent: String,
    /// Namespaces.
    pub namespace_options: NamespaceOption,
    /// Kernel parameters.
    pub sysctls: StringMap,
}

/// State of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodSandboxState {
    /// Up, containers can be created.
    Ready,
    /// Stopped or broken.
    NotReady,
}

/// A sandbox in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSandbox {
    /// Its id.
    pub id: String,
    /// Which pod.
    pub metadata: PodSandboxMetadata,
    /// Its state.
    pub state: PodSandboxState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
    /// The handler it runs on.
    pub runtime_handler: String,
}

/// A sandbox in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSandboxStatus {
    /// What a list tells.
    pub sandbox: PodSandbox,
    /// The pod's addresses, the primary first; empty with the host's network.
    pub ips: Vec<IpAddr>,
    /// The configuration it was made from.
    pub config: PodSandboxConfig,
}

impl PodSandboxStatus {
    /// A sandbox that is up, without addresses yet.
    pub fn ready(id: impl Into<String>, config: &PodSandboxConfig, runtime_handler: impl Into<String>, created_at: Timestamp) -> Self {
        let sandbox = PodSandbox {
            id: id.into(),
            metadata: config.metadata.clone(),
            state: PodSandboxState::Ready,
            created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: runtime_handler.into(),
        };
        Self { sandbox, ips: Vec::new(), config: config.clone() }
    }
}

/// Which sandboxes to list. Every given field must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodSandboxFilter {
    /// By id.
    pub id: Option<String>,
    /// By state.
    pub state: Option<PodSandboxState>,
    /// By labels, each of which must be equal.
    pub label_selector: StringMap,
}

fn selects(selector: &StringMap, labels: &StringMap) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl PodSandboxFilter {
    /// Whether a sandbox is to be listed.
    pub fn matches(&self, sandbox: &PodSandbox) -> bool {
        self.id.as_ref().is_none_or(|id| *id == sandbox.id)
            && self.state.is_none_or(|state| state == sandbox.state)
            && selects(&self.label_selector, &sandbox.labels)
    }
}

/// Which container of a pod this is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct ContainerMetadata {
    /// The container's name in the pod.
    pub name: String,
    /// Counts restarts, from 0.
    pub attempt: u32,
}

/// A reference to an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ImageSpec {
    /// The reference, as written by the user or as returned by a pull.
    pub image: String,
    /// The handler of the pod that the image is for; empty for the default. A runtime with one store for all ignores it.
    #[serde(default)]
    pub runtime_handler: String,
}

impl ImageSpec {
    /// A reference.
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: image.into(), runtime_handler: String::new() }
    }
    /// The same image, for pods of a handler.
    pub fn for_handler(mut self, runtime_handler: impl Into<String>) -> Self {
        self.runtime_handler = runtime_handler.into();
        self
    }
}

/// Credentials for a registry.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct AuthConfig {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// A registry token, instead of the two.
    pub registry_token: String,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How mounts travel between container and host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum MountPropagation {
    /// None.
    #[default]
    Private,
    /// Host to container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// A mount of a host path.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Where in the container.
    pub container_path: String,
    /// What on the host.
    pub host_path: PathBuf,
    /// Whether it cannot be written.
    pub readonly: bool,
    /// Propagation.
    pub propagation: MountPropagation,
}

/// Limits. Zero means none.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LinuxContainerResources {
    /// CFS period in microseconds.
    pub cpu_period: i64,
    /// CFS quota in microseconds a period.
    pub cpu_quota: i64,
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Memory limit in bytes.
    pub memory_limit_in_bytes: i64,
    /// Adjustment of the OOM killer's score, -1000 to 1000.
    pub oom_score_adj: i64,
    /// Most processes and threads.
    pub pids_limit: i64,
    /// Cores, as `0-2,4`; empty for all.
    pub cpuset_cpus: String,
}

/// Security settings of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LinuxContainerSecurityContext {
    /// All capabilities and devices.
    pub privileged: bool,
    /// Capabilities to add, without `CAP_`; `ALL` for all.
    pub add_capabilities: Vec<String>,
    /// Capabilities to drop.
    pub drop_capabilities: Vec<String>,
    /// The user; `None` for the image's.
    pub run_as_user: Option<i64>,
    /// The group.
    pub run_as_group: Option<i64>,
    /// Further groups.
    pub supplemental_groups: Vec<i64>,
    /// Whether the root file system cannot be written.
    pub readonly_rootfs: bool,
    /// Whether execve can gain no privilege.
    pub no_new_privs: bool,
    /// Paths hidden from the container; `None` for the default list.
    pub masked_paths: Option<Vec<String>>,
    /// Paths that cannot be written; `None` for the default list.
    pub readonly_paths: Option<Vec<String>>,
    /// Namespaces.
    pub namespace_options: NamespaceOption,
}

/// What a container is made from.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ContainerConfig {
    /// Which container.
    pub metadata: ContainerMetadata,
    /// The image, by a reference that is present.
    pub image: ImageSpec,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's cmd when not empty, or when `command` is given.
    pub args: Vec<String>,
    /// Working directory; empty for the image's.
    pub working_dir: String,
    /// Environment, over the image's.
    pub envs: Vec<(String, String)>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Labels, to filter by.
    pub labels: StringMap,
    /// Annotations, kept and returned as they are.
    pub annotations: StringMap,
    /// The log file, relative to the sandbox's `log_directory`.
    pub log_path: PathBuf,
    /// Whether standard input stays open.
    pub stdin: bool,
    /// Whether standard input closes after the first attach ends.
    pub stdin_once: bool,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Limits.
    pub resources: LinuxContainerResources,
    /// Security settings.
    pub security_context: LinuxContainerSecurityContext,
    /// The signal to stop it with; `None` for the image's, or SIGTERM.
    pub stop_signal: Option<String>,
}

/// State of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ContainerState {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited,
    /// The runtime lost track of it.
    Unknown,
}

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// The sandbox it is in.
    pub pod_sandbox_id: String,
    /// Which container.
    pub metadata: ContainerMetadata,
    /// The image as asked for.
    pub image: ImageSpec,
    /// The image's id.
    pub image_ref: String,
    /// Its state.
    pub state: ContainerState,
    /// When it was made.
    pub created_at: Timestamp,
    /// Labels.
    pub labels: StringMap,
    /// Annotations.
    pub annotations: StringMap,
}

/// A container in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStatus {
    /// What a list tells.
    pub container: Container,
    /// When its process began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The exit code, once `Exited`.
    pub exit_code: i32,
    /// The signal that ended it, or 0; always 0 where the runtime does not tell, as over CRI.
    pub signal: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`; empty while it runs.
    pub reason: String,
    /// More on the reason.
    pub message: String,
    /// The log file, absolute.
    pub log_path: PathBuf,
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// The process id on the host, 0 if none.
    pub pid: u32,
}

impl ContainerStatus {
    /// A container that was made and not started. `image_ref` is its image's id.
    pub fn created(
        id: impl Into<String>,
        sandbox: &PodSandboxStatus,
        config: &ContainerConfig,
        image_ref: impl Into<String>,
        created_at: Timestamp,
    ) -> Self {
        let container = Container {
            id: id.into(),
            pod_sandbox_id: sandbox.sandbox.id.clone(),
            metadata: config.metadata.clone(),
            image: config.image.clone(),
            image_ref: image_ref.into(),
            state: ContainerState::Created,
            created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        };
        Self {
            container,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            signal: 0,
            reason: String::new(),
            message: String::new(),
            log_path: sandbox.config.log_directory.join(&config.log_path),
            mounts: config.mounts.clone(),
            pid: 0,
        }
    }
}

/// Which containers to list. Every given field must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerFilter {
    /// By id.
    pub id: Option<String>,
    /// By sandbox.
    pub pod_sandbox_id: Option<String>,
    /// By state.
    pub state: Option<ContainerState>,
    /// By labels, each of which must be equal.
    pub label_selector: StringMap,
}

impl ContainerFilter {
    /// The containers of one sandbox.
    pub fn of_sandbox(id: impl Into<String>) -> Self {
        Self { pod_sandbox_id: Some(id.into()), ..Self::default() }
    }
    /// Whether a container is to be listed.
    pub fn matches(&self, container: &Container) -> bool {
        self.id.as_ref().is_none_or(|id| *id == container.id)
            && self.pod_sandbox_id.as_ref().is_none_or(|id| *id == container.pod_sandbox_id)
            && self.state.is_none_or(|state| state == container.state)
            && selects(&self.label_selector, &container.labels)
    }
}

/// What an `exec_sync` gave.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecResult {
    /// Standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// What an exec asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether to open standard input.
    pub stdin: bool,
    /// Whether to return standard output.
    pub stdout: bool,
    /// Whether to return standard error (never with `tty`).
    pub stderr: bool,
    /// Whether to give it a terminal.
    pub tty: bool,
}

/// What an attach asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachRequest {
    /// Whether to write standard input.
    pub stdin: bool,
    /// Whether to read standard output.
    pub stdout: bool,
    /// Whether to read standard error.
    pub stderr: bool,
    /// Whether the container has a terminal.
    pub tty: bool,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TerminalSize {
    /// Columns.
    #[serde(alias = "Width")]
    pub width: u16,
    /// Rows.
    #[serde(alias = "Height")]
    pub height: u16,
}

/// An image that is present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// `sha256:` and the digest of its configuration.
    pub id: String,
    /// `name:tag` references.
    pub repo_tags: Vec<String>,
    /// `name@digest` references.
    pub repo_digests: Vec<String>,
    /// Size in bytes.
    pub size: u64,
    /// The numeric user it runs as, when it names one.
    pub uid: Option<i64>,
    /// The user name it runs as, when it names one.
    pub username: String,
}

/// Space used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilesystemUsage {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Bytes used.
    pub used_bytes: u64,
    /// Inodes used.
    pub inodes_used: u64,
}

/// Resources used by a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerStats {
    /// Its id.
    pub id: String,
    /// Its pod's container name and attempt.
    pub metadata: ContainerMetadata,
    /// Labels.
    pub labels: StringMap,
    /// CPU time used since it began, in nanoseconds.
    pub cpu_usage_core_nano_seconds: u64,
    /// Working set in bytes.
    pub memory_working_set_bytes: u64,
    /// Bytes written to its file system.
    pub writable_layer_used_bytes: u64,
}

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEventType {
    /// Made.
    Created,
    /// Its process began.
    Started,
    /// Its process ended.
    Stopped,
    /// Removed.
    Deleted,
}

/// A hint that a container changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The container, or the sandbox itself.
    pub container_id: String,
    /// Its sandbox.
    pub pod_sandbox_id: String,
    /// The pod's uid.
    pub pod_uid: String,
    /// What happened.
    pub r#type: ContainerEventType,
}
