//! HTTP probes and hooks. A redirect is an answer like any other: it is never followed.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction};
use tokio::net::TcpStream;
use wharf_core::clock::Clock;

use super::port_of;

/// Why a GET failed; in the kubelet's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("HTTP probe failed with statuscode: {0}")]
    Status(u16),
    #[error("Get {url:?}: dial tcp {at}: connect: {cause}")]
    Dial { url: String, at: String, cause: String },
    #[error("Get {url:?}: {source}")]
    Talk {
        url: String,
        #[source]
        source: hyper::Error,
    },
    #[error("Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)")]
    Timeout { url: String },
    #[error("this node does not support scheme HTTPS in probes and hooks")]
    Https,
    #[error("the port is not one of the container")]
    Port,
    #[error("invalid request: {0}")]
    Request(#[source] http::Error),
}

/// A GET that is ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Get {
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

/// `host:port`, with brackets where they are needed.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An I/O error as Go prints it.
pub(crate) fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        _ => error.to_string(),
    }
}

pub(crate) fn request(get: &HTTPGetAction, container: &Container, ip: IpAddr) -> Result<Get, HttpError> {
    if get.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https")) {
        return Err(HttpError::Https);
    }
    let path = get.path.as_deref().unwrap_or("/");
    Ok(Get {
        host: get.host.clone().filter(|h| !h.is_empty()).unwrap_or_else(|| ip.to_string()),
        port: port_of(&get.port, container).ok_or(HttpError::Port)?,
        path: if path.starts_with('/') { path.into() } else { format!("/{path}") },
        headers: get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect(),
    })
}

/// Sends the GET; any status from 200 to 399 is success.
pub(crate) async fn probe(clock: &dyn Clock, get: &Get, timeout: Duration) -> Result<(), HttpError> {
    let at = authority(&get.host, get.port);
    let url = format!("http://{at}{}", get.path);
    tokio::select! {
        done = send(get, &at, &url) => done,
        () = clock.sleep(timeout) => Err(HttpError::Timeout { url: url.clone() }),
    }
}

async fn send(get: &Get, at: &str, url: &str) -> Result<(), HttpError> {
    let dial = |e: std::io::Error| HttpError::Dial { url: url.into(), at: at.into(), cause: plain(&e) };
    let talk = |source| HttpError::Talk { url: url.into(), source };
    let stream = TcpStream::connect((get.host.as_str(), get.port)).await.map_err(dial)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(talk)?;
    let mut request = http::Request::get(&get.path).header("Connection", "close");
    let given = |name: &str| get.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    for (name, value) in [("Host", at), ("User-Agent", "kube-probe/1.36"), ("Accept", "*/*")] {
        if !given(name) {
            request = request.header(name, value);
        }
    }
    for (name, value) in &get.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(HttpError::Request)?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    let answer = tokio::select! {
        answer = &mut answer => answer,
        // It may end in the very moment in which it hands over the answer.
        _ = connection => answer.await,
    };
    let answer = answer.map_err(talk)?;
    let status = answer.status().as_u16();
    if (200..400).contains(&status) { Ok(()) } else { Err(HttpError::Status(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use wharf_core::clock::SystemClock;

    async fn answer(status: &'static str) -> (Result<(), HttpError>, String) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let mut text = String::new();
            while !text.contains("\r\n\r\n") {
                let n = stream.read(&mut buffer).await.unwrap();
                text.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
            let body = format!("HTTP/1.1 {status}\r\nLocation: http://other.example/\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(body.as_bytes()).await.unwrap();
            text
        });
        let get = Get { host: "127.0.0.1".into(), port, path: "/healthz?x=1".into(), headers: vec![("X-A".into(), "b".into())] };
        let result = probe(&*SystemClock::shared(), &get, Duration::from_secs(30)).await;
        (result, server.await.unwrap().to_lowercase())
    }

    #[tokio::test]
    async fn statuses_decide_and_redirects_are_not_followed() {
        let (ok, text) = answer("200 OK").await;
        assert!(ok.is_ok() && text.starts_with("get /healthz?x=1 http/1.1") && text.contains("x-a: b"), "{text}");
        assert!(answer("302 Found").await.0.is_ok());
        assert_eq!(answer("500 Oops").await.0.unwrap_err().to_string(), "HTTP probe failed with statuscode: 500");
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let get = Get { host: "127.0.0.1".into(), port, path: "/".into(), headers: vec![] };
        let error = probe(&*SystemClock::shared(), &get, Duration::from_secs(30)).await.unwrap_err().to_string();
        assert_eq!(error, format!("Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused"));
    }
}
