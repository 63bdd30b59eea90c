//! `proxy` of pods, services and nodes: a request is passed on as it is, and so is what comes back.

mod dial;
mod headers;
mod target;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio_util::sync::CancellationToken;
use wharf_core::api::SharedApi;
use wharf_core::clock::Clock;
use wharf_core::runtime::BoxError;

pub(crate) use self::dial::told;
pub use self::dial::{Dialer, NetworkDialer};
use self::target::{Backend, unreachable_service};
use crate::request::RequestInfo;
use crate::server::Body;
use crate::server::body::{empty, failure};

/// How long a backend may take to accept a connection; Kubernetes' own.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// Passes requests on. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Proxy {
    api: SharedApi,
    dialer: Arc<dyn Dialer>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
}

/// The path of a request as it is, and what of it is for the backend.
#[derive(Debug, PartialEq, Eq)]
struct Split<'a> {
    prefix: &'a str,
    rest: &'a str,
}

/// Cuts a path behind `proxy`. What is behind it stays as it was written.
fn cut<'a>(path: &'a str, info: &RequestInfo) -> Split<'a> {
    // `api`, the version, the namespace if there is one, the resource, the name and `proxy`.
    let mut left = if info.namespace.is_empty() { 5 } else { 7 };
    let mut at = 0;
    for part in path.split_inclusive('/') {
        if part != "/" {
            if left == 0 {
                break;
            }
            left -= 1;
        } else if left == 0 {
            break;
        }
        at += part.len();
    }
    let cut = if left == 0 && path[..at].ends_with('/') { at - 1 } else { at };
    Split { prefix: &path[..cut], rest: &path[cut..] }
}

fn is_upgrade(parts: &Parts) -> bool {
    let values = parts.headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    parts.headers.contains_key(header::UPGRADE) && values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case("upgrade"))
}

fn internal(message: impl Into<String>) -> Box<Status> {
    Box::new(failure(500, "", message))
}

impl Proxy {
    /// Objects are looked up in `api`, which answers without authorization, and reached through `dialer`. Connections end with `stop`.
    pub fn new(api: SharedApi, dialer: Arc<dyn Dialer>, clock: Arc<dyn Clock>, stop: CancellationToken) -> Self {
        Self { api, dialer, clock, stop }
    }

    /// Whether a request is to be passed on.
    pub fn serves(info: &RequestInfo) -> bool {
        info.is_resource
            && info.group.is_empty()
            && info.version == "v1"
            && info.subresource == "proxy"
            && !info.name.is_empty()
            && match info.resource.as_str() {
                "pods" | "services" => !info.namespace.is_empty(),
                "nodes" => info.namespace.is_empty(),
                _ => false,
            }
    }

    /// Passes on a request that has been authorized. A redirect is an answer like others: it is not followed.
    ///
    /// # Errors
    /// What the client is told.
    pub async fn serve(
        &self,
        info: &RequestInfo,
        parts: Parts,
        upgrade: Option<OnUpgrade>,
        body: Body,
    ) -> Result<Response<Body>, Box<Status>> {
        let backend = target::find(&self.api, &*self.dialer, info).await?;
        let Split { prefix, rest } = cut(parts.uri.path(), info);
        let upgrading = is_upgrade(&parts);
        if rest.is_empty() && !upgrading && matches!(parts.method, Method::GET | Method::HEAD) {
            return Ok(to_root(prefix, parts.uri.query()));
        }
        let asked = host(&parts);
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.uri_mut() = path_and_query(rest, parts.uri.query())?;
        *request.headers_mut() = parts.headers;
        let upgrading = upgrading.then(|| request.headers().get(header::UPGRADE).cloned()).flatten();
        headers::strip_hops(request.headers_mut());
        if let Ok(value) = HeaderValue::from_str(asked.as_str()) {
            request.headers_mut().insert(header::HOST, value);
        }
        if let Some(protocol) = &upgrading {
            request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            request.headers_mut().insert(header::UPGRADE, protocol.clone());
        } else if let Ok(value) = HeaderValue::from_str(&headers::behind(prefix, rest)) {
            request.headers_mut().insert("x-forwarded-uri", value);
        }
        let failed =
            |why: String| if upgrading.is_some() { internal(format!("error dialing backend: {why}")) } else { unreachable_service(&why) };
        let answer = self.send(backend, request).await.map_err(failed)?;
        if upgrading.is_some() {
            return self.upgraded(answer, upgrade);
        }
        let (mut head, body) = answer.into_parts();
        headers::strip_hops(&mut head.headers);
        headers::strip_answer(&mut head.headers);
        if let Some(location) = head.headers.get(header::LOCATION).and_then(|v| v.to_str().ok()) {
            let location = headers::rewrite(location, &backend.address.to_string(), &asked, prefix);
            if let Ok(value) = HeaderValue::from_str(&location) {
                head.headers.insert(header::LOCATION, value);
            }
        }
        Ok(Response::from_parts(head, body.map_err(BoxError::from).boxed_unsync()))
    }

