//! First contact: what is wrong with an endpoint is said here, before anything depends on it.

use std::sync::Arc;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use futures::future::join_all;
use tonic::Code;
use wharf_core::clock::Clock;

use crate::Shared;
use crate::endpoints::{Endpoint, Endpoints};
use crate::fault::{EtcdFault, tls_advice};
use crate::keys::Keys;
use crate::lease::Leases;
use crate::options::{EtcdOptions, MAX_ENDPOINTS};

/// Why no store could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EtcdConnectError {
    /// No endpoint was named, or too many.
    #[error("{count} endpoints of etcd were named; name its client URLs, at least one and at most {MAX_ENDPOINTS}")]
    Endpoints {
        /// How many.
        count: usize,
    },
    /// An endpoint cannot be one.
    #[error("endpoint {endpoint:?}: {message}")]
    InvalidEndpoint {
        /// Which.
        endpoint: String,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// The prefix has a character that none may have.
    #[error("prefix {prefix:?}: use printable ASCII without space, '!' and '\"', like /wharf")]
    InvalidPrefix {
        /// The prefix.
        prefix: String,
    },
    /// etcd asks for a user, or refuses the one given.
    #[error("{source}; name a user that etcd knows, its password, and a role that may read and write the prefix")]
    Denied {
        /// What etcd said.
        source: EtcdFault,
    },
    /// No endpoint answered as etcd.
    #[error("{}", lines(.faults))]
    Unreachable {
        /// Why, for each endpoint.
        faults: Vec<EtcdFault>,
    },
}

fn lines(faults: &[EtcdFault]) -> String {
    let lines = faults.iter().map(|fault| match fault {
        // It had not answered anything yet, so it may be something else.
        EtcdFault::Lost { endpoint, cause } => format!(
            "what listens at {endpoint} did not answer as etcd: {cause}; check that this is a client URL (usually port 2379) and not a peer's, \
             and whether it is http or https{}",
            first_tls_advice(endpoint, cause)
        ),
        fault => fault.to_string(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A client certificate that etcd refuses ends the connection, and the reason does not always arrive.
fn first_tls_advice(endpoint: &str, cause: &str) -> &'static str {
    match tls_advice(cause) {
        "" if endpoint.starts_with("https://") => "; etcd may want a client certificate (`tls.identity`) that its --trusted-ca-file signed",
        advice => advice,
    }
}

pub(crate) async fn connect(options: EtcdOptions, clock: Arc<dyn Clock>) -> Result<Shared, EtcdConnectError> {
    let count = options.endpoints.len();
    if count == 0 || count > MAX_ENDPOINTS {
        return Err(EtcdConnectError::Endpoints { count });
    }
    let Some(keys) = Keys::new(&options.prefix) else {
        return Err(EtcdConnectError::InvalidPrefix { prefix: options.prefix });
    };
    let members = options.endpoints.iter().map(|url| endpoint(url, &options)).collect::<Result<Vec<_>, _>>()?;
    let etcd = Endpoints::new(members, clock.clone(), options.request_timeout);
    let contacts = join_all((0..etcd.len()).map(|index| etcd.contact(index, &keys, options.connect_timeout))).await;
    let Some(answered) = contacts.iter().position(Result::is_ok) else {
        let faults: Vec<_> = contacts.into_iter().filter_map(Result::err).collect();
        return Err(match faults.iter().position(is_denial) {
            Some(denial) => EtcdConnectError::Denied { source: faults[denial].clone() },
            None => EtcdConnectError::Unreachable { faults },
        });
    };
    etcd.prefer(answered);
    for fault in contacts.into_iter().filter_map(Result::err) {
        tracing::warn!("going on without an endpoint: {}", lines(&[fault]));
    }
    Ok(Shared { etcd, keys, clock, leases: Leases::default(), watch_buffer: options.watch_buffer })
}

/// etcd answers `InvalidArgument` to a wrong password and to no user.
fn is_denial(fault: &EtcdFault) -> bool {
    matches!(fault, EtcdFault::Refused { code: Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument, .. })
}

fn endpoint(url: &str, options: &EtcdOptions) -> Result<Endpoint, EtcdConnectError> {
    let invalid = |message: String| EtcdConnectError::InvalidEndpoint { endpoint: url.to_owned(), message };
    let host = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(host), _) if options.tls.is_some() => host,
        (Some(_), _) => return Err(invalid("https needs the CA of etcd's certificate: set `tls`".into())),
        (_, Some(host)) if options.tls.is_none() => host,
        (_, Some(_)) => return Err(invalid("`tls` is set, so begin it with https://".into())),
        _ => return Err(invalid("begin it with https:// or http://, like https://10.0.0.1:2379".into())),
    };
    if host.trim_end_matches('/').rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
        return Err(invalid("name host and port, like https://10.0.0.1:2379".into()));
    }
    let mut connect = ConnectOptions::new().with_connect_timeout(options.connect_timeout);
    if let Some(user) = &options.user {
        connect = connect.with_user(&user.name, &user.password);
    }
    if let Some(tls) = &options.tls {
        let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.ca));
        if let Some((certificate, key)) = &tls.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &tls.server_name {
            config = config.domain_name(name);
        }
        connect = connect.with_tls(config);
    }
    Ok(Endpoint::new(url.to_owned(), connect))
}

#[cfg(test)]
mod tests {
    use wharf_core::clock::SystemClock;

    use super::*;
    use crate::options::EtcdTls;

    async fn error(options: EtcdOptions) -> String {
        connect(options, SystemClock::shared()).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn bad_options_say_what_is_allowed() {
        assert!(error(EtcdOptions::new::<String>([])).await.contains("at least one"));
        for url in ["10.0.0.1:2379", "ftp://a:1", "http://a", "http://:1", "http://a:x", "http://a:70000"] {
            let text = error(EtcdOptions::new([url])).await;
            assert!(text.contains("https://10.0.0.1:2379"), "{text}");
        }
        assert!(error(EtcdOptions::new(["https://a:1"])).await.contains("CA"));
        let tls = EtcdTls { ca: Vec::new(), identity: None, server_name: None };
        assert!(error(EtcdOptions { tls: Some(tls), ..EtcdOptions::new(["http://a:1"]) }).await.contains("https://"));
        assert!(error(EtcdOptions { prefix: "a b".into(), ..EtcdOptions::new(["http://a:1"]) }).await.contains("/wharf"));
    }
}
