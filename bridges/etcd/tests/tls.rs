//! Serving over TLS, to clients with a certificate; and what is beside gRPC.

// The whole file is a test, though not in the eyes of the linter.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::ErrorKind;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wharf_bridge_etcd::{BridgeTls, EtcdBridge, ServeError};
use wharf_core::clock::SystemClock;
use wharf_core::store::{ObjectStore, Revision};
use wharf_core::testing::omit;
use wharf_store_etcd::{EtcdOptions, EtcdStore, EtcdTls};
use wharf_store_memory::MemoryStore;

use crate::support::Served;

struct Ca {
    pem: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem().into_bytes(), issuer: Issuer::new(params, key) }
    }
    /// Certificate and key.
    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).unwrap().pem().into_bytes(), key.serialize_pem().into_bytes())
    }
}

async fn bridge() -> EtcdBridge {
    EtcdBridge::builder(Arc::new(MemoryStore::new()), SystemClock::shared()).build().await.unwrap()
}

#[tokio::test]
async fn a_client_needs_a_certificate_of_the_right_authority() {
    let (ca, other) = (Ca::new(), Ca::new());
    let (certificate, key) = ca.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bridge = bridge().await;
    let tls = BridgeTls { certificate, key, client_ca: ca.pem.clone() };
    let server = tokio::spawn(async move { bridge.serve(listener, tls, std::future::pending()).await });
    let connect = async |identity| {
        let tls = EtcdTls { ca: ca.pem.clone(), identity, server_name: Some("localhost".into()) };
        let options = EtcdOptions { tls: Some(tls), ..EtcdOptions::new([format!("https://127.0.0.1:{port}")]) };
        EtcdStore::connect(options, SystemClock::shared()).await
    };
    let store = connect(Some(ca.issue(ExtendedKeyUsagePurpose::ClientAuth))).await.unwrap();
    assert_eq!(store.revision().await.unwrap(), Revision(1));
    assert!(connect(None).await.is_err());
    assert!(connect(Some(other.issue(ExtendedKeyUsagePurpose::ClientAuth))).await.is_err());
    server.abort();
}

/// Its calls of maintenance have the URL as `:authority`, behind the encryption.
#[tokio::test]
async fn etcdctl_asks_for_the_status_of_an_url() {
    if let Err(error) = std::process::Command::new("etcdctl").env("ETCDCTL_API", "3").arg("version").output() {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        return omit("bridge.tls.etcdctl", "etcdctl is missing: install Debian's etcd-client");
    }
    let ca = Ca::new();
    let (certificate, key) = ca.issue(ExtendedKeyUsagePurpose::ServerAuth);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let bridge = bridge().await;
    let tls = BridgeTls { certificate, key, client_ca: ca.pem.clone() };
    let server = tokio::spawn(async move { bridge.serve(listener, tls, std::future::pending()).await });
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = ca.issue(ExtendedKeyUsagePurpose::ClientAuth);
    let file = |name: &str, content: &[u8]| {
        std::fs::write(folder.path().join(name), content).unwrap();
        folder.path().join(name)
    };
    let mut command = tokio::process::Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints=https://localhost:{port}")).kill_on_drop(true);
    for (option, path) in [("--cacert", file("ca", &ca.pem)), ("--cert", file("cert", &certificate)), ("--key", file("key", &key))] {
        command.arg(option).arg(path);
    }
    let output = command.args(["endpoint", "status", "-w", "json"]).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains(r#""version":"3.6.0""#));
    server.abort();
}

#[tokio::test]
async fn bad_certificates_are_said() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = BridgeTls { certificate: b"no".to_vec(), key: b"no".to_vec(), client_ca: b"no".to_vec() };
    let error = bridge().await.serve(listener, tls, std::future::pending()).await.unwrap_err();
    assert!(matches!(error, ServeError::Tls { .. }) && error.to_string().contains("PEM"), "{error}");
}

#[tokio::test]
async fn health_and_version_are_told_over_http() {
    let served = Served::memory().await;
    for (path, expected) in [("/health", r#"{"health":"true""#), ("/version", r#"{"etcdserver":"3.6.0""#)] {
        let mut stream = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(expected), "{answer}");
    }
}
