//! Controllers: what drives the cluster towards what was asked for.

pub mod custom;
mod driver;
pub mod election;
mod queue;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::core::ApiResource;

pub use driver::{Driver, DriverOptions};
pub use queue::{BACKOFF_FIRST, BACKOFF_MOST, WorkQueue};

use crate::api::{ApiError, Kind, SharedApi};
use crate::clock::Clock;
use crate::events::EventRecorder;
use crate::informer::{Informers, ObjectChange};
use crate::object::{ObjectRef, resource_of};
use crate::runtime::BoxError;

/// What a controller is given to work with. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The API, as the controller's own user.
    pub api: SharedApi,
    /// Shared informers.
    pub informers: Informers,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where to report to people.
    pub events: EventRecorder,
}

/// Which keys of the controller a change concerns.
pub type Mapper = Arc<dyn Fn(&Context, &ObjectChange) -> Vec<ObjectRef> + Send + Sync>;

/// Which keys of the controller a change of a custom resource's object concerns.
pub type CustomMapper = Arc<dyn Fn(&Context, &ApiResource, &ObjectChange) -> Vec<ObjectRef> + Send + Sync>;

/// A resource that a controller watches.
#[derive(Clone)]
pub struct Watch {
    /// Which.
    pub resource: ApiResource,
    /// Which keys a change concerns.
    pub map: Mapper,
    /// With it, the objects of every custom resource are watched too, each resource for as long as it is served. A deleted resource
    /// takes its objects along: each is told of as gone.
    pub custom: Option<CustomMapper>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({}/{})", self.resource.api_version, self.resource.plural)
    }
}

impl Watch {
    /// The objects that the controller is about: each is a key.
    pub fn primary<K: Kind>() -> Self {
        Self::mapped::<K>(|_, change| vec![change.latest().object_ref()])
    }
    /// Objects whose controlling owner is an `Owner`: the owner is the key.
    pub fn owned<K: Kind, Owner: Kind>() -> Self {
        let owner = resource_of::<Owner>();
        Self::mapped::<K>(move |_, change| {
            // Both sides: an object that changes hands concerns two owners.
            let sides = change.old.iter().chain(change.new.iter());
            let mut keys: Vec<ObjectRef> = sides
                .filter_map(|o| {
                    let found = o.controller_of()?;
                    (found.kind == owner.kind && found.api_version == owner.api_version)
                        .then(|| ObjectRef::new(o.key().namespace.clone(), found.name.as_str()))
                })
                .collect();
            keys.dedup();
            keys
        })
    }
    /// Objects that concern keys in another way.
    pub fn mapped<K: Kind>(map: impl Fn(&Context, &ObjectChange) -> Vec<ObjectRef> + Send + Sync + 'static) -> Self {
        Self::resource(resource_of::<K>(), map)
    }
    /// Objects of a resource whose type is not known here.
    pub fn resource(resource: ApiResource, map: impl Fn(&Context, &ObjectChange) -> Vec<ObjectRef> + Send + Sync + 'static) -> Self {
        Self { resource, map: Arc::new(map), custom: None }
    }
    /// The objects of every custom resource. The first calls may come before all of them were read: a resource that cannot be listed
    /// must not keep a controller from the others.
    pub fn custom_resources(map: impl Fn(&Context, &ApiResource, &ObjectChange) -> Vec<ObjectRef> + Send + Sync + 'static) -> Self {
        // What changes of a definition itself is seen to by following it.
        Self { custom: Some(Arc::new(map)), ..Self::resource(custom::definitions(), |_, _| Vec::new()) }
    }
}

/// What becomes of a key after it was reconciled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something changes.
    Done,
    /// Look again after this long.
    RequeueAfter(Duration),
}

/// Why a key could not be reconciled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// Try again, after a back-off.
    #[error("{0}")]
    Retry(#[source] BoxError),
    /// Trying again cannot help until something changes.
    #[error("{0}")]
    Terminal(#[source] BoxError),
}

impl From<ApiError> for ReconcileError {
    fn from(error: ApiError) -> Self {
        match error.code() {
            // The object will not become valid by itself.
            Some(422) => Self::Terminal(Box::new(error)),
            _ => Self::Retry(Box::new(error)),
        }
    }
}

/// A controller.
///
/// # Contract
/// `reconcile` is level-triggered: it reads the state by key and acts on the difference; it is told no event. It must be
/// idempotent. The driver guarantees: no call before every watched informer has synced; one call per key at a time;
/// a key that changes meanwhile is called again; failures back off per key with jitter, and an early trigger does not
/// inflate the back-off; a panic counts as [`ReconcileError::Retry`].
///
/// # Cancellation
/// On shutdown the driver stops handing out keys and waits for calls under way up to a bound, then drops them: a
/// dropped reconcile must leave nothing that the next cannot mend.
///
/// # Errors
/// [`ReconcileError`] says whether trying again can help.
///
/// # Panics
/// Contained.
///
/// # Implementing
/// Decide with a pure function of what was read, then carry out. Read through `ctx.informers`, write through `ctx.api`.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// A short name for logs and metrics, such as `deployment`.
    fn name(&self) -> &'static str;
    /// What to watch.
    fn watches(&self) -> Vec<Watch>;
    /// Drives one key towards what was asked for.
    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError>;
}
