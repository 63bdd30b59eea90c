//! Garbage collection: what depends on owners that are gone goes too.

mod graph;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use wharf_core::api::{ApiError, DeleteParams, PatchKind, Propagation, Query, Target, Verb, Write};
use wharf_core::controller::custom::{CustomResource, custom_resources};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::informer::ObjectChange;
use wharf_core::object::{Object, ObjectRef};

use self::graph::has_finalizer;
pub use self::graph::{FOREGROUND, Graph, Node, ORPHAN, OwnerState, Verdict, is_waiting, verdict};

/// How soon to look again where an owner is of a kind that nobody serves: its definition may yet come.
pub const UNKNOWN_RECHECK: Duration = Duration::from_secs(30);
/// How soon to look again while custom resources are being read.
const SYNC_RECHECK: Duration = Duration::from_secs(1);

/// A kind, and whether its objects are in namespaces.
#[derive(Debug, Clone)]
struct Known {
    resource: ApiResource,
    namespaced: bool,
}

/// The custom resources that nodes of the graph are of, by their place behind the built-in ones. A place is given anew when nobody serves
/// its resource any more, so that there are never more than have been served at once.
#[derive(Debug, Default)]
struct Places(Vec<ApiResource>);

impl Places {
    fn of(&mut self, resource: &ApiResource, served: impl FnOnce() -> Vec<CustomResource>) -> usize {
        let same = |a: &ApiResource, b: &ApiResource| a.group == b.group && a.plural == b.plural;
        // In the version in which it is watched now.
        let mut place = self.0.iter().position(|known| same(known, resource));
        if place.is_none() {
            let served = served();
            place = self.0.iter().position(|known| !served.iter().any(|custom| same(&custom.resource, known)));
        }
        match place {
            Some(place) => {
                self.0[place].clone_from(resource);
                place
            }
            None => {
                self.0.push(resource.clone());
                self.0.len() - 1
            }
        }
    }
}

/// The garbage collector, of built-in and of custom resources.
#[derive(Debug)]
pub struct GarbageCollector {
    builtin: Vec<Known>,
    custom: Arc<RwLock<Places>>,
    graph: Arc<Mutex<Graph>>,
}

impl Default for GarbageCollector {
    /// Of everything that is built in, but for events, which are many and own nothing.
    fn default() -> Self {
        let mut namespaced = crate::resources::namespaced();
        namespaced.retain(|r| r.kind != "Event");
        Self::new(namespaced, crate::resources::cluster_scoped())
    }
}

impl GarbageCollector {
    /// Collects objects of these resources, all of which the API server must serve, and of custom resources.
    pub fn new(namespaced: Vec<ApiResource>, cluster_scoped: Vec<ApiResource>) -> Self {
        let known = |namespaced| move |resource| Known { resource, namespaced };
        let builtin = namespaced.into_iter().map(known(true)).chain(cluster_scoped.into_iter().map(known(false))).collect();
        Self { builtin, custom: Arc::default(), graph: Arc::default() }
    }

    /// The resource of a node of the graph.
    fn kind(&self, index: usize) -> Option<ApiResource> {
        match index.checked_sub(self.builtin.len()) {
            None => Some(self.builtin[index].resource.clone()),
            Some(place) => self.custom.read().0.get(place).cloned(),
        }
    }

