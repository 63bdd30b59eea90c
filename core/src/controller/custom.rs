//! Custom resources, for controllers that look after objects of every kind.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::ApiResource;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::AbortOnDropHandle;

use super::driver::feed;
use super::{Context, CustomMapper, WorkQueue};
use crate::api::Query;
use crate::informer::{Informer, Informers, ObjectChange};
use crate::object::{Object, resource_of};

/// A resource that a CustomResourceDefinition makes the API server serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomResource {
    /// The resource, in the version in which it is stored, or else in the first that is served.
    pub resource: ApiResource,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// What is read of a definition. The rest is most of it, and is not asked for here.
#[derive(Deserialize)]
struct Definition {
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Spec {
    group: String,
    names: Names,
    scope: String,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Names {
    plural: String,
    kind: String,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    served: bool,
    storage: bool,
}

#[derive(Deserialize, Default)]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

impl CustomResource {
    /// What a definition has come to: `None` until it is established, and where no version is served.
    pub fn of(definition: &Object) -> Option<Self> {
        // Read once for each version of the definition: collectors ask at every object.
        let read = definition.decode::<Definition>().inspect_err(|error| tracing::error!("left out: {error}")).ok()?;
        let Definition { spec, status } = &*read;
        if !status.conditions.iter().any(|c| c.kind == "Established" && c.status == "True") {
            return None;
        }
        let served = || spec.versions.iter().filter(|v| v.served);
        let version = served().find(|v| v.storage).or_else(|| served().next())?.name.clone();
        let resource = ApiResource {
            api_version: format!("{}/{version}", spec.group),
            group: spec.group.clone(),
            version,
            kind: spec.names.kind.clone(),
            plural: spec.names.plural.clone(),
        };
        Some(Self { resource, namespaced: spec.scope == "Namespaced" })
    }
}

/// The resource of definitions.
pub fn definitions() -> ApiResource {
    resource_of::<CustomResourceDefinition>()
}

/// The custom resources that are served now, by what was read of their definitions. A controller that asks must watch them
/// ([`Watch::custom_resources`](super::Watch::custom_resources)), or nothing may have been read yet.
pub fn custom_resources(informers: &Informers) -> Vec<CustomResource> {
    let known = informers.informer(definitions(), Query::default()).list();
    known.iter().filter_map(|definition| CustomResource::of(definition)).collect()
}

struct Followed {
    resource: ApiResource,
    informer: Arc<Informer>,
    feed: AbortOnDropHandle<()>,
}

impl Followed {
    fn begin(context: &Context, resource: ApiResource, map: &CustomMapper, queue: &Arc<WorkQueue>) -> Self {
        let informer = context.informers.informer(resource.clone(), Query::default());
        let (of, map) = (resource.clone(), map.clone());
        let keys = move |context: &Context, change: &ObjectChange| map(context, &of, change);
        let feed = tokio::spawn(feed(context.clone(), informer.clone(), Arc::new(keys), queue.clone()));
        Self { resource, informer, feed: AbortOnDropHandle::new(feed) }
    }

    /// The resource is gone, and with it all that was there.
    fn end(self, context: &Context, map: &CustomMapper, queue: &WorkQueue) {
        drop(self.feed);
        context.informers.release(&self.informer);
        for object in self.informer.list() {
            let change = ObjectChange { old: Some(object), new: None };
            map(context, &self.resource, &change).into_iter().for_each(|key| queue.add(key));
        }
    }
}

/// Watches the objects of every custom resource for as long as it is served.
pub(super) async fn follow(context: Context, map: CustomMapper, queue: Arc<WorkQueue>) {
    let definitions = context.informers.informer(definitions(), Query::default());
    let mut followed: HashMap<String, Followed> = HashMap::new();
    loop {
        // Subscribed before the look, so that no change falls between.
        let (known, mut changes) = definitions.subscribe();
        let mut wanted: HashMap<String, ApiResource> = known
            .iter()
            .filter_map(|definition| Some((definition.object_ref().name.to_string(), CustomResource::of(definition)?.resource)))
            .collect();
        let over: Vec<String> =
            followed.iter().filter(|(name, f)| wanted.get(*name) != Some(&f.resource)).map(|(n, _)| n.clone()).collect();
        for name in over {
            if let Some(followed) = followed.remove(&name) {
                followed.end(&context, &map, &queue);
            }
        }
        wanted.retain(|name, _| !followed.contains_key(name));
        for (name, resource) in wanted {
            followed.insert(name, Followed::begin(&context, resource, &map, &queue));
        }
        if matches!(changes.recv().await, Err(RecvError::Closed)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::{Key, ResourceId, Revision};

    fn of(versions: Value, conditions: Value) -> Option<CustomResource> {
        let definition = json!({"metadata":{"name":"boats.a.b"},"status":{"conditions":conditions},
            "spec":{"group":"a.b","scope":"Namespaced","names":{"plural":"boats","kind":"Boat"},"versions":versions}});
        let bytes = serde_json::to_vec(&definition).unwrap();
        CustomResource::of(&Object::from_served(Key::new(ResourceId::new("x", "y"), "", "boats.a.b"), Revision(1), bytes.into()))
    }

    #[test]
    fn the_stored_version_if_it_is_served() {
        let established = || json!([{"type":"Established","status":"True"}]);
        let version = |name: &str, served: bool, storage: bool| json!({"name":name,"served":served,"storage":storage});
        let api_version = |versions: Value| of(versions, established()).map(|found| found.resource.api_version);
        let both = json!([version("v1", true, false), version("v2", true, true)]);
        assert_eq!(api_version(both.clone()).as_deref(), Some("a.b/v2"));
        assert_eq!(api_version(json!([version("v1", true, false), version("v2", false, true)])).as_deref(), Some("a.b/v1"));
        assert_eq!(api_version(json!([version("v2", false, true)])), None);
        assert_eq!(of(both.clone(), json!([])), None);
        assert_eq!(of(both, json!([{"type":"Established","status":"False"}])), None);
    }
}
