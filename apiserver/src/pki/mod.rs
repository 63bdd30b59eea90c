//! The cluster's certificates and keys: made in memory, kept in a directory that only its owner may read, or in the store that several
//! API servers share.

mod kubeconfig;
mod persist;
mod shared;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use wharf_core::clock::Clock;
use wharf_core::store::SharedStore;

pub use kubeconfig::{Credential, kubeconfig};
pub use shared::record_key;

use crate::gate::authentication::TokenKey;

/// How long the CA is good for, in years.
pub const CA_YEARS: i64 = 10;
/// How long other certificates are good for, in years.
pub const LEAF_YEARS: i64 = 1;
/// Names that the serving certificate always has.
pub const SERVING_NAMES: [&str; 5] =
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"];
/// Addresses that the serving certificate always has.
pub const SERVING_ADDRESSES: [&str; 2] = ["127.0.0.1", "::1"];
/// Group of administrators; bound to `cluster-admin` by a ClusterRoleBinding, as kubeadm does.
pub const ADMIN_GROUP: &str = "kubeadm:cluster-admins";

/// What making or reading certificates can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A name is no DNS name, or a key could not be made.
    #[error("cannot make the certificate of {subject:?}: {source}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why.
        #[source]
        source: wharf_core::runtime::BoxError,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {expected}", path = path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// The keys that API servers share could not be read from the store, or written to it.
    #[error("the keys in the store cannot be reached: {0}")]
    Store(#[source] wharf_core::store::StoreError),
    /// rustls refuses the certificates.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[source] wharf_core::runtime::BoxError),
}

/// A certificate with its key, both in PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl Identity {
    /// The certificate and key as rustls takes them.
    ///
    /// # Errors
    /// When the PEM does not parse.
    pub fn der(&self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), PkiError> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|e| PkiError::Tls(Box::new(e)))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| PkiError::Tls(Box::new(e)))?;
        Ok((certificate, key))
    }
}

/// The cluster's CA and the key for service-account tokens.
pub struct Pki {
    ca: Identity,
    issuer: Issuer<'static, KeyPair>,
    token_key: TokenKey,
    token_key_pem: String,
    admin_token: String,
    not_before: Timestamp,
}

/// A bearer token that nobody guesses.
fn random_token() -> String {
    format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

impl fmt::Debug for Pki {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pki").field("token_key", &self.token_key).finish_non_exhaustive()
    }
}

fn failed(subject: &str) -> impl FnOnce(rcgen::Error) -> PkiError + '_ {
    move |source| PkiError::Certificate { subject: subject.to_owned(), source: Box::new(source) }
}

