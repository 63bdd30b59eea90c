//! Pods that nobody else removes: on nodes that are gone, ended long ago, or going without ever having had a node.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use wharf_core::api::{ApiExt, DeleteParams, ref_of};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::object::ObjectRef;

use crate::pods::{is_finished, is_terminating};

/// How many ended pods are kept.
pub const TERMINATED_THRESHOLD: usize = 12_500;
/// How long a node must have been missing before its pods go.
pub const NODE_QUARANTINE: Duration = Duration::from_secs(40);
/// The key that stands for all ended pods; no object has this name.
const ENDED: &str = "/ended";

/// The pod garbage collector.
#[derive(Debug)]
pub struct PodGarbageCollector {
    threshold: usize,
    /// When a node was first found missing; an entry goes with its last pod's reconcile or when the node is back.
    missing: Mutex<HashMap<String, Duration>>,
}

impl Default for PodGarbageCollector {
    fn default() -> Self {
        Self::new(TERMINATED_THRESHOLD)
    }
}

impl PodGarbageCollector {
    /// Keeps this many ended pods.
    pub fn new(threshold: usize) -> Self {
        Self { threshold, missing: Mutex::default() }
    }

    async fn remove(&self, ctx: &Context, pod: &Pod) -> Result<(), ReconcileError> {
        // No node agent is there to confirm: the grace period is over at once.
        let params = DeleteParams { grace_period_seconds: Some(0), uid: pod.metadata.uid.clone(), ..DeleteParams::default() };
        match ctx.api.delete::<Pod>(&ref_of(pod), params).await {
            Err(error) if error.is_conflict() => Ok(()),
            other => Ok(other?),
        }
    }

    async fn ended(&self, ctx: &Context) -> Result<Action, ReconcileError> {
        let mut ended = ctx.informers.of::<Pod>().list();
        ended.retain(|p| is_finished(p) && !is_terminating(p));
        let Some(excess) = ended.len().checked_sub(self.threshold).filter(|n| *n > 0) else { return Ok(Action::Done) };
        ended.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
        for pod in ended.iter().take(excess) {
            self.remove(ctx, pod).await?;
        }
        Ok(Action::Done)
    }

    /// How much longer a node has to be missing; `None` if it is there.
    async fn missing_for(&self, ctx: &Context, name: &str) -> Result<Option<Duration>, ReconcileError> {
        let key = ObjectRef::new("", name);
        if ctx.informers.of::<Node>().get(&key).is_some() {
            self.missing.lock().remove(name);
            return Ok(None);
        }
        let now = ctx.clock.monotonic();
        let since = *self.missing.lock().entry(name.into()).or_insert(now);
        let left = NODE_QUARANTINE.saturating_sub(now.saturating_sub(since));
        // Before anything is removed the API itself has to say that the node does not exist.
        if left.is_zero() && ctx.api.get_opt::<Node>(&key).await?.is_some() {
            self.missing.lock().remove(name);
            return Ok(None);
        }
        Ok(Some(left))
    }
}

#[async_trait]
impl Controller for PodGarbageCollector {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn watches(&self) -> Vec<Watch> {
        let pods = Watch::mapped::<Pod>(|_, change| {
            let Some(new) = &change.new else { return Vec::new() };
            let mut keys = vec![new.object_ref()];
            if new.decode::<Pod>().is_ok_and(|p| is_finished(&p)) {
                keys.push(ObjectRef::new("", ENDED));
            }
            keys
        });
        let nodes = Watch::mapped::<Node>(|ctx, change| {
            if change.new.is_some() {
                return Vec::new();
            }
            let name = &change.latest().key().name;
            let on_it = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(name);
            ctx.informers.of::<Pod>().list().iter().filter(|p| on_it(p)).map(|p| ref_of(&**p)).collect()
        });
        vec![pods, nodes]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        if &*key.name == ENDED {
            return self.ended(ctx).await;
        }
        let Some(pod) = ctx.informers.of::<Pod>().get(key) else { return Ok(Action::Done) };
        match pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|n| !n.is_empty()) {
            None if is_terminating(&pod) => self.remove(ctx, &pod).await?,
            None => {}
            Some(node) => match self.missing_for(ctx, node).await? {
                None => {}
                Some(Duration::ZERO) => self.remove(ctx, &pod).await?,
                Some(left) => return Ok(Action::RequeueAfter(left)),
            },
        }
        Ok(Action::Done)
    }
}
