//! What is made before the API that it needs: admission and reviews are parts of the registry and read through it.

use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use kube::core::ApiResource;
use wharf_core::api::{Api, ApiError, ApiWatch, ObjectList, Query, SharedApi, Target, Write};
use wharf_core::object::Object;

use super::authorization::Rbac;
use super::{Authenticator, Authorizer};
use crate::rest::Registry;

/// An API that is given later; until then every call fails. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LateApi(Arc<OnceLock<SharedApi>>);

impl LateApi {
    /// Gives the API. Only the first call counts.
    pub fn bind(&self, api: SharedApi) {
        let _ = self.0.set(api);
    }
    fn api(&self) -> Result<&SharedApi, ApiError> {
        self.0.get().ok_or_else(|| ApiError::status(503, "ServiceUnavailable", "the API server is starting"))
    }
}

#[async_trait]
impl Api for LateApi {
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError> {
        self.api()?.get(target).await
    }
    async fn list(&self, resource: &ApiResource, query: &Query) -> Result<ObjectList, ApiError> {
        self.api()?.list(resource, query).await
    }
    async fn watch(&self, resource: &ApiResource, query: &Query, after: wharf_core::store::Revision) -> Result<ApiWatch, ApiError> {
        self.api()?.watch(resource, query, after).await
    }
    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError> {
        self.api()?.write(write).await
    }
}

/// A registry that is given later, and is not held by what it holds itself. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LateRegistry(Arc<OnceLock<Weak<Registry>>>);

impl LateRegistry {
    /// Gives the registry. Only the first call counts.
    pub fn bind(&self, registry: &Arc<Registry>) {
        let _ = self.0.set(Arc::downgrade(registry));
    }
    pub(crate) fn get(&self) -> Result<Arc<Registry>, ApiError> {
        let found = self.0.get().and_then(Weak::upgrade);
        found.ok_or_else(|| ApiError::status(503, "ServiceUnavailable", "the API server is starting"))
    }
}

/// The layers that reviews and the check for escalation ask.
#[derive(Debug)]
pub struct Layers {
    /// Who asks.
    pub authenticator: Arc<dyn Authenticator>,
    /// May they.
    pub authorizer: Arc<dyn Authorizer>,
    /// RBAC, whose rules can be listed.
    pub rbac: Rbac,
}

/// Layers that are given later; until then nothing is allowed. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LateLayers(Arc<OnceLock<Layers>>);

impl LateLayers {
    /// Gives the layers. Only the first call counts.
    pub fn bind(&self, layers: Layers) {
        let _ = self.0.set(layers);
    }
    pub(crate) fn layers(&self) -> Result<&Layers, ApiError> {
        self.0.get().ok_or_else(|| ApiError::status(503, "ServiceUnavailable", "the API server is starting"))
    }
}
