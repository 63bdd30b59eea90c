//! How the API server reaches into pods: logs, exec, attach, port-forward.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::api::ApiError;
use crate::object::ObjectRef;
use crate::runtime::{AttachRequest, Duplex, ExecRequest, Session};

/// What of a log to return; Kubernetes' PodLogOptions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Go on as lines are written.
    pub follow: bool,
    /// The previous, terminated instance of the container.
    pub previous: bool,
    /// Only what is newer than this many seconds.
    pub since_seconds: Option<i64>,
    /// Only what is newer than this.
    pub since_time: Option<jiff::Timestamp>,
    /// Prefix each line with its time.
    pub timestamps: bool,
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
    /// Only `Stdout` or `Stderr`; `None` for both.
    pub stream: Option<String>,
}

/// Reaches the node agents.
///
/// # Contract
/// `node` is the pod's `spec.nodeName`; the pod is given by namespace and name and `uid` must match, so that a
/// successor of the same name is never reached. `container` is a name in the pod.
///
/// # Cancellation
/// A dropped stream or session ends what it started.
///
/// # Errors
/// A Status as kubectl users know it: 400 for a container that waits to start, 404 for an unknown node or pod,
/// 502 for an agent that does not answer.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// Never follow a redirect; reach only addresses that the node registered itself.
#[async_trait]
pub trait NodeConnector: Send + Sync + fmt::Debug + 'static {
    /// Reads a container's log.
    async fn logs(
        &self,
        node: &str,
        pod: &ObjectRef,
        uid: &str,
        container: &str,
        options: &LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, ApiError>>, ApiError>;
    /// Runs a command in a container.
    async fn exec(&self, node: &str, pod: &ObjectRef, uid: &str, container: &str, request: &ExecRequest) -> Result<Session, ApiError>;
    /// Attaches to a container's process.
    async fn attach(&self, node: &str, pod: &ObjectRef, uid: &str, container: &str, request: &AttachRequest) -> Result<Session, ApiError>;
    /// Connects to a port of a pod.
    async fn port_forward(&self, node: &str, pod: &ObjectRef, uid: &str, port: u16) -> Result<Box<dyn Duplex>, ApiError>;
}
