//! Kubernetes' REST storage over any store: the verbs, and their way through HTTP.

pub mod admission;
pub(crate) mod answer;
pub(crate) mod body;
mod bootstrap;
mod commit;
mod component_status;
mod continuation;
pub(crate) mod creation;
mod delete;
mod deprecated;
mod encoding;
mod events;
mod expire;
mod form;
mod frames;
mod http;
pub(crate) mod names;
mod params;
mod parts;
pub mod path;
mod protobuf;
pub mod read;
pub mod select;
mod service_claims;
mod services;
pub mod status;
mod strict;
mod subresources;
pub(crate) mod versions;
mod write;

use std::sync::Arc;

use serde_json::Value;
use wharf_core::api::ApiError;
use wharf_core::cache::Caches;
use wharf_core::clock::Clock;
use wharf_core::object::Object;
use wharf_core::store::{Fence, Key, SharedStore};

use self::admission::{AdmissionChain, Reviews};
pub use self::delete::DeleteOptions;
pub use self::http::RestService;
use self::services::ServiceAllocator;
pub use self::services::ServiceRanges;
use crate::request::User;
use crate::resources::{Resource, ResourceTable, ServedTable};

/// Largest body of a request, in bytes; Kubernetes' own.
pub const MAX_BODY: usize = 3 << 20;
/// How often a change is tried again when somebody else was faster and the client named no resourceVersion.
pub const MAX_RETRIES: usize = 32;

/// What to do about fields that a type does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Drop them.
    Ignore,
    /// Drop them and say so.
    #[default]
    Warn,
    /// Refuse.
    Strict,
}

/// What a write knows beyond its object.
#[derive(Debug, Clone)]
pub struct WriteContext {
    /// Who asks.
    pub user: Arc<User>,
    /// Do everything but store.
    pub dry_run: bool,
    /// Name kept in managedFields.
    pub field_manager: String,
    /// What to do about unknown fields.
    pub validation: FieldValidation,
    /// Write only while this is the newest acquisition of its lease.
    pub fence: Option<Fence>,
    /// Whether managedFields tell of it.
    pub tracking: Tracking,
    /// What the body says twice, in Kubernetes' words.
    pub duplicates: Vec<String>,
    /// Whether the body is a patch.
    pub patched: bool,
}

/// What managedFields tell of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tracking {
    /// What it changed, under the subresource that it was sent to.
    #[default]
    Update,
    /// What it changed, under `scale`.
    Scale,
    /// Nothing, or the write has told already.
    Off,
}

impl WriteContext {
    /// A write of a user.
    pub fn new(user: Arc<User>) -> Self {
        Self {
            user,
            dry_run: false,
            field_manager: String::new(),
            validation: FieldValidation::Warn,
            fence: None,
            tracking: Tracking::Update,
            duplicates: Vec::new(),
            patched: false,
        }
    }
}

/// What came of a write.
#[derive(Debug, Clone)]
pub struct Written {
    /// The object as it is now, or as it was for one that is gone.
    pub object: Arc<Object>,
    /// Sentences for `Warning` headers.
    pub warnings: Vec<String>,
    /// Whether it came into being.
    pub created: bool,
    /// Whether it is gone.
    pub gone: bool,
}

/// The verbs on objects. What calls it has authorized the request.
#[derive(Debug)]
pub struct Registry {
    pub(crate) table: ServedTable,
    pub(crate) caches: Caches,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) admission: AdmissionChain,
    pub(crate) reviews: Option<Arc<dyn Reviews>>,
    pub(crate) services: ServiceAllocator,
}

impl Registry {
    /// Over running caches.
    pub fn new(
        table: ResourceTable,
        caches: Caches,
        clock: Arc<dyn Clock>,
        admission: AdmissionChain,
        reviews: Option<Arc<dyn Reviews>>,
        ranges: ServiceRanges,
    ) -> Self {
        Self { table: ServedTable::new(table), caches, clock, admission, reviews, services: ServiceAllocator::new(ranges) }
    }

    /// The resources that are served now.
    pub fn table(&self) -> Arc<ResourceTable> {
        self.table.load()
    }
    /// A resource that is served now.
    pub fn row(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Resource>> {
        self.table.load().get(group, version, plural).cloned()
    }
    /// The table itself, to be changed while it is served by.
    pub fn served(&self) -> &ServedTable {
        &self.table
    }
    /// The caches.
    pub fn caches(&self) -> &Caches {
        &self.caches
    }

    fn store(&self) -> &SharedStore {
        self.caches.store()
    }

    fn now(&self) -> String {
        timestamp(self.clock.now())
    }
    /// The time, as objects carry it.
    pub(crate) fn timestamp(&self) -> String {
        self.now()
    }
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn key(row: &Resource, namespace: &str, name: &str) -> Key {
        Key::new(row.storage.clone(), if row.namespaced { namespace } else { "" }, name)
    }
}

/// A time as `metav1.Time` writes it.
pub fn timestamp(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Reads JSON that was stored by this server.
fn parse_stored(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes).map_err(|e| status::internal(format!("stored object does not decode: {e}")))
}
