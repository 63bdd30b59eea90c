//! How to reach etcd.

use std::fmt;
use std::time::Duration;

/// Where keys are kept unless the options say otherwise.
pub const DEFAULT_PREFIX: &str = "/wharf";
/// How long an endpoint may take to answer at first.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take; etcd itself gives up after 7 s.
pub const DEFAULT_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes that a watch holds for a reader that does not read.
pub const DEFAULT_WATCH_BUFFER: usize = 16 << 20;
/// Most endpoints.
pub const MAX_ENDPOINTS: usize = 64;

/// How to reach etcd, and where to keep keys in it.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Client URLs of the cluster's members: `https://10.0.0.1:2379`; `http://` is without encryption.
    pub endpoints: Vec<String>,
    /// What every key begins with, before a `!`. Stores with different prefixes do not see each other, whatever the prefixes
    /// are. Of printable ASCII, without space, `!` and `"`.
    pub prefix: String,
    /// User and password, if etcd asks for them.
    pub user: Option<EtcdUser>,
    /// What `https://` endpoints need.
    pub tls: Option<EtcdTls>,
    /// How long an endpoint may take to accept a connection, and to answer at first.
    pub connect_timeout: Duration,
    /// How long a request may take.
    pub request_timeout: Duration,
    /// Bytes that a watch holds for a reader that does not read; one commit is held whatever its size.
    pub watch_buffer: usize,
}

impl EtcdOptions {
    /// These endpoints, and the defaults.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: DEFAULT_PREFIX.into(),
            user: None,
            tls: None,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            request_timeout: DEFAULT_REQUEST_TIMEOUT,
            watch_buffer: DEFAULT_WATCH_BUFFER,
        }
    }
}

/// A user of etcd's own authentication.
#[derive(Clone)]
pub struct EtcdUser {
    /// Name.
    pub name: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUser").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Certificates, in PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificate; the system's are not trusted.
    pub ca: Vec<u8>,
    /// A client certificate and its key, for etcd with `--client-cert-auth`.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in etcd's certificate, if it is not the endpoint's.
    pub server_name: Option<String>,
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = self.identity.is_some();
        f.debug_struct("EtcdTls").field("identity", &identity).field("server_name", &self.server_name).finish_non_exhaustive()
    }
}
