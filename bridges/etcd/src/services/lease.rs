//! Lease.

use std::sync::Arc;

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService, PbLeaseStatus, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse,
};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::entry::signed;
use crate::{Shared, fault, lease};

pub(crate) struct LeaseService {
    pub(crate) shared: Arc<Shared>,
    /// Ends the streams.
    pub(crate) stopped: CancellationToken,
}

impl LeaseService {
    async fn revision(&self) -> Result<i64, Status> {
        self.shared.store.revision().await.map(signed).map_err(fault::of)
    }
}

async fn keep_alive(shared: &Shared, id: i64) -> Result<PbLeaseKeepAliveResponse, Status> {
    // A lease that is not there has no time.
    let ttl = shared.leases.keep_alive(id).unwrap_or(0);
    let revision = shared.store.revision().await.map_err(fault::of)?;
    Ok(PbLeaseKeepAliveResponse { header: Some(shared.header(signed(revision))), id, ttl })
}

#[tonic::async_trait]
impl PbLeaseService for LeaseService {
    async fn lease_grant(&self, request: Request<PbLeaseGrantRequest>) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let request = request.into_inner();
        let granted = lease::grant(&self.shared, request.id, request.ttl).await?;
        let header = Some(self.shared.header(granted.revision));
        Ok(Response::new(PbLeaseGrantResponse { header, id: granted.id, ttl: granted.ttl, error: String::new() }))
    }

    async fn lease_revoke(&self, request: Request<PbLeaseRevokeRequest>) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let revision = lease::revoke(&self.shared, request.get_ref().id).await?;
        Ok(Response::new(PbLeaseRevokeResponse { header: Some(self.shared.header(revision)) }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let shared = self.shared.clone();
        let stopped = self.stopped.clone();
        let answers = stream::unfold((request.into_inner(), shared), |(mut requests, shared)| async move {
            let answer = match requests.next().await? {
                Ok(request) => keep_alive(&shared, request.id).await,
                Err(status) => Err(status),
            };
            Some((answer, (requests, shared)))
        });
        Ok(Response::new(answers.take_until(stopped.cancelled_owned()).boxed()))
    }

    async fn lease_time_to_live(&self, request: Request<PbLeaseTimeToLiveRequest>) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let request = request.into_inner();
        let revision = self.revision().await?;
        let header = Some(self.shared.header(revision));
        let Some(remaining) = self.shared.leases.remaining(request.id) else {
            return Ok(Response::new(PbLeaseTimeToLiveResponse { header, id: request.id, ttl: -1, ..Default::default() }));
        };
        let mut keys = Vec::new();
        if request.keys {
            self.shared.hub.reached(&self.shared, revision).await?;
            keys = self.shared.hub.attached(request.id).into_keys().collect();
        }
        let answer = PbLeaseTimeToLiveResponse { header, id: request.id, ttl: remaining.left, granted_ttl: remaining.granted, keys };
        Ok(Response::new(answer))
    }

    async fn lease_leases(&self, _request: Request<PbLeaseLeasesRequest>) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let leases = self.shared.leases.all().into_iter().map(|id| PbLeaseStatus { id }).collect();
        let header = Some(self.shared.header(self.revision().await?));
        Ok(Response::new(PbLeaseLeasesResponse { header, leases }))
    }
}
