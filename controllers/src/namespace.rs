//! Namespaces: what is in one goes before it does.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::ApiResource;
use wharf_core::api::{ApiError, ApiExt, DeleteParams, Propagation, Query, SharedApi, Target, Verb, Write};
use wharf_core::controller::custom::{CustomResource, definitions};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::object::{Object, ObjectRef};

/// How soon to look again while objects of the namespace are still going.
pub const RECHECK: Duration = Duration::from_secs(1);
/// The finalizer in `spec.finalizers` that stands for this controller.
const FINALIZER: &str = "kubernetes";
/// Most deletions under way at once.
const PARALLEL: usize = 16;

/// The namespace controller.
#[derive(Debug)]
pub struct NamespaceController {
    resources: Vec<ApiResource>,
}

impl NamespaceController {
    /// Empties namespaces of the objects of custom resources, and then of these, in this order.
    pub fn new(resources: Vec<ApiResource>) -> Self {
        Self { resources }
    }
}

impl Default for NamespaceController {
    fn default() -> Self {
        Self::new(crate::resources::namespaced())
    }
}

/// What was found in a namespace that is being deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// How many objects of which resource are left.
    pub left: Vec<(String, usize)>,
    /// Finalizers that they wait for, and on how many objects.
    pub finalizers: Vec<(String, usize)>,
    /// What could not be deleted.
    pub failures: Vec<String>,
}

impl Content {
    fn note(&mut self, resource: &ApiResource, objects: &[Arc<Object>]) {
        if objects.is_empty() {
            return;
        }
        let name = if resource.group.is_empty() { resource.plural.clone() } else { format!("{}.{}", resource.plural, resource.group) };
        self.left.push((name, objects.len()));
        for finalizer in objects.iter().flat_map(|o| o.meta().finalizers.iter().flatten()) {
            match self.finalizers.iter_mut().find(|(f, _)| f == finalizer) {
                Some((_, count)) => *count += 1,
                None => self.finalizers.push((finalizer.clone(), 1)),
            }
        }
    }
    fn is_empty(&self) -> bool {
        self.left.is_empty() && self.failures.is_empty()
    }
}

