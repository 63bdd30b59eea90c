//! What can go wrong with etcd, and what it means for a call.

use std::error::Error;
use std::time::Duration;

use tonic::{Code, ConnectError, Status};
use wharf_core::runtime::Retry;
use wharf_core::store::StoreError;

// etcd's own words, which its clients tell errors by.
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const TOO_LARGE: &str = "etcdserver: request is too large";
const TOO_LARGE_FOR_GRPC: &str = "grpc: received message larger than max";
const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
const LEASE_GONE: &str = "etcdserver: requested lease not found";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// Why etcd did not do what it was asked; the source of a [`StoreError`].
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdFault {
    /// No connection; nothing was sent.
    #[error(
        "no connection to etcd at {endpoint}: {cause}; check that etcd runs, that this is one of its client URLs (usually port 2379), and \
         whether it is http or https{}", tls_advice(.cause)
    )]
    Unreachable {
        /// Which.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// Connected, but no answer in time.
    #[error(
        "etcd at {endpoint} did not answer within {within:?}; check its log: it may hang, have no leader, or have a slow disk; or something \
         else listens there"
    )]
    Silent {
        /// Which.
        endpoint: String,
        /// How long was waited.
        within: Duration,
    },
    /// The connection was lost before the answer came.
    #[error("the connection to etcd at {endpoint} was lost before it answered: {cause}{}", tls_advice(.cause))]
    Lost {
        /// Which.
        endpoint: String,
        /// Why.
        cause: String,
    },
    /// etcd answered that it will not, or cannot now.
    #[error("etcd at {endpoint} refused: {message} ({code:?}){}", advice(*.code, .message))]
    Refused {
        /// Which.
        endpoint: String,
        /// gRPC's code.
        code: Code,
        /// In etcd's words.
        message: String,
    },
    /// etcd has forgotten commits that it had told.
    #[error(
        "etcd at {endpoint} is at revision {is}, but was at {was} before: its data was lost or restored from a backup; what was read before \
         may be wrong, so start everything that reads from it anew"
    )]
    WentBack {
        /// Which.
        endpoint: String,
        /// The newest revision that was seen.
        was: u64,
        /// Its revision now.
        is: u64,
    },
    /// The endpoint belongs to another cluster.
    #[error("etcd at {endpoint} is of cluster {is:x}, not {expected:x}: name endpoints of one cluster, or start anew to use the other")]
    OtherCluster {
        /// Which.
        endpoint: String,
        /// The first cluster that answered.
        expected: u64,
        /// The cluster it is of.
        is: u64,
    },
    /// What came is not what etcd says.
    #[error("etcd at {endpoint} answered with {what}")]
    Malformed {
        /// Which.
        endpoint: String,
        /// What it was.
        what: &'static str,
    },
}

/// What to do about a handshake that failed, by the words of rustls and of TLS's alerts.
pub(crate) fn tls_advice(cause: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| cause.contains(word));
    if says(&["UnknownIssuer", "BadSignature"]) {
        "; name the authority (`tls.ca`) that signed etcd's certificate"
    } else if says(&["not valid for name", "NotValidForName"]) {
        "; set `tls.server_name` to a name in etcd's certificate, or use such a name in the endpoint"
    } else if says(&["Expired", "NotValidYet"]) {
        "; renew etcd's certificate, or set the clock"
    } else if says(&["fatal alert"]) {
        "; etcd wants a client certificate (`tls.identity`) that its --trusted-ca-file signed"
    } else {
        ""
    }
}

fn advice(code: Code, message: &str) -> &'static str {
    match code {
        Code::ResourceExhausted if message == NO_SPACE => {
            "; compact, run `etcdctl defrag` and `etcdctl alarm disarm`, or raise --quota-backend-bytes"
        }
        Code::PermissionDenied => "; grant the user's role the range of the prefix",
        Code::Unauthenticated => "; check user and password",
        Code::Unimplemented => "; is it etcd v3?",
        _ => "",
    }
}

impl EtcdFault {
    pub(crate) fn of(endpoint: &str, error: &etcd_client::Error) -> Self {
        let endpoint = endpoint.to_owned();
        match error {
            etcd_client::Error::GRpcStatus(status) if has_source::<ConnectError>(status) => {
                Self::Unreachable { endpoint, cause: chain(status) }
            }
            etcd_client::Error::GRpcStatus(status) if came_from_etcd(status) => {
                Self::Refused { endpoint, code: status.code(), message: status.message().to_owned() }
            }
            etcd_client::Error::GRpcStatus(status) => Self::Lost { endpoint, cause: chain(status) },
            other => Self::Lost { endpoint, cause: chain(other) },
        }
    }

