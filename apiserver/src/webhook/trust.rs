//! Whose certificates a webhook may show.

use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Takes what the bundle vouches for, and a certificate that stands in the bundle itself: one that signed itself as an authority serves
/// as well, as with Go.
#[derive(Debug)]
struct Bundled {
    usual: Arc<WebPkiServerVerifier>,
    own: Vec<CertificateDer<'static>>,
}

fn is_in_time(certificate: &CertificateDer<'_>, now: UnixTime) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let valid = parsed.validity();
    (valid.not_before.timestamp()..=valid.not_after.timestamp()).contains(&now)
}

impl ServerCertVerifier for Bundled {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = match self.usual.verify_server_cert(shown, between, name, ocsp, now) {
            Err(refused) if self.own.iter().any(|own| own == shown) => refused,
            answer => return answer,
        };
        // What failed may have been that it is an authority; its name and its time count all the same.
        match refused {
            rustls::Error::InvalidCertificate(CertificateError::Other(_) | CertificateError::UnknownIssuer) => {
                verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
                if is_in_time(shown, now) { Ok(ServerCertVerified::assertion()) } else { Err(CertificateError::Expired.into()) }
            }
            other => Err(other),
        }
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signed)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signed)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities that the machine trusts, read once.
fn system() -> Vec<CertificateDer<'static>> {
    static KNOWN: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    KNOWN.get_or_init(|| rustls_native_certs::load_native_certs().certs).clone()
}

/// TLS towards a webhook: the certificates of a bundle in PEM are trusted, those of the system where it is empty.
///
/// # Errors
/// A bundle that has no certificate.
pub(super) fn config(bundle: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let own: Vec<CertificateDer<'static>> = if bundle.is_empty() {
        system()
    } else {
        CertificateDer::pem_slice_iter(bundle).collect::<Result<_, _>>().map_err(|e| format!("unable to load root certificates: {e}"))?
    };
    let mut roots = RootCertStore::empty();
    let (known, _) = roots.add_parsable_certificates(own.iter().cloned());
    if known == 0 {
        return Err("unable to load root certificates: unable to parse bytes as PEM block".into());
    }
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().map_err(|e| e.to_string())?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Bundled { usual, own }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
