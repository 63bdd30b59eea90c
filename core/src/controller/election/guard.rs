//! An API for one term of a leader.

use std::sync::Arc;

use async_trait::async_trait;
use kube::core::ApiResource;

use super::Leadership;
use crate::api::{Api, ApiError, ApiWatch, ObjectList, Query, SharedApi, Target, Write};
use crate::object::Object;
use crate::store::Revision;

#[derive(Debug)]
pub(super) struct Guarded {
    api: SharedApi,
    lead: Leadership,
}

impl Guarded {
    pub(super) fn new(api: SharedApi, lead: Leadership) -> Self {
        Self { api, lead }
    }
}

#[async_trait]
impl Api for Guarded {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        self.api.get(target).await
    }
    async fn list(&self, resource: &ApiResource, query: &Query) -> Result<ObjectList, ApiError> {
        self.api.list(resource, query).await
    }
    async fn watch(&self, resource: &ApiResource, query: &Query, after: Revision) -> Result<ApiWatch, ApiError> {
        self.api.watch(resource, query, after).await
    }
    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        if !self.lead.is_held() {
            self.lead.resign();
            return Err(ApiError::fenced(format!("leadership was lost: {} is not held any more", self.lead.fence())));
        }
        let answer = self.api.write(write).await;
        if answer.as_ref().is_err_and(ApiError::is_fenced) {
            self.lead.resign();
        }
        answer
    }
}
