//! A bridge over a store in memory, and raw requests to it or to an etcd.

// The whole file is a test, though not in the eyes of the linter; and each test uses a part of it.
#![allow(clippy::unwrap_used, dead_code)]

pub mod kubernetes;

use std::sync::Arc;

use etcd_client::proto::{PbTxnOpRequest, PbTxnRequestOp};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{IntoRequest, IntoStreamingRequest, Status, Streaming};
use tonic_prost::ProstCodec;
use wharf_bridge_etcd::{EtcdBridge, EtcdBridgeBuilder};
use wharf_core::clock::{Clock, SystemClock};
use wharf_core::store::SharedStore;
use wharf_store_memory::MemoryStore;

/// A bridge that is served on a port of its own, without TLS, until it is dropped.
pub struct Served {
    pub endpoint: String,
    pub port: u16,
    shutdown: Option<oneshot::Sender<()>>,
    server: JoinHandle<()>,
}

impl Served {
    pub async fn over(store: SharedStore) -> Self {
        Self::with(EtcdBridge::builder(store, SystemClock::shared())).await
    }
    pub async fn memory() -> Self {
        Self::over(Arc::new(MemoryStore::new())).await
    }
    pub async fn clocked(store: SharedStore, clock: Arc<dyn Clock>) -> Self {
        Self::with(EtcdBridge::builder(store, clock)).await
    }
    pub async fn with(builder: EtcdBridgeBuilder) -> Self {
        let bridge = builder.build().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (shutdown, ended) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let ended = async {
                let _ = ended.await;
            };
            bridge.serve_without_tls(listener, ended).await.unwrap();
        });
        Self { endpoint: format!("http://127.0.0.1:{port}"), port, shutdown: Some(shutdown), server }
    }
    pub async fn raw(&self) -> Raw {
        Raw::to(&self.endpoint).await
    }
    /// Ends as a shutdown does, with what is under way.
    pub async fn stop(mut self) {
        drop(self.shutdown.take());
        (&mut self.server).await.unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        self.server.abort();
    }
}

/// A way to a port of loopback whose connections can be lost.
pub struct Wire {
    pub endpoint: String,
    cut: watch::Sender<()>,
    carrier: JoinHandle<()>,
}

impl Wire {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let cut = watch::Sender::new(());
        let cuts = cut.clone();
        let carrier = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { endpoint, cut, carrier }
    }
    /// Loses every connection that there is.
    pub fn cut(&self) {
        self.cut.send_replace(());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.carrier.abort();
    }
}

/// Sends messages as they are.
#[derive(Clone)]
pub struct Raw {
    grpc: Grpc<Channel>,
    metadata: MetadataMap,
}

impl Raw {
    pub async fn to(endpoint: &str) -> Self {
        let channel = Endpoint::from_shared(endpoint.to_owned()).unwrap().connect().await.unwrap();
        Self { grpc: Grpc::new(channel).max_decoding_message_size(64 << 20), metadata: MetadataMap::new() }
    }

    /// With something that is sent beside every message.
    pub fn with(mut self, key: &'static str, value: &'static str) -> Self {
        self.metadata.insert(key, value.parse().unwrap());
        self
    }

    /// One request to `SERVICE/METHOD` of etcd's.
    pub async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.unwrap();
        let mut request = request.into_request();
        *request.metadata_mut() = self.metadata.clone();
        grpc.unary(request, path(method), ProstCodec::default()).await.map(|answer| answer.into_inner())
    }

    /// Requests to `SERVICE/METHOD` of etcd's, and its answers.
    pub async fn stream<Q, A>(&self, method: &'static str, requests: impl futures::Stream<Item = Q> + Send + 'static) -> Streaming<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.unwrap();
        let mut requests = requests.into_streaming_request();
        *requests.metadata_mut() = self.metadata.clone();
        let answers = grpc.streaming(requests, path(method), ProstCodec::default()).await;
        answers.unwrap().into_inner()
    }
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::try_from(format!("/etcdserverpb.{method}")).unwrap()
}

pub fn op(request: PbTxnOpRequest) -> PbTxnRequestOp {
    PbTxnRequestOp { request: Some(request) }
}