    /// An owner's kind: a built-in one, or what a definition tells of it now, for what it told before may be a version that is no longer
    /// served. `None` where nobody serves it. And whether it is built in.
    fn kind_of(&self, ctx: &Context, owner: &OwnerReference) -> Option<(Known, bool)> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let is_it = |resource: &ApiResource| resource.kind == owner.kind && resource.group == group;
        if let Some(known) = self.builtin.iter().find(|known| is_it(&known.resource)) {
            return Some((known.clone(), true));
        }
        let custom = custom_resources(&ctx.informers).into_iter().find(|custom| is_it(&custom.resource))?;
        Some((Known { resource: custom.resource, namespaced: custom.namespaced }, false))
    }

    /// What has become of an owner. The cache can only tell that it exists; that it does not, the API has to say.
    async fn owner_state(&self, ctx: &Context, namespace: &str, owner: &OwnerReference, live: bool) -> Result<OwnerState, ApiError> {
        let Some((Known { resource, namespaced }, builtin)) = self.kind_of(ctx, owner) else { return Ok(OwnerState::Unknown) };
        if namespaced && namespace.is_empty() {
            // What is in no namespace cannot name one that is.
            return Ok(OwnerState::Solid);
        }
        let object = ObjectRef::new(if namespaced { namespace } else { "" }, owner.name.as_str());
        let state = |meta: &ObjectMeta| if is_waiting(meta) { OwnerState::Waiting } else { OwnerState::Solid };
        let is_it = |found: &Arc<Object>| found.meta().uid.as_deref() == Some(&owner.uid);
        if !live && let Some(known) = ctx.informers.known(&resource).and_then(|informer| informer.get(&object)).filter(is_it) {
            return Ok(state(known.meta()));
        }
        match ctx.api.get(&Target { resource: resource.clone(), object, subresource: "" }).await {
            Ok(found) if is_it(&found) => Ok(state(found.meta())),
            Ok(_) => Ok(OwnerState::Dangling),
            Err(error) if error.is_not_found() && (builtin || is_served(ctx, &resource).await?) => Ok(OwnerState::Dangling),
            Err(error) if error.is_not_found() => Ok(OwnerState::Unknown),
            Err(error) => Err(error),
        }
    }

    /// Whether all that could depend on something has been read.
    fn has_read_all(&self, ctx: &Context) -> bool {
        let read = |resource| ctx.informers.known(&resource).is_some_and(|informer| informer.is_synced());
        custom_resources(&ctx.informers).into_iter().all(|custom| read(custom.resource))
    }

    async fn states(&self, ctx: &Context, meta: &ObjectMeta, live: bool) -> Result<Vec<OwnerState>, ApiError> {
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let mut states = Vec::new();
        for owner in meta.owner_references.iter().flatten() {
            states.push(self.owner_state(ctx, namespace, owner, live).await?);
        }
        Ok(states)
    }

    async fn write(&self, ctx: &Context, target: Target, verb: Verb) -> Result<(), ApiError> {
        match ctx.api.write(Write { target, verb, field_manager: "garbage-collector".into() }).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Changes metadata of exactly the version that was looked at.
    async fn patch(&self, ctx: &Context, target: Target, meta: &ObjectMeta, change: serde_json::Value) -> Result<(), ApiError> {
        let mut metadata = json!({"uid": meta.uid, "resourceVersion": meta.resource_version});
        for (name, value) in change.as_object().into_iter().flatten() {
            metadata[name] = value.clone();
        }
        let body = serde_json::to_vec(&json!({"metadata": metadata})).map_err(|e| ApiError::Encode(Box::new(e)))?;
        self.write(ctx, target, Verb::Patch { kind: PatchKind::Merge, body: body.into() }).await
    }

    async fn drop_finalizer(&self, ctx: &Context, target: Target, meta: &ObjectMeta, name: &str) -> Result<(), ApiError> {
        let left: Vec<&String> = meta.finalizers.iter().flatten().filter(|f| *f != name).collect();
        self.patch(ctx, target, meta, json!({"finalizers": left})).await
    }

    fn target(&self, node: &Node) -> Option<Target> {
        Some(Target { resource: self.kind(node.resource)?, object: node.object.clone(), subresource: "" })
    }

    fn dependents(&self, ctx: &Context, uid: &str) -> Vec<(Node, Arc<Object>)> {
        let nodes = self.graph.lock().dependents(uid);
        let read = |node: Node| {
            let object = ctx.informers.known(&self.kind(node.resource)?)?.get(&node.object)?;
            object.meta().owner_references.iter().flatten().any(|o| o.uid == uid).then_some((node, object))
        };
        nodes.into_iter().filter_map(read).collect()
    }

    /// The dependents by what was read of every resource, which the graph may not know of yet: what is not let go of would be deleted.
    fn every_dependent(&self, ctx: &Context, uid: &str) -> Vec<(Target, Arc<Object>)> {
        let mut kinds: Vec<ApiResource> = self.builtin.iter().map(|known| known.resource.clone()).collect();
        kinds.extend(self.custom.read().0.iter().cloned());
        let mut found = Vec::new();
        for resource in kinds {
            let Some(informer) = ctx.informers.known(&resource) else { continue };
            for object in informer.list() {
                if object.meta().owner_references.iter().flatten().any(|o| o.uid == uid) {
                    found.push((Target { resource: resource.clone(), object: object.object_ref(), subresource: "" }, object));
                }
            }
        }
        found
    }

    /// An object that is being deleted: lets go of its dependents, or waits until those that block are gone.
    async fn finalize(&self, ctx: &Context, target: Target, live: &Object) -> Result<(), ApiError> {
        let meta = live.meta();
        let uid = meta.uid.as_deref().unwrap_or_default();
        if has_finalizer(meta, ORPHAN) {
            for (target, dependent) in self.every_dependent(ctx, uid) {
                self.let_go(ctx, target, dependent.meta(), |o| o.uid != uid).await?;
            }
            return self.drop_finalizer(ctx, target, meta, ORPHAN).await;
        }
        if has_finalizer(meta, FOREGROUND) {
            let blocks = |o: &OwnerReference| o.uid == uid && o.block_owner_deletion == Some(true);
            let blocked = self.dependents(ctx, uid).iter().any(|(_, d)| d.meta().owner_references.iter().flatten().any(blocks));
            if !blocked {
                return self.drop_finalizer(ctx, target, meta, FOREGROUND).await;
            }
        }
        Ok(())
    }

    async fn let_go(
        &self,
        ctx: &Context,
        target: Target,
        meta: &ObjectMeta,
        keep: impl Fn(&OwnerReference) -> bool,
    ) -> Result<(), ApiError> {
        let owners: Vec<&OwnerReference> = meta.owner_references.iter().flatten().filter(|o| keep(o)).collect();
        self.patch(ctx, target, meta, json!({"ownerReferences": owners})).await
    }
}

