//! The connection to the socket: made again when it breaks, and no call without an end.

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{Either, select};
use hyper_util::rt::TokioIo;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{GetEventsRequest, VersionRequest, VersionResponse};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};
use wharf_core::clock::Clock;

use crate::error::{ConnectError, CriError, Failure};

/// How long a runtime has to answer when it is connected to.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a call may take that has no limit of its own.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a sandbox may take, its network and a pull of the runtime's pause image included.
pub const RUN_POD_SANDBOX_TIMEOUT: Duration = Duration::from_secs(240);
/// How long a container may take to be made.
pub const CREATE_CONTAINER_TIMEOUT: Duration = Duration::from_secs(240);
/// How long a container may take to be started.
pub const START_CONTAINER_TIMEOUT: Duration = Duration::from_secs(240);
/// What a stop may take beyond its own grace.
pub const STOP_MARGIN: Duration = Duration::from_secs(120);
/// How long an image may take to be pulled.
pub const PULL_IMAGE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How long the streaming endpoint may take to accept a stream.
pub const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a runtime has to say that it has no events.
const EVENTS_PROBE: Duration = Duration::from_secs(1);
/// Between two looks at a runtime that is starting.
const STARTING_POLL: Duration = Duration::from_millis(100);
/// Largest answer, in bytes: both streams of an exec, and the rest.
const MAX_MESSAGE: usize = 64 << 20;

/// The runtime behind one socket.
#[derive(Debug, Clone)]
pub(crate) struct Cri {
    channel: Channel,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) endpoint: Arc<str>,
}

fn socket_path(endpoint: &str) -> Result<PathBuf, ConnectError> {
    let path = PathBuf::from(endpoint.strip_prefix("unix:").map_or(endpoint, |rest| rest.strip_prefix("//").unwrap_or(rest)));
    // A length that no address can hold would be refused with words that help nobody.
    if path.is_absolute() && path.as_os_str().len() < 108 {
        return Ok(path);
    }
    Err(ConnectError::InvalidEndpoint { endpoint: endpoint.to_string() })
}

fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "start the runtime, or give the path of its socket",
        std::io::ErrorKind::ConnectionRefused => "the socket is left over, nobody listens: start the runtime",
        std::io::ErrorKind::PermissionDenied => "run as a user that may write to the socket, usually root",
        _ => "see whether the path is a runtime's socket",
    }
}

impl Cri {
    /// Connects, and learns what answers.
    pub(crate) async fn connect(endpoint: &str, clock: Arc<dyn Clock>) -> Result<(Self, VersionResponse), ConnectError> {
        let path = socket_path(endpoint)?;
        if let Err(source) = UnixStream::connect(&path).await {
            return Err(ConnectError::Unreachable { endpoint: endpoint.to_string(), advice: advice(&source), source });
        }
        let invalid = |_| ConnectError::InvalidEndpoint { endpoint: endpoint.to_string() };
        // The name is for HTTP/2 alone, which cannot do without.
        let channel =
            Endpoint::try_from("http://localhost").map_err(invalid)?.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }));
        let cri = Self { channel, clock, endpoint: endpoint.into() };
        let version = cri.call("version", CONNECT_TIMEOUT, cri.first_version()).await;
        let endpoint = endpoint.to_string();
        match version {
            Ok(version) => Ok((cri, version)),
            Err(Failure { error: CriError::Unanswered { limit, .. }, .. }) => Err(ConnectError::Unanswered { endpoint, limit }),
            Err(Failure { error: CriError::Refused { message, .. }, .. }) => Err(ConnectError::NoCri { endpoint, message }),
            Err(Failure { error: CriError::Unreachable { message, .. }, .. }) => Err(ConnectError::NotGrpc { endpoint, message }),
            Err(Failure { error, .. }) => Err(ConnectError::NoCri { endpoint, message: error.to_string() }),
        }
    }

    /// What answers, once it has come up: while containerd reads what it left, it has nothing else to say.
    async fn first_version(&self) -> Result<Response<VersionResponse>, Status> {
        loop {
            match self.runtime().version(VersionRequest::default()).await {
                Err(status) if status.code() == Code::Unavailable && status.source().is_none() => self.clock.sleep(STARTING_POLL).await,
                answer => return answer,
            }
        }
    }

    /// Whether the runtime tells events. One that cannot says so at once; one that can says nothing until there is one.
    pub(crate) async fn has_events(&self) -> bool {
        let mut runtime = self.runtime();
        let first = async {
            let events = runtime.get_container_events(GetEventsRequest::default()).await?;
            // The refusal may come in the place of the first event.
            events.into_inner().message().await.map(Response::new)
        };
        match self.call("events", EVENTS_PROBE, first).await {
            Ok(_) => true,
            Err(failure) => matches!(failure.error, CriError::Unanswered { .. }),
        }
    }

    pub(crate) fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// A call's answer, within a limit. What has not answered by then is cancelled.
    pub(crate) async fn call<T>(
        &self,
        op: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, Failure> {
        match select(Box::pin(call), self.clock.sleep(limit)).await {
            Either::Left((Ok(response), _)) => Ok(response.into_inner()),
            Either::Left((Err(status), _)) => Err(Failure::of_status(op, &self.endpoint, status)),
            Either::Right(_) => Err(Failure { op, error: CriError::Unanswered { endpoint: self.endpoint.to_string(), limit } }),
        }
    }

    /// A call that takes as long as it takes.
    pub(crate) async fn endless<T>(
        &self,
        op: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, Failure> {
        call.await.map(Response::into_inner).map_err(|status| Failure::of_status(op, &self.endpoint, status))
    }
}

/// Whether an error is the runtime's own word that a deadline has passed.
pub(crate) fn is_deadline(failure: &Failure) -> bool {
    failure.code() == Some(Code::DeadlineExceeded) || failure.message().contains("timeout") && failure.message().contains("exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_unix_sockets_with_absolute_paths() {
        for endpoint in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
            assert_eq!(socket_path(endpoint).unwrap(), PathBuf::from("/run/x.sock"), "{endpoint}");
        }
        for endpoint in ["", "unix://", "unix://run/x.sock", "tcp://127.0.0.1:1", "http://x", &format!("unix:///{}", "x".repeat(200))] {
            assert!(socket_path(endpoint).is_err(), "{endpoint}");
        }
    }
}
