//! A webhook: answers reviews as a closure tells, and counts them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What it answers: a body, or none to keep the caller waiting.
pub type Answers = dyn Fn(&Value) -> Option<(u16, String)> + Send + Sync;

/// A webhook that listens until it is dropped.
pub struct Hook {
    pub address: SocketAddr,
    pub bundle: String,
    pub calls: Arc<AtomicUsize>,
    /// The reviews that it was sent.
    pub seen: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hook {
    /// For names and addresses; `authority` makes its own certificate one that may sign others.
    pub async fn start(names: &[&str], authority: bool, answers: impl Fn(&Value) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        if authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (calls, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (acceptor, answers, counted, noted) = (TlsAcceptor::from(Arc::new(config)), Arc::new(answers), calls.clone(), seen.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answers, calls, seen) = (acceptor.clone(), answers.clone(), counted.clone(), noted.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let serve = service_fn(move |request| answer(request, answers.clone(), calls.clone(), seen.clone()));
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        let bundle = base64::engine::general_purpose::STANDARD.encode(certificate.pem());
        Self { address, bundle, calls, seen, task }
    }

    pub fn count(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
    /// How a configuration names it by its address.
    pub fn by_url(&self, path: &str) -> Value {
        json!({"url": format!("https://{}{path}", self.address), "caBundle": self.bundle})
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: Arc<Answers>,
    calls: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Value>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let body = request.into_body().collect().await?.to_bytes();
    calls.fetch_add(1, Ordering::SeqCst);
    let review: Value = serde_json::from_slice(&body).unwrap();
    seen.lock().push(review.clone());
    match answers(&review) {
        Some((code, text)) => Ok(Response::builder().status(code).body(Full::from(text)).unwrap()),
        None => std::future::pending().await,
    }
}
