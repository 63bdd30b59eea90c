//! Connections to webhooks: by the name of a host, or to what stands behind a Service.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Service;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wharf_core::api::{SharedApi, Target};
use wharf_core::object::ObjectRef;
use wharf_core::runtime::Duplex;

use super::Hook;
use super::hook::Place;
use crate::endpoints;
use crate::stream::proxy::{Dialer, told};

/// Most endpoints of a Service that are tried.
const TRIED: usize = 3;

/// Opens connections to one webhook.
#[derive(Debug, Clone)]
pub(super) struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    hook: Hook,
    api: SharedApi,
    dialer: Arc<dyn Dialer>,
    tls: Arc<ClientConfig>,
}

/// A secured connection.
pub(super) struct Secured {
    stream: TokioIo<TlsStream<Box<dyn Duplex>>>,
    h2: bool,
}

impl Connector {
    pub(super) fn new(hook: Hook, api: SharedApi, dialer: Arc<dyn Dialer>, tls: Arc<ClientConfig>) -> Self {
        Self(Arc::new(Inner { hook, api, dialer, tls }))
    }
}

impl Inner {
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let ips = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) => vec![ip],
            Err(_) => self.dialer.resolve(host).await.map_err(|e| format!("dial tcp: lookup {host}: {e}"))?,
        };
        Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    async fn addresses(&self, uri: &Uri) -> Result<Vec<SocketAddr>, String> {
        match self.hook.place() {
            Place::Url(_) => self.resolve(uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443)).await,
            Place::Service { namespace, name, port, .. } => {
                let target = Target::of::<Service>(ObjectRef::new(namespace.as_str(), name.as_str()));
                let found = self.api.get(&target).await.map_err(|e| e.to_string())?;
                let found = found.decode::<Service>().map_err(|e| e.to_string())?;
                let spec = found.spec.clone().unwrap_or_default();
                if spec.type_.as_deref() == Some("ExternalName") {
                    return self.resolve(spec.external_name.as_deref().unwrap_or_default(), *port).await;
                }
                let ports = spec.ports.unwrap_or_default();
                let Some(found) = ports.iter().find(|p| p.port == i32::from(*port)) else {
                    return Err(format!("no service port {port} found for service {name:?}"));
                };
                let ready = endpoints::ready(&self.api, namespace, name, found.name.as_deref().unwrap_or_default()).await;
                let mut addresses: Vec<SocketAddr> = ready
                    .map_err(|e| e.to_string())?
                    .candidates
                    .iter()
                    .filter_map(|endpoint| Some(SocketAddr::new(endpoint.address.parse().ok()?, endpoint.port)))
                    .collect();
                if addresses.is_empty() {
                    return Err(format!("no endpoints available for service {name:?}"));
                }
                let start = rand::random_range(0..addresses.len());
                addresses.rotate_left(start);
                Ok(addresses)
            }
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Secured, String> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|e| format!("{host}: {e}"))?;
        let mut failed = format!("dial tcp: lookup {host}: no such host");
        for address in self.addresses(uri).await?.into_iter().take(TRIED) {
            match self.dialer.dial(address).await {
                Ok(stream) => {
                    let secured = TlsConnector::from(self.tls.clone()).connect(name, stream).await;
                    let stream = secured.map_err(|e| format!("tls: failed to verify certificate or to agree: {e}"))?;
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    return Ok(Secured { stream: TokioIo::new(stream), h2 });
                }
                Err(error) => failed = told(address, &error),
            }
        }
        Err(failed)
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Secured;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Secured>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, uri: Uri) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move { inner.connect(&uri).await.map_err(io::Error::other) })
    }
}

impl Connection for Secured {
    fn connected(&self) -> Connected {
        if self.h2 { Connected::new().negotiated_h2() } else { Connected::new() }
    }
}

impl Read for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