/// The status of a namespace that is being deleted.
pub fn status(old: Option<&NamespaceStatus>, content: &Content, now: Timestamp) -> NamespaceStatus {
    let counted = |list: &[(String, usize)], what: &str| {
        list.iter().map(|(name, count)| format!("{name} {what} {count} resource instances")).collect::<Vec<_>>().join(", ")
    };
    let condition = |name: &str, holds: bool, reasons: (&str, &str), messages: (String, &str)| {
        let status = if holds { "True" } else { "False" };
        let known = old.and_then(|o| o.conditions.as_deref()).into_iter().flatten().find(|c| c.type_ == name && c.status == status);
        NamespaceCondition {
            type_: name.into(),
            status: status.into(),
            reason: Some(if holds { reasons.0 } else { reasons.1 }.into()),
            message: Some(if holds { messages.0 } else { messages.1.into() }),
            last_transition_time: known.and_then(|c| c.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    let conditions = vec![
        condition(
            "NamespaceDeletionDiscoveryFailure",
            false,
            ("", "ResourcesDiscovered"),
            (String::new(), "All resources successfully discovered"),
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            false,
            ("", "ParsedGroupVersions"),
            (String::new(), "All legacy kube types successfully parsed"),
        ),
        condition(
            "NamespaceDeletionContentFailure",
            !content.failures.is_empty(),
            ("ContentDeletionFailed", "ContentDeleted"),
            (
                format!("Failed to delete all resource types, {} remaining: {}", content.failures.len(), content.failures.join(", ")),
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        condition(
            "NamespaceContentRemaining",
            !content.left.is_empty(),
            ("SomeResourcesRemain", "ContentRemoved"),
            (format!("Some resources are remaining: {}", counted(&content.left, "has")), "All content successfully removed"),
        ),
        condition(
            "NamespaceFinalizersRemaining",
            !content.finalizers.is_empty(),
            ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
            (
                format!("Some content in the namespace has finalizers remaining: {}", counted(&content.finalizers, "in")),
                "All content-preserving finalizers finished",
            ),
        ),
    ];
    NamespaceStatus { phase: Some("Terminating".into()), conditions: Some(conditions) }
}

#[async_trait]
impl Controller for NamespaceController {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::primary::<Namespace>()]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        let Some(cached) = ctx.informers.of::<Namespace>().get(key) else { return Ok(Action::Done) };
        if cached.metadata.deletion_timestamp.is_none() {
            return Ok(Action::Done);
        }
        let Some(mut namespace) = ctx.api.get_opt::<Namespace>(key).await? else { return Ok(Action::Done) };
        if namespace.metadata.deletion_timestamp.is_none() || namespace.metadata.uid != cached.metadata.uid {
            return Ok(Action::Done);
        }
        let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(Action::Done);
        }
        if namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
            // From here on the API server refuses new content: what is found afterwards is all there is.
            let mut changed = (*namespace).clone();
            changed.status.get_or_insert_default().phase = Some("Terminating".into());
            namespace = ctx.api.update_status(&changed).await?;
        }
        let mut content = Content::default();
        // From the API itself: a definition that a cache has not seen yet may have objects here.
        let definitions = ctx.api.list(&definitions(), &Query::default()).await?.items;
        let custom = definitions.iter().filter_map(|d| CustomResource::of(d)).filter(|c| c.namespaced).map(|c| c.resource);
        for resource in custom.collect::<Vec<_>>().iter().chain(&self.resources) {
            match empty(&ctx.api, resource, &key.name).await {
                Ok(left) => content.note(resource, &left),
                // The API server does not serve it, so that there is none.
                Err(error) if error.is_not_found() || error.code() == Some(405) => {}
                Err(error) => content.failures.push(error.to_string()),
            }
        }
        let wanted = status(namespace.status.as_ref(), &content, ctx.clock.now());
        if namespace.status.as_ref() != Some(&wanted) {
            let mut changed = (*namespace).clone();
            changed.status = Some(wanted);
            namespace = ctx.api.update_status(&changed).await?;
        }
        if !content.is_empty() {
            return Ok(Action::RequeueAfter(RECHECK));
        }
        let mut changed = (*namespace).clone();
        changed.spec.get_or_insert_default().finalizers = Some(finalizers.into_iter().filter(|f| f != FINALIZER).collect());
        let body = serde_json::to_vec(&changed).map_err(|e| ReconcileError::Terminal(Box::new(e)))?;
        let target = Target::of::<Namespace>(key.clone()).sub("finalize");
        match ctx.api.write(Write { target, verb: Verb::Update(body.into()), field_manager: String::new() }).await {
            Err(error) if error.is_not_found() => Ok(Action::Done),
            other => Ok(other.map(|_| Action::Done)?),
        }
    }
}

/// Deletes every object of a resource in a namespace; answers what is left.
async fn empty(api: &SharedApi, resource: &ApiResource, namespace: &str) -> Result<Vec<Arc<Object>>, ApiError> {
    use futures::{StreamExt, TryStreamExt};
    let query = Query { namespace: Some(namespace.into()), ..Query::default() };
    let found = api.list(resource, &query).await?.items;
    if found.is_empty() {
        return Ok(found);
    }
    let going = found.iter().filter(|o| o.meta().deletion_timestamp.is_none()).map(|object| async move {
        let params = DeleteParams { propagation: Some(Propagation::Background), uid: object.meta().uid.clone(), ..DeleteParams::default() };
        let target = Target { resource: resource.clone(), object: object.object_ref(), subresource: "" };
        match api.write(Write { target, verb: Verb::Delete(params), field_manager: String::new() }).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    });
    futures::stream::iter(going.collect::<Vec<_>>()).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    Ok(api.list(resource, &query).await?.items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_says_what_is_left_and_keeps_its_times() {
        let (first, second) = (Timestamp::UNIX_EPOCH, Timestamp::constant(60, 0));
        let content = Content { left: vec![("pods".into(), 2)], finalizers: vec![("x/y".into(), 1)], failures: vec![] };
        let one = status(None, &content, first);
        assert_eq!(one.phase.as_deref(), Some("Terminating"));
        let find = |s: &NamespaceStatus, name: &str| s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == name).cloned().unwrap();
        let left = find(&one, "NamespaceContentRemaining");
        assert_eq!(left.message.as_deref(), Some("Some resources are remaining: pods has 2 resource instances"));
        assert_eq!(status(Some(&one), &content, second), one, "a status that says the same is the same");
        let done = status(Some(&one), &Content::default(), second);
        assert_eq!(find(&done, "NamespaceContentRemaining").status, "False");
        assert_eq!(find(&done, "NamespaceContentRemaining").last_transition_time, Some(Time(second)));
    }
}