    async fn connect(&self, backend: Backend) -> io::Result<Box<dyn wharf_core::runtime::Duplex>> {
        let stream = self.dialer.dial(backend.address).await?;
        if backend.tls { dial::secure(stream, backend.address.ip()).await } else { Ok(stream) }
    }

    async fn send(&self, backend: Backend, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, String> {
        let stream = tokio::select! {
            stream = self.connect(backend) => stream,
            () = self.clock.sleep(DIAL_TIMEOUT) => Err(io::ErrorKind::TimedOut.into()),
        };
        let stream = stream.map_err(|e| told(backend.address, &e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let stop = self.stop.clone();
        // Named: the compiler cannot see that the anonymous future is `Send`.
        let connection: BoxFuture<'static, hyper::Result<()>> = Box::pin(connection.with_upgrades());
        // It ends with the answer, or with the connection that it becomes.
        tokio::spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(connection).await {
                tracing::debug!("a connection to a backend broke: {error}");
            }
        });
        sender.send_request(request).await.map_err(|e| e.to_string())
    }

    /// Ties both connections together, where the backend agrees to an upgrade.
    fn upgraded(&self, mut answer: Response<hyper::body::Incoming>, client: Option<OnUpgrade>) -> Result<Response<Body>, Box<Status>> {
        let code = answer.status();
        if code != StatusCode::SWITCHING_PROTOCOLS {
            if code.as_u16() < 400 {
                return Err(internal(format!("invalid upgrade response: status code {}", code.as_u16())));
            }
            let (mut head, body) = answer.into_parts();
            headers::strip_hops(&mut head.headers);
            return Ok(Response::from_parts(head, body.map_err(BoxError::from).boxed_unsync()));
        }
        let client = client.ok_or_else(|| internal("request connection cannot be hijacked"))?;
        let backend = hyper::upgrade::on(&mut answer);
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let carry = async {
                let (client, backend) = tokio::try_join!(client, backend).map_err(|e| e.to_string())?;
                let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
                tokio::io::copy_bidirectional(&mut client, &mut backend).await.map_err(|e| e.to_string())
            };
            if let Some(Err(error)) = stop.run_until_cancelled(carry).await {
                tracing::debug!("an upgraded connection broke: {error}");
            }
        });
        let mut response = Response::new(empty());
        *response.status_mut() = code;
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }
}

/// The host that the client asked for.
fn host(parts: &Parts) -> String {
    let named = parts.headers.get(header::HOST).and_then(|v| v.to_str().ok());
    named.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str)).unwrap_or("localhost").to_owned()
}

fn path_and_query(path: &str, query: Option<&str>) -> Result<Uri, Box<Status>> {
    let path = if path.is_empty() { "/" } else { path };
    let whole = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    whole.parse().map_err(|e| internal(format!("the path cannot be passed on: {e}")))
}

/// To the root of the backend, so that relative links in what it serves lead behind it.
fn to_root(prefix: &str, query: Option<&str>) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    if let Ok(value) = HeaderValue::from_str(&format!("{prefix}/{query}")) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    response
}

/// The body of a request as it comes, of whatever size.
pub(crate) fn body_of<B>(body: B) -> Body
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    body.map_err(Into::into).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_behind_the_proxy() {
        for (path, prefix, rest) in [
            ("/api/v1/namespaces/n/pods/p/proxy", "/api/v1/namespaces/n/pods/p/proxy", ""),
            ("/api/v1/namespaces/n/pods/p/proxy/", "/api/v1/namespaces/n/pods/p/proxy", "/"),
            ("/api/v1/namespaces/n/services/https:s:web/proxy/a//b%2Fc/", "/api/v1/namespaces/n/services/https:s:web/proxy", "/a//b%2Fc/"),
            ("/api/v1/nodes/x/proxy/proxy/y", "/api/v1/nodes/x/proxy", "/proxy/y"),
            ("//api/v1/nodes/x/proxy//y", "//api/v1/nodes/x/proxy", "//y"),
        ] {
            let info = crate::rest::path::parse(&Method::GET, &path.parse().unwrap());
            assert!(Proxy::serves(&info), "{path}: {info:?}");
            assert_eq!(cut(path, &info), Split { prefix, rest }, "{path}");
        }
    }
}
