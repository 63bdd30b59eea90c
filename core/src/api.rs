//! The API as code sees it: the same calls whether the API server is in this process or behind a socket.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::core::ApiResource;
use serde::{Serialize, de::DeserializeOwned};

use crate::object::{DecodeError, Object, ObjectRef, resource_of};
use crate::runtime::BoxError;
use crate::store::Revision;

/// Which object, or which subresource of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Group, version and plural.
    pub resource: ApiResource,
    /// Namespace and name. For a create with generateName the name is empty.
    pub object: ObjectRef,
    /// `status`, `scale`, `binding`, `eviction`, `token`, ...; empty for the object itself.
    pub subresource: &'static str,
}

impl Target {
    /// An object of a type.
    pub fn of<K: kube::Resource<DynamicType = ()>>(object: ObjectRef) -> Self {
        Self { resource: resource_of::<K>(), object, subresource: "" }
    }
    /// A subresource of the same object.
    #[allow(clippy::should_implement_trait, reason = "targets are not numbers")]
    pub fn sub(mut self, subresource: &'static str) -> Self {
        self.subresource = subresource;
        self
    }
}

/// The kinds of patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' strategic merge.
    Strategic,
    /// Server-side apply.
    Apply {
        /// Take over fields that others manage.
        force: bool,
    },
}

/// What becomes of dependents of a deleted object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay, without this owner.
    Orphan,
    /// They go afterwards.
    Background,
    /// They go first.
    Foreground,
}

/// How to delete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeleteParams {
    /// Grace in seconds; `None` for the object's own.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of dependents; `None` for the resource's default.
    pub propagation: Option<Propagation>,
    /// Only if it has this uid.
    pub uid: Option<String>,
    /// Only at this resourceVersion.
    pub resource_version: Option<String>,
}

/// A change to make.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// Creates the object (or posts to a subresource such as `binding`).
    Create(Bytes),
    /// Replaces it. A `metadata.resourceVersion` in the body is a precondition.
    Update(Bytes),
    /// Patches it.
    Patch {
        /// How to read the body.
        kind: PatchKind,
        /// The patch.
        body: Bytes,
    },
    /// Deletes it.
    Delete(DeleteParams),
}

/// A change and where to make it.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Where.
    pub target: Target,
    /// What.
    pub verb: Verb,
    /// Name kept in managedFields; empty for the client's own.
    pub field_manager: String,
}

/// Which objects to list or watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// Only this namespace.
    pub namespace: Option<Arc<str>>,
    /// Only objects with these labels, in Kubernetes' string form.
    pub label_selector: Option<String>,
    /// Only objects with these fields, in Kubernetes' string form.
    pub field_selector: Option<String>,
}

/// A list of objects at a revision.
#[derive(Debug, Clone)]
pub struct ObjectList {
    /// In key order.
    pub items: Vec<Arc<Object>>,
    /// What the list shows; watch after it.
    pub revision: Revision,
}

/// One event of a watch.
#[derive(Debug, Clone)]
pub enum ApiEvent {
    /// It is new to the query.
    Added(Arc<Object>),
    /// It changed.
    Modified(Arc<Object>),
    /// It is gone, or no longer matches; the last state is given.
    Deleted(Arc<Object>),
    /// Every event up to this revision has been delivered.
    Bookmark(Revision),
}

/// A watch; ends after an error item.
pub type ApiWatch = BoxStream<'static, Result<ApiEvent, ApiError>>;

/// The reason of [`ApiError::fenced`]; Kubernetes has no word for it.
const FENCED: &str = "Fenced";

/// What an API call can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The API server refused, in Kubernetes' own words.
    #[error("{}", .0.message.as_deref().unwrap_or("the API server refused"))]
    Status(Box<Status>),
    /// The bytes do not decode.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// What was to be sent does not encode.
    #[error("cannot encode the request: {0}")]
    Encode(#[source] BoxError),
    /// The API server was not reached, or did not answer.
    #[error("the API server did not answer: {0}")]
    Transport(#[source] BoxError),
}

impl ApiError {
    /// A refusal.
    pub fn status(code: i32, reason: &str, message: impl Into<String>) -> Self {
        Self::Status(Box::new(Status {
            status: Some("Failure".into()),
            code: Some(code),
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..Status::default()
        }))
    }
    /// The HTTP status code, when the API server answered.
    pub fn code(&self) -> Option<i32> {
        if let Self::Status(status) = self { status.code } else { None }
    }
    /// The machine-readable reason, when the API server answered.
    pub fn reason(&self) -> Option<&str> {
        if let Self::Status(status) = self { status.reason.as_deref() } else { None }
    }
    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.reason() == Some("NotFound")
    }
    /// Somebody else changed it first.
    pub fn is_conflict(&self) -> bool {
        self.reason() == Some("Conflict")
    }
    /// It exists already.
    pub fn is_already_exists(&self) -> bool {
        self.reason() == Some("AlreadyExists")
    }
    /// The revision is too old; list again.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(410)
    }
    /// Refuses the write of one who leads no more.
    pub fn fenced(message: impl Into<String>) -> Self {
        Self::status(412, FENCED, message)
    }
    /// Whoever wrote has lost the lease that the write was made under: nothing was changed, and trying again cannot help.
    pub fn is_fenced(&self) -> bool {
        self.reason() == Some(FENCED)
    }
    /// Its namespace is being deleted, so that nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        matches!(self, Self::Status(s) if s.details.as_ref().and_then(|d| d.causes.as_ref()).is_some_and(|c| c.iter().any(|c| c.reason.as_deref() == Some("NamespaceTerminating"))))
    }
}