/// Whether the API serves a resource: an object of one that it does not serve is not known to be gone.
async fn is_served(ctx: &Context, resource: &ApiResource) -> Result<bool, ApiError> {
    // Whatever is named so: what matters is whether there is an answer.
    let few = Query { field_selector: Some("metadata.name=any".into()), ..Query::default() };
    match ctx.api.list(resource, &few).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// When to look again at what has such owners.
fn after(states: &[OwnerState]) -> Action {
    if states.contains(&OwnerState::Unknown) { Action::RequeueAfter(UNKNOWN_RECHECK) } else { Action::Done }
}

fn observe(graph: &Mutex<Graph>, index: usize, change: &ObjectChange) -> Vec<ObjectRef> {
    let concerned = graph.lock().observe(index, change.old.as_deref(), change.new.as_deref());
    concerned.iter().map(Node::to_key).collect()
}

#[async_trait]
impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn watches(&self) -> Vec<Watch> {
        let watch = |(index, known): (usize, &Known)| {
            let graph = self.graph.clone();
            Watch::resource(known.resource.clone(), move |_, change| observe(&graph, index, change))
        };
        let (graph, places, builtin) = (self.graph.clone(), self.custom.clone(), self.builtin.len());
        let custom = Watch::custom_resources(move |ctx, resource, change| {
            let place = places.write().of(resource, || custom_resources(&ctx.informers));
            observe(&graph, builtin + place, change)
        });
        self.builtin.iter().enumerate().map(watch).chain([custom]).collect()
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        let Some(node) = Node::from_key(key) else { return Ok(Action::Done) };
        let Some(target) = self.target(&node) else { return Ok(Action::Done) };
        let informer = ctx.informers.known(&target.resource);
        let Some(cached) = informer.and_then(|informer| informer.get(&node.object)) else { return Ok(Action::Done) };
        let going = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
        if !going(cached.meta()) {
            let states = self.states(ctx, cached.meta(), false).await?;
            if states.iter().all(|state| matches!(state, OwnerState::Solid | OwnerState::Unknown)) {
                return Ok(after(&states));
            }
        }
        // Only what the API itself says is acted on.
        let live = match ctx.api.get(&target).await {
            Ok(live) if live.meta().uid == cached.meta().uid => live,
            Ok(_) => return Ok(Action::Done),
            Err(error) if error.is_not_found() => return Ok(Action::Done),
            Err(error) => return Err(error.into()),
        };
        let meta = live.meta();
        if going(meta) {
            if !self.has_read_all(ctx) {
                return Ok(Action::RequeueAfter(SYNC_RECHECK));
            }
            self.finalize(ctx, target, &live).await?;
            return Ok(Action::Done);
        }
        let states = self.states(ctx, meta, true).await?;
        let has_dependents = !self.dependents(ctx, meta.uid.as_deref().unwrap_or_default()).is_empty();
        match verdict(&states, has_dependents) {
            Verdict::Keep => {}
            Verdict::Release => {
                let solid: Vec<&str> = meta
                    .owner_references
                    .iter()
                    .flatten()
                    .zip(&states)
                    .filter(|(_, s)| matches!(s, OwnerState::Solid | OwnerState::Unknown))
                    .map(|(o, _)| &*o.uid)
                    .collect();
                self.let_go(ctx, target, meta, |o| solid.contains(&o.uid.as_str())).await?;
            }
            Verdict::Delete { foreground } => {
                let propagation = if has_finalizer(meta, ORPHAN) {
                    Propagation::Orphan
                } else if foreground || has_finalizer(meta, FOREGROUND) {
                    Propagation::Foreground
                } else {
                    Propagation::Background
                };
                // The resourceVersion: somebody may adopt it at this moment.
                let params = DeleteParams {
                    propagation: Some(propagation),
                    uid: meta.uid.clone(),
                    resource_version: meta.resource_version.clone(),
                    ..DeleteParams::default()
                };
                self.write(ctx, target, Verb::Delete(params)).await?;
            }
        }
        Ok(after(&states))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_anew() {
        let resource = |plural: &str, version: &str| ApiResource {
            group: "a.b".into(),
            version: version.into(),
            api_version: format!("a.b/{version}"),
            kind: plural.into(),
            plural: plural.into(),
        };
        let served =
            |all: &[&str]| all.iter().map(|p| CustomResource { resource: resource(p, "v1"), namespaced: true }).collect::<Vec<_>>();
        let mut places = Places::default();
        assert_eq!(places.of(&resource("boats", "v1"), || served(&["boats"])), 0);
        assert_eq!(places.of(&resource("cars", "v1"), || served(&["boats", "cars"])), 1);
        assert_eq!(places.of(&resource("boats", "v2"), Vec::new), 0, "another version is the same resource");
        assert_eq!(places.0[0].version, "v2");
        assert_eq!(places.of(&resource("trams", "v1"), || served(&["cars", "trams"])), 0, "boats are gone");
        assert_eq!(places.0.len(), 2);
    }
}
