//! The service behind TLS on a port.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tower::Service;
use wharf_core::clock::Clock;
use wharf_core::runtime::BoxError;

use super::eager::Eager;
use super::gathered::{Gathered, Spare};
use super::{ApiServerService, Connection};
use crate::gate::PeerCertificates;
use crate::pki::{Identity, PkiError};
use crate::request::RequestUser;

/// Most streams of one HTTP/2 connection.
pub const MAX_STREAMS: u32 = 100;
/// Most connections at once; further ones wait to be accepted.
pub const MAX_CONNECTIONS: usize = 4096;
/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take, and how long an HTTP/1 connection may be idle.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How often an HTTP/2 connection is asked for a sign of life, and how long it may take to give one.
pub const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Largest head of an HTTP/2 request, in bytes.
const MAX_HEAD: u32 = 64 << 10;
/// How long requests may go on after the stop.
pub const DRAIN: Duration = Duration::from_secs(5);
/// How long to wait after `accept` failed, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How to serve TLS.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The serving certificate.
    pub identity: Identity,
    /// The CA that client certificates must be signed by, in PEM.
    pub client_ca: String,
}

/// A listener that failed for good.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The certificates are no good.
    #[error(transparent)]
    Tls(PkiError),
    /// The listener broke.
    #[error("cannot accept connections: {0}")]
    Accept(#[source] io::Error),
}

/// The TLS configuration: HTTP/2 and HTTP/1.1, TLS 1.2 and up, client certificates optional but verified against the CA.
///
/// # Errors
/// When a certificate or key does not parse.
pub fn tls_config(options: &TlsOptions) -> Result<rustls::ServerConfig, PkiError> {
    fn tls(error: impl std::error::Error + Send + Sync + 'static) -> PkiError {
        PkiError::Tls(Box::new(error))
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(options.client_ca.as_bytes()) {
        roots.add(certificate.map_err(tls)?).map_err(tls)?;
    }
    // Named, because a process may hold more than one provider.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build().map_err(tls)?;
    let (certificate, key) = options.identity.der()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .map_err(tls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

impl ApiServerService {
    /// Serves TLS connections until the server's `stop` is cancelled, then lets requests finish for a few seconds.
    ///
    /// # Cancellation
    /// Dropping it stops accepting; connections go on until `stop`.
    ///
    /// # Errors
    /// When the certificates are no good.
    pub async fn serve(&self, listener: TcpListener, options: &TlsOptions) -> Result<(), ServeError> {
        let acceptor = TlsAcceptor::from(Arc::new(tls_config(options).map_err(ServeError::Tls)?));
        let (tracker, room, spare) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)), Arc::<Spare>::default());
        let (stop, clock) = (self.parts().stop.clone(), self.parts().clock.clone());
        let accepting = async {
            loop {
                // The semaphore is never closed.
                let Ok(permit) = room.clone().acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (server, acceptor, spare) = (self.clone(), acceptor.clone(), spare.clone());
                        tracker.spawn(async move {
                            server.connection(stream, acceptor, spare).await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!("accept failed: {error}");
                        clock.sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        };
        stop.run_until_cancelled(accepting).await;
        tracker.close();
        // Each connection bounds its own end.
        tracker.wait().await;
        Ok(())
    }

    async fn connection(&self, stream: TcpStream, acceptor: TlsAcceptor, spare: Arc<Spare>) {
        // A delay of small writes would cost 40 ms a watch event.
        let _ = stream.set_nodelay(true);
        let clock = &self.parts().clock;
        let stream = tokio::select! {
            accepted = Box::pin(acceptor.accept(stream)) => match accepted {
                Ok(stream) => stream,
                Err(error) => return tracing::debug!("TLS handshake failed: {error}"),
            },
            () = clock.sleep(HANDSHAKE_TIMEOUT) => return,
        };
        let peer = stream.get_ref().1.peer_certificates().filter(|chain| !chain.is_empty());
        let peer = peer.map(|chain| PeerCertificates::new(chain.iter().map(|c| c.clone().into_owned())));
        let connection = Connection::default();
        let service = service_fn({
            let (server, connection) = (self.clone(), connection.clone());
            move |mut request: Request<Incoming>| {
                let extensions = request.extensions_mut();
                extensions.remove::<RequestUser>();
                extensions.insert(connection.clone());
                if let Some(peer) = &peer {
                    extensions.insert(peer.clone());
                }
                server.clone().call(request)
            }
        });
        let mut builder = auto::Builder::new(Eager);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let gathered = Gathered::new(stream, spare);
        let mut serving = Box::pin(builder.serve_connection_with_upgrades(TokioIo::new(gathered.clone()), service));
        tokio::select! {
            ended = in_turns(serving.as_mut(), &gathered, &**clock) => return log_end(ended),
            () = connection.drop.cancelled() => {}
            () = self.parts().stop.cancelled() => {}
        }
        // Says goodbye; what is in flight may finish, but not for ever.
        serving.as_mut().graceful_shutdown();
        tokio::select! {
            ended = in_turns(serving.as_mut(), &gathered, &**clock) => log_end(ended),
            () = clock.sleep(DRAIN) => {}
        }
    }
}

/// Runs a connection to its end, and sends what it has written whenever it waits.
async fn in_turns<S, F>(mut serving: Pin<&mut F>, gathered: &Gathered<S>, clock: &dyn Clock) -> Result<(), BoxError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<(), BoxError>>,
{
    let ended = std::future::poll_fn(|cx| match serving.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(ended),
        Poll::Pending => match gathered.end_turn(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            _ => Poll::Pending,
        },
    })
    .await;
    gathered.end_turns();
    if ended.is_ok() {
        tokio::select! {
            sent = std::future::poll_fn(|cx| gathered.end_turn(cx)) => sent?,
            () = clock.sleep(DRAIN) => {}
        }
    }
    ended
}

fn log_end(ended: Result<(), BoxError>) {
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {error}");
    }
}