/// The API, in this process or behind a socket.
///
/// # Contract
/// The rules are Kubernetes': optimistic concurrency by resourceVersion, `list` then `watch` after its revision
/// misses and repeats nothing, a refused call changes nothing. Objects are shared: never copied for a reader.
///
/// # Cancellation
/// A dropped read or watch has no effect. A dropped write may or may not have taken place.
///
/// # Errors
/// [`ApiError::Status`] carries what kubectl would print.
///
/// # Panics
/// Never on input.
///
/// # Implementing
/// Two exist: the API server's own, which skips HTTP and JSON, and a remote one over a
/// `kube::Client`. Both pass through the same authorization and admission.
#[async_trait]
pub trait Api: Send + Sync + fmt::Debug + 'static {
    /// One object.
    async fn get(&self, target: &Target) -> Result<Arc<Object>, ApiError>;
    /// The objects that match, at the newest revision.
    async fn list(&self, resource: &ApiResource, query: &Query) -> Result<ObjectList, ApiError>;
    /// What happens to the objects that match after a revision.
    async fn watch(&self, resource: &ApiResource, query: &Query, after: Revision) -> Result<ApiWatch, ApiError>;
    /// Carries out a change; answers the object as it is then (for a delete: as it was, or with its deletionTimestamp).
    /// Over HTTP, Kubernetes answers some writes (a delete that is done, `binding`, `eviction`) without the object: then only
    /// namespace, name and, if told, uid can be relied on. A write that ends in [`ApiError::Transport`] may have taken place.
    async fn write(&self, write: Write) -> Result<Arc<Object>, ApiError>;
}

/// A shared API.
pub type SharedApi = Arc<dyn Api>;

/// A type that the API serves.
pub trait Kind: kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned + Send + Sync + 'static {}
impl<K: kube::Resource<DynamicType = ()> + Serialize + DeserializeOwned + Send + Sync + 'static> Kind for K {}

fn encode(value: &impl Serialize) -> Result<Bytes, ApiError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|e| ApiError::Encode(Box::new(e)))
}

/// Namespace and name of a typed object; empty where it has none.
pub fn ref_of<K: kube::Resource>(object: &K) -> ObjectRef {
    let meta = object.meta();
    ObjectRef::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// Typed sugar over [`Api`].
#[allow(async_fn_in_trait, reason = "a blanket extension, never a trait object")]
pub trait ApiExt: Api {
    /// Reads an object; `None` if it does not exist.
    fn get_opt<K: Kind>(&self, object: &ObjectRef) -> impl Future<Output = Result<Option<Arc<K>>, ApiError>> + Send {
        let target = Target::of::<K>(object.clone());
        async move {
            match self.get(&target).await {
                Ok(object) => Ok(Some(object.decode()?)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            }
        }
    }
    /// Lists a type.
    fn list_as<K: Kind>(&self, query: &Query) -> impl Future<Output = Result<Vec<Arc<K>>, ApiError>> + Send {
        async move { self.list(&resource_of::<K>(), query).await?.items.iter().map(|o| Ok(o.decode()?)).collect() }
    }
    /// Creates an object; its namespace and name are its metadata's.
    fn create<K: Kind>(&self, object: &K) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send {
        let (target, body) = (Target::of::<K>(ref_of(object)), encode(object));
        async move { Ok(self.write(Write { target, verb: Verb::Create(body?), field_manager: String::new() }).await?.decode()?) }
    }
    /// Replaces an object.
    fn update<K: Kind>(&self, object: &K) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send {
        let (target, body) = (Target::of::<K>(ref_of(object)), encode(object));
        async move { Ok(self.write(Write { target, verb: Verb::Update(body?), field_manager: String::new() }).await?.decode()?) }
    }
    /// Replaces the status of an object.
    fn update_status<K: Kind>(&self, object: &K) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send {
        let (target, body) = (Target::of::<K>(ref_of(object)).sub("status"), encode(object));
        async move { Ok(self.write(Write { target, verb: Verb::Update(body?), field_manager: String::new() }).await?.decode()?) }
    }
    /// Patches an object, or a subresource of it.
    fn patch<K: Kind>(
        &self,
        object: &ObjectRef,
        subresource: &'static str,
        kind: PatchKind,
        patch: &serde_json::Value,
    ) -> impl Future<Output = Result<Arc<K>, ApiError>> + Send {
        let (target, body) = (Target::of::<K>(object.clone()).sub(subresource), encode(patch));
        async move {
            let verb = Verb::Patch { kind, body: body? };
            Ok(self.write(Write { target, verb, field_manager: "wharf".into() }).await?.decode()?)
        }
    }
    /// Deletes an object; one that does not exist is no error.
    fn delete<K: Kind>(&self, object: &ObjectRef, params: DeleteParams) -> impl Future<Output = Result<(), ApiError>> + Send {
        let target = Target::of::<K>(object.clone());
        async move {
            match self.write(Write { target, verb: Verb::Delete(params), field_manager: String::new() }).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_not_found() => Ok(()),
                Err(error) => Err(error),
            }
        }
    }
}
impl<T: Api + ?Sized> ApiExt for T {}