    /// Whether the request certainly had no effect.
    pub(crate) fn is_without_effect(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { code, .. } => {
                // What etcd checks before it proposes anything. The rest it may have proposed already.
                matches!(
                    code,
                    Code::InvalidArgument
                        | Code::ResourceExhausted
                        | Code::PermissionDenied
                        | Code::Unauthenticated
                        | Code::FailedPrecondition
                        | Code::NotFound
                        | Code::Unimplemented
                )
            }
            _ => false,
        }
    }

    /// Whether another endpoint, or the same a little later, may do better.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Lost { .. } | Self::Malformed { .. } => Retry::Transient,
            Self::Refused {
                code: Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted | Code::Unknown, ..
            } => Retry::Transient,
            Self::Refused { code: Code::ResourceExhausted, message, .. } if !message.starts_with(TOO_LARGE_FOR_GRPC) => Retry::Transient,
            Self::Refused { .. } | Self::WentBack { .. } | Self::OtherCluster { .. } => Retry::Permanent,
        }
    }

    fn says(&self, words: &str) -> bool {
        matches!(self, Self::Refused { message, .. } if message.starts_with(words))
    }
    pub(crate) fn is_compacted(&self) -> bool {
        self.says(COMPACTED)
    }
    pub(crate) fn is_future(&self) -> bool {
        self.says(FUTURE)
    }
    /// Whether what a put should be attached to is not there any more.
    pub(crate) fn is_lease_gone(&self) -> bool {
        self.says(LEASE_GONE)
    }
    /// Whether the answer was larger than is read.
    pub(crate) fn is_too_much(&self) -> bool {
        matches!(self, Self::Refused { code: Code::OutOfRange, message, .. } if message.contains("decoded message length too large"))
    }

    /// As the failure of a call that changes nothing, or is known to have changed nothing.
    pub(crate) fn failed(self, op: &'static str) -> StoreError {
        StoreError::Backend { op, retry: self.retry(), source: Box::new(self) }
    }

    /// As the failure of a commit.
    pub(crate) fn failed_commit(self) -> StoreError {
        if self.says(TOO_LARGE) || self.says(TOO_LARGE_FOR_GRPC) {
            return StoreError::Invalid { message: format!("{self}; start etcd with a larger --max-request-bytes") };
        }
        if self.says(TOO_MANY_OPS) {
            return StoreError::Invalid { message: format!("{self}; start etcd with --max-txn-ops=128 or more") };
        }
        if self.is_without_effect() { self.failed("commit") } else { StoreError::OutcomeUnknown { source: Box::new(self) } }
    }
}

/// Whether a status was sent, by etcd or by us about its answer, and not made up for a connection that broke.
fn came_from_etcd(status: &Status) -> bool {
    status.source().is_none() && !(status.code() == Code::Unknown && status.message().starts_with("transport"))
}

fn has_source<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(error) = source {
        if error.is::<E>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// An error and its causes, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = match error.downcast_ref::<Status>() {
        Some(status) if status.message() == "transport error" => String::new(),
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        // The transport repeats itself.
        if cause != "transport error" && !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, message: &str) -> EtcdFault {
        EtcdFault::of("http://a", &etcd_client::Error::GRpcStatus(Status::new(code, message)))
    }

    #[test]
    fn a_commit_whose_effect_is_not_known_says_so() {
        let silent = EtcdFault::Silent { endpoint: String::new(), within: Duration::from_secs(1) };
        for fault in
            [silent, refused(Code::Unavailable, "etcdserver: request timed out"), refused(Code::Unavailable, "etcdserver: leader changed")]
        {
            assert!(matches!(fault.failed_commit(), StoreError::OutcomeUnknown { .. }));
        }
    }

    #[test]
    fn a_commit_that_etcd_did_not_take_is_a_plain_failure() {
        let unreachable = EtcdFault::Unreachable { endpoint: String::new(), cause: String::new() };
        assert!(matches!(unreachable.failed_commit(), StoreError::Backend { retry: Retry::Transient, .. }));
        let denied = refused(Code::PermissionDenied, "etcdserver: permission denied");
        assert!(matches!(denied.failed_commit(), StoreError::Backend { retry: Retry::Permanent, .. }));
        for words in [TOO_LARGE, TOO_MANY_OPS] {
            assert!(matches!(refused(Code::InvalidArgument, words).failed_commit(), StoreError::Invalid { .. }));
        }
    }

    #[test]
    fn a_full_etcd_says_what_to_do() {
        let text = refused(Code::ResourceExhausted, NO_SPACE).to_string();
        assert!(text.contains("defrag"), "{text}");
    }
}
