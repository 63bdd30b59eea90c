//! Maintenance.

use std::sync::Arc;

use etcd_client::proto::{
    PbAlarmRequest, PbAlarmResponse, PbDefragmentRequest, PbDefragmentResponse, PbDowngradeRequest, PbDowngradeResponse, PbHashKvRequest,
    PbHashKvResponse, PbHashRequest, PbHashResponse, PbMaintenanceService, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::unimplemented;
use crate::entry::signed;
use crate::locks::{Held, Touches};
use crate::{ETCD_VERSION, RAFT_TERM, Shared, backend, backup, fault};

pub(crate) struct MaintenanceService {
    pub(crate) shared: Arc<Shared>,
    /// Ends the streams.
    pub(crate) stopped: CancellationToken,
}

impl MaintenanceService {
    async fn revision(&self) -> Result<i64, Status> {
        self.shared.store.revision().await.map(signed).map_err(fault::of)
    }

    /// The right to look at every key.
    fn pass(&self) -> Result<OwnedSemaphorePermit, Status> {
        self.shared.passes.clone().try_acquire_owned().map_err(|_| fault::too_many_requests())
    }

    /// Without history the state must stay until all of it was read.
    async fn steady(&self) -> Option<Held<'_>> {
        if self.shared.history { None } else { Some(self.shared.locks.hold(&Touches::Ranges).await) }
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
        let in_use = self.shared.hub.size().bytes;
        // Without somebody who knows the store's files: what the keys take.
        let size = match &self.shared.maintenance {
            Some(maintenance) => maintenance.size().await.map_err(fault::of)?,
            None => in_use,
        };
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Response::new(PbStatusResponse {
            header: Some(self.shared.header(revision)),
            version: ETCD_VERSION.into(),
            db_size: bytes(size),
            db_size_in_use: bytes(in_use.min(size)),
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
        if let Some(maintenance) = &self.shared.maintenance {
            maintenance.defragment().await.map_err(fault::of)?;
        }
        let header = Some(self.shared.header(self.revision().await?));
        Ok(Response::new(PbDefragmentResponse { header }))
    }

    async fn hash(&self, _request: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        let _pass = self.pass()?;
        let _held = self.steady().await;
        let revision = self.revision().await?;
        let hash = backend::hash(&self.shared, revision).await?;
        Ok(Response::new(PbHashResponse { header: Some(self.shared.header(revision)), hash }))
    }

    async fn hash_kv(&self, request: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        let _pass = self.pass()?;
        let _held = self.steady().await;
        let revision = self.revision().await?;
        let hash_revision = match request.get_ref().revision {
            asked if asked > revision => return Err(fault::future_revision()),
            asked if asked > 0 => asked,
            _ => revision,
        };
        let hash = backend::hash_kv(&self.shared, hash_revision).await?;
        let header = Some(self.shared.header(revision));
        // What is told is what an etcd would tell that was compacted there: a store does not tell how far back it goes.
        Ok(Response::new(PbHashKvResponse { header, hash, compact_revision: hash_revision, hash_revision }))
    }

    type SnapshotStream = ReceiverStream<Result<PbSnapshotResponse, Status>>;

    async fn snapshot(&self, _request: Request<PbSnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let pass = self.pass()?;
        let (send, receive) = mpsc::channel(backup::MAX_WAITING);
        let (shared, stopped) = (self.shared.clone(), self.stopped.clone());
        tokio::spawn(async move {
            let _pass = pass;
            let sent = stopped.run_until_cancelled(backup::send(&shared, &send)).await;
            if let Err(status) = sent.unwrap_or_else(|| Err(fault::stopped())) {
                // Whoever is gone need not be told.
                let _ = send.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn move_leader(&self, _request: Request<PbMoveLeaderRequest>) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(Status::failed_precondition("etcdserver: bad leader transferee"))
    }

    async fn downgrade(&self, _request: Request<PbDowngradeRequest>) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(unimplemented("versions of etcd to go back to"))
    }
}
