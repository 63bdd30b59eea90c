//! Garbage collection: what depends on owners that are gone goes too.

mod graph;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::ApiResource;
use parking_lot::Mutex;
use serde_json::json;
use wharf_core::api::{ApiError, DeleteParams, PatchKind, Propagation, Query, Target, Verb, Write};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::object::{Object, ObjectRef, resource_of};

use self::graph::has_finalizer;
pub use self::graph::{FOREGROUND, Graph, Node, ORPHAN, OwnerState, Verdict, is_waiting, verdict};

/// Kinds without a namespace, which objects in namespaces can depend on.
const CLUSTER_SCOPED: &[(&str, &str)] = &[
    ("", "Node"),
    ("", "Namespace"),
    ("", "PersistentVolume"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    ("storage.k8s.io", "StorageClass"),
    ("storage.k8s.io", "CSINode"),
    ("node.k8s.io", "RuntimeClass"),
    ("scheduling.k8s.io", "PriorityClass"),
];

/// The garbage collector.
#[derive(Debug)]
pub struct GarbageCollector {
    /// What is watched: kinds that depend, and kinds whose going is noticed at once.
    resources: Arc<Vec<ApiResource>>,
    /// Owners that are only asked for by name.
    owners: Vec<ApiResource>,
    graph: Arc<Mutex<Graph>>,
}

impl GarbageCollector {
    /// Collects objects of these resources, all of which the API server must serve.
    pub fn new(resources: Vec<ApiResource>) -> Self {
        use k8s_openapi::api::core::v1::{Namespace, Node as ClusterNode};
        Self {
            resources: Arc::new(resources),
            owners: vec![resource_of::<ClusterNode>(), resource_of::<Namespace>()],
            graph: Arc::default(),
        }
    }

    fn resource_of(&self, owner: &OwnerReference) -> Option<&ApiResource> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        self.resources.iter().chain(&self.owners).find(|r| r.kind == owner.kind && r.group == group)
    }

    /// What has become of an owner. The cache can only tell that it exists; that it does not, the API has to say.
    async fn owner_state(&self, ctx: &Context, namespace: &str, owner: &OwnerReference, live: bool) -> Result<OwnerState, ApiError> {
        // Of a kind that is not known here nothing can be said.
        let Some(resource) = self.resource_of(owner) else { return Ok(OwnerState::Solid) };
        let cluster = CLUSTER_SCOPED.contains(&(resource.group.as_str(), resource.kind.as_str()));
        let object = ObjectRef::new(if cluster { "" } else { namespace }, owner.name.as_str());
        let state = |meta: &ObjectMeta| if is_waiting(meta) { OwnerState::Waiting } else { OwnerState::Solid };
        let is_it = |found: &Arc<Object>| found.meta().uid.as_deref() == Some(&owner.uid);
        if !live && self.resources.contains(resource) {
            let known = ctx.informers.informer(resource.clone(), Query::default()).get(&object).filter(is_it);
            if let Some(known) = known {
                return Ok(state(known.meta()));
            }
        }
        match ctx.api.get(&Target { resource: resource.clone(), object, subresource: "" }).await {
            Ok(found) if is_it(&found) => Ok(state(found.meta())),
            Ok(_) => Ok(OwnerState::Dangling),
            Err(error) if error.is_not_found() => Ok(OwnerState::Dangling),
            Err(error) => Err(error),
        }
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
        Some(Target { resource: self.resources.get(node.resource)?.clone(), object: node.object.clone(), subresource: "" })
    }

    fn dependents(&self, ctx: &Context, uid: &str) -> Vec<(Node, Arc<Object>)> {
        let nodes = self.graph.lock().dependents(uid);
        let read = |node: Node| {
            let resource = self.resources.get(node.resource)?.clone();
            let object = ctx.informers.informer(resource, Query::default()).get(&node.object)?;
            object.meta().owner_references.iter().flatten().any(|o| o.uid == uid).then_some((node, object))
        };
        nodes.into_iter().filter_map(read).collect()
    }

    /// An object that is being deleted: lets go of its dependents, or waits until those that block are gone.
    async fn finalize(&self, ctx: &Context, target: Target, live: &Object) -> Result<(), ApiError> {
        let meta = live.meta();
        let uid = meta.uid.as_deref().unwrap_or_default();
        if has_finalizer(meta, ORPHAN) {
            for (node, dependent) in self.dependents(ctx, uid) {
                let Some(target) = self.target(&node) else { continue };
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

#[async_trait]
impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn watches(&self) -> Vec<Watch> {
        let watch = |(index, resource): (usize, &ApiResource)| {
            let graph = self.graph.clone();
            let map = move |_: &Context, change: &wharf_core::informer::ObjectChange| {
                let concerned = graph.lock().observe(index, change.old.as_deref(), change.new.as_deref());
                concerned.iter().map(Node::to_key).collect()
            };
            Watch { resource: resource.clone(), map: Arc::new(map) }
        };
        self.resources.iter().enumerate().map(watch).collect()
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        let Some(node) = Node::from_key(key) else { return Ok(Action::Done) };
        let Some(target) = self.target(&node) else { return Ok(Action::Done) };
        let Some(cached) = ctx.informers.informer(target.resource.clone(), Query::default()).get(&node.object) else {
            return Ok(Action::Done);
        };
        let going = |meta: &ObjectMeta| meta.deletion_timestamp.is_some();
        if !going(cached.meta()) && self.states(ctx, cached.meta(), false).await?.iter().all(|s| *s == OwnerState::Solid) {
            return Ok(Action::Done);
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
                    .filter(|(_, s)| **s == OwnerState::Solid)
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
        Ok(Action::Done)
    }
}
