//! The admission chain: what may change or refuse a write after it is authorized and before it is stored.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;
use wharf_core::api::ApiError;

use crate::request::User;

/// What is about to happen to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// It comes into being; also a post to a subresource such as `binding`.
    Create,
    /// It changes.
    Update,
    /// It goes.
    Delete,
    /// Somebody connects to it: exec, attach, port-forward, proxy.
    Connect,
}

/// A write as admission sees it. Neither the object nor what was there before has its managedFields, which Kubernetes shows: what a plugin
/// changes is nobody's.
#[derive(Debug, Clone)]
pub struct AdmissionRequest {
    /// Who asks.
    pub user: Arc<User>,
    /// What is about to happen.
    pub operation: Operation,
    /// API group; empty for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Kind of the object.
    pub kind: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name; empty while generateName has not been carried out.
    pub name: String,
    /// The object as it is stored, for an update or a delete.
    pub old: Option<Arc<Value>>,
    /// Nothing will be stored.
    pub dry_run: bool,
}

/// Sentences for `Warning` headers.
pub type Warnings = Vec<String>;

/// One admission plugin.
///
/// # Contract
/// `admit` may change the object, and is called for each plugin in order before any `validate`. `validate` sees the
/// object as it will be stored. For a delete the object is `Null`. A refusal changes nothing.
///
/// # Cancellation
/// A plugin holds nothing across calls, so that a dropped call leaves nothing behind.
///
/// # Errors
/// What the client is told; usually a 403 `Forbidden`.
///
/// # Panics
/// Never on input.
#[async_trait]
pub trait Admission: Send + Sync + fmt::Debug + 'static {
    /// Its name, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;
    /// Whether this plugin cares for a request at all.
    fn handles(&self, request: &AdmissionRequest) -> bool;
    /// Changes the object.
    async fn admit(&self, request: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError>;
    /// Accepts or refuses.
    async fn validate(&self, request: &AdmissionRequest, object: &Value) -> Result<Warnings, ApiError>;
}

/// The plugins in order.
#[derive(Debug, Clone, Default)]
pub struct AdmissionChain {
    plugins: Vec<Arc<dyn Admission>>,
}

impl AdmissionChain {
    /// A chain of plugins.
    pub fn new(plugins: Vec<Arc<dyn Admission>>) -> Self {
        Self { plugins }
    }
    /// Adds a plugin at the end.
    pub fn push(&mut self, plugin: Arc<dyn Admission>) {
        self.plugins.push(plugin);
    }
    /// Lets each plugin change the object, in order.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn admit(&self, request: &AdmissionRequest, object: &mut Value) -> Result<Warnings, ApiError> {
        let mut warnings = Warnings::new();
        for plugin in self.plugins.iter().filter(|p| p.handles(request)) {
            warnings.extend(plugin.admit(request, object).await?);
        }
        Ok(warnings)
    }
    /// Asks each plugin.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, request: &AdmissionRequest, object: &Value) -> Result<Warnings, ApiError> {
        let mut warnings = Warnings::new();
        for plugin in self.plugins.iter().filter(|p| p.handles(request)) {
            warnings.extend(plugin.validate(request, object).await?);
        }
        Ok(warnings)
    }
}

/// Answers the creates of resources that are never stored: TokenReview, SubjectAccessReview and their like, and the
/// `token` subresource of service accounts.
#[async_trait]
pub trait Reviews: Send + Sync + fmt::Debug + 'static {
    /// Fills in the status of a review. `resource` is a plural name, with the subresource after a slash if there is one
    /// (`serviceaccounts/token`); `name` is the object's, for a subresource.
    ///
    /// # Errors
    /// What the client is told.
    async fn review(
        &self,
        user: &Arc<User>,
        group: &str,
        resource: &str,
        namespace: &str,
        name: &str,
        body: Value,
    ) -> Result<Value, ApiError>;
}
