//! The container runtime seam: CRI's own verbs and words, as Rust traits.
//!
//! [`RuntimeService`] and [`ImageService`] are CRI's two services. [`Runtime`] is both. Types carry CRI's
//! field names, so that an implementation over a CRI socket is a translation and nothing more.

mod log;
mod network;
mod reference;
mod types;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};

pub use log::{CriLog, MAX_LOG_LINE};
pub use network::{PodNetwork, PodNetworkConfig, PodNetworkError, PodNetworkStatus};
pub use reference::{ImageReference, InvalidReference};
pub use types::*;

/// Whether trying the same call again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The fault may pass.
    Transient,
    /// The same call will fail the same way.
    Permanent,
}

/// The cause of a backend failure.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What a runtime call can fail with. Callers branch on the kinds; the rest is [`RuntimeError::Backend`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The sandbox or container is unknown.
    #[error("{kind} {id:?} not found")]
    NotFound {
        /// `sandbox`, `container` or `image`.
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// The request itself is wrong; no retry helps.
    #[error("invalid {field}: {message}")]
    InvalidArgument {
        /// The field at fault, as CRI names it.
        field: &'static str,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The object is in a state that does not allow the call (exec in a container that is not running).
    #[error("{id:?} is {state}, which does not allow {operation}")]
    FailedPrecondition {
        /// The sandbox or container.
        id: String,
        /// Its state.
        state: String,
        /// The refused call.
        operation: &'static str,
    },
    /// The image is not in the image store.
    #[error("image {image:?} not present")]
    ImageNotPresent {
        /// The reference asked for.
        image: String,
    },
    /// The registry does not know the image, or refused us.
    #[error("failed to pull image {image:?}: {message}")]
    PullFailed {
        /// The reference asked for.
        image: String,
        /// The registry's word.
        message: String,
        /// Whether a later pull can succeed.
        retry: Retry,
    },
    /// The container could not be started: no such executable, a working directory that is missing.
    #[error("failed to start container {id:?}: {message}")]
    StartFailed {
        /// The container.
        id: String,
        /// Why, as kubectl users should read it.
        message: String,
    },
    /// The runtime does not offer this; see [`RuntimeService::capabilities`].
    #[error("this runtime does not support {capability}")]
    Unsupported {
        /// The capability that is missing.
        capability: &'static str,
    },
    /// Anything else.
    #[error("{op} failed: {source}")]
    Backend {
        /// The call that failed.
        op: &'static str,
        /// Whether trying again can help.
        retry: Retry,
        /// The cause.
        #[source]
        source: BoxError,
    },
}

impl From<InvalidReference> for RuntimeError {
    fn from(error: InvalidReference) -> Self {
        Self::InvalidArgument { field: "image", message: error.to_string() }
    }
}

impl RuntimeError {
    /// A backend failure that may pass.
    pub fn transient(op: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Backend { op, retry: Retry::Transient, source: source.into() }
    }
    /// A backend failure that will not pass.
    pub fn permanent(op: &'static str, source: impl Into<BoxError>) -> Self {
        Self::Backend { op, retry: Retry::Permanent, source: source.into() }
    }
    /// There is no such `sandbox`, `container` or `image`.
    pub fn not_found(kind: &'static str, id: impl Into<String>) -> Self {
        Self::NotFound { kind, id: id.into() }
    }
    /// The request is wrong; `message` says what would be right.
    pub fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidArgument { field, message: message.into() }
    }
    /// The state of a sandbox or container does not allow an operation.
    pub fn failed_precondition(id: impl Into<String>, state: impl Debug, operation: &'static str) -> Self {
        Self::FailedPrecondition { id: id.into(), state: format!("{state:?}"), operation }
    }
    /// A capability that is not declared.
    pub fn unsupported(capability: &'static str) -> Self {
        Self::Unsupported { capability }
    }
    /// Whether this says that the thing is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::ImageNotPresent { .. })
    }
}

/// A runtime call's result.
pub type RuntimeResult<T> = Result<T, RuntimeError>;

/// What a runtime offers beyond the required. The conformance kit holds it to what it declares.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuntimeCapabilities {
    /// `exec_sync` and `exec` run real processes.
    pub exec: bool,
    /// `attach` reaches the container's own standard streams.
    pub attach: bool,
    /// `port_forward` reaches ports in the sandbox.
    pub port_forward: bool,
    /// Containers and sandboxes survive the death of the process that started them.
    pub outlives_agent: bool,
    /// `events` yields changes without polling.
    pub events: bool,
    /// Resource limits are enforced.
    pub resources: bool,
    /// Containers run a real process, so that logs and exit codes are real.
    pub processes: bool,
    /// Images are pulled and kept, and containers are made from them. Without it a container names programs of the host, and
    /// whatever image it names is ignored; the node agent then asks for none.
    pub images: bool,
}

