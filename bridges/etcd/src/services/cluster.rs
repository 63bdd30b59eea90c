//! Cluster: of one member, whatever the store is made of.

use std::sync::Arc;

use etcd_client::proto::{
    PbClusterService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest, PbMemberListResponse, PbMemberPromoteRequest,
    PbMemberPromoteResponse, PbMemberRemoveRequest, PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use super::unimplemented;
use crate::entry::signed;
use crate::{Shared, fault};

const MEMBERS: &str = "members that come and go";

pub(crate) struct ClusterService {
    pub(crate) shared: Arc<Shared>,
    pub(crate) client_urls: Vec<String>,
}

#[tonic::async_trait]
impl PbClusterService for ClusterService {
    async fn member_add(&self, _request: Request<PbMemberAddRequest>) -> Result<Response<PbMemberAddResponse>, Status> {
        Err(unimplemented(MEMBERS))
    }
    async fn member_remove(&self, _request: Request<PbMemberRemoveRequest>) -> Result<Response<PbMemberRemoveResponse>, Status> {
        Err(unimplemented(MEMBERS))
    }
    async fn member_update(&self, _request: Request<PbMemberUpdateRequest>) -> Result<Response<PbMemberUpdateResponse>, Status> {
        Err(unimplemented(MEMBERS))
    }
    async fn member_promote(&self, _request: Request<PbMemberPromoteRequest>) -> Result<Response<PbMemberPromoteResponse>, Status> {
        Err(unimplemented(MEMBERS))
    }
    async fn member_list(&self, _request: Request<PbMemberListRequest>) -> Result<Response<PbMemberListResponse>, Status> {
        let revision = self.shared.store.revision().await.map_err(fault::of)?;
        let member = PbMember {
            id: self.shared.member_id(),
            name: self.shared.name.clone(),
            client_ur_ls: self.client_urls.clone(),
            ..Default::default()
        };
        Ok(Response::new(PbMemberListResponse { header: Some(self.shared.header(signed(revision))), members: vec![member] }))
    }
}
