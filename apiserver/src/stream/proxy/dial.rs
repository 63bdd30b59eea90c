//! Connections to what requests are passed on to.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use wharf_core::runtime::Duplex;

/// Opens connections to pods and nodes, for `proxy`.
///
/// # Contract
/// Addresses have been validated: a dialer goes exactly where it is told.
///
/// # Cancellation
/// A dropped call leaves no connection behind.
///
/// # Errors
/// As the system tells them; the client reads them.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// One who reaches pods by another way than the machine's own network, such as a tunnel, says so here.
#[async_trait]
pub trait Dialer: Send + Sync + fmt::Debug + 'static {
    /// Opens a connection.
    async fn dial(&self, address: SocketAddr) -> io::Result<Box<dyn Duplex>>;
    /// The addresses of a name.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's own network.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetworkDialer;

#[async_trait]
impl Dialer for NetworkDialer {
    async fn dial(&self, address: SocketAddr) -> io::Result<Box<dyn Duplex>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// Takes any certificate, as Kubernetes does here: pods have none that anybody has signed. Who asks for `https:` asks for secrecy on
/// the way, not for proof of who is at its end.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// TLS over a connection.
pub(super) async fn secure(stream: Box<dyn Duplex>, address: IpAddr) -> io::Result<Box<dyn Duplex>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(ServerName::IpAddress(address.into()), stream).await?))
}

/// A failure as Go tells it, which is what clients know.
pub(crate) fn told(address: SocketAddr, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::TimedOut => return format!("dial tcp {address}: i/o timeout"),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: connect: {why}")
}
