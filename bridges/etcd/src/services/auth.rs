//! Auth: there are no users; who may connect is said by TLS. That it is so is told as an etcd tells it that has no authentication enabled,
//! because clients that were given a password ask, and then go on without.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, Response};
use etcd_client::proto::PbResponseHeader;
use futures::FutureExt;
use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::unimplemented;
use crate::entry::signed;
use crate::{Shared, fault};

/// Answers every call of Auth.
#[derive(Clone)]
pub(crate) struct AuthService {
    pub(crate) shared: Arc<Shared>,
}

/// etcd's AuthStatusRequest.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct AuthStatusRequest {}

/// etcd's AuthStatusResponse.
#[derive(Clone, PartialEq, prost::Message)]
struct AuthStatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<PbResponseHeader>,
    #[prost(bool, tag = "2")]
    enabled: bool,
    #[prost(uint64, tag = "3")]
    auth_revision: u64,
}

impl Service<tonic::Request<AuthStatusRequest>> for AuthService {
    type Response = tonic::Response<AuthStatusResponse>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: tonic::Request<AuthStatusRequest>) -> Self::Future {
        let shared = self.shared.clone();
        async move {
            let revision = shared.store.revision().await.map_err(fault::of)?;
            let header = Some(shared.header(signed(revision)));
            // An etcd that never had users is at its first revision of them.
            Ok(tonic::Response::new(AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
        }
        .boxed()
    }
}

impl NamedService for AuthService {
    const NAME: &'static str = "etcdserverpb.Auth";
}

impl Service<Request<Body>> for AuthService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let refusal = match request.uri().path() {
            "/etcdserverpb.Auth/AuthStatus" => {
                let service = self.clone();
                return async move { Ok(Grpc::new(ProstCodec::default()).unary(service, request).await) }.boxed();
            }
            "/etcdserverpb.Auth/Authenticate" => Status::new(Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
            _ => unimplemented("users and roles: who may connect is said by client certificates"),
        };
        std::future::ready(Ok(refusal.into_http())).boxed()
    }
}
