//! Deployments: rolling from one ReplicaSet to the next.

mod annotations;
mod decide;
mod limits;
mod status;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;
use wharf_core::api::{ApiError, ApiExt, DeleteParams, PatchKind, ref_of};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::events::EventType;
use wharf_core::object::ObjectRef;
use wharf_core::selector::Selector;

use self::annotations::REVISION;
pub use self::decide::{Plan, Step, decide};
use self::template::equal_ignore_hash;
use crate::owner::{claim, controller_of};

/// The deployment controller.
#[derive(Debug, Default)]
pub struct DeploymentController;

impl DeploymentController {
    /// One of its own.
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::primary::<Deployment>(), Watch::owned::<ReplicaSet, Deployment>()]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        let Some(deployment) = ctx.informers.of::<Deployment>().get(key) else { return Ok(Action::Done) };
        let Some(spec) = &deployment.spec else { return Ok(Action::Done) };
        let selector = Selector::from_object(&spec.selector).map_err(|e| ReconcileError::Terminal(Box::new(e)))?;
        let events = ctx.events.named("deployment-controller");
        if selector.is_everything() {
            events.event(
                &*deployment,
                EventType::Warning,
                "SelectingAll",
                "This deployment is selecting all pods. A non-empty selector is required.",
            );
            return Ok(Action::Done);
        }
        let sets = ctx.informers.of::<ReplicaSet>().list_in(&key.namespace);
        let sets = claim(&ctx.api, &*deployment, &selector, sets).await?;
        let mut plan = decide(&deployment, &sets, ctx.clock.now());
        for step in std::mem::take(&mut plan.steps) {
            carry_out(ctx, &deployment, &mut plan, step).await?;
        }
        write_back(ctx, &deployment, &plan).await?;
        Ok(plan.requeue.map_or(Action::Done, Action::RequeueAfter))
    }
}

async fn carry_out(ctx: &Context, deployment: &Arc<Deployment>, plan: &mut Plan, step: Step) -> Result<(), ReconcileError> {
    let events = ctx.events.named("deployment-controller");
    match step {
        Step::Create(set) => {
            let name = set.metadata.name.clone().unwrap_or_default();
            let size = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
            match ctx.api.create(&*set).await {
                Ok(_) => {
                    if size > 0 {
                        let message = format!("Scaled up replica set {name} from 0 to {size}");
                        events.event(&**deployment, EventType::Normal, "ScalingReplicaSet", message);
                    }
                }
                Err(error) if error.is_already_exists() => return collided(ctx, deployment, &set).await,
                Err(error) if error.is_namespace_terminating() => {}
                Err(error @ ApiError::Status(_)) => {
                    let message = format!("Failed to create new replica set \"{name}\": {error}");
                    events.event(&**deployment, EventType::Warning, "ReplicaSetCreateError", message.clone());
                    let now = ctx.clock.now();
                    let status = &mut plan.status;
                    status::set_condition(status, status::PROGRESSING, "False", "ReplicaSetCreateError", message, now, false);
                    write_back(ctx, deployment, plan).await?;
                    return Err(error.into());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Step::Update { set, from } => {
            let name = set.metadata.name.clone().unwrap_or_default();
            let to = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
            ctx.api.update(&*set).await?;
            if from != to {
                let direction = if to > from { "up" } else { "down" };
                let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
                events.event(&**deployment, EventType::Normal, "ScalingReplicaSet", message);
            }
        }
        Step::Delete(set) => {
            let params = DeleteParams {
                uid: set.metadata.uid.clone(),
                resource_version: set.metadata.resource_version.clone(),
                ..DeleteParams::default()
            };
            ctx.api.delete::<ReplicaSet>(&ref_of(&*set), params).await?;
        }
    }
    Ok(())
}

/// A ReplicaSet of this name exists. Either the cache is behind and it is ours, or two templates have one hash.
async fn collided(ctx: &Context, deployment: &Arc<Deployment>, wanted: &ReplicaSet) -> Result<(), ReconcileError> {
    let Some(live) = ctx.api.get_opt::<ReplicaSet>(&ref_of(wanted)).await? else {
        return Err(ReconcileError::Retry("a replica set went away meanwhile".into()));
    };
    let ours = controller_of(&*live).is_some_and(|c| Some(&c.uid) == deployment.metadata.uid.as_ref());
    let template = |set: &ReplicaSet| set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    if ours && equal_ignore_hash(&template(&live), &template(wanted)) {
        return Ok(());
    }
    let mut changed = (**deployment).clone();
    let status = changed.status.get_or_insert_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    ctx.api.update_status(&changed).await?;
    Err(ReconcileError::Retry("another template has the same hash".into()))
}

async fn write_back(ctx: &Context, deployment: &Arc<Deployment>, plan: &Plan) -> Result<(), ReconcileError> {
    let mut latest = deployment.clone();
    let known = deployment.metadata.annotations.as_ref().and_then(|a| a.get(REVISION));
    if let Some(revision) = plan.revision.as_ref().filter(|r| Some(*r) != known) {
        let meta = &deployment.metadata;
        let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, "annotations": {REVISION: revision}}});
        latest = ctx.api.patch::<Deployment>(&ref_of(&**deployment), "", PatchKind::Merge, &patch).await?;
    }
    if deployment.status.as_ref() != Some(&plan.status) {
        let mut changed = (*latest).clone();
        changed.status = Some(plan.status.clone());
        ctx.api.update_status(&changed).await?;
    }
    Ok(())
}
