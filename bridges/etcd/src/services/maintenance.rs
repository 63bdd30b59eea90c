//! Maintenance.

use std::sync::Arc;

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest, PbDowngradeResponse, PbHashKvRequest,
    PbHashKvResponse, PbHashRequest, PbHashResponse, PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use futures::stream::BoxStream;
use tonic::{Request, Response, Status};

use super::unimplemented;
use crate::entry::signed;
use crate::{ETCD_VERSION, RAFT_TERM, Shared, fault};

pub(crate) struct MaintenanceService {
    pub(crate) shared: Arc<Shared>,
}

impl MaintenanceService {
    async fn revision(&self) -> Result<i64, Status> {
        self.shared.store.revision().await.map(signed).map_err(fault::of)
    }
}

#[tonic::async_trait]
impl PbMaintenanceService for MaintenanceService {
    async fn alarm(&self, request: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        // GET lists what there is, and DEACTIVATE what it ended: never anything.
        if request.get_ref().action == 1 {
            return Err(unimplemented("alarms that could be raised"));
        }
        let header = Some(self.shared.header(self.revision().await?));
        Ok(Response::new(PbAlarmResponse { header, alarms: Vec::new() }))
    }

    async fn status(&self, _request: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        let revision = self.revision().await?;
        let bytes = i64::try_from(self.shared.hub.size().bytes).unwrap_or(i64::MAX);
        Ok(Response::new(PbStatusResponse {
            header: Some(self.shared.header(revision)),
            version: ETCD_VERSION.into(),
            // What the keys take; the store does not tell what its files do.
            db_size: bytes,
            db_size_in_use: bytes,
            leader: self.shared.member_id(),
            // Every commit is agreed upon at once.
            raft_index: revision.unsigned_abs(),
            raft_applied_index: revision.unsigned_abs(),
            raft_term: RAFT_TERM,
            storage_version: ETCD_VERSION.into(),
            ..Default::default()
        }))
    }

    async fn defragment(&self, _request: Request<PbDefragmentRequest>) -> Result<Response<PbDefragmentResponse>, Status> {
        let header = Some(self.shared.header(self.revision().await?));
        Ok(Response::new(PbDefragmentResponse { header }))
    }

    async fn hash(&self, _request: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        Err(unimplemented("hash of a backend"))
    }

    async fn hash_kv(&self, _request: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        Err(unimplemented("hash of a backend"))
    }

    type SnapshotStream = BoxStream<'static, Result<PbSnapshotResponse, Status>>;

    async fn snapshot(&self, _request: Request<PbSnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(unimplemented("files of etcd's format: take a snapshot of the store itself"))
    }

    async fn move_leader(&self, _request: Request<PbMoveLeaderRequest>) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: bad leader transferee"))
    }

    async fn downgrade(&self, _request: Request<PbDowngradeRequest>) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(unimplemented("versions of etcd to go back to"))
    }
}
