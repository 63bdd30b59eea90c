//! An API server over the memory store, and requests to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpStream;
use wharf_apiserver::ApiServer;
use wharf_apiserver::request::User;
use wharf_apiserver::rest::path;
use wharf_apiserver::stream::proxy::Dialer;
use wharf_core::clock::{Clock, ManualClock, SystemClock};
use wharf_core::runtime::Duplex;
use wharf_store_memory::MemoryStore;

/// Reaches `10.7.7.7`, where pods are, by way of loopback.
#[derive(Debug, Default)]
pub struct Pods {
    /// Where the pods listen.
    pub port: Mutex<u16>,
}

#[async_trait]
impl Dialer for Pods {
    async fn dial(&self, address: SocketAddr) -> io::Result<Box<dyn Duplex>> {
        let to = if address.ip() == IpAddr::from([10, 7, 7, 7]) { SocketAddr::from(([127, 0, 0, 1], *self.port.lock())) } else { address };
        Ok(Box::new(TcpStream::connect(to).await?))
    }
    async fn resolve(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::Error::other("no such host"))
    }
}

pub struct World {
    pub server: ApiServer,
    pub pods: Arc<Pods>,
}

impl World {
    pub async fn new() -> Self {
        Self::by(Arc::new(SystemClock::default())).await
    }
    pub async fn manual() -> (Self, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Self::by(clock.clone()).await, clock)
    }
    async fn by(clock: Arc<dyn Clock>) -> Self {
        let pods = Arc::new(Pods::default());
        let server = ApiServer::builder(Arc::new(MemoryStore::new()), clock).dialer(pods.clone()).build().await.unwrap();
        Self { server, pods }
    }
    pub async fn send(&self, method: Method, uri: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(uri).header("content-type", content_type);
        let request = request.body(body.into()).unwrap();
        let info = path::parse(request.method(), request.uri());
        let response = self.server.rest().handle(request, &info, &Arc::new(User::master("admin"))).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (parts.status.as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
    pub async fn get(&self, uri: &str) -> (u16, Value) {
        self.send(Method::GET, uri, "", "").await
    }
    pub async fn post(&self, uri: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, uri, "application/json", body.to_string()).await
    }
    pub async fn put(&self, uri: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PUT, uri, "application/json", body.to_string()).await
    }
    pub async fn patch(&self, uri: &str, body: &Value) -> (u16, Value) {
        self.send(Method::PATCH, uri, "application/merge-patch+json", body.to_string()).await
    }
    pub async fn delete(&self, uri: &str) -> (u16, Value) {
        self.send(Method::DELETE, uri, "application/json", "").await
    }
    /// Waits for what comes about by itself.
    pub async fn until(&self, uri: &str, holds: impl Fn(u16, &Value) -> bool) -> Value {
        loop {
            let (code, value) = self.get(uri).await;
            if holds(code, &value) {
                return value;
            }
            tokio::task::yield_now().await;
        }
    }
}
