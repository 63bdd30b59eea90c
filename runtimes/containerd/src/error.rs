//! What goes wrong between us and the socket, and what CRI's status codes mean in the seam's words.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use wharf_core::runtime::{Retry, RuntimeError};

/// Why no runtime could be connected to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint is not a unix socket's address.
    #[error("{endpoint:?} is no endpoint: write it as unix:///run/containerd/containerd.sock, with an absolute path")]
    InvalidEndpoint {
        /// What was given.
        endpoint: String,
    },
    /// The owner cannot be the value of a label.
    #[error("{owner:?} is no owner: 1 to 63 letters, digits, '-', '_' or '.'; take one that nobody else uses on this socket")]
    InvalidOwner {
        /// What was given.
        owner: String,
    },
    /// There is no socket, or nobody listens on it.
    #[error("cannot connect to {endpoint}: {source}; {advice}")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// What to do about it.
        advice: &'static str,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Something listens, and does not answer.
    #[error("{endpoint} did not answer within {limit:?}; see whether what listens there is a container runtime, and its log")]
    Unanswered {
        /// The endpoint.
        endpoint: String,
        /// How long it had.
        limit: Duration,
    },
    /// It speaks gRPC, and not CRI v1.
    #[error(
        "{endpoint} does not serve CRI v1 ({message}); with containerd, take \"cri\" out of disabled_plugins in its config.toml and restart it"
    )]
    NoCri {
        /// The endpoint.
        endpoint: String,
        /// Its answer.
        message: String,
    },
    /// It does not speak gRPC.
    #[error("what listens on {endpoint} is no container runtime: {message}; give the CRI socket of containerd, CRI-O or cri-dockerd")]
    NotGrpc {
        /// The endpoint.
        endpoint: String,
        /// What was wrong with its answer.
        message: String,
    },
}

/// A call that the runtime did not answer, or answered with an error. It is the source of [`RuntimeError::Backend`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CriError {
    /// No answer in time.
    #[error("{endpoint} did not answer within {limit:?}")]
    Unanswered {
        /// The endpoint.
        endpoint: String,
        /// How long it had.
        limit: Duration,
    },
    /// No connection, or one that broke.
    #[error("{endpoint} is not reached: {message}; see whether the runtime is running")]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// What the transport said.
        message: String,
    },
    /// The runtime's answer is an error.
    #[error("{message}")]
    Refused {
        /// CRI's status code.
        code: Code,
        /// The runtime's word.
        message: String,
    },
    /// The runtime's answer lacks what CRI requires.
    #[error("the runtime's answer has no {0}")]
    Missing(&'static str),
    /// A name that another object holds.
    #[error("the name is held by {holder}; {advice}")]
    NameHeld {
        /// Who holds it.
        holder: String,
        /// What to do.
        advice: &'static str,
    },
    /// The streaming endpoint is of a kind that is not spoken.
    #[error("the runtime streams at {url:?}, {why}")]
    Endpoint {
        /// What the runtime returned.
        url: String,
        /// What is wrong, and what to configure.
        why: &'static str,
    },
    /// The streaming endpoint broke its protocol or refused.
    #[error("streaming failed: {0}")]
    Streaming(String),
    /// A command of an exec was ended because its time was over.
    #[error("the command did not end within {0:?}")]
    ExecTimeout(Duration),
}

/// All that an error and its sources say.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// A failed call, before its caller says what it means.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) op: &'static str,
    pub(crate) error: CriError,
}

impl Failure {
    pub(crate) fn of_status(op: &'static str, endpoint: &str, status: Status) -> Self {
        // Only what never was an answer has a cause.
        let error = match status.source() {
            Some(source) => CriError::Unreachable { endpoint: endpoint.to_string(), message: chain(source) },
            None => CriError::Refused { code: status.code(), message: status.message().to_string() },
        };
        Self { op, error }
    }

    pub(crate) fn code(&self) -> Option<Code> {
        match &self.error {
            CriError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// What the runtime said; empty when it said nothing.
    pub(crate) fn message(&self) -> &str {
        match &self.error {
            CriError::Refused { message, .. } => message,
            _ => "",
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// Another call holds the name: CRI has no code for it, and containerd and CRI-O have the same words.
    pub(crate) fn is_name_reserved(&self) -> bool {
        self.code() == Some(Code::AlreadyExists) || self.message().contains("is reserved for")
    }

    /// As an error about an object that the call names.
    pub(crate) fn about(self, kind: &'static str, id: &str) -> RuntimeError {
        if self.is_not_found() { RuntimeError::NotFound { kind, id: id.to_string() } } else { self.into() }
    }
}

impl From<Failure> for RuntimeError {
    fn from(failure: Failure) -> Self {
        let Failure { op, error } = failure;
        let retry = match &error {
            CriError::Refused { code: Code::InvalidArgument | Code::OutOfRange, message } => {
                return Self::InvalidArgument { field: op, message: message.clone() };
            }
            CriError::Refused { code: Code::Unimplemented, .. } => return Self::Unsupported { capability: op },
            CriError::Refused { code: Code::PermissionDenied | Code::Unauthenticated | Code::DataLoss, .. }
            | CriError::Missing(_)
            | CriError::Endpoint { .. } => Retry::Permanent,
            _ => Retry::Transient,
        };
        Self::Backend { op, retry, source: Box::new(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(code: Code, message: &str) -> Failure {
        Failure::of_status("create_container", "unix:///x", Status::new(code, message))
    }

    #[test]
    fn codes_become_the_kinds_that_callers_branch_on() {
        assert!(matches!(failure(Code::InvalidArgument, "no").into(), RuntimeError::InvalidArgument { .. }));
        assert!(matches!(failure(Code::Unimplemented, "no").into(), RuntimeError::Unsupported { .. }));
        assert!(matches!(failure(Code::Unknown, "no").into(), RuntimeError::Backend { retry: Retry::Transient, .. }));
        assert!(matches!(failure(Code::PermissionDenied, "no").into(), RuntimeError::Backend { retry: Retry::Permanent, .. }));
        assert!(matches!(failure(Code::NotFound, "no").about("sandbox", "x"), RuntimeError::NotFound { kind: "sandbox", .. }));
        assert!(matches!(failure(Code::Unavailable, "no").about("sandbox", "x"), RuntimeError::Backend { retry: Retry::Transient, .. }));
    }

    #[test]
    fn a_reserved_name_is_known_by_its_words() {
        let words = "failed to reserve sandbox name \"a_b_c_0\": name \"a_b_c_0\" is reserved for \"0123\"";
        assert!(failure(Code::Unknown, words).is_name_reserved());
        assert!(!failure(Code::Unknown, "failed to reserve memory").is_name_reserved());
    }
}
