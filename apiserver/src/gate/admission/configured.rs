//! What the administrators of a cluster configure as objects: read from the cache, and made ready once for each revision.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::OnceCell;
use wharf_core::api::ApiError;
use wharf_core::cache::Cache;
use wharf_core::store::{ResourceId, Revision};

use crate::rest::{Registry, status};

/// By name: of which revision, and what was made of it.
type Ready<T> = HashMap<Arc<str>, (Revision, Arc<T>)>;

/// Objects of one resource, each made ready.
#[derive(Debug)]
pub(super) struct Configured<T> {
    resource: ResourceId,
    make: fn(&Value) -> T,
    cache: OnceCell<Arc<Cache>>,
    ready: Mutex<Ready<T>>,
}

impl<T> Configured<T> {
    /// Objects of a resource of admissionregistration.k8s.io.
    pub(super) fn new(plural: &str, make: fn(&Value) -> T) -> Self {
        let resource = ResourceId::new("admissionregistration.k8s.io", plural);
        Self { resource, make, cache: OnceCell::new(), ready: Mutex::default() }
    }

    /// Whether it is known that there are none; asked at each write, most of which nobody configured anything for.
    pub(super) fn are_none(&self) -> bool {
        self.cache.get().is_some_and(|cache| cache.is_empty())
    }

    /// All there are, in the order of their names.
    pub(super) async fn all(&self, registry: &Registry) -> Result<Vec<Arc<T>>, ApiError> {
        let cache = self.cache.get_or_try_init(|| registry.caches().of(&self.resource)).await.map_err(status::of_cache)?;
        let objects = cache.list(None).items;
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let mut ready = self.ready.lock();
        if ready.len() > objects.len() {
            ready.retain(|name, _| objects.iter().any(|o| o.key().name == *name));
        }
        let mut all = Vec::with_capacity(objects.len());
        for object in objects {
            let name = object.key().name.clone();
            if let Some((_, known)) = ready.get(&name).filter(|(revision, _)| *revision == object.revision()) {
                all.push(known.clone());
                continue;
            }
            let Ok(value) = serde_json::from_slice::<Value>(&object.to_bytes()) else { continue };
            let made = Arc::new((self.make)(&value));
            ready.insert(name, (object.revision(), made.clone()));
            all.push(made);
        }
        Ok(all)
    }
}
