//! ReplicaSets: a number of equal pods.

mod decide;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use wharf_core::api::{ApiError, ApiExt, DeleteParams, ref_of};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::events::EventType;
use wharf_core::informer::ObjectChange;
use wharf_core::object::ObjectRef;
use wharf_core::selector::Selector;

pub use self::decide::{BURST, DELETION_COST, Step, decide, status};
use crate::freshness::{EXPECTATION_RETRY, Freshness};
use crate::owner::{claim, controller_of, controller_reference};
use crate::pods;

/// Pods in the first batch of creations; each batch that succeeds doubles it.
const FIRST_BATCH: usize = 1;

/// The replicaset controller.
#[derive(Debug, Default)]
pub struct ReplicaSetController {
    created: Arc<Freshness>,
    /// Uids per key whose deletion was asked for, until the cache shows it.
    deleted: Mutex<HashMap<ObjectRef, HashSet<String>>>,
}

impl ReplicaSetController {
    /// One of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is still to be seen going, of what was deleted.
    fn going(&self, key: &ObjectRef, pods: &[Arc<Pod>]) -> HashSet<String> {
        let mut deleted = self.deleted.lock();
        let Some(uids) = deleted.get_mut(key) else { return HashSet::new() };
        let standing: HashSet<&String> = pods.iter().filter(|p| !pods::is_terminating(p)).filter_map(|p| p.metadata.uid.as_ref()).collect();
        uids.retain(|uid| standing.contains(uid));
        let left = uids.clone();
        if left.is_empty() {
            deleted.remove(key);
        }
        left
    }

    fn forget(&self, key: &ObjectRef) {
        self.created.forget(key);
        self.deleted.lock().remove(key);
    }
}

/// The ReplicaSets that a pod concerns: its controller's, before and after; for a pod without one, all that select it.
fn concerned(ctx: &Context, change: &ObjectChange) -> Vec<ObjectRef> {
    let mut keys = Vec::new();
    for side in change.old.iter().chain(change.new.iter()) {
        match side.controller_of() {
            Some(owner) if owner.kind == "ReplicaSet" => keys.push(ObjectRef::new(side.key().namespace.clone(), owner.name.as_str())),
            Some(_) => {}
            None => {
                for set in ctx.informers.of::<ReplicaSet>().list_in(&side.key().namespace) {
                    let selector = set.spec.as_ref().and_then(|s| Selector::from_object(&s.selector).ok());
                    if selector.is_some_and(|s| !s.is_everything() && s.matches_opt(side.meta().labels.as_ref())) {
                        keys.push(ref_of(&*set));
                    }
                }
            }
        }
    }
    keys.sort();
    keys.dedup();
    keys
}

#[async_trait]
impl Controller for ReplicaSetController {
    fn name(&self) -> &'static str {
        "replicaset"
    }

    fn watches(&self) -> Vec<Watch> {
        let created = self.created.clone();
        let pods = Watch::mapped::<Pod>(move |ctx, change| {
            created.observe(change);
            concerned(ctx, change)
        });
        vec![Watch::primary::<ReplicaSet>(), pods]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        let Some(set) = ctx.informers.of::<ReplicaSet>().get(key) else {
            self.forget(key);
            return Ok(Action::Done);
        };
        let Some(spec) = &set.spec else { return Ok(Action::Done) };
        let selector = Selector::from_object(&spec.selector).map_err(|e| ReconcileError::Terminal(Box::new(e)))?;
        if selector.is_everything() {
            return Ok(Action::Done);
        }
        // Asked before the cache is read: what is read then is at least as new.
        let fresh = self.created.is_fresh(&*ctx.clock, key);
        let all = ctx.informers.of::<Pod>().list_in(&key.namespace);
        let alive = all.into_iter().filter(|p| !pods::is_finished(p) || controller_of(&**p).is_some()).collect();
        let claimed = claim(&ctx.api, &*set, &selector, alive).await?;
        let going = self.going(key, &claimed);
        let mut failure = None;
        if fresh {
            let outcome = match decide(&set, &claimed, &going, &related(ctx, &set)) {
                Step::Nothing => Ok(()),
                Step::Create(count) => self.create(ctx, key, &set, count).await.map_err(|e| ("FailedCreate", e)),
                Step::Delete(pods) => self.delete(ctx, key, &set, pods).await.map_err(|e| ("FailedDelete", e)),
            };
            failure = outcome.err();
        }
        let told = failure.as_ref().map(|(reason, error)| (*reason, error.to_string()));
        let (status, soonest) = status(&set, &claimed, told, ctx.clock.now());
        if set.status.as_ref() != Some(&status) {
            let mut changed = (*set).clone();
            changed.status = Some(status);
            ctx.api.update_status(&changed).await?;
        }
        match failure {
            Some((_, error)) => Err(error.into()),
            None if !fresh => Ok(Action::RequeueAfter(EXPECTATION_RETRY)),
            None => Ok(soonest.map_or(Action::Done, Action::RequeueAfter)),
        }
    }
}