impl RuntimeCapabilities {
    /// Nothing beyond the required.
    pub const fn none() -> Self {
        Self {
            exec: false,
            attach: false,
            port_forward: false,
            outlives_agent: false,
            events: false,
            resources: false,
            processes: false,
            images: false,
        }
    }
    /// Everything.
    pub const fn all() -> Self {
        Self {
            exec: true,
            attach: true,
            port_forward: true,
            outlives_agent: true,
            events: true,
            resources: true,
            processes: true,
            images: true,
        }
    }
}

/// CRI's RuntimeService: sandboxes, containers, streams and events.
///
/// # Contract
/// - **Idempotence.** Stop and remove of an unknown id succeed. A `run_pod_sandbox` with the same pod
///   uid and attempt, or a `create_container` with the same sandbox, name and attempt, returns the id that
///   already exists. Removing a sandbox stops and removes its containers first.
/// - **List is the truth.** What `list_*` returns is what exists, also after the process that made it has
///   been replaced by another ([`RuntimeCapabilities::outlives_agent`]). Events are hints and may be lost.
/// - **Own only.** A runtime lists and touches only what was made through it.
/// - **Handlers.** `runtime_handler` is the `handler` of the pod's RuntimeClass, empty for the default. The node agent calls a
///   runtime only with handlers that it was registered under; it reports them back in [`PodSandbox::runtime_handler`]. Ids of
///   several runtimes of one node must not meet: take random ones.
/// - **Logs.** Container output goes to `log_directory/log_path` in CRI format, one line a record:
///   `RFC3339Nano stream tag text`, where tag is `F` or `P`. It is the runtime that writes, so that logs
///   go on while no agent runs; [`CriLog`] does it for one that holds the streams itself.
/// - **States.** A container goes `Created -> Running -> Exited` and never back. `exit_code` is the process's
///   own, or 128 + signal. `reason` is `Completed`, `Error`, `OOMKilled`, or `StartError` with a message.
///
/// # Cancellation
/// Dropping a future may leave the call done, half done or not begun; the same call again converges.
///
/// # Errors
/// [`RuntimeError`]. `Backend` carries whether a retry can help.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// Run `wharf_conformance::runtime_suite!` over your harness. Take the plainest runtime, `wharf-runtime-hollow`,
/// as the pattern. Do not block the executor: calls run on the embedder's runtime.
#[async_trait]
pub trait RuntimeService: Send + Sync + Debug + 'static {
    /// Name and version, as `kubectl get nodes -o wide` shows them (`containerd://1.7.2`).
    async fn version(&self) -> RuntimeResult<RuntimeVersion>;
    /// What this runtime offers.
    fn capabilities(&self) -> RuntimeCapabilities;
    /// Readiness, as CRI's conditions `RuntimeReady` and `NetworkReady`.
    async fn status(&self) -> RuntimeResult<RuntimeStatus>;

    /// Makes and starts a sandbox; on return its network is up.
    async fn run_pod_sandbox(&self, config: &PodSandboxConfig, runtime_handler: &str) -> RuntimeResult<String>;
    /// Stops every container in the sandbox and releases its network. Unknown ids succeed.
    async fn stop_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()>;
    /// Removes the sandbox and all its containers. Unknown ids succeed.
    async fn remove_pod_sandbox(&self, sandbox_id: &str) -> RuntimeResult<()>;
    /// One sandbox.
    async fn pod_sandbox_status(&self, sandbox_id: &str) -> RuntimeResult<PodSandboxStatus>;
    /// The sandboxes that match.
    async fn list_pod_sandbox(&self, filter: &PodSandboxFilter) -> RuntimeResult<Vec<PodSandbox>>;

    /// Makes a container in a sandbox without starting it. The image must be present
    /// ([`ImageNotPresent`](RuntimeError::ImageNotPresent)), where images are declared.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &ContainerConfig,
        sandbox_config: &PodSandboxConfig,
    ) -> RuntimeResult<String>;
    /// Starts a created container.
    async fn start_container(&self, container_id: &str) -> RuntimeResult<()>;
    /// Sends the stop signal, waits up to `timeout`, then kills. Unknown or exited ids succeed. On return
    /// the container has exited; one that was never started may stay `Created`.
    async fn stop_container(&self, container_id: &str, timeout: Duration) -> RuntimeResult<()>;
    /// Removes a container, killing it if it runs. Unknown ids succeed.
    async fn remove_container(&self, container_id: &str) -> RuntimeResult<()>;
    /// The containers that match.
    async fn list_containers(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<Container>>;
    /// One container.
    async fn container_status(&self, container_id: &str) -> RuntimeResult<ContainerStatus>;
    /// Changes limits of a container.
    async fn update_container_resources(&self, container_id: &str, resources: &LinuxContainerResources) -> RuntimeResult<()>;
    /// Closes and opens again the log file, after it was rotated.
    async fn reopen_container_log(&self, container_id: &str) -> RuntimeResult<()>;

    /// Runs a command in a container and collects its output, each stream at most 16 MiB. Past `timeout`
    /// (zero: none) the command is killed and the call fails.
    async fn exec_sync(&self, container_id: &str, command: &[String], timeout: Duration) -> RuntimeResult<ExecResult>;
    /// Runs a command in a container with live streams.
    async fn exec(&self, container_id: &str, request: &ExecRequest) -> RuntimeResult<Session>;
    /// Reaches the streams of the container's own process.
    async fn attach(&self, container_id: &str, request: &AttachRequest) -> RuntimeResult<Session>;
    /// Opens a connection to a TCP port inside the sandbox. A port that nobody listens on is an error of this call, or of the
    /// connection's first read.
    async fn port_forward(&self, sandbox_id: &str, port: u16) -> RuntimeResult<Box<dyn Duplex>>;

    /// CPU and memory used by the containers that match.
    async fn list_container_stats(&self, filter: &ContainerFilter) -> RuntimeResult<Vec<ContainerStats>>;
    /// Changes as they happen. A hint: a stream that ends or lags is answered by listing again.
    async fn events(&self) -> RuntimeResult<BoxStream<'static, ContainerEvent>>;
}

