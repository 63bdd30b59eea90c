//! A `kube::Client` over the service in this process: no socket, no TLS, but the same gate.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tower::Service;
use wharf_core::runtime::BoxError;

use super::{ApiServerService, Body};
use crate::request::{RequestUser, User};

/// Bytes in flight in each direction of an upgraded connection inside the process.
const PIPE: usize = 64 << 10;

/// The service, with a user put into each request.
#[derive(Debug, Clone)]
struct AsUser {
    server: ApiServerService,
    user: Arc<User>,
}

impl ApiServerService {
    /// A client inside this process, acting as `user`: authorization and admission judge it as they judge everybody.
    pub fn kube_client(&self, user: User, default_namespace: impl Into<String>) -> kube::Client {
        kube::Client::new(AsUser { server: self.clone(), user: Arc::new(user) }, default_namespace)
    }
}

impl Service<Request<kube::client::Body>> for AsUser {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<kube::client::Body>) -> Self::Future {
        let mut this = self.clone();
        if request.headers().contains_key(header::UPGRADE) {
            return Box::pin(async move { this.upgraded(request).await });
        }
        request.extensions_mut().insert(RequestUser(this.user.clone()));
        Box::pin(async move {
            match this.server.call(request).await {
                Ok(response) => Ok(response),
                Err(never) => match never {},
            }
        })
    }
}

impl AsUser {
    /// An upgrade hands over the connection, and only hyper can make one: so it gets one, of memory.
    async fn upgraded(self, mut request: Request<kube::client::Body>) -> Result<Response<Body>, BoxError> {
        let (near, far) = tokio::io::duplex(PIPE);
        let (server, user, stop) = (self.server.clone(), self.user, self.server.parts().stop.clone());
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(RequestUser(user.clone()));
            server.clone().call(request)
        });
        // Boxed before it enters an async block, where the compiler would ask too much of the body's error type.
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).with_upgrades();
        let connection = connection.map(log_end).boxed();
        tokio::spawn(async move { stop.run_until_cancelled_owned(connection).await });
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await?;
        tokio::spawn(connection.with_upgrades().map(log_end));
        let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(path);
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        let response = sender.send_request(request).await?;
        Ok(response.map(|body| body.map_err(BoxError::from).boxed_unsync()))
    }
}

fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        tracing::debug!("an upgraded connection in this process ended: {error}");
    }
}
