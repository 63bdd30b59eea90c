//! The whole API as one cloneable `tower::Service`, in process or behind TLS.

pub mod body;
mod client;
mod eager;
mod gathered;
mod handler;
mod health;
mod inflight;
mod tls;

use std::convert::Infallible;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::upgrade::OnUpgrade;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};
use tokio_util::sync::CancellationToken;
use wharf_core::clock::Clock;
use wharf_core::metrics::Metrics;
use wharf_core::runtime::BoxError;
use wharf_schema::protobuf;

use crate::gate::authentication::service_account::ServiceAccountTokens;
use crate::gate::{Authenticator, Authorizer, Decision, forbidden, impersonation};
use crate::metrics::ServerMetrics;
use crate::request::{RequestInfo, RequestUser, User};
use crate::rest::answer::refusal;
use crate::rest::{creation, names, path};
use crate::stream::PodStreams;
use crate::stream::proxy::{self, Proxy};

pub use body::Body;
pub use handler::Handler;
pub use health::{Check, CheckResult, Checks};
pub use inflight::{MAX_READS, MAX_WRITES};
pub use tls::{ServeError, TlsOptions, tls_config};

/// Largest body of a request, in bytes.
pub const MAX_BODY: usize = 3 << 20;
/// How long a request that is no watch or stream may take.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// When a client that got a 429 may come back, in seconds.
const RETRY_AFTER: &str = "1";
/// How many unauthenticated requests a connection may send before it is dropped.
pub const MAX_UNAUTHENTICATED: u32 = 16;

/// The parts that make up an API server.
#[derive(Debug)]
pub struct ApiServerParts {
    /// Serves resources and discovery.
    pub handler: Arc<dyn Handler>,
    /// Tells who asks.
    pub authenticator: Arc<dyn Authenticator>,
    /// Decides whether they may.
    pub authorizer: Arc<dyn Authorizer>,
    /// Reaches into pods; without it logs, exec, attach and port-forward are answered with 501.
    pub streams: Option<PodStreams>,
    /// Passes requests on to pods, services and nodes.
    pub proxy: Proxy,
    /// Publishes the key of service-account tokens.
    pub tokens: Option<ServiceAccountTokens>,
    /// What `/healthz`, `/livez` and `/readyz` ask.
    pub checks: Checks,
    /// Where measurements go, and what `/metrics` shows.
    pub metrics: Metrics,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Ends streams and listeners.
    pub stop: CancellationToken,
}

struct Inner {
    parts: ApiServerParts,
    measured: ServerMetrics,
    inflight: inflight::Limits,
}

/// The API server as a service: `tower::Service<http::Request<B>>`. Cheap to clone.
#[derive(Clone)]
pub struct ApiServerService {
    inner: Arc<Inner>,
}

impl fmt::Debug for ApiServerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServerService").field("parts", &self.inner.parts).finish_non_exhaustive()
    }
}

/// What the listener keeps of one connection.
#[derive(Debug, Clone, Default)]
struct Connection {
    unauthenticated: Arc<AtomicU32>,
    drop: CancellationToken,
}

impl Connection {
    fn refused(&self) {
        if self.unauthenticated.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_UNAUTHENTICATED {
            self.drop.cancel();
        }
    }
}

fn simple(code: i32, reason: &str, message: impl Into<String>) -> Box<Status> {
    Box::new(body::failure(code, reason, message))
}

fn internal(cause: &str) -> Box<Status> {
    let details = StatusDetails {
        causes: Some(vec![StatusCause { message: Some(cause.to_owned()), ..StatusCause::default() }]),
        ..StatusDetails::default()
    };
    let mut status = simple(500, "InternalError", format!("Internal error occurred: {cause}"));
    status.details = Some(details);
    status
}

