//! The life of nodes: who falls silent is marked, and what may not stay there is moved.

pub mod heartbeat;
pub mod taints;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use wharf_core::api::{ApiExt, DeleteParams, ref_of};
use wharf_core::controller::{Action, Context, Controller, ReconcileError, Watch};
use wharf_core::events::EventType;
use wharf_core::object::ObjectRef;

use self::heartbeat::Pulse;
use crate::pods::{is_active, is_finished, is_ready};

/// The namespace of the nodes' leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

#[derive(Debug)]
struct Heard {
    pulse: Pulse,
    /// By this process's own clock: the node's may be wrong.
    at: Duration,
}

/// The node lifecycle controller.
#[derive(Debug, Default)]
pub struct NodeLifecycleController {
    heard: Mutex<HashMap<ObjectRef, Heard>>,
}

impl NodeLifecycleController {
    /// One of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// How much longer a node may be silent.
    fn listen(&self, key: &ObjectRef, pulse: Pulse, now: Duration) -> Duration {
        let mut heard = self.heard.lock();
        let last = heard.entry(key.clone()).or_insert_with(|| Heard { pulse: pulse.clone(), at: now });
        if last.pulse != pulse {
            *last = Heard { pulse, at: now };
        }
        last.pulse.grace().saturating_sub(now.saturating_sub(last.at))
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

fn pods_on(ctx: &Context, node: &str) -> Vec<Arc<Pod>> {
    let mut pods = ctx.informers.of::<Pod>().list();
    pods.retain(|p| node_of(p) == Some(node));
    pods
}

#[async_trait]
impl Controller for NodeLifecycleController {
    fn name(&self) -> &'static str {
        "node-lifecycle"
    }

    fn watches(&self) -> Vec<Watch> {
        let leases = Watch::mapped::<Lease>(|_, change| {
            let key = change.latest().key();
            if &*key.namespace == LEASE_NAMESPACE { vec![ObjectRef::new("", key.name.clone())] } else { Vec::new() }
        });
        let pods = Watch::mapped::<Pod>(|ctx, change| {
            let Some(pod) = change.new.as_ref().and_then(|o| o.decode::<Pod>().ok()) else { return Vec::new() };
            let Some(key) = node_of(&pod).map(|name| ObjectRef::new("", name)) else { return Vec::new() };
            let node = ctx.informers.of::<Node>().get(&key);
            // A pod concerns its node only where something drives pods away.
            if node.is_some_and(|n| !taints::no_execute(&n).is_empty()) { vec![key] } else { Vec::new() }
        });
        vec![Watch::primary::<Node>(), leases, pods]
    }

    async fn reconcile(&self, ctx: &Context, key: &ObjectRef) -> Result<Action, ReconcileError> {
        let Some(mut node) = ctx.informers.of::<Node>().get(key) else {
            self.heard.lock().remove(key);
            return Ok(Action::Done);
        };
        let lease = ctx.informers.of::<Lease>().get(&ObjectRef::new(LEASE_NAMESPACE, key.name.clone()));
        let left = self.listen(key, Pulse::of(&node, lease.as_deref()), ctx.clock.monotonic());
        let mut next = Some(left).filter(|l| !l.is_zero());
        if left.is_zero() {
            if let Some(conditions) = heartbeat::silent(&node, ctx.clock.now()) {
                let was_ready = heartbeat::ready(&node) == Some("True");
                let mut changed = (*node).clone();
                changed.status.get_or_insert_default().conditions = Some(conditions);
                node = ctx.api.update_status(&changed).await?;
                if was_ready {
                    let message = format!("Node {} status is now: NodeNotReady", key.name);
                    ctx.events.named("node-controller").event(&*node, EventType::Normal, "NodeNotReady", message);
                }
            }
            self.mark_pods(ctx, key).await?;
        }
        if let Some(taints) = taints::wanted(&node, ctx.clock.now()) {
            let mut changed = (*node).clone();
            changed.spec.get_or_insert_default().taints = Some(taints).filter(|t| !t.is_empty());
            node = ctx.api.update(&changed).await?;
        }
        if let Some(due) = self.evict(ctx, &node).await? {
            next = Some(next.map_or(due, |n| n.min(due)));
        }
        Ok(next.map_or(Action::Done, Action::RequeueAfter))
    }
}

impl NodeLifecycleController {
    /// Pods of a silent node cannot be relied on: they are not ready.
    async fn mark_pods(&self, ctx: &Context, key: &ObjectRef) -> Result<(), ReconcileError> {
        for pod in pods_on(ctx, &key.name).iter().filter(|p| is_ready(p) && !is_finished(p)) {
            let mut changed = (**pod).clone();
            let conditions = changed.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten());
            for condition in conditions.filter(|c| c.type_ == "Ready") {
                condition.status = "False".into();
                condition.reason = Some("NodeNotReady".into());
                condition.last_transition_time = Some(Time(ctx.clock.now()));
            }
            match ctx.api.update_status(&changed).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
            ctx.events.named("node-controller").event(&**pod, EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    /// Deletes the pods that may not stay; answers when the next one may not.
    async fn evict(&self, ctx: &Context, node: &Node) -> Result<Option<Duration>, ReconcileError> {
        let taints = taints::no_execute(node);
        if taints.is_empty() {
            return Ok(None);
        }
        let mut next: Option<Duration> = None;
        for pod in pods_on(ctx, node.metadata.name.as_deref().unwrap_or_default()).iter().filter(|p| is_active(p)) {
            match taints::may_stay(pod, &taints, ctx.clock.now()) {
                None => {}
                Some(Duration::ZERO) => {
                    let key = ref_of(&**pod);
                    let message = format!("Marking for deletion Pod {key}");
                    ctx.events.named("taint-eviction-controller").event(&**pod, EventType::Normal, "TaintManagerEviction", message);
                    let params = DeleteParams { uid: pod.metadata.uid.clone(), ..DeleteParams::default() };
                    match ctx.api.delete::<Pod>(&key, params).await {
                        Err(error) if error.is_conflict() => {}
                        other => other?,
                    }
                }
                Some(left) => next = Some(next.map_or(left, |n| n.min(left))),
            }
        }
        Ok(next)
    }
}
