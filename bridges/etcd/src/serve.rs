//! Serving over a listener: gRPC, and beside it `/health` and `/version` over HTTP, as etcd has them.

use std::fmt;
use std::future::Future;
use std::io;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use etcd_client::proto::{PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbWatchServer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::connection;
use crate::services::{AuthService, ClusterService, KvService, LeaseService, MaintenanceService, WatchService};
use crate::{ETCD_VERSION, EtcdBridge};

/// Most requests and watch streams at once on one connection.
pub const MAX_STREAMS: u32 = 1024;
/// A connection that is quiet for so long is asked for a sign of life, lest watches of those who are gone stay; etcd's.
const KEEP_ALIVE: Duration = Duration::from_secs(7200);
/// How long it may take to give one; etcd's.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What a message may have beside the largest request; etcd's.
const MESSAGE_OVERHEAD: usize = 512 << 10;

/// Certificates to serve with, in PEM.
#[derive(Clone)]
pub struct BridgeTls {
    /// The certificate, and those between it and its authority.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// Who signs clients' certificates. A client without one is refused; one with one may do everything.
    pub client_ca: Vec<u8>,
}

impl fmt::Debug for BridgeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BridgeTls").finish_non_exhaustive()
    }
}

/// Why serving ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The certificates cannot be used.
    #[error("the certificates cannot be used: {source}; give certificate, key and client CA in PEM")]
    Tls {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The listener has no address.
    #[error("the listener cannot be used: {source}")]
    Listener {
        /// Why.
        source: io::Error,
    },
    /// The server failed.
    #[error("the server failed: {source}")]
    Server {
        /// Why.
        source: tonic::transport::Error,
    },
}

impl EtcdBridge {
    /// Serves clients that have a certificate of the client CA, until `shutdown`. What is under way then is finished, watches are ended.
    ///
    /// # Cancellation
    /// Dropped, it ends at once.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve(&self, listener: TcpListener, tls: BridgeTls, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        let tls = connection::acceptor(&tls).map_err(|source| ServeError::Tls { source })?;
        self.run(Some(tls), listener, shutdown).await
    }

    /// Serves anybody who can connect, without encryption, until `shutdown`: for tests, and behind something that protects it.
    ///
    /// # Cancellation
    /// Dropped, it ends at once.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn serve_without_tls(&self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
        self.run(None, listener, shutdown).await
    }

    async fn run(
        &self,
        tls: Option<TlsAcceptor>,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        let address = listener.local_addr().map_err(|source| ServeError::Listener { source })?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut client_urls = self.client_urls.clone();
        if client_urls.is_empty() {
            client_urls.push(format!("{scheme}://{address}"));
        }
        // Of this server: another of the same bridge goes on.
        let stopped = self.shared.stopped.child_token();
        let (_reporter, health) = tonic_health::server::health_reporter();
        let shared = || self.shared.clone();
        let message = self.shared.limits.max_request_bytes.saturating_add(MESSAGE_OVERHEAD);
        let mut routes = Routes::builder();
        routes
            .add_service(PbKvServer::new(KvService { shared: shared() }).max_decoding_message_size(message))
            .add_service(PbWatchServer::new(WatchService { shared: shared(), stopped: stopped.clone() }).max_decoding_message_size(message))
            .add_service(PbLeaseServer::new(LeaseService { shared: shared(), stopped: stopped.clone() }))
            .add_service(PbMaintenanceServer::new(MaintenanceService { shared: shared(), stopped: stopped.clone() }))
            .add_service(PbClusterServer::new(ClusterService { shared: shared(), client_urls }))
            .add_service(AuthService { shared: shared() })
            .add_service(health);
        let json = |text: String| move || std::future::ready(([(CONTENT_TYPE, "application/json")], text));
        let router = routes
            .routes()
            .into_axum_router()
            .route("/health", get(json(r#"{"health":"true","reason":""}"#.into())))
            .route("/version", get(json(format!(r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{ETCD_VERSION}"}}"#))));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let ended = async {
            tokio::select! {
                () = shutdown => {}
                () = self.shared.stopped.cancelled() => {}
            }
            stopped.cancel();
        };
        Server::builder()
            // For /health and /version; over TLS, ALPN decides.
            .accept_http1(tls.is_none())
            .max_concurrent_streams(MAX_STREAMS)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .add_routes(router.into())
            .serve_with_incoming_shutdown(connection::incoming(incoming, tls, self.shared.clock.clone()), ended)
            .await
            .map_err(|source| ServeError::Server { source })
    }
}