/// Whether a request lives as long as its client wants: Kubernetes' `longRunningRequestRE`.
fn is_long_running(info: &RequestInfo) -> bool {
    info.is_resource && (info.verb == "watch" || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward"))
}

impl ApiServerService {
    /// An API server of these parts.
    pub fn new(parts: ApiServerParts) -> Self {
        let measured = ServerMetrics::new(&parts.metrics);
        let inflight = inflight::Limits::new(measured.clone());
        Self { inner: Arc::new(Inner { parts, measured, inflight }) }
    }

    /// The parts that it was built of.
    pub fn parts(&self) -> &ApiServerParts {
        &self.inner.parts
    }

    async fn serve_request<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let inner = &self.inner;
        let started = inner.parts.clock.monotonic();
        let (parts, request_body) = request.into_parts();
        let (info, method) = (path::parse(&parts.method, &parts.uri), parts.method.clone());
        if parts.version == Version::HTTP_2 && !eager::is_small(&info) {
            eager::step_aside().await;
        }
        let accept = parts.headers.get(header::ACCEPT).cloned();
        let audit_id = parts.headers.get("audit-id").filter(|id| id.len() <= 64).cloned();
        let served = AssertUnwindSafe(Box::pin(inner.pass(parts, &info, request_body))).catch_unwind().await;
        let mut response = match served {
            Ok(Ok(response)) => response,
            Ok(Err(status)) => refusal(&status, accept.as_ref().and_then(|v| v.to_str().ok()).unwrap_or_default()),
            Err(_) => {
                tracing::error!(path = %info.path, "a request panicked");
                body::status(&internal("a panic while the request was served"))
            }
        };
        if response.status() == StatusCode::TOO_MANY_REQUESTS && !response.headers().contains_key(header::RETRY_AFTER) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        let audit_id = audit_id.or_else(|| HeaderValue::from_str(&names::uid()).ok());
        if let Some(id) = audit_id {
            response.headers_mut().insert("audit-id", id);
        }
        response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        let took = inner.parts.clock.monotonic().saturating_sub(started);
        inner.measured.observe(&info, &method, response.status().as_u16(), took);
        response
    }
}

