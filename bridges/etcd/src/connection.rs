//! Connections of clients: encrypted or not, and with their authorities mended.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Stream, StreamExt};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::{Connected, TcpIncoming};
use wharf_core::clock::Clock;

use crate::BridgeTls;
use crate::authority::Mender;

/// Most TLS handshakes at once; further clients wait to be accepted.
const MAX_HANDSHAKES: usize = 256;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read at once while authorities are looked for.
const READ: usize = 4 << 10;

/// Why certificates cannot be used.
pub(crate) type TlsError = Box<dyn std::error::Error + Send + Sync>;

/// HTTP/2 over TLS, to clients with a certificate of the CA.
pub(crate) fn acceptor(tls: &BridgeTls) -> Result<TlsAcceptor, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&tls.client_ca) {
        roots.add(certificate?)?;
    }
    // Named, because a process may hold more than one provider.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let chain = CertificateDer::pem_slice_iter(&tls.certificate).collect::<Result<Vec<_>, _>>()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&tls.key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The connections of a listener, once they can be read from.
pub(crate) fn incoming(
    listener: TcpIncoming,
    tls: Option<TlsAcceptor>,
    clock: Arc<dyn Clock>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let accepted = listener.map(move |accepted| connect(accepted, tls.clone(), clock.clone()));
    accepted.buffer_unordered(MAX_HANDSHAKES).filter_map(std::future::ready)
}

/// `None` for a client that does not come to speak.
async fn connect(accepted: io::Result<TcpStream>, tls: Option<TlsAcceptor>, clock: Arc<dyn Clock>) -> Option<io::Result<Connection>> {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => return Some(Err(error)),
    };
    let Some(tls) = tls else { return Some(Ok(Connection::new(Box::new(stream)))) };
    let stream = tokio::select! {
        stream = tls.accept(stream) => stream,
        () = clock.sleep(HANDSHAKE_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
    };
    match stream {
        Ok(stream) => Some(Ok(Connection::new(Box::new(stream)))),
        Err(error) => {
            tracing::debug!("a TLS handshake failed: {error}");
            None
        }
    }
}

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A client's connection, on whose way in authorities are mended.
pub(crate) struct Connection {
    inner: Box<dyn Transport>,
    /// Until it has nothing left to do.
    mending: Option<Box<Mending>>,
}

struct Mending {
    mender: Mender,
    /// What has come and can be read, from a position on.
    passed: Vec<u8>,
    read: usize,
}

impl Connection {
    fn new(inner: Box<dyn Transport>) -> Self {
        let mending = Mending { mender: Mender::new(), passed: Vec::new(), read: 0 };
        Self { inner, mending: Some(Box::new(mending)) }
    }
}

impl Mending {
    /// Takes what came; nothing for the end.
    fn take(&mut self, input: &[u8]) {
        self.passed.clear();
        self.read = 0;
        if input.is_empty() {
            self.mender.finish(&mut self.passed);
        } else {
            self.mender.push(input, &mut self.passed);
        }
    }

    /// Hands out what can be read. False if that is nothing.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let rest = self.passed.get(self.read..).unwrap_or_default();
        let now = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..now]);
        self.read += now;
        now > 0
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while let Some(mending) = &mut this.mending {
            if buffer.remaining() == 0 || mending.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            if mending.mender.is_done() {
                this.mending = None;
                break;
            }
            let mut bytes = [0; READ];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            mending.take(read.filled());
        }
        Pin::new(&mut this.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}