/// CRI's ImageService.
///
/// # Contract
/// References are normalised as Docker's are (`nginx` is `docker.io/library/nginx:latest`). Pull returns a
/// reference that `create_container` accepts. Removing an unknown image succeeds.
///
/// A runtime that does not declare [`images`](RuntimeCapabilities::images) has none: lists are empty, a status is `None`, a
/// removal succeeds, and `pull_image` and `image_fs_info` are `Unsupported`.
///
/// # Cancellation
/// A dropped pull leaves no image and no partial layer that a later pull would trust.
///
/// # Errors
/// A registry's refusal is [`RuntimeError::PullFailed`].
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// Layers are verified by digest before use; unpacking never follows a symlink out of the root.
#[async_trait]
pub trait ImageService: Send + Sync + Debug + 'static {
    /// The images present.
    async fn list_images(&self) -> RuntimeResult<Vec<Image>>;
    /// One image, or `None`.
    async fn image_status(&self, image: &ImageSpec) -> RuntimeResult<Option<Image>>;
    /// Fetches an image; returns its reference.
    async fn pull_image(&self, image: &ImageSpec, auth: Option<&AuthConfig>) -> RuntimeResult<String>;
    /// Removes an image. Unknown ones succeed.
    async fn remove_image(&self, image: &ImageSpec) -> RuntimeResult<()>;
    /// Space used by images.
    async fn image_fs_info(&self) -> RuntimeResult<FilesystemUsage>;
}

/// A whole runtime: both of CRI's services.
pub trait Runtime: RuntimeService + ImageService {}
impl<T: RuntimeService + ImageService> Runtime for T {}

/// A byte stream in both directions.
pub trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + Debug {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + Debug> Duplex for T {}

/// How many chunks a session's channel holds before the sender waits.
pub const SESSION_CHUNKS: usize = 16;

/// A running exec or attach, as its user holds it.
///
/// Dropping `stdin` closes the process's standard input. Dropping the session ends the process if it was
/// started by `exec`, and only detaches if it came from `attach`; CRI cannot end an exec, over it the process but loses its streams.
#[derive(Debug)]
pub struct Session {
    /// Writes to standard input; `None` when none was asked for.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// Standard output (and error, with a terminal); `None` when none was asked for.
    pub stdout: Option<mpsc::Receiver<Bytes>>,
    /// Standard error; `None` when none was asked for, or with a terminal.
    pub stderr: Option<mpsc::Receiver<Bytes>>,
    /// Terminal sizes to apply; `None` without a terminal.
    pub resize: Option<mpsc::Sender<TerminalSize>>,
    /// The exit code, once the process has ended and its output has been sent. A dropped sender means
    /// that the connection to the process was lost.
    pub exit: oneshot::Receiver<RuntimeResult<i32>>,
}

/// Labels and annotations.
pub type StringMap = BTreeMap<String, String>;

/// A shared runtime.
pub type SharedRuntime = Arc<dyn Runtime>;