/// Pods of all ReplicaSets with the same controller: the more of them on a node, the sooner one goes.
fn related(ctx: &Context, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let pods = ctx.informers.of::<Pod>();
    let siblings = match controller_of(set) {
        Some(owner) => ctx.informers.of::<ReplicaSet>().owned_by(&owner.uid),
        None => vec![Arc::new(set.clone())],
    };
    siblings.iter().filter_map(|s| s.metadata.uid.as_ref()).flat_map(|uid| pods.owned_by(uid)).collect()
}

impl ReplicaSetController {
    async fn create(&self, ctx: &Context, key: &ObjectRef, set: &ReplicaSet, count: usize) -> Result<(), ApiError> {
        let events = ctx.events.named("replicaset-controller");
        let Some(template) = set.spec.as_ref().and_then(|s| s.template.as_ref()) else { return Ok(()) };
        let meta = template.metadata.clone().unwrap_or_default();
        let pod = Pod {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", key.name)),
                namespace: set.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: meta.annotations,
                finalizers: meta.finalizers,
                owner_references: Some(vec![controller_reference(set)]),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        };
        let (mut left, mut batch) = (count, FIRST_BATCH);
        while left > 0 {
            let size = batch.min(left);
            // A quota or an admission that refuses is found with one call, not with hundreds.
            let answers = join_all((0..size).map(|_| ctx.api.create(&pod))).await;
            let mut failed = None;
            for answer in answers {
                match answer {
                    Ok(created) => {
                        self.created.wrote(&*ctx.clock, key, &*created);
                        let name = created.metadata.name.as_deref().unwrap_or_default();
                        events.event(set, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                if error.is_namespace_terminating() {
                    return Ok(());
                }
                events.event(set, EventType::Warning, "FailedCreate", format!("Error creating: {error}"));
                return Err(error);
            }
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, ctx: &Context, key: &ObjectRef, set: &ReplicaSet, pods: Vec<Arc<Pod>>) -> Result<(), ApiError> {
        let events = ctx.events.named("replicaset-controller");
        let answers = join_all(pods.iter().map(|pod| async move {
            let params = DeleteParams { uid: pod.metadata.uid.clone(), ..DeleteParams::default() };
            // A conflict is no proof that it is gone: the next look at the cache tells.
            ctx.api.delete::<Pod>(&ref_of(&**pod), params).await.map(|()| pod)
        }))
        .await;
        let mut failed = None;
        for answer in answers {
            match answer {
                Ok(pod) => {
                    self.deleted.lock().entry(key.clone()).or_default().extend(pod.metadata.uid.clone());
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    events.event(set, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                }
                Err(error) => {
                    events.event(set, EventType::Warning, "FailedDelete", format!("Error deleting: {error}"));
                    failed = Some(error);
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
