//! KV.

use std::sync::Arc;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest, PbPutResponse, PbRangeRequest,
    PbRangeResponse, PbRangeStreamResponse, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnResponse,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tonic::{Request, Response, Status};
use wharf_core::store::{ListOptions, Revision, StoreError};

use crate::entry::signed;
use crate::keys::KeyRange;
use crate::locks::Touches;
use crate::snapshot::Snapshot;
use crate::{Shared, check, fault, range, txn};

/// How often a range is read anew because compaction overtook it.
const ATTEMPTS: usize = 4;
/// Keys in one part of a streamed range.
const STREAM_PART: usize = 500;

pub(crate) struct KvService {
    pub(crate) shared: Arc<Shared>,
}

impl KvService {
    async fn read(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, Status> {
        range::check(request)?;
        let shared = &*self.shared;
        let past = request.revision > 0;
        // Without history only who locks writers out sees one state on several pages.
        let _held = if shared.history { None } else { Some(shared.locks.hold(&Touches::Ranges).await) };
        let mut attempt = 1;
        loop {
            // Asked first: what is read is not older than what the header says.
            let newest = if past { signed(shared.store.revision().await.map_err(fault::of)?) } else { 0 };
            if request.revision > newest && past {
                return Err(fault::future_revision());
            }
            let mut snapshot = if past { Snapshot::at(shared, request.revision) } else { Snapshot::newest(shared) };
            let answer = match range::read(&mut snapshot, request).await {
                Err(status) if fault::is_compacted(&status) && !past && attempt < ATTEMPTS => {
                    attempt += 1;
                    continue;
                }
                answer => answer?,
            };
            let revision = if past { newest } else { snapshot.revision().await? };
            return Ok(PbRangeResponse { header: Some(shared.header(revision)), ..answer });
        }
    }
}

#[tonic::async_trait]
impl PbKvService for KvService {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        self.read(request.get_ref()).await.map(Response::new)
    }

    type RangeStreamStream = BoxStream<'static, Result<PbRangeStreamResponse, Status>>;

    async fn range_stream(&self, request: Request<PbRangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        let mut answer = self.read(request.get_ref()).await?;
        let mut kvs = std::mem::take(&mut answer.kvs).into_iter().peekable();
        let mut last = Some(answer);
        let parts = std::iter::from_fn(move || {
            let part: Vec<_> = kvs.by_ref().take(STREAM_PART).collect();
            // What is about the whole comes with the last part.
            let whole = if kvs.peek().is_some() { PbRangeResponse::default() } else { last.take()? };
            Some(Ok(PbRangeStreamResponse { range_response: Some(PbRangeResponse { kvs: part, ..whole }) }))
        });
        Ok(Response::new(futures::stream::iter(parts.fuse()).boxed()))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let request = request.into_inner();
        check::put(&request)?;
        if request.encoded_len() > self.shared.limits.max_request_bytes {
            return Err(fault::too_large());
        }
        // In a transaction etcd looks for the key first.
        if request.lease != 0 && !self.shared.leases.is_held(request.lease) {
            return Err(fault::lease_not_found());
        }
        match txn::single(&self.shared, PbTxnOpRequest::RequestPut(request)).await? {
            (Some(PbTxnOpResponse::ResponsePut(answer)), revision) => {
                Ok(Response::new(PbPutResponse { header: Some(self.shared.header(revision)), ..answer }))
            }
            _ => Err(Status::internal("etcdserver: a put was not answered")),
        }
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        let request = request.into_inner();
        check::delete(&request)?;
        if !matches!(KeyRange::new(request.key.clone(), request.range_end.clone()), KeyRange::One(_)) {
            return txn::delete_range(&self.shared, &request).await.map(Response::new);
        }
        match txn::single(&self.shared, PbTxnOpRequest::RequestDeleteRange(request)).await? {
            (Some(PbTxnOpResponse::ResponseDeleteRange(answer)), revision) => {
                Ok(Response::new(PbDeleteResponse { header: Some(self.shared.header(revision)), ..answer }))
            }
            _ => Err(Status::internal("etcdserver: a delete was not answered")),
        }
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        txn::transact(&self.shared, request.get_ref()).await.map(Response::new)
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        let shared = &*self.shared;
        let asked = request.get_ref().revision;
        let current = signed(shared.store.revision().await.map_err(fault::of)?);
        if asked > current {
            return Err(fault::future_revision());
        }
        let upto = Revision(u64::try_from(asked).map_err(|_| fault::compacted())?);
        if asked <= shared.hub.compacted() {
            return Err(fault::compacted());
        }
        // Another may have compacted, or the store by itself: then the revision before is gone.
        if shared.history && upto.0 > 1 {
            let before = ListOptions { limit: Some(1), at: Some(Revision(upto.0 - 1)), ..ListOptions::default() };
            match shared.store.list(&shared.layout.keys(), &before).await {
                Err(StoreError::Expired { compacted }) => {
                    shared.hub.set_compacted(signed(compacted));
                    return Err(fault::compacted());
                }
                Err(error) => return Err(fault::of(error)),
                Ok(_) => {}
            }
        }
        shared.store.compact(upto).await.map_err(fault::of)?;
        shared.hub.set_compacted(asked);
        Ok(Response::new(PbCompactionResponse { header: Some(shared.header(current)) }))
    }
}