impl Inner {
    /// Through the gate to whoever serves it.
    async fn pass<B>(&self, mut parts: Parts, info: &RequestInfo, request_body: B) -> Result<Response<Body>, Box<Status>>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let upgrade = parts.extensions.remove::<OnUpgrade>();
        let mut user = self.authenticate(&parts).await?;
        parts.headers.remove(header::AUTHORIZATION);
        if let Some(acting) = impersonation::impersonate(&mut parts.headers, &user, &*self.parts.authorizer).await? {
            user = acting;
        }
        let long_running = is_long_running(info);
        let _permit = if long_running { None } else { self.inflight.enter(info, &parts.method, &user)? };
        self.authorize(&user, info).await?;
        if info.is_resource && info.group.is_empty() && info.resource == "pods" && PodStreams::serves(info) {
            let streams = self.parts.streams.as_ref().ok_or_else(|| simple(501, "NotImplemented", "no node can be reached"))?;
            // An upgrade is a GET, yet it does things in the pod.
            if info.subresource != "log" {
                self.authorize(&user, &RequestInfo { verb: "create".into(), ..info.clone() }).await?;
            }
            return streams.serve(&user, info, &parts, upgrade).await;
        }
        if Proxy::serves(info) {
            return Box::pin(self.parts.proxy.serve(info, parts, upgrade, proxy::body_of(request_body))).await;
        }
        let work = async {
            let body = read(&parts, request_body).await?;
            let body = json_body(&mut parts, body)?;
            Ok(match self.own(info, &parts).await {
                Some(response) => response,
                None => self.handle(&user, info, Request::from_parts(parts, body)).await?,
            })
        };
        tokio::select! {
            // Most work is done before a timer is needed.
            biased;
            done = work => done,
            () = self.parts.clock.sleep(REQUEST_TIMEOUT) => {
                Err(simple(504, "Timeout", "Timeout: request did not complete within the allotted timeout"))
            }
        }
    }

    /// An update may create what is not there, for kinds that allow it and users who may.
    async fn handle(&self, user: &Arc<User>, info: &RequestInfo, request: Request<Bytes>) -> Result<Response<Body>, Box<Status>> {
        let again = (request.method() == Method::PUT && creation::is_allowed(info)).then(|| request.clone());
        let response = self.parts.handler.handle(user, info, request).await;
        match again {
            Some(mut again) if response.status() == StatusCode::NOT_FOUND => {
                self.authorize(user, &RequestInfo { verb: "create".into(), ..info.clone() }).await?;
                again.extensions_mut().insert(creation::MayCreate);
                Ok(self.parts.handler.handle(user, info, again).await)
            }
            _ => Ok(response),
        }
    }

    async fn authenticate(&self, parts: &Parts) -> Result<Arc<User>, Box<Status>> {
        // Only code in this process can set an extension.
        if let Some(RequestUser(user)) = parts.extensions.get::<RequestUser>() {
            return Ok(user.clone());
        }
        match self.parts.authenticator.authenticate(parts).await {
            Ok(Some(user)) => return Ok(Arc::new(user)),
            Ok(None) => {}
            Err(error) => tracing::debug!("unauthenticated: {error}"),
        }
        if let Some(connection) = parts.extensions.get::<Connection>() {
            connection.refused();
        }
        Err(simple(401, "Unauthorized", "Unauthorized"))
    }

    async fn authorize(&self, user: &User, info: &RequestInfo) -> Result<(), Box<Status>> {
        match self.parts.authorizer.authorize(user, info).await {
            Decision::Allow => Ok(()),
            Decision::Deny { reason } => Err(Box::new(forbidden(user, info, &reason))),
            Decision::NoOpinion => Err(Box::new(forbidden(user, info, ""))),
        }
    }

    /// What the server itself answers.
    async fn own(&self, info: &RequestInfo, parts: &Parts) -> Option<Response<Body>> {
        if info.is_resource || !matches!(parts.method, Method::GET | Method::HEAD) {
            return None;
        }
        let asked = info.path.as_str();
        match asked {
            "/version" | "/version/" => Some(health::version()),
            "/metrics" => {
                let text = self.parts.metrics.encode();
                Some(body::typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text))
            }
            "/.well-known/openid-configuration" => self.parts.tokens.as_ref().map(health::openid_configuration),
            "/openid/v1/jwks" => self.parts.tokens.as_ref().map(|t| match serde_json::to_vec(&t.key().jwks()) {
                Ok(keys) => body::typed(StatusCode::OK, "application/jwk-set+json", keys),
                Err(error) => body::status(&internal(&error.to_string())),
            }),
            _ => {
                let verbose = path::query_pairs(&parts.uri).iter().any(|(name, _)| name == "verbose");
                self.parts.checks.answer(asked, verbose).await
            }
        }
    }
}

/// Reads a body that is not too large.
async fn read<B>(parts: &Parts, request_body: B) -> Result<Bytes, Box<Status>>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let too_large = || {
        let message = format!("Request entity too large: limit is {MAX_BODY}");
        simple(413, "RequestEntityTooLarge", message)
    };
    let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|l| l.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    match Box::pin(Limited::new(request_body, MAX_BODY).collect()).await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(simple(400, "BadRequest", format!("the body of the request could not be read: {error}"))),
    }
}

/// A body as JSON where it came as protobuf. A kind that is not known in protobuf stays, for the handler to refuse.
fn json_body(parts: &mut Parts, body: Bytes) -> Result<Bytes, Box<Status>> {
    let is_protobuf =
        |value: &HeaderValue| value.to_str().is_ok_and(|v| v.split(';').next().unwrap_or_default().trim() == protobuf::MEDIA_TYPE);
    if body.is_empty() || !parts.headers.get(header::CONTENT_TYPE).is_some_and(is_protobuf) {
        return Ok(body);
    }
    match protobuf::to_json(&body) {
        Ok(None) => Ok(body),
        Ok(Some(value)) => {
            parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            parts.headers.remove(header::CONTENT_LENGTH);
            Ok(Bytes::from(value.to_string()))
        }
        Err(error) => Err(simple(400, "BadRequest", format!("the protobuf of the request does not decode: {error}"))),
    }
}

impl<B> tower::Service<Request<B>> for ApiServerService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(server.serve_request(request).await) })
    }
}

#[cfg(test)]
mod tests;