fn params(name: &str, group: Option<&str>, from: Timestamp, years: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(group) = group {
        subject.push(DnType::OrganizationName, group);
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    // Whole days, and one day of leave for clocks that run slow.
    let day = |at: Timestamp, days: i64| {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date().saturating_add(days.days());
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(from, -1);
    params.not_after = day(from, 365 * years);
    params
}

impl Pki {
    /// A new CA and token key, in memory.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn generate(clock: &dyn Clock) -> Result<Self, PkiError> {
        const NAME: &str = "kubernetes";
        let key = KeyPair::generate().map_err(failed(NAME))?;
        let mut ca = params(NAME, None, clock.now(), CA_YEARS);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.subject_alt_names = vec![SanType::DnsName(NAME.try_into().map_err(failed(NAME))?)];
        let certificate = ca.self_signed(&key).map_err(failed(NAME))?;
        let token = KeyPair::generate().map_err(failed("service accounts"))?;
        Self::assemble(
            Identity { certificate: certificate.pem(), key: key.serialize_pem() },
            token.serialize_pem(),
            random_token(),
            clock.now(),
            Path::new("memory"),
        )
    }

    /// The CA and token key in a directory, made on first use. The directory gets mode 0700, keys 0600.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds something else.
    pub fn load_or_generate(dir: &Path, clock: &dyn Clock) -> Result<Self, PkiError> {
        persist::load_or_generate(dir, clock)
    }

    /// The CA and token key in a directory, if it has any.
    ///
    /// # Errors
    /// When a file cannot be read, or holds something else.
    pub fn load(dir: &Path, clock: &dyn Clock) -> Result<Option<Self>, PkiError> {
        persist::load(dir, clock)
    }

    /// The keys that every API server over a store has: those in the store, or new ones that are then in the store. Whoever may read all of
    /// the store may read them; a store that encrypts should encrypt [`record_key`]'s resource too.
    ///
    /// # Errors
    /// When the store fails, or holds something else.
    pub async fn of_store(store: &SharedStore, clock: &dyn Clock) -> Result<Self, PkiError> {
        shared::of_store(store, clock).await
    }

    /// Puts these keys into a store that has none. Says whether the store has these now, or others that it had before.
    ///
    /// # Errors
    /// As [`Pki::of_store`].
    pub async fn publish(&self, store: &SharedStore) -> Result<bool, PkiError> {
        shared::publish(self, store).await
    }

    fn assemble(ca: Identity, token_key_pem: String, admin_token: String, now: Timestamp, origin: &Path) -> Result<Self, PkiError> {
        let content = |expected| PkiError::Content { path: origin.to_owned(), expected };
        let key = KeyPair::from_pem(&ca.key).map_err(|_| content("private key of the CA"))?;
        let issuer = Issuer::from_ca_cert_pem(&ca.certificate, key).map_err(|_| content("CA certificate"))?;
        let token = KeyPair::from_pem(&token_key_pem).map_err(|_| content("private key for tokens"))?;
        let token_key = TokenKey::from_pkcs8(token.serialized_der()).map_err(|_| content("P-256 key for tokens"))?;
        Ok(Self { ca, issuer, token_key, token_key_pem, admin_token, not_before: now })
    }

    /// The CA's certificate in PEM.
    pub fn ca_certificate(&self) -> &str {
        &self.ca.certificate
    }
    /// The administrator's bearer token: as lasting as the keys where they are in a store, new in each process where they are in a folder.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }
    /// The key for service-account tokens.
    pub fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    /// A serving certificate for these names and addresses besides [`SERVING_NAMES`] and [`SERVING_ADDRESSES`]. Give the
    /// address of the `kubernetes` Service here.
    ///
    /// # Errors
    /// When a name is no DNS name.
    pub fn serving(&self, names: &[String], addresses: &[IpAddr]) -> Result<Identity, PkiError> {
        const NAME: &str = "kube-apiserver";
        let mut params = params(NAME, None, self.not_before, LEAF_YEARS);
        for name in SERVING_NAMES.into_iter().chain(names.iter().map(String::as_str)) {
            let san = match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.try_into().map_err(failed(name))?),
            };
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
        let always = SERVING_ADDRESSES.iter().filter_map(|a| a.parse().ok());
        for address in always.chain(addresses.iter().copied()).map(SanType::IpAddress) {
            if !params.subject_alt_names.contains(&address) {
                params.subject_alt_names.push(address);
            }
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(NAME, params)
    }

    /// A client certificate for a user, and the group it is in. Good for a year from when the CA was loaded.
    ///
    /// # Errors
    /// When the certificate cannot be made.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Identity, PkiError> {
        let mut params = params(user, group, self.not_before, LEAF_YEARS);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(user, params)
    }

    /// The administrator's client certificate: `kubernetes-admin` in [`ADMIN_GROUP`].
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn admin(&self) -> Result<Identity, PkiError> {
        self.client("kubernetes-admin", Some(ADMIN_GROUP))
    }

    /// A node agent's client certificate: `system:node:NAME` in `system:nodes`.
    ///
    /// # Errors
    /// As [`client`](Self::client).
    pub fn node(&self, name: &str) -> Result<Identity, PkiError> {
        self.client(&format!("system:node:{name}"), Some("system:nodes"))
    }

    fn issue(&self, subject: &str, mut params: CertificateParams) -> Result<Identity, PkiError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed(subject))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed(subject))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::authentication::client_certificate::user_of;
    use wharf_core::clock::SystemClock;

    #[test]
    fn a_node_certificate_names_its_node() {
        let pki = Pki::generate(&SystemClock::default()).unwrap();
        let (certificate, _) = pki.node("n1").unwrap().der().unwrap();
        let user = user_of(&certificate).unwrap();
        assert_eq!(user.name, "system:node:n1");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
    }

    #[test]
    fn serving_names_are_kept_apart_from_addresses() {
        let pki = Pki::generate(&SystemClock::default()).unwrap();
        let identity = pki.serving(&["wharf.test".into(), "10.1.2.3".into()], &["10.96.0.1".parse().unwrap()]).unwrap();
        let (der, _) = identity.der().unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let names = format!("{:?}", certificate.subject_alternative_name().unwrap().unwrap().value);
        for expected in [
            "DNSName(\"wharf.test\")",
            "DNSName(\"kubernetes.default.svc\")",
            "IPAddress([10, 96, 0, 1])",
            "IPAddress([10, 1, 2, 3])",
            "IPAddress([127, 0, 0, 1])",
        ] {
            assert!(names.contains(expected), "{expected} is not in {names}");
        }
        assert!(pki.serving(&["\u{fc}".into()], &[]).is_err());
    }

    #[test]
    fn a_directory_keeps_the_same_ca_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("wharf-pki-{}", uuid::Uuid::new_v4()));
        let first = Pki::load_or_generate(&dir, &SystemClock::default()).unwrap();
        let second = Pki::load_or_generate(&dir, &SystemClock::default()).unwrap();
        assert_eq!(first.ca_certificate(), second.ca_certificate());
        assert_eq!(first.token_key().jwks(), second.token_key().jwks());
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(dir.join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(dir.join("ca.key"), "nonsense").unwrap();
        assert!(matches!(Pki::load_or_generate(&dir, &SystemClock::default()), Err(PkiError::Content { .. })));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
