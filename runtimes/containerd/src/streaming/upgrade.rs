//! The way to the streaming endpoint: one connection to this machine, upgraded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::Bytes;
use futures::future::{Either, select};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderName, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wharf_core::runtime::{RuntimeError, RuntimeResult};

use crate::client::{Cri, STREAM_TIMEOUT};
use crate::error::CriError;

const SPDY: &str = "SPDY/3.1";
const PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// What is read of a refusal, in bytes.
const MAX_REFUSAL: usize = 4 << 10;

/// A connection that speaks SPDY.
pub(super) type Stream = TokioIo<Upgraded>;

/// Where to connect. The path holds a secret and the endpoint is not authenticated, so it has to be on this machine.
fn address(url: &str) -> Result<(SocketAddr, Uri), CriError> {
    let wrong = |why| CriError::Endpoint { url: url.to_string(), why };
    let uri: Uri = url.parse().map_err(|_| wrong("which is no URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("which is not plain HTTP: turn TLS streaming off, it never leaves this machine"));
    }
    let host = uri.host().ok_or_else(|| wrong("which has no host"))?;
    const LOCAL: &str = "which is not on the loopback: set the runtime's stream_server_address (CRI-O: stream_address) to 127.0.0.1";
    let ip = match host.trim_matches(['[', ']']) {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().map_err(|_| wrong(LOCAL))?,
    };
    let ip = match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip if ip.is_loopback() => ip,
        _ => return Err(wrong(LOCAL)),
    };
    let port = uri.port_u16().ok_or_else(|| wrong("which has no port"))?;
    Ok((SocketAddr::new(ip, port), uri))
}

/// Upgrades a connection to SPDY with one of the stream protocols.
pub(super) async fn upgrade(cri: &Cri, op: &'static str, url: &str, protocol: &'static str) -> RuntimeResult<Stream> {
    let (address, uri) = address(url).map_err(|e| RuntimeError::permanent(op, e))?;
    match select(Box::pin(open(address, uri, protocol)), cri.clock.sleep(STREAM_TIMEOUT)).await {
        Either::Left((stream, _)) => stream.map_err(|message| RuntimeError::transient(op, CriError::Streaming(message))),
        Either::Right(_) => Err(RuntimeError::transient(op, CriError::Unanswered { endpoint: address.to_string(), limit: STREAM_TIMEOUT })),
    }
}

async fn open(address: SocketAddr, uri: Uri, protocol: &'static str) -> Result<Stream, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| format!("cannot connect to {address}: {e}"))?;
    let broken = |e: hyper::Error| format!("{address}: {}", crate::error::chain(&e));
    // Keystrokes are not to wait for each other.
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with the connection, which ends with what is returned here.
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to the streaming endpoint ended");
        }
    });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(HOST, address.to_string())
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, SPDY)
        .header(PROTOCOL, protocol)
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let response = sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
        let body = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned()).unwrap_or_default();
        return Err(format!("{address} answered {status} to an upgrade: {body}"));
    }
    let agreed = response.headers().get(PROTOCOL).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string();
    if agreed != protocol {
        return Err(format!("{address} speaks {agreed:?}, not {protocol}"));
    }
    hyper::upgrade::on(response).await.map(TokioIo::new).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_streamed_from() {
        assert_eq!(address("http://127.0.0.1:4/exec/x").unwrap().0.to_string(), "127.0.0.1:4");
        assert_eq!(address("http://[::]:4/exec/x").unwrap().0.to_string(), "[::1]:4");
        assert_eq!(address("http://localhost:4/exec/x").unwrap().1.path(), "/exec/x");
        for url in ["http://192.0.2.1:4/x", "https://127.0.0.1:4/x", "http://example.test:4/x", "http://127.0.0.1/x", "/x", ""] {
            assert!(address(url).is_err(), "{url}");
        }
    }
}
